"""Contract of the data of a recipe: what ``load_data`` in its data.py returns."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltaug.priors import counts_of, rarest_label
from ltaug.samplers import ClassPowerSampler, PairSampler
from ltaug.testing._base import Report, Rule, form_of, kind_of, restored_generators

__all__ = ["DATA_RULES", "check_data"]

DATA_RULES = {
    "parts": Rule(
        "the data have `train_labels`, `class_names`, `class_counts`, `splits`, and the methods `train_loader`, "
        "`eval_loader` and `fingerprint`",
        "return an object of a class with these names from `load_data(cfg)`",
    ),
    "labels": Rule(
        "`train_labels` is an int64 tensor [N], one class a training sample, each in 0..C-1; or multi-hot rows, bool "
        "[N, C], of samples with several labels; of segmentation, which has an `ignore_index`, zeros",
        "map the labels to consecutive integers from 0: `torch.tensor([class_names.index(name) for name in column])`",
    ),
    "class names": Rule(
        "`class_names` is a list of C different strings, in the order of the labels, that UTF-8 can write",
        "keep a class without training samples in the list; turn numbers into strings; of names of files, take "
        "`ltaug.loaders.folders.printable`",
    ),
    "class counts": Rule(
        "`class_counts` is an int64 tensor [C], the number of training samples of each class, or with each label; of "
        "segmentation of pixels",
        "`ltaug.class_counts(self.train_labels, len(self.class_names))`",
    ),
    "splits": Rule(
        '`splits` is ("test",), or ("test", "held_out") where there are samples to tune corrections on',
        "name the evaluated splits in a tuple; the training set is not one of them",
    ),
    "fingerprint": Rule(
        "`fingerprint()` is a dictionary of plain values or tensors, the same at every call, for runs that resume",
        "return names, counts and a hash of the samples, such as `ltaug.index_hash(indices)`; no objects, no times",
    ),
    "optional parts": Rule(
        "`describe()` and `held_out_note()`, where there are such, return a line of text; `preprocessing` is a "
        "dictionary of plain values, which build_model may use; `sample_rate` is positive; `extra_files(model)` has "
        "the texts of files that the run keeps beside the weights, by name",
        "leave out what does not apply",
    ),
    "batches": Rule(
        "a loader has a length and yields (inputs, labels): finite float inputs [B, ...] and labels like "
        "`train_labels`, both on the accelerator's device",
        "convert in the loader, `inputs.to(accelerator.device).float()`; let the data set return the class index",
    ),
    "order of the sampler": Rule(
        "`train_loader(cfg, sampler, accelerator)` yields samples in the sampler's order, `cfg.batch_size` a batch, "
        "over all processes together",
        "pass the sampler on, `DataLoader(..., sampler=sampler, batch_size=cfg.batch_size)`, and shuffle nothing else",
    ),
    "pairs": Rule(
        "with a sampler of pairs, a batch is ((inputs, labels), (partner_inputs, partner_labels))",
        "wrap the data set in `ltaug.PairDataset`, or use a loader of `ltaug.loaders`",
    ),
    "epochs": Rule(
        "`train_loader` has `set_epoch(epoch)`, and an epoch has the same batches whenever it is iterated, as resuming "
        "needs",
        "draw augmentations from a generator of (seed, epoch, index): `ltaug.SeededDataset`, or a loader of "
        "`ltaug.loaders`",
    ),
    "evaluation": Rule(
        '`eval_loader(cfg, split, accelerator)` yields the split "train", "test" or "held_out" in its order, without '
        "augmentation",
        'use no sampler and no random transform; "train" has the labels `train_labels`',
    ),
    "processes": Rule(
        "every process gets equally many batches, and its rows of them: together the processes see the batches of one",
        "take `accelerator.num_processes` and `accelerator.process_index` into account, as the loaders of "
        "`ltaug.loaders` do",
    ),
}
"""Rules of :func:`check_data`: what is expected, and what usually fixes it."""


def check_data(
    data: Any, cfg: Any = None, *, batches: int | None = 3, num_processes: int = 2, device: torch.device | str = "cpu"
) -> None:
    """Check the data of a recipe, what its ``load_data(cfg)`` returns.

    Labels, names, counts, splits and fingerprint; with the settings also the loaders: batches in the sampler's order,
    pairs, equal batches whenever an epoch is iterated, evaluation in order, and the same samples on several processes
    as on one. Nothing is launched: each process is only a number that the loaders are given.

    Args:
        data: the object to check.
        cfg: the settings, such as ``Config()`` of train.py. ``None`` leaves out the loaders.
        batches: how many batches of every loader are read; ``None`` for all.
        num_processes: how many processes share a batch; ``cfg.batch_size`` must be a multiple.
        device: where the loaders put their batches.

    Raises:
        ContractError: a rule is broken.

    >>> from types import SimpleNamespace
    >>> labels, counts = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
    >>> parts = {"class_names": ["cat", "dog"], "splits": ("test",), "train_loader": None, "eval_loader": None}
    >>> data = SimpleNamespace(train_labels=labels, class_counts=counts, fingerprint=lambda: {"size": 4}, **parts)
    >>> check_data(data)
    >>> data.class_counts = torch.tensor([3, 2])
    >>> check_data(data)
    Traceback (most recent call last):
    ltaug.testing.ContractError: `SimpleNamespace` breaks the rule 'class counts'
      seen:     `class_counts` are [3, 2], but `train_labels` have [3, 1]
      ...
    """
    report = _DataReport(data, DATA_RULES)
    _check_parts(report, data)
    if cfg is None:
        return
    alone, *several = (
        _Process(torch.device(device), size, rank) for size in (1, num_processes) for rank in range(size)
    )
    with restored_generators():  # a `DataLoader` draws the seed of its workers
        _check_training(report, data, cfg, alone, several, batches)
        for split in ("train", *data.splits):
            _check_evaluation(report, data, cfg, split, alone, several, batches)


class _DataReport(Report):
    def loader(self, rule: str, where: str, make: Callable[[], Any]) -> Any:
        """Make a loader, and check that it has a length."""
        loader = self.run(rule, where, make)
        size = self.run("batches", f"`len` of {where}", lambda: len(loader))
        if size < 1:
            raise self.broken("batches", f"`len` of {where} is {size}")
        return loader


@dataclass(frozen=True)
class _Process:
    """One of several processes: the attributes of accelerate's ``Accelerator`` that loaders use."""

    device: torch.device
    num_processes: int
    process_index: int
    mixed_precision: str = "no"

    @property
    def local_process_index(self) -> int:
        return self.process_index

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0

    @property
    def is_local_main_process(self) -> bool:
        return self.process_index == 0

    def wait_for_everyone(self) -> None:
        return

    def print(self, *words: Any) -> None:
        return

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        yield

    local_main_process_first = main_process_first


