"Laws of the transforms: picture and labels move together, there and back."
import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from yolo_nas_pose.core import affine
from yolo_nas_pose.core.draw import draw_points
from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, SKELETONS
from yolo_nas_pose.core.structures import PoseSample
from yolo_nas_pose.core.toy import toy_scene
from yolo_nas_pose.data.transforms import (ColourJitter, Compose, HorizontalFlip, Letterbox, RandomAffine, TrainTransform,
                                           change_light, clip, mirrors, move, move_labels, remove, shift_hsv)

settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("quick")

seeds = st.integers(0, 10_000)
sides = st.integers(8, 200)
kinds = st.sampled_from(["people", "animals"])


def chance(seed):
    return np.random.default_rng(seed)


def one_dot(x, y, size, skeleton=COCO17, joint=9):
    "A grey image of the colour of the padding with one white disc, and one person whose joint it is."
    joints = np.zeros((1, skeleton.num_joints, 3), np.float32)
    joints[0, joint] = x, y, 2
    image = draw_points(np.full((*size, 3), 127, np.uint8), np.array([[x, y]]), (255, 255, 255), 5)
    box = np.array([[x - 10, y - 10, x + 10, y + 10]], np.float32)
    return PoseSample(image, box, joints, np.array([400], np.float32), np.array([False]))


def bright_place(image):
    "Centre of what is brighter than the padding; pixel centres lie at halves."
    weight = np.maximum(image[..., 0].astype(float) - 127, 0)
    y, x = np.mgrid[:image.shape[0], :image.shape[1]] + .5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@given(seeds, kinds, sides, sides)
def test_flip_twice_is_identity(seed, kind, height, width):
    scene = toy_scene(seed, (height, width), kind)
    flip = HorizontalFlip((COCO17 if kind == "people" else ANIMALPOSE20).mirror, p=1)
    once, twice = flip(scene, chance(0)), flip(flip(scene, chance(0)), chance(1))
    assert_array_equal(once.image, scene.image[:, ::-1])
    assert_array_equal(twice.image, scene.image)
    for name in ("boxes", "joints", "areas", "crowd"):
        assert_allclose(getattr(twice, name), getattr(scene, name), atol=1e-3)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_flip_swaps_names_and_keeps_flags_with_their_places(skeleton):
    rng = chance(3)
    joints = np.concatenate([rng.uniform(0, 50, (2, skeleton.num_joints, 2)), rng.integers(0, 3, (2, skeleton.num_joints, 1))], -1)
    sample = PoseSample(np.zeros((50, 50, 3), np.uint8), np.zeros((2, 4)), joints.astype(np.float32), np.ones(2), np.zeros(2, bool))
    flipped = HorizontalFlip(skeleton.mirror, p=1)(sample, rng).joints
    paired = dict([*skeleton.mirror_pairs, *[pair[::-1] for pair in skeleton.mirror_pairs]])
    for joint in range(skeleton.num_joints):
        x, y, flag = sample.joints[:, paired.get(joint, joint)].T
        assert_allclose(flipped[:, joint].T, [50 - x, y, flag], atol=1e-4)


@given(seeds, seeds, kinds)
def test_map_and_inverse_bring_labels_back(seed, draw, kind):
    scene = toy_scene(seed, 96, kind)
    mirror = (COCO17 if kind == "people" else ANIMALPOSE20).mirror
    map = affine.compose(HorizontalFlip(mirror, .5).draw((96, 96), chance(draw)),
                         RandomAffine(90, (.2, 3), .4, 1).draw((96, 96), chance(draw)))
    there = move_labels(scene, map, mirror)
    back = move_labels(there, affine.invert(map), mirror)
    assert mirrors(map) == mirrors(affine.invert(map))
    assert_allclose(back.joints, scene.joints, atol=2e-3)
    assert_allclose(back.areas, scene.areas, rtol=1e-4)
    assert (back.boxes[:, :2] <= scene.boxes[:, :2] + 2e-3).all() and (back.boxes[:, 2:] >= scene.boxes[:, 2:] - 2e-3).all()


@given(st.floats(20, 140), st.floats(20, 100), seeds, st.sampled_from(["center", "bottom_right"]))
def test_a_dot_painted_before_lies_at_the_joint_moved_after(x, y, seed, place):
    sample = one_dot(x, y, (120, 160))
    transform = TrainTransform(192, COCO17, rotation=40, place=place, affine_p=.9, colour=None, keep_unlabelled=True)
    moved, map = transform.with_map(sample, chance(seed))
    expected = affine.apply(map, np.array([x, y]))
    assume(((expected > 14) & (expected < 178)).all())
    joint = COCO17.mirror[9] if mirrors(map) else 9
    assert moved.joints[0, :, 2].nonzero()[0].tolist() == [joint]
    assert_allclose(moved.joints[0, joint, :2], expected, atol=1e-3)
    assert_allclose(bright_place(moved.image), expected, atol=.12)


