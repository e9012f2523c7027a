"""UniMix."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import beta_cdf, beta_draws, check_alpha
from ltaug.mixers._counts import CountMixer
from ltaug.mixers.functional import unimix_factor
from ltaug.priors import Counts


class UniMix(CountMixer):
    """UniMix: mixup whose weight leans to the rarer class of the pair.

    xi* = (b + n_j / (n_i + n_j)) mod 1, b ~ Beta(alpha, alpha), one a pair; x = xi* x_i + (1 - xi*) x_j and the labels
    alike (Xu et al., NeurIPS 2021, Eq. 6, 7 and 9, https://arxiv.org/abs/2111.03874). The paper draws the first sample
    at random and the partner from the whole data set with class probability ~ n^tau: give the mixer those partners,
    from ``PairSampler(ClassPowerSampler(labels, tau=1), ClassPowerSampler(labels, tau=-1))``.

    The released code differs: it draws partners inside the batch, with repetition, and applies tau to samples
    (tau_code = tau - 1). ``in_batch_tau`` reproduces that, in the paper's tau.

    Args:
        class_counts: training samples a class, int [C]; a class with 0 counts as one sample.
        alpha: parameter of the Beta distribution. At the released 0.8 the factor hardly differs from mixup's; a smaller
            one leans more.
        in_batch_tau: only used for batches that come without partners. ``None``: a permutation of the batch. A number:
            partners are drawn from the batch, with repetition, each with weight n^(in_batch_tau - 1); released settings
            are 0.5 (CIFAR-10-LT) and 0.9 (CIFAR-100-LT).

    Raises:
        ValueError: ``alpha`` is not positive; or, when called, labels are not one a sample.

    >>> mixer = UniMix(class_counts=[90, 10], alpha=0.2)
    >>> _, targets = mixer(torch.zeros(500, 2), torch.ones(500).long(), torch.ones(500, 2), torch.zeros(500).long())
    >>> 0.6 < (targets[:, 1] > 0.5).float().mean() < 1.0  # the rare class owns most of the mixed samples
    tensor(True)
    """

    @checked
    def __init__(self, class_counts: Counts, alpha: float = 0.8, in_batch_tau: float | None = None) -> None:
        super().__init__(class_counts)
        self.alpha = check_alpha(alpha)
        self.in_batch_tau = in_batch_tau
        if in_batch_tau is not None:
            weight = self._counts ** (in_batch_tau - 1.0)
            if not bool((weight.isfinite() & (weight > 0.0)).all()):
                raise ValueError(f"`in_batch_tau` must leave every class a finite weight, but is {in_batch_tau}.")

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """Draw xi* of every pair, [N]."""
        draw = beta_draws(self.alpha, targets.shape[0], targets.device)
        return unimix_factor(draw, self.count_of(targets), self.count_of(partner_targets, "partner_targets"))

    def expected_weight(self, n_i: Tensor, n_j: Tensor) -> Tensor:
        """Mean weight of the first label, E[xi*] = 1/2 + r - P(b >= 1 - r), r = n_j / (n_i + n_j), float64."""
        share = n_i.double() / (n_i.double() + n_j.double())
        return 0.5 - share + beta_cdf(self.alpha, self.alpha, share)

    def partners(self, targets: Tensor) -> Tensor:
        """Choose partners from the batch: by a permutation, or as the released code does (``in_batch_tau``)."""
        if self.in_batch_tau is None:
            return super().partners(targets)
        weight = self.count_of(targets) ** (self.in_batch_tau - 1.0)
        return torch.multinomial(weight, targets.shape[0], replacement=True)

    def __repr__(self) -> str:
        return f"UniMix(num_classes={self.num_classes}, alpha={self.alpha}, in_batch_tau={self.in_batch_tau})"
