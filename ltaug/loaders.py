"""A whole small data set, of images or of sound, held in memory or on the device and read in augmented batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from ltaug.priors import as_labels
from ltaug.samplers.pair import PairSampler, sampler_indices

__all__ = ["ResidentLoader", "ResidentWaveformLoader", "random_crop_flip"]


class _ResidentBase(ABC):
    """What the loaders share: the order of an epoch, its batches, every process's rows of them, and random numbers."""

    def __init__(
        self,
        labels: Tensor,
        *,
        batch_size: int,
        sampler: Sampler[int] | PairSampler | None,
        drop_last: bool,
        min_last: int = 1,
        seed: int,
        device: torch.device | str,
        num_processes: int,
        process_index: int,
    ) -> None:
        if not 0 <= process_index < num_processes:
            raise ValueError(f"`process_index` must lie in 0..{num_processes - 1}, but is {process_index}.")
        if batch_size < 1 or batch_size % num_processes:
            raise ValueError(
                f"`batch_size`={batch_size} is the global batch and must be a positive multiple of the "
                f"{num_processes} processes."
            )
        if not 1 <= min_last <= batch_size:
            raise ValueError(f"`min_last` must lie in 1..{batch_size}, the `batch_size`, but is {min_last}.")
        self.labels = labels.to(device)
        self.sampler = SequentialSampler(range(len(labels))) if sampler is None else sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.min_last = min_last
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.epoch = 0
        if len(self) == 0:
            reason = "`drop_last`" if drop_last or min_last == 1 else f"`min_last`={min_last}"
            raise ValueError(
                f"`batch_size`={batch_size} exceeds the {self._epoch_size()} samples of an epoch, "
                f"and {reason} leaves no batch. Lower `batch_size`."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next iteration."""
        self.epoch = int(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(self._epoch_size(), self.batch_size)
        return full + (not self.drop_last and rest >= self.min_last)

    def batch_indices(self, batch: int, epoch_indices: Tensor) -> Tensor:
        """This process's rows of a global batch: contiguous, as even as they can be."""
        rows = epoch_indices[batch * self.batch_size : (batch + 1) * self.batch_size]
        low, high = self._share(len(rows))
        return rows[low:high]

    def __iter__(self) -> Iterator[Any]:
        indices = sampler_indices(self.sampler)
        for batch in range(len(self)):
            rows = self.batch_indices(batch, indices)
            if rows.ndim == 2:
                yield self._load(rows[:, 0], batch, 0), self._load(rows[:, 1], batch, 1)
            else:
                yield self._load(rows, batch, 0)

    @abstractmethod
    def _load(self, indices: Tensor, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of this process's rows of a batch; stream 1 is that of the partners."""

    def _random(self, batch: int, stream: int) -> tuple[np.random.Generator, int]:
        """A generator of its own for every batch, and how many samples the global batch has."""
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, batch, stream)))
        return generator, min(self.batch_size, self._epoch_size() - batch * self.batch_size)

    def _epoch_size(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a Sampler without a length cannot be resident

    def _share(self, size: int) -> tuple[int, int]:
        return size * self.process_index // self.num_processes, size * (self.process_index + 1) // self.num_processes


class ResidentLoader(_ResidentBase):
    """Batches of a data set that stays in memory (or on the GPU) as uint8, cropped, flipped and normalised a batch at a
    time.

    A drop-in for a ``DataLoader`` over small images: it takes the same samplers and yields ``(inputs, labels)``, or
    ``((inputs, labels), (partner_inputs, partner_labels))`` for a :class:`~ltaug.samplers.PairSampler`. There are no
    workers; one gather a batch replaces the decoding and the Python of an image-by-image pipeline.

    **Same batches on any number of processes.** ``batch_size`` is the *global* batch: every process generates the same
    stream of global batches and takes its own rows, so that N processes together see what one sees. The crops and flips
    are a pure function of (seed, epoch, batch) too, drawn for the global batch: they are the same on one process or
    several, and after resuming.

    Args:
        images: uint8 [N, H, W, C], moved to ``device``; not copied when it is there already.
        labels: class indices, int [N].
        batch_size: samples (or pairs) a *global* batch; a multiple of ``num_processes``.
        sampler: any sampler of indices or of index pairs; ``set_epoch`` is passed on. By default the order of the set.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, likewise.
        crop_padding: pixels of black padding for the random crop; 0 is none.
        flip: mirror every other image, at random.
        drop_last: leave out the last batch of an epoch when it is not full. Without it the last batch may differ in
            size between processes, and be empty on some.
        seed: of the crops and flips.
        device: where the set lives and batches are made.
        num_processes: how many processes share the set.
        process_index: which one this is.

    Raises:
        ValueError: images are not uint8 [N, H, W, C], labels do not fit, sizes cannot be divided, or no batch can be
            formed.

    >>> images = torch.zeros(10, 8, 8, 3, dtype=torch.uint8)
    >>> loader = ResidentLoader(images, torch.arange(10), batch_size=4, mean=[0.5] * 3, std=[0.5] * 3)
    >>> [tuple(inputs.shape) for inputs, labels in loader]
    [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | Sequence[int],
        *,
        batch_size: int,
        sampler: Sampler[int] | PairSampler | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        crop_padding: int = 0,
        flip: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"`images` must be uint8 [N, H, W, C], but are {images.dtype} of shape {list(images.shape)}."
            )
        labels = as_labels(labels)
        if len(labels) != len(images):
            raise ValueError(
                f"`labels` must hold one class an image, but there are {len(labels)} and {len(images)} images."
            )
        channels = images.shape[3]
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"`mean` and `std` need {channels} values, one a channel, but have {len(mean)} and {len(std)}."
            )
        if not all(value > 0 for value in std):
            raise ValueError(f"`std` must be positive, but is {list(std)}.")
        if crop_padding < 0:
            raise ValueError(f"`crop_padding` must not be negative, but is {crop_padding}.")
        super().__init__(
            labels,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            seed=seed,
            device=device,
            num_processes=num_processes,
            process_index=process_index,
        )
        self.images = images.to(device)
        self.crop_padding = crop_padding
        self.flip = flip
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
        if self.crop_padding or self.flip:
            pixels = random_crop_flip(pixels, *self._crops_and_flips(batch, stream), self.crop_padding)
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


class ResidentWaveformLoader(_ResidentBase):
    r"""Batches of a data set of sound that stays in memory (or on the GPU) as int16: random crops out of recordings of
    any lengths, and optionally a random stretch of time.

    The counterpart of :class:`ResidentLoader` for waveforms, with the same samplers, pairs, epochs and processes: it
    yields ``(inputs, labels)``, or two of these for a :class:`~ltaug.samplers.PairSampler`; inputs are float32 [N,
    ``crop_length``], samples divided by 32768. The preparation is that of between-class learning (Tokozume, Ushiku and
    Harada, *Learning from Between-class Examples for Deep Sound Recognition*, ICLR 2018):

    1. a clip of T samples is stretched by :math:`s = \texttt{max\_scale}^u, u \sim U(-1, 1)`, to
       :math:`\lfloor T s \rfloor` samples; sample k is read at k / s, linearly interpolated, and the last sample is
       repeated where a neighbour is missing;
    2. zeros of length ``padding`` are put on both sides, and more at the end of a clip that is still shorter than a
       crop;
    3. a crop starts at any place with the same probability.

    Their random gain acts on the mixed sound, so that it has no place here.

    With ``crops`` = K > 1, for testing, nothing is random: of a clip padded to P samples, crop i of 0..K-1 starts at
    :math:`i \lfloor (P - \texttt{crop\_length}) / (K - 1) \rfloor`, and inputs are [N, K, ``crop_length``].

    The crops and stretches are a pure function of (seed, epoch, batch), drawn for the global batch: several processes
    see together what one sees. Samples and padding take two bytes each in memory, and neighbouring clips share theirs:
    one ``padding`` a clip.

    Args:
        waveforms: int16 [T] for each clip, or int16 [N, T] for all; copied to ``device``.
        labels: class indices, int [N].
        batch_size: clips (or pairs) a *global* batch; a multiple of ``num_processes``.
        crop_length: samples of a crop.
        sampler: any sampler of indices or of index pairs; ``set_epoch`` is passed on. By default the order of the set.
        padding: zeros on each side of a clip; by default ``crop_length // 2``.
        max_scale: the greatest stretch, at least 1; 1 is none.
        crops: 1 for one random crop a clip, more for that many equally spaced ones.
        drop_last: leave out the last batch of an epoch when it is not full.
        min_last: leave out the last batch when it has fewer samples than this, e.g. ``2 * num_processes`` where batch
            normalisation needs two on every process.
        seed: of the crops and stretches.
        device: where the set lives and batches are made.
        num_processes: how many processes share the set.
        process_index: which one this is.

    Raises:
        ValueError: waveforms are not int16 or have no samples, labels do not fit, ``max_scale`` is given with several
            crops, sizes are out of range or cannot be divided, or no batch can be formed.

    >>> waveforms = [torch.full((length,), 16384, dtype=torch.int16) for length in (5, 8, 3)]
    >>> loader = ResidentWaveformLoader(waveforms, [0, 1, 1], batch_size=2, crop_length=6)
    >>> [tuple(inputs.shape) for inputs, labels in loader]
    [(2, 6), (1, 6)]
    >>> loader = ResidentWaveformLoader(waveforms[:1], [0], batch_size=1, crop_length=4, padding=2, crops=2)
    >>> next(iter(loader))[0].tolist()
    [[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]]
    """

    def __init__(
        self,
        waveforms: Sequence[Tensor | np.ndarray[Any, Any]] | Tensor | np.ndarray[Any, Any],
        labels: Tensor | Sequence[int],
        *,
        batch_size: int,
        crop_length: int,
        sampler: Sampler[int] | PairSampler | None = None,
        padding: int | None = None,
        max_scale: float = 1.0,
        crops: int = 1,
        drop_last: bool = False,
        min_last: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        clips = [clip.cpu().numpy() if isinstance(clip, Tensor) else np.asarray(clip) for clip in waveforms]
        if not clips:
            raise ValueError("`waveforms` is empty.")
        for k, clip in enumerate(clips):
            if clip.dtype != np.int16 or clip.ndim != 1 or not clip.size:
                raise ValueError(
                    f"`waveforms` must be int16 of shape [T] each, with at least one sample, but number {k} is "
                    f"{clip.dtype} of shape {list(clip.shape)}."
                )
        labels = as_labels(labels)
        if len(labels) != len(clips):
            raise ValueError(
                f"`labels` must hold one class a waveform, but there are {len(labels)} and {len(clips)} waveforms."
            )
        if crop_length < 1:
            raise ValueError(f"`crop_length` must be at least 1, but is {crop_length}.")
        padding = crop_length // 2 if padding is None else padding
        if padding < 0:
            raise ValueError(f"`padding` must not be negative, but is {padding}.")
        if not 1 <= max_scale < float("inf"):
            raise ValueError(f"`max_scale` must be at least 1, where 1 is off, but is {max_scale}.")
        if crops < 1:
            raise ValueError(f"`crops` must be at least 1, but is {crops}.")
        if crops > 1 and max_scale > 1:
            raise ValueError(
                f"`crops`={crops} takes equally spaced crops without randomness, but `max_scale` is {max_scale}. "
                "Leave `max_scale` at 1 for testing."
            )
        super().__init__(
            labels,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            min_last=min_last,
            seed=seed,
            device=device,
            num_processes=num_processes,
            process_index=process_index,
        )
        self.crop_length = crop_length
        self.padding = padding
        self.max_scale = max_scale
        self.crops = crops
        # All clips in one row, with the zeros between two neighbours serving both, so that a crop is one run of memory.
        lengths = np.array([clip.size for clip in clips])
        gaps = np.maximum(padding, crop_length - padding - lengths)
        ends = padding + np.cumsum(lengths + gaps) - gaps
        samples = np.zeros(ends[-1] + gaps[-1] + 1, dtype=np.int16)  # one more: a stretch reads one beyond a clip
        for clip, end in zip(clips, ends, strict=True):
            samples[end - clip.size : end] = clip
        self.samples = torch.from_numpy(samples).to(device)
        self._lengths = torch.from_numpy(lengths)
        self._starts = torch.from_numpy(ends - lengths)

    def _load(self, indices: Tensor, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        device = self.samples.device
        labels = self.labels[indices.to(device, non_blocking=True)]
        indices = indices.cpu()
        lengths, starts = self._lengths[indices], self._starts[indices]
        if self.crops > 1:
            room = (lengths + 2 * self.padding - self.crop_length).clamp_(min=0)
            offsets = torch.arange(self.crops) * (room // (self.crops - 1)).view(-1, 1)
            inputs = self._runs((starts.view(-1, 1) + offsets - self.padding).view(-1))
            return inputs.view(len(indices), self.crops, self.crop_length), labels
        scales, places = self._scales_and_places(batch, stream)
        scaled = (lengths * scales).long()
        room = (scaled + 2 * self.padding - self.crop_length).clamp_(min=0)
        offsets = (places * (room + 1)).long() - self.padding
        if self.max_scale == 1:
            return self._runs(starts + offsets), labels
        table = torch.stack([starts, lengths, scaled, offsets, scales], dim=1).to(device, non_blocking=True)
        inputs = torch.empty(len(indices), self.crop_length, device=device)
        # Clip by clip, what is in between stays in a processor's cache: twice as fast. A GPU takes all at once.
        parts = max(1, len(indices)) if device.type == "cpu" else 1
        for rows, out in zip(table.chunk(parts), inputs.chunk(parts), strict=True):
            self._stretched_runs(rows, out)
        return inputs, labels

    def _scales_and_places(self, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        """Stretch and place of the crop, in 0..1, of this process's samples, drawn for the global batch."""
        generator, full = self._random(batch, stream)
        exponents, places = generator.random((2, full))
        scales = self.max_scale ** (2 * exponents - 1)
        low, high = self._share(full)
        return torch.from_numpy(scales[low:high]), torch.from_numpy(places[low:high])

    def _runs(self, starts: Tensor) -> Tensor:
        """Crops of the row of all samples, float32 [len(starts), crop_length]."""
        # Every run of `crop_length` samples in memory, overlapping: one index for a whole crop.
        runs = self.samples.as_strided((len(self.samples) - self.crop_length + 1, self.crop_length), (1, 1))
        crops = runs.index_select(0, starts.to(self.samples.device, non_blocking=True))
        return crops.float().mul_(1 / 32768)

    def _stretched_runs(self, table: Tensor, out: Tensor) -> None:
        """Write crops of stretched clips into ``out``, [N, crop_length]. A row of the table, float64 [N, 5], holds
        where the clip starts among all samples, its length, its length when stretched, where in that the crop starts,
        and the stretch.
        """
        starts, lengths, scaled, offsets, scales = table.T.unsqueeze(2)
        places = offsets + torch.arange(self.crop_length, dtype=torch.float64, device=table.device)
        outside = (places < 0) | (places >= scaled)
        # float64, since in a long clip float32 has no bits left for the fraction. Clamped to the last sample, which has
        # a fraction of 0, so that its right neighbour does not count.
        positions = (places / scales).clamp_(min=0).minimum(lengths - 1)
        left = (positions.long() + starts.long()).view(-1)
        left, right = (self.samples.index_select(0, index).float().view(out.shape) for index in (left, left + 1))
        torch.lerp(left, right, positions.frac().float(), out=out).mul_(1 / 32768).masked_fill_(outside, 0.0)


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
