"""evaluate.py corrects a run for other class mixes; compare.py puts runs side by side."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from recipe_support import Launcher, contents, copy_recipe, settings, summary
from safetensors.torch import load_file
from test_stage2 import MODEL, second

from ltaug import class_counts, shift_logits, shifted_counts, subsample
from ltaug.labelshift import estimate_prior


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("correct") / "recipe", MODEL)


@pytest.fixture(scope="module")
def trained(launcher: Launcher, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    launcher.run(recipe / "train.py", *settings(recipe, "erm", run, epochs=12, decay_epochs="[10]")).good()
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def kept(run: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Test logits and labels, and the prior that the logits are under."""
    tensors = load_file(run / "logits.safetensors")
    prior = json.loads((run / "ltaug.json").read_text())["logits_prior"]
    return tensors["logits"], tensors["labels"], torch.tensor(prior, dtype=torch.float64)


def row(out: str, start: str) -> list[str]:
    """The cells of a table's row behind its name."""
    line = next(line for line in out.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


class TestTargetPrior:
    @pytest.mark.parametrize("kind", ["uniform", "train", "list", "names", "estimate", "trend"])
    def test_is_the_shift_of_the_kept_logits(self, launcher: Launcher, recipe: Path, run: Path, kind: str) -> None:
        logits, labels, source = kept(run)
        numbers = torch.arange(1.0, 11.0, dtype=torch.float64)
        target = {"uniform": torch.ones(10), "train": source, "estimate": None, "trend": None}.get(kind, numbers)
        word = kind
        if kind in ("list", "names"):
            word = str(run / "prior.json")
            values = numbers.tolist() if kind == "list" else {str(k): k + 1 for k in reversed(range(10))}
            Path(word).write_text(json.dumps(values))
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", word).good()
        corrected = json.loads((run / "corrected.json").read_text())
        used = torch.tensor(corrected["target_prior"], dtype=torch.float64)
        if target is None:
            counts = torch.tensor(summary(run)["class_counts"], dtype=torch.float64)
            target = estimate_prior(logits, source, trend=counts.log() if kind == "trend" else None)
        # EM stops within its tolerance; sums of other numbers of threads round otherwise on the way.
        assert used == pytest.approx(target / target.sum(), abs=2e-3 if kind in ("estimate", "trend") else 1e-6)
        expected = (shift_logits(logits, source, used).argmax(1) == labels).double().mean().item()
        assert float(row(done.out, f"erm (to {word}, strength 1)")[0]) == pytest.approx(100 * expected, abs=0.051)
        assert corrected["final"]["top1"] == pytest.approx(expected)
        assert "Tuned on" not in done.out

    def test_the_report_and_the_summary_stay_those_of_the_run(
        self, launcher: Launcher, recipe: Path, run: Path
    ) -> None:
        before = summary(run)
        launcher.run(recipe / "evaluate.py", run, "--target_prior", "uniform").good()
        assert summary(run) == before

    def test_tuning_names_what_it_was_done_on(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        options = ["--target_prior", "uniform", "--strength", "auto", "--calibrate", "bias_corrected"]
        done = launcher.run(recipe / "evaluate.py", run, *options).good()
        # 114 digits of each class less what training took, 100 at the most; none are left of the first.
        samples = sum(min(100, 114 - n) for n in summary(run)["class_counts"])
        assert (
            f"Tuned on {samples} samples of the training split that training did not use (9 of 10 classes" in done.out
        )
        strength = float(re.search(r"strength ([\d.]+), bias_corrected", done.out)[1])
        assert 0.0 <= strength <= 10.0

    def test_calibration_alone_makes_it_more_honest(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        done = launcher.run(recipe / "evaluate.py", run, "--calibrate", "temperature").good()
        plain, calibrated = row(done.out, "erm "), row(done.out, "erm (temperature)")
        assert plain[0] == calibrated[0]  # a temperature changes no prediction
        assert plain != calibrated


def test_shifted_test_sets(launcher: Launcher, recipe: Path, run: Path) -> None:
    logits, labels, source = kept(run)
    done = launcher.run(recipe / "evaluate.py", run, "--shifted").good()
    with (run / "shifted.csv").open() as file:
        table = {line["prior"]: line for line in csv.DictReader(file)}
    assert set(table) == {"none", "given", "estimated", "trend", "estimated, kept", "trend, kept"}
    counts = torch.tensor(summary(run)["class_counts"])
    for ratio, direction in ((50, "forward"), (5, "backward")):
        chosen = subsample(labels, shifted_counts(60, counts, ratio, direction), seed=0)
        true = class_counts(labels[chosen], 10)
        for name, z in (("none", logits), ("given", shift_logits(logits, source, true.clamp(min=1)))):
            expected = (z[chosen].argmax(1) == labels[chosen]).double().mean().item()
            assert float(table[name][f"{direction} {ratio}"]) == pytest.approx(expected, abs=1e-6)
    assert len(row(done.out, "given")) == 11
    assert (run / "shifted.png").read_bytes().startswith(b"\x89PNG")


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--target_prior", "unifrom"], "`--target_prior` must be uniform, train, estimate, trend or a JSON file"),
            (["--target_prior", "uniform", "--strength", "nan"], "a number from 0, but is 'nan'"),
            (["--target_prior", "uniform", "--strength", "strong"], "`--strength` must be auto or a number from 0"),
        ],
    )
    def test_options(self, launcher: Launcher, recipe: Path, run: Path, options: list[str], message: str) -> None:
        assert message in launcher.run(recipe / "evaluate.py", run, *options).error()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[0.5, 0.5]", "one positive number for each of the 10 classes"),
            ("[1, 1, 1, 1, 1, 1, 1, 1, 1, 0]", "one positive number"),
            ('{"0": 1}', "has no number for '1' (9 are missing)"),
            ("[1, 1", "is not readable as JSON"),
        ],
    )
    def test_files(self, launcher: Launcher, recipe: Path, run: Path, text: str, message: str) -> None:
        (run / "prior.json").write_text(text)
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", run / "prior.json")
        assert message in done.error()

    def test_a_run_without_a_prior_cannot_be_corrected(
        self, launcher: Launcher, recipe: Path, trained: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "ncm"
        launcher.run(recipe / "train_stage2.py", *second(recipe, "ncm", trained, out)).good()
        before = contents(out)
        done = launcher.run(recipe / "evaluate.py", out, "--shifted")
        assert "does not say which prior its logits are under" in done.error()
        assert contents(out) == before


def test_compare(launcher: Launcher, recipe: Path, trained: Path, tmp_path: Path) -> None:
    other, page = tmp_path / "tau", tmp_path / "page.html"
    launcher.run(recipe / "train_stage2.py", *second(recipe, "tau_norm", trained, other)).good()
    done = launcher.run(recipe / "compare.py", trained, other, "--out", page, "--title", "Two of them").good()
    assert {line.split()[1] for line in done.out.splitlines()[2:4]} == {"erm", "tau_norm"}
    text = page.read_text()
    assert "Two of them" in text
    assert "tau_norm" in text
    assert "is no run folder" in launcher.run(recipe / "compare.py", tmp_path / "nothing").error()
