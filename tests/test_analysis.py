"""What a network is trained on: against plain float64 loops, real mixers and samplers, and the papers' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_law
from torch import Tensor

from ltaug import (
    BetweenClass,
    ClassAwareSampler,
    ClassPowerSampler,
    CutMix,
    EffectiveNumberSampler,
    MixUp,
    PairSampler,
    ReMix,
    UniMix,
    class_prior,
    effective_number,
    exponential_counts,
    shift_logits,
    shot_groups,
)
from ltaug.analysis import (
    corollary_1,
    corollary_2,
    corollary_3,
    effective_prior,
    label_occurrence,
    label_suppression,
    logits_prior,
    xi_aug_distribution,
    xi_aug_probability,
)
from ltaug.mixers._base import Mixer

COUNTS = [400, 120, 40, 40, 9, 2]
C = len(COUNTS)
LABELS = torch.repeat_interleave(torch.arange(C), torch.tensor(COUNTS))

MIXERS = {
    "mixup": MixUp(C, alpha=0.4),
    "remix": ReMix(COUNTS, alpha=0.7, kappa=3.0, tau=0.6),
    "remix, everything": ReMix(COUNTS, alpha=0.7, kappa=3.0, tau=1.0),
    "unimix": UniMix(COUNTS, alpha=0.2),
    "unimix, released alpha": UniMix(COUNTS, alpha=0.8),
    "cutmix": CutMix(C, alpha=0.7),
    "cutmix, one axis": CutMix(C, alpha=1.0, dims=(-1,)),
}


def powers(tau: float) -> list[float]:
    total = sum(n**tau for n in COUNTS)
    return [n**tau / total for n in COUNTS]


def weight_law(mixer: Mixer, n_i: int, n_j: int) -> Callable[[float], float]:
    """The weight of the first label as a function of the Beta draw, from the papers' words."""
    if isinstance(mixer, UniMix):
        ratio = n_j / (n_i + n_j)
        return lambda draw: draw + ratio - (1.0 if draw + ratio >= 1.0 else 0.0)
    if isinstance(mixer, ReMix):

        def remix(draw: float) -> float:
            if n_i / n_j >= mixer.kappa and draw < mixer.tau:
                return 0.0
            return 1.0 if n_i / n_j <= 1 / mixer.kappa and 1 - draw < mixer.tau else draw

        return remix
    if isinstance(mixer, CutMix):
        axes = len(mixer.dims)

        def cutmix(draw: float) -> float:
            side = (1 - draw) ** (1 / axes)
            centre = (np.arange(2000) + 0.5) / 2000
            kept = np.minimum(centre + side / 2, 1) - np.maximum(centre - side / 2, 0)
            return 1 - float(kept.mean()) ** axes

        return cutmix
    return lambda draw: draw


def naive_expectation(mixer: Mixer, n_i: int, n_j: int) -> float:
    """The mean over the quantiles of the Beta law: no formula but the law itself."""
    draws = beta_law.ppf((np.arange(2000) + 0.5) / 2000, mixer.alpha, mixer.alpha)
    law = weight_law(mixer, n_i, n_j)
    return float(np.mean([law(draw) for draw in draws]))


def naive_prior(weights: list[list[float]], p: list[float], q: list[float]) -> list[float]:
    eff = [0.0] * len(p)
    for i in range(len(p)):
        for j in range(len(q)):
            eff[i] += p[i] * q[j] * weights[i][j]
            eff[j] += p[i] * q[j] * (1 - weights[i][j])
    return eff


def assert_drawn_from(drawn: Tensor, law: Tensor) -> None:
    """Pearson's chi-square over the classes, at five standard deviations."""
    expected = law * drawn.sum()
    statistic = float(((drawn - expected) ** 2 / expected).sum())
    freedom = len(law) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


