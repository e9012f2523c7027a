"""Tables that list files of samples and their labels, CSV or JSON lines, in the layouts that published sets have."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.files import refuse_outside, regular
from ltaug.loaders.folders import TEST_SPLITS, TRAIN_SPLITS, evaluation_splits, is_leftover
from ltaug.loaders.tables import class_labels

__all__ = ["Listing", "find_listing", "read_listing"]

FILE_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "path", "slice_file_name", "slice_filename", "fname"),
    *("audio_path", "audio", "sound", "wav", "clip"),
)
"""Usual names of the column of files, in lower case, the best first."""
NAME_COLUMNS = ("labels", "label", "category", "class", "class_name", "label_name")
"""Usual names of the column of labels; ``labels`` may have several a sample, with semicolons between them."""
NUMBER_COLUMNS = ("target", "class_id", "classid", "label_id", "class_index", "label_index")
"""Usual names of the column of class indices, by which classes are in order where it stands beside their names."""
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
PLACES = ("", "meta", "metadata")
"""Folders where a table is looked for."""
SUFFIXES = (".csv", ".tsv", ".jsonl")
MOST_BYTES = 2**30
"""Of a table, all of which is in memory."""

TIMES = ("onset", "offset", "start_time", "end_time", "start_seconds", "end_seconds", "start", "end")
"""Usual names of columns of times within a file."""

Row = dict[str, Any]
Line = int | str
"""Number of a line; of several tables with the table's name."""


@dataclass
class Listing:
    """Files and labels of a table by split, none of the files opened."""

    source: str
    """For messages."""
    root: str
    """Folder that the paths start at."""
    class_names: list[str]
    files: dict[str, list[str]]
    """Paths below ``root`` by split: train and, where there are such, those to test on and to tune on."""
    labels: dict[str, Tensor]
    """int64 [N], or bool [N, C] of several labels a sample."""
    folds: Tensor | None
    """Of the training split, int64 [N]; None of one without folds, or with a split to test on."""
    test: str | None
    """Split that is tested on."""
    tuning: str | None
    """Split that corrections are tuned on."""


def find_listing(data_dir: str) -> tuple[Path | dict[str, Path], str] | None:
    """Find the table of a set, and the folder that its paths start at.

    ``metadata.csv`` or ``metadata.jsonl`` in the folder, or else the only CSV file in it, in ``meta`` or in
    ``metadata``; or the table itself, whose folder is that of the set, or ``meta`` or ``metadata`` in it. Of several
    CSV files those named after splits, ``train.csv`` and ``test.csv``, are one table: by split, then.

    Args:
        data_dir: the folder, or a table.
    """
    path = Path(data_dir)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{data_dir!r} is neither a folder nor a table: such end in {', '.join(SUFFIXES)}.")
        folder = path.absolute().parent
        return path, str(folder.parent if folder.name in PLACES else path.parent)
    for name in ("metadata.csv", "metadata.jsonl"):
        if (path / name).is_file():
            return path / name, data_dir
    for place in PLACES:
        inside = sorted((path / place).iterdir()) if (path / place).is_dir() else []
        tables = [each for each in inside if each.suffix.lower() in SUFFIXES[:2] and not is_leftover(each.name)]
        if len(tables) == 1:
            return tables[0], data_dir
        splits = {name: each for each in tables if (name := each.stem.lower()) in (*TRAIN_SPLITS, *TEST_SPLITS)}
        if len(splits) > 1 and set(splits) & set(TRAIN_SPLITS):
            return splits, data_dir
        if tables:
            names = ", ".join([each.name for each in tables[:2]] + ["..."] * (len(tables) > 2))
            warn(
                f"{len(tables)} tables in `{path / place}` are not read ({names}). Name one of them as `data_dir` to "
                "have it read."
            )
    return None


