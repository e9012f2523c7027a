"""Figures that show what a long tail does to a model: curves, classes by frequency, confusions, calibration.

Every function returns a ``matplotlib.figure.Figure`` and draws on a given ``ax`` if there is one. No function touches
``pyplot`` or any other global state, so figures can be made without a display and in threads:
``figure.savefig("name.png")``. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltaug import analysis
from ltaug.metrics import Probs, reliability_bins
from ltaug.priors import Counts, as_counts, shot_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "class_counts",
    "compare_per_class_accuracy",
    "compare_shot_accuracy",
    "label_occurrence",
    "learning_curves",
    "log_confusion_matrix",
    "per_class_accuracy",
    "reliability_diagram",
    "xi_aug_distribution",
]

Floats = NDArray[np.float64]
Values = Tensor | NDArray[Any] | Sequence[float | None]
"""One number a class; ``None`` and NaN stand for "no test sample"."""

# Okabe & Ito, https://jfly.uni-koeln.de/color/
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#6B6B6B",
)
GROUP_COLORS = {"many": BLUE, "medium": GREEN, "few": VERMILLION}
RUN_COLORS = (BLACK, ORANGE, BLUE, GREEN, VERMILLION, SKY, PURPLE)
RUN_STYLES = ("-", "--", "-.", ":")

# Inches and points: shrunk to 400 pixels, a figure of this width still has letters of more than ten pixels.
WIDTH, LABEL_SIZE, TEXT_SIZE = 5.2, 11, 10
MAX_BARS = 200
MAX_CELLS = 400


def learning_curves(rows: Iterable[Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Test accuracy by epoch, with the training loss below.

    Args:
        rows: one mapping an epoch, as in a run's ``metrics.jsonl``: ``epoch``, ``loss``, ``lr``, and, on the epochs
            that were evaluated, fractions ``top1``, ``many``, ``medium``, ``few``. Every key may be missing or None. Of
            two rows of the same epoch (a resumed run) the later one counts.
        ax: where to draw; its lower part becomes the loss.

    Returns:
        The figure. Vertical dotted lines mark the epochs at which a constant learning rate was lowered in a step.

    >>> figure = learning_curves([{"epoch": 0, "loss": 4.6}, {"epoch": 1, "loss": 4.1, "top1": 0.08}])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['test accuracy (%)', 'training loss']
    """
    figure, ax = _axes(ax, 4.0)
    by_epoch: dict[float, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        epoch = _float(row.get("epoch"))
        by_epoch[position if math.isnan(epoch) else epoch] = row
    epochs = np.array(sorted(by_epoch), dtype=float)

    def column(key: str) -> Floats:
        return np.array([_float(by_epoch[epoch].get(key)) for epoch in epochs], dtype=float)

    below = _panel_below(ax, 0.36)
    lines = {"top1": ("all", BLACK, 2.4), **{name: (name, color, 1.6) for name, color in GROUP_COLORS.items()}}
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

    _style(ax, ylabel="test accuracy (%)")
    _style(below, xlabel="epoch", ylabel="training loss")
    _integer_ticks(below.xaxis)
    if ax.lines and ax.get_legend_handles_labels()[0]:
        ax.set_ylim(bottom=0)
        _legend_above(ax)
    else:
        _note(ax, "no epoch was evaluated yet")
    if not known.any():
        _note(below, "no epoch was trained yet")
    return figure


def per_class_accuracy(accuracy: Values, class_counts: Counts, ax: Axes | None = None) -> Figure:
    """Accuracy of every class, most frequent class first, with the training samples below.

    Shading marks the shot groups, and a line across each group its mean over classes. More than 200 classes are
    averaged, a few neighbours to a bar, never across groups.

    Args:
        accuracy: fraction a class, [C]; NaN or None for a class without test sample, drawn as a cross.
        class_counts: training samples a class, [C].
        ax: where to draw; its lower part becomes the training samples.

    Returns:
        The figure.

    Raises:
        ValueError: the two lengths differ.

    >>> figure = per_class_accuracy([0.2, 0.9, None], [5, 500, 50])
    >>> [round(bar.get_height()) for bars in figure.axes[0].containers for bar in bars]
    [90, 20]
    """
    counts, values = _sorted_by_count(accuracy, class_counts)
    figure, ax = _axes(ax, 4.0)
    spans = _group_spans(counts)
    edges, size = _bar_edges(spans, len(counts))
    bars = 100 * _bin_means(values, edges)
    width = 0.82 if len(bars) <= 40 else 1.0
    for name, start, stop in spans:
        color = GROUP_COLORS[name]
        mean = 100 * _mean(values[start:stop])
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
        missing = (edges[:-1] + edges[1:])[np.isnan(bars)] / 2 + 0.5
        ax.plot(missing, np.full(len(missing), 2.0), "x", color=GREY, markersize=4, label="no test sample")
    _style(ax, ylabel="test accuracy (%)")
    ax.set_ylim(0, 102)
    _legend_above(ax)

    below = _panel_below(ax, 0.27)
    sizes = _bin_means(counts.astype(float), edges)
    low = _log_scale(below.yaxis, counts)
    below.stairs(sizes, edges + 0.5, baseline=low, fill=True, color=GREY)
    ranks = "class, 1 = most training samples" + (f" (mean of {size} a bar)" if size > 1 else "")
    _style(below, xlabel=ranks, ylabel="training\nsamples")
    _rank_ticks(below.xaxis, len(counts))
    return figure


def log_confusion_matrix(
    confusion: Tensor | NDArray[Any] | Sequence[Sequence[int]],
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
    matrix = confusion if isinstance(confusion, Tensor) else torch.as_tensor(np.asarray(confusion))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(
            f"`confusion` must be square, shape [C, C] by [truth, prediction], but has shape {list(matrix.shape)}."
        )
    num_classes = matrix.shape[0]
    order = np.arange(num_classes)
    spans: list[tuple[str, int, int]] = []
    if class_counts is not None:
        counts = as_counts(class_counts).cpu().numpy()
        if len(counts) != num_classes:
            raise ValueError(
                f"`confusion` has {num_classes} classes, but `class_counts` {len(counts)}. "
                "Pass the training samples of the same classes."
            )
        order = np.argsort(-counts, kind="stable")
        spans = _group_spans(counts[order])
    block = math.ceil(num_classes / MAX_CELLS)
    cells = _confusion_cells(matrix, order, block)

    figure, ax = _axes(ax, 4.3)
    side, high = cells.shape[0] * block + 0.5, max(float(cells.max()), 1.0)
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
    suffix = ", 1 = most training samples" if spans else ""
    _style(ax, xlabel=f"true class{suffix}", ylabel="predicted class", grid=False)
    for _, start, _ in spans[1:]:
        for line in (ax.axvline, ax.axhline):
            line(start + 0.5, color="white", linewidth=1, linestyle="--", alpha=0.9)
    for name, start, stop in spans:
        # A group narrower than its name would write over its neighbour; its lines stay.
        if (stop - start) / num_classes >= 0.14:
            middle = ((start + stop) / 2 + 0.5, 1.01)
            ax.text(*middle, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=TEXT_SIZE)
    if num_classes <= 10:
        for x, y in np.ndindex(num_classes, num_classes):
            bright = math.log1p(cells[x, y]) > 0.6 * math.log1p(high)
            color = "black" if bright else "white"
            ax.text(x + 1, y + 1, f"{cells[x, y]:g}", ha="center", va="center", fontsize=8, color=color)
    if class_names is not None and num_classes <= 20:
        names = [_plain(_shorten(str(class_names[i]), 14)) for i in order.tolist()]
        turned: dict[str, Any] = (
            {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, names)) > 32 else {}
        )
        ax.set_xticks(range(1, num_classes + 1), names, **turned)
        ax.set_yticks(range(1, num_classes + 1), names)
        ax.set_xlabel("true class" + (", most training samples first" if spans else ""))
    else:
        for axis in (ax.xaxis, ax.yaxis):
            _rank_ticks(axis, num_classes)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9, pad=0.02)
    ticks = [0, *(n for e in range(10) for n in (10**e, 3 * 10**e) if n <= high)]
    bar.set_ticks([math.log1p(n) for n in ticks], labels=[_short_number(n) for n in ticks])
    bar.set_label("test samples, log(1 + n)", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)
    return figure


