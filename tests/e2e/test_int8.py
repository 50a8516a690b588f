"A quantised model as people use it: files, evaluation, prediction, training, and the graphs that engines run."
import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from yolo_nas_pose.core.system import cuts_sums
from yolo_nas_pose.core.structures import DecodedPoses
from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.engine import open_file
from yolo_nas_pose.deploy.export import export_onnx
from yolo_nas_pose.deploy.qat import quantize_qat
from yolo_nas_pose.deploy.quantize import is_quantized, layers, quantize_ptq, set_scheme, set_policy
from yolo_nas_pose.model.postprocess import postprocess
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.model.weights import save_checkpoint
from yolo_nas_pose.training.evaluate import evaluate

SIZE = 96


class Outputs(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return tuple(self.model(images)[:4])


@pytest.fixture(scope="module")
def ready():
    return quantize_ptq(get("yolo_nas_pose_n", pretrained_weights="toy"), ToyScenes(8, SIZE, seed=1001), 8, SIZE)


@pytest.fixture(scope="module")
def image():
    return torch.from_numpy(ToyScenes(2, SIZE, seed=7)[1].image).movedim(-1, 0)[None] / 255  # people that the toy weights see


def export(model, path, dynamo):
    options = dict(dynamo=True, opset_version=18, external_data=False, verbose=False) if dynamo else dict(dynamo=False, opset_version=17)
    torch.onnx.export(Outputs(model).eval(), (torch.zeros(1, 3, SIZE, SIZE),), str(path), input_names=["images"], **options)
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(path))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def constants(graph):
    from onnx import numpy_helper
    found = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in graph.graph.node:  # the older exporter shares equal constants by Identity
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def check_concats(graph):
    "The maps of the network that lie side by side have one scale before and after."
    known, makers = constants(graph), {name: node for node in graph.graph.node for name in node.output}
    seen = 0
    for node in graph.graph.node:
        origins = [makers.get(name) for name in node.input]
        if node.op_type != "Concat" or not all(one is not None and one.op_type in ("DequantizeLinear", "MaxPool") for one in origins):
            continue
        while any(one.op_type == "MaxPool" for one in origins):
            origins = [makers[one.input[0]] if one.op_type == "MaxPool" else one for one in origins]
        after = next(one for one in graph.graph.node if node.output[0] in one.input)
        assert after.op_type == "QuantizeLinear"
        assert len({float(known[one.input[1]]) for one in [*origins, after]}) == 1, node.name
        seen += 1
    assert seen == 13


def run(path, image, optimised=None, whole_sums=cuts_sums()):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if whole_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"images": image.numpy()})


def check_joints(raw, joints):
    sure = raw.cls_logits[0, :, 0].sigmoid() > .3
    moves = (torch.from_numpy(np.asarray(joints)) - raw.joints)[0, sure].norm(dim=-1).flatten()
    assert len(moves) > 30 and moves.quantile(.99) < 2


@torch.no_grad()
def check_cpu(model, image, folder, dynamo):
    onnx = pytest.importorskip("onnx")
    graph = export(model, folder / "cpu.onnx", dynamo)
    check_concats(graph)
    out = run(folder / "cpu.onnx", image, folder / "fast.onnx")
    check_joints(model(image), out[2])
    kinds = Counter(node.op_type for node in onnx.load(str(folder / "fast.onnx")).graph.node)
    whole = sum(isinstance(part, nn.Conv2d) and part.kernel.enabled for part in layers(model).values())
    assert (kinds["QLinearConv"], kinds["Conv"] + kinds["FusedConv"], kinds["Relu"]) == (whole, 9, 0)
    assert kinds["QLinearAdd"] == 19 and kinds["QLinearConcat"] == 13


def test_onnxruntime_computes_in_integers(ready, image, tmp_path):
    check_cpu(ready, image, tmp_path, dynamo=False)


@pytest.mark.slow
def test_onnxruntime_computes_in_integers_with_the_newer_exporter(ready, image, tmp_path):
    check_cpu(ready, image, tmp_path, dynamo=True)


