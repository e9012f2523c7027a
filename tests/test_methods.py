"""Methods as values, and the plans that they make: every number is derived a second time here, or counted."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, TensorDataset

import ltaug
from ltaug import (
    BayiasLoss,
    ClassPowerSampler,
    CutMix,
    LDAMLoss,
    MixUp,
    NearestClassMeanClassifier,
    PairDataset,
    PairSampler,
    ResidentLoader,
    UniMix,
)
from ltaug.losses import ClassWeightedLoss, effective_number_weights
from ltaug.methods import (
    METHODS,
    PUBLISHED,
    Method,
    TrainingPlan,
    find_classifier,
    find_last_block,
    find_mixing_layers,
    published_settings,
)
from ltaug.samplers import DeferredSampler, EffectiveNumberSampler

COUNTS = torch.tensor([300, 120, 60, 30, 12, 6])
LABELS = torch.arange(6).repeat_interleave(COUNTS)[torch.randperm(528, generator=torch.Generator().manual_seed(1))]
SINGLE_LABEL = [name for name, method in METHODS.items() if method.single_label]
FIRST_STAGES = [name for name in SINGLE_LABEL if not METHODS[name].second_stage]
SECOND_STAGES = [name for name, method in METHODS.items() if method.second_stage]
SOUND = [name for name, method in METHODS.items() if "between_class" in method.mixer]
RATE = 4000


def plan_of(method: Method | str, epochs: int = 100, labels: Tensor = LABELS, **settings: Any) -> TrainingPlan:
    """A plan on six classes."""
    method = METHODS[method] if isinstance(method, str) else method
    if method.classifier == "bilateral" and not method.branch:
        method = method.replace(branch="body")  # of Net, below
    return method.plan(labels, epochs=epochs, **({"batch_size": 64, "sample_rate": RATE} | settings))


class Net(nn.Module):
    """Two stages and a linear layer, on images of 8 x 8 pixels."""

    mixing_layers = ("input", "body.2")

    def __init__(self, num_classes: int = 6, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.fc = nn.Linear(16, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


# --- what a Method is -------------------------------------------------------------------------------------------------


class TestMethod:
    def test_every_setting_has_a_line_of_meaning(self) -> None:
        import inspect

        source = inspect.getsource(Method).splitlines()
        for item in fields(Method):
            start = next(k for k, line in enumerate(source) if line.startswith(f"    {item.name}: "))
            own = itertools.takewhile(lambda line: not re.match(r"    \w+: ", line), source[start + 1 :])
            assert any(line.startswith('    """') for line in own), item.name

    def test_is_a_value(self) -> None:
        method = Method(mixer="mixup", alpha=0.4)
        assert method == Method(mixer="mixup", alpha=0.4)
        assert hash(method) == hash(Method(mixer="mixup", alpha=0.4))
        assert method != Method(mixer="mixup")
        assert Method(paper="one") == Method(paper="another")  # where it is published changes nothing
        with pytest.raises(FrozenInstanceError):
            method.alpha = 1.0  # type: ignore[misc]

    def test_whole_numbers_and_lists_become_what_the_type_says(self) -> None:
        method = Method(mixer="unimix", partner_tau=-1, manifold_layers=["input"])  # type: ignore[arg-type]
        assert (method.partner_tau, type(method.partner_tau)) == (-1.0, float)
        assert method.manifold_layers == ("input",)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"mixer": "unimx"}, r"`mixer` must be one of none, mixup, .* but is 'unimx', did you mean 'unimix'\?"),
            ({"loss": "bayias"}, r"`loss` must be one of ce, prior_corrected, .* but is 'bayias'"),
            ({"sampler": 3}, "`sampler` must be one of power, .* but is 3"),
            ({"alpha": "0.5"}, "`alpha` must be of type float, but is '0.5'"),
            ({"alpha": True}, "`alpha` must be of type float, but is True"),
            ({"alpha": None}, "`alpha` must be of type float, but is None"),
            ({"different_classes": 1}, "`different_classes` must be of type bool, but is 1"),
            ({"samples_per_class": 2.5}, "`samples_per_class` must be of type int, but is 2.5"),
            ({"cut_dims": 2}, "`cut_dims` must be of type tuple"),
            ({"rebalance_from": 160.0}, r"`rebalance_from` is a share of the training, in 0..1, but is 160.0"),
            ({"mix_until": -0.1}, "`mix_until` is a share"),
            ({"reweight_from": math.nan}, "`reweight_from` is a share"),
            ({"prior": "effective"}, "`prior` is what prior_corrected and lade correct, but `loss` is ce"),
            ({"loss": "ldam"}, r"`loss: ldam` needs cosines: set `classifier: cosine` \(it is linear\)"),
            ({"loss": "lade", "class_weights": "effective_number"}, "`class_weights` cannot weight `loss: lade`"),
            ({"different_classes": True}, "`different_classes` is about pairs, but `mixer` is none"),
            ({"target_prior": [0.5, 0.5]}, "`target_prior` belongs to prior_corrected, but `loss` is ce"),
            ({"target_prior": [1, 0], "loss": "prior_corrected"}, "must hold a positive number for each class"),
            ({"target_prior": [1, "a"], "loss": "prior_corrected"}, "must hold numbers, but has 'a'"),
            ({"tune_tau": True}, "`tune_tau` belongs to tau_norm, but `classifier` is linear"),
            ({"manifold_layers": [1]}, "`manifold_layers` must hold texts, but has 1"),
            ({"mixer": "bilateral"}, "are the two halves of BBN: set both"),
            ({"classifier": "bilateral"}, "are the two halves of BBN: set both"),
            ({"mixer": "bilateral", "classifier": "bilateral", "partner": "batch"}, "needs pairs to the end"),
            ({"mixer": "bilateral", "classifier": "bilateral", "mix_until": 0.9}, "needs pairs to the end"),
            ({"classifier": "crt", "mixer": "manifold_mixup"}, "mixes inside the network, which a second stage keeps"),
            ({"batch_norm": "shift"}, "`batch_norm` and `first_stage` belong to second stages"),
            ({"first_stage": "erm"}, "belong to second stages, but `classifier` is linear"),
        ],
    )
    def test_a_wrong_setting_is_named(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Method(**settings)

    def test_replace_checks_again(self) -> None:
        assert METHODS["mixup"].replace(alpha=0.4) == Method(mixer="mixup", alpha=0.4)
        assert METHODS["mixup"].replace().paper == METHODS["mixup"].paper
        with pytest.raises(ValueError, match=r"`alhpa` is no setting of a method, did you mean 'alpha'\?"):
            Method().replace(alhpa=0.5)
        with pytest.raises(ValueError, match=r"`xyzzy` is no setting of a method\. There are: sampler, tau, "):
            Method().replace(xyzzy=0.5)
        with pytest.raises(ValueError, match="needs cosines"):
            METHODS["ldam"].replace(classifier="linear")

    def test_changes_make_the_same_method_again(self) -> None:
        assert Method().changes() == {}
        for name, method in METHODS.items():
            assert Method(**method.changes()) == method, name
            assert "paper" not in method.changes()

    @given(st.data())
    def test_changes_are_what_was_given(self, data: st.DataObject) -> None:
        free = {
            "tau": st.floats(-2, 2),
            "alpha": st.floats(0.1, 4),
            "mixer": st.sampled_from(["none", "mixup", "unimix", "remix", "cutmix"]),
            "partner": st.sampled_from(["dataset", "batch"]),
            "partner_tau": st.floats(-2, 2),
            "loss": st.sampled_from(["ce", "prior_corrected", "focal"]),
            "mix_until": st.floats(0, 1),
        }
        chosen = data.draw(st.fixed_dictionaries({}, optional=free))
        defaults = {item.name: item.default for item in fields(Method)}
        wanted = {name: value for name, value in chosen.items() if value != defaults[name]}
        method = Method().replace(**chosen)
        assert method.changes() == wanted
        assert method.replace(**{name: defaults[name] for name in wanted}) == Method()


class TestLiterature:
    def test_every_choice_has_a_method(self) -> None:
        """Each sampler, mixer, loss and classifier is one of the literature's, but for one that no method here has."""
        unused = set()
        for name, kind in get_type_hints(Method).items():
            if name in ("sampler", "mixer", "loss", "classifier", "partner", "prior", "class_weights"):
                used = {getattr(method, name) for method in METHODS.values()}
                unused |= {f"{name} {choice}" for choice in get_args(kind) if choice not in used}
        assert unused == {"sampler effective_number"}

    def test_each_says_where_it_is_from(self) -> None:
        # LWS and its kind take over the paper of what they are made from.
        assert not [name for name, method in METHODS.items() if not method.paper]

    def test_second_stages_start_from_a_method_with_a_linear_classifier(self) -> None:
        mixed = {"crt_mixup", "lws_mixup", "crt_mixup_twice", "lws_mixup_twice", "lws_mixup_shift"}
        assert set(SECOND_STAGES) == {"crt", "lws", "tau_norm", "ncm", "mislas", "mislas_cb_ce", *mixed}
        for name in SECOND_STAGES:
            first = METHODS[METHODS[name].first_stage or ""]
            assert first.classifier == "linear"
            assert not first.second_stage
            assert METHODS[name].sampler == "class_aware"
        assert [name for name in METHODS if not METHODS[name].trained] == ["tau_norm", "ncm"]

    def test_three_names_of_one_loss(self) -> None:
        assert METHODS["bayias"] == METHODS["balanced_softmax"] == METHODS["logit_adjustment"]

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("erm", {}),
            ("mixup", {"mixer": "mixup"}),
            (
                "unimix_bayias",
                {"mixer": "unimix", "alpha": 0.8, "partner_tau": 0.0, "mix_until": 0.9, "loss": "prior_corrected"},
            ),
            (
                "unimix_bayias_official",
                {"mixer": "unimix", "alpha": 0.8, "partner": "batch", "partner_tau": 0.9, "loss": "prior_corrected"},
            ),
            ("lob_mixup_deferred", {"mixer": "mixup", "tau": 0.0, "partner_tau": 0.0, "rebalance_from": 0.8}),
            (
                "ldam_drw",
                {"loss": "ldam", "classifier": "cosine", "class_weights": "effective_number", "reweight_from": 0.8},
            ),
            ("lade", {"loss": "lade"}),
            ("progressively_balanced", {"sampler": "progressive"}),
            (
                "mislas",
                {
                    "sampler": "class_aware",
                    "classifier": "mislas",
                    "batch_norm": "shift",
                    "first_stage": "mixup",
                    "loss": "label_aware_smoothing",
                },
            ),
        ],
    )
    def test_what_some_of_them_change(self, name: str, settings: dict[str, Any]) -> None:
        assert METHODS[name].changes() == settings


