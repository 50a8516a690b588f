"Training as people use it: a folder of labels to a checkpoint, interruptions, bad numbers."
import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from yolo_nas_pose.core import system
from yolo_nas_pose.core.skeleton import COCO17
from yolo_nas_pose.core.structures import PoseSample
from yolo_nas_pose.core.toy import ToyScenes, toy_scene, write_toy
from yolo_nas_pose.data.coco import open_data
from yolo_nas_pose.data.doctor import check_data
from yolo_nas_pose.model.weights import load_checkpoint, read_checkpoint
from yolo_nas_pose.training.evaluate import evaluate
from yolo_nas_pose.training.loop import TrainingStopped, train
from yolo_nas_pose.training.recipe import Recipe, RecipeError, load_recipe
from yolo_nas_pose.training.run import make_accelerator

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=3, lr=1e-3, warmup_steps=2,
            log_every=1, trackers=[], train_scenes=8, val_scenes=2)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_a_folder_becomes_a_checkpoint(tmp_path):
    folder = write_toy(tmp_path / "data", train=4, val=2, size=64, kind="animals")
    result = train({**TINY, "epochs": 1, "data": str(folder)}, out=tmp_path / "run")
    names = {path.name for path in result.folder.iterdir()}
    assert {"best.safetensors", "last.safetensors", "state.pt", "recipe.yaml", "log.csv", "history.json", "curves.png", "sheet.jpg"} <= names
    model = load_checkpoint(result.folder / "last.safetensors")
    assert model.skeleton.num_joints == 20 and same_weights(model, result.model)
    assert load_recipe(result.folder / "recipe.yaml").data == str(folder)
    assert {"AP", "AP50", "AR", "PCK"} <= set(result.metrics)


class Repeated(list):
    skeleton = COCO17


def test_eight_clean_images_are_learnt_by_heart(tmp_path):
    folder = write_toy(tmp_path / "data", train=8, val=1, size=128, seed=1)
    assert check_data(folder, image_size=128, splits=["train"]).count("error") == 0
    eight = open_data(folder, "train")
    result = train("finetune", out=tmp_path / "run", data=(Repeated([eight[i] for i in range(8)] * 120), eight), model="yolo_nas_pose_n",
                   weights="toy", image_size=128, batch_size=8, workers=0, epochs=1, lr=1e-3, warmup_steps=10, hold_epochs=0, ema_decay=.95,
                   head_first_epochs=0, flip=0, affine_p=0, colour_p=0, average_best=0, precision="fp32", trackers=[])
    assert result.metrics["AP"] >= .95, result.metrics


def test_while_nothing_is_learnt_the_last_weights_are_the_best(tmp_path):
    with pytest.warns(UserWarning, match="AP is still 0 after 12 updates"):
        result = train({**TINY, "lr": 1e-9, "average_best": 1}, out=tmp_path / "run")
    assert result.best == 0 and read_checkpoint(tmp_path / "run" / "best.safetensors")[1]["step"] == 12
    assert [path.stem for path in (tmp_path / "run" / "top").iterdir()] == ["step_00000012"]


def test_a_checkpoint_is_used_at_the_size_it_was_trained_at(tmp_path):
    result = train({**TINY, "epochs": 1, "max_steps": 1}, out=tmp_path / "run")
    model, scene = load_checkpoint(result.folder / "last.safetensors"), toy_scene(1, 200)
    own, same, other = (model.predict(scene.image, conf=0, **words)[0].prediction.poses for words in ({}, {"image_size": 64}, {"image_size": 96}))
    assert np.array_equal(own, same) and not np.array_equal(own, other)
    scenes = ToyScenes(2, 200, seed=3)
    evaluate(model, scenes, results_file=tmp_path / "own.json")
    evaluate(model, scenes, image_size=64, results_file=tmp_path / "same.json")
    assert (tmp_path / "own.json").read_text() == (tmp_path / "same.json").read_text()


