"""Calibration: the numbers that made the labels are found again, and the likelihood is at its peak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    StructuredMatrixScaling,
    TemperatureScaling,
    VectorScaling,
    calibration,
    matrix,
)

C = 4
BIAS = torch.tensor([0.8, -0.3, 0.1, -0.6])
ALL = [TemperatureScaling, lambda: BiasCorrectedTemperatureScaling(C), lambda: VectorScaling(C)]
EVERY = [*ALL, lambda: StructuredMatrixScaling(C)]


def samples(n: int, scale: Tensor | float = 0.5, bias: Tensor | float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from the softmax of scale * logits + bias."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, C, generator=generator)
    labels = torch.multinomial((scale * logits + bias).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def nll(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits.double(), labels).item()


class TestFit:
    def test_temperature_is_found_again(self) -> None:
        logits, labels = samples(20_000)
        calibrate = TemperatureScaling().fit(logits, labels)
        assert calibrate.temperature == pytest.approx(2.0, rel=0.03)
        torch.testing.assert_close(calibrate(logits), logits / calibrate.temperature)

    def test_biases_are_found_again(self) -> None:
        logits, labels = samples(40_000, bias=BIAS)
        calibrate = BiasCorrectedTemperatureScaling(C).fit(logits, labels)
        assert calibrate.temperature == pytest.approx(2.0, rel=0.03)
        torch.testing.assert_close(calibrate.bias - calibrate.bias.mean(), BIAS, rtol=0, atol=0.08)
        torch.testing.assert_close(calibrate(logits), logits / calibrate.temperature + calibrate.bias)

    def test_scales_are_found_again(self) -> None:
        scale = torch.tensor([0.3, 0.5, 0.7, 0.9])
        logits, labels = samples(40_000, scale, BIAS)
        calibrate = VectorScaling(C).fit(logits, labels)
        torch.testing.assert_close(calibrate.scale, scale, rtol=0, atol=0.05)
        torch.testing.assert_close(calibrate.bias - calibrate.bias.mean(), BIAS, rtol=0, atol=0.1)

    def test_temperature_is_the_best_of_a_plain_search(self) -> None:
        logits, labels = samples(200)
        best = minimize_scalar(lambda t: nll(logits / math.exp(t), labels), bounds=(-5, 5), method="bounded").x
        fitted = TemperatureScaling().fit(logits, labels, prior_std=math.inf)
        assert float(fitted.log_temperature) == pytest.approx(best, abs=1e-4)
        assert float(TemperatureScaling().fit(logits, labels).log_temperature) == pytest.approx(best, abs=2e-3)

    @pytest.mark.parametrize("make", ALL)
    @given(seed=st.integers(0, 10**6), n=st.integers(1, 12))
    @settings(max_examples=15, deadline=None)
    def test_never_less_likely_than_before(self, make, seed: int, n: int) -> None:
        logits, labels = samples(n, seed=seed)
        assert nll(make().fit(logits, labels)(logits), labels) <= nll(logits, labels) + 1e-6

    @pytest.mark.parametrize("make", ALL)
    @pytest.mark.parametrize("prior_std", [0.3, 3.0])
    def test_is_the_optimum_of_autograd_in_double_precision(self, make, prior_std: float) -> None:
        logits, labels = samples(400, bias=BIAS)
        weights = torch.linspace(0.2, 2.0, 400)
        fitted, start = make().fit(logits, labels, weights, prior_std), make()
        begin = [values.double() for values in start.state_dict().values()]
        numbers = [values.clone().requires_grad_() for values in begin]
        optimizer = torch.optim.LBFGS(
            numbers, max_iter=500, tolerance_grad=1e-10, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            scale = numbers[0] if isinstance(start, VectorScaling) else (-numbers[0]).exp()
            z = scale * logits.double() + (numbers[1] if len(numbers) > 1 else 0.0)
            nll = (F.cross_entropy(z, labels, reduction="none") * weights).sum() / weights.sum()
            distance = sum(((now - then) ** 2).sum() for now, then in zip(numbers, begin, strict=True))
            value = nll + distance / (2 * prior_std**2 * 400)
            value.backward()
            return value

        optimizer.step(loss)
        for found, expected in zip(fitted.state_dict().values(), numbers, strict=True):
            torch.testing.assert_close(found.double(), expected.detach(), rtol=0, atol=2e-4)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, labels = samples(300, bias=BIAS)
        whole = VectorScaling(C).fit(logits, labels)(logits)
        monkeypatch.setattr(calibration, "_BLOCK", 7 * C)
        torch.testing.assert_close(VectorScaling(C).fit(logits, labels)(logits), whole, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("make", [BiasCorrectedTemperatureScaling, VectorScaling])
    def test_hundreds_of_classes_take_few_passes(self, make, monkeypatch: pytest.MonkeyPatch) -> None:
        passes = []
        plain = calibration.Likelihood.value_and_slopes
        monkeypatch.setattr(calibration.Likelihood, "value_and_slopes", lambda *args: passes.append(0) or plain(*args))
        labels = torch.arange(1000) % 500
        logits = torch.randn(1000, 500, generator=torch.Generator().manual_seed(0)) + 8 * F.one_hot(labels, 500)
        logits += torch.linspace(0.0, -4.0, 500)  # as of a long-tailed training
        fitted = make(500).fit(logits, labels)
        assert len(passes) < 130
        assert nll(fitted(logits), labels) < nll(logits, labels)

    def test_logits_far_from_zero_take_few_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # There a scale and a bias pull alike; the answer is that of a search that bears it, and knows no passes.
        passes = []
        plain = calibration.Likelihood.value_and_slopes
        monkeypatch.setattr(calibration.Likelihood, "value_and_slopes", lambda *args: passes.append(0) or plain(*args))
        logits, labels = samples(400, bias=BIAS)
        logits = logits.double() - torch.tensor([40.0, 20.0, 30.0, 10.0]) * (1 - 1e-3)
        labels = torch.multinomial((logits + 25).softmax(1) * 0.5 + 0.125, 1)[:, 0]
        fitted = VectorScaling(C).fit(logits, labels, prior_std=math.inf)
        assert len(passes) < 100
        start = np.concatenate([np.ones(C), np.zeros(C)])

        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            w = torch.from_numpy(x).requires_grad_()
            value = F.cross_entropy(logits * w[:C] + w[C:], labels)
            value.backward()
            return value.item(), w.grad.numpy()

        best = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).fun
        assert F.cross_entropy(fitted(logits), labels).item() == pytest.approx(best, abs=1e-5)

    def test_a_temperature_does_not_change_what_is_said(self) -> None:
        logits, labels = samples(100)
        assert torch.equal(TemperatureScaling().fit(logits, labels)(logits).argmax(1), logits.argmax(1))


class TestWeights:
    @pytest.mark.parametrize("make", ALL)
    def test_a_weight_is_a_number_of_copies(self, make) -> None:
        logits, labels = samples(60)
        times = torch.arange(60) % 3
        copies = make().fit(logits.repeat_interleave(times, 0), labels.repeat_interleave(times), prior_std=math.inf)
        weighted = make().fit(logits, labels, weights=7.0 * times, prior_std=math.inf)
        torch.testing.assert_close(weighted(logits), copies(logits), rtol=1e-3, atol=1e-3)

    def test_long_tailed_samples_calibrate_for_a_balanced_world(self) -> None:
        # Of samples whose calibrated posterior is softmax(z / 2) keep few of some classes, and weigh them up again.
        logits, labels = samples(60_000)
        kept = torch.tensor([1.0, 0.4, 0.2, 0.1])
        chosen = torch.rand(60_000, generator=torch.Generator().manual_seed(1)) < kept[labels]
        z, y = logits[chosen], labels[chosen]
        plain = BiasCorrectedTemperatureScaling(C).fit(z, y)
        weighted = BiasCorrectedTemperatureScaling(C).fit(z, y, weights=(1 / kept)[y])
        torch.testing.assert_close(plain.bias - plain.bias[0], kept.log(), rtol=0, atol=0.15)
        torch.testing.assert_close(weighted.bias - weighted.bias[0], torch.zeros(C), rtol=0, atol=0.15)
        assert weighted.temperature == pytest.approx(2.0, rel=0.05)


class TestFiniteAnswers:
    @pytest.mark.parametrize("prior_std", [3.0, math.inf])
    @pytest.mark.parametrize("make", EVERY)
    def test_separable_samples(self, make, prior_std: float) -> None:
        labels = torch.arange(C).repeat(5)
        logits = F.one_hot(labels, C) - 1.0
        calibrate = make().fit(logits, labels, prior_std=prior_std)
        assert all(bool(numbers.isfinite().all()) for numbers in calibrate.state_dict().values())
        assert nll(calibrate(logits), labels) < 0.5 * nll(logits, labels)

    def test_separable_samples_stay_less_than_certain(self) -> None:
        labels = torch.arange(C).repeat(5)
        calibrate = TemperatureScaling().fit(F.one_hot(labels, C) - 1.0, labels)
        assert 0.05 < calibrate.temperature < 0.5

    def test_all_wrong_samples(self) -> None:
        logits = torch.tensor([[4.0, 0.0]]).repeat(20, 1)
        calibrate = TemperatureScaling().fit(logits, torch.ones(20).long())
        assert 3.0 < calibrate.temperature < math.inf


class TestAbsentClasses:
    """That no sample of a class was held out says nothing about how rare it is."""

    @pytest.mark.parametrize("prior", [None, [1] * 10], ids=["own mix", "uniform"])
    @pytest.mark.parametrize("absent", [[9], [0, 4, 9]])
    @pytest.mark.parametrize("make", [BiasCorrectedTemperatureScaling, VectorScaling, lambda c: TemperatureScaling()])
    def test_keep_their_recall_and_have_the_mean_of_the_others_numbers(self, make, absent: list[int], prior) -> None:
        def logits_of(labels: Tensor) -> Tensor:
            return 3.0 * F.one_hot(labels, 10) + torch.randn(len(labels), 10)

        there = torch.tensor([k for k in range(10) if k not in absent])
        held, test = there[torch.randint(len(there), (500,))], torch.randint(10, (5000,))
        logits, missing = logits_of(test), torch.isin(test, torch.tensor(absent))
        calibrate = make(10).fit(logits_of(held), held, logits_prior=prior)

        def recall(z: Tensor, of: Tensor) -> float:
            return (z.argmax(1) == test)[of].double().mean().item()

        for of in (missing, ~missing):
            assert recall(calibrate(logits), of) == pytest.approx(recall(logits, of), abs=0.03)
        assert nll(calibrate(logits), test) < nll(logits, test) - 0.2
        for name in ("bias", "scale"):
            if (numbers := getattr(calibrate, name, None)) is not None:
                assert numbers[absent].tolist() == pytest.approx([numbers[there].mean().item()] * len(absent), abs=1e-5)

    def test_a_weight_of_0_is_no_sample(self) -> None:
        logits, labels = samples(300)
        seen = labels != 3
        for make in ALL:
            fitted = make().fit(logits, labels, weights=seen.double())
            assert torch.allclose(fitted(logits), make().fit(logits[seen], labels[seen])(logits), atol=2e-2)

    def test_a_single_class_tells_a_temperature_only(self) -> None:
        logits, _ = samples(50)
        fitted = BiasCorrectedTemperatureScaling(C).fit(logits, torch.zeros(50).long())
        assert fitted.bias.tolist() == pytest.approx([fitted.bias[0].item()] * C)
        assert torch.equal(fitted(logits).argmax(1), logits.argmax(1))


def confused(n: int, seed: int, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits that a matrix and biases put right again: classes 0 and 1 share what speaks for either."""
    generator = torch.Generator().manual_seed(seed)
    wanted = 2 * torch.randn(n, C, generator=generator)
    mixed = torch.eye(C)
    mixed[0, 1] = mixed[1, 0] = 0.7
    labels = torch.multinomial((wanted + (0.0 if prior is None else prior.log())).softmax(1), 1, generator=generator)
    return 2.0 * (wanted - BIAS) @ torch.linalg.inv(mixed).T, labels[:, 0]


