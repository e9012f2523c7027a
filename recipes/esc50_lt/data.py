"""The data: ESC-50 or ESC-10 (hub or local parquet), a folder of sound files, or synthetic sounds; made long-tailed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import Config
from sound import read_all
from synthetic import synthesise
from torch import Tensor

import ltaug

HUB = "ashraq/esc50"
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SYNTHETIC = {"clips_per_class": 40, "seconds": 2.0, "seed": 0}


@dataclass
class Data:
    """A long-tailed training set and a balanced test set, whole in memory. Clips have lengths of their own."""

    train_waveforms: list[Tensor]
    """int16 [T_k] each; / 32768 gives -1..1."""
    train_labels: Tensor
    """int64 [N]."""
    test_waveforms: list[Tensor]
    test_labels: Tensor
    class_names: list[str]
    class_counts: Tensor
    """Training clips a class, int64 [C]."""
    index_hash: str
    """SHA-256 of the indices of the training clips in the full set: equal hashes are equal subsets."""
    train_names: list[str]
    """File names."""
    test_names: list[str]
    left_out: int
    """Clips of both parts that could not be read; the hash counts them, the counts do not."""


@dataclass
class Source:
    """All clips of a set, before any is decoded."""

    name: str
    """For messages."""
    labels: Tensor
    """int64 [N], 0..C-1."""
    class_names: list[str]
    file_names: list[str]
    read: Callable[[list[int]], list]
    """Clips of some indices: a file's bytes or path each, or int16 samples if they need no decoding."""
    folds: Tensor | None = None
    """int64 [N], if the set has folds."""


def load_data(cfg: Config) -> Data:
    """Read the data set of a config, hold a balanced test set out, and take the long-tailed part of the others.

    Of a set with folds, `test_fold` is the test set: 8 clips a class of ESC-50 and ESC-10, whose clips cut from one
    recording are all in one fold, so that nothing leaks. The other folds (32 clips a class) are what `profile` thins
    out; `imbalance_ratio` 1 is the usual balanced protocol, a fold of it. Of other sets `test_per_class` clips of every
    class are drawn by `data_seed`, which knows nothing of recordings: of one that was cut into several clips, parts may
    end up on both sides.
    """
    source = {"synthetic": read_synthetic, "folder": read_folder}.get(cfg.dataset, read_esc)(cfg)
    labels, names = source.labels, source.class_names
    if len(names) < 2:
        raise ValueError(f"{source.name} must have at least two classes, but has {len(names)}: {', '.join(names)}.")
    test = hold_out(cfg, source)
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    available = ltaug.class_counts(labels[rest], len(names))
    if (empty := (available == 0).nonzero()[:, 0]).numel():
        k = int(empty[0])
        raise ValueError(f"Class {k} ({names[k]}) has test clips only. Choose another `test_fold`.")
    # Classes in label order, the largest first.
    counts = ltaug.profile_counts(cfg.profile, available, cfg.imbalance_ratio, names, unit="clips")
    train = rest[ltaug.subsample(labels[rest], counts, seed=cfg.data_seed)]

    # The choice is made before anything is decoded, and so does not depend on what can be.
    used = torch.cat([train, test]).tolist()
    waveforms = source.read(used)
    if cfg.dataset != "synthetic":
        waveforms = read_all(
            [(source.file_names[k], clip) for k, clip in zip(used, waveforms, strict=True)],
            cfg.sample_rate,
            cfg.trim_silence,
            cfg.cache_dir,
            cfg.on_error,
        )
    read = torch.tensor([clip is not None for clip in waveforms])
    tensors = [torch.from_numpy(clip) for clip in waveforms if clip is not None]
    trained, tested = train[read[: len(train)]], test[read[len(train) :]]
    for part, before, after in (("training", train, trained), ("test", test, tested)):
        sizes = ltaug.class_counts(labels[after], len(names))
        if (empty := (sizes == 0).nonzero()[:, 0]).numel():
            k = int(empty[0])
            raise ValueError(
                f"Of class {k} ({names[k]}) none of the {int((labels[before] == k).sum())} {part} clips can be read. "
                "Mend its files, or take the class out."
            )
    return Data(
        tensors[: len(trained)],
        labels[trained],
        tensors[len(trained) :],
        labels[tested],
        names,
        ltaug.class_counts(labels[trained], len(names)),
        ltaug.index_hash(train),
        [source.file_names[k] for k in trained],
        [source.file_names[k] for k in tested],
        int((~read).sum()),
    )


