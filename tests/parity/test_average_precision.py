"Our average precision against pycocotools, stored numbers of other programs, and files that do not belong together."
import contextlib
import copy
import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, CROWDPOSE14
from yolo_nas_pose.metric.average_precision import coco_oks, correct_joints, evaluate_coco, judge_all, judge_with_pycocotools
from yolo_nas_pose.metric.report import (best_choice, find_errors, plot_errors, plot_joint_accuracy, plot_precision_recall,
                                         summary_table)
from yolo_nas_pose.metric.trial import find_sigmas, read_trial

settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quick")
FIELDS = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


def official(labels, found, sigmas=None):
    "The ten numbers as pycocotools' own `loadRes` and `summarize` give them, and the matrices of OKS."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(labels)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "keypoints")
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.asarray(sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(FIELDS, run.stats)), run.ious


def random_files(seed, joints=17, images=6, categories=1, coarse=True, boxed=True):
    "Labels and detections with crowds, people without joints, ties in score, doubles, phantoms, and people of all sizes."
    rng = np.random.default_rng(seed)
    people, found = [], []

    def report(image, category, points, box, score):
        row = {"image_id": image, "category_id": category, "score": score, "keypoints": points.ravel().tolist()}
        found.append(row | ({"bbox": [*map(float, box)]} if boxed else {}))

    for image in rng.permutation(images).tolist():
        for category in range(1, categories + 1):
            for _ in range(rng.integers(0, 5)):
                x, y, w, h = *rng.uniform(0, 200, 2), *rng.choice([15, 32, 60, 96, 200], 2)
                seen = rng.integers(0, 3, joints) * (rng.random() < .7)
                points = np.c_[rng.uniform(0, 1, (joints, 2)) * (w, h) + (x, y), seen]
                people.append({"id": len(people) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h],
                               "area": float(w * h * rng.choice([.53, 1.])), "iscrowd": int(rng.random() < .15),
                               "num_keypoints": int((seen > 0).sum()), "keypoints": points.ravel().tolist()})
                for _ in range(rng.integers(0, 4)):
                    moved = points.copy()
                    moved[:, :2] += rng.normal(0, rng.choice([0, .03, .1, .3]) * np.sqrt(w * h), (joints, 2))
                    score = round(rng.random(), 1) if coarse else rng.random()
                    report(image, category, moved, (x, y, w * rng.uniform(.5, 2), h), score)
            for _ in range(rng.integers(0, 20) if rng.random() < .3 else rng.integers(0, 3)):
                points = rng.uniform(0, 300, (joints, 3))
                report(image, category, points, (0, 0, *rng.uniform(5, 200, 2)), round(rng.random(), 1))
    kinds = [{"id": c, "name": f"kind {c}", "keypoints": list({17: COCO17, 14: CROWDPOSE14, 20: ANIMALPOSE20}[joints].joints)}
             for c in range(1, categories + 1)]
    return {"images": [{"id": n} for n in range(images)], "categories": kinds, "annotations": people}, found


def check(labels, found, sigmas=None):
    "All three ways give the same ten numbers."
    used = find_sigmas(labels["categories"][0]["keypoints"], sigmas)
    expected, _ = official(labels, found, used)
    for engine in ("ours", "pycocotools"):
        got = evaluate_coco(labels, found, sigmas, engine=engine)
        for field in FIELDS:
            assert got[field] == pytest.approx(expected[field], abs=1e-9), (engine, field)
        assert got["PCK"] == -1 or 0 <= got["PCK"] <= 1


# ---- against pycocotools

@given(seed=st.integers(0, 10 ** 6), joints=st.sampled_from([14, 17, 20]), categories=st.integers(1, 3),
       coarse=st.booleans(), boxed=st.booleans())
def test_as_pycocotools(seed, joints, categories, coarse, boxed):
    labels, found = random_files(seed, joints, categories=categories, coarse=coarse, boxed=boxed)
    if found:
        check(labels, found)


@given(seed=st.integers(0, 10 ** 6), spread=st.floats(.01, .5))
def test_own_sigmas(seed, spread):
    labels, found = random_files(seed, joints=14)
    if found:
        check(labels, found, np.random.default_rng(seed).uniform(.01, spread + .01, 14))


