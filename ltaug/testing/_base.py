"""The error of a broken rule, and what the checks share: reports, comparisons, guarded random generators."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltaug.priors import on_wide_device


class ContractError(AssertionError):
    """Error of a class that breaks a rule of its contract.

    Args:
        subject: the name of the class.
        rule: the rule, in a few words.
        seen: what happened, and on what.
        expected: what should have happened.
        fix: what usually fixes it.
    """

    __module__ = "ltaug.testing"  # tracebacks and pickles show the public name

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


class Rule(NamedTuple):
    """A rule of a contract.

    Attributes:
        expected: what a class that keeps it does.
        fix: what usually fixes one that does not.
    """

    expected: str
    fix: str


class Report:
    """Name of what is checked, and the rules of its contract; turns what was seen into an error."""

    def __init__(self, subject: Any, rules: dict[str, Rule]) -> None:
        self.subject = name_of(subject)
        self.rules = rules

    def broken(self, rule: str, seen: str) -> ContractError:
        """Make the error of a broken rule."""
        return ContractError(self.subject, rule, seen, *self.rules[rule])

    def run(self, rule: str, where: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)``; an exception breaks the rule."""
        try:
            return function(*args)
        except ContractError:
            raise
        except Exception as error:
            raise self.broken(rule, f"{where}: {error_line(error)}") from error


def check_arguments(subject: Any, name: str, num_classes: int) -> None:
    """Refuse to check a class instead of an instance, or with fewer than two classes."""
    if isinstance(subject, type):
        raise TypeError(
            f"`{name}` must be an instance, but is the class {subject.__name__}. Pass `{subject.__name__}(...)`."
        )
    if not callable(subject):
        raise TypeError(f"`{name}` must be callable, but is {kind_of(subject)}.")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, or there is nothing to distinguish, but is {num_classes}.")


def tolerance_of(dtype: torch.dtype) -> float:
    """Absolute error that rounding may cause in numbers of about 1."""
    return 8.0 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors have one shape and nearly the same values; NaN equals nothing."""
    return a.shape == b.shape and torch.allclose(
        doubled(a), doubled(b), rtol=tolerance, atol=tolerance, equal_nan=False
    )


def doubled(tensor: Tensor) -> Tensor:
    """Convert to float64, on the CPU where the tensor's device has no such type."""
    return on_wide_device(tensor).double()


def name_of(subject: Any) -> str:
    """Name of a function or class, or of an object's class."""
    while isinstance(subject, functools.partial):
        subject = subject.func
    return str(getattr(subject, "__name__", type(subject).__name__))


def kind_of(value: Any) -> str:
    """Description of a value of any type, for a message."""
    return form_of(value) if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"


def error_line(error: Exception) -> str:
    """Description of an exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"raised {type(error).__name__}: {lines[0]}"


def form_of(tensor: Tensor) -> str:
    """Type and shape of a tensor."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def values_of(tensor: Tensor) -> str:
    """The first values of a tensor."""
    values = [f"{float(value):.4g}" for value in tensor.detach().reshape(-1)[:8]]
    return values[0] if tensor.ndim == 0 else f"[{', '.join(values)}{', ...' if tensor.numel() > 8 else ''}]"


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generator of a device."""
    # `torch.manual_seed` would also seed accelerators that the check does not run on, and nobody would restore them.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def forked_torch(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators in the end."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
    elif device.type == "mps":  # whose generator has no number, which `fork_rng` would ask for
        state = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            torch.mps.set_rng_state(state)
    else:
        devices = range(torch.get_device_module(device).device_count())
        with torch.random.fork_rng(devices, device_type=device.type):
            yield


def generator_states() -> dict[str, Any]:
    """States of the three global generators, as values that can be compared."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global one is what is watched
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "random": random.getstate(),
    }


def seed_globals(seed: int) -> None:
    """Seed the three global generators."""
    seed_torch(seed, torch.device("cpu"))
    np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002 - the global one is what is watched
    random.seed(seed)


@contextmanager
def restored_generators() -> Iterator[None]:
    """Restore the three global generators in the end."""
    numpy_state, random_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is what is watched
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(random_state)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while."""
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
