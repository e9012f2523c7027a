"""Figures of what is taken for what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltaug.plots._numbers import Floats, group_spans
from ltaug.plots._style import (
    LABEL_SIZE,
    TEXT_SIZE,
    axes_of,
    class_ticks,
    name_groups,
    panels,
    rank_ticks,
    short_number,
    style_axes,
)
from ltaug.priors import Counts, as_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Confusion = Tensor | NDArray[Any] | Sequence[Sequence[int]]

MAX_CELLS = 400


def log_confusion_matrix(
    confusion: Confusion,
    class_counts: Counts | None = None,
    ax: Axes | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Confusion counts n as log(1 + n), x the true and y the predicted class, both from the most frequent class on.

    The logarithm shows the rare confusions; a model that is biased to the head fills the top right corner. With more
    than 400 classes neighbours share a cell, which holds their sum.

    Args:
        confusion: test samples by ``[truth, prediction]``, [C, C]; dense, or a sparse torch tensor where C is large.
        class_counts: training samples a class, [C]; without them the classes keep their order.
        ax: where to draw.
        class_names: names a class, shown where there are at most 20.

    Returns:
        The figure.

    Raises:
        ValueError: ``confusion`` is not square, holds a negative number, or differs in length from ``class_counts``.

    >>> figure = log_confusion_matrix([[3, 1], [9, 90]], class_counts=[5, 500])
    >>> figure.axes[0].images[0].get_array().round(1).tolist()  # class 1 first
    [[4.5, 0.7], [2.3, 1.4]]
    """
    cells, order, spans = _sorted_confusion(confusion, class_counts, "confusion")
    num_classes = len(order)
    figure, ax = axes_of(ax, 4.3)
    high = max(float(cells.max()), 1.0)
    image = _draw_confusion(ax, cells, num_classes, spans, high)
    suffix = ", 1 = most training samples" if spans else ""
    style_axes(ax, xlabel=f"true class{suffix}", ylabel="predicted class", grid=False)
    name_groups(ax, spans, width=0.75)  # square, beside a colour bar
    if num_classes <= 10:
        for x, y in np.ndindex(num_classes, num_classes):
            bright = math.log1p(cells[x, y]) > 0.6 * math.log1p(high)
            color = "black" if bright else "white"
            ax.text(x + 1, y + 1, f"{cells[x, y]:g}", ha="center", va="center", fontsize=8, color=color)
    if class_ticks(ax.xaxis, order, class_names) and class_ticks(ax.yaxis, order, class_names):
        ax.set_xlabel("true class" + (", most training samples first" if spans else ""))
    _style_colorbar(ax.figure.colorbar(image, ax=ax, shrink=0.9, pad=0.02), high)
    return figure


def compare_log_confusion_matrices(
    confusions: Mapping[str, Confusion], class_counts: Counts | None = None, *, class_names: Sequence[str] | None = None
) -> Figure:
    """Confusion matrices of several models side by side, in the same colours.

    As in UniMix (Xu et al., NeurIPS 2021, Fig. 5, https://arxiv.org/abs/2111.03874); one of them alone is
    :func:`log_confusion_matrix`.

    Args:
        confusions: for every model, by name, its test samples by ``[truth, prediction]``, [C, C], dense or sparse.
        class_counts: training samples a class, [C]; without them the classes keep their order.
        class_names: names a class, shown where there are at most 10.

    Returns:
        The figure, with a panel a model, two in a row. Dashed lines part the shot groups.

    Raises:
        ValueError: there is no model, or one of the matrices is as :func:`log_confusion_matrix` refuses it.

    >>> figure = compare_log_confusion_matrices({"plain": [[9, 1], [9, 1]], "UniMix": [[8, 2], [3, 7]]}, [500, 5])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['plain', 'UniMix']
    """
    if not confusions:
        raise ValueError("`confusions` is empty. Pass the confusion matrix of at least one model, by its name.")
    sorted_ = {name: _sorted_confusion(c, class_counts, f"confusion of {name}") for name, c in confusions.items()}
    high = max(1.0, *(float(cells.max()) for cells, _, _ in sorted_.values()))
    figure, grid = panels(confusions, 2.35 if len(confusions) > 1 else 4.3, extra=0.9)
    for position, (ax, (cells, order, spans)) in enumerate(zip(grid, sorted_.values(), strict=True)):
        image = _draw_confusion(ax, cells, len(order), spans, high)
        style_axes(ax, xlabel="true class", ylabel="" if position % 2 else "predicted class", grid=False)
        for axis in (ax.xaxis, ax.yaxis):
            class_ticks(axis, order, class_names, most=10, length=9)
    bar = figure.colorbar(image, ax=grid, location="bottom", fraction=0.05, aspect=40, pad=0.02)
    _style_colorbar(bar, high)
    return figure


