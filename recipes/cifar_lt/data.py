"""CIFAR from the hub or a folder of its parquet files, or scikit-learn's digits, made long-tailed and held in memory.

To train on something else, write another `read_splits`: nothing below it knows what a sample is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import ltaug
from ltaug import ResidentLoader
from ltaug.commandline import NonNegativeInt, Ratio
from ltaug.errors import UserError
from ltaug.loaders.folders import source_name
from ltaug.loaders.sharing import SharedData, share_pixels
from ltaug.loaders.tables import hold_out, thin_out
from ltaug.run import content_hash
from ltaug.vision import read_digits, read_small_images

HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
# The usual statistics of the pixels, of CIFAR-10 for both, as the released codes have them.
CIFAR_MEAN, CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
LEFT_OUT_PER_CLASS = 100
"""Upper limit of left-out samples per class used for tuning corrections."""


@dataclass
class DataSettings:
    """What can be said of the data."""

    dataset: Literal["cifar10", "cifar100", "digits"] = "cifar100"
    """From the hub, or from `data_dir`; the digits come with scikit-learn and need no files."""
    hub_id: str | None = None
    """OWNER/NAME on the hub, read instead of CIFAR's own, with its columns: such as a subset of `ltaug push-data`."""
    data_dir: str | None = None
    """Local folder with the hub's columns, read instead of the hub."""
    allow_outside: bool = False
    """Read images outside of `data_dir`, too, where a table in it names such: only if you trust its author."""
    image_column: str = "img"
    """Column of the images."""
    label_column: str | None = None
    """Column of the labels; by default fine_label for cifar100, label otherwise."""
    profile: Literal["exponential", "step", "pareto", "natural"] = "exponential"
    """How the class sizes fall; natural takes every sample."""
    imbalance_ratio: Ratio = 100.0
    """Size of the largest class over the smallest; 1 is balanced."""
    data_seed: NonNegativeInt = 0
    """Which samples of each class are kept; 0 everywhere in the literature."""
    held_out_per_class: NonNegativeInt = 0
    """Training samples of each class reserved for tuning corrections. With 0, as published, the samples that the
    long-tailed subset leaves out are used instead."""
    crop_padding: NonNegativeInt = 4
    """Pixels of padding for the random crop."""
    flip: bool = True
    """Mirror at random."""

    @property
    def data_name(self) -> str:
        """Name of the data in run folders."""
        name = source_name(None, self.hub_id, self.dataset)
        profile = "" if self.profile == "exponential" else f"_{self.profile}"
        return name if self.profile == "natural" else f"{name}{profile}_ir{self.imbalance_ratio:g}"

    @property
    def columns(self) -> tuple[str, str]:
        """Columns of images and labels."""
        return self.image_column, self.label_column or ("fine_label" if self.dataset == "cifar100" else "label")


@dataclass
class Splits:
    """What there is before anything is made long-tailed."""

    inputs: Callable[[Tensor], Tensor]
    """Training inputs of some indices: uint8 images [N, H, W, C], or float [N, ...] as the network takes them."""
    labels: Tensor
    """Of all training samples, int64 [N]."""
    test_inputs: Tensor
    test_labels: Tensor
    class_names: list[str]
    mean: list[float] | None = None
    """Per channel, of pixels in 0..1; None: that of the training images."""
    std: list[float] | None = None
    places: Tensor | None = None
    """Of the training samples in a full set that they are a subset of, int64 [N]."""
    held_out: tuple[Tensor, Tensor] | None = None
    """Inputs and labels of a validation split, to tune corrections on."""


def read_splits(cfg: Any) -> Splits:
    """Read training and test samples; CIFAR's training images are decoded only when they are asked for."""
    if cfg.dataset == "digits":
        digits = read_digits(seed=cfg.data_seed)
        return Splits(
            lambda indices: digits.images(digits.train[indices]),
            digits.labels[digits.train],
            digits.images(digits.test),
            digits.labels[digits.test],
            [str(k) for k in range(10)],
        )
    image_column, label_column = cfg.columns
    splits, names = read_small_images(
        cfg.hub_id or HUB[cfg.dataset],
        cfg.data_dir,
        image_column=image_column,
        label_column=label_column,
        optional=("validation",),
        allow_outside=cfg.allow_outside,
    )
    train, test, tuning = splits["train"], splits["test"], splits.get("validation")
    held_out = None if tuning is None else (tuning.images(), tuning.labels)
    found = (train.images, train.labels, test.images(), test.labels, names, CIFAR_MEAN, CIFAR_STD)
    return Splits(*found, train.places, held_out)


