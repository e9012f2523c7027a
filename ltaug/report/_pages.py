"""Fills the templates: what of a run, or of several, stands where on a page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from ltaug import plots
from ltaug.correction import ESTIMATES, KNOWN_OF_THE_MIX
from ltaug.priors import shot_groups
from ltaug.report import _figures as figures
from ltaug.report._figures import Picture, draw
from ltaug.report._format import (
    HIGHER_IS_BETTER,
    METRICS,
    OF_LABELS,
    as_number,
    columns_of,
    count,
    duration,
    flat,
    metric,
    percent,
    unbroken,
    unit,
)
from ltaug.report._old import SHIFTED
from ltaug.report._record import Record, differing_data
from ltaug.run import write_atomically
from ltaug.tables import parameters_in_words, run_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARDS = {"top1": "top-1", "map": "mAP", "many": "many-shot", "medium": "medium-shot", "few": "few-shot", "ece": "ECE"}
TABLE_ROWS = 10
SIDE_BY_SIDE, SIDE_BY_SIDE_BYTES = 6, 10**9
"""Runs whose test logits a comparison holds at once, at most, and bytes of them."""
MOST_DRAWN, BEST, WORST = 28, 8, 4
"""Runs that figures can tell apart; of more they show the best and the worst, and settings have a column each."""
NAMES_OF_SETTINGS = ("method", "out")
"""Settings that name a run: a comparison's tables name the runs already."""


def write_report(run_dir: str | os.PathLike[str], sections: Iterable[tuple[str, str]] = ()) -> Path:
    """Write ``report.html`` into a run folder: headline numbers, figures, worst and best classes, and how it was made.

    What the folder lacks, because the run is still going on or was broken off, the page says in words.

    Args:
        run_dir: a folder as :class:`ltaug.run.RunFolder` writes it; every file in it is optional. If the run was
            corrected for another class mix, the page shows that too.
        sections: more sections, as pairs of a title, which is text, and the HTML below it; they stand after the
            figures. The HTML enters the page as it is: make it with :func:`figure_html`, and put what comes from data
            through :func:`html.escape`. They are kept in ``sections.json``; a call without any shows the kept ones.

    Returns:
        The path of the page. Its content policy lets it load nothing and run nothing, whatever the sections hold.

    Raises:
        FileNotFoundError: there is no such folder.

    >>> import tempfile
    >>> write_report(tempfile.mkdtemp()).name
    'report.html'
    """
    run = Record(Path(run_dir))
    kept, sections = run.path / "sections.json", list(sections)
    if sections:
        write_atomically(kept, json.dumps(sections))
    elif kept.is_file():
        sections = _kept_sections(kept)
    page = _templates().get_template("page.html.j2")
    text = page.render(
        title=run.name,
        run=run,
        facts=_facts(run),
        cards=[(key, label, metric(run.final[key], key)) for key, label in CARDS.items() if key in run.final],
        tables=_metric_tables(run),
        figures=_figures(run),
        sections=[(title, Markup(html)) for title, html in sections],
        correction=_correction(run),
        classes=_classes(run),
        subset=_subset(run),
    )
    path = run.path / "report.html"
    write_atomically(path, text)
    return path


