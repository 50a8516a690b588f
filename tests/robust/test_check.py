"The dataset doctor: every fault has a fixture, is found once, alone, with its own words and a place; healthy labels have none."
import copy
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from pycocotools.mask import frPyObjects

from yolo_nas_pose import check_data
from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.anatomy import cells_inside, estimate_sigmas, suggest_sigmas
from yolo_nas_pose.data.chart import chart
from yolo_nas_pose.data.raw_labels import read_raw
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import DataError

SIZE = 96


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toys") / "set", train=40, val=6, size=SIZE, seed=3)


@pytest.fixture(scope="module")
def content(original):
    return json.loads((original / "annotations" / "train.json").read_text())


@pytest.fixture
def toys(original, tmp_path):
    "A data set to spoil."
    return shutil.copytree(original, tmp_path / "set")


def people(labels):
    "The records with at least five labelled joints."
    return [one for one in labels["annotations"] if not one["iscrowd"] and one["num_keypoints"] >= 5]


def joints(one):
    return np.array(one["keypoints"], float).reshape(-1, 3)


def write(one, table):
    one["keypoints"] = table.ravel().tolist()


def move(one, x, y):
    "Moves the labelled joints."
    table = joints(one)
    table[table[:, 2] > 0, :2] += x, y
    write(one, table)


def flags(one, change):
    table = joints(one)
    table[:, 2] = change(table)
    write(one, table)


def swap(one, pairs):
    table = joints(one)
    for a, b in pairs:
        table[[a, b]] = table[[b, a]]
    write(one, table)


def first(**changes):
    return lambda labels: people(labels)[0].update(changes)


