"""The losses as pure functions of logits, targets and class statistics.

Those of classes that exclude each other take logits [N, C, ...] and targets as ``torch.nn.functional.cross_entropy``
does: class indices [N, ...], or probabilities [N, C, ...], which give sum_c t_c * loss(c). Rows that do not sum to 1
are refused, wherever it can be seen without waiting for a device. Positions whose target is -100 are ignored, as in
torch; the mean over no position is 0.

Those of labels that may come together, ``prior_corrected_binary_cross_entropy`` and ``distribution_balanced_loss``,
take logits [N, L, ...] and targets of the same shape, as ``binary_cross_entropy_with_logits`` does: 0, 1 or between
them, also as flags or integers. For one label either may be [N].

All compute in float32 at least, also under autocast.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltaug._arguments import check_labels, check_rows, checked, label_limits, row_limits, values_of
from ltaug.priors import check_missing, known_labels, with_values

__all__ = [
    "cdt_loss",
    "distribution_balanced_loss",
    "focal_loss",
    "label_aware_smoothing_loss",
    "lade_loss",
    "lade_regularizer",
    "ldam_loss",
    "prior_corrected_binary_cross_entropy",
    "prior_corrected_cross_entropy",
]


IGNORED = -100
"""Target of positions that are ignored; torch's default."""


def _outside(given: dict[str, Any]) -> None:
    """Name the class indices that torch has called out of bounds."""
    logits, targets = given.get("logits"), given.get("targets")
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        return
    if targets.device.type == "cpu" and logits.ndim > 1:  # an accelerator that has failed can compute nothing more
        check_indices(targets, logits.shape[1])


explained = functools.partial(checked, explain=_outside)


@explained
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
    logits, targets = prepare(logits, targets, shift.numel(), shift=shift)
    # Autocast stays on, since it lowers no type in a sum or a cross-entropy; to switch it off would take a tenth of the
    # time.
    return _cross_entropy(logits + per_class(shift, logits), targets, reduction)


@explained
def label_aware_smoothing_loss(
    logits: Tensor, targets: Tensor, smoothing: Tensor, reduction: str = "mean", mode: str = "paper"
) -> Tensor:
    """Label-aware smoothing: cross-entropy with label smoothing of a strength eps_y for each class.

    l = -sum_k q_k log p_k with q_y = 1 - eps_y and q_k = eps_y / (C - 1) elsewhere (MiSLAS, Zhong et al., CVPR 2021,
    Eq. 3, https://arxiv.org/abs/2104.00466).

    Args:
        logits: [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...].
        smoothing: eps, [C].
        reduction: "mean", "sum" or "none".
        mode: "paper"; or "official_code", which spreads eps over all C classes, the true one included:
            q_y = 1 - eps_y + eps_y / C.

    >>> label_aware_smoothing_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.4, 0.0]))
    tensor(0.6931)
    """
    if mode not in ("paper", "official_code"):
        raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
    logits, targets = prepare(logits, targets, smoothing.numel(), smoothing=smoothing)
    num_classes = logits.shape[1]
    if mode == "paper":
        # eps spread over the other classes is eps' = eps C / (C - 1) spread over all, the true class included.
        smoothing = smoothing * (num_classes / (num_classes - 1))
    with torch.autocast(logits.device.type, enabled=False):
        # -sum_k q_k log p_k = (1 - eps') nll_y + eps' mean_k nll_k
        log_probs = F.log_softmax(logits, dim=1)
        eps = per_class(smoothing, logits)
        # Summed here and divided by C later: the gradient of a mean would be a matrix of its own.
        even = -log_probs.sum(1)
        if targets.is_floating_point():
            eps_sample = (targets * eps).sum(1)
            loss = -(targets * (1.0 - eps) * log_probs).sum(1) + eps_sample / num_classes * even
        else:
            targets, kept = split_ignored(targets)
            eps_sample = eps.view(-1)[targets]
            nll = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
            loss = (1.0 - eps_sample) * nll + eps_sample / num_classes * even
            return reduce(loss, reduction, kept)
        return reduce(loss, reduction)


