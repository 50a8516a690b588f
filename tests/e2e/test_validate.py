"`validate` in Python and on the command line: numbers, COCO results that give the same numbers again, and a folder to look at."
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import yolo_nas_pose as ynp
from yolo_nas_pose.cli import app
from yolo_nas_pose.core.toy import ToyScenes, write_toy


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "What the command wrote and said."
    folder = tmp_path_factory.mktemp("validate")
    data = write_toy(folder / "data", train=1, val=6, size=192)
    told = CliRunner().invoke(app, ["validate", "yolo_nas_pose_n", str(data), "--size", "192", "--results", str(folder / "out" / "results.json"),
                                    "--report", str(folder / "report"), "--per-joint"])
    assert told.exit_code == 0, told.exception
    return folder, told.output


def test_results_give_the_same_numbers(done):
    folder, output = done
    truth = ynp.CocoPoses.from_folder(folder / "data", "val").ground_truth()
    metrics = ynp.evaluate_coco(truth, folder / "out" / "results.json", sigmas=ynp.COCO17.sigmas)
    assert metrics["AP"] > .3 and f"{100 * metrics['AP']:.1f}" in output and f"{100 * metrics['AR']:.1f}" in output
    again = ynp.evaluate(ynp.get("yolo_nas_pose_n", "toy").eval(), ynp.CocoPoses.from_folder(folder / "data", "val"), 192, progress=False)
    assert again["AP"] == pytest.approx(metrics["AP"], abs=5e-3)  # the command fuses the network


def test_results_are_coco_results(done):
    rows = json.loads((done[0] / "out" / "results.json").read_text())
    assert rows and all(set(row) == {"image_id", "category_id", "score", "bbox", "keypoints"} and len(row["keypoints"]) == 51 for row in rows)


def test_the_report_holds_numbers_figures_and_the_worst_images(done):
    folder, output = done[0] / "report", done[1]
    numbers = json.loads((folder / "numbers.json").read_text())
    assert set(numbers) == {"metrics", "sizes", "joints", "swap_rate", "threshold"} and len(numbers["joints"]) == 17
    assert 0 <= numbers["threshold"]["score"] <= 1 and 0 <= numbers["swap_rate"] <= 1 and numbers["sizes"]["all"]["NME"] > 0
    assert all(0 <= row["PCK10"] <= row["PCK"] <= 1 for row in (*numbers["joints"].values(), numbers["sizes"]["all"]) if row["PCK"] == row["PCK"])
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "plot_scores.png", "plot_precision_recall.png", "plot_errors.png", "worst_01.jpg", "worst_06.jpg"} <= names
    page = (folder / "report.html").read_text()
    assert all(f'src="{name}"' in page for name in names if name.endswith((".png", ".jpg")))
    assert "left_wrist" in output and "report.html" in output


def test_a_model_that_finds_nobody_gets_a_report_too(tmp_path):
    from yolo_nas_pose.metric.diagnosis import write_report
    scenes = ToyScenes(3, 96)
    page = write_report(tmp_path, scenes.ground_truth(), [], scenes, scenes.skeleton, {"AP": 0.})
    assert "there is no detection" in page.read_text() or "plot_scores" in page.read_text()
    assert "nan%" not in page.read_text() and "Of no pair can be told" in page.read_text()


def test_a_shift_ends_at_its_share_of_the_box(tmp_path):
    from yolo_nas_pose.metric.diagnosis import report_numbers
    truth = ToyScenes(6, 192, seed=3).ground_truth()
    for share, pck10, pck in ((.05, 1, 1), (.15, 0, 1), (.25, 0, 0)):
        found = []
        for person in truth["annotations"]:
            joints = np.array(person["keypoints"], float).reshape(-1, 3) + [share * max(person["bbox"][2:]), 0, 0]
            found.append({"image_id": person["image_id"], "category_id": 1, "score": .9, "bbox": person["bbox"], "keypoints": joints.ravel().tolist()})
        alone = {image: sum(p["image_id"] == image for p in truth["annotations"]) == 1 for image in {p["image_id"] for p in truth["annotations"]}}
        one = {**truth, "annotations": [p for p in truth["annotations"] if alone[p["image_id"]]]}
        row = report_numbers(one, [f for f in found if alone[f["image_id"]]], ynp.COCO17)["sizes"]["all"]
        assert (row["PCK10"], row["PCK"]) == (pck10, pck) and row["people"] > 0


def test_images_without_people_get_a_report_too(tmp_path):
    from yolo_nas_pose.metric.diagnosis import write_report
    truth = {**ToyScenes(2, 96).ground_truth(), "annotations": []}
    page = write_report(tmp_path, truth, [], ToyScenes(2, 96), ynp.COCO17, {"AP": -1.})
    assert page.exists()