class TestPublished:
    """Tables of the papers, typed again."""

    @pytest.mark.parametrize(
        ("dataset", "ratio", "head", "tail", "delta"),  # MiSLAS, Table 6
        [
            ("cifar10", 10, 0.1, 0.0, 0.2),
            ("cifar10", 50, 0.2, 0.0, 0.2),
            ("cifar10", 100, 0.3, 0.0, 0.5),
            ("cifar100", 10, 0.2, 0.0, 0.1),
            ("cifar100", 50, 0.3, 0.0, 0.1),
            ("cifar100", 100, 0.4, 0.1, 0.2),
            ("imagenet_lt", None, 0.3, 0.0, 0.05),
            ("places_lt", None, 0.4, 0.1, 0.05),
            ("inaturalist2018", None, 0.4, 0.0, 0.05),
        ],
    )
    def test_mislas(self, dataset: str, ratio: float | None, head: float, tail: float, delta: float) -> None:
        method = METHODS["mislas"].replace(**published_settings("mislas", dataset, ratio))
        assert (method.smoothing_head, method.smoothing_tail, method.delta_lr_ratio) == (head, tail, delta)

    @pytest.mark.parametrize(
        ("dataset", "ratio", "alpha", "weight"),  # LADE, Table 7
        [
            ("cifar100", 10, 0.01, 0.01),
            ("cifar100", 50, 0.01, 0.01),
            ("cifar100", 100, 0.1, 0.01),
            ("places_lt", None, 0.005, 0.1),
            ("imagenet_lt", None, 0.05, 0.5),
            ("inaturalist2018", None, 0.05, 0.5),
        ],
    )
    def test_lade(self, dataset: str, ratio: float | None, alpha: float, weight: float) -> None:
        method = METHODS["lade"].replace(**published_settings("lade", dataset, ratio))
        assert (method.lade_alpha, method.lade_lambda) == (alpha, weight)

    @pytest.mark.parametrize("ratio", [10, 50, 100, 200])
    def test_unimix(self, ratio: float) -> None:
        """The paper's tau is -1 for CIFAR-10, 0 for CIFAR-100; the code's -0.5 and -0.1 are 0.5 and 0.9 of a class."""
        for name in ("unimix", "unimix_bayias", "unimix_bayias_effective", "unimix_ldam"):
            for dataset, tau in (("cifar10", -1.0), ("cifar100", 0.0)):
                method = METHODS[name].replace(**published_settings(name, dataset, ratio))
                assert (method.alpha, method.partner_tau) == (0.8, tau)
        for dataset, tau in (("cifar10", 1 - 0.5), ("cifar100", 1 - 0.1)):
            name = "unimix_bayias_official"
            method = METHODS[name].replace(**published_settings(name, dataset, ratio))
            assert (method.partner, method.partner_tau, method.mix_until) == ("batch", tau, 1.0)

    def test_mixup_of_large_sets(self) -> None:
        for dataset in ("imagenet_lt", "places_lt", "inaturalist2018"):
            assert published_settings("mixup", dataset) == {"alpha": 0.2, "partner": "batch"}
            assert published_settings("lob_mixup", dataset) == {"alpha": 0.2}
            assert published_settings("causal_norm", dataset) == {"causal_alpha": 3.0}
        assert METHODS["causal_norm"].causal_alpha == 1.5  # CIFAR-100

    def test_another_data_set_or_ratio_has_none(self) -> None:
        for name in METHODS:
            for dataset in ("digits", "synthetic", "folder", "esc50", ""):
                assert published_settings(name, dataset, 100) == {}
        assert published_settings("mislas", "cifar10", 200) == {}
        assert published_settings("mislas", "cifar10") == {}  # as it is, whatever its ratio
        assert published_settings("lade", "cifar10", 10) == {}

    def test_every_line_is_of_methods_that_take_it(self) -> None:
        assert len(PUBLISHED) > 15
        seen = set()
        for names, datasets, ratio, settings in PUBLISHED:
            for name, dataset in itertools.product(names, datasets):
                changed = METHODS[name].replace(**settings)
                assert changed != METHODS[name] or (name[:6], ratio) == ("mislas", 100), (name, dataset)
                for key in settings:
                    assert (name, dataset, ratio, key) not in seen, "two lines say different things"
                    seen.add((name, dataset, ratio, key))


# --- priors, derived again --------------------------------------------------------------------------------------------


def powers(counts: np.ndarray, tau: float) -> np.ndarray:
    """Class probabilities ~ n^tau; absent classes stay absent."""
    with np.errstate(divide="ignore"):
        values = np.where(counts > 0, counts**tau, 0.0)
    return values / values.sum()


def first_weight(m: Method, n: np.ndarray) -> np.ndarray:
    """E[weight of the first label] of a pair of classes [i, j]."""
    shape = (len(n), len(n))
    if m.mixer == "cutmix":
        # A box of side c = sqrt(1 - lam) around a uniform place covers (c - c^2 / 4)^2 of the area on average.
        return np.full(shape, 1 - stats.beta(m.alpha, m.alpha).expect(lambda u: (np.sqrt(u) - u / 4) ** 2))
    half = np.full(shape, 0.5)
    if m.mixer == "remix":
        ratio = n[:, None] / n[None, :]
        # Where the first is the frequent one, lam counts from tau on: E[lam; lam >= tau].
        kept = stats.beta(m.alpha + 1, m.alpha).sf(m.remix_tau) / 2
        return np.where(ratio >= m.remix_kappa, kept, np.where(ratio <= 1 / m.remix_kappa, 1 - kept, half))
    if m.mixer in ("unimix", "unimix_between_class"):
        # (B + r) mod 1, with r = n_j / (n_i + n_j): what wraps around loses 1.
        r = n[None, :] / (n[:, None] + n[None, :])
        return 0.5 + r - stats.beta(m.alpha, m.alpha).sf(1 - r)
    if m.mixer == "occurrence_mixup":
        share = n[None, :] / (n[:, None] + n[None, :])  # lam n_j / (lam n_j + (1 - lam) n_i) by this share

        def mean(s: float) -> float:
            weight = stats.beta(m.alpha, m.alpha).expect(lambda lam: lam * s / (lam * s + (1 - lam) * (1 - s)))
            return float(weight)

        return np.vectorize(mean)(share)
    return half


