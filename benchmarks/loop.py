"""The training loop: ResNet-32, UniMix and Bayias at B=128, as the recipe has it and as plain code has it.

Both train the same network on the same stream: pairs over the whole set, the first instance-balanced, the partner
class-balanced; SGD.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.kernels import BATCH, cifar100_lt, pair_loader
from benchmarks.plain import PlainImages, PlainPairs, cifar_transform, unimix_image_by_image
from benchmarks.timing import Bar, Benchmark, Options, Result, Times, threads
from ltaug import BayiasLoss, UniMix, class_prior
from ltaug.process import autocast_type, reuse_freed_memory

MODEL = Path(__file__).parent.parent / "recipes" / "cifar_lt" / "model.py"
WARM_UP = 4
"""Steps before the clock starts in every block: workers are up by then, and their queues are as full as they stay."""


def build_model() -> nn.Module:
    """The recipe's ResNet-32 with 100 classes, loaded by path: a recipe is no package."""
    spec = importlib.util.spec_from_file_location("benchmarks_recipe_model", MODEL)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"The model of the recipe is not at {MODEL}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.ResNet(100)


class Contestant(Protocol):
    """Whatever can run a block of steps."""

    def block(self, steps: int) -> float:
        """Seconds of so many steps in the middle of an epoch."""
        ...


class Loop:
    """What both loops share: an optimiser, and a block of steps by the clock."""

    device: torch.device
    model: nn.Module

    def batches(self) -> Iterator[tuple]:
        """A new epoch."""
        raise NotImplementedError  # each loop has its own

    def loss(self, batch: tuple) -> Tensor:
        """From a batch of `batches` to the loss."""
        raise NotImplementedError  # each loop has its own

    def block(self, steps: int) -> float:
        """Seconds of so many steps in the middle of an epoch."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-4)
        self.model.train()
        total = torch.zeros((), device=self.device)
        # The loader has more batches than are used, so that its workers are as busy at the end as at the beginning.
        stream = itertools.chain.from_iterable(self.batches() for _ in itertools.count())
        start = 0.0
        for step, batch in enumerate(itertools.islice(stream, WARM_UP + steps)):
            if step == WARM_UP:
                self.wait()
                start = time.perf_counter()
            loss = self.loss(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class OurLoop(Loop):
    """The recipe's: a resident set, bf16 where the hardware has it, channels_last; compiled on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        images, labels, counts = cifar100_lt()
        self.loader = pair_loader(images, labels, device)
        self.mixer = UniMix(counts, alpha=0.8)
        self.criterion = BayiasLoss(counts).to(device)
        self.model = build_model().to(device, memory_format=torch.channels_last)
        # As the recipe's `compile` says: it pays on a GPU, not on a CPU.
        self.forward = torch.compile(self.model) if device.type == "cuda" else self.model
        self.bf16 = has_bf16(device)
        self.epoch = 0

    def batches(self) -> Iterator[tuple]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        return iter(self.loader)

    def loss(self, batch: tuple) -> Tensor:
        first, partner = batch
        inputs, targets = self.mixer(*first, *partner)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(inputs)
        return self.criterion(logits, targets)


