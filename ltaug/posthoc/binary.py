"""Labels that do not exclude each other, one logit each: prior correction, calibration, and their estimated priors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_number, as_whole, checked
from ltaug.posthoc._buffers import PriorBuffers
from ltaug.posthoc.prior_shift import PriorShift
from ltaug.posthoc.shift import Given, Logits, as_logits, check_finite, class_columns, like, shifted, wide
from ltaug.priors import (
    Column,
    Labels,
    as_array,
    holds_several,
    label_pairs,
    on_wide_device,
    with_values,
    without_missing,
)

__all__ = [
    "LabelwisePriorShift",
    "LabelwiseTemperatureScaling",
    "PlattScaling",
    "estimate_label_prior",
    "log_odds_shift",
    "shift_binary_logits",
]

Shares = Tensor | Column | Sequence[float] | Mapping[int, float] | float
"""Share of the samples that have each label, [L]; one number for one label, or for all alike."""
SharesOrRows = Shares | Sequence[Sequence[float]]
"""Such shares, or those of every row, [N, L]."""


@checked
def log_odds_shift(from_prior: SharesOrRows, to_prior: SharesOrRows, strength: float = 1.0) -> Tensor:
    """Compute strength * (log odds of to_prior - log odds of from_prior): what :func:`shift_binary_logits` adds.

    Args:
        from_prior: shares pi of the samples that have each label, [L], between 0 and 1; or one number for all; or
            shares a row, [N, L].
        to_prior: the shares to move to, in the same form; either may be of all rows, and the other one a row.
        strength: 1 is Bayes' rule.

    Returns:
        float64 [L], or [N, L] where shares are a row's, on the device of ``from_prior``, or on the CPU where that has
        no float64.

    Raises:
        ValueError: a share is not between 0 and 1 (its log odds are infinite), the numbers of labels or rows differ, or
            ``strength`` is NaN or infinite.

    >>> log_odds_shift([0.5, 0.2], 0.5)
    tensor([0.0000, 1.3863], dtype=torch.float64)
    """
    strength = as_number(strength, "strength", "0 leaves the logits, 1 is Bayes' rule.")
    if not math.isfinite(strength):
        raise ValueError(f"`strength` must be finite, but is {strength}. 0 leaves the logits, 1 is Bayes' rule.")
    source, target = (
        as_shares(prior, name, rows=True) for prior, name in ((from_prior, "from_prior"), (to_prior, "to_prior"))
    )
    labels = source.shape[-1], target.shape[-1]
    if labels[0] != labels[1] and 1 not in labels:
        raise ValueError(
            f"`from_prior` and `to_prior` must have one share a label each, but have {labels[0]} and {labels[1]}."
        )
    if source.ndim == target.ndim == 2 and len(source) != len(target):
        raise ValueError(
            f"`from_prior` and `to_prior` must have as many rows, but have {len(source)} and {len(target)}."
        )
    return strength * (target.to(source.device).logit() - source.logit())


@checked
def shift_binary_logits(
    logits: Given, from_prior: SharesOrRows, to_prior: SharesOrRows, strength: float = 1.0
) -> Given:
    """Move the logits of labels that do not exclude each other from one prior to another, label by label.

    z + strength * (log(pi' / (1 - pi')) - log(pi / (1 - pi))), by Bayes' rule for each label alone: the odds p(l | x) /
    p(not l | x) are the likelihood ratio times pi / (1 - pi). A model trained with plain binary cross-entropy is under
    the training shares, one trained with :class:`ltaug.PriorCorrectedBCELoss` under 1/2.

    The shift is one number a label: it moves thresholds, confidence and the order of the labels of a sample, but not
    the order of the samples, so no average precision of a label.

    Args:
        logits: [N, L, ...]; [N] or [N, 1] for one label; a tensor, an array or nested lists.
        from_prior: shares that the logits are under, [L], or one number for all labels.
        to_prior: the shares to move to; or those of each row, [N, L], where the rows come from several places or dates:
            ``prior_of_site[site]``. So may ``from_prior`` be.
        strength: 0 leaves the logits, 1 is Bayes' rule.

    Returns:
        Logits of the same shape and type: a tensor for a tensor, else a NumPy array.

    Raises:
        ValueError: as in :func:`log_odds_shift`, or ``logits`` have another number of labels or are integers.

    >>> shift_binary_logits(torch.zeros(1, 2), from_prior=[0.5, 0.5], to_prior=[0.9, 0.1]).sigmoid()
    tensor([[0.9000, 0.1000]])
    """
    tensor = as_logits(logits)
    if not tensor.is_floating_point():
        raise ValueError(f"`logits` must be floating point, but are {tensor.dtype}: the shift would be rounded.")
    shift = log_odds_shift(from_prior, to_prior, strength)
    if shift.numel() == 1 and shift.ndim == 1:
        return like(logits, tensor + shift.to(tensor.dtype).to(tensor.device))
    if tensor.ndim == 1 and shift.shape[-1] == 1:  # a share a row, of one label
        return like(logits, shifted(tensor.unsqueeze(1), shift).squeeze(1))
    check_labels_of(tensor, shift.shape[-1])
    return like(logits, shifted(tensor, shift))


@checked
def estimate_label_prior(logits: Given, logits_prior: Shares) -> Given:
    """Estimate how frequent each label is among unlabelled samples, from calibrated logits of a model.

    The maximum of the likelihood of each label's share q, sum_i log(q r_i + 1 - q) with the likelihood ratios r_i =
    exp(z_i) (1 - pi) / pi: the fixed point that EM climbs to (Saerens et al., Neural Computation, 2002), q = mean of
    sigmoid(z_i - log odds of pi + log odds of q), each label a binary problem. The likelihood is concave, so bisection
    finds it where EM takes thousands of steps for rare labels.

    Args:
        logits: [N, L], of the samples of the place where the model is used; [N] or [N, 1] for one label. An
            overconfident model estimates wrong: calibrate first (:class:`PlattScaling`).
        logits_prior: shares that the logits are under, [L], or one number for all labels.

    Returns:
        float64 [L], on the device of the logits, or on the CPU where that has no float64; an array for arrays. Between
        1 / (2 N) and 1 - 1 / (2 N), so that the log odds are finite.

    Raises:
        ValueError: there is no sample, a logit is not finite, or ``logits_prior`` does not fit.

    >>> logits = torch.tensor([4.0, -4.0]).repeat_interleave(torch.tensor([30, 70]))
    >>> estimate_label_prior(logits, logits_prior=0.5)  # the model is right for p = 0.982 of the samples
    tensor([0.2925], dtype=torch.float64)
    """
    rows = _label_rows(logits)
    prior = as_shares(logits_prior, "logits_prior").to(rows.device)
    if prior.numel() not in (1, rows.shape[1]):
        as_shares(prior, "logits_prior", rows.shape[1])
    ratio = rows.detach().double() - prior.logit()
    high = torch.full(ratio.shape[1:], math.log(2 * len(ratio) - 1), dtype=torch.float64, device=ratio.device)
    low = -high
    for _ in range(50):  # of at most 60 nats in log odds, to the last digit
        middle = (low + high) / 2
        above = (ratio + middle).sigmoid().mean(0) > middle.sigmoid()
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return like(logits, ((low + high) / 2).sigmoid())


Self = TypeVar("Self", bound="LabelCalibration")


class LabelCalibration(PriorBuffers):
    """Base of the calibrations of labels that may come together: scale * z + bias for each label, fitted for itself.

    Scales stay positive, so that the order of the samples, and each average precision, stays. The numbers are buffers,
    not parameters: an optimiser of the model before it must not change them.
    """

    scale: Tensor
    bias: Tensor
    biased = True

    @checked
    def __init__(self, num_labels: int) -> None:
        super().__init__()
        size = as_whole(num_labels, "num_labels", 1)
        self.register_buffer("scale", torch.tensor([1.0] * size, device="cpu"))
        self.register_buffer("bias", torch.tensor([0.0] * size, device="cpu"))

    def forward(self, logits: Given) -> Given:
        """Calibrate logits [N, L, ...], or [N] of one label; returns their shape and type, arrays for arrays."""
        tensor = as_logits(logits)
        size = self.scale.numel()
        if size > 1 or tensor.ndim > 1:
            check_labels_of(tensor, size)
        z = wide(tensor)
        scale, bias = (values.to(z).view(-1, *[1] * (z.ndim - 2)) for values in (self.scale, self.bias))
        return like(logits, (z * scale + bias).to(tensor.dtype))

    def fit(
        self: Self, logits: Logits, targets: Labels, prior_std: float = 3.0, ignore_index: int | None = None
    ) -> Self:
        """Fit each label to held-out samples: minimise its binary cross-entropy, by BFGS in double precision.

        The held-out samples must have the labels as often as the logits' prior says; else move the logits there first
        (:func:`shift_binary_logits`), and back afterwards. The logarithm of the scale and the bias have a weak Gaussian
        prior about the identity, which bounds what the likelihood alone would let diverge, and loses its influence as
        samples are added. A label without positives, or without negatives, among them keeps the identity.

        Args:
            logits: [N, L], of samples that the model was not trained on; [N] or [N, 1] for one label.
            targets: multi-hot rows [N, L] of 0 and 1, or N lists of label indices; [N] of 0 and 1 for one label.
            prior_std: standard deviation of the Gaussian prior; infinity for plain maximum likelihood.
            ignore_index: what rows of targets hold where a label is not known, such as -1: each label is fitted to the
                samples of which it is.

        Returns:
            The calibration itself, fitted anew whatever it was before.

        Raises:
            ValueError: shapes do not fit, logits are not finite, or targets are not 0 and 1.
        """
        # Here, not above: no training step needs scipy, so importing the library must not wait for it.
        from scipy.optimize import minimize
        from scipy.special import expit

        prior_std = as_number(prior_std, "prior_std")
        if not prior_std > 0.0:
            raise ValueError(f"`prior_std` must be positive, but is {prior_std}.")
        rows, size = _label_rows(logits), self.scale.numel()
        check_labels_of(rows, size)
        given, known = without_missing(label_rows(targets, size), ignore_index, "targets")
        samples, (sample, label), _ = label_pairs(given, size, "targets")
        if samples != len(rows):
            raise ValueError(f"`targets` must hold the labels of {len(rows)} samples as `logits`, but of {samples}.")
        truth = np.zeros((samples, size))
        truth[sample.cpu().numpy(), label.cpu().numpy()] = 1.0
        z = rows.detach().double().cpu().numpy()
        counted = np.ones(truth.shape, bool) if known is None else known.cpu().numpy()
        numbers = np.zeros((size, 2))
        for k in range(size):
            x, y = z[counted[:, k], k], truth[counted[:, k], k]
            if y.all() or not y.any():
                continue
            precision = 1.0 / (prior_std**2 * len(y))

            def loss(
                point: np.ndarray[Any, Any], x: Any = x, y: Any = y, precision: float = precision
            ) -> tuple[float, np.ndarray[Any, Any]]:
                scaled = np.exp(point[0]) * x
                u = scaled + (point[1] if self.biased else 0.0)
                rest = expit(u) - y
                slope = np.array([(rest * scaled).mean(), rest.mean() if self.biased else 0.0])
                return float((np.logaddexp(0.0, u) - y * u).mean() + precision * (point @ point) / 2), (
                    slope + precision * point
                )

            numbers[k] = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8}).x
        with torch.no_grad():
            self.scale.copy_(torch.from_numpy(np.exp(numbers[:, 0])))
            self.bias.copy_(torch.from_numpy(numbers[:, 1]))
        return self

    def extra_repr(self) -> str:
        """Shown by ``print(calibration)``."""
        return f"num_labels={self.scale.numel()}"


class PlattScaling(LabelCalibration):
    """Platt scaling of every label, a_l z_l + b_l: what vector scaling is to classes.

    Platt (1999), Probabilistic Outputs for Support Vector Machines. The bias undoes a prior that the logits are under
    and the world is not, which is what re-sampling and re-weighting leave behind; two numbers a label need some tens of
    positives, and with fewer a smaller ``prior_std`` keeps them from fitting noise.

    Args:
        num_labels: L.

    >>> logits = torch.tensor([2.0, -2.0]).repeat(10)
    >>> targets = torch.tensor([1, 0, 0, 0]).repeat(5)
    >>> PlattScaling(1).fit(logits, targets, prior_std=100.0)(logits).sigmoid()[0].round(decimals=2)
    tensor(0.5000)
    """


class LabelwiseTemperatureScaling(LabelCalibration):
    """Temperature scaling of every label, z_l / T_l: one number a label, which leaves p = 1/2 where it is.

    Guo et al. (ICML 2017, https://arxiv.org/abs/1706.04599), each label a binary problem. It cannot repair a prior, see
    :class:`PlattScaling`.

    Args:
        num_labels: L.

    >>> logits = torch.tensor([4.0, -4.0]).repeat(4)
    >>> targets = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1])
    >>> bool(LabelwiseTemperatureScaling(1).fit(logits, targets).scale < 1.0)  # too sure: wrong one time in four
    True
    """

    biased = False


def _label_rows(logits: Logits) -> Tensor:
    """Convert logits [N, L], or [N] of one label, to finite floating-point rows on a device with float64."""
    rows = on_wide_device(with_values(as_logits(logits), "logits"))
    rows = rows.unsqueeze(1) if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.is_floating_point() or not rows.numel():
        raise ValueError(
            f"`logits` must be floating point, one row a sample, shape [N, L], but are {rows.dtype} of shape "
            f"{list(rows.shape)}."
        )
    check_finite(rows)
    return rows


def label_rows(targets: Labels, num_labels: int) -> Labels:
    """Flags [N] of a single label, of any form, as rows [N, 1]; other targets as they are."""
    if num_labels != 1 or holds_several(targets):
        return targets
    flags = as_array(targets, "targets")
    return flags.unsqueeze(1) if flags.ndim == 1 else flags


def check_labels_of(logits: Tensor, num_labels: int) -> None:
    """Raise ValueError for logits that do not have ``num_labels`` on dim 1."""
    if logits.ndim < 2 or logits.shape[1] != num_labels:
        raise ValueError(f"`logits` must have shape [N, {num_labels}, ...], but have {list(logits.shape)}.")


class LabelwisePriorShift(PriorShift):
    """Wrapper that moves the logits of a model of several labels to other shares: :func:`shift_binary_logits`.

    It saves, exports and takes targets with every batch as :class:`PriorShift` does.

    Args:
        model: returns logits [N, L, ...], one of each label, or an object that holds them.
        logits_prior: shares of the samples with each label that the logits are under, [L], between 0 and 1; of a plan,
            ``plan.logits_prior()``.
        target_prior: the shares to move to, [L], or one set a row, [N, L]; by default 1/2.
        strength: 1 is Bayes' rule, 0 leaves the logits.
        output: as for :class:`PriorShift`.

    Raises:
        ValueError: a share is not between 0 and 1, the numbers of labels differ, or ``strength`` is not finite.

    >>> from torch import nn
    >>> model = LabelwisePriorShift(nn.Identity(), logits_prior=[0.5, 0.5], target_prior=[0.5, 0.2])
    >>> model(torch.zeros(1, 2)).sigmoid()
    tensor([[0.5000, 0.2000]])
    """

    def _source(self, prior: Any) -> Tensor:
        return as_shares(prior, "logits_prior")

    def _default(self, prior: Tensor) -> Tensor:
        return torch.full_like(prior, 0.5)

    def _target(self, prior: Any, name: str) -> Tensor:
        # A graph that is exported with its target cannot look at it.
        return prior if torch.compiler.is_compiling() else as_shares(prior, name, rows=True)

    def _difference(self, source: Tensor, target: Tensor) -> Tensor:
        return target.logit() - source.logit()


def as_shares(prior: SharesOrRows, name: str, num_labels: int | None = None, rows: bool = False) -> Tensor:
    """Convert shares of samples [L], or one number, to float64 [L]; raise ValueError unless they are between 0 and 1.

    With ``rows`` they may be those of every row, [N, L]. The tensor is on a device that has float64, the CPU if need
    be.
    """
    given: Any = [prior] if isinstance(prior, int | float) and not isinstance(prior, bool) else prior
    shares = on_wide_device(with_values(class_columns(given, name, expected="hold one share a label"), name)).detach()
    size = shares.shape[-1] if shares.ndim else 1
    if shares.ndim > 1 + rows or not shares.numel() or shares.dtype == torch.bool or num_labels not in (None, size):
        expected = "L" if num_labels is None else num_labels
        raise ValueError(
            f"`{name}` must hold one share a label, shape [{expected}], but is {shares.dtype} of shape "
            f"{list(shares.shape)}."
        )
    shares = shares.double().reshape(*shares.shape[:-1], size)
    wrong = ~((shares > 0) & (shares < 1))
    if bool(wrong.any()):
        *row, bad = wrong.nonzero()[0].tolist()
        value = float(shares[wrong][0])
        if value in (0.0, 1.0):
            way = (
                "Its log odds are infinite: drop a label that no sample or every sample has, or smooth the shares, "
                "`(label_counts + 1) / (N + 2)`."
            )
        else:
            way = "Divide counts by the number of samples; `label_prior(labels)` does."
        raise ValueError(
            f"`{name}` must hold shares of the samples, between 0 and 1, but label {bad} has {value:g}"
            f"{f' in row {row[0]}' if row else ''}. {way}"
        )
    return shares
