"The networks and images of the stored numbers, drawn again: each array from a stream of its own, named like the array."
import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from yolo_nas_pose.core.skeleton import Skeleton
from yolo_nas_pose.core.structures import Targets
from yolo_nas_pose.loss.pose_loss import PoseLoss
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.weights import load_weights

# Names of the reference for the options of the loss.
OPTIONS = dict(classification_loss_type="cls_loss", regression_iou_loss_type="iou_loss", classification_loss_weight="cls_weight",
               iou_loss_weight="iou_weight", dfl_loss_weight="dfl_weight", pose_cls_loss_weight="pose_cls_weight",
               pose_reg_loss_weight="pose_reg_weight", pose_classification_loss_type="pose_cls_loss",
               rescale_pose_loss_with_assigned_score="rescale_pose_by_score", assigner_multiply_by_pose_oks="assign_by_oks")


def stream(seed: int, name: str) -> np.random.Generator:
    "Random numbers that depend on the seed and the name alone."
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def draw(seed: int, key: str, shape: list[int]) -> torch.Tensor:
    "One tensor of a state dict."
    part, random = key.rpartition(".")[2], stream(seed, key)
    if part == "num_batches_tracked":
        return torch.tensor(0)
    ranges = dict(running_mean=(-.2, .2), running_var=(.5, 1.5), alpha=(.4, .8), bias=(-.3, .3))
    if part in ranges:
        value = random.uniform(*ranges[part], shape)
    elif len(shape) == 1:
        value = random.uniform(.55, .95, shape)
    else:
        value = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        value = value * 6 if "_pred." in key else value
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def key_shapes(golden: Path, name: str, joints: int = 17) -> dict[str, list[int]]:
    "Keys and shapes of a network of the reference, in its order."
    rows = {"cls_pred": 1 + joints, "pose_pred": 2 * joints}
    stored = json.loads((golden / "keys" / f"{name}.json").read_text())
    return {key: [rows.get(key.split(".")[-2], shape[0]) if "pose" in name else shape[0], *shape[1:]] if shape else []
            for key, (shape, _) in stored.items()}


def reference_state(golden: Path, name: str, seed: int, joints: int = 17) -> dict[str, torch.Tensor]:
    "The state dict of a network of the reference, placeholders included."
    return {key: draw(seed, key, shape) for key, shape in key_shapes(golden, name, joints).items()}


def draw_images(seed: int, number: int, height: int, width: int) -> torch.Tensor:
    "Coarse blocks and noise."
    random = stream(seed, "images")
    blocks = random.random((number, 3, height // 32, width // 32), dtype=np.float32)
    noise = random.random((number, 3, height, width), dtype=np.float32)
    return torch.from_numpy(np.float32(.7) * blocks.repeat(32, 2).repeat(32, 3) + np.float32(.3) * noise)


@lru_cache
def case(golden: Path, folder: str, variant: str) -> tuple[dict, dict, YoloNASPose, torch.Tensor]:
    "Plan, stored arrays, network with its weights, images. Shared: do not change."
    plan = json.loads((golden / folder / "golden.json").read_text())
    arrays = dict(np.load(golden / folder / f"{variant}.npz"))
    skeleton = Skeleton.from_names([f"joint_{k}" for k in range(plan["joints"])], sigmas=plan["sigmas"])
    model = YoloNASPose(variant, skeleton).eval()
    report = load_weights(model, reference_state(golden, variant, plan["seed"], plan["joints"]))
    assert not report.reinitialised and all(".rbr_reparam." in key for key in report.unused)
    return plan, arrays, model, draw_images(plan["seed"], 2, plan["height"], plan["width"])


def read_targets(arrays: dict) -> Targets:
    "The people who are to be found; rows begin with the image they are in."
    return Targets(*(torch.from_numpy(arrays[f"target_{name}"]).float() for name in Targets._fields))


def make_loss(plan: dict, recipe: str) -> PoseLoss:
    "The loss of a stored configuration."
    return PoseLoss(plan["sigmas"], **{OPTIONS[name]: value for name, value in plan["recipes"][recipe].items()})