def read_listing(
    path: str | os.PathLike[str] | Mapping[str, Path],
    root: str,
    is_sample: Callable[[str], bool],
    *,
    file_column: str | None = None,
    label_column: str | None = None,
    only: str | None = None,
    allow_outside: bool = False,
    required: bool = True,
) -> Listing | None:
    """Read a table with a row a sample: its file, its label or labels, and perhaps its split or fold.

    CSV has commas, semicolons or tabs between cells, and a header; spaces around cells, case in the header and a byte
    order mark do not count. Columns are found by their usual names: :data:`FILE_COLUMNS`; :data:`NAME_COLUMNS`
    and :data:`NUMBER_COLUMNS`, which are names and order of the classes where each name has one number; ``split``
    (train, test, validation) or ``fold`` (whole numbers). A column ``labels`` holds several labels a sample, or none:
    with semicolons between them, or commas where the column has no semicolon, or in lists (JSON).

    Paths start at ``root`` or at the table's own folder. A file that is at neither is looked for below ``root``, by
    the end of its path: ``1.wav`` may be ``audio/fold3/1.wav``, unless the table has it in another fold. Where no file
    is where the table says, ``elsewhere/1.wav`` may be ``1.wav``; a warning says so. What is not found stays as it is
    named, for whoever reads the files to say so.

    Args:
        path: the table; or those of the splits by their names.
        root: folder of the set.
        is_sample: says of a path whether the file is a sample.
        file_column: column of the files.
        label_column: column of the labels.
        only: column of truth values that says which rows to take.
        allow_outside: read files outside of ``root``, too.
        required: whether a table without a column of files, or without one of labels, is an error.

    Returns:
        The listing; None if there is none in the table, and it is not required.

    Raises:
        UserError: the table cannot be read, or a row has no file, no label, more cells than columns, or a file that
            cannot be told from another.
    """
    tables = {str(split).lower(): Path(each) for split, each in path.items()} if isinstance(path, Mapping) else {}
    source = " and ".join(repr(str(each)) for each in (tables.values() or (path,)))
    header, rows = _rows_of_splits(tables) if tables else _rows(Path(path))  # type: ignore[arg-type]
    file = _column(header, file_column, FILE_COLUMNS, "audio_column", source)
    label = _column(header, label_column, (*NAME_COLUMNS, *NUMBER_COLUMNS), "label_column", source)
    if file is None or label is None:
        if not required:
            warn(
                f"{source} is not read, since it has no column of files or none of labels, but {', '.join(header)}. "
                "Say which they are by `audio_column` and `label_column`."
            )
            return None
        usual = f"{', '.join(FILE_COLUMNS[:3])}, ... and {', '.join(NAME_COLUMNS[:3])}, ..."
        raise UserError(
            f"{source} must have a header with a column of files and one of labels ({usual}), but has "
            f"{', '.join(header) or 'none'}."
        )
    if only is not None and only in header:
        rows = {line: row for line, row in rows.items() if _truth(row.get(only), f"{source}, line {line}", only)}
    if not rows:
        raise UserError(f"{source} lists no samples.")
    splits = _splits(rows, source)
    test, tuning = evaluation_splits(splits)
    used = {split: splits[split] for split in ("train", test, tuning) if split}
    rows = {line: rows[line] for lines in used.values() for line in lines}
    several = label == "labels" or any(isinstance(row.get(label), list) for row in rows.values())
    separator = _separator(rows.values(), label, several, source)
    values = {line: _labels(row, label, separator, source, line) for line, row in rows.items()}
    for line, row in rows.items():
        name = row.get(file)
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            has = "none" if name in (None, "") else repr(name)
            raise UserError(f"{source} must have a file in {file!r} of every row, but line {line} has {has}.")
    class_names, labels = _classes(used, rows, values, label, several, source)
    folds = None
    if not test and any(row.get("fold") not in (None, "") for row in rows.values()):
        folds = torch.tensor([_fold(rows[line]["fold"], source, line) for line in used["train"]])
    names = {line: str(row[file]) for line, row in rows.items()}
    table = next(iter(tables.values())) if tables else path
    paths = _places(names, {line: row.get("fold") for line, row in rows.items()}, root, table, is_sample, source)  # type: ignore[arg-type]
    refuse_outside(root, list(paths.values()), source, allow_outside)
    if twice := len(paths) - len(set(paths.values())):
        times = " and ".join(name for name in header if name in TIMES)
        read = f" Times in them ({times}) are not read: a sample is a whole file." if times else ""
        warn(f"{source} lists {twice} files more than once: of equal files some may train, and others test.{read}")
    files = {split: [paths[line] for line in lines] for split, lines in used.items()}
    return Listing(source, root, class_names, files, labels, folds, test, tuning)


