"The command as people type it: every verb, its files, its exit status, and one line for every mistake."
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from yolo_nas_pose import __version__
from yolo_nas_pose.cli import app
from yolo_nas_pose.core.skeleton import Skeleton
from yolo_nas_pose.core.toy import ToyScenes, write_toy
from yolo_nas_pose.deploy.export import export_onnx
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.model.weights import load_checkpoint, save_checkpoint

TINY = ["model=yolo_nas_pose_n", "image_size=64", "batch_size=2", "val_batch_size=2", "workers=0", "epochs=1", "trackers=[]", "log_every=1"]


def call(*words) -> tuple[int, str, str]:
    "Exit status, what is printed, what is printed as an error; errors as `main` tells them."
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, (ValueError, OSError, RuntimeError, ImportError)), result.exception
        return 1, result.stdout, f"error: {result.exception}"
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), train=4, val=3, size=64)


def test_a_folder_is_trained_on_validated_and_gone_on_with(home, tmp_path):
    run = tmp_path / "run"
    status, out, err = call("train", "finetune", f"data={home}", *TINY, "--out", run)
    assert status == 0, err
    assert "update 2 of 2, epoch 1 of 1: loss " in err and "; AP 0.0, best 0.0" in err  # what a log keeps
    assert "best AP" in out and str(run) in out and load_checkpoint(run / "best.safetensors").variant == "yolo_nas_pose_n"
    status, _, err = call("train", "finetune", f"data={home}", *TINY, "--out", run)
    assert status == 1 and "holds a run already" in err
    assert call("train", run / "recipe.yaml", "--out", run, "--resume")[0] == 0 and call("train", "--resume", "--out", run)[0] == 0
    assert "which recipe?" in call("train", "--out", run)[2]
    found = tmp_path / "found.json"
    status, out, err = call("validate", run / "best.safetensors", home, "--size", "64", "--results", found)
    assert status == 0 and "AP50" in out and isinstance(json.loads(found.read_text()), list), err
    own = tmp_path / "own.json"
    status, out, err = call("validate", run / "best.safetensors", home, "--results", own, "--report", tmp_path / "report")
    assert status == 0 and own.read_text() == found.read_text() and "left and right: " in out, err


def test_the_folder_of_a_run_is_no_model_and_no_run_is_no_run(home, tmp_path):
    (tmp_path / "run").mkdir()
    assert "is a folder. Give a checkpoint" in call("validate", tmp_path / "run")[2]
    (tmp_path / "run" / "best.safetensors").touch()
    assert f"take its best weights, {tmp_path / 'run' / 'best.safetensors'}" in call("predict", home, "--model", tmp_path / "run")[2]
    assert "no saved state to resume from" in call("train", "finetune", "data=nowhere", "--out", tmp_path / "run", "--resume")[2]


def test_the_folder_of_the_labels_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = call("train", "finetune", *TINY)
    assert status == 1 and str(tmp_path) in err and "data=FOLDER" in err and "check_data" not in err


def test_toy_scenes_are_no_measure_of_other_joints(tmp_path):
    path = save_checkpoint(tmp_path / "cup.safetensors", YoloNASPose("yolo_nas_pose_n", Skeleton.from_names(["rim", "bottom"], name="cup")))
    for command in ("validate", "quantize"):
        status, _, err = call(command, path)
        assert status == 1 and "the model has the 2 joints of 'cup', and 'toy' draws others. Give the folder" in err


def test_a_file_with_its_thresholds_inside_is_validated_at_them(home, tmp_path):
    path = export_onnx(get("yolo_nas_pose_n", pretrained_weights="toy").fuse(), tmp_path / "pose.onnx", depth="poses", image_size=160, conf=.4, iou=.6)
    status, out, err = call("validate", path, home)
    assert status == 0 and "measured at conf=0.4 and iou=0.6, which are baked into this file" in out and "AP50" in out, err


