"""Calibration of logits on held-out samples: a temperature, a temperature and biases, a scale and a bias a class."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.posthoc.shift import Logits, as_logits
from ltaug.priors import Counts

__all__ = ["BiasCorrectedTemperatureScaling", "TemperatureScaling", "VectorScaling"]

Self = TypeVar("Self", bound="Calibration")


class Calibration(nn.Module):
    """What the calibrations share: some numbers, which start as the identity, and how they are fitted.

    The numbers are buffers, not parameters: an optimiser of the model that comes before must leave them alone.
    """

    def __init__(self, **start: Tensor) -> None:
        super().__init__()
        self.names = tuple(start)
        self.start = tuple(start.values())
        for name, values in start.items():
            self.register_buffer(name, values.clone())

    def calibrate(self, logits: Tensor, *numbers: Tensor) -> Tensor:
        """Calibrated logits, for numbers of the logits' type."""
        raise NotImplementedError  # what a subclass is for

    def forward(self, logits: Logits) -> Tensor:
        """Calibrated logits, of the shape and type of ``logits`` [N, C, ...]."""
        logits = self.check(logits)
        return self.calibrate(logits, *(cast(Tensor, getattr(self, name)).to(logits.dtype) for name in self.names))

    def fit(self: Self, logits: Logits, labels: Counts, weights: Logits | None = None, prior_std: float = 3.0) -> Self:
        """Fit to held-out samples: the least negative log likelihood, by L-BFGS in float64.

        Every number has a weak Gaussian prior about the identity. It keeps finite what the likelihood would let run
        away (the temperature of samples that are all classified right, the bias of a class that does not occur), and
        fades as samples come in.

        Args:
            logits: [N, C, ...], of samples that the model was not trained on.
            labels: class indices, [N, ...].
            weights: of the samples, of the shape of ``labels``. Held-out samples of prior s calibrate for a world of
                prior t with the weights ``(t / s)[labels]``; class-balanced that is ``(1 / class_counts)[labels]``.
            prior_std: standard deviation of the Gaussian prior; infinity for plain maximum likelihood.

        Returns:
            Itself, fitted anew whatever it was before.

        Raises:
            ValueError: shapes that do not belong together, labels outside 0..C-1, NaN, or weights that are negative or
                all 0.
        """
        logits = self.check(logits)
        labels = torch.as_tensor(labels).to(logits.device)
        weights = None if weights is None else torch.as_tensor(weights).to(logits.device)
        _check_samples(logits, labels, weights)
        if not prior_std > 0.0:
            raise ValueError(f"`prior_std` must be positive, but is {prior_std}.")
        with torch.inference_mode(False), torch.enable_grad():
            z = logits.detach().to(torch.float64, copy=True)  # a copy: tensors of inference mode have no gradient
            y = labels.detach().long().clone()
            share = torch.ones_like(y, dtype=torch.float64) if weights is None else weights.detach().double().clone()
            share = share / share.sum()
            start = [values.to(z) for values in self.start]
            numbers = [values.clone().requires_grad_() for values in start]
            optimizer = torch.optim.LBFGS(
                numbers, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
            )

            def loss() -> Tensor:
                optimizer.zero_grad()
                nll = (F.cross_entropy(self.calibrate(z, *numbers), y, reduction="none") * share).sum()
                distance = sum(((now - then) ** 2).sum() for now, then in zip(numbers, start, strict=True))
                value: Tensor = nll + distance / (2.0 * prior_std**2 * y.numel())
                value.backward()  # type: ignore[no-untyped-call]
                return value

            optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, values in zip(self.names, numbers, strict=True):
                getattr(self, name).copy_(values)
        return self

    def check(self, logits: Logits) -> Tensor:
        """Read logits, and refuse those of another form or another number of classes."""
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

    One number, so a few hundred held-out samples do. It changes how sure the model is, never what it says.

    >>> logits = torch.tensor([[4.0, 0.0]]).repeat(4, 1)
    >>> calibrate = TemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]), prior_std=float("inf"))
    >>> calibrate(logits).softmax(1)[0]  # right three times in four
    tensor([0.7500, 0.2500])
    """

    log_temperature: Tensor

    def __init__(self) -> None:
        super().__init__(log_temperature=torch.zeros(()))

    @property
    def temperature(self) -> float:
        """T; above 1 for a model that was too sure."""
        return math.exp(float(self.log_temperature))

    def calibrate(self, logits: Tensor, *numbers: Tensor) -> Tensor:
        """z / T."""
        return logits * (-numbers[0]).exp()


class BiasCorrectedTemperatureScaling(Calibration):
    """Bias-corrected temperature scaling (BCTS), z / T + b (Alexandari et al., ICML 2020,
    https://arxiv.org/abs/1901.06852).

    The biases take away that the model favours some classes, which is what :func:`ltaug.estimate_prior` needs most.

    Args:
        num_classes: C.

    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(4, 1)
    >>> calibrate = BiasCorrectedTemperatureScaling(2).fit(logits, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]))
    >>> calibrate.temperature > 1.0, bool(calibrate.bias[0] > calibrate.bias[1])
    (True, True)
    """

    log_temperature: Tensor
    bias: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(log_temperature=torch.zeros(()), bias=torch.zeros(_at_least_one(num_classes)))

    @property
    def temperature(self) -> float:
        """T; above 1 for a model that was too sure."""
        return math.exp(float(self.log_temperature))

    def calibrate(self, logits: Tensor, *numbers: Tensor) -> Tensor:
        """z / T + b."""
        return logits * (-numbers[0]).exp() + _along_classes(numbers[1], logits)


class VectorScaling(Calibration):
    """Vector scaling, w_c z_c + b_c (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).

    Two numbers a class; with few held-out samples a class a smaller ``prior_std`` keeps them from following noise.

    Args:
        num_classes: C.

    >>> VectorScaling(3)(torch.tensor([[1.0, 2.0, 3.0]]))  # before it is fitted
    tensor([[1., 2., 3.]])
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, num_classes: int) -> None:
        classes = _at_least_one(num_classes)
        super().__init__(scale=torch.ones(classes), bias=torch.zeros(classes))

    def calibrate(self, logits: Tensor, *numbers: Tensor) -> Tensor:
        """w_c z_c + b_c."""
        return logits * _along_classes(numbers[0], logits) + _along_classes(numbers[1], logits)


def _at_least_one(num_classes: int) -> int:
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
    return num_classes


def _along_classes(values: Tensor, logits: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (logits.ndim - 2))


def _check_samples(logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
    expected = [logits.shape[0], *logits.shape[2:]]
    if list(labels.shape) != expected or labels.is_floating_point() or not labels.numel():
        raise ValueError(
            f"`labels` must be at least one class index, of shape {expected} for `logits` of shape "
            f"{list(logits.shape)}, but are {labels.dtype} of shape {list(labels.shape)}."
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"`labels` must lie in 0..{logits.shape[1] - 1}, the classes of `logits`, but range from "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    if not bool(logits.isfinite().all()):
        raise ValueError("`logits` must be finite, but hold NaN or infinity.")
    if weights is not None:
        if weights.shape != labels.shape:
            raise ValueError(
                f"`weights` must be one a label, shape {expected}, but have shape {list(weights.shape)}. Class weights "
                "become sample weights by `class_weights[labels]`."
            )
        if not bool((weights >= 0).all()) or not 0.0 < float(weights.double().sum()) < math.inf:
            raise ValueError("`weights` must be finite and not negative, with a positive sum.")
