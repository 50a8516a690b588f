"One list of tolerances for loss, assigner, AP and checkpoint, wherever it was given; a list that does not fit is refused."
import json

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.core.structures import RawPoses, Targets
from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import DataError
from yolo_nas_pose.loss import pose_loss
from yolo_nas_pose.loss.assigner import Assignment, quality_at
from yolo_nas_pose.loss.pose_loss import joint_losses
from yolo_nas_pose.metric.average_precision import evaluate_coco
from yolo_nas_pose.model.weights import load_checkpoint
from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import RecipeError, load_recipe
from yolo_nas_pose.training.run import build_data, start_run

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=1, lr=1e-4, warmup_steps=0, log_every=1,
            trackers=[], check_data=False)
OWN = tuple(.03 + .005 * k for k in range(17))


@pytest.fixture
def folder(tmp_path):
    return write_toy(tmp_path / "data", train=4, val=2, size=64)


def into_file(folder, sigmas, names=None):
    for file in (folder / "annotations").glob("*.json"):
        labels = json.loads(file.read_text())
        labels["categories"][0].update({"sigmas": list(sigmas)} | ({"keypoints": names} if names else {}))
        file.write_text(json.dumps(labels))


@pytest.mark.parametrize("place", ["recipe", "file", "file of a named skeleton"])
def test_they_reach_everybody(folder, tmp_path, monkeypatch, place):
    asked = {"recipe": {"sigmas": list(OWN)}, "file": {}, "file of a named skeleton": {"skeleton": "coco17"}}[place]
    into_file(folder, OWN if place != "recipe" else [.09] * 17)
    judged = []
    monkeypatch.setattr("yolo_nas_pose.training.evaluate.evaluate_coco",
                        lambda *words, sigmas, **more: judged.append(sigmas) or evaluate_coco(*words, sigmas=sigmas, **more))
    assigned = []
    original = pose_loss.assign
    monkeypatch.setattr(pose_loss, "assign", lambda *words, **more: assigned.append(words[5]) or original(*words, **more))
    result = train({**TINY, "data": str(folder), **asked}, out=tmp_path / "run")
    assert judged and all(tuple(one) == OWN for one in judged)
    assert assigned and all(torch.equal(one, torch.tensor(OWN)) for one in assigned)
    run = start_run(load_recipe({**TINY, "data": str(folder), **asked}), tmp_path / "other")
    assert torch.equal(run.loss.sigmas.cpu(), torch.tensor(OWN)) and run.val.skeleton.sigmas == OWN
    assert load_checkpoint(result.folder / "best.safetensors").skeleton.sigmas == OWN


def test_those_of_a_file_are_in_the_order_of_the_file(folder):
    order = np.random.default_rng(0).permutation(17)
    into_file(folder, [OWN[k] for k in order], [COCO17.joints[k] for k in order])
    assert CocoPoses.from_folder(folder, "train").skeleton.sigmas == OWN
    assert CocoPoses.from_folder(folder, "train", "coco17").skeleton.sigmas == OWN


@pytest.mark.parametrize("sigmas", [[.1] * 16, [.1] * 16 + [0.], [.1] * 16 + [None], .1, [.1] * 16 + ["wide"]])
def test_a_list_that_does_not_fit_is_refused(folder, tmp_path, sigmas):
    good = build_data(load_recipe({**TINY, "data": str(folder)}))
    if isinstance(sigmas, list) and all(isinstance(s, float) for s in sigmas):
        with pytest.raises(RecipeError, match="sigmas: 17 joints need as many positive"):
            build_data(load_recipe({**TINY, "data": str(folder), "sigmas": sigmas}))
    else:
        with pytest.raises(RecipeError, match="sigmas"):
            load_recipe({**TINY, "sigmas": sigmas})
    for file in (folder / "annotations").glob("train*.json"):
        labels = json.loads(file.read_text())
        labels["categories"][0]["sigmas"] = sigmas
        file.write_text(json.dumps(labels))
    with pytest.raises(DataError, match=r"train.json: category .*sigmas are .*expected 17 positive numbers"):
        CocoPoses.from_folder(folder, "train")
    with pytest.raises(RecipeError, match="sigmas: they are for labels on disk"):
        start_run(load_recipe({**TINY, "sigmas": list(OWN)}), tmp_path / "run", data=good)