def test_pictures_are_painted_and_a_broken_one_is_told(home, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for scene in ToyScenes(3, 96, seed=2):
        cv2.imwrite(str(folder / f"{scene.image_id}.png"), scene.image)
    (folder / "half.png").write_bytes((folder / "1.png").read_bytes()[:500])
    status, out, err = call("predict", folder, "--size", "96", "--conf", "0.2", "--out", tmp_path / "out", "--results", tmp_path / "r.json")
    assert status == 1 and "in 3 pictures" in out and "half.png" in err and "breaks off" in err
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert {row["file_name"] for row in json.loads((tmp_path / "r.json").read_text())} <= {"1.png", "2.png", "3.png"}


def test_a_film_is_painted(tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    for scene in ToyScenes(5, 96, seed=2):
        film.write(scene.image)
    film.release()
    status, out, err = call("predict", tmp_path / "walk.avi", "--size", "96", "--conf", "0.2", "--out", tmp_path / "out", "--most", "3",
                            "--results", tmp_path / "r.json")
    assert status == 0 and "in 3 pictures" in out and (tmp_path / "out" / "walk.mp4").is_file(), err
    assert {row["image_id"] for row in json.loads((tmp_path / "r.json").read_text())} <= {0, 1, 2}


def test_a_file_is_validated_at_its_own_size_and_joint_by_joint(tmp_path):
    pytest.importorskip("onnxruntime")
    status, out, err = call("export", "yolo_nas_pose_n", "--weights", "toy", "--depth", "decoded", "--size", "128", "--out", tmp_path / "n.onnx")
    assert status == 0, err
    shown = {size: call("validate", tmp_path / "n.onnx", "toy", "--images", "6", "--per-joint", *size)[1] for size in ((), ("--size", "128"))}
    assert shown[()] == shown["--size", "128"] and "AP of the joint alone" in shown[()] and "left_wrist" in shown[()], shown
    status, out, err = call("benchmark", tmp_path / "n.onnx", "--rounds", "1", "--out", tmp_path / "times")
    assert status == 0 and (tmp_path / "times" / "benchmark.json").is_file(), err


def test_a_small_folder_is_calibrated_on_as_a_whole(home, tmp_path):
    data = write_toy(tmp_path / "nine", train=9, val=1, size=64)
    status, _, err = call("quantize", "yolo_nas_pose_n", data, "--weights", "toy", "--size", "64", "--judge", "0", "--out", tmp_path / "int8")
    assert status == 0 and load_checkpoint(tmp_path / "int8" / "int8.safetensors").metadata["quantization"]["images"] == 9, err
    status, _, err = call("quantize", "yolo_nas_pose_n", home, "--weights", "toy", "--size", "64", "--out", tmp_path / "none")
    assert status == 1 and "8 images are asked for, 4 are there" in err and "Give more data" in err


def test_models_and_recipes_are_listed():
    assert "yolo_nas_pose_l" in call("models")[1]
    assert "finetune" in call("recipe")[1] and "epochs: 7" in call("recipe", "coco_s", "epochs=7")[1]
    assert __version__


@pytest.mark.parametrize("words, told", [
    (["predict", "nothere.jpg"], "nothere.jpg"),
    (["predict", "nothere.jpg", "--model", "nothere.safetensors"], "no such checkpoint"),
    (["predict", "nothere.jpg", "--model", "yolo_nas_pose_q"], "did you mean"),
    (["predict", "nothere.jpg", "--size", "100"], "multiples of 32"),
    (["train", "toi"], "did you mean 'toy'"),
    (["train", "toy", "epoch=3"], "did you mean 'epochs'"),
    (["train", "toy", "epochs"], "expected key=value"),
    (["train", "toy", "out=somewhere"], "unknown key 'out'"),
    (["train", "toy", "--resume"], "resume needs the folder"),
    (["train", "finetune", "data=nothere"], "nothere"),
    (["train", "toy", "model=yolo_nas_pose_q"], "did you mean"),
    (["validate", "nothere.safetensors"], "no such checkpoint"),
    (["recipe", "toy", "lr=fast"], "lr"),
    (["validate", "toy"], "toy are weights, not a model"),
    (["quantize", "yolo_nas_pose_n", "toy", "lr=0.001"], "lr=0.001 would change a recipe, but none is named"),
])
def test_mistakes_are_told_in_one_line(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(*words)
    assert status == 1 and told in err and "Traceback" not in err


def test_labels_of_different_joints_are_refused_before_training(home, tmp_path):
    animals = write_toy(tmp_path / "animals", train=2, val=2, size=64, kind="animals")
    mixed = tmp_path / "mixed"
    (mixed / "annotations").mkdir(parents=True)
    (mixed / "images").symlink_to(home / "images")
    for split, source in (("train", home), ("val", animals)):
        (mixed / "annotations" / f"{split}.json").write_bytes((source / "annotations" / f"{split}.json").read_bytes())
    status, _, err = call("train", "finetune", f"data={mixed}", *TINY, "--out", tmp_path / "run")
    assert status == 1 and "the joints are not those of train" in err
    status, _, err = call("train", "finetune", f"data={mixed}", *TINY, "check_data=false", "--out", tmp_path / "other")
    assert status == 1 and "val.json" in err and "20" in err


def test_nobody_labelled_is_an_error_in_training_and_a_warning_in_validation(home, tmp_path):
    def without(split):
        folder = tmp_path / split
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").symlink_to(home / "images")
        for name in ("train", "val"):
            labels = json.loads((home / "annotations" / f"{name}.json").read_text())
            if name == split:
                labels["annotations"] = []
            (folder / "annotations" / f"{name}.json").write_text(json.dumps(labels))
        return folder
    folder = without("train")
    status, _, err = call("train", "finetune", f"data={folder}", *TINY, "--out", tmp_path / "run")
    assert status == 1 and "errors in the labels" in err
    status, _, err = call("train", "finetune", f"data={folder}", *TINY, "check_data=false", "--out", tmp_path / "run")
    assert status == 1 and "nobody has a labelled joint" in err
    with pytest.warns(UserWarning, match="AP cannot be measured"):
        status, _, err = call("train", "finetune", f"data={without('val')}", *TINY, "check_data=false", "--out", tmp_path / "other")
    assert status == 0 and (tmp_path / "other" / "best.safetensors").is_file(), err


def test_a_folder_that_cannot_be_made_and_a_full_disk(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    status, _, err = call("train", "finetune", f"data={home}", *TINY, "--out", tmp_path / "file" / "run")
    assert status == 1 and "Choose another one with out=" in err

    def full(*arguments, **options):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    monkeypatch.setattr(torch, "save", full)
    status, _, err = call("train", "finetune", f"data={home}", *TINY, "--out", tmp_path / "run")
    assert status == 1 and "state.pt" in err and "disk full" in err
    assert not [path for path in (tmp_path / "run").iterdir() if ".part" in path.name]


def test_the_licence_survives_an_interruption(tmp_path):
    from yolo_nas_pose.model.network import YoloNASPose
    from yolo_nas_pose.training.loop import train
    network = YoloNASPose("yolo_nas_pose_n")
    network.metadata["licence"] = "some-licence"
    recipe = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=2, trackers=[], train_scenes=4,
                  val_scenes=2, patience=1, lr=1e-9)
    train(recipe, out=tmp_path / "run", model=network)
    resumed = train(recipe, out=tmp_path / "run", resume=True)
    assert resumed.model.metadata["licence"] == "some-licence"
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["licence"] == "some-licence"


def test_exit_status_of_the_program(tmp_path):
    "As a process: 0, 1 for an error, 2 for wrong arguments; nothing but one line of error."
    def run(*words): return subprocess.run([sys.executable, "-m", "yolo_nas_pose.cli", *words], cwd=tmp_path, capture_output=True, text=True)
    assert run("recipe").returncode == 0
    wrong = run("predict", "nothere.jpg", "--size", "64")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
    assert run("predict", "--nonsense").returncode == 2


def test_the_empty_picture_list_names_the_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    status, _, err = call("predict", tmp_path)
    assert status == 1 and tmp_path.name in err


INTERRUPTED = """
from yolo_nas_pose import cli
from yolo_nas_pose.training import loop
def train(*words, **more):
    error = KeyboardInterrupt("stopped after update 3")
    error.add_note("The last whole state is of update 3 of 6.")
    raise error
loop.train = train
cli.main()
"""


def test_ctrl_c_says_how_to_go_on():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, "train", "toy"], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "interrupted\nThe last whole state is of update 3 of 6.\n", (done.returncode, done.stderr)