@given(seed=st.integers(0, 10 ** 6))
def test_whole_curves_and_every_oks_to_the_bit(seed):
    labels, found = random_files(seed, categories=2)
    if not found:
        return
    trial = read_trial(labels, found)
    for ours, theirs in zip(judge_all(trial.scenes, trial.sigmas), judge_with_pycocotools(trial, 20)):
        np.testing.assert_array_equal(ours, theirs)
    _, matrices = official(labels, found, trial.sigmas)
    theirs = [matrix for matrix in (np.asarray(matrices[key]) for key in sorted(matrices, key=lambda key: key[::-1])) if matrix.size]
    ours = [coco_oks(s.detected, s.joints, s.boxes, s.areas, trial.sigmas) for images in trial.scenes for s in images
            if len(s.joints) and len(s.scores)]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("max_dets", [1, 3, 100])
def test_other_numbers_of_detections(max_dets):
    labels, found = random_files(7, images=12)
    ours, theirs = (evaluate_coco(labels, found, max_dets=max_dets, engine=engine) for engine in ("ours", "pycocotools"))
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_one_score_for_all():
    "Nothing but the order of the files decides: whoever sorts unstably is found out."
    for seed in range(8):
        labels, found = random_files(seed, images=20)
        check(labels, [row | {"score": .5} for row in found])


def test_identical_people_and_exact_threshold():
    "Of two equal people the later is taken; an OKS of exactly the threshold passes."
    labels, _ = random_files(0, images=1)
    person = {"image_id": 0, "category_id": 1, "area": 1e4, "bbox": [0, 0, 100, 100], "iscrowd": 0, "num_keypoints": 17,
              "keypoints": [50, 50, 2] * 17}
    labels["annotations"] = [person | {"id": 1}, person | {"id": 2, "iscrowd": 1}, person | {"id": 3}]
    found = [{"image_id": 0, "category_id": 1, "score": 1 - n / 10, "keypoints": [50, 50, 1] * 17} for n in range(5)]
    check(labels, found)
    for person in labels["annotations"]:
        person.update(num_keypoints=2, keypoints=[50, 50, 2] * 2 + [0, 0, 0] * 15)
    half = [row | {"keypoints": [50, 50, 1] + [9999, 50, 1] * 16} for row in found]  # one joint of two: OKS is exactly 0.5
    check(labels, half)
    assert evaluate_coco(labels, half, engine="ours")["AR50"] == 1


def test_each_joint_alone_as_pycocotools_on_files_cut_to_it():
    labels, found = random_files(3, images=15)
    joints = evaluate_coco(labels, found, engine="ours", per_joint=True)["joints"]
    assert list(joints) == list(COCO17.joints)
    for k, (name, value) in enumerate(joints.items()):
        cut = copy.deepcopy(labels)
        for person in cut["annotations"]:
            visibility = person["keypoints"][2::3]
            person["keypoints"][2::3] = [v if j == k else 0 for j, v in enumerate(visibility)]
            person["num_keypoints"] = int(visibility[k] > 0)
        assert value == pytest.approx(official(cut, found, COCO17.sigmas)[0]["AP"], abs=1e-9), name


# ---- stored numbers and real files

def test_three_programs(shared):
    folder = shared / "data" / "oracles" / "xtcoco_coco_example"
    expected = json.loads((folder / "expected.json").read_text())
    programs = {key: value for key, value in expected.items() if isinstance(value, dict) and "AP" in value}
    assert len(programs) >= 2
    for engine in ("ours", "pycocotools"):
        got = evaluate_coco(folder / expected["gt"], str(folder / expected["dt"]), engine=engine)
        for name, numbers in programs.items():
            for field in numbers.keys() & got.keys():
                assert got[field] == pytest.approx(numbers[field], abs=1e-9), (engine, name, field)
    assert got["AP"] == pytest.approx(.86089, abs=1e-5) and got["AR"] == pytest.approx(.875, abs=1e-9)

    trial = read_trial(folder / expected["gt"], folder / expected["dt"], expected["sigmas"])
    images = sorted(row["image_id"] for row in expected["oks_matrix"])
    assert len(images) == len(trial.scenes[0])
    for row in expected["oks_matrix"]:
        scene = trial.scenes[0][images.index(row["image_id"])]
        ids = [person["id"] for person in json.loads((folder / expected["gt"]).read_text())["annotations"]
               if person["image_id"] == row["image_id"]]
        np.testing.assert_allclose(scene.scores, row["dt_scores"])
        oks = coco_oks(scene.detected, scene.joints, scene.boxes, scene.areas, trial.sigmas)
        np.testing.assert_allclose(oks[:, [ids.index(one) for one in row["gt_ids"]]], row["oks"], rtol=0, atol=1e-9)


