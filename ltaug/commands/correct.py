"""Correction of a finished run, from its folder alone: the command `ltaug correct`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ltaug.commands._runs import without_absent
from ltaug.correction import (
    CALIBRATORS,
    ESTIMATES,
    KNOWN_OF_THE_MIX,
    STRENGTHS,
    Correction,
    prior_estimators,
    shifted_accuracy,
)
from ltaug.errors import UserError, as_user_errors, did_you_mean
from ltaug.metrics import confusion_matrix, segmentation_scores
from ltaug.priors import class_prior
from ltaug.run import CORRECTION_FILES, RunFolder, read_json
from ltaug.tables import Numbers, Published, published_in_words, published_numbers

__all__ = ["RunCorrection"]


class RunCorrection:
    """A correction of a run folder, asked for in the words of a command line.

    Args:
        folder: of a finished run.
        target_prior: `uniform`, `train`, `estimate`, `trend`, `center`, a JSON file, or None.
        strength: a number, or `search`, `grid`, `auto`, see :func:`ltaug.correction.tuned_strength`; None is 1.
        calibrate: `none`, `temperature`, `vector`, `bias_corrected` or `structured_matrix`.
        from_prior: `recorded`, `train`, `uniform` or a JSON file.
        folds: tune on each of so many parts of the test samples and test on the others, instead of on held-out samples.
        unlabelled: what an estimated prior is that of: a file of logits, see :func:`read_logits`; or samples, see
            :func:`ltaug.unlabelled.find_place`, which the run predicts first, into its ``predictions``. By default it
            is that of the test samples themselves.
        reading: how samples are read, where ``unlabelled`` is none of logits: further arguments of
            :func:`ltaug.predictions.predict_logits`.
        script: the recipe's training script, by which they are predicted, where it is not found by itself.

    Attributes:
        source: prior that the logits are under, float64 [C].
        reason: why it is that one.
        tuned_on: what the correction was tuned on, or None.
        estimated_on: what the prior was estimated on, or None.

    Raises:
        UserError: a word is wrong, or the run lacks what it asks for.
    """

    def __init__(
        self,
        folder: str | Path,
        target_prior: str | None = None,
        strength: str | None = None,
        calibrate: str = "none",
        from_prior: str = "recorded",
        folds: int | None = None,
        unlabelled: str | None = None,
        reading: Mapping[str, Any] | None = None,
        script: str | None = None,
    ) -> None:
        if unlabelled is not None and target_prior not in ESTIMATES:
            raise UserError(f"--unlabelled is what a prior is estimated on: --target_prior {', '.join(ESTIMATES)}.")
        if unlabelled is not None and folds is not None:
            raise UserError("--folds has a correction for each part, and so no single one that --unlabelled is for.")
        if strength is not None and target_prior is None:
            raise UserError("--strength is that of a correction: name the prior to correct for, --target_prior.")
        number = read_strength(strength)
        self.run = RunFolder.open(folder)
        self.info = self._read_info()
        self.names, self.counts = self.info["class_names"], torch.as_tensor(self.info["class_counts"])
        self.word, self.calibration, self.from_word, self.folds = target_prior, calibrate, from_prior, folds
        self.source, self.reason = self._source(from_prior)
        if absent := [name for name, share in zip(self.names, self.source.tolist(), strict=True) if not share]:
            if target_prior not in (None, "uniform"):
                raise UserError(
                    f"The prior that the logits of `{self.run.path}` are under is 0 for {absent[0]} ({len(absent)} "
                    f"such), of which the training had no sample: they cannot be corrected to {target_prior}. Take "
                    "--target_prior uniform, which leaves the logits of such classes as they are."
                )
            self.source = without_absent(self.source)
            self.reason += (
                f"; the logits of {len(absent)} of the classes, without training samples, are left as they are"
            )
        target: Any = None
        if target_prior in ESTIMATES:
            target = prior_estimators(self.counts)[target_prior]
        elif target_prior is not None:
            target = read_prior("--target_prior", target_prior, self.names, self.counts, ESTIMATES)
        calibrator = CALIBRATORS[calibrate](len(self.names)) if calibrate != "none" else None
        with as_user_errors():
            self.correction = Correction(self.source, target, number, calibrator, self.names)
        self.logits, self.labels = self.run.load_logits()
        if self.logits.shape[1] != len(self.names):
            raise UserError(
                f"`{self.run.path}` has logits of {self.logits.shape[1]} classes, but its ltaug.json names "
                f"{len(self.names)}."
            )
        if folds is not None and not self.correction.tunes:
            raise UserError(f"--folds is for what is tuned: --calibrate, or --strength {', '.join(STRENGTHS)}.")
        self.tuned_on = self._tune() if self.correction.tunes else None
        self.elsewhere = None if unlabelled is None else Path(unlabelled).expanduser()
        self.estimated_on = "the test samples themselves" if target_prior in ESTIMATES else None
        if self.elsewhere is not None:
            samples = self._logits_of(self.elsewhere, reading or {}, script)
            try:
                self.correction.estimate(samples)
            except ValueError as error:
                raise UserError(f"--unlabelled `{unlabelled}`: {error}") from error
            unit = "pixels of unlabelled scenes" if self.pixels else "unlabelled samples"
            self.estimated_on = f"{len(samples):,} {unit} of {self.elsewhere.name}"

    @property
    def pixels(self) -> bool:
        """Whether the run is a segmentation, whose samples are pixels."""
        return (self.run.path / "dense.json").is_file()

    @property
    def method(self) -> str:
        """What the run is called in tables."""
        summary = self.run.summary() if (self.run.path / "summary.json").is_file() else {}
        return str(summary.get("name") or self.info.get("method") or self.run.path.resolve().name)

    @property
    def source_in_words(self) -> str:
        """The prior that the logits are under, in a sentence."""
        top, bottom = int(self.source.argmax()), int(self.source.argmin())
        high, low = 100 * float(self.source[top]), 100 * float(self.source[bottom])
        if high - low < 1e-6 * high:
            return f"The logits are under the uniform prior, {high:.3g} % a class: {self.reason}."
        ends = f"from {high:.3g} % ({self.names[top]}) to {low:.3g} % ({self.names[bottom]})"
        return f"The logits are under a prior {ends}: {self.reason}."

    @property
    def doubt(self) -> str:
        """Why the training prior may be the wrong one to start from, in a sentence; empty where it is not."""
        recorded = str(self.info.get("logits_prior_reason") or "")
        if self.from_word != "train" or "that the loss corrects" not in recorded:
            return ""
        return (
            "But the loss of this run has taken the training prior out already: from `train` it is taken out twice. "
            "LADE, section 4.3, starts such a model from the recorded prior: leave out --preset, or --from_prior."
        )

    def _description(self, strength: float | None) -> str:
        """What was done, for tables: how a strength was found, too, and from which prior if not the recorded one."""
        by = self.correction.strength_by
        parts = [f"to {self.word}" + (f" of {self.elsewhere.name}" if self.elsewhere else "")] if self.word else []
        if self.word and by:
            parts.append(f"strength {strength:.3g} ({by})")
        elif self.word:
            parts.append(f"strength {strength:g}")
        if self.word and self.from_word != "recorded":
            parts.append(f"from {self.from_word}")
        return ", ".join([*parts, *([self.calibration] if self.calibration != "none" else [])]) or "none"

    def evaluate(self) -> dict[str, Any]:
        """Correct the test logits; returns what corrected.json holds of it."""
        with as_user_errors():
            data = self.logits, self.labels, self.counts
            if self.folds is None:
                found = self.correction.evaluate(*data)
                if self.pixels:
                    self._score_pixels(found)
            else:
                found = self.correction.evaluate_folds(*data, self.folds)
        calibrator = self.correction.calibrator if self.folds is None else None  # the folds have one each
        return {
            "description": self._description(found["strength"]),
            **self._made_by(),
            "calibrator": None if calibrator is None else calibrator.state_dict(),
            "class_names": self.names,
            **found,
        }

    def _score_pixels(self, found: dict[str, Any]) -> None:
        """Add mIoU and mACC to the metrics of a segmentation, of the pixels that the run has kept."""
        logits = {"uncorrected": self.logits, "final": self.correction(self.logits)}
        if found["calibrated"] is not None:
            logits["calibrated"] = self.correction.calibrate(self.logits)
        for name, each in logits.items():
            scores = segmentation_scores(confusion_matrix(each.softmax(1), self.labels))
            found[name] |= {"miou": scores.mean_iou, "macc": scores.mean_accuracy}

    def shifted(self) -> dict[str, Any]:
        """Accuracy on test sets of other class mixes; returns what corrected.json holds of it under `shifted`."""
        calibrated = self.correction.calibrate(self.logits) if self.calibration != "none" else None
        with as_user_errors():
            accuracy = shifted_accuracy(self.logits, self.labels, self.counts, self.source, calibrated)
        return {**accuracy, **self._made_by()}

    def gain(self, found: Mapping[str, Any]) -> str:
        """What the shift gains, in a sentence, from what :meth:`evaluate` found; empty where nothing is shifted."""
        if self.word is None:
            return ""
        where = "Weighted to the class mix that is corrected for"
        if self.elsewhere is not None:
            where = f"Weighted to the class mix of {self.elsewhere.name}, as estimated"
        elif self.word in ESTIMATES:
            where = "On the test samples as they are, whose class mix was estimated"
        before, after = (100 * found["top1_on_target"][key] for key in ("uncorrected", "corrected"))
        return f"{where}, top-1 is {after:.1f} %, {before:.1f} % without."

    def spread(self, found: Mapping[str, Any]) -> str:
        """How the folds differ, in a sentence, from what :meth:`evaluate` found; empty without folds."""
        if self.folds is None:
            return ""
        off, strength = found["spread"], ""
        if self.correction.strength_by and self.word:
            strength = f", at a strength of {found['strength']:.3g} ± {off['strength']:.2g}"
        before, after = (
            f"{100 * found[key]['top1']:.1f} ± {100 * off[key]['top1']:.1f} %" for key in ("uncorrected", "final")
        )
        return f"Mean and standard deviation of the {self.folds} folds: top-1 {after}{strength}, {before} without."

    def rows(self, found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Rows of a table from what :meth:`evaluate` found: metrics by name."""
        rows = {self.method: found["uncorrected"], f"{self.method} ({self.calibration})": found["calibrated"]}
        rows[f"{self.method} ({found['description']})"] = found["final"]
        return {name: metrics for name, metrics in rows.items() if metrics is not None}

    def shifted_table(self, found: Mapping[str, Any]) -> str:
        """Markdown of what :meth:`shifted` found, in percent, and what its rows and columns mean."""
        rows = {name: values for name, values in found.items() if isinstance(values, dict)}
        sets = list(rows["none"])
        heads = [name[0].upper() + name.partition(" ")[2] for name in sets]
        lines = [["class mix", "logits", *heads], ["---", "---"] + ["---:"] * len(sets)]
        for name, values in rows.items():
            digits = 0 if name.endswith("kept") else 1
            cells = ("–" if math.isnan(value) else f"{100 * value:.{digits}f}" for value in values.values())
            lines.append([name, "as trained" if "none" in (name, self.calibration) else self.calibration, *cells])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        shown = {row: text for row, text in KNOWN_OF_THE_MIX.items() if row in rows or row == "kept"}
        size = max(map(len, shown))
        legend = "\n".join(f"  {row.ljust(size)}  {text}" for row, text in shown.items())
        return (
            f"{table}\n\nTop-1 in percent on test sets of other class mixes, all drawn from the run's: in F50 "
            "(forward) the classes fall\nlike 50^(-k / C), k = 0 to C - 1, from the most frequent one of the training "
            f"on, in B50 (backward) from its\nrarest one on; U is uniform.\n{legend}"
        )

    def published(self, lines: Published, corrected: bool, shifted: bool) -> list[str]:
        """Published numbers of this run's method and data, corrected or not, in lines of text.

        Args:
            lines: see :func:`ltaug.tables.read_published`.
            corrected: those of corrected logits, and of logits as they are.
            shifted: those on test sets of other class mixes.
        """
        summary = self.run.summary() if (self.run.path / "summary.json").is_file() else {}
        found: dict[str, Numbers] = {}
        for word in ("", "pc_softmax", "ic") if corrected else ():
            found[f"{self.method}{word and f' ({word})'}"] = published_numbers(summary, lines, word)
        for word, row in (("", "none"), ("given", "given")) if shifted else ():
            together = found.setdefault(f"`{row}` above", {})
            for name in dict.fromkeys(line["test_set"] for line in lines if line.get("test_set")):
                for key, numbers in published_numbers(summary, lines, word, name).items():
                    together.setdefault(key, {})[name] = numbers["top1"]
        return published_in_words(found)

    def save(self, corrected: Mapping[str, Any] | None, shifted: Mapping[str, Any] | None) -> Path:
        """Write corrected.json, and the correction itself beside it, for :meth:`Correction.load`.

        Of an earlier call they keep what is not done again. Parts of the test samples have a correction each, and none
        is written.
        """
        if corrected is not None:
            for name in CORRECTION_FILES:
                (self.run.path / name).unlink(missing_ok=True)
            if self.folds is None:
                self.correction.save(self.run.path)
        path = self.run.path / "corrected.json"
        try:
            earlier = read_json(path) if path.is_file() else {}
        except ValueError:
            earlier = {}
        before = earlier.pop("shifted", None)
        content = dict(earlier if corrected is None else corrected)
        shifted = before if shifted is None else shifted
        self.run.write_json("corrected.json", content if shifted is None else {**content, "shifted": shifted})
        return path

    def _made_by(self) -> dict[str, Any]:
        return {
            "from_prior": self.source,
            "from_prior_reason": self.reason,
            "calibration": self.calibration,
            "tuned_on": self.tuned_on,
            "estimated_on": self.estimated_on,
        }

    def _logits_of(self, place: Path, reading: Mapping[str, Any], script: str | None) -> Tensor:
        """Logits of unlabelled samples, which are read or, of files of samples, computed by the run."""
        if place.suffix in LOGITS and not place.is_dir():
            if given := [name for name, value in {**reading, "script": script}.items() if value]:
                raise UserError(f"--{given[0]} is for samples, but --unlabelled `{place}` is a file of logits.")
            return read_logits(place, self.names)
        from ltaug.predictions import open_model, predict_logits

        try:
            model = open_model(self.run.path, script)
            if model.info.get("calibrator"):  # of an exported model, where the recipe is not there
                raise UserError(f"{model.path} calibrates by itself. Export it without a correction (--raw).")
            return predict_logits(model, place, **reading)
        except UserError as error:
            kinds = ", ".join(LOGITS)
            raise UserError(f"--unlabelled `{place}` is no file of logits ({kinds}). As samples: {error}") from error

    def _read_info(self) -> dict[str, Any]:
        """The run's ltaug.json with class names and counts."""
        info = self.run.info() if (self.run.path / "ltaug.json").is_file() else {}
        for name in ("class_names", "class_counts"):
            if not info.get(name):
                raise UserError(
                    f"`{self.run.path}` has no ltaug.json with `{name}`: it is no finished run. Train it to its end."
                )
        if info.get("several_labels"):
            raise UserError(
                f"`{self.run.path}` has several labels a sample, but corrections here are of classes that exclude each "
                "other. `ltaug.shift_binary_logits` and `ltaug.PlattScaling` correct its logits."
            )
        return info

    def _source(self, word: str) -> tuple[Tensor, str]:
        """The prior that the logits are under, and why."""
        if word != "recorded":
            source = {"train": "the training set's class counts", "uniform": "uniform"}.get(word, word)
            return read_prior("--from_prior", word, self.names, self.counts), f"given, {source}"
        prior, reason = self.info.get("logits_prior"), self.info.get("logits_prior_reason")
        if prior is None:
            why = f" ({reason})" if reason else ""
            raise UserError(
                f"`{self.run.path}` does not say which prior its logits are under{why}. Name one: --from_prior train, "
                "uniform or a JSON file."
            )
        with as_user_errors():
            return class_prior(torch.tensor(prior, dtype=torch.float64)), str(
                reason or "as recorded, by an earlier version that gave no reason"
            ).removesuffix(".")

    def _tune(self) -> str:
        """Tune the correction on the run's held-out logits, unless there are folds; returns what they are."""
        if self.folds is not None:
            return f"each of {self.folds} parts of the test samples in turn, tested on the others"
        if not (self.run.path / "held_out.safetensors").is_file():
            raise UserError(
                f"`{self.run.path}` has no held-out logits (held_out.safetensors), which --calibrate and --strength "
                f"{self.correction.strength_by or 'auto'} are tuned on. Train it with held-out samples, leave these "
                "options out, or take --folds 3, parts of the test samples."
            )
        logits, labels = self.run.load_logits("held_out.safetensors")
        with as_user_errors():
            self.correction.tune(logits, labels)
        return str(self.info.get("held_out") or f"{len(labels)} held-out samples").removesuffix(".")


