"""Class statistics against plain counting and plain sums."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltaug import class_counts, class_prior, effective_number, exponential_counts, shot_groups

LABELS = st.lists(st.integers(0, 6), max_size=60)
COUNTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=12).filter(any)


class TestClassCounts:
    @given(LABELS, st.integers(7, 9))
    def test_is_counting(self, labels: list[int], num_classes: int) -> None:
        expected = [sum(label == k for label in labels) for k in range(num_classes)]
        assert class_counts(labels, num_classes).tolist() == expected

    @given(LABELS)
    def test_without_a_number_of_classes_the_largest_label_is_the_last_class(self, labels: list[int]) -> None:
        counts = class_counts(labels)
        assert len(counts) == max(labels, default=-1) + 1
        assert counts.sum() == len(labels)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    def test_every_form_of_labels_counts_the_same(self, dtype: torch.dtype, device: torch.device) -> None:
        labels = [2, 0, 2, 1, 2]
        tensor = torch.tensor(labels, dtype=dtype)
        for form in (labels, tuple(labels), tensor.numpy(), tensor, tensor.to(device)):
            counts = class_counts(form)
            assert counts.dtype == torch.int64
            assert counts.tolist() == [1, 1, 3]

    def test_no_labels(self) -> None:
        assert class_counts([], 3).tolist() == [0, 0, 0]
        assert class_counts([]).tolist() == []

    @pytest.mark.parametrize(
        ("labels", "num_classes", "message"),
        [
            ([0, -1], None, r"must lie in 0\.\.0 .*range from -1 to 0"),
            ([0, 3], 3, r"must lie in 0\.\.2 for `num_classes`=3, but range from 0 to 3"),
            ([0.0, 1.0], None, r"`labels` must be integers, but are torch\.float"),
            ([True, False], None, r"`labels` must be integers, but are torch\.bool"),
            ([[0, 1]], None, r"shape \[N\], but has shape \[1, 2\]"),
            (3, None, r"shape \[N\], but has shape \[\]"),
        ],
    )
    def test_errors(self, labels: object, num_classes: int | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            class_counts(labels, num_classes)  # type: ignore[arg-type]


class TestClassPrior:
    @given(COUNTS)
    def test_is_the_share_of_the_samples(self, counts: list[int]) -> None:
        prior = class_prior(counts)
        assert prior.dtype == torch.float64
        assert prior.tolist() == pytest.approx([float(Fraction(n, sum(counts))) for n in counts], rel=1e-15)
        assert prior.sum().item() == pytest.approx(1.0, abs=1e-14)

    def test_an_empty_class_has_exactly_0(self) -> None:
        assert class_prior([3, 0, 1]).tolist() == [0.75, 0.0, 0.25]

    @given(COUNTS, st.integers(2, 50))
    def test_only_ratios_matter_and_a_prior_stays_itself(self, counts: list[int], factor: int) -> None:
        prior = class_prior(counts)
        torch.testing.assert_close(class_prior([n * factor for n in counts]), prior, rtol=1e-14, atol=0)
        torch.testing.assert_close(class_prior(prior), prior, rtol=1e-14, atol=0)

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([0, 0], "positive for at least one class, but all 2 are 0"),
            ([5, -2], "must not be negative, but class 1 has -2"),
            ([5.0, 1.0, float("nan")], "must be finite, but class 2 has nan"),
            ([float("inf"), 1.0], "must be finite, but class 0 has inf"),
            ([], r"shape \[C\], but has shape \[0\]"),
            ([[1, 2]], r"shape \[C\], but has shape \[1, 2\]"),
            ([True, False], r"must be numbers, but are torch\.bool"),
            (torch.tensor([1j, 1.0]), r"must be real numbers, but are torch\.complex64"),
        ],
    )
    def test_errors(self, counts: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            class_prior(counts)  # type: ignore[arg-type]


class TestEffectiveNumber:
    @given(st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any), st.floats(0.0, 0.99999))
    def test_is_the_geometric_sum(self, counts: list[int], beta: float) -> None:
        # (1 - beta^n) / (1 - beta) = 1 + beta + ... + beta^(n - 1), which needs no subtraction of near numbers
        expected = [math.fsum(beta**k for k in range(n)) for n in counts]
        assert effective_number(counts, beta).tolist() == pytest.approx(expected, rel=1e-10)

    def test_limits(self) -> None:
        counts = [0, 1, 10, 100_000]
        assert effective_number(counts, 0.0).tolist() == [0, 1, 1, 1]
        assert effective_number(counts, 1 - 1e-13).tolist() == pytest.approx(counts, rel=1e-7)
        assert effective_number(counts, 0.99)[-1].item() == pytest.approx(100.0)  # 1 / (1 - beta)

    def test_keeps_its_digits_where_the_plain_formula_loses_them(self) -> None:
        beta = 1 - 2.0**-40
        exact = (1 - Fraction(beta) ** 3) / (1 - Fraction(beta))
        assert effective_number([3], beta).item() == pytest.approx(float(exact), rel=1e-14)
        assert (1 - beta**3) / (1 - beta) != pytest.approx(float(exact), rel=1e-14)

    @pytest.mark.parametrize("beta", [1.0, -0.1, 2.0, float("nan")])
    def test_beta_out_of_range(self, beta: float) -> None:
        with pytest.raises(ValueError, match=r"`beta` must lie in \[0, 1\), but is"):
            effective_number([1, 2], beta)

    def test_fractions_are_not_counts(self) -> None:
        with pytest.raises(ValueError, match="must be whole numbers of samples, but hold fractions"):
            effective_number([0.5, 0.5])  # type: ignore[list-item]
        assert effective_number(np.array([2.0]), 0.5).tolist() == [1.5]


class TestShotGroups:
    @given(COUNTS, st.integers(0, 200), st.integers(0, 200))
    def test_is_a_partition_by_the_thresholds(self, counts: list[int], a: int, b: int) -> None:
        few, many = sorted((a, b))
        groups = shot_groups(counts, many, few)
        assert list(groups) == ["many", "medium", "few"]
        for k, n in enumerate(counts):
            expected = "many" if n > many else "few" if n < few else "medium"
            assert [name for name, mask in groups.items() if mask[k]] == [expected]

    def test_the_thresholds_themselves_are_medium(self) -> None:
        groups = shot_groups([101, 100, 20, 19, 0])
        assert {name: mask.tolist() for name, mask in groups.items()} == {
            "many": [True, False, False, False, False],
            "medium": [False, True, True, False, False],
            "few": [False, False, False, True, True],
        }

    def test_cifar_100_lt(self) -> None:
        groups = shot_groups(exponential_counts(500, 100, 100))
        assert {name: int(mask.sum()) for name, mask in groups.items()} == {"many": 35, "medium": 35, "few": 30}

    def test_thresholds_the_wrong_way_round(self) -> None:
        with pytest.raises(ValueError, match="`few`=100 must not exceed `many`=20"):
            shot_groups([1], many=20, few=100)


def test_labels_that_are_ids_are_not_counted() -> None:
    with pytest.raises(ValueError, match="`labels` go up to 1000000000000, which makes too many classes to count"):
        class_counts([0, 1, 10**12])


def test_counts_whose_sum_is_infinite_have_a_prior() -> None:
    assert class_prior([1e308, 1e308]).tolist() == [0.5, 0.5]
