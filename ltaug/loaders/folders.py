"""Folders with a folder of files for each class, as people keep samples of any modality."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders._notes import warn

__all__ = [
    "TEST_SPLITS",
    "TRAIN_SPLITS",
    "ClassFiles",
    "class_folders",
    "evaluation_splits",
    "is_leftover",
    "natural_order",
    "printable",
    "source_name",
    "warn_of_names",
]

TEST_SPLITS = ("test", "testing", "val", "valid", "validation", "eval", "dev")
"""Names of the split that is tested on, the best first."""
TRAIN_SPLITS = ("train", "training")
_JUNK = {
    *("__macosx", "network trash folder", "temporary items", "icon\r", "__pycache__", "_gsdata_", "lost+found"),
    *("@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "found.000"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
}
"""What systems and programs leave beside data, in lower case."""
COPIES = ("~", ".bak", ".orig", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".download")
"""Ends of the names of files that are older copies of others, or not whole yet."""


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
    * Hidden files and what other programs leave (``__MACOSX``, ``Thumbs.db``, ...) are passed over.
    * Files that ``is_sample`` refuses, and copies (``.bak``, ``.part``, ...), are left out, and a warning says how many
      of which suffix. So does one of samples outside the folders of the classes.
    * Pipes, sockets and devices are left out, with a warning, too.
    * Links are followed, each folder and linked file once a class; a link to a folder that it lies in itself is not.
    * Names are decoded as UTF-8, or else as Latin-1, and composed (NFC), so that a class has one name whichever system
      wrote its folder.

    Args:
        root: the folder.
        is_sample: says of a path whether the file is a sample.
        unit: what the files are, for messages: images, sounds.

    Returns:
        Class names, and files by split: train, and test or the like where there is a folder of that name.

    Raises:
        UserError: there is no such folder, or no folder in it, a class is empty, or only the test split has it, or
            links lead two classes or splits to one folder.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UserError(f"{root!r} is no folder.")
    folders = _subfolders(root)
    if not folders:
        raise UserError(f"{root!r} has no folders. Make one for each class, and put its {unit} there.")
    walk = _Walk(is_sample)
    splits = _split_folders(root, folders)
    if not splits and len(folders) == 1 and len(_subfolders(only := os.path.join(root, folders[0]))) > 1:
        with os.scandir(only) as entries:
            if all(entry.is_dir() or is_leftover(entry.name) for entry in entries):
                raise UserError(f"{root!r} has one folder only, which holds the folders. Name that one, {only!r}.")
    found = {split: _classes(walk, root, folder, unit) for split, folder in (splits or {"train": ""}).items()}
    if splits:
        walk.look_beside(root, "")
    walk.report(unit)
    names = sorted(found["train"], key=natural_order)
    warn_of_names(names)
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
        try:
            name = os.fsencode(name).decode("latin-1")
        except UnicodeEncodeError:  # halves of characters, as JSON may have them
            name = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", name)


def is_leftover(path: str) -> bool:
    """Say whether a file, or a folder that it lies in, is hidden or what systems and programs leave beside data.

    >>> is_leftover("a/Thumbs.db"), is_leftover("__MACOSX/a/1.jpg"), is_leftover("a/._1.jpg"), is_leftover("a/1.jpg")
    (True, True, True, False)
    """
    return any(
        name.startswith(".") or name.lower() in _JUNK or name.endswith(":Zone.Identifier") for name in path.split("/")
    )


def evaluation_splits(splits: Iterable[str]) -> tuple[str | None, str | None]:
    """Choose the split to test on and the one to tune corrections on; say which others are not used.

    >>> evaluation_splits(["train", "val", "test"]), evaluation_splits(["train", "dev"]), evaluation_splits(["train"])
    (('test', 'val'), ('dev', None), (None, None))
    """
    found = set(splits)
    known = [name for name in TEST_SPLITS if name in found]
    test = known[0] if known else None
    tuning = next((name for name in known[1:] if not name.startswith("test")), None)
    if unused := [name for name in known[1:] if name != tuning]:
        tuned = f", corrections are tuned on {tuning!r}" if tuning else ""
        warn(f"the split{'s' * (len(unused) > 1)} {', '.join(unused)} are not used: {test!r} is tested on{tuned}.")
    return test, tuning


def source_name(data_dir: str | None, hub_id: str | None = None, default: str = "data") -> str:
    """Name that somebody's own data have in run folders: that of their folder, or of the data set on the hub.

    >>> source_name("data/my birds/"), source_name(None, "owner/urban")
    ('my-birds', 'urban')
    """
    name = printable(os.path.basename(os.path.abspath(data_dir))) if data_dir else (hub_id or "").rpartition("/")[2]
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-.") or default


def warn_of_names(names: Iterable[str]) -> None:
    """Warn of class names that differ in case or spaces only, and of those that stand for a missing label."""
    first: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if (other := first.setdefault(key, name)) != name:
            warn(f"{other!r} and {name!r} are two classes, though they differ in case or spaces only.")
        if key in ("nan", "null", "<na>", "#n/a"):
            warn(f"the class {name!r} has the name that programs give to missing values.")


def _subfolders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not is_leftover(entry.name) and os.path.isdir(entry.path))


def _split_folders(root: str, folders: list[str]) -> dict[str, str] | None:
    """Folder of each split, if the folders are splits and not classes: then that of the training split has folders."""
    names = {name.lower(): name for name in folders}
    train = next((names[name] for name in TRAIN_SPLITS if name in names), None)
    if train is None:
        return _named_like_splits(root, folders)
    inside = os.path.join(root, train)
    if os.listdir(inside) and not _subfolders(inside):  # a class may be called train, too
        return None
    known = {train, *(names[word] for word in TEST_SPLITS if word in names)}
    if others := [name for name in folders if name not in known]:
        raise UserError(
            f"{root!r} has a folder {train!r} with folders in it, so its folders are splits: {train} and one of "
            f"{', '.join(TEST_SPLITS)}. But it also has {printable(others[0])!r} ({len(others)} such folders). Move it "
            f"away; or, if {train} is a class, put all classes into one more folder."
        )
    return {"train": train} | {name: names[name] for name in TEST_SPLITS if name in names}


def _named_like_splits(root: str, folders: list[str]) -> dict[str, str] | None:
    """Folder of each split where all have a split's word in their names, as ``seg_train``, and share their classes."""
    found: dict[str, str] = {}
    for name in folders:
        parts = re.split(r"[^a-z]+", name.lower())
        word = next((word for word in (*TRAIN_SPLITS, *TEST_SPLITS) if word in parts), None)
        if word is None or word in found:
            return None
        found[word] = name
    train = next((found.pop(word) for word in TRAIN_SPLITS if word in found), None)
    inner = [set(_subfolders(os.path.join(root, name))) for name in folders]
    if train is None or not found or not set.intersection(*inner):
        return None
    warn(f"the folders {', '.join(map(printable, folders))} have folders of the same names: they are taken for splits.")
    return {"train": train} | {word: found[word] for word in TEST_SPLITS if word in found}


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
        raise UserError(f"The folder {folder!r} in {root!r} has no folders. Make one for each class, or move it away.")
    walk.look_beside(root, folder)
    return classes


