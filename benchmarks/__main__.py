"""Print every ratio of speed and memory that ltaug promises, beside its bar.

    python -m benchmarks             # the table, about four minutes
    python -m benchmarks --check     # the same; exit status 1 if a bar is missed
    python -m benchmarks --list      # names and bars
    python -m benchmarks --only augmentation unimix_partners

README.md says what is compared with what.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import calibration, envnet, images, kernels, loop, memory, scale, segmentation, sound
from benchmarks.timing import Benchmark, Options, Result, cores
from ltaug.process import environment

BENCHMARKS = [
    *kernels.BENCHMARKS,
    *sound.BENCHMARKS,
    *calibration.BENCHMARKS,
    *loop.BENCHMARKS,
    *envnet.BENCHMARKS,
    *images.BENCHMARKS,
    *memory.BENCHMARKS,
    *scale.BENCHMARKS,
    *segmentation.BENCHMARKS,
]
DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "cifar100"
LINE = "{:<27} {:<14} {:>11} {:>11} {:>8} {:<15} {:<10} {:<4} {}"


def main(arguments: Sequence[str] | None = None, benchmarks: Sequence[Benchmark] = BENCHMARKS) -> int:
    """Run the chosen benchmarks; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory of ltaug beside plain code."
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 if a bar is missed")
    parser.add_argument("--list", action="store_true", help="only print the names and bars")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[one.name for one in benchmarks], help="only these"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of CIFAR-100 in the columns of the hub; by default ../shared/data/cifar100"
    )
    asked = parser.parse_args(arguments)
    if asked.data is not None and not asked.data.is_dir():
        parser.error(f"`--data` {asked.data} is no folder.")
    chosen = [one for one in benchmarks if asked.only is None or one.name in asked.only]
    if asked.list:
        for one in chosen:
            print(f"{one.name:<27} {one.bar}")
        return 0
    data = asked.data or (DATA if DATA.is_dir() else None)
    options = Options(data.resolve() if data else None)

    print(machine())
    print(LINE.format("name", "threads", "ours", "reference", "ratio", "middle half", "bar", "ok", "").rstrip())
    missed, unmeasured = [], []
    for gpu in (False, True):
        for one in (one for one in chosen if one.gpu == gpu):
            result = run(one, options)
            print(row(one, result), flush=True)
            if result.value is None:
                unmeasured.append(one.name)
            elif not one.bar.met(result.value):
                missed.append(one.name)
    print(
        f"{len(chosen) - len(missed) - len(unmeasured)} of {len(chosen)} bars reached"
        + (f"; missed: {', '.join(missed)}" if missed else "")
        + (f"; not measured: {', '.join(unmeasured)}" if unmeasured else "")
    )
    return 1 if asked.check and missed else 0


def run(one: Benchmark, options: Options) -> Result:
    """One benchmark, on two processor cores unless it is for a GPU."""
    if one.gpu:
        return one.run(options) if torch.cuda.is_available() else Result(None, note="not measured: no GPU at hand")
    with cores(2):
        return one.run(options)


def row(one: Benchmark, result: Result) -> str:
    """A line of the table."""
    spread = f"[{result.spread[0]:.2f}..{result.spread[1]:.2f}]" if result.spread else ""
    value = "" if result.value is None else f"{result.value:.{2 if result.value < 10 else 1}f}{one.bar.unit}"
    ok = "-" if result.value is None else "yes" if one.bar.met(result.value) else "NO"
    return LINE.format(
        one.name, one.threads, result.ours, result.reference, value, spread, str(one.bar), ok, result.note
    ).rstrip()


def machine() -> str:
    """What the numbers depend on."""
    facts = environment()
    torch_version, gpu = facts["packages"].get("torch"), facts["accelerator"] or "no GPU"
    text = f"{facts['processor']}, {os.cpu_count()} cores, torch {torch_version}, {gpu}"
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return text + (
        f"\nThe load average is {busy:.1f}: other programs are running, and ratios will be off." if busy > 0.5 else ""
    )


if __name__ == "__main__":
    sys.exit(main())
