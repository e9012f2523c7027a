"""Fusion of several modalities, some of which may be missing or degraded: uncertainty scaling and rules to combine.

Logits and probabilities are [N, C, ...] with classes on dim 1, as in segmentation. A fusion takes a list with one entry
a modality, ``None`` for a missing one, which may also be left out. Where no modality gives any class a probability
above 0, the result is uniform.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ltaug._arguments import checked, shown
from ltaug.posthoc import shift_logits
from ltaug.posthoc.shift import Logits, as_logits
from ltaug.priors import Counts, with_values

__all__ = ["entropy_statistics", "mean_fusion", "noisy_or", "product_fusion", "uncertainty_scale", "uno_ic"]


@checked
def entropy_statistics(batches: Iterable[Logits]) -> tuple[float, float]:
    """Mean and standard deviation over the training samples of the entropy of a modality's softmax.

    :func:`uncertainty_scale` compares with them. A sample of several positions, such as an image in segmentation,
    counts with their mean entropy.

    Args:
        batches: logits [N, C, ...], batch by batch; may be a generator, ``(model(x) for x, _ in loader)``, since only
            one number a sample is kept.

    Returns:
        Mean and standard deviation, in nats.

    Raises:
        ValueError: there is no sample, or logits are not [N, C, ...] or hold NaN or infinity; -inf may mask a class.

    >>> mean, std = entropy_statistics([torch.zeros(2, 4), torch.zeros(1, 4)])
    >>> round(mean, 4), round(std, 4)  # log(4) each
    (1.3863, 0.0)
    """
    entropies, classes = [], 0
    for number, batch in enumerate(_batches(batches)):
        logits = as_logits(batch, "batches").detach()
        entropies.append(_entropy(logits).cpu().double())
        if number and logits.shape[1] != classes:
            raise ValueError(
                f"`batches` must all have the same classes, but number {number} has {logits.shape[1]} and the one "
                f"before {classes}. A modality has one set of classes."
            )
        classes = logits.shape[1]
    if not any(len(entropy) for entropy in entropies):
        raise ValueError("`batches` must hold at least one sample, but is empty. Pass the training set's logits.")
    total = torch.cat(entropies)
    return float(total.mean()), float(total.std(correction=0))


@checked
def uncertainty_scale(logits: Logits, mean: float, std: float) -> Tensor:
    """Compute UNO's factor delta <= 1, which flattens the logits of unusually uncertain samples.

    delta = mean / (max(0, H - mean - std) + mean), H the mean entropy of a sample's softmax. Up to one standard
    deviation above the training samples' mean entropy the factor is 1; beyond, as in fog or at night, it falls with H
    (Tian et al., ICRA 2020, https://arxiv.org/abs/1911.05611).

    Args:
        logits: of one modality, [N, C, ...].
        mean: of the training samples' entropy in the same modality, see :func:`entropy_statistics`.
        std: its standard deviation.

    Returns:
        One factor a sample, [N, 1, ...], in the type of the logits and to be multiplied with them.

    Raises:
        ValueError: ``mean`` is not positive, ``std`` is negative, or logits are not [N, C, ...] or hold NaN or
            infinity; -inf may mask a class.

    >>> logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]])  # entropies 0.0012 and 0.6931
    >>> uncertainty_scale(logits, mean=0.2, std=0.1)
    tensor([[1.0000],
            [0.3372]])
    """
    if not (0.0 < mean < math.inf and 0.0 <= std < math.inf):
        raise ValueError(
            f"`mean` must be positive and `std` not negative, but they are {mean} and {std}. "
            "`entropy_statistics` computes them; a mean of 0 means that the model was certain of everything."
        )
    logits = as_logits(logits)
    excess = (_entropy(logits) - mean - std).clamp(min=0.0)
    return (mean / (excess + mean)).to(logits.dtype).view(-1, *[1] * (logits.ndim - 1))


@checked
def noisy_or(probs: Sequence[Logits | None]) -> Tensor:
    """Fuse probabilities by noisy-or, P = (1 - prod_m (1 - P_m)) / Z: a class is present if any modality says so.

    The rule of UNO and UNO-IC (Tian et al., NeurIPS 2020, Algorithm 1, https://arxiv.org/abs/2010.11820). A confident
    modality prevails over uncertain ones, which it would not in the product.

    Args:
        probs: probabilities [N, C, ...], one tensor or array a modality; None for one that is missing.

    Returns:
        Probabilities [N, C, ...].

    Raises:
        ValueError: the list is empty, all are missing, the shapes differ, or the values are no probabilities: below 0,
            above 1, NaN.

    >>> noisy_or([torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])])
    tensor([[0.6667, 0.3333]])
    """
    stack, dtype = _stack(probs, "probs")
    # log1p and expm1 keep the digits of small probabilities, which 1 - (1 - p) would round to 0.
    either = -torch.expm1(torch.log1p(-stack.clamp(max=1.0)).sum(0))
    return _normalised(either).to(dtype)


@checked
def mean_fusion(probs: Sequence[Logits | None]) -> Tensor:
    """Fuse probabilities by their mean, P = mean_m P_m, normalised: every modality has the same weight.

    "SoftAve" in Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820).

    Args:
        probs: probabilities [N, C, ...], one tensor or array a modality; None for one that is missing.

    Returns:
        Probabilities [N, C, ...].

    Raises:
        ValueError: the list is empty, all are missing, the shapes differ, or the values are no probabilities: below 0,
            above 1, NaN.

    >>> mean_fusion([torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])])
    tensor([[0.7500, 0.2500]])
    """
    stack, dtype = _stack(probs, "probs")
    return _normalised(stack.mean(0)).to(dtype)


@checked
def product_fusion(probs: Sequence[Logits | None]) -> Tensor:
    """Fuse probabilities by their product, P = prod_m P_m / Z.

    Exact for modalities that are independent given the class, under a uniform prior. Computed from logarithms; a
    probability of 0 counts as the smallest positive number, so that modalities that exclude each other's classes give
    no NaN.

    Args:
        probs: probabilities [N, C, ...], one tensor or array a modality; None for one that is missing.

    Returns:
        Probabilities [N, C, ...].

    Raises:
        ValueError: the list is empty, all are missing, the shapes differ, or the values are no probabilities: below 0,
            above 1, NaN.

    >>> product_fusion([torch.tensor([[0.8, 0.2]]), torch.tensor([[0.2, 0.8]])])
    tensor([[0.5000, 0.5000]])
    """
    stack, dtype = _stack(probs, "probs")
    return stack.clamp(min=torch.finfo(stack.dtype).tiny).log().sum(0).softmax(1).to(dtype)


@checked
def uno_ic(
    logits: Sequence[Logits | None],
    statistics: Sequence[tuple[float, float]],
    from_prior: Counts | Sequence[Counts | None],
    to_prior: Counts,
    strength: float = 1.0,
    present: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Fuse modalities by UNO-IC: scale each by its uncertainty, correct its prior, combine by noisy-or.

    Algorithm 1 of Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820): with delta_m of
    :func:`uncertainty_scale`, P_m = softmax(delta_m z_m + strength * (log to_prior - log from_prior_m)), and the
    result is :func:`noisy_or` of all P_m. ``strength=0`` is UNO.

    Args:
        logits: [N, C, ...], one tensor or array a modality; None for one that is missing.
        statistics: (mean, std) of the training samples' entropy, one pair a modality, see :func:`entropy_statistics`.
        from_prior: the prior that the logits are under, [C], usually the training counts; see
            :func:`ltaug.posthoc.shift_logits`. Modalities that were trained on different sets have one each: a list
            with one prior [C] a modality, or [M, C].
        to_prior: the prior to move to, [C].
        strength: IC's lambda, found by :func:`ltaug.posthoc.search_strength`; 0.4 on Synthia.
        present: which samples have the modality, bool [N], one mask a modality, None for all. The logits of the other
            samples have no influence; a sample without any modality gets uniform probabilities.

    Returns:
        Probabilities [N, C, ...].

    Raises:
        ValueError: all modalities are missing, statistics or priors are not one a modality, or shapes differ.

    >>> rgb, depth = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> uno_ic([rgb, depth], [(0.4, 0.1), (0.4, 0.1)], from_prior=[9, 1], to_prior=[1, 1])
    tensor([[0.3463, 0.6537]])
    >>> uno_ic([rgb, None], [(0.4, 0.1), (0.4, 0.1)], from_prior=[9, 1], to_prior=[1, 1])
    tensor([[0.4509, 0.5491]])
    >>> uno_ic([rgb, depth], [(0.4, 0.1), (0.4, 0.1)], from_prior=[[9, 1], [1, 1]], to_prior=[1, 1])
    tensor([[0.4836, 0.5164]])
    """
    _check_list(logits, "logits")
    if len(logits) != len(statistics):
        raise ValueError(
            f"`statistics` must hold one (mean, std) a modality, {len(logits)} as `logits`, but hold "
            f"{len(statistics)}. A missing modality is None in `logits`, or left out of both."
        )
    given: Any = from_prior
    priors = list(given) if _one_each(given) else [given] * len(logits)
    if len(priors) != len(logits):
        raise ValueError(
            f"`from_prior` must be one prior [C], or one a modality, {len(logits)} as `logits`, but holds "
            f"{len(priors)}."
        )
    there = [None] * len(logits) if present is None else list(present)
    if len(there) != len(logits):
        raise ValueError(f"`present` must hold one mask a modality, {len(logits)} as `logits`, but holds {len(there)}.")
    probs = []
    for values, (mean, std), prior, mask in zip(logits, statistics, priors, there, strict=True):
        if values is None:
            continue
        z = as_logits(values)
        _check_logits(z)
        if mask is not None and (not isinstance(mask, Tensor) or mask.device != z.device or mask.is_sparse):
            raise ValueError(f"`present` must hold bool tensors [N] on {z.device}, or None, but holds {shown(mask)}.")
        mask = torch.ones(len(z), dtype=torch.bool, device=z.device) if mask is None else mask
        if mask.shape != z.shape[:1] or mask.dtype != torch.bool:
            raise ValueError(f"`present` must be bool [{len(z)}], but is {mask.dtype} {list(mask.shape)}.")
        rows = mask.view(-1, *[1] * (z.ndim - 1))
        z = torch.where(rows, z, 0.0)
        scaled = z * uncertainty_scale(z, mean, std)
        # A probability of 0 for every class has no influence in the noisy-or.
        probs.append(torch.where(rows, shift_logits(scaled, prior, to_prior, strength).softmax(1), 0.0))
    if not probs:
        raise ValueError("`logits` must hold at least one modality, but all are missing.")
    return noisy_or(probs)


