"""Long-tailed data sets on the hub: the same samples for everybody, with the hash that runs record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from torch import Tensor

from ltaug.errors import UserError, as_user_errors
from ltaug.hub._client import check_login, check_name
from ltaug.hub._runs import upload, whole_folder
from ltaug.loaders.folders import printable
from ltaug.loaders.sharing import SOURCE_INDEX, SharedData, SharedSplit
from ltaug.longtail import index_hash
from ltaug.priors import counts_of
from ltaug.run import write_atomically

SHARD_BYTES = 256 * 2**20
"""Of samples in a parquet file, more or less."""
GROUP_BYTES = 16 * 2**20
"""Of samples that are in memory at once: a row group."""
GROUP_ROWS = 1000
SUBSET = "subset.json"
_CHOOSE_NOTHING = (
    *("allow_outside", "workers", "stream", "stream_buffer", "crop_padding", "flip", "image_size", "augmentation"),
    *("test_resize", "sample_rate", "trim_silence", "trim_db", "crop_length", "test_crops", "test_hop", "aggregate"),
)
"""Settings of how samples are read and augmented, not of which ones there are."""
_OURS = ("README.md", SUBSET, "counts.png", "data/*.parquet")


@dataclass
class Subset:
    """What was written: said by the command, and kept beside the samples."""

    repo_id: str
    recipe: str
    source: str
    """Where the samples are from."""
    settings: dict[str, Any]
    """Of the recipe's data: the same settings make the same set again."""
    class_names: list[str]
    class_counts: list[int]
    """Training samples a class."""
    subset_sha256: str
    """Of the places of the training samples in the full set, :func:`ltaug.index_hash`."""
    training_indices: str
    """What runs on this set record as such."""
    rows: dict[str, int] = field(default_factory=dict)
    """Samples by split."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Encoded bytes by split."""

    def __str__(self) -> str:
        rows = ", ".join(f"{number:,} {split}" for split, number in self.rows.items())
        return f"{rows} samples of {self.source}, {len(self.class_names)} classes (subset {self.subset_sha256[:12]})."


def write_data_folder(
    folder: str | Path, repo_id: str, *, recipe: str, settings: Sequence[str] = (), license: str | None = None
) -> Subset:
    """Write the long-tailed data set of a recipe's settings as parquet files with a card: what a push would upload.

    Samples are written as they are stored, file by file; where a recipe holds pixels or samples without a file, as PNG
    or WAV without loss. Columns: that of the samples, that of the labels, and ``source_index``, the place of each in
    the split of the full set that it was taken from.

    Args:
        folder: is created.
        repo_id: OWNER/NAME that the set is to have.
        recipe: its name, or a folder with a train.py of your own.
        settings: "dataset=cifar100", "imbalance_ratio=100" and the like, of its data.
        license: the hub's name of a licence, such as cc-by-4.0; without one, the card names none.

    Raises:
        UserError: a setting is wrong, or the recipe's data cannot be shared.
    """
    check_name(repo_id)
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`{folder}` exists already. Name a new folder.")
    with whole_folder(folder) as scratch:
        return _write_all(scratch, repo_id, recipe, settings, license)


def _write_all(folder: Path, repo_id: str, recipe: str, settings: Sequence[str], license: str | None) -> Subset:
    from ltaug.scripts import find_recipe

    with _data_of(recipe, settings) as (cfg, data, given):
        shared: SharedData = data.shared(cfg)
        shared.class_names = [printable(str(name)) for name in shared.class_names]
        train = shared.splits["train"]
        source = next((str(value) for value in (given.get("hub_id"), _source(cfg)) if value), recipe)
        subset = Subset(
            repo_id,
            find_recipe(recipe).name,
            source,
            given,
            list(shared.class_names),
            counts_of(train.labels, len(shared.class_names)).tolist(),
            index_hash(train.indices),
            data.index_hash,
        )
        features = _features(shared)
        (folder / "data").mkdir(parents=True)
        for split, samples in shared.splits.items():
            split = "validation" if split == "held_out" else split  # what loaders of others look for
            subset.rows[split] = len(samples.labels)
            subset.bytes[split] = _write(folder / "data", split, samples, shared, features)
    write_atomically(folder / SUBSET, json.dumps(vars(subset), indent=2, ensure_ascii=False) + "\n")
    _write_card(folder, subset, shared, features, license)
    return subset


