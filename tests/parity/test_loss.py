"The loss against stored numbers of the reference: every part, and the gradient of every raw output at every stride."
import json

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.geometry import grid_points
from yolo_nas_pose.core.structures import RawPoses, Targets
from yolo_nas_pose.loss.pose_loss import PoseLoss

NAMES = dict(classification_loss_type="cls_loss", regression_iou_loss_type="iou_loss", classification_loss_weight="cls_weight",
             iou_loss_weight="iou_weight", dfl_loss_weight="dfl_weight", pose_cls_loss_weight="pose_cls_weight",
             pose_reg_loss_weight="pose_reg_weight", pose_classification_loss_type="pose_cls_loss",
             rescale_pose_loss_with_assigned_score="rescale_pose_by_score", assigner_multiply_by_pose_oks="assign_by_oks")
RECIPES = ("coco_ml", "no_oks", "plain_mean", "giou_bce")
STRIDES = (8, 16, 32)


@pytest.fixture(scope="module")
def cases(golden):
    "Settings and arrays of the stored cases."
    folder = golden / "loss_cases"
    return json.loads((folder / "cases.json").read_text()), dict(np.load(folder / "cases.npz"))


def read(cases, recipe):
    "Raw outputs that want gradients, targets, and the loss under the names of this project."
    plan, arrays = cases
    get = {name: torch.from_numpy(arrays[name]).float() for name in
           ("cls_logits", "box_bins", "joints", "joint_logits", "target_boxes", "target_joints", "target_crowd")}
    grid = grid_points(tuple((plan["height"] // s, plan["width"] // s) for s in STRIDES), STRIDES)
    raw = RawPoses(*(get[name].requires_grad_() for name in RawPoses._fields[:4]), *grid)
    targets = Targets(*(get[f"target_{name}"] for name in Targets._fields))
    return raw, targets, PoseLoss(plan["sigmas"], **{NAMES[name]: value for name, value in plan["recipes"][recipe].items()})


def gradient_norms(raw):
    "(image, stride, tensor) norms, as they are stored."
    levels = [raw.strides[:, 0] == stride for stride in STRIDES]
    parts = [torch.stack([part.grad[:, level].flatten(1).norm(dim=1) for level in levels], 1) for part in raw[:4]]
    return torch.stack(parts, -1).double().numpy()


def test_every_stored_configuration_is_tested(cases):
    assert set(cases[0]["recipes"]) == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_and_gradients_as_the_reference(cases, recipe):
    raw, targets, loss = read(cases, recipe)
    parts = loss(raw, targets)
    parts.total.backward()
    np.testing.assert_allclose([float(x.detach()) for x in parts[:6]], cases[1][f"loss_{recipe}"], rtol=1e-4)
    np.testing.assert_allclose(gradient_norms(raw), cases[1][f"gradnorm_{recipe}"], rtol=1e-3, atol=1e-9)


def test_stored_cases_have_positives_at_all_strides_and_an_empty_image(cases):
    "The cases are worth having: conflicts, all strides, a crowd, somebody without labelled joints, an image with nobody."
    raw, targets, _ = read(cases, "coco_ml")
    norms = cases[1]["gradnorm_coco_ml"]
    assert (norms[..., 2].max(0) > 0).all()
    assert set(targets.boxes[:, 0].tolist()) < {0., 1., 2.}
    assert targets.crowd[:, 1].sum() == 1
    assert ((targets.joints[..., 3] > 0).sum(1) == 0).any()
