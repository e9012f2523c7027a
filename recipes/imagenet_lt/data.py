"""ImageNet-LT and Places-LT by their official lists, any folder of images or data set of the hub, or digits.

Labels are known without decoding an image; worker processes decode. To train on something else, add a reader to
`load_data`: it returns class names and :class:`ltaug.vision.image_set.Images` by split.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ltaug.commandline import PositiveInt
from ltaug.loaders.folders import source_name
from ltaug.vision.data import ImageData, ImageSettings, long_tailed_data, streamed_data
from ltaug.vision.digits import read_digits
from ltaug.vision.folders import read_image_folder
from ltaug.vision.published_sets import need_folder, read_imagenet_lt, read_places_lt
from ltaug.vision.tables import read_image_stream, read_image_table
from ltaug.vision.transforms import Augmentation


@dataclass
class DataSettings(ImageSettings):
    """What can be said of the data."""

    dataset: Literal["imagenet_lt", "places_lt", "folder", "hub", "digits"] = "imagenet_lt"
    """imagenet_lt, places_lt (official lists), folder, hub (any with images and labels), or digits."""
    data_dir: str | None = None
    """Folder of the images, or of parquet files, read instead of the hub; places_lt needs it, or `hub_id`."""
    list_dir: str | None = None
    """Folder with a copy of the official lists, which are downloaded otherwise."""
    stream: bool = False
    """hub: read the training files one after the other, for sets that no disk holds."""
    stream_buffer: PositiveInt = 64
    """hub: encoded images of a class that a stream holds, over all processes and workers."""
    augmentation: Augmentation = "color"
    """plain: random resized crop and flip; color: and colour jitter, as published; randaugment; crop; flip: no crop."""

    @property
    def data_name(self) -> str:
        """Name of the data in run folders."""
        name: str = self.dataset
        if name in ("folder", "hub"):
            name = source_name(self.data_dir, self.hub_id, name)
        return name if self.profile == "natural" else f"{name}_ir{self.imbalance_ratio:g}"


def load_data(cfg: Any) -> ImageData:
    """Find the images of the settings' data set and take the part of them that its profile asks for."""
    outside = {"allow_outside": cfg.allow_outside}
    columns = outside | {"image_column": cfg.image_column, "label_column": cfg.label_column}
    if cfg.stream and cfg.dataset != "hub":
        raise ValueError(f"`stream` reads files of `dataset: hub`, but `dataset` is {cfg.dataset}. Leave it out.")
    if cfg.dataset == "imagenet_lt":
        names, splits = read_imagenet_lt(cfg.data_dir, cfg.list_dir, **columns)
    elif cfg.dataset == "places_lt":
        where = {"hub_id": cfg.hub_id, "image_column": cfg.image_column}
        names, splits = read_places_lt(cfg.data_dir, cfg.list_dir, **where, **outside)
    elif cfg.dataset == "folder":
        needed = "a folder with a folder of images for each class, or with such folders train and test"
        names, splits = read_image_folder(str(need_folder(cfg.data_dir, needed)))
    elif cfg.dataset == "digits":
        digits = read_digits(cfg.test_per_class, cfg.data_seed)
        names = [str(k) for k in range(10)]
        splits = {"train": digits.enlarged(digits.train), "test": digits.enlarged(digits.test)}
    else:
        columns |= {"train_split": cfg.train_split, "test_split": cfg.test_split}
        if cfg.stream:
            stream = read_image_stream(cfg.hub_id, cfg.data_dir, buffer=cfg.stream_buffer, **columns)
            return streamed_data(*stream, cfg)
        names, splits = read_image_table(cfg.hub_id, cfg.data_dir, **columns)
    return long_tailed_data(names, splits, cfg, f"`dataset` {cfg.dataset}")
