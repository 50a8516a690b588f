"Exports of tools as they come: read as they were meant, or refused in words."
import json
import re
import shutil
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, Skeleton
from yolo_nas_pose.core.structures import PoseSample
from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.cache import CachedPoses
from yolo_nas_pose.data.coco import CocoPoses, open_data
from yolo_nas_pose.data.doctor import check_data
from yolo_nas_pose.data.exports import Gallery
from yolo_nas_pose.data.files import find_data
from yolo_nas_pose.data.images import DataError, PartlyRead, image_size, outline_extent, runs_mask
from yolo_nas_pose.data.transforms import TrainTransform
from yolo_nas_pose.data.write import write_coco, write_yolo

HORSE = ["nose", "left_ear", "right_ear"]
JOINTS = [[20, 30, 2], [40, 10, 2], [60, 12, 1]]  # of the one animal in an image of 100 x 80 px


def write(folder, **files):
    "Files by name; `__` stands for a slash, a shape for an image."
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            cv2.imwrite(str(path), np.full((*content, 3), 99, np.uint8))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def shares(joints=JOINTS, dims=3, width=100, height=80):
    return " ".join(f"{x / width} {y / height}" + (f" {v}" if dims == 3 else "") for x, y, v in joints)


def yolo(folder, line=None, split="train", **keys):
    about = {"train": "images/train", "kpt_shape": [3, 3], "names": {0: "horse"}, "kpt_names": {0: HORSE}, **keys}
    line = f"0 .5 .5 .6 .5 {shares()}" if line is None else line
    return write(folder, **{"data.yaml": yaml.safe_dump(about), f"images__{split}__7.png": (80, 100), f"labels__{split}__7.txt": line})


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


# --- YOLO ---------------------------------------------------------------------------------------------------------

def test_yolo_folder(tmp_path):
    data = open_data(yolo(tmp_path), "train")
    assert (data.format, data.skeleton.joints, data.skeleton.mirror_pairs) == ("YOLO pose", tuple(HORSE), ((1, 2),))
    sample = data[0]
    np.testing.assert_allclose(sample.joints[0], JOINTS, atol=1e-4)
    np.testing.assert_allclose(sample.boxes[0], [20, 20, 80, 60], atol=1e-4)
    np.testing.assert_allclose(sample.areas[0], .53 * 60 * 40, rtol=1e-5)


def test_yolo_without_visibility(tmp_path):
    line = f"0 .5 .5 .6 .5 {shares([[20, 30, 2], [0, 0, 0], [60, 12, 2]], 2)}"
    data = open_data(yolo(tmp_path, line, kpt_shape=[3, 2]), "train")
    assert data.labels.joints[0, :, 2].tolist() == [2, 0, 2]


@pytest.mark.parametrize("keys", [{"train": "../images/train"}, {"path": "C:/users/me/horses"}, {"path": "."}, {"train": "list.txt"},
                                  {"train": ["images/train"]}, {"names": ["horse"]}, {"kpt_names": [HORSE]}, {"kpt_names": HORSE}])
def test_yolo_descriptions_found_in_the_wild(tmp_path, keys):
    write(yolo(tmp_path, **keys), **{"list.txt": "images/train/7.png\n"})
    data = open_data(tmp_path / "data.yaml", "train")
    assert len(data) == 1 and data[0].joints.shape == (1, 3, 3) and data.skeleton.joints == tuple(HORSE)


def test_roboflow_yolo_layout(tmp_path):
    about = {"train": "../train/images", "val": "../valid/images", "kpt_shape": [3, 3], "flip_idx": [0, 2, 1], "nc": 1, "names": ["horse"]}
    write(tmp_path, **{"data.yaml": yaml.safe_dump(about)}, **{f"{part}__images__7.jpg": (80, 100) for part in ("train", "valid")},
          **{f"{part}__labels__7.txt": f"0 .5 .5 .6 .5 {shares()}" for part in ("train", "valid")})
    for split in ("train", "val"):
        data = open_data(tmp_path, split)
        assert data.skeleton.joints == ("joint_0", "joint_1", "joint_2") and data.skeleton.mirror_pairs == ((1, 2),)
        np.testing.assert_allclose(data[0].joints[0], JOINTS, atol=1e-4)


def test_yolo_images_without_a_text_have_nobody(tmp_path):
    write(yolo(tmp_path), **{"images__train__9.png": (9, 9), "images__train__notes": ""})
    assert open_data(tmp_path, "train").labels.starts.tolist() == [0, 1, 1]


