"""Arguments spoilt one at a time: refused by name, never in silence; `python -m benchmarks.fuzz` tries all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is part of the tree, not of the package

from benchmarks import fuzz
from ltaug import MixUp, effective_prior
from ltaug._arguments import checked
from ltaug.metrics import confusion_matrix

QUICK = [case for case in fuzz.cases() if case.size]


def test_spoilt_arguments_are_refused_by_name():
    outcomes = fuzz.run(QUICK, most=40)
    assert len(outcomes) >= 300
    assert [each for each in outcomes if each.kind in ("raw", "silent")] == []
    assert fuzz.report(outcomes)[1]


@pytest.mark.parametrize("name", fuzz.silent_kinds())
def test_what_was_silent_is_refused(name):
    with pytest.raises((TypeError, ValueError), match="`"):
        fuzz.silent_kinds()[name]()


def planted(kind):
    """A callable with a fault: an error of Python's own, or none at all."""

    def scaled(factor: float) -> torch.Tensor:
        return torch.ones(2) * factor if kind == "silent" else torch.ones(2) * (0.0 + factor).real

    return fuzz.Case("scaled", scaled, {"factor": fuzz.within(2.0, 0.0)})


@pytest.mark.parametrize("kind", ["raw", "silent"])
def test_a_planted_fault_is_seen(kind):
    outcomes = fuzz.run([planted(kind)])
    assert any(each.kind == kind for each in outcomes)
    assert not fuzz.report(outcomes)[1]


def test_endless_numbers_are_refused_after_the_function_had_its_say():
    @checked
    def half(x: float, flag: bool = True) -> float:
        if x < 0:
            raise ValueError(f"`x` must not be negative, but is {x}.")
        return x / 2

    assert half(3) == 1.5
    with pytest.raises(ValueError, match="`x` must not be negative, but is -inf"):
        half(-fuzz.INF)
    with pytest.raises(ValueError, match="`x` must be finite, but is inf"):
        half(fuzz.INF)
    with pytest.raises(ValueError, match="`x` must be one number, but is '3'"):
        half("3")
    with pytest.raises(ValueError, match="`flag` must be True or False, but is 1"):
        half(3.0, flag=1)


def test_constant_weights_make_nothing_of_the_square_of_the_classes():
    classes = 100_000  # a table would take 80 GB
    prior = effective_prior(range(1, classes + 1), MixUp(classes), first_tau=1.0, partner_tau=0.0)
    counts = torch.arange(1, classes + 1).double()
    torch.testing.assert_close(prior, (counts / counts.sum() + 1 / classes) / 2)


def test_a_confusion_matrix_of_too_many_classes_says_so():
    with pytest.raises(ValueError, match=r"`num_classes`=100000 would make a matrix of 75 GiB.*per_class_accuracy"):
        confusion_matrix([0, 1], [0, 1], num_classes=100_000)
