"""evaluate.py corrects a run for other class mixes; compare.py puts runs side by side."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from recipe_support import ROOT, Launcher, contents, copy_recipe, settings, summary
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
    @pytest.mark.parametrize("kind", ["names", "estimate", "center"])
    def test_is_the_shift_of_the_kept_logits(self, launcher: Launcher, recipe: Path, run: Path, kind: str) -> None:
        logits, labels, source = kept(run)
        word, target = kind, torch.arange(1.0, 11.0, dtype=torch.float64)
        if kind == "names":
            word = str(run / "prior.json")
            Path(word).write_text(json.dumps({str(k): k + 1 for k in reversed(range(10))}))
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", word).good()
        corrected = json.loads((run / "corrected.json").read_text())
        used = torch.tensor(corrected["target_prior"], dtype=torch.float64)
        if kind != "names":
            counts = torch.tensor(summary(run)["class_counts"], dtype=torch.float64)
            target = estimate_prior(logits, source, trend=counts.log() if kind == "center" else None)
            target = estimate_prior(logits, source, center=target) if kind == "center" else target
        assert ("Note: with many classes" in done.err) == (kind == "estimate")
        # EM stops within its tolerance; sums of other numbers of threads round otherwise on the way.
        assert used == pytest.approx(target / target.sum(), abs=1e-6 if kind == "names" else 2e-3)
        expected = (shift_logits(logits, source, used).argmax(1) == labels).double().mean().item()
        assert float(row(done.out, f"erm (to {word}, strength 1)")[0]) == pytest.approx(100 * expected, abs=0.051)
        assert corrected["final"]["top1"] == pytest.approx(expected)
        assert corrected["uncorrected"] == summary(run)["final"]
        assert corrected["class_names"] == [str(k) for k in range(10)]
        assert corrected["tuned_on"] is None
        assert "Tuned on" not in done.out

    def test_the_summary_stays_that_of_the_run_and_the_report_shows_both(
        self, launcher: Launcher, recipe: Path, run: Path
    ) -> None:
        before = summary(run)
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", "uniform").good()
        assert summary(run) == before
        assert done.out.splitlines()[-1] == f"Report: {run / 'report.html'}"
        page = (run / "report.html").read_text()
        section = page.partition("<h2>Corrected for another class mix</h2>")[2].partition("<h2>")[0]
        top1 = (
            values["top1"] for values in (before["final"], json.loads((run / "corrected.json").read_text())["final"])
        )
        cells = "".join(f"<td class=n>{100 * value:.1f} %</td>" for value in top1)
        assert f"<th scope=row>top-1 accuracy</th>{cells}" in section
        assert "to uniform, strength 1" in section

    def test_tuning_names_what_it_was_done_on(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        options = ["--target_prior", "uniform", "--strength", "auto", "--calibrate", "bias_corrected"]
        done = launcher.run(recipe / "evaluate.py", run, *options).good()
        tuned_on = json.loads((run / "corrected.json").read_text())["tuned_on"]
        assert f"Tuned on {tuned_on}.\n" in done.out
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
    assert set(table) == {
        "none",
        "given",
        "estimated",
        "trend",
        "center",
        "estimated, kept",
        "trend, kept",
        "center, kept",
    }
    assert {line["logits"] for line in table.values()} == {"as trained"}
    counts = torch.tensor(summary(run)["class_counts"])
    for ratio, direction in ((50, "forward"), (5, "backward")):
        chosen = subsample(labels, shifted_counts(60, counts, ratio, direction), seed=0)
        true = class_counts(labels[chosen], 10)
        for name, z in (("none", logits), ("given", shift_logits(logits, source, true.clamp(min=1)))):
            expected = (z[chosen].argmax(1) == labels[chosen]).double().mean().item()
            assert float(table[name][f"{direction} {ratio}"]) == pytest.approx(expected, abs=1e-6)
    assert len(row(done.out, "given")) == 12
    assert (run / "shifted.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    assert "Accuracy by the class mix of the test set" in page
    assert f"{100 * float(table['given']['forward 50']):.1f} %" in page


def test_shifted_test_sets_name_the_logits_that_are_calibrated(launcher: Launcher, recipe: Path, run: Path) -> None:
    logits, labels, _ = kept(run)
    done = launcher.run(recipe / "evaluate.py", run, "--shifted", "--calibrate", "vector").good()
    with (run / "shifted.csv").open() as file:
        table = {line["prior"]: line for line in csv.DictReader(file)}
    assert {name: line["logits"] for name, line in table.items() if "kept" not in name} == {
        "none": "as trained",
        "calibrated": "vector",
        "given": "vector",
        "estimated": "vector",
        "trend": "vector",
        "center": "vector",
    }
    assert (row(done.out, "none")[0], row(done.out, "given")[0]) == ("as trained", "vector")
    assert float(table["none"]["uniform"]) == pytest.approx(
        (logits.argmax(1) == labels).double().mean().item(), abs=1e-6
    )


# Prints, of the data of some settings, what a test looks at; the images are their own indices in the whole set.
NUMBERED = """
import json
import sys

import data
from config import Config

settings, asked = json.loads(sys.argv[1])
if settings["dataset"] == "digits":
    read = data.load_digits

    def numbered(cfg):
        _, labels, *rest = read(cfg)
        return (lambda indices: indices.reshape(-1, 1, 1, 1), labels, *rest)

    data.load_digits = numbered