def derived(m: Method, n: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
    """The label distribution of an epoch, of pairs over the whole set or without pairs."""
    balanced = epoch >= round(m.rebalance_from * epochs)
    p = powers(n, 1.0)
    if balanced and m.sampler == "power":
        p = powers(n, m.tau)
    elif balanced and m.sampler == "class_aware":
        p = powers(n, 0.0)
    elif balanced and m.sampler == "progressive":
        p = (1 - epoch / epochs) * powers(n, 1.0) + epoch / epochs * powers(n, 0.0)
    elif balanced and m.sampler == "repeat_factor":
        p = powers(n * np.maximum(1.0, np.sqrt(m.repeat_threshold * n.sum() / n)), 1.0)
    elif balanced and m.sampler == "effective_number":
        p = n * (1 - m.beta) / (1 - m.beta**n)
        p = p / p.sum()
    if m.mixer == "none" or epoch >= round(m.mix_until * epochs):
        return p
    if m.partner == "batch":
        assert m.mixer in ("mixup", "manifold_mixup", "cutmix", "remix", "between_class")
        assert not m.different_classes
        q = p  # a permutation of the batch
    else:
        q = powers(n, m.partner_tau if balanced else 1.0)
    pairs = p[:, None] * q[None, :]
    if m.mixer == "bilateral":
        alpha = 1 - (epoch / epochs) ** 2
        return alpha * p + (1 - alpha) * q
    if m.different_classes:
        pairs = pairs * (1 - np.eye(len(n)))
        pairs = pairs / pairs.sum()
    weight = first_weight(m, n)
    return (pairs * weight).sum(1) + (pairs * (1 - weight)).sum(0)


def counted(plan: TrainingPlan, model: nn.Module, epochs: range, batch_size: int) -> tuple[np.ndarray, int]:
    """The label mass that sampler and mixer really make over some epochs, and of how many samples."""
    torch.manual_seed(0)
    sound = "between_class" in plan.method.mixer
    blank = torch.randn(batch_size, 128) if sound else torch.zeros(batch_size, 3, 8, 8)
    mass, total = torch.zeros(6, dtype=torch.float64), 0
    for epoch in epochs:
        plan.set_epoch(epoch)
        drawn = LABELS[plan.sampler.indices()]
        for labels in drawn[: len(drawn) // batch_size * batch_size].split(batch_size):
            pairs = labels.ndim == 2
            batch = ((blank, labels[:, 0]), (blank, labels[:, 1])) if pairs else (blank, labels)
            inputs, targets = plan.mix(batch)
            if plan.method.mixer == "manifold_mixup":
                model(inputs)
            dense = targets if targets.ndim == 2 else nn.functional.one_hot(targets, 6)
            mass += dense.double().sum(0)
            total += batch_size
    return (mass / total).numpy(), total


def test_weights_of_the_inverse_frequency() -> None:
    """They are scikit-learn's, and plain training with them ends under the uniform prior."""
    plan = METHODS["erm"].replace(class_weights="inverse").plan([0] * 90 + [1] * 9 + [2], epochs=10)
    assert plan.criterion.class_weights.tolist() == pytest.approx([100 / 270, 100 / 27, 100 / 3])
    assert plan.logits_prior().tolist() == pytest.approx([1 / 3] * 3)


class TestPriors:
    @pytest.mark.parametrize("name", SINGLE_LABEL)
    def test_what_is_seen_is_what_is_drawn_and_mixed(self, name: str) -> None:
        """Counted in the first epochs, and behind every switch; each of these is one phase."""
        plan, m, model = plan_of(name, epochs=1000), METHODS[name], Net().train()
        plan.attach(model)
        places = {0, round(1000 * m.rebalance_from), 960} - {1000}
        for start in places:
            epochs = range(start, start + (10 if name in SOUND else 16))
            found, total = counted(plan, model, epochs, 64 if m.partner == "batch" else 528)
            wanted = torch.stack([plan.seen_prior(epoch) for epoch in epochs]).mean(0)
            assert wanted.dtype == torch.float64
            assert wanted.sum().item() == pytest.approx(1.0)
            # A label mass in [0, 1] a sample has at most the variance of a coin; ends of epochs are cut.
            bound = 4.5 * (wanted * (1 - wanted) / total).sqrt().numpy() + 1e-3
            assert (np.abs(wanted.numpy() - found) < bound).all(), (start, wanted, found)

    @pytest.mark.parametrize("name", SINGLE_LABEL)
    def test_in_closed_form(self, name: str) -> None:
        m, n = METHODS[name], COUNTS.double().numpy()
        if m.mixer == "unimix" and m.partner == "batch":
            pytest.skip("its partners depend on the whole batch: counted above, and in the test of the batch")
        for epochs in (200, 10):
            plan = plan_of(m, epochs=epochs)
            for epoch in (0, epochs // 2, epochs - 1):
                wanted = derived(m, n, epoch, epochs)
                assert plan.seen_prior(epoch).numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-9), epoch
                plan.set_epoch(epoch)
                assert torch.equal(plan.seen_prior(), plan.seen_prior(epoch))
                corrected = wanted if m.prior == "effective" else n / n.sum()
                assert plan.corrected_prior().numpy() == pytest.approx(corrected, rel=1e-6)

    @pytest.mark.parametrize("name", SINGLE_LABEL)
    def test_the_prior_of_the_logits(self, name: str) -> None:
        m, n = METHODS[name], COUNTS.double().numpy()
        plan = plan_of(m, epochs=200)
        prior, reason = plan.logits_prior(), plan.logits_prior_reason()
        if not m.trained:
            assert prior is None
            assert f"the classifier {m.classifier} is computed" in reason
            return
        if name == "bbn":
            assert prior is None
            assert "1/2 each in evaluation alone" in reason
            return
        last = 199 if m.mix_until == 1.0 else round(200 * m.mix_until) - 1
        official = m.mixer == "unimix" and m.partner == "batch"
        seen = plan.seen_prior(last).numpy() if official else derived(m, n, last, 200)
        wanted = seen
        if m.loss in ("prior_corrected", "lade"):
            wanted = seen / (seen if m.prior == "effective" else n / n.sum())
        if m.class_weights == "effective_number":
            wanted = wanted * (1 - m.beta) / (1 - m.beta**n)
        if m.class_weights in ("inverse", "median_frequency", "max_frequency"):
            wanted = wanted / n
        assert prior is not None
        if m.classifier == "causal_norm":
            assert prior.tolist() == pytest.approx([1 / 6] * 6)
            assert reason.startswith("uniform, as LADE, section 4.3, assumes")
            return
        assert prior.numpy() == pytest.approx(wanted / wanted.sum(), rel=1e-6)
        assert reason.startswith("labels seen in the last epoch")
        assert ("that mixes" in reason) == (last != 199)
        assert ("that the loss corrects" in reason) == (m.loss in ("prior_corrected", "lade"))
        assert ("approximation" in reason) == (m.loss not in ("ce", "prior_corrected", "lade"))
        assert ("class weights" in reason) == (m.class_weights != "none")
        late = max(m.rebalance_from, m.reweight_from) > 0 or m.sampler == "progressive"
        assert ("may lag behind: IC takes the training prior (`from_prior` train)" in reason) == late

    def test_the_reason_says_when_sampling_or_weights_change(self) -> None:
        assert "those only from 80 % of the training on" in plan_of("ce_drw").logits_prior_reason()
        assert "those only from 80 % of the training on" in plan_of("drs").logits_prior_reason()
        assert "those only towards the end" in plan_of("progressively_balanced").logits_prior_reason()
        never = plan_of(METHODS["ce_drw"].replace(reweight_from=1.0))
        assert never.logits_prior_reason() == "labels seen in the last epoch"

    def test_what_a_loss_leaves_out_of_the_prior(self) -> None:
        assert (
            "ldam's margins, which are larger for rare classes, are not undone" in plan_of("ldam").logits_prior_reason()
        )
        assert "that cdt divides the logits by in training are not undone" in plan_of("cdt").logits_prior_reason()

    @pytest.mark.parametrize("name", ["bayias", "unimix_bayias_effective"])
    def test_of_a_test_set_that_is_known(self, name: str) -> None:
        """UniMix, Eq. 14 and 15: B_y = log pi_y - log pi'_y; the logits are then under pi'."""
        target = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]
        plan = plan_of(METHODS[name].replace(target_prior=target))
        wanted = torch.tensor(target, dtype=torch.float64) / 20
        assert torch.allclose(plan.logits_prior(), wanted)
        assert plan.logits_prior_reason().endswith(", times the target prior")
        logits, labels = torch.randn(9, 6, dtype=torch.float64), torch.randint(6, (9,))
        b = plan.corrected_prior().log() - wanted.log()
        losses = [
            math.log1p(sum(math.exp(b[k] - b[y] + z[k] - z[y]) for k in range(6) if k != y))
            for z, y in zip(logits, labels, strict=True)
        ]
        assert plan.criterion(logits, labels).item() == pytest.approx(sum(losses) / 9)
        with pytest.raises(ValueError, match="a number for each of the 6 classes, but has 2"):
            plan_of(METHODS[name].replace(target_prior=(1, 2)))

    def test_a_strength_counts(self) -> None:
        prior = COUNTS.double() / COUNTS.sum()
        plan = plan_of(METHODS["bayias"].replace(loss_tau=0.5))
        wanted = prior / prior**0.5
        assert torch.allclose(plan.logits_prior(), wanted / wanted.sum())
        assert plan.logits_prior_reason().endswith("over the training prior that the loss corrects with strength 0.5")
        flat = plan_of(METHODS["bayias"])
        assert torch.allclose(flat.logits_prior(), torch.full((6,), 1 / 6, dtype=torch.float64))
        assert "strength" not in flat.logits_prior_reason()

    def test_partners_in_the_batch_depend_on_its_size_for_each_process(self) -> None:
        plan = plan_of("unimix_bayias_official", batch_size=64, num_processes=4)
        alone = plan_of("unimix_bayias_official", batch_size=16)
        assert torch.equal(plan.seen_prior(), alone.seen_prior())
        assert not torch.allclose(plan.seen_prior(), plan_of("unimix_bayias_official", batch_size=64).seen_prior())
        unknown = plan_of("unimix_bayias_official", batch_size=None)
        with pytest.raises(ValueError, match="batch_size"):
            unknown.seen_prior()
        assert unknown.logits_prior() is None
        assert "is not known: " in unknown.logits_prior_reason()
        assert "batch_size" in unknown.logits_prior_reason()

    def test_a_class_without_samples(self) -> None:
        plan = Method(mixer="unimix", tau=0.0, partner_tau=-1.0).plan([0, 0, 0, 2], num_classes=4, epochs=2)
        assert plan.class_counts.tolist() == [3, 0, 1, 0]
        prior = plan.seen_prior()
        assert prior[[1, 3]].tolist() == [0.0, 0.0]
        assert prior.sum().item() == pytest.approx(1.0)

    @given(
        counts=st.lists(st.integers(1, 500), min_size=2, max_size=8),
        m=st.builds(
            Method,
            sampler=st.sampled_from(["power", "class_aware", "progressive", "effective_number"]),
            tau=st.floats(-1.5, 1.5),
            rebalance_from=st.floats(0, 1),
            mixer=st.sampled_from(["none", "mixup", "unimix", "remix", "between_class", "unimix_between_class"]),
            alpha=st.floats(0.3, 3),
            partner_tau=st.floats(-1.5, 1.5),
            mix_until=st.floats(0, 1),
            remix_kappa=st.floats(1.5, 5),
            remix_tau=st.floats(0.1, 0.9),
        ),
        epochs=st.integers(1, 60),
        data=st.data(),
    )
    def test_of_any_method_on_any_counts(self, counts: list[int], m: Method, epochs: int, data: st.DataObject) -> None:
        if m.mixer in ("mixup", "between_class", "unimix_between_class"):
            m = m.replace(different_classes=data.draw(st.booleans()))
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        plan = m.plan(labels, epochs=epochs, sample_rate=RATE)
        epoch = data.draw(st.integers(0, epochs - 1))
        wanted = derived(m, np.array(counts, float), epoch, epochs)
        assert plan.seen_prior(epoch).numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


# --- phases -----------------------------------------------------------------------------------------------------------


def is_balanced(plan: TrainingPlan) -> bool:
    """Whether the plan's sampler repeats samples; the instance-balanced one has every sample once."""
    drawn = plan.sampler.indices()
    first = drawn[:, 0] if drawn.ndim == 2 else drawn
    return len(first.unique()) < len(first)


class TestPhases:
    @pytest.mark.parametrize("epochs", [1, 2, 5, 10, 90, 200])
    def test_switch_at_their_share_of_any_length(self, epochs: int) -> None:
        places = {
            "drs": ("balanced", round(0.8 * epochs)),
            "lob_mixup_deferred": ("balanced", round(0.8 * epochs)),
            "ldam_drw": ("weighted", round(0.8 * epochs)),
            "unimix_bayias": ("plain", round(0.9 * epochs)),
        }
        for name, (kind, place) in places.items():
            plan, found = plan_of(name, epochs=epochs), []
            for epoch in range(epochs):
                plan.set_epoch(epoch)
                is_now = {
                    "balanced": lambda plan=plan: is_balanced(plan),
                    "weighted": lambda plan=plan: isinstance(plan.criterion, ClassWeightedLoss),
                    "plain": lambda plan=plan, epoch=epoch: not plan.mixes(epoch),
                }[kind]()
                found.append(is_now)
            assert found == [epoch >= place for epoch in range(epochs)], name

    def test_of_the_published_schedule(self) -> None:
        """160 and 180 of 200 epochs."""
        for name, last in (("ldam_drw", 159), ("ce_drw", 159), ("focal_drw", 159), ("mixup_drw", 159)):
            plan = plan_of(name, epochs=200)
            plan.set_epoch(last)
            assert not isinstance(plan.criterion, ClassWeightedLoss)
            plan.set_epoch(last + 1)
            assert isinstance(plan.criterion, ClassWeightedLoss)
            assert torch.allclose(plan.criterion.class_weights.cpu().double(), effective_number_weights(COUNTS, 0.9999))
        plan = plan_of("unimix_bayias", epochs=200)
        assert (plan.mixes(179), plan.mixes(180)) == (True, False)

    def test_pairs_come_only_while_pairs_are_mixed(self) -> None:
        plan = plan_of("unimix_bayias", epochs=10)
        for epoch in range(10):
            plan.set_epoch(epoch)
            drawn = plan.sampler.indices()
            assert drawn.shape == ((528, 2) if epoch < 9 else (528,))
            assert isinstance(plan.sampler.current, PairSampler) == (epoch < 9)
            first = next(iter(plan.sampler))
            assert isinstance(first, tuple) == (epoch < 9)
        in_batch = plan_of("unimix_bayias_official", epochs=10)
        assert in_batch.sampler.indices().shape == (528,)

    @given(epochs=st.integers(1, 400), share=st.floats(0, 1))
    def test_of_any_share(self, epochs: int, share: float) -> None:
        plan = Method(mixer="mixup", mix_until=share).plan([0, 0, 1], epochs=epochs)
        assert sum(plan.mixes(epoch) for epoch in range(epochs)) == round(share * epochs)

    @pytest.mark.parametrize("shape", ["concave", "linear", "convex", "power"])
    def test_the_smoothing_has_the_shape_that_is_asked_for(self, shape: str) -> None:
        """MiSLAS, Eq. 7."""
        plan = plan_of(METHODS["mislas"].replace(smoothing_shape=shape, smoothing_power=1.5))
        u = (COUNTS.double() - 6) / (300 - 6)
        wanted = {
            "concave": 0.1 + 0.3 * torch.sin(torch.pi * u / 2),
            "linear": 0.1 + 0.3 * u,
            "convex": 0.4 + 0.3 * torch.sin(1.5 * torch.pi + torch.pi * u / 2),
            "power": 0.1 + 0.3 * u**1.5,
        }[shape]
        assert torch.allclose(plan.criterion.smoothing.double(), wanted, atol=1e-6)

    def test_losses_are_made_once_a_phase(self) -> None:
        plan, seen = plan_of("ldam_drw", epochs=10), []
        for epoch in range(10):
            plan.set_epoch(epoch)
            seen.append(id(plan.criterion))
        assert len(set(seen)) == 2
        # The prior of a progressive sampler moves with every epoch.
        plan = plan_of(Method(sampler="progressive", loss="prior_corrected", prior="effective"), epochs=5)
        priors = []
        for epoch in range(5):
            plan.set_epoch(epoch)
            logits = torch.zeros(6, 6)
            priors.append((-plan.criterion(logits, torch.arange(6))).item())
            wanted = derived(plan.method, COUNTS.double().numpy(), epoch, 5)
            assert -priors[-1] == pytest.approx(-np.log(wanted).mean(), rel=1e-5)
        assert len(set(priors)) == 5

    def test_an_epoch_is_a_function_of_seed_and_number(self) -> None:
        a, b, other = plan_of("lob_mixup"), plan_of("lob_mixup"), plan_of("lob_mixup", seed=1)
        orders = []
        for epoch in (0, 1, 7, 1):
            for plan in (a, b, other):
                plan.set_epoch(epoch)
            orders.append(a.sampler.indices())
            assert torch.equal(orders[-1], b.sampler.indices())
            assert not torch.equal(orders[-1], other.sampler.indices())
        assert torch.equal(orders[1], orders[3])
        assert not torch.equal(orders[0], orders[1])


# --- the same by hand -------------------------------------------------------------------------------------------------

Parts = tuple[Callable[[int], Sampler[Any]], Callable[[int], Any], Callable[[int], nn.Module]]


def weighted(loss: nn.Module, epoch: int) -> nn.Module:
    return loss if epoch < 4 else ClassWeightedLoss(loss, effective_number_weights(COUNTS, 0.9999))


def by_hand() -> dict[str, Parts]:
    """Sampler, mixer and loss of an epoch of five, from the parts of the library."""
    plain = ClassPowerSampler(LABELS, 1.0, replacement=False, seed=3)
    even = ClassPowerSampler(LABELS, 0.0, seed=3)
    ce = nn.CrossEntropyLoss()
    deferred = PairSampler(DeferredSampler(plain, even, 4), DeferredSampler(plain, even, 4))
    unimix = PairSampler(plain, even)
    return {
        "erm": (lambda _: plain, lambda _: None, lambda _: ce),
        "mixup": (lambda _: PairSampler(plain, plain), lambda _: MixUp(6), lambda _: ce),
        "class_balanced": (lambda _: even, lambda _: None, lambda _: ce),
        "lob_mixup_deferred": (lambda _: deferred, lambda _: MixUp(6), lambda _: ce),
        "unimix_bayias": (
            lambda epoch: unimix if epoch < 4 else plain,
            lambda epoch: UniMix(COUNTS, 0.8) if epoch < 4 else None,
            lambda _: BayiasLoss(COUNTS),
        ),
        "unimix_bayias_official": (
            lambda _: plain,
            lambda _: UniMix(COUNTS, 0.8, in_batch_tau=0.9),
            lambda _: BayiasLoss(COUNTS),
        ),
        "cutmix_bayias": (lambda _: PairSampler(plain, plain), lambda _: CutMix(6), lambda _: BayiasLoss(COUNTS)),
        "ldam_drw": (
            lambda _: plain,
            lambda _: None,
            lambda epoch: weighted(LDAMLoss(COUNTS, max_margin=0.5 * 30, scale=1.0), epoch),
        ),
    }


def images() -> Tensor:
    """One for each label, that a network can learn."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(528, 3, 8, 8, generator=generator) + LABELS.view(-1, 1, 1, 1) / 3


class TestByHand:
    @pytest.mark.parametrize("name", by_hand())
    def test_a_loop_from_the_parts_ends_in_the_same_weights(self, name: str) -> None:
        dataset = PairDataset(TensorDataset(images(), LABELS))
        nets = []
        for planned in (True, False):
            torch.manual_seed(5)
            net = Net()
            if name == "ldam_drw":
                torch.manual_seed(6)
                net.fc = ltaug.CosineClassifier(16, 6, scale=30.0)
            plan = plan_of(name, epochs=5, seed=3) if planned else None
            if planned and name == "ldam_drw":
                net = Net()
                torch.manual_seed(5)
                net = Net()
                torch.manual_seed(6)
                plan.attach(net)
            sampler, mixer, loss = by_hand()[name]
            optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
            torch.manual_seed(7)
            for epoch in range(5):
                if plan is not None:
                    plan.set_epoch(epoch)
                    order, mix, criterion = plan.sampler, plan.mix, plan.criterion
                    plan.train(net)
                else:
                    order, criterion = sampler(epoch), loss(epoch)
                    order.set_epoch(epoch)
                    made = mixer(epoch)

                    def mix(batch: Any, made: Any = made, pairs: bool = isinstance(order, PairSampler)) -> Any:
                        if made is None:
                            return batch
                        return made(*batch[0], *batch[1]) if pairs else made(*batch)

                    net.train()
                for batch in DataLoader(dataset, 128, sampler=order):
                    inputs, targets = mix(batch)
                    optimizer.zero_grad()
                    criterion(net(inputs), targets).backward()
                    optimizer.step()
            nets.append(net.state_dict())
        for key, value in nets[0].items():
            assert torch.equal(value, nets[1][key]), key


# --- parts of one's own -----------------------------------------------------------------------------------------------


class Halves:
    """A mixer of a user's: nothing of the library's, always half and half with the batch turned round."""

    def __call__(self, inputs: Tensor, targets: Tensor, partner: Any = None, labels: Any = None) -> Any:
        dense = nn.functional.one_hot(targets, 6).float()
        other = dense.flip(0) if labels is None else nn.functional.one_hot(labels, 6).float()
        partner = inputs.flip(0) if partner is None else partner
        return (inputs + partner) / 2, (dense + other) / 2


class Backwards(Sampler[int]):
    """A sampler of a user's."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(range(527, -1, -1))

    def __len__(self) -> int:
        return 528


class TestOwnParts:
    def test_a_loss_stays_for_all_epochs(self) -> None:
        plan, own = plan_of("ldam_drw", epochs=10), nn.CrossEntropyLoss(label_smoothing=0.1)
        assert plan.logits_prior() is not None
        plan.criterion = own
        for epoch in (0, 5, 9):
            plan.set_epoch(epoch)
            assert plan.criterion is own
        assert plan.to("cpu").criterion is own
        assert plan.logits_prior() is None
        assert plan.logits_prior_reason() == "trained with a loss that the plan does not know"

    def test_a_sampler_stays_and_hears_of_epochs(self) -> None:
        plan, own = plan_of("bayias", epochs=10), Backwards()
        plan.sampler = own
        for epoch in (0, 9):
            plan.set_epoch(epoch)
            assert plan.sampler is own
        assert own.epochs == [0, 9]
        assert plan.logits_prior() is None
        assert plan.logits_prior_reason() == "trained with a sampler that the plan does not know"
        plan.sampler = list(range(528))[::2]  # type: ignore[assignment]  # without set_epoch
        plan.set_epoch(3)

    def test_a_mixer_stays_and_its_prior_is_tried_out(self) -> None:
        plan = plan_of("unimix_bayias", epochs=10)
        plan.mixer = own = Halves()
        images = torch.zeros(64, 3, 8, 8)
        for epoch in range(10):
            plan.set_epoch(epoch)
            assert plan.mixer is own
            labels = torch.randint(6, (64,))
            batch = ((images, labels), (images, labels)) if epoch < 9 else (images, labels)
            targets = plan.mix(batch)[1]
            assert (targets.ndim == 2) == (epoch < 9)
        n = COUNTS.double().numpy()
        wanted = (powers(n, 1.0) + powers(n, 0.0)) / 2
        prior = plan.logits_prior()
        assert prior is not None
        assert prior.numpy() == pytest.approx(wanted / n / (wanted / n).sum(), abs=0.01)

    def test_a_mixer_whose_partners_nobody_knows_gives_no_prior(self) -> None:
        class Chosen(MixUp):
            def partners(self, targets: Tensor) -> Tensor:
                return targets.argmax().expand(len(targets))

        plan = plan_of(Method(mixer="mixup", partner="batch"), epochs=10)
        plan.mixer = Chosen(6)
        assert plan.logits_prior() is None
        assert plan.logits_prior_reason().startswith("the label distribution after mixing is not known: ")

    @pytest.mark.parametrize("again", [True, False], ids=["an epoch begins", "within an epoch"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda plan: setattr(plan.mixer, "prob", 0.3),
            lambda plan: setattr(plan.mixer, "mixup_enabled", False),
            lambda plan: setattr(plan.mixer, "alpha", 0.1),
            lambda plan: setattr(plan, "mixer", MixUp(6)),
            lambda plan: setattr(plan, "mixer", None),
        ],
        ids=["prob", "mixup_enabled", "alpha", "another", "none"],
    )
    def test_the_loss_corrects_what_a_changed_mixer_makes(self, change: Any, again: bool) -> None:
        plan = plan_of("unimix_bayias_effective", epochs=10)
        before, planned = plan.criterion, plan.seen_prior()
        assert plan.criterion is before
        change(plan)
        if again:
            plan.set_epoch(0)
        seen = plan.seen_prior()
        assert not torch.allclose(seen, planned, atol=1e-3)
        corrected = (torch.zeros(1, 6) + plan.criterion.shift.float()).softmax(1)[0]  # type: ignore[operator, union-attr]
        torch.testing.assert_close(corrected.double(), seen, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(plan.logits_prior(), torch.full((6,), 1 / 6, dtype=torch.float64))
        assert plan.criterion is plan.criterion

    def test_the_ratio_of_a_mixer_counts_and_a_prior_that_is_fixed_does_not_move(self) -> None:
        plan = plan_of(METHODS["unimix_bc_bayias"].replace(prior="effective"), epochs=10)
        planned = plan.criterion.shift.clone()  # type: ignore[operator, union-attr]
        plan.mixer.ratio.alpha = 0.1
        assert not torch.allclose(plan.criterion.shift, planned, atol=1e-3)  # type: ignore[arg-type]
        fixed = plan_of("unimix_bayias", epochs=10)
        loss = fixed.criterion
        fixed.mixer.prob = 0.3
        fixed.set_epoch(0)
        assert fixed.criterion is loss
        n = COUNTS.double()
        prior = fixed.seen_prior() / (n / n.sum())
        torch.testing.assert_close(fixed.logits_prior(), prior / prior.sum())

    def test_a_loss_of_one_s_own_needs_no_prior(self) -> None:
        class Chosen(MixUp):
            def partners(self, targets: Tensor) -> Tensor:
                return targets.argmax().expand(len(targets))

        plan = plan_of(Method(mixer="mixup", partner="batch", loss="prior_corrected", prior="effective"), epochs=10)
        plan.mixer = Chosen(6)
        with pytest.raises(ValueError, match="chooses partners from the batch in a way of its own"):
            plan.set_epoch(0)  # it corrected the planned mixer's prior otherwise
        plan.criterion = nn.CrossEntropyLoss()
        plan.set_epoch(0)

    def test_a_mixer_for_a_method_without(self) -> None:
        plan = plan_of("erm", epochs=10)
        plan.mixer = MixUp(6, alpha=0.2)
        assert plan.mixes(0)
        plan.set_epoch(0)
        # The plan's sampler asks, when it makes the epoch, whether pairs are mixed.
        assert plan.sampler.indices().shape == (528, 2)

    def test_without_a_mixer(self) -> None:
        plan = plan_of("mixup", epochs=10)
        plan.mixer = None
        plan.set_epoch(0)
        assert not plan.mixes(0)
        assert plan.sampler.indices().shape == (528,)
        x, y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 3])
        assert plan.mix((x, y)) == (x, y)


