"""What the figures share: colours, axes and their looks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

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
MAX_NAMES = 20
NAME_WIDTH = {"many": 0.12, "medium": 0.17, "few": 0.1}  # of usual axes, with a gap


def axes_of(ax: Axes | None, height: float) -> tuple[Figure, Axes]:
    """The given axes and the figure they belong to, or new ones."""
    Figure = _figure_class()
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.add_subplot()
    parent: Any = ax.figure
    while not isinstance(parent, Figure):  # a SubFigure
        parent = parent.figure
    return parent, ax


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            '`ltaug.plots` needs matplotlib, which is not installed. Install it with `pip install "ltaug[plots]"`.'
        ) from error
    return Figure


def panel_below(ax: Axes, share: float) -> Axes:
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


def style_axes(ax: Axes, xlabel: str = "", ylabel: str = "", *, grid: bool = True) -> None:
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TEXT_SIZE, color="#888888")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#888888")
    if grid:
        ax.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        ax.set_axisbelow(True)


def legend_above(ax: Axes, columns: int = 4, height: float = 1.01) -> None:
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


def run_columns(names: Iterable[str]) -> int:
    """Columns of a legend of runs: names too long to stand side by side go below each other."""
    return 1 if any(len(name) > 21 for name in names) else 2


def legend_height(names: Collection[str]) -> float:
    """Inches that a legend of runs takes."""
    return 0.2 * math.ceil(len(names) / run_columns(names))


def note(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL_SIZE, color=GREY)


def integer_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def rank_ticks(axis: Axis, num_classes: int) -> None:
    """Ticks at 1, ..., C: classes are numbered by rank."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    step = next(s for e in range(12) for s in (10**e, 2 * 10**e, 5 * 10**e) if num_classes / s <= 6)
    second = 4 if step == 2 else max(step, 2)  # 2 would touch the 1
    ticks = [1, *range(second, num_classes + 1, step)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if axis is axis.axes.xaxis:
        axis.axes.set_xlim(0.5, num_classes + 0.5)


def class_ticks(
    axis: Axis, order: NDArray[Any], class_names: Sequence[str] | None, most: int = MAX_NAMES, length: int = 14
) -> bool:
    """Ticks of classes in this order: their names if there are at most so many, else ranks. True if it is names."""
    if class_names is None or len(order) > most:
        rank_ticks(axis, len(order))
        return False
    names = [plain(shorten(str(class_names[i]), length)) for i in order.tolist()]
    turned: dict[str, Any] = {}
    if axis is axis.axes.xaxis:
        axis.axes.set_xlim(0.5, len(names) + 0.5)
        if sum(map(len, names)) > 32 * most / MAX_NAMES:
            turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axis.set_ticks(range(1, len(names) + 1), names, **turned)
    return True


def class_axis(named: bool, word: str = "class") -> str:
    """The label of an axis of classes with the ticks of :func:`class_ticks`."""
    return f"{word}, most training samples first" if named else f"{word}, 1 = most training samples"


def log_scale(axis: Axis, counts: NDArray[Any], least: float = 0.6) -> float:
    """Scale an axis for sample counts; returns its lower end, not below ``least``. Ticks are few and plain: 1, 1k."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = counts[counts > 0]
    low, high = max(least, float(positive.min()) / 1.6), float(positive.max()) * 1.6
    if axis is axis.axes.xaxis:
        axis.axes.set_xscale("log")
        axis.axes.set_xlim(low, high)
    else:
        axis.axes.set_yscale("log")
        axis.axes.set_ylim(low, high)
    ticks = [10.0**e for e in range(-6, 12) if low <= 10**e <= high]
    if len(ticks) < 2:
        ticks = [m * 10.0**e for e in range(-6, 12) for m in (1, 2, 5) if low <= m * 10**e <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    return low


def short_number(value: float) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: no formula between dollars, no legend entry lost to a leading underscore."""
    text = text.replace("$", r"\$")
    return f"\u200a{text}" if text.startswith("_") else text


def rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def run_line(position: int, name: str) -> dict[str, Any]:
    """Looks of the line of a run, by its place among the runs."""
    return {
        "color": RUN_COLORS[position % len(RUN_COLORS)],
        "linestyle": RUN_STYLES[position // len(RUN_COLORS) % len(RUN_STYLES)],
        "linewidth": 1.8,
        "markersize": 4,
        "label": plain(shorten(name, 48)),
    }


def shade_groups(ax: Axes, spans: Sequence[tuple[str, int, int]]) -> None:
    """Shade the shot groups along an x axis of ranks, and name them."""
    for name, start, stop in spans:
        ax.axvspan(start + 0.5, stop + 0.5, color=GROUP_COLORS[name], alpha=0.10, linewidth=0)
    name_groups(ax, spans)


def name_groups(ax: Axes, spans: Sequence[tuple[str, int, int]], width: float = 1.0) -> None:
    """Name the shot groups above an x axis of ranks, each in its place, or beside that where it is too narrow.

    Args:
        ax: the axes.
        spans: group, first rank and end.
        width: of the axes, as a share of usual ones.
    """
    middles = [(start + stop) / 2 / spans[-1][2] for _, start, stop in spans]
    widths = [NAME_WIDTH[name] / width for name, _, _ in spans]
    for (name, _, _), middle in zip(spans, _apart(middles, widths), strict=True):
        ax.text(
            middle,
            1.01,
            name,
            transform=ax.transAxes,
            ha="center",
            va="bottom",
            fontsize=TEXT_SIZE,
            color=GROUP_COLORS[name],
        )


def _apart(middles: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places from 0 to 1 next to those wanted, in their order, where things of these widths do not overlap."""
    places = list(middles)
    end = 0.0
    for i, width in enumerate(widths):
        places[i] = max(places[i], end + width / 2)
        end = places[i] + width / 2
    end = 1.0
    for i, width in reversed(list(enumerate(widths))):
        places[i] = min(places[i], end - width / 2)
        end = places[i] - width / 2
    return places


def panels(names: Collection[str], height: float, extra: float = 0.4) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel a name, two in a row, each ``height`` inches high."""
    Figure = _figure_class()
    columns = min(len(names), 2)
    rows = math.ceil(len(names) / 2)
    figure = Figure(figsize=(WIDTH, height * rows + extra), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax, name in zip(grid, names, strict=False):
        ax.set_title("\n".join(map(plain, textwrap.wrap(shorten(name, 48), 25))), fontsize=LABEL_SIZE)
    for ax in grid[len(names) :]:
        ax.remove()
    return figure, grid[: len(names)]


def figure_legend(figure: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    """One legend above all panels."""
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=TEXT_SIZE,
        borderaxespad=0,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.1,
    )
