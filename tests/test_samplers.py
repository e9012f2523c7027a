"""Samplers: class frequencies, independence of streams, and orders that are a function of seed and epoch alone."""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from ltaug import (
    ClassAwareSampler,
    ClassPowerSampler,
    DeferredSampler,
    EffectiveNumberSampler,
    PairDataset,
    PairSampler,
    ProgressivelyBalancedSampler,
    class_counts,
)
from ltaug.samplers._base import EpochSampler
from ltaug.samplers.class_power import AliasTable
from ltaug.samplers.pair import next_indices
from ltaug.testing import check_sampler

stats = pytest.importorskip("scipy.stats")

TAUS = [1.0, 0.5, 0.0, -0.5, -1.0]
COUNTS = [400, 120, 30, 30, 0, 4, 1]
LABELS = torch.from_numpy(np.random.default_rng(1).permutation(np.repeat(np.arange(7), COUNTS)))
SURE = 1e-4
"""A p-value below it refutes; seeds are fixed, so that a test passes always or never."""


def naive_class_probabilities(counts: Sequence[int], tau: float) -> list[float]:
    """Eq. 9 of UniMix over the classes that have samples."""
    power = [n**tau if n else 0.0 for n in counts]
    return [p / sum(power) for p in power]


def chi_square(observed: Sequence[int], probabilities: Sequence[float]) -> float:
    """p-value of counts against a law; cells of probability 0 must be empty."""
    assert all(o == 0 for o, p in zip(observed, probabilities, strict=True) if p == 0)
    cells = [(o, p) for o, p in zip(observed, probabilities, strict=True) if p]
    total = sum(observed)
    return float(stats.chisquare([o for o, _ in cells], [p * total for _, p in cells]).pvalue)


def shuffled_epoch(**options: int) -> ClassPowerSampler:
    """Instance-balanced without replacement."""
    return ClassPowerSampler(LABELS, 1.0, replacement=False, seed=3, **options)


def deferred() -> DeferredSampler:
    """A shuffled epoch until epoch 2, class-balanced from there."""
    return DeferredSampler(shuffled_epoch(), ClassPowerSampler(LABELS, 0.0, seed=4), 2)


ORDERS = [
    ("eaa2214d8b2a267f", lambda: ClassPowerSampler(LABELS, 1.0, seed=3)),
    ("f9fdf691db4f9d6b", lambda: ClassPowerSampler(LABELS, 0.5, seed=3)),
    ("24e95fa9e330b9ed", lambda: ClassPowerSampler(LABELS, 0.0, seed=3)),
    ("0eed747d994501cf", lambda: ClassPowerSampler(LABELS, -1.0, seed=3)),
    ("d16e766ce97becf4", lambda: ClassPowerSampler(LABELS, 0.0, num_samples=1234, seed=3)),
    ("8fda5f6c88603d11", lambda: shuffled_epoch()),
    ("ac0cac579d8fbc73", lambda: shuffled_epoch(num_samples=100)),
    ("3f3352388c61954b", lambda: EffectiveNumberSampler(LABELS, 0.99, seed=3)),
    ("d58d5ac5197cf0fd", lambda: ProgressivelyBalancedSampler(LABELS, 5, seed=3)),
    ("3469560ddcd3d488", lambda: ClassAwareSampler(LABELS, seed=3)),
    ("18d82ba5a39486c7", lambda: ClassAwareSampler(LABELS, 3, num_samples=2000, seed=3)),
    ("2b924f8c47c4ca41", lambda: deferred()),
    ("c1fea87cabd1a79e", lambda: PairSampler(shuffled_epoch(), ClassPowerSampler(LABELS, -1.0, seed=3))),
    ("def207203628064c", lambda: PairSampler(deferred(), ClassAwareSampler(LABELS, seed=3))),
    ("efd1e23f129f2c31", lambda: PairSampler(shuffled_epoch(), ClassPowerSampler(LABELS, 0.5, seed=3), LABELS)),
]
"""SHA-256 of epochs 0 and 3 of every sampler: results that were published with an order must stay reproducible."""


