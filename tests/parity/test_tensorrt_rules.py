"""What the manual of TensorRT's ONNX parser allows, read off our files: operations, types, the places of the Q/DQ pairs.

The parser itself cannot be had without NVIDIA's own package index, so no file was parsed here. The table holds the operations that our files use,
as onnx-tensorrt lists them for TensorRT 10.15 (docs/operators.md): bytes are known as an input and to Cast, and to nothing else."""

from collections import Counter

import numpy as np
import pytest

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.export import export_onnx
from yolo_nas_pose.deploy.quantize import quantize_ptq
from yolo_nas_pose.model.pretrained import get

onnx = pytest.importorskip("onnx")
FLOATS, NUMBERS = {"FLOAT", "FLOAT16"}, {"FLOAT", "FLOAT16", "INT32", "INT64"}
ANY = NUMBERS | {"BOOL"}
ALLOWED = dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "NonMaxSuppression", "NonZero", "QuantizeLinear", "Sigmoid", "Softmax"), FLOATS) | dict.fromkeys(
    ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "Mod", "Mul", "Range", "ReduceSum", "Relu", "ScatterND", "Sub", "TopK"), NUMBERS) | dict.fromkeys(
    ("Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Where"), ANY) | {
    "Cast": ANY | {"UINT8"}, "DequantizeLinear": {"INT8"}}


@pytest.fixture(scope="module")
def toy():
    return get("yolo_nas_pose_n", pretrained_weights="toy")


@pytest.fixture(scope="module")
def int8(toy, tmp_path_factory):
    "The graph of a quantised model for TensorRT."
    model = quantize_ptq(toy, ToyScenes(8, 128, seed=1), 8, 128)
    return onnx.load(export_onnx(model, tmp_path_factory.mktemp("int8") / "int8.onnx", "raw", 128, engine="tensorrt", check=False))


def constants(proto):
    "Tensors by name that are known before the graph runs."
    return {each.name: each for each in proto.graph.initializer} | {
        node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}


def complaints(proto):
    "Operations, with the type of their first input, that the manual does not have."
    read = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*read.input, *read.output, *read.value_info)}
    kinds |= {name: tensor.data_type for name, tensor in constants(proto).items()}
    used = {(node.op_type, onnx.TensorProto.DataType.Name(kinds[node.input[0]])) for node in read.node if node.op_type != "Constant"}
    return {(name, kind) for name, kind in used if kind not in ALLOWED.get(name, ())}


@pytest.mark.parametrize("options", [dict(depth="raw"), dict(depth="decoded"), dict(depth="poses"), dict(thresholds="inputs"), dict(channel_order="rgb"),
                                     dict(depth="raw", channel_order="rgb", precision="fp16"), dict(batch=None, any_size=True)],
                         ids=lambda options: "-".join(map(str, options.values())))
def test_the_manual_has_every_operation(toy, tmp_path, options):
    proto = onnx.load(export_onnx(toy, tmp_path / "a.onnx", image_size=128, check=False, **options))
    assert not complaints(proto)
    assert 9 <= proto.opset_import[0].version <= 20  # what TensorRT 10.0 reads


def test_best_candidates_are_sorted_and_few(toy, tmp_path):
    "TopK must be sorted, and K below 3840."
    proto = onnx.load(export_onnx(toy, tmp_path / "a.onnx", image_size=640, check=False))
    found = [node for node in proto.graph.node if node.op_type == "TopK"]
    known = constants(proto)
    assert len(found) == 2
    for node in found:
        assert all(each.i == 1 for each in node.attribute if each.name in ("sorted", "largest"))
        assert int(onnx.numpy_helper.to_array(known[node.input[1]]).item()) < 3840


def test_flat_rows_ask_for_more_than_the_manual_promises(toy, tmp_path):
    "NonZero of a boolean is listed for floats alone: the page sends users to layout=\"batch\"."
    proto = onnx.load(export_onnx(toy, tmp_path / "a.onnx", image_size=128, layout="flat", check=False))
    assert complaints(proto) == {("NonZero", "BOOL")}


def test_pairs_have_integers_around_zero(int8):
    assert not complaints(int8)
    known = constants(int8)
    for node in int8.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = onnx.numpy_helper.to_array(known[node.input[2]])
            assert zero.dtype == np.int8 and not zero.any()
            assert (onnx.numpy_helper.to_array(known[node.input[1]]) > 0).all()


def test_pairs_stand_where_they_can_be_merged(int8):
    """Each quantised convolution, sum and join reads integers on all sides, and its one reader makes integers of the result.

    So no float map lies between two layers in INT8, and nothing has to be written twice."""
    makers = {name: node for node in int8.graph.node for name in node.output}
    readers = Counter(name for node in int8.graph.node for name in node.input)

    def kind(name):
        "What made a map; pooling keeps what it is given."
        node = makers.get(name)
        while node is not None and node.op_type in ("Identity", "MaxPool"):
            node = makers.get(node.input[0])
        return node.op_type if node is not None else "weight"

    sums = Counter()
    for node in int8.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            sums[node.op_type, kind(node.input[0]), kind(node.input[1])] += 1
        elif node.op_type in ("Add", "Concat"):
            sums[(node.op_type, *{kind(name) for name in node.input})] += 1
    whole = "DequantizeLinear"
    assert sums == {("Conv", whole, whole): 100, ("Conv", whole, "weight"): 9, ("ConvTranspose", whole, whole): 2, ("Add", whole): 19, ("Concat", whole): 13}
    quantised = [node.input[0] for node in int8.graph.node if node.op_type == "QuantizeLinear"]
    assert Counter(kind(name) for name in quantised) == {"weight": 102, "Relu": 100, "Add": 19, "Concat": 13, "ConvTranspose": 2, "Mul": 1}
    assert all(readers[name] == 1 for name in quantised)
