"""From files to batches: an order and an augmentation that do not depend on how many processes read.

Workers decode, crop and resize, and hand over uint8 images, a quarter of the bytes of float ones. What is left to do is
done with whole batches on the device of the training.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from config import Config
from data import ImageSet
from PIL import Image
from streaming import Stream, StreamSet, exponents
from timm.models import PretrainedCfg, load_model_config_from_hf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler, Subset
from torchvision.transforms import v2

from ltaug import GlobalBatchSampler, SeededDataset
from ltaug.run import reuse_freed_memory

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = 0.4
"""Of brightness, contrast and saturation: the published strength, of the released codes of classifier balancing and
MiSLAS."""
LUMA = (0.2989, 0.587, 0.114)
"""Share of red, green and blue in grey, as torchvision has it."""


def mean_and_std(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the pixels in 0..1: those that the pretrained weights were trained with, or else ImageNet's."""
    known = weights_of(cfg.model) if cfg.pretrained else None
    return (tuple(known.mean), tuple(known.std)) if known else (IMAGENET_MEAN, IMAGENET_STD)


def weights_of(name: str) -> PretrainedCfg | None:
    """What timm knows of a model's weights: the size, mean and standard deviation of their images. None of some models.

    Of hf-hub:OWNER/NAME and local-dir:FOLDER it is what stands there.
    """
    source, _, place = name.partition(":")
    if source == "hf-hub":
        return PretrainedCfg(**load_model_config_from_hf(place)[0])
    if source == "local-dir":
        if not (Path(place) / "config.json").is_file():
            raise ValueError(f"`model` {name!r} must name a folder with timm's config.json and model.safetensors.")
        said = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
        return PretrainedCfg(**said["pretrained_cfg"] | {"file": place})
    if not timm.is_model(name.partition(".")[0]):
        close = timm.list_models(f"*{name[:6]}*")[:5]
        hint = f" Some are: {', '.join(close)}." if close else " timm.list_models() lists them."
        raise ValueError(f"`model` {name!r} is no model of timm.{hint}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise ValueError(f"`model` {name!r} is unknown to timm. It has {tags}.") from error


class TrainTransform:
    """What a training image goes through in a worker, from PIL to uint8 [3, H, W]; with `augment_on: device` up to the
    flip, and the random numbers of flip and jitter come along, float [7]."""

    def __init__(self, cfg: Config) -> None:
        self.size, self.augmentation, self.on_device = cfg.image_size, cfg.augmentation, cfg.augment_on == "device"

    def __call__(self, image: Image.Image) -> Tensor | tuple[Tensor, Tensor]:
        """Crop and augment an image by torch's generator."""
        box = (0, 0, *image.size) if self.augmentation == "flip" else random_box(*image.size)
        if self.augmentation == "randaugment":
            # On PIL images, as published; on tensors it takes three times as long.
            resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            pixels = to_pixels(v2.RandAugment()(resized))
        else:
            # Cropped before it becomes a tensor, and interleaved as Pillow has it: torch resizes that fastest.
            cropped, size = to_pixels(image.crop(box))[None], (self.size, self.size)
            pixels = nn.functional.interpolate(cropped, size, mode="bilinear", antialias=True)[0]
        draws = torch.rand(7)
        if self.on_device:
            return pixels, draws
        if draws[0] < 0.5:
            pixels = pixels.flip(-1)
        if self.augmentation == "color":
            jittered = jitter_image(pixels.contiguous().float(), draws).round_()
            pixels = torch.from_numpy(jittered.numpy().astype(np.uint8))  # torch's own cast takes far longer
        return pixels


def train_transform(cfg: Config) -> TrainTransform:
    """What a training image goes through before it is part of a batch."""
    return TrainTransform(cfg)


def test_transform(cfg: Config) -> v2.Transform:
    """A central crop, from PIL to uint8 [3, H, W]."""
    size = cfg.image_size
    resize = v2.Resize((size, size)) if cfg.test_resize == 1 else v2.Resize(round(size / cfg.test_resize))
    return v2.Compose([to_pixels, resize, v2.CenterCrop(size)])


def to_pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop of 8 to 100 % of the area, with sides as 3:4 to 4:3 (log-uniform).

    As torchvision's RandomResizedCrop: the first of ten draws that fits into the image, or the largest central crop.
    """
    for share, shape, x, y in torch.rand(10, 4, dtype=torch.float64).tolist():
        area, ratio = width * height * (0.08 + 0.92 * share), (3 / 4) ** (1 - 2 * shape)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter_image(image: Tensor, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation of float [3, H, W] in 0..255, in place; `draws` in 0..1, float [7].

    Three of the numbers are factors f in 0.6..1.4, and the last three decide on the order. Each step blends the image
    with another one, black, its mean grey or its grey: f x + (1 - f) other, clamped.
    """
    factors = (1 + JITTER * (2 * draws[1:4] - 1)).tolist()
    for step in draws[4:].argsort().tolist():
        factor = factors[step]
        image.mul_(factor)  # first, since it is linear: greys are of what it leaves
        if step == 1:
            image.add_(float(image.mean((1, 2)) @ image.new_tensor(LUMA)) * (1 / factor - 1))
        elif step == 2:
            image.add_(grey(image).mul_(1 / factor - 1))
        image.clamp_(0, 255)
    return image


def jitter_batch(images: Tensor, draws: Tensor) -> Tensor:
    """What `jitter_image` does, of float [N, 3, H, W] with `draws` [N, 7], for which it would be many small steps."""
    order = draws[:, 4:].argsort(1)
    factors = (1 + JITTER * (2 * draws[:, 1:4] - 1)).gather(1, order)
    for step, factor in zip(order.T[..., None, None, None], factors.T[..., None, None, None], strict=True):
        shade = grey(images)
        other = torch.where(step == 1, shade.mean((2, 3), keepdim=True), shade).mul_((1 - factor) * (step > 0))
        images = images.mul_(factor).add_(other).clamp_(0, 255)
    return images


def grey(images: Tensor) -> Tensor:
    """[..., 3, H, W] to [..., 1, H, W]."""
    red, green, blue = images.split(1, dim=-3)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


class Finished:
    """The batches of a loader, finished on a device: float [N, 3, H, W], normalised; labels stay where they are."""

    def __init__(self, loader: DataLoader, cfg: Config, device: torch.device | str) -> None:
        self.loader, self.device, self.color = loader, device, cfg.augmentation == "color"
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in mean_and_std(cfg))
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch[1], Tensor):
                yield self.finish(batch[0]), batch[1]
            else:
                yield [(self.finish(inputs), labels) for inputs, labels in batch]

    def __len__(self) -> int:
        return len(self.loader)

    def finish(self, inputs: Tensor | list[Tensor]) -> Tensor:
        """From uint8 images, or such images and the numbers for their augmentation."""
        images, *draws = (
            part.to(self.device, non_blocking=True) for part in ([inputs] if isinstance(inputs, Tensor) else inputs)
        )
        if draws:
            images = torch.where(draws[0][:, :1, None, None] < 0.5, images.flip(-1), images)
        images = images.float()
        if draws and self.color:
            images = jitter_batch(images, *draws)
        return images.mul_(self.scale).add_(self.offset)


