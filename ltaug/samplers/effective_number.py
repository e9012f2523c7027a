"""Sampling by the effective number of samples."""

from __future__ import annotations

from torch import Tensor

from ltaug._arguments import checked
from ltaug.priors import Counts, effective_number
from ltaug.samplers._base import AliasTable, ClassDrawSampler


class EffectiveNumberSampler(ClassDrawSampler):
    """Effective-number sampling: a sample weighs (1 - beta) / (1 - beta^n_y), y its class.

    Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555); as a sampler in the released code of LDAM-DRW. So
    P(Y = y) ~ n_y / E_n(y): ``beta = 0`` is instance-balanced, ``beta -> 1`` class-balanced. Classes without a sample
    are never drawn.

    Args:
        labels: class of every sample, int [N].
        beta: in [0, 1).
        num_samples: indices an epoch; by default N.
        seed: with the epoch, the only source of randomness.

    >>> len(list(EffectiveNumberSampler([0] * 9 + [1], beta=0.9)))
    10
    """

    @checked
    def __init__(self, labels: Counts, beta: float = 0.9999, *, num_samples: int | None = None, seed: int = 0) -> None:
        super().__init__(labels, num_samples, seed)
        self.beta = float(beta)
        weight = self._count / effective_number(self._count, beta).numpy()
        self._alias = AliasTable(weight / weight.sum())

    def _draw(self, start: int, size: int) -> Tensor:
        generator = self._generator(start)
        return self._members(generator, self._alias.draw(generator, size))
