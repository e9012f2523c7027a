"""LADE."""

from __future__ import annotations

from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss
from ltaug.losses.functional import lade_loss
from ltaug.priors import Counts, as_counts, class_prior


class LADELoss(ClassLoss):
    """LADE: Balanced Softmax and a regulariser that makes the logits the log density ratio.

    Hong et al. (CVPR 2021, Eq. 15-20, https://arxiv.org/abs/2012.00321):

    L = CE(z + log p_s) + alpha * sum_{c in the batch} p_s(c) L_c with

        L_c = -(1 / N_c) sum_{i: y_i = c} z_i[c] + log A_c + lambda (log A_c)^2,
        A_c = (1 / N) sum_i p_u(y_i) / p_s(y_i) * exp(z_i[c]).

    The logits are then free of the training prior: at test time add the log of the target prior, nothing for a uniform
    one. The released code differs: its weights are those of the logit's class, and it sums over absent classes, too
    (``mode="official_code"``). Its defaults on the command line override its files; the paper's values are

    ============== ======== =============
    data           alpha    remine_lambda
    ============== ======== =============
    CIFAR-100-LT   0.01     0.01           (alpha 0.1 at imbalance ratio 100)
    Places-LT      0.005    0.1
    ImageNet-LT    0.05     0.5
    iNaturalist    0.05     0.5
    ============== ======== =============

    Args:
        class_counts: training samples a class, [C], all positive.
        alpha: weight of the regulariser; 0 is Balanced Softmax.
        remine_lambda: weight of the regulariser's squared term; 0 fails badly with many classes.
        mode: "paper" or "official_code".
        reduction: of the cross-entropy; see :func:`ltaug.losses.functional.lade_loss`.
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    >>> import torch
    >>> loss = LADELoss(class_counts=[90, 10], alpha=0.1)
    >>> loss(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).isfinite()
    tensor(True)
    """

    prior: Tensor

    @checked
    def __init__(
        self,
        class_counts: Counts,
        alpha: float = 0.1,
        remine_lambda: float = 0.1,
        mode: str = "paper",
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        if mode not in ("paper", "official_code"):
            raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
        if remine_lambda < 0:
            raise ValueError(f"`remine_lambda` must not be negative, but is {remine_lambda}.")
        self.alpha = float(alpha)
        self.remine_lambda = float(remine_lambda)
        self.mode = mode
        self.keep("prior", class_prior(as_counts(class_counts, integers=False, positive=True)))

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of raw ``logits`` [N, C, ...] against ``targets``."""
        return lade_loss(logits, targets, self.prior, self.alpha, self.remine_lambda, self.mode, self.reduction)

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        settings = f"alpha={self.alpha}, remine_lambda={self.remine_lambda}, mode={self.mode!r}"
        return f"num_classes={self.prior.numel()}, {settings}"
