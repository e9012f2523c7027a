"""Accuracy by shot group, calibration and proper scores, from probabilities [N, C] and labels [N].

Everything is a fraction in 0..1 (a percentage is the reader's business), accumulates in float64 and runs where the
probabilities are. Only :class:`StreamingReport` knows logits: elsewhere pass ``logits.softmax(1)``, or the metric says
so.

Calibration uses bins of equal width that are closed on the right, ((m - 1) / bins, m / bins]; the first also takes 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from ltaug.priors import Counts, as_counts, as_labels, shot_groups

__all__ = [
    "ReliabilityBins",
    "SegmentationScores",
    "StreamingReport",
    "accuracy",
    "brier_score",
    "classification_report",
    "classwise_calibration_error",
    "confusion_matrix",
    "expected_calibration_error",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "per_class_accuracy",
    "reliability_bins",
    "segmentation_scores",
    "shot_accuracy",
]

Probs = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]
"""Class probabilities, one row a sample, [N, C]."""

_CHUNK = 1 << 19
"""Entries of ``probs`` that are held in float64 at a time; a full copy of 24k x 8k probabilities would take 1.6 GB."""

_LOOKED_AT = 64
"""Rows of the first batch that tell logits from probabilities."""


class SegmentationScores(NamedTuple):
    """What :func:`segmentation_scores` returns.

    Attributes:
        mean_iou: mIoU, the mean of ``class_iou`` without its NaN.
        mean_accuracy: mACC, the mean of ``class_accuracy`` without its NaN: the accuracy under a uniform prior.
        overall_accuracy: fraction of all samples that is right.
        frequency_weighted_iou: ``class_iou`` weighted by how frequent the class truly is.
        class_iou: float64 [C]; NaN for a class that is neither there nor predicted.
        class_accuracy: float64 [C], the recalls; NaN for a class that is not there.
    """

    mean_iou: float
    mean_accuracy: float
    overall_accuracy: float
    frequency_weighted_iou: float
    class_iou: Tensor
    class_accuracy: Tensor


class ReliabilityBins(NamedTuple):
    """What a reliability diagram draws, bin after bin.

    Attributes:
        counts: samples in the bin, int64 [bins].
        accuracy: fraction of them that is right, float64 [bins]; NaN for an empty bin.
        confidence: their mean confidence, float64 [bins]; NaN for an empty bin.
    """

    counts: Tensor
    accuracy: Tensor
    confidence: Tensor

    @property
    def edges(self) -> Tensor:
        """Borders of the bins, float64 [bins + 1], from 0 to 1."""
        bins = self.counts.numel()
        return torch.arange(bins + 1, dtype=torch.float64, device=self.counts.device) / bins


@overload
def accuracy(probs: Probs | Counts, labels: Counts, topk: int = 1) -> float: ...
@overload
def accuracy(probs: Probs | Counts, labels: Counts, topk: Sequence[int]) -> tuple[float, ...]: ...
def accuracy(probs: Probs | Counts, labels: Counts, topk: int | Sequence[int] = 1) -> float | tuple[float, ...]:
    """Fraction of samples whose label is among the k most probable classes.

    Among equal probabilities the class of the lower index comes first, as in ``argmax``, so a constant output is right
    for class 0 alone.

    Args:
        probs: probabilities [N, C], or class predictions int [N], which only know k = 1.
        labels: class indices, int [N].
        topk: one k, or several; each in 1..C.

    Returns:
        A float for one k, as in ``topk=5``. For a sequence a tuple of floats in its order, even if it holds a single k:
        ``top1, top5 = accuracy(probs, labels, topk=(1, 5))``.

    >>> probs = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]])
    >>> accuracy(probs, [0, 1, 2, 2])
    0.5
    >>> accuracy(probs, [0, 1, 2, 2], topk=(1, 2))
    (0.5, 0.75)
    """
    wanted = [topk] if isinstance(topk, int) else list(topk)
    tensor = _as_tensor(probs)
    if _holds_predictions(tensor):
        predictions, labels, _ = _read_predictions(tensor, labels)
        if any(k != 1 for k in wanted):
            raise ValueError(
                f"`topk` must be 1 for class predictions, which know no second guess, but is {topk}. "
                "Pass probabilities [N, C]."
            )
        ranks = (predictions != labels).long()
    else:
        tensor, labels = _read_probs(tensor, labels)
        if not all(1 <= k <= tensor.shape[1] for k in wanted):
            raise ValueError(f"`topk` must lie in 1..{tensor.shape[1]}, the number of classes, but is {topk}.")
        ranks = torch.cat([_ranks(block, y) for block, y in _chunks(tensor, labels)])
    values = tuple(_mean(ranks < k) for k in wanted)
    return values[0] if isinstance(topk, int) else values


def per_class_accuracy(probs: Probs | Counts, labels: Counts, num_classes: int | None = None) -> Tensor:
    """Accuracy among the samples of every class, also called recall.

    Args:
        probs: probabilities [N, C], or class predictions int [N].
        labels: class indices, int [N].
        num_classes: C. Probabilities know it; for predictions the default is the largest index there is plus one.

    Returns:
        float64 [C]; NaN for a class without samples in ``labels``. Their mean is the balanced accuracy.

    >>> per_class_accuracy([0, 0, 1, 0], [0, 0, 1, 1], num_classes=3)
    tensor([1.0000, 0.5000,    nan], dtype=torch.float64)
    """
    return _recalls(*_read_predictions(probs, labels, num_classes))


def shot_accuracy(
    probs: Probs | Counts, labels: Counts, class_counts: Counts, many: int = 100, few: int = 20
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

    Returns:
        ``{"many": float, "medium": float, "few": float}``. A class without test samples is left out of its group's
        mean; a group without classes, or without test samples, is NaN, never 0.

    >>> shot_accuracy([0, 0, 1, 0], [0, 0, 1, 1], class_counts=[500, 5])
    {'many': 1.0, 'medium': nan, 'few': 0.5}
    """
    counts = as_counts(class_counts)
    return _shot_means(_recalls(*_read_predictions(probs, labels, counts.numel(), "class_counts")), counts, many, few)


