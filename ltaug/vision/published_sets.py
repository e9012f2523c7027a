"""The published long-tailed image sets, by their official lists: ImageNet-LT, Places-LT, iNaturalist 2018.

Other sets that JSON files of COCO's kind list are read in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import torch

from ltaug.errors import UserError
from ltaug.loaders.tables import arrow_column, check_columns, class_labels, load_splits
from ltaug.vision.coco import read_coco
from ltaug.vision.image_set import Images, name_block
from ltaug.vision.lists import ImageList, check_lists, first_ten, listed_files, refuse_missing
from ltaug.vision.official import IMAGENET_LT, INATURALIST_2018, PLACES_LT, read_inaturalist, read_lists
from ltaug.vision.tables import ImageColumn, check_split, stored_names

__all__ = ["read_imagenet_lt", "read_inaturalist_2018", "read_json_lists", "read_places_lt"]

IMAGENET = "ILSVRC/imagenet-1k"

Found = tuple[list[str], dict[str, Images]]
"""Class names, and images by split."""
_OR_A_TABLE = ", or one of parquet files, or leave it out and set `hub_id` to a data set with these images"


def read_imagenet_lt(
    data_dir: str | None = None,
    list_dir: str | None = None,
    *,
    image_column: str = "image",
    label_column: str = "label",
    allow_outside: bool = False,
) -> Found:
    """Find ImageNet-LT's images: in a folder tree, in local parquet files, or on the hub.

    Training and validation images are from ImageNet's training split, test images from its validation split.

    Args:
        data_dir: folder with ImageNet's train/ and val/, or with parquet files; ``None``: the hub.
        list_dir: folder with a copy of the official lists, which are downloaded otherwise.
        image_column: column of the images, of the hub and parquet files.
        label_column: column of the labels, likewise.
        allow_outside: read images that lists or tables name outside of ``data_dir``, too.
    """
    lists = read_lists(IMAGENET_LT, list_dir)
    wnids = [folder.rpartition("/")[2] for folder in _class_folders(lists["train"])]
    for each in lists.values():  # no two of them disagree about what a class is
        for path, label in zip(each.paths, each.labels.tolist(), strict=True):
            if path.split("/")[-2:-1] != [wnids[label]]:
                raise UserError(
                    f"{each.name} has {path!r} in class {label}, which is {wnids[label]} in {lists['train'].name}."
                )
    root = Path(data_dir) if data_dir else None
    if root is None or not (root / "train").is_dir() or any((root / "train").glob("*.parquet")):
        return _from_rows(data_dir, lists, wnids, image_column, label_column, allow_outside)
    if not (root / "val" / wnids[0]).is_dir():  # as its archive unpacks
        for each in lists.values():
            each.paths = [f"val/{path.rpartition('/')[2]}" if path.startswith("val/") else path for path in each.paths]
    return wnids, _below(root, lists, wnids, allow_outside)


def read_places_lt(
    data_dir: str | None,
    list_dir: str | None = None,
    *,
    hub_id: str | None = None,
    image_column: str = "image",
    allow_outside: bool = False,
) -> Found:
    """Find Places-LT's images: in a folder tree, or by their names in local parquet files or a data set of the hub.

    The downloaded lists have the paths of Places365-Standard's small images in the "easy directory structure" (train/,
    val/); for another tree give lists of its paths with ``list_dir``.
    """
    lists = read_lists(PLACES_LT, list_dir)
    folders = _class_folders(lists["train"])
    shared = os.path.commonpath(folders)
    names = [folder[len(shared) :].strip("/") or folder for folder in folders]
    if _is_table(data_dir, hub_id):
        return names, _by_name(data_dir, hub_id, lists, names, image_column, allow_outside)
    root = need_folder(data_dir, f"the folder that the paths of {PLACES_LT.name} start from{_OR_A_TABLE}")
    return names, _below(root, lists, names, allow_outside)


def read_inaturalist_2018(
    data_dir: str | None,
    list_dir: str | None = None,
    *,
    hub_id: str | None = None,
    image_column: str = "image",
    allow_outside: bool = False,
) -> Found:
    """Find iNaturalist 2018's images by the official JSON files: in a folder tree, in parquet files, or on the hub."""
    if _is_table(data_dir, hub_id):
        lists, names = read_inaturalist(INATURALIST_2018, list_dir, data_dir)
        return names, _by_name(data_dir, hub_id, lists, names, image_column, allow_outside)
    root = need_folder(data_dir, f"the folder that has train_val2018/{_OR_A_TABLE}")
    lists, names = read_inaturalist(INATURALIST_2018, list_dir, str(root))
    return names, _below(root, lists, names, allow_outside)


