"""Arguments of the metrics: read, checked, and cut into slices that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ltaug.priors import Counts, as_array, as_labels, comparable, on_wide_device, with_values

Probs = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]]
"""Class probabilities, one row a sample, [N, C]."""


CHUNK = 1 << 19
"""Entries of ``probs`` held in float64 at a time; a full copy of 24k x 8k probabilities would take 1.6 GB."""


ROWS_CHECKED = 64
"""Rows of the first batch that are checked for probabilities passed as logits."""


def as_tensor(values: Probs | Counts, name: str = "probs") -> Tensor:
    """Convert probabilities, predictions or counts of any form to a detached tensor on a device with float64."""
    return on_wide_device(comparable(with_values(as_array(values, name), name)).detach())


def holds_predictions(tensor: Tensor) -> bool:
    """Whether a tensor holds class predictions [N], not probabilities [N, C]."""
    return tensor.ndim == 1 and not (tensor.is_floating_point() and tensor.numel())


def flatten_dense(tensor: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten dense predictions or probabilities and their labels [N, ...] to rows; others pass through."""
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


def leave_out(tensor: Tensor, labels: Counts, ignore_index: int | None) -> tuple[Tensor, Counts]:
    """Leave out samples of a label, such as 255, of predictions or probabilities that may be dense, [N, ...]."""
    if ignore_index is None:
        return tensor, labels
    tensor, flat = flatten_dense(tensor, comparable(as_array(labels, "labels")))
    if flat.ndim != 1 or len(flat) != len(tensor):
        return tensor, flat  # does not fit, and an error says so
    kept = (flat.long() != ignore_index).to(tensor.device)  # not in bytes, in which -100 is 156
    if len(kept) and not bool(kept.any()):
        raise ValueError(f"`labels` must not all be {ignore_index}, the `ignore_index`: no metric is defined on none.")
    return tensor[kept], flat.to(tensor.device)[kept]


def read_probs(probs: Probs | Counts, labels: Counts, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Check probabilities [N, C] and labels [N], and bring the labels to the device of the probabilities."""
    tensor, labels = read_scores(*leave_out(as_tensor(probs), labels, ignore_index), "probs")
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


def read_logits(logits: Probs, labels: Counts, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Check logits [N, C] and labels [N], and bring the labels to the device of the logits."""
    tensor, labels = read_scores(*leave_out(as_tensor(logits, "logits"), labels, ignore_index), "logits")
    off = ~tensor.amax(1).isfinite()  # NaN and inf are the largest of their row; -inf only where there is nothing else
    if bool(off.any()):
        raise ValueError(
            f"`logits` must be finite, but row {int(off.nonzero()[0])} has NaN or infinite entries "
            f"({int(off.sum())} of {len(tensor)} rows are off). Look for an overflow in the model first."
        )
    return tensor, labels


def check_not_probs(logits: Tensor) -> None:
    """Raise ValueError for rows that are all probabilities: their softmax would give a plausible, wrong report."""
    # Rounding in half precision is off by up to 4e-3; in single a wide margin would meet logits of few classes.
    margin = 1e-2 if logits.element_size() < 4 else 1e-4
    sums_to_1 = (logits >= 0.0).all(1) & ((logits.sum(1) - 1.0).abs() <= margin)
    # Whole numbers alone may well be logits: of a lookup table, of a test.
    if bool(sums_to_1.all()) and bool((logits != logits.round()).any()):
        raise ValueError(
            "`outputs` must be logits, but every row lies in 0..1 and sums to 1, as probabilities do. Make the report "
            "with `StreamingReport(class_counts, logits=False)`, or pass what came before the softmax."
        )


def read_scores(scores: Probs | Counts, labels: Counts, name: str) -> tuple[Tensor, Tensor]:
    """Check what probabilities and logits have in common: shape, type, and labels that fit."""
    tensor = as_tensor(scores, name)
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
    labels = read_labels(labels, tensor, name)
    check_range(labels, tensor.shape[1], "labels", f"the classes of `{name}`")
    return tensor, labels


def read_predictions(
    probs: Probs | Counts,
    labels: Counts,
    num_classes: int | None = None,
    source: str = "num_classes",
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Return predicted classes int64 [N], labels int64 [N] and C, from probabilities or from predictions."""
    tensor, labels = leave_out(as_tensor(probs), labels, ignore_index)
    if not holds_predictions(tensor):
        if tensor.ndim == 1:
            raise ValueError(
                "`probs` must be probabilities, shape [N, C], or integer class predictions, shape [N], but is "
                f"{tensor.dtype} of shape {list(tensor.shape)}. Convert with `.long()` if it holds class indices."
            )
        tensor, labels = read_probs(tensor, labels)
        if num_classes is not None:
            check_num_classes(tensor, num_classes, source)
        return tensor.argmax(1), labels, tensor.shape[1]
    predictions = as_labels(tensor, "probs")
    labels = read_labels(labels, predictions)
    if num_classes is None:
        num_classes = max(int(labels.max()), int(predictions.max())) + 1
        origin = "class indices"
    else:
        origin = f"the classes of `{source}`"
    check_range(labels, num_classes, "labels", origin)
    check_range(predictions, num_classes, "probs", origin)
    return predictions, labels, num_classes


def read_labels(labels: Counts, tensor: Tensor, name: str = "probs") -> Tensor:
    """Check labels [N] against the rows of a tensor, and bring them to its device."""
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


def check_range(indices: Tensor, num_classes: int, name: str, origin: str) -> None:
    """Raise ValueError for class indices outside 0..num_classes - 1."""
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"`{name}` must lie in 0..{num_classes - 1}, {origin}, but range from {low} to {high}. "
            "Drop ignored samples (-1, -100) and map the others to consecutive integers from 0."
        )


def check_num_classes(scores: Tensor, num_classes: int, source: str, name: str = "probs") -> None:
    """Raise ValueError for scores with another number of columns than expected."""
    if scores.shape[1] != num_classes:
        raise ValueError(
            f"`{source}` must agree with the {scores.shape[1]} columns of `{name}`, but has {num_classes} "
            "classes. A class without samples still needs its column and its count."
        )


def chunks(probs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield slices of samples with a bounded number of entries."""
    rows = max(1, CHUNK // probs.shape[1])
    for start in range(0, len(probs), rows):
        yield probs[start : start + rows], labels[start : start + rows]
