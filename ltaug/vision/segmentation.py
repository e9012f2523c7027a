"""Road scenes of several sensors: pictures, depth and a class for each pixel, from files, tables or the renderer.

A *condition* is what scenes were taken in: ``test`` is like the training, others, such as fog, it has not seen.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ltaug.commandline import NonNegativeInt, PositiveFloat, PositiveInt
from ltaug.errors import UserError
from ltaug.loaders import SeededLoader
from ltaug.loaders.folders import TEST_SPLITS, TRAIN_SPLITS, is_leftover, natural_order
from ltaug.loaders.tables import check_columns, load_splits
from ltaug.preprocessing import NEAR
from ltaug.run import content_hash
from ltaug.vision.decoding import decode, open_image, warn
from ltaug.vision.folders import is_image
from ltaug.vision.scenes import CONDITIONS, SCENE_CLASSES, VOID, Scenes, corrupt_scenes, render_scenes
from ltaug.vision.tables import ImageColumn, choose_splits
from ltaug.vision.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, collate_images

__all__ = [
    "SceneData",
    "SceneSet",
    "SceneSettings",
    "encode_depth",
    "read_plane",
    "read_scene_folder",
    "read_scene_table",
    "read_synthia",
    "rendered_scenes",
]

Array = NDArray[Any]
Opener = Callable[[int], tuple[Array, Array, Array]]
"""Picture uint8 [H, W, 3], depth in metres [H, W] (0 where there is none), and labels uint8 [H, W] of a scene."""
FOLDERS = ("rgb", "depth", "labels")
SYNTHIA_FOLDERS = ("RGB", "Depth", os.path.join("GT", "LABELS"))
SYNTHIA_IN = ("dawn", "summer", "night", "sunset")
"""Conditions of SYNTHIA's sequence 05 that Tian et al. (NeurIPS 2020) train on; the others are tested on only."""
SYNTHIA_CLASSES = np.full(65536, VOID, np.uint8)
"""Class of a label of SYNTHIA's sequences: 0 is void, 13 and 14 are reserved, 15 is a traffic light."""
SYNTHIA_CLASSES[1:13], SYNTHIA_CLASSES[15] = range(12), 12
COUNTED = 2000
"""Label maps of the training scenes, evenly spaced, whose pixels are counted for the class counts."""
FEW = 5000
"""Pixels of the test scenes of which fewer, with their logits, make rough numbers."""


@dataclass
class SceneSettings:
    """What can be said of scenes, whichever they are."""

    modality: Literal["rgb", "depth"] = "rgb"
    """What the network sees: the picture or the depth. Train one run on each, and fuse them with `ltaug fuse`."""
    data_dir: str | None = None
    """Folder of the scenes, or of parquet files."""
    hub_id: str | None = None
    """OWNER/NAME of a data set of the hub."""
    rgb_column: str = "rgb"
    """Columns of pictures, depths and labels, each of them images, of the hub and of parquet files."""
    depth_column: str = "depth"
    """See `rgb_column`."""
    label_column: str = "labels"
    """See `rgb_column`."""
    allow_outside: bool = False
    """Read images outside of `data_dir`, too, where a table names such: only if you trust its author."""
    height: PositiveInt = 384
    """Pixels of a scene, which is resized."""
    width: PositiveInt = 768
    """See `height`."""
    depth_scale: PositiveFloat = 0.01
    """Metres of one unit of the depth files: 0.01 for centimetres, as in SYNTHIA."""
    flip: bool = True
    """Mirror training scenes at random."""
    keep_every: PositiveInt = 8
    """Of the logits a run keeps those of every so many pixels, in rows and in columns, for `correct` and `fuse`."""
    data_seed: NonNegativeInt = 0
    """Which scenes are rendered, or which files are trained on where a folder has no splits."""
    workers: NonNegativeInt = 2
    """Processes that decode, for each training process; 0 decodes in the training's."""


def encode_depth(metres: Array) -> NDArray[np.uint8]:
    """Encode depth as a grey picture: 255 at the camera, 127 at ten metres, to 0 far away; 0 where there is none.

    >>> encode_depth(np.array([0.0, 0.1, 10.0, 1000.0])).tolist()
    [0, 252, 127, 2]
    """
    found: NDArray[np.uint8] = np.where(metres > 0, 255 / (1 + np.maximum(metres, 0) / NEAR), 0).astype(np.uint8)
    return found


