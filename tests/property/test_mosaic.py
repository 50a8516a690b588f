"Laws of mixing: every joint stays on its pixel, in its cell and with its person, and all depends on (seed, epoch, index) alone."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from yolo_nas_pose.core import affine
from yolo_nas_pose.core.draw import draw_points
from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17
from yolo_nas_pose.core.structures import PoseSample
from yolo_nas_pose.core.toy import ToyScenes, toy_scene
from yolo_nas_pose.data.loader import Batches, Samples, make_loader, sample_rng, scales
from yolo_nas_pose.data.mosaic import (MosaicTransform, blend, draw_centre, four_cells, hide, join, lay_tile, mixup, mosaic, outline,
                                       paste_people, slide)
from yolo_nas_pose.data.reference import PIPELINES, ReferenceTransform
from yolo_nas_pose.data.transforms import QuarterTurn, RandomAffine, TrainTransform, mirrors, move, move_labels, turned

settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("quick")

seeds = st.integers(0, 10_000)
sides = st.integers(40, 200)
WHITE = (255, 255, 255)


def chance(seed):
    return np.random.default_rng(seed)


def one_dot(x, y, size, joint=9):
    "A grey image of the colour of the padding with one white disc, and one person whose joint it is."
    joints = np.zeros((1, 17, 3), np.float32)
    joints[0, joint] = x, y, 2
    image = draw_points(np.full((*size, 3), 127, np.uint8), np.array([[x, y]]), WHITE, 5)
    return PoseSample(image, np.array([[x - 10, y - 10, x + 10, y + 10]], np.float32), joints, np.array([400], np.float32), np.array([False]))


def bright_place(image):
    "Centre of what is brighter than the padding; pixel centres lie at halves."
    weight = np.maximum(image[..., 0].astype(float) - 127, 0)
    y, x = np.mgrid[:image.shape[0], :image.shape[1]] + .5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@given(sides, sides, st.integers(-8, 8))
def test_four_quarter_turns_are_nothing_and_pixels_are_those_of_rot90(height, width, times):
    scene = toy_scene(3, (height, width))
    map = affine.quarter_turns(times, height, width)
    once = move(scene, map, turned((height, width), map))
    assert_array_equal(once.image, np.rot90(scene.image, times))
    back = affine.invert(map)
    again = move(once, back, (height, width))
    assert_array_equal(again.image, scene.image)
    for name in ("boxes", "joints", "areas"):
        assert_allclose(getattr(again, name), getattr(scene, name), atol=1e-3)


@given(seeds, st.integers(0, 3))
def test_lean_turn_and_inverse_bring_labels_back(seed, times):
    scene = toy_scene(seed % 50, 96)
    map = affine.compose(affine.quarter_turns(times, 96, 96), RandomAffine(40, (.4, 2), .3, 1, shear=25).draw((96, 96), chance(seed)))
    back = move_labels(move_labels(scene, map, None), affine.invert(map), None)
    assert not mirrors(map)
    assert_allclose(back.joints, scene.joints, atol=2e-3)
    assert_allclose(back.areas, scene.areas, rtol=1e-4)


@given(st.floats(20, 140), st.floats(20, 100), seeds)
def test_a_dot_stays_at_its_joint_through_all_geometry(x, y, seed):
    transform = TrainTransform(192, COCO17, rotation=30, colour=None, shear=20, quarter_turn=1, affine_p=1, keep_unlabelled=True)
    moved, map = transform.with_map(one_dot(x, y, (120, 160)), chance(seed))
    expected = affine.apply(map, np.array([x, y]))
    joint = COCO17.mirror[9] if mirrors(map) else 9
    if ((expected > 16) & (expected < 176)).all():
        assert_allclose(moved.joints[0, joint, :2], expected, atol=1e-3)
        assert moved.joints[0, joint, 2] == 2
        assert_allclose(bright_place(moved.image), expected, atol=.15)


