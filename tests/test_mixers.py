"""Mixers against plain loops, their laws against Beta's distribution function, and the papers' numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ltaug import (
    BetweenClass,
    ClassPowerSampler,
    CutMix,
    ManifoldMixUp,
    MixUp,
    PairSampler,
    PriorCorrectedLoss,
    ReMix,
    UniMix,
    exponential_counts,
)
from ltaug.analysis import effective_prior
from ltaug.mixers import Mixer, OccurrenceMixUp, _base
from ltaug.mixers.functional import dense_targets, mix, unimix_factor

stats = pytest.importorskip("scipy.stats")

SURE = 1e-4
"""A p-value below it refutes; the generator is seeded before every test, so that a test passes always or never."""
EVERY = [
    MixUp(3),
    CutMix(3, dims=(-1,)),
    UniMix([5, 3, 2]),
    UniMix([5, 3, 2], in_batch_tau=0.5),
    ReMix([5, 3, 2]),
    BetweenClass(3, 16000),
    BetweenClass(3, 16000, ratio=UniMix([5, 3, 2]), different_classes=True),
    ManifoldMixUp(3, layers=["input"]),
    OccurrenceMixUp([5, 3, 2]),
]
"""Every mixer, for three classes."""
SHAPES = [(5,), (5, 3), (5, 3, 2), (5, 2, 4, 3), (5, 2, 3, 2, 2)]


class Fixed(Mixer):
    """A mixer with known weights and partners."""

    def __init__(self, num_classes: int, lam: list[float], chosen: list[int]) -> None:
        super().__init__(num_classes)
        self.lam = torch.tensor(lam)
        self.chosen = torch.tensor(chosen)

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        return self.lam.to(targets.device)

    def partners(self, targets: Tensor) -> Tensor:
        return self.chosen.to(targets.device)


def naive_mix(x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Number by number, in Python's float64."""
    rows = [
        [w * a + (1 - w) * b for a, b in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)]
        for p, q, w in zip(x, y, lam.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64).view(x.shape)


def naive_dense(labels: list[int], partners: list[int], lam: list[float], num_classes: int) -> list[list[float]]:
    rows = [[0.0] * num_classes for _ in labels]
    for row, i, j, w in zip(rows, labels, partners, lam, strict=True):
        row[i] += w
        row[j] += 1 - w
    return rows


def xi_cdf(x: np.ndarray, r: float, alpha: float) -> np.ndarray:
    """P((B + r) mod 1 <= x), B ~ Beta(alpha, alpha)."""
    below = stats.beta(alpha, alpha).cdf
    return below(np.minimum(1.0, 1.0 - r + x)) - below(1.0 - r) + below(np.maximum(0.0, x - r))


def farthest(draws: Tensor, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """Largest distance to a distribution function, as a multiple of what SURE allows (Dvoretzky-Kiefer-Wolfowitz).

    Read off at odd places away from 0 and 1: where the law has no bound, float32 rounds many draws to one number.
    """
    grid = np.linspace(0.00123, 0.99877, 996)
    empirical = np.searchsorted(np.sort(draws.double().cpu().numpy()), grid, side="right") / len(draws)
    allowed = math.sqrt(math.log(2 / SURE) / (2 * len(draws)))
    return float(np.abs(empirical - cdf(grid)).max()) / allowed


class TestMix:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_is_the_formula(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        x, y = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        lam = torch.rand(5, device=device)
        mixed = mix(x, y, lam)
        assert mixed.dtype == dtype
        tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
        expected = naive_mix(x.cpu(), y.cpu(), lam.to(dtype).cpu())
        torch.testing.assert_close(mixed.double().cpu(), expected, rtol=tolerance, atol=tolerance)

    def test_ends(self) -> None:
        x, y = torch.randn(4, 3), torch.randn(4, 3)
        assert torch.equal(mix(x, y, torch.ones(4)), x)
        assert torch.equal(mix(x, y, torch.zeros(4)), y)
        torch.testing.assert_close(mix(x, x, torch.rand(4)), x)

    def test_keeps_the_memory_format_and_the_arguments(self) -> None:
        x, y = (torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(2))
        before = x.clone(), y.clone()
        assert mix(x, y, torch.rand(2)).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, before[0])
        assert torch.equal(y, before[1])

    def test_gradient_reaches_both(self) -> None:
        x, y = (torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
        lam = torch.tensor([0.25, 0.75], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda a, b: mix(a, b, lam), (x, y))

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match=r"must have the same shape, but have \[2, 3\] and \[2, 4\]"):
            mix(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))


