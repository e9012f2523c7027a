"""Class weights, for any loss, from the start or from an epoch on."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from ltaug.losses._base import ClassLoss, check_class_weights
from ltaug.losses.functional import prepare, reduce, split_ignored
from ltaug.losses.lade import LADELoss
from ltaug.priors import Counts, as_counts, effective_number

__all__ = ["ClassWeightedLoss", "DeferredLoss", "effective_number_weights"]


def effective_number_weights(class_counts: Counts, beta: float = 0.9999) -> Tensor:
    """Class-balanced weights, w_y ~ (1 - beta) / (1 - beta^n_y), scaled to sum to C.

    Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555).

    Args:
        class_counts: training samples a class, [C], all positive.
        beta: in [0, 1); 0 gives 1 everywhere, -> 1 the inverse frequency.

    Returns:
        float64 [C].

    >>> effective_number_weights([100, 1], beta=0.9)
    tensor([0.1818, 1.8182], dtype=torch.float64)
    """
    weights = 1.0 / effective_number(as_counts(class_counts, positive=True), beta)
    return weights * (weights.numel() / weights.sum())


class ClassWeightedLoss(ClassLoss):
    """Weight every sample of a loss by its class: w_y * loss, averaged over samples.

    ``nn.CrossEntropyLoss(weight=...)`` divides by the sum of the weights in the batch instead, which undoes a part of
    them in every batch. Probabilities as targets give sum_c t_c w_c loss(c).

    Args:
        loss: any loss of this library but LADE, or ``nn.CrossEntropyLoss``; it must be linear in probabilities as
            targets and have a ``reduction``, which is adopted. A copy is kept; the loss itself is not changed.
        class_weights: w, [C]; :func:`effective_number_weights` are the class-balanced ones.

    Raises:
        ValueError: the loss is not a mean over samples, or not linear (torch's ``label_smoothing``).

    >>> import torch
    >>> loss = ClassWeightedLoss(nn.CrossEntropyLoss(), class_weights=[1.0, 3.0])
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(1.3863)
    """

    class_weights: Tensor

    def __init__(self, loss: nn.Module, class_weights: Tensor) -> None:
        super().__init__(str(getattr(loss, "reduction", "mean")))
        if isinstance(loss, LADELoss | DeferredLoss | ClassWeightedLoss) or not hasattr(loss, "reduction"):
            raise ValueError(
                f"`loss` must be a mean over samples with a `reduction`, but is a {type(loss).__name__}. Wrap the loss "
                "of each phase before deferring it; LADE's regulariser is one number a batch and cannot be weighted."
            )
        if getattr(loss, "label_smoothing", 0.0):
            raise ValueError(
                "`loss` must be linear in probabilities as targets, which torch's `label_smoothing` is not. Use "
                '`LabelAwareSmoothingLoss(class_counts, head=eps, tail=eps, mode="official_code")`, which is the same.'
            )
        self.loss = copy.deepcopy(loss)  # the given loss may be used without weights, too
        self.loss.reduction = "none"  # type: ignore[assignment]
        self.keep("class_weights", check_class_weights(class_weights))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted loss of ``logits`` [N, C, ...] against ``targets``."""
        weights = self.class_weights
        logits, targets = prepare(logits, targets, weights.numel())
        if targets.is_floating_point():
            weighted = targets * weights.to(targets).view(1, -1, *[1] * (targets.ndim - 2))
            return reduce(self.loss(logits, weighted), self.reduction)
        targets, kept = split_ignored(targets)
        loss: Tensor = self.loss(logits, targets)
        return reduce(loss * weights.to(loss)[targets], self.reduction, kept)


class DeferredLoss(nn.Module):
    """Deferred re-weighting (DRW): one loss before an epoch, another from that epoch on.

    Usually a plain loss first, then its class-weighted form (Cao et al., NeurIPS 2019,
    https://arxiv.org/abs/1906.07413).

    Args:
        first: the loss of the epochs before ``epoch``.
        then: the loss from ``epoch`` on.
        epoch: the switch, counted from 0; 160 of 200 in the paper.

    >>> plain = nn.CrossEntropyLoss()
    >>> weighted = ClassWeightedLoss(nn.CrossEntropyLoss(), effective_number_weights([100, 1]))
    >>> loss = DeferredLoss(plain, weighted, epoch=160)
    >>> loss.set_epoch(160)
    >>> loss.current is weighted
    True
    """

    def __init__(self, first: nn.Module, then: nn.Module, epoch: int) -> None:
        super().__init__()
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        self.first = first
        self.then = then
        self.switch_epoch = int(epoch)
        self.epoch = 0

    @property
    def current(self) -> nn.Module:
        """The loss of this epoch."""
        return self.first if self.epoch < self.switch_epoch else self.then

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, counted from 0."""
        self.epoch = int(epoch)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``, by the loss of this epoch."""
        loss: Tensor = self.current(logits, targets)
        return loss
