"""Contract of the mixers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ltaug.priors import has_float64, on_wide_device
from ltaug.testing._base import (
    Report,
    Rule,
    check_arguments,
    doubled,
    forked_torch,
    form_of,
    kind_of,
    seed_torch,
    tolerance_of,
    values_of,
)

__all__ = ["MIXER_RULES", "check_mixer"]

Mixing = Literal["linear", "between", "free"]


SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (2, 5), (3, 4, 5), (2, 3, 4, 5))
"""Shapes of one sample that :func:`check_mixer` tries: with the batch in front, inputs of 1 to 5 dimensions."""


MIXER_RULES = {
    "any batch": Rule(
        "a mixer takes inputs of any rank, batches of any size from 1, with and without partners, index and dense "
        "targets",
        "give the weights one dimension a dimension of the inputs, `lam.view(-1, *[1] * (inputs.ndim - 1))`, and "
        "take the partner from the arguments or a `torch.randperm`; if only some sample shapes make sense, name "
        "them with `shapes=`",
    ),
    "two tensors": Rule(
        "`mixer(...)` returns (inputs, targets): inputs shaped as they came, targets floating point [N, C]",
        "return `mixed, dense` with `dense` as wide as `num_classes`; `torch.nn.functional.one_hot(targets, "
        "num_classes).float()` makes class indices dense",
    ),
    "type and device": Rule(
        "mixed inputs have the dtype and device of the inputs, targets are on the device of the targets",
        "convert the weights, not the inputs: `lam.to(inputs.dtype)`; create tensors with `device=inputs.device`",
    ),
    "out of place": Rule(
        "inputs, targets and partners are not changed",
        "write to new tensors: `inputs * lam + ...` or `torch.lerp`, not `inputs.mul_(lam)` or `inputs[:, a:b] = "
        "...`; `clone()` first where a region is pasted",
    ),
    "new memory": Rule(
        "what comes out shares no memory with what went in, so that a later in-place operation cannot reach the data",
        "return `inputs.clone()` where nothing is mixed",
    ),
    "probabilities": Rule(
        "every row of the targets is not negative and sums to 1",
        "weight the two labels with `lam` and `1 - lam`, lam in [0, 1]; add (not overwrite) where both labels are "
        "the same class",
    ),
    "labels of the pair": Rule(
        "a row of the targets lies between the targets of the sample and of its partner: no other class gets any mass",
        "mix `targets` and `partner_targets` and nothing else; when partners are given, use them and not a "
        "permutation; smooth labels in the loss, not in the mixer",
    ),
    "inputs of the pair": Rule(
        "every element of a mixed input lies between the elements of the sample and of its partner",
        "keep the weights in [0, 1], and use the partners when they are given; if leaving the range is meant "
        '(between-class learning), pass `mixing="free"`',
    ),
    "linear": Rule(
        "a mixed input is lam * x + (1 - lam) * partner, with one lam for all elements of a sample",
        'draw one weight a sample; a mixer that pastes regions (CutMix) is checked with `mixing="between"`',
    ),
    "same partner": Rule(
        "inputs and targets are mixed with the same partner",
        "draw the permutation once and index both `inputs` and `targets` with it",
    ),
    "same weight": Rule(
        "the label of a sample weighs as much as its share in the mixed input",
        "use one `lam` for both, and after clipping a region compute `lam` from the region that is really pasted; "
        "if the difference is meant (ReMix, between-class learning), pass `shared_weight=False`",
    ),
    "index and one-hot agree": Rule(
        "class indices and the same classes as one-hot rows give the same result under the same seed",
        "turn indices into dense targets first and go one way from there; draw the same numbers in the same order "
        "for both forms",
    ),
    "same seed, same result": Rule(
        "after the same `torch.manual_seed` the mixer does the same again",
        "draw from torch's global generator (`torch.rand`, `torch.randperm`), not from numpy, `random` or a "
        "generator that runs on",
    ),
    "torch's global generator": Rule(
        "different seeds of torch give different batches, or all ranks of a run would mix alike",
        "do not seed inside the mixer, and own no generator: draw with `torch.rand`, `torch.randperm`",
    ),
    "gradient": Rule(
        "a gradient flows from the mixed inputs to the inputs and the partners (adversarial and manifold mixing "
        "need it)",
        "no `torch.no_grad()`, `detach()` or `.data` around the inputs, and no in-place writing to them",
    ),
}
"""Rules of :func:`check_mixer`: what is expected, and what usually fixes it."""


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
    check_arguments(mixer, "mixer", num_classes)
    if mixing not in get_args(Mixing):
        raise ValueError(f"`mixing` must be one of {', '.join(map(repr, get_args(Mixing)))}, but is {mixing!r}.")
    if not shapes:
        raise ValueError("`shapes` must name at least one shape of a sample, such as (3, 32, 32), but is empty.")
    report = Report(mixer, MIXER_RULES)
    device = torch.device(device)
    with forked_torch(device):
        for shape in shapes:
            for size in (7, 1):
                for partners in (False, True):
                    for dtype in (torch.float32, torch.float64, torch.bfloat16):
                        if dtype == torch.float64 and not has_float64(device):
                            continue
                        batches = [_batch(shape, size, num_classes, dtype, form, partners, device) for form in _FORMS]
                        results = []
                        for batch in batches:
                            seed_torch(0, device)
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
        return f"inputs {form_of(self.inputs)}, {self.form} targets, {partners}"


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
        inputs = torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
        labels = ((torch.arange(size) + first_class) % num_classes).to(device)
        dense = F.one_hot(labels, num_classes).to(torch.float32)
        if form == "soft":
            other = F.one_hot((labels + 1) % num_classes, num_classes).to(torch.float32)
            dense = 0.75 * dense + 0.25 * other
        return inputs, labels if form == "index" else dense.clone(), dense

    first, second = stream(0), stream(1)  # a sample and its partner never have the same label
    return _Batch(*first, *second, form) if partners else _Batch(*first, None, None, None, form)


def _mix(report: Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix one batch and check everything that does not depend on who was mixed with whom."""
    given = batch.arguments()
    before = {name: tensor.clone() for name, tensor in given.items()}
    result = report.run("any batch", str(batch), lambda: mixer(*given.values()))
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(part, Tensor) for part in result)):
        raise report.broken("two tensors", f"{batch}: returned {kind_of(result)}")
    mixed, targets = result
    for name, tensor in given.items():
        if not torch.equal(tensor, before[name]):
            raise report.broken("out of place", f"{batch}: `{name}` changed during the call")
    if mixed.shape != batch.inputs.shape:
        raise report.broken("any batch", f"{batch}: returned inputs of shape {list(mixed.shape)}")
    if targets.shape != (len(batch.inputs), num_classes) or not targets.is_floating_point():
        raise report.broken("two tensors", f"{batch}: returned targets {form_of(targets)}")
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
    total = doubled(targets).sum(1)
    off = (total - 1.0).abs().max()
    if (
        not bool(torch.isfinite(targets).all())
        or float(targets.min()) < 0.0
        or float(off) > tolerance_of(targets.dtype)
    ):
        row = int(((total - 1.0).abs().nan_to_num(nan=torch.inf) + doubled(targets.amin(1) < 0)).argmax())
        raise report.broken(
            "probabilities", f"{batch}: row {row} is {values_of(targets[row])}, with the sum {float(total[row]):.6g}"
        )
    return mixed, targets