class TestDenseTargets:
    def test_indices_of_any_rank(self) -> None:
        targets = torch.randint(4, (3, 2, 5))
        dense = dense_targets(targets, 4)
        assert dense.shape == (3, 4, 2, 5)
        torch.testing.assert_close(dense, F.one_hot(targets, 4).movedim(-1, 1).float())

    def test_probabilities_pass(self) -> None:
        probabilities = torch.rand(3, 4)
        assert dense_targets(probabilities, 4) is probabilities

    @pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 5, 4)])
    def test_probabilities_of_other_classes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(
            ValueError, match=r"class indices \[N, \.\.\.\] or probabilities \[N, 4, \.\.\.\], but are torch"
        ):
            dense_targets(torch.rand(shape), 4)


class TestUniMixFactor:
    @given(st.floats(0.0, 1.0), st.integers(0, 5000), st.integers(0, 5000))
    def test_is_the_formula(self, draw: float, n_i: int, n_j: int) -> None:
        if n_i + n_j == 0:
            return
        r = n_j / (n_i + n_j)
        expected = draw + r if draw + r < 1 else draw + r - 1
        actual = unimix_factor(*(torch.tensor([value], dtype=torch.float64) for value in (draw, n_i, n_j))).item()
        assert 0.0 <= actual < 1.0
        # around the circle: 0 and 1 are neighbours
        distance = abs(actual - expected)
        assert min(distance, 1 - distance) < 1e-12

    @given(st.floats(0.0, 1.0, width=32), st.integers(1, 5000), st.integers(1, 5000))
    def test_is_below_1_in_float32_too(self, draw: float, n_i: int, n_j: int) -> None:
        factor = unimix_factor(torch.tensor([draw]), torch.tensor([n_i]), torch.tensor([n_j]))
        assert factor.dtype == torch.float32
        assert 0.0 <= factor.item() < 1.0

    @pytest.mark.parametrize(
        ("alpha", "table"),
        [
            (0.8, {0.01: 0.488, 0.1: 0.455, 0.25: 0.443, 0.5: 0.5, 0.75: 0.557, 0.9: 0.545, 0.99: 0.512}),
            (0.5, {0.01: 0.443, 0.1: 0.359, 0.25: 0.333, 0.5: 0.5, 0.75: 0.667, 0.9: 0.641, 0.99: 0.557}),
        ],
    )
    def test_how_often_the_first_class_owns_the_sample(self, alpha: float, table: dict[float, float]) -> None:
        size = 200_000
        for r, expected in table.items():
            exact = 1 - float(xi_cdf(np.array(0.5), r, alpha))
            assert round(exact, 3) == expected
            counts = [round(1000 * (1 - r)), round(1000 * r)]  # n_i, n_j
            weights = UniMix(counts, alpha).weights(torch.zeros(size).long(), torch.ones(size).long())
            owned = float((weights >= 0.5).double().mean())
            assert abs(owned - exact) < 5 * math.sqrt(exact * (1 - exact) / size), r
            # Its mean, on which the effective prior rests: 1/2 + r - P(B >= 1 - r)
            mean = 0.5 + r - stats.beta(alpha, alpha).cdf(r)
            assert abs(float(weights.double().mean()) - mean) < 5 * float(weights.std()) / math.sqrt(size), r

    @pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 2.0])
    @pytest.mark.parametrize("counts", [(1, 1), (1, 99), (99, 1), (3, 1)])
    def test_follows_its_whole_law(self, alpha: float, counts: tuple[int, int]) -> None:
        weights = UniMix(counts, alpha).weights(torch.zeros(100_000).long(), torch.ones(100_000).long())
        r = counts[1] / sum(counts)
        assert farthest(weights, lambda x: xi_cdf(x, r, alpha)) < 1
        assert farthest(weights, lambda x: xi_cdf(x, (r + 0.1) % 1, alpha)) > 1

    @pytest.mark.parametrize("counts", [(7, 7), (1, 99)])
    def test_alpha_1_is_uniform_whatever_the_counts(self, counts: tuple[int, int]) -> None:
        weights = UniMix(counts, alpha=1.0).weights(torch.zeros(20_000).long(), torch.ones(20_000).long())
        assert farthest(weights, lambda x: x) < 1

    def test_of_equal_counts_is_mixup_half_a_turn_away(self) -> None:
        weights = UniMix([5, 5], alpha=0.4).weights(torch.zeros(20_000).long(), torch.ones(20_000).long())
        assert farthest(torch.remainder(weights + 0.5, 1.0), stats.beta(0.4, 0.4).cdf) < 1

    def test_leans_to_the_rarer_class_from_either_side(self) -> None:
        mixer = UniMix([90, 10], alpha=0.2)
        common, rare = torch.zeros(50_000).long(), torch.ones(50_000).long()
        exact = 1 - float(xi_cdf(np.array(0.5), 0.9, 0.2))
        assert exact > 0.75
        for share in ((mixer.weights(rare, common) >= 0.5), (mixer.weights(common, rare) < 0.5)):
            assert abs(float(share.double().mean()) - exact) < 5 * math.sqrt(exact * (1 - exact) / 50_000)


