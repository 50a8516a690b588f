"""A training step, and the loss alone, against the reference, alternating in one process.

Run it with the Python of an environment that holds super-gradients 3.7.1 (Python 3.11, torch 2.13, NumPy 1) and with this
repository on PYTHONPATH:  PYTHONPATH=. python tests/bench/against_reference.py > result.json

THREADS, REPEATS, and ONLY=loss in the environment change what is run. On a machine with other work, compare the processor's time of one thread.
"""
import json
import os
import statistics
import sys
import time

import torch

if not hasattr(torch.ops.torchvision, "nms"):  # a CPU build of torch has none, and the reference imports it
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.stdout, out = sys.stderr, sys.stdout
from super_gradients.training import models  # noqa: E402
from super_gradients.training.losses.yolo_nas_pose_loss import YoloNASPoseLoss  # noqa: E402

from yolo_nas_pose.core.skeleton import COCO17  # noqa: E402
from yolo_nas_pose.core.structures import RawPoses, Targets  # noqa: E402
from yolo_nas_pose.loss.pose_loss import PoseLoss  # noqa: E402
from yolo_nas_pose.model.network import YoloNASPose  # noqa: E402


def people(images: int, each: int, size: int) -> Targets:
    "Random people."
    count = images * each
    index = torch.arange(images).repeat_interleave(each).float()[:, None]
    corner, sides = torch.rand(count, 2) * size * .7, (.1 + .2 * torch.rand(count, 2)) * size
    joints = corner[:, None] + torch.rand(count, 17, 2) * sides[:, None]
    flags = (torch.rand(count, 17, 1) > .2).float() * 2
    return Targets(torch.cat([index, corner, corner + sides], 1), torch.cat([index[:, None].expand(count, 17, 1), joints, flags], 2),
                   torch.cat([index, torch.zeros(count, 1)], 1))


def alternate(repeats: int, **jobs) -> dict:
    "Seconds of each job, run in turns: the median and the least by the clock, and the median of the processor's time, which others do not disturb."
    clock, busy = ({name: [] for name in jobs} for _ in range(2))
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            begin = time.perf_counter(), time.process_time()
            job()
            clock[name].append(time.perf_counter() - begin[0])
            busy[name].append(time.process_time() - begin[1])
    ways = {"median": (clock, statistics.median), "least": (clock, min), "processor": (busy, statistics.median)}
    found = {way: {name: of(times[name][1:]) for name in jobs} for way, (times, of) in ways.items()}
    return {way: {**times, "reference / ours": times["reference"] / times["ours"]} for way, times in found.items()}


def reference_loss() -> torch.nn.Module:
    "The loss of the reference with the options of its recipe for N."
    return YoloNASPoseLoss(oks_sigmas=torch.tensor(COCO17.sigmas), classification_loss_type="focal", regression_iou_loss_type="ciou",
                           pose_classification_loss_type="focal", dfl_loss_weight=.01, pose_reg_loss_weight=34., iou_loss_weight=2.5,
                           assigner_multiply_by_pose_oks=True, rescale_pose_loss_with_assigned_score=True)


def steps(batch: int, size: int, repeats: int, layout: torch.memory_format) -> dict:
    "A whole step: forward, loss, backward, AdamW."
    torch.manual_seed(0)
    images, targets = torch.rand(batch, 3, size, size), people(batch, 4, size)
    ours, theirs = YoloNASPose("yolo_nas_pose_n").to(memory_format=layout), models.get("yolo_nas_pose_n", num_classes=17)
    losses = PoseLoss(COCO17.sigmas), reference_loss()
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-5) for model in (ours, theirs)]

    def our_step():
        total = losses[0](ours(images.contiguous(memory_format=layout)), targets).total
        optimizers[0].zero_grad()
        total.backward()
        optimizers[0].step()

    def their_step():
        total = losses[1](theirs(images), targets)[0]
        optimizers[1].zero_grad()
        total.backward()
        optimizers[1].step()

    return alternate(repeats, ours=our_step, reference=their_step)


def loss_alone(batch: int, each: int, size: int, repeats: int) -> dict:
    "Assignment and loss without gradients of the network: forward and backward to the raw outputs."
    torch.manual_seed(0)
    model, targets = YoloNASPose("yolo_nas_pose_n").eval(), people(batch, each, size)
    with torch.no_grad():
        raw = model(torch.rand(1, 3, size, size))
    raw = RawPoses(*(part.expand(batch, *part.shape[1:]).clone().requires_grad_() for part in raw[:4]), *raw[4:])
    anchors = torch.cat([raw.points - 2.5 * raw.strides, raw.points + 2.5 * raw.strides], 1)
    counts = [(size // s)**2 for s in (8, 16, 32)]
    theirs = (None, (raw.cls_logits, raw.box_bins, raw.joints, raw.joint_logits, anchors, raw.points, counts, raw.strides))
    losses = PoseLoss(COCO17.sigmas), reference_loss()
    equal = losses[0](raw, targets).total.item(), losses[1](theirs, targets)[0].item()
    found = alternate(repeats, ours=lambda: losses[0](raw, targets).total.backward(), reference=lambda: losses[1](theirs, targets)[0].backward())
    return {**found, "values": equal}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    repeats = int(os.environ.get("REPEATS", "7"))
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "repeats": repeats,
              "loss, batch 16, 10 people each, 640 px": loss_alone(16, 10, 640, repeats)}
    if os.environ.get("ONLY") != "loss":
        result |= {"step, batch 8, 320 px, float32": steps(8, 320, repeats, torch.contiguous_format),
                   "step, batch 8, 320 px, float32, ours channels last": steps(8, 320, repeats, torch.channels_last)}
    print(json.dumps(result, indent=1), file=out)
