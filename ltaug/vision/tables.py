"""Images in tables: data sets of the Hugging Face hub and local parquet files, read column by column.

A column of images may hold bytes, paths, or structs of both, in any of arrow's types. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow
import pyarrow.compute
import torch
from PIL import Image
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders.files import refuse_outside
from ltaug.loaders.folders import TEST_SPLITS
from ltaug.loaders.sharing import source_index
from ltaug.loaders.tables import (
    arrow_column,
    check_columns,
    class_labels,
    find_files,
    is_plain,
    load_splits,
    loading_error,
    stored_paths,
)
from ltaug.vision.decoding import open_stored, stored_bytes
from ltaug.vision.image_set import Images
from ltaug.vision.shards import Shards
from ltaug.vision.streaming import StreamSet

__all__ = ["ImageColumn", "check_split", "read_image_stream", "read_image_table", "stored_names"]


class ImageColumn:
    """Opens the images of a column: ``column(row)`` is a PIL image, not yet decoded. Goes to worker processes.

    Args:
        rows: a split of a data set.
        column: name of the column.
        source: what to call the data set in messages.
        folder: where relative paths in the column start; empty for a data set of the hub.
        allow_outside: read files that paths in the column name outside of ``folder``, too.

    Raises:
        UserError: the column holds something else, or paths that lead out of ``folder``.
    """

    def __init__(self, rows: Any, column: str, source: str, folder: str = "", allow_outside: bool = False) -> None:
        self.rows, self.column, self.folder = rows, column, folder
        self._stored: Any = None
        stored = arrow_column(rows, column)
        kind = stored.type
        fields = {each.name for each in kind} if pyarrow.types.is_struct(kind) else set()
        if not (is_plain(kind, "string", "binary") or {"bytes", "path"} & fields):
            raise UserError(
                f"{source!r} must hold images in {column!r} (their bytes, their paths, or structs of bytes and path), "
                f"but holds {kind}. Name another column with `image_column`."
            )
        refuse_outside(folder, stored_paths(stored), f"Column {column!r} of {source!r}", allow_outside)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stored": None}  # pickled it would be the bytes of all images

    def __call__(self, row: int, name: str = "") -> Image.Image:
        """Open the image of a row."""
        if self._stored is None:
            self._stored = arrow_column(self.rows, self.column)
        return open_stored(self._stored[row].as_py(), self.folder)

    def encoded(self, row: int, name: str = "") -> bytes:
        """The file of a row, as it is stored."""
        if self._stored is None:
            self._stored = arrow_column(self.rows, self.column)
        return stored_bytes(self._stored[row].as_py(), self.folder)


def stored_names(rows: Any, column: str, split: str) -> Any:
    """File names of the images of a split, a pyarrow array of bytes; where none is stored, the split and the row."""
    stored = arrow_column(rows, column)
    names = pyarrow.nulls(len(stored), pyarrow.large_string())
    if pyarrow.types.is_struct(stored.type) and "path" in {each.name for each in stored.type}:
        names = pyarrow.compute.struct_field(stored, "path").cast(pyarrow.large_string())
    elif "string" in str(stored.type):
        names = stored.cast(pyarrow.large_string())
    if names.null_count:
        numbered = pyarrow.array([f"{split} {k}" for k in range(len(stored))], pyarrow.large_string())
        names = pyarrow.compute.coalesce(names, numbered)
    if isinstance(names, pyarrow.ChunkedArray):
        names = names.combine_chunks()
    return names.cast(pyarrow.large_binary())


def check_split(splits: Collection[str], split: str, source: str, setting: str | None = None) -> None:
    """Refuse a split that is not there; ``setting`` names it."""
    if split not in splits:
        hint = f"Name the right one with `{setting}`; a" if setting else "A"
        raise UserError(
            f"{source!r} has no split named {split!r}, but {', '.join(splits)}. {hint} folder's splits are told by its "
            f"file names: {split}-0.parquet."
        )


def read_image_table(
    hub_id: str | None,
    data_dir: str | None = None,
    *,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str | None = None,
    allow_outside: bool = False,
) -> tuple[list[str], dict[str, Images]]:
    """Find the images of a data set of the hub, or of a local folder of parquet files.

    Args:
        hub_id: data set of the hub, OWNER/NAME.
        data_dir: folder to read instead, of files with these columns.
        image_column: column of the images.
        label_column: column of the labels, which are class indices or class names, or lists of them.
        train_split: name of the split to train on.
        test_split: name of the split to test on; by default test or validation, whichever there is.
        allow_outside: read files outside of ``data_dir``, too, that paths in a column name.

    Returns:
        Class names, and images by split: train, and test and validation if they are there.
    """
    source = _source(hub_id, data_dir)
    splits = load_splits(hub_id or source, data_dir, allow_outside)
    chosen = choose_splits(splits, source, train_split, test_split)
    for split in chosen.values():
        where = f"The {split} split of {source!r}"
        check_columns(splits[split], where, image_column=image_column, label_column=label_column)
    known = _class_names(splits[train_split].features, label_column)
    columns = {name: arrow_column(splits[split], label_column) for name, split in chosen.items()}
    names, labels = class_labels(columns, known, f"Column {label_column!r} of {source!r}")
    openers = {
        name: ImageColumn(splits[split], image_column, source, data_dir or "", allow_outside)
        for name, split in chosen.items()
    }
    return names, {name: _images(opener, labels[name], chosen[name]) for name, opener in openers.items()}


def read_image_stream(
    hub_id: str | None,
    data_dir: str | None = None,
    *,
    buffer: int,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str | None = None,
    allow_outside: bool = False,
) -> tuple[list[str], StreamSet, dict[str, Images]]:
    """Find the training images of a data set of parquet files without downloading them; the test split by index.

    Args:
        hub_id: see :func:`read_image_table`.
        data_dir: likewise.
        buffer: encoded images of a class that are held.
        image_column: likewise.
        label_column: likewise.
        train_split: likewise.
        test_split: likewise.
        allow_outside: likewise.

    Returns:
        Class names, training images, and the test split, if there is one.
    """
    import datasets

    source = _source(hub_id, data_dir)
    try:
        builder, files = find_files(source, data_dir, allow_outside)
    except UserError:
        raise
    except Exception as error:  # the hub client and the file readers raise many types
        raise loading_error(source, data_dir, error) from error
    paths, folder = files or {}, data_dir or ""
    if other := [file for each in paths.values() for file in each if not file.endswith(".parquet")]:
        raise UserError(f"A stream reads parquet files only, but {source!r} has {other[0]}.")
    chosen = choose_splits(paths, source, train_split, test_split)
    shards = Shards(paths[train_split], train_split, image_column, label_column, source, folder, allow_outside)
    features = builder.info.features or datasets.Features.from_arrow_schema(shards.schema)
    columns, splits = {"train": shards.labels}, {}
    if test := chosen.get("test"):
        try:
            splits = dict(datasets.load_dataset("parquet", data_files={test: paths[test]}))
        except Exception as error:  # likewise
            raise loading_error(source, data_dir, error) from error
        where = f"The {test} split of {source!r}"
        check_columns(splits[test], where, image_column=image_column, label_column=label_column)
        columns["test"] = arrow_column(splits[test], label_column)
    known = _class_names(features, label_column)
    names, labels = class_labels(columns, known, f"Column {label_column!r} of {source!r}")
    if labels["train"].ndim > 1:
        raise UserError(f"A stream is drawn by class, but {label_column!r} has several labels a sample. Do not stream.")
    train = StreamSet(shards, labels["train"], buffer, len(names))
    if not test:
        return names, train, {}
    opener = ImageColumn(splits[test], image_column, source, folder, allow_outside)
    return names, train, {"test": _images(opener, labels["test"], test)}


def _source(hub_id: str | None, data_dir: str | None) -> str:
    source = data_dir or hub_id
    if source is None:
        raise UserError("Give `hub_id`, a data set of the hub, or `data_dir`, a folder of parquet files.")
    return source


def _class_names(features: Any, column: str) -> list[str] | None:
    """Class names that a data set knows for a column of labels."""
    feature = features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None)  # of lists, that of their entries


def _images(opener: ImageColumn, labels: Tensor, split: str) -> Images:
    names, places = stored_names(opener.rows, opener.column, split), source_index(opener.rows)
    return Images(labels, names, torch.arange(len(opener)), opener, places)


def choose_splits(
    splits: Collection[str], source: str, train_split: str = "train", test_split: str | None = None
) -> dict[str, str]:
    """Names of the splits that a data set has for train, test and, to tune corrections on, validation."""
    check_split(splits, train_split, source, "train_split")
    if test_split is not None:
        check_split(splits, test_split, source, "test_split")
    if test_split == train_split:
        raise UserError(f"`test_split` must not be the training split, {test_split!r}.")
    others = [split for split in TEST_SPLITS if split in splits and split not in (test_split, train_split)]
    chosen = {"train": train_split}
    if test_split or others:
        chosen["test"] = test_split or others.pop(0)
    if tuning := [split for split in others if not split.startswith("test")]:  # a test split may have no labels
        chosen["validation"] = tuning[0]
    return chosen