@dataclass
class Data:
    """A long-tailed training set, the test set, and samples to tune corrections on, in memory."""

    inputs: dict[str, Tensor]
    """Of the splits train, test and perhaps held_out."""
    labels: dict[str, Tensor]
    """int64 [N], likewise."""
    class_names: list[str]
    index_hash: str
    """SHA-256 of the training samples' indices in the full set: equal hashes are equal subsets."""
    preprocessing: dict[str, Any]
    """What a test image goes through: plain values, kept beside the weights; of other samples only `size`."""
    places: dict[str, Tensor]
    """Of the samples of each split in the full set's, int64 [N]."""

    @property
    def train_labels(self) -> Tensor:
        """Classes of the training samples, int64 [N]."""
        return self.labels["train"]

    @property
    def class_counts(self) -> Tensor:
        """Training samples a class, int64 [C]."""
        return ltaug.class_counts(self.train_labels, len(self.class_names))

    @property
    def splits(self) -> tuple[str, ...]:
        """What is evaluated at the end."""
        return tuple(split for split in self.labels if split != "train")

    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> ResidentLoader:
        """Augmented batches in a sampler's order; each process gets its rows of them."""
        images = self.inputs["train"].dtype == torch.uint8  # other samples are not augmented
        augmentation = {"crop_padding": cfg.crop_padding, "flip": cfg.flip} if images else {}
        return self._loader(
            "train", accelerator, cfg.batch_size, sampler=sampler, drop_last=True, seed=cfg.seed, **augmentation
        )

    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> ResidentLoader:
        """Batches of a split in its order, without augmentation."""
        return self._loader(split, accelerator, 250 * accelerator.num_processes)

    def _loader(self, split: str, accelerator: Any, batch_size: int, **settings: Any) -> ResidentLoader:
        return ResidentLoader(
            self.inputs[split],
            self.labels[split],
            batch_size=batch_size,
            device=accelerator.device,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            mean=self.preprocessing.get("mean"),
            std=self.preprocessing.get("std"),
            **settings,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the data. A run refuses to resume on data with another one."""
        return {
            "class_names": self.class_names,
            "class_counts": self.class_counts,
            "training_indices": self.index_hash,
            "test_labels": ltaug.index_hash(self.labels["test"]),
            **{f"{split}_content": content_hash(self.inputs[split], labels) for split, labels in self.labels.items()},
        }

    def shared(self, cfg: Any) -> SharedData:
        """What `ltaug push-data` makes a data set of the hub."""
        if self.inputs["train"].dtype != torch.uint8:
            raise UserError(
                "`shared` of the recipe's data.py makes PNG files of uint8 pixels, but its samples are "
                f"{self.inputs['train'].dtype}. Write one for them, with ltaug.loaders.sharing, or delete it."
            )
        splits = {split: share_pixels(at, self.labels[split], self.inputs[split]) for split, at in self.places.items()}
        return SharedData("image", cfg.columns, self.class_names, splits)

    def describe(self) -> str:
        """What is in the training set, for the terminal."""
        return f"{len(self.train_labels)} samples (subset {self.index_hash[:12]})"

    def held_out_note(self) -> str:
        """What corrections are tuned on, for whoever reads the numbers."""
        counts = ltaug.class_counts(self.labels["held_out"], len(self.class_names))
        missing = [name for name, count in zip(self.class_names, counts.tolist(), strict=True) if not count]
        # The losses of such a class are not seen: a searched strength comes out too large.
        warning = f"; no samples of {', '.join(missing[:3])}, whose errors a searched strength misses" * bool(missing)
        return (
            f"{int(counts.sum())} samples of the training split that training did not use "
            f"({int((counts > 0).sum())} of {len(counts)} classes, up to {int(counts.max())} each{warning})"
        )


def load_data(cfg: Any) -> Data:
    """Read the data set of the settings and take its long-tailed part."""
    splits = read_splits(cfg)
    labels, names = splits.labels, splits.class_names
    kept = torch.empty(0, dtype=torch.long)
    if cfg.held_out_per_class:
        kept = hold_out(labels, cfg.held_out_per_class, names, "held_out_per_class", cfg.data_seed)
    rest = all_but(kept, len(labels))
    how = {"seed": cfg.data_seed, "in_order": splits.places is not None}
    indices = rest[thin_out(labels[rest], cfg.profile, cfg.imbalance_ratio, names, **how)]
    if not cfg.held_out_per_class:
        left_out = all_but(indices, len(labels))
        sizes = ltaug.class_counts(labels[left_out], len(names)).clamp(max=LEFT_OUT_PER_CLASS)
        kept = left_out[ltaug.subsample(labels[left_out], sizes, seed=cfg.data_seed)] if sizes.any() else kept
    inputs = {"train": splits.inputs(indices), "test": splits.test_inputs}
    targets = {"train": labels[indices], "test": splits.test_labels}
    places = {"train": indices, "test": torch.arange(len(splits.test_labels))}
    if len(kept):
        inputs["held_out"], targets["held_out"], places["held_out"] = splits.inputs(kept), labels[kept], kept
    elif splits.held_out is not None:
        inputs["held_out"], targets["held_out"] = splits.held_out
        places["held_out"] = torch.arange(len(targets["held_out"]))
    if splits.places is not None:  # of a subset: equal hashes are equal subsets of the full set
        places["train"] = splits.places[indices]
    preprocessing: dict[str, Any] = {"size": list(inputs["train"].shape[1:])}  # the network is made for it
    if inputs["train"].dtype == torch.uint8:
        mean, std = splits.mean, splits.std
        if mean is None:
            pixels = inputs["train"].double() / 255
            mean, std = pixels.mean((0, 1, 2)).tolist(), pixels.std((0, 1, 2)).tolist()
        preprocessing |= {"kind": "small_images", "mean": mean, "std": std}
    return Data(inputs, targets, names, ltaug.index_hash(places["train"]), preprocessing, places)


def all_but(indices: Tensor, size: int) -> Tensor:
    """The other indices of a set, in order."""
    return torch.ones(size, dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]