@given(st.integers(0, 3), st.floats(.5, 1), st.floats(8, 152), st.floats(8, 112), seeds)
def test_a_dot_in_a_tile_stays_at_its_joint_or_leaves_with_it(cell, zoom, x, y, seed):
    rng, canvas = chance(seed), np.full((160, 192, 3), 127, np.uint8)
    frame = four_cells((160, 192), draw_centre((160, 192), rng))[cell]
    single = TrainTransform((160, 192), COCO17, colour=None, shear=5, quarter_turn=.5)
    tile, map = lay_tile(one_dot(x, y, (120, 160)), canvas, frame, zoom, single, rng)
    place = affine.apply(map, np.array([x, y]))
    seen = tile.joints[0][tile.joints[0, :, 2] > 0]
    assert len(seen) == (np.array([*(place >= frame[:2]), *(place < frame[2:])]).all())
    outside = canvas.copy()
    outside[frame[1]:frame[3], frame[0]:frame[2]] = 127
    assert (outside == 127).all()
    if len(seen) and (place > np.add(frame[:2], 12)).all() and (place < np.subtract(frame[2:], 12)).all():
        assert_allclose(seen[0, :2], place, atol=1e-3)
        assert_allclose(bright_place(canvas), place, atol=.15)


@given(sides, sides, st.integers(20, 300), st.integers(20, 300), seeds)
def test_a_slide_leaves_no_gap_where_the_picture_is_large_enough(height, width, tall, wide, seed):
    rng = chance(seed)
    for cell in four_cells((height, width), draw_centre((height, width), rng)):
        x1, y1, x2, y2 = affine.apply_boxes(slide(np.array([0., 0, wide, tall]), cell, (height, width), rng), np.array([0., 0, wide, tall]))
        for low, high, first, last in ((x1, x2, cell[0], cell[2]), (y1, y2, cell[1], cell[3])):
            if high - low >= last - first:
                assert low <= first + 1e-6 and high >= last - 1e-6
            else:
                assert low >= first - 1e-6 and high <= last + 1e-6
                assert np.isclose(low, first) or np.isclose(high, last)


