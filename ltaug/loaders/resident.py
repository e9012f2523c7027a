"""A whole small set of images, or of any tensors, held in memory or on the device and read in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ltaug._arguments import checked
from ltaug.loaders._base import _ResidentBase
from ltaug.priors import as_array, as_labels
from ltaug.samplers.pair import PairSampler

__all__ = ["ResidentLoader", "random_crop_flip"]


class ResidentLoader(_ResidentBase):
    """Batches of a data set that stays in memory (or on the GPU): images are augmented a batch at a time.

    A drop-in for a ``DataLoader`` over small images: it takes the same samplers and yields ``(inputs, labels)``, or
    ``((inputs, labels), (partner_inputs, partner_labels))`` for a :class:`~ltaug.samplers.PairSampler`. There are no
    workers; one gather a batch replaces the decoding and the Python of an image-by-image pipeline.

    **Same batches on any number of processes.** ``batch_size`` is the *global* batch: every process generates the same
    stream of global batches and takes its own rows, so that N processes together see what one sees. The crops and flips
    are a pure function of (seed, epoch, batch) too, drawn for the global batch: they are the same on one process or
    several, and after resuming.

    Samples that are no images, such as signals float [N, C, T], go through as they are: without ``mean`` and ``std``,
    crops and flips.

    Args:
        images: uint8 [N, H, W, C], or floating point [N, ...] of any other samples; moved to ``device``, and not copied
            when it is there already.
        labels: class indices, int [N].
        batch_size: samples (or pairs) a *global* batch; a multiple of ``num_processes``.
        sampler: any sampler of indices or of index pairs; ``set_epoch`` is passed on. By default the order of the set.
        mean: of images, per channel, of pixels scaled to 0..1.
        std: of images, per channel, of pixels scaled to 0..1.
        crop_padding: pixels of black padding for the random crop; 0 is none.
        flip: mirror every other image, at random.
        drop_last: leave out the last batch of an epoch when it is not full. Without it the last batch may differ in
            size between processes, and be empty on some.
        seed: of the crops and flips.
        device: where the set lives and batches are made.
        num_processes: how many processes share the set.
        process_index: which one this is.

    Raises:
        ValueError: images are neither uint8 [N, H, W, C] with ``mean`` and ``std`` nor floating point without, labels
            do not fit, sizes cannot be divided, or no batch can be formed.

    >>> images = torch.zeros(10, 8, 8, 3, dtype=torch.uint8)
    >>> loader = ResidentLoader(images, torch.arange(10), batch_size=4, mean=[0.5] * 3, std=[0.5] * 3)
    >>> [tuple(inputs.shape) for inputs, labels in loader]
    [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    """

    @checked
    def __init__(
        self,
        images: Tensor | np.ndarray[Any, Any],
        labels: Tensor | Sequence[int],
        *,
        batch_size: int,
        sampler: Sampler[int] | PairSampler | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        images = as_array(images, "images")
        plain = images.is_floating_point()
        if not plain and (images.dtype != torch.uint8 or images.ndim != 4):
            raise ValueError(
                f"`images` must be uint8 [N, H, W, C], or floating point for other samples, but are {images.dtype} of "
                f"shape {list(images.shape)}."
            )
        if plain and not (mean is None and std is None and crop_padding == 0 and not flip):
            raise ValueError(
                "`mean`, `std`, `crop_padding` and `flip` are for uint8 images, but `images` are "
                f"{images.dtype}, which go through as they are. Leave them out."
            )
        if not plain and (mean is None or std is None):
            raise ValueError("`mean` and `std` of the pixels are needed for uint8 images.")
        labels = as_labels(labels)
        if len(labels) != len(images):
            raise ValueError(
                f"`labels` must hold one class an image, but there are {len(labels)} and {len(images)} images."
            )
        super().__init__(labels, batch_size, sampler, drop_last, seed, device, num_processes, process_index)
        self.images = images.to(device, torch.float32) if plain else images.to(device)
        self.crop_padding = crop_padding
        self.flip = flip
        if mean is None or std is None:
            return
        channels = images.shape[3]
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"`mean` and `std` need {channels} values, one a channel, but have {len(mean)} and {len(std)}."
            )
        if not all(value > 0 for value in std):
            raise ValueError(f"`std` must be positive, but is {list(std)}.")
        if crop_padding < 0:
            raise ValueError(f"`crop_padding` must not be negative, but is {crop_padding}.")
        # (pixel / 255 - mean) / std as one multiplication and one addition, laid out as whole image rows: a vector of C
        # = 3 numbers along the last dimension would be broadcast three elements at a time.
        width = images.shape[2]
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._scale = scale.float().repeat(width).to(device)
        self._offset = offset.float().repeat(width).to(device)

    def _load(self, indices: Tensor, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.images.device, non_blocking=True)
        pixels = self.images.index_select(0, indices)  # copies whole images; indexing goes byte by byte
        if pixels.is_floating_point():
            return pixels, self.labels[indices]
        if self.crop_padding or self.flip:
            pixels = _crop_flip(pixels, *self._crops_and_flips(batch, stream), self.crop_padding)
        size, height, width, channels = pixels.shape
        inputs = pixels.view(size, height, width * channels).float()
        inputs = inputs.mul_(self._scale).add_(self._offset)
        # [N, H, W, C] in memory seen as [N, C, H, W] is what torch calls channels_last.
        return inputs.view(size, height, width, channels).permute(0, 3, 1, 2), self.labels[indices]

    def _crops_and_flips(self, batch: int, stream: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row offset, column offset and mirror flag of this process's samples, drawn for the global batch."""
        generator, full = self._random(batch, stream)
        offsets = generator.integers(2 * self.crop_padding + 1, size=(2, full))
        mirrored = generator.random(full) < (0.5 if self.flip else 0.0)
        low, high = self._share(full)
        device = self.images.device
        rows, columns = torch.from_numpy(offsets[:, low:high]).to(device, non_blocking=True)
        return rows, columns, torch.from_numpy(mirrored[low:high]).to(device, non_blocking=True)


@checked
def random_crop_flip(images: Tensor, rows: Tensor, columns: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Crop every image of a batch at its own place out of its zero-padded self, and mirror some, in one gather.

    Args:
        images: [N, H, W, C].
        rows: where the crop starts in the padded image, int [N], in 0..2 * padding.
        columns: likewise.
        mirrored: which images are flipped left to right, after the crop, bool [N].
        padding: pixels of zeros on each side.

    Returns:
        A new tensor like ``images``.

    >>> image = torch.tensor([[1, 2], [3, 4]]).view(1, 2, 2, 1)
    >>> cropped = random_crop_flip(image, torch.tensor([1]), torch.tensor([2]), torch.tensor([False]), padding=1)
    >>> cropped[0, :, :, 0].tolist()
    [[2, 0], [4, 0]]
    """
    if images.ndim != 4:
        raise ValueError(f"`images` must have shape [N, H, W, C], but have {list(images.shape)}.")
    if padding < 0:
        raise ValueError(f"`padding` must not be negative, but is {padding}.")
    for name, given, what in (("rows", rows, "int"), ("columns", columns, "int"), ("mirrored", mirrored, "bool")):
        fits = given.dtype == torch.bool if what == "bool" else given.dtype in (torch.int32, torch.int64)
        if given.shape != images.shape[:1] or not fits:
            raise ValueError(
                f"`{name}` must be {what} [{len(images)}], one an image, but is {given.dtype} {list(given.shape)}."
            )
        if what == "int" and given.device.type == "cpu" and len(given):
            low, high = (int(end) for end in given.aminmax())
            if low < 0 or high > 2 * padding:
                raise ValueError(
                    f"`{name}` must lie in 0..{2 * padding}, twice the `padding`, but range from {low} to {high}."
                )
    return _crop_flip(images, rows, columns, mirrored, padding)


def _crop_flip(images: Tensor, rows: Tensor, columns: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Compute :func:`random_crop_flip` of arguments that are known to be right."""
    size, height, width, channels = images.shape
    full_height, full_width = height + 2 * padding, width + 2 * padding
    # The batch and its mirror image, so that one gather serves both. In a mirror image a crop starts
    # at the column counted from the other side.
    padded = images.new_zeros(2, size, full_height, full_width, channels)
    inner = padded[:, :, padding : padding + height, padding : padding + width]
    inner[0], inner[1] = images, images.flip(2)
    columns = torch.where(mirrored, 2 * padding - columns, columns)
    sample = torch.arange(size, device=images.device) + mirrored * size
    row = (sample * full_height + rows).view(-1, 1) + torch.arange(height, device=images.device)
    start = row * full_width + columns.view(-1, 1)
    # Every run of `width` pixels in memory, overlapping: one index for a whole row of a crop instead of one a pixel.
    count = max(0, padded.numel() // channels - width + 1)  # none for an empty batch
    runs = padded.view(-1).as_strided((count, width * channels), (channels, 1))
    return runs.index_select(0, start.view(-1)).view(size, height, width, channels)
