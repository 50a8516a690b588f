"Benchmarks refuse what cannot be measured, say why, and keep what they know in a form that is checked."
import importlib.util
import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")

from yolo_nas_pose.core.toy import toy_scene  # noqa: E402
from yolo_nas_pose.deploy.benchmark import Host, Plan, as_candidates, benchmark  # noqa: E402
from yolo_nas_pose.deploy.counts import GraphError, count_graph  # noqa: E402
from yolo_nas_pose.deploy.export import export_onnx  # noqa: E402
from yolo_nas_pose.deploy.frontier import accuracy_of, accuracy_table, load_peers  # noqa: E402
from yolo_nas_pose.deploy.runners import Candidate, open_runner  # noqa: E402
from yolo_nas_pose.deploy.runtime import OnnxPose  # noqa: E402
from yolo_nas_pose.deploy.stages import STAGES, find_people, pass_through  # noqa: E402
from yolo_nas_pose.deploy.timings import Benchmark, Burst, Row, sum_timing, timing_table  # noqa: E402
from yolo_nas_pose.model.pretrained import get  # noqa: E402


def write_conv(path, shape=(1, 3, 64, 64)):
    "An ONNX file of one convolution from 3 to 4 channels, 3 x 3."
    make = onnx.helper
    info = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in (("images", shape), ("out", None))]
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    node = make.make_node("Conv", ["images", "weight"], ["out"], pads=[1, 1, 1, 1], name="conv")
    model = make.make_model(make.make_graph([node], "g", info[:1], info[1:], [weight]), opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a photograph", b"PK\x03\x04", b"{}"])
def test_a_file_that_is_not_onnx(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="model.onnx is not an ONNX file"):
        count_graph(path)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_says_what_it_cannot_read(tmp_path, engine):
    pytest.importorskip(engine)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    with pytest.raises(GraphError, match="cannot"):
        open_runner(Candidate(path, engine), (64, 64), 1, 1)


@pytest.mark.parametrize("engine, extra", [("onnxruntime", "[cpu]"), ("openvino", "[openvino]")])
def test_an_engine_that_is_not_installed(tmp_path, monkeypatch, engine, extra):
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(ImportError) as caught:
        open_runner(Candidate(write_conv(tmp_path / "a.onnx"), engine), (64, 64), 1, 1)
    assert extra in str(caught.value) and "pip install" in str(caught.value)


@pytest.mark.parametrize("engine, precision, says", [
    ("onnxruntime", "int8", "property of the file"), ("onnxruntime", "bf16", "asked for fp32"), ("openvino", "fp4", "fp32 or bf16"), ("tensorrt", "fp32", "engine must be one of")])
def test_words_that_do_not_exist(engine, precision, says):
    with pytest.raises(ValueError, match=says):
        Candidate("a.onnx", engine, precision)


@pytest.mark.parametrize("options, says", [
    ({"rounds": 0}, "rounds must be at least 1"), ({"burst_runs": 0}, "burst_runs"), ({"stage_runs": 0}, "stage_runs"), ({"threads": 0}, "threads"),
    ({"batch_sizes": (1, 0)}, r"batch_sizes\[1\]"), ({"batch_sizes": ()}, "batch_sizes"), ({"streams": (0,)}, r"streams\[0\]"), ({"image_size": 100}, "multiples of 32"),
    ({"image_size": 0}, "multiples of 32"), ({"max_foreign": 2}, "max_foreign"), ({"burst_seconds": -1}, "burst_seconds")])
def test_plans_that_measure_nothing(options, says):
    with pytest.raises(ValueError, match=says):
        Plan(**options).check()


def test_candidates_need_names_of_their_own():
    with pytest.raises(ValueError, match="no candidate"):
        as_candidates([])
    with pytest.raises(ValueError, match="names of their own"):
        as_candidates(["a/n.onnx", "b/n.onnx"])
    assert [each.engine for each in as_candidates(["a.onnx", "b.xml", "yolo_nas_pose_n"])] == ["onnxruntime", "openvino", "torch"]


def test_a_size_that_the_file_cannot_take(tmp_path):
    path = write_conv(tmp_path / "fixed.onnx")
    with pytest.raises(GraphError, match="made for height 64, not 96"):
        count_graph(path, 96)
    with pytest.raises(GraphError, match="made for batch 1, not 2"):
        count_graph(path, 64, batch=2)
    assert count_graph(write_conv(tmp_path / "open.onnx", ("b", 3, "h", "w")), (32, 64), batch=2).inputs == {"images": (2, 3, 32, 64)}


def test_one_bad_candidate_does_not_cost_the_others(tmp_path):
    pytest.importorskip("onnxruntime")
    good, bad = write_conv(tmp_path / "good.onnx"), tmp_path / "bad.onnx"
    bad.write_bytes(b"nothing")
    options = {"image_size": 64, "rounds": 2, "burst_seconds": 0, "burst_runs": 2, "peaks": False, "isolate": False, "profile_runs": 1, "threads": 1}
    with pytest.raises(ValueError, match="bad onnxruntime fp32: "):
        benchmark([good, bad], **options)
    result = benchmark([good, bad], **options, skip_bad=True)
    assert [bool(row.timings) for row in result.rows] == [True, False] and result.rows[1].error
    assert result.rows[0].gflops == pytest.approx(2e-9 * 4 * 64 * 64 * 27) and result.rows[0].parameters == 108
    assert result.rows[0].floor_ms is None and result.rows[0].profile
    table = timing_table(result)
    assert "not measured: " in table and {line.count("|") for line in table.splitlines() if line.startswith("|")} == {16}

    path = result.save(tmp_path / "result.json")
    assert Benchmark.load(path) == result and not list(tmp_path.glob(".result*"))
    fields = json.loads(path.read_text())
    assert set(fields) == {"schema_version", "environment", "settings", "peaks", "bandwidth", "rows"}
    assert {"p50", "p90", "p99", "foreign", "contended", "cpu", "batch"} <= set(fields["rows"][0]["timings"][0])
    assert set(Benchmark.model_json_schema()["required"]) == {"environment", "settings", "peaks", "bandwidth", "rows"}


@pytest.mark.parametrize("change", [lambda d: d.pop("rows"), lambda d: d.update(schema_version=2), lambda d: d.update(more=1),
                                    lambda d: d["rows"][0]["timings"][0].pop("p99"), lambda d: d["rows"][0].update(gflops="many")])
def test_json_that_is_no_benchmark_is_refused(tmp_path, change):
    row = Row(name="a", engine="openvino", precision="fp32", timings=[sum_timing(1, [Burst([1.], 1., 0.)])])
    data = json.loads(Benchmark(environment={}, settings={}, peaks=[], bandwidth=None, rows=[row]).model_dump_json())
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    Benchmark.load(path)
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="result.json is not a benchmark"):
        Benchmark.load(path)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_module_of_others_has_an_exporter_of_its_own(engine):
    pytest.importorskip(engine)
    with pytest.raises(ValueError, match="Conv2d is no network of ours"):
        open_runner(Candidate(torch.nn.Conv2d(3, 4, 1), engine), (64, 64), 1, 1)


