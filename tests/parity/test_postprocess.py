"Postprocessing against the stored results of the reference, the plain walk, and bad candidates."
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from yolo_nas_pose.core.affine import letterbox_map
from yolo_nas_pose.core.geometry import box_iou
from yolo_nas_pose.core.structures import DecodedPoses, Poses
from yolo_nas_pose.model.postprocess import best_likely, nms, postprocess, to_source, unbeaten

settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quick")
SETTINGS = ["0.05_0.7_300_30", "0.3_0.5_1000_100", "0.0_0.9_50_20"]


def candidates(golden):
    get = {name: torch.from_numpy(golden[name].astype(np.float32)) for name in ("post_cls_logits", "boxes", "joints", "joint_logits")}
    scores = get["post_cls_logits"].flatten(1).sigmoid()
    return DecodedPoses(get["boxes"], scores, get["joints"], get["joint_logits"].sigmoid())


def check(golden, tag):
    conf, iou, pre, post = tag.split("_")
    found = postprocess(candidates(golden), float(conf), float(iou), int(pre), int(post))
    assert len(found) == 3
    for image, poses in enumerate(found):
        boxes, joints, scores = (golden[f"post_{tag}_{part}_{image}"] for part in ("boxes", "poses", "scores"))
        assert len(poses.scores) == len(scores)
        np.testing.assert_array_equal(poses.bboxes_xyxy.numpy(), boxes)
        np.testing.assert_array_equal(poses.poses[..., :2].numpy(), joints[..., :2])
        assert_close(poses.poses[..., 2], torch.from_numpy(joints[..., 2]), rtol=0, atol=1e-6)
        assert_close(poses.scores, torch.from_numpy(scores), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tag", SETTINGS)
def test_best_thousand_as_the_reference(tag):
    "The 1001 best candidates of the stored cases: the same results, and small enough to keep here."
    check(np.load(Path(__file__).parent.parent / "data" / "postprocess_cases.npz"), tag)


@pytest.mark.parametrize("tag", SETTINGS)
def test_all_candidates_as_the_reference(shared, tag):
    check(np.load(Path(shared) / "golden" / "loss_cases" / "cases.npz"), tag)


def walk(boxes, scores, iou):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(box_iou(boxes[i][None], boxes[j][None], eps=0) <= iou for j in kept):
            kept.append(i)
    return kept


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0, .3, .5, .7, 1]))
def test_nms_is_the_walk_ties_included(seed, count, iou):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 12, (count, 2), generator=generator).float()
    boxes = torch.cat((corner, corner + torch.randint(1, 12, (count, 2), generator=generator)), 1)
    scores = torch.randint(0, 10, (count,), generator=generator) / 10
    assert nms(boxes, scores, iou).tolist() == walk(boxes, scores.tolist(), iou)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 70), st.sampled_from([0, .3, 1]))
def test_best_likely_is_the_whole_order_ties_included(seed, anchors, count, conf):
    scores = torch.randint(0, 8, (anchors,), generator=torch.Generator().manual_seed(seed)) / 7
    order = sorted((i for i in range(anchors) if scores[i] >= conf), key=lambda i: -scores[i].item())
    assert best_likely(scores, conf, count).tolist() == order[:count]


def test_longest_chain_settles():
    beats = torch.ones(300, 300).triu(1).tril(1) > 0
    assert unbeaten(beats).nonzero().flatten().tolist() == list(range(0, 300, 2))
    assert unbeaten(torch.zeros(0, 0, dtype=torch.bool)).shape == (0,)


def made(scores, boxes=None, k=2):
    scores = torch.tensor([scores])
    n = scores.shape[1]
    boxes = torch.arange(n)[:, None] * 100. + torch.tensor([0., 0, 10, 10]) if boxes is None else torch.tensor(boxes)
    return DecodedPoses(boxes[None], scores, torch.zeros(1, n, k, 2), torch.full((1, n, k), .5))


def test_thresholds_met_exactly():
    poses, = postprocess(made([.5, .25, .75]), conf=.5)
    assert poses.scores.tolist() == [.75, .5]
    halves = [[0., 0, 2, 1], [0, 0, 1, 1]]  # IoU is exactly one half
    assert len(postprocess(made([.9, .8], halves), iou=.5)[0].scores) == 2
    assert len(postprocess(made([.9, .8], halves), iou=.4999)[0].scores) == 1


