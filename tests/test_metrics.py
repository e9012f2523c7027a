"""Metrics against plain loops over Python floats, against numbers made by hand, and at the borders."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor

from ltaug import metrics

# Plain re-derivations.


def argmax(row: list[float]) -> int:
    return row.index(max(row))


def in_bin(value: float, m: int, bins: int) -> bool:
    return m / bins < value <= (m + 1) / bins or (m == 0 and value == 0.0)


def naive_bins(probs: list[list[float]], labels: list[int], bins: int) -> list[tuple[int, float, float]]:
    """(count, accuracy, confidence) of every bin, 0 where empty."""
    rows = []
    for m in range(bins):
        inside = [(p, y) for p, y in zip(probs, labels, strict=True) if in_bin(max(p), m, bins)]
        n = len(inside)
        hits = sum(argmax(p) == y for p, y in inside)
        rows.append((n, hits / n if n else 0.0, math.fsum(max(p) for p, _ in inside) / n if n else 0.0))
    return rows


def naive_ece(probs: list[list[float]], labels: list[int], bins: int) -> float:
    return math.fsum(n / len(labels) * abs(acc - conf) for n, acc, conf in naive_bins(probs, labels, bins))


def naive_mce(probs: list[list[float]], labels: list[int], bins: int) -> float:
    return max(abs(acc - conf) for _, acc, conf in naive_bins(probs, labels, bins))


def naive_classwise(probs: list[list[float]], labels: list[int], bins: int) -> float:
    total, n_classes = 0.0, len(probs[0])
    for j in range(n_classes):
        for m in range(bins):
            inside = [(p[j], y) for p, y in zip(probs, labels, strict=True) if in_bin(p[j], m, bins)]
            if inside:
                acc = sum(y == j for _, y in inside) / len(inside)
                conf = math.fsum(p for p, _ in inside) / len(inside)
                total += len(inside) / len(labels) * abs(acc - conf)
    return total / n_classes


def naive_brier(probs: list[list[float]], labels: list[int]) -> float:
    return math.fsum(
        (p - (c == y)) ** 2 for row, y in zip(probs, labels, strict=True) for c, p in enumerate(row)
    ) / len(labels)


def naive_nll(probs: list[list[float]], labels: list[int]) -> float:
    return math.fsum(-math.log(max(row[y], 1e-15)) for row, y in zip(probs, labels, strict=True)) / len(labels)


def naive_topk(probs: list[list[float]], labels: list[int], k: int) -> float:
    hits = 0
    for row, y in zip(probs, labels, strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        hits += y in order[:k]
    return hits / len(labels)


def naive_recalls(probs: list[list[float]], labels: list[int]) -> list[float]:
    values = []
    for c in range(len(probs[0])):
        hits = [argmax(row) == y for row, y in zip(probs, labels, strict=True) if y == c]
        values.append(sum(hits) / len(hits) if hits else math.nan)
    return values


def naive_shot(probs: list[list[float]], labels: list[int], counts: list[int]) -> dict[str, float]:
    recalls = naive_recalls(probs, labels)
    values = {}
    for name, members in {"many": range(101, 10**9), "medium": range(20, 101), "few": range(20)}.items():
        group = [r for r, n in zip(recalls, counts, strict=True) if n in members and not math.isnan(r)]
        values[name] = sum(group) / len(group) if group else math.nan
    return values


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """Probabilities, labels, training counts, bins; coarse rows give ties, exact zeros and confidences on edges."""
    n, c = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["smooth", "coarse", "sharp"]))
    if kind == "smooth":
        probs = torch.from_numpy(rng.dirichlet(np.ones(c), size=n))
    elif kind == "coarse":
        probs = torch.from_numpy(rng.multinomial(20, np.ones(c) / c, size=n) / 20)
    else:
        probs = torch.from_numpy(rng.normal(size=(n, c)) * 30).softmax(1)
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    labels = torch.from_numpy(rng.integers(c, size=n))
    counts = torch.from_numpy(rng.choice([1, 19, 20, 50, 100, 101, 500], size=c))
    return probs.to(dtype), labels, counts, draw(st.sampled_from([1, 2, 3, 10, 15, 20]))


@settings(deadline=None, max_examples=80)
@given(problems())
def test_every_metric_equals_its_plain_loop(problem: tuple[Tensor, Tensor, Tensor, int]) -> None:
    probs, labels, counts, bins = problem
    p, y = probs.double().tolist(), labels.tolist()
    close: dict[str, Any] = {"rel": 1e-9, "abs": 1e-12}
    for k in range(1, len(p[0]) + 1):
        assert metrics.accuracy(probs, labels, topk=k) == pytest.approx(naive_topk(p, y, k), **close)
    assert metrics.per_class_accuracy(probs, labels).tolist() == pytest.approx(naive_recalls(p, y), nan_ok=True)
    assert metrics.shot_accuracy(probs, labels, counts) == pytest.approx(naive_shot(p, y, counts.tolist()), nan_ok=True)
    assert metrics.expected_calibration_error(probs, labels, bins) == pytest.approx(naive_ece(p, y, bins), **close)
    assert metrics.maximum_calibration_error(probs, labels, bins) == pytest.approx(naive_mce(p, y, bins), **close)
    assert metrics.classwise_calibration_error(probs, labels, bins) == pytest.approx(
        naive_classwise(p, y, bins), **close
    )
    assert metrics.brier_score(probs, labels) == pytest.approx(naive_brier(p, y), **close)
    # Rows that sum to 1 within rounding only may hold a probability a hair above 1; the loop does not cut it off.
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(naive_nll(p, y), rel=1e-9, abs=1e-6)

    found = metrics.reliability_bins(probs, labels, bins)
    for m, (n, acc, conf) in enumerate(naive_bins(p, y, bins)):
        assert found.counts[m] == n
        assert float(found.accuracy[m]) == pytest.approx(acc if n else math.nan, nan_ok=True, **close)
        assert float(found.confidence[m]) == pytest.approx(conf if n else math.nan, nan_ok=True, **close)

    matrix = metrics.confusion_matrix(probs, labels)
    assert matrix.tolist() == [
        [sum(argmax(row) == b and t == a for row, t in zip(p, y, strict=True)) for b in range(len(p[0]))]
        for a in range(len(p[0]))
    ]


@settings(deadline=None, max_examples=30)
@given(problems(), st.integers(0, 2**32 - 1))
def test_order_of_samples_and_names_of_classes_do_not_matter(
    problem: tuple[Tensor, Tensor, Tensor, int], seed: int
) -> None:
    probs, labels, counts, bins = problem
    generator = torch.Generator().manual_seed(seed)
    # Break ties: which class wins one depends on the index.
    probs = probs.double() + torch.rand(probs.shape, generator=generator, dtype=torch.float64) * 1e-6
    probs = probs / probs.sum(1, keepdim=True)
    expected = metrics.classification_report(probs, labels, counts, bins=bins)

    rows = torch.randperm(len(labels), generator=generator)
    shuffled = metrics.classification_report(probs[rows], labels[rows], counts, bins=bins)
    assert shuffled == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-12)

    old = torch.randperm(probs.shape[1], generator=generator)  # new class k is the old class old[k]
    renamed = metrics.classification_report(probs[:, old], old.argsort()[labels], counts[old], bins=bins)
    assert renamed == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-12)


# Numbers made by hand.


def test_calibration_by_hand() -> None:
    # Bin of 0.9: three of four right, gap 0.15. Bin of 0.6: wrong, gap 0.6.
    probs = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 0])
    assert metrics.expected_calibration_error(probs, labels) == pytest.approx((4 * 0.15 + 0.6) / 5, abs=1e-12)
    assert metrics.maximum_calibration_error(probs, labels) == pytest.approx(0.6, abs=1e-12)
    # Class 0: the four at 0.9 miss 0.15 each, the one at 0.4 misses 0.6; class 1 is its mirror image.
    assert metrics.classwise_calibration_error(probs, labels) == pytest.approx((4 * 0.15 + 0.6) / 5, abs=1e-12)
    assert metrics.brier_score(probs, labels) == pytest.approx((3 * 0.02 + 1.62 + 0.72) / 5, abs=1e-12)
    nll = -(3 * math.log(0.9) + math.log(0.1) + math.log(0.4)) / 5
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(nll, abs=1e-12)


def test_classwise_error_sees_what_the_top_class_hides() -> None:
    # The top class is calibrated, the mass of the others sits on the wrong one: class 0 gap 0, classes 1 and 2 gap 1/4.
    probs, labels = [[0.75, 0.25, 0.0]] * 4, [0, 0, 0, 2]
    assert metrics.expected_calibration_error(probs, labels) == 0.0
    assert metrics.classwise_calibration_error(probs, labels) == pytest.approx((0 + 0.25 + 0.25) / 3)


def test_a_label_of_probability_zero_counts_in_the_first_bin() -> None:
    # Loops over (lo, hi] alone lose p = 0, and with it the worst error there is.
    assert metrics.classwise_calibration_error([[1.0, 0.0]], [1]) == 1.0


def test_bins_change_what_averages_out() -> None:
    probs, labels = [[0.7, 0.3], [0.9, 0.1]], [1, 0]  # gaps -0.7 and 0.1, in one bin of two or in two of ten
    assert metrics.expected_calibration_error(probs, labels, bins=2) == pytest.approx((0.7 - 0.1) / 2)
    assert metrics.expected_calibration_error(probs, labels, bins=10) == pytest.approx((0.7 + 0.1) / 2)
    assert metrics.maximum_calibration_error(probs, labels, bins=1) == pytest.approx(0.3)


def test_accuracy_returns_a_float_or_a_tuple() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5], [0.6, 0.3, 0.1]])
    labels = torch.tensor([0, 2, 1, 1])
    assert metrics.accuracy(probs, labels) == 0.25
    assert metrics.accuracy(probs, labels, topk=2) == 0.75
    assert metrics.accuracy(probs, labels, topk=(1,)) == (0.25,)
    assert metrics.accuracy(probs, labels, topk=[3, 1, 2]) == (1.0, 0.25, 0.75)


def test_ties_go_to_the_lower_index_in_every_metric() -> None:
    probs = torch.full((12, 4), 0.25)
    labels = torch.arange(4).repeat(3)
    assert metrics.accuracy(probs, labels, topk=(1, 2, 3, 4)) == (0.25, 0.5, 0.75, 1.0)
    assert metrics.per_class_accuracy(probs, labels).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert metrics.confusion_matrix(probs, labels)[:, 0].tolist() == [3, 3, 3, 3]
    assert metrics.classification_report(probs, labels, [1, 2, 3, 4])["top1"] == 0.25


def test_confusion_has_the_truth_in_its_rows() -> None:
    predictions, labels = torch.tensor([1, 1, 2, 0]), torch.tensor([0, 0, 2, 1])
    expected = [[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    matrix = metrics.confusion_matrix(predictions, labels, num_classes=4)
    assert matrix.tolist() == expected
    assert matrix.dtype == torch.int64
    assert metrics.confusion_matrix(predictions, labels).shape == (3, 3)


def test_confusion_of_dense_predictions_counts_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(2, 4, 3, 5, generator=generator).softmax(1)
    labels = torch.randint(4, (2, 3, 5), generator=generator)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for i in range(2):
        for y in range(3):
            for x in range(5):
                expected[labels[i, y, x], probs[i, :, y, x].argmax()] += 1
    assert torch.equal(metrics.confusion_matrix(probs, labels), expected)
    assert torch.equal(metrics.confusion_matrix(probs.argmax(1), labels, 4), expected)
    halves = [metrics.confusion_matrix(p, y) for p, y in zip(probs.split(1), labels.split(1), strict=True)]
    assert torch.equal(halves[0] + halves[1], expected)
    with pytest.raises(ValueError, match=r"`labels` must have the shape .* \[2, 3, 4\] and \[2, 4, 3, 5\]"):
        metrics.confusion_matrix(probs, labels[..., 1:])


@pytest.mark.parametrize("ignored", [255, -100, 1])
def test_an_ignored_label_is_left_out(ignored: int) -> None:
    generator = torch.Generator().manual_seed(1)
    probs = torch.randn(2, 3, 4, 4, generator=generator).softmax(1)
    labels = torch.randint(3, (2, 4, 4), generator=generator)
    labels[0, :2] = ignored
    keep = labels != ignored
    expected = metrics.confusion_matrix(probs.argmax(1)[keep], labels[keep], 3)
    assert expected.sum() == keep.sum() < 32
    assert torch.equal(metrics.confusion_matrix(probs, labels, ignore_index=ignored), expected)
    assert torch.equal(metrics.confusion_matrix(probs.argmax(1), labels, 3, ignore_index=ignored), expected)
    nothing = metrics.confusion_matrix(probs, torch.full_like(labels, ignored), ignore_index=ignored)
    assert torch.equal(nothing, torch.zeros(3, 3, dtype=torch.int64))  # a batch without a known pixel adds nothing
    everywhere = torch.full_like(labels, ignored)
    for size in (3, None):  # of predictions whose classes are told, or are those that were predicted
        nothing = metrics.confusion_matrix(probs.argmax(1), everywhere, size, ignore_index=ignored)
        assert torch.equal(nothing, torch.zeros(3, 3, dtype=torch.int64))
    if ignored != 1:
        with pytest.raises(ValueError, match="`labels` must lie in"):
            metrics.confusion_matrix(probs, labels)


def test_segmentation_scores_equal_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, 200), rng.integers(0, 5, 200)  # class 4 is only predicted, 5 is nowhere
    scores = metrics.segmentation_scores(metrics.confusion_matrix(guess, truth, 6))
    iou, recall, weighted = [], [], 0.0
    for c in range(6):
        there, said = set(np.flatnonzero(truth == c)), set(np.flatnonzero(guess == c))
        iou.append(len(there & said) / len(there | said) if there | said else math.nan)
        recall.append(len(there & said) / len(there) if there else math.nan)
        weighted += len(there) / 200 * iou[-1] if there else 0.0
    assert scores.class_iou.tolist() == pytest.approx(iou, nan_ok=True)
    assert scores.class_accuracy.tolist() == pytest.approx(recall, nan_ok=True)
    assert (iou[4], math.isnan(iou[5]), math.isnan(recall[4])) == (0.0, True, True)
    assert scores.mean_iou == pytest.approx(sum(iou[:5]) / 5)
    assert scores.mean_accuracy == pytest.approx(sum(recall[:4]) / 4)
    assert scores.overall_accuracy == pytest.approx((truth == guess).mean())
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


def test_the_mean_accuracy_is_the_accuracy_under_a_uniform_prior() -> None:
    matrix = torch.tensor([[90, 10], [3, 7]])
    balanced = matrix / matrix.sum(1, keepdim=True)
    scores, even = metrics.segmentation_scores(matrix), metrics.segmentation_scores(balanced)
    assert scores.mean_accuracy == pytest.approx(even.overall_accuracy)
    assert scores.overall_accuracy != pytest.approx(even.overall_accuracy)
    assert metrics.segmentation_scores(matrix.flip(0, 1)).mean_iou == pytest.approx(scores.mean_iou)


def test_segmentation_scores_say_what_is_no_confusion_matrix() -> None:
    for bad, message in (
        ([[1, 2, 3], [4, 5, 6]], r"square matrix \[C, C\], but has shape \[2, 3\]"),
        ([[1.0, math.nan], [0.0, 1.0]], "negative, NaN or infinite"),
        ([[1, -1], [0, 1]], "negative, NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.segmentation_scores(bad)


def test_no_segmentation_score_is_defined_on_no_pixel() -> None:
    labels = torch.full((2, 3, 3), 255)
    scores = metrics.segmentation_scores(metrics.confusion_matrix(torch.zeros_like(labels), labels, 4, 255))
    assert all(math.isnan(value) for value in scores[:4])
    assert scores.class_iou.isnan().tolist() == scores.class_accuracy.isnan().tolist() == [True] * 4


def test_shot_accuracy_weighs_classes_not_samples() -> None:
    # Class 0 has nine test samples, all right; class 1 has one, wrong.
    predictions, labels = [0] * 10, [0] * 9 + [1]
    values = metrics.shot_accuracy(predictions, labels, class_counts=[500, 101])
    assert values["many"] == 0.5
    assert metrics.accuracy(predictions, labels) == 0.9


def test_shot_thresholds_are_medium_themselves() -> None:
    labels = [0, 1, 2, 3]
    right_on = {"many": [0, 0, 0, 0], "few": [3, 3, 3, 3]}
    counts = [101, 100, 20, 19]
    assert metrics.shot_accuracy(right_on["many"], labels, counts) == {"many": 1.0, "medium": 0.0, "few": 0.0}
    assert metrics.shot_accuracy(right_on["few"], labels, counts) == {"many": 0.0, "medium": 0.0, "few": 1.0}
    assert metrics.shot_accuracy([1, 1, 2, 2], labels, counts) == {"many": 0.0, "medium": 1.0, "few": 0.0}
    moved = metrics.shot_accuracy([1, 1, 2, 2], labels, counts, many=50, few=21)
    assert moved["many"] == 0.5
    assert math.isnan(moved["medium"])
    assert moved["few"] == 0.5


def test_an_empty_group_is_nan_and_a_failed_one_is_zero() -> None:
    values = metrics.shot_accuracy([0, 0, 0], [0, 1, 1], class_counts=[500, 5])
    assert values["few"] == 0.0
    assert math.isnan(values["medium"])


def test_a_class_missing_from_the_test_set_is_left_out_of_its_group() -> None:
    probs = torch.eye(4)[[0, 1, 1]]
    labels = torch.tensor([0, 1, 1])  # classes 2 and 3 are not tested
    recalls = metrics.per_class_accuracy(probs, labels)
    assert recalls.dtype == torch.float64
    assert recalls[:2].tolist() == [1.0, 1.0]
    assert recalls[2:].isnan().all()
    values = metrics.shot_accuracy(probs, labels, class_counts=[500, 50, 40, 3])
    assert (values["many"], values["medium"]) == (1.0, 1.0)
    assert math.isnan(values["few"])  # its only class has no test sample


def test_nll_of_an_underflowed_probability_is_finite() -> None:
    assert metrics.negative_log_likelihood([[1.0, 0.0]], [1]) == pytest.approx(15 * math.log(10))


# Perfection and calibration.


def test_perfect_one_hot_predictions() -> None:
    labels = torch.arange(7).repeat(3)
    report = metrics.classification_report(torch.eye(7)[labels], labels, [300, 200, 100, 50, 20, 5, 1])
    ones, zeros = (
        ("top1", "top5", "many", "medium", "few", "balanced_accuracy", "macro_f1", "confidence"),
        ("ece", "mce", "classwise_ece", "brier", "nll", "adaptive_ece"),
    )
    assert report == {**dict.fromkeys(ones, 1.0), **dict.fromkeys(zeros, 0.0)}
    assert math.copysign(1.0, report["nll"]) == 1.0  # prints as 0.0, not as -0.0
    wrong = metrics.classification_report(torch.eye(7)[(labels + 1) % 7], labels, [300, 200, 100, 50, 20, 5, 1])
    assert (wrong["top1"], wrong["ece"], wrong["mce"], wrong["brier"]) == (0.0, 1.0, 1.0, 2.0)
    assert wrong["classwise_ece"] == pytest.approx(2 / 7)


@pytest.mark.parametrize("numerators", [(4, 3, 1), (5, 2, 1), (6, 1, 1), (8, 0, 0)])
def test_labels_in_the_stated_proportions_are_perfectly_calibrated(numerators: tuple[int, int, int]) -> None:
    probs = torch.tensor([numerators] * 8) / 8
    labels = torch.arange(3).repeat_interleave(torch.tensor(numerators))
    assert metrics.expected_calibration_error(probs, labels) == 0.0
    assert metrics.maximum_calibration_error(probs, labels) == 0.0
    assert metrics.classwise_calibration_error(probs, labels) == 0.0
    if numerators[0] < 8:
        assert metrics.brier_score(probs, labels) > 0.0  # uncertain all the same
        assert metrics.expected_calibration_error(probs, labels.flip(0) * 0) > 0.0


# Edges of the bins.


def two_level_rows(tops: list[float], num_classes: int) -> Tensor:
    """Rows with the given largest probability, the rest spread evenly."""
    top = torch.tensor(tops, dtype=torch.float64).unsqueeze(1)
    return torch.cat([top, ((1.0 - top) / (num_classes - 1)).expand(-1, num_classes - 1)], dim=1)


@pytest.mark.parametrize("bins", range(1, 61))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    edges = [m / bins for m in range(1, bins + 1)]
    probs = two_level_rows(edges, num_classes=bins + 2)
    labels = torch.zeros(bins, dtype=torch.int64)
    assert metrics.reliability_bins(probs, labels, bins).counts.tolist() == [1] * bins

    above = two_level_rows([math.nextafter(e, 2.0) for e in edges[:-1]], num_classes=bins + 2)
    if bins > 1:
        counts = metrics.reliability_bins(above, labels[1:], bins).counts
        assert counts.tolist() == [0] + [1] * (bins - 1)


def test_a_list_keeps_its_decimals_on_their_edge() -> None:
    # 0.6 is 9 / 15; read in single precision it would be 0.60000002 and fall into the bin above.
    bins = metrics.reliability_bins([[0.6, 0.4]], [0], bins=15)
    assert bins.counts.nonzero().tolist() == [[8]]


def test_single_precision_is_compared_as_it_is() -> None:
    # float32(0.6) = 0.60000002 lies above the edge 9 / 15, float32(0.7) = 0.69999999 below the edge 7 / 10.
    above, below = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.7, 0.3]])
    assert metrics.reliability_bins(above, [0], bins=15).counts.nonzero().tolist() == [[9]]
    assert metrics.reliability_bins(below, [0], bins=10).counts.nonzero().tolist() == [[6]]


def test_full_and_smallest_confidence() -> None:
    bins = metrics.reliability_bins([[1.0, 0.0], [0.5, 0.5]], [0, 1], bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert bins.accuracy[[4, 9]].tolist() == [0.0, 1.0]
    assert bins.confidence[[4, 9]].tolist() == [0.5, 1.0]
    assert bins.accuracy.isnan().sum() == bins.confidence.isnan().sum() == 8
    assert bins.edges.tolist() == [m / 10 for m in range(11)]


def test_a_probability_rounded_above_one_stays_in_the_last_bin() -> None:
    probs = torch.tensor([[1.0 + 1e-6, 0.0]], dtype=torch.float64)
    assert metrics.reliability_bins(probs, [0], bins=15).counts[-1] == 1
    assert metrics.negative_log_likelihood(probs, [0]) == 0.0


# The report, and forms of input.


def sample(n: int = 200, num_classes: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, num_classes, generator=generator, dtype=dtype)
    labels = torch.randint(num_classes, (n,), generator=generator)
    return logits.softmax(1), labels, torch.tensor([500, 200, 101, 100, 50, 20, 19, 1])


def test_report_equals_the_single_metrics() -> None:
    probs, labels, counts = sample()
    top1, top5 = metrics.accuracy(probs, labels, topk=(1, 5))
    expected = {
        "top1": top1,
        "top5": top5,
        **metrics.shot_accuracy(probs, labels, counts, many=150, few=60),
        "balanced_accuracy": metrics.balanced_accuracy(probs, labels),
        "macro_f1": metrics.macro_f1(probs, labels),
        "confidence": probs.max(1).values.double().mean().item(),
        "ece": metrics.expected_calibration_error(probs, labels, 20),
        "mce": metrics.maximum_calibration_error(probs, labels, 20),
        "classwise_ece": metrics.classwise_calibration_error(probs, labels, 20),
        "brier": metrics.brier_score(probs, labels),
        "nll": metrics.negative_log_likelihood(probs, labels),
        "adaptive_ece": metrics.adaptive_calibration_error(probs, labels, 20),
    }
    report = metrics.classification_report(probs, labels, counts, bins=20, many=150, few=60)
    predictions = probs.argmax(1).numpy()
    assert report["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels.numpy(), predictions))
    assert report["macro_f1"] == pytest.approx(f1_score(labels.numpy(), predictions, average="macro"))
    assert list(report) == list(expected)
    assert report == pytest.approx(expected, rel=1e-12)  # other chunks, other sums
    assert all(type(value) is float for value in report.values())
    assert report != metrics.classification_report(probs, labels, counts)  # bins and thresholds do reach the parts


def test_top5_of_few_classes_is_one() -> None:
    report = metrics.classification_report([[0.9, 0.1, 0.0]] * 3, [0, 1, 2], class_counts=[9, 9, 9])
    assert report["top1"] == pytest.approx(1 / 3)
    assert report["top5"] == 1.0


def test_predictions_serve_where_the_order_of_classes_does() -> None:
    probs, labels, counts = sample()
    predictions = probs.argmax(1)
    assert metrics.accuracy(predictions, labels) == metrics.accuracy(probs, labels)
    assert metrics.accuracy(predictions, labels, topk=(1,)) == (metrics.accuracy(probs, labels),)
    assert torch.equal(metrics.per_class_accuracy(predictions, labels, 8), metrics.per_class_accuracy(probs, labels))
    assert metrics.shot_accuracy(predictions, labels, counts) == metrics.shot_accuracy(probs, labels, counts)
    assert torch.equal(metrics.confusion_matrix(predictions, labels), metrics.confusion_matrix(probs, labels))


def test_arrays_lists_gradients_and_strides_are_read_without_a_word() -> None:
    probs, labels, counts = sample(dtype=torch.float64)
    expected = metrics.classification_report(probs, labels, counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forms: list[tuple[Any, Any, Any]] = [
            (probs.numpy(), labels.numpy().astype(np.int32), counts.numpy()),
            (probs.tolist(), labels.tolist(), counts.tolist()),
            (probs.clone().requires_grad_(), labels.to(torch.uint8), counts),
            (probs.t().contiguous().t(), labels, counts),
            (torch.stack([probs, probs], 2)[..., 0], torch.stack([labels, labels], 1)[:, 0], counts),
        ]
        for p, y, n in forms:
            assert metrics.classification_report(p, y, n) == pytest.approx(expected, rel=1e-12)


def test_inputs_are_left_as_they_were() -> None:
    probs, labels, counts = sample(dtype=torch.float64)
    before = probs.clone()
    metrics.classification_report(probs, labels, counts)
    assert torch.equal(probs, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_probabilities_pass_the_check(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 10, 1000):
        probs = torch.randn(100, num_classes, generator=generator).softmax(1).to(dtype)
        labels = torch.randint(num_classes, (100,), generator=generator)
        upcast = metrics.brier_score(probs.double(), labels)  # no longer known to be rounded, and still no error
        assert metrics.brier_score(probs, labels) == pytest.approx(upcast, rel=1e-12)


def test_sums_are_double_precision() -> None:
    # 200k single-precision terms: a float32 running sum would be off in the fourth digit.
    probs = torch.tensor([[0.9, 0.1]]).repeat(200_000, 1)
    labels = torch.zeros(200_000, dtype=torch.int64)
    p = float(probs[0, 0])
    assert metrics.expected_calibration_error(probs, labels) == pytest.approx(1 - p, rel=1e-10)
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(-math.log(p), rel=1e-10)


@pytest.mark.parametrize("chunk", [1, 8, 100, 1593])
def test_chunks_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels, counts = sample()
    expected = metrics.classification_report(probs, labels, counts)
    monkeypatch.setattr("ltaug.metrics._inputs.CHUNK", chunk)
    assert metrics.classification_report(probs, labels, counts) == pytest.approx(expected, rel=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_device_changes_nothing_even_when_it_must_be_deterministic() -> None:
    probs, labels, counts = sample(dtype=torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        there = metrics.classification_report(probs.cuda(), labels, counts)  # labels and counts follow by themselves
        bins = metrics.reliability_bins(probs.cuda(), labels.cuda())
        assert metrics.per_class_accuracy(probs.cuda(), labels.cuda()).is_cuda
        assert metrics.confusion_matrix(probs.cuda(), labels.cuda()).is_cuda
    finally:
        torch.use_deterministic_algorithms(False)
    assert there == pytest.approx(metrics.classification_report(probs, labels, counts), rel=1e-9)
    assert bins.edges.is_cuda
    assert bins.counts.is_cuda


# Errors.

OF_PROBS: dict[str, Callable[..., Any]] = {
    "accuracy": metrics.accuracy,
    "per_class_accuracy": metrics.per_class_accuracy,
    "shot_accuracy": lambda p, y: metrics.shot_accuracy(p, y, [10, 10]),
    "confusion_matrix": metrics.confusion_matrix,
    "reliability_bins": metrics.reliability_bins,
    "expected_calibration_error": metrics.expected_calibration_error,
    "maximum_calibration_error": metrics.maximum_calibration_error,
    "classwise_calibration_error": metrics.classwise_calibration_error,
    "brier_score": metrics.brier_score,
    "negative_log_likelihood": metrics.negative_log_likelihood,
    "classification_report": lambda p, y: metrics.classification_report(p, y, [10, 10]),
}


@pytest.mark.parametrize("name", OF_PROBS)
def test_every_metric_refuses_what_is_no_probability(name: str) -> None:
    metric = OF_PROBS[name]
    good, labels = [[0.5, 0.5], [0.9, 0.1]], [0, 1]
    metric(good, labels)
    with pytest.raises(ValueError, match=r"row 1 sums to 1.2 \(1 of 2 rows are off\).*`logits.softmax\(1\)`"):
        metric([[0.5, 0.5], [1.0, 0.2]], labels)
    with pytest.raises(ValueError, match=r"row 0 sums to 0\.97"):
        metric([[0.5, 0.47], [0.5, 0.5]], labels)
    with pytest.raises(ValueError, match=r"row 0 has the negative entry -1.5.*`logits.softmax\(1\)`"):
        metric([[2.5, -1.5], [0.5, 0.5]], labels)
    with pytest.raises(ValueError, match="row 1 has NaN or infinite entries"):
        metric([[0.5, 0.5], [math.nan, 0.5]], labels)
    with pytest.raises(ValueError, match="row 0 has NaN or infinite entries"):
        metric([[math.inf, 0.5], [0.5, 0.5]], labels)
    with pytest.raises(ValueError, match=r"`labels` must lie in 0\.\.1, .* range from 0 to 2"):
        metric(good, [0, 2])
    with pytest.raises(ValueError, match=r"`labels` must lie in 0\.\.1, .* range from -100 to 0.*ignored"):
        metric(good, [0, -100])
    with pytest.raises(ValueError, match="one class index a sample, 2 as `probs`, but hold 3"):
        metric(good, [0, 1, 1])
    with pytest.raises(ValueError, match=r"`labels` must be integers, but are torch\.float32"):
        metric(good, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"shape \[N\], but has shape \[2, 2\]"):
        metric(good, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="empty"):
        metric(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \[N, C\], but has shape \[2, 2, 3\].*movedim"):
        metric(torch.full((2, 2, 3), 0.5), labels)
    with pytest.raises(ValueError, match=r"floating point, but are torch\.int64"):
        metric(torch.eye(2, dtype=torch.int64), labels)


@pytest.mark.parametrize(
    "name", ["reliability_bins", "brier_score", "negative_log_likelihood", "classification_report"]
)
def test_predictions_are_refused_where_probabilities_matter(name: str) -> None:
    with pytest.raises(ValueError, match=r"shape \[N, C\], but has shape \[2\]"):
        OF_PROBS[name]([0, 1], [0, 1])


@pytest.mark.parametrize("name", ["accuracy", "per_class_accuracy", "shot_accuracy", "confusion_matrix"])
def test_predictions_are_checked_too(name: str) -> None:
    metric = OF_PROBS[name]
    with pytest.raises(ValueError, match=r"`probs` must lie in .* range from -1 to 0"):
        metric([0, -1], [0, 1])
    with pytest.raises(ValueError, match=r"`labels` must lie in .* range from -1 to 0"):
        metric([0, 1], [0, -1])
    with pytest.raises(ValueError, match="a sample, 2 as `probs`, but hold 1"):
        metric([0, 1], [0])
    with pytest.raises(ValueError, match="empty"):
        metric([], [])


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.per_class_accuracy, metrics.confusion_matrix])
def test_float_predictions_are_no_predictions(metric: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"`probs` must .*shape \[2\]"):
        metric(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))


def test_num_classes_must_fit() -> None:
    with pytest.raises(ValueError, match="`num_classes` must agree with the 2 columns of `probs`, but has 3 classes"):
        metrics.per_class_accuracy([[0.5, 0.5]], [0], num_classes=3)
    with pytest.raises(ValueError, match="`class_counts` must agree with the 2 columns of `probs`, but has 3 classes"):
        metrics.shot_accuracy([[0.5, 0.5]], [0], [1, 2, 3])
    with pytest.raises(ValueError, match="`class_counts` must agree with the 2 columns of `probs`, but has 3 classes"):
        metrics.classification_report([[0.5, 0.5]], [0], [1, 2, 3])
    with pytest.raises(ValueError, match=r"`probs` must lie in 0\.\.1, the classes of `num_classes`, .* 0 to 2"):
        metrics.confusion_matrix([0, 2], [0, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"`labels` must lie in 0\.\.1, the classes of `class_counts`, .* 0 to 2"):
        metrics.shot_accuracy([0, 1], [0, 2], [5, 5])


def test_topk_must_exist() -> None:
    probs = [[0.5, 0.3, 0.2]]
    for topk in (0, 4, (1, 4)):
        with pytest.raises(ValueError, match=r"`topk` must lie in 1\.\.3"):
            metrics.accuracy(probs, [0], topk=topk)
    with pytest.raises(ValueError, match="`topk` must be 1 for class predictions"):
        metrics.accuracy([0, 1], [0, 1], topk=(1, 2))


@pytest.mark.parametrize(
    "metric",
    [
        metrics.reliability_bins,
        metrics.expected_calibration_error,
        metrics.maximum_calibration_error,
        metrics.classwise_calibration_error,
    ],
)
def test_bins_must_be_positive(metric: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`bins` must be at least 1, but is 0"):
        metric([[0.5, 0.5]], [0], bins=0)


class TestOfClasses:
    """Means over classes, beside scikit-learn's."""

    @pytest.mark.parametrize("seed", range(5))
    def test_as_scikit_learn(self, seed: int) -> None:
        scores = pytest.importorskip("sklearn.metrics")
        random = np.random.default_rng(seed)
        labels, found = random.choice(6, 80, p=[0.5, 0.3, 0.1, 0.06, 0.04, 0.0]), random.integers(0, 6, 80)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class is predicted that there is none of
            wanted = scores.balanced_accuracy_score(labels, found)
        assert metrics.balanced_accuracy(found, labels) == pytest.approx(wanted)
        assert metrics.macro_f1(found, labels) == pytest.approx(scores.f1_score(labels, found, average="macro"))

    def test_of_probabilities(self) -> None:
        probs = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0]]
        assert metrics.macro_f1(probs, [0, 1, 1]) == metrics.macro_f1([0, 0, 1], [0, 1, 1])
        assert metrics.balanced_accuracy(probs, [0, 1, 1]) == 0.75


