"""What every sampler of the library shares: an own random stream for each (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ltaug.priors import Counts, as_labels


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


class ClassDrawSampler(EpochSampler):
    """A sampler that draws a class first and then a member of it, through a table of the members of each class.

    Both steps cost O(1) a draw for any number of samples and classes, where ``torch.multinomial`` over sample weights
    costs O(N) and stops at 2^24 samples. Classes without a sample are never drawn.

    Args:
        labels: class of every sample, int [N].
        num_samples: indices an epoch; by default N.
        seed: see :class:`EpochSampler`.
    """

    def __init__(self, labels: Counts, num_samples: int | None, seed: int) -> None:
        array = as_labels(labels).cpu().numpy()
        if array.size == 0:
            raise ValueError("`labels` must hold at least one sample, but is empty.")
        if array.min() < 0:
            raise ValueError(
                f"`labels` must not be negative, but hold {array.min()}. Remove samples that carry an ignore index."
            )
        super().__init__(array.size if num_samples is None else num_samples, seed)
        self.size = array.size
        counts = np.bincount(array)
        # CSR: the members of the c-th class that has any are order[start[c] : start[c] + count[c]]
        self._order = np.argsort(array, kind="stable")
        self._count = counts[counts > 0]
        self._start = np.cumsum(self._count) - self._count

    def _members(self, generator: np.random.Generator, chosen: np.ndarray) -> Tensor:
        """A uniform member of each of the chosen classes, as indices into the labels."""
        # floor(u * n) < n for u < 1 and n < 2**53
        member = (generator.random(len(chosen)) * self._count[chosen]).astype(np.int64)
        member += self._start[chosen]
        return torch.from_numpy(self._order[member])


class AliasTable:
    """Walker's alias method (Vose's construction): a draw from any discrete law for one uniform number."""

    def __init__(self, probabilities: np.ndarray) -> None:
        size = len(probabilities)
        scaled = probabilities * size
        keep, alias = np.ones(size), np.arange(size)
        scaled = scaled.tolist()
        small = [k for k in range(size) if scaled[k] < 1.0]
        large = [k for k in range(size) if scaled[k] >= 1.0]
        while small and large:
            low, high = small.pop(), large.pop()
            keep[low], alias[low] = scaled[low], high
            scaled[high] -= 1.0 - scaled[low]
            (small if scaled[high] < 1.0 else large).append(high)
        self._keep, self._alias = keep, alias

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """``size`` independent indices."""
        position = generator.random(size) * len(self._keep)
        slot = position.astype(np.int64)
        return np.where(position - slot < self._keep[slot], slot, self._alias[slot])
