"""Rendered road scenes with depth and a class for every pixel: data for segmentation that need no files.

A scene is seen from a car: a road with lane markings, pavements, facades, and things that stand beside or on the road,
all placed in metres and projected by one pinhole camera, so that colour, depth and labels agree. The classes are those
of SYNTHIA (Ros et al., CVPR 2016) and about as uneven: of traffic lights there is one pixel to some thousands of road.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltaug.errors import did_you_mean

__all__ = ["CONDITIONS", "SCENE_CLASSES", "VOID", "Scenes", "corrupt_scenes", "render_scenes"]

SCENE_CLASSES = (
    *("sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car"),
    *("traffic sign", "pedestrian", "bicycle", "lane marking", "traffic light"),
)
"""What a pixel can show, in the order of SYNTHIA's sequences, whose 14th class is void."""
VOID = 255
"""Label of pixels that show none of it, and are ignored."""
SKY, BUILDING, ROAD, SIDEWALK, FENCE, VEGETATION, POLE, CAR, SIGN, PEDESTRIAN, BICYCLE, LANE, LIGHT = range(13)
FAR = 65535
"""Depth of the sky, in centimetres: the largest number of 16 bits, as in SYNTHIA."""
CAMERA, FACADE, KERB = 1.6, 8.0, 4.2
"""Metres from the camera down to the road, and from the middle of the road to facades and kerbs."""
COLOURS = np.array(
    [
        *([150, 175, 205], [128, 112, 100], [98, 98, 102], [132, 128, 126], [110, 104, 92], [82, 106, 62]),
        *([122, 122, 126], [112, 84, 90], [170, 150, 80], [116, 84, 72], [92, 84, 96], [196, 196, 188]),
        [120, 116, 84],
    ],
    dtype=np.float32,
)
"""Mean colour of each class; single things differ from it by some tens."""

Array = NDArray[Any]


@dataclass
class Scenes:
    """Pictures of road scenes, their depth, and the class of each pixel."""

    rgb: NDArray[np.uint8]
    """[N, H, W, 3]."""
    depth: NDArray[np.uint16]
    """[N, H, W], in centimetres; 0 where the sensor has measured none, 65535 in the sky."""
    labels: NDArray[np.uint8]
    """[N, H, W], index in :data:`SCENE_CLASSES`, or 255."""

    def __len__(self) -> int:
        return len(self.labels)


def render_scenes(indices: Iterable[int], seed: int = 0, height: int = 96, width: int = 128) -> Scenes:
    """Render road scenes by their numbers; scene k of a seed is the same whichever others are rendered with it.

    Args:
        indices: numbers of the scenes, N of them.
        seed: of all of them.
        height: H, at least 32 pixels.
        width: W, at least 32 pixels.

    Raises:
        ValueError: a size or a number is out of range.

    >>> scenes = render_scenes(range(2))
    >>> scenes.rgb.shape, scenes.depth.dtype, bool((scenes.depth[scenes.labels == 0] == 65535).all())
    ((2, 96, 128, 3), dtype('uint16'), True)
    """
    numbers = list(indices)
    if height < 32 or width < 32:
        raise ValueError(f"`height` and `width` must be at least 32 pixels, but are {height} and {width}.")
    if seed < 0 or any(k < 0 for k in numbers):
        raise ValueError("`seed` and `indices` must not be negative.")
    scenes = Scenes(
        np.empty((len(numbers), height, width, 3), np.uint8),
        np.empty((len(numbers), height, width), np.uint16),
        np.empty((len(numbers), height, width), np.uint8),
    )
    for place, k in enumerate(numbers):
        rgb, depth, labels = _scene(np.random.default_rng((seed, k)), height, width)
        scenes.rgb[place] = rgb.clip(0, 255)
        scenes.depth[place] = np.where(labels == SKY, FAR, np.minimum(100 * depth, FAR - 1))
        scenes.labels[place] = labels
    return scenes


