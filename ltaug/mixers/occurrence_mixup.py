"""mixup whose weights, not its samplers, balance the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import beta_draws, check_alpha
from ltaug.mixers._counts import CountMixer
from ltaug.priors import Counts

NODES = 256
"""Of the quadrature over the Beta distribution."""


class OccurrenceMixUp(CountMixer):
    """mixup whose weight is divided by the frequency of each class: lam' = lam n_j / (lam n_j + (1 - lam) n_i).

    lam ~ Beta(alpha, alpha), inputs and labels alike. An ablation of label-occurrence-balanced mixup (Zhang et al.,
    ICASSP 2022, https://arxiv.org/abs/2110.04964, section 4.4), "adjusting lambda instead of P": samples stay
    instance-balanced. The paper prints no formula; this one is ours. It flattens the label distribution without
    balancing it.

    Args:
        class_counts: training samples a class, int [C]; a class with 0 counts as one sample.
        alpha: parameter of the Beta distribution.

    >>> mixer = OccurrenceMixUp(class_counts=[90, 10])
    >>> _, targets = mixer(torch.zeros(500, 2), torch.ones(500).long(), torch.ones(500, 2), torch.zeros(500).long())
    >>> bool(targets[:, 1].mean() > 0.6)  # of the rare class, which has a half in mixup
    True
    """

    @checked
    def __init__(self, class_counts: Counts, alpha: float = 1.0) -> None:
        super().__init__(class_counts)
        self.alpha = check_alpha(alpha)

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """Draw lam' of every pair, [N]."""
        lam = beta_draws(self.alpha, targets.shape[0], targets.device)
        return _over_counts(lam, self.count_of(targets), self.count_of(partner_targets, "partner_targets"))

    def expected_weight(self, n_i: Tensor, n_j: Tensor) -> Tensor:
        """Mean weight of the first label, E[lam'], by Gauss-Jacobi quadrature; float64."""
        from scipy.special import roots_jacobi  # no training step needs it

        nodes, weights = roots_jacobi(NODES, self.alpha - 1.0, self.alpha - 1.0)
        n_i, n_j = n_i.double(), n_j.double()
        pairs = zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True)
        means = [weight * _over_counts(torch.tensor((1.0 + node) / 2.0), n_i, n_j) for node, weight in pairs]
        return torch.stack(means).sum(0)

    def __repr__(self) -> str:
        return f"OccurrenceMixUp(num_classes={self.num_classes}, alpha={self.alpha})"


def _over_counts(lam: Tensor, n_i: Tensor, n_j: Tensor) -> Tensor:
    return lam * n_j / (lam * n_j + (1.0 - lam) * n_i)
