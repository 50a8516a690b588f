"What cannot be quantised is refused, with the way out."
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from yolo_nas_pose.cli import app
from yolo_nas_pose.core.structures import PoseSample
from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.data.files import DataError
from yolo_nas_pose.deploy.qat import qat_recipe, quantize_qat
from yolo_nas_pose.deploy.quantize import quantize_ptq, set_scheme, set_policy
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.model.weights import WeightsError, load_checkpoint, save_checkpoint
from yolo_nas_pose.training.recipe import RecipeError


@pytest.fixture(scope="module")
def model():
    return get("yolo_nas_pose_n", pretrained_weights="toy").fuse()


@pytest.fixture(scope="module")
def ready(model):
    return quantize_ptq(model, ToyScenes(8, 64, seed=1), 8, 64)


def test_a_second_time(ready):
    with pytest.raises(ValueError, match="quantised already.*set_policy"):
        quantize_ptq(ready, ToyScenes(8, 64), 8, 64)


@pytest.mark.parametrize("there, wanted, words", [(4, 4, "Give more data"), (20, 64, "64 images are asked for, 20 are there.*images="), (20, 2, "at least 8")])
def test_too_few_images(model, there, wanted, words):
    with pytest.raises(DataError, match=words):
        quantize_ptq(model, ToyScenes(there, 64), wanted, 64)


def test_images_without_anything(model):
    grey = [PoseSample.empty(np.full((64, 64, 3), 114, np.uint8), 17)] * 10
    with pytest.raises(DataError, match="one colour"):
        quantize_ptq(model, grey, 10, 64)


@pytest.mark.parametrize("pattern, near", [("neck.nekc1.*", "neck.neck1"), ("heads.head1.clss_pred", "heads.head1.cls_pred")])
def test_a_pattern_that_fits_nothing(model, pattern, near):
    with pytest.raises(ValueError, match=f"no layer is called.*{near}"):
        quantize_ptq(model, ToyScenes(8, 64), 8, 64, exclude=[pattern])


def test_nothing_left(ready):
    with pytest.raises(ValueError, match="leaves nothing"):
        set_policy(ready, exclude=("*",))


def test_wrong_words(model, ready):
    with pytest.raises(ValueError, match="one of cpu, avx2, tensorrt"):
        set_scheme(ready, "gpu")
    with pytest.raises(ValueError, match="quantise it first"):
        set_scheme(model, "cpu")
    with pytest.raises(ValueError, match="quantise it first"):
        set_policy(model)
    with pytest.raises(ValueError, match="minmax, percentile"):
        quantize_ptq(model, ToyScenes(8, 64), 8, 64, method="median")


def test_a_damaged_checkpoint(ready, tmp_path):
    ready.metadata["quantization"] = {**ready.metadata["quantization"], "scheme": "abacus"}
    with pytest.raises(WeightsError, match="abacus"):
        load_checkpoint(save_checkpoint(tmp_path / "odd.safetensors", ready))
    ready.metadata["quantization"].pop("scheme")
    with pytest.raises(WeightsError, match="scheme"):
        load_checkpoint(save_checkpoint(tmp_path / "odd.safetensors", ready))


def test_training_from_nothing(tmp_path):
    with pytest.raises(RecipeError, match="begins with a trained model"):
        quantize_qat("toy", None, tmp_path)
    with pytest.raises(RecipeError, match="epoch"):
        qat_recipe("toy", epoch=3)


def test_a_teacher_that_is_missing_is_told(tmp_path, monkeypatch, ready):
    from yolo_nas_pose.deploy import qat
    monkeypatch.setattr(qat, "train", lambda *given: given[-1])
    with pytest.warns(UserWarning, match="no float model to learn from"):
        assert quantize_qat("toy", ready, tmp_path, data=(ToyScenes(8, 64), ToyScenes(2, 64))) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_qat("toy", ready, tmp_path, data=(ToyScenes(8, 64), ToyScenes(2, 64)), distil=0.)


@pytest.mark.parametrize("words, message", [(["--budget", "1", "--recipe", "toy"], "leave --recipe out"), (["--budget", "1", "--judge", "0"], "give --judge")])
def test_budgets_that_cannot_be_spent(words, message):
    done = CliRunner().invoke(app, ["quantize", "yolo_nas_pose_n", "toy", "--weights", "toy", *words])
    assert done.exit_code and message in " ".join(f"{done.output} {done.exception}".split())
