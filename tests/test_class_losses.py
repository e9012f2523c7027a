"""LADE, label-aware smoothing, LDAM, focal, CDT, class weights and deferral against plain float64 loops."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.losses import (
    BalancedSoftmaxLoss,
    CDTLoss,
    ClassWeightedLoss,
    DeferredLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    effective_number_weights,
    inverse_frequency_weights,
    smoothing_factors,
)
from ltaug.losses.functional import lade_loss, lade_regularizer, ldam_loss

COUNTS = [400, 120, 40, 9, 2]
PRIOR = [n / sum(COUNTS) for n in COUNTS]
C = len(COUNTS)


def batch(seed: int = 0, size: int = 12, classes: int = C, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(size, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (size,), generator=generator)


def nll(row: list[float], k: int) -> float:
    top = max(row)
    return top + math.log(sum(math.exp(z - top) for z in row)) - row[k]


def naive_lader(logits: Tensor, labels: Tensor, lam: float, mode: str) -> float:
    rows, ys = logits.tolist(), labels.tolist()
    total = 0.0
    for c in range(C):
        own = [row[c] for row, y in zip(rows, ys, strict=True) if y == c]
        if mode == "paper":
            if not own:
                continue
            a = sum((1 / C) / PRIOR[y] * math.exp(row[c]) for row, y in zip(rows, ys, strict=True)) / len(rows)
        else:
            a = (1 / C) / PRIOR[c] * sum(math.exp(row[c]) for row in rows) / len(rows)
        positive = sum(own) / len(own) if own else 0.0
        total += PRIOR[c] * (-positive + math.log(a) + lam * math.log(a) ** 2)
    return total


class TestLADE:
    @pytest.mark.parametrize("mode", ["paper", "official_code"])
    @pytest.mark.parametrize("size", [3, 40])  # with absent classes, and with all of them
    def test_the_regulariser_is_that_of_the_equations(self, mode: str, size: int) -> None:
        logits, labels = batch(size, size)
        assert (len(labels.unique()) < C) == (size == 3)
        ours = lade_regularizer(logits, labels, torch.tensor(PRIOR, dtype=torch.float64), 0.3, mode)
        assert ours.item() == pytest.approx(naive_lader(logits, labels, 0.3, mode), rel=1e-10)

    def test_the_modes_differ(self) -> None:
        logits, labels = batch()
        values = {LADELoss(COUNTS, mode=mode)(logits, labels).item() for mode in ("paper", "official_code")}
        assert len(values) == 2

    def test_alpha_0_is_balanced_softmax(self) -> None:
        logits, labels = batch()
        assert torch.allclose(LADELoss(COUNTS, alpha=0.0)(logits, labels), BalancedSoftmaxLoss(COUNTS)(logits, labels))

    def test_fractions_count_as_fractions_of_samples(self) -> None:
        # Each sample twice with two labels of half a weight is the same batch as once with probabilities.
        logits, labels = batch(1)
        other = (labels + 1) % C
        soft = 0.5 * F.one_hot(labels, C) + 0.5 * F.one_hot(other, C).double()
        prior = torch.tensor(PRIOR, dtype=torch.float64)
        doubled = lade_regularizer(torch.cat([logits, logits]), torch.cat([labels, other]), prior)
        assert torch.allclose(lade_regularizer(logits, soft, prior), doubled)

    def test_the_optimum_is_the_log_density_ratio(self) -> None:
        # Two classes with disjoint inputs: the Donsker-Varadhan bound is reached at log(p(x|c) / p(x)), which is log C
        # for the own class.
        labels = torch.tensor([0] * 6 + [1] * 2)
        logits = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
        prior = torch.tensor([0.75, 0.25], dtype=torch.float64)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(1500):
            optimizer.zero_grad()
            lade_regularizer(logits, labels, prior, remine_lambda=0.1).backward()
            optimizer.step()
        own = logits.detach().gather(1, labels[:, None])[:, 0]
        assert torch.allclose(own, torch.full_like(own, math.log(2)), atol=0.02)

    def test_dense_prediction_is_more_samples(self) -> None:
        logits, labels = batch()
        maps, label_maps = logits.view(3, 4, C).movedim(2, 1), labels.view(3, 4)
        prior = torch.tensor(PRIOR, dtype=torch.float64)
        assert torch.allclose(lade_loss(maps, label_maps, prior), lade_loss(logits, labels, prior))

    def test_a_bad_mode_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"`mode`.*'code'"):
            LADELoss(COUNTS, mode="code")


class TestLabelAwareSmoothing:
    @pytest.mark.parametrize("mode", ["paper", "official_code"])
    def test_it_is_the_cross_entropy_of_the_smoothed_labels(self, mode: str) -> None:
        logits, labels = batch()
        loss = LabelAwareSmoothingLoss(COUNTS, 0.4, 0.1, mode=mode, reduction="none")
        eps = smoothing_factors(COUNTS, 0.4, 0.1).tolist()
        for value, row, y in zip(loss(logits, labels).tolist(), logits.tolist(), labels.tolist(), strict=True):
            if mode == "paper":
                q = [1 - eps[y] if k == y else eps[y] / (C - 1) for k in range(C)]
            else:
                q = [(1 - eps[y] if k == y else 0.0) + eps[y] / C for k in range(C)]
            assert value == pytest.approx(sum(q[k] * nll(row, k) for k in range(C)), rel=1e-6)

    def test_constant_smoothing_in_the_codes_mode_is_torchs(self) -> None:
        logits, labels = batch()
        loss = LabelAwareSmoothingLoss(COUNTS, 0.2, 0.2, mode="official_code")
        assert torch.allclose(loss(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.2))

    @pytest.mark.parametrize(
        ("shape", "power"), [("concave", None), ("linear", None), ("convex", None), ("power", 0.5)]
    )
    def test_the_ends_of_every_shape(self, shape: str, power: float | None) -> None:
        eps = smoothing_factors(COUNTS, 0.4, 0.1, shape, power)
        assert eps[0].item() == pytest.approx(0.4)
        assert eps[-1].item() == pytest.approx(0.1)
        assert bool((eps.diff() <= 1e-12).all())

    def test_the_shapes_bend_as_they_are_called(self) -> None:
        middle = {s: smoothing_factors([100, 50, 0], 0.4, 0.0, s)[1].item() for s in ("concave", "linear", "convex")}
        assert middle["concave"] > middle["linear"] > middle["convex"]

    def test_equal_counts_are_all_head(self) -> None:
        assert smoothing_factors([7, 7], 0.3, 0.1).tolist() == pytest.approx([0.3, 0.3])

    def test_the_optimum_of_the_paper(self) -> None:
        # Eq. 2: at the minimum the true logit exceeds the others, which are equal, by log[(C - 1)(1 - eps) / eps].
        logits = torch.zeros(1, C, dtype=torch.float64, requires_grad=True)
        loss = LabelAwareSmoothingLoss(COUNTS, 0.4, 0.1)
        optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

        def step() -> Tensor:
            optimizer.zero_grad()
            value = loss(logits, torch.tensor([0]))
            value.backward()
            return value

        optimizer.step(step)
        gap = logits.detach()[0, 0] - logits.detach()[0, 1:]
        assert torch.allclose(gap, torch.full_like(gap, math.log((C - 1) * 0.6 / 0.4)), atol=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0.1, 0.4), "tail <= head"),
            ((0.6, 0.1), "0.5"),
            ((0.4, 0.1, "round"), "'round'"),
            ((0.4, 0.1, "power"), "`power`"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LabelAwareSmoothingLoss(COUNTS, *arguments)


class TestLDAM:
    def test_it_is_the_equation(self) -> None:
        logits, labels = batch(spread=0.4)
        loss = LDAMLoss(COUNTS, max_margin=0.5, scale=10.0, reduction="none")
        power = [n**-0.25 for n in COUNTS]
        margins = [0.5 * p / max(power) for p in power]
        for value, row, y in zip(loss(logits, labels).tolist(), logits.tolist(), labels.tolist(), strict=True):
            shifted = [10.0 * (z - (margins[y] if k == y else 0.0)) for k, z in enumerate(row)]
            assert value == pytest.approx(nll(shifted, y), rel=1e-5)

    def test_no_margin_and_no_scale_is_cross_entropy(self) -> None:
        logits, labels = batch()
        assert torch.allclose(LDAMLoss(COUNTS, 0.0, 1.0)(logits, labels), F.cross_entropy(logits, labels))

    def test_both_target_forms_agree_where_the_model_is_sure(self) -> None:
        # 1 - p cancels in float32 here; the index path does not need it.
        logits = torch.full((1, C), -1.0)
        logits[0, 4] = 1.0
        margins = torch.full((C,), 0.5)
        index = ldam_loss(logits, torch.tensor([4]), margins, 30.0)
        dense = ldam_loss(logits, F.one_hot(torch.tensor([4]), C).float(), margins, 30.0)
        assert dense.item() == pytest.approx(index.item(), abs=1e-4)


class TestFocal:
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
    def test_it_is_the_equation(self, gamma: float) -> None:
        logits, labels = batch()
        for value, row, y in zip(
            FocalLoss(gamma, reduction="none")(logits, labels).tolist(), logits.tolist(), labels.tolist(), strict=True
        ):
            p = math.exp(-nll(row, y))
            assert value == pytest.approx((1 - p) ** gamma * nll(row, y), rel=1e-9)

    @pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
    def test_the_gradient_is_finite_where_the_model_is_certain(self, gamma: float) -> None:
        logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
        FocalLoss(gamma)(logits, torch.tensor([0])).backward()
        assert bool(logits.grad.isfinite().all())


class TestCDT:
    def test_it_is_the_equation(self) -> None:
        logits, labels = batch()
        values = CDTLoss(COUNTS, gamma=0.3, reduction="none")(logits, labels).tolist()
        for value, row, y in zip(values, logits.tolist(), labels.tolist(), strict=True):
            assert value == pytest.approx(
                nll([z / (400 / n) ** 0.3 for z, n in zip(row, COUNTS, strict=True)], y), rel=1e-5
            )


class TestWeights:
    def test_inverse_frequency_weights(self) -> None:
        """Those of scikit-learn: every class has the same share of the loss, and the mean over the samples is 1."""
        balanced = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
        labels = torch.arange(C).repeat_interleave(torch.tensor(COUNTS)).numpy()
        wanted = balanced("balanced", classes=torch.arange(C).numpy(), y=labels)
        assert inverse_frequency_weights(COUNTS).tolist() == pytest.approx(wanted.tolist())
        with pytest.raises(ValueError, match="class 1 has 0"):
            inverse_frequency_weights([3, 0])

    def test_by_word_and_by_name(self) -> None:
        """What people look for: words, and numbers by the names of classes."""

        def made(weights: Any, **more: Any) -> list[float]:
            return ClassWeightedLoss(nn.CrossEntropyLoss(), weights, **more).class_weights.tolist()

        counts = {"class_counts": COUNTS}
        for word in ("auto", "inverse"):
            assert made(word, **counts) == pytest.approx(inverse_frequency_weights(COUNTS).tolist(), rel=1e-6)
        assert made("effective_number", **counts) == pytest.approx(effective_number_weights(COUNTS).tolist(), rel=1e-6)
        names = {"class_names": ["cat", "dog"]}
        assert made({"dog": 3.0, "cat": 1.0}, **names) == [1.0, 3.0]
        with pytest.raises(ValueError, match=r"effective_number, inverse, auto with .*, but is 'balanced'"):
            made("balanced", **counts)
        with pytest.raises(ValueError, match="'auto' without them"):
            made("auto")
        with pytest.raises(ValueError, match="give the `class_names`"):
            made({"dog": 3.0, "cat": 1.0})
        with pytest.raises(ValueError, match="must have a number for 'cat'"):
            made({"dog": 3.0}, **names)
        with pytest.raises(ValueError, match="has a number for 'cow', which is none of the `class_names`"):
            made({"dog": 3.0, "cat": 1.0, "cow": 1.0}, **names)

    def test_effective_number_weights(self) -> None:
        raw = [(1 - 0.99) / (1 - 0.99**n) for n in COUNTS]
        assert effective_number_weights(COUNTS, 0.99).tolist() == pytest.approx([C * w / sum(raw) for w in raw])

    @given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20), st.floats(0.0, 0.99999))
    def test_they_sum_to_the_number_of_classes_and_favour_the_rare(self, counts: list[int], beta: float) -> None:
        weights = effective_number_weights(counts, beta)
        assert weights.sum().item() == pytest.approx(len(counts))
        order = torch.tensor(counts).argsort()
        assert bool((weights[order].diff() <= 1e-12).all())

    def test_the_mean_is_over_samples(self) -> None:
        logits, labels = batch()
        weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0], dtype=torch.float64)
        loss = ClassWeightedLoss(nn.CrossEntropyLoss(), weights)
        by_hand = sum(weights[y].item() * nll(row, y) for row, y in zip(logits.tolist(), labels.tolist(), strict=True))
        assert loss(logits, labels).item() == pytest.approx(by_hand / len(labels))
        assert loss(logits, labels).item() != pytest.approx(F.cross_entropy(logits, labels, weight=weights).item())

    def test_equal_weights_change_nothing(self) -> None:
        logits, labels = batch()
        plain = LabelAwareSmoothingLoss(COUNTS)(logits, labels)
        assert torch.allclose(ClassWeightedLoss(LabelAwareSmoothingLoss(COUNTS), torch.ones(C))(logits, labels), plain)

    def test_focal_with_weights_is_the_wrapped_one(self) -> None:
        logits, labels = batch()
        weights = effective_number_weights(COUNTS, 0.99)
        wrapped = ClassWeightedLoss(FocalLoss(2.0), weights)(logits, labels)
        assert torch.allclose(FocalLoss(2.0, class_weights=weights)(logits, labels), wrapped)

    def test_deferral_switches_at_its_epoch(self) -> None:
        logits, labels = batch()
        loss = DeferredLoss(nn.CrossEntropyLoss(), CDTLoss(COUNTS), epoch=3)
        values = []
        for epoch in range(5):
            loss.set_epoch(epoch)
            values.append(loss(logits, labels).item())
        assert values[:3] == [F.cross_entropy(logits, labels).item()] * 3
        assert values[3:] == [CDTLoss(COUNTS)(logits, labels).item()] * 2


@pytest.mark.parametrize(
    "loss",
    [
        LADELoss(range(1, 8143), alpha=0.05, remine_lambda=0.5),
        LabelAwareSmoothingLoss(range(1, 8143)),
        LDAMLoss(range(1, 8143)),
        FocalLoss(0.5),
        CDTLoss(range(1, 8143)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_8142_classes_under_autocast(loss: nn.Module) -> None:
    features, weight = torch.randn(8, 16), torch.randn(8142, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(30 * features @ weight.T, torch.randint(8142, (8,)))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert bool(weight.grad.isfinite().all())


IGNORING = [
    FocalLoss(),
    LDAMLoss(COUNTS),
    LabelAwareSmoothingLoss(COUNTS),
    LADELoss(COUNTS),
    CDTLoss(COUNTS),
    LADELoss(COUNTS, mode="official_code"),
    LADELoss(range(9, 0, -1)),
    ClassWeightedLoss(nn.CrossEntropyLoss(), torch.arange(1.0, len(COUNTS) + 1)),
]


@pytest.mark.parametrize("loss", IGNORING, ids=lambda loss: type(loss).__name__)
def test_ignored_places_do_not_count(loss: nn.Module) -> None:
    """As torch's ignore_index, -100: for few classes and, in LADE's other branch, for more classes than samples."""
    num_classes = 9 if isinstance(loss, LADELoss) and loss.prior.numel() == 9 else len(COUNTS)
    logits = torch.randn(6, num_classes, dtype=torch.float64)
    labels = torch.tensor([0, -100, 2, 1, -100, 1])
    kept = labels >= 0
    torch.testing.assert_close(loss(logits, labels), loss(logits[kept], labels[kept]))


def test_ldam_of_both_target_forms_agrees_where_a_wrong_class_is_certain() -> None:
    loss = LDAMLoss([10_000, 100, 1])
    logits = torch.tensor([[0.5, 0.2, 1.0], [1.0, -1.0, 1.0], [0.999, 0.2, -0.3]], requires_grad=True)
    for k in range(3):
        labels = torch.full((3,), k)
        for one in (labels, nn.functional.one_hot(labels, 3).float()):
            got = loss(logits, one)
            exact = loss(logits.double(), labels)
            torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)
            (gradient,) = torch.autograd.grad(got, logits)
            (expected,) = torch.autograd.grad(exact, logits)
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


class TestWeightedWrapper:
    def test_the_given_loss_stays_as_it_is(self) -> None:
        plain = nn.CrossEntropyLoss()
        deferred = DeferredLoss(plain, ClassWeightedLoss(plain, torch.ones(3)), epoch=1)
        assert deferred(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).ndim == 0

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (LADELoss([3, 2, 1]), "but is a LADELoss"),
            (DeferredLoss(nn.CrossEntropyLoss(), FocalLoss(), 2), "but is a DeferredLoss"),
            (nn.CrossEntropyLoss(label_smoothing=0.1), "must be linear in probabilities"),
        ],
    )
    def test_what_cannot_be_weighted_is_refused(self, loss: nn.Module, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ClassWeightedLoss(loss, torch.ones(3))


# What torch's cross-entropy lets pass, and what goes wrong without a word.

EVERY = [
    *IGNORING,
    BalancedSoftmaxLoss(COUNTS),
    LDAMLoss(COUNTS, class_weights=torch.ones(C)),
    LabelAwareSmoothingLoss(COUNTS, mode="official_code"),
    ClassWeightedLoss(CDTLoss(COUNTS), [1, 2, 3, 4, 5]),
    DeferredLoss(BalancedSoftmaxLoss(COUNTS), FocalLoss(), epoch=1),
]


def with_reduction(loss: nn.Module, reduction: str) -> nn.Module:
    loss = copy.deepcopy(loss)
    loss.reduction = reduction
    return loss


def name_of(loss: nn.Module) -> str:
    return f"{type(loss).__name__}-{getattr(loss, 'mode', '')}"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", EVERY, ids=name_of)
@pytest.mark.parametrize(("size", "spatial"), [(4, ()), (30, ()), (2, (2, 3)), (0, ())])
def test_the_loss_of_no_target_is_0_and_so_is_its_gradient(
    loss: nn.Module, reduction: str, size: int, spatial: tuple[int, ...]
) -> None:
    classes = 9 if isinstance(loss, LADELoss) and loss.prior.numel() == 9 else C
    logits = torch.randn(size, classes, *spatial, requires_grad=True)
    values = [with_reduction(loss, reduction)(logits, torch.full((size, *spatial), -100))]
    if size == 0:  # a process may have no row of the last batch
        values.append(with_reduction(loss, reduction)(logits, torch.zeros(0, classes)))
    for value in values:
        assert value.shape == ((size, *spatial) if reduction == "none" else ())
        assert value.tolist() == torch.zeros_like(value).tolist()
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.tolist() == torch.zeros_like(logits).tolist()


@pytest.mark.parametrize("loss", EVERY, ids=name_of)
@pytest.mark.parametrize("label", [9, 255, -1])
def test_labels_outside_the_classes_are_named(loss: nn.Module, label: int) -> None:
    classes = 9 if isinstance(loss, LADELoss) and loss.prior.numel() == 9 else C
    targets = torch.tensor([0, -100, label, 1])
    message = rf"must lie in 0\.\.{classes - 1}, .* or -100 where ignored, but hold {label} \(1 of 4"
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(4, classes), targets)
    with pytest.raises(ValueError, match=r"Convert one-hot rows with `\.float\(\)`"):
        loss(torch.zeros(4, classes), torch.eye(classes)[:4].long())


@pytest.mark.parametrize("loss", [loss for loss in EVERY if not (hasattr(loss, "prior") and len(loss.prior) == 9)])
def test_rows_that_do_not_sum_to_1_are_refused(loss: nn.Module) -> None:
    logits, labels = batch(size=200)
    soft = F.one_hot(labels, C).double() * 0.9 + 0.02
    loss(logits, soft.bfloat16())
    loss(logits, (soft + 0.001 * torch.rand(200, 1)).float())  # as from half precision
    for row, entries in ((150, [1.0, 1.0, 0.0, 0.0, 0.0]), (3, [0.0] * 5), (0, [math.nan, 1.0, 0.0, 0.0, 0.0])):
        targets = soft.clone()
        targets[row] = torch.tensor(entries)
        for dense in (targets, targets.half()):
            with pytest.raises(ValueError, match=r"row sums to (2|0|nan)\. .* `torch\.nn\.BCEWithLogitsLoss`"):
                loss(logits, dense)
    image, target = logits.view(8, 25, C).movedim(2, 1), soft.view(8, 25, C).movedim(2, 1)
    assert loss(image, target).isfinite()
    with pytest.raises(ValueError, match="row sums to 2"):
        loss(image, 2 * target)
    # Nothing can be read there, and nothing must fail.
    each = torch.func.vmap(lambda z, t: with_reduction(loss, "sum")(z[None], t[None]))(logits[:3], soft[:3])
    assert each.shape == (3,)


def test_wrong_rows_on_an_accelerator_are_refused_at_a_later_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """There nobody waits for the device: the sums of the first rows are looked at when they have come."""

    class Elsewhere(Tensor):
        device = torch.device("xpu")

    loss = FocalLoss()
    monkeypatch.setattr(loss, "compute", lambda logits, targets: logits.sum())
    logits, wrong = torch.zeros(2, 3), torch.ones(2, 3).as_subclass(Elsewhere)
    for good in (torch.tensor([0, 1]).as_subclass(Elsewhere), torch.eye(3)[:2], torch.ones(2, 3)):
        assert loss(logits, good).item() == 0.0  # labels, and what is on the CPU, where the functions check
    assert loss(logits, wrong).item() == 0.0
    other = pickle.loads(pickle.dumps(copy.deepcopy(loss._rows)))
    for rows in (loss._rows, other):
        with pytest.raises(ValueError, match="a row sums to 3"):
            rows.look(wrong)


class TestSettingsOfWrappedLosses:
    """What a wrapper does not carry over it refuses."""

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (nn.BCEWithLogitsLoss(), "is a BCEWithLogitsLoss. `nn.BCEWithLogitsLoss` takes the class weights itself"),
            (nn.MSELoss(), "but is a MSELoss"),
            (nn.KLDivLoss(), "but is a KLDivLoss"),
            (nn.MultiLabelSoftMarginLoss(), "but is a MultiLabelSoftMarginLoss"),
            (nn.CrossEntropyLoss(weight=torch.ones(3)), "`loss` must have no `weight` of its own"),
        ],
    )
    def test_weights_are_for_softmax_losses(self, loss: nn.Module, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ClassWeightedLoss(loss, torch.ones(3))

    def test_a_loss_of_ones_own_must_give_one_number_a_sample(self) -> None:
        class Binary(nn.Module):
            reduction = "mean"

            def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
                return F.binary_cross_entropy_with_logits(logits, targets, reduction=self.reduction)

        with pytest.raises(ValueError, match=r"shape \[2\] for logits .*, but Binary returned shape \[2, 3\]"):
            ClassWeightedLoss(Binary(), torch.ones(3))(torch.zeros(2, 3), torch.eye(3)[:2])

    @pytest.mark.parametrize("ignored", [255, 0, -1])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_the_ignored_index_is_adopted(self, ignored: int, reduction: str) -> None:
        logits, labels = batch()
        labels = torch.where(labels == 0, ignored, labels)
        labels[:2] = ignored
        kept, weights = labels != ignored, torch.arange(1.0, C + 1).double()
        loss = ClassWeightedLoss(nn.CrossEntropyLoss(ignore_index=ignored, reduction=reduction), weights)
        each = F.cross_entropy(logits[kept], labels[kept], reduction="none") * weights[labels[kept]]
        expected = {"mean": each.mean(), "sum": each.sum(), "none": torch.zeros(12).double().masked_scatter(kept, each)}
        torch.testing.assert_close(loss(logits, labels), expected[reduction])

    def test_class_weights_by_class_and_of_any_form(self) -> None:
        expected = ClassWeightedLoss(nn.CrossEntropyLoss(), torch.tensor([1.0, 2.0, 4.0])).class_weights
        for form in ([1, 2, 4], {2: 4.0, 0: 1.0, 1: 2.0}, np.array([4.0, 2.0, 1.0], ">f4")[::-1]):
            assert torch.equal(ClassWeightedLoss(nn.CrossEntropyLoss(), form).class_weights, expected)

    def test_weights_of_0_leave_a_class_out(self) -> None:
        logits, labels = batch()
        loss = ClassWeightedLoss(LDAMLoss(COUNTS), [0, 1, 1, 1, 1])
        one_hot = F.one_hot(labels, C).double()
        torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))
        zero = logits.requires_grad_()
        value = ClassWeightedLoss(LDAMLoss(COUNTS), torch.zeros(C))(zero, one_hot)
        assert value.item() == 0.0
        assert torch.autograd.grad(value, zero)[0].abs().max().item() == 0.0

    @pytest.mark.parametrize(
        ("then", "message"),
        [
            (CDTLoss(COUNTS, reduction="sum"), r"the same `reduction`, but have 'mean' and 'sum'"),
            (nn.CrossEntropyLoss(ignore_index=255), r"the same `ignore_index`, but have -100 and 255"),
        ],
    )
    def test_both_losses_of_a_deferral_must_fit(self, then: nn.Module, message: str) -> None:
        for first in (FocalLoss(), nn.CrossEntropyLoss()):
            with pytest.raises(ValueError, match=message):
                DeferredLoss(first, then, epoch=1)

    def test_a_deferral_hands_on_what_it_is_told(self) -> None:
        logits, labels = batch()
        inner = DeferredLoss(FocalLoss(), CDTLoss(COUNTS), epoch=6)
        loss = DeferredLoss(BalancedSoftmaxLoss(COUNTS), inner, epoch=3)
        loss.set_epoch(7)
        assert loss(logits, labels).item() == CDTLoss(COUNTS)(logits, labels).item()
        loss.reduction = "none"
        assert (loss.reduction, inner.reduction) == ("none", "none")
        assert loss(logits, labels).shape == labels.shape