def _rows(path: Path) -> tuple[list[str], dict[Line, Row]]:
    """Names of the columns, in lower case, and rows by the number of their line."""
    try:
        if os.path.getsize(regular(path)) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        data = path.read_bytes()
        try:
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ValueError(f"line {line} is not in UTF-8. Save the table as UTF-8") from error
        return _json_rows(text) if path.suffix.lower() == ".jsonl" else _csv_rows(text)
    except (OSError, ValueError) as error:
        raise UserError(f"`{path}` cannot be read as a table of files: {error}.") from error


def _rows_of_splits(tables: Mapping[str, Path]) -> tuple[list[str], dict[Line, Row]]:
    """Columns that all tables have, and rows of all of them, each with its table's name as its split."""
    headers: list[list[str]] = []
    rows: dict[Line, Row] = {}
    for split, path in tables.items():
        header, found = _rows(path)
        headers.append(header)
        rows |= {f"{line} of {path.name}": row | {"split": split} for line, row in found.items()}
    return [name for name in headers[0] if all(name in header for header in headers)], rows


def _json_rows(text: str) -> tuple[list[str], dict[Line, Row]]:
    rows: dict[Line, Row] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                row = json.loads(content)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {line} is no JSON object: {content.strip()[:80]!r}")
            rows[line] = {_plain(name): value for name, value in row.items()}
    return list(dict.fromkeys(name for row in rows.values() for name in row)), rows


def _csv_rows(text: str) -> tuple[list[str], dict[Line, Row]]:
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    rows: dict[Line, Row] = {}
    while True:
        try:
            cells = [cell.strip() for cell in next(table)]
        except StopIteration:
            return header, rows
        except csv.Error as error:
            raise ValueError(f"line {table.line_num}: {error}") from error
        if not any(cells):
            continue
        if not header:
            header = [_plain(cell) for cell in cells]
            if again := [name for name in header if name and header.count(name) > 1]:
                raise ValueError(f"it has two columns {again[0]!r}")
            continue
        if any(cells[len(header) :]):
            raise ValueError(f"line {table.line_num} has {len(cells)} cells, but there are {len(header)} columns")
        rows[table.line_num] = dict(zip(header, cells, strict=False))


def _plain(name: str) -> str:
    """Name of a column as it is compared.

    >>> _plain(" File Name"), _plain("classID")
    ('file_name', 'classid')
    """
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _column(header: Sequence[str], given: str | None, usual: Sequence[str], setting: str, source: str) -> str | None:
    if given is None:
        return next((name for name in usual if name in header), None)
    if _plain(given) not in header:
        raise UserError(
            f"{source} has no column {given!r}, but {', '.join(header)}. Name the right one with `{setting}`."
        )
    return _plain(given)


def _truth(value: Any, where: str, column: str) -> bool:
    word = str(value).lower()
    if word in ("true", "1", "yes"):
        return True
    if word not in ("false", "0", "no"):
        raise UserError(f"{where} must have a truth value, or 0 or 1, in {column!r}, but has {value!r}.")
    return False


