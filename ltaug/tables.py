"""One table of many finished runs, beside published numbers: Markdown, CSV and a figure.

Runs are told apart by the settings that their summaries record, not by the names of their folders.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import statistics
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.run import RunFolder, csv_text, read_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Published",
    "Row",
    "collect",
    "parameters_in_words",
    "published_in_words",
    "published_numbers",
    "ratio_in_words",
    "read_published",
    "read_summaries",
    "run_labels",
    "training_set",
    "write_tables",
]

COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "macc": "mACC",
    "map": "mAP",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "ece": "ECE15",
    "labelwise_ece": "label-wise ECE15",
}
"""Metrics of the table, and their heads."""
ACCURACIES = ("top1", "top5", "many", "medium", "few")
"""Those of them that can be shown as errors, 100 % minus the accuracy."""
PRINTED = {**COLUMNS, "mce": "MCE", "ece20": "ECE20", "classwise_ece": "class-wise ECE", "brier": "Brier", "nll": "NLL"}
"""Metrics that papers print, and their heads; ECE of 15 bins, or of 20."""
OTHER_THAN_A_RUN = ("set", "correction", "test_set")
"""Columns of published numbers that are none of a plain run: a changed method, a correction, another test set."""
PART = ("dataset", "model", "imbalance_ratio", "real_imbalance_ratio", "profile")
"""What the rows of one part of the table share; the real ratio only where it is not the one that was asked for."""
NOT_COMPARED = (
    "method",
    "out",
    "resume",
    "from_run",
    "log_with",
    "report",
    "threads",
    "workers",
    "settings",
    "allow_outside",
)
"""Settings by which runs are not told apart, besides those whose name ends in `_dir` or `_every`."""
MOST_DRAWN = 100
"""Rows that a panel of the figure has."""
MANY_CLASSES = 50
"""Number of classes from which top-5 accuracy is shown."""
MAX_LETTERS = 32
"""Of the value of a setting in a label."""


@dataclass
class Row:
    """Runs of one method and equal settings: mean and standard deviation of their metrics."""

    method: str
    """Key of ``METHODS``."""
    part: dict[str, Any]
    """What the rows of its part share: data set, model, imbalance ratio, profile."""
    settings: dict[str, Any]
    """The settings in which it differs from other rows of its method."""
    epochs: int | None
    runs: int
    """How many there are."""
    mean: dict[str, float | None]
    """By metric; None where no run has it."""
    deviation: dict[str, float | None]
    """Standard deviation by metric; None for a single run."""
    minutes: float | None
    parameters: int | None
    num_classes: int
    second_stage: bool
    published: Numbers = field(default_factory=dict)
    """Published numbers of the same settings."""

    @property
    def label(self) -> str:
        """The method, and in brackets the settings in which it differs."""
        return _with(self.method, _in_words(self.settings))

    @property
    def heading(self) -> str:
        """Title of its part."""
        part = dict(self.part)
        asked, real, profile = (part.pop(key, None) for key in ("imbalance_ratio", "real_imbalance_ratio", "profile"))
        return ", ".join(filter(None, (*map(str, part.values()), ratio_in_words(asked, real), profile)))


Published = Sequence[Mapping[str, str]]
"""Lines of a CSV file, see :func:`read_published`."""
Numbers = dict[tuple[str, str], dict[str, float]]
"""Published numbers: by metric, as printed, of every paper and note."""


def read_published(path: Path) -> Published:
    """Read published numbers: columns `method`, `paper`, `top1` and settings such as `dataset` or `model`.

    An empty cell of a setting stands for any value. There may be more columns: metrics (`top5`, `ece`, `mce`, ...;
    Brier score, NLL and class-wise ECE as they are, the others in percent), and what is said of a line: `table` of the
    paper, `epochs` of the training, and `note`: how many seeds, which epoch, another network. Lines with `set`,
    `correction` or `test_set` are of changed methods, corrected runs and shifted test sets.

    Raises:
        UserError: a column is missing, a number is none, or a line has none.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"method", "paper", "top1"} - set(reader.fieldnames or ()):
            raise UserError(f"`{path}` has no column {', '.join(sorted(missing))}.")
        lines = list(reader)
    for number, line in enumerate(lines, start=2):
        there = {name: line[name] for name in PRINTED if line.get(name)}
        if not there:
            raise UserError(f"`{path}`, line {number}: there is no number, such as `top1`.")
        for name, cell in there.items():
            try:
                float(cell)
            except ValueError as error:
                raise UserError(f"`{path}`, line {number}: `{name}` {cell!r} is no number.") from error
    return lines


