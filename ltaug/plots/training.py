"""Figures over the epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltaug.plots._numbers import Floats, as_float, as_floats
from ltaug.plots._style import (
    BLACK,
    GREY,
    GROUP_COLORS,
    ORANGE,
    PURPLE,
    axes_of,
    integer_ticks,
    legend_above,
    note,
    panel_below,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Tensor | NDArray[Any] | Sequence[Sequence[float]]


def learning_curves(rows: Iterable[Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Test accuracy by epoch, with the training loss below.

    Args:
        rows: one mapping an epoch, as in a run's ``metrics.jsonl``: ``epoch`` counted from 0, ``loss``, ``lr``, and, on
            the epochs that were evaluated, fractions ``top1`` (``map`` of several labels a sample), ``many``,
            ``medium``, ``few``. Every key may be missing or None. Of two rows of the same epoch (a resumed run) the
            later one counts.
        ax: where to draw; its lower part becomes the loss.

    Returns:
        The figure, in which the first epoch is 1. Vertical dotted lines mark the epochs at which a constant learning
        rate was lowered in a step.

    >>> figure = learning_curves([{"epoch": 0, "loss": 4.6}, {"epoch": 1, "loss": 4.1, "top1": 0.08}])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['test accuracy (%)', 'training loss']
    """
    figure, ax = axes_of(ax, 4.0)
    by_epoch: dict[float, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        epoch = as_float(row.get("epoch"))
        by_epoch[1 + (position if math.isnan(epoch) else epoch)] = row
    epochs = np.array(sorted(by_epoch), dtype=float)

    def column(key: str) -> Floats:
        return np.array([as_float(by_epoch[epoch].get(key)) for epoch in epochs], dtype=float)

    below = panel_below(ax, 0.36)
    several = bool(np.isfinite(column("map")).any())
    lines = {
        "map" if several else "top1": ("all", BLACK, 2.4),
        **{name: (name, color, 1.6) for name, color in GROUP_COLORS.items()},
    }
    for key, (label, color, width) in lines.items():
        values = 100 * column(key)
        known = np.isfinite(values)
        if known.any():
            # The last value in the legend: the number that a run reports is that of its last epoch.
            label = f"{label} {values[known][-1]:.1f}"
            marker = "o" if known.sum() <= 30 else ""
            ax.plot(
                epochs[known], values[known], color=color, linewidth=width, label=label, marker=marker, markersize=3.5
            )
    loss = column("loss")
    known = np.isfinite(loss)
    marker = "o" if known.sum() <= 30 else ""
    below.plot(epochs[known], loss[known], color=PURPLE, linewidth=1.8, marker=marker, markersize=3.5)
    for epoch in _rate_steps(epochs, column("lr")):
        for axes in (ax, below):
            axes.axvline(epoch, color=GREY, linewidth=1, linestyle=":")

    style_axes(ax, ylabel="mean average\nprecision (%)" if several else "test accuracy (%)")
    style_axes(below, xlabel="epoch", ylabel="training loss")
    integer_ticks(below.xaxis)
    below.set_xlim(left=max(below.get_xlim()[0], 0.5))  # there is no epoch 0
    if ax.lines and ax.get_legend_handles_labels()[0]:
        ax.set_ylim(0, 1.05 * ax.dataLim.y1 or 1)  # which leaves room above a line that does not move
        legend_above(ax)
    else:
        note(ax, "no epoch was evaluated yet")
    if not known.any():
        note(below, "no epoch was trained yet")
    return figure


def confidence_accuracy_density(points: Points | Iterable[Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Density of (confidence, accuracy) during training, around the red line y = x of a calibrated model.

    As in UniMix (Xu et al., NeurIPS 2021, Fig. 1, https://arxiv.org/abs/2111.03874). Density below the line means that
    the model was too sure of itself. Each shade of blue bounds the smallest area that holds a tenth more of the
    density, 90 % inside the palest; the kernel is Gaussian with Scott's bandwidth, and at least one percentage point
    wide.

    Args:
        points: (confidence, accuracy) as fractions, [N, 2], e.g. of every epoch, or of the
            :func:`~ltaug.metrics.reliability_bins` of every epoch; rows with a NaN are passed over. Or one mapping an
            epoch with ``confidence`` and ``top1``, each missing or None where the epoch was not evaluated; the last
            one is marked.
        ax: where to draw.

    Returns:
        The figure.

    Raises:
        ValueError: the points are not pairs, or no fractions.

    >>> figure = confidence_accuracy_density([{"epoch": 0, "confidence": 0.5, "top1": 0.4}])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['ideal', '1 point', 'last: 50.0, 40.0']
    """
    pairs, ordered = _pairs(points)
    figure, ax = axes_of(ax, 4.4)
    if len(pairs):
        from matplotlib import colormaps

        axis = np.linspace(0, 1, 121)
        density = _density(pairs, axis)
        # Levels by the mass that lies above them: equal steps of density would show the peak alone.
        falling = np.sort(density, axis=None)[::-1]
        mass = np.cumsum(falling) / falling.sum()
        levels = np.unique([falling[np.searchsorted(mass, share)] for share in np.arange(0.9, 0.05, -0.1)])
        shades = [colormaps["Blues"](shade) for shade in np.linspace(0.15, 0.9, len(levels))]
        ax.contourf(100 * axis, 100 * axis, density, levels=[*levels, 2 * falling[0]], colors=shades)
        ax.plot([0, 100], [0, 100], color="red", linewidth=1.6, linestyle="--", label="ideal")
        label = f"{len(pairs):,} point{'s' if len(pairs) > 1 else ''}"
        size = 3.0 if len(pairs) <= 30 else 2.0
        ax.plot(*(100 * pairs.T), "o", color=BLACK, markersize=size, alpha=0.5, markeredgewidth=0, label=label)
        if ordered:
            x, y = 100 * pairs[-1]
            ax.plot(x, y, "X", color=ORANGE, markeredgecolor=BLACK, markersize=9, label=f"last: {x:.1f}, {y:.1f}")
        legend_above(ax)
    else:
        note(ax, "no epoch has both\nconfidence and accuracy")
    style_axes(ax, xlabel="confidence (%)", ylabel="accuracy (%)")
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
    return figure


def _pairs(points: Points | Iterable[Mapping[str, Any]]) -> tuple[Floats, bool]:
    """Finite (confidence, accuracy) [N, 2], and whether they are rows of epochs."""
    rows: Any = points if isinstance(points, (Tensor, np.ndarray)) else list(points)
    if len(rows) == 0:
        return np.empty((0, 2)), False
    ordered = isinstance(rows[0], Mapping)
    if ordered:
        rows = [[as_float(row.get("confidence")), as_float(row.get("top1"))] for row in rows]
    pairs = as_floats(rows)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"`points` must be pairs (confidence, accuracy), shape [N, 2], but have shape {list(pairs.shape)}. "
            "Pass such pairs or the rows of `metrics.jsonl`."
        )
    pairs = pairs[np.isfinite(pairs).all(1)]
    if pairs.size and not (pairs.min() >= 0 and pairs.max() <= 1):
        raise ValueError(
            f"`points` must be fractions from 0 to 1, but range from {pairs.min():g} to {pairs.max():g}. "
            "Divide percentages by 100."
        )
    return pairs, ordered


def _density(pairs: Floats, axis: Floats) -> Floats:
    """Gaussian kernel density by [y, x] on the grid of ``axis`` with itself."""
    from scipy.stats import multivariate_normal

    # Scott's bandwidth with a floor, which scipy's gaussian_kde lacks: points on a line or in one place have none.
    covariance = np.cov(pairs.T, bias=True) * len(pairs) ** (-1 / 3) + 0.01**2 * np.eye(2)
    kernel, grid = multivariate_normal(cov=covariance), np.stack(np.meshgrid(axis, axis), axis=-1)
    density: Floats = sum(kernel.pdf(grid - centre) for centre in pairs) / len(pairs)
    return density


def _rate_steps(epochs: Floats, rates: Floats) -> list[float]:
    """Epochs at which a learning rate that stood still fell by a quarter or more; a smooth schedule has none."""
    return [
        float(epochs[i])
        for i in range(2, len(epochs))
        if rates[i - 2] == rates[i - 1] and rates[i] <= 0.75 * rates[i - 1]
    ]
