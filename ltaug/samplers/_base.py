"""Base of the samplers: a random stream of its own for each (seed, epoch), and draws of class and member."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ltaug._arguments import checked
from ltaug.priors import Counts, as_integers, class_counts


class Epochs:
    """Counts the epochs of something that is iterated: the chosen one, or else the one after the last.

    Attributes:
        epoch: that of the last iteration, or the one chosen for the next.
    """

    epoch = 0
    _begun = False  # `epoch` has been iterated
    _chosen = False  # `epoch` was chosen and has not been iterated yet
    _running: object | None = None  # a token of the iteration that is under way

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, counted from 0; without it each iteration moves on by one.

        Warns where that comes too late, or takes back an epoch that was chosen and not drawn: two parts of a program
        then count epochs in two ways.
        """
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        if self._chosen and epoch < self.epoch:
            warnings.warn(
                f"`set_epoch({epoch})` came after `set_epoch({self.epoch})`, whose epoch was not drawn. A loader that "
                "accelerate has prepared counts the epochs itself: call `set_epoch` of the prepared loader, not of the "
                "sampler.",
                stacklevel=3,  # the line that called `set_epoch`
            )
        elif self._running is not None and epoch not in (self.epoch, self.epoch + 1):
            warnings.warn(
                f"`set_epoch({epoch})` came while epoch {self.epoch} was being drawn, and holds from the next "
                "iteration on. Call it before the loader is iterated; in Lightning, with workers, where the loader is "
                "made: `sampler.set_epoch(self.trainer.current_epoch)` in `train_dataloader`.",
                stacklevel=3,  # the line that called `set_epoch`
            )
        self._choose(epoch)

    def begin_epoch(self) -> None:
        """Move on to the next epoch, unless one was chosen: what each iteration does first."""
        epoch = self.epoch + self._begun
        self._choose(epoch)
        self._begun, self._chosen = True, False

    def _choose(self, epoch: int) -> None:
        self.epoch = int(epoch)
        self._begun, self._chosen, self._running = False, True, None

    @contextlib.contextmanager
    def _iteration(self) -> Iterator[None]:
        """Begin an iteration, which is under way until the context is left."""
        self.begin_epoch()
        running = self._running = object()
        try:
            yield
        finally:
            if self._running is running:  # and no later one
                self._running = None


class EpochSampler(Epochs, Sampler[int]):
    """A sampler whose order is a pure function of (seed, stream, epoch).

    Every iteration moves on by one epoch, from 0, unless :meth:`set_epoch` has chosen one since the last. So a loop or
    framework that never calls it draws a new order every time, the same on all processes, and one that resumes calls it
    once.

    An epoch is drawn in blocks of 2^22 = 4,194,304 indices, each from its own generator, so that the first index comes
    at once and only a block is in memory, however long the epoch is.

    Attributes:
        num_samples: indices an epoch.
        seed: which experiment.
        epoch: that of the last iteration, or the one chosen for the next.
        stream: which of several samplers of one experiment this is; :class:`PairSampler` gives its second sampler
            another one.
    """

    _block_size = 2**22  # the orders of longer epochs depend on it

    @checked
    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1, but is {num_samples}.")
        self.num_samples = int(num_samples)
        self.seed = int(seed)
        self.stream = 0

    def indices(self) -> Tensor:
        """The whole of ``epoch`` at once, int64 [num_samples]: much faster than to iterate, and does not move on."""
        return join(self.blocks())

    def blocks(self) -> Iterator[Tensor]:
        """The epoch block by block, int64 [up to 2^22] each: as fast as :meth:`indices`, for epochs of any length."""
        self._chosen = False
        begun = copy.copy(self)  # `set_epoch` chooses the next iteration, not the rest of this one
        for start in range(0, self.num_samples, self._block_size):
            yield begun._draw(start, min(self._block_size, self.num_samples - start))

    def _draw(self, start: int, size: int) -> Tensor:
        """The block of the epoch that begins at ``start``, int64 [size]."""
        raise NotImplementedError  # every subclass draws its own

    def _generator(self, start: int = 0) -> np.random.Generator:
        """The generator of the block that begins at ``start``."""
        # A seed sequence, not seed + epoch: the latter makes seed 0 / epoch 1 the same run as seed 1 / epoch 0.
        key = (self.stream, self.epoch, *([start // self._block_size] if start else []))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def __iter__(self) -> Iterator[int]:
        with self._iteration():
            for piece in pieces(self.blocks()):
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
        table: whether the subclass needs the table, which takes four bytes a sample.
    """

    @checked
    def __init__(self, labels: Counts, num_samples: int | None, seed: int, *, table: bool = True) -> None:
        array = as_integers(labels).cpu().numpy()
        if array.size == 0:
            raise ValueError("`labels` must hold at least one sample, but is empty.")
        if array.min() < 0:
            raise ValueError(
                f"`labels` must not be negative, but hold {array.min()}. Remove samples that carry an ignore index."
            )
        super().__init__(array.size if num_samples is None else num_samples, seed)
        self.size = array.size
        counts = class_counts(array).numpy()
        # CSR: the members of the c-th class that has any are order[start[c] : start[c] + count[c]]
        if table:
            self._order = _sorted_by_class(array, counts, self._block_size)
        self._count = counts[counts > 0]
        self._start = np.cumsum(self._count) - self._count

    def _members(self, generator: np.random.Generator, chosen: np.ndarray) -> Tensor:
        """Draw a uniform member of each of the chosen classes, as indices into the labels."""
        # floor(u * n) < n for u < 1 and n < 2**53
        member = (generator.random(len(chosen)) * self._count[chosen]).astype(np.int64)
        member += self._start[chosen]
        return torch.from_numpy(self._order[member].astype(np.int64))


def _sorted_by_class(labels: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], block: int) -> np.ndarray[Any, Any]:
    """Indices of the samples of class 0, then of class 1, ...: a stable counting sort, a block at a time.

    Beside the result, in int32 where that is enough, it needs only a block's memory; ``np.argsort`` works in int64 with
    as much again for its own use.
    """
    order = np.empty(len(labels), np.int32 if len(labels) < 2**31 else np.int64)
    free = np.cumsum(counts) - counts  # the next place of every class
    for first in range(0, len(labels), block):
        piece = labels[first : first + block].astype(np.int64)
        # Sorting (class, place) as one number is several times as fast as a stable argsort of the classes.
        piece *= block
        piece += np.arange(len(piece))
        piece.sort()
        here = np.bincount(piece // block, minlength=len(counts))
        place = np.arange(len(piece)) + np.repeat(free - (np.cumsum(here) - here), here)
        order[place] = piece % block + first
        free += here
    return order


class AliasTable:
    """Walker's alias method (Vose's construction): draws from a discrete distribution, one uniform number each."""

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


def join(blocks: Iterable[Tensor]) -> Tensor:
    """Concatenate all blocks; a single one is not copied."""
    found = list(blocks)
    return found[0] if len(found) == 1 else torch.cat(found)


def pieces(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Cut blocks into smaller pieces, so that a long one is never in memory as Python integers."""
    return (piece for block in blocks for piece in torch.split(block, 2**16))
