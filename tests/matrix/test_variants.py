"Every variant: forward, backward, fused, in half precision, exported, compiled."
import pytest
import torch
from torch import nn

from yolo_nas_pose.core.skeleton import Skeleton
from yolo_nas_pose.core.structures import RawPoses
from yolo_nas_pose.model.head import decode
from yolo_nas_pose.model.network import VARIANTS, YoloNASPose, count_operations, count_parameters

N, S, M, L = VARIANTS
# Parameters in training and GFLOPs at 640 x 640, of the reference without its placeholders.
SIZES = {N: (7_165_323, 18.74), S: (16_050_444, 38.22), M: (40_886_734, 102.00), L: (56_919_508, 144.95)}
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda name: name[-1])


def make(variant, joints=17, seed=0):
    "A network whose norms do something."
    torch.manual_seed(seed)
    model = YoloNASPose(variant, Skeleton.from_names([f"joint_{k}" for k in range(joints)])).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-.2, .2)
            module.running_var.uniform_(.5, 1.5)
            nn.init.uniform_(module.weight, .55, .95)
    return model


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda name: name[-1])
def model(request):
    "Shared: do not change."
    return make(request.param)


def pictures(height=64, width=96, number=1):
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(a, b, pixels=0., score=0.):
    "Decoded outputs within limits."
    for name, limit in dict(boxes=pixels, joints=pixels, scores=score, joint_scores=score).items():
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=limit, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@each_variant
def test_sizes(variant):
    parameters, gflops = SIZES[variant]
    with torch.device("meta"):
        assert count_parameters(YoloNASPose(variant))["total"] == parameters
    assert count_operations(variant)["total"] == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize("variant, joints", [(N, 1), (N, 5), (N, 17), (N, 20), (N, 133), (S, 14), (M, 4), (L, 20)])
def test_shapes(variant, joints):
    with torch.no_grad():
        raw = make(variant, joints)(pictures(64, 96, 2))
    anchors = 8 * 12 + 4 * 6 + 2 * 3
    assert [tuple(part.shape) for part in raw] == [(2, anchors, 1), (2, anchors, 68), (2, anchors, joints, 2), (2, anchors, joints), (anchors, 2),
                                                   (anchors, 1)]
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in raw)


@each_variant
def test_every_parameter_learns(variant):
    model = make(variant).train()
    raw = model(pictures(64, 64, 2))
    sum(part.square().mean() for part in raw[:4]).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()]
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is not None and not parameter.grad.any()]
    assert not without
    # What a norm in training subtracts again cannot matter: biases in front of it.
    assert all(name.endswith(("branch_1x1.bias", "branch_3x3.bn.bias")) for name in silent)


def test_a_batch_is_its_images(model):
    images = pictures(number=2)
    with torch.no_grad():
        together, apart = model(images), [model(images[k:k + 1]) for k in range(2)]
    for k in range(2):
        for both, one in zip(together[:4], apart[k][:4]):
            torch.testing.assert_close(both[k:k + 1], one, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("variant, size", [(N, 640), (S, 640), (M, 320), (L, 320)], ids=["n", "s", "m", "l"])
def test_fused_is_the_same(variant, size):
    model, images = make(variant), pictures(size, size)
    with torch.no_grad():
        before = decode(model(images))
        assert not model.fused and model.fuse() is model and model.fused
        after = decode(model(images))
    assert_same(before, after, 5e-3, 1e-5)
    kinds = [type(part) for part in model.modules()]
    assert nn.BatchNorm2d not in kinds and not any(".branch_" in key for key in model.state_dict())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    again = model.fuse().state_dict()
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.parametrize("kind, pixels", [(torch.float16, .5), (torch.bfloat16, 4.)], ids=["fp16", "bf16"])
def test_autocast_keeps_coordinates_in_float32(model, kind, pixels):
    "Far right in a wide image half precision has steps of 0.5 px, bfloat16 of 4 px: none of that may be seen."
    images = pictures(32, 576)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", kind):
            raw = model(images)
            decoded = decode(raw)
    assert all(part.dtype == torch.float32 for part in (*raw, *decoded))
    right = raw.joints[raw.joints > 512]
    step = .5 if kind == torch.float16 else 4.
    assert (right.remainder(step) != 0).float().mean() > .5
    torch.testing.assert_close(raw.joints, exact.joints, atol=pixels, rtol=0)
    torch.testing.assert_close(raw.points, exact.points, atol=0, rtol=0)


def test_half_weights_answer_in_float32():
    model, images = make(N), pictures()
    with torch.no_grad():
        exact, raw = model(images), model.half()(images.half())
    assert all(part.dtype == torch.float32 for part in raw)
    torch.testing.assert_close(raw.joints, exact.joints, atol=.5, rtol=0)


def test_export(model):
    images = pictures()
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        ours, theirs = model(images), RawPoses(*program.module()(images))
    assert_same(decode(ours), decode(theirs), 1e-3, 1e-5)


def test_export_with_any_batch_and_size():
    model, batch, height, width = make(N), torch.export.Dim("batch", max=64), torch.export.Dim("rows", min=2, max=40), torch.export.Dim("columns", min=2, max=40)
    program = torch.export.export(model, (pictures(64, 96, 2),), dynamic_shapes=({0: batch, 2: 32 * height, 3: 32 * width},))
    images = pictures(160, 128, 3)
    with torch.no_grad():
        assert_same(decode(model(images)), decode(RawPoses(*program.module()(images))), 1e-3, 1e-5)


def test_compile_without_graph_breaks(model):
    torch._dynamo.reset()
    compiled, images = torch.compile(model, fullgraph=True, backend="eager"), pictures()
    with torch.no_grad():
        assert_same(decode(model(images)), decode(compiled(images)), 1e-3, 1e-5)
    torch._dynamo.reset()


def test_compiled_training_step_without_graph_breaks():
    torch._dynamo.reset()
    model = make(N).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    sum(part.square().mean() for part in compiled(pictures(64, 64, 2))[:4]).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch._dynamo.reset()


def test_the_grid_is_kept_for_a_size():
    model = make(N)
    with torch.no_grad():
        first, second, other = model(pictures()), model(pictures(number=2)), model(pictures(96, 96))
    assert first.points is second.points and first.strides is second.strides
    assert other.points.shape != first.points.shape


def test_a_grid_kept_in_inference_mode_serves_training():
    model, images = make(N), pictures(32, 224)  # a size that no other test has kept
    with torch.inference_mode():
        model(images)
    raw = model.train()(images.expand(2, -1, -1, -1))
    (raw.joints * raw.strides[:, None]).square().mean().backward()
    assert model.heads.head1.pose_pred.weight.grad.isfinite().all()


@pytest.mark.gpu
@each_variant
def test_a_gpu_says_the_same(variant):
    model, images = make(variant), pictures(320, 320)
    with torch.no_grad():
        exact = decode(model(images))
        gpu, there = model.cuda(), images.cuda()
        assert_same(exact, type(exact)(*(part.cpu() for part in decode(gpu(there)))), .5, 1e-2)  # TF32 convolutions
        with torch.autocast("cuda", torch.float16):
            raw = gpu(there)
    assert all(part.dtype == torch.float32 and part.is_cuda for part in raw)
