"""Training images that are read in the order of their parquet files, for sets that no disk holds.

Labels are read first, without any image, and kept. Then every worker of every process goes through a share of the row
groups, in an order of its own epoch, and holds a window of encoded images, from which it draws. Classes that are drawn
more often than they come are drawn from a pool, too: a file of all images of the rare classes and some of the others.
What is drawn and held is a pure function of seed, epoch, process and worker, computed on numbers: to go on inside an
epoch, nothing is read that is not held there.
"""

import contextlib
import fcntl
import hashlib
import os
import sys
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import torch
from data import Part, checked_labels, decode, open_stored
from PIL import Image
from pyarrow import ipc, parquet
from pyarrow.fs import FileSystem
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ltaug import ClassPowerSampler, PairSampler, SeededDataset

READERS = 16  # files that are read at the same time for labels and pool; each waits for its host most of the time


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache, `$LTAUG_CACHE/streams` or `~/.cache/ltaug/streams`; one process makes it, others wait."""
    path = Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug").expanduser() / "streams" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # which ends with the process, however that ends
            if not path.exists():
                part = path.with_name(f"{name}.part")
                make(part)
                part.replace(path)
    return path


@contextlib.contextmanager
def opened(path: str) -> Iterator[parquet.ParquetFile]:
    """A parquet file of the disk or of any address that fsspec knows (hf://...)."""
    if "://" not in path:
        with parquet.ParquetFile(path) as file:
            yield file
    else:
        system, inside = FileSystem.from_uri(path)
        # Small blocks: a column of labels lies between images, and a large one would fetch those along with it.
        with system.handler.fs.open(inside, "rb", block_size=1 << 16) as source:
            yield parquet.ParquetFile(source)


def stamp(path: str) -> tuple[str, int, Any]:
    """What tells a file from another version of it."""
    if "://" not in path:
        status = os.stat(path)
        return path, status.st_size, status.st_mtime_ns
    system, inside = FileSystem.from_uri(path)
    info = system.get_file_info(inside)
    return path, info.size, info.mtime_ns


class Shards:
    """The row groups of the parquet files of one split.

    Of each file, only what describes it and the column of labels are read; both are kept in the cache.
    """

    def __init__(
        self, paths: Sequence[str], features: Any, split: str, image_column: str, label_column: str, source: str
    ) -> None:
        from datasets import Features

        self.paths, self.split, self.image_column = list(paths), split, image_column
        with ThreadPoolExecutor(READERS) as threads:
            stamps = list(threads.map(stamp, self.paths))
        self.key = hashlib.sha256(repr((stamps, image_column, label_column)).encode()).hexdigest()[:24]

        def read(path: str) -> tuple[np.ndarray, list[int]]:
            with opened(path) as file:
                for setting, column in (("image_column", image_column), ("label_column", label_column)):
                    if column not in file.schema_arrow.names:
                        raise ValueError(
                            f"{source!r} has no column {column!r} in its {split} split (`{path}`), but "
                            f"{', '.join(file.schema_arrow.names)}. Name the right one with `--{setting}`."
                        )
                sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
                labels = file.read(columns=[label_column]).column(label_column)
            return checked_labels(labels, f"`{path}`", label_column, source), sizes

        def make(index: Path) -> None:
            with ThreadPoolExecutor(READERS) as threads:
                found = list(threads.map(read, self.paths))
            with index.open("wb") as file:
                np.savez(
                    file,
                    labels=np.concatenate([labels for labels, _ in found]).astype(np.int32),
                    sizes=np.array([size for _, sizes in found for size in sizes], dtype=np.int64),
                    groups=np.array([len(sizes) for _, sizes in found]),
                )

        with np.load(kept(f"{self.key}.npz", make)) as index:
            sizes, groups = index["sizes"], index["groups"]
            self.labels = torch.from_numpy(index["labels"]).long()
            """int64 [N]."""
        if not len(self.labels):
            raise ValueError(f"{source!r} has an empty {split} split. Put images into it.")
        with opened(self.paths[0]) as file:
            self.features = features or Features.from_arrow_schema(file.schema_arrow)
        self.sizes = sizes
        """Images in each row group."""
        self.starts = np.cumsum(sizes) - sizes
        """The first of them."""
        self.shard = np.repeat(np.arange(len(groups)), groups)
        self.group = np.arange(len(sizes)) - np.repeat(np.cumsum(groups) - groups, groups)

    def read(self, k: int) -> pyarrow.StructArray:
        """The encoded images of a row group, as bytes and path."""
        from datasets import Image as ImageFeature

        with opened(self.paths[self.shard[k]]) as file:
            column = file.read_row_group(int(self.group[k]), columns=[self.image_column], use_threads=False).column(
                self.image_column
            )
        return ImageFeature(decode=False).cast_storage(column.combine_chunks())


class StreamSet:
    """The training images of a stream: what is known without reading one, and what a stream learns of them."""

    def __init__(self, part: Part, buffer: int) -> None:
        self.labels: Tensor = part.labels
        """int64 [N]."""
        self.transform: Callable | None = None
        """From a PIL image in RGB to what a batch is made of."""
        self.shards: Shards = part.open
        self.buffer = buffer
        self.counts = part.labels.bincount()
        self.broken = torch.zeros(len(part.labels), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> Any:
        raise ValueError("A stream has no image by its number. Leave out `--stream` for what needs one.")

    @property
    def unreadable(self) -> int:
        """How many images could not be decoded so far, in all worker processes of this one."""
        return int(self.broken.sum())

    @property
    def held(self) -> int:
        """Images that all windows hold together: sum_c min(n_c, `buffer`)."""
        return int(self.counts.clamp(max=self.buffer).sum())

    def pool(self) -> Path:
        """The file of min(n_c, `buffer`) encoded images of each class, read out of the row groups at the first time.

        Of the classes that have more, those are taken that lie in row groups which the others need anyway.
        """
        labels = self.labels.numpy()
        group = np.repeat(np.arange(len(self.shards.sizes)), self.shards.sizes)
        needed = np.zeros(len(self.shards.sizes), dtype=bool)
        needed[group[self.counts.numpy()[labels] <= self.buffer]] = True
        order = np.lexsort((~needed[group], labels))  # class by class, at first those of groups that are needed
        counts = self.counts.numpy()
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.sort(order[rank < self.buffer])

        def make(path: Path) -> None:
            print(
                f"Reading {len(rows)} images of {self.shards.split} once, of every class up to {self.buffer}, to draw "
                f"classes by: they stay in `{path.with_suffix('')}`.",
                file=sys.stderr,
                flush=True,
            )
            schema = pyarrow.schema({"row": pyarrow.int64(), "image": pyarrow.struct(IMAGE)})
            groups = np.unique(group[rows])
            with ipc.new_file(str(path), schema) as file, ThreadPoolExecutor(READERS) as threads:
                for first in range(0, len(groups), READERS):  # so that no more of them than that stand in memory
                    some = groups[first : first + READERS]
                    for k, images in zip(some, threads.map(self.shards.read, some), strict=True):
                        start = self.shards.starts[k]
                        low, high = np.searchsorted(rows, [start, start + self.shards.sizes[k]])
                        mine = images.take(pyarrow.array(rows[low:high] - start))
                        columns = [pyarrow.array(rows[low:high]), mine.cast(schema.field("image").type)]
                        file.write_batch(pyarrow.record_batch(columns, schema=schema))

        return kept(f"{self.shards.key}_{self.buffer}.arrow", make)


IMAGE = {"bytes": pyarrow.binary(), "path": pyarrow.string()}


class Pool:
    """The images of a pool's file, class by class. The file stays on the disk, mapped into memory."""

    def __init__(self, path: Path, labels: Tensor, num_classes: int) -> None:
        table = ipc.open_file(pyarrow.memory_map(str(path))).read_all()
        self.rows, self.images = table.column("row").to_numpy(), table.column("image")
        classes = labels.numpy()[self.rows]
        self.order = np.argsort(classes, kind="stable")
        self.counts = np.bincount(classes, minlength=num_classes)
        self.starts = np.cumsum(self.counts) - self.counts

    def __getitem__(self, k: int) -> tuple[int, dict | None]:
        place = int(self.order[k])
        return int(self.rows[place]), self.images[place].as_py()


def exponents(sampler: Sampler) -> tuple[float, ...]:
    """The taus of a sampler of images or of pairs, whose draws a stream makes from what it holds."""
    pair = isinstance(sampler, PairSampler)
    samplers = (sampler.first, sampler.second) if pair else (sampler,)
    if not all(isinstance(each, ClassPowerSampler) for each in samplers) or (
        pair and sampler.different_classes is not None
    ):
        raise ValueError(
            f"A stream draws classes by a power of their sizes, which {type(sampler).__name__} does not. Leave out "
            "`--stream`."
        )
    return tuple(each.tau for each in samplers)


class Window:
    """What a stream draws and holds at each place of its epoch.

    Its images are numbered from 0 in the order in which they are read; -1 - k is image k of the pool. With tau = 1 the
    first image of a place leaves the window, so that each comes once. Otherwise a class is drawn with probability
    ~ n^tau, and an image of it: of a class that the pool holds whole from there, of another from the window, or from
    the pool where the window has none of it.
    """

    def __init__(
        self, labels: np.ndarray, size: int, taus: Sequence[float], counts: np.ndarray, pool: Pool | None, seed: int
    ) -> None:
        self.labels, self.counts, self.pool, self.random = labels, counts, pool, Random(seed)
        self.held = list(range(min(size, len(labels))))
        """The image of each slot."""
        self.taus = taus
        self.ends = {
            tau: list(accumulate(ClassPowerSampler.class_probabilities(counts, tau).tolist()))
            for tau in set(taus) - {1.0}
        }
        self.slots: dict[int, list[int]] = defaultdict(list)  # of each class
        self.place = [0] * len(self.held)  # of each slot in that list
        if self.ends:
            for slot, image in enumerate(self.held):
                self._enter(slot, int(labels[image]))

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], int | None]]:
        """The images of each place, and the one that leaves behind it for another to be read."""
        size = len(self.held)
        last = self.random.sample(range(size), size)
        for arriving in range(size, len(self.labels) + size):
            more = arriving < len(self.labels)
            slot = int(self.random.random() * size) if more else last[arriving - len(self.labels)]
            once = self.taus[0] == 1.0
            images = [self.held[slot]] if once else []
            images += [self._draw(tau) for tau in self.taus[once:]]
            yield tuple(images), self.held[slot] if more else None
            if more:
                if self.ends:
                    self._leave(slot, int(self.labels[self.held[slot]]))
                    self._enter(slot, int(self.labels[arriving]))
                self.held[slot] = arriving

    def alike(self, label: int) -> Iterator[int]:
        """What can stand for an image of a class: others of it, and then any."""
        yield from (image for image in self.held if self.labels[image] == label)
        if self.pool:
            yield from (-1 - int(self.pool.starts[label]) - k for k in range(self.pool.counts[label]))
        yield from self.held

    def _draw(self, tau: float) -> int:
        if tau == 1.0:
            return self.held[int(self.random.random() * len(self.held))]
        # The sum of the probabilities may end a rounding below 1.
        label = min(bisect(self.ends[tau], self.random.random()), len(self.counts) - 1)
        kept, slots = int(self.pool.counts[label]), self.slots[label]
        if kept == self.counts[label] or not slots:
            return -1 - int(self.pool.starts[label]) - int(self.random.random() * kept)
        return self.held[slots[int(self.random.random() * len(slots))]]

    def _enter(self, slot: int, label: int) -> None:
        self.place[slot] = len(self.slots[label])
        self.slots[label].append(slot)

    def _leave(self, slot: int, label: int) -> None:
        slots = self.slots[label]
        slots[self.place[slot]], self.place[slots[-1]] = slots[-1], self.place[slot]
        slots.pop()


