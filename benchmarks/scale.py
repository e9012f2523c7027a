"""Samplers at 10^8 samples in 10^5 classes: memory beside the labels, and time to the first batch of an epoch."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, Sampler

from benchmarks.memory import ROOT, child_environment, resident_bytes, show_bytes
from benchmarks.timing import Bar, Benchmark, Options, Result, show_seconds
from ltaug import ClassAwareSampler, ClassPowerSampler, PairSampler, class_counts, class_prior

SAMPLES, CLASSES = 10**8, 10**5
PROCESSES, BATCH = 64, 128


def long_tailed_labels(samples: int, classes: int) -> np.ndarray:
    """Labels in random order, int32: class c is drawn with probability ~ c^(-3/4)."""
    generator = np.random.default_rng(0)
    labels = np.empty(samples, np.int32)
    for piece in np.split(labels, range(2**20, samples, 2**20)):
        piece[:] = classes * generator.random(len(piece)) ** 4
    return labels


def unimix(labels: np.ndarray) -> PairSampler:
    """A shuffled epoch, each sample with a partner from the reversed distribution."""
    return PairSampler(ClassPowerSampler(labels, 1.0, replacement=False), ClassPowerSampler(labels, -1.0))


def between_class(labels: np.ndarray) -> PairSampler:
    """A shuffled epoch, each sample with a partner of another class."""
    plain = ClassPowerSampler(labels, 1.0, replacement=False)
    return PairSampler(plain, plain, different_classes=labels)


def measure(make: Callable[[np.ndarray], Sampler], labels: np.ndarray) -> dict[str, float | None]:
    """Seconds to build, seconds to the last process's first batch of an epoch, peak bytes beside the labels."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = resident_bytes("VmRSS")
    except OSError:
        before = None  # not Linux, or not allowed to
    start = time.process_time()
    class_prior(class_counts(labels))
    sampler = make(labels)
    build = time.process_time() - start
    start = time.process_time()
    sampler.set_epoch(1)
    # As accelerate does it: every process walks through all batches, and keeps every 64th.
    own = itertools.islice(BatchSampler(sampler, BATCH, drop_last=True), PROCESSES - 1, None, PROCESSES)
    next(own)
    seconds = time.process_time() - start
    for _ in itertools.islice(own, 2**22 // (BATCH * PROCESSES) + 1):
        pass  # into the second block, so that what is left of the first one counts
    peak = resident_bytes("VmHWM")
    return {"build": build, "seconds": seconds, "bytes": None if before is None or peak is None else peak - before}


def child(samples: int = SAMPLES, classes: int = CLASSES) -> None:
    """In the child process of `measured`."""
    torch.set_num_threads(1)
    warm = long_tailed_labels(BATCH * PROCESSES, 10)
    for make in SAMPLERS:
        measure(make, warm)
    labels = long_tailed_labels(samples, classes)
    print(json.dumps({make.__name__: measure(make, labels) for make in SAMPLERS}))


@functools.cache
def measured() -> dict[str, dict[str, float | None]]:
    """What both benchmarks show, from one fresh process."""
    command = [sys.executable, "-c", "from benchmarks.scale import child; child()"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The child process that measures the samplers failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(_: Options) -> Result:
    """Peak resident memory beside the labels: tables built, and an epoch begun."""
    seen = {name: one["bytes"] for name, one in measured().items()}
    if None in seen.values():
        return Result(None, note="not measured: the system does not tell")
    worst = max(seen.values())
    return Result(worst / 1e9, show_bytes(worst), note=listed({name: show_bytes(size) for name, size in seen.items()}))


def epoch_start(_: Options) -> Result:
    """Processor time from `set_epoch` to the first batch of the last of 64 processes."""
    seen = measured()
    worst = max(one["seconds"] for one in seen.values())
    note = listed({name: show_seconds(one["seconds"]) for name, one in seen.items()})
    build = max(one["build"] for one in seen.values())
    return Result(worst, show_seconds(worst), note=f"{note}; tables are built once, in {show_seconds(build)}")


def listed(values: dict[str, str]) -> str:
    """One after another."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


SAMPLERS = (unimix, between_class, ClassAwareSampler)
BENCHMARKS = [
    Benchmark("sampler_memory", "1", Bar(1, at_least=False, unit=" GB"), memory),
    Benchmark("sampler_epoch_start", "1", Bar(3, at_least=False, unit=" s"), epoch_start),
]
