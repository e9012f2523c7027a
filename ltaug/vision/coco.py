"""Lists of images in JSON files of COCO's kind: images, annotations, categories."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ltaug.errors import UserError
from ltaug.vision.lists import ImageList, check_lists, first_ten, plain_path

__all__ = ["read_coco"]

_FAULTS = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, tarfile.TarError)


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
        with _open_json(path) as file:
            content = json.load(file, object_hook=_slim)
        names = _names_of(content["categories"])
        images = _entries(content, "images", "id and file_name", _Listed)
        category_of: dict[Hashable, Hashable] = {}
        several = set()
        for image, category in _entries(content, "annotations", "image_id and category_id", _Annotated):
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
    paths = [plain_path(name) for _, name in images]
    return _Content(names, paths, [category_of[image] for image, _ in images])


class _Listed(tuple[Hashable, str]):
    """Id and file name of an image."""


class _Annotated(tuple[Hashable, Hashable]):
    """Ids of an image and of its category."""


def _slim(entry: dict[str, Any]) -> Any:
    """Drop what is not asked for while reading, so that the memory holds a part of the file only."""
    if "image_id" in entry and "category_id" in entry:
        return _Annotated((entry["image_id"], entry["category_id"]))
    if "file_name" in entry and "id" in entry and "name" not in entry:
        return _Listed((entry["id"], entry["file_name"]))
    return entry


def _entries(content: Mapping[str, Any], key: str, needed: str, kind: type) -> list[Any]:
    """The images or annotations of a file, each of which must have been slimmed."""
    entries: list[Any] = content[key]
    if not all(type(entry) is kind for entry in entries):
        raise KeyError(f"{needed} in one of its {key}")
    return entries


def _names_of(categories: list[dict[str, Any]]) -> dict[Hashable, str]:
    """Names of categories by their ids, in order."""
    pairs = {(entry["id"], str(entry.get("name", entry["id"]))) for entry in categories}
    names = dict(sorted(pairs))
    if len(names) < len(pairs):
        twice = Counter(number for number, _ in pairs).most_common(1)[0][0]
        raise UserError(f"several of its categories have the id {twice}")
    return names


def _parse_names(path: Path) -> dict[Hashable, str]:
    """A list of categories in a file of its own."""
    try:
        with _open_json(path) as file:
            return _names_of(json.load(file))
    except _FAULTS as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"`{path}` must be a JSON list of categories (id, name), but: {reason}. Remove it.") from error


def _open_json(path: Path) -> IO[bytes]:
    """A JSON file without its byte order mark, or the first one in an archive."""
    if path.suffix == ".json":
        data = path.read_bytes()
    else:
        with tarfile.open(path) as archive:
            names = [member for member in archive if member.isfile() and member.name.endswith(".json")]
            file = archive.extractfile(names[0]) if names else None
            if file is None:
                raise UserError("the archive has no JSON file in it")
            data = file.read()
    return io.BytesIO(data.removeprefix(b"\xef\xbb\xbf"))


def _disambiguated(names: dict[Hashable, str]) -> list[str]:
    """Names of classes; one that several have gets the id behind it."""
    times = Counter(names.values())
    return [f"{name} ({number})" if times[name] > 1 else name for number, name in names.items()]
