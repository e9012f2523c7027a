"""Calibration of a set in the size of iNaturalist's validation split, in one pass from logits: time and memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.memory import ROOT, child_environment, resident_bytes
from benchmarks.timing import Bar, Benchmark, Options, Result, no_garbage_collection, show_seconds, threads
from ltaug.metrics import StreamingReport

SAMPLES, CLASSES = 24_426, 8_142


def random_logits(samples: int = SAMPLES, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits as a model of about 60 % top-1 gives them, and the labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits[torch.arange(samples), labels] += 2.5 + 3.0 * torch.rand(samples, generator=generator)
    return logits.mul_(2.0), labels


def one_pass(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The whole report: ECE, class-wise ECE, Brier and NLL, and the accuracies besides."""
    report = StreamingReport(torch.ones(logits.shape[1], dtype=torch.int64))
    report.update(logits, labels)
    return report.compute()


def calibration(_: Options) -> Result:
    """Seconds of a pass, at two threads."""
    logits, labels = random_logits()
    wall, processor = [], []
    with threads(2), no_garbage_collection():
        one_pass(logits[:1024], labels[:1024])
        for _repeat in range(5):
            start, busy = time.perf_counter(), time.process_time()
            one_pass(logits, labels)
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - busy)
    median = statistics.median(wall)
    note = (
        f"processor time {show_seconds(statistics.median(processor))} on both cores; fastest {show_seconds(min(wall))}"
    )
    return Result(median, show_seconds(median), note=note)


def memory_child() -> None:
    """In the child process of `calibration_memory`: bytes of the logits, and growth of resident memory over a pass."""
    torch.set_num_threads(2)
    logits, labels = random_logits()
    one_pass(logits[:8], labels[:8])
    growth = None
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = resident_bytes("VmRSS")
        one_pass(logits, labels)
        growth = resident_bytes("VmHWM") - before
    except (OSError, TypeError):
        pass  # not Linux, or not allowed to
    print(json.dumps({"input": logits.numel() * logits.element_size(), "growth": growth}))


def calibration_memory(_: Options) -> Result:
    """Peak of a pass, the logits included, against the logits."""
    command = [sys.executable, "-c", "from benchmarks.calibration import memory_child; memory_child()"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The child process that measures the pass failed:\n{done.stderr}")
    seen = json.loads(done.stdout.splitlines()[-1])
    if seen["growth"] is None:
        return Result(None, note="not measured: the system does not tell")
    size, growth = seen["input"], seen["growth"]
    return Result((size + growth) / size, f"{(size + growth) / 1e6:.0f} MB", f"{size / 1e6:.0f} MB")


BENCHMARKS = [
    Benchmark("calibration", "2", Bar(1.2, at_least=False, unit=" s"), calibration),
    Benchmark("calibration_memory", "2", Bar(1.1, at_least=False), calibration_memory),
]