def test_yolo_seventeen_joints_mirrored_as_coco_are_coco(tmp_path):
    line = "0 .5 .5 .6 .5" + " .5 .5 2" * 17
    assert open_data(yolo(tmp_path, line, kpt_shape=[17, 3], kpt_names=None, flip_idx=list(COCO17.mirror)), "train").skeleton == COCO17


@pytest.mark.parametrize("line, words", [
    ("0 .5 .5 .6 .5", ["7.txt: line 1 has 5 numbers, expected 14", "box without joints"]),
    (f"\n0 .5 .5 .6 .5 {shares()} 1", ["line 2 has 15 numbers", "Correct kpt_shape"]),
    ("0 .5 .5 .6 .5 20 30 2 40 10 2 60 12 1", ["line 1 has numbers that are no shares", "such as 20. Correct it, or, if all are pixels, divide them"]),
    ("0 50 40 60 40 .2 .3 2 .4 .1 2 .6 .1 1", ["no shares"]),
    ("0 .5 .5 -.6 .5 .2 .3 2 .4 .1 2 .6 .1 1", ["no shares"]),
    ("0 .5 .5 .6 nan .2 .3 2 .4 .1 2 .6 .1 1", ["no shares"]),
    ("0 .5 .5 .6 .5 .2 .3 .9 .4 .1 2 .6 .1 1", ["visibility that is none of 0, 1 and 2"]),
    ("horse .5 .5 .6 .5 .2 .3 2 .4 .1 2 .6 .1 1", ["'horse'"]),
])
def test_yolo_lines_that_mean_nothing(tmp_path, line, words):
    refused(lambda: open_data(yolo(tmp_path, line), "train"), str(tmp_path), *words)


@pytest.mark.parametrize("keys, words", [
    ({"kpt_shape": None}, ["expected \"kpt_shape", "boxes only"]),
    ({"kpt_shape": [3, 4]}, ["[3, 4]"]),
    ({"kpt_shape": "3, 3"}, ["'3, 3'"]),
    ({"train": "images/nowhere"}, ["there is no 'images/nowhere'", "Correct \"path\" and \"train\""]),
    ({"kpt_names": {0: ["nose"]}}, ["kpt_names has 1 names, kpt_shape says 3"]),
    ({"flip_idx": [0, 2]}, ["flip_idx [0, 2]", "for each of 3 joints"]),
    ({"flip_idx": [1, 2, 0]}, ["If 1 stands at place 2"]),
    ({"kpt_oks_sigmas": [.1]}, ["the sigmas are 1 numbers, expected 3 positive numbers"]),
])
def test_yolo_descriptions_that_mean_nothing(tmp_path, keys, words):
    refused(lambda: open_data(yolo(tmp_path, **keys), "train"), str(tmp_path), *words)


def test_yolo_photograph_on_its_side(tmp_path):
    "Other YOLO programs follow the note of the camera, and so do shares."
    from PIL import Image
    yolo(tmp_path)
    (tmp_path / "images" / "train" / "7.png").unlink()
    lying, note = Image.new("RGB", (80, 100)), Image.Exif()
    note[0x0112] = 6
    lying.save(tmp_path / "images" / "train" / "7.jpg", exif=note)
    assert image_size(tmp_path / "images" / "train" / "7.jpg") == (80, 100)
    sample = open_data(tmp_path, "train")[0]
    assert sample.image.shape == (80, 100, 3)
    np.testing.assert_allclose(sample.joints[0], JOINTS, atol=1e-4)


# --- CVAT ---------------------------------------------------------------------------------------------------------

def cvat(folder, body, joints=HORSE):
    labels = "<label><name>horse</name><type>skeleton</type></label>" + "".join(
        f"<label><name>{joint}</name><type>points</type><parent>horse</parent></label>" for joint in joints)
    return write(folder, **{"annotations.xml": f"<annotations><meta><job><labels>{labels}</labels></job></meta>{body}</annotations>"})


def skeleton(joints=JOINTS, names=HORSE, group=""):
    points = "".join(f'<points label="{name}" outside="{int(v == 0)}" occluded="{int(v == 1)}" points="{x:.2f},{y:.2f}"></points>'
                     for name, (x, y, v) in zip(names, joints))
    return f'<skeleton label="horse" {group}>{points}</skeleton>'


