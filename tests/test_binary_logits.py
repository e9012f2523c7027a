"""Finished logits of labels that may come together: shift, calibration, and their estimated shares."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug import (
    LabelwisePriorShift,
    LabelwiseTemperatureScaling,
    PlattScaling,
    PriorCorrectedBCELoss,
    estimate_label_prior,
    shift_binary_logits,
    shift_logits,
)
from ltaug.metrics import labelwise_calibration_error
from ltaug.posthoc import log_odds_shift

SHARES = st.lists(st.floats(1e-6, 1 - 1e-6), min_size=3, max_size=3)


def a_world(share: Tensor, size: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log likelihood ratios of N(1, 1) against N(-1, 1), and labels of given shares: 2 x is the ratio."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(size, len(share), generator=generator) < share
    x = torch.randn(size, len(share), generator=generator, dtype=torch.float64) + (2.0 * truth - 1.0)
    return 2.0 * x, truth


class TestShift:
    @given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), SHARES, SHARES, st.floats(0, 2))
    def test_is_the_difference_of_log_odds(
        self, z: list[float], source: list[float], target: list[float], strength: float
    ) -> None:
        expected = [
            value + strength * (math.log(q / (1 - q)) - math.log(p / (1 - p)))
            for value, p, q in zip(z, source, target, strict=True)
        ]
        actual = shift_binary_logits(torch.tensor([z], dtype=torch.float64), source, target, strength)
        assert actual.tolist()[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @given(SHARES, SHARES)
    def test_there_and_back(self, source: list[float], target: list[float]) -> None:
        z = torch.randn(2, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(shift_binary_logits(shift_binary_logits(z, source, target), target, source), z)

    def test_is_the_shift_of_two_classes(self) -> None:
        z = torch.randn(5, dtype=torch.float64)
        two = shift_logits(torch.stack([torch.zeros_like(z), z], 1), [0.9, 0.1], [0.3, 0.7]).softmax(1)[:, 1]
        torch.testing.assert_close(shift_binary_logits(z, 0.1, 0.7).sigmoid(), two)

    def test_makes_calibrated_probabilities_of_another_world(self) -> None:
        here, there = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.05, 0.6, 0.3])
        ratio, truth = a_world(there, size=20_000)
        z = shift_binary_logits(ratio, 0.5, here)  # a perfect model of the first world
        moved = shift_binary_logits(z, here, there)
        assert labelwise_calibration_error(moved.sigmoid(), truth) < 0.01
        assert labelwise_calibration_error(z.sigmoid(), truth) > 0.1

    def test_undoes_what_the_loss_does(self) -> None:
        prior, z = [0.1, 0.02, 0.5], torch.randn(4, 3)
        targets = torch.randint(2, (4, 3)).float()
        plain = F.binary_cross_entropy_with_logits(shift_binary_logits(z, 0.5, prior), targets)
        torch.testing.assert_close(PriorCorrectedBCELoss(prior)(z, targets), plain)

    def test_shapes_types_and_one_share_for_all(self, device: torch.device) -> None:
        z = torch.randn(4, 3, device=device).half()
        moved = shift_binary_logits(z, 0.5, torch.tensor([0.1, 0.2, 0.3], device=device))
        assert moved.dtype == torch.float16
        assert moved.device.type == device.type
        torch.testing.assert_close(shift_binary_logits(z, [0.5] * 3, 0.2), shift_binary_logits(z, 0.5, [0.2] * 3))
        assert shift_binary_logits([[0.0, 0.0]], [0.5, 0.5], [0.5, 0.5]).tolist() == [[0, 0]]
        assert torch.equal(shift_binary_logits(z, 0.1, 0.9, strength=0.0), z)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([[0.0, 0.0]], [0.5, 0.0], 0.5), r"`from_prior` must hold shares .*label 1 has 0"),
            (([[0.0, 0.0]], 0.5, [9, 1]), r"`to_prior` must hold shares .*label 0 has 9\. Divide counts"),
            (([[0.0, 0.0]], [0.5, 0.5], [0.5] * 3), r"one share a label each, but have 2 and 3"),
            (([[0.0, 0.0]], [0.5] * 3, 0.5), r"`logits` must have shape \[N, 3, \.\.\.\], but have \[1, 2\]"),
            ((torch.zeros(2, 2).long(), 0.5, 0.5), r"`logits` must be floating point"),
            (([[0.0]], 0.5, 0.5, math.nan), r"`strength` must be finite"),
            (([[0.0]], True, 0.5), r"`from_prior` must hold one share a label"),
        ],
    )
    def test_errors(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            shift_binary_logits(*arguments)

    def test_a_prior_of_each_row(self) -> None:
        z, site = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
        shares = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.5, 0.9]])
        moved = shift_binary_logits(z, 0.5, shares[site], 0.7)
        back = shift_binary_logits(moved, shares[site].numpy(), 0.5, 0.7)
        both = shift_binary_logits(z, shares[site], shares[1 - site])
        dense = shift_binary_logits(z.unsqueeze(2).expand(6, 3, 4), [0.2, 0.3, 0.4], shares[site])
        for k in range(6):
            own, other = shares[site[k]], shares[1 - site[k]]
            torch.testing.assert_close(moved[k : k + 1], shift_binary_logits(z[k : k + 1], 0.5, own, 0.7))
            torch.testing.assert_close(both[k : k + 1], shift_binary_logits(z[k : k + 1], own, other))
            wanted = shift_binary_logits(z[k : k + 1], [0.2, 0.3, 0.4], own)
            torch.testing.assert_close(dense[k], wanted.T.expand(3, 4))
        torch.testing.assert_close(back, z)
        one = shift_binary_logits(z[:, 0], 0.5, shares[site, :1])
        torch.testing.assert_close(one, z[:, 0] + shares[site, 0].double().logit())
        for rows, message in (
            (shares, r"`logits` must have a row, on dim 0, for each of the 2 rows"),
            (shares[site][:, :2], r"`logits` must have shape \[N, 2, \.\.\.\]"),
            (shares[site] * 2, r"label 0 has 1\.2 in row 1\. Divide counts"),
            (shares[site][None], r"`to_prior` must hold one share a label"),
        ):
            with pytest.raises(ValueError, match=message):
                shift_binary_logits(z, 0.5, rows)
        with pytest.raises(ValueError, match="must have as many rows, but have 2 and 6"):
            shift_binary_logits(z, shares, shares[site])

    def test_shares_that_come_with_their_labels(self) -> None:
        pandas = pytest.importorskip("pandas")
        z, expected = np.zeros((2, 3)), [[math.log(q / (1 - q)) for q in (0.1, 0.2, 0.3)]] * 2
        series = pandas.Series([0.3, 0.1, 0.2], index=[2, 0, 1])
        for shares in (series, series.to_dict(), pandas.DataFrame([series] * 2, index=[1, 0])):
            np.testing.assert_allclose(shift_binary_logits(z, 0.5, shares), expected)

    def test_vector(self) -> None:
        assert log_odds_shift(0.5, [0.5, 0.8]).tolist() == pytest.approx([0.0, math.log(4)])


class TestCalibration:
    share = torch.tensor([0.3, 0.05, 0.6])

    def test_platt_scaling_is_the_logistic_regression_of_each_label(self) -> None:
        ratio, truth = a_world(self.share)
        z = 3.0 * ratio + torch.tensor([5.0, -40.0, 0.0])
        fitted = PlattScaling(3).fit(z, truth, prior_std=math.inf)
        for k in range(3):
            reference = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(z[:, k : k + 1].numpy(), truth[:, k])
            assert float(fitted.scale[k]) == pytest.approx(float(reference.coef_[0, 0]), rel=1e-3)
            assert float(fitted.bias[k]) == pytest.approx(float(reference.intercept_[0]), rel=1e-3, abs=1e-3)

    def test_temperature_is_the_best_scale(self) -> None:
        ratio, truth = a_world(self.share)
        z = 4.0 * ratio + torch.tensor([1.0, 0.0, -2.0])
        fitted = LabelwiseTemperatureScaling(3).fit(z, truth, prior_std=math.inf)
        assert fitted.bias.tolist() == [0.0] * 3
        for k in range(3):

            def loss(a: Any, k: int = k) -> float:
                u = float(a[0]) * z[:, k]
                return float(F.binary_cross_entropy_with_logits(u, truth[:, k].double()))

            best = minimize(loss, [0.2], method="Nelder-Mead", options={"xatol": 1e-6}).x[0]
            assert float(fitted.scale[k]) == pytest.approx(best, rel=1e-3)

    def test_it_calibrates_other_samples(self) -> None:
        for kind, bias in ((PlattScaling, 4.0), (LabelwiseTemperatureScaling, 0.0)):
            (z, truth), (test, test_truth) = a_world(self.share, seed=1), a_world(self.share, 20_000, seed=2)
            z, test = (3.0 * shift_binary_logits(x, 0.5, self.share) + bias for x in (z, test))
            before = labelwise_calibration_error(test.sigmoid(), test_truth)
            after = labelwise_calibration_error(kind(3).fit(z, truth)(test).sigmoid(), test_truth)
            assert after < 0.015 < 0.02 < before

    def test_the_prior_keeps_few_samples_near_the_identity(self) -> None:
        z, truth = torch.tensor([[3.0], [2.0], [-3.0], [-2.0]]), torch.tensor([[1], [1], [0], [0]])  # separable
        weak, strong = (PlattScaling(1).fit(z, truth, prior_std=std) for std in (3.0, 0.1))
        assert 1.0 < float(strong.scale) < float(weak.scale) < 20
        assert float(strong.scale) < 1.05

    def test_labels_of_one_kind_keep_the_identity(self) -> None:
        z, truth = a_world(self.share)
        truth[:, 1], truth[:, 2] = False, True
        fitted = PlattScaling(3).fit(z, truth)
        assert fitted.scale.tolist()[1:] == [1.0, 1.0]
        assert fitted.bias.tolist()[1:] == [0.0, 0.0]

    def test_a_label_that_the_model_has_upside_down_is_not_turned(self) -> None:
        z, truth = a_world(self.share)
        assert bool((PlattScaling(3).fit(-z, truth).scale > 0).all())

    def test_shapes_state_and_one_label(self) -> None:
        z, truth = a_world(torch.tensor([0.3]), 500)
        fitted = PlattScaling(1).fit(z[:, 0], truth[:, 0])
        torch.testing.assert_close(PlattScaling(1).fit(z, truth).scale, fitted.scale)
        assert fitted(z[:, 0]).shape == (500,)
        torch.testing.assert_close(fitted(z)[:, 0], fitted(z[:, 0]))
        again = PlattScaling(1)
        again.load_state_dict(copy.deepcopy(fitted.state_dict()))
        torch.testing.assert_close(again(z), fitted(z))
        three = PlattScaling(3)
        assert three(torch.zeros(2, 3, 4).half()).dtype == torch.float16

    def test_a_cast_costs_it_nothing(self) -> None:
        z, truth = a_world(self.share)
        fitted, z = PlattScaling(3).fit(3.0 * z, truth), z.float()
        expected, rounded = fitted(z), fitted(z.bfloat16().float()).bfloat16()
        torch.nn.Sequential(fitted).bfloat16()
        assert torch.equal(fitted(z), expected)
        assert torch.equal(fitted(z.bfloat16()), rounded)

    def test_errors(self) -> None:
        z, truth = torch.zeros(4, 3), torch.zeros(4, 3)
        for logits, targets, message in (
            (z[:, :2], truth[:, :2], r"`logits` must have shape \[N, 3"),
            (z, truth[:3], r"labels of 4 samples as `logits`, but of 3"),
            (z, truth + 0.5, r"`targets` must be multi-hot rows of 0 and 1, but hold 0\.5"),
            (z / 0, truth, r"`logits` must be finite"),
        ):
            with pytest.raises(ValueError, match=message):
                PlattScaling(3).fit(logits, targets)
        with pytest.raises(ValueError, match="`prior_std` must be positive"):
            PlattScaling(3).fit(z, truth, prior_std=0.0)
        with pytest.raises(ValueError, match="`num_labels` must be at least 1"):
            PlattScaling(0)


@pytest.mark.parametrize("read", [lambda x: x.numpy(), lambda x: x.tolist()], ids=["arrays", "lists"])
def test_arrays_give_arrays(read: Any) -> None:
    share = torch.tensor([0.3, 0.6])
    ratio, truth = a_world(share, 500)
    fitted = PlattScaling(2).fit(ratio, truth)
    given, flags = read(ratio), truth.numpy()
    for found, expected in (
        (shift_binary_logits(given, read(share), 0.5), shift_binary_logits(ratio, share, 0.5)),
        (shift_binary_logits(given, 0.1, 0.5), shift_binary_logits(ratio, 0.1, 0.5)),
        (shift_binary_logits(read(ratio[:, 0]), 0.1, 0.5), shift_binary_logits(ratio[:, 0], 0.1, 0.5)),
        (estimate_label_prior(given, 0.5), estimate_label_prior(ratio, 0.5)),
        (PlattScaling(2).fit(given, flags)(given), fitted(ratio)),
    ):
        assert (type(found), type(expected)) == (np.ndarray, Tensor)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    # One label: flags [N], of any form.
    one = PlattScaling(1).fit(ratio[:, 0], truth[:, 0])
    for labels in (read(truth[:, 0].long()), flags[:, 0], flags[:, :1], [[0] * int(y) for y in truth[:, 0]]):
        again = PlattScaling(1).fit(read(ratio[:, 0]), labels)
        torch.testing.assert_close(torch.stack([again.scale, again.bias]), torch.stack([one.scale, one.bias]))
    with pytest.raises(ValueError, match="`targets` must be multi-hot rows of 0 and 1, but hold 2"):
        PlattScaling(1).fit(read(ratio[:3, 0]), np.array([0, 1, 2]))

    @pytest.mark.parametrize("make", [PlattScaling, LabelwiseTemperatureScaling])
    def test_each_label_is_fitted_to_what_is_known_of_it(self, make: Any) -> None:
        logits = 3.0 * torch.randn(200, 2)
        targets = (torch.rand(200, 2) < (logits / 2).sigmoid()).long()
        known = torch.rand(200, 2) < 0.5
        found = make(2).fit(logits, targets.masked_fill(~known, -1), ignore_index=-1)
        for k, kept in enumerate(known.T):
            alone = make(1).fit(logits[kept, k], targets[kept, k])
            assert (found.scale[k], found.bias[k]) == (alone.scale[0], alone.bias[0])
        with pytest.raises(ValueError, match=r"hold -1.*`ignore_index`"):
            make(2).fit(logits, targets.masked_fill(~known, -1))


class TestEstimate:
    def test_finds_the_shares_of_another_world(self) -> None:
        there = torch.tensor([0.02, 0.5, 0.9])
        ratio, truth = a_world(there, size=20_000)
        for here in (0.5, [0.1, 0.3, 0.6]):
            found = estimate_label_prior(shift_binary_logits(ratio, 0.5, here), here)
            torch.testing.assert_close(found, truth.double().mean(0), rtol=0, atol=0.02)

    def test_is_the_fixed_point_of_em(self) -> None:
        ratio, _ = a_world(torch.tensor([0.3, 0.7]), size=300)
        q = torch.tensor([0.5, 0.5]).double()
        for _ in range(5000):
            q = (ratio + q.logit()).sigmoid().mean(0)
        torch.testing.assert_close(estimate_label_prior(ratio, 0.5), q, rtol=0, atol=1e-9)

    def test_stays_where_log_odds_are_finite(self) -> None:
        z = torch.tensor([[-9.0, 9.0]]).expand(50, 2)
        assert estimate_label_prior(z, 0.5).tolist() == pytest.approx([0.01, 0.99])

    def test_one_label(self) -> None:
        ratio, _ = a_world(torch.tensor([0.3]), size=300)
        torch.testing.assert_close(estimate_label_prior(ratio[:, 0], 0.5), estimate_label_prior(ratio, [0.5]))

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"`logits_prior` must hold one share a label, shape \[2\]"):
            estimate_label_prior(torch.zeros(3, 2), [0.5] * 3)
        with pytest.raises(ValueError, match=r"shape \[N, L\], but are .*\[0, 2\]"):
            estimate_label_prior(torch.zeros(0, 2), 0.5)
        with pytest.raises(ValueError, match="`logits` must be finite"):
            estimate_label_prior(torch.tensor([[math.inf]]), 0.5)


class TestLabelwisePriorShift:
    SOURCE, TARGET = [0.3, 0.05, 0.5], [0.1, 0.4, 0.5]

    def test_is_the_shift_as_a_layer(self) -> None:
        logits = torch.randn(5, 3)
        model = LabelwisePriorShift(nn.Identity(), self.SOURCE, self.TARGET, strength=0.7)
        torch.testing.assert_close(model(logits), shift_binary_logits(logits, self.SOURCE, self.TARGET, 0.7))
        half = LabelwisePriorShift(nn.Identity(), self.SOURCE)
        torch.testing.assert_close(half(logits), shift_binary_logits(logits, self.SOURCE, 0.5))
        rows = torch.rand(5, 3).clamp(0.1, 0.9)
        torch.testing.assert_close(
            half(logits, target_prior=rows), shift_binary_logits(logits, self.SOURCE, rows), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(model.retarget(self.SOURCE)(logits), logits)

    def test_is_saved_and_compiled(self) -> None:
        logits = torch.randn(5, 3)
        model = LabelwisePriorShift(nn.Identity(), self.SOURCE, self.TARGET)
        other = LabelwisePriorShift(nn.Identity(), self.TARGET)
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(logits), model(logits))
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        target = torch.tensor(self.TARGET)
        torch.testing.assert_close(compiled(logits, target_prior=target), model(logits))

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"`logits_prior` must hold shares of the samples, .* label 0 has 30"):
            LabelwisePriorShift(nn.Identity(), [30, 5, 50])
        with pytest.raises(ValueError, match="target_prior"):
            LabelwisePriorShift(nn.Identity(), self.SOURCE, [0.5, 0.5])
        with pytest.raises(ValueError, match="`strength` must be finite"):
            LabelwisePriorShift(nn.Identity(), self.SOURCE, strength=float("inf"))
