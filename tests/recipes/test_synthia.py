"""synthia_rgbd: two modalities trained on few small scenes, fused and corrected from their folders alone."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipe_support import ROOT, Recipe, imported, info, summary

from ltaug import metrics
from ltaug.commands.correct import RunCorrection
from ltaug.commands.fuse import RunFusion
from ltaug.errors import UserError
from ltaug.fusion import entropy_statistics
from ltaug.run import RunFolder

SMALL: dict[str, Any] = {
    **{"height": 32, "width": 64, "train_scenes": 40, "held_out_scenes": 4, "test_scenes": 4, "batch_size": 8},
    **{"decoder_channels": 8, "keep_every": 2, "epochs": 1},
}


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    with imported(ROOT / "recipes" / "synthia_rgbd") as recipe:
        yield recipe


@pytest.fixture(scope="module")
def runs(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """LDAM, whose classifier is one of cosines, on pictures; CutMix on depth."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        recipe.train("ldam", folder / "rgb", modality="rgb", report=True, **SMALL),
        recipe.train("cutmix", folder / "depth", modality="depth", **SMALL),
    ]


def test_what_a_run_leaves(runs: list[Path]) -> None:
    for run, modality in zip(runs, ("rgb", "depth"), strict=True):
        tensors, dense = RunFolder.open(run).load_dense()
        assert dense["modality"] == modality
        assert dense["conditions"][:2] == ["test", "held_out"]
        assert tensors["fog.logits"].shape == (4, 13, 16, 32)
        assert dense["entropy"]["mean"] > 0
        final = summary(run)["final"]
        assert final["miou"] == dense["scores"]["test"]["miou"]
        logits, labels = RunFolder.open(run).load_logits()
        kept = tensors["test.labels"] != 255
        assert len(logits) == int(kept.sum())
        assert torch.equal(labels, tensors["test.labels"][kept].long())
        # Pixels on a grid tell what all of them do, within the few that there are.
        accuracy = metrics.accuracy(logits.softmax(1), labels)
        assert accuracy == pytest.approx(final["top1"], abs=0.05)
    assert info(runs[1])["logits_prior"] == pytest.approx(
        (torch.tensor(info(runs[1])["class_counts"]).double() / sum(info(runs[1])["class_counts"])).tolist()
    )
    page = (runs[0] / "report.html").read_text()
    assert "A scene of depth dropout." in page
    assert "Not drawn" not in page


def test_entropy_is_that_of_the_training_scenes(recipe: Recipe, runs: list[Path]) -> None:
    """As entropy_statistics has it, of a network that is built again from what the run has kept."""
    module = recipe.module
    cfg = recipe.settings("ldam", runs[0], modality="rgb", report=True, **SMALL)
    data = module.load_data(cfg)
    plan = cfg.chosen_method().plan(
        data.train_labels, epochs=1, position_counts=data.class_counts, ignore_index=data.ignore_index
    )
    model = plan.attach(module.build_model(13, cfg, data)).eval()
    weights, _ = RunFolder.open(runs[0]).load_model()
    model.load_state_dict(weights)
    alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    with torch.no_grad():
        batches = [model(images)[..., 1::2, 1::2] for images, _ in data.eval_loader(cfg, "train", alone)]
    mean, std = entropy_statistics(batches)
    found = RunFolder.open(runs[0]).load_dense()[1]["entropy"]
    assert found == pytest.approx({"mean": mean, "std": std}, rel=1e-3)


def test_scores_are_of_all_pixels(recipe: Recipe, runs: list[Path]) -> None:
    """Those of the last epoch, streamed, are those that the final network has on the whole test scenes."""
    last = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["miou"] == pytest.approx(summary(runs[0])["final"]["miou"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 1}, "Take --batch_size 2 or more"),
        ({"model": "vit_tiny_patch16_224"}, "`model` vit_tiny_patch16_224 cannot be an encoder .* such as resnet50"),
    ],
)
def test_networks_that_cannot_be_trained(recipe: Recipe, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    cfg = recipe.settings("erm", tmp_path / "run", **{**SMALL, **change})
    with pytest.raises(UserError, match=words):
        recipe.module.build_model(13, cfg, SimpleNamespace(mean=[0.5]))


def test_two_processes_need_two_scenes_each(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sys.modules[recipe.module.build_model.__module__]
    monkeypatch.setattr(model, "PartialState", lambda: SimpleNamespace(num_processes=2))
    for batch_size, sync_bn, fits in ((2, False, False), (3, False, False), (4, False, True), (2, True, True)):
        cfg = recipe.settings("erm", tmp_path / "run", **{**SMALL, "batch_size": batch_size, "sync_bn": sync_bn})
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match="--batch_size 4 or more"):
            recipe.module.build_model(13, cfg, SimpleNamespace(mean=[0.5]))


def test_they_are_fused_and_corrected(runs: list[Path]) -> None:
    found = RunFusion(runs, from_prior="train").results
    assert list(found)[-2:] == ["UNO-IC, no rgb", "UNO-IC, no depth"]
    assert found["depth"]["fog"] == found["depth"]["test"]  # fog hides no depth
    assert found["rgb"]["fog"] != found["rgb"]["test"]
    made = RunCorrection(runs[1], target_prior="uniform", calibrate="temperature")
    found = made.evaluate()
    assert found["final"]["nll"] > 0
    logits, labels = RunFolder.open(runs[1]).load_logits()
    for name, each in (("uncorrected", logits), ("calibrated", logits), ("final", made.correction(logits))):
        scores = metrics.StreamingSegmentation(13)
        scores.update(each, labels)
        wanted = scores.compute()
        assert {key: found[name][key] for key in ("miou", "macc")} == {key: wanted[key] for key in ("miou", "macc")}
    assert made.tuned_on == "pixels of 4 scenes that training did not use"