@explained
def ldam_loss(
    logits: Tensor,
    targets: Tensor,
    margins: Tensor,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy with label-distribution-aware margins (LDAM), CE(scale * (z - Delta_y e_y)).

    Cao et al. (NeurIPS 2019, Eq. 13, https://arxiv.org/abs/1906.07413).

    Args:
        logits: cosines of :class:`~ltaug.classifiers.CosineClassifier`, [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...].
        margins: Delta, [C].
        scale: s.
        class_weights: [C]; weights the samples.
        reduction: "mean" (over samples, not over weights), "sum" or "none".

    >>> ldam_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.1, 0.5]), scale=1.0)
    tensor(0.7444)
    """
    logits, targets = prepare(logits, targets, margins.numel(), margins=margins, class_weights=class_weights)
    with torch.autocast(logits.device.type, enabled=False):
        z = scale * logits
        margin = scale * per_class(margins, logits)
        if targets.is_floating_point():
            # loss_c = softplus(others_c - (z_c - m_c)), others_c the logsumexp of all classes but c: that is
            # lse + log(1 - p_c), but for the largest logit, where p_c is near 1 and nothing would be left of 1 - p_c.
            largest = z == z.gather(1, z.max(1, keepdim=True).indices)
            largest = largest & (largest.cumsum(1) == 1)
            lse = torch.logsumexp(z, 1, keepdim=True)
            without = torch.logsumexp(z.masked_fill(largest, torch.finfo(z.dtype).min), 1, keepdim=True)
            others = torch.where(largest, without, lse + torch.log1p(-(z - lse).exp().masked_fill(largest, 0.0)))
            loss_c = F.softplus(others - z + margin)
            weight = targets if class_weights is None else targets * per_class(class_weights, logits)
            return reduce((weight * loss_c).sum(1), reduction)
        safe, kept = split_ignored(targets)
        index = safe.unsqueeze(1)
        shifted = z.scatter_add(1, index, -margin.view(-1)[index])
        loss = F.cross_entropy(shifted, safe, reduction="none")
        if class_weights is not None:
            loss = loss * class_weights.to(loss)[safe]
        return reduce(loss, reduction, kept)


@explained
def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 1.0, class_weights: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Focal loss with softmax, w_y (1 - p_y)^gamma * -log p_y.

    Lin et al. (ICCV 2017, https://arxiv.org/abs/1708.02002).

    Args:
        logits: [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...].
        gamma: 0 is cross-entropy.
        class_weights: [C]; outside the focal term, so p is not changed by them.
        reduction: "mean" (over samples, not over weights), "sum" or "none".

    >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0)
    tensor(0.3466)
    """
    if gamma < 0:
        raise ValueError(f"`gamma` must not be negative, but is {gamma}.")
    logits, targets = prepare(
        logits, targets, None if class_weights is None else class_weights.numel(), class_weights=class_weights
    )
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = F.log_softmax(logits, dim=1)
        kept = None
        if not targets.is_floating_point():
            targets, kept = split_ignored(targets)
            log_probs = log_probs.gather(1, targets.unsqueeze(1))
        # (1 - p)^gamma has an infinite slope at p = 1 for gamma < 1, where the loss itself is 0: stay a hair below.
        rest = -torch.expm1(log_probs)
        if gamma != 0.0:
            tiny = torch.finfo(rest.dtype).eps
            rest = rest.clamp_min(tiny) if gamma < 1.0 else rest
            loss_c = -(rest**gamma) * log_probs
        else:
            loss_c = -log_probs
        if targets.is_floating_point():
            weight = targets if class_weights is None else targets * per_class(class_weights, logits)
            return reduce((weight * loss_c).sum(1), reduction)
        loss = loss_c.squeeze(1)
        if class_weights is not None:
            loss = loss * class_weights.to(loss)[targets]
        return reduce(loss, reduction, kept)


