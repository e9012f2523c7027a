"""ReMix."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import beta_cdf, beta_draws, check_alpha
from ltaug.mixers._counts import CountMixer
from ltaug.mixers.functional import check_remix, remix_label_weight
from ltaug.priors import Counts


class ReMix(CountMixer):
    """ReMix: inputs as in mixup, but the much rarer class of a pair takes the whole label unless it is a mere trace.

    Chou et al. (ECCV workshops 2020, https://arxiv.org/abs/2007.03943): x = lam x_i + (1 - lam) x_j, lam ~ Beta(alpha,
    alpha); the first label's weight is 0 where n_i / n_j >= kappa and lam < tau, 1 where n_i / n_j <= 1 / kappa and 1 -
    lam < tau, and lam elsewhere.

    Args:
        class_counts: training samples a class, int [C]; a class with 0 counts as one sample.
        alpha: parameter of the Beta distribution.
        kappa: ratio of counts from which a class is the rarer one, > 1.
        tau: share of the input below which the more frequent class gives way, in [0, 1].

    >>> import torch
    >>> mixer = ReMix(class_counts=[90, 10], tau=1.0)
    >>> _, targets = mixer(torch.zeros(2, 1), torch.tensor([0, 1]), torch.ones(2, 1), torch.tensor([1, 0]))
    >>> targets
    tensor([[0., 1.],
            [0., 1.]])
    """

    @checked
    def __init__(self, class_counts: Counts, alpha: float = 1.0, kappa: float = 3.0, tau: float = 0.5) -> None:
        super().__init__(class_counts)
        self.alpha = check_alpha(alpha)
        check_remix(kappa, tau)
        self.kappa = float(kappa)
        self.tau = float(tau)

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """Draw lam ~ Beta(alpha, alpha), [N]: the weight of the first input."""
        return beta_draws(self.alpha, targets.shape[0], targets.device)

    def expected_weight(self, n_i: Tensor, n_j: Tensor) -> Tensor:
        """Mean weight of the first label: 1/2, +- m = E[lam; lam < tau] where one class is the rarer one; float64."""
        # x f(x; alpha, alpha) is half the density of Beta(alpha + 1, alpha).
        moved = 0.5 * beta_cdf(self.alpha + 1.0, self.alpha, torch.tensor(self.tau, dtype=torch.float64))
        # In float32, as the counts are when a batch is mixed: a ratio of exactly kappa falls on the same side.
        n_i, n_j = n_i.float(), n_j.float()
        rarer, frequent = self.kappa * n_i <= n_j, n_i >= self.kappa * n_j
        return 0.5 + moved * (rarer.double() - frequent.double())

    def mix(
        self, inputs: Tensor, partner_inputs: Tensor, targets: Tensor, partner_targets: Tensor, *, overwrite: bool
    ) -> tuple[Tensor, Tensor]:
        """Mix the inputs by lam; returns them and the weight of the first label, [N]."""
        mixed, lam = super().mix(inputs, partner_inputs, targets, partner_targets, overwrite=overwrite)
        counts = self.count_of(targets), self.count_of(partner_targets, "partner_targets")
        return mixed, remix_label_weight(lam, *counts, self.kappa, self.tau)

    def __repr__(self) -> str:
        return f"ReMix(num_classes={self.num_classes}, alpha={self.alpha}, kappa={self.kappa}, tau={self.tau})"
