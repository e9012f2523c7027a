"""Progressively balanced sampling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.priors import Counts
from ltaug.samplers._base import ClassDrawSampler


class ProgressivelyBalancedSampler(ClassDrawSampler):
    """Progressively balanced sampling: from instance-balanced to class-balanced, epoch by epoch.

    P(Y = y) = (1 - t / T) n_y / N + (t / T) / C at epoch t (Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217).
    The first epoch is instance-balanced; with t counted from 0 the last one, T - 1, is still short of class-balanced by
    1 / T. From ``total_epochs`` on it is class-balanced. C counts the classes that have samples.

    Args:
        labels: class of every sample, int [N].
        total_epochs: T.
        num_samples: indices an epoch; by default N.
        seed: with the epoch, the only source of randomness.

    >>> sampler = ProgressivelyBalancedSampler([0] * 99 + [1], total_epochs=10, num_samples=1000)
    >>> sampler.set_epoch(10)
    >>> 400 < sum(index == 99 for index in sampler) < 600
    True
    """

    @checked
    def __init__(self, labels: Counts, total_epochs: int, *, num_samples: int | None = None, seed: int = 0) -> None:
        super().__init__(labels, num_samples, seed)
        if total_epochs < 1:
            raise ValueError(f"`total_epochs` must be at least 1, but is {total_epochs}.")
        self.total_epochs = int(total_epochs)

    def _draw(self, start: int, size: int) -> Tensor:
        generator = self._generator(start)
        balanced = generator.random(size) < self.epoch / self.total_epochs
        # A mixture is drawn by drawing its component first; an instance-balanced draw is a uniform sample, whatever its
        # class.
        chosen = generator.integers(len(self._count), size=size)
        drawn = self._members(generator, chosen).numpy()
        plain = generator.integers(self.size, size=size)
        return torch.from_numpy(np.where(balanced, drawn, plain))