def _check_parts(report: Report, data: Any) -> None:
    for name in ("train_labels", "class_names", "class_counts", "splits", "train_loader", "eval_loader", "fingerprint"):
        if not hasattr(data, name):
            raise report.broken("parts", f"no `{name}`")
    labels, names, counts = data.train_labels, data.class_names, data.class_counts
    if not isinstance(labels, Tensor) or not _are_labels(labels) or not len(labels):
        raise report.broken("labels", f"`train_labels` is {kind_of(labels)}")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        other = next((name for name in names if not isinstance(name, str)), names) if isinstance(names, list) else names
        raise report.broken("class names", f"`class_names` has, or is, {other!r}"[:200])
    for name, times in Counter(names).items():
        if times > 1 or not _is_text(name):
            raise report.broken("class names", f"`class_names` has {name!r}{' twice' if times > 1 else ''}"[:200])
    if labels.ndim > 1 and labels.shape[1] != len(names):
        raise report.broken(
            "labels", f"`train_labels` have {labels.shape[1]} columns, but there are {len(names)} names"
        )
    if labels.ndim == 1 and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise report.broken(
            "labels", f"`train_labels` range from {labels.min()} to {labels.max()}, but there are {len(names)} names"
        )
    if not isinstance(counts, Tensor) or counts.dtype != torch.int64 or counts.shape != (len(names),):
        raise report.broken("class counts", f"`class_counts` is {kind_of(counts)}, for {len(names)} names")
    # Of segmentation the counts are those of pixels, which the labels of scenes do not have.
    true = counts.cpu() if _ignored(data) is not None else counts_of(labels, len(names)).cpu()
    if not counts.cpu().equal(true):
        raise report.broken(
            "class counts", f"`class_counts` are {_start(counts)}, but `train_labels` have {_start(true)}"
        )
    if tuple(data.splits) not in (("test",), ("test", "held_out")) or not isinstance(data.splits, tuple):
        raise report.broken("splits", f"`splits` is {data.splits!r}")
    first, second = (report.run("fingerprint", "`fingerprint()`", lambda: _plain(data.fingerprint())) for _ in range(2))
    if not isinstance(data.fingerprint(), dict) or first != second:
        raise report.broken(
            "fingerprint", "two calls give different values" if first != second else f"`fingerprint()` is {first}"[:200]
        )
    for name in ("describe", "held_out_note"):
        if hasattr(data, name) and (name == "describe" or "held_out" in data.splits):
            text = report.run("optional parts", f"`{name}()`", getattr(data, name))
            if not isinstance(text, str):
                raise report.broken("optional parts", f"`{name}()` is {kind_of(text)}")
    report.run("optional parts", "`preprocessing`", lambda: _plain(dict(getattr(data, "preprocessing", {}))))
    rate = getattr(data, "sample_rate", 1)
    if not isinstance(rate, int | float) or not rate > 0:
        raise report.broken("optional parts", f"`sample_rate` is {rate!r}")


