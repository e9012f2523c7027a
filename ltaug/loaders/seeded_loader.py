"""Batches of a map-style data set that are the same on any number of processes and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler, default_collate

from ltaug._arguments import checked
from ltaug.loaders.seeded import GlobalBatchSampler, SamplePair, SeededDataset
from ltaug.samplers.pair import PairSampler

__all__ = ["SeededLoader", "to_device"]


class SeededLoader:
    """Load any map-style data set, with the same batches and augmentation on any number of processes and workers.

    ``batch_size`` is the *global* batch, of which each process loads its contiguous rows; all processes take equally
    many steps. Augmentation is a pure function of seed, epoch and place in the epoch (:class:`SeededDataset`), so an
    epoch can be repeated, and continued in the middle. Of a sampler of pairs, batches are ``(batch, partner batch)``.

    To train, give a sampler and ``drop_last=True``. Without a sampler the data set is read in its order, to evaluate;
    a last batch of fewer samples than processes leaves some of them with an empty batch, so that all of them can gather
    after each step. The loader is already sharded: accelerate must not prepare it.

    Args:
        dataset: ``dataset[k]`` is a sample, usually ``(inputs, label)``; random augmentation draws from torch's
            generator on the CPU.
        batch_size: samples (or pairs) a global batch; a multiple of ``num_processes``.
        sampler: any sampler of indices or of index pairs that yields the same on every process.
        drop_last: leave out what is left at the end of an epoch and does not fill a batch.
        seed: of the augmentation.
        device: where batches are put; their tensors stay where they are if it is ``None``.
        finish: applied to the inputs of a batch on the device, such as a normalisation: to the first entry of a batch
            that is a tuple or list, or else to the whole batch.
        num_processes: how many processes share the set.
        process_index: which one this is.
        num_workers: worker processes that load samples; they live as long as the loader. 0 loads in this process.
        collate_fn: makes a batch of a list of samples; torch's ``default_collate`` if it is ``None``.
        worker_init_fn: called in every worker process with its number.

    Raises:
        ValueError: sizes cannot be divided, or no batch can be formed.

    >>> from ltaug import ClassPowerSampler
    >>> dataset = [(torch.full((2,), float(k)), k % 2) for k in range(10)]
    >>> train = SeededLoader(dataset, 4, sampler=ClassPowerSampler([k % 2 for k in range(10)]), drop_last=True)
    >>> train.set_epoch(3)
    >>> [tuple(inputs.shape) for inputs, labels in train]
    [(4, 2), (4, 2)]
    >>> [labels.tolist() for inputs, labels in SeededLoader(dataset, 4)]
    [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    """

    @checked
    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        sampler: Sampler[int] | PairSampler | None = None,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        finish: Callable[[Any], Any] | None = None,
        num_processes: int = 1,
        process_index: int = 0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.device = None if device is None else torch.device(device)
        self.finish = finish
        self.batches = GlobalBatchSampler(
            SequentialSampler(dataset) if sampler is None else sampler,  # type: ignore[arg-type]  # it has a length
            batch_size,
            num_processes=num_processes,
            process_index=process_index,
            drop_last=drop_last,
        )
        # A generator of its own: a DataLoader draws a number at every start, which must not shift the mixers' draws.
        self._loader: DataLoader[Any] = DataLoader(
            SeededDataset(dataset, seed),
            batch_sampler=_NeverEmpty(self.batches),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers else None,
            pin_memory=self.device is not None and self.device.type == "cuda",
            collate_fn=Collate(collate_fn or default_collate),
            worker_init_fn=worker_init_fn,
            generator=torch.Generator(),
        )

    @checked
    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next iteration, also of the sampler, and the step that it begins with."""
        self.batches.set_epoch(epoch, first_step)

    def __len__(self) -> int:
        """Batches of the next iteration: those of an epoch from the step on that it begins with."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        rows = _rows_of_steps(self.batches)
        for batch, count in zip(self._loader, rows, strict=True):
            yield finished(batch if count else _emptied(batch), self.device, self.finish)


class _NeverEmpty(Sampler[list[tuple[int, ...]]]):
    """The batches, with one sample in the place of an empty one, which cannot be collated."""

    def __init__(self, batches: GlobalBatchSampler) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for batch in self.batches:
            yield batch or [(self.batches.epoch, 0, 0)]

    def __len__(self) -> int:
        return len(self.batches)


def _rows_of_steps(batches: GlobalBatchSampler) -> Iterator[int]:
    """Rows of this process in the batches of an epoch."""
    size, steps = batches._epoch_size(), range(batches.first_step, batches._steps())
    for step in steps:
        rows = min(batches.batch_size, size - step * batches.batch_size)
        low, high = (rows * k // batches.num_processes for k in (batches.process_index, batches.process_index + 1))
        yield high - low


class Collate:
    """Collate samples, or the two halves of pairs apart."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> Any:
        if isinstance(samples[0], SamplePair):
            return SamplePair(*(self.collate_fn(list(half)) for half in zip(*samples, strict=True)))
        return self.collate_fn(samples)


def finished(batch: Any, device: torch.device | None, finish: Callable[[Any], Any] | None) -> Any:
    """Put a batch, or both of a pair, on the device and finish its inputs there."""
    if isinstance(batch, SamplePair):
        return SamplePair(*(finished(half, device, finish) for half in batch))
    if device is not None:
        batch = to_device(batch, device)
    if finish is None:
        return batch
    return (finish(batch[0]), *batch[1:]) if isinstance(batch, tuple | list) else finish(batch)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors of a batch, also those in tuples, lists and mappings."""
    return _map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _emptied(batch: Any) -> Any:
    """Take the rows out of a batch."""
    if isinstance(batch, tuple | list) and not any(isinstance(each, Tensor | Mapping | tuple | list) for each in batch):
        return batch[:0]  # of strings, say
    return _map_tensors(batch, lambda tensor: tensor[:0], _emptied)


def _map_tensors(batch: Any, change: Callable[[Tensor], Tensor], recur: Callable[[Any], Any] | None = None) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    recur = recur or (lambda part: _map_tensors(part, change))
    if isinstance(batch, Mapping):
        return {key: recur(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(recur, batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map(recur, batch))
    return batch
