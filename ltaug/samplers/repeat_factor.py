"""Repeat factor sampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.priors import Labels, label_pairs
from ltaug.samplers._base import EpochSampler


class RepeatFactorSampler(EpochSampler):
    """Repeat factor sampling: each sample comes as often as its rarest label asks for, all samples at least once.

    r_c = max(1, sqrt(t / f_c)) for a label that the share f_c of the samples has, and r_i = max of r_c over the labels
    of sample i, 1 without labels (LVIS, Gupta et al., CVPR 2019, https://arxiv.org/abs/1908.03195). For samples with
    several labels, or the categories of the boxes of an image; for detection as well as for recognition.

    Sample i comes floor(r_i) or ceil(r_i) times an epoch, at random, and r_i times on average. This stochastic rounding
    is done for all samples together (systematic sampling in a random order), so that every epoch has the same length:
    the sum of the r_i, rounded up, where the paper's own varies from epoch to epoch. With ``num_samples`` all r_i are
    scaled to that sum.

    An epoch is drawn at once, in about 40 bytes an index.

    Args:
        targets: multi-hot rows [N, L] of 0 and 1 in a tensor or an array, or N lists of label indices.
        threshold: t, share of the samples below which a label is repeated; 0.001 for the 1,203 labels of LVIS.
        num_samples: indices an epoch; by default the sum of the r_i, rounded up.
        num_labels: L, for lists; by default the largest label plus one.
        seed: with the epoch, the only source of randomness.

    Attributes:
        repeat_factors: r_i, float64 [N].

    Raises:
        ValueError: no samples, a threshold outside (0, 1], or targets that are neither rows nor lists.

    >>> sampler = RepeatFactorSampler([[0], [0], [0], [0, 1]], threshold=1.0, num_labels=2)
    >>> sampler.repeat_factors, len(sampler)
    (tensor([1., 1., 1., 2.], dtype=torch.float64), 5)
    """

    @checked
    def __init__(
        self,
        targets: Labels,
        threshold: float,
        *,
        num_samples: int | None = None,
        num_labels: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(
                "`threshold` is the share of the samples below which a label is repeated, in (0, 1], but is "
                f"{threshold}."
            )
        size, (sample, label), labels = label_pairs(targets, num_labels, "targets")
        if size == 0:
            raise ValueError("`targets` must hold at least one sample, but is empty.")
        share = torch.bincount(label, minlength=labels).double() / size
        by_label = (threshold / share).sqrt().clamp(min=1.0)
        factors = torch.ones(size, dtype=torch.float64, device=label.device)
        self.repeat_factors = factors.scatter_reduce_(0, sample, by_label[label], "amax").cpu()
        # A hair less, since a sum of many factors is not exact.
        total = math.ceil(float(self.repeat_factors.sum()) * (1.0 - 1e-12))
        super().__init__(total if num_samples is None else num_samples, seed)
        self.threshold = float(threshold)
        self._epoch_items: tuple[tuple[int, int, int], Tensor] | None = None

    def _draw(self, start: int, size: int) -> Tensor:
        key = (self.seed, self.stream, self.epoch)
        if self._epoch_items is None or self._epoch_items[0] != key:
            self._epoch_items = key, self._items()
        items = self._epoch_items[1][start : start + size]
        if start + size == self.num_samples:
            self._epoch_items = None  # the last block of the epoch
        return items

    def _items(self) -> Tensor:
        """The whole epoch, int64 [num_samples]."""
        generator = self._generator()
        order = generator.permutation(len(self.repeat_factors))
        ends = np.cumsum(self.repeat_factors.numpy()[order])
        # A comb of num_samples teeth at distance 1 from a random place: a sample comes as often as teeth meet it.
        ends *= self.num_samples / ends[-1]
        teeth = np.floor(ends + generator.random())
        teeth[-1] = self.num_samples
        items = np.repeat(order, np.diff(teeth, prepend=0.0).astype(np.int64))
        generator.shuffle(items)
        return torch.from_numpy(items)
