"""How long NMS takes: 8,400 anchors, the best 300 of them, IoU 0.7. In torch, in NumPy, and inside a file.

    python tests/bench/nms.py [--repeats 200]
"""
import argparse
import io
import time

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from yolo_nas_pose.core.structures import DecodedPoses
from yolo_nas_pose.deploy.export import quiet, survivors_recorded
from yolo_nas_pose.deploy.graph import pick, survivors
from yolo_nas_pose.deploy.runtime import best_first, nms
from yolo_nas_pose.model.postprocess import postprocess

ANCHORS, PRE, POST, IOU = 8400, 300, 100, .7


class Choice(nn.Module):
    "Ranking and NMS alone, as they are in the graph of people."

    def forward(self, boxes, scores):
        chances, best = scores.topk(PRE, dim=1)
        kept = survivors(pick(boxes, best), torch.tensor([IOU]), POST) * (chances >= .01)
        return (kept * torch.arange(PRE, 0, -1, dtype=torch.float32)).topk(POST, dim=1)


def scene(people, seed=0):
    "Candidates in clusters around people, as a network gives them, and doubt everywhere else."
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 500, (people, 2)), random.uniform(30, 140, (people, 2))
    owner = random.integers(0, people, ANCHORS)
    boxes = np.concatenate([corner[owner], (corner + size)[owner]], 1) + random.normal(0, 4, (ANCHORS, 4))
    scores = np.where(random.random(ANCHORS) < .05, random.uniform(.1, .95, ANCHORS), random.uniform(0, .02, ANCHORS))
    return boxes[None].astype(np.float32), scores[None].astype(np.float32)


def median(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1e3)
    return np.median(times), np.min(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    target = io.BytesIO()
    with quiet():
        torch.onnx.register_custom_op_symbolic("yolo_nas_pose::survivors", survivors_recorded, 17)
        torch.onnx.export(Choice(), tuple(map(torch.from_numpy, scene(5))), target, dynamo=False, opset_version=17, input_names=["boxes", "scores"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(target.getvalue(), options, providers=["CPUExecutionProvider"])
    print(f"{'people':>6} {'kept':>5}   {'torch, from 8,400':>18} {'NumPy, from 8,400':>18} {'NumPy, NMS of 300':>18} {'in the file':>12}   (ms, median / best; one thread)")
    for people in (3, 20, 60):
        boxes, scores = scene(people)
        joints, chances = torch.zeros(1, ANCHORS, 17, 2), torch.zeros(1, ANCHORS, 17)
        decoded = DecodedPoses(torch.from_numpy(boxes), torch.from_numpy(scores), joints, chances)
        place = best_first(scores[0], PRE)
        place = place[scores[0][place] >= .01]
        ways = (lambda: postprocess(decoded, .01, IOU, PRE, POST), lambda: nms(boxes[0][best_first(scores[0], PRE)], IOU, POST),
                lambda: nms(boxes[0][place], IOU, POST), lambda: session.run(None, {"boxes": boxes, "scores": scores}))
        kept = len(nms(boxes[0][place], IOU, POST))
        assert kept == len(ways[0]()[0].scores) == int((ways[3]()[0] > 0).sum())
        print(f"{people:6d} {kept:5d}   " + " ".join(f"{f'{m:.2f} / {b:.2f}':>18}" for m, b in (median(way, repeats) for way in ways)))


if __name__ == "__main__":
    main()
