"""Nearest class mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltaug._arguments import checked
from ltaug.classifiers._base import check_features, check_sizes, make_linear, unit, widen
from ltaug.priors import Counts, as_labels


class NearestClassMeanClassifier(nn.Module):
    """Nearest class mean (NCM): no training but the mean feature m_c of every class.

    z_c = -||x - m_c||^2 or cos(x, m_c) (Mensink et al., TPAMI 2013; a baseline of Kang et al., ICLR 2020,
    https://arxiv.org/abs/1910.09217). Give it the features of the training set at once (:meth:`fit`) or batch by batch
    (:meth:`update`); with several processes gather the features first. The logits rank the classes; they are not
    calibrated.

    Args:
        in_features: D.
        num_classes: C.
        cosine: cosines instead of negative squared Euclidean distances.

    Raises:
        ValueError: shapes or labels do not fit, or, when called, a class has no sample yet.

    >>> classifier = NearestClassMeanClassifier(in_features=2, num_classes=2)
    >>> classifier.fit(torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0]]), [0, 0, 1])(torch.tensor([[3.0, 1.0]]))
    tensor([[-5., -5.]])
    """

    means: Tensor
    counts: Tensor

    @checked
    def __init__(self, in_features: int, num_classes: int, cosine: bool = False) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        self.in_features = in_features
        self.out_features = num_classes
        self.cosine = cosine
        self.register_buffer("means", torch.zeros(num_classes, in_features))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @checked
    def fit(self, features: Tensor, labels: Counts) -> NearestClassMeanClassifier:
        """Replace all samples by these: ``features`` [N, D], ``labels`` int [N]. Returns the classifier."""
        before = self.means.clone(), self.counts.clone()
        self.means.zero_()
        self.counts.zero_()
        try:
            self.update(features, labels)
        except ValueError:  # what was fitted before stays
            self.means.copy_(before[0])
            self.counts.copy_(before[1])
            raise
        return self

    @torch.no_grad()
    @checked
    def update(self, features: Tensor, labels: Counts) -> None:
        """Add the samples of a batch: ``features`` [N, D], ``labels`` int [N]."""
        labels = as_labels(labels).to(self.means.device)
        if list(features.shape) != [labels.numel(), self.in_features] or features.dtype == torch.bool:
            raise ValueError(
                f"`features` must have shape [{labels.numel()}, {self.in_features}], one row a label, but are "
                f"{features.dtype} of shape {list(features.shape)}."
            )
        if labels.numel() == 0:
            return
        if not bool(features.isfinite().all()):
            row = int((~features.isfinite().all(1)).nonzero()[0])
            raise ValueError(
                f"`features` must be finite, but row {row} has NaN or infinite entries, and the mean of its class "
                "would have none that is. Look for an overflow in the model, or leave the row out."
            )
        if int(labels.min()) < 0 or int(labels.max()) >= self.out_features:
            raise ValueError(
                f"`labels` must lie in 0..{self.out_features - 1}, but range from {int(labels.min())} to "
                f"{int(labels.max())}."
            )
        added = torch.bincount(labels, minlength=self.out_features)
        sums = torch.zeros_like(self.means).index_add_(0, labels, features.to(self.means))
        self.counts += added
        # Means instead of sums: they keep their digits however many samples come.
        self.means += (sums - added[:, None] * self.means) / self.counts.clamp(min=1)[:, None]

    @checked
    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, ..., C] of ``features`` [N, ..., D]."""
        self._check_complete()
        # Squared distances are small differences of large numbers, which half precision cannot hold.
        with torch.autocast(features.device.type, enabled=False):
            points, means = widen(features), widen(self.means)
            check_features(points, means)
            if self.cosine:
                return unit(points) @ unit(means).T
            centre = means.mean(0)  # nearer to 0, fewer digits cancel
            points, means = points - centre, means - centre
            return 2 * points @ means.T - means.square().sum(-1) - points.square().sum(-1, keepdim=True)

    def fold(self) -> nn.Linear:
        """Make the plain linear layer with the same logits up to a constant a sample, which softmax cancels.

        Not for cosines.
        """
        if self.cosine:
            raise ValueError("`fold` needs `cosine=False`: cosines depend on the length of the features.")
        self._check_complete()
        means = widen(self.means)
        centre = means.mean(0)
        means = means - centre
        bias = -means.square().sum(-1) - 2 * means @ centre
        return make_linear((2 * means).to(self.means.dtype), bias.to(self.means.dtype))

    def _check_complete(self) -> None:
        """Raise ValueError if a class has no mean yet."""
        empty = (self.counts == 0).nonzero()[:, 0].tolist()
        if empty:
            raise ValueError(
                f"Class {empty[0]} has no mean ({len(empty)} of {self.out_features} classes have no sample yet). Call "
                "`fit` or `update` with samples of every class, or drop the class."
            )

    def extra_repr(self) -> str:
        """Shown by ``print(classifier)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, cosine={self.cosine}"
