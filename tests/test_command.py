"""The command `ltaug`, in this process, on run folders that hold nothing but what a run leaves."""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ltaug.__main__ import main
from ltaug.commands.correct import read_prior
from ltaug.correction import Correction, prior_estimators, tuned_strength
from ltaug.errors import UserError
from ltaug.export import Written
from ltaug.labelshift import estimate_prior
from ltaug.methods import METHODS
from ltaug.posthoc import BiasCorrectedTemperatureScaling, TemperatureScaling
from ltaug.predictions import PredictionModel
from ltaug.run import RunFolder
from ltaug.unlabelled import make_reader

COUNTS = [600, 150, 40, 10]
NAMES = ["ant", "bee", "cat", "dog"]
SOURCE = torch.tensor([0.7, 0.2, 0.07, 0.03], dtype=torch.float64)
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)


def samples(number: int, seed: int, prior: Tensor, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits under SOURCE, times a sharpness, of Gaussians whose classes have a prior; and labels."""
    generator = torch.Generator().manual_seed(seed)
    counts = (prior * number).round().long()
    labels = torch.arange(len(prior)).repeat_interleave(counts)
    means = 2.0 * torch.eye(4, dtype=torch.float64)
    points = means[labels] + torch.randn(len(labels), 4, generator=generator, dtype=torch.float64)
    return (sharpness * (points @ means.T - 0.5 * means.square().sum(1) + SOURCE.log())).float(), labels


TEST, HELD_OUT = samples(800, 0, UNIFORM), samples(400, 1, SOURCE)


def make_run(folder: Path, *, held_out: bool = True, finished: bool = True, **info: Any) -> Path:
    """A run folder as training leaves it."""
    run = RunFolder(folder, {"method": "erm", "epochs": 3})
    if not finished:
        return folder
    run.log(epoch=0, loss=1.0)
    run.save_logits(*TEST)
    if held_out:
        run.save_logits(*HELD_OUT, name="held_out.safetensors")
    what = {"class_names": NAMES, "class_counts": COUNTS, "method": "erm", "logits_prior": SOURCE, **info}
    what = {"logits_prior_reason": "the training prior", "held_out": "400 samples left out.", **what}
    run.write_json("ltaug.json", {key: value for key, value in what.items() if value is not ...})
    summary = {"name": "erm", "method": "erm", "epochs": 3, "final": {"top1": 0.5, "few": 0.25}, **what}
    run.write_json("summary.json", summary)
    return folder


def make_old_run(folder: Path, **info: Any) -> Path:
    """A run folder as version 0.1 left it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": "erm", "epochs": 3}))
    save_file({"logits": TEST[0], "labels": TEST[1]}, folder / "logits.safetensors")
    old = {"class_names": NAMES, "class_counts": COUNTS, "in_channels": 3, "logits_prior": SOURCE.tolist(), **info}
    (folder / "ltaug.json").write_text(json.dumps(old))
    (folder / "summary.json").write_text(json.dumps({"name": "erm", "epochs": 3, "final": {"top1": 0.5}}))
    (folder / "corrected.json").write_text(json.dumps({"said": "to train, strength 1", "final": {"top1": 0.1}}))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "erm")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "erm")


@pytest.fixture
def real_pages() -> None:
    """For a test that looks into the pages, which are otherwise tested where they are made."""


@pytest.fixture(autouse=True)
def _short_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_pages" in request.fixturenames:
        return
    for name in ("write_report", "write_comparison"):
        monkeypatch.setattr(f"ltaug.report.{name}", page_of(name))


def page_of(name: str) -> Any:
    def write(runs: Any, out: Path | None = None, title: str = "") -> Path:
        path = Path(out) if out else Path(runs) / "report.html"
        path.write_text(f"{name} {title} {runs}")
        return path

    return write


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which it ends."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def corrected(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "corrected.json").read_text())
    return found


