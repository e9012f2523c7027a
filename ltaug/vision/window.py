"""What a stream draws and holds at each place of an epoch, computed on numbers of images."""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random

import numpy as np
from numpy.typing import NDArray

from ltaug.samplers import ClassPowerSampler
from ltaug.vision.shards import Pool

__all__ = ["Window"]


class Window:
    """What a stream draws and holds at each place of its epoch.

    Its images are numbered from 0 in the order in which they are read; -1 - k is image k of the pool. With tau = 1 the
    first image of a place leaves the window, so that each comes once. Otherwise a class is drawn with probability
    ~ n^tau, and an image of it: of a class that the pool holds whole from there, of another from the window, or from
    the pool where the window has none of it.

    Args:
        labels: class of each image, in the order in which they are read.
        size: images that are held.
        taus: exponents of the class probabilities, of single images or of the two of a pair.
        counts: images a class of the whole set, [C].
        pool: further images, for exponents other than 1.
        seed: of the draws.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        size: int,
        taus: Sequence[float],
        counts: NDArray[np.int64],
        pool: Pool | None,
        seed: int,
    ) -> None:
        self.labels, self.counts, self.pool, self.random = labels, counts, pool, Random(seed)
        self.held = list(range(min(size, len(labels))))
        """The image of each slot."""
        self.taus = taus
        self.ends = {
            tau: list(accumulate(ClassPowerSampler.class_probabilities(counts, tau).tolist()))
            for tau in set(taus) - {1.0}
        }
        self.slots: dict[int, list[int]] = defaultdict(list)
        """Of each class."""
        self.place = [0] * len(self.held)
        """Of each slot in that list."""
        if self.ends:
            for slot, image in enumerate(self.held):
                self._enter(slot, int(labels[image]))

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int | None]]:
        """Yield the images of each place, and the one that leaves behind it for another to be read."""
        size = len(self.held)
        last = self.random.sample(range(size), size)
        for arriving in range(size, len(self.labels) + size):
            more = arriving < len(self.labels)
            slot = int(self.random.random() * size) if more else last[arriving - len(self.labels)]
            once = self.taus[0] == 1.0
            images = [self.held[slot]] if once else []
            images += [self._draw(tau) for tau in self.taus[once:]]
            yield tuple(images), self.held[slot] if more else None
            if more:
                if self.ends:
                    self._leave(slot, int(self.labels[self.held[slot]]))
                    self._enter(slot, int(self.labels[arriving]))
                self.held[slot] = arriving

    def alike(self, label: int) -> Iterator[int]:
        """Yield what can stand for an image of a class: others of it, and then any."""
        yield from (image for image in self.held if self.labels[image] == label)
        if self.pool:
            yield from (-1 - int(self.pool.starts[label]) - k for k in range(self.pool.counts[label]))
        yield from self.held

    def _draw(self, tau: float) -> int:
        if tau == 1.0:
            return self.held[int(self.random.random() * len(self.held))]
        if self.pool is None:
            raise ValueError("`pool` is needed to draw classes by another power than 1.")
        # The sum of the probabilities may end a rounding below 1.
        label = min(bisect(self.ends[tau], self.random.random()), len(self.counts) - 1)
        kept, slots = int(self.pool.counts[label]), self.slots[label]
        if kept == self.counts[label] or not slots:
            return -1 - int(self.pool.starts[label]) - int(self.random.random() * kept)
        return self.held[slots[int(self.random.random() * len(slots))]]

    def _enter(self, slot: int, label: int) -> None:
        self.place[slot] = len(self.slots[label])
        self.slots[label].append(slot)

    def _leave(self, slot: int, label: int) -> None:
        slots = self.slots[label]
        slots[self.place[slot]], self.place[slots[-1]] = slots[-1], self.place[slot]
        slots.pop()
