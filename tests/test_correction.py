"""Corrections of finished logits: what they compute, what they are tuned on, what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltaug.correction import CALIBRATORS, Correction, prior_estimators, shifted_accuracy, tuned_strength
from ltaug.labelshift import estimate_prior
from ltaug.longtail import shifted_sets
from ltaug.metrics import classification_report, expected_calibration_error
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    TemperatureScaling,
    VectorScaling,
    search_strength,
    shift_logits,
)

COUNTS = [600, 150, 40, 10]
SOURCE = torch.tensor([0.7, 0.2, 0.07, 0.03], dtype=torch.float64)
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)


def samples(number: int, seed: int, prior: Tensor = SOURCE, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits under SOURCE, times a sharpness, of Gaussians whose classes have a prior; and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(prior, number, replacement=True, generator=generator)
    means = 2.0 * torch.eye(4, dtype=torch.float64)
    points = means[labels] + torch.randn(number, 4, generator=generator, dtype=torch.float64)
    return sharpness * (points @ means.T - 0.5 * means.square().sum(1) + SOURCE.log()), labels


def make(*arguments: Any, calibrate: str = "none", **named: Any) -> Correction:
    calibrator = CALIBRATORS[calibrate](4) if calibrate != "none" else None
    return Correction(named.pop("logits_prior", SOURCE), *arguments, calibrator=calibrator, **named)


class TestShift:
    @pytest.mark.parametrize("target", [[0.25] * 4, [0.75, 0.1875, 0.05, 0.0125], [1, 2, 3, 4]])
    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_is_that_of_bayes_rule(self, target: list[float], strength: float) -> None:
        logits, _ = samples(50, 0)
        correction = make(torch.tensor(target, dtype=torch.float64), strength)
        assert not correction.tunes
        expected = np.array(target) / sum(target)
        odds = np.exp(logits.numpy()) * (expected / SOURCE.numpy()) ** strength
        np.testing.assert_allclose(
            correction(logits).softmax(1).numpy(), odds / odds.sum(1, keepdims=True), rtol=1e-9, atol=0
        )
        assert correction.target.numpy() == pytest.approx(expected, rel=1e-12)

    def test_without_a_target_nothing_is_shifted(self) -> None:
        logits, _ = samples(5, 0)
        correction = make()
        assert torch.equal(correction(logits), logits)
        assert correction.target is None
        assert not correction.tunes

    @pytest.mark.parametrize("way", ["estimate", "trend", "center"])
    def test_an_estimate_is_one_of_the_samples_themselves(self, way: str) -> None:
        target = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        logits, labels = samples(4000, 1, target)
        correction = make(prior_estimators(COUNTS)[way])
        corrected = correction(logits)
        trend = estimate_prior(logits, SOURCE, trend=torch.tensor(COUNTS).double().log())
        expected = {
            "estimate": estimate_prior(logits, SOURCE),
            "trend": trend,
            "center": estimate_prior(logits, SOURCE, center=trend),
        }[way]
        torch.testing.assert_close(correction.target, expected, rtol=0, atol=1e-9)
        # All three come near the true prior of this world, which leans against the training counts.
        assert (expected - target).abs().sum() < 0.15
        assert (corrected.argmax(1) == labels).double().mean() > (logits.argmax(1) == labels).double().mean() + 0.05

    def test_a_class_that_an_estimate_does_not_find_keeps_a_finite_logit(self) -> None:
        logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 20, dtype=torch.float64)
        assert make(prior_estimators(COUNTS)["estimate"])(logits).isfinite().all()

    def test_an_estimator_of_ones_own(self) -> None:
        logits, _ = samples(5, 0)
        own = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        torch.testing.assert_close(make(lambda z, prior: own)(logits), make(own)(logits))


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
        logits, labels = samples(3000, 2, UNIFORM, sharpness=3.0)
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

    @pytest.mark.parametrize("method", ["search", "grid", "auto"])
    def test_classes_without_a_sample_are_left_out_of_the_search(self, method: str) -> None:
        """Or else any strength that takes the most frequent class away looks good, since it can only lose."""
        logits, labels = samples(20000, 4)
        there = labels != 0
        found, curve = tuned_strength(logits[there], labels[there], SOURCE, UNIFORM, method)
        alone = tuned_strength(logits[there][:, 1:], labels[there] - 1, SOURCE[1:], UNIFORM[1:], method)
        assert (found, curve) == alone
        assert 0.7 <= found <= 1.3

    def test_classes_that_are_shifted_alike_say_nothing_of_a_strength(self) -> None:
        logits, labels = samples(400, 4)
        step = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
        tail = labels > 1
        with pytest.raises(
            ValueError, match="`labels` of the held-out samples are of 2 of 4 classes, all of which are"
        ):
            tuned_strength(logits[tail], labels[tail], step, UNIFORM)

    def test_a_strength_is_the_best_on_samples_weighted_towards_the_target(self) -> None:
        logits, labels = samples(5000, 4)
        correction = make(UNIFORM, "auto")
        assert correction.tunes
        correction.tune(logits, labels)
        correction(logits)
        best, curve = tuned_strength(logits, labels, SOURCE, UNIFORM)
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

    @pytest.mark.parametrize(("word", "method"), [("search", "paper"), ("grid", "grid")])
    def test_a_strength_as_the_paper_searches_it(self, word: str, method: str) -> None:
        logits, labels = samples(300, 4, UNIFORM, sharpness=1.5)
        correction = make(UNIFORM, word)
        assert correction.tunes
        correction.tune(logits, labels)
        correction(logits)

        def balanced(strength: float) -> float:
            hit = (logits - strength * SOURCE.log()).argmax(1) == labels
            return float(np.mean([hit[labels == k].double().mean() for k in range(4)]))

        assert correction.strength == search_strength(balanced, limit=3.0, method=method)
        assert correction.strength_by == word
        assert correction.curve == tuned_strength(logits, labels, SOURCE, UNIFORM)[1]

    def test_it_is_searched_on_calibrated_logits(self) -> None:
        logits, labels = samples(5000, 5, sharpness=3.0)
        plain, calibrated = (make(UNIFORM, "auto", calibrate=word) for word in ("none", "temperature"))
        for correction in (plain, calibrated):
            correction.tune(logits, labels)
            correction(logits)
        assert plain.strength > 2.0  # three times as sharp, three times as strong
        assert calibrated.strength == pytest.approx(plain.strength / 3, abs=0.3)

    def test_it_is_searched_anew_for_other_samples(self) -> None:
        """An estimated target is another one for other test samples, and so is the strength that fits it."""
        held_out = samples(4000, 4)
        correction = make(prior_estimators(COUNTS)["trend"], "auto")
        correction.tune(*held_out)
        found = []
        for prior in (SOURCE, UNIFORM):
            correction(samples(2000, 1, prior)[0])
            found.append((correction.target, correction.curve))
            assert tuned_strength(*held_out, SOURCE, correction.target)[0] == correction.strength
        assert not torch.equal(found[0][0], found[1][0])
        assert found[0][1] != found[1][1]

    @pytest.mark.parametrize(("arguments", "calibrate"), [((), "vector"), ((UNIFORM, "auto"), "none")])
    def test_without_it_nothing_is_corrected(self, arguments: tuple[Any, ...], calibrate: str) -> None:
        with pytest.raises(ValueError, match="call `tune` first"):
            make(*arguments, calibrate=calibrate)(samples(5, 0)[0])

    def test_it_needs_samples(self) -> None:
        with pytest.raises(ValueError, match="there are none to tune on"):
            make(calibrate="vector").tune(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        with pytest.raises(ValueError, match="there are none to tune on"):
            make(calibrate="vector").tune(torch.zeros(3, 4), [255, 255, 255], ignore_index=255)
        for shape in ([2], [2, 6], [3, 5]):
            with pytest.raises(ValueError, match=r"`labels` must be one class index for each sample or position"):
                make(UNIFORM, "grid").tune(torch.zeros(2, 4, 5), torch.zeros(shape, dtype=torch.int64))

    @pytest.mark.parametrize("read", [lambda x: x, lambda x: x.numpy()], ids=["tensors", "arrays"])
    @pytest.mark.parametrize("calibrate", ["none", "vector", "structured_matrix"])
    def test_labels_of_every_position(self, calibrate: str, read: Any) -> None:
        rows, flat = samples(2 * 15 * 20, 4, sharpness=2.0)
        labels, logits = flat.view(2, 15, 20).clone(), rows.view(2, 15, 20, 4).movedim(-1, 1).contiguous()
        labels[0, :3] = 255
        kept = labels.flatten() != 255
        dense, plain = (make(UNIFORM, "grid", calibrate=calibrate) for _ in range(2))
        dense.tune(read(logits), read(labels), ignore_index=255)
        plain.tune(rows[kept], flat[kept])
        corrected = dense(logits)
        torch.testing.assert_close(corrected.movedim(1, -1).reshape(-1, 4), plain(rows))
        assert (dense.strength, dense.curve) == (plain.strength, plain.curve)
        with pytest.raises(
            ValueError, match=r"range from 0 to 255\. Leave out samples without a label by `ignore_index`"
        ):
            make(UNIFORM, "grid", calibrate=calibrate).tune(read(logits), read(labels))
        found = dense.evaluate(read(logits), read(labels), COUNTS, ignore_index=255)
        wanted = plain.evaluate(rows[kept], flat[kept], COUNTS)
        for name in ("uncorrected", "final", "top1_on_target"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-9)
        with pytest.raises(ValueError, match="there are none to evaluate on"):
            dense.evaluate(logits, torch.full_like(labels, 255), COUNTS, ignore_index=255)

    def test_a_prior_of_each_sample_is_that_of_its_positions(self) -> None:
        rows, flat = samples(3 * 40, 4)
        labels, logits = flat.view(3, 5, 8).clone(), rows.view(3, 5, 8, 4).movedim(-1, 1)
        labels[1, 2] = 255
        priors = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25] * 4])
        found = make(priors).evaluate(logits, labels, COUNTS, ignore_index=255)
        kept = labels.flatten() != 255
        probs = make(priors)(logits).movedim(1, -1).flatten(0, -2)[kept].softmax(1)
        wanted = classification_report(probs, flat[kept], COUNTS)
        assert {name: found["final"][name] for name in wanted} == pytest.approx(wanted)
        found = make(priors.repeat_interleave(40, 0)).evaluate(logits, labels, COUNTS, ignore_index=255)
        assert {name: found["final"][name] for name in wanted} == pytest.approx(wanted)
        with pytest.raises(ValueError, match="rows of the prior"):
            make(priors).evaluate(logits[:2], labels[:2], COUNTS, ignore_index=255)


class TestEvaluate:
    def test_what_it_finds(self) -> None:
        logits, labels = samples(500, 6, sharpness=3.0)
        correction = make(UNIFORM, "auto", calibrate="temperature")
        correction.tune(logits, labels)
        found = correction.evaluate(logits, labels, COUNTS)

        def report(z: Tensor) -> dict[str, float]:
            probs = z.softmax(1)
            ece20 = expected_calibration_error(probs, labels, bins=20)  # LADE's
            return {**classification_report(probs, labels, torch.tensor(COUNTS)), "ece20": ece20}

        assert found["uncorrected"] == report(logits)
        assert found["calibrated"] == report(correction.calibrate(logits))
        assert found["final"] == report(correction(logits))
        assert (found["strength"], found["strength_curve"]) == (correction.strength, correction.curve)
        only_calibrated = make(calibrate="temperature")
        only_calibrated.tune(logits, labels)
        found = only_calibrated.evaluate(logits, labels, COUNTS)
        assert (found["strength"], found["strength_curve"], found["target_prior"]) == (None, None, None)
        assert (found["calibrated"], found["final"]) == (None, report(only_calibrated(logits)))
        assert make(UNIFORM).evaluate(logits, labels, COUNTS)["calibrated"] is None

    def test_accuracy_is_weighted_to_the_mix_that_is_corrected_for(self) -> None:
        """On the balanced set a shift to the training mix costs; on a set of that mix it pays."""
        balanced, labels = samples(4000, 7, UNIFORM)
        uniform = balanced - SOURCE.log()  # as a model with a prior-corrected loss gives them
        correction = make(COUNTS, logits_prior=[1.0] * 4)
        found = correction.evaluate(uniform, labels, COUNTS)
        assert found["final"]["top1"] < found["uncorrected"]["top1"]
        prior = np.array(COUNTS) / sum(COUNTS)
        for name, logits in (("uncorrected", uniform), ("corrected", correction(uniform))):
            hit = (logits.argmax(1) == labels).numpy()
            expected = sum(prior[k] * hit[labels.numpy() == k].mean() for k in range(4))
            assert found["top1_on_target"][name] == pytest.approx(expected, abs=1e-9)
        assert found["top1_on_target"]["corrected"] > found["top1_on_target"]["uncorrected"] + 0.02

    def test_folds_tune_on_one_part_and_test_on_the_others(self) -> None:
        logits, labels = samples(999, 6, UNIFORM, sharpness=3.0)
        shifted = make(UNIFORM, "grid", calibrate="temperature")
        found = shifted.evaluate_folds(logits, labels, COUNTS, folds=3)
        order = torch.randperm(999, generator=torch.Generator().manual_seed(0))
        order = order[labels[order].argsort(stable=True)]
        parts = [order[k::3] for k in range(3)]
        sizes = torch.stack([torch.bincount(labels[part], minlength=4) for part in parts])
        assert (sizes.amax(0) - sizes.amin(0) <= 1).all()  # every class is in every part
        each = []
        for k, part in enumerate(parts):
            one = make(UNIFORM, "grid", calibrate="temperature")
            one.tune(logits[part], labels[part])
            rest = torch.cat([other for j, other in enumerate(parts) if j != k])
            each.append(one.evaluate(logits[rest], labels[rest], COUNTS))
        assert found["strengths"] == [one["strength"] for one in each]
        assert found["strength"] == pytest.approx(np.mean(found["strengths"]))
        assert found["spread"]["strength"] == pytest.approx(np.std(found["strengths"], ddof=1))
        for name in ("uncorrected", "final"):
            top1 = [one[name]["top1"] for one in each]
            assert found[name]["top1"] == pytest.approx(np.mean(top1))
            assert found["spread"][name]["top1"] == pytest.approx(np.std(top1, ddof=1))
        assert (found["strength_by"], found["strength_curve"]) == ("grid", None)
        assert found["target_prior"].tolist() == UNIFORM.tolist()
        # An empty shot group stays NaN.
        assert math.isnan(make(UNIFORM, "grid").evaluate_folds(logits, labels, [500] * 4)["final"]["few"])

    @pytest.mark.parametrize("folds", [0, 1, 6])
    def test_a_number_of_folds_that_will_not_do(self, folds: int) -> None:
        with pytest.raises(ValueError, match=f"`folds` must be 2 to 5, the number of samples, but is {folds}"):
            make(UNIFORM, "grid").evaluate_folds(*samples(5, 0), COUNTS, folds)

    @pytest.mark.parametrize("way", ["estimate", "trend", "center"])
    def test_an_estimate_is_not_scored_against_itself(self, way: str) -> None:
        """Logits that are wrongly taken to be under the training prior: the estimate is wrong, and must look it."""
        logits, labels = samples(2000, 8, UNIFORM)
        correction = make(prior_estimators(COUNTS)[way], logits_prior=[0.01, 0.02, 0.07, 0.9])
        found = correction.evaluate(logits, labels, COUNTS)
        for name, row in (("uncorrected", "uncorrected"), ("corrected", "final")):
            assert found["top1_on_target"][name] == pytest.approx(found[row]["top1"], abs=1e-9)
        assert found["top1_on_target"]["corrected"] < found["top1_on_target"]["uncorrected"] - 0.05
        assert found["target_prior"] is correction.target


class TestShiftedSets:
    def test_accuracy_by_what_is_known_of_the_prior(self) -> None:
        logits, labels = samples(2000, 9, UNIFORM)
        calibrated = 0.9 * logits
        found = shifted_accuracy(logits, labels, COUNTS, SOURCE, calibrated)
        sets = shifted_sets(labels, COUNTS)
        rows = ["none", "calibrated", "given", "estimated", "trend", "center"]
        assert list(found) == [*rows, "estimated, kept", "trend, kept", "center, kept"]
        for name, chosen in sets.items():
            z, y = logits[chosen].numpy(), labels[chosen].numpy()
            mix = np.maximum(np.bincount(y, minlength=4), 0.5)
            given = (0.9 * z + np.log(mix) - np.log(SOURCE.numpy())).argmax(1)
            assert found["none"][name] == pytest.approx((z.argmax(1) == y).mean())
            assert found["calibrated"][name] == pytest.approx((z.argmax(1) == y).mean())
            assert found["given"][name] == pytest.approx((given == y).mean())
            gain = found["given"][name] - found["calibrated"][name]
            kept = found["trend, kept"][name]
            if gain > 0.01:
                assert kept * gain == pytest.approx(found["trend"][name] - found["calibrated"][name])
            else:
                assert math.isnan(kept)
        # The more a set leans against training, the more there is to gain, and an estimate keeps most of it.
        assert found["given"]["backward 50"] > found["none"]["backward 50"] + 0.2
        assert found["trend, kept"]["backward 50"] > 0.8
        assert math.isnan(found["estimated, kept"]["forward 50"])

    def test_without_calibration_there_is_no_row_of_it(self) -> None:
        logits, labels = samples(400, 9, UNIFORM)
        found = shifted_accuracy(logits, labels, COUNTS, SOURCE)
        assert list(found)[:5] == ["none", "given", "estimated", "trend", "center"]


class TestArrays:
    @pytest.mark.parametrize("read", [lambda x: x.numpy(), lambda x: x.tolist()], ids=["arrays", "lists"])
    @pytest.mark.parametrize("way", ["given", "center"])
    def test_arrays_give_the_numbers_of_tensors(self, way: str, read: Any) -> None:
        (held, held_labels), (test, labels) = samples(400, 1), samples(300, 2, UNIFORM)
        both = []
        for form in (lambda x: x, read):
            target = UNIFORM if way == "given" else prior_estimators(form(torch.tensor(COUNTS)))[way]
            correction = Correction(form(SOURCE), target, "grid", VectorScaling(4))
            correction.tune(form(held), form(held_labels))
            evaluated = correction.evaluate(form(test), form(labels), form(torch.tensor(COUNTS)))
            folds = correction.evaluate_folds(form(test), form(labels), COUNTS)
            curve = tuned_strength(form(held), form(held_labels), form(SOURCE), form(UNIFORM))[1]
            found = correction(form(test)), correction.calibrate(form(test)), evaluated["target_prior"]
            both.append((found, evaluated["final"], folds["final"], folds["target_prior"], curve))
        tensors, arrays = both
        for tensor, array in zip((*tensors[0], tensors[3]), (*arrays[0], arrays[3]), strict=True):
            assert (type(tensor), type(array)) == (Tensor, np.ndarray)
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)
        for k in (1, 2):
            assert arrays[k] == pytest.approx(tensors[k], rel=1e-4, nan_ok=True)
        assert arrays[4] == tensors[4]
        rows = {
            kind: shifted_accuracy(kind(test), kind(labels), COUNTS, SOURCE)["given"] for kind in (read, torch.clone)
        }
        assert rows[read] == rows[torch.clone]

    def test_gradients_pass(self) -> None:
        logits = samples(20, 0)[0].requires_grad_()
        correction = make(UNIFORM, calibrate="temperature")
        correction.tune(*samples(50, 1))
        correction(logits).sum().backward()
        scale = 1.0 / correction.calibrator.temperature
        torch.testing.assert_close(logits.grad, torch.full_like(logits, scale), rtol=1e-6, atol=0)


class TestPriorOfEachRow:
    def test_with_a_batch_or_from_the_start(self) -> None:
        (logits, labels), site = samples(300, 3, UNIFORM), torch.arange(300) % 3
        rows = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]])[site]
        correction = make(UNIFORM, 0.7, calibrate="temperature")
        correction.tune(*samples(400, 1))
        found, own = correction(logits, target_prior=rows), correction(logits)
        torch.testing.assert_close(found, shift_logits(correction.calibrate(logits), SOURCE, rows, 0.7))
        torch.testing.assert_close(own, shift_logits(correction.calibrate(logits), SOURCE, UNIFORM, 0.7))
        start = make(rows)
        torch.testing.assert_close(start(logits), shift_logits(logits, SOURCE, rows))
        found = start.evaluate(logits, labels, COUNTS)  # on the samples as they are
        assert found["top1_on_target"]["corrected"] == pytest.approx(found["final"]["top1"])
        for call in (lambda: start(logits[:5]), lambda: correction(logits[:5], target_prior=rows)):
            with pytest.raises(ValueError, match="for each of the 300 rows of the prior"):
                call()
        searched = make(UNIFORM, "grid")
        searched.tune(*samples(400, 1))
        with pytest.raises(ValueError, match="`strength` cannot be searched for a prior a row: give a number"):
            searched(logits, target_prior=rows)


class TestEstimateOnUnlabelled:
    def test_the_prior_is_kept(self) -> None:
        target = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        unlabelled, few = samples(4000, 1, target, sharpness=3.0)[0], samples(3, 5, sharpness=3.0)[0]
        correction = make(prior_estimators(COUNTS)["estimate"], calibrate="temperature")
        with pytest.raises(ValueError, match="call `tune` first"):
            correction.estimate(unlabelled)
        correction.tune(*samples(3000, 2, sharpness=3.0))
        found = correction.estimate(unlabelled)
        torch.testing.assert_close(found, estimate_prior(correction.calibrate(unlabelled), SOURCE))
        assert (found - target).abs().sum() < 0.1
        corrected = correction(few)
        assert torch.equal(correction.target, found)  # not that of three samples
        torch.testing.assert_close(corrected, shift_logits(correction.calibrate(few), SOURCE, found))
        assert correction.target_prior is correction.target
        newer = samples(4000, 6, UNIFORM, sharpness=3.0)[0]  # a month later
        again = correction.estimate(newer)
        torch.testing.assert_close(again, estimate_prior(correction.calibrate(newer), SOURCE))
        correction(few)
        assert torch.equal(correction.target, again)
        with pytest.raises(ValueError, match="`target_prior` is given, so there is nothing to estimate"):
            make(UNIFORM).estimate(unlabelled)

    @pytest.mark.parametrize("by", ["estimate", "call"])
    def test_a_checkpoint_brings_it_back(self, by: str) -> None:
        unlabelled, few = samples(4000, 1, UNIFORM)[0], samples(1, 5)[0]
        first, second = (make(prior_estimators(COUNTS)["estimate"]) for _ in range(2))
        empty = {**first.state_dict()}
        first.estimate(unlabelled) if by == "estimate" else first(unlabelled)
        kept = first.target.clone()
        second.load_state_dict(first.state_dict())
        corrected = second(few)
        assert torch.equal(second.target, kept)  # not that of a single row
        torch.testing.assert_close(corrected, shift_logits(few, SOURCE, kept))
        newer = samples(4000, 6, SOURCE)[0]
        torch.testing.assert_close(second.estimate(newer), estimate_prior(newer, SOURCE))
        third = make(prior_estimators(COUNTS)["estimate"])
        third.load_state_dict(empty)  # nothing was estimated yet
        third(newer)
        torch.testing.assert_close(third.target, estimate_prior(newer, SOURCE))

    def test_test_samples_are_weighted_to_it(self) -> None:
        logits, labels = samples(2000, 8, UNIFORM)
        correction = make(prior_estimators(COUNTS)["estimate"])
        correction.estimate(samples(2000, 3, SOURCE)[0])
        found, given = (
            correction.evaluate(logits, labels, COUNTS),
            make(correction.target).evaluate(logits, labels, COUNTS),
        )
        assert found["top1_on_target"] == pytest.approx(given["top1_on_target"], rel=1e-12)
        assert found["top1_on_target"]["corrected"] != found["final"]["top1"]


KINDS = [(word, target) for word in ("none", *CALIBRATORS) for target in ("none", "given", "estimated", "searched")]


def ready(calibrate: str, target: str) -> Correction:
    """A correction that has everything that it needs."""
    given = {"none": None, "given": UNIFORM, "searched": UNIFORM, "estimated": prior_estimators(COUNTS)["center"]}[
        target
    ]
    correction = make(given, "grid" if target == "searched" else 0.7, calibrate=calibrate, class_names=list("abcd"))
    correction.tune(*samples(400, 1, sharpness=2.0))
    correction(samples(500, 2, UNIFORM)[0])
    if target == "estimated":
        correction.estimate(samples(500, 2, UNIFORM)[0])
    return correction


class TestModule:
    def test_priors_and_calibrator_are_its_state(self) -> None:
        correction = ready("vector", "given")
        assert list(correction.state_dict()) == [
            *("logits_prior", "target", "_extra_state", "calibrator.scale", "calibrator.bias")
        ]
        assert all(isinstance(value, Tensor) for value in correction.state_dict().values())
        assert not list(correction.parameters())

    @pytest.mark.parametrize(("calibrate", "target"), KINDS)
    def test_a_checkpoint_or_files_bring_it_back(self, calibrate: str, target: str, tmp_path: Path) -> None:
        logits, correction = samples(50, 9)[0], ready(calibrate, target)
        other = make(
            {"none": None, "estimated": prior_estimators(COUNTS)["center"]}.get(target, [4, 3, 2, 1]),
            "grid" if target == "searched" else 1.0,
            calibrate=calibrate,
        )
        other.load_state_dict(correction.state_dict())
        assert torch.equal(other.calibrate(logits), correction.calibrate(logits))
        assert torch.equal(other(logits), correction(logits))
        assert other.strength == correction.strength
        path = correction.save(tmp_path)
        assert {each.name for each in tmp_path.iterdir()} == {"correction.safetensors", "correction.json"}
        for place in (tmp_path, path, tmp_path / "correction", str(tmp_path / "correction.json")):
            loaded = Correction.load(place)
            assert torch.equal(loaded(logits), correction(logits))
        assert (loaded.strength, loaded.strength_by) == (correction.strength, correction.strength_by)
        assert (loaded.class_names, loaded.tunes) == (list("abcd"), False)
        assert torch.equal(loaded.logits_prior, correction.logits_prior)
        loaded.save(tmp_path / "deep" / "again.v2")  # and once more, under a stem of its own
        assert torch.equal(Correction.load(tmp_path / "deep" / "again.v2")(logits), correction(logits))

    def test_a_strength_of_no_shift_is_none(self, tmp_path: Path) -> None:
        correction = make(None, "grid", calibrate="temperature")
        correction.tune(*samples(100, 1))
        correction.save(tmp_path)
        assert (Correction.load(tmp_path).strength, correction.strength) == (None, None)

    def test_the_words_of_its_file(self, tmp_path: Path) -> None:
        ready("vector", "searched").save(tmp_path)
        found = json.loads((tmp_path / "correction.json").read_text())
        assert (found["class_names"], found["calibrator"], found["strength_by"]) == (list("abcd"), "vector", "grid")
        assert found["strength"] == ready("vector", "searched").strength

    @pytest.mark.parametrize(
        ("correction", "message"),
        [
            (lambda: make(UNIFORM, "grid"), "`strength` is not found yet: call `tune`"),
            (lambda: make(UNIFORM, calibrate="vector"), "The calibrator is not fitted yet: call `tune` first"),
            (lambda: make(prior_estimators(COUNTS)["center"]), "`target_prior` is not estimated yet: call `estimate`"),
            (lambda: Correction(SOURCE, calibrator=nn.Identity()), "`calibrator` must be one of .* but is a Identity"),
            (lambda: make(class_names=["a"]), "`class_names` must be 4, one for each class .* but are 1"),
        ],
    )
    def test_what_cannot_be_saved(self, correction: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            correction().save(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_damaged_files(self, tmp_path: Path) -> None:
        for place, missing in ((tmp_path, "correction.json"), (tmp_path / "no" / "where", "where.json")):
            with pytest.raises(FileNotFoundError, match=rf"There is no saved correction at `.*{missing}` is missing"):
                Correction.load(place)
        path, words = ready("vector", "given").save(tmp_path), tmp_path / "correction.json"
        text, numbers = words.read_text(), path.read_bytes()
        for content, message in (
            ("{", "is damaged"),
            ('{"kind": "other"}', "is no saved correction"),
            (text.replace("0.7", "0.5"), "do not belong together.*strength"),
            (text.replace('"vector"', '"temperature"'), "do not belong together"),
            (text.replace('"num_classes": 4', '"num_classes": 5'), "do not belong together"),
            (text.replace('"shifts": true', '"shifts": false'), "do not belong together"),
        ):
            assert content != text
            words.write_text(content)
            with pytest.raises(ValueError, match=message):
                Correction.load(tmp_path)
        words.write_text(text)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"correction\.safetensors` is missing beside .*Copy both"):
            Correction.load(tmp_path)
        path.write_bytes(numbers[:-9])
        with pytest.raises(ValueError, match=r"correction\.safetensors` is damaged"):
            Correction.load(tmp_path)
        save_file({key: value for key, value in load_file_of(numbers, tmp_path).items() if key != "target"}, path)
        with pytest.raises(ValueError, match="do not belong together"):
            Correction.load(tmp_path)

    def test_a_cast_costs_the_priors_nothing(self) -> None:
        correction = Correction([10**9, 10**5, 1], [1, 2, 3])
        outer = nn.Sequential(nn.Linear(2, 3), correction).half()
        assert outer[0].weight.dtype == torch.float16
        assert correction.logits_prior.dtype == correction.target.dtype == torch.float64
        assert outer(torch.randn(2, 2).half()).dtype == torch.float16

    @pytest.mark.parametrize("calibrate", CALIBRATORS)
    def test_a_cast_costs_the_calibrator_nothing(self, calibrate: str) -> None:
        correction, logits = ready(calibrate, "given"), 10 * samples(200, 3)[0].float()
        expected, state = correction(logits), {k: v.clone() for k, v in correction.state_dict().items()}
        rounded = correction.calibrate(logits.bfloat16().float())
        nn.Sequential(nn.Linear(2, 4), correction).bfloat16()
        assert all(torch.equal(value, state[name]) for name, value in correction.state_dict().items())
        assert torch.equal(correction(logits), expected)
        # Logits of half precision are rounded once, on the way out.
        assert torch.equal(correction.calibrate(logits.bfloat16()), rounded.bfloat16())

    def test_moves(self, device: torch.device) -> None:
        correction = ready("vector", "given").to(device)
        assert {value.device.type for value in correction.buffers()} == {device.type}
        assert correction(samples(5, 0)[0].to(device)).device.type == device.type

    @pytest.mark.parametrize("calibrate", ["none", *CALIBRATORS])
    def test_compiles_without_a_break(self, calibrate: str) -> None:
        correction, logits = ready(calibrate, "searched"), samples(20, 3)[0]
        compiled = torch.compile(correction, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(logits), correction(logits))

    @pytest.mark.parametrize("calibrate", ["none", *CALIBRATORS])
    def test_is_exported_with_its_calibrator(self, calibrate: str) -> None:
        correction, logits = ready(calibrate, "estimated"), samples(20, 3)[0].float()
        batch = {"logits": {0: torch.export.Dim("batch", min=1)}}
        program = torch.export.export(correction, (logits[:5],), dynamic_shapes=batch).module()
        torch.testing.assert_close(program(logits), correction(logits))
        program.target.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        torch.testing.assert_close(program(logits), correction(logits, target_prior=[0.1, 0.2, 0.3, 0.4]))

    def test_what_estimates_anew_is_not_exported(self) -> None:
        correction = make(prior_estimators(COUNTS)["estimate"])
        with pytest.raises(ValueError, match="fix it with `estimate` before an export"):
            torch.export.export(correction, (samples(5, 0)[0],))

    @pytest.mark.parametrize("rows", [False, True])
    def test_runs_as_onnx(self, rows: bool, tmp_path: Path) -> None:
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        logits, prior = samples(20, 3)[0].float(), torch.tensor([0.4, 0.3, 0.2, 0.1])

        class Several(nn.Module):  # one export for all
            def __init__(self) -> None:
                super().__init__()
                words = ["vector"] if rows else ["none", *CALIBRATORS]
                self.corrections = nn.ModuleList(ready(word, "given") for word in words)

            def forward(self, logits: Tensor, target_prior: Tensor) -> list[Tensor]:
                return [each(logits, target_prior=target_prior) for each in self.corrections]

        model, batch = Several().eval(), {0: torch.export.Dim("batch", min=1)}
        torch.onnx.export(
            *(model, (logits[:5],), str(tmp_path / "correction.onnx")),
            kwargs={"target_prior": prior.repeat(5, 1) if rows else prior},
            dynamo=True,
            verbose=False,
            dynamic_shapes={"logits": batch, "target_prior": batch if rows else None},
            input_names=["logits", "target_prior"],
        )
        session = runtime.InferenceSession(str(tmp_path / "correction.onnx"), providers=["CPUExecutionProvider"])
        others = torch.rand(20, 4) + 0.1 if rows else torch.tensor([0.1, 0.1, 0.1, 0.7])
        found = session.run(None, {"logits": logits.numpy(), "target_prior": others.numpy()})
        for values, wanted in zip(found, model(logits, others), strict=True):
            np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-5, atol=1e-5)


def load_file_of(content: bytes, folder: Path) -> dict[str, Tensor]:
    (folder / "whole.safetensors").write_bytes(content)
    return load_file(folder / "whole.safetensors")


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"target_prior": [0.5, 0.5]}, "`target_prior` must have one number a class, 4 as `logits_prior`"),
            ({"target_prior": [0.5, 0.5, 0, 0]}, "`target_prior` must be positive"),
            ({"logits_prior": [0.5, 0.5, 0.0, 0.0]}, "`logits_prior` must be positive"),
            ({"target_prior": UNIFORM, "strength": math.nan}, "a number from 0, auto, search, grid, but is nan"),
            ({"target_prior": UNIFORM, "strength": -1}, "`strength` must be a number from 0, auto, .* but is -1"),
            ({"target_prior": UNIFORM, "strength": math.inf}, "`strength` must be a number from 0"),
            ({"target_prior": UNIFORM, "strength": "best"}, "`strength` must be a number from 0, .* but is 'best'"),
        ],
    )
    def test_arguments(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make(**changes)

    @pytest.mark.parametrize("way", ["trend", "center"])
    def test_a_trend_needs_training_samples_of_every_class(self, way: str) -> None:
        with pytest.raises(ValueError, match="needs training samples of every class, but class 3 has none"):
            make(prior_estimators([9, 1, 1, 0])[way])(samples(5, 0)[0])
        make(prior_estimators([9, 1, 1, 0])["estimate"])(samples(5, 0)[0])
