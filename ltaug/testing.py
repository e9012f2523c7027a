"""Does a class of yours keep the contract? The checks that ltaug's own classes pass, for anybody's.

Nothing has to be inherited: a mixer, sampler or loss that passes here works with everything else in the library.
In a test file of yours::

    from ltaug.testing import check_loss, check_mixer, check_sampler

    def test_my_mixer():
        check_mixer(MyMixer(num_classes=10), num_classes=10)

A broken rule raises :class:`ContractError`, an ``AssertionError`` that names the rule, what was seen, what was expected
and how to mend it. A check takes well under a second, needs no test runner, and leaves the random generators as they
were.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ltaug.priors import Counts, as_labels

__all__ = ["ContractError", "check_loss", "check_mixer", "check_sampler"]

Mixing = Literal["linear", "between", "free"]

SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (2, 5), (3, 4, 5), (2, 3, 4, 5))
"""Shapes of one sample that :func:`check_mixer` tries: with the batch in front, inputs of 1 to 5 dimensions."""


class ContractError(AssertionError):
    """A class breaks a rule of its contract.

    Args:
        subject: the name of the class.
        rule: the rule, in a few words.
        seen: what happened, and on what.
        expected: what should have.
        fix: what usually mends it.
    """

    def __init__(self, subject: str, rule: str, seen: str, expected: str, fix: str) -> None:
        super().__init__(subject, rule, seen, expected, fix)  # all of them, so that the error survives pickle
        self.subject = subject
        self.rule = rule
        self.seen = seen
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        return (
            f"`{self.subject}` breaks the rule '{self.rule}'\n"
            f"  seen:     {self.seen}\n"
            f"  expected: {self.expected}\n"
            f"  fix:      {self.fix}"
        )


class _Rule(NamedTuple):
    expected: str
    fix: str


MIXER_RULES = {
    "any batch": _Rule(
        "a mixer takes inputs of any rank, batches of any size from 1, with and without partners, index and dense "
        "targets",
        "give the weights one dimension a dimension of the inputs, `lam.view(-1, *[1] * (inputs.ndim - 1))`, and "
        "take the partner from the arguments or a `torch.randperm`; if only some sample shapes make sense, name "
        "them with `shapes=`",
    ),
    "two tensors": _Rule(
        "`mixer(...)` returns (inputs, targets): inputs shaped as they came, targets floating point [N, C]",
        "return `mixed, dense` with `dense` as wide as `num_classes`; `torch.nn.functional.one_hot(targets, "
        "num_classes).float()` makes class indices dense",
    ),
    "type and device": _Rule(
        "mixed inputs have the dtype and device of the inputs, targets are on the device of the targets",
        "convert the weights, not the inputs: `lam.to(inputs.dtype)`; create tensors with `device=inputs.device`",
    ),
    "out of place": _Rule(
        "inputs, targets and partners are left as they came",
        "write to new tensors: `inputs * lam + ...` or `torch.lerp`, not `inputs.mul_(lam)` or `inputs[:, a:b] = "
        "...`; `clone()` first where a region is pasted",
    ),
    "new memory": _Rule(
        "what comes out shares no memory with what went in, so that a later in-place operation cannot reach the data",
        "return `inputs.clone()` where nothing is mixed",
    ),
    "probabilities": _Rule(
        "every row of the targets is not negative and sums to 1",
        "weight the two labels with `lam` and `1 - lam`, lam in [0, 1]; add (not overwrite) where both labels are "
        "the same class",
    ),
    "labels of the pair": _Rule(
        "a row of the targets lies between the targets of the sample and of its partner: no other class gets any mass",
        "mix `targets` and `partner_targets` and nothing else; when partners are given, use them and not a "
        "permutation; smooth labels in the loss, not in the mixer",
    ),
    "inputs of the pair": _Rule(
        "every element of a mixed input lies between the elements of the sample and of its partner",
        "keep the weights in [0, 1], and use the partners when they are given; if leaving the range is meant "
        '(between-class learning), pass `mixing="free"`',
    ),
    "linear": _Rule(
        "a mixed input is lam * x + (1 - lam) * partner, with one lam for all elements of a sample",
        'draw one weight a sample; a mixer that pastes regions (CutMix) is checked with `mixing="between"`',
    ),
    "same partner": _Rule(
        "inputs and targets are mixed with the same partner",
        "draw the permutation once and index both `inputs` and `targets` with it",
    ),
    "same weight": _Rule(
        "the label of a sample weighs as much as its share in the mixed input",
        "use one `lam` for both, and after clipping a region compute `lam` from the region that is really pasted; "
        "if the difference is meant (ReMix, between-class learning), pass `shared_weight=False`",
    ),
    "index and one-hot agree": _Rule(
        "class indices and the same classes as one-hot rows give the same result under the same seed",
        "turn indices into dense targets first and go one way from there; draw the same numbers in the same order "
        "for both forms",
    ),
    "same seed, same result": _Rule(
        "after the same `torch.manual_seed` the mixer does the same again",
        "draw from torch's global generator (`torch.rand`, `torch.randperm`), not from numpy, `random` or a "
        "generator that runs on",
    ),
    "torch's global generator": _Rule(
        "different seeds of torch give different batches, or all ranks of a run would mix alike",
        "do not seed inside the mixer, and own no generator: draw with `torch.rand`, `torch.randperm`",
    ),
    "gradient": _Rule(
        "a gradient flows from the mixed inputs to the inputs and the partners (adversarial and manifold mixing "
        "need it)",
        "no `torch.no_grad()`, `detach()` or `.data` around the inputs, and no in-place writing to them",
    ),
}

SAMPLER_RULES = {
    "factory": _Rule(
        "`make_sampler(labels, seed=...)` gives a sampler",
        "pass the class, or bind its other arguments: `functools.partial(MySampler, tau=0.5)`",
    ),
    "iterable with a length": _Rule(
        "a sampler has `__iter__` and `__len__`, and yields as many indices as `len` says, at least one",
        "`__len__` returns what `__iter__` yields in one epoch, on all ranks together",
    ),
    "set_epoch": _Rule(
        "a sampler has `set_epoch(epoch)`, which loops and accelerate call before every epoch",
        "`def set_epoch(self, epoch): self.epoch = epoch`, and let `__iter__` seed its generator from (seed, epoch)",
    ),
    "integers": _Rule(
        "a sampler yields Python integers, a pair sampler tuples of two",
        "`yield from indices.tolist()`: a tensor or array that is iterated yields its own scalars",
    ),
    "in range": _Rule(
        "every index lies in 0..N-1, N the number of labels",
        "draw positions in `labels`, not classes; look out for an empty class and for rounding up to N",
    ),
    "global generators untouched": _Rule(
        "torch's, numpy's and random's global generators are in the same state after sampling as before",
        "own a generator, `np.random.default_rng((seed, epoch))`: what the mixers and augmentations draw must not "
        "depend on the sampler",
    ),
    "own generator": _Rule(
        "the order does not depend on the global seeds, which differ between ranks",
        "take the seed from the constructor's argument, not from `torch.initial_seed()` or a global draw",
    ),
    "same again": _Rule(
        "iterating twice in one epoch gives the same order, also after an iteration that was left half-way",
        "make the generator in `__iter__`, not in `__init__`",
    ),
    "same (seed, epoch), same order": _Rule(
        "two samplers with the same labels, seed and epoch give the same order: the ranks of a run each build their "
        "own",
        "draw from `np.random.default_rng((seed, epoch))` and nothing else",
    ),
    "resume": _Rule(
        "the order of an epoch does not depend on the epochs before it, so that a resumed run continues where it was",
        "let `set_epoch` store the epoch and `__iter__` start a new generator from it; no counter, no generator "
        "that runs on",
    ),
    "epochs differ": _Rule(
        "another epoch has another order",
        "use the epoch in the seed of the generator: `np.random.default_rng((seed, epoch))`",
    ),
    "seeds differ": _Rule(
        "another seed gives another order",
        "use the seed in the seed of the generator: `np.random.default_rng((seed, epoch))`",
    ),
    "seed and epoch stay apart": _Rule(
        "seed 0 in epoch 1 is not seed 1 in epoch 0, or repeats of a run with other seeds would be the same run, "
        "shifted",
        "a seed sequence, `np.random.default_rng((seed, epoch))`, not `seed + epoch`",
    ),
    "two streams": _Rule(
        "the two indices of a pair are drawn independently",
        "give the second sampler another seed or stream; every sample is its own partner otherwise",
    ),
    "indices()": _Rule(
        "`indices()`, where a sampler has it, is the same epoch as one tensor: int64 [len], or [len, 2] for pairs",
        "let `__iter__` go through `indices()`",
    ),
    "pickle": _Rule(
        "a sampler survives pickle with its epoch, as worker processes and checkpoints need",
        "define the class at module level, and keep no iterator, lambda or open file in it",
    ),
    "classes without samples": _Rule(
        "labels may leave classes out: these are never drawn and break nothing",
        "work on the classes that are present, `np.unique(labels, return_inverse=True)`; a count of 0 has no "
        "reciprocal or logarithm",
    ),
    "ranks": _Rule(
        "two ranks that take turns in the batches of their own loader see together exactly one epoch",
        "yield the whole epoch on every rank, whatever `RANK` says: the launcher's library does the slicing",
    ),
}

LOSS_RULES = {
    "copy": _Rule(
        "`copy.deepcopy(loss)` works, as does moving the loss with `.to()`",
        "compute statistics in `__init__` from data without gradient, and keep them in buffers",
    ),
    "any targets": _Rule(
        "`loss(logits, targets)` takes logits [N, C] with targets int [N] and float [N, C], and batches of any size "
        "from 1",
        "tell the two forms apart with `targets.is_floating_point()`",
    ),
    "scalar": _Rule(
        'a loss returns one floating-point tensor: a scalar, or one number a sample for `reduction="none"`',
        "reduce over all samples, and return a tensor rather than a Python number, which has no gradient",
    ),
    "inputs untouched": _Rule(
        "logits and targets are left as they came",
        "`logits + shift`, not `logits += shift`; `clone()` before writing margins to the true class",
    ),
    "index and one-hot agree": _Rule(
        "class indices and the same classes as one-hot rows give the same loss and the same gradient",
        "write the dense form as sum_c t_c * loss(c) with the weights and the mean of the index form; note that "
        "`torch.nn.CrossEntropyLoss(weight=...)` itself averages the two forms differently",
    ),
    "soft targets": _Rule(
        "probabilities t give sum_c t_c * loss(c), which is what makes any mixer go with any loss",
        "mix losses and not margins or weights; a loss without such a form is checked with `linear_targets=False`",
    ),
    "reduction": _Rule(
        '"none" gives one loss a target, "sum" is their sum and "mean" their plain mean',
        "read `self.reduction` in `forward`; a mean that divides by the sum of class weights is checked with "
        "`plain_mean=False`",
    ),
    "dense prediction": _Rule(
        "logits [N, C, d1, ...] give what the same predictions as rows [N * d1 * ..., C] give",
        "classes are on dim 1: `log_softmax(1)`, and statistics viewed as `[1, C, 1, ...]`; if the loss is for [N, "
        "C] alone, pass `dense_prediction=False`",
    ),
    "finite": _Rule(
        "loss and gradient are finite under bfloat16 autocast, for logits up to 1e4",
        "`log_softmax` and `logsumexp`, no `softmax().log()`, no `exp` of a raw logit, no 0 * inf",
    ),
    "float32 inside": _Rule(
        "under autocast the loss is computed and returned in float32, also for logits that come in bfloat16",
        "`with torch.autocast(logits.device.type, enabled=False):` around the formula, and first `logits = "
        "logits.to(torch.promote_types(logits.dtype, torch.float32))`",
    ),
    "statistics in buffers": _Rule(
        "tensors of a loss are parameters or buffers, so that `.to()` moves them",
        '`self.register_buffer("log_prior", log_prior, persistent=False)`',
    ),
    "no statistics in checkpoints": _Rule(
        "`state_dict()` holds nothing but parameters: a checkpoint must load where the data set is another one",
        "`register_buffer(..., persistent=False)`",
    ),
    "to(dtype)": _Rule(
        "a loss works, with nearly the same value, after `.to(torch.float64)` and `.to(torch.bfloat16)`",
        "convert the buffers to the type of the logits inside `forward`: `self.log_prior.to(logits.dtype)`",
    ),
    "gradient": _Rule(
        "float64 logits give a float64 loss, whose gradient is that of finite differences",
        "no `detach()` or `.item()` on the way, and cast up only: `logits.to(torch.promote_types(logits.dtype, "
        "torch.float32))`; a loss that stops a gradient on purpose is checked with `exact_gradient=False`",
    ),
    "wrong number of classes": _Rule(
        "logits with another number of classes are refused by a ValueError that says the right number; dense "
        "targets by any error",
        "compare `logits.shape[1]` with the statistics before adding them: one column broadcasts silently; a loss "
        "that knows no number of classes is checked with `fixed_classes=False`",
    ),
}


class _Report:
    """Who is checked against which rules; turns what was seen into an error."""

    def __init__(self, subject: Any, rules: dict[str, _Rule]) -> None:
        self.subject = _name(subject)
        self.rules = rules

    def broken(self, rule: str, seen: str) -> ContractError:
        return ContractError(self.subject, rule, seen, *self.rules[rule])

    def run(self, rule: str, where: str, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``; whatever it raises breaks the rule."""
        try:
            return function(*args)
        except ContractError:
            raise
        except Exception as error:
            raise self.broken(rule, f"{where}: {_told(error)}") from error


