"""A reader of sounds without labels: from what is stored to the crops that a network hears, or to raw recordings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ltaug.audio.decoding import read_clip
from ltaug.loaders import ResidentWaveformLoader
from ltaug.unlabelled import Decoded, SampleReader, same_sizes

__all__ = ["SoundReader"]


class SoundReader(SampleReader):
    """Sounds of any length and rate: the crops or windows of the recipe's test clips; raw float32 [T] in -1..1.

    Args:
        preprocessing: of a run's ``ltaug.json``.
        raw: leave them as an exported file takes them, which has the crops inside.
    """

    batch_size = 8

    def __init__(self, preprocessing: Mapping[str, Any], raw: bool = False) -> None:
        self.preprocessing, self.raw = dict(preprocessing), raw
        for name in ("soundfile", "soxr"):
            importlib.import_module(name)  # here, not in every worker process

    def read(self, stored: Any) -> Decoded:
        """Decode, resample and trim a sound, int16 [T]; raw, divided by 32768.

        Raises:
            ValueError: it cannot be read; the message is the reason.
        """
        values = self.preprocessing
        clip = read_clip(stored, values["sample_rate"], values["trim_silence"], values.get("trim_db"))
        note = "is silent, of one value from end to end" if clip.min() == clip.max() else ""
        samples = torch.from_numpy(clip)
        return Decoded(samples / 32768 if self.raw else samples, note)

    def collate(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Leave clips of several lengths beside each other; stack raw neighbours of one length."""
        return same_sizes(samples) if self.raw else list(samples)

    def inputs(self, samples: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Crops of all clips, [N, K, crop_length], or the windows of each, as the recipe's loader takes them."""
        if self.raw:
            return [each.to(device) for each in samples]
        values = self.preprocessing
        how: dict[str, Any] = {"batch_size": len(samples), "crops": values["test_crops"]}
        if values.get("test_hop"):
            how = {"batch_size": 1, "hop": round(values["test_hop"] * values["sample_rate"])}
        labels = torch.zeros(len(samples), dtype=torch.int64)
        loader = ResidentWaveformLoader(list(samples), labels, crop_length=values["crop_length"], device=device, **how)
        return [crops for crops, _ in loader]
