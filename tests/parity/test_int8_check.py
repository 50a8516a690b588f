"The check of files in INT8: right ones pass on any scene and in any engine, a wrong scale does not."
import copy
import importlib.util

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from yolo_nas_pose.core.system import cuts_sums  # noqa: E402
from yolo_nas_pose.core.toy import ToyScenes  # noqa: E402
from yolo_nas_pose.deploy import export  # noqa: E402
from yolo_nas_pose.deploy.engine import ModelFileError, open_file  # noqa: E402
from yolo_nas_pose.deploy.export import export_onnx, export_openvino, graph_of, ready_copy  # noqa: E402
from yolo_nas_pose.deploy.quantize import quantize_ptq  # noqa: E402
from yolo_nas_pose.deploy.verify import beyond_noise, check_file, example, unrounded  # noqa: E402
from yolo_nas_pose.model.pretrained import get  # noqa: E402

SIZE = 160


def quantised(size=SIZE, seed=0):
    return quantize_ptq(get("yolo_nas_pose_n", pretrained_weights="toy"), ToyScenes(8, size, seed=1001 + seed), 8, size)


def judge(model, path, engine=None, scheme="cpu"):
    description = open_file(path)[1]
    graph = graph_of(ready_copy(model, engine=scheme)[0], description, .5, .7)
    check_file(path, graph, description, engine)


@pytest.fixture(scope="module")
def model():
    return quantised()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("int8") / "whole.onnx", "decoded", SIZE, any_size=True)


def with_scale(path, target, layer, factor):
    "The file with one scale changed, where integers become floats again. Words of the layer lead to it."
    proto = onnx.load(path)
    known = {tensor.name: tensor for tensor in proto.graph.initializer}
    known |= {node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}
    node, = (node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.name == layer)
    scale = onnx.numpy_helper.to_array(known[node.input[1]]) * np.float32(factor)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), "other_scale"))
    node.input[1] = "other_scale"
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize("seed, size, options", [(2, SIZE, {"any_size": True, "batch": None}), (3, 64, {"depth": "raw", "batch": 3}), *(
    pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 96, {"any_size": True}), (4, SIZE, {"depth": "raw", "any_size": True, "input_type": "float32"})))])
def test_right_files_pass(tmp_path, seed, size, options):
    "Other images to calibrate with give other scales, and other luck at the half-way points."
    options = {"depth": "decoded"} | options
    path = export_onnx(made := quantised(size, seed), tmp_path / "a.onnx", image_size=size, **options)
    judge(made, path)
    if importlib.util.find_spec("openvino"):  # which cannot be told to add exactly: where sums are cut, weights need a bit less
        scheme = "avx2" if cuts_sums() else "cpu"
        judge(made, export_onnx(made, tmp_path / "b.onnx", image_size=size, engine=scheme, **options), "openvino", scheme)


@pytest.mark.parametrize("layer", ["/backbone/stem/image/DequantizeLinear", "/backbone/stage2/blocks/conv3/act/quantizer/DequantizeLinear",
                                   "/neck/neck2/upsample/kernel/DequantizeLinear", "/neck/neck4/blocks/conv3/conv/kernel/DequantizeLinear",
                                   "/head1/reg_convs/reg_convs.0/seq/conv/kernel/DequantizeLinear", "/head2/pose_convs/pose_convs.1/seq/act/quantizer/DequantizeLinear"])
def test_a_scale_that_is_a_fifth_too_large_is_noticed(model, whole, tmp_path, layer):
    "In the backbone, the neck, at the largest stride, and in one head only; of weights and of values."
    judge(model, with_scale(whole, tmp_path / "same.onnx", layer, 1.))
    with pytest.raises(ModelFileError, match="off on average, where rounding itself moves them by"):
        judge(model, with_scale(whole, tmp_path / "broken.onnx", layer, 1.2))


@pytest.mark.parametrize("depth", ["decoded", "poses"])
def test_a_broken_exporter_leaves_no_file(model, tmp_path, monkeypatch, depth):
    "People are too few to notice it by, but their candidates are checked too."
    pack = export.pack_weights

    def wrong(proto):
        count = pack(proto)
        node = next(node for node in proto.graph.node if node.name == "/backbone/stage1/blocks/conv1/conv/kernel/DequantizeLinear")
        held = {tensor.name: tensor for tensor in proto.graph.initializer}
        known = held | {each.output[0]: each.attribute[0].t for each in proto.graph.node if each.op_type == "Constant"}
        known[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(known[node.input[1]]) * np.float32(1.2), known[node.input[1]].name))
        return count
    monkeypatch.setattr(export, "pack_weights", wrong)
    with pytest.raises(ModelFileError, match="rounding itself"):
        export_onnx(model, tmp_path / "a.onnx", depth, SIZE)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_are_noticed(model, whole):
    engine, description = open_file(whole)
    graph = graph_of(ready_copy(model)[0], description, .5, .7)
    images = example(description, (SIZE, SIZE), 1)
    with torch.no_grad():
        right, plain = (dict(zip(engine.outputs, (part.numpy() for part in each(torch.from_numpy(images))))) for each in (graph, unrounded(graph)))
    assert beyond_noise(right, right, plain, description, (SIZE, SIZE)) == ""
    for name in right:
        broken = copy.deepcopy(right)
        broken[name][..., :] = np.nan
        assert name in beyond_noise(broken, right, plain, description, (SIZE, SIZE))
    assert any(np.abs(plain[name] - right[name]).max() > 1e-3 for name in right)