def _one_each(prior: Any) -> bool:
    """Whether a prior is one for each modality: rows of numbers, not numbers."""
    return getattr(prior, "ndim", 1) == 2 or (
        isinstance(prior, list | tuple)
        and any(isinstance(row, list | tuple) or getattr(row, "ndim", 0) == 1 for row in prior)
    )


def _check_logits(logits: Tensor) -> None:
    if logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(
            f"`logits` must be floating point of shape [N, C, ...], but are {logits.dtype} of shape "
            f"{list(logits.shape)}."
        )
    with_values(logits, "logits")


def _entropy(logits: Tensor) -> Tensor:
    """Compute the mean entropy of every sample's softmax, [N], in single precision at least."""
    _check_logits(logits)
    log_probs = logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    # A class masked by -inf has p log p = 0, not NaN.
    entropy = -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(1)
    # Reading the values would end torch.export.
    if not torch.compiler.is_compiling() and bool(entropy.isnan().any()):
        off = entropy.isnan().reshape(len(entropy), -1).any(1)
        raise ValueError(
            f"`logits` must be finite, but sample {int(off.nonzero()[0])} has NaN or infinity ({int(off.sum())} of "
            f"{len(off)} samples do). Leave out a modality that has failed; -inf may mask a class, not all of them."
        )
    return entropy.flatten(1).mean(1) if entropy.ndim > 1 else entropy


