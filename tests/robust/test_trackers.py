"Trackers other than TensorBoard get the numbers of a run; those that are not there are asked for by the name of their package."
import sys

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import RecipeError, load_recipe
from yolo_nas_pose.training.run import make_accelerator

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=2, lr=1e-4, warmup_steps=0, log_every=1,
            train_scenes=4, val_scenes=2)

WANDB = """
calls = []
class Config:
    def update(self, values, **more): calls.append(("config", values))
config = Config()
class Run:
    def log(self, values, step=None, **more): calls.append((step, values))
    def finish(self): calls.append(("finish", None))
def init(project, **more):
    calls.append(("init", project))
    return Run()
"""


def test_a_tracker_gets_recipe_numbers_and_an_end(tmp_path, monkeypatch):
    "A package that answers to the calls of wandb, reached the way Accelerate reaches the real one."
    from accelerate import tracking
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.WANDB])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    train({**TINY, "trackers": ["wandb"]}, out=tmp_path / "run")
    calls = sys.modules["wandb"].calls
    monkeypatch.delitem(sys.modules, "wandb")
    assert calls[0] == ("init", "yolo_nas_pose") and calls[-1] == ("finish", None)
    assert calls[1][0] == "config" and calls[1][1]["lr"] == 1e-4 and calls[1][1]["model"] == "yolo_nas_pose_n"
    numbers = [(step, set(values)) for step, values in calls[2:-1]]
    steps = [step for step, keys in numbers if "train/total" in keys]
    assert steps == [1, 2, 3, 4] and [step for step, keys in numbers if "val/AP" in keys] == [2, 4]
    assert all({"train/lr", "train/images_per_second", "train/loader_wait"} <= keys for step, keys in numbers if "train/total" in keys)


PACKAGES = {"aim": "aim", "comet_ml": "comet-ml", "mlflow": "mlflow", "wandb": "wandb", "clearml": "clearml", "dvclive": "dvclive",
            "swanlab": "swanlab", "trackio": "trackio"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_tracker_that_is_not_installed_names_its_package(tmp_path, monkeypatch, name):
    from yolo_nas_pose.training import run
    assert name in LOGGER_TYPE_TO_CLASS
    others = [known for known in get_available_trackers() if str(getattr(known, "value", known)) != name]
    monkeypatch.setattr(run, "get_available_trackers", lambda: others)
    with pytest.raises(RecipeError, match=f"{name} is not installed. Install it .pip install {PACKAGES[name]}.,"):
        make_accelerator(load_recipe({**TINY, "trackers": [name]}), tmp_path)


def test_a_tracker_that_does_not_exist_is_answered_with_those_that_do(tmp_path):
    with pytest.raises(RecipeError, match="there is no 'wandbb'; Accelerate knows .*mlflow.*wandb"):
        make_accelerator(load_recipe({**TINY, "trackers": ["wandbb"]}), tmp_path)
