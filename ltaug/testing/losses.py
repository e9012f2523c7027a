"""Contract of the losses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.priors import has_float64
from ltaug.testing._base import Report, Rule, check_arguments, close, error_line, form_of, kind_of, values_of

__all__ = ["LOSS_RULES", "check_loss"]

LOSS_RULES = {
    "copy": Rule(
        "`copy.deepcopy(loss)` works, as does moving the loss with `.to()`",
        "compute statistics in `__init__` from data without gradient, and keep them in buffers",
    ),
    "any targets": Rule(
        "`loss(logits, targets)` takes logits [N, C] with targets int [N] and float [N, C], and batches of any size "
        "from 1",
        "distinguish the two forms by `targets.is_floating_point()`",
    ),
    "scalar": Rule(
        'a loss returns one floating-point tensor: a scalar, or one number a sample for `reduction="none"`',
        "reduce over all samples, and return a tensor rather than a Python number, which has no gradient",
    ),
    "inputs untouched": Rule(
        "logits and targets are not changed",
        "`logits + shift`, not `logits += shift`; `clone()` before writing margins to the true class",
    ),
    "index and one-hot agree": Rule(
        "class indices and the same classes as one-hot rows give the same loss and the same gradient",
        "write the dense form as sum_c t_c * loss(c) with the weights and the mean of the index form; note that "
        "`torch.nn.CrossEntropyLoss(weight=...)` itself averages the two forms differently",
    ),
    "soft targets": Rule(
        "probabilities t give sum_c t_c * loss(c), which is what makes any mixer go with any loss",
        "mix losses and not margins or weights; a loss without such a form is checked with `linear_targets=False`",
    ),
    "reduction": Rule(
        '"none" gives one loss a target, "sum" is their sum and "mean" their plain mean',
        "read `self.reduction` in `forward`; a mean that divides by the sum of class weights is checked with "
        "`plain_mean=False`",
    ),
    "dense prediction": Rule(
        "logits [N, C, d1, ...] give what the same predictions as rows [N * d1 * ..., C] give",
        "classes are on dim 1: `log_softmax(1)`, and statistics viewed as `[1, C, 1, ...]`; if the loss is for [N, "
        "C] alone, pass `dense_prediction=False`",
    ),
    "finite": Rule(
        "loss and gradient are finite under bfloat16 autocast, for logits up to 1e4",
        "`log_softmax` and `logsumexp`, no `softmax().log()`, no `exp` of a raw logit, no 0 * inf",
    ),
    "float32 inside": Rule(
        "under autocast the loss is computed and returned in float32, also for logits that come in bfloat16",
        "`with torch.autocast(logits.device.type, enabled=False):` around the formula, and first `logits = "
        "logits.to(torch.promote_types(logits.dtype, torch.float32))`",
    ),
    "statistics in buffers": Rule(
        "tensors of a loss are parameters or buffers, so that `.to()` moves them",
        '`self.register_buffer("log_prior", log_prior, persistent=False)`',
    ),
    "no statistics in checkpoints": Rule(
        "`state_dict()` holds nothing but parameters: a checkpoint must load where the data set is another one",
        "`register_buffer(..., persistent=False)`",
    ),
    "to(dtype)": Rule(
        "a loss works, with nearly the same value, after `.to(torch.float64)` and `.to(torch.bfloat16)`",
        "convert the buffers to the type of the logits inside `forward`: `self.log_prior.to(logits.dtype)`",
    ),
    "gradient": Rule(
        "float64 logits give a float64 loss, whose gradient is that of finite differences",
        "no `detach()` or `.item()` on the way, and cast up only: `logits.to(torch.promote_types(logits.dtype, "
        "torch.float32))`; a loss that stops a gradient on purpose is checked with `exact_gradient=False`",
    ),
    "wrong number of classes": Rule(
        "logits of another number of classes raise a ValueError that states the right number, dense targets any error",
        "compare `logits.shape[1]` with the statistics before adding them: one column broadcasts silently; a loss "
        "that works for any number of classes is checked with `fixed_classes=False`",
    ),
}
"""Rules of :func:`check_loss`: what is expected, and what usually fixes it."""


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
        fixed_classes: the loss has a number of classes and must refuse others; ``False`` for a loss without one.
        exact_gradient: the gradient is that of the value; ``False`` for a loss that detaches a factor on purpose.
        device: where to run.

    Raises:
        ContractError: a rule is broken.

    >>> from ltaug.losses import PriorCorrectedLoss
    >>> check_loss(PriorCorrectedLoss(class_counts=[900, 90, 10]), num_classes=3)
    """
    check_arguments(loss, "loss", num_classes)
    report = Report(loss, LOSS_RULES)
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
    if fixed_classes:
        _check_wrong_classes(report, loss, num_classes, device)
    if exact_gradient:
        if not has_float64(device):  # finite differences need it
            device = torch.device("cpu")
            loss = loss.to(device) if isinstance(loss, nn.Module) else loss
        _check_logit_gradient(report, loss, num_classes, device)


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
    report: Report,
    loss: Callable[..., Any],
    logits: Tensor,
    targets: Tensor,
    rule: str = "any targets",
    where: str = "",
) -> Tensor:
    """The loss of one batch, after checking that it is one and that the batch is as it was."""
    where = f"logits {form_of(logits)}, targets {form_of(targets)}{where}"
    before = logits.detach().clone(), targets.clone()
    value = report.run(rule, where, loss, logits, targets)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise report.broken("scalar", f"{where}: returned {kind_of(value)}")
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


