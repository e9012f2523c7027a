"""Two processes of a recipe of large image sets equal one: augmentation by place, uneven last batches, shards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipe_support import Launcher, copy_recipe, rows, summary, wait_for_all, write_shards
from safetensors.torch import load_file

# Without batch norm, whose statistics are those of each process.
TINY = '''
"""A network that trains in milliseconds."""

from dataclasses import dataclass

from torch import nn


@dataclass
class ModelSettings:
    """No setting."""


def build_model(num_classes, cfg, data):
    layers = nn.Conv2d(3, 8, 5, 4), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
    model = nn.Sequential(*layers)
    model.fc = nn.Linear(72, num_classes)
    return model
'''
COUNTS = (30, 16, 9, 5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("images") / "recipe", TINY, recipe="imagenet_lt")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), COUNTS)


def words(out: Path, shards: Path, **changes: object) -> list[str]:
    values = {
        "out": out,
        "dataset": "hub",
        "data_dir": shards,
        "epochs": 2,
        "batch_size": 10,
        "image_size": 32,
        "augmentation": "plain",
        "threads": 1,
        "workers": 1,
        "precision": "fp32",
        "eval_every": 1,
        "report": False,
        **changes,
    }
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def test_two_processes_equal_one(launcher: Launcher, recipe: Path, shards: Path) -> None:
    """The test set's 21 images are shared unevenly; a share is split into parts."""
    one, two = recipe.parent / "one", recipe.parent / "two"
    changes = {"method": "bayias", "accumulate": 2}
    launcher.run(recipe / "train.py", *words(one, shards, workers=0, **changes)).good()
    wait_for_all(launcher.ranks(recipe / "train.py", *words(two, shards, **changes)))
    assert summary(two)["num_processes"] == 2
    for a, b in zip(rows(one), rows(two), strict=True):
        assert {key for key in a if a[key] is None} == {key for key in b if b[key] is None}  # groups without a class
        numbers = {key: value for key, value in b.items() if value is not None}
        assert {key: a[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-4)
    a, b = (load_file(run / "logits.safetensors") for run in (one, two))
    assert torch.equal(a["labels"], b["labels"])
    torch.testing.assert_close(a["logits"], b["logits"], rtol=1e-3, atol=1e-3)


def test_two_processes_share_a_stream(launcher: Launcher, recipe: Path, shards: Path) -> None:
    """One of them reads the images of the pool, the other one waits."""
    out = recipe.parent / "stream"
    changes = {"method": "class_balanced", "epochs": 1, "stream": True, "stream_buffer": 5}
    running = launcher.ranks(recipe / "train.py", *words(out, shards, **changes))
    done = [process.wait().good() for process in running]
    assert sum(each.err.count("Reading 20 images of train once") for each in done) == 1
    assert summary(out)["class_counts"] == [2 * count for count in COUNTS]
