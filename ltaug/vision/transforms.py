"""What images go through: in worker processes from PIL images to uint8 tensors, on the device to normalised ones.

Tensors of 8 bits are a quarter of what floats would be to hand over. Their channels are the last in memory, as Pillow
has them and as convolutions like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from ltaug.preprocessing import LONGEST

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Normalize",
    "TestTransform",
    "TrainTransform",
    "collate_images",
    "jitter",
    "random_box",
    "square_box",
    "to_pixels",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = 0.4
"""Strength of brightness, contrast and saturation in the released codes of classifier balancing and MiSLAS."""
LUMA = (0.2989, 0.587, 0.114)
"""Share of red, green and blue in grey, as torchvision has it."""

Augmentation = Literal["plain", "color", "randaugment", "crop", "flip"]
"""Names of what a training image goes through."""


def to_pixels(image: Image.Image) -> Tensor:
    """Turn a PIL image in RGB into a tensor, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class TrainTransform:
    """Augment a training image by torch's generator: from a PIL image in RGB to uint8 [3, size, size].

    Args:
        size: pixels of a side.
        augmentation: plain: random resized crop and flip; color: and colour jitter, as published for ImageNet-LT;
            randaugment: plain and RandAugment; crop: of the image resized to 8/7 of the size (256 for 224), and flip;
            flip: the whole image, flipped or not.
    """

    def __init__(self, size: int, augmentation: Augmentation = "plain") -> None:
        self.size, self.augmentation = size, augmentation
        self.randaugment = v2.RandAugment()

    def __call__(self, image: Image.Image) -> Tensor:
        """Crop and augment an image in RGB: uint8 [3, size, size]."""
        draw = square_box if self.augmentation == "crop" else random_box
        box = (0, 0, *image.size) if self.augmentation == "flip" else draw(*image.size)
        if self.augmentation == "randaugment":
            # On PIL images, as published; on tensors it takes three times as long.
            resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            pixels = to_pixels(self.randaugment(resized))
        else:
            # Cropped before it becomes a tensor, and interleaved as Pillow has it: torch resizes that fastest.
            cropped, size = to_pixels(image.crop(box))[None], (self.size, self.size)
            pixels = nn.functional.interpolate(cropped, size, mode="bilinear", antialias=True)[0]
        draws = torch.rand(7)
        if draws[0] < 0.5:
            pixels = pixels.flip(-1)
        return jitter(pixels, draws[1:]) if self.augmentation == "color" else pixels


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom of a crop of 8 to 100 % of the area, with sides as 3:4 to 4:3 (log-uniform).

    As torchvision's ``RandomResizedCrop``, in a tenth of its time: the first of ten draws that fits into the image, or
    the largest central crop.
    """
    for share, shape, x, y in torch.rand(10, 4, dtype=torch.float64).tolist():
        area, ratio = width * height * (0.08 + 0.92 * share), (3 / 4) ** (1 - 2 * shape)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def square_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom of a square crop whose side is 7/8 of the shorter one."""
    side = max(1, round(0.875 * min(width, height)))
    x, y = torch.rand(2, dtype=torch.float64).tolist()
    left, top = int(x * (width - side + 1)), int(y * (height - side + 1))
    return left, top, left + side, top + side


def jitter(pixels: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of an image, uint8 [3, H, W], in a random order.

    As torchvision's ``ColorJitter``, which takes twice the time: each step blends the image with another one, black,
    its mean grey or its grey, f x + (1 - f) other, clamped; f is in 0.6..1.4.

    Args:
        pixels: the image.
        draws: random numbers in 0..1, [6]: three for the factors, three whose order is that of the steps.
    """
    image = pixels.contiguous().float()
    factors = (1 + JITTER * (2 * draws[:3] - 1)).tolist()
    for step in draws[3:].argsort().tolist():
        factor = factors[step]
        image.mul_(factor)  # first, since it is linear: greys are of what it leaves
        if step == 1:
            image.add_(float(image.mean((1, 2)) @ image.new_tensor(LUMA)) * (1 / factor - 1))
        elif step == 2:
            red, green, blue = image.unbind()
            grey = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
            image.add_(grey.mul_(1 / factor - 1))
        image.clamp_(0, 255)
    return torch.from_numpy(image.round_().numpy().astype(np.uint8))  # torch's own cast takes far longer


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
        """Crop the centre of an image in RGB: uint8 [3, size, size]."""
        short = min(image.size)
        if not self.whole and max(image.size) > LONGEST * short:  # resized whole, a panorama would fill the memory
            width, height = (min(side, LONGEST * short) for side in image.size)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        return self.transform(to_pixels(image))  # type: ignore[no-any-return]  # torchvision's


def collate_images(samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
    """Put images and labels into batches, uint8 [N, 3, H, W] with channels last in memory, and int64 [N] or rows."""
    images = torch.stack([image.permute(1, 2, 0) for image, _ in samples])
    labels = [label for _, label in samples]
    rows = isinstance(labels[0], Tensor)
    return images.permute(0, 3, 1, 2), torch.stack(labels) if rows else torch.tensor(labels)


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
        self.scale = 1 / (255 * torch.tensor(std))
        self.offset = -torch.tensor(mean) / torch.tensor(std)
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch, uint8 [N, C, H, W], which stays as it is."""
        size, channels, height, width = images.shape
        # Whole rows with channels last: C = 3 numbers alone would be broadcast three elements at a time.
        rows = images.permute(0, 2, 3, 1).reshape(size, height, width * channels)
        scale, offset = (values.repeat(width).to(images.device) for values in (self.scale, self.offset))
        pixels = rows.float().mul_(scale).add_(offset).view(size, height, width, channels).permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=self.format)