class TestClassFrequencies:
    @pytest.mark.parametrize("tau", TAUS)
    def test_classes_follow_the_power_of_their_counts(self, tau: float) -> None:
        drawn = LABELS[ClassPowerSampler(LABELS, tau, num_samples=200_000, seed=3).indices()]
        observed = class_counts(drawn, 7).tolist()
        assert observed[4] == 0
        assert chi_square(observed, naive_class_probabilities(COUNTS, tau)) > SURE
        # and the test has the power to tell a slightly different exponent
        assert chi_square(observed, naive_class_probabilities(COUNTS, tau + 0.05)) < SURE

    @pytest.mark.parametrize("tau", TAUS)
    def test_members_of_a_class_are_equally_likely(self, tau: float) -> None:
        indices = ClassPowerSampler(LABELS, tau, num_samples=200_000, seed=4).indices()
        for k in (0, 2, 5):
            members = (k == LABELS).nonzero()[:, 0]
            observed = torch.bincount(indices, minlength=len(LABELS))[members].tolist()
            assert chi_square(observed, [1 / len(members)] * len(members)) > SURE

    def test_tau_0_is_uniform_over_classes_and_tau_1_over_samples(self) -> None:
        balanced = LABELS[ClassPowerSampler(LABELS, 0.0, num_samples=60_000).indices()]
        assert chi_square([int((balanced == k).sum()) for k in (0, 1, 2, 3, 5, 6)], [1 / 6] * 6) > SURE
        plain = ClassPowerSampler(LABELS, 1.0, num_samples=60_000).indices()
        assert chi_square(torch.bincount(plain, minlength=585).tolist(), [1 / 585] * 585) > SURE

    @pytest.mark.parametrize("tau", TAUS)
    def test_equal_counts_make_every_tau_uniform(self, tau: float) -> None:
        labels = torch.arange(40) % 4
        indices = ClassPowerSampler(labels, tau, num_samples=40_000, seed=2).indices()
        assert chi_square(torch.bincount(indices, minlength=40).tolist(), [1 / 40] * 40) > SURE

    @pytest.mark.parametrize("tau", [300.0, -300.0])
    def test_no_power_overflows(self, tau: float) -> None:
        labels = torch.repeat_interleave(torch.arange(2), torch.tensor([1000, 10]))  # 1000^300 is no float64
        drawn = labels[ClassPowerSampler(labels, tau, num_samples=1000).indices()]
        assert drawn.unique().tolist() == [0 if tau > 0 else 1]

    @given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.floats(-3.0, 3.0))
    def test_class_probabilities_formula(self, counts: list[int], tau: float) -> None:
        expected = naive_class_probabilities(counts, tau)
        actual = ClassPowerSampler.class_probabilities(np.array(counts), tau)
        np.testing.assert_allclose(actual, expected, rtol=1e-10)

    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(any))
    def test_the_alias_table_holds_exactly_the_law(self, weights: list[int]) -> None:
        law = np.array(weights) / sum(weights)
        table = AliasTable(law)
        size = len(law)
        # a slot is hit with 1 / size, keeps its own index with `keep`, and gives its alias otherwise
        held = [float(table._keep[k]) for k in range(size)]
        for slot in range(size):
            held[table._alias[slot]] += 1.0 - float(table._keep[slot])
        np.testing.assert_allclose(np.array(held) / size, law, atol=1e-12)
        drawn = table.draw(np.random.default_rng(0), 1000)
        assert set(np.flatnonzero(np.bincount(drawn, minlength=size))) <= set(np.flatnonzero(law))


