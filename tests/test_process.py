"""Precision, threads and memory of a process, on processors and systems of all kinds."""

from __future__ import annotations

import ctypes
import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ltaug.errors import UserError
from ltaug.process import (
    autocast_reason,
    autocast_type,
    environment,
    finite_loss,
    peak_memory_bytes,
    reuse_freed_memory,
    set_threads,
)

# What torch.cpu.get_capabilities() says of processors, as far as it matters here.
PROCESSORS: dict[str, tuple[Mapping[str, Any], bool, str]] = {
    "x86 with AMX": ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}, True, "bf16"),
    "x86 with bf16 units": (
        {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False},
        True,
        "bf16",
    ),
    "x86 that emulates bf16": (
        {"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False},
        True,
        "no",
    ),
    "x86 without AVX-512": ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, True, "no"),
    "ARM with bf16 units": ({"architecture": "aarch64", "neon": True, "bf16": True, "sve": True}, True, "bf16"),
    "ARM without": ({"architecture": "aarch64", "neon": True, "bf16": False}, True, "no"),
    "a Mac, whose torch has no oneDNN": ({"architecture": "aarch64", "neon": True, "bf16": True}, False, "no"),
    "one that it does not know": ({}, True, "no"),
}


def pretend(monkeypatch: pytest.MonkeyPatch, capabilities: Mapping[str, Any], onednn: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: types.MappingProxyType(capabilities), raising=False)


@pytest.mark.parametrize("name", PROCESSORS)
def test_auto_is_bf16_only_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    capabilities, onednn, expected = PROCESSORS[name]
    pretend(monkeypatch, capabilities, onednn)
    assert autocast_type("auto") == expected


REASONS = {
    "x86 with AMX": "bf16, since the processor computes in it (amx_bf16, avx512_bf16).",
    "x86 that emulates bf16": (
        "fp32, since the processor has no units for bf16 (amx_bf16, avx512_bf16) and would emulate it."
    ),
    "ARM with bf16 units": "bf16, since the processor computes in it (bf16).",
    "a Mac, whose torch has no oneDNN": "fp32, since this build of torch has no oneDNN, which computes in bf16.",
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_one_line_for_the_log(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    capabilities, onednn, _ = PROCESSORS[name]
    pretend(monkeypatch, capabilities, onednn)
    assert autocast_reason("auto") == f"Precision: {REASONS[name]}"
    assert autocast_reason("bf16") == "Precision: bf16, as asked."
    assert autocast_reason("fp32") == "Precision: fp32, as asked."


def test_the_processor_can_be_asked_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"avx512_bf16": False}, True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert [autocast_type("auto", device) for device in (None, "cuda", "cpu", "mps")] == ["bf16", "bf16", "no", "no"]
    assert autocast_reason("auto") == "Precision: bf16, since the GPU computes in it."


def test_auto_answers_whatever_a_build_of_torch_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that are missing, that have other arguments, or that fail."""

    def fails() -> None:
        raise RuntimeError("not compiled in")

    pretend(monkeypatch, {"avx512_bf16": True}, True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", fails)
        assert autocast_type("auto") == "no"
    for owner, name in ((torch, "backends"), (torch.backends, "mkldnn"), (torch, "cpu")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, types.SimpleNamespace())
            assert autocast_type("auto") == "no"
            assert autocast_reason("auto").startswith("Precision: fp32, since ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert autocast_type("auto") == "bf16"


def test_no_private_operator_is_taken_for_granted(root: Path) -> None:
    """Builds and releases of torch differ in them. Beta draws have a way without; tests may look behind the scenes."""
    private = re.compile(r"\btorch\._(?!_)\w+|\btorch\.ops\.\w+|\btorch\.\w+\._(?!_)\w+|\b_C\b")
    found = {
        f"{path.relative_to(root)}: {match}"
        for folder in ("ltaug", "recipes", "benchmarks", "examples")
        for path in (root / folder).rglob("*.py")
        for match in private.findall(path.read_text(encoding="utf-8"))
    }
    assert found == set()
    planted = "torch.ops.mkldnn._is, torch._sample_dirichlet, torch._C.x, torch.cuda._lazy, F, torch.__version__"
    assert private.findall(planted) == ["torch.ops.mkldnn", "torch._sample_dirichlet", "torch._C", "torch.cuda._lazy"]


def test_auto_needs_no_private_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds for Macs have no operators of oneDNN; early releases of torch no get_capabilities."""
    pretend(monkeypatch, {"avx512_bf16": True}, True)
    monkeypatch.setattr(torch.ops, "mkldnn", types.SimpleNamespace(), raising=False)
    assert autocast_type("auto") == "bf16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert autocast_type("auto") == "no"


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert autocast_type("auto") == expected


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "no"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_a_named_precision_is_taken_whatever_the_hardware(
    monkeypatch: pytest.MonkeyPatch, precision: str, expected: str
) -> None:
    pretend(monkeypatch, {"avx512_bf16": precision == "fp32"}, True)
    assert autocast_type(precision) == expected


@pytest.mark.parametrize(
    ("threads", "processes", "expected"), [(3, "1", 3), (None, "1", 8), (None, "4", 2), (None, "9", 1)]
)
def test_cores_are_shared_between_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, processes: str, expected: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    set_threads(threads)
    assert chosen == [expected]


def test_the_commit_is_that_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "train.py")
    git("commit", "-q", "-m", "x")
    assert environment()["git"] == {"commit": git("rev-parse", "HEAD"), "clean": True}
    script.write_text("changed = 1\n")
    assert environment()["git"] == {"commit": git("rev-parse", "HEAD"), "clean": False}


def test_peak_memory_is_what_the_kernel_says() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no Linux")
    kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory_bytes() == pytest.approx(1024 * kilobytes, rel=0.05)


def test_freed_memory_can_be_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Libc:
        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return 1

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: Libc())
        assert reuse_freed_memory() is True
    assert calls == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h

    def missing(name: str) -> None:
        raise OSError(name)

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", missing)
        assert reuse_freed_memory() is False


def test_a_system_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git"] is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_diverges_ends_the_training(loss: float) -> None:
    assert finite_loss(0.5, 2) == 0.5
    with pytest.raises(UserError, match=rf"The loss is {loss} in epoch 3: .* Lower the learning rate"):
        finite_loss(loss, 2)