def published_numbers(
    summary: Mapping[str, Any], published: Published, correction: str = "", test_set: str = ""
) -> Numbers:
    """Published numbers of a run's method and settings; none if its method is changed.

    Args:
        summary: of the run.
        published: see :func:`read_published`.
        correction: of what is corrected so: the cell of that name.
        test_set: of another test set, such as F50: the cell of that name.
    """
    run = _Run("", {"final": {}, **summary})
    return {} if run.changed else _published(run.values, published, correction, test_set)


def published_in_words(found: Mapping[str, Numbers]) -> list[str]:
    """A line for each of several sets of published numbers, by what they are of, and behind these one for each note.

    >>> published_in_words({"erm": {("X", "one seed"): {"top1": 40.5, "ece": 8.0}}, "mixup": {}})
    ['Published of erm: 40.5 / ECE15 8 (X [1])', '[1] one seed']
    """
    notes: dict[str, int] = {}
    lines = [f"Published of {name}: {_cell(numbers, notes)}" for name, numbers in found.items() if numbers]
    return lines + _footnotes(notes)


def _cell(numbers: Numbers, notes: dict[str, int], errors: bool = False) -> str:
    """Published numbers in words; their notes are collected and numbered."""
    words = []
    for (paper, note), values in numbers.items():
        mark = f" [{notes.setdefault(note, len(notes) + 1)}]" if note else ""
        words.append(f"{_printed(values, errors)} ({paper}{mark})")
    return ", ".join(words)


def _printed(values: Mapping[str, float], errors: bool = False) -> str:
    shown = {name: 100 - value if errors and name in ACCURACIES else value for name, value in values.items()}
    return " / ".join(
        f"{value:g}" if name == "top1" else f"{PRINTED.get(name, name)} {value:g}" for name, value in shown.items()
    )


def _footnotes(notes: Mapping[str, int]) -> list[str]:
    return [f"[{number}] {note}" for note, number in notes.items()]


def read_summaries(out: Path) -> dict[str, dict[str, Any]]:
    """Summaries of a folder's finished runs, by the names of their folders; damaged ones are reported and left out."""
    found = {}
    for path in sorted(out.glob("*/summary.json")):
        try:
            summary = read_json(path)
            if not isinstance(summary.get("final"), dict):
                raise ValueError("it has no final metrics")
            _Run(path.parent.name, summary)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # the latter two: values of other types
            sys.stderr.write(f"Left out of the table: {path.parent.name} ({error})\n")
            continue
        found[path.parent.name] = summary
    return found


