"""Correction of finished logits for another class mix: calibrate, estimate the mix, shift. Tensors in, tensors out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.labelshift import estimate_prior
from ltaug.longtail import shifted_sets
from ltaug.metrics import classification_report
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    TemperatureScaling,
    VectorScaling,
    shift_logits,
    strength_curve,
)
from ltaug.priors import Counts, as_counts, class_counts, class_prior

__all__ = [
    "CALIBRATORS",
    "ESTIMATES",
    "KNOWN_OF_THE_MIX",
    "Correction",
    "prior_estimators",
    "shifted_accuracy",
    "tuned_strength",
]

PriorEstimator = Callable[[Tensor, Tensor], Tensor]
"""Estimates a class prior [C] from unlabelled logits [N, C] and the prior that they are under [C]."""
CALIBRATORS: dict[str, Callable[[int], nn.Module]] = {
    "temperature": lambda num_classes: TemperatureScaling(),
    "vector": VectorScaling,
    "bias_corrected": BiasCorrectedTemperatureScaling,
}
"""What makes a calibrator for so many classes, by name."""
ESTIMATES = ("estimate", "trend", "center")
"""Names of the ways to estimate a prior, see :func:`prior_estimators`."""
KNOWN_OF_THE_MIX = {
    "none": "nothing is known of the test set's class mix: the logits as trained",
    "calibrated": "nothing is known of it, but the logits are calibrated",
    "given": "the mix is known",
    "estimated": "it is estimated from the unlabelled test samples, every class freely",
    "trend": "it is estimated, but only how far it leans to the classes that training had more of",
    "center": "it is estimated, every class freely, but pulled towards the trend",
    "kept": "share of what the given mix gains, where that exceeds a point",
}
"""Rows of :func:`shifted_accuracy` and what they mean; "kept" ends the names of several."""
LARGEST_STRENGTH = 3.0
"""End of the search for a strength; the largest of the paper (IC, Tian et al., NeurIPS 2020) is 2.1."""


class Correction:
    """Calibrate logits, then shift them to another class prior.

    Calibrated logits stay under the prior of the model, and the shift is that of :func:`ltaug.shift_logits`,

        z_j + strength * (log target_j - log source_j)

    Args:
        logits_prior: prior that the logits are under, [C].
        target_prior: prior to correct for, [C]; or an estimator, which is asked for the prior of the very logits that
            are corrected, see :func:`prior_estimators`; or None for no shift.
        strength: of the shift, from 0; or None: of 0, 0.1, ..., 3 the best on the labelled samples of :meth:`tune`
            (IC, Tian et al., NeurIPS 2020, https://arxiv.org/abs/2010.11820), weighted so that their classes have the
            target prior; of those that are as good within a standard error, the one closest to 1.
        calibrator: one of :mod:`ltaug.posthoc`, fitted by :meth:`tune`; or None.

    Attributes:
        tunes: whether labelled samples are needed, see :meth:`tune`. Never those whose result is reported.
        target: prior that was last corrected for, float64 [C], or None.
        strength: as given, or as last searched.
        curve: of a search, {"strengths": [...], "accuracy": [...]}, or None.

    Raises:
        ValueError: a prior is not positive, or has another number of classes; a strength is negative.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])
    >>> correction = Correction([0.9, 0.1], target_prior=[0.5, 0.5])
    >>> correction(logits).argmax(1)
    tensor([1, 1, 1])
    """

    def __init__(
        self,
        logits_prior: Counts,
        target_prior: Counts | PriorEstimator | None = None,
        strength: float | None = 1.0,
        calibrator: nn.Module | None = None,
    ) -> None:
        self.logits_prior = _positive_prior(logits_prior, "logits_prior")
        self.target_prior = target_prior
        if target_prior is not None and not callable(target_prior):
            self.target_prior = _positive_prior(target_prior, "target_prior")
            if len(self.target_prior) != len(self.logits_prior):
                raise ValueError(
                    f"`target_prior` must have one number a class, {len(self.logits_prior)} as `logits_prior`, but has "
                    f"{len(self.target_prior)}."
                )
        if strength is not None and not 0.0 <= strength < math.inf:
            raise ValueError(f"`strength` must be None or a number from 0, but is {strength!r}.")
        self.strength = strength
        self.calibrator = calibrator
        self._searches = target_prior is not None and strength is None
        self.tunes = self._searches or calibrator is not None
        self.target: Tensor | None = None
        self.curve: dict[str, list[float]] | None = None
        self._held_out: tuple[Tensor, Tensor] | None = None

    def tune(self, logits: Tensor, labels: Tensor) -> None:
        """Fit the calibrator, and keep what a strength is searched on: labelled samples that nothing was trained on.

        Args:
            logits: as the model gives them, float [N, C].
            labels: int [N], of any class mix.

        Raises:
            ValueError: there are none.
        """
        if not len(labels):
            raise ValueError("`labels` must be those of held-out samples, but there are none to tune on.")
        if self.calibrator is not None:
            self.calibrator.fit(logits, labels, logits_prior=self.logits_prior)  # type: ignore[operator]
        self._held_out = (logits if self.calibrator is None else self.calibrator(logits), labels)

    def calibrate(self, logits: Tensor) -> Tensor:
        """Calibrated logits, [N, C], under the same prior; the same logits where there is no calibrator.

        Raises:
            ValueError: the calibrator is not fitted yet, see :meth:`tune`.
        """
        if self.calibrator is None:
            return logits
        if self._held_out is None:
            raise ValueError("The calibrator is not fitted yet: call `tune` first.")
        calibrated: Tensor = self.calibrator(logits)
        return calibrated

    def __call__(self, logits: Tensor) -> Tensor:
        """Calibrated and shifted logits, [N, C]. An estimated prior is that of these N samples.

        Raises:
            ValueError: what is asked for needs :meth:`tune` first.
        """
        logits = self.calibrate(logits)
        if self.target_prior is None:
            return logits
        if callable(self.target_prior):
            found = self.target_prior(logits, self.logits_prior)
            self.target = found.clamp(min=1e-9)  # a class that it finds none of keeps a finite logit
        else:
            self.target = torch.as_tensor(self.target_prior)
        if self._searches:
            if self._held_out is None:
                raise ValueError("`strength` None is searched on labelled samples: call `tune` first.")
            self.strength, self.curve = tuned_strength(*self._held_out, self.logits_prior, self.target)
        return shift_logits(logits, self.logits_prior, self.target, self.strength or 0.0)

    def evaluate(self, logits: Tensor, labels: Tensor, class_counts: Counts) -> dict[str, Any]:
        """Correct labelled test logits, and compare them with what they were.

        Args:
            logits: of the test set, as the model gives them, float [N, C].
            labels: int [N].
            class_counts: training samples a class, [C], of which shot groups are made.

        Returns:
            Metrics by name, each a mapping as :func:`ltaug.metrics.classification_report` returns it: `uncorrected`,
            `calibrated` (None where nothing is both calibrated and shifted) and `final`. `top1_on_target`: accuracy
            `uncorrected` and `corrected`, with the test samples weighted to the target prior; as they are where that
            was estimated from them, since weighted to itself even a wrong estimate looks right. `target_prior`,
            `strength`, `strength_curve`: what was corrected for, and how.
        """
        counts = as_counts(class_counts)
        corrected = self(logits)
        target = self.target
        if target is None or callable(self.target_prior):
            target = class_prior(_counts(labels, len(self.logits_prior)))
        both = self.target_prior is not None and self.calibrator is not None
        return {
            "target_prior": self.target,
            "strength": None if self.target_prior is None else self.strength,
            "strength_curve": self.curve,
            "uncorrected": classification_report(logits.softmax(1), labels, counts),
            "calibrated": classification_report(self.calibrate(logits).softmax(1), labels, counts) if both else None,
            "final": classification_report(corrected.softmax(1), labels, counts),
            "top1_on_target": {
                "uncorrected": weighted_accuracy(logits, labels, target),
                "corrected": weighted_accuracy(corrected, labels, target),
            },
        }


def prior_estimators(class_counts: Counts) -> dict[str, PriorEstimator]:
    """Ways to estimate the class prior of unlabelled logits, by :func:`ltaug.labelshift.estimate_prior`.

    ========== ========================================================================================================
    "estimate" every class freely; with many classes or few samples this may be worse than no correction
    "trend"    prior ~ n^t with the training counts n: a single number
    "center"   every class, but pulled towards the trend
    ========== ========================================================================================================

    Args:
        class_counts: training samples a class, [C], each at least 1 for "trend" and "center".

    >>> estimate = prior_estimators([90, 10])["trend"]
    >>> estimate(torch.tensor([[0.0, 2.0]] * 9 + [[2.0, 0.0]]), torch.tensor([0.9, 0.1])).argmax()
    tensor(1)
    """
    counts = as_counts(class_counts)

    def log_counts() -> Tensor:
        if not bool((counts > 0).all()):
            k = int((counts <= 0).nonzero()[0, 0])
            raise ValueError(
                f"A trend along the training counts needs training samples of every class, but class {k} has none."
            )
        return counts.double().log()

    def trend(logits: Tensor, logits_prior: Tensor) -> Tensor:
        return estimate_prior(logits, logits_prior, trend=log_counts())

    def center(logits: Tensor, logits_prior: Tensor) -> Tensor:
        return estimate_prior(logits, logits_prior, center=trend(logits, logits_prior))

    return dict(zip(ESTIMATES, (functools.partial(estimate_prior), trend, center), strict=True))


def shifted_accuracy(
    logits: Tensor, labels: Tensor, class_counts: Counts, logits_prior: Counts, calibrated: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Top-1 on LADE's test sets of other class mixes (:func:`ltaug.longtail.shifted_sets`), by what is known of each.

    The rows are those of :data:`KNOWN_OF_THE_MIX`, "calibrated" only if ``calibrated`` is given.

    Args:
        logits: of a balanced test set, as the model gives them, [N, C].
        labels: int [N].
        class_counts: training samples a class, [C].
        logits_prior: prior that the logits are under, [C].
        calibrated: the same logits, calibrated, which the corrections then start from.

    Returns:
        Accuracy by these names and by test set; and in rows "estimated, kept" and so on, which share of what the given
        prior gains an estimate keeps (over calibrated logits, if there are any, so that calibration's own gain does not
        count), NaN where that gain is below a point, so that the share would be noise.
    """
    counts, source = as_counts(class_counts), class_prior(logits_prior)
    start = logits if calibrated is None else calibrated
    names = {"estimated": "estimate", "trend": "trend", "center": "center"}
    estimators = prior_estimators(counts)
    accuracy: dict[str, dict[str, float]] = {"none": {}}
    if calibrated is not None:
        accuracy["calibrated"] = {}
    accuracy |= {row: {} for row in ("given", *names)}
    sets = shifted_sets(labels, counts)
    for name, chosen in sets.items():
        mine, z = labels[chosen], start[chosen]
        accuracy["none"][name] = _top1(logits[chosen], mine)
        if calibrated is not None:
            accuracy["calibrated"][name] = _top1(z, mine)
        # A class without test samples keeps a finite logit.
        accuracy["given"][name] = _top1(shift_logits(z, source, _counts(mine, len(source)).clamp(min=0.5)), mine)
        for row, estimator in names.items():
            accuracy[row][name] = _top1(shift_logits(z, source, estimators[estimator](z, source)), mine)
    before = accuracy["none" if calibrated is None else "calibrated"]
    for row in names:
        gains = {name: (accuracy["given"][name] - before[name], accuracy[row][name] - before[name]) for name in sets}
        accuracy[f"{row}, kept"] = {
            name: own / gain if gain > 0.01 else math.nan for name, (gain, own) in gains.items()
        }
    return accuracy


