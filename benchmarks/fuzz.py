"""Call every public part of ltaug with one argument spoilt at a time, and with valid extremes.

    python -m benchmarks.fuzz                    # the table, about two minutes; exit status 1 if a bar is missed
    python -m benchmarks.fuzz --only focal_loss  # callables whose name contains one of the words
    python -m benchmarks.fuzz --show raw         # also every input that failed raw (or: silent, refused)

A spoilt argument must be refused by a ValueError or TypeError of ltaug that names an argument of the call in backticks
("ours"). What comes from torch, NumPy or Python instead is "raw"; a result is "silent". A value that an argument may
have, such as a list for a tensor, must give the result of the plain call, or a finite one ("accepted"). Calls with a
missing or an unknown keyword are Python's business and not tried. The bars: at least 10,000 inputs, of the bad ones
less than 2 % raw, none silent, and no difference of the valid extremes from NumPy in float64.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import itertools
import math
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import ltaug
from ltaug import analysis, classifiers, fusion, labelshift, loaders, longtail, losses, metrics, mixers, posthoc, priors
from ltaug import samplers as sampling
from ltaug.errors import UserError
from ltaug.losses import functional as loss_functions
from ltaug.mixers import functional as mix_functions

SECONDS = 5
"""What one input may take: an input that hangs has failed."""
RAW_BAR = 0.02
INPUTS_BAR = 10_000


# --- one argument spoilt at a time ------------------------------------------------------------------------------------


class Spoilt(NamedTuple):
    """A value for an argument: `fine` if the argument may have it, `same` if the result must not change by it."""

    label: str
    value: Any
    fine: bool = False
    same: bool = False


class Arg(NamedTuple):
    """A valid value of an argument, and what else it is given."""

    value: Any
    spoil: Callable[[Any], Iterator[Spoilt]]


NAN, INF = math.nan, math.inf


def strange() -> Iterator[Spoilt]:
    """What no argument may be."""
    yield Spoilt("object", object())
    yield Spoilt("class", dict)
    yield Spoilt("bytes", b"x")
    yield Spoilt("complex", 1j)
    yield Spoilt("ragged", [[1, 2], [3]])
    yield Spoilt("dict of text", {"a": "b"})
    yield Spoilt("None", None)


def number(value: float, fits: Callable[[float], bool] = lambda x: True, whole: bool = False) -> Arg:
    """A number, or a whole one."""

    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from strange()
        for bad in (NAN, INF, -INF, True, False, np.True_, "1", "", "x", [value], [1, 2], np.array([1.0, 2.0]), 10**30):
            yield Spoilt(repr(bad), bad, fine=bad is INF and not whole and fits(INF) and fits is prior_std)
        for tensor in (torch.tensor([1.0, 2.0]), torch.tensor(1j), torch.tensor(1.0, device="meta")):
            yield Spoilt("tensor", tensor)
        yield Spoilt("sparse tensor", torch.tensor([1.0, 2.0]).to_sparse())
        yield Spoilt("object array", np.array([None, "a"], dtype=object))
        for extreme in (-1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 7, 1e-9, 1e30, 100.5):
            right = (float(extreme).is_integer() and abs(extreme) < 1e18 and isinstance(extreme, int)) or not whole
            yield Spoilt(repr(extreme), extreme, fine=right and fits(extreme))
        for kind in (np.int64, np.int32) if whole else (np.float64, np.float32, torch.tensor):
            yield Spoilt(kind.__name__, kind(value), fine=True, same=not whole and kind is np.float64)

    return Arg(value, spoil)


def prior_std(value: float) -> bool:
    return value > 0


def whole(value: int, low: float = -INF, high: float = INF, fits: Callable[[float], bool] | None = None) -> Arg:
    return number(value, fits or (lambda x: low <= x <= high), whole=True)


def within(value: float, low: float = -INF, high: float = INF) -> Arg:
    """A number in a closed range."""
    return number(value, lambda x: low <= x <= high)


def above(value: float, low: float, high: float = INF) -> Arg:
    """A number in an open range."""
    return number(value, lambda x: low < x < high)


def flag(value: bool) -> Arg:
    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from strange()
        for bad in (2, -1, NAN, "yes", "False", [], [True], 0.5, torch.tensor([True, False]), np.array([True, False])):
            yield Spoilt(repr(bad), bad)
        yield Spoilt("numpy's", np.bool_(value), fine=True, same=True)

    return Arg(value, spoil)


def text(value: str, *others: str) -> Arg:
    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from strange()
        for bad in ("nonsense", "", value.upper(), 3, NAN, True, [value], torch.zeros(2), np.zeros(2), np.array(["a"])):
            yield Spoilt(repr(bad), bad)
        for other in others:
            yield Spoilt(other, other, fine=True)

    return Arg(value, spoil)


def thing(value: Any, *fine: Any) -> Arg:
    """A module, a sampler, a data set, a function."""

    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from strange()
        for bad in (3, NAN, "text", True, 2.5, -1):
            yield Spoilt(repr(bad), bad)
        for other in fine:
            yield Spoilt("other", other, fine=True)

    return Arg(value, spoil)


def listing(value: Sequence[Any], kind: str = "whole", free: bool = False) -> Arg:
    """A list of whole numbers, numbers or texts, one for each of something."""

    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from strange()
        entries: tuple[Any, ...] = (None, object(), 1j, [1], torch.zeros(2))
        entries += ("x", NAN, INF, 10**30, True) if kind != "text" else (3, NAN, True)
        entries += (1.5,) if kind == "whole" else ()
        for entry in entries:
            yield Spoilt(f"first {entry!r}", [entry, *value[1:]])
        yield Spoilt("empty", [])
        yield Spoilt("longer", [*value, value[0]], fine=free)
        for bad in (3, NAN, "text"):
            yield Spoilt(repr(bad), bad)
        yield Spoilt("tuple", tuple(value), fine=True, same=True)

    return Arg(value, spoil)


def array(
    value: Tensor,
    *,
    low: float = -INF,
    high: float = INF,
    whole: bool = False,
    any_type: bool = False,
    any_values: bool = False,
    finite: bool = True,
    free: bool = False,
    only_tensor: bool = False,
    scalar: bool = False,
    rank: Sequence[int] = (),
    meta: bool = False,
    empty: bool = False,
    longer: bool = False,
    flags: bool = False,
    columns: bool = False,
) -> Arg:
    """Numbers in a tensor: labels, counts, priors, logits, probabilities, weights.

    Args:
        low, high: range of the values.
        whole: class indices or counts; fractions are bad. any_type: floats and integers are both fine.
        any_values: values are not looked at, NaN included: they may come out as they like.
        finite: infinity is bad.
        free: the length may be any. empty: and 0.
        only_tensor: nothing else than a tensor need be taken.
        rank: of the ranks that are tried, those that are fine.
        meta: a tensor without values is fine.
        longer: a longer one is fine. flags: so are flags for numbers.
        columns: other lengths are tried along dim 1 as well.
    """

    def spoil(value: Any) -> Iterator[Spoilt]:
        fits = lambda x: low <= x <= high  # noqa: E731
        yield from strange()
        for bad in ("text", ["a", "b"], [None] * 3, {3, 4}, [object()], np.array(["a", "b"]), [[1, 2], 3], ["1", "2"]):
            yield Spoilt(repr(bad)[:30], bad)
        for bad in (3, 2.5, True, NAN):
            yield Spoilt(repr(bad), bad, fine=scalar and bad is not True and bad == bad and fits(float(bad)))
        yield Spoilt("object array", np.array([None] * value.numel(), dtype=object))
        for other, name in (
            (value[None], "leading dim"),
            (value[..., None], "trailing dim"),
            (value.flatten()[0], "0-d"),
        ):
            yield Spoilt(name, other, fine=other.ndim in rank)
        yield Spoilt("complex tensor", value.to(torch.complex64))
        yield Spoilt("bool tensor", value.bool(), fine=flags or value.dtype == torch.bool)
        yield Spoilt("text array", np.asarray(value).astype(str))
        yield Spoilt("meta", value.to("meta"), fine=meta)
        yield Spoilt("sparse", value.to_sparse())
        yield Spoilt("empty", value[:0], fine=empty)
        yield Spoilt("shorter", value[:-1], fine=free)
        yield Spoilt("longer", torch.cat([value, value[:1]]), fine=free or longer)
        if columns:
            yield Spoilt("fewer columns", value[:, :-1])
            yield Spoilt("more columns", torch.cat([value, value[:, :1]], 1))
        if value.dtype == torch.bool:
            yield Spoilt("ints", value.long())
            yield Spoilt("floats", value.float())
        else:
            for place, entry in itertools.product((0, -1), (NAN, INF, -INF, -1.0, 0.5, 1.5, 1e30, 4.0, 0.0)):
                spoilt = value.double().clone()
                spoilt.view(-1)[place] = entry
                right = entry == entry and fits(entry) and (not finite or abs(entry) < INF)
                right = right and (not whole or (entry.is_integer() and abs(entry) < 1e18))
                if whole and entry.is_integer() and abs(entry) < 1e18:
                    spoilt = spoilt.long()
                typed = spoilt if whole else spoilt.to(value.dtype if value.is_floating_point() else torch.float64)
                yield Spoilt(f"[{place}] = {entry}", typed, fine=any_values or right)
        if value.is_floating_point():
            yield Spoilt("integers", value.long(), fine=any_type or any_values)
        elif value.dtype != torch.bool:
            yield Spoilt("floats", value.double() + 0.25, fine=any_type)
        yield Spoilt("list", value.tolist(), fine=not only_tensor, same=not only_tensor)
        yield Spoilt("array", np.asarray(value), fine=not only_tensor, same=not only_tensor)
        if not only_tensor:
            yield Spoilt("objects", np.asarray(value).astype(object), fine=True, same=not value.is_floating_point())
            yield Spoilt("reversed view", np.asarray(value.flip(0))[::-1], fine=True, same=True)
        yield Spoilt("strided", torch.stack([value, value], -1)[..., 0], fine=True, same=True)
        types = (torch.float16, torch.bfloat16, torch.float64) if value.is_floating_point() else ()
        types = (torch.int32, torch.uint8, torch.int16) if whole and value.dtype != torch.bool else types
        for dtype in types:
            yield Spoilt(str(dtype), value.to(dtype), fine=True, same=whole)

    return Arg(value, spoil)


def scalar_tensor(value: float, low: float = -INF, high: float = INF, empty: bool = False) -> Arg:
    """A number or numbers of any shape."""
    return array(
        torch.tensor([value, value]),
        low=low,
        high=high,
        any_type=True,
        free=True,
        scalar=True,
        rank=(0, 1, 2),
        empty=empty,
    )


class Case(NamedTuple):
    """A callable and a valid call."""

    name: str
    call: Callable[..., Any]
    args: dict[str, Arg]
    size: int = 0
    """For the quick subset: 1 if it is in it."""


# The valid data: 6 samples, 3 classes.
RANDOM = torch.Generator().manual_seed(0)
LABELS = torch.tensor([0, 0, 1, 0, 1, 2])
COUNTS = torch.tensor([50, 10, 2])
LOGITS = torch.randn(6, 3, generator=RANDOM)
PROBS = torch.randn(6, 3, generator=RANDOM).softmax(1)
SOFT = torch.randn(6, 3, generator=RANDOM).softmax(1)
INPUTS = torch.rand(6, 2, 4, 4, generator=RANDOM)
SOUNDS = torch.rand(6, 64, generator=RANDOM) - 0.5
IMAGES = torch.randint(256, (6, 4, 4, 3), dtype=torch.uint8, generator=RANDOM)
FEATURES = torch.randn(6, 4, generator=RANDOM)
PER_SAMPLE = torch.tensor([0.1, 0.9, 0.5, 0.25, 0.75, 0.6])
N_I, N_J = torch.tensor([50.0, 10, 2, 50, 10, 2]), torch.tensor([2.0, 10, 50, 50, 2, 10])


def counts(value: Tensor = COUNTS, **options: Any) -> Arg:
    return array(value, **{"low": 0, "whole": True, **options})


def prior(value: Tensor = COUNTS, **options: Any) -> Arg:
    return array(value, **{"low": 1e-300, "any_type": True, **options})


def labels(value: Tensor = LABELS, **options: Any) -> Arg:
    return array(value, **{"low": 0, "high": 2, "whole": True, **options})


def logits(value: Tensor = LOGITS, **options: Any) -> Arg:
    """Logits of functions that look at their values."""
    return array(value, **{"columns": True, **options})


def probs(value: Tensor = PROBS, **options: Any) -> Arg:
    """Probabilities: to spoil one entry spoils the sum of the row."""
    return array(value, **{"low": 2, "high": 1, "columns": False, **options})


def steps_of(value: Tensor = LOGITS, **options: Any) -> Arg:
    """What a training step computes with, whose values are not read: [N, ...] tensors."""
    return array(value, **{"any_values": True, "only_tensor": True, "columns": True, "meta": True, **options})


def targets(value: Tensor = LABELS, **options: Any) -> Arg:
    return array(value, low=0, high=2, whole=True, only_tensor=True, **options)


def soft_targets() -> Arg:
    return array(SOFT, low=2, high=1, only_tensor=True, columns=True, meta=False)


def vector(value: Tensor, low: float = -INF, high: float = INF, **options: Any) -> Arg:
    """Numbers of samples or classes for a formula: tensors alone."""
    return array(value, **{"only_tensor": True, "low": low, "high": high, "any_values": True, "meta": True, **options})


def used(make: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Make an object, and call it with the arguments of these names."""

    def call(**given: Any) -> Any:
        torch.manual_seed(0)
        made = make(**{name: value for name, value in given.items() if name not in names})
        return made(*(given[name] for name in names))

    return call


