"""Losses of labels that do not exclude each other: a sigmoid a label, not one softmax."""

from __future__ import annotations

import math

from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import LabelLoss
from ltaug.losses.functional import distribution_balanced_loss, prior_corrected_binary_cross_entropy
from ltaug.posthoc.binary import Shares, as_shares, log_odds_shift
from ltaug.priors import Counts, as_counts

__all__ = ["DistributionBalancedLoss", "PriorCorrectedBCELoss"]


class PriorCorrectedBCELoss(LabelLoss):
    """Binary cross-entropy of z + tau * log odds of the prior: logit adjustment for labels that may come together.

    BCE(z_l + tau (log(pi_l / (1 - pi_l)) - log(pi'_l / (1 - pi'_l)))), pi_l the share of the training samples that have
    label l, pi' that of the test set. Binary cross-entropy is least where sigmoid of its argument is p(l | x), whose
    odds are p(x | l) / p(x | not l) * pi_l / (1 - pi_l). So for tau = 1 and pi' = 1/2 (the default) the raw logits
    become the log likelihood ratio, log p(x | l) - log p(x | not l): the binary case of the logit-adjusted loss (Menon
    et al., ICLR 2021, https://arxiv.org/abs/2007.07314). They are the logits under pi': sigmoid(z_l) is calibrated
    where labels are as frequent as pi' says; :func:`ltaug.shift_binary_logits` moves them to any other shares.

    A constant a label does not change the order of the samples: compared with plain binary cross-entropy, average
    precision changes only by another path of training, thresholds and confidences do at once. In a network with a bias,
    it starts where plain binary cross-entropy with a bias of log odds does (Lin et al., ICCV 2017, section 3.3).

    Args:
        prior: pi, share of the training samples that have each label, [L], between 0 and 1
            (:func:`ltaug.label_prior`); one number for a single logit. Where mixing or sampling changes the shares that
            the network is trained on, give those instead.
        tau: strength; 0 is plain binary cross-entropy.
        target_prior: pi', [L], or one number for all labels; 1/2 by default.
        reduction: "mean" (over samples and labels), "sum" or "none".
        ignore_index: what targets hold where a label is not known, such as -1, as in chest X-rays whose report leaves a
            finding open: such an entry has no gradient, and is left out of the mean. Take the prior of the others,
            ``label_prior(rows, ignore_index=-1)``.

    Shapes:
        logits [N, L, ...], targets of the same shape: 0, 1 or between them, also as flags or integers. For one label
        either may be [N], too.

    Raises:
        ValueError: a share is not between 0 and 1 (the message names the label), or sizes do not fit.

    >>> import torch
    >>> loss = PriorCorrectedBCELoss(prior=[0.5, 0.01])
    >>> loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))  # log(2) and log(1 / 0.99), over two labels
    tensor(0.3516)
    """

    shift: Tensor

    @checked
    def __init__(
        self,
        prior: Shares,
        tau: float = 1.0,
        target_prior: Shares | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        shares = as_shares(prior, "prior")
        if target_prior is not None and (target := as_shares(target_prior, "target_prior")).numel() > 1:
            as_shares(target, "target_prior", shares.numel())
        if not math.isfinite(tau):
            raise ValueError(f"`tau` must be finite, but is {tau}.")
        self.tau = float(tau)
        self.keep("shift", log_odds_shift(0.5 if target_prior is None else target_prior, shares, tau), "tau")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of raw ``logits`` [N, L, ...] against ``targets``."""
        return prior_corrected_binary_cross_entropy(logits, targets, self.shift, self.reduction, self.missing)

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        return f"num_labels={self.shift.numel()}, tau={self.tau}, reduction={self.reduction!r}"


class DistributionBalancedLoss(LabelLoss):
    """Distribution-balanced loss: binary cross-entropy re-weighted for labels that come together, mild with negatives.

    Wu et al. (ECCV 2020, https://arxiv.org/abs/2007.09654); the equations are in
    :func:`ltaug.losses.functional.distribution_balanced_loss`. The margins are nu_l = -kappa log(pi_l / (1 - pi_l)),
    pi_l = n_l / N: a rare label must be found with a margin, and its many negatives weigh less once they are beyond it.
    The weights are made for samples that are drawn class by class (:func:`ltaug.rarest_label` with a
    ``ClassAwareSampler``), as in the paper. The released code adds a focal term (gamma 2) and divides nu by lambda;
    neither is done here. Its logits are under no known prior.

    Args:
        label_counts: n, training samples that have each label, [L]; all positive and below ``num_samples``.
        num_samples: N, of the training set.
        kappa: scale of the margins; 0.05 in the paper.
        neg_scale: lambda, from 1; 2 for COCO-MLT, 5 for VOC-MLT.
        alpha: lowest weight; 0.1 in the paper.
        beta: steepness of the weights; 10 in the paper.
        mu: the ratio in the middle of them; 0.2 for COCO-MLT, 0.3 for VOC-MLT.
        reduction: "mean" (over samples and labels), "sum" or "none".
        ignore_index: what targets hold where a label is not known, see :class:`PriorCorrectedBCELoss`.

    Shapes:
        logits [N, L, ...], targets of the same shape: 0, 1 or between them. Mixed targets count as that share of a
        label.

    Raises:
        ValueError: a label has no sample or all of them (the message names it), or a parameter is out of range.

    >>> import torch
    >>> loss = DistributionBalancedLoss(label_counts=[90, 10], num_samples=100)
    >>> loss(torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]])).isfinite()
    tensor(True)
    """

    label_counts: Tensor
    margins: Tensor

    @checked
    def __init__(
        self,
        label_counts: Counts,
        num_samples: int,
        kappa: float = 0.05,
        neg_scale: float = 2.0,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        counts = as_counts(label_counts, "label_counts", positive=True)
        if int(counts.max()) >= num_samples:
            raise ValueError(
                f"`num_samples` must be the size of the training set, above each of the label counts, but is "
                f"{num_samples} and label {int(counts.argmax())} has {int(counts.max())}. Drop a label that all have."
            )
        if not neg_scale >= 1.0:
            raise ValueError(f"`neg_scale` must be at least 1, which is no tolerance, but is {neg_scale}.")
        if alpha < 0.0:
            raise ValueError(f"`alpha` must not be negative, but is {alpha}.")
        self.settings = {"neg_scale": float(neg_scale), "alpha": float(alpha), "beta": float(beta), "mu": float(mu)}
        self.kappa = float(kappa)
        self.keep("label_counts", counts, "label_counts")
        self.keep("margins", -kappa * (counts.double() / num_samples).logit(), "kappa")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, L, ...] against ``targets``."""
        return distribution_balanced_loss(
            logits,
            targets,
            self.label_counts,
            self.margins,
            reduction=self.reduction,
            ignore_index=self.missing,
            **self.settings,
        )

    def extra_repr(self) -> str:
        """Shown by ``print(loss)``."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"num_labels={self.margins.numel()}, kappa={self.kappa}, {settings}, reduction={self.reduction!r}"
