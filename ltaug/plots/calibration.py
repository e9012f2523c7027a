"""Figures of how far the probabilities of a model can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ltaug.metrics import Probs, ReliabilityBins, reliability_bins
from ltaug.plots._numbers import Floats, as_floats, group_spans, running_mean, smoothing_window
from ltaug.plots._style import (
    BLACK,
    BLUE,
    GREY,
    LABEL_SIZE,
    RUN_COLORS,
    SKY,
    TEXT_SIZE,
    VERMILLION,
    axes_of,
    class_axis,
    class_ticks,
    figure_legend,
    legend_above,
    legend_height,
    log_scale,
    panel_below,
    panels,
    plain,
    rgb,
    run_columns,
    run_line,
    shade_groups,
    shorten,
    style_axes,
)
from ltaug.priors import Counts, as_counts, as_labels, shot_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure, ax = axes_of(ax, 4.4)
    _, errors = _draw_reliability(ax, reliability_bins(probs, labels, bins=bins))
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#BBBBBB"}
    text = "\n".join(errors)
    ax.text(0.035, 0.95, text, transform=ax.transAxes, va="top", fontsize=LABEL_SIZE, bbox=box)
    legend_above(ax)
    return figure


def compare_reliability_diagrams(probs: Mapping[str, Probs], labels: Counts, bins: int = 15) -> Figure:
    """Reliability diagrams of several models side by side.

    With 15 bins as in MiSLAS (Zhong et al., CVPR 2021, Fig. 1, https://arxiv.org/abs/2104.00466); LADE (Hong et al.,
    CVPR 2021, https://arxiv.org/abs/2012.00321) has 20. One of them alone is :func:`reliability_diagram`.

    Args:
        probs: for every model, by name, the probabilities, [N, C].
        labels: true classes, int [N], the same for all models.
        bins: bins of equal width.

    Returns:
        The figure, with a panel a model, two in a row, its histogram below each.

    Raises:
        ValueError: there is no model, or the probabilities or labels are as
            :func:`~ltaug.metrics.reliability_bins` refuses them.

    >>> import torch
    >>> sure, modest = torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    >>> figure = compare_reliability_diagrams({"plain": sure, "UniMix": modest}, torch.tensor([0, 1]))
    >>> print(figure.axes[1].get_title())
    UniMix
    ECE 10.0 %, MCE 10.0 %
    """
    if not probs:
        raise ValueError("`probs` is empty. Pass the probabilities of at least one model, by its name.")
    tables = [reliability_bins(values, labels, bins=bins) for values in probs.values()]
    figure, grid = panels(probs, 3.0 if len(probs) > 1 else 4.4)
    handles: dict[str, Any] = {}
    histograms: list[Axes] = []
    for position, (ax, table) in enumerate(zip(grid, tables, strict=True)):
        below, errors = _draw_reliability(ax, table)
        histograms.append(below)
        # A box in so small a panel would hide bars.
        ax.set_title(f"{ax.get_title()}\n{', '.join(errors)}", fontsize=TEXT_SIZE)
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        if position % 2:
            ax.set_ylabel("")
            below.set_ylabel("")
    for below in histograms:
        below.set_ylim(0, max(axes.get_ylim()[1] for axes in histograms))
    order = ("accuracy", "too sure", "too modest", "ideal")
    figure_legend(figure, [handles[label] for label in order if label in handles])
    return figure


def probability_violins(
    probs: Mapping[str, Probs], labels: Counts, class_counts: Counts, ax: Axes | None = None, *, of: str = "prediction"
) -> Figure:
    r"""Distribution of the probabilities that models give, by shot group of the true class.

    As in MiSLAS (Zhong et al., CVPR 2021, Fig. 3, https://arxiv.org/abs/2104.00466). The paper's figure shows
    "predicted probability", which stands here for that of the predicted class: a model that knows its tail less should
    be less sure there. ``of="truth"`` shows that of the true class instead: what the head takes from the tail.

    Args:
        probs: for every model, by name, the probabilities, [N, C].
        labels: true classes, int [N], the same for all models.
        class_counts: training samples a class, [C].
        ax: where to draw.
        of: "prediction" for the largest probability of a sample, "truth" for that of its true class.

    Returns:
        The figure: a violin a model and group, with a bar from the first to the third quartile and a dot at the
        median. A group without test samples is left out.

    Raises:
        ValueError: there is no model, ``of`` is unknown, or the lengths differ.

    >>> import torch
    >>> figure = probability_violins({"plain": torch.tensor([[0.9, 0.1], [0.7, 0.3]])}, [0, 1], [500, 5], of="truth")
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['many\n1 sample', 'few\n1 sample']
    """
    if not probs:
        raise ValueError("`probs` is empty. Pass the probabilities of at least one model, by its name.")
    if of not in ("prediction", "truth"):
        raise ValueError(f'`of` must be "prediction" or "truth", but is {of!r}.')
    counts = as_counts(class_counts).cpu()
    truth = as_labels(labels).cpu()
    values = {name: _probabilities(p, truth, len(counts), of, name) for name, p in probs.items()}
    samples = {name: mask[truth].numpy() for name, mask in shot_groups(counts).items()}
    shown = [name for name, mask in samples.items() if mask.any()]

    figure, ax = axes_of(ax, 3.4 + legend_height(probs))
    width = 0.84 / len(probs)
    for position, (name, all_values) in enumerate(values.items()):
        color = RUN_COLORS[position % len(RUN_COLORS)]
        places = np.arange(len(shown)) - 0.42 + (position + 0.5) * width
        for place, group in zip(places, shown, strict=True):
            chosen = 100 * all_values[samples[group]]
            parts: Any = ax.violinplot([chosen], positions=[place], widths=0.94 * width, showextrema=False)
            parts["bodies"][0].set(facecolor=(*rgb(color), 0.45), edgecolor=color, linewidth=1, alpha=None)
            first, median, third = np.percentile(chosen, [25, 50, 75])
            ax.vlines(place, first, third, color=color, linewidth=3.5)
            ax.plot(place, median, "o", color="white", markeredgecolor=color, markersize=5.5)
        ax.fill_between([], [], facecolor=(*rgb(color), 0.45), edgecolor=color, label=plain(shorten(name, 48)))
    of_what = "predicted" if of == "prediction" else "true"
    style_axes(ax, ylabel=f"probability of\nthe {of_what} class (%)")
    sizes = [int(samples[name].sum()) for name in shown]
    ticks = [f"{name}\n{size:,} sample{'s' if size > 1 else ''}" for name, size in zip(shown, sizes, strict=True)]
    ax.set_xticks(range(len(shown)), ticks)
    ax.set_xlim(-0.5, len(shown) - 0.5)
    ax.set_ylim(0, 102)  # a median of 100 shows its whole dot
    legend_above(ax, columns=run_columns(probs))
    return figure


def mean_class_probability(
    probs: Mapping[str, Probs],
    labels: Counts,
    class_counts: Counts,
    ax: Axes | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Mean probability that models give to each class over all test samples, most frequent class first.

    A model that kept the prior of its training gives the frequent classes more than their share of the test set
    (LADE, Hong et al., CVPR 2021, Fig. 2, https://arxiv.org/abs/2012.00321). Here the share of the training data is the
    grey area, and that of the test data the dashed line; the axis is logarithmic, so that an exponential tail and any
    power of it have straight edges. With more than 30 classes, all are running means over a fifteenth of the classes.

    Args:
        probs: for every model, by name, the probabilities, [N, C].
        labels: true classes, int [N], the same for all models.
        class_counts: training samples a class, [C].
        ax: where to draw.
        class_names: names a class, shown where there are at most 20.

    Returns:
        The figure.

    Raises:
        ValueError: there is no model, or the lengths differ.

    >>> import torch
    >>> figure = mean_class_probability({"plain": torch.tensor([[0.9, 0.1], [0.7, 0.3]])}, [0, 1], [500, 5])
    >>> figure.axes[0].lines[0].get_ydata().round(1).tolist()
    [80.0, 20.0]
    """
    if not probs:
        raise ValueError("`probs` is empty. Pass the probabilities of at least one model, by its name.")
    counts = as_counts(class_counts).cpu()
    truth = as_labels(labels).cpu()
    means = {name: _class_means(p, truth, len(counts), name) for name, p in probs.items()}
    order = np.argsort(-counts.numpy(), kind="stable")
    figure, ax = axes_of(ax, 3.5 + legend_height(["", "", *probs]))
    window = smoothing_window(len(counts))
    shade_groups(ax, group_spans(counts.numpy()[order]))
    ranks = np.arange(1, len(counts) + 1)
    step = math.ceil(len(counts) / 500)
    for position, (name, mean) in enumerate(means.items()):
        y = running_mean(100 * mean[order], window)[::step]
        ax.plot(ranks[::step], y, marker="o" if window == 1 else "", **run_line(position, name))
    trained, tested = (
        100 * running_mean(as_floats(sizes)[order] / max(int(sizes.sum()), 1), window)[::step]
        for sizes in (counts, torch.bincount(truth, minlength=len(counts)))
    )
    ax.plot(ranks[::step], np.where(tested > 0, tested, math.nan), color=GREY, linestyle="--", label="test data")
    low = log_scale(ax.yaxis, np.concatenate([trained, *(line.get_ydata() for line in ax.lines)]), least=1e-6)
    ax.fill_between(ranks[::step], trained, low, color="#C8C8C8", linewidth=0, label="training data", zorder=0.5)
    smoothed = f" (running mean of {window})" if window > 1 else ""
    named = class_ticks(ax.xaxis, order, class_names)
    style_axes(ax, xlabel=class_axis(named) + smoothed, ylabel="mean probability (%)")
    legend_above(ax, columns=run_columns(probs), height=1.09)
    return figure


def _class_means(probs: Probs, truth: Tensor, num_classes: int, name: str) -> Floats:
    """Mean probability of each class, float64 [C]."""
    values = _checked(probs, truth, num_classes, name)
    # Some samples at a time: the probabilities of iNaturalist in double precision would fill the memory.
    totals = [rows.double().sum(0) for rows in torch.split(values, 1024)]
    return as_floats(torch.stack(totals).sum(0) / len(values)) if totals else np.full(num_classes, math.nan)


def _probabilities(probs: Probs, truth: Tensor, num_classes: int, of: str, name: str) -> Floats:
    """The probability of each sample that a violin shows, float64 [N]."""
    values = _checked(probs, truth, num_classes, name)
    picked = values.amax(1) if of == "prediction" else values.gather(1, truth[:, None]).squeeze(1)
    return as_floats(picked)


def _checked(probs: Probs, truth: Tensor, num_classes: int, name: str) -> Tensor:
    """Probabilities of a model, [N, C], on the CPU."""
    reliability_bins(probs, truth)  # checks both
    values = torch.as_tensor(probs if isinstance(probs, Tensor) else np.asarray(probs)).detach().cpu()
    if values.shape[1] != num_classes:
        raise ValueError(
            f"`class_counts` must hold one number for each of the {values.shape[1]} columns of `probs` of {name}, "
            f"but hold {num_classes}."
        )
    return values


def _draw_reliability(ax: Axes, table: ReliabilityBins) -> tuple[Axes, tuple[str, str]]:
    """Bars and gaps; returns the axes of the histogram below, and the two calibration errors in words."""
    counts, accuracy, confidence = (as_floats(column) for column in (table.counts, table.accuracy, table.confidence))
    used = counts > 0
    total = counts.sum()
    share = counts / total if total else counts
    gaps = np.abs(accuracy - confidence)[used]
    ece = float((share[used] * gaps).sum())
    mce = float(gaps.max()) if used.any() else 0.0

    edges = 100 * np.linspace(0, 1, len(counts) + 1)
    lefts, width = edges[:-1][used], 100 / len(counts)
    accuracy, confidence = 100 * accuracy[used], 100 * confidence[used]
    ax.bar(lefts, accuracy, width, align="edge", color=BLUE, edgecolor="white", linewidth=0.8, label="accuracy")
    low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
    for chosen, label, face, edge in (
        (confidence > accuracy, "too sure", (*rgb(VERMILLION), 0.25), VERMILLION),
        (confidence < accuracy, "too modest", (*rgb(SKY), 1.0), BLUE),
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
    style_axes(ax, ylabel="accuracy (%)")
    ax.set_ylim(0, 100)
    ax.set_xlim(0, 100)
    below = panel_below(ax, 0.27)
    below.bar(edges[:-1], 100 * share, width, align="edge", color=GREY, edgecolor="white", linewidth=0.8)
    style_axes(below, xlabel="confidence (%)", ylabel="share of\nsamples (%)")
    below.set_ylim(0, max(100 * float(share.max()) * 1.08, 1.0) if len(share) else 1.0)
    return below, (f"ECE {100 * ece:.1f} %", f"MCE {100 * mce:.1f} %")
