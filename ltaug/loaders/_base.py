"""What the resident loaders share: the order of an epoch, its batches, a process's rows of them, random numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from ltaug._arguments import checked
from ltaug.samplers._base import Epochs
from ltaug.samplers.pair import PairSampler, next_indices


class _ResidentBase(Epochs, ABC):
    """What the loaders share: the order of an epoch, its batches, every process's rows of them, and random numbers."""

    @checked
    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        sampler: Sampler[int] | PairSampler | None,
        drop_last: bool,
        seed: int,
        device: torch.device | str,
        num_processes: int,
        process_index: int,
        min_last: int = 1,
    ) -> None:
        check_shares(batch_size, num_processes, process_index)
        if not 1 <= min_last <= batch_size:
            raise ValueError(f"`min_last` must lie in 1..{batch_size}, the `batch_size`, but is {min_last}.")
        self.labels = labels.to(device)
        self.sampler = SequentialSampler(range(len(labels))) if sampler is None else sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.min_last = min_last
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        if len(self) == 0:
            reason = "`drop_last`" if drop_last or min_last == 1 else f"`min_last`={min_last}"
            raise ValueError(
                f"`batch_size`={batch_size} exceeds the {self._epoch_size()} samples of an epoch, "
                f"and {reason} leaves no batch. Lower `batch_size`."
            )

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next iteration; without it each iteration moves on by one epoch."""
        super().set_epoch(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(self._epoch_size(), self.batch_size)
        return full + (not self.drop_last and rest >= self.min_last)

    def batch_indices(self, batch: int, epoch_indices: Tensor) -> Tensor:
        """This process's rows of a global batch: contiguous, as even as they can be."""
        rows = epoch_indices[batch * self.batch_size : (batch + 1) * self.batch_size]
        low, high = self._share(len(rows))
        return rows[low:high]

    def __iter__(self) -> Iterator[Any]:
        self.begin_epoch()
        indices = next_indices(self.sampler)
        for batch in range(len(self)):
            rows = self.batch_indices(batch, indices)
            if rows.ndim == 2:
                yield self._load(rows[:, 0], batch, 0), self._load(rows[:, 1], batch, 1)
            else:
                yield self._load(rows, batch, 0)

    @abstractmethod
    def _load(self, indices: Tensor, batch: int, stream: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of this process's rows of a batch; stream 1 is that of the partners."""

    def _random(self, batch: int, stream: int) -> tuple[np.random.Generator, int]:
        """A generator of its own for every batch, and how many samples the global batch has."""
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, batch, stream)))
        return generator, min(self.batch_size, self._epoch_size() - batch * self.batch_size)

    def _epoch_size(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a Sampler without a length cannot be resident

    def _share(self, size: int) -> tuple[int, int]:
        return size * self.process_index // self.num_processes, size * (self.process_index + 1) // self.num_processes


def check_shares(batch_size: int, num_processes: int, process_index: int) -> None:
    """Raise a ValueError unless this is one of the processes, and all get equally many rows of a global batch."""
    if not 0 <= process_index < num_processes:
        raise ValueError(f"`process_index` must lie in 0..{num_processes - 1}, but is {process_index}.")
    if batch_size < 1 or batch_size % num_processes:
        raise ValueError(
            f"`batch_size`={batch_size} is the global batch and must be a positive multiple of the "
            f"{num_processes} processes."
        )