class TestStructuredMatrix:
    def test_it_is_the_optimum_of_the_papers_problem(self) -> None:
        """By a plain search in float64, with the penalties written out."""
        logits, labels = confused(300, 0)
        fitted = StructuredMatrixScaling(C).fit(logits, labels)
        a, n = 1.0 / TemperatureScaling().fit(logits, labels).temperature, 300
        z = logits.double() - logits.double().mean(1, keepdim=True)
        off = ~torch.eye(C, dtype=torch.bool)

        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            free = torch.from_numpy(x).requires_grad_()
            change, bias = free[: C * C].view(C, C), free[C * C :]
            value = F.cross_entropy(z @ (a * torch.eye(C) + change).T + bias, labels)
            value = value + C / n * (change.diagonal().square().sum() + bias.square().sum())
            value = value + C * (C - 1) / n * change[off].square().sum()
            value.backward()
            return value.item(), free.grad.numpy()

        best = minimize(loss, np.zeros(C * C + C), jac=True, method="BFGS", options={"gtol": 1e-8}).x
        expected = torch.from_numpy(best)
        torch.testing.assert_close(
            fitted.weight.double(), a * torch.eye(C).double() + expected[: C * C].view(C, C), rtol=0, atol=1e-3
        )
        torch.testing.assert_close(fitted.bias.double(), expected[C * C :], rtol=0, atol=1e-3)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_more_likely_than_a_temperature_where_classes_are_distorted(self, seed: int) -> None:
        test, test_labels = confused(5000, 100 + seed)
        for n in (100, 400, 4000):
            logits, labels = confused(n, seed)
            mine, plain, vector = (
                nll(make.fit(logits, labels)(test), test_labels)
                for make in (StructuredMatrixScaling(C), TemperatureScaling(), VectorScaling(C))
            )
            assert mine < plain - 0.1
            assert mine < vector - 0.005
        mixed = torch.eye(C)
        mixed[0, 1] = mixed[1, 0] = 0.7
        assert mine < nll(test @ mixed.T / 2 + BIAS, test_labels) + 0.03  # which made the labels

    @pytest.mark.parametrize("seed", range(3))
    def test_it_costs_little_where_a_temperature_is_right(self, seed: int) -> None:
        test, test_labels = samples(5000, seed=100 + seed)
        for n, cost in ((100, 0.06), (1000, 0.01)):
            logits, labels = samples(n, seed=seed)
            plain = nll(TemperatureScaling().fit(logits, labels)(test), test_labels)
            assert nll(StructuredMatrixScaling(C).fit(logits, labels)(test), test_labels) < plain + cost

    def test_long_tailed_logits_of_balanced_samples(self) -> None:
        """What is fitted to even samples stays under the prior of the logits, and is right for a world of it."""
        prior = torch.tensor([0.7, 0.2, 0.07, 0.03])
        generator = torch.Generator().manual_seed(0)
        means = 2.0 * torch.eye(C)

        def world(mix: Tensor, n: int) -> tuple[Tensor, Tensor]:
            labels = torch.multinomial(mix, n, replacement=True, generator=generator)
            points = means[labels] + torch.randn(n, C, generator=generator)
            right = points @ means.T + prior.log()
            return 3.0 * right + 2.0 * torch.tensor([0.5, -0.5, 0.0, 0.0]), labels

        fitted = StructuredMatrixScaling(C).fit(*world(torch.ones(C) / C, 2000), logits_prior=prior)
        plain = TemperatureScaling().fit(*world(torch.ones(C) / C, 2000), logits_prior=prior)
        test, labels = world(prior, 5000)
        assert nll(fitted(test), labels) < nll(plain(test), labels) - 0.005
        share = fitted(test).softmax(1).mean(0)
        torch.testing.assert_close(share, torch.bincount(labels) / 5000, rtol=0, atol=0.03)

    def test_the_rest_of_the_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, labels = confused(300, 0)
        fitted = StructuredMatrixScaling(C).fit(logits, labels)
        far = StructuredMatrixScaling(C).fit(logits + torch.arange(300)[:, None] / 10, labels)
        torch.testing.assert_close(far.weight, fitted.weight, rtol=0, atol=2e-2)  # but for the temperature's prior
        stiff = StructuredMatrixScaling(C).fit(logits, labels, prior_std=1e-4)
        temperature = TemperatureScaling().fit(logits, labels)
        torch.testing.assert_close(stiff(logits).log_softmax(1), temperature(logits).log_softmax(1), rtol=0, atol=1e-3)
        monkeypatch.setattr(matrix, "_BLOCK", 7 * C)
        torch.testing.assert_close(
            StructuredMatrixScaling(C).fit(logits, labels).weight, fitted.weight, rtol=0, atol=1e-3
        )
        double = StructuredMatrixScaling(C).fit(logits, labels, weights=torch.full((300,), 5.0))
        torch.testing.assert_close(double.weight, fitted.weight, rtol=0, atol=1e-3)
        with pytest.raises(ValueError, match="`prior_std` must be positive"):
            fitted.fit(logits, labels, prior_std=0.0)
        with pytest.raises(ValueError, match=r"`logits` must be .* \[N, 4, \.\.\.\]"):
            fitted(torch.zeros(3, 5))

    @pytest.mark.parametrize("prior", [None, [1] * 10], ids=["own mix", "uniform"])
    def test_a_class_without_samples(self, prior: list[int] | None) -> None:
        labels = torch.randint(9, (500,))
        logits = 3.0 * F.one_hot(labels, 10) + torch.randn(500, 10)
        fitted = StructuredMatrixScaling(10).fit(logits, labels, logits_prior=prior)
        scale = fitted.weight.diagonal()
        assert float(scale[9]) == pytest.approx(float(scale[:9].mean()), abs=1e-5)
        assert float(fitted.bias[9]) == pytest.approx(float(fitted.bias[:9].mean()), abs=1e-5)
        assert not bool(fitted.weight[9, :9].any())


