"""Figures over the classes: their training samples, their accuracy, their share of the mixed samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ltaug import analysis
from ltaug.losses import smoothing_factors
from ltaug.plots._numbers import (
    Floats,
    Values,
    as_float,
    as_floats,
    bar_edges,
    bin_means,
    group_spans,
    known_mean,
    running_mean,
    smoothing_window,
    sorted_by_count,
)
from ltaug.plots._style import (
    GREY,
    GROUP_COLORS,
    RUN_COLORS,
    RUN_STYLES,
    TEXT_SIZE,
    axes_of,
    class_axis,
    class_ticks,
    legend_above,
    legend_height,
    log_scale,
    note,
    panel_below,
    plain,
    rank_ticks,
    rgb,
    run_columns,
    run_line,
    shade_groups,
    shorten,
    style_axes,
)
from ltaug.priors import Counts, as_counts, shot_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def class_counts(
    counts: Counts, ax: Axes | None = None, *, class_names: Sequence[str] | None = None, several: bool = False
) -> Figure:
    """The long tail itself: training samples a class, most frequent first, on a logarithmic axis.

    Args:
        counts: training samples a class, [C].
        ax: where to draw.
        class_names: names a class, shown where there are at most 20.
        several: whether a sample may have several labels, so that the counts do not add up to the samples.

    Returns:
        The figure; the legend says how many classes each shot group has.

    >>> figure = class_counts([500, 50, 5])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['1 many', '1 medium', '1 few']
    """
    unsorted = as_counts(counts, "counts").cpu().numpy()
    order = np.argsort(-unsorted, kind="stable")
    sizes = unsorted[order]
    figure, ax = axes_of(ax, 3.2)
    low = log_scale(ax.yaxis, sizes)
    for name, start, stop in group_spans(sizes):
        label = f"{stop - start:,} {name}"
        edges = np.arange(start, stop + 1) + 0.5
        ax.stairs(sizes[start:stop], edges, baseline=low, fill=True, color=GROUP_COLORS[name], alpha=0.8, label=label)
    named = class_ticks(ax.xaxis, order, class_names)
    word = "label" if several else "class"
    style_axes(ax, xlabel=class_axis(named, word), ylabel="training samples")
    most, least = int(sizes[0]), int(sizes[-1])
    total = "" if several else f"\n{int(sizes.sum()):,} samples"
    text = f"{len(sizes):,} {'labels' if several else 'classes'}{total}\n{most:,} to {least:,} a {word}"
    if least > 0:
        text += f"\nratio {most / least:,.4g}"
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#BBBBBB", "alpha": 0.9}
    ax.text(0.97, 0.95, text, transform=ax.transAxes, ha="right", va="top", fontsize=TEXT_SIZE, bbox=box)
    legend_above(ax)
    return figure


def per_class_accuracy(
    accuracy: Values, class_counts: Counts, ax: Axes | None = None, *, class_names: Sequence[str] | None = None
) -> Figure:
    """Accuracy of every class, most frequent class first, with the training samples below.

    Shading marks the shot groups, and a line across each group its mean over classes. More than 200 classes are
    averaged, a few neighbours to a bar, never across groups.

    Args:
        accuracy: fraction a class, [C]; NaN or None for a class without test sample, drawn as a cross.
        class_counts: training samples a class, [C].
        ax: where to draw; its lower part becomes the training samples.
        class_names: names a class, shown where there are at most 20.

    Returns:
        The figure.

    Raises:
        ValueError: the two lengths differ.

    >>> figure = per_class_accuracy([0.2, 0.9, None], [5, 500, 50])
    >>> [round(bar.get_height()) for bars in figure.axes[0].containers for bar in bars]
    [90, 20]
    """
    return values_by_frequency(accuracy, class_counts, ax, class_names)


def values_by_frequency(
    fractions: Values,
    training_counts: Counts,
    ax: Axes | None,
    names: Sequence[str] | None,
    argument: str = "accuracy",
    word: str = "class",
    ylabel: str = "test accuracy (%)",
    missing: str = "no test sample",
) -> Figure:
    """Bars of fractions over classes or labels, most frequent first, with the training samples below."""
    counts, values, order = sorted_by_count(fractions, training_counts, argument, word)
    figure, ax = axes_of(ax, 4.0)
    spans = group_spans(counts)
    edges, size = bar_edges(spans, len(counts))
    bars = 100 * bin_means(values, edges)
    width = 0.82 if len(bars) <= 40 else 1.0
    for name, start, stop in spans:
        color = GROUP_COLORS[name]
        mean = 100 * known_mean(values[start:stop])
        ax.axvspan(start + 0.5, stop + 0.5, color=color, alpha=0.10, linewidth=0)
        inside = [i for i in range(len(bars)) if start <= edges[i] < stop and np.isfinite(bars[i])]
        lefts, widths = edges[:-1][inside], np.diff(edges)[inside]
        label = f"{name} {mean:.1f}" if math.isfinite(mean) else f"{name} –"
        ax.bar(
            lefts + 0.5 + (1 - width) / 2,
            bars[inside],
            width=widths - (1 - width),
            align="edge",
            color=color,
            # A hairline of the same colour closes the seams that viewers leave between touching bars.
            edgecolor=color,
            linewidth=0.3,
            alpha=0.55 if len(bars) > 40 else 0.75,
            label=label,
        )
        if math.isfinite(mean):
            ax.hlines(mean, start + 0.5, stop + 0.5, color="white", linewidth=4)
            ax.hlines(mean, start + 0.5, stop + 0.5, color=color, linewidth=2.4)
    if np.isnan(bars).any():
        places = (edges[:-1] + edges[1:])[np.isnan(bars)] / 2 + 0.5
        ax.plot(places, np.full(len(places), 2.0), "x", color=GREY, markersize=4, label=missing)
    style_axes(ax, ylabel=ylabel)
    ax.set_ylim(0, 102)
    legend_above(ax, columns=2 if np.isnan(bars).any() else 4)  # four names with the cross's do not fit side by side

    below = panel_below(ax, 0.27)
    sizes = bin_means(counts.astype(float), edges)
    low = log_scale(below.yaxis, counts)
    below.stairs(sizes, edges + 0.5, baseline=low, fill=True, color=GREY)
    named = class_ticks(below.xaxis, order, names)
    averaged = f" (mean of {size} a bar)" if size > 1 else ""
    style_axes(below, xlabel=class_axis(named, word) + averaged, ylabel="training\nsamples")
    return figure


def compare_shot_accuracy(runs: Mapping[str, Mapping[str, float | None]], ax: Axes | None = None) -> Figure:
    """Accuracy of several runs side by side: all classes, and by shot group.

    Args:
        runs: for every run, by name, fractions ``top1``, ``many``, ``medium``, ``few``, each missing, None or NaN.
        ax: where to draw.

    Returns:
        The figure.

    >>> figure = compare_shot_accuracy({"plain": {"top1": 0.38, "few": 0.05}, "UniMix": {"top1": 0.45, "few": 0.2}})
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['all', 'few']
    """
    keys = {"top1": "all", "many": "many", "medium": "medium", "few": "few"}
    table = {name: {key: 100 * as_float(values.get(key)) for key in keys} for name, values in runs.items()}
    shown = [key for key in keys if any(math.isfinite(values[key]) for values in table.values())]
    figure, ax = axes_of(ax, 3.1 + legend_height(runs))
    width = 0.84 / max(len(table), 1)
    for position, (name, values) in enumerate(table.items()):
        heights = np.array([values[key] for key in shown])
        known = np.isfinite(heights)
        lefts = np.arange(len(shown)) - 0.42 + position * width
        ax.bar(
            lefts[known],
            heights[known],
            width=width * 0.92,
            align="edge",
            color=RUN_COLORS[position % len(RUN_COLORS)],
            hatch=("", "///", "...", "xxx")[position // len(RUN_COLORS) % 4],
            edgecolor="white",
            linewidth=0,
            label=plain(shorten(name, 48)),
        )
    style_axes(ax, ylabel="test accuracy (%)")
    ax.set_xticks(range(len(shown)), [keys[key] for key in shown])
    ax.set_ylim(bottom=0)
    if shown:
        legend_above(ax, columns=run_columns(runs))
    else:
        note(ax, "no run was evaluated yet")
    return figure


def compare_per_class_accuracy(
    runs: Mapping[str, Values],
    class_counts: Counts,
    ax: Axes | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Accuracy of several runs from the most to the least frequent class.

    With more than 30 classes, each line is a running mean over a fifteenth of the classes: single classes are too noisy
    to be compared by eye.

    Args:
        runs: for every run, by name, the fraction a class, [C].
        class_counts: training samples a class, [C], the same for all runs.
        ax: where to draw.
        class_names: names a class, shown where there are at most 20.

    Returns:
        The figure.

    Raises:
        ValueError: a run has another number of classes.

    >>> figure = compare_per_class_accuracy({"cross-entropy": [0.9, 0.1], "UniMix": [0.8, 0.4]}, [500, 5])
    >>> figure.axes[0].lines[1].get_ydata().tolist()
    [80.0, 40.0]
    """
    unsorted = as_counts(class_counts).cpu().numpy()
    order = np.argsort(-unsorted, kind="stable")
    counts = unsorted[order]
    figure, ax = axes_of(ax, 3.3 + legend_height(runs))
    window = smoothing_window(len(counts))
    shade_groups(ax, group_spans(counts))
    ranks = np.arange(1, len(counts) + 1)
    step = math.ceil(len(counts) / 500)
    for position, (name, accuracy) in enumerate(runs.items()):
        _, values, _ = sorted_by_count(accuracy, class_counts, name=f"accuracy of {name}")
        ax.plot(
            ranks[::step],
            100 * running_mean(values, window)[::step],
            marker="o" if window == 1 else "",
            **run_line(position, name),
        )
    smoothed = f" (running mean of {window})" if window > 1 else ""
    named = class_ticks(ax.xaxis, order, class_names)
    style_axes(ax, xlabel=class_axis(named) + smoothed, ylabel="test accuracy (%)")
    ax.set_ylim(0, 102)
    if runs:
        legend_above(ax, columns=run_columns(runs), height=1.09)
    return figure