def test_cvat_skeletons(tmp_path):
    body = (f'<image id="4" name="a/7.png" width="100" height="80">{skeleton()}{skeleton([[1, 1, 0], [5, 5, 2], [9, 9, 2]])}'
            f'<box label="cart" xtl="1" ytl="1" xbr="2" ybr="2"/></image><image id="5" name="8.png" width="9" height="9"/>')
    data = open_data(write(cvat(tmp_path, body), **{"images__a__7.png": (80, 100), "images__8.png": (9, 9)}))
    assert data.format == "CVAT for images" and data.labels.starts.tolist() == [0, 2, 2]
    assert data[0].joints[0].tolist() == JOINTS and data[0].joints[1, :, 2].tolist() == [0, 2, 2]
    np.testing.assert_allclose(data[0].boxes[0], [20 - 4, 10 - 4, 60 + 4, 30 + 4])  # joints with a margin, nobody drew a box


def test_cvat_joints_are_taken_by_name(tmp_path):
    body = f'<image id="0" name="7.png" width="100" height="80">{skeleton(JOINTS[::-1], HORSE[::-1])}</image>'
    assert open_data(write(cvat(tmp_path, body), **{"7.png": (80, 100)}))[0].joints[0].tolist() == JOINTS


def test_cvat_subsets_are_splits(tmp_path):
    images = "".join(f'<image id="{n}" name="{n}.png" subset="{subset}" width="100" height="80">{skeleton()}</image>'
                     for n, subset in enumerate(("Train", "Train", "Validation")))
    write(cvat(tmp_path, images), **{f"images__{n}.png": (80, 100) for n in range(3)})
    assert [len(open_data(tmp_path, split)) for split in ("train", "val")] == [2, 1]


@pytest.mark.parametrize("text, words", [
    ("<annotations><image", ["no complete XML"]),
    ("<annotation><object/></annotation>", ["label of type \"skeleton\", found none"]),
    ('<annotations><track id="0"/></annotations>', ["tracks of a video", "CVAT for images 1.1"]),
])
def test_cvat_files_that_are_none(tmp_path, text, words):
    refused(lambda: find_data(write(tmp_path, **{"annotations.xml": text}) / "annotations.xml"), "annotations.xml", *words)
    refused(lambda: find_data(tmp_path), *words)


def test_cvat_joint_of_another_label(tmp_path):
    body = f'<image id="0" name="7.png" width="100" height="80">{skeleton(names=["nose", "left_ear", "tail"])}</image>'
    refused(lambda: open_data(cvat(tmp_path, body)), "annotations.xml: image '7.png'", "'tail'")


# --- Label Studio -------------------------------------------------------------------------------------------------

def point(x, y, name, **more):
    return {"id": f"{name}{x}", "type": "keypointlabels", "original_width": 100, "original_height": 80,
            "value": {"x": x, "y": y / .8, "width": .5, "keypointlabels": [name]}, **more}


def rectangle(id, x, y, w, h, label="horse"):
    return {"id": id, "type": "rectanglelabels", "original_width": 100, "original_height": 80,
            "value": {"x": x, "y": y / .8, "width": w, "height": h / .8, "rotation": 0, "rectanglelabels": [label]}}


def studio(folder, *results, name="/data/upload/3/deadbeef-7.png"):
    tasks = [{"id": n, "data": {"image": name}, "annotations": [{"result": result}]} for n, result in enumerate(results)]
    return write(folder, **{"project.json": tasks, "images__7.png": (80, 100)})


ANIMAL = [point(x, y, name) for name, (x, y, _) in zip(HORSE, JOINTS)]


@pytest.mark.parametrize("tie", ["parent", "relation", "inside"])
def test_label_studio_points_find_their_rectangle(tmp_path, tie):
    boxes = [rectangle("a", 10, 5, 60, 40), rectangle("b", 0, 0, 90, 70)] if tie != "inside" else [rectangle("a", 10, 5, 60, 40)]
    points = [{**p, "parentID": "a"} for p in ANIMAL] if tie == "parent" else ANIMAL
    ties = [{"type": "relation", "from_id": p["id"], "to_id": "a", "direction": "right"} for p in ANIMAL] if tie == "relation" else []
    data = open_data(studio(tmp_path, [*boxes, *points, *ties]))
    assert data.format == "Label Studio" and data.skeleton.joints == ("left_ear", "nose", "right_ear")
    np.testing.assert_allclose(data[0].joints[0], [[40, 10, 2], [20, 30, 2], [60, 12, 2]], atol=1e-4)
    np.testing.assert_allclose(data[0].boxes[0], [10, 5, 70, 45], atol=1e-4)


def test_label_studio_without_rectangles_is_one_person(tmp_path):
    data = open_data(studio(tmp_path, ANIMAL))
    np.testing.assert_allclose(data[0].boxes, [[16, 6, 64, 34]], atol=1e-4)


