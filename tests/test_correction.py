"""Corrections by words, as command lines have them: what they compute, and what they refuse."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltaug.correction import Correction, add_correction_options, estimate, read_logits_prior, tuned_strength
from ltaug.labelshift import estimate_prior
from ltaug.metrics import classification_report
from ltaug.posthoc import BiasCorrectedTemperatureScaling, TemperatureScaling, VectorScaling

COUNTS = [600, 150, 40, 10]
NAMES = ["a", "b", "c", "d"]
SOURCE = torch.tensor([0.7, 0.2, 0.07, 0.03], dtype=torch.float64)


def samples(number: int, seed: int, prior: Tensor = SOURCE, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits under SOURCE, times a sharpness, of Gaussians whose classes have a prior; and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(prior, number, replacement=True, generator=generator)
    means = 2.0 * torch.eye(4, dtype=torch.float64)
    points = means[labels] + torch.randn(number, 4, generator=generator, dtype=torch.float64)
    return sharpness * (points @ means.T - 0.5 * means.square().sum(1) + SOURCE.log()), labels


def make(**changes: Any) -> Correction:
    return Correction(**{"logits_prior": SOURCE, "class_counts": COUNTS, "class_names": NAMES, **changes})


class TestShift:
    @pytest.mark.parametrize(
        ("word", "target"),
        [
            ("uniform", [0.25] * 4),
            ("train", [0.75, 0.1875, 0.05, 0.0125]),
            ("[1, 2, 3, 4]", [0.1, 0.2, 0.3, 0.4]),
            ('{"d": 4, "c": 3, "b": 2, "a": 1}', [0.1, 0.2, 0.3, 0.4]),
        ],
    )
    @pytest.mark.parametrize("strength", ["1", 0.5])
    def test_is_that_of_bayes_rule(self, word: str, target: list[float], strength: str | float, tmp_path: Path) -> None:
        if word[0] in "[{":
            (tmp_path / "prior.json").write_text(word)
            word = str(tmp_path / "prior.json")
        logits, _ = samples(50, 0)
        correction = make(target_prior=word, strength=strength)
        assert not correction.tunes
        odds = np.exp(logits.numpy()) * (np.array(target) / SOURCE.numpy()) ** float(strength)
        np.testing.assert_allclose(
            correction(logits).softmax(1).numpy(), odds / odds.sum(1, keepdims=True), rtol=1e-9, atol=0
        )
        assert correction.target.numpy() == pytest.approx(target, rel=1e-12)
        assert str(correction) == f"to {word}, strength {float(strength):g}"

    def test_numbers_whose_sum_overflows_are_fine(self, tmp_path: Path) -> None:
        (tmp_path / "prior.json").write_text(json.dumps([1.5e308] * 3 + [0.75e308]))
        correction = make(target_prior=str(tmp_path / "prior.json"))
        correction(samples(5, 0)[0])
        assert correction.target.numpy() == pytest.approx([2 / 7] * 3 + [1 / 7])

    @pytest.mark.parametrize("word", ["estimate", "trend", "center"])
    def test_an_estimate_is_one_of_the_samples_themselves(self, word: str) -> None:
        target = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        logits, labels = samples(4000, 1, target)
        correction = make(target_prior=word)
        corrected = correction(logits)
        trend = estimate_prior(logits, SOURCE, trend=torch.tensor(COUNTS).double().log())
        expected = {
            "estimate": estimate_prior(logits, SOURCE),
            "trend": trend,
            "center": estimate_prior(logits, SOURCE, center=trend),
        }[word]
        torch.testing.assert_close(correction.target, expected, rtol=0, atol=1e-9)
        # All three come near the true prior of this world, which leans against the training counts.
        assert (expected - target).abs().sum() < 0.15
        assert (corrected.argmax(1) == labels).double().mean() > (logits.argmax(1) == labels).double().mean() + 0.05

    def test_a_class_that_an_estimate_does_not_find_keeps_a_finite_logit(self) -> None:
        logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 20, dtype=torch.float64)
        assert make(target_prior="estimate")(logits).isfinite().all()

    def test_estimate_knows_its_ways(self) -> None:
        with pytest.raises(ValueError, match="`way` must be one of estimate, trend, center, but is 'em'"):
            estimate("em", samples(5, 0)[0], SOURCE, torch.tensor(COUNTS))


class TestTuning:
    @pytest.mark.parametrize(
        ("word", "calibrator"),
        [
            ("temperature", TemperatureScaling()),
            ("vector", VectorScaling(4)),
            ("bias_corrected", BiasCorrectedTemperatureScaling(4)),
        ],
    )
    def test_calibration_is_under_the_prior_of_the_logits(self, word: str, calibrator: Any) -> None:
        logits, labels = samples(3000, 2, torch.full((4,), 0.25, dtype=torch.float64), sharpness=3.0)
        correction = make(calibrate=word)
        assert correction.tunes
        correction.tune(logits, labels)
        test, _ = samples(2000, 3, sharpness=3.0)
        expected = calibrator.fit(logits, labels, logits_prior=SOURCE)(test)
        torch.testing.assert_close(correction(test), expected)
        torch.testing.assert_close(correction.calibrate(test), expected)
        # Of this world the truth is known: a third of the logits, whatever the mix of the held-out samples.
        truth = samples(2000, 3)[0].softmax(1)
        assert (expected.softmax(1) - truth).abs().max() < 0.15 < (test.softmax(1) - truth).abs().max()
        assert str(correction) == word

    def test_a_strength_is_the_best_on_samples_weighted_towards_the_target(self) -> None:
        logits, labels = samples(5000, 4)
        correction = make(target_prior="uniform", strength="auto")
        correction.tune(logits, labels)
        correction(logits)
        best, curve = tuned_strength(logits, labels, SOURCE, torch.full((4,), 0.25))
        assert (correction.strength, correction.curve) == (best, curve)
        assert curve["strengths"] == [round(0.1 * k, 1) for k in range(31)]
        z, y = logits.numpy(), labels.numpy()
        balanced = []
        for strength in curve["strengths"]:
            hit = (z - strength * np.log(SOURCE.numpy())).argmax(1) == y
            balanced.append(np.mean([hit[y == k].mean() for k in range(4)]))
        assert curve["accuracy"] == pytest.approx(balanced, abs=1e-12)
        # Of those whose difference to the best is within its standard error, the closest to 1.
        top, weights = int(np.argmax(balanced)), 0.25 / np.bincount(y)[y]
        hits = np.array([(z - 0.1 * k * np.log(SOURCE.numpy())).argmax(1) == y for k in range(31)]).astype(float)
        gaps = weights * (hits[top] - hits)
        as_good = np.flatnonzero(gaps.sum(1) <= np.sqrt((gaps**2).sum(1)))
        assert round(10 * best) == min(as_good, key=lambda k: (abs(k - 10), k))
        assert {0, 30}.isdisjoint(as_good)
        assert 0.7 <= best <= 1.3  # Bayes' rule, which these logits are made by, says 1

    def test_it_is_searched_on_calibrated_logits(self) -> None:
        logits, labels = samples(5000, 5, sharpness=3.0)
        plain, calibrated = (
            make(target_prior="uniform", strength="auto", calibrate=c) for c in ("none", "temperature")
        )
        for correction in (plain, calibrated):
            correction.tune(logits, labels)
            correction(logits)
        assert plain.strength > 2.0  # three times as sharp, three times as strong
        assert calibrated.strength == pytest.approx(plain.strength / 3, abs=0.3)
        assert str(calibrated) == f"to uniform, strength {calibrated.strength:g}, temperature"

    @pytest.mark.parametrize("changes", [{"calibrate": "vector"}, {"target_prior": "uniform", "strength": "auto"}])
    def test_without_it_nothing_is_corrected(self, changes: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="call `tune` first"):
            make(**changes)(samples(5, 0)[0])

    def test_it_needs_samples(self) -> None:
        with pytest.raises(ValueError, match="there are none to tune on"):
            make(calibrate="vector").tune(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    def test_what_a_run_folder_keeps_of_it(self) -> None:
        logits, labels = samples(500, 6)
        correction = make(target_prior="uniform", strength="auto", calibrate="temperature")
        correction.tune(logits, labels)
        found = correction.evaluate(logits, labels, {"top1": 0.5}, "500 samples")
        assert found["final"] == classification_report(correction(logits).softmax(1), labels, torch.tensor(COUNTS))
        assert found["said"] == str(correction)
        assert (found["uncorrected"], found["tuned_on"], found["class_names"]) == ({"top1": 0.5}, "500 samples", NAMES)
        assert (found["strength"], found["strength_curve"]) == (correction.strength, correction.curve)
        only_calibrated = make(calibrate="temperature")
        only_calibrated.tune(logits, labels)
        found = only_calibrated.evaluate(logits, labels, {})
        assert (found["strength"], found["strength_curve"], found["target_prior"]) == (None, None, None)

    @pytest.mark.parametrize("word", ["estimate", "center"])
    def test_a_free_estimate_comes_with_a_caution(self, word: str, capsys: pytest.CaptureFixture[str]) -> None:
        make(target_prior=word).evaluate(*samples(50, 0), {})
        assert ("a free estimate may be worse than none" in capsys.readouterr().err) == (word == "estimate")


class TestOnTarget:
    def test_accuracy_is_weighted_to_the_mix_that_is_corrected_for(self) -> None:
        """On the balanced set a shift to the training mix costs; on a set of that mix it pays."""
        balanced, labels = samples(4000, 7, torch.full((4,), 0.25, dtype=torch.float64))
        uniform = balanced - SOURCE.log()  # as a model with a prior-corrected loss gives them
        correction = make(logits_prior=[1.0] * 4, target_prior="train")
        found = correction.evaluate(uniform, labels, {"top1": 0.7})
        assert found["final"]["top1"] < classification_report(uniform.softmax(1), labels, torch.tensor(COUNTS))["top1"]
        prior = np.array(COUNTS) / sum(COUNTS)
        for name, logits in (("uncorrected", uniform), ("corrected", correction(uniform))):
            hit = (logits.argmax(1) == labels).numpy()
            expected = sum(prior[k] * hit[labels.numpy() == k].mean() for k in range(4))
            assert found["top1_on_target"][name] == pytest.approx(expected, abs=1e-9)
        assert found["top1_on_target"]["corrected"] > found["top1_on_target"]["uncorrected"] + 0.02
        after, before = (100 * found["top1_on_target"][name] for name in ("corrected", "uncorrected"))
        assert f"top-1 is {after:.1f} %, and {before:.1f} % without" in correction.on_target(found)

    def test_what_calibration_alone_does_has_a_row_of_its_own(self) -> None:
        logits, labels = samples(500, 6, sharpness=3.0)
        correction = make(target_prior="uniform", calibrate="temperature")
        correction.tune(logits, labels)
        rows = correction.table_rows("erm", correction.evaluate(logits, labels, {"top1": 0.5}))
        assert list(rows) == ["erm", "erm (temperature)", "erm (to uniform, strength 1, temperature)"]
        calibrated = correction.calibrate(logits).softmax(1)
        assert rows["erm (temperature)"] == classification_report(calibrated, labels, torch.tensor(COUNTS))
        plain = make(target_prior="uniform")
        assert list(plain.table_rows("erm", plain.evaluate(logits, labels, {}))) == [
            "erm",
            "erm (to uniform, strength 1)",
        ]

    def test_a_correction_can_be_used_again(self, tmp_path: Path) -> None:
        first = make(target_prior="center")
        found = first.evaluate(*samples(300, 8), {})
        found["target_prior"] = found["target_prior"].tolist()
        (tmp_path / "corrected.json").write_text(json.dumps(found))
        again = make(target_prior=str(tmp_path / "corrected.json"))
        logits, _ = samples(20, 9)
        again(logits)
        torch.testing.assert_close(again.target, first.target)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"class_names": ["a", "b", "c"]}, "must have one entry a class, but have 4, 4 and 3"),
            ({"class_counts": [9, 1]}, "must have one entry a class, but have 4, 2 and 4"),
            ({"logits_prior": [0.5, 0.5, 0.0, 0.0]}, "`logits_prior` must be positive"),
            ({"class_counts": [9, 1, 1, 0], "target_prior": "trend"}, "needs training samples of every class"),
            ({"target_prior": "uniform", "strength": None}, "must be auto or a number from 0, but is None"),
            ({"target_prior": "unifrom"}, "must be uniform, train, estimate, trend, center or a JSON file, but is"),
            ({"target_prior": "uniform", "strength": "nan"}, "must be auto or a number from 0, but is 'nan'"),
            ({"target_prior": "uniform", "strength": "strong"}, "`--strength` must be auto or a number from 0"),
            ({"target_prior": "uniform", "strength": -1}, "`--strength` must be auto or a number from 0, but is -1"),
            ({"target_prior": "uniform", "strength": math.inf}, "`--strength` must be auto or a number from 0"),
            ({"calibrate": "platt"}, "`--calibrate` must be none, temperature, vector, bias_corrected, but is 'platt'"),
        ],
    )
    def test_words(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make(**changes)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[0.5, 0.5]", "one positive number for each of the 4 classes, but holds 2"),
            ("[1, 1, 1, 0]", "one positive number"),
            ('{"a": 1}', r"has no number for 'b' \(3 are missing\)"),
            ("[1, 1", "is not readable as JSON"),
            ("[" * 100_000, "is not readable as JSON"),
            ("true", "one positive number"),
            (json.dumps([True] * 4), "one positive number"),
            (json.dumps([0.1] * 3 + ["0.1"]), "one positive number"),
            (json.dumps([0.1] * 3 + [-0.1]), "one positive number"),
            (json.dumps([0.1] * 3 + [math.nan]), "one positive number"),
            (json.dumps([0.1] * 3 + [math.inf]), "one positive number"),
            (json.dumps([1] * 3 + [10**400]), "one positive number"),
            (json.dumps([[0.1] * 4]), "one positive number"),
            (json.dumps([[0.1]] * 4), "one positive number"),
            (json.dumps({name: [0.1] for name in NAMES}), "one positive number"),
            (json.dumps(dict.fromkeys("abcdef", 0.1)), r"has a number for 'e', which is no class of this run \(2 are"),
        ],
    )
    def test_files(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "prior.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            make(target_prior=str(tmp_path / "prior.json"))


class TestOfRun:
    def write(self, folder: Path, **changes: Any) -> Path:
        info = {"logits_prior": SOURCE.tolist(), "class_counts": COUNTS, "class_names": NAMES, **changes}
        (folder / "ltaug.json").write_text(json.dumps(info))
        return folder

    def test_reads_what_the_run_says_of_its_logits(self, tmp_path: Path) -> None:
        logits, _ = samples(20, 0)
        found = Correction.of_run(self.write(tmp_path), "uniform", "0.5")
        torch.testing.assert_close(found(logits), make(target_prior="uniform", strength=0.5)(logits))
        assert Correction.of_run(tmp_path, "uniform").strength == 1.0
        assert Correction.of_run(tmp_path, "uniform", "auto").tunes
        assert read_logits_prior(tmp_path)["class_names"] == NAMES

    def test_refuses_a_run_that_does_not(self, tmp_path: Path) -> None:
        for folder in (tmp_path, self.write(tmp_path, logits_prior=None)):
            with pytest.raises(ValueError, match="does not say which prior its logits are under"):
                Correction.of_run(folder, "uniform")

    @pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
    def test_a_damaged_file_is_named(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "ltaug.json").write_text(text)
        with pytest.raises(ValueError, match=r"ltaug.json` is damaged"):
            Correction.of_run(tmp_path, "uniform")

    def test_a_strength_is_that_of_a_shift(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`--strength` is that of a correction: name the prior"):
            Correction.of_run(self.write(tmp_path), None, "0.5")
        with pytest.raises(ValueError, match="`--strength` must be auto or a number from 0, but is '-1'"):
            Correction.of_run(tmp_path / "nothing", "uniform", "-1")

    def test_options(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        parser, plain = argparse.ArgumentParser(), argparse.ArgumentParser()
        add_correction_options(parser)
        add_correction_options(plain, tuning=False)
        words = vars(parser.parse_args(["--target_prior", "center", "--calibrate", "vector"]))
        assert str(Correction.of_run(self.write(tmp_path), **words)) == "to center, strength 1, vector"
        assert vars(plain.parse_args([])) == {"target_prior": None, "strength": None}
        assert "auto" not in plain.format_help()
        with pytest.raises(SystemExit):
            parser.parse_args(["--calibrate", "platt"])
        assert "invalid choice: 'platt'" in capsys.readouterr().err
