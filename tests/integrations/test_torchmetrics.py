"""The report as a metric of torchmetrics."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor

from ltaug import classification_report, multilabel_report
from ltaug.integrations.torchmetrics import BalancedAccuracy, CalibrationError, LabelAveragePrecision, LongTailReport

COUNTS = [500, 90, 5]


def batches(seed: int, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(40, 3, generator=generator), torch.randint(3, (40,), generator=generator)) for _ in range(count)
    ]


def wanted(parts: list[tuple[Tensor, Tensor]]) -> Any:
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    report = classification_report(logits.softmax(1), labels, COUNTS)
    del report["adaptive_ece"]  # not a sum over batches
    return pytest.approx(report, rel=1e-6)


def values(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items()}


def test_is_the_report_of_all_batches() -> None:
    report = LongTailReport(COUNTS)
    first, second = batches(0), batches(1)
    for batch in first:
        assert values(report(*batch)) == wanted([batch])  # of the batch alone
    assert values(report.compute()) == wanted(first)
    report.reset()
    for batch in second:
        report.update(*batch)
    assert values(report.compute()) == wanted(second)


def test_processes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchmetrics gathers of two processes and adds is the report of both parts."""
    one, other = LongTailReport(COUNTS), LongTailReport(COUNTS)
    for batch in batches(0):
        one.update(*batch)
    for batch in batches(1):
        other.update(*batch)
    states = {id(value): getattr(other, name) for name in one._reductions if (value := getattr(one, name)) is not None}
    one.sync(dist_sync_fn=lambda value, group: [value, states[id(value)]], distributed_available=lambda: True)
    one._should_unsync, one._to_sync = False, False
    assert values(one.compute()) == wanted(batches(0) + batches(1))


def test_counts_stay_whole_in_half_precision() -> None:
    report = LongTailReport(COUNTS).half()
    for _ in range(60):  # more samples than float16 can count
        for batch in batches(0):
            report.update(*batch)
    assert values(report.compute()) == wanted(batches(0))


def test_in_a_collection_with_others() -> None:
    both = torchmetrics.MetricCollection(
        {"report": LongTailReport(COUNTS), "top1": torchmetrics.classification.MulticlassAccuracy(3, average="micro")}
    )
    for batch in batches(0):
        both.update(*batch)
    found = both.compute()
    name = "top1" if "top1" in found else "report_top1"
    assert float(found[name]) == pytest.approx(float(classification_report(*_all())["top1"]))


def _all() -> tuple[Tensor, Tensor, list[int]]:
    logits, labels = (torch.cat(each) for each in zip(*batches(0), strict=True))
    return logits.softmax(1), labels, COUNTS


def test_a_batch_without_labels_adds_nothing() -> None:
    report = LongTailReport(COUNTS, ignore_index=255)
    alone = report(torch.randn(2, 3), torch.tensor([255, 255]))
    for batch in batches(0):
        found = report(*batch)
    assert values(report.compute()) == wanted(batches(0))
    assert alone.keys() == found.keys()
    assert all(bool(value.isnan()) for value in alone.values())
    report = LongTailReport(COUNTS)
    with warnings.catch_warnings():  # torchmetrics' own, that there was no update
        warnings.simplefilter("ignore")
        assert all(bool(value.isnan()) for value in report.compute().values())


def test_errors_are_those_of_the_report() -> None:
    with pytest.raises(ValueError, match="`bins` must be at least 1"):
        LongTailReport(COUNTS, bins=0)
    with pytest.raises(ValueError, match="logits"):
        LongTailReport(COUNTS).update(torch.full((2, 3), 1 / 3), torch.tensor([0, 1]))


# Single numbers


def expected(name: str, parts: list[tuple[Tensor, Tensor]]) -> Any:
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    if labels.ndim > 1:
        return pytest.approx(multilabel_report(logits.sigmoid(), labels, COUNTS, ignore_index=-1)[name], rel=1e-6)
    return pytest.approx(classification_report(logits.softmax(1), labels, COUNTS, bins=7)[name], rel=1e-6)