def xi_aug_distribution(class_counts: Counts, alpha: float = 0.8, tau: float = -1.0, ax: Axes | None = None) -> Figure:
    """Class that a mixed sample belongs to, the one of the larger weight, for mixup and UniMix.

    Under mixup, with UniMix's factor alone, and with its sampler too (Xu et al., NeurIPS 2021, Fig. 2,
    https://arxiv.org/abs/2111.03874). The paper draws the limit of small alpha for 100 classes at an imbalance ratio of
    200; here alpha is what is trained with.

    Args:
        class_counts: training samples a class, [C].
        alpha: parameter of UniMix's Beta law.
        tau: exponent of the partners' sampler for the third line.
        ax: where to draw.

    Returns:
        The figure.

    >>> figure = xi_aug_distribution([90, 10], alpha=0.2)
    >>> [line.get_ydata().round().tolist() for line in figure.axes[0].lines]
    [[90.0, 10.0], [85.0, 15.0], [25.0, 75.0]]
    """
    counts = as_counts(class_counts)
    shares = {
        "training data, mixup": as_floats(counts) / float(counts.sum()),
        "UniMix factor": as_floats(analysis.xi_aug_distribution(counts, 1.0, alpha)),
        f"UniMix, tau = {tau:g}": as_floats(analysis.xi_aug_distribution(counts, tau, alpha)),
    }
    return _lines({name: 100 * share for name, share in shares.items()}, counts, "share of mixed samples (%)", ax)