def collect(
    summaries: Mapping[str, Mapping[str, Any]], published: Published = (), over: Sequence[str] = ("seed",)
) -> list[Row]:
    """Group runs into rows: a part for every data set and model, in it a row for every method and its settings.

    Args:
        summaries: of runs, by name.
        published: see :func:`read_published`. Runs with changes to their method (``set``) have none.
        over: settings in which the runs of a row differ.

    Returns:
        Rows, those of one part in the order of the published numbers, then of ``METHODS``.
    """
    runs = [_Run(name, summary) for name, summary in summaries.items()]
    by_name = {run.name: run for run in runs}
    for run in runs:
        run.add_first_stage(by_name)
    groups: dict[tuple[Any, ...], list[_Run]] = {}
    for run in runs:
        groups.setdefault((*run.part.values(), run.method), []).append(run)
    rows = []
    for same_method in groups.values():
        names = _distinguishing(same_method, over)
        split: dict[tuple[Any, ...], list[_Run]] = {}
        for run in same_method:
            split.setdefault(tuple(_frozen(run.settings.get(name)) for name in (*names, "epochs")), []).append(run)
        rows += [_row(runs, names, published) for runs in split.values()]
    order = {line["method"]: place for place, line in reversed(list(enumerate(published)))}
    known = {name: len(order) + place for place, name in enumerate(METHODS, start=len(published))}
    return sorted(
        rows,
        key=lambda row: (
            [str(value) for value in row.part.values()],
            order.get(row.method, known.get(row.method, math.inf)),
            row.label,
            row.epochs or 0,
        ),
    )


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Names of runs; those that share one with the settings in which they differ, or else with their folders.

    A run need not be finished, and a damaged file counts as one that is not there.

    >>> import tempfile
    >>> runs = [RunFolder(tempfile.mkdtemp(), {"seed": seed, "lr": 0.1}) for seed in (0, 1)]
    >>> for run in runs:
    ...     run.write_json("summary.json", {"name": "erm"})
    >>> run_labels([run.path for run in runs])
    ['erm (seed 0)', 'erm (seed 1)']
    """
    names, settings = zip(*map(_identity, folders), strict=True) if folders else ((), ())
    namesakes: dict[str, list[dict[str, Any]]] = {}
    for name, mine in zip(names, settings, strict=True):
        namesakes.setdefault(name, []).append(mine)
    told = {name: _fewest(each) for name, each in namesakes.items()}
    words = [_in_words({key: mine.get(key) for key in told[name]}) for name, mine in zip(names, settings, strict=True)]
    labels = [_with(name, more) for name, more in zip(names, words, strict=True)]
    ends = [folder.resolve().parts[1:] for folder in folders]
    for length in range(1, max(map(len, ends), default=0) + 1):
        if len(set(labels)) == len(labels):
            break
        labels = [
            _with(names[k], [*words[k], "/".join(ends[k][-length:])]) if labels.count(label) > 1 else label
            for k, label in enumerate(labels)
        ]
    return [
        f"{each} #{labels[: k + 1].count(each)}" if labels.count(each) > 1 else each for k, each in enumerate(labels)
    ]


def _identity(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name of a run, and the settings by which it is told apart from others of its name."""
    run, summary, settings = RunFolder.open(folder), dict[str, Any](), dict[str, Any]()
    with contextlib.suppress(OSError, ValueError):
        summary = run.summary()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the last: values of other types
        settings = _compared(run.config())
    return str(summary.get("name") or folder.resolve().name), settings | {"data": summary.get("data")}


def training_set(summary: Mapping[str, Any]) -> str:
    """What a run was trained on: the name of its data and their imbalance ratio; empty if its summary has neither.

    >>> training_set({"dataset": "digits", "imbalance_ratio": 50.0, "class_counts": [114, 20, 2]})
    'digits, imbalance ratio 57 (asked: 50)'
    """
    given = summary.get("settings")
    settings = {**summary, **(given if isinstance(given, Mapping) else {})}
    words = (str(_data_name(summary, settings) or ""), ratio_in_words(_asked_ratio(settings), _real_ratio(summary)))
    return ", ".join(filter(None, words))


def ratio_in_words(asked: object, real: object) -> str:
    """An imbalance ratio, and the one that was asked for where rounding to whole samples made another one of it.

    >>> ratio_in_words(50.0, 57.0), ratio_in_words(None, 256.0), ratio_in_words(100.0, None)
    ('imbalance ratio 57 (asked: 50)', 'imbalance ratio 256', 'imbalance ratio 100')
    """
    wanted, found = (_rounded(value) if isinstance(value, (int, float)) else "" for value in (asked, real))
    if not wanted and not found:
        return ""
    return f"imbalance ratio {found or wanted}" + (
        f" (asked: {wanted})" if wanted and found not in ("", wanted) else ""
    )


def parameters_in_words(number: float) -> str:
    """How many parameters a network has, in millions, or in thousands where it is tiny.

    >>> parameters_in_words(470_004), parameters_in_words(75_002), parameters_in_words(650)
    ('0.47 M', '75.0 K', '650')
    """
    if number >= 100_000:
        return f"{number / 1e6:,.2f} M"
    return f"{number / 1e3:.1f} K" if number >= 1000 else f"{number:.0f}"