class TestExpectedWeights:
    @pytest.mark.parametrize("name", MIXERS)
    def test_they_are_the_mean_of_the_weights(self, name: str) -> None:
        mixer = MIXERS[name]
        table = mixer.expected_weights()
        assert table.shape == (C, C)
        assert table.dtype == torch.float64
        for i, j in ((0, 5), (5, 0), (1, 2), (2, 1), (2, 3), (4, 4)):
            assert table[i, j].item() == pytest.approx(naive_expectation(mixer, COUNTS[i], COUNTS[j]), abs=1e-3)

    @pytest.mark.parametrize("name", MIXERS)
    def test_the_mixers_do_so(self, name: str) -> None:
        # The mixers themselves, where the loop above has only their formulas. Large images for CutMix's rounding.
        mixer = MIXERS[name]
        size, shape = (20_000, (1, 1)) if not isinstance(mixer, CutMix) else (3000, (1,) + (128,) * len(mixer.dims))
        for i, j in ((0, 5), (5, 0), (1, 2)):
            zeros = torch.zeros(1, *shape).expand(size, *shape)
            classes = [torch.full((size,), k) for k in (i, j)]
            kept = torch.cat(
                [
                    mixer(piece, *rows)[1][:, i]
                    for piece, *rows in zip(
                        zeros.split(500), classes[0].split(500), zeros.split(500), classes[1].split(500), strict=True
                    )
                ]
            )
            error = 4 * kept.std().item() / math.sqrt(size) + (8e-3 if isinstance(mixer, CutMix) else 1e-6)
            assert kept.mean().item() == pytest.approx(mixer.expected_weights()[i, j].item(), abs=error)

    @pytest.mark.parametrize("name", [name for name in MIXERS if "cutmix" not in name])
    def test_nothing_is_lost_between_the_two(self, name: str) -> None:
        table = MIXERS[name].expected_weights()
        assert torch.allclose(table + table.T, torch.ones_like(table), atol=1e-14)

    def test_cutmix_keeps_more_than_half(self) -> None:
        assert CutMix(1, dims=(-1,)).expected_weights().item() == pytest.approx(1 - (1 / 2 - 1 / 12))
        # Of three axes too: E[(c - c^2/4)^3] with c = u^(1/3) for uniform u, by quadrature.
        pasted = quad(lambda u: (u ** (1 / 3) - u ** (2 / 3) / 4) ** 3, 0, 1)[0]
        assert CutMix(1, dims=(1, 2, 3)).expected_weights().item() == pytest.approx(1 - pasted)

    def test_a_ratio_of_exactly_kappa_counts_as_much_rarer(self) -> None:
        table = ReMix([9, 3, 4], kappa=3.0, tau=1.0).expected_weights()
        assert table[0].tolist() == [0.5, 0.0, 0.5]

    def test_a_class_without_samples_counts_as_one_sample(self) -> None:
        table = UniMix([50, 1, 0], alpha=0.2).expected_weights()
        assert torch.equal(table[1], table[2])
        assert torch.equal(table[:, 1], table[:, 2])

    def test_it_is_for_subclasses(self) -> None:
        with pytest.raises(NotImplementedError):
            Mixer(3).expected_weights()


class TestEffectivePrior:
    @pytest.mark.parametrize("name", MIXERS)
    @pytest.mark.parametrize("taus", [(1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (0.0, 0.0), (0.5, -0.3)])
    def test_it_is_the_sum_over_pairs(self, name: str, taus: tuple[float, float]) -> None:
        mixer = MIXERS[name]
        naive = naive_prior(mixer.expected_weights().tolist(), *map(powers, taus))
        assert effective_prior(COUNTS, mixer, *taus).tolist() == pytest.approx(naive, rel=1e-12)

    @pytest.mark.parametrize("name", ["mixup", "remix", "unimix", "unimix, released alpha"])
    def test_labels_of_samplers_and_mixers_average_to_it(self, name: str) -> None:
        mixer, size = MIXERS[name], 200_000
        pairs = PairSampler(
            ClassPowerSampler(LABELS, tau=1, num_samples=size), ClassPowerSampler(LABELS, tau=-1, num_samples=size)
        ).indices()
        first, partner = LABELS[pairs].unbind(1)
        _, targets = mixer(torch.zeros(size, 1), first, torch.zeros(size, 1), partner)
        eff = effective_prior(COUNTS, mixer, 1.0, -1.0)
        error = targets.double().std(0) / math.sqrt(size)
        assert ((targets.double().mean(0) - eff).abs() < 4.5 * error).all()
        assert ((class_prior(COUNTS) - eff).abs() > 4.5 * error).any()  # the test tells it from the training prior

    def test_the_numbers_of_cifar_100_lt(self) -> None:
        counts = exponential_counts(500, 100, 100)
        eff, prior = effective_prior(counts, UniMix(counts, alpha=0.8), 1.0, 0.0), class_prior(counts)
        assert [round(value, 4) for value in (eff[0].item(), prior[0].item())] == [0.0268, 0.0461]
        assert [round(value, 4) for value in (eff[-1].item(), prior[-1].item())] == [0.0054, 0.0005]

    def test_the_papers_other_cases_need_no_new_prior(self) -> None:
        uniform = torch.full((C,), 1 / C, dtype=torch.float64)
        assert torch.allclose(effective_prior(COUNTS, MixUp(C)), class_prior(COUNTS))
        assert torch.allclose(effective_prior(COUNTS, MixUp(C), 0.0, 0.0), uniform)
        assert torch.allclose(effective_prior(COUNTS), class_prior(COUNTS))
        assert torch.allclose(effective_prior([7] * C, UniMix([7] * C)), uniform)
        # At alpha = 1 the UniMix factor is uniform whatever the counts are.
        assert torch.allclose(effective_prior(COUNTS, UniMix(COUNTS, alpha=1.0)), class_prior(COUNTS))

    def test_a_sampler_may_be_given_by_its_probabilities(self) -> None:
        known = effective_prior(COUNTS, MIXERS["unimix"], 0.5, -1.0)
        given_ = effective_prior(COUNTS, MIXERS["unimix"], torch.tensor(COUNTS).sqrt(), 1 / torch.tensor(COUNTS))
        assert torch.allclose(known, given_, atol=1e-7)
        # EffectiveNumberSampler is no power of the counts.
        q = class_prior(torch.tensor(COUNTS) / effective_number(COUNTS, 0.99))
        sampler = EffectiveNumberSampler(LABELS, beta=0.99, num_samples=100_000)
        assert_drawn_from(torch.bincount(LABELS[sampler.indices()]).double(), effective_prior(COUNTS, first_tau=q))

    def test_a_class_without_samples_gets_nothing(self) -> None:
        counts = [90, 0, 10]
        for tau in (1.0, 0.0, -1.0):
            eff = effective_prior(counts, UniMix(counts), tau, tau)
            assert eff[1] == 0.0
            assert torch.allclose(eff[[0, 2]], effective_prior([90, 10], UniMix([90, 10]), tau, tau))
        batch = effective_prior(counts, UniMix(counts, in_batch_tau=0.5), batch_size=8)
        assert batch[1] == 0.0
        assert batch.sum().item() == pytest.approx(1.0)

    @given(
        counts=st.lists(st.integers(0, 10**7) | st.integers(0, 3), min_size=1, max_size=8).filter(any),
        taus=st.tuples(*[st.floats(-2, 2)] * 2),
        alpha=st.sampled_from([0.05, 0.2, 0.8, 1.0, 3.0]),
        kind=st.sampled_from(["mixup", "unimix", "remix", "cutmix", "batch"]),
    )
    def test_it_is_a_distribution(self, counts: list[int], taus: tuple[float, float], alpha: float, kind: str) -> None:
        make: dict[str, Callable[[], Mixer]] = {
            "mixup": lambda: MixUp(len(counts), alpha),
            "unimix": lambda: UniMix(counts, alpha),
            "remix": lambda: ReMix(counts, alpha),
            "cutmix": lambda: CutMix(len(counts), alpha),
            "batch": lambda: UniMix(counts, alpha, in_batch_tau=taus[1]),
        }
        partner = {"partner_tau": taus[1]} if kind != "batch" else {"batch_size": 64}
        eff = effective_prior(counts, make[kind](), taus[0], **partner)
        assert eff.dtype == torch.float64
        assert eff.sum().item() == pytest.approx(1.0, abs=1e-9)
        assert (eff >= 0).all()
        present = torch.tensor(counts) > 0
        assert (eff[~present] == 0).all()
        for k, n in enumerate(counts):  # classes of equal size are treated alike
            assert eff[k].item() == pytest.approx(eff[counts.index(n)].item(), rel=1e-9)

    def test_thousands_of_classes(self) -> None:
        counts = exponential_counts(1000, 8142, 500)
        eff = effective_prior(counts, UniMix(counts, alpha=0.8), 1.0, 0.0)
        assert eff.sum().item() == pytest.approx(1.0)
        assert eff[-1] > 10 * class_prior(counts)[-1]
        batch = effective_prior(counts, UniMix(counts, in_batch_tau=0.5), batch_size=256)
        assert batch.sum().item() == pytest.approx(1.0)

    def test_what_is_wrong_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"`mixer` has 3 classes, but `class_counts` 6"):
            effective_prior(COUNTS, MixUp(3))
        with pytest.raises(ValueError, match=r"`batch_size`.*0"):
            effective_prior(COUNTS, MixUp(C), batch_size=0)
        with pytest.raises(ValueError, match=r"`batch_size` is needed.*`in_batch_tau`"):
            effective_prior(COUNTS, UniMix(COUNTS, in_batch_tau=0.5))
        with pytest.raises(ValueError, match=r"`partner_tau`.*6 classes.*\[2\]"):
            effective_prior(COUNTS, MixUp(C), 1.0, [0.5, 0.5])
        with pytest.raises(ValueError, match=r"`first_tau` must be finite"):
            effective_prior(COUNTS, MixUp(C), math.nan)


