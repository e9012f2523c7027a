"""scikit-learn's handwritten digits: a data set without files, for tests and quick starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ltaug.errors import UserError
from ltaug.longtail import subsample
from ltaug.priors import class_counts
from ltaug.vision.image_set import Images, name_block

__all__ = ["Digits", "read_digits"]


@dataclass
class Digits:
    """1,797 grey digits of 8x8 pixels, split into a training and a test set that are both balanced."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    """[1797, 8, 8]."""
    labels: Tensor
    """int64 [1797], 0..9."""
    train: Tensor
    """Indices of the training samples, class after class; equally many of each class."""
    test: Tensor
    """Indices of the test samples, class after class."""

    def images(self, indices: Tensor, size: int = 16) -> Tensor:
        """Digits of some indices with each pixel repeated, uint8 [N, size, size, 1]; size is a multiple of 8."""
        pixels = torch.from_numpy(self.pixels)[indices, :, :, None]
        return pixels.repeat_interleave(size // 8, dim=1).repeat_interleave(size // 8, dim=2)

    def enlarged(self, indices: Tensor, size: int = 64) -> Images:
        """Digits of some indices as images in colour, interpolated to size x size pixels."""
        names = name_block(f"digit {k}" for k in indices.tolist())
        return Images(self.labels[indices], names, indices, _Enlarge(self.pixels, size))


class _Enlarge:
    """Opens small grey images as larger ones."""

    def __init__(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], size: int) -> None:
        self.pixels, self.size = pixels, size

    def __call__(self, row: int, name: str) -> Image.Image:
        return Image.fromarray(self.pixels[row]).resize((self.size, self.size), Image.Resampling.BILINEAR)


def read_digits(test_per_class: int = 60, seed: int = 0) -> Digits:
    """Split the digits: `test_per_class` of each class to test on, equally many of each class to train on.

    >>> digits = read_digits()
    >>> len(digits.train), len(digits.test)
    (1140, 600)
    """
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    labels = torch.from_numpy(targets).long()
    smallest = int(class_counts(labels, 10).min())
    if not 1 <= test_per_class < smallest:
        raise UserError(
            f"`test_per_class` must lie in 1..{smallest - 1}, since the smallest class of the digits has {smallest} "
            f"images, but is {test_per_class}."
        )
    test = subsample(labels, [test_per_class] * 10, seed=seed)
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    # Every class gets as many training samples as the smallest has, so that class 0 can be the largest.
    size = int(class_counts(labels[rest], 10).min())
    train = rest[subsample(labels[rest], [size] * 10, seed=seed)]
    return Digits((pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels, train, test)
