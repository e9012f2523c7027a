"""Move logits from one class prior to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_number, checked
from ltaug.priors import Counts, as_array, as_counts, on_wide_device

Logits = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Logits of any array-like form, [N, C, ...]."""

__all__ = ["log_prior_shift", "shift_logits"]

_ROWS = 64
"""Samples that are checked for probabilities passed as logits."""


@checked
def log_prior_shift(from_prior: Counts, to_prior: Counts, strength: float = 1.0) -> Tensor:
    """Compute strength * (log to_prior - log from_prior), the vector that :func:`shift_logits` adds.

    Args:
        from_prior: the prior to move from, [C], counts or probabilities, all positive.
        to_prior: the prior to move to, [C], in the same form.
        strength: 1 is Bayes' rule.

    Returns:
        float64 [C], on the device of ``from_prior``, or on the CPU where that has no float64.

    Raises:
        ValueError: a class has prior 0 (its log is infinite), the numbers of classes differ, or ``strength`` is NaN or
            infinite.

    >>> log_prior_shift([3, 1], [1, 1])
    tensor([-0.4055,  0.6931], dtype=torch.float64)
    """
    strength = as_number(strength, "strength", "0 leaves the logits, 1 is Bayes' rule.")
    if not math.isfinite(strength):
        raise ValueError(f"`strength` must be finite, but is {strength}. 0 leaves the logits, 1 is Bayes' rule.")
    source = as_counts(from_prior, "from_prior", integers=False, positive=True).double()
    target = as_counts(to_prior, "to_prior", integers=False, positive=True).double()
    if source.shape != target.shape:
        raise ValueError(
            f"`from_prior` and `to_prior` must have one number a class each, but have {source.numel()} and "
            f"{target.numel()}."
        )
    target = target.to(source.device)
    return strength * ((target / target.sum()).log() - (source / source.sum()).log())


@checked
def shift_logits(logits: Logits, from_prior: Counts, to_prior: Counts, strength: float = 1.0, dim: int = 1) -> Tensor:
    """Move logits from one class prior to another: z + strength * (log to_prior - log from_prior).

    By Bayes' rule p(y | x) ~ p(x | y) p(y): a model whose softmax is right under one prior becomes right under another
    by adding the difference of the log priors. One act, many names:

    ============================================== ==================== ================== =========================
    name                                           from_prior           to_prior           strength
    ============================================== ==================== ================== =========================
    PC Softmax (LADE, Hong et al. 2021, Eq. 4)     training             target             1
    IC (Tian et al. 2020, Eq. 7)                   training             target             lambda, may exceed 1
    post-hoc logit adjustment (Menon et al. 2021)  training             uniform            tau
    inference of prior-free models (LADE Eq. 17)   uniform              target             1
    Bayias, Balanced Softmax, inside the loss      uniform              training           1
    logit-adjusted loss, inside the loss           uniform              training           tau
    ============================================== ==================== ================== =========================

    Args:
        logits: [N, C, ...], classes on ``dim``; a tensor, an array or nested lists. Log probabilities are logits,
            probabilities are not, and they are not detected here: the shift never reads the values, so that it waits
            for no device and can be compiled and exported.
        from_prior: the prior that the logits are under, [C]: the training prior for a model trained with plain
            cross-entropy, uniform for a prior-corrected one. Counts or probabilities.
        to_prior: the prior to move to, [C].
        strength: 0 leaves the logits, 1 is Bayes' rule.
        dim: where the classes are.

    Returns:
        Logits of the same shape and type, not normalised.

    Raises:
        ValueError: a class has prior 0 (its log is infinite), the numbers of classes differ, ``strength`` is NaN or
            infinite, or logits are integers.

    >>> shift_logits(torch.zeros(1, 2), from_prior=[3, 1], to_prior=[1, 1]).softmax(1)
    tensor([[0.2500, 0.7500]])
    """
    logits = as_logits(logits)
    if not logits.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {logits.dtype}: the shift would be rounded.")
    shift = log_prior_shift(from_prior, to_prior, strength)
    if not -logits.ndim <= dim < logits.ndim or logits.shape[dim] != shift.numel():
        raise ValueError(
            f"`logits` must have {shift.numel()} classes on dim {dim}, as the priors have, but have shape "
            f"{list(logits.shape)}."
        )
    shape = [1] * logits.ndim
    shape[dim] = -1
    return logits + shift.to(logits.dtype).to(logits.device).view(shape)


def as_target(prior: Counts, num_classes: int, name: str = "target_prior", of: str = "class_counts") -> Tensor:
    """Convert a prior to move to, [C], positive, as :func:`ltaug.priors.as_counts` does."""
    target = as_counts(prior, name, integers=False, positive=True)
    if target.numel() != num_classes:
        raise ValueError(
            f"`{name}` must hold one number for each of the {num_classes} classes of `{of}`, but holds "
            f"{target.numel()}."
        )
    return target


def as_logits(logits: Logits, name: str = "logits") -> Tensor:
    """Convert array-like logits to a tensor; raise ValueError for anything else."""
    tensor = as_array(logits, name, " If the model returns an object, pass its `.logits`.")
    entry: Any = logits
    while isinstance(entry, list | tuple) and len(entry):
        entry = entry[0]
    # Plain numbers have no type of their own: they get torch's usual one, as in `torch.tensor`.
    plain = type(entry) in (int, float) and tensor.is_floating_point()
    return tensor.to(torch.get_default_dtype()) if plain else tensor


def check_no_probabilities(rows: Tensor, name: str = "logits") -> None:
    """Raise ValueError for rows [N, C] that are probabilities.

    A few rows suffice: the logits of a single sample may happen to be a distribution, but not those of two or more.
    """
    some = on_wide_device(rows[:: max(len(rows) // _ROWS, 1)].detach())
    sums = some.double().sum(1)
    slack = max(1e-4, torch.finfo(rows.dtype).eps)  # half precision rounds what adds up to 1
    if len(some) > 1 and bool((some >= 0).all() & ((sums - 1.0).abs() < slack).all()):
        raise ValueError(
            f"`{name}` must be logits, but are probabilities: no entry is negative, and each row sums to 1. Pass what "
            "the model gives before its softmax, or the logarithm, `probs.clamp(min=1e-12).log()`."
        )


def check_finite(logits: Tensor, name: str = "logits") -> None:
    """Raise ValueError for logits [N, C, ...] that hold NaN or infinity."""
    if bool(logits.isfinite().all()):
        return
    off = ~logits.isfinite().flatten(1).all(1)
    row = int(off.nonzero()[0])
    message = (
        f"`{name}` must be finite, but row {row} has NaN or infinite entries ({int(off.sum())} of {len(off)} rows do). "
    )
    if bool((logits[row].isfinite() | logits[row].isneginf()).all()):
        raise ValueError(message + "Drop a class that -inf masks, or give it -1e4, which masks it as well.")
    raise ValueError(message + "Look for an overflow in the model first.")