class TestPartnersFromTheBatch:
    @pytest.mark.parametrize("tau", [-1.0, 0.5, 1.0])
    @pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
    def test_unimix_as_released(self, tau: float, batch_size: int) -> None:
        mixer = UniMix(COUNTS, alpha=0.2, in_batch_tau=tau)
        eff = effective_prior(COUNTS, mixer, batch_size=batch_size)
        assert eff.sum().item() == pytest.approx(1.0, abs=1e-12)
        means = []
        for _ in range(400):
            labels = torch.multinomial(class_prior(COUNTS), batch_size, replacement=True)
            means.append(mixer(torch.zeros(batch_size, 1), labels)[1].double().mean(0))
        drawn = torch.stack(means)  # batches are independent, their samples are not
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert ((drawn.mean(0) - eff).abs() < 4.5 * error + 1e-7).all()

    def test_pairs_of_two_by_hand(self) -> None:
        # B = 2: the partner is the other sample with probability w_j / (w_i + w_j), oneself otherwise.
        mixer = UniMix(COUNTS, alpha=0.2, in_batch_tau=-1.0)
        p, weights = powers(1.0), mixer.expected_weights().tolist()
        eff = [0.0] * C
        for i in range(C):
            for j in range(C):
                other = COUNTS[j] ** -2.0 / (COUNTS[i] ** -2.0 + COUNTS[j] ** -2.0)
                eff[i] += p[i] * p[j] * (1 - other + other * weights[i][j])
                eff[j] += p[i] * p[j] * other * (1 - weights[i][j])
        assert effective_prior(COUNTS, mixer, batch_size=2).tolist() == pytest.approx(eff, rel=1e-12)

    def test_huge_batches_are_a_sampler_over_the_data_set(self) -> None:
        mixer = UniMix(COUNTS, alpha=0.2, in_batch_tau=-1.0)
        limit = effective_prior(COUNTS, mixer, 1.0, -1.0)
        far = effective_prior(COUNTS, mixer, batch_size=64)
        near = effective_prior(COUNTS, mixer, batch_size=10**6)
        assert torch.allclose(near, limit, rtol=1e-3)
        assert not torch.allclose(far, limit, rtol=0.05)

    def test_equal_weights_are_a_draw_from_the_batch(self) -> None:
        # in_batch_tau = 1 hits oneself as often as a permutation does.
        drawn = effective_prior(COUNTS, UniMix(COUNTS, alpha=0.2, in_batch_tau=1.0), batch_size=7)
        permuted = effective_prior(COUNTS, UniMix(COUNTS, alpha=0.2), batch_size=7)
        assert torch.allclose(drawn, permuted, rtol=1e-12)

    def test_a_permutation_may_hit_oneself(self) -> None:
        mixer = MIXERS["unimix"]
        assert torch.allclose(effective_prior(COUNTS, mixer, batch_size=1), class_prior(COUNTS))
        halves = (effective_prior(COUNTS, mixer) + class_prior(COUNTS)) / 2
        assert torch.allclose(effective_prior(COUNTS, mixer, batch_size=2), halves)

    def test_given_partners_make_the_batch_irrelevant(self) -> None:
        known = effective_prior(COUNTS, UniMix(COUNTS), 1.0, -1.0)
        assert torch.equal(effective_prior(COUNTS, UniMix(COUNTS, in_batch_tau=0.5), 1.0, -1.0, batch_size=8), known)

    def test_a_way_of_its_own_is_not_guessed(self) -> None:
        class Reversed(MixUp):
            def partners(self, targets: Tensor) -> Tensor:
                return targets.argsort()

        with pytest.raises(ValueError, match=r"Reversed.*`partner_tau`"):
            effective_prior(COUNTS, Reversed(C))
        assert torch.allclose(effective_prior(COUNTS, Reversed(C), partner_tau=1.0), class_prior(COUNTS))


