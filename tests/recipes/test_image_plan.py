"""plan.py: memory counted tensor by tensor, hours and cores by the settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from recipe_support import ROOT, Launcher, imported
from torch import nn

RECIPE = ROOT / "recipes" / "imagenet_lt"


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with imported(RECIPE, "config", "model", "plan") as found:
        yield found


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@pytest.mark.parametrize(
    ("changes", "numbers"),
    # Weights and gradients with their buckets, and what each optimiser keeps: a momentum; a mean and a square.
    [({"optimizer": "sgd"}, 1 + 2 + 1), ({"optimizer": "adamw"}, 1 + 2 + 2), ({"optimizer": "sgd", "ema": 0.9}, 5)],
)
def test_memory_of_a_linear_layer(modules: SimpleNamespace, changes: dict, numbers: int) -> None:
    cfg = modules.config.Config(image_size=16, precision="fp32", **changes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5))
    fixed, per_image = modules.plan.training_bytes(model, cfg)
    parameters = 768 * 5 + 5
    assert fixed == parameters * (4 * numbers + 2)  # and a copy in bf16
    assert per_image == 4 * (768 + 5 + 1)  # the input, the logits, the sum of their exponentials
    model[1].weight.requires_grad_(False)
    fixed, _ = modules.plan.training_bytes(model, cfg)
    assert fixed == parameters * (4 * numbers + 2) - 4 * 768 * 5 * (numbers - 1 - ("ema" in changes))


def test_rows_follow_from_the_settings(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules.plan, "build_model", lambda classes, cfg: nn.Linear(classes, 1))
    monkeypatch.setattr(modules.plan, "training_bytes", lambda model, cfg: (2**30, 2**26))
    asked = argparse.Namespace(
        gpus=[1, 8], images_per_second=1000.0, decoded_per_second=100.0, images=36_000, classes=9
    )
    cfg = modules.config.Config(batch_size=256, epochs=10)
    assert rows(modules.plan.table(cfg, asked)) == [
        ["1", "256", "17.0", "6 min", "10"],
        ["8", "32", "3.0", "1 min", "80"],
    ]
    pairs = modules.config.Config(batch_size=256, epochs=1000, mixer="mixup", partner="dataset", accumulate=4)
    assert rows(modules.plan.table(pairs, asked)) == [
        ["1", "256", "5.0", "10.0 h", "20"],
        ["8", "32", "1.5", "1.2 h", "160"],
    ]
    asked.images_per_second = None
    assert rows(modules.plan.table(cfg, asked))[0][3:] == ["–", "–"]
    asked.gpus = [7]
    assert rows(modules.plan.table(cfg, asked)) == [["7", "cannot be split", "–", "–", "–"]]


def test_as_a_command(launcher: Launcher) -> None:
    words = ("--gpus", 2, "--classes", 10, "--", "--model", "test_resnet", "--image_size", 64)
    done = launcher.run(RECIPE / "plan.py", "--images_per_second", 500, *words).good()
    (row,) = rows(done.out)
    assert row[:2] == ["2", "128"]
    assert 0.0 <= float(row[2]) < 1.0
    assert row[3] == f"{90 * 115_846 / 1000 / 3600:.1f} h"
    said = launcher.run(RECIPE / "plan.py", "--images", 0).error()
    assert "`--images` must be positive, but is 0" in said
    said = launcher.run(RECIPE / "plan.py", "--model", "resnet50").error()
    assert "unrecognized arguments: --model. Settings of train.py go behind --." in said
