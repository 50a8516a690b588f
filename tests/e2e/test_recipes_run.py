"Two updates of every recipe that comes with the package, on a handful of made-up images with the joints it is for."
import csv
import json

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import COCO17, CROWDPOSE14, get_skeleton
from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.deploy.qat import qat_recipe, quantize_qat
from yolo_nas_pose.deploy.quantize import is_quantized
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.weights import load_checkpoint, save_checkpoint
from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import list_recipes, load_recipe

SLOW = [pytest.param(name, marks=pytest.mark.slow) if load_recipe(name).model[-1] in "ml" else name for name in list_recipes()]


def crowdpose_labels(data):
    "COCO labels of toy people with the joints of CrowdPose: the same limbs, head from the nose, neck between the shoulders; no areas."
    for person in data["annotations"]:
        old = np.array(person["keypoints"], float).reshape(-1, 3)
        new = np.zeros((14, 3))
        for k, joint in enumerate(CROWDPOSE14.joints):
            if joint in COCO17.joints:
                new[k] = old[COCO17.joints.index(joint)]
        shoulders = old[[5, 6]]
        new[CROWDPOSE14.joints.index("head")], new[CROWDPOSE14.joints.index("neck")] = old[0], [*shoulders[:, :2].mean(0), shoulders[:, 2].min()]
        person["keypoints"], person["num_keypoints"] = new.ravel().tolist(), int((new[:, 2] > 0).sum())
        person.pop("area", None)
    data["categories"][0]["keypoints"] = list(CROWDPOSE14.joints)
    data["categories"][0]["skeleton"] = []
    return data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "A data set for each skeleton."
    made = {}
    for name, kind in (("coco17", "people"), ("animalpose20", "animals"), ("crowdpose14", "people")):
        made[name] = write_toy(tmp_path_factory.mktemp(name) / "data", train=8, val=2, size=96, kind=kind)
    for file in (made["crowdpose14"] / "annotations").glob("*.json"):
        file.write_text(json.dumps(crowdpose_labels(json.loads(file.read_text()))))
    return made


@pytest.mark.parametrize("name", SLOW)
def test_two_updates(tmp_path, folders, name):
    recipe = load_recipe(name)
    skeleton = recipe.skeleton or "coco17"
    begin = save_checkpoint(tmp_path / "begin.safetensors", YoloNASPose(recipe.model))
    small = dict(image_size=64, batch_size=2, val_batch_size=2, workers=0, precision="fp32", max_steps=2, log_every=1, trackers=[], accumulate=1,
                 data=str(folders[skeleton]), weights=str(begin))
    result = train(load_recipe(name, **small), out=tmp_path / "run")
    rows = list(csv.DictReader((result.folder / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"] and all(np.isfinite(float(row["total"])) for row in rows)
    assert result.model.skeleton == get_skeleton(skeleton) and 0 <= result.metrics["AP"] <= 1 or result.metrics["AP"] == -1
    again, start = load_checkpoint(result.folder / "best.safetensors"), load_checkpoint(begin)
    assert any(not torch.equal(a, b) for a, b in zip(again.heads.head1.state_dict().values(), start.heads.head1.state_dict().values()))
    assert (result.folder / "average.safetensors").exists() == bool(recipe.average_best)


SIBLINGS = [pytest.param(name, marks=() if load_recipe(name).model[-1] == "n" else pytest.mark.slow) for name in list_recipes()]


@pytest.mark.parametrize("name", SIBLINGS)
def test_two_updates_of_the_sibling_in_eight_bits(tmp_path, folders, name):
    recipe, sibling = load_recipe(name), qat_recipe(name)
    skeleton = recipe.skeleton or "coco17"
    assert (sibling.model, sibling.skeleton, sibling.epochs) == (recipe.model, recipe.skeleton, max(1, recipe.epochs // 10))
    assert sibling.lr == pytest.approx(recipe.lr / 100) and sibling.precision == "fp32"
    small = dict(image_size=64, batch_size=2, val_batch_size=2, workers=0, max_steps=2, log_every=1, trackers=[], accumulate=1, data=str(folders[skeleton]))
    torch.manual_seed(0)
    result = quantize_qat(name, YoloNASPose(recipe.model, skeleton=skeleton), out=tmp_path / "run", images=8, **small)
    rows = list(csv.DictReader((result.folder / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"] and all(np.isfinite(float(row["total"])) for row in rows)
    assert is_quantized(load_checkpoint(result.folder / "best.safetensors"))


def test_the_list_is_complete():
    wanted = {f"{data}_{size}" for data in ("coco", "crowdpose", "animalpose") for size in "sml"} | {"coco_n", "coco_s_short", "finetune", "toy"}
    assert wanted <= set(list_recipes())
