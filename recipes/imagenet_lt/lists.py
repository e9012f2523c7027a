"""The official lists of ImageNet-LT and Places-LT: fetched, kept, read, and checked."""

import hashlib
import os
import sys
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

import ltaug

GITHUB = "https://raw.githubusercontent.com"
# The lists of Liu et al. (CVPR 2019), as Kang et al. (ICLR 2020) keep them in reach, at a fixed commit; and a mirror.
DECOUPLING = f"{GITHUB}/facebookresearch/classifier-balancing/22370c64141cc662f62ead89447c838c4a7977b5/data"
MIRROR = f"{GITHUB}/Vanint/SADE-AgnosticLT/cba11b8b0fb91711eeffd5e45311f321f8a88680/data_txt"


@dataclass(frozen=True)
class File:
    """A file of an official list."""

    name: str
    images: int
    """How many it lists."""
    size: int = 0
    """Bytes."""
    sha256: str = ""
    """Where one is published; size, counts and labels are the check of the others."""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Official:
    """A data set as it was published."""

    name: str
    classes: int
    largest: int
    """Training images of the largest class."""
    smallest: int
    files: dict[str, File]
    """Of the splits train, test, and perhaps val."""
    groups: tuple[int, int, int]
    """Classes with more than 100, 20 to 100, fewer than 20 training images."""


IMAGENET_LT = Official(
    "ImageNet-LT",
    1000,
    1280,
    5,
    {
        "train": File(
            "ImageNet_LT_train.txt",
            115_846,
            4_658_674,
            "efdbdad4f050237c310b2f354cf95a8b1d7c8d57a63c4ea4bb6bf2bcb012f37f",
            tuple(f"{root}/ImageNet_LT/ImageNet_LT_train.txt" for root in (DECOUPLING, MIRROR)),
        ),
        "val": File(
            "ImageNet_LT_val.txt",
            20_000,
            804_172,
            "9af7ba688acf9532ff5845a8fb14a1e97fdc4c51ac48bc72c08ea9c3f7ff142e",
            tuple(f"{root}/ImageNet_LT/ImageNet_LT_val.txt" for root in (DECOUPLING, MIRROR)),
        ),
        "test": File(
            "ImageNet_LT_test.txt", 50_000, 2_344_500, addresses=(f"{DECOUPLING}/ImageNet_LT/ImageNet_LT_test.txt",)
        ),
    },
    (385, 479, 136),
)
# Version 2, with the paths of Places365-Standard's small images in the "easy directory structure".
PLACES_LT = Official(
    "Places-LT (v2)",
    365,
    4980,
    5,
    {
        part: File(f"Places_LT_{part}.txt", images, size, addresses=(f"{DECOUPLING}/Places_LT/Places_LT_{part}.txt",))
        for part, images, size in (("train", 62_500, 2_092_674), ("val", 7_300, 253_480), ("test", 36_500, 1_705_400))
    },
    (131, 163, 71),
)


@dataclass
class ImageList:
    """Images and labels of one split."""

    name: str
    """For messages."""
    paths: list[str]
    """Relative to the folder of the data set."""
    labels: Tensor
    """int64 [N], 0..C-1."""


def read_lists(official: Official, list_dir: str | None) -> dict[str, ImageList]:
    """The lists of a data set by split, from a folder of one's own or else downloaded.

    What is downloaded must be the official list. A list of one's own may be another: then a warning on stderr says so.
    """
    lists = {}
    for part, file in official.files.items():
        path = local(official, file, list_dir) if list_dir else download(official, file)
        lists[part] = parse(f"`{path}`", path.read_bytes())
    check(official, lists, strict=not list_dir)
    return lists


def local(official: Official, file: File, folder: str) -> Path:
    """A file of a folder of one's own."""
    path = Path(folder) / file.name
    if not path.is_file():
        raise ValueError(
            f"`list_dir` {folder!r} must hold the lists of {official.name} ("
            f"{', '.join(each.name for each in official.files.values())}), but has no {file.name}."
        )
    return path