def test_single_pairs(shared):
    folder = shared / "data" / "oracles" / "waymo_oks"
    sigmas = json.loads((folder / "expected.json").read_text())["sigmas"]
    pairs = json.loads((folder / "oks_testdata.json").read_text())
    blank = 0
    for pair in pairs:
        person, pose = (np.array(pair[side]["keypoints"]).reshape(1, -1, 3) for side in ("ground_truth", "prediction"))
        box, area = np.array([pair["ground_truth"]["bbox"]]), np.array([pair["ground_truth"]["area"]])
        assert coco_oks(pose, person, box, area, sigmas)[0, 0] == pytest.approx(pair["oks"], abs=1e-9)
        blank += not (person[..., 2] > 0).any()
    assert (len(pairs), blank) == (60, 20)


@pytest.mark.parametrize("name", ["coco_mini/annotations/person_keypoints_val2017.json",
                                  "coco_mini/annotations/person_keypoints_train2017.json", "coco_four/test_coco.json",
                                  "crowdpose_mini/test_crowdpose.json", "animalpose_mini/test_animalpose.json"])
def test_labels_found_again(shared, name):
    "Labels given back as detections score 1; blurred ones score the same with both engines."
    labels = json.loads((shared / "data" / name).read_text())
    rng = np.random.default_rng(0)
    counting = [p for p in labels["annotations"] if sum(p["keypoints"][2::3]) and not p["iscrowd"] and p["num_keypoints"]]
    exact = [{"image_id": p["image_id"], "category_id": p["category_id"], "score": .9, "keypoints": p["keypoints"]} for p in counting]
    got = evaluate_coco(labels, exact, engine="ours", max_dets=100)
    assert (got["AP"], got["AR"], got["PCK"]) == (pytest.approx(1), pytest.approx(1), 1)
    if len(counting) < len(labels["annotations"]):
        exact += [row | {"score": .3} for row in exact]
    blurred = [row | {"keypoints": (np.array(row["keypoints"]) + rng.normal(0, 6, len(row["keypoints"]))).tolist()} for row in exact]
    ours, theirs = (evaluate_coco(labels, blurred, engine=engine) for engine in ("ours", "pycocotools"))
    assert ours == pytest.approx(theirs, abs=1e-9)


# ---- gaps, empty files, and what comes in stays as it was

def test_gaps_are_filled_as_by_hand():
    labels, found = random_files(11, images=10)
    for person in labels["annotations"]:
        person.update(iscrowd=0, area=.53 * person["bbox"][2] * person["bbox"][3])
    bare = copy.deepcopy(labels)
    for number, person in enumerate(bare["annotations"]):
        for key in ("num_keypoints", "area", "iscrowd"):
            del person[key]
        person["id"] = number // 2  # from 0, and twice each
    expected, _ = official(labels, found)
    for engine in ("ours", "pycocotools"):
        got = evaluate_coco(bare, found, engine=engine)
        assert {field: got[field] for field in FIELDS} == pytest.approx(expected, abs=1e-9)


def test_the_first_person_counts_even_with_id_0():
    labels, found = random_files(0, images=1)
    person = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [0, 0, 100, 100], "keypoints": [50, 50, 2] * 17}
    labels["annotations"] = [person]
    found = [{"image_id": 0, "category_id": 1, "score": .9, "keypoints": [50, 50, 1] * 17}]
    for engine in ("ours", "pycocotools"):
        assert evaluate_coco(labels, found, engine=engine)["AP"] == pytest.approx(1)


def test_nothing_is_changed_and_nothing_printed(capfd):
    labels, found = random_files(5)
    before = copy.deepcopy((labels, found))
    for engine in ("ours", "pycocotools"):
        evaluate_coco(labels, found, engine=engine, per_joint=True)
    assert (labels, found) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ["ours", "pycocotools"])
def test_nothing_found_and_nobody_there(engine):
    labels, found = random_files(5)
    nothing = evaluate_coco(labels, [], engine=engine, per_joint=True)
    assert nothing["AP"] == nothing["AR"] == nothing["PCK"] == 0 and set(nothing["joints"].values()) <= {0, -1}
    for nobody in (labels | {"annotations": []}, labels | {"annotations": [p | {"iscrowd": 1} for p in labels["annotations"]]}):
        for poses in (found, []):
            got = evaluate_coco(nobody, poses, engine=engine, per_joint=True)
            assert {got[field] for field in [*FIELDS, "PCK"]} == set(got["joints"].values()) == {-1.}
    no_images = {"images": [], "annotations": [], "categories": labels["categories"]}
    assert evaluate_coco(no_images, [], engine=engine)["AP"] == -1


