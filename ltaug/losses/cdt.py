"""Class-dependent temperatures."""

from __future__ import annotations

from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss
from ltaug.losses.functional import cdt_loss
from ltaug.priors import Counts, as_counts


class CDTLoss(ClassLoss):
    """Class-dependent temperatures (CDT): CE(z_c / a_c), a_c = (n_max / n_c)^gamma, in training only.

    Ye et al. (2020, https://arxiv.org/abs/2001.01385). Rare classes must reach a larger logit for the same loss, which
    offsets the drift of their features at test time.

    Args:
        class_counts: training samples a class, [C], all positive.
        gamma: 0 is cross-entropy; chosen on validation data, 0.1 to 0.4 in the paper.
        reduction: "mean", "sum" or "none".
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    >>> CDTLoss(class_counts=[100, 1], gamma=0.5).temperatures
    tensor([ 1., 10.])
    """

    temperatures: Tensor

    @checked
    def __init__(
        self, class_counts: Counts, gamma: float = 0.2, reduction: str = "mean", ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction, ignore_index)
        if not gamma >= 0:
            raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
        counts = as_counts(class_counts, positive=True).double()
        self.gamma = float(gamma)
        self.keep("temperatures", (counts.max() / counts) ** gamma, "gamma")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``."""
        return cdt_loss(logits, targets, self.temperatures, self.reduction)
