"""Correct a run's logits for another class mix, without training: calibrate, estimate, shift.

Whatever is tuned is tuned on samples of the training split that training did not use, never on the test set that is
reported.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from data import LEFT_OVER_PER_CLASS, Data
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

ESTIMATED = {"estimated": "estimate", "trend": "trend", "center": "center"}
"""Ways to estimate the prior: every class freely; along the training counts; freely, but pulled towards the latter.
The rows of a table, and what `--target_prior` calls them."""
ESTIMATES = tuple(ESTIMATED.values())
CALIBRATORS = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "bias_corrected": BiasCorrectedTemperatureScaling,
}
LARGEST_STRENGTH = 3.0
"""Of a search; the paper's own largest is 2.1."""
RATIOS = (50, 25, 10, 5, 2)
SHIFTED = (*(f"forward {ratio}" for ratio in RATIOS), "uniform", *(f"backward {ratio}" for ratio in reversed(RATIOS)))
"""LADE's eleven test sets: as long-tailed as training, uniform, the reverse."""


def held_out_note(data: Data, held_out_per_class: int) -> str:
    """What was tuned on, for whoever reads the numbers."""
    if held_out_per_class:
        return (
            f"{len(data.held_out_labels)} samples of the training split that training did not use "
            f"(`held_out_per_class`: {held_out_per_class} of each of the {len(data.class_counts)} classes)"
        )
    counts = ltaug.class_counts(data.held_out_labels, len(data.class_counts))
    classes = int((counts > 0).sum())
    blind = [name for name, count in zip(data.class_names, counts.tolist(), strict=True) if not count]
    # Such a class loses unseen what the others gain: a searched strength comes out too large.
    warning = f"; none of {', '.join(blind[:3])}, whose errors a searched strength does not see" if blind else ""
    return (
        f"{len(data.held_out_labels)} samples of the training split that training did not use ({classes} of "
        f"{len(data.class_counts)} classes, up to {LEFT_OVER_PER_CLASS} each{warning})"
    )


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


def shifted_sets(data: Data) -> dict[str, Tensor]:
    """Indices of LADE's test sets, each drawn from the balanced one."""
    size = int(ltaug.class_counts(data.test_labels).min())
    sets = {}
    for name in SHIFTED:
        direction, _, ratio = name.partition(" ")
        # Of ratio 1 either direction is the whole balanced set.
        direction = "forward" if direction == "uniform" else direction
        counts = ltaug.shifted_counts(size, data.class_counts, float(ratio or 1), direction)
        sets[name] = ltaug.subsample(data.test_labels, counts, seed=0)
    return sets


def estimated_prior(word: str, logits: Tensor, source: Tensor, class_counts: Tensor) -> Tensor:
    """The prior of the samples that unlabelled logits are of, by one of ESTIMATES. [C]."""
    if word == "estimate":
        return estimate_prior(logits, source)
    trend = estimate_prior(logits, source, trend=class_counts.double().log())
    return trend if word == "trend" else estimate_prior(logits, source, center=trend)


def shifted_accuracy(
    data: Data, logits: Tensor, calibrated: Tensor | None, source: Tensor
) -> dict[str, dict[str, float]]:
    """Top-1 on every shifted test set, by what is known of its class prior.

    none: nothing, the logits as trained. calibrated: likewise, but calibrated, if they are. given: the prior itself.
    estimated: by EM from the unlabelled logits of the test set. trend: likewise, but only how far it leans to the
    classes that training had more of. center: every class, pulled towards the trend. The "kept" rows are the shares of
    what the given prior gains over none.

    Args:
        data: whose test set it is.
        logits: of the test set, as the model gives them, [N, C].
        calibrated: the same, calibrated, which the corrections then start from; None if they are not.
        source: the prior that they are under, [C].
    """
    unshifted = ("none",) if calibrated is None else ("none", "calibrated")
    rows: dict[str, dict[str, float]] = {name: {} for name in (*unshifted, "given", *ESTIMATED)}
    start = logits if calibrated is None else calibrated
    for name, chosen in shifted_sets(data).items():
        labels, z = data.test_labels[chosen], start[chosen]
        priors = {"given": ltaug.class_counts(labels, len(source)).double().clamp(min=0.5)}
        priors |= {row: estimated_prior(word, z, source, data.class_counts) for row, word in ESTIMATED.items()}
        rows["none"][name] = top1(logits[chosen], labels)
        if calibrated is not None:
            rows["calibrated"][name] = top1(z, labels)
        for row, prior in priors.items():
            rows[row][name] = top1(shift_logits(z, source, prior), labels)
    for row in ESTIMATED:
        gains = {
            name: (rows["given"][name] - rows["none"][name], rows[row][name] - rows["none"][name]) for name in SHIFTED
        }
        # A share of less than a point is noise.
        rows[f"{row}, kept"] = {name: mine / gain if gain > 0.01 else math.nan for name, (gain, mine) in gains.items()}
    return rows


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of the samples whose largest logit is that of their class."""
    return float((logits.argmax(1) == labels).double().mean())


def shifted_logits(row: str, calibration: str) -> str:
    """The logits that a row of :func:`shifted_accuracy` starts from; "none" knows nothing of a calibration."""
    return "as trained" if "none" in (row, calibration) else calibration


def shifted_markdown(rows: dict[str, dict[str, float]], calibration: str) -> str:
    """The table of :func:`shifted_accuracy`, in percent; F is forward, U uniform, B backward."""
    heads = [name[0].upper() + name.partition(" ")[2] for name in SHIFTED]
    lines = [["prior", "logits", *heads], ["---", "---"] + ["---:"] * len(SHIFTED)]
    for row, values in rows.items():
        digits = 0 if "kept" in row else 1
        cells = ("–" if math.isnan(value) else f"{100 * value:.{digits}f}" for value in values.values())
        lines.append([row, shifted_logits(row, calibration), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shifted_csv(rows: dict[str, dict[str, float]], calibration: str) -> str:
    """The same as CSV, in fractions."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["prior", "logits", *SHIFTED])
    for row, values in rows.items():
        cells = ("" if math.isnan(value) else f"{value:.6f}" for value in values.values())
        writer.writerow([row, shifted_logits(row, calibration), *cells])
    return text.getvalue()