class TestOrder:
    @pytest.mark.parametrize("num_samples", [None, 585, 100, 1])
    def test_without_replacement_is_the_shuffled_epoch(self, num_samples: int | None) -> None:
        sampler = ClassPowerSampler(LABELS, 1.0, replacement=False, num_samples=num_samples, seed=7)
        order = list(sampler)
        assert len(order) == len(sampler) == (num_samples or 585)
        assert len(set(order)) == len(order)
        assert set(order) <= set(range(585))
        if len(order) == 585:
            assert order != list(range(585))

    def test_every_place_of_a_shuffled_epoch_is_uniform(self) -> None:
        sampler = ClassPowerSampler([0] * 6, 1.0, replacement=False)
        table = torch.zeros(6, 6)
        for epoch in range(3000):
            sampler.set_epoch(epoch)
            table[torch.arange(6), sampler.indices()] += 1
        for place in range(6):
            assert chi_square(table[place].int().tolist(), [1 / 6] * 6) > SURE

    @pytest.mark.parametrize(("tau", "replacement"), [(1.0, False), *[(tau, True) for tau in TAUS]])
    def test_is_a_function_of_seed_and_epoch(self, tau: float, replacement: bool) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            sampler = ClassPowerSampler(LABELS, tau, replacement=replacement, seed=seed)
            sampler.set_epoch(epoch)
            return list(sampler)

        orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
        # in particular seed 0, epoch 1 is not seed 1, epoch 0
        assert len({tuple(value) for value in orders.values()}) == 9

        torch.manual_seed(123)
        walker = ClassPowerSampler(LABELS, tau, replacement=replacement, seed=2)
        assert [list(walker) for _ in range(3)] == [orders[2, epoch] for epoch in range(3)]
        walker.set_epoch(1)
        torch.rand(5)
        assert list(walker) == orders[2, 1]
        walker.set_epoch(0)
        assert list(walker) == orders[2, 0]
        assert list(pickle.loads(pickle.dumps(walker))) == orders[2, 1]  # moves on like any other

    def test_leaves_the_global_generators_alone(self) -> None:
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        list(PairSampler(ClassPowerSampler(LABELS, -1), ClassPowerSampler(LABELS, 0)))
        assert torch.equal(torch_state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002

    def test_order_of_a_seed_does_not_change_between_versions(self) -> None:
        # A resumed run, and a published number, rely on it.
        orders = {1.0: [0, 3, 5, 5, 5, 2], 0.0: [2, 4, 5, 5, 5, 4], -1.0: [4, 5, 4, 5, 5, 5]}
        for tau, order in orders.items():
            assert list(ClassPowerSampler([0, 0, 0, 1, 1, 2], tau, seed=0)) == order

    @pytest.mark.parametrize(("digest", "make"), ORDERS)
    def test_no_order_changes_between_versions(self, digest: str, make: Callable[[], EpochSampler]) -> None:
        sampler, found = make(), hashlib.sha256()
        for epoch in (0, 3):
            sampler.set_epoch(epoch)
            found.update(sampler.indices().numpy().tobytes())
        assert found.hexdigest().startswith(digest)

    @pytest.mark.parametrize("tau", TAUS)
    def test_forms_of_labels_and_of_reading_agree(self, tau: float, device: torch.device) -> None:
        expected = ClassPowerSampler(LABELS, tau).indices()
        assert expected.dtype == torch.int64
        small = [LABELS.to(dtype) for dtype in (torch.uint8, torch.int32, torch.uint16)]
        for form in (LABELS.tolist(), LABELS.numpy(), LABELS.numpy().astype(np.uint32), *small, LABELS.to(device)):
            assert torch.equal(ClassPowerSampler(form, tau).indices(), expected)
        assert list(ClassPowerSampler(LABELS, tau)) == expected.tolist()
        assert all(type(index) is int for index in ClassPowerSampler(LABELS, tau))

    def test_length(self) -> None:
        assert len(ClassPowerSampler(LABELS)) == 585
        # longer than the pieces that iterating converts at once
        sampler = ClassPowerSampler(LABELS, num_samples=150_001)
        assert len(sampler) == len(list(sampler)) == 150_001
        assert list(sampler) == sampler.indices().tolist()

    def test_one_sample(self) -> None:
        for tau in TAUS:
            assert list(ClassPowerSampler([5], tau, num_samples=3)) == [0, 0, 0]

    def test_a_hundred_thousand_classes_and_ten_million_samples_are_quick(self) -> None:
        labels = torch.randint(100_000, (10_000_000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        start = time.process_time()
        sampler = ClassPowerSampler(labels, tau=-1.0, num_samples=1_000_000)
        indices = sampler.indices()
        # 2 s at the time of writing; a loop over samples or over classes for each draw would take minutes
        assert time.process_time() - start < 15
        assert 0 <= int(indices.min()) < int(indices.max()) < 10_000_000

    def test_more_samples_than_multinomial_can_take(self) -> None:
        size = 2**24 + 100
        sampler = ClassPowerSampler(torch.zeros(size, dtype=torch.int8), tau=1.0, num_samples=1000)
        counts = torch.histc(sampler.indices().double(), bins=10, min=0, max=size)
        assert chi_square(counts.int().tolist(), [0.1] * 10) > SURE


class TestErrors:
    @pytest.mark.parametrize(
        ("labels", "options", "message"),
        [
            ([], {}, "`labels` must hold at least one sample, but is empty"),
            ([0, -1], {}, "`labels` must not be negative, but hold -1. Remove samples that carry an ignore index"),
            ([0.0, 1.0], {}, "`labels` must be integers"),
            ([[0, 1]], {}, r"`labels` must be one class index a sample, shape \[N\]"),
            ([0, 1], {"tau": float("nan")}, "`tau` must be finite, but is nan"),
            ([0, 1], {"tau": math.inf}, "`tau` must be finite, but is inf"),
            ([0, 1], {"num_samples": 0}, "`num_samples` must be at least 1, but is 0"),
            ([0, 1], {"seed": -1}, "`seed` must not be negative, but is -1"),
            ([0, 1], {"replacement": False}, r"needs `tau=1`, but `tau` is 0\.0"),
            (
                [0, 1],
                {"replacement": False, "tau": 1, "num_samples": 3},
                "`num_samples`=3 exceeds the 2 samples; pass `replacement=True`",
            ),
        ],
    )
    def test_class_power_sampler(self, labels: list[int], options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ClassPowerSampler(labels, **options)

    def test_epoch(self) -> None:
        sampler = ClassPowerSampler([0, 1, 2])
        for each in (sampler, PairSampler(sampler, sampler)):
            with pytest.raises(ValueError, match="`epoch` must not be negative, but is -1"):
                each.set_epoch(-1)

    def test_pair_sampler(self) -> None:
        sampler = ClassPowerSampler([0, 1, 2])
        with pytest.raises(ValueError, match=r"equally many indices, but have 3 and 5\. Pass the same `num_samples`"):
            PairSampler(sampler, ClassPowerSampler([0, 1, 2], num_samples=5))
        foreign = SequentialSampler(range(3))
        with pytest.raises(ValueError, match="are the same sampler, so every sample would be its own partner"):
            PairSampler(foreign, foreign)

    @pytest.mark.parametrize("index", [(0, 1, 2), [0], ()])
    def test_pair_dataset(self, index: object) -> None:
        with pytest.raises(ValueError, match=r"`index` must be an index or a pair of indices, but is "):
            PairDataset([1, 2, 3])[index]


class TestPairs:
    def test_two_samplers_with_one_seed_are_independent(self) -> None:
        # LOB mixup is tau = 0 twice. With one stream for both, every sample would be mixed with itself.
        size = 100_000
        make = [lambda: ClassPowerSampler(LABELS, 0.0, num_samples=size, seed=11) for _ in range(2)]
        first, second = PairSampler(make[0](), make[1]()).indices().T
        classes = torch.bincount(LABELS[first] * 7 + LABELS[second], minlength=49).tolist()
        p = naive_class_probabilities(COUNTS, 0.0)
        assert chi_square(classes, [a * b for a in p for b in p]) > SURE
        # P(i = j) = sum_k 1 / (C^2 n_k)
        same = float((first == second).double().mean())
        expected = sum(1 / n for n in COUNTS if n) / 36
        assert abs(same - expected) < 5 * math.sqrt(expected / size)

    def test_unimix_streams_have_each_their_law(self) -> None:
        size = 100_000
        samplers = [ClassPowerSampler(LABELS, tau, num_samples=size, seed=5) for tau in (1.0, -1.0)]
        first, second = LABELS[PairSampler(*samplers).indices()].T
        joint = torch.bincount(first * 7 + second, minlength=49).tolist()
        p, q = (naive_class_probabilities(COUNTS, tau) for tau in (1.0, -1.0))
        cells = [(o, a * b) for o, (a, b) in zip(joint, ((a, b) for a in p for b in q), strict=True)]
        large = [(o, e) for o, e in cells if e * size > 5]  # chi-square needs filled cells
        rest = (sum(joint) - sum(o for o, _ in large), 1 - sum(e for _, e in large))
        assert chi_square([o for o, _ in [*large, rest]], [e for _, e in [*large, rest]]) > SURE

    @pytest.mark.parametrize("tau", [1.0, 0.0, -1.0])
    def test_one_sampler_given_twice_is_no_pair_of_twins(self, tau: float) -> None:
        sampler = ClassPowerSampler(LABELS, tau, num_samples=5000)
        pairs = PairSampler(sampler, sampler)
        p = naive_class_probabilities(COUNTS, tau)
        expected = sum(p[k] ** 2 / COUNTS[k] for k in range(7) if COUNTS[k])
        for epoch in range(2):
            pairs.set_epoch(epoch)
            first, second = pairs.indices().T
            same = float((first == second).double().mean())
            assert abs(same - expected) < 5 * math.sqrt(expected / 5000)

    def test_shuffled_epochs_pair_up_as_two_permutations(self) -> None:
        sampler = ClassPowerSampler(LABELS, 1.0, replacement=False)
        first, second = PairSampler(sampler, sampler).indices().T
        assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(585))
        assert not torch.equal(first, second)

    def test_the_first_stream_is_the_first_sampler_and_neither_is_changed(self) -> None:
        first, second = ClassPowerSampler(LABELS, 1.0, seed=4), ClassPowerSampler(LABELS, -1.0, seed=4)
        before = second.indices()
        pairs = PairSampler(first, second)
        assert torch.equal(pairs.indices()[:, 0], first.indices())
        assert torch.equal(second.indices(), before)

    def test_epochs(self) -> None:
        pairs = PairSampler(ClassPowerSampler(LABELS, 1), ClassPowerSampler(LABELS, -1))
        orders = []
        for epoch in (0, 1, 0):
            pairs.set_epoch(epoch)
            orders.append(list(pairs))
            assert len(orders[-1]) == len(pairs) == 585
            assert torch.equal(pairs.indices(), torch.tensor(orders[-1]))
        assert orders[0] == orders[2]
        for side in (0, 1):  # both streams move on
            assert [pair[side] for pair in orders[0]] != [pair[side] for pair in orders[1]]

    def test_samplers_of_others(self) -> None:
        ours = ClassPowerSampler([0] * 5, 1.0, seed=3)
        for pairs in (PairSampler(SequentialSampler(range(5)), ours), PairSampler(ours, SequentialSampler(range(5)))):
            pairs.set_epoch(2)
            orders = list(pairs)
            assert len(orders) == 5
            assert list(range(5)) in [[pair[side] for pair in orders] for side in (0, 1)]
        torch_sampler = RandomSampler(range(5), generator=torch.Generator().manual_seed(0))
        assert next_indices(torch_sampler).sort().values.tolist() == list(range(5))
        assert next_indices(PairSampler(torch_sampler, ours)).shape == (5, 2)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_loader_carries_the_pairs(self, workers: int) -> None:
        inputs = torch.arange(12.0).view(12, 1)
        labels = torch.arange(12) % 3
        pairs = PairSampler(ClassPowerSampler(labels, 1.0), ClassPowerSampler(labels, -1.0))
        loader = DataLoader(
            PairDataset(TensorDataset(inputs, labels)), batch_size=5, sampler=pairs, num_workers=workers
        )
        seen = []
        for (x, y), (partner_x, partner_y) in loader:
            torch.testing.assert_close(y, labels[x[:, 0].long()])
            torch.testing.assert_close(partner_y, labels[partner_x[:, 0].long()])
            seen += zip(x[:, 0].long().tolist(), partner_x[:, 0].long().tolist(), strict=True)
        assert seen == list(map(tuple, pairs.indices().tolist()))

    def test_pair_dataset_reads_both(self) -> None:
        pairs = PairDataset(list("abc"))
        assert len(pairs) == 3
        assert [pairs[1, 2], pairs[[0, 0]]] == [("b", "c"), ("a", "a")]
        assert pairs[1] == "b"  # of an epoch that does not mix


class TestPairsOfDifferentClasses:
    @pytest.mark.parametrize("taus", [(1.0, 1.0), (0.0, 0.0), (1.0, -1.0)])
    def test_the_law_is_that_of_pairs_that_differ(self, taus: tuple[float, float]) -> None:
        size = 50_000
        pairs = PairSampler(*[ClassPowerSampler(LABELS, tau, num_samples=size, seed=9) for tau in taus], LABELS)
        first, second = LABELS[pairs.indices()].T
        p, q = (naive_class_probabilities(COUNTS, tau) for tau in taus)
        joint = [[a * b if i != j else 0.0 for j, b in enumerate(q)] for i, a in enumerate(p)]
        total = sum(map(sum, joint))
        observed = torch.bincount(first * 7 + second, minlength=49).tolist()
        assert observed[::8] == [0] * 7
        cells = [(o, each / total) for o, each in zip(observed, (each for row in joint for each in row), strict=True)]
        large = [(o, e) for o, e in cells if e * size > 5]
        rest = (size - sum(o for o, _ in large), 1 - sum(e for _, e in large))
        assert chi_square([o for o, _ in [*large, rest]], [e for _, e in [*large, rest]]) > SURE
        # p_k (1 - q_k): the head is drawn less often than without the restriction, unless classes were balanced.
        marginal = [p[k] * (1 - q[k]) / total for k in range(7)]
        assert chi_square(torch.bincount(first, minlength=7).tolist(), marginal) > SURE

    def test_pairs_that_differed_anyway_stay_in_their_places(self) -> None:
        samplers = [ClassPowerSampler(LABELS, tau, seed=2) for tau in (1.0, 0.0)]
        plain, apart = PairSampler(*samplers).indices(), PairSampler(*samplers, LABELS).indices()
        differed = LABELS[plain[:, 0]] != LABELS[plain[:, 1]]
        assert 100 < int(differed.sum()) < 500
        assert torch.equal(apart[differed], plain[differed])

    def test_order_is_a_function_of_seed_and_epoch(self) -> None:
        check_sampler(lambda labels, seed: PairSampler(*[ClassPowerSampler(labels, 1.0, seed=seed)] * 2, labels))
        check_sampler(
            lambda labels, seed: PairSampler(
                ClassPowerSampler(labels, 1.0, replacement=False, seed=seed),
                DeferredSampler(
                    ClassPowerSampler(labels, 1.0, seed=seed), ClassAwareSampler(labels, seed=seed), epoch=2
                ),
                different_classes=labels,
            )
        )

    def test_what_is_drawn_anew_is_independent_of_what_was_drawn(self) -> None:
        # With one stream for all turns, the replacements would be the pairs that were accepted before.
        labels = torch.arange(20_000) % 2
        pairs = PairSampler(*[ClassPowerSampler(labels, 1.0, seed=1)] * 2, labels).indices()
        twice = len(pairs) - len(pairs.unique(dim=0))
        assert twice < 10  # of 2e8 possible pairs 2e4 are drawn: once in a while one comes twice

    def test_two_odd_ones_out_of_many(self) -> None:
        # One pair of some hundreds differs: it takes many turns.
        labels = [0] * 799 + [1]
        sampler = PairSampler(*[ClassPowerSampler(labels, 1.0, seed=3)] * 2, labels)
        drawn = sampler.indices()
        assert ((drawn == 799).sum(1) == 1).all()
        assert len(drawn) == 800
        assert 300 < int((drawn[:, 0] == 799).sum()) < 500

    def test_no_labels_leave_pairs_as_they_are(self) -> None:
        makers = [[ClassPowerSampler(LABELS, 0.0)] * 2 for _ in range(2)]
        assert list(PairSampler(*makers[0], None)) == list(PairSampler(*makers[1]))

    def test_errors(self) -> None:
        ours, foreign = ClassPowerSampler([0, 1, 1]), SequentialSampler(range(3))
        for order in ((ours, foreign), (foreign, ours)):
            name = "second" if order[1] is foreign else "first"
            with pytest.raises(ValueError, match=f"`{name}` must be a sampler of this library for pairs of `different"):
                PairSampler(*order, [0, 1, 1])
        for labels in ([1, 1, 1], []):
            with pytest.raises(ValueError, match=f"at least two classes, .* among its {len(labels)} labels"):
                PairSampler(ours, ours, labels)
        with pytest.raises(ValueError, match=r"labels of the whole data set, but holds 2 and index 2 was drawn"):
            PairSampler(ours, ours, [0, 1]).indices()
        with pytest.raises(ValueError, match=r"`different_classes` must be integers"):
            PairSampler(ours, ours, [0.0, 1.0, 1.0])
        # Labels of two classes, of which the samplers know only one.
        with pytest.raises(ValueError, match=r"must be able to draw different classes, but \d+ pairs in a row"):
            PairSampler(*[ClassPowerSampler([0, 0, 0], num_samples=2000)] * 2, different_classes=[0, 0, 0, 1]).indices()
