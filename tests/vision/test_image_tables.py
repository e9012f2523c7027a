"""Images in tables of the hub's kind: columns of any type, splits, class names; small ones as one tensor."""

from __future__ import annotations

import decimal
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from image_support import names_of, number_of, picture, write, write_parquet
from PIL import Image
from pyarrow import parquet

import ltaug
from ltaug.errors import UserError
from ltaug.vision import read_small_images
from ltaug.vision.decoding import decode, open_stored
from ltaug.vision.image_set import ImageSet
from ltaug.vision.tables import read_image_stream, read_image_table


def files(blobs: str = "binary", paths: str = "string") -> Any:
    kinds = {"binary": pyarrow.binary(), "large_binary": pyarrow.large_binary(), "binary_view": pyarrow.binary_view()}
    text = {"string": pyarrow.string(), "large_string": pyarrow.large_string(), "string_view": pyarrow.string_view()}
    return pyarrow.struct({"bytes": kinds[blobs], "path": text[paths]})


IMAGES: dict[str, Callable[[list[bytes]], Any]] = {
    "struct": lambda data: pyarrow.array([{"bytes": each, "path": None} for each in data], files()),
    "struct, path null": lambda data: pyarrow.array([{"bytes": each, "path": None} for each in data]),
    "struct, bytes only": lambda data: pyarrow.array([{"bytes": each} for each in data]),
    "struct, large": lambda data: pyarrow.array([{"bytes": e, "path": "a"} for e in data], files("large_binary")),
    "struct, views": lambda data: pyarrow.array(
        [{"bytes": each, "path": None} for each in data], files("binary_view", "string_view")
    ),
    "struct, more fields": lambda data: pyarrow.array([{"bytes": e, "path": "a.png", "width": 8} for e in data]),
    "binary": lambda data: pyarrow.array(data, pyarrow.binary()),
    "large binary": lambda data: pyarrow.array(data, pyarrow.large_binary()),
    "binary view": lambda data: pyarrow.array(data, pyarrow.binary_view()),
}
LABELS: dict[str, Callable[[list[int]], Any]] = {
    "int8": lambda labels: pyarrow.array(labels, pyarrow.int8()),
    "uint16": lambda labels: pyarrow.array(labels, pyarrow.uint16()),
    "float": lambda labels: pyarrow.array([float(each) for each in labels]),
    "bool": lambda labels: pyarrow.array([bool(each) for each in labels]),
    "decimal": lambda labels: pyarrow.array([decimal.Decimal(each) for each in labels]),
    "text": lambda labels: pyarrow.array([["ant", "bee"][each] for each in labels]),
    "dictionary": lambda labels: pyarrow.array([["ant", "bee"][each] for each in labels]).dictionary_encode(),
}


def write_columns(folder: Path, images: str = "struct", labels: str = "int8") -> Path:
    """As other tools store them: without a word on what the columns are."""
    folder.mkdir()
    for split, chosen in (("train", [0, 1, 1, 0]), ("test", [1, 0])):
        data = [picture(40 * k + 10, "PNG") for k in range(len(chosen))]
        table = pyarrow.table({"image": IMAGES[images](data), "label": LABELS[labels](chosen)})
        parquet.write_table(table, folder / f"{split}-0.parquet")
    return folder


@pytest.mark.parametrize("kind", IMAGES)
def test_columns_of_images(kind: str, tmp_path: Path) -> None:
    folder = write_columns(tmp_path / "data", images=kind)
    _, splits = read_image_table(None, str(folder))
    small, _ = read_small_images(None, str(folder))
    for split, numbers in (("train", [10, 50, 90, 130]), ("test", [10, 50])):
        images = ImageSet(splits[split])
        assert [number_of(images[k][0]) for k in range(len(images))] == numbers
        assert small[split].images()[:, 0, 0, 0].tolist() == numbers


