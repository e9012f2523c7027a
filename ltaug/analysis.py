"""Label distribution that a network is trained on, given its samplers and mixer, in closed form.

A prior-corrected loss has to correct that distribution, not the one of the training counts:
:func:`effective_prior` gives it for any pair of samplers and any mixer. The other functions give the distributions in
the arguments of the papers on UniMix and label-occurrence-balanced mixup.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_number, checked, shown
from ltaug.mixers import BetweenClass, UniMix
from ltaug.mixers._base import Mixer, beta_cdf, check_alpha
from ltaug.mixers._counts import CountMixer
from ltaug.priors import Counts, as_counts, as_labels, as_reals, by_class
from ltaug.priors import class_counts as count_classes

__all__ = [
    "corollary_1",
    "corollary_2",
    "corollary_3",
    "effective_prior",
    "label_occurrence",
    "label_suppression",
    "logits_prior",
    "mixup_class_density",
    "unimix_class_density",
    "unimix_factor_class_density",
    "xi_aug_distribution",
    "xi_aug_probability",
]

DRAWS = 2**17
"""Pairs drawn in all for a mixer whose mean weights are unknown; at least 32 a class."""


@checked
def effective_prior(
    class_counts: Counts,
    mixer: Callable[..., tuple[Tensor, Tensor]] | None = None,
    first_tau: float | Counts = 1.0,
    partner_tau: float | Counts | None = None,
    *,
    batch_size: int | None = None,
    different_classes: bool = False,
) -> Tensor:
    """Compute the label distribution that a network is trained on, after sampling and mixing.

    The result is the expected label mass of each class. First samples come from the classes with probability p ~
    n^first_tau, partners with q ~ n^partner_tau, lam is the weight of the first label:

        eff_k = p_k sum_j q_j E[lam | k, j] + q_k sum_i p_i (1 - E[lam | i, k])

    With mixup this is (p + q) / 2. This function is new here: UniMix with Bayias (Xu et al., NeurIPS 2021,
    https://arxiv.org/abs/2111.03874) corrects the training prior although UniMix makes ``eff`` much flatter; give a
    prior-corrected loss this distribution instead.

    Exact for mixers with ``expected_weights`` (all of the library have it; CutMix needs its ``sizes`` to count the
    rounding of boxes to pixels). For any other mixer it is estimated from M = max(32, 2^17 / C) sampled pairs for every
    class in each of both places, with images of zeros, 1 x 32 x 32: the standard error of eff_k is at most
    sqrt((p_k^2 + q_k^2) / (4 M)), and every call gives the same result.

    Args:
        class_counts: training samples a class, [C]. A class with 0 gets 0.
        mixer: any mixer; ``None`` if nothing is mixed, and the labels are those of the first sampler.
        first_tau: exponent of the first sampler (``ClassPowerSampler``), or its class probabilities or counts, [C].
        partner_tau: the same for the partners' sampler. ``None``: the mixer takes partners from the batch.
        batch_size: how many independent samples a batch has, for partners from the batch. Of a permutation, one in
            ``batch_size`` samples is its own partner; ``None`` neglects that. Required for
            ``UniMix(in_batch_tau=...)``, whose partners depend on which classes turn up together.
        different_classes: pairs over the whole data set are of different classes, as with
            ``PairSampler(different_classes=...)``: eff_k above minus p_k q_k, renormalised, since a pair of one class
            has only that class. For partners from the batch it is a setting of the mixer,
            ``BetweenClass(different_classes=True)``.

    Returns:
        float64 [C], sums to 1, on the CPU.

    Raises:
        ValueError: numbers of classes differ; ``batch_size`` is needed and missing, or below 1; ``different_classes``
            without a mixer and ``partner_tau``, or with a single class; or a mixer chooses partners from the batch in a
            way of its own.

    >>> from ltaug import MixUp, UniMix
    >>> effective_prior([90, 10], MixUp(num_classes=2), first_tau=1.0, partner_tau=0.0)
    tensor([0.7000, 0.3000], dtype=torch.float64)
    >>> effective_prior([90, 10], UniMix([90, 10], alpha=0.2), first_tau=1.0, partner_tau=0.0)
    tensor([0.5817, 0.4183], dtype=torch.float64)
    """
    counts = as_counts(class_counts, integers=False).cpu()
    first = _class_probabilities(counts, first_tau, "first_tau")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but is {batch_size}.")
    if different_classes and (mixer is None or partner_tau is None):
        raise ValueError(
            "`different_classes` is about pairs over the whole data set, which need a `mixer` and a `partner_tau`. For "
            "partners from the batch use `BetweenClass(different_classes=True)`."
        )
    if mixer is None:
        return first
    if not callable(mixer) or isinstance(mixer, type):
        raise ValueError(f"`mixer` must be a mixer such as `MixUp({len(counts)})`, but is {shown(mixer)}.")
    if getattr(mixer, "multi_label", None) is not None:
        raise ValueError(
            "`mixer` mixes several labels a sample, but `class_counts` are of classes that exclude each other. "
            "`Method.plan` knows the shares of the labels after mixing: `plan.seen_prior()`."
        )
    width = getattr(mixer, "num_classes", len(counts))
    if width != len(counts):
        raise ValueError(f"`mixer` has {width} classes, but `class_counts` {len(counts)}.")
    if isinstance(mixer, Mixer) and (mixer.prob < 1.0 or not mixer.mixup_enabled):
        always, share = copy.copy(mixer), mixer.prob if mixer.mixup_enabled else 0.0
        always.prob, always.mixup_enabled = 1.0, True
        mixed = effective_prior(
            counts, always, first_tau, partner_tau, different_classes=different_classes, batch_size=batch_size
        )
        if different_classes and partner_tau is not None:
            first = _without_pairs_of_one_class(first, first, _class_probabilities(counts, partner_tau, "partner_tau"))
        return share * mixed + (1.0 - share) * first
    differ = False
    if type(mixer) is BetweenClass:  # the labels are mixed as by the mixer that draws the ratio
        differ, mixer = mixer.different_classes, mixer.ratio
    if partner_tau is not None:
        partner = _class_probabilities(counts, partner_tau, "partner_tau")
        mixed = _expected_labels(mixer, first, partner)
        return _without_pairs_of_one_class(mixed, first, partner) if different_classes else mixed
    if differ:
        return _expected_labels_of_different_classes(mixer, first, batch_size)
    if isinstance(mixer, Mixer) and type(mixer).partners not in (Mixer.partners, UniMix.partners):
        raise ValueError(
            f"`mixer` is a {type(mixer).__name__}, which chooses partners from the batch in a way of its own. Pass the "
            "class probabilities of its partners as `partner_tau`."
        )
    if isinstance(mixer, UniMix) and mixer.in_batch_tau is not None:
        if batch_size is None:
            raise ValueError(
                "`batch_size` is needed for a mixer with `in_batch_tau`: its partners depend on which classes a batch "
                "holds."
            )
        return _expected_labels_in_batch(mixer, first, mixer.in_batch_tau, batch_size)
    mixed = _expected_labels(mixer, first, first)
    # A permutation has one fixed point on average; a sample mixed with itself keeps its label.
    alone = 0.0 if batch_size is None else 1.0 / batch_size
    return (1.0 - alone) * mixed + alone * first


@checked
def logits_prior(seen: Counts, corrected: Counts | None = None) -> Tensor:
    """Compute the class prior that a trained model's logits are under, ~ seen / corrected.

    A network that is trained with cross-entropy on z + log(corrected), on labels of distribution ``seen``, learns
    logits z whose softmax is right under seen / corrected. It is the ``from_prior`` of
    :func:`ltaug.posthoc.shift_logits`.

    Args:
        seen: the label distribution in training, counts or probabilities [C]; see :func:`effective_prior`.
        corrected: the prior in the loss, [C]; ``None`` for plain cross-entropy.

    Returns:
        float64 [C], sums to 1, on the CPU.

    Raises:
        ValueError: numbers of classes differ, or ``corrected`` is 0 somewhere.

    >>> logits_prior(seen=[0.6, 0.4], corrected=[0.9, 0.1])  # Bayias corrected more than was needed
    tensor([0.1429, 0.8571], dtype=torch.float64)
    """
    prior = as_counts(seen, "seen", integers=False).double().cpu()
    if corrected is not None:
        divisor = as_counts(corrected, "corrected", integers=False, positive=True).double().cpu()
        if divisor.shape != prior.shape:
            raise ValueError(
                f"`seen` and `corrected` must have one number a class each, but have {prior.numel()} and "
                f"{divisor.numel()}."
            )
        prior = prior / divisor
    return prior / prior.sum()


# xi-Aug


@checked
def xi_aug_probability(n_i: Tensor | float, n_j: Tensor | float, alpha: float = 0.8) -> Tensor:
    """Compute the probability that a UniMix sample belongs to the class of its first sample, P(xi* >= 1/2).

    Xu et al. (NeurIPS 2021, Def. 1 and Eq. 6, https://arxiv.org/abs/2111.03874). With r = n_j / (n_i + n_j) and F the
    Beta(alpha, alpha) distribution function, P = F(1 - r) - F(max(1/2 - r, 0)) + 1 - F(min(3/2 - r, 1)). It is not
    monotone in r: the wrap of xi* at 1 lowers it again for the rarest classes. At alpha = 1 it is 1/2 whatever the
    counts are.

    Args:
        n_i: count (or prior) of the class of the first sample, any shape.
        n_j: count (or prior) of the class of the partner; both broadcast together. Not both 0.
        alpha: parameter of the Beta distribution.

    Returns:
        float64, in the broadcast shape.

    >>> xi_aug_probability(torch.tensor([1, 10, 25, 50]), torch.tensor([99, 90, 75, 50]), alpha=0.8)
    tensor([0.5120, 0.5446, 0.5571, 0.5000], dtype=torch.float64)
    """
    alpha = check_alpha(alpha)
    first, partner = (_numbers(n, name) for name, n in (("n_i", n_i), ("n_j", n_j)))
    try:
        first, partner = torch.broadcast_tensors(first, partner)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(
            f"`n_i` and `n_j` must broadcast together, but have shapes {list(first.shape)} and {list(partner.shape)}."
        ) from error
    if not bool((first + partner > 0.0).all() and (torch.minimum(first, partner) >= 0.0).all()):
        raise ValueError("`n_i` and `n_j` must not be negative, nor both 0.")
    if not bool((first + partner).isfinite().all()):
        raise ValueError("`n_i` and `n_j` must be finite.")
    share, ratio = first / (first + partner), partner / (first + partner)
    # F is symmetric: 1 - F(3/2 - r) = F(r - 1/2), without the cancellation.
    wrapped = beta_cdf(alpha, alpha, (ratio - 0.5).clamp(min=0.0)) - beta_cdf(
        alpha, alpha, (0.5 - ratio).clamp(min=0.0)
    )
    return beta_cdf(alpha, alpha, share) + wrapped


@checked
def xi_aug_distribution(class_counts: Counts, tau: float = 0.0, alpha: float = 0.8) -> Tensor:
    """Compute the distribution of the classes that UniMix samples belong to.

    First sample ~ n, partner ~ n^tau; a mixed sample belongs to the first class where xi* >= 1/2, else to the partner's
    (Xu et al., NeurIPS 2021, Def. 1, https://arxiv.org/abs/2111.03874). Exact for any alpha, where the paper's
    corollaries take the limit of small ones (:func:`unimix_class_density`). Mixup keeps the training prior
    (:func:`mixup_class_density`).

    Args:
        class_counts: training samples a class or a prior, [C]. A class with 0 gets 0.
        tau: exponent of the partners' sampler: 1 is the UniMix factor alone, -1 the paper's full UniMix for
            CIFAR-10-LT.
        alpha: parameter of the Beta distribution.

    Returns:
        float64 [C], sums to 1, on the CPU.

    >>> xi_aug_distribution([90, 10], tau=1.0, alpha=0.2)
    tensor([0.8452, 0.1548], dtype=torch.float64)
    """
    counts = as_counts(class_counts, integers=False).double().cpu()
    first, partner = (_class_probabilities(counts, power, "tau") for power in (1.0, tau))
    present = first > 0
    distinct, group = torch.unique(counts[present], return_inverse=True)
    table = xi_aug_probability(distinct[:, None], distinct[None, :], alpha)
    result = torch.zeros_like(first)
    result[present] = _label_mass(table, group, first[present], partner[present])
    return result


@checked
def mixup_class_density(y: Tensor | float, num_classes: int, imbalance_ratio: float) -> Tensor:
    """Compute the density of the classes of mixup samples, which is that of the training classes.

    P(y) = eta exp(-eta y) / (exp(-eta) - exp(-eta C)), eta = log(imbalance_ratio) / (C - 1): classes as a continuum
    from y = 1, the most frequent, to C (Corollary 1 of UniMix, Xu et al., NeurIPS 2021, Eq. 4 and 5,
    https://arxiv.org/abs/2111.03874).

    Args:
        y: where to evaluate, in [1, C], any shape.
        num_classes: C, at least 2.
        imbalance_ratio: n_max / n_min >= 1.

    Returns:
        float64, in the shape of ``y``.

    >>> mixup_class_density(torch.tensor([1.0, 100.0]), num_classes=100, imbalance_ratio=200)
    tensor([0.0538, 0.0003], dtype=torch.float64)
    """
    return _tail(y, num_classes, imbalance_ratio, 1.0)[0]


@checked
def unimix_factor_class_density(
    y: Tensor | float, num_classes: int, imbalance_ratio: float, *, two_sided: bool = False
) -> Tensor:
    """Compute the density of the classes of samples under the UniMix factor alone, in the limit of small alpha.

    P*(y) = P(y) F(y), with F the distribution function of P (Corollary 2 of UniMix, Xu et al., NeurIPS 2021, Eq. 8,
    https://arxiv.org/abs/2111.03874). As printed it counts only the pairs whose first sample is the rarer one, and
    integrates to 1/2; with ``two_sided`` it counts both and integrates to 1.

    Args:
        y: where to evaluate, in [1, C], any shape.
        num_classes: C, at least 2.
        imbalance_ratio: n_max / n_min >= 1.
        two_sided: 2 P(y) F(y) instead of the printed half.

    Returns:
        float64, in the shape of ``y``.

    >>> unimix_factor_class_density(torch.tensor([1.0, 13.0, 100.0]), num_classes=100, imbalance_ratio=200)
    tensor([0.0000, 0.0135, 0.0003], dtype=torch.float64)
    """
    return unimix_class_density(y, num_classes, imbalance_ratio, tau=1.0, two_sided=two_sided)


@checked
def unimix_class_density(
    y: Tensor | float, num_classes: int, imbalance_ratio: float, tau: float, *, two_sided: bool = False
) -> Tensor:
    """Compute the density of the classes of samples under full UniMix, in the limit of small alpha.

    P(y) F_inv(y), with F_inv the distribution function of the partner, P_inv ~ P^tau (Corollary 3 of UniMix, Xu et al.,
    NeurIPS 2021, Eq. 10, https://arxiv.org/abs/2111.03874). As printed it counts only the pairs whose first sample is
    the rarer one, and integrates to 0.50, 0.18 and 0.022 for tau = 1, 0 and -1 (C = 100, imbalance ratio 200); with
    ``two_sided`` it is P F_inv + P_inv F and integrates to 1.

    Args:
        y: where to evaluate, in [1, C], any shape.
        num_classes: C, at least 2.
        imbalance_ratio: n_max / n_min >= 1.
        tau: exponent of the partners' sampler; 1 is :func:`unimix_factor_class_density`, 0 a
            class-balanced one.
        two_sided: count the pairs whose partner is the rarer one too.

    Returns:
        float64, in the shape of ``y``.

    >>> unimix_class_density(torch.tensor([25.0, 100.0]), num_classes=100, imbalance_ratio=200, tau=-1, two_sided=True)
    tensor([0.0009, 0.0541], dtype=torch.float64)
    """
    density, cumulative = _tail(y, num_classes, imbalance_ratio, 1.0)
    partner_density, partner_cumulative = _tail(y, num_classes, imbalance_ratio, tau)
    printed = density * partner_cumulative
    return printed + partner_density * cumulative if two_sided else printed


corollary_1 = mixup_class_density
"""The paper's name for :func:`mixup_class_density`."""
corollary_2 = unimix_factor_class_density
"""The paper's name for :func:`unimix_factor_class_density`."""
corollary_3 = unimix_class_density
"""The paper's name for :func:`unimix_class_density`."""


# Label occurrence


@checked
def label_occurrence(
    first: Iterable[int] | Counts,
    partner: Iterable[int] | Counts,
    labels: Counts | None = None,
    *,
    num_classes: int | None = None,
    epochs: int = 1,
) -> Tensor:
    """Compute the label occurrence ratio under mixup, gamma_k = (q_1(k) + q_2(k)) / 2.

    Zhang et al. (ICASSP 2022, Eq. 3 with E[lam] = 1/2, https://arxiv.org/abs/2110.04964). q_1 and q_2 are the class
    probabilities of the two samplers; label-occurrence-balanced mixup makes gamma uniform with two class-balanced ones.
    For CIFAR-10-LT at an imbalance ratio of 10 and one balanced sampler the largest gamma is 2.77 times the smallest;
    the paper prints 3.16, which is what a square-root sampler gives.

    Args:
        first: class probabilities or counts, [C] (tensor, array or sequence); or any sampler, whose draws are counted
            by class. The sampler itself is not changed.
        partner: the same for the second sample.
        labels: class of every sample of the data set, int [N]; needed for samplers.
        num_classes: C, for samplers; by default the largest label plus one.
        epochs: number of epochs to draw from samplers, from epoch 0 on.

    Returns:
        float64 [C], sums to 1, on the CPU.

    Raises:
        ValueError: a sampler without ``labels``, one that draws nothing, or numbers of classes that differ.

    >>> from ltaug import ClassPowerSampler
    >>> label_occurrence([90, 10], [1, 1])
    tensor([0.7000, 0.3000], dtype=torch.float64)
    >>> labels = [0] * 900 + [1] * 100
    >>> balanced = ClassPowerSampler(labels, tau=0)
    >>> label_occurrence(balanced, balanced, labels, epochs=20).round(decimals=1)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1, but is {epochs}.")
    known = None if labels is None else as_labels(labels).cpu()
    if known is not None:
        num_classes = count_classes(known, num_classes).numel()
    for name, each in (("first", first), ("partner", partner)):
        if not isinstance(each, Iterable) or isinstance(each, type):
            raise ValueError(f"`{name}` must be a sampler, or one number a class, but is {shown(each)}.")
    both = [
        as_counts(each, name, integers=False).double().cpu()  # type: ignore[arg-type]  # no sampler
        if isinstance(each, (Tensor, Sequence, Mapping)) or hasattr(each, "__array__")
        else _drawn_classes(each, name, known, num_classes, epochs)
        for name, each in (("first", first), ("partner", partner))
    ]
    for name, each in (("first", both[0]), ("partner", both[1])):
        if known is not None and each.numel() != num_classes:
            raise ValueError(
                f"`{name}` must be a sampler, or hold one number for each of the {num_classes} classes of `labels`, "
                f"but holds {each.numel()}. Pass the sampler itself, not the indices that it draws."
            )
    if both[0].shape != both[1].shape:
        raise ValueError(
            f"`first` and `partner` must have the same classes, but have {both[0].numel()} and {both[1].numel()}. "
            "Pass `num_classes` if a sampler's labels lack the last ones."
        )
    return (both[0] / both[0].sum() + both[1] / both[1].sum()) / 2


@checked
def label_suppression(
    class_counts: Counts,
    head: Tensor | Sequence[bool],
    first_tau: float | Counts = 1.0,
    partner_tau: float | Counts | None = None,
) -> Tensor:
    """Compute the share of the mixed samples that carry at least one head label, 1 - (1 - p_head) (1 - q_head).

    Zhang et al. (ICASSP 2022, section 1, https://arxiv.org/abs/2110.04964): 94.7 % of ImageNet-LT's under mixup.

    Args:
        class_counts: training samples a class or a prior, [C].
        head: which classes count as head, bool [C], such as ``shot_groups(class_counts)["many"]``.
        first_tau: exponent of the first sampler, or its class probabilities, [C].
        partner_tau: the same for the partners; ``None`` for those of the first sampler.

    Returns:
        float64, a scalar.

    >>> label_suppression([77, 20, 3], head=torch.tensor([True, False, False]))
    tensor(0.9471, dtype=torch.float64)
    """
    counts = as_counts(class_counts, integers=False).cpu()
    head = by_class(head, "head").cpu()
    if head.dtype != torch.bool or head.shape != counts.shape:
        raise ValueError(
            f"`head` must be bool [{len(counts)}], a flag for each class, but is {head.dtype} {list(head.shape)}."
        )
    first = _class_probabilities(counts, first_tau, "first_tau")
    partner = first if partner_tau is None else _class_probabilities(counts, partner_tau, "partner_tau")
    return 1.0 - (1.0 - first[head].sum()) * (1.0 - partner[head].sum())


# How they are computed


def _class_probabilities(counts: Tensor, tau: float | Counts, name: str) -> Tensor:
    """Class probabilities of a sampler, float64 [C]: a power of the counts, or given by the caller."""
    if not isinstance(tau, int | float | complex | str | bytes | np.number | None):
        given = as_counts(tau, name, integers=False).double().cpu()
        if given.shape != counts.shape:
            raise ValueError(
                f"`{name}` must be a number or hold one for each of the {len(counts)} classes, but has shape "
                f"{list(given.shape)}."
            )
        return given / given.sum()
    tau = as_number(tau, name)
    if not math.isfinite(tau):
        raise ValueError(f"`{name}` must be finite, but is {tau}.")
    # Through logarithms, so that no power overflows; an absent class stays absent whatever the exponent is.
    log = torch.where(counts > 0, tau * counts.double().log(), -math.inf)
    return log.softmax(0)


def _label_mass(table: Tensor, group: Tensor, first: Tensor, partner: Tensor) -> Tensor:
    """Label mass a class, [C], for independent first and partner.

    ``table[a, b]`` is the weight of the first label for classes of the groups a and b.
    """
    first_of, partner_of = (
        torch.zeros(len(table), dtype=torch.float64).index_add_(0, group, each) for each in (first, partner)
    )
    return first * (table @ partner_of)[group] + partner * ((1.0 - table).T @ first_of)[group]


def _expected_labels(mixer: Any, first: Tensor, partner: Tensor) -> Tensor:
    """Label mass a class, [C], for independent pairs."""
    if not _has_exact_mean(mixer):
        return _monte_carlo(mixer, first, partner)
    try:
        if isinstance(mixer, CountMixer) and type(mixer).expected_weights is CountMixer.expected_weights:
            counts, group = _count_groups(mixer)
            return _label_mass(mixer.expected_weight(counts[:, None], counts[None, :]), group, first, partner)
        table: Tensor = mixer.expected_weights()
    except NotImplementedError:  # a subclass without known mean weights
        return _monte_carlo(mixer, first, partner)
    if not any(table.stride()):  # one number, expanded to all pairs: nothing of size C^2 is made
        share = table[0, 0].double().cpu()
        return share * first + (1.0 - share) * partner
    return _label_mass(table.double().cpu(), torch.arange(len(table)), first, partner)


def _has_exact_mean(mixer: Any) -> bool:
    """Whether ``expected_weights`` belongs to the weights that are drawn: a subclass may have changed only those."""

    def place(name: str) -> int:
        order = type(mixer).__mro__
        return next((k for k, cls in enumerate(order) if name in vars(cls)), len(order))

    means = min(place("expected_weights"), place("expected_weight"))
    return means < len(type(mixer).__mro__) and means <= min(place("weights"), place("mix"))


def _count_groups(mixer: CountMixer) -> tuple[Tensor, Tensor]:
    """Distinct counts, and which of them each class has: thousands of classes share some hundreds of counts."""
    counts, group = torch.unique(mixer.class_counts.cpu().clamp(min=1), return_inverse=True)
    return counts, group


def _expected_labels_in_batch(mixer: UniMix, first: Tensor, tau: float, batch_size: int) -> Tensor:
    """Label mass a class, [C], where the partner is drawn from the batch with weight w = n^(tau - 1) a sample.

    The share of a sample in a sum s of weights is an integral, 1 / s = int_0^inf exp(-t s) dt, under which the samples
    of the batch separate: with phi(t) = sum_k p_k exp(-t w_k), another sample of class j is the partner with
    probability (B - 1) p_i p_j w_j int exp(-t (w_i + w_j)) phi(t)^(B - 2) dt, and the sample itself with
    p_i w_i int exp(-t w_i) phi(t)^(B - 1) dt.
    """
    counts, group = _count_groups(mixer)
    mass = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, group, first)
    drawn = mass > 0
    table = mixer.expected_weight(counts[drawn][:, None], counts[drawn][None, :])
    share, log_weight = mass[drawn], (tau - 1.0) * counts[drawn].double().log()
    weight = (log_weight - torch.logsumexp(share.log() + log_weight, 0)).exp()  # mean 1 over samples
    # t = exp(s) makes the integrands smooth on the whole line, where the trapezoidal rule converges geometrically: a
    # step of 0.2 is exact to rounding. Cut off where the rest is below rounding, on the right because of exp(-45).
    low = -math.log(max(batch_size, float(weight.max()))) - 42.0
    high = math.log(45.0) - math.log(float(weight.min()))
    t = torch.arange(low, high + 0.2, 0.2, dtype=torch.float64).exp()
    decay = share[:, None] * torch.exp(-weight[:, None] * t)
    phi = decay.sum(0)
    own = weight * (decay @ (0.2 * t * phi ** (batch_size - 1)))
    others = (batch_size - 1) * (decay * (0.2 * t * phi ** max(batch_size - 2, 0))) @ (decay * weight[:, None]).T
    of_group = torch.zeros_like(mass)
    # Divided by the group's mass, for the share of each class; a sample mixed with itself keeps its label.
    of_group[drawn] = ((others * table).sum(1) + (others * (1.0 - table)).sum(0) + own) / share
    return first * of_group[group]


def _without_pairs_of_one_class(mixed: Tensor, first: Tensor, partner: Tensor) -> Tensor:
    """Label mass a class, [C], of the independent pairs whose classes differ."""
    if int(((first > 0) | (partner > 0)).sum()) < 2:
        raise ValueError("`different_classes` needs at least two classes to draw from, but there is only one.")
    # An estimated `mixed` may be smaller than the mass of the pairs of one class.
    rest = (mixed - first * partner).clamp_min(0.0)
    return rest / rest.sum()


def _expected_labels_of_different_classes(mixer: Any, first: Tensor, batch_size: int | None) -> Tensor:
    """Label mass a class, [C], where the partner is any sample of the batch of another class, if there is one.

    A sample of class k finds one with probability 1 - p_k^(B - 1), and then of class j with p_j / (1 - p_k), however
    many there are: pairs of w_k = p_k (1 - p_k^(B - 1)) / (1 - p_k) and p_j, without those of one class.
    """
    if float(first.max()) == 1.0 or batch_size == 1:
        return first
    alone = torch.zeros_like(first) if batch_size is None else first ** (batch_size - 1)
    odds = first * (1.0 - alone) / (1.0 - first)
    total = odds.sum()
    return total * _expected_labels(mixer, odds / total, first) - odds * first + first * alone


def _monte_carlo(mixer: Callable[..., Any], first: Tensor, partner: Tensor) -> Tensor:
    """Label mass a class, [C], estimated from sampled pairs, for a mixer with unknown mean weights."""
    num_classes = len(first)
    draws = max(32, DRAWS // num_classes)
    ours = torch.arange(num_classes).repeat_interleave(draws)

    def kept(other: Tensor, *, own_first: bool) -> Tensor:
        """Mean weight of each class's label, [C], as the first of the pair or as the partner."""
        theirs = torch.multinomial(other, len(ours), replacement=True)
        pieces = []
        for own, their in zip(torch.split(ours, 2048), torch.split(theirs, 2048), strict=True):
            pair = (own, their) if own_first else (their, own)
            inputs = torch.zeros(len(own), 1, 32, 32)
            _, targets = mixer(inputs, pair[0], inputs.clone(), pair[1])
            weight = targets.cpu().double().gather(1, own[:, None])[:, 0]
            # Two samples of one class share its label: half each.
            pieces.append(torch.where(own == their, 0.5, weight))
        return torch.cat(pieces).view(num_classes, draws).mean(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mass = first * kept(partner, own_first=True) + partner * kept(first, own_first=False)
    return mass / mass.sum()


def _numbers(values: Any, name: str) -> Tensor:
    """Convert numbers of any form to float64 on the CPU, since not every device has that type."""
    return as_reals(values, name).cpu().double()


def _tail(y: Tensor | float, num_classes: int, imbalance_ratio: float, tau: float) -> tuple[Tensor, Tensor]:
    """Density and distribution function at y of P^tau, renormalised, with P the exponential prior on [1, C]."""
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, but is {num_classes}: one class is no continuum.")
    if not 1.0 <= imbalance_ratio < math.inf:
        raise ValueError(f"`imbalance_ratio` is n_max / n_min and must be at least 1, but is {imbalance_ratio}.")
    if not math.isfinite(tau):
        raise ValueError(f"`tau` must be finite, but is {tau}.")
    place = _numbers(y, "y")
    if bool(((place < 1) | (place > num_classes)).any()):
        raise ValueError(f"`y` must lie in [1, {num_classes}], but reaches from {place.min()} to {place.max()}.")
    length = num_classes - 1.0
    rate = tau * math.log(imbalance_ratio) / length
    if rate == 0.0:
        return torch.full_like(place, 1.0 / length), (place - 1.0) / length
    total = -math.expm1(-rate * length)
    return rate * torch.exp(-rate * (place - 1.0)) / total, -torch.expm1(-rate * (place - 1.0)) / total


def _drawn_classes(
    sampler: Iterable[int], name: str, labels: Tensor | None, num_classes: int | None, epochs: int
) -> Tensor:
    """Count how often a sampler draws each class, float64 [C]."""
    if labels is None or num_classes is None:
        raise ValueError(f"`labels` are needed to count the classes that the sampler `{name}` draws.")
    counts = torch.zeros(num_classes, dtype=torch.float64)
    sampler = copy.copy(sampler)  # the caller's keeps its epoch
    if hasattr(sampler, "begin_epoch"):
        sampler.begin_epoch()  # whatever the caller has chosen for it
    with torch.random.fork_rng(devices=[]):
        for epoch in range(epochs):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            drawn = sampler.indices() if hasattr(sampler, "indices") else torch.tensor(list(sampler), dtype=torch.int64)
            if len(drawn) and not 0 <= int(drawn.min()) <= int(drawn.max()) < len(labels):
                raise ValueError(
                    f"`labels` must hold the class of every sample, but are {len(labels)}, and `{name}` draws indices "
                    f"from {int(drawn.min())} to {int(drawn.max())}."
                )
            counts += torch.bincount(labels[drawn], minlength=num_classes)
    if not bool(counts.any()):
        raise ValueError(f"`{name}` must be a sampler that draws something, but drew nothing in {epochs} epochs.")
    return counts