def read_plane(image: Image.Image) -> Array:
    """Read numbers that an image stores, such as labels or depth, as they are: uint8, uint16, int32 or float32 [H, W].

    Of several channels it is the first.

    Raises:
        UserError: the image stores 16 bits in a way of which only the upper half can be read.
    """
    return _channels(image)[..., 0]


def _channels(image: Image.Image) -> Array:
    """The numbers of :func:`read_plane` of all channels but transparency, [H, W, 1 or 3].

    Pillow takes the upper byte of 16-bit channels, which of small numbers are all 0, so that these are read twice: as
    if their bytes stood the other way round, too. Greys of 2 and 4 bits it scales to 255.
    """
    file, tiles = (getattr(image, name, None) for name in ("fp", "tile"))
    raw = tiles[0][3] if tiles else ""
    raw = str(raw[0] if isinstance(raw, tuple) and raw else raw)
    if file is not None and raw in ("RGB;16B", "RGBA;16B", "LA;16B"):
        file.seek(0)
        stored = file.read()

        def unpacked(bytes_as: str) -> Array:
            half: Any = Image.open(io.BytesIO(stored))
            half.tile = [(*tile[:3], bytes_as) for tile in half.tile]
            return np.asarray(half).astype(np.uint16)

        if raw == "LA;16B":  # four bytes, of which two are the grey
            whole = unpacked("RGBA")
            return 256 * whole[..., :1] + whole[..., 1:2]
        return (256 * unpacked(raw) + unpacked(raw.replace("16B", "16L")))[..., :3]
    values = np.asarray(image)  # of a palette its indices
    if ";16" in raw and values.dtype == np.uint8:
        raise UserError(
            f"An image of labels or depth stores 16 bits as {raw} ({image.format}), of which only the upper half can "
            "be read. Store it as a grey PNG."
        )
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if raw[:3] in ("L;2", "L;4"):
        values = values // (85 if raw[2] == "2" else 17)
    return values[..., None] if values.ndim == 2 else values[..., : 1 if values.shape[-1] == 2 else 3]


@dataclass
class SceneFiles:
    """Opens scenes by their number."""

    triples: Sequence[tuple[Any, Any, Any]]
    """What each of three readers opens: paths, or rows of a table."""
    open: Callable[[Any, int], Image.Image]
    """An image of an entry of a triple; the number says which of the three it is."""
    depth_scale: float
    classes: Array | None = None
    """Class by stored label; by default labels are classes, and 255 is void."""
    num_classes: int = len(SCENE_CLASSES)

    def __call__(self, k: int) -> tuple[Array, Array, Array]:
        """Picture, depth in metres and labels of a scene."""
        rgb, depth, labels = self.triples[k]
        picture, _ = decode(self.open(rgb, 0))
        return np.asarray(picture), self.metres(self.open(depth, 1)), self.labels(k, self.open(labels, 2))

    def metres(self, image: Image.Image) -> Array:
        """Depth of an image, 0 where there is none."""
        depth = read_plane(image).astype(np.float32) * self.depth_scale
        return np.where(np.isfinite(depth), depth, 0)

    def labels(self, k: int, image: Image.Image | None = None) -> NDArray[np.uint8]:
        """Classes of the pixels of a scene."""
        channels = _channels(self.open(self.triples[k][2], 2) if image is None else image)
        if self.classes is None and (channels != channels[..., :1]).any():
            raise UserError(
                f"The labels of {self.name(k)} are colours, but must be class numbers: an image of one channel, or of "
                "a palette, with 0 to C - 1, and 255 for pixels without a class."
            )
        stored = channels[..., 0]
        if stored.dtype.kind not in "ui" or int(stored.min(initial=0)) < 0:
            raise UserError(f"The labels of {self.name(k)} must be whole numbers from 0, but are {stored.dtype}.")
        if self.classes is not None:
            return np.asarray(self.classes[stored], np.uint8)
        beyond = (stored >= self.num_classes) & (stored != VOID)
        if beyond.any():
            top = int(stored[beyond][0])
            if self.num_classes == VOID:  # not known yet
                raise UserError(
                    f"The labels of {self.name(k)} have {top}, which is beyond {VOID - 1}, the largest class. Store "
                    f"pixels without a class as {VOID}."
                )
            raise UserError(
                f"The labels of {self.name(k)} have the class {top}, but there are "
                f"{self.num_classes} classes, from 0 on, and {VOID} for pixels without one. Name all classes in "
                "classes.txt, one a line."
            )
        return stored.astype(np.uint8)

    def name(self, k: int) -> str:
        """What to call a scene in messages."""
        last = self.triples[k][2]
        return f"`{last}`" if isinstance(last, str) else f"scene {k}"

    def take(self, places: Sequence[int]) -> SceneFiles:
        """The scenes of some numbers."""
        chosen = [self.triples[k] for k in places]
        return SceneFiles(chosen, self.open, self.depth_scale, self.classes, self.num_classes)

    def __len__(self) -> int:
        return len(self.triples)


