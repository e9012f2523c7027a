"""CutMix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import Mixer, beta_cdf, beta_draws, check_alpha
from ltaug.mixers.functional import boxes


class CutMix(Mixer):
    """CutMix: a box of the partner is pasted into the sample, and labels are mixed by its area.

    lam ~ Beta(alpha, alpha); the box has side sqrt(1 - lam) of the image's and a uniform centre, is clipped at the
    borders, and the first label's weight is 1 - its true share of the area (Yun et al., ICCV 2019,
    https://arxiv.org/abs/1905.04899). One box a pair; the released code cuts one a batch.

    Args:
        num_classes: C.
        alpha: parameter of the Beta distribution.
        dims: the axes to cut along: height and width by default, ``(-1,)`` for a stretch of a waveform.
        sizes: lengths of the inputs along ``dims``, so that :meth:`expected_weights` counts whole pixels; mixing does
            not need them.
        multi_label: "union" or "convex" for samples with several labels, as in :class:`MixUp`.

    A label for each position, [N, H, W] as in segmentation, is pasted with its pixel.

    Raises:
        ValueError: no axis, or not one size an axis; when called, ``dims`` name the batch, an axis twice, or one that
            the inputs do not have.

    >>> inputs, targets = CutMix(num_classes=3)(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2]))
    >>> inputs.shape, targets.shape
    (torch.Size([4, 1, 8, 8]), torch.Size([4, 3]))
    """

    @checked
    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        dims: tuple[int, ...] = (-2, -1),
        sizes: tuple[int, ...] | None = None,
        multi_label: str | None = None,
    ) -> None:
        super().__init__(num_classes, multi_label)
        self.alpha = check_alpha(alpha)
        self.dims = tuple(dims)
        if not self.dims:
            raise ValueError("`dims` must name at least one axis to cut along, but is empty.")
        if sizes is not None and (len(sizes) != len(self.dims) or min(sizes) < 1):
            raise ValueError(f"`sizes` must be one positive length for each of the dims {self.dims}, but are {sizes}.")
        self.sizes = None if sizes is None else tuple(sizes)

    def expected_weights(self) -> Tensor:
        """Mean weight of the first label, the same for all pairs of classes, float64 [C, C].

        It is above 1/2, since boxes lose what lies beyond a border. A box of relative side c covers c - c^2 / 4 of an
        axis on average over its centre, and c = (1 - lam)^(1 / D) where D axes are cut, so E = 1 - E[(c - c^2 / 4)^D]:
        0.583 for one axis and 0.679 for two at alpha = 1. That is for a continuous image. Boxes are rounded down to
        whole pixels, which gives 0.700 for 32 x 32; with ``sizes`` it is exact.
        """
        axes = len(self.dims)
        if self.sizes is not None:
            # Between two of these sides no box of any axis grows by a pixel.
            steps = {cut / size for size in self.sizes for cut in range(size + 1)}
            side = torch.tensor(sorted(steps), dtype=torch.float64)
            probability = beta_cdf(self.alpha, self.alpha, side**axes).diff()
            share = torch.ones_like(probability)
            for size in self.sizes:
                half = ((side[:-1] + side[1:]) / 2 * size).floor().div(2, rounding_mode="floor").unsqueeze(1)
                middle = torch.arange(size, dtype=torch.float64)
                share *= ((middle + half).clamp(max=size) - (middle - half).clamp(min=0)).mean(1) / size
            pasted = float((probability * share).sum())
        else:

            def moment(power: float) -> float:
                """E[draw^power] of Beta(alpha, alpha)."""
                up = math.lgamma(self.alpha + power) - math.lgamma(self.alpha)
                return math.exp(up - math.lgamma(2 * self.alpha + power) + math.lgamma(2 * self.alpha))

            pasted = sum(math.comb(axes, k) * (-0.25) ** k * moment(1 + k / axes) for k in range(axes + 1))
        return torch.tensor(1.0 - pasted, dtype=torch.float64).expand(self.num_classes, self.num_classes)

    def mix(
        self, inputs: Tensor, partner_inputs: Tensor, targets: Tensor, partner_targets: Tensor, *, overwrite: bool
    ) -> tuple[Tensor, Tensor]:
        """Paste the boxes; returns the inputs and the share of the first sample that is left, [N]."""
        dims = [dim % inputs.ndim if -inputs.ndim <= dim < inputs.ndim else 0 for dim in self.dims]
        if 0 in dims or len(set(dims)) < len(dims):
            raise ValueError(
                f"`dims` must name different axes of the inputs other than the batch, but are {self.dims} for inputs "
                f"of shape {list(inputs.shape)}."
            )
        lam = beta_draws(self.alpha, inputs.shape[0], inputs.device)
        centre = torch.rand(inputs.shape[0], len(dims), device=inputs.device)
        start, stop, kept = boxes(lam, centre, [inputs.shape[dim] for dim in dims])
        inside = torch.ones(1, dtype=torch.bool, device=inputs.device)
        for k, dim in enumerate(dims):
            place = torch.arange(inputs.shape[dim], device=inputs.device)
            along = (place >= start[:, k : k + 1]) & (place < stop[:, k : k + 1])
            shape = [1] * inputs.ndim
            shape[0], shape[dim] = along.shape
            inside = inside & along.view(shape)
        rows = targets.is_floating_point() or self.multi_label is not None
        if targets.ndim > 1 + rows:
            kept = self._kept(inside, inputs, targets.shape[1 + rows :])
        return torch.where(inside, partner_inputs, inputs), kept

    def _kept(self, inside: Tensor, inputs: Tensor, where: torch.Size) -> Tensor:
        """Where the first sample's labels are left, bool [N, ...], of a label at every position."""
        if where != inputs.shape[2:] or inside.shape[1] != 1:
            raise ValueError(
                f"`targets` must have a label for each sample, or for each position of inputs of shape "
                f"{list(inputs.shape)}, [N, {', '.join(map(str, inputs.shape[2:]))}], to be cut with them, but have "
                f"labels of {list(where)} positions. Resize them, or take another mixer."
            )
        return ~inside.squeeze(1).expand(len(inputs), *where)

    def _mixed_targets(self, targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
        if lam.dtype != torch.bool:
            return super()._mixed_targets(targets, partner_targets, lam)
        first, second = (
            each.to(torch.get_default_dtype()) if self.multi_label else self._one_hot(each)
            for each in (targets, partner_targets)
        )
        return torch.where(lam.unsqueeze(1), first, second)

    def __repr__(self) -> str:
        return f"CutMix(num_classes={self.num_classes}, alpha={self.alpha}, dims={self.dims}{self._rule()})"
