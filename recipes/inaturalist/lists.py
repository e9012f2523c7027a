"""Lists of images in JSON files of COCO's kind: the official ones of iNaturalist 2018, fetched and checked; others."""

import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from uuid import uuid4

import torch
from torch import Tensor

import ltaug

# Where the organisers of the competition keep their files, with MD5 sums, in AWS's open data.
ADDRESS = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"


@dataclass(frozen=True)
class File:
    """A file of the official annotations, fetched as an archive."""

    name: str
    md5: str = ""
    """Of the archive, where it is published."""


@dataclass(frozen=True)
class Official:
    """A data set as it was published."""

    name: str
    classes: int
    largest: int
    """Training images of the largest class."""
    smallest: int
    images: dict[str, int]
    """Of the splits train and test."""
    files: dict[str, File]
    """Of these splits, and the names of the categories, which the others have in code."""


INATURALIST = Official(
    "iNaturalist 2018",
    8142,
    1000,
    2,
    {"train": 437_513, "test": 24_426},
    {
        "train": File("train2018.json", "bfa29d89d629cbf04d826a720c0a68b0"),
        "test": File("val2018.json", "f2ed8bfe3e9901cdefceb4e53cd3775d"),
        "names": File("categories.json"),
    },
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


def read_inaturalist(official: Official, folder: str | None, data_dir: str) -> tuple[dict[str, ImageList], list[str]]:
    """The lists by split, and the classes' names: from a folder of one's own, from that of the images if they are
    there, or else downloaded.

    What is downloaded must be the official list. A list of one's own may be another: then a warning on stderr says so.
    """
    train = official.files["train"].name
    if folder is None and local(Path(data_dir), train):
        folder = data_dir
    paths = {}
    for part, file in official.files.items():
        path = local(Path(folder), file.name) if folder else download(official, file)
        if path is None and part != "names":
            raise ValueError(
                f"`list_dir` {folder!r} has no {file.name}, nor {file.name}.tar.gz. Leave it out to fetch it."
            )
        paths[part] = path
    names = paths.pop("names")
    lists, classes = read_json(paths, names)
    compare(official, lists, strict=not folder)
    return lists, classes


def read_json(paths: dict[str, Path], names_path: Path | None = None) -> tuple[dict[str, ImageList], list[str]]:
    """The lists by split, and the classes' names, of JSON files for the splits train and test.

    Classes are the categories that have training images, in the order of their ids. Their names are those of a list of
    categories in a file of its own, if there is one.
    """
    contents = {part: parse_json(path) for part, path in paths.items()}
    names, where = contents["train"].names, f"`{paths['train']}`"
    if odd := [
        f"{number} ({name} and {names[number]})"
        for number, name in contents["test"].names.items()
        if names.get(number, name) != name
    ]:
        raise ValueError(f"`{paths['test']}` and {where} give other names to the same categories: {first_ten(odd)}.")
    used = set(contents["train"].categories)
    numbers = {number: k for k, number in enumerate(number for number in names if number in used)}
    if empty := len(names) - len(numbers):
        print(
            f"Note: {empty} of {len(names)} categories of {where} have no images and are no classes.", file=sys.stderr
        )
    lists = {}
    for part, content in contents.items():
        if unknown := sorted({str(number) for number in content.categories if number not in numbers}):
            images = sum(number not in numbers for number in content.categories)
            raise ValueError(
                f"{images} of {len(content.paths)} images of `{paths[part]}`, which has {len(content.names)} "
                f"categories, are of such as have no image in {where}, which has {len(names)}: {first_ten(unknown)}."
            )
        labels = torch.tensor([numbers[number] for number in content.categories])
        lists[part] = ImageList(f"`{paths[part]}`", content.paths, labels)
    check(lists)
    names |= parse_names(names_path) if names_path else {}
    return lists, told_apart({number: names[number] for number in numbers})


@dataclass
class Content:
    """What is wanted of a JSON file."""

    names: dict[Hashable, str]
    """Of the categories, by their ids, in order."""
    paths: list[str]
    """Of the images."""
    categories: list[Hashable]
    """Of each image."""


def parse_json(path: Path) -> Content:
    """Read a file of images, annotations and categories."""

    def slim(entry: dict) -> tuple | dict:
        """Drop what is not asked for while reading, so that the memory holds a part of the file only."""
        if "file_name" in entry:
            return entry["id"], entry["file_name"]
        return (entry["image_id"], entry["category_id"]) if "category_id" in entry else entry

    try:
        with open_json(path) as file:
            content = json.load(file, object_hook=slim)
        names = names_of(content["categories"])
        images, category_of, several = entries(content, "images", "file_name"), {}, {}
        for image, category in entries(content, "annotations", "category_id"):
            if category_of.setdefault(image, category) != category:
                several[image] = category
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, tarfile.TarError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"`{path}` must be JSON with images (id, file_name), annotations (image_id, category_id) and categories "
            f"(id, name), but: {reason}."
        ) from error
    if not images:
        raise ValueError(f"`{path}` lists no images.")
    for bad, what in (
        ([name for image, name in images if image not in category_of], "have no annotation"),
        ([name for image, name in images if image in several], "have annotations of several categories"),
        ([name for image, name in images if category_of.get(image) not in names], "have a category that is not listed"),
    ):
        if bad:
            raise ValueError(f"`{path}`: {len(bad)} of {len(images)} images {what}: {first_ten(bad)}.")
    return Content(names, [name for _, name in images], [category_of[image] for image, _ in images])


