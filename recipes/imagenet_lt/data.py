"""The data: ImageNet-LT and Places-LT by their official lists, any folder or hub data set, or digits.

Labels are known without decoding an image; images are read and decoded when they are asked for.
"""

import io
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import Config
from lists import IMAGENET_LT, PLACES_LT, ImageList, first_ten, read_lists
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

import ltaug

IMAGENET = "ILSVRC/imagenet-1k"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TEST_SPLITS = ("test", "val", "valid", "validation")
"""The first of them that is there is tested on; another one is to tune on."""
DIGIT_SIZE = 64


class Names(Sequence):
    """Many strings in one block of memory, which worker processes share."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.block = b"".join(encoded)
        self.ends = np.cumsum([0, *map(len, encoded)])
        self.places = np.arange(len(encoded))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: int) -> str:
        place = self.places[k]
        return os.fsdecode(self.block[self.ends[place] : self.ends[place + 1]])

    def take(self, indices: Tensor) -> "Names":
        """Those of some indices; the block stays shared."""
        taken = object.__new__(Names)
        taken.block, taken.ends, taken.places = self.block, self.ends, self.places[indices.numpy()]
        return taken


@dataclass
class Part:
    """One split of a source, none of it decoded."""

    labels: Tensor
    """int64 [N], 0..C-1."""
    names: Names
    rows: Tensor
    """int64 [N]: where `open` finds them."""
    open: Any
    """From a row and a name to an image; worker processes get it, too. Of a stream, its `Shards`."""

    def take(self, indices: Tensor) -> "Part":
        """The images of some indices."""
        return Part(self.labels[indices], self.names.take(indices), self.rows[indices], self.open)


@dataclass
class Source:
    """All images of a data set."""

    name: str
    """For messages."""
    class_names: list[str]
    train: Part
    test: Part | None = None
    """None: it is to be held out."""
    val: Part | None = None


class ImageSet(torch.utils.data.Dataset):
    """Images and labels of one split; `set[k]` is the transformed image and its label.

    An image that cannot be decoded is told of once, counted in `unreadable`, and replaced by the next one of its class,
    or of any if that has none, so that batches keep their size. Worker processes share what is known of that.
    """

    def __init__(self, part: Part) -> None:
        self.labels: Tensor = part.labels
        """int64 [N], known without decoding."""
        self.names: Names = part.names
        """File names."""
        self.transform: Callable | None = None
        """From a PIL image in RGB to what a batch is made of."""
        self.rows, self.open = part.rows, part.open
        self.broken = torch.zeros(len(part.labels), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int):
        image, k = self.image(k)
        return image if self.transform is None else self.transform(image), int(self.labels[k])

    @property
    def unreadable(self) -> int:
        """How many images could not be decoded so far, in all worker processes of this one."""
        return int(self.broken.count_nonzero())

    def image(self, k: int) -> tuple[Image.Image, int]:
        """An image in RGB, or the next one that can be read, of its class if there is one; and its index."""
        image = self._decode(k)
        if image is None:
            label, places = int(self.labels[k]), torch.arange(len(self.labels)).roll(-k)  # k first
            same = self.labels[places] == label
            for other in places[same].tolist():
                if (image := self._decode(other)) is not None:
                    return image, other
            if self.broken[k] == 1:  # the first to find out, about: processes may do so at once
                self.broken[self.labels == label] = 2
                warn(f"of class {label} none of the {int(same.sum())} images can be read; others' take their place")
            for other in places[~same].tolist():
                if (image := self._decode(other)) is not None:
                    return image, other
            raise ValueError(f"None of the {len(places)} images can be read, the first of which is {self.names[0]!r}.")
        return image, k

    def _decode(self, k: int) -> Image.Image | None:
        name = self.names[k]
        return decode(lambda: self.open(int(self.rows[k]), name), name, self.broken, k, "another one of its class")


@dataclass
class Data:
    """A training set, a test set and perhaps a set to tune on, none of it decoded."""

    train: Any
    """An ImageSet, or the StreamSet of a stream."""
    test: ImageSet
    val: ImageSet | None
    """ImageNet-LT's and Places-LT's validation images, or those of `held_out_per_class`, to tune on."""
    class_names: list[str]
    class_counts: Tensor
    """Training images a class, int64 [C]."""
    index_hash: str
    """SHA-256 of the indices of the training images in the list or data set they are taken from: of one source, equal
    hashes are equal subsets."""


def decode(open: Callable[[], Image.Image], name: str, broken: Tensor, k: int, other: str) -> Image.Image | None:
    """An image in RGB, or None if it cannot be read, which is told once and kept in ``broken[k]``."""
    if broken[k]:
        return None
    try:
        return to_rgb(open())
    except Exception as error:  # of many types, from the depths of Pillow
        broken[k] = 1
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no kind that Pillow knows" if unknown else getattr(error, "strerror", None) or error
        warn(f"the image {name!r} cannot be read ({reason}) and is replaced by {other}")
        return None


def warn(text: str) -> None:
    """Tell what a worker process has found, at once."""
    print(f"Warning: {text}.", file=sys.stderr, flush=True)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an image of any kind to 8-bit RGB, upright. Transparency is dropped."""
    image.load()
    if image.mode.startswith("I"):  # 16 bits; Pillow itself would clip them
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    ImageOps.exif_transpose(image, in_place=True)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def load_data(cfg: Config) -> Data:
    """Find the images of a config's data set and take the part of them that its profile asks for.

    Where a source has no test set, `test_per_class` images of every class are held out by `data_seed`; and
    `held_out_per_class` of those that are left, to tune on, where it has no images for that. The natural profile
    takes all others; `exponential`, `step` and `pareto` thin them out, the largest class first.
    """
    readers = {
        "imagenet_lt": read_imagenet,
        "places_lt": read_places,
        "folder": read_folder,
        "hub": read_hub,
        "digits": read_digits,
    }
    source = readers[cfg.dataset](cfg)
    names, train, test = source.class_names, source.train, source.test
    if len(names) < 2:
        raise ValueError(f"{source.name} must have at least two classes, but has {len(names)}: {', '.join(names)}.")
    if cfg.stream and cfg.profile != "natural":
        raise ValueError(f"`stream` takes every image there is, but `profile` is {cfg.profile}. Leave one of them out.")
    if cfg.stream and test is None:
        raise ValueError(
            f"{source.name} has no split to test on, and a stream holds no images out. Name one with `--test_split`, "
            "or leave out `--stream`."
        )
    if test is None:
        train, test = split_off(train, hold_out(cfg, train.labels, names))
    val = source.val
    if cfg.held_out_per_class:
        if val is not None or cfg.stream:
            reason = "a stream holds no images out" if cfg.stream else f"{source.name} has images to tune on"
            raise ValueError(f"`held_out_per_class` is {cfg.held_out_per_class}, but {reason}. Leave it out.")
        train, val = split_off(train, hold_out(cfg, train.labels, names, "held_out_per_class"))
    available = ltaug.class_counts(train.labels, len(names))
    counts = ltaug.profile_counts(cfg.profile, available, cfg.imbalance_ratio, names, unit="images")
    if cfg.profile == "natural":
        indices = torch.arange(len(train.labels))
    else:
        indices = ltaug.subsample(train.labels, counts, seed=cfg.data_seed)
    if cfg.stream:
        from streaming import StreamSet  # which imports this module

        images = StreamSet(train, cfg.stream_buffer)
    else:
        images = ImageSet(train.take(indices))
    return Data(
        images, ImageSet(test), ImageSet(val) if val is not None else None, names, counts, ltaug.index_hash(indices)
    )