@pytest.mark.parametrize("kind", LABELS)
def test_columns_of_labels(kind: str, tmp_path: Path) -> None:
    folder = str(write_columns(tmp_path / "data", labels=kind))
    names, splits = read_image_table(None, folder)
    assert (splits["train"].labels.tolist(), splits["test"].labels.tolist()) == ([0, 1, 1, 0], [1, 0])
    assert names == (["ant", "bee"] if kind in ("text", "dictionary") else ["0", "1"])
    streamed, train, tested = read_image_stream(None, folder, buffer=4)
    assert (streamed, train.labels.tolist(), tested["test"].labels.tolist()) == (names, [0, 1, 1, 0], [1, 0])
    small, small_names = read_small_images(None, folder)
    assert (small_names, small["test"].labels.tolist()) == (names, [1, 0])


def write_hub(folder: Path, splits: dict[str, list[Any]], names: tuple[str, ...] | None = None) -> Path:
    for split, labels in splits.items():
        images = [{"bytes": picture(5 * k), "path": f"{split}{k}.jpg"} for k in range(len(labels))]
        write_parquet(folder / f"{split}-0.parquet", images, labels, names)
    return folder


def test_columns_splits_and_names(tmp_path: Path) -> None:
    folder = write_hub(tmp_path, {"train": [2, 0, 0, 1, 0, 1], "validation": [1, 2]}, ("ant", "bee", "cat"))
    names, splits = read_image_table(None, str(folder))
    assert names == ["ant", "bee", "cat"]
    assert list(splits) == ["train", "test"]
    train = ImageSet(splits["train"])
    assert names_of(splits["train"]) == [f"train{k}.jpg" for k in range(6)]
    assert [number_of(train[k][0]) for k in range(6)] == [0, 5, 10, 15, 20, 25]
    assert splits["test"].labels.tolist() == [1, 2]
    copy = pickle.loads(pickle.dumps(splits["train"].open))
    assert copy._stored is None  # the bytes of all images stay here
    assert number_of(copy(3).convert("RGB")) == 15


def test_a_stream_passes_over_what_other_programs_leave(tmp_path: Path) -> None:
    write_hub(tmp_path, {"train": [0, 1, 1], "test": [0, 1]})
    write_hub(tmp_path / "@Recycle", {"train": [5, 5]})
    names, train, _ = read_image_stream(None, str(tmp_path), buffer=4)
    assert (names, train.labels.tolist()) == (["0", "1"], [0, 1, 1])


@pytest.mark.parametrize("kind", ["paths", "struct"])
def test_paths_that_leave_the_folder(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "secret.png", picture(70, "PNG"))
    write(tmp_path / "data" / "in.png", picture(30, "PNG"))

    def readers(*images: str) -> list[Callable[[bool], int]]:
        rows = [{"bytes": None, "path": path} if kind == "struct" else path for path in images]
        for split, labels in (("train", [0, 1]), ("test", [1, 0])):
            table = pyarrow.table({"image": pyarrow.array(rows), "label": labels})
            parquet.write_table(table, tmp_path / "data" / f"{split}-0.parquet")

        def stream(allow: bool) -> int:
            train = read_image_stream(None, folder, buffer=4, allow_outside=allow)[1]
            return number_of(decode(open_stored(train.shards.read(0)[1].as_py(), folder))[0])

        folder = str(tmp_path / "data")
        return [
            lambda allow: number_of(ImageSet(read_image_table(None, folder, allow_outside=allow)[1]["train"])[1][0]),
            lambda allow: int(read_small_images(None, folder, allow_outside=allow)[0]["train"].images()[1, 0, 0, 0]),
            stream,
        ]

    for read in readers("in.png", "../secret.png"):
        message = (
            r"Column 'image' of .* has paths that lie outside `data_dir` '.*data', 1 of 2, the first of which is '\.\."
        )
        with pytest.raises(UserError, match=message):
            read(False)
        assert read(True) == 70
    for address in ("hf://datasets/a/b/1.png", "https://host/1.png"):
        for read in readers("in.png", address):
            for allow in (False, True):
                with pytest.raises(
                    UserError, match=rf"has paths that are addresses, 1 of 2, .* is '{address}'\. Only f"
                ):
                    read(allow)