def read_strength(text: str | None) -> float | str:
    """Read a strength: a number from 0, by default 1, or a word of how to find it.

    Raises:
        UserError: it is neither.
    """
    if text in STRENGTHS:
        return str(text)
    try:
        strength = float(text or 1)
    except ValueError:
        strength = math.nan
    if not 0.0 <= strength < math.inf:
        hint = did_you_mean(str(text), STRENGTHS) or "."
        raise UserError(f"--strength must be a number from 0, {', '.join(STRENGTHS)}, but is {text!r}{hint}")
    return strength


def read_logits(path: Path, class_names: Sequence[str]) -> Tensor:
    """Read logits of unlabelled samples, one row a sample and one number a class.

    From .npy; from .npz and .safetensors, where they are called `logits` or are alone, such as a run's
    logits.safetensors; or from .csv, whose first line may name the classes, in any order.

    Args:
        path: of the file, with one of these suffixes.
        class_names: C names.

    Returns:
        float32 or float64 [N, C].

    Raises:
        UserError: there is no such file, or it holds something else; the message names it.
    """
    option, size = f"--unlabelled `{path}`", len(class_names)
    if not path.is_file():
        raise UserError(f"{option} is not there.")
    try:
        found = LOGITS[path.suffix](path, class_names)
        logits = torch.as_tensor(found)
    except (ValueError, TypeError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"{option} cannot be read as logits: {error}.") from error
    if logits.ndim != 2 or logits.shape[1] != size or not logits.is_floating_point() or not len(logits):
        raise UserError(
            f"{option} must hold logits [N, {size}], a floating-point number for each class of the run, but holds "
            f"{logits.dtype} of shape {list(logits.shape)}."
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _array(path: Path, class_names: Sequence[str]) -> Any:
    found = np.load(path, allow_pickle=False)
    return found if isinstance(found, np.ndarray) else _only(dict(found))


def _tensors(path: Path, class_names: Sequence[str]) -> Any:
    return _only(load_file(path))


def _only(found: Mapping[str, Any]) -> Any:
    """What is called `logits`, or is alone."""
    if "logits" not in found and len(found) != 1:
        raise ValueError(f"it has no `logits`, but {', '.join(found) or 'nothing'}")
    return found.get("logits", next(iter(found.values())))


def _table(path: Path, class_names: Sequence[str]) -> Any:
    rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))) if row]
    order = list(range(len(class_names)))
    if rows and not _are_numbers(rows[0]):
        heads, names = (
            [unicodedata.normalize("NFC", name.strip()) for name in each] for each in (rows[0], class_names)
        )
        if sorted(heads) != sorted(names):
            raise ValueError(f"its first line must name the {len(names)} classes of the run, {names[0]!r} and so on")
        order, rows = [heads.index(name) for name in names], rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != len(class_names):
            raise ValueError(f"row {number} has {len(row)} numbers, but the run {len(class_names)} classes")
    return np.array([[float(row[k]) for k in order] for row in rows], dtype=np.float64)


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


