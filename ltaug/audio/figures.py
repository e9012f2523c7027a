"""Sounds in a report: spectrograms to see and players to hear."""

from __future__ import annotations

import base64
import io
import math
import wave
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ltaug.audio.mel import LogMel

__all__ = ["Waveform", "as_waveform", "audio_html", "mel_spectrogram", "misclassified_clips", "spectrogram"]

Waveform = Tensor | NDArray[Any]
"""One channel of sound [T]: int16, or fractions of full scale in any floating type."""
RANGE_DB = 80.0
"""Levels further below the loudest cell than this are drawn as silence."""
MAX_AUDIO_SECONDS = 10
"""The longest sound that a page carries."""


def as_waveform(waveform: Waveform, sample_rate: int) -> NDArray[np.float64]:
    """Convert one channel of sound to fractions of full scale, float64 [T].

    Raises:
        ValueError: the waveform has another shape or type, or a sample that is not finite, or the rate is no positive
            whole number.

    >>> as_waveform(torch.tensor([16384, -32768], dtype=torch.int16), 8000)
    array([ 0.5, -1. ])
    """
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer) or sample_rate < 1:
        raise ValueError(f"`sample_rate` must be a positive whole number of samples a second, but is {sample_rate!r}.")
    tensor = waveform.detach().cpu() if isinstance(waveform, Tensor) else torch.as_tensor(np.asarray(waveform))
    if tensor.ndim != 1 or not len(tensor):
        raise ValueError(
            f"`waveform` must be one channel of at least one sample, shape [T], but has shape {list(tensor.shape)}. "
            "Take one channel, or the mean of them."
        )
    if tensor.dtype != torch.int16 and not tensor.is_floating_point():
        raise ValueError(
            f"`waveform` must be int16 or fractions of full scale, but is {str(tensor.dtype).removeprefix('torch.')}. "
            "Divide it by its full scale."
        )
    values: NDArray[np.float64] = tensor.double().numpy()
    if tensor.dtype == torch.int16:
        values = values / 2**15
    if not np.isfinite(values).all():
        raise ValueError("`waveform` must be finite, but holds NaN or infinity.")
    return values


def spectrogram(waveform: Waveform, sample_rate: int, ax: Axes | None = None) -> Figure:
    """Draw the level of a sound by time and frequency: 20 log10 of the STFT's modulus, in dB below the loudest cell.

    The window is a Hann window of 25 ms, the hop 10 ms. Cells more than 80 dB below the loudest one have the darkest
    colour, and so has all of a silent waveform. Needs the extra ``plots``.

    Args:
        waveform: [T], int16 or fractions of full scale.
        sample_rate: samples a second.
        ax: where to draw.

    Returns:
        The figure, with seconds across and kHz up.

    Raises:
        ValueError: the waveform has another shape, no sample or one that is not finite, or the rate is no whole
            number from 100.

    >>> tone = torch.sin(2 * torch.pi * 2000 * torch.arange(16000) / 16000)
    >>> level = spectrogram(tone, 16000).axes[0].images[0].get_array()
    >>> int(level[:, 50].argmax()) * 8 / (len(level) - 1)  # kHz of the loudest row, half a second in
    2.0
    """
    from ltaug.plots._style import axes_of, style_axes

    signal = torch.from_numpy(as_waveform(waveform, sample_rate))
    if sample_rate < 100:  # a hop of less than a sample
        raise ValueError(
            f"`sample_rate` must be at least 100 samples a second for a spectrogram, but is {sample_rate}."
        )
    window, hop = round(0.025 * sample_rate), round(0.01 * sample_rate)
    size = 2 ** math.ceil(math.log2(window))
    hann = torch.hann_window(window, dtype=signal.dtype)
    cells = torch.stft(signal, size, hop, window, window=hann, pad_mode="constant", return_complex=True)
    power = cells.abs().square().numpy()
    loudest = float(power.max()) or 1.0
    level = 10 * np.log10(np.maximum(power / loudest, 10 ** (-RANGE_DB / 10)))

    figure, ax = axes_of(ax, 3.2)
    # A cell reaches half a step to either side of the moment and the frequency that it stands for.
    step = sample_rate / size / 1000
    left, right = -hop / sample_rate / 2, (level.shape[1] - 0.5) * hop / sample_rate
    extent = (left, right, -step / 2, sample_rate / 2000 + step / 2)
    image = ax.imshow(level, "viridis", vmin=-RANGE_DB, vmax=0, origin="lower", aspect="auto", extent=extent)
    ax.set_xlim(0, len(signal) / sample_rate)
    ax.set_ylim(0, sample_rate / 2000)
    style_axes(ax, xlabel="time (s)", ylabel="frequency (kHz)", grid=False)
    _colorbar(ax, image, "level (dB), 0 = loudest")
    return figure