def facts(data: Data) -> dict[str, Any]:
    """By what the data of a run are known again: resuming it, or evaluating it, on others would spoil it unseen."""
    return {
        "class_names": data.class_names,
        "class_counts": data.class_counts,
        "training_indices": data.index_hash,
        "test_labels": ltaug.index_hash(data.test.labels),
    }


def describe(data: Data) -> str:
    """What is in the set, in a line."""
    counts = data.class_counts
    groups = ", ".join(f"{int(group.sum())} {name}" for name, group in ltaug.shot_groups(counts).items())
    val = f", {len(data.val)} validation images" if data.val else ""
    untested = int((ltaug.class_counts(data.test.labels, len(counts)) == 0).sum())
    none = f", none of {untested} classes" if untested else ""
    return (
        f"{len(data.train)} training images of {len(counts)} classes ({int(counts.max())} to {int(counts.min())} a "
        f"class; {groups}), {len(data.test)} test images{none}{val} (subset {data.index_hash[:12]})"
    )


def split_off(part: Part, indices: Tensor) -> tuple[Part, Part]:
    """The images of all other indices, and of these."""
    rest = torch.ones(len(part.labels), dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]
    return part.take(rest), part.take(indices)


def hold_out(cfg: Config, labels: Tensor, names: list[str], setting: str = "test_per_class") -> Tensor:
    """Indices of as many images of every class as a setting says."""
    available, wanted = ltaug.class_counts(labels, len(names)), getattr(cfg, setting)
    if wanted < 1:
        raise ValueError(f"`{setting}` must be at least 1, but is {wanted}.")
    if (short := (available < wanted + 1).nonzero()[:, 0]).numel():
        k = int(short[0])
        raise ValueError(
            f"`{setting}`={wanted} and a training image need {wanted + 1} images of every class, but class {k} "
            f"({names[k]}) has {int(available[k])} ({len(short)} of {len(names)} classes are too small). Lower it, "
            "or add images."
        )
    return ltaug.subsample(labels, [wanted] * len(names), seed=cfg.data_seed)


