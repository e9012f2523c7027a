"""The sampler with class probabilities proportional to a power of the counts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltaug.priors import Counts, as_labels
from ltaug.samplers._base import EpochSampler


class ClassPowerSampler(EpochSampler):
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

    The released UniMix code puts the exponent on samples, not on classes: its ``tau`` is this one minus 1.
    Classes without a sample are never drawn.

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

    def __init__(
        self,
        labels: Counts,
        tau: float = 0.0,
        *,
        num_samples: int | None = None,
        replacement: bool = True,
        seed: int = 0,
    ) -> None:
        array = as_labels(labels).cpu().numpy()
        if array.size == 0:
            raise ValueError("`labels` must hold at least one sample, but is empty.")
        if array.min() < 0:
            raise ValueError(
                f"`labels` must not be negative, but hold {array.min()}. Remove samples that carry an ignore index."
            )
        if not np.isfinite(tau):
            raise ValueError(f"`tau` must be finite, but is {tau}.")
        super().__init__(array.size if num_samples is None else num_samples, seed)
        if not replacement and tau != 1.0:
            raise ValueError(f"`replacement=False` is the shuffled epoch and needs `tau=1`, but `tau` is {tau}.")
        if not replacement and self.num_samples > array.size:
            raise ValueError(
                f"`num_samples`={self.num_samples} exceeds the {array.size} samples; pass `replacement=True`."
            )
        self.tau = float(tau)
        self.replacement = replacement
        self.size = array.size
        if self.tau == 1.0:
            return  # every sample equally likely: no table needed
        counts = np.bincount(array)
        present = np.flatnonzero(counts)
        # CSR: the members of present class c are order[start[c] : start[c] + count[c]]
        self._order = np.argsort(array, kind="stable")
        self._count = counts[present]
        self._start = np.cumsum(self._count) - self._count
        self._alias = None if self.tau == 0.0 else AliasTable(self.class_probabilities(self._count, self.tau))

    @staticmethod
    def class_probabilities(class_counts: np.ndarray, tau: float) -> np.ndarray:
        """P(Y = y) of Eq. 9 for present classes, in float64; computed through logarithms so that no power overflows."""
        log = tau * np.log(np.asarray(class_counts, dtype=np.float64))
        weight = np.exp(log - log.max())
        return np.asarray(weight / weight.sum())

    def indices(self) -> Tensor:
        """The whole epoch at once, int64 [num_samples]."""
        generator = self._generator()
        if not self.replacement:
            return torch.from_numpy(generator.permutation(self.size)[: self.num_samples])
        if self.tau == 1.0:
            return torch.from_numpy(generator.integers(self.size, size=self.num_samples))
        if self._alias is None:
            chosen = generator.integers(len(self._count), size=self.num_samples)
        else:
            chosen = self._alias.draw(generator, self.num_samples)
        # floor(u * n) < n for u < 1 and n < 2**53: a uniform member of the class
        member = (generator.random(self.num_samples) * self._count[chosen]).astype(np.int64)
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