def corners(labels):
    for one in labels["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]
        one.pop("area")


def shares(labels):
    for one in labels["annotations"]:
        one["bbox"] = [value / SIZE for value in one["bbox"]]
        one.pop("area")


def joint_shares(labels):
    for one in labels["annotations"]:
        write(one, joints(one) / (SIZE, SIZE, 1))


def point(joint, *values):
    "Gives a joint of the first person other numbers; without num_keypoints, which would differ."
    def change(labels):
        one = people(labels)[0]
        one["keypoints"][3 * joint:3 * joint + 3] = values
        one.pop("num_keypoints")
    return change


def labelled(labels):
    "A joint that the first person has."
    return int(joints(people(labels)[0])[:, 2].argmax())


def unlabel(labels):
    flags(people(labels)[0], lambda table: 0 * table[:, 2])
    people(labels)[0].pop("num_keypoints")


def swapped_flags(labels):
    for one in labels["annotations"]:
        table = joints(one)
        zero = table[:, 2] == 0
        table[:, 2] = np.where(zero, 2, 0)
        write(one, table)
        one.pop("num_keypoints")


def never(labels):
    for one in labels["annotations"]:
        one["keypoints"][9:12] = 0, 0, 0
        one.pop("num_keypoints")


def nobody(labels):
    for one in labels["annotations"]:
        one.update(keypoints=[0] * 51, num_keypoints=0)


def heap(labels):
    one = people(labels)[0]
    table = joints(one)
    x, y, width, height = one["bbox"]
    table[table[:, 2] > 0, :2] = x + width / 2, y + height / 2
    write(one, table)


def knees(labels):
    for one in labels["annotations"]:
        swap(one, [(13, 14)])


def some_hips(labels):
    for one in people(labels)[::4]:
        swap(one, [(11, 12)])


def mirror(labels):
    with_face = [one for one in people(labels) if (joints(one)[:3, 2] > 0).all()]
    swap(with_face[0], COCO17.mirror_pairs)


def again(labels):
    labels["annotations"].append({**people(labels)[0], "id": 9999})


def small(labels, factor, some):
    for one in (people(labels)[:1] if some else labels["annotations"]):
        table = joints(one)
        table[table[:, 2] > 0, :2] = 1 + table[table[:, 2] > 0, :2] * factor
        write(one, table)
        one["bbox"] = [1 + value * factor for value in one["bbox"][:2]] + [value * factor for value in one["bbox"][2:]]
        one.pop("area")


def image(n, **changes):
    return lambda labels: labels["images"][n].update(changes)


def nothing(labels):
    people(labels)[0].update(bbox=None, keypoints=[0] * 51, num_keypoints=0)


# fault: level, how labels are spoilt, how many are found (None: some), words of the message, other findings that follow from it
LABELS = {
    "image_record": ("error", lambda c: c["images"].append({"id": 99}), 1, ["file_name", "images[40]"], []),
    "image_id_twice": ("error", lambda c: c["images"].append({**c["images"][0], "file_name": "b.png"}), 1, ["b.png has the id 1"], []),
    "file_twice": ("warning", lambda c: c["images"].append({**c["images"][0], "id": 99}), 1, ["000001.png"], []),
    "annotation_record": ("error", lambda c: c["annotations"].append("ann"), 1, ["no object"], []),
    "no_image": ("warning", first(image_id=777), 1, ["image 777", "does not list"], []),
    "category_unknown": ("warning", first(category_id=9), 1, ["category 9", "none that the file lists"], []),
    "annotation_id_twice": ("error", lambda c: people(c)[1].update(id=people(c)[0]["id"]), 1, ["2 times"], []),
    "joint_count": ("error", first(keypoints=[1, 2, 2] * 16), 1, ["48 values", "51 numbers"], []),
    "box_numbers": ("error", first(bbox=[1, 2, -3, 4]), 1, ["[1, 2, -3, 4]"], []),
    "box_corners": ("error", corners, None, ["x1, y1, x2, y2", "width = x2 - x1"], ["box_beyond", "joints_elsewhere", "sides_mixed"]),
    "box_shares": ("error", shares, None, ["0..1", "Multiply"], []),
    "box_flat": ("error", lambda c: people(c)[0]["bbox"].__setitem__(2, 0), 1, ["no width or no height"], []),
    "box_outside": ("error", first(bbox=[2000, 10, 40, 40]), 1, ["outside of the image", "in 96 x 96 px"], ["joints_elsewhere", "area_odd"]),
    "box_beyond": ("warning", first(bbox=[-40, -40, 130, 130], area=None), 1, ["beyond the image"], []),
    "area_zero": ("warning", first(area=0), 1, ["area is zero", "0.53"], []),
    "area_odd": ("warning", first(area=.2), 1, ["px^2", "area 0.2"], []),
    "nothing": ("warning", nothing, 1, ["neither a box nor a labelled joint"], []),
    "flag_odd": ("error", point(5, 40, 40, 3), 1, ["visibility 3", "left_shoulder"], ["joint_outside"]),
    "joint_nowhere": ("error", point(5, None, 40, 2), 1, ["without a place", "x nan"], []),
    "flags_swapped": ("error", swapped_flags, None, ["look swapped"], ["no_positives"]),
    "joint_at_origin": ("error", point(5, 0, 0, 2), 1, ["(0, 0)", "left_shoulder"], []),
    "joint_unused": ("warning", point(5, 40, 40, 0), 1, ["called not labelled", "left_shoulder: x 40, y 40"], []),
    "count_differs": ("warning", first(num_keypoints=1), 1, ["1 stated"], []),
    "joint_never": ("warning", never, 1, ["left_ear", "not be learnt"], []),
    "no_positives": ("error", nobody, None, ["nothing to learn"], []),
    "joint_shares": ("error", joint_shares, None, ["0..1", "Multiply"], []),
    "joint_outside": ("warning", lambda c: move(people(c)[0], 300, 0), 1, ["outside of the image", "in 96 x 96 px"], ["joints_elsewhere"]),
    "joints_elsewhere": ("warning", first(bbox=[90, 90, 5, 5], area=None), 1, ["0% inside"], []),
    "joints_heap": ("warning", heap, 1, ["one place"], []),
    "columns_swapped": ("error", knees, 1, ["left_knee and right_knee", "Swap their columns"], []),
    "sides_mixed": ("warning", some_hips, None, ["left_hip", "other way round"], []),
    "mirrored": ("warning", mirror, 1, ["mirror image", "Left is the left of the person"], []),
    "person_twice": ("warning", again, 1, ["the same person", "as "], []),
    "tiny": ("warning", lambda c: small(c, .03, True), 1, ["96 px", "no cell"], []),
}


def examined(labels, folder, **options):
    checkup = check_data({"train": (labels, folder / "images" / "train")}, image_size=SIZE, most_images=1, **options)
    return {one.fault: one for _, one in checkup.findings}, checkup


def test_healthy_labels_have_no_fault(original, content):
    found, checkup = examined(content, original)
    assert set(found) <= {"no_joints"}, checkup
    checkup.stop()


@pytest.mark.parametrize("kind", ["people", "animals"])
def test_healthy_folders(tmp_path, kind):
    checkup = check_data(write_toy(tmp_path / "set", train=24, val=16, size=128, seed=5, kind=kind), image_size=128)
    assert {one.level for _, one in checkup.findings} <= {"note"}, checkup
    assert set(checkup.parts) == {"train", "val"} and checkup.parts["train"].opened == 24


@pytest.mark.parametrize("fault", LABELS)
def test_fault_of_labels(original, content, fault):
    level, spoil, count, words, follow = LABELS[fault]
    spoilt = copy.deepcopy(content)
    spoil(spoilt)
    found, checkup = examined(spoilt, original)
    assert fault in found, checkup
    one = found[fault]
    assert one.level == level and (count is None or one.count == count), one
    for word in words:
        assert word in str(one), f"{word!r} is not in: {one}"
    assert {other for other in found if found[other].level != "note"} <= {fault, *follow}, checkup
    if level == "error":
        with pytest.raises(DataError, match=re.escape(one.what)):
            checkup.stop()
    else:
        checkup.stop()


def test_every_message_is_its_own(original, content):
    texts = {}
    for fault, (_, spoil, *_) in LABELS.items():
        spoilt = copy.deepcopy(content)
        spoil(spoilt)
        one = examined(spoilt, original)[0][fault]
        texts[fault] = re.sub(r"\d+", "", one.what), one.advice
        assert len(one.advice) > 10 and len(str(one)) < 900
    assert len(set(texts.values())) == len(texts) >= 30


def test_all_of_them_at_once(original, content):
    "One fault does not end the examination: several are found in one go, as no reader that stops could."
    spoilt = copy.deepcopy(content)
    chosen = ["image_record", "file_twice", "joint_count", "annotation_id_twice", "annotation_record"]
    for fault in chosen:
        LABELS[fault][1](spoilt)
    assert set(chosen) <= set(examined(spoilt, original)[0])
    with pytest.raises(DataError):
        CocoPoses(spoilt, original / "images" / "train")


ODD = [None, "x", -1, 0, 1e99, True, [], {}, [None], [[1], [2], [3], [4]], [1, 2, 3, 4], float("nan"), float("inf"), "1"]


@pytest.mark.parametrize("part, key", [(part, key) for part, keys in (
    ("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name", "keypoints", "skeleton", "sigmas")),
    ("annotations", ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints"))) for key in keys])
def test_any_value_anywhere(original, content, part, key):
    "Whatever a field holds, the examination ends, with a chart."
    few = {**content, "images": content["images"][:3], "annotations": [one for one in content["annotations"] if one["image_id"] < 4]}
    for value in ODD:
        spoilt = copy.deepcopy(few)
        spoilt[part][0][key] = value
        checkup = examined(spoilt, original)[1]
        assert str(checkup).startswith("the given labels: ") and len(chart(checkup)) > 1000, value


def test_sets_of_one_person(original, content):
    lone = {**content, "images": content["images"][:1], "annotations": []}
    assert "no_positives" in examined(lone, original)[0]
    assert "no_positives" in examined({**lone, "images": []}, original)[0]


def test_everybody_vanishes(original, content):
    spoilt = copy.deepcopy(content)
    small(spoilt, .03, False)
    assert examined(spoilt, original)[0]["tiny"].level == "error"


def test_mirrored_set_is_an_error(original, content):
    spoilt = copy.deepcopy(content)
    for one in spoilt["annotations"]:
        swap(one, COCO17.mirror_pairs)
    one = examined(spoilt, original)[0]["mirrored"]
    assert one.level == "error" and one.count > 20


@pytest.mark.parametrize("packed", [False, True])
def test_an_outline_is_a_place(original, content, packed):
    "A crowd without a box is read by its outline, plain or packed, so the check must not call it lost."
    rle = frPyObjects({"size": [SIZE, SIZE], "counts": [0, 500, SIZE * SIZE - 500]}, SIZE, SIZE)
    counts, content = rle["counts"].decode() if packed else [0, 500, SIZE * SIZE - 500], copy.deepcopy(content)
    content["annotations"].append({"id": 9998, "image_id": content["images"][0]["id"], "category_id": 1, "iscrowd": 1,
                                   "segmentation": {"size": [SIZE, SIZE], "counts": counts}})
    assert len(CocoPoses(content, original).labels.boxes) == len(content["annotations"])
    assert "nothing" not in examined(content, original)[0]


def test_ids_may_be_whole_floats(original, content):
    content = copy.deepcopy(content)
    for one in content["annotations"]:
        one["image_id"] = float(one["image_id"])
    assert set(examined(content, original)[0]) <= {"no_joints"}, examined(content, original)[1]


def test_skeletons(original, content):
    found = examined(content, original, skeleton="crowdpose14")[0]
    assert "has 17 joints, the skeleton 'crowdpose14' 14" in str(found["skeleton"])
    unnamed = copy.deepcopy(content)
    unnamed["categories"][0].update(keypoints=[f"j{k}" for k in range(17)], skeleton=[[0, 1]])
    found = examined(unnamed, original)[0]
    assert found["no_pairs"].level == "note" and "count joints from 0" in str(found["joint_names"])
    empty = {**content, "categories": []}
    assert '"categories" is empty' in str(examined(empty, original)[0]["skeleton"])


@pytest.mark.parametrize("sigmas, words", [([.05] * 14, "14 numbers, expected 17"), ([.05] * 16 + [-1], "17 numbers, expected 17 positive"),
                                           ("small", "'small'")])
def test_sigmas(original, content, sigmas, words):
    assert words in str(examined(content, original, sigmas=sigmas)[0]["sigmas"])
    inside = copy.deepcopy(content)
    inside["categories"][0]["sigmas"] = sigmas
    assert words in str(examined(inside, original)[0]["sigmas"])
    assert "sigmas" not in examined(content, original, sigmas=[.05] * 17)[0]


def picture(toys, n):
    return toys / "images" / "train" / f"{n:06d}.png"


@pytest.mark.parametrize("fault, level, spoil, words", [
    ("image_missing", "error", lambda toys: picture(toys, 4).unlink(), ["000004.png", "no such file"]),
    ("image_unreadable", "error", lambda toys: picture(toys, 4).write_bytes(picture(toys, 4).read_bytes()[:999]), ["000004.png", "ends too early"]),
    ("image_unreadable", "error", lambda toys: picture(toys, 4).write_bytes(b"GIF"), ["000004.png", "no image OpenCV can read"]),
    ("image_size", "error", lambda toys: cv2.imwrite(str(picture(toys, 4)), cv2.imread(str(picture(toys, 4)))[:50]), ["96 x 50 px, labelled as 96 x 96"]),
    ("image_twice", "warning", lambda toys: shutil.copy(picture(toys, 4), picture(toys, 5)), ["000005.png is 000004.png"]),
    ("leakage", "warning", lambda toys: shutil.copy(picture(toys, 4), toys / "images" / "val" / "000002.png"), ["val/000002.png is train/000004.png (the same pixels)"]),
    ("leakage", "warning", lambda toys: cv2.imwrite(str(toys / "images" / "val" / "000002.png"), cv2.add(cv2.imread(str(picture(toys, 4))), (9., 9., 9., 0))),
     ["val/000002.png is train/000004.png (likeness"]),
    ("label_file", "error", lambda toys: (toys / "annotations" / "val.json").write_text('{"images": [{"id": 1, "file_name": "000001.png"'), ["no complete JSON"]),
])
def test_fault_of_files(toys, fault, level, spoil, words):
    spoil(toys)
    checkup = check_data(toys, image_size=SIZE)
    found = {one.fault: one for _, one in checkup.findings if one.level != "note"}
    assert list(found) == [fault] and found[fault].level == level and found[fault].count == 1, checkup
    for word in words:
        assert word in str(found[fault]), checkup


def test_other_skeleton_in_val(toys):
    file = toys / "annotations" / "val.json"
    labels = json.loads(file.read_text())
    labels["categories"][0]["keypoints"] = [f"j{k}" for k in range(17)]
    file.write_text(json.dumps(labels))
    assert ("val", "other_skeleton") in [(split, one.fault) for split, one in check_data(toys, image_size=SIZE).findings]


def test_no_data(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        check_data(tmp_path / "nowhere")


def test_sizes_come_from_the_images(original, content):
    bare = copy.deepcopy(content)
    for one in bare["images"]:
        del one["height"], one["width"]
    checkup = check_data({"train": (bare, original / "images" / "train")}, image_size=SIZE)
    assert np.array_equal(checkup.parts["train"].raw.sizes, np.full((40, 2), SIZE))


def test_cells_are_those_of_the_assigner():
    import torch

    from yolo_nas_pose.loss.assigner import centres_inside
    boxes = np.random.default_rng(0).uniform(-20, 150, (300, 2, 2)).round()
    boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)
    for n, stride in enumerate((8, 16, 32)):
        points = (torch.stack(torch.meshgrid(*[torch.arange(128 // stride)] * 2, indexing="xy"), -1).reshape(-1, 2) + .5) * stride
        inside = centres_inside(points, torch.tensor(boxes)).sum(1)
        assert inside.tolist() == cells_inside(boxes, 128)[:, n].tolist()


def test_sigmas_come_back(original, content):
    rng, table = np.random.default_rng(1), whole_people()
    sigmas = np.array(COCO17.sigmas)
    first, second = (table + rng.normal(size=table.shape) * np.array([100, 100, 0]) * sigmas[:, None] / 2**.5 for _ in range(2))
    assert np.allclose(estimate_sigmas(first, second, np.full(len(table), 1e4)), sigmas, rtol=.15)
    few = estimate_sigmas(first[:5], second[:5], np.full(5, 1e4))
    assert np.isnan(few).all()
    advice = suggest_sigmas(read_raw(content)[0])
    assert not advice.measured.any() and "guess" in advice.words


def whole_people():
    "Four hundred people with all joints."
    table = np.ones((400, 17, 3)) * 2
    table[..., :2] = np.random.default_rng(0).uniform(0, 100, (400, 17, 2))
    return table


class Tags(HTMLParser):
    "Counts tags that must be closed, and collects where things are loaded from."
    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("div", "table", "figure", "details", "pre", "span", "b", "em", "i", "h1", "h2", "h3", "small"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"{tag} closes another tag"


def test_chart(toys, tmp_path):
    evil = "<script>alert(1)</script>.png"
    labels = json.loads((toys / "annotations" / "train.json").read_text())
    labels["images"][3]["file_name"] = evil
    labels["annotations"][0]["bbox"] = None
    labels["annotations"][1]["keypoints"] = None
    (toys / "annotations" / "train.json").write_text(json.dumps(labels))
    checkup = check_data(toys, image_size=SIZE, out=tmp_path / "new" / "chart.html")
    page = (tmp_path / "new" / "chart.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    tags = Tags()
    tags.feed(page)
    assert not tags.open and all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    images = re.findall(r'<div class="images">(.*?)</div>', page, re.S)
    assert [part.count("<figure>") for part in images] == [8, 6]
    assert len(tags.sources) == 8 + 6 + 2 * 17 and not list(tmp_path.rglob("*.tmp"))
    assert checkup.verdict().replace("<", "&lt;") in page


def test_sixty_images_take_seconds(tmp_path):
    folder = write_toy(tmp_path / "set", train=50, val=10, size=320, seed=9)
    begin = time.process_time()
    check_data(folder, image_size=320, out=tmp_path / "chart.html")
    assert time.process_time() - begin < 6


def test_real_labels(shared):
    checkup = check_data(shared / "data" / "coco_mini")
    assert [(split, one.fault) for split, one in checkup.findings if one.level != "note"] == [("val", "joints_elsewhere")]
    for name in ("crowdpose_mini/test_crowdpose.json", "animalpose_mini/test_animalpose.json", "coco_four/test_coco.json"):
        file = shared / "data" / name
        checkup = check_data({"test": (file, file.parent)})
        assert not checkup.count("error"), checkup


def test_training_asks_first(toys, tmp_path, capsys):
    from yolo_nas_pose.training.recipe import load_recipe
    from yolo_nas_pose.training.run import start_run
    recipe = load_recipe("finetune", data=str(toys), model="yolo_nas_pose_n", weights=None, image_size=SIZE, batch_size=2, workers=0)
    shutil.copy(picture(toys, 4), picture(toys, 5))
    start_run(recipe, tmp_path / "good")
    assert "000005.png is 000004.png" in capsys.readouterr().out and (tmp_path / "good" / "data.html").is_file()
    file = toys / "annotations" / "train.json"
    labels = json.loads(file.read_text())
    labels["annotations"][0]["bbox"][2] = 0
    labels["annotations"][1]["id"] = 1
    file.write_text(json.dumps(labels))
    with pytest.raises(DataError) as caught:
        start_run(recipe, tmp_path / "bad")
    for word in ("2 kinds of errors", "box_flat", "annotation_id_twice", "data.html", "check_data: false"):
        assert word in str(caught.value)
    start_run(load_recipe(recipe, check_data=False), tmp_path / "bad")


def test_training_forgives_as_many_unreadable_images_as_a_run(toys, tmp_path, capsys):
    from yolo_nas_pose.training.recipe import load_recipe
    from yolo_nas_pose.training.run import start_run
    recipe = load_recipe("finetune", data=str(toys), model="yolo_nas_pose_n", weights=None, image_size=SIZE, batch_size=2, workers=0)
    picture(toys, 4).write_bytes(picture(toys, 4).read_bytes()[:500])
    picture(toys, 7).unlink()
    start_run(load_recipe(recipe, max_broken=.05), tmp_path / "good")  # 2 of 40
    told = capsys.readouterr().out
    assert "000004.png" in told and "000007.png" in told and "max_broken allows 5.00%" in told
    with pytest.raises(DataError, match="2 kinds of errors") as caught:
        start_run(load_recipe(recipe, max_broken=.049), tmp_path / "bad")
    assert "000004.png" in str(caught.value) and "000007.png" in str(caught.value)
    assert check_data(toys, image_size=SIZE).count("error") == 2  # by itself the doctor is strict


def test_threads_change_nothing(toys, monkeypatch):
    cv2.imwrite(str(picture(toys, 9)), cv2.imread(str(picture(toys, 9)))[:50])
    shutil.copy(picture(toys, 4), picture(toys, 5))
    picture(toys, 7).unlink()
    found = []
    for cores in (1, 8):
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        found.append(check_data(toys, image_size=SIZE).findings)
    assert found[0] == found[1] and len(found[0]) >= 3


PROCESSES = """
import sys
from pathlib import Path
from yolo_nas_pose.data.files import DataError
from yolo_nas_pose.training.recipe import load_recipe
from yolo_nas_pose.training.run import examine_data, make_accelerator
recipe, folder = load_recipe("finetune", data=sys.argv[1], image_size=96, trackers=[]), Path(sys.argv[2])
accelerator = make_accelerator(recipe, folder)
try:
    examine_data(recipe, folder, accelerator)
    words = "healthy"
except DataError as error:
    words = str(error)
Path(folder, f"{accelerator.num_processes}_{accelerator.process_index}.txt").write_text(words.replace(str(folder), "FOLDER"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ill", [True, False])
def test_two_processes_hear_what_one_hears(toys, tmp_path, ill):
    if ill:
        picture(toys, 7).unlink()
        file = toys / "annotations" / "train.json"
        labels = json.loads(file.read_text())
        labels["annotations"][0]["bbox"][2] = 0
        file.write_text(json.dumps(labels))
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    for processes in (1, 2):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port] if processes == 2 else []
        subprocess.run([sys.executable, *launcher, str(script), str(toys), str(tmp_path)], check=True, capture_output=True, timeout=300)
    alone, first, second = [(tmp_path / name).read_text() for name in ("1_0.txt", "2_0.txt", "2_1.txt")]
    assert alone == first == second
    assert ("box_flat" in alone and "000007.png" in alone) if ill else alone == "healthy"


def test_command(toys, tmp_path):
    from typer.testing import CliRunner

    from yolo_nas_pose.cli import app
    call = ["check-data", str(toys), "--size", str(SIZE), "--out", str(tmp_path / "chart.html")]
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 0 and "0 errors" in shown.stdout and (tmp_path / "chart.html").is_file()
    picture(toys, 4).unlink()
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 1 and "ERROR    train: 1 of 40 images: there is no such file" in shown.stdout


def test_pictures_of_another_day_are_not_shown(tmp_path):
    from yolo_nas_pose.training.recipe import load_recipe
    from yolo_nas_pose.training.run import examine_data, make_accelerator
    out = tmp_path / "run"
    out.mkdir()
    (out / "data.html").write_text("of the run before")
    recipe = load_recipe("finetune", data=str(tmp_path / "nowhere"), trackers=())
    with pytest.raises(DataError, match="no such folder") as caught:
        examine_data(recipe, out, make_accelerator(recipe, out))
    assert "Pictures:" not in str(caught.value)
