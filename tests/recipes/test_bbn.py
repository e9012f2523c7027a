"""BBN through a recipe: resumed, on two processes, evaluated on a network made anew."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from recipe_support import ROOT, Launcher, Recipe, assert_same, copy_recipe, imported, summary, tiny_model, wait_for_all
from safetensors.torch import load_file
from torch import nn

from ltaug import RunFolder
from ltaug.errors import UserError
from ltaug.methods import METHODS

RESULTS = ("summary.json", "model.safetensors", "ltaug.json", "logits.safetensors", "held_out.safetensors")


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    """cifar_lt with its own network, whose last block becomes two branches."""
    with imported(ROOT / "recipes" / "cifar_lt") as recipe:
        yield recipe


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe.train("bbn", tmp_path_factory.mktemp("whole") / "run", epochs=3)


def test_a_resumed_run_ends_in_the_same_bits(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for name in RESULTS:
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints" / "epoch_00003")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    recipe.train("bbn", run, epochs=3, resume=True)
    assert_same(run, whole)


def test_a_finished_run_is_evaluated_on_a_network_made_anew(recipe: Recipe, whole: Path) -> None:
    cfg = recipe.settings("bbn", epochs=3)
    data = recipe.module.load_data(cfg)
    net = recipe.module.build_model(10, cfg, data)
    METHODS["bbn"].plan(data.train_labels, epochs=3).attach(net)
    folder = RunFolder.open(whole)
    weights, info = folder.load_model()
    net.load_state_dict(weights)
    mean, std = (torch.tensor(info["preprocessing"][name]) for name in ("mean", "std"))
    images = ((data.inputs["test"] / 255 - mean) / std).permute(0, 3, 1, 2)
    logits, _ = folder.load_logits()
    with torch.no_grad():
        assert torch.allclose(net.eval()(images), logits, atol=1e-4)
    assert info["logits_prior"] is None
    assert "1/2 each in evaluation alone" in info["logits_prior_reason"]


def test_no_second_stage_starts_from_it(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the classifier bilateral, but a second stage needs a linear one"):
        recipe.train("crt", tmp_path / "crt", from_run=whole)


def test_two_processes_train_what_one_does(launcher: Launcher, tmp_path: Path) -> None:
    """Without batch norm, whose statistics are each process's own."""
    with imported(copy_recipe(tmp_path / "grouped", tiny_model("GroupNorm(2, 8)"))) as grouped:
        changes = {"epochs": 2, "set.branch": "body"}
        one = grouped.train("bbn", tmp_path / "one", **changes)
        wait_for_all(launcher.ranks(grouped.script, *grouped.words("bbn", tmp_path / "two", **changes)))
    a, b = (load_file(run / "model.safetensors") for run in (one, tmp_path / "two"))
    assert summary(tmp_path / "two")["num_processes"] == 2
    assert a.keys() == b.keys()
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-5


@pytest.mark.parametrize("name", ["imagenet_lt", "inaturalist"])
def test_parts_of_a_batch_keep_their_pairs(name: str) -> None:
    """`accumulate` splits inputs and targets alike: the step is that of the whole batch."""
    inputs, partners, labels = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    weights = []
    with imported(ROOT / "recipes" / name) as recipe:
        for parts in (1, 2, 3, 5):
            torch.manual_seed(0)
            net = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 6), nn.GELU()), fc=nn.Linear(6, 3)))
            plan = METHODS["bbn"].replace(branch="body").plan([0, 0, 1, 1, 2], epochs=4)
            plan.attach(net)
            plan.set_epoch(2)
            optimizer = torch.optim.SGD(plan.parameter_groups(net), 0.5)
            cfg = SimpleNamespace(accumulate=parts, clip_norm=0.0)
            batch = ((inputs, labels), (partners, labels.flip(0)))
            recipe.module.train_step(cfg, Accelerator(cpu=True), net, batch, plan, optimizer)
            weights.append(nn.utils.parameters_to_vector(net.parameters()).detach())
    for other in weights[1:]:
        assert torch.allclose(other, weights[0], atol=1e-6)
