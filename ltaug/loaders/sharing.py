"""A long-tailed data set as others can have it: encoded samples, labels, and where each was in the full set."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError

__all__ = ["SOURCE_INDEX", "SharedData", "SharedSplit", "encode_image", "encode_sound", "share_pixels", "source_index"]

SOURCE_INDEX = "source_index"
"""Column of a shared set: the place of each sample in the split of the full set that it was taken from."""


@dataclass
class SharedSplit:
    """Samples of one split, none of them read yet."""

    indices: Tensor
    """Their places in the full set, int64 [N]."""
    labels: Tensor
    """int64 [N]; or bool [N, C], several labels a sample."""
    sample: Callable[[int], tuple[bytes, str]]
    """From 0..N-1 to a file's bytes, as they are stored, and its name."""


@dataclass
class SharedData:
    """What ``shared`` of a recipe's data returns."""

    media: Literal["image", "audio"]
    columns: tuple[str, str]
    """Names of the columns of samples and labels."""
    class_names: Sequence[str]
    splits: Mapping[str, SharedSplit]
    """train, test, and perhaps held_out, which corrections are tuned on ("validation" on the hub)."""


def share_pixels(indices: Tensor, labels: Tensor, images: Tensor) -> SharedSplit:
    """A split whose images are in memory, uint8 [N, H, W, C]: each becomes a PNG file.

    Args:
        indices: places in the full set, int64 [N].
        labels: int64 [N].
        images: the pixels.
    """
    return SharedSplit(indices, labels, lambda k: (encode_image(images[k]), f"{k}.png"))


def source_index(rows: Any) -> Tensor | None:
    """The places of a split's samples in the full set, int64 [N], if it has a column of them; None otherwise."""
    from ltaug.loaders.tables import arrow_column, whole_numbers

    if SOURCE_INDEX not in rows.column_names:
        return None
    numbers = whole_numbers(arrow_column(rows, SOURCE_INDEX))
    return None if numbers is None or (len(numbers) and numbers.min() < 0) else torch.from_numpy(numbers.copy())


def encode_image(image: Any) -> bytes:
    """PNG of a PIL image or of pixels, uint8 [H, W] or [H, W, 1 or 3]: no pixel changes."""
    from PIL import Image

    if isinstance(image, Tensor):
        if image.dtype != torch.uint8:
            raise UserError(f"Samples must be images, of uint8 pixels, to be shared as such, but are {image.dtype}.")
        image = image.numpy()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1:] == (1,) else image)
    data = io.BytesIO()
    image.save(data, format="png")
    return data.getvalue()


def encode_sound(sound: Any) -> bytes:
    """A sound's file as it is stored; of samples that are in no file, WAV with every one of them as it is."""
    if isinstance(sound, (str, Path)):
        return Path(os.fspath(sound)).read_bytes()
    if isinstance(sound, (bytes, memoryview)):
        return bytes(sound)
    import soundfile

    samples, rate = sound
    samples = np.asarray(samples)
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    data = io.BytesIO()
    whole = {"int16": "PCM_16", "int32": "PCM_32"}.get(samples.dtype.name)
    soundfile.write(
        data, samples, rate, format="WAV", subtype=whole or ("DOUBLE" if samples.dtype == np.float64 else "FLOAT")
    )
    return data.getvalue()
