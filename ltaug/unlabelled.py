"""Samples without labels, one after the other: files of a folder, rows of parquet files or of a data set of the hub.

Nothing is decoded here, and nothing held: a folder of any number of files is gone through, not listed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError, did_you_mean
from ltaug.loaders._notes import warn
from ltaug.loaders.files import refuse_outside, stored_path
from ltaug.loaders.folders import COPIES, is_leftover, natural_order, printable, source_name
from ltaug.loaders.tables import find_files, hub_or_cache, is_plain, loading_error, stored_paths

__all__ = ["Decoded", "Place", "SampleReader", "UnlabelledSample", "content", "find_place", "make_reader", "same_sizes"]

Modality = Literal["images", "sounds"]
COLUMNS = {
    "images": ("image", "img", "picture", "rgb", "file_name", "filename", "file", "path"),
    "sounds": ("audio", "sound", "file_name", "filename", "file", "path"),
}
"""Usual names of the column of samples, the best first."""
BESIDE = ("sampling_rate", "filename")
"""Columns that are read beside it."""
SORTED_BY_NUMBER = 100_000
"""Entries of a folder that are sorted in natural order, whose keys take a lot of memory; more of them by their text."""
ROWS = 64
"""Of a table that are read at once."""


class UnlabelledSample(NamedTuple):
    """A sample that is not decoded yet."""

    name: str
    """Of the file, from the folder on, as text; or what a table calls it."""
    stored: Any
    """Path of a file, or its bytes, or samples of a sound and their rate; None where a table has nothing."""


class Decoded(NamedTuple):
    """A sample that is read."""

    sample: Tensor
    note: str = ""
    """What is odd about it, the rest of a sentence that begins with its name; or nothing."""
    size: tuple[int, int] | None = None
    """Height and width of the picture of a scene, before it is resized."""


class SampleReader(ABC):
    """Reads samples in worker processes, and makes of them what a model takes; :func:`make_reader` makes it.

    Attributes:
        batch_size: samples that are computed at once, by default.
    """

    batch_size: int

    @abstractmethod
    def read(self, stored: Any) -> Decoded:
        """Read a sample, of what :func:`content` returns.

        Raises:
            ValueError: it cannot be read; the message is the reason.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Put samples together, in their order; still in the worker process."""

    @abstractmethod
    def inputs(self, samples: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Make batches of what :meth:`collate` returns, in their order, on the device."""


def make_reader(preprocessing: Mapping[str, Any], raw: bool = False) -> SampleReader:
    """Make what reads the samples of a run.

    Args:
        preprocessing: of the run's ``ltaug.json``; its ``kind`` says what samples are.
        raw: leave them as an exported file takes them.

    Raises:
        UserError: there is no ``kind``: the recipe is somebody's own.
    """
    kind = preprocessing.get("kind")
    if kind not in ("small_images", "images", "scenes", "sounds"):
        raise UserError(
            "Nothing is known of raw samples: the run's `preprocessing` in ltaug.json has no `kind`, but "
            f"{', '.join(preprocessing) or 'nothing'}. Its recipe is somebody's own: give what its `eval_loader` "
            "yields to the network of `load_trained`."
        )
    if kind == "sounds":
        from ltaug.audio.unlabelled import SoundReader

        return SoundReader(preprocessing, raw)
    from ltaug.vision import unlabelled

    kinds = {"images": unlabelled.ImageReader, "scenes": unlabelled.SceneReader}
    return kinds.get(str(kind), unlabelled.SmallImageReader)(preprocessing, raw)


def same_sizes(samples: Sequence[Tensor]) -> list[Tensor]:
    """Stack samples that follow one another and have one size.

    >>> [len(batch) for batch in same_sizes([torch.zeros(2), torch.zeros(2), torch.zeros(3), torch.zeros(2)])]
    [2, 1, 1]
    """
    return [torch.stack(list(group)) for _, group in itertools.groupby(samples, lambda sample: sample.shape)]


class Place(ABC):
    """Where samples without labels come from; :func:`find_place` finds it.

    Attributes:
        name: what to call it, for folders.
        source: what to call it in messages.
        size: how many samples there are, or None where that is not known before they are read.
        fingerprint: plain values that are others where the samples are.
    """

    name: str
    source: str
    size: int | None
    fingerprint: dict[str, Any]

    @abstractmethod
    def samples(self, start: int = 0) -> Iterator[UnlabelledSample]:
        """Go through the samples, always in the same order.

        Args:
            start: how many are passed over.
        """


