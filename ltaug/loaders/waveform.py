"""A whole small set of sound, held in memory or on the device and read in batches of random crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ltaug._arguments import check_dense, checked, shown
from ltaug.loaders._base import _ResidentBase
from ltaug.loaders._generators import global_generators_restored, seed_global_generators
from ltaug.priors import as_labels, has_float64
from ltaug.samplers.pair import PairSampler

__all__ = ["ResidentWaveformLoader"]


class ResidentWaveformLoader(_ResidentBase):
    r"""Batches of random crops of recordings, which stay in memory (or on the GPU) as int16 and may have any lengths.

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

    Its random gain acts on the mixed sound; :class:`ltaug.audio.SoundNetwork` has it.

    Before all this, with ``versions``, one of a clip's versions is drawn, itself or another one, such as of shifted
    pitch; after it, ``augment`` changes each crop by any code. Python's, NumPy's and torch's global generators are
    seeded for each call and put back behind it.

    With ``crops`` = K > 1, for testing, nothing is random: of a clip padded to P samples, crop i of 0..K-1 starts at
    :math:`i \lfloor (P - \texttt{crop\_length}) / (K - 1) \rfloor`, and inputs are [N, K, ``crop_length``].

    With ``hop``, for recordings of any length, windows start every ``hop`` samples of the padded clip until one reaches
    its end: :math:`K = 1 + \lceil (P - \texttt{crop\_length}) / \texttt{hop} \rceil` of them, with zeros behind the
    end. Where ``padding`` is half of a crop, window i is centred on sample ``i * hop``. Each process gets one clip at a
    time, [1, K, ``crop_length``], whose windows overlap in memory: it takes that of the clip, however small the hop.

    All of it is a pure function of (seed, epoch, batch), drawn for the global batch: several processes see together
    what one sees. Samples and padding take two bytes each in memory, and neighbouring clips share theirs:
    one ``padding`` a clip.

    Args:
        waveforms: int16 [T] for each clip, or int16 [N, T] for all; copied to ``device``.
        labels: class indices, int [N]; or multi-hot rows, bool [N, C].
        batch_size: clips (or pairs) a *global* batch; a multiple of ``num_processes``.
        crop_length: samples of a crop.
        sampler: any sampler of indices or of index pairs; ``set_epoch`` is passed on. By default the order of the set.
        padding: zeros on each side of a clip; by default ``crop_length // 2``.
        max_scale: the greatest stretch, at least 1; 1 is none.
        versions: further versions of all clips, lists like ``waveforms``; each of them, and the clips themselves, are
            drawn equally often. Only with one random crop a clip.
        augment: called with a crop, float32 [T] of NumPy, and ``sample_rate``; returns samples of the same shape. The
            transforms and compositions of audiomentations are such callables. Only with one random crop a clip.
        sample_rate: Hz; needed by ``augment`` alone.
        names: of the clips, for messages; by default their numbers.
        crops: 1 for one random crop a clip, more for that many equally spaced ones.
        hop: samples between two windows, up to ``crop_length``; ``batch_size`` is ``num_processes`` then. None is off.
        drop_last: leave out the last batch of an epoch when it is not full.
        min_last: leave out the last batch when it has fewer samples than this, e.g. ``2 * num_processes`` where batch
            normalisation needs two on every process.
        seed: of the crops and stretches.
        device: where the set lives and batches are made.
        num_processes: how many processes share the set.
        process_index: which one this is.

    Raises:
        ValueError: waveforms are not int16 or have no samples, labels do not fit, ``max_scale`` is given with several
            crops or a hop, sizes are out of range or cannot be divided, or no batch can be formed; while iterating,
            ``augment`` fails or returns something else than finite samples of its input's shape.

    >>> waveforms = [torch.full((length,), 16384, dtype=torch.int16) for length in (5, 8, 3)]
    >>> loader = ResidentWaveformLoader(waveforms, [0, 1, 1], batch_size=2, crop_length=6)
    >>> [tuple(inputs.shape) for inputs, labels in loader]
    [(2, 6), (1, 6)]
    >>> loader = ResidentWaveformLoader(waveforms[:1], [0], batch_size=1, crop_length=4, padding=2, crops=2)
    >>> next(iter(loader))[0].tolist()
    [[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]]
    >>> loader = ResidentWaveformLoader(waveforms, [0, 1, 1], batch_size=1, crop_length=4, hop=2)
    >>> [tuple(inputs.shape) for inputs, labels in loader]
    [(1, 4, 4), (1, 5, 4), (1, 3, 4)]
    """

    @checked
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
        versions: Sequence[Sequence[Tensor | np.ndarray[Any, Any]]] = (),
        augment: Callable[[np.ndarray[Any, Any], int], Any] | None = None,
        sample_rate: int | None = None,
        names: Sequence[str] | None = None,
        crops: int = 1,
        hop: int | None = None,
        drop_last: bool = False,
        min_last: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        clips = _as_clips(waveforms, "waveforms")
        if not (isinstance(labels, Tensor) and labels.dtype == torch.bool and labels.ndim == 2):
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
        if (crops > 1 or hop is not None) and (len(versions) or augment is not None):
            name = "versions" if len(versions) else "augment"
            raise ValueError(
                f"`{name}` is for training, but `crops`={crops} and `hop`={hop} are for testing. Leave it out."
            )
        size = len(clips)
        for k, each in enumerate(versions):
            clips = [*clips, *_as_clips(each, f"versions[{k}]")]
            if len(clips) != (k + 2) * size:
                raise ValueError(
                    f"`versions[{k}]` must hold a version of each of the {size} waveforms, but holds "
                    f"{len(clips) - (k + 1) * size}."
                )
        if augment is not None and (not callable(augment) or sample_rate is None):
            raise ValueError(
                f"`augment` must be a callable that takes samples and their rate, given as `sample_rate`, but is "
                f"{shown(augment)}, and `sample_rate` is {sample_rate}."
            )
        if names is not None and len(names) != size:
            raise ValueError(f"`names` must hold one name a waveform, but there are {len(names)} and {size} waveforms.")
        if hop is not None:
            _check_hop(hop, crop_length, max_scale, crops, batch_size, num_processes)
        super().__init__(labels, batch_size, sampler, drop_last, seed, device, num_processes, process_index, min_last)
        self.crop_length = crop_length
        self.padding = padding
        self.max_scale = float(max_scale)
        self.crops = crops
        self.augment = augment
        self.sample_rate = sample_rate
        self.names = names
        self._versions = 1 + len(versions)
        self.hop = hop
        # All clips in one row, with the zeros between two neighbours serving both, so that a crop is one run of memory.
        lengths = np.array([clip.size for clip in clips])
        gaps = np.maximum(padding, crop_length - padding - lengths) + (hop or 1) - 1  # that the last window may reach
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
        if self.hop is not None:
            return self._windows(lengths.tolist(), starts.tolist(), self.hop), labels
        if self.crops > 1:
            room = (lengths + 2 * self.padding - self.crop_length).clamp_(min=0)
            offsets = torch.arange(self.crops) * (room // (self.crops - 1)).view(-1, 1)
            inputs = self._runs((starts.view(-1, 1) + offsets - self.padding).view(-1))
            return inputs.view(len(indices), self.crops, self.crop_length), labels
        scales, places = self._scales_and_places(batch, stream)
        if self._versions > 1:
            rows = self._drawn_versions(batch, stream) * len(self.labels) + indices
            lengths, starts = self._lengths[rows], self._starts[rows]
        scaled = (lengths * scales).long()
        room = (scaled + 2 * self.padding - self.crop_length).clamp_(min=0)
        offsets = (places * (room + 1)).long() - self.padding
        if self.max_scale == 1:
            return self._augmented(self._runs(starts + offsets), indices, batch, stream), labels
        table = torch.stack([starts, lengths, scaled, offsets, scales], dim=1)
        table = table.to(device, non_blocking=True) if has_float64(device) else table
        inputs = torch.empty(len(indices), self.crop_length, device=device)
        # Clip by clip, what is in between stays in a processor's cache: twice as fast. A GPU takes all at once.
        parts = max(1, len(indices)) if device.type == "cpu" else 1
        for rows, out in zip(table.chunk(parts), inputs.chunk(parts), strict=True):
            self._stretched_runs(rows, out)
        return self._augmented(inputs, indices, batch, stream), labels

    def _windows(self, lengths: list[int], starts: list[int], hop: int) -> Tensor:
        """Overlapping windows of one clip, float32 [1, K, crop_length], or none of none, [0, 1, crop_length]."""
        if not lengths:
            return torch.empty(0, 1, self.crop_length, device=self.samples.device)
        room = max(0, lengths[0] + 2 * self.padding - self.crop_length)
        windows, start = 1 + -(-room // hop), starts[0] - self.padding
        samples = self.samples[start : start + (windows - 1) * hop + self.crop_length].float().mul_(1 / 32768)
        return samples.unfold(0, self.crop_length, hop)[None]

    def _scales_and_places(self, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        """Stretch and place of the crop, in 0..1, of this process's samples, drawn for the global batch."""
        generator, full = self._random(batch, stream)
        exponents, places = generator.random((2, full))
        scales = self.max_scale ** (2 * exponents - 1)
        low, high = self._share(full)
        return torch.from_numpy(scales[low:high]), torch.from_numpy(places[low:high])

    def _drawn_versions(self, batch: int, stream: int) -> Tensor:
        """Which version of its clip each of this process's samples is: behind the other draws, which stay the same."""
        generator, full = self._random(batch, stream)
        generator.random((2, full))
        low, high = self._share(full)
        return torch.from_numpy(generator.integers(self._versions, size=full)[low:high])

    def _augmented(self, inputs: Tensor, indices: Tensor, batch: int, stream: int) -> Tensor:
        """Crops after ``augment``, clip by clip, each with random numbers of its own."""
        if self.augment is None:
            return inputs
        samples = inputs.cpu().numpy()
        first, _ = self._share(self._random(batch, stream)[1])
        with global_generators_restored():
            for row, index in enumerate(indices.tolist()):
                # One more word in the key than the crops have, so that no two generators are the same.
                key = (self.epoch, batch, stream, first + row)
                seed_global_generators(np.random.SeedSequence(self.seed, spawn_key=key))
                samples[row] = self._augment_clip(self.augment, samples[row], index)
        return torch.from_numpy(samples).to(inputs.device)

    def _augment_clip(
        self, augment: Callable[..., Any], crop: np.ndarray[Any, Any], index: int
    ) -> np.ndarray[Any, Any]:
        hook = getattr(augment, "__qualname__", type(augment).__qualname__)
        clip = f"clip number {index}" if self.names is None else f"the clip {self.names[index]}"
        try:
            changed = augment(crop.copy(), self.sample_rate or 0)
            changed = np.asarray(changed.detach().cpu() if isinstance(changed, Tensor) else changed)
        except Exception as error:
            raise ValueError(f"`augment` {hook} fails on {clip}: {type(error).__name__}: {error}") from error
        if changed.shape != crop.shape or changed.dtype.kind != "f":
            raise ValueError(
                f"`augment` {hook} must return floating-point samples of shape {list(crop.shape)}, as it gets them, "
                f"but returns {changed.dtype} of shape {list(changed.shape)} for {clip}."
            )
        with np.errstate(over="ignore"):
            changed = changed.astype(np.float32)
        if not np.isfinite(changed).all():
            raise ValueError(f"`augment` {hook} returns NaN, infinity or numbers beyond float32 for {clip}.")
        return changed

    def _runs(self, starts: Tensor) -> Tensor:
        """Crops of the row of all samples, float32 [len(starts), crop_length]."""
        # Every run of `crop_length` samples in memory, overlapping: one index for a whole crop.
        runs = self.samples.as_strided((len(self.samples) - self.crop_length + 1, self.crop_length), (1, 1))
        crops = runs.index_select(0, starts.to(self.samples.device, non_blocking=True))
        return crops.float().mul_(1 / 32768)

    def _stretched_runs(self, table: Tensor, out: Tensor) -> None:
        """Write crops of stretched clips into ``out``, [N, crop_length].

        A row of the table, float64 [N, 5], holds where the clip starts among all samples, its length, its length when
        stretched, where in that the crop starts, and the stretch.
        """
        starts, lengths, scaled, offsets, scales = table.T.unsqueeze(2)
        places = offsets + torch.arange(self.crop_length, dtype=torch.float64, device=table.device)
        outside = (places < 0) | (places >= scaled)
        # float64, since in a long clip float32 has no bits left for the fraction. Clamped to the last sample, which has
        # a fraction of 0, so that its right neighbour does not count.
        positions = (places / scales).clamp_(min=0).minimum(lengths - 1)
        # Moved where the device has no float64; elsewhere all is there already.
        left, fraction = (positions.long() + starts.long()).view(-1).to(out.device), positions.frac().float()
        left, right = (self.samples.index_select(0, index).float().view(out.shape) for index in (left, left + 1))
        torch.lerp(left, right, fraction.to(out.device), out=out)
        out.mul_(1 / 32768).masked_fill_(outside.to(out.device), 0.0)


