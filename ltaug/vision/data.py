"""The data of a training on large image sets: long-tailed splits, their loaders, and what is recorded of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ltaug.commandline import NonNegativeInt, PositiveFloat, PositiveInt, Ratio
from ltaug.errors import UserError
from ltaug.loaders import SeededLoader
from ltaug.loaders.folders import evaluation_splits
from ltaug.loaders.sharing import SharedData, SharedSplit
from ltaug.loaders.tables import hold_out, labels_hash
from ltaug.longtail import index_hash, profile_counts, subsample
from ltaug.priors import class_counts, counts_of, shot_groups
from ltaug.process import reuse_freed_memory
from ltaug.vision.image_set import Images, ImageSet
from ltaug.vision.mistakes import mistake_sections
from ltaug.vision.networks import timm_files
from ltaug.vision.streaming import StreamLoader, StreamSet
from ltaug.vision.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Normalize,
    TestTransform,
    TrainTransform,
    collate_images,
)

__all__ = ["ImageData", "ImageSettings", "long_tailed_data", "streamed_data"]


@dataclass
class ImageSettings:
    """What can be said of the images of a large set, whichever it is."""

    hub_id: str | None = None
    """OWNER/NAME of a data set of the hub."""
    image_column: str = "image"
    """Column of the images, of the hub and of parquet files."""
    label_column: str = "label"
    """Column of the labels, likewise: class indices or class names, or lists of them: several labels an image."""
    train_split: str = "train"
    """hub: split to train on."""
    test_split: str | None = None
    """hub: split to test on; by default test or validation, whichever there is."""
    profile: Literal["natural", "exponential", "step", "pareto"] = "natural"
    """How the class sizes fall; natural takes every image there is."""
    imbalance_ratio: Ratio = 100.0
    """Size of the largest class over the smallest, of a profile that is not natural."""
    data_seed: NonNegativeInt = 0
    """Which images of each class a profile keeps, and which ones are held out."""
    test_per_class: PositiveInt = 20
    """Images of each class to test on, of sets without a test split."""
    held_out_per_class: NonNegativeInt = 0
    """Training images of each class (but not its last one) reserved for tuning corrections, of sets without validation
    images; 0 as published."""
    allow_outside: bool = False
    """Read images outside of `data_dir`, too, where a list or a table names such: only if you trust its author."""
    image_size: PositiveInt = 224
    """Pixels of a side."""
    augmentation: Augmentation = "plain"
    """plain: random resized crop and flip; color: and colour jitter; randaugment; crop; flip: no crop."""
    test_resize: PositiveFloat = 0.875
    """Share of the shorter side that the central crop of a test image has; 1 for small images."""
    workers: NonNegativeInt | None = None
    """Processes that decode, for each training process; by default its cores, up to 8; 0 decodes in the training's."""