class PlainLoop(Loop):
    """The usual one: PIL transforms in a DataLoader of two workers, fp32, NCHW, mixing image by image.

    On a GPU the batch is mixed before it is moved, which is faster than hundreds of small launches after.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        images, labels, counts = cifar100_lt()
        samples = PlainImages(images.numpy(), labels.tolist(), cifar_transform())
        self.loader = DataLoader(
            PlainPairs(samples), BATCH, shuffle=True, num_workers=2, drop_last=True, pin_memory=device.type == "cuda"
        )
        self.counts = counts.numpy()
        self.rng = np.random.default_rng(0)
        self.log_prior = class_prior(counts).log().float().to(device)
        self.model = build_model().to(device)

    def batches(self) -> Iterator[tuple]:
        return iter(self.loader)

    def loss(self, batch: tuple) -> Tensor:
        images, labels, partner_images, partner_labels = batch
        inputs, targets = unimix_image_by_image(
            images, labels, self.counts, 0.8, self.rng, partner_images, partner_labels
        )
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        return F.cross_entropy(self.model(inputs) + self.log_prior, targets)


def race(ours: Contestant, plain: Contestant, *, blocks: int, steps: int) -> Times:
    """Both loops in turn, a block of steps each."""
    for loop in (ours, plain):
        loop.block(1)
    times = [(ours.block(steps), plain.block(steps)) for _ in range(blocks)]
    return Times(*(list(column) for column in zip(*times, strict=True)))


def result(times: Times, steps: int, note: str) -> Result:
    """Ratio and images a second."""
    ours, plain = (steps * BATCH / statistics.median(taken) for taken in (times.ours, times.reference))
    return Result(times.speedup, f"{ours:.0f} img/s", f"{plain:.0f} img/s", times.spread(), note)


def in_one_process(_: Options) -> Result:
    """The race on two cores, in this process, whose allocator is as it comes."""
    device, steps = torch.device("cpu"), 15
    with threads(2):
        times = race(OurLoop(device), PlainLoop(device), blocks=5, steps=steps)
    return result(times, steps, f"{precision(device)}, in one process, without reuse_freed_memory()")


def as_launched(_: Options) -> Result:
    """The race as the recipe runs it, with `reuse_freed_memory`, which the plain loop does not have.

    That switches a whole process and cannot be undone, so each loop has a process of its own, and they take turns.
    """
    steps = 15
    with elsewhere(OurLoop, reuse_memory=True) as ours, elsewhere(PlainLoop, reuse_memory=False) as plain:
        times = race(ours, plain, blocks=5, steps=steps)
    return result(times, steps, f"{precision(torch.device('cpu'))}, ours with reuse_freed_memory(), a process each")


class Elsewhere:
    """A loop in another process, which waits while it is not its turn."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def block(self, steps: int) -> float:
        """Seconds of so many steps, by the other process's clock."""
        self.connection.send(steps)
        return self.connection.recv()


@contextlib.contextmanager
def elsewhere(loop: type[Loop], *, reuse_memory: bool) -> Iterator[Elsewhere]:
    """Start a loop in a fresh process, and end it in the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=serve, args=(loop, reuse_memory, there))
    child.start()
    there.close()  # so that a child that dies is noticed as the end of the stream
    try:
        yield Elsewhere(here)
        here.send(0)
    finally:
        here.close()
        child.join(timeout=30)
        if child.is_alive():
            child.terminate()


def serve(loop: type[Loop], reuse_memory: bool, connection: Connection) -> None:
    """What the other process does: a block whenever it is asked for one, until it is asked for none."""
    if reuse_memory:
        reuse_freed_memory()
    torch.set_num_threads(2)
    contestant = loop(torch.device("cpu"))
    with contextlib.suppress(EOFError):
        while steps := connection.recv():
            connection.send(contestant.block(steps))


def on_gpu(_: Options) -> Result:
    """The race on a GPU, with all processor cores."""
    device, steps = torch.device("cuda"), 80
    times = race(OurLoop(device), PlainLoop(device), blocks=5, steps=steps)
    return result(times, steps, f"{torch.cuda.get_device_name()}, {precision(device)}, compiled")


def has_bf16(device: torch.device) -> bool:
    """Whether the recipe's `precision: auto` would choose bf16."""
    return autocast_type("auto", device.type) == "bf16"


def precision(device: torch.device) -> str:
    """What our loop computes in."""
    return "ours bf16" if has_bf16(device) else "ours fp32 (no bf16 in this hardware)"


BENCHMARKS = [
    Benchmark("training_loop", "2 + 2 workers", Bar(2.2), in_one_process),
    Benchmark("training_loop_as_launched", "2 + 2 workers", Bar(2.2), as_launched),
    Benchmark("training_loop_gpu", "all", Bar(8), on_gpu, gpu=True),
]