@pytest.mark.parametrize("kind, skeleton", [("people", COCO17), ("animals", ANIMALPOSE20)])
def test_mixed_labels_keep_the_promises_of_labels(kind, skeleton):
    scenes = ToyScenes(12, (90, 120), kind=kind)
    transform = MosaicTransform(TrainTransform((96, 64), skeleton, shear=5, quarter_turn=.3), skeleton, .6, .3, .5)
    for seed in range(40):
        sample, map, size = transform.from_set(scenes, seed % 12, chance(seed))
        assert sample.image.shape == (96, 64, 3) and sample.image.dtype == np.uint8 and size == (90, 120)
        assert sample.joints.shape[1:] == (skeleton.num_joints, 3) and len({len(part) for part in sample[1:5]}) == 1
        assert [part.dtype for part in sample[1:5]] == [np.float32, np.float32, np.float32, bool]
        assert (sample.boxes >= 0).all() and (sample.boxes <= (64, 96, 64, 96)).all() and (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        seen = sample.joints[sample.joints[..., 2] > 0]
        assert (seen[:, :2] >= 0).all() and (seen[:, :2] < (64, 96)).all() and set(np.unique(sample.joints[..., 2])) <= {0, 1, 2}
        assert (sample.areas >= 1).all() and sample.image_id == seed % 12 + 1


@given(seeds)
def test_areas_follow_the_map_of_each_tile(seed):
    whole = PoseSample(np.zeros((50, 50, 3), np.uint8), np.array([[20, 20, 30, 30]], np.float32), np.full((1, 17, 3), 25, np.float32), np.array([70], np.float32), np.array([False]))
    whole.joints[..., 2] = 2
    single = TrainTransform(100, COCO17, colour=None, min_area=0, keep_unlabelled=True)
    canvas, rng = np.zeros((100, 100, 3), np.uint8), chance(seed)
    tile, map = lay_tile(whole, canvas, (0, 0, 100, 100), .7, single, rng)
    hull = affine.apply_boxes(map, whole.boxes)
    share = (tile.boxes[0, 2:] - tile.boxes[0, :2]).prod() / (hull[0, 2:] - hull[0, :2]).prod()
    assert_allclose(tile.areas[0], 70 * affine.area_factor(map) * share, rtol=1e-3, atol=1e-3)


@given(seeds, st.integers(0, 3))
def test_what_hides_only_lowers_visibility_and_twice_is_once(seed, strip):
    scene = toy_scene(seed % 60, 96)
    cover = np.zeros((96, 96), np.uint8)
    cover[:, strip * 24:strip * 24 + 30] = 255
    once = hide(scene, cover)
    assert_array_equal(once.joints[..., :2], scene.joints[..., :2])
    assert (once.joints[..., 2] <= scene.joints[..., 2]).all() and (once.areas <= scene.areas).all()
    under = (scene.joints[..., 0] >= strip * 24) & (scene.joints[..., 0] < strip * 24 + 30)
    width = np.maximum(scene.boxes[:, 2] - scene.boxes[:, 0], 1e-6)
    covered = (np.minimum(scene.boxes[:, 2], strip * 24 + 30) - np.maximum(scene.boxes[:, 0], strip * 24)) / width
    safe = covered < .6
    expected = np.where(under, np.minimum(scene.joints[..., 2], 1), scene.joints[..., 2])
    assert_array_equal(once.joints[safe, :, 2], expected[safe])
    assert_array_equal(hide(once, cover).joints, once.joints)
    full = hide(scene, np.full_like(cover, 255))
    assert (full.joints[..., 2] == 0).all() and (full.areas[(scene.boxes[:, 2:] - scene.boxes[:, :2]).min(-1) > 1] == 0).all()
    bare = hide(scene, np.zeros_like(cover))
    assert_array_equal(bare.joints, scene.joints)
    assert_array_equal(bare.areas, scene.areas)


@given(seeds)
def test_a_pasted_person_is_in_the_picture_where_the_labels_say(seed):
    donor = toy_scene((seed % 40, 2), 128, figures=2)
    dots = donor.joints[donor.joints[..., 2] == 2][:, :2]
    donor = donor._replace(image=draw_points(donor.image, dots, (0, 255, 0), 4))
    still = TrainTransform(128, COCO17, affine_p=0, colour=None)
    under = PoseSample.empty(np.full((128, 128, 3), 127, np.uint8), 17)
    result = paste_people(under, donor, still, COCO17, chance(seed))
    assert (under.image == 127).all()
    seen = result.joints[result.joints[..., 2] == 2][:, :2].astype(int)
    colours = result.image[seen[:, 1], seen[:, 0]].astype(int)
    if len(seen):
        assert np.median(np.abs(colours - (0, 255, 0)).max(-1)) < 40


def test_what_is_not_in_the_other_picture_is_not_pasted():
    joints = np.zeros((1, 17, 3), np.float32)
    joints[0] = [(2, 10 + 5 * n, 2) for n in range(17)]  # a person along the left edge of a black picture
    donor = PoseSample(np.zeros((100, 60, 3), np.uint8), np.array([[0, 5, 12, 95]], np.float32), joints, np.array([3000], np.float32), np.array([False]))
    white = PoseSample.empty(np.full((100, 100, 3), 255, np.uint8), 17)
    result = paste_people(white, donor, TrainTransform(100, COCO17, flip=0, affine_p=0, colour=None), COCO17, chance(0))
    assert len(result.boxes) == 1 and (result.image[:, 20:] < 128).any()
    assert (result.image[:, :17] == 255).all()  # the picture begins at column 20


def test_nothing_is_pasted_from_a_crowd_or_from_nobody():
    under, rng = toy_scene(1, 96), chance(0)
    crowd = PoseSample(np.zeros((96, 96, 3), np.uint8), np.array([[0, 0, 90, 90]], np.float32), np.full((1, 17, 3), 2, np.float32), np.array([8100], np.float32), np.array([True]))
    for donor in (crowd, PoseSample.empty(np.zeros((40, 60, 3), np.uint8), 17)):
        result = paste_people(under, donor, TrainTransform(96, COCO17), COCO17, rng)
        assert_array_equal(result.image, under.image)
        assert len(result.boxes) == len(under.boxes)
    assert blend(under.image, under.image, affine.identity(), np.zeros((96, 96), np.uint8), None, rng) is under.image
    assert outline(np.zeros((17, 3)), 100, (9, 9), COCO17).max() == 0


def test_mixup_is_the_mean_and_joins():
    one, two = toy_scene(1, 64), toy_scene(2, 64)
    both = mixup(one, two)
    assert np.abs(both.image - (one.image.astype(float) + two.image) / 2).max() <= .5
    assert_array_equal(both.joints, np.concatenate([one.joints, two.joints]))
    assert join([one]).boxes.shape == one.boxes.shape


class Walk:
    "A data set that notes who was read."
    def __init__(self, scenes):
        self.scenes, self.read = scenes, []

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, i):
        self.read.append(i)
        return self.scenes[i]


