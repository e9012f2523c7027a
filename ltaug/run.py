"""The folder of one training run: settings, rows, results, checkpoints. Each file is written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ltaug.errors import UserError
from ltaug.process import environment

__all__ = ["RunFolder", "content_hash", "csv_text", "load_yaml", "read_config", "read_json", "write_atomically"]

_TEMPORARY = ".ltaug-{}.tmp"
"""Name of a file or folder that is not complete yet. What has such a name is ours, and is removed when a run starts."""
_CHECKPOINT = re.compile(r"epoch_(\d{5,})(?:_step_(\d{7,}))?(_replaced)?")
_FILES = (
    *("config.yaml", "command.txt", "environment.json", "data.json", "metrics.jsonl", "summary.json", "per_class.csv"),
    *(
        "logits.safetensors",
        "held_out.safetensors",
        "dense.safetensors",
        "dense.json",
        "model.safetensors",
        "ltaug.json",
        "config.json",
        "report.html",
    ),
)
CORRECTION_FILES = ("correction.safetensors", "correction.json")
"""Files of a correction that :meth:`ltaug.correction.Correction.load` takes."""
_FORMULA = r"=+\-@\t\r\n"
"""What begins a formula in a cell of a spreadsheet."""
_OLD_KEYS = {"images_per_second": "samples_per_second", "clips_per_second": "samples_per_second"}
"""Keys of rows and summaries that versions before 0.2 wrote, and what they are called now."""


class RunFolder:
    """The folder of one run: it explains itself, and every number in it can be made again.

    ======================== ===========================================================================================
    file                     what it holds
    ======================== ===========================================================================================
    ``config.yaml``          every setting; the same file starts the same run again
    ``command.txt``          the command line; one more line for every time it was resumed
    ``environment.json``     versions of Python and packages, hardware, git commit and whether the tree was clean
    ``data.json``            fingerprint of the data; on resuming it must be the same
    ``metrics.jsonl``        a row an epoch
    ``summary.json``         final metrics, settings, wall time, samples a second, parameters, class counts
    ``per_class.csv``        class, training count, accuracy
    ``logits.safetensors``   ``logits`` and ``labels`` of the test split
    ``held_out.safetensors`` the same of held-out samples, which corrections are tuned on; if there are any
    ``dense.*``              of segmentation: logits of some pixels of every condition, for ``ltaug fuse``
    ``model.safetensors``    final weights
    ``ltaug.json``           what the weights and logits need: class names, counts, the prior of the logits and why
    ``config.json``          of timm's networks, for ``timm.create_model("local-dir:RUN", pretrained=True)``
    ``checkpoints/``         states to resume from, one folder each, the newest ``keep``
    ``corrected.json``       metrics after a correction for another class mix, if there was one
    ``correction.*``         that correction, for :meth:`ltaug.correction.Correction.load`: safetensors and JSON
    ``predictions/``         of new samples, a folder each, by ``ltaug predict``
    ``report.html``          figures and tables (:mod:`ltaug.report`); ``sections.json`` has those of the data, if any
    ``.ltaug.lock``          locked as long as a process trains the run, and says which one did so last
    ======================== ===========================================================================================

    Files are written under another name, flushed to the disk and renamed, so that a crash or a full disk leaves the
    previous version. Only the main process writes. :meth:`open` reads a run that is there.

    Args:
        path: the folder, created if need be.
        config: a dataclass or mapping of plain values.
        main: whether this process writes.
        resume: continue the run that is there. The configs must then agree; a field of a dataclass that the saved one
            does not have yet, since an earlier version wrote it, counts as its default.
        free_keys: settings that may change on resuming.
        data: fingerprint of the data, see :meth:`check_data`; kept in ``data.json``.
        epochs: epochs that the run shall have. A run that has completed more is not resumed.
        keep: how many checkpoints stay.
        lock: let no other process write, as long as this one lives; needs filelock, of the extra ``recipes``.

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is false.
        UserError: on resuming, ``config`` differs from the saved one, and the message names the keys; or ``epochs`` are
            fewer than those of the newest checkpoint; or the data are others. A ValueError, too.

    >>> import tempfile
    >>> run = RunFolder(tempfile.mkdtemp(), {"lr": 0.1})
    >>> run.log(epoch=0, loss=2.5)
    >>> RunFolder.open(run.path).rows()
    [{'epoch': 0, 'loss': 2.5}]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Any,
        *,
        main: bool = True,
        resume: bool = False,
        free_keys: tuple[str, ...] = (),
        data: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        keep: int = 2,
        lock: bool = False,
    ) -> None:
        if not os.fspath(path):
            raise UserError("The run folder's name is empty. Name a folder of its own for every run.")
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, but is {keep}: there must be a checkpoint to resume from.")
        self.path = Path(path).expanduser()
        self.main = main
        self.keep = keep
        is_object = dataclasses.is_dataclass(config) and not isinstance(config, type)
        # As they will be read again: YAML knows infinity.
        values = _plain(dataclasses.asdict(config) if is_object else dict(config), infinity=True)
        if not main:
            return
        self._check_places()
        if lock:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path / ".ltaug.lock")
        if (self.path / "config.yaml").exists():
            if not resume:
                raise FileExistsError(
                    f"`{self.path}` already holds a run. Resume it (`resume`), choose another folder, or delete it."
                )
            self._check_same(_defaults(config) | self.config(), values, free_keys)
            self._check_epochs(epochs)
            self.check_data(data or {})
            self.rows()  # damage is found before an epoch is trained, not after it
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / "checkpoints"):
            for leftover in folder.glob(_TEMPORARY.format("*")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        self.write("config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        command = self.path / "command.txt"
        earlier = command.read_text(encoding="utf-8", errors="replace") if command.exists() else ""
        self.write("command.txt", earlier + shlex.join([Path(sys.executable).name, *sys.argv]) + "\n")
        self.write_json("environment.json", environment())
        if data is not None:
            self.write_json("data.json", data)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open a run to read it, or to add a file to it; also one that another process is still training.

        Nothing is created, deleted or rewritten by it, and no file need be there.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        run = cls.__new__(cls)
        run.path, run.main, run.keep = Path(path).expanduser(), True, 2
        if not os.fspath(path) or not run.path.is_dir():
            raise FileNotFoundError(
                f"`{path}` is no run folder: there is no such directory. Pass the folder that holds config.yaml."
            )
        return run

    def _check_places(self) -> None:
        """Refuse folders in the places of files, and the other way round, before an epoch is trained."""
        for name in _FILES:
            if (self.path / name).is_dir():
                raise UserError(f"`{self.path / name}` is a folder, but the run keeps a file there. Move it away.")
        if (self.path / "checkpoints").exists() and not (self.path / "checkpoints").is_dir():
            raise UserError(f"`{self.path / 'checkpoints'}` is a file, but the run keeps a folder there. Move it away.")

    @staticmethod
    def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], free_keys: tuple[str, ...]) -> None:
        differ = [
            f"`{key}` was {old.get(key)!r} and is now {new.get(key)!r}"
            for key in [*new, *(key for key in old if key not in new)]
            if key not in free_keys and old.get(key) != new.get(key)
        ]
        if differ:
            raise UserError(
                f"Cannot resume with another configuration: {'; '.join(differ)}. Start it with the run's own "
                "config.yaml, or choose another folder for the new settings."
            )

    def _check_epochs(self, epochs: int | None) -> None:
        # The names first: whether a checkpoint is complete takes reading it.
        if epochs is None or not any(checkpoint[:2] > (epochs, 0) for checkpoint in self._checkpoints()):
            return
        if (found := self.latest_checkpoint()) and found[1:] > (epochs, 0):
            more = f" and {found[2]} steps" if found[2] else ""
            raise UserError(f"`epochs` is {epochs}, but `{self.path}` has completed {found[1]}{more}. Raise it.")

    # -- files -------------------------------------------------------------------------------------------------------

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file whole or not at all."""
        if self.main:
            write_atomically(self.path / name, content)

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values as JSON; NaN, which JSON lacks, becomes null."""
        self.write(name, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")

    def config(self) -> dict[str, Any]:
        """Every setting of the run, from ``config.yaml``."""
        return read_config(self._file("config.yaml"))

    def summary(self) -> dict[str, Any]:
        """Final metrics and what they were reached with, from ``summary.json``, which a finished run has."""
        return _renamed(read_json(self._file("summary.json")))

    def info(self) -> dict[str, Any]:
        """What the weights and logits need, from ``ltaug.json``: class names and counts, the prior of the logits."""
        return read_json(self._file("ltaug.json"))

    def check_data(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse other data than those of the run.

        Args:
            fingerprint: plain values or tensors by name, such as class names, class counts, a hash of the test labels;
                they are compared with ``data.json``, if it is there.

        Raises:
            UserError: a value differs; the message names it.
        """
        path, found = self.path / "data.json", _plain(dict(fingerprint))
        if not self.main or not path.exists():
            return
        known = read_json(path)
        if found and not known:
            raise UserError(f"`{path}` is damaged (it is empty). Restore it, or choose another folder.")
        # Of what an earlier version did not write down, nothing is known.
        if differ := [f"`{name}`" for name in found if name in known and known[name] != found[name]]:
            raise UserError(
                f"The data are not those of the run in `{self.path}`: {', '.join(differ)} "
                f"differ{'s' if len(differ) == 1 else ''} from its data.json. Name the run's own data, or choose "
                "another folder."
            )

    def log(self, **row: Any) -> None:
        """Append a row to ``metrics.jsonl``; rows of the same ``epoch`` and later ones are replaced (a resumed run)."""
        if not self.main:
            return
        rows = self.rows()
        if "epoch" in row:
            rows = [old for old in rows if old.get("epoch", -1) < row["epoch"]]
        rows.append(_plain(row))
        self.write("metrics.jsonl", "".join(json.dumps(old, allow_nan=False) + "\n" for old in rows))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl`` so far; none if there is no such file.

        Raises:
            UserError: a line is damaged. The last one may be cut, where a copy was made while it was written.
        """
        path, rows = self.path / "metrics.jsonl", list[dict[str, Any]]()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = _renamed(_row(line))
            except (ValueError, RecursionError) as error:
                if number == len(lines) and not line.endswith("\n"):
                    break
                raise UserError(f"`{path}` is damaged in line {number} ({error}). Restore it, or remove it.") from error
            if rows and "epoch" in row and row["epoch"] <= rows[-1].get("epoch", -1):
                raise UserError(
                    f"`{path}` is damaged in line {number} (epoch {row['epoch']} comes after epoch "
                    f"{rows[-1]['epoch']}). Restore it, or remove it."
                )
            rows.append(row)
        return rows

    def save_logits(self, logits: Tensor, labels: Tensor, name: str = "logits.safetensors") -> None:
        """Keep logits [N, C] and labels [N]: every metric and correction can be computed from them later.

        Of several labels a sample the labels are multi-hot rows, [N, C]. A correction that was made of other logits is
        removed.
        """
        if self.main:
            rows = labels.ndim > 1  # a byte a label, not eight
            kept = labels.detach().bool() if rows else labels.detach().long()
            tensors = {"logits": logits.detach().float(), "labels": kept}
            content = save({key: value.cpu().contiguous() for key, value in tensors.items()})
            path = self.path / name
            if path.exists() and not _is_equal(path, content):
                for stale in ("corrected.json", *CORRECTION_FILES):
                    (self.path / stale).unlink(missing_ok=True)
            self.write(name, content)

    def load_logits(self, name: str = "logits.safetensors") -> tuple[Tensor, Tensor]:
        """The kept logits, float32 [N, C], and labels, int64 [N]; of several labels a sample bool [N, C].

        Args:
            name: ``logits.safetensors`` are those of the test split, ``held_out.safetensors`` of held-out samples.

        Raises:
            FileNotFoundError: the run has none.
            UserError: the file is damaged, or labels and logits do not fit.
        """
        tensors = _load_tensors(self._file(name))
        if missing := {"logits", "labels"} - set(tensors):
            raise UserError(f"`{self.path / name}` has no {' and no '.join(sorted(missing))}. Restore it.")
        logits, labels = tensors["logits"], tensors["labels"]
        if labels.dtype == torch.bool and labels.shape == logits.shape and logits.ndim == 2 and logits.numel():
            return logits.float(), labels
        if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point() or not logits.numel():
            raise UserError(
                f"`{self.path / name}` must hold logits [N, C] and integer labels [N], but holds "
                f"{list(logits.shape)} and {labels.dtype} {list(labels.shape)}."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise UserError(
                f"`{self.path / name}` has labels from {low} to {high}, but logits of {logits.shape[1]} classes."
            )
        return logits.float(), labels.long()

    def save_dense(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Keep the logits of some pixels of every condition of a segmentation, and what a fusion needs beside them."""
        if self.main:
            self.write("dense.safetensors", save({name: value.cpu().contiguous() for name, value in tensors.items()}))
            self.write_json("dense.json", info)

    def load_dense(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`save_dense` has kept.

        Raises:
            FileNotFoundError: the run has none: it is no segmentation, or not finished.
            UserError: a file is damaged.
        """
        return _load_tensors(self._file("dense.safetensors")), read_json(self._file("dense.json"))

    def save_model(self, state_dict: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Keep the final weights, and in ``ltaug.json`` what they need: class names and counts, ``logits_prior``."""
        if self.main:
            tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
            self.write("model.safetensors", save(tensors))
            self.write_json("ltaug.json", info)

    def load_model(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The final weights and their ``ltaug.json``.

        Raises:
            FileNotFoundError: the run has none.
            UserError: a file is damaged.
        """
        return _load_tensors(self._file("model.safetensors")), self.info()

    def save_per_class(
        self, class_names: list[str], class_counts: Tensor, accuracy: Tensor, measure: str = "test_accuracy"
    ) -> None:
        """Write ``per_class.csv``, in the order of the classes; ``measure`` names the last column."""
        columns = zip(class_names, class_counts.tolist(), accuracy.tolist(), strict=True)
        rows = [[k, name, count, f"{value:.6f}"] for k, (name, count, value) in enumerate(columns)]
        self.write("per_class.csv", csv_text([["class", "name", "train_count", measure], *rows]))

    def per_class(self) -> list[dict[str, str]]:
        """The rows of ``per_class.csv``: class, name, train_count, test_accuracy (or another measure), as text."""
        with self._file("per_class.csv").open(encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
        for row in rows:
            row |= {"name": re.sub(f"^'(?='*[{_FORMULA}])", "", row["name"])} if "name" in row else {}
        return rows

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def checkpoint(self, epoch: int, barrier: Callable[[], None] = lambda: None, step: int = 0) -> Iterator[Path]:
        """Save a state to resume from: yields a folder to write into, which counts only once it is complete.

        Args:
            epoch: epochs completed.
            barrier: waits for all processes (``accelerator.wait_for_everyone``) when several write into the folder.
            step: steps completed of the epoch that goes on; 0 between epochs.

        Raises:
            OSError: the state could not be saved; earlier checkpoints are intact. Errors of other kinds pass through.
        """
        final = self.path / "checkpoints" / (f"epoch_{epoch:05d}" + (f"_step_{step:07d}" if step else ""))
        temporary = final.with_name(_TEMPORARY.format(final.name))
        if self.main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        barrier()
        try:
            yield temporary
            barrier()
            if self.main:
                self._seal(temporary)
                _put_in_place(temporary, final)
        except BaseException as error:
            if self.main:
                shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room; earlier checkpoints stay
            if type(error) in (RuntimeError, SafetensorError):  # how torch.save and safetensors report a full disk
                raise OSError(
                    f"The checkpoint after epoch {epoch} could not be saved in `{self.path}` ({error}). Is the disk "
                    "full? What was saved before is intact: make room, and resume."
                ) from error
            raise
        if self.main:
            for _, _, old in self._checkpoints()[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)
        barrier()

    def latest_checkpoint(self) -> tuple[Path, int, int] | None:
        """The newest checkpoint that is complete and intact, or None when there is none.

        Returns:
            Its folder, the epochs it has completed, and the steps of the epoch after them, 0 between epochs.

        Raises:
            UserError: there are checkpoints, but each one is damaged.
        """
        damaged = []
        for epoch, step, folder in reversed(self._checkpoints()):
            reason = _damage(folder)
            if reason is None:
                return folder, epoch, step
            damaged.append(f"{folder.name}: {reason}")
            if self.main:
                warnings.warn(f"Skipping a damaged checkpoint in `{self.path}`: {damaged[-1]}.", stacklevel=2)
        if damaged:
            raise UserError(
                f"No checkpoint in `{self.path}` can be used ({'; '.join(damaged)}). Start anew in another folder."
            )
        return None

    def _checkpoints(self) -> list[tuple[int, int, Path]]:
        """Epochs, steps and folder of every checkpoint, the newest last; one that is replaced before its successor."""
        found = ((_CHECKPOINT.fullmatch(path.name), path) for path in self.path.glob("checkpoints/epoch_*"))
        order = sorted((int(name[1]), int(name[2] or 0), name[3] is None, path) for name, path in found if name)
        return [(epoch, step, path) for epoch, step, _, path in order]

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(f"`{self.path}` has no {name}: the run has none, or is not finished.")
        return path

    @staticmethod
    def _seal(folder: Path) -> None:
        """Flush every file to the disk, then list hashes, so that later damage is found out."""
        files = {}
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with file.open("r+b") as handle:  # Windows flushes only what is open for writing
                os.fsync(handle.fileno())
                files[file.relative_to(folder).as_posix()] = _hash(handle)
        write_atomically(folder / "manifest.json", json.dumps(files, indent=2))


def _lock(path: Path) -> Any:
    """Lock a run folder until the process ends, however it ends: the kernel holds the lock, the file only says who.

    Raises:
        UserError: another process has it.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    warning = "`{}` cannot be locked ({}). Let no second process train in this folder."
    if FileLock is SoftFileLock:  # a file that nobody removes where the process is killed
        warnings.warn(warning.format(path, "this Python has no locks of the kernel"), stacklevel=3)
        return None
    # Several runs of one process share the lock: cells of a notebook are started again.
    lock = FileLock(path, is_singleton=True, on_acquired=_sign, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        who = "another process"
        with contextlib.suppress(OSError):
            who = path.read_text(encoding="utf-8", errors="replace").strip() or who
        raise UserError(
            f"`{path.parent}` is being trained by {who}. Wait for its end, or end it; for another run choose another "
            "folder."
        ) from error
    except (OSError, NotImplementedError) as error:  # filelock's NotImplementedError: a file system without locks
        warnings.warn(warning.format(path, error), stacklevel=3)
    return lock


def _sign(handle: int) -> None:
    """Write into a lock's file who has it."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())


def _put_in_place(temporary: Path, final: Path) -> None:
    """Give a complete checkpoint its name. At every moment it or the one that it replaces can be found."""
    replaced = final.with_name(f"{final.name}_replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    _flush_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _row(line: str) -> dict[str, Any]:
    """Read a line of metrics.jsonl; ValueError unless it holds names and values of the kinds that a row has."""
    row = json.loads(line, parse_constant=_no_constant)
    if not isinstance(row, dict):
        raise ValueError("it holds no names")
    if type(row.get("epoch", 0)) is not int:
        raise ValueError(f"`epoch` is {row['epoch']!r}")
    for name in ("loss", "seconds", "samples_per_second"):
        if isinstance(row.get(name), bool | str | list | dict):
            raise ValueError(f"`{name}` is {row[name]!r}")
    return row


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, if anything."""
    try:
        try:
            files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            return f"manifest.json is unreadable ({error})"
        if not isinstance(files, dict) or not files:
            return "manifest.json is no list of files"
        there = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
        if unlisted := sorted(
            name for name in there - {*files, "manifest.json"} if not Path(name).name.startswith(".")
        ):
            return f"manifest.json does not list {unlisted[0]}"
        for name, digest in files.items():
            if name not in there:  # nor is anything outside of it, or a pipe, opened
                return f"{name} is missing"
            with (checkpoint / name).open("rb") as file:
                if _hash(file) != digest:
                    return f"{name} has changed since it was saved"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"unreadable ({error})"
    return None


def _hash(file: BinaryIO) -> str:
    """SHA-256 of an open file, read piece by piece: checkpoints may be larger than the memory that is free."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _defaults(config: Any) -> dict[str, Any]:
    """The defaults of a dataclass, as they would be read again."""
    found = {}
    for item in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        if item.default is not dataclasses.MISSING:
            found[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            found[item.name] = item.default_factory()
    values: dict[str, Any] = _plain(found, infinity=True)
    return values


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_OLD_KEYS.get(key, key): value for key, value in values.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder, which must hold names and values.

    Raises:
        UserError: it does not; the message names it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"`{path}` is damaged ({error}). Restore it, or finish the run again without it.") from error
    if not isinstance(values, dict):
        raise UserError(f"`{path}` is damaged (it holds no names). Restore it, or finish the run again without it.")
    return values


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C eight times as fast


class _PlainLoader(_SafeLoader):  # type: ignore[misc]
    """YAML whose keys are there once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"the key in line {key.start_mark.line + 1} is no word")
            if key.value in seen:
                raise yaml.YAMLError(f"`{key.value}` in line {key.start_mark.line + 1} is there a second time")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Plain values of YAML.

    Raises:
        yaml.YAMLError: it is none, a key is there twice, or it has aliases.

    >>> load_yaml("lr: 0.1")
    {'lr': 0.1}
    """
    for event in yaml.parse(text, _SafeLoader) if "*" in text else ():
        if isinstance(event, yaml.AliasEvent):  # a few can stand for gigabytes
            where: Any = event.start_mark
            raise yaml.YAMLError(f"`*{event.anchor}` in line {where.line + 1}: aliases are not supported")
    try:
        return yaml.load(text, _PlainLoader)
    except ValueError as error:  # such as a date in a month that there is not
        raise yaml.YAMLError(str(error)) from error


def content_hash(*parts: Any) -> str:
    """SHA-256 of tensors, arrays and plain values, in their order: fingerprint of data for ``data.json``.

    >>> content_hash(["a", "b"])[:8] == content_hash(["b", "a"])[:8]
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().numpy()
        if hasattr(part, "tobytes"):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(part.tobytes())
        else:
            digest.update(json.dumps(_plain(part)).encode())
    return digest.hexdigest()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a run's ``config.yaml``.

    Raises:
        UserError: the file is not YAML, or not a mapping.
    """
    restore = "Restore it, or start in another folder."
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"`{path}` is not readable as YAML: {error}. {restore}") from error
    if not isinstance(values, dict):
        raise UserError(f"`{path}` must hold `key: value` lines, but holds {type(values).__name__}. {restore}")
    return values


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; text that a spreadsheet would take for a formula has an apostrophe before it, as one types it there.

    >>> csv_text([["=1+1", "-0.5", -0.5]]).strip()
    "'=1+1,-0.5,-0.5"
    """
    table = io.StringIO()
    csv.writer(table).writerows(map(_cell, row) for row in rows)
    return table.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and re.match(f"'*[{_FORMULA}]", value):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under another name, flush to the disk, rename: ``path`` holds the old content or the new, never a part.

    Of several processes that write one path the last one wins: each has a name of its own until it is done.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(_TEMPORARY.format(f"{path.name}-{uuid4().hex}"))
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk is reported without the name of the file
        raise


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can: Windows cannot, nor can CIFS and some FUSE mounts."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_equal(path: Path, content: bytes) -> bool:
    """Whether a file has this content."""
    if path.stat().st_size != len(content):
        return False
    with path.open("rb") as file:
        return _hash(file) == hashlib.sha256(content).hexdigest()


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"`{path}` is damaged ({error}). Restore it, or finish the run again without it.") from error


def _plain(value: Any, infinity: bool = False) -> Any:
    """Tensors, arrays, paths and dataclasses as what JSON knows; NaN, and infinity if it may not stay, become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, infinity) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, infinity) for item in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), infinity)
    if isinstance(value, float):
        return value if math.isfinite(value) or (infinity and not math.isnan(value)) else None
    return str(value)