def reliability_diagram(probs: Probs, labels: Counts, bins: int = 15, ax: Axes | None = None) -> Figure:
    """How far the confidence of a model can be trusted: accuracy by confidence, with the histogram of confidence below.

    A bin whose accuracy lies on the diagonal is calibrated; a hatched gap below it means that the model is too sure of
    itself, one above it that it is too modest. The expected calibration error is the mean gap over samples, the maximum
    one the largest gap.

    Args:
        probs: probabilities, [N, C].
        labels: true classes, int [N].
        bins: bins of equal width.
        ax: where to draw; its lower part becomes the histogram.

    Returns:
        The figure.

    >>> import torch
    >>> figure = reliability_diagram(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
    >>> print(figure.axes[0].texts[0].get_text())
    ECE 40.0 %
    MCE 40.0 %
    """
    table = reliability_bins(probs, labels, bins=bins)
    counts, accuracy, confidence = (_floats(column) for column in (table.counts, table.accuracy, table.confidence))
    used = counts > 0
    total = counts.sum()
    share = counts / total if total else counts
    gaps = np.abs(accuracy - confidence)[used]
    ece = float((share[used] * gaps).sum())
    mce = float(gaps.max()) if used.any() else 0.0

    figure, ax = _axes(ax, 4.4)
    edges = 100 * np.linspace(0, 1, len(counts) + 1)
    lefts, width = edges[:-1][used], 100 / len(counts)
    accuracy, confidence = 100 * accuracy[used], 100 * confidence[used]
    ax.bar(lefts, accuracy, width, align="edge", color=BLUE, edgecolor="white", linewidth=0.8, label="accuracy")
    low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
    for chosen, label, face, edge in (
        (confidence > accuracy, "too sure", (*_rgb(VERMILLION), 0.25), VERMILLION),
        (confidence < accuracy, "too modest", (*_rgb(SKY), 1.0), BLUE),
    ):
        if chosen.any():
            ax.bar(
                lefts[chosen],
                (high - low)[chosen],
                width,
                bottom=low[chosen],
                align="edge",
                color=face,
                edgecolor=edge,
                linewidth=0.8,
                hatch="////",
                label=label,
            )
    ax.plot([0, 100], [0, 100], color=BLACK, linewidth=1.4, linestyle="--", label="ideal")
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#BBBBBB"}
    text = f"ECE {100 * ece:.1f} %\nMCE {100 * mce:.1f} %"
    ax.text(0.035, 0.95, text, transform=ax.transAxes, va="top", fontsize=LABEL_SIZE, bbox=box)
    _style(ax, ylabel="accuracy (%)")
    ax.set_ylim(0, 100)
    ax.set_xlim(0, 100)
    _legend_above(ax)

    below = _panel_below(ax, 0.27)
    below.bar(edges[:-1], 100 * share, width, align="edge", color=GREY, edgecolor="white", linewidth=0.8)
    _style(below, xlabel="confidence (%)", ylabel="share of\nsamples (%)")
    below.set_ylim(0, max(100 * float(share.max()) * 1.08, 1.0) if len(share) else 1.0)
    return figure


