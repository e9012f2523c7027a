"""The report batch by batch equals the report at once, from logits as from probabilities, in one process or several."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltaug import metrics
from ltaug.metrics import StreamingReport, classification_report

CLOSE: dict[str, Any] = {"rel": 1e-10, "abs": 1e-13, "nan_ok": True}


def problem(seed: int, n: int, c: int, kind: str = "smooth") -> tuple[Tensor, Tensor, Tensor]:
    """Logits float64 [n, c], labels, training counts; coarse logits give ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, c, generator=generator, dtype=torch.float64)
    labels = torch.randint(c, (n,), generator=generator)
    if kind == "coarse":
        logits = logits.round()
    elif kind == "sharp":
        logits = 3.0 * logits
        logits[torch.arange(n), labels] += 3.0
    counts = torch.tensor([1, 19, 20, 50, 100, 101, 500])[torch.randint(7, (c,), generator=generator)]
    return logits, labels, counts


def streamed(outputs: Tensor, labels: Tensor, counts: Tensor, sizes: list[int], **settings: Any) -> StreamingReport:
    report = StreamingReport(counts, **settings)
    for part, y in zip(outputs.split(sizes), labels.split(sizes), strict=True):
        report.update(part, y)
    return report


def split(n: int, size: int) -> list[int]:
    return [size] * (n // size) + ([n % size] if n % size else [])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.integers(1, 50),
    st.sampled_from([1, 2, 3, 5, 6, 7, 30, 200]),
    st.sampled_from(["smooth", "coarse", "sharp"]),
    st.integers(1, 20),
    st.sampled_from([1, 2, 15, 20, 150]),
)
def test_it_equals_the_metrics_of_the_concatenation(seed: int, n: int, c: int, kind: str, size: int, bins: int) -> None:
    logits, labels, counts = problem(seed, n, c, kind)
    probs = logits.softmax(1)
    expected = {
        "top1": metrics.accuracy(probs, labels),
        "top5": metrics.accuracy(probs, labels, topk=min(5, c)),
        **metrics.shot_accuracy(probs, labels, counts),
        "balanced_accuracy": metrics.balanced_accuracy(probs, labels),
        "macro_f1": metrics.macro_f1(probs, labels),
        "confidence": probs.max(1).values.double().mean().item(),
        "ece": metrics.expected_calibration_error(probs, labels, bins),
        "mce": metrics.maximum_calibration_error(probs, labels, bins),
        "classwise_ece": metrics.classwise_calibration_error(probs, labels, bins),
        "brier": metrics.brier_score(probs, labels),
        "nll": metrics.negative_log_likelihood(probs, labels),
    }
    for outputs, from_logits in ((logits, True), (probs, False)):
        found = streamed(outputs, labels, counts, split(n, size), bins=bins, logits=from_logits).compute()
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, **CLOSE)
        assert all(type(value) is float for value in found.values())


def test_single_precision_bins_the_very_probabilities_of_softmax() -> None:
    logits, labels, counts = problem(0, 300, 40, "sharp")
    logits = logits.float()
    expected = classification_report(logits.softmax(1), labels, counts)
    del expected["adaptive_ece"]  # not a sum over batches
    found = streamed(logits, labels, counts, split(300, 32)).compute()
    assert found.pop("nll") == pytest.approx(expected.pop("nll"), rel=1e-6)  # from the logits, not from the rounded p
    assert found == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_read_in_single(dtype: torch.dtype) -> None:
    logits, labels, counts = problem(1, 60, 300, "sharp")
    half = logits.to(dtype)
    expected = streamed(half.float(), labels, counts, [60]).compute()
    assert streamed(half, labels, counts, [20, 40]).compute() == pytest.approx(expected, **CLOSE)
    probs = half.softmax(1)  # probabilities in half, with many ties, are binned as the numbers they are
    assert classification_report(probs, labels, counts) == pytest.approx(
        classification_report(probs.double(), labels, counts), **CLOSE
    )


def test_the_loss_of_an_underflowed_probability_is_its_logit() -> None:
    logits = torch.tensor([[0.0, -500.0], [0.0, -1e6]])
    report = streamed(logits, torch.tensor([1, 1]), torch.tensor([5, 5]), [1, 1]).compute()
    assert report["nll"] == pytest.approx((500 + 1e6) / 2)
    assert metrics.negative_log_likelihood(logits.softmax(1), [1, 1]) == pytest.approx(15 * math.log(10))  # clipped
    masked = streamed(torch.tensor([[0.0, -math.inf]]), torch.tensor([0]), torch.tensor([5, 5]), [1]).compute()
    assert masked["nll"] == 0.0


def test_parts_and_processes_add_up() -> None:
    logits, labels, counts = problem(2, 90, 12, "coarse")
    whole = streamed(logits, labels, counts, [90])
    first, second = (
        streamed(logits[:50], labels[:50], counts, [50]),
        streamed(logits[50:], labels[50:], counts, [20, 20]),
    )
    # What accelerator.reduce(report.state, "sum") does: add every tensor of the state.
    reduced = StreamingReport(counts)
    reduced.state = {name: total + second.state[name] for name, total in first.state.items()}
    assert reduced.compute() == pytest.approx(whole.compute(), **CLOSE)

    before = {name: total.clone() for name, total in second.state.items()}
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), **CLOSE)
    assert all(torch.equal(before[name], total) for name, total in second.state.items())
    first.merge(StreamingReport(counts))  # a process that had no batch
    assert first.compute() == pytest.approx(whole.compute(), **CLOSE)


