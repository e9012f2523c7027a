"""Data sets of small images of one size, decoded to one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltaug.errors import UserError
from ltaug.loaders.sharing import source_index
from ltaug.loaders.tables import arrow_column, check_columns, class_labels, load_splits
from ltaug.vision.decoding import decode, warn
from ltaug.vision.tables import ImageColumn, check_split

__all__ = ["SmallImages", "read_small_images"]


@dataclass
class SmallImages:
    """Images of one split. Labels are known; images are decoded when they are asked for."""

    labels: Tensor
    """int64 [N], 0..C-1."""
    column: ImageColumn
    """Opens the image of a row."""
    source: str
    """For messages."""
    places: Tensor | None = None
    """In the full set, int64 [N], of a subset that says it."""

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Decode the images of some indices, or all, in their order: uint8 [N, H, W, 3]."""
        rows = range(len(self.labels)) if indices is None else indices.tolist()
        images = torch.empty((0, 0, 0, 3), dtype=torch.uint8)
        reported = False
        for k, row in enumerate(rows):
            try:
                image, odd = decode(self.column(row))
                pixels = np.asarray(image)
            except Exception as error:  # of many types, from the depths of Pillow
                raise UserError(
                    f"{self.source!r}: image {row} in {self.column.column!r} cannot be read ({error}). Repair or drop "
                    "it."
                ) from error
            if k == 0:
                images = torch.empty((len(rows), *pixels.shape), dtype=torch.uint8)
            if pixels.shape != images.shape[1:]:
                raise UserError(
                    f"{self.source!r}: image {row} is {pixels.shape[1]}x{pixels.shape[0]}, the first is "
                    f"{images.shape[2]}x{images.shape[1]}. A set held in one tensor needs images of one size."
                )
            images[k] = torch.from_numpy(np.array(pixels))
            if odd and not reported:
                reported = True
                warn(f"{self.source!r}: image {row}, {odd}; further ones are not reported")
        return images


def read_small_images(
    hub_id: str | None,
    data_dir: str | None = None,
    *,
    image_column: str = "image",
    label_column: str = "label",
    splits: Sequence[str] = ("train", "test"),
    optional: Sequence[str] = (),
    allow_outside: bool = False,
) -> tuple[dict[str, SmallImages], list[str]]:
    """Find the splits of a data set of small images on the hub, or in a local folder of parquet files.

    Args:
        hub_id: data set of the hub, OWNER/NAME.
        data_dir: folder to read instead of it, with files of the same columns.
        image_column: column of the images.
        label_column: column of the class indices, or class names.
        splits: names of the splits to read; the first one is the training split, which defines the classes.
        optional: names of splits that are read where they are there.
        allow_outside: read files outside of ``data_dir``, too, that paths in the column of images name.

    Returns:
        The splits by name, and the names of the classes.

    Raises:
        UserError: the source lacks a split or a column, or holds something else in them.
        ConnectionError: the hub cannot be reached.
    """
    source = data_dir or hub_id
    if source is None:
        raise UserError("Give `hub_id`, a data set of the hub, or `data_dir`, a folder of parquet files.")
    found = load_splits(hub_id or source, data_dir, allow_outside)
    splits = [*splits, *(split for split in optional if split in found)]
    for split in splits:
        check_split(found, split, source)
        name = f"The {split} split of {source!r}"
        check_columns(found[split], name, image_column=image_column, label_column=label_column)
    known = getattr(found[splits[0]].features[label_column], "names", None)
    columns = {split: arrow_column(found[split], label_column) for split in splits}
    class_names, labels = class_labels(columns, known, f"Column {label_column!r} of {source!r}")
    if labels["train"].ndim > 1:
        raise UserError(
            f"{source!r} has several labels a sample in {label_column!r}, which need the recipe imagenet_lt."
        )
    openers = {
        split: ImageColumn(found[split], image_column, source, data_dir or "", allow_outside) for split in splits
    }
    return {
        split: SmallImages(labels[split], opener, source, source_index(found[split]))
        for split, opener in openers.items()
    }, class_names
