"""Long-tailed variants of balanced data: profiles, subsampling to them, shifted test sets. Labels in, indices out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.errors import UserError
from ltaug.priors import Counts, as_counts, as_labels
from ltaug.priors import class_counts as count_classes

__all__ = [
    "exponential_counts",
    "index_hash",
    "pareto_counts",
    "profile_counts",
    "shifted_counts",
    "shifted_sets",
    "step_counts",
    "subsample",
]


@checked
def exponential_counts(n_max: int, num_classes: int, imbalance_ratio: float) -> Tensor:
    """Exponential profile, n_k = int(n_max * (1 / imbalance_ratio)^(k / (C - 1))), the published CIFAR-LT one.

    Args:
        n_max: samples of class 0, the largest.
        num_classes: C.
        imbalance_ratio: n_max / n_min >= 1 (10, 50, 100 and 200 are usual).

    Returns:
        int64 [C], not increasing. The smallest class may have 0 if ``n_max < imbalance_ratio``.

    >>> exponential_counts(5000, 10, 100).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    ratio = _check_profile(n_max, num_classes, imbalance_ratio)
    # Plain Python floats, in this order: the rounding of the published lists depends on it.
    # 1e-9: a last class of exactly n_max / imbalance_ratio samples must not lose one to it (49 * (1 / 49) < 1).
    steps = [k / max(num_classes - 1.0, 1.0) for k in range(num_classes)]
    return torch.tensor([int(n_max * (1.0 / ratio) ** step + 1e-9) for step in steps])


@checked
def step_counts(n_max: int, num_classes: int, imbalance_ratio: float, head_fraction: float = 0.5) -> Tensor:
    """Step profile: the first classes have n_max samples, the others int(n_max / imbalance_ratio).

    Args:
        n_max: samples of a head class.
        num_classes: C.
        imbalance_ratio: n_max / n_min >= 1.
        head_fraction: int(head_fraction * C) classes belong to the head.

    Returns:
        int64 [C].

    >>> step_counts(500, 4, 100).tolist()
    [500, 500, 5, 5]
    """
    ratio = _check_profile(n_max, num_classes, imbalance_ratio)
    if not 0.0 <= head_fraction <= 1.0:
        raise ValueError(f"`head_fraction` must lie in [0, 1], but is {head_fraction}.")
    head = int(head_fraction * num_classes)
    return torch.tensor([n_max] * head + [int(n_max / ratio)] * (num_classes - head))


@checked
def pareto_counts(n_max: int, num_classes: int, imbalance_ratio: float, alpha: float = 6.0) -> Tensor:
    """Pareto profile: the density of a Pareto law of shape alpha, read at C equal steps and scaled to n_max.

    n_k = int(n_max * (1 + (imbalance_ratio^(1 / (alpha + 1)) - 1) * k / (C - 1))^-(alpha + 1)), so that the ends are
    n_max and n_max / imbalance_ratio whatever alpha is; alpha -> infinity is the exponential profile, a smaller alpha
    bends more. ImageNet-LT names alpha = 6 (Liu et al., CVPR 2019, https://arxiv.org/abs/1904.05160); its published
    list was drawn at random and is capped by the classes' true sizes, so use the list itself to reproduce it.

    Args:
        n_max: samples of class 0, the largest.
        num_classes: C.
        imbalance_ratio: n_max / n_min >= 1.
        alpha: shape of the Pareto law, > 0.

    Returns:
        int64 [C], not increasing.

    >>> pareto_counts(32, 5, 10).tolist()
    [32, 16, 9, 5, 3]
    """
    ratio = _check_profile(n_max, num_classes, imbalance_ratio)
    if not alpha > 0.0:
        raise ValueError(f"`alpha` must be positive, but is {alpha}.")
    reach = ratio ** (1.0 / (alpha + 1.0)) - 1.0
    steps = [k / max(num_classes - 1.0, 1.0) for k in range(num_classes)]
    # 1e-9: a last class of exactly n_max / imbalance_ratio samples must not lose one to the rounding of the power.
    return torch.tensor([int(n_max * (1.0 + reach * step) ** -(alpha + 1.0) + 1e-9) for step in steps])


