"""Small kernels, one thread: augmentation, mixing, sampling, the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import WeightedRandomSampler

from benchmarks.plain import MEAN, STD, PlainImages, cifar_transform, lade_with_masks, unimix_image_by_image
from benchmarks.timing import Bar, Benchmark, Options, Result, settle_allocator, show_seconds, side_by_side, threads
from ltaug import (
    ClassPowerSampler,
    LabelAwareSmoothingLoss,
    LADELoss,
    PairSampler,
    PriorCorrectedLoss,
    ResidentLoader,
    UniMix,
    class_prior,
    exponential_counts,
)

BATCH = 128


def cifar100_lt() -> tuple[Tensor, Tensor, Tensor]:
    """Random images as CIFAR-100-LT has them (ratio 100): uint8 [10847, 32, 32, 3], labels, class counts."""
    counts = exponential_counts(500, 100, 100)
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(100), counts)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(256, (len(labels), 32, 32, 3), dtype=torch.uint8, generator=generator)
    return images, labels, counts


def pair_loader(images: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> ResidentLoader:
    """The recipe's stream for UniMix: a shuffled epoch, each image with a partner of a class drawn uniformly."""
    sampler = PairSampler(ClassPowerSampler(labels, 1.0, replacement=False), ClassPowerSampler(labels, 0.0))
    return ResidentLoader(
        images,
        labels,
        batch_size=BATCH,
        sampler=sampler,
        mean=MEAN,
        std=STD,
        crop_padding=4,
        flip=True,
        drop_last=True,
        device=device,
    )


def inaturalist_labels(samples: int = 437_513, classes: int = 8_142) -> Tensor:
    """Labels with the sizes of iNaturalist 2018: class counts fall exponentially from about 280 to 2."""
    shape = np.exp(-np.linspace(0.0, 5.0, classes))
    counts = np.maximum(2, np.floor(shape * samples / shape.sum())).astype(np.int64)
    counts[0] += samples - counts.sum()
    labels = torch.repeat_interleave(torch.arange(classes), torch.from_numpy(counts))
    return labels[torch.randperm(samples, generator=torch.Generator().manual_seed(0))]


def augmentation(_: Options) -> Result:
    """Crop, flip and normalise eight batches: ResidentLoader against torchvision on PIL images, collated."""
    images, labels, _counts = cifar100_lt()
    chosen = torch.randint(len(images), (8, BATCH), generator=torch.Generator().manual_seed(0))
    loader = ResidentLoader(
        images,
        labels,
        batch_size=BATCH,
        sampler=chosen.view(-1).tolist(),
        mean=MEAN,
        std=STD,
        crop_padding=4,
        flip=True,
    )
    plain = PlainImages(images.numpy(), labels.tolist(), cifar_transform())

    def ours() -> None:
        for _batch in loader:
            pass

    def reference() -> None:
        for batch in chosen.tolist():
            samples = [plain[k] for k in batch]
            torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])

    return speedup(ours, reference, per=8)


def unimix_partners(_: Options) -> Result:
    """Mix a batch with a given second one, in the layouts that ResidentLoader and a DataLoader give."""
    mixer, plain, batch, partner = unimix_contestants()
    near = [channels_last(batch[0]), batch[1], channels_last(partner[0]), partner[1]]
    return speedup(lambda: mixer(*near), lambda: plain(*batch, *partner))


def unimix_in_batch(_: Options) -> Result:
    """Mix a batch with itself, permuted."""
    mixer, plain, batch, _partner = unimix_contestants()
    near = [channels_last(batch[0]), batch[1]]
    return speedup(lambda: mixer(*near), lambda: plain(*batch))


def unimix_contestants() -> tuple[UniMix, Callable[..., object], list[Tensor], list[Tensor]]:
    """The mixer, the loop, and two batches."""
    counts = exponential_counts(500, 100, 100)
    weights = class_prior(counts)
    batch, partner = (
        [torch.randn(BATCH, 3, 32, 32), torch.multinomial(weights, BATCH, replacement=True)] for _ in range(2)
    )
    rng, array = np.random.default_rng(0), counts.numpy()

    def plain(images: Tensor, labels: Tensor, *partners: Tensor) -> object:
        return unimix_image_by_image(images, labels, array, 0.8, rng, *partners)

    return UniMix(counts, alpha=0.8), plain, batch, partner