def test_compute_may_come_in_between() -> None:
    logits, labels, counts = problem(3, 40, 6)
    report = StreamingReport(counts)
    report.update(logits[:10], labels[:10])
    early = report.compute()
    assert report.compute() == pytest.approx(early, nan_ok=True, rel=0, abs=0)
    report.update(logits[10:], labels[10:])
    assert report.compute() == pytest.approx(streamed(logits, labels, counts, [40]).compute(), **CLOSE)
    assert report.compute() != pytest.approx(early, **CLOSE)


def test_settings_reach_the_parts() -> None:
    logits, labels, counts = problem(4, 80, 8)
    expected = classification_report(logits.softmax(1), labels, counts, bins=7, many=50, few=19)
    del expected["adaptive_ece"]  # not a sum over batches
    found = streamed(logits, labels, counts, [80], bins=7, many=50, few=19).compute()
    assert found == pytest.approx(expected, **CLOSE)
    assert found != pytest.approx(streamed(logits, labels, counts, [80]).compute(), **CLOSE)


def test_the_state_does_not_grow_with_the_samples_and_inputs_stay() -> None:
    logits, labels, counts = problem(5, 64, 9)
    before = logits.clone()
    report = streamed(logits, labels, counts, [64])
    size = sum(total.numel() for total in report.state.values())
    report.update(logits.requires_grad_(), labels)
    assert sum(total.numel() for total in report.state.values()) == size
    assert not any(total.requires_grad for total in report.state.values())
    assert torch.equal(logits, before)


def test_what_cannot_be_read_is_said_and_leaves_the_sums_alone() -> None:
    logits, labels, counts = problem(6, 20, 4)
    report = streamed(logits, labels, counts, [20])
    expected = report.compute()
    for bad, row in ((math.nan, 3), (math.inf, 19)):
        broken = logits.clone()
        broken[row, 1] = bad
        with pytest.raises(
            ValueError, match=rf"`logits` must be finite, but row {row} has .* \(1 of 20 rows are off\)"
        ):
            report.update(broken, labels)
    with pytest.raises(ValueError, match="`class_counts` must agree with the 3 columns of `logits`, but has 4"):
        report.update(logits[:, :3], labels.clamp(max=2))
    with pytest.raises(ValueError, match=r"`labels` must lie in 0\.\.3"):
        report.update(logits, labels + 1)
    with pytest.raises(ValueError, match="a sample, 20 as `logits`, but hold 19"):
        report.update(logits, labels[1:])
    with pytest.raises(ValueError, match=r"`logits` must hold one row a sample, shape \[N, C\]"):
        report.update(logits[None], labels)
    assert report.compute() == pytest.approx(expected, nan_ok=True, rel=0, abs=0)

    with pytest.raises(ValueError, match=r"rows that sum to 1.*`logits.softmax\(1\)`"):
        StreamingReport(counts, logits=False).update(logits, labels)
    with pytest.raises(ValueError, match=r"call `update\(outputs, labels\)`"):
        StreamingReport(counts).compute()
    with pytest.raises(ValueError, match="`bins` must be at least 1"):
        StreamingReport(counts, bins=0)
    with pytest.raises(ValueError, match="`few`=200 must not exceed"):
        StreamingReport(counts, few=200)
    for name, other in {
        "bins": StreamingReport(counts, bins=20),
        "class_counts": StreamingReport(counts + 1),
        "many": StreamingReport(counts, many=99),
        "few": StreamingReport(counts, few=19),
        "logits": StreamingReport(counts, logits=False),
        "class_counts`, `bins": StreamingReport(counts[:3], bins=3),
    }.items():
        with pytest.raises(ValueError, match=f"`other` must have the settings .* differs in `{name}`:"):
            report.merge(other)
    assert report.compute() == pytest.approx(expected, nan_ok=True, rel=0, abs=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("c", [2, 300])
def test_probabilities_are_not_taken_for_logits(dtype: torch.dtype, c: int) -> None:
    logits, labels, counts = problem(8, 40, c, "sharp")
    report = StreamingReport(counts)
    for _ in range(2):  # the second time as well
        with pytest.raises(ValueError, match=r"`outputs` must be logits, .* 0\.\.1 .*`StreamingReport"):
            report.update(logits.to(dtype).softmax(1), labels)
    assert not any(bool(total.any()) for total in report.state.values())
    report.update(logits, labels)
    report.update(logits.softmax(1), labels)  # a look at every batch would cost a pass over it
    assert int(report.state["labels"].sum()) == 80


def test_what_is_not_probabilities_passes_for_logits() -> None:
    for rows in ([[0.0, 1.0]], [[0.2, 0.9]], [[1.5, -0.5]], [[0.3, 0.7], [0.3, 0.8]], [[1.0, 0.0], [0.0, 1.0]]):
        report = StreamingReport([5, 5])
        report.update(torch.tensor(rows), torch.zeros(len(rows)).long())
        assert report.compute()["nll"] > 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_device_changes_nothing() -> None:
    logits, labels, counts = problem(7, 300, 50, "sharp")
    there = streamed(logits.cuda(), labels.cuda(), counts, [100, 200])
    assert all(total.is_cuda for total in there.state.values())
    here = streamed(logits, labels, counts, [300])
    assert there.compute() == pytest.approx(here.compute(), rel=1e-9)
    here.merge(there)
    assert not any(total.is_cuda for total in here.state.values())


def test_ranks_are_those_of_the_logits_where_probabilities_underflow() -> None:
    report = StreamingReport([1] * 9)
    report.update(torch.tensor([[200.0, 0, 0, 0, 0, 0, 50, 60, 70]]), torch.tensor([6]))
    assert report.compute()["top5"] == 1.0
    logits = 3000 * torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    for place, expected in ((2, 1.0), (4, 1.0), (5, 0.0)):
        report = StreamingReport([1] * 300)
        report.update(logits, logits.argsort(1, descending=True)[:, place])
        assert report.compute()["top5"] == expected