def test_zero_is_a_threshold():
    assert len(postprocess(made([0., 0., .1]), conf=0)[0].scores) == 3
    touching = [[0., 0, 2, 1], [1.9, 0, 4, 1]]
    assert len(postprocess(made([.9, .8], touching), iou=0)[0].scores) == 1
    assert len(postprocess(made([.9, .8], [[0., 0, 1, 1]] * 2), iou=1)[0].scores) == 2


def test_cuts_and_ties_keep_the_order_of_anchors():
    decoded = made([.5] * 6)
    poses, = postprocess(decoded, pre_nms=4, post_nms=3)
    assert_close(poses.bboxes_xyxy, decoded.boxes[0, :3])


def test_empty_images_in_a_batch():
    decoded = made([.9, .8])
    batch = DecodedPoses(*(torch.cat((part, part)) for part in decoded))
    batch = batch._replace(scores=torch.tensor([[.9, .8], [0, 0]]))
    first, second = postprocess(batch, conf=.5)
    assert len(first.scores) == 2
    assert [tuple(part.shape) for part in second[:3]] == [(0, 4), (0, 2, 3), (0,)]
    home = to_source(second, letterbox_map(480, 640, 320)[0])
    assert [part.shape for part in home[:3]] == [(0, 4), (0, 2, 3), (0,)]
    assert postprocess(DecodedPoses(*(part[:0] for part in decoded))) == []


def test_batch_of_two_is_two_batches_of_one():
    decoded = candidates(np.load(Path(__file__).parent.parent / "data" / "postprocess_cases.npz"))
    together = postprocess(decoded)
    for image, poses in enumerate(together):
        alone, = postprocess(DecodedPoses(*(part[image:image + 1] for part in decoded)))
        for a, b in zip(poses[:3], alone[:3]):
            assert torch.equal(a, b)


@pytest.mark.parametrize("wrong", [dict(conf=-.1), dict(conf=50), dict(conf=float("nan")), dict(iou=1.5), dict(iou=-1),
                                   dict(pre_nms=0), dict(post_nms=0), dict(pre_nms=10, post_nms=20)])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        postprocess(made([.5]), **wrong)


def test_candidates_that_are_no_numbers():
    good = made([.5, .6])
    with pytest.raises(ValueError, match="images .0. in the batch are NaN"):
        postprocess(good._replace(scores=torch.tensor([[.5, torch.nan]])))
    with pytest.raises(ValueError, match="logits"):
        postprocess(good._replace(scores=torch.tensor([[-4., 3.]])))
    for part in ("boxes", "joints"):
        with pytest.raises(ValueError, match="not finite"):
            postprocess(good._replace(**{part: getattr(good, part) * torch.inf}))
        for strange in (torch.nan, torch.inf, -torch.inf):
            one = getattr(good, part).clone()
            one.view(-1)[3] = strange
            with pytest.raises(ValueError, match="not finite"):
                postprocess(good._replace(**{part: one}))
    opposite = good.joints.clone()
    opposite[0, 0, 0] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(ValueError, match="not finite"):
        postprocess(good._replace(joints=opposite))


def test_huge_coordinates_are_numbers_though_their_sum_is_none():
    decoded = made([.5, .6])
    poses, = postprocess(decoded._replace(joints=torch.full_like(decoded.joints, 3e38)))
    assert len(poses.scores) == 2


def test_half_precision_is_made_float32():
    decoded = made([.5, .75])
    poses, = postprocess(DecodedPoses(*(part.half() for part in decoded)))
    assert {part.dtype for part in poses[:3]} == {torch.float32}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("place", ["bottom_right", "center"])
def test_to_source_is_the_division_of_the_reference(kind, place):
    poses = Poses(torch.rand(5, 4) * 640, torch.rand(5, 17, 3) * 640, torch.rand(5))
    map, (height, width) = letterbox_map(721, 1283, 640, place)
    s, top = 640 / 1283, (640 - height) // 2 if place == "center" else 0
    home = to_source(poses if kind == "torch" else poses.numpy(), map)
    shift = torch.tensor([0, top, 0, top])
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in home[:3])
    np.testing.assert_allclose(home.bboxes_xyxy, sorted_corners((poses.bboxes_xyxy - shift) / s), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(home.poses[..., :2], (poses.poses[..., :2] - shift[:2]) / s, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(home.poses[..., 2], poses.poses[..., 2])


def sorted_corners(boxes):
    return torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), 1)