def class_counts(counts: Counts, ax: Axes | None = None) -> Figure:
    """The long tail itself: training samples a class, most frequent first, on a logarithmic axis.

    Args:
        counts: training samples a class, [C].
        ax: where to draw.

    Returns:
        The figure; the legend says how many classes each shot group has.

    >>> figure = class_counts([500, 50, 5])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['1 many', '1 medium', '1 few']
    """
    sizes = as_counts(counts, "counts").cpu().numpy()
    sizes = np.sort(sizes)[::-1]
    figure, ax = _axes(ax, 3.2)
    low = _log_scale(ax.yaxis, sizes)
    for name, start, stop in _group_spans(sizes):
        label = f"{stop - start:,} {name}"
        edges = np.arange(start, stop + 1) + 0.5
        ax.stairs(sizes[start:stop], edges, baseline=low, fill=True, color=GROUP_COLORS[name], alpha=0.8, label=label)
    _style(ax, xlabel="class, 1 = most training samples", ylabel="training samples")
    _rank_ticks(ax.xaxis, len(sizes))
    most, least = int(sizes[0]), int(sizes[-1])
    text = f"{len(sizes):,} classes\n{int(sizes.sum()):,} samples\n{most:,} to {least:,} a class"
    if least > 0:
        text += f"\nratio {most / least:,.4g}"
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#BBBBBB", "alpha": 0.9}
    ax.text(0.97, 0.95, text, transform=ax.transAxes, ha="right", va="top", fontsize=TEXT_SIZE, bbox=box)
    _legend_above(ax)
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
    table = {name: {key: 100 * _float(values.get(key)) for key in keys} for name, values in runs.items()}
    shown = [key for key in keys if any(math.isfinite(values[key]) for values in table.values())]
    figure, ax = _axes(ax, 3.1 + _legend_height(runs))
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
            label=_plain(_shorten(name, 48)),
        )
    _style(ax, ylabel="test accuracy (%)")
    ax.set_xticks(range(len(shown)), [keys[key] for key in shown])
    ax.set_ylim(bottom=0)
    if shown:
        _legend_above(ax, columns=_run_columns(runs))
    else:
        _note(ax, "no run was evaluated yet")
    return figure