def confusion_matrix(
    probs: Probs | Counts, labels: Counts, num_classes: int | None = None, ignore_index: int | None = None
) -> Tensor:
    """Count how often each class was taken for each other.

    The matrices of several batches add up to that of them all.

    Args:
        probs: probabilities [N, C, ...], or class predictions int [N, ...].
        labels: class indices, int [N, ...]; for segmentation [N, H, W].
        num_classes: C. Probabilities know it; for predictions the default is the largest index there is plus one.
        ignore_index: a label whose samples are left out, such as 255 or -100; by default every sample counts.

    Returns:
        int64 [C, C]; row = true class, column = predicted class. The sum is N, or the number of pixels, less those
        that are ignored; all 0 if all are.

    >>> confusion_matrix([0, 0, 1, 0], [0, 0, 1, 1])
    tensor([[2, 0],
            [1, 1]])
    """
    tensor, labels = _flatten_dense(_as_tensor(probs), torch.as_tensor(labels))
    if ignore_index is not None and labels.ndim == 1 and len(labels) == len(tensor):
        keep = (labels != ignore_index).to(tensor.device)
        if len(keep) and not bool(keep.any()):
            size = tensor.shape[1] if tensor.ndim > 1 else num_classes or int(tensor.max()) + 1
            return torch.zeros(size, size, dtype=torch.int64, device=tensor.device)
        tensor, labels = tensor[keep], labels.to(tensor.device)[keep]
    predictions, labels, size = _read_predictions(tensor, labels, num_classes)
    return torch.bincount(labels * size + predictions, minlength=size * size).view(size, size)