@given(st.integers(20, 200), st.integers(20, 200), st.sampled_from([64, 96, (96, 128)]), seeds)
def test_what_chance_leaves_alone_lies_where_prediction_puts_it(height, width, size, seed):
    sample = one_dot(10, 10, (height, width))
    map = TrainTransform(size, COCO17, flip=0, affine_p=0).with_map(sample, chance(seed))[1]
    assert map.tolist() == affine.letterbox_map(height, width, size)[0].tolist()


@given(st.floats(20, 140), st.floats(20, 100), seeds)
def test_dots_stay_at_their_joints_step_by_step(x, y, seed):
    sample, rng = one_dot(x, y, (120, 160)), chance(seed)
    steps = Compose((HorizontalFlip(COCO17.mirror), RandomAffine(20, (.7, 1.2)), Letterbox(160, "center")))
    moved = steps(sample, rng)
    joint = moved.joints[0][moved.joints[0, :, 2] > 0]
    assume(len(joint) == 1 and ((joint[0, :2] > (14, 34)) & (joint[0, :2] < (146, 126))).all())
    assert_allclose(bright_place(moved.image), joint[0, :2], atol=.15)


@given(st.floats(20, 140), st.floats(20, 100), st.sampled_from([64, 96, 320, 640, (96, 256)]), st.sampled_from(["predict", "train"]),
       st.sampled_from(["center", "bottom_right"]))
def test_letterbox_moves_the_dot_with_its_joint(x, y, size, rounding, place):
    moved, map = Letterbox(size, place, rounding).with_map(one_dot(x, y, (120, 160)))
    assert_allclose(affine.apply(affine.invert(map), moved.joints[0, 9, :2].astype(float)), [x, y], atol=1e-3)
    assert_allclose(bright_place(moved.image), moved.joints[0, 9, :2], atol=.5)


def reference_letterbox(image, side, halves):
    "Longest side to `side`, then padding of 127 at the right and at the bottom."
    height, width = image.shape[:2]
    factor = min(side / height, side / width)
    new = [round(n * factor) if halves == "even" else int(n * factor + .5) for n in (height, width)]
    if factor != 1:
        image = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.copyMakeBorder(image, 0, side - new[0], 0, side - new[1], cv2.BORDER_CONSTANT, value=(127,) * 3), factor


@given(st.integers(20, 400), st.integers(20, 400), st.sampled_from([64, 160, 320]), st.sampled_from([("predict", "even"), ("train", "up")]))
def test_letterbox_is_that_of_the_reference(height, width, side, rounding):
    image = chance((height, width)).integers(0, 256, (height, width, 3), np.uint8)
    expected, factor = reference_letterbox(image, side, rounding[1])
    sample = PoseSample(image, np.array([[1, 2, 9, 8]], np.float32), np.ones((1, 17, 3), np.float32), np.ones(1, np.float32), np.zeros(1, bool))
    found, map = Letterbox(side, rounding=rounding[0]).with_map(sample)
    assert_array_equal(found.image, expected)
    assert_allclose(map, [[factor, 0, 0], [0, factor, 0]])
    assert_allclose(found.joints[..., :2], factor, rtol=1e-6)
    assert_allclose(found.areas, factor ** 2, rtol=1e-6)


def test_the_two_roundings_differ_where_a_side_ends_in_a_half():
    sample = PoseSample.empty(np.zeros((201, 640, 3), np.uint8), 17)
    rows = {rounding: int((Letterbox(320, rounding=rounding)(sample).image[:, 0, 0] != 127).sum()) for rounding in ("predict", "train")}
    assert rows == {"predict": 100, "train": 101}


