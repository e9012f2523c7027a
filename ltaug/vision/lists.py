"""Lists of images: text files of paths and class indices, their checks, and finding the listed images in folders."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders.files import refuse_outside
from ltaug.loaders.folders import printable
from ltaug.priors import class_counts
from ltaug.vision.image_set import Files, Images, name_block

__all__ = ["ImageList", "check_lists", "first_duplicate", "first_ten", "listed_files", "parse_list", "refuse_missing"]


@dataclass
class ImageList:
    """Paths and labels of one split."""

    name: str
    """What to call the list in messages."""
    paths: list[str]
    """Relative to the folder of the data set, with slashes."""
    labels: Tensor
    """int64 [N], 0..C-1."""


MOST_CLASSES = 10_000_000
"""Of a list; a class index is a place in tables of this size."""
# A path, in quotes if need be, and a class index, perhaps with empty cells of a table behind it.
_LINE = re.compile(r"""\s*(?:"((?:[^"]|"")+)"|(.+?))[\s,;]+"?([0-9]+)(?:\.0+)?"?[\s,;]*""")
_HEADER = re.compile(r".*[\s,;]\"?(labels?|class|class_?(id|idx|index)|targets?|category)\"?[\s,;]*", re.IGNORECASE)


def parse_list(name: str, data: bytes) -> ImageList:
    """Read a text file with a path and a class index a line, separated by spaces, a tab, a comma or a semicolon.

    So also a table of such columns, as Excel and pandas write it: cells may be quoted, and the first line be names.

    Args:
        name: what to call the list in messages.
        data: the file: UTF-8, UTF-16, or Latin-1.
    """
    paths, labels = [], []
    for k, line in enumerate(re.split("\r\n|\r|\n", _text(name, data))):
        match = _LINE.fullmatch(line)
        if match:
            quoted, plain, label = match.groups()
            if len(label) > len(str(MOST_CLASSES)) or int(label) >= MOST_CLASSES:
                raise UserError(
                    f"{name} has the class index {label[:30]} in line {k + 1}. It must be below {MOST_CLASSES:,}: "
                    "classes are numbered from 0 without gaps."
                )
            paths.append(plain_path(quoted.replace('""', '"') if quoted else plain))
            labels.append(int(label))
        elif line.strip(" \t,;") and not (k == 0 and _HEADER.fullmatch(line)):
            raise UserError(
                f"{name} must have lines like 'train/n01440764/n01440764_190.JPEG 0', a path and a class index, but "
                f"line {k + 1} is {line[:200]!r}."
            )
    if not paths:
        raise UserError(f"{name} lists no images.")
    return ImageList(name, paths, torch.tensor(labels))


