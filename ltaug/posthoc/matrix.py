"""Calibration by a matrix, which sees what the classes' logits say of each other, shrunk towards a temperature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import as_whole, checked
from ltaug.posthoc.calibration import Calibration, Likelihood, TemperatureScaling
from ltaug.posthoc.shift import Given, Logits, like, wide
from ltaug.priors import Counts

__all__ = ["StructuredMatrixScaling"]

_BLOCK = 1 << 18
"""Logits of a block of samples."""


class StructuredMatrixScaling(Calibration):
    """Structured matrix scaling, (a I + diag(v) + M) z + b with M zero on its diagonal.

    Berta, Holzmueller, Jordan and Bach (2025, https://arxiv.org/abs/2511.03685). The scale a is that of
    :class:`TemperatureScaling`; about it v, b and M are shrunk to 0, the more, the fewer samples there are for so many
    numbers. With n held-out samples of C classes their ridge penalty on the mean negative log likelihood is

    .. math:: C / n (|v|^2 + |b|^2) + C (C - 1) / n |M|^2

    so that few samples a class leave little more than a temperature, and many correct classes that are confused with
    certain others. It is applied to logits about their mean over the classes, so a constant added to them is nothing.
    A pass over n samples takes n C^2 operations: seconds for a hundred classes, minutes for a thousand.

    Args:
        num_classes: C.

    >>> logits = torch.tensor([[2.0, 1.9, 0.0], [2.0, 0.0, 1.9], [0.0, 0.0, 2.0]]).repeat(100, 1)
    >>> calibrate = StructuredMatrixScaling(3).fit(logits, torch.tensor([1, 0, 2]).repeat(100))
    >>> calibrate(logits[:3]).argmax(1)  # what class 1 has beside class 0 is telling
    tensor([1, 0, 2])
    """

    weight: Tensor
    bias: Tensor

    @checked
    def __init__(self, num_classes: int) -> None:
        classes = as_whole(num_classes, "num_classes", 1)
        super().__init__(weight=torch.eye(classes, device="cpu"), bias=torch.zeros(classes, device="cpu"))

    def scale_and_bias(self, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Scale of each class's own logit, and bias."""
        return numbers[0].diagonal(), numbers[1]

    def forward(self, logits: Given) -> Given:
        """Calibrate logits [N, C, ...]; returns their shape and type, a tensor for a tensor, else a NumPy array."""
        tensor = self.check(logits)
        z = wide(tensor)
        weight, bias = self.weight.to(z), self.bias.to(z)
        about = (z - z.mean(1, keepdim=True)).movedim(1, -1)
        change = about @ (weight - torch.eye(len(bias), dtype=weight.dtype, device=weight.device)).T + bias
        return like(logits, (z + change.movedim(-1, 1)).to(tensor.dtype))

    def fit(
        self,
        logits: Logits,
        labels: Counts,
        weights: Logits | None = None,
        prior_std: float = 1.0,
        logits_prior: Counts | None = None,
        ignore_index: int | None = None,
    ) -> StructuredMatrixScaling:
        """Fit to held-out samples: minimise the negative log likelihood and the penalties, by L-BFGS.

        Args:
            logits: [N, C, ...], of samples that the model was not trained on.
            labels: class indices, [N, ...].
            weights: of the samples, of the shape of ``labels``.
            prior_std: the penalties are divided by its square: 1 is the paper's, infinity is no penalty.
            logits_prior: the prior that the logits are under, [C], as for :meth:`TemperatureScaling.fit`. A class
                without held-out samples takes no part in the fit, and has the mean of the others' v and b.
            ignore_index: a label whose samples, or positions, are left out, such as 255.

        Returns:
            The calibration itself, fitted anew whatever it was before.

        Raises:
            ValueError: as for :meth:`TemperatureScaling.fit`.
        """
        # Here, not above: importing the library must not wait for scipy.
        from scipy.optimize import minimize

        likelihood, prior_std = self.read(logits, labels, weights, prior_std, logits_prior, ignore_index)
        first = TemperatureScaling().fit(logits, labels, weights, logits_prior=logits_prior, ignore_index=ignore_index)
        size, present = len(self.bias), likelihood.present.numpy()
        start = np.hstack([np.eye(size) / first.temperature, np.zeros((size, 1))])  # of the matrix, and the bias
        ridge = size / (prior_std**2 * len(likelihood.rows))
        penalty = np.full(start.shape, ridge * max(size - 1, 1))
        penalty[:, -1] = ridge
        np.fill_diagonal(penalty, ridge)

        def loss(steps: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
            way = steps.reshape(start.shape)
            value, slopes = _value_and_slopes(likelihood, torch.from_numpy(start + way))
            return value + float((penalty * way**2).sum()), (slopes + 2.0 * penalty * way).ravel()

        options = {"maxiter": 500, "maxcor": 30, "ftol": 1e-10, "gtol": 1e-7}
        way = minimize(loss, np.zeros(start.size), jac=True, method="L-BFGS-B", options=options).x.reshape(start.shape)
        for places in ((np.arange(size), np.arange(size)), (np.arange(size), -1)):
            way[places] = np.where(present, way[places], way[places][present].mean())
        found = torch.from_numpy(start + way)
        with torch.no_grad():
            self.weight.copy_(found[:, :-1])
            self.bias.copy_(found[:, -1])
        return self


def _value_and_slopes(likelihood: Likelihood, numbers: Tensor) -> tuple[float, np.ndarray[Any, Any]]:
    """Compute the mean negative log likelihood of numbers, a matrix beside a bias, [C, C + 1], and its slopes."""
    device = likelihood.rows.device
    numbers = numbers.to(device)
    shift = torch.where(likelihood.present.to(device), likelihood.shift, -math.inf) + numbers[:, -1]
    value, slopes = 0.0, torch.zeros_like(numbers)
    size = max(_BLOCK // len(numbers), 1)
    blocks = (torch.split(x, size) for x in (likelihood.rows, likelihood.labels, likelihood.share))
    for rows, labels, share in zip(*blocks, strict=True):
        z = rows.double()
        z -= z.mean(1, keepdim=True)
        log_probs = torch.addmm(shift, z, numbers[:, :-1].T).log_softmax(1)
        own = log_probs.gather(1, labels[:, None])[:, 0]
        value -= float((own * share).sum())
        slope = log_probs.exp_() * share[:, None]
        slope[torch.arange(len(labels), device=device), labels] -= share
        slopes[:, :-1] += slope.T @ z
        slopes[:, -1] += slope.sum(0)
    return value, slopes.cpu().numpy()