def _as_clips(waveforms: Any, name: str) -> list[np.ndarray[Any, Any]]:
    """Clips as arrays, int16 [T] each; others are refused."""
    if isinstance(waveforms, Tensor):
        check_dense(waveforms, name)
    if not isinstance(waveforms, Iterable) or isinstance(waveforms, str | type) or getattr(waveforms, "ndim", 1) < 1:
        raise ValueError(f"`{name}` must be a list of clips, or int16 [N, T], but is {shown(waveforms)}.")
    clips = [clip.cpu().numpy() if isinstance(clip, Tensor) else np.asarray(clip) for clip in waveforms]
    if not clips:
        raise ValueError(f"`{name}` is empty.")
    for k, clip in enumerate(clips):
        if clip.dtype != np.int16 or clip.ndim != 1 or not clip.size:
            raise ValueError(
                f"`{name}` must be int16 of shape [T] each, with at least one sample, but number {k} is "
                f"{clip.dtype} of shape {list(clip.shape)}."
            )
    return clips


def _check_hop(hop: int, crop_length: int, max_scale: float, crops: int, batch_size: int, num_processes: int) -> None:
    if not 1 <= hop <= crop_length:
        raise ValueError(
            f"`hop` must lie in 1..{crop_length}, the `crop_length`, but is {hop}: a longer one passes over samples."
        )
    if crops > 1 or max_scale > 1:
        raise ValueError(
            f"`hop`={hop} covers a clip with windows, without randomness, but `crops` is {crops} and `max_scale` "
            f"{max_scale}. Leave both at 1."
        )
    if batch_size != num_processes:
        raise ValueError(
            f"`hop`={hop} gives each clip a number of windows of its own, so that a process takes one at a time, but "
            f"`batch_size` is {batch_size}. Set it to {num_processes}, as many as there are processes."
        )