def find_place(
    place: str | os.PathLike[str],
    modality: Modality = "images",
    *,
    split: str | None = None,
    column: str | None = None,
    allow_outside: bool = False,
) -> Place:
    """Find samples without labels.

    Args:
        place: a folder of files, flat or nested, in natural order; a file; a parquet file, or a folder of such; or
            OWNER/NAME of a data set of the hub, which is streamed.
        modality: which files are samples.
        split: of parquet files or of the hub, where there are several.
        column: of the samples in a table: bytes of files, their names, or structs of both; sounds may be arrays with
            their rate, too. By default the one with a usual name (image, img, audio, ...), or the only one that has
            files.
        allow_outside: read files outside of the folder, too, that a table in it names.

    Raises:
        UserError: there is no such place, it has no samples, or no such split or column.
        ConnectionError: the hub cannot be reached, or does not give the data.
    """
    path = os.path.expanduser(os.fspath(place))
    if os.path.exists(path):
        files = None if path.lower().endswith(".parquet") else _Files(path, modality)
        tables = [path] if files is None else _parquet_below(path) if files.passed[".parquet"] else []
        if files is not None and files.size and tables:
            raise UserError(
                f"{files.source} has {files.size} {modality} and {len(tables)} parquet files. Name a single one of "
                "them, or a folder that has one kind only."
            )
        if files is None or tables:
            return _Tables(path, tables, modality, split, column, allow_outside)
        for name, value in (("split", split), ("column", column)):
            if value is not None:
                raise UserError(f"`{name}` is {value!r}, but {files.source} holds files and no tables. Leave it out.")
        files.check()
        return files
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith("."):
        return _Hub(path, modality, split, column)
    folder = os.path.dirname(os.path.abspath(path))
    near = os.listdir(folder) if os.path.isdir(folder) else ()
    hint = did_you_mean(os.path.basename(path), near) or "."
    raise UserError(
        f"There is no {path!r}{hint} Name a folder of {modality}, a file, parquet files, or OWNER/NAME of a data set "
        "of the hub."
    )


# --- files ------------------------------------------------------------------------------------------------------------


class _Files(Place):
    """Files below a folder, or a single one."""

    def __init__(self, path: str, modality: Modality) -> None:
        self.path, self.modality = path, modality
        self.source, self.name = repr(printable(path)), source_name(path, default="samples")
        self.passed = Counter[str]()
        digest, size = hashlib.sha256(), 0
        for name in self._names(self.passed):
            state = os.stat(os.path.join(path, name) if name else path)
            digest.update(f"{name!r} {state.st_size} {state.st_mtime_ns}\n".encode())
            size += 1
        self.size = size
        self.fingerprint = {"files": size, "names_sizes_and_times": digest.hexdigest()}

    def check(self) -> None:
        """Refuse a folder without samples, and say what else there is."""
        number = sum(self.passed.values())
        others = ", ".join(f"{suffix}: {count}" for suffix, count in self.passed.most_common(6))
        if not self.size:
            but = f", but {number} other files ({others})" if number else ""
            raise UserError(f"{self.source} has no {self.modality} that can be read{but}.")
        if number:
            warn(f"{number} files of {self.source} are left out, since they are no {self.modality} ({others}).")

    def _names(self, passed: Counter[str]) -> Iterator[str]:
        is_sample = _decides(self.modality)
        if os.path.isdir(self.path):
            yield from _files_below(self.path, is_sample, passed)
        elif is_sample(self.path):
            yield ""

    def samples(self, start: int = 0) -> Iterator[UnlabelledSample]:
        """Go through the files."""
        for k, name in enumerate(self._names(Counter())):
            if k >= start:
                path = os.path.join(self.path, name) if name else self.path
                yield UnlabelledSample(printable(name or os.path.basename(path)), path)


def _decides(modality: Modality) -> Callable[[str], bool]:
    """What says of a path whether it is a sample."""
    if modality == "sounds":
        from ltaug.audio.decoding import is_sound

        return is_sound
    from ltaug.vision.folders import is_image

    return is_image


def _files_below(root: str, is_sample: Callable[[str], bool], passed: Counter[str]) -> Iterator[str]:
    """Samples below a folder, by their paths from there on, folder by folder; each folder is read when it is its turn.

    Hidden files and what systems leave are passed over. Links are followed, each folder once. Other files are counted
    by their suffixes in ``passed``.
    """
    seen: set[str] = set()

    def visit(folder: str) -> Iterator[str]:
        whole = os.path.join(root, folder) if folder else root
        real = os.path.realpath(whole)
        if real in seen:
            return
        seen.add(real)
        names = [name for name in os.listdir(whole) if not is_leftover(name)]
        names.sort(key=natural_order if len(names) <= SORTED_BY_NUMBER else None)
        for name in names:
            path, inside = os.path.join(whole, name), f"{folder}/{name}" if folder else name
            if os.path.isdir(path):
                yield from visit(inside)
            elif not os.path.isfile(path):
                passed["no files, or links to nothing"] += 1
            elif not name.lower().endswith(COPIES) and is_sample(path):
                yield inside
            else:
                passed[os.path.splitext(name)[1].lower() or "no suffix"] += 1

    yield from visit("")


