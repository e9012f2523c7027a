"""Our own classes pass the public checks, a stranger's small ones too, and every rule catches a planted bad one."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ltaug.losses
import ltaug.mixers
import ltaug.samplers
from ltaug import testing
from ltaug.losses import (
    BayiasLoss,
    CDTLoss,
    ClassWeightedLoss,
    DeferredLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    PriorCorrectedLoss,
    effective_number_weights,
)
from ltaug.mixers import Mixer, MixUp, UniMix
from ltaug.samplers import ClassPowerSampler, DeferredSampler, PairDataset, PairSampler, RepeatFactorSampler
from ltaug.testing import ContractError, check_loss, check_mixer, check_sampler
from ltaug.testing._base import generator_states

C = 5
COUNTS = [400, 120, 40, 9, 2]

# --- our own ----------------------------------------------------------------------------------------------------------

# What a class needs that has arguments without default; names as in the contract.
ARGUMENTS: dict[str, Any] = {
    "num_classes": C,
    "class_counts": COUNTS,
    "total_epochs": 10,
    "sample_rate": 16000,
    "layers": ["input"],  # hidden layers: see test_manifold_mixup.py
}
# Where a method departs from a rule on purpose: {"name of the class": {"argument of the check": value}}.
OPTIONS: dict[str, dict[str, Any]] = {
    "BetweenClass": {"mixing": "free", "shared_weight": False, "shapes": ((5,), (2, 5), (3, 4, 5), (2, 3, 4, 5))},
    "CutMix": {"mixing": "between", "shapes": ((3, 4, 5), (2, 3, 4, 5), (4, 5))},
    "ReMix": {"shared_weight": False},
    "FocalLoss": {"fixed_classes": False},
    # A statistic of the batch: not a mean over samples, and not linear in the labels.
    "LADELoss": {"linear_targets": False, "plain_mean": False},
}
# What cannot be made from labels and a seed alone.
FACTORIES: dict[str, Callable[..., Any]] = {
    "RepeatFactorSampler": lambda labels, seed=0: RepeatFactorSampler(
        F.one_hot(torch.as_tensor(labels), int(max(labels)) + 1), threshold=0.3, seed=seed
    ),
    "PairSampler": lambda labels, seed: PairSampler(
        ClassPowerSampler(labels, tau=1.0, seed=seed), ClassPowerSampler(labels, tau=-1.0, seed=seed)
    ),
    "DeferredSampler": lambda labels, seed: DeferredSampler(
        ClassPowerSampler(labels, tau=1.0, replacement=False, seed=seed), ClassPowerSampler(labels, seed=seed), epoch=2
    ),
}
NOT_CHECKED = {
    "DistributionBalancedLoss": "for several labels a sample; see test_multilabel.py",
    "PriorCorrectedBCELoss": "likewise",
    "ClassWeightedLoss": "a wrapper; see test_wrapped_losses",
    "DeferredLoss": "likewise",
    "Mixer": "the base class",
    "PairDataset": "a data set; see test_pair_dataset",
}


def classes_of(module: Any) -> dict[str, type]:
    """The public classes of a family, aliases by each of their names; functions and `functional` are not classes."""
    public = {name: getattr(module, name) for name in module.__all__}
    return {name: item for name, item in public.items() if isinstance(item, type) and name not in NOT_CHECKED}


def required(cls: type) -> dict[str, Any]:
    parameters = list(inspect.signature(cls).parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = set(needed) - set(ARGUMENTS) - {"labels"}
    if unknown:
        pytest.fail(f"{cls.__name__} needs {sorted(unknown)}: say how to make it in ARGUMENTS or FACTORIES.")
    return {name: ARGUMENTS[name] for name in needed if name != "labels"}


MIXERS, SAMPLERS, LOSSES = classes_of(ltaug.mixers), classes_of(ltaug.samplers), classes_of(ltaug.losses)


def test_something_was_found() -> None:
    assert {"MixUp", "UniMix"} <= set(MIXERS)
    assert {"ClassPowerSampler", "PairSampler"} <= set(SAMPLERS)
    assert {"PriorCorrectedLoss", "BayiasLoss"} <= set(LOSSES)
    everything = {*ltaug.mixers.__all__, *ltaug.samplers.__all__, *ltaug.losses.__all__}
    assert set(NOT_CHECKED) | set(OPTIONS) | set(FACTORIES) <= everything, "a row names a class that is gone"


@pytest.mark.parametrize("name", MIXERS)
def test_our_mixers(name: str) -> None:
    check_mixer(MIXERS[name](**required(MIXERS[name])), C, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", SAMPLERS)
def test_our_samplers(name: str) -> None:
    check_sampler(FACTORIES.get(name) or functools.partial(SAMPLERS[name], **required(SAMPLERS[name])))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in FACTORIES])
def test_our_samplers_have_the_length_that_is_asked_for(name: str) -> None:
    make = functools.partial(SAMPLERS[name], **required(SAMPLERS[name]), num_samples=37)
    assert len(make([0, 0, 1])) == 37
    check_sampler(make)


@pytest.mark.parametrize("name", LOSSES)
def test_our_losses(name: str) -> None:
    check_loss(LOSSES[name](**required(LOSSES[name])), C, **OPTIONS.get(name, {}))


def test_wrapped_losses() -> None:
    weights = effective_number_weights(COUNTS, 0.99)
    for inner in (nn.CrossEntropyLoss(), FocalLoss(2.0), LDAMLoss(COUNTS, scale=2.0), LabelAwareSmoothingLoss(COUNTS)):
        check_loss(ClassWeightedLoss(inner, weights), C)
    check_loss(DeferredLoss(BayiasLoss(COUNTS), CDTLoss(COUNTS), epoch=3), C)


@pytest.mark.parametrize("mode", ["paper", "official_code"])
def test_our_class_losses_in_other_settings(mode: str) -> None:
    check_loss(LADELoss(COUNTS, alpha=1.0, remine_lambda=0.5, mode=mode), C, **OPTIONS["LADELoss"])
    check_loss(LabelAwareSmoothingLoss(COUNTS, 0.5, 0.0, "power", 0.5, mode=mode), C)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        check_loss(FocalLoss(gamma, class_weights=torch.rand(C)), C)
    check_loss(LDAMLoss(COUNTS, class_weights=torch.rand(C)), C)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_our_mixers_in_other_settings(num_classes: int) -> None:
    counts = list(range(1, num_classes + 1))
    check_mixer(MixUp(num_classes, alpha=0.2), num_classes)
    check_mixer(UniMix(counts, alpha=0.2, in_batch_tau=0.5), num_classes)


@pytest.mark.parametrize("tau", [1.0, 0.5, 0.0, -1.0])
def test_our_samplers_in_other_settings(tau: float) -> None:
    check_sampler(functools.partial(ClassPowerSampler, tau=tau))
    # Twice the same sampler: the two streams of label-occurrence-balanced mixup.
    check_sampler(
        lambda labels, seed: PairSampler(
            ClassPowerSampler(labels, tau, seed=seed), ClassPowerSampler(labels, tau, seed=seed)
        )
    )


def test_our_shuffled_epoch() -> None:
    check_sampler(functools.partial(ClassPowerSampler, tau=1.0, replacement=False))
    check_sampler(functools.partial(ClassPowerSampler, tau=1.0), labels=np.arange(1000) % 7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("num_classes", [2, 5, 1000])
def test_our_losses_in_other_settings(num_classes: int, reduction: str) -> None:
    counts = torch.logspace(3, 0, num_classes).round().long()
    check_loss(PriorCorrectedLoss(counts, tau=0.5, target_prior=counts.flip(0), reduction=reduction), num_classes)


def test_pair_dataset() -> None:
    inputs, labels = torch.arange(12.0).view(12, 1), torch.arange(12) % 3
    sampler = FACTORIES["PairSampler"](labels, seed=0)
    loader = DataLoader(PairDataset(TensorDataset(inputs, labels)), batch_size=5, sampler=sampler)
    seen = []
    for (x, y), (partner_x, partner_y) in loader:
        assert torch.equal(y, labels[x[:, 0].long()])
        assert torch.equal(partner_y, labels[partner_x[:, 0].long()])
        seen += list(zip(x[:, 0].long().tolist(), partner_x[:, 0].long().tolist(), strict=True))
    assert seen == list(map(tuple, sampler.indices().tolist()))


# --- a stranger's -----------------------------------------------------------------------------------------------------
# Nothing of ltaug in them: this is what a reader of the documentation writes first.


def own_mixer(
    inputs: Tensor, targets: Tensor, partner_inputs: Tensor | None = None, partner_targets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if partner_inputs is None or partner_targets is None:
        order = torch.randperm(len(inputs))
        partner_inputs, partner_targets = inputs[order], targets[order]
    x = targets if targets.is_floating_point() else F.one_hot(targets, C).float()
    y = partner_targets if partner_targets.is_floating_point() else F.one_hot(partner_targets, C).float()
    lam = torch.rand(len(inputs))
    weight = lam.to(inputs.dtype).view(-1, *[1] * (inputs.ndim - 1))
    return weight * inputs + (1 - weight) * partner_inputs, lam.view(-1, 1) * x + (1 - lam.view(-1, 1)) * y


class OwnSampler:
    """Every class equally often."""

    def __init__(self, labels: Tensor, seed: int = 0) -> None:
        self.labels, self.seed, self.epoch = np.asarray(labels), seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        weight = 1 / np.bincount(self.labels)[self.labels]
        generator = np.random.default_rng((self.seed, self.epoch))
        self.epoch += 1
        yield from generator.choice(len(self), size=len(self), p=weight / weight.sum()).tolist()


class OwnLoss(nn.Module):
    """Logit adjustment."""

    def __init__(self, class_counts: list[int]) -> None:
        super().__init__()
        self.register_buffer("log_count", torch.tensor(class_counts).log(), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.shape[1] != len(self.log_count):
            raise ValueError(f"{len(self.log_count)} classes expected, got logits of shape {list(logits.shape)}")
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits + self.log_count.view(-1, *[1] * (logits.ndim - 2)), targets)


def test_a_strangers_mixer_passes() -> None:
    check_mixer(own_mixer, C)


def test_a_strangers_sampler_passes() -> None:
    check_sampler(OwnSampler)


def test_a_strangers_loss_passes() -> None:
    check_loss(OwnLoss(COUNTS), C)


def test_torchs_own_loss_passes() -> None:
    check_loss(nn.CrossEntropyLoss(), C, fixed_classes=False)
    check_loss(F.cross_entropy, C, fixed_classes=False)


# --- bad mixers -------------------------------------------------------------------------------------------------------

Twin = tuple[str, str, Any]
MIXER_TWINS: dict[str, Twin] = {}
SAMPLER_TWINS: dict[str, Twin] = {}
LOSS_TWINS: dict[str, Twin] = {}


def caught(table: dict[str, Twin], rule: str, message: str) -> Callable[[Any], Any]:
    """Register a bad class, the rule it breaks and what the message must show of it."""

    def register(bad: Any) -> Any:
        table[bad.__name__] = (rule, message, bad)
        return bad

    return register


class GoodMixer:
    """`own_mixer` in pieces that the twins replace."""

    def __call__(self, x: Tensor, t: Tensor, px: Tensor | None = None, pt: Tensor | None = None) -> Any:
        if px is None or pt is None:
            px, pt = self.choose(x, t)
        lam = self.draw(len(x))
        return self.blend(x, px, lam), self.blend_targets(self.dense(t), self.dense(pt), lam)

    def choose(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(x))
        return x[order], t[order]

    def draw(self, size: int) -> Tensor:
        return torch.rand(size)

    def blend(self, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        return torch.lerp(y, x, self.shaped(lam.to(x.dtype), x))

    def blend_targets(self, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        return torch.lerp(y, x, lam.to(x.dtype).view(-1, 1))

    def dense(self, t: Tensor) -> Tensor:
        return t if t.is_floating_point() else F.one_hot(t, C).float()

    def shaped(self, lam: Tensor, x: Tensor) -> Tensor:
        return lam.view(-1, *[1] * (x.ndim - 1))


bad_mixer = functools.partial(caught, MIXER_TWINS)


@bad_mixer("any batch", r"inputs float32 \[7\], index targets, no partners: returned inputs of shape \[7, 1, 1, 7\]")
class ImagesOnly(GoodMixer):
    def shaped(self, lam, x):
        return lam.view(-1, 1, 1, 1)


@bad_mixer("any batch", r"\[7\].*raised ValueError: even batches only")
class EvenBatchesOnly(GoodMixer):
    def choose(self, x, t):
        if len(x) % 2:
            raise ValueError("even batches only")
        return x.flip(0), t.flip(0)


@bad_mixer("any batch", r"\[1\], index targets, no partners: raised IndexError")
class NotOne(GoodMixer):
    def draw(self, size):
        return torch.rand(size)[torch.arange(size) + (size == 1)]


@bad_mixer(
    "any batch", r"partners given: raised TypeError.*3 were given|partners given: raised TypeError.*5 were given"
)
class NoPartners(GoodMixer):
    def __call__(self, x, t):
        return super().__call__(x, t)


@bad_mixer("any batch", "one-hot targets.*raised RuntimeError: one_hot is only applicable to index tensor")
class IndexOnly(GoodMixer):
    def dense(self, t):
        return F.one_hot(t, C).float()


@bad_mixer("two tensors", "returned an object of type tuple")
class FourResults(GoodMixer):
    def __call__(self, x, t, px=None, pt=None):
        px, pt = (px, pt) if px is not None else self.choose(x, t)
        lam = self.draw(len(x))
        return self.blend(x, px, lam), t, pt, lam


@bad_mixer("two tensors", r"returned targets int64 \[7\]")
class IndexTargets(GoodMixer):
    def blend_targets(self, x, y, lam):
        return x.argmax(1)


@bad_mixer("type and device", r"bfloat16 \[7\].*returned inputs of type torch.float32")
class Promotes(GoodMixer):
    def blend(self, x, y, lam):
        lam = self.shaped(lam, x)
        return lam * x + (1 - lam) * y


@bad_mixer("type and device", "on cpu: returned targets on meta")
class OtherDevice(GoodMixer):
    def blend_targets(self, x, y, lam):
        return super().blend_targets(x, y, lam).to("meta")


@bad_mixer("out of place", "`inputs` changed during the call")
class InPlace(GoodMixer):
    def blend(self, x, y, lam):
        return super().blend(x, y, lam) + 0 * x.mul_(0.5)


@bad_mixer("out of place", r"one-hot targets.*`targets` changed")
class InPlaceTargets(GoodMixer):
    def blend_targets(self, x, y, lam):
        return super().blend_targets(x, y, lam) + 0 * x.mul_(0.5)


@bad_mixer("out of place", "partners given: `partner_inputs` changed")
class InPlacePartners(GoodMixer):
    def blend(self, x, y, lam):
        return y.lerp_(x, self.shaped(lam.to(x.dtype), x))


@bad_mixer("new memory", r"\[1\].*the result is, or is a view of, `inputs`")
class PassesThrough(GoodMixer):
    def blend(self, x, y, lam):
        return x if len(x) == 1 else super().blend(x, y, lam)


@bad_mixer("new memory", "one-hot targets.*the result is, or is a view of, `targets`")
class PassesTargets(GoodMixer):
    def draw(self, size):
        return torch.ones(size)

    def blend_targets(self, x, y, lam):
        return x


@bad_mixer("probabilities", r"row \d is \[.*with the sum 0\.\d+")
class Overwrites(GoodMixer):
    def blend_targets(self, x, y, lam):
        out = torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), lam.to(x.dtype).view(-1, 1))
        return out.scatter(1, y.argmax(1, keepdim=True), 1 - lam.to(x.dtype).view(-1, 1))


@bad_mixer("probabilities", r"row \d is \[.*-0\.")
class NegativeWeight(GoodMixer):
    def draw(self, size):
        return 1 + torch.rand(size)


@bad_mixer("probabilities", "nan")
class NotANumber(GoodMixer):
    def blend_targets(self, x, y, lam):
        return super().blend_targets(x, y, lam) / 0 * 0


@bad_mixer("labels of the pair", "no mixture of its own target .* with that of any sample of the batch")
class Smooths(GoodMixer):
    def blend_targets(self, x, y, lam):
        return 0.9 * super().blend_targets(x, y, lam) + 0.1 / C


@bad_mixer("labels of the pair", "partners given: row .* with that of the given partner")
class IgnoresPartners(GoodMixer):
    def __call__(self, x, t, px=None, pt=None):
        return super().__call__(x, t)


@bad_mixer("inputs of the pair", "leaves the range between itself and any sample of the batch")
class Rescales(GoodMixer):
    def blend(self, x, y, lam):
        weight = self.shaped(lam.to(x.dtype), x)
        return super().blend(x, y, lam) / (weight**2 + (1 - weight) ** 2).sqrt()


@bad_mixer("inputs of the pair", "partners given: sample .* the given partner")
class OtherInputs(GoodMixer):
    def __call__(self, x, t, px=None, pt=None):
        mixed, targets = super().__call__(x, t, px, pt)
        return (mixed, targets) if px is None else (mixed.roll(1, 0), targets)


@bad_mixer("linear", r"\[7, 5\].*sample \d is not such a combination")
class Pastes(GoodMixer):
    def draw(self, size):
        return (5 * torch.rand(size)).round() / 5

    def blend(self, x, y, lam):
        if x.ndim == 1:
            return super().blend(x, y, lam)
        kept = torch.arange(5) < (5 * lam).round().unsqueeze(1)  # the last dimension of all shapes is 5
        return torch.where(kept.view(len(x), *[1] * (x.ndim - 2), 5), x, y)


@bad_mixer("same partner", r"the input of sample \d has another partner than its target")
class TwoPermutations(GoodMixer):
    def choose(self, x, t):
        return x[torch.randperm(len(x))], t[torch.randperm(len(x))]


@bad_mixer("same weight", r"makes up 0\.\d+ of its mixed input, but 0\.\d+ of its target")
class SwapsWeight(GoodMixer):
    def blend_targets(self, x, y, lam):
        return super().blend_targets(x, y, 1 - lam)


@bad_mixer("index and one-hot agree", "and the same seed, inputs differ by up to")
class DrawsMore(GoodMixer):
    def __call__(self, x, t, px=None, pt=None):
        if t.is_floating_point():
            torch.rand(1)
        return super().__call__(x, t, px, pt)


@bad_mixer("same seed, same result", r"two calls after `torch.manual_seed\(0\)` differ")
class DrawsFromNumpy(GoodMixer):
    def dense(self, t):
        # The first call after construction is like the others: only the draw is at fault.
        return super().dense(t)

    def __call__(self, x, t, px=None, pt=None):
        self.count = getattr(self, "count", 0) + (t.ndim == 1)
        self.lam = torch.from_numpy(np.random.default_rng(self.count).random(len(x)))
        return super().__call__(x, t, px, pt)

    def draw(self, size):
        return self.lam


@bad_mixer("torch's global generator", "nine seeds of torch give one and the same result")
class SeedsItself(GoodMixer):
    def __call__(self, x, t, px=None, pt=None):
        torch.manual_seed(0)
        return super().__call__(x, t, px, pt)


@bad_mixer("gradient", "the mixed inputs require no gradient")
class NoGradient(GoodMixer):
    @torch.no_grad()
    def __call__(self, x, t, px=None, pt=None):
        return super().__call__(x, t, px, pt)


@bad_mixer("gradient", "`partner_inputs` get no gradient")
class DetachesPartners(GoodMixer):
    def blend(self, x, y, lam):
        return super().blend(x, y.detach(), lam)


@bad_mixer("gradient", "the gradient is zero everywhere")
class GradientOfNothing(GoodMixer):
    def blend(self, x, y, lam):
        return super().blend(x, y, lam).detach() + 0 * x + 0 * y


@pytest.mark.parametrize("name", MIXER_TWINS)
def test_bad_mixers_are_caught(name: str) -> None:
    rule, message, bad = MIXER_TWINS[name]
    expect(rule, message, lambda: check_mixer(bad(), C))


def expect(rule: str, message: str, check: Callable[[], None]) -> None:
    with pytest.raises(ContractError) as caught_error:
        check()
    assert (caught_error.value.rule, bool(re.search(message, caught_error.value.seen))) == (rule, True), (
        caught_error.value
    )


def test_good_mixer_passes() -> None:
    check_mixer(GoodMixer(), C)


def test_mixers_that_depart_on_purpose() -> None:
    check_mixer(Pastes(), C, mixing="between", shapes=[(5,), (2, 5), (3, 4, 5)])
    check_mixer(SwapsWeight(), C, shared_weight=False)
    check_mixer(Rescales(), C, mixing="free", shared_weight=False)
    with pytest.raises(ContractError, match="same weight"):
        check_mixer(Rescales(), C, mixing="free")


# --- bad samplers -----------------------------------------------------------------------------------------------------

bad_sampler = functools.partial(caught, SAMPLER_TWINS)


class Shuffled(OwnSampler):
    """A good one that the twins change: `source` makes the generator, `order` the epoch."""

    def source(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch))

    def order(self) -> list[Any]:
        return self.source().permutation(len(self.labels)).tolist()

    def __iter__(self) -> Iterator[Any]:
        order = self.order()
        self.epoch += 1
        return iter(order)


@bad_sampler("factory", r"`make_sampler\(labels, seed=0\)`: raised TypeError: .*'seed'")
class NoSeed(Shuffled):
    def __init__(self, labels):
        super().__init__(labels)


@bad_sampler("iterable with a length", "no `__len__`")
class NoLength:
    def __init__(self, labels, seed=0):
        pass

    def set_epoch(self, epoch):
        pass

    def __iter__(self):
        return iter([0])


@bad_sampler("iterable with a length", "no `__iter__`")
class NoIteration:
    def __init__(self, labels, seed=0):
        pass

    def __len__(self):
        return 1


@bad_sampler("iterable with a length", "`len` says 60, but iterating yields 30")
class HalfTheLength(Shuffled):
    def order(self):
        return super().order()[::2]


@bad_sampler("iterable with a length", "`len` says 60, but iterating yields more")
class NeverEnds(Shuffled):
    def __iter__(self):
        while True:
            yield from self.order()


@bad_sampler("iterable with a length", "`len` says 0, but iterating yields 0")
class Nothing(Shuffled):
    def __len__(self):
        return 0

    def order(self):
        return []


@bad_sampler("set_epoch", "no method `set_epoch`")
class NoEpoch(Shuffled):
    set_epoch = None


@bad_sampler("set_epoch", r"`set_epoch\(0\)`: raised ValueError")
class EpochFromOne(Shuffled):
    def set_epoch(self, epoch):
        if epoch < 1:
            raise ValueError("epochs count from 1")
        super().set_epoch(epoch)


@bad_sampler("integers", "int64, an object of type int64|an object of type int64")
class NumpyIntegers(Shuffled):
    def order(self):
        return list(np.asarray(super().order()))


@bad_sampler("integers", r"yields tensor\(\d+\), int64 \[\]")
class TensorIntegers(Shuffled):
    def order(self):
        return list(torch.tensor(super().order()))


@bad_sampler("in range", "yields 60 for 60 labels")
class OneTooFar(Shuffled):
    def order(self):
        return [index + 1 for index in super().order()]


@bad_sampler("in range", "yields -1 for 60 labels")
class FromBehind(Shuffled):
    def order(self):
        return [index - 1 for index in super().order()]


@bad_sampler("global generators untouched", "the global generator of torch has moved on")
class DrawsFromTorch(Shuffled):
    def order(self):
        return torch.randperm(len(self)).tolist()


@bad_sampler("global generators untouched", "the global generator of numpy has moved on")
class SeedsNumpy(Shuffled):
    def order(self):
        np.random.seed(self.seed * 1000 + self.epoch)  # noqa: NPY002, TID251 - what must be caught
        return np.random.permutation(len(self)).tolist()  # noqa: NPY002


@bad_sampler("global generators untouched", "the global generator of random has moved on")
class DrawsFromRandom(Shuffled):
    def order(self):
        return random.sample(range(len(self)), len(self))


@bad_sampler("own generator", "the order changes with the global seeds")
class ReadsTheGlobalSeed(Shuffled):
    def source(self):
        return np.random.default_rng((torch.initial_seed(), self.seed, self.epoch))


@bad_sampler("moves on", "the iteration after epoch 0 gives the same order again, not epoch 1")
class Repeats(Shuffled):
    def __iter__(self):
        return iter(self.order())


@bad_sampler("moves on", "the iteration after epoch 0 gives another order, not epoch 1")
class RunsOn(Shuffled):
    def set_epoch(self, epoch):
        self.running = np.random.default_rng((self.seed, epoch))

    def source(self):
        return self.running


@bad_sampler("moves on", "left half-way")
class KeepsItsPlace(Shuffled):
    """Goes on, round and round, where an iteration was left."""

    place = 0

    def __iter__(self):
        order = self.order()
        self.epoch += 1
        for _ in order:
            self.place += 1
            yield order[(self.place - 1) % len(order)]


@bad_sampler("same (seed, epoch), same order", "two instances differ")
class FreshEntropy(Shuffled):
    def __init__(self, labels, seed=0):
        super().__init__(labels, seed)
        self.entropy = int.from_bytes(os.urandom(8), "little")

    def source(self):
        return np.random.default_rng((self.entropy, self.seed, self.epoch))


@bad_sampler("resume", "epoch 2 after epoch 0 differs")
class Remembers(Shuffled):
    past = ()

    def set_epoch(self, epoch):
        self.past = self.past if self.past[-1:] == (epoch,) else (*self.past, epoch)

    def source(self):
        return np.random.default_rng((self.seed, *self.past))


@bad_sampler("resume", "epoch 0 after epoch 2 differs")
class OnlyForward(Shuffled):
    def set_epoch(self, epoch):
        self.epoch = max(self.epoch, epoch)


@bad_sampler("epochs differ", "epochs 0 and 1 have the same order")
class SameEveryEpoch(Shuffled):
    def source(self):
        return np.random.default_rng(self.seed)


@bad_sampler("seeds differ", "seeds 0 and 1 have the same order")
class SameEverySeed(Shuffled):
    def source(self):
        return np.random.default_rng(self.epoch)


@bad_sampler("seed and epoch stay apart", "seed 0, epoch 1 and seed 1, epoch 0 have the same order")
class SeedPlusEpoch(Shuffled):
    def source(self):
        return np.random.default_rng(self.seed + self.epoch)


@bad_sampler("two streams", "i = j")
class OwnPartner(Shuffled):
    def order(self):
        return list(zip(super().order(), super().order(), strict=True))


@bad_sampler("indices()", r"`indices\(\)` is int64 \[60\] and differs")
class OtherIndices(Shuffled):
    def indices(self):
        return torch.tensor(self.order()).flip(0)


@bad_sampler("indices()", r"`indices\(\)` is int32 \[60\]")
class SmallIndices(Shuffled):
    def indices(self):
        return torch.tensor(self.order(), dtype=torch.int32)


@bad_sampler("pickle", r"pickle.dumps\(sampler\)\)`: raised")
class HoldsALambda(Shuffled):
    def __init__(self, labels, seed=0):
        super().__init__(labels, seed)
        self.key = lambda index: index


@bad_sampler("pickle", "the copy has another order")
class ForgetsTheEpoch(Shuffled):
    def __getstate__(self):
        return {**self.__dict__, "epoch": 0}


@bad_sampler("classes without samples", "labels of classes 1, 3 and 6 alone: raised ValueError")
class DrawsEmptyClasses(Shuffled):
    def order(self):
        generator = self.source()
        members = [np.flatnonzero(self.labels == c) for c in range(self.labels.max() + 1)]
        return [int(generator.choice(members[c])) for c in generator.integers(len(members), size=len(self))]


@bad_sampler("classes without samples", r"yields \[.*-1")
class MarksEmptyClasses(Shuffled):
    def order(self):
        gone = np.bincount(self.labels).min() == 0
        return [-1, *super().order()[1:]] if gone else super().order()


@bad_sampler("ranks", "two ranks see 30 indices, 30 of the epoch's 60 distinct ones, in an incomplete order")
class SlicesByItself(Shuffled):
    def order(self):
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return super().order()[rank::world]


@bad_sampler("ranks", "two ranks see 60 indices, .* in another order")
class OneStreamARank(Shuffled):
    def source(self):
        return np.random.default_rng((self.seed, self.epoch, int(os.environ.get("RANK", 0))))


@pytest.mark.parametrize("name", SAMPLER_TWINS)
def test_bad_samplers_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    rule, message, bad = SAMPLER_TWINS[name]
    expect(rule, message, lambda: check_sampler(bad))
    assert "RANK" not in os.environ


def test_good_sampler_passes() -> None:
    check_sampler(Shuffled)


# --- bad losses -------------------------------------------------------------------------------------------------------

bad_loss = functools.partial(caught, LOSS_TWINS)


class GoodLoss(nn.Module):
    """A good one in pieces that the twins replace."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"
        self.register_buffer("shift", torch.tensor(COUNTS).float().log(), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Any:
        self.check(logits, targets)
        with torch.autocast(logits.device.type, enabled=False):
            logits = self.shifted(self.cast(logits))
            return self.reduce(self.each(logits, self.dense(targets, logits)))

    def check(self, logits: Tensor, targets: Tensor) -> None:
        for name, tensor in {"logits": logits, "targets": targets}.items():
            if tensor.is_floating_point() and tensor.shape[1] != C:
                raise ValueError(f"`{name}` must have {C} classes, but have shape {list(tensor.shape)}.")

    def cast(self, logits: Tensor) -> Tensor:
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def shifted(self, logits: Tensor) -> Tensor:
        return logits + self.shift.to(logits.dtype).view(1, -1, *[1] * (logits.ndim - 2))

    def dense(self, targets: Tensor, logits: Tensor) -> Tensor:
        dense = targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1]).movedim(-1, 1)
        return dense.to(logits.dtype)

    def each(self, logits: Tensor, dense: Tensor) -> Tensor:
        return -(dense * logits.log_softmax(1)).sum(1)

    def reduce(self, loss: Tensor) -> Any:
        return {"mean": loss.mean, "sum": loss.sum, "none": loss.clone}[self.reduction]()


