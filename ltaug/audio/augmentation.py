"""Settings of the augmentation of sounds that recipes share, and what they make.

Needs the extras ``recipes`` and ``audio``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ltaug.audio.transforms import AddNoise, Reverb, SpecAugment
from ltaug.commandline import NonNegativeInt, PositiveFloat, PositiveInt, Share

__all__ = ["AugmentationSettings", "make_augmentation", "spec_augment"]


@dataclass
class AugmentationSettings:
    """What can be said of the augmentation of sounds inside the network; all of it is off by default."""

    reverb_p: Share = 0.0
    """Probability that a training sound gets reverberation."""
    reverb: str = "synthetic"
    """synthetic impulse responses, or a folder of recorded ones."""
    max_rt60: PositiveFloat = 0.5
    """Longest time, in seconds, in which a synthetic tail decays by 60 dB."""
    noise_p: Share = 0.0
    """Probability that a training sound gets noise."""
    noise: str = "white"
    """white, pink, or a folder of recordings of noise."""
    min_snr_db: float = 5.0
    """Lowest signal-to-noise ratio, dB."""
    max_snr_db: float = 30.0
    """Highest signal-to-noise ratio, dB."""
    n_time_masks: NonNegativeInt = 0
    """SpecAugment: masks of time in a spectrogram; 2 is published."""
    time_mask_param: PositiveInt = 40
    """SpecAugment: frames that a mask of time is shorter than."""
    n_freq_masks: NonNegativeInt = 0
    """SpecAugment: masks of frequency in a spectrogram; 2 is published."""
    freq_mask_param: PositiveInt = 12
    """SpecAugment: bands that a mask of frequency is narrower than."""


def make_augmentation(cfg: Any, sample_rate: int) -> nn.Module:
    """Make what waveforms go through in training: reverberation, then noise, as :class:`AugmentationSettings` has it.

    Args:
        cfg: the settings; ``cache_dir``, if there is one, is where decoded folders are kept.
        sample_rate: of the waveforms, Hz.

    Returns:
        A module from waveforms [N, T] to waveforms [N, T]; ``nn.Identity`` if all is off.

    Raises:
        ValueError: a setting is out of range, has no effect since its augmentation is off, or names no folder of
            sounds.

    >>> make_augmentation(AugmentationSettings(), 16000)
    Identity()
    """
    _check_used(cfg, "reverb_p", "reverb", "max_rt60")
    _check_used(cfg, "noise_p", "noise", "min_snr_db", "max_snr_db")
    cache_dir = getattr(cfg, "cache_dir", None)
    parts: list[nn.Module] = []
    if cfg.reverb_p:
        parts.append(Reverb(sample_rate, cfg.reverb_p, cfg.reverb, cfg.max_rt60, cache_dir))
    if cfg.noise_p:
        parts.append(AddNoise(sample_rate, cfg.noise_p, cfg.noise, cfg.min_snr_db, cfg.max_snr_db, cache_dir))
    return nn.Sequential(*parts) if parts else nn.Identity()


def spec_augment(cfg: Any) -> nn.Module:
    """Make the masks of spectrograms of :class:`AugmentationSettings`; ``nn.Identity`` if there are none."""
    _check_used(cfg, "n_time_masks", "time_mask_param")
    _check_used(cfg, "n_freq_masks", "freq_mask_param")
    if not cfg.n_time_masks and not cfg.n_freq_masks:
        return nn.Identity()
    return SpecAugment(cfg.n_time_masks, cfg.time_mask_param, cfg.n_freq_masks, cfg.freq_mask_param)


def _check_used(cfg: Any, switch: str, *names: str) -> None:
    """Raise a ValueError for a setting that has been changed, but is of something that is off."""
    for name in names:
        if not getattr(cfg, switch) and getattr(cfg, name) != getattr(AugmentationSettings, name):
            raise ValueError(f"`{name}` is {getattr(cfg, name)}, but without effect, since `{switch}` is 0. Set both.")
