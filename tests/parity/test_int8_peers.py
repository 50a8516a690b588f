"Ranges as others find them: onnxruntime, NNCF and pytorch-quantization see the same images, and their scales stand beside ours."
import copy

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.export import export_onnx
from yolo_nas_pose.deploy.quantize import Quantizer, calibration_batches, layers, quantize_ptq, side_by_side
from yolo_nas_pose.model.pretrained import get

SIZE, IMAGES = 96, 8


@pytest.fixture(scope="module")
def scenes():
    return ToyScenes(IMAGES, SIZE, seed=1001)


@pytest.fixture(scope="module")
def toy():
    return get("yolo_nas_pose_n", pretrained_weights="toy")


@pytest.fixture(scope="module")
def ours(toy, scenes):
    return quantize_ptq(toy, scenes, IMAGES, SIZE, "minmax")


@pytest.fixture(scope="module")
def images(scenes):
    return [image[None] for batch in calibration_batches(scenes, IMAGES, SIZE) for image in batch]


@pytest.fixture(scope="module")
def file(toy, tmp_path_factory):
    "The float network, fused and folded as ours is."
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return export_onnx(toy, tmp_path_factory.mktemp("peers") / "float.onnx", depth="raw", image_size=SIZE, input_type="float32", check=False)


def plain(name):
    "A name in the file or in the model, as words; exporters repeat some, and leave out modules that are not called."
    words = [word for word in name.replace("/", ".").split(".") if word not in ("", "model", "heads")]
    return " ".join(word for n, word in enumerate(words) if word != words[n - 1] or n == 0)


def weight_scales(model):
    "Scales of the weights of each layer."
    names = {id(part): name for name, part in model.named_modules()}
    return {plain(names[id(part)]): part.kernel.scale.numpy() for part in layers(model).values()}


def node_of(name):
    "The node in the file that makes what a quantiser of ours rounds."
    for end, node in ((".act.quantizer", ".act.Relu"), (".sum", ".Add"), (".join", ".Concat"), (".upsample.output", ".upsample.ConvTranspose")):
        if name.endswith(end):
            return plain(name.removesuffix(end) + node)
    return name


def activation_tops(model):
    "Largest magnitude of each map, by the name of its node. Those that share a scale are one entry, of many names."
    parts, groups = dict(model.named_modules()), side_by_side(model.connections)
    alone = [{name} for name in model.connections.makes if not any(name in group for group in groups)]
    return [({node_of(name) for name in group}, float(parts[next(iter(group))].top), any(parts[name].signed for name in group))
            for group in [*groups, *alone] if "backbone.stem.image" not in group]


def check_weights(found, ours):
    mine = weight_scales(ours)
    assert found.keys() == mine.keys() and len(mine) == 111
    for name, scale in found.items():
        np.testing.assert_allclose(scale.ravel(), mine[name].ravel(), rtol=1e-5, err_msg=name)


def check_activations(found, ours, least):
    "`found`: node -> (lowest, highest). The peers have no shared scales, so the widest of theirs is that of our group."
    compared = set()
    for names, top, signed in activation_tops(ours):
        there = [found[name] for name in names if name in found]
        if len(there) < len(names):
            continue
        compared |= names
        step = max((high - low) / 255 for low, high in there)  # whose zero must be a whole number
        assert max(max(-low, high) for low, high in there) == pytest.approx(top, rel=1e-4, abs=step if signed else 0), names
        assert signed == any(low < 0 for low, _ in there), names
    assert len(compared) >= least, len(compared)