@bad_loss("copy", r"`copy.deepcopy\(loss\)`: raised RuntimeError")
class HoldsAGraph(GoodLoss):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(C))
        self.register_buffer("shift", self.scale * 2, persistent=False)


@bad_loss("any targets", r"logits float32 \[5, 5\], targets float32 \[5, 5\]: raised RuntimeError")
class IndexTargetsOnly(GoodLoss):
    def forward(self, logits, targets):
        return F.nll_loss(self.shifted(self.cast(logits)).log_softmax(1), targets)


@bad_loss("any targets", r"logits float32 \[1, 5\].*raised ValueError: two samples at least")
class NotASingleSample(GoodLoss):
    def check(self, logits, targets):
        if len(logits) < 2:
            raise ValueError("two samples at least")


@bad_loss("scalar", "returned an object of type float")
class PythonNumber(GoodLoss):
    def reduce(self, loss):
        return loss.mean().item()


@bad_loss("scalar", r"`reduction='mean'`: returned shape \[5\]")
class NotReduced(GoodLoss):
    def reduce(self, loss):
        return loss


@bad_loss("scalar", r"returned shape \[5, 5\]")
def not_reduced_at_all(logits, targets):
    return logits


@bad_loss("scalar", "the loss has no gradient")
class DetachedLoss(GoodLoss):
    def reduce(self, loss):
        return super().reduce(loss).detach()