def facts(data: Data) -> dict[str, Any]:
    """By what the data of a run are known again: resuming it, or evaluating it, on others would spoil it unseen."""
    return {
        "class_names": data.class_names,
        "class_counts": data.class_counts,
        "training_indices": data.index_hash,
        "test_labels": ltaug.index_hash(data.test_labels),
    }


def describe(data: Data) -> str:
    """What is in the set, in a line."""
    counts = data.class_counts.tolist()
    left_out = f", {data.left_out} unreadable left out" if data.left_out else ""
    return (
        f"{len(data.train_labels)} training clips of {len(counts)} classes {counts}, {len(data.test_labels)} test clips"
        f"{left_out} (subset {data.index_hash[:12]})"
    )


def hold_out(cfg: Config, source: Source) -> Tensor:
    """Indices of the test clips."""
    labels, names = source.labels, source.class_names
    available = ltaug.class_counts(labels, len(names))
    if source.folds is None:
        if cfg.test_fold != 5:  # the default
            raise ValueError(f"`test_fold`={cfg.test_fold}, but {source.name} has no folds. Leave it out.")
        wanted = cfg.test_per_class
        if wanted < 1:
            raise ValueError(f"`test_per_class` must be at least 1, but is {wanted}.")
        if (short := (available < wanted + 1).nonzero()[:, 0]).numel():
            k = int(short[0])
            raise ValueError(
                f"`test_per_class`={wanted} and a training clip need {wanted + 1} clips of every class, but class {k} "
                f"({names[k]}) has {int(available[k])} ({len(short)} of {len(names)} classes are too small). Lower it, "
                "or add clips."
            )
        return ltaug.subsample(labels, [wanted] * len(names), seed=cfg.data_seed)
    test = (source.folds == cfg.test_fold).nonzero()[:, 0]
    if not len(test):
        folds = ", ".join(map(str, source.folds.unique().tolist()))
        raise ValueError(f"`test_fold`={cfg.test_fold} is no fold of {source.name}, which has {folds}.")
    if (missing := (ltaug.class_counts(labels[test], len(names)) == 0).nonzero()[:, 0]).numel():
        k = int(missing[0])
        raise ValueError(f"`test_fold`={cfg.test_fold} has no clip of class {k} ({names[k]}). Choose another one.")
    return test