def push_data(
    repo_id: str,
    *,
    recipe: str,
    settings: Sequence[str] = (),
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Make the long-tailed data set of a recipe's settings a data set of the hub, in one commit.

    Args:
        repo_id: OWNER/NAME; created if need be.
        recipe: see :func:`write_data_folder`.
        settings: likewise.
        license: likewise.
        private: whether it is created for its owner's eyes only.
        revision: branch, created if need be; by default the main one.
        message: of the commit.

    Returns:
        Address of the commit.

    Raises:
        UserError: a setting is wrong; or why the hub did not take it, and what to do, in one line.
    """
    check_login(repo_id, "dataset")
    with tempfile.TemporaryDirectory(prefix="ltaug-push-") as place:
        folder = Path(place, "data_set")
        subset = write_data_folder(folder, repo_id, recipe=recipe, settings=settings, license=license)
        files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        message = message or f"ltaug subset {subset.subset_sha256[:12]} of {subset.source}"
        return upload(folder, files, repo_id, "dataset", private, revision, message, _OURS)


# -- the recipe's data -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _data_of(recipe: str, settings: Sequence[str]) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Settings and data of a recipe, whose modules are there inside the block; and its data settings to be shown."""
    words: list[str] = []
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or name.startswith("-"):
            raise UserError(f"{word!r} is no setting: write SETTING=VALUE, such as imbalance_ratio=100.")
        words += [f"--{name}", value]
    from ltaug.report._card import shared_path
    from ltaug.scripts import find_recipe, loaded_script
    from ltaug.training import settings_of

    script = find_recipe(recipe) / "train.py"
    with loaded_script(script) as module:
        cfg = settings_of(module.Config, str(script), words)
        with contextlib.suppress(NameError):  # of types that are there for type checkers only
            kind = typing.get_type_hints(module.load_data).get("return")
            if isinstance(kind, type) and not hasattr(kind, "shared"):
                _refuse(recipe)  # before there is any work
        with as_user_errors():
            data = module.load_data(cfg)
        if not hasattr(data, "shared"):
            _refuse(recipe)
        own = [item.name for item in dataclasses.fields(module.DataSettings)]
        values = {name: getattr(cfg, name) for name in own if not (name.endswith("_dir") or name in _CHOOSE_NOTHING)}
        if values.get("profile") == "natural":
            values.pop("imbalance_ratio", None)
        yield cfg, data, {name: shared_path(each) if isinstance(each, str) else each for name, each in values.items()}


def _refuse(recipe: str) -> NoReturn:
    raise UserError(
        f"The data of {recipe} cannot be shared: what its load_data returns has no `shared`. That of cifar_lt shows "
        "how one is written."
    )


def _source(cfg: Any) -> str:
    from ltaug.report._card import SOURCES

    name = str(getattr(cfg, "data_name", cfg.dataset))  # which has the ratio at its end
    return SOURCES.get(str(cfg.dataset)) or name.removesuffix(f"_ir{getattr(cfg, 'imbalance_ratio', 0):g}")


# -- files -------------------------------------------------------------------------------------------------------------


def _features(shared: SharedData) -> Any:
    import datasets

    sample = datasets.Image() if shared.media == "image" else datasets.Audio()
    label: Any = datasets.ClassLabel(names=list(shared.class_names))
    if shared.splits["train"].labels.ndim > 1:
        label = datasets.List(label) if hasattr(datasets, "List") else datasets.Sequence(label)
    columns = dict(zip(shared.columns, (sample, label), strict=True))
    return datasets.Features({**columns, SOURCE_INDEX: datasets.Value("int64")})


def _write(folder: Path, split: str, samples: SharedSplit, shared: SharedData, features: Any) -> int:
    """Write the parquet files of a split, a row group at a time; returns the encoded bytes."""
    import pyarrow
    from pyarrow import parquet

    schema, writer, total, sizes = features.arrow_schema, None, 0, [0]
    shards: list[Path] = []
    for group in _groups(samples):
        if writer is None or sizes[-1] > SHARD_BYTES:
            if writer is not None:
                writer.close()
                sizes.append(0)
            shards.append(folder / f".{split}-{len(shards)}.parquet")
            writer = parquet.ParquetWriter(shards[-1], schema)
        files, labels, indices = group
        columns = [files, labels, indices]
        writer.write_table(pyarrow.table(columns, schema=schema))
        size = sum(len(file["bytes"]) for file in files)
        sizes[-1], total = sizes[-1] + size, total + size
    if writer is not None:
        writer.close()
    for k, path in enumerate(shards):
        path.rename(folder / f"{split}-{k:05d}-of-{len(shards):05d}.parquet")
    return total


def _groups(samples: SharedSplit) -> Iterator[tuple[list[dict[str, Any]], list[Any], list[int]]]:
    """Samples, labels and places, as many at a time as fit a row group."""
    files, first, size = list[dict[str, Any]](), 0, 0
    for k in range(len(samples.labels)):
        content, name = samples.sample(k)
        files.append({"bytes": content, "path": printable(name).replace("\\", "/").rpartition("/")[2]})
        size += len(content)
        if size >= GROUP_BYTES or len(files) >= GROUP_ROWS or k + 1 == len(samples.labels):
            yield files, _plain(samples.labels[first : k + 1]), samples.indices[first : k + 1].tolist()
            files, first, size = [], k + 1, 0


def _plain(labels: Tensor) -> list[Any]:
    return labels.tolist() if labels.ndim == 1 else [row.nonzero()[:, 0].tolist() for row in labels]


def _write_card(folder: Path, subset: Subset, shared: SharedData, features: Any, license: str | None) -> None:
    import datasets

    from ltaug.report._card import write_data_card

    splits = {
        split: datasets.SplitInfo(split, num_bytes=subset.bytes[split], num_examples=number)
        for split, number in subset.rows.items()
    }
    size = sum(path.stat().st_size for path in (folder / "data").iterdir())
    info = datasets.DatasetInfo(features=features, download_size=size, dataset_size=sum(subset.bytes.values()))
    info.splits = datasets.SplitDict(splits)
    described = f"ltaug subset {subset.subset_sha256} of {subset.source}"
    files = [{"split": split, "path": f"data/{split}-*"} for split in subset.rows]
    metadata = {
        **({"license": license} if license else {}),
        "task_categories": [f"{shared.media}-classification"],
        "tags": ["long-tailed", "class-imbalance", "ltaug"],
        **({"source_datasets": [subset.source]} if "/" in subset.source else {}),
        "dataset_info": {"description": described, **info._to_yaml_dict()},
        "configs": [{"config_name": "default", "data_files": files}],
    }
    write_data_card(
        folder, yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000), vars(subset), shared
    )
