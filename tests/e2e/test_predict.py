"Predict from end to end: results, conversions, films, and the copy that is fused once."
import copy
import gc
import resource
import subprocess
import sys
import time
import weakref
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.core.toy import ToyScenes, toy_scene
from yolo_nas_pose.deploy.predict import COPIES, fingerprint, fused_copy
from yolo_nas_pose.deploy.results import PosePredictions, PoseStream
from yolo_nas_pose.deploy.sources import InputError
from yolo_nas_pose.metric.average_precision import evaluate_coco
from yolo_nas_pose.model.network import YoloNASPose

matplotlib.use("Agg")
SCENE = toy_scene(7, 160).image
SMALL = dict(conf=0, image_size=64, post_nms=5)


def make_model(seed=0):
    torch.manual_seed(seed)
    model = YoloNASPose("yolo_nas_pose_n").eval()
    for head in (model.heads.head1, model.heads.head2, model.heads.head3):
        torch.nn.init.normal_(head.cls_pred.weight, std=30)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def film(path, count, size=96, code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (size, size))
    for k in range(count):
        writer.write(np.full((size, size, 3), 10 * k % 250, np.uint8))
    writer.release()
    return path


def test_quickstart(model, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), SCENE)
    predictions = model.predict(tmp_path / "photo.png", **SMALL).show()
    prediction = predictions[0].prediction
    assert prediction.bboxes_xyxy.shape == (5, 4) and prediction.poses.shape == (5, 17, 3) and prediction.scores.shape == (5,)
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in prediction[:3])
    assert (np.diff(prediction.scores) <= 0).all()
    assert predictions[0].show() is predictions[0]


def test_show_leaves_no_figures_and_no_warnings(model, recwarn):
    import matplotlib.pyplot as plt
    predictions = model.predict([SCENE] * 3, **SMALL)
    for _ in range(25):
        assert predictions.show(most=2) is predictions
    assert plt.get_fignums() == [] and not recwarn.list


def test_results_are_a_sequence(model):
    got = model.predict([SCENE, SCENE[:90]], **SMALL)
    assert len(got) == 2 and len(got[:1]) == 1 and isinstance(got[:1], PosePredictions) and got[-1].size == (90, 160)
    assert "2 pictures, 10 people" in repr(got) and "image_0: 5 people" in repr(got[0])
    people = list(got[0])
    assert len(people) == len(got[0]) == 5 and people[0].joints.shape == (17, 3) and people[0].score == got[0].prediction.scores[0]
    np.testing.assert_array_equal(got[0].joint("left_wrist"), got[0].prediction.poses[:, 9])
    np.testing.assert_array_equal(people[1].joint("left_wrist"), got[0].prediction.poses[1, 9])
    with pytest.raises(ValueError, match="no joint 'left_wirst' in coco17: nose, left_eye"):
        people[1].joint("left_wirst")
    with pytest.raises(ValueError, match="left_wrist"):
        got[0].joint("left_wirst")
    told = got[0].to_dict()
    assert (told["height"], told["width"], len(told["people"]), list(told["people"][0]["joints"])) == (160, 160, 5, list(COCO17.joints))


def test_nobody_found(model, tmp_path):
    got = model.predict(SCENE, conf=1, image_size=64)
    assert len(got) == 1 and len(got[0]) == 0 and got[0].prediction.poses.shape == (0, 17, 3)
    assert got.to_coco() == [] and len(got.to_dataframe()) == 0 and got.show() is got
    np.testing.assert_array_equal(got[0].draw(), SCENE)
    assert got[0].joint("nose").shape == (0, 3) and got.save(tmp_path)[0].is_file()


def test_save(model, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "x.png"), SCENE)
    got = model.predict([SCENE, tmp_path / "a", tmp_path / "b"], **SMALL)
    saved = got.save(tmp_path / "drawn" / "deep")
    assert [path.name for path in saved] == ["0_image_0.jpg", "1_x.jpg", "2_x.jpg"]
    assert [path.name for path in got[:2].save(tmp_path / "drawn")] == ["image_0.jpg", "x.jpg"]
    assert all(cv2.imread(str(path)).shape == SCENE.shape for path in saved)
    one = got[0].save(tmp_path / "one.png")
    np.testing.assert_array_equal(cv2.imread(str(one)), got[0].draw())
    assert not list(tmp_path.rglob("*.part*"))