@pytest.mark.parametrize("result, words", [
    ([*ANIMAL, *ANIMAL], ["task 0", "twice", "Draw a rectangle around every person"]),
    ([rectangle("a", 10, 5, 60, 40), rectangle("b", 0, 0, 90, 70), *ANIMAL], ["'nose' lies in 2 rectangles", "child of its rectangle"]),
    ([rectangle("a", 70, 60, 10, 10), *ANIMAL], ["'nose' lies in 0 rectangles"]),
    ([rectangle("a", 10, 5, 60, 40)], ["no task has a key point"]),
])
def test_label_studio_regions_that_cannot_be_told_apart(tmp_path, result, words):
    refused(lambda: open_data(studio(tmp_path, result)), "project.json", *words)


def test_label_studio_tasks_that_nobody_annotated(tmp_path):
    studio(tmp_path, ANIMAL)
    tasks = json.loads((tmp_path / "project.json").read_text())
    tasks += [{"id": 8, "data": tasks[0]["data"], "annotations": []}, {"id": 9, "data": tasks[0]["data"], "annotations": [{"was_cancelled": True}]}]
    write(tmp_path, **{"project.json": tasks})
    with pytest.warns(UserWarning, match="of 3 tasks, 2 are not annotated"):
        assert len(open_data(tmp_path)) == 1


def test_label_studio_json_min_is_refused(tmp_path):
    write(tmp_path, **{"project.json": [{"image": "/data/upload/7.png", "annotations": 1, "kp-1": []}]})
    refused(lambda: find_data(tmp_path).splits["all"](), "not as JSON-MIN")


def test_images_are_found_by_the_names_that_tools_write(tmp_path):
    gallery = Gallery(write(tmp_path, **{"a__7.png": (9, 9), "b__7.png": (9, 9), "ä b.jpg": (9, 9)}))
    names = {"b/7.png": "b/7.png", r"C:\me\a\7.png": "a/7.png", "/data/local-files/?d=x/b/7.png": "b/7.png", "deadbeef-7.png": "a/7.png",
             "s3://bucket/%C3%A4%20b.jpg": "ä b.jpg", "https://host/a/7.png?token=1": "a/7.png", "lost/8.png": "lost/8.png"}
    assert {name: gallery.find(name) for name in names} == names


# --- COCO and its relatives ---------------------------------------------------------------------------------------

def test_original_animalpose(tmp_path):
    names = ["left_eye", "right_eye", "nose", "left_earbase", "right_earbase", "L_F_elbow", "R_F_elbow", "L_B_elbow", "R_B_elbow", "L_F_knee",
             "R_F_knee", "L_B_knee", "R_B_knee", "L_F_paw", "R_F_paw", "L_B_paw", "R_B_paw", "throat", "withers", "tailbase"]
    content = {"images": {"1": "7.png"}, "annotations": [{"image_id": 1, "bbox": [10, 20, 60, 70], "num_keypoints": 20, "category_id": 3,
                                                          "keypoints": [[n, n + 1, n % 2] for n in range(20)]}],
               "categories": [{"id": n, "name": name, "keypoints": names, "skeleton": [[0, 1]]} for n, name in ((1, "cat"), (3, "cow"))]}
    data = open_data(write(tmp_path, **{"keypoints.json": content, "images__7.png": (80, 100)}))
    assert data.skeleton == replace(ANIMALPOSE20, classes=("cat", "cow")) and data[0].classes.tolist() == [1]
    assert open_data(tmp_path, skeleton="animalpose20").skeleton == ANIMALPOSE20 and open_data(tmp_path, skeleton="animalpose20")[0].classes is None
    assert data[0].boxes.tolist() == [[10, 20, 60, 70]] and data[0].joints[0, 3].tolist() == [3, 4, 2]
    assert data[0].joints[0, :, 2].tolist() == [0, 2] * 10


def test_roboflow_coco_layout(tmp_path):
    "A first category without joints, ids from 0, empty outlines."
    content = {"images": [{"id": 0, "file_name": "7.jpg", "height": 80, "width": 100, "extra": {"name": "7.jpg"}}],
               "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [10, 5, 60, 40], "area": 2400, "segmentation": [],
                                "iscrowd": 0, "keypoints": [v for joint in JOINTS for v in joint]}],
               "categories": [{"id": 0, "name": "horses", "supercategory": "none"}, {"id": 1, "name": "horse", "keypoints": HORSE, "skeleton": [[1, 2]]}]}
    write(tmp_path, **{f"{part}___annotations.coco.json": content for part in ("train", "valid")}, **{f"{part}__7.jpg": (80, 100) for part in ("train", "valid")})
    for split in ("train", "val"):
        data = open_data(tmp_path, split)
        assert data[0].joints[0].tolist() == JOINTS and data.ground_truth()["annotations"][0]["id"] > 0


