"""What a page is made of: a run folder, read as far as it goes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from markupsafe import Markup
from torch import Tensor

from ltaug import metrics
from ltaug.priors import as_counts
from ltaug.report._format import METRICS, as_number, as_whole
from ltaug.report._old import SHIFTED, read_shifted_csv, renamed
from ltaug.run import RunFolder, read_json
from ltaug.tables import training_set

T = TypeVar("T")
KEPT = ", kept"
"""End of the name of a row that holds no accuracies, but shares of what the known class mix gains."""


@dataclass
class Shifted:
    """Accuracy on test sets of other class mixes."""

    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By what is known of the mix, then by test set."""
    calibration: str = ""
    """How the logits of all rows but "none" were calibrated; empty if they were not."""
    tuned_on: str = ""
    """What the calibration was fitted on."""

    @property
    def sets(self) -> list[str]:
        """Names of the test sets."""
        return list(dict.fromkeys(name for cells in self.rows.values() for name in cells))

    @property
    def has_shares(self) -> bool:
        """Whether there are rows that hold no accuracies."""
        return len(self.curves) < len(self.rows)

    @property
    def curves(self) -> dict[str, dict[str, float | None]]:
        """The rows that hold accuracies."""
        return {name: cells for name, cells in self.rows.items() if not name.endswith(KEPT)}


