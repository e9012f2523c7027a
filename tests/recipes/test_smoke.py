"""A copy of the recipe, far from the repository, launched as the README says, leaves a run that explains itself."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from recipe_support import ROOT, Done, Launcher, contents, copy_recipe, rows, settings, summary
from safetensors.torch import load_file

from ltaug.metrics import classification_report

FILES = {
    "config.yaml",
    "command.txt",
    "data.json",
    "environment.json",
    "metrics.jsonl",
    "summary.json",
    "per_class.csv",
    "logits.safetensors",
    "model.safetensors",
    "ltaug.json",
    "report.html",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, copied to a place where nothing else of the repository is."""
    return copy_recipe(tmp_path_factory.mktemp("elsewhere") / "my_recipe")


@pytest.fixture(scope="module")
def launched(module: Callable[..., Done], recipe: Path) -> tuple[Path, Done]:
    """Two epochs of UniMix + Bayias on the digits, by `accelerate launch`, from another folder."""
    out = recipe.parent / "run"
    arguments = settings(recipe, "unimix_bayias", out)
    config = ROOT / "accelerate_config.yaml"
    launch = ["accelerate.commands.launch", "--config_file", config, recipe / "train.py", *arguments]
    return out, module(*launch, cwd=recipe.parent).good()


@pytest.fixture(scope="module")
def run(launched: tuple[Path, Done]) -> Path:
    return launched[0]


class TestLaunched:
    def test_leaves_every_file_of_a_run_and_no_other(self, run: Path) -> None:
        files = {name for name in contents(run) if not name.startswith("checkpoints/")}
        assert files == FILES
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"epoch_00001", "epoch_00002"}

    def test_says_what_it_does(self, launched: tuple[Path, Done]) -> None:
        out = launched[1].out
        assert "unimix_bayias: 314 samples, 10 classes of 114 to 2 (subset" in out
        assert "0.46 M parameters, 1 process(es), no" in out
        assert re.findall(r"epoch (\d)/2  loss \d\.\d+  lr [\d.]+  top1 [\d.]+ .* images_per_second", out) == ["1", "2"]
        assert "img/s" in launched[1].err
        assert out.count("| unimix_bayias |") == 1
        assert "| ECE15 |" in re.sub(" +", " ", out)

    def test_summary_is_json_with_counts_and_hash(self, module: Callable[..., Done], run: Path) -> None:
        values = json.loads(module("json.tool", run / "summary.json").good().out)
        counts = [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]
        assert values["class_counts"] == counts
        assert re.fullmatch("[0-9a-f]{64}", values["index_hash"])
        assert values["parameters"] == 464_154 - 2 * 16 * 9  # one channel where CIFAR has three
        assert values["num_processes"] == 1
        assert values["precision"] == "no"
        assert values["epochs"] == 2
        assert values["peak_memory_bytes"] > 2**20
        assert values["wall_time_s"] > 0 < values["images_per_second"]
        final = values["final"]
        assert set(final) >= {"top1", "top5", "many", "medium", "few", "ece", "mce", "classwise_ece", "brier", "nll"}
        assert final == {name: rows(run)[-1][name] for name in final}  # the last epoch's, not the best one's

    def test_summary_is_of_the_kept_logits(self, run: Path) -> None:
        kept = load_file(run / "logits.safetensors")
        report = classification_report(
            kept["logits"].softmax(1), kept["labels"], torch.tensor(summary(run)["class_counts"])
        )
        assert kept["labels"].bincount().tolist() == [60] * 10
        for name, value in summary(run)["final"].items():
            assert math.isnan(report[name]) if value is None else report[name] == pytest.approx(value), name

    def test_metrics_have_a_row_an_epoch(self, run: Path) -> None:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [0, 1]
        assert [line["lr"] for line in lines] == pytest.approx([0.1 / 3, 0.2 / 3])
        for line in lines:
            assert math.isfinite(line["loss"])
            assert line["seconds"] > 0 < line["images_per_second"]

    def test_per_class_accuracy_is_that_of_the_logits(self, run: Path) -> None:
        kept = load_file(run / "logits.safetensors")
        hit = kept["logits"].argmax(1) == kept["labels"]
        table = list(csv.DictReader((run / "per_class.csv").open()))
        assert [int(row["train_count"]) for row in table] == summary(run)["class_counts"]
        for k, row in enumerate(table):
            assert float(row["test_accuracy"]) == pytest.approx(
                hit[kept["labels"] == k].float().mean().item(), abs=1e-6
            )

    def test_weights_stand_with_what_they_need(self, run: Path) -> None:
        info = json.loads((run / "ltaug.json").read_text())
        assert info["class_names"] == [str(k) for k in range(10)]
        assert info["class_counts"] == summary(run)["class_counts"]
        assert sum(info["logits_prior"]) == pytest.approx(1.0)
        state = load_file(run / "model.safetensors")
        assert state["fc.weight"].shape == (10, 64)
        assert state["conv1.weight"].shape == (16, 1, 3, 3)

    def test_config_command_and_environment(self, run: Path, recipe: Path) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text())
        assert values["method"] == "unimix_bayias"
        assert (values["mixer"], values["loss"], values["epochs"]) == ("unimix", "bayias", 2)
        command = (run / "command.txt").read_text()
        assert str(recipe / "train.py") in command
        assert "--epochs 2" in command
        environment = json.loads((run / "environment.json").read_text())
        assert environment["packages"]["torch"] == torch.__version__
        assert {"python", "system", "processor", "threads", "accelerator", "git"} <= set(environment)

    def test_report_is_one_file(self, run: Path) -> None:
        page = (run / "report.html").read_text()
        assert page.count("<svg") + page.count("<img") >= 4
        assert not re.search(r'(src|href)="(?!data:|#)', page)
        assert "unimix_bayias" in page

    def test_a_checkpoint_lists_the_hashes_of_its_files(self, run: Path) -> None:
        folder = run / "checkpoints" / "epoch_00002"
        manifest = json.loads((folder / "manifest.json").read_text())
        files = contents(folder, but=["manifest.json"])
        assert manifest == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        assert {"model.safetensors", "optimizer.bin", "random_states_0.pkl"} <= set(files)