def channels_last(images: Tensor) -> Tensor:
    """The same numbers as ResidentLoader lays them out."""
    return images.contiguous(memory_format=torch.channels_last)


def epoch_of_indices(tau: float) -> Callable[[Options], Result]:
    """An epoch's order with class probability ~ n^tau, as a tensor, against ``list(WeightedRandomSampler)``."""

    def run(_: Options) -> Result:
        labels = inaturalist_labels()
        sampler = ClassPowerSampler(labels, tau)
        weights = torch.bincount(labels).double() ** (tau - 1.0)
        plain = WeightedRandomSampler(weights[labels], len(labels))
        return speedup(sampler.indices, lambda: list(plain), repeats=9)

    return run


def prior_corrected_loss(dense: bool) -> Callable[[Options], Result]:
    """Forward and backward of the loss, against plain cross-entropy of the same logits and targets."""

    def run(_: Options) -> Result:
        logits = torch.randn(256, 1000, requires_grad=True)
        targets = torch.rand(256, 1000).softmax(1) if dense else torch.randint(1000, (256,))
        loss = PriorCorrectedLoss(torch.arange(1, 1001))
        return slowdown(
            training_step(logits, lambda: loss(logits, targets)),
            training_step(logits, lambda: F.cross_entropy(logits, targets)),
        )

    return run


def lade_loss(_: Options) -> Result:
    """Forward and backward of LADE, against the form with a mask of classes by samples."""
    counts = torch.bincount(inaturalist_labels())
    logits = torch.randn(256, len(counts), requires_grad=True)
    labels = torch.multinomial(class_prior(counts), 256, replacement=True)
    loss, prior = LADELoss(counts, alpha=0.05, remine_lambda=0.5), class_prior(counts).float()
    return speedup(
        training_step(logits, lambda: loss(logits, labels)),
        training_step(logits, lambda: lade_with_masks(logits, labels, prior, 0.05, 0.5)),
    )


def label_aware_smoothing_loss(_: Options) -> Result:
    """Forward and backward of label-aware smoothing, against torch's with one smoothing for all classes."""
    logits, labels = torch.randn(256, 1000, requires_grad=True), torch.randint(1000, (256,))
    loss = LabelAwareSmoothingLoss(torch.arange(1, 1001), head=0.4, tail=0.1)
    return slowdown(
        training_step(logits, lambda: loss(logits, labels)),
        training_step(logits, lambda: F.cross_entropy(logits, labels, label_smoothing=0.1)),
    )


def training_step(logits: Tensor, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward down to the logits."""

    def step() -> None:
        logits.grad = None
        loss().backward()

    return step


def slowdown(ours: Callable[[], object], reference: Callable[[], object]) -> Result:
    """Measure at one thread how many times as long ours takes."""
    with threads(1):
        settle_allocator()
        times = side_by_side(ours, reference, repeats=31)
    seconds = (show_seconds(float(np.median(t))) for t in (times.ours, times.reference))
    return Result(times.slowdown, *seconds, times.spread(slowdown=True))


def speedup(ours: Callable[[], object], reference: Callable[[], object], *, per: int = 1, repeats: int = 15) -> Result:
    """Measure at one thread; ``per`` says how many units of work a call does."""
    with threads(1):
        settle_allocator()
        times = side_by_side(ours, reference, repeats=repeats)
    seconds = (show_seconds(float(np.median(t)) / per) for t in (times.ours, times.reference))
    return Result(times.speedup, *seconds, times.spread())


BENCHMARKS = [
    Benchmark("augmentation", "1", Bar(15), augmentation),
    Benchmark("unimix_partners", "1", Bar(12), unimix_partners),
    Benchmark("unimix_in_batch", "1", Bar(12), unimix_in_batch),
    Benchmark("class_balanced_epoch", "1", Bar(6), epoch_of_indices(0.0)),
    Benchmark("class_power_epoch", "1", Bar(4), epoch_of_indices(-0.5)),
    Benchmark("prior_corrected_loss", "1", Bar(1.35, at_least=False), prior_corrected_loss(dense=False)),
    Benchmark("prior_corrected_loss_dense", "1", Bar(1.35, at_least=False), prior_corrected_loss(dense=True)),
    Benchmark("lade_loss", "1", Bar(3), lade_loss),
    Benchmark("label_aware_smoothing_loss", "1", Bar(1.3, at_least=False), label_aware_smoothing_loss),
]
