"""Self-contained HTML pages: one a run, and one that puts several runs side by side. They load nothing, run nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import wave
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ltaug import metrics, plots
from ltaug.plots._numbers import Waveform, as_waveform
from ltaug.priors import as_counts, shot_groups
from ltaug.run import read_config, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["audio_html", "figure_html", "results_table", "write_comparison", "write_report"]

METRICS = {
    "top1": ("top-1 accuracy", "test samples whose most probable class is the right one"),
    "top5": ("top-5 accuracy", "test samples whose right class is among the five most probable ones"),
    "many": ("many-shot accuracy", "classes with more than 100 training samples"),
    "medium": ("medium-shot accuracy", "classes with 20 to 100 training samples"),
    "few": ("few-shot accuracy", "classes with fewer than 20 training samples"),
    "confidence": ("mean confidence", "probability of the predicted class; that of a calibrated model is its accuracy"),
    "ece": ("ECE", "expected calibration error: mean gap between confidence and accuracy"),
    "mce": ("MCE", "maximum calibration error: largest gap of a confidence bin"),
    "classwise_ece": ("class-wise ECE", "calibration error of every class's probability, mean over classes"),
    "brier": ("Brier score", "squared error of the probabilities, mean over samples; 0 is perfect, 2 the worst"),
    "nll": ("NLL", "negative log-likelihood of the right class, mean over samples, in nats; 0 is perfect"),
}
DECIMALS = {"classwise_ece": 5, "brier": 3, "nll": 3}
"""Metrics that are printed as they are, as in the literature; the others are percentages."""
HIGHER_IS_BETTER = ("top1", "top5", "many", "medium", "few")
MAX_SVG_BYTES = 150_000
MAX_PNG_BYTES = 200_000
PNG_DPI = 170
TABLE_ROWS = 10
MAX_AUDIO_SECONDS = 10


def write_report(run_dir: str | os.PathLike[str], sections: Iterable[tuple[str, str]] = ()) -> Path:
    """Write ``report.html`` into a run folder: headline numbers, figures, worst and best classes, and how it was made.

    What the folder lacks, because the run is still going on or was broken off, the page says in words.

    Args:
        run_dir: a folder as :class:`ltaug.run.RunFolder` writes it; every file in it is optional. If the run was
            corrected for another class mix, the page shows that too.
        sections: more sections, as pairs of a title, which is text, and the HTML below it; they stand after the
            figures. The HTML enters the page as it is: make it with :func:`figure_html` and :func:`audio_html`, and put
            what comes from data through :func:`html.escape`. A page holds those of the call that wrote it, so every
            call has to pass them.

    Returns:
        The path of the page. Its content policy lets it load nothing and run nothing, whatever the sections hold.

    Raises:
        FileNotFoundError: there is no such folder.

    >>> import tempfile
    >>> write_report(tempfile.mkdtemp()).name
    'report.html'
    """
    run = _Run.load(Path(run_dir))
    body = [
        _header(run),
        _metrics_section(run),
        _figures_section(run),
        *(_section(title, html) for title, html in sections),
        _correction_section(run),
        _classes_section(run),
        _config_section(run),
        _environment_section(run),
        _subset_section(run),
    ]
    path = run.path / "report.html"
    write_atomically(path, _page(run.name, body))
    return path


def figure_html(figure: Figure, *, alt: str, caption: str, html: str = "") -> str:
    """A card with a picture for a section of :func:`write_report`; cards in ``<div class=figures>`` stand side by side.

    Args:
        figure: what to show; the page carries it, as SVG or PNG, whichever suits it.
        alt: what it shows, for whoever cannot see it.
        caption: text below the picture.
        html: more HTML between the picture and its caption, such as a player of :func:`audio_html`.

    >>> from ltaug.plots import class_counts
    >>> figure_html(class_counts([50, 5]), alt="Two bars.", caption="Samples a class.")[:37]
    '<figure><img src="data:image/svg+xml;'
    """
    return f"<figure>{_image(figure, alt)}{html}<figcaption>{escape(caption)}</figcaption></figure>"


def audio_html(waveform: Waveform, sample_rate: int, caption: str) -> str:
    """A player for a section of :func:`write_report`; the page carries the sound, as 16-bit PCM in a WAV file.

    Args:
        waveform: one channel [T], int16 or fractions of full scale; one that exceeds full scale is made softer.
        sample_rate: samples a second.
        caption: what is heard, below the player.

    Raises:
        ValueError: the waveform has another shape, a sample that is not finite or more than 10 seconds, or the rate is
            no positive whole number.

    >>> import torch
    >>> audio_html(torch.zeros(8000), 8000, "silence")[-38:]
    '"></audio><small>silence</small></div>'
    """
    signal = as_waveform(waveform, sample_rate)
    if len(signal) > MAX_AUDIO_SECONDS * sample_rate:
        raise ValueError(
            f"`waveform` must last at most {MAX_AUDIO_SECONDS} s, since the page carries it, but lasts "
            f"{len(signal) / sample_rate:.1f} s. Cut it."
        )
    signal = signal / max(1.0, float(np.abs(signal).max()))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        file.writeframes(np.clip(np.rint(signal * 2**15), -(2**15), 2**15 - 1).astype("<i2").tobytes())
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    label = escape(caption)
    player = f'<audio controls aria-label="{label}" src="data:audio/wav;base64,{encoded}"></audio>'
    return f"<div class=audio>{player}<small>{label}</small></div>"


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
    runs = [_Run.load(Path(run_dir), keep_logits=False) for run_dir in run_dirs]
    if not runs:
        raise ValueError("`run_dirs` is empty. Pass at least one run folder.")
    path = Path(path)
    names = _distinct_names(runs)
    sections = [
        f"<header><h1>{escape(title)}</h1>"
        f"<p class=sub>{_count(len(runs), 'run')}; every number is that of the last epoch.</p></header>",
        _comparison_table(runs, names, path),
        _comparison_figures(runs, names),
        _comparison_corrections(runs, names),
        _comparison_configs(runs, names),
    ]
    write_atomically(path, _page(title, sections))
    return path


def results_table(
    results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], errors: Collection[str] = ()
) -> str:
    """Markdown table of final metrics, a row a run, for the terminal: shares in percent, a dash for what is missing.

    Args:
        results: metrics by run, as :func:`ltaug.metrics.classification_report` makes them.
        columns: heads by metric, in their order.
        errors: metrics that are accuracies and shown as errors, 1 - accuracy.

    >>> runs = {"erm": {"top1": 0.4, "nll": 2.5}, "bayias": {"top1": 0.45, "nll": None}}
    >>> print(results_table(runs, {"top1": "top-1 error", "nll": "NLL"}, errors=["top1"]))
    |        | top-1 error | NLL   |
    | ---    | ---:        | ---:  |
    | erm    | 60.0        | 2.500 |
    | bayias | 55.0        | –     |
    """
    lines = [["", *columns.values()], ["---"] + ["---:"] * len(columns)]
    for name, final in results.items():
        values = ((key, _number(final.get(key))) for key in columns)
        shown = ((key, 1 - value if value is not None and key in errors else value) for key, value in values)
        lines.append([name, *(_metric(key, value).removesuffix(" %") for key, value in shown)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


# What a run folder holds


@dataclass
class _Run:
    """A run folder, read as far as it goes; ``problems`` says by file what could not be read."""

    path: Path
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    config: dict[str, Any]
    environment: dict[str, Any]
    command: str
    per_class: list[dict[str, str]]
    problems: dict[str, str]
    logits: tuple[Tensor, Tensor] | None
    """Test logits [N, C] and labels [N]."""
    corrected: dict[str, Any]
    """What ``corrected.json`` says."""
    shifted: dict[str, dict[str, str]]
    """The cells of ``shifted.csv``, by row and column."""
    shifted_by: dict[str, Any]
    """What ``shifted.json`` says of them."""
    accuracy: Tensor | None
    """Fraction a class [C], NaN without test sample; None where the run has no test result yet."""

    @classmethod
    def load(cls, path: Path, *, keep_logits: bool = True) -> _Run:
        if not path.is_dir():
            raise FileNotFoundError(
                f"`{path}` is no run folder: there is no such directory. Pass the folder that holds config.yaml."
            )
        problems: dict[str, str] = {}

        def read(name: str, parse: Callable[[Path], Any], default: Any) -> Any:
            file = path / name
            if not file.exists():
                problems[name] = "is not there"
                return default
            try:
                return parse(file)
            except (OSError, ValueError, KeyError, SafetensorError, csv.Error) as error:
                problems[name] = f"could not be read ({error})"
                return default

        logits = read("logits.safetensors", _logits, None)
        per_class = read("per_class.csv", lambda file: list(csv.DictReader(io.StringIO(_text(file)), restval="")), [])
        return cls(
            path=path,
            summary=read("summary.json", _json_mapping, {}),
            rows=read("metrics.jsonl", _json_lines, []),
            config=read("config.yaml", read_config, {}),
            environment=read("environment.json", _json_mapping, {}),
            command=read("command.txt", lambda file: _text(file).strip(), ""),
            per_class=per_class,
            corrected=read("corrected.json", _json_mapping, {}),
            shifted=read("shifted.csv", _shifted, {}),
            shifted_by=read("shifted.json", _json_mapping, {}),
            logits=logits if keep_logits else None,
            accuracy=_accuracy(logits, per_class),
            problems=problems,
        )

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.path.resolve().name)

    @property
    def finished(self) -> bool:
        return isinstance(self.summary.get("final"), dict)

    @property
    def final(self) -> dict[str, Any]:
        """The metrics to report: the summary's, else those of the last epoch that was evaluated."""
        if self.finished:
            return dict(self.summary["final"])
        row = self.rows[self.evaluated_epochs - 1] if self.evaluated_epochs else {}
        return {key: row[key] for key in METRICS if key in row}

    @property
    def evaluated_epochs(self) -> int:
        """Epochs up to the last one that was evaluated; 0 if none was."""
        return max((n for n, row in enumerate(self.rows, 1) if _number(row.get("top1")) is not None), default=0)

    @property
    def class_counts(self) -> Tensor | None:
        """Training samples a class, int64 [C]; None where the run does not tell."""
        counts = self.summary.get("class_counts")
        if counts is None:
            counts = [_whole(row.get("train_count")) for row in self.per_class]
        try:
            return as_counts(counts)
        except (TypeError, ValueError, RuntimeError):
            return None

    @property
    def class_names(self) -> list[str]:
        """A name a class; their indices where the run has none."""
        names = self.summary.get("class_names") or [row.get("name") for row in self.per_class]
        per_class = self.accuracy if self.class_counts is None else self.class_counts
        size = 0 if per_class is None else len(per_class)
        if isinstance(names, list) and len(names) >= size and None not in names:
            return [str(name) for name in names]
        return [f"class {index}" for index in range(size)]

    def missing(self, *names: str) -> str:
        """A sentence about files that are not there or not readable."""
        return " ".join(
            f"<code>{escape(name)}</code> {escape(self.problems[name])}." for name in names if name in self.problems
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _json_mapping(path: Path) -> dict[str, Any]:
    value = json.loads(_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows that are whole: a run that goes on may be in the middle of its last line."""
    rows = []
    for line in _text(path).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _shifted(path: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(_text(path)), restval="")
    table = {row["prior"]: {key: row[key] for key in rows.fieldnames or () if key != "prior"} for row in rows}
    if not table:
        raise ValueError("it has no row")
    return table


def _logits(path: Path) -> tuple[Tensor, Tensor]:
    tensors = load_file(path)
    logits, labels = tensors["logits"], tensors["labels"]
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point() or not logits.numel():
        raise ValueError(
            "expected logits [N, C] and integer labels [N], "
            f"found {list(logits.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f"labels range from {int(labels.min())} to {int(labels.max())}, logits have {logits.shape[1]} classes"
        )
    return logits.float(), labels.long()


def _accuracy(results: tuple[Tensor, Tensor] | None, per_class: Sequence[Mapping[str, str]]) -> Tensor | None:
    if results is not None:
        logits, labels = results
        return metrics.per_class_accuracy(logits.argmax(dim=1), labels, num_classes=logits.shape[1])
    values = [_number(row.get("test_accuracy")) for row in per_class]
    return torch.tensor([math.nan if value is None else value for value in values]).double() if values else None


# Sections of a run's page


def _header(run: _Run) -> str:
    final = run.final
    parts = [f"<h1>{escape(run.name)}</h1>"]
    if run.finished:
        known = {key: escape(str(value)) for key, value in run.summary.items() if value is not None}
        labels = {"dataset": "data set", "imbalance_ratio": "imbalance ratio", "epochs": "epochs", "seed": "seed"}
        facts = [f"{label} {known[key]}" for key, label in labels.items() if key in known]
        duration = _duration(run.summary.get("wall_time_s"))
        facts += [f"trained in {duration}"] if duration else []
        parts.append(f"<p class=sub>{' · '.join(['Numbers of the last epoch', *facts])}</p>")
    elif final:
        state = f"{run.missing('summary.json')} Numbers are those after {_count(run.evaluated_epochs, 'epoch')}."
        parts.append(f"<p class=sub>In progress or broken off: {state}</p>")
    else:
        state = run.missing("summary.json", "metrics.jsonl") or "no epoch was evaluated."
        parts.append(f"<p class=sub>No result yet: {state}</p>")
    cards = [
        f"<div class='card {key}'><dt>{label}</dt><dd>{_metric(key, final.get(key))}</dd></div>"
        for key, label in {
            "top1": "top-1",
            "many": "many-shot",
            "medium": "medium-shot",
            "few": "few-shot",
            "ece": "ECE",
        }.items()
        if key in final
    ]
    if cards:
        parts.append(f"<dl class=cards>{''.join(cards)}</dl>")
    return f"<header>{''.join(parts)}</header>"


def _metrics_section(run: _Run) -> str:
    final, summary = run.final, run.summary
    tables: dict[str, list[tuple[str, str]]] = {"Accuracy": [], "Calibration": [], "Cost": []}

    def add(table: str, label: str, value: str, meaning: str = "") -> None:
        tables[table].append((f"{escape(label)}<small>{escape(meaning)}</small>", escape(value)))

    for key, (label, meaning) in METRICS.items():
        if key in final:
            add("Accuracy" if key in HIGHER_IS_BETTER else "Calibration", label, _metric(key, final[key]), meaning)
    if (parameters := _number(summary.get("parameters"))) is not None:
        add("Cost", "parameters", f"{parameters:,.0f}", "numbers that training adjusts")
    if duration := _duration(summary.get("wall_time_s")):
        add("Cost", "training time", duration, "wall clock")
    if (rate := _number(summary.get("images_per_second", summary.get("clips_per_second")))) is not None:
        add("Cost", "speed", f"{rate:,.0f} / s", "training samples a second")
    if (memory := _number(summary.get("peak_memory_bytes"))) is not None:
        add("Cost", "peak memory", f"{memory / 2**30:.2f} GiB", "the most that was held at once")
    others = {
        key: number for key, value in final.items() if key not in METRICS and (number := _number(value)) is not None
    }
    for key, number in others.items():
        tables.setdefault("Other metrics", [])
        add("Other metrics", str(key), f"{number:.4g}")
    parts = [
        f"<div><h3>{title}</h3>{_table(('metric', 'value'), rows, numbers=(1,))}</div>"
        for title, rows in tables.items()
        if rows
    ]
    if not parts:
        return _section("Metrics", _missing("No metrics yet.", run.missing("summary.json")))
    return _section("Metrics", f"<div class='columns narrow'>{''.join(parts)}</div>")


def _figures_section(run: _Run) -> str:
    counts, accuracy, names = run.class_counts, run.accuracy, run.class_names
    no_test = run.missing("logits.safetensors")
    no_counts = "The run has no class counts: " + (
        run.missing("summary.json") or "<code>summary.json</code> does not list them."
    )
    figures = []

    figures.append(
        _figure(
            "Learning curves",
            lambda: plots.learning_curves(run.rows),
            "Accuracy on the test set (higher is better), on the epochs that were evaluated, and loss on the training "
            "set (lower is better), with dotted lines where the learning rate was lowered; a loss that falls while the "
            "few-shot line stays low means that the model learns the frequent classes only.",
            alt="Line chart of test accuracy, overall and by shot group, and of training loss, over epochs.",
            missing="" if run.rows else run.missing("metrics.jsonl") or "<code>metrics.jsonl</code> has no row.",
        )
    )
    figures.append(
        _figure(
            "Confidence during training",
            lambda: plots.confidence_accuracy_density(run.rows),
            "Each point is an evaluated epoch: how sure the model was of its test predictions, and how often it was "
            "right; below the dashed line it was too sure of itself.",
            alt="Density of mean confidence and accuracy over the evaluated epochs.",
            missing="" if any("confidence" in row for row in run.rows) else "No epoch has a mean confidence.",
        )
    )
    figures.append(
        _figure(
            "Accuracy of every class",
            lambda: plots.per_class_accuracy(_known(accuracy), _known(counts)),
            "Each bar is a class, the most frequent one in training on the left; bars that shrink to the right show "
            "how much the model prefers frequent classes, and the thick lines are the means of the groups.",
            alt="Bar chart of test accuracy by class, ordered by number of training samples, with group means.",
            missing=no_test if accuracy is None else no_counts if counts is None else "",
        )
    )
    figures.append(
        _figure(
            "Confusions",
            lambda: plots.log_confusion_matrix(_confusion(_known(run.logits)), counts, class_names=names),
            "Every test sample is counted at its true class (across) and predicted class (down), so right answers "
            "lie on the diagonal; a bright top right corner means that rare classes are mistaken for frequent ones.",
            alt="Heat map of the confusion matrix on a logarithmic scale, classes ordered by training samples.",
            missing=no_test,
        )
    )
    figures.append(
        _figure(
            "Reliability",
            lambda: plots.reliability_diagram(torch.softmax(_known(run.logits)[0], dim=1), _known(run.logits)[1]),
            "When the model says 80 %, it should be right 80 % of the time: bars below the dashed line mean that it "
            "is too sure of itself, bars above it that it is too modest; the lower chart shows how often each "
            "confidence occurs.",
            alt="Reliability diagram: accuracy by confidence, with the expected and maximum calibration error.",
            missing=no_test,
        )
    )
    figures.append(
        _figure(
            "Training samples",
            lambda: plots.class_counts(_known(counts)),
            "The long tail that the model was trained on, from the most frequent class to the rarest; the axis is "
            "logarithmic, so equal heights are equal ratios.",
            alt="Chart of the number of training samples by class on a logarithmic axis.",
            missing="" if counts is not None else no_counts,
        )
    )
    return _section("Figures", f"<div class=figures>{''.join(figures)}</div>")


def _correction_section(run: _Run) -> str:
    """What was corrected after training; nothing where that was not done."""
    parts = []
    damaged = run.missing(
        *(name for name in ("corrected.json", "shifted.csv") if run.problems.get(name) != "is not there")
    )
    if damaged:
        parts.append(_missing("Not all of it can be shown.", damaged))
    before, after = (
        value if isinstance(value := run.corrected.get(key), dict) else {} for key in ("uncorrected", "final")
    )
    keys = [key for key in METRICS if key in before or key in after]
    if keys:
        said, tuned_on = (escape(str(run.corrected.get(key) or "")) for key in ("said", "tuned_on"))
        note = "The same test logits, as trained and corrected for another class mix; nothing was trained."
        note += f" Tuned on {tuned_on}." if tuned_on else ""
        both = run.corrected.get("top1_on_target")
        if isinstance(both, dict) and run.corrected.get("target_prior"):
            with_it, without = (_metric("top1", both.get(name)) for name in ("corrected", "uncorrected"))
            note += f" Weighted to the class mix that is corrected for, top-1 is {with_it}, and {without} without."
        rows = [(METRICS[key][0], _metric(key, before.get(key)), _metric(key, after.get(key))) for key in keys]
        heads = ("metric", "as trained", f"corrected<br><small>{said}</small>")
        parts.append(f"<p>{note}</p>{_table(heads, rows, numbers=(1, 2))}")
    curve = run.corrected.get("strength_curve")
    if isinstance(curve, dict):
        figure = _figure(
            "Accuracy by the strength of the correction",
            lambda: plots.accuracy_against_lambda(
                {"held-out accuracy": curve["accuracy"]}, curve["strengths"], run.corrected.get("strength")
            ),
            "On the held-out samples, weighted towards the class mix that is corrected for. 0 is no correction, 1 the "
            "one of Bayes' rule, the star what was chosen and used above; the test set had no say.",
            alt="Line chart of held-out accuracy by the strength of the correction.",
        )
        parts.append(f"<div class=figures>{figure}</div>")
    if run.shifted:
        tuned_on = escape(str(run.shifted_by.get("tuned_on") or ""))
        parts.append(_shifted_table(run.shifted, tuned_on))
        curves = {
            prior: {test: _number(cell) for test, cell in cells.items() if test != "logits"}
            for prior, cells in run.shifted.items()
            if not prior.endswith(", kept")
        }
        figure = _figure(
            "Accuracy by the class mix of the test set",
            lambda: plots.shifted_test_accuracy(curves),
            "On the left the test set is as long-tailed as the training, in the middle every class is equally "
            "frequent, on the right the rare classes of the training are the frequent ones; a line that stays high on "
            "both sides belongs to a correction that copes with any of them.",
            alt="Line chart of test accuracy by the imbalance of the test set, one line for what is known of its mix.",
        )
        parts.append(f"<div class=figures>{figure}</div>")
    return _section("Corrected for another class mix", "".join(parts)) if parts else ""


def _shifted_table(table: Mapping[str, Mapping[str, str]], tuned_on: str) -> str:
    meanings = {
        "none": "nothing is known of the test set's class mix",
        "calibrated": "likewise, with calibrated logits",
        "given": "the mix is known",
        "estimated": "it is estimated from the unlabelled test samples, every class freely",
        "trend": "likewise, but only how far it leans to the classes that training had more of",
        "center": "every class freely, but pulled towards the trend",
    }
    columns = list(next(iter(table.values())))
    rows = []
    for prior, cells in table.items():
        meaning = meanings.get(prior, "")
        if prior.endswith(", kept"):
            meaning = (
                "share of what the given mix gains, over calibrated logits if there are, where that exceeds a point"
            )
        shown = (escape(cells[key]) if key == "logits" else _metric("top1", cells[key]) for key in columns)
        rows.append((f"{escape(prior)}<small>{escape(meaning)}</small>", *shown))
    note = (
        "<p>Top-1 accuracy on test sets of other class mixes, all drawn from the run's: in forward R the most frequent "
        "class of the training is R times as frequent as its rarest, in backward R the rarest as the most frequent. "
        "Only the row none is without calibration, where the column of the logits names one."
        f"{f' Calibrated on {tuned_on}.' if tuned_on else ''}</p>"
    )
    numbers = [place for place, key in enumerate(columns, 1) if key != "logits"]
    return note + _table(("class mix", *map(escape, columns)), rows, numbers)


def _classes_section(run: _Run) -> str:
    counts, accuracy, names = run.class_counts, run.accuracy, run.class_names
    no_test = run.missing("logits.safetensors")
    if accuracy is None:
        body = _missing("No test result by class yet.", run.missing("logits.safetensors", "per_class.csv"))
        return _section("Worst and best classes", body)
    size = len(accuracy)
    counts = counts if counts is not None and len(counts) == size else None
    names = names if len(names) >= size else [f"class {index}" for index in range(size)]
    confused = _most_frequent_confusions(run.logits) if run.logits is not None else {}
    tested = [index for index in range(size) if not math.isnan(accuracy[index])]
    # Among equals the greater surprise comes first: of the worst the most frequent class, of the best the rarest.
    tested.sort(key=lambda index: (float(accuracy[index]), -int(counts[index]) if counts is not None else 0))
    number = min(TABLE_ROWS, (len(tested) + 1) // 2)

    def rows(indices: Sequence[int]) -> list[tuple[str, ...]]:
        table: list[tuple[str, ...]] = []
        for index in indices:
            count = f"{int(counts[index]):,}" if counts is not None else "–"
            wrong = confused.get(index)
            confusion = f"{escape(names[wrong[0]])} ({_percent(wrong[1])})" if wrong else "–"
            table.append((escape(names[index]), count, _percent(float(accuracy[index])), confusion))
        return table

    heads = ("class", "training samples", "accuracy", "most often taken for")
    columns = [
        f"<div><h3>{title}</h3>{_table(heads, rows(indices), numbers=(1, 2))}</div>"
        for title, indices in (("Worst", tested[:number]), ("Best", tested[::-1][: min(number, len(tested) - number)]))
        if indices
    ]
    note = "The last column is the wrong class that most of a class's test samples went to, and how many of them."
    if run.logits is None:
        note = f"Which class they are taken for is not known: {no_test}"
    if untested := size - len(tested):
        note += f" {_count(untested, 'class')} without test sample {'is' if untested == 1 else 'are'} left out."
    return _section("Worst and best classes", f"<p>{note}</p><div class=columns>{''.join(columns)}</div>")


def _config_section(run: _Run) -> str:
    rows = [(f"<code>{escape(key)}</code>", escape(value)) for key, value in _flat(run.config)]
    body = _table(("setting", "value"), rows) if rows else _missing("No settings.", run.missing("config.yaml"))
    return _section("Settings", body)


def _environment_section(run: _Run) -> str:
    command = (
        f"<pre><code>{escape(run.command)}</code></pre>"
        if run.command
        else _missing("No command.", run.missing("command.txt"))
    )
    rows = [(f"<code>{escape(key)}</code>", escape(value)) for key, value in _flat(run.environment)]
    body = _table(("what", "value"), rows) if rows else _missing("No environment.", run.missing("environment.json"))
    return _section("Command and environment", f"<h3>Command</h3>{command}<h3>Environment</h3>{body}")


def _subset_section(run: _Run) -> str:
    counts, names, digest = run.class_counts, run.class_names, run.summary.get("index_hash")
    parts = []
    if digest:
        parts.append(
            f"<p>Hash of the training indices: <code>{escape(str(digest))}</code>. "
            "Runs with the same hash saw the same samples.</p>"
        )
    else:
        parts.append(_missing("No hash of the training indices.", run.missing("summary.json")))
    if counts is None:
        parts.append(_missing("No class counts.", run.missing("summary.json")))
    else:
        groups = {name: int(mask.sum()) for name, mask in shot_groups(counts).items()}
        split = ", ".join(f"{number:,} {name}" for name, number in groups.items())
        least = int(counts.min())
        ratio = (
            f", the largest {int(counts.max()) / least:,.4g} times the smallest"
            if least
            else f", {int((counts == 0).sum()):,} without any"
        )
        parts.append(f"<p>{int(counts.sum()):,} samples of {len(counts):,} classes ({split}){ratio}.</p>")
        # Plain text, as thousands of table rows would be most of the page.
        listing = ", ".join(f"{name}: {count}" for name, count in zip(names, counts.tolist(), strict=False))
        parts.append(
            "<details><summary>Training samples of every class</summary>"
            f"<p class=listing>{escape(listing)}</p></details>"
        )
    return _section("Training subset", "".join(parts))


# Sections of a comparison


def _comparison_table(runs: Sequence[_Run], names: Sequence[str], path: Path) -> str:
    keys = [key for key in METRICS if key != "confidence" and any(key in run.final for run in runs)]
    best: dict[str, str] = {}
    for key in keys:
        values = [value for run in runs if (value := _number(run.final.get(key))) is not None]
        if len(values) > 1:
            best[key] = _metric(key, max(values) if key in HIGHER_IS_BETTER else min(values))
    rows = []
    for run, name in zip(runs, names, strict=True):
        final = run.final
        link = _relative_link(run.path / "report.html", path)
        title = f'<a href="{link}">{escape(name)}</a>' if link else escape(name)
        if not run.finished:
            state = f"in progress, after {_count(run.evaluated_epochs, 'epoch')}" if final else "no result yet"
            title += f"<br><small>{escape(state)}</small>"
        # Numbers that print alike are equally good.
        cells = [_metric(key, final.get(key)) for key in keys]
        cells = [
            f"<strong>{cell}</strong>" if cell == best.get(key) else cell for key, cell in zip(keys, cells, strict=True)
        ]
        parameters = _number(run.summary.get("parameters"))
        rows.append(
            (
                title,
                *cells,
                escape(str(run.summary.get("epochs", "–"))),
                escape(str(run.summary.get("seed", "–"))),
                _duration(run.summary.get("wall_time_s")) or "–",
                f"{parameters / 1e6:,.2f} M" if parameters is not None else "–",
            )
        )
    heads = (
        "run",
        *(METRICS[key][0].removesuffix(" accuracy") for key in keys),
        "epochs",
        "seed",
        "time",
        "parameters",
    )
    note = (
        "<p>The best number of a column is bold. One run is one draw: "
        "trust a difference only where it exceeds that between seeds.</p>"
    )
    subsets = {str(run.summary["index_hash"]) for run in runs if run.summary.get("index_hash")}
    if len(subsets) > 1:
        note += (
            f"<p class=warn>These runs were trained on {len(subsets)} different training subsets (index hash), "
            "so they differ in more than the method.</p>"
        )
    return _section("Results", note + _table(heads, rows, numbers=range(1, len(heads))))


def _comparison_figures(runs: Sequence[_Run], names: Sequence[str]) -> str:
    groups = {name: run.final for run, name in zip(runs, names, strict=True) if run.final}
    counts = next((run.class_counts for run in runs if run.accuracy is not None and run.class_counts is not None), None)
    curves, left_out = {}, []
    for run, name in zip(runs, names, strict=True):
        accuracy = run.accuracy
        if (
            counts is not None
            and accuracy is not None
            and run.class_counts is not None
            and torch.equal(counts, run.class_counts)
        ):
            curves[name] = accuracy
        else:
            left_out.append(name)
    note = (
        f" Not shown, for want of test logits or because of other class counts: {', '.join(left_out)}."
        if left_out and curves
        else ""
    )
    figures = [
        _figure(
            "Accuracy by shot group",
            lambda: plots.compare_shot_accuracy(groups),
            "Test accuracy over all classes and over those with many, a medium number of and few training samples; "
            "a good method raises the bars on the right without lowering those on the left.",
            alt="Bar chart of test accuracy by run and shot group.",
            missing="" if groups else "No run has a result yet.",
        ),
        _figure(
            "Accuracy of every class",
            lambda: plots.compare_per_class_accuracy(curves, _known(counts)),
            "Test accuracy from the most frequent class on the left to the rarest on the right; the flatter the "
            f"line, the less a run depends on how often it has seen a class.{note}",
            alt="Line chart of test accuracy by class, ordered by number of training samples, one line a run.",
            missing="" if curves else "No run has test logits and class counts yet.",
        ),
    ]
    return _section("Figures", f"<div class=figures>{''.join(figures)}</div>")


def _comparison_corrections(runs: Sequence[_Run], names: Sequence[str]) -> str:
    """The last correction of each run, and its test sets of other class mixes; nothing where there are none."""
    rows = []
    for run, name in zip(runs, names, strict=True):
        before, after = (run.corrected.get(key) for key in ("uncorrected", "final"))
        if isinstance(before, dict) and isinstance(after, dict):
            cells = (_metric(key, metrics.get(key)) for key in ("top1", "ece") for metrics in (before, after))
            rows.append((escape(name), escape(str(run.corrected.get("said") or "")), *cells))
    heads = ("run", "correction", "top-1", "corrected", "ECE", "corrected")
    parts = [_table(heads, rows, numbers=(2, 3, 4, 5))] if rows else []
    for run, name in zip(runs, names, strict=True):
        if run.shifted:
            columns = [key for key in next(iter(run.shifted.values())) if key != "logits"]
            lines = [
                (escape(prior), *(_metric("top1", cells.get(key)) for key in columns))
                for prior, cells in run.shifted.items()
                if not prior.endswith(", kept")
            ]
            table = _table(("class mix", *map(escape, columns)), lines, range(1, len(columns) + 1))
            parts.append(f"<h3>{escape(name)}, top-1 by the class mix of the test set</h3>{table}")
    return _section("Corrected for another class mix", "".join(parts)) if parts else ""


def _comparison_configs(runs: Sequence[_Run], names: Sequence[str]) -> str:
    configs = [dict(_flat(run.config)) for run in runs]
    # Name and folder always differ, and the table names the runs already.
    keys = dict.fromkeys(key for config in configs for key in config if key not in ("method", "out"))
    differing = [key for key in keys if len({config.get(key) for config in configs}) > 1]
    if not differing:
        text = "All settings are the same." if all(configs) else "No settings to compare."
        return _section("Settings that differ", f"<p>{text}</p>")
    rows = [(f"<code>{escape(key)}</code>", *(escape(config.get(key, "–")) for config in configs)) for key in differing]
    return _section("Settings that differ", _table(("setting", *(escape(name) for name in names)), rows))


def _distinct_names(runs: Sequence[_Run]) -> list[str]:
    """Names of runs, with the folder where two share a name, and a number where even that is the same."""
    names = [run.name for run in runs]
    names = [
        f"{name} ({run.path.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]
    return [f"{name} #{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _relative_link(target: Path, page: Path) -> str:
    """Address of ``target`` as seen from ``page``; empty where there is none."""
    if not target.exists():
        return ""
    try:
        relative = os.path.relpath(target.resolve(), page.resolve().parent)
    except ValueError:  # another drive
        return ""
    return escape(quote(Path(relative).as_posix()))


# Test results


def _confusion(results: tuple[Tensor, Tensor]) -> Tensor:
    """Sparse confusion counts by [truth, prediction]: with 8,142 classes a dense matrix takes half a gigabyte."""
    logits, labels = results
    indices = torch.stack([labels, logits.argmax(dim=1)])
    return torch.sparse_coo_tensor(
        indices, torch.ones(len(labels)), (logits.shape[1],) * 2, check_invariants=True
    ).coalesce()


def _most_frequent_confusions(results: tuple[Tensor, Tensor]) -> dict[int, tuple[int, float]]:
    """For every class with a mistake: the wrong class most of its samples went to, and which fraction of them."""
    confusion = _confusion(results)
    totals = torch.bincount(results[1], minlength=results[0].shape[1]).tolist()
    best: dict[int, tuple[int, float]] = {}
    for truth, prediction, number in zip(*confusion.indices().tolist(), confusion.values().tolist(), strict=True):
        fraction = number / totals[truth]
        if truth != prediction and fraction > best.get(truth, (0, 0.0))[1]:
            best[truth] = (prediction, fraction)
    return best


def _known(value: Any) -> Any:
    """A value that the caller has made sure is there."""
    if value is None:
        raise ValueError("the data for it is missing")
    return value


# Pieces of HTML. Arguments called `html` or cells are HTML already; everything from a run is escaped before.


def _figure(title: str, draw: Callable[[], Figure], caption: str, *, alt: str, missing: str = "") -> str:
    if missing:
        return f"<figure><h3>{title}</h3>{_missing('Not drawn.', missing)}</figure>"
    try:
        image = _image(draw(), alt)
    except Exception as error:  # a page without one figure is worth more than none after hours of training
        return f"<figure><h3>{title}</h3>{_missing('Not drawn.', escape(str(error)))}</figure>"
    return f"<figure><h3>{title}</h3>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(figure: Figure, alt: str) -> str:
    """An ``img`` that carries its data: SVG, which stays sharp, PNG where smaller, WebP for what is like noise."""
    data, kind = io.BytesIO(), "svg+xml"
    if not any(axes.images for axes in figure.axes):
        figure.savefig(data, format="svg", metadata={"Date": None})
    if not 0 < data.tell() <= MAX_SVG_BYTES:
        data, kind = io.BytesIO(), "png"
        figure.savefig(data, format="png", dpi=PNG_DPI)
    if data.tell() > MAX_PNG_BYTES:  # a spectrogram
        data, kind = io.BytesIO(), "webp"
        figure.savefig(data, format="webp", dpi=PNG_DPI, pil_kwargs={"quality": 80, "method": 4})
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{escape(alt)}" width="{width}" height="{height}">'


def _section(title: str, html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{html}</section>"


def _missing(text: str, html: str = "") -> str:
    return f"<p class=missing>{escape(text)} {html}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def cell(position: int, html: str) -> str:
        mark = " class=n" if position in right else ""
        return f"<th scope=row{mark}>{html}</th>" if position == 0 else f"<td{mark}>{html}</td>"

    head = "".join(f"<th scope=col{' class=n' if i in right else ''}>{html}</th>" for i, html in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell(i, html) for i, html in enumerate(row))}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _page(title: str, sections: Iterable[str]) -> str:
    return (
        "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n<footer>Made by ltaug from the files of the run folder.</footer>\n</body>\n</html>\n"
    )


POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""What a browser lets the page do: show its own style, pictures and sounds; load nothing, run nothing."""
CSS = """
:root { --text: #1c1e21; --soft: #5c6370; --back: #f6f7f9; --card: #fff; --line: #dfe2e7; --accent: #0072b2;
  --warn: #a64500; --many: #0072b2; --medium: #009e73; --few: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a2a9b4; --back: #16181c; --card: #1f2227;
  --line: #363b43; --accent: #56b4e9; --warn: #f0a35e; --many: #56b4e9; --medium: #2fc79c; --few: #ff8a3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, footer { max-width: 1120px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .8rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; }
p { margin: .4rem 0 .9rem; }
a { color: var(--accent); }
.sub, .missing, footer, small, figcaption { color: var(--soft); }
.missing { border-left: 3px solid var(--line); padding-left: .7rem; overflow-wrap: anywhere; }
.warn { border-left: 3px solid var(--warn); padding-left: .7rem; color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .7rem; margin: 1rem 0 0; }
.card, figure, .scroll, pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: .6rem .9rem; border-top: 3px solid var(--soft); }
.card.many { border-top-color: var(--many); } .card.medium { border-top-color: var(--medium); }
.card.few { border-top-color: var(--few); }
.card dt { color: var(--soft); font-size: .9rem; }
.card dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures, .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.columns { align-items: start; }
.narrow { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.columns > *, .figures > * { min-width: 0; }
figure { margin: 0; padding: .9rem; }
figure img { display: block; width: 100%; max-width: 620px; height: auto; margin: 0 auto; background: #fff;
  border-radius: 6px; }
.audio { max-width: 620px; margin: .6rem auto; }
.audio audio { display: block; width: 100%; }
figcaption { font-size: .92rem; margin-top: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { padding: .4rem .65rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th, thead .n { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 500; }
tbody th small { display: block; font-weight: 400; line-height: 1.35; }
td { overflow-wrap: anywhere; min-width: 6rem; }
.n { min-width: 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .88em; }
pre { padding: .8rem; margin: 0 0 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.listing { font-size: .88rem; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
footer { font-size: .85rem; padding-bottom: 2rem; }
@media (max-width: 30rem) { main, footer { padding: .7rem; } figure { padding: .6rem; } }
"""


# Numbers and words


def _number(value: object) -> float | None:
    """A finite number, also one spelt out, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _metric(key: str, value: object) -> str:
    """A metric as it is shown; a dash for what does not exist, such as the accuracy of an empty shot group."""
    number = _number(value)
    if number is None:
        return "–"
    return f"{number:.{DECIMALS[key]}f}" if key in DECIMALS else _percent(number)


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def _duration(seconds: object) -> str:
    number = _number(seconds)
    if number is None:
        return ""
    if number < 60:
        return f"{number:.1f} s"
    minutes = round(number / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted key, text)."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "" if value is None else str(value)))
    return pairs
