"""Move logits from one class prior to another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_number, checked
from ltaug.priors import Counts, as_array, as_counts, by_class, on_wide_device, with_values

Logits = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Logits of any array-like form, [N, C, ...]."""
Given = TypeVar("Given", Tensor, np.ndarray[Any, Any], Sequence[Any])
"""Logits of a form, and a result of the same one: arrays for arrays. For lists and columns it is an array, too."""
Priors = Counts | Sequence[Sequence[float]]
"""A prior, [C], of any form of :data:`ltaug.priors.Counts`; or one a row, [N, C]."""

__all__ = ["log_prior_shift", "shift_logits"]

_ROWS = 64
"""Samples that are checked for probabilities passed as logits."""


@checked
def log_prior_shift(from_prior: Priors, to_prior: Priors, strength: float = 1.0) -> Tensor:
    """Compute strength * (log to_prior - log from_prior), the vector that :func:`shift_logits` adds.

    Args:
        from_prior: the prior to move from, counts or probabilities, all positive: [C], or one a row, [N, C].
        to_prior: the prior to move to, in the same form; either may be of all rows, and the other one a row.
        strength: 1 is Bayes' rule.

    Returns:
        float64 [C], or [N, C] where a prior is one a row, on the device of ``from_prior``, or on the CPU where that has
        no float64.

    Raises:
        ValueError: a class has prior 0 (its log is infinite), the numbers of classes or rows differ, or ``strength`` is
            NaN or infinite.

    >>> log_prior_shift([3, 1], [1, 1])
    tensor([-0.4055,  0.6931], dtype=torch.float64)
    """
    if not torch.compiler.is_compiling():  # which traces a strength that changes as a number of any value
        strength = as_number(strength, "strength", "0 leaves the logits, 1 is Bayes' rule.")
        if not math.isfinite(strength):
            raise ValueError(f"`strength` must be finite, but is {strength}. 0 leaves the logits, 1 is Bayes' rule.")
    source, target = as_priors(from_prior, "from_prior"), as_priors(to_prior, "to_prior")
    if source.shape[-1] != target.shape[-1]:
        raise ValueError(
            f"`from_prior` and `to_prior` must have one number a class each, but have {source.shape[-1]} and "
            f"{target.shape[-1]}."
        )
    if source.ndim == target.ndim == 2 and len(source) != len(target):
        raise ValueError(
            f"`from_prior` and `to_prior` must have as many rows, but have {len(source)} and {len(target)}."
        )
    return strength * difference(source, target)


def difference(source: Tensor, target: Tensor) -> Tensor:
    """Compute log target - log source of positive numbers, [C] or [N, C], each made to sum to 1, where source is."""
    target = on_device_of(source, target)
    return (target / target.sum(-1, keepdim=True)).log() - (source / source.sum(-1, keepdim=True)).log()


