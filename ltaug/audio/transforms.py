"""Augmentation of sounds in training, a batch at once on its device: reverberation, noise, masks of spectrograms.

Reverberation and noise act on the mixed sound, inside the network (``SoundNetwork.augmentation``), as the random gain
does; masks on the finished spectrogram (``LogMel.masks``). Stretching in time is the loader's ``max_scale``. Needs the
extra ``audio`` (torchaudio).
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug._arguments import checked
from ltaug.audio.decoding import is_sound, read_clips
from ltaug.mixers._fourier import fast_length

__all__ = ["AddNoise", "Reverb", "SpecAugment"]

DIRECT_TO_REVERBERANT = (0.0, 15.0)
"""dB of the direct sound over the tail of a synthetic impulse response, uniformly drawn: far away to near."""


class AddNoise(nn.Module):
    r"""Noise beside waveforms, in training mode: :math:`x + a n` at a random signal-to-noise ratio.

    :math:`a^2 = \|x\|^2 / \|n\|^2 \cdot 10^{-\mathrm{SNR} / 10}` (torchaudio's ``add_noise``), where the SNR is uniform
    between two limits in dB, a draw for each waveform. Silence stays silent.

    Args:
        sample_rate: Hz.
        p: probability that a waveform gets noise.
        noise: "white"; "pink", whose power falls by 3 dB an octave; or a folder of sound files, of which one is drawn
            for each waveform, at a random place, repeated where it is too short.
        min_snr_db: lowest SNR.
        max_snr_db: highest SNR.
        cache_dir: where decoded files are kept, as in :func:`ltaug.audio.read_clips`.

    Raises:
        ValueError: a number is out of range, or the folder has no sound; when called, waveforms are not floating point
            [N, T].
    """

    @checked
    def __init__(
        self,
        sample_rate: int,
        p: float = 0.5,
        noise: str = "white",
        min_snr_db: float = 5.0,
        max_snr_db: float = 30.0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        _check_rate(sample_rate)
        _check_share(p, "p")
        if not min_snr_db <= max_snr_db:
            raise ValueError(f"`min_snr_db` must be at most `max_snr_db`, {max_snr_db:g}, but is {min_snr_db:g}.")
        self.p, self.noise, self.min_snr_db, self.max_snr_db = float(p), noise, float(min_snr_db), float(max_snr_db)
        if noise not in ("white", "pink"):
            clips = _read_folder(noise, "noise", "white, pink", sample_rate, cache_dir)
            lengths = torch.tensor([clip.size for clip in clips])
            # Buffers, so that they move with the network; of its weights they are none.
            self.register_buffer("samples", torch.from_numpy(np.concatenate(clips)), persistent=False)
            self.register_buffer("lengths", lengths, persistent=False)
            self.register_buffer("starts", lengths.cumsum(0) - lengths, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Add noise to waveforms [N, T]; half precision is computed in single."""
        given = waveforms
        if not self.training or not len(waveforms):
            return given
        waveforms = _in_single(waveforms)
        from torchaudio.functional import add_noise

        noise = self.draw(waveforms)
        span = self.max_snr_db - self.min_snr_db
        snr = self.min_snr_db + span * torch.rand(len(waveforms), device=waveforms.device)
        chosen = torch.rand(len(waveforms), device=waveforms.device) < self.p
        # A noise that happens to be silent would have to be infinitely amplified.
        chosen &= noise.abs().amax(1) > 0
        return torch.where(chosen[:, None], add_noise(waveforms, noise, snr).to(given.dtype), given)

    def draw(self, waveforms: Tensor) -> Tensor:
        """Draw noise of any level in the shape of waveforms [N, T]."""
        size, length = waveforms.shape
        device = waveforms.device
        if self.noise not in ("white", "pink"):
            starts: Any = self.starts
            lengths: Any = self.lengths
            samples: Any = self.samples
            file = torch.randint(len(lengths), (size, 1), device=device)
            first = (torch.rand(size, 1, device=device, dtype=torch.float64) * lengths[file]).long()
            places = (first + torch.arange(length, device=device)) % lengths[file]
            noise: Tensor = samples[starts[file] + places].to(waveforms.dtype) / 32768
            return noise
        if self.noise == "white":
            return torch.randn_like(waveforms)
        longer = fast_length(length)
        spectrum = torch.fft.rfft(torch.randn(size, longer, device=device))
        falling = torch.arange(spectrum.shape[1], device=device).clamp_min_(1).rsqrt()
        falling[0] = 0.0
        pink: Tensor = torch.fft.irfft(spectrum * falling, n=longer)[:, :length]
        return pink.to(waveforms.dtype)


class Reverb(nn.Module):
    r"""Reverberation of waveforms, in training mode: convolution with a random impulse response.

    By torchaudio's ``fftconvolve``. A synthetic response is the direct sound and a tail of white noise under
    :math:`10^{-3 t / \mathrm{RT}_{60}}`, which decays by 60 dB in :math:`\mathrm{RT}_{60} \sim U(0,
    \texttt{max\_rt60})` seconds; the direct sound has 0 to 15 dB more energy. A recorded one begins at its largest
    sample, so that nothing is delayed. A waveform keeps its length and its energy.

    Args:
        sample_rate: Hz.
        p: probability that a waveform is reverberated.
        responses: "synthetic", or a folder of sound files, of which one is drawn for each waveform.
        max_rt60: longest reverberation time of synthetic ones, seconds.
        cache_dir: where decoded files are kept, as in :func:`ltaug.audio.read_clips`.

    Raises:
        ValueError: a number is out of range, or the folder has no sound; when called, waveforms are not floating point
            [N, T].
    """

    @checked
    def __init__(
        self,
        sample_rate: int,
        p: float = 0.5,
        responses: str = "synthetic",
        max_rt60: float = 0.5,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        _check_rate(sample_rate)
        _check_share(p, "p")
        if not 0 < max_rt60 <= 10:
            raise ValueError(f"`max_rt60` is in seconds and must lie in 0..10, but is {max_rt60}.")
        self.sample_rate, self.p, self.max_rt60 = sample_rate, float(p), float(max_rt60)
        recorded = None
        if responses != "synthetic":
            clips = _read_folder(responses, "reverb", "synthetic", sample_rate, cache_dir)
            clips = [clip[np.abs(clip.astype(np.int32)).argmax() :] / 32768 for clip in clips]
            recorded = torch.zeros(len(clips), max(clip.size for clip in clips))
            for row, clip in zip(recorded, clips, strict=True):
                row[: clip.size] = torch.from_numpy(clip)
        self.register_buffer("recorded", recorded, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Reverberate waveforms [N, T]; half precision is computed in single."""
        given = waveforms
        if not self.training or not len(waveforms):
            return given
        waveforms = _in_single(waveforms)
        from torchaudio.functional import fftconvolve

        length = waveforms.shape[1]
        responses = self.draw(waveforms)[:, :length]
        # Transforms of some lengths take several times as long as of the next good one.
        whole = fast_length(length + responses.shape[1] - 1)
        wet = fftconvolve(waveforms, F.pad(responses, (0, whole - length - responses.shape[1] + 1)))[:, :length]
        energy, wet_energy = (each.square().sum(1, keepdim=True) for each in (waveforms, wet))
        wet = wet * (energy / wet_energy.clamp_min(torch.finfo(wet.dtype).tiny)).sqrt()
        chosen = torch.rand(len(waveforms), 1, device=waveforms.device) < self.p
        return torch.where(chosen, wet.to(given.dtype), given)

    def draw(self, waveforms: Tensor) -> Tensor:
        """Draw an impulse response for each of waveforms [N, T], [N, M]."""
        device, dtype = waveforms.device, waveforms.dtype
        if self.recorded is not None:
            recorded: Any = self.recorded
            chosen: Tensor = recorded[torch.randint(len(recorded), (len(waveforms),), device=device)].to(dtype)
            return chosen
        rt60, ratio = torch.rand(2, len(waveforms), 1, device=device, dtype=dtype)
        seconds = torch.arange(1, math.ceil(self.max_rt60 * self.sample_rate), device=device, dtype=dtype)
        seconds = seconds / self.sample_rate
        tail = torch.randn(len(waveforms), len(seconds), device=device, dtype=dtype)
        tail = tail * torch.pow(10.0, -3 * seconds / (self.max_rt60 * rt60).clamp_min(1 / self.sample_rate))
        low, high = DIRECT_TO_REVERBERANT
        level = torch.pow(10.0, -(low + (high - low) * ratio) / 20)
        tail = tail * (level / torch.linalg.vector_norm(tail, dim=1, keepdim=True).clamp_min(1e-20))
        return F.pad(tail, (1, 0), value=1.0)


class SpecAugment(nn.Module):
    """Masks of time and frequency in spectrograms, in training mode: torchaudio's ``SpecAugment``, other ones a clip.

    Park et al., *SpecAugment*, Interspeech 2019, https://arxiv.org/abs/1904.08779. Masked cells become 0, which is the
    mean of a normalised spectrogram. A mask's width is uniform in 0..param - 1, and its place uniform.

    Args:
        n_time_masks: masks of time; 0 for none.
        time_mask_param: frames that a mask of time is shorter than.
        n_freq_masks: masks of frequency; 0 for none.
        freq_mask_param: bands that a mask of frequency is narrower than.

    Raises:
        ValueError: a number is out of range; when called, a mask could be wider than the spectrogram.
    """

    @checked
    def __init__(self, n_time_masks: int, time_mask_param: int, n_freq_masks: int, freq_mask_param: int) -> None:
        super().__init__()
        for name, value in (("n_time_masks", n_time_masks), ("n_freq_masks", n_freq_masks)):
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, but is {value}.")
        for name, value in (("time_mask_param", time_mask_param), ("freq_mask_param", freq_mask_param)):
            if value < 2:
                raise ValueError(f"`{name}` must be at least 2, since masks are shorter than it, but is {value}.")
        from torchaudio.transforms import SpecAugment

        self.masks: Any = SpecAugment(n_time_masks, time_mask_param, n_freq_masks, freq_mask_param, zero_masking=True)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Mask spectrograms [..., bands, frames], of at least three dimensions."""
        if not self.training:
            return spectrograms
        masks, (bands, frames) = self.masks, spectrograms.shape[-2:]
        for number, name, size, what in (
            (masks.n_time_masks, "time_mask_param", frames, "frames"),
            (masks.n_freq_masks, "freq_mask_param", bands, "bands"),
        ):
            if number and getattr(masks, name) > size:
                raise ValueError(f"`{name}` is {getattr(masks, name)}, but a spectrogram has {size} {what}. Lower it.")
        masked: Tensor = masks(spectrograms)
        return masked


def _in_single(waveforms: Tensor) -> Tensor:
    """Waveforms in float32 at least; ValueError for what is none."""
    if waveforms.ndim != 2 or not waveforms.is_floating_point():
        raise ValueError(
            f"`waveforms` must be floating point [N, T], but are {waveforms.dtype} of shape {list(waveforms.shape)}. "
            "Channels can be flattened into N: each of them is then augmented by itself."
        )
    return waveforms.to(torch.promote_types(waveforms.dtype, torch.float32))


def _check_rate(sample_rate: int) -> None:
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` is in Hz and must be positive, but is {sample_rate}.")


def _check_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` is a probability, in 0..1, but is {value}.")


def _read_folder(folder: str, name: str, words: str, sample_rate: int, cache_dir: str | None) -> list[Any]:
    """All sounds below a folder that are not silent, int16 [T] each."""
    if not os.path.isdir(folder):
        raise ValueError(f"`{name}` must be {words} or a folder of sounds, but `{folder}` is no folder.")
    paths = sorted(os.path.join(root, file) for root, _, files in os.walk(folder) for file in files)
    paths = [path for path in paths if is_sound(path)]
    clips = read_clips([(path, path) for path in paths], sample_rate, cache_dir=cache_dir) if paths else []
    found = [clip for clip in clips if clip is not None and clip.any()]
    if not found:
        raise ValueError(f"`{name}`: the folder `{folder}` has no sound that can be read and heard.")
    return found
