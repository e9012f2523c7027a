"""torchmetrics: the report of a long-tailed test set as one metric, for Lightning's ``log_dict``, or one number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("ltaug.integrations.torchmetrics needs torchmetrics: pip install torchmetrics") from error

from ltaug.metrics import StreamingReport
from ltaug.metrics import multi_label as _labels
from ltaug.metrics._inputs import check_num_classes, read_logits, read_probs
from ltaug.metrics.calibration import adaptive_error, bin_sums, check_bins, expected_error
from ltaug.metrics.scores import shot_means, softmax
from ltaug.priors import Counts, as_array, as_counts, comparable, known_labels, shot_groups

__all__ = ["BalancedAccuracy", "CalibrationError", "LabelAveragePrecision", "LongTailReport"]

NAMES = (
    *("top1", "top5", "many", "medium", "few", "balanced_accuracy", "macro_f1"),
    *("confidence", "ece", "mce", "classwise_ece", "brier", "nll"),
)
GROUPS = ("all", "many", "medium", "few")


class LongTailReport(Metric):
    """Accuracy by shot group, calibration errors and proper scores of all batches and processes.

    The numbers of :func:`ltaug.classification_report` but for adaptive_ece, from sums that torchmetrics moves, adds up
    over the processes and resets: C * (bins + 3) numbers and a few more, never the logits.

    Args:
        class_counts: **training** samples a class, [C].
        bins: bins of the calibration errors.
        many: classes with more training samples are "many".
        few: classes with fewer are "few".
        logits: whether ``update`` is given logits; otherwise probabilities.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.
        more: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    Raises:
        ValueError: as for :class:`ltaug.metrics.StreamingReport`.

    >>> report = LongTailReport(class_counts=[500, 5])
    >>> report.update(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    >>> {name: round(float(value), 2) for name, value in report.compute().items() if name in ("top1", "many", "few")}
    {'top1': 0.5, 'many': 1.0, 'few': 0.0}
    """

    full_state_update = False
    is_differentiable = False

    def __init__(
        self,
        class_counts: Counts,
        *,
        bins: int = 15,
        many: int = 100,
        few: int = 20,
        logits: bool = True,
        ignore_index: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.report = StreamingReport(
            class_counts, bins=bins, many=many, few=few, logits=logits, ignore_index=ignore_index
        )
        for name, zeros in self.report.state.items():
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (or probabilities) [N, C], and class indices, int [N]."""
        self.report.state = {name: getattr(self, name) for name in self.report.state}
        self.report.update(outputs, labels)
        for name, total in self.report.state.items():
            setattr(self, name, total)

    def compute(self) -> dict[str, Tensor]:
        """The numbers of all samples so far, by name, as fractions; NaN where there is none."""
        self.report.state = {name: getattr(self, name) for name in self.report.state}
        if not bool(self.report.state["labels"].any()):
            return {name: torch.tensor(float("nan")) for name in NAMES}
        return {name: torch.tensor(value) for name, value in self.report.compute().items()}

    def set_dtype(self, dst_type: Any) -> LongTailReport:
        """Leave the sums as they are: counts are whole numbers, and the rest needs float64."""
        return self


class _Number(Metric):
    """Base of the metrics that are one number: classes of a test set that comes batch by batch."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, logits: bool, ignore_index: int | None, **more: Any) -> None:
        super().__init__(**more)
        self.logits, self.ignore_index = logits, ignore_index

    def read(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Outputs [N, C] and labels [N] of a batch; None where all are of ``ignore_index``."""
        given = comparable(as_array(labels, "labels"))
        if self.ignore_index is not None and not bool(known_labels(given, self.ignore_index).any()):
            return None
        return (read_logits if self.logits else read_probs)(outputs, given, self.ignore_index)

    def set_dtype(self, dst_type: Any) -> _Number:
        """Leave the sums as they are: counts are whole numbers, and the rest needs float64."""
        return self


class BalancedAccuracy(_Number):
    """Mean of the accuracies of the classes, all or those of a shot group, over all batches and processes.

    The number of :func:`ltaug.metrics.balanced_accuracy`, or of :func:`ltaug.metrics.shot_accuracy`, from two sums a
    class.

    Args:
        class_counts: **training** samples a class, [C].
        group: "all" classes that the test set has, or the "many", "medium" or "few" ones.
        many: classes with more training samples are "many".
        few: classes with fewer are "few".
        logits: whether ``update`` is given logits; otherwise probabilities.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.
        more: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    Raises:
        ValueError: another group, or as for :class:`ltaug.metrics.StreamingReport`.

    >>> few = BalancedAccuracy(class_counts=[500, 5], group="few")
    >>> few.update(torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))
    >>> few.compute()
    tensor(0.5000)
    """

    higher_is_better = True
    labels: Tensor
    hits: Tensor

    def __init__(
        self,
        class_counts: Counts,
        *,
        group: str = "all",
        many: int = 100,
        few: int = 20,
        logits: bool = True,
        ignore_index: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(logits, ignore_index, **more)
        self.class_counts, self.group, self.many, self.few = as_counts(class_counts), _group(group), many, few
        shot_groups(self.class_counts, many, few)  # fail now, not after an hour of batches
        for name in ("labels", "hits"):
            self.add_state(name, torch.zeros(self.class_counts.numel(), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (or probabilities) [N, C], and class indices, int [N]."""
        if (batch := self.read(outputs, labels)) is None:
            return
        outputs, y = batch
        size = self.class_counts.numel()
        check_num_classes(outputs, size, "class_counts", "logits" if self.logits else "probs")
        self.labels = self.labels + torch.bincount(y, minlength=size).to(self.labels.device)
        self.hits = self.hits + torch.bincount(y[outputs.argmax(1) == y], minlength=size).to(self.hits.device)

    def compute(self) -> Tensor:
        """The number of all samples so far; NaN where there is none of the group."""
        recalls = self.hits.double() / self.labels
        return _of_group(recalls, self.group, self.class_counts, self.many, self.few)


class CalibrationError(_Number):
    """Expected calibration error of the confidence, in bins of equal width or of equally many samples.

    The number of :func:`ltaug.metrics.expected_calibration_error`, from three sums a bin; or, if ``adaptive``, of
    :func:`ltaug.metrics.adaptive_calibration_error`, which needs the confidence of every sample.

    Args:
        bins: number of bins.
        adaptive: whether the bins hold equally many samples.
        logits: whether ``update`` is given logits; otherwise probabilities.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.
        more: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    Raises:
        ValueError: ``bins`` is below 1.

    >>> error = CalibrationError(logits=False)
    >>> error.update(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 0]))
    >>> error.compute()
    tensor(0.2500)
    """

    higher_is_better = False
    counts: Tensor
    hits: Tensor
    confidence: Tensor
    top: list[Tensor]
    right: list[Tensor]

    def __init__(
        self,
        *,
        bins: int = 15,
        adaptive: bool = False,
        logits: bool = True,
        ignore_index: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(logits, ignore_index, **more)
        check_bins(bins)
        self.bins, self.adaptive = bins, adaptive
        if adaptive:
            self.add_state("top", [], dist_reduce_fx="cat")
            self.add_state("right", [], dist_reduce_fx="cat")
        else:
            for name, kind in (("counts", torch.int64), ("hits", torch.int64), ("confidence", torch.float64)):
                self.add_state(name, torch.zeros(bins, dtype=kind), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (or probabilities) [N, C], and class indices, int [N]."""
        if (batch := self.read(outputs, labels)) is None:
            return
        outputs, y = batch
        probs = softmax(outputs) if self.logits else outputs
        top, right = probs.amax(1), outputs.argmax(1) == y
        if self.adaptive:
            self.top.append(top)
            self.right.append(right)
            return
        for name, total in zip(("counts", "hits", "confidence"), bin_sums(top, right, self.bins), strict=True):
            setattr(self, name, getattr(self, name) + total.to(getattr(self, name).device))

    def compute(self) -> Tensor:
        """The number of all samples so far; NaN where there is none."""
        if self.adaptive:
            top, right = _joined(self.top), _joined(self.right)
            return torch.tensor(adaptive_error(top, right, self.bins) if len(top) else float("nan"))
        return torch.tensor(expected_error(self.counts, self.hits, self.confidence))


class LabelAveragePrecision(_Number):
    """Mean average precision of labels that may come together, all or those of a shot group.

    The number ``map`` of :func:`ltaug.multilabel_report`, or that of one of its groups: labels without positives are
    left out. It keeps the outputs of all samples, N * L numbers, since a precision depends on their order. Logits are
    ranked themselves: their probabilities would be equal where they lie far out, or come in half precision.

    Args:
        label_counts: **training** samples that have each label, [L].
        group: "all" labels, or the "many", "medium" or "few" ones.
        many: labels with more training samples are "many".
        few: labels with fewer are "few".
        logits: whether ``update`` is given logits; otherwise probabilities.
        ignore_index: what targets hold where a label is not known, such as -1.
        more: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    Raises:
        ValueError: another group, or as for :func:`ltaug.multilabel_report`.

    >>> precision = LabelAveragePrecision(label_counts=[500, 5])
    >>> precision.update(torch.tensor([[2.0, -1.0], [-2.0, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
    >>> precision.compute()
    tensor(1.)
    """

    higher_is_better = True
    outputs: list[Tensor]
    truth: list[Tensor]
    known: list[Tensor]

    def __init__(
        self,
        label_counts: Counts,
        *,
        group: str = "all",
        many: int = 100,
        few: int = 20,
        logits: bool = True,
        ignore_index: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(logits, ignore_index, **more)
        self.label_counts = as_counts(label_counts, "label_counts")
        self.group, self.many, self.few = _group(group), many, few
        shot_groups(self.label_counts, many, few)
        for name in ("outputs", "truth", "known"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (or probabilities) [N, L], and multi-hot rows [N, L]."""
        if self.ignore_index is not None and not bool(known_labels(targets, self.ignore_index).any()):
            return
        batch = _labels.read_labels(outputs, targets, self.ignore_index, logits=self.logits)
        check_num_classes(batch[0], self.label_counts.numel(), "label_counts", "logits" if self.logits else "probs")
        for name, value in zip(("outputs", "truth", "known"), batch, strict=True):
            getattr(self, name).append(value)

    def compute(self) -> Tensor:
        """The number of all samples so far; NaN where there is no positive."""
        outputs, truth, known = (_joined(values) for values in (self.outputs, self.truth, self.known))
        if not len(outputs):
            return torch.tensor(float("nan"))
        precisions = _labels.average_precisions(outputs, truth, known)
        return _of_group(precisions, self.group, self.label_counts, self.many, self.few)


def _group(name: str) -> str:
    if name not in GROUPS:
        raise ValueError(f"`group` must be one of {', '.join(GROUPS)}, but is {name!r}.")
    return name


def _of_group(values: Tensor, group: str, counts: Tensor, many: int, few: int) -> Tensor:
    return torch.tensor(float(values.nanmean()) if group == "all" else shot_means(values, counts, many, few)[group])


def _joined(values: Any) -> Tensor:
    """A list state, which is one tensor once it is gathered of all processes."""
    if isinstance(values, Tensor):
        return values
    return torch.cat(values) if values else torch.zeros(0)