def compare_per_class_accuracy(runs: Mapping[str, Values], class_counts: Counts, ax: Axes | None = None) -> Figure:
    """Accuracy of several runs from the most to the least frequent class.

    With more than 30 classes, each line is a running mean over a fifteenth of the classes: single classes are too noisy
    to be compared by eye.

    Args:
        runs: for every run, by name, the fraction a class, [C].
        class_counts: training samples a class, [C], the same for all runs.
        ax: where to draw.

    Returns:
        The figure.

    Raises:
        ValueError: a run has another number of classes.

    >>> figure = compare_per_class_accuracy({"cross-entropy": [0.9, 0.1], "UniMix": [0.8, 0.4]}, [500, 5])
    >>> figure.axes[0].lines[1].get_ydata().tolist()
    [80.0, 40.0]
    """
    counts = np.sort(as_counts(class_counts).cpu().numpy())[::-1]
    figure, ax = _axes(ax, 3.3 + _legend_height(runs))
    window = math.ceil(len(counts) / 15) if len(counts) > 30 else 1
    for name, start, stop in _group_spans(counts):
        ax.axvspan(start + 0.5, stop + 0.5, color=GROUP_COLORS[name], alpha=0.10, linewidth=0)
        if (stop - start) / len(counts) >= 0.14:
            middle = ((start + stop) / 2 + 0.5, 1.01)
            ax.text(
                *middle,
                name,
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=TEXT_SIZE,
                color=GROUP_COLORS[name],
            )
    ranks = np.arange(1, len(counts) + 1)
    step = math.ceil(len(counts) / 500)
    for position, (name, accuracy) in enumerate(runs.items()):
        _, values = _sorted_by_count(accuracy, class_counts, name=f"accuracy of {name}")
        ax.plot(
            ranks[::step],
            100 * _running_mean(values, window)[::step],
            color=RUN_COLORS[position % len(RUN_COLORS)],
            linestyle=RUN_STYLES[position // len(RUN_COLORS) % len(RUN_STYLES)],
            linewidth=1.8,
            marker="o" if window == 1 else "",
            markersize=4,
            label=_plain(_shorten(name, 48)),
        )
    smoothed = f" (running mean of {window})" if window > 1 else ""
    _style(ax, xlabel=f"class, 1 = most training samples{smoothed}", ylabel="test accuracy (%)")
    _rank_ticks(ax.xaxis, len(counts))
    ax.set_ylim(0, 102)
    if runs:
        _legend_above(ax, columns=_run_columns(runs), height=1.09)
    return figure


def xi_aug_distribution(class_counts: Counts, alpha: float = 0.8, tau: float = -1.0, ax: Axes | None = None) -> Figure:
    """Which class a mixed sample belongs to, the one of the larger weight: under mixup, with UniMix's factor alone, and
    with its sampler too (UniMix, Xu et al., NeurIPS 2021, Fig. 2, https://arxiv.org/abs/2111.03874).

    The paper draws the limit of small alpha for 100 classes at an imbalance ratio of 200; here alpha is what is
    trained with.

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
    return _class_shares(
        {
            "training data, mixup": _floats(counts) / float(counts.sum()),
            "UniMix factor": _floats(analysis.xi_aug_distribution(counts, 1.0, alpha)),
            f"UniMix, tau = {tau:g}": _floats(analysis.xi_aug_distribution(counts, tau, alpha)),
        },
        counts,
        "share of mixed samples (%)",
        ax,
    )


def label_occurrence(class_counts: Counts, ax: Axes | None = None) -> Figure:
    """How often each label occurs in mixed samples when both come from instance-balanced samplers (IB), from
    class-balanced ones (CB), or from one of each (Zhang et al., ICASSP 2022, Fig. 3a,
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
        gamma = _floats(analysis.label_occurrence(first, partner))
        shares[f"{name}, max/min {gamma.max() / gamma[gamma > 0].min():.2f}"] = gamma
    return _class_shares(shares, counts, "label occurrence (%)", ax)


def _class_shares(shares: Mapping[str, Floats], counts: Tensor, ylabel: str, ax: Axes | None) -> Figure:
    """Shares of the classes, most frequent class first, a line for each name."""
    figure, ax = _axes(ax, 2.9 + _legend_height(shares))
    order = np.argsort(-counts.cpu().numpy(), kind="stable")
    ranks = np.arange(1, len(order) + 1)
    for position, (name, values) in enumerate(shares.items()):
        ax.plot(
            ranks,
            100 * values[order],
            color=RUN_COLORS[position],
            # Lines that lie on each other stay apart by their dashes too.
            linestyle=RUN_STYLES[position],
            linewidth=2.2,
            marker="o" if len(order) <= 30 else "",
            markersize=4,
            label=name,
        )
    _style(ax, xlabel="class, 1 = most training samples", ylabel=ylabel)
    _rank_ticks(ax.xaxis, len(order))
    ax.set_ylim(bottom=0)
    _legend_above(ax, columns=_run_columns(shares))
    return figure


# Axes and their looks


def _axes(ax: Axes | None, height: float) -> tuple[Figure, Axes]:
    """The given axes and the figure they belong to, or new ones."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            '`ltaug.plots` needs matplotlib, which is not installed. Install it with `pip install "ltaug[plots]"`.'
        ) from error
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.add_subplot()
    parent: Any = ax.figure
    while not isinstance(parent, Figure):  # a SubFigure
        parent = parent.figure
    return parent, ax


def _panel_below(ax: Axes, share: float) -> Axes:
    """Give the lower ``share`` of the place of ``ax`` to new axes with the same x axis."""
    spec = ax.get_subplotspec()
    if spec is not None:
        rows = spec.subgridspec(2, 1, height_ratios=(1 - share, share), hspace=0.06)
        ax.set_subplotspec(rows[0])
        below: Axes = ax.figure.add_subplot(rows[1], sharex=ax)
    else:
        left, bottom, width, height = ax.get_position().bounds
        ax.set_position((left, bottom + height * (share + 0.03), width, height * (0.97 - share)))
        below = ax.figure.add_axes((left, bottom, width, height * share), sharex=ax)
    ax.tick_params(labelbottom=False)
    return below


def _style(ax: Axes, xlabel: str = "", ylabel: str = "", *, grid: bool = True) -> None:
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TEXT_SIZE, color="#888888")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#888888")
    if grid:
        ax.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        ax.set_axisbelow(True)


def _legend_above(ax: Axes, columns: int = 4, height: float = 1.01) -> None:
    """A legend above the axes, where it can hide nothing."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, height),
        ncols=columns,
        frameon=False,
        fontsize=TEXT_SIZE,
        borderaxespad=0,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.1,
    )


def _run_columns(names: Iterable[str]) -> int:
    """Columns of a legend of runs: names too long to stand side by side go below each other."""
    return 1 if any(len(name) > 21 for name in names) else 2


def _legend_height(names: Collection[str]) -> float:
    """Inches that a legend of runs takes."""
    return 0.2 * math.ceil(len(names) / _run_columns(names))


def _note(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL_SIZE, color=GREY)


def _integer_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _rank_ticks(axis: Axis, num_classes: int) -> None:
    """Ticks at 1, ..., C: classes are numbered by rank."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    step = next(s for e in range(12) for s in (10**e, 2 * 10**e, 5 * 10**e) if num_classes / s <= 6)
    ticks = [1, *range(step, num_classes + 1, step)] if step > 1 else list(range(1, num_classes + 1))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    if axis is axis.axes.xaxis:
        axis.axes.set_xlim(0.5, num_classes + 0.5)


def _log_scale(axis: Axis, counts: NDArray[Any]) -> float:
    """Scale a y axis for sample counts; returns its lower end. Ticks are few and plain: 1, 10, 100, 1k."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = counts[counts > 0]
    low, high = max(0.6, float(positive.min()) / 1.6), float(positive.max()) * 1.6
    axis.axes.set_yscale("log")
    axis.axes.set_ylim(low, high)
    ticks = [10.0**e for e in range(12) if low <= 10**e <= high]
    if len(ticks) < 2:
        ticks = [m * 10.0**e for e in range(12) for m in (1, 2, 5) if low <= m * 10**e <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short_number(value)))
    return low


