"""Base of the classifiers: checks of their arguments, linear layers, unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_sizes(in_features: int, num_classes: int) -> None:
    """Raise ValueError for layers without inputs or outputs."""
    if in_features < 1:
        raise ValueError(f"`in_features` must be at least 1, but is {in_features}.")
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")


def check_linear(linear: nn.Linear) -> nn.Linear:
    """Return a linear layer; raise ValueError for anything else."""
    if not isinstance(linear, nn.Linear):
        raise ValueError(
            f"`linear` must be a `torch.nn.Linear`, but is a {type(linear).__name__}. Pass the trained last layer, "
            "such as `model.fc`, not the model."
        )
    return linear


def check_features(features: Tensor, weight: Tensor) -> None:
    """Raise ValueError for features that do not fit a weight [C, D], in length or type; autocast fits the type."""
    if torch.compiler.is_compiling():
        return
    size, right = weight.shape[-1], features.dtype == weight.dtype
    if features.ndim < 1 or features.shape[-1] != size or not features.is_floating_point():
        raise ValueError(
            f"`features` must be floating point of shape [N, ..., {size}], but are {features.dtype} of shape "
            f"{list(features.shape)}."
        )
    if not right and not torch.is_autocast_enabled(features.device.type):
        raise ValueError(
            f"`features` must be of the type of the weights, {weight.dtype}, but are {features.dtype}. Convert them "
            "with `.to()`, or run under autocast."
        )


def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a linear layer with a copy of the values."""
    classes, features = weight.shape
    # Made empty: drawing initial values only to overwrite them would advance the global generator.
    linear = nn.Linear(features, classes, bias=bias is not None, device="meta", dtype=weight.dtype)
    linear.to_empty(device=weight.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def widen(values: Tensor) -> Tensor:
    """Convert half precision to float32, for norms and distances, which need the digits; other types stay."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def unit(vectors: Tensor, eps: float = 1e-12) -> Tensor:
    """Unit vectors x / ||x|| over the last dim, computed in float32 at least.

    A zero vector stays zero and gets no gradient, which 1 / eps would blow up.
    """
    wide = widen(vectors)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    direction = wide / norm.clamp_min(eps)
    # `<=` and not `>`: NaN must stay NaN.
    return torch.where(norm <= eps, torch.zeros_like(direction), direction).to(vectors.dtype)