def _data_name(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The data set's own name, also where the setting says only of what kind it is, such as a folder."""
    kind, name = settings.get("dataset"), summary.get("data")
    if not name or (kind and f"{name}_".startswith(f"{kind}_")):
        return kind
    asked = _asked_ratio(settings)
    return name if asked is None else str(name).removesuffix(f"_ir{asked:g}")


def _asked_ratio(settings: Mapping[str, Any]) -> float | None:
    ratio = settings.get("imbalance_ratio")
    if not isinstance(ratio, (int, float)) or not ratio or settings.get("profile") == "natural":
        return None
    return float(ratio)


def _real_ratio(summary: Mapping[str, Any]) -> float | None:
    counts: Any = summary.get("class_counts")
    try:
        return float(max(counts) / min(counts))
    except (TypeError, ValueError, ZeroDivisionError):  # none, or a class without samples
        return None


def _rounded(ratio: float) -> str:
    return f"{ratio:.4g}"


class _Run:
    """A run with what tells it apart."""

    def __init__(self, name: str, summary: Mapping[str, Any]) -> None:
        self.name, self.summary = name, summary
        self.final: Mapping[str, Any] = summary["final"]
        # Versions before 0.2 recorded only some settings, beside the results, and the method as the name.
        old = {key: value for key, value in summary.items() if isinstance(value, (str, int, float)) and key in _OLD}
        settings = summary.get("settings")
        given: Mapping[str, Any] = settings if isinstance(settings, Mapping) else old
        self.method = str(summary.get("method") or summary.get("name") or name)
        everything = {**old, **given}
        everything |= _named(summary, everything)
        self.part = {key: everything[key] for key in PART if everything.get(key) not in (None, "")}
        self.changed = bool(given.get("set"))
        self.from_run = str(given.get("from_run") or "")
        self.settings = _compared(given, PART)
        self.settings["epochs"] = summary.get("epochs", given.get("epochs"))
        self.values = {**everything, "method": self.method}

    def add_first_stage(self, runs: Mapping[str, _Run]) -> None:
        """Count the settings of the first stage as its own."""
        first = runs.get(Path(self.from_run).name) if self.from_run else None
        if first is not None:
            self.settings |= {f"first_stage.{key}": value for key, value in first.settings.items()}


def _named(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Data set and network by their names, and the real imbalance ratio where it is not the one that was asked for."""
    found = {"dataset": _data_name(summary, settings), "model": settings.get("model") or summary.get("model")}
    asked, real = _asked_ratio(settings), _real_ratio(summary)
    if real is not None and (asked is None or _rounded(real) != _rounded(asked)):
        found["imbalance_ratio" if asked is None else "real_imbalance_ratio"] = real
    return found


_OLD = ("dataset", "model", "profile", "imbalance_ratio", "seed", "epochs", "test_fold", "image_size")


def _distinguishing(runs: Sequence[_Run], over: Sequence[str]) -> list[str]:
    left_out = {*over, *(f"first_stage.{name}" for name in over), "epochs"}
    return _fewest([run.settings for run in runs], left_out)


def _fewest(runs: Sequence[Mapping[str, Any]], left_out: Collection[str] = ()) -> list[str]:
    """The fewest settings that tell groups of runs apart; a protocol goes before what it sets."""
    # A setting that some runs lack came with a later version; changes of the method are there only where it has any.
    names = [name for name in runs[0] if all(name in run for run in runs)]
    names += [name for run in runs for name in run if "set." in name]
    wanted = [name for name in ("protocol", *names) if name in names and name not in left_out]
    chosen: list[str] = []

    def groups(keys: Iterable[str]) -> int:
        return len({tuple(_frozen(run.get(key)) for key in keys) for run in runs})

    for name in dict.fromkeys(wanted):
        if groups([*chosen, name]) > groups(chosen):
            chosen.append(name)
    return chosen


def _row(runs: Sequence[_Run], names: Sequence[str], published: Published) -> Row:
    first = runs[0]
    mean, deviation = {}, {}
    for name in dict.fromkeys(name for run in runs for name in run.final):
        known = [float(run.final[name]) for run in runs if isinstance(run.final.get(name), (int, float))]
        mean[name] = statistics.fmean(known) if known else None
        deviation[name] = statistics.stdev(known) if len(known) > 1 else None
    times = [run.summary["wall_time_s"] for run in runs if isinstance(run.summary.get("wall_time_s"), (int, float))]
    return Row(
        method=first.method,
        part=first.part,
        settings={name: first.settings[name] for name in names if first.settings.get(name) is not None},
        epochs=first.settings["epochs"],
        runs=len(runs),
        mean=mean,
        deviation=deviation,
        minutes=statistics.fmean(times) / 60 if times else None,
        parameters=first.summary.get("parameters"),
        num_classes=len(first.summary.get("class_names") or first.summary.get("class_counts") or ()),
        second_stage=bool(first.summary.get("first_stage") or first.summary.get("stage1") or first.from_run),
        published={} if first.changed else _published(first.values, published),
    )


def _published(values: Mapping[str, Any], published: Published, correction: str = "", test_set: str = "") -> Numbers:
    found: Numbers = {}
    asked = {"correction": correction, "test_set": test_set}
    not_settings = ("paper", "table", "epochs", "note", *PRINTED, *OTHER_THAN_A_RUN)
    for line in published:
        if any((line.get(name) or "") != asked.get(name, "") for name in OTHER_THAN_A_RUN):
            continue
        if all(_equal(values.get(key), cell) for key, cell in line.items() if key not in not_settings and cell):
            epochs = f", {line['epochs']} epochs" if line.get("epochs") else ""
            mine = found.setdefault((line["paper"] + epochs, line.get("note") or ""), {})
            for name in PRINTED:
                if line.get(name):
                    mine.setdefault(name, float(line[name]))
    return found


def _equal(value: Any, cell: str) -> bool:
    """Whether a setting has the value of a cell of text."""
    try:
        return float(value) == float(cell)
    except (TypeError, ValueError):
        return str(value) == cell


def _compared(settings: Mapping[str, Any], left_out: Collection[str] = ()) -> dict[str, Any]:
    """The settings by which runs are told apart, those of the method's changes by themselves."""
    kept = {
        key: value
        for key, value in settings.items()
        if key not in (*NOT_COMPARED, *left_out, "set") and not key.endswith(("_dir", "_every"))
    }
    return kept | {f"set.{key}": value for key, value in (settings.get("set") or {}).items()}


def _in_words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name.removeprefix('set.')} {_short(value)}" for name, value in settings.items() if value is not None]


def _with(name: str, more: Sequence[str]) -> str:
    """A name, and in brackets what else there is to say."""
    return f"{name} ({', '.join(more)})" if more else name


def _frozen(value: Any) -> Any:
    """A value that can be compared and be a key."""
    return repr(value) if isinstance(value, (list, dict)) else value


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


# --- what is written --------------------------------------------------------------------------------------------------


def write_tables(rows: Sequence[Row], out: Path, *, over: Sequence[str] = ("seed",), errors: bool = False) -> str:
    """Write table.md, table.csv and, where matplotlib is installed, table.png.

    Args:
        rows: of :func:`collect`.
        out: the folder.
        over: settings in which the runs of a row differ.
        errors: show accuracies as errors.

    Returns:
        The content of table.md.
    """
    text = _markdown(rows, "seeds" if tuple(over) == ("seed",) else "runs", errors)
    write_atomically(out / "table.md", text)
    write_atomically(out / "table.csv", _csv(rows))
    try:
        picture = io.BytesIO()
        _figure(rows, errors).savefig(picture, format="png", dpi=120)
        write_atomically(out / "table.png", picture.getvalue())
    except ModuleNotFoundError:
        sys.stderr.write("table.png is not drawn: it needs matplotlib, `pip install ltaug[plots]`.\n")
    return text


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    """The metrics that there are; top-5 only with many classes."""
    few = max((row.num_classes for row in rows), default=0) < MANY_CLASSES
    there = {name for row in rows for name in row.mean}
    return {name: head for name, head in COLUMNS.items() if name in there and not (few and name == "top5")}


def _percent(row: Row, name: str, errors: bool) -> str:
    """'40.1 ± 0.3', without the second part for a single run; a dash for an empty shot group."""
    mean, deviation = row.mean.get(name), row.deviation.get(name)
    if mean is None:
        return "–"
    mean = 1 - mean if errors and name in ACCURACIES else mean
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def _parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.heading, []).append(row)
    return parts


