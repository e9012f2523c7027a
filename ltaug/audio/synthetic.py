"""Ten classes of sounds computed from a seed, to try a training without files: alike enough to take some epochs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ltaug.audio.decoding import Clip
from ltaug.audio.sources import SoundPart, SoundSource

__all__ = ["synthetic_source"]

Floats = Any
"""Floating-point array [T]."""
Generator = np.random.Generator


def synthetic_source(sample_rate: int, clips_per_class: int = 40, seconds: float = 2.0, seed: int = 0) -> SoundSource:
    """Make sounds of ten classes, each with its own pitch, rate, onset and level (within 10 dB), behind coloured noise.

    The noise lies between 20 dB below the sound and 5 dB above it. A sound is computed when it is asked for.

    Args:
        sample_rate: Hz; tones stay below 0.45 of it.
        clips_per_class: clips of each class.
        seconds: length of a clip.
        seed: equal seeds give equal sounds; a clip depends on its class and number alone, not on how many there are.

    >>> source = synthetic_source(8000, clips_per_class=2, seconds=0.5)
    >>> source.class_names[:3], source.train.names[1]
    (['rain', 'wind', 'bird'], 'rain/001')
    >>> source.train.sound(1)[0].shape
    (4000,)
    """
    names = [sound.__name__ for sound in SOUNDS]
    labels = torch.arange(len(names)).repeat_interleave(clips_per_class)
    files = [f"{name}/{k:03d}" for name in names for k in range(clips_per_class)]
    sound = partial(_sound, sample_rate, clips_per_class, seconds, seed)
    return SoundSource("The synthetic set", names, SoundPart(labels, files, sound))


def _sound(rate: int, clips_per_class: int, seconds: float, seed: int, index: int) -> tuple[Clip, int]:
    """One clip, and its rate."""
    label, k = divmod(index, clips_per_class)
    rng = np.random.default_rng((seed, label, k))
    t = np.arange(max(1, round(rate * seconds))) / rate
    sound = SOUNDS[label](rng, t, rate)
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    noise = coloured(rng, len(t), rng.uniform(0, 1.5))
    mixed = sound + noise * 10 ** (-rng.uniform(-5, 20) / 20)
    mixed *= 0.1 * 10 ** (rng.uniform(-10, 10) / 20)
    return np.rint(mixed.clip(-1, 1) * 32767).astype(np.int16), rate


def coloured(rng: Generator, size: int, slope: float, low: float = 0.0, high: float = 0.5) -> Floats:
    """Noise of unit power whose amplitude falls as frequency^-slope, between two frequencies (in cycles a sample)."""
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequency = np.fft.rfftfreq(size)
    spectrum *= np.maximum(frequency, 1e-3) ** -slope * ((frequency >= low) & (frequency <= high))
    noise = np.fft.irfft(spectrum, size)
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9)


def tone(rng: Generator, frequency: Floats | float, t: Floats, rate: int) -> Floats:
    """A sine of a frequency that may change, from a random phase."""
    steps = np.broadcast_to(np.minimum(frequency, 0.45 * rate) / rate, t.shape)
    return np.sin(2 * np.pi * (np.cumsum(steps) + rng.uniform()))


def pulses(rng: Generator, t: Floats, period: float, jitter: float, burst: Floats) -> Floats:
    """A burst again and again, of changing strength: `period` seconds apart, give or take `jitter` of it."""
    train = np.zeros(len(t))
    seconds = len(t) * (t[1] if len(t) > 1 else 1.0)
    onsets = np.arange(rng.uniform(0, min(period, seconds / 2)), seconds, period)
    places = ((onsets + jitter * period * rng.standard_normal(len(onsets))) * len(t) / seconds).astype(int)
    np.add.at(train, places.clip(0, len(t) - 1), rng.uniform(0.5, 1.0, len(places)))
    size = 2 * len(t)  # with room for the end of the last burst
    return np.fft.irfft(np.fft.rfft(train, size) * np.fft.rfft(burst, size), size)[: len(t)]


def rain(rng: Generator, t: Floats, rate: int) -> Floats:
    return coloured(rng, len(t), rng.uniform(0, 0.4)) + (rng.random(len(t)) < 0.003) * rng.uniform(0, 8)


def wind(rng: Generator, t: Floats, rate: int) -> Floats:
    gusts = 1 + 0.9 * tone(rng, rng.uniform(0.2, 1.5), t, rate)
    return gusts * coloured(rng, len(t), rng.uniform(0.5, 1.2), high=rng.uniform(300, 1500) / rate)


def bird(rng: Generator, t: Floats, rate: int) -> Floats:
    start, sweep, length = rng.uniform(1500, 4000), rng.uniform(500, 2500), rng.uniform(0.05, 0.2)
    inside = t[t < length]
    chirp = np.sin(np.pi * inside / length) * tone(rng, start + sweep * inside / length, inside, rate)
    return pulses(rng, t, rng.uniform(0.15, 0.6), 0.1, chirp)


def cricket(rng: Generator, t: Floats, rate: int) -> Floats:
    trill = np.maximum(tone(rng, rng.uniform(12, 40), t, rate), 0)
    rests = tone(rng, rng.uniform(0.5, 2), t, rate) > rng.uniform(-0.9, 0)
    return tone(rng, rng.uniform(2000, 5000), t, rate) * trill * rests


def clock_tick(rng: Generator, t: Floats, rate: int) -> Floats:
    click = coloured(rng, len(t), 0, low=min(rng.uniform(800, 2000) / rate, 0.35)) * np.exp(
        -t / rng.uniform(0.002, 0.01)
    )
    return pulses(rng, t, rng.uniform(0.2, 0.7), 0.0, click)


def hum(rng: Generator, t: Floats, rate: int) -> Floats:
    base, weights = rng.uniform(45, 130), rng.uniform(0.1, 1, 6) / np.arange(1, 7)
    return sum(weight * tone(rng, base * (k + 1), t, rate) for k, weight in enumerate(weights))


def siren(rng: Generator, t: Floats, rate: int) -> Floats:
    swing = tone(rng, rng.uniform(0.3, 3), t, rate)
    return tone(rng, rng.uniform(700, 1600) * (1 + rng.uniform(0.1, 0.4) * swing), t, rate)


def knock(rng: Generator, t: Floats, rate: int) -> Floats:
    body = tone(rng, rng.uniform(80, 350), t, rate) + 0.3 * coloured(rng, len(t), 0.5)
    return pulses(rng, t, rng.uniform(0.12, 0.5), 0.15, body * np.exp(-t / rng.uniform(0.02, 0.06)))


def engine(rng: Generator, t: Floats, rate: int) -> Floats:
    stroke = coloured(rng, len(t), 0.8, high=rng.uniform(500, 2500) / rate) * np.exp(-t / rng.uniform(0.004, 0.02))
    return pulses(rng, t, 1 / rng.uniform(12, 45), rng.uniform(0.02, 0.1), stroke)


def drops(rng: Generator, t: Floats, rate: int) -> Floats:
    voices = []
    for _ in range(3):
        ring = tone(rng, rng.uniform(1000, 4500), t, rate) * np.exp(-t / rng.uniform(0.01, 0.08))
        voices.append(pulses(rng, t, rng.uniform(0.3, 1.2), 0.5, ring))
    return sum(voices)


SOUNDS = (rain, wind, bird, cricket, clock_tick, hum, siren, knock, engine, drops)
