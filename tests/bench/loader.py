"""Images per second and core of the mosaic pipeline at 640 px: ours, the same steps one by one, and super-gradients itself.

    PYTHONPATH=. python tests/bench/loader.py FOLDER [rounds]       FOLDER in COCO format, for example ../shared/data/coco_mini

All contenders read the same JPEG files and run in turns in one process, on one thread. With the Python of an environment that
holds super-gradients 3.7.1 the original itself takes part, with the transforms of its recipe for N and S. `reference` is the same
pipeline rebuilt in this package. Each image is read, changed and collated as far as both sides go: up to the sample in input px,
bytes for ours and `reference`, floats for the original, which makes them there. Prints JSON; seconds are CPU seconds of this
process, because other work on the machine does not count there, and seconds by the clock are told beside them.
"""
import json
import logging
import os
import platform
import random
import statistics
import sys
import time
import types

import cv2
import numpy as np

from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.loader import sample_rng
from yolo_nas_pose.data.mosaic import MosaicTransform
from yolo_nas_pose.data.reference import PIPELINES, ReferenceTransform
from yolo_nas_pose.data.transforms import TrainTransform

SIZE = 640


def original(data: CocoPoses, folder: str, mosaic: float):
    "super-gradients' data set with its mosaic pipeline, or None where it is not installed."
    try:
        import torch
        if not hasattr(torch.ops.torchvision, "nms"):  # a CPU build of torch has none, and the reference imports it
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            original.library = library
        try:
            import onnxsim  # noqa: F401
        except ImportError:  # only its exporter needs it
            sys.modules["onnxsim"] = types.ModuleType("onnxsim")
            sys.modules["onnxsim"].simplify = None
        from super_gradients.training.datasets.pose_estimation_datasets.coco_pose_estimation_dataset import COCOPoseEstimationDataset
        from super_gradients.training.transforms import keypoints as k
    except ImportError as error:
        print(f"super-gradients takes no part: {error}", file=sys.stderr)
        return None
    steps = [
        k.KeypointsRandomHorizontalFlip(flip_index=list(COCO17.mirror), prob=.5),
        k.KeypointsBrightnessContrast(brightness_range=[.8, 1.2], contrast_range=[.8, 1.2], prob=.5),
        k.KeypointsHSV(hgain=20, sgain=20, vgain=20, prob=.5),
        k.KeypointsRandomAffineTransform(max_rotation=5, min_scale=.75, max_scale=1.5, max_translate=.1, image_pad_value=127,
                                         mask_pad_value=1, prob=.75, interpolation_mode=[0, 1, 2, 3, 4]),
        k.KeypointsMosaic(prob=mosaic),
        k.KeypointsLongestMaxSize(SIZE, SIZE),
        k.KeypointsPadIfNeeded(min_height=SIZE, min_width=SIZE, image_pad_value=[127] * 3, mask_pad_value=1, padding_mode="center"),
        k.KeypointsImageStandardize(max_value=255),
        k.KeypointsRemoveSmallObjects(min_instance_area=1, min_visible_keypoints=1)]
    made = COCOPoseEstimationDataset(folder, os.path.relpath(data.images, folder), os.path.relpath(data.name, folder), True, steps,
                                     list(COCO17.links), None, None, crowd_annotations_action="mask_as_normal")
    return lambda epoch, index: made[index]


def contenders(folder: str, mosaic: float) -> dict:
    "What gives a sample of an epoch, by name."
    data, recipe = CocoPoses.from_folder(folder, "train"), {**PIPELINES["mosaic"], "mosaic": mosaic}
    single = TrainTransform(SIZE, COCO17, **{key: value for key, value in recipe.items() if key != "mosaic"})
    ours, steps = MosaicTransform(single, COCO17, mosaic=mosaic), ReferenceTransform(SIZE, COCO17, **recipe)

    def sample(transform):
        return lambda epoch, index: transform.from_set(data, index, sample_rng(0, epoch, index), epoch)

    return {"ours": sample(ours), "reference": sample(steps), "super-gradients": original(data, folder, mosaic),
            "reading alone": lambda epoch, index: data[index], "images": len(data)}


def measure(folder: str, mosaic: float, rounds: int) -> dict:
    "Images per second of each, the median over rounds, run in turns."
    jobs = contenders(folder, mosaic)
    count = jobs.pop("images")
    jobs = {name: job for name, job in jobs.items() if job}
    times = {name: [] for name in jobs}
    for epoch in range(rounds + 1):
        for name, job in jobs.items():
            random.seed(epoch)
            np.random.seed(epoch)
            begin = time.process_time(), time.perf_counter()
            for index in range(count):
                job(epoch, index)
            times[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    cpu, clock = [{name: count / statistics.median(pair[n] for pair in found[1:]) for name, found in times.items()} for n in (0, 1)]
    return {"images per CPU second": cpu, "images per second by the clock": clock,
            "ours / super-gradients": cpu["ours"] / cpu["super-gradients"] if "super-gradients" in cpu else None,
            "ours / reference": cpu["ours"] / cpu["reference"]}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.stdout, out = sys.stderr, sys.stdout
    cv2.setNumThreads(0)
    folder, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    found = {f"mosaic {chance}": measure(folder, chance, rounds) for chance in (.5, 0., 1.)}
    print(json.dumps({"python": platform.python_version(), "opencv": cv2.__version__, "input": SIZE, "rounds": rounds, **found}, indent=1), file=out)
