"The whole network against stored numbers of the reference: keys, outputs, losses, gradients, selections, and what a detector gives."
import copy

import numpy as np
import pytest
import torch
from golden import case, draw, key_shapes, make_loss, read_targets

from yolo_nas_pose.model.network import NORM_EPS, VARIANTS, YoloNASPose
from yolo_nas_pose.model.postprocess import postprocess
from yolo_nas_pose.model.weights import DETECTOR_EPS, WeightsError, load_weights, shapes_of

CASES = [("joints17", variant) for variant in VARIANTS] + [("joints20", "yolo_nas_pose_n")]
each_case = pytest.mark.parametrize("folder, variant", CASES, ids=lambda value: value.removeprefix("yolo_nas_pose_"))
KEYS = dict(zip(VARIANTS, (956, 987, 1031, 1163)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_order_and_shapes_are_those_of_the_reference(golden, variant):
    theirs = key_shapes(golden, variant)
    assert len(theirs) == KEYS[variant]
    live = [(key, tuple(shape)) for key, shape in theirs.items() if ".rbr_reparam." not in key]
    assert live == list(shapes_of(variant).items())


@each_case
def test_outputs(golden, folder, variant):
    plan, arrays, model, images = case(golden, folder, variant)
    with torch.no_grad():
        raw = model(images)
    decoded = model.decode(raw)
    assert raw.points.shape[0] == plan["height"] * plan["width"] * (1 / 64 + 1 / 256 + 1 / 1024)
    for name, limit in dict(boxes=1e-3, joints=1e-3, scores=1e-5, joint_scores=1e-5).items():
        ours = getattr(decoded, name)[:, ::plan["anchor_step"]]
        np.testing.assert_allclose(ours.numpy(), arrays[name].reshape(ours.shape), atol=limit, rtol=0, err_msg=name)
    for name in ("cls_logits", "box_bins", "joint_logits"):
        ours = getattr(raw, name)[:, ::plan["anchor_step"]]
        np.testing.assert_allclose(ours.numpy(), arrays[f"raw_{name}"], atol=2e-4, rtol=2e-5, err_msg=name)


@each_case
def test_the_same_people_are_selected(golden, folder, variant):
    _, arrays, model, images = case(golden, folder, variant)
    with torch.no_grad():
        decoded = model.decode(model(images))
    for conf in (0., .5):
        for image, found in enumerate(postprocess(decoded, conf, .7, 300, 30)):
            boxes, scores, poses = (arrays[f"post{conf}_{name}_{image}"] for name in ("boxes", "scores", "poses"))
            np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-5, rtol=0)
            np.testing.assert_allclose(found.bboxes_xyxy.numpy(), boxes, atol=1e-3, rtol=0)
            np.testing.assert_allclose(found.poses.numpy(), poses, atol=1e-3, rtol=0)


@each_case
def test_losses_and_gradients(golden, folder, variant):
    plan, arrays, model, images = case(golden, folder, variant)
    raw, probes = model(images), [model.get_parameter(name) for name in plan["gradient_probes"]]
    for recipe in plan["recipes"]:
        parts = make_loss(plan, recipe)(raw, read_targets(arrays))
        np.testing.assert_allclose([float(part.detach()) for part in parts[:6]], arrays[f"loss_{recipe}"], rtol=1e-5, err_msg=recipe)
        norms = [float(gradient.double().norm()) for gradient in torch.autograd.grad(parts.total, probes, retain_graph=True)]
        np.testing.assert_allclose(norms, arrays[f"gradnorm_{recipe}"], rtol=2e-3, atol=1e-9, err_msg=recipe)


@pytest.mark.parametrize("variant", ["yolo_nas_pose_n", "yolo_nas_pose_s"])
def test_training_begins_as_the_reference(golden, variant):
    "The first row is sharp; after it rounding grows so fast that the reference departs from itself, so only the size is asked."
    plan, arrays, shared, images = case(golden, "joints17", variant)
    model, loss = copy.deepcopy(shared).train(), make_loss(plan, "coco_ns")
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 or name.endswith("alpha")]
    plain = [p for name, p in model.named_parameters() if not (p.ndim > 1 or name.endswith("alpha"))]
    steps = 4 if variant == "yolo_nas_pose_n" else 1
    optimizer = torch.optim.AdamW([dict(params=decayed), dict(params=plain, weight_decay=0)], 1e-4, (.9, .999), weight_decay=1e-6)
    rows = []
    for _ in range(steps):
        parts = loss(model(images), read_targets(arrays))
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        rows.append([float(part.detach()) for part in parts[:6]])
    stored = arrays["trajectory_coco_ns"]
    np.testing.assert_allclose(rows[0], stored[0], rtol=1e-3)
    for row, theirs, factor in zip(rows[1:], stored[1:], (1.25, 1.5, 3)):
        assert np.isfinite(row).all() and 1 / factor < row[5] / theirs[5] < factor


@pytest.mark.parametrize("size, given, live", [("s", 921, 841), ("m", 965, 881), ("l", 1097, 1001)])
def test_detectors_give_all_but_the_joints(golden, size, given, live):
    "The reference copies 18 keys fewer: it overlooks the box stems."
    detector = f"yolo_nas_{size}"
    state = {key: draw(5, key, shape) for key, shape in key_shapes(golden, detector).items()}
    assert len(state) == given
    model = YoloNASPose(f"yolo_nas_pose_{size}")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, state)
    own = model.state_dict()
    assert len(report.matched) == live
    assert len(report.matched) + len(report.reinitialised) == len(own)
    assert {key.split(".")[2] for key in report.reinitialised} == {"pose_stem", "pose_convs", "cls_pred", "pose_pred"}
    assert all(".rbr_reparam." in key for key in report.unused)
    assert len(report.unused) + len(report.matched) + 6 == given  # the class scores: one row of them is taken
    for head in ("head1", "head2", "head3"):
        assert torch.equal(own[f"heads.{head}.bbox_stem.seq.conv.weight"], state[f"heads.{head}.stem.seq.conv.weight"])
        assert torch.equal(own[f"heads.{head}.cls_pred.weight"][0], state[f"heads.{head}.cls_pred.weight"][0])
        assert torch.equal(own[f"heads.{head}.cls_pred.weight"][1:], before[f"heads.{head}.cls_pred.weight"][1:])
        assert torch.equal(own[f"heads.{head}.pose_pred.weight"], before[f"heads.{head}.pose_pred.weight"])
    key = "backbone.stage1.blocks.conv1.bn.running_var"
    torch.testing.assert_close(own[key].double() + NORM_EPS, state[key].double() + DETECTOR_EPS, rtol=1e-6, atol=0)


def test_detectors_of_another_size_are_refused(golden):
    state = {key: torch.empty(shape) for key, shape in key_shapes(golden, "yolo_nas_m").items()}
    with pytest.raises(WeightsError, match="It fits yolo_nas_pose_m"):
        load_weights(YoloNASPose("yolo_nas_pose_s"), state)