@bad_loss("inputs untouched", "`logits` changed during the call")
class ShiftsInPlace(GoodLoss):
    def shifted(self, logits):
        logits += self.shift.to(logits.dtype).view(1, -1, *[1] * (logits.ndim - 2))
        return logits


@bad_loss("inputs untouched", "`targets` changed during the call")
class SmoothsInPlace(GoodLoss):
    def dense(self, targets, logits):
        dense = super().dense(targets, logits)
        return dense.mul_(0.9).add_(0.02)


@bad_loss("index and one-hot agree", "5 samples: values are")
def torchs_weighted_mean(logits, targets):
    return F.cross_entropy(logits, targets, weight=torch.arange(1.0, C + 1))


@bad_loss("index and one-hot agree", r"samples: gradients are \[")
class OtherGradient(GoodLoss):
    def forward(self, logits, targets):
        loss = super().forward(logits, targets)
        return loss if targets.is_floating_point() else (loss + loss.detach()) / 2


@bad_loss("soft targets", r"on classes \[0, 1, 2, 3, 4\]: loss [\d.]+, but the losses of these classes")
class TakesTheLargest(GoodLoss):
    def dense(self, targets, logits):
        if targets.is_floating_point():
            targets = targets.argmax(1)
        return super().dense(targets, logits)