def test_partners_are_a_function_of_seed_epoch_and_index():
    walk = Walk(ToyScenes(30, 64))
    samples = Samples(walk, MosaicTransform(TrainTransform(64, COCO17), COCO17, 1), seed=3)
    first = samples[2, 5]
    others = walk.read[:]
    samples[2, 6], samples[1, 5]
    walk.read.clear()
    again = samples[2, 5]
    assert walk.read == others and others[0] == 5 and len(others) == 4
    assert_array_equal(first[0].image, again[0].image)
    walk.read.clear()
    samples[3, 5]
    assert walk.read != others


def test_closing_reads_one_image_and_equals_the_single_transform():
    walk = Walk(ToyScenes(10, 64))
    single = TrainTransform(64, COCO17)
    samples = Samples(walk, MosaicTransform(single, COCO17, 1, 1, 1, until=4))
    closed, plain = samples[4, 7], single.with_map(walk.scenes[7], sample_rng(0, 4, 7))
    assert walk.read == [7]
    assert_array_equal(closed[0].image, plain[0].image)
    walk.read.clear()
    samples[3, 7]
    assert len(walk.read) > 4


@pytest.mark.parametrize("world", [1, 2, 3])
def test_one_size_per_batch_on_all_processes_and_after_a_restart(world):
    options = dict(shuffle=True, drop_last=True, seed=9, world=world, sizes=scales(128, .5))
    walks = [[{key[2] for key in batch} for batch in Batches(120, 4, rank=rank, **options)] for rank in range(world)]
    assert all(walk == walks[0] for walk in walks) and all(len(size) == 1 for size in walks[0])
    assert len(set().union(*walks[0])) > 2
    late = Batches(120, 4, rank=0, **options)
    late.skip = 3
    assert [{key[2] for key in batch} for batch in late] == walks[0][3:]
    late.epoch = 1
    assert [{key[2] for key in batch} for batch in late] != walks[0]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, .9))
def test_scales_are_multiples_of_the_stride_within_the_share(height, width, share):
    found = scales((32 * height, 32 * width), share)
    assert (32 * height, 32 * width) in found
    for h, w in found:
        assert h % 32 == w % 32 == 0 and h >= 32 and w >= 32
        assert (1 - share) * 32 * height - 1e-3 <= h or h == 32
        assert h <= (1 + share) * 32 * height + 1e-3 and abs(w - h * width / height) <= 16 + 1e-6 or w == 32


def test_the_loader_gives_batches_of_many_sizes():
    loader = make_loader(ToyScenes(16, 64), 64, 4, MosaicTransform(TrainTransform(64, COCO17), COCO17), shuffle=True, multi_scale=.5)
    shapes = set()
    for epoch in range(3):
        loader.set_epoch(epoch)
        shapes |= {tuple(batch.images.shape) for batch in loader}
    assert {shape[:2] for shape in shapes} == {(4, 3)} and len(shapes) > 1


@pytest.mark.parametrize("name", PIPELINES)
def test_the_reference_mode_keeps_the_promises_of_labels_and_is_repeatable(name):
    scenes = ToyScenes(6, (90, 120))
    transform = ReferenceTransform(96, COCO17, **PIPELINES[name])
    for seed in range(10):
        sample, map, size = transform.from_set(scenes, seed % 6, chance(seed))
        again = transform.from_set(scenes, seed % 6, chance(seed))[0]
        assert_array_equal(sample.image, again.image)
        assert sample.image.shape == (96, 96, 3) and size == (90, 120) and np.isnan(map).all()
        assert (sample.joints[..., 2] > 0).any(-1).all() and (sample.areas >= 1).all()
    assert transform.resized(64).from_set(scenes, 0, chance(0))[0].image.shape == (64, 64, 3)
