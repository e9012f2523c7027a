"""The pass over samples without labels: they are read, computed, and kept on the disk, batch by batch."""

from __future__ import annotations

import colorsys
import contextlib
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.process import reuse_freed_memory
from ltaug.run import read_json, write_atomically
from ltaug.unlabelled import Place, SampleReader, UnlabelledSample, content

if TYPE_CHECKING:
    from ltaug._prediction_tables import Shift
    from ltaug.predictions import PredictionModel

HEADER = 256
"""Bytes before the logits in their file, which are written last, when their number is known."""
SECONDS = 5.0
"""Between two states that are saved to go on from."""
SHOWN = 5
"""Names that a warning shows."""


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


def _batches(samples: Iterator[UnlabelledSample], size: int) -> Iterator[list[UnlabelledSample]]:
    while batch := list(islice(samples, size)):
        yield batch


def compute(
    model: PredictionModel,
    place: Place,
    out: str | os.PathLike[str] | None,
    pictures: Shift | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Store:
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
    store = Store(Path(out).expanduser() if out is not None else model.folder / place.name, settings)
    if store.finished:
        return store
    with contextlib.closing(store), torch.inference_mode():
        if model.move is not None:
            model.move(where)
        loader: DataLoader[Any] = DataLoader(
            _Reading(model.reader),
            batch_sampler=_batches(place.samples(store.samples), batch_size),
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


def _take(store: Store, model: PredictionModel, batch: _Batch, logits: Tensor | None, shift: Shift | None) -> None:
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


class Store:
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
                logits, samples = mapped(folder / "logits.safetensors")
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
        return mapped(self.folder / "logits.safetensors")[0]

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


def mapped(path: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """The logits of a file that :class:`Store` has written, and the number of samples; ValueError if it is damaged."""
    with path.open("rb") as file:
        head = json.loads(file.read(HEADER)[8:])
    shape, size = tuple(head["logits"]["shape"]), path.stat().st_size
    if size != (whole := HEADER + 4 * math.prod(shape)):
        raise ValueError(f"{path.name} has {size} bytes instead of {whole}")
    found = np.memmap(path, dtype="<f4", mode="r", offset=HEADER, shape=shape)
    return found, int(head["__metadata__"]["samples"])
