"""Class statistics, counted from labels: the numbers that samplers, losses and metrics share."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import check_dense, checked

__all__ = [
    "class_counts",
    "class_prior",
    "effective_number",
    "label_counts",
    "label_prior",
    "multi_hot",
    "rarest_label",
    "shot_groups",
]


class Column(Protocol):
    """Column of a table: what pandas, polars, pyarrow and datasets hold labels in."""

    def __len__(self) -> int: ...
    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray[Any, Any]: ...


Counts = Tensor | np.ndarray[Any, Any] | Sequence[int] | Mapping[Any, int] | Column
"""Anything that holds one number a class, or labels: a tensor, an array, a plain list, or a column of a table.

Numbers of classes may also come by class, in a dictionary or a pandas Series, as ``labels.value_counts()`` gives them:
they are put in the order of the classes, 0 to C - 1.
"""


Labels = Tensor | np.ndarray[Any, Any] | Sequence[Sequence[int]] | Column
"""Several labels a sample: multi-hot rows [N, L] in a tensor or an array, or N lists of label indices.

Plain lists, and columns of lists, hold label indices, each list the labels of a sample. An index that stands in it
twice counts once, as the classes of the boxes of an image do.
"""


MOST_CLASSES = 100_000_000
"""More come of labels that are no classes, such as ids, and take gigabytes."""


@checked
def class_counts(labels: Counts, num_classes: int | None = None, ignore_index: int | None = None) -> Tensor:
    """Count the samples of every class.

    Args:
        labels: class indices, int [N]; a tensor, an array, a list or a column of a table.
        num_classes: C; by default the largest label plus one, which hides trailing classes that have no sample.
        ignore_index: a label that is not counted, such as 255 or -100; labels may then be maps, int [N, ...].

    Returns:
        int64 [C].

    Raises:
        ValueError: a label is negative, not an integer, or not below ``num_classes``.

    >>> class_counts([0, 0, 2], num_classes=4)
    tensor([2, 0, 1, 0])
    """
    if ignore_index is not None:
        flat = comparable(as_array(labels, "labels")).flatten()
        labels = flat[flat.long() != ignore_index]  # not in bytes, in which -100 is 156
    labels = as_integers(labels)
    if num_classes is None:
        num_classes = int(labels.max()) + 1 if labels.numel() else 0
        if num_classes > MOST_CLASSES:
            raise ValueError(
                f"`labels` go up to {num_classes - 1}, which makes too many classes to count ({MOST_CLASSES:,} at "
                "most). Map the labels to consecutive integers from 0."
            )
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"`labels` must lie in 0..{num_classes - 1} for `num_classes`={num_classes}, but range from {low} to "
                f"{high}. Map the labels to consecutive integers from 0, or pass the true number of classes."
            )
    return torch.bincount(labels, minlength=num_classes)


@checked
def class_prior(class_counts: Counts) -> Tensor:
    """Relative class frequencies, pi_y = n_y / N.

    Args:
        class_counts: samples a class, [C]; not negative, at least one positive. Probabilities are taken as well.

    Returns:
        float64 [C], sums to 1. Classes without samples get 0. On the device of the counts, or on the CPU where that
        has no float64, as Apple's MPS.

    >>> class_prior([3, 1])
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    counts = as_counts(class_counts, integers=False).double()
    total = counts.sum()
    if not bool(total.isfinite()):  # the sum of numbers near the largest that there is
        counts = counts / counts.max()
        total = counts.sum()
    return counts / total