class TestPairsOfDifferentClasses:
    @pytest.mark.parametrize("name", MIXERS)
    @pytest.mark.parametrize("taus", [(1.0, 1.0), (1.0, -1.0), (0.0, 0.0)])
    def test_is_the_sum_over_pairs_that_differ(self, name: str, taus: tuple[float, float]) -> None:
        weights = MIXERS[name].expected_weights().tolist()
        p, q = powers(taus[0]), powers(taus[1])
        eff = [0.0] * C
        total = sum(p[i] * q[j] for i in range(C) for j in range(C) if i != j)
        for i in range(C):
            for j in range(C):
                if i != j:
                    eff[i] += p[i] * q[j] / total * weights[i][j]
                    eff[j] += p[i] * q[j] / total * (1 - weights[i][j])
        found = effective_prior(COUNTS, MIXERS[name], *taus, different_classes=True)
        assert found.tolist() == pytest.approx(eff, rel=1e-9)

    def test_instance_balanced_twice_is_flatter_than_the_prior_and_balanced_is_balanced(self) -> None:
        mixer, prior = BetweenClass(C, 16000), class_prior(COUNTS).double()
        flatter = prior * (1 - prior)
        found = effective_prior(COUNTS, mixer, 1.0, 1.0, different_classes=True)
        assert torch.allclose(found, flatter / flatter.sum(), rtol=1e-6)
        assert torch.allclose(effective_prior(COUNTS, mixer, 1.0, 1.0), prior, rtol=1e-6)
        uniform = torch.full((C,), 1 / C, dtype=torch.float64)
        assert torch.allclose(effective_prior(COUNTS, mixer, 0.0, 0.0, different_classes=True), uniform)

    @pytest.mark.parametrize("taus", [(1.0, 1.0), (1.0, 0.0)])
    def test_the_sampler_has_it(self, taus: tuple[float, float]) -> None:
        size, mixer = 200_000, MIXERS["unimix"]
        samplers = [ClassPowerSampler(LABELS, tau, num_samples=size) for tau in taus]
        first, second = LABELS[PairSampler(*samplers, different_classes=LABELS).indices()].T
        _, targets = mixer(torch.zeros(size, 1), first, torch.zeros(size, 1), second)
        law = effective_prior(COUNTS, mixer, *taus, different_classes=True)
        drawn = targets.double()
        error = drawn.std(0) / math.sqrt(size)
        assert ((drawn.mean(0) - law).abs() < 4.5 * error).all()

    def test_a_mixer_with_unknown_mean_is_sampled(self) -> None:
        weights = [[0.8 if i > j else 0.2 for j in range(C)] for i in range(C)]
        p, q = powers(1.0), powers(0.0)
        joint = [[p[i] * q[j] * (i != j) for j in range(C)] for i in range(C)]
        total = sum(map(sum, joint))
        eff = [sum(joint[k][j] * weights[k][j] + joint[j][k] * (1 - weights[j][k]) for j in range(C)) for k in range(C)]
        found = effective_prior(COUNTS, Own(), 1.0, 0.0, different_classes=True)
        assert found.tolist() == pytest.approx([each / total for each in eff], abs=5e-3)

    def test_errors(self) -> None:
        for arguments in ((None, 1.0, 1.0), (MixUp(C), 1.0, None)):
            with pytest.raises(
                ValueError, match=r"`different_classes` is about pairs .* need a `mixer` and a `partner"
            ):
                effective_prior(COUNTS, *arguments, different_classes=True)
        with pytest.raises(ValueError, match="`different_classes` needs at least two classes to draw from"):
            effective_prior([5, 0], MixUp(2), 1.0, 0.0, different_classes=True)


