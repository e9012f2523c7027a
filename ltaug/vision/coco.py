"""Lists of images in JSON files of COCO's kind: images, annotations, categories."""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ltaug.errors import UserError
from ltaug.loaders.folders import is_leftover, natural_order, printable
from ltaug.vision.lists import ImageList, check_lists, first_ten, plain_path

__all__ = ["read_coco"]

MOST_BYTES = 2**32
"""Of JSON; that of 2.7 million images of iNaturalist 2021 has a quarter of it."""
_FAULTS = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, RecursionError, tarfile.TarError)


def read_coco(
    train_path: Path, test_path: Path, names_path: Path | None = None
) -> tuple[dict[str, ImageList], list[str]]:
    """Read the lists of training and test images, and the names of the classes.

    Classes are the categories that have training images, in the order of their ids.

    Args:
        train_path: JSON file, or an archive with one, of the training images.
        test_path: the same for the test images.
        names_path: list of categories in a file of its own, whose names are used instead, if there is one.

    Returns:
        Lists by split, train and test, and C names.
    """
    train, test = _parse(train_path), _parse(test_path)
    names, where = train.names, f"`{train_path}`"
    if odd := [
        f"{number} ({name} and {names[number]})"
        for number, name in test.names.items()
        if names.get(number, name) != name
    ]:
        raise UserError(f"`{test_path}` and {where} give other names to the same categories: {first_ten(odd)}.")
    used = set(train.categories)
    numbers = {number: k for k, number in enumerate(number for number in names if number in used)}
    if empty := len(names) - len(numbers):
        sys.stderr.write(f"Note: {empty} of {len(names)} categories of {where} have no images and are no classes.\n")
    lists = {}
    for split, path, content in (("train", train_path, train), ("test", test_path, test)):
        if unknown := sorted({str(number) for number in content.categories if number not in numbers}):
            images = sum(number not in numbers for number in content.categories)
            raise UserError(
                f"{images} of {len(content.paths)} images of `{path}`, which has {len(content.names)} categories, "
                f"belong to categories without any image in {where}, which has {len(names)}: {first_ten(unknown)}."
            )
        labels = torch.tensor([numbers[number] for number in content.categories])
        lists[split] = ImageList(f"`{path}`", content.paths, labels)
    check_lists(lists)
    names = names | (_parse_names(names_path) if names_path else {})
    return lists, _disambiguated({number: names[number] for number in numbers})


@dataclass
class _Content:
    """What is wanted of a JSON file."""

    names: dict[Hashable, str]
    """Of the categories, by their ids, in order."""
    paths: list[str]
    """Of the images."""
    categories: list[Hashable]
    """Of each image."""


def _parse(path: Path) -> _Content:
    """Read a file of images, annotations and categories."""
    try:
        content = json.loads(_json_of(path), object_hook=_slim)
        names = _names_of(content["categories"])
        images = _entries(content["images"], "images", "id", "file_name")
        category_of: dict[Hashable, Hashable] = {}
        several = set()
        for image, number in _entries(content["annotations"], "annotations", "image_id", "category_id"):
            category = _id(number)
            if category_of.setdefault(image, category) != category:
                several.add(image)
    except _FAULTS as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"`{path}` must be JSON with images (id, file_name), annotations (image_id, category_id) and categories "
            f"(id, name), but: {reason}."
        ) from error
    if not images:
        raise UserError(f"`{path}` lists no images.")
    times = Counter(image for image, _ in images)
    for bad, what in (
        ([name for image, name in images if times[image] > 1], "share their id with others"),
        ([name for image, name in images if image not in category_of], "have no annotation"),
        ([name for image, name in images if image in several], "have annotations of several categories"),
        ([name for image, name in images if category_of.get(image) not in names], "have a category that is not listed"),
    ):
        if bad:
            raise UserError(f"`{path}`: {len(bad)} of {len(images)} images {what}: {first_ten(bad)}.")
    paths = [plain_path(str(name)) for _, name in images]
    return _Content(names, paths, [category_of[image] for image, _ in images])


_FIELDS = ("id", "name", "file_name", "image_id", "category_id")


def _slim(entry: dict[str, Any]) -> Any:
    """Keep of an image, an annotation or a category what is asked for, so that the memory holds a part of the file."""
    whole = "images" in entry or "annotations" in entry or "categories" in entry
    return entry if whole else tuple(map(entry.get, _FIELDS))


def _entries(entries: Any, kind: str, number: str, field: str) -> list[tuple[Any, Any]]:
    """Two fields of the images, annotations or categories of a file, the first of which is an id."""
    first, second = _FIELDS.index(number), _FIELDS.index(field)
    found = [(_id(entry[first]), entry[second]) for entry in entries if type(entry) is tuple]
    if len(found) < len(entries) or any(None in pair for pair in found):
        raise KeyError(f"{number} and {field} in one of its {kind}")
    return found


def _id(value: Any) -> Any:
    """An id, of which some programs write text or fractions: 7 for "7" and 7.0."""
    if type(value) is not int and (digits := str(value).removesuffix(".0")).isdecimal():
        return int(digits)
    return value


def _names_of(entries: Any) -> dict[Hashable, str]:
    """Names of categories by their ids, in order; a category without a name has its id for one."""
    named = [entry[:1] * 2 if type(entry) is tuple and entry[1] is None else entry for entry in entries]
    pairs = {(number, printable(str(name))) for number, name in _entries(named, "categories", "id", "name")}
    names = dict(sorted(pairs, key=lambda pair: natural_order(str(pair[0]))))
    if len(names) < len(pairs):
        twice = Counter(number for number, _ in pairs).most_common(1)[0][0]
        raise UserError(f"several of its categories have the id {twice}")
    return names


def _parse_names(path: Path) -> dict[Hashable, str]:
    """A list of categories in a file of its own."""
    try:
        return _names_of(json.loads(_json_of(path), object_hook=_slim))
    except _FAULTS as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"`{path}` must be a JSON list of categories (id, name), but: {reason}. Remove it.") from error


def _json_of(path: Path) -> bytes:
    """The text of a JSON file, which may be packed, or of the first one in an archive."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            names = [member for member in archive if member.isfile() and member.name.endswith(".json")]
            # Archives of a Mac have a file ._name beside each.
            found = next((archive.extractfile(name) for name in names if not is_leftover(Path(name.name).name)), None)
            if found is None:
                raise UserError("the archive has no JSON file in it")
            return _limited(found)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        return _limited(file)


def _limited(file: IO[bytes] | gzip.GzipFile) -> bytes:
    """All of a file, unless it is too long: a packed one may be a thousandth of what it holds."""
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"it has more than {MOST_BYTES:,} bytes, or holds more")
    return data


def _disambiguated(names: dict[Hashable, str]) -> list[str]:
    """Names of classes; one that several have gets the id behind it."""
    times = Counter(names.values())
    return [f"{name} ({number})" if times[name] > 1 else name for number, name in names.items()]