# --- tables -----------------------------------------------------------------------------------------------------------


class _Tables(Place):
    """Rows of parquet files."""

    def __init__(
        self,
        path: str,
        files: list[str],
        modality: Modality,
        split: str | None,
        column: str | None,
        allow_outside: bool,
    ) -> None:
        from pyarrow import parquet

        self.source, self.allow_outside = repr(printable(path)), allow_outside
        self.root = path if os.path.isdir(path) else os.path.dirname(path) or "."
        self.files = files = _of_split(path, files, split)
        self.name = "-".join(filter(None, (source_name(path, default="samples"), split)))
        with _reading(files[0]):
            schema = parquet.read_schema(files[0])
        kinds = {each.name: each.type for each in schema}
        self.column = _choose_column(kinds, modality, column, self.source)
        self.columns = [self.column, *(name for name in BESIDE if name in kinds and name != self.column)]
        self.rows, found = [], []
        for file in files:
            with _reading(file):
                metadata, state = parquet.read_metadata(file), os.stat(file)
                names = metadata.schema.to_arrow_schema().names
            for name in self.columns:
                if (number := names.count(name)) != 1:
                    raise UserError(f"`{file}` has {number or 'no'} columns {name!r}, but must have one.")
            self.rows.append(metadata.num_rows)
            found.append([os.path.relpath(file, self.root), state.st_size, state.st_mtime_ns])
        self.size = sum(self.rows)
        if not self.size:
            raise UserError(f"{self.source} has no rows.")
        self.fingerprint = {"tables": found, "column": self.column}

    def samples(self, start: int = 0) -> Iterator[UnlabelledSample]:
        """Go through the rows, those of whole groups that are passed over unread."""
        from pyarrow import parquet

        for file, size in zip(self.files, self.rows, strict=True):
            if start >= size:
                start -= size
                continue
            with _reading(file):
                yield from self._rows_of(parquet.ParquetFile(file), Path(file).stem, start)
            start = 0

    def _rows_of(self, table: Any, stem: str, start: int) -> Iterator[UnlabelledSample]:
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if start >= row + rows:
                row += rows
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=self.columns):
                paths = stored_paths(batch.column(self.column))
                refuse_outside(self.root, paths, f"Column {self.column!r} of {self.source}", self.allow_outside)
                for values in batch.to_pylist():
                    if row >= start:
                        name, stored = _name(values, self.column), _stored(values, self.column)
                        if isinstance(stored, str):
                            stored = stored_path(self.root, stored)
                        yield UnlabelledSample(printable(name or f"{stem} {row}"), stored)
                    row += 1


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
    """Say of a parquet file that cannot be read which one it is."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise UserError(f"`{file}` cannot be read as parquet: {error}") from error


def _parquet_below(path: str) -> list[str]:
    """Parquet files of a folder, in natural order."""
    if not os.path.isdir(path):
        return []
    found = _files_below(path, lambda name: name.lower().endswith(".parquet"), Counter())
    return [os.path.join(path, name) for name in found]


def _of_split(path: str, tables: list[str], split: str | None) -> list[str]:
    """The files of a split, where there are several."""
    if not os.path.isdir(path):
        if split is not None:
            raise UserError(f"`split` is {split!r}, but `{path}` is a single file. Leave it out.")
        return tables
    try:
        files = find_files(path, path, allow_outside=False)[1] or {}
    except UserError:
        raise
    except Exception as error:  # the file readers raise many types
        raise loading_error(path, path, error) from error
    return files[_choose_split(list(files), split, repr(path))]


def _choose_split(splits: Sequence[str], split: str | None, source: str) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        asked = f"no split named {split!r}" if split else "several splits"
        raise UserError(
            f"{source} has {asked}: there are {', '.join(splits) or 'none'}. Name one of them with `split`."
        )
    return split


def _choose_column(kinds: dict[str, Any], modality: Modality, column: str | None, source: str) -> str:
    """Name of the column of samples, of the types of all columns."""
    if column is not None:
        if column not in kinds:
            raise UserError(f"{source} has no column {column!r}, but {', '.join(kinds)}. Name the right `column`.")
        if not _may_hold(kinds[column], modality):
            raise UserError(
                f"Column {column!r} of {source} is of type {kinds[column]}, but {modality} are bytes of files, their "
                f"names, or structs of these. Name another `column` of {', '.join(kinds)}."
            )
        return column
    usual = [name for name in COLUMNS[modality] if name in kinds and _may_hold(kinds[name], modality)]
    held = [name for name, kind in kinds.items() if _holds_files(kind)]
    found = [name for name in usual if name in held] or held[:1] * (len(held) == 1) or usual
    if not found:
        raise UserError(
            f"{source} has no column of {modality} that is told by its name or type, but {', '.join(kinds)}. Name it "
            "with `column`."
        )
    return found[0]


def _may_hold(kind: Any, modality: Modality) -> bool:
    """Whether a type of arrow may be that of samples: files, their names, or sounds as lists."""
    lists = modality == "sounds" and re.match(r"(large_|fixed_size_)?list", str(kind))
    return _holds_files(kind) or is_plain(kind, "string") or bool(lists)


def _holds_files(kind: Any) -> bool:
    """Whether a type of arrow is that of files: structs of bytes and path, or of samples and rate; or bytes."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return bool({"bytes", "path", "array"} & {each.name for each in kind})
    return is_plain(kind, "binary")


