"Laws of maps of the plane, of the warp and of the letterbox."
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from yolo_nas_pose.core.affine import (apply, apply_boxes, apply_joints, area_factor, compose, flip_horizontal, identity,
                                       invert, letterbox, letterbox_map, rotate, scale, translate, warp)

settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quick")

lengths = st.floats(-2000, 2000)
factors = st.floats(.05, 20)
bricks = st.one_of(
    st.builds(translate, lengths, lengths),
    st.builds(scale, factors, factors),
    st.builds(rotate, st.floats(-720, 720), st.tuples(lengths, lengths)),
    st.builds(flip_horizontal, st.floats(1, 4000)))
maps = st.lists(bricks, min_size=1, max_size=4).map(lambda steps: compose(*steps))
points = st.lists(st.tuples(lengths, lengths), min_size=1, max_size=5).map(np.array)
boxes = st.lists(st.tuples(lengths, lengths, st.floats(0, 500), st.floats(0, 500)), min_size=1, max_size=5).map(
    lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows]))


def near(a, b):
    assert_allclose(a, b, rtol=1e-7, atol=1e-6 * (1 + np.abs(b).max()))


@given(maps, points)
def test_inverse_brings_back(map, at):
    scale_of_numbers = 1 + np.abs(map).max() * np.linalg.norm(np.linalg.inv(map[:, :2]))
    assert_allclose(apply(invert(map), apply(map, at)), at, atol=1e-9 * scale_of_numbers)


@given(st.floats(1, 4000), points)
def test_flip_twice_is_nothing(width, at):
    flip = flip_horizontal(width)
    assert_allclose(compose(flip, flip), identity(), atol=1e-12)
    near(apply(flip, apply(flip, at)), at)


@given(maps, maps, maps, points)
def test_compose_is_associative_and_in_order(a, b, c, at):
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    near(apply(left, at), apply(right, at))
    near(apply(compose(a, b, c), at), apply(c, apply(b, apply(a, at))))


@given(maps)
def test_neutral_maps(map):
    assert (compose() == identity()).all()
    near(compose(map, identity()), map)
    near(compose(identity(), map), map)


@given(maps, maps)
def test_area_factors_multiply(a, b):
    assert_allclose(area_factor(compose(a, b)), area_factor(a) * area_factor(b), rtol=1e-6)


@given(st.floats(-720, 720), st.tuples(lengths, lengths))
def test_rotation_keeps_its_centre_and_agrees_with_opencv(degrees, center):
    near(apply(rotate(degrees, center), np.array(center)), np.array(center))
    near(rotate(degrees, center), cv2.getRotationMatrix2D(center, degrees, 1))


@given(maps, boxes, st.floats(0, 1), st.floats(0, 1))
def test_hull_holds_the_moved_box(map, box, u, v):
    hull = apply_boxes(map, box)
    inside = apply(map, box[:, :2] + [u, v] * (box[:, 2:] - box[:, :2]))
    slack = 1e-6 * (1 + np.abs(hull).max())
    assert (inside >= hull[:, :2] - slack).all() and (inside <= hull[:, 2:] + slack).all()
    assert (hull[:, 2:] >= hull[:, :2]).all()


@given(boxes, st.floats(1, 4000), factors, lengths)
def test_hull_is_exact_without_rotation(box, width, factor, shift):
    for map in (flip_horizontal(width), scale(factor), translate(shift, shift)):
        near(apply_boxes(invert(map), apply_boxes(map, box)), box)


@given(st.floats(8, 4000), boxes)
def test_flip_moves_boxes_and_joints_by_one_rule(width, box):
    flip, middle = flip_horizontal(width), (box[:, :2] + box[:, 2:]) / 2
    flipped = apply_boxes(flip, box)
    near(apply(flip, middle), (flipped[:, :2] + flipped[:, 2:]) / 2)


def test_joints_keep_their_third_value_and_type():
    joints = np.array([[[1, 2, 0], [3, 4, 2]]], np.float32)
    moved = apply_joints(translate(1, 1), joints)
    assert moved.dtype == np.float32 and moved.tolist() == [[[2, 3, 0], [4, 5, 2]]]
    assert apply(translate(.5, 0), [[1, 2]]).tolist() == [[1.5, 2]]
    for empty, mover in ((np.zeros((0, 4), np.float32), apply_boxes), (np.zeros((0, 17, 3), np.float32), apply_joints)):
        assert mover(scale(2), empty).shape == empty.shape and mover(scale(2), empty).dtype == empty.dtype