def _check_state(report: Report, loss: nn.Module) -> None:
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


def _check_target_forms(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    for size in (5, 1):
        example = _example(num_classes, device, size)
        values, gradients = [], []
        for targets in (example.labels, example.one_hot, example.soft):
            _loss(report, loss, example.logits, targets)  # a write to a leaf would be reported as an error of autograd
            logits = example.logits.clone().requires_grad_()
            value = _loss(report, loss, logits, targets)
            where = f"logits {form_of(logits)}, targets {form_of(targets)}"
            if not value.requires_grad:
                raise report.broken("scalar", f"{where}: the loss has no gradient")
            values.append(value.detach())
            gradients.append(
                report.run("any targets", where, lambda v=value, z=logits: torch.autograd.grad(v.sum(), z)[0])
            )
        for name, found in (("values", values), ("gradients", gradients)):
            if not close(found[0], found[1]):
                raise report.broken(
                    "index and one-hot agree",
                    f"{size} samples: {name} are {values_of(found[0])} and {values_of(found[1])}",
                )


def _check_linear_targets(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device, size=3)
    # One sample at a time: not every loss has a reduction. Where there is one, a weighted mean would cancel a weight.
    loss = _reduced(report, loss, "none") if hasattr(loss, "reduction") else loss
    for row in range(3):
        logits, target = example.logits[row : row + 1], example.soft[row : row + 1]
        classes = target[0].nonzero()[:, 0]
        alone = [_loss(report, loss, logits, c.view(1)).reshape(()) for c in classes]
        expected = (target[0, classes] * torch.stack(alone)).sum()
        value = _loss(report, loss, logits, target).reshape(())
        if not close(value, expected):
            raise report.broken(
                "soft targets",
                f"target {values_of(target[0, classes])} on classes {classes.tolist()}: loss {values_of(value)}, but "
                f"the losses of these classes, {values_of(torch.stack(alone))}, give {values_of(expected)}",
            )


def _reduced(report: Report, loss: Callable[..., Any], reduction: str) -> Callable[..., Any]:
    """A copy of the loss with another reduction."""
    other = copy.deepcopy(loss)
    report.run("reduction", f"`loss.reduction = {reduction!r}`", setattr, other, "reduction", reduction)
    return other


def _check_reductions(
    report: Report, loss: Callable[..., Any], num_classes: int, plain_mean: bool, device: torch.device
) -> None:
    example = _example(num_classes, device)
    for targets in (example.labels, example.soft):
        each, total, mean = (
            _loss(report, _reduced(report, loss, name), example.logits, targets, "reduction", f", {name!r}")
            for name in ("none", "sum", "mean")
        )
        for name, value, expected in (("sum", total, each.sum()), ("mean", mean, each.mean())):
            if (name == "sum" or plain_mean) and not close(value, expected):
                raise report.broken(
                    "reduction",
                    f'targets {form_of(targets)}: "{name}" is {values_of(value)}, but that of "none" '
                    f"{values_of(expected)}",
                )


def _check_dense_prediction(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
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
            if not close(value.reshape(-1), expected.reshape(-1)):
                raise report.broken(
                    "dense prediction",
                    f"logits {form_of(example.logits)}, targets {form_of(targets)}: {values_of(value)}, but as rows "
                    f"{values_of(expected)}",
                )


def _check_precision(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device)
    for dtype in (torch.float32, torch.bfloat16):
        logits = example.logits.to(dtype)
        for targets in (example.labels, example.soft):
            where = f"logits {form_of(logits)}, targets {form_of(targets)}, bfloat16 autocast"
            expected = _loss(report, loss, logits.float(), targets)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                value = _loss(report, loss, logits, targets, "float32 inside", ", bfloat16 autocast")
            if value.dtype != torch.float32:
                raise report.broken("float32 inside", f"{where}: returned {value.dtype}")
            if not close(value, expected):
                raise report.broken(
                    "float32 inside", f"{where}: {values_of(value)}, but in float32 {values_of(expected)}"
                )


def _check_extremes(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
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
            where = f"logits {form_of(leaf)} of +-1e4, targets {form_of(targets)}, bfloat16 autocast"
            with torch.autocast(device.type, dtype=torch.bfloat16):
                value = _loss(report, loss, leaf, targets, "finite", " of +-1e4, bfloat16 autocast")
            gradient = report.run("finite", where, lambda v=value, z=leaf: torch.autograd.grad(v.sum(), z)[0])
            for name, tensor in (("loss", value), ("gradient", gradient)):
                if not bool(torch.isfinite(tensor).all()):
                    bad = tensor.detach()[~torch.isfinite(tensor)][0]
                    raise report.broken("finite", f"{where}: the {name} has {float(bad)}")


def _check_conversion(report: Report, loss: nn.Module, num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device)
    expected = _loss(report, loss, example.logits, example.labels)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.bfloat16, 5e-2)):
        if dtype == torch.float64 and not has_float64(device):
            continue
        where = f" after `.to({dtype})`"
        moved = report.run("to(dtype)", f"`loss.to({dtype})`", copy.deepcopy(loss).to, dtype)
        for targets in (example.labels, example.one_hot):
            value = _loss(report, moved, example.logits, targets, "to(dtype)", where)
            if not close(value, expected, tolerance):
                raise report.broken("to(dtype)", f"{values_of(value)}{where}, but {values_of(expected)} before")


def _check_logit_gradient(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    example = _example(num_classes, device, size=3, seed=1)
    for targets in (example.labels, example.soft.double()):
        logits = example.logits.double().requires_grad_()
        where = f"logits {form_of(logits)}, targets {form_of(targets)}"
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


def _check_wrong_classes(report: Report, loss: Callable[..., Any], num_classes: int, device: torch.device) -> None:
    for wrong in sorted({1, num_classes - 1, num_classes + 1}):
        example = _example(wrong, device)
        for targets in (example.labels, example.one_hot):
            where = f"logits {form_of(example.logits)}, targets {form_of(targets)}, for {num_classes} classes"
            try:
                loss(example.logits, targets)
            except ValueError as error:
                if str(num_classes) not in str(error):
                    raise report.broken(
                        "wrong number of classes", f"{where}: the message does not state {num_classes}: {error}"
                    ) from error
            except Exception as error:
                raise report.broken("wrong number of classes", f"{where}: {error_line(error)}") from error
            else:
                raise report.broken("wrong number of classes", f"{where}: no error")
        logits = _example(num_classes, device).logits
        try:
            loss(logits, example.one_hot)
        except Exception:  # any refusal will do
            continue
        raise report.broken(
            "wrong number of classes", f"logits {form_of(logits)}, targets {form_of(example.one_hot)}: no error"
        )
