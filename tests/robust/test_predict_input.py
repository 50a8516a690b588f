"Pictures of every kind go in; broken ones give one clear error, and never stop the others."
import http.server
import threading
import time
import warnings

import cv2
import numpy as np
import pytest
import torch

from yolo_nas_pose.core.toy import toy_scene
from yolo_nas_pose.deploy.predict import ImageError, PosePredictions, as_bgr, decode_image, fetch, pictures
from yolo_nas_pose.model.weights import get

SCENE = toy_scene(7).image  # BGR
RGB = np.ascontiguousarray(SCENE[..., ::-1])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = get("yolo_nas_pose_n").eval()
    model.image_size = 128
    return model


@pytest.fixture(scope="module")
def server():
    "A host with a picture, a page, a broken picture, and an answer that never ends."

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing.jpg":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/page.jpg" else "image/jpeg")
            self.end_headers()
            if self.path == "/slow.jpg":
                for _ in range(100):
                    try: self.wfile.write(b"x")
                    except OSError: return
                    time.sleep(.05)
            data = cv2.imencode(".jpg", SCENE)[1].tobytes()
            self.wfile.write(data[:len(data) // 2] if self.path == "/half.jpg" else data)

        def log_message(self, *args): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_every_kind_of_source_gives_the_same_people(model, tmp_path, server):
    from PIL import Image
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), SCENE)
    sources = [str(path), path, path.read_bytes(), RGB, Image.fromarray(RGB), torch.from_numpy(RGB.copy()).movedim(-1, 0),
               torch.from_numpy(RGB / np.float32(255)).movedim(-1, 0), RGB / 255.0, RGB.astype(np.uint16) * 257,
               np.dstack([RGB, RGB[..., :1]]), str(tmp_path), str(tmp_path / "*.png"), [RGB], RGB[None]]
    want = model.predict(SCENE, channels="bgr", conf=0)[0].prediction
    assert len(want.scores) > 0
    for source in sources:
        got = model.predict(source, conf=0)
        assert isinstance(got, PosePredictions) and len(got) == 1 and not got.failed
        for a, b in zip(want, got[0].prediction):
            np.testing.assert_allclose(a, b, atol=1e-3)
        np.testing.assert_array_equal(got[0].image, SCENE)
    assert len(model.predict(f"{server}/scene.jpg")) == 1


def test_a_batch_equals_single_pictures(model):
    images = [RGB, RGB[:200], RGB[:, :100]]
    together = model.predict(images, conf=0, batch_size=3)
    for image, result in zip(images, together):
        for a, b in zip(result.prediction, model.predict(image, conf=0)[0].prediction):
            np.testing.assert_allclose(a, b, atol=1e-2)


def test_orientation_is_respected(tmp_path):
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to view
    wide = Image.fromarray(np.zeros((40, 100, 3), np.uint8))
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image((tmp_path / "turned.jpg").read_bytes()).shape == (100, 40, 3)
    assert as_bgr(Image.open(tmp_path / "turned.jpg")).shape == (100, 40, 3)


def test_grey_alpha_and_sixteen_bits(tmp_path):
    deep = np.linspace(0, 65535, 3 * 16 * 16).reshape(16, 16, 3).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "grey.png"), SCENE[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)]))
    loaded = {p.name.rsplit("/")[-1]: p.load() for p in pictures(tmp_path)}
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in loaded.values())
    assert np.abs(loaded["deep.png"].astype(int) - deep // 257).max() <= 1
    np.testing.assert_array_equal(loaded["alpha.png"], SCENE)


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"not a picture at all", "not a picture"), (b"<html></html>", "not a picture"),
    (cv2.imencode(".jpg", SCENE)[1].tobytes()[:2000], "breaks off"), (cv2.imencode(".png", SCENE)[1].tobytes()[:2000], "breaks off")])
def test_bad_files(model, tmp_path, data, words):
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        model.predict(path)
    assert "bad.jpg" in str(caught.value)


