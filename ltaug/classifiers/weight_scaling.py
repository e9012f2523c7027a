"""Learnable weight scaling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug._arguments import checked
from ltaug.classifiers._base import check_features, check_linear, make_linear


class LearnableWeightScaling(nn.Module):
    """Learnable weight scaling (LWS): one learnt factor a class on a frozen linear layer.

    z_c = s_c (w_c^T x + b_c) (Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217). The second stage of two: train
    s on a class-balanced stream. s starts at 1, so the logits start where the first stage left them. The paper has no
    bias; one that the layer has is scaled too.

    Args:
        linear: the classifier of the first stage; its values are copied.

    Raises:
        ValueError: ``linear`` is not a linear layer.

    >>> classifier = LearnableWeightScaling(nn.Linear(8, 3))
    >>> [name for name, _ in classifier.named_parameters()]
    ['scale']
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        check_linear(linear)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        # Buffers, not frozen parameters: no optimiser, and no later `unfreeze`, can reach them.
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.scale = nn.Parameter(torch.ones_like(self.weight[:, 0]))

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, ..., C] of ``features`` [N, ..., D]."""
        check_features(features, self.weight)
        return self.scale * F.linear(features, self.weight, self.bias)

    def fold(self) -> nn.Linear:
        """Make the plain linear layer that gives the same logits."""
        scale = self.scale.detach()
        return make_linear(scale[:, None] * self.weight, None if self.bias is None else scale * self.bias)

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
