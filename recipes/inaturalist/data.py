"""The data: iNaturalist 2018 by its official lists, any set that JSON files of COCO's kind list, a folder, or digits.

Labels are known without decoding an image; images are read and decoded when they are asked for.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import Config
from lists import INATURALIST, ImageList, first_ten, read_inaturalist, read_json
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

import ltaug

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
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
    """From a row and a name to an image; worker processes get it, too."""

    def take(self, indices: Tensor) -> "Part":
        """The images of some indices."""
        return Part(self.labels[indices], self.names.take(indices), self.rows[indices], self.open)


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

    train: ImageSet
    test: ImageSet
    val: ImageSet | None
    """Training images that are held out, to tune on."""
    class_names: list[str]
    class_counts: Tensor
    """Training images a class, int64 [C]."""
    index_hash: str
    """SHA-256 of the indices of the training images in the list they are taken from: of one list, equal hashes are
    equal subsets."""


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
    """Find the images of a config's data set, and keep `held_out_per_class` of each class away from the training."""
    readers = {"inaturalist2018": read_inat, "json": read_coco, "folder": read_folder, "digits": read_digits}
    names, train, test = readers[cfg.dataset](cfg)
    if len(names) < 2:
        raise ValueError(f"There must be at least two classes, but there is {len(names)}: {', '.join(names)}.")
    kept, held_out = hold_out(cfg, train.labels)
    val = ImageSet(train.take(held_out)) if len(held_out) else None
    counts = ltaug.class_counts(train.labels[kept], len(names))
    return Data(ImageSet(train.take(kept)), ImageSet(test), val, names, counts, ltaug.index_hash(kept))


def hold_out(cfg: Config, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on, of which every class keeps at least one, and of those to tune on."""
    counts = ltaug.class_counts(labels)
    kept = ltaug.subsample(labels, (counts - cfg.held_out_per_class).clamp(min=1), seed=cfg.data_seed)
    train = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, kept, True)
    return train.nonzero()[:, 0], (~train).nonzero()[:, 0]


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
    val = f", {len(data.val)} held-out images" if data.val else ""
    untested = int((ltaug.class_counts(data.test.labels, len(counts)) == 0).sum())
    none = f", none of {untested} classes" if untested else ""
    return (
        f"{len(data.train)} training images of {len(counts)} classes ({int(counts.max())} to {int(counts.min())} a "
        f"class; {groups}), {len(data.test)} test images{none}{val} (subset {data.index_hash[:12]})"
    )


class Files:
    """Opens files below a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def __call__(self, row: int, name: str) -> Image.Image:
        """Open a file by its name."""
        return Image.open(os.path.join(self.root, name))


Found = tuple[list[str], Part, Part]
"""Class names, training and test images."""


def read_inat(cfg: Config) -> Found:
    """iNaturalist 2018: the images of the official JSON files in a local folder tree."""
    root = need_folder(cfg, "the folder that has train_val2018/")
    return from_tree(cfg, *read_inaturalist(INATURALIST, cfg.list_dir, str(root)))


def read_coco(cfg: Config) -> Found:
    """The images of two JSON files in a local folder tree."""
    need_folder(cfg, "the folder that the file names in the JSON files start from")
    paths = {}
    for setting, part in (("train_json", "train"), ("test_json", "test")):
        if not (given := getattr(cfg, setting)):
            raise ValueError(f"`--dataset json` needs `--{setting}`, the file that lists its {part}ing images.")
        places = [path for path in (Path(given), Path(cfg.data_dir, given)) if path.is_file()]
        if not places:
            raise ValueError(f"`{setting}` {given!r} is no file, neither here nor in `data_dir`.")
        paths[part] = places[0]
    return from_tree(cfg, *read_json(paths))


def need_folder(cfg: Config, what: str) -> Path:
    """`data_dir`, which must be there."""
    if not cfg.data_dir:
        raise ValueError(f"`--dataset {cfg.dataset}` needs `--data_dir`, {what}.")
    if not Path(cfg.data_dir).is_dir():
        raise ValueError(f"`data_dir` {cfg.data_dir!r} is no folder.")
    return Path(cfg.data_dir)


def from_tree(cfg: Config, lists: dict[str, ImageList], class_names: list[str]) -> Found:
    """The images of lists in a folder tree, all of which must be there."""
    root, parts = Path(cfg.data_dir), []
    for each in (lists["train"], lists["test"]):
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
        parts.append(Part(each.labels, Names(each.paths), torch.arange(len(found)), Files(root)))
    return class_names, *parts


def refuse_missing(each: ImageList, found: np.ndarray, class_names: list[str], where: str) -> None:
    """Refuse a set that lacks images of a list."""
    if found.all():
        return
    missing = torch.from_numpy(~found)
    size = len(class_names)
    listed, there = ltaug.class_counts(each.labels, size), ltaug.class_counts(each.labels[~missing], size)
    lost = [f"{k} ({class_names[k]})" for k in ((listed > 0) & (there == 0)).nonzero()[:, 0].tolist()]
    classes = f", among them all images of class {first_ten(lost)}" if lost else ""
    raise ValueError(
        f"{where[0].upper() + where[1:]} and {each.name} disagree: {int(missing.sum())} of {len(found)} images are "
        f"not there{classes}. The first are {first_ten(each.paths[k] for k in missing.nonzero()[:, 0].tolist())}."
    )


def read_folder(cfg: Config) -> Found:
    """Images in folders train/CLASS and test/CLASS (or val/CLASS), or in folders below these.

    Hidden files and files that are no images are passed over.
    """
    root = need_folder(cfg, "a folder with folders train/CLASS and test/CLASS of images")
    test = next((split for split in ("test", "val") if (root / split).is_dir()), None)
    if test is None or not (root / "train").is_dir():
        raise ValueError(f"`data_dir` {cfg.data_dir!r} must have a folder train, and one called test or val.")
    classes = subfolders(root / "train")
    if unknown := sorted(set(subfolders(root / test)) - set(classes)):
        raise ValueError(
            f"`{root / test}` has folders that `{root / 'train'}` has not: {first_ten(unknown)}. Both must have the "
            "same classes."
        )
    parts = []
    for split in ("train", test):
        labels, names = scan(root / split, classes)
        parts.append(Part(labels, names, torch.arange(len(labels)), Files(root / split)))
    return classes, *parts


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


class Pixels:
    """Opens small grey images as larger ones in colour."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __call__(self, row: int, name: str) -> Image.Image:
        """Enlarge an image."""
        return Image.fromarray(self.pixels[row]).resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR)


def read_digits(cfg: Config) -> Found:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 64x64: 60 of each to test on, the others made
    long-tailed, 114 of class 0 to 2 of class 9."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    labels, names = torch.from_numpy(labels).long(), [str(k) for k in range(10)]
    files = Names(f"digit {k}" for k in range(len(labels)))
    opener = Pixels((pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
    part = Part(labels, files, torch.arange(len(labels)), opener)
    test = ltaug.subsample(labels, [60] * 10)
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    size = int(ltaug.class_counts(labels[rest]).min())
    counts = ltaug.exponential_counts(size, 10, imbalance_ratio=50)
    return names, part.take(rest[ltaug.subsample(labels[rest], counts)]), part.take(test)
