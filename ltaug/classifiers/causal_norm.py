"""The classifier of De-confound-TDE."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug._arguments import checked
from ltaug.classifiers._base import check_features, check_sizes, unit, widen


class CausalNormClassifier(nn.Module):
    """Normalised classifier that at test time subtracts what the average feature alone says (De-confound-TDE).

    Tang et al. (NeurIPS 2020, https://arxiv.org/abs/2009.12991). Features and weights are split into K heads. With
    v_c^k = w_c^k / (||w_c^k|| + gamma) and u^k = x^k / ||x^k||,

        train: z_c = scale / K * sum_k v_c^k . u^k
        test:  z_c = scale / K * sum_k v_c^k . (u^k - alpha cos(x^k, d^k) d^k),

    d^k the direction of the moving average of the training features m <- momentum m + (1 - momentum) mean(x), which
    ``train()`` mode keeps up to date. The released code has no factor (1 - momentum); as m starts at 0 and only its
    direction counts, that is the same. Before the first training batch there is nothing to subtract.

    The average is a buffer and a part of checkpoints. Under ``DistributedDataParallel`` it is, like batch norm's
    statistics, that of the first process.

    Args:
        in_features: D, a multiple of ``heads``.
        num_classes: C.
        heads: K.
        scale: factor of the logits, the paper's tau.
        gamma: added to the norms of the weights; keeps small weights small.
        alpha: strength of the test-time subtraction; 3 for ImageNet-LT and 1.5 for CIFAR-100-LT, 0 leaves it out.
        momentum: of the moving average.

    Raises:
        ValueError: an argument is out of its range.

    >>> classifier = CausalNormClassifier(in_features=8, num_classes=3)
    >>> classifier.train()(torch.rand(4, 8)).shape
    torch.Size([4, 3])
    >>> classifier.eval()(torch.rand(4, 8)).shape
    torch.Size([4, 3])
    """

    average: Tensor

    @checked
    def __init__(
        self,
        in_features: int,
        num_classes: int,
        heads: int = 2,
        scale: float = 16.0,
        gamma: float = 1 / 32,
        alpha: float = 3.0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        if heads < 1 or in_features % heads:
            raise ValueError(f"`heads` must divide `in_features`={in_features}, but is {heads}.")
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, but is {scale}.")
        if not gamma > 0:
            raise ValueError(f"`gamma` must be positive, but is {gamma}.")
        if not alpha >= 0:
            raise ValueError(f"`alpha` must not be negative, but is {alpha}.")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1), but is {momentum}.")
        self.in_features = in_features
        self.out_features = num_classes
        self.heads = heads
        self.scale = float(scale)
        self.gamma = float(gamma)
        self.alpha = float(alpha)
        self.momentum = float(momentum)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.register_buffer("average", torch.zeros(in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform in +-1 / sqrt(D), and forget the average."""
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        self.average.zero_()

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, ..., C] of ``features`` [N, ..., D]; differs between ``train()`` and ``eval()``."""
        check_features(features, self.weight)
        directions = unit(widen(self._split(features)))
        if self.training:
            self._update(features.detach())
        else:
            common = unit(self._split(self.average)).to(directions.dtype)
            cosines = (directions * common).sum(-1, keepdim=True)
            directions = directions - self.alpha * cosines * common
        weight = widen(self._split(self.weight))
        weight = weight / (torch.linalg.vector_norm(weight, dim=-1, keepdim=True) + self.gamma)
        weight = weight.flatten(-2).to(self.weight.dtype)
        return (self.scale / self.heads) * F.linear(directions.flatten(-2).to(features.dtype), weight)

    def _split(self, vectors: Tensor) -> Tensor:
        """Reshape [..., D] to [..., K, D / K]."""
        return vectors.reshape(*vectors.shape[:-1], self.heads, self.in_features // self.heads)

    def _update(self, features: Tensor) -> None:
        """Move the average towards the mean of the features [N, ..., D]."""
        if features.numel():  # the mean of nothing is NaN, and would stay
            mean = features.reshape(-1, self.in_features).to(self.average.dtype).mean(0)
            self.average.lerp_(mean, 1.0 - self.momentum)

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, heads={self.heads}"
        return f"{sizes}, scale={self.scale}, gamma={self.gamma}, alpha={self.alpha}, momentum={self.momentum}"
