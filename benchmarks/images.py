"""Large images: the loader of imagenet_lt beside timm's, what drawing and mixing take of a ResNet-50's step,
and its training on a GPU beside timm's loop."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.kernels import channels_last
from benchmarks.loop import Loop, has_bf16, precision, race
from benchmarks.memory import ROOT, child_environment
from benchmarks.timing import Bar, Benchmark, Options, Result, Times, no_garbage_collection, show_seconds, threads
from ltaug import BayiasLoss, ClassPowerSampler, GlobalBatchSampler, PairSampler, UniMix, class_counts

FILES, CLASSES, BATCH, WORKERS, EPOCHS = 384, 4, 32, 2, 9
WIDTH, HEIGHT, SIZE, QUALITY = 500, 375, 224, 90
SAMPLES, IMAGENET_CLASSES, CPU_BATCH, GPU_BATCH = 115_846, 1000, 16, 256
"""Of ImageNet-LT; the batches are small enough for a CPU, and of the published protocol."""
FLOPS = 3 * 2 * 4.09e9
"""Of ResNet-50 at 224 pixels, an image: 4.09e9 multiplications and additions, forward and twice backward."""


def photo(k: int) -> bytes:
    """A JPEG of 500x375 with about as many bytes as a photo of ImageNet: smooth shapes, finer ones, and a texture."""
    from PIL import Image

    generator = np.random.default_rng(k)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells, strength in ((4, 50.0), (16, 28.0), (64, 16.0), (200, 10.0)):
        coarse = generator.standard_normal((cells * 3 // 4, cells, 3)).astype(np.float32)
        for c in range(3):
            pixels[..., c] += strength * np.asarray(Image.fromarray(coarse[..., c]).resize((WIDTH, HEIGHT), 3))
    pixels += 5.0 * generator.standard_normal((HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_photos(folder: Path, files: int) -> float:
    """A folder a class, of as many photos each; the mean size of a file."""
    sizes = []
    for k in range(files):
        path = folder / f"class{k % CLASSES}" / f"{k:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes.append(path.write_bytes(photo(k)))
    return statistics.mean(sizes)


def our_epochs(folder: Path, batch: int, workers: int) -> Callable[[], Iterable]:
    """The recipe's loader of training images; a call is an epoch of its batches."""
    from ltaug.vision.data import ImageSettings, long_tailed_data
    from ltaug.vision.folders import read_image_folder

    settings = ImageSettings(test_per_class=1, augmentation="color", image_size=SIZE, workers=workers)
    data = long_tailed_data(*read_image_folder(str(folder)), settings)
    cfg = SimpleNamespace(**vars(settings), batch_size=batch, seed=0, channels_last=True)
    sampler = ClassPowerSampler(data.train_labels, 1.0, replacement=False)
    alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    loader = data.train_loader(cfg, sampler, alone)
    epochs = iter(range(2**30))

    def epoch() -> Iterable:
        loader.set_epoch(next(epochs))
        return loader

    return epoch


def timm_epochs(folder: Path, batch: int, workers: int) -> Callable[[], Iterable]:
    """timm's own, with the transforms of its training script: bilinear, colour jitter of 0.4."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, SIZE, SIZE),
        batch_size=batch,
        is_training=True,
        color_jitter=0.4,
        interpolation="bilinear",
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=workers > 0,
    )
    return lambda: loader


def rate(batches: Iterable) -> float:
    """Images a second of an epoch."""
    start, seen = time.perf_counter(), 0
    for inputs, _labels in batches:
        seen += len(inputs)
    return seen / (time.perf_counter() - start)


def loader_child() -> None:
    """In the child process of `image_loader`: epochs in turn."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        size = write_photos(Path(name), FILES)
        contestants = [our_epochs(Path(name), BATCH, WORKERS), timm_epochs(Path(name), BATCH, WORKERS)]
        for epoch in contestants:
            rate(epoch())  # the workers start
        with no_garbage_collection():
            rates = [[rate(epoch()) for epoch in contestants] for _ in range(EPOCHS)]
    print(json.dumps({"rates": list(zip(*rates, strict=True)), "size": size}))