def test_unrounded_is_the_float_model(model):
    "And the quantised one stays as it was."
    images = torch.from_numpy(ToyScenes(1, SIZE, seed=7)[0].image).movedim(-1, 0)[None] / 255
    with torch.no_grad():
        before, plain, right = model(images), unrounded(model)(images), get("yolo_nas_pose_n", pretrained_weights="toy").fuse()(images)
        torch.testing.assert_close(plain.joints, right.joints, atol=.02, rtol=0)
        torch.testing.assert_close(model(images).joints, before.joints)
    assert (before.joints - plain.joints).abs().max() > .1


def test_openvino_files_in_int8_are_compared_too(model, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    assert export_openvino(model, tmp_path / "a.xml", depth="decoded", image_size=SIZE).is_file()
    from yolo_nas_pose.deploy.engine import OpenVino
    run = OpenVino.run
    monkeypatch.setattr(OpenVino, "run", lambda self, inputs: {name: value * (1.3 if name == "boxes" else 1) for name, value in run(self, inputs).items()})
    with pytest.raises(ModelFileError, match="otherwise than onnxruntime in boxes"):
        export_openvino(model, tmp_path / "b.xml", depth="decoded", image_size=SIZE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.xml"]


@pytest.mark.parametrize("runner", ["engine", "benchmark"])
def test_products_of_bytes_are_not_cut(tmp_path, runner):
    "Two products of 255 and 127 do not fit into 16 bits: processors without VNNI would cut their sum, unless onnxruntime is told not to."
    from yolo_nas_pose.deploy.engine import OnnxRuntime
    from yolo_nas_pose.deploy.runners import Candidate, OnnxRunner
    make, number, channels = onnx.helper.make_node, onnx.numpy_helper.from_array, 3
    held = [number(np.float32(1 / 255), "sx"), number(np.uint8(0), "zx"), number(np.full(8, 1 / 127, np.float32), "sw"), number(np.zeros(8, np.int8), "zw"),
            number(np.full((8, channels, 3, 3), 127, np.int8), "w"), number(np.float32(9 * channels / 255), "sy")]
    nodes = [make("QuantizeLinear", ["images", "sx", "zx"], ["q"]), make("DequantizeLinear", ["q", "sx", "zx"], ["x"]),
             make("DequantizeLinear", ["w", "sw", "zw"], ["k"], axis=0), make("Conv", ["x", "k"], ["c"]),
             make("QuantizeLinear", ["c", "sy", "zx"], ["p"]), make("DequantizeLinear", ["p", "sy", "zx"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, *shape]) for name, shape in (("images", (channels, 8, 8)), ("y", (8, 6, 6)))]
    path, images = tmp_path / "a.onnx", np.ones((1, channels, 8, 8), np.float32)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], held), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    if runner == "engine":
        got = OnnxRuntime(path, "cpu", 1, "auto").run({"images": images})["y"]
    else:
        got = OnnxRunner(Candidate(path), (8, 8), 1, 1).run(images)[0]
    np.testing.assert_allclose(got, 9 * channels, rtol=.01)


def moved(run, far):
    "An engine that puts people, and nobody else, so many px to the right."
    def wrong(self, inputs):
        outputs = run(self, inputs)
        if "count" in outputs:
            there = np.arange(outputs["scores"].shape[1]) < np.asarray(outputs["count"]).reshape(-1, 1)
            outputs["joints"] = outputs["joints"] + far * there[..., None, None] * np.array([1, 0, 0], np.float32)
        return outputs
    return wrong


@pytest.mark.parametrize("kind, conf", [("float", .5), ("int8", .9), ("openvino int8", .5), *(pytest.param(kind, conf, marks=pytest.mark.slow) for kind, conf in (
    ("float", .9), ("int8", .5), ("openvino", .5), ("openvino", .9), ("openvino int8", .9)))])
def test_people_in_wrong_places_are_noticed(model, tmp_path, monkeypatch, kind, conf):
    "However sure a person must be, and though rounding alone moves people by more than 5 px."
    from yolo_nas_pose.deploy import engine
    where = engine.OpenVino if "openvino" in kind else engine.OnnxRuntime
    if where is engine.OpenVino:
        pytest.importorskip("openvino")
    made = model if "int8" in kind else get("yolo_nas_pose_n", pretrained_weights="toy")
    write, name = (export_openvino, "a.xml") if where is engine.OpenVino else (export_onnx, "a.onnx")
    monkeypatch.setattr(where, "run", moved(where.run, 5))
    with pytest.raises(ModelFileError, match="px away from every candidate"):
        write(made, tmp_path / name, image_size=SIZE, conf=conf)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"layout": "flat", "batch": 2}, *(pytest.param(options, marks=pytest.mark.slow) for options in (
    {}, {"conf": .95}, {"thresholds": "inputs", "any_size": True, "batch": None}))])
def test_people_of_openvino_files_are_compared_one_by_one(model, tmp_path, options):
    pytest.importorskip("openvino")
    assert export_openvino(model, tmp_path / "a.xml", image_size=SIZE, **options).is_file()
    assert export_openvino(get("yolo_nas_pose_n", pretrained_weights="toy"), tmp_path / "a.xml", image_size=SIZE, half=True, **options).is_file()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.xml"]
