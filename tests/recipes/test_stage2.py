"""The second stage: every classifier, what it may change and what not, resuming, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from recipe_support import Launcher, contents, copy_recipe, rows, settings, summary
from safetensors.torch import load_file

MODEL = '''
"""A small network with the parts that a second stage needs: batch norm, and a last layer named fc."""

from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.fc = nn.Linear(72, num_classes)

    def forward(self, x):
        return self.fc(self.body(x))


def build_model(num_classes, in_channels=3):
    return Net(num_classes, in_channels)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
'''
TRAINED = ("crt", "lws", "mislas")
COMPUTED = ("tau_norm", "ncm")
FILES = {"config.yaml", "stage1.yaml", "summary.json", "logits.safetensors", "model.safetensors", "ltaug.json"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("stage2") / "recipe", MODEL)


@pytest.fixture(scope="module")
def first(launcher: Launcher, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished first stage."""
    out = tmp_path_factory.mktemp("first") / "digits_ir50_erm_seed0"
    launcher.run(recipe / "train.py", *settings(recipe, "erm", out, seed=3)).good()
    return out


def second(recipe: Path, method: str, first: Path, out: Path, **changes: object) -> list[str]:
    """Arguments of a short second stage."""
    values = {"from_run": first, "out": out} | ({"epochs": 2, "batch_size": 32} if method in TRAINED else {}) | changes
    words = ["--config", str(recipe / "configs" / f"{method}.yaml")]
    return words + [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("method", [*TRAINED, *COMPUTED])
def test_every_classifier(launcher: Launcher, recipe: Path, first: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / method
    done = launcher.run(recipe / "train_stage2.py", *second(recipe, method, first, out)).good()
    assert {*contents(out)} > FILES
    values = summary(out)
    assert (values["name"], values["stage1"], values["seed"]) == (method, "erm", 3)
    assert values["index_hash"] == summary(first)["index_hash"]
    assert values["parameters"] == summary(first)["parameters"]
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    # The network is the first stage's; the classifier is another one; batch norm follows only where it is told to.
    for name, value in after.items():
        statistics = "running" in name or "num_batches" in name
        same = torch.equal(value, before[name])
        assert same != (name.startswith("fc.weight") or (statistics and method == "mislas")) or name == "fc.bias", name
    prior = json.loads((out / "ltaug.json").read_text())["logits_prior"]
    assert prior == (pytest.approx([0.1] * 10) if method in TRAINED else None)
    again = launcher.run(recipe / "evaluate.py", out, cwd=tmp_path).good()
    line = next(line for line in done.out.splitlines() if line.startswith(f"| {method}"))
    assert line in again.out.splitlines()
    assert summary(out) == values


def test_nearest_class_mean_is_that_of_the_training_set(
    launcher: Launcher, recipe: Path, first: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ncm"
    launcher.run(recipe / "train_stage2.py", *second(recipe, "ncm", first, out)).good()
    script = tmp_path / "means.py"
    script.write_text(
        f"import sys; sys.path[0] = {str(recipe)!r}\n"
        "import torch\nfrom config import parse_config\nfrom data import load_data\nfrom model import build_model\n"
        "from safetensors.torch import load_file\nfrom ltaug import ResidentLoader\n"
        f"cfg = parse_config(['--config', {str(first / 'config.yaml')!r}])\ndata = load_data(cfg)\n"
        f"net = build_model(10, 1).eval()\nnet.load_state_dict(load_file({str(first / 'model.safetensors')!r}))\n"
        "features, labels = [], []\n"
        "images = ResidentLoader(data.train_images, data.train_labels, batch_size=64, mean=data.mean, std=data.std)\n"
        "for x, y in images:\n"
        "    features.append(net.body(x).detach().double()), labels.append(y)\n"
        "features, labels = torch.cat(features), torch.cat(labels)\n"
        "means = torch.stack([features[labels == k].mean(0) for k in range(10)])\n"
        f"layer = load_file({str(out / 'model.safetensors')!r})\n"
        "logits = features @ layer['fc.weight'].double().T + layer['fc.bias'].double()\n"
        "distance = -torch.cdist(features, means).square()\n"
        "assert torch.allclose(logits.softmax(1), distance.softmax(1), atol=1e-4), (logits, distance)\n"
        "print('equal')\n"
    )
    assert launcher.run(script).good().out.strip() == "equal"


@pytest.mark.parametrize("mode", ["fixed", "shift"])
def test_batch_norm_does_what_is_asked(
    launcher: Launcher, recipe: Path, first: Path, tmp_path: Path, mode: str
) -> None:
    out = tmp_path / mode
    launcher.run(recipe / "train_stage2.py", *second(recipe, "crt", first, out, batch_norm=mode)).good()
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    assert torch.equal(before["body.1.running_mean"], after["body.1.running_mean"]) == (mode == "fixed")
    assert torch.equal(before["body.1.weight"], after["body.1.weight"])


def test_resumed_ends_in_the_same_bits(launcher: Launcher, recipe: Path, first: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    launcher.run(recipe / "train_stage2.py", *second(recipe, "mislas", first, whole)).good()
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "epoch_00002")
    for name in ("summary.json", "model.safetensors"):
        (broken / name).unlink()
    done = launcher.run(recipe / "train_stage2.py", *second(recipe, "mislas", first, broken, resume="true")).good()
    assert "Resumed after epoch 1 of 2" in done.out
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert rows(whole) == rows(broken)


def test_two_processes_train_one_classifier(launcher: Launcher, recipe: Path, first: Path, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    launcher.run(recipe / "train_stage2.py", *second(recipe, "lws", first, alone)).good()
    for rank in launcher.ranks(recipe / "train_stage2.py", *second(recipe, "lws", first, both)):
        rank.wait().good()
    assert summary(both)["num_processes"] == 2
    one, two = (load_file(path / "model.safetensors")["fc.weight"] for path in (alone, both))
    assert torch.allclose(one, two, atol=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("method", "changes", "message"),
        [
            ("crt", {"epochs": 0}, "`epochs` must be at least 1 to train `classifier: crt`"),
            ("ncm", {"epochs": 3}, "`classifier: ncm` is not trained: `epochs` must be 0"),
            ("crt", {"batch_norm": "fixd"}, "did you mean 'fixed'?"),
            ("crt", {"lr": -1}, "`lr` must be positive"),
            ("mislas", {"epoch": 3}, "did you mean 'epochs'?"),
        ],
    )
    def test_settings(
        self, launcher: Launcher, recipe: Path, first: Path, tmp_path: Path, method: str, changes: dict, message: str
    ) -> None:
        arguments = second(recipe, method, first, tmp_path / "out", **changes)
        assert message in launcher.run(recipe / "train_stage2.py", *arguments).error()
        assert not (tmp_path / "out").exists()

    def test_first_stage(self, launcher: Launcher, recipe: Path, first: Path, tmp_path: Path) -> None:
        script = recipe / "train_stage2.py"
        assert (
            "trained with configs/erm.yaml" in launcher.run(script, *second(recipe, "crt", first, tmp_path)[:2]).error()
        )
        arguments = second(recipe, "crt", tmp_path / "nothing", tmp_path / "out")
        assert "it has no config.yaml. Train it first" in launcher.run(script, *arguments).error()
        launcher.run(script, *second(recipe, "tau_norm", first, tmp_path / "second")).good()
        arguments = second(recipe, "crt", tmp_path / "second", tmp_path / "out")
        assert "is itself a second stage" in launcher.run(script, *arguments).error()
        cosine = tmp_path / "cosine"
        launcher.run(recipe / "train.py", *settings(recipe, "ldam", cosine, epochs=1)).good()
        arguments = second(recipe, "crt", cosine, tmp_path / "out")
        assert "`classifier: cosine`, but a second stage needs a linear one" in launcher.run(script, *arguments).error()
        damaged = shutil.copytree(first, tmp_path / "damaged")
        (damaged / "model.safetensors").write_bytes(b"no weights")
        arguments = second(recipe, "crt", damaged, tmp_path / "out")
        assert "model.safetensors` is damaged" in launcher.run(script, *arguments).error()
        assert not (tmp_path / "out").exists()

    def test_an_unfinished_one_is_not_evaluated(
        self, launcher: Launcher, recipe: Path, first: Path, tmp_path: Path
    ) -> None:
        launcher.run(recipe / "train_stage2.py", *second(recipe, "crt", first, tmp_path / "out")).good()
        (tmp_path / "out" / "model.safetensors").unlink()
        assert "second stage without final weights" in launcher.run(recipe / "evaluate.py", tmp_path / "out").error()
