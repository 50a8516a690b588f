"Several classes that share a skeleton, from labels to files: nobody changes class on the way, and one class is as it was."
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from yolo_nas_pose.core.geometry import box_iou
from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.core.toy import ToyScenes, write_toy
from yolo_nas_pose.data.coco import open_data
from yolo_nas_pose.data.images import DataError
from yolo_nas_pose.data.loader import collate
from yolo_nas_pose.data.mosaic import MosaicTransform
from yolo_nas_pose.data.transforms import TrainTransform
from yolo_nas_pose.data.write import write_coco, write_yolo
from yolo_nas_pose.deploy.export import export_onnx, export_openvino
from yolo_nas_pose.deploy.quantize import quantize_ptq
from yolo_nas_pose.deploy.runtime import OnnxPose, evaluate_file
from yolo_nas_pose.loss.pose_loss import PoseLoss
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.model.weights import load_checkpoint, save_checkpoint
from yolo_nas_pose.training.evaluate import evaluate
from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import RecipeError

TEAMS = replace(COCO17, classes=("red", "green"))
COLOURS = np.array([(0, 0, 255), (0, 255, 0)], float)
TINY = dict(model="yolo_nas_pose_n", weights="toy", image_size=96, batch_size=2, val_batch_size=2, workers=0, epochs=1, trackers=[], log_every=1)


def teams(folder, train, val, size):
    "Toy people of two teams: each wears a disc of its colour. The categories have the ids 8 and 3, in this order."
    write_toy(folder, train, val, size, seed=5)
    for split in ("train", "val"):
        file, rng = folder / "annotations" / f"{split}.json", np.random.default_rng(1)
        labels = json.loads(file.read_text())
        labels["categories"] = [{**labels["categories"][0], "id": id, "name": name} for id, name in ((8, "red"), (3, "green"))]
        paths = {image["id"]: folder / "images" / split / image["file_name"] for image in labels["images"]}
        images = {id: cv2.imread(str(path)) for id, path in paths.items()}
        for person in labels["annotations"]:
            team = int(rng.integers(2))
            person["category_id"] = (8, 3)[team]
            joints = np.array(person["keypoints"]).reshape(-1, 3)[[5, 6, 11, 12]]
            if (joints[:, 2] > 0).any() and not person["iscrowd"]:
                middle = joints[joints[:, 2] > 0, :2].mean(0).astype(int).tolist()
                cv2.circle(images[person["image_id"]], middle, max(3, int(.16 * person["bbox"][3])), COLOURS[team].tolist(), -1)
        for id, image in images.items():
            cv2.imwrite(str(paths[id]), image)
        file.write_text(json.dumps(labels))
    return folder


def team_of(image, joints):
    "The team whose colour the middle of a labelled body has, as far as it can be seen: 0, 1, or None."
    seen = joints[[5, 6, 11, 12]]
    seen = seen[seen[:, 2] > 0, :2]
    if not len(seen):
        return None
    x, y = np.clip(seen.mean(0), 0, np.array(image.shape[1::-1]) - 1).astype(int)
    apart = np.abs(COLOURS - image[y, x]).max(1)
    return int(apart.argmin()) if apart.min() < 40 else None


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return teams(tmp_path_factory.mktemp("teams") / "data", 12, 6, 128)


@pytest.fixture(scope="module")
def model():
    "Knows people, and calls some of them red and some green, for no good reason."
    made = get("yolo_nas_pose_n", pretrained_weights="toy", skeleton=TEAMS)
    torch.manual_seed(3)
    with torch.no_grad():
        for head in (made.heads.head1, made.heads.head2, made.heads.head3):
            head.cls_pred.weight[18:].normal_(0, 2)
    return made


def test_labels_keep_their_classes_in_every_format(home, tmp_path):
    data = open_data(home, "train")
    assert data.skeleton == TEAMS and data.reading.class_ids == (8, 3)
    kinds = [data[i].classes.tolist() for i in range(len(data))]
    told = [team_of(sample.image, joints) for sample in map(data.__getitem__, range(len(data))) for joints in sample.joints]
    same = [team == kind for team, kind in zip(told, sum(kinds, [])) if team is not None]
    assert len(same) > 10 and np.mean(same) > .9  # some are hidden behind others
    truth = data.ground_truth()
    assert [(c["id"], c["name"]) for c in truth["categories"]] == [(8, "red"), (3, "green")]
    assert [p["category_id"] for p in truth["annotations"]] == [(8, 3)[kind] for kind in sum(kinds, [])]
    write_coco(data, tmp_path / "coco.json")
    again = json.loads((tmp_path / "coco.json").read_text())
    assert [p["category_id"] for p in again["annotations"]] == [p["category_id"] for p in truth["annotations"]]
    yolo = open_data(write_yolo({"train": data}, tmp_path / "yolo").parent, "train")
    assert yolo.skeleton.classes == ("red", "green") and [yolo[i].classes.tolist() for i in range(len(yolo))] == kinds


