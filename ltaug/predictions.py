"""Predictions of a trained model for new samples without labels, however many: classes, logits, and their mix."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug._prediction_store import compute, mapped
from ltaug._prediction_tables import Asked, write_table
from ltaug.correction import Correction
from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.priors import Counts
from ltaug.run import RunFolder, _hash, read_json
from ltaug.unlabelled import Place, SampleReader, find_place, make_reader

__all__ = ["PredictionModel", "Predictions", "open_model", "predict_files", "predict_logits"]

EXPORTED = (".onnx", ".pt2")
"""Suffixes of exported models."""
ESTIMATED_ON, NUMBERS_ESTIMATED_ON = 100_000, 10_000_000
"""Samples, and logits, that a mix is estimated on at most: evenly spaced ones of more. Its interval resamples them."""
GRID = 8
"""Pixels between two of a scene whose logits are kept, where the run does not say it."""


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
        return mapped(self.folder / "logits.safetensors")[0]


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
    asked = Asked(model, target_prior, estimate, raw)
    where = {"split": split, "column": column, "allow_outside": allow_outside}
    found = place if isinstance(place, Place) else find_place(place, _modality(model), **where)  # type: ignore[arg-type]
    shift = None if estimate else asked.shift()
    store = compute(model, found, out, shift if model.scenes else None, batch_size, device, workers)
    if shift is None:
        shift = asked.estimated(_spread(store.logits(), len(model.class_names)))
    classes = write_table(store, model, shift)
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
    store = compute(model, found, out, device=device, workers=workers)
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
