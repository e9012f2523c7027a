"""Scores of labels that may come together, against scikit-learn and plain sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from ltaug import multilabel_report, shift_binary_logits
from ltaug.metrics import average_precision, classwise_calibration_error, labelwise_calibration_error

COUNTS = [500, 60, 5, 3]


def a_set(size: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(size, 4, generator=generator, dtype=torch.float64).pow(2)
    return probs, torch.rand(size, 4, generator=generator) < probs * torch.tensor([1.0, 0.8, 0.3, 0.5])


class TestAveragePrecision:
    @given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
    def test_is_scikit_learns_with_ties(self, samples: list[tuple[int, bool]]) -> None:
        p, y = torch.tensor([k / 6 for k, _ in samples]), torch.tensor([truth for _, truth in samples])
        found = average_precision(p, y).item()
        if not bool(y.any()):
            assert math.isnan(found)
        else:
            assert found == pytest.approx(average_precision_score(y.numpy(), p.numpy()), abs=1e-12)

    def test_is_scikit_learns_for_many_labels_and_any_order(self, device: torch.device) -> None:
        probs, truth = a_set()
        expected = [average_precision_score(truth[:, k].numpy(), probs[:, k].numpy()) for k in range(4)]
        order = torch.randperm(len(probs))
        for p, y in ((probs, truth), (probs[order], truth[order]), (probs.to(device), truth.to(device))):
            assert average_precision(p, y).tolist() == pytest.approx(expected, abs=1e-12)

    def test_blocks_of_labels_make_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probs, truth = a_set()
        whole = multilabel_report(probs, truth, COUNTS)
        monkeypatch.setattr("ltaug.metrics.multi_label.CHUNK", 400)
        assert multilabel_report(probs, truth, COUNTS) == pytest.approx(whole, rel=1e-12)

    def test_a_shift_of_a_label_changes_no_average_precision(self) -> None:
        probs, truth = a_set()
        moved = shift_binary_logits(probs.logit(), [0.3, 0.2, 0.1, 0.1], [0.5] * 4).sigmoid()
        torch.testing.assert_close(average_precision(moved, truth), average_precision(probs, truth))
        assert multilabel_report(moved, truth, COUNTS)["f1"] != multilabel_report(probs, truth, COUNTS)["f1"]


class TestLabelwiseCalibration:
    @pytest.mark.parametrize("bins", [1, 4, 15])
    def test_is_the_mean_of_binary_errors(self, bins: int) -> None:
        probs, truth = a_set()
        errors = []
        for p, y in zip(probs.T.tolist(), truth.T.tolist(), strict=True):
            error = 0.0
            for m in range(bins):
                inside = [k for k, value in enumerate(p) if m / bins < value <= (m + 1) / bins or (m == value == 0)]
                if inside:
                    gap = sum(y[k] for k in inside) / len(inside) - sum(p[k] for k in inside) / len(inside)
                    error += len(inside) / len(p) * abs(gap)
            errors.append(error)
        assert labelwise_calibration_error(probs, truth, bins) == pytest.approx(np.mean(errors), rel=1e-10)

    def test_of_classes_it_is_the_class_wise_error(self) -> None:
        probs, labels = torch.rand(50, 3).softmax(1), torch.randint(3, (50,))
        expected = classwise_calibration_error(probs, labels)
        one_hot = torch.nn.functional.one_hot(labels, 3)
        assert labelwise_calibration_error(probs, one_hot) == pytest.approx(expected, rel=1e-10)

    def test_constant_shares_are_calibrated(self) -> None:
        truth = torch.tensor([[1, 0], [0, 0], [0, 0], [1, 0]])
        assert labelwise_calibration_error(torch.tensor([[0.5, 0.0]]).expand(4, 2), truth) == 0.0
        assert labelwise_calibration_error(torch.tensor([[0.5, 0.5]]).expand(4, 2), truth) == 0.25


class TestReport:
    def test_its_numbers(self) -> None:
        probs, truth = a_set()
        report = multilabel_report(probs, truth, COUNTS)
        precisions = average_precision(probs, truth)
        assert report["map"] == pytest.approx(precisions.mean().item())
        assert report["many"] == pytest.approx(precisions[0].item())
        assert report["medium"] == pytest.approx(precisions[1].item())
        assert report["few"] == pytest.approx(precisions[2:].mean().item())
        assert report["f1"] == pytest.approx(f1_score(truth.numpy(), (probs >= 0.5).numpy(), average="macro"))
        assert report["labelwise_ece"] == labelwise_calibration_error(probs, truth)
        y = truth.double()
        assert report["brier"] == pytest.approx((probs - y).square().mean().item())
        nll = torch.nn.functional.binary_cross_entropy(probs, y)
        assert report["nll"] == pytest.approx(nll.item(), rel=1e-9)
        assert report["unscored"] == 0.0
        assert multilabel_report(probs.numpy(), truth.numpy(), COUNTS) == pytest.approx(report)

    def test_a_label_without_positives_is_left_out_and_counted(self) -> None:
        probs, truth = a_set()
        truth[:, 2] = False
        report = multilabel_report(probs, truth, COUNTS)
        others = average_precision(probs, truth)[[0, 1, 3]]
        assert report["map"] == pytest.approx(others.mean().item())
        assert report["few"] == pytest.approx(others[2].item())
        assert report["unscored"] == 1.0
        rest = multilabel_report(probs[:, [0, 1, 3]], truth[:, [0, 1, 3]], [500, 60, 3])
        assert report["f1"] == pytest.approx(rest["f1"])
        truth[:, 3] = False
        assert math.isnan(multilabel_report(probs, truth, COUNTS)["few"])

    def test_what_is_not_known_counts_nowhere(self) -> None:
        probs, truth = a_set()
        known = torch.rand(truth.shape) > 0.3
        known[:, 3] = False
        rows = truth.long().masked_fill(~known, -1)
        report = multilabel_report(probs, rows, COUNTS, ignore_index=-1)
        one = [multilabel_report(probs[kept, k], truth[kept, k], [COUNTS[k]]) for k, kept in enumerate(known.T[:3])]
        for name in ("map", "f1", "labelwise_ece"):
            assert report[name] == pytest.approx(np.mean([each[name] for each in one]), rel=1e-12)
        sizes = known[:, :3].sum(0).numpy()
        for name in ("brier", "nll"):
            assert report[name] == pytest.approx(np.average([each[name] for each in one], weights=sizes), rel=1e-12)
        assert report["unscored"] == 1.0
        other = torch.where(known, probs, torch.rand(probs.shape, dtype=torch.float64))
        assert multilabel_report(other, rows, COUNTS, ignore_index=-1) == pytest.approx(report, rel=1e-12)
        assert average_precision(probs, rows, -1)[:3].tolist() == pytest.approx([each["map"] for each in one])
        assert labelwise_calibration_error(probs, rows, ignore_index=-1) == report["labelwise_ece"]
        bytes_ = truth.to(torch.uint8)  # in which -100 would be 156, and -255 be 1
        assert multilabel_report(probs, bytes_, COUNTS, ignore_index=-255) == multilabel_report(probs, truth, COUNTS)
        with pytest.raises(ValueError, match=r"but hold -1.*`ignore_index`"):
            multilabel_report(probs, rows, COUNTS)
        with pytest.raises(ValueError, match="`targets` must not all be -1"):
            average_precision(probs, torch.full((300, 4), -1), ignore_index=-1)
        with pytest.raises(ValueError, match="must be another number than 0 and 1"):
            average_precision(probs, rows, ignore_index=0)
        with pytest.raises(ValueError, match="has no place for what is not known"):
            average_precision(probs, [[0]] * 300, ignore_index=-1)

    def test_one_label(self) -> None:
        probs, truth = a_set()
        p, y = probs[:, 0], truth[:, 0]
        report = multilabel_report(p.unsqueeze(1), y.unsqueeze(1), [5])
        for probs, labels in ((p, y), (p.numpy(), y.numpy()), (p, y.long().tolist()), (p.unsqueeze(1), y.numpy())):
            assert multilabel_report(probs, labels, [5]) == pytest.approx(report, nan_ok=True)
            torch.testing.assert_close(average_precision(probs, labels).item(), report["map"])
        with pytest.raises(ValueError, match="`targets` must be multi-hot rows of 0 and 1, but hold 2"):
            multilabel_report(p.numpy(), 2 * y.numpy(), [5])

    def test_perfect_and_overconfident_probabilities(self) -> None:
        truth = torch.tensor([[1, 0], [0, 1]])
        report = multilabel_report(truth.double(), truth, [5, 5])
        assert (report["map"], report["f1"], report["nll"], report["labelwise_ece"]) == (1.0, 1.0, 0.0, 0.0)
        assert multilabel_report(1.0 - truth.double(), truth, [5, 5])["nll"] == pytest.approx(-math.log(1e-15))

    @pytest.mark.parametrize(
        ("probs", "targets", "counts", "message"),
        [
            ([[0.5, 2.0]], [[0]], [1, 1], r"row 0 has 2 for label 1\. If these are logits, pass `logits\.sigmoid\(\)`"),
            ([[0.5, math.nan]], [[0]], [1, 1], r"row 0 has nan for label 1"),
            ([[0.5, 0.5]], [[0]], [1], r"`label_counts` must agree with the 2 columns of `probs`, but has 1"),
            ([[0.5, 0.5]], [[0], [1, 0, 0]], [1, 1], r"labels of 1 samples as `probs`, but hold those of 2"),
            ([[0.5, 0.5]], [[2]], [1, 1], r"`targets` must lie in 0\.\.1"),
            ([[0.5, 0.5]], torch.tensor([0]), [1, 1], r"`targets` must be multi-hot rows, .*have shape \[1\]"),
            ([[1, 0]], [[0]], [1, 1], r"`probs` must be floating point"),
            (torch.zeros(0, 2), torch.zeros(0, 2), [1, 1], r"`probs` are empty"),
        ],
    )
    def test_errors(self, probs: Any, targets: Any, counts: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            multilabel_report(probs, targets, counts)

    def test_thresholds(self) -> None:
        probs, truth = a_set()
        with pytest.raises(ValueError, match="`bins` must be at least 1"):
            multilabel_report(probs, truth, COUNTS, bins=0)
        assert math.isnan(multilabel_report(probs, truth, COUNTS, few=1)["few"])
