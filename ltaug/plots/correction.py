"""Figures of what corrections after training achieve: by their strength, and under other test distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ltaug.plots._numbers import Values, as_float, as_floats
from ltaug.plots._style import (
    GREY,
    RUN_STYLES,
    axes_of,
    legend_above,
    legend_height,
    log_scale,
    note,
    run_columns,
    run_line,
    style_axes,
)
from ltaug.priors import Counts, as_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_against_lambda(
    curves: Mapping[str, Values],
    lambdas: Values,
    chosen: float | Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Accuracy by the strength lambda of a correction of the prior.

    There is no correction at 0, and the full one, Bayes' rule, at 1 (IC, Tian et al., NeurIPS 2020, Fig. 3,
    https://arxiv.org/abs/2010.11820).

    Args:
        curves: for every curve, by name (a run, or a measure such as "top-5"), a fraction for each lambda, [L]; NaN or
            None where it is not known.
        lambdas: rising, [L]; :func:`ltaug.posthoc.strength_curve` returns them and a curve.
        chosen: the lambda that a search on validation data has chosen, one for all curves or one a curve by name.
        ax: where to draw.

    Returns:
        The figure. Every curve has a circle at 0, a square at 1 and a star at the chosen lambda, where these lie within
        the curve; between two lambdas on the straight line.

    Raises:
        ValueError: lambdas do not rise, a curve has another length, or a chosen lambda lies outside or belongs to none.

    >>> figure = accuracy_against_lambda({"top-1": [0.5, 0.6, 0.5]}, [0, 0.5, 1], chosen=0.5)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['top-1', 'λ = 0', 'λ = 1', 'chosen λ']
    """
    grid = as_floats(lambdas)
    if grid.ndim != 1 or not len(grid) or not np.isfinite(grid).all() or not (np.diff(grid) > 0).all():
        raise ValueError("`lambdas` must be numbers that rise from each to the next, shape [L].")
    values = {name: as_floats(curve) for name, curve in curves.items()}
    for name, curve in values.items():
        if curve.shape != grid.shape:
            raise ValueError(
                f"`curves` must hold one number for each of the {len(grid)} `lambdas`, but {name} has shape "
                f"{list(curve.shape)}."
            )
    picked = dict(chosen) if isinstance(chosen, Mapping) else {} if chosen is None else dict.fromkeys(values, chosen)
    for name, lam in picked.items():
        if name not in values:
            raise ValueError(f"`chosen` names {name!r}, which is none of the `curves`: {', '.join(values)}.")
        if not grid[0] <= lam <= grid[-1]:
            raise ValueError(f"`chosen` must lie within `lambdas`, {grid[0]:g} to {grid[-1]:g}, but is {lam:g}.")

    names = [*values, "λ = 0", "λ = 1", "chosen λ"]
    columns = (4 if len(values) == 1 else 3) if run_columns(values) == 2 else 1
    figure, ax = axes_of(ax, 3.1 + 0.2 * math.ceil(len(names) / columns))
    for lam in (0.0, 1.0):
        if grid[0] <= lam <= grid[-1]:
            ax.axvline(lam, color=GREY, linewidth=1, linestyle=":")
    marks = {"λ = 0": ("o", 7), "λ = 1": ("s", 7), "chosen λ": ("*", 14)}
    drawn = set()
    for position, (name, curve) in enumerate(values.items()):
        looks = run_line(position, name)
        known = np.isfinite(curve)
        x, y = grid[known], 100 * curve[known]
        ax.plot(x, y, **looks)
        for (label, (marker, size)), lam in zip(marks.items(), (0.0, 1.0, picked.get(name, math.nan)), strict=True):
            if len(x) and x[0] <= lam <= x[-1]:
                at = {"color": looks["color"], "markersize": size, "markeredgecolor": "white", "zorder": 3}
                ax.plot([lam], [np.interp(lam, x, y)], marker, **at)
                drawn.add(label)
    for label, (marker, size) in marks.items():
        if label in drawn:
            ax.plot([], [], marker, color=GREY, markersize=0.8 * size, label=label)
    style_axes(ax, xlabel="strength λ of the correction", ylabel="accuracy (%)")
    if ax.get_legend_handles_labels()[0]:
        legend_above(ax, columns=columns)
    else:
        note(ax, "no curve was given")
    return figure