def test_onnxruntime(ours, images, file, tmp_path):
    onnx, quantization = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self): self.left = iter(images)
        def get_next(self): return next(({"images": image.numpy()} for image in self.left), None)

    kinds = quantization.QuantType
    quantization.quantize_static(file, tmp_path / "ort.onnx", Reader(), per_channel=True, activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
                                 calibrate_method=quantization.CalibrationMethod.MinMax, extra_options={"QDQKeepRemovableActivations": True})
    graph = onnx.load(tmp_path / "ort.onnx").graph
    known = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    check_weights({plain(name.removesuffix(".weight_scale")): known[name] for name in known if name.endswith(".weight_scale")}, ours)
    found = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = float(known[node.input[1]]), int(known[node.input[2]])
            found[plain(node.input[0].removesuffix("_output_0"))] = -zero * scale, (255 - zero) * scale
    assert found["images"] == pytest.approx((0, max(float(image.max()) for image in images)), rel=1e-5)  # ours takes the bytes as they are
    check_activations(found, ours, 100)


def test_nncf(ours, images, file):
    openvino, nncf = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    plainly = AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE, disable_channel_alignment=True, disable_bias_correction=True,
                                             activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    made = nncf.quantize(openvino.Core().read_model(file), nncf.Dataset(images, lambda image: image.numpy()), subset_size=IMAGES,
                         preset=nncf.QuantizationPreset.PERFORMANCE, advanced_parameters=plainly)
    weights, found = {}, {}
    def readers(node): return [end.get_node() for end in node.output(0).get_target_inputs()]
    for node in made.get_ops():
        if node.get_type_name() == "FakeQuantize":
            origin = node.input_value(0).get_node()
            found[plain(origin.get_friendly_name())] = tuple(float(node.input_value(k).get_node().data) for k in (1, 2))
        elif "/fq_weights" in node.get_friendly_name():  # integers times scales
            name = node.get_friendly_name().partition("/fq_weights")[0].removesuffix("/WithoutBiases")
            if "BackpropData" in name:  # nameless itself; the sum with its bias has the name
                name = next(one for one in readers(*readers(node)) if one.get_type_name() == "Add").get_friendly_name()
            weights[plain(name.rpartition("/")[0])] = node.input_value(1).get_node().data
    check_weights(weights, ours)
    check_activations(found, ours, 60)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@torch.no_grad()
def test_pytorch_quantization(toy, scenes, images, method):
    calib, rounding = pytest.importorskip("pytorch_quantization.calib"), pytest.importorskip("pytorch_quantization.tensor_quant")
    made = quantize_ptq(toy, scenes, IMAGES, SIZE, method, scheme="tensorrt")
    for name, part in layers(made).items():
        watch, kernel = calib.MaxCalibrator(8, part.kernel.axis, False), part.kernel
        watch.collect(part.weight)
        kernel.enabled, top = True, watch.compute_amax()
        torch.testing.assert_close(kernel.scale.view(top.shape), top / 127, rtol=1e-6, atol=0, msg=name)
        steps = ((kernel(part.weight) - rounding.fake_tensor_quant(part.weight, top, 8)).abs() * 127 / top).round()
        assert float(steps.max()) <= 1 and float(steps.mean()) <= 1e-3, name  # halves may fall to either side
    off, watches, parts = copy.deepcopy(made), {}, dict(made.named_modules())
    for name, part in off.named_modules():
        if isinstance(part, Quantizer):
            part.enabled = False
            if name in made.connections.makes:
                watches[name] = calib.MaxCalibrator(8, None, False) if method == "minmax" else calib.HistogramCalibrator(8, None, False)
                part.register_forward_hook(lambda part, x, out, watch=watches[name]: watch.collect(x[0]))
    for image in images:
        off(image)
    ranges = {name: float(watch.compute_amax() if method == "minmax" else watch.compute_amax("percentile", percentile=99.99))
              for name, watch in watches.items() if name != "backbone.stem.image"}
    for group in [*side_by_side(made.connections), *({name} for name in ranges)]:
        if len(group) > 1 or not any(group < other for other in side_by_side(made.connections)):
            top = float(parts[next(iter(group))].top)
            assert max(ranges[name] for name in group) == pytest.approx(top, rel=1e-5 if method == "minmax" else .01), group