else:
    data.decode = lambda split, *_: data.torch.zeros(len(split), 1, 1, 1)
found = data.load_data(Config(**settings), **asked)
print(json.dumps({
    "hash": found.index_hash, "train": found.train_images.flatten().tolist(), "counts": found.class_counts.tolist(),
    "held_out": found.held_out_images.flatten().tolist(), "held_out_labels": found.held_out_labels.tolist(),
    "train_labels": found.train_labels.tolist(),
}))
"""


@pytest.fixture(scope="module")
def script(recipe: Path) -> Path:
    path = recipe / "numbered.py"
    path.write_text(NUMBERED)
    return path


class TestHeldOut:
    """Samples that are kept from training."""

    def ask(self, launcher: Launcher, script: Path, values: dict, **asked: bool) -> dict:
        return json.loads(launcher.run(script, json.dumps([values, asked])).good().out)

    @pytest.mark.parametrize(
        ("dataset", "digest"),
        [
            ("digits", "523ba124ea13e0cd0373d6fadc1f6c82c25c76760ffd683932515f2564a60b13"),
            ("cifar10", "eec3bb8333edfcbbfbd2d5bb7502e3c01b5ac337fd2d3565782147c01d11d505"),
        ],
    )
    def test_without_any_the_subset_is_the_published_one(
        self, launcher: Launcher, script: Path, dataset: str, digest: str
    ) -> None:
        folder = ROOT.parent / "shared" / "data" / dataset
        if dataset == "cifar10" and not folder.is_dir():
            pytest.skip("the images are not there")
        found = self.ask(launcher, script, {"dataset": dataset, "data_dir": str(folder)})
        assert found["hash"] == digest
        assert not found["held_out"]

    def test_are_of_every_class_and_not_trained_on(self, launcher: Launcher, script: Path) -> None:
        values = {"dataset": "digits", "held_out_per_class": 20, "imbalance_ratio": 5}
        found = self.ask(launcher, script, values, held_out=True)
        assert not set(found["train"]) & set(found["held_out"])
        assert len(set(found["held_out"])) == 200
        assert torch.bincount(torch.tensor(found["held_out_labels"])).tolist() == [20] * 10
        assert found["counts"][0] == 114 - 20
        assert found["counts"] == torch.bincount(torch.tensor(found["train_labels"])).tolist()
        again = self.ask(launcher, script, values, held_out=True, train_images=False)
        assert again == found | {"train": []}
        other = self.ask(launcher, script, values | {"data_seed": 1}, held_out=True)
        assert set(other["held_out"]) != set(found["held_out"])
        assert self.ask(launcher, script, values) == found | {"held_out": [], "held_out_labels": []}

    def test_without_them_what_is_left_over_serves(self, launcher: Launcher, script: Path) -> None:
        found = self.ask(launcher, script, {"dataset": "digits", "imbalance_ratio": 5}, held_out=True)
        assert not set(found["train"]) & set(found["held_out"])
        sizes = torch.bincount(torch.tensor(found["held_out_labels"]), minlength=10).tolist()
        assert sizes == [min(100, 114 - n) for n in found["counts"]]
        assert sizes[0] == 0

    def test_tune_the_corrections_of_a_run(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        launcher.run(recipe / "train.py", *settings(recipe, "erm", run, held_out_per_class=20)).good()
        assert summary(run)["class_counts"][0] == 94
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", "uniform", "--strength", "auto").good()
        assert (
            "Tuned on 200 samples of the training split that training did not use (`held_out_per_class`: 20 "
            in done.out
        )
        assert "does not see" not in done.out

    def test_that_leave_nothing_are_refused(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        for size, message in (
            (114, "leaves nothing to train on of class 0 (0), which has 114 samples"),
            (-1, "negative"),
        ):
            arguments = settings(recipe, "erm", tmp_path / "run", held_out_per_class=size)
            error = launcher.run(recipe / "train.py", *arguments).error()
            assert "`held_out_per_class`" in error
            assert message in error
            assert not (tmp_path / "run").exists()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--target_prior", "unifrom"], "`--target_prior` must be uniform, train, estimate, trend, center"),
            (["--strength", "auto", "--shifted"], "`--strength` is that of a correction"),
        ],
    )
    def test_options(self, launcher: Launcher, recipe: Path, run: Path, options: list[str], message: str) -> None:
        # Told before any data are read: the hub is out of reach.
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("dataset: digits", "dataset: cifar10"))
        before = contents(run)
        assert message in launcher.run(recipe / "evaluate.py", run, *options).error()
        assert contents(run) == before

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
    other, page = tmp_path / "tau", tmp_path / "pages" / "of_today" / "page.html"
    launcher.run(recipe / "train_stage2.py", *second(recipe, "tau_norm", trained, other)).good()
    done = launcher.run(recipe / "compare.py", trained, other, "--out", page, "--title", "Two of them").good()
    assert {line.split()[1] for line in done.out.splitlines()[2:4]} == {"erm", "tau_norm"}
    text = page.read_text()
    assert "Two of them" in text
    assert "tau_norm" in text
    assert "is no run folder" in launcher.run(recipe / "compare.py", tmp_path / "nothing").error()
