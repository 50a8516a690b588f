"Frozen parts do not move, heads go first, the mean of the best is a mean, and a run tells what it used."
import json

import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.model.weights import load_checkpoint, read_checkpoint
from yolo_nas_pose.training import loop
from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import RecipeError, load_recipe

TINY = dict(model="yolo_nas_pose_n", weights="toy", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=2, lr=1e-3, warmup_steps=0,
            log_every=1, trackers=[], train_scenes=4, val_scenes=2, ema_decay=0.)


def states(folder, monkeypatch, **changes):
    "State dicts before the first update and after each, with who had gradients."
    seen, original = [], loop.update_weights

    def update(run):
        if not seen:
            seen.append(({k: v.clone() for k, v in run.model.state_dict().items()}, None))
        asked = {name.split(".")[0] for name, p in run.model.named_parameters() if p.grad is not None}
        original(run)
        seen.append(({k: v.clone() for k, v in run.model.state_dict().items()}, asked))
    monkeypatch.setattr(loop, "update_weights", update)
    train({**TINY, **changes}, out=folder)
    return seen


def moved(before, after):
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


def test_frozen_parts_stay_to_the_last_bit(tmp_path, monkeypatch):
    seen = states(tmp_path / "run", monkeypatch, freeze=["backbone", "neck.neck1"])
    first, last = seen[0][0], seen[-1][0]
    assert moved(first, last) == {"neck", "heads"} and seen[1][1] == {"neck", "heads"}
    assert all(torch.equal(first[key], last[key]) for key in first if key.startswith(("backbone.", "neck.neck1.")))


def test_heads_first_then_everything(tmp_path, monkeypatch):
    seen = states(tmp_path / "run", monkeypatch, head_first_epochs=1)
    assert [asked for _, asked in seen[1:]] == [{"heads"}] * 2 + [{"backbone", "neck", "heads"}] * 2
    assert moved(seen[0][0], seen[2][0]) == {"heads"} and moved(seen[2][0], seen[4][0]) == {"backbone", "neck", "heads"}


@pytest.mark.parametrize("changes, words", [({"freeze": ["spine"]}, "no part 'spine'; it has backbone, neck, heads"),
                                            ({"freeze": ["backbone", "neck", "heads"]}, "nothing is left to learn"),
                                            ({"freeze": ["backbone"], "weights": None}, "would stay as chance made them"),
                                            ({"trackers": ["pencil"]}, "there is no 'pencil'; Accelerate knows .*wandb"),
                                            ({"trackers": ["aim"]}, "aim is not installed")])
def test_impossible_wishes_are_explained(tmp_path, changes, words):
    with pytest.raises((RecipeError, ValueError), match=words):
        train({**TINY, **changes}, out=tmp_path / "run")


def test_the_mean_of_the_best_is_a_mean_and_is_judged(tmp_path):
    result = train({**TINY, "epochs": 3, "average_best": 2}, out=tmp_path / "run")
    kept = sorted((tmp_path / "run" / "top").iterdir())
    best = sorted(result.history, key=lambda entry: (-entry["AP"], -entry["step"]))[:2]
    assert [int(path.stem.split("_")[1]) for path in kept] == sorted(entry["step"] for entry in best)
    mean, parts = load_checkpoint(tmp_path / "run" / "average.safetensors"), [read_checkpoint(path)[0] for path in kept]
    for key, value in mean.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (parts[0][key] + parts[1][key]) / 2)
    assert mean.metadata["metrics"] == result.average and set(mean.metadata["mean_of_steps"]) == {entry["step"] for entry in best}
    last = load_checkpoint(tmp_path / "run" / "last.safetensors").state_dict()
    assert all(torch.equal(value, last[key]) for key, value in result.model.state_dict().items()), "the result is the last model, not the mean"


def test_a_batch_size_of_auto_is_found_told_and_kept(tmp_path, capsys):
    result = train({**TINY, "batch_size": "auto", "epochs": 1}, out=tmp_path / "run")
    size = load_recipe(result.folder / "recipe.yaml").batch_size
    assert f"batch_size: auto is {size} images of 64 px" in capsys.readouterr().out and 1 <= size <= 4
    again = train({**TINY, "batch_size": "auto", "epochs": 1}, out=tmp_path / "run", resume=True)
    assert again.history == result.history


def test_a_checkpoint_tells_everything(tmp_path):
    train({**TINY, "epochs": 1}, out=tmp_path / "run")
    state, said = read_checkpoint(tmp_path / "run" / "best.safetensors")
    assert said["preprocessing"]["image_size"] == 64 and said["preprocessing"]["channels"] == "BGR"
    assert len(said["skeleton"]["sigmas"]) == 17 and len(said["skeleton"]["joints"]) == 17
    assert said["recipe"]["lr"] == 1e-3 and "AP" in said["metrics"] and said["licence"] is not None
    assert {"python", "torch", "numpy", "opencv"} <= set(said["versions"]) and said["version"] and said["variant"] == "yolo_nas_pose_n"
    again = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    poses = again.predict(ToyScenes(1, 64)[0].image, image_size=said["preprocessing"]["image_size"])[0].prediction
    assert poses.poses.shape[1:] == (17, 3)
    json.dumps(said)
