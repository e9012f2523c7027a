"""The prior-corrected loss: its formula in plain Python, its several names, and the limits in which they meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import ltaug
from ltaug import BalancedSoftmaxLoss, BayiasLoss, LogitAdjustedLoss, PriorCorrectedLoss, class_prior, shift_logits
from ltaug.losses.functional import prior_corrected_cross_entropy
from ltaug.posthoc import log_prior_shift

COUNTS = [700, 200, 90, 10]
LOGITS = st.lists(st.lists(st.floats(-20.0, 20.0), min_size=4, max_size=4), min_size=1, max_size=4)
CLASS_COUNTS = st.lists(st.integers(1, 5000), min_size=4, max_size=4)


def double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def naive_cross_entropy(z: list[float], targets: list[float]) -> float:
    """- sum_c t_c log softmax(z)_c, in Python floats."""
    top = max(z)
    log_sum = top + math.log(math.fsum(math.exp(value - top) for value in z))
    return math.fsum(t * (log_sum - value) for t, value in zip(targets, z, strict=True))


def naive_loss(z: list[float], targets: list[float], counts: list[int], tau: float, target_prior: list[float]) -> float:
    shifted = [
        value + tau * (math.log(n / sum(counts)) - math.log(p / sum(target_prior)))
        for value, n, p in zip(z, counts, target_prior, strict=True)
    ]
    return naive_cross_entropy(shifted, targets)


class TestFormula:
    @given(LOGITS, CLASS_COUNTS, st.floats(0.0, 3.0), CLASS_COUNTS, st.data())
    def test_index_and_dense_targets(
        self, z: list[list[float]], counts: list[int], tau: float, prior: list[int], data: st.DataObject
    ) -> None:
        loss = PriorCorrectedLoss(counts, tau, prior, reduction="none")
        labels = data.draw(st.lists(st.integers(0, 3), min_size=len(z), max_size=len(z)))
        one_hot = [[float(k == y) for k in range(4)] for y in labels]
        expected = [naive_loss(row, t, counts, tau, prior) for row, t in zip(z, one_hot, strict=True)]
        # the shift is kept in float32, which is exact to about 1e-6 for such priors
        assert loss(double(z), torch.tensor(labels)).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert loss(double(z), double(one_hot)).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        soft = [[w / 10 for w in data.draw(st.permutations([1, 2, 3, 4]))] for _ in z]
        expected = [naive_loss(row, t, counts, tau, prior) for row, t in zip(z, soft, strict=True)]
        assert loss(double(z), double(soft)).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)

    @given(LOGITS, CLASS_COUNTS, st.integers(0, 3))
    def test_as_unimix_prints_it(self, z: list[list[float]], counts: list[int], y: int) -> None:
        # Eq. 14: log(1 + sum_{k != y} e^(B_k - B_y) e^(z_k - z_y)), B = log pi + log C
        bias = [math.log(n / sum(counts)) + math.log(4) for n in counts]
        for row in z:
            rest = math.fsum(math.exp(bias[k] - bias[y]) * math.exp(row[k] - row[y]) for k in range(4) if k != y)
            actual = BayiasLoss(counts)(double([row]), torch.tensor([y])).item()
            assert actual == pytest.approx(math.log1p(rest), rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
    def test_dense_prediction_and_reductions(self, shape: tuple[int, ...], device: torch.device) -> None:
        logits = torch.randn(6, 4, *shape, device=device)
        labels = torch.randint(4, (6, *shape), device=device)
        none = PriorCorrectedLoss(COUNTS, reduction="none").to(device)(logits, labels)
        assert none.shape == labels.shape
        places = logits.movedim(1, -1).reshape(-1, 4).tolist()
        one_hot = F.one_hot(labels, 4).reshape(-1, 4).tolist()
        expected = [naive_loss(z, t, COUNTS, 1.0, [1.0] * 4) for z, t in zip(places, one_hot, strict=True)]
        assert none.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        for reduction, value in (("mean", none.mean()), ("sum", none.sum())):
            torch.testing.assert_close(
                PriorCorrectedLoss(COUNTS, reduction=reduction).to(device)(logits, labels), value
            )

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
    def test_one_hot_targets_equal_indices(self, shape: tuple[int, ...], reduction: str) -> None:
        loss = PriorCorrectedLoss(COUNTS, 0.7, [1, 2, 3, 4], reduction)
        logits, labels = torch.randn(6, 4, *shape), torch.randint(4, (6, *shape))
        one_hot = F.one_hot(labels, 4).movedim(-1, 1).float()
        if reduction == "mean" and shape:
            # torch's own rule for probabilities: the mean over samples and places, as for indices
            torch.testing.assert_close(F.cross_entropy(logits, one_hot), F.cross_entropy(logits, labels))
        torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))

    def test_gradient_is_shifted_probability_minus_target(self) -> None:
        logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
        labels = torch.randint(4, (5,))
        PriorCorrectedLoss(COUNTS, reduction="sum")(logits, labels).backward()
        p = (logits.detach() + class_prior(COUNTS).log()).softmax(1)
        torch.testing.assert_close(logits.grad, p - F.one_hot(labels, 4), rtol=0, atol=1e-6)

    def test_ignored_places_as_in_torch(self) -> None:
        loss = PriorCorrectedLoss(COUNTS)
        logits, labels = torch.randn(6, 4), torch.tensor([0, -100, 2, 3, -100, 1])
        kept = labels >= 0
        torch.testing.assert_close(loss(logits, labels), loss(logits[kept], labels[kept]))


class TestManyNamesOneLoss:
    @given(LOGITS, CLASS_COUNTS, st.integers(0, 3))
    def test_bayias_balanced_softmax_and_logit_adjustment_agree(
        self, z: list[list[float]], counts: list[int], y: int
    ) -> None:
        logits, labels = double(z), torch.tensor([y] * len(z))
        losses = [make(counts)(logits, labels) for make in (BayiasLoss, BalancedSoftmaxLoss, PriorCorrectedLoss)]
        losses.append(LogitAdjustedLoss(counts, tau=1.0)(logits, labels))
        assert all(torch.equal(loss, losses[0]) for loss in losses)
        # each as its paper has it; a constant in all logits cancels
        log_pi = class_prior(counts).log()
        for shift in (log_pi + math.log(4), log_pi, torch.tensor(counts).double().log()):
            torch.testing.assert_close(losses[0], F.cross_entropy(logits + shift, labels), rtol=1e-5, atol=1e-5)

    @given(LOGITS, CLASS_COUNTS, st.floats(0.0, 2.0), st.integers(0, 3))
    def test_logit_adjustment_of_any_tau(self, z: list[list[float]], counts: list[int], tau: float, y: int) -> None:
        labels = torch.tensor([y] * len(z))
        expected = F.cross_entropy(double(z) + tau * class_prior(counts).log(), labels)
        torch.testing.assert_close(LogitAdjustedLoss(counts, tau)(double(z), labels), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize(
        ("counts", "options"),
        [
            ([25, 25, 25, 25], {}),
            ([25, 25, 25, 25], {"tau": 2.5}),
            (COUNTS, {"tau": 0.0}),
            (COUNTS, {"tau": 0.0, "target_prior": [1, 2, 3, 4]}),
            (COUNTS, {"target_prior": COUNTS}),
            (COUNTS, {"target_prior": [0.7, 0.2, 0.09, 0.01], "tau": 1.3}),
        ],
    )
    def test_where_there_is_nothing_to_correct_it_is_cross_entropy(
        self, counts: list[int], options: dict, reduction: str
    ) -> None:
        logits, labels = torch.randn(6, 4), torch.randint(4, (6,))
        expected = F.cross_entropy(logits, labels, reduction=reduction)
        torch.testing.assert_close(PriorCorrectedLoss(counts, reduction=reduction, **options)(logits, labels), expected)

    @given(LOGITS, CLASS_COUNTS, CLASS_COUNTS, st.floats(0.0, 2.0), st.integers(0, 3))
    def test_training_shift_and_test_shift_cancel(
        self, z: list[list[float]], counts: list[int], target: list[int], tau: float, y: int
    ) -> None:
        logits, labels = double(z), torch.tensor([y] * len(z))
        moved = shift_logits(logits, from_prior=counts, to_prior=target, strength=tau)
        corrected = PriorCorrectedLoss(counts, tau, target)(moved, labels)
        torch.testing.assert_close(corrected, F.cross_entropy(logits, labels), rtol=1e-5, atol=1e-5)

    @given(CLASS_COUNTS, st.floats(1e-3, 1e3))
    def test_only_ratios_of_counts_matter(self, counts: list[int], factor: float) -> None:
        logits, labels = torch.randn(4, 4), torch.arange(4)
        scaled = PriorCorrectedLoss([n * factor for n in counts])(logits, labels)  # type: ignore[misc]
        torch.testing.assert_close(scaled, PriorCorrectedLoss(counts)(logits, labels))

    def test_the_pure_twin(self) -> None:
        logits, labels = torch.randn(6, 4), torch.randint(4, (6,))
        shift = log_prior_shift([1, 2, 3, 4], COUNTS, 0.7)
        for reduction in ("mean", "sum", "none"):
            twin = prior_corrected_cross_entropy(logits, labels, shift, reduction)
            torch.testing.assert_close(PriorCorrectedLoss(COUNTS, 0.7, [1, 2, 3, 4], reduction)(logits, labels), twin)

    def test_the_raw_logits_end_up_under_the_target_prior(self) -> None:
        # A free logit vector trained on labels of frequency pi: softmax(z) becomes pi', softmax(z + B) becomes pi.
        logits = torch.zeros(1, 3, requires_grad=True)
        loss, target = PriorCorrectedLoss([70, 20, 10], target_prior=[1, 1, 2]), torch.tensor([[0.7, 0.2, 0.1]])
        optimiser = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-9)

        def closure() -> Tensor:
            optimiser.zero_grad()
            value = loss(logits, target)
            value.backward()
            return value

        optimiser.step(closure)
        torch.testing.assert_close(logits.detach().softmax(1), torch.tensor([[0.25, 0.25, 0.5]]), rtol=0, atol=1e-3)


class TestModule:
    def test_statistics_move_with_the_module_but_not_into_checkpoints(self, device: torch.device) -> None:
        loss = PriorCorrectedLoss(COUNTS).to(device)
        assert dict(loss.named_buffers())["shift"].device.type == device.type
        assert loss.state_dict() == {}
        loss.load_state_dict({})
        assert list(loss.parameters()) == []

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision_logits_are_summed_in_float32(self, dtype: torch.dtype, device: torch.device) -> None:
        logits, labels = (8 * torch.randn(64, 4)).to(device, dtype), torch.randint(4, (64,), device=device)
        for targets in (labels, F.one_hot(labels, 4).to(dtype)):
            loss = PriorCorrectedLoss(COUNTS).to(device)(logits, targets)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, PriorCorrectedLoss(COUNTS).to(device)(logits.float(), labels))

    @pytest.mark.parametrize("shape", [(), (2, 3)])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("dense", [False, True])
    def test_autocast_changes_nothing(
        self, dense: bool, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
    ) -> None:
        logits = (8 * torch.randn(16, 4, *shape)).to(device, dtype).requires_grad_()
        targets = torch.randint(4, (16, *shape), device=device)
        if dense:
            targets = F.one_hot(targets, 4).movedim(-1, 1).to(dtype)
        criterion = PriorCorrectedLoss(COUNTS).to(device)
        expected = criterion(logits, targets)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            actual = criterion(logits, targets)
        assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(actual, expected)
        assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (actual, expected)))

    @pytest.mark.parametrize("size", [1e4, 1e30])
    def test_huge_logits_stay_finite(self, size: float) -> None:
        logits = torch.tensor([[size, -size, 0.0, 1.0]], requires_grad=True)
        loss = PriorCorrectedLoss(COUNTS)(logits, torch.tensor([1]))
        loss.backward()
        assert bool(loss.isfinite())
        assert bool(logits.grad.isfinite().all())

    def test_smoothed_counts_and_effective_distributions_are_taken(self) -> None:
        logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
        loss = PriorCorrectedLoss(torch.tensor([10, 3, 0]).clamp(min=1))(logits, labels)
        torch.testing.assert_close(loss, PriorCorrectedLoss([10 / 14, 3 / 14, 1 / 14])(logits, labels))  # type: ignore[list-item]

    def test_says_what_it_is(self) -> None:
        assert repr(PriorCorrectedLoss(COUNTS, 0.5)) == "PriorCorrectedLoss(num_classes=4, tau=0.5, reduction='mean')"


OF_THREE = [50, 30, 20]
EVERY = [
    PriorCorrectedLoss(OF_THREE),
    ltaug.ClassWeightedLoss(PriorCorrectedLoss(OF_THREE), [1.0, 2.0, 3.0]),
    *(
        pytest.param(loss, marks=pytest.mark.slow)
        for loss in (
            ltaug.LADELoss(OF_THREE),
            ltaug.LabelAwareSmoothingLoss(OF_THREE),
            ltaug.LDAMLoss(OF_THREE),
            ltaug.FocalLoss(),
            ltaug.CDTLoss(OF_THREE),
            ltaug.ClassWeightedLoss(nn.CrossEntropyLoss(), [1.0, 2.0, 3.0]),
            ltaug.DeferredLoss(nn.CrossEntropyLoss(), PriorCorrectedLoss(OF_THREE), epoch=1),
        )
    ),
]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)
def test_a_loss_is_one_graph_for_batches_of_any_size(loss: nn.Module, dense: bool) -> None:
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda *batch: loss(*batch), fullgraph=True, dynamic=True, backend=backend)
    for size in (6, 9, 14):
        logits, targets = torch.randn(size, 3, requires_grad=True), torch.randint(3, (size,))
        if dense:
            targets = 0.9 * F.one_hot(targets, 3).float() + 0.1 / 3
        torch.testing.assert_close(compiled(logits, targets), loss(logits, targets))
    assert len(seen) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"class_counts": [5, 3, 0, 0]},
                r"`class_counts` must be positive, but class 2 has 0 \(of 4 classes, 2 are empty\).*smoothed counts",
            ),
            ({"class_counts": [5, -1]}, "`class_counts` must not be negative, but class 1 has -1"),
            ({"class_counts": [0, 0]}, "`class_counts` must be positive for at least one class"),
            ({"class_counts": [1.0, float("nan")]}, "`class_counts` must be finite, but class 1 has nan"),
            ({"class_counts": []}, r"`class_counts` must hold one number a class, shape \[C\]"),
            (
                {"class_counts": [5, 3], "reduction": "avg"},
                '`reduction` must be "mean", "sum" or "none", but is \'avg\'',
            ),
            (
                {"class_counts": [5, 3], "target_prior": [1, 1, 1]},
                "must hold one number for each of the 2 classes of `class_counts`, but holds 3",
            ),
            ({"class_counts": [5, 3], "target_prior": [1, 0]}, "must be positive, but class 1 has 0"),
        ],
    )
    def test_construction(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PriorCorrectedLoss(**options)

    @pytest.mark.parametrize("shape", [(2, 5), (4,), (2,), (2, 3, 4)])
    def test_logits_of_other_classes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"`logits` must have shape \[N, 4, \.\.\.\], but have"):
            PriorCorrectedLoss(COUNTS)(torch.zeros(shape), torch.zeros(2).long())

    @pytest.mark.parametrize(
        "targets",
        [
            torch.zeros(3).long(),
            torch.zeros(2, 4).long(),
            torch.zeros(2, 1).long(),
            torch.zeros(2),
            torch.zeros(2, 5),
            torch.zeros(1, 4),
        ],
        ids=lambda targets: f"{targets.dtype}{list(targets.shape)}",
    )
    def test_targets_of_other_shapes(self, targets: Tensor) -> None:
        message = r"`targets` must be class indices .* for logits of shape \[2, 4\], but are torch"
        with pytest.raises(ValueError, match=message):
            PriorCorrectedLoss(COUNTS)(torch.zeros(2, 4), targets)
