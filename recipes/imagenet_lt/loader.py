"""From files to batches: transforms, and an order and augmentation that do not depend on how many processes read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import timm
import torch
from config import Config
from data import ImageSet
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from ltaug.samplers.pair import sampler_indices

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The published strength, of the released codes of classifier balancing and MiSLAS.
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}


def mean_and_std(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the pixels in 0..1: those that the pretrained weights were trained with, or else ImageNet's."""
    known = timm.get_pretrained_cfg(cfg.model) if cfg.pretrained else None
    return (known.mean, known.std) if known else (IMAGENET_MEAN, IMAGENET_STD)


def train_transform(cfg: Config) -> v2.Transform:
    """What a training image goes through, to float [3, H, W]."""
    size = cfg.image_size
    if cfg.augmentation == "flip":
        steps = [v2.Resize((size, size), antialias=True)]
    else:
        steps = [v2.RandomResizedCrop(size, antialias=True)]
    steps.append(v2.RandomHorizontalFlip())
    if cfg.augmentation == "color":
        steps.append(v2.ColorJitter(**JITTER))
    if cfg.augmentation == "randaugment":
        steps.append(v2.RandAugment())
    return v2.Compose([v2.ToImage(), *steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(*mean_and_std(cfg))])


def test_transform(cfg: Config) -> v2.Transform:
    """A central crop, to float [3, H, W]."""
    size = cfg.image_size
    resize = v2.Resize((size, size)) if cfg.test_resize == 1 else v2.Resize(round(size / cfg.test_resize))
    return v2.Compose([
        v2.ToImage(), resize, v2.CenterCrop(size), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(*mean_and_std(cfg)),
    ])  # fmt: skip


class Seeded(Dataset):
    """Images augmented by a pure function of (seed, epoch, place in the epoch), whichever worker reads them."""

    def __init__(self, images: ImageSet, seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch

    def __getitem__(self, item: tuple[int, ...]) -> Any:
        place, *indices = item
        samples = []
        for stream, index in enumerate(indices):
            entropy = np.random.SeedSequence(self.seed, spawn_key=(self.epoch, place, stream))
            state = int(entropy.generate_state(1, np.uint64)[0]) >> 1
            # torchvision draws from torch's generator. Without workers that is the one of the mixing, to be left alone.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state)
                samples.append(self.images[index])
        return samples[0] if len(samples) == 1 else tuple(samples)


class Rows(Sampler[list[tuple[int, ...]]]):
    """This process's rows of every global batch of an epoch, from a step on: (place, index) or (place, index, partner).

    Full batches only, so that all processes take as many steps.
    """

    def __init__(self, order: Tensor, batch_size: int, processes: int, process: int, first_step: int = 0) -> None:
        self.order = order.view(len(order), -1)
        self.batch_size, self.share, self.process = batch_size, batch_size // processes, process
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for step in range(self.first_step, len(self.order) // self.batch_size):
            start = step * self.batch_size + self.process * self.share
            rows = self.order[start : start + self.share].tolist()
            yield [(start + k, *row) for k, row in enumerate(rows)]

    def __len__(self) -> int:
        return len(self.order) // self.batch_size - self.first_step


def steps_of_an_epoch(cfg: Config, images: ImageSet, processes: int) -> int:
    """Full batches of an epoch."""
    if cfg.batch_size % (processes * cfg.accumulate):
        raise ValueError(
            f"`batch_size`={cfg.batch_size} is the global batch and must be a multiple of {processes} processes times "
            f"`accumulate`={cfg.accumulate}."
        )
    if cfg.batch_size > len(images):
        raise ValueError(f"`batch_size`={cfg.batch_size} exceeds the {len(images)} training images. Lower it.")
    return len(images) // cfg.batch_size


def train_loader(
    cfg: Config, images: ImageSet, sampler: Sampler, epoch: int, processes: int, process: int, first_step: int = 0
) -> DataLoader:
    """An epoch of batches ``(images, labels)``, or of two of these for pairs."""
    rows = Rows(sampler_indices(sampler), cfg.batch_size, processes, process, first_step)
    return DataLoader(Seeded(images, cfg.seed, epoch), batch_sampler=rows, **worker_settings(cfg))


def test_loader(cfg: Config, images: ImageSet, processes: int, process: int) -> DataLoader:
    """This process's contiguous share of a set, in its order."""
    low, high = (len(images) * k // processes for k in (process, process + 1))
    subset = torch.utils.data.Subset(images, range(low, high))
    return DataLoader(subset, batch_size=max(1, cfg.batch_size // processes), **worker_settings(cfg))


def worker_settings(cfg: Config) -> dict[str, Any]:
    """What both loaders share."""
    # A generator of their own: a loader draws a number when it starts, and the mixing's shall not move on for it.
    settings: dict[str, Any] = {
        "num_workers": cfg.workers, "pin_memory": torch.cuda.is_available(), "generator": torch.Generator(),
    }  # fmt: skip
    if cfg.workers:
        # One thread each: they share the cores. Forked workers would inherit the training's thread pools.
        settings |= {"worker_init_fn": one_thread, "prefetch_factor": 4}
    return settings


def one_thread(_worker: int) -> None:
    """So that workers do not compete."""
    torch.set_num_threads(1)
