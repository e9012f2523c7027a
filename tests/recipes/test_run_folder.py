"""A copy of a recipe, far from the repository, launched as the README says, leaves a run that explains itself."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands import launch
from recipe_support import Done, Launcher, Recipe, contents, copy_recipe, imported, info, rows, summary
from safetensors.torch import load_file

from ltaug.methods import METHODS
from ltaug.metrics import classification_report
from ltaug.run import RunFolder

FILES = {
    ".ltaug.lock",
    "config.yaml",
    "command.txt",
    "data.json",
    "environment.json",
    "metrics.jsonl",
    "summary.json",
    "per_class.csv",
    "logits.safetensors",
    "held_out.safetensors",
    "model.safetensors",
    "ltaug.json",
    "report.html",
}
COUNTS = [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The folder, copied to a place where nothing else of the repository is."""
    with imported(copy_recipe(tmp_path_factory.mktemp("elsewhere") / "my_recipe")) as recipe:
        yield recipe


@pytest.fixture(scope="module")
def launched(launcher: Launcher, recipe: Recipe) -> tuple[Path, Done]:
    """Two epochs of UniMix + Bayias on the digits, by `accelerate launch` without any options, from another folder."""
    out = recipe.script.parents[1] / "run"
    words = recipe.words("unimix_bayias", out, depth=8, warmup_epochs=4, report=True)
    return out, launcher.run(launch.__file__, recipe.script, *words, cwd=out.parent).good()


@pytest.fixture(scope="module")
def run(launched: tuple[Path, Done]) -> Path:
    return launched[0]