def _kept_sections(path: Path) -> list[tuple[str, str]]:
    """Sections of an earlier call, or in their place why they cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(text, str) for title, html in found for text in (title, html)):
            raise ValueError("it must hold pairs of texts")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        words = Markup("<p><code>{}</code> could not be read ({}). Evaluate the run again to make it anew.</p>")
        return [("Sections of the data", words.format(path.name, error))]
    return [(title, html) for title, html in found]


def write_comparison(
    run_dirs: Iterable[str | os.PathLike[str]], path: str | os.PathLike[str], title: str = "Comparison of runs"
) -> Path:
    """Write one HTML page that puts several runs side by side.

    Args:
        run_dirs: folders of runs, in the order to show them; a run still going on enters with its last evaluated epoch.
        path: the page to write.
        title: its heading.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: a run folder does not exist.
        ValueError: no folder is given.
    """
    folders = [Path(run_dir) for run_dir in run_dirs]
    files = [file for folder in folders if (file := folder / "logits.safetensors").is_file()]
    few = len(folders) <= SIDE_BY_SIDE and sum(file.stat().st_size for file in files) <= SIDE_BY_SIDE_BYTES
    runs = [Record(folder, keep_logits=few) for folder in folders]
    if not runs:
        raise ValueError("`run_dirs` is empty. Pass at least one run folder.")
    path, records = Path(path), dict(zip(run_labels(folders), runs, strict=True))
    columns = columns_of(run.final for run in runs)
    keys = [key for key in columns if any(key in run.final for run in runs)]
    drawn = _drawn(records)
    page = _templates().get_template("comparison.html.j2")
    text = page.render(
        title=title,
        trained_on=list(dict.fromkeys(run.training_set for run in runs if run.training_set)),
        heads=["run", *(columns[key] + unit(key) for key in keys), *COSTS],
        rows=_comparison_rows(records, keys, path),
        differing_data=differing_data(records),
        damaged={name: text for name, run in records.items() if (text := run.damaged(*run.problems))},
        figures=_comparison_figures(drawn),
        drawn=len(drawn) if len(drawn) < len(records) else 0,
        best_and_worst=(BEST, WORST),
        panels=_side_by_side(records),
        corrections=_comparison_corrections(records),
        shifted={name: run.shifted for name, run in drawn.items() if run.shifted.rows},
        settings=_differing_settings(records),
        has_settings=all(run.config for run in runs),
    )
    write_atomically(path, text)
    return path


def write_fusion(fusion: Any, path: str | os.PathLike[str], published: Sequence[str] = ()) -> Path:
    """Write one HTML page of a fusion of modalities: tables, trust by condition, scenes side by side.

    Args:
        fusion: a :class:`ltaug.commands.fuse.RunFusion`.
        path: the page to write.
        published: lines on published numbers.

    Returns:
        The path of the page.
    """
    heads, rows = fusion.table()
    shown = [name for name in (*fusion.names, "SoftAve", "UNO", "UNO-IC") if name in fusion.results]
    accuracy = {name: fusion.class_accuracy[name] for name in shown}
    found = ", ".join(f"{name} {value:g}" for name, value in fusion.strengths.items())
    text = (
        _templates()
        .get_template("fusion.html.j2")
        .render(
            title=f"{' and '.join(fusion.names)}, fused" if len(fusion.names) > 1 else fusion.names[0],
            facts=[count(len(fusion.names), "run"), f"lambda: {found}", *(run.path.name for run in fusion.runs)],
            heads=heads,
            rows=rows,
            calibration=fusion.table(["ece"])[1],
            published=published,
            accuracy=draw(plots.accuracy_by_pixel_share, accuracy, fusion.counts, class_names=fusion.classes),
            trust=draw(plots.trust_by_condition, fusion.trust),
            scenes={
                name: draw(plots.segmented_scene, fusion.example(name), fusion.classes, ignore_index=fusion.void)
                for name in ("test", *fusion.unseen)
            },
        )
    )
    target = Path(path)
    write_atomically(target, text)
    return target


def figure_html(figure: Figure, *, alt: str, caption: str, html: str = "") -> str:
    """A card with a picture for a section of :func:`write_report`; cards in ``<div class=figures>`` stand side by side.

    Args:
        figure: what to show; the page carries it, as SVG or PNG, whichever suits it.
        alt: what it shows, for whoever cannot see it.
        caption: text below the picture.
        html: more HTML between the picture and its caption, such as a player of :func:`ltaug.audio.audio_html`.

    >>> from ltaug.plots import class_counts
    >>> figure_html(class_counts([50, 5]), alt="Two bars.", caption="Samples a class.")[:37]
    '<figure><img src="data:image/svg+xml;'
    """
    pieces: Any = _templates().get_template("pieces.html.j2").module
    return str(pieces.card(figures.encode(figure), alt, caption, Markup(html)))


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"count": count, "flat": flat, "metric": metric, "percent": percent, "unbroken": unbroken}
    return found


# A run's page


def _facts(run: Record) -> list[str]:
    """What kind of run it was, for the line below its name."""
    summary = {key: value for key, value in run.summary.items() if value not in (None, "")}
    labels = {"model": "model", "first_stage": "first stage", "epochs": "epochs", "seed": "seed"}
    facts = [run.training_set] if run.training_set else []
    facts += [f"{label} {summary[key]}" for key, label in labels.items() if summary.get(key) is not None]
    trained = duration(run.summary.get("wall_time_s"))
    return [*facts, f"trained in {trained}"] if trained else facts


def _metric_tables(run: Record) -> dict[str, list[tuple[str, str, str]]]:
    """Rows of label, meaning and value, by the title of their table."""
    final, summary = run.final, run.summary
    names = OF_LABELS if run.several else METRICS
    known = [(key, *words, metric(final[key], key)) for key, words in names.items() if key in final]
    tables = {
        "Accuracy": [row for key, *row in known if key in HIGHER_IS_BETTER],
        "Calibration": [row for key, *row in known if key not in HIGHER_IS_BETTER],
        "Cost": [],
    }
    costs = (
        ("parameters", "parameters", "trainable parameters", lambda number: f"{number:,.0f}"),
        ("wall_time_s", "training time", "wall clock", duration),
        ("samples_per_second", "speed", "training samples a second", lambda number: f"{number:,.0f} / s"),
        ("peak_memory_bytes", "peak memory", "of the main process", lambda number: f"{number / 2**30:.2f} GiB"),
    )
    for key, label, meaning, form in costs:
        if (number := as_number(summary.get(key))) is not None:
            tables["Cost"].append([label, meaning, form(number)])
    others = {key: as_number(value) for key, value in final.items() if key not in names}
    tables["Other metrics"] = [[key, "", f"{number:.4g}"] for key, number in others.items() if number is not None]
    return {title: [(row[0], row[1], row[2]) for row in rows] for title, rows in tables.items() if rows}


def _figures(run: Record) -> dict[str, Picture | None]:
    counts, accuracy = run.class_counts, run.accuracy
    no_test = run.missing("logits.safetensors")
    no_counts = Markup("The run has no class counts: {}").format(
        run.missing("summary.json") or Markup("<code>summary.json</code> does not list them.")
    )
    no_rows = run.missing("metrics.jsonl") or Markup("<code>metrics.jsonl</code> has no row.")
    logits, labels = run.logits or (None, None)
    curves = draw(plots.learning_curves, run.rows, missing=no_rows)
    if run.several:
        return {
            "learning_curves": curves,
            "accuracy": draw(
                plots.per_label_precision,
                accuracy,
                counts,
                label_names=run.class_names,
                missing=no_test if accuracy is None else no_counts,
            ),
            "reliability": draw(
                plots.labelwise_reliability,
                None if logits is None else logits.sigmoid(),
                labels,
                counts,
                missing=no_test if logits is None else no_counts,
            ),
            "samples": draw(plots.class_counts, counts, class_names=run.class_names, several=True, missing=no_counts),
            **_inside(run),
        }
    probs = None if logits is None else logits.softmax(dim=1)
    confident = [row for row in run.rows if "confidence" in row]
    return {
        "learning_curves": curves,
        "confidence": draw(plots.confidence_accuracy_density, confident, missing="No epoch has a mean confidence."),
        "accuracy": draw(
            plots.per_class_accuracy,
            accuracy,
            counts,
            class_names=run.class_names,
            missing=no_test if accuracy is None else no_counts,
        ),
        "confusions": draw(
            plots.log_confusion_matrix,
            None if run.logits is None else _confusion(*run.logits),
            class_counts=counts,
            class_names=run.class_names,
            missing=no_test,
        ),
        "reliability": draw(plots.reliability_diagram, probs, labels, missing=no_test),
        "logits": draw(
            plots.logit_statistics,
            logits,
            labels,
            counts,
            class_names=run.class_names,
            missing=no_test if logits is None else no_counts,
        ),
        "probabilities": draw(
            plots.mean_class_probability,
            None if probs is None else {run.name: probs},
            labels,
            counts,
            class_names=run.class_names,
            missing=no_test if logits is None else no_counts,
        ),
        "samples": draw(plots.class_counts, counts, class_names=run.class_names, missing=no_counts),
        **_inside(run),
    }


def _inside(run: Record) -> dict[str, Picture | None]:
    """Figures of the weights, beside those that a second stage started from; None where there is nothing to show."""
    first = run.first_stage()
    stages = {} if first is None else {f"first stage, {first.name}": first}
    norms = {
        name: weight
        for name, each in (stages | {run.name: run}).items()
        if (weight := each.class_weights()) is not None
    }
    before, after = ({}, {}) if first is None else (first.weights(), run.weights())
    moved = any(
        name.endswith("running_mean") and name in before and not torch.equal(before[name], value)
        for name, value in after.items()
    )
    return {
        "norms": draw(plots.classifier_weight_norms, norms, run.class_counts, several=run.several) if norms else None,
        "batch_norm": draw(plots.batch_norm_statistics, before, after) if moved else None,
    }


def _correction(run: Record) -> dict[str, Any] | None:
    """What was corrected after the training; None where nothing was."""
    damaged = run.damaged("corrected.json", SHIFTED)
    corrected, shifted = run.corrected, run.shifted
    before, after = (value if isinstance(value := corrected.get(key), dict) else {} for key in ("uncorrected", "final"))
    keys = [key for key in METRICS if key in before or key in after]
    curve, description = corrected.get("strength_curve"), str(corrected.get("description") or "")
    # Versions before 0.2 weighted an estimate to itself. What it is worth, the test samples as they are say.
    estimated = description.startswith(tuple(f"to {word}," for word in ESTIMATES))
    of_metrics = {"uncorrected": before.get("top1"), "corrected": after.get("top1")}
    target = of_metrics if estimated else corrected.get("top1_on_target")
    if not damaged and not keys and not isinstance(curve, dict) and not shifted.rows:
        return None
    return {
        "damaged": damaged,
        "description": description,
        "estimated": estimated,
        "tuned_on": str(corrected.get("tuned_on") or ""),
        "from_prior": str(corrected.get("from_prior_reason") or ""),
        "rows": [(METRICS[key][0], metric(before.get(key), key), metric(after.get(key), key)) for key in keys],
        "on_target": target if isinstance(target, dict) and corrected.get("target_prior") else None,
        "meanings": KNOWN_OF_THE_MIX,
        "curve": draw(_strength_figure, curve, corrected.get("strength")) if isinstance(curve, dict) else None,
        "shifted_figure": draw(plots.shifted_test_accuracy, shifted.curves) if shifted.rows else None,
    }


def _strength_figure(curve: Mapping[str, Any], chosen: float) -> Figure:
    return plots.accuracy_against_lambda({"held-out accuracy": curve["accuracy"]}, curve["strengths"], chosen)


def _classes(run: Record) -> dict[str, Any] | None:
    """The worst and the best classes; None where the run has no test result by class yet."""
    counts, accuracy, names = run.class_counts, run.accuracy, run.class_names
    if accuracy is None:
        return None
    if counts is not None and len(counts) != len(accuracy):
        counts = None
    confused = {} if run.logits is None or run.several else _most_frequent_confusions(*run.logits)
    tested = [index for index in range(len(accuracy)) if not math.isnan(accuracy[index])]
    # Among equals the greater surprise comes first: of the worst the most frequent class, of the best the rarest.
    tested.sort(key=lambda index: (float(accuracy[index]), -int(counts[index]) if counts is not None else 0))
    number = min(TABLE_ROWS, (len(tested) + 1) // 2)

    def row(index: int) -> tuple[str, ...]:
        wrong = confused.get(index)
        taken_for = f"{names[wrong[0]]} ({metric(wrong[1])})" if wrong else "–"
        return (
            names[index],
            "–" if counts is None else f"{int(counts[index]):,}",
            metric(float(accuracy[index])),
            *(() if run.several else (taken_for,)),
        )

    heads = ["label", "training samples", "average precision"]
    return {
        "heads": heads if run.several else ["class", "training samples", "accuracy", "most often taken for"],
        "tables": {
            "Worst": [row(index) for index in tested[:number]],
            "Best": [row(index) for index in tested[::-1][: min(number, len(tested) - number)]],
        },
        "untested": len(accuracy) - len(tested),
    }


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Sparse confusion counts by [truth, prediction]: with 8,142 classes a dense matrix takes half a gigabyte."""
    indices = torch.stack([labels, logits.argmax(dim=1)])
    size = (logits.shape[1],) * 2
    return torch.sparse_coo_tensor(indices, torch.ones(len(labels)), size, check_invariants=True).coalesce()


