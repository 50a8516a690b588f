"Real labels through every writer and back, and CrowdPose as its own evaluation sees it."
import json
import warnings

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, CROWDPOSE14
from yolo_nas_pose.data.coco import CocoPoses, open_data
from yolo_nas_pose.data.images import image_size, outline_extent
from yolo_nas_pose.data.write import crowd_levels, write_coco, write_yolo

SETS = {"coco": ("coco_mini", "train"), "coco val": ("coco_mini", "val"), "crowdpose": ("crowdpose_mini", "test"), "animalpose": ("animalpose_mini", "test")}


def opened(shared, name):
    folder, split = SETS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_data(shared / "data" / folder, split)


def same(one, other, boxes=0.):
    for part in ("image_ids", "sizes", "starts", "joints", "areas", "crowd"):
        assert_array_equal(getattr(one.labels, part), getattr(other.labels, part), part)
    assert_allclose(one.labels.boxes, other.labels.boxes, rtol=0, atol=boxes)
    assert one.skeleton == other.skeleton


@pytest.mark.parametrize("name", SETS)
def test_coco_and_back(shared, tmp_path, name):
    data = opened(shared, name)
    again = CocoPoses(write_coco(data, tmp_path / "labels.json"), data.images)
    same(data, again)
    before, after = data.content(), again.content()
    for row, record in zip(data.labels.records, after["annotations"]):
        assert record.items() >= {k: v for k, v in before["annotations"][row].items() if k != "keypoints"}.items()
    assert after["images"] == before["images"]


@pytest.mark.parametrize("name", SETS)
def test_yolo_and_back(shared, tmp_path, name):
    data = opened(shared, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_yolo({"train": data}, tmp_path)
    again = open_data(tmp_path, "train")
    order = np.argsort([again.path(i).name for i in range(len(again))]).tolist()
    theirs = sorted(range(len(data)), key=lambda i: data.path(i).name)
    for i, j in zip(order, theirs):
        for mine, own in zip(again[i][1:5], data[j][1:5]):
            assert_allclose(mine, own, rtol=0, atol=2e-4)
        assert_array_equal(again[i].joints[..., 2], data[j].joints[..., 2])
        assert (again[i].image == data[j].image).all() and again[i].image_id == data[j].image_id
    assert again.skeleton == data.skeleton


def test_crowdpose_levels(shared):
    data = opened(shared, "crowdpose")
    content = json.loads((shared / "data" / "crowdpose_mini" / "test_crowdpose.json").read_text())
    levels = crowd_levels(data)
    for level, (low, high) in {"easy": (-1, .2), "medium": (.2, .8), "hard": (.8, 9)}.items():
        ids = [image["id"] for image in content["images"] if low <= image["crowdIndex"] < high]
        assert levels[level].labels.image_ids.tolist() == ids
        truth = levels[level].ground_truth()
        assert len(truth["annotations"]) == sum(record["image_id"] in ids for record in content["annotations"])
    assert data.skeleton == CROWDPOSE14
    for record in data.ground_truth()["annotations"]:
        assert_allclose(record["area"], .53 * record["bbox"][2] * record["bbox"][3], rtol=1e-6)


def test_animalpose_in_its_original_form_is_the_same(shared, tmp_path):
    folder = shared / "data" / "animalpose_mini"
    content = json.loads((folder / "test_animalpose.json").read_text())
    original = {"images": {str(image["id"]): image["file_name"] for image in content["images"]}, "categories": content["categories"], "annotations": [
        {"image_id": r["image_id"], "category_id": r["category_id"], "bbox": [*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]],
         "keypoints": [[x, y, v and 1] for x, y, v in np.reshape(r["keypoints"], (-1, 3)).tolist()]} for r in content["annotations"]]}
    (tmp_path / "keypoints.json").write_text(json.dumps(original))
    data, known = CocoPoses(tmp_path / "keypoints.json", folder), opened(shared, "animalpose")
    assert data.skeleton == known.skeleton == ANIMALPOSE20
    for part in ("image_ids", "starts", "boxes", "joints"):
        assert_array_equal(getattr(data.labels, part), getattr(known.labels, part))


def test_outlines_of_coco(shared):
    "Areas of people within the pixels that their border crosses; boxes as stated."
    data = opened(shared, "coco")
    records = [record for record in data.content()["annotations"] if not record["iscrowd"]]
    for record in records:
        box, area = outline_extent(record["segmentation"])
        assert_allclose(box, record["bbox"], atol=1.01)
        assert abs(area - record["area"]) <= 2 + .02 * record["area"]


def test_missing_boxes_come_from_outlines(shared):
    data = opened(shared, "coco")
    bare = data.content()
    for record in bare["annotations"]:
        del record["bbox"], record["area"]
    again = CocoPoses(bare, data.images)
    assert_array_equal(again.labels.records, data.labels.records)
    assert_allclose(again.labels.boxes, data.labels.boxes, atol=1.6)
    assert data.labels.crowd.any()


def test_sizes_without_decoding(shared):
    for path in sorted((shared / "data").rglob("*.jp*g")):
        assert image_size(path) == cv2.imread(str(path)).shape[:2], path