def _batches(batches: Iterable[Logits]) -> Iterable[Logits]:
    if isinstance(batches, str) or not isinstance(batches, Iterable):
        raise ValueError(f"`batches` must be a list or generator of logits, but is {shown(batches)}.")
    return batches


def _check_list(modalities: Sequence[Logits | None], name: str) -> None:
    if not isinstance(modalities, list | tuple):
        raise ValueError(
            f"`{name}` must be a list with one tensor or array a modality, but is of type {type(modalities).__name__}. "
            "Pass a list such as `[rgb, depth]`."
        )


def _stack(modalities: Sequence[Logits | None], name: str) -> tuple[Tensor, torch.dtype]:
    """Stack the modalities on a new first dimension, in single precision at least; also return the first one's type."""
    _check_list(modalities, name)
    tensors = [
        with_values(as_logits(each, f"{name}[{place}]"), name)
        for place, each in enumerate(modalities)
        if each is not None
    ]
    if not tensors:
        found = "all are missing" if modalities else "is empty"
        raise ValueError(f"`{name}` must hold at least one modality, but {found}.")
    shapes = [list(tensor.shape) for tensor in tensors]
    if any(shape != shapes[0] for shape in shapes) or len(shapes[0]) < 2:
        raise ValueError(f"`{name}` must all have one shape [N, C, ...], but have {shapes}. Resize one of them.")
    if any(tensor.dtype == torch.bool for tensor in tensors):
        raise ValueError(f"`{name}` must be probabilities, but are torch.bool. Convert decisions with `.float()`.")
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    stack = torch.stack([tensor.to(dtype) for tensor in tensors])
    # 1e-2: probabilities that have been through bfloat16 may exceed 1 by up to 4e-3.
    if not torch.compiler.is_compiling() and not bool(((stack >= 0.0) & (stack <= 1.01)).all()):
        modality = int((~((stack >= 0.0) & (stack <= 1.01)).flatten(1).all(1)).nonzero()[0])
        low, high = float(stack[modality].amin()), float(stack[modality].amax())
        raise ValueError(
            f"`{name}` must be probabilities, in 0..1, but modality {modality} ranges from {low:.6g} to {high:.6g}. "
            "If these are logits, pass `logits.softmax(1)`."
        )
    return stack, tensors[0].dtype if tensors[0].is_floating_point() else dtype


def _normalised(values: Tensor) -> Tensor:
    """Rescale to a sum of 1 over the classes; uniform where all are 0."""
    total = values.sum(1, keepdim=True)
    return torch.where(total > 0.0, values / total, 1.0 / values.shape[1])
