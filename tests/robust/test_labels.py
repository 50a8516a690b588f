"Label files and images that are not as they should be: every message names the file and what to do."
import json
import shutil
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from yolo_nas_pose.core.skeleton import COCO17, SKELETONS, infer_mirror_pairs
from yolo_nas_pose.core.toy import ToyScenes, write_toy
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import find_coco
from yolo_nas_pose.data.images import DataError, decode, read_image
from yolo_nas_pose.data.loader import make_loader


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toys") / "set", train=4, val=1, size=96, seed=1)


@pytest.fixture
def toys(original, tmp_path):
    "A data set to spoil."
    return shutil.copytree(original, tmp_path / "set")


def labels_of(toys):
    return toys / "annotations" / "train.json"


def edit(toys, change):
    content = json.loads(labels_of(toys).read_text())
    change(content)
    labels_of(toys).write_text(json.dumps(content))


def read(toys):
    return CocoPoses(labels_of(toys), toys / "images" / "train")


def complaint(file, call, *words):
    "The call fails with DataError, in one piece, naming the file and all words."
    with pytest.raises(DataError) as caught:
        call()
    for word in (str(file), *words):
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert len(str(caught.value)) < 700


def test_whole_set_reads(toys):
    data = read(toys)
    assert [sample.image_id for sample in data] == [1, 2, 3, 4]
    assert sum(len(sample.boxes) for sample in data) == len(data.labels.boxes) > 0


@pytest.mark.parametrize("content, words", [
    ("", ["is empty"]),
    (" \n", ["is empty"]),
    ("class x y w h\n0 .5 .5 .1 .1", ["no complete JSON", "COCO keypoints"]),
    ("<annotation></annotation>", ["no complete JSON"]),
    ('{"images": [{"id": 1, "file', ["no complete JSON", "cut off"]),
    ("\xff\xfe\x00broken", ["no complete JSON"]),
    ("[]", ["found a list", "detections"]),
    ("7", ["found a int"]),
    ("null", ["found a NoneType"]),
    ('{"shapes": [], "version": "5"}', ["an object with ['shapes', 'version']"]),
    ('{"images": {}, "annotations": [], "categories": []}', ["expected the lists images, annotations and categories"]),
    ('{"images": [], "annotations": [], "categories": []}', ['"categories" is empty']),
])
def test_label_file_that_is_none(toys, content, words):
    labels_of(toys).write_bytes(content.encode("latin-1"))
    complaint(labels_of(toys), lambda: read(toys), *words)


@pytest.mark.parametrize("share", [.01, .3, .7, .99])
def test_truncated_label_file(toys, share):
    content = labels_of(toys).read_bytes()
    labels_of(toys).write_bytes(content[:int(len(content) * share)])
    complaint(labels_of(toys), lambda: read(toys), "no complete JSON", "copy it again")


def test_no_label_file(toys):
    labels_of(toys).unlink()
    complaint(labels_of(toys), lambda: read(toys), "cannot read this label file")
    complaint(toys, lambda: CocoPoses.from_folder(toys, "train"), "no labels for train", "val (val.json)")


def test_label_file_in_utf8_with_mark(toys):
    labels_of(toys).write_bytes(b"\xef\xbb\xbf" + labels_of(toys).read_bytes())
    assert len(read(toys)) == 4 and "train" in find_coco(toys)


@pytest.mark.parametrize("numbers, words", [
    ([1, 2, 2] * 16, ["48 numbers, expected 51"]),
    ([1, 2] * 17, ["34 numbers, expected 51"]),
    ([1, 2, 3] * 17, ["joint 'nose' has the visibility 3"]),
    ([1, 2, -1] * 17, ["joint 'nose' has the visibility -1"]),
    ([0, 0, 0] * 9 + [None, 4, 2] + [0, 0, 0] * 7, ["joint 'left_wrist' has the place (nan, 4.0)"]),
    (["a", 2, 2] * 17, ["something else than numbers"]),
    ([12, "2", 2] * 17, ["something else than numbers: [12, '2', 2"]),
    ("1 2 2", ["'1 2 2'"]),
])
def test_joints_that_mean_nothing(toys, numbers, words):
    edit(toys, lambda content: content["annotations"][1].update(keypoints=numbers))
    complaint(labels_of(toys), lambda: read(toys), "annotations[1] (id 2", "Correct or remove this record", *words)


def test_a_joint_without_a_place_is_not_blamed_for_another(toys):
    "None is the place of a joint that nobody labelled; the text is in the record after it."
    edit(toys, lambda content: (content["annotations"][0].update(keypoints=[None, None, 0] * 17), content["annotations"][1].update(keypoints=["2"] * 51)))
    complaint(labels_of(toys), lambda: read(toys), "annotations[1] (id 2", "something else than numbers")


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, -3, 4], "1 2 3 4", [1, 2, "3", 4]])
def test_box_that_means_nothing(toys, box):
    edit(toys, lambda content: content["annotations"][0].update(bbox=box))
    complaint(labels_of(toys), lambda: read(toys), "annotations[0] (id 1", "is not x, y, width, height")


