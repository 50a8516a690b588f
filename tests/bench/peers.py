"""Our networks against others, as ONNX files, in turns on this machine.

Three steps; weights are random (statistics of the norms warmed on noise), so times mean something and answers do not:

    python tests/bench/peers.py make FOLDER yolov8n yolo11n yolo26n     # Python of an environment with ultralytics (AGPL-3.0)
    python tests/bench/peers.py quantise FOLDER                          # stock recipes: onnxruntime, and NNCF if it is installed
    python tests/bench/peers.py measure FOLDER --threads 1 --out tests/bench/results/NAME.json

The record of the Xeon with AMX (50 candidates, 24 GiB of memory) is of yolo11m, yolo26n, yolo26s, yolo26m and ours, with

    --rounds 7 --profile 2 --without "(fp32 rest)" "poses fp32" "poses bf16" "pose_m stock" "pose_l stock" "yolo11m-pose fp32 onnxruntime" \\
        "yolo11m-pose stock int8 onnxruntime"

`make` without names writes ours only, and needs no other package. ultralytics is nobody's dependency here: give it an environment
of its own (`pip install --no-deps ultralytics ultralytics-thop`). On a CPU build of torch its import of torchvision fails; it
only needs the metadata of that package, so a folder `torchvision-0.28.0.dist-info` with a METADATA file is enough. Never let it
install packages by itself: this script sets YOLO_AUTOINSTALL=false. A candidate that an engine refuses becomes a row that says so. Noise
calibrates well enough for times, never for accuracy.
"""
import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
OURS = ("yolo_nas_pose_n", "yolo_nas_pose_s", "yolo_nas_pose_m", "yolo_nas_pose_l")


def warm(model, size: int = 128):
    "The model, its norms with the statistics of noise: otherwise values fade layer by layer, and tiny numbers are slow."
    import torch
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(2, 3, size, size))
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum
    return model.eval()


def make_ours(name: str, folder: Path, size: int) -> None:
    "One of our networks, fused, with its decoder, and from bytes to people (`poses`); in float, and with eight bits as our own export writes it."
    import torch

    from yolo_nas_pose.core.toy import ToyScenes
    from yolo_nas_pose.deploy.export import export_onnx
    from yolo_nas_pose.deploy.quantize import quantize_ptq
    from yolo_nas_pose.model.network import YoloNASPose
    torch.manual_seed(0)
    model = warm(YoloNASPose(name))
    eight = quantize_ptq(model, ToyScenes(8, 320), 8, 320)
    for network, end in ((model, ".onnx"), (eight, ".int8.onnx")):  # random weights: no answers to compare
        export_onnx(network, folder / f"{name}{end}", "decoded", size, input_type="float32", check=False)
        export_onnx(network, folder / f"{name}.poses{end}", "poses", size, check=False)


def make_peer(name: str, folder: Path, size: int) -> None:
    "A network of ultralytics by its own exporter, such as yolov8n, without weights."
    import torch
    from ultralytics import YOLO
    from ultralytics.nn.modules.head import Detect
    from ultralytics.nn.tasks import PoseModel
    torch.manual_seed(0)
    if hasattr(Detect, "_gather"):  # OpenVINO refuses GatherElements of YOLO26's ranking; the same rows by index become GatherND
        Detect._gather = lambda self, values, index: values[torch.arange(values.shape[0])[:, None], index]
    model = YOLO(f"{name}-pose.yaml", task="pose")
    built = warm(PoseModel(f"{name}-pose.yaml", nc=1, verbose=False))  # one class, as published; some of its files say 80
    built.args, built.task = model.model.args, "pose"
    model.model = built
    whole = {"nms": False} if name.startswith("yolo26") else {}  # keeps the end-to-end head, top-k included
    written = model.export(format="onnx", imgsz=size, opset=17, simplify=False, dynamic=False, **whole)
    os.replace(written, folder / f"{name}-pose.onnx")


def noise(path: Path, count: int):
    "Inputs for calibration: noise, which is enough for times."
    import numpy as np
    import onnx
    value = onnx.load(path, load_external_data=False).graph.input[0]
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    return [{value.name: rng.random(shape, np.float32)} for _ in range(count)]