def similarity(sigma):
    "OKS in the assigner, and 1 - the loss, of a joint that is 6 px off."
    joints, boxes = torch.tensor([[[50., 50, 2]]]), torch.tensor([[0., 0, 100, 80]])
    raw = RawPoses(None, None, torch.tensor([56., 50]).reshape(1, 1, 1, 2), torch.zeros(1, 1, 1), None, None)
    targets = Targets(torch.cat([torch.zeros(1, 1), boxes], 1), torch.cat([torch.zeros(1, 1, 1), joints], 2), torch.zeros(1, 2))
    zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1)
    found = Assignment(zero, zero, one, one.bool(), one[None], one[None].bool())
    sigmas = torch.tensor([sigma])
    quality = quality_at(boxes[None], raw.joints, targets, sigmas, zero, zero)  # the box is right, so that IoU is 1
    return float(quality), 1 - float(joint_losses(raw, targets, found, sigmas)[1])


def test_assigner_and_loss_follow_the_formula():
    "OKS = exp(-d^2 / (8 sigma^2 area)): sigmas of half the size raise it to the fourth power."
    area = .53 * 100 * 80
    for sigma in (.05, .025, .1):
        assert similarity(sigma) == pytest.approx([np.exp(-36 / (8 * sigma**2 * area))] * 2, rel=1e-5)
    (once, learnt), (half, strict) = similarity(.05), similarity(.025)
    assert .3 < once < .9 and half == pytest.approx(once ** 4, rel=1e-5) and strict == pytest.approx(learnt ** 4, rel=1e-5)


@pytest.mark.parametrize("engine", ["ours", "pycocotools"])
def test_ap_follows_the_formula(engine):
    "Three joints, the same distance off, OKS 0.83: right at seven of ten thresholds; at none with half the sigmas, at all with twice."
    area, names = 64. * 64, ["a", "b", "c"]
    off = float(np.sqrt(-np.log(.83) * 8 * .05**2 * area))
    joints = np.array([[20., 20, 2], [40, 20, 2], [30, 40, 2]])
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "three", "keypoints": names}],
             "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": joints.ravel().tolist(), "bbox": [10, 10, 64, 64], "area": area,
                              "num_keypoints": 3, "iscrowd": 0}]}
    answer = [{"image_id": 1, "category_id": 1, "score": .9, "keypoints": (joints + [off, 0, 0]).ravel().tolist(), "bbox": [10, 10, 64, 64]}]
    ap = {factor: evaluate_coco(truth, answer, sigmas=[.05 * factor] * 3, engine=engine)["AP"] for factor in (1, .5, 2)}
    assert ap == pytest.approx({1: .7, .5: 0., 2: 1.})
    with pytest.raises(ValueError, match="3 joints need as many positive sigmas"):
        evaluate_coco(truth, answer, sigmas=[.05] * 4, engine=engine)


@pytest.mark.parametrize("flag", [0, 1, 2])
def test_flags_teach_what_the_table_says(flag):
    "0 pulls at no place, 1 and 2 pull alike; the confidence of a joint learns whether it is labelled, hidden or not."
    def gradients(flag):
        joints = torch.tensor([[[50., 50, 2], [30., 40, flag]]])
        places, logits = torch.tensor([[[[56., 50], [36., 44]]]], requires_grad=True), torch.zeros(1, 1, 2, requires_grad=True)
        raw = RawPoses(None, None, places, logits, None, None)
        targets = Targets(torch.tensor([[0., 0, 0, 100, 80]]), torch.cat([torch.zeros(1, 2, 1), joints], 2), torch.zeros(1, 2))
        zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1)
        sum(joint_losses(raw, targets, Assignment(zero, zero, one, one.bool(), one[None], one[None].bool()), torch.tensor([.05, .05]))).backward()
        return places.grad[0, 0, 1], float(logits.grad[0, 0, 1])
    place, confidence = gradients(flag)
    assert (place == 0).all() if flag == 0 else (place != 0).all() and torch.equal(place, gradients(2)[0])
    assert (confidence > 0) == (flag == 0)
