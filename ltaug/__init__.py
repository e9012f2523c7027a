"""ltaug: recognition that works when the classes are long-tailed.

>>> import torch
>>> from ltaug import BayiasLoss, MixUp
>>> class_counts = torch.tensor([900, 90, 10])
>>> mixer, criterion = MixUp(num_classes=3), BayiasLoss(class_counts)
>>> inputs, targets = mixer(torch.rand(8, 3, 32, 32), torch.randint(3, (8,)))
>>> logits = torch.randn(8, 3)
>>> criterion(logits, targets).isfinite()
tensor(True)
"""

from ltaug.analysis import effective_prior
from ltaug.classifiers import (
    CausalNormClassifier,
    CosineClassifier,
    GeneralizedClassifier,
    LearnableWeightScaling,
    NearestClassMeanClassifier,
    tau_normalize,
)
from ltaug.labelshift import RunningPrior, estimate_prior
from ltaug.loaders import GlobalBatchSampler, ResidentLoader, ResidentWaveformLoader, SeededDataset, SeededLoader
from ltaug.longtail import (
    exponential_counts,
    index_hash,
    pareto_counts,
    profile_counts,
    shifted_counts,
    step_counts,
    subsample,
)
from ltaug.losses import (
    BalancedSoftmaxLoss,
    BayiasLoss,
    CDTLoss,
    ClassWeightedLoss,
    DeferredLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PriorCorrectedLoss,
    effective_number_weights,
)
from ltaug.methods import METHODS, Method, TrainingPlan
from ltaug.metrics import classification_report
from ltaug.mixers import BetweenClass, CutMix, ManifoldMixUp, MixUp, ReMix, UniMix
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    PriorShift,
    StructuredMatrixScaling,
    TemperatureScaling,
    VectorScaling,
    search_strength,
    shift_logits,
)
from ltaug.priors import class_counts, class_prior, effective_number, shot_groups
from ltaug.run import RunFolder
from ltaug.samplers import (
    ClassAwareSampler,
    ClassPowerSampler,
    DeferredSampler,
    EffectiveNumberSampler,
    PairDataset,
    PairSampler,
    ProgressivelyBalancedSampler,
)

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BalancedSoftmaxLoss",
    "BayiasLoss",
    "BetweenClass",
    "BiasCorrectedTemperatureScaling",
    "CDTLoss",
    "CausalNormClassifier",
    "ClassAwareSampler",
    "ClassPowerSampler",
    "ClassWeightedLoss",
    "CosineClassifier",
    "CutMix",
    "DeferredLoss",
    "DeferredSampler",
    "EffectiveNumberSampler",
    "FocalLoss",
    "GeneralizedClassifier",
    "GlobalBatchSampler",
    "LADELoss",
    "LDAMLoss",
    "LabelAwareSmoothingLoss",
    "LearnableWeightScaling",
    "LogitAdjustedLoss",
    "ManifoldMixUp",
    "Method",
    "MixUp",
    "NearestClassMeanClassifier",
    "PairDataset",
    "PairSampler",
    "PriorCorrectedLoss",
    "PriorShift",
    "ProgressivelyBalancedSampler",
    "ReMix",
    "ResidentLoader",
    "ResidentWaveformLoader",
    "RunFolder",
    "RunningPrior",
    "SeededDataset",
    "SeededLoader",
    "StructuredMatrixScaling",
    "TemperatureScaling",
    "TrainingPlan",
    "UniMix",
    "VectorScaling",
    "class_counts",
    "class_prior",
    "classification_report",
    "effective_number",
    "effective_number_weights",
    "effective_prior",
    "estimate_prior",
    "exponential_counts",
    "index_hash",
    "pareto_counts",
    "profile_counts",
    "search_strength",
    "shift_logits",
    "shifted_counts",
    "shot_groups",
    "step_counts",
    "subsample",
    "tau_normalize",
]