@torch.no_grad()
def test_weights_of_seven_bits_need_no_whole_sums(ready, image, tmp_path):
    "No pair of products of a byte and a weight of up to 63 is cut, whatever the processor."
    pytest.importorskip("onnx")
    moved = copy.deepcopy(ready)
    part = next(iter(layers(moved).values()))
    part.weight[0] *= 1.2  # as training may
    path = export_onnx(moved, tmp_path / "seven.onnx", depth="decoded", image_size=SIZE, input_type="float32", engine="avx2")
    import onnx
    graph = onnx.load(str(path))
    held = [values for values in constants(graph).values() if values.dtype == np.int8 and values.ndim == 4]
    assert len(held) > 90 and max(np.abs(values.astype(int)).max() for values in held) == 63
    (cut, whole) = (run(path, image, whole_sums=one) for one in (False, True))
    for a, b in zip(cut, whole):
        np.testing.assert_allclose(a, b, atol=1e-3)
    opened, description = open_file(path)
    assert description.weight_bits == 7 and open_file(export_onnx(moved, tmp_path / "eight.onnx", "raw", SIZE))[1].weight_bits == 8


def check_tensorrt(ready, folder, dynamo):
    made = copy.deepcopy(ready)
    set_scheme(made, "tensorrt")
    graph = export(made, folder / "trt.onnx", dynamo)
    known = constants(graph)
    pairs = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) > 200
    for node in pairs:
        zero = known[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tensorrt_gets_symmetric_integers(ready, tmp_path, dynamo):
    check_tensorrt(ready, tmp_path, dynamo)


@torch.no_grad()
def test_openvino_computes_in_integers(ready, image, tmp_path):
    openvino = pytest.importorskip("openvino")
    export(ready, tmp_path / "cpu.onnx", dynamo=False)
    compiled = openvino.Core().compile_model(str(tmp_path / "cpu.onnx"), "CPU")
    told = [[str(getattr(one, "value", one)) for one in (node.get_rt_info()["layerType"], node.get_rt_info()["runtimePrecision"])]
            for node in compiled.get_runtime_model().get_ops()]
    kinds = Counter(precision for layer, precision in told if layer in ("Convolution", "Deconvolution"))
    assert kinds["u8"] + kinds["i8"] == 102 and sum(kinds.values()) == 111, kinds
    check_joints(ready(image), compiled(image.numpy())[2])


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    "Eight scenes of 320 px, all candidates in torch, and the file with the same."
    pytest.importorskip("onnx")
    model = quantize_ptq(get("yolo_nas_pose_n", pretrained_weights="toy"), ToyScenes(8, 320, seed=1001), 8, 320)
    path = export_onnx(model, tmp_path_factory.mktemp("eight") / "eight.onnx", depth="decoded", image_size=320, check=False)
    scenes = np.stack([scene.image.transpose(2, 0, 1) for scene in ToyScenes(8, 320, seed=7)])
    with torch.no_grad():
        return path, scenes, model.decode(model(torch.from_numpy(scenes) / 255))


@pytest.mark.parametrize("engine, precision", [("onnxruntime", "auto"), ("openvino", "f32"), ("openvino", "bf16")])
def test_joints_stay_within_two_pixels(eight, engine, precision):
    """Of the people that either side finds, after NMS, joints lie where the other side has them for the same anchor.

    The anchors that NMS keeps may differ: neighbours see the same person with nearly equal scores, and put its joints several px apart."""
    pytest.importorskip(engine)
    path, scenes, right = eight
    opened = open_file(path, engine, precision=precision)[0]
    outputs = [opened.run({"images": scene[None]}) for scene in scenes]
    got = DecodedPoses(*(torch.from_numpy(np.concatenate([out[name] for out in outputs])) for name in ("boxes", "scores", "joints", "joint_scores")))
    moves, counts = [], []
    for n in range(len(scenes)):
        for mine, its in ((right, got), (got, right)):
            people = postprocess(DecodedPoses(*(part[n:n + 1] for part in mine)), conf=.3)[0]
            anchors = [int((mine.joints[n] - person).abs().sum((1, 2)).argmin()) for person in people.poses[..., :2]]
            moves.append((its.joints[n, anchors] - mine.joints[n, anchors]).norm(dim=-1).flatten())
            counts.append(len(anchors))
    moves = torch.cat(moves)
    assert sum(abs(a - b) for a, b in zip(counts[::2], counts[1::2])) <= 1 and sum(counts[::2]) >= 12, counts
    assert float((moves <= 2).float().mean()) >= .99 and moves.max() < 4, moves.sort().values[-20:]


def test_float_heads_stay_float_in_the_graph(ready, tmp_path):
    made = copy.deepcopy(ready)
    set_policy(made, exclude=("heads.*",))
    graph = export(made, tmp_path / "cpu.onnx", dynamo=False)
    makers = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type == "Conv" and "/heads/" in node.name:
            assert makers.get(node.input[1]) is None or makers[node.input[1]].op_type != "DequantizeLinear"
            if "stem" not in node.name:
                assert makers[node.input[0]].op_type == "Relu"


def test_a_checkpoint_loads_itself(ready, image, tmp_path):
    again = get(save_checkpoint(tmp_path / "int8.safetensors", ready))
    assert is_quantized(again) and again.metadata["quantization"] == ready.metadata["quantization"]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(ready(image), again(image)))
    scenes = ToyScenes(2, SIZE, seed=7)
    assert evaluate(again, scenes, SIZE, progress=False)["AP"] == evaluate(ready, scenes, SIZE, progress=False)["AP"]
    found, before = (model.predict(scenes[1].image, conf=.25, image_size=SIZE)[0].prediction for model in (again, ready))
    assert len(found.scores) >= 1 and np.array_equal(found.poses, before.poses)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_prediction_in_half_precision(ready, precision):
    "The ranges and the last layers are then in half precision: a little is lost, and nothing breaks."
    scene = ToyScenes(2, SIZE, seed=7)[1].image
    whole, half = (ready.predict(scene, conf=.25, image_size=SIZE, precision=kind)[0].prediction for kind in ("fp32", precision))
    assert len(whole.scores) >= 1 and abs(len(half.scores) - len(whole.scores)) <= 1 and not np.array_equal(half.poses, whole.poses)
    gaps = np.abs(half.poses[:, None, :, :2] - whole.poses[None, ..., :2]).max((2, 3))
    assert gaps.min(0)[0] < 4 and abs(half.scores[0] - whole.scores[0]) < .1, gaps


