"""Images that are known by label and name, and decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from ltaug.errors import UserError
from ltaug.loaders.sharing import encode_image
from ltaug.run import content_hash
from ltaug.vision.decoding import decode, open_image, warn

__all__ = ["Files", "ImageSet", "Images", "name_block"]

MOST_SIZES = 100_000
"""Files that are asked for their sizes, which takes a while on a network."""
PIXELS_HASHED = 256
"""Images of a split whose pixels its content hash has: all of a small one, evenly spaced ones of others."""


def name_block(names: Iterable[str]) -> Any:
    """File names in one block of memory, which worker processes share: a pyarrow array of bytes."""
    return pyarrow.array([os.fsencode(name) for name in names], pyarrow.large_binary())


@dataclass
class Images:
    """Images of one split, none of them decoded."""

    labels: Tensor
    """int64 [N], 0..C-1; or bool [N, C], several labels an image."""
    names: Any
    """File names, a :func:`name_block`."""
    rows: Tensor
    """int64 [N]: where ``open`` finds them."""
    open: Any
    """``open(row, name)`` is a PIL image; goes to worker processes."""
    places: Tensor | None = None
    """In the full set, int64 [N], of a subset that says it."""

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, k: int) -> str:
        """File name of an image."""
        return os.fsdecode(self.names[k].as_py())

    def take(self, indices: Tensor) -> Images:
        """Select the images of some indices, in their order."""
        names = self.names.take(pyarrow.array(indices.numpy()))
        places = None if self.places is None else self.places[indices]
        return Images(self.labels[indices], names, self.rows[indices], self.open, places)

    def encoded(self, k: int) -> tuple[bytes, str]:
        """An image's file, as it is stored, and its name; PNG of an image that is made."""
        row, name = int(self.rows[k]), self.name(k)
        if hasattr(self.open, "encoded"):
            return self.open.encoded(row, name), name
        return encode_image(self.open(row, name)), f"{name}.png"

    def content_hash(self) -> str:
        """SHA-256 of labels, file names, sizes of files (not too many to ask for) and some pixels, in their order."""
        names = np.frombuffer(b"\0".join(self.names.to_pylist()), np.uint8)
        known = hasattr(self.open, "sizes") and len(self) <= MOST_SIZES
        sizes = self.open.sizes(map(self.name, range(len(self)))) if known else []
        some = (
            sorted(set(np.linspace(0, len(self) - 1, PIXELS_HASHED).round().astype(int).tolist())) if len(self) else []
        )
        return content_hash(self.labels, names, sizes, *map(self._pixels, some))

    def _pixels(self, k: int) -> Any:
        try:
            return np.asarray(self.open(int(self.rows[k]), self.name(k)))
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
        ):  # a broken image, which a data set replaces when it meets it
            return "unreadable"


class Files:
    """Opens images below a folder by their names."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def __call__(self, row: int, name: str) -> Image.Image:
        """Open a file."""
        return open_image(os.path.join(self.root, name))

    def encoded(self, row: int, name: str) -> bytes:
        """A file as it is."""
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()

    def sizes(self, names: Iterable[str]) -> list[int]:
        """Bytes of files; -1 where there is none."""
        paths = [os.path.join(self.root, name) for name in names]
        return [os.path.getsize(path) if os.path.exists(path) else -1 for path in paths]


class ImageSet(Dataset[Any]):
    """Data set of one split: ``image_set[k]`` is a transformed image and its label.

    An image that cannot be decoded is reported once, counted in ``unreadable``, and replaced by the next one of its
    class, or of any class if that has none, so that batches keep their size. Worker processes share what is known.

    Args:
        images: the images.
        transform: makes of a PIL image in RGB what a batch is made of; ``None`` leaves it as it is.
        notes: what another set of the same images has found out about them.
    """

    def __init__(
        self, images: Images, transform: Callable[[Image.Image], Any] | None = None, notes: Notes | None = None
    ) -> None:
        self.images = images
        self.labels = images.labels
        """int64 [N], known without decoding."""
        self.transform = transform
        self.notes = notes or Notes(len(images))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Any, Any]:
        image, k = self.image(k)
        label = self.labels[k]
        return image if self.transform is None else self.transform(image), label if label.ndim else int(label)

    def content_hash(self) -> str:
        """See :meth:`Images.content_hash`."""
        return self.images.content_hash()

    @property
    def unreadable(self) -> int:
        """Images that could not be decoded so far, in all worker processes of this one."""
        return self.notes.unreadable

    def image(self, k: int) -> tuple[Image.Image, int]:
        """Decode an image, or the next one that can be read, of its class if there is one; and return its index."""
        image = self._decode(k)
        if image is not None:
            return image, k
        label, places = self.labels[k], torch.arange(len(self.labels)).roll(-k)  # k first
        alike = (self.labels == label).view(len(self.labels), -1).all(1)
        same = alike[places]
        for other in places[same].tolist():
            if (image := self._decode(other)) is not None:
                return image, other
        if self.notes.broken[k] == 1:  # the first to find out, about: processes may do so at once
            self.notes.broken[alike] = 2
            named = f"class {int(label)}" if label.ndim == 0 else f"the labels {label.nonzero()[:, 0].tolist()}"
            warn(f"of {named} none of the {int(same.sum())} images can be read; others' take their place")
        for other in places[~same].tolist():
            if (image := self._decode(other)) is not None:
                return image, other
        raise UserError(f"None of the {len(places)} images can be read, the first of which is {self.images.name(0)!r}.")

    def _decode(self, k: int) -> Image.Image | None:
        name = self.images.name(k)
        return self.notes.decode(
            lambda: self.images.open(int(self.images.rows[k]), name), name, k, "another one of its class"
        )


class Notes:
    """What decoding has found out about the images of a set; worker processes share it."""

    def __init__(self, size: int) -> None:
        self.broken = _shared(size)
        """Of each image, whether it cannot be read."""
        self.odd = _shared(1)
        """Whether an image that decoding may have spoiled has been reported."""

    @property
    def unreadable(self) -> int:
        """Images that could not be read so far."""
        return int(self.broken.count_nonzero())

    def decode(self, open: Callable[[], Image.Image], name: str, k: int, instead: str) -> Image.Image | None:
        """Decode image k to RGB, or report once that it cannot be read and return None."""
        if self.broken[k]:
            return None
        try:
            image, odd = decode(open())
        except Exception as error:  # of many types, from the depths of Pillow
            self.broken[k] = 1
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "of no kind that Pillow knows" if unknown else getattr(error, "strerror", None) or error
            warn(f"the image {name!r} cannot be read ({reason}) and is replaced by {instead}")
            return None
        if odd and not self.odd[0]:
            self.odd[0] = 1
            warn(f"the image {name!r}, {odd}; further ones are not reported")
        return image


def _shared(size: int) -> Tensor:
    """Zeros that worker processes share, uint8 [size]."""
    zeros = torch.zeros(size, dtype=torch.uint8)
    zeros.share_memory_()  # type: ignore[no-untyped-call]  # torch's
    return zeros
