"Times of layers: whatever an engine calls a node, it is found again, in float and in INT8."
from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from yolo_nas_pose.core.toy import ToyScenes  # noqa: E402
from yolo_nas_pose.deploy import sensitivity  # noqa: E402
from yolo_nas_pose.deploy.export import export_onnx  # noqa: E402
from yolo_nas_pose.deploy.layer_times import find_layer, layer_times, path_of, time_by_layer, with_times  # noqa: E402
from yolo_nas_pose.deploy.quantize import layers, quantize_ptq  # noqa: E402
from yolo_nas_pose.deploy.runners import Candidate, NodeTime, open_runner  # noqa: E402
from yolo_nas_pose.deploy.sensitivity import Cost, plot_sensitivity, sensitivity_table, spend_budget  # noqa: E402
from yolo_nas_pose.model.pretrained import get  # noqa: E402

CONVOLUTIONS = {"Conv", "ConvTranspose", "QLinearConv", "Convolution", "ConvolutionBackpropData"}


@pytest.fixture(scope="module")
def pair():
    "The network N with toy weights, and the same in INT8 but for the predictions."
    model = get("yolo_nas_pose_n", pretrained_weights="toy").fuse()
    return model, quantize_ptq(model, ToyScenes(8, 64, seed=1001), 8, 64)


@pytest.fixture(scope="module")
def files(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [export_onnx(model, folder / f"{n}.onnx", "decoded", 64, input_type="float32", check=False) for n, model in enumerate(pair)]


def known(names):
    return {path_of(name.removeprefix("heads.")): name for name in names}


def test_names_in_the_file_lead_where_its_weights_come_from(pair, files):
    "The exporter calls weights after the module that holds them: a second way to the same layer."
    paths = known(layers(pair[1]))
    nodes = [node for node in onnx.load(files[0]).graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(nodes) == len(paths) == 111
    for node in nodes:
        held = node.input[1].removeprefix("model.").removesuffix(".weight")
        right = [name for name in paths.values() if held == name or held.startswith(name + ".")]
        assert [find_layer(node.name, paths)] == right, (node.name, held)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("which", [0, 1], ids=["float", "int8"])
def test_every_convolution_of_the_policy_finds_its_time(pair, files, engine, which):
    pytest.importorskip(engine)
    runner, made = open_runner(Candidate(files[which], engine), (64, 64), 1, 1), pair[1]
    nodes, paths = runner.nodes(np.zeros((1, 3, 64, 64), np.float32), 2), known(layers(made))
    found = {name: [node for node in nodes if node.kind in CONVOLUTIONS and find_layer(node.name, paths) == name] for name in paths.values()}
    assert {len(each) for each in found.values()} == {1}
    assert not any(node.kind in CONVOLUTIONS and not find_layer(node.name, paths) for node in nodes)
    for name, (node,) in found.items():
        whole = which and layers(made)[name].kernel.enabled and not (engine == "onnxruntime" and name.endswith("upsample"))
        assert node.precision == ("int8" if whole else "fp32"), name
    times = time_by_layer(nodes, paths.values())
    assert set(times) == {"", *paths.values()} and min(times.values()) > 0
    assert sum(times.values()) == pytest.approx(sum(node.ms for node in nodes))
    assert {row.kind for row in runner.profile(np.zeros((1, 3, 64, 64), np.float32), 2)} & CONVOLUTIONS == {node.kind for node in nodes} & CONVOLUTIONS


def test_names_without_a_path_are_refused(pair):
    nodes = [NodeTime(f"node_conv2d_{n}", "Conv", "fp32", 1.) for n in range(111)]
    with pytest.raises(ValueError, match=r"backbone.stem.* and others: 111 of 111 layers.*node_conv2d_0.*dynamo=False"):
        time_by_layer(nodes, layers(pair[1]))


def test_times_find_their_rows(pair):
    pytest.importorskip("onnxruntime")
    times = layer_times(*pair, image_size=64, runs=1, rounds=1)
    assert set(times) == {"", *layers(pair[1])}
    rows = [Cost(name, 1., .1, .05) for name in sensitivity.group_layers(layers(pair[1]), 2)]
    timed = with_times(rows, times, depth=2)
    assert sum(row.float_ms for row in timed) == pytest.approx(sum(each.float_ms for name, each in times.items() if name))
    with pytest.raises(ValueError, match="at depth=1"):
        with_times(rows, times, depth=1)
    with pytest.raises(ValueError, match="in this order"):
        layer_times(pair[0], pair[0])


def test_tables_and_figures_show_what_was_measured():
    plain, timed = Cost("a", 2., .01, .5), Cost("b", 1., .02, .5, .004, 3., 1.)
    assert "ms" not in sensitivity_table([plain]) and "AP" not in sensitivity_table([plain])
    table = sensitivity_table([timed, plain]).splitlines()
    assert table[0].endswith("| AP lost (%) | float (ms) | INT8 (ms) | won (ms) |") and {line.count("|") for line in table} == {9}
    assert table[2].endswith("| 0.4 | 3.000 | 1.000 | 2.000 |") and table[3].endswith("| – | – | – | – |")
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in (plot_sensitivity(rows) for rows in ([plain], [timed], [plain, timed]))]
    guess = ("share of the work (%)", "joints move (px)")
    assert labels == [guess, ("time won (ms)", "AP lost (%)"), guess]


def test_a_budget_spends_time_where_it_was_measured(pair, monkeypatch):
    "Of two groups that cost the same, the one that wins nothing goes back to float first, however much work it does."
    rows = [Cost("backbone.stage1", 1., 0., .01, None, 2., 1.), Cost("backbone.stage2", 1., 0., .6, None, 1., 1.2)]
    for chosen, first in ((rows, "backbone.stage2.*"), ([row._replace(float_ms=None) for row in rows], "backbone.stage1.*")):
        answers = iter([.5, .4, .5])
        monkeypatch.setattr(sensitivity, "evaluate", lambda *_: {"AP": next(answers)})
        assert spend_budget(pair[1], pair[0], [], chosen, budget=.01)[-1]["exclude"][-1] == first


def test_doubles_are_left_out_of_paths():
    assert path_of("/head3/cls_convs/cls_convs.0/seq/conv/Conv") == ("head3", "cls_convs", "0", "seq", "conv", "Conv")
    assert path_of("neck.neck1.conv") == path_of("/neck/neck1/conv/conv")
    assert Counter(path_of("")) == Counter()
