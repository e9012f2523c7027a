"""Where sounds come from: folders of classes, files that a table lists, tables of the hub or of parquet files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug.audio.decoding import Sound, is_sound
from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.files import refuse_outside, stored_path
from ltaug.loaders.folders import class_folders, evaluation_splits, is_leftover, natural_order, printable
from ltaug.loaders.listings import Listing, find_listing, read_listing
from ltaug.loaders.sharing import source_index
from ltaug.loaders.tables import (
    arrow_column,
    check_columns,
    class_labels,
    is_plain,
    load_splits,
    stored_paths,
    whole_numbers,
)

__all__ = ["SoundPart", "SoundSource", "read_folder", "read_table"]


@dataclass
class SoundPart:
    """Sounds of one split, none of them decoded."""

    labels: Tensor
    """int64 [N], 0..C-1; or bool [N, C], several labels a sound."""
    names: list[str]
    """File names."""
    sound: Callable[[int], Sound]
    """From an index to what :func:`~ltaug.audio.read_clip` reads."""
    places: Tensor | None = None
    """In the full set, int64 [N], of a subset that says it."""


@dataclass
class SoundSource:
    """All sounds of a data set."""

    name: str
    """For messages."""
    class_names: list[str]
    train: SoundPart
    test: SoundPart | None = None
    """Sounds of a split of its own."""
    folds: Tensor | None = None
    """int64 [N], if the training split has folds."""
    held_out: SoundPart | None = None
    """Sounds of a validation split beside the test split, to tune corrections on."""


def read_folder(
    data_dir: str,
    allow_outside: bool = False,
    *,
    file_column: str | None = None,
    label_column: str | None = None,
    only: str | None = None,
) -> SoundSource:
    """Find sound files in a folder a class, in such folders below ``train`` and ``test``, or by a table of them.

    :func:`~ltaug.loaders.folders.class_folders` says what is passed over, and in which order classes stand. Folders of
    classes may also lie in ``fold1``, ``fold2``, ... A table, CSV or JSON lines, has the file of every sound, its label
    or several of them, and perhaps its split or fold. It is the ``metadata.csv`` or ``metadata.jsonl`` of the folder,
    or the only CSV file in it, in ``meta`` or in ``metadata``, as ESC-50 and UrbanSound8K have it; or ``train.csv`` and
    ``test.csv``;
    :func:`~ltaug.loaders.listings.read_listing` says how it is read.

    Args:
        data_dir: the folder, or the table.
        allow_outside: read files outside of it, too, that the table names.
        file_column: the table's column of files; by default found by its usual names.
        label_column: the table's column of labels; likewise.
        only: the table's column of truth values that says which rows to take, if there is one of this name.

    Raises:
        UserError: there are neither folders nor a table, or the table is not as described.
    """
    if found := find_listing(data_dir):
        path, root = found
        columns = {"file_column": file_column, "label_column": label_column, "only": only}
        required = str(path) == data_dir or bool(file_column or label_column)
        listing = read_listing(path, root, is_sound, **columns, allow_outside=allow_outside, required=required)
        if listing is not None:
            if str(path) != data_dir and getattr(path, "stem", "") != "metadata":
                warn(f"sounds and their labels are those that {listing.source} lists.")
            return _listed(listing)
    if file_column or label_column:
        name = "audio_column" if file_column else "label_column"
        raise UserError(
            f"`{name}` is {file_column or label_column!r}, but {data_dir!r} has no table of sounds: such are "
            "metadata.csv, or the only CSV file. Leave it out, or name the table as `data_dir`."
        )
    if any(Path(data_dir).glob("*.parquet")):
        raise UserError(f"{data_dir!r} holds parquet files. Recipes read such by `dataset: parquet`.")
    if folds := _fold_folders(data_dir):
        return _folded(data_dir, folds)
    names, splits = class_folders(data_dir, is_sound, unit="sound files")
    parts = {
        split: SoundPart(files.labels, [printable(name) for name in files.names], files.path)
        for split, files in splits.items()
    }
    test, tuning = evaluation_splits(parts)
    return SoundSource(repr(data_dir), names, parts["train"], parts.get(test or ""), held_out=parts.get(tuning or ""))


def _listed(listing: Listing) -> SoundSource:
    parts = {}
    for split, files in listing.files.items():
        paths = [stored_path(listing.root, file) for file in files]
        parts[split] = SoundPart(listing.labels[split], list(map(printable, files)), paths.__getitem__)
    test, tuning = parts.get(listing.test or ""), parts.get(listing.tuning or "")
    return SoundSource(listing.source, listing.class_names, parts["train"], test, listing.folds, tuning)


def _fold_folders(data_dir: str) -> dict[int, str]:
    """Folders by the number of the fold, if all there are have names of folds."""
    if not os.path.isdir(data_dir):
        return {}
    with os.scandir(data_dir) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not is_leftover(entry.name))
    found = {name: re.fullmatch(r"fold[ _-]?(\d+)", name.lower()) for name in names}
    if not all(found.values()):
        return {}
    folds: dict[int, str] = {}
    for name, match in found.items():
        if (number := int(match[1]) if match else 0) in folds:
            raise UserError(
                f"{data_dir!r} has two folders of fold {number}: {folds[number]!r} and {name!r}. Merge them."
            )
        folds[number] = name
    return folds


def _folded(data_dir: str, folds: dict[int, str]) -> SoundSource:
    """Folders of classes in folders of folds."""
    found = {fold: class_folders(os.path.join(data_dir, name), is_sound, "sound files") for fold, name in folds.items()}
    class_names = sorted({name for names, _ in found.values() for name in names}, key=natural_order)
    labels, numbers, files, paths = [], [], [], []
    for fold, (names, splits) in found.items():
        if len(splits) > 1:
            raise UserError(f"{folds[fold]!r} in {data_dir!r} has splits in it: {', '.join(splits)}. Leave out either.")
        part = splits["train"]
        labels.append(torch.tensor([class_names.index(name) for name in names])[part.labels])
        numbers += [fold] * len(part.names)
        files += [printable(f"{folds[fold]}/{name}") for name in part.names]
        paths += [part.path(k) for k in range(len(part.names))]
    train = SoundPart(torch.cat(labels), files, paths.__getitem__)
    return SoundSource(repr(data_dir), class_names, train, folds=torch.tensor(numbers))


def read_table(
    hub_id: str,
    data_dir: str | None = None,
    audio_column: str = "audio",
    label_column: str = "label",
    names_column: str = "category",
    only: str | None = None,
    allow_outside: bool = False,
) -> SoundSource:
    """Read a data set of the hub, or a folder of parquet files; nothing is decoded.

    A sound may be stored as a file's bytes, its path, ``{"bytes": ..., "path": ...}`` or
    ``{"array": ..., "sampling_rate": ...}``, or as a list of samples beside a column ``sampling_rate``; with several
    channels as a list of lists. Labels are
    numbers or text (:func:`~ltaug.loaders.tables.class_labels`). A column ``fold`` gives the folds, ``filename`` the
    names, or else the paths that sounds are stored with.

    Args:
        hub_id: OWNER/NAME.
        data_dir: folder that is read instead.
        audio_column: column of the sounds.
        label_column: column of the labels, or of lists of them.
        names_column: column of the classes' names, where labels are numbers; it may be missing.
        only: column of truth values, or 0 and 1, that says which rows to take, if there is one of this name.
        allow_outside: read files outside of ``data_dir``, too, that paths in the column of sounds name.

    Raises:
        UserError: the data have no training split or no such column, or a column has something else.
        ConnectionError: the hub cannot be reached.
    """
    splits, source = load_splits(hub_id, data_dir, allow_outside), repr(data_dir or hub_id)
    if "train" not in splits:
        raise UserError(
            f"{source} must have a split named 'train', but has {', '.join(splits)}. A folder's splits are told by "
            "its file names: train-0.parquet."
        )
    test, tuning = evaluation_splits(splits)
    used = {split: _Rows(splits[split], source, only) for split in ("train", test, tuning) if split}
    for rows in used.values():
        check_columns(rows.table, source, audio_column=audio_column, label_column=label_column)
    feature = splits["train"].features[label_column]
    class_names, labels = class_labels({split: rows.column(label_column) for split, rows in used.items()}, None, source)
    feature = getattr(feature, "feature", feature)  # of lists, that of their entries
    if hasattr(feature, "names"):
        class_names = [feature.names[int(label)] for label in class_names]
    elif labels["train"].ndim == 1 and names_column in splits["train"].column_names:
        class_names = _names(used["train"], labels["train"], class_names, label_column, names_column)
    parts = {
        split: rows.part(labels[split], audio_column, data_dir or "", allow_outside) for split, rows in used.items()
    }
    paths = [path for rows in used.values() for path in rows.paths]
    if twice := len(paths) - len(set(paths)):
        warn(f"{source} lists {twice} files more than once: of equal files some may train, and others test.")
    folds = None
    if "fold" in splits["train"].column_names and not test:
        numbers = whole_numbers(used["train"].column("fold"))
        if numbers is None:
            raise UserError(f"{source} must hold whole numbers in 'fold', but has other values.")
        folds = torch.from_numpy(numbers.copy())
    return SoundSource(source, class_names, parts["train"], parts.get(test or ""), folds, parts.get(tuning or ""))


class _Rows:
    """Rows of a split that are used."""

    def __init__(self, table: Any, source: str, only: str | None) -> None:
        self.table, self.source = table, source
        self.paths: list[str] = []  # of files, not stored themselves
        self.places = np.arange(len(table))
        if only is not None and only in table.column_names:
            taken = whole_numbers(arrow_column(table, only))
            if taken is None or not set(taken.tolist()) <= {0, 1}:
                raise UserError(f"{source} must hold truth values, or 0 and 1, in {only!r}, but has others.")
            self.places = np.flatnonzero(taken)
        if not len(self.places):
            raise UserError(f"{source} has no clips.")

    def column(self, name: str) -> Any:
        """One column, as it is stored."""
        column = arrow_column(self.table, name)
        return column if len(self.places) == len(column) else column.take(self.places)

    def part(self, labels: Tensor, audio_column: str, folder: str, allow_outside: bool) -> SoundPart:
        """Sounds that are read from the table, which is not copied, when they are asked for."""
        import pyarrow
        import pyarrow.compute

        sounds, rates = arrow_column(self.table, audio_column), None
        if pyarrow.types.is_dictionary(sounds.type):
            sounds = sounds.cast(sounds.type.value_type)
        if _is_list(sounds.type):
            if "sampling_rate" not in self.table.column_names:
                raise UserError(
                    f"{self.source} holds lists of samples in {audio_column!r}, and no column 'sampling_rate'."
                )
            rates = arrow_column(self.table, "sampling_rate")
        elif not _holds_sounds(sounds.type):
            raise UserError(
                f"{self.source} must hold sounds in {audio_column!r}, but holds {self.table.features[audio_column]}. "
                "Name another column with `audio_column`."
            )
        refuse_outside(
            folder, paths := stored_paths(sounds), f"Column {audio_column!r} of {self.source}", allow_outside
        )
        self.paths = stored_paths(sounds.take(self.places)) if paths and len(self.places) < len(sounds) else paths
        given: list[Any] = [None] * len(self.places)
        if "filename" in self.table.column_names:
            given = self.column("filename").to_pylist()
        elif is_plain(sounds.type, "string"):
            given = sounds.take(self.places).to_pylist()
        elif pyarrow.types.is_struct(sounds.type) and sounds.type.get_field_index("path") >= 0:
            given = pyarrow.compute.struct_field(sounds, "path").take(self.places).to_pylist()
        names = [printable(str(name or f"clip {k}")) for name, k in zip(given, self.places.tolist(), strict=True)]
        places = source_index(self.table)
        places = None if places is None else places[torch.from_numpy(self.places)]
        return SoundPart(labels, names, partial(_stored_sound, sounds, rates, self.places, folder), places)


def _is_list(kind: Any) -> bool:
    """Whether a type of arrow is a list, in any of its layouts."""
    import pyarrow

    return pyarrow.types.is_nested(kind) and hasattr(kind, "value_type")


def _holds_sounds(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        fields = {kind.field(k).name for k in range(kind.num_fields)}
        return bool(fields & {"bytes", "path"}) or fields >= {"array", "sampling_rate"}
    return is_plain(kind, "string", "binary")


def _stored_sound(sounds: Any, rates: Any, places: np.ndarray[Any, Any], folder: str, k: int) -> Sound:
    """Take one sound out of a column; empty bytes where there is none."""
    stored = sounds[int(places[k])]
    if not stored.is_valid:
        return b""
    if rates is not None:
        return _array(stored), rates[int(places[k])].as_py()
    if hasattr(stored, "as_buffer"):  # bytes or text
        return _file(stored, None, folder)
    if "array" in stored:
        rate = stored["sampling_rate"].as_py()
        return b"" if rate is None or not stored["array"].is_valid else (_array(stored["array"]), rate)
    return _file(stored.get("bytes"), stored.get("path"), folder)


def _array(stored: Any) -> np.ndarray[Any, Any]:
    """Samples in a list, or in a list for each channel or moment."""
    values = stored.values
    if not _is_list(values.type):
        return np.asarray(values)
    rows = stored.as_py()
    return np.array(rows, dtype=None if len({row and len(row) for row in rows}) == 1 else object)


def _file(stored: Any, path: Any, folder: str) -> Sound:
    """A file by its bytes, which are not copied, or its path."""
    for value in (stored, path):
        if value is None or not value.is_valid or not value.as_buffer().size:
            continue
        return stored_path(folder, value.as_py()) if is_plain(value.type, "string") else memoryview(value.as_buffer())
    return b""


def _names(rows: _Rows, labels: Tensor, numbers: list[str], label_column: str, names_column: str) -> list[str]:
    """Names of the classes by a column that has one for every label."""
    pairs = sorted(set(zip(labels.tolist(), map(str, rows.column(names_column).to_pylist()), strict=True)))
    names = dict(pairs)
    if not len(pairs) == len(names) == len(numbers):
        raise UserError(
            f"{rows.source} has {len(numbers)} labels in {label_column!r}, but {len(pairs)} pairs of label and "
            f"{names_column!r}; each label must have one. Name another column with `label_column`."
        )
    return [names[k] for k in range(len(numbers))]