def _class_files(root: str, names: list[str], classes: dict[str, list[str]]) -> ClassFiles:
    files = [classes.get(name, []) for name in names]
    labels = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(each) for each in files]))
    return ClassFiles(root, [file for each in files for file in each], labels)


@dataclass
class _Walk:
    """Files below the folders of classes, and what was left out."""

    is_sample: Callable[[str], bool]
    others: list[str] = field(default_factory=list)
    """Files of other kinds."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they lie in."""
    broken: list[str] = field(default_factory=list)
    """Links to nothing."""
    special: list[str] = field(default_factory=list)
    """Pipes, sockets and devices, and links to such: to read them may never end."""
    beside: list[str] = field(default_factory=list)
    """Samples outside the folders of the classes."""
    owners: dict[str, str] = field(default_factory=dict)
    """Folder of the class by the real path of every folder."""
    linked: list[tuple[str, str, str]] = field(default_factory=list)
    """Linked samples: real folder and path, name, and the folder of the class."""

    def files(self, root: str, place: str) -> list[str]:
        """Samples below the folder of a class, by name."""
        found: list[str] = []
        links: dict[str, str] = {}
        real = os.path.realpath(os.path.join(root, place))
        self._visit(root, place, real, {os.path.realpath(root), *map(str, Path(real).parents)}, place, found, links)
        for target, name in links.items():
            if self.owners.get(os.path.dirname(target)) != place:  # else it has been found there
                found.append(name)
                self.linked.append((target, name, place))
        return sorted(found, key=lambda name: name.split("/"))

    def _visit(
        self, root: str, folder: str, real: str, above: set[str], place: str, found: list[str], links: dict[str, str]
    ) -> None:
        """Look into a folder and those below it; linked ones last, so that a file has the shorter of its names."""
        if (owner := self.owners.setdefault(real, place)) != place:
            raise UserError(
                f"The folders {printable(owner)!r} and {printable(place)!r} in {root!r} have samples in common: both "
                f"lead to {printable(real)!r}. Remove the link from one of them."
            )
        with os.scandir(os.path.join(root, folder)) as scanned:
            entries = sorted((entry for entry in scanned if not is_leftover(entry.name)), key=lambda entry: entry.name)
        folders = []
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_symlink():
                if os.path.isdir(entry.path):
                    folders.append(name)
                elif not os.path.exists(entry.path):
                    self.broken.append(name)
                elif not os.path.isfile(entry.path):
                    self.special.append(name)
                elif self._is_sample(entry.path):
                    # Not the real path of the file, which takes too long for a million of them.
                    target = os.path.normpath(os.path.join(real, os.readlink(entry.path)))
                    links.setdefault(target, name)
                else:
                    self.others.append(name)
            elif entry.is_dir():
                self._visit(root, name, os.path.join(real, entry.name), above | {real}, place, found, links)
            elif entry.is_file():
                (found if self._is_sample(entry.path) else self.others).append(name)
            else:
                self.special.append(name)
        for name in folders:
            target = os.path.realpath(os.path.join(root, name))
            if target in above or target == real:
                self.loops.append(name)
            elif self.owners.get(target) != place:  # each folder once
                self._visit(root, name, target, above | {real}, place, found, links)

    def _is_sample(self, path: str) -> bool:
        return not path.lower().endswith(COPIES) and self.is_sample(path)

    def look_beside(self, root: str, folder: str) -> None:
        """Note samples and broken links beside the folders of classes, or of splits."""
        with os.scandir(os.path.join(root, folder)) as entries:
            names = sorted(entry.name for entry in entries if not is_leftover(entry.name))
        for name in names:
            place = os.path.join(folder, name)
            path = os.path.join(root, place)
            if not os.path.exists(path):
                self.broken.append(place)
            elif os.path.isfile(path) and self._is_sample(path):
                self.beside.append(place)

    def others_below(self, folder: str) -> str:
        """Say what a folder has instead of samples."""
        others = [name for name in self.others if name.startswith(f"{folder}/")]
        return f", but {len(others)} other files ({_suffixes(others)})" if others else ""

    def report(self, unit: str) -> None:
        """Warn of what was left out."""
        first: dict[str, str] = {}
        shared = [
            name
            for target, name, place in self.linked
            if first.setdefault(target, place) != place or self.owners.get(os.path.dirname(target), place) != place
        ]
        if self.others:
            warn(f"{len(self.others)} files are left out, since they are no {unit} ({_suffixes(self.others)}).")
        if self.loops:
            warn(f"the link {printable(self.loops[0])!r} leads to a folder that it lies in, and is not followed.")
        for names, what in (
            (self.broken, "links lead to nothing, and are left out"),
            (self.special, "pipes, sockets or devices are no files, and are left out"),
            (self.beside, f"{unit} lie outside the folders of the classes, and are left out"),
            (shared, f"links lead to {unit} that another class or split has, too"),
        ):
            if names:
                warn(f"{len(names)} {what}: {', '.join(map(printable, names[:3]))}{', ...' * (len(names) > 3)}.")


def _suffixes(names: list[str]) -> str:
    """Count suffixes, the most frequent first."""
    counts = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{suffix}: {count}" for suffix, count in most[:6]) + (", ..." if len(most) > 6 else "")
