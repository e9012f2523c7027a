"""Class weights, for any loss, from the start or from an epoch on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss, check_class_weights
from ltaug.losses.functional import IGNORED, per_class, prepare, reduce, split_ignored
from ltaug.losses.lade import LADELoss
from ltaug.priors import Counts, as_counts, effective_number

__all__ = [
    "ClassWeightedLoss",
    "DeferredLoss",
    "effective_number_weights",
    "frequency_weights",
    "inverse_frequency_weights",
]


@checked
def effective_number_weights(class_counts: Counts, beta: float = 0.9999) -> Tensor:
    """Class-balanced weights, w_y ~ (1 - beta) / (1 - beta^n_y), scaled to sum to C.

    Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555). The effective number saturates at 1 / (1 - beta) samples,
    10,000 for the default: classes that all have several times as many get the weight 1, and nothing is re-weighted.
    Counts in millions, of the pixels of segmentation, need a beta of 1 - 1 / n with n of the most frequent class, or
    :func:`inverse_frequency_weights`.

    Args:
        class_counts: training samples a class, [C], all positive.
        beta: in [0, 1); 0 gives 1 everywhere, -> 1 the inverse frequency.

    Returns:
        float64 [C].

    >>> effective_number_weights([100, 1], beta=0.9)
    tensor([0.1818, 1.8182], dtype=torch.float64)
    >>> pixels = [4_000_000, 60_000]
    >>> effective_number_weights(pixels), effective_number_weights(pixels, beta=1 - 1 / max(pixels))
    (tensor([0.9988, 1.0012], dtype=torch.float64), tensor([0.0460, 1.9540], dtype=torch.float64))
    """
    weights = 1.0 / effective_number(as_counts(class_counts, positive=True), beta)
    return weights * (weights.numel() / weights.sum())


@checked
def inverse_frequency_weights(class_counts: Counts) -> Tensor:
    """Weights by the inverse frequency, w_y = N / (C n_y): "balanced" in scikit-learn.

    The mean over the training samples is 1, and every class has the same share of the loss. With few samples of a class
    they are extreme; :func:`effective_number_weights` are milder.

    Args:
        class_counts: training samples a class, [C], all positive.

    Returns:
        float64 [C].

    >>> inverse_frequency_weights([90, 10])
    tensor([0.5556, 5.0000], dtype=torch.float64)
    """
    counts = as_counts(class_counts, positive=True).double()
    return counts.sum() / (counts.numel() * counts)


@checked
def frequency_weights(class_counts: Counts, relative_to: str = "median") -> Tensor:
    """Median- or max-frequency weights of segmentation, w_y = median(n) / n_y or max(n) / n_y.

    Median-frequency balancing is of Eigen and Fergus (ICCV 2015, https://arxiv.org/abs/1411.4734); both are baselines
    of Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820). They are :func:`inverse_frequency_weights` on
    another scale, which is that of the learning rate: under Adam all three train alike.

    Args:
        class_counts: training pixels a class, [C], all positive.
        relative_to: "median" or "max".

    Returns:
        float64 [C].

    >>> frequency_weights([900, 90, 10]), frequency_weights([900, 90, 10], "max")
    (tensor([0.1000, 1.0000, 9.0000], dtype=torch.float64), tensor([ 1., 10., 90.], dtype=torch.float64))
    """
    if relative_to not in ("median", "max"):
        raise ValueError(f'`relative_to` must be "median" or "max", but is {relative_to!r}.')
    counts = as_counts(class_counts, positive=True).double()
    return (counts.quantile(0.5) if relative_to == "median" else counts.max()) / counts


class ClassWeightedLoss(ClassLoss):
    """Weight every sample of a loss by its class: w_y * loss, averaged over samples.

    ``nn.CrossEntropyLoss(weight=...)`` divides by the sum of the weights in the batch instead, which undoes a part of
    them in every batch. Probabilities as targets give sum_c t_c w_c loss(c).

    Args:
        loss: any loss of this library but LADE, or ``nn.CrossEntropyLoss``; it must be linear in probabilities as
            targets and have a ``reduction``, which is adopted, as is an ``ignore_index``. A copy is kept; the loss
            itself is not changed.
        class_weights: w, [C]; :func:`effective_number_weights` are the class-balanced ones,
            :func:`inverse_frequency_weights` scikit-learn's. Or "effective_number", or "inverse" (also called "auto"),
            which need ``class_counts``. Or numbers by the names of classes, which need ``class_names``.
        class_counts: training samples a class, [C], for weights that are asked for by a word.
        class_names: C names in the order of the classes, for weights that come by name.

    Raises:
        ValueError: the loss is not a mean over samples, not linear (torch's ``label_smoothing``), or has class weights
            that it would average over (torch's ``weight``); or, when called, it does not return one number a sample.

    >>> import torch
    >>> loss = ClassWeightedLoss(nn.CrossEntropyLoss(), class_weights=[1.0, 3.0])
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(1.3863)
    """

    class_weights: Tensor

    @checked
    def __init__(
        self,
        loss: nn.Module,
        class_weights: Counts | str | Mapping[str, float],
        class_counts: Counts | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(str(getattr(loss, "reduction", "mean")))
        if isinstance(loss, LADELoss | DeferredLoss | ClassWeightedLoss) or not hasattr(loss, "reduction"):
            raise ValueError(
                f"`loss` must be a mean over samples with a `reduction`, but is a {type(loss).__name__}. Wrap the loss "
                "of each phase before deferring it; LADE's regulariser is one number a batch and cannot be weighted."
            )
        if type(loss).__module__ == nn.CrossEntropyLoss.__module__ and not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(
                "`loss` must be a loss of this library or `nn.CrossEntropyLoss`, one number a sample, but is a "
                f"{type(loss).__name__}. `nn.BCEWithLogitsLoss` takes the class weights itself, as its `weight`."
            )
        if getattr(loss, "weight", None) is not None:
            raise ValueError(
                "`loss` must have no `weight` of its own: the mean would no longer be over that weight, as torch's is. "
                "Multiply it into `class_weights`."
            )
        if getattr(loss, "label_smoothing", 0.0):
            raise ValueError(
                "`loss` must be linear in probabilities as targets, which torch's `label_smoothing` is not. Use "
                '`LabelAwareSmoothingLoss(class_counts, head=eps, tail=eps, mode="official_code")`, which is the same.'
            )
        self.loss = copy.deepcopy(loss)  # the given loss may be used without weights, too
        self.loss.reduction = "none"  # type: ignore[assignment]
        self.ignore_index = int(getattr(loss, "ignore_index", IGNORED))
        self.ignores_rows = bool(getattr(loss, "ignores_rows", False))
        weights = check_class_weights(_asked_for(class_weights, class_counts, class_names))
        if weights is None:
            raise ValueError(
                "`class_weights` must hold one number a class, but is None. Use the loss as it is instead."
            )
        self.keep("class_weights", weights)

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted loss of ``logits`` [N, C, ...] against ``targets``."""
        weights = self.class_weights
        logits, targets = prepare(logits, targets, weights.numel())
        if targets.is_floating_point():
            weighted = targets * per_class(weights, targets)
            if not isinstance(self.loss, ClassLoss):
                return reduce(self._each(logits, weighted), self.reduction)
            # By linearity the same, but a loss of this library takes probabilities only.
            total = weighted.sum(1, keepdim=True)
            shares = torch.where(total > 0.0, weighted / total, targets)
            return reduce(self._each(logits, shares) * total.squeeze(1), self.reduction)
        targets, kept = split_ignored(targets)
        loss = self._each(logits, targets)
        return reduce(loss * weights.to(loss)[targets], self.reduction, kept)

    def _each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The unweighted loss of every sample, [N, ...]."""
        loss: Tensor = self.loss(logits, targets)
        if loss.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                "`loss` must return one number a sample, of shape "
                f"{[logits.shape[0], *logits.shape[2:]]} for logits of shape {list(logits.shape)} and "
                f'`reduction="none"`, but {type(self.loss).__name__} returned shape {list(loss.shape)}.'
            )
        return loss


def _asked_for(weights: Any, counts: Counts | None, names: Sequence[str] | None) -> Any:
    """Class weights that are asked for by a word, or that come by the names of classes."""
    make = {"effective_number": effective_number_weights} | dict.fromkeys(
        ("inverse", "auto"), inverse_frequency_weights
    )
    if isinstance(weights, str):
        if weights not in make or counts is None:
            raise ValueError(
                f"`class_weights` must be numbers, or {', '.join(make)} with the `class_counts`, but is {weights!r}"
                f"{'' if counts is not None else ' without them'}."
            )
        return make[weights](counts)
    if not isinstance(weights, Mapping) or not any(isinstance(name, str) for name in weights):
        return weights
    if names is None:
        raise ValueError("`class_weights` come by name: give the `class_names`, in the order of the classes.")
    for given, known, words in ((weights, names, "has a number for"), (names, weights, "must have a number for")):
        wrong = [name for name in given if name not in known]
        if wrong:
            others = ", which is none of the `class_names`" if given is weights else ""
            raise ValueError(f"`class_weights` {words} {wrong[0]!r}{others} ({len(wrong)} such).")
    return [weights[name] for name in names]


class DeferredLoss(nn.Module):
    """Deferred re-weighting (DRW): one loss before an epoch, another from that epoch on.

    Usually a plain loss first, then its class-weighted form (Cao et al., NeurIPS 2019,
    https://arxiv.org/abs/1906.07413).

    Args:
        first: the loss of the epochs before ``epoch``.
        then: the loss from ``epoch`` on.
        epoch: the switch, counted from 0; 160 of 200 in the paper.

    Raises:
        ValueError: ``epoch`` is negative, or the two losses reduce or ignore differently, which would go unnoticed
            until the switch.

    >>> plain = nn.CrossEntropyLoss()
    >>> weighted = ClassWeightedLoss(nn.CrossEntropyLoss(), effective_number_weights([100, 1]))
    >>> loss = DeferredLoss(plain, weighted, epoch=160)
    >>> loss.set_epoch(160)
    >>> loss.current is weighted
    True
    """

    @checked
    def __init__(self, first: nn.Module, then: nn.Module, epoch: int) -> None:
        super().__init__()
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        for name in ("reduction", "ignore_index"):
            mine, others = getattr(first, name, None), getattr(then, name, None)
            if None not in (mine, others) and mine != others:
                raise ValueError(
                    f"`first` and `then` must have the same `{name}`, but have {mine!r} and {others!r}. Set it in both."
                )
        self.first = first
        self.then = then
        self.switch_epoch = int(epoch)
        self.epoch = 0

    @property
    def current(self) -> nn.Module:
        """The loss of this epoch."""
        return self.first if self.epoch < self.switch_epoch else self.then

    @property
    def reduction(self) -> str:
        """That of both losses; to set it sets theirs."""
        return str(getattr(self.first, "reduction", "mean"))

    @reduction.setter
    def reduction(self, value: str) -> None:
        self.first.reduction = self.then.reduction = value  # type: ignore[assignment]

    @property
    def ignore_index(self) -> int:
        """That of both losses."""
        return int(getattr(self.first, "ignore_index", IGNORED))

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, counted from 0; also that of losses that change by themselves."""
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        self.epoch = int(epoch)
        for loss in (self.first, self.then):
            if callable(change := getattr(loss, "set_epoch", None)):
                change(epoch)

    @checked
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``, by the loss of this epoch."""
        loss: Tensor = self.current(logits, targets)
        return loss
