"""One reader of plain arguments: what a function's annotations promise is checked before it runs.

Numbers of classes, labels, logits and probabilities have readers of their own, :mod:`ltaug.priors`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "as_number",
    "as_whole",
    "check_dense",
    "check_labels",
    "check_rows",
    "check_same_length",
    "checked",
    "label_limits",
    "row_limits",
]

ROW_TOLERANCE = 1e-2
"""How far the sum of a row of probabilities may be from 1: rows that have been through bfloat16 are off by 4e-3."""

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[Any, str], bool | None]
"""Raises an error, or says whether a number is endless."""


def as_number(value: Any, name: str, advice: str = "") -> float:
    """Convert to float; raise ValueError for non-numbers, strings and flags included."""
    try:
        number = None if _no_value(value) else float(0.0 + value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = None
    if number is None:
        raise ValueError(f"`{name}` must be one number, but is {shown(value)}. {advice}".rstrip())
    return number


def as_whole(value: Any, name: str, least: int | None = None, advice: str = "") -> int:
    """Convert to int; raise ValueError for non-integers, flags included, for more than 64 bits, and below ``least``."""
    try:
        number = None if _no_value(value) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or abs(number) >= 2**63:
        way = f" Pass {int(value)}." if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else ""
        raise ValueError(f"`{name}` must be one whole number, but is {shown(value)}.{way}")
    if least is not None and number < least:
        raise ValueError(f"`{name}` must be at least {least}, but is {number}. {advice}".rstrip())
    return number


def check_dense(tensor: Tensor, name: str) -> None:
    """Raise ValueError for tensors that are sparse, nested or complex, which nothing here computes with."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(
            f"`{name}` must be a dense tensor, but has the layout {tensor.layout}. Pass `{name}.to_dense()`."
        )
    if tensor.is_complex():
        raise ValueError(f"`{name}` must be real numbers, but are {tensor.dtype}. Pass their real part or modulus.")


def check_same_length(**vectors: Tensor) -> None:
    """Raise ValueError unless all are one number a sample, [N], so that none is broadcast against another."""
    shapes, kinds = [vector.shape for vector in vectors.values()], [vector.dtype for vector in vectors.values()]
    if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes) or torch.bool in kinds:
        listed = ", ".join(f"`{name}` {vector.dtype} {list(vector.shape)}" for name, vector in vectors.items())
        raise ValueError(f"All of them must hold one number a sample, [N], but are {listed}.")