class TestModule:
    @pytest.mark.parametrize("make", EVERY)
    def test_starts_as_the_identity_and_holds_no_parameters(self, make) -> None:
        logits, _ = samples(5)
        assert torch.equal(make()(logits), logits)
        assert not list(make().parameters())

    @pytest.mark.parametrize("make", EVERY)
    def test_goes_through_a_checkpoint(self, make) -> None:
        logits, labels = samples(100, bias=BIAS)
        fitted, other = make().fit(logits, labels), make()
        other.load_state_dict(fitted.state_dict())
        assert not torch.equal(fitted(logits), logits)
        assert torch.equal(other(logits), fitted(logits))

    @pytest.mark.parametrize("make", EVERY)
    def test_a_second_fit_forgets_the_first(self, make) -> None:
        logits, labels = samples(100)
        once = make().fit(logits, labels)
        twice = make().fit(*samples(50, scale=3.0, seed=1)).fit(logits, labels)
        assert torch.equal(once(logits), twice(logits))

    @pytest.mark.parametrize("make", EVERY)
    def test_dense_prediction_is_more_samples(self, make) -> None:
        logits, labels = samples(60, bias=BIAS)
        maps, label_maps = logits.view(3, 4, 5, C).movedim(-1, 1), labels.view(3, 4, 5)
        dense = make().fit(maps, label_maps, weights=torch.ones(3, 4, 5))
        flat = make().fit(logits, labels)
        torch.testing.assert_close(dense(maps).movedim(1, -1).reshape(-1, C), flat(logits))

    def test_fits_in_inference_mode_and_passes_gradients_on(self) -> None:
        calibrate = VectorScaling(C)
        with torch.inference_mode():
            calibrate.fit(*samples(100))
        free = torch.zeros(2, C, requires_grad=True)
        calibrate(free).sum().backward()
        torch.testing.assert_close(free.grad, calibrate.scale.clone().expand(2, C))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("make", EVERY)
    def test_keeps_the_type(self, make, dtype: torch.dtype) -> None:
        logits, labels = samples(50)
        calibrate = make().fit(logits.to(dtype), labels)
        assert calibrate(logits.to(dtype)).dtype == dtype


