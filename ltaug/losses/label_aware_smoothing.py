"""Label-aware smoothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.losses._base import ClassLoss
from ltaug.losses.functional import label_aware_smoothing_loss
from ltaug.priors import Counts, as_counts

SHAPES = ("concave", "linear", "convex", "power")


@checked
def smoothing_factors(
    class_counts: Counts, head: float = 0.4, tail: float = 0.1, shape: str = "concave", power: float | None = None
) -> Tensor:
    """Smoothing eps of every class, from ``tail`` for the smallest to ``head`` for the largest (MiSLAS, Eq. 7).

    With u = (n_y - n_min) / (n_max - n_min), and ``head`` everywhere if all counts are equal:

    - "concave": tail + (head - tail) sin(pi u / 2)
    - "linear": tail + (head - tail) u
    - "convex": head + (head - tail) sin(3 pi / 2 + pi u / 2)
    - "power": tail + (head - tail) u^power

    Args:
        class_counts: training samples a class, [C].
        head: eps of the largest class.
        tail: eps of the smallest class; 0 <= tail <= head <= 0.5.
        shape: see above.
        power: exponent, for "power" only.

    Returns:
        float64 [C].

    >>> smoothing_factors([100, 55, 10], head=0.4, tail=0.1, shape="linear")
    tensor([0.4000, 0.2500, 0.1000], dtype=torch.float64)
    """
    if not 0.0 <= tail <= head <= 0.5:
        raise ValueError(f"`head` and `tail` must satisfy 0 <= tail <= head <= 0.5, but are {head} and {tail}.")
    if shape not in SHAPES:
        raise ValueError(f"`shape` must be one of {', '.join(SHAPES)}, but is {shape!r}.")
    if (shape == "power") != (power is not None):
        raise ValueError(f'`power` belongs to `shape="power"`, but they are {power} and {shape!r}.')
    if power is not None and not power > 0:
        raise ValueError(f"`power` must be positive, but is {power}.")
    counts = as_counts(class_counts).double()
    spread = counts.max() - counts.min()
    if spread == 0:
        return torch.full_like(counts, head)
    u = (counts - counts.min()) / spread
    if shape == "concave":
        return tail + (head - tail) * torch.sin(math.pi * u / 2)
    if shape == "convex":
        return head + (head - tail) * torch.sin(math.pi * (1.5 + u / 2))
    return tail + (head - tail) * u ** (1.0 if power is None else power)


class LabelAwareSmoothingLoss(ClassLoss):
    """Label smoothing that is stronger for frequent classes.

    l = -sum_k q_k log p_k, q_y = 1 - eps_y, q_k = eps_y / (C - 1) elsewhere, eps by :func:`smoothing_factors` (MiSLAS,
    Zhong et al., CVPR 2021, Eq. 3 and 7, https://arxiv.org/abs/2104.00466). The released code differs: it spreads eps
    over all C classes (``mode="official_code"``). ``head = tail`` is plain label smoothing.

    Args:
        class_counts: training samples a class, [C].
        head: eps of the largest class; 0.1 to 0.4 in the paper.
        tail: eps of the smallest class; 0 or 0.1.
        shape: "concave" (the paper's), "linear", "convex" or "power".
        power: exponent of "power": below 1 concave, above convex.
        mode: "paper" or "official_code".
        reduction: "mean", "sum" or "none".
        ignore_index: class index of positions that are left out, such as 255; by default -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too.

    >>> loss = LabelAwareSmoothingLoss(class_counts=[500, 50, 5], head=0.3, tail=0.0)
    >>> loss.smoothing
    tensor([0.3000, 0.0427, 0.0000])
    """

    smoothing: Tensor

    @checked
    def __init__(
        self,
        class_counts: Counts,
        head: float = 0.4,
        tail: float = 0.1,
        shape: str = "concave",
        power: float | None = None,
        mode: str = "paper",
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, ignore_index)
        if mode not in ("paper", "official_code"):
            raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
        self.mode = mode
        self.keep("smoothing", smoothing_factors(class_counts, head, tail, shape, power))
        if self.smoothing.numel() < 2:
            raise ValueError("`class_counts` must hold at least 2 classes: with one there is nothing to smooth over.")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``."""
        return label_aware_smoothing_loss(logits, targets, self.smoothing, self.reduction, self.mode)