def test_cvat_coco_layout(tmp_path):
    content = {"images": [{"id": 1, "file_name": "7.png", "height": 80, "width": 100}], "annotations": [],
               "categories": [{"id": 1, "name": "horse", "keypoints": HORSE, "skeleton": []}]}
    write(tmp_path, **{"annotations__person_keypoints_default.json": content, "images__default__7.png": (80, 100)})
    assert len(open_data(tmp_path)) == 1 and open_data(tmp_path).format == "COCO keypoints"


def test_runs_in_both_forms():
    from pycocotools import mask as masks
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.uniform(.02, .98)
        packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        flat = np.r_[False, mask.T.ravel(), True]
        plain = np.diff(np.r_[0, 1 + np.flatnonzero(np.diff(flat[1:-1])), mask.size]).tolist()
        plain = [0, *plain] if mask.T.ravel()[0] else plain
        for counts in (packed["counts"], packed["counts"].decode(), plain):
            runs = {"size": list(mask.shape), "counts": counts}
            assert (runs_mask(runs) == mask).all()
            if mask.any():
                box, area = outline_extent(runs)
                assert box == masks.toBbox(packed).tolist() and area == masks.area(packed)


def test_a_single_file_is_enough(tmp_path):
    write_toy(tmp_path / "toys", train=2, val=1, size=64)
    assert len(open_data(tmp_path / "toys" / "annotations" / "train.json")) == 2
    refused(lambda: find_data(tmp_path / "toys" / "images" / "train" / "000001.png"), "expected labels as .json, .xml or .yaml")
    shutil.rmtree(tmp_path / "toys" / "images")
    refused(lambda: open_data(tmp_path / "toys" / "annotations" / "train.json"), "not found in")


def test_archives_are_to_be_unpacked(tmp_path):
    refused(lambda: open_data(write(tmp_path, **{"export.zip": "PK"}) / "export.zip"), "Unpack this archive first")


def test_nothing_to_read(tmp_path):
    refused(lambda: open_data(tmp_path), "no labels for any split", "Nor is there a data.yaml")
    refused(lambda: open_data(tmp_path / "lost"), "there is no such folder")
    refused(lambda: open_data(write(tmp_path, **{"data.yaml": "{train: images}"})), "no labels for any split", "boxes only")


def test_held_out_images_are_disjoint_and_complete(tmp_path):
    write_toy(tmp_path, train=30, val=1, size=64)
    (tmp_path / "annotations" / "val.json").unlink()
    with pytest.warns(UserWarning, match="of 30 images, by their names, are held out of 'train'"):
        train, val = (open_data(tmp_path, split, hold_out=.1) for split in ("train", "val"))
    ids = [*train.labels.image_ids.tolist(), *val.labels.image_ids.tolist()]
    assert sorted(ids) == list(range(1, 31)) and 1 <= len(val) <= 9
    assert {record["image_id"] for record in val.ground_truth()["annotations"]} <= set(val.labels.image_ids.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_data(tmp_path, "train")) == 30


# --- out again ----------------------------------------------------------------------------------------------------

def test_images_of_one_name_are_kept_apart(tmp_path):
    content = {"images": [{"id": n, "file_name": f"{n}/7.png", "height": 80, "width": 100} for n in (1, 2)], "annotations": [],
               "categories": [{"id": 1, "name": "horse", "keypoints": HORSE}]}
    write(tmp_path, **{"1__7.png": (80, 100), "2__7.png": (80, 100)})
    write_yolo({"train": CocoPoses(content, tmp_path)}, tmp_path / "yolo")
    assert sorted(p.name for p in (tmp_path / "yolo" / "images" / "train").iterdir()) == ["2_7.png", "7.png"]
    assert open_data(tmp_path / "yolo", "train").labels.image_ids.tolist() == [2, 1]


