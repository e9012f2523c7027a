"""torchmetrics: the report of a long-tailed test set as one metric, for Lightning's ``log_dict`` and collections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("ltaug.integrations.torchmetrics needs torchmetrics: pip install torchmetrics") from error

from ltaug.metrics import StreamingReport
from ltaug.priors import Counts

__all__ = ["LongTailReport"]

NAMES = ("top1", "top5", "many", "medium", "few", "confidence", "ece", "mce", "classwise_ece", "brier", "nll")


class LongTailReport(Metric):
    """Accuracy by shot group, calibration errors and proper scores of all batches and processes.

    The numbers of :func:`ltaug.classification_report`, from sums that torchmetrics moves, adds up over the processes
    and resets: C * (bins + 2) numbers and a few more, never the logits.

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
        """The numbers of all samples so far, by name, as fractions; NaN where all are of ``ignore_index``."""
        self.report.state = {name: getattr(self, name) for name in self.report.state}
        if self.report.ignore_index is not None and not bool(self.report.state["labels"].any()):
            return {name: torch.tensor(float("nan")) for name in NAMES}
        return {name: torch.tensor(value) for name, value in self.report.compute().items()}

    def set_dtype(self, dst_type: Any) -> LongTailReport:
        """Leave the sums as they are: counts are whole numbers, and the rest needs float64."""
        return self
