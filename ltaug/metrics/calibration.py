"""Calibration errors and the bins of a reliability diagram.

Bins have equal width and are closed on the right, ((m - 1) / bins, m / bins]; the first also takes 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.metrics._inputs import Probs, chunks, read_probs
from ltaug.metrics.scores import residuals
from ltaug.priors import Counts

__all__ = [
    "ReliabilityBins",
    "adaptive_calibration_error",
    "classwise_calibration_error",
    "expected_calibration_error",
    "maximum_calibration_error",
    "reliability_bins",
]


class ReliabilityBins(NamedTuple):
    """Count, accuracy and mean confidence of every bin of a reliability diagram.

    Attributes:
        counts: samples in the bin, int64 [bins].
        accuracy: fraction of them that is classified correctly, float64 [bins]; NaN for an empty bin.
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


@checked
def reliability_bins(probs: Probs, labels: Counts, bins: int = 15, ignore_index: int | None = None) -> ReliabilityBins:
    """Count, accuracy and mean confidence of the samples in every bin of confidence, the largest probability.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins; 15 is usual, LADE draws 20.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        :class:`ReliabilityBins`, on the device of ``probs``.

    >>> bins = reliability_bins([[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]], [0, 0, 1], bins=4)
    >>> bins.counts, bins.accuracy[2:]
    (tensor([0, 0, 2, 1]), tensor([0.5000, 1.0000], dtype=torch.float64))
    >>> bins.edges
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    counts, hits, confidence = _confidence_sums(*read_probs(probs, labels, ignore_index), bins)
    return ReliabilityBins(counts, hits.double() / counts, confidence / counts)  # 0 / 0 is the NaN of an empty bin


@checked
def expected_calibration_error(probs: Probs, labels: Counts, bins: int = 15, ignore_index: int | None = None) -> float:
    """Expected calibration error (ECE): mean gap between confidence and accuracy.

    ``ECE = sum_m |B_m| / N * |acc(B_m) - conf(B_m)|`` (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins of confidence, the largest probability. 15 as in
            UniMix and MiSLAS; LADE takes 20.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float in 0..1.

    >>> expected_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1])  # confidence 3/4, right in three of four
    0.0
    """
    return expected_error(*_confidence_sums(*read_probs(probs, labels, ignore_index), bins))


@checked
def maximum_calibration_error(probs: Probs, labels: Counts, bins: int = 15, ignore_index: int | None = None) -> float:
    """Maximum calibration error (MCE): largest gap between confidence and accuracy of any bin.

    ``MCE = max_m |acc(B_m) - conf(B_m)|`` (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599). An empty bin
    counts 0; a bin of one sample counts as much as any other, which makes it noisy on small test sets.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins of confidence.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float in 0..1.

    >>> maximum_calibration_error([[0.75, 0.25]] * 4 + [[1.0, 0.0]], [0, 0, 0, 1, 1])
    1.0
    """
    return maximum_error(*_confidence_sums(*read_probs(probs, labels, ignore_index), bins))


@checked
def classwise_calibration_error(probs: Probs, labels: Counts, bins: int = 15, ignore_index: int | None = None) -> float:
    """Class-wise calibration error: the ECE of every class's probability, averaged over the classes.

    ``1 / C sum_j sum_m |B_mj| / N * |acc(B_mj) - conf(B_mj)|``, as Kull et al. (NeurIPS 2019,
    https://arxiv.org/abs/1910.12656): B_mj holds **all** samples whose p(y = j) lies in bin m, conf is their mean p(y =
    j), acc the fraction of them with label j. LADE's equation 29 is printed without 1 / N, but the numbers it reports
    only fit this form.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of equal, right-closed bins.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        A float in 0..1. It shrinks with C, because most entries of a large C are small and right.

    >>> classwise_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 0])
    0.25
    """
    return _classwise_error(*read_probs(probs, labels, ignore_index), bins)


@checked
def adaptive_calibration_error(probs: Probs, labels: Counts, bins: int = 15, ignore_index: int | None = None) -> float:
    r"""Calibration error of the confidence in bins that hold equally many samples (adaptive ECE).

    .. math:: ECE = \sum_m \frac{|B_m|}{N} |acc(B_m) - conf(B_m)|

    as for :func:`expected_calibration_error`, but the borders are quantiles of the confidences (Nguyen & O'Connor,
    EMNLP 2015, https://arxiv.org/abs/1508.05154): a confident network puts nearly all samples into one or two bins of
    equal width. Equal confidences share a bin, so that the order of the samples does not matter.

    Args:
        probs: probabilities [N, C].
        labels: class indices, int [N].
        bins: number of bins; with ties there are fewer.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        In 0..1.

    >>> probs = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]
    >>> round(adaptive_calibration_error(probs, [0, 0, 0, 1], bins=2), 4)
    0.1
    """
    probs, labels = read_probs(probs, labels, ignore_index)
    check_bins(bins)
    top, predictions = probs.double().max(1)
    right, n = (predictions == labels).double(), len(top)
    last = torch.arange(1, bins, device=top.device) * n // bins  # one past the last of each bin but the last one
    borders = top.sort().values[(last - 1).clamp(min=0)]
    index = torch.searchsorted(borders, top)
    gaps = torch.zeros(bins, dtype=torch.float64, device=top.device).index_add_(0, index, right - top)
    return float(gaps.abs().sum()) / n


def leading_classes(probs: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The largest probabilities of every row in descending order, and their classes: six, and all above 1 / bins.

    No more than `bins` of them can exceed it, or a few more if rounding has made the sum of a row a little more than 1.
    """
    values, classes = probs.topk(min(probs.shape[1], max(6, bins + bins // 64 + 1)), dim=1)
    return values, classes


def bin_index(values: Tensor, bins: int) -> Tensor:
    """Bin of each float64 value: m for m / bins < value <= (m + 1) / bins, and 0 for 0; int64, of the values' shape."""
    # The edges are the doubles next to m / bins: 0.6 is the edge 9 / 15. linspace or ceil(value * bins) would differ.
    inner = torch.arange(1, bins, dtype=torch.float64, device=values.device) / bins
    return torch.bucketize(values.contiguous(), inner)


def bin_sums(top: Tensor, right: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, correct samples (int64) and summed confidence (float64) of every bin, each [bins]."""
    top = top.double()
    index = bin_index(top, bins)
    # index_add_ and not bincount(weights=...), which refuses to run on CUDA under torch.use_deterministic_algorithms.
    confidence = torch.zeros(bins, dtype=torch.float64, device=top.device).index_add_(0, index, top)
    return torch.bincount(index, minlength=bins), torch.bincount(index[right], minlength=bins), confidence


def _confidence_sums(probs: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    check_bins(bins)
    top, predictions = probs.max(1)
    return bin_sums(top, predictions == labels, bins)


def expected_error(counts: Tensor, hits: Tensor, confidence: Tensor) -> float:
    """ECE from the sums of the bins."""
    return float((hits - confidence).abs().sum() / counts.sum())


def maximum_error(counts: Tensor, hits: Tensor, confidence: Tensor) -> float:
    """MCE from the sums of the bins."""
    return float(((hits - confidence).abs() / counts.clamp(min=1)).max())


def _classwise_error(probs: Tensor, labels: Tensor, bins: int) -> float:
    check_bins(bins)
    gaps = torch.zeros(probs.shape[1], bins, dtype=torch.float64, device=probs.device)
    for block, y in chunks(probs, labels):
        add_gaps(gaps, leading_classes(block, bins), residuals(block, y))
    return float(gaps.abs().sum()) / probs.numel()


def add_gaps(gaps: Tensor, leading: tuple[Tensor, Tensor], residual: Tensor) -> None:
    """Add p_c - 1[y = c] of every entry to its class and bin, [C, bins]; overwrites ``residual``, those differences.

    |B| * |acc - conf| = |sum of (1[y = j] - p_j) over B|, so one signed sum a bin and class is enough. Only the leading
    probabilities can lie above the first bin: of the others, nearly all where there are many classes, the sums of the
    columns suffice.
    """
    values, classes = leading
    index = classes * gaps.shape[1] + bin_index(values.double(), gaps.shape[1])
    gaps.view(-1).index_add_(0, index.view(-1), residual.gather(1, classes).view(-1))
    gaps[:, 0] += residual.scatter_(1, classes, 0.0).sum(0)


def check_bins(bins: int) -> None:
    """Raise ValueError for a number of bins below 1 or above a million."""
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, but is {bins}. 15 is usual.")
    if bins > 1_000_000:
        raise ValueError(f"`bins` must be at most a million, but is {bins}. 15 is usual.")