def test_joints_beyond_the_border_are_told(tmp_path):
    write_toy(tmp_path / "toys", train=2, val=1, size=64)
    content = json.loads((tmp_path / "toys" / "annotations" / "train.json").read_text())
    content["annotations"][0].update(bbox=[-3, 0, 50, 50], iscrowd=0, keypoints=[-2, 5, 1] + [30, 30, 2] * 16)
    with pytest.warns(UserWarning, match="in 1 images a joint lies beyond the border"):
        write_yolo({"train": CocoPoses(content, tmp_path / "toys" / "images" / "train")}, tmp_path / "yolo")
    assert open_data(tmp_path / "yolo", "train").labels.joints[..., 0].min() == -2


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_toy(tmp_path / "toys", train=2, val=1, size=64)
    data, file = open_data(tmp_path / "toys", "train"), tmp_path / "labels.json"
    before = write_coco(data, file).read_text()
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *args, **keys: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_coco(data, file)
    assert file.read_text() == before and not list(tmp_path.glob(".labels*"))


def test_a_full_disk_stops_copies_and_not_the_run(tmp_path, monkeypatch):
    write_toy(tmp_path / "toys", train=3, val=1, size=64)
    cached = CachedPoses(open_data(tmp_path / "toys", "train"), tmp_path / "cache", side=32)
    monkeypatch.setattr("numpy.save", lambda *args, **keys: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="cannot write copies .No space left") as said:
        assert [cached[i].image.shape for i in range(3)] == [(32, 32, 3)] * 3
    assert len(said) == 1 and not list(cached.copies.folder.iterdir())
    assert cached[-1].image_id == 3
    with pytest.raises(IndexError):
        cached[3]


# --- workers ------------------------------------------------------------------------------------------------------

def look(data, answers):
    "In a worker: what arrived there."
    answers.put((type(data.labels.joints).__name__, data.labels.joints.sum(), data[0].image.shape, len(data.content()["images"]), data.folder))


@pytest.mark.parametrize("inside", [False, True])
def test_workers_that_start_afresh_share_the_arrays(tmp_path, inside):
    import multiprocessing
    import os
    write_toy(tmp_path, train=3, val=1, size=64)
    data = open_data(tmp_path, "train")
    data = CocoPoses(data.content(), data.images) if inside else data
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=look, args=(data, answers))
    worker.start()
    kind, total, shape, images, folder = answers.get(timeout=300)
    worker.join()
    assert (kind, shape, images, folder) == ("memmap", (64, 64, 3), 3, data.folder) and total == data.labels.joints.sum()
    assert os.path.isdir(folder) and isinstance(data.labels.joints, np.ndarray) and not isinstance(data.labels.joints, np.memmap)
    del data
    assert not os.path.isdir(folder)


CUP = Skeleton.from_names(["rim", "bottom", "handle"], name="cup", mirrorable=True)


@pytest.mark.parametrize("mirrorable", [None, True, False])
@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_mirrorable_survives_a_round_trip(tmp_path, write, mirrorable):
    skeleton = replace(CUP, mirrorable=mirrorable)
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0, "keypoints": [3, 4, 2, 5, 6, 2, 9, 9, 1]}
    labels = {"images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}], "annotations": [person],
              "categories": [{"id": 1, "name": "cup", "keypoints": list(CUP.joints), "mirrorable": mirrorable}]}
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    data = CocoPoses(labels, tmp_path)
    assert data.skeleton == skeleton and data.skeleton.flips == bool(mirrorable)
    write_coco(data, tmp_path / "out" / "labels.json") if write is write_coco else write_yolo({"train": data}, tmp_path / "out")
    again = CocoPoses(tmp_path / "out" / "labels.json", tmp_path) if write is write_coco else open_data(tmp_path / "out", "train")
    assert again.skeleton.mirrorable is mirrorable and again.skeleton.mirror_pairs == ()
    if write is write_yolo:
        assert ("flip_idx" in yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())) == bool(mirrorable)


def test_mirrored_objects_without_sides(tmp_path):
    flipped = TrainTransform(32, CUP, flip=1., affine_p=0, colour=None)(PoseSample(
        np.zeros((32, 32, 3), np.uint8), np.array([[0, 0, 9, 9]], np.float32), np.array([[[1, 2, 2], [3, 4, 2], [5, 6, 2]]], np.float32),
        np.array([81], np.float32), np.array([False]), 1), np.random.default_rng(0))
    np.testing.assert_allclose(flipped.joints[0, :, 0], [31, 29, 27], atol=1.5)
    with pytest.warns(UserWarning, match="say mirrorable=True"):
        assert TrainTransform(32, replace(CUP, mirrorable=None), flip=1.).flip.p == 0
    with pytest.raises(DataError, match="mirrorable must be true, false or left out, not 'yes'"):
        CocoPoses({"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup", "keypoints": ["rim"], "mirrorable": "yes"}]}, tmp_path)
# --- Damage in the middle of an export -----------------------------------------------------------------------------

