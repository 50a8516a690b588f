"Laws of boxes, OKS and the grid."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from yolo_nas_pose.core.geometry import (box_iou, boxes_to_sides, ciou_loss, giou_loss, grid_points, make_grid, oks, oks_area,
                                         oks_from_distance, overlap, sides_to_boxes)

settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quick")

seeds = st.integers(0, 2**32 - 1)


def random_boxes(seed, *shape, span=100.):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * span
    return torch.cat((corner, corner + torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * span), -1)


@given(seeds, st.integers(0, 6), st.integers(0, 6))
def test_iou_is_symmetric_bounded_and_counts_pixels(seed, n, m):
    a, b = random_boxes(seed, n, span=12).round(), random_boxes(seed + 1, m, span=12).round()
    iou = box_iou(a, b)
    assert iou.shape == (n, m) and (iou >= 0).all() and (iou <= 1).all()
    assert_close(iou, box_iou(b, a).mT)
    centres = torch.arange(30, dtype=torch.float64) + .5
    inside = [((centres > box[:, None, 0]) & (centres < box[:, None, 2]))[:, None, :]
              & ((centres > box[:, None, 1]) & (centres < box[:, None, 3]))[:, :, None] for box in (a, b)]
    shared = (inside[0][:, None] & inside[1][None]).sum((-1, -2))
    either = (inside[0][:, None] | inside[1][None]).sum((-1, -2))
    assert_close(iou, shared / (either + 1e-9), check_dtype=False)


@given(seeds, st.floats(.01, 100), st.floats(-500, 500))
def test_iou_and_losses_ignore_place_and_size(seed, factor, shift):
    a, b = random_boxes(seed, 8), random_boxes(seed + 1, 8)
    moved = [box * factor + shift for box in (a, b)]
    assert_close(box_iou(*moved), box_iou(a, b), rtol=1e-6, atol=1e-6)
    for loss in (giou_loss, ciou_loss):
        assert_close(loss(*moved), loss(a, b), rtol=1e-5, atol=1e-6)


@given(seeds)
def test_losses_are_zero_at_the_target_and_bounded(seed):
    a, b = random_boxes(seed, 8) + torch.tensor([0, 0, 1, 1]), random_boxes(seed + 1, 8)
    for loss, most in ((giou_loss, 2), (ciou_loss, 3)):
        assert loss(a, a).abs().max() < 1e-9
        assert (loss(a, b) >= -1e-9).all() and (loss(a, b) <= most).all()
        assert (loss(a, b) >= 1 - box_iou(a, b, 1e-10).diagonal() - 1e-9).all()


@given(seeds)
def test_ciou_is_the_published_formula_bit_for_bit(seed):
    "The guard for flat boxes changes no other value."
    a, b = random_boxes(seed, 16, span=10.).float(), random_boxes(seed + 1, 16, span=10.).float()
    a[:, 2:] += .01
    b[:, 2:] += .01
    w, h = (b[:, 2:] - b[:, :2]).unbind(-1), (a[:, 2:] - a[:, :2]).unbind(-1)
    v = 4 / torch.pi**2 * (torch.atan(w[0] / w[1]) - torch.atan(h[0] / h[1])).square()
    intersection, union = overlap(a, b)
    iou = intersection / (union + 1e-10)
    alpha = v / (1 - iou + v).clamp(min=1e-10)
    distance = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(-1)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    expected = 1 - iou + distance / (hull[:, 0].square() + hull[:, 1].square() + 1e-10) + alpha * v
    assert torch.equal(ciou_loss(a, b), expected)


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
@pytest.mark.parametrize("flat", [[0, 0, 0, 0], [1, 1, 3, 1], [1, 1, 1, 3], [1, 1, 3, 1 + 1e-30], [3, 3, 1, 1]])
def test_degenerate_boxes_have_finite_gradients(loss, flat):
    flat, square = torch.tensor(flat, dtype=torch.float32), torch.tensor([0., 0, 2, 2])
    for pred, target in ((flat, square), (square, flat), (flat, flat)):
        pred = pred.clone().requires_grad_()
        value = loss(pred, target)
        assert value.isfinite() and torch.autograd.grad(value, pred)[0].isfinite().all()


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
def test_gradients_move_distant_boxes_together(loss):
    pred, target = torch.tensor([0., 0, 2, 2], requires_grad=True), torch.tensor([10., 0, 12, 2])
    gradient, = torch.autograd.grad(loss(pred, target), pred)
    assert gradient[[0, 2]].sum() < 0  # a step down the slope moves the box to the right


def test_ciou_weight_is_constant():
    pred = torch.tensor([0., 0, 3, 1], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0., 0, 1, 2], dtype=torch.float64)
    slope, = torch.autograd.grad(ciou_loss(pred, target), pred)
    step = 1e-6
    numeric = torch.stack([(ciou_loss(pred + step * e, target) - ciou_loss(pred - step * e, target)) / (2 * step)
                           for e in torch.eye(4, dtype=torch.float64)])
    assert (slope - numeric).abs().max() > 1e-3  # the numeric slope includes that of the weight, ours does not