class TestOccurrenceMixUpWeights:
    @pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
    def test_have_the_mean_that_is_said(self, alpha: float) -> None:
        mixer = OccurrenceMixUp([500, 60, 5], alpha)
        means = mixer.expected_weights()
        for i, j in ((0, 2), (2, 0), (1, 2), (1, 1)):
            share = mixer.class_counts[j] / (mixer.class_counts[i] + mixer.class_counts[j])
            lam = stats.beta(alpha, alpha)
            exact = lam.expect(lambda x, s=float(share): x * s / (x * s + (1 - x) * (1 - s)))
            assert means[i, j].item() == pytest.approx(exact, abs=1e-4)
            weights = mixer.weights(torch.full((50_000,), i), torch.full((50_000,), j))
            assert weights.mean().item() == pytest.approx(exact, abs=0.01)
        # E[lam'_ij] + E[lam'_ji] = 1: it is symmetric, whichever sample comes first.
        assert torch.allclose(means + means.T, torch.ones(3, 3, dtype=torch.float64), atol=1e-6)


class TestMixUpWeights:
    @pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 4.0])
    def test_are_beta(self, alpha: float, device: torch.device) -> None:
        labels = torch.zeros(100_000, device=device).long()
        weights = MixUp(3, alpha).weights(labels, labels)
        assert weights.dtype == torch.float32
        assert bool(((weights >= 0) & (weights <= 1)).all())
        assert farthest(weights, stats.beta(alpha, alpha).cdf) < 1
        assert farthest(weights, stats.beta(alpha * 1.2, alpha * 1.2).cdf) > 1

    @pytest.mark.parametrize("alpha", [0.001, 0.2, 1.0, 4.0])
    def test_are_the_draws_of_torchs_own_beta(self, alpha: float, device: torch.device) -> None:
        labels = torch.zeros(1000, device=device).long()
        torch.manual_seed(0)
        weights = MixUp(3, alpha).weights(labels, labels)
        torch.manual_seed(0)
        parameter = torch.full((1000,), alpha, device=device)
        assert torch.equal(weights, torch.distributions.Beta(parameter, parameter).sample())

    def test_one_a_pair(self) -> None:
        _, targets = MixUp(2)(torch.zeros(64, 1), torch.zeros(64).long(), torch.zeros(64, 1), torch.ones(64).long())
        assert targets[:, 0].unique().numel() == 64


