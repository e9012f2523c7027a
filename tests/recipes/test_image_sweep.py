"""Sweep and quick-start of imagenet_lt: which runs there are, second stages, published numbers, side by side."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from recipe_support import ROOT, Launcher, contents, copy_recipe, imported, summary

from ltaug.sweeps import collect

pytest.importorskip("timm")

RECIPE = ROOT / "recipes" / "imagenet_lt"
# With the parts that a second stage needs: a linear classifier that the network tells.
TINY = '''
"""A network that trains in milliseconds."""

from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.fc = nn.Linear(72, num_classes)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.body(x))


def build_model(num_classes, cfg):
    return Net(num_classes)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
'''


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("image_sweep") / "recipe", TINY, recipe="imagenet_lt")


@pytest.fixture(scope="module")
def own() -> Iterator[SimpleNamespace]:
    with imported(RECIPE, "sweep") as modules:
        yield modules.sweep


def plan(own: Any, *settings: str, methods: str = "erm", datasets: str = "imagenet_lt", seeds: str = "0") -> list[Any]:
    asked = argparse.Namespace(
        methods=methods.split(), datasets=datasets.split(), seeds=list(map(int, seeds.split())), out="out"
    )
    return own.plan(asked, list(settings))


class TestPlan:
    def test_methods_sets_and_seeds(self, own: Any) -> None:
        runs = plan(own, methods="erm lob_mixup", datasets="imagenet_lt places_lt", seeds="0 1")
        assert [run.name for run in runs] == [
            f"{dataset}_{model}_{method}_seed{seed}"
            for seed in (0, 1)
            for dataset in ("imagenet_lt", "places_lt")
            for method, model in (("erm", "resnet50"), ("lob_mixup", "resnet10"))
        ]
        for run in runs:
            assert run.script.name == "train.py"
            assert run.settings.out == str(run.folder)
            assert run.name.startswith(f"{run.settings.dataset}_{run.settings.model}_{run.settings.method}_seed")
            assert run.name.endswith(f"seed{run.settings.seed}")

    def test_settings_move_every_first_stage_and_name_it(self, own: Any) -> None:
        words = ("--model", "vit_base_patch16_clip_224.openai", "--epochs", "5", "--data_dir", "IMAGES", "--workers=3")
        first, second = (plan(own, *words, methods=method)[0] for method in ("erm", "crt"))
        assert first.name == "imagenet_lt_vit_base_patch16_clip_224_erm_seed0"
        assert (first.settings.epochs, first.settings.data_dir, first.settings.workers) == (5, "IMAGES", 3)
        assert second.first_stage == first
        assert second.name == "imagenet_lt_vit_base_patch16_clip_224_crt_seed0"
        assert second.script.name == "train_stage2.py"
        stage2 = second.settings
        assert (stage2.epochs, stage2.data_dir, stage2.workers) == (10, "IMAGES", 3)  # epochs are the first stage's
        assert (stage2.from_run, stage2.out, stage2.seed) == (str(first.folder), str(second.folder), 0)

    @pytest.mark.parametrize(
        "model", ["hf-hub:timm/resnet50.a1_in1k", "local-dir:/my/nets/resnet50", "resnet50.a2_in1k"]
    )
    def test_a_network_from_elsewhere_has_a_plain_name(self, own: Any, model: str) -> None:
        first, second = (plan(own, "--model", model, "--batch_size", "64", methods=m)[0] for m in ("erm", "crt"))
        assert first.folder == Path("out/imagenet_lt_resnet50_erm_seed0")
        assert (second.name, second.settings.batch_size) == ("imagenet_lt_resnet50_crt_seed0", 64)
        assert own.TABLE.method(first.name, {"model": model}) == "erm"

    def test_a_set_and_a_profile_stand_in_the_name(self, own: Any) -> None:
        words = ("--hub_id", "me/pictures", "--profile", "step", "--imbalance_ratio", "20")
        assert plan(own, *words, datasets="hub")[0].name == "pictures_ir20_resnet50_erm_seed0"
        mislas = plan(own, methods="mislas", datasets="imagenet_lt places_lt")
        assert [Path(run.arguments[1]).stem for run in mislas] == ["mislas", "mislas_places"]
        assert [run.settings.smoothing_tail for run in mislas] == [0.0, 0.1]
        assert [run.name for run in mislas] == ["imagenet_lt_resnet50_mislas_seed0", "places_lt_resnet152_mislas_seed0"]
        assert [run.first_stage.settings.epochs for run in mislas] == [180, 90]

    def test_digits_follow_the_quick_start(self, own: Any) -> None:
        run = plan(own, methods="crt", datasets="digits")[0]
        quick = yaml.safe_load((RECIPE / "configs" / "quickstart.yaml").read_text())
        for name, value in quick.items():
            assert getattr(run.first_stage.settings, name) == value
        assert run.settings.batch_size == quick["batch_size"]


class TestTable:
    def test_published_numbers_are_of_the_same_network(self, own: Any, tmp_path: Path) -> None:
        final = {"top1": 0.5, "top5": 0.75, "many": 0.6, "medium": 0.5, "few": None, "ece": 0.1}
        shared = {"epochs": 90, "final": final, "wall_time_s": 60.0, "parameters": 1, "imbalance_ratio": 256.0}
        runs = {
            "imagenet_lt_resnet10_lob_mixup_seed0": ("imagenet_lt", "resnet10", "natural"),
            "imagenet_lt_resnet10_lob_mixup_seed1": ("imagenet_lt", "resnet10", "natural"),
            "imagenet_lt_resnet50_lob_mixup_seed0": ("imagenet_lt", "resnet50", "natural"),
            "folder_resnet10_lob_mixup_seed0": ("folder", "resnet10", "natural"),
            "imagenet_lt_ir256_resnet10_lob_mixup_seed0": ("imagenet_lt", "resnet10", "exponential"),
            "imagenet_lt_vit_base_x_erm_seed0": ("imagenet_lt", "vit_base_x.openai", "natural"),
        }
        for name, (dataset, model, profile) in runs.items():
            (tmp_path / name).mkdir()
            values = shared | {"dataset": dataset, "model": model, "profile": profile}
            (tmp_path / name / "summary.json").write_text(json.dumps(values))
        rows = collect(tmp_path, own.TABLE)
        found = {(row["dataset"], row["model"], row["profile"]): row for row in rows}
        assert len(rows) == len(found) == 5
        assert {key for key, row in found.items() if row["published"]} == {("imagenet_lt", "resnet10", "natural")}
        ours = found["imagenet_lt", "resnet10", "natural"]
        assert (ours["method"], ours["seeds"], ours["published"]) == ("lob_mixup", 2, {"LOB": 37.0})
        assert found["imagenet_lt", "vit_base_x.openai", "natural"]["method"] == "erm"

    def test_published_numbers_are_of_configs(self) -> None:
        with (RECIPE / "published.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) > 30
        keys = [(line["method"], line["paper"], line["dataset"], line["model"]) for line in lines]
        assert len(set(keys)) == len(keys)
        for line in lines:
            assert (RECIPE / "configs" / f"{line['method']}.yaml").is_file(), line
            assert 25 < float(line["top1"]) < 60
        with imported(RECIPE, "lists") as modules:
            official = {"imagenet_lt": modules.lists.IMAGENET_LT, "places_lt": modules.lists.PLACES_LT}
        for line in lines:
            found = official[line["dataset"]]
            assert float(line["imbalance_ratio"]) == found.largest / found.smallest


def test_a_sweep_with_a_second_stage(launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
    words = ["--methods", "crt", "bayias", "--datasets", "digits", "--seeds", "0", "--out", tmp_path / "out"]
    words += ["--epochs", "1", "--threads", "1", "--image_size", "32", "--precision", "fp32"]
    done = launcher.run(tiny / "sweep.py", *words).good()
    names = [f"digits_ir50_test_resnet_{method}_seed0" for method in ("erm", "crt", "bayias")]
    assert [line.split()[1] for line in done.out.splitlines() if " of 3)" in line] == names
    first, second, third = (summary(tmp_path / "out" / name) for name in names)
    assert (first["epochs"], second["epochs"], second["stage1"], third["epochs"]) == (1, 10, "erm", 1)
    row = next(line for line in done.out.splitlines() if line.startswith("| `crt` |"))
    assert f"| {100 * second['final']['top1']:.1f} | {100 * second['final']['top5']:.1f} |" in row
    assert "Epochs and minutes of a second stage are its own" in done.out
    assert "**digits, test_resnet, imbalance ratio" in done.out
    before = contents(tmp_path / "out", but=["table.png"])
    again = launcher.run(tiny / "sweep.py", *words).good()
    assert " of 3)" not in again.out
    assert contents(tmp_path / "out", but=["table.png"]) == before
    other = launcher.run(tiny / "sweep.py", *words, "--lr", "0.5").error()
    assert "`lr` 0.004, asked 0.5" in other


def test_quickstart_puts_methods_side_by_side(launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
    recipe = Path(shutil.copytree(tiny, tmp_path / "recipe"))
    quick = recipe / "configs" / "quickstart.yaml"
    quick.write_text(yaml.safe_dump(yaml.safe_load(quick.read_text()) | {"image_size": 32}))
    words = ["--out", tmp_path / "quick", "--methods", "erm", "unimix_bayias", "--epochs", "1"]
    done = launcher.run(recipe / "quickstart.py", *words, cwd=tmp_path).good()
    table = done.out.split("\n\n")[-2]
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["erm", "unimix_bayias"]
    assert "2 methods in" in done.out
    page = (tmp_path / "quick" / "report.html").read_text()
    assert "erm" in page
    assert "unimix_bayias" in page
    for method in ("erm", "unimix_bayias"):
        assert summary(tmp_path / "quick" / method)["name"] == method


@pytest.mark.parametrize("script", [["quickstart.py"], ["sweep.py", "--methods", "erm"]])
def test_scripts_for_one_process_say_so(launcher: Launcher, tiny: Path, tmp_path: Path, script: list[str]) -> None:
    main, other = launcher.ranks(tiny / script[0], *script[1:], cwd=tmp_path)
    assert "this script runs on one process; train.py runs on several" in main.wait().error()
    other.kill()
    other.wait()
    assert not list(tmp_path.iterdir())
