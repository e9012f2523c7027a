"""Pairs over the whole data set, for mixers whose partner comes from a sampler of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ltaug.samplers._base import EpochSampler

T = TypeVar("T")


class PairSampler(Sampler[tuple[int, int]]):
    """Yield index pairs (i, j), i from the first sampler and j from the second.

    The papers describe their partners over the whole data set, not over the batch: UniMix is
    ``ClassPowerSampler(labels, tau=1)`` with ``ClassPowerSampler(labels, tau=-1)``, label-occurrence-balanced mixup is
    ``tau=0`` twice, BBN is ``tau=1`` with ``tau=-1``.

    The two streams are independent even when both samplers have the same seed: the second is copied and moved to
    another random stream. Samplers that are not from this library are used as they are.

    Args:
        first: sampler of i.
        second: sampler of j, of the same length.

    Raises:
        ValueError: the lengths differ, or one sampler that is not from this library is given twice.

    >>> from ltaug.samplers import ClassPowerSampler
    >>> labels = [0, 0, 0, 1]
    >>> pairs = PairSampler(ClassPowerSampler(labels, tau=1), ClassPowerSampler(labels, tau=-1))
    >>> len(list(pairs)), len(next(iter(pairs)))
    (4, 2)
    """

    def __init__(self, first: Sampler[int], second: Sampler[int]) -> None:
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

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration, of both samplers."""
        for sampler in (self.first, self.second):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def indices(self) -> Tensor:
        """The whole epoch at once, int64 [num_samples, 2]."""
        return torch.stack([sampler_indices(self.first), sampler_indices(self.second)], dim=1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.first, self.second, strict=True)

    def __len__(self) -> int:
        return len(self.first)  # type: ignore[arg-type]


class PairDataset(Dataset[tuple[T, T]], Generic[T]):
    """Turn an index pair into the two samples, so that one ``DataLoader`` carries the pairs of :class:`PairSampler`.

    With the default collation a batch is ``(inputs, labels), (partner_inputs, partner_labels)``.

    Args:
        dataset: any map-style data set.

    >>> pairs = PairDataset(["a", "b", "c"])
    >>> pairs[0, 2], len(pairs)
    (('a', 'c'), 3)
    """

    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: tuple[int, int]) -> tuple[T, T]:
        if not isinstance(index, tuple | list) or len(index) != 2:
            raise ValueError(
                f"`index` must be a pair of indices, but is {index!r}. Use `PairSampler` as the loader's `sampler`."
            )
        first, second = index
        return self.dataset[first], self.dataset[second]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def sampler_indices(sampler: Sampler[int] | PairSampler) -> Tensor:
    """An epoch of any sampler as one tensor: int64 [num_samples], or [num_samples, 2] for pairs."""
    if hasattr(sampler, "indices"):
        return torch.as_tensor(sampler.indices())
    return torch.tensor(list(sampler), dtype=torch.int64)
