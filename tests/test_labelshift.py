"""Estimating a test prior: Gaussians whose posterior is known, plain float64 loops, and QuaPy."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from ltaug import class_prior, exponential_counts, shift_logits
from ltaug.labelshift import estimate_prior, prior_interval

C = 10
TRAIN = exponential_counts(5000, C, 100)
UNIFORM = torch.ones(C)
TARGET = class_prior(exponential_counts(1000, C, 20).flip(0))


def world(n: int, seed: int = 0, prior: Tensor = TARGET, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Samples of Gaussians around the corners of a simplex: logits that are right under a uniform prior, and labels."""
    generator = torch.Generator().manual_seed(seed)
    classes = prior.numel()
    labels = torch.multinomial(prior.double(), n, replacement=True, generator=generator)
    x = torch.randn(n, classes, dtype=torch.float64, generator=generator)
    x[torch.arange(n), labels] += spread
    return spread * x, labels  # log N(x; spread e_c, 1) = spread x_c + something that is the same for all c


def error(estimate: Tensor, truth: Tensor = TARGET) -> float:
    return float((estimate - truth).abs().sum())


def naive_em(probs: list[list[float]], prior: list[float], rounds: int, pseudo_count: float = 0.0) -> list[float]:
    size = len(prior)
    q = [1 / size] * size
    for _ in range(rounds):
        counts = [pseudo_count] * size
        for row in probs:
            joint = [row[c] * q[c] / prior[c] for c in range(size)]
            counts = [count + value / sum(joint) for count, value in zip(counts, joint, strict=True)]
        q = [count / sum(counts) for count in counts]
    return q


