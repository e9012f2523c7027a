"""The data: CIFAR from the hub or a local folder of the same columns, or scikit-learn's digits; made long-tailed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import Config
from torch import Tensor

import ltaug

HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
# The usual statistics of the pixels, of CIFAR-10 for both, as the released codes have them.
CIFAR_MEAN, CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
LEFT_OVER_PER_CLASS = 100
"""At most so many of what the long-tailed part leaves over are for tuning."""


@dataclass
class Data:
    """A long-tailed training set and a balanced test set, whole in memory."""

    train_images: Tensor
    """uint8 [N, H, W, C]; empty if they are not asked for."""
    train_labels: Tensor
    """int64 [N]."""
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]
    class_counts: Tensor
    """Training samples a class, int64 [C]."""
    index_hash: str
    """SHA-256 of the indices of the training samples in the full set: equal hashes are equal subsets."""
    mean: list[float]
    """Per channel, of pixels in 0..1."""
    std: list[float]
    held_out_images: Tensor = field(default_factory=lambda: torch.empty(0))
    """Samples of the training split that are not trained on, like the others; none unless asked for."""
    held_out_labels: Tensor = field(default_factory=lambda: torch.empty(0))


def load_data(cfg: Config, *, train_images: bool = True, held_out: bool = False) -> Data:
    """Read the data set of a config and take its long-tailed part.

    Args:
        cfg: the config.
        train_images: whether to read them; their labels come along in any case.
        held_out: whether samples to tune on come along: `held_out_per_class` of each class, taken off before the set is
            made long-tailed; if that is 0, up to 100 of each class of what the long-tailed part leaves over, which are
            none of a class that it takes whole.
    """
    load = load_digits if cfg.dataset == "digits" else load_cifar
    read_train_images, labels, test_images, test_labels, names = load(cfg)
    num_classes = len(names)
    kept = set_aside(cfg, labels, names)
    rest = all_but(kept, len(labels))
    available = ltaug.class_counts(labels[rest], num_classes)
    counts = ltaug.profile_counts(
        cfg.profile,
        available,
        cfg.imbalance_ratio,
        names,
        otherwise="leave out the subsampling in data.py if the set is long-tailed by nature",
    )
    indices = rest[ltaug.subsample(labels[rest], counts, seed=cfg.data_seed)]
    if held_out and not cfg.held_out_per_class:
        left = all_but(indices, len(labels))
        sizes = ltaug.class_counts(labels[left], num_classes).clamp(max=LEFT_OVER_PER_CLASS)
        kept = left[ltaug.subsample(labels[left], sizes, seed=cfg.data_seed)] if sizes.any() else left[:0]
    if not held_out:
        kept = kept[:0]
    if cfg.dataset == "digits":
        pixels = read_train_images(indices).double() / 255
        mean, std = pixels.mean((0, 1, 2)).tolist(), pixels.std((0, 1, 2)).tolist()
    else:
        mean, std = CIFAR_MEAN, CIFAR_STD
    return Data(
        read_train_images(indices if train_images else indices[:0]),
        labels[indices],
        test_images,
        test_labels,
        names,
        counts,
        ltaug.index_hash(indices),
        mean,
        std,
        read_train_images(kept),
        labels[kept],
    )


def facts(data: Data) -> dict[str, Any]:
    """By what the data of a run are known again: resuming it, or evaluating it, on others would spoil it unseen."""
    return {
        "class_names": data.class_names,
        "class_counts": data.class_counts,
        "training_indices": data.index_hash,
        "test_labels": ltaug.index_hash(data.test_labels),
    }


def held_out_note(data: Data, held_out_per_class: int) -> str:
    """What was tuned on, for whoever reads the numbers."""
    if held_out_per_class:
        return (
            f"{len(data.held_out_labels)} samples of the training split that training did not use "
            f"(`held_out_per_class`: {held_out_per_class} of each of the {len(data.class_counts)} classes)"
        )
    counts = ltaug.class_counts(data.held_out_labels, len(data.class_counts))
    classes = int((counts > 0).sum())
    blind = [name for name, count in zip(data.class_names, counts.tolist(), strict=True) if not count]
    # Such a class loses unseen what the others gain: a searched strength comes out too large.
    warning = f"; none of {', '.join(blind[:3])}, whose errors a searched strength does not see" if blind else ""
    return (
        f"{len(data.held_out_labels)} samples of the training split that training did not use ({classes} of "
        f"{len(data.class_counts)} classes, up to {LEFT_OVER_PER_CLASS} each{warning})"
    )


def set_aside(cfg: Config, labels: Tensor, names: list[str]) -> Tensor:
    """Indices of the samples that `held_out_per_class` keeps from training."""
    if not cfg.held_out_per_class:
        return torch.empty(0, dtype=torch.long)
    available = ltaug.class_counts(labels, len(names))
    least = int(available.argmin())
    if int(available[least]) <= cfg.held_out_per_class:
        raise ValueError(
            f"`held_out_per_class`={cfg.held_out_per_class} leaves nothing to train on of class {least} "
            f"({names[least]}), which has {int(available[least])} samples. Lower it."
        )
    return ltaug.subsample(labels, [cfg.held_out_per_class] * len(names), seed=cfg.data_seed)


def all_but(indices: Tensor, size: int) -> Tensor:
    """The other indices of a set, in order."""
    return torch.ones(size, dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]


Split = tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor, list[str]]
"""A function that reads the training images of some indices, training labels, test images, test labels, class names."""


def load_cifar(cfg: Config) -> Split:
    """Train and test split, from `data_dir` or from the hub; only the training images asked for are decoded."""
    from datasets import load_dataset

    source = cfg.data_dir or HUB[cfg.dataset]
    if cfg.data_dir and not Path(cfg.data_dir).is_dir():
        raise ValueError(
            f"`data_dir` {cfg.data_dir!r} is no folder. Leave it out to read {HUB[cfg.dataset]} from the hub."
        )
    try:
        splits = load_dataset(source)
    except Exception as error:  # the hub client and the file readers raise many types
        if cfg.data_dir:
            raise ValueError(f"`data_dir` {cfg.data_dir!r} cannot be read as a data set: {error}") from error
        raise ConnectionError(
            f"The data set {source!r} could not be loaded from the hub ({type(error).__name__}: {error}). Offline "
            "ways: `--data_dir FOLDER` with parquet files of the same columns, a cache filled earlier (set "
            "HF_HUB_OFFLINE=1), or `--dataset digits`, which needs no files."
        ) from error
    label_column = cfg.label_column or ("fine_label" if cfg.dataset == "cifar100" else "label")
    for split in ("train", "test"):
        if split not in splits:
            raise ValueError(
                f"{source!r} must have a split named {split!r}, but has {', '.join(splits)}. "
                f"A folder's splits are told by its file names: {split}-0.parquet."
            )
        for setting, column in (("image_column", cfg.image_column), ("label_column", label_column)):
            if column not in splits[split].column_names:
                raise ValueError(
                    f"{source!r} has no column {column!r} in its {split} split, but "
                    f"{', '.join(splits[split].column_names)}. "
                    f"Name the right one with `--{setting}`."
                )
    train_labels, test_labels = (read_labels(splits[split], label_column, source) for split in ("train", "test"))
    names = getattr(splits["train"].features[label_column], "names", None)
    names = names or [str(k) for k in range(int(train_labels.max()) + 1)]
    for split, labels in (("train", train_labels), ("test", test_labels)):
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise ValueError(
                f"{source!r} must have labels in 0..{len(names) - 1}, its {len(names)} classes, but those of its "
                f"{split} split range from {int(labels.min())} to {int(labels.max())}. Name another column with "
                "`--label_column`."
            )

    def read_train_images(indices: Tensor) -> Tensor:
        return decode(splits["train"].select(indices.tolist()), cfg.image_column, source)

    test_images = decode(splits["test"], cfg.image_column, source)
    return read_train_images, train_labels, test_images, test_labels, list(names)


def read_labels(split, column: str, source: str) -> Tensor:
    """The class indices of a split, int64 [N]."""
    labels = split[column][:]
    if not labels:
        raise ValueError(f"{source!r} has an empty {split.split} split. Put samples into it.")
    for k, label in enumerate(labels):
        if not isinstance(label, int):
            raise ValueError(
                f"{source!r} must hold class indices in {column!r}, but sample {k} of its {split.split} split has "
                f"{label!r}. Name another column with `--label_column`."
            )
    return torch.tensor(labels)


def decode(split, column: str, source: str) -> Tensor:
    """All images of a split as one uint8 tensor [N, H, W, 3]."""
    from datasets import Image

    if not isinstance(split.features[column], Image):  # other tools do not note down that these are images
        try:
            split = split.cast_column(column, Image())
        except Exception as error:  # of many types, from the depths of pyarrow
            raise ValueError(
                f"{source!r} must hold images in {column!r}, but holds {split.features[column]}. Name another column "
                "with `--image_column`."
            ) from error
    images = torch.empty(0)
    rows = iter(split[column])
    for k in range(len(split)):
        try:
            array = np.array(next(rows).convert("RGB"))
        except (OSError, AttributeError) as error:  # a missing image is None
            raise ValueError(
                f"{source!r}: image {k} in {column!r} cannot be read ({error}). Mend or drop it."
            ) from error
        if k == 0:
            images = torch.empty((len(split), *array.shape), dtype=torch.uint8)
        if array.shape != images.shape[1:]:
            raise ValueError(
                f"{source!r}: image {k} is {array.shape[1]}x{array.shape[0]}, the first is "
                f"{images.shape[2]}x{images.shape[1]}. This recipe holds the set in one tensor and needs one size."
            )
        images[k] = torch.from_numpy(array)
    return images


def load_digits(cfg: Config, test_per_class: int = 60) -> Split:
    """scikit-learn's 1,797 handwritten digits at 16x16, with a balanced test set split off."""
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    images = torch.from_numpy((pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8))
    images = images.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    labels = torch.from_numpy(labels).long()
    test = ltaug.subsample(labels, [test_per_class] * 10, seed=cfg.data_seed)
    # Every class ends up with as many training samples as the smallest has, so that class 0 can be the largest.
    rest = all_but(test, len(labels))
    size = int(ltaug.class_counts(labels[rest]).min())
    rest = rest[ltaug.subsample(labels[rest], [size] * 10, seed=cfg.data_seed)]
    return images[rest].__getitem__, labels[rest], images[test], labels[test], [str(k) for k in range(10)]
