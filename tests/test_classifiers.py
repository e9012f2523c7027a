"""The classifiers against plain float64 loops, their special cases, what of them learns, where weight decay pulls."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.classifiers import (
    CausalNormClassifier,
    CosineClassifier,
    GeneralizedClassifier,
    LearnableWeightScaling,
    NearestClassMeanClassifier,
    tau_normalize,
)
from ltaug.losses import LDAMLoss

D, C, N = 6, 4, 10


def features(seed: int = 0, size: int = N) -> Tensor:
    return torch.randn(size, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stage_1(bias: bool = True) -> nn.Linear:
    return nn.Linear(D, C, bias=bias).double()


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def norm(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def fitted(cosine: bool = False) -> NearestClassMeanClassifier:
    return NearestClassMeanClassifier(D, C, cosine).fit(features(7, 40).float(), torch.arange(40) % C)


def averaged() -> CausalNormClassifier:
    classifier = CausalNormClassifier(D, C)
    classifier(features(8).float() + 1)
    return classifier


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "cosine": lambda: CosineClassifier(D, C, 16.0),
    "lws": lambda: LearnableWeightScaling(nn.Linear(D, C)),
    "generalized": lambda: GeneralizedClassifier(nn.Linear(D, C)),
    "generalized, official": lambda: GeneralizedClassifier(nn.Linear(D, C), mode="official_code"),
    "crt": lambda: GeneralizedClassifier(nn.Linear(D, C, bias=False), retain=0.0, learn_scale=False),
    "causal norm": averaged,
    "ncm": fitted,
    "ncm, cosine": lambda: fitted(cosine=True),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
class TestEveryClassifier:
    def test_it_takes_what_a_linear_layer_takes(self, make: Callable[[], nn.Module], device: torch.device) -> None:
        layer, x = make().eval().to(device), features().float().to(device)
        assert (layer.in_features, layer.out_features) == (D, C)
        logits = layer(x)
        assert logits.shape == (N, C)
        assert torch.allclose(layer(x.view(2, 5, D)), logits.view(2, 5, C), atol=1e-5)
        assert torch.allclose(layer(x[0]), logits[0], atol=1e-5)
        assert torch.allclose(nn.Sequential(nn.Identity(), layer)(x), logits)
        assert layer(x[:0]).shape == (0, C)

    def test_checkpoints_copies_and_pickles_give_the_same_logits(self, make: Callable[[], nn.Module]) -> None:
        layer, x = make().eval(), features().float()
        other = make().eval()
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        if isinstance(layer, CosineClassifier | GeneralizedClassifier | LearnableWeightScaling):
            assert not torch.allclose(other(x), layer(x))
        other.load_state_dict(layer.state_dict())
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        for twin in (other, copy.deepcopy(layer), torch.load(file, weights_only=False)):
            assert torch.equal(twin(x), layer(x))

    def test_half_precision_is_close_and_has_finite_gradients(self, make: Callable[[], nn.Module]) -> None:
        layer, x = make().eval(), features().float()
        expected = layer(x)
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = layer(x)
        assert torch.allclose(logits.float(), expected, atol=0.03 * float(expected.detach().abs().max()))
        logits.float().square().sum().backward()
        for tensor in (x, *layer.parameters()):
            assert tensor.grad is not None
            assert bool(tensor.grad.isfinite().all())

    @pytest.mark.parametrize("training", [False, True])
    def test_zero_features_are_finite_and_so_are_their_gradients(
        self, make: Callable[[], nn.Module], training: bool
    ) -> None:
        layer, x = make().train(training), torch.zeros(3, D, requires_grad=True)
        logits = layer(x)
        logits.sum().backward()
        assert bool(logits.isfinite().all())
        assert float(x.grad.abs().max()) < 1e3

    def test_nan_features_stay_visible(self, make: Callable[[], nn.Module]) -> None:
        assert bool(make().eval()(torch.full((1, D), math.nan)).isnan().all())

    def test_it_prints_its_sizes(self, make: Callable[[], nn.Module]) -> None:
        assert f"in_features={D}, out_features={C}" in repr(make())


class TestCosine:
    def test_it_is_the_equation(self) -> None:
        layer, x = CosineClassifier(D, C, scale=5.0).double(), features()
        for row, logits in zip(x.tolist(), layer(x).tolist(), strict=True):
            expected = [5 * dot(w, row) / norm(w) / norm(row) for w in layer.weight.tolist()]
            assert logits == pytest.approx(expected, rel=1e-12)

    @given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
    def test_lengths_have_no_say(self, of_features: float, of_weights: float) -> None:
        torch.manual_seed(0)
        layer, x = CosineClassifier(D, C).double(), features()
        before = layer(x)
        with torch.no_grad():
            layer.weight.mul_(of_weights)
        assert torch.allclose(layer(of_features * x), before)

    def test_it_starts_with_directions_of_length_1(self) -> None:
        lengths = CosineClassifier(50, 300).weight.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(300), atol=1e-5)

    def test_scale_1_goes_with_ldam(self) -> None:
        # The loss scales by itself: with margin 0 it is the cross-entropy of the scaled cosines.
        layer, x, labels = CosineClassifier(D, C), features().float(), torch.arange(N) % C
        scaled = CosineClassifier(D, C, scale=30.0)
        scaled.load_state_dict(layer.state_dict())
        ours = LDAMLoss([1] * C, max_margin=0.0, scale=30.0)(layer(x), labels)
        assert torch.allclose(ours, F.cross_entropy(scaled(x), labels), rtol=1e-4)

    @pytest.mark.parametrize("arguments", [(0, 2), (2, 0), (2, 2, 0.0), (2, 2, math.nan)])
    def test_bad_arguments_are_named(self, arguments: tuple) -> None:
        with pytest.raises(ValueError, match=r"`(in_features|num_classes|scale)`"):
            CosineClassifier(*arguments)


class TestLearnableWeightScaling:
    @pytest.mark.parametrize("bias", [True, False])
    def test_it_is_the_equation_and_folds(self, bias: bool) -> None:
        linear, x = stage_1(bias), features()
        layer = LearnableWeightScaling(linear)
        assert torch.equal(layer(x), linear(x))
        with torch.no_grad():
            layer.scale.copy_(torch.tensor([0.5, 1.0, 2.0, -3.0]))
        offsets = linear.bias.tolist() if bias else [0.0] * C
        for row, logits in zip(x.tolist(), layer(x).tolist(), strict=True):
            terms = zip(layer.scale.tolist(), linear.weight.tolist(), offsets, strict=True)
            assert logits == pytest.approx([s * (dot(w, row) + b) for s, w, b in terms], rel=1e-10)
        assert torch.allclose(layer.fold()(x), layer(x), rtol=1e-12)
        assert (layer.fold().bias is not None) == bias

    def test_only_the_scale_learns(self) -> None:
        linear = stage_1()
        layer = LearnableWeightScaling(linear)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
        before = copy.deepcopy(layer.state_dict())
        layer(features()).square().sum().backward()
        optimizer.step()
        changed = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"scale"}
        assert linear.weight.grad is None

    def test_the_first_stage_can_change_without_it(self) -> None:
        linear, x = stage_1(), features()
        layer = LearnableWeightScaling(linear)
        before = layer(x)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
        assert torch.equal(layer(x), before)

    @pytest.mark.parametrize("make", [LearnableWeightScaling, GeneralizedClassifier, lambda x: tau_normalize(x, 1.0)])
    def test_a_model_instead_of_its_layer_is_named(self, make: Callable) -> None:
        with pytest.raises(ValueError, match=r"`linear`.*Sequential.*model\.fc"):
            make(nn.Sequential(nn.Linear(2, 2)))


def state_of(classifier: GeneralizedClassifier) -> tuple[list[float], list[list[float]], list[float]]:
    """s, rW + dW and its bias from the raw state alone."""
    state = classifier.state_dict()

    def total(name: str) -> Tensor:
        return state[f"{name}_origin"] + state.get(f"{name}_delta", 0.0)

    bias = total("bias").tolist() if "bias_origin" in state else [0.0] * C
    return total("scale").tolist(), total("weight").tolist(), bias


def disturb(classifier: GeneralizedClassifier) -> None:
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


MODES = pytest.mark.parametrize("mode", ["paper", "official_code"])


class TestGeneralized:
    @MODES
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("retain", [0.0, 0.4, 1.0])
    def test_it_is_the_equation_and_folds(self, mode: str, bias: bool, retain: float) -> None:
        layer, x = GeneralizedClassifier(stage_1(bias), retain, mode=mode), features()
        disturb(layer)
        scale, weight, offset = state_of(layer)
        for row, logits in zip(x.tolist(), layer(x).tolist(), strict=True):
            terms = zip(scale, weight, offset, strict=True)
            assert logits == pytest.approx([s * (dot(w, row) + b) for s, w, b in terms], rel=1e-10)
        assert torch.allclose(layer.fold()(x), layer(x), rtol=1e-10)
        assert (layer.fold().bias is not None) == bias

    @MODES
    @pytest.mark.parametrize("bias", [True, False])
    def test_it_starts_where_the_first_stage_ended(self, mode: str, bias: bool) -> None:
        linear = nn.Linear(D, C, bias)
        x = features().float()
        assert torch.equal(GeneralizedClassifier(linear, mode=mode)(x), linear(x))
        assert torch.allclose(GeneralizedClassifier(linear, retain=0.5, mode=mode)(x), 0.5 * linear(x), atol=1e-6)

    def test_the_delta_of_the_paper_is_what_the_equation_calls_it(self) -> None:
        linear = stage_1()
        layer = GeneralizedClassifier(linear)
        assert torch.equal(layer.weight_origin, linear.weight)
        assert not bool(layer.weight_delta.any())
        with torch.no_grad():
            layer.weight_delta.fill_(1.0)
        assert torch.equal(layer.weight, linear.weight + 1.0)

    @MODES
    def test_without_delta_it_is_lws(self, mode: str) -> None:
        linear, x = stage_1(), features()
        layer, lws = GeneralizedClassifier(linear, learn_delta=False, mode=mode), LearnableWeightScaling(linear)
        assert [name for name, _ in layer.named_parameters()] == ["scale_delta"]
        for classifier in (layer, lws):
            optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01, momentum=0.9)
            for _ in range(3):
                optimizer.zero_grad()
                classifier(x).square().sum().backward()
                optimizer.step()
        assert not torch.allclose(lws.scale, torch.ones_like(lws.scale))
        assert torch.allclose(layer(x), lws(x), rtol=1e-12)

    @MODES
    def test_without_scale_and_first_stage_it_is_a_new_linear_layer(self, mode: str) -> None:
        linear, x, labels = stage_1(), features(), torch.arange(N) % C
        layer = GeneralizedClassifier(linear, retain=0.0, learn_scale=False, mode=mode)
        assert sorted(name for name, _ in layer.named_parameters()) == ["bias_delta", "weight_delta"]
        assert not torch.allclose(layer(x), linear(x))
        assert (
            float(layer.weight.detach().std()) > 0.1
        )  # drawn anew, not zero: the bound of nn.Linear is D ** -0.5 = 0.41
        assert float(layer.weight.detach().abs().max()) <= D**-0.5
        plain = layer.fold()
        for classifier in (layer, plain):
            optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
            for _ in range(5):
                optimizer.zero_grad()
                F.cross_entropy(classifier(x), labels).backward()
                optimizer.step()
        assert torch.allclose(layer(x), plain(x), rtol=1e-10)

    def test_the_modes_take_the_same_steps_without_decay(self) -> None:
        linear, x, labels = stage_1(), features(), torch.arange(N) % C
        layers = [GeneralizedClassifier(linear, mode=mode) for mode in ("paper", "official_code")]
        for layer in layers:
            optimizer = torch.optim.SGD(layer.parameter_groups(0.5, 0.2), momentum=0.9)
            for _ in range(5):
                optimizer.zero_grad()
                F.cross_entropy(layer(x), labels).backward()
                optimizer.step()
        assert torch.allclose(layers[0](x), layers[1](x), rtol=1e-10)
        assert not torch.allclose(layers[0](x), linear(x), rtol=1e-2)

    @pytest.mark.parametrize(("mode", "stays"), [("paper", True), ("official_code", False)])
    def test_where_weight_decay_pulls(self, mode: str, stays: bool) -> None:
        linear = stage_1()
        layer = GeneralizedClassifier(linear, mode=mode)
        disturb(layer)
        optimizer = torch.optim.SGD(layer.parameter_groups(0.5, 1.0), weight_decay=0.2)
        for _ in range(300):
            for parameter in layer.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        expected = (linear.weight, linear.bias, torch.ones(C)) if stays else (torch.zeros(C, D), *torch.zeros(2, C))
        for value, origin in zip((layer.weight, layer.bias, layer.scale), expected, strict=True):
            assert torch.allclose(value, origin.double(), atol=1e-10)

    def test_checkpoints_of_one_mode_mean_the_same_in_the_other(self) -> None:
        linear, x = stage_1(), features()
        paper, official = (GeneralizedClassifier(linear, mode=mode) for mode in ("paper", "official_code"))
        disturb(official)
        paper.load_state_dict(official.state_dict())
        assert torch.equal(paper(x), official(x))

    @pytest.mark.parametrize("bias", [True, False])
    def test_parameter_groups_hold_everything_once(self, bias: bool) -> None:
        layer = GeneralizedClassifier(stage_1(bias))
        scales, deltas = layer.parameter_groups(lr=0.1, delta_lr_ratio=0.2)
        assert (scales["lr"], deltas["lr"]) == (0.1, pytest.approx(0.02))
        assert [id(p) for p in scales["params"]] == [id(layer.scale_delta)]
        listed = [id(p) for group in (scales, deltas) for p in group["params"]]
        assert sorted(listed) == sorted(id(p) for p in layer.parameters())

    def test_parameter_groups_leave_out_what_does_not_learn(self) -> None:
        (only,) = GeneralizedClassifier(stage_1(), learn_delta=False).parameter_groups(0.1, 0.2)
        assert only["lr"] == 0.1
        (only,) = GeneralizedClassifier(stage_1(), learn_scale=False).parameter_groups(0.1, 0.2)
        assert only["lr"] == pytest.approx(0.02)
        with pytest.raises(ValueError, match="`delta_lr_ratio`"):
            GeneralizedClassifier(stage_1()).parameter_groups(0.1, -0.2)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"retain": 1.5}, r"`retain`.*1\.5"),
            ({"retain": math.nan}, "`retain`"),
            ({"mode": "code"}, "`mode`.*'code'"),
            ({"learn_scale": False, "learn_delta": False}, "`learn_scale` or `learn_delta`"),
            ({"retain": 0.0, "learn_delta": False}, "`retain`.*`learn_delta`"),
        ],
    )
    def test_bad_arguments_are_named(self, settings: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GeneralizedClassifier(stage_1(), **settings)


def naive_causal_norm(row: list[float], weight: list[list[float]], heads: int, average: list[float] | None) -> list:
    """scale 16, gamma 1/32, alpha 3, head by head; without an average the training formula."""
    size = len(row) // heads
    logits = []
    for w in weight:
        total = 0.0
        for k in range(heads):
            part = slice(k * size, (k + 1) * size)
            x, v = row[part], w[part]
            term = dot(v, x) / ((norm(v) + 1 / 32) * norm(x))
            if average is not None:
                m = average[part]
                d = [value / norm(m) for value in m]
                term -= 3.0 * dot(x, d) / norm(x) * dot(v, d) / (norm(v) + 1 / 32)
            total += term
        logits.append(16.0 / heads * total)
    return logits


class TestCausalNorm:
    @pytest.mark.parametrize("heads", [1, 2, 3])
    @pytest.mark.parametrize("training", [True, False])
    def test_it_is_the_equation(self, heads: int, training: bool) -> None:
        layer, x = CausalNormClassifier(D, C, heads).double(), features() + 0.5
        layer(x)
        layer.train(training)
        average = None if training else layer.average.tolist()
        for row, logits in zip(x.tolist(), layer(x).tolist(), strict=True):
            assert logits == pytest.approx(naive_causal_norm(row, layer.weight.tolist(), heads, average), rel=1e-10)

    def test_the_average_is_that_of_the_training_features_only(self) -> None:
        layer = CausalNormClassifier(D, C, momentum=0.7).double()
        batches = [features(seed, size=3 + seed) for seed in range(4)]
        expected = torch.zeros(D, dtype=torch.float64)
        released = torch.zeros(D, dtype=torch.float64)
        for x in batches:
            layer(x)
            expected = 0.7 * expected + 0.3 * x.mean(0)
            released = 0.7 * released + x.mean(0)  # without (1 - momentum)
        layer.eval()(100 + features())
        layer.train()(torch.zeros(0, D, dtype=torch.float64))  # an empty batch has no mean
        assert torch.allclose(layer.average, expected, rtol=1e-12)
        assert torch.allclose(F.normalize(layer.average, dim=0), F.normalize(released, dim=0), rtol=1e-12)
        assert not layer.average.requires_grad

    def test_without_an_average_or_strength_nothing_is_taken_away(self) -> None:
        x = features()
        unseen, weak = CausalNormClassifier(D, C).double(), CausalNormClassifier(D, C, alpha=0.0).double()
        assert torch.allclose(unseen.eval()(x), unseen.train()(x))
        assert torch.allclose(weak.train()(x), weak.eval()(x))
        assert not torch.allclose(unseen.eval()(x), unseen.train()(x))  # now it has an average

    def test_alpha_1_takes_the_average_away_altogether(self) -> None:
        # What is left of a feature is then orthogonal to the average, and of the average itself nothing.
        layer = CausalNormClassifier(D, C, heads=1, alpha=1.0).double()
        layer(features())
        layer.eval()
        common = layer.average.clone()
        assert torch.allclose(layer(common[None]), torch.zeros(1, C, dtype=torch.float64), atol=1e-12)
        assert float(layer.train()(common[None]).detach().abs().max()) > 0.1

    def test_dense_features_average_over_all_places(self) -> None:
        flat, dense = (CausalNormClassifier(D, C).double() for _ in range(2))
        flat(features())
        dense(features().view(2, 5, D))
        assert torch.allclose(flat.average, dense.average)

    def test_only_the_weight_learns(self) -> None:
        assert [name for name, _ in CausalNormClassifier(D, C).named_parameters()] == ["weight"]
        layer = averaged()
        layer.reset_parameters()
        assert not bool(layer.average.any())

    @pytest.mark.parametrize(
        "settings",
        [{"heads": 4}, {"heads": 0}, {"scale": 0.0}, {"gamma": 0.0}, {"alpha": -1.0}, {"momentum": 1.0}],
        ids=str,
    )
    def test_bad_arguments_are_named(self, settings: dict) -> None:
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
            CausalNormClassifier(D, C, **settings)


class TestNearestClassMean:
    @pytest.mark.parametrize("cosine", [False, True])
    def test_it_is_the_equation(self, cosine: bool) -> None:
        x, labels, queries = features(1, 20), torch.tensor([0, 0, 1, 2, 3] * 4), features(2)
        layer = NearestClassMeanClassifier(D, C, cosine).double().fit(x, labels)
        means = []
        for c in range(C):
            own = [row for row, y in zip(x.tolist(), labels.tolist(), strict=True) if y == c]
            means.append([math.fsum(column) / len(own) for column in zip(*own, strict=True)])
        for row, logits in zip(queries.tolist(), layer(queries).tolist(), strict=True):
            if cosine:
                expected = [dot(row, m) / norm(row) / norm(m) for m in means]
            else:
                expected = [-math.fsum((a - b) ** 2 for a, b in zip(row, m, strict=True)) for m in means]
            assert logits == pytest.approx(expected, rel=1e-10)

    def test_it_folds_to_a_linear_layer_with_the_same_softmax(self) -> None:
        x = 5 + features(2)
        layer = NearestClassMeanClassifier(D, C).double().fit(5 + features(7, 40), torch.arange(40) % C)
        assert torch.allclose(layer.fold()(x).softmax(1), layer(x).softmax(1), rtol=1e-10)
        with pytest.raises(ValueError, match="`cosine=False`"):
            fitted(cosine=True).fold()
        with pytest.raises(ValueError, match="Class 0"):
            NearestClassMeanClassifier(D, C).fold()

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def test_batches_add_up(self, sizes: list[int]) -> None:
        x, labels = features(1, sum(sizes) + C), torch.arange(sum(sizes) + C) % C
        streamed = NearestClassMeanClassifier(D, C).double()
        start = 0
        for size in [*sizes, C]:
            streamed.update(x[start : start + size], labels[start : start + size])
            start += size
        whole = NearestClassMeanClassifier(D, C).double().fit(x, labels.tolist())
        assert torch.allclose(streamed.means, whole.means, rtol=1e-10, atol=1e-12)
        assert torch.equal(streamed.counts, whole.counts)

    def test_fitting_again_forgets(self) -> None:
        layer = fitted()
        layer.fit(features(1).float(), torch.arange(N) % C)
        assert int(layer.counts.sum()) == N
        assert torch.allclose(layer.means[1], features(1).float()[1::C].mean(0), atol=1e-6)

    def test_distances_survive_a_large_common_offset_and_half_precision(self) -> None:
        layer = NearestClassMeanClassifier(D, C).fit(1000 + torch.eye(C, D), torch.arange(C))
        queries = 1000 + torch.eye(C, D)
        with torch.autocast("cpu", torch.bfloat16):
            logits = layer(queries)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, 2 * torch.eye(C) - 2, atol=1e-2)

    def test_a_class_without_samples_is_named(self) -> None:
        layer = NearestClassMeanClassifier(D, C)
        layer.update(features(size=2).float(), [0, 2])
        with pytest.raises(ValueError, match=r"Class 1 .*2 of 4.*`update`"):
            layer(features().float())

    @pytest.mark.parametrize(
        ("x", "labels", "message"),
        [
            (torch.zeros(2, D + 1), [0, 1], r"`features`.*\[2, 6\].*\[2, 7\]"),
            (torch.zeros(3, D), [0, 1], "`features`"),
            (torch.zeros(2, D), [0, C], r"`labels`.*0\.\.3"),
            (torch.zeros(2, D), [0, -1], "`labels`"),
            (torch.zeros(2, D), torch.rand(2), "`labels`.*integers"),
        ],
    )
    def test_bad_samples_are_named_and_leave_no_trace(self, x: Tensor, labels: object, message: str) -> None:
        layer = fitted()
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=message):
            layer.update(x, labels)  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


class TestTauNormalize:
    @given(st.floats(0.0, 2.0))
    def test_it_is_the_equation(self, tau: float) -> None:
        torch.manual_seed(0)
        linear = stage_1()
        for ours, w in zip(tau_normalize(linear, tau).weight.tolist(), linear.weight.tolist(), strict=True):
            assert ours == pytest.approx([value / norm(w) ** tau for value in w], rel=1e-12)

    def test_0_changes_nothing_and_1_gives_norm_1(self) -> None:
        linear = stage_1()
        same = tau_normalize(linear, 0.0, keep_bias=True)
        assert torch.equal(same.weight, linear.weight)
        assert torch.equal(same.bias, linear.bias)
        assert torch.allclose(tau_normalize(linear, 1.0).weight.norm(dim=1), torch.ones(C).double())

    def test_the_bias_goes_unless_kept(self) -> None:
        assert tau_normalize(stage_1(), 0.7).bias is None
        assert tau_normalize(stage_1(bias=False), 0.7, keep_bias=True).bias is None

    def test_it_is_a_new_layer_and_draws_nothing(self) -> None:
        linear = stage_1()
        before, state = linear.weight.clone(), torch.get_rng_state()
        layer = tau_normalize(linear, 1.0, keep_bias=True)
        assert torch.equal(torch.get_rng_state(), state)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(9.0)
        assert torch.equal(linear.weight, before)
        assert not bool((linear.bias == 9.0).any())

    def test_a_class_without_weight_stays_at_zero(self) -> None:
        linear = stage_1()
        with torch.no_grad():
            linear.weight[2] = 0.0
        weight = tau_normalize(linear, 1.0).weight
        assert weight[2].tolist() == [0.0] * D
        assert bool(weight.isfinite().all())

    @pytest.mark.parametrize("tau", [-0.1, math.nan])
    def test_a_bad_tau_is_named(self, tau: float) -> None:
        with pytest.raises(ValueError, match="`tau`"):
            tau_normalize(stage_1(), tau)