def _check_pairs(report: Report, batch: _Batch, mixed: Tensor, targets: Tensor, mixing: Mixing) -> None:
    """Check that each result is made of its own sample and one partner: the given one, or some sample of the batch."""
    size = len(mixed)
    if batch.partner_inputs is None or batch.partner_dense is None:
        candidates = torch.arange(size).expand(size, size)
        partner_inputs, partner_dense = batch.inputs, batch.dense
        whose = "any sample of the batch as partner"
    else:
        candidates = torch.arange(size).unsqueeze(1)
        partner_inputs, partner_dense = batch.partner_inputs, batch.partner_dense
        whose = "the given partner"

    # Everything is [N, candidates, elements] from here on.
    candidates = candidates.to(on_wide_device(mixed).device)
    x, y = doubled(batch.dense).unsqueeze(1), doubled(partner_dense)[candidates]
    allowed = _between(doubled(targets).unsqueeze(1), x, y, tolerance_of(targets.dtype)).all(2)
    if not bool(allowed.any(1).all()):
        row = int((~allowed.any(1)).nonzero()[0])
        raise report.broken(
            "labels of the pair",
            f"{batch}: row {row} of the targets is {values_of(targets[row])}, which no mixture of its own target "
            f"{values_of(batch.dense[row])} with that of {whose} gives",
        )
    if mixing == "free":
        return
    m = doubled(mixed).reshape(size, 1, -1)
    x, y = doubled(batch.inputs).reshape(size, 1, -1), doubled(partner_inputs).reshape(size, -1)[candidates]
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
            raise report.broken("linear", f"{batch}: sample {row} is not such a combination of itself and {whose}")
    if not bool((inside & allowed).any(1).all()):
        row = int((~(inside & allowed).any(1)).nonzero()[0])
        raise report.broken("same partner", f"{batch}: the input of sample {row} has another partner than its target")


