"""Labels of other libraries' data sets, read without loading a sample, and batches that are dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, StackDataset, Subset, TensorDataset

from ltaug.priors import as_array, as_integers

__all__ = ["labels_of", "mix_batch"]

COLUMNS = ("label", "labels", "target")
"""Where tables usually have the label."""
ATTRIBUTES = ("targets", "labels", "_labels", "y")
"""Where torchvision's data sets, and those made like them, have it."""
WRAPPERS = (("ltaug", "PairDataset"), ("ltaug", "SeededDataset"), ("timm", "AugMixDataset"))
"""Data sets that have the samples of their ``dataset`` one for one."""


def labels_of(dataset: Any, column: str | None = None) -> Tensor:
    """Read the label of every sample of a data set without loading one or running a transform.

    For samplers, priors and class counts, which need all labels before the first batch. Knows the data sets of
    ``datasets``, torchvision (``ImageFolder`` among them) and timm; ``Subset``, ``ConcatDataset``, ``TensorDataset``
    and ``StackDataset`` of torch around them; and others that keep their labels in ``targets`` or ``labels``. A
    ``target_transform`` is applied to each label that occurs, once.

    Args:
        dataset: a map-style data set.
        column: name of the label's column, for tables; by default the only one of ``ClassLabel`` type, or else "label",
            "labels" or "target".

    Returns:
        int64 [N]; for a column of lists, multi-hot bool [N, L]. Lists of ``ClassLabel`` hold label indices; lists of
        a fixed length, of flags or of floats are rows of 0 and 1; of other integers, label indices.

    Raises:
        TypeError: the data set is a stream, or has no labels at a place that is known.
        ValueError: there are several columns that could be meant, the labels are no class indices, one a sample, or
            lists of integers could be rows as well as label indices, ``[[0, 1], [1, 0]]``.

    >>> from torch.utils.data import TensorDataset, random_split
    >>> data = TensorDataset(torch.rand(4, 8), torch.tensor([0, 0, 1, 0]))
    >>> labels_of(Subset(data, [2, 3]))
    tensor([1, 0])
    """
    labels = _labels(dataset, column)
    labels = as_array(labels, "labels") if getattr(labels, "ndim", 1) == 2 else as_integers(labels).long()
    if len(labels) != len(dataset):
        raise ValueError(
            f"`dataset` must have one label a sample, but has {len(dataset)} samples and {len(labels)} labels. Pass a "
            "list of its labels instead of `labels_of(dataset)`."
        )
    return labels


def mix_batch(mixer: Any, batch: Any, inputs: str = "image", labels: str = "label") -> dict[str, Any]:
    """Mix a batch that is a dictionary, as those of ``datasets`` are, or two of them: a batch of pairs.

    Args:
        mixer: a plan (:class:`ltaug.TrainingPlan`), or a mixer of :mod:`ltaug.mixers`.
        batch: of a ``DataLoader``: a dictionary of columns; or two, samples and partners, of a
            :class:`ltaug.PairDataset`.
        inputs: column of what is mixed, float [N, ...].
        labels: column of the labels, int [N].

    Returns:
        A copy of the batch, of the first samples, with these two columns mixed: the labels are probabilities [N, C].

    Raises:
        ValueError: a column is missing, or is no tensor.

    >>> from ltaug import MixUp
    >>> batch = {"image": torch.rand(8, 3, 4, 4), "label": torch.randint(5, (8,)), "name": list("abcdefgh")}
    >>> mixed = mix_batch(MixUp(num_classes=5), batch)
    >>> mixed["label"].shape, list(mixed)
    (torch.Size([8, 5]), ['image', 'label', 'name'])
    """
    several = isinstance(batch, list | tuple)
    halves: Sequence[Mapping[str, Any]] = batch if several else [batch]
    if len(halves) > 2 or not all(isinstance(half, Mapping) for half in halves):
        kinds = ", ".join(type(half).__name__ for half in halves)
        raise ValueError(f"`batch` must be a dictionary, or two of a batch of pairs, but is {kinds}.")
    for half in halves:
        for name, column in (("inputs", inputs), ("labels", labels)):
            if column not in half:
                raise ValueError(
                    f"`{name}`={column!r} must be a column of the batch, which has {', '.join(map(str, half))}."
                )
            if not isinstance(half[column], Tensor):
                raise ValueError(
                    f"`{name}`={column!r} must be a tensor in the batch, but is a {type(half[column]).__name__}. Let "
                    'the samples be of tensors, `dataset.with_format("torch")`, or collate them to one.'
                )
    pairs = [(half[inputs], half[labels]) for half in halves]
    if hasattr(mixer, "mix") and hasattr(mixer, "criterion"):  # a plan
        mixed = mixer.mix(tuple(pairs) if several else pairs[0])
    else:
        mixed = mixer(*(part for pair in pairs for part in pair))
    return {**halves[0], inputs: mixed[0], labels: mixed[1]}


