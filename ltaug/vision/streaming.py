"""Training images that are read in the order of their parquet files, for sets that no disk holds.

Labels are read first, without any image, and kept. Then every worker of every process goes through a share of the row
groups, in an order of its own epoch, and holds a window of encoded images, from which it draws. Classes that are drawn
more often than they come are drawn from a pool, too: a file of all images of the rare classes and some of the others.
What is drawn and held is a pure function of seed, epoch, process and worker, computed on numbers: resuming inside an
epoch reads only what the window holds at that point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from ltaug.errors import UserError
from ltaug.loaders._base import check_shares
from ltaug.loaders.seeded import SeededDataset
from ltaug.loaders.seeded_loader import Collate, finished
from ltaug.run import content_hash
from ltaug.samplers import ClassPowerSampler, PairSampler
from ltaug.samplers._base import Epochs
from ltaug.vision.decoding import open_stored
from ltaug.vision.image_set import Notes
from ltaug.vision.shards import Pool, Shards
from ltaug.vision.window import Window

__all__ = ["StreamLoader", "StreamSet", "class_exponents"]


class StreamSet:
    """Training images of a stream: what is known without reading one, and what is learned of them.

    Args:
        shards: the files.
        labels: int64 [N].
        buffer: encoded images of a class that make up the window, over all processes and workers, and the pool.
        num_classes: C.
    """

    def __init__(self, shards: Shards, labels: Tensor, buffer: int, num_classes: int) -> None:
        self.shards, self.labels, self.buffer = shards, labels, buffer
        self.transform: Callable[[Image.Image], Any] | None = None
        """Makes of a PIL image in RGB what a batch is made of."""
        self.counts = labels.bincount(minlength=num_classes)
        self.notes = Notes(len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def content_hash(self) -> str:
        """SHA-256 of the labels in the order of the files."""
        return content_hash(self.labels)

    @property
    def unreadable(self) -> int:
        """Images that could not be decoded so far, in all worker processes of this one."""
        return self.notes.unreadable

    @property
    def held(self) -> int:
        """Images that all windows hold together: sum_c min(n_c, ``buffer``)."""
        return int(self.counts.clamp(max=self.buffer).sum())


class StreamLoader(Epochs):
    """Batches of a stream, with the methods of a :class:`~ltaug.loaders.SeededLoader`.

    Every step is the same after resuming; other numbers of processes or workers draw other images.

    Args:
        images: the set.
        batch_size: images (or pairs) a global batch; only full ones are taken.
        sampler: a :class:`~ltaug.ClassPowerSampler` or a pair of them, whose exponents are drawn by.
        seed: of everything.
        device: where batches are put.
        finish: applied to the inputs of a batch on the device.
        num_processes: how many processes share the set.
        process_index: which one this is.
        num_workers: worker processes that read.
        collate_fn: makes a batch of a list of samples; torch's ``default_collate`` if it is ``None``.
        worker_init_fn: called in every worker process with its number.
    """

    def __init__(
        self,
        images: StreamSet,
        batch_size: int,
        *,
        sampler: Any,
        seed: int = 0,
        device: torch.device | None = None,
        finish: Callable[[Any], Any] | None = None,
        num_processes: int = 1,
        process_index: int = 0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:
        check_shares(batch_size, num_processes, process_index)
        if batch_size > len(images):
            raise UserError(f"`batch_size`={batch_size} exceeds the {len(images)} training images. Lower it.")
        self.images, self.batch_size, self.sampler, self.seed = images, batch_size, sampler, seed
        self.device, self.finish = device, finish
        self.num_processes, self.process_index = num_processes, process_index
        self.workers = {"num_workers": num_workers, "worker_init_fn": worker_init_fn}
        self.collate = Collate(collate_fn or default_collate)
        self.first_step = 0
        class_exponents(sampler)  # raises now if it will not do

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next iteration, also of the sampler, and the step that it begins with.

        Without it each iteration moves on by one epoch and begins with its first step.
        """
        super().set_epoch(epoch)
        self.first_step = first_step
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size - self.first_step

    def __iter__(self) -> Iterator[Any]:
        if self._begun:
            self.first_step = 0
        self.begin_epoch()
        self.sampler.begin_epoch()
        stream = Stream(self, class_exponents(self.sampler))
        loader: DataLoader[Any] = DataLoader(
            stream,
            batch_size=self.batch_size // self.num_processes,
            prefetch_factor=4 if self.workers["num_workers"] else None,
            pin_memory=self.device is not None and self.device.type == "cuda",
            collate_fn=self.collate,
            generator=torch.Generator(),
            **self.workers,  # type: ignore[arg-type]  # of different types
        )
        for batch in loader:
            yield finished(batch, self.device, self.finish)


