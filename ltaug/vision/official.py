"""Official lists of the long-tailed image sets: downloaded, kept, checked against what is published of them."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import torch

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.priors import class_counts, shot_groups
from ltaug.run import write_atomically
from ltaug.vision.coco import read_coco
from ltaug.vision.lists import ImageList, check_lists, parse_list

__all__ = ["IMAGENET_LT", "INATURALIST_2018", "PLACES_LT", "Official", "OfficialFile", "read_inaturalist", "read_lists"]

_GITHUB = "https://raw.githubusercontent.com"
# The lists of Liu et al. (CVPR 2019), as Kang et al. (ICLR 2020) keep them in reach, at a fixed commit; and a mirror.
_DECOUPLING = f"{_GITHUB}/facebookresearch/classifier-balancing/22370c64141cc662f62ead89447c838c4a7977b5/data"
_MIRROR = f"{_GITHUB}/Vanint/SADE-AgnosticLT/cba11b8b0fb91711eeffd5e45311f321f8a88680/data_txt"
# Where the organisers of iNaturalist's competition keep their files, with MD5 sums, in AWS's open data.
_INATURALIST = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"


@dataclass(frozen=True)
class OfficialFile:
    """A file of an official list."""

    name: str
    addresses: tuple[str, ...] = ()
    size: int = 0
    """Bytes, where they are published."""
    sha256: str = ""
    """Where it is published. Without it and ``md5`` the first download's is kept, and later ones must have it."""
    md5: str = ""
    """Likewise."""


@dataclass(frozen=True)
class Official:
    """What is published of a data set."""

    name: str
    files: Mapping[str, OfficialFile]
    """By split: train, test, and perhaps val; "names" of the classes."""
    images: Mapping[str, int]
    """How many there are, by split."""
    classes: int
    largest: int
    """Training images of the largest class."""
    smallest: int
    groups: tuple[int, int, int] | None = None
    """Classes with more than 100, 20 to 100, fewer than 20 training images."""


def _text_file(folder: str, name: str, size: int, sha256: str = "", mirror: bool = False) -> OfficialFile:
    roots = (_DECOUPLING, _MIRROR) if mirror else (_DECOUPLING,)
    return OfficialFile(name, tuple(f"{root}/{folder}/{name}" for root in roots), size, sha256)


IMAGENET_LT = Official(
    "ImageNet-LT",
    {
        "train": _text_file(
            "ImageNet_LT",
            "ImageNet_LT_train.txt",
            4_658_674,
            "efdbdad4f050237c310b2f354cf95a8b1d7c8d57a63c4ea4bb6bf2bcb012f37f",
            mirror=True,
        ),
        "val": _text_file(
            "ImageNet_LT",
            "ImageNet_LT_val.txt",
            804_172,
            "9af7ba688acf9532ff5845a8fb14a1e97fdc4c51ac48bc72c08ea9c3f7ff142e",
            mirror=True,
        ),
        "test": _text_file("ImageNet_LT", "ImageNet_LT_test.txt", 2_344_500),
    },
    {"train": 115_846, "val": 20_000, "test": 50_000},
    classes=1000,
    largest=1280,
    smallest=5,
    groups=(385, 479, 136),
)
# Version 2, with the paths of Places365-Standard's small images in the "easy directory structure".
PLACES_LT = Official(
    "Places-LT (v2)",
    {
        "train": _text_file("Places_LT", "Places_LT_train.txt", 2_092_674),
        "val": _text_file("Places_LT", "Places_LT_val.txt", 253_480),
        "test": _text_file("Places_LT", "Places_LT_test.txt", 1_705_400),
    },
    {"train": 62_500, "val": 7_300, "test": 36_500},
    classes=365,
    largest=4980,
    smallest=5,
    groups=(131, 163, 71),
)


def _archive(name: str, md5: str = "") -> OfficialFile:
    return OfficialFile(name, (f"{_INATURALIST}/{name}.tar.gz",), md5=md5)


INATURALIST_2018 = Official(
    "iNaturalist 2018",
    {
        "train": _archive("train2018.json", "bfa29d89d629cbf04d826a720c0a68b0"),
        "test": _archive("val2018.json", "f2ed8bfe3e9901cdefceb4e53cd3775d"),
        "names": _archive("categories.json"),
    },
    {"train": 437_513, "test": 24_426},
    classes=8142,
    largest=1000,
    smallest=2,
)


def read_lists(official: Official, list_dir: str | None = None) -> dict[str, ImageList]:
    """Read the lists of a data set by split, from a folder of one's own or else downloaded.

    What is downloaded must be the official list. A list of one's own may be another: then a warning on stderr says so.
    """
    lists = {}
    for split, file in official.files.items():
        path = _in_folder(official, file, list_dir) if list_dir else _download(official, file, file.name)
        lists[split] = parse_list(f"`{path}`", path.read_bytes())
    check_lists(lists)
    _compare(official, lists, strict=not list_dir)
    return lists


