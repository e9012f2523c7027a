"""Accuracy, confusions and proper scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from ltaug._arguments import as_whole, checked
from ltaug.metrics._inputs import (
    Probs,
    as_tensor,
    chunks,
    flatten_dense,
    holds_predictions,
    leave_out,
    read_predictions,
    read_probs,
)
from ltaug.priors import Counts, as_array, as_counts, comparable, shot_groups

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "brier_score",
    "confusion_matrix",
    "macro_f1",
    "negative_log_likelihood",
    "per_class_accuracy",
    "shot_accuracy",
]


MOST_CLASSES = 2**15
"""Of a confusion matrix, which then takes 8 GiB."""


@overload
def accuracy(probs: Probs | Counts, labels: Counts, topk: int = 1, ignore_index: int | None = None) -> float: ...
@overload
def accuracy(
    probs: Probs | Counts, labels: Counts, topk: Sequence[int], ignore_index: int | None = None
) -> tuple[float, ...]: ...
@checked
def accuracy(
    probs: Probs | Counts, labels: Counts, topk: int | Sequence[int] = 1, ignore_index: int | None = None
) -> float | tuple[float, ...]:
    """Fraction of samples whose label is among the k most probable classes.

    Among equal probabilities the class of the lower index comes first, as in ``argmax``, so a constant output is right
    for class 0 alone.

    Args:
        probs: probabilities [N, C], or class predictions int [N], for k = 1 only.
        labels: class indices, int [N].
        topk: one k, or several; each in 1..C.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float for one k, as in ``topk=5``. For a sequence a tuple of floats in its order, even if it holds a single k:
        ``top1, top5 = accuracy(probs, labels, topk=(1, 5))``.

    >>> probs = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]])
    >>> accuracy(probs, [0, 1, 2, 2])
    0.5
    >>> accuracy(probs, [0, 1, 2, 2], topk=(1, 2))
    (0.5, 0.75)
    """
    several = isinstance(topk, list | tuple | range) or getattr(topk, "ndim", 0) == 1
    wanted = [as_whole(k, "topk") for k in (topk if several else [topk])]  # type: ignore[union-attr]  # it is one
    tensor, labels = leave_out(as_tensor(probs), labels, ignore_index)
    if holds_predictions(tensor):
        predictions, labels, _ = read_predictions(tensor, labels)
        if any(k != 1 for k in wanted):
            raise ValueError(
                f"`topk` must be 1 for class predictions, which have no second guess, but is {topk}. "
                "Pass probabilities [N, C]."
            )
        ranks = (predictions != labels).long()
    else:
        tensor, labels = read_probs(tensor, labels)
        if not all(1 <= k <= tensor.shape[1] for k in wanted):
            raise ValueError(f"`topk` must lie in 1..{tensor.shape[1]}, the number of classes, but is {topk}.")
        ranks = torch.cat([_ranks(block, y) for block, y in chunks(tensor, labels)])
    values = tuple(_mean(ranks < k) for k in wanted)
    return values if several else values[0]


@checked
def per_class_accuracy(
    probs: Probs | Counts, labels: Counts, num_classes: int | None = None, ignore_index: int | None = None
) -> Tensor:
    """Accuracy among the samples of every class, also called recall.

    Args:
        probs: probabilities [N, C], or class predictions int [N].
        labels: class indices, int [N].
        num_classes: C. Probabilities have it in their shape; for predictions the default is the largest index plus one.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        float64 [C]; NaN for a class without samples in ``labels``. Their mean is the balanced accuracy.

    >>> per_class_accuracy([0, 0, 1, 0], [0, 0, 1, 1], num_classes=3)
    tensor([1.0000, 0.5000,    nan], dtype=torch.float64)
    """
    return class_recalls(*read_predictions(probs, labels, num_classes, ignore_index=ignore_index))


@checked
def shot_accuracy(
    probs: Probs | Counts,
    labels: Counts,
    class_counts: Counts,
    many: int = 100,
    few: int = 20,
    ignore_index: int | None = None,
) -> dict[str, float]:
    """Accuracy on the classes with many, medium and few training samples.

    The split is that of Liu et al. (CVPR 2019, https://arxiv.org/abs/1904.05160), see
    :func:`ltaug.priors.shot_groups`. A group's value is the mean of its classes' recalls, so that every class weighs
    the same on an unbalanced test set, too.

    Args:
        probs: probabilities [N, C], or class predictions int [N].
        labels: class indices of the test samples, int [N].
        class_counts: **training** samples a class, [C].
        many: classes with more training samples are "many".
        few: classes with fewer are "few"; the thresholds themselves are "medium".
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        ``{"many": float, "medium": float, "few": float}``. A class without test samples is left out of its group's
        mean; a group without classes, or without test samples, is NaN, never 0.

    >>> shot_accuracy([0, 0, 1, 0], [0, 0, 1, 1], class_counts=[500, 5])
    {'many': 1.0, 'medium': nan, 'few': 0.5}
    """
    counts = as_counts(class_counts)
    return shot_means(
        class_recalls(*read_predictions(probs, labels, counts.numel(), "class_counts", ignore_index)), counts, many, few
    )


@checked
def balanced_accuracy(probs: Probs | Counts, labels: Counts, ignore_index: int | None = None) -> float:
    """Mean of the classes' accuracies, so that each weighs the same on an imbalanced test set.

    Args:
        probs: probabilities [N, C], or class predictions int [N].
        labels: class indices, int [N].
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        In 0..1: (1/C) sum_c recall_c over the classes that occur in ``labels``.

    >>> balanced_accuracy([0, 0, 0, 0], [0, 0, 0, 1])
    0.5
    """
    recalls = class_recalls(*read_predictions(probs, labels, None, ignore_index=ignore_index))
    return float(recalls.nanmean())


@checked
def macro_f1(probs: Probs | Counts, labels: Counts, ignore_index: int | None = None) -> float:
    """Mean of the classes' F1 scores, the harmonic means of precision and recall.

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c), 0 for a class that is never right.

    Args:
        probs: probabilities [N, C], or class predictions int [N].
        labels: class indices, int [N].
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        In 0..1: the mean over the classes that occur in ``labels`` or are predicted.

    >>> round(macro_f1([0, 0, 1, 0], [0, 0, 1, 1]), 4)
    0.7333
    """
    predictions, labels, num_classes = read_predictions(probs, labels, None, ignore_index=ignore_index)
    right = torch.bincount(labels[predictions == labels], minlength=num_classes)
    occur = torch.bincount(labels, minlength=num_classes) + torch.bincount(predictions, minlength=num_classes)
    return float((2.0 * right[occur > 0].double() / occur[occur > 0]).mean())


@checked
def confusion_matrix(
    probs: Probs | Counts, labels: Counts, num_classes: int | None = None, ignore_index: int | None = None
) -> Tensor:
    """Count how often each class was predicted for each true class.

    The matrices of several batches add up to that of all of them.

    Args:
        probs: probabilities [N, C, ...], or class predictions int [N, ...].
        labels: class indices, int [N, ...]; for segmentation [N, H, W].
        num_classes: C. Probabilities have it in their shape; for predictions the default is the largest index plus one.
        ignore_index: a label whose samples are left out, such as 255 or -100; by default every sample counts.

    Returns:
        int64 [C, C]; row = true class, column = predicted class. The sum is N, or the number of pixels, less those
        that are ignored; all 0 if all are.

    >>> confusion_matrix([0, 0, 1, 0], [0, 0, 1, 1])
    tensor([[2, 0],
            [1, 1]])
    """
    tensor, labels = flatten_dense(as_tensor(probs), comparable(as_array(labels, "labels")))
    if ignore_index is not None and labels.ndim == 1 and len(labels) == len(tensor):
        keep = (labels.long() != ignore_index).to(tensor.device)
        if len(keep) and not bool(keep.any()):
            size = tensor.shape[1] if tensor.ndim > 1 else num_classes or int(tensor.max()) + 1
            return torch.zeros(size, size, dtype=torch.int64, device=tensor.device)
        tensor, labels = tensor[keep], labels.to(tensor.device)[keep]
    predictions, labels, size = read_predictions(tensor, labels, num_classes)
    if size > MOST_CLASSES:
        raise ValueError(
            f"`num_classes`={size} would make a matrix of {8 * size**2 / 2**30:.0f} GiB, [{size}, {size}] (at most "
            f"{MOST_CLASSES} classes have one). Use `per_class_accuracy`, which holds one number a class, or count the "
            f"pairs that occur with `torch.unique(labels * {size} + predictions, return_counts=True)`."
        )
    return torch.bincount(labels * size + predictions, minlength=size * size).view(size, size)


@checked
def brier_score(probs: Probs, labels: Counts, ignore_index: int | None = None) -> float:
    """Mean over the samples of sum_c (p_c - 1[y = c])^2, in 0..2 (Brier, 1950).

    The sum is over all classes, as LADE reports it; the usual score of a binary problem is half of it.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float in 0..2.

    >>> brier_score([[0.75, 0.25]], [1])
    1.125
    """
    tensor, labels = read_probs(probs, labels, ignore_index)
    return float(sum(square_sum(residuals(block, y)) for block, y in chunks(tensor, labels))) / len(tensor)


@checked
def negative_log_likelihood(probs: Probs, labels: Counts, ignore_index: int | None = None) -> float:
    """Mean of -log p_y over the samples, the log loss.

    p_y is clipped at 1e-15: a single probability that underflowed to 0 costs 34.5, not infinity.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float in 0..34.54, in nats.

    >>> round(negative_log_likelihood([[0.5, 0.5], [1.0, 0.0]], [1, 0]), 4)  # log(2) / 2
    0.3466
    """
    return float(nll_of_probs(*read_probs(probs, labels, ignore_index)).mean())


def _ranks(probs: Tensor, labels: Tensor) -> Tensor:
    """Number of classes ranked before the label, int64 [N]; counting needs no sort and, unlike topk, settles ties."""
    y = labels.unsqueeze(1)
    own = probs.gather(1, y)
    classes = torch.arange(probs.shape[1], device=probs.device)
    return ((probs > own) | ((probs == own) & (classes < y))).sum(1)


def leading_ranks(leading: Tensor, probs: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    """Rank of the label as in :func:`_ranks`, with 6 for any rank from 6 on, mostly from the leading probabilities.

    Ties among them are settled by the outputs themselves: logits differ where two probabilities are both 0.
    """
    own = probs.gather(1, labels.unsqueeze(1))
    ranks = (leading > own).sum(1).clamp(max=6)
    tied = (leading == own).sum(1) > 1
    ranks[tied] = _ranks(outputs[tied], labels[tied])
    return ranks


def class_recalls(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Accuracy among the samples of each class, float64 [C]."""
    hits = torch.bincount(labels[predictions == labels], minlength=num_classes)
    return hits.double() / torch.bincount(labels, minlength=num_classes)  # 0 / 0 is the NaN of a class without samples


