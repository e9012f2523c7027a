"""Tables of samples, from the hub or from parquet files, as ``datasets`` reads them: splits, columns, labels."""

from __future__ import annotations

import contextlib
import decimal
import itertools
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.folders import is_leftover, natural_order, warn_of_names
from ltaug.longtail import index_hash, profile_counts, subsample
from ltaug.priors import class_counts
from ltaug.run import content_hash

__all__ = [
    "arrow_column",
    "check_columns",
    "class_labels",
    "data_files",
    "find_files",
    "hold_out",
    "hub_or_cache",
    "is_plain",
    "labels_hash",
    "load_splits",
    "loading_error",
    "stored_paths",
    "thin_out",
    "whole_numbers",
]


MOST_NODES = 1_000_000
"""Of the YAML of a data card, all of which ``datasets`` goes through."""


def load_splits(source: str, data_dir: str | None = None, allow_outside: bool = False) -> dict[str, Any]:
    """Load the splits of a data set of the hub, or of a folder of parquet files.

    Args:
        source: OWNER/NAME on the hub.
        data_dir: folder that is read instead.
        allow_outside: read files outside of the folder, too, if its README.md names such.

    Returns:
        Data sets by split.

    Raises:
        UserError: ``data_dir`` is no folder, or ``datasets`` cannot read it, or its files contradict each other.
        ConnectionError: the hub cannot be reached, or does not give the data.
    """
    from datasets import load_dataset

    from ltaug.hub import patiently

    try:
        if not data_dir:
            with hub_or_cache():
                return dict(patiently(lambda: load_dataset(source)))
        return dict(load_dataset(data_dir, data_files=find_files(source, data_dir, allow_outside)[1]))
    except UserError:
        raise
    except Exception as error:  # the hub client and the file readers raise many types
        raise loading_error(source, data_dir, error) from error


def find_files(
    source: str, data_dir: str | None = None, allow_outside: bool = False
) -> tuple[Any, dict[str, list[str]] | None]:
    """Find the files of a data set: the builder of ``datasets`` that reads them, and their paths by split.

    Args:
        source: see :func:`load_splits`.
        data_dir: likewise.
        allow_outside: likewise.
    """
    from datasets import load_dataset_builder

    from ltaug.hub import patiently

    if not data_dir:
        with hub_or_cache():
            builder = patiently(lambda: load_dataset_builder(source))
            return builder, data_files(builder)
    if not os.path.isdir(data_dir):
        raise UserError(f"`data_dir` {data_dir!r} is no folder. Leave it out to read {source} from the hub.")
    _refuse_addresses(data_dir)
    builder = load_dataset_builder(data_dir)
    return builder, data_files(builder, data_dir, allow_outside)


