"""Prior correction: Bayes' rule by hand, and the named methods that are one act."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ltaug import class_prior, shift_logits
from ltaug.correction import Correction
from ltaug.posthoc import PriorShift, log_prior_shift, search_strength, strength_curve

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

    def test_arrays_and_lists_are_logits(self) -> None:
        values = [[0.5, 1.5], [2.0, -1.0]]
        expected = shift_logits(torch.tensor(values), [3, 1], [1, 1])
        assert isinstance(expected, Tensor)
        for form in (values, tuple(map(tuple, values)), *(np.array(values, dtype=t) for t in (np.float32, np.float64))):
            moved = shift_logits(form, [3, 1], [1, 1])
            assert (type(moved), moved.dtype) == (np.ndarray, getattr(form, "dtype", np.float32))
            np.testing.assert_allclose(moved, expected.numpy(), rtol=1e-6)
        # A list of tensors is tensors: what they were computed from can be trained by it.
        rows = [torch.tensor(row, requires_grad=True) for row in values]
        shift_logits(rows, [3, 1], [1, 1]).sum().backward()
        assert rows[1].grad.tolist() == [1.0, 1.0]

    def test_gradient_passes(self) -> None:
        logits = torch.randn(3, 2, requires_grad=True)
        shift_logits(logits, [3, 1], [1, 1]).sum().backward()
        assert torch.equal(logits.grad, torch.ones(3, 2))

    def test_a_very_long_tail_stays_finite(self) -> None:
        assert bool(shift_logits(torch.zeros(1, 2), [1e30, 1.0], [1.0, 1e30], strength=2.0).isfinite().all())


ROWS = [[1, 1, 1], [1, 2, 5], [0.2, 0.7, 0.1], [9, 1, 1], [3, 3, 2]]


class TestPriorOfEachRow:
    @pytest.mark.parametrize("read", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
    @pytest.mark.parametrize(("shape", "dim"), [((5, 3), 1), ((5, 3, 2, 2), 1), ((5, 4, 3), -1)])
    def test_each_row_is_shifted_by_its_own(self, shape: tuple[int, ...], dim: int, read: Callable[..., Any]) -> None:
        logits = torch.randn(shape)
        moved = shift_logits(logits, [6, 3, 1], read(ROWS), strength=0.7, dim=dim)
        assert moved.shape == logits.shape
        for k, row in enumerate(ROWS):
            own = shift_logits(logits[k : k + 1], [6, 3, 1], row, strength=0.7, dim=dim)
            torch.testing.assert_close(moved[k : k + 1], own)
        back = shift_logits(moved, read(ROWS), [6, 3, 1], strength=0.7, dim=dim)
        torch.testing.assert_close(back, logits)
        vector = log_prior_shift([6, 3, 1], read(ROWS))
        assert (vector.dtype, list(vector.shape)) == (torch.float64, [5, 3])
        assert not bool(log_prior_shift(read(ROWS), read(ROWS)).any())

    def test_the_columns_of_a_table_are_the_classes(self) -> None:
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(ROWS, index=[3, 0, 1, 4, 2])  # what its rows are called is nothing
        logits = torch.randn(5, 3)
        expected = shift_logits(logits, [6, 3, 1], ROWS)
        for order in ([0, 1, 2], [2, 0, 1]):
            torch.testing.assert_close(shift_logits(logits, [6, 3, 1], table[order]), expected)
            torch.testing.assert_close(log_prior_shift(table[order], [6, 3, 1]), -log_prior_shift([6, 3, 1], ROWS))
            shifted = PriorShift(nn.Identity(), [6, 3, 1], table[order])
            torch.testing.assert_close(shifted(logits), expected)
            torch.testing.assert_close(Correction([6, 3, 1], table[order])(logits), expected)
            torch.testing.assert_close(Correction([6, 3, 1])(logits, target_prior=table[order]), expected)
        for columns in (list("abc"), ["0", "1", "2"], [1, 2, 3], [0, 1, 1]):
            named = table.set_axis(columns, axis=1)
            with pytest.raises(ValueError, match=r"`to_prior` is a table with the columns .* pass `\.to_numpy\(\)`"):
                shift_logits(logits, [6, 3, 1], named)
            torch.testing.assert_close(shift_logits(logits, [6, 3, 1], named.to_numpy()), expected)
        polars = pytest.importorskip("polars")  # whose columns have names
        with pytest.raises(ValueError, match="table with the columns 'column_0'"):
            shift_logits(logits, [6, 3, 1], polars.DataFrame(np.array(ROWS)))

    def test_sites_of_several_mixes_are_right_again(self) -> None:
        # Two Gaussians seen at three sites: the posterior under one mix becomes that of each sample's own site.
        x, site = torch.linspace(-3, 3, 60, dtype=torch.float64), torch.arange(60) % 3
        mixes = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.05, 0.95]], dtype=torch.float64)
        likelihood = torch.stack([torch.exp(-((x - m) ** 2) / 2) for m in (-1.0, 1.0)], dim=1)
        trained = (likelihood * torch.tensor([0.7, 0.3])).log()
        joint = likelihood * mixes[site]
        moved = shift_logits(trained, [7, 3], mixes[site]).softmax(1)
        torch.testing.assert_close(moved, joint / joint.sum(1, keepdim=True))

    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            (
                ROWS[:4],
                {},
                r"a row, on dim 0, for each of the 4 rows of the prior, .* shape \[4, 3\], but have .* \[5, 3\]",
            ),
            (ROWS[:1], {}, "for each of the 1 rows"),
            ([row[:2] for row in ROWS], {}, "one number a class each, but have 3 and 2"),
            (
                [*ROWS[:4], [1, 0, 1]],
                {},
                r"`to_prior` must be positive and finite, but row 4 has 0.0 for class 1.*1e-9",
            ),
            ([*ROWS[:4], [1, math.nan, 1]], {}, "row 4 has nan for class 1"),
            ([*ROWS[:4], [1, -1, 1]], {}, "row 4 has -1.0 for class 1"),
            ([[ROWS[0]]], {}, r"`to_prior` must hold one number a class, shape \[C\], but has shape \[1, 1, 3\]"),
            ([[True] * 3] * 5, {}, "`to_prior` must "),
        ],
    )
    def test_shapes_that_do_not_fit(self, rows: list, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            shift_logits(torch.zeros(5, 3), [6, 3, 1], rows, **options)

    def test_rows_are_on_the_first_dimension(self) -> None:
        with pytest.raises(ValueError, match=r"`logits` must have a row, on dim 0, .* with classes on dim 0"):
            shift_logits(torch.zeros(3, 3), [6, 3, 1], ROWS[:3], dim=0)
        with pytest.raises(ValueError, match="`from_prior` and `to_prior` must have as many rows, but have 4 and 5"):
            shift_logits(torch.zeros(5, 3), ROWS[:4], ROWS)

    def test_compiles_without_a_break_and_exports(self) -> None:
        logits, rows = torch.randn(5, 3), torch.tensor(ROWS)
        for target in (rows, rows[1]):
            compiled = torch.compile(shift_logits, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(logits, [6, 3, 1], target), shift_logits(logits, [6, 3, 1], target))


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            (([5, 0, 1], [1, 1, 1]), {}, r"`from_prior` must be positive, but class 1 has 0 .*counts\.clamp\(min=1\)"),
            (([5, 1, 1], [1, 1, 0]), {}, "`to_prior` must be positive, but class 2 has 0"),
            (([5, 3, 2], [0.5, 0.5, 0.0]), {}, r"`to_prior` .* class 2 has 0 .*`prior\.clamp\(min=1e-9\)`"),
            (("train", [1, 1, 1]), {}, "`from_prior` must hold one number a class, but cannot be read"),
            (([5, 3, 2], None), {}, "`to_prior` must hold one number a class, but cannot be read"),
            (([5, 3, 2], [1, 1, 1]), {"strength": "auto"}, "`strength` must be one number, but is 'auto'"),
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

    @pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
    def test_a_strength_that_is_no_number(self, strength: float) -> None:
        with pytest.raises(ValueError, match=r"`strength` must be finite, but is (nan|-?inf)\. 0 leaves"):
            shift_logits(torch.zeros(2, 3), [3, 2, 1], [1, 1, 1], strength)
        with pytest.raises(ValueError, match="`strength` must be finite"):
            PriorShift(nn.Identity(), [3, 2, 1], strength=strength)
        model = PriorShift(nn.Identity(), [3, 2, 1])
        before = model.shift.clone()
        with pytest.raises(ValueError, match="`strength` must be finite"):
            model.retarget([1, 2, 3], strength=strength)
        assert torch.equal(model.shift, before)
        assert float(model.strength) == 1.0

    @pytest.mark.parametrize("logits", [None, SimpleNamespace(logits=torch.zeros(2, 3)), [[1.0], [1.0, 2.0]]])
    def test_what_is_no_array(self, logits: object) -> None:
        with pytest.raises(ValueError, match=r"`logits` must be a tensor or an array of numbers.* `\.logits`"):
            shift_logits(logits, [3, 2, 1], [1, 1, 1])

    @pytest.mark.parametrize(("shape", "dim"), [((3,), 1), ((2, 3), 2), ((2, 3), -3)])
    def test_a_dimension_that_is_not_there(self, shape: tuple[int, ...], dim: int) -> None:
        with pytest.raises(ValueError, match=rf"`logits` must have 3 classes on dim {dim}"):
            shift_logits(torch.zeros(shape), [3, 2, 1], [1, 1, 1], dim=dim)

    def test_only_the_form_is_looked_at(self) -> None:
        # Probabilities go through, and so does what is not on any device: the shift waits for no number.
        moved = shift_logits(torch.full((4, 2), 0.5), [3, 1], [1, 1])
        assert moved[0].tolist() == pytest.approx([0.5 + math.log(2 / 3), 0.5 + math.log(2)])
        assert shift_logits(torch.zeros(4, 2, device="meta"), [3, 1], [1, 1]).shape == (4, 2)
        batched = torch.func.vmap(lambda z: shift_logits(z, [3, 1], [1, 1], dim=0))(torch.full((4, 2), 0.5))
        torch.testing.assert_close(batched, moved)

    def test_integers_would_round_the_shift(self) -> None:
        with pytest.raises(ValueError, match=r"`logits` must be floating point, but are torch\.int64"):
            shift_logits(torch.zeros(2, 3).long(), [3, 2, 1], [1, 1, 1])


class TestProbabilityDomain:
    @given(LOGITS, PRIORS, PRIORS, st.floats(0.0, 2.0))
    def test_ic_as_it_is_printed(self, z: list[float], source: list[int], target: list[int], strength: float) -> None:
        # IC Eq. 6-7 with probabilities and powers, which float64 bears for four classes.
        d = softmax(z)
        r = [p * (b / sum(target)) / (a / sum(source)) for p, a, b in zip(d, source, target, strict=True)]
        r = [value / sum(r) for value in r]
        mixed = [p ** (1 - strength) * q**strength for p, q in zip(d, r, strict=True)]
        expected = [value / math.fsum(mixed) for value in mixed]
        got = shift_logits(row(z), source, target, strength).softmax(1)[0].tolist()
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)

    def test_8142_classes_and_huge_logits_do_not_underflow(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 1e4 * (2 * torch.rand(8, 8142, generator=generator) - 1)
        counts = torch.arange(1, 8143)
        for strength in (0.0, 0.5, 1.0, 3.0):
            moved = shift_logits(logits, counts, counts.flip(0), strength)
            expected = logits.double() + strength * (counts.flip(0).double().log() - counts.double().log())
            torch.testing.assert_close(moved.double(), expected, rtol=1e-6, atol=2e-3)
            assert bool(moved.log_softmax(1).isfinite().all())

    @given(LOGITS, PRIORS, st.integers(1, 100))
    def test_what_a_uniform_target_leaves_alone(self, z: list[float], counts: list[int], times: int) -> None:
        # The same decision for counts of any unit, and for an argmax of p(y | x) / p(y).
        moved = shift_logits(row(z), counts, [1, 1, 1, 1])
        torch.testing.assert_close(shift_logits(row(z), [times * n for n in counts], [7, 7, 7, 7]), moved)
        ratio = [p / n for p, n in zip(softmax(z), counts, strict=True)]
        assert ratio[int(moved.argmax())] == pytest.approx(max(ratio))
        balanced = shift_logits(row(z), [5, 5, 5, 5], [1, 1, 1, 1])
        assert torch.equal(balanced, row(z))


def one_peak(rise: list[int], fall: list[int]) -> list[float]:
    """Values that rise and then fall, by steps of which some are 0."""
    values = [0.0]
    for step in rise:
        values.append(values[-1] + step)
    for step in fall:
        values.append(values[-1] - step)
    return values


STEPS = st.lists(st.integers(0, 2), max_size=50)


class TestSearchStrength:
    @given(st.integers(0, 100))
    def test_finds_a_sharp_peak_in_few_calls(self, peak: int) -> None:
        calls: list[float] = []

        def score(strength: float) -> float:
            calls.append(strength)
            return -abs(strength - peak / 10)

        assert search_strength(score) == pytest.approx(peak / 10, abs=1e-9)
        assert len(set(calls)) == len(calls) <= 20
        assert all(call == round(call, 1) and 0 <= call <= 10 for call in calls)

    @given(STEPS, STEPS)
    def test_is_the_first_best_of_any_single_peak(self, rise: list[int], fall: list[int]) -> None:
        values = one_peak(rise, fall)
        values += [values[-1] - 1.0] * (101 - len(values))
        strength = search_strength(lambda s: values[round(10 * s)])
        best = max(values)
        assert values[round(10 * strength)] == best
        assert round(10 * strength) == values.index(best)

    @given(st.lists(st.floats(-1, 1), min_size=101, max_size=101))
    def test_never_worse_than_no_correction(self, values: list[float]) -> None:
        calls: list[int] = []

        def score(strength: float) -> float:
            calls.append(round(10 * strength))
            return values[calls[-1]]

        strength = search_strength(score)
        assert values[round(10 * strength)] >= values[0]
        assert len(set(calls)) == len(calls)
        if values[1] < values[0]:
            assert strength == 0.0
        else:
            assert values[round(10 * strength)] == max(values[k] for k in calls)

    def test_ends_of_the_range(self) -> None:
        assert search_strength(lambda s: s) == 10.0
        assert search_strength(lambda s: s, limit=3.0) == 3.0
        assert search_strength(lambda s: -s) == 0.0
        assert search_strength(lambda s: 1.0) == 0.0
        assert search_strength(lambda s: -((s - 0.25) ** 2), step=0.25, high=0.25, limit=0.25) == 0.25
        assert search_strength(lambda s: -abs(s - 0.3), step=0.1, high=0.3, limit=0.3) == 0.3
        assert search_strength(lambda s: -math.inf if s > 1 else s) == 1.0

    def test_the_best_strength_of_a_skewed_classifier(self) -> None:
        # Labels drawn under a uniform prior, logits with 1.4 times the log of another: undone by strength 1.4.
        generator = torch.Generator().manual_seed(0)
        z = 2 * torch.randn(4000, 4, generator=generator)
        labels = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
        skewed = shift_logits(z, [1, 1, 1, 1], [40, 20, 5, 1], 1.4)

        def likelihood(strength: float) -> float:
            return -float(
                torch.nn.functional.cross_entropy(shift_logits(skewed, [40, 20, 5, 1], [1] * 4, strength), labels)
            )

        assert search_strength(likelihood) == pytest.approx(1.4, abs=0.1)

    @pytest.mark.parametrize("method", ["paper", "peak", "grid"])
    def test_nan_is_an_error(self, method: str) -> None:
        with pytest.raises(ValueError, match=r"`score` must return a number, but is NaN at strength 0\.1"):
            search_strength(lambda s: math.nan if s else 0.0, method=method)
        with pytest.raises(ValueError, match=r"`score` must be one number, but is None\..* for strength"):
            search_strength(lambda s: None, method=method)

    @pytest.mark.parametrize(
        "options", [{"step": 0.0}, {"step": 3.0}, {"high": 11.0}, {"limit": math.inf}, {"step": math.nan}]
    )
    @pytest.mark.parametrize("method", ["paper", "peak", "grid"])
    def test_a_bad_grid_is_an_error(self, options: dict, method: str) -> None:
        with pytest.raises(ValueError, match="`step`, `high` and `limit` must be finite"):
            search_strength(lambda s: s, **options, method=method)

    @pytest.mark.parametrize("name", ["step", "high", "limit"])
    def test_what_is_no_number_is_an_error(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}` must be one number, but is '1'"):
            search_strength(lambda s: s, **{name: "1"})

    def test_another_method_is_an_error(self) -> None:
        with pytest.raises(ValueError, match='`method` must be "paper", "peak" or "grid", but is \'golden\''):
            search_strength(lambda s: s, method="golden")


def printed(values: list[float], high: int = 20, last: int = 100) -> int:
    """Algorithm 2 of IC as it is printed, by recursion, on indices: values beyond the list are those of its end."""

    def metric(k: int) -> float:
        return values[min(k, len(values) - 1)]

    def search(low: int, high: int) -> int:
        if low == high:
            return low
        if high == low + 1:
            return low if metric(low) >= metric(high) else high
        mid = (low + high) // 2
        if metric(mid) > metric(mid + 1) and metric(mid) > metric(mid - 1):
            return mid
        if metric(mid) > metric(mid + 1) and metric(mid) < metric(mid - 1):
            return search(low, mid - 1)
        return search(mid + 1, high)

    if metric(1) < metric(0):
        return 0
    while metric(high) >= metric(0) and high < last:
        high = min(high + 5, last)
    return search(0, high)


class TestPrintedSearch:
    @given(st.lists(st.integers(0, 3), min_size=101, max_size=101))
    def test_is_the_listing(self, values: list[int]) -> None:
        assert round(10 * search_strength(lambda s: values[round(10 * s)], method="paper")) == printed(values)

    @given(st.integers(0, 100))
    def test_finds_a_sharp_peak(self, peak: int) -> None:
        calls: list[float] = []

        def score(strength: float) -> float:
            calls.append(strength)
            return -abs(strength - peak / 10)

        assert search_strength(score, method="paper") == peak / 10
        assert len(set(calls)) == len(calls) <= 40  # the range grows in small steps

    def test_a_flat_part_misleads_it(self) -> None:
        values = [0.0, 0.5, 1.0, *[0.2] * 30, *[-1.0] * 70]
        strengths = {
            name: search_strength(lambda s: values[round(10 * s)], method=name) for name in ("paper", "peak", "grid")
        }
        assert strengths["paper"] > 2.0
        assert strengths["peak"] == strengths["grid"] == 0.2
        assert search_strength(lambda s: 1.0, method="paper", limit=3.0) == 3.0  # of a flat score the end


class TestStrengthGrid:
    @given(st.lists(st.integers(0, 5), min_size=31, max_size=31))
    def test_is_the_middle_of_the_best(self, values: list[int]) -> None:
        strength = search_strength(lambda s: values[round(10 * s)], limit=3.0, method="grid")
        best = [k for k in range(31) if values[k] == max(values)]
        k = round(10 * strength)
        assert k in best
        assert strength == k / 10
        below, above = sum(other < k for other in best), sum(other > k for other in best)
        assert (k == 0) if 0 in best else (above - below in (0, 1))

    @given(st.integers(0, 30))
    def test_agrees_with_the_paper_on_a_sharp_peak(self, peak: int) -> None:
        for limit in (3.0, 10.0):
            assert search_strength(lambda s: -abs(s - peak / 10), limit=limit, method="grid") == peak / 10

    def test_ends_of_the_range(self) -> None:
        assert search_strength(lambda s: s, method="grid") == 10.0
        assert search_strength(lambda s: -s, method="grid") == 0.0
        assert search_strength(lambda s: 1.0, method="grid") == 0.0  # nothing to gain
        assert search_strength(lambda s: -abs(s - 0.3), step=0.1, high=0.3, limit=0.3, method="grid") == 0.3

    def test_finds_on_a_ragged_curve_what_the_paper_misses(self) -> None:
        # Accuracy on 400 samples of a world that strength 1.4 puts right: one sample lost at the first step ends IC's.
        counts, uniform = [100, 30, 10, 3], [1, 1, 1, 1]
        labels = torch.arange(400) % 4
        missed, errors, gains = 0, [], []
        for seed in range(40):
            logits = torch.randn(400, 4, generator=torch.Generator().manual_seed(seed))
            logits[torch.arange(400), labels] += 1.5
            skewed = shift_logits(1.5 * logits, uniform, counts, 1.4)

            def accuracy(strength: float, skewed: Tensor = skewed) -> float:
                return float((shift_logits(skewed, counts, uniform, strength).argmax(1) == labels).double().mean())

            paper, grid = search_strength(accuracy), search_strength(accuracy, method="grid")
            missed += paper == 0.0
            errors.append(abs(grid - 1.4))
            gains.append(accuracy(grid) - accuracy(paper))
        assert missed >= 1
        assert max(errors) < 0.5
        assert min(gains) >= 0.0
        assert max(gains) > 0.2

    def test_the_curve_is_what_was_scored(self) -> None:
        strengths, scores = strength_curve(lambda s: torch.tensor(2 * s), step=0.1, limit=0.3)
        assert strengths == [0.0, 0.1, 0.2, 0.3]
        assert scores == pytest.approx([0.0, 0.2, 0.4, 0.6])
        assert len(strength_curve(float)[0]) == 101

    @pytest.mark.parametrize("options", [{"step": 0.0}, {"step": 0.5, "limit": 0.4}, {"limit": math.inf}])
    def test_a_bad_grid_of_the_curve_is_an_error(self, options: dict) -> None:
        with pytest.raises(ValueError, match="`step` and `limit` must be finite with 0 < step <= limit, but are"):
            strength_curve(float, **options)


@dataclass
class Output:
    """Of the form of transformers' outputs."""

    logits: Tensor
    loss: Tensor | None = None


