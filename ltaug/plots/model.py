"""Figures of what is inside a model: weights of the classifier, logits, statistics of batch norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ltaug.plots._numbers import Floats, as_floats, group_spans, running_mean, smoothing_window, sorted_by_count
from ltaug.plots._style import (
    BLACK,
    BLUE,
    ORANGE,
    VERMILLION,
    axes_of,
    class_axis,
    class_ticks,
    figure_legend,
    integer_ticks,
    legend_above,
    legend_height,
    note,
    panels,
    rank_ticks,
    run_columns,
    run_line,
    shade_groups,
    style_axes,
)
from ltaug.posthoc.shift import as_logits, check_finite
from ltaug.priors import Counts, as_counts, as_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def classifier_weight_norms(
    weights: Mapping[str, Tensor], class_counts: Counts, ax: Axes | None = None, *, several: bool = False
) -> Figure:
    """Length of the weight vector of every class, most frequent class first.

    ``||w_c||_2`` falls with the training samples where a model is biased to the head (MiSLAS, Zhong et al., CVPR 2021,
    Fig. 2, https://arxiv.org/abs/2104.00466).

    With more than 30 classes, each line is a running mean over a fifteenth of the classes, and a thin pale one has the
    single classes.

    Args:
        weights: for every run, by name, the weight of its last layer, [C, D]; ``fc.weight`` in a state dict.
        class_counts: training samples a class, [C], the same for all runs.
        ax: where to draw.
        several: whether the classes are labels, of which a sample may have several.

    Returns:
        The figure.

    Raises:
        ValueError: a weight is no matrix, or has another number of classes.

    >>> import torch
    >>> figure = classifier_weight_norms({"plain": torch.tensor([[0.0, 1.0], [3.0, 4.0]])}, [5, 500])
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [5.0, 1.0]
    """
    counts = np.sort(as_counts(class_counts).cpu().numpy())[::-1]
    norms = {name: _row_norms(weight, len(counts), name) for name, weight in weights.items()}
    figure, ax = axes_of(ax, 3.3 + legend_height(weights))
    window = smoothing_window(len(counts))
    shade_groups(ax, group_spans(counts))
    ranks = np.arange(1, len(counts) + 1)
    step = math.ceil(len(counts) / 500)
    for position, (name, values) in enumerate(norms.items()):
        _, values, _ = sorted_by_count(values, class_counts, name=f"weights of {name}")
        looks = run_line(position, name)
        if window > 1:
            ax.plot(ranks[::step], values[::step], color=looks["color"], linewidth=0.7, alpha=0.3)
        ax.plot(ranks[::step], running_mean(values, window)[::step], marker="o" if window == 1 else "", **looks)
    smoothed = f" (running mean of {window})" if window > 1 else ""
    one = "label" if several else "class"
    style_axes(ax, xlabel=f"{one}, 1 = most training samples{smoothed}", ylabel=f"norm of the {one} weights")
    rank_ticks(ax.xaxis, len(counts))
    ax.set_ylim(bottom=0)
    if weights:
        legend_above(ax, columns=run_columns(weights), height=1.09)
    else:
        note(ax, "no run has weights yet")
    return figure


def _row_norms(weight: Tensor, num_classes: int, name: str) -> Floats:
    matrix = as_floats(weight)
    if matrix.ndim != 2 or len(matrix) != num_classes:
        raise ValueError(
            f"`weights` of {name} must have shape [C, D] with the {num_classes} classes of `class_counts`, but have "
            f"shape {list(matrix.shape)}. Pass the weight of the last linear layer."
        )
    norms: Floats = np.linalg.norm(matrix, axis=1)
    return norms


def logit_statistics(
    logits: Tensor,
    labels: Counts,
    class_counts: Counts,
    ax: Axes | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Mean and spread of the logit of every class for its own samples and for all others.

    The former are called positive, the latter negative; the most frequent class comes first (LADE, Hong et al., CVPR
    2021, Fig. 3, https://arxiv.org/abs/2012.00321). The dashed line is log C. A model whose logits are log p(x|y) - log
    p(x), what LADE learns, reaches it where the classes do not overlap: with even classes p(x) = p(x|y) / C. With more
    than 30 classes, lines and bands are running means over a fifteenth of the classes.

    Args:
        logits: of the test samples, [N, C].
        labels: true classes, int [N].
        class_counts: training samples a class, [C].
        ax: where to draw.
        class_names: names a class, shown where there are at most 20.

    Returns:
        The figure: lines at the means, bands of one standard deviation (the root of the variance) to each side.

    Raises:
        ValueError: the shapes do not agree, a label is no class, logits are NaN or infinite, or there are none.

    >>> import torch
    >>> figure = logit_statistics(torch.tensor([[3.0, -1.0], [1.0, 2.0]]), [0, 1], [5, 500])
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines[:2]]  # class 1 first
    [[2.0, 3.0], [-1.0, 1.0]]
    """
    counts = as_counts(class_counts).cpu().numpy()
    truth = as_labels(labels).cpu()
    values = as_logits(logits).detach().cpu()
    if values.ndim != 2 or values.shape != (len(truth), len(counts)):
        raise ValueError(
            f"`logits` must have shape [N, C], {len(truth)} as `labels` by {len(counts)} as `class_counts`, but have "
            f"shape {list(values.shape)}."
        )
    if not len(truth):
        raise ValueError("`logits` must hold at least one sample, but are empty.")
    if not (int(truth.min()) >= 0 and int(truth.max()) < len(counts)):
        raise ValueError(
            f"`labels` must lie in 0..{len(counts) - 1}, but range from {int(truth.min())} to {int(truth.max())}."
        )
    order = np.argsort(-counts, kind="stable")
    figure, ax = axes_of(ax, 3.9)
    window = smoothing_window(len(counts))
    ranks = np.arange(1, len(counts) + 1)
    shade_groups(ax, group_spans(counts[order]))
    looks = (("positive", BLUE, "-"), ("negative", VERMILLION, "-."))
    for (label, color, style), moments in zip(looks, _own_and_other_moments(values, truth), strict=True):
        mean, deviation = (running_mean(column[order], window) for column in moments)
        marker = "o" if window == 1 else ""
        ax.plot(ranks, mean, color=color, linestyle=style, linewidth=2, marker=marker, markersize=4, label=label)
        ax.fill_between(ranks, mean - deviation, mean + deviation, color=color, alpha=0.22, linewidth=0)
    limit = math.log(len(counts))
    ax.axhline(limit, color=BLACK, linewidth=1.4, linestyle="--", label=f"log C = {limit:.2f}")
    smoothed = f" (running mean of {window})" if window > 1 else ""
    named = class_ticks(ax.xaxis, order, class_names)
    style_axes(ax, xlabel=class_axis(named) + smoothed, ylabel="logit, mean ± std. dev.")
    legend_above(ax, height=1.09)
    return figure


def _own_and_other_moments(values: Tensor, labels: Tensor) -> list[tuple[Floats, Floats]]:
    """Mean and standard deviation of each column for the samples of its class, and for all others; NaN without any."""
    zeros = torch.zeros(values.shape[1], dtype=torch.float64)
    own = values.gather(1, labels[:, None])[:, 0].double()
    sizes = torch.bincount(labels, minlength=len(zeros))
    first, second = (zeros.scatter_add(0, labels, own**power) for power in (1, 2))
    all_first, all_second = zeros.clone(), zeros.clone()
    # A few samples at a time: the logits of iNaturalist in double precision would fill the memory.
    for rows in torch.split(values, max((1 << 18) // len(zeros), 1)):
        numbers = rows.double()
        all_first += numbers.sum(0)
        all_second += numbers.square().sum(0)
    if not bool(all_second.isfinite().all()):  # a sum tells it sooner than every number
        check_finite(values)
    moments = []
    for n, total, squares in ((sizes, first, second), (len(labels) - sizes, all_first - first, all_second - second)):
        mean = torch.where(n > 0, total / n, math.nan)
        moments.append((as_floats(mean), as_floats((squares / n - mean.square()).clamp(min=0.0).sqrt())))
    return moments


def batch_norm_statistics(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], layers: Sequence[str] | None = None
) -> Figure:
    """Running mean and variance of batch norm, channel by channel, before and after shift learning.

    Shift learning belongs to the second stage of MiSLAS (Zhong et al., CVPR 2021, Fig. 7,
    https://arxiv.org/abs/2104.00466).

    Args:
        before: state dict of the first stage.
        after: state dict of the second stage.
        layers: batch norm layers by name, e.g. the first and the last of the backbone, as in the paper. Without them,
            the layer that moved least and the one that moved most; in between, a channel moves by
            ``|mean_after - mean_before| / sqrt(variance_before)``.

    Returns:
        The figure, with the means of a layer left and its variances right, those on a logarithmic axis
        where they differ by more than a factor of 30. Channels are sorted by what they had before.

    Raises:
        ValueError: ``layers`` are none or unknown, or the two models differ in their batch norm layers.

    >>> import torch
    >>> before = {"bn.running_mean": torch.tensor([2.0, 1.0]), "bn.running_var": torch.ones(2)}
    >>> after = {"bn.running_mean": torch.tensor([5.0, 3.0]), "bn.running_var": torch.ones(2)}
    >>> figure = batch_norm_statistics(before, after)
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines[:2]]
    [[1.0, 2.0], [3.0, 5.0]]
    """
    known = [name.removesuffix(".running_mean") for name in before if name.endswith(".running_mean")]
    if not known:
        raise ValueError("`before` has no `running_mean`: no batch norm layer with running statistics.")
    if layers is not None and not layers:
        raise ValueError("`layers` is empty. Name at least one batch norm layer, or pass None.")
    if missing := [name for name in layers or () if name not in known]:
        raise ValueError(
            f"`layers` names {missing[0]!r}, which is no batch norm layer of `before`: {', '.join(known)}."
        )
    for name in known if layers is None else layers:
        for key in (f"{name}.running_mean", f"{name}.running_var"):
            shapes = [list(state[key].shape) if key in state else None for state in (before, after)]
            if shapes[0] is None or shapes[0] != shapes[1]:
                raise ValueError(
                    f"`before` and `after` must have the same batch norm layers, but {key!r} has shape {shapes[0]} in "
                    f"the first and {shapes[1]} in the second. Pass state dicts of the same architecture."
                )
    if layers is None:
        moved = {name: _movement(before, after, name) for name in known}
        layers = list(dict.fromkeys((min(known, key=moved.__getitem__), max(known, key=moved.__getitem__))))
    titles = [f"{name}: {what}" for name in layers for what in ("mean", "variance")]
    figure, grid = panels(titles, 2.1)
    keys = [f"{name}.{what}" for name in layers for what in ("running_mean", "running_var")]
    for position, (ax, key) in enumerate(zip(grid, keys, strict=True)):
        old, new = as_floats(before[key]), as_floats(after[key])
        order = np.argsort(old, kind="stable")
        channels = np.arange(1, len(old) + 1)
        size = 4.5 if len(old) <= 64 else 2.5
        (first,) = ax.plot(channels, old[order], color=BLACK, linewidth=1.8, label="before")
        (second,) = ax.plot(channels, new[order], "o", color=ORANGE, markersize=size, markeredgewidth=0, label="after")
        ax.vlines(channels, old[order], new[order], color=ORANGE, linewidth=0.8, alpha=0.7)
        style_axes(ax, xlabel="channel, sorted by before" if position + 2 >= len(grid) else "")
        integer_ticks(ax.xaxis)
        if key.endswith("running_var"):
            low, high = min(old.min(), new.min()), max(old.max(), new.max())
            if high > 30 * low and high > 0:
                # One wide channel would press all others to the axis; a dead one would stretch the logarithm.
                ax.set_yscale("log")
                ax.set_ylim(max(low, high / 1e4) / 1.5, high * 1.5)
            else:
                ax.set_ylim(bottom=0)
    figure_legend(figure, [first, second])
    return figure


def _movement(before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str) -> float:
    """How far the mean of a layer moved, in standard deviations before."""
    old, new = (as_floats(before[f"{name}.running_mean"]), as_floats(after[f"{name}.running_mean"]))
    # The smallest normal number: a dead channel has variance 0.
    deviation = np.sqrt(as_floats(before[f"{name}.running_var"])) + np.finfo(np.float32).tiny
    return float(np.mean(np.abs(new - old) / deviation))