@pytest.mark.parametrize("image, words", [
    ({"id": 1}, ["images[1]", "file_name"]),
    ({"id": "2", "file_name": "2.png"}, ["images[1]", "an integer"]),
    ({"id": 1, "file_name": "2.png"}, ["images[1]", "has the id 1 of 000001.png"]),
    ({"id": 2, "file_name": "2.png", "height": -5}, ["images[1]", "height and width"]),
    ("2.png", ["images[1]"]),
])
def test_image_record_that_means_nothing(toys, image, words):
    edit(toys, lambda content: content["images"].__setitem__(1, image))
    complaint(labels_of(toys), lambda: read(toys), *words)


def test_skeleton_of_another_size(toys):
    complaint(labels_of(toys), lambda: CocoPoses(labels_of(toys), toys, "crowdpose14"), "has 17 joints", "'crowdpose14' 14")


def test_category_with_a_joint_named_twice(toys):
    edit(toys, lambda content: content["categories"][0].update(keypoints=["tip"] * 17))
    complaint(labels_of(toys), lambda: read(toys), "no name twice")


@pytest.mark.parametrize("name", [7, None, ["nose"], {"name": "nose"}, 1.5])
@pytest.mark.parametrize("skeleton", [None, "coco17"])
def test_joint_names_that_are_no_text(toys, name, skeleton):
    file = toys / "annotations" / "train.json"
    labels = json.loads(file.read_text())
    labels["categories"][0]["keypoints"][3] = name
    file.write_text(json.dumps(labels))
    with pytest.raises(DataError, match="train.json: category 'coco17': .*names of the joints, as texts; found"):
        CocoPoses(file, toys / "images" / "train", skeleton)


@pytest.mark.parametrize("names, pairs", [
    (["lhip", "rhip", "root", "lip"], ((0, 1),)), (["rhip", "lhip"], ((1, 0),)), (["LHIP", "RHIP"], ((0, 1),)),
    (["leftshoulder", "rightshoulder", "left_hip", "right_hip"], ((0, 1), (2, 3))), (["leftover", "lips", "ribs"], ()),
    (["lip", "rip", "left_eye", "right_eye"], ((2, 3),)), (["lfront_leg", "rfront_leg", "lback_leg"], ((0, 1),))])
def test_sides_without_a_separator(names, pairs):
    assert infer_mirror_pairs(names) == pairs


def test_all_habits_tell_the_same():
    for skeleton in SKELETONS.values():
        plain = [joint.lower().replace("left_", "l_").replace("right_", "r_") for joint in skeleton.joints]
        for left, right in (("l", "r"), ("left", "right"), ("L", "R"), ("Left", "Right")):
            names = [left + name[2:] if name[:2] == "l_" else right + name[2:] if name[:2] == "r_" else name for name in plain]
            assert infer_mirror_pairs(names) == skeleton.mirror_pairs, names


def test_category_without_joints(toys):
    edit(toys, lambda content: content["categories"][0].pop("keypoints"))
    complaint(labels_of(toys), lambda: read(toys), "no category lists the names")
    assert CocoPoses(labels_of(toys), toys / "images" / "train", "coco17").skeleton == COCO17


def test_people_of_another_category_are_missed_aloud(toys):
    edit(toys, lambda content: [record.update(category_id=9) for record in content["annotations"]])
    with pytest.warns(UserWarning, match="train.json: no annotation has a category of joints"):
        assert len(read(toys).labels.boxes) == 0


def test_annotations_of_unlisted_images_are_missed_aloud(toys):
    edit(toys, lambda content: content["annotations"][0].update(image_id=77))
    with pytest.warns(UserWarning, match="train.json: 1 annotations belong to images that the file does not list"):
        read(toys)


def test_unescaped_backslashes_do_not_stop_the_search(toys):
    (toys / "annotations" / "windows_val.json").write_text(r'{"images": [{"file_name": "images\val\7.png"}]}')
    assert set(find_coco(toys)) == {"train", "val"}


def test_places_are_listed_once(toys):
    shutil.rmtree(toys / "images")
    complaint(toys, lambda: find_coco(toys), "train.json has 000001.png, not found in ['images/train', 'train', 'images', 'data', 'annotations', '.']")


def test_sentences_about_what_was_found_are_whole(toys):
    complaint(toys, lambda: find_coco(toys, ["test"]), "found train (train.json), val (val.json). Looked for")


def test_missing_image(toys):
    data = read(toys)
    data.path(2).unlink()
    complaint(data.path(2), lambda: data[2], "cannot read this image", "No such file")
    assert data[1].image_id == 2


def test_folder_in_place_of_an_image(toys):
    data = read(toys)
    data.path(0).unlink()
    data.path(0).mkdir()
    complaint(data.path(0), lambda: data[0], "cannot read this image")


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("share", [.1, .5, .9, .999])
def test_truncated_image(tmp_path, kind, share):
    content = cv2.imencode(kind, ToyScenes(1, size=160)[0].image)[1].tobytes()
    file = tmp_path / f"half{kind}"
    file.write_bytes(content[:int(len(content) * share)])
    complaint(file, lambda: read_image(file), "Copy it again")


