"""Prior correction: Bayes' rule by hand, and the named methods that are one act."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ltaug import class_prior, shift_logits
from ltaug.posthoc import log_prior_shift

PRIORS = st.lists(st.integers(1, 5000), min_size=4, max_size=4)
LOGITS = st.lists(st.floats(-30.0, 30.0), min_size=4, max_size=4)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    power = [math.exp(value - top) for value in values]
    return [p / math.fsum(power) for p in power]


class TestFormula:
    @given(LOGITS, PRIORS, PRIORS, st.floats(-2.0, 3.0))
    def test_adds_the_difference_of_the_log_priors(
        self, z: list[float], source: list[int], target: list[int], strength: float
    ) -> None:
        expected = [
            value + strength * (math.log(b / sum(target)) - math.log(a / sum(source)))
            for value, a, b in zip(z, source, target, strict=True)
        ]
        assert shift_logits(row(z), source, target, strength)[0].tolist() == pytest.approx(expected, abs=1e-12)
        vector = log_prior_shift(source, target, strength)
        assert vector.dtype == torch.float64
        assert vector.tolist() == pytest.approx([e - value for e, value in zip(expected, z, strict=True)], abs=1e-11)

    @given(LOGITS, PRIORS, PRIORS)
    def test_there_and_back_is_the_identity(self, z: list[float], source: list[int], target: list[int]) -> None:
        there = shift_logits(row(z), source, target)
        torch.testing.assert_close(shift_logits(there, target, source), row(z), rtol=0, atol=1e-12)

    @given(LOGITS, PRIORS, PRIORS, PRIORS)
    def test_by_way_of_a_third_prior_is_the_same(
        self, z: list[float], a: list[int], b: list[int], c: list[int]
    ) -> None:
        by_way = shift_logits(shift_logits(row(z), a, b), b, c)
        torch.testing.assert_close(by_way, shift_logits(row(z), a, c), rtol=0, atol=1e-12)

    @given(LOGITS, PRIORS, PRIORS, st.floats(-1.0, 2.0), st.floats(-1.0, 2.0))
    def test_strengths_add_up(self, z: list[float], a: list[int], b: list[int], s: float, t: float) -> None:
        twice = shift_logits(shift_logits(row(z), a, b, s), a, b, t)
        torch.testing.assert_close(twice, shift_logits(row(z), a, b, s + t), rtol=0, atol=1e-11)

    def test_the_same_prior_or_no_strength_changes_nothing(self) -> None:
        logits = torch.randn(5, 4)
        assert torch.equal(shift_logits(logits, [7, 5, 3, 1], [7, 5, 3, 1]), logits)
        assert torch.equal(shift_logits(logits, [7, 5, 3, 1], [1, 1, 1, 1], strength=0.0), logits)


class TestNamedMethods:
    @given(LOGITS, PRIORS, PRIORS)
    def test_pc_softmax_is_bayes_rule_and_ic_of_strength_1(
        self, z: list[float], source: list[int], target: list[int]
    ) -> None:
        # LADE Eq. 4, IC Eq. 3: p_t(y|x) ~ p_s(y|x) p_t(y) / p_s(y)
        p = softmax(z)
        posterior = [v * (b / sum(target)) / (a / sum(source)) for v, a, b in zip(p, source, target, strict=True)]
        expected = [v / math.fsum(posterior) for v in posterior]
        assert shift_logits(row(z), source, target).softmax(1)[0].tolist() == pytest.approx(expected, abs=1e-12)
        assert shift_logits(row(z), source, target, strength=1.0).softmax(1)[0].tolist() == pytest.approx(expected)
        assert shift_logits(row(z), source, target, strength=0.0).softmax(1)[0].tolist() == pytest.approx(p)

    @given(LOGITS, PRIORS, PRIORS, st.floats(0.0, 2.0))
    def test_ic_is_the_geometric_mean(
        self, z: list[float], source: list[int], target: list[int], strength: float
    ) -> None:
        # IC Eq. 6-7: P_f = P_d^(1 - lambda) P_r^lambda / Z with P_r = P_d P_t / P_s, here in logarithms
        log_d = torch.log_softmax(row(z), 1)
        log_r = log_d + class_prior(target).log() - class_prior(source).log()
        expected = torch.softmax((1 - strength) * log_d + strength * log_r, 1)
        torch.testing.assert_close(shift_logits(row(z), source, target, strength).softmax(1), expected)

    @given(LOGITS, PRIORS, PRIORS, st.floats(0.0, 2.0), st.integers(0, 3), st.integers(0, 3))
    def test_ic_multiplies_the_odds(
        self, z: list[float], source: list[int], target: list[int], strength: float, gt: int, i: int
    ) -> None:
        # IC Eq. 8, with odds of class gt against class i
        before = torch.log_softmax(row(z), 1)[0]
        after = torch.log_softmax(shift_logits(row(z), source, target, strength), 1)[0]
        factor = (source[i] / source[gt]) ** strength * (target[gt] / target[i]) ** strength
        change = float((after[gt] - after[i]) - (before[gt] - before[i]))
        assert change == pytest.approx(math.log(factor), abs=1e-9)

    @given(LOGITS, PRIORS, st.floats(0.0, 2.0))
    def test_post_hoc_logit_adjustment_up_to_a_constant(self, z: list[float], counts: list[int], tau: float) -> None:
        expected = (row(z) - tau * class_prior(counts).log()).softmax(1)
        torch.testing.assert_close(shift_logits(row(z), counts, [1, 1, 1, 1], tau).softmax(1), expected)

    def test_recovers_a_world_of_another_prior(self) -> None:
        # Two Gaussians: the exact posterior under one prior becomes the exact posterior under the other.
        x = torch.linspace(-3, 3, 50, dtype=torch.float64)
        likelihood = torch.stack([torch.exp(-((x - m) ** 2) / 2) for m in (-1.0, 1.0)], dim=1)

        def posterior(prior: list[float]) -> Tensor:
            joint = likelihood * torch.tensor(prior, dtype=torch.float64)
            return joint / joint.sum(1, keepdim=True)

        moved = shift_logits(posterior([0.9, 0.1]).log(), [900, 100], [1, 4]).softmax(1)
        torch.testing.assert_close(moved, posterior([0.2, 0.8]))


class TestForms:
    def test_counts_and_priors_of_any_form_agree(self, device: torch.device) -> None:
        logits = torch.randn(5, 3, device=device)
        expected = shift_logits(logits, [6, 3, 1], [1, 1, 1])
        assert expected.device == logits.device
        for source in (
            (6, 3, 1),
            [0.6, 0.3, 0.1],
            np.array([60, 30, 10]),
            torch.tensor([6.0, 3.0, 1.0], device=device),
        ):
            for target in ([2, 2, 2], torch.full((3,), 1 / 3)):
                torch.testing.assert_close(shift_logits(logits, source, target), expected)

    @pytest.mark.parametrize(
        ("shape", "dim"), [((5, 4), 1), ((5, 4, 2, 3), 1), ((2, 3, 4), -1), ((4,), 0), ((4, 6), 0)]
    )
    def test_classes_on_any_dimension(self, shape: tuple[int, ...], dim: int) -> None:
        logits = torch.randn(shape)
        before = logits.clone()
        moved = shift_logits(logits, [4, 3, 2, 1], [1, 1, 1, 1], dim=dim)
        assert torch.equal(logits, before)
        assert moved.shape == logits.shape
        vector = log_prior_shift([4, 3, 2, 1], [1, 1, 1, 1]).float()
        for k in range(4):
            difference = (moved - logits).movedim(dim, 0)[k]
            torch.testing.assert_close(difference, torch.full_like(difference, float(vector[k])))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_keeps_the_type(self, dtype: torch.dtype) -> None:
        moved = shift_logits(torch.zeros(2, 2, dtype=dtype), [3, 1], [1, 1])
        assert moved.dtype == dtype
        assert moved[0].tolist() == pytest.approx([math.log(2 / 3), math.log(2)], rel=1e-2)

    def test_gradient_passes(self) -> None:
        logits = torch.randn(3, 2, requires_grad=True)
        shift_logits(logits, [3, 1], [1, 1]).sum().backward()
        assert torch.equal(logits.grad, torch.ones(3, 2))

    def test_a_very_long_tail_stays_finite(self) -> None:
        assert bool(shift_logits(torch.zeros(1, 2), [1e30, 1.0], [1.0, 1e30], strength=2.0).isfinite().all())


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (([5, 0, 1], [1, 1, 1]), {}, r"`from_prior` must be positive, but class 1 has 0 .*counts\.clamp\(min=1\)"),
            (([5, 1, 1], [1, 1, 0]), {}, "`to_prior` must be positive, but class 2 has 0"),
            (([5, 1, 1], [1, 1, -1]), {}, "`to_prior` must not be negative, but class 2 has -1"),
            (([5, float("nan"), 1], [1, 1, 1]), {}, "`from_prior` must be finite, but class 1 has nan"),
            (
                ([5, 1, 1], [1, 1]),
                {},
                "`from_prior` and `to_prior` must have one number a class each, but have 3 and 2",
            ),
            (([5, 1], [1, 1]), {}, r"`logits` must have 2 classes on dim 1, .* have shape \[2, 3\]"),
            (([5, 1, 1], [1, 1, 1]), {"dim": 0}, r"`logits` must have 3 classes on dim 0"),
        ],
    )
    def test_priors_and_sizes(self, arguments: tuple, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            shift_logits(torch.zeros(2, 3), *arguments, **options)

    def test_integers_would_round_the_shift(self) -> None:
        with pytest.raises(ValueError, match=r"`logits` must be floating point, but are torch\.int64"):
            shift_logits(torch.zeros(2, 3).long(), [3, 2, 1], [1, 1, 1])
