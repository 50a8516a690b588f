"Laws of the observers: nothing is lost, and each search finds what trying everything finds."
import math

import numpy as np
import pytest
import torch

from yolo_nas_pose.deploy.observers import METHODS, Histogram, divergence, entropy_range, find_range, mse_range, percentile_range, rounded


def watched(values, bins=2048):
    watch = Histogram(bins)
    for part in values.split(1000):
        watch.update(part)
    return watch


def naive_divergence(counts, keep, levels):
    "Bin by bin, with plain numbers."
    p = [float(count) for count in counts[:keep]]
    q = [0.] * keep
    for level in range(levels):
        members = [k for k in range(keep) if k * levels // keep == level]
        filled = [k for k in members if counts[k] > 0]
        for k in filled:
            q[k] = sum(float(counts[m]) for m in members) / len(filled)
    p[-1] += float(sum(counts[keep:]))
    total = sum(p), sum(q)
    found = 0.
    for a, b in zip(p, q):
        if a > 0:
            if b == 0:
                return math.inf
            found += a / total[0] * math.log((a / total[0]) / (b / total[1]))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_entropy_finds_what_trying_everything_finds(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, 96) * (rng.random(96) < .8) * np.exp(-np.arange(96) / rng.uniform(5, 40))
    counts = np.floor(counts)
    counts[40 + 9 * seed:] *= rng.random(len(counts[40 + 9 * seed:])) < .2
    counts[5] = 1
    for keep in (16, 17, 50, 96):
        assert divergence(counts, keep, 15) == pytest.approx(naive_divergence(counts, keep, 15), abs=1e-12)
    watch = Histogram(96)
    watch.counts, watch.top, watch.high = torch.from_numpy(counts), 96., 96.
    first = counts.copy()
    first[0] = 0
    last = np.flatnonzero(first)[-1] + 1
    tried = {keep: naive_divergence(first, keep, 15) for keep in range(16, last + 1)}
    chosen = entropy_range(watch, 15, step=1)
    assert tried[round(chosen)] == pytest.approx(min(tried.values()))


@pytest.mark.parametrize("levels", [15, 127])
def test_squared_error_finds_what_trying_everything_finds(levels):
    values = torch.cat([torch.randn(20_000, generator=torch.manual_seed(1)).abs(), torch.full((3,), 12.)])
    tops = np.linspace(.6, 12, 200)
    errors = [float(((rounded(values.numpy(), top, levels) - values.numpy())**2).mean()) for top in tops]
    mine = mse_range(watched(values), levels)
    error = float(((rounded(values.numpy(), mine, levels) - values.numpy())**2).mean())
    assert error <= min(errors) * 1.02


def test_a_growing_histogram_loses_nothing():
    values = torch.randn(10_000, generator=torch.manual_seed(0)) * torch.linspace(.01, 8, 10_000)
    watch = watched(values)
    assert watch.counts.sum() == 10_000 and watch.peak == pytest.approx(float(values.abs().max()))
    edges = torch.linspace(0, watch.top, 2049)
    plain = torch.histogram(values.abs(), edges).hist
    assert (watch.counts - plain).abs().sum() <= 20  # values on an edge may fall to either side


@pytest.mark.parametrize("percent", [50., 99., 99.9])
def test_percentile_is_that_of_numpy(percent):
    values = torch.rand(50_000, generator=torch.manual_seed(2))
    assert percentile_range(watched(values), percent=percent) == pytest.approx(np.percentile(values.numpy(), percent), abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_no_range_is_wider_than_what_was_seen_or_nothing(method):
    for values in (torch.zeros(100), torch.full((100,), 1e-3), torch.randn(5000, generator=torch.manual_seed(3)) ** 3):
        found = find_range(watched(values), method, signed=True)
        assert 0 < found <= max(float(values.abs().max()), 1e-6) * 1.0001


def test_broken_values_and_names_are_told():
    with pytest.raises(ValueError, match="not finite"):
        Histogram().update(torch.tensor([1., math.nan]))
    with pytest.raises(ValueError, match="minmax, percentile, entropy, mse"):
        find_range(watched(torch.rand(10)), "best", False)
