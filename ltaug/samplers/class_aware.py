"""Classes in shuffled cycles, several samples of a class in a row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.priors import Counts
from ltaug.samplers._base import ClassDrawSampler
from ltaug.samplers._shuffle import mix, random_key, shuffled


class ClassAwareSampler(ClassDrawSampler):
    """Class-balanced sampling without chance: classes in shuffled cycles, k samples of a class in a row.

    Every class is visited once before any is visited again, and every member of a class is used once before any is used
    again (Shen et al., ECCV 2016, https://arxiv.org/abs/1512.05830; cRT, LWS and MiSLAS use it). A batch of B holds B /
    k classes. In the released codes an epoch has max_k n_k * C samples, and the loop breaks off earlier; here it has N
    samples unless ``num_samples`` says otherwise. Beyond 2^22 = 4,194,304 samples, of the set or an epoch, the cycles
    are pseudo-random permutations computed on the fly, and only a block of the epoch is in memory.

    Args:
        labels: class of every sample, int [N].
        samples_per_class: k, samples of a class in a row; 4 in the released codes.
        num_samples: indices an epoch; by default N.
        seed: with the epoch, the only source of randomness.

    >>> labels = [0] * 90 + [1] * 9 + [2]
    >>> drawn = [labels[index] for index in ClassAwareSampler(labels, samples_per_class=2, num_samples=12)]
    >>> sorted(drawn[:6]), sorted(drawn[6:])
    ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    """

    @checked
    def __init__(
        self, labels: Counts, samples_per_class: int = 4, *, num_samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(labels, num_samples, seed)
        if samples_per_class < 1:
            raise ValueError(f"`samples_per_class` must be at least 1, but is {samples_per_class}.")
        self.samples_per_class = int(samples_per_class)

    def _draw(self, start: int, size: int) -> Tensor:
        if max(self.size, self.num_samples) <= self._block_size:
            return self._whole_epoch()
        visit, turn = np.divmod(np.arange(start, start + size), self.samples_per_class)
        cycle, place = np.divmod(np.arange(visit[0], visit[-1] + 1), len(self._count))
        generator = self._generator()  # of the epoch: the cycles go on from block to block
        of_classes, of_members = random_key(generator), random_key(generator)
        classes = shuffled(place, len(self._count), mix(of_classes, cycle), rounds=16)
        chosen, cycle = classes[visit - visit[0]], cycle[visit - visit[0]]
        # A class is visited once a cycle, so the number of uses of its members follows from the cycle alone.
        count = self._count[chosen]
        member_cycle, use = np.divmod(cycle * self.samples_per_class + turn, count)
        member = shuffled(use, count, mix(mix(of_members, chosen), member_cycle), rounds=16)
        return torch.from_numpy(self._order[self._start[chosen] + member].astype(np.int64))

    def _whole_epoch(self) -> Tensor:
        generator = self._generator()
        k, classes = self.samples_per_class, len(self._count)
        visits = -(-self.num_samples // k)
        cycles = -(-visits // classes)
        chosen = generator.random((cycles, classes)).argsort(1).reshape(-1)[:visits].repeat(k)
        # The j-th use of a class takes the j-th entry of its members' endless sequence of shuffled cycles.
        order = np.argsort(chosen, kind="stable")
        uses = np.bincount(chosen, minlength=classes)
        use = np.empty_like(order)
        use[order] = np.arange(len(order)) - np.repeat(np.cumsum(uses) - uses, uses)
        # All those sequences at once: one random key for each entry, sorted inside its (class, cycle).
        rounds = -(-uses // self._count)
        length = rounds * self._count
        owner = np.repeat(np.arange(classes), length)
        position = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
        member, turn = position % self._count[owner], position // self._count[owner]
        shuffled = np.lexsort((generator.random(len(owner)), turn, owner))
        sequence = self._order[self._start[owner] + member][shuffled]
        first = np.cumsum(length) - length
        return torch.from_numpy(sequence[first[chosen] + use][: self.num_samples].astype(np.int64))