def test_names_become_files_that_last_as_long_as_their_runner():
    "Profiles and streams open the file anew."
    pytest.importorskip("onnxruntime")
    runner = open_runner(Candidate("yolo_nas_pose_n", "onnxruntime"), (64, 64), 1, 1)
    assert runner.about.depth == "decoded" and runner.about.image_size == (64, 64) and not runner.bytes
    assert runner.profile(np.zeros(runner.shape, np.float32), 1)


@pytest.mark.parametrize("depth, options", [("raw", {}), ("decoded", {"input_type": "float32"}), ("poses", {"layout": "flat", "thresholds": "inputs"}),
                                            ("decoded", {"channel_order": "rgb", "batch": 2})])
def test_stages_of_our_files_find_what_users_find(tmp_path, depth, options):
    pytest.importorskip("onnxruntime")
    toy = get("yolo_nas_pose_n", pretrained_weights="toy")
    image = toy_scene(16, (160, 184), figures=2).image
    path = export_onnx(toy, tmp_path / "a.onnx", depth, 160, check=False, **options)
    right, = OnnxPose(path).find([image], .5)
    assert len(right.scores)
    batch = options.get("batch", 1)
    png = cv2.imencode(".png", image)[1].tobytes()
    for engine in ("onnxruntime", "openvino") if importlib.util.find_spec("openvino") else ("onnxruntime",):
        times, people = pass_through(open_runner(Candidate(path, engine), (160, 160), batch, 1), [png] * batch)
        assert len(times) == len(STAGES) and len(people) == batch
        sure = people[-1].scores >= .5
        np.testing.assert_allclose(people[-1].poses[sure], right.poses, atol=.02)


def test_people_of_other_families_are_those_of_torch():
    "Columns of many anchors, chosen by NumPy and by torch."
    random = np.random.default_rng(0)
    rows = np.concatenate([random.uniform(20, 80, (1, 90, 4)), random.uniform(0, 1, (1, 90, 1)), random.uniform(0, 99, (1, 90, 51))], -1).astype(np.float32)
    outputs = [np.ascontiguousarray(rows.transpose(0, 2, 1))]
    found = [find_people(SimpleNamespace(about=None, in_torch=where, torch=torch, shape=(1, 3, 96, 96)), outputs)[0] for where in (False, True)]
    assert len(found[0].scores) > 5
    for ours, other in zip(*found):
        np.testing.assert_array_equal(ours, other)


