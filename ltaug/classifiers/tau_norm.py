"""tau-normalisation."""

from __future__ import annotations

import torch
from torch import nn

from ltaug._arguments import checked
from ltaug.classifiers._base import check_linear, make_linear, widen


@checked
def tau_normalize(linear: nn.Linear, tau: float, keep_bias: bool = False) -> nn.Linear:
    """Make the tau-normalised classifier, w_c / ||w_c||^tau: smaller weights for frequent classes, no training.

    Kang et al. (ICLR 2020, https://arxiv.org/abs/1910.09217). Choose tau on validation data, not on the test split; the
    released code tries 0 to 2 in steps of 0.1.

    Args:
        linear: a trained classifier; it is not changed.
        tau: 0 keeps the weights, 1 makes all norms 1.
        keep_bias: keep the bias; the paper has no bias, and the released code drops it.

    Returns:
        A new layer. A weight that is all 0 stays 0.

    Raises:
        ValueError: ``linear`` is not a linear layer, or ``tau`` is negative.

    >>> tau_normalize(nn.Linear(8, 3), tau=1.0).weight.detach().norm(dim=1).round(decimals=4)
    tensor([1., 1., 1.])
    """
    check_linear(linear)
    if not tau >= 0:
        raise ValueError(f"`tau` must not be negative, but is {tau}.")
    weight = widen(linear.weight.detach())
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    weight = weight / torch.where(norm > 0, norm, torch.ones_like(norm)) ** tau
    bias = linear.bias.detach() if keep_bias and linear.bias is not None else None
    return make_linear(weight.to(linear.weight.dtype), bias)
