"""What the figures share: numbers in, sorted and averaged numbers out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltaug.priors import Counts, as_counts, shot_groups

Floats = NDArray[np.float64]
Values = Tensor | NDArray[Any] | Sequence[float | None]
"""One number a class; ``None`` and NaN stand for "no test sample"."""

MAX_BARS = 200


def as_float(value: Any) -> float:
    """A number, or NaN for what is none."""
    if isinstance(value, (str, bool)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def as_floats(values: Values) -> Floats:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def known_mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def sorted_by_count(
    accuracy: Values, class_counts: Counts, name: str = "accuracy", word: str = "class"
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Counts and accuracy of the classes, most frequent class first, and their order."""
    counts = as_counts(class_counts, f"{word}_counts").cpu().numpy()
    values = as_floats(accuracy)
    if values.shape != counts.shape:
        kinds, without = ("classes", "test sample") if word == "class" else ("labels", "positives")
        raise ValueError(
            f"`{name}` must hold one number for each of the {len(counts)} {kinds} in `{word}_counts`, "
            f"but has shape {list(values.shape)}. Pass NaN for a {word} without {without}."
        )
    order = np.argsort(-counts, kind="stable")
    return counts[order], values[order], order


def group_spans(counts: NDArray[Any]) -> list[tuple[str, int, int]]:
    """(group, first rank, end) of the groups that are not empty; ``counts`` fall, so every group is one span."""
    spans, start = [], 0
    for name, mask in shot_groups(torch.as_tensor(counts.copy())).items():
        size = int(mask.sum())
        if size:
            spans.append((name, start, start + size))
        start += size
    return spans


def bar_edges(spans: Sequence[tuple[str, int, int]], num_classes: int) -> tuple[NDArray[np.int64], int]:
    """Where bars begin and end, in ranks from 0, and how many classes share one; no bar crosses a group."""
    size = math.ceil(num_classes / MAX_BARS)
    starts = [start for _, first, stop in spans for start in range(first, stop, size)]
    return np.array([*starts, num_classes]), size


def bin_means(values: Floats, edges: NDArray[np.int64]) -> Floats:
    return np.array([known_mean(values[low:high]) for low, high in itertools.pairwise(edges)])


def smoothing_window(num_classes: int) -> int:
    """Classes that a line over many classes is averaged over; up to 30 can be told apart one by one."""
    return math.ceil(num_classes / 15) if num_classes > 30 else 1


def running_mean(values: Floats, window: int) -> Floats:
    """Mean over a centred window, cut at the ends; NaN only where the window holds no number."""
    if window <= 1:
        return values
    known = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    sizes = np.concatenate([[0], np.cumsum(known)])
    middle = np.arange(len(values))
    low, high = (np.maximum(middle - window // 2, 0), np.minimum(middle + (window + 1) // 2, len(values)))
    size = sizes[high] - sizes[low]
    return np.where(size > 0, (totals[high] - totals[low]) / np.maximum(size, 1), np.nan)
