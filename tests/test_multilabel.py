"""Labels that may come together: their statistics, and their losses against formulas in Python floats."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ltaug import (
    BayiasLoss,
    ClassPowerSampler,
    DistributionBalancedLoss,
    PriorCorrectedBCELoss,
    class_counts,
    label_counts,
    label_prior,
    multi_hot,
    rarest_label,
)
from ltaug.losses.functional import distribution_balanced_loss, prior_corrected_binary_cross_entropy

LISTS = [[0, 2], [2], [], [0, 3, 2], [2, 2]]
ROWS = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]])
SETS = st.lists(st.sets(st.integers(0, 4), max_size=4), min_size=1, max_size=30)
SHARES = [0.5, 0.1, 0.001]


class TestStatistics:
    @given(SETS)
    def test_are_counting(self, sets: list[set[int]]) -> None:
        lists = [sorted(each) for each in sets]
        expected = [sum(k in each for each in sets) for k in range(6)]
        assert label_counts(lists, 6).tolist() == expected
        assert label_prior(lists, 6).tolist() == pytest.approx([n / len(sets) for n in expected], rel=1e-15)
        rarest = [min(each, key=lambda k: (expected[k], k), default=6) for each in sets]
        assert rarest_label(lists, 6).tolist() == rarest
        rows = multi_hot(lists, 6)
        assert rows.tolist() == [[float(k in each) for k in range(6)] for each in sets]
        assert torch.equal(label_counts(rows), label_counts(lists, 6))

    @pytest.mark.parametrize(
        "labels",
        [
            ROWS,
            ROWS.bool(),
            ROWS.float(),
            ROWS.numpy(),
            ROWS.to(torch.uint8),
            pd.DataFrame(ROWS.numpy(), columns=list("abcd")),
            LISTS,
            [tuple(each) for each in LISTS],
            [np.array(each, dtype=np.int32) for each in LISTS],
            pd.Series(LISTS),
            pa.array(LISTS),
            pa.chunked_array([LISTS[:2], LISTS[2:]]),
            Dataset.from_dict({"labels": LISTS})["labels"],
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_every_form_counts_the_same(self, labels: Any) -> None:
        assert label_counts(labels).tolist() == [2, 0, 4, 1]
        assert rarest_label(labels).tolist() == [0, 2, 4, 3, 2]
        assert multi_hot(labels).tolist() == ROWS.tolist()

    def test_a_sample_without_labels_is_of_a_class_of_its_own_that_samplers_take(self) -> None:
        rarest = rarest_label(LISTS)
        assert class_counts(rarest, 5).tolist() == [1, 0, 2, 1, 1]
        drawn = ClassPowerSampler(rarest, tau=0.0, num_samples=4000).indices()
        assert drawn.bincount(minlength=5)[2] == pytest.approx(1000, abs=150)  # one class of four

    @pytest.mark.parametrize("missing", [-1, -100])
    def test_what_is_not_known_is_neither_positive_nor_negative(self, missing: int) -> None:
        rows = torch.tensor([[1, missing, 0], [0, 1, missing], [missing, 0, 1], [1, 1, missing], [0, missing, missing]])
        for labels in (rows, rows.numpy(), rows.float(), rows.to(torch.int8)):
            assert label_counts(labels, ignore_index=missing).tolist() == [2, 2, 1]
            assert label_prior(labels, ignore_index=missing).tolist() == pytest.approx([2 / 4, 2 / 3, 1 / 2])
            assert rarest_label(labels, ignore_index=missing).tolist() == [0, 1, 2, 0, 3]
        assert torch.equal(label_prior(ROWS, ignore_index=missing), label_prior(ROWS))
        with pytest.raises(ValueError, match=rf"but hold {missing}.*`ignore_index`"):
            label_counts(rows)
        rows[:, 1] = missing
        with pytest.raises(ValueError, match="whether it has label 1, but are all"):
            label_prior(rows, ignore_index=missing)

    def test_no_samples(self) -> None:
        assert label_counts([], 3).tolist() == [0, 0, 0]
        assert rarest_label(torch.zeros(0, 3)).tolist() == []
        assert multi_hot([[], []], 2).tolist() == [[0, 0], [0, 0]]
        with pytest.raises(ValueError, match="at least one sample, but is empty"):
            label_prior([], 3)

    @pytest.mark.parametrize("labels", [[[0, 1], [1, 0]], [[0], [1], [1]], [[1, 0, 1], [0, 0, 1]]])
    def test_lists_that_could_be_either_are_refused_unless_the_number_of_labels_tells(self, labels: Any) -> None:
        for num_labels in (None, len(labels[0])):
            with pytest.raises(ValueError, match="could be multi-hot rows or label indices"):
                label_counts(labels, num_labels)
        assert label_counts(labels, 7)[:2].tolist() == [sum(k in each for each in labels) for k in range(2)]

    @pytest.mark.parametrize(
        ("labels", "num_labels", "message"),
        [
            (torch.tensor([0, 1, 2]), None, r"shape \[N, L\], .* have shape \[3\]\. Class indices \[N\].*`class_count"),
            ([0, 1, 2], None, r"one list of label indices a sample, but cannot be read"),
            (torch.tensor([[0, 2]]), None, r"rows of 0 and 1, but hold 2"),
            (torch.tensor([[0.0, 0.3]]), None, r"rows of 0 and 1, but hold 0\.3.* probabilities have no counts"),
            (torch.tensor([[math.nan, 1.0]]), None, r"rows of 0 and 1, but hold nan"),
            (ROWS, 5, r"shape \[N, 5\], .* have shape \[5, 4\]"),
            ([[0, 3], [1]], 3, r"must lie in 0\.\.2 for `num_labels`=3, but range from 0 to 3"),
            ([[0, -1], [1]], None, r"range from -1 to 1"),
            ([["dog"], ["cat", "dog"]], None, r"cannot be read as such"),
            ([[0.5], [1.0, 2.0]], None, r"cannot be read as such"),
            ([[0, 10**12], [1]], None, r"too many labels to count"),
            (None, None, r"cannot be read as such"),
        ],
    )
    def test_errors(self, labels: Any, num_labels: int | None, message: str) -> None:
        for statistic in (label_counts, label_prior, rarest_label, multi_hot):
            with pytest.raises(ValueError, match=message):
                statistic(labels, num_labels)


def naive_bce(z: float, t: float) -> float:
    return t * math.log1p(math.exp(-z)) + (1 - t) * math.log1p(math.exp(z))


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


class TestPriorCorrectedBCE:
    @given(
        st.lists(st.floats(-15, 15), min_size=3, max_size=3),
        st.lists(st.floats(0, 1), min_size=3, max_size=3),
        st.floats(0, 2),
        st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3),
    )
    def test_is_the_formula(self, z: list[float], t: list[float], tau: float, target: list[float]) -> None:
        loss = PriorCorrectedBCELoss(SHARES, tau, target, reduction="none")
        expected = [
            naive_bce(value + tau * (log_odds(p) - log_odds(q)), y)
            for value, y, p, q in zip(z, t, SHARES, target, strict=True)
        ]
        actual = loss(torch.tensor([z]).double(), torch.tensor([t]).double())
        assert actual.tolist()[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_its_logits_are_the_log_likelihood_ratio(self) -> None:
        # x = 0, 1, 2 with known p(x | l), and a free logit for every x
        prior, likely, unlikely = 0.02, torch.tensor([0.1, 0.2, 0.7]).double(), torch.tensor([0.6, 0.3, 0.1]).double()
        posterior = prior * likely / (prior * likely + (1 - prior) * unlikely)
        share = prior * likely + (1 - prior) * unlikely
        z = (likely / unlikely).log().requires_grad_()
        (share * PriorCorrectedBCELoss(prior, reduction="none")(z, posterior)).sum().backward()
        assert float(z.grad.abs().max()) < 1e-8  # and the loss is convex
        (share * PriorCorrectedBCELoss(2 * prior, reduction="none")(z, posterior)).sum().backward()
        assert float(z.grad.abs().max()) > 1e-3

    def test_is_the_logit_adjusted_loss_of_two_classes(self) -> None:
        z, y = torch.randn(20), torch.randint(2, (20,))
        two = BayiasLoss([90, 10])(torch.stack([torch.zeros(20), z], 1), y)
        torch.testing.assert_close(PriorCorrectedBCELoss(0.1)(z, y), two)

    def test_tau_0_is_plain_binary_cross_entropy(self) -> None:
        z, t = torch.randn(4, 3, 5), torch.rand(4, 3, 5)
        for reduction in ("mean", "sum", "none"):
            plain = F.binary_cross_entropy_with_logits(z, t, reduction=reduction)
            torch.testing.assert_close(PriorCorrectedBCELoss(SHARES, 0.0, reduction=reduction)(z, t), plain)

    def test_training_prior_as_target_is_plain_binary_cross_entropy(self) -> None:
        z, t = torch.randn(4, 3), torch.randint(2, (4, 3))
        plain = F.binary_cross_entropy_with_logits(z, t.float())
        torch.testing.assert_close(PriorCorrectedBCELoss(SHARES, 1.0, SHARES)(z, t), plain)

    def test_one_logit(self) -> None:
        loss, none = PriorCorrectedBCELoss(0.05), PriorCorrectedBCELoss([0.05], reduction="none")
        z, t = torch.randn(6), torch.randint(2, (6,))
        value = loss(z, t)
        for targets in (t.bool(), t.float(), t.unsqueeze(1)):
            for logits in (z, z.unsqueeze(1)):
                torch.testing.assert_close(loss(logits, targets), value)
                assert none(logits, targets).shape == logits.shape
        with pytest.raises(ValueError, match=r"`logits` must have shape \[N, 1, \.\.\.\] or \[N\], but have \[6, 2\]"):
            loss(torch.zeros(6, 2), t)

    def test_one_target_prior_for_all_labels(self) -> None:
        z, t = torch.randn(4, 3), torch.rand(4, 3)
        same = PriorCorrectedBCELoss(SHARES, target_prior=[0.3] * 3)(z, t)
        torch.testing.assert_close(PriorCorrectedBCELoss(SHARES, target_prior=0.3)(z, t), same)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"prior": [0.5, 0.0]}, r"`prior` .*label 1 has 0\. Its log odds are infinite: drop a label"),
            ({"prior": [1.0, 0.5]}, r"`prior` .*label 0 has 1\. Its log odds are infinite"),
            ({"prior": [900, 10]}, r"label 0 has 900\. Divide counts by the number of samples"),
            ({"prior": [0.5, math.nan]}, r"label 1 has nan"),
            ({"prior": [[0.5]]}, r"`prior` must hold one share a label, shape \[L\]"),
            ({"prior": SHARES, "target_prior": [0.5, 0.5]}, r"`target_prior` must hold one share a label, shape \[3\]"),
            ({"prior": SHARES, "target_prior": 0.0}, r"`target_prior` .*label 0 has 0"),
            ({"prior": SHARES, "tau": math.inf}, r"`tau` must be finite"),
            ({"prior": SHARES, "reduction": "batch"}, r"`reduction` must be"),
        ],
    )
    def test_errors(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PriorCorrectedBCELoss(**arguments)


COUNTS = [70, 20, 1]


def naive_distribution_balanced(
    z: list[float], t: list[float], kappa: float, lam: float, alpha: float, beta: float, mu: float
) -> list[float]:
    """Wu et al., Eq. 4 to 10, for one sample of a set of 100."""
    drawn = sum(y / n for y, n in zip(t, COUNTS, strict=True))  # P^I, but for 1 / L
    found = []
    for value, y, n in zip(z, t, COUNTS, strict=True):
        ratio = (1 / n) / drawn if drawn else math.inf  # P^C / P^I
        weight = alpha + (1 / (1 + math.exp(-beta * (ratio - mu))) if drawn else 1.0)
        margin = kappa * math.log(100 / n - 1)
        positive, negative = math.log1p(math.exp(margin - value)), math.log1p(math.exp(lam * (value - margin)))
        found.append(weight * (y * positive + (1 - y) / lam * negative))
    return found


class TestDistributionBalanced:
    @given(
        st.lists(st.floats(-9, 9), min_size=3, max_size=3),
        st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=3, max_size=3),
        st.tuples(st.floats(0, 1), st.floats(1, 6), st.floats(0, 1), st.floats(0.01, 20), st.floats(-1, 1)),
    )
    def test_is_the_formula(self, z: list[float], t: list[float], settings: tuple[float, ...]) -> None:
        kappa, lam, alpha, beta, mu = settings
        loss = DistributionBalancedLoss(COUNTS, 100, kappa, lam, alpha, beta, mu, reduction="none")
        expected = naive_distribution_balanced(z, t, kappa, lam, alpha, beta, mu)
        actual = loss(torch.tensor([z]).double(), torch.tensor([t]).double())
        assert actual.tolist()[0] == pytest.approx(expected, rel=2e-5, abs=1e-5)

    def test_without_margins_tolerance_and_weights_it_is_binary_cross_entropy(self) -> None:
        z, t = torch.randn(5, 3), torch.tensor([[1, 0, 1]]).repeat(5, 1)
        loss = DistributionBalancedLoss(COUNTS, 100, kappa=0.0, neg_scale=1.0, alpha=0.5, beta=0.0)
        torch.testing.assert_close(loss(z, t), F.binary_cross_entropy_with_logits(z, t.float()))  # 0.5 + sigmoid(0) = 1

    def test_a_frequent_label_beside_a_rare_one_weighs_less_than_alone(self) -> None:
        loss = DistributionBalancedLoss(COUNTS, 100, reduction="none")
        alone, beside = loss(torch.zeros(2, 3), torch.tensor([[1, 0, 0], [1, 0, 1]]))
        assert beside[0] < 0.3 * alone[0]

    def test_negatives_are_let_go_sooner(self) -> None:
        z = torch.full((1, 3), -1.0, requires_grad=True)
        weight = 0.1 + torch.sigmoid(torch.tensor(10 * (1.0 - 0.2)))  # of label 1, the only one
        DistributionBalancedLoss(COUNTS, 100, neg_scale=5.0, kappa=0.0, reduction="sum")(
            z, torch.tensor([[0, 1, 0]])
        ).backward()
        assert float(z.grad[0, 1]) == pytest.approx(float(-weight * torch.sigmoid(torch.tensor(1.0))), rel=1e-5)
        # by 1 / lambda of lambda sigmoid(lambda z): much less than sigmoid(z) = 0.27
        assert 0 < float(z.grad[0, 2]) < 1.1 * float(torch.sigmoid(torch.tensor(-5.0)))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"label_counts": [5, 0]}, r"`label_counts` must be positive, but class 1 has 0"),
            ({"label_counts": [100, 5]}, r"`num_samples` must be .*but is 100 and label 0 has 100\. Drop a label"),
            ({"neg_scale": 0.5}, r"`neg_scale` must be at least 1"),
            ({"alpha": -0.1}, r"`alpha` must not be negative"),
        ],
    )
    def test_errors(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DistributionBalancedLoss(**{"label_counts": [5, 5], "num_samples": 100, **arguments})


LOSSES = [PriorCorrectedBCELoss(SHARES), DistributionBalancedLoss(COUNTS, 100)]


MAKERS = [
    lambda **more: PriorCorrectedBCELoss(SHARES, **more),
    lambda **more: DistributionBalancedLoss([50, 10, 2], 100, **more),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("missing", [-1, -100])
class TestWhatIsNotKnown:
    def test_it_is_left_out(self, make: Any, missing: int, device: torch.device) -> None:
        logits = torch.randn(6, 3, 2, device=device, dtype=torch.float64)
        targets = (torch.rand(6, 3, 2, device=device) < 0.5).double()
        known = torch.rand(6, 3, 2, device=device) < 0.6
        logits[~known] = torch.tensor([math.inf, -math.inf, math.nan]).double().to(device).repeat(20)[: (~known).sum()]
        logits.requires_grad_()
        rows = targets.masked_fill(~known, missing)
        # A missing label is none that the sample would be drawn for: as a negative, but for its own entry.
        each = make(reduction="none").to(device)(logits.detach().nan_to_num(0.0, 0.0, 0.0), targets * known)
        expected = {"none": each * known, "sum": each[known].sum(), "mean": each[known].mean()}
        for reduction, value in expected.items():
            for held in (rows, rows.long(), rows.to(torch.int8)):
                loss = make(reduction=reduction, ignore_index=missing).to(device)
                torch.testing.assert_close(loss(logits, held), value)
        (gradient,) = torch.autograd.grad(loss(logits, rows), logits)
        assert bool((gradient[~known] == 0).all())
        assert bool((gradient[known] != 0).all())

    def test_nothing_is_known(self, make: Any, missing: int) -> None:
        logits = torch.randn(2, 3, requires_grad=True)
        loss = make(ignore_index=missing)(logits, torch.full((2, 3), missing))
        loss.backward()
        assert loss == 0
        assert bool((logits.grad == 0).all())

    def test_it_is_off_by_default(self, make: Any, missing: int) -> None:
        with pytest.raises(ValueError, match=f"an entry is {missing}.*`ignore_index` of a loss"):
            make()(torch.zeros(1, 3), torch.tensor([[0, 1, missing]]))
        with pytest.raises(ValueError, match="an entry is -7"):  # another one is none
            make(ignore_index=missing)(torch.zeros(1, 3), torch.tensor([[missing, 1, -7]]))
        with pytest.raises(ValueError, match="`ignore_index` must be another number than 0 and 1"):
            make(ignore_index=1)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
class TestContract:
    def test_forms_of_targets_agree(self, loss: torch.nn.Module, device: torch.device) -> None:
        loss = copy.deepcopy(loss).to(device)
        z, t = torch.randn(4, 3, device=device), torch.randint(2, (4, 3), device=device)
        value = loss(z, t.float())
        assert value.ndim == 0
        for targets in (t, t.bool(), t.double(), t.half()):
            torch.testing.assert_close(loss(z, targets), value)
        dense = loss(z.unsqueeze(2).expand(-1, -1, 5), t.unsqueeze(2).expand(-1, -1, 5))
        torch.testing.assert_close(dense, value)
        assert loss(z[:0], t[:0].float()).item() == 0.0

    def test_computes_in_single_precision_and_stays_finite(self, loss: torch.nn.Module) -> None:
        z, t = torch.randn(4, 3).bfloat16(), torch.randint(2, (4, 3)).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(z, t)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(z.float(), t))
        extreme = (1e4 * torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])).requires_grad_()
        loss(extreme, torch.tensor([[0, 1, 0], [0, 0, 0]])).backward()
        assert bool(extreme.grad.isfinite().all())

    def test_gradient(self, loss: torch.nn.Module) -> None:
        z, t = torch.randn(3, 3, dtype=torch.float64, requires_grad=True), torch.rand(3, 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda z: loss(z, t), z)

    def test_holds_no_state_and_moves(self, loss: torch.nn.Module) -> None:
        assert not loss.state_dict()
        z, t = torch.randn(4, 3), torch.rand(4, 3)
        torch.testing.assert_close(copy.deepcopy(loss).to(torch.float64)(z, t), loss(z, t))

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            (torch.tensor([0, 1, 2, 0]), r"of the shape of the logits, \[4, 3\], but have \[4\]\. Lists of labels"),
            (torch.full((4, 3), 2.0), r"`targets` must be 0, 1 or between them for each label, but an entry is 2"),
            (torch.full((4, 3), -1), r"an entry is -1\. Class indices .*without a known label"),
            (torch.full((4, 3), math.nan), r"an entry is nan"),
            (torch.zeros(4, 2), r"of the shape of the logits, \[4, 3\], but have \[4, 2\]"),
        ],
    )
    def test_wrong_targets(self, loss: torch.nn.Module, targets: torch.Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            loss(torch.zeros(4, 3), targets)

    def test_wrong_logits(self, loss: torch.nn.Module) -> None:
        with pytest.raises(ValueError, match=r"`logits` must have shape \[N, 3, \.\.\.\], but have \[4, 2\]"):
            loss(torch.zeros(4, 2), torch.zeros(4, 2))
        with pytest.raises(ValueError, match="must be floating point"):
            loss(torch.zeros(4, 3).long(), torch.zeros(4, 3))
        with pytest.raises(TypeError, match="`targets` must be a tensor, but is a list"):
            loss(torch.zeros(4, 3), [[0]])


def test_errors_of_losses_of_classes_name_the_losses_of_labels() -> None:
    with pytest.raises(ValueError, match=r"several labels .*`PriorCorrectedBCELoss`.*`multi_label=\"union\"`"):
        BayiasLoss([5, 5, 5])(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_the_functions_check_their_statistics() -> None:
    z, t = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"`shift` must hold one number a class, shape \[3\]|`logits` must have shape"):
        prior_corrected_binary_cross_entropy(z, t, torch.zeros(1))
    with pytest.raises(ValueError, match=r"`margins` must hold one number a class, shape \[3\]"):
        distribution_balanced_loss(z, t, torch.ones(3), torch.zeros(1))
    with pytest.raises(ValueError, match="`neg_scale` must be at least 1"):
        distribution_balanced_loss(z, t, torch.ones(3), torch.zeros(3), 0.0)