@given(seeds, st.integers(1, 6), st.integers(1, 20))
def test_oks_laws(seed, people, k):
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(people, k, 2, generator=generator) * 100 for _ in range(2))
    visibility = torch.randint(0, 3, (people, k), generator=generator)
    area, sigmas = torch.rand(people, generator=generator) * 1e4 + 1, torch.rand(k, generator=generator) * .1 + .02
    value = oks(pred, target, visibility, area, sigmas)
    assert value.shape == (people,) and (value >= 0).all() and (value <= 1).all()
    assert_close(value, oks(target, pred, visibility > 0, area, sigmas))
    assert_close(oks(target, target, visibility, area, sigmas), (visibility > 0).any(1).float(), rtol=1e-6, atol=1e-6)
    assert_close(oks(pred * 3, target * 3, visibility, area * 9, sigmas), value, rtol=1e-4, atol=1e-5)
    junk = torch.where(visibility[..., None] > 0, pred, 1e4)
    assert_close(oks(junk, target, visibility, area, sigmas), value)
    shuffled = torch.randperm(k, generator=generator)
    assert_close(oks(pred[:, shuffled], target[:, shuffled], visibility[:, shuffled], area, sigmas[shuffled]), value)


def test_oks_is_the_formula_and_broadcasts():
    pred, target = torch.rand(1, 5, 3, 2, dtype=torch.float64) * 50, torch.rand(4, 1, 3, 2, dtype=torch.float64) * 50
    visible = torch.tensor([1, 0, 2]).expand(4, 1, 3)
    area, sigmas = torch.full((4, 1), 900., dtype=torch.float64), torch.tensor([.05, .06, .1], dtype=torch.float64)
    value = oks(pred, target, visible, area, sigmas)
    e = ((pred - target) ** 2).sum(-1) / (2 * sigmas) ** 2 / (area[..., None] + 1e-9) / 2
    assert value.shape == (4, 5)
    assert_close(value, (torch.exp(-e)[..., 0] + torch.exp(-e)[..., 2]) / (2 + 1e-9))
    assert_close(oks_from_distance(((pred - target) ** 2).sum(-1), visible, area, sigmas), value)
    assert_close(oks_area(torch.tensor([10., 20, 30, 60])), torch.tensor(.53 * 800))


@given(seeds)
def test_sides_and_boxes_are_inverse(seed):
    boxes = random_boxes(seed, 5, 7)
    points = random_boxes(seed + 1, 7)[:, :2]
    sides = boxes_to_sides(points.expand(5, 7, 2), boxes)
    assert_close(sides_to_boxes(points.expand(5, 7, 2), sides), boxes)
    inside = ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(-1)
    assert ((sides.amin(-1) > 0) == inside).all()


@pytest.mark.parametrize("height, width", [(64, 64), (96, 160), (640, 640), (32, 320)])
def test_grid_is_in_order(height, width):
    strides = (8, 16, 32)
    sizes = tuple((height // s, width // s) for s in strides)
    points, cells = grid_points(sizes, strides)
    expected = [((x + .5) * s, (y + .5) * s, s) for s, (h, w) in zip(strides, sizes) for y in range(h) for x in range(w)]
    assert_close(torch.cat((points, cells), 1), torch.tensor(expected, dtype=torch.float32))


def test_grid_is_kept_and_fit_for_training():
    sizes = ((5, 9),)
    with torch.inference_mode():
        first = grid_points(sizes, (8,))
    again = grid_points([list(sizes[0])], [8], torch.device("cpu"))
    assert first[0] is again[0] and first[1] is again[1]
    weight = torch.ones(2, requires_grad=True)
    (first[0] * weight).sum().backward()
    assert weight.grad.tolist() == again[0].sum(0).tolist()
    with pytest.raises(ValueError):
        make_grid(sizes, (8, 16))


class Grid(torch.nn.Module):
    def forward(self, images):
        h, w = images.shape[-2:]
        points, cells = grid_points(((h // 8, w // 8), (h // 16, w // 16), (h // 32, w // 32)), (8, 16, 32), images.device)
        return points + images.mean(), cells


@pytest.mark.parametrize("how", ["compile", "export", "export strict"])
def test_grid_is_traced(how):
    torch.compiler.reset()
    images, model = torch.rand(1, 3, 64, 96), Grid()
    if how == "compile":
        traced = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    else:
        auto = torch.export.Dim.AUTO
        traced = torch.export.export(model, (images,), dynamic_shapes={"images": {2: auto, 3: auto}},
                                     strict=how == "export strict").module()
    for other in (images, torch.rand(1, 3, 128, 160), torch.rand(1, 3, 320, 64)):
        for got, wanted in zip(traced(other), model(other)):
            assert_close(got, wanted)