def _text(name: str, data: bytes) -> str:
    """Decode a text file of any editor; bytes that are no UTF-8 become surrogates, as in file names."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Excel's "Unicode text"
    if not marked and b"\0" not in data[:100]:
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode("utf-16" if marked else "utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} looks like UTF-16, but cannot be read as such ({error}). Save it as UTF-8.") from error


def plain_path(path: str) -> str:
    r"""Spell a path in one way: slashes, no "." or "//" in it.

    >>> plain_path("./train//ant/1.jpg"), plain_path("train/ant\\1.jpg")
    ('train/ant/1.jpg', 'train/ant/1.jpg')
    """
    return posixpath.normpath(path.strip().replace("\\", "/"))


def check_lists(lists: Mapping[str, ImageList]) -> None:
    """Refuse lists that contradict themselves; the first one is that of the training images."""
    train = next(iter(lists.values()))
    counts = class_counts(train.labels, int(train.labels.max()) + 1)
    if (empty := (counts == 0).nonzero()[:, 0]).numel():
        raise UserError(f"{train.name} has classes up to {len(counts) - 1}, but no image of class {int(empty[0])}.")
    where: dict[str, str] = {}
    for each in lists.values():
        if int(each.labels.max()) >= len(counts):
            raise UserError(
                f"{each.name} has images of class {int(each.labels.max())}, but the classes of {train.name} end with "
                f"{len(counts) - 1}."
            )
        if twice := first_duplicate(each.paths):
            raise UserError(f"{each.name} lists {twice!r} twice.")
        if shared := where.keys() & set(each.paths):
            path = min(shared)
            raise UserError(f"{path!r} is in {where[path]} and in {each.name}. An image must be in one of them only.")
        where |= dict.fromkeys(each.paths, each.name)


def listed_files(
    root: str | os.PathLike[str], each: ImageList, class_names: Sequence[str], allow_outside: bool = False
) -> Images:
    """Find the images of a list below a folder.

    Accents may be composed in one and decomposed in the other, letters capital in one and small in the other, as file
    systems and archives change them.

    Args:
        root: the folder.
        each: the list.
        class_names: C names, for messages.
        allow_outside: take images outside of the folder, too.

    Raises:
        UserError: an image of the list is not there, or lies outside of the folder.
    """
    tree, paths = _Tree(os.fspath(root)), list(each.paths)
    found = np.zeros(len(paths), dtype=bool)
    for k, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if (place := tree.find(folder)) is not None and (actual := tree.name(place, name)) is not None:
            found[k], paths[k] = True, f"{place}/{actual}" if place else actual
    refuse_outside(os.fspath(root), paths, each.name[:1].upper() + each.name[1:], allow_outside)
    refuse_missing(each, found, class_names, f"`data_dir` {os.fspath(root)!r}")
    return Images(each.labels, name_block(paths), torch.arange(len(paths)), Files(root))


class _Tree:
    """Names in folders, each read once: that takes less time than a look at each file."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.listed: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {}
        """Of each folder, names by their composed form and by that in small letters."""
        self.found: dict[str, str | None] = {}

    def name(self, folder: str, name: str) -> str | None:
        """A name in a folder as the file system has it."""
        if folder not in self.listed:
            try:
                names = os.listdir(os.path.join(self.root, folder))
            except (FileNotFoundError, NotADirectoryError):
                names = []
            exact = {_spelled(each): each for each in names}
            small: dict[str, str | None] = {}
            for key, each in exact.items():
                small[key.casefold()] = None if key.casefold() in small else each  # of two neither
            self.listed[folder] = exact, small
        key, (exact, small) = _spelled(name), self.listed[folder]
        return exact.get(key) or small.get(key.casefold())

    def find(self, folder: str) -> str | None:
        """Path of a folder as the file system has it."""
        if folder not in self.found:
            place: str | None = folder
            if not os.path.isdir(os.path.join(self.root, folder)):
                parent, _, name = folder.rpartition("/")
                above = self.find(parent) if parent else ""
                actual = None if above is None else self.name(above, name)
                place = None if actual is None else f"{above}/{actual}" if above else actual
            self.found[folder] = place
        return self.found[folder]


def _spelled(name: str) -> str:
    return name if name.isascii() else printable(name)


def refuse_missing(
    each: ImageList, found: np.ndarray[Any, np.dtype[np.bool_]], class_names: Sequence[str], where: str, hint: str = ""
) -> None:
    """Refuse a set that lacks images of a list.

    Args:
        each: the list.
        found: which of its images are there, [N].
        class_names: C names, for the message.
        where: what was searched, likewise.
        hint: sentence for the case that none is there, likewise.
    """
    if found.all():
        return
    missing = torch.from_numpy(~found)
    size = len(class_names)
    listed, there = class_counts(each.labels, size), class_counts(each.labels[~missing], size)
    lost = [f"{k} ({class_names[k]})" for k in ((listed > 0) & (there == 0)).nonzero()[:, 0].tolist()]
    classes = f", among them all images of class {first_ten(lost)}" if lost else ""
    raise UserError(
        f"{where[0].upper() + where[1:]} and {each.name} disagree: {int(missing.sum())} of {len(found)} images are not "
        f"there{classes}. The first are {first_ten(each.paths[k] for k in missing.nonzero()[:, 0].tolist())}."
        f"{hint if not found.any() else ''}"
    )


def first_duplicate(names: Iterable[str]) -> str | None:
    """First name that has been there before, or None.

    >>> first_duplicate(["ant", "bee", "ant"])
    'ant'
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def first_ten(names: Iterable[str]) -> str:
    """Ten names at most, for a message.

    >>> first_ten("abcdefghijklm")
    'a, b, c, d, e, f, g, h, i, j, ...'
    """
    names = list(names)
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