class TestBetweenClass:
    @pytest.mark.parametrize("ratio", [None, *(MIXERS[name] for name in ("mixup", "unimix"))])
    def test_labels_are_those_of_the_ratio(self, ratio: Mixer | None) -> None:
        mixer = BetweenClass(C, 16000, ratio=ratio)
        for arguments in ({}, {"batch_size": 8}, {"partner_tau": -1.0}):
            expected = effective_prior(COUNTS, ratio or MixUp(C), **arguments)
            assert torch.equal(effective_prior(COUNTS, mixer, **arguments), expected)

    def test_the_ratios_batches_and_unknown_means_are_treated_alike(self) -> None:
        released = UniMix(COUNTS, alpha=0.2, in_batch_tau=0.5)
        mixer = BetweenClass(C, 16000, ratio=released)
        with pytest.raises(ValueError, match="`batch_size` is needed"):
            effective_prior(COUNTS, mixer)
        assert torch.equal(
            effective_prior(COUNTS, mixer, batch_size=9), effective_prior(COUNTS, released, batch_size=9)
        )

        class Constant(MixUp):
            def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
                return torch.full((len(targets),), 0.9)

        found = effective_prior(COUNTS, BetweenClass(C, 16000, ratio=Constant(C)), 1.0, -1.0)
        expected = [0.9 * p + 0.1 * q for p, q in zip(powers(1.0), powers(-1.0), strict=True)]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("name", ["mixup", "unimix"])
    @pytest.mark.parametrize("batch_size", [1, 2, 3, pytest.param(24, marks=pytest.mark.slow)])
    def test_different_classes_in_the_batch(self, name: str, batch_size: int) -> None:
        mixer = BetweenClass(C, 16000, ratio=MIXERS[name], different_classes=True)
        eff = effective_prior(COUNTS, mixer, batch_size=batch_size)
        assert eff.sum().item() == pytest.approx(1.0, abs=1e-12)
        means = []
        for _ in range(1000):
            labels = torch.multinomial(class_prior(COUNTS), batch_size, replacement=True)
            means.append(mixer(torch.zeros(batch_size, 1), labels)[1].double().mean(0))
        drawn = torch.stack(means)
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert ((drawn.mean(0) - eff).abs() < 4.5 * error + 1e-7).all()

    def test_different_classes_in_ever_larger_batches(self) -> None:
        mixer = BetweenClass(C, 16000, different_classes=True)
        far = effective_prior(COUNTS, mixer, batch_size=10**4)
        assert torch.allclose(far, effective_prior(COUNTS, mixer), atol=1e-12)
        # First samples come with p_k and find partners with p_j / (1 - p_k): half of each.
        p = powers(1.0)
        eff = [p[k] / 2 + p[k] / 2 * sum(p[i] / (1 - p[i]) for i in range(C) if i != k) for k in range(C)]
        assert far.tolist() == pytest.approx(eff, rel=1e-9)
        assert effective_prior([5, 0], BetweenClass(2, 16000, different_classes=True), batch_size=4).tolist() == [1, 0]


class Own:
    """Somebody's mixer, of which only the call is known: 0.8 of the label to the rarer class (the higher index)."""

    def __call__(
        self, inputs: Tensor, targets: Tensor, partner_inputs: Tensor, partner_targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        lam = torch.where(targets >= partner_targets, 0.8, 0.2) + 0.2 * (torch.rand(len(inputs)) - 0.5)
        rows = torch.zeros(len(inputs), C).scatter_(1, targets[:, None], lam[:, None])
        return inputs, rows.scatter_add_(1, partner_targets[:, None], 1 - lam[:, None])


class TestSomebodysMixer:
    def test_it_is_sampled(self) -> None:
        weights = [[0.5 if i == j else 0.8 if i > j else 0.2 for j in range(C)] for i in range(C)]
        p, q = powers(1.0), powers(0.0)
        eff = effective_prior(COUNTS, Own(), 1.0, 0.0)
        assert eff.sum().item() == pytest.approx(1.0)
        bound = [4 * math.sqrt((a**2 + b**2) / 4 / (2**17 // C)) for a, b in zip(p, q, strict=True)]
        errors = [abs(a - b) for a, b in zip(eff.tolist(), naive_prior(weights, p, q), strict=True)]
        assert all(error < most for error, most in zip(errors, bound, strict=True))

    def test_one_that_lacks_the_method_comes_out_like_one_that_has_it(self) -> None:
        class Plain(UniMix):
            def expected_weights(self) -> Tensor:
                raise NotImplementedError  # "I do not know": what is tested here

        known = effective_prior(COUNTS, MIXERS["unimix"], 1.0, -1.0)
        assert torch.allclose(effective_prior(COUNTS, Plain(COUNTS, alpha=0.2), 1.0, -1.0), known, rtol=0.02)

    def test_a_table_of_its_own_is_used(self) -> None:
        class Greedy(UniMix):
            def expected_weights(self) -> Tensor:
                return torch.ones(C, C, dtype=torch.float64)

        assert torch.allclose(effective_prior(COUNTS, Greedy(COUNTS), 1.0, -1.0), class_prior(COUNTS))

    def test_neither_chance_nor_a_seed_shows(self) -> None:
        before = torch.get_rng_state()
        first = effective_prior(COUNTS, Own())
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(99)
        assert torch.equal(effective_prior(COUNTS, Own()), first)


class TestLogitsPrior:
    def test_it_is_what_the_optimum_of_the_loss_has(self) -> None:
        # One input x of each of two likelihoods: the optimal softmax of z + log(corrected) is the posterior under seen.
        likelihood = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.8, 0.9]], dtype=torch.float64)
        seen, corrected = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.8, 0.15, 0.05])
        logits = (likelihood * seen).log() - corrected.log()
        uniform = shift_logits(logits, logits_prior(seen, corrected), [1, 1, 1])
        assert torch.allclose(uniform.softmax(1), likelihood / likelihood.sum(1, keepdim=True), atol=1e-6)

    def test_nothing_corrected_and_all_corrected(self) -> None:
        assert torch.allclose(logits_prior(COUNTS), class_prior(COUNTS))
        assert torch.allclose(logits_prior(COUNTS, class_prior(COUNTS)), torch.full((C,), 1 / C, dtype=torch.float64))

    def test_what_is_wrong_is_named(self) -> None:
        with pytest.raises(ValueError, match="`corrected` must be positive"):
            logits_prior([1, 1], [1, 0])
        with pytest.raises(ValueError, match="`seen` and `corrected`"):
            logits_prior([1, 1], [1, 1, 1])


