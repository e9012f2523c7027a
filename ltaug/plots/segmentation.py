"""Figures of segmentation: scenes and what was made of them, accuracy by the share of pixels, trust in modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltaug.plots._style import (
    LABEL_SIZE,
    MAX_NAMES,
    TEXT_SIZE,
    WIDTH,
    _figure_class,
    axes_of,
    legend_above,
    plain,
    rank_ticks,
    run_line,
    shorten,
    style_axes,
)
from ltaug.priors import Counts, as_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_by_pixel_share", "segmented_scene", "trust_by_condition"]

Plane = Tensor | NDArray[Any]

COLUMNS = 3
VOID_COLOR = (1.0, 1.0, 1.0)


def segmented_scene(panels: Mapping[str, Plane], class_names: Sequence[str], *, ignore_index: int = 255) -> Figure:
    """A scene, what sensors saw of it, the truth, predictions and their uncertainty, side by side.

    Args:
        panels: by title: pictures uint8 [H, W, 3]; class maps, integers [H, W]; an entry called "depth", and those that
            begin with "uncertainty", are grey, bright where they are large. Uncertainty is an entropy in nats; white is
            log C, that of the uniform distribution.
        class_names: C names, for the legend: of the classes that the maps show.
        ignore_index: class of pixels without one, which are white.

    Raises:
        ValueError: there is no panel, or one has another shape.

    >>> maps = {"truth": np.zeros((4, 6), np.int64), "uncertainty": np.eye(4, 6)}
    >>> [ax.get_title() for ax in segmented_scene(maps, ["road", "sky"]).axes[:2]]
    ['truth', 'uncertainty']
    """
    if not panels:
        raise ValueError("`panels` is empty. Pass at least one picture or class map, by its title.")
    arrays = {name: np.asarray(plane.cpu() if isinstance(plane, Tensor) else plane) for name, plane in panels.items()}
    height, width = next(iter(arrays.values())).shape[:2]
    rows = math.ceil(len(arrays) / COLUMNS)
    colors = _colors(len(class_names))
    shown: set[int] = set()
    figure = _figure_class()(
        figsize=(WIDTH, rows * (WIDTH / COLUMNS * height / width + 0.25) + 0.9), layout="constrained"
    )
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel().tolist()
    for ax, (name, plane) in zip(grid, arrays.items(), strict=False):
        if plane.shape[:2] != (height, width) or plane.ndim not in (2, 3):
            raise ValueError(f"`panels` must all be [{height}, {width}], but {name!r} is {list(plane.shape)}.")
        if plane.ndim == 3:
            ax.imshow(plane)
        elif name == "depth" or name.startswith("uncertainty"):
            # One scale for all predictions and scenes, which are compared.
            most = None if name == "depth" else math.log(max(2, len(class_names)))
            ax.imshow(plane, cmap="gray", vmin=0, vmax=most)
        else:
            kept = plane != ignore_index
            shown |= set(np.unique(plane[kept]).tolist())
            ax.imshow(np.where(kept[..., None], colors[np.where(kept, plane, 0)], np.array(VOID_COLOR)))
        ax.set_title(plain(shorten(name, 24)), fontsize=TEXT_SIZE)
        ax.set_axis_off()
    for ax in grid[len(arrays) :]:
        ax.remove()
    if shown:
        from matplotlib.patches import Patch

        handles = [Patch(color=colors[k], label=plain(shorten(class_names[k], 20))) for k in sorted(shown)]
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8, handlelength=1.0)
    return figure


def _colors(number: int) -> NDArray[np.float64]:
    """Colours of classes, as different as they can be."""
    import matplotlib

    table = matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))[:, :3]
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    colors: NDArray[np.float64] = table[[order[k % 20] for k in range(number)]]
    return colors


def accuracy_by_pixel_share(
    accuracy: Mapping[str, Tensor],
    class_counts: Counts,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Accuracy of every class, from the one with most training pixels to the one with fewest, one line a method.

    Args:
        accuracy: of every class [C], by method; NaN for a class that was not tested.
        class_counts: training pixels a class, [C].
        class_names: C names, written below with each one's share of the pixels, if there are not too many.
        ax: axes to draw on.

    Raises:
        ValueError: there is no method, or the numbers of classes differ.

    >>> import torch
    >>> figure = accuracy_by_pixel_share({"CE": torch.tensor([0.9, 0.2])}, [900, 10], ["road", "sign"])
    """
    counts = as_counts(class_counts).cpu().double().numpy()
    if not accuracy or any(len(values) != len(counts) for values in accuracy.values()):
        raise ValueError(f"`accuracy` must hold {len(counts)} numbers, as `class_counts`, of at least one method.")
    share, order = 100 * counts / counts.sum(), np.argsort(-counts, kind="stable")
    figure, ax = axes_of(ax, 4.2)
    places = np.arange(1, len(order) + 1)
    for place, (name, values) in enumerate(accuracy.items()):
        ax.plot(places, 100 * values.double().numpy()[order], marker="o", **run_line(place, name))
    style_axes(ax, "class, and its share of the training pixels", "test accuracy (%)")
    if len(order) <= MAX_NAMES:
        names = class_names if class_names is not None else [f"class {k}" for k in range(len(order))]
        labels = [f"{plain(shorten(str(names[k]), 14))}  {share[k]:.2g} %" for k in order.tolist()]
        ax.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor")
    else:
        rank_ticks(ax.xaxis, len(order))
    ax.set_ylim(-2, 102)
    legend_above(ax, columns=3)
    return figure


def trust_by_condition(trust: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Figure:
    """How far each modality is trusted in each condition: bars of UNO's factor, 1 is full trust.

    Args:
        trust: by modality and condition, mean of :func:`ltaug.fusion.uncertainty_scale` over the scenes.
        ax: axes to draw on.

    Raises:
        ValueError: there is no modality.

    >>> figure = trust_by_condition({"rgb": {"test": 1.0, "fog": 0.4}, "depth": {"test": 1.0, "fog": 1.0}})
    """
    if not trust:
        raise ValueError("`trust` is empty. Pass the factors of at least one modality, by condition.")
    conditions = list(dict.fromkeys(condition for found in trust.values() for condition in found))
    figure, ax = axes_of(ax, 3.2)
    width = 0.8 / len(trust)
    for place, (name, found) in enumerate(trust.items()):
        bars = np.arange(len(conditions)) + (place - (len(trust) - 1) / 2) * width
        looks = run_line(place, name)  # the colours of `accuracy_by_pixel_share`, where modalities are first
        values = [found.get(condition, math.nan) for condition in conditions]
        ax.bar(bars, values, width, color=looks["color"], label=looks["label"])
    ax.set_xticks(range(len(conditions)), [plain(shorten(name.replace("_", " "), 14)) for name in conditions])
    if sum(map(len, conditions)) > 32:
        ax.tick_params(axis="x", labelrotation=30)
    style_axes(ax, "", "trust (UNO's factor)")
    ax.set_ylabel("trust (UNO's factor)", fontsize=LABEL_SIZE)
    ax.set_ylim(0, 1.02)
    legend_above(ax)
    return figure
