"""Methods on samples with several labels: which have a meaning, and what their plans are made of."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug import (
    METHODS,
    DistributionBalancedLoss,
    Method,
    MixUp,
    PriorCorrectedBCELoss,
    label_counts,
    multi_hot,
    rarest_label,
    shift_binary_logits,
)
from ltaug.methods import TrainingPlan

SHARES = torch.tensor([0.6, 0.3, 0.1, 0.03])
ROWS = torch.rand(600, 4, generator=torch.Generator().manual_seed(1)) < SHARES
LISTS = [row.nonzero()[:, 0].tolist() for row in ROWS]
SEVERAL = [name for name, method in METHODS.items() if method.multi_label]
RATE = 4000


def plan_of(method: Method | str, labels: Any = ROWS, epochs: int = 100, **settings: Any) -> TrainingPlan:
    method = METHODS[method] if isinstance(method, str) else method
    return method.plan(labels, epochs=epochs, **({"batch_size": 60, "sample_rate": RATE} | settings))


def batches(plan: TrainingPlan, size: int = 60) -> Any:
    """Batches of an epoch with inputs of zeros, as a loader would make them."""
    blank = torch.zeros(size, 1, 64)
    for indices in plan.sampler.indices().split(size):
        if indices.ndim == 2:
            yield (blank, ROWS[indices[:, 0]]), (blank, ROWS[indices[:, 1]])
        else:
            yield blank, ROWS[indices]


class TestWhichHaveAMeaning:
    def test_methods_by_name(self) -> None:
        assert {"erm", "mixup", "cutmix", "bayias", "mixup_bayias", "lob_bc", "crt", "drs"} <= set(SEVERAL)
        assert {"repeat_factor", "distribution_balanced", "square_root"} <= set(SEVERAL)
        without = {"unimix", "remix", "lade", "ldam", "focal", "cb_ce", "bc", "bbn", "mislas", "tau_norm", "ncm", "cdt"}
        assert not without & set(SEVERAL)
        assert [name for name, method in METHODS.items() if not method.single_label] == ["distribution_balanced"]

    @pytest.mark.parametrize("name", [name for name in METHODS if name not in SEVERAL])
    def test_others_say_what_has_none(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"`labels` hold several labels a sample, but `\w+: \w+` is for classes"):
            plan_of(name)

    def test_what_is_said(self) -> None:
        wanted = (
            "`mixer: unimix` is for classes that exclude each other; with several labels a sample it must be none or "
            "mixup or cutmix or between_class"
        )
        assert METHODS["unimix"].multi_label_fault() == wanted
        assert "`different_classes: true`" in METHODS["bc"].multi_label_fault()
        assert METHODS["bc"].replace(different_classes=False).multi_label
        assert METHODS["erm"].multi_label_fault() == ""

    def test_a_loss_of_labels_needs_them(self) -> None:
        with pytest.raises(ValueError, match=r"must be multi-hot rows \[N, L\] for `loss: distribution_balanced`"):
            plan_of("distribution_balanced", [0, 1, 1])

    def test_one_hot_rows_of_classes_are_warned_of(self) -> None:
        one_hot = F.one_hot(torch.tensor([0, 1, 2, 0]))
        with pytest.warns(UserWarning, match=r"exactly one of the labels.*`labels\.argmax\(1\)`"):
            plan_of("erm", one_hot)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plan_of("erm", ROWS)
            plan_of("erm", torch.tensor([[1], [1]]))  # a single label that all have


class TestPlan:
    @pytest.mark.parametrize(
        "labels", [ROWS, ROWS.float(), ROWS.numpy(), [row.nonzero()[:, 0].tolist() for row in ROWS]]
    )
    def test_forms_of_labels(self, labels: Any) -> None:
        plan = plan_of("class_balanced", labels, num_classes=4)
        assert torch.equal(plan.class_counts, label_counts(ROWS))
        assert torch.equal(plan.labels, rarest_label(ROWS))
        torch.testing.assert_close(plan.label_prior, ROWS.double().mean(0))
        assert torch.equal(plan.sampler.indices(), plan_of("class_balanced").sampler.indices())  # type: ignore[attr-defined]

    def test_losses(self) -> None:
        assert isinstance(plan_of("erm").criterion, nn.BCEWithLogitsLoss)
        loss = plan_of("bayias").criterion
        assert isinstance(loss, PriorCorrectedBCELoss)
        torch.testing.assert_close(loss.shift.double(), ROWS.double().mean(0).logit(), rtol=1e-5, atol=1e-6)
        aimed = plan_of(METHODS["bayias"].replace(target_prior=[0.2, 0.2, 0.1, 0.1], loss_tau=0.5)).criterion
        wanted = 0.5 * (ROWS.double().mean(0).logit() - torch.tensor([0.2, 0.2, 0.1, 0.1]).double().logit())
        torch.testing.assert_close(aimed.shift.double(), wanted, rtol=1e-5, atol=1e-6)
        balanced = plan_of(METHODS["distribution_balanced"].replace(db_neg_scale=5.0, db_mu=0.3)).criterion
        assert isinstance(balanced, DistributionBalancedLoss)
        assert (balanced.settings["neg_scale"], balanced.settings["mu"]) == (5.0, 0.3)

    @pytest.mark.parametrize("name", SEVERAL)
    def test_a_step(self, name: str) -> None:
        plan = plan_of(name)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4))
        net.register_module("fc", net.pop(2))
        plan.attach(net)
        for epoch in (0, 99):
            plan.set_epoch(epoch)
            inputs, targets = plan.mix(next(batches(plan)))
            assert targets.is_floating_point()
            loss = plan.criterion(net(inputs), targets)
            loss.backward()
            assert loss.isfinite()

    @pytest.mark.parametrize("rule", ["union", "convex"])
    def test_mixing_rule(self, rule: str) -> None:
        plan = plan_of(METHODS["mixup"].replace(label_mixing=rule))
        _, targets = plan.mix(next(batches(plan)))
        assert set(targets.unique().tolist()) <= {0.0, 1.0} if rule == "union" else len(targets.unique()) > 4

    def test_a_label_without_positives_is_named_where_its_prior_is_needed(self) -> None:
        rows = torch.cat([ROWS, torch.zeros(600, 1, dtype=torch.bool)], 1)
        plan_of("erm", rows)
        for name in ("bayias", "distribution_balanced"):
            with pytest.raises(ValueError, match="no sample of class 4"):
                plan_of(name, rows)

    def test_one_logit(self) -> None:
        y = ROWS[:, 2:3]
        plan = plan_of("bayias", y)
        assert plan.criterion(torch.zeros(5), y[:5].float()).isfinite()
        assert plan.labels.unique().tolist() == [0, 1]  # with the label, and without

    def test_learns_what_the_losses_are_for(self) -> None:
        """A linear model on known likelihood ratios: the logits come out under the prior that the plan says."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.rand(4000, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.05])
        x = torch.randn(4000, 3, generator=generator) + (2.0 * rows - 1.0)
        for name in ("erm", "bayias", "class_balanced"):
            plan, net = plan_of(name, rows), nn.Linear(3, 3)
            optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe")
            drawn = plan.sampler.indices()  # type: ignore[attr-defined]

            def closure(drawn: Tensor = drawn, plan: TrainingPlan = plan, net: Any = net, o: Any = optimizer) -> Any:
                o.zero_grad()
                loss = plan.criterion(net(x[drawn]), rows[drawn].float())
                loss.backward()
                return loss

            optimizer.step(closure)
            prior = plan.logits_prior()
            ratio = shift_binary_logits(net(torch.zeros(1, 3)), prior, 0.5)  # at x = 0 it is 0, with independent labels
            limit = 0.5 if name == "class_balanced" else 0.25  # which makes labels dependent
            assert float(ratio.detach().abs().max()) < limit, (name, ratio)