def test_to_coco(model):
    got = model.predict([SCENE, SCENE], **SMALL)
    records = got.to_coco()
    assert len(records) == 10 and [r["image_id"] for r in records] == [0] * 5 + [1] * 5
    first, pose = records[0], got[0].prediction.poses[0]
    np.testing.assert_allclose(np.reshape(first["keypoints"], (17, 3)), pose)
    x, y, width, height = first["bbox"]
    np.testing.assert_allclose([x, y, x + width, y + height], got[0].prediction.bboxes_xyxy[0], rtol=1e-5)
    assert {r["image_id"] for r in got.to_coco([8, 9])} == {8, 9} and got.to_coco(category_id=3)[0]["category_id"] == 3
    assert {r["image_id"] for r in got.to_coco({"image_0": 4, "image_1": 7})} == {4, 7}
    with pytest.raises(ValueError, match="1 image ids for 2"):
        got.to_coco([5])
    with pytest.raises(ValueError, match="no image id for 'image_1'"):
        got.to_coco({"image_0": 4})
    import json
    json.dumps(records)


def test_coco_results_can_be_judged(model):
    scenes = ToyScenes(4, 96, seed=5)
    got = model.predict(list(scenes), **SMALL)
    numbers = evaluate_coco(scenes.ground_truth(), got.to_coco([1, 2, 3, 4]), engine="ours")
    assert 0 <= numbers["AP"] < .5


def test_to_dataframe(model, monkeypatch):
    got = model.predict([SCENE, SCENE], **SMALL)
    frame = got.to_dataframe()
    assert len(frame) == 2 * 5 * 17 and set(frame.joint) == set(COCO17.joints) and set(frame.image) == {"image_0", "image_1"}
    row = frame.query("image == 'image_1' and person == 2 and joint == 'left_hip'").iloc[0]
    np.testing.assert_allclose([row.x, row.y, row.joint_score], got[1].prediction.poses[2, 11])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        got.to_dataframe()


def test_to_supervision(model, monkeypatch):
    supervision = pytest.importorskip("supervision")
    got = model.predict([SCENE, SCENE], **SMALL)
    points = got.to_supervision()
    assert len(points) == 2 and isinstance(points[0], supervision.KeyPoints) and len(points[0]) == 5
    np.testing.assert_array_equal(points[0].xy, got[0].prediction.poses[..., :2])
    np.testing.assert_array_equal(points[0].keypoint_confidence, got[0].prediction.poses[..., 2])
    painted = supervision.VertexAnnotator(radius=2).annotate(SCENE.copy(), points[0])
    assert (painted != SCENE).any()
    assert len(model.predict(SCENE, conf=1, image_size=64).to_supervision()[0]) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        got.to_supervision()


def test_photographs(model, shared):
    "Real files, some turned by their EXIF note, grey or wide: as the eye sees them, whichever library opens them."
    from PIL import Image, ImageOps
    folder = shared / "data" / "photos"
    got = model.predict(folder, image_size=64, batch_size=4)
    assert len(got) >= 11 and not got.errors
    for each in got:
        upright = ImageOps.exif_transpose(Image.open(each.name))
        assert each.size == (upright.height, upright.width)


def test_film_is_a_stream(model, tmp_path):
    path = film(tmp_path / "film.mp4", 5)
    stream = model.predict(path, **SMALL)
    assert isinstance(stream, PoseStream) and stream.fps == 10
    assert next(stream).image.shape == (96, 96, 3)
    rest = list(stream)
    assert [each.name for each in rest] == [f"{path}#{n}" for n in range(1, 5)]
    assert abs(rest[-1].image.mean() - 40) <= 5


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_films_are_saved_painted(model, tmp_path, suffix):
    path = film(tmp_path / "film.mp4", 5)
    saved = model.predict(path, **SMALL).save(tmp_path / "out" / f"drawn{suffix}")
    capture = cv2.VideoCapture(str(saved))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    assert sum(capture.read()[0] for _ in range(10)) == 5
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_films_that_cannot_be_saved(model, tmp_path):
    path = film(tmp_path / "film.mp4", 3)
    with pytest.raises(InputError, match="ends in .mp4"):
        model.predict(path, **SMALL).save(tmp_path / "drawn.txt")
    before = path.read_bytes()
    stream = model.predict(path, **SMALL)
    assert len(list(stream)) == 3
    with pytest.raises(InputError, match="no pictures are left"):
        stream.save(tmp_path / "drawn.mp4")
    with pytest.raises(OSError, match="the original"):
        model.predict(path, **SMALL).save(path)
    with pytest.raises(OSError, match="cannot write"):
        model.predict(path, **SMALL).save(path / "below" / "drawn.mp4")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