def test_a_short_training_keeps_what_there_is(tmp_path):
    model = get("yolo_nas_pose_n", pretrained_weights="toy")
    words = dict(images=8, image_size=64, train_scenes=8, val_scenes=2, batch_size=2, val_batch_size=2, workers=0, log_every=1,
                 warmup_steps=1, trackers=[], max_steps=2)
    result = quantize_qat("toy", model, tmp_path / "run", **words)
    start = quantize_ptq(model, ToyScenes(8, 64, seed=1042), 8, 64, seed=42)
    last = get(result.folder / "last.safetensors")
    assert is_quantized(last) and last.metadata["quantization"]["scheme"] == "cpu"
    before, after = dict(start.named_parameters()), dict(last.named_parameters())
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before if name.endswith("bias"))
    assert all(torch.equal(part, dict(last.named_buffers())[name]) for name, part in start.named_buffers() if name.endswith("top"))


def test_the_command_tells_what_is_in_integers(ready, tmp_path):
    "And the size of a file of OpenVINO is that of both of its parts."
    pytest.importorskip("openvino")
    from typer.testing import CliRunner
    from yolo_nas_pose.cli import app
    told = CliRunner().invoke(app, ["export", str(save_checkpoint(tmp_path / "int8.safetensors", ready)), "--out", str(tmp_path / "a.xml"), "--depth", "raw", "--size", str(SIZE)])
    assert told.exit_code == 0, told.output
    size = sum((tmp_path / name).stat().st_size for name in ("a.xml", "a.bin")) / 1e6
    assert f"{size:.1f} MB" in told.output and "99.3 % of the multiplications in INT8, 237 pairs of Q/DQ, 9 layers in float" in told.output
    assert "openvino adds on this processor: " in told.output and " Reorder" in told.output
