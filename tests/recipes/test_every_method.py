"""Every method of the literature trains in every recipe: an epoch of each, in this process, on few of its own data."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import soundfile
import torch
from accelerate import Accelerator
from PIL import Image
from recipe_support import RECIPES, ROOT, Recipe, imported, info, rows, summary

import ltaug
from ltaug.__main__ import main as command
from ltaug.audio import synthetic_source
from ltaug.methods import METHODS
from ltaug.predictions import predict_files
from ltaug.report import _pages
from ltaug.report._figures import Picture
from ltaug.run import RunFolder, read_json
from ltaug.trained import load_trained
from ltaug.training import SECOND_STAGE, Run
from ltaug.vision.digits import read_digits

SMALL: dict[str, dict[str, Any]] = {
    "cifar_lt": {"depth": 8, "imbalance_ratio": 24},
    "esc50_lt": {
        "sample_rate": 4000,
        "crop_length": 2000,
        "mels": 16,
        "test_crops": 2,
        "test_per_class": 2,
        "held_out_per_class": 1,
        "imbalance_ratio": 9,
    },
    "imagenet_lt": {"image_size": 16, "imbalance_ratio": 23, "test_per_class": 3, "held_out_per_class": 1},
    "inaturalist": {"image_size": 16, "held_out_per_class": 1},
    "synthia_rgbd": {
        "height": 32,
        "width": 64,
        "train_scenes": 48,
        "held_out_scenes": 2,
        "test_scenes": 24,
        "keep_every": 1,
        "batch_size": 16,
        "decoder_channels": 8,
    },
}
"""Settings that make the embedded data and networks small; batches stay as the protocol has them, 32."""


def methods_of(recipe: str) -> list[str]:
    """All of one class a sample for sound, all but between-class mixing for images; first stages first.

    For pixels those that sample and mix scenes alike.
    """
    names = [name for name, method in METHODS.items() if method.single_label]
    if recipe == "synthia_rgbd":
        return [name for name in names if not METHODS[name].dense_fault()]
    names = [name for name in names if recipe == "esc50_lt" or "between_class" not in METHODS[name].mixer]
    return sorted(names, key=lambda name: METHODS[name].second_stage)


# inaturalist's train.py is imagenet_lt's, but for its text and defaults: see test_the_same_loop. Of synthia_rgbd two
# methods are trained in test_synthia.py.
REBUILT = ("erm", "ldam_drw", "causal_norm", "bbn", "mislas", "ncm", "tau_norm", "manifold_mixup")
"""Methods of which the network is built again: one of each classifier, and one whose mixer hooks onto the network."""
PARAMS = [
    pytest.param(path, marks=[pytest.mark.slow] * (path.name in ("inaturalist", "synthia_rgbd"))) for path in RECIPES
]


def test_the_same_loop() -> None:
    """Two recipes of one modality differ in words and in the values of settings, in nothing that runs."""

    def code(name: str) -> str:
        tree = ast.parse((ROOT / "recipes" / name / "train.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", [])
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(node, ast.AST):
                del body[0]  # its docstring
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
                node.value = ast.Constant("a default")
        return ast.dump(tree)

    assert code("imagenet_lt") == code("inaturalist")
    assert code("imagenet_lt") != code("cifar_lt")


@pytest.fixture(scope="module", params=PARAMS, ids=lambda path: path.name)
def recipe(request: pytest.FixtureRequest) -> Iterator[Recipe]:
    """A recipe whose embedded data are few: some digits of each class, or sounds of a quarter of a second."""
    pixels, targets = sklearn.datasets.load_digits(return_X_y=True)
    kept = np.sort(np.concatenate([np.flatnonzero(targets == k)[:27] for k in range(10)]))
    exponential_counts = ltaug.exponential_counts
    with pytest.MonkeyPatch.context() as patch, imported(request.param) as recipe:
        patch.setattr(sklearn.datasets, "load_digits", lambda **_: (pixels[kept], targets[kept]))
        patch.setattr(read_digits, "__defaults__", (3, 0))
        # inaturalist has its digits under a fixed ratio of 50, which 24 of a class do not allow.
        patch.setattr(
            ltaug,
            "exponential_counts",
            lambda size, classes, imbalance_ratio: exponential_counts(size, classes, min(imbalance_ratio, 24)),
        )
        patch.setattr(synthetic_source, "__defaults__", (12, 0.25, 0))
        patch.setattr(Run, "save", lambda self, epoch, step=0: None)  # checkpoints have tests of their own
        patch.setattr(_pages, "draw", lambda *_, **__: Picture("data:,", 520, 320))  # so have the figures
        if hasattr(sys.modules["data"], "LEFT_OUT_PER_CLASS"):
            patch.setattr(sys.modules["data"], "LEFT_OUT_PER_CLASS", 3)
        yield recipe


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs of a recipe."""
    return tmp_path_factory.mktemp(recipe.name)


@pytest.fixture(scope="module")
def settings(recipe: Recipe) -> Any:
    """Of ERM, parsed once: parsing takes longer than some of the trainings."""
    return recipe.settings("erm", epochs=1, eval_every=2, **SMALL[recipe.name])