def label_occurrence(class_counts: Counts, ax: Axes | None = None) -> Figure:
    """Occurrence of each label in mixed samples, by the two samplers.

    Both are instance-balanced (IB), both class-balanced (CB), or it is one of each (Zhang et al., ICASSP 2022, Fig. 3a,
    https://arxiv.org/abs/2110.04964).

    Args:
        class_counts: training samples a class, [C].
        ax: where to draw.

    Returns:
        The figure. The legend gives the largest label occurrence ratio over the smallest, among classes with samples.

    >>> figure = label_occurrence([90, 10])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['IB + IB, max/min 9.00', 'IB + CB, max/min 2.33', 'CB + CB, max/min 1.00']
    """
    counts = as_counts(class_counts)
    balanced = (counts > 0).long()
    pairs = {"IB + IB": (counts, counts), "IB + CB": (counts, balanced), "CB + CB": (balanced, balanced)}
    shares = {}
    for name, (first, partner) in pairs.items():
        gamma = as_floats(analysis.label_occurrence(first, partner))
        shares[f"{name}, max/min {gamma.max() / gamma[gamma > 0].min():.2f}"] = 100 * gamma
    return _lines(shares, counts, "label occurrence (%)", ax)


def label_suppression(class_counts: Counts, head: Tensor | None = None, ax: Axes | None = None) -> Figure:
    """Share of the samples that carry labels of frequent classes alone, beside others, or none, by the two samplers.

    Mixing makes the rare ones rarer: under mixup, 94.7 % of ImageNet-LT's samples are completely or partly of the head
    (Zhang et al., ICASSP 2022, Fig. 1, https://arxiv.org/abs/2110.04964). Samplers are named as in
    :func:`label_occurrence`, whose figure is the other half of theirs.

    Args:
        class_counts: training samples a class, [C].
        head: which classes count as frequent, bool [C]; by default the many-shot ones.
        ax: where to draw.

    Returns:
        The figure: a bar for the data without mixing and for each pair of samplers, of parts that add up to 100 %.

    Raises:
        ValueError: ``head`` is not bool or has another length.

    >>> import torch
    >>> figure = label_suppression([770, 200, 30], head=torch.tensor([True, False, False]))
    >>> [bars.datavalues.round(1).tolist() for bars in figure.axes[0].containers]  # alone, beside, none
    [[77.0, 59.3, 25.7, 11.1], [0.0, 35.4, 59.0, 44.4], [23.0, 5.3, 15.3, 44.4]]
    """
    counts = as_counts(class_counts).cpu()
    head = shot_groups(counts)["many"] if head is None else head
    balanced = (counts > 0).long()
    pairs = {"IB + IB": (counts, counts), "IB + CB": (counts, balanced), "CB + CB": (balanced, balanced)}
    some = [float(analysis.label_suppression(counts, head, *pair)) for pair in pairs.values()]  # checks `head`
    drawn = [[int(each[head.cpu()].sum()) / int(each.sum()) for each in pair] for pair in pairs.values()]
    alone = [first * partner for first, partner in drawn]
    plain_share = drawn[0][0]
    parts = {
        "frequent alone": [plain_share, *alone],
        "frequent + other": [0.0, *(share - both for share, both in zip(some, alone, strict=True))],
        "no frequent": [1.0 - plain_share, *(1.0 - share for share in some)],
    }
    figure, ax = axes_of(ax, 2.6)
    left = np.zeros(1 + len(pairs))
    looks = ((GROUP_COLORS["many"], 0.95), (GROUP_COLORS["many"], 0.45), (GROUP_COLORS["few"], 0.85))
    for (label, shares), (color, alpha) in zip(parts.items(), looks, strict=True):
        widths = 100 * np.array(shares)
        face = (*rgb(color), alpha)
        bars = ax.barh(range(len(left)), widths, left=left, height=0.7, facecolor=face, edgecolor="white", label=label)
        wide = [f"{width:.1f}" if width >= 8 else "" for width in widths]
        ax.bar_label(bars, wide, label_type="center", fontsize=TEXT_SIZE, color="white" if alpha > 0.9 else "black")
        left += widths
    style_axes(ax, xlabel="share of the samples with such labels (%)", grid=False)
    ax.set_yticks(range(len(left)), ["no mixing", *pairs])
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    legend_above(ax)
    return figure