class TestEM:
    @pytest.mark.parametrize("pseudo_count", [0.0, 2.5])
    def test_it_is_the_iteration(self, pseudo_count: float) -> None:
        logits, _ = world(40, spread=1.0)
        skewed = shift_logits(logits, UNIFORM, TRAIN)
        expected = naive_em(skewed.softmax(1).tolist(), class_prior(TRAIN).tolist(), 30, pseudo_count)
        estimate = estimate_prior(skewed, TRAIN, pseudo_count=pseudo_count, max_iterations=30, tolerance=0.0)
        assert estimate.dtype == torch.float64
        assert estimate.tolist() == pytest.approx(expected, abs=1e-5)

    def test_the_error_falls_with_the_root_of_the_samples(self) -> None:
        errors = [np.mean([error(estimate_prior(world(n, s)[0], UNIFORM)) for s in range(3)]) for n in (500, 5000)]
        last = error(estimate_prior(world(50_000)[0], UNIFORM))
        assert last < 0.02
        assert errors[0] / errors[1] == pytest.approx(10**0.5, rel=0.6)
        assert errors[1] / last == pytest.approx(10**0.5, rel=0.6)

    def test_any_prior_of_the_logits_gives_the_same_answer(self) -> None:
        logits, _ = world(5000)
        expected = estimate_prior(logits, UNIFORM)
        torch.testing.assert_close(
            estimate_prior(shift_logits(logits, UNIFORM, TRAIN), TRAIN), expected, rtol=0, atol=2e-5
        )
        assert error(estimate_prior(logits, TRAIN)) > 5 * error(expected)  # the prior of the logits does matter

    def test_it_agrees_with_quapy(self) -> None:
        quapy = pytest.importorskip("quapy.method.aggregative")
        logits, _ = world(2000, spread=2.0)
        probs = shift_logits(logits, UNIFORM, TRAIN).softmax(1).numpy()
        expected, _ = quapy.EMQ.EM(class_prior(TRAIN).numpy(), probs, epsilon=1e-9)
        estimate = estimate_prior(torch.from_numpy(probs).log(), TRAIN, pseudo_count=0.0, tolerance=1e-7)
        assert estimate.tolist() == pytest.approx(expected.tolist(), abs=1e-5)

    @given(st.integers(0, 10**6))
    @settings(max_examples=20)
    def test_no_other_prior_is_more_likely(self, seed: int) -> None:
        logits = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        estimate = estimate_prior(logits, [3, 2, 1], pseudo_count=0.0, max_iterations=3000, tolerance=1e-7)

        def likelihood(q: Tensor) -> float:
            return float((logits.softmax(1) @ (q / class_prior([3, 2, 1]))).log().sum())

        for k in range(3):
            other = 0.99 * estimate
            other[k] += 0.01
            assert likelihood(other) <= likelihood(estimate) + 1e-3

    def test_few_samples_of_many_classes(self) -> None:
        # Of an overconfident model of 100 classes: every class keeps a prior that can be used.
        prior = class_prior(exponential_counts(500, 100, 50))
        logits, _ = world(200, prior=prior, spread=2.0)
        bare, safe = (estimate_prior(3 * logits, torch.ones(100), pseudo_count=a) for a in (0.0, 1.0))
        assert bool((safe >= 1 / 300 - 1e-9).all())
        assert error(safe, prior) < error(bare, prior)
        assert bool(shift_logits(logits, torch.ones(100), safe).isfinite().all())
        torch.testing.assert_close(
            estimate_prior(logits[:1], torch.ones(100)), torch.full((100,), 0.01).double(), rtol=0, atol=0.011
        )

    def test_certain_rows_and_a_tiny_prior_stay_finite(self) -> None:
        logits = torch.zeros(100, 3)
        logits[:, 0] = 1e4
        estimate = estimate_prior(logits, [1.0, 1e-12, 1e-12], pseudo_count=0.0)
        assert estimate.tolist() == pytest.approx([1, 0, 0], abs=1e-6)

    def test_dense_logits_are_more_samples(self) -> None:
        logits, _ = world(60)
        torch.testing.assert_close(
            estimate_prior(logits.view(3, 4, 5, C).movedim(-1, 1), UNIFORM), estimate_prior(logits, UNIFORM)
        )

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, _ = world(500)
        whole = estimate_prior(logits, UNIFORM)
        monkeypatch.setattr("ltaug.labelshift._CHUNK", 70)
        torch.testing.assert_close(estimate_prior(logits, UNIFORM), whole, rtol=0, atol=1e-6)

    def test_too_few_iterations_are_told(self) -> None:
        for call in (estimate_prior, partial(prior_interval, replicates=2)):
            with pytest.warns(RuntimeWarning, match="`max_iterations`=2") as told:
                call(world(100)[0], UNIFORM, max_iterations=2)
            assert [each.filename for each in told] == [__file__]  # the line that has to change

    def test_what_the_samples_cannot_tell_apart_is_no_warning(self, recwarn: pytest.WarningsRecorder) -> None:
        # Overlapping classes, some of which the likelihood sends to 0: EM creeps, but has nothing left to gain.
        logits, _ = world(300, prior=class_prior(exponential_counts(1000, 100, 20)), spread=1.0)
        options = {"pseudo_count": 0.0, "tolerance": 1e-9}
        estimate = estimate_prior(logits, torch.ones(100), **options)
        longer = estimate_prior(logits, torch.ones(100), **options, max_iterations=4000)
        assert not recwarn.list
        assert error(estimate, longer) > 1e-4  # not that it had arrived

        def likelihood(q: Tensor) -> float:
            return float((logits.softmax(1) @ q).log().sum())

        assert 0.0 < likelihood(longer) - likelihood(estimate) < 0.5

    def test_arrays_and_lists_are_logits(self) -> None:
        logits, labels = world(100, prior=UNIFORM)
        expected = estimate_prior(logits, UNIFORM)
        bbse = estimate_prior(logits, UNIFORM, "rlls", validation=(logits, labels))
        ends = prior_interval(logits, UNIFORM, replicates=3)
        for read in (lambda values: values.numpy(), lambda values: values.tolist()):
            validation = (read(logits), read(labels))
            found = {
                "em": (estimate_prior(read(logits), UNIFORM), expected),
                "rlls": (estimate_prior(read(logits), UNIFORM, "rlls", validation=validation), bbse),
            }
            low, high = prior_interval(read(logits), UNIFORM, replicates=3)
            found |= {"low": (low, ends[0]), "high": (high, ends[1])}
            for array, tensor in found.values():
                assert (type(array), type(tensor), array.dtype) == (np.ndarray, Tensor, np.float64)
                np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-6)
        # Only the logits decide: tensors stay tensors whatever else is an array.
        assert isinstance(estimate_prior(logits, UNIFORM.numpy(), center=UNIFORM.tolist()), Tensor)