@bad_loss("reduction", r'`reduction="none"`: returned shape \[\], not \[1\]')
class AlwaysTheMean(GoodLoss):
    def reduce(self, loss):
        return loss.mean()


@bad_loss("reduction", '"sum" is .*, but that of "none"')
class SumOverClasses(GoodLoss):
    def reduce(self, loss):
        return loss.mean() * C**2 if self.reduction == "sum" else super().reduce(loss)


@bad_loss("reduction", '"mean" is .*, but that of "none"')
class WeightedMean(GoodLoss):
    """Divides by the sum of the weights of the batch, for both forms of targets alike."""

    def each(self, logits, dense):
        weight = torch.arange(1.0, C + 1, dtype=logits.dtype).view(1, -1, *[1] * (logits.ndim - 2))
        self.total = (dense * weight).sum()
        return super().each(logits, dense * weight)

    def reduce(self, loss):
        return loss.sum() / self.total if self.reduction == "mean" else super().reduce(loss)


@bad_loss("reduction", "`loss.reduction = 'none'`: raised AttributeError")
class FixedReduction(GoodLoss):
    reduction = property(lambda self: "mean", None)

    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("shift", torch.zeros(C), persistent=False)


@bad_loss("dense prediction", r"logits float32 \[3, 5, 4\].*raised RuntimeError")
class RowsOnly(GoodLoss):
    def shifted(self, logits):
        return logits + self.shift.to(logits.dtype)


