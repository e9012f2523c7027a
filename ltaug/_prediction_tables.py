"""The correction of predictions, and their table."""

from __future__ import annotations

import array
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ltaug._prediction_store import SHOWN, Store
from ltaug.correction import ESTIMATES, Correction, prior_estimators
from ltaug.errors import UserError, as_user_errors, did_you_mean
from ltaug.labelshift import prior_interval
from ltaug.loaders._notes import warn
from ltaug.posthoc import shift_logits
from ltaug.priors import Counts, as_counts
from ltaug.run import csv_text

if TYPE_CHECKING:
    from ltaug.predictions import PredictionModel

NUMBERS_AT_ONCE = 1 << 22
"""Logits that are corrected at once."""
MANY = 2_000_000
"""Logits from which on an interval is of 100 resampled data sets instead of 200."""


@dataclass
class Shift:
    """What becomes of logits before they are probabilities."""

    words: str
    saved: Correction | None = None
    """Whose calibrator is applied."""
    source: Tensor | None = None
    target: Tensor | None = None
    strength: float = 1.0
    interval: tuple[Tensor, Tensor] | None = None
    estimated_on: int | None = None
    replicates: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Correct logits [N, C, ...]."""
        if self.saved is not None:
            rows = logits.movedim(1, -1)
            logits = self.saved.calibrate(rows.flatten(0, -2)).view(rows.shape).movedim(-1, 1)
        if self.target is None or self.source is None:
            return logits
        return shift_logits(logits, self.source, self.target, self.strength)

    @property
    def digest(self) -> str:
        """SHA-256 of all that corrected logits follow from, but for the model's."""
        priors = [None if prior is None else prior.tolist() for prior in (self.source, self.target)]
        parts = [self.words, *priors, self.strength, None if self.saved is None else self.saved.digest]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def interval_of(self, k: int) -> dict[str, float]:
        """Share of a class by the estimate, and the ends of its interval."""
        if self.interval is None or self.target is None:
            return {}
        ends = [float(each[k]) for each in (self.target, *self.interval)]
        return dict(zip(("estimated_share", "low", "high"), ends, strict=True))


