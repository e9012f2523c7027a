"""Figures of what a model of sounds is given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltaug.plots._numbers import Waveform, as_waveform
from ltaug.plots._style import LABEL_SIZE, TEXT_SIZE, axes_of, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANGE_DB = 80.0
"""What lies further below the loudest cell than this is drawn as silence."""


def spectrogram(waveform: Waveform, sample_rate: int, ax: Axes | None = None) -> Figure:
    """Level of a sound by time and frequency: 20 log10 |STFT|, in decibels below the loudest cell.

    The window is a Hann window of 25 ms, the hop 10 ms. What is more than 80 dB below the loudest cell has the darkest
    colour, and so has all of a silent waveform.

    Args:
        waveform: [T], int16 or fractions of full scale.
        sample_rate: samples a second.
        ax: where to draw.

    Returns:
        The figure, with seconds across and kHz up.

    Raises:
        ValueError: the waveform has another shape, no sample or one that is not finite, or the rate is no whole
            number from 100.

    >>> import torch
    >>> tone = torch.sin(2 * torch.pi * 2000 * torch.arange(16000) / 16000)
    >>> level = spectrogram(tone, 16000).axes[0].images[0].get_array()
    >>> int(level[:, 50].argmax()) * 8 / (len(level) - 1)  # kHz of the loudest row, half a second in
    2.0
    """
    signal = torch.from_numpy(as_waveform(waveform, sample_rate))
    if sample_rate < 100:  # a hop of less than a sample
        raise ValueError(
            f"`sample_rate` must be at least 100 samples a second for a spectrogram, but is {sample_rate}."
        )
    window, hop = round(0.025 * sample_rate), round(0.01 * sample_rate)
    size = 2 ** math.ceil(math.log2(window))
    power = (
        torch.stft(
            signal,
            size,
            hop_length=hop,
            win_length=window,
            window=torch.hann_window(window, dtype=signal.dtype),
            pad_mode="constant",
            return_complex=True,
        )
        .abs()
        .square()
        .numpy()
    )
    loudest = float(power.max()) or 1.0
    level = 10 * np.log10(np.maximum(power / loudest, 10 ** (-RANGE_DB / 10)))

    figure, ax = axes_of(ax, 3.2)
    # A cell reaches half a step to either side of the moment and the frequency that it stands for.
    step = sample_rate / size / 1000
    left, right = -hop / sample_rate / 2, (level.shape[1] - 0.5) * hop / sample_rate
    image = ax.imshow(
        level,
        cmap="viridis",
        vmin=-RANGE_DB,
        vmax=0,
        origin="lower",
        aspect="auto",
        extent=(left, right, -step / 2, sample_rate / 2000 + step / 2),
    )
    ax.set_xlim(0, len(signal) / sample_rate)
    ax.set_ylim(0, sample_rate / 2000)
    style_axes(ax, xlabel="time (s)", ylabel="frequency (kHz)", grid=False)
    parent: Any = ax.figure
    bar = parent.colorbar(image, ax=ax, pad=0.02)
    bar.set_label("level (dB), 0 = loudest", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)
    return figure
