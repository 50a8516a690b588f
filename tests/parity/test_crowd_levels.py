"AP by crowd level: what pycocotools says of each part alone."
import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_nas_pose.core.skeleton import CROWDPOSE14
from yolo_nas_pose.training.evaluate import crowd_scores

LEVELS = {"easy": lambda v: v < .2, "medium": lambda v: .2 <= v < .8, "hard": lambda v: v >= .8}


def crowd(images=30, seed=0):
    "Labels and answers of random people; images have crowd indices, some of them on the borders."
    rng, people, answers = np.random.default_rng(seed), [], []
    records = [{"id": n + 1, "crowdIndex": [0, .2, .8, 1.][n] if n < 4 else float(rng.random())} for n in range(images)]
    for image in records:
        for _ in range(rng.integers(1, 6)):
            corner, side = rng.uniform(0, 300, 2), rng.uniform(60, 200, 2)
            joints = np.column_stack([corner + rng.random((14, 2)) * side, rng.choice([0, 2], 14, p=[.2, .8])])
            people.append({"id": len(people) + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0, "bbox": [*corner, *side],
                           "area": float(.5 * side.prod()), "num_keypoints": int((joints[:, 2] > 0).sum()), "keypoints": joints.ravel().tolist()})
            off = rng.uniform(0, .06) * side.mean() * (1 + image["crowdIndex"])
            found = np.column_stack([joints[:, :2] + rng.normal(0, off, (14, 2)), np.ones(14)])
            answers.append({"image_id": image["id"], "category_id": 1, "score": float(rng.random()), "keypoints": found.ravel().tolist(), "bbox": [*corner, *side]})
    return {"images": records, "annotations": people, "categories": [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.joints)}]}, answers


def by_pycocotools(truth, answers, ids):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "images": [i for i in truth["images"] if i["id"] in ids], "annotations": [a for a in truth["annotations"] if a["image_id"] in ids]}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(row) for row in answers if row["image_id"] in ids]), "keypoints")
        run.params.kpt_oks_sigmas = np.array(CROWDPOSE14.sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0]


def test_each_level_is_that_of_pycocotools():
    truth, answers = crowd()
    scores = crowd_scores(truth, answers, CROWDPOSE14.sigmas)
    expected = {f"AP{level}": by_pycocotools(truth, answers, {i["id"] for i in truth["images"] if inside(i["crowdIndex"])}) for level, inside in LEVELS.items()}
    assert scores == pytest.approx(expected, abs=1e-9) and len({round(v, 3) for v in scores.values()}) == 3 and min(scores.values()) > .05


def test_a_level_nobody_belongs_to_is_unknown_and_other_data_have_none():
    truth, answers = crowd(4)
    for image in truth["images"]:
        image["crowdIndex"] = .5
    scores = crowd_scores(truth, answers, CROWDPOSE14.sigmas)
    assert scores["APeasy"] == scores["APhard"] == -1 and scores["APmedium"] > 0
    del truth["images"][0]["crowdIndex"]
    assert crowd_scores(truth, answers, CROWDPOSE14.sigmas) == {}


def test_validation_and_its_report_tell_them(tmp_path):
    from yolo_nas_pose.core.toy import write_toy
    from yolo_nas_pose.data.coco import CocoPoses
    from yolo_nas_pose.model.pretrained import get
    from yolo_nas_pose.training.evaluate import evaluate
    file = write_toy(tmp_path / "data", train=1, val=3, size=96) / "annotations" / "val.json"
    labels = json.loads(file.read_text())
    for image, value in zip(labels["images"], (.1, .5, .9)):
        image["crowdIndex"] = value
    file.write_text(json.dumps(labels))
    data, results = CocoPoses.from_folder(tmp_path / "data", "val"), tmp_path / "results.json"
    metrics = evaluate(get("yolo_nas_pose_n", "toy").eval(), data, 96, progress=False, report=tmp_path / "report", results_file=results)
    assert metrics.items() >= crowd_scores(data.ground_truth(), json.loads(results.read_text()), data.skeleton.sigmas).items()
    numbers = json.loads((tmp_path / "report" / "numbers.json").read_text())["metrics"]
    assert {"APeasy", "APmedium", "APhard"} <= numbers.keys() and "APhard" in (tmp_path / "report" / "report.html").read_text()