def _labels(dataset: Any, column: str | None) -> Any:
    kind = type(dataset)
    library = kind.__module__.partition(".")[0]
    if isinstance(dataset, IterableDataset) or (library == "datasets" and not hasattr(dataset, "column_names")):
        raise TypeError(
            f"`dataset` must have a length and be read by index, but is a stream, {kind.__name__}: its labels are "
            "known when it has been read. Collect them once, or pass class counts to `ltaug.loaders.ClassPowerStream`."
        )
    if library == "datasets":
        return _of_table(dataset, column)
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset, column)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels_of(each, column) for each in dataset.datasets])
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    if isinstance(dataset, StackDataset):
        parts = dataset.datasets
        chosen = parts[column or _only(list(parts), COLUMNS)] if isinstance(parts, dict) else parts[-1]
        return chosen if isinstance(chosen, Tensor | list) else labels_of(chosen)
    if (library, kind.__name__) in WRAPPERS:
        return labels_of(dataset.dataset, column)
    transform = getattr(dataset, "target_transform", None)
    return _transformed(_of_attributes(dataset, column), transform)


def _of_table(dataset: Any, column: str | None) -> Any:
    """Labels of a ``datasets.Dataset``, through its indices, but not through its format or transform."""
    if isinstance(dataset, dict):
        raise TypeError(
            f"`dataset` must be one split, but holds {', '.join(dataset)}. Pass `dataset[{next(iter(dataset))!r}]`."
        )
    features = dataset.features
    if column is not None and column not in features:
        raise ValueError(f"`column` must be one of {', '.join(features)}, but is {column!r}.")
    classes = [name for name, feature in features.items() if type(_item(feature)).__name__ == "ClassLabel"]
    column = column or (classes[0] if len(classes) == 1 else _only(list(features), COLUMNS))
    feature, size = features[column], getattr(_item(features[column]), "num_classes", None)
    values = dataset.data.column(column).combine_chunks()
    if dataset._indices is not None:  # of rows that were shuffled or chosen; `dataset[:]` takes them one by one
        values = values.take(dataset._indices.column(0).combine_chunks())
    if feature is not _item(feature):
        return _of_lists(values, column, size, getattr(feature, "length", -1) >= 0)
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        raise ValueError(
            f"`column`={column!r} must hold class indices, but holds texts. Number them first: "
            f"`dataset.class_encode_column({column!r})`."
        )
    return values.to_numpy(zero_copy_only=False)


