"""Mixers: ``mixer(inputs, targets, partner_inputs=None, partner_targets=None) -> (inputs, dense targets)``."""

from ltaug.mixers import functional
from ltaug.mixers._base import Mixer
from ltaug.mixers.between_class import BetweenClass
from ltaug.mixers.cutmix import CutMix
from ltaug.mixers.manifold_mixup import ManifoldMixUp
from ltaug.mixers.mixup import MixUp
from ltaug.mixers.occurrence_mixup import OccurrenceMixUp
from ltaug.mixers.remix import ReMix
from ltaug.mixers.unimix import UniMix

__all__ = [
    "BetweenClass",
    "CutMix",
    "ManifoldMixUp",
    "MixUp",
    "Mixer",
    "OccurrenceMixUp",
    "ReMix",
    "UniMix",
    "functional",
]