def test_config_starts_the_same_run_again(launcher: Launcher, recipe: Path, run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    launcher.run(recipe / "train.py", "--config", run / "config.yaml", "--out", again, cwd=tmp_path).good()
    assert rows(again) == rows(run)
    assert summary(again)["final"] == summary(run)["final"]
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


class TestEvaluate:
    def test_reprints_the_very_numbers(
        self, launcher: Launcher, recipe: Path, launched: tuple[Path, Done], tmp_path: Path
    ) -> None:
        run, first = launched
        before = contents(run, but=["report.html"])
        done = launcher.run(recipe / "evaluate.py", run, cwd=tmp_path).good()
        row = next(line for line in first.out.splitlines() if line.startswith("| unimix_bayias |"))
        assert row in done.out.splitlines()
        assert contents(run, but=["report.html"]) == before

    def test_makes_everything_anew_from_the_weights(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        before = contents(run, but=["report.html"])
        for name in ("logits.safetensors", "per_class.csv", "report.html"):
            (run / name).unlink()
        launcher.run(recipe / "evaluate.py", run).good()
        assert contents(run, but=["report.html"]) == before
        assert (run / "report.html").is_file()

    def test_takes_the_last_checkpoint_of_an_unfinished_run(
        self, launcher: Launcher, recipe: Path, run: Path, tmp_path: Path
    ) -> None:
        unfinished = tmp_path / "unfinished"
        for name, data in contents(run).items():
            if name.startswith("checkpoints/epoch_00001") or name in ("config.yaml", "metrics.jsonl"):
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / name).write_bytes(data)
        (unfinished / "checkpoints" / ".epoch_00002.tmp").mkdir()  # the training may be at work right now
        before = contents(unfinished)
        done = launcher.run(recipe / "evaluate.py", unfinished).good()
        assert "its weights after 1 of 2 epochs" in done.err
        assert "| unimix_bayias |" in done.out
        assert contents(unfinished) == before
        assert (unfinished / "checkpoints" / ".epoch_00002.tmp").is_dir()


def test_quickstart_puts_methods_side_by_side(launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
    arguments = ["--out", tmp_path / "quick", "--methods", "erm", "lob_mixup", "--epochs", "1"]
    done = launcher.run(recipe / "quickstart.py", *arguments, cwd=tmp_path).good()
    table = done.out.split("\n\n")[-2]
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["erm", "lob_mixup"]
    assert "2 methods in" in done.out
    page = (tmp_path / "quick" / "report.html").read_text()
    assert "erm" in page
    assert "lob_mixup" in page
    for method in ("erm", "lob_mixup"):
        assert {*contents(tmp_path / "quick" / method)} > FILES
        assert summary(tmp_path / "quick" / method)["name"] == method


def test_trackers_get_the_rows(launcher: Launcher, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe, run = copy_recipe(tmp_path / "recipe"), tmp_path / "run"
    arguments = settings(recipe, "erm", run, epochs=1, log_with="tensorboard")
    launcher.run(recipe / "train.py", *arguments).good()
    assert list(run.glob("ltaug/events.out.tfevents.*"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("log_with: tensorboard", "log_with: one_that_is_not_here"))
    launcher.run(recipe / "evaluate.py", run).good()