class Asked:
    """A correction that is asked for, checked before anything is computed."""

    def __init__(self, model: PredictionModel, target: Counts | None, estimate: str | None, raw: bool) -> None:
        self.model, self.estimate, self.target = model, estimate, None
        if estimate is not None and estimate not in ESTIMATES:
            raise UserError(
                f"`estimate` must be one of {', '.join(ESTIMATES)}, but is {estimate!r}"
                f"{did_you_mean(estimate, ESTIMATES) or '.'}"
            )
        if estimate is not None and target is not None:
            raise UserError("`target_prior` and `estimate` are two priors to correct for. Leave one of them out.")
        if model.several_labels and (estimate is not None or target is not None):
            raise UserError(
                "The model has several labels a sample, which have no class prior in common: `target_prior` and "
                "`estimate` are for classes that exclude each other. `ltaug.shift_binary_logits` and "
                "`ltaug.posthoc.estimate_label_prior` are for its logits."
            )
        if estimate is not None and model.scenes:
            raise UserError(
                "The pictures of classes are written as scenes are read, before their mix is known. Estimate it first, "
                "with `ltaug correct` on these unlabelled scenes, whose correction is applied then."
            )
        if raw and model.info.get("calibrator"):
            raise UserError(f"`{model.path}` has a calibrator inside, which `raw` cannot leave out. Export it without.")
        self.saved = None if raw or model.several_labels else model.correction
        if self.saved is not None and (model.info.get("calibrator") or model.target is not None):
            if model.info.get("correction") != self.saved.digest:
                raise UserError(
                    f"`{model.path}` has another correction inside than the one that is saved beside it. Export the "
                    "run again, export it without a correction (`raw`), or delete one of the two."
                )
            self.saved = None  # it is applied inside
        self.own = None if raw else model.target
        if self.saved is not None and self.saved.target is not None and self.saved.target.ndim > 1:
            raise UserError(
                f"The correction that is saved in `{model.path}` has a prior for each of its own samples. Make another "
                "one by `ltaug correct`, or leave it out (`raw`)."
            )
        asks = estimate is not None or target is not None
        source = model.logits_prior if self.saved is None else self.saved.logits_prior
        if asks and source is None:
            raise UserError(
                f"`{model.path}` does not say which prior its logits are under "
                f"({model.info.get('logits_prior_reason') or 'no reason is given'}), so that nothing can be corrected "
                "from it. `ltaug correct` with a prior that you name keeps a correction, which is applied here."
            )
        if target is not None:
            with as_user_errors():
                prior = as_counts(target, "target_prior", integers=False, positive=True).double().cpu()
            if len(prior) != len(model.class_names):
                raise UserError(
                    f"`target_prior` has {len(prior)} numbers, but the model {len(model.class_names)} classes."
                )
            self.target = prior / prior.sum()
        if asks and source is not None and (absent := (source <= 0).nonzero()[:, 0].tolist()):
            if self.target is None or not bool((self.target == self.target[0]).all()):
                raise UserError(
                    f"The prior that the logits are under is 0 for {model.class_names[absent[0]]} ({len(absent)} "
                    "such), of which the training had no sample: they can be corrected to the uniform prior only."
                )
            from ltaug.commands._runs import without_absent

            source = without_absent(source)
        self.source = source
        strength = model.strength if self.saved is None else self.saved.strength
        self.strength = 1.0 if strength is None else strength

    def _calibration(self) -> tuple[Correction | None, str]:
        """What calibrates, unless it is inside of the model, and what is said of it."""
        if inside := self.model.info.get("calibrator"):
            return None, f"calibrated ({inside}) inside of the exported model"
        if self.saved is None or self.saved.calibrator is None:
            return None, ""
        return self.saved, f"calibrated ({type(self.saved.calibrator).__name__})"

    def shift(self) -> Shift:
        """The correction, where nothing is estimated."""
        if self.target is not None:
            return self._to(self.target, "the prior asked for")
        if self.saved is not None and self.saved.target is not None:
            return self._to(self.saved.target, "the prior of the run's saved correction")
        if self.own is not None:
            return self._to(self.own, "the default prior of the exported model")
        calibrates, kind = self._calibration()
        return Shift(kind or "none: the logits as the model gives them", calibrates)

    def _to(self, target: Tensor, what: str) -> Shift:
        calibrates, kind = self._calibration()
        strength = "" if self.strength == 1 else f", strength {self.strength:.3g}"
        words = f"{kind}{kind and ', and '}shifted to {what}{strength}"
        return Shift(words, calibrates, self.source, target, self.strength)

    def estimated(self, logits: Tensor) -> Shift:
        """The correction for the mix of some samples, [N, C]."""
        calibrates, _ = self._calibration()
        z, source = logits if calibrates is None else calibrates.calibrate(logits), self.source
        with as_user_errors():
            estimators = prior_estimators(self.model.class_counts)
            target = estimators[str(self.estimate)](z, source).clamp(min=1e-9)  # type: ignore[arg-type]  # it is known
            more: dict[str, Any] = {}
            if self.estimate == "trend":
                more = {"trend": self.model.class_counts.double().log()}
            elif self.estimate == "center":
                more = {"center": estimators["trend"](z, source).clamp(min=1e-30)}  # type: ignore[arg-type]
            many = z.numel() > MANY
            if many:
                warn(f"The interval of the mix is by resampling {len(z):,} samples: it may take a minute or two.")
            replicates = 100 if many else 200
            low, high = prior_interval(z, source, replicates=replicates, **more)  # type: ignore[arg-type]
        shift = self._to(target / target.sum(), f"the mix of these samples ({self.estimate})")
        shift.interval, shift.estimated_on, shift.replicates = (low, high), len(z), replicates
        return shift


