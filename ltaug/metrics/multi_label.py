"""Scores of labels that may come together, from probabilities [N, L] and multi-hot targets [N, L]."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.metrics._inputs import CHUNK, Probs, as_tensor
from ltaug.metrics.calibration import bin_index, check_bins
from ltaug.metrics.scores import shot_means
from ltaug.posthoc.binary import label_rows
from ltaug.priors import Counts, Labels, as_counts, label_pairs, without_missing

__all__ = ["average_precision", "labelwise_calibration_error", "multilabel_report"]


@checked
def multilabel_report(
    probs: Probs,
    targets: Labels,
    label_counts: Counts,
    *,
    bins: int = 15,
    many: int = 100,
    few: int = 20,
    ignore_index: int | None = None,
) -> dict[str, float]:
    """Every number of a long-tailed results table of labels that may come together, as fractions.

    Args:
        probs: probability of each label, [N, L], each in 0..1: ``logits.sigmoid()``. [N] for one label.
        targets: the labels of the test samples: multi-hot rows [N, L], or N lists of label indices; [N] of 0 and 1 for
            one label.
        label_counts: **training** samples that have each label, [L].
        bins: bins of the calibration error.
        many: labels with more training samples are "many".
        few: labels with fewer are "few"; the thresholds themselves are "medium".
        ignore_index: what rows of targets hold where a label is not known, such as -1: each label is scored on the
            samples of which it is, and such entries count nowhere.

    Returns:
        Floats under the keys map, many, medium, few, f1, labelwise_ece, brier, nll, unscored. map is the mean over the
        labels of :func:`average_precision`, many, medium and few that of the labels of a shot group. f1 is the mean of
        the labels' F1 scores for p >= 1/2. **A label without positives in the test set has no average precision and no
        F1**: it is left out of these means, and counted in unscored; a group without scored labels is NaN, never 0.
        labelwise_ece is :func:`labelwise_calibration_error`; brier is the mean of (p - y)^2 and nll that of -log p(y),
        over samples and labels, all of them.

    >>> report = multilabel_report([[0.9, 0.2], [0.4, 0.6], [0.1, 0.7]], [[0], [0], [1]], label_counts=[500, 5])
    >>> report["map"], report["many"], report["few"], report["unscored"]
    (1.0, 1.0, 1.0, 0.0)
    """
    tensor, truth, known = read_labels(probs, targets, ignore_index)
    counts = as_counts(label_counts, "label_counts")
    if counts.numel() != tensor.shape[1]:
        raise ValueError(
            f"`label_counts` must agree with the {tensor.shape[1]} columns of `probs`, but has {counts.numel()} "
            "labels. A label without samples still needs its column and its count."
        )
    precisions = average_precisions(tensor, truth, known)
    f1, square, nll, total = [], 0.0, 0.0, 0
    for p, y, kept in _columns(tensor, truth, known):
        found = (p >= 0.5) & kept
        f1.append(2.0 * (found & y).sum(0).double() / (found.sum(0) + y.sum(0)))  # 0 / 0: neither found nor there
        square += float((p.double() - y.double())[kept].square().sum())
        own = torch.where(y, p, 1.0 - p)[kept].double()
        nll -= float(own.clamp(1e-15, 1.0).log().sum())
        total += int(kept.sum())
    scored = ~precisions.isnan()
    scores = torch.cat(f1)[scored]
    return {
        "map": float(precisions.nanmean()),
        **shot_means(precisions, counts, many, few),
        "f1": float(scores.mean()) if len(scores) else float("nan"),
        "labelwise_ece": _calibration_error(tensor, truth, known, bins),
        "brier": square / total,
        "nll": nll / total,
        "unscored": float((~scored).sum()),
    }


@checked
def average_precision(probs: Probs, targets: Labels, ignore_index: int | None = None) -> Tensor:
    """Average precision of each label: the mean over its positives of the precision at their place.

    AP = sum_k (R_k - R_(k-1)) P_k over the thresholds, from the highest probability down; samples of equal probability
    come at one threshold, so the order of the samples does not matter. The numbers are those of scikit-learn's
    ``average_precision_score``; their mean over the labels is the macro mAP of AudioSet and COCO's multi-label tables.

    Args:
        probs: scores of each label, [N, L], probabilities in 0..1. [N] for one label.
        targets: multi-hot rows [N, L], or N lists of label indices.
        ignore_index: what rows hold where a label is not known, see :func:`multilabel_report`.

    Returns:
        float64 [L]; NaN for a label without positives in ``targets``.

    >>> average_precision([[0.9, 0.2, 0.5], [0.4, 0.6, 0.5], [0.1, 0.7, 0.5]], [[0], [0], [0, 1]])
    tensor([1., 1., nan], dtype=torch.float64)
    """
    return average_precisions(*read_labels(probs, targets, ignore_index))


@checked
def labelwise_calibration_error(
    probs: Probs, targets: Labels, bins: int = 15, ignore_index: int | None = None
) -> float:
    """Label-wise expected calibration error: the binary ECE of each label's probability, averaged over the labels.

    ``1 / L sum_l sum_m |B_ml| / N * |mean y over B_ml - mean p over B_ml|``, B_ml the samples whose p(l) lies in bin m.
    All labels count, those without positives, too: a probability of theirs is wrong by all that it is above 0.

    Args:
        probs: probability of each label, [N, L], each in 0..1. [N] for one label.
        targets: multi-hot rows [N, L], or N lists of label indices.
        bins: number of equal, right-closed bins; 15 is usual.
        ignore_index: what rows hold where a label is not known, see :func:`multilabel_report`. A label that is known of
            no sample is left out of the mean.

    Returns:
        A float in 0..1. It is small where most labels are rare, because most probabilities are then small and right:
        compare it with that of the constant label shares, which is 0.

    >>> labelwise_calibration_error([[0.75, 0.0]] * 4, [[0], [0], [0], []])
    0.0
    """
    return _calibration_error(*read_labels(probs, targets, ignore_index), bins)


def read_labels(
    probs: Probs, targets: Labels, ignore_index: int | None, *, logits: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Check probabilities, or logits, [N, L]; convert targets to flags of their shape, and say which are known."""
    name = "logits" if logits else "probs"
    tensor = as_tensor(probs, name)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 1 else tensor
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ValueError(
            f"`{name}` must be floating point with one row a sample, shape [N, L], but are {tensor.dtype} of shape "
            f"{list(tensor.shape)}."
        )
    if tensor.numel() == 0:
        raise ValueError(f"`{name}` are empty, and no metric is defined on no sample. Check the test split.")
    off = ~tensor.isfinite() if logits else ~((tensor >= 0.0) & (tensor <= 1.0))
    if bool(off.any()) and logits:
        row, label = off.nonzero()[0].tolist()
        raise ValueError(
            f"`logits` must be finite, but row {row} has {float(tensor[row, label])} for label {label}. "
            "Look for an overflow in the model first."
        )
    if bool(off.any()):
        row, label = off.nonzero()[0].tolist()
        raise ValueError(
            f"`probs` must be probabilities, each in 0..1, but row {row} has {float(tensor[row, label]):.6g} for label "
            f"{label}. If these are logits, pass `logits.sigmoid()`."
        )
    given, known = without_missing(label_rows(targets, tensor.shape[1]), ignore_index, "targets")
    samples, pairs, _ = label_pairs(given, tensor.shape[1], "targets")
    if samples != len(tensor):
        raise ValueError(
            f"`targets` must hold the labels of {len(tensor)} samples as `{name}`, but hold those of {samples}. "
            "Gather both from the same pass over the data."
        )
    truth = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    truth[pairs[0], pairs[1]] = True
    known = torch.ones_like(truth) if known is None else known.to(truth.device)
    if not bool(known.any()):
        raise ValueError(f"`targets` must not all be {ignore_index}, the `ignore_index`: no metric is defined on none.")
    return tensor, truth, known