def mel_spectrogram(waveform: Waveform, front_end: LogMel, ax: Axes | None = None) -> Figure:
    """Draw a sound in the bands of a log-mel network, on a mel axis, by ``librosa.display.specshow``.

    Colours are what such a network has as its input: deviations from the mean of the waveform, which is all that is
    drawn here, and a crop for the network. Needs the extras ``plots`` and ``audio``.

    Args:
        waveform: [T], int16 or fractions of full scale, at the rate of the front end.
        front_end: the network's own, such as ``MelNetwork.mel``.
        ax: where to draw.

    Returns:
        The figure, with seconds across and Hz up.

    Raises:
        ValueError: the waveform has another shape, no sample or one that is not finite.
    """
    from librosa import mel_frequencies
    from librosa.display import specshow
    from matplotlib.ticker import MaxNLocator

    from ltaug.plots._style import axes_of, style_axes

    rate, bank = front_end.sample_rate, next(front_end.buffers())
    signal = torch.from_numpy(as_waveform(waveform, rate)).to(bank)
    signal = torch.nn.functional.pad(signal, (0, max(0, front_end.n_fft - len(signal))))
    with torch.no_grad():
        seen = front_end.log_mel(signal[None])[0].cpu().numpy()
    # The centres of the bands: without them the lowest one would be drawn at the lower end of its triangle.
    centres = mel_frequencies(len(seen) + 2, fmin=front_end.f_min, fmax=rate / 2, htk=True)[1:-1]
    figure, ax = axes_of(ax, 3.2)
    step: dict[str, Any] = {"sr": rate, "hop_length": front_end.hop_length, "n_fft": front_end.n_fft}
    image = specshow(seen, x_axis="time", y_axis="mel", y_coords=centres, ax=ax, cmap="viridis", **step)
    ax.xaxis.set_major_locator(MaxNLocator(5))  # those of specshow lie over one another where a clip is short
    ax.xaxis.set_major_formatter("{x:g}")
    style_axes(ax, xlabel="time (s)", ylabel="frequency (Hz), mel scale", grid=False)
    _colorbar(ax, image, "deviations from the mean")
    return figure


def _colorbar(ax: Axes, image: Any, label: str) -> None:
    from ltaug.plots._style import LABEL_SIZE, TEXT_SIZE

    parent: Any = ax.figure
    bar = parent.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(label, fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)


def audio_html(waveform: Waveform, sample_rate: int, caption: str) -> str:
    """Make a player for a section of a report; the page carries the sound, as 16-bit PCM in a WAV file.

    Args:
        waveform: one channel [T], int16 or fractions of full scale; one that exceeds full scale is made softer.
        sample_rate: samples a second.
        caption: what is heard, below the player.

    Raises:
        ValueError: as :func:`as_waveform`, or the sound lasts more than 10 seconds.

    >>> audio_html(torch.zeros(8000), 8000, "silence")[-38:]
    '"></audio><small>silence</small></div>'
    """
    signal = as_waveform(waveform, sample_rate)
    if len(signal) > MAX_AUDIO_SECONDS * sample_rate:
        raise ValueError(
            f"`waveform` must last at most {MAX_AUDIO_SECONDS} s, since the page carries it, but lasts "
            f"{len(signal) / sample_rate:.1f} s. Cut it."
        )
    signal = signal / max(1.0, float(np.abs(signal).max()))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        file.writeframes(np.clip(np.rint(signal * 2**15), -(2**15), 2**15 - 1).astype("<i2").tobytes())
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    label = escape(caption)
    player = f'<audio controls aria-label="{label}" src="data:audio/wav;base64,{encoded}"></audio>'
    return f"<div class=audio>{player}<small>{label}</small></div>"


