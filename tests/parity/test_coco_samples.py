"Small real samples of public data sets are read with the right counts, joints in the right places."
import json
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, CROWDPOSE14
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import find_coco
from yolo_nas_pose.data.loader import make_loader
from yolo_nas_pose.data.transforms import TrainTransform

FILES = {"coco train": ("coco_mini", "annotations/person_keypoints_train2017.json", "images/train2017"),
         "coco val": ("coco_mini", "annotations/person_keypoints_val2017.json", "images/val2017"),
         "crowdpose": ("crowdpose_mini", "test_crowdpose.json", "."),
         "animalpose": ("animalpose_mini", "test_animalpose.json", ".")}


def open_set(shared, name):
    folder, labels, images = FILES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CocoPoses(shared / "data" / folder / labels, shared / "data" / folder / images)


@pytest.mark.parametrize("name, skeleton, images, people, crowds, empty, unlabelled, joints", [
    ("coco train", COCO17, 30, 87, 1, 11, 34, 589),
    ("coco val", COCO17, 30, 65, 0, 10, 25, 316),
    ("crowdpose", CROWDPOSE14, 2, 5, 0, 0, 1, 47),
    ("animalpose", ANIMALPOSE20, 2, 2, 0, 0, 0, 32)])
def test_counts(shared, name, skeleton, images, people, crowds, empty, unlabelled, joints):
    data = open_set(shared, name)
    samples = list(data)
    assert data.skeleton == skeleton and len(data) == len(samples) == images
    flags = np.concatenate([sample.joints[..., 2] for sample in samples])
    assert flags.shape == (people, skeleton.num_joints)
    assert sum(int(sample.crowd.sum()) for sample in samples) == crowds
    assert sum(len(sample.boxes) == 0 for sample in samples) == empty
    assert int((flags == 0).all(1).sum()) == unlabelled and int((flags > 0).sum()) == joints
    for sample in samples:
        height, width = sample.image.shape[:2]
        assert sample.image.dtype == np.uint8 and sample.image.ndim == 3 and sample.image.std() > 5
        assert (sample.boxes >= -1).all() and (sample.boxes <= np.array([width, height] * 2) + 1).all()
        seen = sample.joints[sample.joints[..., 2] > 0]
        assert (seen[:, :2] >= 0).all() and (seen[:, :2] <= (width, height)).all() and (sample.areas > 0).all()


@pytest.mark.parametrize("name", FILES)
def test_every_record_arrives_with_its_image(shared, name):
    "Read by plain means: searched record by record, joints looked up by name."
    data = open_set(shared, name)
    content = json.loads((shared / "data" / FILES[name][0] / FILES[name][1]).read_text())
    names = content["categories"][0]["keypoints"]
    for sample, image in zip(data, content["images"]):
        own = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        assert sample.image_id == image["id"] and sample.image.shape[:2] == (image["height"], image["width"])
        assert len(sample.boxes) == len(own)
        for box, joints, area, record in zip(sample.boxes, sample.joints, sample.areas, own):
            x, y, w, h = record["bbox"]
            assert_allclose(box, [x, y, x + w, y + h], rtol=1e-6)
            assert_allclose(area, record.get("area", .53 * w * h), rtol=1e-5)
            for k, joint in enumerate(data.skeleton.joints):
                column = 3 * names.index(joint)
                assert joints[k].tolist() == record["keypoints"][column:column + 3]


def test_animals_are_read_by_name_not_by_order(shared):
    data = open_set(shared, "animalpose")
    assert data.reading.order != tuple(range(20))
    nose, tail = (data[0].joints[0, data.skeleton.joints.index(joint)].tolist() for joint in ("Nose", "TailBase"))
    assert nose == [102, 109, 2] and tail == [235, 163, 2]


def test_folders_are_found(shared):
    found = find_coco(shared / "data" / "coco_mini", ["train", "val"])
    assert {split: (part.annotations.name, part.images.name) for split, part in found.items()} == {
        "train": ("person_keypoints_train2017.json", "train2017"), "val": ("person_keypoints_val2017.json", "val2017")}
    for name in ("crowdpose_mini", "animalpose_mini"):
        assert find_coco(shared / "data" / name)["test"].images == shared / "data" / name
    assert len(CocoPoses.from_folder(shared / "data" / "coco_mini", "val")) == 30


@pytest.mark.parametrize("name", FILES)
def test_ground_truth_opens_in_pycocotools(shared, name):
    from pycocotools.coco import COCO
    data = open_set(shared, name)
    coco = COCO()
    coco.dataset = data.ground_truth()
    coco.createIndex()
    assert len(coco.getAnnIds()) == len(data.labels.boxes) and len(coco.getImgIds()) == len(data)
    for sample in data:
        own = coco.loadAnns(coco.getAnnIds(imgIds=[sample.image_id]))
        assert_allclose(np.array([record["keypoints"] for record in own]).reshape(sample.joints.shape), sample.joints)
        assert_allclose([record["area"] for record in own], sample.areas, rtol=1e-5)
        assert all(record["id"] > 0 and {"iscrowd", "num_keypoints", "bbox"} <= set(record) for record in own)


def test_a_batch_of_photographs(shared):
    data = open_set(shared, "coco train")
    batch = next(iter(make_loader(data, 128, 30, TrainTransform(128, data.skeleton), shuffle=True)))
    assert batch.images.shape == (30, 3, 128, 128) and sorted(batch.image_ids) == sorted(data.labels.image_ids.tolist())
    assert 0 < len(batch.targets.boxes) <= 53 and np.isfinite(batch.maps).all()
