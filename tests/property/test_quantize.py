"Laws of the quantised model: the same network while nothing is switched on, one scale where maps lie side by side, and only what was asked for."
import copy

import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.quantize import (KEPT, Quantizer, calibration_batches, insert_quantizers, layers, quantize_ptq, set_scheme, set_policy,
                                           side_by_side, summary)
from yolo_nas_pose.deploy.sensitivity import output_error
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.pretrained import get


@pytest.fixture(scope="module")
def toy():
    return get("yolo_nas_pose_n", pretrained_weights="toy")


@pytest.fixture(scope="module")
def ready(toy):
    return quantize_ptq(toy, ToyScenes(8, 96, seed=1001), 8, 96)


@pytest.fixture(scope="module")
def images():
    return torch.stack([torch.from_numpy(ToyScenes(2, 96, seed=7)[k].image).movedim(-1, 0) / 255 for k in range(2)])


@torch.no_grad()
def test_switched_off_it_is_the_float_model(toy, ready, images):
    off = copy.deepcopy(ready)
    for part in off.modules():
        if isinstance(part, Quantizer):
            part.enabled = False
    for mine, its in zip(off(images), toy(images)):
        torch.testing.assert_close(mine, its, atol=2e-3, rtol=1e-3)
    assert output_error(ready(images), toy(images))[0] > .05  # and switched on it is not


@pytest.mark.parametrize("variant", ["yolo_nas_pose_m"])
@torch.no_grad()
def test_shortcuts_of_wide_layers_fold_too(variant):
    model = YoloNASPose(variant).eval()
    for number, value in enumerate(value for name, value in model.named_parameters() if name.endswith("alpha")):
        value.fill_(.7 + .6 * (number % 2))
    made = quantize_ptq(model, ToyScenes(8, 32, seed=1), 8, 32)
    for part in made.modules():
        if isinstance(part, Quantizer):
            part.enabled = False
    image = torch.rand(1, 3, 32, 32)
    for mine, its in zip(made(image), model(image)):
        torch.testing.assert_close(mine, its, atol=2e-3, rtol=1e-3)
    assert not any(name.endswith("alpha") for name, _ in made.named_parameters())


@torch.no_grad()
def test_a_shortcut_of_nothing_keeps_its_factor(toy, images):
    model = copy.deepcopy(toy)
    model.backbone.stage2.blocks.bottlenecks[1].alpha.fill_(-.2)
    made = quantize_ptq(model, ToyScenes(8, 96, seed=1001), 8, 96)
    kept = [name for name, _ in made.named_parameters() if name.endswith("alpha")]
    assert kept == ["backbone.stage2.blocks.bottlenecks.1.alpha"]
    assert made.backbone.stage2.blocks.bottlenecks[1].sum.signed


def test_one_scale_side_by_side(ready):
    parts, groups = dict(ready.named_modules()), side_by_side(ready.connections)
    assert len(groups) > 10
    for scheme in ("cpu", "tensorrt"):
        made = copy.deepcopy(ready)
        set_scheme(made, scheme)
        parts = dict(made.named_modules())
        for group in groups:
            assert len({float(parts[name].scale) for name in group}) == 1, group
    assert all(part.zero_point.eq(0).all() and part.limits == (-128, 127) for part in parts.values() if isinstance(part, Quantizer))


def test_after_a_relu_the_integer_nothing_is_zero(ready):
    for name, part in ready.named_modules():
        if name.endswith("act.quantizer"):
            assert not part.signed and part.zero_point == 0 and part.limits == (0, 255)


def test_an_excluded_head_is_left_alone(ready):
    made = copy.deepcopy(ready)
    set_policy(made, exclude=("heads.*",))
    assert not any(part.enabled for part in made.heads.modules() if isinstance(part, Quantizer))
    assert all(part.kernel.enabled for name, part in layers(made).items() if not name.startswith("heads"))
    assert summary(made)["float_layers"] == sum(name.startswith("heads") for name in layers(made))


def test_one_layer_alone_rounds_only_what_it_reads_and_gives(ready):
    made = copy.deepcopy(ready)
    set_policy(made, include=("heads.head3.cls_pred",), exclude=())
    assert [name for name in made.connections.makes if made.get_submodule(name).enabled] == list(made.connections.reads["heads.head3.cls_pred"])
    set_policy(made, include=("heads.*",), exclude=())
    assert not any(part.enabled for part in made.backbone.modules() if isinstance(part, Quantizer))


def test_the_answers_are_not_rounded(ready):
    assert summary(ready)["float_layers"] == 9
    for head in (ready.heads.head1, ready.heads.head2, ready.heads.head3):
        assert not any(getattr(head, name.removeprefix("*.")).kernel.enabled for name in KEPT)


def test_exactly_as_many_images_as_asked_for():
    class Counted:
        def __init__(self): self.scenes, self.asked = ToyScenes(50, 64, seed=1), []
        def __len__(self): return 50
        def __getitem__(self, n):
            self.asked.append(n)
            return self.scenes[n]

    data = Counted()
    batches = list(calibration_batches(data, 19, 64, batch_size=8))
    assert sum(map(len, batches)) == 19 and len(set(data.asked)) == len(data.asked) == 19


def test_everything_goes_on_learning(ready, images):
    made = copy.deepcopy(ready)
    raw = made(images)
    sum(part.float().mean() for part in raw[:4]).backward()
    missing = [name for name, value in made.named_parameters() if value.grad is None or not value.requires_grad]
    assert missing == [] and any(name.endswith("bias") for name, _ in made.named_parameters())


def test_the_float_model_is_untouched(toy):
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    quantize_ptq(toy, ToyScenes(8, 64, seed=1), 8, 64)
    assert not toy.fused and before.keys() == toy.state_dict().keys() and "quantization" not in toy.metadata
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in before.items())


def test_a_raw_model_is_refused(toy):
    with pytest.raises(ValueError, match="fuse"):
        insert_quantizers(copy.deepcopy(toy))
