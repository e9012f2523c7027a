"""Fusion of modalities against plain loops over Python floats, and where plain float32 would fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltaug import fusion, shift_logits
from ltaug.fusion import mean_fusion, noisy_or, product_fusion, uno_ic

FUSIONS = [fusion.noisy_or, fusion.mean_fusion, fusion.product_fusion]
fusions = pytest.mark.parametrize("fuse", FUSIONS, ids=lambda fuse: fuse.__name__)


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(z - max(row)) for z in row]
    return [e / math.fsum(exps) for e in exps]


def normalised(row: list[float]) -> list[float]:
    return [value / math.fsum(row) for value in row]


def entropy(row: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in softmax(row))


def random_logits(seed: int, *shape: int) -> Tensor:
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_scale_is_the_formula() -> None:
    logits, mean, std = random_logits(0, 30, 5), 0.7, 0.2
    expected = [mean / (max(0.0, entropy(row) - mean - std) + mean) for row in logits.tolist()]
    assert 0 < sum(value == 1.0 for value in expected) < 30
    found = fusion.uncertainty_scale(logits, mean, std)
    assert found.shape == (30, 1)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_an_image_has_one_scale_from_its_mean_entropy() -> None:
    logits = random_logits(1, 4, 3, 5, 6)
    found = fusion.uncertainty_scale(logits, 0.2, 0.05)
    assert found.shape == (4, 1, 1, 1)
    for image, value in zip(logits, found.flatten().tolist(), strict=True):
        mean = math.fsum(entropy(pixel) for pixel in image.flatten(1).T.tolist()) / 30
        assert value == pytest.approx(0.2 / (max(0.0, mean - 0.25) + 0.2), rel=1e-12)
    assert (found < 1.0).all()


def test_the_less_certain_the_smaller() -> None:
    sharp = random_logits(2, 1, 6)
    scales = [float(fusion.uncertainty_scale(sharp * t, 0.3, 0.1)) for t in (4.0, 1.0, 0.5, 0.25, 0.0)]
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == pytest.approx(0.3 / (math.log(6) - 0.1))


def test_statistics_are_those_of_all_samples_whatever_the_batches() -> None:
    logits = random_logits(3, 23, 4, 3)
    values = [math.fsum(entropy(row) for row in sample.T.tolist()) / 3 for sample in logits]
    mean = math.fsum(values) / 23
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / 23)
    for sizes in ([23], [10, 10, 3], [1] * 23):
        assert fusion.entropy_statistics(iter(logits.split(sizes))) == pytest.approx((mean, std), rel=1e-10)
    # A usual sample keeps its logits.
    ordinary = logits[[v <= mean + std for v in values]]
    assert len(ordinary) > 10
    assert (fusion.uncertainty_scale(ordinary, mean, std) == 1.0).all()


def test_masked_classes_and_half_precision() -> None:
    logits = torch.tensor([[1.0, 0.0, -math.inf], [0.0, 0.0, -math.inf]])
    assert fusion.entropy_statistics([logits[1:]])[0] == pytest.approx(math.log(2), rel=1e-6)
    assert fusion.uncertainty_scale(logits, 0.1, 0.0).isfinite().all()
    half = fusion.uncertainty_scale(logits.bfloat16(), 0.1, 0.0)
    assert half.dtype == torch.bfloat16
    for fuse in FUSIONS:
        assert fuse([logits.softmax(1).bfloat16()] * 2).dtype == torch.bfloat16


PLAIN: dict[Callable[..., Tensor], Callable[[list[float]], float]] = {
    fusion.noisy_or: lambda ps: 1.0 - math.prod(1.0 - p for p in ps),
    fusion.mean_fusion: lambda ps: math.fsum(ps) / len(ps),
    fusion.product_fusion: math.prod,
}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31))
def test_fusions_equal_their_formula_on_every_pixel(modalities: int, n: int, c: int, seed: int) -> None:
    probs = list(random_logits(seed, modalities, n, c, 2).softmax(2))
    for fuse, plain in PLAIN.items():
        found = fuse(probs)
        assert found.shape == (n, c, 2)
        for i in range(n):
            for x in range(2):
                expected = normalised([plain([float(p[i, k, x]) for p in probs]) for k in range(c)])
                assert found[i, :, x].tolist() == pytest.approx(expected, rel=1e-8)


@fusions
def test_one_modality_is_itself_and_the_order_does_not_matter(fuse: Callable[..., Tensor]) -> None:
    a, b = random_logits(4, 2, 7, 5).softmax(2)
    torch.testing.assert_close(fuse([a]), a)
    torch.testing.assert_close(fuse([a, b]), fuse([b, a]))


@fusions
def test_nothing_underflows(fuse: Callable[..., Tensor]) -> None:
    # In float32 1 - (1 - 1e-20) is 0, and so is 1e-20 ** 3.
    probs = torch.tensor([[1e-20, 3e-20, 1.0]]).expand(4, 3)
    found = fuse([probs] * 3)
    assert (found > 0.0).all() or fuse is fusion.product_fusion
    if fuse is not fusion.product_fusion:
        assert float(found[0, 1] / found[0, 0]) == pytest.approx(3.0, rel=1e-5)
    flat = torch.full((1, 8142), 1 / 8142)
    assert fuse([flat] * 12).flatten().tolist() == pytest.approx([1 / 8142] * 8142, rel=1e-5)


@fusions
def test_certain_modalities_that_contradict_each_other_give_no_nan(fuse: Callable[..., Tensor]) -> None:
    found = fuse([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
    assert found.tolist() == [[0.5, 0.5]]


def test_noisy_or_hears_the_sure_one() -> None:
    sure, unsure = torch.tensor([[0.98, 0.01, 0.01]]), torch.tensor([[0.2, 0.4, 0.4]])
    assert fusion.noisy_or([sure, unsure, unsure]).argmax() == 0
    assert fusion.noisy_or([sure, unsure, unsure])[0, 0] > fusion.noisy_or([unsure, unsure, unsure])[0, 0]


COUNTS = [90, 30, 5, 1]
EACH = [COUNTS, [1, 1, 1, 1], [2, 1, 4, 8]]


@pytest.mark.parametrize(
    ("given", "priors"),
    [(COUNTS, [COUNTS] * 3), (EACH, EACH), (torch.tensor(EACH), EACH), ([torch.tensor(row) for row in EACH], EACH)],
    ids=["shared", "one each", "one tensor", "tensors"],
)
def test_uno_ic_is_its_algorithm(given: Any, priors: list[list[int]]) -> None:
    modalities = [random_logits(seed, 6, 4) for seed in (5, 6, 7)]
    statistics, target, lam = [(0.5, 0.1), (0.2, 0.3), (1.0, 0.0)], [1, 2, 3, 4], 0.4
    found = fusion.uno_ic(modalities, statistics, given, target, lam)
    for i in range(6):
        fused = [1.0] * 4
        for logits, (mean, std), counts in zip(modalities, statistics, priors, strict=True):
            row = logits[i].tolist()
            delta = mean / (max(0.0, entropy(row) - mean - std) + mean)
            base = softmax([delta * z for z in row])
            moved = normalised([p * (t / 10) / (n / sum(counts)) for p, t, n in zip(base, target, counts, strict=True)])
            final = normalised([a ** (1 - lam) * b**lam for a, b in zip(base, moved, strict=True)])
            fused = [f * (1.0 - p) for f, p in zip(fused, final, strict=True)]
        assert found[i].tolist() == pytest.approx(normalised([1.0 - f for f in fused]), rel=1e-9)


def test_limits_of_uno_ic() -> None:
    logits, wide = random_logits(8, 3, 4, 2, 2), [(9.0, 0.0)]  # nothing is as uncertain as that
    plain = shift_logits(logits, [8, 4, 2, 1], [1, 1, 1, 1], 0.7).softmax(1)
    torch.testing.assert_close(fusion.uno_ic([logits], wide, [8, 4, 2, 1], [1] * 4, 0.7), plain)
    other = random_logits(9, 3, 4, 2, 2)
    uno = fusion.uno_ic([logits, other], wide * 2, [8, 4, 2, 1], [1] * 4, 0.0)
    torch.testing.assert_close(uno, fusion.noisy_or([logits.softmax(1), other.softmax(1)]))


def test_a_missing_modality_is_none_or_absent() -> None:
    a, b = random_logits(10, 2, 5, 3)
    sa, sb, priors = (0.3, 0.1), (0.5, 0.2), ([5, 3, 1], [1, 1, 1])
    for logits, statistics in (([None, b], [sa, sb]), ([b], [sb]), ([b, None], [sb, sa])):
        torch.testing.assert_close(fusion.uno_ic(logits, statistics, *priors), fusion.uno_ic([b], [sb], *priors))
    each = fusion.uno_ic([None, b], [sa, sb], [None, priors[0]], priors[1])
    torch.testing.assert_close(each, fusion.uno_ic([b], [sb], *priors))
    both = fusion.uno_ic([a, b], [sa, sb], *priors)
    assert not torch.allclose(both, fusion.uno_ic([b], [sb], *priors))


@fusions
def test_fusions_say_what_is_wrong(fuse: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="`probs` must hold at least one modality"):
        fuse([])
    with pytest.raises(ValueError, match=r"`probs` must all have one shape.*\[2, 3\], \[2, 4\]"):
        fuse([torch.rand(2, 3), torch.rand(2, 4)])


@fusions
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.tensor([[0.5, -2.0]]), r"modality 1 ranges from -2 to 0\.5"),
        (torch.tensor([[3.0, 0.1]]), r"modality 1 ranges from 0\.1 to 3\. If these are logits"),
        (torch.tensor([[math.nan, 0.1]]), "modality 1 ranges from nan"),
    ],
)
def test_logits_are_not_taken_for_probabilities(fuse: Callable[..., Tensor], second: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match="`probs` must be probabilities, in 0..1, but " + message):
        fuse([torch.tensor([[0.5, 0.5]]), second])


@fusions
def test_what_rounding_makes_of_probabilities_is_taken(fuse: Callable[..., Tensor]) -> None:
    certain = torch.tensor([[1.0 + 4e-3, 0.0]])
    torch.testing.assert_close(fuse([certain, certain]), torch.tensor([[1.0, 0.0]]))


@fusions
def test_no_probability_at_all_is_no_knowledge(fuse: Callable[..., Tensor]) -> None:
    known = random_logits(11, 3, 4).softmax(1)
    known[1] = 0.0  # such as a pixel that no modality saw
    found = fuse([known, known])
    assert found[1].tolist() == [0.25] * 4
    torch.testing.assert_close(found[::2], fuse([known[::2], known[::2]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 2)])
def test_nan_is_no_uncertainty(shape: tuple[int, ...], bad: float) -> None:
    logits = random_logits(12, *shape)
    logits[3, 1] = bad
    message = r"`logits` must be finite, but sample 3 has NaN or infinity \(1 of 5 samples do\)"
    with pytest.raises(ValueError, match=message):
        fusion.uncertainty_scale(logits, 0.3, 0.1)
    with pytest.raises(ValueError, match=message):
        fusion.entropy_statistics(iter([random_logits(13, *shape), logits]))
    with pytest.raises(ValueError, match=message):
        fusion.uno_ic([logits], [(0.3, 0.1)], [1, 1, 1], [1, 1, 1])
    logits[3, 1] = -math.inf  # masks a class
    assert fusion.uncertainty_scale(logits, 0.3, 0.1).isfinite().all()


def test_a_model_that_fuses_exports() -> None:
    class Fused(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return fusion.noisy_or([z.mul(fusion.uncertainty_scale(z, 0.3, 0.1)).softmax(1) for z in (a, b)])

    a, b = random_logits(14, 3, 4), random_logits(15, 3, 4)
    torch.testing.assert_close(torch.export.export(Fused(), (a, b)).module()(a, b), Fused()(a, b))


def test_the_scale_and_uno_ic_say_what_is_wrong() -> None:
    logits = torch.zeros(2, 3)
    for mean, std in ((0.0, 0.1), (-1.0, 0.1), (0.1, -0.1), (math.nan, 0.1), (0.1, math.nan)):
        with pytest.raises(ValueError, match="`mean` must be positive and `std` not negative"):
            fusion.uncertainty_scale(logits, mean, std)
    with pytest.raises(ValueError, match=r"`logits` must be floating point.*torch.int64"):
        fusion.uncertainty_scale(logits.long(), 0.1, 0.1)
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        fusion.entropy_statistics([logits[0]])
    with pytest.raises(ValueError, match="`batches` must hold at least one sample"):
        fusion.entropy_statistics([])
    with pytest.raises(ValueError, match=r"`statistics` must hold one \(mean, std\) a modality, 2 .* hold 1"):
        fusion.uno_ic([logits, None], [(0.1, 0.1)], [1, 1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match=r"`from_prior` must be .* one a modality, 2 as `logits`, but holds 3"):
        fusion.uno_ic([logits, None], [(0.1, 0.1)] * 2, [[1, 1, 1]] * 3, [1, 1, 1])
    with pytest.raises(ValueError, match="all are missing"):
        fusion.uno_ic([None], [(0.1, 0.1)], [1, 1, 1], [1, 1, 1])


@pytest.mark.parametrize("fuse", [fusion.noisy_or, fusion.mean_fusion, fusion.product_fusion])
def test_arrays_and_lists_are_modalities(fuse: Callable[..., Tensor]) -> None:
    probs = [torch.rand(4, 3, generator=torch.Generator().manual_seed(k)).softmax(1) for k in range(2)]
    expected = fuse(probs)
    for read in (lambda values: values.numpy(), lambda values: values.tolist()):
        torch.testing.assert_close(fuse([read(values) for values in probs]), expected)
    hard = fuse([torch.eye(3).long(), torch.full((3, 3), 1 / 3)])
    assert hard.dtype == torch.float32
    with pytest.raises(ValueError, match=r"`probs` must be a list .*\. Pass a list"):
        fuse(torch.stack(probs))


def test_uno_ic_takes_arrays_and_refuses_a_tensor() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    statistics = [(0.4, 0.1), (0.4, 0.1)]
    expected = fusion.uno_ic([logits, 2 * logits], statistics, [3, 2, 1], [1, 1, 1])
    arrays = [logits.numpy(), (2 * logits).numpy()]
    torch.testing.assert_close(fusion.uno_ic(arrays, statistics, [3, 2, 1], [1, 1, 1]), expected)
    with pytest.raises(ValueError, match=r"`logits` must be a list .*Pass a list"):
        fusion.uno_ic(torch.stack([logits, logits]), statistics, [3, 2, 1], [1, 1, 1])


class TestMissing:
    STATISTICS = ((0.4, 0.1), (0.6, 0.2))

    def logits(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        return [2 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2)]

    def test_of_some_samples(self) -> None:
        """Sample by sample as without the modality; what stands in its place has no say."""
        rgb, depth = self.logits()
        there = torch.tensor([True, False, True, False, True, False])
        broken = torch.where(there[:, None], depth, math.nan)
        settings = ([8, 4, 2, 1], [1, 1, 1, 1], 0.7)
        found = uno_ic([rgb, broken], self.STATISTICS, *settings, present=[None, there])
        both = uno_ic([rgb, depth], self.STATISTICS, *settings)
        alone = uno_ic([rgb, None], self.STATISTICS, *settings)
        torch.testing.assert_close(found, torch.where(there[:, None], both, alone))
        assert not torch.allclose(both, alone)
        none = uno_ic([rgb, depth], self.STATISTICS, *settings, present=[~there, there & False])
        torch.testing.assert_close(none[there], torch.full((3, 4), 0.25, dtype=torch.float64))

    @pytest.mark.parametrize(
        "present", [[torch.ones(6, dtype=torch.bool)], [None, torch.ones(5, dtype=torch.bool)], [None, torch.ones(6)]]
    )
    def test_masks_must_fit(self, present: list[Tensor | None]) -> None:
        with pytest.raises(ValueError, match="`present` must"):
            uno_ic(self.logits(), self.STATISTICS, [1] * 4, [1] * 4, present=present)

    @pytest.mark.parametrize("rule", [noisy_or, mean_fusion, product_fusion])
    def test_of_all_samples(self, rule: Callable[..., Tensor]) -> None:
        probs = [each.softmax(1) for each in self.logits()]
        torch.testing.assert_close(rule([probs[0], None, probs[1]]), rule(probs))
        with pytest.raises(ValueError, match="`probs` must hold at least one modality, but all are missing"):
            rule([None, None])
