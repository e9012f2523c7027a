"""Prior correction of logits, the one shift that training losses and test-time corrections share, and calibration."""

from ltaug.posthoc.binary import (
    LabelwisePriorShift,
    LabelwiseTemperatureScaling,
    PlattScaling,
    estimate_label_prior,
    log_odds_shift,
    shift_binary_logits,
)
from ltaug.posthoc.calibration import BiasCorrectedTemperatureScaling, TemperatureScaling, VectorScaling
from ltaug.posthoc.matrix import StructuredMatrixScaling
from ltaug.posthoc.prior_shift import PriorShift
from ltaug.posthoc.search import search_strength, strength_curve
from ltaug.posthoc.shift import log_prior_shift, shift_logits

__all__ = [
    "BiasCorrectedTemperatureScaling",
    "LabelwisePriorShift",
    "LabelwiseTemperatureScaling",
    "PlattScaling",
    "PriorShift",
    "StructuredMatrixScaling",
    "TemperatureScaling",
    "VectorScaling",
    "estimate_label_prior",
    "log_odds_shift",
    "log_prior_shift",
    "search_strength",
    "shift_binary_logits",
    "shift_logits",
    "strength_curve",
]