def test_several_categories():
    labels, found = random_files(9, images=10, categories=3)
    labels["categories"][1]["name"] = "horse"
    alone = [evaluate_coco(labels, found, categories=wanted)["AP"] for wanted in (1, "horse", [3])]
    assert evaluate_coco(labels, found)["AP"] == pytest.approx(np.mean(alone), abs=1e-9)
    only_two = copy.deepcopy(labels)
    only_two["categories"] = labels["categories"][1:2]
    assert alone[1] == pytest.approx(
        official({**only_two, "annotations": [p for p in labels["annotations"] if p["category_id"] == 2]},
                 [row for row in found if row["category_id"] == 2])[0]["AP"], abs=1e-9)
    labels["categories"].append({"id": 9, "name": "car"})
    labels["annotations"].append({"id": 999, "image_id": 0, "category_id": 9, "bbox": [0, 0, 5, 5]})
    assert evaluate_coco(labels, found)["AP"] == pytest.approx(np.mean(alone), abs=1e-9)
    with pytest.raises(ValueError, match="no category 'cow'.*horse"):
        evaluate_coco(labels, found, categories=["cow"])


def test_sigmas_by_name():
    np.testing.assert_allclose(find_sigmas(COCO17.joints[::-1]), COCO17.sigmas[::-1])
    np.testing.assert_allclose(find_sigmas(CROWDPOSE14.joints), CROWDPOSE14.sigmas)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(find_sigmas([joint.lower() for joint in ANIMALPOSE20.joints]), ANIMALPOSE20.sigmas)
    with pytest.warns(UserWarning, match="nobody has measured"):
        assert find_sigmas(["tip", "base"]).tolist() == [.07, .07]
    labels, found = random_files(2)
    named = evaluate_coco(labels, found)
    del labels["categories"][0]["keypoints"]
    with pytest.warns(UserWarning, match="does not name its joints"):
        assert evaluate_coco(labels, found) == named


# ---- PCK

@given(seed=st.integers(0, 10 ** 6), share=st.floats(0, .4))
def test_pck_of_a_shift_is_a_step(seed, share):
    "People moved as a whole by a share of their longer side: all right up to 0.2, none beyond."
    labels, _ = random_files(seed, images=4)
    for n, person in enumerate(labels["annotations"]):
        person["bbox"][0] += 2000 * n  # far from each other
        person["keypoints"][0::3] = [x + 2000 * n for x in person["keypoints"][0::3]]
    moved = [{"image_id": p["image_id"], "category_id": 1, "score": .5, "keypoints":
              (np.array(p["keypoints"]).reshape(-1, 3) + [0, share * max(p["bbox"][2:]), 0]).ravel().tolist()}
             for p in labels["annotations"]]
    counting = any(p["num_keypoints"] and not p["iscrowd"] for p in labels["annotations"])
    if counting and abs(share - .2) > 1e-6:
        assert evaluate_coco(labels, moved, engine="ours", max_dets=10 ** 6)["PCK"] == (share < .2)


def test_pck_counts_those_never_found():
    labels, _ = random_files(1, images=8)
    counting = [p for p in labels["annotations"] if p["num_keypoints"] and not p["iscrowd"]]
    found = [{"image_id": p["image_id"], "category_id": 1, "score": .5, "keypoints": p["keypoints"]} for p in counting]
    first = counting[0]["num_keypoints"]
    total = sum(p["num_keypoints"] for p in counting)
    trial = read_trial(labels, found)
    assert correct_joints(trial.scenes[0], trial.sigmas) == 1
    trial = read_trial(labels, found[:1])
    assert correct_joints(trial.scenes[0], trial.sigmas) == pytest.approx(first / total)


# ---- files that do not belong together

def bad(change):
    labels, found = random_files(4)
    labels, found = change(copy.deepcopy(labels), copy.deepcopy(found))
    return labels, found


def put(rows, at, **values):
    rows[at] = {key: value for key, value in (rows[at] | values).items() if value != "gone"}
    return rows


