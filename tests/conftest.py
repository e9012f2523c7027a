"""What the tests share: repeatable randomness, and the devices that are there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No deadline: the first call of a torch function, and a busy machine, are slow. In CI the same examples run every time.
settings.register_profile("local", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A process a core: with two threads each they wait for one another, and take three times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start
    torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes beside this one, each of which imports torch: for the whole suite, not for a file or a test of it."""
    return min(os.cpu_count() or 1, 8) if config.args_source is config.ArgsSource.TESTPATHS else 0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Mixers draw from torch's global generator: every test starts it anew, so that statistical tests never flicker."""
    torch.manual_seed(0)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes to: who opens it waits, and fails after some seconds."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with names")

    def stop(*_: object) -> None:
        raise TimeoutError("waits for a pipe")

    os.mkfifo(tmp_path / "pipe")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine, one after the other."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).resolve().parents[1]