@checked
def shift_logits(logits: Given, from_prior: Priors, to_prior: Priors, strength: float = 1.0, dim: int = 1) -> Given:
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
        to_prior: the prior to move to, [C]; or one a row, [N, C], where the rows come from several places or dates:
            ``prior_of_site[site]``. So may ``from_prior`` be. Rows are on dimension 0 of the logits; the columns of a
            pandas table are named by the classes, 0..C-1.
        strength: 0 leaves the logits, 1 is Bayes' rule.
        dim: where the classes are.

    Returns:
        Logits of the same shape and type, not normalised: a tensor for a tensor, else a NumPy array.

    Raises:
        ValueError: a class has prior 0 (its log is infinite), the numbers of classes or rows differ, ``strength`` is
            NaN or infinite, or logits are integers.

    >>> shift_logits(torch.zeros(1, 2), from_prior=[3, 1], to_prior=[1, 1]).softmax(1)
    tensor([[0.2500, 0.7500]])
    >>> shift_logits([[0.0, 0.0], [0.0, 0.0]], from_prior=[1, 1], to_prior=[[1, 1], [1, 9]]).argmax(1)
    array([0, 1])
    """
    tensor = as_logits(logits)
    if not tensor.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {tensor.dtype}: the shift would be rounded.")
    shift = log_prior_shift(from_prior, to_prior, strength)
    classes = shift.shape[-1]
    if not -tensor.ndim <= dim < tensor.ndim or tensor.shape[dim] != classes:
        raise ValueError(
            f"`logits` must have {classes} classes on dim {dim}, as the priors have, but have shape "
            f"{list(tensor.shape)}."
        )
    return like(logits, shifted(tensor, shift, dim))


def shifted(logits: Tensor, shift: Tensor, dim: int = 1) -> Tensor:
    """Add a shift, [C] or [N, C], to logits with rows on dim 0 and classes on ``dim``; ValueError for other rows."""
    shape = [1] * logits.ndim
    shape[dim] = shift.shape[-1]
    if shift.ndim == 2:
        if dim % logits.ndim == 0 or shift.shape[0] != logits.shape[0]:
            raise ValueError(
                f"`logits` must have a row, on dim 0, for each of the {shift.shape[0]} rows of the prior, which has "
                f"shape {list(shift.shape)}, but have shape {list(logits.shape)}, with classes on dim {dim}. Pass one "
                "prior of all rows as [C]; priors of places a row as `priors[place]`."
            )
        shape[0] = shift.shape[0]
    return logits + on_device_of(logits, shift.to(logits.dtype)).view(shape)


def on_device_of(other: Tensor, tensor: Tensor) -> Tensor:
    """Move a tensor if need be, and only then: an exported model would be bound to the device of the export."""
    return tensor if tensor.device == other.device else tensor.to(other.device)


def as_priors(prior: Priors, name: str) -> Tensor:
    """Convert a prior, [C], as :func:`ltaug.priors.as_counts` does, or one a row, [N, C]; positive, float64."""
    if torch.compiler.is_compiling():
        return torch.as_tensor(prior).double()  # compiled code has no checks
    values = class_columns(prior, name, " Pass a list, an array or a tensor.", "hold one number a class")
    if values.ndim != 2 or values.dtype == torch.bool or not values.numel():
        return as_counts(values, name, integers=False, positive=True).double()
    rows = on_wide_device(with_values(values, name)).double()
    wrong = ~(rows.isfinite() & (rows > 0))
    if bool(wrong.any()):
        row, k = (int(place) for place in wrong.nonzero()[0])
        raise ValueError(
            f"`{name}` must be positive and finite, but row {row} has {float(rows[row, k])} for class {k}. Give a "
            "class that does not occur there a tiny probability, `prior.clamp(min=1e-9)`."
        )
    return rows


def class_columns(values: Any, name: str, advice: str = "", expected: str = "hold one number a class") -> Tensor:
    """Convert numbers of classes as :func:`ltaug.priors.by_class` does, or rows of them, [N, C].

    The columns of a table are the classes, in the order of their names, whatever its rows are called.
    """
    columns = getattr(values, "column_names", getattr(values, "columns", None))
    if columns is None or isinstance(values, Tensor | Mapping):
        return by_class(values, name, advice, expected)
    names = list(columns)
    if set(names) != set(range(len(names))):
        some = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"`{name}` is a table with the columns {some}, but must have one for each class, 0..{len(names) - 1}, by "
            "this number. Rename them, or pass `.to_numpy()` of the table with the classes in order."
        )
    return as_array(np.asarray(values)[:, sorted(range(len(names)), key=names.__getitem__)], name, advice, expected)


def as_target(prior: Counts, num_classes: int, name: str = "target_prior", of: str = "class_counts") -> Tensor:
    """Convert a prior to move to, [C], positive, as :func:`ltaug.priors.as_counts` does."""
    target = as_counts(prior, name, integers=False, positive=True)
    check_classes(target, num_classes, name, of)
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


def wide(logits: Tensor) -> Tensor:
    """Logits in single precision at least, to compute with: half precision would round every step."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_classes(prior: Tensor, num_classes: int, name: str, of: str) -> None:
    """Raise ValueError for a prior, [C] or [N, C], of another number of classes."""
    if prior.shape[-1] != num_classes:
        raise ValueError(
            f"`{name}` must hold one number for each of the {num_classes} classes of `{of}`, but holds "
            f"{prior.shape[-1]}."
        )


def like(given: Given, result: Tensor) -> Given:
    """Return a result in the form in which its input came: a tensor for tensors, else an array."""
    if isinstance(given, Tensor) or (isinstance(given, list | tuple) and given and isinstance(given[0], Tensor)):
        return result  # type: ignore[return-value]  # a list of tensors is one, too
    return cast(Given, result.detach().cpu().numpy())


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
