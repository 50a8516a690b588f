"`data=FOLDER` in a recipe, whatever the folder holds: the same animals, written four times."
import json
import shutil
import warnings

import numpy as np
import pytest

from yolo_nas_pose.core.skeleton import Skeleton
from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.coco import open_data
from yolo_nas_pose.data.loader import make_loader
from yolo_nas_pose.data.write import write_yolo
from yolo_nas_pose.training.recipe import load_recipe
from yolo_nas_pose.training.run import build_data, build_transform


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toys"), train=12, val=4, size=96, kind="animals")


def as_yolo(toys, folder):
    write_yolo({split: open_data(toys, split) for split in ("train", "val")}, folder)


def as_cvat(toys, folder):
    data = open_data(toys, "train")
    joints = data.skeleton.joints
    labels = "<label><name>animal</name><type>skeleton</type></label>" + "".join(
        f"<label><name>{joint}</name><type>points</type><parent>animal</parent></label>" for joint in joints)
    images = ""
    for i in range(len(data)):
        boxes, people, _, crowd = data.labels.people(i)
        shapes = "".join(f'<box label="animal" group_id="{n}" xtl="{b[0]}" ytl="{b[1]}" xbr="{b[2]}" ybr="{b[3]}"/><skeleton label="animal" group_id="{n}">'
                         + "".join(f'<points label="{joint}" outside="{int(v == 0)}" occluded="{int(v == 1)}" points="{x},{y}"/>'
                                   for joint, (x, y, v) in zip(joints, person)) + "</skeleton>"
                         for n, (b, person, many) in enumerate(zip(boxes, people, crowd), 1) if not many)
        images += f'<image id="{i}" name="{data.path(i).name}" width="96" height="96">{shapes}</image>'
    (folder / "annotations.xml").write_text(f"<annotations><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>")
    shutil.copytree(data.images, folder / "images")


def as_label_studio(toys, folder):
    data, tasks = open_data(toys, "train"), []
    size = {"original_width": 96, "original_height": 96}
    for i in range(len(data)):
        result = []
        for n, (box, person, many) in enumerate(zip(*(data.labels.people(i)[k] for k in (0, 1, 3)))):
            if many: continue
            x, y, u, v = (100 * box.astype(float) / 96).tolist()
            result.append({"id": f"b{n}", "type": "rectanglelabels", **size, "value": {"x": x, "y": y, "width": u - x, "height": v - y,
                                                                                       "rectanglelabels": ["animal"]}})
            result += [{"id": f"k{n}_{k}", "parentID": f"b{n}", "type": "keypointlabels", **size, "value": {
                "x": 100 * float(px) / 96, "y": 100 * float(py) / 96, "keypointlabels": [joint]}}
                for k, (joint, (px, py, seen)) in enumerate(zip(data.skeleton.joints, person)) if seen]
        tasks.append({"id": i, "data": {"image": f"/data/upload/1/0123abcd-{data.path(i).name}"}, "annotations": [{"result": result}]})
    (folder / "project.json").write_text(json.dumps(tasks))
    shutil.copytree(data.images, folder / "images")


@pytest.mark.parametrize("write, format", [(as_yolo, "YOLO pose"), (as_cvat, "CVAT for images"), (as_label_studio, "Label Studio")])
def test_a_recipe_trains_on_it(toys, tmp_path, write, format):
    write(toys, tmp_path)
    recipe = load_recipe("finetune", data=str(tmp_path), image_size=96, batch_size=2, workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, val = build_data(recipe)
    assert (train.format, train.skeleton) == (format, open_data(toys, "train").skeleton) and val.skeleton == train.skeleton
    assert len(train) + len(val) == (16 if format == "YOLO pose" else 12) and len(val) >= 1
    known = {open_data(toys, "train").path(i).name: open_data(toys, "train").labels.people(i) for i in range(12)}
    for i in range(len(train)):
        boxes, joints, _, crowd = known[train.path(i).name]
        np.testing.assert_allclose(train[i].boxes[~train[i].crowd], boxes[~crowd], atol=1e-3)
        mine, own = train[i].joints[~train[i].crowd], joints[~crowd]
        np.testing.assert_allclose(mine[..., :2] * (mine[..., 2:] > 0), own[..., :2] * (own[..., 2:] > 0), atol=1e-3)
        assert ((mine[..., 2] > 0) == (own[..., 2] > 0)).all()
    batch = next(iter(make_loader(train, 96, 2, build_transform(recipe, train.skeleton), shuffle=True, drop_last=True)))
    assert batch.images.shape == (2, 3, 96, 96) and batch.targets.joints.shape[1] == train.skeleton.num_joints
    assert {record["image_id"] for record in val.ground_truth()["annotations"]} <= set(val.labels.image_ids.tolist())


def test_a_skeleton_of_the_recipe_wins_over_that_of_the_labels(toys):
    "Its pairs and sigmas reach the samples; the joints are found by their names."
    own = open_data(toys, "train").skeleton
    mine = Skeleton.from_names(own.joints, mirror_pairs=[("L_Eye", "R_Eye")], sigmas=[.03] * 20, name="mine")
    recipe = load_recipe("finetune", data=str(toys), skeleton=mine)
    for part in build_data(recipe):
        assert part.skeleton == mine
    np.testing.assert_array_equal(build_data(recipe)[0][0].joints, open_data(toys, "train")[0].joints)
