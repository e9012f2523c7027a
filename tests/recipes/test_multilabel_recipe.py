"""A recipe on images with several labels: lists of names in parquet files, trained, scored, kept, and not misread."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import soundfile
import torch
from PIL import Image
from pyarrow import parquet
from recipe_support import ROOT, Recipe, imported, info, rows, summary

from ltaug import multilabel_report, shift_binary_logits
from ltaug.__main__ import main as command
from ltaug.errors import UserError
from ltaug.run import RunFolder
from ltaug.testing import ContractError, check_data

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


def test_its_data_keep_the_contract(recipe: Recipe, data: Path) -> None:
    cfg = recipe.settings("erm", **settings_for(data, profile="natural"))
    found = sys_data(recipe).load_data(cfg)
    check_data(found, cfg)
    found.sets["train"].labels = found.train_labels.long()
    with pytest.raises(ContractError, match="multi-hot rows, bool"):
        check_data(found, cfg)


def test_it_is_compared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["compare", str(run), "--out", str(tmp_path / "page.html")])
    assert "| mAP %" in capsys.readouterr().out.splitlines()[0]
    assert "label-wise ECE15" in (tmp_path / "page.html").read_text().replace("\N{NON-BREAKING HYPHEN}", "-")


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


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sounds with a table of their labels: tones of three pitches."""
    folder, random = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    (folder / "clips").mkdir()
    table = [["file_name", "labels", "fold"]]
    for k in range(60):
        present = [] if k % 7 == 0 else [n for n, share in enumerate((0.6, 0.3, 0.2)) if random.random() < share]
        time = np.arange(4000) / 16_000
        wave = 0.05 * random.standard_normal(4000) + sum(0.2 * np.sin(2e3 * (n + 1) * time) for n in present)
        soundfile.write(folder / "clips" / f"{k}.wav", wave, 16_000)
        table.append([f"clips/{k}.wav", ";".join(NAMES[n] for n in present), str(1 + k % 5)])
    (folder / "metadata.csv").write_text("".join(",".join(row) + "\n" for row in table))
    return folder


@pytest.fixture(scope="module")
def sound_recipe() -> Iterator[Recipe]:
    with imported(ROOT / "recipes" / "esc50_lt") as recipe:
        yield recipe


class TestSounds:
    def settings(self, sounds: Path, **more: object) -> dict[str, object]:
        return {
            "dataset": "folder",
            "data_dir": sounds,
            "profile": "natural",
            "test_crops": 2,
            "cache_dir": "none",
        } | more

    def test_it_is_trained_and_scored(self, sound_recipe: Recipe, sounds: Path, tmp_path: Path) -> None:
        run = sound_recipe.train("lob_bc", tmp_path / "run", **self.settings(sounds, epochs=1))
        _, labels = RunFolder.open(run).load_logits()
        assert (labels.dtype, labels.shape) == (torch.bool, (12, 3))
        with (sounds / "metadata.csv").open() as file:
            table = [row for row in csv.DictReader(file) if row["fold"] == "5"]
        assert [[NAMES[k] for k in row.nonzero()[:, 0]] for row in labels] == [
            row["labels"].split(";") if row["labels"] else [] for row in table
        ]
        assert 0 <= summary(run)["final"]["map"] <= 1
        prior = torch.tensor(info(run)["logits_prior"])
        assert bool(((prior > 0) & (prior < 1)).all())

    def test_lists_and_splits_in_jsonl(self, sound_recipe: Recipe, sounds: Path, tmp_path: Path) -> None:
        (tmp_path / "clips").symlink_to(sounds / "clips")
        rows = [
            {"file_name": f"clips/{k}.wav", "labels": NAMES[: k % 3], "split": ("train", "test", "validation")[k % 3]}
            for k in range(30)
        ]
        rows[0]["labels"] = ["cat"]
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = self.settings(tmp_path, allow_outside=True)
        data = sys_data(sound_recipe).load_data(sound_recipe.settings("erm", **settings))
        assert {split: tuple(labels.shape) for split, labels in data.labels.items()} == {
            "train": (10, 3),
            "test": (10, 3),
            "held_out": (10, 3),
        }
        assert data.class_names == NAMES
        check_data(data, sound_recipe.settings("erm", **settings))
        assert data.labels["test"].sum(0).tolist() == [10, 0, 0]

    @pytest.mark.parametrize(
        ("table", "more", "message"),
        [
            ("file_name,labels\na.wav,ant;bee\n", {}, r"`test_per_class`=8 draws by classes"),
            ("file_name,labels,fold\na.wav,ant;bee,x\n", {}, "whole numbers in `fold`"),
            ("file_name,labels\n,ant;bee\n", {}, "must have a file in 'file_name' of every row, but line 2 has none"),
            ("file_name,labels,split\na.wav,ant;bee,test\n", {}, "must have a split named 'train', but has test"),
            ("file_name,labels,fold\n../a.wav,ant;bee,1\n", {}, "allow_outside"),
            (None, {"profile": "pareto"}, "`profile` is pareto, which goes by classes"),
            (None, {"held_out_per_class": 2}, "`held_out_per_class`=2 draws by classes"),
        ],
    )
    def test_faults(
        self,
        sound_recipe: Recipe,
        sounds: Path,
        tmp_path: Path,
        table: str | None,
        more: dict[str, object],
        message: str,
    ) -> None:
        if table is not None:
            (tmp_path / "metadata.csv").write_text(table)
        with pytest.raises((UserError, ValueError), match=message):
            sound_recipe.train("erm", tmp_path / "run", **self.settings(sounds if table is None else tmp_path, **more))


def sys_data(recipe: Recipe) -> Any:
    """The recipe's data.py."""
    assert recipe.script.parent == Path(sys.modules["data"].__file__ or "").parent
    return sys.modules["data"]