# --- mixers -----------------------------------------------------------------------------------------------------------


def check_mixer(
    mixer: Callable[..., tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    mixing: Mixing = "linear",
    shared_weight: bool = True,
    shapes: Sequence[Sequence[int]] = SHAPES,
    device: torch.device | str = "cpu",
) -> None:
    """Check a mixer: ``mixer(inputs, targets, partner_inputs=None, partner_targets=None) -> (inputs, dense targets)``.

    Any rank and batch size, with and without partners, index and dense targets, three floating-point types; nothing
    changed in place; targets are probabilities on the classes of the pair; inputs stay inside the pair; randomness from
    torch's global generator alone; gradients reach the inputs.

    Args:
        mixer: an instance, any callable.
        num_classes: C of the mixer.
        mixing: what a mixed input may be. "linear": lam * x + (1 - lam) * partner, one lam a sample. "between": every
            element between the two (CutMix). "free": anything (between-class learning, which rescales).
        shared_weight: the label weighs as much as the sample's share in the input. By design not so in ReMix and in
            between-class learning.
        shapes: shapes of one sample to try, without the batch dimension.
        device: where to run.

    Raises:
        ContractError: a rule is broken.

    >>> from ltaug.mixers import MixUp
    >>> check_mixer(MixUp(num_classes=3), num_classes=3)
    >>> check_mixer(lambda inputs, targets, partner_inputs=None, partner_targets=None: (inputs, targets), num_classes=3)
    Traceback (most recent call last):
    ltaug.testing.ContractError: `<lambda>` breaks the rule 'two tensors'
      seen:     inputs float32 [7], index targets, no partners: returned targets int64 [7]
      expected: `mixer(...)` returns (inputs, targets): inputs shaped as they came, targets floating point [N, C]
      ...
    """
    _check_arguments(mixer, "mixer", num_classes)
    if mixing not in get_args(Mixing):
        raise ValueError(f"`mixing` must be one of {', '.join(map(repr, get_args(Mixing)))}, but is {mixing!r}.")
    if not shapes:
        raise ValueError("`shapes` must name at least one shape of a sample, such as (3, 32, 32), but is empty.")
    report = _Report(mixer, MIXER_RULES)
    device = torch.device(device)
    with _forked_torch(device):
        for shape in shapes:
            for size in (7, 1):
                for partners in (False, True):
                    for dtype in (torch.float32, torch.float64, torch.bfloat16):
                        batches = [_batch(shape, size, num_classes, dtype, form, partners, device) for form in _FORMS]
                        results = []
                        for batch in batches:
                            _seed_torch(0, device)
                            results.append(_mix(report, mixer, batch, num_classes))
                            _check_pairs(report, batch, *results[-1], mixing)
                        _check_forms_agree(report, batches, results)
            for partners in (False, True):
                batch = _batch(shape, 7, num_classes, torch.float32, "index", partners, device)
                _check_seeding(report, mixer, batch, num_classes)
                _check_input_gradient(report, mixer, batch)
            if shared_weight:
                _check_shared_weight(
                    report, mixer, _batch(shape, 7, num_classes, torch.float32, "index", True, device), num_classes
                )


_FORMS = ("index", "one-hot", "soft")


@dataclass
class _Batch:
    """A batch for a mixer, with partners or without, and the targets of both as probabilities."""

    inputs: Tensor
    targets: Tensor
    dense: Tensor
    partner_inputs: Tensor | None
    partner_targets: Tensor | None
    partner_dense: Tensor | None
    form: str

    def arguments(self) -> dict[str, Tensor]:
        tensors = {
            "inputs": self.inputs,
            "targets": self.targets,
            "partner_inputs": self.partner_inputs,
            "partner_targets": self.partner_targets,
        }
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def __str__(self) -> str:
        partners = "no partners" if self.partner_inputs is None else "partners given"
        return f"inputs {_short(self.inputs)}, {self.form} targets, {partners}"


def _batch(
    shape: Sequence[int],
    size: int,
    num_classes: int,
    dtype: torch.dtype,
    form: str,
    partners: bool,
    device: torch.device,
) -> _Batch:
    generator = torch.Generator().manual_seed(0)

    def stream(first_class: int) -> tuple[Tensor, Tensor, Tensor]:
        inputs = torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(device, dtype)
        labels = ((torch.arange(size) + first_class) % num_classes).to(device)
        dense = F.one_hot(labels, num_classes).to(torch.float32)
        if form == "soft":
            other = F.one_hot((labels + 1) % num_classes, num_classes).to(torch.float32)
            dense = 0.75 * dense + 0.25 * other
        return inputs, labels if form == "index" else dense.clone(), dense

    first, second = stream(0), stream(1)  # a sample and its partner never have the same label
    return _Batch(*first, *second, form) if partners else _Batch(*first, None, None, None, form)


def _mix(report: _Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix one batch and check everything that can be said without knowing who was mixed with whom."""
    given = batch.arguments()
    before = {name: tensor.clone() for name, tensor in given.items()}
    result = report.run("any batch", str(batch), lambda: mixer(*given.values()))
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(part, Tensor) for part in result)):
        raise report.broken("two tensors", f"{batch}: returned {_kind(result)}")
    mixed, targets = result
    for name, tensor in given.items():
        if not torch.equal(tensor, before[name]):
            raise report.broken("out of place", f"{batch}: `{name}` changed during the call")
    if mixed.shape != batch.inputs.shape:
        raise report.broken("any batch", f"{batch}: returned inputs of shape {list(mixed.shape)}")
    if targets.shape != (len(batch.inputs), num_classes) or not targets.is_floating_point():
        raise report.broken("two tensors", f"{batch}: returned targets {_short(targets)}")
    if mixed.dtype != batch.inputs.dtype:
        raise report.broken("type and device", f"{batch}: returned inputs of type {mixed.dtype}")
    for name, tensor, device in (("inputs", mixed, batch.inputs.device), ("targets", targets, batch.targets.device)):
        if tensor.device != device:
            raise report.broken("type and device", f"{batch}, on {device}: returned {name} on {tensor.device}")
    for name, tensor in given.items():
        if tensor.untyped_storage().data_ptr() in (
            mixed.untyped_storage().data_ptr(),
            targets.untyped_storage().data_ptr(),
        ):
            raise report.broken("new memory", f"{batch}: the result is, or is a view of, `{name}`")
    total = targets.double().sum(1)
    off = (total - 1.0).abs().max()
    if not bool(torch.isfinite(targets).all()) or float(targets.min()) < 0.0 or float(off) > _tolerance(targets.dtype):
        row = int(((total - 1.0).abs().nan_to_num(nan=torch.inf) + (targets.amin(1) < 0).double()).argmax())
        raise report.broken(
            "probabilities", f"{batch}: row {row} is {_values(targets[row])}, with the sum {float(total[row]):.6g}"
        )
    return mixed, targets


def _check_pairs(report: _Report, batch: _Batch, mixed: Tensor, targets: Tensor, mixing: Mixing) -> None:
    """Is each result made of its own sample and one partner: the given one, or else some sample of the batch?"""
    size = len(mixed)
    if batch.partner_inputs is None or batch.partner_dense is None:
        candidates = torch.arange(size, device=mixed.device).expand(size, size)
        partner_inputs, partner_dense = batch.inputs, batch.dense
        whose = "any sample of the batch as partner"
    else:
        candidates = torch.arange(size, device=mixed.device).unsqueeze(1)
        partner_inputs, partner_dense = batch.partner_inputs, batch.partner_dense
        whose = "the given partner"

    # Everything is [N, candidates, elements] from here on.
    x, y = batch.dense.double().unsqueeze(1), partner_dense.double()[candidates]
    allowed = _between(targets.double().unsqueeze(1), x, y, _tolerance(targets.dtype)).all(2)
    if not bool(allowed.any(1).all()):
        row = int((~allowed.any(1)).nonzero()[0])
        raise report.broken(
            "labels of the pair",
            f"{batch}: row {row} of the targets is {_values(targets[row])}, which no mixture of its own target "
            f"{_values(batch.dense[row])} with that of {whose} gives",
        )
    if mixing == "free":
        return
    m = mixed.double().reshape(size, 1, -1)
    x, y = batch.inputs.double().reshape(size, 1, -1), partner_inputs.double().reshape(size, -1)[candidates]
    slack = 8.0 * torch.finfo(mixed.dtype).eps * (x.abs() + y.abs())
    inside = _between(m, x, y, slack).all(2)
    if not bool(inside.any(1).all()):
        row = int((~inside.any(1)).nonzero()[0])
        raise report.broken(
            "inputs of the pair",
            f"{batch}: sample {row} leaves the range between itself and {whose}, at seed {torch.initial_seed()}",
        )
    if mixing == "linear":
        # The best lam in the sense of least squares, and what it leaves unexplained.
        direction = x - y
        lam = ((m - y) * direction).sum(2, keepdim=True) / direction.square().sum(2, keepdim=True).clamp_min(1e-30)
        inside = inside & ((m - y - lam * direction).abs() <= slack).all(2)
        if not bool(inside.any(1).all()):
            row = int((~inside.any(1)).nonzero()[0])
            raise report.broken("linear", f"{batch}: sample {row} is no such combination of itself and {whose}")
    if not bool((inside & allowed).any(1).all()):
        row = int((~(inside & allowed).any(1)).nonzero()[0])
        raise report.broken("same partner", f"{batch}: the input of sample {row} has another partner than its target")


def _check_forms_agree(report: _Report, batches: list[_Batch], results: list[tuple[Tensor, Tensor]]) -> None:
    by_form = dict(zip(_FORMS, results, strict=True))
    for name, index, dense in zip(("inputs", "targets"), by_form["index"], by_form["one-hot"], strict=True):
        off = float((index.double() - dense.double()).abs().max())
        if off > max(_tolerance(index.dtype), _tolerance(dense.dtype)):
            raise report.broken(
                "index and one-hot agree",
                f"{batches[0]}: with one-hot targets and the same seed, {name} differ by up to {off:.3g}",
            )


def _check_seeding(report: _Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> None:
    def mixed_with(seed: int) -> tuple[Tensor, Tensor]:
        _seed_torch(seed, batch.inputs.device)
        return _mix(report, mixer, batch, num_classes)

    first = mixed_with(0)
    for _ in range(4):  # more than once, since what depends on a coin may agree by chance
        if not all(map(torch.equal, first, mixed_with(0))):
            raise report.broken("same seed, same result", f"{batch}: two calls after `torch.manual_seed(0)` differ")
    if batch.partner_inputs is None and all(all(map(torch.equal, first, mixed_with(seed))) for seed in range(1, 9)):
        raise report.broken("torch's global generator", f"{batch}: nine seeds of torch give one and the same result")


def _check_input_gradient(report: _Report, mixer: Callable[..., Any], batch: _Batch) -> None:
    given = batch.arguments()
    leaves = [tensor.clone().requires_grad_() for name, tensor in given.items() if name.endswith("inputs")]
    # Times one: inputs that come out of a network (manifold mixup) are no leaves.
    sources = iter([leaf * 1.0 for leaf in leaves])
    arguments = [next(sources) if name.endswith("inputs") else tensor for name, tensor in given.items()]
    _seed_torch(0, batch.inputs.device)
    where = f"{batch}, with `requires_grad`"
    mixed, _ = report.run("gradient", where, lambda: mixer(*arguments))
    if not mixed.requires_grad:
        raise report.broken("gradient", f"{where}: the mixed inputs require no gradient")
    found = report.run("gradient", where, lambda: torch.autograd.grad(mixed.sum(), leaves, allow_unused=True))
    for name, gradient in zip(("inputs", "partner_inputs"), found, strict=False):
        if gradient is None:
            raise report.broken("gradient", f"{where}: `{name}` get no gradient")
        if not bool(torch.isfinite(gradient).all()):
            raise report.broken("gradient", f"{where}: the gradient of `{name}` is not finite")
    if all(not bool(gradient.any()) for gradient in found):
        raise report.broken("gradient", f"{where}: the gradient is zero everywhere")


def _check_shared_weight(report: _Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> None:
    """Of samples of ones and partners of zeros, the mean of a mixed input is the sample's share, for any mixer."""
    inputs, partner_inputs = torch.ones_like(batch.inputs), torch.zeros_like(batch.inputs)
    batch = _Batch(
        inputs, batch.targets, batch.dense, partner_inputs, batch.partner_targets, batch.partner_dense, form=batch.form
    )
    for seed in range(5):
        _seed_torch(seed, batch.inputs.device)
        mixed, targets = _mix(report, mixer, batch, num_classes)
        share, weight = mixed.double().reshape(len(mixed), -1).mean(1), (targets * batch.dense).double().sum(1)
        row = int((share - weight).abs().argmax())
        if float((share - weight).abs()[row]) > 1e-4:
            raise report.broken(
                "same weight",
                f"{batch}: sample {row} makes up {float(share[row]):.4f} of its mixed input, but "
                f"{float(weight[row]):.4f} of its target",
            )


# --- samplers ---------------------------------------------------------------------------------------------------------


def check_sampler(make_sampler: Callable[..., Any], *, labels: Counts | None = None) -> None:
    """Check a sampler, or a sampler of pairs: every order must be a pure function of (seed, epoch).

    Length and range, the same order from every instance, on every rank and after a resume, other orders for other
    epochs and seeds, no touch of the global generators, pickle, labels that leave classes out, a ``DataLoader`` on two
    ranks.

    Args:
        make_sampler: ``make_sampler(labels, seed=0)`` gives a new sampler; ``labels`` are an int64 tensor [N]. A class
            with these arguments is one; others are bound by ``functools.partial`` or a ``lambda labels, seed: ...``.
        labels: what to sample from, [N]; by default 60 samples with a long tail. The more samples, the smaller the
            chance that two orders agree by accident.

    Raises:
        ContractError: a rule is broken.

    >>> from functools import partial
    >>> from ltaug.samplers import ClassPowerSampler
    >>> check_sampler(partial(ClassPowerSampler, tau=0.5))
    """
    if not callable(make_sampler):
        raise TypeError(
            "`make_sampler` must be a class or function that makes a sampler, since several are compared, but is "
            f"{_kind(make_sampler)}. Pass `lambda labels, seed: MySampler(labels, seed=seed)`."
        )
    report = _Report(make_sampler, SAMPLER_RULES)
    table = _long_tail() if labels is None else as_labels(labels)

    def make(seed: int, epoch: int | None = None) -> Any:
        sampler = report.run(
            "factory", f"`make_sampler(labels, seed={seed})`", lambda: make_sampler(table.clone(), seed=seed)
        )
        if epoch is not None:
            report.run("set_epoch", f"`set_epoch({epoch})`", lambda: sampler.set_epoch(epoch))
        return sampler

    with _restored_generators():
        before = _generator_states()
        sampler = make(seed=0)
        report.subject = _name(sampler)
        for name in ("__iter__", "__len__"):
            if not hasattr(sampler, name):
                raise report.broken("iterable with a length", f"no `{name}`")
        if not callable(getattr(sampler, "set_epoch", None)):
            raise report.broken("set_epoch", "no method `set_epoch`")
        report.run("set_epoch", "`set_epoch(0)`", lambda: sampler.set_epoch(0))
        reference = _order(report, sampler, table)
        if hasattr(sampler, "indices"):
            _check_whole_epoch(report, sampler, reference)
        for name, state in _generator_states().items():
            if state != before[name]:
                raise report.broken(
                    "global generators untouched", f"after one epoch, the global generator of {name} has moved on"
                )
        if _order(report, make(0, 0), table) != reference:
            raise report.broken("same (seed, epoch), same order", "seed 0, epoch 0: two instances differ")
        for seed in (1, 2):
            _seed_globals(seed)
            if _order(report, make(0, 0), table) != reference:
                raise report.broken("own generator", "seed 0, epoch 0: the order changes with the global seeds")
        if _order(report, sampler, table) != reference:
            raise report.broken("same again", "seed 0, epoch 0: the second iteration differs from the first")
        next(iter(sampler))
        if _order(report, sampler, table) != reference:
            raise report.broken(
                "same again", "seed 0, epoch 0: the order changes after an iteration that was left half-way"
            )

        later = _order(report, make(0, 1), table)
        if later == reference:
            raise report.broken("epochs differ", "seed 0: epochs 0 and 1 have the same order")
        other = _order(report, make(1, 0), table)
        if other == reference:
            raise report.broken("seeds differ", "epoch 0: seeds 0 and 1 have the same order")
        if other == later:
            raise report.broken("seed and epoch stay apart", "seed 0, epoch 1 and seed 1, epoch 0 have the same order")
        sampler.set_epoch(2)
        skipped_to = _order(report, make(0, 2), table)
        if _order(report, sampler, table) != skipped_to:
            raise report.broken("resume", "epoch 2 after epoch 0 differs from epoch 2 of a new sampler")
        sampler.set_epoch(0)
        if _order(report, sampler, table) != reference:
            raise report.broken("resume", "epoch 0 after epoch 2 differs from epoch 0 of a new sampler")
        if isinstance(reference[0], tuple) and all(i == j for i, j in [*reference, *later]):
            raise report.broken("two streams", "in every pair (i, j) of two epochs, i = j")

        sampler.set_epoch(1)
        again = report.run(
            "pickle", "`pickle.loads(pickle.dumps(sampler))`", lambda: pickle.loads(pickle.dumps(sampler))
        )
        if report.run("pickle", "iterating the copy", lambda: _order(report, again, table)) != later:
            raise report.broken("pickle", "after `set_epoch(1)`, the copy has another order")
        _check_missing_classes(report, make_sampler)
        _check_ranks(report, make, later)


def _long_tail() -> Tensor:
    counts = torch.tensor([36, 14, 6, 3, 1])
    labels = torch.repeat_interleave(torch.arange(5), counts)
    return labels[torch.randperm(60, generator=torch.Generator().manual_seed(0))]


def _order(report: _Report, sampler: Any, labels: Tensor) -> list[Any]:
    """One epoch, after checking that it is one."""
    size = report.run("iterable with a length", "`len(sampler)`", lambda: len(sampler))
    # One more than announced is enough to know: some samplers never end.
    order: list[Any] = report.run(
        "iterable with a length", "`list(sampler)`", lambda: list(itertools.islice(sampler, size + 1))
    )
    for index in order:
        parts = index if isinstance(index, tuple) and len(index) == 2 else (index,)
        for part in parts:
            if type(part) is not int:
                raise report.broken("integers", f"yields {index!r}, {_kind(index)}")
            if not 0 <= part < len(labels):
                raise report.broken("in range", f"yields {index!r} for {len(labels)} labels")
    if len(order) != size or not order:
        raise report.broken(
            "iterable with a length",
            f"`len` says {size}, but iterating yields {'more' if len(order) > size else len(order)}",
        )
    return order


def _check_whole_epoch(report: _Report, sampler: Any, order: list[Any]) -> None:
    whole = report.run("indices()", "`sampler.indices()`", lambda: torch.as_tensor(sampler.indices()))
    if whole.dtype != torch.int64 or not whole.equal(torch.tensor(order)):
        raise report.broken(
            "indices()",
            f"`indices()` is {_short(whole)} and differs from the {len(order)} indices that iterating yields",
        )


def _check_missing_classes(report: _Report, make_sampler: Callable[..., Any]) -> None:
    labels = torch.repeat_interleave(torch.tensor([1, 3, 6]), torch.tensor([20, 6, 1]))
    where = "labels of classes 1, 3 and 6 alone"
    order = report.run(
        "classes without samples", where, lambda: list(itertools.islice(make_sampler(labels, seed=0), 1000))
    )
    parts = [part for index in order for part in (index if isinstance(index, tuple) else (index,))]
    if not parts or not all(0 <= part < len(labels) for part in parts):
        raise report.broken("classes without samples", f"{where}: yields {parts[:8]} ... for {len(labels)} labels")


class _Echo(Dataset[Any]):
    """The sample is the index that was asked for."""

    def __getitem__(self, index: Any) -> Any:
        return index


def _check_ranks(report: _Report, make: Callable[[int, int], Any], expected: list[Any]) -> None:
    """What accelerate does: every rank builds the loader, and rank r of 2 takes batches r, r + 2, ..."""
    batches: list[list[list[Any]]] = []
    for rank in range(2):
        _seed_globals(100 + rank)  # device-specific seeds
        with _environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"):
            loader = DataLoader(_Echo(), batch_size=4, sampler=make(0, 1), collate_fn=list)
            batches.append(
                report.run("ranks", f"rank {rank} of 2, in a `DataLoader`", lambda loader=loader: list(loader))
            )
    seen = [
        index for k in range(max(map(len, batches))) for index in (batches[k % 2][k] if k < len(batches[k % 2]) else [])
    ]
    if seen != expected:
        common = len(set(expected) & set(seen))
        raise report.broken(
            "ranks",
            f"two ranks see {len(seen)} indices, {common} of the epoch's {len(set(expected))} distinct ones, in "
            f"{'another' if len(seen) == len(expected) else 'an incomplete'} order",
        )


# --- losses -----------------------------------------------------------------------------------------------------------


def check_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
    num_classes: int,
    *,
    linear_targets: bool = True,
    plain_mean: bool = True,
    dense_prediction: bool = True,
    fixed_classes: bool = True,
    exact_gradient: bool = True,
    device: torch.device | str = "cpu",
) -> None:
    """Check a loss: ``loss(logits, targets)``, logits [N, C, ...], targets int [N, ...] or probabilities [N, C, ...].

    Both target forms agree and mix linearly, reductions fit together, dense prediction, float32 inside and finite under
    bfloat16 autocast, gradients right, statistics in buffers and out of checkpoints, a good error for a wrong number of
    classes. The loss itself is not changed: copies are. Check it with few classes, and with as many as you have.

    Args:
        loss: an instance; any callable, usually an ``nn.Module``. An attribute ``reduction`` is taken as torch's:
            "mean", "sum" or "none", read when called.
        num_classes: C of the loss.
        linear_targets: probabilities t give sum_c t_c * loss(c).
        plain_mean: ``reduction="mean"`` divides by the number of targets, not by the sum of class weights.
        dense_prediction: logits may have more than two dimensions.
        fixed_classes: the loss knows its number of classes and must refuse others; ``False`` for one without any.
        exact_gradient: the gradient is that of the value; ``False`` for a loss that detaches a factor on purpose.
        device: where to run.

    Raises:
        ContractError: a rule is broken.

    >>> from ltaug.losses import PriorCorrectedLoss
    >>> check_loss(PriorCorrectedLoss(class_counts=[900, 90, 10]), num_classes=3)
    """
    _check_arguments(loss, "loss", num_classes)
    report = _Report(loss, LOSS_RULES)
    device = torch.device(device)
    if isinstance(loss, nn.Module):
        _check_state(report, loss)
    loss = report.run("copy", "`copy.deepcopy(loss)`", copy.deepcopy, loss)
    if isinstance(loss, nn.Module):
        loss = report.run("copy", f"`loss.to({str(device)!r})`", loss.to, device)
    _check_target_forms(report, loss, num_classes, device)
    if linear_targets:
        _check_linear_targets(report, loss, num_classes, device)
    if hasattr(loss, "reduction"):
        _check_reductions(report, loss, num_classes, plain_mean, device)
    if dense_prediction:
        _check_dense_prediction(report, loss, num_classes, device)
    _check_precision(report, loss, num_classes, device)
    _check_extremes(report, loss, num_classes, device)
    if isinstance(loss, nn.Module):
        _check_conversion(report, loss, num_classes, device)
    if exact_gradient:
        _check_logit_gradient(report, loss, num_classes, device)
    if fixed_classes:
        _check_wrong_classes(report, loss, num_classes, device)


class _Example(NamedTuple):
    """Logits [N, C, ...] and three kinds of targets for them."""

    logits: Tensor
    labels: Tensor
    one_hot: Tensor
    soft: Tensor


def _example(
    num_classes: int, device: torch.device, size: int = 5, spatial: Sequence[int] = (), seed: int = 0
) -> _Example:
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(size, num_classes, *spatial, generator=generator)
    labels = torch.randint(num_classes, (size, *spatial), generator=generator)
    one_hot = F.one_hot(labels, num_classes).movedim(-1, 1).float()
    # A few classes at the most, so that every one of them can be checked alone even where there are thousands.
    some = torch.zeros(num_classes)
    some[torch.linspace(0, num_classes - 1, min(num_classes, 6)).long()] = 1.0
    soft = torch.rand(size, num_classes, *spatial, generator=generator) * some.view(1, -1, *[1] * len(spatial))
    soft = soft / soft.sum(1, keepdim=True)
    return _Example(*(tensor.contiguous().to(device) for tensor in (logits, labels, one_hot, soft)))


def _loss(
    report: _Report,
    loss: Callable[..., Any],
    logits: Tensor,
    targets: Tensor,
    rule: str = "any targets",
    where: str = "",
) -> Tensor:
    """The loss of one batch, after checking that it is one and that the batch is as it was."""
    where = f"logits {_short(logits)}, targets {_short(targets)}{where}"
    before = logits.detach().clone(), targets.clone()
    value = report.run(rule, where, loss, logits, targets)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise report.broken("scalar", f"{where}: returned {_kind(value)}")
    shape = (logits.shape[0], *logits.shape[2:])
    reduction = getattr(loss, "reduction", None)
    if reduction == "none" and value.shape != shape:
        raise report.broken(
            "reduction", f'{where}, `reduction="none"`: returned shape {list(value.shape)}, not {list(shape)}'
        )
    if reduction in ("mean", "sum") and value.ndim != 0:
        raise report.broken("scalar", f"{where}, `reduction={reduction!r}`: returned shape {list(value.shape)}")
    if reduction is None and value.ndim != 0 and value.shape != shape:
        raise report.broken("scalar", f"{where}: returned shape {list(value.shape)}")
    for name, tensor, old in zip(("logits", "targets"), (logits, targets), before, strict=True):
        if not torch.equal(tensor.detach(), old):
            raise report.broken("inputs untouched", f"{where}: `{name}` changed during the call")
    return value


def _check_state(report: _Report, loss: nn.Module) -> None:
    for path, module in loss.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            if any(isinstance(item, Tensor) for item in held):
                raise report.broken(
                    "statistics in buffers", f"`{'.'.join(filter(None, (path, name)))}` is a plain tensor attribute"
                )
    extra = sorted(set(loss.state_dict()) - {name for name, _ in loss.named_parameters()})
    if extra:
        raise report.broken("no statistics in checkpoints", f"`state_dict()` holds {', '.join(map(repr, extra))}")


def _check_target_forms(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    for size in (5, 1):
        example = _example(num_classes, device, size)
        values, gradients = [], []
        for targets in (example.labels, example.one_hot, example.soft):
            _loss(report, loss, example.logits, targets)  # a write to a leaf would be told as an error of autograd
            logits = example.logits.clone().requires_grad_()
            value = _loss(report, loss, logits, targets)
            where = f"logits {_short(logits)}, targets {_short(targets)}"
            if not value.requires_grad:
                raise report.broken("scalar", f"{where}: the loss has no gradient")
            values.append(value.detach())
            gradients.append(
                report.run("any targets", where, lambda v=value, z=logits: torch.autograd.grad(v.sum(), z)[0])
            )
        for name, found in (("values", values), ("gradients", gradients)):
            if not _close(found[0], found[1]):
                raise report.broken(
                    "index and one-hot agree", f"{size} samples: {name} are {_values(found[0])} and {_values(found[1])}"
                )


def _check_linear_targets(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device, size=3)
    # One sample at a time: not every loss has a reduction. Where there is one, a weighted mean would cancel a weight.
    loss = _reduced(report, loss, "none") if hasattr(loss, "reduction") else loss
    for row in range(3):
        logits, target = example.logits[row : row + 1], example.soft[row : row + 1]
        classes = target[0].nonzero()[:, 0]
        alone = [_loss(report, loss, logits, c.view(1)).reshape(()) for c in classes]
        expected = (target[0, classes] * torch.stack(alone)).sum()
        value = _loss(report, loss, logits, target).reshape(())
        if not _close(value, expected):
            raise report.broken(
                "soft targets",
                f"target {_values(target[0, classes])} on classes {classes.tolist()}: loss {_values(value)}, but "
                f"the losses of these classes, {_values(torch.stack(alone))}, give {_values(expected)}",
            )


def _reduced(report: _Report, loss: Callable[..., Any], reduction: str) -> Callable[..., Any]:
    """A copy of the loss with another reduction."""
    other = copy.deepcopy(loss)
    report.run("reduction", f"`loss.reduction = {reduction!r}`", setattr, other, "reduction", reduction)
    return other


def _check_reductions(
    report: _Report, loss: Callable[..., Any], num_classes: int, plain_mean: bool, device: torch.device
) -> None:
    example = _example(num_classes, device)
    for targets in (example.labels, example.soft):
        each, total, mean = (
            _loss(report, _reduced(report, loss, name), example.logits, targets, "reduction", f", {name!r}")
            for name in ("none", "sum", "mean")
        )
        for name, value, expected in (("sum", total, each.sum()), ("mean", mean, each.mean())):
            if (name == "sum" or plain_mean) and not _close(value, expected):
                raise report.broken(
                    "reduction",
                    f'targets {_short(targets)}: "{name}" is {_values(value)}, but that of "none" {_values(expected)}',
                )


def _check_dense_prediction(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    for spatial in ((4,), (3, 2)):
        example = _example(num_classes, device, 3, spatial)

        def rows(dense: Tensor) -> Tensor:
            return dense.movedim(1, -1).reshape(-1, num_classes)

        flat = rows(example.logits)
        for targets, flat_targets in (
            (example.labels, example.labels.reshape(-1)),
            (example.one_hot, rows(example.one_hot)),
            (example.soft, rows(example.soft)),
        ):
            value = _loss(report, loss, example.logits, targets, "dense prediction")
            expected = _loss(report, loss, flat, flat_targets)
            if not _close(value.reshape(-1), expected.reshape(-1)):
                raise report.broken(
                    "dense prediction",
                    f"logits {_short(example.logits)}, targets {_short(targets)}: {_values(value)}, but as rows "
                    f"{_values(expected)}",
                )


def _check_precision(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device)
    for dtype in (torch.float32, torch.bfloat16):
        logits = example.logits.to(dtype)
        for targets in (example.labels, example.soft):
            where = f"logits {_short(logits)}, targets {_short(targets)}, bfloat16 autocast"
            expected = _loss(report, loss, logits.float(), targets)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                value = _loss(report, loss, logits, targets, "float32 inside", ", bfloat16 autocast")
            if value.dtype != torch.float32:
                raise report.broken("float32 inside", f"{where}: returned {value.dtype}")
            if not _close(value, expected):
                raise report.broken("float32 inside", f"{where}: {_values(value)}, but in float32 {_values(expected)}")


def _check_extremes(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    labels = torch.arange(6, device=device) % num_classes
    true = F.one_hot(labels, num_classes).float()
    logits = (
        1e4 * _example(num_classes, device, 6).logits.sign()
    )  # row 0; then: right, wrong, all high, all low, at random
    logits[1:5] = 1e4 * torch.stack(
        [2 * true[1] - 1, 1 - 2 * true[2], torch.ones_like(true[3]), -torch.ones_like(true[4])]
    )
    soft = 0.9 * true + 0.1 / num_classes
    for dtype in (torch.float32, torch.bfloat16):
        for targets in (labels, true, soft):
            leaf = logits.to(dtype, copy=True).requires_grad_()
            where = f"logits {_short(leaf)} of +-1e4, targets {_short(targets)}, bfloat16 autocast"
            with torch.autocast(device.type, dtype=torch.bfloat16):
                value = _loss(report, loss, leaf, targets, "finite", " of +-1e4, bfloat16 autocast")
            gradient = report.run("finite", where, lambda v=value, z=leaf: torch.autograd.grad(v.sum(), z)[0])
            for name, tensor in (("loss", value), ("gradient", gradient)):
                if not bool(torch.isfinite(tensor).all()):
                    bad = tensor.detach()[~torch.isfinite(tensor)][0]
                    raise report.broken("finite", f"{where}: the {name} has {float(bad)}")


def _check_conversion(report: _Report, loss: nn.Module, num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device)
    expected = _loss(report, loss, example.logits, example.labels)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.bfloat16, 5e-2)):
        where = f" after `.to({dtype})`"
        moved = report.run("to(dtype)", f"`loss.to({dtype})`", copy.deepcopy(loss).to, dtype)
        for targets in (example.labels, example.one_hot):
            value = _loss(report, moved, example.logits, targets, "to(dtype)", where)
            if not _close(value, expected, tolerance):
                raise report.broken("to(dtype)", f"{_values(value)}{where}, but {_values(expected)} before")


def _check_logit_gradient(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device, size=3, seed=1)
    for targets in (example.labels, example.soft.double()):
        logits = example.logits.double().requires_grad_()
        where = f"logits {_short(logits)}, targets {_short(targets)}"
        value = _loss(report, loss, logits, targets)
        if value.dtype != torch.float64:
            raise report.broken("gradient", f"{where}: returned {value.dtype}")

        def function(z: Tensor, targets: Tensor = targets) -> Tensor:
            return _loss(report, loss, z, targets)

        # With many classes a random projection of the Jacobian is compared, not all of it.
        report.run(
            "gradient",
            where,
            lambda f=function, z=logits: torch.autograd.gradcheck(
                f, (z,), fast_mode=num_classes > 16, atol=1e-5, rtol=1e-3
            ),
        )


def _check_wrong_classes(report: _Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    for wrong in sorted({1, num_classes - 1, num_classes + 1}):
        example = _example(wrong, device)
        for targets in (example.labels, example.one_hot):
            where = f"logits {_short(example.logits)}, targets {_short(targets)}, for {num_classes} classes"
            try:
                loss(example.logits, targets)
            except ValueError as error:
                if str(num_classes) not in str(error):
                    raise report.broken(
                        "wrong number of classes", f"{where}: the message does not say {num_classes}: {error}"
                    ) from error
            except Exception as error:
                raise report.broken("wrong number of classes", f"{where}: {_told(error)}") from error
            else:
                raise report.broken("wrong number of classes", f"{where}: no error")
        logits = _example(num_classes, device).logits
        try:
            loss(logits, example.one_hot)
        except Exception:  # any refusal will do
            continue
        raise report.broken(
            "wrong number of classes", f"logits {_short(logits)}, targets {_short(example.one_hot)}: no error"
        )


# --- what they share --------------------------------------------------------------------------------------------------


def _check_arguments(subject: Any, name: str, num_classes: int) -> None:
    if isinstance(subject, type):
        raise TypeError(
            f"`{name}` must be an instance, but is the class {subject.__name__}. Pass `{subject.__name__}(...)`."
        )
    if not callable(subject):
        raise TypeError(f"`{name}` must be callable, but is {_kind(subject)}.")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, or there is nothing to tell apart, but is {num_classes}.")


def _between(value: Tensor, x: Tensor, y: Tensor, slack: Tensor | float) -> Tensor:
    return (value >= torch.minimum(x, y) - slack) & (value <= torch.maximum(x, y) + slack)


def _tolerance(dtype: torch.dtype) -> float:
    return 8.0 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and torch.allclose(
        a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=False
    )


def _name(subject: Any) -> str:
    while isinstance(subject, functools.partial):
        subject = subject.func
    return str(getattr(subject, "__name__", type(subject).__name__))


def _kind(value: Any) -> str:
    return _short(value) if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"raised {type(error).__name__}: {lines[0]}"


def _short(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _values(tensor: Tensor) -> str:
    values = [f"{float(value):.4g}" for value in tensor.detach().reshape(-1)[:8]]
    return values[0] if tensor.ndim == 0 else f"[{', '.join(values)}{', ...' if tensor.numel() > 8 else ''}]"


def _seed_torch(seed: int, device: torch.device) -> None:
    # `torch.manual_seed` would also seed accelerators that the check does not run on, and nobody would restore them.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def _forked_torch(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators as they were."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
    else:
        devices = range(torch.get_device_module(device).device_count())
        with torch.random.fork_rng(devices, device_type=device.type):
            yield


def _generator_states() -> dict[str, Any]:
    """The three global generators, as values that compare."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global one is what is watched
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "random": random.getstate(),
    }


def _seed_globals(seed: int) -> None:
    _seed_torch(seed, torch.device("cpu"))
    np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002 - the global one is what is watched
    random.seed(seed)


@contextmanager
def _restored_generators() -> Iterator[None]:
    numpy_state, random_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is what is watched
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(random_state)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
