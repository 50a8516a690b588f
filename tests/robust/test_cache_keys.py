"Decoded copies as keys of a recipe."
import numpy as np
import pytest

from yolo_nas_pose.core.toy import write_toy
from yolo_nas_pose.data.cache import CachedPoses
from yolo_nas_pose.data.coco import CocoPoses
from yolo_nas_pose.data.files import DataError
from yolo_nas_pose.training.loop import train
from yolo_nas_pose.training.recipe import RecipeError, load_recipe
from yolo_nas_pose.training.run import build_data

TINY = dict(model="yolo_nas_pose_n", image_size=64, batch_size=2, val_batch_size=2, workers=0, epochs=1, lr=1e-4, warmup_steps=0, log_every=1,
            trackers=[], check_data=False, scale=(.5, 1.5))


@pytest.fixture
def folder(tmp_path):
    return write_toy(tmp_path / "data", train=4, val=2, size=160)


def test_a_run_fills_and_reads_copies_within_the_bound(folder, tmp_path):
    one = (3 * 96 * 96 + 4096) / 1e9
    keys = {**TINY, "data": str(folder), "cache": str(tmp_path / "copies"), "cache_gb": 3.5 * one}
    train(keys, out=tmp_path / "run")
    copies = sorted((tmp_path / "copies").rglob("*.npy"))
    assert len(copies) == 3 and all(np.load(copy).shape == (96, 96, 3) for copy in copies)  # 64 px, made larger by up to 1.5
    images, val = build_data(load_recipe(keys))
    assert isinstance(images, CachedPoses) and isinstance(val, CocoPoses)
    changed = np.zeros_like(np.load(copies[0]))
    np.save(copies[0], changed)
    assert np.array_equal(images[int(copies[0].name.split("_")[0])].image, changed)


def test_off_by_default(folder, tmp_path):
    assert load_recipe("finetune").cache is None and isinstance(build_data(load_recipe({**TINY, "data": str(folder)}))[0], CocoPoses)


def test_impossible_wishes_are_explained(folder, tmp_path):
    with pytest.raises(RecipeError, match="cache: toy scenes are drawn"):
        build_data(load_recipe({**TINY, "cache": str(tmp_path / "copies")}))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file.*cannot be made.*Choose another"):
        build_data(load_recipe({**TINY, "data": str(folder), "cache": str(tmp_path / "file")}))
    with pytest.raises(RecipeError, match="cache_gb"):
        load_recipe({**TINY, "cache_gb": 0})
