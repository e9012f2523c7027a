"""The generalised classifier of MiSLAS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug._arguments import checked
from ltaug.classifiers._base import check_features, check_linear, make_linear


class GeneralizedClassifier(nn.Module):
    """Second-stage classifier between retraining and rescaling, z = diag(s) (r W + dW) x.

    MiSLAS (Zhong et al., CVPR 2021, Eq. 4, https://arxiv.org/abs/2104.00466). W is the first stage's weight and stays,
    s and dW are learnt on a class-balanced stream:

    =========== ====== =========== ===========
    method      retain learn_scale learn_delta
    =========== ====== =========== ===========
    MiSLAS      1      yes         yes
    LWS         1      yes         no
    cRT         0      no          yes
    =========== ====== =========== ===========

    s starts at 1 and dW at 0, so the logits start as ``linear`` gives them, times r; with ``retain=0`` dW starts as a
    new ``nn.Linear`` does. The equation has no bias; one that the layer has is treated as a column of W, as in the
    released code.

    The released code differs: it trains W + dW and s themselves, with the same forward and the same gradients, but
    weight decay then pulls the weight and s to 0 (``mode="official_code"``), not to r W and 1 ("paper").

    Args:
        linear: the classifier of the first stage; its values are copied.
        retain: r, the share of W that is kept, in [0, 1].
        learn_scale: learn s.
        learn_delta: learn dW.
        mode: "paper" or "official_code".

    Raises:
        ValueError: ``linear`` is not a linear layer, or nothing is left to learn or to start from.

    >>> linear = nn.Linear(8, 3)
    >>> classifier = GeneralizedClassifier(linear)
    >>> optimizer = torch.optim.SGD(classifier.parameter_groups(lr=0.1, delta_lr_ratio=0.2), momentum=0.9)
    >>> features = torch.randn(4, 8)
    >>> torch.equal(classifier(features), linear(features))
    True
    """

    # The layer uses origin + delta. Weight decay acts on the delta and so pulls to the origin: the one difference
    # between the two modes. Their checkpoints have the same names, and give the same logits in either mode.
    weight_origin: Tensor
    bias_origin: Tensor | None
    scale_origin: Tensor
    weight_delta: nn.Parameter | None
    bias_delta: nn.Parameter | None
    scale_delta: nn.Parameter | None

    @checked
    def __init__(
        self,
        linear: nn.Linear,
        retain: float = 1.0,
        learn_scale: bool = True,
        learn_delta: bool = True,
        mode: str = "paper",
    ) -> None:
        super().__init__()
        check_linear(linear)
        if not 0.0 <= retain <= 1.0:
            raise ValueError(f"`retain` must lie in [0, 1], but is {retain}.")
        if mode not in ("paper", "official_code"):
            raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
        if not learn_scale and not learn_delta:
            raise ValueError("`learn_scale` or `learn_delta` must be true: with neither there is nothing to learn.")
        if retain == 0.0 and not learn_delta:
            raise ValueError("`retain` must be positive without `learn_delta`: with 0 all logits stay 0.")
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.retain = float(retain)
        self.mode = mode

        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        start = make_linear(torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias))
        if retain == 0.0:
            start.reset_parameters()
        self._keep("weight", retain * weight, start.weight, learn_delta)
        self._keep("bias", None if bias is None else retain * bias, start.bias, learn_delta)
        self._keep("scale", torch.ones_like(weight[:, 0]), torch.zeros_like(weight[:, 0]), learn_scale)

    def _keep(self, name: str, origin: Tensor | None, delta: Tensor | None, learn: bool) -> None:
        """Register a quantity as origin, to which weight decay pulls, and delta, which is learnt."""
        if origin is None or delta is None or not learn:
            delta = None
        elif self.mode == "official_code":
            origin, delta = torch.zeros_like(origin), origin + delta
        self.register_buffer(f"{name}_origin", origin)
        self.register_parameter(f"{name}_delta", None if delta is None else nn.Parameter(delta.detach()))

    @property
    def weight(self) -> Tensor:
        """Weight r W + dW, [C, D]."""
        return self.weight_origin if self.weight_delta is None else self.weight_origin + self.weight_delta

    @property
    def bias(self) -> Tensor | None:
        """Bias r b + db, [C], before the scale; None where the linear layer has no bias."""
        if self.bias_origin is None or self.bias_delta is None:
            return self.bias_origin
        return self.bias_origin + self.bias_delta

    @property
    def scale(self) -> Tensor:
        """Scale s, [C]."""
        return self.scale_origin if self.scale_delta is None else self.scale_origin + self.scale_delta

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, ..., C] of ``features`` [N, ..., D]."""
        check_features(features, self.weight_origin)
        return self.scale * F.linear(features, self.weight, self.bias)

    @checked
    def parameter_groups(self, lr: float, delta_lr_ratio: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: s at ``lr``, dW and its bias at ``lr * delta_lr_ratio``.

        Args:
            lr: learning rate of s.
            delta_lr_ratio: 0.05 to 0.5 in the paper, larger for smaller and more imbalanced data.

        Returns:
            One dictionary a group; a schedule that multiplies keeps their ratio.
        """
        if not delta_lr_ratio >= 0:
            raise ValueError(f"`delta_lr_ratio` must not be negative, but is {delta_lr_ratio}.")
        scales = [parameter for parameter in (self.scale_delta,) if parameter is not None]
        deltas = [parameter for parameter in (self.weight_delta, self.bias_delta) if parameter is not None]
        groups = [{"params": scales, "lr": lr}, {"params": deltas, "lr": lr * delta_lr_ratio}]
        return [group for group in groups if group["params"]]

    def fold(self) -> nn.Linear:
        """Make the plain linear layer that gives the same logits."""
        with torch.no_grad():
            scale, bias = self.scale, self.bias
            return make_linear(scale[:, None] * self.weight, None if bias is None else scale * bias)

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias_origin is not None}"
        learnt = f"learn_scale={self.scale_delta is not None}, learn_delta={self.weight_delta is not None}"
        return f"{sizes}, retain={self.retain}, {learnt}, mode={self.mode!r}"