class TestPriors:
    @pytest.mark.parametrize("name", SEVERAL)
    def test_what_is_seen_is_what_is_drawn_and_mixed(self, name: str) -> None:
        method = METHODS[name].replace(classifier="linear", batch_norm="train", first_stage=None)
        for rule in ("union", "convex") if method.mixer != "none" else ("union",):
            for epoch in {0, 90}:
                plan = plan_of(method.replace(label_mixing=rule))
                wanted = plan.seen_prior(epoch)
                mass = torch.zeros(4, dtype=torch.float64)
                for seed in range(6):
                    drawn = plan_of(method.replace(label_mixing=rule), seed=seed)
                    drawn.set_epoch(epoch)
                    mass += torch.cat([drawn.mix(batch)[1].double() for batch in batches(drawn)]).mean(0) / 6
                bound = 4.5 * (wanted * (1 - wanted) / 3600).sqrt() + 2e-3
                assert bool(((mass - wanted).abs() < bound).all()), (rule, epoch, mass, wanted)

    def test_partners_from_the_batch(self) -> None:
        p = ROWS.double().mean(0)
        plan = plan_of(METHODS["mixup"].replace(partner="batch"), batch_size=2)
        torch.testing.assert_close(plan.seen_prior(), p / 2 + (1 - (1 - p) ** 2) / 2)
        convex = plan_of(METHODS["mixup"].replace(partner="batch", label_mixing="convex"))
        torch.testing.assert_close(convex.seen_prior(), p)

    @pytest.mark.parametrize("rule", ["union", "convex"])
    @pytest.mark.parametrize(("prob", "enabled"), [(0.5, True), (1.0, False), (0.5, False)])
    def test_a_mixer_that_rests(self, rule: str, prob: float, enabled: bool) -> None:
        p = ROWS.double().mean(0)
        both = 1 - (1 - p) ** 2 if rule == "union" else p
        share = prob if enabled else 0.0
        for method in (METHODS["mixup_bayias"], METHODS["mixup_bayias"].replace(partner="batch")):
            plan = plan_of(method.replace(label_mixing=rule, prior="effective"), batch_size=60)
            plan.mixer.prob, plan.mixer.mixup_enabled = prob, enabled
            alone = 1 / 60 if method.partner == "batch" else 0.0
            mixed = alone * p + (1 - alone) * both
            torch.testing.assert_close(plan.seen_prior(), share * mixed + (1 - share) * p)
            corrected = plan.criterion.shift.double().sigmoid()  # type: ignore[operator, union-attr]
            torch.testing.assert_close(corrected, plan.seen_prior(), rtol=1e-5, atol=1e-6)

    def test_it_is_what_is_mixed(self) -> None:
        plan = plan_of("mixup")
        plan.mixer.prob = 0.3
        mass = torch.cat([plan.mix(batch)[1].double() for _ in range(30) for batch in batches(plan)]).mean(0)
        torch.testing.assert_close(mass, plan.seen_prior(), rtol=0, atol=0.03)

    def test_a_mixer_of_one_s_own_has_its_own_rule(self) -> None:
        p = ROWS.double().mean(0)
        plan = plan_of(METHODS["mixup"].replace(partner_tau=0.0))
        partners = plan_of("class_balanced").seen_prior()
        plan.mixer = MixUp(4, multi_label="convex")
        torch.testing.assert_close(plan.seen_prior(), (p + partners) / 2)
        plan = plan_of(METHODS["mixup"].replace(label_mixing="convex"))
        plan.mixer = lambda *batch: batch[:2]
        assert plan.logits_prior() is None
        assert "`mixer` must have `expected_weights`" in plan.logits_prior_reason()

    def test_of_the_logits(self) -> None:
        p = ROWS.double().mean(0)

        def prior_of(method: Method) -> Tensor:
            return plan_of(method).logits_prior()

        torch.testing.assert_close(prior_of(METHODS["erm"]), p)
        torch.testing.assert_close(prior_of(METHODS["bayias"]), torch.full((4,), 0.5).double())
        torch.testing.assert_close(
            prior_of(METHODS["bayias"].replace(target_prior=[0.1, 0.2, 0.3, 0.4]))[3].item(), 0.4
        )
        half = prior_of(METHODS["bayias"].replace(loss_tau=0.5))
        torch.testing.assert_close(half.logit(), p.logit() / 2)
        seen = plan_of("class_balanced").seen_prior()
        torch.testing.assert_close(prior_of(METHODS["class_balanced"]), seen)
        both = METHODS["class_balanced"].replace(loss="prior_corrected")
        torch.testing.assert_close(prior_of(both).logit(), seen.logit() - p.logit())
        torch.testing.assert_close(prior_of(both.replace(prior="effective")), torch.full((4,), 0.5).double())
        assert "over the training prior that the loss corrects" in plan_of("bayias").logits_prior_reason()

    def test_where_none_is_known_it_says_why(self) -> None:
        plan = plan_of("distribution_balanced")
        assert plan.logits_prior() is None
        assert "are those of no prior" in plan.logits_prior_reason()
        own = plan_of("erm")
        own.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.ones(4))
        assert own.logits_prior() is None
        assert "unmixed samples have fewer labels" in plan_of("mixup").logits_prior_reason()
        assert "approximation" not in plan_of("bayias").logits_prior_reason()

    def test_mixed_labels_of_both(self) -> None:
        p = ROWS.double().mean(0)
        torch.testing.assert_close(plan_of("mixup").seen_prior(), 1 - (1 - p) ** 2)
        assert multi_hot(ROWS).shape == (600, 4)
        assert not math.isnan(float(plan_of("mixup_bayias").logits_prior().sum()))  # type: ignore[union-attr]