def test_three_splits(tmp_path: Path) -> None:
    folder = str(write_hub(tmp_path, {"train": [0, 1], "test": [0, 1, 1], "validation": [1]}))
    _, splits = read_image_table(None, folder)
    assert {name: len(images) for name, images in splits.items()} == {"train": 2, "test": 3, "validation": 1}
    _, splits = read_image_table(None, folder, test_split="validation")
    assert {name: len(images) for name, images in splits.items()} == {"train": 2, "test": 1}  # test may be unlabelled


def test_images_without_a_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [{"bytes": picture(k), "path": None} for k in range(3)], [0, 1, 0])
    _, splits = read_image_table(None, str(tmp_path))
    assert names_of(splits["train"]) == ["train 0", "train 1", "train 2"]


def test_faults(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "good", {"train": [0, 1, 0, 1], "test": [-1, -1]}, ("ant", "bee"))

    def fails(message: str, data_dir: Path | None = folder, hub_id: str | None = None, **changes: Any) -> None:
        for read in (read_image_table, lambda *place, **words: read_image_stream(*place, buffer=4, **words)):
            with pytest.raises(ValueError, match=message):
                read(hub_id, None if data_dir is None else str(data_dir), **changes)

    fails("Give `hub_id`, a data set of the hub, or `data_dir`", data_dir=None)
    fails(r"class indices below 2 as labels, but sample 0 of its test split has -1")
    fails("has no split named 'dev', but train, test.* with `test_split`; a folder's", test_split="dev")
    fails("has no split named 'dev', but .* with `train_split`", train_split="dev")
    fails("`test_split` must not be the training split, 'train'", test_split="train")
    fails("no column 'img'.*, but image, label.* `image_column`", image_column="img")
    fails("no column 'fine'.*, but .* with `label_column`", label_column="fine")
    fails("must hold class indices.* as labels, but sample 0 of its train split has", label_column="image")
    (tmp_path / "empty").mkdir()
    fails("cannot be read as", tmp_path / "empty")
    with pytest.raises(
        ValueError, match=r"must hold images in 'label' .*, but holds int64\. Name another .*`image_col"
    ):
        read_small_images(None, str(folder), image_column="label", splits=("train",))
    with pytest.raises(ValueError, match=r"nowhere' is no folder\. Leave it out to read a/b from the hub"):
        read_image_table("a/b", "nowhere")
    null = write_hub(tmp_path / "null", {"train": [0, 1, None, 1], "test": [0]})
    fails("sample 2 of its train split has None", null)