def test_a_process_that_dies_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    host = Host("the victim")
    host.ask("start", Candidate(write_conv(tmp_path / "a.onnx")), (64, 64), 1, 1)
    host.process.kill()
    with pytest.raises(RuntimeError, match="the victim: its process ended"):
        host.ask("burst", 0, 1)
    host.close()


def test_one_that_dies_takes_no_other_with_it(tmp_path, monkeypatch):
    "Nine minutes of measurements are not thrown away because memory was short for one."
    pytest.importorskip("onnxruntime")
    pair = [Candidate(write_conv(tmp_path / f"{name}.onnx"), name=name) for name in "ab"]
    few = dict(image_size=64, rounds=3, burst_seconds=0, burst_runs=1, peaks=False, profile_runs=0, threads=1)
    ask = Host.ask

    def dying(during, after):
        seen = []

        def asked(host, name, *arguments):
            seen.append(name) if host.title == "a" and name == during else None
            if host.title == "a" and seen.count(during) > after and host.process.is_alive():
                host.process.kill()
                host.process.join(5)
            return ask(host, name, *arguments)
        return asked
    for during, after in (("burst", 1), ("count", 0)):
        monkeypatch.setattr(Host, "ask", dying(during, after))
        rows = {row.name: row for row in benchmark(pair, **few, skip_bad=True).rows}
        assert f"during {during!r}" in rows["a"].error and rows["b"].error is None and rows["b"].gflops > 0
        assert len(rows["b"].timings) == 1 and len(rows["a"].timings) == (during == "count")
        monkeypatch.setattr(Host, "ask", dying(during, after))
        with pytest.raises(RuntimeError, match="a: its process ended"):
            benchmark(pair, **few)


def test_published_numbers_are_checked(tmp_path):
    peers = load_peers()
    assert len(peers) >= 40 and all(len(peer.source) > 10 for peer in peers.values())
    assert {peers[f"yolo_nas_pose_{size}"].ap for size in "nsml"} == {59.68, 64.15, 67.87, 68.24}
    assert all(peer.images == 2346 for name, peer in peers.items() if name.startswith(("yolov8", "yolo11", "yolo26")))
    entry = "{name: x, family: y, ap: 60, images: 5000, source: A}"
    for text, says in ((f"[{entry}]", "not a list of published"), (f"version: 1\nsources: {{}}\npeers: [{entry}]", "names the source 'A'"),
                       (f"version: 1\nsources: {{A: page}}\npeers: [{entry}, {entry}]", "is there twice"),
                       (f"version: 1\nsources: {{A: page}}\npeers: [{entry.replace('60', '160')}]", "peers.0.ap"), ("a: [", "not a list of published")):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ValueError, match=says):
            load_peers(tmp_path / "p.yaml")


def test_published_accuracy_is_not_lent_to_quantised_files():
    peers = load_peers()
    row = Row(name="S int8", engine="openvino", precision="fp32", peer="yolo_nas_pose_s", int8_share=.98, timings=[sum_timing(1, [Burst([1.], 1., 0.)])])
    assert accuracy_of(row, peers)[0] is None
    assert accuracy_of(row.model_copy(update={"int8_share": 0.}), peers) == (64.15, "published, 5000 images")
    assert accuracy_of(row.model_copy(update={"ap": .63, "ap_data": "5000 images"}), peers) == (63., "measured on 5000 images")
    with pytest.raises(ValueError, match="no published entry 'nobody'"):
        accuracy_of(row.model_copy(update={"peer": "nobody"}), peers)
    text = accuracy_table(Benchmark(environment={}, settings={}, peaks=[], bandwidth=None, rows=[row]), names=["yolo26s-pose"])
    measured, published = text.split("**Published by others**")
    assert "unknown in INT8" in measured and "62.0" in published and "yolo26s" not in measured


def test_throughput_is_in_the_table():
    row = Row(name="a", engine="openvino", precision="fp32", timings=[sum_timing(1, [Burst([1.], 1., 0.)])], streams=[{"count": 2, "images_per_second": 40.25, "foreign": .03}])
    text = timing_table(Benchmark(environment={}, settings={}, peaks=[], bandwidth=None, rows=[row]))
    assert "| requests at once | images/s |" in text and "| a | 2 | 40.2 | 3 % |" in text
    assert "at once" not in timing_table(Benchmark(environment={}, settings={}, peaks=[], bandwidth=None, rows=[row.model_copy(update={"streams": []})]))


def test_a_batch_that_a_file_does_not_take_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from yolo_nas_pose.deploy import benchmark as page
    monkeypatch.setattr(page, "measure_batch", lambda *given: pytest.fail("measured in vain"))
    with pytest.raises(GraphError, match="made for batch 1, not 4"):
        benchmark(write_conv(tmp_path / "a.onnx"), image_size=64, batch_sizes=(1, 4), peaks=False, isolate=False)
