"""Class-aware draws, and pairs, of a data set that is only read from front to end."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ltaug._arguments import checked
from ltaug.priors import Counts, as_counts
from ltaug.samplers import ClassPowerSampler
from ltaug.samplers._base import Epochs

MOST_WORKERS = 4096
COUNT_BITS = 24
"""Of an entry of a worker: the rest, but for the sign, are of the key of its iteration."""


class ClassPowerStream(Epochs, IterableDataset[Any]):
    r"""Draw classes by a power of their sizes from a stream: :class:`~ltaug.ClassPowerSampler` for ``IterableDataset``.

    Up to ``held`` samples of each class that has come by are kept, a uniform choice of them (reservoir sampling, Vitter
    1985, https://doi.org/10.1145/3147.3165). For every sample that comes, one is yielded: a class with probability
    ~ n_y^tau among those seen so far, then one of its held samples; with ``tau=1`` the sample itself, so that each
    comes once. With ``partner_tau`` each comes with a second one, drawn by that power, for mixers: the stream is then
    one of pairs, as :class:`~ltaug.PairDataset` has them.

    At most C * ``held`` + ``ahead`` samples are in memory, in each worker process. A rare class is drawn from the same
    few samples for long, so keep them encoded and leave what is random to ``transform``.

    The draws are a function of the stream, seed, epoch, and the numbers of process and worker; torch's generator has no
    part in them. Each iteration of a ``DataLoader`` moves on by one epoch, whether its workers are made anew or
    persistent, and :meth:`set_epoch` reaches them: call it before the loader is iterated. To resume is to choose the
    epoch; with another number of workers the stream is divided in another way.

    Args:
        dataset: anything that is iterated from its beginning as often as there are epochs: an ``IterableDataset`` of
            torch or ``datasets``. Its ``set_epoch``, if it has one, is called with the epoch of each iteration. Divide
            it between processes before; torch's and ``datasets``' own ways divide it between workers.
        class_counts: training samples a class, [C], the n of the power.
        tau: exponent of the class probabilities.
        partner_tau: that of the partners; None for single samples.
        held: samples of a class that are kept.
        ahead: samples that are read before the first is yielded, so that it can be of more than a few classes.
        label: where a sample has its label: a place of tuples, a name of dictionaries.
        transform: applied to each sample that is yielded.
        seed: with the epoch, the process and the worker, the source of randomness.

    Raises:
        ValueError: a number is too small, or ``dataset`` can be iterated only once; while iterating, a label is none
            of the classes.

    >>> stream = [(f"sample {k}", int(k % 100 == 0)) for k in range(1000)]
    >>> drawn = ClassPowerStream(stream, class_counts=[990, 10], tau=0.0, ahead=200)
    >>> 400 < sum(label for _, label in drawn) < 600
    True
    """

    @checked
    def __init__(
        self,
        dataset: Any,
        class_counts: Counts,
        tau: float = 0.0,
        partner_tau: float | None = None,
        *,
        held: int = 16,
        ahead: int = 1000,
        label: Any = 1,
        transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not hasattr(dataset, "__iter__") or isinstance(dataset, type):
            raise ValueError(f"`dataset` must be something that is iterated, but is a {type(dataset).__name__}.")
        if isinstance(dataset, Iterator) and not isinstance(dataset, IterableDataset):
            raise ValueError(
                f"`dataset` must be iterated anew in each epoch, but a {type(dataset).__name__} comes only once. Pass "
                "what it is made from: a list, or an `IterableDataset` whose `__iter__` makes it."
            )
        for name, value in (("held", held), ("ahead", ahead)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")
        self.dataset, self.tau, self.partner_tau = dataset, float(tau), partner_tau
        self.class_counts = as_counts(class_counts).cpu()
        self.held, self.ahead, self.label, self.transform, self.seed = held, ahead, label, transform, seed
        group = torch.distributed
        self._shared = torch.zeros(2 + MOST_WORKERS, dtype=torch.int64, device="cpu")
        self._shared.share_memory_()  # type: ignore[no-untyped-call]
        self.rank = group.get_rank() if group.is_available() and group.is_initialized() else 0

    # --- the epoch ----------------------------------------------------------------------------------------------------
    #
    # A loader with workers iterates copies of this object, in other processes, and tells nobody here. So the epoch is
    # in memory that all share: the one chosen last; how many iterations this process has begun since; and for each
    # worker an entry, key and count: which iteration it began last, and the how many-th since the choice that was. The
    # first worker of a new iteration counts on from the largest there is; the others find its key. Each writes but its
    # own entry, at once, so that those who do not see each other's count on from the same number.

    _resumed = 0  # iterations that this copy, in a worker process, has begun

    @property
    def epoch(self) -> int:  # type: ignore[override]  # a plain attribute of samplers
        """That of the last iteration, or the one chosen for the next."""
        return int(self._shared[0]) + max(_count(self._shared) - 1, 0)

    def _choose(self, epoch: int) -> None:
        self._shared[1:] = 0
        self._shared[0] = int(epoch)
        self._chosen, self._running = True, None

    def begin_epoch(self) -> None:
        """Move on to the next epoch, unless one was chosen: what each iteration does first."""
        self._shared[1] = _count(self._shared) + 1
        self._chosen = False

    def _begin_in_worker(self, info: Any) -> int:
        """Move on as :meth:`begin_epoch` does, but with the other workers; returns the epoch."""
        # All workers of a loader have one seed in an iteration; persistent ones keep it.
        key = hash((info.seed - info.id, info.num_workers, self._resumed)) % 2 ** (63 - COUNT_BITS)
        self._resumed += 1
        now = self._shared.clone()
        keys, counts = now[2:] >> COUNT_BITS, now[2:] % 2**COUNT_BITS
        # Where the generator is seeded anew each time the key comes again: then it is that of this iteration only where
        # the count is beyond this worker's own.
        own = int(counts[info.id]) if int(keys[info.id]) == key else 0
        known = counts[(keys == key) & (counts > own)]
        count = int(known.max()) if len(known) else _count(now) + 1
        self._shared[2 + info.id] = (key << COUNT_BITS) | count
        return int(now[0]) + count - 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # That of a deep copy is not, yet.
        self._shared.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, also of the stream; without it each iteration moves on by one."""
        self._chosen = self._chosen and not _count(self._shared)  # workers have drawn it
        super().set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        # In a worker now, not with the first sample: where a loop breaks off, some come to none.
        return self._in_main() if info is None else self._draws(self._begin_in_worker(info))

    def _in_main(self) -> Iterator[Any]:
        with self._iteration():
            yield from self._draws(self.epoch)

    def _draws(self, epoch: int) -> Iterator[Any]:
        info = get_worker_info()
        key = (epoch, self.rank) if info is None else (epoch, self.rank, info.id)
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        held = _Held(self.class_counts.numpy(), self.held, generator)
        dataset = self._dataset_at(epoch)

        def read() -> Iterator[Any]:
            for sample in dataset:
                held.keep(sample, self._label_of(sample))
                yield sample

        source = read()
        for sample in itertools.chain(list(itertools.islice(source, self.ahead)), source):
            first = self._finish(sample if self.tau == 1.0 else held.draw(self.tau))
            yield first if self.partner_tau is None else (first, self._finish(held.draw(self.partner_tau)))

    def _dataset_at(self, epoch: int) -> Any:
        """The data set, told the epoch if it takes one."""
        dataset = self.dataset
        if not hasattr(dataset, "set_epoch"):
            return dataset
        if get_worker_info() is not None:
            # `datasets` keeps the epoch in memory that workers share, which they would change at the same time.
            dataset = copy.copy(dataset)
            for name, value in vars(dataset).items():
                if isinstance(value, Tensor) and value.is_shared():  # type: ignore[no-untyped-call]
                    setattr(dataset, name, value.clone())
        dataset.set_epoch(epoch)
        return dataset

    def _label_of(self, sample: Any) -> int:
        try:
            found = sample[self.label]
            label = int(found)
            if label != found:
                raise ValueError(f"{found!r} is no whole number")
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"`label`={self.label!r} must be where samples have their class: {error!r}.") from error
        if not 0 <= label < len(self.class_counts) or not self.class_counts[label]:
            raise ValueError(
                f"`class_counts` must count every class of the stream, but a sample has the label {label} "
                f"({len(self.class_counts)} classes). Count the labels of the whole stream."
            )
        return label

    def _finish(self, sample: Any) -> Any:
        return sample if self.transform is None else self.transform(sample)


