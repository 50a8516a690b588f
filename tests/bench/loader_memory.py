"""Memory of a loader over epochs: the main process and each worker, after every epoch.

    python tests/bench/loader_memory.py [workers [epochs [images [side]]]] > result.json

Private memory as Linux counts it, /proc/PID/smaps_rollup: pages that no other process shares.
"""
import gc
import json
import multiprocessing
import os
import platform
import sys
import tempfile

from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.broken import Tolerant
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.loader import make_loader
from yolo_nas_pose.data.mosaic import MosaicTransform
from yolo_nas_pose.data.transforms import TrainTransform


def private(pid: int | str) -> float:
    "Private memory of a process, MB."
    with open(f"/proc/{pid}/smaps_rollup") as stream:
        return sum(int(line.split()[1]) for line in stream if line.startswith("Private_")) / 1e3


def measure(workers: int = 2, epochs: int = 4, images: int = 32, side: int = 128) -> list[dict]:
    "MB after each epoch: of the main process and of its workers together."
    with tempfile.TemporaryDirectory() as folder:
        write_toy(folder, train=images, val=1, size=side)
        data, rows = Tolerant(CocoPoses.from_folder(folder, "train")), []
        single = TrainTransform(side, data.skeleton)
        loader = make_loader(data, side, 4, MosaicTransform(single, data.skeleton, .5, .2, .2), shuffle=True, workers=workers)
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for _ in loader:
                pass
            gc.collect()
            crew = [private(child.pid) for child in multiprocessing.active_children()]
            rows.append({"epoch": epoch + 1, "main_MB": round(private("self"), 1), "workers_MB": round(sum(crew), 1), "workers": len(crew)})
    return rows


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    print(json.dumps({"epochs": measure(*words), "python": platform.python_version(), "load": round(os.getloadavg()[0], 1)}, indent=1))