@checked
def effective_number(class_counts: Counts, beta: float = 0.9999) -> Tensor:
    """Effective number of samples of every class, E_n = (1 - beta^n) / (1 - beta).

    Cui et al. (CVPR 2019, https://arxiv.org/abs/1901.05555). ``beta = 0`` gives 1 for every class that has a sample,
    ``beta -> 1`` gives the counts themselves.

    Args:
        class_counts: samples a class, [C].
        beta: in [0, 1).

    Returns:
        float64 [C].

    >>> effective_number([1, 100], beta=0.99)
    tensor([ 1.0000, 63.3968], dtype=torch.float64)
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`beta` must lie in [0, 1), but is {beta}. Usual values are 0.9 to 0.9999.")
    counts = as_counts(class_counts).double()
    if beta == 0.0:
        return (counts > 0).double()
    # expm1 keeps the digits that 1 - beta**n would lose for n * (1 - beta) << 1.
    return torch.expm1(counts * float(np.log(beta))) / (beta - 1.0)


@checked
def shot_groups(class_counts: Counts, many: int = 100, few: int = 20) -> dict[str, Tensor]:
    """Split the classes into many, medium and few by their number of training samples.

    The groups are those of Liu et al. (CVPR 2019, https://arxiv.org/abs/1904.05160).

    Args:
        class_counts: training samples a class, [C].
        many: classes with more samples are "many".
        few: classes with fewer samples are "few"; both thresholds themselves are "medium".

    Returns:
        ``{"many": bool [C], "medium": bool [C], "few": bool [C]}``, a partition of the classes.

    >>> shot_groups([101, 100, 20, 19])["medium"]
    tensor([False,  True,  True, False])
    """
    if few > many:
        raise ValueError(f"`few`={few} must not exceed `many`={many}.")
    counts = as_counts(class_counts)
    return {"many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few}


@checked
def label_counts(labels: Labels, num_labels: int | None = None, ignore_index: int | None = None) -> Tensor:
    """Count the samples that have each label, where a sample may have several labels, or none.

    Args:
        labels: multi-hot rows [N, L] of 0 and 1 in a tensor or an array, or N lists of label indices.
        num_labels: L; rows have it in their shape. Of lists it is by default the largest label plus one, which hides
            trailing labels that no sample has.
        ignore_index: what rows hold where it is not known whether a sample has a label, such as -1: neither 0 nor 1.

    Returns:
        int64 [L]; their sum is not N.

    Raises:
        ValueError: rows hold other numbers than 0 and 1, a label is outside 0..L - 1, or lists could be either rows or
            label indices, ``[[0, 1], [1, 0]]``.

    >>> label_counts([[0, 2], [2], []], num_labels=4)
    tensor([1, 0, 2, 0])
    """
    labels, _ = without_missing(labels, ignore_index)
    _, pairs, size = label_pairs(labels, num_labels)
    return torch.bincount(pairs[1], minlength=size)


@checked
def label_prior(labels: Labels, num_labels: int | None = None, ignore_index: int | None = None) -> Tensor:
    """Share of the samples that have each label, pi_l = n_l / N: as many binary priors as there are labels.

    Args:
        labels: as in :func:`label_counts`.
        num_labels: as in :func:`label_counts`.
        ignore_index: as in :func:`label_counts`; N is then, label by label, the number of samples of which it is known.

    Returns:
        float64 [L], each in 0..1; they do not sum to 1.

    Raises:
        ValueError: as in :func:`label_counts`, there is no sample, or none of which a label is known.

    >>> label_prior([[0, 2], [2], [], [2]])
    tensor([0.2500, 0.0000, 0.7500], dtype=torch.float64)
    >>> label_prior(torch.tensor([[1, -1], [0, 1], [0, 0]]), ignore_index=-1)
    tensor([0.3333, 0.5000], dtype=torch.float64)
    """
    labels, known = without_missing(labels, ignore_index)
    samples, pairs, size = label_pairs(labels, num_labels)
    if samples == 0:
        raise ValueError("`labels` must hold at least one sample, but is empty.")
    total = torch.full((size,), samples, device=pairs.device) if known is None else known.sum(0)
    if bool((total == 0).any()):
        raise ValueError(
            f"`labels` must say of at least one sample whether it has label {int(total.argmin())}, but are all "
            f"{ignore_index}, the `ignore_index`. Drop the label."
        )
    return torch.bincount(pairs[1], minlength=size).double() / total


@checked
def rarest_label(labels: Labels, num_labels: int | None = None, ignore_index: int | None = None) -> Tensor:
    """The label of each sample that the fewest samples have: one class a sample, so that any class sampler takes it.

    Args:
        labels: as in :func:`label_counts`.
        num_labels: as in :func:`label_counts`.
        ignore_index: as in :func:`label_counts`; of what is not known, no sample is drawn for.

    Returns:
        int64 [N]. Of labels that are equally rare the lower index; **L for a sample without labels**: they are a class
        of their own, after the last label.

    Raises:
        ValueError: as in :func:`label_counts`.

    >>> rarest_label([[0, 2], [2], [], [0], [1, 0]])
    tensor([2, 2, 3, 0, 1])
    """
    labels, _ = without_missing(labels, ignore_index)
    samples, (sample, label), size = label_pairs(labels, num_labels)
    order = torch.bincount(label, minlength=size).argsort(stable=True)  # the labels, the rarest first
    rank = torch.empty_like(order)
    rank[order] = torch.arange(size, device=order.device)
    best = torch.full((samples,), size, device=order.device).scatter_reduce_(0, sample, rank[label], "amin")
    return torch.cat([order, order.new_tensor([size])])[best]


@checked
def multi_hot(labels: Labels, num_labels: int | None = None) -> Tensor:
    """Convert several labels a sample to rows of 0 and 1, the targets of binary cross-entropy.

    Args:
        labels: as in :func:`label_counts`.
        num_labels: as in :func:`label_counts`.

    Returns:
        Of torch's default floating-point type, [N, L].

    Raises:
        ValueError: as in :func:`label_counts`.

    >>> multi_hot([[0, 2], [], [1]])
    tensor([[1., 0., 1.],
            [0., 0., 0.],
            [0., 1., 0.]])
    """
    samples, (sample, label), size = label_pairs(labels, num_labels)
    rows = torch.zeros(samples, size, device=label.device, dtype=torch.get_default_dtype())
    rows[sample, label] = 1.0
    return rows


def label_pairs(labels: Labels, num_labels: int | None = None, name: str = "labels") -> tuple[int, Tensor, int]:
    """Read labels of samples that may have several: N, the pairs (sample, label) that occur, int64 [2, P], and L.

    ``name`` is that of the caller's argument, for the message.
    """
    given: Any = labels
    if _holds_rows(given):
        rows = comparable(with_values(as_array(given, name), name))
        if rows.ndim != 2 or (num_labels is not None and rows.shape[1] != num_labels):
            width = "L" if num_labels is None else num_labels
            raise ValueError(
                f"`{name}` must be multi-hot rows, shape [N, {width}], or lists of label indices, but have shape "
                f"{list(rows.shape)}. Class indices [N], one a sample, have `class_counts`."
            )
        held = rows != 0
        if not bool((rows[held] == 1).all()):
            raise ValueError(
                f"`{name}` must be multi-hot rows of 0 and 1, but hold {float(rows[held & (rows != 1)][0]):g}. Label "
                "indices come as lists, one a sample; probabilities have no counts. What is not known, such as -1, is "
                "left out where there is an `ignore_index`."
            )
        return rows.shape[0], held.nonzero().T, rows.shape[1]
    return _listed_pairs(given, num_labels, name)


def without_missing(labels: Labels, ignore_index: int | None, name: str = "labels") -> tuple[Labels, Tensor | None]:
    """Multi-hot rows with 0 in place of ``ignore_index``, and which entries are known, [N, L]; None if all are."""
    if ignore_index is None:
        return labels, None
    check_missing(ignore_index)
    if not _holds_rows(labels):
        raise ValueError(
            f"`{name}` must be multi-hot rows [N, L] in a tensor or an array for an `ignore_index`: a list of label "
            "indices has no place for what is not known."
        )
    rows = comparable(with_values(as_array(labels, name), name))
    known = known_labels(rows, ignore_index)
    return rows.masked_fill(~known, 0), known


def known_labels(targets: Tensor, ignore_index: int) -> Tensor:
    """Which entries are not ``ignore_index``."""
    exact = targets.is_floating_point() or targets.dtype == torch.bool
    return (targets if exact else targets.long()) != ignore_index  # not in bytes, in which -100 is 156


def check_missing(ignore_index: int | None) -> None:
    """Raise ValueError for an ``ignore_index`` that a known label has."""
    if ignore_index in (0, 1):
        raise ValueError(f"`ignore_index` must be another number than 0 and 1, such as -1, but is {ignore_index}.")


def counts_of(labels: Tensor, num_classes: int) -> Tensor:
    """Samples a class of class indices [N], or that have each label of multi-hot rows [N, C]; int64 [C]."""
    return label_counts(labels) if labels.ndim > 1 else class_counts(labels, num_classes)


def holds_several(labels: Any) -> bool:
    """Whether labels are of the form of several a sample: rows, or a list or column of lists."""
    column = labels if hasattr(labels, "ndim") and labels.ndim != 1 else _arrow_column(labels)
    if getattr(column, "ndim", 1) != 1:
        return int(column.ndim) == 2
    first: Any = next(iter(column), None) if hasattr(column, "__iter__") else None
    first = first.as_py() if hasattr(first, "as_py") else first
    return isinstance(first, list | tuple) or getattr(first, "ndim", 0) > 0


def _holds_rows(given: Any) -> bool:
    """Whether several labels a sample come as rows of numbers, not as lists of indices."""
    numbers = getattr(getattr(given, "dtype", None), "kind", "O") in "biuf"
    return isinstance(given, Tensor) or numbers or bool(getattr(given, "ndim", 1) == 2)  # a table of columns, of pandas


def _listed_pairs(labels: Any, num_labels: int | None, name: str) -> tuple[int, Tensor, int]:
    column = _arrow_column(labels)
    try:
        lists = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        sizes = torch.tensor([len(each) for each in lists], dtype=torch.int64)
        flat = as_integers(
            np.concatenate([np.asarray(each) for each in lists if len(each)] or [np.empty(0, int)]), name
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be multi-hot rows [N, L] in a tensor or an array, or one list of label indices a sample, "
            "but cannot be read as such. A sample without labels has an empty list; class indices [N] have "
            "`class_counts`."
        ) from error
    size = (int(flat.max()) + 1 if len(flat) else 0) if num_labels is None else num_labels
    width = int(sizes[0]) if len(sizes) else 0
    binary = bool(((flat == 0) | (flat == 1)).all())
    if len(flat) and binary and num_labels in (None, width) and bool((sizes == width).all()):
        raise ValueError(
            f"`{name}` are lists of {width} numbers each, all 0 or 1: they could be multi-hot rows or label indices. "
            f"Pass rows as a tensor, `torch.tensor({name})`; with label indices give `num_labels`, how many there are."
        )
    if len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= size):
        raise ValueError(
            f"`{name}` must lie in 0..{size - 1} for `num_labels`={size}, but range from {int(flat.min())} to "
            f"{int(flat.max())}. Map the labels to consecutive integers from 0, or pass the true number of labels."
        )
    if size > MOST_CLASSES:
        raise ValueError(
            f"`{name}` go up to {size - 1}, which makes too many labels to count ({MOST_CLASSES:,} at most). Map the "
            "labels to consecutive integers from 0."
        )
    sample = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return len(sizes), torch.unique(torch.stack([sample, flat.long()]), dim=1), size


def as_labels(labels: Counts, name: str = "labels") -> Tensor:
    """Convert class indices [N] of any integer form to an int64 tensor; raise ValueError for anything else."""
    return as_integers(labels, name).long()


def as_integers(labels: Counts, name: str = "labels") -> Tensor:
    """Convert class indices [N] to a tensor of their own integer type, without a copy: for very many labels."""
    tensor = with_values(as_array(labels, name), name)
    if tensor.ndim != 1:
        raise ValueError(f"`{name}` must be one class index a sample, shape [N], but has shape {list(tensor.shape)}.")
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        if tensor.numel() == 0:
            return tensor.long()
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(
                f"`{name}` must be integers, but are {tensor.dtype}, since the label at place "
                f"{int(tensor.isnan().nonzero()[0])} is missing (NaN). Drop samples without a label."
            )
        raise ValueError(
            f"`{name}` must be integers, but are {tensor.dtype}. Convert with `.long()` or `.astype(int)` if they hold "
            "indices."
        )
    return comparable(tensor)


def comparable(tensor: Tensor) -> Tensor:
    """Convert the larger unsigned integers, which torch neither counts nor compares, to int64."""
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def as_counts(
    class_counts: Counts, name: str = "class_counts", *, integers: bool = True, positive: bool = False
) -> Tensor:
    """Convert class counts [C] of any form to a tensor; raise ValueError for anything else.

    The tensor is on a device that has float64, the CPU if need be.

    Args:
        class_counts: one number a class.
        name: name of the caller's argument, for the message.
        integers: return int64 and refuse fractions; otherwise float64 probabilities and smoothed counts are taken as
            well.
        positive: refuse classes without samples.
    """
    counts = by_class(class_counts, name, " Pass a list, an array or a tensor.", "hold one number a class")
    counts = on_wide_device(with_values(counts, name))
    if counts.ndim != 1 or counts.numel() == 0:
        raise ValueError(f"`{name}` must hold one number a class, shape [C], but has shape {list(counts.shape)}.")
    if counts.dtype == torch.bool:
        raise ValueError(f"`{name}` must be numbers, but are {counts.dtype}.")
    if counts.is_floating_point():
        if not bool(torch.isfinite(counts).all()):
            bad = int((~torch.isfinite(counts)).nonzero()[0])
            raise ValueError(f"`{name}` must be finite, but class {bad} has {float(counts[bad])}.")
        if integers:
            if not bool((counts == counts.round()).all()):
                raise ValueError(
                    f"`{name}` must be whole numbers of samples, but hold fractions. Pass counts, not a prior."
                )
            counts = counts.long()
        else:
            counts = counts.double()
    else:
        counts = counts.long()
    if bool((counts < 0).any()):
        bad = int((counts < 0).nonzero()[0])
        raise ValueError(f"`{name}` must not be negative, but class {bad} has {counts[bad].item()}.")
    if not bool((counts > 0).any()):
        raise ValueError(f"`{name}` must be positive for at least one class, but all {counts.numel()} are 0.")
    if positive and bool((counts == 0).any()):
        bad = int((counts == 0).nonzero()[0])
        if abs(float(counts.sum()) - 1.0) < 1e-3:
            way = (
                "Give a class that does not occur where the model is used a tiny probability, `prior.clamp(min=1e-9)`; "
                "drop a class without training samples."
            )
        else:
            way = "Drop the class, or pass smoothed counts such as `counts.clamp(min=1)`."
        raise ValueError(
            f"`{name}` must be positive, but class {bad} has 0 (of {counts.numel()} classes, "
            f"{int((counts == 0).sum())} are empty), and the logarithm of its prior is not finite. {way}"
        )
    return counts


def by_class(values: Any, name: str, advice: str = "", expected: str = "be a tensor or an array of numbers") -> Tensor:
    """Convert numbers of classes as :func:`as_array` does, in the order of the classes if they come with them.

    A dictionary does, and a pandas Series: its ``value_counts()`` stands in the order of frequency.
    """
    classes: Sequence[Any] | None = list(values) if isinstance(values, Mapping) else None
    if classes is None and not isinstance(values, Tensor):
        index: Any = getattr(values, "index", None)  # a method of lists
        classes = None if callable(index) or not hasattr(index, "tolist") else index.tolist()
    if classes is None:
        return as_array(values, name, advice, expected)
    place = {label: k for k, label in enumerate(classes)}
    size = len(classes)
    if size and set(place) != set(range(size)):
        some = ", ".join(map(repr, classes[:5])) + (", ..." if size > 5 else "")
        raise ValueError(
            f"`{name}` comes with the classes {some}, but must hold a number for each of 0..{size - 1}. Give a class "
            "without samples a 0 (`counts.reindex(range(num_classes), fill_value=0)` of pandas). For names pass a list "
            "of the numbers, in the order of the classes."
        )
    numbers = list(values.values()) if isinstance(values, Mapping) else np.asarray(values)
    tensor = as_array(numbers, name, advice, expected)
    return tensor[[place[k] for k in range(size)]] if size else tensor


def as_array(values: Any, name: str, advice: str = "", expected: str = "be a tensor or an array of numbers") -> Tensor:
    """Convert numbers of any array-like form to a tensor; raise ValueError for anything else.

    The one conversion of labels, counts and logits: tensors as they are; arrays of numpy in any byte order and
    direction; columns of pandas, polars, pyarrow and datasets; lists and tuples. Only tensors and plain arrays are not
    copied.

    Args:
        values: the numbers.
        name: name of the caller's argument, for the message.
        advice: last words of the message.
        expected: what ``name`` must do, for the message.
    """
    if isinstance(values, Tensor):
        check_dense(values, name)
        return values
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            return torch.stack([torch.as_tensor(each) for each in values])
        array = np.asarray(_arrow_column(values))
        if array.dtype == object:
            array = np.asarray(array.tolist())  # numbers that were only stored as objects
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`{name}` must {expected}, but cannot be read as such.{advice}") from error
    if array.dtype.kind not in "biuf" or np.ma.is_masked(values):
        raise ValueError(f"`{name}` must {expected}, but cannot be read as such: {_no_number(array)}.{advice}")
    extended = array.dtype.kind == "f" and array.dtype.itemsize > 8
    # In this machine's byte order, and no wider than torch's types.
    array = array.astype(np.float64 if extended else f"{array.dtype.kind}{array.dtype.itemsize}", copy=False)
    # A copy where torch could not write: reversed views, read-only memory.
    writeable = array.flags.writeable and min(array.strides, default=0) >= 0
    tensor = torch.from_numpy(array if writeable else array.copy())
    device = torch.get_default_device()
    if device.type == "meta" or (tensor.dtype == torch.float64 and not has_float64(device)):
        return tensor  # inside `torch.device("meta")`, where a tensor would lose its values
    return tensor.to(device)


def as_reals(values: Any, name: str) -> Tensor:
    """Convert numbers of any form and shape to a tensor with values; raise ValueError for flags and NaN."""
    tensor = with_values(as_array(values, name), name)
    if tensor.dtype == torch.bool or (tensor.is_floating_point() and bool(tensor.isnan().any())):
        held = "are torch.bool" if tensor.dtype == torch.bool else "hold NaN"
        raise ValueError(f"`{name}` must be numbers, but {held}.")
    return tensor


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's MPS and some of Intel's GPUs do not."""
    if device.type in ("cpu", "cuda", "meta"):
        return True
    return device.type != "mps" and _computes_in_float64(device)


@functools.cache
def _computes_in_float64(device: torch.device) -> bool:
    try:
        return bool(torch.ones(1, dtype=torch.float64, device=device).exp().isfinite().all())
    except (AssertionError, RuntimeError, TypeError):  # each of them is what some builds and devices raise
        return False


def on_wide_device(tensor: Tensor) -> Tensor:
    """Move a tensor to the CPU if its own device has no float64."""
    return tensor if has_float64(tensor.device) else tensor.cpu()


def _arrow_column(values: Any) -> Any:
    """Return the arrow column behind a column of ``datasets``, which decodes and formats its items one by one."""
    if not type(values).__module__.startswith("datasets.") or not hasattr(values, "column_name"):
        return values
    source, name = values.source, values.column_name
    # A column of a nested one has no such table, but can be read at once, too.
    return source.select_columns(name).with_format("arrow")[:][name] if hasattr(source, "data") else values[:]


def with_values(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor that has values; raise ValueError for one on the meta device."""
    if tensor.is_meta:
        raise ValueError(
            f"`{name}` must have values, but is on the meta device. Pass a list, or a tensor made on the CPU."
        )
    return tensor


def _no_number(array: np.ndarray[Any, Any]) -> str:
    """Say what an array holds instead of numbers."""
    if array.dtype.kind in "US" and array.size:
        return f"it holds text such as {str(array.flat[0])!r}. Map every name to its class index first"
    for place, value in enumerate(array.flat if array.dtype == object else ()):
        if value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
            return f"the number at place {place} is missing ({value!r})"
        if not isinstance(value, int | float | np.number):
            return f"it holds {repr(value) if isinstance(value, str) else f'an object of type {type(value).__name__}'}"
    if array.dtype.kind in "biuf":
        return "some numbers are masked"
    return "it holds numbers of more than 64 bits" if array.dtype == object else f"it holds {array.dtype}"