@bad_loss("dense prediction", r"\[3, 5, 4\].*but as rows")
class SoftmaxOverTheLast(GoodLoss):
    def each(self, logits, dense):
        return -(dense * logits.log_softmax(-1)).sum(1)


@bad_loss("finite", r"of \+-1e4, .* bfloat16 autocast: the loss has inf")
class LogOfSoftmax(GoodLoss):
    def each(self, logits, dense):
        probs = logits.softmax(1)
        return -torch.where(dense > 0, dense * probs.log(), torch.zeros_like(probs)).sum(1)


@bad_loss("finite", "the gradient has nan")
class GradientOverflows(GoodLoss):
    def each(self, logits, dense):
        # The value is capped, but the gradient is 0 * inf.
        return super().each(logits, dense) + logits.exp().sum(1).clamp(max=1e6) * 1e-3


@bad_loss("float32 inside", "bfloat16 autocast: .*, but in float32")
class MatrixProduct(GoodLoss):
    def forward(self, logits, targets):
        self.check(logits, targets)
        logits = self.shifted(self.cast(logits))
        if logits.ndim == 2:
            logits = logits @ torch.eye(C, dtype=logits.dtype)  # rounds to bfloat16 under autocast
        logits = self.cast(logits)
        return self.reduce(self.each(logits, self.dense(targets, logits)))