def iterated(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a sampler or loader, and go through an epoch."""

    def call(**given: Any) -> Any:
        return list(itertools.islice(make(**given), 20))

    return call


REDUCTION = {"reduction": text("mean", "sum", "none")}
ALPHA = {"alpha": above(0.5, 0.0)}
CLASSES = {"num_classes": whole(3, 3, 3)}
WIDE = {"num_classes": whole(3, 3)}
SEED = {"seed": whole(0, 0)}
SHIFT = {"from_prior": prior(), "to_prior": prior(torch.tensor([1.0, 2, 3]))}


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class Noise(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> Any:
        return torch.full((2,), float(k)), k % 3


def rows() -> Arg:
    """A data set."""
    return sequence(Noise())


def order() -> Arg:
    """A sampler."""
    return sequence(range(6))


def sequence(value: Any) -> Arg:
    """What is indexed or iterated, as lists and dictionaries are."""
    lists = ("ragged", "dict of text")
    return Arg(value, lambda value: (each for each in thing(value).spoil(value) if each.label not in lists))


def pair_sampler(first: Any, second: Any, different_classes: Any) -> Any:
    """An epoch of pairs, of samplers that have not been iterated."""
    return list(sampling.PairSampler(copy.copy(first), copy.copy(second), different_classes))


def power(tau: float = 0.0, **options: Any) -> sampling.ClassPowerSampler:
    return sampling.ClassPowerSampler(LABELS, tau, **options)


def cases() -> list[Case]:
    """A valid call of every public part."""
    both = {"logits": steps_of(), "targets": targets()}
    soft = {"logits": steps_of(), "targets": soft_targets()}
    table: list[Case] = []

    def add(call: Callable[..., Any], run: Callable[..., Any] | None = None, quick: int = 0, **args: Arg) -> None:
        name = getattr(call, "__qualname__", str(call))
        table.append(Case(name, run or call, args, quick))

    # priors
    add(priors.class_counts, labels=labels(high=INF, free=True, empty=True), num_classes=whole(3, 3))
    add(priors.class_prior, class_counts=prior(low=0, free=True), quick=1)
    add(priors.effective_number, class_counts=counts(free=True), beta=within(0.9, 0.0, 0.999999))
    add(priors.shot_groups, class_counts=counts(free=True), many=whole(20, 5), few=whole(5, high=20))
    # longtail
    profile = {"n_max": whole(100, 1), "num_classes": whole(3, 1), "imbalance_ratio": within(10.0, 1.0)}
    add(longtail.exponential_counts, **profile)
    add(longtail.step_counts, **profile, head_fraction=within(0.5, 0.0, 1.0), quick=1)
    add(longtail.pareto_counts, **profile, alpha=above(6.0, 0.0))
    add(
        longtail.profile_counts,
        profile=text("exponential", "step", "pareto", "natural"),
        available=counts(torch.tensor([50, 50, 50]), low=5),
        imbalance_ratio=within(10.0, 1.0, 50.0),
        class_names=listing(["a", "b", "c"], "text"),
    )
    add(longtail.subsample, labels=labels(longer=True), counts=counts(torch.tensor([2, 1, 1]), high=1, low=0), **SEED)
    add(longtail.index_hash, indices=array(LABELS, whole=True, low=-INF, free=True, empty=True), quick=1)
    add(
        longtail.shifted_counts,
        n=whole(100, 1),
        class_counts=counts(free=True),
        ratio=within(10.0, 1.0),
        direction=text("forward", "backward"),
        mode=text("paper", "official_code"),
    )
    add(longtail.shifted_sets, labels=labels(free=True), class_counts=counts(), **SEED)
    # losses
    shift = vector(torch.tensor([0.5, 0.3, 0.2]).log())
    for dense, given in (("", both), (" dense", soft)):
        for call, more in (
            (loss_functions.prior_corrected_cross_entropy, {"shift": shift}),
            (loss_functions.label_aware_smoothing_loss, {"smoothing": vector(torch.tensor([0.4, 0.2, 0.1]))}),
            (loss_functions.ldam_loss, {"margins": vector(torch.tensor([0.1, 0.2, 0.5])), "scale": within(30.0)}),
            (loss_functions.focal_loss, {"gamma": within(1.0, 0.0)}),
            (loss_functions.cdt_loss, {"temperatures": vector(torch.tensor([1.0, 2.0, 3.0]))}),
            (loss_functions.lade_loss, {"prior": vector(torch.tensor([0.5, 0.3, 0.2])), "alpha": within(0.1)}),
        ):
            extra: dict[str, Arg] = dict(more)
            if call in (loss_functions.ldam_loss, loss_functions.focal_loss):
                extra["class_weights"] = vector(torch.tensor([1.0, 2.0, 3.0]))
            if call is loss_functions.lade_loss:
                extra |= {"remine_lambda": within(0.1), "mode": text("paper", "official_code")}
            if call is loss_functions.label_aware_smoothing_loss:
                extra["mode"] = text("paper", "official_code")
            table.append(Case(call.__name__ + dense, call, {**given, **extra, **REDUCTION}, int(not dense)))
    add(
        loss_functions.lade_regularizer,
        **both,
        prior=vector(torch.tensor([0.5, 0.3, 0.2])),
        remine_lambda=within(0.1),
        mode=text("paper", "official_code"),
    )
    positive = {"class_counts": counts(low=1)}
    weights = {"class_weights": array(torch.tensor([1.0, 2.0, 3.0]), low=0.0, any_type=True)}
    for make, more in (
        (losses.PriorCorrectedLoss, {"class_counts": prior(), "tau": within(1.0), "target_prior": prior()}),
        (losses.CDTLoss, {**positive, "gamma": within(0.2, 0.0)}),
        (losses.FocalLoss, {"gamma": within(1.0, 0.0), **weights}),
        (losses.LDAMLoss, {**positive, "max_margin": within(0.5, 0.0), "scale": above(30.0, 0.0), **weights}),
        (
            losses.LADELoss,
            {"class_counts": prior(), "alpha": within(0.1), "remine_lambda": within(0.1), "mode": text("paper")},
        ),
        (
            losses.LabelAwareSmoothingLoss,
            {
                "class_counts": counts(),
                "head": within(0.4, 0.1, 0.5),
                "tail": within(0.1, 0.0, 0.4),
                "shape": text("concave", "linear", "convex"),
                "mode": text("paper", "official_code"),
            },
        ),
    ):
        add(make, used(make, "logits", "targets"), **{**both, **more, **REDUCTION})
    power_shape = {"shape": text("power"), "power": above(0.5, 0.0)}
    add(losses.smoothing_factors, class_counts=counts(free=True), head=within(0.4, 0.1, 0.5), **power_shape)
    add(losses.effective_number_weights, class_counts=counts(free=True, low=1), beta=within(0.9, 0.0, 0.999999))
    weighted = used(losses.ClassWeightedLoss, "logits", "targets")
    add(losses.ClassWeightedLoss, weighted, loss=thing(nn.CrossEntropyLoss()), **weights, **both)
    deferred = used(losses.DeferredLoss, "logits", "targets")
    first = {"first": thing(losses.PriorCorrectedLoss(COUNTS)), "then": thing(losses.FocalLoss())}
    add(losses.DeferredLoss, deferred, **first, epoch=whole(3, 0), **both)
    add(losses.DeferredLoss.set_epoch, losses.DeferredLoss(nn.ReLU(), nn.ReLU(), 3).set_epoch, epoch=whole(2, 0))
    # mixers
    batch = {"inputs": steps_of(INPUTS, columns=False, rank=(5,)), "targets": targets(rank=(2,))}
    wider = counts(longer=True)
    pair = {
        **batch,
        "targets": targets(),
        "partner_inputs": steps_of(INPUTS.flip(0), columns=False),
        "partner_targets": targets(),
    }
    for make, more in (
        (mixers.MixUp, {**WIDE, **ALPHA}),
        (mixers.CutMix, {**WIDE, **ALPHA, "dims": listing((-2, -1)), "sizes": listing((4, 4))}),
        (mixers.UniMix, {"class_counts": wider, **ALPHA}),
        (mixers.ReMix, {"class_counts": wider, **ALPHA, "kappa": above(3.0, 1.0), "tau": within(0.5, 0.0, 1.0)}),
    ):
        add(make, used(make, *pair), quick=int(make is mixers.UniMix), **{**more, **pair})
    add(mixers.MixUp, used(mixers.MixUp, *batch), **WIDE, **batch)
    batch["targets"] = targets()
    add(mixers.UniMix, used(mixers.UniMix, *batch), class_counts=wider, in_batch_tau=within(0.5, -8, 8), **batch)
    sound = {"inputs": steps_of(SOUNDS, columns=False, rank=(3,)), "targets": targets()}
    rate = {"sample_rate": above(16000, 0.0)}
    add(
        mixers.BetweenClass,
        used(mixers.BetweenClass, *sound),
        **CLASSES,
        **rate,
        ratio=thing(mixers.MixUp(3)),
        different_classes=flag(True),
        level=text("a_weighted", "rms"),
        **sound,
    )
    manifold = used(mixers.ManifoldMixUp, *pair)
    add(mixers.ManifoldMixUp, manifold, **WIDE, **ALPHA, layers=listing(["input"], "text"), **pair)
    add(mixers.ManifoldMixUp.attach, mixers.ManifoldMixUp(3, layers=["input"]).attach, model=thing(linear()))
    table.pop()  # it changes what is used again; the constructor is tried above
    share, free = vector(PER_SAMPLE, 0.0, 1.0), vector(SOUNDS, columns=False)
    add(mix_functions.mix, x=free, y=free, lam=share)
    add(mix_functions.unimix_factor, draw=share, n_i=vector(N_I, any_type=True), n_j=vector(N_J, any_type=True))
    add(
        mix_functions.remix_label_weight,
        lam=share,
        n_i=vector(N_I, any_type=True),
        n_j=vector(N_J, any_type=True),
        kappa=above(3.0, 1.0),
        tau=within(0.5, 0.0, 1.0),
    )
    centre = array(torch.rand(6, 2, generator=RANDOM), only_tensor=True, low=0.0, high=1.0, columns=True, meta=True)
    box_share = array(PER_SAMPLE, only_tensor=True, low=0.0, high=1.0, meta=True)
    add(mix_functions.cut_boxes, lam=box_share, centre=centre, sizes=listing([8, 8]), quick=1)
    dense = labels(only_tensor=True, free=True, rank=(2,), empty=True, meta=True)
    add(mix_functions.dense_targets, targets=dense, num_classes=whole(3, 3))
    add(
        mix_functions.sound_level,
        waveforms=vector(SOUNDS, columns=False, rank=(3,), free=True, empty=True),
        **rate,
        mode=text("a_weighted", "rms"),
    )
    level = vector(torch.zeros(6))
    add(mix_functions.between_class_weight, ratio=share, x_level=level, y_level=level)
    wave = vector(SOUNDS, columns=False, rank=(3,))
    add(mix_functions.between_class_mix, x=wave, y=wave, ratio=share, **rate, level=text("rms", "a_weighted"))
    # samplers
    drawn = {"num_samples": whole(6, 1), **SEED}
    any_labels = {"labels": labels(high=1e9, free=True)}
    for make, more in (
        (sampling.ClassPowerSampler, {"tau": within(0.5), "replacement": flag(True)}),
        (sampling.ClassAwareSampler, {"samples_per_class": whole(4, 1)}),
        (sampling.EffectiveNumberSampler, {"beta": within(0.9, 0.0, 0.999999)}),
        (sampling.ProgressivelyBalancedSampler, {"total_epochs": whole(4, 1)}),
    ):
        add(make, iterated(make), **{**any_labels, **more, **drawn})
    two = {"first": thing(power()), "then": thing(power(1.0))}
    add(sampling.DeferredSampler, iterated(sampling.DeferredSampler), **two, epoch=whole(2, 0))
    pairs = {
        "first": thing(power()),
        "second": thing(power(1.0)),
        "different_classes": labels(low=-INF, high=1e9, longer=True),
    }
    add(sampling.PairSampler, pair_sampler, **pairs)
    add(sampling.PairDataset, lambda dataset: sampling.PairDataset(dataset)[0, 1], dataset=rows())
    add(sampling.ClassPowerSampler.set_epoch, lambda epoch: power().set_epoch(epoch), epoch=whole(2, 0))
    # classifiers
    sizes = {"in_features": whole(4, 4, 4), "num_classes": whole(3, 1)}
    features = {"features": steps_of(FEATURES, rank=(1, 3), free=True, empty=True)}
    for make, more in (
        (classifiers.CosineClassifier, {"scale": above(16.0, 0.0)}),
        (
            classifiers.CausalNormClassifier,
            {
                "heads": whole(2, fits=lambda x: x in (1, 2, 4)),
                "scale": above(16.0, 0.0),
                "gamma": above(0.1, 0.0),
                "alpha": within(3.0, 0.0),
                "momentum": number(0.9, lambda x: 0 <= x < 1),
            },
        ),
    ):
        add(make, used(make, "features"), **{**sizes, **more, **features})
    last = {"linear": thing(linear())}
    add(
        classifiers.GeneralizedClassifier,
        used(classifiers.GeneralizedClassifier, "features"),
        **last,
        retain=within(1.0, 0.0, 1.0),
        learn_scale=flag(True),
        learn_delta=flag(True),
        mode=text("paper", "official_code"),
        **features,
    )
    add(classifiers.LearnableWeightScaling, used(classifiers.LearnableWeightScaling, "features"), **last, **features)
    add(classifiers.tau_normalize, **last, tau=within(1.0, 0.0), keep_bias=flag(True))
    fitted = array(FEATURES, only_tensor=True, columns=True, any_type=True)

    def nearest(features: Any, labels: Any, in_features: Any, num_classes: Any, cosine: Any, points: Any) -> Any:
        made = classifiers.NearestClassMeanClassifier(in_features, num_classes, cosine)
        return made.fit(features, labels)(points)

    ncm = {"features": fitted, "labels": labels(), "in_features": whole(4, 4, 4), "num_classes": whole(3, 3, 3)}
    add(
        classifiers.NearestClassMeanClassifier, nearest, quick=1, **ncm, cosine=flag(False), points=features["features"]
    )
    add(classifiers.cumulative_alpha, epoch=whole(3, 0, 10), epochs=whole(10, 3))
    # metrics
    scored = {"probs": probs(), "labels": labels()}
    rated = {"probs": probs(), "labels": labels(), "bins": whole(15, 1)}
    for call in (
        metrics.reliability_bins,
        metrics.expected_calibration_error,
        metrics.maximum_calibration_error,
        metrics.classwise_calibration_error,
    ):
        add(call, **rated)
    add(metrics.brier_score, **scored, quick=1)
    add(metrics.negative_log_likelihood, **scored)
    add(metrics.accuracy, **scored, topk=Arg(1, lambda value: (
        each for each in whole(1, 1, 3).spoil(value) if each.label not in ("[1]", "[1, 2]", "array([1., 2.])")
    )))  # fmt: skip
    predictions = {"probs": labels(LABELS.flip(0)), "labels": labels()}
    for call in (metrics.per_class_accuracy, metrics.confusion_matrix):
        add(call, **predictions, num_classes=whole(3, 3))
    add(metrics.per_class_accuracy, **scored, num_classes=whole(3, 3, 3))
    thresholds = {"many": whole(20, 5), "few": whole(5, high=20)}
    add(metrics.shot_accuracy, **scored, class_counts=counts(), **thresholds)
    add(metrics.classification_report, **rated, class_counts=counts(), **thresholds)
    confusion = torch.tensor([[3, 1, 0], [0, 2, 1], [1, 0, 2]])
    add(metrics.segmentation_scores, confusion=array(confusion, low=0, any_type=True, columns=True))

    def report(outputs: Any, labels: Any, **options: Any) -> Any:
        made = metrics.StreamingReport(**options)
        made.update(outputs, labels)
        return made.compute()

    streamed = {"class_counts": counts(), "bins": whole(15, 1), **thresholds, "logits": flag(True)}
    masked = logits(finite=False)
    add(metrics.StreamingReport, report, **streamed, outputs=masked, labels=labels())
    # posthoc
    moved = logits(any_values=True, meta=True, free=True, empty=True, columns=True, rank=(3,))
    add(posthoc.shift_logits, logits=moved, **SHIFT, strength=within(1.0), dim=whole(1, fits=lambda x: x in (1, -1)))
    a_row = {  # one row of priors is fine here, where there are no logits of other rows
        name: Arg(arg.value, lambda value, arg=arg: (each for each in arg.spoil(value) if each.label != "leading dim"))
        for name, arg in SHIFT.items()
    }
    add(posthoc.log_prior_shift, **a_row, strength=within(1.0))

    def calibrated(make: Callable[[], Any]) -> Callable[..., Any]:
        return lambda **given: make().fit(**given)(LOGITS)

    held_out = {"logits": logits(free=False, columns=False), "labels": labels()}
    held_out["weights"] = array(torch.rand(6, generator=RANDOM), low=0.0, any_type=True)
    held_out["prior_std"] = number(3.0, prior_std)
    for make, name in (
        (posthoc.TemperatureScaling, "TemperatureScaling.fit"),
        (lambda: posthoc.BiasCorrectedTemperatureScaling(3), "BiasCorrectedTemperatureScaling.fit"),
        (lambda: posthoc.VectorScaling(3), "VectorScaling.fit"),
        (lambda: posthoc.StructuredMatrixScaling(3), "StructuredMatrixScaling.fit"),
    ):
        table.append(Case(name, calibrated(make), {**held_out, "logits_prior": prior()}))
    for scaling in (posthoc.BiasCorrectedTemperatureScaling, posthoc.VectorScaling, posthoc.StructuredMatrixScaling):
        add(scaling, used(scaling, "logits"), **CLASSES, logits=moved)
    shifted = used(posthoc.PriorShift, "logits")
    add(
        posthoc.PriorShift,
        shifted,
        model=thing(nn.Identity()),
        logits_prior=prior(),
        target_prior=prior(),
        strength=within(1.0),
        output=Arg("logits", lambda value: (Spoilt(repr(bad), bad) for bad in (3, None, NAN, [1], b"x"))),
        logits=moved,
    )
    score = thing(lambda strength: -((strength - 1.3) ** 2))
    range_of = {"step": above(0.5, 0.0, 2.01), "high": within(2.0, 0.5, 10.0), "limit": within(10.0, 2.0)}
    add(posthoc.search_strength, score=score, **range_of, method=text("peak", "paper", "grid"))
    add(posthoc.strength_curve, score=score, step=within(0.5, 1e-5, 10.0), limit=within(10.0, 0.5, 1e5))
    # fusion
    part = logits(finite=False, free=True, empty=True, rank=(3,))
    add(fusion.entropy_statistics, lambda part, more: fusion.entropy_statistics([part, more]), part=part, more=part)
    add(
        fusion.uncertainty_scale,
        logits=logits(finite=False, free=True, empty=True, rank=(3,), columns=False),
        mean=above(0.5, 0.0),
        std=within(0.1, 0.0),
    )
    for call in (fusion.noisy_or, fusion.mean_fusion, fusion.product_fusion):
        run = lambda probs, more, call=call: call([probs, more])  # noqa: E731
        fused = array(PROBS, low=0, high=1, any_type=True)
        table.append(Case(call.__name__, run, {"probs": fused, "more": fused}))
    masks = torch.tensor([True, True, False, True, True, True])

    def uno(rgb: Any, depth: Any, mean: Any, std: Any, present: Any, **given: Any) -> Any:
        return fusion.uno_ic([rgb, depth], [(0.5, 0.1), (mean, std)], **given, present=[None, present])

    sound_logits = logits(finite=False)
    uncertain = {"mean": above(0.5, 0.0), "std": within(0.1, 0.0)}
    add(fusion.uno_ic, uno, rgb=sound_logits, depth=sound_logits, **uncertain, **SHIFT, strength=within(1.0),
        present=array(masks, only_tensor=True))  # fmt: skip
    # labelshift
    estimated = {"logits": logits(free=True, rank=(3,)), "logits_prior": prior()}
    amount = {"pseudo_count": within(1.0, 0.0), "tolerance": within(1e-6, 0.0)}
    add(
        labelshift.estimate_prior,
        **estimated,
        method=text("em"),
        trend=array(torch.tensor([1.0, 2.0, 4.0]), any_type=True, rank=(2,)),
        center=prior(),
        **amount,
        max_iterations=whole(10, 1),
    )

    def validated(more: Any, labels: Any, **given: Any) -> Any:
        return labelshift.estimate_prior(**given, validation=(more, labels))

    held = {"more": logits(free=False, rank=(3,)), "labels": labels(high=2, rank=(2,))}
    add(labelshift.estimate_prior, validated, **estimated, **held, method=text("rlls"), soft=flag(False),
        shrinkage=within(0.01, 0.0))  # fmt: skip
    interval = {"level": above(0.9, 0.0, 1.0), "replicates": whole(4, 2), "seed": whole(0)}
    add(labelshift.prior_interval, **estimated, **interval)

    def run_on(logits: Any, **given: Any) -> Any:
        return labelshift.RunningPrior(**given).update(logits)

    streamed = {"forget": within(0.1, 0.0, 1.0), "center": prior(), "pseudo_count": above(1.0, 0.0)}
    add(labelshift.RunningPrior, run_on, **estimated, **streamed)
    # analysis
    mixer = thing(mixers.MixUp(3))
    tau = {"first_tau": scalar_or_counts(1.0), "partner_tau": scalar_or_counts(0.0)}
    several = {"class_counts": prior(low=0), **tau}
    add(analysis.effective_prior, **several, mixer=mixer, different_classes=flag(False), quick=1)
    add(
        analysis.effective_prior,
        class_counts=prior(low=0),
        mixer=thing(mixers.UniMix(COUNTS)),
        first_tau=scalar_or_counts(1.0),
        batch_size=whole(8, 1),
    )
    add(analysis.logits_prior, seen=prior(low=0), corrected=prior())
    add(analysis.xi_aug_probability, n_i=scalar_tensor(5.0, 0.0), n_j=scalar_tensor(3.0, 0.0), **ALPHA)
    add(analysis.xi_aug_distribution, class_counts=prior(low=0, free=True), tau=within(0.0), **ALPHA)
    place = {"y": scalar_tensor(2.0, 1.0, 100.0, empty=True)}
    tail = {**place, "num_classes": whole(100, 2), "imbalance_ratio": within(200.0, 1.0)}
    add(analysis.mixup_class_density, **tail)
    add(analysis.unimix_factor_class_density, **tail, two_sided=flag(True))
    add(analysis.unimix_class_density, **tail, tau=within(0.5), two_sided=flag(True))
    add(analysis.label_occurrence, first=prior(low=0), partner=prior(low=0))
    add(
        analysis.label_occurrence,
        first=thing(power()),
        partner=thing(power(1.0)),
        labels=labels(longer=True),
        num_classes=whole(3, 3),
        epochs=whole(2, 1),
    )
    head = {"head": array(torch.tensor([True, False, False]))}
    add(analysis.label_suppression, class_counts=prior(low=0), **head, **tau)
    # loaders
    batches = {"batch_size": whole(4, 1), "drop_last": flag(False), "device": text("cpu", "cpu:0")}
    ranks = {"num_processes": whole(1, fits=lambda x: x in (1, 2)), "process_index": whole(0, 0, 0)}
    pixels = array(IMAGES, only_tensor=False, low=2, high=1, whole=False, any_values=False)
    add(
        loaders.ResidentLoader,
        iterated(loaders.ResidentLoader),
        images=pixels,
        labels=labels(low=-INF, high=INF),
        **batches,
        sampler=order(),
        mean=listing([0.5] * 3, "number"),
        std=listing([0.5] * 3, "number"),
        crop_padding=whole(1, 0),
        flip=flag(True),
        **SEED,
        **ranks,
    )
    clips = array((SOUNDS * 1000).short(), whole=False, low=2, high=1)
    add(
        loaders.ResidentWaveformLoader,
        iterated(loaders.ResidentWaveformLoader),
        waveforms=clips,
        labels=labels(low=-INF, high=INF),
        **batches,
        crop_length=whole(16, 1),
        sampler=order(),
        padding=whole(8, 0),
        max_scale=within(1.0, 1.0),
        crops=whole(1, 1),
        min_last=whole(1, 1, 4),
        **SEED,
        **ranks,
    )
    seeded = {"batch_size": whole(4, 1, 6), "drop_last": flag(True), **ranks}
    add(loaders.GlobalBatchSampler, iterated(loaders.GlobalBatchSampler), sampler=order(), **seeded)
    add(
        loaders.SeededLoader,
        iterated(loaders.SeededLoader),
        dataset=rows(),
        sampler=order(),
        **seeded,
        **SEED,
        device=text("cpu", "cpu:0"),
    )
    add(loaders.SeededDataset, lambda dataset, seed: loaders.SeededDataset(dataset, seed)[0, 0, 1],
        dataset=rows(), **SEED)  # fmt: skip
    places = array(torch.tensor([0, 1, 2, 0, 1, 2]), low=0, high=2, whole=True, only_tensor=True)
    add(
        loaders.random_crop_flip,
        images=array(IMAGES, any_values=True, any_type=True, only_tensor=True, flags=True),
        rows=places,
        columns=places,
        mirrored=array(torch.tensor([True, False] * 3), only_tensor=True),
        padding=whole(1, 1),
        quick=1,
    )
    return table


def scalar_or_counts(value: float) -> Arg:
    """An exponent, or class probabilities."""

    def spoil(value: Any) -> Iterator[Spoilt]:
        yield from (each for each in within(value).spoil(value) if "array" not in each.label)
        for each in prior(low=0.0).spoil(COUNTS.double()):
            if each.label not in ("3", "2.5"):
                yield each._replace(same=False)

    return Arg(value, spoil)


# --- what becomes of an input -----------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Of one input; `kind` is ours, raw, silent, accepted, or refused: an error of ours at a value that is fine."""

    kind: str
    case: str
    argument: str
    label: str
    message: str


class TooLong(Exception):
    """An input that hangs."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_ours(error: BaseException, names: Sequence[str]) -> bool:
    """Whether ltaug raised the error, and its message names an argument in backticks."""
    frames = traceback.extract_tb(error.__traceback__)
    by_us = bool(frames) and "/ltaug/" in frames[-1].filename.replace("\\", "/")
    named = any(f"`{name}" in str(error) for name in names)
    return by_us and (isinstance(error, UserError) or (isinstance(error, ValueError | TypeError) and named))


def numbers_of(result: Any) -> list[Tensor]:
    """All tensors and numbers of a result."""
    if isinstance(result, Tensor):
        return [result.detach()]
    if isinstance(result, np.ndarray):
        return [torch.as_tensor(result)]
    if isinstance(result, bool | int | float):
        return [torch.tensor(result, dtype=torch.float64)]
    if isinstance(result, dict):
        return [each for value in result.values() for each in numbers_of(value)]
    if isinstance(result, list | tuple):
        return [each for value in result for each in numbers_of(value)]
    if isinstance(result, nn.Module):
        return [value.detach() for value in result.state_dict().values()]
    return []


def equal(first: Any, second: Any) -> bool:
    """Whether two results hold the same numbers; a text, such as a hash, must be the same text."""
    if isinstance(first, str):
        return bool(first == second)
    a, b = numbers_of(first), numbers_of(second)
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


def tried(case: Case, argument: str, spoilt: Spoilt, plain: Any) -> Outcome:
    """Call with one argument replaced."""

    def outcome(kind: str, message: str = "") -> Outcome:
        return Outcome(kind, case.name, argument, spoilt.label, " ".join(message.split())[:160])

    given = {name: arg.value for name, arg in case.args.items()}
    given[argument] = spoilt.value
    names = [*given, "probs", "logits", "batches", "statistics", "validation", "outputs", "model", "fit"]
    try:
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            result = case.call(**given)
    except TooLong as error:
        return outcome("raw", repr(error))
    except Exception as error:
        ours = is_ours(error, names)
        if spoilt.fine and not (ours and not spoilt.same):
            return outcome("refused" if ours else "raw", f"{type(error).__name__}: {error}")
        return outcome("ours" if ours else "raw", f"{type(error).__name__}: {error}")
    if not spoilt.fine:
        return outcome("silent", f"gave {str(result)[:80]}")
    if spoilt.same and not equal(plain, result):
        return outcome("silent", f"gave {str(result)[:60]} for {str(plain)[:60]}")
    return outcome("accepted")


def optional(case: Case, argument: str) -> bool:
    """Whether None is what an argument has by default."""
    target = TARGETS.get(case.name.split(" ")[0])
    parameters = inspect.signature(target).parameters if target is not None else {}
    return argument in parameters and parameters[argument].default is None


def all_targets() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in (ltaug, analysis, classifiers, fusion, labelshift, loaders, longtail, losses, metrics, mixers,
                   posthoc, priors, sampling, loss_functions, mix_functions):  # fmt: skip
        found |= {
            name: getattr(module, name) for name in getattr(module, "__all__", ()) if callable(getattr(module, name))
        }
    found |= {
        f"{each.__name__}.fit": each.fit
        for each in (
            *(posthoc.TemperatureScaling, posthoc.BiasCorrectedTemperatureScaling, posthoc.VectorScaling),
            posthoc.StructuredMatrixScaling,
        )
    }
    return found


TARGETS = all_targets()
FUSIONS = ("noisy_or", "mean_fusion", "product_fusion")
"""A missing modality is None."""


def inputs(case: Case) -> Iterator[tuple[str, Spoilt]]:
    """All inputs of a case: argument and value."""
    for argument, arg in case.args.items():
        for spoilt in arg.spoil(arg.value):
            modality = argument in ("rgb", "depth") or (case.name in FUSIONS and argument in ("probs", "more"))
            if spoilt.value is None and (modality or optional(case, argument)):
                spoilt = spoilt._replace(fine=True)
            yield argument, spoilt


def run(chosen: Sequence[Case], most: int | None = None) -> list[Outcome]:
    """Try the cases, at most so many inputs of each, spread evenly."""
    with contextlib.suppress(Exception):
        torch.zeros(2, device="meta") + torch.zeros(2)  # the first such sum imports for seconds
    outcomes = []
    for case in chosen:
        torch.manual_seed(0)
        plain = case.call(**{name: arg.value for name, arg in case.args.items()})
        every = list(inputs(case))
        step = 1 if most is None else max(1, len(every) // most)
        outcomes += [tried(case, argument, spoilt, plain) for argument, spoilt in every[::step]]
    return outcomes


# --- what once passed in silence --------------------------------------------------------------------------------------


def silent_kinds() -> dict[str, Callable[[], Any]]:
    """Calls that once gave a wrong result without a word: each must be refused."""
    image = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    two = torch.zeros(2, dtype=torch.int64)
    no = torch.tensor([False, False])

    def fitted() -> Any:
        features = FEATURES.clone()
        features[0, 0] = NAN
        return classifiers.NearestClassMeanClassifier(4, 3).fit(features, LABELS)

    def soft(scale: float, shift: float) -> Any:
        rows = SOFT.clone()
        rows[:, 0] -= shift
        rows[:, 1] += shift
        return losses.PriorCorrectedLoss(COUNTS)(LOGITS, scale * rows)

    return {
        "focal_loss class_weights [C, 1]": lambda: loss_functions.focal_loss(LOGITS, SOFT, 1.0, torch.ones(3, 1)),
        "label_occurrence of indices": lambda: analysis.label_occurrence(list(power()), list(power()), LABELS),
        "random_crop_flip rows": lambda: loaders.random_crop_flip(image, two + 9, two, no, 1),
        "random_crop_flip negative": lambda: loaders.random_crop_flip(image, two - 1, two, no, 1),
        "index_hash of 1.5": lambda: longtail.index_hash(torch.tensor([1.5])),
        "index_hash of True": lambda: longtail.index_hash(torch.tensor([True])),
        "index_hash of NaN": lambda: longtail.index_hash(torch.tensor([NAN])),
        "step_counts of 100.5": lambda: longtail.step_counts(100.5, 4, 10),  # type: ignore[arg-type]
        "shot_groups few=nan": lambda: priors.shot_groups(COUNTS, few=NAN),  # type: ignore[arg-type]
        "subsample seed=None": lambda: longtail.subsample(LABELS, [2, 1, 1], seed=None),  # type: ignore[arg-type]
        "ClassPowerSampler seed=None": lambda: power(seed=None),
        "SeededDataset seed=None": lambda: loaders.SeededDataset(Noise(), None),  # type: ignore[arg-type]
        "ResidentLoader seed=None": lambda: loaders.ResidentLoader(
            IMAGES, LABELS, batch_size=2, mean=[0.5] * 3, std=[0.5] * 3, seed=None
        ),
        "entropy_statistics of 7 and 4": lambda: fusion.entropy_statistics([torch.zeros(2, 7), torch.zeros(2, 4)]),
        "mean_fusion of bool": lambda: fusion.mean_fusion([PROBS > 0.5]),
        "noisy_or of bool": lambda: fusion.noisy_or([PROBS > 0.5]),
        "cut_boxes of NaN": lambda: mix_functions.cut_boxes(torch.tensor([NAN]), torch.zeros(1, 2), [8, 8]),
        "cut_boxes of centre NaN": lambda: mix_functions.cut_boxes(torch.zeros(1), torch.full((1, 2), NAN), [8, 8]),
        "soft targets negative": lambda: soft(1.0, 1.0),
        "soft targets of sum 4": lambda: soft(4.0, 0.0),
        "soft targets of a mixer, sum 4": lambda: mixers.MixUp(3)(INPUTS, 4.0 * SOFT),
        "soft targets of a mixer, negative": lambda: mixers.MixUp(3)(INPUTS, SOFT - torch.tensor([1.0, -1.0, 0.0])),
        "NearestClassMeanClassifier.fit NaN": fitted,
        "LADELoss alpha=nan": lambda: losses.LADELoss(COUNTS, alpha=NAN),
    }


def still_silent() -> list[str]:
    """Of :func:`silent_kinds`, those that are not refused by an error of ours."""
    names = ("class_weights", "first", "rows", "indices", "n_max", "few", "seed", "batches", "probs", "lam", "centre")
    names += ("targets", "features", "alpha", "partner")
    found = []
    for name, call in silent_kinds().items():
        try:
            call()
        except Exception as error:
            if not is_ours(error, names):
                found.append(f"{name}: {type(error).__name__}: {str(error)[:100]}")
        else:
            found.append(f"{name}: no error")
    return found


# --- valid extremes against NumPy -------------------------------------------------------------------------------------


def np_log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def np_mean(loss: np.ndarray) -> float:
    return float(loss.mean())


def extremes() -> Iterator[tuple[str, Any, Any, float]]:
    """Name, result of ours, the formula in NumPy's float64, relative tolerance."""
    random = np.random.default_rng(0)
    for size in (1, 2, 10**5):
        n = np.concatenate([[10**9], random.integers(1, 1000, size - 1)]) if size > 1 else np.array([1])
        n[-1] = 1
        given, x = torch.from_numpy(n), n.astype(np.float64)
        yield f"class_prior C={size}", priors.class_prior(given), x / x.sum(), 1e-12
        for beta in (0.0, 0.5, 0.9999, 1 - 1e-12):
            expected = x * 0 + 1 if beta == 0 else np.expm1(x * np.log(beta)) / (beta - 1)
            yield f"effective_number C={size} beta={beta}", priors.effective_number(given, beta), expected, 1e-9
            weights = 1 / expected
            weights *= size / weights.sum()
            yield f"weights C={size} beta={beta}", losses.effective_number_weights(given, beta), weights, 1e-9
        prior_x = x / x.sum()
        yield f"logits_prior C={size}", analysis.logits_prior(given), prior_x, 1e-12
        half = (prior_x + 1 / size) / 2
        yield (
            f"effective_prior MixUp C={size}",
            analysis.effective_prior(given, mixers.MixUp(size), 1.0, 0.0),
            half,
            1e-9,
        )
        yield f"label_occurrence C={size}", analysis.label_occurrence(given, [1] * size), half, 1e-9
        move = np.log(1 / size) - np.log(prior_x)
        yield f"log_prior_shift C={size}", posthoc.log_prior_shift(given, [1] * size), move, 1e-9
        for dtype, scale, rows in itertools.product(
            (torch.float64, torch.float32, torch.float16, torch.bfloat16), (1.0, 1e4), (1, 4)
        ):
            if size == 10**5 and rows > 1:
                continue
            yield from losses_at(random, size, rows, scale, dtype, x)
    yield from metrics_at(random)
    yield from formulas_at(random)


def losses_at(
    random: np.random.Generator, size: int, rows: int, scale: float, dtype: torch.dtype, n: np.ndarray
) -> Iterator[tuple[str, Any, Any, float]]:
    logits = torch.from_numpy(scale * random.uniform(-1, 1, (rows, size))).to(dtype)
    z, y = logits.double().numpy(), random.integers(size, size=rows)
    dense = random.dirichlet(np.ones(size), rows)
    where = f"C={size} N={rows} +-{scale:g} {str(dtype).removeprefix('torch.')}"
    tight = 1e-9 if dtype is torch.float64 else 2e-5
    one = np.eye(size)[y] if size < 10**5 else np.zeros((rows, size))
    one[np.arange(rows), y] = 1.0
    hard, soft = torch.from_numpy(y), torch.from_numpy(dense)
    # The classes' numbers are kept in the default type, float32.
    kept = lambda values: values.astype(np.float32).astype(np.float64)  # noqa: E731
    prior_n = n / n.sum()
    for kind, targets, t in (("hard", hard, one), ("soft", soft, dense)):
        if kind == "soft":
            t = torch.from_numpy(t).to(torch.float32 if dtype is not torch.float64 else dtype).double().numpy()
        for tau in (0.0, 1.0):
            moved = kept(tau * (np.log(prior_n) - np.log(1 / size)))
            ours = losses.PriorCorrectedLoss(n, tau)(logits, targets)
            yield (
                f"PriorCorrectedLoss {kind} tau={tau} {where}",
                ours,
                np_mean(-(t * np_log_softmax(z + moved)).sum(1)),
                tight,
            )
        log_p = np_log_softmax(z)
        for gamma in (0.0, 0.5, 2.0):
            ours = losses.FocalLoss(gamma)(logits, targets)
            rest = -np.expm1(log_p)
            focal = np.where(gamma == 0, 1.0, rest**gamma) * -log_p
            yield (
                f"FocalLoss {kind} gamma={gamma} {where}",
                ours,
                np_mean((t * focal).sum(1)),
                5e-4 if tight > 1e-6 else 1e-6,
            )
        heat = kept((n.max() / n) ** 0.2)
        ours = losses.CDTLoss(n)(logits, targets)
        yield f"CDTLoss {kind} {where}", ours, np_mean(-(t * np_log_softmax(z / heat)).sum(1)), tight
        if size > 1:
            eps = kept(losses.smoothing_factors(n).numpy())
            ours = losses.LabelAwareSmoothingLoss(n)(logits, targets)
            eps_row = (t * eps).sum(1) / (size - 1)
            q = t * (1 - eps) - t * eps / (size - 1) + eps_row[:, None]
            yield f"LabelAwareSmoothingLoss {kind} {where}", ours, np_mean(-(q * log_p).sum(1)), 20 * tight
        if size <= 2 or kind == "hard":
            margin = kept(n**-0.25 * (0.5 / (n**-0.25).max()))
            ours = losses.LDAMLoss(n)(logits, targets)
            each = np.zeros(rows)
            for c in range(size) if size <= 2 else np.unique(y):
                shifted = z.copy()
                shifted[:, c] -= margin[c]
                each += t[:, c] * -np_log_softmax(30 * shifted)[:, c]
            yield f"LDAMLoss {kind} {where}", ours, np_mean(each), 20 * tight


def metrics_at(random: np.random.Generator) -> Iterator[tuple[str, Any, Any, float]]:
    for size, rows in ((1, 1), (2, 5), (7, 400), (10**5, 3)):
        z = random.normal(size=(rows, size)) * 3
        p = np.exp(np_log_softmax(z))
        p[0] = np.eye(1, size)  # certain
        y = random.integers(size, size=rows)
        y[0] = 0
        given = torch.from_numpy(p)
        where = f"C={size} N={rows}"
        top, guess = p.max(1), p.argmax(1)
        own = p[np.arange(rows), y]
        right = guess == y
        yield f"accuracy {where}", metrics.accuracy(given, y), right.mean(), 1e-12
        if size > 5:
            order = np.argsort(-p, axis=1, kind="stable")[:, :5]
            yield (
                f"accuracy top 5 {where}",
                metrics.accuracy(given, y, topk=5),
                (order == y[:, None]).any(1).mean(),
                1e-12,
            )
        yield f"nll {where}", metrics.negative_log_likelihood(given, y), -np.log(own.clip(1e-15)).mean(), 1e-9
        brier = (p**2).sum(1) - 2 * own + 1
        yield f"brier {where}", metrics.brier_score(given, y), brier.mean(), 1e-7
        gaps, filled = [], []
        for m in range(15):
            inside = (top > m / 15) & (top <= (m + 1) / 15) | ((m == 0) & (top == 0))
            gaps.append(abs(right[inside].sum() - top[inside].sum()))
            filled.append(max(inside.sum(), 1))
        yield f"ece {where}", metrics.expected_calibration_error(given, y), sum(gaps) / rows, 1e-7
        yield f"mce {where}", metrics.maximum_calibration_error(given, y), max(np.array(gaps) / filled), 1e-7
        if size < 100:
            total = 0.0
            for c, m in itertools.product(range(size), range(15)):
                inside = (p[:, c] > m / 15) & (p[:, c] <= (m + 1) / 15) | ((m == 0) & (p[:, c] == 0))
                total += abs((y[inside] == c).sum() - p[inside, c].sum())
            yield f"classwise {where}", metrics.classwise_calibration_error(given, y), total / size / rows, 1e-7
            matrix = np.zeros((size, size))
            np.add.at(matrix, (y, guess), 1)
            yield f"confusion {where}", metrics.confusion_matrix(given, y), matrix, 0
            with np.errstate(invalid="ignore"):
                recalls = matrix.diagonal() / matrix.sum(1)
                iou = matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
            yield f"recalls {where}", metrics.per_class_accuracy(given, y), recalls, 1e-12
            yield f"iou {where}", metrics.segmentation_scores(matrix).class_iou, iou, 1e-12
        n = np.full(size, 10**9)
        report = metrics.classification_report(given, y, n)
        yield f"report {where}", [report["top1"], report["brier"]], [right.mean(), brier.mean()], 1e-7


def formulas_at(random: np.random.Generator) -> Iterator[tuple[str, Any, Any, float]]:
    for rows in (1, 7):
        lam = random.random(rows)
        lam[0] = 0.0 if rows == 1 else 1.0
        x, y = random.normal(size=(2, rows, 3, 5))
        t = torch.from_numpy
        mixed = lam[:, None, None] * x + (1 - lam[:, None, None]) * y
        yield f"mix N={rows}", mix_functions.mix(t(x), t(y), t(lam)), mixed, 1e-12
        a, b = 10.0 ** random.integers(0, 10, (2, rows))
        a[0], b[0] = 1.0, 1e9
        factor = np.mod(lam + b / (a + b), 1)
        yield f"unimix_factor N={rows}", mix_functions.unimix_factor(t(lam), t(a), t(b)), factor, 1e-9
        weight = np.where((a >= 3 * b) & (lam < 0.5), 0, np.where((3 * a <= b) & (1 - lam < 0.5), 1, lam))
        yield f"remix N={rows}", mix_functions.remix_label_weight(t(lam), t(a), t(b)), weight, 1e-12
        centre, sizes = random.random((rows, 2)), [1, 9]
        first, last, kept = [], [], np.ones(rows)
        for axis, size in enumerate(sizes):
            half = np.floor(np.sqrt(1 - lam) * size) // 2
            middle = np.floor(centre[:, axis] * size)
            first.append(np.maximum(middle - half, 0))
            last.append(np.minimum(middle + half, size))
            kept *= (last[-1] - first[-1]) / size
        ours = mix_functions.cut_boxes(t(lam), t(centre), sizes)
        yield f"cut_boxes N={rows}", [*ours], [np.stack(first, 1), np.stack(last, 1), 1 - kept], 1e-9
        levels = random.uniform(-80, 90, (2, rows))
        with np.errstate(divide="ignore"):
            gain = 1 / (1 + 10 ** ((levels[0] - levels[1]) / 20) * (1 - lam) / lam)
        weights = mix_functions.between_class_weight(t(lam), *t(levels))
        yield f"between_class_weight N={rows}", weights, gain, 1e-9
    for dtype, scale in itertools.product((torch.float64, torch.float32, torch.float16, torch.bfloat16), (1.0, 1e4)):
        logits = torch.from_numpy(scale * random.uniform(-1, 1, (3, 4))).to(dtype)
        z, n = logits.double().numpy(), np.array([1, 10**9, 5, 5])
        where = f"+-{scale:g} {str(dtype).removeprefix('torch.')}"
        loose = 4 * torch.finfo(dtype).eps
        moved = z + np.log(0.25) - np.log(n / n.sum())
        yield f"shift_logits {where}", posthoc.shift_logits(logits, n, [1] * 4), moved, loose
        p = np.exp(np_log_softmax(z))
        entropy = -(p * np_log_softmax(z)).sum(1)
        mean, std = fusion.entropy_statistics([logits])
        yield f"entropy_statistics {where}", [mean, std], [entropy.mean(), entropy.std()], 1e-4
        scale_of = 0.1 / (np.maximum(0, entropy - 0.1 - 0.05) + 0.1)
        yield (
            f"uncertainty_scale {where}",
            fusion.uncertainty_scale(logits, 0.1, 0.05)[:, 0],
            scale_of,
            max(loose, 1e-4),
        )
        if scale == 1.0:
            probs = torch.from_numpy(p).to(dtype)
            p = probs.double().numpy()
            q = p[::-1].copy()
            both = [probs, probs.flip(0)]
            loose = max(loose, 1e-6)
            yield f"mean_fusion {where}", fusion.mean_fusion(both), (p + q) / (p + q).sum(1, keepdims=True), loose
            either = 1 - (1 - p) * (1 - q)
            yield f"noisy_or {where}", fusion.noisy_or(both), either / either.sum(1, keepdims=True), loose
            product = p * q
            yield f"product {where}", fusion.product_fusion(both), product / product.sum(1, keepdims=True), loose
        weight = random.normal(size=(3, 4)) * scale
        layer = nn.Linear(4, 3)
        layer.weight.data = torch.from_numpy(weight).to(dtype)
        w = layer.weight.detach().double().numpy()
        expected = w / np.linalg.norm(w, axis=1, keepdims=True) ** 0.7
        loose = 8 * torch.finfo(dtype).eps
        yield f"tau_normalize {where}", classifiers.tau_normalize(layer, 0.7).weight.detach(), expected, loose
        if dtype is torch.float32:
            cosine = classifiers.CosineClassifier(4, 3, 16.0)
            cosine.weight.data = layer.weight.data
            unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
            yield f"CosineClassifier {where}", cosine(logits).detach(), 16 * unit(z) @ unit(w).T, 1e-4
            nearest = classifiers.NearestClassMeanClassifier(4, 3).fit(logits, [0, 1, 2])
            squares = -((z[:, None] - z[None]) ** 2).sum(-1)
            yield f"NearestClassMean {where}", nearest(logits), squares, 1e-5
    for profile in (longtail.exponential_counts, longtail.step_counts):
        yield f"{profile.__name__} C=1", profile(1, 1, 1.0), [1], 0
        yield f"{profile.__name__} ends", profile(10**9, 10**5, 1e9)[[0, -1]], [10**9, 1], 0


def differences() -> tuple[int, list[str]]:
    """How many results were compared with NumPy, and those that differ."""
    total, found = 0, []
    for name, ours, expected, tolerance in extremes():
        total += 1
        a = [each.double().numpy() for each in numbers_of(ours)]
        b = [np.asarray(each, dtype=np.float64) for each in (expected if isinstance(ours, list) else [expected])]
        for x, y in zip(a, b, strict=True):
            span = max(1.0, float(np.nanmax(np.abs(y)))) if y.size else 1.0
            if x.shape != y.shape or not np.allclose(x, y, rtol=tolerance, atol=tolerance * span, equal_nan=True):
                worst = float(np.nanmax(np.abs(x - y))) if x.shape == y.shape else NAN
                found.append(f"{name}: off by {worst:.3g}, of {span:.3g}")
                break
    return total, found


# --- the command ------------------------------------------------------------------------------------------------------


def report(outcomes: Sequence[Outcome]) -> tuple[list[str], bool]:
    """The table by callable, and whether the bars are met."""
    kinds = ("accepted", "refused", "ours", "raw", "silent")
    rows = [f"{'callable':<42}" + "".join(f"{kind:>10}" for kind in kinds)]
    total: Counter[str] = Counter()
    for name in dict.fromkeys(each.case for each in outcomes):
        count = Counter(each.kind for each in outcomes if each.case == name)
        total += count
        rows.append(f"{name:<42}" + "".join(f"{count[kind]:>10}" for kind in kinds))
    rows.append(f"{'total':<42}" + "".join(f"{total[kind]:>10}" for kind in kinds))
    bad = total["ours"] + total["raw"] + total["silent"]
    share = total["raw"] / max(bad, 1)
    rows.append(
        f"{len(outcomes)} inputs, {bad} of them bad: raw {share:.2%} (bar < {RAW_BAR:.0%}), silent {total['silent']}"
    )
    return rows, share < RAW_BAR and not total["silent"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="callables whose name has one of the words"
    )
    parser.add_argument("--show", nargs="+", default=[], metavar="KIND", help="list the inputs of these kinds")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    chosen = [case for case in cases() if not asked.only or any(word in case.name for word in asked.only)]
    outcomes = run(chosen)
    for each in outcomes:
        if each.kind in asked.show:
            print(f"{each.kind}: {each.case}({each.argument} = {each.label}): {each.message}")
    rows, met = report(outcomes)
    print("\n".join(rows))
    if not asked.only:
        met = met and len(outcomes) >= INPUTS_BAR
        silent = still_silent()
        total, different = differences()
        print(f"{len(silent_kinds())} calls that once were silent, {len(silent)} of them still:", *silent, sep="\n  ")
        print(f"{total} valid extremes beside NumPy, {len(different)} different:", *different, sep="\n  ")
        met = met and not silent and not different
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
