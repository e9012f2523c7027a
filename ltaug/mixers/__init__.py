"""Mixers: ``mixer(inputs, targets, partner_inputs=None, partner_targets=None) -> (inputs, dense targets)``."""

from ltaug.mixers import functional
from ltaug.mixers._base import Mixer
from ltaug.mixers.mixup import MixUp
from ltaug.mixers.unimix import UniMix

__all__ = ["MixUp", "Mixer", "UniMix", "functional"]
