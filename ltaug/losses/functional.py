"""The losses as pure functions of logits, targets and class statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["prior_corrected_cross_entropy"]


def prior_corrected_cross_entropy(logits: Tensor, targets: Tensor, shift: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of shifted logits, CE(z + B).

    Args:
        logits: [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...]; probabilities give sum_c t_c * loss(c).
        shift: B, [C]; ``log_prior_shift(target_prior, class_counts, tau)`` of :mod:`ltaug.posthoc`.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or [N, ...] for "none"; float32 at least, also under autocast.

    >>> prior_corrected_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0.75, 0.25]).log())
    tensor(1.3863)
    """
    if logits.ndim < 2 or logits.shape[1] != shift.numel():
        raise ValueError(f"`logits` must have shape [N, {shift.numel()}, ...], but have {list(logits.shape)}.")
    expected = logits.shape if targets.is_floating_point() else (logits.shape[0], *logits.shape[2:])
    if targets.shape != expected:
        raise ValueError(
            "`targets` must be class indices [N, ...] or probabilities [N, C, ...] for logits of shape "
            f"{list(logits.shape)}, "
            f"but are {targets.dtype} of shape {list(targets.shape)}."
        )
    with torch.autocast(logits.device.type, enabled=False):
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if targets.is_floating_point():
            targets = targets.to(logits.dtype)
        shift = shift.to(logits.device, logits.dtype).view(1, -1, *[1] * (logits.ndim - 2))
        return F.cross_entropy(logits + shift, targets, reduction=reduction)
