"A run that is killed at any moment, also while it writes, ends in the same weights as one that is not."
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.data.loader import make_loader
from yolo_nas_pose.model.weights import load_checkpoint
from yolo_nas_pose.training.loop import train

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=3, lr=1e-3, warmup_steps=2,
            log_every=1, trackers=[], train_scenes=8, val_scenes=2, save_every=1, accumulate=2, average_best=2)

# What a run does in a process of its own. "tear": stops for good in the middle of writing its state, as often as asked before.
SCRIPT = """
import json, os, sys, time, io
folder, recipe, resume, tear, pause = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "resume", int(sys.argv[4]), float(sys.argv[5])
from pathlib import Path
from yolo_nas_pose.training import loop, state
step, original, writes = loop.train_step, state.torch.save, []
def slow(*a, **k):
    time.sleep(pause)
    return step(*a, **k)
def torn(content, path):
    writes.append(path)
    if len(writes) != tear:
        return original(content, path)
    whole = io.BytesIO(); original(content, whole); whole = whole.getvalue()
    with open(path, "wb") as stream:
        stream.write(whole[:len(whole) // 2]); stream.flush()
        Path(folder, "half").write_text("now"); time.sleep(600)
loop.train_step = slow
if tear: state.torch.save = torn
loop.train(recipe, out=folder, resume=resume)
"""


def start(folder, recipe, resume=False, tear=0, pause=0.):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), json.dumps(recipe), "resume" if resume else "start", str(tear), str(pause)],
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(folder, recipe):
    "Goes on to the end."
    run = start(folder, recipe, resume=(folder / "state.pt").exists())
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors


def assert_same_end(folder, whole):
    for name in ("last", "best", "average"):
        one, other = (load_checkpoint(place / f"{name}.safetensors") for place in (folder, whole))
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values())), name
        assert one.metadata["metrics"] == other.metadata["metrics"]
    one, other = (torch.load(place / "state.pt", weights_only=True) for place in (folder, whole))
    assert one["step"] == other["step"] and one["history"] == other["history"]
    for n, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][n][key]) for key, value in moments.items())
    texts = [(place / "log.csv").read_text().splitlines() for place in (folder, whole)]
    assert texts[0][0].endswith(",images_per_second,loader_wait")  # the two that a clock makes; all else is the same
    assert [line.rsplit(",", 2)[0] for line in texts[0]] == [line.rsplit(",", 2)[0] for line in texts[1]]
    assert not list(folder.glob(".*part")) or sys.platform == "win32"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The folder of a run that nobody disturbed."
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, TINY)
    return folder


def written(folder):
    "When the state was written; None where there is none."
    state = folder / "state.pt"
    return state.stat().st_mtime_ns if state.exists() else None


def wait_for(condition, process, seconds=300):
    deadline = time.time() + seconds
    while time.time() < deadline and not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(.01)
    assert condition(), "waited in vain"


@pytest.mark.slow
@pytest.mark.parametrize("write", [2, 4])
def test_killed_while_a_state_is_written(tmp_path, whole, write):
    folder = tmp_path / "run"
    run = start(folder, TINY, tear=write)
    wait_for((folder / "half").exists, run)
    run.kill(), run.wait()
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == (write if write < 3 else 2) - (write < 3)
    assert list(folder.glob(".state.*.part.pt")), "it was not killed while it wrote"
    finish(folder, TINY)
    assert_same_end(folder, whole)


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(tmp_path, whole):
    folder, chance = tmp_path / "run", random.Random(0)
    for _ in range(3):  # each lives until it has saved at least once, so that three kills leave something to do
        run = start(folder, TINY, resume=(folder / "state.pt").exists(), pause=.2)
        before = written(folder)
        wait_for(lambda: written(folder) != before, run)
        time.sleep(chance.uniform(0, .8))
        run.kill(), run.wait()
    finish(folder, TINY)
    assert_same_end(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_stops_between_updates_and_says_how_to_go_on(tmp_path, whole, number):
    folder = tmp_path / "run"
    run = start(folder, {**TINY, "save_every": 500}, pause=.3)
    wait_for(lambda: (folder / "log.csv").exists() and len((folder / "log.csv").read_text().splitlines()) > 1, run)
    run.send_signal(number)
    out, errors = run.communicate(timeout=300)
    assert run.returncode != 0 and "stopping after this update" in out
    step = torch.load(folder / "state.pt", weights_only=True)["step"]
    assert f"The last whole state is of update {step} of 6" in errors and "--resume" in errors
    finish(folder, {**TINY, "save_every": 500})
    assert_same_end(folder, whole)


FULL = """
import json, resource, signal, sys
from yolo_nas_pose.training import loop, state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
original, seen = state.save_state, []
def save(it):
    seen.append(1)
    if len(seen) == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
    original(it)
loop.save_state = save
loop.train(json.loads(sys.argv[2]), out=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits of file sizes")
def test_a_full_disk_leaves_the_last_state_whole(tmp_path, whole):
    folder = tmp_path / "run"
    run = subprocess.run([sys.executable, "-c", FULL, str(folder), json.dumps(TINY)], capture_output=True, text=True)
    assert run.returncode != 0 and "cannot write" in run.stderr and "disk full" in run.stderr, run.stderr
    assert "The last whole state is of update 2 of 6" in run.stderr
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 2
    assert not list(folder.glob(".state.*")), "half a file is left"
    finish(folder, TINY)
    assert_same_end(folder, whole)


def test_a_crashed_worker_is_told_with_the_way_on(tmp_path):
    from yolo_nas_pose.core.toy import ToyScenes

    class Deadly(ToyScenes):
        def __getitem__(self, i):
            if i == 5 and torch.utils.data.get_worker_info():
                os._exit(9)
            return super().__getitem__(i)
    scenes = Deadly(8, 64)
    with pytest.raises(RuntimeError, match="worker") as error:
        train({**TINY, "workers": 1, "epochs": 2}, out=tmp_path / "run", data=(scenes, ToyScenes(2, 64)))
    assert any("state" in note for note in error.value.__notes__)


class Listening(list):
    "Samples whose id tells whether Ctrl-C would end the process that reads them."
    def __getitem__(self, i):
        return super().__getitem__(i)._replace(image_id=int(signal.getsignal(signal.SIGINT) == signal.SIG_IGN))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_leave_ctrl_c_to_the_run(start):
    "A terminal sends Ctrl-C to workers too; one that died of it would take the run along before its state is written."
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    loader = make_loader(Listening([ToyScenes(2, 64, seed=1)[n] for n in range(2)]), 64, 1, workers=1)
    loader.loader.multiprocessing_context = start
    assert [batch.image_ids for batch in loader] == [[1], [1]]
