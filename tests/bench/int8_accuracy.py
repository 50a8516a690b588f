r"""What eight bits cost in accuracy: the float model, each observer, a short quantisation-aware training, in torch and in the engines.

    python tests/bench/int8_accuracy.py [--model toy] [--scenes 500] [--methods minmax percentile entropy mse] [--updates 150] > result.jsonl
    python tests/bench/int8_accuracy.py --model runs/overfit/best.safetensors --data coco_mini --updates 40 > result.jsonl

Without --data, toy scenes of 320 px: those with seed 7 to evaluate, those with seed 1001 to calibrate. With it, the eight photographs of people that
`tutorials/overfit` learns by heart, out of that folder, for both. One JSON line per row, as it is measured: AP in per cent, and what was lost against
the float model in torch. `fake` is the quantised model in torch; the engines run the file that `export_onnx` writes, by `evaluate_file`, which is what
`validate FILE` does. OpenVINO computes what is left in float as the name behind the colon says.

The S of the record was trained for 40 minutes on two cores (46,000 scenes of 192 px, AP 47.0 on 100; AdamW in PyTorch's fused kernel,
there and in the quantisation-aware training, which has been taken back since), and is judged with --size 192:

    yolo-nas-pose train toy model=yolo_nas_pose_s weights=null image_size=192 batch_size=16 train_scenes=46000 val_scenes=100 epochs=1 lr=0.002 \
        workers=1 trackers=[] ema_decay=0.998 --out runs/S
"""
import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.deploy.export import export_onnx
from yolo_nas_pose.deploy.qat import quantize_qat
from yolo_nas_pose.deploy.quantize import quantize_ptq, set_scheme, summary
from yolo_nas_pose.deploy.runtime import OnnxPose, evaluate_file
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.training.evaluate import evaluate

ENGINES = ["onnxruntime", "openvino:f32", "openvino:bf16"]


class Photographs:
    "The first eight photographs with at most three labelled people, none of them tiny; several times over, if asked."

    def __init__(self, folder, times=1):
        self.data, rows = CocoPoses.from_folder(folder, "train"), []
        for n in range(len(self.data)):
            known, sides = (self.data[n].joints[..., 2] > 0).sum(1), self.data[n].areas ** .5 / max(self.data[n].image.shape[:2])
            if known.max(initial=0) >= 8 and (known > 0).sum() <= 3 and sides[known > 0].min() > 1 / 12:
                rows.append(n)
        self.rows, self.skeleton = rows[:8] * times, self.data.skeleton

    def __len__(self): return len(self.rows)

    def __getitem__(self, n): return self.data[self.rows[n]]

    def ground_truth(self):
        truth, keep = self.data.ground_truth(), {self[n].image_id for n in range(8)}
        return truth | {"images": [image for image in truth["images"] if image["id"] in keep],
                        "annotations": [person for person in truth["annotations"] if person["image_id"] in keep]}


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--model", default="toy", help='"toy" or a checkpoint')
    words.add_argument("--data", help="folder of labelled photographs; none: toy scenes")
    words.add_argument("--size", type=int, default=320)
    words.add_argument("--scenes", type=int, default=500)
    words.add_argument("--images", type=int, default=64, help="for calibration")
    words.add_argument("--updates", type=int, default=150, help="of quantisation-aware training; 0: none")
    words.add_argument("--batch", type=int, default=8, help="images of an update")
    words.add_argument("--qat-method", default="minmax", help="how the ranges are found before quantisation-aware training")
    words.add_argument("--methods", nargs="*", default=["minmax", "percentile", "entropy", "mse"])
    words.add_argument("--scheme", default="cpu", help="integers of the files: cpu, or avx2 with weights of seven bits")
    words.add_argument("--engines", nargs="*", default=ENGINES)
    words.add_argument("--base", type=float, help="AP of the float model in per cent, where it is known from a run before")
    words = words.parse_args()
    model = (get("yolo_nas_pose_n", pretrained_weights="toy") if words.model == "toy" else get(words.model)).fuse()
    if words.data:
        judged, given = Photographs(words.data), Photographs(words.data, 8)
    else:
        judged, given = ToyScenes(words.scenes, words.size, seed=7), ToyScenes(max(words.images, 8), words.size, seed=1001)
    base = words.base

    def row(name, where, measure):
        nonlocal base
        begin = time.perf_counter()
        score = 100 * measure()["AP"]
        base = score if base is None else base
        print(json.dumps({"row": name, "in": where, "AP": round(score, 2), "loss": round(base - score, 2), "s": round(time.perf_counter() - begin)}), flush=True)

    def in_engines(name, network):
        with tempfile.TemporaryDirectory() as folder:
            file = export_onnx(network, Path(folder, "model.onnx"), depth="decoded", image_size=words.size, engine=words.scheme)
            for engine in words.engines:
                kind, _, precision = engine.partition(":")
                row(name, engine, lambda: evaluate_file(OnnxPose(file, kind, precision=precision or "auto"), judged))

    def everywhere(name, quantised):
        set_scheme(quantised, words.scheme)
        in_engines(name, quantised)
        row(name, "fake", lambda: evaluate(quantised, judged, words.size, 8, progress=False))
        set_scheme(quantised, "tensorrt")
        row(f"{name}, tensorrt integers", "fake", lambda: evaluate(quantised, judged, words.size, 8, progress=False))
        set_scheme(quantised, "cpu")

    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), **vars(words)}), flush=True)
    if base is None:
        row("float", "torch", lambda: evaluate(model, judged, words.size, 8, progress=False))
        in_engines("float", model)
    for method in words.methods:
        quantised = quantize_ptq(model, given, words.images, words.size, method)
        print(json.dumps(summary(quantised)), flush=True)
        everywhere(method, quantised)
    if words.updates:
        still = dict(flip=0, affine_p=0, colour_p=0, epochs=1, warmup_steps=0) if words.data else {}
        data = (Photographs(words.data, words.updates), judged) if words.data else None
        with tempfile.TemporaryDirectory() as folder:
            result = quantize_qat("toy", model, folder, data, images=words.images, max_steps=words.updates, image_size=words.size,
                                  batch_size=words.batch, train_scenes=words.batch * words.updates, val_scenes=8, trackers=[], method=words.qat_method, **still)
            everywhere(f"QAT, {words.updates} updates of {words.batch}, {words.qat_method}", result.model)


if __name__ == "__main__":
    main()
