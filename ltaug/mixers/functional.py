"""What the mixers do, as pure functions of tensors: no randomness, nothing in place."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cut_boxes", "dense_targets", "mix", "remix_label_weight", "unimix_factor"]


def mix(x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Mix two batches sample by sample, lam_i * x_i + (1 - lam_i) * y_i (mixup, Zhang et al., ICLR 2018,
    https://arxiv.org/abs/1710.09412).

    Args:
        x: [N, ...], floating point.
        y: the partners, like ``x``.
        lam: weight of ``x``, [N], in [0, 1].

    Returns:
        A new tensor of the shape, type and memory format of ``x``.

    >>> mix(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([1.0, 0.5])).tolist()
    [[1.0], [2.0]]
    """
    if x.shape != y.shape:
        raise ValueError(f"`x` and `y` must have the same shape, but have {list(x.shape)} and {list(y.shape)}.")
    return torch.lerp(y, x, broadcast(lam, x))


def unimix_factor(draw: Tensor, n_i: Tensor, n_j: Tensor) -> Tensor:
    """The UniMix factor, xi* = (draw + n_j / (n_i + n_j)) mod 1 (Xu et al., NeurIPS 2021, Eq. 6,
    https://arxiv.org/abs/2111.03874).

    It concentrates on the rarer of the two classes: with a small alpha the weight of sample i is near 1 where n_i <<
    n_j. At the released alpha = 0.8 the effect is slight: P(xi* >= 1/2) is 0.545 for a ratio of 9 to 1.

    Args:
        draw: a Beta(alpha, alpha) draw a pair, [N], in [0, 1].
        n_i: count (or prior) of the class of the first sample, [N].
        n_j: count (or prior) of the class of the partner, [N].

    Returns:
        The weight of the first sample, [N], in [0, 1).

    >>> unimix_factor(torch.tensor([0.1, 0.9]), torch.tensor([1, 3]), torch.tensor([3, 1]))
    tensor([0.8500, 0.1500])
    """
    return torch.remainder(draw + n_j / (n_i + n_j), 1.0)


def remix_label_weight(lam: Tensor, n_i: Tensor, n_j: Tensor, kappa: float = 3.0, tau: float = 0.5) -> Tensor:
    """ReMix's weight of the first label (Chou et al., ECCV workshops 2020, https://arxiv.org/abs/2007.03943).

    The rarer class takes the whole label where it is rare enough and not a mere trace:
    0 where n_i / n_j >= kappa and lam < tau; 1 where n_i / n_j <= 1 / kappa and 1 - lam < tau; lam elsewhere.

    Args:
        lam: weight of the first input, [N].
        n_i: count of the first sample's class, [N].
        n_j: count of the partner's class, [N].
        kappa: ratio of counts from which a class is the rarer one; > 1.
        tau: share of the input below which the more frequent class gives way.

    Returns:
        [N], in [0, 1].

    >>> remix_label_weight(torch.tensor([0.4, 0.6, 0.4]), torch.tensor([90, 90, 10]), torch.tensor([10, 10, 10]))
    tensor([0.0000, 0.6000, 0.4000])
    """
    weight = torch.where((n_i >= kappa * n_j) & (lam < tau), torch.zeros_like(lam), lam)
    return torch.where((kappa * n_i <= n_j) & (1.0 - lam < tau), torch.ones_like(lam), weight)


def cut_boxes(lam: Tensor, centre: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix's boxes: of relative volume 1 - lam around a centre, clipped at the borders (Yun et al., ICCV 2019,
    https://arxiv.org/abs/1905.04899).

    Args:
        lam: share of the input that is to stay, [N].
        centre: relative place of the centre along each axis, [N, D], in [0, 1).
        sizes: length of each of the D axes.

    Returns:
        First and last + 1 index along each axis, int64 [N, D] both, and the share that does stay after clipping and
        rounding, [N]: the weight of the first label.

    >>> cut_boxes(torch.tensor([0.75]), torch.tensor([[0.5, 0.0]]), [8, 8])
    (tensor([[2, 0]]), tensor([[6, 2]]), tensor([0.8750]))
    """
    # Axis by axis with plain numbers: a tensor of the sizes would make a GPU wait for its copy.
    side = (1.0 - lam).clamp_min(0.0).pow(1.0 / len(sizes))
    starts, stops, share = [], [], torch.ones_like(lam)
    for axis, size in enumerate(sizes):
        half = (side * size).long() // 2
        middle = (centre[:, axis] * size).long()
        starts.append((middle - half).clamp_min(0))
        stops.append((middle + half).clamp_max(size))
        share = share * ((stops[axis] - starts[axis]).to(lam.dtype) / size)
    return torch.stack(starts, 1), torch.stack(stops, 1), 1.0 - share


def dense_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Class indices as probabilities; probabilities pass through.

    Args:
        targets: int [N, ...], or probabilities [N, C, ...].
        num_classes: C.

    Returns:
        Floating point [N, C, ...].

    >>> dense_targets(torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    if targets.is_floating_point():
        if targets.ndim < 2 or targets.shape[1] != num_classes:
            raise ValueError(
                f"`targets` must be class indices [N, ...] or probabilities [N, {num_classes}, ...], but are "
                f"{targets.dtype} of "
                f"shape {list(targets.shape)}."
            )
        return targets
    shape = (targets.shape[0], num_classes, *targets.shape[1:])
    dense = torch.zeros(shape, device=targets.device, dtype=torch.get_default_dtype())
    return dense.scatter_(1, targets.long().unsqueeze(1), 1.0)


def broadcast(lam: Tensor, like: Tensor) -> Tensor:
    """[N] as [N, 1, ...] in the type and rank of ``like``, to be multiplied with it."""
    return lam.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