def _of_lists(values: Any, column: str, size: int | None, fixed: bool) -> Tensor:
    """Multi-hot labels [N, L] of an arrow column of lists: of label indices, or of 0 and 1 as they are.

    Args:
        values: the column.
        column: its name.
        size: L of lists of ``ClassLabel``, which are indices; else None.
        fixed: all lists have the same length by their type, as the rows of an array have.
    """
    rows, flat = len(values), values.flatten().to_numpy(zero_copy_only=False)
    if values.null_count:
        missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"`column`={column!r} must hold lists, but that at place {missing} is missing (None).")
    if hasattr(values.type, "list_size"):
        lengths = torch.full((rows,), values.type.list_size, dtype=torch.int64)
    else:
        lengths = torch.from_numpy(values.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
    width = int(lengths[0]) if rows else 0
    binary = bool(np.isin(flat, (0, 1)).all())
    if size is None and (fixed or flat.dtype.kind in "bf" or flat.dtype == object):
        if not binary or not bool((lengths == width).all()):
            raise ValueError(
                f"`column`={column!r} must hold rows of 0 and 1, all of one length, or lists of label indices, but has "
                f"{'other numbers' if not binary else 'rows of several lengths'}. Label indices are "
                f"`dataset.cast_column({column!r}, List(ClassLabel(num_classes=...)))`."
            )
        return torch.from_numpy(flat.astype(bool)).reshape(rows, width)
    if size is None and len(flat) and binary and bool((lengths == width).all()):
        raise ValueError(
            f"`column`={column!r} has lists of {width} numbers each, all 0 or 1: they could be multi-hot rows or label "
            f"indices. Rows are `dataset.cast_column({column!r}, List(Value('bool')))`, indices "
            f"`dataset.cast_column({column!r}, List(ClassLabel(num_classes=...)))`."
        )
    labels = as_integers(flat, column).long()
    if size is None:
        size = int(labels.max()) + 1 if len(labels) else 0
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < size:
        raise ValueError(
            f"`column`={column!r} must hold lists of label indices in 0..{size - 1}, but has {int(labels.min())} to "
            f"{int(labels.max())}. Take out what stands for an unknown label."
        )
    hot = torch.zeros(rows, size, dtype=torch.bool)
    hot[torch.arange(rows).repeat_interleave(lengths), labels] = True
    return hot


def _item(feature: Any) -> Any:
    """What a list of a table holds; the feature itself where it is no list."""
    return getattr(feature, "feature", feature)


def _only(columns: list[str], usual: Sequence[str]) -> str:
    found = [name for name in usual if name in columns]
    if len(found) != 1:
        raise ValueError(f"`column` must be given: labels could be in any of {', '.join(columns)}.")
    return found[0]


def _of_attributes(dataset: Any, column: str | None) -> Any:
    """Labels that a data set keeps beside its samples, as torchvision's and timm's do."""
    reader: Any = getattr(dataset, "reader", None)  # of timm
    if hasattr(reader, "samples"):
        return [label for _, label in reader.samples]
    if hasattr(reader, "dataset"):
        if getattr(reader, "remap_class", False):
            raise TypeError(
                "`dataset` maps its classes to others while reading (`remap_class`). Pass a list of labels."
            )
        return labels_of(reader.dataset, column or getattr(reader, "label_key", None))
    if type(dataset).__name__ == "INaturalist" and getattr(dataset, "target_type", None) == ["full"]:
        return [category for category, _ in dataset.index]
    for name in (column,) if column else ATTRIBUTES:
        values = getattr(dataset, name, None)
        if values is not None and not callable(values) and hasattr(values, "__len__"):
            return values
    samples = next(
        (each for name in ("samples", "_samples") if isinstance(each := getattr(dataset, name, None), list)), []
    )
    if samples and isinstance(samples[0], tuple) and isinstance(samples[0][-1], int):
        return [sample[-1] for sample in samples]
    raise TypeError(
        f"`dataset` is a {type(dataset).__name__}, which keeps its labels at no place that is known "
        f"({', '.join(ATTRIBUTES)}, samples). Name its attribute, `column`, or collect the labels once: "
        "`[label for _, label in dataset]`."
    )


def _transformed(labels: Any, transform: Any) -> Any:
    """Labels after a ``target_transform``, which is asked once a label that occurs."""
    if transform is None:
        return labels
    labels = as_integers(labels).long()
    found, places = labels.unique(return_inverse=True)
    return torch.as_tensor([int(transform(label)) for label in found.tolist()], dtype=torch.int64)[places]