def _check_forms_agree(report: Report, batches: list[_Batch], results: list[tuple[Tensor, Tensor]]) -> None:
    by_form = dict(zip(_FORMS, results, strict=True))
    for name, index, dense in zip(("inputs", "targets"), by_form["index"], by_form["one-hot"], strict=True):
        off = float((doubled(index) - doubled(dense)).abs().max())
        if off > max(tolerance_of(index.dtype), tolerance_of(dense.dtype)):
            raise report.broken(
                "index and one-hot agree",
                f"{batches[0]}: with one-hot targets and the same seed, {name} differ by up to {off:.3g}",
            )


def _check_seeding(report: Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> None:
    def mixed_with(seed: int) -> tuple[Tensor, Tensor]:
        seed_torch(seed, batch.inputs.device)
        return _mix(report, mixer, batch, num_classes)

    first = mixed_with(0)
    for _ in range(4):  # more than once, since what depends on a coin may agree by chance
        if not all(map(torch.equal, first, mixed_with(0))):
            raise report.broken("same seed, same result", f"{batch}: two calls after `torch.manual_seed(0)` differ")
    if batch.partner_inputs is None and all(all(map(torch.equal, first, mixed_with(seed))) for seed in range(1, 9)):
        raise report.broken("torch's global generator", f"{batch}: nine seeds of torch give one and the same result")


def _check_input_gradient(report: Report, mixer: Callable[..., Any], batch: _Batch) -> None:
    given = batch.arguments()
    leaves = [tensor.clone().requires_grad_() for name, tensor in given.items() if name.endswith("inputs")]
    # Times one: inputs that come out of a network (manifold mixup) are not leaves of the graph.
    sources = iter([leaf * 1.0 for leaf in leaves])
    arguments = [next(sources) if name.endswith("inputs") else tensor for name, tensor in given.items()]
    seed_torch(0, batch.inputs.device)
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


def _check_shared_weight(report: Report, mixer: Callable[..., Any], batch: _Batch, num_classes: int) -> None:
    """Mix ones with zeros: the mean of a mixed input is then the sample's share, for any mixer."""
    inputs, partner_inputs = torch.ones_like(batch.inputs), torch.zeros_like(batch.inputs)
    batch = _Batch(
        inputs, batch.targets, batch.dense, partner_inputs, batch.partner_targets, batch.partner_dense, form=batch.form
    )
    for seed in range(5):
        seed_torch(seed, batch.inputs.device)
        mixed, targets = _mix(report, mixer, batch, num_classes)
        share, weight = doubled(mixed).reshape(len(mixed), -1).mean(1), doubled(targets * batch.dense).sum(1)
        row = int((share - weight).abs().argmax())
        if float((share - weight).abs()[row]) > 1e-4:
            raise report.broken(
                "same weight",
                f"{batch}: sample {row} makes up {float(share[row]):.4f} of its mixed input, but "
                f"{float(weight[row]):.4f} of its target",
            )


def _between(value: Tensor, x: Tensor, y: Tensor, slack: Tensor | float) -> Tensor:
    return (value >= torch.minimum(x, y) - slack) & (value <= torch.maximum(x, y) + slack)
