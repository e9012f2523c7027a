"""Contract of the samplers."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltaug.priors import Counts, as_labels
from ltaug.testing._base import (
    Report,
    Rule,
    environment,
    form_of,
    generator_states,
    kind_of,
    name_of,
    restored_generators,
    seed_globals,
)

__all__ = ["SAMPLER_RULES", "check_sampler"]

SAMPLER_RULES = {
    "factory": Rule(
        "`make_sampler(labels, seed=...)` gives a sampler",
        "pass the class, or bind its other arguments: `functools.partial(MySampler, tau=0.5)`",
    ),
    "iterable with a length": Rule(
        "a sampler has `__iter__` and `__len__`, and yields as many indices as `len` says, at least one",
        "`__len__` returns what `__iter__` yields in one epoch, on all ranks together",
    ),
    "set_epoch": Rule(
        "a sampler has `set_epoch(epoch)`, which loops and accelerate call before every epoch",
        "`def set_epoch(self, epoch): self.epoch = epoch`, and let `__iter__` seed its generator from (seed, epoch)",
    ),
    "integers": Rule(
        "a sampler yields Python integers, a pair sampler tuples of two",
        "`yield from indices.tolist()`: a tensor or array that is iterated yields its own scalars",
    ),
    "in range": Rule(
        "every index lies in 0..N-1, N the number of labels",
        "draw positions in `labels`, not classes; look out for an empty class and for rounding up to N",
    ),
    "global generators untouched": Rule(
        "torch's, numpy's and random's global generators are in the same state after sampling as before",
        "own a generator, `np.random.default_rng((seed, epoch))`: what the mixers and augmentations draw must not "
        "depend on the sampler",
    ),
    "own generator": Rule(
        "the order does not depend on the global seeds, which differ between ranks",
        "take the seed from the constructor's argument, not from `torch.initial_seed()` or a global draw",
    ),
    "moves on": Rule(
        "each iteration draws the epoch after that of the last one, also where that was left half-way, unless "
        "`set_epoch` has chosen another: loops and frameworks that never call it must not repeat one order",
        "let `__iter__` begin with `epoch, self.epoch = self.epoch, self.epoch + 1`, and draw from `epoch`",
    ),
    "same (seed, epoch), same order": Rule(
        "two samplers with the same labels, seed and epoch give the same order: the ranks of a run each build their "
        "own",
        "draw from `np.random.default_rng((seed, epoch))` and nothing else",
    ),
    "resume": Rule(
        "the order of an epoch does not depend on the epochs before it, so that a resumed run continues where it was",
        "let `set_epoch` store the epoch and `__iter__` start a new generator from it; no generator that runs on",
    ),
    "epochs differ": Rule(
        "another epoch has another order",
        "use the epoch in the seed of the generator: `np.random.default_rng((seed, epoch))`",
    ),
    "seeds differ": Rule(
        "another seed gives another order",
        "use the seed in the seed of the generator: `np.random.default_rng((seed, epoch))`",
    ),
    "seed and epoch stay apart": Rule(
        "seed 0 in epoch 1 is not seed 1 in epoch 0, or repeats of a run with other seeds would be the same run, "
        "shifted",
        "a seed sequence, `np.random.default_rng((seed, epoch))`, not `seed + epoch`",
    ),
    "two streams": Rule(
        "the two indices of a pair are drawn independently",
        "give the second sampler another seed or stream; every sample is its own partner otherwise",
    ),
    "indices()": Rule(
        "`indices()`, where a sampler has it, is the epoch that was chosen as one tensor: int64 [len], or [len, 2] for "
        "pairs; it does not move on",
        "let `__iter__` go through `indices()`",
    ),
    "pickle": Rule(
        "a sampler survives pickle with its epoch, as worker processes and checkpoints need",
        "define the class at module level, and keep no iterator, lambda or open file in it",
    ),
    "classes without samples": Rule(
        "labels may leave classes out: these are never drawn and break nothing",
        "work on the classes that are present, `np.unique(labels, return_inverse=True)`; a count of 0 has no "
        "reciprocal or logarithm",
    ),
    "ranks": Rule(
        "two ranks that take turns in the batches of their own loader see together exactly one epoch",
        "yield the whole epoch on every rank, whatever `RANK` says: the launcher's library does the slicing",
    ),
}
"""Rules of :func:`check_sampler`: what is expected, and what usually fixes it."""


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
            f"{kind_of(make_sampler)}. Pass `lambda labels, seed: MySampler(labels, seed=seed)`."
        )
    report = Report(make_sampler, SAMPLER_RULES)
    table = _long_tail() if labels is None else as_labels(labels)

    def make(seed: int, epoch: int | None = None) -> Any:
        sampler = report.run(
            "factory", f"`make_sampler(labels, seed={seed})`", lambda: make_sampler(table.clone(), seed=seed)
        )
        if epoch is not None:
            report.run("set_epoch", f"`set_epoch({epoch})`", lambda: sampler.set_epoch(epoch))
        return sampler

    with restored_generators():
        before = generator_states()
        sampler = make(seed=0)
        report.subject = name_of(sampler)
        for name in ("__iter__", "__len__"):
            if not hasattr(sampler, name):
                raise report.broken("iterable with a length", f"no `{name}`")
        if not callable(getattr(sampler, "set_epoch", None)):
            raise report.broken("set_epoch", "no method `set_epoch`")
        report.run("set_epoch", "`set_epoch(0)`", lambda: sampler.set_epoch(0))
        whole = report.run("indices()", "`indices()`", sampler.indices) if hasattr(sampler, "indices") else None
        reference = _order(report, sampler, table)
        if whole is not None:
            _check_whole_epoch(report, torch.as_tensor(whole), reference)
        for name, state in generator_states().items():
            if state != before[name]:
                raise report.broken(
                    "global generators untouched", f"after one epoch, the global generator of {name} has moved on"
                )
        if _order(report, make(0, 0), table) != reference:
            raise report.broken("same (seed, epoch), same order", "seed 0, epoch 0: two instances differ")
        for seed in (1, 2):
            seed_globals(seed)
            if _order(report, make(0, 0), table) != reference:
                raise report.broken("own generator", "seed 0, epoch 0: the order changes with the global seeds")
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
        _check_moves_on(report, sampler, [_order(report, make(0, epoch), table) for epoch in (1, 3)], table)
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


def _order(report: Report, sampler: Any, labels: Tensor) -> list[Any]:
    """Indices of one epoch, after checking that they are one."""
    size = report.run("iterable with a length", "`len(sampler)`", lambda: len(sampler))
    # One more than `len` says is enough: some samplers never end.
    order: list[Any] = report.run(
        "iterable with a length", "`list(sampler)`", lambda: list(itertools.islice(sampler, size + 1))
    )
    for index in order:
        parts = index if isinstance(index, tuple) and len(index) == 2 else (index,)
        for part in parts:
            if type(part) is not int:
                raise report.broken("integers", f"yields {index!r}, {kind_of(index)}")
            if not 0 <= part < len(labels):
                raise report.broken("in range", f"yields {index!r} for {len(labels)} labels")
    if len(order) != size or not order:
        raise report.broken(
            "iterable with a length",
            f"`len` says {size}, but iterating yields {'more' if len(order) > size else len(order)}",
        )
    return order


def _check_moves_on(report: Report, sampler: Any, wanted: list[Any], labels: Tensor) -> None:
    """Check iterations of a sampler whose epoch 0 was drawn last; ``wanted`` are its epochs 1 and 3."""
    if (order := _order(report, sampler, labels)) != wanted[0]:
        same = "the same order again" if order == _order_of(report, sampler, 0, labels) else "another order"
        raise report.broken("moves on", f"seed 0: the iteration after epoch 0 gives {same}, not epoch 1")
    sampler.set_epoch(2)
    next(iter(sampler))
    if _order(report, sampler, labels) != wanted[1]:
        raise report.broken("moves on", "seed 0: the iteration after one of epoch 2 left half-way is not epoch 3")


def _order_of(report: Report, sampler: Any, epoch: int, labels: Tensor) -> list[Any]:
    sampler.set_epoch(epoch)
    return _order(report, sampler, labels)


def _check_whole_epoch(report: Report, whole: Tensor, order: list[Any]) -> None:
    if whole.dtype != torch.int64 or not whole.equal(torch.tensor(order)):
        raise report.broken(
            "indices()",
            f"`indices()` is {form_of(whole)} and differs from the {len(order)} indices that iterating yields",
        )


def _check_missing_classes(report: Report, make_sampler: Callable[..., Any]) -> None:
    labels = torch.repeat_interleave(torch.tensor([1, 3, 6]), torch.tensor([20, 6, 1]))
    where = "labels of classes 1, 3 and 6 alone"
    order = report.run(
        "classes without samples", where, lambda: list(itertools.islice(make_sampler(labels, seed=0), 1000))
    )
    parts = [part for index in order for part in (index if isinstance(index, tuple) else (index,))]
    if not parts or not all(0 <= part < len(labels) for part in parts):
        raise report.broken("classes without samples", f"{where}: yields {parts[:8]} ... for {len(labels)} labels")


class _Echo(Dataset[Any]):
    """A data set whose samples are their own indices."""

    def __getitem__(self, index: Any) -> Any:
        return index


def _check_ranks(report: Report, make: Callable[[int, int], Any], expected: list[Any]) -> None:
    """Check two ranks as accelerate runs them: each builds the loader, and rank r takes batches r, r + 2, ..."""
    batches: list[list[list[Any]]] = []
    for rank in range(2):
        seed_globals(100 + rank)  # device-specific seeds
        with environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"):
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