def _short_number(value: float) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: no formula between dollars, no legend entry lost to a leading underscore."""
    text = text.replace("$", r"\$")
    return f"\u200a{text}" if text.startswith("_") else text


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


# Numbers


def _float(value: Any) -> float:
    """A number, or NaN for what is none."""
    if isinstance(value, (str, bool)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _floats(values: Values) -> Floats:
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _rate_steps(epochs: Floats, rates: Floats) -> list[float]:
    """Epochs at which a learning rate that stood still fell by a quarter or more; a smooth schedule has none."""
    return [
        float(epochs[i])
        for i in range(2, len(epochs))
        if rates[i - 2] == rates[i - 1] and rates[i] <= 0.75 * rates[i - 1]
    ]


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _sorted_by_count(
    accuracy: Values, class_counts: Counts, name: str = "accuracy"
) -> tuple[NDArray[np.int64], Floats]:
    """Counts and accuracy of the classes, most frequent class first."""
    counts = as_counts(class_counts).cpu().numpy()
    values = _floats(accuracy)
    if values.shape != counts.shape:
        raise ValueError(
            f"`{name}` must hold one number for each of the {len(counts)} classes in `class_counts`, "
            f"but has shape {list(values.shape)}. Pass NaN for a class without test sample."
        )
    order = np.argsort(-counts, kind="stable")
    return counts[order], values[order]


def _group_spans(counts: NDArray[Any]) -> list[tuple[str, int, int]]:
    """(group, first rank, end) of the groups that are not empty; ``counts`` fall, so every group is one span."""
    spans, start = [], 0
    for name, mask in shot_groups(torch.as_tensor(counts.copy())).items():
        size = int(mask.sum())
        if size:
            spans.append((name, start, start + size))
        start += size
    return spans


def _bar_edges(spans: Sequence[tuple[str, int, int]], num_classes: int) -> tuple[NDArray[np.int64], int]:
    """Where bars begin and end, in ranks from 0, and how many classes share one; no bar crosses a group."""
    size = math.ceil(num_classes / MAX_BARS)
    starts = [start for _, first, stop in spans for start in range(first, stop, size)]
    return np.array([*starts, num_classes]), size


def _bin_means(values: Floats, edges: NDArray[np.int64]) -> Floats:
    return np.array([_mean(values[low:high]) for low, high in itertools.pairwise(edges)])


def _running_mean(values: Floats, window: int) -> Floats:
    """Mean over a centred window, cut at the ends; NaN only where the window holds no number."""
    if window <= 1:
        return values
    known = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    sizes = np.concatenate([[0], np.cumsum(known)])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - window // 2, 0), np.minimum(middle + (window + 1) // 2, len(values))
    size = sizes[high] - sizes[low]
    return np.where(size > 0, (totals[high] - totals[low]) / np.maximum(size, 1), np.nan)


def _confusion_cells(matrix: Tensor, order: NDArray[Any], block: int) -> Floats:
    """Sums of ``block`` x ``block`` neighbours in the given order, float64 [K, K] by [truth, prediction]."""
    sparse = matrix.detach().cpu().to_sparse().coalesce()
    values = sparse.values().double()
    if values.numel() and not bool((values >= 0).all()):
        raise ValueError("`confusion` must hold sample counts, but some are negative or NaN.")
    rank = torch.empty(len(order), dtype=torch.long)
    rank[torch.as_tensor(order.copy())] = torch.arange(len(order))
    side = math.ceil(len(order) / block)
    truth, prediction = rank[sparse.indices()] // block
    cells = torch.zeros(side * side, dtype=torch.float64)
    cells.index_add_(0, truth * side + prediction, values)
    return cells.view(side, side).numpy()
