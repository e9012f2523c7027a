"""Losses: ``Loss(class_counts, ...)``, ``loss(logits, targets)``, targets as in ``torch.nn.CrossEntropyLoss``."""

from ltaug.losses import functional
from ltaug.losses.prior_corrected import BalancedSoftmaxLoss, BayiasLoss, LogitAdjustedLoss, PriorCorrectedLoss

__all__ = ["BalancedSoftmaxLoss", "BayiasLoss", "LogitAdjustedLoss", "PriorCorrectedLoss", "functional"]