def quantise_ort(path: Path, count: int) -> None:
    "quantize_static as it comes: bytes without sign for values, with sign for weights, one scale per channel, all operators."
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        left = iter(noise(path, count))
        def get_next(self): return next(self.left, None)
    quantize_static(str(path), str(path.with_suffix(".ort-int8.onnx")), Reader(), per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def quantise_nncf(path: Path, count: int) -> None:
    "nncf.quantize on OpenVINO's graph: MIXED for others, PERFORMANCE for ours, whose activations are all ReLU."
    import nncf
    import openvino
    preset = nncf.QuantizationPreset.PERFORMANCE if path.name.startswith("yolo_nas") else nncf.QuantizationPreset.MIXED
    inputs = [next(iter(each.values())) for each in noise(path, count)]
    model = nncf.quantize(openvino.Core().read_model(path), nncf.Dataset(inputs), preset=preset, subset_size=count)
    openvino.save_model(model, path.with_suffix(".nncf-int8.xml"), compress_to_fp16=False)


def candidates(folder: Path, only: list[str]) -> list:
    "Everything in the folder, in the engines and precisions that can run it."
    from yolo_nas_pose.deploy.runners import Candidate
    found = []
    for path in sorted([*folder.glob("*.onnx"), *folder.glob("*.xml")]):
        base = path.name.split(".")[0]
        if only and not any(word in path.name for word in only):
            continue
        peer, base = base, base + " poses" * (".poses." in path.name)
        if path.name.endswith(".xml"):
            found += [Candidate(path, "openvino", rest, f"{base} stock int8 OpenVINO ({rest} rest)", peer) for rest in ("fp32", "bf16")]
        elif path.name.endswith(".ort-int8.onnx"):
            found.append(Candidate(path, "onnxruntime", "fp32", f"{base} stock int8 onnxruntime", peer))
        else:
            eight = path.name.endswith(".int8.onnx")
            found.append(Candidate(path, "onnxruntime", "fp32", f"{base} {'int8' if eight else 'fp32'} onnxruntime", peer))
            found += [Candidate(path, "openvino", rest, f"{base} {f'int8 OpenVINO ({rest} rest)' if eight else f'{rest} OpenVINO'}", peer) for rest in ("fp32", "bf16")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "quantise", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="make: networks of ultralytics, or ours; quantise, measure: words that file names must hold")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=.5)
    parser.add_argument("--runs", type=int, default=3, help="least runs of a burst")
    parser.add_argument("--profile", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="*", default=[])
    parser.add_argument("--engines", nargs="*", default=[], help="words that candidates must hold, such as onnxruntime or bf16")
    parser.add_argument("--without", nargs="*", default=[], help="words that candidates must not hold; all of them stay loaded, so memory sets a bound")
    parser.add_argument("--calibrate", type=int, default=8, help="noise images")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.step == "make":
        for name in args.names or OURS:
            (make_ours if name in OURS else make_peer)(name, args.folder, args.size)
            print("made", name, flush=True)
        return
    if args.step == "quantise":
        plain = [p for p in sorted(args.folder.glob("*.onnx")) if "int8" not in p.name and ".poses" not in p.name]
        for path in (p for p in plain if not args.names or any(name in p.name for name in args.names)):
            for work in (quantise_ort, quantise_nncf):
                try:
                    work(path, args.calibrate)
                    print(work.__name__, path.name, flush=True)
                except Exception as error:  # a tool that is missing or refuses a graph: the others go on
                    print(f"{work.__name__} failed for {path.name}: {error}", file=sys.stderr, flush=True)
        return
    from yolo_nas_pose.deploy.benchmark import benchmark
    from yolo_nas_pose.deploy.frontier import accuracy_table
    from yolo_nas_pose.deploy.timings import timing_table
    chosen = [each for each in candidates(args.folder, args.names) if (not args.engines or any(word in each.name for word in args.engines)) and not any(word in each.name for word in args.without)]
    result = benchmark(chosen, image_size=args.size, threads=args.threads, rounds=args.rounds, burst_seconds=args.seconds, burst_runs=args.runs,
                       profile_runs=args.profile, streams=args.streams, skip_bad=True)
    if args.out:
        result.save(args.out)
    print(timing_table(result), "\n")
    print(accuracy_table(result, names=sorted({each.peer for each in chosen})))


if __name__ == "__main__":
    main()