def _refuse_addresses(data_dir: str) -> None:
    """Refuse a folder whose card names addresses of the web as its files: ``datasets`` would go there."""
    import yaml
    from datasets import config
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    for name, head in ((config.REPOCARD_FILENAME, REGEX_YAML_BLOCK), (config.REPOYAML_FILENAME, None)):
        path = os.path.join(data_dir, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            found = head.search(text) if head else None
            card = yaml.safe_load(found[2] if found else "" if head else text)
            if sum(1 for _ in itertools.islice(_nodes(card), MOST_NODES)) == MOST_NODES:
                raise UserError(f"`{path}` is too large: its aliases stand for {MOST_NODES:,} values and more.")
            for word in _nodes(card.get("configs") if isinstance(card, dict) else None):
                if isinstance(word, str) and "://" in word:
                    raise UserError(f"`{path}` has files of the data at {word!r}. Put them into the folder.")


def _nodes(values: Any) -> Iterator[Any]:
    """All values of plain YAML, down to the single ones."""
    yield values
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _nodes(value)


@contextlib.contextmanager
def hub_or_cache(timeout: float = 10.0) -> Iterator[None]:
    """Keep the clients of the hub offline, where they read their cache, if the hub does not answer.

    They would ask for most of a minute before they give up, at each of several places.

    Args:
        timeout: seconds to wait for the hub.
    """
    import datasets
    import huggingface_hub.utils

    client: Any = huggingface_hub
    clients: tuple[Any, ...] = (client.constants, datasets.config)
    before = [each.HF_HUB_OFFLINE for each in clients]
    if not any(before):
        try:
            client.utils.get_session().head(client.constants.ENDPOINT, timeout=timeout)
        except Exception as error:  # of whichever HTTP library the client has
            where, kind = client.constants.ENDPOINT, type(error).__name__
            warn(f"The hub at {where} does not answer ({kind}): only its cache is searched.")
            for each in clients:
                each.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for each, value in zip(clients, before, strict=True):
            each.HF_HUB_OFFLINE = value


def data_files(builder: Any, data_dir: str | None = None, allow_outside: bool = False) -> dict[str, list[str]] | None:
    """Paths of the files that a builder of ``datasets`` has found, by split.

    Of a local folder without those that systems leave beside data, such as deleted files in ``@Recycle``.

    Raises:
        UserError: a local folder has files of samples instead of tables, or its README.md leads out of it, or two
            splits of it have other names for the same class indices.
    """
    if data_dir and builder.name.endswith("folder"):  # which takes some kinds of files only, and passes over others
        raise UserError(
            f"`data_dir` {data_dir!r} holds files of samples, no parquet files. Recipes that read such do so by "
            "`dataset: folder`."
        )
    files = {str(split): list(map(str, each)) for split, each in (builder.config.data_files or {}).items()}
    if data_dir:
        paths = [file for each in files.values() for file in each]
        outside = [] if allow_outside else [file for file in paths if _inside(file, data_dir).startswith("../")]
        if outside:
            raise UserError(
                f"The README.md of `data_dir` {data_dir!r} leads out of it: {len(outside)} of {len(paths)} files lie "
                f"elsewhere, the first of which is {outside[0]!r}. Put them there; or, if you trust whoever wrote it, "
                "set `allow_outside` to true."
            )
        kept = {split: [file for file in each if not _left_behind(file, data_dir)] for split, each in files.items()}
        if dropped := sum(map(len, files.values())) - sum(map(len, kept.values())):
            warn(f"{dropped} files in hidden folders of {data_dir!r}, or such that systems leave, are passed over.")
        files = {split: each for split, each in kept.items() if each}
        _check_class_names(data_dir, {split: each[0] for split, each in files.items()})
    return files or None


def _left_behind(file: str, root: str) -> bool:
    inside = _inside(file, root)
    return not inside.startswith("../") and is_leftover(inside)


def _inside(file: str, root: str) -> str:
    """Path of a file from a folder on, whose links ``datasets`` may have resolved."""
    paths = [os.path.relpath(file, each).replace(os.sep, "/") for each in (root, os.path.realpath(root))]
    return min(paths, key=lambda path: path.startswith("../"))


def _check_class_names(source: str, files: Mapping[str, str]) -> None:
    """Refuse parquet files of two splits that name the same class indices differently; ``datasets`` does not look."""
    from pyarrow import parquet

    known: dict[tuple[str, int], tuple[str, str]] = {}
    for split, file in files.items():
        if not file.endswith(".parquet"):
            continue
        metadata = (parquet.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
        for column, feature in (json.loads(metadata).get("info", {}).get("features") or {}).items():
            for k, name in enumerate(feature.get("names") or () if isinstance(feature, dict) else ()):
                other, first = known.setdefault((column, k), (name, split))
                if other != name:
                    raise UserError(
                        f"{source!r} has other class names for {column!r} in its {split} split than in {first}: "
                        f"{k} is {name!r} in one and {other!r} in the other. Store the labels as text."
                    )


def loading_error(source: str, data_dir: str | None, error: Exception) -> Exception:
    """Error for a data set that cannot be loaded; its message says what else can be done."""
    from ltaug.hub import hub_reason

    if data_dir:
        if "[" in os.path.abspath(data_dir):
            error = ValueError("`datasets` takes [ in its path for a pattern. Rename the folder, or give a link to it.")
        reason = error.__cause__ or error
        return UserError(f"`data_dir` {data_dir!r} cannot be read as a data set of parquet files: {reason}")
    said = hub_reason(error, source, "dataset")
    if said is None:
        said = f"The data set {source!r} could not be loaded from the hub ({type(error).__name__}: {error})"
    elif "terms" in said:
        return ConnectionError(f"{said}; or read a local copy with `data_dir`.")
    return ConnectionError(
        f"{said}. Offline ways: `data_dir` with parquet files of the same columns, or a cache filled earlier (set "
        "HF_HUB_OFFLINE=1)."
    )


def check_columns(rows: Any, source: str, **columns: str) -> None:
    """Raise a UserError unless a split has these columns; the keywords are the settings that name them."""
    for setting, column in columns.items():
        if column not in rows.column_names:
            raise UserError(
                f"{source} has no column {column!r}, but {', '.join(rows.column_names)}. Name the right one with "
                f"`{setting}`."
            )


def stored_paths(column: Any) -> list[str]:
    """Paths in a column of samples that are read by them: of text all, of structs those of rows without bytes.

    >>> import pyarrow
    >>> stored_paths(pyarrow.array([{"bytes": b"...", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}]))
    ['2.jpg']
    """
    import pyarrow
    import pyarrow.compute

    kinds = {each.name: each.type for each in column.type} if pyarrow.types.is_struct(column.type) else {}
    if not kinds:
        return [path for path in column.to_pylist() if path] if is_plain(column.type, "string") else []
    paths, needed = [], np.ones(len(column), dtype=bool)
    for name in ("bytes", "path"):
        if name in kinds and "array" not in kinds and needed.any():
            values = pyarrow.compute.struct_field(column, name)
            if is_plain(kinds[name], "string"):
                paths += [path for path, asked in zip(values.to_pylist(), needed, strict=True) if path and asked]
                continue
            try:
                sizes = pyarrow.compute.binary_length(values)
            except pyarrow.ArrowNotImplementedError:  # of views and dictionaries: this copies the bytes
                sizes = pyarrow.compute.binary_length(values.cast(pyarrow.large_binary()))
            needed &= np.asarray(sizes.fill_null(0)) == 0
    return paths


def arrow_column(rows: Any, column: str) -> Any:
    """Return one column of a split as it is stored, undecoded and without a copy: a ``pyarrow.ChunkedArray``."""
    return rows.select_columns([column]).with_format("arrow")[:].column(column)


def is_plain(kind: Any, *words: str) -> bool:
    """Say whether a type of arrow is one of strings or of bytes, in any of their layouts.

    >>> import pyarrow
    >>> is_plain(pyarrow.string_view(), "string"), is_plain(pyarrow.list_(pyarrow.string()), "string", "binary")
    (True, False)
    """
    import pyarrow

    return any(word in str(kind) for word in words) and not pyarrow.types.is_nested(kind)


def whole_numbers(values: Any) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Read a column of whole numbers, of any type that can hold them, as int64 [N]; None for any other column."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_boolean(values.type):
        values = values.cast(pyarrow.int8())
    if not pyarrow.types.is_integer(values.type) and not (
        pyarrow.types.is_floating(values.type) or pyarrow.types.is_decimal(values.type)
    ):
        return None
    try:
        numbers = pyarrow.compute.cast(values, pyarrow.int64())
    except pyarrow.ArrowInvalid:  # a fraction, or too large
        return None
    return None if numbers.null_count else np.asarray(numbers.to_numpy(), dtype=np.int64)


def class_labels(
    columns: Mapping[str, Any], class_names: Sequence[str] | None = None, source: str = "The data set"
) -> tuple[list[str], dict[str, Tensor]]:
    """Turn columns of labels into class indices that are the same in all splits.

    Labels may be whole numbers of any type, or text. Those that some split uses become classes 0..C-1, in the order of
    the numbers or, of text, in natural order. Of text, spaces at the ends do not count, and accents are composed (NFC).
    A column of lists of them gives several labels a sample, or none: multi-hot rows.

    Args:
        columns: label column of each split, as :func:`arrow_column` returns it.
        class_names: names of the labels 0, 1, ..., all of which become classes.
        source: what is read, for messages.

    Returns:
        Names of the C classes, and int64 [N] by split; of lists bool [N, C].

    Raises:
        UserError: a label is missing, negative or neither a whole number nor text; or beyond ``class_names``; or one
            split has lists and another has not.

    >>> import pyarrow
    >>> class_labels({"train": pyarrow.chunked_array([["bee", "ant"]]), "test": pyarrow.chunked_array([["bee"]])})
    (['ant', 'bee'], {'train': tensor([1, 0]), 'test': tensor([1])})
    """
    import pyarrow

    if several := [split for split, column in columns.items() if _is_list(column.type)]:
        if len(several) < len(columns):
            raise UserError(f"{source} has lists of labels in its {several[0]} split, but not in all of them.")
        return _several_labels(columns, class_names, source)
    read: dict[str, Any] = {}
    for split, column in columns.items():
        values = column
        if pyarrow.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        text = is_plain(values.type, "string")
        numbers = None if text else whole_numbers(values)
        bad = _first_bad(values, numbers, None if class_names is None else len(class_names))
        if bad is not None:
            shown = repr(values[bad].as_py())[:80]
            wanted = "class indices or names" if class_names is None else f"class indices below {len(class_names)}"
            raise UserError(
                f"{source} must hold {wanted} as labels, but sample {bad} of its {split} split has {shown}."
            )
        read[split] = np.asarray(list(map(_label, values.to_pylist())), dtype=object) if text else numbers
    kinds = {values.dtype.kind for values in read.values()}
    if len(kinds) > 1:
        raise UserError(f"{source} has numbers as labels in one split and text in another.")
    if class_names is not None and kinds != {"O"}:
        return list(class_names), {split: torch.from_numpy(values.copy()) for split, values in read.items()}
    used = set().union(*(values.tolist() for values in read.values()))
    order = sorted(used, key=natural_order) if kinds == {"O"} else sorted(used)
    if kinds == {"O"}:
        warn_of_names(order)
    index = {value: k for k, value in enumerate(order)}
    names = [str(value) for value in order]
    return names, {split: torch.tensor([index[value] for value in values.tolist()]) for split, values in read.items()}


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return any(is_list(kind) for is_list in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _several_labels(
    columns: Mapping[str, Any], class_names: Sequence[str] | None, source: str
) -> tuple[list[str], dict[str, Tensor]]:
    """Turn columns of lists of labels into multi-hot rows, bool [N, L]."""
    import pyarrow.compute

    for split, column in columns.items():
        if column.null_count:
            bad = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise UserError(
                f"{source} must hold a list of labels for each sample, which may be empty, but sample {bad} of its "
                f"{split} split has none."
            )
    flat = {split: pyarrow.compute.list_flatten(column) for split, column in columns.items()}
    names, labels = class_labels(flat, class_names, f"{source}, its lists one after the other,")
    rows = {}
    for split, column in columns.items():
        sizes = torch.from_numpy(pyarrow.compute.list_value_length(column).to_numpy().astype(np.int64))
        rows[split] = torch.zeros(len(column), len(names), dtype=torch.bool)
        rows[split][torch.repeat_interleave(torch.arange(len(column)), sizes), labels[split]] = True
    return names, rows


def _first_bad(values: Any, numbers: np.ndarray[Any, Any] | None, num_classes: int | None) -> int | None:
    """Row of the first label that cannot be used."""
    if values.null_count:
        return int(np.flatnonzero(values.is_null().to_numpy())[0])
    if numbers is not None:
        bad = (numbers < 0) if num_classes is None else (numbers < 0) | (numbers >= num_classes)
        return int(bad.argmax()) if bad.any() else None
    text = is_plain(values.type, "string")
    for k, value in enumerate(values.to_pylist()):  # the first that is no text, or no whole number
        if isinstance(value, str) and text:
            if not value.strip():
                return k
        elif not isinstance(value, int | float | decimal.Decimal) or value % 1 != 0:  # of NaN, too
            return k
    return None if text else 0


def _label(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def hold_out(labels: Tensor, per_class: int, class_names: Sequence[str], setting: str, seed: int = 0) -> Tensor:
    """Draw equally many samples of every class, and leave each class at least one.

    Args:
        labels: int64 [N].
        per_class: how many.
        class_names: C names, for the message.
        setting: name of the setting that asks for them, for the message.
        seed: which ones.

    Returns:
        Indices of the drawn samples, class after class.

    Raises:
        UserError: ``per_class`` is less than 1, or a class has too few samples.

    >>> hold_out(torch.tensor([0, 0, 1, 1, 1]), 1, ["ant", "bee"], "test_per_class").tolist()
    [1, 4]
    """
    if per_class < 1:
        raise UserError(f"`{setting}` must be at least 1, but is {per_class}.")
    if labels.ndim > 1:
        raise UserError(
            f"`{setting}`={per_class} draws by classes that exclude each other, but samples have several labels here. "
            "Give them a test split, and leave out what is drawn by class."
        )
    available = class_counts(labels, len(class_names))
    if (short := (available < per_class + 1).nonzero()[:, 0]).numel():
        k = int(short[0])
        raise UserError(
            f"`{setting}`={per_class} leaves no training samples of class {k} ({class_names[k]}), which has "
            f"{int(available[k])} ({len(short)} of {len(class_names)} classes are too small). Lower it, or add samples."
        )
    return subsample(labels, [per_class] * len(class_names), seed=seed)


def thin_out(
    labels: Tensor,
    profile: str,
    imbalance_ratio: float,
    class_names: Sequence[str],
    seed: int = 0,
    *,
    in_order: bool = False,
) -> Tensor:
    """Take the long-tailed part of a training set; of one with several labels a sample, all of it.

    Args:
        labels: int64 [N], or multi-hot rows [N, C].
        profile: as in :func:`ltaug.longtail.profile_counts`.
        imbalance_ratio: likewise.
        class_names: C names.
        seed: which samples.
        in_order: whether the natural profile leaves the samples in their order, which a shared subset was made in.

    Returns:
        Indices, int64.

    Raises:
        UserError: samples have several labels, and the profile is not natural.

    >>> len(thin_out(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), "exponential", 4.0, ["ant", "bee"]))
    5
    """
    if labels.ndim > 1:
        if profile != "natural":
            raise UserError(
                f"`profile` is {profile}, which goes by classes that exclude each other, but samples have several "
                "labels here. Set `profile: natural`."
            )
        return torch.arange(len(labels))
    if in_order and profile == "natural":
        return torch.arange(len(labels))
    counts = profile_counts(profile, class_counts(labels, len(class_names)), imbalance_ratio, class_names)
    return subsample(labels, counts, seed=seed)


def labels_hash(labels: Tensor) -> str:
    """SHA-256 of labels, int64 [N] or multi-hot rows."""
    return index_hash(labels) if labels.ndim == 1 else content_hash(labels)