def rows(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = [(logits, torch.rand(logits.shape, generator=generator)) for logits, _ in batches(seed)]
    return [(logits, (x < 0.4).long().masked_fill(x > 0.8, -1)) for logits, x in made]


SINGLE = {
    "balanced_accuracy": lambda: BalancedAccuracy(COUNTS),
    "few": lambda: BalancedAccuracy(COUNTS, group="few"),
    "ece": lambda: CalibrationError(bins=7),
    "adaptive_ece": lambda: CalibrationError(bins=7, adaptive=True),
    "map": lambda: LabelAveragePrecision(COUNTS, ignore_index=-1),
    "medium": lambda: LabelAveragePrecision(COUNTS, group="medium", ignore_index=-1),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_number_is_that_of_the_function(name: str) -> None:
    several = name in ("map", "medium")
    first, second = (rows(0), rows(1)) if several else (batches(0), batches(1))
    metric, other = SINGLE[name](), SINGLE[name]().half()
    for batch in first:
        assert float(metric(*batch)) == expected(name, [batch])
    assert float(metric.compute()) == expected(name, first)
    for batch in second:
        other.update(*batch)
    assert float(other.compute()) == expected(name, second)  # sums are as exact as before
    # What torchmetrics gathers of two processes; lists are joined, each to one tensor, before they are gathered.
    theirs = {key: value for key in metric._reductions if (value := getattr(other, key)) is not None}
    queue = [torch.cat(value) if isinstance(value, list) else value for value in theirs.values()]
    metric.sync(dist_sync_fn=lambda value, group: [value, queue.pop(0)], distributed_available=lambda: True)
    metric._computed = None
    metric._to_sync = False  # it is done
    assert float(metric.compute()) == expected(name, first + second)
    metric.reset()
    with warnings.catch_warnings():  # torchmetrics' own, that there was no update
        warnings.simplefilter("ignore")
        assert bool(metric.compute().isnan())
    for batch in second:
        metric.update(*batch)
    assert float(metric.compute()) == expected(name, second)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_far_out_or_in_half_precision_are_told_apart(kind: torch.dtype) -> None:
    # The probabilities of all these are 1 in their type, and those of the last rows 0: ties, of any order.
    logits = torch.tensor([40.0, 30.0, 20.0, -200.0, -210.0]).to(kind)[:, None]
    precision = LabelAveragePrecision([3], ignore_index=-1)
    precision.update(logits, torch.tensor([0, 1, -1, 1, 0])[:, None])
    assert float(precision.compute()) == pytest.approx((1 / 2 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="`logits` must be finite, but row 1 has nan"):
        precision.update(torch.tensor([[0.0], [torch.nan]]), torch.tensor([[0], [1]]))
    logits, labels = batches(0)[0]
    half = 0.01 * logits.to(kind)
    for adaptive in (False, True):
        error = CalibrationError(bins=7, adaptive=adaptive)
        error.update(half, labels)
        report = classification_report(half.double().softmax(1), labels, COUNTS, bins=7)
        assert float(error.compute()) == pytest.approx(report["adaptive_ece" if adaptive else "ece"], abs=1e-6)


def test_a_single_number_leaves_out_what_is_ignored() -> None:
    logits, labels = batches(0)[0]
    accuracy = BalancedAccuracy(COUNTS, ignore_index=255)
    accuracy.update(torch.cat([logits, logits]), torch.cat([labels, torch.full_like(labels, 255)]))
    accuracy.update(logits, torch.full_like(labels, 255))
    assert float(accuracy.compute()) == expected("balanced_accuracy", [(logits, labels)])
    probs = CalibrationError(bins=7, logits=False, ignore_index=255)
    probs.update(logits.softmax(1), labels)
    probs.update(logits.softmax(1), torch.full_like(labels, 255))
    assert float(probs.compute()) == expected("ece", [(logits, labels)])


def test_single_numbers_refuse_what_their_functions_do() -> None:
    for make in (BalancedAccuracy, LabelAveragePrecision):
        with pytest.raises(ValueError, match="`group` must be one of all, many, medium, few, but is 'rare'"):
            make(COUNTS, group="rare")
        with pytest.raises(ValueError, match="`few`=200 must not exceed"):
            make(COUNTS, few=200)
    with pytest.raises(ValueError, match="`bins` must be at least 1"):
        CalibrationError(bins=0)
    with pytest.raises(ValueError, match="label_counts"):
        LabelAveragePrecision([3, 2], ignore_index=-1).update(*rows(0)[0])
    with pytest.raises(ValueError, match=r"hold -1.*`ignore_index`"):
        LabelAveragePrecision(COUNTS).update(*rows(0)[0])
