"""Recipes are scripts, so their tests start them as processes: from copies of their folder, anywhere on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recipe_support import ROOT, Done, Launcher


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the processes: this tree's ltaug, one thread, no GPU, a hub that is out of reach."""
    ours = ("ACCELERATE_", "HF_", "RANK", "LOCAL_", "WORLD_", "MASTER_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    home = tmp_path_factory.mktemp("hf_home")
    return kept | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "MPLBACKEND": "Agg",
    }


@pytest.fixture(scope="session")
def launcher(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts scripts at the price of a fork."""
    launcher = Launcher(tmp_path_factory.mktemp("launcher"), env)
    yield launcher
    launcher.process.communicate(timeout=60)


@pytest.fixture(scope="session")
def module(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Run `python -m MODULE ARGUMENTS` for real, as a user does."""

    def run(*argv: object, cwd: Path | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, argv)],
            cwd=cwd or tmp_path_factory.getbasetemp(),
            env=env,
            timeout=1200,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