@pytest.mark.parametrize("name", sorted(METHODS, key=lambda name: METHODS[name].second_stage))
def test_trains(recipe: Recipe, settings: Any, folder: Path, name: str) -> None:
    method, run = METHODS[name], folder / name
    if method.second_stage and recipe.name == "synthia_rgbd":
        pytest.skip("segmentation refuses methods that sample by class, as second stages do: tests/test_dense.py")
    if method.second_stage:
        first = folder / str(method.first_stage)
        if name == "crt":  # as a user does it
            recipe.train(name, run, epochs=1, from_run=first)
        else:
            schedule = SECOND_STAGE | {"epochs": 1}
            recipe.module.main(replace(settings, method=name, out=str(run), from_run=str(first), **schedule))
    elif name in methods_of(recipe.name):
        recipe.module.main(replace(settings, method=name, out=str(run)))
    else:
        sound = "is for samples of one class" if recipe.name == "synthia_rgbd" else "is for sound"
        with pytest.raises(ValueError, match=sound if method.single_label else "must be multi-hot rows"):
            recipe.module.main(replace(settings, method=name, out=str(run)))
        assert not run.exists()
        return
    values = summary(run)
    assert (values["method"], values["name"], values["first_stage"]) == (name, name, method.first_stage)
    assert values["parameters"] > 0
    assert 0 <= values["final"]["top1"] <= 1
    assert (rows(run)[0]["loss"] is None) == (not method.trained)
    prior = info(run)["logits_prior"]
    assert (prior is None) == (not method.trained or name == "bbn")
    assert prior is None or sum(prior) == pytest.approx(1.0)


def test_a_run_is_corrected(recipe: Recipe, settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On LADE's eleven test sets, and by IC on folds of the test samples: from the folder alone, in every recipe."""
    run = tmp_path / "erm"
    recipe.module.main(replace(settings, method="erm", out=str(run)))
    command(["correct", str(run), "--shifted", "--calibrate", "temperature"])
    command(["correct", str(run), "--preset", "ic", "--folds", "2"])
    assert "| F50 | F25 | F10 | F5 | F2 | U | B2 | B5 | B10 | B25 | B50 |" in capsys.readouterr().out
    corrected = read_json(run / "corrected.json")
    assert len(corrected["shifted"]["given"]) == 11
    assert all(0 <= top1 <= 1 for top1 in corrected["shifted"]["given"].values())
    assert corrected["description"].endswith(" (search), from train")
    assert len(corrected["strengths"]) == 2


@pytest.mark.parametrize("name", REBUILT)
def test_the_network_of_a_run_is_built_again(recipe: Recipe, folder: Path, settings: Any, name: str) -> None:
    """From its folder and the recipe alone, with any classifier: the logits are those of the run."""
    if recipe.name == "esc50_lt" and name not in ("ldam_drw", "mislas"):
        pytest.skip("EnvNet takes seconds to make; other recipes have the other classifiers, which are the same code")
    if not (folder / name).is_dir():
        pytest.skip("the method has no meaning in this recipe, or was deselected: test_trains has made no run of it")
    trained = load_trained(folder / name)
    assert trained.info["recipe"] == recipe.name
    assert (len(trained.class_names), trained.several_labels, trained.correction) == (
        len(trained.class_counts),
        False,
        None,
    )
    if recipe.name == "synthia_rgbd":
        return  # the logits of a run are those of some pixels: tests/recipes/test_synthia.py
    data = recipe.module.load_data(settings)
    loader = data.eval_loader(settings, "test", Accelerator(cpu=True))
    logits = torch.cat([trained(inputs) for inputs, _ in loader])
    assert torch.allclose(logits, RunFolder.open(folder / name).load_logits()[0], atol=1e-4)


def test_new_samples_are_predicted(recipe: Recipe, folder: Path, settings: Any, tmp_path: Path) -> None:
    """The test samples as files, PNG and WAV, by the run folder alone: the run's own logits."""
    place = tmp_path / "place"
    place.mkdir()
    data = recipe.module.load_data(settings)
    if recipe.name == "esc50_lt":
        for k, clip in enumerate(data.clips["test"]):
            soundfile.write(place / f"{k}.wav", clip.numpy(), data.sample_rate, subtype="PCM_16")
    elif recipe.name == "synthia_rgbd":
        for k, rgb in enumerate(data.sets["test"].files.scenes.rgb):
            Image.fromarray(rgb).save(place / f"{k}.png")
    else:
        small = recipe.name == "cifar_lt"
        images = data.inputs["test"][..., 0].numpy() if small else data.sets["test"].images
        for k in range(len(images)):
            image = Image.fromarray(images[k]) if small else images.open(int(images.rows[k]), "")
            image.save(place / f"{k}.png")
    found = predict_files(folder / "erm", place, tmp_path / "out", workers=0).logits()
    if recipe.name == "synthia_rgbd":  # kept in half precision
        own, tolerance = RunFolder.open(folder / "erm").load_dense()[0]["test.logits"].float(), 2e-3
    else:
        own, tolerance = RunFolder.open(folder / "erm").load_logits()[0], 1e-4
    assert torch.allclose(torch.from_numpy(found.copy()), own, atol=tolerance)


def test_all_have_trained(recipe: Recipe, folder: Path) -> None:
    """The list is what the test above has trained, not what it should have."""
    names = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    print(f"{recipe.name}: {len(names)} methods trained: {' '.join(names)}")
    if len(names) > 10:  # or else only some of this file's tests run
        assert set(names) == set(methods_of(recipe.name))