def _sorted_confusion(
    confusion: Confusion, class_counts: Counts | None, name: str
) -> tuple[Floats, NDArray[np.int64], list[tuple[str, int, int]]]:
    """Cells to draw, order of the classes, and the spans of the shot groups (none without counts)."""
    matrix = confusion if isinstance(confusion, Tensor) else torch.as_tensor(np.asarray(confusion))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(
            f"`{name}` must be square, shape [C, C] by [truth, prediction], but has shape {list(matrix.shape)}."
        )
    num_classes = matrix.shape[0]
    order = np.arange(num_classes)
    spans: list[tuple[str, int, int]] = []
    if class_counts is not None:
        counts = as_counts(class_counts).cpu().numpy()
        if len(counts) != num_classes:
            raise ValueError(
                f"`{name}` has {num_classes} classes, but `class_counts` {len(counts)}. "
                "Pass the training samples of the same classes."
            )
        order = np.argsort(-counts, kind="stable")
        spans = group_spans(counts[order])
    return _confusion_cells(matrix, order, name), order, spans


def _draw_confusion(
    ax: Axes, cells: Floats, num_classes: int, spans: Sequence[tuple[str, int, int]], high: float
) -> AxesImage:
    side = len(cells) * math.ceil(num_classes / MAX_CELLS) + 0.5
    image = ax.imshow(
        np.log1p(cells).T,
        cmap="viridis",
        vmin=0,
        vmax=math.log1p(high),
        extent=(0.5, side, side, 0.5),
        interpolation="nearest",
        interpolation_stage="data",
    )
    ax.set_xlim(0.5, num_classes + 0.5)
    ax.set_ylim(num_classes + 0.5, 0.5)
    for _, start, _ in spans[1:]:
        for line in (ax.axvline, ax.axhline):
            line(start + 0.5, color="white", linewidth=1, linestyle="--", alpha=0.9)
    for axis in (ax.xaxis, ax.yaxis):
        rank_ticks(axis, num_classes)
    return image


def _style_colorbar(bar: Colorbar, high: float) -> None:
    # Lying, a long bar has room for the powers of ten alone.
    steps = (1, 3) if bar.orientation == "vertical" else (1,)
    ticks = [0, *(n for e in range(10) for n in (step * 10**e for step in steps) if n <= high)]
    bar.set_ticks([math.log1p(n) for n in ticks], labels=[short_number(n) for n in ticks])
    bar.set_label("test samples, log(1 + n)", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)


def _confusion_cells(matrix: Tensor, order: NDArray[np.int64], name: str) -> Floats:
    """Sums of neighbours in the given order, at most MAX_CELLS a side, float64 [K, K] by [truth, prediction]."""
    sparse = matrix.detach().cpu().to_sparse().coalesce()
    values = sparse.values().double()
    if values.numel() and not bool((values >= 0).all()):
        raise ValueError(f"`{name}` must hold sample counts, but some are negative or NaN.")
    rank = torch.empty(len(order), dtype=torch.long)
    rank[torch.as_tensor(order.copy())] = torch.arange(len(order))
    block = math.ceil(len(order) / MAX_CELLS)
    side = math.ceil(len(order) / block)
    truth, prediction = rank[sparse.indices()] // block
    cells = torch.zeros(side * side, dtype=torch.float64)
    cells.index_add_(0, truth * side + prediction, values)
    return cells.view(side, side).numpy()
