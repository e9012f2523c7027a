"""Fixtures of the recipes' tests: recipes run in this process, and as processes where only that shows something."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import accelerate.utils.memory
import jsonargparse
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from recipe_support import ROOT, Done, Launcher, Recipe, copy_recipe, imported, tiny_model

import ltaug.commandline
import ltaug.process
import ltaug.report._figures
import ltaug.run

OURS = ("ACCELERATE_", "HF_", "RANK", "LOCAL_", "WORLD_", "MASTER_", "PYTHON", "LTAUG_")
"""Variables of the environment that must not come from outside."""


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the processes: this tree's ltaug, one thread, no GPU, a hub that is out of reach."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    home = tmp_path_factory.mktemp("hf_home")
    return kept | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "LTAUG_CACHE": str(home),
        "MPLBACKEND": "Agg",
    }


_environment = functools.cache(ltaug.process.environment)


@pytest.fixture(scope="module", autouse=True)  # not of the session: tests outside this folder must not inherit it
def _this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A training in this process: on the CPU, the caches in a folder of its own, the hub out of reach."""
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith(OURS)]:
            patch.delenv(key)
        for key, value in {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}.items():
            patch.setenv(key, value)
        patch.setenv("LTAUG_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Slow, and of no use to a test: collecting garbage at a run's end; asking git and pip again for every run.
        patch.setattr(accelerate.utils.memory, "gc", SimpleNamespace(collect=lambda: None))
        patch.setattr(ltaug.run, "environment", _environment)
        # The same of encoding the figures of a report, which takes longer than a training; processes encode theirs.
        patch.setattr(ltaug.report._figures, "encode", lambda figure: ltaug.report._figures.Picture("data:,", 520, 320))
        patch.setattr(os, "fsync", lambda handle: None)  # nothing here outlives the machine
        # The same of reading the sources for the texts of --help, whenever settings are parsed.
        patch.setattr(ltaug.commandline, "set_parsing_settings", lambda **_: None)
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
        with contextlib.suppress(ImportError):
            import datasets
            import huggingface_hub

            datasets.disable_progress_bars()
            patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))
            patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
            patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
            patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


@pytest.fixture(autouse=True)
def _accelerate_anew() -> Iterator[None]:
    """The state that all accelerators of a process share, such as their precision, is a test's own."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    torch.set_num_threads(threads)


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """cifar_lt, copied, with a small network with batch norm."""
    with imported(copy_recipe(tmp_path_factory.mktemp("tiny") / "cifar_lt", tiny_model())) as recipe:
        yield recipe
