"""The recipe imagenet_lt as it is launched: run folder, evaluation, processes, workers, resuming inside an epoch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from recipe_support import ROOT, Launcher, contents, copy_recipe, rows, settings, summary
from safetensors.torch import load_file

from ltaug import shift_logits
from ltaug.metrics import accuracy

pytest.importorskip("timm")

# Without batch norm, whose statistics are those of each process.
TINY = '''
"""A network that trains in milliseconds."""

from torch import nn


def build_model(num_classes, cfg):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, num_classes),
    )


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())
'''
KILLED = """

import os
import pathlib
import signal

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")


def kill_at_last_step(module, inputs):
    if module.training and FIRST_LIFE.exists():
        steps = int(FIRST_LIFE.read_text()) - 1
        FIRST_LIFE.write_text(str(steps))
        if steps == 0:
            FIRST_LIFE.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


build = build_model


def build_model(num_classes, cfg):
    model = build(num_classes, cfg)
    model.register_forward_pre_hook(kill_at_last_step)
    return model
"""
QUICK = {"threads": 1, "warmup_epochs": 0.5, "augmentation": "color", "image_size": 32}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("tiny_images") / "recipe", TINY, recipe="imagenet_lt")


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tiny: Path) -> Path:
    """Pairs over the whole set, mixed; two epochs on one process without workers."""
    out = tiny.parent / "whole"
    launcher.run(tiny / "train.py", *settings(tiny, "unimix_bayias", out, mix_stop_at=1, **QUICK)).good()
    return out


@pytest.fixture(scope="module")
def real(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unchanged folder elsewhere, an epoch of a timm network with a moving average."""
    recipe = copy_recipe(tmp_path_factory.mktemp("images") / "my_recipe", recipe="imagenet_lt")
    out = recipe.parent / "run"
    changes = {"epochs": 1, "ema": 0.9, "accumulate": 2, "partner": "batch", **QUICK}
    launcher.run(recipe / "train.py", *settings(recipe, "mixup_bayias", out, **changes)).good()
    return out


def test_a_run_leaves_everything(real: Path) -> None:
    names = {path.name for path in real.iterdir()}
    assert names >= {
        "config.yaml",
        "command.txt",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "per_class.csv",
        "logits.safetensors",
        "model.safetensors",
        "ltaug.json",
        "report.html",
        "checkpoints",
    }
    assert summary(real)["training_images"] == sum(summary(real)["class_counts"])
    page = (real / "report.html").read_text()
    assert "Mistakes: few-shot" in page
    assert re.search(r'<img src="data:image/jpeg;base64,[^"]{200,}"', page)


def test_evaluation_repeats_the_run_and_corrects_it(launcher: Launcher, real: Path) -> None:
    before, logits = summary(real)["final"], load_file(real / "logits.safetensors")
    evaluate = real.parent / "my_recipe" / "evaluate.py"
    done = launcher.run(evaluate, real, "--target_prior", "uniform", "--strength", "0.5").good()
    assert summary(real)["final"] == pytest.approx(before, nan_ok=True)
    source = torch.tensor(json.loads((real / "ltaug.json").read_text())["logits_prior"])
    shifted = shift_logits(logits["logits"], source, torch.ones(10), 0.5).softmax(1)
    top1 = 100 * accuracy(shifted, logits["labels"])
    assert f"| {top1:.1f} " in next(line for line in done.out.splitlines() if "strength 0.5" in line)
    assert (
        "needs validation images"
        in launcher.run(evaluate, real, "--target_prior", "uniform", "--strength", "auto").error()
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_equal_one(launcher: Launcher, tiny: Path, whole: Path, workers: int) -> None:
    """Plain batches, whose augmentation is drawn for the place in the epoch; mixing weights are those of a process."""
    one, two = tiny.parent / f"one{workers}", tiny.parent / f"two{workers}"
    changes = {"epochs": 1, "workers": workers, **QUICK}
    launcher.run(tiny / "train.py", *settings(tiny, "bayias", one, **changes | {"workers": 0})).good()
    for process in launcher.ranks(tiny / "train.py", *settings(tiny, "bayias", two, **changes)):
        process.wait().good()
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4, nan_ok=True)
    a, b = (load_file(run / "logits.safetensors")["logits"] for run in (one, two))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_resumes_inside_an_epoch(launcher: Launcher, tiny: Path, whole: Path, tmp_path: Path) -> None:
    recipe = copy_recipe(tmp_path / "recipe", TINY + KILLED, recipe="imagenet_lt")
    steps = summary(whole)["training_images"] // 32
    (recipe / "first_life").write_text(str(steps + 4))  # in the second epoch, behind the checkpoint of its third step
    arguments = settings(recipe, "unimix_bayias", tmp_path / "run", mix_stop_at=1, checkpoint_steps=3, **QUICK)
    assert launcher.run(recipe / "train.py", *arguments).code == -9
    again = launcher.run(recipe / "train.py", *arguments, "--resume", "true").good()
    assert f"Resumed after epoch 1 of 2, step 3 of {steps}." in again.out
    ours, theirs = (contents(run)["model.safetensors"] for run in (tmp_path / "run", whole))
    assert ours == theirs


def test_bad_settings_are_told_in_a_line(launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"batch_size": 30, "accumulate": 4}, "`batch_size`=30 is the global batch and must be a multiple of"),
        ({"batch_size": 4000}, "`batch_size`=4000 exceeds the"),
    ):
        arguments = settings(tiny, "erm", tmp_path / "run", **QUICK | changes)
        assert said in launcher.run(tiny / "train.py", *arguments).error()
    whole = ROOT / "recipes" / "imagenet_lt" / "train.py"
    arguments = settings(whole.parent, "erm", tmp_path / "run", **QUICK | {"model": "resnet51"})
    assert "`model` 'resnet51' is no model of timm" in launcher.run(whole, *arguments).error()
    assert not (tmp_path / "run").exists()