def _check_training(
    report: _DataReport, data: Any, cfg: Any, alone: _Process, several: list[_Process], batches: int | None
) -> None:
    for paired in (False, True):
        where = f"`train_loader` with a sampler{' of pairs' if paired else ''}"
        rule = "pairs" if paired else "order of the sampler"

        def make(process: _Process, paired: bool = paired) -> Any:
            return data.train_loader(cfg, _sampler(data.train_labels, paired), process)

        loader = report.loader(rule, where, partial(make, alone))
        if not callable(getattr(loader, "set_epoch", None)):
            raise report.broken("epochs", f"{where} has no `set_epoch`")
        found, again = (_batches(report, loader, rule, where, alone, batches, epoch=1, paired=paired) for _ in range(2))
        sampler = _sampler(data.train_labels, paired)
        sampler.set_epoch(1)
        wanted = data.train_labels[sampler.indices().view(len(sampler), -1)]
        for k, batch in enumerate(found):
            expected = wanted[k * cfg.batch_size : (k + 1) * cfg.batch_size].unbind(1)
            for (_, y), z in zip(batch, expected, strict=True):
                if not (len(y) == len(z) if y.ndim > 2 else y.cpu().equal(z)):
                    raise report.broken(
                        rule, f"{where}: batch {k} has the labels {_start(y)}, but the sampler draws {_start(z)}"
                    )
        if not all(map(_equal, found, again)):
            raise report.broken("epochs", f"{where}: the second iteration of epoch 1 differs from the first")
        shares = [report.loader("processes", where, partial(make, process)) for process in several]
        _check_shares(report, where, found, shares, several, batches, whole=loader, paired=paired)


def _are_labels(tensor: Tensor, dense: bool = False) -> bool:
    """Whether a tensor holds classes, int64 [N], or multi-hot rows, bool [N, C]; or maps of classes, int64 [N, ...]."""
    kind = (tensor.dtype, tensor.ndim)
    return kind in ((torch.int64, 1), (torch.bool, 2)) or (dense and tensor.dtype == torch.int64 and tensor.ndim > 2)


def _ignored(data: Any) -> int | None:
    """Label of pixels without a class, which data of segmentation have."""
    found: int | None = getattr(data, "ignore_index", None)
    return found


def _sampler(labels: Tensor, paired: bool) -> Any:
    labels = rarest_label(labels) if labels.ndim > 1 else labels
    plain = ClassPowerSampler(labels, tau=1.0, replacement=False)
    return PairSampler(plain, ClassPowerSampler(labels, tau=0.0)) if paired else plain


