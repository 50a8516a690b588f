"""Labels of the size of COCO: how long an index takes, what it weighs, and what it weighs again in each worker.

    python tests/bench/labels.py > result.json

118,287 images and 262,465 people are made up, with outlines, as in person_keypoints_train2017.json, and written to a temporary file.
Memory is the private memory of processes as Linux counts it, /proc/PID/smaps_rollup.
"""
import gc
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.data.categories import choose_skeleton
from yolo_nas_pose.data.coco import CocoPoses, index_labels
from yolo_nas_pose.data.files import read_labels

IMAGES, PEOPLE = 118_287, 262_465


def make(file: Path, images: int, people: int) -> None:
    "Writes a label file."
    rng = np.random.default_rng(0)
    owners = rng.integers(0, max(1, images * 64_115 // IMAGES), people)  # images with people, of all
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}
    with open(file, "w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        for n in range(images):
            url = f"http://images.cocodataset.org/train2017/{n:012d}.jpg"
            stream.write((", " if n else "") + json.dumps({"license": 3, "file_name": f"{n:012d}.jpg", "coco_url": url, "height": 480, "width": 640,
                                                           "date_captured": "2013-11-14 11:18:45", "flickr_url": url, "id": n + 1}))
        stream.write('], "annotations": [')
        for n, owner in enumerate(owners.tolist()):
            flags = rng.integers(0, 3, 17) * (rng.random() < .57)
            joints = np.column_stack([rng.integers(0, 480, (17, 2)) * (flags > 0)[:, None], flags])
            box = (rng.random(4) * 300 + 1).round(2).tolist()
            stream.write((", " if n else "") + json.dumps({
                "segmentation": [(rng.random(50) * 480).round(2).tolist()], "num_keypoints": int((flags > 0).sum()), "area": box[2] * box[3] / 2,
                "iscrowd": 0, "keypoints": joints.ravel().tolist(), "image_id": owner + 1, "bbox": box, "category_id": 1, "id": n + 1}))
        stream.write(f'], "categories": [{json.dumps(category)}]}}')


def private() -> float:
    "MB that belong to this process alone."
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def worker(data: CocoPoses, answers: multiprocessing.Queue, all_read: multiprocessing.Barrier) -> None:
    "Reads every label, as a loader does in an epoch, and says what it weighs while all workers hold theirs."
    total = sum(float(part.sum()) for part in (data.labels.boxes, data.labels.joints, data.labels.areas, data.labels.starts))
    for i in range(0, len(data), 97):
        data.labels.people(i)
    gc.collect()
    all_read.wait(600)
    answers.put((private(), total))
    all_read.wait(600)


def weigh(data: CocoPoses, method: str, workers: int = 2) -> list[tuple]:
    "What each of some workers weighs."
    context = multiprocessing.get_context(method)
    answers, all_read = context.Queue(), context.Barrier(workers)
    crew = [context.Process(target=worker, args=(data, answers, all_read)) for _ in range(workers)]
    for one in crew:
        one.start()
    found = [answers.get(timeout=600) for _ in crew]
    for one in crew:
        one.join()
    return found


def main() -> None:
    images, people = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (IMAGES, PEOPLE)
    with tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder, "big.json"), Path(folder, "small.json")
        make(big, images, people), make(small, 10, 10)
        tiny = CocoPoses(small, folder)
        before, cpu, wall = private(), time.process_time(), time.perf_counter()
        data = CocoPoses(big, folder)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        gc.collect()
        after, peak = private(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        result = {"images": images, "people": people, "file_MB": round(big.stat().st_size / 1e6, 1), "index_s_cpu": round(cpu, 2),
                  "index_s_wall": round(wall, 2), "arrays_MB": round(sum(part.nbytes for part in data.labels) / 1e6, 1),
                  "held_MB": round(after - before, 1), "peak_MB": round(peak, 1)}
        for method in ("fork", "spawn"):
            base, loads = weigh(tiny, method), weigh(data, method)
            assert len({total for _, total in loads}) == 1
            result[f"{method}_worker_more_MB"] = round(max(load for load, _ in loads) - min(load for load, _ in base), 1)
        begin = time.process_time()
        content = read_labels(big)[0]
        index_labels(content, choose_skeleton(content["categories"], None, "big"), "big")
        result["untrimmed_index_s_cpu"] = round(time.process_time() - begin, 2)
        result["untrimmed_peak_MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    result |= {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