class _Rendered:
    """Opens rendered scenes, which are in memory."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __call__(self, k: int) -> tuple[Array, Array, Array]:
        return self.scenes.rgb[k], self.scenes.depth[k] * np.float32(0.01), self.scenes.labels[k]

    def labels(self, k: int) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = self.scenes.labels[k]
        return labels

    def __len__(self) -> int:
        return len(self.scenes)


class SceneSet(Dataset[Any]):
    """Data set of the scenes of a condition: one modality, uint8 [C, H, W], and labels, int64 [H, W], 255 for void.

    Args:
        files: opens scenes.
        settings: the modality, the size, whether training scenes are mirrored.
        train: whether these are for training.
    """

    def __init__(self, files: Any, settings: SceneSettings, train: bool = False) -> None:
        self.files, self.settings, self.flip = files, settings, train and settings.flip

    def __len__(self) -> int:
        return len(self.files)

    def scene(self, k: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Picture [H, W, 3], encoded depth [H, W] and labels [H, W] of a scene, all resized."""
        rgb, depth, labels = self.files(k)
        height, width = self.settings.height, self.settings.width

        def nearest(plane: Array) -> NDArray[np.uint8]:
            if plane.shape == (height, width):
                return plane
            return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST))

        if rgb.shape[:2] != (height, width):  # by torch: the pixels of Pillow's depend on its version
            pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None]
            pixels = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
            rgb = pixels[0].permute(1, 2, 0).numpy()
        return rgb, nearest(encode_depth(depth)), nearest(labels)  # no depths or classes in between

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        rgb, depth, labels = self.scene(k)
        image = rgb.transpose(2, 0, 1) if self.settings.modality == "rgb" else depth[None]
        if self.flip and bool(torch.rand(()) < 0.5):
            image, labels = image[..., ::-1], labels[..., ::-1]
        return torch.from_numpy(image.copy()), torch.from_numpy(labels.astype(np.int64))

    def pixel_counts(self, num_classes: int) -> Tensor:
        """Pixels of each class, int64 [C]: of all scenes, or of many scaled up from evenly spaced ones."""
        places = np.linspace(0, len(self) - 1, min(len(self), COUNTED)).round().astype(int)
        counts = np.zeros(256, np.int64)
        for k in places.tolist():
            counts += np.bincount(self.files.labels(k).ravel(), minlength=256)
        return torch.from_numpy(counts[:num_classes] * len(self) // len(places))


class SceneData:
    """Scenes to train on, to tune corrections on, and to test on in several conditions.

    Attributes:
        sets: by condition: train, held_out, test, and those that training has not seen.
        class_names: C names.
        class_counts: training pixels a class, int64 [C].
        ignore_index: label of pixels without a class.
        examples: panels of :func:`ltaug.plots.segmented_scene` by condition, which are there once it was evaluated.
    """

    def __init__(self, class_names: Sequence[str], files: Mapping[str, Any], settings: SceneSettings) -> None:
        self.class_names, self.settings = list(class_names), settings
        if missing := [name for name in ("train", "held_out", "test") if not len(files.get(name, ()))]:
            raise UserError(
                f"There are no scenes for {missing[0]}: there must be some to train, to tune and to test on."
            )
        for name in files:
            if not len(files[name]):
                warn(f"there are no scenes for {name}, which is left out")
        self.sets = {name: SceneSet(each, settings, name == "train") for name, each in files.items() if len(each)}
        self.class_counts = self.sets["train"].pixel_counts(len(self.class_names))
        depth = settings.modality == "depth"
        self.ignore_index = VOID
        if not self.class_counts.any():
            raise UserError("The training scenes have no pixel with a class: all labels are void.")
        for name in ("held_out", "test"):
            kept = self._kept_pixels(name)
            if not kept:
                raise UserError(
                    f"No pixel of the {len(self.sets[name])} scenes of {name} that is kept has a class: all are void, "
                    f"or `keep_every` {settings.keep_every} is too large for scenes of {settings.height} x "
                    f"{settings.width} pixels."
                )
            if name == "test" and kept < FEW:
                warn(
                    f"only {kept} pixels of the test scenes are kept with their logits: numbers of `correct` and "
                    "`fuse` will be rough. Lower `keep_every`, or test on more scenes"
                )
        self.examples: dict[str, dict[str, Any]] = {}
        self.mean, self.std = ([0.35], [0.3]) if depth else (list(IMAGENET_MEAN), list(IMAGENET_STD))

    def _kept_pixels(self, name: str, enough: int = FEW) -> int:
        """Pixels of a set that have a class and are kept; scenes are read until there are enough of them."""
        grid = slice(self.settings.keep_every // 2, None, self.settings.keep_every)
        found = 0
        for k in range(len(self.sets[name])):
            found += int((self.sets[name].scene(k)[2][grid, grid] != VOID).sum())
            if found >= enough:
                break
        return found

    @property
    def train_labels(self) -> Tensor:
        """Zeros, int64 [N]: a scene is of no one class."""
        return torch.zeros(len(self.sets["train"]), dtype=torch.int64)

    @property
    def splits(self) -> tuple[str, ...]:
        """What corrections use, as of any run."""
        return "test", "held_out"

    @property
    def conditions(self) -> tuple[str, ...]:
        """All that is evaluated at the end: test, held_out, and what training has not seen."""
        return tuple(sorted((name for name in self.sets if name != "train"), key=lambda name: name != "test"))

    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> SeededLoader:
        """Mirrored batches in a sampler's order; each process gets its rows of them."""
        more = {"sampler": sampler, "drop_last": True, "seed": cfg.seed}
        return SeededLoader(self.sets["train"], cfg.batch_size, **more, **self._loader_settings(cfg, accelerator))

    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> SeededLoader:
        """Batches of a condition in its order, not mirrored."""
        plain = SceneSet(self.sets[split].files, self.settings)
        return SeededLoader(plain, cfg.batch_size, **self._loader_settings(cfg, accelerator))

    def _loader_settings(self, cfg: Any, accelerator: Any) -> dict[str, Any]:
        return {
            "device": accelerator.device,
            "finish": Normalize(self.mean, self.std, channels_last=cfg.channels_last is not False),
            "num_processes": accelerator.num_processes,
            "process_index": accelerator.process_index,
            "num_workers": cfg.workers,
            "collate_fn": collate_images,
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a test scene goes through: plain values, kept beside the weights."""
        own = ("modality", "height", "width", "depth_scale")
        recorded = {name: getattr(self.settings, name) for name in own}
        return {"kind": "scenes", **recorded, "mean": self.mean, "std": self.std}

    def fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the data. A run refuses to resume on data with another one."""
        return {
            "class_names": self.class_names,
            "class_counts": self.class_counts,
            **{f"{name}_content": _some_content(each) for name, each in self.sets.items()},
        }

    def describe(self) -> str:
        """What is in the sets, for the terminal."""
        others = ", ".join(f"{len(self.sets[name])} {name}" for name in self.conditions)
        return f"{len(self.train_labels)} training scenes ({others}), classes in pixels"

    def sections(self, logits: Tensor, labels: Tensor) -> list[tuple[str, str]]:
        """Sections of the report: a scene of every condition, and accuracy by share of pixels."""
        from ltaug.metrics import per_class_accuracy
        from ltaug.plots import accuracy_by_pixel_share, segmented_scene
        from ltaug.report import figure_html

        accuracy = per_class_accuracy(logits.softmax(1), labels, len(self.class_names))
        figure = accuracy_by_pixel_share({self.settings.modality: accuracy}, self.class_counts, self.class_names)
        cards = [
            figure_html(
                figure,
                alt="Line chart of the test accuracy of every class against its share of the training pixels.",
                caption="Accuracy of every class against its share of the training pixels.",
            )
        ]
        for condition, panels in self.examples.items():
            alt = "Panels: picture, depth, true classes, predicted classes and the uncertainty of the prediction."
            words = f"A scene of {condition.replace('_', ' ')}."
            cards.append(figure_html(segmented_scene(panels, self.class_names), alt=alt, caption=words))
        return [("Scenes", f'<div class="figures">{"".join(cards)}</div>')]

    def held_out_note(self) -> str:
        """What corrections are tuned on, for whoever reads the numbers."""
        return f"pixels of {len(self.sets['held_out'])} scenes that training did not use"


def _some_content(scenes: SceneSet, most: int = 16) -> str:
    """SHA-256 of the number of scenes and of some evenly spaced ones."""
    places = sorted(set(np.linspace(0, len(scenes) - 1, most).round().astype(int).tolist()))
    return content_hash(torch.tensor(len(scenes)), *(plane for k in places for plane in scenes.scene(k)))


# --- where scenes come from -------------------------------------------------------------------------------------------


def rendered_scenes(
    train: int, held_out: int, test: int, seed: int = 0, height: int = 96, width: int = 128
) -> dict[str, Any]:
    """Render scenes of all conditions: those to test on in fog are those that are tested on, in fog.

    Args:
        train: scenes to train on.
        held_out: to tune corrections on.
        test: to test on, in each condition.
        seed: of all of them.
        height: H.
        width: W.
    """
    ends = np.cumsum([0, train, held_out, test]).tolist()
    sets = {
        name: render_scenes(range(low, high), seed, height, width)
        for name, low, high in zip(("train", "held_out", "test"), ends[:-1], ends[1:], strict=True)
    }
    sets |= {name: corrupt_scenes(sets["test"], name, seed) for name in CONDITIONS}
    return {name: _Rendered(scenes) for name, scenes in sets.items()}


def _open_path(path: Any, which: int) -> Image.Image:
    try:
        return open_image(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"The image `{path}` cannot be read ({error}). Repair it, or take its scene out.") from error


def _triples(folders: Sequence[str]) -> list[tuple[str, str, str]]:
    """Files of three folders that have the same names but for their suffixes, in natural order."""
    found = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"`{folder}` is no folder, but a scene has a picture, a depth and labels.")
        files: dict[str, str] = {}
        for name in sorted(os.listdir(folder)):
            path, stem = os.path.join(folder, name), os.path.splitext(name)[0]
            if name.startswith(".") or not is_image(path):
                continue
            if stem in files:
                raise UserError(f"`{files[stem]}` and `{path}` are two images of one scene. Take one of them out.")
            files[stem] = path
        found.append(files)
    rgb, *others = found
    for folder, each in zip(folders[1:], others, strict=True):
        if lonely := sorted(rgb.keys() ^ each.keys()):
            raise UserError(
                f"`{folder}` must have the same files as `{folders[0]}`, but {lonely[0]} is in one of them only "
                f"({len(lonely)} such)."
            )
    return [(rgb[stem], others[0][stem], others[1][stem]) for stem in sorted(rgb, key=natural_order)]


def _shares(triples: Sequence[Any], seed: int) -> dict[str, list[Any]]:
    """70 % to train, 10 % to tune and 20 % to test on, in an order of their own, as the released code of IC has it."""
    order = [triples[k] for k in np.random.default_rng(seed).permutation(len(triples)).tolist()]
    first, second = int(0.7 * len(order)), int(0.7 * len(order)) + int(0.1 * len(order))
    return {"train": order[:first], "held_out": order[first:second], "test": order[second:]}


def read_synthia(root: str, settings: SceneSettings) -> tuple[list[str], dict[str, SceneFiles]]:
    """Find the scenes of SYNTHIA's sequences in their published layout, split by weather as in Tian et al.

    ``SYNTHIA-SEQS-05-DAWN/{RGB,Depth,GT/LABELS}/{Stereo_Left,Stereo_Right}/Omni_*/*.png``. Of dawn, summer, night and
    sunset 70 % of each camera's frames are trained on, 10 % held out and 20 % tested on; of other weather 20 % are
    tested on. The released code shuffles frames in the order of the file system; here it is that of their names, so
    that the shares are those published, and their frames are not.

    Args:
        root: the folder that the sequences lie in.
        settings: of the scenes.

    Returns:
        Class names, and scenes by condition.
    """
    found: dict[str, list[Any]] = {}
    sequences = sorted(Path(root).glob("SYNTHIA-SEQS-*"))
    if not sequences:
        raise UserError(f"`data_dir` {root!r} has no folder SYNTHIA-SEQS-05-DAWN or the like, SYNTHIA's sequences.")
    for sequence in sequences:
        weather = re.sub(r"SYNTHIA-SEQS-\d+-?", "", sequence.name).lower()
        cameras = sorted((sequence / SYNTHIA_FOLDERS[0]).glob("*/*"))
        if not cameras:
            raise UserError(f"`{sequence}` has no cameras, such as RGB/Stereo_Left/Omni_F. Unpack all of it.")
        for camera in cameras:
            where = camera.relative_to(sequence / SYNTHIA_FOLDERS[0])
            shares = _shares(_triples([str(sequence / kind / where) for kind in SYNTHIA_FOLDERS]), settings.data_seed)
            seen = weather in SYNTHIA_IN
            for name, triples in shares.items() if seen else [(weather, shares["test"])]:
                found.setdefault(name, []).extend(triples)
    files = {
        name: SceneFiles(triples, _open_path, settings.depth_scale, SYNTHIA_CLASSES) for name, triples in found.items()
    }
    _warn_of_unknown_labels(files)
    return list(SCENE_CLASSES), files


def _warn_of_unknown_labels(files: Mapping[str, SceneFiles], most: int = 20) -> None:
    """Say if labels that SYNTHIA does not define, which are void here, are in some of the scenes."""
    for name, scenes in files.items():
        for k in sorted(set(np.linspace(0, len(scenes) - 1, most).round().astype(int).tolist())):
            stored = read_plane(_open_path(scenes.triples[k][2], 2))
            unknown = np.unique(stored[(stored > 15) | (stored == 13) | (stored == 14)]).tolist()
            if unknown:
                listed = ", ".join(map(str, unknown[:5]))
                warn(f"{scenes.name(k)} ({name}) has labels that SYNTHIA does not define ({listed}), taken for void")
                return


_ROLES = dict.fromkeys(TRAIN_SPLITS, "train") | {
    name: "test" if name.startswith("test") else "held_out" for name in TEST_SPLITS
}
"""What the scenes of a folder are for, by its name."""


def read_scene_folder(root: str, settings: SceneSettings) -> tuple[list[str], dict[str, SceneFiles]]:
    """Find scenes in folders ``rgb``, ``depth`` and ``labels``, whose files have the same names.

    Or in such folders of ``train``, ``test``, perhaps ``val``, and of other conditions. Without splits, or without
    ``val``, scenes are split off. Folders without ``rgb`` are passed over with a warning. Labels are the classes 0 to
    C - 1, and 255 for pixels without one; ``classes.txt`` names the classes, one a line, or else they are as many as
    the training scenes have.

    Args:
        root: of the folder.
        settings: of the scenes.

    Returns:
        Class names, and scenes by condition.

    Raises:
        UserError: folders or files are missing, two are for the same, or labels are colours or beyond 254.
    """
    if all(os.path.isdir(os.path.join(root, name)) for name in FOLDERS):
        triples: dict[str, list[Any]] = dict(
            _shares(_triples([os.path.join(root, n) for n in FOLDERS]), settings.data_seed)
        )
    else:
        folders = sorted(name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name)))
        inside = [name for name in folders if os.path.isdir(os.path.join(root, name, FOLDERS[0]))]
        found: dict[str, str] = {}
        for name in inside:
            role = _ROLES.get(name.lower(), name)
            if role in found:
                raise UserError(f"`data_dir` {root!r} has two folders for {role}, {found[role]} and {name}. Keep one.")
            found[role] = name
        if "train" not in found or "test" not in found:
            raise UserError(
                f"`data_dir` {root!r} must have folders {', '.join(FOLDERS)}, or folders train and test that have "
                f"them, but has {', '.join(inside) or 'none of them'}."
            )
        for name in folders:
            if name not in inside and not is_leftover(name):
                warn(f"the folder {name} of {root!r} has no folder {FOLDERS[0]} and is passed over")
        triples = {role: _triples([os.path.join(root, n, kind) for kind in FOLDERS]) for role, n in found.items()}
    return _with_classes(triples, _open_path, settings, os.path.join(root, "classes.txt"))