def _check_evaluation(
    report: _DataReport, data: Any, cfg: Any, split: str, alone: _Process, several: list[_Process], batches: int | None
) -> None:
    where = f'`eval_loader` of "{split}"'
    loader = report.loader("evaluation", where, partial(data.eval_loader, cfg, split, alone))
    found, again = (_batches(report, loader, "evaluation", where, alone, batches) for _ in range(2))
    if not all(map(_equal, found, again)):
        raise report.broken("evaluation", f"{where}: the second iteration differs from the first")
    labels = torch.cat([y.cpu() for ((_, y),) in found])
    if labels.ndim > 2:
        kept = labels[labels != _ignored(data)]
        if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < len(data.class_names):
            raise report.broken("evaluation", f"{where}: labels range from {kept.min()} to {kept.max()}")
    elif labels.ndim > 1:
        if labels.shape[1] != len(data.class_names):
            raise report.broken("evaluation", f"{where}: labels have {labels.shape[1]} columns")
    elif not 0 <= int(labels.min()) <= int(labels.max()) < len(data.class_names):
        raise report.broken("evaluation", f"{where}: labels range from {labels.min()} to {labels.max()}")
    if split == "train" and labels.ndim < 3:
        expected = data.train_labels if len(found) == len(loader) else data.train_labels[: len(labels)]
        if not labels.equal(expected):
            raise report.broken(
                "evaluation", f"{where}: the labels are {_start(labels)}, but `train_labels` {_start(expected)}"
            )
    shares = [report.loader("processes", where, partial(data.eval_loader, cfg, split, process)) for process in several]
    _check_shares(report, where, found, shares, several, batches)


def _check_shares(
    report: Report,
    where: str,
    found: list[Any],
    shares: list[Any],
    several: list[_Process],
    batches: int | None,
    *,
    whole: Any = None,
    paired: bool = False,
) -> None:
    """Check that several processes together read what one does; their evaluation batches may be larger."""
    sizes = [len(loader) for loader in shares]
    if len(set(sizes)) > 1 or (whole is not None and sizes[0] != len(whole)):
        single = "" if whole is None else f", a single one has {len(whole)}"
        raise report.broken("processes", f"{where}: {len(several)} processes have {sizes} batches{single}")
    epoch = None if whole is None else 1
    read = [
        _batches(report, loader, "processes", where, process, batches, epoch=epoch, paired=paired, empty=True)
        for loader, process in zip(shares, several, strict=True)
    ]
    for part, what in ((1, "labels"), (0, "inputs")):
        one = [row for batch in found for row in batch[0][part].cpu()]
        together = [row for step in zip(*read, strict=True) for batch in step for row in batch[0][part].cpu()]
        # Row by row: samples may have different numbers of windows. Evaluation may read more at once on several.
        if not all(map(torch.equal, together, one)):
            raise report.broken(
                "processes", f"{where}: the {what} of {len(several)} processes, put together, are not those of one"
            )


def _batches(
    report: Report,
    loader: Any,
    rule: str,
    where: str,
    process: _Process,
    limit: int | None,
    *,
    epoch: int | None = None,
    paired: bool = False,
    empty: bool = False,
) -> list[Any]:
    """Read the first batches as lists of one (inputs, labels) or two, after checking that they are such."""
    if epoch is not None:
        report.run("epochs", f"{where}: `set_epoch({epoch})`", lambda: loader.set_epoch(epoch))
    read = report.run(rule, where, lambda: list(itertools.islice(loader, limit)))
    if not read:
        raise report.broken("batches", f"{where} yields nothing")
    for k, batch in enumerate(read):
        parts = list(batch) if paired and isinstance(batch, list | tuple) else [batch]
        if paired and (len(parts) != 2 or isinstance(parts[0], Tensor)):
            raise report.broken("pairs", f"{where}: batch {k} is {kind_of(batch)} of {len(parts)}")
        for part in parts:
            if not isinstance(part, list | tuple) or len(part) != 2 or not all(isinstance(x, Tensor) for x in part):
                raise report.broken("batches", f"{where}: batch {k} has {kind_of(part)}")
            x, y = part
            fits = x.is_floating_point() and _are_labels(y, dense=True) and x.shape[:1] == y.shape[:1]
            on_device = x.device.type == y.device.type == process.device.type
            if fits and not x.isfinite().all():
                raise report.broken("batches", f"{where}: batch {k} has inputs that are NaN or infinite")
            if not fits or not on_device or not (empty or len(y)):
                raise report.broken(
                    "batches",
                    f"{where}: batch {k} has inputs {form_of(x)} on {x.device} and labels {form_of(y)} on {y.device}",
                )
        read[k] = parts
    return list(read)


def _is_text(name: str) -> bool:
    """Whether a string can be written: half characters stand for bytes of a file name that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _equal(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(s, t) for one, other in zip(a, b, strict=True) for s, t in zip(one, other, strict=True))


def _plain(values: Any) -> str:
    """Values as JSON, tensors as lists; raises for anything else."""
    return json.dumps(values, default=lambda value: value.tolist(), sort_keys=True)


def _start(values: Tensor) -> str:
    shown = ", ".join(str(value) for value in values[:8].tolist())
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