class Held(Dataset):
    """Images of a window by their numbers there, transformed, and their labels; row groups are read when needed."""

    def __init__(self, images: StreamSet, window: Window, pieces: list[tuple[int, int, int]]) -> None:
        self.images, self.window, self.pieces = images, window, iter(pieces)
        self.encoded: dict[int, tuple[int, dict | None]] = {}
        self.gone: set[int] = set()
        """Images that have left the window without being read."""
        self.read = 0

    def __getitem__(self, k: int) -> tuple[Any, int]:
        image, label = self.image(k)
        return image if self.images.transform is None else self.images.transform(image), label

    def image(self, k: int) -> tuple[Image.Image, int]:
        """An image in RGB, or another one if it cannot be read, of its class if one is held; and its label."""
        row, image = self._decode(k)
        if image is None:
            for other in self.window.alike(int(self.images.labels[row])):
                row, image = self._decode(other)
                if image is not None:
                    break
            else:
                raise ValueError(
                    f"None of the {len(self.window.held)} images can be read that a stream holds. Mend the files."
                )
        return image, int(self.images.labels[row])

    def leave(self, k: int) -> None:
        """Forget an image."""
        if self.encoded.pop(k, None) is None:
            self.gone.add(k)

    def _decode(self, k: int) -> tuple[int, Image.Image | None]:
        row, stored = self.window.pool[-1 - k] if k < 0 else self._encoded(k)
        name = (stored or {}).get("path") or f"{self.images.shards.split} {row}"
        return row, decode(lambda: open_stored(stored), name, self.images.broken, row, "another one")

    def _encoded(self, k: int) -> tuple[int, dict | None]:
        while k not in self.encoded:
            group, skip, size = next(self.pieces)
            wanted = [j for j in range(size) if self.read + j not in self.gone]
            if wanted:
                stored, start = self.images.shards.read(group), int(self.images.shards.starts[group])
                self.encoded |= {self.read + j: (start + skip + j, stored[skip + j].as_py()) for j in wanted}
            self.gone.difference_update(range(self.read, self.read + size))
            self.read += size
        return self.encoded[k]


