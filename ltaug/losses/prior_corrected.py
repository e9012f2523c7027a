"""Prior-corrected cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss
from ltaug.losses.functional import prior_corrected_cross_entropy
from ltaug.posthoc.shift import as_target, log_prior_shift
from ltaug.priors import Counts, as_counts


class PriorCorrectedLoss(ClassLoss):
    """Cross-entropy of z + tau * (log pi - log pi'), pi the training prior and pi' the prior of the test set.

    One loss with several names, each a setting of it:

    - **Bayias** (UniMix, Xu et al., NeurIPS 2021, Eq. 14-15, https://arxiv.org/abs/2111.03874): tau = 1, any pi';
    - **Balanced Softmax** (Ren et al., NeurIPS 2020, https://arxiv.org/abs/2007.10740), LADE's
      cross-entropy term: tau = 1;
    - **logit adjustment** (Menon et al., ICLR 2021, https://arxiv.org/abs/2007.07314): any tau.

    With a uniform pi' and tau = 1 they agree up to a constant in the logits, which softmax cancels. Use the raw logits
    at test time: they are then under pi' (for tau = 1), so ``logits_prior`` of the trained model is uniform by default.

    Args:
        class_counts: training samples a class, [C]; all positive. Where mixing or sampling changes the label
            distribution that the network is trained on, give that distribution instead: any positive numbers work.
        tau: strength; 0 is plain cross-entropy.
        target_prior: pi', [C]; by default uniform.
        reduction: "mean", "sum" or "none".
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    Shapes:
        logits [N, C, ...]; targets int [N, ...], or probabilities [N, C, ...], for which the loss is sum_c t_c *
        loss(c).

    Raises:
        ValueError: a class has no sample (the message names it), or sizes do not fit.

    >>> loss = PriorCorrectedLoss(class_counts=[900, 90, 10])
    >>> logits = torch.zeros(2, 3, requires_grad=True)
    >>> loss(logits, torch.tensor([0, 2])).backward()
    """

    shift: Tensor

    @checked
    def __init__(
        self,
        class_counts: Counts,
        tau: float = 1.0,
        target_prior: Counts | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        counts = as_counts(class_counts, integers=False, positive=True)
        uniform = torch.ones_like(counts)  # not anew: inside `torch.device("meta")` that would have no values
        target = uniform if target_prior is None else as_target(target_prior, len(counts))
        if not math.isfinite(tau):
            raise ValueError(f"`tau` must be finite, but is {tau}.")
        shift = log_prior_shift(target, counts, tau)
        self.tau = float(tau)
        self.keep("shift", shift, "tau")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of raw ``logits`` [N, C, ...] against ``targets``."""
        return prior_corrected_cross_entropy(logits, targets, self.shift, self.reduction)

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        return f"num_classes={self.shift.numel()}, tau={self.tau}, reduction={self.reduction!r}"


BayiasLoss = PriorCorrectedLoss
"""UniMix's name for :class:`PriorCorrectedLoss` with tau = 1."""
BalancedSoftmaxLoss = PriorCorrectedLoss
"""Ren et al.'s name for :class:`PriorCorrectedLoss` with tau = 1 and a uniform target."""
LogitAdjustedLoss = PriorCorrectedLoss
"""Menon et al.'s name for :class:`PriorCorrectedLoss`, any tau."""