def class_exponents(sampler: Any) -> tuple[float, ...]:
    """Exponents tau of a sampler of images or of pairs, whose draws a stream makes from what it holds.

    Raises:
        UserError: it draws in another way.
    """
    sampler = getattr(sampler, "current", sampler)  # of a plan: that of the epoch
    pair = isinstance(sampler, PairSampler)
    samplers: tuple[Any, ...] = (sampler.first, sampler.second) if pair else (sampler,)
    if not all(isinstance(each, ClassPowerSampler) for each in samplers) or (
        pair and sampler.different_classes is not None
    ):
        raise UserError(
            f"A stream draws classes by a power of their sizes, which {type(sampler).__name__} does not. Leave out "
            "`stream`."
        )
    return tuple(float(each.tau) for each in samplers)


class Stream(IterableDataset[Any]):
    """This process's images of an epoch, or pairs of them, from a step on; each worker makes every n-th batch of them.

    The row groups are shuffled by (seed, epoch), and processes and workers take equal parts of them, one behind the
    other. What is left at the end of the shuffled epoch, less than a batch, is not seen.
    """

    def __init__(self, loader: StreamLoader, taus: Sequence[float]) -> None:
        self.images, self.seed, self.epoch = loader.images, loader.seed, loader.epoch
        self.batch_size, self.share = loader.batch_size, loader.batch_size // loader.num_processes
        self.process, self.processes, self.first_step = loader.process_index, loader.num_processes, loader.first_step
        self.steps, self.taus = len(self.images) // self.batch_size, taus
        images = self.images
        drawn = set(taus) - {1.0}
        self.pool = images.shards.pool(images.labels.numpy(), images.counts.numpy(), images.buffer) if drawn else None

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
        labels, counts, starts = self.images.labels.numpy(), self.images.counts.numpy(), self.images.shards.starts
        read = [labels[starts[group] + skip : starts[group] + skip + size] for group, skip, size in pieces]
        entropy = np.random.SeedSequence(self.seed, spawn_key=(self.epoch, self.process, lane))
        window = Window(
            np.concatenate(read) if read else labels[:0],
            max(1, self.images.held // (self.processes * workers)),
            self.taus,
            counts,
            Pool(self.pool, labels, len(counts)) if self.pool else None,
            int(entropy.generate_state(1, np.uint64)[0]),
        )
        held = WindowDataset(self.images, window, pieces)
        augmented = SeededDataset(held, self.seed)
        for k, (drawn, leaving) in enumerate(window):
            step = steps[k // self.share]
            if step >= self.first_step:
                place = step * self.batch_size + self.process * self.share + k % self.share
                item = (self.epoch, place, *drawn)
                yield augmented[item]
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


class WindowDataset(Dataset[Any]):
    """Images of a window by their numbers there, transformed, and their labels; row groups are read when needed."""

    def __init__(self, images: StreamSet, window: Window, pieces: list[tuple[int, int, int]]) -> None:
        self.images, self.window, self.pieces = images, window, iter(pieces)
        self.encoded: dict[int, tuple[int, Any]] = {}
        self.gone: set[int] = set()
        """Images that have left the window without being read."""
        self.read = 0

    def __getitem__(self, k: int) -> tuple[Any, int]:
        image, label = self.image(k)
        return image if self.images.transform is None else self.images.transform(image), label

    def image(self, k: int) -> tuple[Image.Image, int]:
        """Decode an image, or another one if it cannot be read, of its class if one is held; and return its label."""
        row, image = self._decode(k)
        if image is None:
            for other in self.window.alike(int(self.images.labels[row])):
                row, image = self._decode(other)
                if image is not None:
                    break
            else:
                raise UserError(f"None of the {len(self.window.held)} images that a stream holds can be read.")
        return image, int(self.images.labels[row])

    def leave(self, k: int) -> None:
        """Forget an image."""
        if self.encoded.pop(k, None) is None:
            self.gone.add(k)

    def _decode(self, k: int) -> tuple[int, Image.Image | None]:
        pool = self.window.pool
        row, stored = pool[-1 - k] if k < 0 and pool is not None else self._encoded(k)
        path = stored.get("path") if isinstance(stored, dict) else None
        name, folder = path or f"{self.images.shards.split} {row}", self.images.shards.folder
        return row, self.images.notes.decode(lambda: open_stored(stored, folder), name, row, "another one")

    def _encoded(self, k: int) -> tuple[int, Any]:
        while k not in self.encoded:
            group, skip, size = next(self.pieces)
            wanted = [j for j in range(size) if self.read + j not in self.gone]
            if wanted:
                stored, start = self.images.shards.read(group), int(self.images.shards.starts[group])
                self.encoded |= {self.read + j: (start + skip + j, stored[skip + j].as_py()) for j in wanted}
            self.gone.difference_update(range(self.read, self.read + size))
            self.read += size
        return self.encoded[k]