class TestMixing:
    LAM = (0.3, 1.0, 0.0, 0.5, 0.9)
    CHOSEN = (1, 1, 4, 0, 2)

    def fixed(self) -> Fixed:
        return Fixed(4, list(self.LAM), list(self.CHOSEN))

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("given_partners", [False, True])
    def test_inputs_and_targets_are_the_formula(
        self, shape: tuple[int, ...], given_partners: bool, device: torch.device
    ) -> None:
        inputs, labels = torch.randn(shape, device=device), torch.tensor([0, 3, 2, 2, 1], device=device)
        partner_inputs, partner_labels = inputs[list(self.CHOSEN)], labels[list(self.CHOSEN)]
        arguments = (partner_inputs, partner_labels) if given_partners else ()
        copies = [tensor.clone() for tensor in (inputs, labels, *arguments)]
        mixed, targets = self.fixed()(inputs, labels, *arguments)
        assert (mixed.dtype, mixed.shape, targets.shape) == (inputs.dtype, inputs.shape, (5, 4))
        expected = naive_mix(inputs.cpu(), partner_inputs.cpu(), torch.tensor(self.LAM))
        torch.testing.assert_close(mixed.double().cpu(), expected, rtol=1e-6, atol=1e-6)
        dense = naive_dense(labels.tolist(), partner_labels.tolist(), list(self.LAM), 4)
        torch.testing.assert_close(targets.cpu(), torch.tensor(dense))
        for tensor, before in zip((inputs, labels, *arguments), copies, strict=True):
            assert torch.equal(tensor, before)

    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x.transpose(1, 3),
            lambda x: x[:, :, ::2],
            lambda x: x[:, :1].expand(-1, 3, -1, -1),
            lambda x: x.contiguous(memory_format=torch.channels_last),
        ],
        ids=["transposed", "strided", "expanded", "channels last"],
    )
    def test_any_layout_in_memory_mixes_the_same(self, view: Callable[[Tensor], Tensor]) -> None:
        inputs, labels = view(torch.randn(5, 3, 6, 4)), torch.arange(5) % 4
        before = inputs.clone()
        mixed, _ = self.fixed()(inputs, labels)
        torch.testing.assert_close(mixed, naive_mix(inputs, inputs[list(self.CHOSEN)], torch.tensor(self.LAM)).float())
        assert torch.equal(inputs, before)

    def test_targets_of_two_precisions(self) -> None:
        inputs, labels = torch.randn(5, 2), torch.arange(5) % 4
        one_hot = F.one_hot(labels, 4)
        expected = self.fixed()(inputs, labels, inputs, labels.flip(0))[1]
        for first, second in ((one_hot.double(), labels), (one_hot.float(), one_hot.double())):
            partner = second.flip(0)
            _, targets = self.fixed()(inputs, first, inputs, partner)
            torch.testing.assert_close(targets, expected.double())

    def test_weight_1_is_the_identity_and_weight_0_the_partner(self) -> None:
        inputs, labels = torch.randn(5, 3), torch.arange(5) % 4
        chosen = [2, 3, 4, 0, 1]
        mixed, targets = Fixed(4, [1.0] * 5, chosen)(inputs, labels)
        assert torch.equal(mixed, inputs)
        assert torch.equal(targets, F.one_hot(labels, 4).float())
        mixed, targets = Fixed(4, [0.0] * 5, chosen)(inputs, labels)
        assert torch.equal(mixed, inputs[chosen])
        assert torch.equal(targets, F.one_hot(labels[chosen], 4).float())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_keeps_type_and_memory_format(self, dtype: torch.dtype) -> None:
        inputs = torch.rand(5, 3, 4, 4).to(dtype).contiguous(memory_format=torch.channels_last)
        labels = torch.arange(5) % 4
        for arguments in ((), (inputs.clone(), labels)):
            mixed, targets = MixUp(4)(inputs, labels, *arguments)
            assert mixed.dtype == dtype
            assert mixed.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(targets.sum(1), torch.ones(5))

    @pytest.mark.parametrize("mixer", [MixUp(4, 0.5), UniMix([40, 30, 20, 10], 0.5)], ids=repr)
    def test_forms_of_targets_agree(self, mixer: Mixer) -> None:
        inputs, labels = torch.randn(7, 2), torch.randint(4, (7,))
        forms = (labels, labels.int(), F.one_hot(labels, 4).float())
        results = []
        for first in forms:
            for second in forms:
                torch.manual_seed(5)
                results.append(mixer(inputs, first, inputs.flip(0), second.flip(0)))
        for mixed, targets in results:
            torch.testing.assert_close(mixed, results[0][0])
            torch.testing.assert_close(targets, results[0][1])

    def test_dense_prediction(self) -> None:
        inputs, labels = torch.randn(5, 2, 3, 3), torch.randint(4, (5, 3, 3))
        _, targets = self.fixed()(inputs, labels)
        assert targets.shape == (5, 4, 3, 3)
        for n in range(5):
            for y in range(3):
                for x in range(3):
                    pair = [int(labels[n, y, x])], [int(labels[self.CHOSEN[n], y, x])]
                    (expected,) = naive_dense(*pair, [self.LAM[n]], 4)
                    assert targets[n, :, y, x].tolist() == pytest.approx(expected)

    def test_partners_in_the_batch_are_a_permutation_of_it(self) -> None:
        class Partner(Mixer):
            def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
                return torch.zeros(len(targets))

        inputs = torch.arange(50.0).view(50, 1)
        mixed, _ = Partner(2)(inputs, torch.zeros(50).long())
        assert mixed[:, 0].sort().values.tolist() == inputs[:, 0].tolist()
        assert not torch.equal(mixed, inputs)

    @pytest.mark.parametrize("mixer", [MixUp(3), UniMix([3, 2, 1]), UniMix([3, 2, 1], in_batch_tau=0.5)], ids=repr)
    def test_a_batch_of_one_mixes_with_itself(self, mixer: Mixer) -> None:
        inputs = torch.randn(1, 3, 2, 2)
        mixed, targets = mixer(inputs, torch.tensor([2]))
        assert torch.equal(mixed, inputs)
        torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))

    @pytest.mark.parametrize("mixer", [MixUp(3), UniMix([3, 2, 1]), UniMix([3, 2, 1], in_batch_tau=0.5)], ids=repr)
    def test_draws_from_torchs_global_generator_only(self, mixer: Mixer, device: torch.device) -> None:
        inputs, labels = torch.randn(16, 4, device=device), torch.randint(3, (16,), device=device)
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(mixer(inputs, labels))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        assert not torch.equal(results[0][0], results[2][0])

    def test_a_mixer_of_ones_own_says_what_it_lacks(self) -> None:
        with pytest.raises(NotImplementedError):
            Mixer(3)(torch.zeros(2, 1), torch.zeros(2).long())

    def test_repr_makes_the_same_again(self) -> None:
        assert repr(eval(repr(MixUp(5, 0.2)))) == repr(MixUp(5, 0.2)) == "MixUp(num_classes=5, alpha=0.2)"
        assert repr(UniMix([2, 1], 0.5, in_batch_tau=0.9)) == "UniMix(num_classes=2, alpha=0.5, in_batch_tau=0.9)"