def _markdown(rows: Sequence[Row], counted: str, errors: bool) -> str:
    columns = _columns(rows)
    heads = [f"{head} error" if errors and name == "top1" else head for name, head in columns.items()]
    heads = ["method", *heads, counted, "epochs", "minutes"]
    compared = any(row.published for row in rows)
    heads += [f"published top-1{' error' if errors else ''}"] if compared else []
    lines, notes = [], dict[str, int]()
    for heading, mine in _parts(rows).items():
        what = f"{heading}, last epoch" if heading else "Last epoch"
        lines += [
            f"**{what}, in percent**, mean ± standard deviation over {counted}",
            "",
            f"| {' | '.join(heads)} |",
            "|---|" + "---:|" * (len(heads) - 1),
        ]
        for row in mine:
            minutes = "–" if row.minutes is None else f"{row.minutes:.1f}"
            cells = [_percent(row, name, errors) for name in columns] + [str(row.runs), str(row.epochs), minutes]
            if compared:
                cells.append(_cell(row.published, notes, errors) or "–")
            lines.append(f"| `{row.label}` | {' | '.join(cells)} |")
        lines.append("")
    if notes:
        lines += ["Published numbers:", "", *(f"- {line}" for line in _footnotes(notes)), ""]
    if any(row.second_stage for row in rows):
        lines += ["Epochs and minutes of a second stage are its own, on top of those of its first stage.", ""]
    return "\n".join(lines)