@pytest.mark.parametrize("map", [scale(0, 1), np.zeros((2, 3)), translate(np.nan, 0)])
def test_maps_without_inverse_say_so(map):
    with pytest.raises(ValueError, match="no inverse"):
        invert(map)


def smooth(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_warp_agrees_with_flip_resize_and_padding():
    image = smooth(40, 56)
    assert (warp(image, identity(), (40, 56)) == image).all()
    assert (warp(image, flip_horizontal(56), (40, 56)) == image[:, ::-1]).all()
    padded = warp(image, translate(3, 5), (50, 70), value=9)
    assert (padded[5:45, 3:59] == image).all() and (padded[:5] == 9).all() and (padded[45:] == 9).all()
    doubled, resized = warp(image, scale(2), (80, 112)).astype(int), cv2.resize(image, (112, 80)).astype(int)
    assert np.abs(doubled - resized)[2:-2, 2:-2].max() <= 2  # both place pixel centres alike
    assert warp(image[..., 0], scale(2), (80, 112)).shape == (80, 112)


sides = st.integers(1, 3000)


@given(sides, sides, st.sampled_from([320, 640, (256, 320)]), st.sampled_from(["bottom_right", "center"]),
       st.sampled_from(["predict", "train"]))
def test_letterbox_map_is_the_reference(height, width, size, place, rounding):
    full = (size, size) if isinstance(size, int) else size
    map, (new_h, new_w) = letterbox_map(height, width, size, place, rounding)
    s = min(full[0] / height, full[1] / width)
    expected = [round(side * s) if rounding == "predict" else int(side * s + .5) for side in (height, width)]
    assert [new_h, new_w] == [max(side, 1) for side in expected]
    assert new_h <= full[0] and new_w <= full[1] and (new_h == full[0] or new_w == full[1])
    offset = ((full[1] - new_w) // 2, (full[0] - new_h) // 2) if place == "center" else (0, 0)
    assert map.tolist() == [[s, 0, offset[0]], [0, s, offset[1]]]


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from(["bottom_right", "center"]), points)
def test_letterbox_inverse(height, width, place, at):
    map, _ = letterbox_map(height, width, 640, place)
    near(apply(invert(map), apply(map, at)), at)
    if place == "bottom_right":  # the way back is a division by the scale, nothing else
        near(apply(invert(map), at), at / map[0, 0])


@pytest.mark.parametrize("height, width", [(64, 64), (48, 64), (721, 1280), (1280, 721), (31, 17), (1, 1), (2000, 3)])
@pytest.mark.parametrize("rounding", ["predict", "train"])
@pytest.mark.parametrize("place", ["bottom_right", "center"])
def test_letterbox_picture_is_the_reference(height, width, rounding, place):
    image = smooth(height, width)
    boxed, map = letterbox(image, 64, place, rounding=rounding)
    _, (new_h, new_w) = letterbox_map(height, width, 64, place, rounding)
    inner = image if map[0, 0] == 1 else cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    left, top = map[:, 2].astype(int)
    expected = cv2.copyMakeBorder(inner, top, 64 - top - new_h, left, 64 - left - new_w, cv2.BORDER_CONSTANT, value=(127,) * 3)
    assert boxed.shape == (64, 64, 3) and boxed.dtype == np.uint8 and (boxed == expected).all()


def test_two_roundings_and_odd_images():
    assert letterbox_map(721, 1280, 640)[1] == (360, 640)
    assert letterbox_map(721, 1280, 640, rounding="train")[1] == (361, 640)
    assert letterbox(np.zeros((30, 20000, 3), np.uint8), 640)[0].shape == (640, 640, 3)
    assert letterbox(np.zeros((10, 20), np.uint8), np.int64(32))[0].shape == (32, 32)
    for height, width in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"{height} x {width}"):
            letterbox(np.zeros((height, width, 3), np.uint8))
    with pytest.raises(ValueError, match="middle"):
        letterbox_map(5, 5, 640, place="middle")
    with pytest.raises(ValueError, match="floor"):
        letterbox_map(5, 5, 640, rounding="floor")