def _labels(row: Row, column: str, separator: str | None, source: str, line: Line) -> list[str]:
    """Labels of a row: any number with something between them, or else one."""
    given = row.get(column)
    if separator and isinstance(given, str):
        given = [word for word in given.split(separator) if word.strip()]
    values = given if separator else [given]
    if isinstance(values, list) and all(type(each) in (str, int) and str(each).strip() for each in values):
        return [str(each) for each in values]
    wanted = "names with semicolons between them, or a list" if separator else "one label"
    raise UserError(f"{source} must have {wanted} in {column!r} of every row, but line {line} has {given!r}.")


def _separator(rows: Iterable[Row], column: str, several: bool, source: str) -> str | None:
    """What stands between several labels of a sample, which are said to be such; None where each has one."""
    cells = [cell for row in rows if isinstance(cell := row.get(column), str)]
    semicolons, commas = (any(separator in cell for cell in cells) for separator in ";,")
    if not several:
        if semicolons:
            warn(f"{source} has semicolons in {column!r}, which holds one label; call it `labels` if they are several.")
        return None
    if semicolons or not commas:
        return ";"
    warn(f"{source} has commas and no semicolons in {column!r}: they are taken to stand between labels of a sample.")
    return ","


def _splits(rows: Mapping[Line, Row], source: str) -> dict[str, list[Line]]:
    """Lines of each split."""
    found = {name: {str(row.get(name) or "").lower() for row in rows.values()} for name in SPLIT_COLUMNS}
    # Columns of other names may hold something else.
    used = (name for name, words in found.items() if words - {""} and (name == "split" or words & set(TRAIN_SPLITS)))
    if (column := next(used, None)) is None:
        return {"train": list(rows)}
    splits: dict[str, list[Line]] = {}
    for line, row in rows.items():
        name = str(row.get(column) or "").lower()
        if not name:
            raise UserError(f"{source} must have a split in {column!r} of every row, but line {line} has none.")
        splits.setdefault("train" if name in TRAIN_SPLITS else name, []).append(line)
    if "train" not in splits:
        raise UserError(f"{source} must have a split named 'train', but has {', '.join(splits)}.")
    if unknown := {name: len(lines) for name, lines in splits.items() if name not in ("train", *TEST_SPLITS)}:
        counts = ", ".join(f"{name!r}: {count}" for name, count in unknown.items())
        warn(f"{source} has samples of other splits than train, test and validation, which are not used ({counts}).")
    return splits


def _classes(
    splits: Mapping[str, list[Line]],
    rows: Mapping[Line, Row],
    values: Mapping[Line, list[str]],
    column: str,
    several: bool,
    source: str,
) -> tuple[list[str], dict[str, Tensor]]:
    import pyarrow

    def arrow(lines: Sequence[Line], values: Mapping[Line, list[str]]) -> Any:
        if several:
            return pyarrow.array([values[line] for line in lines], pyarrow.list_(pyarrow.string()))
        return pyarrow.array([values[line][0] for line in lines], pyarrow.string())

    others = {} if several else _partners(rows, values, column)
    if others:  # classes in the order of the numbers, by their names
        numbers, names = (values, others) if column in NUMBER_COLUMNS else (others, values)
        order, labels = class_labels({split: arrow(lines, numbers) for split, lines in splits.items()}, None, source)
        known = {numbers[line][0]: names[line][0] for line in numbers}
        return [known[number] for number in order], labels
    return class_labels({split: arrow(lines, values) for split, lines in splits.items()}, None, source)


def _partners(rows: Mapping[Line, Row], values: Mapping[Line, list[str]], column: str) -> dict[Line, list[str]]:
    """Class indices to names, or names to indices, of a second column that has one for each label."""
    usual = next((each for each in (NAME_COLUMNS[1:], NUMBER_COLUMNS) if column not in each), ())
    usual = usual if column in (*NAME_COLUMNS, *NUMBER_COLUMNS) else ()
    for name in usual:
        found = {line: [str(row[name])] for line, row in rows.items() if row.get(name) not in (None, "")}
        pairs = {(values[line][0], other[0]) for line, other in found.items()}
        if len(found) == len(rows) and len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
            return found
    return {}


