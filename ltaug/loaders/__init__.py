"""Loaders whose batches are the same on any number of processes.

Small sets of images, sounds or any tensors are held in memory; large ones are read by the workers of a ``DataLoader``.
"""

from ltaug.loaders.resident import ResidentLoader, random_crop_flip
from ltaug.loaders.seeded import GlobalBatchSampler, SamplePair, SeededDataset
from ltaug.loaders.seeded_loader import SeededLoader
from ltaug.loaders.stream import ClassPowerStream
from ltaug.loaders.waveform import ResidentWaveformLoader

__all__ = [
    "ClassPowerStream",
    "GlobalBatchSampler",
    "ResidentLoader",
    "ResidentWaveformLoader",
    "SamplePair",
    "SeededDataset",
    "SeededLoader",
    "random_crop_flip",
]