def read_json_lists(
    data_dir: str | None, train_json: str | None, test_json: str | None, *, allow_outside: bool = False
) -> Found:
    """Find the images that two JSON files of COCO's kind list, in a folder tree.

    Args:
        data_dir: folder that the file names in the JSON files start from.
        train_json: file that lists the training images, as it is or in ``data_dir``.
        test_json: the same for the test images.
        allow_outside: read images that they name outside of ``data_dir``, too.
    """
    root = need_folder(data_dir, "the folder that the file names in the JSON files start from")
    paths = []
    for setting, given in (("train_json", train_json), ("test_json", test_json)):
        if not given:
            raise UserError(f"`{setting}` must name the JSON file that lists the {setting[:-5]} images.")
        path = next((path for path in (Path(given), root / given) if path.is_file()), None)
        if path is None:
            raise UserError(f"`{setting}` {given!r} is no file, neither here nor in `data_dir`.")
        paths.append(path)
    lists, names = read_coco(*paths)
    return names, _below(root, lists, names, allow_outside)


def need_folder(data_dir: str | None, what: str) -> Path:
    """The folder ``data_dir``, which must be there; ``what`` says for the message what it is."""
    if not data_dir:
        raise UserError(f"`data_dir` must be {what}.")
    if not Path(data_dir).is_dir():
        raise UserError(f"`data_dir` {data_dir!r} is no folder.")
    return Path(data_dir)


def _below(
    root: Path, lists: Mapping[str, ImageList], class_names: Sequence[str], allow_outside: bool
) -> dict[str, Images]:
    """The images of all lists in a folder tree, each in one list only, however it is spelled there."""
    found = {split: listed_files(root, each, class_names, allow_outside) for split, each in lists.items()}
    check_lists(
        {
            split: ImageList(lists[split].name, list(map(os.fsdecode, images.names.to_pylist())), images.labels)
            for split, images in found.items()
        }
    )
    return found


def _class_folders(images: ImageList) -> list[str]:
    """The folder of the first image of each class."""
    first = dict(zip(reversed(images.labels.tolist()), reversed(images.paths), strict=True))
    return [first[k].rpartition("/")[0] for k in range(len(first))]


def _is_table(data_dir: str | None, hub_id: str | None) -> bool:
    """Whether the images are in a data set of the hub or in a folder's parquet files, not in a folder tree."""
    if data_dir and hub_id:
        raise UserError("`hub_id` names a data set of the hub, and `data_dir` a folder to read instead: leave one out.")
    patterns = ("*.parquet", "*/*.parquet")  # no deeper: an image tree is large
    return bool(hub_id) or any(next(Path(data_dir or ".").glob(each), None) for each in patterns if data_dir)


