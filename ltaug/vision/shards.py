"""Parquet files of a split that is read in their order.

Their labels are known, their images are read row group by row group. What has to be read more than once is kept in the
cache, `$LTAUG_CACHE/streams` or `~/.cache/ltaug/streams`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from filelock import FileLock
from numpy.typing import NDArray
from pyarrow import ipc, parquet
from pyarrow.fs import FileSystem

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.files import refuse_outside
from ltaug.loaders.tables import loading_error, stored_paths

__all__ = ["Pool", "Shards"]

READERS = 16  # files that are read at the same time for labels and pool; each waits for its host most of the time


class Shards:
    """Row groups of the parquet files of one split.

    Of each file only what describes it and the column of labels are read, and kept in the cache.

    Args:
        paths: of the disk, or any address that fsspec knows (hf://...).
        split: its name.
        image_column: column of the images.
        label_column: column of the labels.
        source: what to call the data set in messages.
        folder: where paths of images start; empty for a data set of the hub.
        allow_outside: take paths of images outside of ``folder``, too.
    """

    def __init__(
        self,
        paths: Sequence[str],
        split: str,
        image_column: str,
        label_column: str,
        source: str,
        folder: str = "",
        allow_outside: bool = False,
    ) -> None:
        self.paths, self.split, self.image_column = list(paths), split, image_column
        self.source, self.folder, self.allow_outside = source, folder, allow_outside
        with ThreadPoolExecutor(READERS) as threads:
            stamps = list(threads.map(self._stamp, self.paths))
        self.key = hashlib.sha256(repr((stamps, image_column, label_column)).encode()).hexdigest()[:24]

        def read(path: str) -> tuple[Any, list[int]]:
            with self._opened(path) as file:
                for setting, column in (("image_column", image_column), ("label_column", label_column)):
                    if column not in file.schema_arrow.names:
                        raise UserError(
                            f"{source!r} has no column {column!r} in its {split} split (`{path}`), but "
                            f"{', '.join(file.schema_arrow.names)}. Name the right one with `{setting}`."
                        )
                sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
                return file.read(columns=[label_column]).rename_columns(["label"]), sizes

        def make(index: Path) -> None:
            with ThreadPoolExecutor(READERS) as threads:
                found = list(threads.map(read, self.paths))
            labels = pyarrow.concat_tables([table for table, _ in found], promote_options="permissive")
            note = {"sizes": json.dumps([sizes for _, sizes in found])}
            parquet.write_table(labels.replace_schema_metadata(note), index)

        index = parquet.read_table(_kept(f"{self.key}.parquet", make, lambda path: parquet.read_table(path).schema))
        self.labels = index.column("label")
        """As they are stored, a pyarrow ChunkedArray [N]."""
        if not len(self.labels):
            raise UserError(f"{source!r} has an empty {split} split. Put images into it.")
        groups: list[list[int]] = json.loads(index.schema.metadata[b"sizes"])
        self.sizes: NDArray[np.int64] = np.array([size for sizes in groups for size in sizes], dtype=np.int64)
        """Images in each row group."""
        self.starts: NDArray[np.int64] = np.cumsum(self.sizes) - self.sizes
        """The first of them."""
        self.places = [(shard, group) for shard, sizes in enumerate(groups) for group in range(len(sizes))]
        """File and number of each row group."""
        with self._opened(self.paths[0]) as file:
            self.schema = file.schema_arrow

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        """A parquet file; what goes wrong on the way to it, after it was tried again, is said in a line."""
        try:
            with _opened(path) as file:
                yield file
        except UserError:
            raise
        except Exception as error:  # the hub client and its HTTP library raise many types
            if "://" not in path:
                raise
            raise loading_error(self.source, None, error) from error

    def _stamp(self, path: str) -> tuple[str, int, Any]:
        try:
            return _stamp(path)
        except Exception as error:  # likewise
            if "://" not in path:
                raise
            raise loading_error(self.source, None, error) from error

    def read(self, k: int) -> Any:
        """Read the encoded images of a row group, a pyarrow array of bytes, paths, or structs of both.

        Raises:
            UserError: paths lead out of ``folder``.
        """
        shard, group = self.places[k]
        with self._opened(self.paths[shard]) as file:
            table = file.read_row_group(group, columns=[self.image_column], use_threads=False)
        column = table.column(self.image_column).combine_chunks()
        images = column.cast(self.schema.field(self.image_column).type)
        where = f"Column {self.image_column!r} of {self.source!r}"
        refuse_outside(self.folder, stored_paths(images), where, self.allow_outside)
        return images

    def pool(self, labels: NDArray[np.int64], counts: NDArray[np.int64], buffer: int) -> Path:
        """File of min(n_c, ``buffer``) encoded images of each class, read out of the row groups at the first time.

        Of the classes that have more, those are taken that lie in row groups which the others need anyway.

        Args:
            labels: class of each image, [N].
            counts: images a class, [C].
            buffer: of a class, at most.
        """
        group = np.repeat(np.arange(len(self.sizes)), self.sizes)
        needed = np.zeros(len(self.sizes), dtype=bool)
        needed[group[counts[labels] <= buffer]] = True
        order = np.lexsort((~needed[group], labels))  # class by class, at first those of groups that are needed
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.sort(order[rank < buffer])

        def make(path: Path) -> None:
            sys.stderr.write(
                f"Reading {len(rows)} images of {self.split} once, of every class up to {buffer}, to draw classes by: "
                f"they stay in `{path.with_suffix('')}`.\n"
            )
            sys.stderr.flush()
            kind = self.schema.field(self.image_column).type
            schema = pyarrow.schema({"row": pyarrow.int64(), "image": kind})
            groups = np.unique(group[rows])
            with ipc.new_file(str(path), schema) as file, ThreadPoolExecutor(READERS) as threads:
                for first in range(0, len(groups), READERS):  # so that no more of them than that stand in memory
                    some = groups[first : first + READERS]
                    for k, images in zip(some, threads.map(self.read, some), strict=True):
                        low, high = np.searchsorted(rows, [self.starts[k], self.starts[k] + self.sizes[k]])
                        mine = images.take(pyarrow.array(rows[low:high] - self.starts[k]))
                        file.write_batch(pyarrow.record_batch([pyarrow.array(rows[low:high]), mine], schema=schema))

        return _kept(f"{self.key}_{buffer}.arrow", make, _pooled)


class Pool:
    """Images of a pool's file, class by class. The file stays on the disk, mapped into memory.

    Args:
        path: the file.
        labels: class of each image of the split, [N].
        num_classes: C.
    """

    def __init__(self, path: Path, labels: NDArray[np.int64], num_classes: int) -> None:
        table = _pooled(path)
        self.rows, self.images = table.column("row").to_numpy(), table.column("image")
        classes = labels[self.rows]
        self.order = np.argsort(classes, kind="stable")
        self.counts: NDArray[np.int64] = np.bincount(classes, minlength=num_classes)
        self.starts: NDArray[np.int64] = np.cumsum(self.counts) - self.counts

    def __getitem__(self, k: int) -> tuple[int, Any]:
        """Row in the split and encoded form of an image."""
        place = int(self.order[k])
        return int(self.rows[place]), self.images[place].as_py()


def _pooled(path: Path) -> Any:
    """A pool's table, mapped into memory."""
    return ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def _kept(name: str, make: Callable[[Path], None], read: Callable[[Path], Any]) -> Path:
    """A file of the cache; one process makes it, others wait. A damaged one is made anew."""
    path = Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug").expanduser() / "streams" / name
    if not _is_whole(path, read):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # which ends with the process, however that ends
            if not _is_whole(path, read):
                part = path.with_name(f"{name}.part")
                make(part)
                part.replace(path)
    return path


def _is_whole(path: Path, read: Callable[[Path], Any]) -> bool:
    if not path.exists():
        return False
    try:
        read(path)
    except (OSError, ValueError) as error:  # pyarrow's own are of these kinds
        warn(f"`{path}` of the cache is damaged and made anew ({error}).")
        return False
    return True


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A parquet file."""
    if "://" not in path:
        with parquet.ParquetFile(path) as file:
            yield file
    else:
        system, inside = FileSystem.from_uri(path)
        # Small blocks: a column of labels lies between images, and a large one would fetch those along with it.
        with system.handler.fs.open(inside, "rb", block_size=1 << 16) as source:
            yield parquet.ParquetFile(source)


def _stamp(path: str) -> tuple[str, int, Any]:
    """What tells a file from another version of it."""
    if "://" not in path:
        status = os.stat(path)
        return path, status.st_size, status.st_mtime_ns
    system, inside = FileSystem.from_uri(path)
    info = system.get_file_info(inside)
    return path, info.size, info.mtime_ns
