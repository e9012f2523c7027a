"""Metrics, numbers and settings as text."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

METRICS = {
    "top1": ("top-1 accuracy", "test samples whose most probable class is the right one"),
    "top5": ("top-5 accuracy", "test samples whose right class is among the five most probable ones"),
    "many": ("many-shot accuracy", "classes with more than 100 training samples"),
    "medium": ("medium-shot accuracy", "classes with 20 to 100 training samples"),
    "few": ("few-shot accuracy", "classes with fewer than 20 training samples"),
    "balanced_accuracy": ("balanced accuracy", "mean of the classes' accuracies"),
    "macro_f1": ("macro F1", "harmonic mean of a class's precision and recall, mean over classes"),
    "confidence": ("mean confidence", "probability of the predicted class; that of a calibrated model is its accuracy"),
    "ece": ("ECE", "expected calibration error: mean gap between confidence and accuracy"),
    "adaptive_ece": ("adaptive ECE", "the same in bins that hold equally many samples"),
    "mce": ("MCE", "maximum calibration error: largest gap of a confidence bin"),
    "classwise_ece": ("class-wise ECE", "calibration error of every class's probability, mean over classes"),
    "brier": ("Brier score", "squared error of the probabilities, mean over samples; 0 is perfect, 2 the worst"),
    "nll": ("NLL", "negative log-likelihood of the right class, mean over samples, in nats; 0 is perfect"),
    "miou": ("mIoU", "intersection over union of a class's pixels, mean over the classes"),
    "macc": ("mACC", "share of a class's pixels that are found, mean over the classes"),
    "map": ("mAP", "average precision of a label, mean over the labels that test samples have"),
    "f1": ("F1", "harmonic mean of a label's precision and recall at probability 1/2, mean over the same labels"),
    "labelwise_ece": ("label-wise ECE", "calibration error of each label's probability, mean over labels"),
}
"""Name and meaning of every metric, in the order of the pages."""
OF_LABELS = {
    "map": METRICS["map"],
    "f1": METRICS["f1"],
    "many": ("many-shot mAP", "labels with more than 100 training samples"),
    "medium": ("medium-shot mAP", "labels with 20 to 100 training samples"),
    "few": ("few-shot mAP", "labels with fewer than 20 training samples"),
    "labelwise_ece": METRICS["labelwise_ece"],
    "brier": ("Brier score", "squared error of the probabilities, mean over samples and labels; 0 is perfect"),
    "nll": ("NLL", "negative log-likelihood of whether a label is there, mean over samples and labels, in nats"),
    "unscored": ("unscored labels", "without positives in the test set, left out of the means"),
}
"""The same of samples with several labels."""
HIGHER_IS_BETTER = (
    "top1",
    "top5",
    "many",
    "medium",
    "few",
    "balanced_accuracy",
    "macro_f1",
    "miou",
    "macc",
    "map",
    "f1",
)
DECIMALS = {"classwise_ece": 5, "brier": 3, "nll": 3, "unscored": 0}
"""Metrics that are printed as they are, as in the literature; the others are percentages."""
MAX_LETTERS = 300
"""Of a setting: longer ones, such as a list with an entry a class, are cut."""

RUN_COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "ece": "ECE15",
    "mce": "MCE",
    "classwise_ece": "class-wise ECE",
    "brier": "Brier",
    "nll": "NLL",
}
"""Metrics of the tables that are printed, and their heads, to which the tables add units."""
LABEL_COLUMNS = {
    "map": "mAP",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "f1": "F1",
    "labelwise_ece": "label-wise ECE15",
    "brier": "Brier",
    "nll": "NLL",
}
"""The same of samples with several labels."""
PIXEL_COLUMNS = {"miou": "mIoU", "macc": "mACC", "top1": "pixels", "ece": "ECE15", "nll": "NLL"}
"""The same of segmentation."""


def columns_of(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Columns of a table of final metrics: of one class a sample, of several labels, or of both."""
    names = set().union(*results)
    if "miou" in names:
        return PIXEL_COLUMNS
    if "map" not in names:
        return RUN_COLUMNS
    return LABEL_COLUMNS if "top1" not in names else RUN_COLUMNS | LABEL_COLUMNS


def results_table(
    results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], errors: Collection[str] = ()
) -> str:
    """Markdown table of final metrics, a row a run, for the terminal, with a dash for what is missing.

    Args:
        results: metrics by run, as :func:`ltaug.metrics.classification_report` makes them.
        columns: heads by metric, in their order.
        errors: metrics that are accuracies and shown as errors, 1 - accuracy.

    >>> runs = {"erm": {"top1": 0.4, "nll": 2.5}, "bayias": {"top1": 0.45, "nll": None}}
    >>> print(results_table(runs, {"top1": "top-1 error", "nll": "NLL"}, errors=["top1"]))
    |        | top-1 error % | NLL   |
    | ---    | ---:          | ---:  |
    | erm    | 60.0          | 2.500 |
    | bayias | 55.0          | –     |
    """
    lines = [["", *(head + unit(key) for key, head in columns.items())], ["---"] + ["---:"] * len(columns)]
    for name, final in results.items():
        values = ((key, as_number(final.get(key))) for key in columns)
        shown = ((key, 1 - value if value is not None and key in errors else value) for key, value in values)
        lines.append([name, *(percent(value, key) for key, value in shown)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def as_number(value: object) -> float | None:
    """A finite number, also one spelt out, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_whole(value: object) -> int | None:
    """A whole number, also one spelt out, or None."""
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def metric(value: object, key: str = "top1") -> str:
    """A metric as it is shown; a dash for what does not exist, such as the accuracy of an empty shot group."""
    number = as_number(value)
    if number is None:
        return "–"
    return f"{number:.{DECIMALS[key]}f}" if key in DECIMALS else f"{100 * number:.1f} %"


def percent(value: object, key: str = "top1") -> str:
    """The same without its unit, for tables that have it in their heads."""
    return metric(value, key).removesuffix(" %")


def unit(key: str) -> str:
    """The unit of a metric as it stands in the head of a table, with a space before it; empty if it has none."""
    return "" if key in DECIMALS else " %"


def unbroken(head: str) -> str:
    """The head of a column, which is never parted at a hyphen: the 1 of "top-1" has no line of its own."""
    return head.replace("-", "\N{NON-BREAKING HYPHEN}")


def count(number: int, noun: str) -> str:
    """A number with its noun in the right form.

    >>> count(1, "class"), count(8142, "class")
    ('1 class', '8,142 classes')
    """
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def duration(seconds: object) -> str:
    """Hours and minutes; nothing for what is no number.

    >>> duration(9312.4)
    '2 h 35 min'
    """
    number = as_number(seconds)
    if number is None:
        return ""
    if number < 60:
        return f"{number:.1f} s"
    minutes = round(number / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted key, text); a dash for what is not set.

    >>> flat({"set": {"alpha": 0.5}, "out": None})
    [('set.alpha', '0.5'), ('out', '–')]
    """
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{key}.")
        else:
            text = "–" if value is None else str(value)
            pairs.append((f"{prefix}{key}", text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} …"))
    return pairs
