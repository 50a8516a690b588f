"Training with everything that mixes images and changes their size: exact resume, closing, and the reference's pipeline."
import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.training import loop

BUSY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=4, workers=0, epochs=4, evaluate_every=4, save_every=1, warmup_steps=2, log_every=1,
            clip_norm=20, trackers=[], mosaic_p=.6, mixup_p=.2, paste_p=.3, close_epochs=1, multi_scale=.5, shear=4, quarter_turn_p=.3)


def test_an_interrupted_run_sees_the_same_mixed_images(tmp_path, monkeypatch):
    scenes = ToyScenes(12, size=64, seed=5)
    original, seen = loop.train_step, []

    def step(run, batch, update):
        if len(seen) == 4:
            seen.append("power cut")
            raise SystemExit
        seen.append((run.epoch, tuple(batch.images.shape), int(batch.images.sum()), len(batch.targets.boxes)))
        return original(run, batch, update)

    whole = loop.train(BUSY, out=tmp_path / "whole", data=(scenes, scenes))
    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(SystemExit):
        loop.train(BUSY, out=tmp_path / "halves", data=(scenes, scenes))
    resumed = loop.train(BUSY, out=tmp_path / "halves", data=(scenes, scenes), resume=True)
    steps = [entry for entry in seen if entry != "power cut"]
    assert [entry[0] for entry in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and len({entry[1] for entry in steps}) > 1
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(a, b)


def test_two_steps_with_the_pipeline_of_the_reference(tmp_path):
    scenes = ToyScenes(8, size=64, seed=5)
    result = loop.train({**BUSY, "pipeline": "reference", "mixup_p": 0, "paste_p": 0, "close_epochs": 0, "shear": 0}, out=tmp_path / "run",
                        data=(scenes, scenes), max_steps=2)
    assert (result.folder / "last.safetensors").is_file()