class TestMixingWithALoss:
    @pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
    @pytest.mark.parametrize(
        "loss_of",
        [
            lambda reduction: PriorCorrectedLoss([70, 20, 9, 1], reduction=reduction),
            lambda r: torch.nn.CrossEntropyLoss(reduction=r),
        ],
        ids=["bayias", "cross_entropy"],
    )
    def test_is_the_mixture_of_the_losses_pair_by_pair(self, shape: tuple[int, ...], loss_of: Callable) -> None:
        # UniMix Eq. 11: xi* L(y_i, F(x)) + (1 - xi*) L(y_j, F(x)) with one xi* a pair
        lam = torch.rand(6)
        logits = torch.randn(6, 4, *shape)
        labels, partners = torch.randint(4, (6, *shape)), torch.randint(4, (6, *shape))
        inputs = torch.zeros(6, 1)
        _, targets = Fixed(4, lam.tolist(), [0] * 6)(inputs, labels, inputs, partners)
        each = loss_of("none")
        w = lam.view(-1, *[1] * len(shape))
        expected = w * each(logits, labels) + (1 - w) * each(logits, partners)
        torch.testing.assert_close(each(logits, targets), expected)
        torch.testing.assert_close(loss_of("mean")(logits, targets), expected.mean())
        torch.testing.assert_close(loss_of("sum")(logits, targets), expected.sum())


class TestLabelOccurrence:
    """LOB's gamma_max / gamma_min on CIFAR-10-LT with ratio 10, as the mixed targets have it."""

    @pytest.mark.parametrize(
        ("first", "second", "ratio"),
        [(1.0, 1.0, 10.0), (1.0, 0.0, 2.77), (0.5, 0.5, 3.16), (0.0, 0.0, 1.0)],
        ids=["IB+IB", "IB+CB", "square root", "CB+CB"],
    )
    @pytest.mark.parametrize("alpha", [1.0, 0.2])
    def test_ratio(self, first: float, second: float, ratio: float, alpha: float) -> None:
        size = 200_000
        labels = torch.repeat_interleave(torch.arange(10), exponential_counts(5000, 10, 10))
        samplers = [ClassPowerSampler(labels, tau, num_samples=size, seed=1) for tau in (first, second)]
        i, j = labels[PairSampler(*samplers).indices()].T
        blank = torch.zeros(size, 1)
        _, targets = MixUp(10, alpha)(blank, i, blank, j)
        mass = targets.double().mean(0)
        # relative standard error of head / tail, as if both erred in opposite directions
        error = float(sum(targets[:, k].double().std() / mass[k] for k in (0, 9))) / math.sqrt(size)
        assert abs(float(mass[0] / mass[9]) / ratio - 1) < 5 * error + 0.005 / ratio
        assert error < 0.02


