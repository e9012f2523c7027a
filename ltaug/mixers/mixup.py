"""mixup."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import Mixer, beta_draws, check_alpha


class MixUp(Mixer):
    """mixup: x = lam x_i + (1 - lam) x_j, y = lam y_i + (1 - lam) y_j, lam ~ Beta(alpha, alpha).

    Zhang et al. (ICLR 2018, https://arxiv.org/abs/1710.09412). One lam a pair, as in the formula; many implementations
    draw one a batch. With partners from two class-balanced samplers (``PairSampler`` of ``ClassPowerSampler(labels,
    tau=0)`` twice) this is label-occurrence-balanced mixup (Zhang et al., ICASSP 2022,
    https://arxiv.org/abs/2110.04964).

    Args:
        num_classes: C.
        alpha: parameter of the Beta distribution; 1 is uniform, 0.2 is usual for ImageNet.
        multi_label: for samples with several labels, multi-hot rows as targets: "union", max(y_i, y_j), what is usual
            for AudioSet, since a sound that is mixed in is there however quiet it is; or "convex", the formula above.

    >>> import torch
    >>> inputs, targets = MixUp(num_classes=3)(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2]))
    >>> inputs.shape, targets.shape, targets.sum(1)
    (torch.Size([4, 1, 8, 8]), torch.Size([4, 3]), tensor([1., 1., 1., 1.]))
    >>> mixer = MixUp(num_classes=3, multi_label="union")
    >>> mixer(torch.rand(1, 5), torch.tensor([[1, 0, 1]]), torch.rand(1, 5), torch.tensor([[0, 0, 1]]))[1]
    tensor([[1., 0., 1.]])
    """

    @checked
    def __init__(self, num_classes: int, alpha: float = 1.0, multi_label: str | None = None) -> None:
        super().__init__(num_classes, multi_label)
        self.alpha = check_alpha(alpha)

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """Draw lam ~ Beta(alpha, alpha), [N]."""
        return beta_draws(self.alpha, targets.shape[0], targets.device)

    def expected_weights(self) -> Tensor:
        """Mean weight of the first label: 1/2 for every pair of classes, float64 [C, C]."""
        return torch.tensor(0.5, dtype=torch.float64).expand(self.num_classes, self.num_classes)

    def __repr__(self) -> str:
        return f"MixUp(num_classes={self.num_classes}, alpha={self.alpha}{self._rule()})"
