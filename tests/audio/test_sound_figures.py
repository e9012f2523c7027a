"""Sounds in a report: spectrograms, players, and the section of misclassified clips."""

from __future__ import annotations

import base64
import io
import math
import re
import wave
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ltaug.audio import audio_html, misclassified_clips, spectrogram


def png(figure: Figure) -> bytes:
    """The picture, drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_a_spectrogram_agrees_with_a_fourier_transform_by_hand() -> None:
    rate, hop, window, size = 8000, 80, 200, 256
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    image = spectrogram(noise, rate).axes[0].images[0]
    padded = np.pad(noise.double().numpy(), size // 2)
    hann = np.zeros(size)
    start = (size - window) // 2
    hann[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = [padded[k * hop : k * hop + size] * hann for k in range(2000 // hop + 1)]
    magnitude = np.abs(
        [
            [(frame * np.exp(-2j * np.pi * f * np.arange(size) / size)).sum() for f in range(size // 2 + 1)]
            for frame in frames
        ]
    ).T
    np.testing.assert_allclose(
        image.get_array(), np.maximum(20 * np.log10(magnitude / magnitude.max()), -80), atol=1e-6
    )


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_tone_lies_at_its_moment_and_frequency(rate: int) -> None:
    """1.5 kHz in the second half of two seconds, nothing before."""
    time = torch.arange(2 * rate) / rate
    figure = spectrogram((time >= 1) * torch.sin(2 * torch.pi * 1500 * time), rate)
    axes = figure.axes[0]
    (image,) = axes.images
    level = np.asarray(image.get_array())
    left, right, low, high = image.get_extent()
    row = level.max(1).argmax()
    assert low + (row + 0.5) * (high - low) / len(level) == pytest.approx(1.5, abs=0.05)
    loud = left + (np.flatnonzero(level.max(0) > -40) + 0.5) * (right - left) / level.shape[1]
    assert (loud.min(), loud.max()) == pytest.approx((1, 2), abs=0.03)
    assert axes.get_xlim() == (0, 2)
    assert axes.get_ylim() == (0, rate / 2000)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "frequency (kHz)")
    png(figure)


def test_loudness_and_type_of_a_sound_do_not_change_its_picture() -> None:
    samples = torch.randint(-(2**15), 2**15, (4000,), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    pictures = [
        spectrogram(waveform, 8000).axes[0].images[0].get_array()
        for waveform in (samples, samples.numpy(), samples / 2**15, samples.double() / 2**20)
    ]
    for picture in pictures[1:]:
        np.testing.assert_allclose(picture, pictures[0], atol=1e-6)


@pytest.mark.parametrize(("waveform", "level"), [(torch.zeros(8000), -80), (torch.tensor([0.5]), 0)])
def test_silence_and_a_single_click_have_a_picture_of_one_colour(waveform: torch.Tensor, level: float) -> None:
    figure = spectrogram(waveform, 8000)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), level, atol=1e-6)
    png(figure)


def test_a_spectrogram_on_given_axes_of_a_grid() -> None:
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots(1, 2)
    assert spectrogram(torch.randn(4000), 8000, ax=axes[1]) is figure
    assert not axes[0].images
    assert len(axes[1].images) == 1


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [
        ((2, 800), 8000, r"shape \[2, 800\]"),
        ((800,), -1, "positive whole number"),
        ((800,), 50, "at least 100 .* is 50"),
    ],
)
def test_sounds_without_a_spectrogram_are_refused(shape: tuple[int, ...], rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectrogram(torch.zeros(shape), rate)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16"])
def test_a_player_carries_the_samples_of_its_sound(kind: str) -> None:
    samples = np.array([0, 1, -1, 12345, 2**15 - 1, -(2**15)], dtype=np.int16)
    waveform = samples if kind == "int16" else torch.from_numpy(samples / 2**15).to(getattr(torch, kind))
    html = audio_html(waveform, 22050, 'a "dog" & more')
    (encoded,) = re.findall(r'src="data:audio/wav;base64,([^"]*)"', html)
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(6), dtype="<i2"), samples)
    assert html.count("a &quot;dog&quot; &amp; more") == 2


def test_a_sound_beyond_full_scale_keeps_its_shape() -> None:
    """Clipped, its two peaks would be equal."""
    (encoded,) = re.findall(r"base64,([^\"]*)", audio_html(torch.tensor([2.0, -4.0, 1.0]), 8000, ""))
    samples = np.frombuffer(base64.b64decode(encoded)[44:], dtype="<i2")
    np.testing.assert_array_equal(samples, [2**14, -(2**15), 2**13])


@pytest.mark.parametrize(
    ("waveform", "sample_rate", "message"),
    [
        (torch.zeros(2, 100), 8000, r"`waveform` must be one channel .* shape \[2, 100\]. Take one channel"),
        (torch.zeros(0), 8000, r"`waveform` must be one channel of at least one sample"),
        (torch.zeros(10, dtype=torch.int32), 8000, "`waveform` must be int16 or fractions .* is int32"),
        (torch.tensor([0.0, math.nan]), 8000, "`waveform` must be finite"),
        (torch.zeros(80_001), 8000, "`waveform` must last at most 10 s, .* lasts 10.0 s. Cut it"),
        (torch.zeros(10), 0, "`sample_rate` must be a positive whole number"),
        (torch.zeros(10), 44.1, "`sample_rate` must be a positive whole number .* is 44.1"),
    ],
)
def test_sounds_that_cannot_be_carried_are_refused(waveform: torch.Tensor, sample_rate: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audio_html(waveform, sample_rate, "")


class TestMisclassifiedClips:
    CLIPS = [torch.full((1000 + k,), k + 1, dtype=torch.int16) for k in range(12)]  # noqa: RUF012

    def section(self, logits: torch.Tensor, labels: torch.Tensor, **more: Any) -> tuple[str, str]:
        names = [f"<{k}>.wav" for k in range(12)]
        return misclassified_clips(logits, labels, self.CLIPS, names, ["dog", "R&B", "siren"], 1000, **more)

    def test_the_surest_come_first(self) -> None:
        labels = torch.zeros(12, dtype=torch.long)
        logits = torch.zeros(12, 3)
        logits[:, 1] = torch.arange(12) / 4.0  # clip 0 is a tie, which goes to the first class
        title, html = self.section(logits, labels, shown=3, seconds=0.5)
        assert title == "Misclassified clips to hear"
        assert "11 of 12 test clips are wrongly classified. Here are the 3 of the highest confidence" in html
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
        sure = [100 * torch.tensor([0.0, k / 4, 0.0]).softmax(0)[1].item() for k in (11, 10, 9)]
        assert captions == [
            f"dog, taken for R&amp;B with a confidence of {value:.0f} %. The first 0.5 of 1.0 s." for value in sure
        ]
        assert html.count("<audio") == 3
        assert "&lt;11&gt;.wav" in html
        sounds = re.findall(r'src="data:audio/wav;base64,([^"]+)"', html)
        with wave.open(io.BytesIO(base64.b64decode(sounds[0]))) as file:
            assert (file.getnframes(), file.getframerate()) == (500, 1000)
            assert set(np.frombuffer(file.readframes(500), "<i2")) == {12}

    def test_nothing_is_wrong(self) -> None:
        labels = torch.arange(12) % 3
        assert "There are none" in self.section(torch.eye(3)[labels], labels)[1]

    def test_several_labels_a_clip(self) -> None:
        """By the loss, and with what is there beside what is said."""
        labels = torch.zeros(12, 3, dtype=torch.bool)
        labels[3, ::2] = labels[5, 1] = True
        logits = torch.where(labels, 4.0, -4.0)
        logits[3] = torch.tensor([-2.0, 3.0, -5.0])
        logits[5] = torch.tensor([-2.0, -1.0, -3.0])
        html = self.section(logits, labels, seconds=0.5, shown=1)[1]
        assert "2 of 12 test clips have labels that are missed or wrongly said. Here are the 1 of the greatest" in html
        assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [
            "dog, siren. Said: R&amp;B (95 %). The first 0.5 of 1.0 s."
        ]
        assert "There are none: every label of every" in self.section(torch.where(labels, 1.0, -1.0), labels)[1]