def correction_factors(
    class_counts: Counts,
    lambdas: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    target_prior: Counts | None = None,
    ax: Axes | None = None,
) -> Figure:
    """What a correction of strength lambda multiplies the odds of a rarer class by, against the most frequent one.

    That is ratio^lambda, the ratio of class c to the most frequent one h being ``(P_s(h) / P_s(c)) (P_t(c) / P_t(h))``
    (IC, Tian et al., NeurIPS 2020, Eq. 8 and Fig. 1, https://arxiv.org/abs/2010.11820): 1 at 0, Bayes' rule at 1, and
    beyond it more than that. Both axes are logarithmic, so that lambda is the slope.

    Args:
        class_counts: training samples a class or the training prior P_s, [C]; classes without samples are left out.
        lambdas: strengths, a line each.
        target_prior: of the test set, P_t, [C], above 0; by default uniform.
        ax: where to draw.

    Returns:
        The figure, with a dot a class where there are at most 30.

    Raises:
        ValueError: ``target_prior`` has another length or a 0.

    >>> figure = correction_factors([100, 25, 1], lambdas=[0.5, 1.0])
    >>> [line.get_xydata().tolist() for line in figure.axes[0].lines]
    [[[1.0, 1.0], [4.0, 2.0], [100.0, 10.0]], [[1.0, 1.0], [4.0, 4.0], [100.0, 100.0]]]
    """
    source = as_floats(as_counts(class_counts, integers=False))
    target = np.ones_like(source) if target_prior is None else as_floats(as_counts(target_prior, integers=False))
    if target.shape != source.shape or not (target > 0).all():
        raise ValueError(
            f"`target_prior` must hold a number above 0 for each of the {len(source)} classes, but has shape "
            f"{list(target.shape)} and the smallest is {target.min():g}."
        )
    there = np.flatnonzero(source)
    weight = target[there] / source[there]
    ratio = np.sort(weight / weight[int(source[there].argmax())])
    figure, ax = axes_of(ax, 3.5)
    step = math.ceil(len(ratio) / 500)
    for position, lam in enumerate(lambdas):
        looks = run_line(position, f"λ = {lam:g}") | {"marker": "o" if len(ratio) <= 30 else ""}
        x = ratio[[*range(0, len(ratio) - 1, step), len(ratio) - 1]]
        ax.plot(x, x**lam, **looks)
    style_axes(ax, xlabel="ratio of the priors, against the most frequent class", ylabel="factor of the odds, ratio^λ")
    for axis, numbers in ((ax.xaxis, ratio), (ax.yaxis, np.concatenate([[1.0], *(ratio**lam for lam in lambdas)]))):
        log_scale(axis, numbers, least=1e-6)
    legend_above(ax)
    return figure


def shifted_test_accuracy(runs: Mapping[str, Mapping[str, float | None]], ax: Axes | None = None) -> Figure:
    """Accuracy on test sets of other class mixes.

    From as imbalanced as the training, "forward", over uniform to the reverse, "backward" (LADE, Hong et al., CVPR
    2021, section 4.3, https://arxiv.org/abs/2012.00321; :func:`~ltaug.shifted_counts` makes them).

    Args:
        runs: for every line, by name (a correction: none, by the true prior, by an estimated one), a fraction a test
            set: "forward 50", "uniform", "backward 2.5"; "_" or "-" may stand for the space. Each may be missing,
            None or NaN.
        ax: where to draw.

    Returns:
        The figure, with the test sets in order of their imbalance ratio, which is 1 for "uniform".

    Raises:
        ValueError: a test set has another name.

    >>> figure = shifted_test_accuracy({"none": {"uniform": 0.4, "backward 50": 0.2, "forward 50": 0.6}})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [60.0, 40.0, 20.0]
    """
    table = {name: {_shift(test): as_float(v) for test, v in values.items()} for name, values in runs.items()}
    places = sorted({shift for values in table.values() for shift in values})
    figure, ax = axes_of(ax, 3.2 + legend_height(runs))
    for position, (name, values) in enumerate(table.items()):
        heights = np.array([100 * values.get(shift, math.nan) for shift in places])
        known = np.isfinite(heights)
        # A good estimate lies on the true prior: what is drawn later is thinner, and dashed, so that both are seen.
        room = (len(table) - 1 - position) / max(len(table) - 1, 1)
        looks = run_line(position, name) | {
            "linestyle": RUN_STYLES[max(position - 1, 0) % len(RUN_STYLES)],
            "linewidth": 1.6 + 2.2 * room,
            "markersize": 4 + 3 * room,
        }
        ax.plot(np.flatnonzero(known), heights[known], marker="osD^vPX"[position % 7], **looks)
    if 0.0 in places:
        ax.axvline(places.index(0.0), color=GREY, linewidth=1, linestyle=":", zorder=1)
    style_axes(ax, xlabel="← forward    imbalance ratio of the test set    backward →", ylabel="test accuracy (%)")
    ax.set_xticks(range(len(places)), [f"{math.exp(abs(shift)):.4g}" for shift in places])
    if places:
        ax.set_xlim(-0.4, len(places) - 0.6)
        legend_above(ax, columns=run_columns(runs))
    else:
        note(ax, "no test set was evaluated yet")
    return figure


def _shift(test: str) -> float:
    """Where a test set stands: the logarithm of its imbalance ratio, below zero for "forward"."""
    found = re.fullmatch(r"(forward|backward)[ _-](\d+(?:\.\d+)?)", test)
    ratio = float(found[2]) if found else 1.0
    if test != "uniform" and (not found or ratio < 1):
        raise ValueError(
            f'`runs` must name test sets "uniform", "forward R" or "backward R" with R >= 1, but one is {test!r}.'
        )
    return math.copysign(math.log(ratio), -1 if test.startswith("forward") else 1) if ratio > 1 else 0.0