def tuned_strength(
    logits: Tensor, labels: Tensor, source: Tensor, target: Tensor
) -> tuple[float, dict[str, list[float]]]:
    """Search the strength with the best accuracy on a labelled set weighted towards a target prior.

    Accuracy on few samples is a ragged and often flat curve. So every strength of the grid is scored, and of those
    within a standard error of the best, that of the difference on the same samples, the one closest to 1 is taken,
    which is Bayes' rule.

    Args:
        logits: [N, C].
        labels: int [N].
        source: prior that the logits are under, [C].
        target: prior to correct for, [C].

    Returns:
        The strength, and {"strengths": [...], "accuracy": [...]} of the whole grid.
    """
    weights = _weights_towards(target, labels)
    hits: dict[float, Tensor] = {}

    def score(strength: float) -> float:
        hits[strength] = (shift_logits(logits, source, target, strength).argmax(1) == labels).double()
        return float((weights * hits[strength]).sum())

    strengths, accuracy = strength_curve(score, limit=LARGEST_STRENGTH)
    best = strengths[max(range(len(strengths)), key=accuracy.__getitem__)]
    gaps = {strength: weights * (hits[best] - hit) for strength, hit in hits.items()}
    as_good = [strength for strength, gap in gaps.items() if float(gap.sum()) <= float(gap.square().sum().sqrt())]
    chosen = min(as_good, key=lambda strength: (abs(strength - 1.0), strength))
    return chosen, {"strengths": strengths, "accuracy": accuracy}


def weighted_accuracy(logits: Tensor, labels: Tensor, prior: Tensor) -> float:
    """Top-1 accuracy on a labelled set, weighted so that the classes it has follow another prior."""
    return float((_weights_towards(prior, labels) * (logits.argmax(1) == labels)).sum())


def _weights_towards(prior: Tensor, labels: Tensor) -> Tensor:
    """Sample weights under which the classes of a labelled set have another prior; they sum to 1."""
    weights = (prior.double() / _counts(labels, len(prior)).clamp(min=1))[labels]
    return weights / weights.sum()


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return class_counts(labels, num_classes).double()


def _positive_prior(values: Counts, name: str) -> Tensor:
    prior = class_prior(values)
    if not bool((prior > 0).all()):
        raise ValueError(f"`{name}` must be positive: logits cannot be shifted from or to a prior of 0.")
    return prior


def _top1(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
