"Pictures of every kind go in; broken ones give one clear error, and never stop the others."
import errno
import http.server
import io
import itertools
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolo_nas_pose.core.affine import letterbox
from yolo_nas_pose.core.toy import toy_scene
from yolo_nas_pose.deploy.predict import fused_copy
from yolo_nas_pose.deploy.results import PosePredictions
from yolo_nas_pose.deploy.sources import InputError, as_bgr, decode_image, fetch, open_film, pictures
from yolo_nas_pose.model.network import YoloNASPose

SCENE = toy_scene(7, 160).image  # BGR
RGB = np.ascontiguousarray(SCENE[..., ::-1])
JPEG, PNG = (cv2.imencode(suffix, SCENE)[1].tobytes() for suffix in (".jpg", ".png"))
SMALL = dict(conf=0, image_size=128, post_nms=20)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = YoloNASPose("yolo_nas_pose_n").eval()
    for head in (model.heads.head1, model.heads.head2, model.heads.head3):
        torch.nn.init.normal_(head.cls_pred.weight, std=30)
    return model


@pytest.fixture(scope="module")
def server():
    "A host with a picture, a page, a broken picture, an answer that never ends, and one that never comes."

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing.jpg":
                return self.send_error(404)
            if self.path.startswith("/silent"):
                return time.sleep(1 if self.path.endswith("jpg") else 4)
            half = self.path == "/half.jpg"
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/page.jpg" else "image/jpeg")
            if self.path == "/short.jpg":
                self.send_header("Content-Length", str(len(JPEG) + 7))
            self.end_headers()
            if self.path == "/slow.jpg":
                for _ in range(40):
                    try:
                        self.wfile.write(b"x")
                    except OSError:
                        return
                    time.sleep(.05)
            page = b"\n<!DOCTYPE html><html><body>No picture for you</body></html>"
            self.wfile.write(page if self.path == "/page.jpg" else JPEG[:len(JPEG) // 2] if half else JPEG)

        def log_message(self, *args): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_every_kind_of_source_gives_the_same_people(model, tmp_path, server):
    from PIL import Image
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), SCENE)
    tensor = torch.from_numpy(SCENE).movedim(-1, 0)
    sources = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), SCENE[None], [SCENE], (path,), iter([path]),
               Image.fromarray(RGB), Image.fromarray(RGB).convert("RGBA"), Image.open(path), tensor, tensor[None], tensor / 255,
               tensor.double() / 255, SCENE / 255.0, SCENE.astype(np.uint16) * 257, np.dstack([SCENE, SCENE[..., :1]]),
               str(tmp_path), tmp_path, str(tmp_path / "*.png"), toy_scene(7, 160), SCENE[:, ::-1][:, ::-1],
               io.BytesIO(path.read_bytes()), open(path, "rb"), open(path)]
    want = model.predict(SCENE, **SMALL)[0].prediction
    assert len(want.scores) == 20
    for source in sources:
        got = model.predict(source, **SMALL)
        assert isinstance(got, PosePredictions) and len(got) == 1 and not got.errors
        np.testing.assert_array_equal(got[0].image, SCENE)
        for a, b in zip(want[:3], got[0].prediction[:3]):
            np.testing.assert_array_equal(a, b)
    for source in (RGB, torch.from_numpy(RGB).movedim(-1, 0), np.dstack([RGB, RGB[..., :1]])):
        np.testing.assert_array_equal(model.predict(source, channel_order="rgb", **SMALL)[0].image, SCENE)
    assert len(model.predict(f"{server}/scene.jpg", **SMALL)) == 1


def test_the_result_does_not_share_the_callers_pixels(model):
    image = SCENE.copy()
    got = model.predict(image, **SMALL)[0]
    image[:] = 0
    np.testing.assert_array_equal(got.image, SCENE)


def test_a_batch_equals_single_pictures(model):
    images = [SCENE, SCENE[:100], SCENE[:, :70]]
    together = model.predict(images, batch_size=3, **SMALL)
    assert [each.size for each in together] == [(160, 160), (100, 160), (160, 70)]
    for image, result in zip(images, together):
        for a, b in zip(result.prediction[:3], model.predict(image, **SMALL)[0].prediction):
            np.testing.assert_allclose(a, b, atol=.05)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_is_respected(tmp_path, suffix):
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to view
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, :50, 0] = 255  # the left half is red
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(wide).save(path, exif=exif)
    for image in (decode_image(path.read_bytes()), as_bgr(Image.open(path))):
        assert image.shape == (100, 40, 3)
        assert image[20, 20, 2] > 240 and image[80, 20, 2] < 15