def read_inaturalist(
    official: Official, list_dir: str | None, data_dir: str | None
) -> tuple[dict[str, ImageList], list[str]]:
    """Read the JSON lists by split, and the names of the classes.

    They are looked for in ``list_dir``, else beside the images in ``data_dir``, else downloaded.
    """
    if list_dir is None and data_dir and _unpacked_or_not(Path(data_dir), official.files["train"].name):
        list_dir = data_dir
    paths: dict[str, Path | None] = {}
    for split, file in official.files.items():
        if list_dir is None:
            paths[split] = _download(official, file, f"{file.name}.tar.gz")
            continue
        paths[split] = _unpacked_or_not(Path(list_dir), file.name)
        if paths[split] is None and split != "names":
            raise UserError(
                f"`list_dir` {list_dir!r} has no {file.name}, nor {file.name}.tar.gz. Leave it out to download it."
            )
    train, test = paths["train"], paths["test"]
    if train is None or test is None:
        raise AssertionError("refused above")
    lists, names = read_coco(train, test, paths["names"])
    _compare(official, lists, strict=list_dir is None)
    return lists, names


def _in_folder(official: Official, file: OfficialFile, folder: str) -> Path:
    path = Path(folder) / file.name
    if not path.is_file():
        raise UserError(
            f"`list_dir` {folder!r} must hold the lists of {official.name} "
            f"({', '.join(each.name for each in official.files.values())}), but has no {file.name}."
        )
    return path


def _unpacked_or_not(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.tar.gz") if path.is_file()), None)


def _download(official: Official, file: OfficialFile, saved_as: str) -> Path:
    """A file of the cache, `$LTAUG_CACHE/lists` or `~/.cache/ltaug/lists`, downloaded first if it is not there."""
    folder = Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug").expanduser() / "lists"
    path = folder / saved_as
    file, advice = _with_recorded_hash(file, path)
    if path.is_file() and _fault(file, path) is None:
        return _recorded(file, path)
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    for address in file.addresses:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")  # several processes may come here at once
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(60)
        try:
            torch.hub.download_url_to_file(address, str(fresh), file.sha256 or None, progress=False)
            reason = _fault(file, fresh)
            if reason is None:
                fresh.replace(path)
                return _recorded(file, path)
        except (OSError, ValueError, RuntimeError, HTTPException) as error:  # an unreachable host, a broken answer
            reason = str(error)
        finally:
            socket.setdefaulttimeout(patience)
            fresh.unlink(missing_ok=True)
        faults.append(f"{address}: {reason}")
    raise ConnectionError(
        f"{saved_as} of {official.name} could not be downloaded ({'; '.join(faults)}).{advice} Offline ways: "
        f"`list_dir`, a folder with {', '.join(each.name for each in official.files.values())}; or a copy of "
        f"{saved_as} in `{folder}`."
    )


def _with_recorded_hash(file: OfficialFile, path: Path) -> tuple[OfficialFile, str]:
    """The file with the hash of its first download, where none is published; and what to do if that does not fit."""
    record = path.with_name(f"{path.name}.sha256")
    if file.sha256 or file.md5 or not record.is_file():
        return file, ""
    word = record.read_text(encoding="utf-8", errors="replace")[:64]
    if not re.fullmatch("[0-9a-f]{64}", word):
        return file, ""
    return replace(file, sha256=word), f" The hash is that of the first download; remove `{record}` to take another."


def _recorded(file: OfficialFile, path: Path) -> Path:
    """The path, beside which the hash of a file without a published one is kept for later downloads."""
    if not file.sha256 and not file.md5:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        record = path.with_name(f"{path.name}.sha256")
        write_atomically(record, f"{digest}  {path.name}\n")
        warn(f"no hash of {path.name} is published. That of this copy is kept in `{record}`: others will be refused.")
    return path


def _fault(file: OfficialFile, path: Path) -> str | None:
    """What tells a file from the published one, if anything does."""
    if file.size and path.stat().st_size != file.size:
        return f"{path.stat().st_size} bytes instead of {file.size}"
    for kind, wanted in (("sha256", file.sha256), ("md5", file.md5)):
        if wanted:
            found = hashlib.new(kind, path.read_bytes(), usedforsecurity=False).hexdigest()
            if found != wanted:
                return f"its {kind.upper()} is {found} instead of {wanted}"
    return None


def _compare(official: Official, lists: Mapping[str, ImageList], strict: bool) -> None:
    """Compare lists with what is published of them."""
    counts = class_counts(lists["train"].labels)
    compared: list[tuple[str, object, object]] = [
        ("classes", len(counts), official.classes),
        ("images in the largest class", int(counts.max()), official.largest),
        ("images in the smallest class", int(counts.min()), official.smallest),
        *((f"{split} images", len(lists[split].paths), images) for split, images in official.images.items()),
    ]
    if official.groups:
        groups = tuple(int(group.sum()) for group in shot_groups(counts).values())
        compared.append(("many-, medium- and few-shot classes", groups, official.groups))
    if differences := ", ".join(f"{here} {what} instead of {there}" for what, here, there in compared if here != there):
        if strict:
            raise UserError(f"The lists of {official.name} are not the published ones: {differences}.")
        sys.stderr.write(
            f"Warning: these are not the published lists of {official.name}, and results on them do not compare with "
            f"published ones: {differences}.\n"
        )