@pytest.mark.parametrize("content, words", [(b"", "is empty (0 bytes)"), (b"<html>404</html>", "is no image"), (b"\xff\xd8\xff", "ends too early")])
def test_image_that_is_none(tmp_path, content, words):
    (tmp_path / "odd.jpg").write_bytes(content)
    complaint(tmp_path / "odd.jpg", lambda: read_image(tmp_path / "odd.jpg"), words, "remove it from the labels")


def test_a_preview_in_the_header_does_not_hide_a_missing_end():
    image = ToyScenes(1, size=160)[0].image
    whole, preview = (cv2.imencode(".jpg", part)[1].tobytes() for part in (image, image[::8, ::8]))
    segment = b"\xff\xe2" + (len(preview) + 2).to_bytes(2, "big") + preview
    both = whole[:2] + segment + whole[2:]
    assert decode(both).shape == image.shape and decode(both[:len(both) // 2 + len(segment) // 2]) is None


@pytest.mark.parametrize("progressive", [False, True])
def test_bytes_behind_the_end_do_no_harm(progressive):
    "Telephones append a film or a second image, with any bytes; but a cut image stays cut, whatever bytes it has."
    rng = np.random.default_rng(5)
    image = np.kron(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
    whole = cv2.imencode(".jpg", image, options)[1].tobytes()
    tails = [rng.bytes(2000).replace(b"\xff\xd9", b"") + b"\xff\xda" + rng.bytes(9) for _ in range(20)] + [whole, whole[:300]]
    for tail in tails:
        np.testing.assert_array_equal(decode(whole + tail), decode(whole))
    header = b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole
    for content in (whole, whole[:2] + header + whole[2:]):
        assert all(decode(content[:end]) is None for end in (*range(0, len(content), 37), len(content) - 1))


def test_size_other_than_labelled(toys):
    data = read(toys)
    cv2.imwrite(str(data.path(1)), cv2.resize(data[1].image, (48, 96)))
    complaint(data.path(1), lambda: data[1], "96 x 48", "96 x 96", "resized or exchanged")


def test_unstated_size_is_no_error(toys):
    edit(toys, lambda content: [image.pop("height") for image in content["images"]])
    assert read(toys)[0].image.shape == (96, 96, 3)


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_followed_where_the_labels_follow_it(tmp_path, orientation):
    picture = Image.fromarray(np.ascontiguousarray(ToyScenes(1, size=(64, 96), seed=4)[0].image[..., ::-1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    stored = Image.open(tmp_path / "photo.jpg")
    shown = ImageOps.exif_transpose(stored) if 1 <= orientation <= 8 else stored
    for size, expected in (((64, 96), stored), ((96, 64), shown)):
        if expected.size != size[::-1]:
            complaint(tmp_path / "photo.jpg", lambda: read_image(tmp_path / "photo.jpg", size), "64 x 96", "96 x 64")
            continue
        found = read_image(tmp_path / "photo.jpg", size)
        assert found.shape[:2] == size
        assert np.abs(found[..., ::-1].astype(int) - np.asarray(expected)).mean() < 3
    assert read_image(tmp_path / "photo.jpg").shape == (64, 96, 3)


@pytest.mark.parametrize("mode, kind", [("L", "jpg"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("1", "png"), ("CMYK", "jpg")])
def test_other_colours_become_three_channels(tmp_path, mode, kind):
    picture = Image.fromarray(ToyScenes(1, size=64)[0].image).convert(mode)
    picture.save(tmp_path / f"odd.{kind}")
    image = read_image(tmp_path / f"odd.{kind}", (64, 64))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 5


def test_no_full_batch():
    with pytest.raises(DataError, match="3 images make no full batch of 4 on 1 processes: choose a batch_size of at most 3"):
        make_loader(ToyScenes(3, size=64), 64, 4, drop_last=True)
    with pytest.raises(DataError, match="on 2 processes: choose a batch_size of at most 1"):
        make_loader(ToyScenes(3, size=64), 64, 2, drop_last=True, world=2)
    assert len(make_loader(ToyScenes(3, size=64), 64, 4)) == 1
    assert next(iter(make_loader(ToyScenes(3, size=64), np.int64(64), 4))).images.shape == (3, 3, 64, 64)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_by_the_loader(toys, workers):
    data = read(toys)
    data.path(3).write_bytes(b"")
    loader = make_loader(data, 64, 2, workers=workers)
    with pytest.raises(DataError, match=r"000004\.png: this file is empty"):
        list(loader)


def test_evaluation_labels_survive_gaps(toys):
    def spoil(content):
        for record in content["annotations"]:
            record.update(id=0, area=None, iscrowd=None)
            record["keypoints"][:3] = [None, float("nan"), 0]
    edit(toys, spoil)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = read(toys)
    full = data.ground_truth()
    assert [record["id"] for record in full["annotations"]] == list(range(1, len(data.labels.boxes) + 1))
    assert all(record["keypoints"][:3] == [0, 0, 0] and record["area"] > 0 for record in full["annotations"])
