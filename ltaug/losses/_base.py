"""Base of the losses, and the check of class weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassLoss(nn.Module):
    """Base of losses with class statistics, kept in non-persistent buffers.

    The statistics move with ``.to()`` and are not part of checkpoints.
    """

    def __init__(self, reduction: str) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'`reduction` must be "mean", "sum" or "none", but is {reduction!r}.')
        self.reduction = reduction

    def keep(self, name: str, values: Tensor | None) -> None:
        """Register class statistics [C] under a name."""
        values = None if values is None else values.to(torch.get_default_dtype())
        self.register_buffer(name, values, persistent=False)


def check_class_weights(class_weights: Tensor | None, num_classes: int | None = None) -> Tensor | None:
    """Convert class weights [C] to a tensor; raise ValueError if they do not fit."""
    if class_weights is None:
        return None
    weights = torch.as_tensor(class_weights)
    if weights.ndim != 1 or (num_classes is not None and weights.numel() != num_classes):
        expected = "C" if num_classes is None else str(num_classes)
        raise ValueError(f"`class_weights` must have shape [{expected}], but have {list(weights.shape)}.")
    if not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        raise ValueError("`class_weights` must be finite and not negative.")
    return weights
