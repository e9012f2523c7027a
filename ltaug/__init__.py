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
from ltaug.integrations.datasets import labels_of
from ltaug.labelshift import RunningPrior, estimate_prior
from ltaug.loaders import (
    ClassPowerStream,
    GlobalBatchSampler,
    ResidentLoader,
    ResidentWaveformLoader,
    SeededDataset,
    SeededLoader,
)
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
    DistributionBalancedLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PriorCorrectedBCELoss,
    PriorCorrectedLoss,
    effective_number_weights,
    frequency_weights,
    inverse_frequency_weights,
)
from ltaug.methods import METHODS, Method, TrainingPlan
from ltaug.metrics import classification_report, multilabel_report
from ltaug.mixers import BetweenClass, CutMix, ManifoldMixUp, MixUp, ReMix, UniMix
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    LabelwisePriorShift,
    LabelwiseTemperatureScaling,
    PlattScaling,
    PriorShift,
    StructuredMatrixScaling,
    TemperatureScaling,
    VectorScaling,
    estimate_label_prior,
    search_strength,
    shift_binary_logits,
    shift_logits,
)
from ltaug.priors import (
    class_counts,
    class_prior,
    effective_number,
    label_counts,
    label_prior,
    multi_hot,
    rarest_label,
    shot_groups,
)
from ltaug.run import RunFolder
from ltaug.samplers import (
    ClassAwareSampler,
    ClassPowerSampler,
    DeferredSampler,
    EffectiveNumberSampler,
    PairDataset,
    PairSampler,
    ProgressivelyBalancedSampler,
    RepeatFactorSampler,
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
    "ClassPowerStream",
    "ClassWeightedLoss",
    "CosineClassifier",
    "CutMix",
    "DeferredLoss",
    "DeferredSampler",
    "DistributionBalancedLoss",
    "EffectiveNumberSampler",
    "FocalLoss",
    "GeneralizedClassifier",
    "GlobalBatchSampler",
    "LADELoss",
    "LDAMLoss",
    "LabelAwareSmoothingLoss",
    "LabelwisePriorShift",
    "LabelwiseTemperatureScaling",
    "LearnableWeightScaling",
    "LogitAdjustedLoss",
    "ManifoldMixUp",
    "Method",
    "MixUp",
    "NearestClassMeanClassifier",
    "PairDataset",
    "PairSampler",
    "PlattScaling",
    "PriorCorrectedBCELoss",
    "PriorCorrectedLoss",
    "PriorShift",
    "ProgressivelyBalancedSampler",
    "ReMix",
    "RepeatFactorSampler",
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
    "estimate_label_prior",
    "estimate_prior",
    "exponential_counts",
    "frequency_weights",
    "index_hash",
    "inverse_frequency_weights",
    "label_counts",
    "label_prior",
    "labels_of",
    "multi_hot",
    "multilabel_report",
    "pareto_counts",
    "profile_counts",
    "rarest_label",
    "search_strength",
    "shift_binary_logits",
    "shift_logits",
    "shifted_counts",
    "shot_groups",
    "step_counts",
    "subsample",
    "tau_normalize",
]
