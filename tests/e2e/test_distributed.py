"Several processes, several nodes and accumulated batches learn what one process learns from the large batch."
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from yolo_nas_pose.model.weights import load_checkpoint
from yolo_nas_pose.training.run import start_run

# Frozen statistics: norms look at the batch of their own process otherwise, which makes it another function.
EXACT = dict(model="yolo_nas_pose_n", weights="toy", norms="frozen", image_size=96, batch_size=4, val_batch_size=2, workers=0, epochs=1, lr=1e-4,
             warmup_steps=0, ema_decay=0., log_every=1, trackers=[], train_scenes=12, val_scenes=5)

SCRIPT = """
import json, os, sys, torch
from yolo_nas_pose.training import evaluate, loop
folder, recipe = sys.argv[1], json.loads(sys.argv[2])
original, gradients = loop.update_weights, []
def update(run):
    if not gradients:
        gradients.append({name.removeprefix("module."): p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None})
    return original(run)
loop.update_weights = update
collect, counted = evaluate.collect_results, []
def count(*arguments):
    rows = collect(*arguments)
    counted.append(sorted((row["image_id"], round(row["score"], 4)) for row in rows))
    return rows
evaluate.collect_results = count
result = loop.train(recipe, out=folder)
if os.environ.get("RANK", "0") == "0":
    torch.save({"gradients": gradients[0], "counted": counted[0]}, os.path.join(folder, "seen.pt"))
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launch(folder, changes, processes=1, nodes=1):
    "What a run leaves, started as people start it."
    recipe = json.dumps({**EXACT, **changes})
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if processes * nodes == 1:
        commands = [[sys.executable, str(script)]]
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc_per_node", str(processes),
                    "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
        commands = [[*torchrun, "--node_rank", str(node), str(script)] for node in range(nodes)]
    running = [subprocess.Popen([*command, str(folder), recipe], env=env, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, errors
    return {**torch.load(folder / "seen.pt"), "history": json.loads((folder / "history.json").read_text()),
            "weights": load_checkpoint(folder / "last.safetensors").state_dict(), "log": (folder / "log.csv").read_text().splitlines()}


def distance(a, b):
    "Of two sets of tensors, relative to the length of the second."
    names = [name for name in b if b[name].is_floating_point()]
    apart = sum(float((a[name] - b[name]).double().square().sum()) for name in names)
    return (apart / sum(float(b[name].double().square().sum()) for name in names)) ** .5


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "One process, one large batch."
    return launch(tmp_path_factory.mktemp("large") / "run", {})


@pytest.mark.slow
@pytest.mark.parametrize("changes, processes, nodes", [
    ({"batch_size": 2, "accumulate": 2}, 1, 1), ({"batch_size": 2}, 2, 1), ({"batch_size": 1, "accumulate": 2}, 2, 1), ({"batch_size": 2}, 1, 2)],
    ids=["accumulated", "two processes", "two processes, accumulated", "two nodes"])
def test_the_same_as_one_large_batch(tmp_path, large, changes, processes, nodes):
    other = launch(tmp_path / "run", changes, processes, nodes)
    assert distance(other["gradients"], large["gradients"]) < 1e-4
    begin = start_weights()
    moved = {name: value - begin[name] for name, value in large["weights"].items() if value.is_floating_point()}
    apart = {name: value - begin[name] for name, value in other["weights"].items() if value.is_floating_point()}
    assert len(large["log"]) == len(other["log"]) == 4 and distance(apart, moved) < .02
    assert abs(other["history"][0]["AP"] - large["history"][0]["AP"]) < 1e-3


def start_weights():
    from yolo_nas_pose.model.pretrained import get
    return get("yolo_nas_pose_n", "toy").state_dict()


@pytest.mark.slow
def test_validation_counts_every_image_once(tmp_path, large):
    "Five images on two processes: three and two, no image twice."
    other = launch(tmp_path / "run", {"batch_size": 2}, processes=2)
    assert len({image for image, _ in large["counted"]}) == 5
    assert [image for image, _ in other["counted"]] == [image for image, _ in large["counted"]]


@pytest.mark.slow
def test_norms_of_the_own_batch_are_why_statistics_are_frozen_above(tmp_path):
    "With norms that look at their own batch, two batches of two are not one of four: the page says so, and it is true."
    one, two = (launch(tmp_path / name, {"norms": "batch", **changes}) for name, changes in
                (("one", {}), ("two", {"batch_size": 2, "accumulate": 2})))
    assert distance(two["gradients"], one["gradients"]) > 1e-2


def test_shared_statistics_need_gpus(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    from yolo_nas_pose.training.recipe import RecipeError, load_recipe
    with pytest.raises(RecipeError, match="sync needs GPUs"):
        start_run(load_recipe(EXACT, norms="sync"), tmp_path)


def test_processes_need_one_folder(tmp_path, monkeypatch):
    from yolo_nas_pose.training.loop import train
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="out=..."):
        train(EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["torch.distributed.run", "--nproc_per_node", "2"],
                                      ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
                                       "--dynamo_backend", "no"]], ids=["torchrun", "accelerate launch"])
def test_the_command_line_trains_on_two_processes(tmp_path, launcher):
    changes = [f"{key}={json.dumps(value)}" for key, value in {**EXACT, "batch_size": 2}.items()]
    port = ["--master_port" if "torch" in launcher[0] else "--main_process_port", str(free_port())]
    command = [sys.executable, "-m", *launcher, *port, "-m", "yolo_nas_pose.cli", "train", "toy", *changes, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best AP") == 1, "told by one process only"
    assert (tmp_path / "run" / "best.safetensors").exists()