Named = namedtuple("Named", "logits loss")
KINDS: dict[str, Callable[..., Any]] = {"object": Output, "dict": dict, "ordered": OrderedDict, "named tuple": Named}


class Answers(nn.Module):
    """A model whose answer is of some kind, and which keeps what it answered."""

    def __init__(self, kind: Callable[..., Any], name: str = "logits") -> None:
        super().__init__()
        self.kind, self.name = kind, name

    def forward(self, pixel_values: Tensor, scale: float = 1.0) -> Any:
        self.answered = self.kind(**{self.name: scale * pixel_values, "loss": torch.ones(())})
        return self.answered


class TestPriorShift:
    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    def test_an_answer_stays_what_it_is_but_for_its_logits(self, kind: Callable[..., Any]) -> None:
        logits = torch.randn(5, 3)
        model = Answers(kind)
        answer = PriorShift(model, [6, 3, 1])(pixel_values=logits, scale=2.0)
        expected = shift_logits(2 * logits, [6, 3, 1], [1, 1, 1])
        assert type(answer) is type(model.answered)
        read = (lambda each, name: each[name]) if isinstance(answer, dict) else getattr
        torch.testing.assert_close(read(answer, "logits"), expected)
        assert read(answer, "loss") is read(model.answered, "loss")
        assert torch.equal(read(model.answered, "logits"), 2 * logits)  # whoever keeps it sees what it was

    def test_logits_by_another_name(self) -> None:
        logits = torch.randn(2, 3, 4, 4)  # the segmentation models of torchvision
        answer = PriorShift(Answers(OrderedDict, "out"), [6, 3, 1], output="out")(logits)
        torch.testing.assert_close(answer["out"], shift_logits(logits, [6, 3, 1], [1, 1, 1]))

    @pytest.mark.parametrize(
        "kind", [lambda **parts: tuple(parts.values()), lambda **parts: {"out": 1}, lambda **parts: None, Output]
    )
    def test_an_answer_without_logits(self, kind: Callable[..., Any]) -> None:
        output = "scores" if kind is Output else "logits"
        with pytest.raises(ValueError, match=f"`model` must return logits, .* as `{output}`, .*`output=`"):
            PriorShift(Answers(kind), [6, 3, 1], output=output)(torch.randn(5, 3))

    def test_exports_what_is_called_by_keywords(self) -> None:
        model = PriorShift(Answers(dict), [6, 3, 1]).eval()
        logits = torch.randn(5, 3)
        program = torch.export.export(model, (), {"pixel_values": logits})
        torch.testing.assert_close(program.module()(pixel_values=logits), model(pixel_values=logits))

    @pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (2, 3, 4, 5)])
    def test_is_the_model_and_the_shift(self, shape: tuple[int, ...]) -> None:
        logits = torch.randn(shape)
        model = PriorShift(nn.Tanh(), [6, 3, 1], [1, 2, 3], strength=0.7)
        torch.testing.assert_close(model(logits), shift_logits(logits.tanh(), [6, 3, 1], [1, 2, 3], 0.7))
        uniform = PriorShift(nn.Tanh(), [6, 3, 1])
        torch.testing.assert_close(uniform(logits), shift_logits(logits.tanh(), [6, 3, 1], [1, 1, 1]))

    def test_is_retargeted_in_one_call(self) -> None:
        logits = torch.randn(5, 3)
        model = PriorShift(nn.Identity(), [6, 3, 1], strength=0.7)
        assert model.retarget([1, 2, 3]) is model
        torch.testing.assert_close(model(logits), shift_logits(logits, [6, 3, 1], [1, 2, 3], 0.7))
        model.retarget([6, 3, 1], strength=2.0)
        torch.testing.assert_close(model(logits), logits)
        model.retarget([3, 2, 1])
        torch.testing.assert_close(model(logits), shift_logits(logits, [6, 3, 1], [3, 2, 1], 2.0))

    def test_a_checkpoint_carries_everything(self) -> None:
        logits = torch.randn(5, 3)
        saved = PriorShift(nn.Linear(3, 3), [6, 3, 1], [1, 2, 3], strength=0.5)
        loaded = PriorShift(nn.Linear(3, 3), [1, 1, 1])
        loaded.load_state_dict(saved.state_dict())
        assert torch.equal(loaded(logits), saved(logits))
        assert torch.equal(loaded.retarget([1, 1, 8])(logits), saved.retarget([1, 1, 8])(logits))

    def test_keeps_type_and_trains_nothing_of_its_own(self) -> None:
        model = PriorShift(nn.Linear(4, 3), [6, 3, 1])
        assert {name for name, _ in model.named_parameters()} == {"model.weight", "model.bias"}
        assert model.bfloat16()(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
        half = PriorShift(nn.Identity(), [6, 3, 1])(torch.randn(2, 3).half())
        assert half.dtype == torch.float16

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_cast_of_the_model_costs_the_prior_nothing(self, dtype: torch.dtype) -> None:
        counts = [10**9, 10**5, 1]  # the last prior is 0 in half precision
        cast, plain = (PriorShift(nn.Linear(4, 3), counts, strength=1.3) for _ in range(2))
        outer = nn.Sequential(cast).to(dtype)
        assert cast.model.weight.dtype == dtype
        assert outer(torch.randn(2, 4, dtype=dtype)).dtype == dtype
        assert torch.equal(cast.retarget([1, 2, 3]).shift, plain.retarget([1, 2, 3]).shift)
        assert cast.state_dict().keys() == plain.state_dict().keys()

    def test_moves_with_the_model(self, device: torch.device) -> None:
        model = PriorShift(nn.Linear(4, 3), [6, 3, 1]).to(device)
        assert model.retarget(torch.tensor([1, 2, 3], device=device))(torch.randn(2, 4, device=device)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("model", "example", "more"),
        [
            (nn.Linear(4, 3), torch.randn(2, 4), torch.randn(7, 4)),
            (nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 5), torch.randn(7, 2, 4, 5)),
        ],
        ids=["classes", "maps"],
    )
    def test_exports(self, model: nn.Module, example: Tensor, more: Tensor, tmp_path: Path) -> None:
        shifted = PriorShift(model, [60, 30, 10], [1, 2, 3]).eval()
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.export.export(shifted, (example,), dynamic_shapes=(batch,))
        torch.testing.assert_close(program.module()(more), shifted(more))
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        path = tmp_path / "model.onnx"
        torch.onnx.export(program, (), str(path), dynamo=True, verbose=False)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for inputs in (example, more, more[:1]):
            (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
            torch.testing.assert_close(torch.from_numpy(outputs), shifted(inputs).detach(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 2)])
    def test_a_prior_with_every_batch(self, shape: tuple[int, ...]) -> None:
        logits = torch.randn(shape)
        model = PriorShift(Answers(dict), [6, 3, 1], [1, 2, 3], strength=0.7)
        for prior in ([2, 1, 1], np.array([0.2, 0.3, 0.5]), ROWS, torch.tensor(ROWS)):
            found = model(pixel_values=logits, target_prior=prior)["logits"]
            torch.testing.assert_close(found, shift_logits(logits, [6, 3, 1], prior, 0.7))
        expected = shift_logits(logits, [6, 3, 1], [1, 2, 3], 0.7)
        torch.testing.assert_close(model(logits)["logits"], expected)  # its own is what it was
        for prior, message in (
            (ROWS[:4], "for each of the 4 rows of the prior"),
            ([1, 1], "`target_prior` must hold one number for each of the 3 classes of `logits_prior`, but holds 2"),
            ([1, 1, 0], "`target_prior` must be positive"),
        ):
            with pytest.raises(ValueError, match=message):
                model(logits, target_prior=prior)

    def test_is_retargeted_to_a_prior_of_each_row_and_back(self) -> None:
        logits = torch.randn(5, 3)
        model = PriorShift(nn.Identity(), [6, 3, 1], ROWS)
        torch.testing.assert_close(model(logits), shift_logits(logits, [6, 3, 1], ROWS))
        with pytest.raises(ValueError, match="for each of the 5 rows of the prior"):
            model(logits[:3])
        torch.testing.assert_close(model.retarget([1, 2, 3])(logits), shift_logits(logits, [6, 3, 1], [1, 2, 3]))

    def test_the_shift_of_an_exported_program_may_be_changed(self) -> None:
        model, images = PriorShift(nn.Linear(4, 3), [6, 3, 1]).eval(), torch.randn(5, 4)
        program = torch.export.export(model, (images,)).module()
        program.shift.copy_(model.retarget([1, 2, 9]).shift)
        torch.testing.assert_close(program(images), model(images))

    @pytest.mark.parametrize("rows", [False, True], ids=["one prior", "a prior a row"])
    def test_the_target_is_an_input_of_an_exported_model(self, rows: bool, tmp_path: Path) -> None:
        model, images = PriorShift(nn.Linear(4, 3), [60, 30, 10], strength=0.7).eval(), torch.randn(5, 4)
        prior, batch = torch.tensor(ROWS if rows else [0.2, 0.3, 0.5]), torch.export.Dim("batch", min=1)
        dynamic = {"inputs": {0: batch}, "target_prior": {0: batch} if rows else None}
        program = torch.export.export(model, (images,), {"target_prior": prior}, dynamic_shapes=dynamic)
        more, others = torch.randn(7, 4), torch.rand(7, 3) + 0.1 if rows else torch.tensor([0.7, 0.2, 0.1])
        wanted = shift_logits(model.model(more), [60, 30, 10], others, 0.7).detach()
        torch.testing.assert_close(program.module()(more, target_prior=others).detach(), wanted)
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        path = tmp_path / "model.onnx"
        torch.onnx.export(
            *(model, (images,), str(path)),
            kwargs={"target_prior": prior},
            dynamo=True,
            verbose=False,
            dynamic_shapes=dynamic,
            input_names=["images", "target_prior"],
        )
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [each.name for each in session.get_inputs()] == ["images", "target_prior"]
        (found,) = session.run(None, {"images": more.numpy(), "target_prior": others.numpy()})
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="`logits_prior` must be positive, but class 1 has 0"):
            PriorShift(nn.Identity(), [3, 0])
        with pytest.raises(ValueError, match=r"`target_prior` must .* each of the 2 classes .* holds 3"):
            PriorShift(nn.Identity(), [3, 1], [1, 1, 1])
        with pytest.raises(ValueError, match="`logits_prior` must hold one number a class"):
            PriorShift(nn.Identity(), None)
        with pytest.raises(ValueError, match="`strength` must be one number, but is 'auto'"):
            PriorShift(nn.Identity(), [3, 1], strength="auto")
        model = PriorShift(nn.Identity(), [3, 1])
        with pytest.raises(ValueError, match=r"`prior` must .* each of the 2 classes .* holds 3"):
            model.retarget([1, 1, 1])
        before = model.shift.clone()
        with pytest.raises(ValueError, match="must be positive, but class 0 has 0"):
            model.retarget([0, 1], strength=9.0)
        assert torch.equal(model.shift, before)
        assert float(model.strength) == 1.0
        with pytest.raises(ValueError, match=r"`model` must return .* \[N, 2, \.\.\.\].* shape \[4, 3\]"):
            model(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "view",
    [lambda z: z[:, ::-1], lambda z: z.astype(">f8"), lambda z: np.broadcast_to(z[:1], z.shape)],
    ids=["backwards", "big-endian", "read-only"],
)
def test_arrays_of_any_making_are_read(view: Callable[[Any], Any]) -> None:
    array = view(np.random.default_rng(0).normal(size=(5, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = shift_logits(array, [1, 2, 3], [3, 2, 1])
    np.testing.assert_allclose(found, np.array(array, dtype=float) + np.log([3, 1, 1 / 3]))
