"""Classifiers: last layers from features [N, ..., D] to logits [N, ..., C], used like ``torch.nn.Linear``."""

from ltaug.classifiers.bilateral import BilateralBlock, BilateralClassifier, BilateralPairs, cumulative_alpha
from ltaug.classifiers.causal_norm import CausalNormClassifier
from ltaug.classifiers.cosine import CosineClassifier
from ltaug.classifiers.generalized import GeneralizedClassifier
from ltaug.classifiers.nearest_class_mean import NearestClassMeanClassifier
from ltaug.classifiers.tau_norm import tau_normalize
from ltaug.classifiers.weight_scaling import LearnableWeightScaling

__all__ = [
    "BilateralBlock",
    "BilateralClassifier",
    "BilateralPairs",
    "CausalNormClassifier",
    "CosineClassifier",
    "GeneralizedClassifier",
    "LearnableWeightScaling",
    "NearestClassMeanClassifier",
    "cumulative_alpha",
    "tau_normalize",
]