def misclassified_clips(
    logits: Tensor,
    labels: Tensor,
    clips: Sequence[Waveform],
    names: Sequence[str],
    class_names: Sequence[str],
    sample_rate: int,
    shown: int = 8,
    seconds: float = 2.5,
    front_end: LogMel | None = None,
) -> tuple[str, str]:
    """Make a section of a report: the wrongly classified clips of the highest confidence, to see and to hear.

    Of several labels a clip, those of the greatest loss, the sum of their binary cross-entropies; a label of a
    probability above one half is taken for said.

    Args:
        logits: [N, C].
        labels: int64 [N], or bool [N, C].
        clips: N waveforms.
        names: N file names.
        class_names: C names.
        sample_rate: Hz.
        shown: how many clips.
        seconds: how much of each, from its beginning.
        front_end: of a network on log-mel spectrograms, which are drawn then, in its bands.

    Returns:
        Title and HTML.
    """
    from ltaug.report import figure_html

    if labels.ndim > 1:
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").sum(1)
        wrong = ((logits > 0) != labels.bool()).any(1).nonzero()[:, 0]
        order = wrong[loss[wrong].argsort(descending=True)]
        none, kind = "every label of every test clip is recognised", "have labels that are missed or wrongly said"
        chosen = "of the greatest loss"
    else:
        confidence, predicted = logits.softmax(1).max(1)
        wrong = (predicted != labels).nonzero()[:, 0]
        order = wrong[confidence[wrong].argsort(descending=True)]
        none, kind = "every test clip is recognised", "are wrongly classified"
        chosen = "of the highest confidence"
    if not len(wrong):
        return "Misclassified clips", f"<p>There are none: {none}.</p>"
    cards = []
    for k in order[:shown].tolist():
        clip = clips[k][: max(1, int(seconds * sample_rate))]
        if labels.ndim > 1:
            caption = _labels_told(logits[k].sigmoid(), labels[k], class_names)
        else:
            truth, said = class_names[int(labels[k])], class_names[int(predicted[k])]
            caption = f"{truth}, taken for {said} with a confidence of {100 * float(confidence[k]):.0f} %."
        if len(clip) < len(clips[k]):
            caption += f" The first {seconds:g} of {len(clips[k]) / sample_rate:.1f} s."
        cards.append(
            figure_html(
                spectrogram(clip, sample_rate) if front_end is None else mel_spectrogram(clip, front_end),
                alt=f"{'S' if front_end is None else 'Log-mel s'}pectrogram of {names[k]}.",
                caption=caption,
                html=audio_html(clip, sample_rate, names[k]),
            )
        )
    shows = "" if front_end is None else ", in the network's mel bands (it sees crops of them, with zeros around)"
    lead = (
        f"{len(wrong)} of {len(labels)} test clips {kind}. Here are the {len(cards)} {chosen}, the first {seconds:g} s "
        f"of each{shows}."
    )
    return "Misclassified clips to hear", f"<p>{lead}</p><div class=figures>{''.join(cards)}</div>"


def _labels_told(probs: Tensor, present: Tensor, class_names: Sequence[str]) -> str:
    """Labels that a clip has, and those that were said, with their probabilities.

    >>> _labels_told(torch.tensor([0.2, 0.3]), torch.tensor([True, False]), ["dog", "rain"])
    'dog. Said: none, at most rain (30 %).'
    """
    there = ", ".join(name for name, has in zip(class_names, present.tolist(), strict=True) if has)
    order = probs.argsort(descending=True).tolist()
    shares = [f"{class_names[k]} ({100 * float(probs[k]):.0f} %)" for k in order]
    said = shares[: int((probs > 0.5).sum())]
    return f"{there or 'no label'}. Said: {', '.join(said) if said else f'none, at most {shares[0]}'}."