def _count(shared: Tensor) -> int:
    """Iterations since an epoch was chosen, of this process or of workers."""
    return max(int(shared[1]), int((shared[2:] % 2**COUNT_BITS).max()))


class _Held:
    """Some samples of each class that has come by, and draws of them."""

    def __init__(self, counts: np.ndarray[Any, Any], size: int, generator: np.random.Generator) -> None:
        self.counts, self.size, self.generator = counts, size, generator
        self.samples: dict[int, list[Any]] = {}
        self.order: list[int] = []
        self.seen: dict[int, int] = {}
        self.sums: dict[float, np.ndarray[Any, Any]] = {}
        """Cumulative probabilities of the classes in that order, by exponent."""

    def keep(self, sample: Any, label: int) -> None:
        """Take a sample in, with a chance that leaves each of its class that has come by equally likely to be held."""
        if label not in self.samples:
            self.samples[label], self.seen[label], self.sums = [], 0, {}
            self.order.append(label)
        held = self.samples[label]
        self.seen[label] += 1
        if len(held) < self.size:
            held.append(sample)
        elif (place := int(self.generator.integers(self.seen[label]))) < self.size:
            held[place] = sample

    def draw(self, tau: float) -> Any:
        """Draw a class by a power of its size, and one of its samples."""
        if tau not in self.sums:
            self.sums[tau] = ClassPowerSampler.class_probabilities(self.counts[self.order], tau).cumsum()
        sums = self.sums[tau]
        # The sum of the probabilities may end a rounding below 1.
        place = min(int(np.searchsorted(sums, self.generator.random(), side="right")), len(sums) - 1)
        held = self.samples[self.order[place]]
        return held[int(self.generator.integers(len(held)))]