def segmentation_scores(confusion: Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]]) -> SegmentationScores:
    """Intersection over union and accuracy by class, from a confusion matrix.

    ``IoU_c = TP_c / (TP_c + FP_c + FN_c)`` and ``ACC_c = TP_c / (TP_c + FN_c)``; mIoU and mACC are their means, as in
    Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820).

    Args:
        confusion: how often each class was taken for each other, [C, C], row = true class; see
            :func:`confusion_matrix`.

    Returns:
        :class:`SegmentationScores`. A class that is nowhere does not enter the means; one that is only predicted has
        IoU 0. Of a matrix that counts no sample, as of an image whose pixels are all ignored, every score is NaN.

    Raises:
        ValueError: ``confusion`` is not square, or is negative or not finite somewhere.

    >>> scores = segmentation_scores([[2, 0, 0], [1, 1, 0], [0, 0, 0]])
    >>> round(scores.mean_iou, 4), scores.mean_accuracy, scores.overall_accuracy
    (0.5833, 0.75, 0.75)
    >>> scores.class_iou
    tensor([0.6667, 0.5000,    nan], dtype=torch.float64)
    """
    matrix = _as_tensor(confusion).double()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"`confusion` must be a square matrix [C, C], but has shape {list(matrix.shape)}. "
            "`confusion_matrix(probs, labels)` makes one."
        )
    if not bool((matrix.isfinite() & (matrix >= 0.0)).all()):
        raise ValueError("`confusion` must hold counts, but has negative, NaN or infinite entries.")
    total = matrix.sum()
    right, there, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = right / (there + predicted - right)  # 0 / 0 is the NaN of a class that is nowhere
    recalls = right / there
    return SegmentationScores(
        mean_iou=float(iou.nanmean()),
        mean_accuracy=float(recalls.nanmean()),
        overall_accuracy=float(right.sum() / total),
        frequency_weighted_iou=float((there * iou).nansum() / total),
        class_iou=iou,
        class_accuracy=recalls,
    )