class TestXiAug:
    @pytest.mark.parametrize(
        ("alpha", "table"),
        [
            (0.8, {0.01: 0.488, 0.1: 0.455, 0.25: 0.443, 0.5: 0.5, 0.75: 0.557, 0.9: 0.545, 0.99: 0.512}),
            (0.5, {0.01: 0.443, 0.1: 0.359, 0.25: 0.333, 0.5: 0.5, 0.75: 0.667, 0.9: 0.641, 0.99: 0.557}),
        ],
    )
    def test_the_probability_by_the_ratio(self, alpha: float, table: dict[float, float]) -> None:
        for ratio, expected in table.items():
            assert round(xi_aug_probability(1 - ratio, ratio, alpha).item(), 3) == expected

    def test_the_mixer_agrees(self) -> None:
        counts = torch.tensor([97, 3])
        mixer = UniMix(counts, alpha=0.3)
        draws = mixer.weights(torch.ones(100_000).long(), torch.zeros(100_000).long())
        assert (draws >= 0.5).double().mean().item() == pytest.approx(xi_aug_probability(3, 97, 0.3).item(), abs=6e-3)

    @given(n=st.tuples(*[st.integers(1, 10**7)] * 2), alpha=st.floats(0.02, 5.0))
    def test_one_of_the_two_owns_the_sample(self, n: tuple[int, int], alpha: float) -> None:
        both = xi_aug_probability(*n, alpha) + xi_aug_probability(*n[::-1], alpha)
        assert both.item() == pytest.approx(1.0, abs=1e-9)
        assert xi_aug_probability(*n, 1.0).item() == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("alpha", "tau", "thirds"),
        [
            (0.2, 1.0, (0.749, 0.214, 0.037)),
            (0.2, 0.0, (0.413, 0.317, 0.269)),
            (0.2, -1.0, (0.233, 0.137, 0.630)),
            (0.8, 0.0, (0.560, 0.248, 0.191)),
        ],
    )
    def test_the_thirds_of_a_hundred_classes(self, alpha: float, tau: float, thirds: tuple[float, ...]) -> None:
        # The exact exponential profile, thirds of 33, 33 and 34 classes. Whole samples (500 ... 2) differ in the third
        # digit.
        profile = 200.0 ** (-torch.arange(100, dtype=torch.float64) / 99)
        found = xi_aug_distribution(profile, tau, alpha)
        assert found.sum().item() == pytest.approx(1.0)
        for part, expected in zip(found.split([33, 33, 34]), thirds, strict=True):
            assert part.sum().item() == pytest.approx(expected, abs=6e-4)

    def test_it_is_the_sum_over_pairs(self) -> None:
        p, q = powers(1.0), powers(-1.0)
        table = [[xi_aug_probability(a, b, 0.3).item() for b in COUNTS] for a in COUNTS]
        found = xi_aug_distribution([*COUNTS, 0], -1.0, 0.3)
        assert found.tolist() == pytest.approx([*naive_prior(table, p, q), 0.0], rel=1e-12)

    def test_small_alpha_is_the_third_corollary(self) -> None:
        # Many classes are a continuum, and a small alpha the paper's limit. Its y runs from 1 to C; classes fill
        # [1/2, C + 1/2], so compare shares of the range, not points.
        profile = 200.0 ** (-(torch.arange(800, dtype=torch.float64) + 0.5) / 800)
        for tau in (1.0, 0.0, -1.0):
            found = xi_aug_distribution(profile, tau, alpha=1e-3).split(200)
            edges = [1 + 99 * k / 4 for k in range(5)]
            for part, low, high in zip(found, edges[:-1], edges[1:], strict=True):
                share = quad(lambda y, t=tau: float(corollary_3(y, 100, 200, t, two_sided=True)), low, high)[0]
                assert part.sum().item() == pytest.approx(share, abs=3e-3)


