"""Predictions of a trained model for new samples without labels, however many: classes, logits, and their mix."""

from __future__ import annotations

import array
import colorsys
import contextlib
import hashlib
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltaug.correction import ESTIMATES, Correction, prior_estimators
from ltaug.errors import UserError, as_user_errors, did_you_mean
from ltaug.labelshift import prior_interval
from ltaug.loaders._notes import warn
from ltaug.posthoc import shift_logits
from ltaug.priors import Counts, as_counts
from ltaug.process import reuse_freed_memory
from ltaug.run import RunFolder, _hash, csv_text, read_json, write_atomically
from ltaug.unlabelled import Place, SampleReader, UnlabelledSample, content, find_place, make_reader

__all__ = ["PredictionModel", "Predictions", "open_model", "predict_files", "predict_logits"]

EXPORTED = (".onnx", ".pt2")
"""Suffixes of exported models."""
HEADER = 256
"""Bytes before the logits in their file, which are written last, when their number is known."""
SECONDS = 5.0
"""Between two states that are saved to go on from."""
NUMBERS_AT_ONCE = 1 << 22
"""Logits that are corrected at once."""
ESTIMATED_ON, NUMBERS_ESTIMATED_ON = 100_000, 10_000_000
"""Samples, and logits, that a mix is estimated on at most: evenly spaced ones of more. Its interval resamples them."""
MANY = 2_000_000
"""Logits from which on an interval is of 100 resampled data sets instead of 200."""
GRID = 8
"""Pixels between two of a scene whose logits are kept, where the run does not say it."""
SHOWN = 5
"""Names that a warning shows."""


# --- models -----------------------------------------------------------------------------------------------------------


