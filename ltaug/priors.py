"""Class statistics, counted from labels: the numbers that samplers, losses and metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["class_counts", "class_prior", "effective_number", "shot_groups"]

Counts = Tensor | np.ndarray[Any, Any] | Sequence[int]
"""Anything that holds one number a class: a tensor, an array or a plain list."""


def class_counts(labels: Counts, num_classes: int | None = None) -> Tensor:
    """Count the samples of every class.

    Args:
        labels: class indices, int [N]; tensor, array or list.
        num_classes: C; by default the largest label plus one, which hides trailing classes that have no sample.

    Returns:
        int64 [C].

    Raises:
        ValueError: a label is negative, not an integer, or not below ``num_classes``.

    >>> class_counts([0, 0, 2], num_classes=4)
    tensor([2, 0, 1, 0])
    """
    labels = as_integers(labels)
    if num_classes is None:
        num_classes = int(labels.max()) + 1 if labels.numel() else 0
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"`labels` must lie in 0..{num_classes - 1} for `num_classes`={num_classes}, but range from {low} to "
                f"{high}. Map the labels to consecutive integers from 0, or pass the true number of classes."
            )
    return torch.bincount(labels, minlength=num_classes)


def class_prior(class_counts: Counts) -> Tensor:
    """Relative class frequencies, pi_y = n_y / N.

    Args:
        class_counts: samples a class, [C]; not negative, at least one positive. Probabilities are taken as well.

    Returns:
        float64 [C], sums to 1. Classes without samples get 0.

    >>> class_prior([3, 1])
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    counts = as_counts(class_counts, integers=False).double()
    return counts / counts.sum()


def effective_number(class_counts: Counts, beta: float = 0.9999) -> Tensor:
    """Effective number of samples of every class, E_n = (1 - beta^n) / (1 - beta).

    Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555). ``beta = 0`` gives 1 for every class that has a sample,
    ``beta -> 1`` gives the counts themselves.

    Args:
        class_counts: samples a class, [C].
        beta: in [0, 1).

    Returns:
        float64 [C].

    >>> effective_number([1, 100], beta=0.99)
    tensor([ 1.0000, 63.3968], dtype=torch.float64)
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`beta` must lie in [0, 1), but is {beta}. Usual values are 0.9 to 0.9999.")
    counts = as_counts(class_counts).double()
    if beta == 0.0:
        return (counts > 0).double()
    # expm1 keeps the digits that 1 - beta**n would lose for n * (1 - beta) << 1.
    return torch.expm1(counts * float(np.log(beta))) / (beta - 1.0)


def shot_groups(class_counts: Counts, many: int = 100, few: int = 20) -> dict[str, Tensor]:
    """Split the classes into many, medium and few by their number of training samples.

    The groups are those of Liu et al. (CVPR 2019, https://arxiv.org/abs/1904.05160).

    Args:
        class_counts: training samples a class, [C].
        many: classes with more samples are "many".
        few: classes with fewer samples are "few"; both thresholds themselves are "medium".

    Returns:
        ``{"many": bool [C], "medium": bool [C], "few": bool [C]}``, a partition of the classes.

    >>> shot_groups([101, 100, 20, 19])["medium"]
    tensor([False,  True,  True, False])
    """
    if few > many:
        raise ValueError(f"`few`={few} must not exceed `many`={many}.")
    counts = as_counts(class_counts)
    return {"many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few}


def as_labels(labels: Counts, name: str = "labels") -> Tensor:
    """Convert class indices [N] of any integer form to an int64 tensor; raise ValueError for anything else."""
    return as_integers(labels, name).long()


def as_integers(labels: Counts, name: str = "labels") -> Tensor:
    """Convert class indices [N] to a tensor of their own integer type, without a copy: for very many labels."""
    tensor = torch.as_tensor(labels)
    if tensor.ndim != 1:
        raise ValueError(f"`{name}` must be one class index a sample, shape [N], but has shape {list(tensor.shape)}.")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        if tensor.numel() == 0:
            return tensor.long()
        raise ValueError(
            f"`{name}` must be integers, but are {tensor.dtype}. Convert with `.long()` if they hold indices."
        )
    # torch neither counts nor compares the larger unsigned types.
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def as_counts(
    class_counts: Counts, name: str = "class_counts", *, integers: bool = True, positive: bool = False
) -> Tensor:
    """Convert class counts [C] of any form to a tensor; raise ValueError for anything else.

    Args:
        class_counts: one number a class.
        name: name of the caller's argument, for the message.
        integers: return int64 and refuse fractions; otherwise float64 probabilities and smoothed counts are taken as
            well.
        positive: refuse classes without samples.
    """
    try:
        counts = torch.as_tensor(class_counts)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`{name}` must hold one number a class, but cannot be read as numbers. Pass a list, an array or a tensor."
        ) from error
    if counts.ndim != 1 or counts.numel() == 0:
        raise ValueError(f"`{name}` must hold one number a class, shape [C], but has shape {list(counts.shape)}.")
    if counts.dtype == torch.bool or counts.is_complex():
        raise ValueError(f"`{name}` must be numbers, but are {counts.dtype}.")
    if counts.is_floating_point():
        if not bool(torch.isfinite(counts).all()):
            bad = int((~torch.isfinite(counts)).nonzero()[0])
            raise ValueError(f"`{name}` must be finite, but class {bad} has {float(counts[bad])}.")
        if integers:
            if not bool((counts == counts.round()).all()):
                raise ValueError(
                    f"`{name}` must be whole numbers of samples, but hold fractions. Pass counts, not a prior."
                )
            counts = counts.long()
        else:
            counts = counts.double()
    else:
        counts = counts.long()
    if bool((counts < 0).any()):
        bad = int((counts < 0).nonzero()[0])
        raise ValueError(f"`{name}` must not be negative, but class {bad} has {counts[bad].item()}.")
    if not bool((counts > 0).any()):
        raise ValueError(f"`{name}` must be positive for at least one class, but all {counts.numel()} are 0.")
    if positive and bool((counts == 0).any()):
        bad = int((counts == 0).nonzero()[0])
        if abs(float(counts.sum()) - 1.0) < 1e-3:
            way = (
                "Give a class that does not occur where the model is used a tiny probability, `prior.clamp(min=1e-9)`; "
                "drop a class without training samples."
            )
        else:
            way = "Drop the class, or pass smoothed counts such as `counts.clamp(min=1)`."
        raise ValueError(
            f"`{name}` must be positive, but class {bad} has 0 (of {counts.numel()} classes, "
            f"{int((counts == 0).sum())} are empty), and the logarithm of its prior is not finite. {way}"
        )
    return counts
