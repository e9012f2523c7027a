"""Precision, threads and memory of the process that trains, and what it runs on."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ltaug.errors import UserError

__all__ = [
    "autocast_reason",
    "autocast_type",
    "environment",
    "finite_loss",
    "peak_memory_bytes",
    "reuse_freed_memory",
    "set_threads",
]

_PACKAGES = ("ltaug", "torch", "numpy", "accelerate", "torchvision", "torchaudio", "timm", "datasets")


def autocast_type(precision: str, device: str | None = None) -> str:
    """Accelerate's word for a precision: "fp32", "bf16", "fp16", or "auto", which is bf16 where the hardware has it.

    On a CPU "auto" is bf16 only if the processor itself multiplies in bf16. Others emulate it, and train slower than in
    fp32. :func:`autocast_reason` says what was found.

    Args:
        precision: see above.
        device: type of the device to choose for; by default a GPU of CUDA or ROCm if there is one, else the CPU.

    >>> autocast_type("fp32"), autocast_type("bf16")
    ('no', 'bf16')
    """
    if precision != "auto":
        return "no" if precision == "fp32" else precision
    return _choice(device)[0]


def autocast_reason(precision: str, device: str | None = None) -> str:
    """What a run computes in and why, in one line, for the log.

    >>> autocast_reason("fp32")
    'Precision: fp32, as asked.'
    """
    chosen = autocast_type(precision, device).replace("no", "fp32")
    return f"Precision: {chosen}, {'as asked' if precision != 'auto' else _choice(device)[1]}."


def _choice(device: str | None) -> tuple[str, str]:
    """Accelerate's word for the best precision of a device, and the reason.

    Only public functions are asked, and any may be missing: in builds without CUDA or oneDNN, in older torch.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if _gpu_has_bf16():
            return "bf16", "since the GPU computes in it"
        return "fp16", "since the GPU does not compute in bf16"
    if device != "cpu":
        return "no", f"since nothing is known of bf16 on {device!r}"
    if not _answer("backends", "mkldnn", "is_available"):
        return "no", "since this build of torch has no oneDNN, which computes in bf16"
    capabilities = _answer("cpu", "get_capabilities") or {}
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(unit) is True]
    if units:
        return "bf16", f"since the processor computes in it ({', '.join(units)})"
    return "no", "since the processor has no units for bf16 (amx_bf16, avx512_bf16) and would emulate it"


def _answer(*names: str) -> Any:
    """Call a function of torch by the path of its name; None where there is no such function or no answer."""
    owner: Any = torch
    try:
        for name in names:
            owner = getattr(owner, name)
        return owner()
    # Builds differ: the name may be missing, stand for a backend that was left out, or be no function.
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None


def _gpu_has_bf16() -> bool:
    try:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    except TypeError:  # before torch 2.4 there was no such argument, and no emulation
        return bool(torch.cuda.is_bf16_supported())


def finite_loss(loss: float, epoch: int) -> float:
    """Pass a finite loss through, and stop a training that has diverged before anything of it is saved.

    Args:
        loss: mean of an epoch.
        epoch: counted from 0.

    Raises:
        UserError: the loss is infinite or NaN. A ValueError, too.

    >>> finite_loss(2.5, epoch=3)
    2.5
    """
    if not math.isfinite(loss):
        raise UserError(
            f"The loss is {loss} in epoch {epoch + 1}: the training has diverged. The last checkpoint is from before. "
            "Lower the learning rate, warm up for longer, or train in fp32."
        )
    return loss


def set_threads(threads: int | None) -> None:
    """Give torch its CPU threads; by default all cores of this machine, shared between its processes.

    Not left to the environment: ``accelerate launch`` sets OMP_NUM_THREADS to 1 where nobody else has set it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process so far; None where the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reuse_freed_memory() -> bool:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system.

    A training step on a CPU frees and takes the same large blocks again; by default each one goes back to the system
    and comes as fresh pages, which the kernel must fill with zeros first. Keeping them made a bf16 ResNet-32 step 1.3
    to 1.4 times as fast; the process then holds on to its peak memory. Call it once, before training. It does nothing
    on a GPU's memory. ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647`` in the environment does the same.

    Returns:
        Whether it could be switched on (glibc only).
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_max, trim_threshold = -4, -1
        return bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def environment() -> dict[str, Any]:
    """Versions, hardware and git commit: what a number depends on besides its settings.

    Returns:
        Plain values: python, packages, system, processor, threads, accelerator, and git: the commit of the running
        script and whether its tree was clean, or None outside a repository.
    """
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    packages["torch"] = str(torch.__version__)  # with the build, which the package's metadata leaves out
    return {
        "python": platform.python_version(),
        "packages": packages,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Commit of the tree that the running script lies in, or None outside a repository."""
    folder = Path(sys.argv[0]).resolve().parent if sys.argv and sys.argv[0] else Path.cwd()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "clean": git("status", "--porcelain", "--untracked-files=no") == ""}
    except (OSError, subprocess.SubprocessError):
        return None