@pytest.mark.parametrize("content", [b"", b"this is no image"])
def test_an_unreadable_image_of_a_yolo_folder_costs_only_itself(tmp_path, content):
    yolo(tmp_path)
    write(tmp_path, **{"labels__train__8.txt": f"0 .5 .5 .6 .5 {shares()}"})
    (tmp_path / "images" / "train" / "8.png").write_bytes(content)
    data = open_data(tmp_path, "train")
    assert len(data) == 2 and data.labels.starts.tolist() == [0, 1, 1]
    refused(lambda: data[1], "8.png")
    found = {one.fault: one for _, one in check_data(tmp_path, image_size=64).findings}
    assert found["image_unreadable"].count == 1 and "8.png" in str(found["image_unreadable"])


def test_all_bad_lines_of_a_yolo_folder_are_told_at_once(tmp_path):
    yolo(tmp_path)
    write(tmp_path, **{f"images__train__{n}.png": (80, 100) for n in range(20)}, **{f"labels__train__{n}.txt": "0 .5 .5 .6 .5" for n in range(20)})
    refused(lambda: open_data(tmp_path, "train"), "20 faults", "labels/train/0.txt: line 1 has 5 numbers", "and 10 more")
    findings = check_data(tmp_path, image_size=64).findings
    assert [(split, one.fault) for split, one in findings if one.level == "error"] == [("train", "label_file")] and "20 faults" in str(findings[0][1])


def test_a_part_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    yolo(tmp_path, val="images/val")
    write(tmp_path, **{"images__val__9.png": (80, 100), "labels__val__9.txt": "0 .5"})
    checkup = check_data(tmp_path, image_size=64)
    assert list(checkup.parts) == ["train"] and [split for split, one in checkup.findings if one.fault == "label_file"] == ["val"]


def test_images_without_a_text_are_told(tmp_path):
    yolo(tmp_path)
    write(tmp_path, **{f"images__train__{n}.png": (80, 100) for n in (8, 9)})
    found = {one.fault: one for _, one in check_data(tmp_path, image_size=64).findings}
    assert found["text_missing"].count == 2 and "labels/train/8.txt" in str(found["text_missing"])
    (tmp_path / "labels").rename(tmp_path / "lables")
    refused(lambda: open_data(tmp_path, "train"), "none of the 3 images of train has a label text", "labels/train/7.txt")


FAR = [[20, 30, 2], [40, 10, 2], [160, 12, 1]]  # the last joint is outside the image


def yolo_with_faults(folder):
    yolo(folder, f"0 .5 .5 .6 .5 {shares(FAR)}")
    write(folder, **{"images__train__8.png": (80, 100), "labels__train__8.txt": "0 .5 .5"})


def cvat_with_faults(folder):
    tail = skeleton(names=["nose", "left_ear", "tail"])
    cvat(folder, "".join(f'<image id="{n}" name="{n}.png" width="100" height="80">{body}</image>' for n, body in ((7, skeleton(FAR)), (8, tail))))
    write(folder, **{"7.png": (80, 100), "8.png": (80, 100)})


def studio_with_faults(folder):
    studio(folder, [point(x, y, name) for name, (x, y, _) in zip(HORSE, FAR)], [*ANIMAL, *ANIMAL])


@pytest.mark.parametrize("lay_out", [yolo_with_faults, cvat_with_faults, studio_with_faults])
def test_a_bad_record_does_not_hide_the_faults_of_others(tmp_path, lay_out):
    lay_out(tmp_path)
    with pytest.raises(PartlyRead):
        open_data(tmp_path)
    assert {"label_file", "joint_outside"} <= {one.fault for _, one in check_data(tmp_path, image_size=64).findings}


def test_a_bad_record_does_not_turn_held_out_images_into_leaks(tmp_path):
    yolo(tmp_path)
    rng = np.random.default_rng(0)
    for n in range(20):
        write(tmp_path, **{f"labels__train__{n}.txt": f"0 .5 .5 .6 .5 {shares()}" if n else "0 .5"})
        cv2.imwrite(str(tmp_path / "images" / "train" / f"{n}.png"), rng.integers(0, 255, (80, 100, 3), np.uint8))
    checkup = check_data(tmp_path, image_size=64, splits=["train", "val"])
    assert sorted(one.fault for _, one in checkup.findings if one.level == "error") == ["label_file", "label_file"]
    files = {split: set(part.raw.files) for split, part in checkup.parts.items()}
    assert files["train"] and files["val"] and not files["train"] & files["val"] and "leakage" not in {one.fault for _, one in checkup.findings}