class Camera:
    left, waits, opened = 3, [], True

    def __init__(self, source, *how):
        self.left, self.released = Camera.left, False
        Camera.latest = self

    def isOpened(self): return Camera.opened
    def get(self, what): return 0.

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((48, 64, 3), np.uint8) if self.left >= 0 else None

    def release(self): self.released = True


def test_a_camera_is_a_stream_without_delay(model, monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    stream = model.predict(0, **SMALL)
    next(stream)
    assert Camera.latest.left == 2  # nothing was read ahead
    assert len(list(stream)) == 2 and Camera.latest.released and stream.fps == 30
    stream = model.predict("rtsp://host/stream", **SMALL)
    next(stream)
    stream.close()
    assert Camera.latest.released and list(stream) == []
    assert model.predict(0, **SMALL).save(tmp_path / "seen.mp4", most=2).is_file() and Camera.latest.released
    monkeypatch.setattr(Camera, "left", 0)
    with pytest.raises(InputError, match="camera 1: this gives no pictures"):
        list(model.predict(1, **SMALL))


def test_pictures_can_be_streamed_too(model, tmp_path):
    for k in range(4):
        cv2.imwrite(str(tmp_path / f"{k}.png"), SCENE)
    (tmp_path / "2.png").write_bytes(b"")
    stream = model.predict(tmp_path, stream=True, batch_size=1, **SMALL)
    assert [Path(each.name).name for each in stream] == ["0.png", "1.png", "3.png"]
    assert [Path(name).name for name, _ in stream.errors] == ["2.png"]


def test_memory_of_a_long_film_is_constant(model, tmp_path):
    stream = model.predict(film(tmp_path / "film.mp4", 240, 256), batch_size=8, **SMALL)
    for _ in range(40):
        next(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in stream) == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB; all frames would be 39_000


def test_fused_once_and_the_model_left_alone(monkeypatch):
    model, calls = make_model(), []
    fuse = YoloNASPose.fuse
    monkeypatch.setattr(YoloNASPose, "fuse", lambda self: calls.append(self) or fuse(self))
    before = copy.deepcopy(model.state_dict())
    model.train()
    model.backbone.eval()  # a frozen part stays frozen
    modes = [module.training for module in model.modules()]
    for _ in range(3):
        model.predict([SCENE] * 3, **SMALL)
    assert len(calls) == 1 and calls[0] is not model and not model.fused
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("change", [
    lambda model: torch.nn.init.constant_(model.heads.head1.cls_pred.bias, .5),
    lambda model: model.backbone.stem.conv.branch_3x3.conv.weight.data.mul_(2),
    lambda model: setattr(model.heads.head1.cls_pred.bias, "data", torch.ones(18)),
    lambda model: model.load_state_dict(make_model(1).state_dict()),
    lambda model: model.load_state_dict(make_model(1).state_dict(), assign=True),
    lambda model: model.train()(torch.rand(2, 3, 64, 64)),
    lambda model: torch.optim.SGD(model.parameters(), 1e-6).step(
        lambda: model(torch.rand(1, 3, 64, 64)).joint_logits.sum().backward())])
def test_a_changed_model_is_fused_anew(change):
    model = make_model()
    first = model.predict(SCENE, **SMALL)[0].prediction
    old = fused_copy(model)
    assert fused_copy(model) is old
    change(model)
    new = fused_copy(model)
    assert new is not old
    want = copy.deepcopy(model).eval().predict(SCENE, **SMALL)[0].prediction
    got = model.predict(SCENE, **SMALL)[0].prediction
    assert not np.array_equal(first.poses, got.poses)
    np.testing.assert_array_equal(got.poses, want.poses)


def test_changes_that_torch_does_not_count():
    with torch.inference_mode():
        model = make_model()
    old = fused_copy(model)
    assert fused_copy(model) is old
    with torch.inference_mode():
        model.heads.head1.cls_pred.weight[:, 7] += 1  # of a tensor that has no count
    assert fused_copy(model) is not old


def test_looking_for_changes_reads_no_weights():
    model = torch.nn.Linear(4096, 4096)
    model.skeleton = COCO17
    times = {}
    for name, function in (("look", lambda: fingerprint(model)), ("read", lambda: model.weight.sum())):
        times[name] = []
        for _ in range(9):
            start = time.thread_time()
            function()
            times[name].append(time.thread_time() - start)
    assert min(times["look"]) < min(times["read"]) / 4


def test_other_joints_are_noticed():
    from yolo_nas_pose.core.skeleton import CROWDPOSE14
    model = make_model()
    model.predict(SCENE, **SMALL)
    model.replace_skeleton("crowdpose14")
    got = model.predict(SCENE, **SMALL)[0]
    assert got.skeleton == CROWDPOSE14 and got.prediction.poses.shape[1] == 14 and got.joint("head").shape == (5, 3)


def test_the_copy_dies_with_its_model():
    gc.collect()
    model = make_model()
    ghost, count = weakref.ref(fused_copy(model)), len(COPIES)
    del model
    gc.collect()
    assert ghost() is None and len(COPIES) == count - 1


def test_fused_equals_unfused(model):
    fused, plain = (model.predict(SCENE, fuse=fuse, **SMALL)[0].prediction for fuse in (True, False))
    np.testing.assert_allclose(fused.poses, plain.poses, atol=.01)
    assert fused_copy(model).fused and not fused_copy(model, fuse=False).fused


def test_training_goes_on_after_a_look():
    model = make_model().train()
    model.predict(SCENE, **SMALL)
    model(torch.rand(2, 3, 64, 64)).joints.sum().backward()
    assert model.backbone.stem.conv.branch_3x3.conv.weight.grad is not None


def test_half_precision_only_on_request(model):
    exact, half = (model.predict(SCENE, precision=kind, **SMALL)[0].prediction for kind in ("fp32", "bf16"))
    assert all(part.dtype == np.float32 for part in half[:3])
    assert not np.array_equal(exact.poses, half.poses)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_type(model, kind):
    other = copy.deepcopy(model).to(kind)
    for fuse in (True, False):
        got = other.predict([SCENE, SCENE], fuse=fuse, **SMALL)[1].prediction
        assert len(got.scores) == 5 and all(part.dtype == np.float32 and np.isfinite(part).all() for part in got[:3])
    assert next(other.parameters()).dtype == kind


def test_half_a_model_finds_the_same_person():
    from yolo_nas_pose.model.pretrained import get
    scene = toy_scene(16, 160, figures=1).image
    want, = get("yolo_nas_pose_n", pretrained_weights="toy").predict(scene, image_size=160, conf=.3)
    got, = get("yolo_nas_pose_n", pretrained_weights="toy").half().predict(scene, image_size=160, conf=.3)
    assert len(want) == len(got) > 0
    np.testing.assert_allclose(got.prediction.poses[..., :2], want.prediction.poses[..., :2], atol=2)


def test_input_of_any_shape(model):
    tall = model.predict(SCENE[:, :80], conf=0, image_size=(128, 64), post_nms=5)[0].prediction
    assert np.isfinite(tall.poses).all() and len(tall.scores) == 5


def test_a_bar_for_many_only(model, capsys):
    for count, there in ((2, False), (9, False)):  # captured output is no terminal, so the bar stays away
        model.predict([SCENE] * count, **SMALL)
        assert ("predict" in capsys.readouterr().err) is there


def test_reading_needs_no_torch():
    code = "import sys, yolo_nas_pose.deploy.sources; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_on_a_gpu(model):
    there, here = (model.predict(SCENE, device=device, **SMALL)[0].prediction for device in ("cuda", None))
    np.testing.assert_allclose(there.poses, here.poses, atol=1)
    assert next(model.parameters()).device.type == "cpu" and next(fused_copy(model, "cuda").parameters()).is_cuda
    moved = copy.deepcopy(model).cuda()
    picture = torch.from_numpy(SCENE).movedim(-1, 0).cuda()
    for precision in ("fp32", "bf16", "fp16"):
        got = moved.predict([picture, SCENE], precision=precision, **SMALL)
        assert all(part.dtype == np.float32 and np.isfinite(part).all() for each in got for part in each.prediction[:3])
    assert moved.predict(picture, device="cpu", **SMALL)[0].prediction.poses.shape == here.poses.shape
