"""Which sample comes next: samplers whose order is a pure function of (seed, epoch), so that all ranks agree on it."""

from ltaug.samplers.class_power import ClassPowerSampler
from ltaug.samplers.pair import PairDataset, PairSampler

__all__ = ["ClassPowerSampler", "PairDataset", "PairSampler"]