def test_who_asks_for_one_class_gets_one(home):
    data = open_data(home, "train", "coco17")
    assert data.skeleton == COCO17 and data[0].classes is None and len(data.ground_truth()["categories"]) == 1
    assert collate([data[0], data[1]]).targets.crowd.shape[1] == 2
    with pytest.raises(DataError, match="category 'red' is none of the classes blue, green"):
        open_data(home, "train", replace(COCO17, classes=("blue", "green")))


def test_classes_go_by_their_names(home):
    turned = open_data(home, "train", replace(COCO17, classes=("green", "yellow", "red")))
    for i in range(3):
        assert turned[i].classes.tolist() == [(2, 0)[kind] for kind in open_data(home, "train")[i].classes]
    assert turned.reading.class_ids == (3, 10, 8)  # nobody is yellow here


def test_augmentation_moves_classes_along(home):
    data, rng = open_data(home, "train"), np.random.default_rng(0)
    single = TrainTransform(128, data.skeleton, colour=None, affine_p=1)
    transform = MosaicTransform(single, data.skeleton, mosaic=.5, mixup=.2, paste=.5)
    right = []
    for n in range(60):
        sample, _, _ = transform.from_set(data, n % len(data), rng)
        assert len(sample.classes) == len(sample.boxes)
        right += [team == kind for team, kind in zip((team_of(sample.image, joints) for joints in sample.joints), sample.classes) if team is not None]
    assert len(right) > 50 and np.mean(right) > .9
    batch = collate([data[0], data[1]])
    assert batch.targets.crowd[:, 2].tolist() == [*data[0].classes, *data[1].classes]


def test_the_loss_teaches_the_class_and_nothing_else_changes(home):
    data = open_data(home, "train")
    batch = collate([data[i] for i in range(4)])
    model = get("yolo_nas_pose_n", pretrained_weights="toy", skeleton=TEAMS).train()
    loss, images = PoseLoss(COCO17.sigmas), batch.images.float() / 255
    raw = model(images)
    with_classes, alone = loss(raw, batch.targets), loss(raw._replace(cls_logits=raw.cls_logits[..., :1]), batch.targets)
    assert with_classes.cls > alone.cls and torch.equal(torch.stack(with_classes[1:5]), torch.stack(alone[1:5]))
    with_classes.total.backward()
    rows = model.heads.head2.cls_pred.weight.grad[18:]
    assert rows.abs().sum() > 0 and torch.allclose(rows[0], -rows[1], atol=1e-6)  # what one class wins the other loses
    with pytest.raises(ValueError, match="tells 2 classes apart, but the labels name none"):
        loss(raw, batch.targets._replace(crowd=batch.targets.crowd[:, :2]))


def test_a_run_and_its_checkpoint(home, tmp_path):
    result = train("finetune", data=home, out=tmp_path / "run", **TINY)
    model = load_checkpoint(result.folder / "best.safetensors")
    assert model.skeleton == TEAMS and model.heads.head1.cls_pred.out_channels == 20
    one = get(result.folder / "best.safetensors", skeleton="coco17")
    assert torch.equal(one.heads.head1.cls_pred.weight, model.heads.head1.cls_pred.weight[:18])  # joints stay, classes go
    assert torch.equal(one.heads.head1.pose_pred.weight, model.heads.head1.pose_pred.weight)
    more = one.replace_skeleton(replace(COCO17, classes=("a", "b", "c")))
    assert more.heads.head1.cls_pred.out_channels == 21 and torch.equal(more.heads.head1.cls_pred.weight[:18], model.heads.head1.cls_pred.weight[:18])
    with pytest.raises(RecipeError, match="Open the labels with the skeleton of the model"):
        train("finetune", data=home, out=tmp_path / "other", **TINY | dict(weights=None, model=get("yolo_nas_pose_n", pretrained_weights="toy")))


def test_wrong_classes_cost_ap(home, model):
    val = open_data(home, "val")
    scores = [evaluate(model, data, 128, progress=False)["AP"] for data in (val, open_data(home, "val", "coco17"))]
    assert scores[0] < scores[1]