# --- mixing -----------------------------------------------------------------------------------------------------------


class TestMix:
    @pytest.mark.parametrize(
        ("shape", "dims"), [((8, 3, 6, 6), (-2, -1)), ((8, 2, 9), (-1,)), ((8, 9), (-1,)), ((8, 1, 4, 6, 6), (-2, -1))]
    )
    def test_cutmix_cuts_height_and_width_or_time(self, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
        plan = plan_of("cutmix")
        x, other = torch.zeros(shape), torch.ones(shape)
        mixed, targets = plan.mix(((x, torch.zeros(8).long()), (other, torch.ones(8).long())))
        assert plan.mixer.dims == dims
        # The same region in all other dimensions, and its share of the area is the partner's.
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        assert mixed.flatten(1).mean(1).tolist() == pytest.approx(targets[:, 1].tolist(), abs=1e-6)
        same = mixed.flatten(1, -len(dims) - 1) if mixed.ndim > len(dims) + 1 else mixed[:, None]
        assert (same == same[:, :1]).all()

    def test_cutmix_of_one_s_own_keeps_its_dimensions(self) -> None:
        plan = plan_of("cutmix")
        plan.mixer = CutMix(6, dims=(-2,))
        plan.mix((torch.rand(8, 3, 6, 6), torch.zeros(8).long()))
        assert plan.mixer.dims == (-2,)
        named = plan_of(METHODS["cutmix"].replace(cut_dims=[-2], partner="batch"))
        named.mix((torch.rand(8, 6, 6), torch.zeros(8).long()))
        assert named.mixer.dims == (-2,)

    def test_a_batch_of_pairs_is_mixed_with_its_partners(self) -> None:
        plan = plan_of(Method(mixer="mixup", alpha=0.7))
        x, y, other, labels = torch.rand(8, 5), torch.arange(8) % 6, torch.rand(8, 5), (torch.arange(8) + 1) % 6
        torch.manual_seed(1)
        mixed, targets = plan.mix([[x, y], [other, labels]])
        torch.manual_seed(1)
        wanted, dense = MixUp(6, alpha=0.7)(x, y, other, labels)
        assert torch.equal(mixed, wanted)
        assert torch.equal(targets, dense)

    def test_batches_of_another_form_are_refused(self) -> None:
        plan, x, y = plan_of("erm"), torch.rand(8, 5), torch.arange(8) % 6
        for batch, kind in (({"image": x, "label": y}, "dict of image, label"), ((x, y, y), "tuple"), (x, "Tensor")):
            with pytest.raises(TypeError, match=f"`batch` must be .inputs, labels., .*, but is a {kind}"):
                plan.mix(batch)

    def test_single_samples_are_refused_where_the_method_pairs_over_the_whole_set(self) -> None:
        plan = plan_of("unimix_bayias")
        with pytest.raises(ValueError, match="`batch` must hold pairs"):
            plan.mix((torch.rand(8, 5), torch.arange(8) % 6))
        plan.sampler = RandomSampler(
            range(len(LABELS))
        )  # of one's own: then the prior is not known, and nothing is said
        plan.mix((torch.rand(8, 5), torch.arange(8) % 6))
        assert plan.logits_prior() is None

    @pytest.mark.parametrize("name", ["ldam", "causal_norm", "crt", "mislas", "ncm"])
    def test_a_classifier_that_is_not_attached_is_refused(self, name: str) -> None:
        plan, batch = plan_of(name), (torch.rand(8, 5), torch.arange(8) % 6)
        with pytest.raises(ValueError, match=r"Call `plan\.attach\(model\)` before the optimiser"):
            plan.mix(batch)
        plan.attach(Net())
        plan.mix(batch)

    def test_a_network_of_another_number_of_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="last layer has 7 outputs, but there are 6 classes"):
            plan_of("erm").attach(nn.Sequential(OrderedDict(body=nn.Flatten(), fc=nn.Linear(5, 7))))

    @pytest.mark.parametrize("name", SOUND)
    def test_sound_needs_its_sample_rate(self, name: str) -> None:
        with pytest.raises(ValueError, match="is for sound: it needs the `sample_rate` of the waveforms"):
            METHODS[name].plan(LABELS, epochs=1)
        assert plan_of(name, sample_rate=16_000).mixer.sample_rate == 16_000

    def test_different_classes(self) -> None:
        plan = plan_of("bc")
        pairs = LABELS[plan.sampler.indices()]
        assert (pairs[:, 0] != pairs[:, 1]).all()
        plan = plan_of(METHODS["bc"].replace(partner="batch"))
        labels = LABELS[:64]
        _, targets = plan.mix((torch.randn(64, 256), labels))
        assert (targets.gather(1, labels[:, None]) < 1).all()

    def test_manifold_mixup_mixes_inside(self) -> None:
        plan, model = plan_of(METHODS["manifold_mixup"].replace(manifold_layers=["body.2"])), Net()
        plan.attach(model)
        plan.train(model)
        x, y = images()[:16], LABELS[:16]
        inputs, targets = plan.mix((x, y))
        assert inputs is x
        assert ((targets > 0).sum(1) == 2).any()
        mixed = model(inputs)
        again = copy.deepcopy(model).train()
        assert not torch.allclose(mixed, again(x))
        with pytest.raises(ValueError, match=r"names 'bdy\.2'.*body\.2"):
            plan_of(METHODS["manifold_mixup"].replace(manifold_layers=["bdy.2"])).attach(Net())

    def test_manifold_mixup_finds_its_layers(self) -> None:
        plan, model = plan_of("manifold_mixup"), Net()
        plan.attach(model)
        assert plan.mixer.layers == ("input", "body.2")
        with pytest.raises(ValueError, match=r"Manifold mixup does not know where to mix in this model\. Name its"):
            plan_of("manifold_mixup").attach(nn.Sequential(nn.Flatten(), nn.Linear(192, 6)))
        # Unattached, it knows no layer, and says so.
        with pytest.raises(ValueError, match="needs a model: call `attach"):
            plan_of("manifold_mixup").mix((torch.rand(4, 3), torch.arange(4)))

    def test_find_mixing_layers_of_timm(self) -> None:
        timm = pytest.importorskip("timm")
        for name in ("test_resnet", "test_vit"):
            model = timm.create_model(name, num_classes=6)
            layers = find_mixing_layers(model)
            assert layers[0] == "input"
            assert len(layers) == 3
            plan = plan_of("manifold_mixup")
            plan.attach(model)
            plan.train(model)
            for _ in range(3):
                inputs, targets = plan.mix((torch.rand(4, 3, 160, 160), torch.arange(4)))
                plan.criterion(model(inputs), targets).backward()


