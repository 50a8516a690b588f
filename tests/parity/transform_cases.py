"""Stores what super-gradients makes of one image and its labels, step by step, for `test_reference_transforms.py`.

Run with the Python of an environment that holds super-gradients 3.7.1:  python tests/parity/transform_cases.py
"""
import random
import sys
import types
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch

if not hasattr(torch.ops.torchvision, "nms"):
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
sys.modules["onnxsim"] = types.ModuleType("onnxsim")
sys.modules["onnxsim"].simplify = None
from super_gradients.training.samples import PoseEstimationSample  # noqa: E402
from super_gradients.training.transforms import keypoints as k  # noqa: E402

FLIP = [0, 2, 1, 4, 3]
SHAPES = [(37, 53), (30, 40), (45, 28), (33, 61)]


def scene(seed: int) -> PoseEstimationSample:
    "A smooth image with three people of five joints, some of them not labelled, some outside."
    rng, (height, width) = np.random.default_rng(seed), SHAPES[seed]
    image = cv2.resize(rng.integers(20, 236, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    corner = rng.uniform(0, .5, (3, 2)) * (width, height)
    sides = rng.uniform(.2, .5, (3, 2)) * (width, height)
    joints = corner[:, None] + rng.uniform(-.1, 1.1, (3, 5, 2)) * sides[:, None]
    flags = rng.integers(0, 3, (3, 5, 1))
    return PoseEstimationSample(image=image, mask=np.ones((height, width), np.float32), joints=np.concatenate([joints, flags], -1).astype(np.float32),
                                areas=rng.uniform(10, 200, 3).astype(np.float32), bboxes_xywh=np.concatenate([corner, sides], 1).astype(np.float32),
                                is_crowd=np.array([False, False, True]), additional_samples=None).sanitize_sample()


def affine(degrees, factor, x, y, interpolation):
    step = k.KeypointsRandomAffineTransform(max_rotation=30, min_scale=.5, max_scale=2, max_translate=.2, image_pad_value=127,
                                            mask_pad_value=1, interpolation_mode=[interpolation], prob=1)
    with mock.patch.object(random, "uniform", side_effect=[degrees, factor, x, y]):
        return step.apply_to_sample(scene(0))


def turn(times):
    with mock.patch.object(random, "randint", return_value=times):
        return k.KeypointsRandomRotate90(prob=1).apply_to_sample(scene(0))


def mosaic():
    sample = scene(0)
    sample.additional_samples = [scene(n) for n in (1, 2, 3)]
    return k.KeypointsMosaic(prob=1).apply_to_sample(sample)


def fit(size):
    sample = k.KeypointsLongestMaxSize(size, size).apply_to_sample(scene(0))
    return k.KeypointsPadIfNeeded(min_height=size, min_width=size, image_pad_value=127, mask_pad_value=1, padding_mode="center").apply_to_sample(sample)


def light(brightness, contrast):
    step = k.KeypointsBrightnessContrast(brightness_range=[.5, 1.5], contrast_range=[.5, 1.5], prob=1)
    with mock.patch.object(random, "uniform", side_effect=[contrast, brightness]):
        return step.apply_to_sample(scene(0))


if __name__ == "__main__":
    cases = {"flip": k.KeypointsRandomHorizontalFlip(flip_index=FLIP, prob=1).apply_to_sample(scene(0)),
             "mosaic": mosaic(), "channels": k.KeypointsReverseImageChannels(prob=1).apply_to_sample(scene(0)),
             **{f"turn {n}": turn(n) for n in range(4)}, **{f"fit {size}": fit(size) for size in (32, 96)},
             **{"affine " + " ".join(map(str, numbers)): affine(*numbers) for numbers in
                [(0, 1, .1, -.1, 1), (7, 1.3, .05, -.1, 0), (-20, .7, -.1, .2, 1), (3, 1.6, 0, .1, 2), (-5, .6, .1, .1, 3), (12, 1.1, -.05, 0, 4)]},
             "light 1.2 0.7": light(1.2, .7), "small": k.KeypointsRemoveSmallObjects(min_instance_area=100, min_visible_keypoints=1).apply_to_sample(scene(0))}
    stored = {}
    for name, sample in {**{f"scene {n}": scene(n) for n in range(4)}, **cases}.items():
        boxes = np.concatenate([sample.bboxes_xywh[:, :2], sample.bboxes_xywh[:, :2] + sample.bboxes_xywh[:, 2:]], 1)
        for part, value in zip(("image", "boxes", "joints", "areas", "crowd"), (sample.image, boxes, sample.joints, sample.areas, sample.is_crowd)):
            stored[f"{name}/{part}"] = value
    out = Path(__file__).resolve().parent.parent / "data" / "transform_cases.npz"
    np.savez_compressed(out, **stored)
    print(out, len(stored), out.stat().st_size)
