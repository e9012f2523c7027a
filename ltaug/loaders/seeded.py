"""A large data set read by worker processes, with batches and augmentation that depend on neither workers nor ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ltaug._arguments import checked
from ltaug.loaders._base import check_shares
from ltaug.samplers._base import Epochs
from ltaug.samplers.pair import PairSampler

__all__ = ["GlobalBatchSampler", "SamplePair", "SeededDataset"]


class SamplePair(NamedTuple):
    """Two samples of a data set, or two batches of them, of which a mixer makes one."""

    first: Any
    second: Any


class GlobalBatchSampler(Epochs, Sampler[list[tuple[int, ...]]]):
    r"""This process's rows of every global batch of an epoch.

    It is a ``batch_sampler`` for a ``DataLoader`` over a :class:`SeededDataset`.

    ``batch_size`` B is the *global* batch. With the sampler's epoch :math:`i_0, i_1, \dots`, process r of R yields in
    step s the items

    .. math:: (e, p, i_p), \quad p = s B + r B / R, \;\dots,\; s B + (r + 1) B / R - 1,

    of epoch e and *place* p: the R processes together see, in the order of their ranks, what a single one sees. Of a
    :class:`~ltaug.PairSampler` the items are :math:`(e, p, i_p, j_p)`. All processes take equally many steps. A loader
    made of it is already sharded: accelerate must not prepare it.

    An epoch is read from the sampler as it is needed; no order of the whole set is held in memory.

    Args:
        sampler: any sampler of indices or of index pairs that yields the same on every process. The attribute may be
            exchanged between two epochs.
        batch_size: samples (or pairs) a *global* batch; a multiple of ``num_processes``.
        num_processes: how many processes share the set.
        process_index: which one this is.
        drop_last: yield full batches only. ``False`` adds what is left at the end of an epoch, of which each process
            gets an equal part; that may be an empty list, which only :class:`SeededLoader` can load.

    Raises:
        ValueError: sizes cannot be divided, or no batch can be formed.

    >>> batches = GlobalBatchSampler(range(10), batch_size=4, num_processes=2, process_index=1)
    >>> batches.set_epoch(7)
    >>> list(batches)
    [[(7, 2, 2), (7, 3, 3)], [(7, 6, 6), (7, 7, 7)]]
    >>> batches.set_epoch(7, first_step=1)  # a run that resumes inside an epoch
    >>> list(batches)
    [[(7, 6, 6), (7, 7, 7)]]
    """

    @checked
    def __init__(
        self,
        sampler: Sampler[int] | PairSampler,
        batch_size: int,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        drop_last: bool = True,
    ) -> None:
        check_shares(batch_size, num_processes, process_index)
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.process_index = process_index
        self.drop_last = drop_last
        self.first_step = 0
        if not self._steps():
            raise ValueError(
                f"`batch_size`={batch_size} exceeds the {self._epoch_size()} samples of an epoch, and only full "
                "batches are taken. Lower it."
            )

    @checked
    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next iteration, also of the sampler, and the step that it begins with.

        Without it each iteration moves on by one epoch and begins with its first step.
        """
        super().set_epoch(epoch)
        if not 0 <= first_step <= self._steps():
            raise ValueError(
                f"`first_step` must lie in 0..{self._steps()}, the steps of an epoch, but is {first_step}."
            )
        self.first_step = int(first_step)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def begin_epoch(self) -> None:
        """Move on to the next epoch, unless one was chosen: what each iteration does first."""
        if self._begun:
            self.first_step = 0
        super().begin_epoch()

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        self.begin_epoch()
        epoch, index, processes = self.epoch, self.process_index, self.num_processes
        rows = itertools.islice(self.sampler, self.first_step * self.batch_size, None)
        for step in range(self.first_step, self._steps()):
            batch = list(itertools.islice(rows, self.batch_size))
            low, high = len(batch) * index // processes, len(batch) * (index + 1) // processes
            places = itertools.count(step * self.batch_size + low)
            yield [
                (epoch, place, *(row if isinstance(row, tuple) else (row,)))
                for place, row in zip(places, batch[low:high], strict=False)
            ]

    def __len__(self) -> int:
        return self._steps() - self.first_step

    def _steps(self) -> int:
        full, rest = divmod(self._epoch_size(), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def _epoch_size(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a Sampler without a length has no epochs


class SeededDataset(Dataset[Any]):
    r"""A data set whose augmentation is a pure function of (seed, epoch, place in the epoch).

    It does not matter which worker of which process reads a sample. Its indices are the items of
    :class:`GlobalBatchSampler`. Sample (e, p, i) is

    .. math:: x = \texttt{dataset}[i] \quad\text{with torch's generator seeded by}\quad h(\texttt{seed}, e, p, 0),

    and of an item (e, p, i, j) the second sample of the :class:`SamplePair` is ``dataset[j]`` under
    :math:`h(\texttt{seed}, e, p, 1)`; h is NumPy's ``SeedSequence``. So an epoch is the same for any number of workers
    and processes, after resuming, and one image that is drawn twice is augmented in two ways. Transforms must draw from
    torch's generator on the CPU, as those of torchvision do; what it would have drawn next is left as it was.

    Args:
        dataset: any map-style data set.
        seed: of the augmentation.

    Raises:
        ValueError: ``seed`` is negative; when indexing, the index is not such an item.

    >>> class Noise(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 8
    ...
    ...     def __getitem__(self, k):
    ...         return k + torch.rand(())
    >>> dataset = SeededDataset(Noise(), seed=1)
    >>> bool(dataset[0, 5, 3] == dataset[0, 5, 3]), bool(dataset[0, 5, 3] == dataset[0, 6, 3])
    (True, False)
    >>> batches = GlobalBatchSampler(range(8), batch_size=4)
    >>> [len(batch) for batch in torch.utils.data.DataLoader(dataset, batch_sampler=batches)]
    [4, 4]
    """

    @checked
    def __init__(self, dataset: Dataset[Any], seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, item: tuple[int, ...]) -> Any:
        if not isinstance(item, tuple) or len(item) not in (3, 4):
            raise ValueError(
                f"`item` must be (epoch, place, index) or (epoch, place, index, partner), but is {item!r}. Use "
                "`GlobalBatchSampler` as the loader's `batch_sampler`."
            )
        epoch, place, *indices = item
        # By its own methods: `torch.manual_seed` would seed the generators of all GPUs as well.
        generator = torch.default_generator
        before = generator.get_state()
        samples = []
        try:
            for stream, index in enumerate(indices):
                entropy = np.random.SeedSequence(self.seed, spawn_key=(epoch, place, stream))
                generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
                samples.append(self.dataset[index])
        finally:
            generator.set_state(before)
        return samples[0] if len(samples) == 1 else SamplePair(*samples)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]
