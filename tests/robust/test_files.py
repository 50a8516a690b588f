"Files that are not what they should be, engines that are not there, wishes that cannot be fulfilled: one clear message each."
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17
from yolo_nas_pose.core.toy import ToyScenes, toy_scene
from yolo_nas_pose.deploy import engine, export, verify
from yolo_nas_pose.deploy.engine import ModelFileError, open_file, to_text
from yolo_nas_pose.deploy.export import export_onnx, export_openvino
from yolo_nas_pose.deploy.runtime import Ahead, OnnxPose, evaluate_file, people_in
from yolo_nas_pose.model.network import YoloNASPose

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SMALL = dict(image_size=64, pre_nms=20, post_nms=10)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return YoloNASPose("yolo_nas_pose_n").eval()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("files") / "small.onnx", conf=.1, **SMALL)


def retold(path, target, **changes):
    "The same file with another description; None removes a key."
    proto = onnx.load(path)
    text = {pair.key: pair.value for pair in proto.metadata_props} | changes
    onnx.helper.set_model_props(proto, {key: value for key, value in text.items() if value is not None})
    onnx.save(proto, target)
    return target


def test_answers_that_are_no_numbers_are_no_empty_street():
    scores = np.array([[.5, np.nan, .2]], np.float32)
    outputs = {"boxes": np.zeros((1, 3, 4), np.float32), "scores": scores, "joints": np.zeros((1, 3, 17, 2), np.float32), "joint_scores": np.zeros((1, 3, 17), np.float32)}
    told = engine.Description(COCO17, "decoded", (64, 64))
    for most in (2, 9):
        with pytest.raises(ValueError, match="NaN"):
            people_in(outputs, 0, told, .3, .7, most, 1)
    assert len(people_in(outputs | {"scores": np.nan_to_num(scores)}, 0, told, .3, .7, 2, 1).scores) == 1