class ImageData:
    """Sets of images to train, test and perhaps to tune corrections on, none of them decoded.

    Attributes:
        sets: by split: train, test and perhaps held_out.
        class_names: C names.
        index_hash: SHA-256 of the indices of the training images in the list or data set they are taken from: of one
            source, equal hashes are equal subsets.
        mean: per channel, of pixels in 0..1; ImageNet's unless a pretrained network asks for others.
        std: likewise.
    """

    def __init__(
        self, class_names: list[str], sets: Mapping[str, ImageSet | StreamSet], subset: str, settings: ImageSettings
    ) -> None:
        self.class_names, self.sets, self.index_hash, self.settings = class_names, dict(sets), subset, settings
        self.mean, self.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        transform = TestTransform(settings.image_size, settings.test_resize)
        for split, images in self.sets.items():
            augmented = TrainTransform(settings.image_size, settings.augmentation)
            images.transform = augmented if split == "train" else transform

    @property
    def train_labels(self) -> Tensor:
        """Classes of the training images, int64 [N]; of several labels multi-hot rows, bool [N, C]."""
        return self.sets["train"].labels

    @property
    def class_counts(self) -> Tensor:
        """Training images a class, or that have each label, int64 [C]."""
        return self._counted("train")

    def _counted(self, split: str) -> Tensor:
        return counts_of(self.sets[split].labels, len(self.class_names))

    @property
    def splits(self) -> tuple[str, ...]:
        """What is evaluated at the end."""
        return tuple(split for split in self.sets if split != "train")

    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> SeededLoader | StreamLoader:
        """Augmented batches in a sampler's order; each process gets its rows of them."""
        images, settings = self.sets["train"], self._loader_settings(cfg, accelerator)
        if isinstance(images, StreamSet):
            return StreamLoader(images, cfg.batch_size, sampler=sampler, seed=cfg.seed, **settings)
        return SeededLoader(images, cfg.batch_size, sampler=sampler, drop_last=True, seed=cfg.seed, **settings)

    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> SeededLoader:
        """Batches of a split in its order, without augmentation."""
        images = self.sets[split]
        if isinstance(images, StreamSet):
            raise UserError("A stream has no image by its number. Leave out `stream` for what needs one.")
        plain = ImageSet(images.images, TestTransform(cfg.image_size, cfg.test_resize), images.notes)
        return SeededLoader(plain, cfg.batch_size, **self._loader_settings(cfg, accelerator))

    def _loader_settings(self, cfg: Any, accelerator: Any) -> dict[str, Any]:
        return {
            "device": accelerator.device,
            "finish": Normalize(self.mean, self.std, channels_last=cfg.channels_last is not False),
            "num_processes": accelerator.num_processes,
            "process_index": accelerator.process_index,
            "num_workers": _default_workers() if cfg.workers is None else cfg.workers,
            "collate_fn": collate_images,
            "worker_init_fn": _prepare_worker,
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a test image goes through: plain values, kept beside the weights."""
        return {
            "kind": "images",
            "image_size": self.settings.image_size,
            "test_resize": self.settings.test_resize,
            "interpolation": "bilinear",
            "mean": self.mean,
            "std": self.std,
        }

    def extra_files(self, model: nn.Module) -> dict[str, str]:
        """Files that a run keeps beside the weights: config.json of timm's networks, by which timm opens them."""
        return timm_files(model, self.class_names, self.preprocessing)

    def fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the data. A run refuses to resume on data with another one."""
        return {
            "class_names": self.class_names,
            "class_counts": self.class_counts,
            "training_indices": self.index_hash,
            "test_labels": labels_hash(self.sets["test"].labels),
            **{f"{split}_content": images.content_hash() for split, images in self.sets.items()},
        }

    def shared(self, cfg: Any) -> SharedData:
        """What `ltaug push-data` makes a data set of the hub: each file as it is stored."""
        splits = {}
        for split, images in self.sets.items():
            if isinstance(images, StreamSet):
                raise UserError("A stream has no image by its number, and cannot be shared. Leave out `stream`.")
            found = images.images
            places = found.rows if found.places is None else found.places
            splits[split] = SharedSplit(places, found.labels, found.encoded)
        return SharedData("image", (cfg.image_column, cfg.label_column), self.class_names, splits)

    def describe(self) -> str:
        """What is in the sets, for the terminal."""
        counts = self.class_counts
        groups = ", ".join(f"{int(group.sum())} {name}" for name, group in shot_groups(counts).items())
        held_out = f", {len(self.sets['held_out'])} held-out images" if "held_out" in self.sets else ""
        untested = int((self._counted("test") == 0).sum())
        missing = f" (none of {untested} classes)" if untested else ""
        return (
            f"{len(self.train_labels)} training images ({groups}; subset {self.index_hash[:12]}), "
            f"{len(self.sets['test'])} test images{missing}{held_out}"
        )

    def sections(self, logits: Tensor, labels: Tensor) -> list[tuple[str, str]]:
        """Sections of the report: unreadable images, and the most confident mistakes on test images."""
        found = []
        if unreadable := {split: images.unreadable for split, images in self.sets.items() if images.unreadable}:
            counts = ", ".join(f"{count} {split} images" for split, count in unreadable.items())
            found.append(("Unreadable images", f"<p>{counts} could not be decoded; others took their place.</p>"))
        test = self.sets["test"]
        if isinstance(test, ImageSet) and labels.ndim == 1:
            found += mistake_sections(test, logits, labels, self.class_names, self.class_counts)
        return found

    def held_out_note(self) -> str:
        """What corrections are tuned on, for whoever reads the numbers."""
        counts = self._counted("held_out")
        return (
            f"{len(self.sets['held_out'])} images that training did not use ({int((counts > 0).sum())} of "
            f"{len(counts)} classes, {int(counts.min())} to {int(counts.max())} each)"
        )


def long_tailed_data(
    class_names: list[str], splits: Mapping[str, Images], settings: ImageSettings, source: str = "The data set"
) -> ImageData:
    """Take the long-tailed part of a data set.

    Without a split to test on, ``test_per_class`` images of every class are held out; and ``held_out_per_class`` of
    those that are left, to tune corrections on, unless there are validation images. The natural profile takes all
    others; `exponential`, `step` and `pareto` thin them out, the largest class first.

    Args:
        class_names: C names.
        splits: images by split: train, and perhaps others by any of their usual names.
        settings: what is taken.
        source: what to call the data set in messages.
    """
    if len(class_names) < 2:
        raise UserError(f"{source} must have at least two classes, but has {', '.join(class_names) or 'none'}.")
    seed, train = settings.data_seed, splits["train"]
    if train.labels.ndim > 1:
        return _several_labels(class_names, splits, settings, source)
    others = [splits[name] for name in evaluation_splits(splits) if name]
    if not others:
        train, test = _split_off(
            train, hold_out(train.labels, settings.test_per_class, class_names, "test_per_class", seed)
        )
        others = [test]
    if settings.held_out_per_class:
        if len(others) > 1:
            raise UserError(
                f"`held_out_per_class` is {settings.held_out_per_class}, but {source} has images to tune corrections "
                "on. Leave it out."
            )
        counts = class_counts(train.labels, len(class_names))
        kept = subsample(train.labels, (counts - settings.held_out_per_class).clamp(min=1).minimum(counts), seed=seed)
        held_out, train = _split_off(train, kept.sort().values)
        others.append(held_out)
    available = class_counts(train.labels, len(class_names))
    counts = profile_counts(settings.profile, available, settings.imbalance_ratio, class_names)
    natural = settings.profile == "natural"
    indices = torch.arange(len(train)) if natural else subsample(train.labels, counts, seed=seed)
    names = ("train", "test", "held_out")
    sets = {name: ImageSet(images) for name, images in zip(names, [train.take(indices), *others], strict=False)}
    places = indices if train.places is None else train.places[indices]  # of a subset: those in the full set
    return ImageData(class_names, sets, index_hash(places), settings)


def _several_labels(
    class_names: list[str], splits: Mapping[str, Images], settings: ImageSettings, source: str
) -> ImageData:
    """All images of a set with several labels an image: what a class is cannot be thinned out or held out of it."""
    for name, usual in (("profile", "natural"), ("held_out_per_class", 0)):
        if (value := getattr(settings, name)) != usual:
            raise UserError(
                f"`{name}` is {value}, which goes by classes that exclude each other, but {source} has several labels "
                "an image. Leave it out."
            )
    test, tuning = evaluation_splits(splits)
    if test is None:
        raise UserError(f"{source} has several labels an image and no split to test on. Name one with `test_split`.")
    chosen = {"train": splits["train"], "test": splits[test]} | ({"held_out": splits[tuning]} if tuning else {})
    sets = {name: ImageSet(images) for name, images in chosen.items()}
    return ImageData(class_names, sets, index_hash(torch.arange(len(splits["train"]))), settings)


def streamed_data(
    class_names: list[str], train: StreamSet, splits: Mapping[str, Images], settings: ImageSettings
) -> ImageData:
    """Put a stream of training images and a split to test on together."""
    for name, usual in (("profile", "natural"), ("held_out_per_class", 0)):
        if (value := getattr(settings, name)) != usual:
            raise UserError(f"`stream` takes every image as it comes, but `{name}` is {value}. Leave one of them out.")
    test, _ = evaluation_splits(splits)
    if test is None:
        raise UserError("A stream holds no images out, and there is no split to test on. Name one with `test_split`.")
    sets: dict[str, ImageSet | StreamSet] = {"train": train, "test": ImageSet(splits[test])}
    return ImageData(class_names, sets, index_hash(torch.arange(len(train))), settings)


def _split_off(images: Images, indices: Tensor) -> tuple[Images, Images]:
    """The images of all other indices, and of these."""
    rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]
    return images.take(rest), images.take(indices)


def _default_workers() -> int:
    """This machine's cores, shared between its training processes, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _prepare_worker(_worker: int) -> None:
    reuse_freed_memory()
