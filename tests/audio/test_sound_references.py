"""What is computed here, against librosa and torchaudio, which compute it in their own ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sound_support import RATE, tone

from ltaug.audio import LogMel, ResidentWaveformLoader, pitch, pitch_versions, shift_pitch

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
