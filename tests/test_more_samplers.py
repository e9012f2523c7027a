"""Effective-number, progressively-balanced and class-aware sampling: class frequencies, cycles, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltaug import ClassPowerSampler, PairSampler, class_counts
from ltaug.samplers import ClassAwareSampler, DeferredSampler, EffectiveNumberSampler, ProgressivelyBalancedSampler

stats = pytest.importorskip("scipy.stats")

COUNTS = [400, 120, 30, 0, 4, 1]
LABELS = torch.from_numpy(np.random.default_rng(1).permutation(np.repeat(np.arange(6), COUNTS)))
PRESENT = [n for n in COUNTS if n]


def p_value(indices: torch.Tensor, weights: list[float]) -> float:
    """Chi-square of drawn classes against class weights; the empty class must not be drawn."""
    observed = class_counts(LABELS[indices], 6)
    assert observed[3] == 0
    expected = np.array(weights) / sum(weights) * len(indices)
    return float(stats.chisquare(observed[observed.new_tensor(COUNTS) > 0].numpy(), expected).pvalue)


class TestEffectiveNumber:
    @pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.9999])
    def test_samples_weigh_as_their_class_says(self, beta: float) -> None:
        indices = EffectiveNumberSampler(LABELS, beta, num_samples=100_000, seed=1).indices()
        assert p_value(indices, [n * (1 - beta) / (1 - beta**n) for n in PRESENT]) > 1e-4
        assert p_value(indices, [n**0.5 for n in PRESENT]) < 1e-4

    def test_the_ends_are_instance_and_class_balance(self) -> None:
        assert p_value(EffectiveNumberSampler(LABELS, 0.0, num_samples=50_000).indices(), PRESENT) > 1e-4
        assert p_value(EffectiveNumberSampler(LABELS, 1 - 1e-9, num_samples=50_000).indices(), [1] * 5) > 1e-4


class TestProgressivelyBalanced:
    @pytest.mark.parametrize("epoch", [0, 3, 10, 12])
    def test_classes_move_from_their_frequency_to_balance(self, epoch: int) -> None:
        sampler = ProgressivelyBalancedSampler(LABELS, total_epochs=10, num_samples=100_000, seed=2)
        sampler.set_epoch(epoch)
        t = min(epoch / 10, 1.0)
        assert p_value(sampler.indices(), [(1 - t) * n / sum(COUNTS) + t / 5 for n in PRESENT]) > 1e-4

    def test_bad_epochs_are_named(self) -> None:
        with pytest.raises(ValueError, match="`total_epochs` must be at least 1, but is 0"):
            ProgressivelyBalancedSampler(LABELS, total_epochs=0)


class TestClassAware:
    @pytest.mark.parametrize("k", [1, 4])
    @pytest.mark.parametrize("num_samples", [20, 555, 4001])
    def test_classes_and_members_come_in_cycles(self, k: int, num_samples: int) -> None:
        indices = ClassAwareSampler(LABELS, k, num_samples=num_samples, seed=3).indices()
        assert len(indices) == num_samples
        drawn = LABELS[indices].tolist()
        visits = [drawn[i : i + k] for i in range(0, num_samples, k)]
        assert all(len(set(visit)) == 1 for visit in visits)  # k of a class in a row
        for start in range(0, len(visits) - 4, 5):  # each class once before any comes again
            assert len({visit[0] for visit in visits[start : start + 5]}) == 5
        for c, n in enumerate(COUNTS):  # each member once before any comes again
            members = indices[LABELS[indices] == c].tolist()
            for start in range(0, len(members) - n + 1, n or 1):
                if n:
                    assert len(set(members[start : start + n])) == n

    def test_the_order_inside_differs_from_cycle_to_cycle(self) -> None:
        indices = ClassAwareSampler(LABELS, 4, num_samples=4000).indices()
        medium = indices[LABELS[indices] == 2]
        assert medium[:30].tolist() != medium[30:60].tolist()
        order = LABELS[indices][::4][:50].view(10, 5)
        assert len({tuple(row) for row in order.tolist()}) > 5

    def test_it_is_balanced_without_chance(self) -> None:
        counts = class_counts(LABELS[ClassAwareSampler(LABELS, num_samples=2000).indices()], 6)
        assert counts.tolist() == [400, 400, 400, 0, 400, 400]
        random = class_counts(LABELS[ClassPowerSampler(LABELS, 0.0, num_samples=2000).indices()], 6)
        assert random.tolist() != counts.tolist()

    def test_a_bad_length_of_a_visit_is_named(self) -> None:
        with pytest.raises(ValueError, match="`samples_per_class` must be at least 1, but is 0"):
            ClassAwareSampler(LABELS, 0)


class TestDeferred:
    def deferred(self, seed: int = 3) -> DeferredSampler:
        plain = ClassPowerSampler(LABELS, 1.0, replacement=False, seed=seed)
        return DeferredSampler(plain, ClassPowerSampler(LABELS, 0.0, seed=seed), epoch=4)

    @pytest.mark.parametrize("epoch", [0, 3, 4, 9])
    def test_is_the_one_or_the_other(self, epoch: int) -> None:
        sampler = self.deferred()
        sampler.set_epoch(epoch)
        chosen = sampler.first if epoch < 4 else sampler.then
        chosen.set_epoch(epoch)
        assert torch.equal(sampler.indices(), chosen.indices())

    def test_a_pair_of_them_has_two_streams(self) -> None:
        sampler = self.deferred()
        pairs = PairSampler(sampler, sampler)
        for epoch in (0, 4):
            pairs.set_epoch(epoch)
            first, second = pairs.indices().T
            assert not torch.equal(first, second)
            sampler.set_epoch(epoch)
            assert torch.equal(first, sampler.indices())

    def test_the_given_samplers_keep_their_epoch(self) -> None:
        sampler = self.deferred()
        sampler.set_epoch(7)
        sampler.indices()
        assert (sampler.then.epoch, sampler.then.stream) == (0, 0)

    def test_bad_input_is_named(self) -> None:
        plain = ClassPowerSampler(LABELS, 1.0)
        with pytest.raises(ValueError, match="`then` must be a sampler of this library, but is a RandomSampler"):
            DeferredSampler(plain, torch.utils.data.RandomSampler(LABELS), 4)
        with pytest.raises(ValueError, match="equally many indices, but have 555 and 7"):
            DeferredSampler(plain, ClassPowerSampler(LABELS, num_samples=7), 4)
        with pytest.raises(ValueError, match="`epoch` must not be negative"):
            DeferredSampler(plain, plain, -1)


def test_over_and_under_sampling_are_settings_of_the_power_sampler() -> None:
    over = class_counts(LABELS[ClassPowerSampler(LABELS, num_samples=5 * max(PRESENT)).indices()], 6)
    under = class_counts(LABELS[ClassPowerSampler(LABELS, num_samples=5 * 4 * min(PRESENT)).indices()], 6)
    for counts, total in ((over, 2000), (under, 20)):
        assert counts.sum() == total
        assert stats.chisquare(counts[[0, 1, 2, 4, 5]].numpy()).pvalue > 1e-4
