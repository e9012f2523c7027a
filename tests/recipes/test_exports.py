"""Exported runs of every recipe's own data give the run's logits of the raw test samples, in both formats.

Slow, since a network takes half a minute: ``pytest -m slow tests/recipes/test_exports.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe_support import RECIPES, imported
from safetensors.torch import load_file
from torch import Tensor

from ltaug.export import FORMATS, export_run, load_exported
from ltaug.trained import load_trained

for name in ("onnxruntime", "onnxscript", "torchaudio", "timm", "segmentation_models_pytorch"):
    pytest.importorskip(name)

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cifar_lt": [{"method": "bayias"}, {"method": "lade"}, {"method": "ldam_drw", "held_out_per_class": 1}],
    "imagenet_lt": [{"method": "erm"}, {"method": "bayias", "test_resize": 0.5, "model": "resnet10"}],
    "inaturalist": [{"method": "causal_norm"}],
    "esc50_lt": [
        {"method": "unimix_bc_bayias"},
        {"method": "erm", "test_hop": 0.4, "aggregate": "max"},
        {"method": "erm", "model": "mel", "backbone": "mobilenetv3_small_050"},  # an export tries silence
    ],
    "synthia_rgbd": [{"method": "erm"}, {"method": "erm", "modality": "depth"}],
}
SMALL: dict[str, dict[str, Any]] = {
    "synthia_rgbd": {"train_scenes": 8, "held_out_scenes": 4, "test_scenes": 4, "keep_every": 8}
}
CASES = [(folder.name, k) for folder in RECIPES for k in range(len(VARIANTS[folder.name]))]


def raw_samples(recipe: str, data: Any, settings: Any) -> list[Tensor]:
    """Test samples as they are before all preprocessing, those of one size together."""
    if recipe == "cifar_lt":
        return [data.inputs["test"]]
    if recipe == "esc50_lt":
        return [clip[None].float() / 32768 for clip in data.clips["test"]]
    if recipe == "synthia_rgbd":
        scenes = [data.sets["test"].files(k) for k in range(len(data.sets["test"]))]
        return [torch.from_numpy(np.stack([scene[settings.modality == "depth"] for scene in scenes]))]
    images = data.sets["test"].images
    opened = [images.open(int(images.rows[k]), images.name(k)).convert("RGB") for k in range(len(images))]
    return [torch.from_numpy(np.stack([np.asarray(image) for image in opened]))]


def kept(recipe: str, logits: Tensor, data: Any, settings: Any) -> Tensor:
    """What of the logits a run keeps: of scenes those of pixels on a grid that have a class."""
    if recipe != "synthia_rgbd":
        return logits
    grid = slice(settings.keep_every // 2, None, settings.keep_every)
    labels = torch.stack([torch.from_numpy(data.sets["test"].scene(k)[2]) for k in range(len(data.sets["test"]))])
    return logits[..., grid, grid].movedim(1, -1)[labels[..., grid, grid] != 255]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "variant"), CASES)
def test_gives_the_run_s_logits(recipe: str, variant: int, tmp_path: Path) -> None:
    changes = {"epochs": 1, **SMALL.get(recipe, {}), **VARIANTS[recipe][variant]}
    folder = next(folder for folder in RECIPES if folder.name == recipe)
    with imported(folder) as found:
        run = found.train(out=tmp_path / "run", **changes)
        settings = found.settings(**changes)
        data = found.module.load_data(settings)
    assert (run / "config.json").is_file() == (recipe == "imagenet_lt")  # timm's, of linear classifiers
    samples = raw_samples(recipe, data, settings)
    expected = load_file(run / "logits.safetensors")["logits"]
    for form in FORMATS:
        exported = load_exported(export_run(run, format=form, script=folder / "train.py").path)
        logits = kept(recipe, torch.cat([exported(some) for some in samples]), data, settings)
        halves = 2**-11 if recipe == "synthia_rgbd" else 0.0  # what a run keeps of scenes is in half precision
        slack = 1e-4 + halves * float(expected.abs().max())
        assert float((logits - expected).abs().max()) <= slack
        print(recipe, variant, form, f"{float((logits - expected).abs().max()):.1e}")
        moved = exported(samples[0][:3], range(1, len(exported.class_names) + 1))
        assert not torch.allclose(moved, exported(samples[0][:3]), atol=1e-2)
    assert load_trained(run, folder / "train.py").class_names == exported.class_names