def _most_frequent_confusions(logits: Tensor, labels: Tensor) -> dict[int, tuple[int, float]]:
    """For every class with a mistake: the wrong class most of its samples went to, and which fraction of them."""
    confusion = _confusion(logits, labels)
    totals = torch.bincount(labels, minlength=logits.shape[1]).tolist()
    best: dict[int, tuple[int, float]] = {}
    for truth, prediction, number in zip(*confusion.indices().tolist(), confusion.values().tolist(), strict=True):
        fraction = number / totals[truth]
        if truth != prediction and fraction > best.get(truth, (0, 0.0))[1]:
            best[truth] = (prediction, fraction)
    return best


def _subset(run: Record) -> dict[str, Any] | None:
    """Sizes of the training set; None where the run has no class counts."""
    counts = run.class_counts
    if counts is None:
        return None
    least = int(counts.min())
    return {
        "samples": int(counts.sum()),
        "classes": len(counts),
        "groups": ", ".join(f"{int(mask.sum()):,} {name}" for name, mask in shot_groups(counts).items()),
        "ratio": f"{int(counts.max()) / least:,.4g}" if least else "",
        "empty": int((counts == 0).sum()),
        # Plain text, as thousands of table rows would be most of the page.
        "listing": ", ".join(f"{name}: {n}" for name, n in zip(run.class_names, counts.tolist(), strict=False)),
    }


