"""How things are timed and judged here: two contestants in turn, medians, and a bar."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Bar:
    """What a benchmark must reach."""

    limit: float
    at_least: bool = True
    unit: str = "x"

    def met(self, value: float) -> bool:
        """Whether a value reaches it; NaN does not."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"


@dataclass(frozen=True)
class Result:
    """What came out: a value to hold against the bar, or None with the reason in `note`."""

    value: float | None
    ours: str = ""
    reference: str = ""
    spread: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Options:
    """What the command line says to every benchmark."""

    data: Path | None
    """Folder of CIFAR-100 in the columns of the hub; None where there is none."""


@dataclass(frozen=True)
class Benchmark:
    """One line of the table."""

    name: str
    threads: str
    bar: Bar
    run: Callable[[Options], Result]
    gpu: bool = False
    """Needs a GPU; the others run on two processor cores."""


@dataclass(frozen=True)
class Times:
    """Seconds of both contestants, measured in turn."""

    ours: list[float]
    reference: list[float]

    @property
    def speedup(self) -> float:
        """How many times as fast ours is: ratio of the medians."""
        return statistics.median(self.reference) / statistics.median(self.ours)

    @property
    def slowdown(self) -> float:
        """How many times as long ours takes."""
        return 1.0 / self.speedup

    def spread(self, *, slowdown: bool = False) -> tuple[float, float]:
        """The middle half of the ratios of neighbouring measurements."""
        pairs = zip(self.ours, self.reference, strict=True)
        return middle_half([a / b if slowdown else b / a for a, b in pairs])


def side_by_side(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int = 15,
    seconds: float = 0.03,
    clock: Callable[[], float] = time.thread_time,
) -> Times:
    """Time two contestants in turn, A B A B ..., so that whatever disturbs the machine disturbs both.

    Args:
        ours: contestant A.
        reference: contestant B.
        repeats: measurements of each.
        seconds: how long a measurement takes at least; a contestant that is faster is called several times.
        clock: by default the processor time of this thread, which at one thread is the wall time of an idle machine.
    """
    calls = [calls_in(contestant, seconds, clock) for contestant in (ours, reference)]
    times: tuple[list[float], list[float]] = ([], [])
    with no_garbage_collection():
        for _ in range(repeats):
            for contestant, count, taken in zip((ours, reference), calls, times, strict=True):
                start = clock()
                for _ in range(count):
                    contestant()
                taken.append((clock() - start) / count)
    return Times(*times)


def calls_in(contestant: Callable[[], object], seconds: float, clock: Callable[[], float]) -> int:
    """How many calls fill so many seconds; also the warm-up."""
    contestant()
    start = clock()
    contestant()
    return max(1, round(seconds / max(clock() - start, 1e-6)))


def middle_half(values: list[float]) -> tuple[float, float]:
    """First and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def show_seconds(seconds: float) -> str:
    """Three digits in a unit that suits."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from running inside a measurement, as timeit does."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads within one operation of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def cores(count: int) -> Iterator[None]:
    """Run on so many processor cores, child processes included, where the system lets one choose (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def settle_allocator() -> None:
    """Bring glibc's allocator to where one training step brings it.

    glibc learns from the largest block freed so far how much freed memory to keep. In a fresh process a small kernel
    pays for new pages at every call, beside a training loop it does not: without this, results would depend on what ran
    before. It holds for both contestants alike.
    """
    torch.empty(
        31 * 2**20, dtype=torch.uint8
    )  # glibc learns from blocks of up to 32 MiB; never touched, so no memory is used