class TestMethods:
    def test_all_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = said(capsys, "methods").splitlines()
        assert set(METHODS) <= {line.split()[0] for line in lines if line}
        (line,) = (line for line in lines if line.startswith("unimix_bayias "))
        assert "mixer unimix, alpha 0.8, partner_tau 0, mix_until 0.9, loss prior_corrected" in " ".join(line.split())
        assert line.endswith("Xu et al.")

    @pytest.mark.parametrize("name", METHODS)
    def test_each_explains_every_setting_that_differs(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "methods", name)
        firsts = [line.split()[0] for line in text.splitlines() if line[:1].strip()]
        for setting in METHODS[name].changes():
            assert setting in firsts
        assert METHODS[name].paper.split()[0] in text
        assert (f"--method {name} --from_run RUN" in text) == METHODS[name].second_stage

    def test_meanings_and_what_is_published_for_a_data_set(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = " ".join(said(capsys, "methods", "mislas").split())
        assert "smoothing_head 0.4 0.4 label_aware_smoothing: smoothing of the largest class." in text
        assert "cifar10, imbalance ratio 50: smoothing_head 0.2, smoothing_tail 0, delta_lr_ratio 0.2" in text
        assert "partner_tau" not in text
        assert "setting value default meaning" in text
        assert "No setting differs" in said(capsys, "methods", "erm")

    @pytest.mark.parametrize("name", ["erm", "mislas"])
    def test_names_that_a_setting_takes(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        lines = [line.split(maxsplit=1) for line in said(capsys, "methods", name).splitlines()]
        assert ["sampler", "power, effective_number, progressive, class_aware, repeat_factor"] in lines
        assert ["classifier", "linear, cosine, causal_norm, bilateral, crt, lws, mislas, tau_norm, ncm"] in lines
        taken = dict(line for line in lines if len(line) == 2)
        for setting in ("mixer", "loss", "class_weights"):
            assert {getattr(method, setting) for method in METHODS.values()} <= set(taken[setting].split(", "))

    def test_an_unknown_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "there is no method 'unimx', did you mean 'unimix'?" in refused(capsys, "methods", "unimx")


class TestCorrect:
    def test_without_options_it_corrects_for_uniform_classes(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = said(capsys, "correct", run)
        assert "The logits are under a prior from 70 % (ant) to 3 % (dog): the training prior." in text
        found, expected = corrected(run), Correction(SOURCE, UNIFORM)
        wanted = expected.evaluate(*TEST, torch.tensor(COUNTS))
        assert found["description"] == "to uniform, strength 1"
        assert found["final"] == pytest.approx(wanted["final"], nan_ok=True)
        assert found["final"]["top1"] > found["uncorrected"]["top1"] + 0.05
        assert found["from_prior"] == pytest.approx(SOURCE.tolist())
        assert (found["from_prior_reason"], found["tuned_on"], found["calibrator"]) == (
            "the training prior",
            None,
            None,
        )
        assert found["class_names"] == NAMES
        assert "| erm (to uniform, strength 1) |" in text
        after, before = (100 * wanted["top1_on_target"][name] for name in ("corrected", "uncorrected"))
        assert f"top-1 is {after:.1f} %, {before:.1f} % without." in text
        assert (run / "report.html").read_text().startswith("write_report")

    def test_calibration_is_tuned_on_held_out_samples(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "correct", run, "--target_prior", "train", "--calibrate", "bias_corrected")
        assert "Tuned on 400 samples left out." in text
        assert "| erm (bias_corrected) " in text
        found = corrected(run)
        calibrator = BiasCorrectedTemperatureScaling(4).fit(*HELD_OUT, logits_prior=SOURCE)
        assert found["calibration"] == "bias_corrected"
        assert found["calibrator"]["bias"] == pytest.approx(calibrator.bias.tolist())
        assert set(found["calibrator"]) == set(calibrator.state_dict())
        assert found["target_prior"] == pytest.approx([0.75, 0.1875, 0.05, 0.0125])
        assert found["final"]["ece"] < found["uncorrected"]["ece"]

    @pytest.mark.parametrize("word", ["auto", "search", "grid"])
    def test_a_strength_is_searched(self, word: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "correct", run, "--target_prior", "uniform", "--strength", word)
        found = corrected(run)
        strength, curve = tuned_strength(*HELD_OUT, SOURCE, UNIFORM, word)
        assert (found["strength"], found["strength_by"], found["strength_curve"]) == (strength, word, curve)
        assert strength != 1
        assert found["description"] == f"to uniform, strength {strength:g} ({word})"
        assert f"({found['description']})" in text

    def test_ic_as_its_paper_has_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """From the training prior, whatever was recorded, by its own search; a given option goes before."""
        run = make_run(tmp_path / "ce_drw", logits_prior=[0.25] * 4, logits_prior_reason="flat, by the class weights")
        source = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
        said(capsys, "correct", run, "--preset", "ic")
        found, strength = corrected(run), tuned_strength(*HELD_OUT, source, UNIFORM, "search")[0]
        assert strength > 0.5
        assert found["from_prior"] == pytest.approx(source.tolist())
        assert found["description"] == f"to uniform, strength {strength:g} (search), from train"
        assert found["final"]["top1"] > found["uncorrected"]["top1"] + 0.05
        said(capsys, "correct", run, "--preset", "ic", "--from_prior", "recorded")
        assert corrected(run)["final"] == pytest.approx(found["uncorrected"], nan_ok=True)  # which is no correction
        said(capsys, "correct", run, "--preset", "pc_softmax", "--target_prior", "train")
        assert corrected(run)["description"] == "to train, strength 1, from train"

    @pytest.mark.parametrize("word", ["uniform", "center", None])
    def test_the_correction_is_written_for_deployment(
        self, word: str | None, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = [] if word is None else ["--target_prior", word, "--strength", "grid"]
        text = said(capsys, "correct", run, "--calibrate", "vector", *target)
        assert f"Correction.load({str(run)!r})" in text
        loaded, found = Correction.load(run), corrected(run)
        assert (loaded.class_names, loaded.strength_by) == (NAMES, "grid" if word else None)
        top1 = (loaded(TEST[0]).argmax(1) == TEST[1]).double().mean().item()
        assert top1 == pytest.approx(found["final"]["top1"])
        assert (loaded.target is None) == (word is None)
        if word:
            assert loaded.target.tolist() == pytest.approx(found["target_prior"])
        said(capsys, "correct", run, "--shifted")  # corrects nothing, and changes nothing
        assert Correction.load(run).class_names == NAMES
        said(capsys, "correct", run, "--calibrate", "vector", "--folds", 2)  # which have one each
        with pytest.raises(FileNotFoundError):
            Correction.load(run)

    def test_a_correction_of_other_logits_is_removed(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said(capsys, "correct", run)
        RunFolder.open(run).save_logits(TEST[0] + 1.0, TEST[1])
        assert not any(
            (run / name).exists() for name in ("corrected.json", "correction.json", "correction.safetensors")
        )

    @pytest.mark.parametrize("preset", ["pc_softmax", "ic"])
    def test_a_loss_that_has_corrected_is_told(
        self, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        reason = "labels seen in the last epoch, over the training prior that the loss corrects"
        run = make_run(tmp_path / "bayias", logits_prior_reason=reason)
        words = ("--preset", preset)
        assert "from `train` it is taken out twice" in said(capsys, "correct", run, *words)
        assert "taken out twice" not in said(capsys, "correct", make_run(tmp_path / "erm"), *words)
        assert "taken out twice" not in said(capsys, "correct", run, "--target_prior", "uniform")
        final = json.loads((run / "corrected.json").read_text())["final"]
        assert 0.0 <= final["ece20"] <= 1.0

    def test_folds_of_the_test_samples(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_run(tmp_path / "erm", held_out=False)
        text = said(capsys, "correct", run, "--preset", "ic", "--folds", 3)
        found = corrected(run)
        source = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
        wanted = Correction(source, UNIFORM, "search").evaluate_folds(*TEST, torch.tensor(COUNTS), 3)
        assert found["final"] == pytest.approx(wanted["final"], nan_ok=True)
        assert found["strengths"] == wanted["strengths"]
        assert found["tuned_on"] == "each of 3 parts of the test samples in turn, tested on the others"
        off = wanted["spread"]
        assert (
            f"3 folds: top-1 {100 * wanted['final']['top1']:.1f} ± {100 * off['final']['top1']:.1f} %, at a strength "
            f"of {wanted['strength']:.3g} ± {off['strength']:.2g}" in text
        )
        text = said(capsys, "correct", run, "--calibrate", "vector", "--folds", 2)
        assert "2 folds: top-1" in text
        assert "strength" not in text

    @pytest.mark.parametrize("word", ["estimate", "trend", "center"])
    def test_a_prior_is_estimated(self, word: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["correct", str(run), "--target_prior", word])
        assert ("a free estimate may be worse than none" in capsys.readouterr().err) == (word == "estimate")
        if word == "estimate":
            assert corrected(run)["target_prior"] == pytest.approx(estimate_prior(TEST[0], SOURCE).tolist(), abs=1e-6)

    def test_an_estimate_is_not_scored_against_itself(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_run(tmp_path / "erm", logits_prior=[0.01, 0.02, 0.07, 0.9])  # wrong: so is what is estimated with it
        text = said(capsys, "correct", run, "--target_prior", "estimate")
        found = corrected(run)
        before, after = (100 * found[key]["top1"] for key in ("uncorrected", "final"))
        assert after < before - 5
        assert (
            f"On the test samples as they are, whose class mix was estimated, top-1 is {after:.1f} %, {before:.1f}"
            in text
        )
        assert "Weighted" not in text

    FORMS = ("npy", "npz", "alone.npz", "safetensors", "csv", "named.csv")

    def unlabelled(self, folder: Path, form: str, logits: Tensor) -> Path:
        """A file of logits, as other programs write them."""
        path = folder / f"seen.{form}"
        if form == "npy":
            np.save(path, logits.numpy())
        elif form.endswith("npz"):
            np.savez(path, **({"z": logits.numpy()} if "alone" in form else {"logits": logits.numpy(), "ids": [1]}))
        elif form == "safetensors":
            save_file({"logits": logits, "labels": torch.zeros(len(logits))}, path)
        else:
            order = [3, 1, 0, 2] if "named" in form else [0, 1, 2, 3]
            rows = [[NAMES[k] for k in order]] if "named" in form else []
            rows += [[repr(row[k]) for k in order] for row in logits.tolist()]
            path.write_text("\n".join(map(",".join, rows)))
        return path

    @pytest.mark.parametrize("form", FORMS)
    def test_a_prior_is_that_of_unlabelled_samples(
        self, form: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mix = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        logits, path = samples(1000, 5, mix)[0], self.unlabelled(tmp_path, form, samples(1000, 5, mix)[0])
        words = ["--target_prior", "estimate", "--calibrate", "temperature", "--unlabelled", path]
        text, found = said(capsys, "correct", run, *words), corrected(run)
        expected = Correction(SOURCE, prior_estimators(COUNTS)["estimate"], calibrator=TemperatureScaling())
        expected.tune(*HELD_OUT)
        expected.estimate(logits)
        assert found["target_prior"] == pytest.approx(expected.target.tolist(), abs=1e-4)
        wanted = expected.evaluate(*TEST, COUNTS)
        assert found["top1_on_target"] == pytest.approx(wanted["top1_on_target"], abs=2e-3)
        where = f"1,000 unlabelled samples of {path.name}"
        assert (found["estimated_on"], f"The prior is estimated on {where}." in text) == (where, True)
        assert f"Weighted to the class mix of {path.name}, as estimated, top-1 is" in text
        assert found["description"] == f"to estimate of {path.name}, strength 1, temperature"
        torch.testing.assert_close(Correction.load(run)(TEST[0]), expected(TEST[0]), rtol=1e-3, atol=1e-3)
        # The test set has no say: with others of it the estimate is the same.
        RunFolder.open(run).save_logits(TEST[0].flip(1), TEST[1])
        said(capsys, "correct", run, *words)
        assert corrected(run)["target_prior"] == found["target_prior"]
        assert "estimated on the test samples themselves" in said(capsys, "correct", run, "--target_prior", "estimate")
        assert corrected(run)["estimated_on"] == "the test samples themselves"

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.npy", np.zeros((5, 3), np.float32), r"must hold logits [N, 4], a floating-point number for each class"),
            ("a.npy", np.zeros((0, 4)), "but holds torch.float64 of shape [0, 4]"),
            ("a.npy", np.zeros((5, 4), int), "but holds torch.int64 of shape [5, 4]"),
            ("a.npy", np.zeros(4), "of shape [4]"),
            ("a.npy", np.full((5, 4), 0.25), "`logits` must be logits, but are probabilities"),
            ("a.npy", np.array([[1.0, 2.0, np.nan, 0.0]] * 2), "`logits` must be finite, but row 0 has NaN"),
            ("a.npy", np.array([["a"] * 4]), "cannot be read as logits"),
            ("a.npy", np.array([[None] * 4]), "cannot be read as logits: Object arrays cannot be loaded"),
            ("a.npy", b"", "cannot be read as logits"),
            ("a.npz", b"x", "cannot be read as logits"),
            ("a.npz", {"x": np.zeros(1), "y": np.zeros(2)}, "it has no `logits`, but x, y"),
            ("a.safetensors", b"x", "cannot be read as logits"),
            ("a.csv", b"1,2,3,4\n1,2,3\n", "row 2 has 3 numbers, but the run 4 classes"),
            ("a.csv", b"ant,bee,cat,elk\n1,2,3,4\n", "its first line must name the 4 classes of the run, 'ant'"),
            ("a.csv", b"ant,bee,cat,dog\n1,2,x,4\n", "could not convert string to float: 'x'"),
            ("a.csv", b"", "but holds torch.float64 of shape [0]"),
            ("a.csv", b"\xff\xfe1,2,3,4", "cannot be read as logits"),
            ("a.txt", b"1,2,3,4", "is no file of logits (.npy, .npz, .safetensors, .csv). As samples: "),
            ("a.csv", None, "is not there"),
            ("folder", ..., "is no file of logits"),
        ],
    )
    def test_files_that_are_no_unlabelled_logits(
        self, name: str, content: Any, message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, np.ndarray):
            np.save(path, content)
        elif content is ...:
            path.mkdir()
        line = refused(capsys, "correct", finished, "--target_prior", "center", "--unlabelled", path)
        assert message in line
        assert f"--unlabelled `{path}`" in line
        assert not (finished / "corrected.json").exists()

    def test_unlabelled_samples_are_predicted_first(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder of pictures whose pixels are logits: as the same logits in a file, and computed once."""
        import pyarrow
        from PIL import Image
        from pyarrow import parquet

        place, asked = tmp_path / "site", []
        place.mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (30, 2, 2)).astype(np.uint8)
        for k, each in enumerate(pixels):
            Image.fromarray(each).save(place / f"{k:02d}.png")
        values = {"kind": "small_images", "size": [2, 2, 1], "mean": [0.5], "std": [0.1]}
        np.save(tmp_path / "logits.npy", ((pixels.reshape(30, 4) / 255 - 0.5) / 0.1).astype(np.float32))

        def opened(folder: Path, script: str | None) -> PredictionModel:
            assert script is None
            info = {"class_names": NAMES, "class_counts": COUNTS, "preprocessing": values}
            return PredictionModel(folder, info, "", make_reader(values), lambda x: asked.append(1) or x.flatten(1))

        monkeypatch.setattr("ltaug.predictions.open_model", opened)
        found = {}
        for unlabelled in (place, place, tmp_path / "logits.npy"):
            words = ["--target_prior", "center", "--calibrate", "temperature", "--unlabelled", unlabelled]
            text = said(capsys, "correct", run, *words)
            assert f"The prior is estimated on 30 unlabelled samples of {unlabelled.name}." in text
            found[unlabelled.name] = json.loads((run / "corrected.json").read_text())["target_prior"]
        assert found["site"] == pytest.approx(found["logits.npy"], abs=1e-4)
        assert len(asked) == 1
        place.rename(tmp_path / "site.csv")
        parquet.write_table(pyarrow.table({"mine": ["../site.csv/00.png"] * 2}), run / "table.parquet")
        words = ["--target_prior", "center", "--allow_outside", "--workers", "0", "--unlabelled"]
        assert "2 unlabelled samples" in said(capsys, "correct", run, "--column", "mine", *words, run / "table.parquet")
        assert "30 unlabelled samples" in said(capsys, "correct", run, *words, tmp_path / "site.csv")
        assert "--allow_outside is for samples" in refused(capsys, "correct", run, *words, tmp_path / "logits.npy")
        assert "--split is how the samples of --unlabelled are read" in refused(capsys, "correct", run, "--split", "a")
        assert (run / "predictions" / "site" / "logits.safetensors").is_file()

    def test_a_prior_of_a_file(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "prior.json").write_text('{"dog": 4, "cat": 3, "bee": 2, "ant": 1}')
        said(capsys, "correct", run, "--target_prior", tmp_path / "prior.json", "--strength", "0.5")
        assert corrected(run)["target_prior"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
        (run / "corrected.json").rename(tmp_path / "another.json")
        said(capsys, "correct", run, "--target_prior", tmp_path / "another.json")
        assert corrected(run)["target_prior"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
        (tmp_path / "prior.json").write_text(json.dumps([1.5e308] * 3 + [0.75e308]))
        said(capsys, "correct", run, "--target_prior", tmp_path / "prior.json")
        assert corrected(run)["target_prior"] == pytest.approx([2 / 7] * 3 + [1 / 7])

    @pytest.mark.parametrize(
        ("word", "prior", "reason"),
        [
            ("train", [0.75, 0.1875, 0.05, 0.0125], "given, the training set's class counts"),
            ("uniform", [0.25] * 4, "given, uniform"),
        ],
    )
    def test_from_another_prior(
        self, word: str, prior: list[float], reason: str, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = said(capsys, "correct", run, "--from_prior", word, "--target_prior", "uniform")
        found = corrected(run)
        assert (found["from_prior"], found["from_prior_reason"]) == (pytest.approx(prior), reason)
        assert reason in text
        assert ("uniform prior, 25 % a class" in text) == (word == "uniform")

    def test_shifted_test_sets(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "correct", run, "--shifted", "--calibrate", "temperature")
        assert "| class mix | logits | F50 | F25 | F10 | F5 | F2 | U | B2 | B5 | B10 | B25 | B50 |" in text
        assert "| none | as trained |" in text
        assert "| given | temperature |" in text
        legend = text[text.index("Top-1 in percent") :]
        assert "in F50 (forward) the classes fall\nlike 50^(-k / C), k = 0 to C - 1" in legend
        for row in ("none", "calibrated", "given", "estimated", "trend", "center", "kept"):
            assert f"\n  {row} " in legend
        assert "calibrated " not in said(capsys, "correct", run, "--shifted")
        said(capsys, "correct", run, "--shifted", "--calibrate", "temperature")
        shifted = corrected(run)["shifted"]
        assert len(shifted["center"]) == 11
        assert shifted["none"]["uniform"] == pytest.approx((TEST[0].argmax(1) == TEST[1]).double().mean().item())
        assert (shifted["calibration"], shifted["tuned_on"]) == ("temperature", "400 samples left out")
        assert shifted["estimated, kept"]["forward 50"] is None
        assert shifted["given"]["backward 50"] > shifted["none"]["backward 50"] + 0.2

    @pytest.mark.usefixtures("real_pages")
    def test_the_report_shows_it_and_the_summary_stays(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (run / "summary.json").read_text()
        text = said(capsys, "correct", run, "--target_prior", "trend", "--shifted")
        assert (run / "summary.json").read_text() == before
        assert text.splitlines()[-1] == f"Report: {run / 'report.html'}"
        page, found = (run / "report.html").read_text(), corrected(run)
        assert "to trend, strength 1" in page
        for name in ("uncorrected", "final"):
            assert f"{100 * found[name]['top1']:.1f} %" in page
        assert f"<td class=n>{100 * found['shifted']['given']['backward 50']:.1f}</td>" in page

    def test_a_later_call_keeps_what_it_does_not_do_again(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said(capsys, "correct", run, "--shifted")
        assert "final" not in corrected(run)
        said(capsys, "correct", run, "--target_prior", "train")
        first = corrected(run)
        assert (first["description"], "none" in first["shifted"]) == ("to train, strength 1", True)
        said(capsys, "correct", run, "--shifted")
        assert corrected(run) == first
        (run / "corrected.json").write_text("{")
        said(capsys, "correct", run)
        assert corrected(run)["description"] == "to uniform, strength 1"

    def test_a_run_of_version_0_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_old_run(tmp_path / "old")
        text = said(capsys, "correct", run, "--target_prior", "uniform", "--shifted")
        assert "an earlier version that gave no reason" in text
        assert set(corrected(run)) >= {"description", "final", "shifted"}
        assert "said" not in corrected(run)
        line = refused(capsys, "correct", run, "--calibrate", "vector")
        assert "has no held-out logits (held_out.safetensors)" in line

    def test_a_classifier_that_was_computed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_run(tmp_path / "ncm", logits_prior=None, logits_prior_reason="computed, not trained")
        line = refused(capsys, "correct", run)
        assert "does not say which prior its logits are under (computed, not trained)" in line
        assert "--from_prior train" in line
        said(capsys, "correct", run, "--from_prior", "uniform", "--target_prior", "train")
        assert not math.isnan(corrected(run)["final"]["top1"])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--target_prior", "unifrom"], "--target_prior must be uniform, train, estimate, trend, center or a JSON"),
            (["--target_prior", "unifrom"], "did you mean 'uniform'?"),
            (["--from_prior", "trian"], "--from_prior must be uniform, train, recorded or a JSON file, but is 'trian'"),
            (["--strength", "auto", "--shifted"], "--strength is that of a correction: name the prior"),
            (["--target_prior", "uniform", "--strength", "nan"], "--strength must be a number from 0, auto, search,"),
            (["--target_prior", "uniform", "--strength", "serach"], "did you mean 'search'?"),
            (["--target_prior", "uniform", "--folds", "3"], "--folds is for what is tuned: --calibrate, or --strength"),
            (["--preset", "ic", "--folds", "1"], "argument --folds: must be at least 2, but is 1"),
            (["--preset", "ic", "--folds", "801"], "`folds` must be 2 to 800, the number of samples, but is 801"),
            (["--preset", "ic", "--folds", "3", "--shifted"], "--folds leaves no single correction for --shifted"),
            (["--unlabelled", "x.npy"], "--unlabelled is what a prior is estimated on: --target_prior estimate, trend"),
            (
                ["--unlabelled", "x.npy", "--target_prior", "trend", "--folds", "3", "--calibrate", "vector"],
                "--folds has a correction for each part",
            ),
            (["--preset", "iic"], "invalid choice: 'iic'"),
            (["--target_prior", "uniform", "--strength", "-1"], "--strength"),
            (["--calibrate", "platt"], "invalid choice: 'platt'"),
            (["--target", "uniform"], "unrecognized arguments: --target uniform"),
        ],
    )
    def test_bad_options(
        self, words: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert message in refused(capsys, "correct", finished, *words)
        assert not (finished / "corrected.json").exists()

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_files_of_priors_as_other_programs_write_them(self, encoding: str, form: str, tmp_path: Path) -> None:
        names, numbers = ["été", "Bär"], {unicodedata.normalize(form, "été"): 3, " Bär": 1}
        (tmp_path / "prior.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding=encoding)
        prior = read_prior("--target_prior", str(tmp_path / "prior.json"), names, torch.tensor([1, 1]))
        assert prior.tolist() == [0.75, 0.25]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[0.5, 0.5]", "one positive number for each of the 4 classes, but holds 2"),
            ("[1, 1, 1, 0]", "one positive number for each of the 4 classes, but holds 0 for 'dog'"),
            ('{"ant": 1, "ant": 2, "bee": 1, "cat": 1, "dog": 1}', "it names 'ant' twice"),
            ("ant,1", "Write a list of numbers, or {name: number}, as UTF-8."),
            ('{"ant": 1}', "has no number for 'bee' (3 are missing)"),
            ("[1, 1", "is not readable as JSON"),
            ("[" * 100_000, "is not readable as JSON"),
            ("true", "one positive number"),
            (json.dumps([True] * 4), "one positive number"),
            (json.dumps([0.1] * 3 + ["0.1"]), "one positive number"),
            (json.dumps([0.1] * 3 + [-0.1]), "one positive number"),
            (json.dumps([0.1] * 3 + [math.nan]), "one positive number"),
            (json.dumps([0.1] * 3 + [math.inf]), "one positive number"),
            (json.dumps([1] * 3 + [10**400]), "one positive number"),
            (json.dumps([[0.1]] * 4), "one positive number"),
            (json.dumps(dict.fromkeys([*NAMES, "elk", "fox"], 0.1)), "for 'elk', which is no class of this run (2 are"),
        ],
    )
    @pytest.mark.parametrize("option", ["--target_prior", "--from_prior"])
    def test_bad_files_of_priors(
        self, option: str, text: str, message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "prior.json").write_text(text)
        line = refused(capsys, "correct", finished, option, tmp_path / "prior.json")
        assert message in line
        assert f"{option} '{tmp_path / 'prior.json'}'" in line

    def test_folders_that_cannot_be_corrected(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "is no run folder" in refused(capsys, "correct", tmp_path / "nothing")
        line = refused(capsys, "correct", make_run(tmp_path / "begun", finished=False))
        assert "has no ltaug.json with `class_names`: it is no finished run" in line
        run = make_run(tmp_path / "lost")
        (run / "logits.safetensors").unlink()
        assert "has no logits.safetensors" in refused(capsys, "correct", run)
        run = make_run(tmp_path / "odd", class_names=NAMES[:3], class_counts=COUNTS[:3], logits_prior=[0.5, 0.3, 0.2])
        assert "has logits of 4 classes, but its ltaug.json names 3" in refused(capsys, "correct", run)
        (run / "ltaug.json").write_text("{")
        assert "ltaug.json` is damaged" in refused(capsys, "correct", run)

    def test_classes_absent_from_training_are_not_shifted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = make_run(tmp_path / "zero", logits_prior=[0.8, 0.2, 0, 0], class_counts=[8, 2, 0, 0])
        text = said(capsys, "correct", run, "--target_prior", "uniform", "--calibrate", "temperature")
        assert "the logits of 2 of the classes, without training samples, are left as they are" in text
        said(capsys, "correct", run)
        probs = Correction.load(run)(torch.zeros(1, 4)).softmax(1)[0]
        wanted = torch.tensor([0.5 / 0.8, 0.5 / 0.2, 1.0, 1.0])
        torch.testing.assert_close(probs, wanted / wanted.sum())
        line = refused(capsys, "correct", run, "--target_prior", "train")
        assert "is 0 for cat (2 such)" in line
        assert "--target_prior uniform" in line

    def test_a_trend_without_samples_of_a_class(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = make_run(tmp_path / "zero", class_counts=[9, 9, 9, 0])
        line = refused(capsys, "correct", run, "--target_prior", "trend")
        assert "needs training samples of every class, but class 3 has none" in line


class TestPublished:
    """Of what comes with ltaug, or of the folder of the script that trained the run."""

    def published(self, text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(("Published", "["))]

    def summary(self, run: Path, **settings: Any) -> None:
        made = {"dataset": "cifar100", "profile": "exponential", "imbalance_ratio": 50.0, "method": "erm", **settings}
        found = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(found | {"method": made["method"], "settings": made}))

    def test_beside_a_correction(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.summary(run)
        plain, corrected, *notes = self.published(said(capsys, "correct", run))
        assert plain.startswith("Published of erm: 44.02 (UniMix [1]), 43.9 (MiSLAS [2]), 45.5 / ECE20 24.9")
        assert corrected.startswith("Published of erm (pc_softmax): 49.5 / ECE20 17.4")
        assert notes[2] == "[3] one seed, last epoch; a ResNet-32 with 128 features"

    def test_beside_shifted_test_sets(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.summary(run)
        none, given, _ = self.published(said(capsys, "correct", run, "--shifted"))
        assert none.startswith("Published of `none` above: F50 65.9 / F25 63.4 / ")
        assert given.endswith(" / B25 47.4 / B50 49 (LADE [1])")

    def test_beside_a_comparison(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.summary(run, method="mislas")
        assert self.published(said(capsys, "compare", run, "--out", tmp_path / "page.html")) == [
            "Published of erm: 52.3 / ECE15 2.25 (MiSLAS [1])",
            "[1] one seed, best epoch on the test set",
        ]
        own = tmp_path / "mine"
        own.mkdir()
        (own / "published.csv").write_text("method,paper,top1\nmislas,Mine,50\n")
        (run / "command.txt").write_text(f"python {own}/train.py --method mislas\n")
        assert self.published(said(capsys, "compare", run, "--out", tmp_path / "page.html")) == [
            "Published of erm: 50 (Mine)"
        ]

    def test_of_other_data_or_a_changed_method_there_are_none(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for changes in ({"dataset": "mine"}, {"set": {"alpha": 2}}):
            self.summary(run, **changes)
            assert self.published(said(capsys, "correct", run, "--shifted", "--target_prior", "uniform")) == []


class TestPages:
    def test_compare(self, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other, begun = make_old_run(tmp_path / "again"), make_run(tmp_path / "begun", finished=False)
        page = tmp_path / "pages" / "page.html"
        main(["compare", str(run), str(other), str(begun), "--out", str(page), "--title", "Both"])
        out, err = capsys.readouterr()
        # Runs of one name: by what they differ in, or else by their folders.
        assert [line.split("|")[1].strip() for line in out.splitlines()[2:4]] == ["erm (erm)", "erm (again)"]
        seeds = [make_run(tmp_path / name) for name in ("a", "b")]
        for seed, folder in enumerate(seeds):
            (folder / "config.yaml").write_text(f"method: erm\nseed: {seed}\n")
        lines = said(capsys, "compare", *seeds, "--out", page).splitlines()
        assert [line.split("|")[1].strip() for line in lines[2:4]] == ["erm (seed 0)", "erm (seed 1)"]
        assert "| top-1 % |" in lines[0]
        assert "Trained on imbalance ratio 60." in lines
        main(["compare", str(run), str(other), str(begun), "--out", str(page), "--title", "Both"])
        capsys.readouterr()
        assert f"Open {page} in a browser." in out
        assert f"Not in the table: {begun} is not finished." in err
        assert "write_comparison Both" in page.read_text()

    def test_report(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = make_old_run(tmp_path / "old")
        assert said(capsys, "report", run, other).count("report.html") == 2
        assert (other / "report.html").is_file()

    @pytest.mark.parametrize("command", ["report", "compare", "correct"])
    def test_folders_that_are_no_runs(self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = tmp_path / "runs"
        for name in ("erm_seed0", "erm_seed1", "mixup"):
            (runs / name).mkdir(parents=True)
            (runs / name / "config.yaml").write_text("")
        name, first = f"there is none of this name, did you mean '{Path('mixup')}'?", runs / "erm_seed0"
        for word, message in {
            runs / "mixpu": f"`{runs / 'mixpu'}` is no run folder: in `{runs}` {name}",
            tmp_path / "rnus" / "mixup": f"in `{tmp_path}` {name.replace('mixup', 'runs/mixup')}",
            runs / "xyz": f"in `{runs}` there is none of this name. Runs in `{runs}`: {first}, ",
            runs: f"`{runs}` is no run folder: it has no config.yaml. Runs in `{runs}`: {first}, ",
            runs
            / "mixup"
            / "config.yaml": f"is a file, but a run folder is needed. Name its folder, `{runs / 'mixup'}`",
        }.items():
            assert message in refused(capsys, command, word)
        empty = tmp_path / "empty"
        empty.mkdir()
        line = refused(capsys, command, empty)
        assert f"Nor are there any in `{empty}`: a run is in the folder that its training called `out`." in line


RECIPE = """
import json, pathlib
from dataclasses import dataclass
import data
from ltaug.training import TrainSettings, launch
@dataclass
class Config(TrainSettings):
    dataset: str = "real"
def main(cfg):
    folder = pathlib.Path(cfg.out)
    folder.mkdir(parents=True)
    final = {"top1": data.TOP1 if cfg.dataset == "toys" else 0.0}
    summary = {"name": cfg.method, "method": cfg.method, "epochs": cfg.epochs, "final": final}
    (folder / "summary.json").write_text(json.dumps(summary))
if __name__ == "__main__":
    launch(main, Config, __file__)
"""


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe that takes no time."""
    recipe = tmp_path / "recipes" / "cifar_lt"
    (recipe / "protocols").mkdir(parents=True)
    (recipe / "__pycache__").mkdir()
    (recipe / "train.py").write_text(RECIPE)
    (recipe / "data.py").write_text("TOP1 = 0.75\n")
    (recipe / "protocols" / "toys.yaml").write_text("dataset: toys\nepochs: 7\n")
    (recipe / "protocols" / "digits.yaml").write_text("dataset: toys\nepochs: 7\n")
    monkeypatch.setattr("ltaug.scripts.PLACES", (tmp_path / "nowhere", recipe.parent))
    return recipe.parent


class TestExport:
    def test_shares_of_labels_are_no_prior_of_sum_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked: dict[str, Any] = {}
        info = {"inputs": {"dtype": "uint8", "shape": ["batch", 3]}, "default_prior": SOURCE.tolist()}
        info |= {"logits_prior": info["default_prior"], "absent_classes": NAMES[:1]}

        def export(run: Path, *words: Any, **more: Any) -> Written:
            asked.update(more)
            return Written(run / "config.yaml", info, 1e-6, None)

        monkeypatch.setattr("ltaug.export.export_run", export)
        several = make_run(tmp_path / "several", several_labels=True)
        prior = tmp_path / "prior.json"
        prior.write_text(json.dumps(dict(zip(NAMES, [0.5, 0.9, 0.1, 0.05], strict=True))))
        assert f"[{len(NAMES)}], by default the prior that the logits are" in said(
            capsys, "export", several, "--from_prior", prior
        )
        assert asked["from_prior"].tolist() == [0.5, 0.9, 0.1, 0.05]
        main(["export", str(make_run(tmp_path / "one")), "--from_prior", str(prior)])
        assert f"training had no sample of {NAMES[0]} (1 such)" in capsys.readouterr().err
        assert asked["from_prior"].sum() == pytest.approx(1)
        prior.write_text("[50, 3, 10, 5]")
        assert "must hold shares of the samples, between 0 and 1, but label 0 has 50. Divide counts" in refused(
            capsys, "export", several, "--from_prior", prior
        )
        assert "of classes that exclude each other" in refused(capsys, "export", several, "--from_prior", "train")
        fault = UserError("Say `input_shape`.")
        monkeypatch.setattr("ltaug.export.export_run", Mock(side_effect=fault))
        assert refused(capsys, "export", several).endswith("error: Say --input_shape.")


class TestNew:
    def test_it_copies_and_checks(self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        sys.modules.pop("data", None)
        text = said(capsys, "new", tmp_path / "mine", "--from", "cifar_lt")
        names = {path.name for path in (tmp_path / "mine").iterdir()}
        assert names == {"train.py", "data.py", "protocols", "README.md"}
        assert "It trains: one epoch on toys, which needs no files, gave 75.0 % top-1." in text
        assert f"{tmp_path / 'mine' / 'data.py'}: what a sample is" in text
        assert not {"train", "data"} & set(sys.modules)

    def test_a_copy_that_does_not_train_says_so(
        self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (recipes / "cifar_lt" / "data.py").write_text(
            "from ltaug.errors import UserError\nraise UserError('no sound card')"
        )
        assert "no sound card" in refused(capsys, "new", tmp_path / "mine", "--from", "cifar_lt")
        assert "Make it yours" in said(capsys, "new", tmp_path / "other", "--from", "cifar_lt", "--no_check")

    def test_bad_input(self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no recipe 'cifar', did you mean 'cifar_lt'? There are: cifar_lt" in refused(
            capsys, "new", tmp_path / "x", "--from", "cifar"
        )
        assert "exists already" in refused(capsys, "new", recipes, "--from", "cifar_lt")
        inside = recipes / "cifar_lt" / "mine"
        assert "lies inside the recipe" in refused(capsys, "new", inside, "--from", "cifar_lt")
        for path in (recipes / "cifar_lt" / "protocols").iterdir():
            path.unlink()
        assert "brings no data along" in refused(capsys, "new", tmp_path / "y", "--from", "cifar_lt")

    def test_a_readme_of_its_own(self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = recipes / "cifar_lt"
        (recipe / "README.md").write_text("[Results](../../docs/cifar_lt.md)")
        (recipe / "published.csv").write_text("method,paper,top1\n")
        (recipe / "data.py").write_text('"""Toys.\n\nTo train on something else, write\n`read`.\n"""\n')
        (recipe / "model.py").write_text('def build_model():\n    """Builds. Replace it by your own: a module."""\n')
        (recipe / "protocols" / "toys.yaml").write_text("# Some toys,\n# made long-tailed.\ndataset: toys\n")
        said(capsys, "new", tmp_path / "mine", "--from", "cifar_lt", "--no_check")
        text = (tmp_path / "mine" / "README.md").read_text()
        assert text.startswith("# mine\n\nStarted from the recipe cifar_lt")
        assert "1. **data.py**: To train on something else, write `read`.\n" in text
        assert "2. **model.py**: Replace it by your own: a module.\n" in text
        assert "| `toys` | Some toys, made long-tailed. |" in text
        assert not (tmp_path / "mine" / "published.csv").exists()
        # One's own recipe is copied as it is.
        (tmp_path / "mine" / "README.md").write_text("My results.")
        said(capsys, "new", tmp_path / "again", "--from", tmp_path / "mine", "--no_check")
        assert (tmp_path / "again" / "README.md").read_text() == "My results."

    @pytest.mark.parametrize("recipe", ["cifar_lt", "esc50_lt", "imagenet_lt", "inaturalist"])
    def test_a_copy_is_a_good_start(self, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said(capsys, "new", tmp_path / "mine", "--from", recipe, "--no_check")
        text = (tmp_path / "mine" / "README.md").read_text()
        assert "1. **data.py**: To train on something else, " in text
        assert "2. **model.py**: Replace it by your own: " in text
        assert "](" not in text  # no link that could be broken
        for protocol in (tmp_path / "mine" / "protocols").iterdir():
            assert re.search(rf"\| `{protocol.stem}` \| \w.+\. \|", text), protocol
            # What belongs to the network that is replaced stands together.
            lines = protocol.read_text().splitlines()
            end = lines.index("# Of model.py:") if "# Of model.py:" in lines else len(lines)
            assert not re.search(
                "^(depth|model|backbone|mels|pretrained|freeze|lora_rank|drop_path):", "\n".join(lines[:end]), re.M
            )

    def test_those_of_the_repository_are_found(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, "new", root / "recipes", "--from", "nothing_like_it")
        assert "There are: cifar_lt, esc50_lt, imagenet_lt, inaturalist" in line


class TestQuickstart:
    def test_it_trains_compares_and_repeats_nothing(
        self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "quick"
        text = said(capsys, "quickstart", "--out", out, "--methods", "erm,bayias")
        assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")][2:] == ["erm", "bayias"]
        assert "2 methods in" in text
        assert json.loads((out / "erm" / "summary.json").read_text())["epochs"] == 7
        assert "Long-tailed digits" in (out / "comparison.html").read_text()
        # A second call would fail in `main`, where the folder is made; the first one's run stays in the table.
        again = said(capsys, "quickstart", "--out", out, "--methods", "mixup,erm", "--epochs", "7")
        assert [line.split()[1] for line in again.splitlines() if line.startswith("| ")][2:] == [
            "mixup",
            "erm",
            "bayias",
        ]

    def test_an_unknown_method(self, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, "quickstart", "--out", tmp_path / "quick", "--methods", "bayas")
        assert "'bayas' is not known, did you mean 'bayias'?" in line


class TestSweep:
    SCRIPT = RECIPE.replace("def main", "import sys\ndef main")

    def test_runs_and_table(
        self, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from ltaug import sweeps

        asked: dict[str, Any] = {}

        def train(script: str, runs: list[Any], out: Path, **options: Any) -> dict[str, str]:
            asked.update(options, names=[run.name for run in runs], words=runs[-1].words)
            for run in runs[:-1]:
                run.folder.mkdir(parents=True)
                summary = {"method": run.words[1], "epochs": 1, "settings": {"dataset": "toys"}, "final": {"top1": 0.5}}
                (run.folder / "summary.json").write_text(json.dumps(summary))
            return {runs[-1].name: "it is bad."}

        monkeypatch.setattr(sweeps, "train_runs", train)
        (recipes / "cifar_lt" / "published.csv").write_text("method,paper,dataset,top1\nerm,X,toys,45.5\n")
        out = tmp_path / "out"
        words = ["sweep", recipes / "cifar_lt" / "train.py", "method=erm,crt", "--out", out, "--parallel", "3"]
        words += ["--cluster.partition", "gpu", "--cluster.gpus_per_node=2", "--", "--dataset", "toys", "--lr", "0.5"]
        with pytest.raises(SystemExit) as end:
            main(list(map(str, words)))
        assert end.value.code == 1
        text = capsys.readouterr()
        assert asked["names"] == ["erm", "crt"]
        assert asked["words"] == ("--method", "crt", "--dataset", "toys")
        assert asked["cluster"] == {"partition": "gpu", "gpus_per_node": 2}
        assert (asked["parallel"], asked["launch"]) == (3, "")
        assert "| `erm` | 50.0 | 1 | 1 | – | 45.5 (X) |" in text.out
        assert f"FAILED crt: it is bad. Its output: {out / 'logs' / 'crt'}.log" in text.err
        assert "1 of the runs failed." in text.err
        # Without axes it only makes the table of what is there.
        assert "| `erm` | 50.0 |" in said(capsys, "sweep", recipes / "cifar_lt" / "train.py", "--out", out)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["method=ermm"], "`method` 'ermm' is not known, did you mean 'erm'?"),
            (["method=erm", "--", "--lrr", "3"], "there is no setting `--lrr`, did you mean 'lr'?"),
            (["--", "--lr", "3"], "Settings behind -- are for runs"),
            (["method=erm", "--parallel", "0"], "must be at least 1, but is 0"),
            (["method=erm", "--lr", "3"], "unrecognized arguments: --lr"),
        ],
    )
    def test_bad_input(
        self, words: list[str], message: str, recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        script = recipes / "cifar_lt" / "train.py"
        assert message in refused(capsys, "sweep", script, "--out", tmp_path / "out", *words)


class TestCommandLine:
    def test_help_and_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys)
        for command in (
            "methods",
            "correct",
            "compare",
            "report",
            "explore",
            "sweep",
            "new",
            "quickstart",
            "push",
            "pull",
        ):
            assert f"\n    {command}" in text
            with pytest.raises(SystemExit) as end:
                main([command, "--help"])
            assert end.value.code == 0
            assert f"usage: ltaug {command}" in capsys.readouterr().out
        assert said(capsys, "--version").startswith("ltaug 0.")

    def test_a_misspelt_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "there is no command 'metods', did you mean 'methods'?" in refused(capsys, "metods")
        assert "`ltaug --help` lists them." in refused(capsys, "xyz")
        assert "`ltaug correct --help` explains." in refused(capsys, "correct")

    def test_it_runs_on_one_process(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "runs on one process" in refused(capsys, "methods")
