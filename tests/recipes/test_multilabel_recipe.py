"""A recipe on images with several labels: lists of names in parquet files, trained, scored, kept, and not misread."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from recipe_support import ROOT, Recipe, imported, info, rows, summary

from ltaug import multilabel_report, shift_binary_logits
from ltaug.__main__ import main as command
from ltaug.errors import UserError
from ltaug.run import RunFolder

NAMES = ["ant", "bee", "cat"]


def write_split(path: Path, size: int, lists: bool = True) -> Path:
    """Noisy images in whose three colours the three labels are; every seventh has no label."""
    random = np.random.default_rng(size)
    truth = random.random((size, 3)) < (0.6, 0.3, 0.15)
    truth[::7] = False
    truth[:3] = np.eye(3, dtype=bool)
    images = []
    for row in truth:
        file = io.BytesIO()
        Image.fromarray((random.integers(0, 100, (20, 20, 3)) + 120 * row).astype(np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    labels = [[NAMES[k] for k in np.flatnonzero(row)] for row in truth]
    column: list[Any] = labels if lists else [each[0] if each else "none" for each in labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"image": images, "label": column}), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for split, size in (("train", 120), ("test", 70), ("validation", 30)):
        write_split(folder / f"{split}-0.parquet", size)
    return folder


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    with imported(ROOT / "recipes" / "imagenet_lt") as recipe:
        yield recipe


def settings_for(data: Path, **more: object) -> dict[str, object]:
    small = {"image_size": 16, "workers": 0, "batch_size": 16, "epochs": 3, "model": "resnet10t"}
    return {"dataset": "hub", "data_dir": data, "imbalance_ratio": None, **small, **more}


@pytest.fixture(scope="module")
def run(recipe: Recipe, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "bayias"
    return recipe.train("mixup_bayias", out, **settings_for(data, report=True, profile="natural"))


def test_it_is_trained_and_scored(run: Path) -> None:
    final = summary(run)["final"]
    logits, labels = RunFolder.open(run).load_logits()
    assert (labels.dtype, labels.shape) == (torch.bool, (70, 3))
    counts = torch.tensor(info(run)["class_counts"])
    report = multilabel_report(logits.sigmoid(), labels, counts)
    assert final.pop("many") is None  # no label has more than 100 samples
    assert final == pytest.approx({name: value for name, value in report.items() if name != "many"}, rel=1e-5)
    assert set(rows(run)[-1]) >= {"map", "labelwise_ece", "f1"}
    assert final["map"] > 0.5
    held_out, _ = RunFolder.open(run).load_logits("held_out.safetensors")
    assert held_out.shape == (30, 3)


def test_what_it_says_of_itself(run: Path) -> None:
    said = info(run)
    assert said["class_names"] == NAMES
    assert said["several_labels"] is True
    assert max(said["logits_prior"]) < 1
    assert shift_binary_logits(torch.zeros(1, 3), said["logits_prior"], 0.5).isfinite().all()
    with (run / "per_class.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == NAMES
    mean = sum(float(row["test_average_precision"]) for row in table) / 3
    assert mean == pytest.approx(summary(run)["final"]["map"], abs=1e-5)
    page = (run / "report.html").read_text()
    assert "mAP" in page
    assert "of several labels a sample" in page


def test_corrections_of_classes_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["correct", str(run)])
    assert "corrections here are of classes that exclude each other" in capsys.readouterr().err


def test_it_resumes(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    more = settings_for(data, profile="natural")
    recipe.train("distribution_balanced", tmp_path / "run", **(more | {"epochs": 1}))
    recipe.train("distribution_balanced", tmp_path / "run", **more, resume=True)
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    assert info(tmp_path / "run")["logits_prior"] is None


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("unimix", {}, "`labels` hold several labels a sample, but `mixer: unimix`"),
        ("erm", {"profile": "exponential"}, "`profile` is exponential, which goes by classes that exclude each other"),
        ("erm", {"held_out_per_class": 1}, "`held_out_per_class` is 1, which goes by classes"),
        ("erm", {"stream": True}, "'label' has several labels a sample"),
    ],
)
def test_what_goes_by_classes_is_refused(
    recipe: Recipe, data: Path, tmp_path: Path, method: str, more: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        recipe.train(method, tmp_path / "run", **settings_for(data, **({"profile": "natural"} | more)))


def test_splits_must_agree(recipe: Recipe, tmp_path: Path) -> None:
    write_split(tmp_path / "train-0.parquet", 20)
    write_split(tmp_path / "test-0.parquet", 20, lists=False)
    with pytest.raises(
        (UserError, ValueError), match=r"lists of labels in its train split, but not in all|cannot be read"
    ):
        recipe.train("erm", tmp_path / "run", **settings_for(tmp_path, profile="natural"))


def test_a_split_to_test_on_is_needed(recipe: Recipe, tmp_path: Path) -> None:
    write_split(tmp_path / "train-0.parquet", 20)
    with pytest.raises(UserError, match="several labels an image and no split to test on"):
        recipe.train("erm", tmp_path / "run", **settings_for(tmp_path, profile="natural"))