def _scene(generator: np.random.Generator, height: int, width: int) -> tuple[Array, Array, Array]:
    """Colours, metres and labels of one scene."""
    focal = 0.8 * width
    horizon = height * generator.uniform(0.38, 0.48)
    middle = width * generator.uniform(0.42, 0.58)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    ground = (focal * CAMERA / np.maximum(rows - horizon, 1e-3)).astype(np.float32)  # distance of the road in a row
    beside = FACADE * focal / np.maximum(np.abs(columns - middle), 1e-3)  # and of the facade in a column
    across = (columns - middle) / focal * ground
    off = np.abs(across)
    labels = np.where(off < KERB, ROAD, SIDEWALK).astype(np.uint8)
    dashed = (off < 0.1) & ((ground + generator.uniform(0, 6)) % 6 < 3)
    labels[(dashed | (np.abs(off - 3.8) < 0.08)) & (ground < 60)] = LANE
    # Facades: blocks of their own height along the street, some of which are gaps with hedges or nothing.
    block = np.minimum(beside // generator.uniform(7, 12), 9).astype(np.int64) + 10 * (columns > middle)
    tall = generator.uniform(5, 16, 20)
    kind = generator.choice([BUILDING, BUILDING, BUILDING, VEGETATION, SKY], 20).astype(np.uint8)
    tall[kind == VEGETATION] *= 0.4
    top, bottom = horizon - focal * (tall[block] - CAMERA) / beside, horizon + focal * CAMERA / beside
    facade = (rows >= top) & (rows < bottom) & (kind[block] != SKY)
    wall = np.where(facade, beside, ground)
    labels = np.where(facade, kind[block], np.where(rows <= horizon, np.uint8(SKY), labels)).astype(np.uint8)
    depth = wall.astype(np.float32)
    shade = generator.normal(0, 16, (20, 3)).astype(np.float32)
    rgb = COLOURS[labels]
    rgb += np.where(facade, 1.0, 0.0).astype(np.float32)[..., None] * shade[block]
    for distance, draw, x in _things(generator):
        draw(_Canvas(rgb, depth, labels, generator), distance, middle + focal * x / distance, horizon, focal / distance)
    light = generator.uniform(0.75, 1.1) * np.array([1.0, generator.uniform(0.9, 1.02), generator.uniform(0.78, 1.1)])
    rgb = rgb * light.astype(np.float32) + generator.normal(0, 9, (height, width, 1)).astype(np.float32)
    depth *= 1 + generator.normal(0, 0.01, (height, width)).astype(np.float32)
    hood = int(height * generator.uniform(0.0, 0.05))  # the own car, of no class
    if hood:
        labels[-hood:, width // 4 : -width // 4] = VOID
        rgb[-hood:, width // 4 : -width // 4] = 40
        depth[-hood:, width // 4 : -width // 4] = 1.5
    return rgb, depth, labels


@dataclass
class _Canvas:
    rgb: Array
    depth: Array
    labels: Array
    generator: np.random.Generator

    def box(self, kind: int, distance: float, box: tuple[float, float, float, float], rounded: bool = False) -> None:
        """Fill a box, or the ellipse in it: left, right, top, bottom, in pixels; at least one of each."""
        height, width = self.labels.shape
        left, top = int(max(box[0], 0)), int(max(box[2], 0))
        right, bottom = int(min(max(box[1], int(box[0]) + 1), width)), int(min(max(box[3], int(box[2]) + 1), height))
        if left >= right or top >= bottom:
            return
        place = np.s_[top:bottom, left:right]
        colour = COLOURS[kind] + self.generator.normal(0, 14, 3)
        if not rounded:
            self.rgb[place], self.depth[place], self.labels[place] = colour, distance, kind
            return
        y, x = np.ogrid[top:bottom, left:right]
        radius = ((x + 0.5 - (box[0] + box[1]) / 2) / (box[1] - box[0])) ** 2
        inside = radius + ((y + 0.5 - (box[2] + box[3]) / 2) / (box[3] - box[2])) ** 2 <= 0.25
        self.rgb[place][inside], self.depth[place][inside], self.labels[place][inside] = colour, distance, kind


def _things(generator: np.random.Generator) -> list[tuple[float, Callable[..., None], float]]:
    """What stands in a scene, the furthest first: its distance, how it is drawn, and metres from the middle."""
    found: list[tuple[float, Callable[..., None], float]] = []
    for draw, number, near, far in (
        *((_tree, 3, 5.6, 7.4), (_fence, 2, 6.2, 7.6), (_pole, 2, 4.6, 5.4), (_car, 2, 0.8, 3.2)),
        *((_sign, 0.8, 4.6, 5.4), (_light, 0.5, 4.6, 5.2), (_pedestrian, 1.5, 3.0, 7.0), (_bicycle, 0.8, 2.5, 4.6)),
    ):
        for _ in range(generator.poisson(number)):
            side = -1 if generator.random() < 0.5 else 1
            found.append((float(generator.uniform(6, 30)), draw, side * float(generator.uniform(near, far))))
    return sorted(found, key=lambda thing: -thing[0])


def _tree(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    foot, radius, middle = horizon + CAMERA * scale, canvas.generator.uniform(1.0, 1.9) * scale, horizon - 2.2 * scale
    canvas.box(VEGETATION, z, (u - 0.15 * scale, u + 0.15 * scale, middle, foot))
    canvas.box(VEGETATION, z, (u - radius, u + radius, middle - radius, middle + radius), rounded=True)


def _fence(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    half = canvas.generator.uniform(1.0, 2.0) * scale
    canvas.box(FENCE, z, (u - half, u + half, horizon + 0.5 * scale, horizon + CAMERA * scale))


def _pole(canvas: _Canvas, z: float, u: float, horizon: float, scale: float, kind: int = POLE) -> None:
    half, high = 0.08 * scale, canvas.generator.uniform(2.0, 4.5) if kind == POLE else 0.6
    canvas.box(POLE, z, (u - half, u + half, horizon - high * scale, horizon + CAMERA * scale))


def _sign(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    _pole(canvas, z, u, horizon, scale, SIGN)
    half = 0.35 * scale
    canvas.box(SIGN, z, (u - half, u + half, horizon - 1.3 * scale, horizon - 0.6 * scale), rounded=True)


def _light(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    _pole(canvas, z, u, horizon, scale, LIGHT)
    canvas.box(LIGHT, z, (u - 0.2 * scale, u + 0.2 * scale, horizon - 1.5 * scale, horizon - 0.6 * scale))


def _car(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    foot = horizon + CAMERA * scale
    canvas.box(CAR, z, (u - 0.9 * scale, u + 0.9 * scale, foot - 0.9 * scale, foot))
    canvas.box(CAR, z, (u - 0.7 * scale, u + 0.7 * scale, foot - 1.45 * scale, foot - 0.9 * scale))


def _pedestrian(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    foot = horizon + CAMERA * scale
    canvas.box(PEDESTRIAN, z, (u - 0.24 * scale, u + 0.24 * scale, foot - 1.45 * scale, foot))
    canvas.box(PEDESTRIAN, z, (u - 0.14 * scale, u + 0.14 * scale, foot - 1.75 * scale, foot - 1.45 * scale))


def _bicycle(canvas: _Canvas, z: float, u: float, horizon: float, scale: float) -> None:
    foot = horizon + CAMERA * scale
    for x in (-0.5, 0.5):
        canvas.box(BICYCLE, z, (u + (x - 0.3) * scale, u + (x + 0.3) * scale, foot - 0.6 * scale, foot), rounded=True)
    canvas.box(BICYCLE, z, (u - 0.4 * scale, u + 0.4 * scale, foot - 0.7 * scale, foot - 0.55 * scale))


# --- what training has not seen ---------------------------------------------------------------------------------------


def _fog(rgb: Array, depth: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    seen = np.exp(-depth.astype(np.float32)[..., None] / 100 / generator.uniform(8, 20))
    return rgb * seen + 190 * (1 - seen), depth


def _night(rgb: Array, depth: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    dark = generator.uniform(0.15, 0.35) * np.array([0.8, 0.9, 1.2], np.float32) * rgb
    return dark + generator.normal(0, 10, rgb.shape).astype(np.float32), depth


def _rain(rgb: Array, depth: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    drops = generator.random(rgb.shape[:2]) < 0.02
    streaks = np.logical_or.reduce([np.roll(drops, (k, k // 3), (0, 1)) for k in range(8)])
    grey = 0.55 * rgb + 55
    return np.where(streaks[..., None], 0.4 * grey + 130, grey), depth


def _depth_noise(rgb: Array, depth: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    return rgb, depth * np.exp(generator.normal(0, 0.35, depth.shape))


def _depth_dropout(rgb: Array, depth: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    lost = generator.random(depth.shape) < 0.3
    rows, columns = -(-depth.shape[0] // 8), -(-depth.shape[1] // 8)
    blocks = np.kron(generator.random((rows, columns)) < 0.4, np.ones((8, 8), bool))
    return rgb, np.where(lost | blocks[: depth.shape[0], : depth.shape[1]], 0, depth)


CONDITIONS: dict[str, Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]] = {
    "fog": _fog,
    "night": _night,
    "rain": _rain,
    "depth_noise": _depth_noise,
    "depth_dropout": _depth_dropout,
}
"""What can happen to a scene: fog that thickens with distance, night and rain to its picture, the rest to its depth."""


def corrupt_scenes(scenes: Scenes, condition: str, seed: int = 0) -> Scenes:
    """Change the picture or the depth of scenes as a condition does that training has not seen; labels stay.

    Args:
        scenes: not changed.
        condition: key of :data:`CONDITIONS`.
        seed: of the noise.

    Raises:
        ValueError: the condition is not known.

    >>> fog = corrupt_scenes(render_scenes([0]), "fog")
    >>> fog.rgb.shape
    (1, 96, 128, 3)
    """
    if condition not in CONDITIONS:
        hint = did_you_mean(condition, CONDITIONS) or "."
        raise ValueError(f"`condition` must be one of {', '.join(CONDITIONS)}, but is {condition!r}{hint}")
    generator = np.random.default_rng((seed, list(CONDITIONS).index(condition)))
    rgb, depth = np.empty_like(scenes.rgb), np.empty_like(scenes.depth)
    for k in range(len(scenes)):
        picture, measured = CONDITIONS[condition](scenes.rgb[k], scenes.depth[k], generator)
        rgb[k], depth[k] = picture.clip(0, 255), measured.clip(0, FAR)
    return Scenes(rgb, depth, scenes.labels)