@pytest.mark.parametrize("change, message", [
    (lambda g, d: (g, put(d, 2, image_id=77)), "detection 2 .*image 77"),
    (lambda g, d: (g, put(d, 2, category_id=0)), "detection 2 .*category 0"),
    (lambda g, d: (g, put(d, 1, keypoints=[1, 2, 3] * 14)), "detection 1 has 42 keypoint numbers, expected 51.*17 joints"),
    (lambda g, d: (g, put(d, 1, keypoints=[1, 2] * 17)), "detection 1 has 34"),
    (lambda g, d: (g, put(d, 1, score="gone")), "detection 1 has no score"),
    (lambda g, d: (g, put(d, 1, score=float("nan"))), "detection 1 .*not finite"),
    (lambda g, d: (g, put(d, 1, keypoints=[float("inf"), 2, 3] * 17)), "detection 1 .*not finite"),
    (lambda g, d: (g, {"annotations": d}), "detections: expected a list"),
    (lambda g, d: (d, d), "ground truth: expected a COCO dict .*got list"),
    (lambda g, d: ({"images": g["images"]}, d), "ground truth: expected a COCO dict .*with images"),
    (lambda g, d: (g | {"categories": []}, d), "no categories"),
    (lambda g, d: (g | {"annotations": put(g["annotations"], 3, keypoints="gone")}, d), "annotation 3 has no keypoints"),
    (lambda g, d: (g | {"annotations": put(g["annotations"], 3, image_id="gone")}, d), "annotation 3 has no image_id"),
    (lambda g, d: (g | {"annotations": put(g["annotations"], 3, keypoints=[1, 2, 2])}, d), "annotation 3 has 3 keypoint numbers"),
    (lambda g, d: (g | {"annotations": put(g["annotations"], 3, area=float("nan"))}, d), "annotation 3 .*not finite"),
    (lambda g, d: (g | {"annotations": put(g["annotations"], 3, bbox="gone", keypoints=[0] * 51)}, d), "annotation 3 has neither"),
    (lambda g, d: (g | {"categories": [*g["categories"], {"id": 5, "name": "two", "keypoints": ["a", "b"]}]}, d),
     "different numbers of joints.*categories="),
])
@pytest.mark.parametrize("engine", ["ours", "pycocotools"])
def test_refusals_name_the_fault(change, message, engine):
    with pytest.raises(ValueError, match=message):
        evaluate_coco(*bad(change), engine=engine)


def test_refused_arguments(tmp_path):
    labels, found = random_files(4)
    with pytest.raises(ValueError, match="17 joints need as many positive sigmas"):
        evaluate_coco(labels, found, sigmas=[.1] * 14)
    with pytest.raises(ValueError, match="no engine 'fast'"):
        evaluate_coco(labels, found, engine="fast")
    with pytest.raises(ValueError, match="max_dets is 0"):
        evaluate_coco(labels, found, max_dets=0)
    (tmp_path / "labels.json").write_text("not json")
    with pytest.raises(ValueError, match="labels.json is not a JSON file"):
        evaluate_coco(tmp_path / "labels.json", found)
    with pytest.raises(FileNotFoundError):
        evaluate_coco(tmp_path / "absent.json", found)


# ---- the figures

def test_report_of_all_and_of_nothing(tmp_path):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    labels, found = random_files(3, images=15)
    for poses in (found, []):
        metrics = evaluate_coco(labels, poses, engine="ours", per_joint=True)
        figures = [plot_precision_recall(labels, poses), plot_errors(labels, poses), plot_joint_accuracy(metrics),
                   plot_joint_accuracy({"a": metrics, "b": metrics})]
        for n, figure in enumerate(figures):
            figure.savefig(tmp_path / f"{n}.png")
            assert (tmp_path / f"{n}.png").stat().st_size > 1000
            plt.close(figure)
        assert summary_table({"a": metrics, "b": metrics}).count("\n") == 3
    with pytest.raises(ValueError, match="per_joint=True"):
        plot_joint_accuracy({"AP": .5})
    with pytest.raises(ValueError, match="nobody in the ground truth counts"):
        plot_precision_recall(labels | {"annotations": []}, found)
    with pytest.raises(ValueError, match="thresholds"):
        plot_precision_recall(labels, found, thresholds=(.6, .62))
    with pytest.raises(ValueError, match="one category"):
        plot_errors(*random_files(3, categories=2))
    with pytest.raises(ValueError, match="no detection"):
        best_choice(np.empty(0), np.empty(0), np.empty(0))


def test_people_are_found_or_missed():
    labels, found = random_files(3, images=15)
    trial = read_trial(labels, found)
    errors = find_errors(trial.scenes[0], trial.sigmas)
    assert len(errors.oks) + errors.misses == sum((~scene.ignored).sum() for scene in trial.scenes[0])
    assert len(errors.distances) == len(errors.oks)