def download(official: Official, file: File) -> Path:
    """A file of the cache, `$LTAUG_CACHE/lists` or `~/.cache/ltaug/lists`, fetched first if it is not there."""
    folder = Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug").expanduser() / "lists"
    path = folder / file.name
    if path.is_file() and not fault(file, path.read_bytes()):
        return path
    faults = []
    for address in file.addresses:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
        except (OSError, ValueError) as error:  # an unreachable host, a broken answer
            faults.append(f"{address}: {error}")
            continue
        if (reason := fault(file, data)) is None:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{file.name}.{uuid4().hex}"  # several processes may come here at once
            temporary.write_bytes(data)
            temporary.replace(path)
            return path
        faults.append(f"{address}: {reason}")
    raise ConnectionError(
        f"The list {file.name} of {official.name} could not be downloaded ({'; '.join(faults)}). Offline ways: "
        f"`--list_dir FOLDER` with {', '.join(each.name for each in official.files.values())}, or a copy in `{folder}`."
    )


def fault(file: File, data: bytes) -> str | None:
    """What tells a file from the published one, if anything does."""
    if len(data) != file.size:
        return f"{len(data)} bytes instead of {file.size}"
    if file.sha256 and (found := hashlib.sha256(data).hexdigest()) != file.sha256:
        return f"SHA-256 {found} instead of {file.sha256}"
    return None


def parse(name: str, data: bytes) -> ImageList:
    """Read lines of a path and a class index."""
    paths, labels = [], []
    for k, line in enumerate(data.decode("utf-8", "replace").splitlines()):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal():
            raise ValueError(
                f"{name} must have lines like 'train/n01440764/n01440764_190.JPEG 0', a path and a class index, but "
                f"line {k + 1} is {line[:200]!r}."
            )
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise ValueError(f"{name} lists no images.")
    return ImageList(name, paths, torch.tensor(labels))


def check(official: Official, lists: dict[str, ImageList], strict: bool) -> None:
    """Compare lists with what is published of them; refuse those that contradict themselves."""
    train = lists["train"]
    counts = ltaug.class_counts(train.labels, int(train.labels.max()) + 1)
    if (empty := (counts == 0).nonzero()[:, 0]).numel():
        raise ValueError(f"{train.name} has classes up to {len(counts) - 1}, but no image of class {int(empty[0])}.")
    where: dict[str, str] = {}
    for each in lists.values():
        if int(each.labels.max()) >= len(counts):
            raise ValueError(
                f"{each.name} has images of class {int(each.labels.max())}, but the classes of {train.name} end with "
                f"{len(counts) - 1}."
            )
        if len(seen := set(each.paths)) < len(each.paths):
            raise ValueError(f"{each.name} lists {first_twice(each.paths)!r} twice.")
        if twice := where.keys() & seen:
            path = min(twice)
            raise ValueError(f"{path!r} is in {where[path]} and in {each.name}. An image must be in one of them only.")
        where |= dict.fromkeys(each.paths, each.name)
    groups = tuple(int(group.sum()) for group in ltaug.shot_groups(counts).values())
    compared = [
        ("classes", len(counts), official.classes),
        ("images in the largest class", int(counts.max()), official.largest),
        ("images in the smallest class", int(counts.min()), official.smallest),
        ("many-, medium- and few-shot classes", groups, official.groups),
    ] + [(f"{part} images", len(lists[part].paths), file.images) for part, file in official.files.items()]
    if differences := ", ".join(f"{here} {what} instead of {there}" for what, here, there in compared if here != there):
        if strict:
            raise ValueError(f"The lists of {official.name} are not the published ones: {differences}.")
        print(
            f"Warning: these are not the published lists of {official.name}, and results on them do not compare with "
            f"published ones: {differences}.",
            file=sys.stderr,
        )


def first_twice(paths: list[str]) -> str:
    """The first path that has been there before."""
    seen: set[str] = set()
    return next(path for path in paths if path in seen or seen.add(path))


def first_ten(names: Iterable[str]) -> str:
    """Ten names at the most, for a message."""
    names = list(names)
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
