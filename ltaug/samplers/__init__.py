"""Samplers whose order is a pure function of (seed, epoch), so that all ranks of a run agree on it."""

from ltaug.samplers.class_aware import ClassAwareSampler
from ltaug.samplers.class_power import ClassPowerSampler
from ltaug.samplers.deferred import DeferredSampler
from ltaug.samplers.effective_number import EffectiveNumberSampler
from ltaug.samplers.pair import PairDataset, PairSampler
from ltaug.samplers.progressively_balanced import ProgressivelyBalancedSampler
from ltaug.samplers.repeat_factor import RepeatFactorSampler

__all__ = [
    "ClassAwareSampler",
    "ClassPowerSampler",
    "DeferredSampler",
    "EffectiveNumberSampler",
    "PairDataset",
    "PairSampler",
    "ProgressivelyBalancedSampler",
    "RepeatFactorSampler",
]
