"""Focal loss."""

from __future__ import annotations

from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss, check_class_weights
from ltaug.losses.functional import focal_loss
from ltaug.priors import Counts


class FocalLoss(ClassLoss):
    """Focal loss with softmax: w_y (1 - p_y)^gamma * -log p_y.

    Lin et al. (ICCV 2017, https://arxiv.org/abs/1708.02002). p_y is the model's probability, with the gradient through
    it. Released long-tail codes differ from one another where there are class weights: some take p = exp(-w_y CE),
    which this is not.

    Args:
        gamma: exponent; 0 is cross-entropy. 1 in the released codes of LDAM-DRW and IC, 2 in LADE's.
        class_weights: w, [C]; :func:`effective_number_weights` make it CB-Focal.
        reduction: "mean" (over samples, not over weights), "sum" or "none".
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    >>> import torch
    >>> FocalLoss(gamma=0.0)(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.6931)
    """

    class_weights: Tensor | None

    @checked
    def __init__(
        self,
        gamma: float = 1.0,
        class_weights: Counts | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        if not gamma >= 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        self.gamma = float(gamma)
        self.keep("class_weights", check_class_weights(class_weights))

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``."""
        return focal_loss(logits, targets, self.gamma, self.class_weights, self.reduction)