def _name(values: dict[str, Any], column: str) -> str | None:
    """What the sample of a row is called."""
    stored = values[column]
    path = values.get("filename") or (stored.get("path") if isinstance(stored, dict) else stored)
    return path if isinstance(path, str) else None


def _stored(values: dict[str, Any], column: str) -> Any:
    """What a row holds: a path, bytes, or samples and their rate; None where there is nothing."""
    stored, rate = values[column], values.get("sampling_rate")
    if isinstance(stored, dict):
        if stored.get("array") is not None:
            stored, rate = stored["array"], stored.get("sampling_rate")
        else:
            stored = stored.get("bytes") or stored.get("path")
    return (np.asarray(stored), rate) if isinstance(stored, list) else stored or None


# --- the hub ----------------------------------------------------------------------------------------------------------


class _Hub(Place):
    """Rows of a split of a data set of the hub, which is streamed."""

    def __init__(self, hub_id: str, modality: Modality, split: str | None, column: str | None) -> None:
        from datasets import load_dataset

        from ltaug.hub import patiently

        self.source, self.hub_id = repr(hub_id), hub_id
        try:
            builder, files = find_files(hub_id)
            known = builder.info.splits or {}
            self.split = _choose_split(list(files or known), split, self.source)
            with hub_or_cache():
                rows = patiently(lambda: load_dataset(hub_id, split=self.split, streaming=True))
                self.rows = rows.decode(False)
        except UserError:
            raise
        except Exception as error:  # the hub client and the file readers raise many types
            raise loading_error(hub_id, None, error) from error
        kinds = {each.name: each.type for each in self.rows.features.arrow_schema}
        self.column = _choose_column(kinds, modality, column, self.source)
        self.columns = [self.column, *(name for name in BESIDE if name in kinds and name != self.column)]
        self.name = source_name(None, f"{hub_id}-{self.split}")
        self.size = known[self.split].num_examples or None if self.split in known else None
        found = (builder.config.data_files or {}).get(self.split)
        commits = sorted({str(each) for each in getattr(found, "origin_metadata", None) or ()})
        self.fingerprint = {"hub": hub_id, "split": self.split, "column": self.column, "version": commits}

    def samples(self, start: int = 0) -> Iterator[UnlabelledSample]:
        """Go through the rows."""
        from ltaug.hub import hub_reason

        row = start
        try:
            for values in self.rows.select_columns(self.columns).skip(start):
                name = _name(values, self.column) or f"{self.split} {row}"
                yield UnlabelledSample(printable(name), self._content(values))
                row += 1
        except Exception as error:  # the hub client and the file readers raise many types
            reason = hub_reason(error, self.hub_id, "dataset") or f"{type(error).__name__}: {error}"
            raise ConnectionError(
                f"{self.source} has stopped after {row} samples. {reason}. Predictions go on from what is saved when "
                "they are asked for again."
            ) from error

    def _content(self, values: dict[str, Any]) -> Any:
        """What a row holds, or what reads a file of the hub that it names; no file of this machine."""
        stored = _stored(values, self.column)
        if not isinstance(stored, str):
            return stored
        return _HubFile(stored) if stored.startswith("hf://") else None


class _HubFile(str):
    """Address of a file of the hub, which a data set of the hub has named."""


def content(stored: Any) -> Any:
    """What is decoded of a stored sample: its path, its bytes, or its samples and their rate.

    Raises:
        ValueError: there is nothing.
        ConnectionError: the hub does not give a file that it has named.
    """
    if stored is None:
        raise ValueError("there is none")
    if isinstance(stored, _HubFile):
        from huggingface_hub import HfFileSystem

        try:
            return bytes(HfFileSystem(skip_instance_cache=True).cat_file(stored))
        except FileNotFoundError as error:
            raise ValueError("No such file on the hub") from error
        except Exception as error:  # the hub client raises many types, which worker processes cannot all pass on
            raise ConnectionError(
                f"The hub has not given {stored!r} ({type(error).__name__}: {error}). Predictions go on from what is "
                "saved when they are asked for again."
            ) from error
    return stored
