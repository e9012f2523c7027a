"""Repeat factor sampling: the factors in plain Python, and what is drawn by them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ltaug import ClassPowerSampler, DeferredSampler, PairSampler, RepeatFactorSampler
from ltaug.testing import check_sampler

LISTS = [[0]] * 60 + [[0, 1]] * 30 + [[2, 0]] * 7 + [[2, 1]] * 2 + [[]]


def counts_of(sampler: RepeatFactorSampler, epochs: int) -> Tensor:
    """How often each sample comes, [epochs, N]."""
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(sampler.indices().bincount(minlength=len(sampler.repeat_factors)))
    return torch.stack(found)


@given(st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=40), st.floats(1e-3, 1.0))
def test_factors_are_the_formula(sets: list[set[int]], threshold: float) -> None:
    share = [sum(k in each for each in sets) / len(sets) for k in range(5)]
    by_label = [max(1.0, math.sqrt(threshold / f)) if f else math.nan for f in share]
    expected = [max((by_label[k] for k in each), default=1.0) for each in sets]
    sampler = RepeatFactorSampler([sorted(each) for each in sets], threshold, num_labels=5)
    assert sampler.repeat_factors.tolist() == pytest.approx(expected, rel=1e-12)
    assert len(sampler) == math.ceil(sum(expected) - 1e-9)


def test_every_sample_comes_its_factor_rounded_down_or_up_and_on_average_that() -> None:
    sampler = RepeatFactorSampler(LISTS, threshold=0.5)
    r = sampler.repeat_factors
    assert r[97].item() == pytest.approx(math.sqrt(0.5 / 0.09))
    counts = counts_of(sampler, 2000)
    assert bool((counts.sum(1) == len(sampler)).all())
    # scaled by less than 1 / N, to a whole sum
    assert bool((counts >= r.floor()).all())
    assert bool((counts <= (r * len(sampler) / r.sum()).ceil()).all())
    error = counts.double().mean(0) - r * len(sampler) / r.sum()
    spread = ((r - r.floor()) * (1 - (r - r.floor())) / 2000).sqrt()
    assert float((error.abs() / spread.clamp(min=0.005)).max()) < 4.0


def test_samples_are_rounded_in_all_combinations() -> None:
    # sqrt(0.5 / 0.3) - 1 = 0.29 of 30 samples: neighbours in the set must not take turns
    counts = counts_of(RepeatFactorSampler([[0]] * 70 + [[1]] * 30, threshold=0.5, num_labels=2), 1000)
    first, second = counts[:, 70] - 1, counts[:, 71] - 1
    share = 0.291
    both = (first * second).double().mean().item()
    assert both == pytest.approx(share**2, abs=0.035)


def test_order_is_shuffled() -> None:
    drawn = RepeatFactorSampler(LISTS, threshold=0.5).indices()
    half = (drawn[: len(drawn) // 2] >= 90).sum() / (drawn >= 90).sum()
    assert 0.2 < half.item() < 0.8


@pytest.mark.parametrize("size", [30, 100, 1000])
def test_another_length_scales_the_factors(size: int) -> None:
    sampler = RepeatFactorSampler(LISTS, threshold=0.5, num_samples=size)
    counts = counts_of(sampler, 1000)
    assert bool((counts.sum(1) == size).all())
    expected = sampler.repeat_factors * size / sampler.repeat_factors.sum()
    torch.testing.assert_close(counts.double().mean(0), expected, rtol=0.15, atol=0.02)


def test_a_low_threshold_is_the_shuffled_epoch() -> None:
    sampler = RepeatFactorSampler(LISTS, threshold=0.01)
    assert sampler.indices().sort().values.tolist() == list(range(100))


def test_blocks_are_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = RepeatFactorSampler(LISTS, threshold=0.5)
    sampler.set_epoch(3)
    whole = sampler.indices().tolist()
    monkeypatch.setattr(RepeatFactorSampler, "_block_size", 16)
    assert [len(block) for block in sampler.blocks()][:2] == [16, 16]
    assert torch.cat(list(sampler.blocks())).tolist() == whole
    sampler.set_epoch(3)
    assert list(sampler) == whole
    sampler.set_epoch(4)
    assert list(sampler) != whole


def test_keeps_the_contract_of_samplers() -> None:
    def rows(labels: Tensor, seed: int = 0) -> RepeatFactorSampler:
        return RepeatFactorSampler(F.one_hot(labels, int(labels.max()) + 1), threshold=0.3, seed=seed)

    check_sampler(rows)
    check_sampler(rows, labels=torch.tensor([0] * 50 + [1] * 5 + [4] * 2))


def test_inside_pairs_and_deferred() -> None:
    plain = ClassPowerSampler([0] * 100, tau=1, replacement=False)
    repeated = RepeatFactorSampler(LISTS, 0.5, num_samples=100)
    deferred = DeferredSampler(plain, repeated, epoch=2)
    deferred.set_epoch(2)
    assert len(set(deferred.indices().tolist())) < 100
    first, second = PairSampler(repeated, RepeatFactorSampler(LISTS, 0.5, num_samples=100)).indices().T
    assert not torch.equal(first, second)


def test_on_another_device(device: torch.device) -> None:
    rows = F.one_hot(torch.tensor([0] * 9 + [1]), 2).to(device)
    assert RepeatFactorSampler(rows, 0.5).repeat_factors.device.type == "cpu"


@pytest.mark.parametrize(
    ("targets", "threshold", "message"),
    [
        (LISTS, 0.0, r"`threshold` .*in \(0, 1\], but is 0\.0"),
        (LISTS, 1.5, r"`threshold` .*but is 1\.5"),
        ([], 0.5, r"`targets` must hold at least one sample"),
        (torch.tensor([0, 1]), 0.5, r"`targets` must be multi-hot rows"),
        ([[0, 1], [1, 0]], 0.5, r"`targets` are lists of 2 numbers each, .*`torch\.tensor\(targets\)`"),
    ],
)
def test_errors(targets: Any, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepeatFactorSampler(targets, threshold)
