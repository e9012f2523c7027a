"""Corrects finished logits for another class mix: calibrate, estimate, shift, by words as a command line has them."""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.labelshift import estimate_prior
from ltaug.metrics import classification_report
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    TemperatureScaling,
    VectorScaling,
    shift_logits,
    strength_curve,
)
from ltaug.priors import Counts, as_counts, class_counts, class_prior
from ltaug.run import read_json

__all__ = ["CALIBRATORS", "ESTIMATES", "Correction", "add_correction_options", "estimate", "read_logits_prior"]

ESTIMATES = ("estimate", "trend", "center")
"""Ways to estimate a prior: every class freely; along the training counts; freely, but pulled towards the latter."""
CALIBRATORS = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "bias_corrected": BiasCorrectedTemperatureScaling,
}
LARGEST_STRENGTH = 3.0
"""Of a search; the largest of the paper (IC, Tian et al., NeurIPS 2020) is 2.1."""


class Correction:
    """Calibrate logits, then shift them to another prior: what is asked for is checked here, before any data are read.

    Calibrated logits stay under the prior of the model, and the shift is that of :func:`ltaug.shift_logits`,

        z_j + strength * (log target_j - log source_j)

    Args:
        logits_prior: the prior that the logits are under, [C].
        class_counts: training samples a class, [C].
        class_names: C names, those of a file of priors.
        target_prior: what to correct for: "uniform", "train", one of `ESTIMATES` (from the very logits that are
            corrected), a JSON file of a positive number a class, in their order or by name, or the corrected.json of
            another correction; or None: nothing.
        strength: of the shift, a number from 0, or "auto": of 0, 0.1, ..., 3 the best on labelled samples (IC, Tian et
            al., NeurIPS 2020, https://arxiv.org/abs/2010.11820), weighted so that their classes have the target prior;
            of those that are as good within a standard error, the one closest to 1.
        calibrate: one of `CALIBRATORS`, or "none". All three are fitted on labelled samples of any class mix.

    Attributes:
        tunes: whether labelled samples are needed, see :meth:`tune`. Never those whose result is reported.
        logits_prior: as given, float64 [C].
        target: the prior that was last corrected for, float64 [C], or None.
        curve: of "auto", {"strengths": [...], "accuracy": [...]}, or None.

    Raises:
        ValueError: an argument names nothing that is there, or a file of priors has other classes.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])
    >>> correction = Correction([0.9, 0.1], [90, 10], ["cat", "lynx"], target_prior="uniform")
    >>> correction(logits).argmax(1), str(correction)
    (tensor([1, 1, 1]), 'to uniform, strength 1')
    """

    def __init__(
        self,
        logits_prior: Counts,
        class_counts: Counts,
        class_names: Sequence[str],
        target_prior: str | None = None,
        strength: str | float = 1.0,
        calibrate: str = "none",
    ) -> None:
        if calibrate not in ("none", *CALIBRATORS):
            raise ValueError(f"`--calibrate` must be none, {', '.join(CALIBRATORS)}, but is {calibrate!r}.")
        self.logits_prior = class_prior(logits_prior)
        self.class_counts = as_counts(class_counts)
        self.class_names = list(class_names)
        sizes = (len(self.logits_prior), len(self.class_counts), len(self.class_names))
        if len(set(sizes)) > 1:
            raise ValueError(
                f"`logits_prior`, `class_counts` and `class_names` must have one entry a class, but have {sizes[0]}, "
                f"{sizes[1]} and {sizes[2]}."
            )
        if not bool((self.logits_prior > 0).all()):
            raise ValueError("`logits_prior` must be positive: logits under a prior of 0 cannot be shifted from it.")
        if target_prior in ("train", "trend", "center") and not bool((self.class_counts > 0).all()):
            raise ValueError(f"`--target_prior` {target_prior} needs training samples of every class.")
        self.word, self.calibrate_by = target_prior, calibrate
        self.strength = None if strength == "auto" else read_strength(strength)
        self._searches = target_prior is not None and self.strength is None
        self._given = None
        if target_prior is not None and target_prior not in ESTIMATES:
            self._given = read_prior(target_prior, self.class_names, self.class_counts)
        self.tunes = self._searches or calibrate != "none"
        self.target: Tensor | None = None
        self.curve: dict[str, list[float]] | None = None
        self._calibrator: nn.Module | None = None
        self._held_out: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of_run(
        cls,
        run: str | os.PathLike[str],
        target_prior: str | None = None,
        strength: str | None = None,
        calibrate: str = "none",
    ) -> Correction:
        """What the options of :func:`add_correction_options` ask for, for the logits of a run folder.

        Raises:
            ValueError: an option is wrong, or the run does not say which prior its logits are under.
        """
        if strength is not None and target_prior is None:
            raise ValueError("`--strength` is that of a correction: name the prior to correct for, `--target_prior`.")
        strength = strength or "1"
        if strength != "auto":
            read_strength(strength)  # before the folder: it is the mistake of whoever wrote the command
        info = read_logits_prior(run)
        return cls(info["logits_prior"], info["class_counts"], info["class_names"], target_prior, strength, calibrate)

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
        if self.calibrate_by != "none":
            sizes = (len(self.class_names),) if self.calibrate_by != "temperature" else ()
            calibrator = CALIBRATORS[self.calibrate_by](*sizes)
            self._calibrator = calibrator.fit(logits, labels, logits_prior=self.logits_prior)
        self._held_out = (self.calibrate(logits), labels)

    def calibrate(self, logits: Tensor) -> Tensor:
        """The logits, calibrated if that was asked for, [N, C]; under the same prior."""
        if self.calibrate_by == "none":
            return logits
        if self._calibrator is None:
            raise ValueError(f"Calibration by {self.calibrate_by} is not fitted yet: call `tune` first.")
        calibrated: Tensor = self._calibrator(logits)
        return calibrated

    def __call__(self, logits: Tensor) -> Tensor:
        """Calibrated and shifted logits, [N, C]. An estimate of the prior is one of these N samples.

        Raises:
            ValueError: what is asked for needs :meth:`tune` first.
        """
        logits = self.calibrate(logits)
        if self.word is None:
            return logits
        self.target = self._given
        if self.target is None:
            found = estimate(self.word, logits, self.logits_prior, self.class_counts)
            self.target = found.clamp(min=1e-9)  # a class that it finds none of keeps a finite logit
        if self._searches:
            if self._held_out is None:
                raise ValueError('`strength` "auto" is searched on labelled samples: call `tune` first.')
            self.strength, self.curve = tuned_strength(*self._held_out, self.logits_prior, self.target)
        return shift_logits(logits, self.logits_prior, self.target, self.strength or 0.0)

    def __str__(self) -> str:
        calibration = [self.calibrate_by] * (self.calibrate_by != "none")
        if self.word is None:
            return ", ".join(calibration) or "none"
        strength = "auto" if self.strength is None else f"{self.strength:g}"
        return ", ".join([f"to {self.word}", f"strength {strength}", *calibration])

    def evaluate(
        self, logits: Tensor, labels: Tensor, uncorrected: Mapping[str, Any], tuned_on: str | None = None
    ) -> dict[str, Any]:
        """Metrics of corrected test logits, and what made them: the content of a run folder's `corrected.json`.

        Args:
            logits: of the test set, as the model gives them, float [N, C].
            labels: int [N].
            uncorrected: the metrics without a correction.
            tuned_on: what :meth:`tune` was called with, for the reader.
        """
        if self.word == "estimate":
            sys.stderr.write(
                "Note: with many classes or few samples a free estimate may be worse than none; `--target_prior "
                "center` pulls it towards the trend of the training counts, `trend` takes that alone.\n"
            )
        corrected = self(logits)
        own = class_prior(class_counts(labels, len(self.class_names)))
        target = own if self.target is None else self.target
        only_calibrated = None
        if self.word and self.calibrate_by != "none":
            only_calibrated = classification_report(self.calibrate(logits).softmax(1), labels, self.class_counts)
        return {
            "said": str(self),
            "strength": self.strength if self.word else None,
            "strength_curve": self.curve,
            "calibration": self.calibrate_by,
            "tuned_on": tuned_on,
            "class_names": self.class_names,
            "target_prior": self.target,
            "uncorrected": dict(uncorrected),
            "calibrated": only_calibrated,
            "final": classification_report(corrected.softmax(1), labels, self.class_counts),
            "top1_on_target": {
                "uncorrected": weighted_accuracy(logits, labels, target),
                "corrected": weighted_accuracy(corrected, labels, target),
            },
        }

    def table_rows(self, method: str, found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """What :meth:`evaluate` found, as rows of :func:`ltaug.report.results_table`."""
        rows = {method: found["uncorrected"], f"{method} ({self.calibrate_by})": found["calibrated"]}
        rows[f"{method} ({self})"] = found["final"]
        return {name: metrics for name, metrics in rows.items() if metrics is not None}

    def on_target(self, found: Mapping[str, Any]) -> str:
        """What :meth:`evaluate` found of a test set of the class mix that is corrected for, in a sentence."""
        if not self.word:
            return ""
        before, after = (100 * found["top1_on_target"][name] for name in ("uncorrected", "corrected"))
        return f"Weighted to the class mix that is corrected for, top-1 is {after:.1f} %, and {before:.1f} % without."


def add_correction_options(parser: ArgumentParser, *, tuning: bool = True) -> None:
    """The options of :meth:`Correction.of_run`, for a command line: `--target_prior`, `--strength`, `--calibrate`.

    Args:
        parser: gets them.
        tuning: False where there are no samples to tune on: no `auto`, no `--calibrate`.
    """
    parser.add_argument(
        "--target_prior",
        help="correct for: uniform, train, a JSON file, or estimate, trend, center (from the test logits)",
    )
    auto = ", or auto" if tuning else ""
    parser.add_argument("--strength", help=f"of the correction: a number{auto} (default: 1)")
    if tuning:
        parser.add_argument("--calibrate", choices=("none", *CALIBRATORS), default="none", help="before the correction")


def read_logits_prior(run: str | os.PathLike[str]) -> dict[str, Any]:
    """`ltaug.json` of a run folder: `class_names`, `class_counts`, and `logits_prior`, which must be there.

    Raises:
        ValueError: it is not: the run is not finished, or its classifier was computed and not trained.
    """
    file = Path(run) / "ltaug.json"
    info = read_json(file) if file.is_file() else {}
    if info.get("logits_prior") is None:
        raise ValueError(
            f"`{run}` does not say which prior its logits are under (`logits_prior` in ltaug.json), so they cannot be "
            "corrected: classifiers that were computed and not trained have none, unfinished runs not yet."
        )
    return info


def read_prior(word: str, class_names: Sequence[str], counts: Tensor) -> Tensor:
    """uniform, train, or a JSON file of one positive number a class, in order or by name. float64 [C], sum 1.

    Raises:
        ValueError: it is none of them, or the file lacks a class or has another one.
    """
    size = len(class_names)
    if word == "uniform":
        return torch.full((size,), 1.0 / size, dtype=torch.float64)
    if word == "train":
        return class_prior(counts)
    if not Path(word).is_file():
        raise ValueError(
            f"`--target_prior` must be uniform, train, {', '.join(ESTIMATES)} or a JSON file, but is {word!r}."
        )
    try:
        values = json.loads(Path(word).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`--target_prior` {word!r} is not readable as JSON: {error}.") from error
    if isinstance(values, dict) and "target_prior" in values and "class_names" in values:  # of a corrected.json
        values = dict(zip(values["class_names"], values["target_prior"] or [], strict=False))
    if isinstance(values, dict):
        if missing := [name for name in class_names if name not in values]:
            raise ValueError(
                f"`--target_prior` {word!r} has no number for {missing[0]!r} ({len(missing)} are missing)."
            )
        if surplus := [name for name in values if name not in class_names]:
            raise ValueError(
                f"`--target_prior` {word!r} has a number for {surplus[0]!r}, which is no class of this run "
                f"({len(surplus)} are too many)."
            )
        values = [values[name] for name in class_names]
    if not isinstance(values, list) or len(values) != size or not all(map(_is_positive, values)):
        there = f"but holds {len(values)}" if isinstance(values, list) and len(values) != size else "but does not"
        raise ValueError(
            f"`--target_prior` {word!r} must hold one positive number for each of the {size} classes, {there}; one "
            "that does not occur gets a small one, such as 1e-9 of a sum of 1."
        )
    prior = torch.tensor(values, dtype=torch.float64)
    prior = prior / prior.max()  # whose sum cannot overflow
    return prior / prior.sum()


def estimate(way: str, logits: Tensor, logits_prior: Tensor, class_counts: Tensor) -> Tensor:
    """The prior of the samples that unlabelled logits are of, by :func:`ltaug.labelshift.estimate_prior`.

    Args:
        way: one of `ESTIMATES`: "estimate", every class freely; "trend", prior ~ n^t with the training counts n, a
            single number; "center", every class, but pulled towards the trend.
        logits: float [N, C].
        logits_prior: the prior that they are under, [C].
        class_counts: training samples a class, [C].

    Returns:
        float64 [C], sum 1.
    """
    if way not in ESTIMATES:
        raise ValueError(f"`way` must be one of {', '.join(ESTIMATES)}, but is {way!r}.")
    if way == "estimate":
        return estimate_prior(logits, logits_prior)
    trend = estimate_prior(logits, logits_prior, trend=class_counts.double().log())
    return trend if way == "trend" else estimate_prior(logits, logits_prior, center=trend)


def tuned_strength(
    logits: Tensor, labels: Tensor, source: Tensor, target: Tensor
) -> tuple[float, dict[str, list[float]]]:
    """The strength with the best accuracy on a labelled set weighted towards a target prior, and that of all others.

    Accuracy on few samples is a ragged and often flat curve. So every strength of the grid is looked at, and of those
    within a standard error of the best, that of the difference on the same samples, the one closest to 1 is taken,
    Bayes' rule.
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
    """Top-1 accuracy on a labelled set, weighted so that its classes have another prior, but for those it lacks."""
    return float((_weights_towards(prior, labels) * (logits.argmax(1) == labels)).sum())


def _weights_towards(prior: Tensor, labels: Tensor) -> Tensor:
    """Sample weights under which the classes of a labelled set have another prior; they sum to 1."""
    counts = class_counts(labels, len(prior))
    weights = (prior.double() / counts.clamp(min=1))[labels]
    return weights / weights.sum()


def read_strength(value: str | float) -> float:
    """A strength that is not to be searched.

    Raises:
        ValueError: it is no number from 0.
    """
    try:
        strength = float(value)
    except (TypeError, ValueError):
        strength = math.nan
    if not 0.0 <= strength < math.inf:
        raise ValueError(f"`--strength` must be auto or a number from 0, but is {value!r}.")
    return strength


def _is_positive(value: object) -> bool:
    """Whether a value of a JSON file is a positive number; `true` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