def read_scene_table(
    hub_id: str | None, data_dir: str | None, settings: SceneSettings
) -> tuple[list[str], dict[str, SceneFiles]]:
    """Find scenes in a data set of the hub or a folder of parquet files, with columns of three images each.

    Splits besides train, test and validation are further conditions. See :func:`read_scene_folder` for the labels.

    Args:
        hub_id: data set of the hub, OWNER/NAME.
        data_dir: folder that is read instead.
        settings: of the scenes: the columns' names, too.

    Returns:
        Class names, and scenes by condition.
    """
    source = data_dir or hub_id
    if source is None:
        raise UserError("Give `hub_id`, a data set of the hub, or `data_dir`, a folder of parquet files.")
    splits = load_splits(hub_id or source, data_dir, settings.allow_outside)
    chosen = choose_splits(splits, source)
    names = {split: {"validation": "held_out"}.get(name, name) for name, split in chosen.items()}
    columns = settings.rgb_column, settings.depth_column, settings.label_column
    triples: dict[str, list[Any]] = {}
    openers: list[list[ImageColumn]] = []
    for split, rows in splits.items():
        check_columns(
            rows,
            f"The {split} split of {source!r}",
            **dict(zip(("rgb_column", "depth_column", "label_column"), columns, strict=True)),
        )
        openers.append([ImageColumn(rows, name, source, data_dir or "", settings.allow_outside) for name in columns])
        place = len(openers) - 1
        triples[names.get(split, split)] = [((place, k),) * 3 for k in range(len(rows))]
    return _with_classes(triples, _TableReader(openers), settings, os.path.join(data_dir or "", "classes.txt"))


