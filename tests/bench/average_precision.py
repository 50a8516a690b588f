"""OKS-AP of a whole validation set: how long the two engines take, in one run, and how far apart their numbers are.

    python tests/bench/average_precision.py > result.json

5,000 images with 20 detections each and as many people as in COCO's validation set are made up. The engines take turns; the shortest CPU time of each counts.
"judging" starts from labels and detections that were checked and sorted by image. "all" starts from lists of records: `evaluate_coco` with our engine
against pycocotools as people use it, from `loadRes` to the curves.
"""
import contextlib
import io
import json
import os
import platform
import sys
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.metric.average_precision import evaluate_coco, judge_all, judge_with_pycocotools
from yolo_nas_pose.metric.trial import read_trial

IMAGES, PEOPLE, DETECTIONS = 5_000, 11_004, 20


def make(images: int, people: int, detections: int) -> tuple[dict, list]:
    "Labels, and detections of which some are near a person and most are not."
    rng = np.random.default_rng(0)
    owners, own = np.sort(rng.integers(1, images * 2_346 // 5_000 + 1, people)), {}  # COCO: 2,346 of 5,000 images show people with joints
    annotations = []
    for n, image in enumerate(owners.tolist()):
        side = rng.uniform(30, 300, 2)
        corner = rng.uniform(0, 340, 2)
        joints = np.column_stack([corner + rng.random((17, 2)) * side, rng.choice([0, 1, 2], 17, p=[.3, .1, .6])])
        joints[joints[:, 2] == 0] = 0
        own.setdefault(image, []).append((joints, corner, side))
        annotations.append({"id": n + 1, "image_id": image, "category_id": 1, "iscrowd": int(rng.random() < .02), "bbox": [*corner.tolist(), *side.tolist()],
                            "area": float(.53 * side.prod()), "num_keypoints": int((joints[:, 2] > 0).sum()), "keypoints": joints.ravel().tolist()})
    results = []
    for image in range(1, images + 1):
        known = own.get(image, [])
        for d in range(detections):
            corner, side, score = rng.uniform(0, 340, 2), rng.uniform(30, 300, 2), rng.random() * .3
            joints = np.column_stack([corner + rng.random((17, 2)) * side, np.ones(17)])
            if d < len(known):
                (person, corner, side), off = known[d], rng.uniform(0, .1)
                joints, score = np.column_stack([person[:, :2] + rng.normal(0, off * side.mean(), (17, 2)), np.ones(17)]), 1 - 8 * off * rng.random()
            results.append({"image_id": image, "category_id": 1, "score": float(score), "bbox": [*corner.tolist(), *side.tolist()],
                            "keypoints": joints.ravel().tolist()})
    truth = {"images": [{"id": n} for n in range(1, images + 1)], "annotations": annotations,
             "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}]}
    return truth, results


def plainly(truth: dict, results: list) -> dict:
    "The numbers of pycocotools without us."
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(row) for row in results]), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"), run.stats.tolist()))


def main() -> None:
    images, rounds = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES, int(sys.argv[2]) if len(sys.argv) > 2 else 2
    truth, results = make(images, PEOPLE * images // IMAGES, DETECTIONS)
    trial = read_trial(truth, results, COCO17.sigmas, 20)
    jobs = {"judging": {"ours": lambda: judge_all(trial.scenes, trial.sigmas), "pycocotools": lambda: judge_with_pycocotools(trial, 20)},
            "all": {"ours": lambda: evaluate_coco(truth, results, COCO17.sigmas, engine="ours", pck=False), "pycocotools": lambda: plainly(truth, results)}}
    found = {"images": images, "people": len(truth["annotations"]), "detections": len(results)}
    for name, engines in jobs.items():
        times, answers = {engine: [] for engine in engines}, {}
        for _ in range(rounds):
            for engine, job in engines.items():
                begin = time.process_time()
                answers[engine] = job()
                times[engine].append(time.process_time() - begin)
        best = {engine: min(each) for engine, each in times.items()}
        a, b = answers.values()
        apart = max(abs(a[key] - b[key]) for key in b) if isinstance(a, dict) else max(float(np.abs(x - y).max()) for x, y in zip(a, b))
        assert apart < 1e-9, apart
        found[name] = {f"{engine}_s_cpu": round(value, 2) for engine, value in best.items()} | {
            "times_faster": round(best["pycocotools"] / best["ours"], 2), "largest_difference": apart}
    found |= {"AP": round(a["AP"], 4), "python": platform.python_version(), "numpy": np.__version__, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