def test_grey_alpha_and_sixteen_bits(tmp_path):
    from PIL import Image
    deep = np.linspace(0, 65535, 3 * 16 * 16).reshape(16, 16, 3).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep_grey.png"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "grey.png"), SCENE[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)]))
    Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "ink.jpg")
    Image.fromarray(RGB[..., 0] > 99).save(tmp_path / "black_white.png")
    loaded = {Path(picture.name).name: picture.read() for picture in pictures(tmp_path)}
    assert len(loaded) == 7
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in loaded.values())
    assert np.abs(loaded["deep.png"].astype(int) - deep / 257).max() <= .5
    np.testing.assert_array_equal(loaded["deep_grey.png"], np.repeat(loaded["deep.png"][..., :1], 3, 2))
    np.testing.assert_array_equal(loaded["alpha.png"], SCENE)
    np.testing.assert_array_equal(loaded["grey.png"], np.repeat(SCENE[..., :1], 3, 2))
    for name in ("deep_grey.png", "grey.png", "black_white.png", "palette.png"):
        np.testing.assert_array_equal(as_bgr(Image.open(tmp_path / name)), loaded[name])


@pytest.mark.parametrize("high, want", [(1, 1), (200, 200), (255, 255), (257, 1), (51400, 200), (65535, 255)])
def test_whole_numbers_of_pillow_are_bytes_or_sixteen_bits(high, want):
    from PIL import Image
    values = np.array([[0, high]], np.int32)
    assert Image.fromarray(values).mode == "I"
    np.testing.assert_array_equal(as_bgr(Image.fromarray(values))[..., 0], [[0, want]])
    np.testing.assert_array_equal(as_bgr(Image.fromarray(values.astype(np.uint16)))[..., 0], [[0, (high + 128) // 257]])


@pytest.mark.parametrize("value", [-1, 65536, 2 ** 31 - 1])
def test_whole_numbers_beyond_sixteen_bits_do_not_wrap(value):
    from PIL import Image
    with pytest.raises(InputError, match=f"0 to 65535, but reach from .*{value}"):
        as_bgr(Image.fromarray(np.array([[0, value]], np.int32)))


def test_an_open_file_that_gives_no_bytes(model, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    with open(tmp_path / "a.png", "rb") as file:
        file.read()
        with pytest.raises(InputError, match="a.png: the picture is empty.*seek"):
            model.predict(file)
    with pytest.raises(InputError, match="a.png: cannot be read .*closed"):
        model.predict(file)
    with pytest.raises(InputError, match="image_0: reading this gives a str"):
        model.predict(io.StringIO("text"))


def test_a_film_among_pictures(model, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    with pytest.warns(UserWarning, match="a.mp4: this is a film. Give it alone"):
        assert len(model.predict([SCENE, tmp_path / "a.mp4"], **SMALL)) == 1


def test_a_generator_is_asked_for_one_batch_at_a_time(model):
    asked = []
    def endless():
        for number in itertools.count():
            asked.append(number)
            yield SCENE
    stream = model.predict(endless(), stream=True, batch_size=1, **SMALL)
    assert asked == []
    assert next(stream).name == "image_0" and asked == [0]
    assert next(stream).name == "image_1" and asked == [0, 1]
    stream = model.predict(endless(), stream=True, batch_size=3, **SMALL)
    assert [next(stream).name for _ in range(4)][-1] == "image_3" and len(asked) == 2 + 6


def test_a_stream_without_a_single_good_picture(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for source, words in ((iter([tmp_path / "a.png", None]), "2 of 2 pictures cannot be read; .*a.png: the picture is empty"),
                          (tmp_path / "b.png", "b.png: there is no such file"), (iter([]), "list of pictures is empty")):
        with pytest.raises(InputError, match=words):
            list(model.predict(source, stream=True, **SMALL))


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"not a picture at all", "not a picture"), (b"<html></html>", "web page"), (JPEG[:2000], "breaks off"),
    (PNG[:2000], "breaks off"), (cv2.imencode(".webp", SCENE)[1].tobytes()[:2000], "not a whole one"),
    (cv2.imencode(".bmp", SCENE)[1].tobytes()[:2000], "not a whole one")])
def test_bad_files(model, tmp_path, data, words):
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        model.predict(path)
    assert "bad.jpg" in str(caught.value) and isinstance(caught.value, ValueError)


def test_a_preview_inside_does_not_hide_a_broken_end():
    "A JPEG with a whole little JPEG in its header, cut in the middle of the big one."
    small = cv2.imencode(".jpg", SCENE[:32, :32])[1].tobytes()
    whole = JPEG[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + JPEG[2:]
    assert decode_image(whole).shape == SCENE.shape
    with pytest.raises(InputError, match="breaks off"):
        decode_image(whole[:len(whole) // 2 + len(small)])


def test_a_film_behind_the_end_does_no_harm():
    "A motion photo: a whole JPEG, and a film with all kinds of bytes."
    for tail in (b"\0\0\0 ftypmp42\xff\xda", b"\xff\xda\xff\xd9\xff", JPEG[:999]):
        np.testing.assert_array_equal(decode_image(JPEG + tail), decode_image(JPEG))


def test_a_broken_file_behind_a_pillow_image(model, tmp_path):
    from PIL import Image
    (tmp_path / "half.jpg").write_bytes(JPEG[:len(JPEG) // 2])
    with pytest.raises(InputError, match="image_0: Pillow cannot read"):
        model.predict(Image.open(tmp_path / "half.jpg"))


@pytest.mark.parametrize("image, words", [
    (np.zeros((0, 10, 3), np.uint8), "shape"), (np.zeros((4, 4, 2), np.uint8), "shape"), (np.zeros(5, np.uint8), "shape"),
    (np.zeros((3, 40, 50), np.uint8), "channels come first"), (torch.zeros(40, 50, 3), "channels come last"),
    (torch.zeros(2, 40, 50, 3), "channels come last"), (np.full((4, 4, 3), 255.0), "0 to 1"), (np.full((4, 4), np.nan), "0 to 1"),
    (np.zeros((4, 4, 3), np.int64), "type int64"), (torch.zeros(3, 4, 4, dtype=torch.int64), "type int64"),
    (np.array([[["a"] * 3]]), "type"), (None, "cv2.imread"), ({"image": 1}, "a dict is no picture"), (1.5, "a float is no picture"),
    (True, "a bool is no picture"), ([], "list of pictures is empty"), ((), "list of pictures is empty"), ("", "path is empty"),
    ("a\0b", "no such file|no path"), ("x" * 5000, "^x{300}: this is no path .File name too long."), ("ftp://host/a.jpg", "only addresses with http"),
    ([[1, 2], [3, 4]], "4 of 4 pictures cannot be read.*a int is no picture")])
def test_bad_things(model, image, words):
    with pytest.raises(InputError, match=words):
        model.predict(image)


@pytest.mark.parametrize("options, words", [
    (dict(conf=50), "conf must lie in 0..1"), (dict(iou=-1), "iou"), (dict(image_size=100), "multiples of 32"),
    (dict(image_size=0), "multiples of 32"), (dict(batch_size=0), "batch_size"), (dict(precision="int8"), "precision"),
    (dict(post_nms=500), "post_nms"), (dict(channel_order="gbr"), "channel_order"), (dict(device="cuda:77"), "no device 'cuda:77'"),
    (dict(device="nonsense"), "no device 'nonsense'")])
def test_bad_settings(model, options, words):
    with pytest.raises(ValueError, match=words):
        model.predict(SCENE, **options)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (30, 20000, 3), (20000, 30, 3), (1, 5000, 3)])
def test_extreme_shapes(model, shape):
    result = model.predict(np.full(shape, 90, np.uint8), **SMALL)[0]
    assert result.size == shape[:2] and len(result) and np.isfinite(result.prediction.poses).all()
    assert result.draw().shape[:2] == shape[:2]


def test_missing_things(model, tmp_path):
    (tmp_path / "nine.jpg").write_bytes(JPEG)
    for name, words in (("nnie.jpg", "has nine.jpg: did you mean"), ("x" * 30, "nothing of a similar name"), ("*.bmp", "matches no pictures"),
                        ("none.mp4", "no such file"), ("x" * 5000 + ".mp4", "no such file"), ("sub/nine.jpg", "there is no folder")):
        with pytest.raises(InputError, match=words) as caught:
            model.predict(tmp_path / name)
        assert name in str(caught.value)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "empty" / ".hidden.jpg").write_bytes(JPEG)
    with pytest.raises(InputError, match="no pictures in this folder .1 other"):
        model.predict(tmp_path / "empty")
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match="film.mp4: OpenCV cannot open"):
        model.predict(tmp_path / "film.mp4")
    with pytest.raises(InputError, match="camera 97"):
        model.predict(97)


def test_a_name_with_brackets_is_a_file_first(model, tmp_path):
    (tmp_path / "scene[1].jpg").write_bytes(JPEG)
    assert len(model.predict(tmp_path / "scene[1].jpg", **SMALL)) == 1


def test_addresses_that_fail(model, server):
    for name, words in (("missing.jpg", "404"), ("page.jpg", "web page"), ("half.jpg", "breaks off"), ("short.jpg", "7 are missing")):
        with pytest.raises(InputError, match=words) as caught:
            model.predict(f"{server}/{name}")
        assert name in str(caught.value)
    with pytest.raises(InputError, match="took more"):
        fetch(f"{server}/slow.jpg", limit=.3)
    with pytest.raises(InputError, match="timed out"):
        fetch(f"{server}/silent.jpg", timeout=.2)
    with pytest.raises(InputError, match="larger than 1000"):
        fetch(f"{server}/scene.jpg", most=1000)
    for address in ("http://127.0.0.1:9/closed.jpg", "http://127.0.0.1:9/a b.jpg", "http://", "http://[/a.jpg", "http://127.0.0.1:99999999/é.jpg"):
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch(address, timeout=2)


def test_a_host_that_keeps_a_film_to_itself(server):
    address, start = f"{server}/silent.mp4", time.monotonic()
    with pytest.raises(InputError, match="silent.mp4: OpenCV cannot open this. Does the host answer"):
        open_film(address, address, timeout=.5)
    assert time.monotonic() - start < 15


def test_one_bad_picture_among_many(model, tmp_path):
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), SCENE)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 3") as told:
        got = model.predict(tmp_path, batch_size=2, **SMALL)
    assert len(told) == 1 and told[0].filename == __file__
    assert [Path(each.name).name for each in got] == ["0.png", "2.png"]
    assert [Path(name).name for name, _ in got.errors] == ["1.png"] and got.errors[0].reason.startswith("the picture is empty")
    with pytest.warns(UserWarning, match="3 of 4"):
        got = model.predict([tmp_path / "0.png", tmp_path / "x.png", None, np.zeros((0, 0, 3))], **SMALL)
    assert len(got) == 1 and [name for name, _ in got.errors][1:] == ["image_2", "image_3"]
    with pytest.raises(InputError, match="1.png: the picture is empty"):
        model.predict(tmp_path, skip_bad=False, **SMALL)
    with pytest.raises(InputError, match="2 of 2 pictures cannot be read"):
        model.predict([tmp_path / "1.png", tmp_path / "1.png"], **SMALL)


def test_a_file_that_vanishes_or_is_locked(model, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    def refuse(self): raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="a.png: cannot be read .Permission denied"):
        model.predict(path)


def test_nothing_is_clipped_or_rounded(model):
    "Coordinates may lie outside the picture; they come back as the network said them."
    got = model.predict(SCENE[:80], **SMALL)[0].prediction
    assert got.poses[..., :2].min() < 0 and got.bboxes_xyxy[:, 3].max() > 80
    image, place = letterbox(SCENE[:80], 128)
    with torch.inference_mode():
        network = fused_copy(model)
        decoded = network.decode(network(torch.from_numpy(image[None]).movedim(-1, 1).float() / 255))
    raw = (decoded.joints[0].numpy() - place[:, 2]) / place[0, 0]
    for pose in got.poses:
        assert np.abs(raw - pose[None, :, :2]).max((1, 2)).min() < 1e-4


def test_weights_that_are_no_numbers(model):
    sick = YoloNASPose("yolo_nas_pose_n")
    with torch.no_grad():
        sick.heads.head1.cls_pred.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="check weights"):
        sick.predict(SCENE, **SMALL)


def test_unwritable_places(model, tmp_path, monkeypatch):
    got = model.predict(SCENE, **SMALL)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        got.save(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot write .* as .xyz"):
        got[0].save(tmp_path / "a.xyz")
    with pytest.raises(InputError, match="give a folder"):
        got.save(tmp_path / "a.png")
    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "old.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device.*disk full"):
        got[0].save(tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["file", "old.png"]


def test_originals_are_not_painted_over(model, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    got = model.predict(path, **SMALL)
    with pytest.raises(OSError, match="this is the original"):
        got[0].save(path)
    assert path.read_bytes() == JPEG
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, str(tmp_path), tmp_path / "link", tmp_path / "new" / ".."):
        (tmp_path / "new").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="Choose another folder"):
            got.save(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="Choose another folder"):
        model.predict("a.jpg", **SMALL).save(".")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jpg", "link", "new"]
    assert got.save(tmp_path / "new") == [tmp_path / "new" / "a.jpg"]


def test_only_what_can_be_looked_at_is_offered(tmp_path):
    "A label file of nearly the same name is no picture."
    from yolo_nas_pose.deploy.sources import missing
    for name in ("street_1.txt", "street_1.json", "street_2.jpg", "street_3.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "street").mkdir()
    told = str(missing(tmp_path / "street_1.jpg"))
    assert "street_2.jpg" in told and "street_3.mp4" in told and ".txt" not in told and ".json" not in told