class TestLaunched:
    def test_leaves_every_file_of_a_run_and_no_other(self, run: Path) -> None:
        allowed = {"sections.json"}  # sections of the report, where a recipe has some
        files = {name for name in contents(run) if not name.startswith("checkpoints/")}
        assert files - allowed == FILES
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"epoch_00001", "epoch_00002"}

    def test_says_what_it_does(self, launched: tuple[Path, Done]) -> None:
        done = launched[1]
        said = done.out + done.err
        assert "unimix_bayias: 314 samples (subset " in done.out
        assert "10 classes of 114 to 2, 75.0 K trained parameters, 1 process, fp32" in done.out
        shown = re.findall(r"epoch (\d)/2  loss \d\.\d+  lr [\d.]+  top-1 [\d.]+% .* samples/s", said)
        assert shown == ["1", "2"]
        assert done.out.count("| unimix_bayias |") == 1
        assert "| ECE15 % |" in re.sub(" +", " ", done.out)
        assert f"Report: {launched[0] / 'report.html'}" in done.out

    def test_summary(self, run: Path) -> None:
        values = json.loads((run / "summary.json").read_text(), parse_constant=pytest.fail)  # no NaN, which JSON lacks
        assert values["class_counts"] == COUNTS
        assert re.fullmatch("[0-9a-f]{64}", values["training_indices"])
        state = load_file(run / "model.safetensors")
        learned = [each for name, each in state.items() if "running" not in name and "num_batches" not in name]
        assert values["parameters"] == sum(each.numel() for each in learned)
        assert (values["name"], values["method"], values["first_stage"]) == ("unimix_bayias", "unimix_bayias", None)
        assert (values["data"], values["model"]) == ("digits_ir50", "resnet8")
        assert (values["dataset"], values["profile"], values["imbalance_ratio"]) == ("digits", "exponential", 50.0)
        assert (values["num_processes"], values["precision"], values["epochs"], values["seed"]) == (1, "no", 2, 0)
        assert values["peak_memory_bytes"] > 2**20
        assert values["wall_time_s"] > 0 < values["samples_per_second"]
        assert values["settings"] == yaml.safe_load((run / "config.yaml").read_text())
        final = values["final"]
        assert set(final) >= {"top1", "top5", "many", "medium", "few", "ece", "mce", "classwise_ece", "brier", "nll"}
        assert final == {name: rows(run)[-1][name] for name in final}  # the last epoch's, not the best one's

    def test_summary_is_of_the_kept_logits(self, run: Path) -> None:
        logits, labels = RunFolder.open(run).load_logits()
        report = classification_report(logits.softmax(1), labels, torch.tensor(COUNTS))
        assert labels.bincount().tolist() == [60] * 10
        for name, value in summary(run)["final"].items():
            assert math.isnan(report[name]) if value is None else report[name] == pytest.approx(value), name

    def test_held_out_samples_are_those_that_were_left_over(self, run: Path) -> None:
        logits, labels = RunFolder.open(run).load_logits("held_out.safetensors")
        assert logits.shape == (len(labels), 10)
        assert labels.bincount(minlength=10).tolist() == [min(100, 114 - count) for count in COUNTS]
        assert info(run)["held_out"].startswith(
            f"{len(labels)} samples of the training split that training did not use"
        )

    def test_metrics_have_a_row_an_epoch(self, run: Path) -> None:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [0, 1]
        assert [line["lr"] for line in lines] == pytest.approx([0.1 / 4, 0.2 / 4])
        for line in lines:
            assert math.isfinite(line["loss"])
            assert line["seconds"] > 0 < line["samples_per_second"]

    def test_per_class_accuracy_is_that_of_the_logits(self, run: Path) -> None:
        kept = load_file(run / "logits.safetensors")
        hit = kept["logits"].argmax(1) == kept["labels"]
        table = list(csv.DictReader((run / "per_class.csv").open()))
        assert [int(row["train_count"]) for row in table] == COUNTS
        for k, row in enumerate(table):
            wanted = hit[kept["labels"] == k].float().mean().item()
            assert float(row["test_accuracy"]) == pytest.approx(wanted, abs=1e-6)

    def test_weights_stand_with_what_they_need(self, run: Path) -> None:
        values = info(run)
        assert values["class_names"] == [str(k) for k in range(10)]
        assert values["class_counts"] == COUNTS
        assert values["method"] == "unimix_bayias"
        plan = METHODS["unimix_bayias"].plan(torch.arange(10).repeat_interleave(torch.tensor(COUNTS)), epochs=2)
        assert values["logits_prior"] == pytest.approx(plan.logits_prior().tolist())
        assert values["logits_prior_reason"] == plan.logits_prior_reason()
        assert {"mean", "std"} <= set(values["preprocessing"])
        state = load_file(run / "model.safetensors")
        assert state["fc.weight"].shape == (10, 64)
        assert state["conv1.weight"].shape == (16, 1, 3, 3)

    def test_config_command_and_environment(self, run: Path, recipe: Recipe) -> None:
        values = yaml.safe_load((run / "config.yaml").read_text())
        assert (values["method"], values["protocol"], values["epochs"]) == ("unimix_bayias", "digits", 2)
        command = (run / "command.txt").read_text()
        assert str(recipe.script) in command
        assert "--epochs 2" in command
        environment = json.loads((run / "environment.json").read_text())
        assert environment["packages"]["torch"] == torch.__version__
        assert {"python", "system", "processor", "threads", "accelerator", "git"} <= set(environment)
        assert json.loads((run / "data.json").read_text())["class_counts"] == COUNTS

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


def test_config_starts_the_same_run_again(
    recipe: Recipe, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    recipe.launch(capsys, "--config", run / "config.yaml", "--out", again, "--report", "false").good()
    assert rows(again) == rows(run)
    assert summary(again)["final"] == summary(run)["final"]
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_the_folder_has_a_name_that_says_what_it_is(recipe: Recipe, run: Path) -> None:
    cfg = recipe.settings("mixup", depth=20, seed=3)
    assert cfg.out == str(Path("runs") / "digits_ir50_resnet20_mixup_seed3")
    name = "digits_ir50_resnet8_crt_on_unimix_bayias_seed0"  # not its paper's first stage
    assert recipe.settings("crt", from_run=run).out == str(run.parent / name)
    assert recipe.settings("erm", profile="natural", depth=32).out == str(Path("runs") / "digits_erm_seed0")


def test_trackers_get_the_rows(tiny: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tiny.train("erm", tmp_path / "run", epochs=1, log_with="tensorboard")
    assert list(run.glob("ltaug/events.out.tfevents.*"))