def image_loader(_: Options) -> Result:
    """JPEG files to batches of normalised tensors, 2 workers on two cores, an epoch of each in turn."""
    command = [sys.executable, "-c", "from benchmarks.images import loader_child; loader_child()"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The child process that measures the loaders failed:\n{done.stderr}")
    seen = json.loads(done.stdout.splitlines()[-1])
    ours, timms = seen["rates"]
    times = Times(*([1 / value for value in values] for values in (ours, timms)))
    shown = [f"{statistics.median(values):.0f} img/s" for values in seen["rates"]]
    return Result(times.speedup, *shown, times.spread(), f"files of {seen['size'] / 1e3:.0f} kB")


def imagenet_lt_labels() -> Tensor:
    """Labels with about the class sizes of ImageNet-LT: from 1,280 down to 5."""
    ranks = np.arange(IMAGENET_CLASSES) / (IMAGENET_CLASSES - 1)
    counts = (1280 * (5 / 1280) ** ranks**0.62).astype(np.int64)
    counts[0] += SAMPLES - counts.sum()
    return torch.repeat_interleave(torch.arange(IMAGENET_CLASSES), torch.from_numpy(counts))


def unimix_batches(labels: Tensor, batch: int) -> GlobalBatchSampler:
    """A shuffled epoch, each image with a partner of the reversed distribution."""
    plain, partner = ClassPowerSampler(labels, 1.0, replacement=False), ClassPowerSampler(labels, -1.0)
    return GlobalBatchSampler(PairSampler(plain, partner), batch)


class ResNet50(Loop):
    """What the loops share: the network in channels_last, bf16 where the hardware has it, and synthetic pairs."""

    def __init__(self, device: torch.device, batch: int = GPU_BATCH) -> None:
        import timm

        torch.manual_seed(0)
        self.device, self.bf16 = device, has_bf16(device)
        self.model = timm.create_model("resnet50", num_classes=IMAGENET_CLASSES).to(
            device, memory_format=torch.channels_last
        )
        self.pairs = [
            (
                channels_last(torch.randn(batch, 3, SIZE, SIZE)).to(device),
                torch.randint(IMAGENET_CLASSES, (batch,), device=device),
            )
            for _ in range(2)
        ]

    def batches(self) -> Iterator[tuple]:
        while True:
            yield tuple(self.pairs)

    def logits(self, inputs: Tensor) -> Tensor:
        """Of the network, under autocast."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(inputs)


class OurResNet50(ResNet50):
    """UniMix and Bayias, as the recipe has them."""

    def __init__(self, device: torch.device, batch: int = GPU_BATCH) -> None:
        super().__init__(device, batch)
        counts = class_counts(imagenet_lt_labels())
        self.mixer, self.criterion = UniMix(counts, alpha=0.2), BayiasLoss(counts).to(device)

    def loss(self, batch: tuple) -> Tensor:
        first, partner = batch
        inputs, targets = self.mixer(*first, *partner)
        return self.criterion(self.logits(inputs), targets)


class TimmResNet50(ResNet50):
    """timm's Mixup and soft-target cross-entropy, as its training script has them."""

    def __init__(self, device: torch.device, batch: int = GPU_BATCH) -> None:
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy

        super().__init__(device, batch)
        self.mixer = Mixup(mixup_alpha=0.2, num_classes=IMAGENET_CLASSES, label_smoothing=0.0)
        self.criterion: nn.Module = SoftTargetCrossEntropy()

    def loss(self, batch: tuple) -> Tensor:
        (inputs, labels), _ = batch
        # It mixes in place; the batch is used again.
        inputs, targets = self.mixer(inputs.clone(memory_format=torch.channels_last), labels)
        return self.criterion(self.logits(inputs), targets)


def sampler_mixer_share(_: Options) -> Result:
    """Processor time of drawing pairs and mixing a batch with UniMix, in percent of a whole training step."""
    labels = imagenet_lt_labels()
    with threads(1):
        sampler = unimix_batches(labels, CPU_BATCH)
        start = time.thread_time()
        sampler.set_epoch(1)
        steps = sum(1 for _ in sampler)
        drawing = (time.thread_time() - start) / steps
        loop = OurResNet50(torch.device("cpu"), CPU_BATCH)
        optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01, momentum=0.9)
        mixing, whole = [], []
        for batch, _step in zip(loop.batches(), range(4), strict=False):
            start = time.thread_time()
            loop.mixer(*batch[0], *batch[1])
            mixing.append(time.thread_time() - start)
            start = time.thread_time()
            loop.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            whole.append(time.thread_time() - start)
    ours, step = drawing + statistics.median(mixing[1:]), statistics.median(whole[1:])
    note = f"batches of {CPU_BATCH}, {precision(loop.device)}; drawing {show_seconds(drawing)} of it"
    return Result(100 * ours / step, show_seconds(ours), show_seconds(step), note=note)


def resnet50_on_gpu(_: Options) -> Result:
    """ResNet-50, batches of 256 on the GPU, bf16: UniMix and Bayias against timm's Mixup and its loss."""
    device, steps = torch.device("cuda"), 30
    times = race(OurResNet50(device), TimmResNet50(device), blocks=5, steps=steps)
    ours, timms = (steps * GPU_BATCH / statistics.median(taken) for taken in (times.ours, times.reference))
    share = 100 * ours * FLOPS / matmul_rate(device)
    note = (
        f"{torch.cuda.get_device_name()}, {precision(device)}; {share:.0f} % of what a matrix product of 8,192 reaches"
    )
    return Result(times.speedup, f"{ours:.0f} img/s", f"{timms:.0f} img/s", times.spread(), note)


def matmul_rate(device: torch.device, size: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations a second of a large matrix product in bf16."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    F.linear(a, b)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        F.linear(a, b)
    torch.cuda.synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - start)


BENCHMARKS = [
    Benchmark("image_loader", "2 workers", Bar(1.0), image_loader),
    Benchmark("image_sampler_mixer_share", "1", Bar(2, at_least=False, unit="%"), sampler_mixer_share),
    Benchmark("resnet50_training", "all", Bar(1.0), resnet50_on_gpu, gpu=True),
]
