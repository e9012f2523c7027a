"""What the tests of images share: small pictures that tell their number, and sets of them on the disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet


def picture(number: int, kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    """A small picture that tells its number by its grey."""
    file = io.BytesIO()
    Image.new("RGB", size, (number, number, number)).convert(mode).save(file, kind, quality=95)
    return file.getvalue()


def number_of(image: Image.Image) -> int:
    assert image.mode == "RGB"
    return round(float(np.asarray(image).mean()))


def write(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_folders(root: Path, sizes: dict[str, int], number: int = 0) -> Path:
    """A folder a class; the numbers of the pictures count on in steps of 5."""
    for name, size in sizes.items():
        for k in range(size):
            write(root / name / f"{k:02d}.jpg", picture(number := number + 5))
    return root


def names_of(images: Any) -> list[str]:
    """File names of Images."""
    return [images.name(k) for k in range(len(images))]


def write_parquet(path: Path, images: list[Any], labels: list[Any], names: tuple[str, ...] | None = None) -> None:
    """Parquet in the hub's schema: images as bytes and path, labels with the names of their classes."""
    label = {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value", "dtype": "int64"}
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    number = pyarrow.int64() if labels and isinstance(labels[0], int) else None
    columns = {"image": pyarrow.array(images, kind), "label": pyarrow.array(labels, number)}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=7)