def read_esc(cfg: Config) -> Source:
    """ESC-50 or its ten-class part, from `data_dir` or from the hub; or another set of the same columns.

    Labels are renumbered in their order where some are not used, as in the ESC-10 of the hub. A local ESC-10 may number
    its classes otherwise, and then other classes are the rare ones.
    """
    from datasets import Audio, load_dataset

    source = cfg.data_dir or HUB
    if cfg.data_dir and not Path(cfg.data_dir).is_dir():
        raise ValueError(f"`data_dir` {cfg.data_dir!r} is no folder. Leave it out to read {HUB} from the hub.")
    try:
        splits = load_dataset(source)
    except Exception as error:  # the hub client and the file readers raise many types
        if cfg.data_dir:
            raise ValueError(
                f"`data_dir` {cfg.data_dir!r} cannot be read as a data set: {error}. It must hold parquet files; for "
                "folders of sound files, one a class, say `--dataset folder`."
            ) from error
        raise ConnectionError(
            f"The data set {source!r} could not be loaded from the hub ({type(error).__name__}: {error}). Offline "
            "ways: `--data_dir FOLDER` with parquet files of the same columns, a cache filled earlier (set "
            "HF_HUB_OFFLINE=1), or `--dataset synthetic`, which needs no files."
        ) from error
    if "train" not in splits:
        raise ValueError(
            f"{source!r} must have a split named 'train', which holds all folds, but has {', '.join(splits)}. "
            "A folder's splits are told by its file names: train-0.parquet."
        )
    rows = splits["train"]
    for setting in ("audio_column", "label_column"):
        if (column := getattr(cfg, setting)) not in rows.column_names:
            raise ValueError(
                f"{source!r} has no column {column!r}, but {', '.join(rows.column_names)}. "
                f"Name the right one with `--{setting}`."
            )
    if cfg.dataset == "esc10" and "esc10" in rows.column_names:
        rows = rows.select(np.flatnonzero(rows["esc10"][:]))
    if not len(rows):
        raise ValueError(f"{source!r} has no clips. Put some into it.")
    numbers = integers(rows, cfg.label_column, source)
    classes, labels = np.unique(numbers, return_inverse=True)
    names = [str(k) for k in classes]
    if "category" in rows.column_names:
        pairs = sorted(set(zip(numbers, rows["category"][:], strict=True)), key=str)
        if len(pairs) != len(classes):
            raise ValueError(
                f"{source!r} has {len(classes)} labels in {cfg.label_column!r}, but {len(pairs)} pairs of label and "
                "'category'; each label must have one. Name another column with `--label_column`."
            )
        names = [str(dict(pairs)[k]) for k in classes.tolist()]
    try:  # never decoded by `datasets`, which needs torchcodec for it
        rows = rows.cast_column(cfg.audio_column, Audio(decode=False))
    except Exception as error:  # of many types, from the depths of pyarrow
        raise ValueError(
            f"{source!r} must hold sound files in {cfg.audio_column!r}, but holds {rows.features[cfg.audio_column]}. "
            "Name another column with `--audio_column`."
        ) from error

    def read(indices: list[int]) -> list[bytes | Path]:
        files = [file or {"bytes": b"", "path": None} for file in rows.select(indices)[cfg.audio_column]]
        return [file["bytes"] or (Path(file["path"]) if file["path"] else b"") for file in files]

    files = rows["filename"][:] if "filename" in rows.column_names else [f"clip {k}" for k in range(len(rows))]
    folds = torch.tensor(integers(rows, "fold", source)) if "fold" in rows.column_names else None
    return Source(repr(source), torch.from_numpy(labels), names, [str(name) for name in files], read, folds)


def integers(rows, column: str, source: str) -> list[int]:
    """A column of labels or folds."""
    values = rows[column][:]
    for k, value in enumerate(values):
        if not isinstance(value, int) or value < 0:
            hint = "Mend it." if column == "fold" else "Name another column with `--label_column`."
            raise ValueError(
                f"{source!r} must hold numbers from 0 on in {column!r}, but has {value!r} for clip {k}. {hint}"
            )
    return values


def read_folder(cfg: Config) -> Source:
    """Sound files in a folder a class, or in folders below it. Hidden files and other files are passed over."""
    if not cfg.data_dir:
        raise ValueError("`--dataset folder` needs `--data_dir`, a folder with a folder of sound files for each class.")
    root = Path(cfg.data_dir)
    if not root.is_dir():
        raise ValueError(f"`data_dir` {cfg.data_dir!r} is no folder.")
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(
            f"`data_dir` {cfg.data_dir!r} has no folders. Make one for each class, and put its sound files there."
        )
    paths, labels = [], []
    for k, folder in enumerate(classes):
        found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        found = sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))
        if not found:
            raise ValueError(
                f"The folder of class {folder.name!r} in `data_dir` {cfg.data_dir!r} has no sound files "
                f"({', '.join(SUFFIXES)}). Remove it, or fill it."
            )
        paths += found
        labels += [k] * len(found)
    return Source(
        repr(cfg.data_dir),
        torch.tensor(labels),
        [folder.name for folder in classes],
        [path.relative_to(root).as_posix() for path in paths],
        lambda indices: [paths[k] for k in indices],
    )


def read_synthetic(cfg: Config) -> Source:
    """Ten classes of 40 sounds made by synthetic.py, always the same ones."""
    clips, labels, file_names = synthesise(sample_rate=cfg.sample_rate, **SYNTHETIC)
    names = list(dict.fromkeys(name.partition("/")[0] for name in file_names))
    return Source(
        "The synthetic set", torch.tensor(labels), names, file_names, lambda indices: [clips[k] for k in indices]
    )
