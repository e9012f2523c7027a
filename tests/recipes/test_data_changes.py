"""Data that change between a run and its resumption: whatever it is, the run is refused, and stays as it was."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import soundfile
from PIL import Image
from pyarrow import parquet
from recipe_support import ROOT, Recipe, contents, copy_recipe, imported, tiny_model
from test_image_processes import TINY

from ltaug.errors import UserError

Change = Callable[[Path], Any]
Kind = tuple[Recipe, Path, Path, dict[str, Any]]
"""A recipe, its data, a run of an epoch, and the settings of it."""


def encode(pixels: np.ndarray[Any, Any]) -> bytes:
    """An uncompressed picture, whose size says nothing of its content."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "BMP")
    return file.getvalue()


# --- a table of images: every pixel counts ----------------------------------------------------------------------------


def in_table(name: str, change: Callable[[list[bytes], list[int]], Any]) -> Change:
    """A change to the images and labels of a parquet file."""

    def apply(folder: Path) -> None:
        table = parquet.read_table(folder / name)
        images, labels = [each["bytes"] for each in table["img"].to_pylist()], table["label"].to_pylist()
        change(images, labels)
        write_table(folder / name, images, labels)

    return apply


def write_table(path: Path, images: list[bytes], labels: list[int], column: str = "img") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pyarrow.table({column: [{"bytes": each, "path": None} for each in images], "label": labels}), path
    )


def inverted(images: list[bytes], labels: list[int]) -> None:
    images[:] = [encode(255 - np.asarray(Image.open(io.BytesIO(each)))) for each in images]


def one_pixel(images: list[bytes], labels: list[int]) -> None:
    pixels = np.array(Image.open(io.BytesIO(images[3])))
    pixels[2, 3, 1] ^= 1
    images[3] = encode(pixels)


def swapped_classes(images: list[bytes], labels: list[int]) -> None:
    labels[:] = [{0: 1, 1: 0}.get(each, each) for each in labels]


def reordered(images: list[bytes], labels: list[int]) -> None:
    a, b = [k for k, each in enumerate(labels) if each == 0][:2]
    images[a], images[b] = images[b], images[a]


def one_more(images: list[bytes], labels: list[int]) -> None:
    images.append(images[0])
    labels.append(labels[0])


def exchanged(folder: Path) -> None:
    train, test = folder / "train.parquet", folder / "test.parquet"
    train.rename(folder / "kept")
    test.rename(train)
    (folder / "kept").rename(test)


TABLE: dict[str, Change] = {
    "all training pixels": in_table("train.parquet", inverted),
    "all test pixels": in_table("test.parquet", inverted),
    "one bit of a training image": in_table("train.parquet", one_pixel),
    "one bit of a test image": in_table("test.parquet", one_pixel),
    "two classes swapped in training": in_table("train.parquet", swapped_classes),
    "two classes swapped in the test": in_table("test.parquet", swapped_classes),
    "two images of a class exchanged": in_table("train.parquet", reordered),
    "one training image more": in_table("train.parquet", one_more),
    "one test image more": in_table("test.parquet", one_more),
    "training and test exchanged": exchanged,
}


# --- folders of images: names, order and sizes count ------------------------------------------------------------------


def renamed_to_another_order(folder: Path) -> None:
    """As many files of the same names, the contents of two of them exchanged."""
    a, b = sorted((folder / "train" / "c1").iterdir())[:2]
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)


FOLDER: dict[str, Change] = {
    "a class renamed": lambda folder: [
        (folder / split / "c2").rename(folder / split / "d2") for split in ("train", "test")
    ],
    "a file renamed": lambda folder: (folder / "train/c0/0.bmp").rename(folder / "train/c0/zero.bmp"),
    "files renamed to another order": renamed_to_another_order,
    "a file moved to another class": lambda folder: (folder / "train/c0/0.bmp").rename(folder / "train/c1/99.bmp"),
    "a file less": lambda folder: (folder / "train/c0/0.bmp").unlink(),
    "a test file less": lambda folder: (folder / "test/c0/0.bmp").unlink(),
    "a file of another size": lambda folder: (folder / "train/c0/0.bmp").write_bytes(encode(np.zeros((9, 9, 3)))),
    "a class more": lambda folder: [shutil.copytree(folder / s / "c2", folder / s / "c3") for s in ("train", "test")],
}