class TestTrend:
    def test_it_is_the_most_likely_power(self) -> None:
        # One number, so a grid finds it: q ~ counts^kappa.
        logits, _ = world(500, prior=class_prior(TRAIN.double() ** -0.5), spread=1.5)
        probs, trend = logits.softmax(1), TRAIN.log()
        estimate = estimate_prior(logits, UNIFORM, trend=trend, pseudo_count=0.0, tolerance=1e-7)
        grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
        priors = (trend.double().unsqueeze(1) * grid).softmax(0)
        best = priors[:, (probs @ priors).log().sum(0).argmax()]
        assert error(estimate, best) < 2e-3

    def test_it_beats_free_classes_where_it_holds(self) -> None:
        prior = class_prior(exponential_counts(500, 100, 30).flip(0))
        logits, _ = world(2000, prior=prior, spread=2.0)
        trend = exponential_counts(500, 100, 100).log()
        free = estimate_prior(logits, torch.ones(100))
        assert error(estimate_prior(logits, torch.ones(100), trend=trend), prior) < 0.5 * error(free, prior)

    def test_a_trend_that_spans_everything_is_no_trend(self) -> None:
        logits, _ = world(3000, prior=torch.tensor([0.5, 0.3, 0.2]))
        every = estimate_prior(logits, [1, 1, 1], trend=torch.tensor([[1.0, 5.0], [0.0, 1.0], [0.0, 0.0]]))
        free = estimate_prior(logits, [1, 1, 1], pseudo_count=0.0)
        torch.testing.assert_close(every, free, rtol=0, atol=1e-4)

    def test_units_do_not_matter(self) -> None:
        logits, _ = world(300)
        one = estimate_prior(logits, UNIFORM, trend=TRAIN.log())
        for same in (TRAIN.log().tolist(), TRAIN.log().numpy()):
            assert torch.equal(estimate_prior(logits, UNIFORM, trend=same), one)
        other = estimate_prior(logits, UNIFORM, trend=-1000 * TRAIN.log() + 7)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


class TestCenter:
    def test_it_is_the_mode_under_a_dirichlet_law(self) -> None:
        logits, _ = world(50, prior=torch.tensor([0.5, 0.3, 0.2]), spread=1.0)
        center, strength = torch.tensor([1.0, 2.0, 7.0]), 8.0
        estimate = estimate_prior(logits, [3, 2, 1], center=center, pseudo_count=strength, tolerance=1e-9)

        def posterior(q: np.ndarray) -> float:
            p = logits.softmax(1).numpy() / [3, 2, 1]
            return -float(np.log(p @ q).sum() + 3 * strength * (center.numpy() / 10) @ np.log(q))

        free = minimize(
            lambda x: posterior(np.exp(x) / np.exp(x).sum()), np.zeros(3), method="Nelder-Mead", tol=1e-12
        ).x
        assert estimate.tolist() == pytest.approx((np.exp(free) / np.exp(free).sum()).tolist(), abs=1e-4)

    def test_limits(self) -> None:
        logits, _ = world(200)
        held_out = world(500, seed=1, prior=UNIFORM)
        for method, options in (("em", {}), ("bbse", {"validation": held_out}), ("rlls", {"validation": held_out})):
            call = partial(estimate_prior, logits, UNIFORM, method, **options)
            torch.testing.assert_close(call(center=TRAIN, pseudo_count=1e9), class_prior(TRAIN), rtol=0, atol=1e-5)
            torch.testing.assert_close(call(center=TRAIN, pseudo_count=0.0), call(pseudo_count=0.0))
            torch.testing.assert_close(call(center=7 * UNIFORM, pseudo_count=3.0), call(pseudo_count=3.0))
            # By default a fifth of the samples.
            torch.testing.assert_close(call(center=TRAIN), call(center=TRAIN, pseudo_count=200 / 5 / C))

    def test_between_one_number_and_a_hundred(self) -> None:
        counts = exponential_counts(500, 100, 100)
        order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
        for prior, along in ((class_prior(counts.flip(0)), True), (class_prior(counts[order]), False)):
            logits, _ = world(2000, prior=prior, spread=1.7)
            free = estimate_prior(logits, torch.ones(100))
            trend = estimate_prior(logits, torch.ones(100), trend=counts.log())
            both = estimate_prior(logits, torch.ones(100), center=trend)
            assert error(both, prior) < (0.75 * error(free, prior) if along else 0.75 * error(trend, prior))

    def test_the_interval_has_it(self) -> None:
        low, high = prior_interval(world(100)[0], UNIFORM, center=TRAIN, pseudo_count=1e9, replicates=2)
        torch.testing.assert_close(low, class_prior(TRAIN), rtol=0, atol=1e-5)
        torch.testing.assert_close(high, low, rtol=0, atol=1e-5)