class TestUniMix:
    @pytest.mark.parametrize("tau", [1.0, 0.5, 0.9, -1.0])
    def test_partners_in_the_batch_follow_the_released_code(self, tau: float) -> None:
        # drawn with repetition, each sample with weight n^(tau - 1)
        counts = [600, 90, 10]
        labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 9)
        mixer = UniMix(counts, in_batch_tau=tau)
        chosen = torch.cat([mixer.partners(labels) for _ in range(500)])
        weight = [counts[y] ** (tau - 1) for y in labels.tolist()]
        observed = torch.bincount(chosen, minlength=64).tolist()
        expected = [w / sum(weight) * len(chosen) for w in weight]
        assert stats.chisquare(observed, expected).pvalue > SURE

    def test_uses_the_counts_of_both_labels(self, device: torch.device) -> None:
        counts = torch.tensor([100, 30, 5])
        labels, partners = torch.randint(3, (2, 200), device=device)
        torch.manual_seed(9)
        weights = UniMix(counts, alpha=0.3).weights(labels, partners)
        torch.manual_seed(9)
        draw = MixUp(3, alpha=0.3).weights(labels, partners)
        for w, b, i, j in zip(weights.tolist(), draw.tolist(), labels.tolist(), partners.tolist(), strict=True):
            expected = (b + int(counts[j]) / (int(counts[i]) + int(counts[j]))) % 1.0
            assert min(abs(w - expected), 1 - abs(w - expected)) < 1e-6

    def test_mixed_labels_count_as_their_expectation(self) -> None:
        mixer = UniMix([100, 50, 10], alpha=0.3)
        first = torch.tensor([[0.5, 0.5, 0.0]]).repeat(8, 1)
        second = torch.tensor([[0.0, 0.0, 1.0]]).repeat(8, 1)
        torch.manual_seed(3)
        weights = mixer.weights(first, second)
        torch.manual_seed(3)
        draw = MixUp(3, 0.3).weights(first, second)
        torch.testing.assert_close(weights, torch.remainder(draw + 10 / (75 + 10), 1.0))

    def test_an_empty_class_that_does_occur_counts_as_one_sample(self) -> None:
        labels = torch.ones(2000).long()
        for partners, r in ((labels, 0.5), (torch.zeros(2000).long(), 9 / 10)):
            torch.manual_seed(3)
            weights = UniMix([9, 0], alpha=0.3).weights(labels, partners)
            torch.manual_seed(3)
            draw = MixUp(2, 0.3).weights(labels, partners)
            torch.testing.assert_close(weights, torch.remainder(draw + r, 1.0))
        mixed, _ = UniMix([9, 0], in_batch_tau=-1.0)(torch.randn(2000, 1), labels)
        assert bool(mixed.isfinite().all())

    def test_an_empty_class_that_does_not_occur_is_no_hindrance(self) -> None:
        inputs = torch.randn(20, 2)
        for mixer in (UniMix([10, 0, 5]), UniMix([10, 0, 5], in_batch_tau=-1.0)):
            mixed, targets = mixer(inputs, torch.arange(20) % 2 * 2)
            assert bool(mixed.isfinite().all())
            assert bool((targets[:, 1] == 0).all())


