"""Base of the mixers that compare the class counts of the two samples of a pair."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug.mixers._base import Mixer
from ltaug.mixers.functional import check_indices
from ltaug.priors import Counts, as_counts


class CountMixer(Mixer):
    """Base of mixers whose weights depend on the training counts.

    Args:
        class_counts: training samples a class, int [C]; a class with 0 counts as one sample.
    """

    def __init__(self, class_counts: Counts) -> None:
        counts = as_counts(class_counts)
        super().__init__(counts.numel())
        self.class_counts = counts
        # A class without training samples may turn up in a batch: a count of 1 gives it a factor, 0 would give 0 / 0.
        self._counts = counts.clamp(min=1).to(torch.float32)

    def expected_weight(self, n_i: Tensor, n_j: Tensor) -> Tensor:
        """Mean weight of the first label, for a first class of n_i samples and a partner's of n_j.

        float64, in the broadcast shape of both.
        """
        raise NotImplementedError  # what a subclass is for

    def expected_weights(self) -> Tensor:
        """Mean weight of the first sample's label by the classes of the pair, float64 [C, C] by [first, partner]."""
        # Thousands of classes share some hundreds of counts.
        counts, index = torch.unique(self.class_counts.cpu().clamp(min=1), return_inverse=True)
        return self.expected_weight(counts[:, None], counts[None, :])[index][:, index]

    def count_of(self, targets: Tensor, name: str = "targets") -> Tensor:
        """Training count of each sample's class, [N]; the expected one for probabilities."""
        if self._counts.device != targets.device:
            self._counts = self._counts.to(targets.device)
        if targets.is_floating_point() and targets.ndim == 2 and targets.shape[1] == self.num_classes:
            return targets @ self._counts.to(targets.dtype)
        if targets.is_floating_point() or targets.ndim != 1:
            raise ValueError(
                f"`targets` must be one class a sample, [N] or [N, {self.num_classes}], since the factor compares the "
                f"classes of two samples, but are {targets.dtype} of shape {list(targets.shape)}."
            )
        try:
            return self._counts.index_select(0, targets.long())
        except IndexError:
            check_indices(targets, self.num_classes, name)
            raise
