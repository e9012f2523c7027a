"""Lists of images: text files of paths and class indices, their checks, and finding the listed images in folders."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError
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


def parse_list(name: str, data: bytes) -> ImageList:
    """Read a text file with a path and a class index a line, separated by spaces or a tab.

    Args:
        name: what to call the list in messages.
        data: the file: UTF-8 or, with a byte order mark, UTF-16.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as Excel's "Unicode text"
        text = data.decode("utf-16")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    paths, labels = [], []
    for k, line in enumerate(text.splitlines()):
        words = line.rsplit(None, 1)
        if not words:
            continue
        if len(words) < 2 or not words[1].isdecimal():
            raise UserError(
                f"{name} must have lines like 'train/n01440764/n01440764_190.JPEG 0', a path and a class index, but "
                f"line {k + 1} is {line[:200]!r}."
            )
        paths.append(plain_path(words[0]))
        labels.append(int(words[1]))
    if not paths:
        raise UserError(f"{name} lists no images.")
    return ImageList(name, paths, torch.tensor(labels))


def plain_path(path: str) -> str:
    r"""Spell a path in one way: slashes, no "." or "//" in it.

    >>> plain_path("./train//ant/1.jpg"), plain_path("train\\ant\\1.jpg")
    ('train/ant/1.jpg', 'train/ant/1.jpg')
    """
    path = path.strip()
    if "/" not in path:
        path = path.replace("\\", "/")
    return posixpath.normpath(path)


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


def listed_files(root: str | os.PathLike[str], each: ImageList, class_names: Sequence[str]) -> Images:
    """Find the images of a list below a folder.

    Accents may be composed in one and decomposed in the other, as file systems and archives change them.

    Raises:
        UserError: an image of the list is not there.
    """
    tree, paths = _Tree(os.fspath(root)), list(each.paths)
    found = np.zeros(len(paths), dtype=bool)
    for k, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        if (place := tree.find(folder)) is not None and (actual := tree.names(place).get(_composed(name))) is not None:
            found[k], paths[k] = True, f"{place}/{actual}" if place else actual
    refuse_missing(each, found, class_names, f"`data_dir` {os.fspath(root)!r}")
    return Images(each.labels, name_block(paths), torch.arange(len(paths)), Files(root))


class _Tree:
    """Names in folders, each read once: that takes less time than a look at each file."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.listed: dict[str, dict[str, str]] = {}
        self.found: dict[str, str | None] = {}

    def names(self, folder: str) -> dict[str, str]:
        """Names in a folder by their composed form."""
        if folder not in self.listed:
            try:
                names = os.listdir(os.path.join(self.root, folder))
            except (FileNotFoundError, NotADirectoryError):
                names = []
            self.listed[folder] = {_composed(name): name for name in names}
        return self.listed[folder]

    def find(self, folder: str) -> str | None:
        """Path of a folder as the file system has it."""
        if folder not in self.found:
            place: str | None = folder
            if not os.path.isdir(os.path.join(self.root, folder)):
                parent, _, name = folder.rpartition("/")
                above = self.find(parent) if parent else ""
                actual = None if above is None else self.names(above).get(_composed(name))
                place = None if actual is None else f"{above}/{actual}" if above else actual
            self.found[folder] = place
        return self.found[folder]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


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
