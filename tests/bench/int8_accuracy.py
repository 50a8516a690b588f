"""What eight bits cost in accuracy: the float model, each observer, a short quantisation-aware training, in torch and in the engines.

    python tests/bench/int8_accuracy.py [--scenes 200] [--images 64] [--updates 200] [--methods minmax percentile entropy mse] > result.json

Toy weights, toy scenes of 320 px: those with seed 7 to evaluate, those with seed 1001 to calibrate. One JSON line per row, as it is measured:
AP in per cent, and the difference to the float model in torch. `fake` is the quantised model in torch; onnxruntime and openvino run its ONNX file.
"""
import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolo_nas_pose.core.structures import RawPoses
from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.quantize import quantize_ptq, set_flavour, summary
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.training.evaluate import evaluate

SIZE = 320


class Outputs(nn.Module):
    "The raw outputs as a plain tuple, for the exporter."

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return tuple(self.model(images)[:4])


class Engine(nn.Module):
    "A model whose forward is an engine's."

    def __init__(self, model, file, kind):
        super().__init__()
        self.model, self.kind = model, kind
        with torch.no_grad():
            self.points, self.strides = model(torch.zeros(1, 3, SIZE, SIZE))[4:]
        if kind == "onnxruntime":
            import onnxruntime
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        else:
            import openvino
            self.session = openvino.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
        self.decode = model.decode

    def forward(self, images):
        rows = []
        for image in images.numpy():
            given = {self.session.inputs[0] if self.kind == "openvino" else "images": image[None]}
            out = self.session(given) if self.kind == "openvino" else self.session.run(None, given)
            rows.append([np.array(out[k]) for k in range(4)])
        return RawPoses(*(torch.from_numpy(np.concatenate(part)) for part in zip(*rows)), self.points, self.strides)


def export(model, file):
    "The raw outputs as ONNX."
    torch.onnx.export(Outputs(model).eval(), (torch.zeros(1, 3, SIZE, SIZE),), file, dynamo=False, opset_version=17, input_names=["images"])


def main():
    words = argparse.ArgumentParser()
    words.add_argument("--scenes", type=int, default=200)
    words.add_argument("--images", type=int, default=64)
    words.add_argument("--updates", type=int, default=200)
    words.add_argument("--methods", nargs="*", default=["minmax", "percentile", "entropy", "mse"])
    words.add_argument("--engines", nargs="*", default=["onnxruntime", "openvino"])
    words.add_argument("--keep-all", action="store_true", help="also rows without any layer left in float")
    words.add_argument("--base", type=float, help="AP of the float model in per cent, where it is known from a run before")
    words = words.parse_args()
    model = get("yolo_nas_pose_n", pretrained_weights="toy").fuse()
    base = words.base
    scenes, given = ToyScenes(words.scenes, SIZE, seed=7), ToyScenes(max(words.images, 8), SIZE, seed=1001)

    def row(name, network, engine="fake"):
        nonlocal base
        begin = time.perf_counter()
        score = 100 * evaluate(network, scenes, SIZE, 8, progress=False)["AP"]
        base = score if base is None else base
        print(json.dumps({"row": name, "in": engine, "AP": round(score, 2), "loss": round(base - score, 2), "s": round(time.perf_counter() - begin)}), flush=True)

    def everywhere(name, quantised):
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder, "model.onnx"))
            export(quantised, file)
            for kind in words.engines:
                row(name, Engine(quantised, file, kind), kind)
        row(name, quantised)
        set_flavour(quantised, "tensorrt")
        row(f"{name}, tensorrt integers", quantised)
        set_flavour(quantised, "cpu")

    print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), **vars(words)}), flush=True)
    if base is None:
        row("float", model, "torch")
    for method in words.methods:
        quantised = quantize_ptq(model, given, words.images, SIZE, method)
        print(json.dumps(summary(quantised)), flush=True)
        everywhere(method, quantised)
    if words.keep_all:
        row("minmax, all layers in integers", quantize_ptq(model, given, words.images, SIZE, "minmax", exclude=()))
    if words.updates:
        from yolo_nas_pose.deploy.qat import quantize_qat
        with tempfile.TemporaryDirectory() as folder:
            result = quantize_qat("toy", model, out=folder, images=words.images, max_steps=words.updates, train_scenes=16 * words.updates,
                                  val_scenes=8, trackers=[])
            everywhere(f"QAT, {words.updates} updates", result.model)


if __name__ == "__main__":
    main()
