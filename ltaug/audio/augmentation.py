"""Settings of the augmentation of sounds that recipes share, and what they make.

Needs the extras ``recipes`` and ``audio``.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ltaug.audio.transforms import AddNoise, Reverb, SpecAugment
from ltaug.commandline import NonNegativeInt, PositiveFloat, PositiveInt, Share
from ltaug.errors import UserError, did_you_mean
from ltaug.loaders._generators import global_generators_restored

__all__ = ["AugmentationSettings", "load_augment", "make_augmentation", "spec_augment"]


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


def load_augment(name: str) -> Callable[..., Any]:
    """Import what changes each training crop: any callable of samples, float32 [T] of NumPy, and their sample rate.

    Transforms and compositions of audiomentations are such callables. A class, or a function without required
    arguments, makes one when it is called.

    Args:
        name: MODULE:CALLABLE; the module is one that is installed, or a file in the working directory.

    Raises:
        UserError: it cannot be imported, or is no such callable.

    >>> load_augment("numpy:multiply").__name__
    'multiply'
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"`augment` must be MODULE:CALLABLE, such as my_sounds:augment, but is {name!r}.")
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # behind all else: a script's own folder is there, the working directory is not
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of any code of others
        raise UserError(f"`augment` {name}: importing {module_name} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before
    try:
        found = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        hint = did_you_mean(attribute, [each for each in vars(module) if not each.startswith("_")]) or "."
        raise UserError(f"`augment` {name}: {module_name} has no {attribute}{hint}") from error
    if isinstance(found, type) or (inspect.isroutine(found) and _takes(found) and _makes(found)):
        try:
            found = found()
        except Exception as error:
            raise UserError(f"`augment` {name} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(found) or not _takes(found, None, 0):
        if callable(found) and _takes(found, None, sample_rate=0):
            raise UserError(
                f"`augment` {name} takes `sample_rate` by its name alone, but is called with samples and their rate, "
                "without names. Take away the * before it."
            )
        raise UserError(
            f"`augment` {name} must be a callable that takes samples and their rate, or make one, but is "
            f"{'of type ' if not callable(found) else 'a callable of other arguments, '}{type(found).__name__}."
        )
    return found  # type: ignore[no-any-return]


def _makes(function: Callable[..., Any]) -> bool:
    """Whether a function that can do without arguments makes a hook, and is none: two optional ones it could have, too.

    Then silence shows it: of a hook come samples, of a factory a callable.
    """
    if not _takes(function, None, 0):
        return True
    try:
        with global_generators_restored():
            return callable(function(np.zeros(16000, np.float32), 16000))
    except Exception:  # of any code of others: what a hook has against silence may not hold for sounds
        return False


def _takes(function: Callable[..., Any], *arguments: Any, **named: Any) -> bool:
    """Whether a call with such arguments is possible; True of builtins, which do not say."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
