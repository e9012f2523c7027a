"""Figures of models whose labels do not exclude each other: each label's precision, and its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ltaug.metrics import Probs, labelwise_calibration_error
from ltaug.metrics.calibration import bin_index, check_bins
from ltaug.metrics.multi_label import read_labels
from ltaug.plots._numbers import Values, group_spans
from ltaug.plots._style import BLACK, GROUP_COLORS, LABEL_SIZE, axes_of, legend_above, panel_below, style_axes
from ltaug.plots.classes import values_by_frequency
from ltaug.priors import Counts, Labels, as_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 10
"""Entries that a bin needs for its share of positives to say something."""


def per_label_precision(
    precision: Values, label_counts: Counts, ax: Axes | None = None, *, label_names: Sequence[str] | None = None
) -> Figure:
    """Average precision of every label, most frequent label first, with the training samples below.

    Drawn as :func:`per_class_accuracy` is: shot groups are shaded, with their means across.

    Args:
        precision: of each label, [L], as :func:`ltaug.metrics.average_precision` finds it; NaN or None for a label
            without positives in the test set, drawn as a cross.
        label_counts: training samples that have each label, [L].
        ax: where to draw; its lower part becomes the training samples.
        label_names: names a label, shown where there are at most 20.

    Returns:
        The figure.

    Raises:
        ValueError: the two lengths differ.

    >>> figure = per_label_precision([0.2, 0.9, None], [5, 500, 50])
    >>> figure.axes[0].get_ylabel(), [round(bar.get_height()) for bars in figure.axes[0].containers for bar in bars]
    ('average precision (%)', [90, 20])
    """
    names = ("precision", "label", "average precision (%)", "no positive in the test set")
    return values_by_frequency(precision, label_counts, ax, label_names, *names)


def labelwise_reliability(
    probs: Probs,
    targets: Labels,
    label_counts: Counts,
    bins: int = 15,
    ax: Axes | None = None,
    *,
    ignore_index: int | None = None,
) -> Figure:
    """How far the probabilities of labels can be trusted: share of positives by probability, for each shot group.

    Every test sample counts once a label, in the line of the label's group; the histograms of these probabilities stand
    below, on a logarithmic axis, since most labels are absent from most samples. A line below the diagonal promises a
    label more often than it is there. Bins of fewer than ten entries are left out.

    Args:
        probs: probability of each label, [N, L].
        targets: multi-hot rows [N, L], or N lists of label indices.
        label_counts: training samples that have each label, [L].
        bins: bins of equal width.
        ax: where to draw; its lower part becomes the histograms.
        ignore_index: what rows hold where a label is not known.

    Returns:
        The figure; its legend has the label-wise ECE of each group's labels, and the box that of all.

    Raises:
        ValueError: as :func:`ltaug.metrics.labelwise_calibration_error`, or ``label_counts`` do not fit.

    >>> figure = labelwise_reliability([[0.75, 0.0]] * 12, [[0], [0], [0], []] * 3, label_counts=[500, 5])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['many 0.0', 'few 0.0', 'ideal']
    """
    check_bins(bins)
    values, truth, known = (each.cpu() for each in read_labels(probs, targets, ignore_index))
    counts = as_counts(label_counts, "label_counts").cpu().numpy()
    if len(counts) != values.shape[1]:
        raise ValueError(
            f"`label_counts` must agree with the {values.shape[1]} columns of `probs`, but has {len(counts)} labels."
        )
    order = np.argsort(-counts, kind="stable")
    figure, ax = axes_of(ax, 4.4)
    below = panel_below(ax, 0.27)
    edges, most = 100 * np.linspace(0, 1, bins + 1), 1
    rows = truth.long().masked_fill(~known, -1)
    for name, start, stop in group_spans(counts[order]):
        mine = order[start:stop].tolist()
        kept = known[:, mine]
        if not bool(kept.any()):
            continue
        p, y = values[:, mine][kept].double(), truth[:, mine][kept].double()
        index = bin_index(p, bins)
        sizes = np.bincount(index, minlength=bins)
        sums = (np.bincount(index, weights=weights, minlength=bins) for weights in (p, y))
        shown = sizes >= LEAST
        x, share = (100 * total[shown] / sizes[shown] for total in sums)
        error = labelwise_calibration_error(values[:, mine], rows[:, mine], bins, ignore_index=-1)
        ax.plot(
            x, share, "o-", color=GROUP_COLORS[name], linewidth=1.8, markersize=4, label=f"{name} {100 * error:.1f}"
        )
        below.stairs(np.maximum(sizes, 0.1), edges, baseline=0.1, color=GROUP_COLORS[name], linewidth=1.6)
        most = max(most, int(sizes.max()))
    ax.plot([0, 100], [0, 100], color=BLACK, linewidth=1.4, linestyle="--", label="ideal")
    error = labelwise_calibration_error(values, rows, bins, ignore_index=-1)
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#BBBBBB"}
    text = f"label-wise ECE {100 * error:.1f} %"
    ax.text(0.035, 0.95, text, transform=ax.transAxes, va="top", fontsize=LABEL_SIZE, bbox=box)
    style_axes(ax, ylabel="share of positives (%)")
    ax.set_xlim(-1, 101)
    ax.set_ylim(-1, 101)
    legend_above(ax)
    style_axes(below, xlabel="probability of a label (%)", ylabel="entries")
    below.set_yscale("log")
    below.set_ylim(0.6, 2.0 * most)
    return figure
