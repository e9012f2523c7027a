"""Images in folders, one a class."""

from __future__ import annotations

import os

import torch
from PIL import Image

from ltaug.loaders.folders import class_folders
from ltaug.vision.decoding import open_image
from ltaug.vision.image_set import Files, Images, name_block

__all__ = ["is_image", "read_image_folder"]

# Kinds that Pillow only identifies, or needs other programs for; and fonts' and videos' files.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def is_image(path: str) -> bool:
    """Say whether Pillow can open a file: by its suffix, or by a look into it if the suffix is not known."""
    kind = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
    if kind is not None:
        return kind in Image.OPEN and kind not in _NOT_DECODED
    try:
        with open_image(path) as image:
            return image.format not in _NOT_DECODED
    except Exception:  # of many types, from the depths of Pillow
        return False


def read_image_folder(root: str) -> tuple[list[str], dict[str, Images]]:
    """Find images in ``root/CLASS/**/file``, or in ``root/train/CLASS/**/file`` beside ``root/test`` or the like.

    See :func:`ltaug.loaders.folders.class_folders` for what is passed over and in which order classes stand.

    Returns:
        Class names, and images by split.
    """
    names, splits = class_folders(root, is_image, "images")
    found = {}
    for split, files in splits.items():
        found[split] = Images(files.labels, name_block(files.names), torch.arange(len(files.names)), Files(files.root))
    return names, found