def open_json(path: Path) -> IO[bytes]:
    """A JSON file, or the first one in an archive."""
    if path.suffix == ".json":
        return path.open("rb")
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".json") and (file := archive.extractfile(member)):
                return io.BytesIO(file.read())
    raise ValueError("the archive has no JSON file in it")


def entries(content: dict, key: str, needed: str) -> list[tuple]:
    """The images or annotations, each of which must have been slimmed."""
    if not all(type(entry) is tuple for entry in content[key]):
        raise KeyError(needed)
    return content[key]


def names_of(categories: list[dict]) -> dict[Hashable, str]:
    """Names of categories by their ids, in order."""
    return dict(sorted((entry["id"], str(entry.get("name", entry["id"]))) for entry in categories))


def parse_names(path: Path) -> dict[Hashable, str]:
    """A list of categories in a file of its own."""
    try:
        with open_json(path) as file:
            return names_of(json.load(file))
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, tarfile.TarError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"`{path}` must be a JSON list of categories (id, name), but: {reason}. Remove it.") from error


def told_apart(names: dict[Hashable, str]) -> list[str]:
    """Names of classes; one that several have gets the id behind it."""
    seen: set[str] = set()
    twice = {name for name in names.values() if name in seen or seen.add(name)}
    return [f"{name} ({number})" if name in twice else name for number, name in names.items()]


def check(lists: dict[str, ImageList]) -> None:
    """Refuse lists that contradict themselves."""
    where: dict[str, str] = {}
    for each in lists.values():
        if len(seen := set(each.paths)) < len(each.paths):
            raise ValueError(f"{each.name} lists {first_twice(each.paths)!r} twice.")
        if twice := where.keys() & seen:
            path = min(twice)
            raise ValueError(f"{path!r} is in {where[path]} and in {each.name}. An image must be in one of them only.")
        where |= dict.fromkeys(each.paths, each.name)


def compare(official: Official, lists: dict[str, ImageList], strict: bool) -> None:
    """Compare lists with what is published of them."""
    counts = ltaug.class_counts(lists["train"].labels)
    compared = [
        ("classes", len(counts), official.classes),
        ("images in the largest class", int(counts.max()), official.largest),
        ("images in the smallest class", int(counts.min()), official.smallest),
    ] + [(f"{part} images", len(lists[part].paths), images) for part, images in official.images.items()]
    if differences := ", ".join(f"{here} {what} instead of {there}" for what, here, there in compared if here != there):
        if strict:
            raise ValueError(f"The lists of {official.name} are not the published ones: {differences}.")
        print(
            f"Warning: these are not the published lists of {official.name}, and results on them do not compare with "
            f"published ones: {differences}.",
            file=sys.stderr,
        )


def local(folder: Path, name: str) -> Path | None:
    """A file of a folder, unpacked or not, or None."""
    return next((path for path in (folder / name, folder / f"{name}.tar.gz") if path.is_file()), None)


def download(official: Official, file: File) -> Path:
    """An archive of the cache, `$LTAUG_CACHE/lists` or `~/.cache/ltaug/lists`, fetched first if it is not there."""
    folder = Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug").expanduser() / "lists"
    path, address = folder / f"{file.name}.tar.gz", f"{ADDRESS}/{file.name}.tar.gz"
    if path.is_file() and not fault(file, path.read_bytes()):
        return path
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            data = answer.read()
        reason: object = fault(file, data)
    except (OSError, ValueError, HTTPException) as error:  # an unreachable host, a broken answer
        reason = error
    if reason:
        raise ConnectionError(
            f"The annotations {file.name} of {official.name} could not be downloaded from {address}: {reason}. Offline "
            f"ways: `--list_dir FOLDER` with {', '.join(each.name for each in official.files.values())}, unpacked or "
            f"as .tar.gz, or these archives in `{folder}`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.name}.{uuid4().hex}"  # several processes may come here at once
    temporary.write_bytes(data)
    temporary.replace(path)
    return path


def fault(file: File, data: bytes) -> str | None:
    """What tells an archive from the published one, if anything does."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return f"its MD5 sum is {found} instead of {file.md5}" if file.md5 and found != file.md5 else None


def first_twice(paths: list[str]) -> str:
    """The first path that has been there before."""
    seen: set[str] = set()
    return next(path for path in paths if path in seen or seen.add(path))


def first_ten(names: Iterable[str]) -> str:
    """Ten names at the most, for a message."""
    names = list(names)
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
