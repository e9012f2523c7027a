"""Figures as data that a page carries, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SVG_BYTES = 150_000
MAX_PNG_BYTES = 200_000
PNG_DPI = 170


@dataclass
class Picture:
    """What stands in a figure's place: an image, or why it is missing."""

    source: str = ""
    """The image itself, as a data URL."""
    width: int = 0
    """Pixels of the page at which its letters have their size."""
    height: int = 0
    missing: str = ""
    """Why there is no image."""


def draw(function: Callable[..., Figure], *data: Any, missing: str = "", **options: Any) -> Picture:
    """Draw a figure of a page.

    Args:
        function: one of :mod:`ltaug.plots`.
        data: its arguments; where one is None or empty, nothing is drawn.
        missing: what the page says then.
        options: its other arguments.
    """
    if any(value is None or (isinstance(value, (list, dict)) and not value) for value in data):
        return Picture(missing=missing)
    try:
        return encode(function(*data, **options))
    except Exception as error:  # a page without one figure is worth more than none after hours of training
        return Picture(missing=str(error))


def encode(figure: Figure) -> Picture:
    """An image of a figure: SVG, which stays sharp, PNG where smaller, WebP for what is like noise."""
    data, kind = io.BytesIO(), "svg+xml"
    if not any(axes.images for axes in figure.axes):
        figure.savefig(data, format="svg", metadata={"Date": None})
    if not 0 < data.tell() <= MAX_SVG_BYTES:
        data, kind = io.BytesIO(), "png"
        figure.savefig(data, format="png", dpi=PNG_DPI)
    if data.tell() > MAX_PNG_BYTES:  # a spectrogram
        data, kind = io.BytesIO(), "webp"
        figure.savefig(data, format="webp", dpi=PNG_DPI, pil_kwargs={"quality": 80, "method": 4})
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{encoded}", width, height)
