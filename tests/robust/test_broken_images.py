"A file that cannot be read: skipped and named in training and evaluation, or too many."
import warnings

import numpy as np
import pytest

from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.broken import NO_IMAGE, Tolerant
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import DataError
from yolo_nas_pose.data.loader import make_loader
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.training.evaluate import evaluate
from yolo_nas_pose.training.loop import train

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=2, lr=1e-4, warmup_steps=0, log_every=1, trackers=[],
            check_data=False)  # the doctor would find it first; a file may break later


@pytest.fixture
def folder(tmp_path):
    return write_toy(tmp_path / "data", train=8, val=4, size=64)


def spoil(folder, split, number):
    path = CocoPoses.from_folder(folder, split).path(number)
    path.write_bytes(path.read_bytes()[:700])
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_notes_come_back_from_workers(folder, workers):
    spoil(folder, "train", 3)
    data = Tolerant(CocoPoses.from_folder(folder, "train"))
    batches = list(make_loader(data, 64, 4, workers=workers))
    assert [len(batch.images) for batch in batches] == [4, 4] and data.broken() == [3]
    assert [image for batch in batches for image in batch.image_ids].count(NO_IMAGE) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_and_names_the_image(folder, tmp_path, workers):
    path = spoil(folder, "train", 5)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = train({**TINY, "data": str(folder), "max_broken": .2, "workers": workers}, out=tmp_path / "run")
    told = [str(w.message) for w in seen if "could not be read" in str(w.message)]
    assert len(told) == 1 and path.name in told[0] and "1 of 8 images" in told[0] and len(result.history) == 2


def test_too_many_stop_the_run_with_the_way_on(folder, tmp_path):
    path = spoil(folder, "train", 5)
    with pytest.raises(DataError, match="more than max_broken allows") as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train({**TINY, "data": str(folder)}, out=tmp_path / "run")
    assert path.name in str(error.value) and error.value.__notes__


def test_in_an_evaluation_its_people_count_as_missed(folder):
    model, whole = get("yolo_nas_pose_n", "toy").eval(), CocoPoses.from_folder(folder, "val")
    truth = whole.ground_truth()
    before = evaluate(model, whole, 64, progress=False)
    path = spoil(folder, "val", 1)
    with pytest.warns(UserWarning, match=f"{path.name}.*\n.*count as missed"):
        after = evaluate(model, CocoPoses.from_folder(folder, "val"), 64, progress=False, max_broken=.5)
    people = [len([p for p in truth["annotations"] if p["image_id"] == image["id"]]) for image in truth["images"]]
    assert after["AR"] <= before["AR"] and people[1] > 0
    with pytest.raises(DataError, match="more than max_broken allows"):
        evaluate(model, CocoPoses.from_folder(folder, "val"), 64, progress=False)


def test_a_neighbour_is_the_same_every_time(folder):
    spoil(folder, "train", 7)
    data = Tolerant(CocoPoses.from_folder(folder, "train"))
    assert np.array_equal(data[7].image, data[0].image) and np.array_equal(data[7].image, data[7].image)


@pytest.mark.parametrize("pipeline, mix", [("one_warp", "mosaic_p"), ("one_warp", "mixup_p"), ("one_warp", "paste_p"), ("reference", "mosaic_p")])
def test_a_partner_that_cannot_be_read_is_replaced_and_named(folder, tmp_path, pipeline, mix):
    path = spoil(folder, "train", 5)
    alone = {**TINY, "data": str(folder), "pipeline": pipeline, mix: 1., "epochs": 1, "batch_size": 1, "seed": 1}
    order = [0, 1, 2, 3, 4, 6, 7] * 3
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning) as seen:
        patch.setattr("yolo_nas_pose.data.loader.Batches.indices", lambda self: np.array(order))  # it is never the turn of image 5
        result = train({**alone, "max_broken": .2}, out=tmp_path / "run")
    told = [str(one.message) for one in seen if "could not be read" in str(one.message)]
    assert len(told) == 1 and path.name in told[0] and len(result.history) == 1
    with pytest.raises(DataError, match="more than max_broken allows"), pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr("yolo_nas_pose.data.loader.Batches.indices", lambda self: np.array(order))
        train({**alone, "max_broken": .01}, out=tmp_path / "stopped")
