"""Cosine classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug._arguments import checked
from ltaug.classifiers._base import check_features, check_sizes, unit


class CosineClassifier(nn.Module):
    """Classifier by cosines between features and class weights, z_c = scale * cos(w_c, x).

    The norms of the weights, large for frequent classes, have no influence (Gidaris and Komodakis, CVPR 2018,
    https://arxiv.org/abs/1804.09458). There is no bias. Use scale 1 in front of :class:`~ltaug.losses.LDAMLoss`, which
    scales by itself, and 10 to 30 in front of any other loss: with C classes and scale 1 no softmax probability can
    exceed e^2 / (e^2 + C - 1).

    Args:
        in_features: D.
        num_classes: C.
        scale: factor of the cosines.

    >>> classifier = CosineClassifier(in_features=8, num_classes=3)
    >>> features = torch.randn(2, 8)
    >>> torch.allclose(classifier(features), classifier(100 * features), atol=1e-6)
    True
    """

    @checked
    def __init__(self, in_features: int, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, but is {scale}.")
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = float(scale)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: random directions of length 1, since the step size of a direction is lr / length."""
        with torch.no_grad():
            self.weight.copy_(unit(torch.randn_like(self.weight)))

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, ..., C] of ``features`` [N, ..., D]; 0 where all features are 0."""
        check_features(features, self.weight)
        return self.scale * F.linear(unit(features), unit(self.weight))

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scale={self.scale}"