class TestConfusions:
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("method", ["bbse", "rlls"])
    def test_overconfident_logits_do_not_mislead_them(self, method: str, soft: bool) -> None:
        logits, _ = world(20_000, spread=2.0)
        biased = 4 * logits + torch.linspace(-12, 12, C)
        held_out, labels = world(20_000, seed=1, prior=UNIFORM, spread=2.0)
        validation = (4 * held_out + torch.linspace(-12, 12, C), labels)
        estimate = estimate_prior(biased, UNIFORM, method, validation=validation, soft=soft)
        assert error(estimate) < 0.1
        assert error(estimate) < 0.5 * error(estimate_prior(biased, UNIFORM))

    @pytest.mark.parametrize("method", ["bbse", "rlls"])
    def test_the_priors_of_logits_and_validation_do_not_matter(self, method: str) -> None:
        # Confusions are counted within the classes, so held-out samples may be as long-tailed as the training.
        logits = shift_logits(world(20_000)[0], UNIFORM, TRAIN)
        for prior in (UNIFORM, class_prior(TRAIN)):
            held_out, labels = world(40_000, seed=2, prior=prior)
            held_out = shift_logits(held_out, UNIFORM, TRAIN)
            assert error(estimate_prior(logits, TRAIN, method, validation=(held_out, labels))) < 0.1

    def test_bbse_solves_the_equations(self) -> None:
        # 70 of 100 are called 0; of class 0 are 9 in 10, of class 1 are 2 in 10: 0.9 q + 0.2 (1 - q) = 0.7.
        def called(zeros: int, ones: int) -> Tensor:
            return torch.tensor([[1.0, 0.0]] * zeros + [[0.0, 1.0]] * ones)

        validation = (torch.cat([called(9, 1), called(4, 16)]), torch.tensor([0] * 10 + [1] * 20))
        q = estimate_prior(called(70, 30), [1, 1], "bbse", validation=validation, pseudo_count=0.0)
        assert q.tolist() == pytest.approx([0.5 / 0.7, 0.2 / 0.7])
        clipped = estimate_prior(called(100, 0), [1, 1], "bbse", validation=validation, pseudo_count=0.0)
        assert clipped.tolist() == [1.0, 0.0]
        padded = estimate_prior(called(100, 0), [1, 1], "bbse", validation=validation, pseudo_count=5.0)
        assert padded.tolist() == pytest.approx([105 / 110, 5 / 110])

    def test_rlls_between_bbse_and_the_prior_of_the_logits(self) -> None:
        logits, _ = world(3000, prior=torch.linspace(1, 2, C), spread=2.0)
        validation = world(3000, seed=1, prior=UNIFORM, spread=2.0)
        options = {"validation": validation, "pseudo_count": 0.0}
        bbse = estimate_prior(logits, TRAIN, "bbse", **options)
        torch.testing.assert_close(
            estimate_prior(logits, TRAIN, "rlls", shrinkage=0.0, **options), bbse, rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            estimate_prior(logits, TRAIN, "rlls", shrinkage=1e4, **options), class_prior(TRAIN), rtol=0, atol=1e-3
        )

    def test_rlls_is_the_least_of_its_objective(self) -> None:
        logits, _ = world(400, prior=torch.tensor([0.2, 0.3, 0.5]), spread=1.0)
        held_out, labels = world(300, seed=1, prior=torch.tensor([0.4, 0.4, 0.2]), spread=1.0)
        source = np.array([0.5, 0.3, 0.2])
        joint = np.stack([np.bincount(held_out.argmax(1)[labels == k], minlength=3) for k in range(3)], axis=1)
        joint = joint / joint.sum(0) * source
        seen = np.bincount(logits.argmax(1), minlength=3) / 400
        bound = 3 * (2 * np.log(120) / 900 + np.sqrt(2 * np.log(120) / 300))

        def objective(w: np.ndarray) -> float:
            return float(np.linalg.norm(joint @ w - seen) + 0.3 * bound * np.linalg.norm(w - 1))

        best = minimize(objective, np.full(3, 1.1), bounds=[(0, None)] * 3, method="Nelder-Mead", tol=1e-10).x * source
        estimate = estimate_prior(
            logits, source, "rlls", validation=(held_out, labels), shrinkage=0.3, pseudo_count=0.0
        )
        assert estimate.tolist() == pytest.approx((best / best.sum()).tolist(), abs=1e-4)

    def test_confusions_without_an_inverse(self) -> None:
        constant = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
        validation = (constant, torch.tensor([0, 0, 0, 1, 1, 1]))
        with pytest.raises(ValueError, match=r'cannot be inverted.*"rlls"'):
            estimate_prior(constant, [3, 1], "bbse", validation=validation)
        shrunk = estimate_prior(constant, [3, 1], "rlls", validation=validation, pseudo_count=0.0)
        assert shrunk.tolist() == pytest.approx([0.75, 0.25])  # nothing to learn


