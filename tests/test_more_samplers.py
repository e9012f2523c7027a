"""Effective-number, progressively-balanced and class-aware sampling; long epochs in blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler, SequentialSampler

from ltaug import ClassPowerSampler, PairSampler, class_counts
from ltaug.samplers import ClassAwareSampler, DeferredSampler, EffectiveNumberSampler, ProgressivelyBalancedSampler
from ltaug.samplers._base import EpochSampler, _sorted_by_class
from ltaug.samplers._shuffle import mix, shuffled
from ltaug.testing import check_sampler

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


@pytest.fixture(params=[2**22, 66], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of drawing cycles: an epoch at once, and a block at a time; 66 is no multiple of a visit."""
    monkeypatch.setattr(EpochSampler, "_block_size", request.param)


@pytest.mark.usefixtures("blocks")
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

    def test_every_class_and_member_may_come_first(self) -> None:
        indices = ClassAwareSampler(LABELS, 4, num_samples=40_000, seed=8).indices()
        first = LABELS[indices][::20]  # of every cycle of classes
        assert stats.chisquare(torch.bincount(first)[[0, 1, 2, 4, 5]].numpy()).pvalue > 1e-4
        members = indices[LABELS[indices] == 4].view(-1, 4)  # 2000 cycles of the class of four
        assert torch.equal(members.sort(1).values.unique(dim=0), (LABELS == 4).nonzero().T)
        orders = members.unique(dim=0, return_counts=True)[1]
        assert stats.chisquare(orders.numpy()).pvalue > 1e-4
        assert len(orders) == 24

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