def shot_means(recalls: Tensor, class_counts: Tensor, many: int, few: int) -> dict[str, float]:
    """Mean recall of each shot group's classes; NaN for an empty group."""
    groups = shot_groups(class_counts.to(recalls.device), many, few)
    return {name: float(recalls[group].nanmean()) for name, group in groups.items()}


def softmax(logits: Tensor) -> Tensor:
    """Probabilities of logits [N, C]; of those in half precision in single."""
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def square_sum(residual: Tensor) -> Tensor:
    """Sum of the squared entries, a scalar."""
    return torch.dot(residual.view(-1), residual.view(-1))  # a pass over memory fewer than square().sum()


def nll_of_probs(probs: Tensor, labels: Tensor) -> Tensor:
    """-log p_y of each sample, clipped, float64 [N]."""
    own = probs.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    return 0.0 - own.clamp(1e-15, 1.0).log()  # 0 - x: perfect is 0.0, not -0.0


def nll_of_logits(logits: Tensor, labels: Tensor, top: Tensor) -> Tensor:
    """-log p_y of each sample as log-sum-exp - z_y, float64 [N], with log-sum-exp = max z - log max p.

    The largest probability never underflows.
    """
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    return logits.amax(1).double() - own - top.double().log()


def residuals(block: Tensor, labels: Tensor) -> Tensor:
    """Differences p_c - 1[y = c], float64 [n, C], a contiguous copy."""
    residual = block.to(torch.float64, copy=True).contiguous()
    residual[torch.arange(len(labels), device=labels.device), labels] -= 1.0
    return residual


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())
