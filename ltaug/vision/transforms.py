"""What images go through: in worker processes from PIL images to uint8 tensors, on the device to normalised ones.

Tensors of 8 bits are a quarter of what floats would be to hand over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augmentation", "Normalize", "TestTransform", "TrainTransform", "to_pixels"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = 0.4
"""Strength of brightness, contrast and saturation in the released codes of classifier balancing and MiSLAS."""
LONGEST = 4
"""Longest side over the shortest one that is resized; of longer images the central part is enough."""

Augmentation = Literal["plain", "color", "randaugment", "flip"]


def to_pixels(image: Image.Image) -> Tensor:
    """Turn a PIL image in RGB into a tensor, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class TrainTransform:
    """Augment a training image by torch's generator: from a PIL image in RGB to uint8 [3, size, size].

    Args:
        size: pixels of a side.
        augmentation: plain: random resized crop and flip; color: and colour jitter, as published for ImageNet-LT;
            randaugment: plain and RandAugment; flip: the whole image, flipped or not.
    """

    def __init__(self, size: int, augmentation: Augmentation = "plain") -> None:
        self.size, self.augmentation = size, augmentation
        self.jitter = v2.ColorJitter(JITTER, JITTER, JITTER)
        self.randaugment = v2.RandAugment()

    def __call__(self, image: Image.Image) -> Tensor:
        left, top, width, height = 0, 0, *image.size
        if self.augmentation != "flip":
            top, left, height, width = v2.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        box = (left, top, left + width, top + height)
        if self.augmentation == "randaugment":
            # On PIL images, as published; on tensors it takes three times as long.
            resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            pixels = to_pixels(self.randaugment(resized))
        else:
            # Cropped before it becomes a tensor, and interleaved as Pillow has it: torch resizes that fastest.
            cropped, size = to_pixels(image.crop(box))[None], (self.size, self.size)
            pixels = nn.functional.interpolate(cropped, size, mode="bilinear", antialias=True)[0]
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return self.jitter(pixels) if self.augmentation == "color" else pixels


class TestTransform:
    """Resize a test image and crop its centre: from a PIL image in RGB to uint8 [3, size, size].

    Args:
        size: pixels of a side.
        share: of the shorter side of the image that the crop has; 1 takes the whole image, squeezed to a square.
    """

    __test__ = False  # for pytest

    def __init__(self, size: int, share: float = 0.875) -> None:
        resize = v2.Resize((size, size)) if share == 1 else v2.Resize(round(size / share))
        self.whole = share == 1
        self.transform = v2.Compose([resize, v2.CenterCrop(size)])

    def __call__(self, image: Image.Image) -> Tensor:
        short = min(image.size)
        if not self.whole and max(image.size) > LONGEST * short:  # resized whole, a panorama would fill the memory
            width, height = (min(side, LONGEST * short) for side in image.size)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return self.transform(to_pixels(image))  # type: ignore[no-any-return]  # torchvision's


class Normalize:
    """Turn uint8 images [N, C, H, W] into float32, (pixel / 255 - mean) / std, on the device where they are.

    Args:
        mean: per channel, of pixels in 0..1.
        std: likewise.
        channels_last: memory layout of the result.

    >>> Normalize([0.5], [0.25])(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
    2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels_last: bool = False) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        pixels: Any = images.to(torch.float32, memory_format=self.format)
        return pixels.mul_(1 / (255 * std)).add_(-mean / std)  # type: ignore[no-any-return]