@bad_loss("float32 inside", "returned torch.bfloat16")
class ReturnsHalf(GoodLoss):
    def forward(self, logits, targets):
        loss = super().forward(logits, targets)
        return loss.to(logits.dtype)


@bad_loss("statistics in buffers", "`shift` is a plain tensor attribute")
class PlainAttribute(GoodLoss):
    def __init__(self):
        super().__init__()
        del self.shift
        self.shift = torch.zeros(C)


@bad_loss("statistics in buffers", r"`inner.margins` is a plain tensor attribute")
class PlainList(GoodLoss):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.margins = [torch.zeros(C)]


@bad_loss("no statistics in checkpoints", r"`state_dict\(\)` holds 'shift'")
class PersistentBuffer(GoodLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(C))


@bad_loss("to(dtype)", r"after `.to\(torch.float64\)`: raised RuntimeError: expected")
class OneTypeOnly(GoodLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(C), persistent=False)

    def each(self, logits, dense):
        return -torch.einsum("nc...,c->n...", dense * logits.log_softmax(1), self.weight)


@bad_loss("to(dtype)", r"after `.to\(torch.bfloat16\)`, but .* before")
class RoundsItsCounts(GoodLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", 1000 + torch.tensor(COUNTS).float().log(), persistent=False)


@bad_loss("gradient", "raised GradcheckError: Jacobian mismatch|raised GradcheckError")
class DetachedFactor(GoodLoss):
    def each(self, logits, dense):
        log_probs = logits.log_softmax(1)
        return -(dense * (1 - log_probs.exp().detach()) * log_probs).sum(1)


@bad_loss("gradient", "logits float64 .*: returned torch.float32")
class CastsDown(GoodLoss):
    def cast(self, logits):
        return logits.float()


@bad_loss("wrong number of classes", r"logits float32 \[5, 1\].* for 5 classes: no error")
class Broadcasts(GoodLoss):
    def check(self, logits, targets):
        pass

    def dense(self, targets, logits):
        if targets.is_floating_point():
            return targets.to(logits.dtype)
        return F.one_hot(targets, C).movedim(-1, 1).to(logits.dtype)


@bad_loss("wrong number of classes", "for 5 classes: raised RuntimeError")
class OtherError(GoodLoss):
    def check(self, logits, targets):
        try:
            super().check(logits, targets)
        except ValueError as error:
            raise RuntimeError(str(error)) from error


@bad_loss("wrong number of classes", "the message does not state 5: bad shape")
class SaysNothing(GoodLoss):
    def check(self, logits, targets):
        if logits.shape[1] != C:
            raise ValueError("bad shape")


@bad_loss("wrong number of classes", r"logits float32 \[5, 5\], targets float32 \[5, 1\]: no error")
class BroadcastsTargets(GoodLoss):
    def check(self, logits, targets):
        super().check(logits, logits)


@pytest.mark.parametrize("name", LOSS_TWINS)
def test_bad_losses_are_caught(name: str) -> None:
    rule, message, bad = LOSS_TWINS[name]
    expect(rule, message, lambda: check_loss(bad() if isinstance(bad, type) else bad, C))


def test_good_loss_passes() -> None:
    check_loss(GoodLoss(), C)


def test_losses_that_depart_on_purpose() -> None:
    check_loss(TakesTheLargest(), C, linear_targets=False)
    check_loss(WeightedMean(), C, plain_mean=False)
    check_loss(RowsOnly(), C, dense_prediction=False)
    check_loss(Broadcasts(), C, fixed_classes=False)
    check_loss(DetachedFactor(), C, exact_gradient=False)


def test_the_loss_itself_is_left_alone() -> None:
    loss = GoodLoss()
    before = loss.shift
    check_loss(loss, C)
    assert loss.shift is before
    assert (loss.reduction, loss.shift.dtype, loss.shift.tolist()) == ("mean", torch.float32, GoodLoss().shift.tolist())


# --- the checks themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "twins"),
    [
        pytest.param(testing.MIXER_RULES, MIXER_TWINS, id="mixers"),
        pytest.param(testing.SAMPLER_RULES, SAMPLER_TWINS, id="samplers"),
        pytest.param(testing.LOSS_RULES, LOSS_TWINS, id="losses"),
    ],
)
def test_every_rule_has_a_bad_twin(rules: dict[str, Any], twins: dict[str, Twin]) -> None:
    assert len(rules) > 10
    assert set(rules) == {rule for rule, _, _ in twins.values()}


