"""Class prior of a test set, estimated from its logits alone, where p(x | y) is the same as in training.

Every method needs calibrated logits: an overconfident network, or one that favours some classes beyond its prior,
misleads it more than a small test set does. Calibrate first, with
:class:`ltaug.posthoc.BiasCorrectedTemperatureScaling` on held-out samples; ten a class are enough. They may have any
class mix: pass ``fit`` the prior of the logits, ``logits_prior``, which the calibrated logits stay under.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ltaug._arguments import as_number, as_whole, checked
from ltaug.posthoc import _saved
from ltaug.posthoc._buffers import PriorBuffers
from ltaug.posthoc.shift import (
    Given,
    Logits,
    as_logits,
    check_classes,
    check_finite,
    check_no_probabilities,
    like,
    shift_logits,
)
from ltaug.priors import Counts, as_array, as_counts, as_labels, by_class, on_wide_device, with_values

__all__ = ["RunningPrior", "estimate_prior", "prior_interval"]

_CHUNK = 1 << 22
"""Entries of the probabilities that are summed in float32; the sums of such blocks are added in float64."""

_SHARE = 0.2
"""Pseudo samples distributed like ``center``, for every sample."""

_MEMORY = 10
"""Samples a class that a running prior remembers by default; chosen in docs/deploy.md, on held-out streams."""

_STEADY = 1e-5
"""Change of a running prior, summed over classes, below which EM stops: far below what any memory resolves."""

_RISE = 0.5
"""Log likelihood, in nats, that a standard error costs: EM may stop closer to the peak than the samples can resolve."""


@checked
def estimate_prior(
    logits: Given,
    logits_prior: Counts,
    method: str = "em",
    *,
    validation: tuple[Logits, Counts] | None = None,
    trend: Logits | None = None,
    center: Counts | None = None,
    pseudo_count: float | None = None,
    soft: bool = False,
    shrinkage: float = 0.01,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> Given:
    """Estimate the class prior of unlabelled samples from their logits.

    ====== ============================================================================================================
    "em"   maximum likelihood (Saerens, Latinne and Decaestecker, Neural Computation 2002; MLLS):
           q_c <- mean_i of p(c | x_i) w_c / sum_k p(k | x_i) w_k, with w = q / ``logits_prior``, until the
           changes sum to less than ``tolerance``
    "bbse" Lipton et al. (ICML 2018, https://arxiv.org/abs/1802.03916): the q for which the classifier's confusions
           p(predicted | y), counted on ``validation``, explain the predictions; negative ones are set to 0
    "rlls" Azizzadenesheli et al. (ICLR 2019, https://arxiv.org/abs/1903.09734): w = 1 + theta >= 0 with
           argmin ``|C theta - b|_2 + Delta |theta|_2``, which leans to ``logits_prior`` where the confusions say little
    ====== ============================================================================================================

    On one core of an Intel Xeon "em" takes 0.07 s for N = 10,000, C = 100, and 8 s for N = 24,426, C = 8,142, where the
    logits separate the classes well; where they do not it takes more steps.

    "em" is the most accurate where logits are calibrated (Alexandari et al., ICML 2020,
    https://arxiv.org/abs/1901.06852). The others use the confusion matrix of the classifier as it is, so they also work
    without calibration, but need labelled samples of every class.

    With many classes and few samples the classes' errors add up, and ``trend`` pays: it looks for the prior among
    q ~ exp(trend @ theta) only. With ``trend=class_counts.log()`` one number is estimated: how far the test set leans
    to the classes that were frequent in training, or to the rare ones. ``center`` is between the two: every class is
    free, but drawn to that prior.

    Which one is best with a hundred classes? ``examples/prior_estimation.py`` tries them on a network that has learnt a
    long tail by heart, with ten held-out samples a class; accuracy in percent by the mix of the 10,000 samples:

    ===================================================== =========== ======= ======= ========
    logits and prior                                      as training uniform reverse permuted
    ===================================================== =========== ======= ======= ========
    as trained                                            62.3        40.1    16.4    41.7
    as trained, "em"                                      62.3        42.2    22.7    46.8
    calibrated, true prior                                62.0        47.1    46.6    56.2
    calibrated, "em"                                      58.4        44.2    43.7    53.1
    calibrated, "em" with ``trend``                       61.9        46.9    46.6    47.4
    calibrated, "em" with that estimate as ``center``     60.5        45.5    45.4    52.7
    calibrated, "rlls"                                    55.9        46.4    41.0    51.6
    ===================================================== =========== ======= ======= ========

    Calibration decides: without it most of the gain is lost. After it, use ``trend`` where you know that the mix leans
    along the training counts: it recovers 97 % of the gain or more there, and two fifths where the mix is unrelated to
    them ("permuted"). Where you do not know, use ``center=estimate_prior(..., trend=class_counts.log())``: three
    quarters of the gain or more on every mix, at a cost of 1.8 points where there is nothing to correct. No choice here
    recovers the rest: a hundred free numbers cost 3 points, and errors of the calibration look like another mix.

    Args:
        logits: of the unlabelled samples, [N, C, ...]; a tensor, an array or nested lists.
        logits_prior: the prior that the logits are under, [C]: the training prior for a model trained with plain
            cross-entropy, uniform for a prior-corrected one. Counts or probabilities.
        method: "em", "bbse" or "rlls".
        validation: logits [M, C, ...] and labels [M, ...] of labelled samples the model was not trained on, of any
            prior; for "bbse" and "rlls" only. Their confusions are most informative where every class is predicted, so
            shift both logits to the prior of these samples first, with :func:`ltaug.shift_logits`.
        trend: one number, or K numbers, a class, [C] or [C, K]; for "em" only.
        center: a prior, [C], that the estimate is drawn to; uniform by default, whatever prior the logits are under,
            so moving the logits to another prior does not change the answer.
        pseudo_count: pseudo samples added a class, C times as many in all, distributed like ``center``. By default 1,
            with ``trend`` 0, and with ``center`` 0.2 N / C, a fifth of the samples, however many: it guards against
            errors of the calibration, which more samples do not remove. For "em" the result is the mode under a
            Dirichlet(1 + pseudo_count * C * center) distribution. 0 is the bare estimate, which may give a class a
            prior of 0, and then :func:`ltaug.shift_logits` refuses it.
        soft: average probabilities instead of counting predictions; for "bbse" and "rlls" only.
        shrinkage: Delta of "rlls", in units of its theoretical bound
            3 (2 log(2C / 0.05) / (3M) + sqrt(2 log(2C / 0.05) / M)). The bound itself, 1, shrinks too much; the
            released code takes 0.01.
        max_iterations: limit for "em". A warning reports that it did not suffice: that the log likelihood of the
            samples may be more than 1/2 below its peak, which is what a standard error costs.
        tolerance: limit for "em" on the sum of the classes' changes.

    Returns:
        float64 [C] on the device of ``logits``, or on the CPU where that has no float64; sums to 1. A NumPy array where
        ``logits`` are no tensor.

    Raises:
        ValueError: wrong shapes, NaN, probabilities for logits (two samples or more, each of numbers that are not
            negative and sum to 1; accepted where predictions are counted), an option that the method does not use, a
            class with a ``center`` of 0 or without validation samples, or confusions that cannot be inverted ("bbse").

    >>> logits = torch.tensor([0.9, 0.1]).log().repeat(80, 1)
    >>> logits[60:] = logits[60:].flip(1)
    >>> estimate_prior(logits, logits_prior=[1, 1], pseudo_count=0.0)  # 3/4 are predicted 0, and so are 9/10 of class 0
    tensor([0.8125, 0.1875], dtype=torch.float64)
    """
    problem = _Problem(logits, logits_prior, method, validation, trend, center, pseudo_count, soft, shrinkage)
    return like(logits, problem.solve(max_iterations, tolerance)[:, 0])


@checked
def prior_interval(
    logits: Given,
    logits_prior: Counts,
    method: str = "em",
    *,
    level: float = 0.95,
    replicates: int = 200,
    seed: int = 0,
    validation: tuple[Logits, Counts] | None = None,
    trend: Logits | None = None,
    center: Counts | None = None,
    pseudo_count: float | None = None,
    soft: bool = False,
    shrinkage: float = 0.01,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> tuple[Given, Given]:
    """Confidence intervals of :func:`estimate_prior`, by the bootstrap: percentiles of estimates on resampled data.

    The validation samples are resampled as well, within their classes. Resampling does not show the error of logits
    that are not calibrated.

    Args:
        logits: as for :func:`estimate_prior`.
        logits_prior: as for :func:`estimate_prior`.
        method: as for :func:`estimate_prior`.
        level: probability that an interval contains its class's prior.
        replicates: number of resampled data sets. They share one pass over the probabilities and are never copied out.
        seed: seed of the resampling.
        validation: as for :func:`estimate_prior`.
        trend: as for :func:`estimate_prior`.
        center: as for :func:`estimate_prior`.
        pseudo_count: as for :func:`estimate_prior`.
        soft: as for :func:`estimate_prior`.
        shrinkage: as for :func:`estimate_prior`.
        max_iterations: as for :func:`estimate_prior`.
        tolerance: as for :func:`estimate_prior`.

    Returns:
        Lower and upper ends, each float64 [C], as :func:`estimate_prior` returns them.

    >>> logits = torch.tensor([[2.0, -2.0], [-2.0, 2.0]]).repeat(50, 1)
    >>> low, high = prior_interval(logits, logits_prior=[1, 1])
    >>> bool(low[0] < 0.5 < high[0])
    True
    """
    level = as_number(level, "level")
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must lie in (0, 1), but is {level}.")
    replicates = as_whole(replicates, "replicates", 2, "200 or more give steady ends.")
    seed = as_whole(seed, "seed")
    problem = _Problem(logits, logits_prior, method, validation, trend, center, pseudo_count, soft, shrinkage)
    generator = torch.Generator().manual_seed(seed)
    n = len(problem.probs)
    times = torch.stack([_draws(torch.arange(n), generator) for _ in range(replicates)], dim=1)
    validation_times = None
    if len(problem.labels):
        members = [(problem.labels.cpu() == k).nonzero()[:, 0] for k in range(problem.num_classes)]
        validation_times = torch.zeros(len(problem.labels), replicates)
        for rows in members:
            for r in range(replicates):
                validation_times[rows, r] = _draws(rows, generator)
    answers = problem.solve(max_iterations, tolerance, times, validation_times)
    tail = (1.0 - level) / 2
    low, high = answers.quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64, device=answers.device), dim=1)
    return like(logits, low), like(logits, high)


class RunningPrior(PriorBuffers):
    """Class prior of a stream of unlabelled samples, which follows a class mix that drifts: online EM with forgetting.

    EM for a prior (Saerens, Latinne and Decaestecker, Neural Computation 2002) needs of the samples only the sum of
    their posteriors under the prior q, p_q(c | x) ~ p(c | x) q_c / p_c, with the prior p of the logits. Online EM
    (Cappe and Moulines, Journal of the Royal Statistical Society B 2009, https://arxiv.org/abs/0712.4273) keeps that
    sum over the stream, here with a weight that falls with the age of a sample:

        S_t = sum_{i <= t} (1 - forget)^(t - i) p_q(. | x_i),    q_t ~ S_t + pseudo_count

    The posteriors of earlier batches stay what they were. On the newest batch the two steps are repeated until q no
    longer changes, so that its size hardly matters: with ``forget=0`` the first batch gives :func:`estimate_prior`.

    As there, logits must be calibrated. A module: what it has seen is in buffers, and it is saved and exported.

    Args:
        logits_prior: the prior that the logits are under, [C]; counts or probabilities.
        forget: share of its weight that a sample loses with each sample after it, in [0, 1]; 1 / forget samples are
            remembered. By default 10 a class: 1 / (10 C). Less follows a slow drift more exactly, more a fast one.
        center: prior that the pseudo samples are distributed like, [C], and what :attr:`prior` is at first; uniform by
            default.
        pseudo_count: pseudo samples a class, C times as many in all, never forgotten: no class is ever lost.

    Attributes:
        prior: the estimate, float64 [C].

    Raises:
        ValueError: a prior has a 0 or another number of classes, ``forget`` is outside of [0, 1], or ``pseudo_count``
            is not positive.

    >>> running = RunningPrior(logits_prior=[1, 1], forget=0.01)
    >>> for _ in range(50):
    ...     prior = running.update(torch.tensor([[4.0, 0.0]] * 9 + [[0.0, 4.0]]))
    >>> prior.round(decimals=1)
    tensor([0.9000, 0.1000], dtype=torch.float64)
    >>> running(torch.tensor([[0.0, 1.0]])).argmax(1)
    tensor([0])
    """

    logits_prior: Tensor
    center: Tensor
    prior: Tensor
    seen: Tensor

    @checked
    def __init__(
        self, logits_prior: Counts, forget: float | None = None, center: Counts | None = None, pseudo_count: float = 1.0
    ) -> None:
        super().__init__()
        source = as_counts(logits_prior, "logits_prior", integers=False, positive=True).double()
        middle = torch.ones_like(source)
        if center is not None:
            middle = as_counts(center, "center", integers=False, positive=True).to(source)
            check_classes(middle, len(source), "center", "logits_prior")
        self.forget = 1.0 / (_MEMORY * len(source)) if forget is None else as_number(forget, "forget")
        if not 0.0 <= self.forget <= 1.0:
            raise ValueError(f"`forget` must lie in [0, 1], but is {forget}. 1 / forget samples are remembered.")
        self.pseudo_count = _as_amount(pseudo_count, "pseudo_count")
        if not self.pseudo_count > 0.0:
            raise ValueError("`pseudo_count` must be positive, or a class that does not occur for a while is lost.")
        self.register_buffer("logits_prior", source / source.sum())
        self.register_buffer("center", middle / middle.sum())
        self.register_buffer("prior", self.center.clone())
        self.register_buffer("seen", torch.zeros_like(source))

    @checked
    def update(self, logits: Given) -> Given:
        """Take in the next samples of the stream.

        Args:
            logits: calibrated, [N, C, ...], in the order of time.

        Returns:
            The prior after them, float64 [C], as :func:`estimate_prior` returns it.

        Raises:
            ValueError: as :func:`estimate_prior` does.
        """
        problem = _Problem(logits, self.logits_prior, "em", None, None, None, None, False, 0.0)
        size = len(problem.probs)
        age = torch.arange(size - 1, -1, -1, dtype=torch.float64)
        keep = torch.tensor(1.0 - self.forget, dtype=torch.float64)
        pseudo = (self.pseudo_count * len(self.center) * self.center).to(problem.prior)
        problem.pseudo_counts = (pseudo + keep**size * self.seen.to(problem.prior)).unsqueeze(1)
        weights = (keep**age).to(problem.prior)
        found = problem.solve_em(weights.float().unsqueeze(1), 1000, _STEADY, self.prior.to(problem.prior))[:, 0]
        total = weights.sum() + problem.pseudo_counts.sum()
        with torch.no_grad():
            self.seen.copy_((found * total - pseudo).clamp(min=0.0))
            self.prior.copy_(found)
        return like(logits, found.clone())

    def forward(self, logits: Given) -> Given:
        """Logits [N, C, ...] moved to the prior of the stream, by :func:`ltaug.shift_logits`; nothing is taken in."""
        return shift_logits(logits, self.logits_prior, self.prior)

    def save(self, path: _saved.Place) -> Path:
        """Keep it, with what it has seen, in two files as :meth:`ltaug.correction.Correction.save` does.

        Args:
            path: a folder, where they are called running_prior; or their stem.

        Returns:
            The path of the one with the numbers, which :meth:`load` takes, as it does the folder and the stem.
        """
        info = {"forget": self.forget, "pseudo_count": self.pseudo_count}
        return _saved.write(path, "running_prior", self.state_dict(), info)

    @classmethod
    def load(cls, path: _saved.Place) -> RunningPrior:
        """Load what :meth:`save` has kept, on the CPU.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file is damaged, or the two do not belong together.
        """
        tensors, info = _saved.read(path, "running_prior")
        try:
            loaded = cls(tensors["logits_prior"], info["forget"], tensors["center"], info["pseudo_count"])
            loaded.load_state_dict(tensors)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"The two files of `{path}` do not belong together: {error}. Save it again.") from error
        return loaded

    def extra_repr(self) -> str:
        """Shown by ``print(running)``."""
        return f"num_classes={len(self.prior)}, forget={self.forget:g}, pseudo_count={self.pseudo_count:g}"


def _draws(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many rows with replacement as there are; return how often each was drawn, float32."""
    picks = torch.randint(len(rows), (len(rows),), generator=generator)
    return torch.bincount(picks, minlength=len(rows)).float()


class _Problem:
    """Checked arguments of :func:`estimate_prior`; :meth:`solve` also takes resampled data."""

    def __init__(
        self,
        logits: Logits,
        logits_prior: Counts,
        method: str,
        validation: tuple[Logits, Counts] | None,
        trend: Logits | None,
        center: Counts | None,
        pseudo_count: float | None,
        soft: bool,
        shrinkage: float,
    ) -> None:
        if method not in ("em", "bbse", "rlls"):
            raise ValueError(f'`method` must be "em", "bbse" or "rlls", but is {method!r}.')
        logits = on_wide_device(as_logits(logits))
        prior = as_counts(logits_prior, "logits_prior", integers=False, positive=True).double().to(logits.device)
        self.prior = prior / prior.sum()
        self.num_classes = prior.numel()
        self.method, self.shrinkage = method, _as_amount(shrinkage, "shrinkage")
        pseudo_count = None if pseudo_count is None else _as_amount(pseudo_count, "pseudo_count")
        self.labels = torch.zeros(0, dtype=torch.int64)  # of the validation samples, which "em" does not use
        self.trend: Tensor | None = None
        if method == "em":
            if validation is not None or soft:
                name = "soft" if validation is None else "validation"
                raise ValueError(
                    f'`{name}` is for "bbse" and "rlls" only. To use labelled samples with "em", fit '
                    "`BiasCorrectedTemperatureScaling` to them and pass its logits."
                )
            self.probs = self.outputs(self.read(logits, "logits", soft=True), soft=True)
            self.trend = None if trend is None else self.read_trend(trend)
            self.pseudo_counts = self.read_pseudo_counts(center, pseudo_count)
            return
        if trend is not None:
            raise ValueError(f'`trend` is for "em" only, but `method` is {method!r}.')
        if validation is None:
            raise ValueError(f'`validation` must be logits and labels of held-out samples for "{method}", but is None.')
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError(
                "`validation` must be a pair, the logits and the labels of held-out samples, but is not. Pass "
                "`(logits, labels)`."
            )
        self.probs = self.outputs(self.read(logits, "logits", soft), soft)
        self.pseudo_counts = self.read_pseudo_counts(center, pseudo_count)
        held_out = with_values(as_logits(validation[0], "validation[0]"), "validation[0]").to(logits.device)
        self.validation = self.outputs(self.read(held_out, "validation[0]", soft), soft)
        labels = as_array(validation[1], "validation[1]")
        self.labels = as_labels(labels.flatten(), "validation[1]").to(logits.device)
        outside = (self.labels < 0) | (self.labels >= self.num_classes)
        if len(self.labels) != len(self.validation) or bool(outside.any()):
            raise ValueError(
                f"`validation[1]` must hold a label in 0..{self.num_classes - 1} for each of the "
                f"{len(self.validation)} validation samples, but holds {len(self.labels)}, with "
                f"{int(outside.sum())} of them outside."
            )
        sizes = torch.bincount(self.labels, minlength=self.num_classes)
        if not bool(sizes.all()):
            raise ValueError(
                f"`validation` must have samples of every class, but has none of class {int(sizes.argmin())} "
                f"({int((sizes == 0).sum())} of {self.num_classes} classes have none), to count what the model "
                'predicts for it. Use `method="em"`.'
            )

    def read(self, logits: Tensor, name: str, soft: bool) -> Tensor:
        """Check logits [N, C, ...] and flatten them to rows, float32 [N', C]."""
        if logits.ndim < 2 or logits.shape[1] != self.num_classes or not logits.is_floating_point():
            raise ValueError(
                f"`{name}` must be floating point of shape [N, {self.num_classes}, ...], one class for each of "
                f"`logits_prior`, but are {logits.dtype} of shape {list(logits.shape)}."
            )
        rows = logits.detach().movedim(1, -1).reshape(-1, self.num_classes)
        if not len(rows):
            raise ValueError(f"`{name}` must hold at least one sample, but are empty.")
        check_finite(rows, name)
        if soft:  # predictions are the same from logits and from probabilities
            check_no_probabilities(rows, name)
        return rows.float()

    def read_trend(self, trend: Logits) -> Tensor:
        """Make an orthonormal basis of the trend without its constant part, which does not change a prior."""
        columns = by_class(trend, "trend", " The usual one is `class_counts.log()`.")
        if columns.is_complex() or columns.dtype == torch.bool:
            raise ValueError(f"`trend` must be real numbers, but is {columns.dtype}.")
        columns = on_wide_device(columns.detach()).to(self.prior)
        if columns.ndim not in (1, 2) or len(columns) != self.num_classes or not bool(columns.isfinite().all()):
            raise ValueError(
                f"`trend` must be finite, of shape [{self.num_classes}] or [{self.num_classes}, K], but has shape "
                f"{list(columns.shape)}; a class without training samples has no log count."
            )
        columns = columns.view(self.num_classes, -1)
        columns = columns - columns.mean(0)
        if int(torch.linalg.matrix_rank(columns)) < columns.shape[1]:
            raise ValueError("`trend` must differ between classes, and its columns must be linearly independent.")
        basis: Tensor = torch.linalg.qr(columns)[0]
        return basis * math.sqrt(self.num_classes)

    def read_pseudo_counts(self, center: Counts | None, pseudo_count: float | None) -> Tensor:
        """Pseudo samples of each class, float64 [C, 1]."""
        if pseudo_count is None:
            pseudo_count = float(self.trend is None) if center is None else _SHARE * len(self.probs) / self.num_classes
        if center is None:
            return self.prior.new_full((self.num_classes, 1), pseudo_count)
        middle = as_counts(center, "center", integers=False, positive=True).to(self.prior)
        if middle.shape != self.prior.shape:
            raise ValueError(
                f"`center` must hold one number for each of the {self.num_classes} classes, but holds {len(middle)}."
            )
        return (pseudo_count * self.num_classes * middle / middle.sum()).unsqueeze(1)

    @staticmethod
    def outputs(rows: Tensor, soft: bool) -> Tensor:
        """Probabilities of the rows, or their predictions as one-hot rows."""
        return rows.softmax(1) if soft else F.one_hot(rows.argmax(1), rows.shape[1]).float()

    def solve(
        self, max_iterations: int, tolerance: float, times: Tensor | None = None, validation_times: Tensor | None = None
    ) -> Tensor:
        """Estimate the priors, float64 [C, R], where sample i counts ``times[i, r]`` times in data set r."""
        max_iterations, tolerance = as_whole(max_iterations, "max_iterations", 1), _as_amount(tolerance, "tolerance")
        n = len(self.probs)
        times = (torch.ones(n, 1) if times is None else times).to(self.probs.device)
        if self.method == "em":
            return self.solve_em(times, max_iterations, tolerance)
        if validation_times is None:
            validation_times = torch.ones(len(self.labels), 1)
        seen = _sums(self.probs, times) / n
        answers = [self.invert(self.confusions(validation_times[:, r]), seen[:, r]) for r in range(times.shape[1])]
        counts = n * torch.stack(answers, dim=1) + self.pseudo_counts
        return counts / counts.sum(0)

    def solve_em(self, times: Tensor, max_iterations: int, tolerance: float, start: Tensor | None = None) -> Tensor:
        """Estimate the priors by EM, float64 [C, R], from a start, [C], uniform by default."""
        replicates = times.shape[1]
        start = self.prior.new_full((self.num_classes,), 1.0 / self.num_classes) if start is None else start
        estimate = start.unsqueeze(1).repeat(1, replicates)
        theta = None if self.trend is None else self.prior.new_zeros(self.trend.shape[1], replicates)
        change = math.inf
        for _ in range(max_iterations):
            # Bounded below, or a sample that only this class explains would divide 0 by 0.
            weights = (estimate / self.prior.unsqueeze(1)).clamp(min=1e-30)
            counts = weights * self.shares(weights.float(), times) + self.pseudo_counts
            update = counts / counts.sum(0)
            if theta is not None and self.trend is not None:
                theta = theta + _newton_step(self.trend, estimate, update)
                update = (self.trend @ theta).softmax(0)
            change = float((update - estimate).abs().sum(0).max())
            estimate = update
            if change < tolerance:
                return estimate
        # The steps along a trend are Newton's and end soon; `rise` bounds the rise on the whole simplex, not along it.
        if tolerance > 0.0 and (theta is not None or self.rise(estimate, times) > _RISE):
            warnings.warn(
                f"EM stopped after `max_iterations`={max_iterations} with a change of {change:.1e} an iteration, "
                f"above `tolerance`={tolerance:.1e}. The classes overlap much: allow more iterations.",
                RuntimeWarning,
                stacklevel=5,  # the line that called estimate_prior or prior_interval
            )
        return estimate

    def rise(self, estimate: Tensor, times: Tensor) -> float:
        """Upper bound of the distance of the log likelihood from its peak, in nats.

        It is concave, so the distance is at most the slope towards the steepest corner of the simplex.
        """
        weights = (estimate / self.prior.unsqueeze(1)).clamp(min=1e-30)
        slope = self.shares(weights.float(), times) / self.prior.unsqueeze(1)
        slope = slope + self.pseudo_counts / estimate.clamp(min=1e-300)
        return float(slope.max()) - len(self.probs) - float(self.pseudo_counts.sum())

    def shares(self, weights: Tensor, times: Tensor) -> Tensor:
        """Compute sum_i times_i p(c | x_i) / sum_k p(k | x_i) w_k, float64 [C, R]."""
        total = torch.zeros_like(weights, dtype=torch.float64)
        for probs, count in _blocks(self.probs, times):
            total += (probs.T @ (count / (probs @ weights))).double()
        return total

    def confusions(self, times: Tensor) -> Tensor:
        """Mean output for samples of each class, float64 [outputs, classes]."""
        times = times.to(self.labels.device)
        labels = F.one_hot(self.labels, self.num_classes).float() * times.unsqueeze(1)
        return _sums(self.validation, labels) / labels.double().sum(0)

    def invert(self, confusions: Tensor, seen: Tensor) -> Tensor:
        """Find the prior under which the classes' mean outputs add up to the mean outputs ``seen``."""
        if self.method == "bbse":
            if int(torch.linalg.matrix_rank(confusions, rtol=1e-6)) < self.num_classes:
                raise ValueError(
                    "`validation` gives confusions that cannot be inverted: some class is never predicted, or two are "
                    'confused alike. Use `method="rlls"`, which tolerates that, `method="em"`, or more samples.'
                )
            raw: Tensor = torch.linalg.solve(confusions, seen).clamp(min=0.0)
        else:
            ratios = _regularized_ratios((confusions * self.prior).cpu().numpy(), seen.cpu().numpy(), self.delta())
            raw = self.prior * torch.from_numpy(ratios).to(self.prior)
        return raw / raw.sum()

    def delta(self) -> float:
        """Compute Delta of RLLS from its theoretical bound."""
        log = math.log(2 * self.num_classes / 0.05)
        m = len(self.validation)
        return self.shrinkage * 3 * (2 * log / (3 * m) + math.sqrt(2 * log / m))


def _as_amount(value: float, name: str) -> float:
    value = as_number(value, name)
    if not 0.0 <= value < math.inf:
        raise ValueError(f"`{name}` must be finite and not negative, but is {value}.")
    return value


def _blocks(rows: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield slices of samples with a bounded number of entries."""
    size = max(_CHUNK // rows.shape[1], 1)
    for start in range(0, len(rows), size):
        yield rows[start : start + size], weights[start : start + size]


def _sums(rows: Tensor, weights: Tensor) -> Tensor:
    """Compute rows.T @ weights, summed in float64."""
    total = torch.zeros(rows.shape[1], weights.shape[1], dtype=torch.float64, device=rows.device)
    for block, weight in _blocks(rows, weights):
        total += (block.T @ weight).double()
    return total


def _newton_step(basis: Tensor, estimate: Tensor, wanted: Tensor) -> Tensor:
    """Newton step, [K, R], at most 1 long, to the theta whose softmax(basis @ theta) has the moments of ``wanted``."""
    gap = basis.T @ (wanted - estimate)
    centred = basis.unsqueeze(2) - (basis.T @ estimate).unsqueeze(0)
    curvature = torch.einsum("cr,cjr,ckr->rjk", estimate, centred, centred)
    curvature = curvature + 1e-9 * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    step: Tensor = torch.linalg.solve(curvature, gap.T).T
    length: Tensor = step.norm(dim=0)
    return step / length.clamp(min=1.0)


def _regularized_ratios(joint: np.ndarray[Any, Any], seen: np.ndarray[Any, Any], delta: float) -> np.ndarray[Any, Any]:
    """Compute argmin_{w >= 0} |joint w - seen| + delta |w - 1|, by iteratively reweighted least squares."""
    # Here, not above: importing the library must not wait for scipy.
    from scipy.optimize import nnls

    size = len(seen)
    penalty, ratios = delta, np.ones(size)
    for _ in range(100):
        root = math.sqrt(penalty)
        update = nnls(np.vstack([joint, root * np.eye(size)]), np.concatenate([seen, np.full(size, root)]))[0]
        moved = np.abs(update - ratios).max()
        ratios = update
        misfit, length = np.linalg.norm(joint @ ratios - seen), np.linalg.norm(ratios - 1.0)
        if moved < 1e-9 or length < 1e-12 or misfit < 1e-12:
            break
        penalty = delta * misfit / length
    return ratios