@explained
def cdt_loss(logits: Tensor, targets: Tensor, temperatures: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy with class-dependent temperatures (CDT), CE(z_c / a_c).

    Ye et al. (2020, https://arxiv.org/abs/2001.01385).

    Args:
        logits: [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...].
        temperatures: a, [C]; (n_max / n_c)^gamma.
        reduction: "mean", "sum" or "none".

    >>> cdt_loss(torch.tensor([[2.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0, 2.0]))
    tensor(0.3133)
    """
    logits, targets = prepare(logits, targets, temperatures.numel(), temperatures=temperatures)
    with torch.autocast(logits.device.type, enabled=False):
        return _cross_entropy(logits / per_class(temperatures, logits), targets, reduction)


@explained
def lade_regularizer(
    logits: Tensor, targets: Tensor, prior: Tensor, remine_lambda: float = 0.1, mode: str = "paper"
) -> Tensor:
    """Regulariser of LADE (LADER), which makes the logits the log density ratio.

    Hong et al. (CVPR 2021, Eq. 15-16, https://arxiv.org/abs/2012.00321). For each class c present in the batch, with
    N_c samples of it,

        L_c = -(1 / N_c) sum_{i: y_i = c} z_i[c] + log A_c + lambda (log A_c)^2,
        A_c = (1 / N) sum_i p_u(y_i) / p_s(y_i) * exp(z_i[c]),          L_LADER = sum_c p_s(c) L_c,

    p_s the training prior, p_u uniform. Probabilities as targets count as that many fractions of a sample.

    Args:
        logits: [N, C, ...]; further dimensions are more samples.
        targets: int [N, ...] or probabilities [N, C, ...].
        prior: p_s, [C].
        remine_lambda: lambda.
        mode: "paper"; or "official_code", which weights by the class of the logit instead of the sample,
            A_c = p_u(c) / p_s(c) * (1 / N) sum_i exp(z_i[c]), and sums over all classes, present or not.

    Returns:
        A scalar.

    >>> lade_regularizer(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5])).abs()
    tensor(0.)
    """
    if mode not in ("paper", "official_code"):
        raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
    num_classes = prior.numel()
    logits, targets = prepare(logits, targets, num_classes, prior=prior)
    if not logits.numel():
        return logits.sum()
    with torch.autocast(logits.device.type, enabled=False):
        prior = prior.to(logits)
        if logits.ndim > 2:
            logits = logits.movedim(1, -1).reshape(-1, num_classes)
            dense = targets.is_floating_point()
            targets = targets.movedim(1, -1).reshape(-1, num_classes) if dense else targets.reshape(-1)
        log_ratio = -(prior * num_classes).log()
        alive = torch.ones_like(prior[0])
        if targets.is_floating_point():
            log_size = logits.new_full((), logits.shape[0]).log()  # a tensor: math.log would compile one graph a size
            log_kept = logits.new_zeros(())
            count = targets.sum(0)
            score = (targets * logits).sum(0)
            log_weight = (targets @ log_ratio.exp()).log()
        else:
            targets, kept = split_ignored(targets)
            share = kept.to(prior.dtype)
            # Where all are ignored none is, but the result is multiplied by 0.
            alive = kept.any().to(prior.dtype)
            log_size, log_kept = share.sum().clamp(min=1.0).log(), (share + (1.0 - alive)).log()
            count = torch.zeros_like(prior).index_add_(0, targets, share)
            log_weight = log_ratio[targets] + log_kept
            if mode == "paper" and len(targets) < num_classes:
                # Only classes that are present count, at most one a sample: instead of all C columns, one for the class
                # of each sample, which shares the weight of its class. (To list them once, a GPU would have to wait.)
                columns = logits.index_select(1, targets)
                log_a = torch.logsumexp(columns + log_weight.unsqueeze(1), 0) - log_size
                each = log_a + remine_lambda * log_a.square() - columns.diagonal()
                return (prior[targets] / count[targets].clamp_min(1.0) * share * each).sum()
            own = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
            score = torch.zeros_like(prior).index_add(0, targets, share * own)
        positive = score / count.clamp_min(torch.finfo(prior.dtype).tiny)
        if mode == "paper":
            log_a = torch.logsumexp(logits + log_weight.unsqueeze(1), 0)
            present = (count > 0).to(prior.dtype)
        else:
            log_a = torch.logsumexp(logits + log_kept.unsqueeze(-1), 0) + log_ratio
            present = alive
        log_a = log_a - log_size
        return (prior * present * (log_a + remine_lambda * log_a.square() - positive)).sum()


@explained
def lade_loss(
    logits: Tensor,
    targets: Tensor,
    prior: Tensor,
    alpha: float = 0.1,
    remine_lambda: float = 0.1,
    mode: str = "paper",
    reduction: str = "mean",
) -> Tensor:
    """Loss of LADE, CE(z + log p_s) + alpha * LADER.

    Hong et al. (CVPR 2021, Eq. 18-20, https://arxiv.org/abs/2012.00321).

    Args:
        logits: [N, C, ...].
        targets: int [N, ...] or probabilities [N, C, ...].
        prior: p_s, [C], positive.
        alpha: weight of the regulariser; 0 is Balanced Softmax.
        remine_lambda: see :func:`lade_regularizer`.
        mode: see :func:`lade_regularizer`.
        reduction: "mean", "sum" or "none" of the cross-entropy; the regulariser is one number a batch, added to each
            entry of the mean or of "none", and once a sample to the sum.

    >>> lade_loss(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    check_per_class(prior if logits.is_meta else with_values(prior, "prior"), "prior", prior.numel())
    loss = prior_corrected_cross_entropy(logits, targets, prior.log(), reduction="none")
    if alpha != 0.0:
        loss = loss + alpha * lade_regularizer(logits, targets, prior, remine_lambda, mode)
    return reduce(loss, reduction, None if targets.is_floating_point() else split_ignored(targets)[1])


@explained
def prior_corrected_binary_cross_entropy(
    logits: Tensor, targets: Tensor, shift: Tensor, reduction: str = "mean", ignore_index: int | None = None
) -> Tensor:
    """Binary cross-entropy of shifted logits, BCE(z + B), of labels that do not exclude each other.

    Args:
        logits: [N, L, ...]; [N] or [N, 1] for one label.
        targets: of the shape of ``logits``, 0, 1 or between them.
        shift: B, [L]; ``log_odds_shift(target_prior, prior, tau)`` of :mod:`ltaug.posthoc`.
        reduction: "mean" (over samples and labels), "sum" or "none" (of the shape of ``logits``).
        ignore_index: what targets hold where a label is not known, such as -1: such entries are left out, also of the
            mean.

    >>> prior_corrected_binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([-2.0, 0.0]))
    tensor(1.4100)
    """
    shape = logits.shape
    logits, targets, kept = prepare_labels(logits, targets, shift.numel(), ignore_index, shift=shift)
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.binary_cross_entropy_with_logits(logits + per_class(shift, logits), targets, reduction="none")
        return reduce(loss, reduction, kept).view(shape if reduction == "none" else ())


@explained
def distribution_balanced_loss(
    logits: Tensor,
    targets: Tensor,
    label_counts: Tensor,
    margins: Tensor,
    neg_scale: float = 2.0,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    reduction: str = "mean",
    ignore_index: int | None = None,
) -> Tensor:
    """Distribution-balanced loss of multi-label classification: re-balanced weights, and tolerance of negatives.

    Wu et al. (ECCV 2020, https://arxiv.org/abs/2007.09654). With y the targets of a sample, n the label counts and nu
    the margins,

        r_l = (1 / n_l) / sum_k y_k / n_k,            w_l = alpha + sigmoid(beta (r_l - mu)),
        l_l = w_l [y_l log(1 + e^-(z_l - nu_l)) + (1 - y_l) / lambda log(1 + e^(lambda (z_l - nu_l)))].

    r_l is how often label l alone would have the sample drawn, over how often all of its labels would, so that what is
    drawn for a rare label does not raise the weight of the frequent ones beside it. A sample without labels has the
    limit r = infinity. No gradient flows through the weights. A label that is not known is none that would have the
    sample drawn.

    Args:
        logits: [N, L, ...]; [N] or [N, 1] for one label.
        targets: of the shape of ``logits``, 0, 1 or between them.
        label_counts: n, [L], positive.
        margins: nu, [L]; -kappa log(pi / (1 - pi)) in the paper.
        neg_scale: lambda, from 1.
        alpha: lowest weight.
        beta: steepness of the weights.
        mu: the ratio in the middle of them.
        reduction: "mean" (over samples and labels), "sum" or "none" (of the shape of ``logits``).
        ignore_index: see :func:`prior_corrected_binary_cross_entropy`.

    >>> counts, margins = torch.tensor([100.0, 1.0]), torch.zeros(2)
    >>> distribution_balanced_loss(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]), counts, margins, reduction="none")
    tensor([[0.1594, 0.7622]])
    """
    if not neg_scale >= 1.0:
        raise ValueError(f"`neg_scale` must be at least 1, which is no tolerance, but is {neg_scale}.")
    shape = logits.shape
    by_label = {"label_counts": label_counts, "margins": margins}
    logits, targets, kept = prepare_labels(logits, targets, label_counts.numel(), ignore_index, **by_label)
    with torch.autocast(logits.device.type, enabled=False):
        rate = per_class(label_counts, logits).reciprocal()
        ratio = rate / (targets * rate).sum(1, keepdim=True)  # infinite without labels, whose sigmoid is 1
        weight = alpha + torch.sigmoid(beta * (ratio - mu))
        z = logits - per_class(margins, logits)
        loss = weight * (targets * F.softplus(-z) + (1.0 - targets) * F.softplus(neg_scale * z) / neg_scale)
        return reduce(loss, reduction, kept).view(shape if reduction == "none" else ())


def prepare_labels(
    logits: Tensor, targets: Tensor, num_labels: int, ignore_index: int | None = None, **by_label: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check shapes as :func:`prepare` does; returns logits and targets [N, L, ...] of one type, float32 at least.

    And which entries count, None if all do; both are 0 where they do not, so that nothing there is ever infinite.
    """
    for name, values in by_label.items():
        if values is not None:
            check_per_class(values, name, num_labels)
    if num_labels == 1 and logits.ndim == 1:
        logits = logits.unsqueeze(1)
    if num_labels == 1 and targets.ndim == logits.ndim - 1:
        targets = targets.unsqueeze(1)
    if logits.ndim < 2 or logits.shape[1] != num_labels:
        one = " or [N]" if num_labels == 1 else ""
        raise ValueError(f"`logits` must have shape [N, {num_labels}, ...]{one}, but have {list(logits.shape)}.")
    if not logits.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {logits.dtype}. Convert them with `.float()`.")
    if targets.shape != logits.shape:
        raise ValueError(
            f"`targets` must be 0, 1 or between them for each label, of the shape of the logits, {list(logits.shape)}, "
            f"but have {list(targets.shape)}. Lists of labels become rows by `ltaug.multi_hot`."
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    kept = None
    if ignore_index is not None:
        check_missing(ignore_index)
        kept = known_labels(targets, ignore_index)
        logits, targets = logits.masked_fill(~kept, 0.0), targets.masked_fill(~kept, 0)
    if targets.device.type == "cpu" and targets.dtype != torch.bool and targets.numel():
        check_labels(*label_limits(targets))
    return logits, targets.to(logits.dtype), kept


def prepare(
    logits: Tensor, targets: Tensor, num_classes: int | None, **by_class: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check shapes; convert half-precision logits to float32, probabilities to the logits' type, indices to int64.

    ``by_class`` are the numbers of the classes, [C] each, by the names of the arguments that they came as.
    """
    for name, values in by_class.items():
        if values is not None:
            check_per_class(values, name, num_classes)
    if logits.ndim < 2 or num_classes not in (None, logits.shape[1]):
        last = logits.ndim > 2 and logits.shape[-1] == num_classes
        raise ValueError(
            f"`logits` must have shape [N, {num_classes or 'C'}, ...], but have {list(logits.shape)}."
            + (" Bring the classes to dim 1: `logits.movedim(-1, 1)`." if last else "")
        )
    if not logits.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {logits.dtype}. Convert them with `.float()`.")
    expected = logits.shape if targets.is_floating_point() else (logits.shape[0], *logits.shape[2:])
    if targets.shape != expected or targets.dtype is torch.bool:
        rows = targets.shape == logits.shape and not targets.is_floating_point()
        raise ValueError(
            "`targets` must be class indices [N, ...] or probabilities [N, C, ...] for logits of shape "
            f"{list(logits.shape)}, but are {targets.dtype} of shape {list(targets.shape)}."
            + (" Convert one-hot rows with `.float()`." if rows else "")
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if not targets.is_floating_point():
        return logits, targets.long()
    if targets.device.type == "cpu" and targets.numel():
        check_rows(*row_limits(targets))  # on accelerators the losses look at the first batch
    return logits, targets.to(logits.dtype)


def check_per_class(values: Tensor, name: str, num_classes: int | None) -> None:
    """Raise ValueError unless there is one number a class, [C], which is not broadcast against samples."""
    if values.shape != (num_classes,) or values.dtype is torch.bool:
        raise ValueError(
            f"`{name}` must hold one number a class, shape [{num_classes}], but is {values.dtype} of shape "
            f"{list(values.shape)}."
        )


def check_indices(targets: Tensor, num_classes: int, ignored: int = IGNORED) -> None:
    """Raise ValueError if class indices are outside 0..C-1 and not ignored, which torch has called out of bounds."""
    if not targets.is_floating_point():
        off = targets[(targets != ignored) & ((targets < 0) | (targets >= num_classes))]
        if len(off):
            raise ValueError(
                f"`targets` must lie in 0..{num_classes - 1}, the classes of `logits`, or {ignored} where ignored, "
                f"but hold {int(off[0])} ({len(off)} of {targets.numel()} targets are outside)."
            )


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """torch's cross-entropy, but for the mean over no target, which is 0 here and NaN there."""
    check_reduction(reduction)
    loss = F.cross_entropy(logits, targets, reduction=reduction)
    if reduction != "mean":
        return loss
    if targets.is_floating_point():
        return loss if targets.numel() else logits.sum()
    if loss.device.type == "cpu" and any(value == value for value in values_of(loss)):
        return loss  # it is no NaN, and to look is faster than to mask
    return loss.masked_fill((targets == IGNORED).all(), 0.0)


def per_class(values: Tensor, logits: Tensor) -> Tensor:
    """Reshape [C] to [1, C, 1, ...] in the type and on the device of ``logits``."""
    return values.to(logits).view(1, -1, *[1] * (logits.ndim - 2))


def split_ignored(targets: Tensor, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """Replace ignored targets, -100 as in torch, by 0; also return which positions count."""
    kept = targets != ignored
    return targets.masked_fill(~kept, 0), kept


def reduce(loss: Tensor, reduction: str, kept: Tensor | None = None) -> Tensor:
    """Reduce to the mean or the sum over the positions that count, or not at all; the mean of none is 0."""
    if kept is not None:
        loss = loss.masked_fill(~kept, 0.0)
    if reduction == "mean":
        if kept is None:
            return loss.mean() if loss.numel() else loss.sum()
        return loss.sum() / kept.sum().clamp(min=1)
    check_reduction(reduction)
    return loss.sum() if reduction == "sum" else loss


def check_reduction(reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'`reduction` must be "mean", "sum" or "none", but is {reduction!r}.')