class TestErrors:
    @pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
    @pytest.mark.parametrize("make", [lambda alpha: MixUp(3, alpha), lambda alpha: UniMix([1, 2], alpha)])
    def test_alpha(self, make: Callable[[float], Mixer], alpha: float) -> None:
        with pytest.raises(
            ValueError, match=r"`alpha` is the parameter of Beta\(alpha, alpha\) and must be positive, but is"
        ):
            make(alpha)

    def test_number_of_classes(self) -> None:
        with pytest.raises(ValueError, match="`num_classes` must be at least 1, but is 0"):
            MixUp(0)

    def test_counts(self) -> None:
        with pytest.raises(ValueError, match="`class_counts` must be positive for at least one class"):
            UniMix([0, 0])
        with pytest.raises(ValueError, match="`class_counts` must be whole numbers of samples"):
            UniMix([0.5, 0.5])  # type: ignore[list-item]

    X, Y = torch.zeros(4, 3), torch.zeros(4).long()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((X.to(torch.uint8), Y), r"`inputs` must be floating point to be mixed, but are torch\.uint8. Convert"),
            ((X, Y[:3]), r"must have one row a sample, but have shapes \[4, 3\] and \[3\]"),
            ((X, torch.tensor(1)), r"must have one row a sample, but have shapes \[4, 3\] and \[\]"),
            ((X, Y, X), "`partner_inputs` and `partner_targets` belong together: give both or neither"),
            ((X, Y, None, Y), "`partner_inputs` and `partner_targets` belong together"),
            ((X, Y, X[:3], Y[:3]), r"`partner_inputs` must have the shape of `inputs`, \[4, 3\], but have \[3, 3\]"),
            ((X, Y, X[:, :2], Y), r"`partner_inputs` must have the shape of `inputs`"),
            (
                (X, Y, X, Y[:3]),
                r"`inputs` and `partner_targets` must have one row a sample, but have shapes \[4, 3\] and \[3\]",
            ),
            (
                (X, Y, X, torch.zeros(5, 2)),
                r"`inputs` and `partner_targets` must have one row a sample, but have shapes \[4, 3\] and \[5, 2\]",
            ),
            (
                (X, Y, X, torch.tensor(0)),
                r"`inputs` and `partner_targets` must have one row a sample, but have shapes \[4, 3\] and \[\]",
            ),
            ((X, torch.zeros(4, 7)), r"`targets` must be (class indices|one class a sample).*shape \[4, 7\]"),
            (
                (X, torch.zeros(4)),
                r"`targets` must be (class indices|one class a sample).*torch\.float32 of shape \[4\]",
            ),
            ((X, Y, X, torch.zeros(4)), r"`targets` must be (class indices|one class a sample).*shape \[4\]"),
        ],
    )
    @pytest.mark.parametrize("mixer", [MixUp(2), UniMix([2, 1])], ids=["MixUp", "UniMix"])
    def test_batches(self, mixer: Mixer, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            mixer(*arguments)

    @pytest.mark.parametrize("in_batch_tau", [None, 0.5])
    def test_unimix_needs_one_class_a_sample(self, in_batch_tau: float | None) -> None:
        with pytest.raises(ValueError, match=r"one class a sample, \[N\] or \[N, 2\], since the factor compares"):
            UniMix([2, 1], in_batch_tau=in_batch_tau)(torch.zeros(4, 1, 2, 2), torch.zeros(4, 2, 2).long())


class TestLabelsOutsideTheClasses:
    """The message says which labels there are, not which index was out of bounds."""

    @pytest.mark.parametrize("label", [-100, -1, 3, 255])
    @pytest.mark.parametrize("mixer", EVERY, ids=str)
    def test_are_named(self, mixer: Mixer, label: int) -> None:
        inputs = torch.randn(4, 2, 300)
        good, bad = torch.tensor([0, 1, 2, 0]), torch.tensor([0, label, 2, 0])
        low, high = min(label, 0), max(label, 2)
        message = rf"must lie in 0\.\.2, the classes of the mixer, but range from {low} to {high}\. .*`targets - 1`"
        for dtype in (torch.int64, torch.int32 if label < 0 else torch.uint8):
            with pytest.raises(ValueError, match="`targets` " + message):
                mixer(inputs, bad.to(dtype))
        with pytest.raises(ValueError, match="`targets` " + message):
            mixer(inputs, bad, inputs, good)
        with pytest.raises(ValueError, match="`partner_targets` " + message):
            mixer(inputs, good, inputs, bad)
        assert mixer(inputs, good)[1].sum().item() == pytest.approx(4.0)

    @pytest.mark.parametrize("mixer", [MixUp(3), CutMix(3)], ids=str)
    def test_of_pixels_too(self, mixer: Mixer) -> None:
        inputs, targets = torch.randn(4, 1, 8, 8), torch.randint(3, (4, 8, 8))
        targets[2, 5, 5] = -100
        with pytest.raises(ValueError, match=r"`targets` must lie in 0\.\.2, .* range from -100 to 2"):
            mixer(inputs, targets)
        with pytest.raises(ValueError, match=r"`targets` must lie in 0\.\.2"):
            dense_targets(targets, 3)

    def test_other_errors_stay_what_they_are(self) -> None:
        with pytest.raises(RuntimeError, match="size"):
            Fixed(3, [0.5] * 3, [0, 1])(torch.zeros(2, 1), torch.tensor([0, 1]))

    def test_on_an_accelerator_only_the_first_batch_is_looked_at(self) -> None:
        class Elsewhere(Tensor):
            """Labels whose device it would take time to ask."""

            asked = 0
            device = torch.device("xpu")

            def aminmax(self) -> tuple[Tensor, Tensor]:
                type(self).asked += 1
                return self.as_subclass(Tensor).aminmax()

        mixer, targets = MixUp(3), torch.tensor([0, 3]).as_subclass(Elsewhere)
        with pytest.raises(ValueError, match=r"must lie in 0\.\.2"):
            mixer._look(targets)
        mixer._look(torch.tensor([0, 1]).as_subclass(Elsewhere))
        mixer._look(targets)
        assert Elsewhere.asked == 2


class TestDrawsWithoutTheOperator:
    """torch's draw from Beta is a private operator: compiled code and Apple's GPUs do without it."""

    @pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0, 30.0])
    def test_are_beta(self, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_base, "_DIRICHLET", None)
        draws = _base.beta_draws(alpha, 100_000, torch.device("cpu"))
        assert draws.dtype == torch.float32
        assert bool(draws.isfinite().all())
        edges = stats.beta.ppf(np.linspace(0.0, 0.5, 26), alpha, alpha)
        for side in (draws, 1.0 - draws):  # near 1 there are no floats to tell the draws apart
            below = np.histogram(side[side < 0.5].double(), edges.clip(0.0, 0.5))[0]
            few = (edges[1:] < 1e-6) if side is not draws else np.zeros(25, dtype=bool)
            observed = [*below[~few], 100_000 - below[~few].sum()]
            assert stats.chisquare(observed, [2000.0] * (~few).sum() + [100_000 - 2000.0 * (~few).sum()]).pvalue > SURE

    def test_small_weights_keep_their_digits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_base, "_DIRICHLET", None)
        draws = _base.beta_draws(0.2, 100_000, torch.device("cpu"))
        # P(lam < x) = x^0.2 / (0.2 B(0.2, 0.2)) for small x
        assert (draws < 1e-10).double().mean() == pytest.approx(stats.beta(0.2, 0.2).cdf(1e-10), rel=0.1)

    def test_come_from_torchs_global_generator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_base, "_DIRICHLET", None)
        torch.manual_seed(5)
        first, second = (_base.beta_draws(0.8, 9, torch.device("cpu")) for _ in range(2))
        torch.manual_seed(5)
        assert torch.equal(_base.beta_draws(0.8, 9, torch.device("cpu")), first)
        assert not torch.equal(first, second)

    def test_elsewhere_the_stream_is_that_of_the_operator(self) -> None:
        torch.manual_seed(3)
        draws = _base.beta_draws(0.7, 5, torch.device("cpu"))
        torch.manual_seed(3)
        assert torch.equal(draws, torch.distributions.Beta(0.7, 0.7).sample((5,)))

    LEVELS = [BetweenClass(3, 16000, level=level) for level in ("rms", "loudness")]  # noqa: RUF012

    MANY = [pytest.param(mixer, marks=pytest.mark.slow) for mixer in EVERY + LEVELS]  # noqa: RUF012

    @pytest.mark.parametrize("mixer", [UniMix([5, 3, 2]), *MANY], ids=str)
    def test_a_mixer_is_one_graph_for_batches_of_any_size(self, mixer: Mixer) -> None:
        seen: list[torch.fx.GraphModule] = []

        def backend(graph: torch.fx.GraphModule, _: object) -> Callable:
            seen.append(graph)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(lambda *batch: mixer(*batch), fullgraph=True, dynamic=True, backend=backend)
        for size in (6, 9, 14):
            inputs, targets = torch.rand(size, 2, 2400), torch.randint(3, (size,))
            mixed, dense = compiled(inputs, targets)
            assert mixed.shape == inputs.shape
            torch.testing.assert_close(dense.sum(1), torch.ones(size))
        # BetweenClass goes through a batch in pieces, whose number belongs to the graph.
        assert len(seen) <= (3 if isinstance(mixer, BetweenClass) else 1)


