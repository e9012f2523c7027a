"""Profiles against published numbers and written formulas; subsets against the published way of drawing them."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltaug import (
    class_counts,
    exponential_counts,
    index_hash,
    pareto_counts,
    profile_counts,
    shifted_counts,
    step_counts,
    subsample,
)
from ltaug.errors import UserError
from ltaug.longtail import shifted_sets

CIFAR10_LT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
SIZES = {"n_max": st.integers(1, 5000), "num_classes": st.integers(1, 40), "imbalance_ratio": st.floats(1.0, 1000.0)}


def truncated(exact: float) -> set[int]:
    """What truncation may give for a number that is only known up to rounding: two values next to an integer."""
    return {int(exact - 1e-6), int(exact + 1e-6)}


class TestProfiles:
    def test_published_cifar_counts(self) -> None:
        ten = exponential_counts(5000, 10, 100)
        hundred = exponential_counts(500, 100, 100)
        assert ten.dtype == torch.int64
        assert ten.tolist() == CIFAR10_LT_100
        assert int(ten.sum()) == 12406
        assert int(hundred.sum()) == 10847
        assert [int(hundred[k]) for k in (0, 34, 35, 69, 70, 99)] == [500, 102, 98, 20, 19, 5]

    @pytest.mark.parametrize("n_max", [500, 5000])
    @pytest.mark.parametrize("num_classes", [10, 100])
    @pytest.mark.parametrize("factor", [0.1, 0.05, 0.02, 0.01, 0.005])
    def test_equals_the_released_expression(self, n_max: int, num_classes: int, factor: float) -> None:
        # LDAM-DRW and its followers write img_max * imb_factor ** (k / (C - 1)), with the ratio upside down
        expected = [int(n_max * factor ** (k / (num_classes - 1.0))) for k in range(num_classes)]
        assert exponential_counts(n_max, num_classes, 1 / factor).tolist() == expected

    @given(**SIZES)
    def test_exponential_formula(self, n_max: int, num_classes: int, imbalance_ratio: float) -> None:
        counts = exponential_counts(n_max, num_classes, imbalance_ratio).tolist()
        assert len(counts) == num_classes
        for k, n in enumerate(counts):
            assert n in truncated(n_max * math.exp(-math.log(imbalance_ratio) * k / max(num_classes - 1, 1)))

    @given(**SIZES, alpha=st.floats(0.1, 100.0))
    def test_pareto_formula(self, n_max: int, num_classes: int, imbalance_ratio: float, alpha: float) -> None:
        counts = pareto_counts(n_max, num_classes, imbalance_ratio, alpha).tolist()
        assert len(counts) == num_classes
        for k, n in enumerate(counts):
            # density of a Pareto law at x, ~ x^-(alpha + 1), between x = 1 and the x where it has fallen to 1 / ratio
            last = imbalance_ratio ** (1 / (alpha + 1))
            x = 1 + (last - 1) * k / max(num_classes - 1, 1)
            assert n in truncated(n_max / x ** (alpha + 1))

    @given(**SIZES, head_fraction=st.floats(0.0, 1.0))
    def test_step_formula(self, n_max: int, num_classes: int, imbalance_ratio: float, head_fraction: float) -> None:
        counts = step_counts(n_max, num_classes, imbalance_ratio, head_fraction).tolist()
        head = math.floor(head_fraction * num_classes)
        assert counts[:head] == [n_max] * head
        assert counts[head:] == [math.floor(n_max / imbalance_ratio)] * (num_classes - head)

    @given(st.integers(1, 60), st.integers(1, 300), st.integers(2, 30))
    def test_a_whole_last_count_loses_no_sample_to_rounding(self, n_min: int, ratio: int, num_classes: int) -> None:
        # in floating point, one forty-ninth of 49 can come out below 1
        for profile in (exponential_counts, step_counts, pareto_counts):
            counts = profile(n_min * ratio, num_classes, ratio)
            assert (int(counts[0]), int(counts[-1])) == (n_min * ratio, n_min), profile.__name__

    @pytest.mark.parametrize("profile", [exponential_counts, step_counts, pareto_counts])
    def test_limits(self, profile) -> None:
        assert profile(30, 5, 1).tolist() == [30] * 5
        counts = profile(1000, 20, 37.5)
        assert counts.dtype == torch.int64
        assert bool((counts[1:] <= counts[:-1]).all())
        assert profile(1000, 1, 1).tolist() == [1000]
        assert int(profile(10, 4, 50)[-1]) == 0  # fewer samples than the ratio: an empty class, as documented

    def test_pareto_bends_more_and_tends_to_the_exponential(self) -> None:
        exponential = exponential_counts(100_000, 50, 100)
        differences = []
        for alpha in (1.0, 6.0, 100.0, 1e7):
            difference = (exponential - pareto_counts(100_000, 50, 100, alpha))[1:-1]
            assert bool((difference >= 0).all())
            differences.append(int(difference.max()))
        assert differences == sorted(differences, reverse=True)
        assert differences[0] > 1000
        assert differences[-1] <= 1

    @pytest.mark.parametrize("profile", [exponential_counts, step_counts, pareto_counts])
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((100, 10, 0.01), r"`imbalance_ratio` is n_max / n_min and must be at least 1, but is 0\.01.*mean 100"),
            ((100, 10, float("nan")), "`imbalance_ratio` .* but is nan"),
            ((100, 10, float("inf")), "`imbalance_ratio` .* but is inf"),
            ((0, 10, 10), "`n_max` must be at least 1, but is 0"),
            ((100, 0, 10), "`num_classes` must be at least 1, but is 0"),
        ],
    )
    def test_errors(self, profile, arguments: tuple[int, int, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            profile(*arguments)

    @pytest.mark.parametrize("head_fraction", [-0.1, 1.1, float("nan")])
    def test_head_fraction_out_of_range(self, head_fraction: float) -> None:
        with pytest.raises(ValueError, match=r"`head_fraction` must lie in \[0, 1\]"):
            step_counts(10, 2, 2, head_fraction)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
    def test_pareto_shape_out_of_range(self, alpha: float) -> None:
        with pytest.raises(ValueError, match="`alpha` must be positive"):
            pareto_counts(10, 2, 2, alpha)


class TestProfileCounts:
    NAMES = ("ant", "bee", "cat")

    @given(
        st.sampled_from([("exponential", exponential_counts), ("step", step_counts), ("pareto", pareto_counts)]),
        st.integers(50, 500),
        st.floats(1.0, 50.0),
    )
    def test_is_the_profile_of_the_largest_class(self, profile, largest: int, ratio: float) -> None:
        name, counts = profile
        expected = counts(largest, 3, ratio)
        assert torch.equal(profile_counts(name, [largest] * 3, ratio, self.NAMES), expected)
        # Just enough is enough, and one less is not.
        assert torch.equal(profile_counts(name, expected, ratio, self.NAMES), expected)
        expected[2] -= 1
        with pytest.raises(ValueError, match=rf"of class 2 \(cat\), but there are {expected[2]} \(1 of 3|no training"):
            profile_counts(name, expected, ratio, self.NAMES)

    def test_natural_is_what_there_is(self) -> None:
        assert profile_counts("natural", [3, 90, 1], 0.0, self.NAMES).tolist() == [3, 90, 1]

    @pytest.mark.parametrize(
        ("profile", "available", "ratio", "message"),
        [
            ("flat", [9, 9, 9], 3, "`profile` must be one of natural, exponential, step, pareto, but is 'flat'."),
            ("natural", [9, 9], 3, "`class_names` must hold one name a class, 2 as `available`, but hold 3."),
            ("natural", [9, 0, 0], 3, "Class 1 (bee) has no training samples (2 of 3 classes have none). Add some"),
            (
                "exponential",
                [9, 9, 9],
                18,
                "`imbalance_ratio`=18 leaves class 2 without training samples, since the largest class has 9.",
            ),
            (
                "step",
                [8, 9, 1],
                3,
                "`imbalance_ratio`=3 asks for 9 training samples of class 0 (ant), but there are 8 (2 "
                "of 3 classes are too small). Raise it, or take the classes as they are with `profile` natural.",
            ),
        ],
    )
    def test_faults_are_named(self, profile: str, available: list[int], ratio: float, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            profile_counts(profile, available, ratio, self.NAMES)


def published_subset(labels: list[int], counts: list[int], seed: int) -> list[int]:
    """gen_imbalanced_data of LDAM-DRW, with its global generator seeded by `seed` made a local one."""
    generator = np.random.RandomState(seed)
    targets = np.array(labels)
    subset: list[int] = []
    for the_class, wanted in zip(np.unique(targets), counts, strict=True):
        members = np.where(targets == the_class)[0]
        generator.shuffle(members)
        subset.extend(members[:wanted].tolist())
    return subset


class TestSubsample:
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.data())
    def test_is_the_published_selection(self, available: list[int], seed: int, data: st.DataObject) -> None:
        labels = [k for k, n in enumerate(available) for _ in range(n)]
        labels = data.draw(st.permutations(labels))
        counts = [data.draw(st.integers(0, n)) for n in available]
        counts[0] = max(counts[0], 1)
        chosen = subsample(labels, counts, seed)
        assert chosen.dtype == torch.int64
        assert chosen.tolist() == published_subset(labels, counts, seed)

    def test_takes_the_counts_each_sample_once_class_after_class(self, device: torch.device) -> None:
        labels = torch.arange(1000) % 10
        counts = exponential_counts(100, 10, 20)
        chosen = subsample(labels.to(device), counts.to(device), seed=5)
        assert len(set(chosen.tolist())) == len(chosen) == int(counts.sum())
        assert labels[chosen].tolist() == [k for k in range(10) for _ in range(int(counts[k]))]
        torch.testing.assert_close(class_counts(labels[chosen], 10), counts)

    def test_is_a_function_of_labels_counts_and_seed_alone(self) -> None:
        labels, counts = torch.arange(300) % 3, [50, 20, 5]
        before = torch.get_rng_state()
        first = subsample(labels, counts)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert torch.equal(first, subsample(labels.tolist(), torch.tensor(counts)))
        assert torch.equal(first, subsample(labels, counts, seed=0))
        assert not torch.equal(first, subsample(labels, counts, seed=1))
        # another subset, not the same one in another order
        assert set(first.tolist()) != set(subsample(labels, counts, seed=1).tolist())

    def test_a_smaller_tail_is_a_part_of_a_larger_one(self) -> None:
        # What the published order gives for free: the lists of two ratios are nested where the seeds agree.
        labels = torch.arange(1000) % 10
        large = subsample(labels, exponential_counts(100, 10, 10), seed=0)
        small = subsample(labels, exponential_counts(100, 10, 50), seed=0)
        assert set(small.tolist()) < set(large.tolist())

    def test_classes_of_which_none_is_wanted_or_there(self) -> None:
        assert sorted(subsample([0, 0, 2, 2, 2], [1, 0, 3]).tolist())[-3:] == [2, 3, 4]
        assert labels_of(subsample([0, 1, 1, 2], [1, 0, 1]), [0, 1, 1, 2]) == [0, 2]

    @pytest.mark.parametrize(
        ("labels", "counts", "message"),
        [
            ([0, 0, 1], [2, 2], r"asks for 2 samples of class 1, but there are 1 \(1 of 2 classes are too small\)"),
            ([0], [2, 0, 1], r"asks for 2 samples of class 0, but there are 1 \(2 of 3 classes are too small\). Lower"),
            ([0, 2], [1, 1], r"`labels` must lie in 0\.\.1, the classes of `counts`, but range from 0 to 2"),
            ([0, -1], [1, 1], r"range from -1 to 0"),
            ([0, 1], [0, 0], "`counts` must be positive for at least one class"),
            ([0, 1], [1, -1], "`counts` must not be negative, but class 1 has -1"),
            ([0, 1], [0.5, 1.0], "`counts` must be whole numbers of samples"),
            ([0.0, 1.0], [1, 1], "`labels` must be integers"),
        ],
    )
    def test_errors(self, labels: list[int], counts: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            subsample(labels, counts)

    def test_real_cifar_labels(self, root: Path) -> None:
        files = sorted((root / "../shared/data/cifar10/data").glob("train-*.parquet"))
        if not files:
            pytest.skip("no CIFAR-10 beside the repository")
        parquet = pytest.importorskip("pyarrow.parquet")
        labels = [label for file in files for label in parquet.read_table(file, columns=["label"])["label"].to_pylist()]
        counts = exponential_counts(min(class_counts(labels).tolist()), 10, 100)
        chosen = subsample(labels, counts)
        assert chosen.tolist() == published_subset(labels, counts.tolist(), 0)


def labels_of(indices: torch.Tensor, labels: list[int]) -> list[int]:
    return [labels[k] for k in indices.tolist()]


class TestIndexHash:
    def test_is_stable(self) -> None:
        # sha256 of 24 bytes, three little-endian int64: must not change between versions and machines
        expected = "ab25350e3e65efebe24584461683ecda68725576e825e550038b90e7b1479946"
        assert hashlib.sha256(struct.pack("<3q", 0, 1, 2)).hexdigest() == expected
        for form in (
            [0, 1, 2],
            torch.arange(3),
            torch.arange(3, dtype=torch.int32),
            np.arange(3, dtype=">i8").astype("i8"),
        ):
            assert index_hash(form) == expected

    def test_the_published_subset_keeps_its_name(self) -> None:
        labels = torch.arange(50_000) % 10
        expected = "563055e23a86ca16a1817853b5083e2cc07118f9307ecc8082d4fcdc922f6f6b"
        assert index_hash(subsample(labels, CIFAR10_LT_100)) == expected
        assert index_hash(published_subset(labels.tolist(), CIFAR10_LT_100, 0)) == expected

    @given(st.lists(st.integers(0, 2**40), min_size=2, max_size=9, unique=True))
    def test_knows_the_order_and_every_index(self, indices: list[int]) -> None:
        others = [indices[::-1], indices[:-1], [*indices, 0], [indices[0] + 1, *indices[1:]]]
        assert index_hash(indices) not in {index_hash(other) for other in others}


class TestShiftedCounts:
    @given(
        st.integers(1, 2000),
        st.lists(st.integers(1, 500), min_size=1, max_size=20),
        st.floats(1.0, 50.0),
        st.sampled_from(["paper", "official_code"]),
    )
    def test_formula(self, n: int, counts: list[int], ratio: float, mode: str) -> None:
        # rank by training count, the earlier of two equals first
        order = sorted(range(len(counts)), key=lambda k: (-counts[k], k))
        steps = len(counts) if mode == "paper" else max(len(counts) - 1, 1)
        forward = shifted_counts(n, counts, ratio, "forward", mode).tolist()
        backward = shifted_counts(n, counts, ratio, "backward", mode).tolist()
        for rank, k in enumerate(order):
            assert forward[k] in truncated(n * ratio ** (-rank / steps))
            assert backward[k] in truncated(n * ratio ** (-(len(counts) - 1 - rank) / steps))

    def test_the_ends_of_both_modes(self, device: torch.device) -> None:
        counts = torch.tensor([5, 500, 50], device=device)
        assert shifted_counts(50, counts, 50, "forward", "official_code").tolist() == [1, 50, 7]
        assert shifted_counts(50, counts, 50, "backward", "official_code").tolist() == [50, 1, 7]
        assert shifted_counts(1000, counts, 8, "forward").tolist() == [250, 1000, 500]
        assert shifted_counts(1000, counts, 8, "backward").tolist() == [1000, 250, 500]

    def test_ratio_1_is_balanced_and_equal_counts_keep_their_order(self) -> None:
        assert shifted_counts(50, [9, 8, 7], 1, "forward").tolist() == [50, 50, 50]
        assert shifted_counts(100, [7, 7, 7, 7], 16, "forward").tolist() == [100, 50, 25, 12]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((50, [2, 1], 10, "up"), '`direction` must be "forward" or "backward", but is \'up\''),
            ((50, [2, 1], 10, "forward", "code"), '`mode` must be "paper" or "official_code", but is \'code\''),
            ((50, [2, 1], 0.1, "forward"), r"`ratio` is n_max / n_min and must be at least 1, but is 0\.1"),
            ((0, [2, 1], 10, "forward"), "`n` must be at least 1, but is 0"),
            ((50, [0, 0], 10, "forward"), "`class_counts` must be positive for at least one class"),
        ],
    )
    def test_errors(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            shifted_counts(*arguments)


class TestShiftedSets:
    LABELS = torch.arange(4).repeat(60)
    COUNTS = (5, 500, 50, 200)

    def test_each_has_the_counts_of_the_paper(self) -> None:
        sets = shifted_sets(self.LABELS, self.COUNTS)
        ratios = (50, 25, 10, 5, 2)
        assert list(sets) == [
            *(f"forward {ratio}" for ratio in ratios),
            "uniform",
            *(f"backward {ratio}" for ratio in reversed(ratios)),
        ]
        for name, indices in sets.items():
            direction, _, ratio = name.partition(" ")
            wanted = (
                [60] * 4 if name == "uniform" else shifted_counts(60, self.COUNTS, float(ratio), direction).tolist()
            )
            assert class_counts(self.LABELS[indices], 4).tolist() == wanted
            assert len(set(indices.tolist())) == len(indices)
        assert len(sets["uniform"]) == 240

    def test_they_are_a_function_of_the_seed(self) -> None:
        first, again, other = (shifted_sets(self.LABELS, self.COUNTS, seed) for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["forward 2"], other["forward 2"])

    def test_the_smallest_class_bounds_a_set_that_is_not_balanced(self) -> None:
        labels = torch.cat([self.LABELS, torch.zeros(30, dtype=torch.int64)])
        assert class_counts(labels[shifted_sets(labels, self.COUNTS)["uniform"]]).tolist() == [60] * 4

    def test_a_class_without_test_samples_is_named(self) -> None:
        with pytest.raises(UserError, match=r"but class 2 has none \(2 of 4 classes have none\)"):
            shifted_sets([0, 1], self.COUNTS)
