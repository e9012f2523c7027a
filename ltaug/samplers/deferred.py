"""Deferred re-sampling."""

from __future__ import annotations

import copy

from torch import Tensor

from ltaug._arguments import checked
from ltaug.samplers._base import EpochSampler


class DeferredSampler(EpochSampler):
    """Deferred re-sampling (DRS): one sampler before an epoch, another from that epoch on.

    Cao et al. (NeurIPS 2019, https://arxiv.org/abs/1906.07413). Usually instance-balanced until the learning rate
    falls, then class-balanced: rare classes are repeated only once the features are learnt. Inside a ``PairSampler`` on
    both sides it is deferred label-occurrence-balanced mixup (Zhang et al., ICASSP 2022).

    Args:
        first: the sampler of the epochs before ``epoch``, one of this library.
        then: the sampler from ``epoch`` on, with as many samples.
        epoch: the switch, counted from 0; 160 of 200 in the papers.

    Raises:
        ValueError: a sampler is not from this library, the lengths differ, or ``epoch`` is negative.

    >>> from ltaug.samplers import ClassPowerSampler
    >>> labels = [0] * 99 + [1]
    >>> plain = ClassPowerSampler(labels, tau=1, replacement=False)
    >>> sampler = DeferredSampler(plain, ClassPowerSampler(labels, tau=0), epoch=160)
    >>> sampler.set_epoch(160)
    >>> 30 < sum(index == 99 for index in sampler) < 70
    True
    """

    @checked
    def __init__(self, first: EpochSampler, then: EpochSampler, epoch: int) -> None:
        for name, sampler in (("first", first), ("then", then)):
            if not isinstance(sampler, EpochSampler):
                raise ValueError(
                    f"`{name}` must be a sampler of this library, but is a {type(sampler).__name__}. Switch samplers "
                    "of other kinds in the loop."
                )
        if len(first) != len(then):
            raise ValueError(
                f"`first` and `then` must yield equally many indices, but have {len(first)} and {len(then)}. Pass the "
                "same `num_samples` to both."
            )
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, but is {epoch}.")
        super().__init__(len(first), first.seed)
        self.first = first
        self.then = then
        self.switch_epoch = int(epoch)

    @property
    def current(self) -> EpochSampler:
        """The sampler of this epoch."""
        return self.first if self.epoch < self.switch_epoch else self.then

    def _draw(self, start: int, size: int) -> Tensor:
        # A copy, so that the given samplers keep their own epoch and stream.
        sampler = copy.copy(self.current)
        sampler.stream += self.stream
        sampler.epoch = self.epoch
        return sampler._draw(start, size)