# A comparison

COSTS = ("epochs", "seed", "time", "parameters")


def _comparison_rows(records: Mapping[str, Record], keys: Sequence[str], path: Path) -> list[dict[str, Any]]:
    best: dict[str, str] = {}
    for key in keys:
        values = [value for run in records.values() if (value := as_number(run.final.get(key))) is not None]
        if len(values) > 1:
            best[key] = percent(max(values) if key in HIGHER_IS_BETTER else min(values), key)
    rows = []
    for name, run in records.items():
        state = f"in progress, after {count(run.evaluated_epochs, 'epoch')}" if run.final else "no result yet"
        cells = {key: percent(run.final.get(key), key) for key in keys}
        parameters = as_number(run.summary.get("parameters"))
        rows.append(
            {
                "name": name,
                "link": _relative_link(run.path / "report.html", path),
                "state": "" if run.finished else state,
                # Numbers that print alike are equally good.
                "cells": [(cell, cell == best.get(key)) for key, cell in cells.items()],
                "costs": [
                    str(run.summary.get("epochs", "–")),
                    str(run.summary.get("seed", "–")),
                    duration(run.summary.get("wall_time_s")) or "–",
                    "–" if parameters is None else parameters_in_words(parameters),
                ],
            }
        )
    return rows


def _drawn(records: Mapping[str, Record]) -> dict[str, Record]:
    """The runs that figures show: all, or of many the best and the worst by top-1 accuracy."""
    if len(records) <= MOST_DRAWN:
        return dict(records)
    scores = {name: as_number(run.final.get("map" if run.several else "top1")) for name, run in records.items()}
    top1 = {name: value for name, value in scores.items() if value is not None}
    ranked = sorted(top1, key=lambda name: -top1[name])
    return {name: records[name] for name in dict.fromkeys([*ranked[:BEST], *ranked[-WORST:]])}