def test_files_that_are_none(path, tmp_path):
    whole = path.read_bytes()
    for name, content, says in (("page.onnx", b"<html>", "not an ONNX file"), ("empty.onnx", b"", "not an ONNX file"),
                                ("half.onnx", whole[:len(whole) // 2], "not a whole one"), ("picture.onnx", b"\xff\xd8\xff\xe0" * 99, "not an ONNX file")):
        (tmp_path / name).write_bytes(content)
        for program in ("onnxruntime", "openvino"):
            if program == "openvino":
                pytest.importorskip("openvino")
            with pytest.raises(ModelFileError, match=says) as caught:
                OnnxPose(tmp_path / name, program)
            assert name in str(caught.value)
    with pytest.raises(ModelFileError, match="no such file.*export_onnx"):
        OnnxPose(tmp_path / "nothing.onnx")
    (tmp_path / "a.xml").write_text("<net>")
    pytest.importorskip("openvino")
    with pytest.raises(ModelFileError, match="a.xml: OpenVINO .* cannot run this file"):
        OnnxPose(tmp_path / "a.xml")
    with pytest.raises(ModelFileError, match='engine="openvino"'):
        OnnxPose(tmp_path / "a.xml", "onnxruntime")


def test_descriptions(path, tmp_path):
    target = tmp_path / "other.onnx"
    with pytest.raises(ModelFileError, match="other.onnx: this file does not say what it is"):
        OnnxPose(retold(path, target, joints=None))
    with pytest.raises(ModelFileError, match="Update yolo_nas_pose"):
        OnnxPose(retold(path, target, format="3"))
    for key, value in (("depth", '"deep"'), ("sigmas", "[0.1]"), ("image_size", "[100, 100]"), ("links", "{"), ("conf", "null, 3")):
        with pytest.raises(ModelFileError, match="other.onnx: "):
            OnnxPose(retold(path, target, **{key: value}))
    twenty = {key: value for key, value in to_text(engine.Description(ANIMALPOSE20, "poses", (64, 64))).items()
              if key in ("joints", "links", "mirror_pairs", "sigmas", "skeleton")}
    with pytest.raises(ModelFileError, match="names 20 joints, but joints has 17 columns"):
        OnnxPose(retold(path, target, **twenty))
    with pytest.raises(ModelFileError, match="gives 'people'"):
        OnnxPose(retold(path, target, layout='"flat"'))
    with pytest.raises(ModelFileError, match="17 joints are those of coco17.*20 of animalpose20"):
        OnnxPose(path, skeleton=ANIMALPOSE20)
    assert OnnxPose(path, skeleton=COCO17).skeleton == COCO17
    with pytest.raises(ModelFileError, match="the labels have those of animalpose20"):
        evaluate_file(path, ToyScenes(1, 64, kind="animals"))


def test_a_newer_opset_than_the_engine_knows(path, tmp_path):
    proto = onnx.load(path)
    proto.opset_import[0].version = 99
    onnx.save(proto, tmp_path / "future.onnx")
    with pytest.raises(ModelFileError, match="onnxruntime .* cannot run this file.*lower opset"):
        OnnxPose(tmp_path / "future.onnx")


def test_wishes_that_no_exporter_fulfils(model, tmp_path):
    target = tmp_path / "a.onnx"
    for options, says in ((dict(opset=11), "opset 11 cannot be written.*14 to 20"), (dict(opset=40, dynamo=True), "opset 40"), (dict(image_size=100), "multiples of 32"),
                          (dict(image_size=32), "21 candidates, fewer than pre_nms=300"), (dict(conf=50), "conf must lie in 0..1"), (dict(post_nms=400), "post_nms"),
                          (dict(depth="deep"), "depth must be one of raw, decoded, poses, not 'deep'"), (dict(layout="rows"), "layout must be one of"), (dict(batch=0), "batch must be None or at least 1"),
                          (dict(input_type="float64"), "input_type"), (dict(thresholds="none"), "thresholds"), (dict(precision="int4"), "precision"),
                          (dict(engine="abacus"), "engine")):
        with pytest.raises(ValueError, match=says):
            export_onnx(model, target, **options)
    with pytest.raises(ValueError, match="must end in .onnx"):
        export_onnx(model, tmp_path / "a.pt", **SMALL)
    with pytest.raises(ValueError, match="must end in .xml"):
        export_openvino(model, tmp_path / "a.onnx", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("depth", ["raw", "decoded", "poses"])
def test_a_file_that_answers_wrongly_is_not_kept(model, tmp_path, monkeypatch, depth):
    target, run = tmp_path / "a.onnx", engine.OnnxRuntime.run
    target.write_bytes(b"an older file")
    monkeypatch.setattr(engine.OnnxRuntime, "run", lambda self, inputs: {name: value + 3 if value.dtype == np.float32 else value
                                                                         for name, value in run(self, inputs).items()})
    with pytest.raises(ModelFileError, match="does not answer as torch does|are not empty"):
        export_onnx(model, target, depth=depth, conf=0, **SMALL)
    assert target.read_bytes() == b"an older file" and [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_no_place_to_write(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot write this file"):
        export_onnx(model, tmp_path / "file" / "a.onnx", check=False, **SMALL)


@pytest.mark.parametrize("module, extra", [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_a_missing_engine_names_its_extra(path, monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "yolo_nas_pose\[{extra}\]"'):
        OnnxPose(path, module)
    with pytest.raises(ValueError, match="engine must be one of onnxruntime, openvino"):
        OnnxPose(path, "abacus")


def test_a_missing_exporter_names_its_extra(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'onnx is not installed.*pip install "yolo_nas_pose\[cpu\]"'):
        export_onnx(model, tmp_path / "a.onnx", **SMALL)


def test_falling_back_to_the_processor_is_said(path):
    import onnxruntime
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may have one")
    with pytest.warns(UserWarning, match="asked for CUDAExecutionProvider, but onnxruntime runs it on CPUExecutionProvider"):
        pose = OnnxPose(path, device="cuda")
    assert pose.engine.device == "CPUExecutionProvider"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnnxPose(path)


def test_devices_and_settings_of_openvino(path):
    pytest.importorskip("openvino")
    with pytest.raises(ModelFileError, match="no device 'NPU9'"):
        OnnxPose(path, "openvino", device="NPU9")
    with pytest.raises(ValueError, match="precision"):
        OnnxPose(path, "openvino", precision="int3")
    with pytest.raises(ValueError, match="threads at least 1"):
        OnnxPose(path, threads=0)


def test_wishes_that_a_file_does_not_fulfil(path):
    pose, image = OnnxPose(path), toy_scene(0, 64).image
    for options, says in ((dict(image_size=96), "takes 64 x 64 px only"), (dict(image_size=90), "multiples of 32"), (dict(conf=.05), "baked into this file"),
                          (dict(iou=.5), "baked into this file"), (dict(conf=2), "conf must lie in 0..1"), (dict(batch_size=0), "batch_size"),
                          (dict(post_nms=0), "post_nms")):
        with pytest.raises(ValueError, match=says):
            pose.predict(image, **options)
    assert len(pose.predict([image] * 3, conf=1)) == 3


def test_ahead_ends_breaks_and_stops():
    closed, made = [], []

    def source():
        try:
            for n in range(10**9):
                made.append(n)
                yield n
        finally:
            closed.append(True)
    ahead = Ahead(source(), 3)
    assert not made and [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert closed == [True] and len(made) <= 7 and not ahead.thread.is_alive()
    assert next(ahead, None) is None
    never = Ahead(source(), 3)
    never.close()
    assert next(never, None) is None


def test_no_torch_in_the_runtime(path, tmp_path):
    import cv2
    cv2.imwrite(str(tmp_path / "a.png"), toy_scene(0, 64).image)
    code = ("import sys; from yolo_nas_pose import OnnxPose; found = OnnxPose(sys.argv[1]).predict(sys.argv[2]); found.to_coco();"
            "bad = {'torch', 'onnx', 'matplotlib', 'openvino', 'pycocotools', 'pandas'} & set(sys.modules); assert not bad, bad; print(len(found))")
    done = subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "a.png")], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


@pytest.mark.slow
def test_a_long_film_in_constant_memory(path, tmp_path):
    import cv2
    import psutil
    film = tmp_path / "long.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"mp4v"), 30, (640, 480))
    frame = cv2.resize(toy_scene(0, 64).image, (640, 480))
    for _ in range(2000):
        writer.write(frame)
    writer.release()
    stream, process, seen = OnnxPose(path).predict(film), psutil.Process(), 0
    for each in stream:
        each.draw()
        seen += 1
        if seen == 200:
            before = process.memory_info().rss
    assert seen == 2000 and process.memory_info().rss - before < 100e6
