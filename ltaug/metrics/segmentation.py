"""Intersection over union, accuracy and calibration of a segmentation, from a confusion matrix or batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.metrics._inputs import as_tensor, check_range
from ltaug.metrics.calibration import bin_index, check_bins, expected_error

__all__ = ["SegmentationScores", "StreamingSegmentation", "segmentation_scores"]


class SegmentationScores(NamedTuple):
    """Scores of a segmentation, from :func:`segmentation_scores`.

    Attributes:
        mean_iou: mIoU, the mean of ``class_iou`` without its NaN.
        mean_accuracy: mACC, the mean of ``class_accuracy`` without its NaN: the accuracy under a uniform prior.
        overall_accuracy: fraction of all samples that is classified correctly.
        frequency_weighted_iou: ``class_iou`` weighted by how frequent the class truly is.
        class_iou: float64 [C]; NaN for a class that is neither present nor predicted.
        class_accuracy: float64 [C], the recalls; NaN for a class that is not present.
    """

    mean_iou: float
    mean_accuracy: float
    overall_accuracy: float
    frequency_weighted_iou: float
    class_iou: Tensor
    class_accuracy: Tensor


def segmentation_scores(confusion: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]]) -> SegmentationScores:
    """Intersection over union and accuracy by class, from a confusion matrix.

    ``IoU_c = TP_c / (TP_c + FP_c + FN_c)`` and ``ACC_c = TP_c / (TP_c + FN_c)``; mIoU and mACC are their means, as in
    Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820).

    Args:
        confusion: how often each class was predicted for each true class, [C, C], row = true class; see
            :func:`~ltaug.metrics.confusion_matrix`.

    Returns:
        :class:`SegmentationScores`. A class that is neither present nor predicted does not enter the means; one that is
        only predicted has IoU 0. If the matrix counts no sample, as for an image whose pixels are all ignored, every
        score is NaN.

    Raises:
        ValueError: ``confusion`` is not square, or has negative or non-finite entries.

    >>> scores = segmentation_scores([[2, 0, 0], [1, 1, 0], [0, 0, 0]])
    >>> round(scores.mean_iou, 4), scores.mean_accuracy, scores.overall_accuracy
    (0.5833, 0.75, 0.75)
    >>> scores.class_iou
    tensor([0.6667, 0.5000,    nan], dtype=torch.float64)
    """
    matrix = as_tensor(confusion, "confusion")
    if matrix.dtype == torch.bool:
        raise ValueError("`confusion` must hold counts, but is torch.bool.")
    matrix = matrix.double()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"`confusion` must be a square matrix [C, C], but has shape {list(matrix.shape)}. "
            "`confusion_matrix(probs, labels)` makes one."
        )
    if not bool((matrix.isfinite() & (matrix >= 0.0)).all()):
        raise ValueError("`confusion` must hold counts, but has negative, NaN or infinite entries.")
    total = matrix.sum()
    right, there, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = right / (there + predicted - right)  # 0 / 0 is the NaN of a class that is neither present nor predicted
    recalls = right / there
    return SegmentationScores(
        mean_iou=float(iou.nanmean()),
        mean_accuracy=float(recalls.nanmean()),
        overall_accuracy=float(right.sum() / total),
        frequency_weighted_iou=float((there * iou).nansum() / total),
        class_iou=iou,
        class_accuracy=recalls,
    )


class StreamingSegmentation:
    """Scores of a segmentation that comes batch by batch: mIoU, mACC, calibration; of any number of pixels.

    Only sums are kept, C * C + 3 * bins + 1 numbers, never a logit. Several processes need one line between the last
    ``update`` and ``compute``, as for :class:`StreamingReport`: ``scores.state = accelerator.reduce(scores.state)``.

    Args:
        num_classes: C.
        bins: bins of the calibration error.
        ignore_index: a label whose pixels are left out, such as 255.
        logits: whether ``update`` is given logits; otherwise probabilities, as fusions return them.

    >>> scores = StreamingSegmentation(2, ignore_index=255)
    >>> scores.update(torch.tensor([[[[9.0, 0.0, 0.0]], [[0.0, 9.0, 9.0]]]]), torch.tensor([[[0, 1, 255]]]))
    >>> scores.compute()["miou"], round(scores.compute()["ece"], 4)
    (1.0, 0.0001)
    """

    @checked
    def __init__(
        self, num_classes: int, *, bins: int = 15, ignore_index: int | None = None, logits: bool = True
    ) -> None:
        check_bins(bins)
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
        self.num_classes, self.bins, self.ignore_index, self.logits = num_classes, bins, ignore_index, logits
        self.state: dict[str, Tensor] = {
            "confusion": torch.zeros(num_classes, num_classes, dtype=torch.int64),  # row = true class
            "bin_counts": torch.zeros(bins, dtype=torch.int64),
            "bin_hits": torch.zeros(bins, dtype=torch.int64),
            "bin_confidence": torch.zeros(bins, dtype=torch.float64),
            "nll": torch.zeros((), dtype=torch.float64),
        }
        """Sums over the pixels so far: int64 and float64 tensors, on the device of the last batch."""

    @checked
    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: logits [N, C, ...], or probabilities with ``logits=False``.
            labels: class indices, int [N, ...]; bytes are fine.

        Raises:
            ValueError: shapes do not fit, a label is outside, or an output is NaN. The sums are then as they were.
        """
        shape = [len(outputs), self.num_classes, *labels.shape[1:]]
        if outputs.ndim < 2 or list(outputs.shape) != shape or not outputs.is_floating_point():
            raise ValueError(
                f"`outputs` must be floating point of shape {shape}, classes on dim 1, for labels of shape "
                f"{list(labels.shape)}, but are {outputs.dtype} of shape {list(outputs.shape)}. Resize one of them."
            )
        size, labels = self.num_classes, labels.long()
        kept = None if self.ignore_index is None else labels != self.ignore_index
        if kept is not None and bool(kept.all()):
            kept = None
        y = labels if kept is None else torch.where(kept, labels, size)  # a row of their own, which is dropped
        if kept is None:
            check_range(y, size, "labels", "the classes")
        elif not bool(kept.any()):
            return
        else:
            check_range(y[kept], size, "labels", "the classes")
        values = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
        best, predicted = _largest(values)
        own = values.gather(1, labels.clamp(0, size - 1).unsqueeze(1)).squeeze(1)
        if self.logits:
            total = (values - best.unsqueeze(1)).exp_().sum(1)
            top, nll = total.reciprocal(), total.log() + (best - own)
        else:
            top, nll = best, -own.clamp(min=torch.finfo(values.dtype).tiny).log()
        if kept is not None:  # of pixels that are left out nothing counts, be it NaN
            top, nll = torch.where(kept, top, 1.0), torch.where(kept, nll, 0.0)
        nll = nll.sum(dtype=torch.float64)
        low, high = (float(end) for end in top.aminmax())
        if not bool(nll.isfinite()) or not 0.99 / size < low <= high < 1.01:
            kind = "logits must be finite" if self.logits else "probabilities must sum to 1"
            raise ValueError(
                f"`outputs` cannot be scored: {kind}, but the probabilities of the predicted classes range from "
                f"{low:.6g} to {high:.6g}. Say with `logits` which of the two they are."
            )
        # Pixels that are ignored are in the last row of the matrix, and in a bin behind the others.
        pairs = torch.bincount((y * size + predicted).flatten(), minlength=(size + 1) * size)
        top = top.double().flatten()
        bins = bin_index(top, self.bins)
        if kept is not None:
            bins.masked_fill_(~kept.flatten(), self.bins)
        right = bins.masked_fill((predicted != y).flatten(), self.bins)
        sums = torch.zeros(self.bins + 1, dtype=torch.float64, device=top.device).index_add_(0, bins, top)
        state = self.state = {name: value.to(outputs.device) for name, value in self.state.items()}
        state["confusion"] += pairs.view(size + 1, size)[:size]
        state["bin_counts"] += torch.bincount(bins, minlength=self.bins + 1)[: self.bins]
        state["bin_hits"] += torch.bincount(right, minlength=self.bins + 1)[: self.bins]
        state["bin_confidence"] += sums[: self.bins]
        state["nll"] += nll

    def merge(self, other: StreamingSegmentation) -> None:
        """Add the sums of another part of the set, scored with the same settings."""
        names = ("num_classes", "bins", "ignore_index", "logits")
        if different := [name for name in names if getattr(self, name) != getattr(other, name)]:
            raise ValueError(f"`other` must have the settings of this one, but differs in {', '.join(different)}.")
        self.state = {name: value + other.state[name].to(value.device) for name, value in self.state.items()}

    def scores(self) -> SegmentationScores:
        """The scores by class, too, of all pixels so far."""
        return segmentation_scores(self.state["confusion"])

    def compute(self) -> dict[str, float]:
        """Compute the numbers of a table: miou, macc, and, of all pixels, top1, confidence, ece, nll.

        More pixels may follow.

        Raises:
            ValueError: there was no pixel with a label yet.
        """
        pixels = int(self.state["bin_counts"].sum())
        if not pixels:
            raise ValueError("No score is defined on no pixel: call `update(outputs, labels)` before `compute()`.")
        scores = self.scores()
        return {
            "miou": scores.mean_iou,
            "macc": scores.mean_accuracy,
            "top1": scores.overall_accuracy,
            "confidence": float(self.state["bin_confidence"].sum()) / pixels,
            "ece": expected_error(*(self.state[f"bin_{name}"] for name in ("counts", "hits", "confidence"))),
            "nll": float(self.state["nll"]) / pixels,
        }


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry over dim 1, and where it is: ``values.max(1)``, on a CPU in a third of its time."""
    if values.device.type != "cpu":
        return values.max(1)
    best = values.amax(1)
    there = (values == best.unsqueeze(1)).to(values.dtype)
    classes = torch.arange(values.shape[1], dtype=values.dtype).view(-1, *[1] * (values.ndim - 2))
    # Of equal entries the sum of the classes would be a wrong one.
    return (best, (there * classes).sum(1).long()) if float(there.sum(1).max()) == 1.0 else values.max(1)