@pytest.mark.parametrize("make", EVERY)
def test_arrays_and_lists_are_samples(make) -> None:
    logits, labels = samples(50, bias=BIAS)
    weights = torch.linspace(0.5, 1.5, 50)
    expected = make().fit(logits, labels, weights)(logits)
    for read in (lambda values: values.numpy(), lambda values: values.tolist()):
        fitted = make().fit(read(logits), read(labels), read(weights))
        found = fitted(read(logits))
        assert (type(found), found.dtype) == (np.ndarray, np.float32)
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
        torch.testing.assert_close(fitted(logits), expected, rtol=0, atol=1e-5)
    assert make()(logits.double().numpy()).dtype == np.float64


@pytest.mark.parametrize("make", EVERY)
def test_compiles_without_a_break(make) -> None:
    logits, labels = samples(50, bias=BIAS)
    fitted = make().fit(logits, labels)
    compiled = torch.compile(fitted, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits), fitted(logits))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, "`logits` must be a tensor or an array"),
        ({"logits": [[1.0, 2.0, 3.0, 4.0]] * 3, "labels": [0, 1, 4]}, r"`labels` must lie in 0\.\.3"),
        ({"logits": torch.zeros(3)}, r"`logits` must be .* \[N, 4, \.\.\.\]"),
        ({"logits": torch.zeros(3, 5)}, r"`logits` must be .* shape \[3, 5\]"),
        ({"logits": torch.zeros(3, C).long()}, r"torch\.int64"),
        ({"logits": torch.full((3, C), float("inf"))}, "`logits` must be finite"),
        (
            {"logits": torch.zeros(3, C).index_fill(1, torch.tensor([2]), -math.inf)},
            r"row 0 .* \(3 of 3 rows do\)\. Drop a class that -inf masks, or give it -1e4",
        ),
        ({"labels": torch.zeros(2).long()}, r"`labels` must be .* shape \[3\].* shape \[2\]"),
        ({"labels": torch.zeros(3)}, r"torch\.float32"),
        ({"labels": torch.tensor([0, 4, 1])}, r"`labels` must lie in 0\.\.3.* 0 to 4"),
        ({"labels": torch.tensor([0, -1, 1])}, r"-1 to 1"),
        ({"weights": torch.ones(C)}, r"`weights` must be one a label, shape \[3\].*class_weights\[labels\]"),
        ({"weights": torch.zeros(3)}, "positive sum"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "not negative"),
        ({"weights": torch.ones(3).cfloat()}, "`weights` must be real numbers"),
        ({"weights": "balanced"}, "`weights` must be a tensor or an array of numbers"),
        ({"labels": "abc"}, "`labels` must be a tensor or an array of numbers"),
        ({"labels": [True, False, True]}, r"`labels` must be at least one class index.*torch\.bool"),
        ({"prior_std": 0.0}, "`prior_std` must be positive"),
        ({"prior_std": "wide"}, "`prior_std` must be one number, but is 'wide'"),
        ({"logits": torch.eye(C)[:3]}, "`logits` must be logits, but are probabilities"),
    ],
)
def test_bad_arguments_are_named(changes: dict, message: str) -> None:
    arguments = {"logits": torch.zeros(3, C), "labels": torch.zeros(3).long()} | changes
    with pytest.raises(ValueError, match=message):
        VectorScaling(C).fit(**arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", ALL)
def test_probabilities_are_told_from_logits(make, dtype: torch.dtype) -> None:
    logits, labels = samples(200)
    probs = logits.softmax(1).to(dtype)
    with pytest.raises(ValueError, match=r"`logits` must be logits, but are probabilities.*\.log\(\)"):
        make().fit(probs, labels)
    with pytest.raises(ValueError, match="are probabilities"):
        make().fit(probs.view(10, 4, 5, C).movedim(-1, 1), labels.view(10, 4, 5))
    make().fit(probs.clamp(min=1e-6).log(), labels)  # which are logits
    make().fit(probs[:1], labels[:1])  # one sample may be either
    mixed = probs.clone()
    mixed[0] += 1  # so may these: a row that is no distribution
    make().fit(mixed, labels)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be at least 1, but is 0"):
        VectorScaling(0)
    with pytest.raises(ValueError, match=r"`num_classes` must be one whole number, but is 2\.5"):
        BiasCorrectedTemperatureScaling(2.5)


class TestLogitsPrior:
    """Held-out samples of another class mix than the prior that the logits are under."""

    @pytest.fixture
    def world(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits that are right under a prior, but three times too sure, and labels of a flat mix."""
        generator = torch.Generator().manual_seed(0)
        prior = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)
        labels = torch.arange(4).repeat(5000)
        points = 1.5 * torch.eye(4, dtype=torch.float64)[labels]
        points += torch.randn(points.shape, generator=generator, dtype=torch.float64)
        return 3.0 * (1.5 * points + prior.log()), labels, prior

    @pytest.mark.parametrize("kind", [TemperatureScaling, BiasCorrectedTemperatureScaling, VectorScaling])
    def test_finds_the_logits_of_that_prior(self, world: tuple[Tensor, Tensor, Tensor], kind: type) -> None:
        logits, labels, prior = world
        sizes = () if kind is TemperatureScaling else (4,)
        calibrated = kind(*sizes).fit(logits, labels, logits_prior=prior)(logits)
        assert (calibrated.softmax(1) - (logits / 3).softmax(1)).abs().mean() < 0.01
        # Without it the samples' own mix is taken for the prior.
        assert (kind(*sizes).fit(logits, labels)(logits).softmax(1) - (logits / 3).softmax(1)).abs().mean() > 0.03

    def test_minimises_the_likelihood_of_the_shifted_logits(self, world: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, labels, prior = (world[0][7:2000:3], world[1][7:2000:3], world[2])
        fitted = TemperatureScaling().fit(logits, labels, prior_std=math.inf, logits_prior=prior)
        z, y, mix = logits.numpy(), labels.numpy(), np.bincount(labels.numpy(), minlength=4) / len(labels)

        def loss(temperature: float) -> float:
            moved = z / temperature + np.log(mix / prior.numpy())
            moved -= np.log(np.exp(moved).sum(1, keepdims=True))
            return -moved[np.arange(len(y)), y].mean()

        best = min(np.arange(0.5, 6.0, 0.002), key=loss)
        assert fitted.temperature == pytest.approx(best, abs=0.003)

    def test_its_scale_means_nothing(self, world: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, labels, prior = world
        one, other = (VectorScaling(4).fit(logits, labels, logits_prior=p) for p in (prior, 1000 * prior))
        torch.testing.assert_close(one.scale, other.scale)
        torch.testing.assert_close(one.bias, other.bias, atol=1e-4, rtol=0.0)

    def test_a_class_without_samples_takes_no_part(self, world: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, labels, prior = world
        seen = labels != 0
        calibrate = VectorScaling(4).fit(logits[seen], labels[seen], logits_prior=prior)
        alone = VectorScaling(3).fit(logits[seen][:, 1:], labels[seen] - 1, logits_prior=prior[1:])
        torch.testing.assert_close(calibrate.scale[1:], alone.scale, atol=1e-4, rtol=0.0)
        assert calibrate.scale[0] == pytest.approx(float(alone.scale.mean()), abs=1e-4)
        assert calibrate.bias[0] == pytest.approx(float(calibrate.bias[1:].mean()), abs=1e-6)

    @pytest.mark.parametrize("prior", [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, -1.0]])
    def test_bad_ones_are_named(self, world: tuple[Tensor, Tensor, Tensor], prior: list[float]) -> None:
        with pytest.raises(ValueError, match="`logits_prior`"):
            VectorScaling(4).fit(*world[:2], logits_prior=prior)