@dataclass
class PredictionModel:
    """A model that predicts; :func:`open_model` makes it.

    Attributes:
        path: of the run folder, or of the exported file.
        info: class names and counts, the prior of the logits and why, preprocessing, whether there are several labels.
        digest: SHA-256 of the weights.
        reader: what samples are read by.
        logits: from a batch of what the reader gives to logits as the model gives them, float32 on the CPU.
        move: moves it to a device; None where it stays.
        correction: saved by ``ltaug correct``; None without one.
        target: prior that an exported file has as its default, float64 [C]; None where that is its logits' own.
        strength: of the shift inside of an exported file.
        grid: pixels between two of a scene whose logits are kept, in rows and in columns.
    """

    path: Path
    info: Mapping[str, Any]
    digest: str
    reader: SampleReader
    logits: Callable[[Tensor], Tensor]
    move: Callable[[torch.device], Any] | None = None
    correction: Correction | None = None
    target: Tensor | None = None
    strength: float = 1.0
    grid: int = GRID

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return list(self.info["class_names"])

    @property
    def class_counts(self) -> Tensor:
        """Training samples a class, int64 [C]."""
        return torch.as_tensor(self.info["class_counts"])

    @property
    def logits_prior(self) -> Tensor | None:
        """Prior that the logits are under, float64 [C]; None where it is not known."""
        prior = self.info.get("logits_prior")
        return None if prior is None else torch.as_tensor(prior, dtype=torch.float64)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What raw samples go through."""
        return self.info.get("preprocessing") or {}

    @property
    def several_labels(self) -> bool:
        """Whether each logit is that of a label of its own."""
        return bool(self.info.get("several_labels"))

    @property
    def scenes(self) -> bool:
        """Whether it classifies pixels."""
        return self.preprocessing.get("kind") == "scenes"

    @property
    def folder(self) -> Path:
        """Where predictions are kept by default."""
        return (self.path.parent if self.path.suffix.lower() in EXPORTED else self.path) / "predictions"


def open_model(model: str | os.PathLike[str], script: str | Path | None = None) -> PredictionModel:
    """Open a finished run, or an exported model.

    Args:
        model: a run folder; one without its recipe, which has a ``model.onnx`` or ``model.pt2``; or such a file.
        script: the recipe's training script, where it is not found by itself.

    Raises:
        UserError: it is none of these.
    """
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix.lower() not in EXPORTED:
            raise UserError(
                f"`{path}` is a file, but must be a run folder or an exported model ({', '.join(EXPORTED)})."
            )
        return _exported(path)
    from ltaug.trained import load_trained

    try:
        trained = load_trained(path, script)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    except UserError as error:
        found = [path / f"model{suffix}" for suffix in EXPORTED if (path / f"model{suffix}").is_file()]
        if not found or script is not None:
            raise
        warn(f"{found[0]} predicts, since the run's network cannot be built: {error}")
        return _beside(path, found[0])
    pictures = trained.preprocessing.get("kind") != "sounds"

    def move(device: torch.device) -> None:
        network: Any = trained.network
        network.to(device, **({"memory_format": torch.channels_last} if pictures else {}))

    return PredictionModel(
        path,
        {**trained.info, "preprocessing": trained.preprocessing},
        trained.weights,
        make_reader(trained.preprocessing),
        trained,
        move,
        trained.correction,
        grid=int(trained.config.get("keep_every") or GRID),
    )


def _beside(folder: Path, file: Path) -> PredictionModel:
    """The exported file of a run folder, with the correction that is saved there."""
    from ltaug.trained import saved_correction

    model, weights = _exported(file), folder / "model.safetensors"
    if weights.is_file() and model.info.get("weights", found := _digest(weights)) != found:
        raise UserError(
            f"`{file}` was exported from other weights than those of `{weights}`. Export the run again, delete the "
            "file that is out of date, or predict by the file alone, by its path."
        )
    model.correction = saved_correction(folder)
    return model


def _exported(path: Path) -> PredictionModel:
    from ltaug.export import load_exported

    exported = load_exported(path)
    info = exported.info
    prior, target = (info.get(name) for name in ("logits_prior", "default_prior"))
    own = None if prior is None else torch.tensor(prior, dtype=torch.float32)
    moved = target is not None and prior is not None and not np.allclose(prior, target, rtol=1e-5, atol=0)

    def logits(inputs: Tensor) -> Tensor:
        found: Tensor = exported(inputs) if own is None else exported(inputs, own)
        return found

    def move(device: torch.device) -> None:
        nonlocal exported
        if device.type != "cpu":
            exported = load_exported(path, device)

    return PredictionModel(
        path,
        info,
        _digest(path),
        make_reader(info.get("preprocessing") or {}, raw=True),
        logits,
        move,
        target=torch.tensor(target, dtype=torch.float64) if moved else None,
        strength=float(info.get("strength") or 1.0),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _hash(file)


# --- predictions ------------------------------------------------------------------------------------------------------


@dataclass
class Predictions:
    """A folder of predictions.

    ======================= ============================================================================================
    file                    what it holds
    ======================= ============================================================================================
    ``predictions.csv``     a line a sample, in order: name, class, probability, second, second_probability, error. Of
                            several labels: name, labels (above 0.5), p(LABEL) of each, error. Of scenes: name, picture
                            (a PNG of class indices as large as the scene, in ``classes/``; of more than 256 classes of
                            16 bit), share(CLASS) of the pixels, error. Text that spreadsheets take for a formula has an
                            apostrophe before it
    ``logits.safetensors``  ``logits``, float32 [N, C], as the model gives them, uncorrected (of an exported model with
                            a calibrator inside, calibrated); of scenes [N, C, h, w], of pixels on a grid
    ``samples.jsonl``       a line a sample, in order, ``{"name": ...}``; those that could not be read, or whose logits
                            are not finite, have an ``error``, and no row of logits
    ``summary.json``        numbers of samples, what they were corrected for, and of every class how often it is
                            predicted, its mean probability and, where the mix was estimated, its share with the ends of
                            a 95 % interval
    ``predict.json``        what the logits were computed from, to go on or to refuse others
    ======================= ============================================================================================

    Attributes:
        folder: where they are.
        class_names: C names.
        summary: what ``summary.json`` holds.
    """

    folder: Path
    class_names: list[str]
    summary: dict[str, Any]

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits, float32 [N, C, ...], mapped from the disk: only what is looked at is read."""
        return _mapped(self.folder / "logits.safetensors")[0]


