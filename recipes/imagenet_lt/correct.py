"""Correct a run's logits for another class mix, without training: calibrate, estimate, shift."""

import json
import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import ltaug
from ltaug.labelshift import estimate_prior
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    TemperatureScaling,
    VectorScaling,
    search_strength,
    shift_logits,
    strength_curve,
)

ESTIMATES = ("estimate", "trend", "center")
"""Ways to estimate the prior: every class freely; along the training counts; freely, but pulled towards the latter."""
CALIBRATORS = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "bias_corrected": BiasCorrectedTemperatureScaling,
}
LARGEST_STRENGTH = 3.0
"""Of a search; the paper's own largest is 2.1."""


def weights_towards(prior: Tensor, labels: Tensor) -> Tensor:
    """Sample weights under which the classes of a labelled set have another prior; mean 1."""
    counts = ltaug.class_counts(labels, len(prior))
    weights = (prior.double() / counts.clamp(min=1))[labels]
    return weights / weights.mean()


def fit_calibrator(kind: str, logits: Tensor, labels: Tensor, prior: Tensor) -> Callable[[Tensor], Tensor]:
    """Calibration of logits that are under a prior, by a labelled set of any class mix; the result is under it, too."""
    if kind == "none":
        return lambda z: z
    sizes = (logits.shape[1],) if kind != "temperature" else ()
    return CALIBRATORS[kind](*sizes).fit(logits, labels, logits_prior=prior)


def read_prior(word: str, class_names: list[str], class_counts: list[int]) -> Tensor | None:
    """uniform, train, or a JSON file of one number a class, in order or by name; None for what ESTIMATES names. [C]."""
    size = len(class_names)
    if word in ESTIMATES:
        return None
    if word == "uniform":
        return torch.full((size,), 1.0 / size, dtype=torch.float64)
    if word == "train":
        return ltaug.class_prior(class_counts)
    if not Path(word).is_file():
        raise ValueError(
            f"`--target_prior` must be uniform, train, {', '.join(ESTIMATES)} or a JSON file, but is {word!r}."
        )
    try:
        values = json.loads(Path(word).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`--target_prior` {word!r} is not readable as JSON: {error}.") from error
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
    if not isinstance(values, list) or len(values) != size or not all(map(is_positive, values)):
        raise ValueError(
            f"`--target_prior` {word!r} must hold one positive number for each of the {size} classes; one that does "
            "not occur gets a small one, such as 1e-9 of a sum of 1."
        )
    prior = torch.tensor(values, dtype=torch.float64)
    prior = prior / prior.max()  # whose sum cannot overflow
    return prior / prior.sum()


def is_positive(value: object) -> bool:
    """Whether a value of a JSON file is a positive number; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def tuned_strength(
    logits: Tensor, labels: Tensor, source: Tensor, target: Tensor
) -> tuple[float, dict[str, list[float]]]:
    """IC's strength for a target prior: the one with the best accuracy on a labelled set weighted towards it.

    Accuracy on few samples is a ragged curve, so all of it is looked at; it comes second.
    """
    weights = weights_towards(target, labels)

    @cache
    def score(strength: float) -> float:
        hit = shift_logits(logits, source, target, strength).argmax(1) == labels
        return float((weights * hit).sum() / weights.sum())

    strengths, scores = strength_curve(score, limit=LARGEST_STRENGTH)
    return search_strength(score, limit=LARGEST_STRENGTH, method="grid"), {"strengths": strengths, "accuracy": scores}


def estimated_prior(word: str, logits: Tensor, source: Tensor, class_counts: Tensor) -> Tensor:
    """The prior of the samples that unlabelled logits are of, by one of ESTIMATES. [C]."""
    if word == "estimate":
        return estimate_prior(logits, source)
    trend = estimate_prior(logits, source, trend=class_counts.double().log())
    return trend if word == "trend" else estimate_prior(logits, source, center=trend)


def read_strength(word: str) -> float:
    """A number, or what is wrong with it."""
    try:
        strength = float(word)
    except ValueError:
        strength = math.nan
    if not 0.0 <= strength < math.inf:
        raise ValueError(f"`--strength` must be auto or a number from 0, but is {word!r}.")
    return strength


def read_info(path: Path) -> dict:
    """Class names and counts of a run, and the prior that its logits are under."""
    file = path / "ltaug.json"
    info = json.loads(file.read_text()) if file.is_file() else {}
    if info.get("logits_prior") is None:
        raise ValueError(
            f"`{path}` does not say which prior its logits are under (`logits_prior` in ltaug.json), so they cannot be "
            "corrected: classifiers that were computed and not trained have none, unfinished runs not yet."
        )
    return info