def _fold(value: Any, source: str, line: Line) -> int:
    """Number of a fold: 3, "3" or "fold3"."""
    if (number := _fold_number(value)) is None:
        raise UserError(f"{source} must hold whole numbers in `fold`, but line {line} has {value!r}.")
    return number


def _fold_number(value: Any, prefix: str = "(?:fold)?") -> int | None:
    found = re.fullmatch(prefix + r"[\s_-]*(\d+)(?:\.0)?", str(value).strip().lower())
    return int(found[1]) if found else None


def _places(
    names: Mapping[Line, str],
    folds: Mapping[Line, Any],
    root: str,
    table: str | os.PathLike[str],
    is_sample: Callable[[str], bool],
    source: str,
) -> dict[Line, str]:
    """Paths of files from ``root`` on."""
    beside = os.path.relpath(os.path.dirname(table) or ".", root or ".")
    names = {
        line: name if os.path.exists(os.path.join(root, name)) else name.replace("\\", "/")
        for line, name in names.items()
    }
    paths: dict[Line, str] = {}
    lost = []
    for line, name in names.items():
        direct = [name, os.path.normpath(os.path.join(beside, name))]
        there = next((each for each in direct if os.path.isfile(os.path.join(root, each))), None)
        paths[line] = name if there is None else there
        if there is None:
            lost.append(line)
    index = _below(root, is_sample) if lost else {}
    for line in lost:
        paths[line] = _looked_for(names[line], folds[line], index, f"{source}, line {line}", len(lost) == len(names))
    # Tables often leave out folders that all files are in, and that is right. What else is guessed is said.
    guessed = [line for line in lost if paths[line] != names[line]]
    if len(lost) == len(names):
        guessed = [line for line in guessed if names[line].strip("/").count("/") > paths[line].count(os.sep)]
    if guessed:
        warn(
            f"{source} names {len(guessed)} of {len(names)} files that are not there; files of the same name elsewhere "
            f"are read instead: {paths[guessed[0]]!r} for {names[guessed[0]]!r}, for example."
        )
    return paths


def _below(root: str, is_sample: Callable[[str], bool]) -> dict[str, list[str]]:
    """Paths of all files below a folder, linked ones, too, by their names with and without suffix."""
    index: dict[str, list[str]] = {}
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        for name in sorted(files):
            if not is_leftover(name) and is_sample(os.path.join(folder, name)):
                path = os.path.relpath(os.path.join(folder, name), root)
                for key in {name, os.path.splitext(name)[0]}:
                    index.setdefault(key, []).append(path)
    return index


def _looked_for(name: str, fold: Any, index: Mapping[str, list[str]], where: str, moved: bool) -> str:
    """The file below the folder whose path ends as a name does, or, of a set that has ``moved``, that a name ends as.

    It is in no folder of another fold, which may be tested on. Where there is none, it is the name itself.
    """
    if ".." in name.split("/"):
        return name
    whole = f"/{name.lstrip('/')}"
    found = []
    for path in index.get(os.path.basename(name), ()):
        there = "/" + path.replace(os.sep, "/")
        if any(
            each.endswith(whole) or (moved and whole.endswith(each)) for each in (there, os.path.splitext(there)[0])
        ):
            found.append(path)
    if (number := _fold_number(fold)) is not None:
        folds = {path: {_fold_number(part, "fold") for part in path.split(os.sep)[:-1]} - {None} for path in found}
        found = [path for path in found if not folds[path] or number in folds[path]]
        found = [path for path in found if folds[path]] or found
    if len(found) > 1:
        raise UserError(f"{where} names {name!r}, which may be {found[0]!r} or {found[1]!r}. Write the whole path.")
    return found[0] if found else name
