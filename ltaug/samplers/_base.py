"""What every sampler of the library shares: an own random stream for each (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A sampler whose order is a pure function of (seed, stream, epoch).

    Attributes:
        num_samples: indices an epoch.
        seed: which experiment.
        epoch: set by :meth:`set_epoch`; a loop that never calls it sees the same order in every epoch.
        stream: which of several samplers of one experiment this is; :class:`PairSampler` gives its second sampler
            another one.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1, but is {num_samples}.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, but is {seed}.")
        self.num_samples = int(num_samples)
        self.seed = int(seed)
        self.stream = 0
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; ``epoch`` counts from 0."""
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        self.epoch = int(epoch)

    def indices(self) -> Tensor:
        """The whole epoch at once, int64 [num_samples]; what iterating yields one by one, and much faster."""
        raise NotImplementedError  # every subclass draws its own

    def _generator(self) -> np.random.Generator:
        # A seed sequence, not seed + epoch: the latter makes seed 0 / epoch 1 the same run as seed 1 / epoch 0.
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.stream, self.epoch)))

    def __iter__(self) -> Iterator[int]:
        # Pieces, so that a very long epoch never stands in memory as Python integers.
        for piece in torch.split(self.indices(), 65536):
            yield from piece.tolist()

    def __len__(self) -> int:
        return self.num_samples