def _csv(rows: Sequence[Row]) -> str:
    flat = []
    for row in rows:
        values = {**row.part, "method": row.method, **row.settings, "runs": row.runs, "epochs": row.epochs}
        for name, mean in row.mean.items():
            values |= {name: mean, f"{name}_std": row.deviation[name]}
        published = "; ".join(
            f"{paper} {_printed(values)}{f' ({note})' if note else ''}"
            for (paper, note), values in row.published.items()
        )
        flat.append({**values, "minutes": row.minutes, "parameters": row.parameters, "published": published})
    names = list(dict.fromkeys(name for row in flat for name in row))
    return csv_text([names, *([row.get(name) for name in names] for row in flat)])


def _figure(rows: Sequence[Row], errors: bool) -> Figure:
    """Top-1 of every row with its deviation, and published numbers as crosses; a panel a part, two side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = _parts([row for row in rows if row.mean.get("top1") is not None])
    longest = max(map(len, parts.values()), default=0)
    parts = {heading: _drawn(mine) for heading, mine in parts.items()}
    labels = {heading: _distinct(mine) for heading, mine in parts.items()}
    sizes = [len(mine) for mine in parts.values()]
    heights = [1.1 + 0.3 * max(pair) for pair in itertools.zip_longest(sizes[::2], sizes[1::2], fillvalue=1)]
    width = 3.6 + 0.075 * max((len(label) for each in labels.values() for label in each), default=0)
    figure = Figure(figsize=(width * min(len(parts), 2), sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(max(len(heights), 1), max(min(len(parts), 2), 1), height_ratios=heights or None)
    note = f"top-1 {'error' if errors else 'accuracy'} (%); dots: ours, last epoch"
    note += "; crosses: published" if any(row.published for row in rows) else ""
    note += f"\nof more than {MOST_DRAWN} rows the best and the worst" if longest > MOST_DRAWN else ""

    def shown(percent: float) -> float:
        return 100 - percent if errors else percent

    for k, (heading, mine) in enumerate(parts.items()):
        ax = figure.add_subplot(grid[k // 2, k % 2])
        order = sorted(zip(mine, labels[heading], strict=True), key=lambda pair: pair[0].mean["top1"] or 0.0)
        for place, (row, _) in enumerate(order):
            mean, deviation = shown(100 * (row.mean["top1"] or 0.0)), 100 * (row.deviation["top1"] or 0.0)
            ax.errorbar(mean, place, xerr=deviation, fmt="o", color="#0072B2", capsize=3)
            there = [shown(values["top1"]) for values in row.published.values() if "top1" in values]
            ax.plot(there, [place] * len(there), "x", color="#D55E00")
        ax.set_yticks(range(len(order)), [label for _, label in order])
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.set_title(textwrap.fill(heading, 48), fontsize=11)
        ax.grid(axis="x", alpha=0.3)
    figure.supxlabel(note, fontsize=10)
    return figure


def _drawn(rows: list[Row]) -> list[Row]:
    """The rows that a figure shows: all, or of very many the best and the worst."""
    if len(rows) <= MOST_DRAWN:
        return rows
    order = sorted(rows, key=lambda row: row.mean["top1"] or 0.0)
    return [*order[: MOST_DRAWN // 4], *order[-MOST_DRAWN * 3 // 4 :]]


def _distinct(rows: Sequence[Row]) -> list[str]:
    """Labels of rows, with the epochs where several are alike."""
    labels = [row.label for row in rows]
    return [f"{row.label}, {row.epochs} epochs" if labels.count(row.label) > 1 else row.label for row in rows]
