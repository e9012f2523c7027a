"""Between-class mixing of sounds, one thread: 64 pairs of clips of 66,650 samples at 44.1 kHz."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels import speedup
from benchmarks.timing import Bar, Benchmark, Options, Result
from ltaug import BetweenClass

PAIRS, LENGTH, RATE = 64, 66_650, 44_100  # ESC-50 as EnvNet-v2 takes it: crops of 1.5 s
CLASSES = 50


def between_class_mix(_: Options) -> Result:
    """Mix a batch with a given second one, against NumPy pair by pair."""
    mixer, batch, partner, ratios = contestants()
    return speedup(lambda: mixer(*batch, *partner), lambda: numpy_loop(batch, partner, ratios), repeats=5)


def between_class_in_batch(_: Options) -> Result:
    """Mix a batch with itself, permuted."""
    mixer, batch, _partner, ratios = contestants()
    permuted = [tensor.flip(0) for tensor in batch]
    return speedup(lambda: mixer(*batch), lambda: numpy_loop(batch, permuted, ratios), repeats=5)


def contestants() -> tuple[BetweenClass, list[Tensor], list[Tensor], np.ndarray]:
    """The mixer, two batches of noise with their labels, and the ratios for the loop."""
    generator = torch.Generator().manual_seed(0)
    batch, partner = (
        [0.1 * torch.randn(PAIRS, LENGTH, generator=generator), torch.randint(CLASSES, (PAIRS,), generator=generator)]
        for _ in range(2)
    )
    return BetweenClass(CLASSES, RATE), batch, partner, np.random.default_rng(0).random(PAIRS)


def numpy_loop(batch: list[Tensor], partner: list[Tensor], ratios: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pair by pair, stacked."""
    clips, labels, partner_clips, partner_labels = (tensor.numpy() for tensor in (*batch, *partner))
    pairs = zip(clips, partner_clips, labels, partner_labels, ratios, strict=True)
    mixed, targets = zip(*(mix_pair(*pair, RATE, CLASSES) for pair in pairs), strict=True)
    return torch.from_numpy(np.stack(mixed)), torch.from_numpy(np.stack(targets))


def mix_pair(
    x: np.ndarray, y: np.ndarray, label: int, partner_label: int, ratio: float, rate: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """One pair and its label, as a data set's `__getitem__` mixes them."""
    difference = level(x, rate) - level(y, rate)
    p = 1.0 / (1.0 + 10.0 ** (difference / 20.0) * (1.0 - ratio) / ratio)
    mixed = (p * x + (1.0 - p) * y) / math.sqrt(p**2 + (1.0 - p) ** 2)
    target = np.zeros(num_classes, np.float32)
    target[label] += ratio
    target[partner_label] += 1.0 - ratio
    return mixed.astype(np.float32), target


def level(clip: np.ndarray, rate: int) -> float:
    """Frame by frame, with the window and the weights computed for every frame, as the released code does."""
    size = 2048 if rate < 32000 else 4096
    energies = []
    for start in range(0, len(clip) - size + 1, size // 2):
        spectrum = np.fft.rfft(np.hanning(size + 1)[:-1] * clip[start : start + size])
        energies.append(np.sum(np.abs(spectrum) ** 2 * 10.0 ** (a_weighting(rate, size) / 10.0)))
    return 10.0 * math.log10(max(*energies, 1e-8))


def a_weighting(rate: int, size: int) -> np.ndarray:
    """dB of every frequency of a frame's spectrum."""
    square = np.linspace(0.0, rate / 2, size // 2 + 1) ** 2
    square[0] = 1.0
    decibel = 2.0 * np.log10(12194.0) + 2.0 * np.log10(square) - np.log10(square + 12194.0**2)
    decibel -= np.log10(square + 20.6**2) + 0.5 * np.log10(square + 107.7**2) + 0.5 * np.log10(square + 737.9**2)
    return np.maximum(2.0 + 20.0 * decibel, -80.0)


BENCHMARKS = [
    Benchmark("between_class_mix", "1", Bar(12), between_class_mix),
    Benchmark("between_class_in_batch", "1", Bar(12), between_class_in_batch),
]