def test_people_of_a_class_that_nobody_lists_are_missed_aloud(tmp_path):
    yolo(tmp_path, f"0 .5 .5 .6 .5 {shares()}\n7 .5 .5 .6 .5 {shares()}")
    with pytest.warns(UserWarning, match="1 annotations have a category that the file does not list; left out, first images/train/.*png line 2 .class 7."):
        assert len(open_data(tmp_path, "train").labels.boxes) == 1
    found = {one.fault: one for _, one in check_data(tmp_path, image_size=64).findings}
    assert found["category_unknown"].count == 1 and re.search(r"images/train/.*png line 2 \(class 7\)", str(found["category_unknown"]))


def test_people_of_a_label_text_are_named_by_their_line(tmp_path):
    yolo(tmp_path, f"0 .5 .5 .6 .5 {shares()}\n\n0 .5 .5 0 0 {shares()}")
    found = {one.fault: str(one) for _, one in check_data(tmp_path, image_size=64).findings}
    assert re.search(r"images/train/.*png line 3 ", found["box_flat"])


def test_texts_without_an_image_are_missed_aloud(tmp_path):
    yolo(tmp_path)
    write(tmp_path, **{"labels__train__8.txt": f"0 .5 .5 .6 .5 {shares()}"})
    found = {one.fault: one for _, one in check_data(tmp_path, image_size=64).findings}
    assert found["text_alone"].level == "warning" and "no image" in str(found["text_alone"]) and "labels/train/8.txt" in str(found["text_alone"])


def test_a_description_without_parts(tmp_path):
    yolo(tmp_path, train=None)
    refused(lambda: open_data(tmp_path), "data.yaml", "train", "val")
    refused(lambda: check_data(tmp_path), "data.yaml")


@pytest.mark.parametrize("keys", [{"names": {"a": "horse"}}, {"flip_idx": ["a", 2, 1]}])
def test_numbers_that_are_words(tmp_path, keys):
    refused(lambda: open_data(yolo(tmp_path, **keys), "train"), "data.yaml")


@pytest.mark.parametrize("old, new", [('width="100"', 'width="wide"'), ("20.00,30.00", "20.00,up"), ('points="20.00,30.00"', "")])
def test_cvat_records_that_mean_nothing(tmp_path, old, new):
    body = f'<image id="0" name="7.png" width="100" height="80">{skeleton()}</image>'
    refused(lambda: open_data(write(cvat(tmp_path, body.replace(old, new)), **{"7.png": (80, 100)})), "annotations.xml: image '7.png'")


def test_cvat_without_sizes(tmp_path):
    body = f'<image id="0" name="7.png">{skeleton()}</image>'
    assert open_data(write(cvat(tmp_path, body), **{"7.png": (80, 100)}))[0].joints[0].tolist() == JOINTS


@pytest.mark.parametrize("change", [lambda p: p["value"].update(keypointlabels=[]), lambda p: p["value"].pop("x"), lambda p: p["value"].update(y="up")])
def test_label_studio_regions_that_mean_nothing(tmp_path, change):
    animal = json.loads(json.dumps(ANIMAL))
    change(animal[0])
    refused(lambda: open_data(studio(tmp_path, animal)), "project.json: task 0")


def test_label_studio_without_sizes_takes_those_of_the_image(tmp_path):
    animal = [{key: value for key, value in one.items() if not key.startswith("original")} for one in ANIMAL]
    np.testing.assert_allclose(open_data(studio(tmp_path, animal))[0].joints[0], [[40, 10, 2], [20, 30, 2], [60, 12, 2]], atol=1e-4)


def coco(folder, file, name):
    "One animal in COCO format, its image at 7.png of a folder."
    labels = {"images": [{"id": 1, "file_name": name, "width": 100, "height": 80}], "categories": [{"id": 1, "name": "horse", "keypoints": HORSE}],
              "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [v for joint in JOINTS for v in joint], "bbox": [10, 5, 60, 40]}]}
    return write(folder, **{file: labels})


def test_fiftyone_coco_layout(tmp_path):
    write(coco(tmp_path, "labels.json", "7.png"), **{"data__7.png": (80, 100)})
    assert open_data(tmp_path)[0].joints[0].tolist() == JOINTS


def test_names_of_windows(tmp_path):
    write(coco(tmp_path, "annotations__train.json", "train\\7.png"), **{"images__train__7.png": (80, 100)})
    data = open_data(tmp_path, "train")
    assert data[0].joints[0].tolist() == JOINTS
    assert "image_missing" not in {one.fault for _, one in check_data(tmp_path, image_size=64).findings}
