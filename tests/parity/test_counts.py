"Operations counted in files equal those counted by hand, whatever the operator and however shapes are written."
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from yolo_nas_pose.deploy.counts import count_graph  # noqa: E402

make, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def graph(nodes, weights, shape=(1, 3, 8, 8)):
    info = [make.make_tensor_value_info(name, FLOAT, dims) for name, dims in (("x", shape), ("y", None))]
    kept = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    return make.make_model(make.make_graph(nodes, "g", info[:1], info[1:], kept), opset_imports=[make.make_opsetid("", 17)], ir_version=8)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("weight, options, macs", [
    (ones(6, 3, 3, 3), {"pads": [1] * 4}, 6 * 64 * 27),
    (ones(6, 3, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}, 6 * 16 * 27),
    (ones(3, 1, 3, 3), {"pads": [1] * 4, "group": 3}, 3 * 64 * 9)])
def test_convolutions(weight, options, macs):
    cost = count_graph(graph([make.make_node("Conv", ["x", "w"], ["y"], **options)], {"w": weight}), 8)
    assert cost.layers[0].macs == macs and cost.parameters == weight.size and cost.int8_share == 0
    assert cost.moved == 4 * (3 * 64 + weight.size + macs // (weight.size // weight.shape[0]))


def test_thresholds_are_inputs_too():
    model = graph([make.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), make.make_node("Sub", ["c", "conf"], ["y"])], {"w": ones(6, 3, 3, 3)})
    model.graph.input.append(make.make_tensor_value_info("conf", FLOAT, (1,)))
    cost = count_graph(model, 8)
    assert cost.layers[0].macs == 6 * 64 * 27 and cost.inputs == {"x": (1, 3, 8, 8), "conf": (1,)}


def test_gemm_with_a_transposed_side_and_shapes_made_at_run_time():
    nodes = [make.make_node("Shape", ["x"], ["s"]), make.make_node("Slice", ["s", "zero", "two"], ["first"]),
             make.make_node("Concat", ["first", "rest"], ["target"], axis=0), make.make_node("Reshape", ["x", "target"], ["r"]),
             make.make_node("Squeeze", ["r", "zero"], ["m"]), make.make_node("Gemm", ["m", "w"], ["y"], transA=1)]
    weights = {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1]), "w": ones(3, 5)}
    assert count_graph(graph(nodes, weights), 8).layers[0].macs == 64 * 5 * 3


def test_both_ways_to_write_int8():
    scale, zero, bytes_zero = {"s": np.float32(.1)}, {"z": np.uint8(0)}, {"i": np.int8(0)}
    weight = {"w": np.ones((6, 3, 3, 3), np.int8)}
    quantise = make.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    linear = [quantise, make.make_node("QLinearConv", ["q", "s", "z", "w", "s", "i", "s", "z"], ["o"], pads=[1] * 4), make.make_node("DequantizeLinear", ["o", "s", "z"], ["y"])]
    pairs = [quantise, make.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]), make.make_node("DequantizeLinear", ["w", "s", "i"], ["v"]),
             make.make_node("Conv", ["d", "v"], ["y"], pads=[1] * 4)]
    half = [make.make_node("DequantizeLinear", ["w", "s", "i"], ["v"]), make.make_node("Conv", ["x", "v"], ["y"], pads=[1] * 4)]
    for nodes, share in ((linear, 1), (pairs, 1), (half, 0)):
        cost = count_graph(graph(nodes, scale | zero | bytes_zero | weight), 8)
        assert cost.int8_share == share and cost.layers[0].macs == 6 * 64 * 27 and cost.parameters == 162