def _columns(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield blocks of labels with a bounded number of entries."""
    size = max(1, CHUNK // len(tensors[0]))
    return zip(*(torch.split(each, size, 1) for each in tensors), strict=True)


def average_precisions(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    found = []
    for p, y, kept in _columns(probs, truth, known):
        # What is not known comes last, where it changes the precision of nothing before it.
        scores, order = torch.where(kept, p, -torch.inf).sort(0, descending=True)
        hits = y.gather(0, order).double()
        index = torch.arange(len(p), device=p.device).unsqueeze(1)
        precision = hits.cumsum(0) / (index + 1)
        # Samples of equal score come at once, with the precision at the last of them.
        last = torch.ones_like(y)
        last[:-1] = scores[1:] != scores[:-1]
        end = torch.where(last, index, len(p)).flip(0).cummin(0).values.flip(0)
        found.append((hits * precision.gather(0, end)).sum(0) / hits.sum(0))  # 0 / 0: NaN without positives
    return torch.cat(found)


def _calibration_error(probs: Tensor, truth: Tensor, known: Tensor, bins: int) -> float:
    check_bins(bins)
    errors = []
    for p, y, kept in _columns(probs, truth, known):
        p = p.double()
        gaps = torch.zeros(bins, p.shape[1], dtype=torch.float64, device=p.device)
        # |B| |mean y - mean p| is the size of the sum
        gaps.scatter_add_(0, bin_index(p, bins), (p - y.double()).masked_fill(~kept, 0.0))
        errors.append(gaps.abs().sum(0) / kept.sum(0))  # 0 / 0: known of no sample
    return float(torch.cat(errors).nanmean())
