"""What is computed here, against librosa and torchaudio, which compute it in their own ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sound_support import RATE, tone

from ltaug.audio import (
    LogMel,
    ResidentWaveformLoader,
    SpecAugment,
    mel_spectrogram,
    misclassified_clips,
    pitch,
    pitch_versions,
    shift_pitch,
)
from ltaug.mixers.functional import _a_weighting, frame_length, sound_level

pytest.importorskip("librosa")
pytest.importorskip("torchaudio")


class TestLogMel:
    @pytest.mark.parametrize(
        ("rate", "settings"), [(16_000, {}), (8000, {"mels": 40}), (16_000, {"n_fft": 400, "hop_length": 160})]
    )
    def test_is_the_mel_spectrogram_of_librosa(self, rate: int, settings: dict[str, int]) -> None:
        from librosa import feature

        front_end = LogMel(rate, **settings)
        waveforms = (0.1 * torch.randn(2, rate)).numpy()
        window = {"n_fft": front_end.n_fft, "hop_length": front_end.hop_length, "n_mels": settings.get("mels", 64)}
        bands = {"fmin": 20.0, "fmax": rate / 2, "htk": True, "norm": None, "pad_mode": "reflect"}
        expected = feature.melspectrogram(y=waveforms.astype(np.float64), sr=rate, **window, **bands)
        np.testing.assert_allclose(front_end.power(torch.from_numpy(waveforms)), expected, rtol=1e-4, atol=1e-6)
        logarithm = np.log(expected + 1e-6)
        deviation = logarithm.std((1, 2), keepdims=True, ddof=1)
        normalised = (logarithm - logarithm.mean((1, 2), keepdims=True)) / (deviation + 1e-3)
        np.testing.assert_allclose(front_end(torch.from_numpy(waveforms)), normalised, atol=2e-4)


def peak(clip: np.ndarray, rate: int) -> float:
    """Frequency of the loudest tone, Hz."""
    power = np.abs(np.fft.rfft(clip * np.hanning(len(clip)), 8 * len(clip)))
    return power.argmax() * rate / (8 * len(clip))


class TestLevels:
    """Of between-class learning."""

    @pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 5)])
    def test_loudness_is_that_of_torchaudio(self, rate: int, channels: int) -> None:
        from torchaudio.functional import loudness

        clips = torch.randn(9, channels, rate, dtype=torch.float64) * torch.logspace(-3, -1.3, 9)[:, None, None]
        clips[3:, :, : rate // 2] *= 1e-2  # which the gates leave out
        torch.testing.assert_close(sound_level(clips, rate, "loudness"), loudness(clips, rate), rtol=0, atol=1e-9)
        assert loudness(0 * clips, rate).isnan().all()
        assert (sound_level(0 * clips, rate, "loudness") == -70).all()

    @pytest.mark.parametrize("rate", [16_000, 44_100])
    def test_the_weighting_is_that_of_librosa(self, rate: int) -> None:
        from librosa import A_weighting

        frame = frame_length(rate)
        _, weight = _a_weighting(float(rate), frame, torch.device("cpu"), torch.float64)
        frequencies = np.arange(1, frame // 2 + 1) * rate / frame
        np.testing.assert_allclose(10 * weight[2::2].log10(), A_weighting(frequencies), atol=0.006)


class TestStretch:
    @pytest.mark.parametrize("factor", [0.8, 1.25])
    def test_is_the_speed_of_torchaudio(self, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a sound without its highest octaves, which linear interpolation would lose."""
        from torchaudio.functional import speed

        clip = np.rint(20_000 * tone(440, RATE) + 5000 * tone(150, RATE)).astype(np.int16)
        (expected, _) = speed(torch.from_numpy(clip / 32768).float(), RATE, factor)
        length = len(expected) - 1
        loader = ResidentWaveformLoader([clip], [0], batch_size=1, crop_length=length, padding=0, max_scale=1.5)
        drawn = torch.tensor([1 / factor], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        monkeypatch.setattr(loader, "_scales_and_places", lambda batch, stream: drawn)
        ((inputs, _),) = loader
        middle = slice(100, length - 100)  # a longer filter has no neighbours at the ends
        torch.testing.assert_close(inputs[0, middle], expected[middle], rtol=0, atol=0.02)


class TestMelFigure:
    @pytest.mark.parametrize("rate", [8000, 16_000])
    def test_a_tone_lies_at_its_moment_and_frequency(self, rate: int) -> None:
        """1.5 kHz in the second half of two seconds, in the colours of what the network sees, masks left out."""
        time = torch.arange(2 * rate) / rate
        waveform = (time >= 1) * torch.sin(2 * torch.pi * 1500 * time) + 1e-3 * torch.randn(2 * rate)
        front_end = LogMel(rate, masks=SpecAugment(2, 40, 2, 20))
        figure = mel_spectrogram(waveform, front_end)
        assert front_end.training
        axes = figure.axes[0]
        (mesh,) = axes.collections
        seen = np.asarray(mesh.get_array())
        np.testing.assert_allclose(seen, front_end.eval()(waveform[None])[0], atol=1e-5)
        corners = mesh.get_coordinates()
        middle = (corners[1:, 1:] + corners[:-1, :-1]) / 2
        row = seen[:, seen.shape[1] * 3 // 4].argmax()
        assert middle[row, 0, 1] == pytest.approx(1500, rel=0.03)  # a band is some 5 % wide there
        loud = middle[row, seen[row] > seen[row].max() - 2, 0]
        assert (loud.min(), loud.max()) == pytest.approx((1, 2), abs=0.05)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "frequency (Hz), mel scale")

    def test_of_any_clip_and_in_a_report(self) -> None:
        front_end, clips = LogMel(RATE), [torch.zeros(RATE, dtype=torch.int16), torch.ones(1, dtype=torch.int16)]
        for clip in clips:
            assert np.isfinite(mel_spectrogram(clip, front_end).axes[0].collections[0].get_array()).all()
        arguments = torch.eye(2), torch.tensor([1, 1]), clips, ["a.wav", "b.wav"], ["dog", "sea"], RATE
        html = misclassified_clips(*arguments, front_end=front_end)[1]
        assert "in the network's mel bands" in html
        assert "Log-mel spectrogram of a.wav" in html
        assert "Spectrogram of a.wav" in misclassified_clips(*arguments)[1]


class TestPitch:
    CLIPS = [  # noqa: RUF012
        np.rint(20000 * tone(frequency, RATE, seconds)).astype(np.int16)
        for frequency, seconds in ((500, 1.0), (700, 0.2), (500, 1.0))
    ]

    @pytest.mark.parametrize("semitones", [-2.0, 1.0, 12.0])
    def test_of_a_tone_moves_by_the_semitones(self, semitones: float) -> None:
        for clip, frequency in zip(self.CLIPS[:2], (500, 700), strict=True):
            shifted = shift_pitch(clip, RATE, semitones)
            assert shifted.dtype == np.int16
            assert len(shifted) == len(clip)
            middle = shifted[len(clip) // 4 : -len(clip) // 4]
            assert peak(middle, RATE) == pytest.approx(frequency * 2 ** (semitones / 12), rel=0.01)
            assert middle.std() == pytest.approx(clip.std(), rel=0.2)

    def test_clips_of_any_length_and_level(self) -> None:
        from librosa import effects

        for length in (1, 31, 32, 33, 400, 2047):
            assert len(shift_pitch(np.full(length, 99, np.int16), RATE, 2.0)) == length
        assert not shift_pitch(np.zeros(4000, np.int16), RATE, 2.0).any()
        loud = np.where(np.arange(4000) % 20 < 10, 32767, -32768).astype(np.int16)
        expected = effects.pitch_shift(loud / np.float32(32768), sr=RATE, n_steps=3.0)
        assert np.abs(expected).max() > 1.1
        np.testing.assert_allclose(shift_pitch(loud, RATE, 3.0) / 32768, expected.clip(-1, 1), atol=5e-5)

    def test_versions_are_made_once_and_the_loader_draws_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, original = [], pitch.shift_pitch
        monkeypatch.setattr(pitch, "shift_pitch", lambda *given: (made.append(1), original(*given))[1])
        versions = pitch_versions(self.CLIPS, RATE, 2.0, str(tmp_path), workers=2)
        assert len(made) == 8  # four shifts of two clips: equal ones are shifted once
        again = pitch_versions([torch.from_numpy(clip) for clip in self.CLIPS], RATE, 2.0, str(tmp_path))
        assert len(made) == 8
        for version, other, semitones in zip(versions, again, (-2, -1, 1, 2), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(version, other, strict=True))
            assert np.array_equal(version[0], shift_pitch(self.CLIPS[0], RATE, semitones))
        pitch_versions(self.CLIPS[:1], RATE, 1.0, str(tmp_path))
        assert len(made) == 10  # shifts of -1 and +1 are there
        loader = ResidentWaveformLoader(
            self.CLIPS, [0, 1, 2], batch_size=3, crop_length=RATE, padding=0, versions=versions
        )
        heard = {round(12 * np.log2(peak(inputs[0].numpy(), RATE) / 500), 1) for _ in range(30) for inputs, _ in loader}
        assert heard == {-2, -1, 0, 1, 2}

    def test_out_of_range(self) -> None:
        for semitones in (0.0, -1.0, 13.0):
            with pytest.raises(ValueError, match=f"`semitones` must be above 0 and at most 12, .* is {semitones}"):
                pitch_versions(self.CLIPS, RATE, semitones, "none")

    def test_other_samples_than_whole_ones_are_refused(self) -> None:
        quiet = np.linspace(-1, 1, 100)  # as int16 it would be silence
        with pytest.raises(ValueError, match=r"`clip` must be an array, int16 \[T\], but is float64 of shape \[100\]"):
            shift_pitch(quiet, RATE, 1.0)
        with pytest.raises(ValueError, match=r"`clips\[1\]` must be .* int16 of shape \[2, 100\]"):
            pitch_versions([self.CLIPS[0], np.zeros((2, 100), np.int16)], RATE, 1.0, "none")