class TestCorollaries:
    @staticmethod
    def integral(density: Callable[[float], Tensor]) -> float:
        return float(quad(lambda y: float(density(y)), 1, 100)[0])

    def test_they_are_the_printed_equations(self) -> None:
        y = torch.linspace(1, 100, 23, dtype=torch.float64)
        eta = math.log(200) / 99
        norm = math.exp(-eta) - math.exp(-100 * eta)
        assert torch.allclose(corollary_1(y, 100, 200), eta * torch.exp(-eta * y) / norm)
        second = eta / norm**2 * (torch.exp(-eta * (y + 1)) - torch.exp(-2 * eta * y))
        assert torch.allclose(corollary_2(y, 100, 200), second, atol=1e-15)
        for tau in (-1.0, 0.5, 1.7):
            scale = eta / (norm * (math.exp(-eta * tau * 100) - math.exp(-eta * tau)))
            third = scale * (torch.exp(-eta * y * (tau + 1)) - torch.exp(-eta * (tau + y)))
            assert torch.allclose(corollary_3(y, 100, 200, tau), third, atol=1e-15)

    def test_one_sided_ones_lose_samples(self) -> None:
        assert self.integral(lambda y: corollary_1(y, 100, 200)) == pytest.approx(1.0)
        assert self.integral(lambda y: corollary_2(y, 100, 200)) == pytest.approx(0.5)
        for tau, expected in ((1.0, 0.50), (0.0, 0.18), (-1.0, 0.022)):
            found = self.integral(lambda y, t=tau: corollary_3(y, 100, 200, t))
            assert found == pytest.approx(expected, abs=0.005 if tau > -1 else 5e-4)

    @pytest.mark.parametrize("tau", [-2.0, -1.0, 0.0, 0.3, 1.0, 2.0])
    def test_two_sided_ones_are_distributions(self, tau: float) -> None:
        assert self.integral(lambda y: corollary_3(y, 100, 200, tau, two_sided=True)) == pytest.approx(1.0)
        assert self.integral(lambda y: corollary_3(y, 100, 1, tau, two_sided=True)) == pytest.approx(1.0)

    def test_two_sided_values(self) -> None:
        y = torch.tensor([25.0, 50.0, 75.0, 100.0])
        flat = corollary_3(y, 100, 200, 0.0, two_sided=True)
        assert [round(v, 4) for v in flat.tolist()] == [0.0110, 0.0113, 0.0107, 0.0104]
        tail = corollary_3(y, 100, 200, -1.0, two_sided=True)
        assert [round(v, 4) for v in tail.tolist()] == [0.0009, 0.0037, 0.0142, 0.0541]

    def test_limits(self) -> None:
        y = torch.linspace(1, 100, 7, dtype=torch.float64)
        for two_sided in (False, True):
            third = corollary_3(y, 100, 200, 1 - 1e-9, two_sided=two_sided)
            assert torch.allclose(third, corollary_2(y, 100, 200, two_sided=two_sided))
            near, at = (corollary_3(y, 100, 200, tau, two_sided=two_sided) for tau in (1e-9, 0.0))
            assert torch.allclose(near, at)
            assert at.isfinite().all()

    def test_what_is_wrong_is_named(self) -> None:
        for arguments, name in (((0.5, 10, 5), "y"), ((1.0, 1, 5), "num_classes"), ((1.0, 10, 0.5), "imbalance_ratio")):
            with pytest.raises(ValueError, match=f"`{name}`"):
                corollary_1(*arguments)
        with pytest.raises(ValueError, match="`tau`"):
            corollary_3(1.0, 10, 5, math.inf)


class TestLabelOccurrence:
    CIFAR = exponential_counts(5000, 10, 10)

    @pytest.mark.parametrize(
        ("taus", "ratio"), [((1.0, 1.0), 10.0), ((1.0, 0.0), 2.77), ((0.5, 0.5), 3.16), ((0.0, 0.0), 1.0)]
    )
    def test_the_ratios_of_cifar_10_lt(self, taus: tuple[float, float], ratio: float) -> None:
        gamma = label_occurrence(*(effective_prior(self.CIFAR, first_tau=tau) for tau in taus))
        assert gamma.sum().item() == pytest.approx(1.0)
        assert (gamma.max() / gamma.min()).item() == pytest.approx(ratio, abs=0.005)

    @pytest.mark.parametrize("taus", [(1.0, 0.0), (0.0, 0.0), (0.5, -1.0)])
    def test_samplers_are_counted(self, taus: tuple[float, float]) -> None:
        first, partner = (ClassPowerSampler(LABELS, tau=tau) for tau in taus)
        gamma = label_occurrence(first, partner, LABELS, epochs=200)
        expected = label_occurrence(*map(powers, taus))
        assert_drawn_from(gamma * 2 * 200 * len(LABELS), expected)

    def test_anyones_sampler(self) -> None:
        class Once:
            def __iter__(self):
                return iter([0, 1, 2, 3])

        assert label_occurrence(Once(), [1, 0, 1], [0, 0, 2, 2]).tolist() == [0.5, 0.0, 0.5]
        assert label_occurrence(Once(), Once(), [0, 0, 2, 2], num_classes=4).tolist() == [0.5, 0.0, 0.5, 0.0]
        assert label_occurrence(ClassAwareSampler([0, 0, 0, 1], 2), [1, 1], [0, 0, 0, 1]).tolist() == [0.5, 0.5]

    def test_the_sampler_stays_as_it_is(self) -> None:
        sampler = ClassPowerSampler(LABELS, tau=0)
        sampler.set_epoch(7)
        label_occurrence(sampler, sampler, LABELS, epochs=3)
        assert sampler.epoch == 7

    def test_what_is_wrong_is_named(self) -> None:
        sampler = ClassPowerSampler(LABELS, tau=0)
        with pytest.raises(ValueError, match="`labels` are needed"):
            label_occurrence(sampler, COUNTS)
        with pytest.raises(ValueError, match=r"`partner` must be a sampler.*each of the 6 classes.*holds 2"):
            label_occurrence(sampler, [1, 1], LABELS)
        with pytest.raises(ValueError, match="`epochs`"):
            label_occurrence([1], [1], epochs=0)
        with pytest.raises(ValueError, match="`partner` must be a sampler that draws"):
            label_occurrence([1], iter([]), [0])