def test_a_preview_inside_does_not_hide_a_broken_end(tmp_path):
    "A JPEG with a whole little JPEG in its header, cut in the middle of the big one."
    small, big = (cv2.imencode(".jpg", image)[1].tobytes() for image in (SCENE[:32, :32], SCENE))
    whole = big[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + big[2:]
    assert decode_image(whole).shape == SCENE.shape
    with pytest.raises(ImageError, match="breaks off"):
        decode_image(whole[:len(whole) // 2 + len(small)])


@pytest.mark.parametrize("image, words", [
    (np.zeros((0, 10, 3), np.uint8), "shape"), (np.zeros((4, 4, 2), np.uint8), "shape"), (np.zeros(5, np.uint8), "shape"),
    (np.full((4, 4, 3), 255.0), "0 to 1"), (np.full((4, 4), np.nan), "0 to 1"), (np.zeros((4, 4, 3), np.int64), "type")])
def test_bad_arrays(model, image, words):
    with pytest.raises(ImageError, match=words):
        model.predict(image)


@pytest.mark.parametrize("shape", [(1, 1, 3), (30, 20000, 3), (20000, 30, 3), (1, 5000, 3)])
def test_extreme_shapes(model, shape):
    result = model.predict(np.full(shape, 90, np.uint8), conf=0)[0]
    assert np.isfinite(result.prediction.poses).all()


def test_missing_things(model, tmp_path):
    for source in (tmp_path / "none.jpg", str(tmp_path / "*.jpg"), tmp_path / "none.mp4"):
        with pytest.raises(FileNotFoundError, match="none|matches"):
            model.predict(source)
    with pytest.raises(FileNotFoundError, match="no pictures"):
        model.predict(tmp_path)
    with pytest.raises(ImageError, match="empty"):
        model.predict([])
    with pytest.raises(TypeError, match="dict"):
        model.predict({"image": 1})
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(ImageError, match="film.mp4"):
        list(model.predict(tmp_path / "film.mp4"))


def test_addresses_that_fail(model, server):
    for name, words in (("missing.jpg", "Not Found"), ("page.jpg", "web page"), ("half.jpg", "breaks off")):
        with pytest.raises(ImageError, match=words) as caught:
            model.predict(f"{server}/{name}")
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="took more"):
        fetch(f"{server}/slow.jpg", limit=.3)
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/closed.jpg", timeout=2)


def test_one_bad_picture_among_many(model, tmp_path):
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), SCENE)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 3"):
        got = model.predict(tmp_path, batch_size=2)
    assert [each.name[-5:] for each in got] == ["0.png", "2.png"] and "is empty" in next(iter(got.failed.values()))


def test_nothing_is_clipped_or_rounded(model):
    "Coordinates may lie outside the picture; they come back as the network said them."
    from yolo_nas_pose.core.affine import letterbox
    from yolo_nas_pose.deploy.predict import fused_copy
    got = model.predict(RGB[:100], conf=0)[0].prediction
    image, place = letterbox(SCENE[:100], model.image_size)
    with torch.inference_mode():
        decoded = fused_copy(model).decode(fused_copy(model)(torch.from_numpy(image[None]).movedim(-1, 1).float() / 255))
    raw = (decoded.joints[0].numpy() - place[:, 2]) / place[0, 0]
    for pose in got.poses:
        assert np.abs(raw - pose[None, :, :2]).max((1, 2)).min() < 1e-3


def test_the_callers_model_is_left_alone(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model.predict(RGB)
    assert model.training and not model.fused
    model.eval()
    assert before.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def film(path, frames, size=96):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (size, size))
    for k in range(frames):
        writer.write(np.full((size, size, 3), k % 255, np.uint8))
    writer.release()


def test_video_is_a_stream(model, tmp_path):
    film(tmp_path / "film.mp4", 5)
    stream = model.predict(tmp_path / "film.mp4")
    assert next(stream).image.shape == (96, 96, 3)
    assert len(list(stream)) == 4
    saved = model.predict(tmp_path / "film.mp4").save(tmp_path / "out" / "drawn.mp4")
    capture = cv2.VideoCapture(str(saved))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (5, 10)


def test_camera_is_a_stream(model, monkeypatch):
    class Camera:
        def __init__(self, number): self.left = 3
        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((48, 64, 3), np.uint8)
        def release(self): pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert len(list(model.predict(0))) == 3


@pytest.mark.slow
def test_memory_of_a_long_video_is_constant(model, tmp_path):
    import resource
    film(tmp_path / "film.mp4", 2000, 64)
    stream = model.predict(tmp_path / "film.mp4")
    for _ in range(200): next(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in stream) == 1800
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_results_convert(model, tmp_path):
    got = model.predict([RGB, RGB], conf=0, post_nms=5)
    records = got.to_coco()
    assert len(records) == 10 and {r["image_id"] for r in records} == {0, 1} and len(records[0]["keypoints"]) == 51
    with pytest.raises(ValueError, match="1 image ids for 2"):
        got.to_coco([5])
    with pytest.raises(ValueError, match="left_wrist"):
        got[0].joint("left_wirst")
    assert [p.name for p in got.save(tmp_path / "drawn")] == ["image_0.jpg", "image_1.jpg"]
    assert got[:1].save(tmp_path / "one.png")[0].is_file()
    frame = got.to_dataframe()
    assert len(frame) == 2 * 5 * 17 and set(frame.joint) == set(model.skeleton.joints)
    supervision = pytest.importorskip("supervision")
    points = got.to_supervision()
    assert isinstance(points[0], supervision.KeyPoints)
    np.testing.assert_allclose(points[0].xy, got[0].prediction.poses[..., :2])


def test_unwritable_folder(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        model.predict(RGB).save(tmp_path / "file" / "below")
