"""Folders with a folder of files for each class, as people keep samples of any modality."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders._notes import warn

__all__ = ["TEST_SPLITS", "ClassFiles", "class_folders", "natural_order", "printable"]

TEST_SPLITS = ("test", "testing", "val", "valid", "validation", "eval", "dev")
"""Names of the split that is tested on, the best first."""
_TRAIN_SPLITS = ("train", "training")
_JUNK = {
    *("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "desktop.ini", "icon\r"),
}
"""What systems and programs leave beside data, in lower case."""


@dataclass
class ClassFiles:
    """Files of one split by class, none of them opened."""

    root: str
    """Folder that the names start at."""
    names: list[str]
    """Paths below ``root``, with slashes, as the file system has them."""
    labels: Tensor
    """int64 [N]."""

    def path(self, k: int) -> str:
        """Path of a file."""
        return os.path.join(self.root, self.names[k])


def class_folders(
    root: str | os.PathLike[str], is_sample: Callable[[str], bool], unit: str = "samples"
) -> tuple[list[str], dict[str, ClassFiles]]:
    """Find the files of each class: ``root/CLASS/**/file``, or ``root/train/CLASS/**/file`` beside ``root/test``.

    * Classes are in natural order: 2 before 10. Files are in the order of their names.
    * Hidden files and what other programs leave (``__MACOSX``, ``Thumbs.db``, ...) are passed over. Files that
      ``is_sample`` refuses are left out, and a warning says how many of which suffix.
    * Linked folders are followed, each folder once a class; a link to a folder that it lies in itself is not.
    * Names are decoded as UTF-8, or else as Latin-1, and composed (NFC), so that a class has one name whichever system
      wrote its folder.

    Args:
        root: the folder.
        is_sample: says of a path whether the file is a sample.
        unit: what the files are, for messages: images, sounds.

    Returns:
        Class names, and files by split: train, and test or the like where there is a folder of that name.

    Raises:
        UserError: there is no such folder, or no folder in it, a class is empty, or only the test split has it.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UserError(f"{root!r} is no folder.")
    folders = _subfolders(root)
    if not folders:
        raise UserError(f"{root!r} has no folders. Make one for each class, and put its {unit} there.")
    walk = _Walk(is_sample)
    splits = _split_folders(root, folders)
    found = {split: _classes(walk, root, folder, unit) for split, folder in (splits or {"train": ""}).items()}
    walk.report(unit)
    names = sorted(found["train"], key=natural_order)
    for split, classes in found.items():
        if unknown := sorted(set(classes) - set(names), key=natural_order):
            raise UserError(
                f"The folder {split!r} in {root!r} has the class {unknown[0]!r}, which has no folder among those for "
                f"training ({len(unknown)} of {len(classes)} classes have none)."
            )
    return names, {split: _class_files(root, names, classes) for split, classes in found.items()}


def natural_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Key to sort names by: numbers by value, text as text.

    >>> sorted(["class 10", "class 9", "2"], key=natural_order)
    ['2', 'class 9', 'class 10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((not part[0].isdigit(), int(part) if part[0].isdigit() else 0, part) for part in parts)


def printable(name: str) -> str:
    r"""File name as text: Latin-1 where it is no UTF-8, with composed accents.

    >>> printable(os.fsdecode(b"caf\xe9")), printable("cafe\u0301")
    ('café', 'café')
    """
    try:
        name.encode()
    except UnicodeEncodeError:  # surrogates, by which Python keeps bytes that it cannot decode
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name)


def _subfolders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _split_folders(root: str, folders: list[str]) -> dict[str, str] | None:
    """Folder of each split, if the folders are splits and not classes: then that of the training split has folders."""
    names = {name.lower(): name for name in folders}
    train = next((names[name] for name in _TRAIN_SPLITS if name in names), None)
    if train is None:
        return None
    inside = os.path.join(root, train)
    if os.listdir(inside) and not _subfolders(inside):  # a class may be called train, too
        return None
    if others := [name for word, name in names.items() if word not in TEST_SPLITS and name != train]:
        raise UserError(
            f"{root!r} has a folder {train!r} with folders in it, so its folders are splits: {train} and one of "
            f"{', '.join(TEST_SPLITS)}. But it also has {printable(others[0])!r} ({len(others)} such folders). Move it "
            f"away; or, if {train} is a class, put all classes into one more folder."
        )
    return {"train": train} | {name: names[name] for name in TEST_SPLITS if name in names}


def _classes(walk: _Walk, root: str, folder: str, unit: str) -> dict[str, list[str]]:
    """Files of every class of a split."""
    classes: dict[str, list[str]] = {}
    for name in _subfolders(os.path.join(root, folder)):
        place = f"{folder}/{name}" if folder else name
        files = walk.files(root, place)
        if not files:
            raise UserError(
                f"The folder {printable(place)!r} in {root!r} has no {unit} that can be read"
                f"{walk.others_below(place)}. Remove it, or fill it."
            )
        classes.setdefault(printable(name), []).extend(files)
    if not classes:
        raise UserError(f"The folder {folder!r} in {root!r} has no folders. Make one for each class.")
    return classes


def _class_files(root: str, names: list[str], classes: dict[str, list[str]]) -> ClassFiles:
    files = [classes.get(name, []) for name in names]
    labels = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(each) for each in files]))
    return ClassFiles(root, [file for each in files for file in each], labels)


@dataclass
class _Walk:
    """Files below folders, and what was left out."""

    is_sample: Callable[[str], bool]
    others: list[str] = field(default_factory=list)
    """Files of other kinds."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they lie in."""

    def files(self, root: str, folder: str) -> list[str]:
        """Samples below a folder, by name."""
        found: list[str] = []
        seen: set[str] = set()
        real = os.path.realpath(os.path.join(root, folder))
        self._visit(root, folder, real, {os.path.realpath(root), *map(str, Path(real).parents)}, seen, found)
        return sorted(found, key=lambda name: name.split("/"))

    def _visit(self, root: str, folder: str, real: str, above: set[str], seen: set[str], found: list[str]) -> None:
        """Look into a folder and those below it; linked ones last, so that a file has the shorter of its names."""
        if real in seen:
            return
        seen.add(real)
        with os.scandir(os.path.join(root, folder)) as scanned:
            entries = sorted((entry for entry in scanned if not _hidden(entry.name)), key=lambda entry: entry.name)
        links = []
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_dir():
                if entry.is_symlink():
                    links.append(name)
                else:
                    self._visit(root, name, os.path.join(real, entry.name), above | {real}, seen, found)
            elif entry.is_file():
                (found if self.is_sample(entry.path) else self.others).append(name)
        for name in links:
            target = os.path.realpath(os.path.join(root, name))
            if target in above or target == real:
                self.loops.append(name)
            else:
                self._visit(root, name, target, above | {real}, seen, found)

    def others_below(self, folder: str) -> str:
        """Say what a folder has instead of samples."""
        others = [name for name in self.others if name.startswith(f"{folder}/")]
        return f", but {len(others)} other files ({_suffixes(others)})" if others else ""

    def report(self, unit: str) -> None:
        """Warn of what was left out."""
        if self.others:
            warn(f"{len(self.others)} files are left out, since they are no {unit} ({_suffixes(self.others)}).")
        if self.loops:
            warn(f"the link {printable(self.loops[0])!r} leads to a folder that it lies in, and is not followed.")


def _suffixes(names: list[str]) -> str:
    """Count suffixes, the most frequent first."""
    counts = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{suffix}: {count}" for suffix, count in most[:6]) + (", ..." if len(most) > 6 else "")