class Files:
    """Opens files below a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def __call__(self, row: int, name: str) -> Image.Image:
        """Open a file by its name."""
        return Image.open(os.path.join(self.root, name))


class Rows:
    """Opens images of a data set of the hub's kind."""

    def __init__(self, rows, column: str) -> None:
        self.rows, self.column = rows, column
        self.images = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"images": None}  # pickled it would be the bytes of all images

    def __call__(self, row: int, name: str) -> Image.Image:
        """Open an image that a row holds, as its bytes or its path."""
        if self.images is None:
            self.images = column_of(self.rows, self.column)
        return open_stored(self.images[row].as_py())


def open_stored(file: dict | None) -> Image.Image:
    """Open an image that is stored as its bytes or its path."""
    file = file or {"bytes": None, "path": None}
    if not (file["bytes"] or file["path"]):
        raise ValueError("there is none")
    return Image.open(io.BytesIO(file["bytes"]) if file["bytes"] else file["path"])


def read_imagenet(cfg: Config) -> Source:
    """ImageNet-LT: the images of the official lists, from the hub, local parquet files or a local folder tree.

    Training and validation images are from ImageNet's training split, test images from its validation split.
    """
    lists = read_lists(IMAGENET_LT, cfg.list_dir)
    folders = class_folders(lists["train"])
    wnids = [folder.rpartition("/")[2] for folder in folders]
    for each in lists.values():  # no two of them disagree about what a class is
        for path, label in zip(each.paths, each.labels.tolist(), strict=True):
            if path.split("/")[-2:-1] != [wnids[label]]:
                raise ValueError(
                    f"{each.name} has {path!r} in class {label}, which is {wnids[label]} in {lists['train'].name}."
                )
    root = Path(cfg.data_dir) if cfg.data_dir else None
    if root and (root / "train").is_dir() and not any((root / "train").glob("*.parquet")):
        if not (root / "val" / wnids[0]).is_dir():  # as its archive unpacks
            for each in lists.values():
                each.paths = [
                    f"val/{path.rpartition('/')[2]}" if path.startswith("val/") else path for path in each.paths
                ]
        return from_tree(cfg, IMAGENET_LT.name, lists, wnids)
    return from_rows(cfg, lists, wnids)


def read_places(cfg: Config) -> Source:
    """Places-LT: the images of the official lists, from a local folder tree.

    The downloaded lists have the paths of Places365-Standard's small images in the "easy directory structure" (train/,
    val/); for another tree give lists of its paths with `list_dir`.
    """
    lists = read_lists(PLACES_LT, cfg.list_dir)
    folders = class_folders(lists["train"])
    shared = os.path.commonpath(folders)
    return from_tree(cfg, PLACES_LT.name, lists, [folder[len(shared) :].strip("/") or folder for folder in folders])