def _comparison_figures(records: Mapping[str, Record]) -> dict[str, Any]:
    groups = {name: run.final for name, run in records.items() if run.final}
    tested: dict[str, tuple[Tensor, Tensor]] = {}
    for name, run in records.items():
        if run.accuracy is not None and run.class_counts is not None and not run.several:
            tested[name] = (run.accuracy, run.class_counts)
    _, counts = next(iter(tested.values()), (None, None))
    names = records[next(iter(tested))].class_names if tested else None
    curves = {
        name: accuracy for name, (accuracy, own) in tested.items() if counts is not None and torch.equal(own, counts)
    }
    return {
        "groups": draw(plots.compare_shot_accuracy, groups, missing="No run has a result yet."),
        "curves": draw(
            plots.compare_per_class_accuracy,
            curves,
            counts,
            class_names=names,
            missing="No run has test logits and class counts yet.",
        ),
        "left_out": [name for name in records if name not in curves] if curves else [],
    }


def _side_by_side(records: Mapping[str, Record]) -> dict[str, Picture | None] | None:
    """Panels of the runs that were tested on the same samples; None if there are not several, or too many to show."""
    kept: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    names = next((run.class_names for run in records.values() if run.logits is not None), None)
    for name, run in records.items():
        if run.logits is not None and run.class_counts is not None and not run.several:
            kept[name] = (*run.logits, run.class_counts)
    _, labels, counts = next(iter(kept.values()), (None, None, None))
    if labels is None or counts is None:
        return None
    same = {
        name: logits
        for name, (logits, own_labels, own_counts) in kept.items()
        if torch.equal(own_labels, labels) and torch.equal(own_counts, counts)
    }
    if len(same) < 2:
        return None
    probs = {name: logits.softmax(dim=1) for name, logits in same.items()}
    confusions = {name: _confusion(logits, labels) for name, logits in same.items()}
    norms = {name: weight for name in same if (weight := records[name].class_weights()) is not None}
    return {
        "confusions": draw(plots.compare_log_confusion_matrices, confusions, counts, class_names=names),
        "reliability": draw(plots.compare_reliability_diagrams, probs, labels),
        "confidence": draw(plots.probability_violins, probs, labels, counts),
        "probabilities": draw(plots.mean_class_probability, probs, labels, counts, class_names=names),
        "norms": draw(plots.classifier_weight_norms, norms, counts) if norms else None,
    }


