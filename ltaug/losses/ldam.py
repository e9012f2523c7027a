"""LDAM."""

from __future__ import annotations

from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss, check_class_weights
from ltaug.losses.functional import ldam_loss
from ltaug.priors import Counts, as_counts


class LDAMLoss(ClassLoss):
    """Label-distribution-aware margins (LDAM): CE(s (z - Delta_y e_y)), with larger margins for rarer classes.

    Delta_j ~ n_j^(-1/4), the largest being ``max_margin`` (Cao et al., NeurIPS 2019, Eq. 13,
    https://arxiv.org/abs/1906.07413). The logits must be cosines: use :class:`~ltaug.classifiers.CosineClassifier` with
    scale 1 as the last layer.

    Args:
        class_counts: training samples a class, [C], all positive.
        max_margin: margin of the rarest class.
        scale: s.
        class_weights: [C]; for deferred re-weighting see :class:`DeferredLoss`.
        reduction: "mean" (over samples, not over weights), "sum" or "none".
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    >>> LDAMLoss(class_counts=[10000, 1]).margins
    tensor([0.0500, 0.5000])
    """

    margins: Tensor
    class_weights: Tensor | None

    @checked
    def __init__(
        self,
        class_counts: Counts,
        max_margin: float = 0.5,
        scale: float = 30.0,
        class_weights: Counts | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        if not max_margin >= 0:
            raise ValueError(f"`max_margin` must not be negative, but is {max_margin}.")
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, but is {scale}.")
        margins = as_counts(class_counts, positive=True).double() ** -0.25
        self.scale = float(scale)
        self.keep("margins", margins * (max_margin / margins.max()), "max_margin")
        self.keep("class_weights", check_class_weights(class_weights, margins.numel()))

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of cosines ``logits`` [N, C, ...] against ``targets``."""
        return ldam_loss(logits, targets, self.margins, self.scale, self.class_weights, self.reduction)