class TestLabelSuppression:
    def test_it_is_the_share_of_pairs_with_a_head_label(self) -> None:
        counts = torch.tensor([770, 150, 80])
        head = shot_groups(counts, many=700)["many"]
        assert label_suppression(counts, head).item() == pytest.approx(0.947, abs=2e-4)  # ImageNet-LT's p_head
        assert label_suppression(counts, head, 0.0, 0.0).item() == pytest.approx(1 - (2 / 3) ** 2)
        assert label_suppression(counts, head, 1.0, 0.0).item() == pytest.approx(1 - 0.23 * 2 / 3)
        first, partner = (torch.multinomial(counts.double(), 50_000, replacement=True) for _ in range(2))
        drawn = (head[first] | head[partner]).double().mean().item()
        assert drawn == pytest.approx(label_suppression(counts, head).item(), abs=0.005)

    def test_none_and_all(self) -> None:
        assert label_suppression(COUNTS, torch.zeros(C, dtype=torch.bool)) == 0
        assert label_suppression(COUNTS, torch.ones(C, dtype=torch.bool)) == 1

    def test_indices_are_no_flags(self) -> None:
        with pytest.raises(ValueError, match=r"`head` must be bool \[6\]"):
            label_suppression(COUNTS, torch.tensor([0, 1]))


@settings(max_examples=20)
@given(counts=st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any), tau=st.floats(-1, 1))
def test_every_distribution_is_one(counts: list[int], tau: float) -> None:
    for law in (xi_aug_distribution(counts, tau), label_occurrence(counts, counts), logits_prior(counts)):
        assert law.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert (law[torch.tensor(counts) == 0] == 0).all()


class TestFigures:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_the_distributions_of_unimix(self) -> None:
        from ltaug import plots

        counts = exponential_counts(500, 100, 200)
        axes = plots.xi_aug_distribution(counts.flip(0), alpha=0.2).axes[0]
        assert [line.get_label() for line in axes.lines] == [
            "training data, mixup",
            "UniMix factor",
            "UniMix, tau = -1",
        ]
        shares = [
            100 * law.numpy() for law in (class_prior(counts), *(xi_aug_distribution(counts, t, 0.2) for t in (1, -1)))
        ]
        for line, law in zip(axes.lines, shares, strict=True):
            assert line.get_ydata() == pytest.approx(law)  # most frequent class first, whatever order came
        # The paper's picture: falling; a peak in the middle; rising.
        tops = [int(np.argmax(line.get_ydata())) for line in axes.lines]
        assert tops[0] == 0
        assert 0 < tops[1] < 50
        assert tops[2] > 90  # whole samples: the last classes, of 2 or 3 samples each, lie on steps

    def test_label_occurrence(self) -> None:
        from ltaug import plots

        figure = plots.label_occurrence(exponential_counts(5000, 10, 10))
        texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert texts == ["IB + IB, max/min 10.00", "IB + CB, max/min 2.77", "CB + CB, max/min 1.00"]
        assert figure.axes[0].lines[2].get_ydata() == pytest.approx(np.full(10, 10.0))
        assert figure.axes[0].lines[0].get_marker() == "o"

    def test_an_empty_class_does_not_make_the_ratio_infinite(self) -> None:
        from ltaug import plots

        texts = plots.label_occurrence([90, 0, 10]).axes[0].get_legend().get_texts()
        assert texts[0].get_text() == "IB + IB, max/min 9.00"

    def test_they_draw_where_they_are_told(self) -> None:
        from matplotlib.figure import Figure

        from ltaug import plots

        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert plots.label_occurrence([3, 1], ax=left) is figure
        assert plots.xi_aug_distribution([3, 1], ax=right) is figure
        assert len(left.lines) == len(right.lines) == 3
        assert {line.get_color() for line in left.lines} == set(plots.RUN_COLORS[:3])
        assert len({line.get_linestyle() for line in left.lines}) == 3


def test_a_subclass_that_draws_other_weights_is_sampled() -> None:
    class Constant(MixUp):
        def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
            return torch.full((len(targets),), 0.9)

    counts = torch.tensor([90, 9, 1])
    p, q = counts / counts.sum(), (1 / counts) / (1 / counts).sum()
    assert effective_prior(counts, Constant(3), 1.0, -1.0) == pytest.approx((0.9 * p + 0.1 * q).double(), abs=1e-4)
    # One that says what they are on average is believed.
    known = type("Known", (Constant,), {"expected_weights": lambda self: torch.full((3, 3), 0.9)})
    assert effective_prior(counts, known(3), 1.0, -1.0) == pytest.approx((0.9 * p + 0.1 * q).double(), abs=1e-7)
