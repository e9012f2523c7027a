"""What is computed here, against librosa and torchaudio, which compute it in their own ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltaug.audio import LogMel

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
