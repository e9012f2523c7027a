"""Figures of what one or two settings of a method do to its accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltaug.plots._numbers import Floats, as_floats
from ltaug.plots._style import (
    LABEL_SIZE,
    TEXT_SIZE,
    VERMILLION,
    axes_of,
    legend_above,
    note,
    plain,
    run_line,
    shorten,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Accuracies: TypeAlias = "Tensor | NDArray[np.float64] | Sequence[float | None] | float | None"
"""Fractions, one a seed, or a single one; NaN and ``None`` stand for a run that is missing."""

MAX_TICKS, MAX_LETTERS = 8, 26
MAX_WRITTEN = 8
"""Settings a side up to which a heat map has its numbers in its cells."""


def accuracy_by_setting(
    accuracies: Mapping[str, Mapping[float, Accuracies] | Mapping[str, Accuracies]],
    setting: str,
    ax: Axes | None = None,
    *,
    metric: str = "test accuracy (%)",
    lower_is_better: bool = False,
) -> Figure:
    """Accuracy by the value of one setting, such as the tau of UniMix or the shape of MiSLAS's smoothing.

    The sweep over tau is UniMix's (Xu et al., NeurIPS 2021, Fig. 4, https://arxiv.org/abs/2111.03874), the one over
    shapes that of MiSLAS (Zhong et al., CVPR 2021, Fig. 6 and 8, https://arxiv.org/abs/2104.00466). The papers draw
    bars; here a dot is the mean over seeds, a bar through it one standard deviation (with n - 1) to each side, and a
    pale dot is a seed, so that the axis need not begin at 0, where differences of a point cannot be seen. Lines of data
    sets whose levels are far apart press each other flat: give each its own ``ax``.

    Args:
        accuracies: for every line, by name (a data set, a method), by value of the setting, the fractions of its seeds,
            [S], or one number such as the mean in a sweep's ``table.csv``. Values are numbers, which are drawn in their
            order and to scale, or words, drawn in the order they come in.
        setting: its name, for the axis.
        ax: where to draw.
        metric: what the fractions are, for the axis.
        lower_is_better: whether the best is the smallest, as of an ECE.

    Returns:
        The figure; the legend names the best value of each line.

    >>> figure = accuracy_by_setting({"CIFAR-10-LT": {0.0: [0.80, 0.82], -1.0: [0.83, 0.85]}}, "tau")
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['CIFAR-10-LT, best at -1: 84.0']
    >>> figure.axes[0].lines[0].get_xydata().round(1).tolist()
    [[-1.0, 84.0], [0.0, 81.0]]
    """
    lines: dict[str, dict[Any, Floats]] = {
        name: {value: _known(seeds) for value, seeds in line.items()} for name, line in accuracies.items()
    }
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    words = any(isinstance(value, str) for value in values)
    if not words:
        values.sort()
    places = dict(zip(values, range(len(values)) if words else values, strict=True))
    figure, ax = axes_of(ax, 3.0 + 0.2 * sum(2 if len(name) > MAX_LETTERS else 1 for name in lines))
    for position, (name, line) in enumerate(lines.items()):
        shown = [value for value in values if len(line.get(value, ()))]
        if not shown:
            continue
        means = [float(line[value].mean()) for value in shown]
        looks = run_line(position, name) | {"marker": "o", "markersize": 6}
        best = int((np.argmin if lower_is_better else np.argmax)(means))
        looks["label"] += ",\n" if len(name) > MAX_LETTERS else ", "  # beside it there is no room
        looks["label"] += f"best at {_text(shown[best])}: {means[best]:.1f}"
        ax.plot([places[value] for value in shown], means, **looks)
        for value, mean in zip(shown, means, strict=True):
            seeds, at = line[value], places[value]
            if len(seeds) > 1:
                deviation = float(seeds.std(ddof=1))
                ax.vlines(at, mean - deviation, mean + deviation, color=looks["color"], linewidth=1.6)
                ax.plot([at] * len(seeds), seeds, "o", color=looks["color"], markersize=3.5, alpha=0.35)
    style_axes(ax, xlabel=setting, ylabel=metric)
    # A tick a value, unless numbers are so near that their ticks would touch.
    if values and (words or len(values) < 2 or min(np.diff(values)) >= (values[-1] - values[0]) / MAX_TICKS):
        ax.set_xticks(list(places.values()), [_text(value) for value in values])
    if ax.lines:
        legend_above(ax, columns=1)
    else:
        note(ax, "no run has a result yet")
    return figure


def accuracy_by_two_settings(
    accuracies: Mapping[tuple[float, float], Accuracies],
    settings: tuple[str, str],
    ax: Axes | None = None,
    *,
    metric: str = "test accuracy (%)",
    lower_is_better: bool = False,
) -> Figure:
    """Accuracy by the values of two settings, such as the smoothing of the head and of the tail in MiSLAS.

    Its heat maps over eps_1 and eps_K (Zhong et al., CVPR 2021, Fig. 5, https://arxiv.org/abs/2104.00466), of accuracy
    or, with ``metric``, of ECE; the mean over seeds.

    Args:
        accuracies: by the pair of values, the fractions of its seeds, [S], or one number such as the mean in a sweep's
            ``table.csv``.
        settings: the names of the two, the first for the axis across.
        ax: where to draw.
        metric: what the fractions are, for the colour bar.
        lower_is_better: whether the best is the smallest, as of an ECE.

    Returns:
        The figure. A pair that was not tried is left white, the best is framed; with at most 8 values a side, the cells
        have their numbers, in percent.

    >>> accuracies = {(0.3, 0.0): [0.47, 0.49], (0.4, 0.0): 0.5, (0.4, 0.1): 0.52}
    >>> figure = accuracy_by_two_settings(accuracies, ("head", "tail"))
    >>> figure.axes[0].images[0].get_array().filled(-1).round(1).tolist()  # rows are y, from the smallest on
    [[48.0, 50.0], [-1.0, 52.0]]
    """
    means = {pair: float(seeds.mean()) for pair, one in accuracies.items() if len(seeds := _known(one))}
    xs, ys = (sorted({pair[k] for pair in means}) for k in (0, 1))
    figure, ax = axes_of(ax, 3.8)
    style_axes(ax, xlabel=settings[0], ylabel=settings[1], grid=False)
    if not means:
        note(ax, "no run has a result yet")
        return figure
    cells = np.full((len(ys), len(xs)), math.nan)
    for (x, y), mean in means.items():
        cells[ys.index(y), xs.index(x)] = mean
    image = ax.imshow(np.ma.masked_invalid(cells), cmap="viridis", origin="lower", aspect="auto")
    low, high = cells[np.isfinite(cells)].min(), cells[np.isfinite(cells)].max()
    if max(cells.shape) <= MAX_WRITTEN:
        for row, column in np.argwhere(np.isfinite(cells)).tolist():
            bright = cells[row, column] - low > 0.6 * (high - low)
            color = "black" if bright else "white"
            number = f"{cells[row, column]:.1f}"
            ax.text(column, row, number, ha="center", va="center", fontsize=TEXT_SIZE, color=color)
    top, right = np.argwhere(cells == (low if lower_is_better else high))[0] + 0.5
    edges = [right - 1, right, right, right - 1, right - 1], [top - 1, top - 1, top, top, top - 1]
    ax.plot(*edges, color=VERMILLION, linewidth=2.5, zorder=3, clip_on=False, scalex=False, scaley=False)
    for axis, values in zip((ax.xaxis, ax.yaxis), (xs, ys), strict=True):
        step = math.ceil(len(values) / MAX_TICKS)
        axis.set_ticks(range(0, len(values), step), [_text(value) for value in values[::step]])
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(metric, fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)
    return figure


def _known(accuracies: Accuracies) -> Floats:
    """The accuracies that are known, in percent, float64 [S]."""
    numbers = np.atleast_1d(as_floats([accuracies] if accuracies is None else accuracies))  # type: ignore[arg-type]
    return 100 * numbers[np.isfinite(numbers)]


def _text(value: float | str) -> str:
    return plain(shorten(value, 20)) if isinstance(value, str) else f"{value:g}"
