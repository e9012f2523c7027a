"""Decoding of image files to 8-bit RGB, whatever they hold."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageCms

__all__ = ["open_stored", "to_rgb", "warn"]

WHITE_IS_ZERO, PHOTOMETRIC, ORIENTATION = 0, 262, 274  # of TIFF and EXIF


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an image of any kind to 8-bit RGB, upright.

    * The first frame of an animation, turned as its EXIF orientation says; damaged metadata is ignored.
    * Transparent pixels are laid over white, as a page shows them.
    * 16 bits are divided by 256. 32-bit integers are taken for 8 bits if they lie in 0..255, for 16 bits if they lie in
      0..65535. Floats are taken for 0..1, 0..255 or 0..65535, whichever range is the first to hold them all.
    * Greys of which 0 is white (TIFF) are inverted; CMYK and CIELAB are converted.

    Raises:
        ValueError: floats or integers outside these ranges, or not finite.
    """
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(image))
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# PIL.Image.Transpose by EXIF orientation; 1 is upright.
_TURNS: dict[int, Any] = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where the metadata cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of many types, from the depths of Pillow: the pixels are fine
        return 1


def _to_8_bits(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Greys of more than 8 bits, uint8 [H, W]."""
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    if image.mode == "F":
        ranges = {1.0: 255.0, 255.0: 1.0, 65535.0: 1 / 256}
    elif image.mode == "I" and image.format != "PNG":
        ranges = {255.0: 1.0, 65535.0: 1 / 256}
    else:
        ranges = {65535.0: 1 / 256}
    top = next((top for top in ranges if least >= 0 and most <= top), None)
    if top is None:
        raise ValueError(f"its values range from {least:g} to {most:g}, and must lie in 0..1, 0..255 or 0..65535")
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = top - values
    return (values * ranges[top]).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    """CIELAB to sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")  # type: ignore[return-value]


def open_stored(stored: bytes | str | dict[str, Any] | None, folder: str = "") -> Image.Image:
    """Open an image that a table holds: its bytes, its path, or ``{"bytes": ..., "path": ...}``.

    Args:
        stored: one row of a column of images.
        folder: where relative paths start.
    """
    if isinstance(stored, dict):
        stored = stored.get("bytes") or stored.get("path")
    if not stored:
        raise ValueError("there is none")
    return Image.open(os.path.join(folder, stored) if isinstance(stored, str) else io.BytesIO(stored))


def warn(text: str) -> None:
    """Print a warning at once; worker processes use it."""
    print(f"Warning: {text}.", file=sys.stderr, flush=True)