class TestSwitchedOff:
    """As timm's loops have it: `mixup_enabled` and `prob`."""

    @pytest.mark.parametrize("mixer", EVERY, ids=str)
    def test_a_batch_is_left_as_it_is(self, mixer: Mixer) -> None:
        inputs, targets = torch.rand(6, 2, 40, 60), torch.arange(6) % 3
        mixer = copy.copy(mixer)
        mixer.mixup_enabled = False
        for partners in ((), (inputs.flip(0), targets.flip(0))):
            same, dense = mixer(inputs, targets, *partners)
            assert same is inputs
            assert torch.equal(dense, F.one_hot(targets, 3).float())
        mixer.mixup_enabled = True
        mixed, dense = mixer(inputs, targets, inputs.flip(0), targets.flip(0))
        assert not torch.equal(mixed, inputs)

    def test_a_share_of_the_batches(self) -> None:
        mixer, inputs, targets = MixUp(3), torch.rand(4, 2), torch.tensor([0, 1, 2, 0])
        mixer.prob = 0.3
        mixed = sum(mixer(inputs, targets)[0] is not inputs for _ in range(1000))
        assert stats.binomtest(mixed, 1000, 0.3).pvalue > 1e-3

    @pytest.mark.parametrize("different_classes", [False, True])
    def test_the_labels_that_are_seen(self, different_classes: bool) -> None:
        """The closed form beside the two that it lies between."""
        counts, apart = [900, 90, 10], {"different_classes": different_classes}
        mixer = UniMix(counts)
        always = effective_prior(counts, mixer, 1.0, -1.0, **apart)
        mixer.prob = 0.25
        found = effective_prior(counts, mixer, 1.0, -1.0, **apart)
        mixer.mixup_enabled = False
        never = effective_prior(counts, mixer, 1.0, -1.0, **apart)
        torch.testing.assert_close(found, 0.25 * always + 0.75 * never)
        p, q = (torch.tensor(counts).double() ** tau for tau in (1.0, -1.0))
        p, q = p / p.sum(), q / q.sum()
        kept = p * (1 - q) if different_classes else p
        torch.testing.assert_close(never, kept / kept.sum())
