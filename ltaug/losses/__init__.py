"""Losses: ``Loss(class_counts, ...)``, ``loss(logits, targets)``, targets as in ``torch.nn.CrossEntropyLoss``.

:class:`PriorCorrectedBCELoss` and :class:`DistributionBalancedLoss` are for labels that may come together, with targets
as in ``torch.nn.BCEWithLogitsLoss``.
"""

from ltaug.losses import functional
from ltaug.losses.cdt import CDTLoss
from ltaug.losses.focal import FocalLoss
from ltaug.losses.label_aware_smoothing import LabelAwareSmoothingLoss, smoothing_factors
from ltaug.losses.lade import LADELoss
from ltaug.losses.ldam import LDAMLoss
from ltaug.losses.multi_label import DistributionBalancedLoss, PriorCorrectedBCELoss
from ltaug.losses.prior_corrected import BalancedSoftmaxLoss, BayiasLoss, LogitAdjustedLoss, PriorCorrectedLoss
from ltaug.losses.weights import (
    ClassWeightedLoss,
    DeferredLoss,
    effective_number_weights,
    frequency_weights,
    inverse_frequency_weights,
)

__all__ = [
    "BalancedSoftmaxLoss",
    "BayiasLoss",
    "CDTLoss",
    "ClassWeightedLoss",
    "DeferredLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "LADELoss",
    "LDAMLoss",
    "LabelAwareSmoothingLoss",
    "LogitAdjustedLoss",
    "PriorCorrectedBCELoss",
    "PriorCorrectedLoss",
    "effective_number_weights",
    "frequency_weights",
    "functional",
    "inverse_frequency_weights",
    "smoothing_factors",
]