class TestAdaptiveCalibrationError:
    def test_bins_of_equally_many(self) -> None:
        """Without ties, consecutive parts of the sorted confidences."""
        generator = torch.Generator().manual_seed(0)
        probs = torch.randn(90, 4, generator=generator, dtype=torch.float64).mul(3).softmax(1)
        labels = torch.randint(4, (90,), generator=generator)
        order = probs.amax(1).argsort().tolist()
        total = 0.0
        for m in range(15):
            part = order[6 * m : 6 * (m + 1)]
            hits = sum(argmax(probs[k].tolist()) == int(labels[k]) for k in part)
            total += abs(hits - math.fsum(float(probs[k].max()) for k in part))
        assert metrics.adaptive_calibration_error(probs, labels) == pytest.approx(total / 90)

    def test_the_order_of_ties_does_not_matter(self) -> None:
        probs = [[0.75, 0.25]] * 16
        labels = [0] * 12 + [1] * 4
        for order in (labels, labels[::-1], labels[1::2] + labels[::2]):
            assert metrics.adaptive_calibration_error(probs, order) == pytest.approx(0.0)

    def test_one_bin_and_more_bins_than_samples(self) -> None:
        probs, labels = [[0.9, 0.1], [0.7, 0.3]], [0, 1]
        assert metrics.adaptive_calibration_error(probs, labels, bins=1) == pytest.approx(0.3)
        assert metrics.adaptive_calibration_error(probs, labels, bins=50) == pytest.approx((0.1 + 0.7) / 2)
        with pytest.raises(ValueError, match="`bins` must be at least 1"):
            metrics.adaptive_calibration_error(probs, labels, bins=0)
