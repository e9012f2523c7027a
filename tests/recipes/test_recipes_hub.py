"""The hub's paths of the recipes, by the real client: what each reads, faults on the way, and shared subsets."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hub_server import HubServer, asked_by_this_process, serving
from PIL import Image

import ltaug.hub
import ltaug.hub._client
import ltaug.hub._data
from ltaug import index_hash
from ltaug.errors import UserError
from ltaug.loaders.sharing import SharedData, SharedSplit
from ltaug.loaders.tables import arrow_column
from ltaug.report import _card
from ltaug.scripts import find_recipe, loaded_script

WNIDS = ("n01440764", "n01443537")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serving() as server, asked_by_this_process(server, tmp_path / "home"):
        server.patch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        server.patch.setattr(ltaug.hub._client.time, "sleep", lambda seconds: None)
        server.patch.setattr(ltaug.hub._client, "PATIENCE", 5.0)
        server.patch.setattr(_card, "_drawn", lambda draw, path, obliged: path.write_bytes(b"PNG") > 0)
        yield server


def picture(seed: int, size: int = 32, mode: str = "RGB") -> dict[str, Any]:
    values = np.random.default_rng(seed).integers(0, 4 if mode == "L" else 255, (size, size, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(values[..., 0] if mode == "L" else values).save(data, format="PNG")
    return {"bytes": data.getvalue(), "path": f"{seed}.png"}


def sound(seed: int) -> dict[str, Any]:
    data = io.BytesIO()
    soundfile.write(data, np.random.default_rng(seed).uniform(-0.5, 0.5, 4000), 8000, format="WAV")
    return {"bytes": data.getvalue(), "path": f"{seed}.wav"}


def table(columns: dict[str, Any], **features: Any) -> bytes:
    """A parquet file as the hub has it."""
    rows = datasets.Dataset.from_dict(columns)
    rows = rows.cast(datasets.Features({name: features.get(name, kind) for name, kind in rows.features.items()}))
    data = io.BytesIO()
    rows.to_parquet(data)
    return data.getvalue()


def small_images(label: str) -> dict[str, bytes]:
    names, numbers = datasets.ClassLabel(names=["ant", "bee", "cat"]), itertools.count()
    return {
        f"plain_text/{split}-00000-of-00001.parquet": table(
            {"img": [picture(next(numbers)) for _ in labels], label: labels}, img=datasets.Image(), **{label: names}
        )
        for split, labels in (("train", [0] * 20 + [1] * 12 + [2] * 8), ("test", [0, 1, 2]))
    }


def sounds() -> dict[str, bytes]:
    places = [(fold, target) for fold in (1, 2, 5) for target in (0, 10, 20) for _ in range(3)]
    columns = {
        "filename": [f"{fold}-{target}-{k}.wav" for k, (fold, target) in enumerate(places)],
        "fold": [fold for fold, _ in places],
        "target": [target for _, target in places],
        "category": [{0: "dog", 10: "sea", 20: "fire"}[target] for _, target in places],
        "audio": [sound(k) for k in range(len(places))],
    }
    return {"data/train-00000-of-00001.parquet": table(columns)}


def images() -> dict[str, bytes]:
    names = datasets.ClassLabel(names=["ant", "bee"])
    return {
        f"data/{split}-00000-of-00001.parquet": table(
            {"image": [picture(100 * len(split) + k, 48) for k in range(len(labels))], "label": labels},
            image=datasets.Image(),
            label=names,
        )
        for split, labels in (("train", [0] * 12 + [1] * 6), ("validation", [0, 1, 1]))
    }


def imagenet() -> dict[str, bytes]:
    """Names of files are in the paths of the images, as <stem>_<wnid>.JPEG; the test split has no labels."""
    names = datasets.ClassLabel(names=["tench", "goldfish"])
    found = {}
    for split, labels in (("train", [0] * 6 + [1] * 6), ("validation", [0, 1]), ("test", [-1])):
        rows = [picture(k, 40) | {"path": f"{split[:1]}_{k}_{WNIDS[label]}.JPEG"} for k, label in enumerate(labels)]
        found[f"data/{split}-00000-of-00001.parquet"] = table(
            {"image": rows, "label": labels}, image=datasets.Image(), label=names
        )
    return found


def imagenet_lists(folder: Path) -> str:
    lists = {
        "train": [f"train/{WNIDS[k // 6]}/t_{k}.JPEG {k // 6}" for k in (0, 2, 3, 7)],
        "val": [f"train/{WNIDS[k // 6]}/t_{k}.JPEG {k // 6}" for k in (1, 8)],
        "test": [f"val/{WNIDS[k]}/v_{k}.JPEG {k}" for k in (0, 1)],
    }
    folder.mkdir(exist_ok=True)
    for part, lines in lists.items():
        (folder / f"ImageNet_LT_{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return str(folder)


def scenes() -> dict[str, bytes]:
    kinds = {name: datasets.Image() for name in ("rgb", "depth", "labels")}
    return {
        f"data/{split}-00000-of-00001.parquet": table(
            {
                "rgb": [picture(k, 32) for k in range(number)],
                "depth": [picture(k + 50, 32, "L") for k in range(number)],
                "labels": [picture(k + 90, 32, "L") for k in range(number)],
            },
            **kinds,
        )
        for split, number in (("train", 5), ("test", 2), ("fog", 2))
    }


CASES: dict[str, tuple[str, str, Callable[[], dict[str, bytes]], dict[str, Any]]] = {
    "cifar10": (
        "cifar_lt",
        "uoft-cs/cifar10",
        lambda: small_images("label"),
        {"dataset": "cifar10", "imbalance_ratio": 4},
    ),
    "cifar100": ("cifar_lt", "uoft-cs/cifar100", lambda: small_images("fine_label"), {"imbalance_ratio": 4}),
    "esc50": ("esc50_lt", "ashraq/esc50", sounds, {"imbalance_ratio": 3, "sample_rate": 8000, "crop_length": 900}),
    "sounds": (
        "esc50_lt",
        "ada/noises",
        sounds,
        {
            "dataset": "hub",
            "hub_id": "ada/noises",
            "label_column": "category",
            "imbalance_ratio": 3,
            "sample_rate": 8000,
        },
    ),
    "imagenet_lt": ("imagenet_lt", "ILSVRC/imagenet-1k", imagenet, {"image_size": 32}),
    "images": ("imagenet_lt", "ada/insects", images, {"dataset": "hub", "hub_id": "ada/insects", "image_size": 32}),
    "stream": (
        "imagenet_lt",
        "ada/insects",
        images,
        {"dataset": "hub", "hub_id": "ada/insects", "image_size": 32, "stream": True, "stream_buffer": 4},
    ),
    "inaturalist": (
        "inaturalist",
        "ada/insects",
        images,
        {"dataset": "hub", "hub_id": "ada/insects", "image_size": 32},
    ),
    "scenes": (
        "synthia_rgbd",
        "ada/roads",
        scenes,
        {"dataset": "hub", "hub_id": "ada/roads", "height": 32, "width": 32},
    ),
}
FOUND = {
    "cifar10": [20, 10, 5],
    "cifar100": [20, 10, 5],
    "esc50": [6, 3, 2],
    "sounds": [6, 3, 2],
    "imagenet_lt": [3, 1],
    "images": [12, 6],
    "stream": [12, 6],
    "inaturalist": [12, 6],
}


def load(name: str, tmp_path: Path, **more: Any) -> Any:
    recipe, _, _, settings = CASES[name]
    settings = settings | more
    if name == "imagenet_lt" and "list_dir" not in settings:
        settings["list_dir"] = imagenet_lists(tmp_path / "lists")
    if recipe == "esc50_lt":
        settings["cache_dir"] = "none"
    with loaded_script(find_recipe(recipe) / "train.py") as script:
        return script.load_data(sys.modules["data"].DataSettings(**settings))


@pytest.mark.parametrize("name", CASES)
def test_every_path(name: str, hub: HubServer, tmp_path: Path) -> None:
    """Without a login; refused with a line where it is gated, resumed where a transfer breaks off, busy for a while."""
    _, place, make, _ = CASES[name]
    hub.patch.delenv("HF_TOKEN")
    repo = hub.add(place, make(), "dataset", gated=True)
    where = f"Accept them at {hub.endpoint}/datasets/{place}, then log in with `hf auth login` or set HF_TOKEN"
    line = f"The data set '{place}' is open to those only who have accepted its terms. {where}"
    with pytest.raises(ConnectionError, match=re.escape(line)):
        load(name, tmp_path)
    repo.gated = False
    hub.fails("broken", "GET /lfs", times=1)
    hub.fails(503, "GET /api", times=1)
    data = load(name, tmp_path)
    assert hub.asked("GET /lfs")
    if name == "scenes":
        assert set(data.sets) == {"train", "held_out", "test", "fog"}
    else:
        assert data.class_counts.tolist() == FOUND[name]


@pytest.mark.parametrize("name", ["esc50", "stream"])
def test_faults_that_stay(name: str, hub: HubServer, tmp_path: Path) -> None:
    _, place, make, _ = CASES[name]
    what = f"The data set '{place}' could not be loaded from the hub: "
    with pytest.raises(ConnectionError, match=f"There is no data set '{place}' on the hub that this account may read"):
        load(name, tmp_path)
    hub.add(place, make(), "dataset")
    for kind, line in (
        (503, f"{what}{hub.endpoint} is busy (503), also when asked again. Try it later. Offline ways: "),
        ("broken", f"{what}the transfer broke off, also when it was resumed. The same command goes on with it."),
    ):
        hub.fails(kind, "GET /lfs")
        with pytest.raises(ConnectionError, match=re.escape(line)):
            load(name, tmp_path)
        hub.faults.clear()


def test_a_stream_that_stops_in_the_middle(hub: HubServer, tmp_path: Path) -> None:
    """The labels were read, an hour of training is over, and then the hub is busy: a line, after it was asked again."""
    _, place, make, _ = CASES["stream"]
    hub.add(place, make(), "dataset")
    shards = load("stream", tmp_path).sets["train"].shards
    hub.fails("broken", "GET /lfs", times=1)
    assert len(shards.read(0)) == 18
    hub.fails(503, "GET /lfs")
    with pytest.raises(ConnectionError, match=f"'{place}' could not be loaded from the hub: .* is busy"):
        shards.read(0)


SHARED = {
    "cifar10": ("cifar_lt", {"dataset": "cifar10", "hub_id": "ada/lt", "profile": "natural"}),
    "sounds": ("esc50_lt", {"dataset": "hub", "hub_id": "ada/lt", "profile": "natural", "label_column": "category"}),
    "images": ("imagenet_lt", {"dataset": "hub", "hub_id": "ada/lt", "profile": "natural"}),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_subset_is_shared(name: str, hub: HubServer, tmp_path: Path) -> None:
    """What others read has the same samples in the same order, byte by byte, the same classes, and the same hash."""
    recipe, place, make, settings = CASES[name]
    hub.add(place, make(), "dataset")
    words = [f"{key}={value}" for key, value in settings.items()]
    words += ["profile=exponential", "imbalance_ratio=3"] if name == "images" else []
    words += ["cache_dir=none"] if recipe == "esc50_lt" else []
    assert "/datasets/ada/lt/commit/" in ltaug.hub.push_data("ada/lt", recipe=recipe, settings=words, license="mit")
    repo = hub.repos["dataset", "ada/lt"]
    subset = json.loads(repo.files()["subset.json"])
    assert len(repo.messages) == 2
    assert not {"image_size", "crop_padding", "sample_rate"} & set(subset["settings"])  # which choose no sample
    assert "imbalance_ratio" in subset["settings"]
    mine = load(name, tmp_path, **({"profile": "exponential", "imbalance_ratio": 3} if name == "images" else {}))
    assert subset["subset_sha256"] == subset["training_indices"] == mine.index_hash

    rows = datasets.load_dataset("ada/lt")
    assert index_hash(rows["train"]["source_index"][:]) == mine.index_hash
    assert mine.index_hash in rows["train"].info.description
    sample, label = rows["train"].column_names[:2]
    assert rows["train"].features[label].names == mine.class_names
    stored = [file["bytes"] for file in arrow_column(rows["train"], sample).to_pylist()]
    if name != "cifar10":  # whose pixels are encoded anew
        full = arrow_column(datasets.load_dataset(place)["train"], sample).to_pylist()
        assert stored == [full[k]["bytes"] for k in rows["train"]["source_index"][:]]

    _, shared = SHARED[name]
    theirs = load(name, tmp_path, **shared, imbalance_ratio=100)
    assert theirs.index_hash == mine.index_hash
    assert theirs.class_names == mine.class_names
    assert torch.equal(theirs.train_labels, mine.train_labels)
    assert theirs.splits == mine.splits
    if name == "cifar10":
        hashes, others = (each.fingerprint() for each in (mine, theirs))
        assert hashes.pop("class_counts").tolist() == others.pop("class_counts").tolist()
        assert hashes == others
        assert theirs.preprocessing == mine.preprocessing
    elif name == "sounds":
        assert all(
            torch.equal(a, b)
            for split in mine.clips
            for a, b in zip(mine.clips[split], theirs.clips[split], strict=True)
        )
    else:
        assert [mine.sets["train"].images.encoded(k)[0] for k in range(len(stored))] == stored


def test_what_is_not_long_tailed_is_not_called_so(tmp_path: Path) -> None:
    """And names of files that are no UTF-8 are written as text."""
    rows, names = torch.arange(4), ["ant", "bee"]
    train = SharedSplit(rows, rows % 2, lambda k: (b"PNG", os.fsdecode(b"pictures/caf\xe9.png")))
    shared = SharedData("image", ("image", "label"), names, {"train": train})
    words = {"repo_id": "ada/x", "recipe": "imagenet_lt", "source": "insects", "settings": {"profile": "natural"}}
    words |= {"class_names": names, "class_counts": [2, 2], "rows": {"train": 4}}
    _card.write_data_card(tmp_path, "", words | {"subset_sha256": "f", "training_indices": "f"}, shared)
    said = (tmp_path / "README.md").read_text()
    assert "2 classes, 4 training samples,\n2 a class. Made" in said
    assert not [word for word in ("long-tailed", "made, not met", "imbalance ratio") if word in said]
    (tmp_path / "data").mkdir()
    ltaug.hub._data._write(tmp_path / "data", "train", train, shared, ltaug.hub._data._features(shared))
    stored = datasets.Dataset.from_parquet(str(tmp_path / "data" / "*.parquet"), cache_dir=str(tmp_path / "cache"))
    assert arrow_column(stored, "image").to_pylist()[0] == {"bytes": b"PNG", "path": "café.png"}


def test_settings_that_are_wrong(hub: HubServer, tmp_path: Path) -> None:
    def fails(line: str, recipe: str = "cifar_lt", *settings: str, folder: Path = tmp_path / "out") -> None:
        with pytest.raises(UserError, match=line):
            ltaug.hub.write_data_folder(folder, "ada/lt", recipe=recipe, settings=settings)

    fails("there is no recipe 'cifar', did you mean 'cifar_lt'", "cifar")
    fails("'imbalance_ratio' is no setting: write SETTING=VALUE", "cifar_lt", "imbalance_ratio")
    fails("imbalance", "cifar_lt", "imbalance=3")
    fails(
        "cannot be shared: what its load_data returns has no `shared`", "synthia_rgbd", "dataset=hub", "hub_id=ada/none"
    )
    (tmp_path / "file").touch()
    fails("exists already", folder=tmp_path)