@torch.no_grad()
def predict_files(
    model: str | os.PathLike[str] | PredictionModel,
    place: str | os.PathLike[str] | Place,
    out: str | os.PathLike[str] | None = None,
    *,
    target_prior: Counts | None = None,
    estimate: str | None = None,
    raw: bool = False,
    split: str | None = None,
    column: str | None = None,
    allow_outside: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Predictions:
    """Predict the classes of samples without labels, and write them into a folder, see :class:`Predictions`.

    Samples are read by worker processes and pass through; only their names and logits are kept, on the disk. Killed and
    called again it goes on, and leaves the same files, byte for byte. Once the logits are there, another correction
    takes a moment. A sample that cannot be read is named and passed over.

    Without ``target_prior`` and ``estimate`` the model's own correction is applied, if ``ltaug correct`` has saved one
    in the run or the exported file has one inside.

    Args:
        model: a run folder, an exported file, or what :func:`open_model` returns.
        place: see :func:`ltaug.unlabelled.find_place`.
        out: the folder; by default ``predictions/NAME`` in the run, or beside the exported file.
        target_prior: prior to correct for, [C], instead of the saved correction's; its calibrator stays.
        estimate: "estimate", "trend" or "center": correct for the mix of these very samples, see
            :func:`ltaug.correction.prior_estimators`.
        raw: leave the saved correction out.
        split: of parquet files or of the hub.
        column: of tables.
        allow_outside: read files outside of a table's folder, too.
        batch_size: samples that are computed at once; by default what suits their kind.
        device: by default a GPU, if there is one.
        workers: processes that read; by default one a core, up to 8. 0 reads in this one.

    Raises:
        UserError: an argument does not fit the model, there are no samples, none can be read, or ``out`` holds
            something else.
        ConnectionError: the hub does not answer.
    """
    model = model if isinstance(model, PredictionModel) else open_model(model)
    asked = _Asked(model, target_prior, estimate, raw)
    where = {"split": split, "column": column, "allow_outside": allow_outside}
    found = place if isinstance(place, Place) else find_place(place, _modality(model), **where)  # type: ignore[arg-type]
    shift = None if estimate else asked.shift()
    store = _compute(model, found, out, shift if model.scenes else None, batch_size, device, workers)
    if shift is None:
        shift = asked.estimated(_spread(store.logits(), len(model.class_names)))
    classes = _write_table(store, model, shift)
    summary = {
        "model": str(model.path),
        "samples": found.source,
        "predicted": store.rows,
        "unreadable": store.samples - store.rows,
        "correction": shift.words,
        "from_prior": shift.source if shift.target is not None else None,
        "target_prior": shift.target,
        "strength": shift.strength if shift.target is not None else None,
        "estimated": estimate,
        "estimated_on": shift.estimated_on,
        "resampled": shift.replicates,
        "classes": [
            {"class": name, "training_samples": count, **each, **shift.interval_of(k)}
            for k, (name, count, each) in enumerate(
                zip(model.class_names, model.class_counts.tolist(), classes, strict=True)
            )
        ],
    }
    RunFolder.open(store.folder).write_json("summary.json", summary)
    return Predictions(store.folder, model.class_names, read_json(store.folder / "summary.json"))


def predict_logits(
    model: str | os.PathLike[str] | PredictionModel,
    place: str | os.PathLike[str] | Place,
    out: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    column: str | None = None,
    allow_outside: bool = False,
    device: str | None = None,
    workers: int | None = None,
) -> Tensor:
    """Compute the logits of samples without labels, as the model gives them, or read those that are there already.

    Args:
        model: see :func:`predict_files`.
        place: likewise.
        out: likewise.
        split: likewise.
        column: likewise.
        allow_outside: likewise.
        device: likewise.
        workers: likewise.

    Returns:
        float32 [N, C], of scenes those of pixels; evenly spaced ones of more than an estimate of their mix needs.
    """
    model = model if isinstance(model, PredictionModel) else open_model(model)
    where = {"split": split, "column": column, "allow_outside": allow_outside}
    found = place if isinstance(place, Place) else find_place(place, _modality(model), **where)  # type: ignore[arg-type]
    if out is None and model.scenes:  # beside the pictures of classes, which depend on a correction
        out = model.folder / f"{found.name}_logits"
    store = _compute(model, found, out, device=device, workers=workers)
    return _spread(store.logits(), len(model.class_names))


def _modality(model: PredictionModel) -> Any:
    return "sounds" if model.preprocessing.get("kind") == "sounds" else "images"


def _spread(logits: np.ndarray[Any, Any], num_classes: int) -> Tensor:
    """Evenly spaced rows of logits, of pixels of scenes, as many as an estimate takes at most: float32 [N, C]."""
    most = min(ESTIMATED_ON, max(num_classes, NUMBERS_ESTIMATED_ON // num_classes))
    pixels = int(np.prod(logits.shape[2:]))
    places = np.unique(np.linspace(0, len(logits) * pixels - 1, min(most, len(logits) * pixels)).round().astype(int))
    if pixels == 1:
        return torch.from_numpy(np.array(logits[places])).view(len(places), num_classes)
    scenes, inside = np.divmod(places, pixels)
    return torch.from_numpy(
        np.stack([logits[k].reshape(num_classes, -1)[:, p] for k, p in zip(scenes, inside, strict=True)])
    )


# --- corrections ------------------------------------------------------------------------------------------------------


@dataclass
class _Shift:
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


class _Asked:
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

    def shift(self) -> _Shift:
        """The correction, where nothing is estimated."""
        if self.target is not None:
            return self._to(self.target, "the prior asked for")
        if self.saved is not None and self.saved.target is not None:
            return self._to(self.saved.target, "the prior of the run's saved correction")
        if self.own is not None:
            return self._to(self.own, "the default prior of the exported model")
        calibrates, kind = self._calibration()
        return _Shift(kind or "none: the logits as the model gives them", calibrates)

    def _to(self, target: Tensor, what: str) -> _Shift:
        calibrates, kind = self._calibration()
        strength = "" if self.strength == 1 else f", strength {self.strength:.3g}"
        words = f"{kind}{kind and ', and '}shifted to {what}{strength}"
        return _Shift(words, calibrates, self.source, target, self.strength)

    def estimated(self, logits: Tensor) -> _Shift:
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
                warn(f"The interval of the mix is that of {len(z):,} samples, resampled: this takes up to a minute.")
            replicates = 100 if many else 200
            low, high = prior_interval(z, source, replicates=replicates, **more)  # type: ignore[arg-type]
        shift = self._to(target / target.sum(), f"the mix of these samples ({self.estimate})")
        shift.interval, shift.estimated_on, shift.replicates = (low, high), len(z), replicates
        return shift


# --- the pass over all samples ----------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    """Samples that a worker process has read."""

    names: list[str]
    errors: list[str | None]
    notes: list[str]
    sizes: list[tuple[int, int] | None]
    samples: list[Tensor]
    """Of those without an error, as the reader has collated them."""
    stopped: str | None = None
    """Why nothing is read any more: an error that passes from one process to another has a traceback for a message."""


class _Reading(Dataset[Any]):
    """Reads samples that stand in the place of their indices, so that a stream has its order and workers read it."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader

    def __getitems__(self, samples: list[UnlabelledSample]) -> _Batch:
        errors: list[str | None] = []
        read = []
        for sample in samples:
            try:
                read.append(self.reader.read(content(sample.stored)))
                errors.append(None)
            except ConnectionError as error:
                return _Batch([], [], [], [], [], str(error))
            except ValueError as error:
                errors.append(str(error) or type(error).__name__)
        return _Batch(
            [sample.name for sample in samples],
            errors,
            [each.note for each in read],
            [each.size for each in read],
            self.reader.collate([each.sample for each in read]),
        )


class _Batches:
    """Samples of a place, batch by batch; batches are cut at the same places whichever is the first."""

    def __init__(self, place: Place, start: int, batch_size: int) -> None:
        self.place, self.start, self.batch_size = place, start, batch_size

    def __iter__(self) -> Iterator[list[UnlabelledSample]]:
        samples = self.place.samples(self.start)
        while batch := list(islice(samples, self.batch_size)):
            yield batch


def _compute(
    model: PredictionModel,
    place: Place,
    out: str | os.PathLike[str] | None,
    pictures: _Shift | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> _Store:
    """Compute all logits that are not there yet; and pictures of classes, corrected, of scenes."""
    from tqdm.auto import tqdm

    batch_size = _at_least("batch_size", model.reader.batch_size if batch_size is None else batch_size, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = _at_least("workers", min(8, cores) if workers is None else workers, 0)
    if place.size is not None and place.size <= batch_size:
        workers = 0
    where = _device(device)
    settings = {
        "model": model.digest,
        "preprocessing": dict(model.preprocessing),
        "samples": place.fingerprint,
        "batch_size": batch_size,
        "device": where.type,
    }
    if pictures is not None:
        settings["pictures"] = pictures.digest
    store = _Store(Path(out).expanduser() if out is not None else model.folder / place.name, settings)
    if store.finished:
        return store
    with contextlib.closing(store), torch.inference_mode():
        if model.move is not None:
            model.move(where)
        loader: DataLoader[Any] = DataLoader(
            _Reading(model.reader),
            batch_sampler=_Batches(place, store.samples, batch_size),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare_worker,
            pin_memory=where.type == "cuda",
            generator=torch.Generator(),  # a loader draws a number of the global one at every start
        )
        told: dict[str, Any] = {"disable": os.environ.get("RANK", "0") != "0", "delay": 1, "smoothing": 0.1}
        told["mininterval"] = 0.1 if sys.stderr.isatty() else 30
        with tqdm(total=place.size, initial=store.samples, desc="Predicting", unit=" samples", **told) as bar:
            try:
                for batch in loader:
                    if batch.stopped is not None:
                        raise ConnectionError(batch.stopped)
                    batches = model.reader.inputs(batch.samples, where) if batch.samples else []
                    logits = torch.cat([model.logits(each) for each in batches]) if batches else None
                    _take(store, model, batch, logits, pictures)
                    bar.update(len(batch.names))
            except (ConnectionError, KeyboardInterrupt):
                store.save()
                raise
        if not store.rows:
            reasons = store.first_errors()
            store.remove()
            raise UserError(
                f"None of the {store.samples} samples of {place.source} can be predicted: {'; '.join(reasons)}."
            )
        store.finish()
    return store


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(_worker: int) -> None:
    reuse_freed_memory()


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"`{name}` must be at least {least}, but is {value}.")
    return value


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"`device` must be one of this machine, such as cpu or cuda:0, but is {name!r}.") from error
    return device


def _take(store: _Store, model: PredictionModel, batch: _Batch, logits: Tensor | None, shift: _Shift | None) -> None:
    """Keep what is known of a batch."""
    number, classes = len(batch.sizes), len(model.class_names)
    if logits is not None and (logits.ndim < 2 or len(logits) != number or logits.shape[1] != classes):
        raise UserError(
            f"The model gives numbers of shape {list(logits.shape)} for {number} samples, but its info names {classes} "
            "classes: logits must be [N, C]."
        )
    finite = [] if logits is None else logits.flatten(1).isfinite().all(1).tolist()
    readable = iter(range(number))
    told = []
    for place, (name, error) in enumerate(zip(batch.names, batch.errors, strict=True)):
        row: dict[str, Any] = {"name": name}
        if error is not None:
            row["error"] = error
        elif not finite[k := next(readable)]:
            row["error"] = "its logits are not finite"
        else:
            if batch.notes[k] and not store.noted:
                store.noted = True
                warn(f"{name} {batch.notes[k]}; further ones are not reported.")
            if shift is not None and logits is not None:
                plain = re.sub(r"[^\w-]+", "_", name)[-50:]
                picture = f"classes/{store.samples + place:07d}_{plain}.png"
                row |= _picture(store.folder / picture, shift(logits[k : k + 1])[0], batch.sizes[k], model.class_names)
                row["picture"] = picture
        told.append(row)
    if logits is not None and not all(finite):
        logits = logits[torch.tensor(finite)] if any(finite) else None
    if logits is not None and model.scenes:
        grid = slice(model.grid // 2, None, model.grid)
        logits = logits[..., grid, grid]
    store.add(told, logits)


def _picture(path: Path, logits: Tensor, size: tuple[int, int] | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Write the classes of a scene's pixels, [C, H, W], as a PNG of the scene's own size; count them."""
    import io

    from PIL import Image

    classes = logits.argmax(0).numpy()
    if len(class_names) > 256:
        image = Image.fromarray(classes.astype(np.uint16))
    else:
        image = Image.fromarray(classes.astype(np.uint8), mode="P")
        colours = [colorsys.hsv_to_rgb(0.618 * k % 1, 0.5 + 0.1 * (k % 5), 0.95 - 0.15 * (k % 4)) for k in range(256)]
        image.putpalette([round(255 * value) for colour in colours for value in colour])
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    path.parent.mkdir(exist_ok=True)
    file = io.BytesIO()
    image.save(file, "PNG")
    write_atomically(path, file.getvalue())
    return {"pixels": np.bincount(np.asarray(image).ravel(), minlength=len(class_names)).tolist()}


# --- files ------------------------------------------------------------------------------------------------------------


class _Store:
    """Names and logits of samples on the disk, which grow batch by batch.

    What is written after the last saved state is cut off again where it goes on.

    Args:
        folder: created if need be.
        settings: what the logits follow from; those in the folder must be the same.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.noted = folder, False
        self.samples = self.rows = 0
        """How many there are, and how many of them could be read."""
        self.shape: list[int] = []
        """Of the logits of a sample."""
        self._lock = _lock(folder, settings)
        if self.finished:
            (folder / "progress.json").unlink(missing_ok=True)
            try:
                logits, samples = _mapped(folder / "logits.safetensors")
                self.rows, *self.shape = logits.shape
                readable = 0
                for row in self.lines():
                    self.samples += 1
                    readable += "error" not in row
                if (self.samples, readable) != (samples, self.rows):
                    raise ValueError(f"samples.jsonl has {self.samples} samples, but there were {samples}")
            except (KeyError, OSError, TypeError, ValueError) as error:
                raise UserError(f"`{folder}` is damaged ({error}). Delete it, and predict again.") from error
            return
        state = read_json(folder / "progress.json") if (folder / "progress.json").is_file() else {}
        self.samples, self.rows, self.shape = state.get("samples", 0), state.get("rows", 0), state.get("shape", [])
        self._bytes = state.get("bytes", 0)
        self._names = _opened(folder / "samples.jsonl", self._bytes)
        self._logits = _opened(folder / "logits.partial", HEADER + 4 * self.rows * int(np.prod(self.shape)))
        self._saved = -SECONDS

    @property
    def finished(self) -> bool:
        """Whether all are there."""
        return (self.folder / "logits.safetensors").is_file()

    def add(self, told: Sequence[Mapping[str, Any]], logits: Tensor | None) -> None:
        """Append samples, and the logits of those that could be read."""
        self._names.write("".join(f"{json.dumps(row)}\n" for row in told).encode())
        rows = self.rows
        if logits is not None:
            self.shape = self.shape or list(logits.shape[1:])
            if list(logits.shape[1:]) != self.shape:
                raise UserError(f"Logits of one sample have shape {list(logits.shape[1:])}, of another {self.shape}.")
            self._logits.write(logits.contiguous().numpy().astype("<f4").tobytes())
            rows += len(logits)
        # At once: an interruption leaves them as they were before or after.
        self.samples, self.rows, self._bytes = self.samples + len(told), rows, self._names.tell()
        if time.monotonic() - self._saved > SECONDS:
            self.save()

    def save(self) -> None:
        """Save a state to go on from."""
        for file in (self._names, self._logits):
            file.flush()
            os.fsync(file.fileno())
        state = {"samples": self.samples, "rows": self.rows, "shape": self.shape, "bytes": self._bytes}
        write_atomically(self.folder / "progress.json", json.dumps(state))
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Put the head before the logits, and give their file its name."""
        self.save()
        size = 4 * self.rows * int(np.prod(self.shape))
        head: dict[str, Any] = {"__metadata__": {"samples": str(self.samples)}}
        head |= {"logits": {"dtype": "F32", "shape": [self.rows, *self.shape], "data_offsets": [0, size]}}
        self._logits.seek(0)
        self._logits.write(struct.pack("<Q", HEADER - 8) + json.dumps(head).encode().ljust(HEADER - 8))
        self._logits.flush()
        os.fsync(self._logits.fileno())
        self.close()
        (self.folder / "logits.partial").replace(self.folder / "logits.safetensors")
        (self.folder / "progress.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; what follows the last saved state is lost."""
        for file in (self._names, self._logits):
            file.close()

    def remove(self) -> None:
        """Leave nothing."""
        self.close()
        for name in ("samples.jsonl", "logits.partial", "progress.json", "predict.json"):
            (self.folder / name).unlink(missing_ok=True)

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """All logits, mapped."""
        return _mapped(self.folder / "logits.safetensors")[0]

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is known of the samples, one after the other."""
        with (self.folder / "samples.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def first_errors(self) -> list[str]:
        """Names and reasons of some samples that could not be read."""
        self._names.flush()
        bad = (f"{row['name']} ({row['error']})" for row in self.lines() if "error" in row)
        return list(islice(bad, SHOWN))


def _lock(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Lock a folder of predictions as long as this process lives, if it is one of the same settings, or empty."""
    from filelock import FileLock, Timeout

    path, plain = folder / "predict.json", json.loads(json.dumps(settings))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`out` must be a folder, but `{folder}` is a file. Name another one.")
    if folder.is_dir() and not path.is_file() and any(each.name != ".ltaug.lock" for each in folder.iterdir()):
        raise UserError(f"`{folder}` holds something else than predictions. Name another folder as `out`.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".ltaug.lock", is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"Another process predicts into `{folder}`. Wait for its end, or name another `out`."
        ) from error
    known = read_json(path) if path.is_file() else plain
    words = {
        "model": "another model",
        "samples": "other samples",
        "pictures": "another correction, with which pictures of classes were written",
    }
    if differ := [words.get(name, f"another `{name}`") for name in plain | known if known.get(name) != plain.get(name)]:
        raise UserError(
            f"`{folder}` holds predictions of {', of '.join(differ)}. Name another folder as `out`, or delete it."
        )
    write_atomically(path, json.dumps(plain, indent=2) + "\n")
    return lock


def _opened(path: Path, size: int) -> Any:
    """A file to append to, cut to a size; of one that is shorter nothing can be kept."""
    found = path.stat().st_size if path.exists() else 0
    if found < size and not (size == HEADER and path.suffix == ".partial"):
        raise UserError(f"`{path}` is damaged: it has {found} bytes, less than {size}. Delete its folder.")
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _mapped(path: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """The logits of a file that :class:`_Store` has written, and the number of samples; ValueError if it is damaged."""
    with path.open("rb") as file:
        head = json.loads(file.read(HEADER)[8:])
    shape, size = tuple(head["logits"]["shape"]), path.stat().st_size
    if size != (whole := HEADER + 4 * math.prod(shape)):
        raise ValueError(f"{path.name} has {size} bytes instead of {whole}")
    found = np.memmap(path, dtype="<f4", mode="r", offset=HEADER, shape=shape)
    return found, int(head["__metadata__"]["samples"])


def _write_table(store: _Store, model: PredictionModel, shift: _Shift) -> list[dict[str, float]]:
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