# --- the table -------------------------------------------------------------------------------------------------------


def write_table(store: Store, model: PredictionModel, shift: Shift) -> list[dict[str, float]]:
    """Write predictions.csv; returns how often each class is predicted, as shares, and its mean probability."""
    names, logits, size = model.class_names, store.logits(), len(model.class_names)
    counts, mass, total = np.zeros(size), np.zeros(size), 0
    hashes, bad = array.array("q"), list[str]()
    if model.several_labels:
        heads = ["labels", *(f"p({name})" for name in names)]
    elif model.scenes:
        heads = ["picture", *(f"share({name})" for name in names)]
    else:
        heads = ["class", "probability", "second", "second_probability"]
    at_once = max(1, NUMBERS_AT_ONCE // size)
    lines, place = store.lines(), 0
    temporary = store.folder / f".ltaug-predictions.csv-{os.getpid()}.tmp"
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(csv_text([["name", *heads, "error"]]))
            while chunk := list(islice(lines, at_once)):
                number = sum("error" not in row for row in chunk)
                if model.scenes:
                    cells, found, seen = _scene_cells(chunk)
                else:
                    z = torch.from_numpy(np.array(logits[place : place + number]))
                    cells, found, seen = (
                        _label_cells(z, names) if model.several_labels else _class_cells(shift(z), names)
                    )
                place += number
                counts, mass = counts + found, mass + seen
                total += int(found.sum()) if model.scenes else number
                cell = iter(cells)
                file.write(
                    csv_text(
                        [row["name"], *([""] * len(heads) if "error" in row else next(cell)), row.get("error", "")]
                        for row in chunk
                    )
                )
                hashes.extend(hash(row["name"]) for row in chunk)
                bad += [f"{row['name']} ({row['error']})" for row in chunk if "error" in row][: SHOWN - len(bad)]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(store.folder / "predictions.csv")
    finally:
        temporary.unlink(missing_ok=True)
    if number := store.samples - store.rows:
        more = f"; and {number - len(bad)} more" if number > len(bad) else ""
        warn(f"{number} of {store.samples} samples cannot be predicted: {'; '.join(bad)}{more}.")
    if twice := len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64))):
        warn(f"{twice} names are there more than once: lines of predictions.csv are in the order of the samples.")
    shares, means = counts / max(1, total), mass / max(1, total)
    key = "mean_probability"
    return [{"predicted_share": a} | ({} if model.scenes else {key: b}) for a, b in zip(shares, means, strict=True)]


Cells = tuple[Iterator[list[Any]], np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Cells of each sample; how many are of each class; and sums of probabilities."""


def _class_cells(z: Tensor, names: Sequence[str]) -> Cells:
    probs = z.double().softmax(1)
    top = probs.topk(min(2, len(names)), dim=1)
    pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    cells = ([cell for p, k in zip(*row, strict=True) for cell in (names[k], f"{p:.6f}")] for row in pairs)
    return cells, np.bincount(top.indices[:, 0].numpy(), minlength=len(names)), probs.sum(0).numpy()


def _label_cells(z: Tensor, names: Sequence[str]) -> Cells:
    probs = z.double().sigmoid()

    def cells() -> Iterator[list[Any]]:
        for row in probs.tolist():
            above = sorted((k for k, p in enumerate(row) if p > 0.5), key=lambda k: -row[k])
            yield ["; ".join(names[k] for k in above), *(f"{p:.6f}" for p in row)]

    return cells(), (probs > 0.5).sum(0).numpy(), probs.sum(0).numpy()


def _scene_cells(chunk: Sequence[Mapping[str, Any]]) -> Cells:
    found = [(row["picture"], np.array(row["pixels"])) for row in chunk if "error" not in row]
    cells = ([picture, *(f"{share:.6f}" for share in pixels / pixels.sum())] for picture, pixels in found)
    total = sum((pixels for _, pixels in found), np.zeros(1))
    return cells, total, np.zeros(1)