def class_folders(images: ImageList) -> list[str]:
    """The folder of the first image of each class."""
    first = dict(zip(reversed(images.labels.tolist()), reversed(images.paths), strict=True))
    return [first[k].rpartition("/")[0] for k in range(len(first))]


def need_folder(cfg: Config, what: str) -> Path:
    """`data_dir`, which must be there."""
    if not cfg.data_dir:
        raise ValueError(f"`--dataset {cfg.dataset}` needs `--data_dir`, {what}.")
    if not Path(cfg.data_dir).is_dir():
        raise ValueError(f"`data_dir` {cfg.data_dir!r} is no folder.")
    return Path(cfg.data_dir)


def from_tree(cfg: Config, name: str, lists: dict[str, ImageList], class_names: list[str]) -> Source:
    """The images of lists in a folder tree, all of which must be there."""
    root = need_folder(cfg, f"the folder that the paths of {name} start from")
    parts = {}
    for part, each in lists.items():
        by_folder: dict[str, list[int]] = {}
        for k, path in enumerate(each.paths):
            by_folder.setdefault(path.rpartition("/")[0], []).append(k)
        found = np.zeros(len(each.paths), dtype=bool)
        for folder, members in by_folder.items():  # a look at each folder takes less time than one at each file
            try:
                there = set(os.listdir(root / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            found[members] = [each.paths[k].rpartition("/")[2] in there for k in members]
        refuse_missing(each, found, class_names, f"`data_dir` {cfg.data_dir!r}")
        parts[part] = Part(each.labels, Names(each.paths), torch.arange(len(found)), Files(root))
    return Source(name, class_names, **parts)


def from_rows(cfg: Config, lists: dict[str, ImageList], wnids: list[str]) -> Source:
    """The images of ImageNet-LT's lists among the rows of ImageNet, matched by name; nothing is decoded.

    The hub has train/n01440764/n01440764_190.JPEG as n01440764_190_n01440764.JPEG in its training split.
    """
    import pyarrow
    import pyarrow.compute

    splits, source = load_splits(cfg, IMAGENET, "folders train/ and val/ of images")
    parts, class_names = {}, wnids
    for part, each in lists.items():
        split = "train" if each.paths[0].startswith("train/") else "validation"
        check_split(splits, split, source)
        rows = checked_columns(cfg, splits, split, source)
        images = undecoded(rows, cfg.image_column, source)
        wanted = [
            f"{name.rpartition('.')[0]}_{wnids[label]}.JPEG"
            for name, label in zip((path.rpartition("/")[2] for path in each.paths), each.labels.tolist(), strict=True)
        ]
        names = stored_names(images, cfg.image_column)
        places = pyarrow.compute.index_in(names, value_set=pyarrow.array(wanted)).fill_null(-1).to_numpy()
        row_of = np.full(len(wanted), -1)
        row_of[places[places >= 0]] = np.flatnonzero(places >= 0)
        refuse_missing(each, row_of >= 0, wnids, f"the {split} split of {source!r}", f"such as {names[0].as_py()!r}")
        labels = read_labels(rows, split, cfg.label_column, source)[row_of]
        pairs = each.labels * (labels.max() + 2) + labels + 1  # the most frequent of their labels is the class's
        theirs = pairs.bincount(minlength=len(wnids) * int(labels.max() + 2)).view(len(wnids), -1).argmax(1) - 1
        if len(odd := (theirs[each.labels] != labels).nonzero()[:, 0]):
            raise ValueError(
                f"{source!r} has {len(odd)} images of its {split} split in other classes than the others of their "
                f"class in {each.name}: {first_ten(each.paths[k] for k in odd.tolist())}."
            )
        if part == "train" and (known := getattr(rows.features[cfg.label_column], "names", None)):
            class_names = [known[k] for k in theirs.tolist()]
        parts[part] = Part(each.labels, Names(each.paths), torch.from_numpy(row_of), Rows(images, cfg.image_column))
    return Source(IMAGENET_LT.name, class_names, **parts)


def refuse_missing(each: ImageList, found: np.ndarray, class_names: list[str], where: str, has: str = "") -> None:
    """Refuse a set that lacks images of a list."""
    if found.all():
        return
    missing = torch.from_numpy(~found)
    size = len(class_names)
    listed, there = ltaug.class_counts(each.labels, size), ltaug.class_counts(each.labels[~missing], size)
    lost = [f"{k} ({class_names[k]})" for k in ((listed > 0) & (there == 0)).nonzero()[:, 0].tolist()]
    classes = f", among them all images of class {first_ten(lost)}" if lost else ""
    kind = f" It has other names, {has}." if has and not found.any() else ""
    raise ValueError(
        f"{where[0].upper() + where[1:]} and {each.name} disagree: {int(missing.sum())} of {len(found)} images are "
        f"not there{classes}. The first are {first_ten(each.paths[k] for k in missing.nonzero()[:, 0].tolist())}.{kind}"
    )


def read_folder(cfg: Config) -> Source:
    """Images in a folder a class, or in folders below it, and those in folders train and test (or val, valid,
    validation; with test, these are the images to tune on).

    Hidden files and files that are no images are passed over.
    """
    root = need_folder(cfg, "a folder with a folder of images for each class, or with such folders train and test")
    folders = subfolders(root)
    splits = [split for split in ("train", *TEST_SPLITS) if split in folders]
    # A class may be called train, too; then the folder has images, and no folders of classes.
    if "train" not in splits or not any(entry.is_dir() for entry in os.scandir(root / "train")):
        labels, names = scan(root, folders)
        part = Part(labels, names, torch.arange(len(labels)), Files(root))
        return Source(f"`data_dir` {cfg.data_dir!r}", folders, part)
    if other := sorted(set(folders) - set(splits[:3])):
        raise ValueError(
            f"`data_dir` {cfg.data_dir!r} has a folder train, so its folders are taken for splits, train, test and one "
            f"of {', '.join(TEST_SPLITS[1:])}; but it also has {first_ten(other)}. Move it away, or, if train is a "
            "class, put all classes into one more folder called train."
        )
    classes = subfolders(root / "train")
    parts = []
    for split in splits:
        if unknown := sorted(set(subfolders(root / split)) - set(classes)):
            raise ValueError(
                f"`{root / split}` has folders that `{root / 'train'}` has not: {first_ten(unknown)}. Both must have "
                "the same classes."
            )
        labels, names = scan(root / split, classes)
        parts.append(Part(labels, names, torch.arange(len(labels)), Files(root / split)))
    return Source(f"`data_dir` {cfg.data_dir!r}", classes, *parts)


def subfolders(root: Path) -> list[str]:
    """The names of the folders in a folder."""
    with os.scandir(root) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"`{root}` has no folders. Make one for each class, and put its images there.")
    return found


def scan(root: Path, classes: list[str]) -> tuple[Tensor, Names]:
    """The images in the folders of some classes, those that are there, in the order of their names."""
    paths: list[str] = []
    sizes = []
    for name in classes:
        if not (root / name).is_dir():
            sizes.append(0)
            continue
        found, folders = [], [name]
        while folders:
            folder = folders.pop()
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(f"{folder}/{entry.name}")
                    elif entry.name.lower().endswith(SUFFIXES):
                        found.append(f"{folder}/{entry.name}")
        if not found:
            raise ValueError(
                f"The folder of class {name!r} in `{root}` has no images ({', '.join(SUFFIXES)}). Remove it, or fill "
                "it."
            )
        paths += sorted(found)
        sizes.append(len(found))
    return torch.arange(len(classes)).repeat_interleave(torch.tensor(sizes)), Names(paths)


def read_hub(cfg: Config) -> Source:
    """A data set of the hub or local parquet files, with a column of images and one of class indices."""
    if not (cfg.hub_id or cfg.data_dir):
        raise ValueError(
            "`--dataset hub` needs `--hub_id`, a data set of the hub, or `--data_dir`, a folder of parquet files."
        )
    splits, source = load_splits(cfg, cfg.hub_id, "folders of images with `--dataset folder`")
    test_split = choose_test_split(cfg, splits)
    if test_split == cfg.train_split:
        raise ValueError(f"`test_split` must not be the training split, {test_split!r}.")
    if cfg.stream:
        from streaming import Shards  # which imports this module
    parts: list[Part] = []
    names: list[str] = []
    others = [split for split in TEST_SPLITS[1:] if split in splits and split not in (test_split, cfg.train_split)]
    tuning = others[:1] if test_split and not cfg.stream else []
    wanted = [("train_split", cfg.train_split), *(("test_split", split) for split in [test_split, *tuning] if split)]
    for setting, split in wanted:
        streamed = cfg.stream and split == cfg.train_split
        check_split(splits, split, source, f"Name the right one with `--{setting}`; a")
        if streamed:
            try:
                rows = Shards(*splits[split], split, cfg.image_column, cfg.label_column, source)
            except OSError as error:
                raise unreachable(source, error) from error
            labels = rows.labels
        else:
            rows = checked_columns(cfg, splits, split, source)
            labels = read_labels(rows, split, cfg.label_column, source)
        if not names:
            known = getattr(rows.features[cfg.label_column], "names", None)
            names = list(known or map(str, range(int(labels.max()) + 1)))
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise ValueError(
                f"{source!r} must have labels in 0..{len(names) - 1}, its {len(names)} classes, but those of its "
                f"{split} split range from {int(labels.min())} to {int(labels.max())}. Name another column with "
                f"`--label_column`, or another split with `--{setting}`."
            )
        if streamed:
            parts.append(Part(labels, Names([]), torch.empty(0), rows))
            continue
        images = undecoded(rows, cfg.image_column, source)
        files = (name or f"{split} {k}" for k, name in enumerate(stored_names(images, cfg.image_column).to_pylist()))
        parts.append(Part(labels, Names(files), torch.arange(len(labels)), Rows(images, cfg.image_column)))
    return Source(repr(source), names, *parts)


def choose_test_split(cfg: Config, splits: Collection[str]) -> str | None:
    """The name of the split to test on, or None."""
    return cfg.test_split or next((split for split in TEST_SPLITS if split in splits), None)


def load_splits(cfg: Config, hub_id: str | None, otherwise: str):
    """The splits of `data_dir`, if there is one, or of a data set of the hub; and what it is called."""
    from datasets import load_dataset

    source = cfg.data_dir or hub_id
    if cfg.data_dir and not Path(cfg.data_dir).is_dir():
        hint = f" Leave it out to read {hub_id} from the hub." if hub_id else ""
        raise ValueError(f"`data_dir` {cfg.data_dir!r} is no folder.{hint}")
    try:
        return stream_splits(cfg, source) if cfg.stream else load_dataset(source), source
    except Exception as error:  # the hub client and the file readers raise many types
        if cfg.data_dir:
            raise ValueError(
                f"`data_dir` {cfg.data_dir!r} cannot be read as a data set: {error}. It must hold parquet files, or "
                f"{otherwise}."
            ) from error
        raise unreachable(source, error) from error


def unreachable(source: str, error: Exception) -> ConnectionError:
    """What to do where a data set of the hub cannot be read."""
    if "gated" in f"{type(error).__name__} {error}".lower():
        return ConnectionError(
            f"The data set {source!r} is open to those only who have accepted its terms. Accept them at "
            f"https://huggingface.co/datasets/{source}, then log in with `hf auth login` or set HF_TOKEN; or read "
            "a local copy with `--data_dir FOLDER`."
        )
    return ConnectionError(
        f"The data set {source!r} could not be loaded from the hub ({type(error).__name__}: {error}). Offline "
        "ways: `--data_dir FOLDER` with parquet files of the same columns, a cache filled earlier (set "
        "HF_HUB_OFFLINE=1), or `--dataset digits`, which needs no files."
    )


def stream_splits(cfg: Config, source: str) -> dict[str, Any]:
    """The files of each split and what their columns are, none of them downloaded; the split to test on by index."""
    from datasets import load_dataset, load_dataset_builder

    builder = load_dataset_builder(source)
    files, features = builder.config.data_files, builder.info.features
    if other := [file for each in files.values() for file in each if not file.endswith(".parquet")]:
        raise ValueError(f"a stream reads parquet files only, but there is {other[0]}")
    splits: dict[str, Any] = {str(split): (list(map(str, each)), features) for split, each in files.items()}
    test_split = choose_test_split(cfg, splits)
    if test_split in splits and test_split != cfg.train_split:
        splits |= load_dataset("parquet", data_files={test_split: splits[test_split][0]}, features=features)
    return splits


def check_split(splits: Collection[str], split: str, source: str, hint: str = "A") -> None:
    """Refuse a split that is not there."""
    if split not in splits:
        raise ValueError(
            f"{source!r} has no split named {split!r}, but {', '.join(splits)}. {hint} folder's splits are told by its "
            f"file names: {split}-0.parquet."
        )


def checked_columns(cfg: Config, splits, split: str, source: str):
    """A split with the columns of images and labels."""
    for setting in ("image_column", "label_column"):
        if (column := getattr(cfg, setting)) not in splits[split].column_names:
            raise ValueError(
                f"{source!r} has no column {column!r} in its {split} split, but "
                f"{', '.join(splits[split].column_names)}. Name the right one with `--{setting}`."
            )
    return splits[split]


def column_of(rows, column: str):
    """A column as it is stored, without a look at the others."""
    return rows.select_columns([column]).with_format("arrow")[:].column(column)


def read_labels(rows, split: str, column: str, source: str) -> Tensor:
    """The class indices of a split, int64 [N]."""
    if not len(rows):
        raise ValueError(f"{source!r} has an empty {split} split. Put images into it.")
    return torch.from_numpy(checked_labels(column_of(rows, column), f"its {split} split", column, source))


def checked_labels(labels, where: str, column: str, source: str) -> np.ndarray:
    """A column of class indices, int64 [N]."""
    import pyarrow

    if not pyarrow.types.is_integer(labels.type) or labels.null_count:
        k = int(np.flatnonzero(labels.is_null())[0]) if pyarrow.types.is_integer(labels.type) else 0
        kind = "a picture" if pyarrow.types.is_nested(labels.type) else repr(labels[k].as_py())[:80]
        raise ValueError(
            f"{source!r} must hold class indices in {column!r}, but image {k} of {where} has {kind}. Name another "
            "column with `--label_column`."
        )
    return labels.to_numpy().astype(np.int64)


def undecoded(rows, column: str, source: str):
    """A split whose images come as bytes and paths."""
    from datasets import Image as ImageFeature

    try:
        return rows.cast_column(column, ImageFeature(decode=False))
    except Exception as error:  # of many types, from the depths of pyarrow
        raise ValueError(
            f"{source!r} must hold images in {column!r}, but holds {rows.features[column]}. Name another column with "
            "`--image_column`."
        ) from error


def stored_names(rows, column: str):
    """The file names that are stored beside the images, whose bytes are not read."""
    import pyarrow.compute

    return pyarrow.compute.struct_field(column_of(rows, column), "path")


class Pixels:
    """Opens small grey images as larger ones in colour."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __call__(self, row: int, name: str) -> Image.Image:
        """Enlarge an image."""
        return Image.fromarray(self.pixels[row]).resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)


def read_digits(cfg: Config) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 64x64, with a balanced test set held out.

    With `test_per_class` 60 they are the training and test images of the recipe cifar_lt.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    labels, names = torch.from_numpy(labels).long(), [str(k) for k in range(10)]
    files = Names(f"digit {k}" for k in range(len(labels)))
    opener = Pixels((pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
    part = Part(labels, files, torch.arange(len(labels)), opener)
    test = hold_out(cfg, labels, names)
    # Every class ends up with as many training images as the smallest has, so that class 0 can be the largest.
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    size = int(ltaug.class_counts(labels[rest]).min())
    rest = rest[ltaug.subsample(labels[rest], [size] * 10, seed=cfg.data_seed)]
    return Source("The digits", names, part.take(rest), part.take(test))
