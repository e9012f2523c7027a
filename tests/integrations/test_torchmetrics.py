"""The report as a metric of torchmetrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor

from ltaug import classification_report
from ltaug.integrations.torchmetrics import LongTailReport

COUNTS = [500, 90, 5]


def batches(seed: int, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(40, 3, generator=generator), torch.randint(3, (40,), generator=generator)) for _ in range(count)
    ]


def wanted(parts: list[tuple[Tensor, Tensor]]) -> Any:
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return pytest.approx(classification_report(logits.softmax(1), labels, COUNTS), rel=1e-6)


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


def test_errors_are_those_of_the_report() -> None:
    with pytest.raises(ValueError, match="`bins` must be at least 1"):
        LongTailReport(COUNTS, bins=0)
    with pytest.raises(ValueError, match="logits"):
        LongTailReport(COUNTS).update(torch.full((2, 3), 1 / 3), torch.tensor([0, 1]))
