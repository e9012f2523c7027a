"""Pairs over the whole data set, for mixers whose partner comes from a sampler of its own."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ltaug._arguments import checked
from ltaug.priors import Counts, as_integers
from ltaug.samplers._base import EpochSampler, join, pieces

T = TypeVar("T")


class PairSampler(Sampler[tuple[int, int]]):
    """Yield index pairs (i, j), i from the first sampler and j from the second.

    The papers describe their partners over the whole data set, not over the batch: UniMix is
    ``ClassPowerSampler(labels, tau=1)`` with ``ClassPowerSampler(labels, tau=-1)``, label-occurrence-balanced mixup is
    ``tau=0`` twice, BBN is ``tau=1`` with ``tau=-1``.

    The two streams are independent even when both samplers have the same seed: the second is copied and moved to
    another random stream. Samplers that are not from this library are used as they are.

    Between-class learning mixes samples of different classes only (Tokozume et al., ICLR 2018,
    https://arxiv.org/abs/1711.10282): with ``different_classes`` both samples of a pair of one class are drawn anew,
    from further random streams of the same epoch, until their classes differ. That changes the labels' distribution:
    with class probabilities p and q, i is of class k with probability ~ p_k (1 - q_k), so that two instance-balanced
    samplers no longer give the training prior pi but ~ pi_k (1 - pi_k), which is flatter; two class-balanced ones stay
    balanced. ``ltaug.effective_prior(..., different_classes=True)`` computes with it. Of a sampler without replacement,
    some samples then turn up twice and some not at all.

    Args:
        first: sampler of i.
        second: sampler of j, of the same length.
        different_classes: the labels of the data set, int [N], for pairs whose classes differ; both samplers must be
            from this library. ``None``: pairs as they come.

    Raises:
        ValueError: the lengths differ, or one sampler that is not from this library is given twice; or pairs of
            different classes cannot be drawn: the labels are all the same, too few, or a sampler is not from this
            library. When iterating, if both samplers draw from one and the same class only.

    >>> from ltaug.samplers import ClassPowerSampler
    >>> labels = [0, 0, 0, 1]
    >>> pairs = PairSampler(ClassPowerSampler(labels, tau=1), ClassPowerSampler(labels, tau=-1))
    >>> len(list(pairs)), len(next(iter(pairs)))
    (4, 2)
    >>> pairs = PairSampler(ClassPowerSampler(labels), ClassPowerSampler(labels), different_classes=labels)
    >>> all((i == 3) != (j == 3) for i, j in pairs)
    True
    """

    @checked
    def __init__(self, first: Sampler[int], second: Sampler[int], different_classes: Counts | None = None) -> None:
        lengths = [len(sampler) for sampler in (first, second)]  # type: ignore[arg-type]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"`first` and `second` must yield equally many indices, but have {lengths[0]} and {lengths[1]}. "
                "Pass the same `num_samples` to both."
            )
        if isinstance(second, EpochSampler):
            moved = copy.copy(second)
            moved.stream = getattr(first, "stream", 0) + 1
            second = moved
        elif first is second:
            raise ValueError("`first` and `second` are the same sampler, so every sample would be its own partner.")
        self.first = first
        self.second = second
        self.different_classes = None if different_classes is None else self._checked(different_classes)

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, of both samplers; without it each iteration moves on by one."""
        for sampler in (self.first, self.second):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def _choose(self, epoch: int) -> None:
        for sampler in (self.first, self.second):
            sampler._choose(epoch)  # type: ignore[attr-defined]  # a plan's are ours

    def begin_epoch(self) -> None:
        """Move on to the next epoch, unless one was chosen: what each iteration does first."""
        for sampler in (self.first, self.second):
            if hasattr(sampler, "begin_epoch"):
                sampler.begin_epoch()

    def indices(self) -> Tensor:
        """The whole epoch at once, int64 [num_samples, 2]; does not move on to the next one."""
        return join(self.blocks())

    def blocks(self) -> Iterator[Tensor]:
        """The epoch block by block, int64 [up to 2^22, 2] each."""
        # `set_epoch` chooses the next iteration, not the rest of this one.
        begun = [copy.copy(each) for each in (self.first, self.second) if isinstance(each, EpochSampler)]
        start = 0
        for block in zip(sampler_blocks(self.first), sampler_blocks(self.second), strict=True):
            pairs = torch.stack(block, dim=1)
            if self.different_classes is not None:
                _make_different(pairs, self.different_classes, begun, start)
            yield pairs
            start += len(pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.different_classes is None:
            return zip(self.first, self.second, strict=True)
        return self._iterate_blocks()

    def _iterate_blocks(self) -> Iterator[tuple[int, int]]:
        with contextlib.ExitStack() as stack:
            for sampler in (self.first, self.second):
                stack.enter_context(sampler._iteration())  # type: ignore[attr-defined]  # both are ours
            for piece in pieces(self.blocks()):
                yield from map(tuple, piece.tolist())

    def __len__(self) -> int:
        return len(self.first)  # type: ignore[arg-type]

    def _checked(self, labels: Counts) -> Tensor:
        table = as_integers(labels, "different_classes").cpu()
        for name, sampler in (("first", self.first), ("second", self.second)):
            if not isinstance(sampler, EpochSampler):
                raise ValueError(
                    f"`{name}` must be a sampler of this library for pairs of `different_classes`, which are drawn "
                    f"anew from further random streams, but is a {type(sampler).__name__}."
                )
        if bool((table == table[:1]).all()):
            raise ValueError(
                "`different_classes` must hold labels of at least two classes, but there is no pair of different "
                f"classes among its {len(table)} labels. Leave it out to mix samples of one class."
            )
        return table


def _make_different(pairs: Tensor, labels: Tensor, samplers: list[EpochSampler], start: int) -> None:
    """Replace the pairs of one class, of the block that begins at ``start``, by the next of different classes."""
    alike = _same_class(pairs, labels).nonzero()[:, 0]
    turn, in_vain = 0, 0
    while len(alike):
        turn += 1
        more = torch.stack([_of_stream(sampler, 2 * turn, start, len(pairs)) for sampler in samplers], dim=1)
        more = more[~_same_class(more, labels)][: len(alike)]
        pairs[alike[: len(more)]] = more
        alike = alike[len(more) :]
        in_vain = 0 if len(more) else in_vain + len(pairs)
        if in_vain > max(100 * len(pairs), 100_000):
            raise ValueError(
                f"`first` and `second` must be able to draw different classes, but {in_vain} pairs in a row were "
                "of one class. Leave out `different_classes`, or draw from more classes."
            )


def _same_class(pairs: Tensor, labels: Tensor) -> Tensor:
    """Whether each pair is of one class, bool [num_samples]."""
    if int(pairs.max()) >= len(labels):
        raise ValueError(
            f"`different_classes` must be the labels of the whole data set, but holds {len(labels)} and index "
            f"{int(pairs.max())} was drawn."
        )
    return labels[pairs[:, 0]] == labels[pairs[:, 1]]


def _of_stream(sampler: EpochSampler, further: int, start: int, size: int) -> Tensor:
    """The same block of a sampler, from a stream so many places on."""
    moved = copy.copy(sampler)
    moved.stream += further
    return moved._draw(start, size)


class PairDataset(Dataset[Any], Generic[T]):
    """Turn an index pair into the two samples, so that one ``DataLoader`` carries the pairs of :class:`PairSampler`.

    With the default collation a batch is ``(inputs, labels), (partner_inputs, partner_labels)``. A plain index gives a
    plain sample, for the epochs of a training that do not mix.

    Args:
        dataset: any map-style data set.

    >>> pairs = PairDataset(["a", "b", "c"])
    >>> pairs[0, 2], pairs[1], len(pairs)
    (('a', 'c'), 'b', 3)
    """

    @checked
    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int | tuple[int, int]) -> T | tuple[T, T]:
        if not isinstance(index, tuple | list):
            return self.dataset[index]
        first, second = _pair(index)
        return self.dataset[first], self.dataset[second]

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        """The samples or pairs of a batch at once, which is what makes ``datasets`` fast in a ``DataLoader``."""
        if type(self).__getitem__ is not PairDataset.__getitem__:  # of a subclass, which may do more than fetch
            return [self[index] for index in indices]
        return self._fetch(indices)

    def _fetch(self, indices: list[Any]) -> list[Any]:
        pairs = [index if not isinstance(index, tuple | list) else _pair(index) for index in indices]
        flat = [k for pair in pairs for k in (pair if isinstance(pair, tuple | list) else (pair,))]
        get = getattr(self.dataset, "__getitems__", None)
        samples = iter(get(flat) if get is not None else [self.dataset[k] for k in flat])
        return [(next(samples), next(samples)) if isinstance(pair, tuple | list) else next(samples) for pair in pairs]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def _pair(index: Any) -> Any:
    if len(index) != 2:
        raise ValueError(f"`index` must be an index or a pair of indices, but is {index!r}.")
    return index


def next_indices(sampler: Sampler[int] | PairSampler) -> Tensor:
    """What iterating any sampler gives, as one tensor: int64 [num_samples], or [num_samples, 2] for pairs."""
    if hasattr(sampler, "begin_epoch") and hasattr(sampler, "indices"):
        sampler.begin_epoch()
        return torch.as_tensor(sampler.indices())
    return torch.tensor(list(sampler), dtype=torch.int64)


def sampler_blocks(sampler: Sampler[int]) -> Iterator[Tensor]:
    """An epoch of any sampler in blocks, int64 [up to 2^22], of the same sizes for all."""
    size = EpochSampler._block_size
    if isinstance(sampler, EpochSampler):
        yield from sampler.blocks()
    elif hasattr(sampler, "indices"):
        yield from torch.split(torch.as_tensor(sampler.indices()), size)
    else:
        rest = iter(sampler)
        while block := list(itertools.islice(rest, size)):
            yield torch.tensor(block, dtype=torch.int64)