def test_the_same_seed_gives_the_same_weights(tmp_path):
    a, b = (train({**TINY, "epochs": 1}, out=tmp_path / name).model for name in "ab")
    other = train({**TINY, "epochs": 1, "seed": 1}, out=tmp_path / "c").model
    assert same_weights(a, b) and not same_weights(a, other)


def test_workers_change_nothing(tmp_path):
    a, b = (train({**TINY, "epochs": 1, "workers": n}, out=tmp_path / str(n)).model for n in (0, 2))
    assert same_weights(a, b)


SCRIPT = """
import sys, time
from yolo_nas_pose.training import loop
original = loop.train_step
def slow(*a, **k):
    time.sleep(.15)
    return original(*a, **k)
if sys.argv[2] == "slow": loop.train_step = slow
import json
loop.train(json.loads(sys.argv[3]), out=sys.argv[1], resume=sys.argv[4] == "resume")
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, kill):
    recipe = {**TINY, "save_every": 1, "epochs": 3}
    whole = train(recipe, out=tmp_path / "whole").model
    folder, command = tmp_path / "killed", [sys.executable, "-c", SCRIPT]
    first = subprocess.Popen([*command, str(folder), "slow", json.dumps(recipe), "start"], stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while time.time() < deadline and first.poll() is None:
        log = folder / "log.csv"
        if log.exists() and len(log.read_text().splitlines()) > 5 and (folder / "state.pt").exists():
            break
        time.sleep(.02)
    assert first.poll() is None, "the run was over before it could be killed"
    first.send_signal(kill)
    first.wait(60)
    state = torch.load(folder / "state.pt", weights_only=True)
    assert 0 < state["step"] < 12
    subprocess.run([*command, str(folder), "fast", json.dumps(recipe), "resume"], check=True, stderr=subprocess.DEVNULL)
    assert same_weights(load_checkpoint(folder / "last.safetensors"), whole)
    steps = [int(row["step"]) for row in csv.DictReader((folder / "log.csv").open())]
    assert steps == list(range(1, 13)), "a line of the log is missing or told twice"


def test_resume_refuses_another_recipe_and_an_empty_folder(tmp_path):
    train({**TINY, "epochs": 1}, out=tmp_path / "run")
    with pytest.raises(RecipeError, match="other values of lr"):
        train({**TINY, "epochs": 1, "lr": .1}, out=tmp_path / "run", resume=True)
    with pytest.raises(FileNotFoundError, match="no saved state"):
        train(TINY, out=tmp_path / "nothing", resume=True)
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(TINY, out=tmp_path / "run")


def test_resume_refuses_another_number_of_images_or_processes(tmp_path):
    "Epochs would be longer or shorter than planned, and the rate with them, and nobody would know."
    few = {**TINY, "epochs": 1, "max_steps": 2}
    scenes, val = ToyScenes(8, 64, seed=3), ToyScenes(2, 64, seed=7)
    train(few, out=tmp_path / "run", data=(scenes, val))
    with pytest.raises(RecipeError, match=r"images \(8, now 10\)"):
        train(few, out=tmp_path / "run", resume=True, data=(ToyScenes(10, 64, seed=3), val))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    torch.save(state | {"processes": 4}, tmp_path / "run" / "state.pt")
    with pytest.raises(RecipeError, match=r"processes \(4, now 1\)"):
        train(few, out=tmp_path / "run", resume=True, data=(scenes, val))
    torch.save({key: value for key, value in state.items() if key not in ("images", "processes")}, tmp_path / "run" / "state.pt")
    train(few, out=tmp_path / "run", resume=True, data=(scenes, val))  # a state that is older than this rule


class Broken(list):
    "Samples with labels that were changed."
    skeleton = ToyScenes(1, 64).skeleton

    def ground_truth(self):
        return ToyScenes(2, 64).ground_truth()


def test_labels_that_teach_nothing_stop_the_run(tmp_path):
    scenes = Broken(s._replace(boxes=s.boxes / 6400, joints=np.concatenate([s.joints[..., :2] / 6400, s.joints[..., 2:]], -1),
                               areas=np.full(len(s.boxes), 2, np.float32)) for s in ToyScenes(8, 64))
    with warnings.catch_warnings(record=True) as seen, pytest.raises(TrainingStopped, match="shares of the image instead of pixels"):
        warnings.simplefilter("always")
        train({**TINY, "epochs": 5, "empty_steps": 6, "flip": 0, "affine_p": 0}, out=tmp_path / "run", data=(scenes, Broken(scenes[:2])))
    assert any("no anchor" in str(w.message) for w in seen)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    from yolo_nas_pose.model.network import YoloNASPose
    model = YoloNASPose("yolo_nas_pose_n")
    torch.nn.init.constant_(model.heads.head1.pose_pred.bias, float("nan"))
    with pytest.raises(TrainingStopped, match="not finite in .*pose_reg"):
        train(TINY, out=tmp_path / "run", model=model)


def test_accumulation_counts_updates(tmp_path):
    result = train({**TINY, "accumulate": 2, "epochs": 2}, out=tmp_path / "run")
    assert result.history[-1]["step"] == 4


def test_bf16_and_clipping_run(tmp_path):
    result = train({**TINY, "epochs": 1, "precision": "bf16", "clip_norm": 1.}, out=tmp_path / "run")
    assert all(v.dtype in (torch.float32, torch.int64) for v in result.model.state_dict().values())
    assert np.isfinite([float(row["total"]) for row in csv.DictReader((result.folder / "log.csv").open())]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs compute both")
@pytest.mark.parametrize("wanted, flags, got", [("auto", "avx2", "no"), ("auto", "avx512_bf16", "no"), ("auto", "avx512_bf16 amx_bf16", "bf16"),
                                                ("bf16", "avx2", "no"), ("bf16", "avx512_bf16", "bf16"), ("fp16", "amx_bf16", "no")])
def test_a_processor_computes_what_it_can(tmp_path, monkeypatch, wanted, flags, got):
    monkeypatch.setattr(system, "processor_flags", lambda text=None: frozenset(flags.split()))
    imitated = wanted != "auto" and got == "no"
    with pytest.warns(UserWarning, match=f"precision: {wanted} would be imitated") if imitated else nullcontext():
        assert make_accelerator(Recipe(precision=wanted), tmp_path).mixed_precision == got


def test_a_recipe_for_gpus_runs_on_a_processor(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="precision: fp16 would be imitated"):
        result = train({**TINY, "epochs": 1, "precision": "fp16"}, out=tmp_path / "run")
    assert load_recipe(result.folder / "recipe.yaml").precision == "fp16"


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    result = train({**TINY, "epochs": 1, "trackers": ["tensorboard"]}, out=tmp_path / "run")
    assert list((result.folder / "events").rglob("events.*"))


def test_patience_ends_a_run(tmp_path):
    scenes = Broken(PoseSample.empty(np.full((64, 64, 3), 127, np.uint8), 17, i + 1) for i in range(8))
    mixed = Broken([*ToyScenes(4, 64), *scenes[:4]])
    result = train({**TINY, "epochs": 9, "patience": 2, "lr": 1e-7}, out=tmp_path / "run", data=(mixed, ToyScenes(2, 64)))
    assert len(result.history) < 9


def test_data_and_model_may_be_named_as_in_a_recipe(tmp_path):
    folder = write_toy(tmp_path / "data", train=4, val=2, size=64)
    result = train({**TINY, "epochs": 1}, out=tmp_path / "run", data=folder, model="yolo_nas_pose_n")
    kept = load_recipe(result.folder / "recipe.yaml")
    assert (kept.data, kept.model) == (str(folder), "yolo_nas_pose_n")
