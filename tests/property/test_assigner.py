"Laws of the assignment and of the loss that stands on it."
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from yolo_nas_pose.core.geometry import box_iou, grid_points, oks, oks_area
from yolo_nas_pose.core.structures import RawPoses, Targets
from yolo_nas_pose.loss import assigner, pose_loss
from yolo_nas_pose.loss.assigner import assign, best_people, contested, find_candidates, pack, unpack
from yolo_nas_pose.loss.pose_loss import PoseLoss, assign_raw, expected_sides

settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("quick")

SIDE, JOINTS = 128, 5
SIGMAS = torch.tensor([.03, .05, .08, .1, .1])
POINTS, STRIDES = grid_points(tuple((SIDE // s, SIDE // s) for s in (8, 16, 32)), (8, 16, 32))
seeds = st.integers(0, 2**32 - 1)


def people(seed, images=3, count=6, unlabelled=.2, crowds=.2):
    "Targets with people of all sizes, in random images, in random order."
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(images, (count, 1), generator=rng).float()
    corner = torch.rand(count, 2, generator=rng) * SIDE * .7
    box = torch.cat((corner, corner + 6 + torch.rand(count, 2, generator=rng) * 80), 1)
    place = box[:, None, :2] + torch.rand(count, JOINTS, 2, generator=rng) * (box[:, 2:] - box[:, :2])[:, None]
    flags = (torch.rand(count, JOINTS, 1, generator=rng) < .8) * 2. * (torch.rand(count, 1, 1, generator=rng) > unlabelled)
    crowd = (torch.rand(count, 1, generator=rng) < crowds).float()
    return Targets(torch.cat((image, box), 1), torch.cat((image[:, None].expand(-1, JOINTS, 1), place, flags), 2),
                   torch.cat((image, crowd), 1))


def answers(seed, targets, images=3, wrong=.05):
    "Raw outputs in which every cell speaks, more or less well, of the nearest person of its image."
    rng = torch.Generator().manual_seed(seed + 1)
    normal = lambda *shape: torch.randn(images, len(POINTS), *shape, generator=rng)
    joints, bins = POINTS[:, None].expand(images, -1, JOINTS, 2) + 20 * normal(JOINTS, 2), 2 * normal(4, 17)
    for b in range(images):
        mine = (targets.boxes[:, 0] == b).nonzero().flatten()
        if len(mine):
            box = targets.boxes[mine, 1:]
            near = torch.cdist(POINTS, (box[:, :2] + box[:, 2:]) / 2).argmin(1)
            joints[b] = targets.joints[mine, :, 1:3][near] + wrong * 60 * normal(JOINTS, 2)[b]
            sides = torch.cat((POINTS - box[near, :2], box[near, 2:] - POINTS), 1) / STRIDES
            bins[b] -= (torch.arange(17) - sides[..., None].clamp(0, 16)).square() * 4
    return RawPoses(normal(1) - 1, bins.flatten(2), joints, normal(JOINTS), POINTS, STRIDES)


def made(seed, **options):
    targets = people(seed, **options)
    return answers(seed, targets), targets


def proposals(raw):
    sides = expected_sides(raw.box_bins) * raw.strides
    boxes = torch.cat((raw.points - sides[..., :2], raw.points + sides[..., 2:]), -1)
    return raw.cls_logits[..., 0].sigmoid(), boxes, raw.joints, raw.points


def numbers(parts):
    return torch.stack([part.detach().float() for part in parts])


def rows(targets, index):
    return Targets(*(part[index] for part in targets))


EVERY_WAY = [dict(), dict(ignore_unlabelled=True), dict(claimants_only=True), dict(ignore_unlabelled=True, claimants_only=True),
             dict(use_oks=False), dict(topk=3), dict(alpha=.5, beta=2.)]
CLASSIC = dict(topk=13, alpha=1., beta=6., use_oks=True)


def walk(raw, targets, topk, alpha, beta, use_oks, ignore_unlabelled=False, claimants_only=False):
    "The rules read aloud, image by image with loops: (B, A) target, (B, A) positive, (B, A) owner or -1."
    scores, boxes, joints, points = proposals(raw)
    target, owner = torch.zeros_like(scores), torch.full(scores.shape, -1)
    crowd, seen = targets.crowd[:, 1] > 0, targets.joints[..., 3] > 0
    for b in range(len(scores)):
        mine = [n for n in range(len(targets.boxes)) if targets.boxes[n, 0] == b]
        may = [n for n in mine if not ignore_unlabelled or (seen[n].any() and not crowd[n])]
        quality, wants = {}, {}
        for n in mine:
            box = targets.boxes[n, 1:]
            quality[n] = box_iou(box[None], boxes[b])[0]
            if use_oks:
                quality[n] = quality[n] * oks(joints[b], targets.joints[n, :, 1:3], seen[n], oks_area(box), SIGMAS)
            inside = ((points > box[:2]) & (points < box[2:])).all(1)
            align = scores[b]**alpha * quality[n]**beta * inside
            best = align.topk(topk).indices.tolist()
            wants[n] = [a for a in best if inside[a] and (not claimants_only or align[a] > 0)]
        for a in range(len(points)):
            claimants = [n for n in may if a in wants[n]]
            field = claimants if claimants_only or len(claimants) < 2 else may
            if claimants:
                owner[b, a] = max(field, key=lambda n: (float(quality[n][a]), -n))
        for n in may:
            held = (owner[b] == n).nonzero().flatten()
            if len(held) and not crowd[n]:
                align = scores[b, held]**alpha * quality[n][held]**beta
                target[b, held] = align / (align.max() + 1e-9) * quality[n][held].max()
    positive = (owner >= 0) & ~(crowd[owner.clamp(min=0)] if len(crowd) else torch.zeros_like(owner, dtype=torch.bool))
    return target, positive, owner


@pytest.mark.parametrize("way", EVERY_WAY, ids=str)
@given(seeds)
@settings(max_examples=30)
def test_the_assignment_is_the_rules_read_aloud(way, seed):
    "Except where fillers of zero alignment come in, whose choice among equals is free."
    raw, targets = made(seed, unlabelled=0 if not way.get("ignore_unlabelled") else .3)
    raw = raw._replace(joints=raw.joints.clamp(-50, 200))
    target, positive, owner = walk(raw, targets, **{**CLASSIC, **way})
    found = assign(*proposals(raw), targets, SIGMAS, **way)
    assert_close(found.targets, target, rtol=1e-4, atol=1e-6)
    strong = found.positive & (found.scores > 1e-6)
    mask = torch.zeros(target.numel(), dtype=torch.bool)
    mask[found.places[strong]] = True
    assert torch.equal(mask.view_as(positive), positive & (target > 1e-6))
    assert torch.equal(found.owners[strong], owner.flatten()[found.places[strong]])


@pytest.mark.parametrize("way", EVERY_WAY, ids=str)
@given(seeds)
@settings(max_examples=20)
def test_shapes_bounds_and_one_owner_each(way, seed):
    raw, targets = made(seed)
    found = assign(*proposals(raw), targets, SIGMAS, **way)
    claims = len(targets.boxes) * way.get("topk", 13)
    assert len(found.places) == len(found.owners) == len(found.scores) == len(found.positive) == claims
    assert len(set(found.places[found.positive].tolist())) == int(found.positive.sum())
    assert (found.scores >= 0).all() and (found.scores <= 1).all() and (found.scores[~found.positive] == 0).all()
    assert (targets.boxes[found.owners, 0] == found.places // len(POINTS))[found.positive].all()
    assert_close(found.targets.sum(), found.scores.sum())
    if way.get("claimants_only"):
        box = targets.boxes[found.owners, 1:]
        here = POINTS[found.places % len(POINTS)]
        assert ((here > box[:, :2]) & (here < box[:, 2:])).all(1)[found.positive].all()


@given(seeds)
@settings(max_examples=20)
def test_groups_of_people_do_not_change_the_result(seed):
    raw, targets = made(seed)
    whole = assign(*proposals(raw), targets, SIGMAS)
    usual, sizes = assigner.chunk_size, (7, 100, 10**6)
    for size in sizes:
        assigner.chunk_size = lambda *_: size
        try:
            parts = assign(*proposals(raw), targets, SIGMAS)
        finally:
            assigner.chunk_size = usual
        assert all(torch.equal(a, b) for a, b in zip(whole, parts)), size


@given(seeds, st.booleans(), st.booleans())
@settings(max_examples=20)
def test_order_of_people_does_not_matter(seed, ignore_unlabelled, claimants_only):
    raw, targets = made(seed, count=8)
    judge = PoseLoss(SIGMAS, ignore_unlabelled=ignore_unlabelled, claimants_only=claimants_only)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    assert_close(numbers(judge(raw, rows(targets, order)))[:6], numbers(judge(raw, targets))[:6], rtol=1e-5, atol=1e-6)


@given(seeds)
@settings(max_examples=20)
def test_images_do_not_see_each_other(seed):
    "A batch is its images: the same targets one by one, and with the images in another order."
    raw, targets = made(seed)
    whole = assign_raw(raw, targets, SIGMAS)
    for b in range(3):
        alone = rows(targets, targets.boxes[:, 0] == b)
        alone = Targets(*(part - b * torch.eye(1, part.shape[-1])[0] for part in alone))
        found = assign_raw(RawPoses(*(part[b:b + 1] for part in raw[:4]), *raw[4:]), alone, SIGMAS)
        assert_close(found.targets[0], whole.targets[b])


def test_score_sum_below_one_is_not_divided_by():
    "A hopeless network: all targets are tiny, and the parts are plain sums."
    targets = people(3, count=2, unlabelled=0, crowds=0)
    raw = answers(3, targets, wrong=1.)
    found = assign_raw(raw, targets, SIGMAS)
    assert 0 < found.targets.sum() < 1
    parts, score = PoseLoss(SIGMAS, cls_loss="bce")(raw, targets), raw.cls_logits[..., 0]
    plain = torch.nn.functional.binary_cross_entropy_with_logits(score, found.targets, reduction="sum")
    assert_close(parts.cls, plain)


@pytest.mark.parametrize("way", [dict(), dict(ignore_unlabelled=True, claimants_only=True)], ids=str)
def test_batch_without_people(way):
    raw = answers(0, people(0))
    raw = RawPoses(*(part.clone().requires_grad_() for part in raw[:4]), *raw[4:])
    nobody = Targets(torch.zeros(0, 5), torch.zeros(0, JOINTS, 4), torch.zeros(0, 2))
    parts = PoseLoss(SIGMAS, **way)(raw, nobody)
    parts.total.backward()
    assert parts.positives == 0 and numbers(parts)[1:5].eq(0).all() and parts.cls > 0
    assert all(part.grad is not None and part.grad.isfinite().all() for part in raw[:4])
    assert raw.cls_logits.grad.abs().sum() > 0


def test_image_without_people_is_all_background():
    targets = people(5)
    targets = rows(targets, targets.boxes[:, 0] != 1)
    found = assign_raw(answers(5, targets), targets, SIGMAS)
    assert len(targets.boxes) and (found.targets[1] == 0).all() and found.counted[1].all()
    assert not (found.places[found.positive] // len(POINTS) == 1).any()


def two_people(visible=2., crowd=0.):
    "Somebody normal at the left, and somebody special at the right, in one image."
    boxes = torch.tensor([[0., 4, 4, 60, 120], [0, 68, 4, 124, 120]])
    middle = (boxes[:, None, 1:3] + boxes[:, None, 3:]) / 2 + torch.arange(-2., 3)[:, None] * 5
    joints = torch.cat((torch.zeros(2, JOINTS, 1), middle, torch.full((2, JOINTS, 1), 2.)), 2)
    joints[1, :, 3] = visible
    return Targets(boxes, joints, torch.tensor([[0., 0], [0, crowd]]))


@pytest.mark.parametrize("special", [dict(visible=0.), dict(crowd=1.)], ids=str)
def test_people_who_teach_nothing(special):
    "By default they are background; with ignore_unlabelled their cells are left alone, and the others stay as they are."
    targets = two_people(**special)
    raw = answers(1, targets, images=1)
    inside = (POINTS[:, 0] > 68) & (POINTS[:, 0] < 124) & (POINTS[:, 1] > 4) & (POINTS[:, 1] < 120)
    plain, lenient = (assign_raw(raw, targets, SIGMAS, ignore_unlabelled=flag) for flag in (False, True))
    for found in (plain, lenient):
        assert (found.targets[0, inside] == 0).all() and found.targets[0, ~inside].sum() > 0
        assert not (found.scores[found.owners == 1] > 0).any()
    assert plain.counted.all()
    assert torch.equal(lenient.counted[0], ~inside)
    assert not lenient.positive[lenient.owners == 1].any()
    assert_close(lenient.targets, plain.targets)
    strict, kind = (PoseLoss(SIGMAS, ignore_unlabelled=flag)(raw, targets) for flag in (False, True))
    assert kind.cls < strict.cls
    assert_close(numbers(kind)[1:5], numbers(strict)[1:5])


def test_a_lenient_cell_that_answers_for_somebody_else_is_still_taught():
    targets = two_people(visible=0.)
    targets.boxes[1, 1:] = targets.boxes[0, 1:]
    found = assign_raw(answers(1, targets, images=1), targets, SIGMAS, ignore_unlabelled=True)
    places = found.places[found.positive]
    assert len(places) == 13 and found.counted[0, places].all() and found.counted.sum() < found.counted.numel()
    assert (found.owners[found.positive] == 0).all()


def test_crowds_keep_their_cells_from_others_only_by_default():
    "A crowd on top of a person: the reference gives the crowd what it fits better, the repair gives all to the person."
    targets = two_people(crowd=1.)
    targets.boxes[1, 1:] = targets.boxes[0, 1:]
    targets.joints[1] = targets.joints[0]
    raw = answers(1, targets, images=1)
    swapped = rows(targets, [1, 0])
    plain, lenient = (assign_raw(raw, swapped, SIGMAS, ignore_unlabelled=flag) for flag in (False, True))
    assert plain.positive.sum() == 0 and plain.targets.sum() == 0
    assert lenient.positive.sum() == 13 and (lenient.owners[lenient.positive] == 1).all()


def test_who_teaches_nothing_wins_no_conflict():
    "Two people want the same cells, and a crowd there would fit them better than both."
    targets = two_people()
    targets.boxes[:, 1:] = torch.tensor([4., 4, 60, 110])
    targets.joints[1] = targets.joints[0]
    crowd = Targets(torch.tensor([[0., 4, 4, 60, 120]]), targets.joints[:1], torch.tensor([[0., 1]]))
    three = Targets(*(torch.cat(pair) for pair in zip(targets, crowd)))
    raw = answers(1, crowd, images=1)
    plain, lenient = (assign_raw(raw, three, SIGMAS, ignore_unlabelled=flag) for flag in (False, True))
    assert not plain.positive.any()
    assert lenient.positive.sum() == 13 and (lenient.owners[lenient.positive] == 0).all()


def test_fillers_are_no_positives_among_claimants():
    "Nobody has a joint anywhere near: all alignments are exactly zero."
    targets = two_people()
    raw = answers(1, targets, images=1)
    raw = raw._replace(joints=raw.joints + 1e4)
    plain, strict = (assign_raw(raw, targets, SIGMAS, topk=len(POINTS), claimants_only=flag) for flag in (False, True))
    inside = sum(((POINTS > box[:2]) & (POINTS < box[2:])).all(1).sum() for box in targets.boxes[:, 1:])
    assert plain.positive.sum() == inside and (plain.scores == 0).all()
    assert strict.positive.sum() == 0


def test_no_repair_changes_a_batch_that_needs_none():
    targets = two_people()
    raw = answers(1, targets, images=1)
    plain = assign_raw(raw, targets, SIGMAS)
    for way in EVERY_WAY[1:4]:
        for a, b in zip(plain, assign_raw(raw, targets, SIGMAS, **way)):
            assert_close(a, b)


@given(seeds)
@settings(max_examples=20)
def test_an_added_bystander_changes_nobody(seed):
    "Somebody without labels in a batch with ignore_unlabelled: the parts about boxes and joints stay the same."
    raw, targets = made(seed, unlabelled=0, crowds=0)
    extra = rows(people(seed + 1, unlabelled=1), [0])
    more = Targets(*(torch.cat(pair) for pair in zip(targets, extra)))
    judge = PoseLoss(SIGMAS, ignore_unlabelled=True, claimants_only=True)
    assert_close(numbers(judge(raw, more))[1:5], numbers(judge(raw, targets))[1:5])


@pytest.mark.parametrize("kind", ["ciou", "giou"])
@pytest.mark.parametrize("flat", ["label", "answer", "both"])
def test_boxes_without_height_have_finite_gradients(kind, flat):
    targets = two_people()
    raw = answers(1, targets, images=1)
    if flat in ("label", "both"):
        targets.boxes[1, 4] = targets.boxes[1, 2]
    if flat in ("answer", "both"):
        bins = raw.box_bins.unflatten(-1, (4, 17)).clone()
        bins[:, :, [1, 3]] = torch.tensor([200.] + 16 * [-200.])
        raw = raw._replace(box_bins=bins.flatten(2))
    raw = RawPoses(*(part.clone().requires_grad_() for part in raw[:4]), *raw[4:])
    parts = PoseLoss(SIGMAS, iou_loss=kind, assign_by_oks=False)(raw, targets)
    parts.total.backward()
    assert numbers(parts).isfinite().all()
    assert all(part.grad.isfinite().all() for part in raw[:4])


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_computed_in_float32(autocast):
    "Rounding the inputs is all that half precision may cost; the computation itself is the same to the last bit."
    raw, targets = made(7)
    half = RawPoses(*(part.bfloat16() for part in raw))
    rounded = RawPoses(*(part.float() for part in half))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        parts = PoseLoss(SIGMAS)(half, targets)
    assert {part.dtype for part in parts[:6]} == {torch.float32}
    assert torch.equal(numbers(parts), numbers(PoseLoss(SIGMAS)(rounded, targets)))


def test_the_assignment_has_no_gradient():
    raw, targets = made(2)
    raw = RawPoses(*(part.requires_grad_() for part in raw[:4]), *raw[4:])
    found = assign_raw(raw, targets, SIGMAS)
    assert not any(part.requires_grad for part in found)


@given(seeds)
def test_packed_keys_are_ordered_and_come_back(seed):
    rng = torch.Generator().manual_seed(seed)
    quality = torch.rand(50, generator=rng)
    quality[::7] = 0
    quality[1::7] = quality[2]
    person = torch.randint(2**20, (50,), generator=rng)
    keys = pack(quality, person)
    assert torch.equal(unpack(keys), person)
    wanted = sorted(range(50), key=lambda i: (-float(quality[i]), int(person[i])))
    assert torch.equal(keys.sort(descending=True).values, keys[wanted])


@given(seeds)
@settings(max_examples=20)
def test_candidates_have_the_quality_of_the_plain_formula(seed):
    raw, targets = made(seed)
    scores, boxes, joints, points = proposals(raw)
    found = find_candidates(scores, boxes, joints, points, targets, SIGMAS)
    image = targets.boxes[:, 0].long()
    plain = oks(joints[image], targets.joints[:, None, :, 1:3], targets.joints[:, None, :, 3], oks_area(targets.boxes[:, None, 1:]), SIGMAS)
    plain = plain * box_iou(targets.boxes[:, None, 1:], boxes[image])[:, 0]
    wanted = found.inside.gather(1, found.anchors)
    asked = found.inside | contested(image, found.anchors, wanted, scores.shape)[image]
    assert_close(found.quality, plain * asked, rtol=1e-4, atol=1e-6)
    everywhere = torch.ones_like(found.inside)
    winners = best_people(plain, image, everywhere, 3).view(3, -1)
    for b in set(image.tolist()):
        mine = (image == b).nonzero().flatten()
        assert torch.equal(winners[b], mine[plain[mine].argmax(0)])


@pytest.mark.parametrize("way", EVERY_WAY, ids=str)
@given(seeds)
@settings(max_examples=10)
def test_all_pairs_and_some_pairs_give_one_assignment(way, seed):
    "What a GPU computes, who must not wait for the length of a list, and what a CPU computes."
    raw, targets = made(seed)
    some = assign_raw(raw, targets, SIGMAS, **way)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assigner, "pairs", assigner.all_pairs)
        patch.setattr(pose_loss, "pairs", assigner.all_pairs)
        patch.setattr(assigner, "chunk_size", lambda device: 700)
        every = assign_raw(raw, targets, SIGMAS, **way)
    for a, b in zip(some, every):
        assert_close(a, b)


@given(seeds, st.floats(0, 1))
@settings(max_examples=10)
def test_pairs_cover_a_mask(seed, share):
    mask = torch.rand(7, 50, generator=torch.Generator().manual_seed(seed)) < share
    some, every = torch.zeros_like(mask), torch.zeros_like(mask)
    for row, column in assigner.some_pairs(mask):
        some[row, column] = True
    for row, column in assigner.all_pairs(mask):
        every[row, column] = True
    assert torch.equal(some, mask) and every.all()


def test_nobody_looks_at_the_boxes_of_cells_outside_all_boxes():
    "NaN there changes nothing, and people's labels that nobody has seen may be NaN too."
    targets = two_people()
    targets.joints[0, 0, 1:] = torch.tensor([torch.nan, torch.nan, 0])
    raw = answers(1, two_people(), images=1)
    clean = assign_raw(raw, targets, SIGMAS)
    box = targets.boxes[:, None, 1:]
    outside = ~((box[..., :2] < POINTS) & (POINTS < box[..., 2:])).all(-1).any(0)
    dirty = raw._replace(box_bins=raw.box_bins.masked_fill(outside[:, None], torch.nan), joints=raw.joints.masked_fill(outside[:, None, None], torch.nan))
    assert clean.positive.sum() == 26 and clean.scores.isfinite().all()
    for a, b in zip(clean, assign_raw(dirty, targets, SIGMAS)):
        assert torch.equal(a, b)


MEMORY = """
import re, resource, sys, time, torch
from pathlib import Path
from yolo_nas_pose.core.geometry import grid_points
from yolo_nas_pose.core.structures import Targets
from yolo_nas_pose.loss.assigner import assign
images, count, joints = 48, 40, 17
points, _ = grid_points(((80, 80), (40, 40), (20, 20)), (8, 16, 32))
rng = torch.Generator().manual_seed(0)
corner = torch.rand(images * count, 2, generator=rng) * 500
box = torch.cat((corner, corner + 20 + 120 * torch.rand(images * count, 2, generator=rng)), 1)
image = torch.arange(images).repeat_interleave(count)[:, None].float()
place = torch.rand(images * count, joints, 2, generator=rng) * (box[:, 2:] - box[:, :2])[:, None] + box[:, None, :2]
targets = Targets(torch.cat((image, box), 1), torch.cat((image[:, None].expand(-1, joints, 1), place, torch.ones_like(place[..., :1])), 2),
                  torch.cat((image, image * 0), 1))
scores = torch.rand(images, len(points), generator=rng)
boxes = torch.cat((points - 40, points + 40), 1).expand(images, -1, 4).contiguous()
said = (points[:, None] + 20 * torch.randn(len(points), joints, 2, generator=rng)).expand(images, -1, joints, 2).contiguous()
small = Targets(*(part[:2] for part in targets))
assign(scores[:1], boxes[:1], said[:1], points, small, torch.full((joints,), .08))
def peak():
    "Bytes. What getrusage says on Linux is inherited from the parent process, so the kernel's own note goes first."
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())):
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


before, begin = peak(), time.perf_counter()
found = assign(scores, boxes, said, points, targets, torch.full((joints,), .08))
print((peak() - before) / 1e9, time.perf_counter() - begin, int(found.positive.sum()))
"""


def test_a_full_batch_of_crowds_stays_below_two_gigabytes():
    "48 images of 640 px with 40 people each: beyond what the process had before, at its worst moment."
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gigabytes, seconds, positives = map(float, done.stdout.split())
    print(f"{gigabytes:.2f} GB, {seconds:.1f} s")
    assert positives > 1000
    assert gigabytes < 2
