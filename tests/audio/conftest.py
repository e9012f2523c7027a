"""Tests of sound in this process: the recipe as a module, small trainings, nothing outside the test's own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sound_support import RATE, RECIPE, small_source, small_training, tiny_model

from ltaug import training


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep `datasets` and the cache of clips to the test's own folder."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "ltaug_cache"))
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture(scope="session")
def _modules() -> dict[str, ModuleType]:
    names = ("data", "model", "train")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(RECIPE))
    modules = {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(RECIPE))
    for name in names:
        del sys.modules[name]
    sys.modules.update(others)
    return modules


@pytest.fixture
def recipe(_modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The recipe's modules, whose names other recipes have, too: importable during the test only."""
    for name, module in _modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(**_modules)


@pytest.fixture
def load(recipe: SimpleNamespace) -> Callable[..., Any]:
    """load_data with some settings."""

    def run(**changes: Any) -> Any:
        values = {"dataset": "folder", "sample_rate": RATE, "imbalance_ratio": 4.0, "test_per_class": 2}
        values |= {"cache_dir": "none"} | changes
        values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return recipe.data.load_data(recipe.data.DataSettings(**values))

    return run


@pytest.fixture
def train(recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Train a tiny network in this process; returns the run folder."""
    monkeypatch.setattr(recipe.data, "synthetic_source", small_source)
    monkeypatch.setattr(recipe.train, "build_model", tiny_model)
    threads = torch.get_num_threads()

    def run(*words: object, out: str = "run", **settings: object) -> Path:
        arguments = small_training(*words, out=tmp_path / out, **settings)
        recipe.train.main(training.settings_of(recipe.train.Config, recipe.train.__file__, arguments))
        return tmp_path / out

    yield run
    torch.set_num_threads(threads)
