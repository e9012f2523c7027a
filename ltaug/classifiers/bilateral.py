"""The two branches of BBN: a network's last block and its classifier, each of them twice."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ltaug._arguments import checked
from ltaug.classifiers._base import check_linear
from ltaug.mixers.functional import one_hot

__all__ = ["BilateralBlock", "BilateralClassifier", "BilateralPairs", "cumulative_alpha"]


@checked
def cumulative_alpha(epoch: int, epochs: int) -> float:
    """Weight of the conventional branch in an epoch counted from 0: alpha = 1 - (T / T_max)^2 (BBN, Eq. 5).

    >>> [cumulative_alpha(epoch, 200) for epoch in (0, 100, 180)]
    [1.0, 0.75, 0.18999999999999995]
    """
    if not 0 <= epoch <= max(epochs, 1):
        raise ValueError(f"`epoch` must lie in 0..{epochs}, the `epochs`, but is {epoch}.")
    return 1.0 - (epoch / max(epochs, 1)) ** 2


class BilateralPairs:
    r"""Lay pairs side by side, for a network with the two branches of BBN.

    (x_c, y_c), (x_r, y_r) become the inputs x_c1, x_r1, x_c2, x_r2, ... and the targets alpha y_c + (1 - alpha) y_r,
    with which cross-entropy is BBN's loss, alpha L(p, y_c) + (1 - alpha) L(p, y_r) (Zhou et al., CVPR 2020, Eq. 3,
    https://arxiv.org/abs/1912.02413). It is no mixer: there are twice as many inputs as rows of targets.

    Args:
        num_classes: C.

    Attributes:
        alpha: weight of the first samples' labels; :func:`cumulative_alpha` of the epoch.
    """

    @checked
    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.alpha = 1.0

    @checked
    def __call__(
        self, inputs: Tensor, targets: Tensor, partner_inputs: Tensor, partner_targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs [2 N, ...] and dense targets [N, C] of N pairs."""
        first, second = (one_hot(each, self.num_classes) for each in (targets, partner_targets))
        pairs = torch.stack((inputs, partner_inputs), 1).flatten(0, 1)
        return pairs, self.alpha * first + (1.0 - self.alpha) * second


class BilateralBlock(nn.Module):
    """A block, twice: in training for the two samples of each pair, in evaluation for every sample.

    In training, inputs 0, 2, 4, ... go through the conventional copy and 1, 3, 5, ... through the re-balancing one; in
    evaluation every input goes through both, and gives two outputs that follow one another. Both copies start from the
    same values. Layers before the block see both samples of all pairs as one batch; the released code passes the two
    samplers' batches through them one after the other, so that batch norm normalises each by itself there.

    Args:
        block: the last residual block of the network; becomes the conventional copy.

    >>> block = BilateralBlock(nn.Linear(4, 4))
    >>> block(torch.rand(6, 4)).shape, block.eval()(torch.rand(6, 4)).shape
    (torch.Size([6, 4]), torch.Size([12, 4]))
    """

    @checked
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conventional = block
        self.rebalancing = copy.deepcopy(block)
        self.train(block.training)

    @checked
    def forward(self, x: Tensor) -> Tensor:
        """Both branches' outputs of ``x``, in turns."""
        if self.training and x.shape[0] % 2:
            raise ValueError(f"In training a batch holds both samples of every pair, but this one has {x.shape[0]}.")
        first, second = (x[0::2], x[1::2]) if self.training else (x, x)
        return torch.stack((self.conventional(first), self.rebalancing(second)), 1).flatten(0, 1)


class BilateralClassifier(nn.Module):
    """Classifier of the two branches, z = alpha W_c f_c + (1 - alpha) W_r f_r (BBN, Zhou et al., CVPR 2020, Eq. 2).

    In evaluation alpha is 1/2. The equation has no bias; that of the linear layer stays, as in the released code, which
    also multiplies all features by 2 (``mode="official_code"``).

    Args:
        linear: the classifier of the network; becomes W_c, and W_r starts as a copy of it.
        mode: "paper" or "official_code".

    >>> classifier = BilateralClassifier(nn.Linear(4, 3))
    >>> classifier(torch.rand(6, 4)).shape  # the features of three pairs
    torch.Size([3, 3])
    """

    alpha: Tensor

    @checked
    def __init__(self, linear: nn.Linear, mode: str = "paper") -> None:
        super().__init__()
        check_linear(linear)
        if mode not in ("paper", "official_code"):
            raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.conventional, self.rebalancing = linear, copy.deepcopy(linear)
        self.train(linear.training)
        self.factor = 2.0 if mode == "official_code" else 1.0
        # A tensor, so that a compiled model need not be compiled anew in every epoch.
        self.register_buffer("alpha", torch.ones((), device=linear.weight.device), persistent=False)

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, C] of the features of both branches in turns, [2 N, D]."""
        alpha = self.alpha if self.training else 0.5
        first, second = self.conventional(features[0::2]), self.rebalancing(features[1::2])
        logits: Tensor = self.factor * (alpha * first + (1.0 - alpha) * second)
        return logits

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, factor={self.factor}"
