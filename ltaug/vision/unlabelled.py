"""Readers of images and scenes without labels: from what is stored to what a network, or an exported file, takes."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from ltaug.preprocessing import preprocessing_module
from ltaug.unlabelled import Decoded, SampleReader, same_sizes
from ltaug.vision.decoding import decode, open_image

# torchvision, which takes seconds to import, is imported by what needs it: small images do not.

__all__ = ["ImageReader", "SceneReader", "SmallImageReader"]


class _PictureReader(SampleReader):
    """Opens pictures, and normalises batches of them.

    Args:
        preprocessing: of a run's ``ltaug.json``.
        raw: leave them as an exported file takes them, which has the preprocessing inside.
    """

    normalize: Callable[[Tensor], Tensor]

    def __init__(self, preprocessing: Mapping[str, Any], raw: bool = False) -> None:
        self.preprocessing, self.raw = dict(preprocessing), raw

    def read(self, stored: Any) -> Decoded:
        """Open and decode a picture.

        Raises:
            ValueError: it cannot be read; the message is the reason.
        """
        try:
            return self._decoded(open_image(stored if isinstance(stored, str) else io.BytesIO(stored)))
        except UnidentifiedImageError as error:
            raise ValueError("of no kind that Pillow knows") from error
        except Exception as error:  # of many types, from the depths of Pillow
            raise ValueError(str(getattr(error, "strerror", None) or error)) from error

    @abstractmethod
    def _decoded(self, image: Image.Image) -> Decoded:
        """What :meth:`collate` takes, of an opened picture."""

    def collate(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Stack neighbours of one size."""
        return same_sizes(samples)

    def inputs(self, samples: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Put a batch on the device, normalised unless it is raw."""
        moved = [each.to(device, non_blocking=True) for each in samples]
        return moved if self.raw else [self.normalize(each) for each in moved]


class SmallImageReader(_PictureReader):
    """Images of one small size, uint8 [H, W, C]; others are resized to it, which a note says."""

    batch_size = 250

    def __init__(self, preprocessing: Mapping[str, Any], raw: bool = False) -> None:
        super().__init__(preprocessing, raw)
        self._module = preprocessing_module(preprocessing)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise a batch, where it is."""
        found: Tensor = self._module.to(images.device)(images)
        return found

    def _decoded(self, image: Image.Image) -> Decoded:
        rgb, note = decode(image)
        height, width, channels = self.preprocessing["size"]
        if channels == 1:
            rgb = rgb.convert("L")
        if rgb.size != (width, height):
            note = note or f"has {rgb.width} x {rgb.height} pixels, and is resized to {width} x {height}"
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        return Decoded(torch.from_numpy(np.array(rgb)).view(height, width, channels), note)


class ImageReader(_PictureReader):
    """Images of any size: the centre, uint8 [3, S, S], as the recipe's test images have it; raw uint8 [H, W, 3]."""

    def __init__(self, preprocessing: Mapping[str, Any], raw: bool = False) -> None:
        from ltaug.vision.transforms import Normalize, TestTransform

        super().__init__(preprocessing, raw)
        self.batch_size = 4 if raw else 64  # photographs as they are take tens of megabytes each
        self.transform = TestTransform(preprocessing["image_size"], preprocessing["test_resize"])
        self.normalize = Normalize(preprocessing["mean"], preprocessing["std"], channels_last=True)

    def _decoded(self, image: Image.Image) -> Decoded:
        rgb, note = decode(image)
        return Decoded(torch.from_numpy(np.array(rgb)) if self.raw else self.transform(rgb), note)


class SceneReader(_PictureReader):
    """Pictures or depth images of scenes: resized, uint8 [C, height, width]; raw [H, W, 3], or metres [H, W]."""

    batch_size = 4

    def __init__(self, preprocessing: Mapping[str, Any], raw: bool = False) -> None:
        from ltaug.vision.segmentation import encode_depth, read_plane
        from ltaug.vision.transforms import Normalize

        super().__init__(preprocessing, raw)
        self._encode, self._plane = encode_depth, read_plane
        self.size = preprocessing["height"], preprocessing["width"]
        self.normalize = Normalize(preprocessing["mean"], preprocessing["std"], channels_last=True)

    def _decoded(self, image: Image.Image) -> Decoded:
        width, height = image.size
        if self.preprocessing["modality"] == "rgb":
            rgb, note = decode(image)
            pixels = torch.from_numpy(np.array(rgb))
            return Decoded(
                pixels if self.raw else self._resized(pixels.permute(2, 0, 1)), note, (rgb.height, rgb.width)
            )
        depth = self._plane(image).astype(np.float32) * self.preprocessing["depth_scale"]
        metres = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
        if self.raw:
            return Decoded(torch.from_numpy(metres), "", (height, width))
        encoded = Image.fromarray(self._encode(metres)).resize(self.size[::-1], Image.Resampling.NEAREST)
        return Decoded(torch.from_numpy(np.array(encoded))[None], "", (height, width))

    def _resized(self, pixels: Tensor) -> Tensor:
        """As training scenes are."""
        if pixels.shape[1:] == self.size:
            return pixels
        return nn.functional.interpolate(pixels[None], self.size, mode="bilinear", antialias=True)[0]