def smoothing_shapes(
    class_counts: Counts,
    head: float = 0.4,
    tail: float = 0.1,
    shapes: Sequence[str | float] = ("concave", "linear", "convex"),
    ax: Axes | None = None,
) -> Figure:
    """Smoothing eps of every class under label-aware smoothing, most frequent class first, a line for each shape of f.

    As in MiSLAS (Zhong et al., CVPR 2021, Fig. 6, and Fig. 8 for powers, https://arxiv.org/abs/2104.00466). What the
    shapes achieve, :func:`accuracy_by_setting` draws.

    Args:
        class_counts: training samples a class, [C].
        head: eps of the largest class, eps_1 in the paper.
        tail: eps of the smallest class, eps_K.
        shapes: those of :func:`ltaug.losses.smoothing_factors`; a number is the exponent of "power".
        ax: where to draw.

    Returns:
        The figure.

    Raises:
        ValueError: a shape is unknown, or a number is out of range.

    >>> figure = smoothing_shapes([100, 55, 10], shapes=["linear", 2.0])
    >>> [line.get_ydata().round(3).tolist() for line in figure.axes[0].lines]
    [[0.4, 0.25, 0.1], [0.4, 0.175, 0.1]]
    """
    counts = as_counts(class_counts).cpu()
    factors = {}
    for shape in shapes:
        name, power = (shape, None) if isinstance(shape, str) else ("power", shape)
        label = name if power is None else f"power {power:g}"
        factors[label] = as_floats(smoothing_factors(counts, head, tail, name, power))
    return _lines(factors, counts, "smoothing ε of the class", ax)


def _lines(lines: Mapping[str, Floats], counts: Tensor, ylabel: str, ax: Axes | None) -> Figure:
    """Numbers of the classes, most frequent class first, a line for each name."""
    figure, ax = axes_of(ax, 2.9 + legend_height(lines))
    order = np.argsort(-counts.cpu().numpy(), kind="stable")
    ranks = np.arange(1, len(order) + 1)
    for position, (name, values) in enumerate(lines.items()):
        ax.plot(
            ranks,
            values[order],
            color=RUN_COLORS[position % len(RUN_COLORS)],
            # Lines that lie on each other stay apart by their dashes too.
            linestyle=RUN_STYLES[position % len(RUN_STYLES)],
            linewidth=2.2,
            marker="o" if len(order) <= 30 else "",
            markersize=4,
            label=name,
        )
    style_axes(ax, xlabel="class, 1 = most training samples", ylabel=ylabel)
    rank_ticks(ax.xaxis, len(order))
    ax.set_ylim(bottom=0)
    legend_above(ax, columns=run_columns(lines))
    return figure