def test_predictions_name_the_class(home, model):
    scene = open_data(home, "val")[0]
    found = model.predict(scene.image, conf=.2, image_size=128)
    people = list(found[0])
    assert {person.label for person in people} <= {"red", "green"} and found[0].prediction.classes.dtype == np.int64
    assert [row["category_id"] for row in found.to_coco()] == [person.number + 1 for person in people]
    assert [row["category_id"] for row in found.to_coco(category_id=[8, 3])] == [(8, 3)[person.number] for person in people]
    assert [person["class"] for person in found[0].to_dict()["people"]] == [person.label for person in people]
    assert found.to_dataframe()["class"].tolist()[::17] == [person.label for person in people]
    assert found[0].draw().shape == scene.image.shape


def test_one_class_is_as_it_was(tmp_path):
    model = get("yolo_nas_pose_n", pretrained_weights="toy")
    assert model.heads.head1.cls_pred.out_channels == 18 and "classes" not in model.skeleton.to_dict()
    found = model.predict(ToyScenes(1, 128, seed=3)[0].image, image_size=128)
    assert found[0].prediction.classes is None and all(person.label == "" for person in found[0]) and "class" not in found.to_dataframe()
    assert b'"classes"' not in save_checkpoint(tmp_path / "one.safetensors", model).read_bytes()


FILES = [("onnx", dict(depth="raw")), ("onnx", dict(depth="decoded", batch=None)), ("onnx", dict(thresholds="inputs")), ("onnx", dict(layout="flat", conf=.1)),
         ("onnx", dict(conf=.1, dynamo=True)), ("xml", dict(thresholds="inputs")), ("onnx", dict(precision="fp16", thresholds="inputs"))]


@pytest.mark.parametrize("kind, options", FILES, ids=lambda value: value if isinstance(value, str) else "_".join(map(str, value.values())))
def test_files_name_the_class(kind, options, model, home, tmp_path):
    write = export_openvino if kind == "xml" else export_onnx
    path = write(model, tmp_path / f"teams.{kind}", image_size=128, **options)
    pose, scenes = OnnxPose(path), [open_data(home, "train")[i].image for i in range(12)]
    assert pose.skeleton == TEAMS
    ours, theirs = model.predict(scenes, conf=.1, image_size=128), pose.predict(scenes, conf=.1)
    pairs = [(a, b) for one, other in zip(ours, theirs) for a, b in zip(one.prediction.classes, other.prediction.classes)]
    assert [len(one) for one in ours] == [len(other) for other in theirs] and len(pairs) > 3 and {a for a, _ in pairs} == {0, 1}
    assert all(a == b for a, b in pairs)


def test_eight_bits_keep_the_classes(model, home, tmp_path):
    data = open_data(home, "train")
    made = quantize_ptq(model, data, images=12, image_size=128)
    path = export_onnx(made, tmp_path / "int8.onnx", image_size=128, thresholds="inputs")
    assert evaluate_file(path, open_data(home, "val"))["AP"] >= 0 and OnnxPose(path).skeleton == TEAMS
    again = load_checkpoint(save_checkpoint(tmp_path / "int8.safetensors", made))
    assert again.skeleton == TEAMS and torch.equal(again(torch.zeros(1, 3, 64, 64)).cls_logits, made(torch.zeros(1, 3, 64, 64)).cls_logits)


@pytest.mark.slow
def test_teams_are_told_apart(tmp_path):
    folder = teams(tmp_path / "data", 400, 80, 128)
    result = train("finetune", data=folder, out=tmp_path / "run", **TINY | dict(image_size=128, batch_size=8, epochs=4, lr=2e-3, warmup_steps=20, ema_decay=.98, average_best=0,
                                                                                 hold_epochs=0, evaluate_every=4, affine_p=.3, colour_p=0))
    val, right = open_data(folder, "val"), []
    for sample in map(val.__getitem__, range(len(val))):
        found, people = result.model.predict(sample.image, conf=.2, image_size=128)[0].prediction, ~sample.crowd
        if len(found.scores) and people.any():
            overlap = box_iou(torch.tensor(sample.boxes[people]), torch.tensor(found.bboxes_xyxy)).numpy()
            right += (found.classes[overlap.argmax(1)] == sample.classes[people])[overlap.max(1) > .5].tolist()
    assert len(right) > 100 and np.mean(right) > .95