def test_message_says_what_was_seen_what_was_expected_and_how_to_fix_it() -> None:
    with pytest.raises(AssertionError) as caught_error:  # test runners know it
        check_mixer(InPlace(), C)
    assert str(caught_error.value) == (
        "`InPlace` breaks the rule 'out of place'\n"
        "  seen:     inputs float32 [7], index targets, no partners: `inputs` changed during the call\n"
        "  expected: inputs, targets and partners are not changed\n"
        "  fix:      write to new tensors: `inputs * lam + ...` or `torch.lerp`, not `inputs.mul_(lam)` or "
        "`inputs[:, a:b] = ...`; `clone()` first where a region is pasted"
    )
    assert str(pickle.loads(pickle.dumps(caught_error.value))) == str(caught_error.value)


def test_the_fault_is_the_cause() -> None:
    with pytest.raises(ContractError) as caught_error:
        check_mixer(EvenBatchesOnly(), C)
    assert isinstance(caught_error.value.__cause__, ValueError)


def test_global_generators_are_left_as_they_were() -> None:
    torch.manual_seed(7)
    random.seed(7)
    before = generator_states()
    check_mixer(MixUp(C), C)
    check_sampler(ClassPowerSampler)
    check_loss(PriorCorrectedLoss(COUNTS), C)
    for bad in (DrawsFromTorch, SeedsNumpy, DrawsFromRandom):
        with pytest.raises(ContractError):
            check_sampler(bad)
    with pytest.raises(ContractError):
        check_mixer(SeedsItself(), C)
    assert generator_states() == before


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, r"`mixer` must be an instance.*Pass `MixUp\(...\)`", lambda: check_mixer(MixUp, C)),
        (TypeError, "`loss` must be an instance", lambda: check_loss(PriorCorrectedLoss, C)),
        (TypeError, "`loss` must be callable", lambda: check_loss(3, C)),
        (TypeError, "`make_sampler` must be a class or function", lambda: check_sampler(ClassPowerSampler([0, 1]))),
        (ValueError, "`num_classes` must be at least 2", lambda: check_loss(PriorCorrectedLoss([3]), 1)),
        (ValueError, "`mixing` must be one of 'linear'", lambda: check_mixer(MixUp(C), C, mixing="cut")),
        (ValueError, "`shapes` must name at least one", lambda: check_mixer(MixUp(C), C, shapes=[])),
        (ValueError, "`labels` must be integers", lambda: check_sampler(ClassPowerSampler, labels=[0.5, 1.0])),
    ],
)
def test_wrong_use_is_told_apart_from_a_broken_rule(error: type, message: str, call: Callable[[], None]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_wrong_number_of_classes_for_a_mixer_is_seen() -> None:
    with pytest.raises(ContractError, match=r"returned targets float32 \[7, 4\]"):
        check_mixer(MixUp(4), 4 - 1)


def test_base_class_of_mixers_breaks_the_contract() -> None:
    with pytest.raises(ContractError, match="NotImplementedError"):
        check_mixer(Mixer(C), C)