class Stream(IterableDataset):
    """This process's images of an epoch, or pairs of them, from a step on; each worker makes every n-th batch of them.

    The row groups are shuffled by (seed, epoch), and processes and workers take equal parts of them, one behind the
    other. Full batches only, so that all processes take as many steps: what is left at the end of the shuffled epoch,
    less than a batch, is not seen.

    Args:
        images: the set.
        taus: exponents of the class probabilities, of single images or of the two of a pair.
        batch_size: over all processes.
        seed: of everything.
        epoch: which one.
        processes: how many there are.
        process: which one this is.
        first_step: the step to begin with.
    """

    def __init__(
        self,
        images: StreamSet,
        taus: Sequence[float],
        batch_size: int,
        seed: int,
        epoch: int,
        processes: int = 1,
        process: int = 0,
        first_step: int = 0,
    ) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch
        self.batch_size, self.share, self.process = batch_size, batch_size // processes, process
        self.processes, self.first_step = processes, first_step
        self.steps = len(images) // batch_size
        self.taus = tuple(map(float, taus))
        self.pool = images.pool() if set(self.taus) - {1.0} else None

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.share

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # A loader takes its first batch from worker 0, whatever the step is.
        lane = (worker + self.first_step) % workers
        steps = range(lane, self.steps, workers)
        before = sum(len(range(other, self.steps, workers)) for other in range(lane))
        first = len(self.images) * self.process // self.processes + before * self.share
        pieces = self.pieces(first, len(steps) * self.share)
        starts, labels = self.images.shards.starts, self.images.labels.numpy()
        read = [labels[starts[group] + skip : starts[group] + skip + size] for group, skip, size in pieces]
        entropy = np.random.SeedSequence(self.seed, spawn_key=(self.epoch, self.process, lane))
        window = Window(
            np.concatenate(read) if read else labels[:0],
            max(1, self.images.held // (self.processes * workers)),
            self.taus,
            self.images.counts.numpy(),
            Pool(self.pool, self.images.labels, len(self.images.counts)) if self.pool else None,
            int(entropy.generate_state(1, np.uint64)[0]),
        )
        held = Held(self.images, window, pieces)
        augmented = SeededDataset(held, self.seed)
        for k, (drawn, leaving) in enumerate(window):
            step = steps[k // self.share]
            if step >= self.first_step:
                place = step * self.batch_size + self.process * self.share + k % self.share
                yield augmented[(self.epoch, place, *drawn)]
            if leaving is not None:
                held.leave(leaving)

    def pieces(self, first: int, size: int) -> list[tuple[int, int, int]]:
        """Parts of row groups that make up some images of the epoch: group, images before, images."""
        entropy = np.random.SeedSequence(self.seed, spawn_key=(self.epoch,))
        order = np.random.default_rng(entropy).permutation(len(self.images.shards.sizes))
        sizes = self.images.shards.sizes[order]
        ends = np.cumsum(sizes)
        low, high = np.clip([first - ends + sizes, first + size - ends + sizes], 0, sizes)
        return [(int(order[k]), int(low[k]), int(high[k] - low[k])) for k in np.flatnonzero(high > low)]
