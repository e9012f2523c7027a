"""synthia_rgbd: two modalities trained on few small scenes, fused and corrected from their folders alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_support import ROOT, Recipe, imported, info, summary

from ltaug import metrics
from ltaug.__main__ import main as command
from ltaug.commands.fuse import RunFusion
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


def test_scores_are_of_all_pixels(recipe: Recipe, runs: list[Path]) -> None:
    """Those of the last epoch, streamed, are those that the final network has on the whole test scenes."""
    last = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["miou"] == pytest.approx(summary(runs[0])["final"]["miou"])


def test_they_are_fused_and_corrected(runs: list[Path]) -> None:
    found = RunFusion(runs, from_prior="train").results
    assert list(found)[-2:] == ["UNO-IC, no rgb", "UNO-IC, no depth"]
    assert found["depth"]["fog"] == found["depth"]["test"]  # fog hides no depth
    assert found["rgb"]["fog"] != found["rgb"]["test"]
    command(["correct", str(runs[1]), "--target_prior", "uniform", "--calibrate", "temperature"])
    assert "tuned on" in (runs[1] / "report.html").read_text().lower()
