"""Decoding of image files to 8-bit RGB, whatever they hold."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ltaug.loaders.files import regular, stored_path

__all__ = ["decode", "open_image", "open_stored", "to_rgb", "warn"]

WHITE_IS_ZERO, PHOTOMETRIC, ORIENTATION = 0, 262, 274  # of TIFF and EXIF
OVERSHOOT = 1.25
"""Floats that were resampled or sharpened lie up to this factor beyond their range."""
DARK = 16
"""Images of more than 8 bits without any value above this, of 255, hold 12 bits or less: they were not scaled."""


def decode(image: Image.Image) -> tuple[Image.Image, str]:
    """Decode an image as :func:`to_rgb` does, and say what is odd about the result, if anything is.

    Odd is one colour, where the conversion may have lost the others, and an image of more than 8 bits that is nearly
    black, as of 12 bits that are stored as 16. Images of 8-bit grey or colour need no conversion.
    """
    kind, stored = image.mode, str(getattr(image, "tile", ""))
    if kind in ("RGB", "L") and (";16" in stored or (image.format == "PPM" and "65535" in stored)):
        kind += ";16"  # of which Pillow takes the upper bits
    rgb = to_rgb(image)
    if kind in ("RGB", "L"):
        return rgb, ""
    if len(rgb.getcolors(1) or ()) == 1:
        return rgb, f"stored as {kind}, has one colour only"
    if kind.startswith(("I", "F")) or kind.endswith(";16"):
        brightest = int(np.asarray(rgb).max())
        if brightest <= DARK:
            return rgb, f"stored as {kind}, is nearly black: it has no value above {brightest} of 255"
    return rgb, ""


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an image of any kind to 8-bit RGB, upright.

    * The first frame of an animation, turned as its EXIF orientation says; damaged metadata is ignored.
    * Transparent pixels are laid over white, as a page shows them.
    * 16 bits are divided by 256. 32-bit integers are taken for 8 bits if they lie in 0..255, for 16 bits if they lie in
      0..65535. Floats are taken for 0..1, 0..255 or 0..65535, whichever range is the first to hold them all, give or
      take a quarter of it, beyond which they are clipped.
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
    slack = 1.0
    if image.mode == "F":
        ranges, slack = {1.0: 255.0, 255.0: 1.0, 65535.0: 1 / 256}, OVERSHOOT
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # of which Pillow makes 16 bits
        ranges = {255.0: 1.0, 65535.0: 1 / 256}
    else:
        ranges = {65535.0: 1 / 256}
    top = next((top for top in ranges if most <= slack * top), None)
    if top is None or not least >= (1 - slack) * top:
        raise ValueError(f"its values range from {least:g} to {most:g}, and must lie in 0..1, 0..255 or 0..65535")
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = top - values
    return (values.clip(0, top) * ranges[top]).astype(np.uint8)


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
    found = _stored(stored, folder)
    return open_image(found if isinstance(found, str) else io.BytesIO(found))


def stored_bytes(stored: bytes | str | dict[str, Any] | None, folder: str = "") -> bytes:
    """Read the file of an image that a table holds; see :func:`open_stored`."""
    found = _stored(stored, folder)
    if isinstance(found, bytes):
        return found
    with open(regular(found), "rb") as file:
        return file.read()


def _stored(stored: bytes | str | dict[str, Any] | None, folder: str) -> bytes | str:
    """The bytes of an image that a table holds, or where they are."""
    if isinstance(stored, dict):
        stored = stored.get("bytes") or stored.get("path")
    if not stored:
        raise ValueError("there is none")
    return stored_path(folder, stored) if isinstance(stored, str) else stored


def open_image(source: str | io.BytesIO) -> Image.Image:
    """Open an image, not yet decoded: of paths regular files only.

    Raises:
        ValueError: it is none, or has more pixels than Pillow takes for safe; up to twice as many Pillow only warns.
    """
    image = Image.open(regular(source) if isinstance(source, str) else source)
    most = Image.MAX_IMAGE_PIXELS
    if most and image.width * image.height > most:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, and more than {most:,} may be meant to fill the memory: "
            "shrink it"
        )
    return image


def warn(text: str) -> None:
    """Print a warning at once; worker processes use it."""
    print(f"Warning: {text}.", file=sys.stderr, flush=True)