class Record:
    """A run folder as pages show it; every file may be missing.

    Args:
        path: a folder as :class:`ltaug.run.RunFolder` writes it.
        keep_logits: False where only the accuracies are needed: logits of many runs would fill the memory.

    Attributes:
        problems: by file, why it could not be read.
        several: whether samples have several labels.
        logits: test logits [N, C] and labels [N], or rows [N, C] of several labels; or None.
        accuracy: fraction a class [C], NaN without test sample; average precision of several labels; None where the run
            has no test result yet.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, path: Path, *, keep_logits: bool = True) -> None:
        self.folder = folder = RunFolder.open(path)
        self.path = folder.path
        self.problems: dict[str, str] = {}
        self.summary: dict[str, Any] = self._read("summary.json", folder.summary, {})
        self.rows: list[dict[str, Any]] = self._read("metrics.jsonl", folder.rows, [])
        self.config: dict[str, Any] = self._read("config.yaml", folder.config, {})
        self.environment = self._read_json("environment.json")
        self.data = self._read_json("data.json")
        self.command = self._read("command.txt", lambda: _text(path / "command.txt").strip(), "")
        self.corrected = renamed(self._read_json("corrected.json"))
        self.shifted = self._shifted()
        logits = self._read("logits.safetensors", folder.load_logits, None)
        self._per_class: list[dict[str, str]] = self._read("per_class.csv", folder.per_class, [])
        self.several = logits[1].ndim > 1 if logits is not None else "map" in self.final
        self.accuracy = self._accuracy(logits)
        self.logits: tuple[Tensor, Tensor] | None = logits if keep_logits else None

    def _read(self, name: str, parse: Callable[[], T], default: T) -> T:
        if not (self.path / name).exists():
            self.problems[name] = "is not there"
            return default
        try:
            return parse()
        except (OSError, ValueError, KeyError, csv.Error) as error:
            self.problems[name] = f"could not be read ({str(error).replace(str(self.path / name), name)})"
            return default

    def _read_json(self, name: str) -> dict[str, Any]:
        nothing: dict[str, Any] = {}
        return self._read(name, lambda: read_json(self.path / name), nothing)

    def _shifted(self) -> Shifted:
        found: Any = self.corrected.get("shifted")
        if not isinstance(found, dict):
            nothing: dict[str, Any] = {}
            found = self._read(SHIFTED, lambda: read_shifted_csv(self.path), nothing)
        rows = {
            name: {test: as_number(value) for test, value in cells.items()}
            for name, cells in found.items()
            if isinstance(cells, dict)
        }
        calibration, tuned_on = (str(found.get(key) or "") for key in ("calibration", "tuned_on"))
        return Shifted(rows, "" if calibration == "none" else calibration, tuned_on)

    def _accuracy(self, results: tuple[Tensor, Tensor] | None) -> Tensor | None:
        if results is not None:
            logits, labels = results
            if self.several:
                return metrics.average_precision(logits.sigmoid(), labels)
            return metrics.per_class_accuracy(logits.argmax(dim=1), labels, num_classes=logits.shape[1])
        measure = "test_average_precision" if self.several else "test_accuracy"
        values = [as_number(row.get(measure)) for row in self._per_class]
        return torch.tensor([math.nan if value is None else value for value in values]).double() if values else None

    @property
    def name(self) -> str:
        """What the run is called: its method, or its folder."""
        return str(self.summary.get("name") or self.path.resolve().name)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
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
        score = (as_number(row.get("top1", row.get("map"))) for row in self.rows)
        return max((n for n, value in enumerate(score, 1) if value is not None), default=0)

    @property
    def class_counts(self) -> Tensor | None:
        """Training samples a class, int64 [C]; None where the run does not say."""
        counts = self.summary.get("class_counts")
        if counts is None:
            counts = [as_whole(row.get("train_count")) for row in self._per_class]
        try:
            return as_counts(counts)
        except (TypeError, ValueError, RuntimeError):
            return None

    @property
    def class_names(self) -> list[str]:
        """A name a class; their indices where the run has none."""
        names = self.summary.get("class_names") or [row.get("name") for row in self._per_class]
        size = max((len(values) for values in (self.class_counts, self.accuracy) if values is not None), default=0)
        if isinstance(names, list) and len(names) >= size and None not in names:
            return [str(name) for name in names]
        return [f"class {index}" for index in range(size)]

    @property
    def training_set(self) -> str:
        """Name and imbalance ratio of the data that it was trained on; empty where it does not say."""
        counts = self.class_counts
        return training_set({**self.summary, "class_counts": None if counts is None else counts.tolist()})

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Hashes and the like by which the data of two runs can be compared."""
        found = {key: value for key, value in self.data.items() if key not in ("class_names", "class_counts")}
        return found or {key: self.summary[key] for key in ("index_hash",) if self.summary.get(key)}

    def weights(self) -> dict[str, Tensor]:
        """The final weights, by the names of the state dict; empty where there are none. Read when asked for."""
        return self._read("model.safetensors", lambda: self.folder.load_model()[0], {})

    def class_weights(self) -> Tensor | None:
        """The weight of the last layer, [C, D]; None where no matrix has a row a class, or several have."""
        counts = self.class_counts
        found = [
            value
            for name, value in self.weights().items()
            if counts is not None and name.endswith("weight") and value.ndim == 2 and len(value) == len(counts)
        ]
        return found[0] if len(found) == 1 else None

    def first_stage(self) -> Record | None:
        """The run whose network this one, a second stage, started from; None if it is none, or that is not there."""
        place = self.config.get("from_run")
        if not isinstance(place, str) or not place:
            return None
        places = (Path(place), self.path.parent / Path(place).name)  # the second: after both have moved
        return next((Record(path, keep_logits=False) for path in places if path.is_dir()), None)

    def missing(self, *names: str) -> Markup:
        """A sentence about each file that is not there or not readable."""
        sentence = Markup("<code>{}</code> {}.")
        return Markup(" ").join(sentence.format(name, self.problems[name]) for name in names if name in self.problems)

    def damaged(self, *names: str) -> Markup:
        """The same of files that are there, but not readable."""
        return self.missing(*(name for name in names if self.problems.get(name) != "is not there"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def differing_data(records: Mapping[str, Record]) -> list[str]:
    """What the data of several runs differ in, by the names of their fingerprints."""
    values: dict[str, set[str]] = {}
    for record in records.values():
        for key, value in record.fingerprint.items():
            values.setdefault(key, set()).add(str(value))
    return [key for key, found in values.items() if len(found) > 1]
