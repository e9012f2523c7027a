"""The sampler with class probabilities proportional to a power of the counts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.priors import Counts
from ltaug.samplers._base import AliasTable, ClassDrawSampler
from ltaug.samplers._shuffle import random_key, shuffled


class ClassPowerSampler(ClassDrawSampler):
    r"""Draw a class with probability proportional to n_y^tau, then a member of it uniformly.

    P(Y = y) = n_y^tau / sum_c n_c^tau (UniMix, Xu et al., NeurIPS 2021, Eq. 9, https://arxiv.org/abs/2111.03874).
    One class for

    ===== ==========================================================================================================
    tau   what it is called
    ===== ==========================================================================================================
    1     instance-balanced, "random": every sample equally likely
    1/2   square-root sampling (Kang et al., ICLR 2020)
    0     class-balanced; label-occurrence-balanced mixup draws both partners so
    -1    reversed (BBN); the UniMix partner for CIFAR-10-LT
    ===== ==========================================================================================================

    Random over-sampling (ROS) is ``tau=0, num_samples=C * max(class_counts)``: as many draws of every class as the
    largest has samples. Random under-sampling (RUS) is ``tau=0, num_samples=C * min(class_counts)``: other samples of
    the frequent classes in every epoch. Both repeat samples.

    The released UniMix code puts the exponent on samples, not on classes: its ``tau`` is this one minus 1.
    Classes without a sample are never drawn.

    The set may have any size. An epoch is drawn in blocks of 2^22 = 4,194,304, so that the first index comes at once
    and only a block is in memory; the table of class members takes four bytes a sample, and ``tau=1`` needs no table.
    The shuffled epoch of a set larger than a block is a pseudo-random permutation computed on the fly: every sample
    comes exactly once, but not every one of the N! orders is possible.

    Under accelerate every process goes through the whole epoch to find its own batches: 0.02 to 0.05 microseconds of
    one core for an index, or about 5 s spread over an epoch of 10^8.

    Args:
        labels: class of every sample, int [N].
        tau: the exponent, on class counts.
        num_samples: indices an epoch; by default N.
        replacement: draw independently (the default). ``False`` is the shuffled epoch, every sample at most once, and
            exists only for ``tau=1``: any other power needs repetition.
        seed: with the epoch, the only source of randomness.

    Raises:
        ValueError: no labels, or ``replacement=False`` with a ``tau`` other than 1 or with more samples than there are.

    >>> sampler = ClassPowerSampler([0] * 99 + [1], tau=0.0, num_samples=1000, seed=0)
    >>> sampler.set_epoch(3)
    >>> 400 < sum(index == 99 for index in sampler) < 600
    True
    """

    @checked
    def __init__(
        self,
        labels: Counts,
        tau: float = 0.0,
        *,
        num_samples: int | None = None,
        replacement: bool = True,
        seed: int = 0,
    ) -> None:
        tau = float(tau)
        super().__init__(labels, num_samples, seed, table=tau != 1.0)
        if not np.isfinite(tau):
            raise ValueError(f"`tau` must be finite, but is {tau}.")
        if not replacement and tau != 1.0:
            raise ValueError(f"`replacement=False` is the shuffled epoch and needs `tau=1`, but `tau` is {tau}.")
        if not replacement and self.num_samples > self.size:
            raise ValueError(
                f"`num_samples`={self.num_samples} exceeds the {self.size} samples; pass `replacement=True`."
            )
        self.tau = float(tau)
        self.replacement = replacement
        self._alias = None if self.tau in (0.0, 1.0) else AliasTable(self.class_probabilities(self._count, self.tau))

    @staticmethod
    def class_probabilities(class_counts: np.ndarray, tau: float) -> np.ndarray:
        """P(Y = y) of Eq. 9 for present classes, in float64; computed through logarithms so that no power overflows."""
        log = tau * np.log(np.asarray(class_counts, dtype=np.float64))
        weight = np.exp(log - log.max())
        return np.asarray(weight / weight.sum())

    def _draw(self, start: int, size: int) -> Tensor:
        if not self.replacement:
            generator = self._generator()  # of the epoch: all blocks together are one permutation
            if self.size <= self._block_size:
                return torch.from_numpy(generator.permutation(self.size)[:size])
            places = np.arange(start, start + size)
            return torch.from_numpy(shuffled(places, self.size, random_key(generator), rounds=6))
        generator = self._generator(start)
        if self.tau == 1.0:
            return torch.from_numpy(generator.integers(self.size, size=size))
        if self._alias is None:
            chosen = generator.integers(len(self._count), size=size)
        else:
            chosen = self._alias.draw(generator, size)
        return self._members(generator, chosen)