class TrainLoader(Finished):
    """Batches ``(images, labels)``, or two of these for pairs, an epoch at a time. Its workers live as long as it."""

    def __init__(
        self, cfg: Config, images: ImageSet, processes: int, process: int, device: torch.device | str = "cpu"
    ) -> None:
        self.batches = GlobalBatchSampler(
            SequentialSampler(images), cfg.batch_size, num_processes=processes, process_index=process
        )
        self.cfg, self.images, self.processes, self.process = cfg, images, processes, process
        settings = worker_settings(cfg) | {"persistent_workers": cfg.decoders > 0}
        super().__init__(
            DataLoader(SeededDataset(images, cfg.seed), batch_sampler=self.batches, **settings), cfg, device
        )

    def epoch(self, sampler: Sampler, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """This process's batches of an epoch in a sampler's order, from a step on."""
        if isinstance(self.images, StreamSet):  # workers of its own each epoch
            stream = Stream(
                self.images,
                exponents(sampler),
                self.cfg.batch_size,
                self.cfg.seed,
                epoch,
                self.processes,
                self.process,
                first_step,
            )
            self.loader = DataLoader(stream, batch_size=stream.share, **worker_settings(self.cfg))
            return iter(self)
        self.batches.sampler = sampler
        self.batches.set_epoch(epoch, first_step)
        return iter(self)


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


def test_loader(
    cfg: Config,
    images: ImageSet,
    processes: int,
    process: int,
    device: torch.device | str = "cpu",  # noqa: PT028
) -> Finished:
    """This process's contiguous share of a set, in its order."""
    low, high = (len(images) * k // processes for k in (process, process + 1))
    loader = DataLoader(
        Subset(images, range(low, high)), batch_size=max(1, cfg.batch_size // processes), **worker_settings(cfg)
    )
    return Finished(loader, cfg, device)


def worker_settings(cfg: Config) -> dict[str, Any]:
    """What both loaders share."""
    # A generator of their own: a loader draws a number when it starts, and the mixing's shall not move on for it.
    settings: dict[str, Any] = {
        "num_workers": cfg.decoders,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator(),
    }
    if cfg.decoders:
        settings |= {"worker_init_fn": prepare_worker, "prefetch_factor": 4}
    return settings


def prepare_worker(_worker: int) -> None:
    """One thread each, since workers share the cores; and pages that are taken once."""
    torch.set_num_threads(1)
    reuse_freed_memory()