LOGITS = {".npy": _array, ".npz": _array, ".safetensors": _tensors, ".csv": _table}
"""Readers of logits by the suffix of their file."""


def read_prior(
    option: str,
    word: str,
    class_names: Sequence[str],
    counts: Tensor,
    others: Sequence[str] = ("recorded",),
    several_labels: bool = False,
) -> Tensor:
    """Read the prior `uniform` or `train`, or that of a JSON file: a positive number a class, in order or by name.

    Args:
        option: that the word was given for, for messages.
        word: `uniform`, `train`, or the path of a file, such as the corrected.json of another correction.
        class_names: C names.
        counts: training samples a class, [C].
        others: words that the option takes, too, for messages.
        several_labels: whether a file has the share of the samples that have each label.

    Returns:
        float64 [C], sum 1, or the shares.

    Raises:
        UserError: it is none of them, or the file lacks a class or has another one.
    """
    size = len(class_names)
    if word == "uniform":
        return torch.full((size,), 1.0 / size, dtype=torch.float64)
    if word == "train":
        return class_prior(counts)
    if not Path(word).expanduser().is_file():
        words = ("uniform", "train", *others)
        hint = did_you_mean(word, words) or "."
        no_file = " There is no such file." if Path(word).suffix else ""
        raise UserError(f"{option} must be {', '.join(words)} or a JSON file, but is {word!r}{hint}{no_file}")
    form = "Write a list of numbers, or {name: number}, as UTF-8."
    try:  # of bytes, json finds out whether they are UTF-8 or UTF-16; Windows puts a mark before UTF-8
        content = Path(word).expanduser().read_bytes().removeprefix(codecs.BOM_UTF8)
        values = json.loads(content, object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option} {word!r} is not readable as JSON: {error}. {form}") from error
    if isinstance(values, dict) and "target_prior" in values and "class_names" in values:  # of a corrected.json
        values = dict(zip(values["class_names"], values["target_prior"] or [], strict=False))
    if isinstance(values, dict):
        values = {unicodedata.normalize("NFC", name.strip()): value for name, value in values.items()}
        class_names = [unicodedata.normalize("NFC", name.strip()) for name in class_names]
        if missing := [name for name in class_names if name not in values]:
            raise UserError(f"{option} {word!r} has no number for {missing[0]!r} ({len(missing)} are missing).")
        if surplus := [name for name in values if name not in class_names]:
            raise UserError(
                f"{option} {word!r} has a number for {surplus[0]!r}, which is no class of this run ({len(surplus)} are "
                "too many)."
            )
        values = [values[name] for name in class_names]
    if not isinstance(values, list) or len(values) != size or not all(map(_is_positive, values)):
        there = f"but holds {len(values)}" if isinstance(values, list) else f"but holds a {type(values).__name__}"
        if isinstance(values, list) and len(values) == size:
            wrong = next(k for k, value in enumerate(values) if not _is_positive(value))
            there = f"but holds {values[wrong]!r} for {class_names[wrong]!r}"
        raise UserError(
            f"{option} {word!r} must hold one positive number for each of the {size} classes, {there}; one that does "
            "not occur gets a small one, such as 1e-9 of a sum of 1."
        )
    prior = torch.tensor(values, dtype=torch.float64)
    if several_labels:
        from ltaug.posthoc.binary import as_shares

        with as_user_errors():
            return as_shares(prior, f"{option} {word}")
    prior = prior / prior.max()  # whose sum cannot overflow
    return prior / prior.sum()


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of a JSON file, in which no name may stand twice: the last would win."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names {name!r} twice")
        found[name] = value
    return found


def _is_positive(value: object) -> bool:
    """Whether a value of a JSON file is a positive number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