class TestInterval:
    @pytest.mark.parametrize("method", ["em", "bbse"])
    def test_it_holds_the_truth_about_as_often_as_it_says(self, method: str) -> None:
        prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
        held = []
        for seed in range(40):
            logits, _ = world(300, seed, prior, spread=2.0)
            validation = None if method == "em" else world(300, 1000 + seed, torch.ones(3), spread=2.0)
            low, high = prior_interval(
                logits, [1, 1, 1], method, level=0.9, replicates=50, validation=validation, tolerance=1e-4
            )
            held.append((low <= prior) & (prior <= high))
        assert 0.8 < float(torch.stack(held).double().mean()) < 0.98

    def test_it_narrows_with_the_root_of_the_samples(self) -> None:
        widths = []
        for n in (200, 3200):
            low, high = prior_interval(world(n)[0], UNIFORM, tolerance=1e-4)
            estimate = estimate_prior(world(n)[0], UNIFORM)
            assert bool(((low <= estimate) & (estimate <= high)).all())
            widths.append(float((high - low).mean()))
        assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.3)

    def test_each_replicate_is_the_estimate_of_its_samples(self) -> None:
        # Two replicates, whose 0 and 100 % percentiles are themselves: here all samples are the same one.
        logits = torch.tensor([[2.0, 0.0]]).repeat(10, 1)
        low, high = prior_interval(logits, [1, 1], replicates=2, level=0.999)
        torch.testing.assert_close(low, high)
        torch.testing.assert_close(low, estimate_prior(logits, [1, 1]), rtol=0, atol=1e-5)

    def test_the_seed_decides(self) -> None:
        logits, _ = world(100)
        first, again, other = (prior_interval(logits, UNIFORM, replicates=20, seed=s)[0] for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


VALIDATION = (torch.eye(3), torch.arange(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mlls"}, '`method` must be "em", "bbse" or "rlls", but is \'mlls\''),
        ({"logits_prior": [1, 1]}, r"`logits` must be .* \[N, 2, \.\.\.\].* shape \[4, 3\]"),
        ({"logits_prior": [1, 0, 1]}, "`logits_prior` must be positive, but class 1 has 0"),
        ({"logits": torch.full((4, 3), float("nan"))}, "`logits` must be finite"),
        (
            {"logits": torch.tensor([[0.0] * 3, [0.0, 0.0, -math.inf], [0.0, -math.inf, 0.0]])},
            r"row 1 has NaN or infinite entries \(2 of 3 rows do\)\. Drop a class .* -1e4",
        ),
        ({"center": "trend"}, "`center` must hold one number a class, but cannot be read"),
        ({"logits": torch.zeros(0, 3)}, "`logits` must hold at least one sample"),
        ({"logits": torch.zeros(4, 3).long()}, r"torch\.int64"),
        ({"pseudo_count": -1.0}, "`pseudo_count` must be finite and not negative, but is -1"),
        ({"pseudo_count": float("nan")}, "`pseudo_count` must be finite"),
        ({"center": [1, 1]}, "`center` must hold one number for each of the 3 classes, but holds 2"),
        ({"center": [1, 1, 0]}, "`center` must be positive, but class 2 has 0"),
        ({"center": [1, 1, float("inf")]}, "`center` must be finite"),
        ({"logits": None}, "`logits` must be a tensor or an array"),
        ({"method": "bbse", "validation": (None, torch.arange(3))}, r"`validation\[0\]` must be a tensor or an array"),
        ({"method": "bbse", "validation": (torch.eye(3), torch.arange(0))}, "each of the 3 .* holds 0"),
        ({"max_iterations": 0}, "`max_iterations` must be at least 1"),
        ({"max_iterations": 2.5}, r"`max_iterations` must be one whole number, but is 2\.5"),
        ({"tolerance": "small"}, "`tolerance` must be one number, but is 'small'"),
        ({"tolerance": -1e-6}, "`tolerance` must be finite and not negative"),
        ({"shrinkage": None}, "`shrinkage` must be one number, but is None"),
        ({"pseudo_count": [1, 1, 1]}, r"`pseudo_count` must be one number, but is \[1, 1, 1\]"),
        ({"trend": "log"}, r"`trend` must be a tensor or an array of numbers.* `class_counts\.log\(\)`"),
        ({"trend": [1.0, 2.0]}, r"`trend` must be finite, of shape \[3\].* has shape \[2\]"),
        ({"trend": [True, False, True]}, r"`trend` must be real numbers, but is torch\.bool"),
        ({"trend": torch.arange(3).cfloat()}, r"`trend` must be real numbers, but are torch\.complex64"),
        ({"method": "bbse", "validation": torch.eye(3)}, r"`validation` must be a pair.*`\(logits, labels\)`"),
        ({"method": "bbse", "validation": (torch.eye(3),)}, "`validation` must be a pair"),
        ({"method": "bbse", "validation": (torch.eye(3), "abc")}, r"`validation\[1\]` must be a tensor or an array"),
        ({"method": "bbse", "validation": (torch.eye(3), torch.rand(3))}, r"`validation\[1\]` must be integers"),
        ({"logits": torch.eye(3)}, r"`logits` must be logits, but are probabilities.*\.log\(\)"),
        ({"logits": torch.full((2, 3, 5), 1 / 3)}, "`logits` must be logits, but are probabilities"),
        (
            {"method": "rlls", "soft": True, "validation": VALIDATION},
            r"`validation\[0\]` must be logits, but are probabilities",
        ),
        ({"validation": VALIDATION}, '`validation` is for "bbse" and "rlls" only.*BiasCorrected'),
        ({"soft": True}, '`soft` is for "bbse"'),
        ({"trend": torch.ones(3)}, "`trend` must differ"),
        ({"trend": torch.tensor([0, 3, 5]).log()}, "`trend` must be finite"),
        ({"trend": torch.arange(4)}, r"`trend` must be .* \[3\]"),
        ({"method": "bbse"}, '`validation` must be .* for "bbse", but is None'),
        ({"method": "bbse", "validation": VALIDATION, "trend": torch.arange(3)}, '`trend` is for "em" only'),
        ({"method": "rlls", "validation": (torch.eye(3), torch.arange(2))}, "for each of the 3 .* holds 2"),
        ({"method": "rlls", "validation": (torch.eye(3), torch.arange(1, 4))}, r"0\.\.2 .* holds 3, with 1 of them"),
        ({"method": "rlls", "validation": (torch.eye(3), torch.tensor([0, 0, 2]))}, "none of class 1"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    arguments = {"logits": torch.zeros(4, 3), "logits_prior": [1, 1, 1]} | options
    with pytest.raises(ValueError, match=message):
        estimate_prior(**arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_told_from_logits(dtype: torch.dtype) -> None:
    probs = world(300)[0].softmax(1).to(dtype)
    with pytest.raises(ValueError, match="`logits` must be logits, but are probabilities"):
        estimate_prior(probs, UNIFORM)
    with pytest.raises(ValueError, match="`logits` must be logits, but are probabilities"):
        prior_interval(probs, UNIFORM, replicates=2)
    estimate_prior(probs.double().clamp(min=1e-12).log(), UNIFORM)  # which are logits
    estimate_prior(probs[:1], UNIFORM)  # one sample may be either
    # Predictions are the same, whatever they are taken from.
    held_out, labels = world(300, seed=1, prior=UNIFORM)
    counted = [
        estimate_prior(read(probs), UNIFORM, "rlls", validation=(read(held_out.softmax(1).to(dtype)), labels))
        for read in (Tensor.clone, lambda values: values.double().clamp(min=1e-300).log())
    ]
    assert torch.equal(*counted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "`level` must lie in"),
        ({"level": "0.9"}, "`level` must be one number, but is '0.9'"),
        ({"replicates": 1}, r"`replicates` must be at least 2, but is 1\. 200 or more"),
        ({"replicates": 20.0}, r"`replicates` must be one whole number, but is 20\.0"),
        ({"seed": "x"}, "`seed` must be one whole number, but is 'x'"),
        ({"max_iterations": 0}, "`max_iterations` must be at least 1"),
    ],
)
def test_bad_intervals_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prior_interval(torch.zeros(4, 3), [1, 1, 1], **options)
