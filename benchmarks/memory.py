"""Memory: what a ResidentLoader holds, and the peak of a whole CIFAR-100-LT run; and the run's time on a GPU."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kernels import cifar100_lt, pair_loader
from benchmarks.timing import Bar, Benchmark, Options, Result

ROOT = Path(__file__).parent.parent
RECIPE = Path("recipes") / "cifar_lt"


def held_by_loader(images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Bytes held by a loader of pairs in the middle of an epoch, and what the set and two batches come to.

    Every tensor that Python knows is asked for its storage, so that a hidden copy of the set could not be missed.
    """
    before = storages()
    before.pop(images.untyped_storage().data_ptr(), None)
    loader = pair_loader(images, labels)
    stream = iter(loader)
    next(stream)
    (first, _), (partner, _) = next(stream)
    held = sum(size for pointer, size in storages().items() if pointer not in before)
    return held, sum(tensor.numel() * tensor.element_size() for tensor in (images, first, partner))


def storages() -> dict[int, int]:
    """Address and bytes of the memory behind all live tensors."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            storage = thing.untyped_storage()
            # Tensors on "meta", and the fake ones that an export leaves behind, have no memory.
            if storage.device.type != "meta":
                found[storage.data_ptr()] = storage.nbytes()
    return found


def resident_bytes(field: str) -> int | None:
    """VmRSS (now) or VmHWM (peak) of this process; None where the system is not Linux."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def loader_child() -> None:
    """In the child process of `resident_loader`: tensors held, and growth of resident memory over an epoch."""
    torch.set_num_threads(1)
    warm_images, warm_labels = torch.zeros(256, 32, 32, 3, dtype=torch.uint8), torch.arange(256) % 10
    list(pair_loader(warm_images, warm_labels))
    images, labels, _ = cifar100_lt()
    held, expected = held_by_loader(images, labels)
    growth = None
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = resident_bytes("VmRSS")
        for _batch in pair_loader(images, labels):
            pass
        growth = resident_bytes("VmHWM") - before
    except (OSError, TypeError):
        pass  # not Linux, or not allowed to
    print(json.dumps({"held": held, "expected": expected, "growth": growth}))


def resident_loader(_: Options) -> Result:
    """Tensors held by the loader of CIFAR-100-LT, against the uint8 set and two batches."""
    command = [sys.executable, "-c", "from benchmarks.memory import loader_child; loader_child()"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The child process that measures the loader failed:\n{done.stderr}")
    seen = json.loads(done.stdout.splitlines()[-1])
    growth = "" if seen["growth"] is None else f"; an epoch adds {seen['growth'] / 1e6:.1f} MB resident at its peak"
    return Result(
        seen["held"] / seen["expected"],
        f"{seen['held'] / 1e6:.2f} MB",
        f"{seen['expected'] / 1e6:.2f} MB",
        note=f"set + two batches; ours has labels and the epoch's indices besides{growth}",
    )


def run_peak(options: Options) -> Result:
    """Peak resident memory of an epoch of the recipe on the CPU, evaluation and saving included: `summary.json`."""
    if options.data is None:
        return Result(None, note="not measured: no data (`--data FOLDER` with CIFAR-100)")
    summary, peak = train(options.data, ["--epochs", "1"], {"ACCELERATE_USE_CPU": "true"})
    said = summary["peak_memory_bytes"]
    worst = max(said or 0, peak or 0)
    if not worst:
        return Result(None, note="not measured: the system does not tell")
    return Result(
        worst / 1e9, show_bytes(said), note=f"summary.json after 1 epoch; the system's own count {show_bytes(peak)}"
    )


def run_seconds(options: Options) -> Result:
    """Wall time of 200 epochs of the recipe on a GPU: `summary.json`."""
    if options.data is None:
        return Result(None, note="not measured: no data (`--data FOLDER` with CIFAR-100)")
    summary, _ = train(options.data, ["--epochs", "200", "--compile", "true", "--checkpoint_every", "200"], {})
    accuracy = summary["final"]["accuracy"]
    return Result(
        summary["wall_time_s"], f"{summary['wall_time_s']:.1f} s", note=f"summary.json; accuracy {accuracy:.4f}"
    )


def train(data: Path, arguments: list[str], environment: dict[str, str]) -> tuple[dict, int | None]:
    """Run the recipe; its summary, and the peak resident bytes that the system counted for the process."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "run", Path(folder) / "log.txt"
        command = [
            sys.executable,
            str(RECIPE / "train.py"),
            "--method",
            "unimix_bayias",
            "--data_dir",
            str(data),
            "--out",
            str(out),
            *arguments,
        ]
        with log.open("w") as file:
            child = subprocess.Popen(command, cwd=ROOT, env=child_environment() | environment, stdout=file, stderr=file)
            status, peak = wait(child)
        if status:
            raise RuntimeError(f"The recipe failed ({' '.join(command)}):\n{log.read_text()[-2000:]}")
        return json.loads((out / "summary.json").read_text()), peak


def wait(child: subprocess.Popen) -> tuple[int, int | None]:
    """Exit status and peak resident bytes of a child process; None where the system does not tell."""
    if not hasattr(os, "wait4"):
        return child.wait(), None
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def child_environment() -> dict[str, str]:
    """This tree's ltaug for the child processes, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}


def show_bytes(size: int | None) -> str:
    """In GB of 10^9 bytes."""
    return "unknown" if size is None else f"{size / 1e9:.2f} GB"


BENCHMARKS = [
    Benchmark("resident_loader", "1", Bar(1.01, at_least=False), resident_loader),
    Benchmark("run_peak_memory", "2", Bar(1.6, at_least=False, unit=" GB"), run_peak),
    Benchmark("run_200_epochs_gpu", "all", Bar(90, at_least=False, unit=" s"), run_seconds, gpu=True),
]