def reliability_bins(probs: Probs, labels: Counts, bins: int = 15) -> ReliabilityBins:
    """Count, accuracy and mean confidence of the samples in every bin of confidence, the largest probability.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins; 15 is usual, LADE draws 20.

    Returns:
        :class:`ReliabilityBins`, on the device of ``probs``.

    >>> bins = reliability_bins([[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]], [0, 0, 1], bins=4)
    >>> bins.counts, bins.accuracy[2:]
    (tensor([0, 0, 2, 1]), tensor([0.5000, 1.0000], dtype=torch.float64))
    >>> bins.edges
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    counts, hits, confidence = _confidence_sums(*_read_probs(probs, labels), bins)
    return ReliabilityBins(counts, hits.double() / counts, confidence / counts)  # 0 / 0 is the NaN of an empty bin


def expected_calibration_error(probs: Probs, labels: Counts, bins: int = 15) -> float:
    """``ECE = sum_m |B_m| / N * |acc(B_m) - conf(B_m)|`` (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins of confidence, the largest probability. 15 as in
            UniMix and MiSLAS; LADE takes 20.

    Returns:
        A float in 0..1.

    >>> expected_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1])  # right three times in four, as it says
    0.0
    """
    return _expected_error(*_confidence_sums(*_read_probs(probs, labels), bins))


def maximum_calibration_error(probs: Probs, labels: Counts, bins: int = 15) -> float:
    """``MCE = max_m |acc(B_m) - conf(B_m)|`` (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    An empty bin counts 0; a bin of one sample counts as much as any other, which makes it noisy on small test sets.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins of confidence.

    Returns:
        A float in 0..1.

    >>> maximum_calibration_error([[0.75, 0.25]] * 4 + [[1.0, 0.0]], [0, 0, 0, 1, 1])
    1.0
    """
    return _maximum_error(*_confidence_sums(*_read_probs(probs, labels), bins))


def classwise_calibration_error(probs: Probs, labels: Counts, bins: int = 15) -> float:
    """``Classwise ECE = 1 / C sum_j sum_m |B_mj| / N * |acc(B_mj) - conf(B_mj)|``.

    As Kull et al. (NeurIPS 2019, https://arxiv.org/abs/1910.12656): B_mj holds **all** samples whose p(y = j) lies in
    bin m, conf is their mean p(y = j), acc the fraction of them with label j. LADE's equation 29 is printed without
    1 / N, but the numbers it reports only fit this form.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins.

    Returns:
        A float in 0..1. It shrinks with C, because most entries of a large C are small and right.

    >>> classwise_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 0])
    0.25
    """
    return _classwise_error(*_read_probs(probs, labels), bins)


def brier_score(probs: Probs, labels: Counts) -> float:
    """Mean over the samples of sum_c (p_c - 1[y = c])^2, in 0..2 (Brier, 1950).

    The sum over all classes, as LADE reports it; the usual score of a binary problem is half of it.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].

    Returns:
        A float in 0..2.

    >>> brier_score([[0.75, 0.25]], [1])
    1.125
    """
    return _brier(*_read_probs(probs, labels))


def negative_log_likelihood(probs: Probs, labels: Counts) -> float:
    """Mean of -log p_y, with p_y clipped at 1e-15: a single probability that underflowed to 0 costs 34.5, not infinity.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].

    Returns:
        A float in 0..34.54, in nats.

    >>> round(negative_log_likelihood([[0.5, 0.5], [1.0, 0.0]], [1, 0]), 4)  # log(2) / 2
    0.3466
    """
    return _nll(*_read_probs(probs, labels))


def classification_report(
    probs: Probs, labels: Counts, class_counts: Counts, *, bins: int = 15, many: int = 100, few: int = 20
) -> dict[str, float]:
    """Every number of a long-tailed results table, as fractions; reads and checks the probabilities once.

    Args:
        probs: probabilities [N, C] of the test samples.
        labels: their class indices, int [N].
        class_counts: **training** samples a class, [C].
        bins: bins of the three calibration errors.
        many: as in :func:`shot_accuracy`.
        few: as in :func:`shot_accuracy`.

    Returns:
        Floats under the keys top1, top5, many, medium, few, confidence, ece, mce, classwise_ece, brier, nll. top5 is
        the accuracy of the top min(5, C), so it says something only for C > 5 and is 1 otherwise. confidence is the
        mean probability of the predicted class. An empty shot group is NaN.

    >>> report = classification_report([[0.75, 0.25]] * 4, [0, 0, 0, 1], class_counts=[500, 5])
    >>> report["top1"], report["many"], report["few"], report["ece"]
    (0.75, 1.0, 0.0, 0.0)
    """
    report = StreamingReport(class_counts, bins=bins, many=many, few=few, logits=False)
    report.update(probs, labels)
    return report.compute()


class StreamingReport:
    """:func:`classification_report` of a set that comes batch by batch, on one process or several.

    Only sums are kept, C * (bins + 2) numbers and a few more, never the logits: enough for a training set of any size.
    The result is that of the whole set at once, within rounding. From logits the NLL is log-sum-exp minus the label's
    logit, which stays right where the probability underflows and :func:`negative_log_likelihood` has to clip it.

    Every tensor of ``state`` is a sum over samples, so several processes need one line between the last ``update`` and
    ``compute``: ``report.state = accelerator.reduce(report.state, "sum")``. accelerate repeats samples until every
    process has as many; ``Accelerator(even_batches=False)`` keeps them from counting twice.

    Args:
        class_counts: **training** samples a class, [C].
        bins: bins of the three calibration errors.
        many: as in :func:`shot_accuracy`.
        few: as in :func:`shot_accuracy`.
        logits: whether ``update`` is given logits; otherwise probabilities. Of the first batch it looks which it is.

    Raises:
        ValueError: a class count is negative, ``bins`` is below 1, or ``few`` exceeds ``many``.

    >>> report = StreamingReport(class_counts=[500, 5])
    >>> report.update(torch.tensor([[0.0, -2.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    >>> report.update(torch.tensor([[0.0, -1e4]]), torch.tensor([1]))
    >>> result = report.compute()
    >>> round(result["top1"], 4), result["many"], result["few"], round(result["nll"])
    (0.6667, 1.0, 0.0, 3333)
    """

    def __init__(
        self, class_counts: Counts, *, bins: int = 15, many: int = 100, few: int = 20, logits: bool = True
    ) -> None:
        _check_bins(bins)
        self.class_counts = as_counts(class_counts)
        self.bins, self.many, self.few, self.logits = bins, many, few, logits
        self.looked = not logits  # probabilities are checked in every batch
        shot_groups(self.class_counts, many, few)  # a wrong threshold is said now, not after an hour of batches
        num_classes = self.class_counts.numel()

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.state: dict[str, Tensor] = {
            "labels": zeros(num_classes).long(),  # samples of every class, and the right ones
            "hits": zeros(num_classes).long(),
            "top5": zeros().long(),
            "bin_counts": zeros(bins).long(),  # by confidence: samples, right ones, summed confidence
            "bin_hits": zeros(bins).long(),
            "bin_confidence": zeros(bins),
            "gaps": zeros(num_classes, bins),  # summed p_c - 1[y = c] by class and bin of p_c
            "brier": zeros(),
            "nll": zeros(),
        }
        """Sums over the samples so far: int64 and float64 tensors, on the device of the last batch."""

    def update(self, outputs: Probs, labels: Counts) -> None:
        """Add a batch of any size.

        Args:
            outputs: logits [N, C], or probabilities with ``logits=False``. Half precision is read in single.
            labels: class indices, int [N].

        Raises:
            ValueError: as of the other metrics, if a logit is NaN or infinite (-inf may mask a class), and if the
                logits of the first batch are probabilities. The sums are then as before.
        """
        read = _read_logits if self.logits else _read_probs
        tensor, labels = read(outputs, labels)
        if not self.looked:
            _check_not_probs(tensor[:_LOOKED_AT])
            self.looked = True
        num_classes = self.class_counts.numel()
        _check_num_classes(tensor, num_classes, "class_counts", "logits" if self.logits else "probs")
        state = self.state = {name: total.to(tensor.device) for name, total in self.state.items()}
        state["labels"] += torch.bincount(labels, minlength=num_classes)
        for block, y in _chunks(tensor, labels):
            probs = _softmax(block) if self.logits else block
            leading = _leading(probs, self.bins)
            top, ranks = leading[0][:, 0], _leading_ranks(leading[0], probs, block, y)
            state["hits"] += torch.bincount(y[ranks < 1], minlength=num_classes)
            state["top5"] += (ranks < min(5, num_classes)).sum()
            for name, total in zip(("counts", "hits", "confidence"), _bin_sums(top, ranks < 1, self.bins), strict=True):
                state[f"bin_{name}"] += total
            residual = _residual(probs, y)
            state["brier"] += _square_sum(residual)
            _add_gaps(state["gaps"], leading, residual)
            nll = _nll_of_logits(block, y, top) if self.logits else _nll_of_probs(block, y)
            state["nll"] += nll.sum()

    def merge(self, other: StreamingReport) -> None:
        """Add what another report has seen, of another process or another part of the set.

        Args:
            other: a report of the same settings; it is left as it is.

        Raises:
            ValueError: ``other`` was made with other settings.
        """
        names = ("bins", "many", "few", "logits")
        different = [name for name in names if getattr(self, name) != getattr(other, name)]
        if self.class_counts.tolist() != other.class_counts.tolist():
            different.insert(0, "class_counts")
        if different:
            raise ValueError(
                f"`other` must have the settings of this report, but differs in `{'`, `'.join(different)}`: sums of "
                "different things cannot be added. Make both with the same arguments."
            )
        self.state = {name: total + other.state[name].to(total.device) for name, total in self.state.items()}

    def compute(self) -> dict[str, float]:
        """The report of all samples so far; more may follow.

        Returns:
            What :func:`classification_report` returns.

        Raises:
            ValueError: there was no sample yet.
        """
        state = self.state
        n = int(state["labels"].sum())
        if n == 0:
            raise ValueError("No metric is defined on no sample: call `update(outputs, labels)` before `compute()`.")
        recalls = state["hits"].double() / state["labels"]  # 0 / 0 is the NaN of a class without samples
        sums = state["bin_counts"], state["bin_hits"], state["bin_confidence"]
        return {
            "top1": int(state["hits"].sum()) / n,
            "top5": int(state["top5"]) / n,
            **_shot_means(recalls, self.class_counts, self.many, self.few),
            "confidence": float(state["bin_confidence"].sum()) / n,
            "ece": _expected_error(*sums),
            "mce": _maximum_error(*sums),
            "classwise_ece": float(state["gaps"].abs().sum()) / (n * len(recalls)),
            "brier": float(state["brier"]) / n,
            "nll": float(state["nll"]) / n,
        }


# The metrics themselves, on arguments that have been checked.


def _ranks(probs: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label, int64 [N]; counting needs no sort and, unlike topk, settles ties."""
    y = labels.unsqueeze(1)
    own = probs.gather(1, y)
    classes = torch.arange(probs.shape[1], device=probs.device)
    return ((probs > own) | ((probs == own) & (classes < y))).sum(1)


def _leading(probs: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The largest probabilities of every row, falling, and their classes: six, and all above 1 / bins.

    No more than `bins` can be above it, and a few if rounding has made the sum of a row a little more than 1.
    """
    values, classes = probs.topk(min(probs.shape[1], max(6, bins + bins // 64 + 1)), dim=1)
    return values, classes


def _leading_ranks(leading: Tensor, probs: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    """:func:`_ranks`, from the leading probabilities where those settle it; a rank of 6 stands for any from there.

    Where they do not, from the outputs themselves: logits differ where probabilities are both 0.
    """
    own = probs.gather(1, labels.unsqueeze(1))
    ranks = (leading > own).sum(1).clamp(max=6)
    tied = (leading == own).sum(1) > 1
    ranks[tied] = _ranks(outputs[tied], labels[tied])
    return ranks


def _recalls(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    hits = torch.bincount(labels[predictions == labels], minlength=num_classes)
    return hits.double() / torch.bincount(labels, minlength=num_classes)  # 0 / 0 is the NaN of a class without samples


def _shot_means(recalls: Tensor, class_counts: Tensor, many: int, few: int) -> dict[str, float]:
    groups = shot_groups(class_counts.to(recalls.device), many, few)
    return {name: float(recalls[group].nanmean()) for name, group in groups.items()}


def _bin_index(values: Tensor, bins: int) -> Tensor:
    """Bin of each float64 value: m for m / bins < value <= (m + 1) / bins, and 0 for 0; int64, of the values' shape."""
    # The edges are the doubles next to m / bins: 0.6 is the edge 9 / 15. linspace or ceil(value * bins) would differ.
    inner = torch.arange(1, bins, dtype=torch.float64, device=values.device) / bins
    return torch.bucketize(values.contiguous(), inner)


def _bin_sums(top: Tensor, right: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, right ones (int64) and summed confidence (float64) in every bin, each [bins]; from confidences [N]."""
    top = top.double()
    index = _bin_index(top, bins)
    # index_add_ and not bincount(weights=...), which refuses to run on CUDA under torch.use_deterministic_algorithms.
    confidence = torch.zeros(bins, dtype=torch.float64, device=top.device).index_add_(0, index, top)
    return torch.bincount(index, minlength=bins), torch.bincount(index[right], minlength=bins), confidence


def _confidence_sums(probs: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    _check_bins(bins)
    top, predictions = probs.max(1)
    return _bin_sums(top, predictions == labels, bins)


def _expected_error(counts: Tensor, hits: Tensor, confidence: Tensor) -> float:
    return float((hits - confidence).abs().sum() / counts.sum())


def _maximum_error(counts: Tensor, hits: Tensor, confidence: Tensor) -> float:
    return float(((hits - confidence).abs() / counts.clamp(min=1)).max())


def _classwise_error(probs: Tensor, labels: Tensor, bins: int) -> float:
    _check_bins(bins)
    gaps = torch.zeros(probs.shape[1], bins, dtype=torch.float64, device=probs.device)
    for block, y in _chunks(probs, labels):
        _add_gaps(gaps, _leading(block, bins), _residual(block, y))
    return float(gaps.abs().sum()) / probs.numel()


def _add_gaps(gaps: Tensor, leading: tuple[Tensor, Tensor], residual: Tensor) -> None:
    """Add p_c - 1[y = c] of every entry to its class and bin, [C, bins]; uses up ``residual``, those differences.

    |B| * |acc - conf| = |sum of (1[y = j] - p_j) over B|, so one signed sum a bin and class is all there is to keep.
    Only the leading probabilities can lie above the first bin: of the others, nearly all where there are many classes,
    the sums of the columns suffice.
    """
    values, classes = leading
    index = classes * gaps.shape[1] + _bin_index(values.double(), gaps.shape[1])
    gaps.view(-1).index_add_(0, index.view(-1), residual.gather(1, classes).view(-1))
    gaps[:, 0] += residual.scatter_(1, classes, 0.0).sum(0)


def _brier(probs: Tensor, labels: Tensor) -> float:
    return float(sum(_square_sum(_residual(block, y)) for block, y in _chunks(probs, labels))) / len(probs)


def _square_sum(residual: Tensor) -> Tensor:
    return torch.dot(residual.view(-1), residual.view(-1))  # a pass over memory fewer than square().sum()


def _nll(probs: Tensor, labels: Tensor) -> float:
    return float(_nll_of_probs(probs, labels).mean())


def _nll_of_probs(probs: Tensor, labels: Tensor) -> Tensor:
    own = probs.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    return 0.0 - own.clamp(1e-15, 1.0).log()  # 0 - x: perfect is 0.0, not -0.0


def _nll_of_logits(logits: Tensor, labels: Tensor, top: Tensor) -> Tensor:
    """log-sum-exp - z_y, where log-sum-exp = max z - log max p: the largest probability never underflows."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    return logits.amax(1).double() - own - top.double().log()


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _residual(block: Tensor, labels: Tensor) -> Tensor:
    """p_c - 1[y = c], float64 [n, C], a contiguous copy."""
    residual = block.to(torch.float64, copy=True).contiguous()
    residual[torch.arange(len(labels), device=labels.device), labels] -= 1.0
    return residual


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


def _chunks(probs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices of samples, of a bounded number of entries."""
    rows = max(1, _CHUNK // probs.shape[1])
    for start in range(0, len(probs), rows):
        yield probs[start : start + rows], labels[start : start + rows]


# Reading of arguments.


def _as_tensor(values: Probs | Counts) -> Tensor:
    # Through numpy, because torch would read the floats of a list in single precision.
    tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    return tensor.cpu() if tensor.device.type == "mps" else tensor  # MPS has no float64


def _holds_predictions(tensor: Tensor) -> bool:
    return tensor.ndim == 1 and not (tensor.is_floating_point() and tensor.numel())


def _flatten_dense(tensor: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Dense predictions [N, ...] or probabilities [N, C, ...] and labels [N, ...] as rows; others as they are."""
    if labels.ndim < 2:
        return tensor, labels
    if not tensor.is_floating_point() and tensor.shape == labels.shape:
        return tensor.flatten(), labels.flatten()
    if tensor.ndim == labels.ndim + 1:
        if tensor.shape[:1] + tensor.shape[2:] != labels.shape:
            raise ValueError(
                f"`labels` must have the shape of `probs` without its classes on dim 1, but have {list(labels.shape)} "
                f"and {list(tensor.shape)}. Resize one of them."
            )
        return tensor.movedim(1, -1).flatten(0, -2), labels.flatten()
    return tensor, labels


def _read_probs(probs: Probs | Counts, labels: Counts) -> tuple[Tensor, Tensor]:
    """Check probabilities [N, C] and labels [N], and bring the labels to the device of the probabilities."""
    tensor, labels = _read_scores(probs, labels, "probs")
    sums = tensor.sum(1)
    # 1e-2: rows that have been through bfloat16, even if they come in another type, are off by up to 4e-3.
    off = ~((sums - 1.0).abs() <= 1e-2)  # true for NaN as well
    if bool(off.any()):
        row = int(off.nonzero()[0])
        if not bool(tensor[row].isfinite().all()):
            raise ValueError(
                f"`probs` must be finite, but row {row} has NaN or infinite entries "
                f"({int(off.sum())} of {len(tensor)} rows are off). Look for an overflow in the model first."
            )
        raise ValueError(
            f"`probs` must be probabilities, rows that sum to 1, but row {row} sums to {float(sums[row]):.6g} "
            f"({int(off.sum())} of {len(tensor)} rows are off). If these are logits, pass `logits.softmax(1)`."
        )
    if float(tensor.amin()) < 0.0:
        row = int((tensor < 0).any(1).nonzero()[0])
        raise ValueError(
            f"`probs` must be probabilities, but row {row} has the negative entry {float(tensor[row].amin()):.6g}. "
            "If these are logits, pass `logits.softmax(1)`."
        )
    return tensor, labels


def _read_logits(logits: Probs, labels: Counts) -> tuple[Tensor, Tensor]:
    """Check logits [N, C] and labels [N], and bring the labels to the device of the logits."""
    tensor, labels = _read_scores(logits, labels, "logits")
    off = ~tensor.amax(1).isfinite()  # NaN and inf are the largest of their row; -inf only where there is nothing else
    if bool(off.any()):
        raise ValueError(
            f"`logits` must be finite, but row {int(off.nonzero()[0])} has NaN or infinite entries "
            f"({int(off.sum())} of {len(tensor)} rows are off). Look for an overflow in the model first."
        )
    return tensor, labels


def _check_not_probs(logits: Tensor) -> None:
    """Refuse rows that are all probabilities, whose softmax would give a report that only looks like one."""
    # Rounding in half precision is off by up to 4e-3; in single a wide margin would meet logits of few classes.
    margin = 1e-2 if logits.element_size() < 4 else 1e-4
    sums_to_1 = (logits >= 0.0).all(1) & ((logits.sum(1) - 1.0).abs() <= margin)
    # Whole numbers alone may well be logits: of a lookup table, of a test.
    if bool(sums_to_1.all()) and bool((logits != logits.round()).any()):
        raise ValueError(
            "`outputs` must be logits, but every row lies in 0..1 and sums to 1, as probabilities do. Make the report "
            "with `StreamingReport(class_counts, logits=False)`, or pass what came before the softmax."
        )


def _read_scores(scores: Probs | Counts, labels: Counts, name: str) -> tuple[Tensor, Tensor]:
    """What probabilities and logits have in common: shape, type, and labels that fit."""
    tensor = _as_tensor(scores)
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(
            f"`{name}` must hold one row a sample, shape [N, C], but has shape {list(tensor.shape)}. "
            f"Flatten dense predictions [N, C, ...] with `{name}.movedim(1, -1).flatten(0, -2)`."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"`{name}` must be floating point, but are {tensor.dtype}. "
            "Convert one-hot rows with `.double()`; class predictions have shape [N]."
        )
    labels = _read_labels(labels, tensor, name)
    _check_range(labels, tensor.shape[1], "labels", f"the classes of `{name}`")
    return tensor, labels


def _read_predictions(
    probs: Probs | Counts, labels: Counts, num_classes: int | None = None, source: str = "num_classes"
) -> tuple[Tensor, Tensor, int]:
    """Predicted classes int64 [N], labels int64 [N] and C, from probabilities or from predictions."""
    tensor = _as_tensor(probs)
    if not _holds_predictions(tensor):
        if tensor.ndim == 1:
            raise ValueError(
                "`probs` must be probabilities, shape [N, C], or integer class predictions, shape [N], but is "
                f"{tensor.dtype} of shape {list(tensor.shape)}. Convert with `.long()` if it holds class indices."
            )
        tensor, labels = _read_probs(tensor, labels)
        if num_classes is not None:
            _check_num_classes(tensor, num_classes, source)
        return tensor.argmax(1), labels, tensor.shape[1]
    predictions = as_labels(tensor, "probs")
    labels = _read_labels(labels, predictions)
    if num_classes is None:
        num_classes = max(int(labels.max()), int(predictions.max())) + 1
        origin = "class indices"
    else:
        origin = f"the classes of `{source}`"
    _check_range(labels, num_classes, "labels", origin)
    _check_range(predictions, num_classes, "probs", origin)
    return predictions, labels, num_classes


def _read_labels(labels: Counts, tensor: Tensor, name: str = "probs") -> Tensor:
    labels = as_labels(labels).to(tensor.device)
    if len(labels) != len(tensor):
        raise ValueError(
            f"`labels` must hold one class index a sample, {len(tensor)} as `{name}`, but hold {len(labels)}. "
            "Gather both from the same pass over the data."
        )
    if len(labels) == 0:
        raise ValueError(
            f"`{name}` and `labels` are empty, and no metric is defined on no sample. Check the test split."
        )
    return labels


def _check_range(indices: Tensor, num_classes: int, name: str, origin: str) -> None:
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"`{name}` must lie in 0..{num_classes - 1}, {origin}, but range from {low} to {high}. "
            "Drop ignored samples (-1, -100) and map the others to consecutive integers from 0."
        )


def _check_num_classes(scores: Tensor, num_classes: int, source: str, name: str = "probs") -> None:
    if scores.shape[1] != num_classes:
        raise ValueError(
            f"`{source}` must agree with the {scores.shape[1]} columns of `{name}`, but speaks of {num_classes} "
            "classes. A class without samples still needs its column and its count."
        )


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, but is {bins}. 15 is usual.")
