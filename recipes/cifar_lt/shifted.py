"""LADE's test sets of other class mixes, and what corrections bring on each."""

import csv
import io
import math

from data import Data
from torch import Tensor

import ltaug
from ltaug import shift_logits
from ltaug.correction import estimate

ESTIMATED = {"estimated": "estimate", "trend": "trend", "center": "center"}
"""Ways to estimate the prior, as the rows of the table and as `--target_prior` call them."""
RATIOS = (50, 25, 10, 5, 2)
SHIFTED = (*(f"forward {ratio}" for ratio in RATIOS), "uniform", *(f"backward {ratio}" for ratio in reversed(RATIOS)))
"""The eleven test sets: as long-tailed as training, uniform, the reverse."""


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


def shifted_accuracy(
    data: Data, logits: Tensor, calibrated: Tensor | None, source: Tensor
) -> dict[str, dict[str, float]]:
    """Top-1 on every shifted test set, by what is known of its class prior.

    none: nothing, the logits as trained. calibrated: likewise, but calibrated, if they are. given: the prior itself.
    estimated: by EM from the unlabelled logits of the test set. trend: likewise, but only how far it leans to the
    classes that training had more of. center: every class, pulled towards the trend. The "kept" rows are the shares of
    what the given prior gains: over calibrated, if there is one, so that calibration's own gain does not count.

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
        priors |= {row: estimate(word, z, source, data.class_counts) for row, word in ESTIMATED.items()}
        rows["none"][name] = top1(logits[chosen], labels)
        if calibrated is not None:
            rows["calibrated"][name] = top1(z, labels)
        for row, prior in priors.items():
            rows[row][name] = top1(shift_logits(z, source, prior), labels)
    for row in ESTIMATED:
        before = rows[unshifted[-1]]
        gains = {name: (rows["given"][name] - before[name], rows[row][name] - before[name]) for name in SHIFTED}
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
