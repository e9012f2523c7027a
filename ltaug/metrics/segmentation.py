"""Intersection over union and accuracy of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltaug.metrics._inputs import as_tensor

__all__ = ["SegmentationScores", "segmentation_scores"]


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