# --- classifiers ------------------------------------------------------------------------------------------------------


def timm_model(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=6)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "net": (Net, (3, 8, 8)),
    "test_resnet": (lambda: timm_model("test_resnet"), (3, 64, 64)),
    "test_vit": (lambda: timm_model("test_vit"), (3, 160, 160)),
}


class TestClassifiers:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("classifier", ["linear", "cosine", "causal_norm"])
    def test_of_first_stages(self, model: str, classifier: str) -> None:
        make, shape = MODELS[model]
        net = make()
        old = find_classifier(net, 6)[1]
        plan = plan_of(Method(classifier=classifier))  # type: ignore[arg-type]
        assert plan.attach(net) is net
        assert (plan.classifier_name == "") == (classifier == "linear")
        (group,) = plan.parameter_groups(net)
        assert group["lr_scale"] == 1.0
        assert {id(each) for each in group["params"]} == {id(each) for each in net.parameters()}
        plan.train(net)
        plan.criterion(net(torch.rand(4, *shape)), torch.arange(4)).backward()
        assert all(each.grad is not None for each in net.parameters())
        if classifier != "linear":
            new = net.get_submodule(plan.classifier_name)
            assert new is not old
            assert (
                type(new).__name__ == {"cosine": "CosineClassifier", "causal_norm": "CausalNormClassifier"}[classifier]
            )
        before = net.eval()(torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)))
        assert plan.fold(net) is net
        after = net.eval()(torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(before, after)

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("name", ["crt", "lws", "mislas"])
    def test_of_second_stages_train_alone_and_fold_to_a_linear_layer(self, name: str, model: str) -> None:
        make, shape = MODELS[model]
        net, plan = make(), plan_of(name)
        before = copy.deepcopy(net.state_dict())
        place, linear = find_classifier(net, 6)
        plan.attach(net)
        assert plan.classifier_name == place
        body = {key: each for key, each in net.named_parameters() if not key.startswith(f"{place}.")}
        assert body
        assert not any(each.requires_grad for each in body.values())
        groups = plan.parameter_groups(net)
        scales = [group["lr_scale"] for group in groups]
        assert scales == ([1.0, METHODS["mislas"].delta_lr_ratio] if name == "mislas" else [1.0])
        trained = [each for group in groups for each in group["params"]]
        assert len({id(each) for each in trained}) == len(trained)
        assert {id(each) for each in trained} == {id(each) for each in net.parameters() if each.requires_grad}
        start = net.eval()(images_of(shape))
        if name != "crt":  # which starts anew
            original = make()
            original.load_state_dict(before)
            assert torch.allclose(start, original.eval()(images_of(shape)), atol=1e-5)
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        for _ in range(3):
            plan.train(net)
            optimizer.zero_grad()
            plan.criterion(net(images_of(shape)), torch.arange(6)).backward()
            optimizer.step()
        now = net.eval()(images_of(shape))
        assert not torch.allclose(now, start, atol=1e-5)
        plan.fold(net)
        folded = find_classifier(net, 6)[1]
        assert (folded.weight.shape, folded.bias is not None) == (linear.weight.shape, True)
        assert torch.allclose(net.eval()(images_of(shape)), now, atol=1e-5)
        assert all(each.requires_grad for each in net.parameters())
        state = net.state_dict()
        assert state.keys() == before.keys()
        for key, value in state.items():
            moved = key.startswith(f"{place}.") or ("running" in key or "num_batches" in key) * (name == "mislas")
            assert torch.equal(value, before[key]) or moved, key

    def test_tau_norm(self) -> None:
        net, plan = Net(), plan_of("tau_norm", epochs=0)
        weight = net.fc.weight.detach().clone()
        plan.attach(net)
        plan.fold(net)
        wanted = weight / weight.norm(dim=1, keepdim=True)
        assert torch.allclose(net.fc.weight, wanted, atol=1e-6)
        assert torch.equal(net.fc.bias, torch.zeros(6))
        half = plan_of(METHODS["tau_norm"].replace(classifier_tau=0.5), epochs=0)
        net.fc.weight.data.copy_(weight)
        half.attach(net)
        half.fold(net)
        assert torch.allclose(net.fc.weight, weight / weight.norm(dim=1, keepdim=True) ** 0.5, atol=1e-6)

    def test_nearest_class_mean(self) -> None:
        net, plan = Net().eval(), plan_of("ncm", epochs=0)
        plan.attach(net)
        with pytest.raises(ValueError, match="`class_means` is needed"):
            plan.fold(net)
        with torch.no_grad():
            features = net.body(images())
            means = torch.stack([features[k == LABELS].double().mean(0) for k in range(6)])
            plan.fold(net, NearestClassMeanClassifier(16, 6).fit(features, LABELS))
            distances = -(features.double()[:, None] - means).square().sum(2)
            assert torch.allclose(net(images()).double().softmax(1), distances.softmax(1), atol=1e-4)

    @pytest.mark.parametrize("batch_norm", ["fixed", "shift", "train"])
    def test_batch_norm(self, batch_norm: str) -> None:
        net, plan = Net(), plan_of(METHODS["crt"].replace(batch_norm=batch_norm))
        plan.attach(net)
        before = copy.deepcopy(net.state_dict())
        groups = plan.parameter_groups(net)
        optimizer = torch.optim.SGD(groups, lr=0.1)
        plan.train(net)
        assert net.training
        assert net.body[1].training == (batch_norm != "fixed")
        plan.criterion(net(images()), LABELS).backward()
        optimizer.step()
        after = net.state_dict()
        assert torch.equal(before["body.1.running_mean"], after["body.1.running_mean"]) == (batch_norm == "fixed")
        assert torch.equal(before["body.1.weight"], after["body.1.weight"])
        assert torch.equal(before["body.0.weight"], after["body.0.weight"])

    def test_a_layer_without_bias(self) -> None:
        for name in ("crt", "lws", "mislas", "tau_norm"):
            net, plan = Net(bias=False), plan_of(name, epochs=1)
            plan.attach(net)
            now = net.eval()(images()[:8])
            plan.fold(net)
            assert net.fc.bias is not None
            if name != "tau_norm":
                assert torch.allclose(net(images()[:8]), now, atol=1e-5)

    def test_losses_and_classifiers_move_to_a_device(self, device: torch.device) -> None:
        net, plan = Net().to(device), plan_of("ldam_drw", epochs=10).to(device)
        plan.attach(net)
        for epoch in (0, 9):
            plan.set_epoch(epoch)
            plan.criterion(net(images()[:8].to(device)), LABELS[:8].to(device)).backward()


class Residual(nn.Module):
    """A block as residual networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).relu()


def residual(classes: int = 6) -> nn.Sequential:
    """A stem, two blocks and a classifier, in float64."""
    layers = {"stem": nn.Linear(4, 5), "blocks": nn.Sequential(Residual(), Residual()), "fc": nn.Linear(5, classes)}
    return nn.Sequential(OrderedDict(layers)).double()


class TestBilateral:
    """BBN, Zhou et al., CVPR 2020."""

    @pytest.mark.parametrize("mode", ["paper", "official_code"])
    def test_alpha_logits_and_loss_as_in_the_paper(self, mode: str) -> None:
        """Re-derived pair by pair at three epochs: Eq. 2, 3 and 5, and the evaluation."""
        plan, net = plan_of(METHODS["bbn"].replace(branch="blocks.1", mode=mode), epochs=200), residual()
        plan.attach(net)
        with torch.no_grad():
            for value in net.parameters():  # or else both branches still agree
                value.add_(torch.randn_like(value) / 3)
        conventional, rebalancing = net.blocks[1].conventional, net.blocks[1].rebalancing
        factor = 2 if mode == "official_code" else 1
        x, x_r = torch.randn(2, 7, 4, dtype=torch.float64)
        y, y_r = torch.randint(6, (2, 7))
        for epoch, alpha in ((0, 1.0), (100, 0.75), (199, 1 - (199 / 200) ** 2)):
            plan.set_epoch(epoch)
            plan.train(net)
            losses, logits = [], []
            for k in range(7):
                before = [net.blocks[0](net.stem(each[k])) for each in (x, x_r)]
                z = alpha * net.fc.conventional(conventional(before[0]))
                z = factor * (z + (1 - alpha) * net.fc.rebalancing(rebalancing(before[1])))
                log_p = z - z.exp().sum().log()
                losses.append(-(alpha * log_p[y[k]] + (1 - alpha) * log_p[y_r[k]]))
                logits.append(z)
            inputs, targets = plan.mix(((x, y), (x_r, y_r)))
            found = net(inputs)
            assert torch.allclose(found, torch.stack(logits), rtol=1e-6)
            # The targets are float32, as a mixer's.
            assert plan.criterion(found, targets.double()).item() == pytest.approx(
                torch.stack(losses).mean().item(), 1e-6
            )
            net.eval()
            shared = net.blocks[0](net.stem(x))
            both = net.fc.conventional(conventional(shared)) + net.fc.rebalancing(rebalancing(shared))
            assert torch.allclose(net(x), factor * both / 2)

    def test_the_second_sampler_is_the_reversed_one(self) -> None:
        """w_i = N_max / N_i, P_i = w_i / sum w: class i of the paper's reversed sampler."""
        plan = plan_of("bbn", epochs=40)
        drawn = torch.cat([LABELS[plan.sampler.indices()] for epoch in range(40) if plan.set_epoch(epoch) is None])
        w = COUNTS.max() / COUNTS
        assert torch.bincount(drawn[:, 0], minlength=6).tolist() == (40 * COUNTS).tolist()
        share = torch.bincount(drawn[:, 1], minlength=6) / len(drawn)
        assert torch.allclose(share, w / w.sum(), atol=0.01)

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
    def test_of_timm(self, name: str) -> None:
        net = timm_model(name).eval()
        x = torch.rand(3, 3, 160, 160)
        before, state = net(x), set(net.state_dict())
        place = find_last_block(net)
        plan = METHODS["bbn"].plan(LABELS, epochs=5)
        assert plan.attach(net) is net
        assert torch.allclose(net(x), before, atol=1e-5)  # both branches start as the network was
        assert len(net.state_dict()) == len(state) + sum(
            key.startswith((f"{place}.", plan.classifier_name)) for key in state
        )
        plan.train(net)
        inputs, targets = plan.mix(((x, torch.arange(3)), (x.flip(0), torch.tensor([5, 5, 4]))))
        plan.set_epoch(2)
        plan.criterion(net(inputs), targets).backward()
        assert all(each.grad is not None for each in net.parameters())  # which DDP needs

    def test_its_state_is_its_parameters(self) -> None:
        """A finished run is evaluated on a network made anew: alpha is no part of it."""
        one, other = residual(), residual()
        plan_of(METHODS["bbn"].replace(branch="blocks.1")).attach(one)
        plan_of(METHODS["bbn"].replace(branch="blocks.1")).attach(other)
        other.load_state_dict(one.state_dict())
        assert "fc.alpha" not in one.state_dict()
        x = torch.rand(4, 4, dtype=torch.float64)
        assert torch.equal(one.eval()(x), copy.deepcopy(other).eval()(x))

    def test_a_network_without_blocks_is_refused(self) -> None:
        for net in (Net(), pytest.importorskip("ltaug.audio").EnvNet(6)):
            with pytest.raises(ValueError, match=r"no residual block that is found, .* the setting `branch`"):
                METHODS["bbn"].plan(LABELS, epochs=5).attach(net)
        with pytest.raises(ValueError, match="no module 'layer9'"):
            METHODS["bbn"].replace(branch="layer9").plan(LABELS, epochs=5).attach(Net())
        frozen = residual()
        frozen.blocks.requires_grad_(False)
        with pytest.raises(ValueError, match=r"block 'blocks\.1' is frozen"):
            METHODS["bbn"].plan(LABELS, epochs=5).attach(frozen)

    def test_a_batch_without_pairs_is_refused_in_training(self) -> None:
        net = residual()
        METHODS["bbn"].plan(LABELS, epochs=5).attach(net)
        with pytest.raises(ValueError, match="both samples of every pair, but this one has 3"):
            net.train()(torch.rand(3, 4, dtype=torch.float64))

    def test_the_classifier_s_arguments(self) -> None:
        with pytest.raises(ValueError, match="`mode` must be"):
            ltaug.classifiers.BilateralClassifier(nn.Linear(2, 2), mode="code")
        assert "out_features=3" in repr(ltaug.classifiers.BilateralClassifier(nn.Linear(2, 3)))


def images_of(shape: tuple[int, ...]) -> Tensor:
    """Six of a shape, the same every time."""
    return torch.rand(6, *shape, generator=torch.Generator().manual_seed(2))


class TestFindClassifier:
    @pytest.mark.parametrize("name", ["fc", "head", "classifier"])
    def test_by_its_usual_names(self, name: str) -> None:
        net = nn.Sequential()
        net.add_module("first", nn.Linear(4, 6))
        net.add_module(name, nn.Linear(6, 6))
        assert find_classifier(net, 6) == (name, net.get_submodule(name))

    def test_as_the_only_one_with_as_many_outputs(self) -> None:
        net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))
        assert find_classifier(net, 6) == ("2", net[2])

    def test_by_name(self) -> None:
        net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
        assert find_classifier(net, name="1") == ("1", net[1])
        plan = plan_of("ldam")
        plan.attach(net, classifier="0")
        assert plan.classifier_name == "0"

    def test_of_timm(self) -> None:
        timm = pytest.importorskip("timm")
        for name, place in (("test_resnet", "fc"), ("test_vit", "head"), ("test_efficientnet", "classifier")):
            net = timm.create_model(name, num_classes=6)
            assert find_classifier(net, 6) == (place, net.get_classifier())
        deep = timm.create_model("test_convnext", num_classes=6)  # its head is a module of several
        assert find_classifier(deep, 6) == ("head.fc", deep.get_classifier())

    @pytest.mark.parametrize(
        ("net", "name", "message"),
        [
            (nn.Sequential(nn.Conv2d(3, 6, 1)), None, "must have one linear layer as its classifier, but has 0 such"),
            (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), None, "as its classifier, but has 2 such layers"),
            (nn.Sequential(nn.Linear(6, 5)), None, "but has 0 such layers"),
            (nn.Sequential(nn.Linear(6, 6)), "fc", "must have a linear layer 'fc', but has 0"),
            (nn.Sequential(nn.ReLU()), "0", "must have a linear layer '0', but has 0"),
            (nn.ModuleDict({"fc": nn.Linear(6, 6), "head": nn.Linear(6, 6)}), None, "but has 2 such layers"),
        ],
    )
    def test_says_what_it_looks_for(self, net: nn.Module, name: str | None, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            find_classifier(net, 6, name)
        assert "plan.attach(model, classifier=NAME)" in str(caught.value)

    def test_a_network_of_timm_without_one(self) -> None:
        net = pytest.importorskip("timm").create_model("test_resnet", num_classes=0)
        with pytest.raises(ValueError, match="but has 0 such layers"):
            find_classifier(net, 6)


# --- loaders ----------------------------------------------------------------------------------------------------------


class Named(Dataset[Any]):
    """Samples that are their own indices."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(float(index)), index

    def __len__(self) -> int:
        return 528


def seen_by(loader: Any) -> list[Any]:
    """Indices of what a loader yields, batch by batch: [N], or [N, 2] of pairs."""
    found = []
    for batch in loader:
        pairs = isinstance(batch[0], list | tuple)
        found.append(torch.stack([half[1] for half in batch], 1).tolist() if pairs else batch[1].tolist())
    return found


class TestLoaders:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("name", ["erm", "unimix_bayias", "lob_bc_deferred", "mislas"])
    def test_the_sampler_serves_a_dataloader(self, name: str, workers: int) -> None:
        plan = plan_of(name, epochs=4)
        assert isinstance(plan.sampler, Sampler)
        assert len(plan.sampler) == 528
        loader = DataLoader(PairDataset(Named()), 50, sampler=plan.sampler, num_workers=workers)
        for epoch in (0, 3):
            plan.set_epoch(epoch)
            wanted = plan.sampler.indices().tolist()
            assert list(itertools.chain.from_iterable(seen_by(loader))) == wanted
            plan.set_epoch(epoch)
            assert [list(each) if isinstance(each, tuple) else each for each in plan.sampler] == wanted

    @pytest.mark.parametrize("name", ["erm", "unimix_bayias", "lob_mixup_deferred", "unimix_bayias_official"])
    def test_two_processes_see_together_what_one_sees(self, name: str) -> None:
        data = torch.arange(528.0)[:, None]

        def loader(count: int, index: int) -> tuple[TrainingPlan, ResidentLoader]:
            plan = plan_of(name, epochs=5, seed=4, num_processes=count)
            settings = {"batch_size": 48, "num_processes": count, "process_index": index, "drop_last": True}
            return plan, ResidentLoader(data, torch.arange(528), sampler=plan.sampler, **settings)

        one, two = loader(1, 0), [loader(2, 0), loader(2, 1)]
        for epoch in range(5):
            batches = []
            for plan, batched in (one, *two):
                plan.set_epoch(epoch)
                batched.set_epoch(epoch)
                batches.append(seen_by(batched))
            whole, first, second = batches
            assert [a + b for a, b in zip(first, second, strict=True)] == whole
            assert {len(batch) for batch in first + second} == {24}

    def test_an_effective_number_sampler_follows_the_method(self) -> None:
        plan = plan_of(Method(sampler="effective_number", beta=0.999, rebalance_from=0.5), epochs=4)
        plan.set_epoch(1)
        assert isinstance(plan.sampler.current, ClassPowerSampler)
        plan.set_epoch(2)
        assert isinstance(plan.sampler.current, EffectiveNumberSampler)
        wanted = EffectiveNumberSampler(LABELS, 0.999, seed=0)
        wanted.set_epoch(2)
        assert torch.equal(plan.sampler.indices(), wanted.indices())


class TestPlan:
    def test_faults_show_before_the_training(self) -> None:
        # A class without samples has no prior to correct; the last phase is tried as well as the first.
        with pytest.raises(ValueError, match="class 1"):
            METHODS["bayias"].plan([0, 0, 2], num_classes=3, epochs=10)
        with pytest.raises(ValueError, match="class 1"):
            METHODS["ce_drw"].plan([0, 0, 2], num_classes=3, epochs=10)
        with pytest.raises(ValueError, match="alpha"):
            Method(mixer="mixup", alpha=-1.0).plan(LABELS, epochs=10)

    def test_labels_of_any_kind(self) -> None:
        for labels in ([0, 0, 1], np.array([0, 0, 1]), torch.tensor([0, 0, 1], dtype=torch.int16)):
            plan = Method().plan(labels, epochs=1)
            assert plan.class_counts.tolist() == [2, 1]
        assert Method().plan([0, 0, 1], num_classes=5, epochs=1).class_counts.tolist() == [2, 1, 0, 0, 0]

    def test_of_no_epochs(self) -> None:
        for name in ("tau_norm", "ncm", "erm", "unimix_bayias"):
            plan = plan_of(name, epochs=0)
            assert plan.sampler.indices().shape[0] == 528
            plan.logits_prior()

    @pytest.mark.parametrize("name", FIRST_STAGES)
    def test_a_step_of_every_first_stage(self, name: str) -> None:
        """In the first epoch and in the last one: the loss is finite and its gradient reaches the first layer."""
        plan, net = plan_of(name, epochs=10), Net()
        if name in SOUND:
            net = nn.Sequential(nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 6))
        plan.attach(net)
        for epoch in (0, 9):
            plan.set_epoch(epoch)
            order = plan.sampler.indices()[:64]
            x = torch.randn(528, 256) if name in SOUND else images()
            pairs = order.ndim == 2
            batch = tuple((x[k], LABELS[k]) for k in order.T) if pairs else (x[order], LABELS[order])
            inputs, targets = plan.mix(batch)
            plan.train(net)
            loss = plan.criterion(net(inputs), targets)
            assert loss.isfinite()
            net.zero_grad()
            loss.backward()
            assert next(net.parameters()).grad.abs().sum() > 0