class _TableReader:
    """Opens an image of a row of a column of a split."""

    def __init__(self, openers: list[list[ImageColumn]]) -> None:
        self.openers = openers

    def __call__(self, entry: tuple[int, int], which: int) -> Image.Image:
        split, row = entry
        return self.openers[split][which](row)


def _with_classes(
    triples: dict[str, list[Any]], open: Callable[[Any, int], Image.Image], settings: SceneSettings, names: str
) -> tuple[list[str], dict[str, SceneFiles]]:
    """Class names of a file, or as many as the training labels have; and scenes, some of them split off to tune on."""
    if "held_out" not in triples:
        train = triples["train"]
        order = [train[k] for k in np.random.default_rng(settings.data_seed).permutation(len(train)).tolist()]
        size = max(1, len(order) // 8)
        triples = {**triples, "train": order[size:], "held_out": order[:size]}
    files = {name: SceneFiles(each, open, settings.depth_scale, None, VOID) for name, each in triples.items()}
    if os.path.isfile(names):
        text = Path(names).read_text(encoding="utf-8").splitlines()
        classes = [line.strip() for line in text if line.strip()]
    else:
        seen = files["train"]
        places = sorted(set(np.linspace(0, len(seen) - 1, COUNTED).round().astype(int).tolist()))
        there = np.zeros(256, bool)
        for k in places:
            there[seen.labels(k)] = True
        last = int(there[:VOID].nonzero()[0].max(initial=-1))
        classes = [f"class {k}" for k in range(last + 1)]
        if len(absent := (~there[: last + 1]).nonzero()[0]):
            warn(
                f"the training labels range up to {last}, so that there are {last + 1} classes, but {len(absent)} of "
                f"them, such as {absent[0]}, have no pixel. If {last} is no class, repair the labels; to fix what "
                "the classes are, name them in classes.txt, one a line"
            )
    if len(classes) < 2:
        raise UserError(
            f"The labels must have at least two classes, but have {len(classes)}: 0, 1, ..., and 255 for none."
        )
    for each in files.values():
        each.num_classes = len(classes)
    return classes, files
