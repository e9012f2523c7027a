"""What becomes of raw samples before a network sees them, as a module: for exported models and for new samples.

A run's ``ltaug.json`` says it in plain values (``preprocessing``, by their ``kind``). The module gives what the
recipe's own loader of test samples gives, number for number, and its graph has no size in it: ``torch.export`` takes it
with any number of samples, and with pictures and recordings of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.errors import UserError, did_you_mean

__all__ = ["KINDS", "LONGEST", "preprocessing_module"]

LONGEST = 4
"""Longest side over the shortest one that is resized; of longer pictures the central part is enough."""
NEAR = 10.0
"""Metres at which encoded depth is half of what it is at 0."""
BITS, MOST_BITS = 15, 22
"""Fixed point of the weights in which torch resizes pictures of 8 bits: bits of the largest weight, its sign apart, and
at most so many behind the point."""


def preprocessing_module(preprocessing: Mapping[str, Any]) -> nn.Module:
    """Make the module from a batch of raw samples to what a run's network takes.

    ================= ============================================== ===================================================
    kind              raw samples                                    what the network takes
    ================= ============================================== ===================================================
    ``small_images``  uint8 [N, H, W, C] of the recorded size        normalised, float32 [N, C, H, W]
    ``images``        uint8 [N, H, W, 3] in RGB, of any size         resized, the centre cropped, normalised, [N, 3, S,
                                                                     S]
    ``sounds``        float32 [N, T] in -1..1, of any length, at     equally spaced crops, or windows that cover the
                      ``sample_rate``                                recording, [N, K, crop_length]
    ``scenes``        uint8 [N, H, W, 3] in RGB; or depth in metres, resized, encoded, normalised, [N, C, height, width]
                      float32 [N, H, W], 0 where there is none
    ================= ============================================== ===================================================

    All samples of a batch have one size. Pictures are resized with antialiasing in the fixed point in which torch does
    it with 8 bits, so that pixels are equal to its own. Recordings are rounded to 16 bits, as decoded clips are; what
    is cut off their ends (``trim_silence``, ``trim_db``) is cut off before.

    Args:
        preprocessing: of a run's ``ltaug.json``.

    Raises:
        UserError: there is no ``kind`` in it, or an unknown one: the recipe is somebody's own, and its network takes
            its samples as they are.

    >>> values = {"kind": "images", "image_size": 8, "test_resize": 0.5, "mean": [0.5] * 3, "std": [0.5] * 3}
    >>> preprocessing_module(values)(torch.zeros(2, 40, 30, 3, dtype=torch.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """
    kind = preprocessing.get("kind")
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS) or "."
        found = f"an unknown `kind`, {kind!r}{hint}" if kind else "no `kind`."
        raise UserError(
            f"The run's `preprocessing` has {found} It must be one of {', '.join(KINDS)} for raw samples to be taken."
        )
    try:
        return KINDS[kind](preprocessing)
    except KeyError as error:
        raise UserError(
            f"The run's `preprocessing` of kind {kind!r} lacks {error}. Restore the run's ltaug.json."
        ) from error


class _SmallImages(nn.Module):
    """(pixel / 255 - mean) / std as one multiplication and one addition, as :class:`ltaug.ResidentLoader` has them."""

    scale: Tensor
    offset: Tensor

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        mean, std = (torch.tensor(values[name], dtype=torch.float64) for name in ("mean", "std"))
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("offset", (-mean / std).float(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise uint8 [N, H, W, C]: float32 [N, C, H, W]."""
        return (inputs.float() * self.scale + self.offset).permute(0, 3, 1, 2)


class _Normalize(nn.Module):
    """The same, as :class:`ltaug.vision.transforms.Normalize` has them: computed in single precision."""

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)), persistent=False)
        self.register_buffer("offset", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise pixels in 0..255, float32 [N, C, H, W]."""
        return pixels * self.scale[:, None, None] + self.offset[:, None, None]


class _Images(nn.Module):
    """As :class:`ltaug.vision.transforms.TestTransform`, of a batch of one size."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.size, share = int(values["image_size"]), float(values["test_resize"])
        self.short = None if share == 1 else round(self.size / share)
        self.normalize = _Normalize(values["mean"], values["std"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Resize uint8 [N, H, W, 3], crop and normalise: float32 [N, 3, size, size]."""
        height, width = (_number(size, inputs) for size in inputs.shape[1:3])
        filters = []
        for side, other, positions in ((height, width, inputs.shape[1]), (width, height, inputs.shape[2])):
            if self.short is None:
                weights = _filters(positions, side, side.new_tensor(self.size), self.size)
            else:
                shortest = torch.minimum(side, other)
                seen = torch.minimum(side, LONGEST * shortest)  # of a panorama the central part
                resized = torch.floor(self.short * seen / torch.minimum(seen, other))
                rows = _filters(positions, seen, resized, LONGEST * self.short, torch.floor((side - seen) / 2))
                half = (resized - self.size) / 2
                first = torch.where(half < 0, half.ceil(), half.round()).long()
                places = first + torch.arange(self.size, device=first.device)  # what lies outside is black
                inside = (places >= 0) & (places < len(rows))
                weights = rows.index_select(0, places.clamp(0, len(rows) - 1)) * inside[:, None]
            filters.append(weights)
        return self.normalize(_resized(inputs.permute(0, 3, 1, 2), *filters))  # type: ignore[no-any-return]


class _Sounds(nn.Module):
    """As :class:`ltaug.ResidentWaveformLoader` cuts test clips, of a batch of one length."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.length, self.crops = int(values["crop_length"]), int(values["test_crops"])
        self.hop = round(values["test_hop"] * values["sample_rate"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Cut float32 [N, T]: float32 [N, K, crop_length]."""
        padding = self.length // 2
        room = inputs.shape[1] + 2 * padding - self.length  # which is not negative
        if self.hop:
            count = 1 + (room + self.hop - 1) // self.hop
            starts, behind = torch.arange(count, device=inputs.device) * self.hop, self.hop - 1
        else:
            starts, behind = torch.arange(self.crops, device=inputs.device) * (room // (self.crops - 1)), 0
        samples = (inputs.clamp(-1, 1) * 32768).round().clamp(max=32767) / 32768  # as decoded clips are
        padded = nn.functional.pad(samples, (padding, padding + behind))
        return padded[:, starts[:, None] + torch.arange(self.length, device=inputs.device)]


class _Scenes(nn.Module):
    """As :class:`ltaug.vision.segmentation.SceneSet`, of a batch of one size."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.sizes = int(values["height"]), int(values["width"])
        self.depth = values["modality"] == "depth"
        self.normalize = _Normalize(values["mean"], values["std"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Resize uint8 [N, H, W, 3] or float32 [N, H, W], and normalise: float32 [N, C, height, width]."""
        if not self.depth:
            filters = []
            for positions, size in zip(inputs.shape[1:3], self.sizes, strict=True):
                side = _number(positions, inputs)
                filters.append(_filters(positions, side, side.new_tensor(size), size))
            return self.normalize(_resized(inputs.permute(0, 3, 1, 2), *filters))  # type: ignore[no-any-return]
        for dim, size in zip((1, 2), self.sizes, strict=True):  # the nearest: no depths in between
            step = (_number(inputs.shape[dim], inputs) / size).expand(size)
            half = torch.cat([step[:1] / 2, step[1:]])  # added up one by one, as Pillow does
            inputs = inputs.index_select(dim, half.cumsum(0).long())
        near = torch.where(inputs > 0, 255 / (1 + inputs.clamp(min=0) / NEAR), 0.0)
        return self.normalize(near.floor()[:, None])  # type: ignore[no-any-return]


KINDS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "small_images": _SmallImages,
    "images": _Images,
    "sounds": _Sounds,
    "scenes": _Scenes,
}
"""Modules that :func:`preprocessing_module` makes, by the kind of the raw samples."""


def _number(size: int, like: Tensor) -> Tensor:
    """A size as a number, float64 []: what depends on it is then computed by the graph, not when it is exported."""
    return torch.full((), size, dtype=torch.float64, device=like.device)


def _filters(positions: int, seen: Tensor, size: Tensor, most: int, first: Tensor | None = None) -> Tensor:
    """Weights that resize a line of pixels by a triangular filter, float64 [most, positions]; each row sums to 1.

    Pixel k of the result lies at c = (k + 1/2) s of the line, s = seen / size, and pixel j of the line counts as 1 - |j
    + 1/2 - c| / max(s, 1). Weights are rounded to fixed point, see :data:`BITS`.

    Args:
        positions: pixels of the line.
        seen: how many of them are resized, from ``first`` on.
        size: pixels of the result, at most ``most``; rows beyond are 0.
        most: rows.
        first: the first pixel that is seen; by default 0.
    """
    line = torch.arange(positions, dtype=torch.float64, device=seen.device)
    line = line if first is None else line - first
    places = torch.arange(most, dtype=torch.float64, device=seen.device)
    scale = seen / size
    support, centers = scale.clamp(min=1), ((places + 0.5) * scale)[:, None]
    low = (centers - support + 0.5).trunc().clamp(min=0)
    high = torch.minimum((centers + support + 0.5).trunc(), seen)
    weights = (1 - (line - centers + 0.5).abs() * (1 / support)).clamp(min=0)
    weights = weights * ((line >= low) & (line < high) & (places < size)[:, None])
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
    powers = 2.0 ** torch.arange(MOST_BITS, dtype=torch.float64, device=seen.device)
    fits = (0.5 + weights.max() * (2 * powers)).floor() < 2.0**BITS
    fixed = 1 + (powers * fits).sum()  # 2 to the number of them
    return (weights * fixed + 0.5).floor() / fixed


def _resized(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize uint8 [N, C, H, W] by weights [height, H] and [width, W], rows of pixels first, to whole numbers."""
    # Exact: these are sums of at most 8 + 22 bits.
    wide = (pixels.double() @ columns.T + 0.5).floor().clamp(max=255)
    return (rows @ wide + 0.5).floor().clamp(max=255).float()