@checked
def profile_counts(profile: str, available: Counts, imbalance_ratio: float, class_names: Sequence[str]) -> Tensor:
    """Training samples a class that a profile takes of those there are; the largest class is class 0.

    Args:
        profile: "exponential", "step" or "pareto", scaled to the largest class there is; "natural" takes all samples.
        available: samples that each class has, [C].
        imbalance_ratio: largest over smallest class, >= 1; "natural" ignores it.
        class_names: C names, for messages.

    Returns:
        int64 [C], each at least 1 and at most what is there.

    Raises:
        UserError: a class has no samples, or is left without, or has fewer than the profile asks for.

    >>> profile_counts("exponential", [100, 90, 80], 10, ["ant", "bee", "cat"]).tolist()
    [100, 31, 10]
    """
    profiles = {"exponential": exponential_counts, "step": step_counts, "pareto": pareto_counts}
    if profile != "natural" and profile not in profiles:
        raise UserError(f"`profile` must be one of natural, {', '.join(profiles)}, but is {profile!r}.")
    available = as_counts(available, "available").cpu()
    num_classes, largest = available.numel(), int(available.max())
    if len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` must hold one name a class, {num_classes} as `available`, but hold {len(class_names)}."
        )
    if (empty := (available == 0).nonzero()[:, 0]).numel():
        k = int(empty[0])
        raise UserError(
            f"Class {k} ({class_names[k]}) has no training samples ({len(empty)} of {num_classes} classes have none). "
            "Add some, or take the class out."
        )
    if profile == "natural":
        return available
    counts = profiles[profile](largest, num_classes, imbalance_ratio)
    if int(counts.min()) == 0:
        raise UserError(
            f"`imbalance_ratio`={imbalance_ratio:g} leaves class {int(counts.argmin())} without training samples, "
            f"since the largest class has {largest}."
        )
    if (short := (available < counts).nonzero()[:, 0]).numel():
        k = int(short[0])
        raise UserError(
            f"`imbalance_ratio`={imbalance_ratio:g} asks for {int(counts[k])} training samples of class {k} "
            f"({class_names[k]}), but there are {int(available[k])} ({len(short)} of {num_classes} classes are too "
            "small). Raise it, or take the classes as they are with `profile` natural."
        )
    return counts


@checked
def subsample(labels: Counts, counts: Counts, seed: int = 0) -> Tensor:
    """Draw a fixed number of samples of every class.

    The order inside a class is ``numpy.random.RandomState(seed)`` shuffling the classes' members one class after the
    other, which is what the released CIFAR-LT code of LDAM-DRW and of everyone after it does with seed 0: the same
    labels in the same order give the same subset.

    Args:
        labels: class indices, int [N].
        counts: how many samples to take of each class, int [C].
        seed: which subset.

    Returns:
        int64 [sum(counts)], indices into ``labels``, class after class. :func:`index_hash` names the list.

    Raises:
        ValueError: a class has fewer samples than ``counts`` asks for, or labels lie outside 0..C-1.

    >>> subsample([0, 0, 0, 1, 1], [2, 1]).tolist()
    [2, 1, 3]
    """
    counts = as_counts(counts, "counts").cpu()
    array = as_labels(labels).cpu().numpy()
    num_classes = counts.numel()
    if array.size and (array.min() < 0 or array.max() >= num_classes):
        raise ValueError(
            f"`labels` must lie in 0..{num_classes - 1}, the classes of `counts`, but range from {array.min()} to "
            f"{array.max()}."
        )
    available = np.bincount(array, minlength=num_classes)
    short = np.flatnonzero(available < counts.numpy())
    if short.size:
        k = int(short[0])
        raise ValueError(
            f"`counts` asks for {int(counts[k])} samples of class {k}, but there are {available[k]} "
            f"({short.size} of {num_classes} classes are too small). Lower `n_max` or raise `imbalance_ratio`."
        )
    if seed >= 2**32:
        raise ValueError(f"`seed` must be below 2**32, but is {seed}.")
    generator = np.random.RandomState(seed)  # the legacy generator on purpose, see above
    order = np.argsort(array, kind="stable")
    members = np.split(order, np.cumsum(available)[:-1])
    chosen = []
    for k in range(num_classes):
        generator.shuffle(members[k])
        chosen.append(members[k][: int(counts[k])])
    return torch.from_numpy(np.concatenate(chosen).astype(np.int64))


def index_hash(indices: Counts) -> str:
    """SHA-256 of an index list (as little-endian int64, in its order): equal hashes mean equal subsets.

    >>> index_hash([0, 1, 2])[:12]
    'ab25350e3e65'
    """
    array = as_labels(indices, "indices").cpu().numpy().astype("<i8")
    if array.size and array.min() < 0:
        raise ValueError(f"`indices` must be places in a data set, from 0, but hold {array.min()}.")
    return hashlib.sha256(array.tobytes()).hexdigest()


@checked
def shifted_counts(n: int, class_counts: Counts, ratio: float, direction: str, mode: str = "paper") -> Tensor:
    """Samples a class of LADE's shifted test sets.

    Hong et al., CVPR 2021, section 4.3, https://arxiv.org/abs/2012.00321. With the classes sorted by descending
    training count (ties by index) and j = 1..C the rank, "forward" is n_j = n * ratio^(-(j - 1) / C), as imbalanced as
    training; "backward" is n_j = n * ratio^(-(C - j) / C), the reverse. (The printed exponents have lost their sign: as
    printed the counts would grow.)

    Args:
        n: test samples of the largest class; 50 for ImageNet-LT, 100 for CIFAR-100.
        class_counts: training samples a class, [C]: which classes are the head.
        ratio: imbalance ratio of the test set, >= 1 (2, 5, 10, 25 and 50 in the paper).
        direction: "forward" or "backward".
        mode: "paper" divides by C as above; "official_code" divides by C - 1, so that the ends are n and n / ratio.
            Both truncate.

    Returns:
        int64 [C], in the order of the classes.

    >>> shifted_counts(100, [500, 50, 5], 10, "backward", mode="official_code").tolist()
    [10, 31, 100]
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f'`direction` must be "forward" or "backward", but is {direction!r}.')
    if mode not in ("paper", "official_code"):
        raise ValueError(f'`mode` must be "paper" or "official_code", but is {mode!r}.')
    counts = as_counts(class_counts).cpu()
    num_classes = counts.numel()
    ratio = _check_profile(n, num_classes, ratio, "n", "ratio")
    steps = num_classes if mode == "paper" else max(num_classes - 1, 1)
    rank = torch.empty(num_classes, dtype=torch.int64)
    rank[torch.argsort(counts, descending=True, stable=True)] = torch.arange(num_classes)
    exponent = rank if direction == "forward" else num_classes - 1 - rank
    # 1e-9: n / ratio itself must not lose a sample to the rounding of the power.
    return torch.tensor([int(n * ratio ** (-int(e) / steps) + 1e-9) for e in exponent])


@checked
def shifted_sets(labels: Counts, class_counts: Counts, seed: int = 0) -> dict[str, Tensor]:
    """Indices of LADE's eleven test sets of other class mixes, each drawn from a balanced test set.

    They go from as long-tailed as training ("forward 50", 25, 10, 5, 2) over "uniform" to the reverse ("backward 2" to
    "backward 50"), with the counts of :func:`shifted_counts`.

    Args:
        labels: of the test set, int [N]. Of one that is not balanced, its smallest class is the largest of every set.
        class_counts: training samples a class, [C]: which classes are the head.
        seed: which samples are drawn.

    Returns:
        int64 indices into ``labels`` by name.

    Raises:
        UserError: a class has no test samples.

    >>> sets = shifted_sets([0] * 10 + [1] * 10, [500, 5])
    >>> len(sets), len(sets["uniform"]), len(sets["backward 50"])
    (11, 20, 11)
    """
    counts = as_counts(class_counts).cpu()
    labels = as_labels(labels).cpu()
    available = count_classes(labels, counts.numel())
    size = int(available.min())
    if size == 0:
        raise UserError(
            f"Test sets of other class mixes need test samples of every class, but class {int(available.argmin())} has "
            f"none ({int((available == 0).sum())} of {counts.numel()} classes have none)."
        )
    directions = [("forward", ratio) for ratio in (50, 25, 10, 5, 2)]
    directions += [("uniform", 1), *(("backward", ratio) for ratio in (2, 5, 10, 25, 50))]
    sets = {}
    for direction, ratio in directions:
        # Of ratio 1 either direction is the whole balanced set.
        wanted = shifted_counts(size, counts, ratio, "backward" if direction == "backward" else "forward")
        name = direction if ratio == 1 else f"{direction} {ratio}"
        sets[name] = subsample(labels, wanted, seed=seed)
    return sets


def _check_profile(
    n_max: int, num_classes: int, imbalance_ratio: float, n_name: str = "n_max", ratio_name: str = "imbalance_ratio"
) -> float:
    if n_max < 1:
        raise ValueError(f"`{n_name}` must be at least 1, but is {n_max}.")
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
    if not (imbalance_ratio >= 1.0 and np.isfinite(imbalance_ratio)):
        raise ValueError(
            f"`{ratio_name}` is n_max / n_min and must be at least 1, but is {imbalance_ratio}. "
            "Papers that write 0.01 mean 100; 1 is balanced."
        )
    return float(imbalance_ratio)
