"""Calibration of logits on held-out samples: a temperature, a temperature and biases, a scale and a bias a class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_number, as_whole, checked
from ltaug.posthoc._buffers import PriorBuffers
from ltaug.posthoc.shift import Given, Logits, as_logits, check_finite, check_no_probabilities, like, wide
from ltaug.priors import Counts, as_array, as_counts, as_reals, comparable, on_wide_device, with_values

__all__ = ["BiasCorrectedTemperatureScaling", "TemperatureScaling", "VectorScaling"]

Self = TypeVar("Self", bound="Calibration")

_BLOCK = 1 << 18
"""Logits of a block of samples, few enough for the processor's cache."""


class Calibration(PriorBuffers, ABC):
    """Base of the calibrations: scale * z + bias a class, by fitted numbers that start as the identity.

    If there are biases, they are the last of the numbers. The numbers are buffers, not parameters: an optimiser of the
    model before it must not change them.
    """

    def __init__(self, **start: Tensor) -> None:
        super().__init__()
        self.names = tuple(start)
        self.start = tuple(start.values())
        for name, values in start.items():
            self.register_buffer(name, values.clone())

    @abstractmethod
    def scale_and_bias(self, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and bias from the numbers, of shape [C], or [] where all classes share it."""

    def forward(self, logits: Given) -> Given:
        """Calibrate logits [N, C, ...]; returns their shape and type, a tensor for a tensor, else a NumPy array."""
        tensor = self.check(logits)
        numbers, z = (cast(Tensor, getattr(self, name)) for name in self.names), wide(tensor)
        scale, bias = (_along_classes(values.to(z), z) for values in self.scale_and_bias(*numbers))
        return like(logits, (z * scale + bias).to(tensor.dtype))

    def fit(
        self: Self,
        logits: Logits,
        labels: Counts,
        weights: Logits | None = None,
        prior_std: float = 3.0,
        logits_prior: Counts | None = None,
        ignore_index: int | None = None,
    ) -> Self:
        """Fit to held-out samples: minimise the negative log likelihood, by L-BFGS.

        Held-out samples often have another class mix m than the prior p that the logits are under: a few samples of
        every class beside a long-tailed training set. With ``logits_prior`` p the likelihood is that of scale * z +
        bias + log(m / p): of calibrated logits, which stay under p, corrected for the mix of the held-out samples.
        Weights of p / m have the same aim, but then the samples of p's frequent classes alone decide.

        Every number has a weak Gaussian prior about the identity. It bounds what the likelihood alone would let diverge
        (the temperature of samples that are all classified correctly, the bias of a class that is never confused), and
        loses its influence as samples are added. The fit works in double precision, on the CPU where the device of the
        logits has none, and block by block, so that it needs little memory beside the logits.

        Args:
            logits: [N, C, ...], of samples that the model was not trained on.
            labels: class indices, [N, ...].
            weights: of the samples, of the shape of ``labels``.
            prior_std: standard deviation of the Gaussian prior; infinity for plain maximum likelihood.
            logits_prior: the prior that the logits are under, [C], counts or probabilities; by default the class mix of
                the held-out samples. Either way a class without held-out samples has the mean of the others' numbers:
                that none was held out does not say how rare it is. With a prior it takes no part in the fit, either.
            ignore_index: a label whose samples, or positions, are left out, such as 255.

        Returns:
            The calibration itself, fitted anew whatever it was before.

        Raises:
            ValueError: shapes do not fit, labels are outside 0..C-1, logits are NaN, or are probabilities (two samples
                or more, each of numbers that are not negative and sum to 1), weights are negative or all 0, or
                ``logits_prior`` has another number of classes or a 0.
        """
        # Here, not above: no training step needs scipy, so importing the library must not wait for it.
        from scipy.optimize import minimize

        likelihood, prior_std = self.read(logits, labels, weights, prior_std, logits_prior, ignore_index)
        precision = 1.0 / (prior_std**2 * len(likelihood.rows))
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.cat([values.detach().double().cpu().flatten() for values in self.start])
            present = likelihood.present.clone()  # may come from inference mode
            center, by_scale, by_bias = likelihood.curvature(*self.spread(start))
            # In units of the curvature the bias of a rare class is as far from its start as any other number.
            unit = (self.pull_back(start, by_scale, by_bias).abs() + precision).rsqrt().clamp(max=1e3)

            def loss(steps: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
                point = (start + unit * torch.from_numpy(steps)).requires_grad_()
                free = self.uncentered(point, center)
                vector = self.tied(free, present)
                way = free.detach() - start
                value, *slopes = likelihood.value_and_slopes(*self.spread(vector.detach()))
                slope = self.pull_back(vector, *slopes)
                (slope,) = torch.autograd.grad((vector, free), point, (slope, precision * way))
                return value + precision * float(way @ way) / 2.0, (unit * slope).numpy()

            options = {"maxiter": 500, "maxcor": 30, "ftol": 1e-10, "gtol": 1e-7}
            found = minimize(loss, np.zeros(len(start)), jac=True, method="L-BFGS-B", options=options)
            free = self.uncentered(start + unit * torch.from_numpy(found.x), center)
            numbers = self.split(self.tied(free, present))
        with torch.no_grad():
            for name, values in zip(self.names, numbers, strict=True):
                getattr(self, name).copy_(values)
        return self

    def read(
        self,
        logits: Logits,
        labels: Counts,
        weights: Logits | None,
        prior_std: float,
        logits_prior: Counts | None,
        ignore_index: int | None = None,
    ) -> tuple[Likelihood, float]:
        """Check the arguments of :meth:`fit`; returns the likelihood of its samples and ``prior_std``."""
        logits = on_wide_device(with_values(self.check(logits), "logits"))
        labels = comparable(with_values(as_array(labels, "labels"), "labels")).to(logits.device)
        weights = None if weights is None else as_reals(weights, "weights").to(logits.device)
        kept = None if ignore_index is None else labels.long() != ignore_index
        if kept is not None:
            if not bool(kept.any()):
                raise ValueError(
                    f"`labels` must not all be {ignore_index}, the `ignore_index`: none is left to fit to."
                )
            labels = labels.masked_fill(~kept, 0)
        _check_samples(logits, labels, weights)
        prior_std = as_number(prior_std, "prior_std")
        if not prior_std > 0.0:
            raise ValueError(f"`prior_std` must be positive, but is {prior_std}.")
        rows = logits.detach().movedim(1, -1).flatten(0, -2)
        check_no_probabilities(rows)
        share = torch.ones(labels.shape, device=rows.device) if weights is None else weights.detach()
        share, labels = share.double().flatten(), labels.detach().flatten().long()
        if kept is not None:
            rows, labels, share = (each[kept.flatten()] for each in (rows, labels, share))
        return Likelihood(rows, labels, share / share.sum(), logits_prior), prior_std

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cut a vector into the numbers that it holds one after the other."""
        parts = torch.split(vector, [values.numel() for values in self.start])
        return [part.view(values.shape) for part, values in zip(parts, self.start, strict=True)]

    def spread(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and bias from such a vector."""
        return self.scale_and_bias(*self.split(vector))

    def uncentered(self, vector: Tensor, center: Tensor) -> Tensor:
        """Convert the numbers for logits minus ``center``, [C], to those for the logits themselves.

        Where the logits of a class are far from 0, its scale and its bias have similar effects, and a search for both
        takes many steps; about the mean logit their effects are nearly independent.
        """
        *others, last = self.split(vector)
        if last.ndim:
            scale, _ = self.spread(vector)
            last = last - (scale - 1.0) * center
        return torch.cat([part.flatten() for part in (*others, last)])

    def tied(self, vector: Tensor, present: Tensor) -> Tensor:
        """Give classes that are not ``present``, bool [C], the mean of the others' numbers."""
        parts = [torch.where(present, part, part[present].mean()) if part.ndim else part for part in self.split(vector)]
        return torch.cat([part.flatten() for part in parts])

    def pull_back(self, vector: Tensor, by_scale: Tensor, by_bias: Tensor) -> Tensor:
        """Convert slopes along scale and bias, [C] each, to one along the vector."""
        vector = vector.detach().requires_grad_()
        scale, bias = self.spread(vector)
        slope: Tensor = torch.autograd.grad((scale * by_scale).sum() + (bias * by_bias).sum(), vector)[0]
        return slope

    def check(self, logits: Logits) -> Tensor:
        """Convert logits; raise ValueError for another form or another number of classes."""
        logits = as_logits(logits)
        num_classes = self.start[-1].numel() if self.start[-1].ndim else None
        if logits.ndim < 2 or not logits.is_floating_point() or num_classes not in (None, logits.shape[1]):
            raise ValueError(
                f"`logits` must be floating point of shape [N, {num_classes or 'C'}, ...], but are {logits.dtype} of "
                f"shape {list(logits.shape)}."
            )
        return logits


class TemperatureScaling(Calibration):
    """Temperature scaling, z / T (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    A single number, so a few hundred held-out samples are enough. It changes the model's confidence, never its
    predictions.

    >>> logits = torch.tensor([[4.0, 0.0]]).repeat(4, 1)
    >>> calibrate = TemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]), prior_std=float("inf"))
    >>> calibrate(logits).softmax(1)[0]  # right three times in four
    tensor([0.7500, 0.2500])
    """

    log_temperature: Tensor

    def __init__(self) -> None:
        super().__init__(log_temperature=_numbers(0.0))

    @property
    def temperature(self) -> float:
        """Temperature T; above 1 for an overconfident model."""
        return math.exp(float(self.log_temperature))

    def scale_and_bias(self, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Scale 1 / T and bias 0."""
        return (-numbers[0]).exp(), torch.zeros_like(numbers[0])


class BiasCorrectedTemperatureScaling(Calibration):
    """Bias-corrected temperature scaling (BCTS), z / T + b.

    The biases correct a model that favours some classes, which :func:`ltaug.labelshift.estimate_prior` needs most
    (Alexandari et al., ICML 2020, https://arxiv.org/abs/1901.06852).

    Args:
        num_classes: C.

    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(4, 1)
    >>> calibrate = BiasCorrectedTemperatureScaling(2).fit(logits, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]))
    >>> calibrate.temperature > 1.0, bool(calibrate.bias[0] > calibrate.bias[1])
    (True, True)
    """

    log_temperature: Tensor
    bias: Tensor

    @checked
    def __init__(self, num_classes: int) -> None:
        super().__init__(log_temperature=_numbers(0.0), bias=_numbers(0.0, as_whole(num_classes, "num_classes", 1)))

    @property
    def temperature(self) -> float:
        """Temperature T; above 1 for an overconfident model."""
        return math.exp(float(self.log_temperature))

    def scale_and_bias(self, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Scale 1 / T and bias b."""
        return (-numbers[0]).exp(), numbers[1]


class VectorScaling(Calibration):
    """Vector scaling, w_c z_c + b_c (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    Two numbers a class: with few held-out samples a class, a smaller ``prior_std`` keeps them from fitting noise.

    Args:
        num_classes: C.

    >>> VectorScaling(3)(torch.tensor([[1.0, 2.0, 3.0]]))  # before it is fitted
    tensor([[1., 2., 3.]])
    """

    scale: Tensor
    bias: Tensor

    @checked
    def __init__(self, num_classes: int) -> None:
        classes = as_whole(num_classes, "num_classes", 1)
        super().__init__(scale=_numbers(1.0, classes), bias=_numbers(0.0, classes))

    def scale_and_bias(self, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Scale w and bias b."""
        return numbers[0], numbers[1]


class Likelihood:
    """Negative log likelihood of softmax(scale * z + bias + shift), and its slopes, in one pass over blocks.

    The shift is from the prior of the logits to the class mix of the samples.

    Args:
        rows: z, [N, C].
        labels: int64 [N].
        share: weights of the samples, float64 [N]; sum to 1.
        logits_prior: [C]; None if it is the mix of the samples.
    """

    @checked
    def __init__(self, rows: Tensor, labels: Tensor, share: Tensor, logits_prior: Counts | None = None) -> None:
        self.rows, self.labels, self.share = rows, labels, share
        own = rows.gather(1, labels[:, None])[:, 0].double()
        zeros = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        # The labels' part of the slopes does not depend on the numbers.
        self.labels_by_bias = zeros.scatter_add(0, labels, share)
        self.labels_by_scale = zeros.scatter_add(0, labels, share * own)
        self.present = self.labels_by_bias.cpu() > 0
        self.shift = zeros
        if logits_prior is not None:
            prior = as_counts(logits_prior, "logits_prior", integers=False, positive=True).double().cpu()
            if prior.shape != zeros.shape:
                raise ValueError(
                    f"`logits_prior` must hold one number for each of the {len(zeros)} classes of `logits`, but has "
                    f"shape {list(prior.shape)}."
                )
            # A class without samples has log 0 and so takes no part.
            self.shift = (self.labels_by_bias / prior.to(zeros.device)).log()

    def value_and_slopes(self, scale: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Compute the loss and its slopes by scale and bias, float64 [C] each, on the CPU."""
        value, by_scale, by_bias = 0.0, -self.labels_by_scale, -self.labels_by_bias
        for z, z_label, power, total, share in self.blocks(scale, bias):
            value += float(((total.log() - z_label) * share).sum())
            factor = share / total
            by_bias = by_bias + factor @ power
            by_scale = by_scale + factor @ power.mul_(z)
        return value, by_scale.cpu(), by_bias.cpu()

    def curvature(self, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute each class's mean logit, and rough second derivatives by scale, about that mean, and by bias.

        They set the units of the search, float64 [C] each, on the CPU. A sample counts half for its own class, and half
        for the predicted ones.
        """
        own = self.rows.gather(1, self.labels[:, None])[:, 0].double()
        size, first = self.labels_by_bias.clone(), self.labels_by_scale.clone()
        second = torch.zeros_like(size).scatter_add(0, self.labels, self.share * own.square())
        within = torch.zeros_like(size)
        for z, _, power, total, share in self.blocks(scale, bias):
            factor = share / total
            row_mean = (power * z).sum(1) / total
            within += factor @ (power * (z - row_mean[:, None]).square_())
            size += factor @ power
            first += factor @ power.mul_(z)
            second += factor @ power.mul_(z)
        mean = first / size.clamp(min=1e-300)
        about = (second - first * mean).clamp(min=0.0) / 2.0
        # Where all samples have the same logits, only the spread within a sample gives a unit.
        return mean.cpu(), (about + 0.01 * within).cpu(), size.cpu() / 2.0

    def blocks(self, scale: Tensor, bias: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Yield blocks of samples: z, the label's calibrated logit, exp of all, their sum, and the weights."""
        scale, bias = (values.detach().to(self.rows.device, torch.float64) for values in (scale, bias))
        bias = bias + self.shift
        size = max(_BLOCK // self.rows.shape[1], 1)
        for rows, labels, share in zip(
            *(torch.split(x, size) for x in (self.rows, self.labels, self.share)), strict=True
        ):
            z = rows.double()
            power = torch.addcmul(bias, z, scale)
            power -= power.amax(1, keepdim=True)
            z_label = power.gather(1, labels[:, None])[:, 0]
            power.exp_()
            yield z, z_label, power, power.sum(1), share


def _numbers(value: float, classes: int | None = None) -> Tensor:
    """Make the numbers that a calibration starts from, with values inside ``torch.device("meta")``, too."""
    return torch.tensor(value if classes is None else [value] * classes, device="cpu")


def _along_classes(values: Tensor, logits: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (logits.ndim - 2)) if values.ndim else values


def _check_samples(logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
    expected = [logits.shape[0], *logits.shape[2:]]
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if list(labels.shape) != expected or not whole or not labels.numel():
        raise ValueError(
            f"`labels` must be at least one class index, of shape {expected} for `logits` of shape "
            f"{list(logits.shape)}, but are {labels.dtype} of shape {list(labels.shape)}."
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"`labels` must lie in 0..{logits.shape[1] - 1}, the classes of `logits`, but range from "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    check_finite(logits)
    if weights is not None:
        if weights.shape != labels.shape:
            raise ValueError(
                f"`weights` must be one a label, shape {expected}, but have shape {list(weights.shape)}. Class weights "
                "become sample weights by `class_weights[labels]`."
            )
        if not bool((weights >= 0).all()) or not 0.0 < float(weights.double().sum()) < math.inf:
            raise ValueError("`weights` must be finite and not negative, with a positive sum.")
