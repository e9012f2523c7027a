"""A finished run's network comes back from its folder; every method's does in tests/recipes/test_every_method.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ltaug.correction import Correction
from ltaug.errors import UserError
from ltaug.export import export_run
from ltaug.predictions import open_model, predict_files
from ltaug.run import RunFolder
from ltaug.scripts import run_script
from ltaug.trained import load_trained

MODEL = '''
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class ModelSettings:
    depth: int = 8
    """Width of the network."""

    @property
    def model_name(self):
        return ""


def build_model(num_classes, cfg, data):
    height, width, channels = data.preprocessing["size"]
    assert getattr(data, "colours", None) is None
    network = nn.Sequential(nn.Flatten(), nn.Linear(height * width * channels, 4), nn.ReLU())
    return nn.Sequential(*network, nn.Linear(4, num_classes))
'''


@pytest.fixture(scope="module")
def recipe(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's own, under a name of its own."""
    folder = tmp_path_factory.mktemp("work") / "mine"
    shutil.copytree(root / "recipes" / "cifar_lt", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Path:
    """A run beside the recipe."""
    out = recipe.parent / "runs" / "erm"
    words = ["--protocol", "digits", "--epochs", "1", "--out", str(out), "--report", "false", "--precision", "fp32"]
    run_script(recipe / "train.py", words)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def changed(run: Path, **values: object) -> None:
    info = json.loads((run / "ltaug.json").read_text())
    (run / "ltaug.json").write_text(json.dumps({**info, **values}))


def test_the_recipe_is_found_by_the_command_line_of_the_run(recipe: Path, trained: Path) -> None:
    found = load_trained(trained)
    assert [type(layer) for layer in found.network] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert found.info["recipe"] == "mine"
    assert found.preprocessing["kind"] == "small_images"
    assert found.preprocessing["size"] == [16, 16, 1]
    assert found.logits_prior is not None
    assert found.logits_prior.sum() == pytest.approx(1)
    assert found(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    moved = shutil.move(recipe, recipe.parent / "moved")
    try:
        with pytest.raises(UserError, match=r"is not found: the run was started by .*mine/train\.py\. Name its"):
            load_trained(trained)
        assert load_trained(trained, Path(moved) / "train.py").class_names == [str(k) for k in range(10)]
    finally:
        shutil.move(moved, recipe)


def test_nothing_in_the_run_folder_is_executed(recipe: Path, run: Path) -> None:
    """Folders come from strangers: neither a script in it, nor a module that its settings name."""
    shutil.copytree(recipe, run / "mine")
    (run / "mine" / "train.py").write_text("raise SystemExit('executed')")
    (run / "command.txt").write_text(f"python {run / 'mine' / 'train.py'}\n")
    with pytest.raises(UserError, match="is not found"):
        load_trained(run)
    with pytest.raises(SystemExit, match="executed"):
        load_trained(run, run / "mine" / "train.py")


def test_older_runs_say_less(recipe: Path, run: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "gone: 1\n")
    changed(run, recipe=None, preprocessing={"mean": [0.5], "std": [0.5]})
    assert load_trained(run, recipe / "train.py").preprocessing["size"] == [16, 16, 1]


def test_what_no_run_records_cannot_be_asked_for(recipe: Path, run: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(recipe, tmp_path / "mine")
    (mine / "model.py").write_text(MODEL.replace('data.preprocessing["size"]', "data.shape"))
    with pytest.raises(UserError, match=r"asks the data for `shape`, which no run records. .*`data.preprocessing`"):
        load_trained(run, mine / "train.py")
    (mine / "model.py").write_text(
        MODEL.replace("nn.Linear(4, num", "nn.Linear(5, num").replace("channels, 4", "channels, 5")
    )
    with pytest.raises(UserError, match=r"does not fit the network that model.py builds: size mismatch"):
        load_trained(run, mine / "train.py")


def test_an_unfinished_run_has_no_network(recipe: Path, run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is no finished run: it has no model.safetensors. Train it to its end."):
        load_trained(run, recipe / "train.py")


def test_the_saved_correction_comes_along(recipe: Path, run: Path) -> None:
    prior = RunFolder.open(run).info()["logits_prior"]
    Correction(prior, [0.1] * 10).save(run)
    found = load_trained(run, recipe / "train.py").correction
    assert found is not None
    assert torch.equal(found.target, torch.full((10,), 0.1, dtype=torch.float64))


def test_an_exported_file_takes_the_place_of_the_recipe(recipe: Path, run: Path, tmp_path: Path) -> None:
    """With the correction that is saved beside it, and only if it is of these weights."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    Correction(RunFolder.open(run).info()["logits_prior"], [0.55, *[0.05] * 9], strength=0.7).save(run)
    script, place = recipe / "train.py", tmp_path / "new"
    place.mkdir()
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (9, 16, 16))):
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{k}.png")
    found = [predict_files(open_model(run, script), place, tmp_path / "recipe", workers=0)]
    (run / "command.txt").unlink()
    changed(run, recipe=None)
    export_run(run, script=script, raw=True)
    found.append(predict_files(run, place, tmp_path / "raw", workers=0))
    tables = [(each.folder / "predictions.csv").read_text().splitlines()[1:] for each in found]
    rows, expected = ([line.split(",")[:3] for line in lines] for lines in tables)
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [float(row[2]) for row in rows] == pytest.approx([float(row[2]) for row in expected], abs=1e-4)
    with (run / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=r"model\.onnx` was exported from other weights than those of"):
        open_model(run)