def _by_name(
    data_dir: str | None,
    hub_id: str | None,
    lists: Mapping[str, ImageList],
    class_names: Sequence[str],
    image_column: str,
    allow_outside: bool,
) -> dict[str, Images]:
    """The images of all lists among the rows of a table, matched by the end of their paths; nothing is decoded.

    As many folders of a path count as tell all images of a list apart. The images of a list are in one split, whichever
    has most of them; their classes are those of the list.
    """
    source, found = hub_id or str(data_dir), {}
    splits = load_splits(source, data_dir, allow_outside)
    for part, each in lists.items():
        deep = next((k for k in range(1, 9) if len({_end(path, k) for path in each.paths}) == len(each.paths)), 9)
        wanted = {_end(path, deep): k for k, path in enumerate(each.paths)}
        rows_of = {}
        for split, rows in splits.items():
            check_columns(rows, f"The {split} split of {source!r}", image_column=image_column)
            rows_of[split] = np.full(len(each.paths), -1)
            names = stored_names(rows, image_column, split).to_pylist()
            for row, name in enumerate(names):
                if (k := wanted.get(_end(os.fsdecode(name), deep))) is not None:
                    rows_of[split][k] = row
        split = max(rows_of, key=lambda split: (rows_of[split] >= 0).sum())
        column = ImageColumn(splits[split], image_column, source, data_dir or "", allow_outside)
        other = stored_names(splits[split], image_column, split)[0].as_py()
        hint = f" It has other names, such as {os.fsdecode(other)!r}."
        refuse_missing(each, rows_of[split] >= 0, class_names, f"the {split} split of {source!r}", hint)
        found[part] = Images(each.labels, name_block(each.paths), torch.from_numpy(rows_of[split]), column)
    return found


def _end(path: str, parts: int) -> str:
    """The last parts of a path."""
    return "/".join(path.split("/")[-parts:])


def _from_rows(
    data_dir: str | None,
    lists: Mapping[str, ImageList],
    wnids: list[str],
    image_column: str,
    label_column: str,
    allow_outside: bool,
) -> Found:
    """The images of ImageNet-LT's lists among the rows of ImageNet, matched by name; nothing is decoded.

    The hub has train/n01440764/n01440764_190.JPEG as n01440764_190_n01440764.JPEG in its training split.
    """
    splits, source = load_splits(IMAGENET, data_dir, allow_outside), data_dir or IMAGENET
    found, class_names = {}, wnids
    for part, each in lists.items():
        split = "train" if each.paths[0].startswith("train/") else "validation"
        check_split(splits, split, source)
        rows, where = splits[split], f"The {split} split of {source!r}"
        check_columns(rows, where, image_column=image_column, label_column=label_column)
        column = ImageColumn(rows, image_column, source, data_dir or "", allow_outside)
        wanted = [
            f"{path.rpartition('/')[2].rpartition('.')[0]}_{wnids[label]}.JPEG"
            for path, label in zip(each.paths, each.labels.tolist(), strict=True)
        ]
        names = stored_names(rows, image_column, split)
        places = pyarrow.compute.index_in(names, value_set=name_block(wanted)).fill_null(-1).to_numpy()
        row_of = np.full(len(wanted), -1)
        row_of[places[places >= 0]] = np.flatnonzero(places >= 0)
        hint = f" It has other names, such as {os.fsdecode(names[0].as_py())!r}."
        refuse_missing(each, row_of >= 0, wnids, where, hint)
        known = getattr(rows.features[label_column], "names", None)
        theirs, labels = class_labels({split: arrow_column(rows, label_column)}, known, where)
        class_of = _match_classes(each, labels[split][torch.from_numpy(row_of)], len(wnids), where)
        if part == "train" and known:
            class_names = [theirs[k] for k in class_of]
        found[part] = Images(each.labels, name_block(each.paths), torch.from_numpy(row_of), column)
    return class_names, found


def _match_classes(each: ImageList, labels: torch.Tensor, num_classes: int, where: str) -> list[int]:
    """Which of a table's classes each class of a list is: that of most of its images, which all must have."""
    size = int(labels.max()) + 1
    pairs = (each.labels * size + labels).bincount(minlength=num_classes * size).view(num_classes, size)
    class_of = pairs.argmax(1)
    if len(odd := (class_of[each.labels] != labels).nonzero()[:, 0]):
        raise UserError(
            f"{where} has {len(odd)} images in other classes than the others of their class in {each.name}: "
            f"{first_ten(each.paths[k] for k in odd.tolist())}."
        )
    return class_of.tolist()