@pytest.mark.parametrize("stream", [False, True])
def test_the_gated_hub(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Without a token, and with one of somebody who has not accepted the terms."""
    import datasets

    reasons = iter(["is a gated dataset on the Hub. You must be authenticated", "GatedRepoError: 403", "no route"])

    def refused(source: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{source}' {next(reasons)}")

    monkeypatch.setattr(datasets, "load_dataset_builder" if stream else "load_dataset", refused)
    words = {"buffer": 4} if stream else {}
    read: Callable[..., Any] = read_image_stream if stream else read_image_table
    where = "https://huggingface.co/datasets/some/images"
    for _ in range(2):
        with pytest.raises(ConnectionError, match=rf"'some/images' .* Accept them at {where}, then .*set HF_TOKEN"):
            read("some/images", **words)
    with pytest.raises(ConnectionError, match=r"'some/images' could not be loaded .*no route"):
        read("some/images", **words)


class TestSmallImages:
    def test_only_what_is_asked_for_is_decoded(self, tmp_path: Path) -> None:
        images = [{"bytes": b"no picture" if k == 2 else picture(5 * k), "path": None} for k in range(4)]
        write_parquet(tmp_path / "train-0.parquet", images, [0, 1, 1, 0], ("ant", "bee"))
        write_parquet(tmp_path / "test-0.parquet", images[:2], [1, 0], ("ant", "bee"))
        splits, names = read_small_images(None, str(tmp_path))
        assert names == ["ant", "bee"]
        pixels = splits["train"].images(torch.tensor([3, 0]))
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (2, 6, 8, 3))
        assert pixels.float().mean((1, 2, 3)).round().tolist() == [15, 0]
        assert splits["train"].images(torch.tensor([], dtype=torch.long)).shape == (0, 0, 0, 3)
        with pytest.raises(ValueError, match=r"image 2 in 'image' cannot be read \(.*\)\. Repair or drop it"):
            splits["train"].images()

    def test_an_image_that_comes_out_black_is_reported_once(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = []
        for values in (np.arange(48) * 5, np.arange(48) * 80, np.arange(48) * 1300):  # 8, 12 and 16 bits, stored as 16
            Image.fromarray(values.reshape(6, 8).astype(np.uint16)).save(file := io.BytesIO(), "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        write_parquet(tmp_path / "train-0.parquet", images, [0, 1, 1])
        splits, _ = read_small_images(None, str(tmp_path), splits=("train",))
        capsys.readouterr()
        assert splits["train"].images().amax((1, 2, 3)).tolist() == [0, 14, 238]
        said = capsys.readouterr().err
        assert said.count("Warning") == 1
        assert "image 0, stored as I;16, has one colour only; further ones are not reported." in said

    def test_faults(self, tmp_path: Path) -> None:
        other = [{"bytes": picture(0, size=size), "path": None} for size in ((8, 6), (8, 6), (5, 4))]
        write_parquet(tmp_path / "train-0.parquet", other, [0, 1, 1])
        with pytest.raises(ValueError, match="has no split named 'test', but train"):
            read_small_images(None, str(tmp_path))
        splits, _ = read_small_images(None, str(tmp_path), splits=("train",))
        with pytest.raises(
            ValueError, match=r"image 2 is 5x4, the first is 8x6\. A set held in one tensor needs image"
        ):
            splits["train"].images()
        with pytest.raises(ValueError, match="Give `hub_id`"):
            read_small_images(None)
        with pytest.raises(ValueError, match="has no column 'img'"):
            read_small_images(None, str(tmp_path), image_column="img", splits=("train",))

    def test_the_subset_of_cifar_100(self, root: Path) -> None:
        """That of the literature, by its hash."""
        folder = root.parent / "shared" / "data" / "cifar100"
        if not folder.is_dir():
            pytest.skip("CIFAR-100 is not here")
        splits, names = read_small_images(None, str(folder), image_column="img", label_column="fine_label")
        chosen = ltaug.subsample(splits["train"].labels, ltaug.exponential_counts(500, 100, 100))
        assert ltaug.index_hash(chosen).startswith("8222d7cf6759")
        assert names[:2] == ["apple", "aquarium_fish"]
        assert splits["train"].images(chosen[:3]).shape == (3, 32, 32, 3)


def test_metadata_of_the_hub_are_not_needed(tmp_path: Path) -> None:
    """A file that says by itself what its columns are, and one that does not."""
    write_hub(tmp_path, {"train": [0, 1, 1]}, ("ant", "bee"))
    named, _ = read_image_table(None, str(tmp_path))
    path = tmp_path / "train-0.parquet"
    table = parquet.read_table(path)
    assert b"huggingface" in table.schema.metadata
    assert json.loads(table.schema.metadata[b"huggingface"])
    parquet.write_table(table.replace_schema_metadata({}), path)
    unnamed, splits = read_image_table(None, str(tmp_path))
    assert (named, unnamed) == (["ant", "bee"], ["0", "1"])
    assert np.array_equal(splits["train"].labels, [0, 1, 1])
