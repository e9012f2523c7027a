"""Labels that do not exclude each other, one logit each: prior correction, calibration, and their estimated priors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ltaug._arguments import as_number, checked
from ltaug.posthoc.shift import Logits, as_logits
from ltaug.priors import Column, as_array, on_wide_device, with_values

__all__ = ["log_odds_shift", "shift_binary_logits"]

Shares = Tensor | Column | list[float] | tuple[float, ...] | float
"""Share of the samples that have each label, [L]; one number for one label, or for all alike."""


@checked
def log_odds_shift(from_prior: Shares, to_prior: Shares, strength: float = 1.0) -> Tensor:
    """Compute strength * (log odds of to_prior - log odds of from_prior): what :func:`shift_binary_logits` adds.

    Args:
        from_prior: shares pi of the samples that have each label, [L], between 0 and 1; or one number for all.
        to_prior: the shares to move to, in the same form.
        strength: 1 is Bayes' rule.

    Returns:
        float64 [L], on the device of ``from_prior``, or on the CPU where that has no float64.

    Raises:
        ValueError: a share is not between 0 and 1 (its log odds are infinite), the numbers of labels differ, or
            ``strength`` is NaN or infinite.

    >>> log_odds_shift([0.5, 0.2], 0.5)
    tensor([0.0000, 1.3863], dtype=torch.float64)
    """
    strength = as_number(strength, "strength", "0 leaves the logits, 1 is Bayes' rule.")
    if not math.isfinite(strength):
        raise ValueError(f"`strength` must be finite, but is {strength}. 0 leaves the logits, 1 is Bayes' rule.")
    source, target = as_shares(from_prior, "from_prior"), as_shares(to_prior, "to_prior")
    if source.numel() != target.numel() and 1 not in (source.numel(), target.numel()):
        raise ValueError(
            f"`from_prior` and `to_prior` must have one share a label each, but have {source.numel()} and "
            f"{target.numel()}."
        )
    return strength * (target.to(source.device).logit() - source.logit())


@checked
def shift_binary_logits(logits: Logits, from_prior: Shares, to_prior: Shares, strength: float = 1.0) -> Tensor:
    """Move the logits of labels that do not exclude each other from one prior to another, label by label.

    z + strength * (log(pi' / (1 - pi')) - log(pi / (1 - pi))), by Bayes' rule for each label alone: the odds p(l | x) /
    p(not l | x) are the likelihood ratio times pi / (1 - pi). A model trained with plain binary cross-entropy is under
    the training shares, one trained with :class:`ltaug.PriorCorrectedBCELoss` under 1/2.

    The shift is one number a label: it moves thresholds, confidence and the order of the labels of a sample, but not
    the order of the samples, so no average precision of a label.

    Args:
        logits: [N, L, ...]; [N] or [N, 1] for one label; a tensor, an array or nested lists.
        from_prior: shares that the logits are under, [L], or one number for all labels.
        to_prior: the shares to move to.
        strength: 0 leaves the logits, 1 is Bayes' rule.

    Returns:
        Logits of the same shape and type.

    Raises:
        ValueError: as in :func:`log_odds_shift`, or ``logits`` have another number of labels or are integers.

    >>> shift_binary_logits(torch.zeros(1, 2), from_prior=[0.5, 0.5], to_prior=[0.9, 0.1]).sigmoid()
    tensor([[0.9000, 0.1000]])
    """
    logits = as_logits(logits)
    if not logits.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {logits.dtype}: the shift would be rounded.")
    shift = log_odds_shift(from_prior, to_prior, strength).to(logits.dtype).to(logits.device)
    if shift.numel() > 1:
        check_labels_of(logits, shift.numel())
        shift = shift.view(-1, *(1,) * (logits.ndim - 2))
    return logits + shift


def check_labels_of(logits: Tensor, num_labels: int) -> None:
    """Raise ValueError for logits that do not have ``num_labels`` on dim 1."""
    if logits.ndim < 2 or logits.shape[1] != num_labels:
        raise ValueError(f"`logits` must have shape [N, {num_labels}, ...], but have {list(logits.shape)}.")


def as_shares(prior: Shares, name: str, num_labels: int | None = None) -> Tensor:
    """Convert shares of samples [L], or one number, to float64 [L]; raise ValueError unless they are between 0 and 1.

    The tensor is on a device that has float64, the CPU if need be.
    """
    given: Any = [prior] if isinstance(prior, int | float) and not isinstance(prior, bool) else prior
    shares = on_wide_device(with_values(as_array(given, name), name)).detach()
    if shares.ndim > 1 or shares.numel() == 0 or shares.dtype == torch.bool or num_labels not in (None, shares.numel()):
        expected = "L" if num_labels is None else num_labels
        raise ValueError(
            f"`{name}` must hold one share a label, shape [{expected}], but is {shares.dtype} of shape "
            f"{list(shares.shape)}."
        )
    shares = shares.double().view(-1)
    if not bool(((shares > 0) & (shares < 1)).all()):
        bad = int((~((shares > 0) & (shares < 1))).nonzero()[0])
        value = float(shares[bad])
        if value in (0.0, 1.0):
            way = (
                "Its log odds are infinite: drop a label that no sample or every sample has, or smooth the shares, "
                "`(label_counts + 1) / (N + 2)`."
            )
        else:
            way = "Divide counts by the number of samples; `label_prior(labels)` does."
        raise ValueError(
            f"`{name}` must hold shares of the samples, between 0 and 1, but label {bad} has {value:g}. {way}"
        )
    return shares