@given(seeds, seeds, kinds)
def test_results_of_training_are_sound(seed, draw, kind):
    skeleton = COCO17 if kind == "people" else ANIMALPOSE20
    scene = toy_scene(seed, (80, 120), kind)
    before = [part.copy() for part in scene[:5]]
    transform = TrainTransform((64, 96), skeleton)
    result, again = transform(scene, chance(draw)), transform(scene, chance(draw))
    assert result.image.shape == (64, 96, 3) and result.image.dtype == np.uint8
    assert_array_equal(result.image, again.image)
    assert len({len(part) for part in result[1:5]}) == 1
    assert [part.dtype for part in result[1:5]] == [part.dtype for part in scene[1:5]]
    assert (result.boxes >= 0).all() and (result.boxes <= (96, 64, 96, 64)).all()
    assert (result.boxes[:, 2:] > result.boxes[:, :2]).all() and (result.areas >= 1).all()
    seen = result.joints[result.joints[..., 2] > 0]
    assert (seen[:, :2] >= 0).all() and (seen[:, :2] < (96, 64)).all()
    assert (result.joints[..., 2] > 0).any(-1).all() and set(np.unique(result.joints[..., 2])) <= {0, 1, 2}
    for part, old in zip(scene[:5], before):
        assert_array_equal(part, old)


@given(seeds, kinds)
def test_clip_and_remove_change_nothing_the_second_time(seed, kind):
    scene = toy_scene(seed, 64, kind)
    shifted = move(scene, affine.translate(25, -18), (64, 64))
    once = clip(shifted)
    for name in ("boxes", "joints", "areas"):
        assert_allclose(getattr(clip(once), name), getattr(once, name))
    assert (once.areas <= shifted.areas + 1e-3).all()
    assert_array_equal(remove(remove(once)).joints, remove(once).joints)
    assert len(remove(once)[1]) <= len(remove(once, keep_unlabelled=True)[1]) <= len(scene.boxes)


@given(seeds)
def test_transforms_without_strength_do_nothing(seed):
    scene = toy_scene(seed, 64)
    neutral = TrainTransform(64, COCO17, flip=0, rotation=0, scale=(1, 1), translation=0, affine_p=1, colour=None, keep_unlabelled=True, min_area=0)
    for step in (ColourJitter(0, 0, 0, 0, 0, 1), ColourJitter(p=0), HorizontalFlip(COCO17.mirror, 0), RandomAffine(p=0),
                 RandomAffine(0, (1, 1), 0, 1), neutral, Letterbox(64)):
        result = step(scene, chance(seed))
        difference = np.abs(result.image.astype(int) - scene.image)
        if isinstance(step, ColourJitter) and step.p:  # out of 8-bit hue and back is not exact
            assert difference.mean() < 4
        else:
            assert difference.max() == 0
        inside = scene.joints[..., 2:] * ((scene.joints[..., :2] >= 0) & (scene.joints[..., :2] < 64)).all(-1, keepdims=True)
        assert_allclose(result.joints[..., :2], scene.joints[..., :2], atol=1e-4)
        assert (result.joints[..., 2:] >= inside).all()


@given(st.floats(.5, 1.5), st.floats(.5, 1.5), seeds)
def test_light_is_the_formula_of_the_reference(brightness, contrast, seed):
    image = chance(seed).integers(0, 256, (9, 7, 3), np.uint8)
    mean = image.reshape(-1, 3).mean(0)
    expected = np.clip((image - mean) * contrast + mean * brightness, 0, 255)
    assert (np.abs(change_light(image, brightness, contrast) - np.floor(expected)) <= (np.abs(expected - expected.round()) < 1e-6)).all()


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-20, 20), seeds)
def test_hue_turns_and_the_rest_is_clipped(hue, saturation, value, seed):
    image = chance(seed).integers(0, 256, (9, 7, 3), np.uint8)
    colours = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(int) + (hue, saturation, value)
    colours = np.stack([colours[..., 0] % 180, *np.clip(colours[..., 1:], 0, 255).transpose(2, 0, 1)], -1).astype(np.uint8)
    assert_array_equal(shift_hsv(image, hue, saturation, value), cv2.cvtColor(colours, cv2.COLOR_HSV2BGR))


def test_an_altered_copy_leaves_the_original_alone():
    "All transforms of training are resized that way, for batches of many scales."
    from yolo_nas_pose.core.skeleton import COCO17
    from yolo_nas_pose.data.mosaic import MosaicTransform
    from yolo_nas_pose.data.reference import ReferenceTransform
    from yolo_nas_pose.data.transforms import TrainTransform
    single, reference = TrainTransform(64, COCO17), ReferenceTransform(64, COCO17)
    mosaic = MosaicTransform(single, COCO17)
    assert single.resized(96).size == (96, 96) and single.size == (64, 64)
    assert mosaic.resized(96).single.size == (96, 96) and mosaic.single.size == (64, 64) and mosaic.resized(96).chances == mosaic.chances
    assert reference.resized(96).fit.size == 96 and reference.fit.size == 64
