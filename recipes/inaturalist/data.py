"""iNaturalist 2018 by its official lists, any set that JSON files of COCO's kind list, folders, tables, or digits.

Labels are known without decoding an image; worker processes decode. To train on something else, add a reader: it
returns class names and :class:`ltaug.vision.image_set.Images` by split.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

import ltaug
from ltaug.loaders.folders import source_name
from ltaug.vision.data import ImageData, ImageSettings, long_tailed_data
from ltaug.vision.digits import read_digits
from ltaug.vision.folders import read_image_folder
from ltaug.vision.published_sets import need_folder, read_inaturalist_2018, read_json_lists
from ltaug.vision.tables import read_image_table


@dataclass
class DataSettings(ImageSettings):
    """What can be said of the data."""

    dataset: Literal["inaturalist2018", "json", "folder", "hub", "digits"] = "inaturalist2018"
    """inaturalist2018 (its official lists), json (of COCO's kind), folder (train/CLASS and test/CLASS), hub, digits."""
    data_dir: str | None = None
    """Folder of the images, or of parquet files; inaturalist2018 needs it, or `hub_id`."""
    list_dir: str | None = None
    """Folder with a copy of the official lists, which are looked for in `data_dir` and downloaded otherwise."""
    train_json: str | None = None
    """json: file that lists the training images, as it is or in `data_dir`."""
    test_json: str | None = None
    """json: file that lists the test images, as it is or in `data_dir`."""

    @property
    def data_name(self) -> str:
        """Name of the data in run folders."""
        name: str = self.dataset
        if name in ("json", "folder", "hub"):
            name = source_name(self.data_dir, self.hub_id, name)
        return name if self.profile == "natural" else f"{name}_ir{self.imbalance_ratio:g}"


def load_data(cfg: Any) -> ImageData:
    """Find the images of the settings' data set, and keep `held_out_per_class` of each class from training."""
    if cfg.dataset != "json" and (cfg.train_json or cfg.test_json):
        raise ValueError(
            f"`train_json` and `test_json` are of `dataset: json`, but `dataset` is {cfg.dataset}. Leave them out."
        )
    outside = {"allow_outside": cfg.allow_outside}
    where = {"hub_id": cfg.hub_id, "image_column": cfg.image_column, **outside}
    columns = {"label_column": cfg.label_column, "train_split": cfg.train_split, "test_split": cfg.test_split}
    readers = {
        "inaturalist2018": lambda: read_inaturalist_2018(cfg.data_dir, cfg.list_dir, **where),
        "json": lambda: read_json_lists(cfg.data_dir, cfg.train_json, cfg.test_json, **outside),
        "folder": lambda: read_image_folder(str(need_folder(cfg.data_dir, "a folder with folders train and test"))),
        "hub": lambda: read_image_table(**where, **columns, data_dir=cfg.data_dir),
        "digits": read_long_tailed_digits,
    }
    return long_tailed_data(*readers[cfg.dataset](), cfg, f"`dataset` {cfg.dataset}")


def read_long_tailed_digits() -> tuple[list[str], dict]:
    """Handwritten digits of scikit-learn: 60 of each to test on, 114 of class 0 to 2 of class 9 to train on."""
    digits = read_digits()
    rest = torch.ones(len(digits.labels), dtype=torch.bool).index_fill(0, digits.test, False).nonzero()[:, 0]
    counts = ltaug.exponential_counts(len(digits.train) // 10, 10, imbalance_ratio=50)
    train = rest[ltaug.subsample(digits.labels[rest], counts)]
    return [str(k) for k in range(10)], {"train": digits.enlarged(train), "test": digits.enlarged(digits.test)}