KINDS: dict[str, Callable[..., Any]] = {
    "power": partial(ClassPowerSampler, tau=-0.5),
    "balanced": ClassPowerSampler,
    "plain": partial(ClassPowerSampler, tau=1.0),
    "shuffled": partial(ClassPowerSampler, tau=1.0, replacement=False),
    "effective number": partial(EffectiveNumberSampler, beta=0.99),
    "progressively balanced": partial(ProgressivelyBalancedSampler, total_epochs=10),
    "class aware": ClassAwareSampler,
    "deferred": lambda labels, **options: DeferredSampler(
        ClassPowerSampler(labels, 1.0, replacement=False, **options), ClassAwareSampler(labels, **options), epoch=2
    ),
}
PAIRS: dict[str, Callable[..., PairSampler]] = {
    "pairs": lambda labels, **options: PairSampler(
        ClassPowerSampler(labels, 1.0, replacement=False, **options), ClassAwareSampler(labels, **options)
    ),
    "pairs of different classes": lambda labels, **options: PairSampler(
        ClassPowerSampler(labels, 1.0, replacement=False, **options),
        KINDS["deferred"](labels, **options),
        different_classes=labels,
    ),
}


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks so small that the epochs of these tests have many; the size divides nothing here."""
    monkeypatch.setattr(EpochSampler, "_block_size", 66)
    return 66


class TestBlocks:
    @pytest.mark.parametrize("kind", KINDS | PAIRS)
    def test_blocks_are_the_epoch(self, block: int, kind: str) -> None:
        sampler = (KINDS | PAIRS)[kind](LABELS, seed=5)
        sampler.set_epoch(1)
        blocks = list(sampler.blocks())
        assert [len(each) for each in blocks] == [66] * 8 + [27]
        assert torch.equal(torch.cat(blocks), sampler.indices())
        parts = [tuple(index) if isinstance(index, list) else index for index in sampler.indices().tolist()]
        assert list(sampler) == parts
        # No generator serves two blocks.
        assert len({tuple(each.flatten().tolist()) for each in blocks}) == 9

    @pytest.mark.parametrize("kind", KINDS | PAIRS)
    def test_the_contract_holds_across_blocks(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        monkeypatch.setattr(EpochSampler, "_block_size", 16)
        check_sampler((KINDS | PAIRS)[kind])

    @pytest.mark.parametrize("kind", ["power", "balanced", "plain", "effective number", "progressively balanced"])
    def test_the_first_block_is_an_epoch_of_its_length(self, block: int, kind: str) -> None:
        first = next(KINDS[kind](LABELS, seed=5).blocks())
        assert torch.equal(first, KINDS[kind](LABELS, num_samples=block, seed=5).indices())

    @pytest.mark.parametrize("tau", [1.0, 0.5, 0.0, -1.0])
    def test_many_blocks_follow_the_law_of_one(self, block: int, tau: float) -> None:
        indices = ClassPowerSampler(LABELS, tau, num_samples=66_000, seed=1).indices()
        assert p_value(indices, [n**tau for n in PRESENT]) > 1e-4
        members = torch.bincount(indices, minlength=555)[LABELS == 1]
        assert stats.chisquare(members.numpy()).pvalue > 1e-4
        # What stands in one place of two blocks in a row is independent.
        classes = torch.unique(LABELS[indices], return_inverse=True)[1].view(1000, 66)
        joint = torch.bincount((classes[:-1] * 5 + classes[1:]).flatten(), minlength=25).view(5, 5)
        assert stats.chi2_contingency(joint[:3, :3].numpy()).pvalue > 1e-4

    def test_other_samplers_follow_their_laws_too(self, block: int) -> None:
        indices = EffectiveNumberSampler(LABELS, 0.99, num_samples=66_000, seed=1).indices()
        assert p_value(indices, [n * 0.01 / (1 - 0.99**n) for n in PRESENT]) > 1e-4
        sampler = ProgressivelyBalancedSampler(LABELS, total_epochs=10, num_samples=66_000, seed=2)
        sampler.set_epoch(3)
        assert p_value(sampler.indices(), [0.7 * n / 555 + 0.3 / 5 for n in PRESENT]) > 1e-4

    @pytest.mark.parametrize("size", [67, 128, 132, 555])
    @pytest.mark.parametrize("num_samples", [None, 66, 67, 1])
    def test_no_sample_comes_twice_in_a_shuffled_epoch(self, block: int, size: int, num_samples: int | None) -> None:
        sampler = ClassPowerSampler([0] * size, 1.0, replacement=False, num_samples=num_samples, seed=4)
        drawn = sampler.indices()
        assert len(drawn) == len(drawn.unique()) == (num_samples or size)
        assert 0 <= drawn.min() <= drawn.max() < size
        assert torch.equal(drawn, ClassPowerSampler([0] * size, 1.0, replacement=False, seed=4).indices()[: len(drawn)])

    @pytest.mark.parametrize("kind", ["balanced", "power", "plain", "effective number", "progressively balanced"])
    def test_an_endless_epoch_begins_at_once(self, block: int, kind: str) -> None:
        def first_of(num_samples: int) -> list[Any]:
            sampler = KINDS[kind](LABELS, num_samples=num_samples, seed=3)
            pairs = PairSampler(sampler, sampler, different_classes=LABELS)
            assert len(sampler) == len(pairs) == num_samples
            return [list(itertools.islice(each, 5)) for each in (sampler, PairSampler(sampler, sampler), pairs)]

        assert first_of(10**15) == first_of(block)  # which fits into one block and was drawn whole

    @pytest.mark.parametrize("kind", KINDS | PAIRS)
    def test_an_epoch_that_has_begun_is_not_changed(self, block: int, kind: str) -> None:
        sampler = (KINDS | PAIRS)[kind](LABELS)
        expected = list(sampler)
        sampler.set_epoch(0)
        iterator = iter(sampler)
        begun = [next(iterator)]
        sampler.set_epoch(1)
        assert begun + list(iterator) == expected != list(sampler)

    def test_pairs_with_samplers_of_others(self, block: int) -> None:
        class Listed(RandomSampler):
            def indices(self) -> torch.Tensor:
                return torch.arange(555).flip(0)

        ours = ClassPowerSampler(LABELS, 0.0, seed=3)
        for foreign, expected in ((SequentialSampler(LABELS), range(555)), (Listed(LABELS), range(554, -1, -1))):
            pairs = PairSampler(foreign, ours).indices()
            assert pairs[:, 0].tolist() == list(expected)
            assert [len(each) for each in PairSampler(foreign, ours).blocks()] == [66] * 8 + [27]

    def test_pairs_that_differ_are_left_and_others_drawn_anew(self, block: int) -> None:
        size = 66_000
        samplers = [ClassPowerSampler(LABELS, tau, num_samples=size, seed=2) for tau in (1.0, 0.0)]
        plain, apart = PairSampler(*samplers).indices(), PairSampler(*samplers, LABELS).indices()
        differed = LABELS[plain[:, 0]] != LABELS[plain[:, 1]]
        assert torch.equal(apart[differed], plain[differed])
        assert (LABELS[apart[:, 0]] != LABELS[apart[:, 1]]).all()
        assert p_value(apart[:, 0], [n * (1 - 1 / 5) for n in PRESENT]) > 1e-4

    @pytest.mark.parametrize("block_size", [1, 7, 555, 1000])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
    def test_the_table_is_a_stable_sort(self, block_size: int, dtype: type) -> None:
        labels = LABELS.numpy().astype(dtype)
        table = _sorted_by_class(labels, np.bincount(labels), block_size)
        assert table.dtype == np.int32
        np.testing.assert_array_equal(table, np.argsort(labels, kind="stable"))


class TestShuffled:
    @given(st.integers(1, 400), st.integers(0, 2**64 - 1), st.sampled_from([2, 6, 16]))
    def test_is_a_permutation(self, size: int, key: int, rounds: int) -> None:
        found = shuffled(np.arange(size), size, np.array([key], np.uint64), rounds)
        assert sorted(found) == list(range(size))

    @pytest.mark.parametrize("size", [2**32 + 1, 10**15])
    def test_sizes_beyond_32_bits(self, size: int) -> None:
        found = shuffled(np.arange(size - 10_000, size), size, np.array([1], np.uint64), 6)
        assert len(set(found)) == 10_000
        assert stats.chisquare(np.bincount(found * 10 // size, minlength=10)).pvalue > 1e-4

    def test_many_sizes_at_once_are_each_on_its_own(self) -> None:
        sizes, key = np.repeat(np.arange(1, 60), np.arange(1, 60)), np.array([3], np.uint64)
        places = np.concatenate([np.arange(size) for size in range(1, 60)])
        together = shuffled(places, sizes, np.repeat(key, len(sizes)), 16)
        alone = [shuffled(np.arange(size), size, key, 16) for size in range(1, 60)]
        np.testing.assert_array_equal(together, np.concatenate(alone))

    @pytest.mark.parametrize("size", [2**16, 2**16 + 1, 99_991])
    def test_looks_like_any_permutation(self, size: int) -> None:
        found = shuffled(np.arange(size), size, np.array([size], np.uint64), 6)
        part = found * 16 // size
        for step in (1, 2, 255, 256, 257):  # places in a row, and one above the other in the rectangle
            assert stats.chisquare(np.bincount(part[:-step] * 16 + part[step:], minlength=256)).pvalue > 1e-4
            moved = (found[step:] - found[:-step]) % size
            assert stats.chisquare(np.bincount(moved * 64 // size, minlength=64)).pvalue > 1e-4
        place = np.arange(size) * 16 // size
        assert stats.chi2_contingency(np.bincount(place * 16 + part, minlength=256).reshape(16, 16)).pvalue > 1e-4

    def test_fixed_points_are_poisson(self) -> None:
        # of one key, and between two neighbouring ones
        orders = [shuffled(np.arange(1000), 1000, np.array([key], np.uint64), 6) for key in range(1000)]
        for fixed in (
            [int((order == np.arange(1000)).sum()) for order in orders],
            [int((first == second).sum()) for first, second in itertools.pairwise(orders)],
        ):
            observed = np.bincount(np.minimum(fixed, 4), minlength=5)
            law = [*stats.poisson.pmf(range(4), 1.0), stats.poisson.sf(3, 1.0)]
            assert stats.chisquare(observed, np.array(law) * len(fixed)).pvalue > 1e-4

    @pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 8])
    def test_a_handful_comes_in_any_order_after_sixteen_rounds(self, size: int) -> None:
        keys = np.arange(20_000, dtype=np.uint64)
        mixed = mix(np.array([7], np.uint64), keys)

        def p(rounds: int) -> float:
            first, second = (
                shuffled(np.full(len(keys), place), np.full(len(keys), size), mixed, rounds) for place in (0, 1)
            )
            pairs = np.bincount(first * size + second, minlength=size**2).reshape(size, size)
            assert pairs.trace() == 0
            return float(stats.chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue)

        assert p(16) > 1e-4
        if size > 4:
            assert p(4) < 1e-4  # the test has the power to tell too few rounds


def test_over_and_under_sampling_are_settings_of_the_power_sampler() -> None:
    over = class_counts(LABELS[ClassPowerSampler(LABELS, num_samples=5 * max(PRESENT)).indices()], 6)
    under = class_counts(LABELS[ClassPowerSampler(LABELS, num_samples=5 * 4 * min(PRESENT)).indices()], 6)
    for counts, total in ((over, 2000), (under, 20)):
        assert counts.sum() == total
        assert stats.chisquare(counts[[0, 1, 2, 4, 5]].numpy()).pvalue > 1e-4