def _comparison_corrections(records: Mapping[str, Record]) -> list[tuple[str, ...]]:
    """The last correction of each run."""
    rows = []
    for name, run in records.items():
        before, after = (run.corrected.get(key) for key in ("uncorrected", "final"))
        if isinstance(before, dict) and isinstance(after, dict):
            cells = (percent(values.get(key), key) for key in ("top1", "ece") for values in (before, after))
            rows.append((name, str(run.corrected.get("description") or ""), *cells))
    return rows


def _differing_settings(records: Mapping[str, Record]) -> list[tuple[str, ...]]:
    """Rows of a table, the first of which is its head: a column a run, or of many runs a row; empty if none differ."""
    configs = [dict(flat(run.config)) for run in records.values()]
    keys = dict.fromkeys(key for config in configs for key in config if key not in NAMES_OF_SETTINGS)
    values = {key: tuple(config.get(key, "–") for config in configs) for key in keys}
    rows = [(key, *each) for key, each in values.items() if len(set(each)) > 1]
    if not rows:
        return []
    if len(records) <= MOST_DRAWN:
        return [("setting", *records), *rows]
    return list(zip(("run", *records), *rows, strict=True))


def _relative_link(target: Path, page: Path) -> str:
    """Address of ``target`` as seen from ``page``; empty where there is none."""
    if not target.exists():
        return ""
    try:
        relative = os.path.relpath(target.resolve(), page.resolve().parent)
    except ValueError:  # another drive
        return ""
    return quote(Path(relative).as_posix())