def row_limits(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the smallest and the largest sum of the rows of probabilities [N, C, ...], and the smallest entry."""
    targets = targets.detach()
    smallest, largest = targets.sum(1).aminmax()
    return smallest, largest, targets.amin()


def check_rows(*limits: Tensor, name: str = "targets") -> None:
    """Raise ValueError if the rows of targets do not sum to 1, or hold negative entries: they are no probabilities."""
    *sums, lowest = values_of(*limits) or (1.0, 0.0)
    for total in sums:
        if not abs(total - 1.0) <= ROW_TOLERANCE:
            raise ValueError(
                f"`{name}` must be class indices, or probabilities that sum to 1 over the classes, but a row sums to "
                f"{total:.4g}. For samples with several labels (multi-hot rows) use `PriorCorrectedBCELoss` or "
                "`torch.nn.BCEWithLogitsLoss`, since a softmax makes classes exclude each other, and a mixer with "
                '`multi_label="union"`.'
            )
    if lowest < -ROW_TOLERANCE:
        raise ValueError(
            f"`{name}` must be class indices, or probabilities, but an entry is {lowest:.4g}. Mix and smooth labels "
            "with weights in 0..1."
        )


def label_limits(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the smallest and the largest entry of the targets of labels that do not exclude each other."""
    lowest, highest = targets.detach().aminmax()
    return lowest, highest


def check_labels(*limits: Tensor, name: str = "targets") -> None:
    """Raise ValueError if targets of labels that do not exclude each other leave 0..1."""
    for value in values_of(*limits):
        if not -ROW_TOLERANCE <= value <= 1.0 + ROW_TOLERANCE:
            raise ValueError(
                f"`{name}` must be 0, 1 or between them for each label, but an entry is {value:.4g}. Class indices "
                "become rows by `torch.nn.functional.one_hot`, lists of labels by `ltaug.multi_hot`; entries without "
                "a known label, such as -1, are left out by the `ignore_index` of a loss."
            )


def values_of(*scalars: Tensor) -> list[float]:
    """Read scalars that are on the CPU; none where they have no values: compiled, or under `torch.func.vmap`."""
    if torch.compiler.is_compiling():
        return []
    try:
        return [scalar.item() for scalar in scalars]
    except RuntimeError:
        return []


def checked(function: Callable[P, R], explain: Callable[[dict[str, Any]], None] | None = None) -> Callable[P, R]:
    """Check the arguments of a function by their annotations before it is called: their kind, not their range.

    A number must be one and finite, a whole number whole, a flag true or false, a text a text, a tensor a dense one.
    So a text for a number never gets as far as an operator that cannot say which argument it is. NaN and infinity are
    the function's to refuse, which knows more of its range; if it does not, they are refused after it. An error of
    torch that tensors without values or on several devices have caused is explained, and what ``explain`` finds in the
    arguments. Compiled code has no checks.
    """
    kinds = function.__annotations__
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    checks = {name: CHECKS[kinds[name]] for name in names if kinds.get(name) in CHECKS}
    by_place = [(name, checks.get(name)) for name in names[: code.co_argcount]]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        endless = None
        for (name, check), value in zip(by_place, args, strict=False):
            if check is not None and check(value, name):
                endless = name, value
        for name, value in kwargs.items():
            if name in checks and checks[name](value, name):
                endless = name, value
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            if endless is not None and "`" not in str(error):
                raise ValueError("`{}` must be finite, but is {}.".format(*endless)) from error
            if isinstance(error, IndexError | RuntimeError | TypeError):
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                _explain(error, given)
                if explain is not None:
                    explain(given)
            raise
        if endless is not None:
            raise ValueError("`{}` must be finite, but is {}.".format(*endless))
        return result

    return call


def _no_value(value: Any) -> bool:
    """Whether something that would pass for a number is none: flags, endless integers, tensors without values."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return True  # torch has no such integers
    return isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and (value.is_meta or value.is_sparse))


def shown(value: Any) -> str:
    """Show a value in a message: short ones as they are, others by type and shape."""
    text = (
        repr(value) if isinstance(value, bool | int | float | complex | str | None | np.generic | list | tuple) else ""
    )
    if 0 < len(text) <= 60:
        return text
    shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"of type {type(value).__name__}{shape}"


def _explain(error: Exception, given: dict[str, Any]) -> None:
    """Raise ValueError if tensors that are complex, without values, or on several devices, have made torch fail."""
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        check_dense(tensor, name)
    devices = {str(tensor.device) for tensor in tensors.values()}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(
                f"`{name}` must have values, but is on the meta device. Pass a tensor made on the CPU."
            ) from error
    if len(devices) > 1:
        listed = ", ".join(f"`{name}` on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"All tensors must be on one device, but {listed}. Move them with `.to(device)`.") from error


def _number(value: Any, name: str) -> bool:
    """Whether a number is NaN or infinite."""
    if type(value) is float:
        return not math.isfinite(value)
    return not math.isfinite(as_number(value, name))


def _whole(value: Any, name: str) -> None:
    if type(value) is not int or abs(value) >= 2**63:
        value = as_whole(value, name)
    if name == "seed" and value < 0:
        raise ValueError(f"`seed` must not be negative, but is {value}.")


def _flag(value: Any, name: str) -> None:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, but is {shown(value)}.")


def _text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a text, but is {shown(value)}.")


def check_tensor(value: Any, name: str) -> None:
    """Raise TypeError for what is no tensor, such as lists, arrays, and the tuples of some networks."""
    if not isinstance(value, Tensor):
        whole = isinstance(value, int | float | list | np.ndarray | np.generic)
        way = "Convert it with `torch.as_tensor`." if whole else "Take the tensor from it."
        raise TypeError(f"`{name}` must be a tensor, but is a {type(value).__name__}. {way}")
    if value.layout is not torch.strided or value.is_complex():
        check_dense(value, name)


def _device(value: Any, name: str) -> None:
    try:
        if value is None:
            raise TypeError("no device")
        torch.empty(0, device=value)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"`{name}` must be a device of this machine such as 'cpu' or 'cuda:0', but is {shown(value)}."
        ) from error


def _instance(kind: type, what: str) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"`{name}` must be {what}, but is {shown(value)}.")

    return check


def _sized(what: str, *methods: str) -> Check:
    def check(value: Any, name: str) -> None:
        if isinstance(value, str | bytes | type) or not all(hasattr(value, method) for method in methods):
            raise ValueError(f"`{name}` must be {what}, but is {shown(value)}.")

    return check


def _callable(value: Any, name: str) -> None:
    if not callable(value):
        raise ValueError(f"`{name}` must be a function or another callable, but is {shown(value)}.")


def _each(check: Check, what: str) -> Check:
    def check_all(values: Any, name: str) -> None:
        try:
            entries = None if isinstance(values, str) else list(values)
        except TypeError:
            entries = None
        if entries is None:
            raise ValueError(f"`{name}` must be a list of {what}, but is {shown(values)}.")
        for place, value in enumerate(entries):
            if check(value, f"{name}[{place}]"):
                raise ValueError(f"`{name}` must be finite, but holds {value} at place {place}.")

    return check_all


def _optional(check: Check) -> Check:
    def check_some(value: Any, name: str) -> bool | None:
        return None if value is None else check(value, name)

    return check_some


_KINDS: dict[str, Check] = {
    "float": _number,
    "int": _whole,
    "bool": _flag,
    "str": _text,
    "Level": _text,
    "Tensor": check_tensor,
    "torch.device | str": _device,
    "nn.Module": _instance(nn.Module, "a `torch.nn.Module`"),
    "Sampler[int]": _sized("a sampler with a length", "__iter__", "__len__"),
    "Sampler[int] | PairSampler": _sized("a sampler with a length", "__iter__", "__len__"),
    "Dataset[Any]": _sized("a data set, `dataset[k]` a sample", "__getitem__"),
    "Dataset[T]": _sized("a data set, `dataset[k]` a sample", "__getitem__"),
    "Callable[[float], float]": _callable,
    "list[int]": _each(_whole, "whole numbers"),
    "tuple[int, ...]": _each(_whole, "whole numbers"),
    "Sequence[float]": _each(_number, "numbers"),
    "Sequence[str]": _each(_text, "texts"),
}
CHECKS = _KINDS | {f"{kind} | None": _optional(check) for kind, check in _KINDS.items()}
"""By annotation. What is not here is left to the function, which has a reader for it."""