# --- sounds: every sample counts --------------------------------------------------------------------------------------


def louder(folder: Path) -> None:
    file = folder / "c1" / "00.wav"
    sound, rate = soundfile.read(file)
    soundfile.write(file, sound * 0.5, rate)


SOUNDS: dict[str, Change] = {
    "a sound at half its level": louder,
    "a sound renamed": lambda folder: (folder / "c1" / "00.wav").rename(folder / "c1" / "zz.wav"),
    "a sound less": lambda folder: (folder / "c1" / "00.wav").unlink(),
    "a class renamed": lambda folder: (folder / "c1").rename(folder / "b1"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """By name."""
    folder, random, made = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0), dict[str, Kind]()

    def pixels() -> np.ndarray[Any, Any]:
        return random.integers(0, 256, (8, 8, 3))

    def make(kind: str) -> Kind:
        data = folder / kind / "data"
        if kind == "table":
            for split, each in (("train", 12), ("test", 4)):
                labels = [k for k in range(10) for _ in range(each)]
                write_table(data / f"{split}.parquet", [encode(pixels()) for _ in labels], labels)
            script, more = (
                copy_recipe(folder / kind / "recipe", tiny_model()),
                {"dataset": "cifar10", "profile": "natural"},
            )
        elif kind == "folder":
            for split, each in (("train", 8), ("test", 3)):
                for label in range(3):
                    for k in range(each):
                        file = data / split / f"c{label}" / f"{k}.bmp"
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(encode(pixels()))
            script = copy_recipe(folder / kind / "recipe", TINY, recipe="imagenet_lt")
            more = {"dataset": "folder", "image_size": 16, "workers": 0}
        else:
            for label in range(3):
                for k in range(6):
                    file = data / f"c{label}" / f"{k:02d}.wav"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(file, random.uniform(-0.5, 0.5, 4000), 4000)
            script, more = (
                ROOT / "recipes" / "esc50_lt",
                {"dataset": "folder", "sample_rate": 4000, "crop_length": 2000},
            )
            more |= {"model": "mel", "backbone": "test_resnet", "mels": 16, "profile": "natural", "test_per_class": 2}
        settings = {"protocol": None, "data_dir": data, "batch_size": 4, "epochs": 1, **more}
        with imported(script) as recipe:
            return recipe, data, recipe.train("erm", folder / kind / "run", **settings), settings

    def once(kind: str) -> Kind:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return once


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, all_of in (("table", TABLE), ("folder", FOLDER), ("sounds", SOUNDS)) for name in all_of],
)
def test_a_change_is_refused(runs: Callable[[str], Kind], tmp_path: Path, kind: str, name: str) -> None:
    recipe, data, run, settings = runs(kind)
    change = {"table": TABLE, "folder": FOLDER, "sounds": SOUNDS}[kind][name]
    kept, before = tmp_path / "kept", contents(run)
    shutil.copytree(data, kept)
    try:
        change(data)
        with imported(recipe.script.parent) as again, pytest.raises(UserError, match=r"differ.* from its data\.json"):
            again.train("erm", run, **(settings | {"epochs": 2, "resume": True}))
    finally:
        shutil.rmtree(data)
        shutil.move(kept, data)
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["table", "folder", "sounds"])
def test_no_change_is_none(runs: Callable[[str], Kind], tmp_path: Path, kind: str) -> None:
    """The same data, written again and with other times, are resumed."""
    recipe, data, run, settings = runs(kind)
    again, copied = tmp_path / "run", tmp_path / "data"
    shutil.copytree(run, again)
    shutil.copytree(data, copied, copy_function=shutil.copyfile)
    with imported(recipe.script.parent) as module:
        module.train("erm", again, **(settings | {"epochs": 2, "resume": True}))
    assert (again / "summary.json").is_file()
