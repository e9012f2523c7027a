"""Images in: official and other JSON lists and what they are matched with, folders, held-out images, of inaturalist."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from recipe_support import ROOT, imported

import ltaug

RECIPE = ROOT / "recipes" / "inaturalist"
CATEGORIES = (40, 3, 7)
"""Neither in order nor without gaps."""


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with imported(RECIPE, "config", "data", "lists") as found:
        yield found


@pytest.fixture
def load(modules: SimpleNamespace) -> Callable[..., Any]:
    """load_data with some settings."""

    def run(**changes: object) -> Any:
        changes = {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}
        return modules.data.load_data(modules.config.Config(**changes))

    return run


def picture(number: int, mode: str = "RGB") -> bytes:
    """A small picture that tells its number by its grey."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, number, number)).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def number_of(image: Image.Image) -> int:
    assert image.mode == "RGB"
    return round(float(np.asarray(image).mean()))


def write(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def content(images: int, begin: int = 0, categories: tuple = CATEGORIES) -> dict:
    """As the official files are; image k is of the k-th category, modulo their number."""
    return {
        "info": {"year": 2018},
        "licenses": [{"id": 1, "name": "CC"}],
        "categories": [
            {"id": k, "name": f"name{k}", "supercategory": "Plantae", "kingdom": "Plantae", "class": "Magnoliopsida"}
            for k in categories
        ],
        "images": [
            {
                "id": k,
                "file_name": f"train_val2018/Plantae/{k % 3}/{k:032x}.jpg",
                "rights_holder": "Noël",
                "width": 8,
                "height": 6,
                "license": 1,
            }
            for k in range(begin, begin + images)
        ],
        "annotations": [
            {"id": k, "image_id": k, "category_id": categories[k % len(categories)]}
            for k in reversed(range(begin, begin + images))
        ],
    }


def archive(name: str, value: object) -> bytes:
    """A .tar.gz of a JSON file."""
    data, file = json.dumps(value, ensure_ascii=False).encode(), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as packed:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        packed.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tree(folder: Path, *contents: dict) -> Path:
    """The images of JSON files."""
    for each in contents:
        for image in each["images"]:
            write(folder / image["file_name"], picture(10 * image["id"]))
    return folder


def the_seven(data: SimpleNamespace) -> None:
    """Seven training and three test images of `content`, classes in the order of their ids."""
    assert data.train.labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert data.class_counts.tolist() == [2, 2, 3]
    assert data.test.labels.tolist() == [0, 1, 2]
    assert [number_of(data.train[k][0]) for k in range(7)] == [10 * k for k in range(7)]
    assert [number_of(data.test[k][0]) for k in range(3)] == [70, 80, 90]
    assert data.val is None
    assert data.index_hash == ltaug.index_hash(range(7))


class TestINaturalist2018:
    TRAIN, TEST = content(7), content(3, 7)

    @pytest.mark.parametrize("packed", [False, True])
    def test_lists_and_tree(
        self, load: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool
    ) -> None:
        """Beside the images; then in a folder of their own, with the species' names."""
        tree(tmp_path, self.TRAIN, self.TEST)
        for folder in (tmp_path, tmp_path / "lists"):
            for name, value in (("train2018.json", self.TRAIN), ("val2018.json", self.TEST)):
                if packed:
                    write(folder / f"{name}.tar.gz", archive(name, value))
                else:
                    write(folder / name, json.dumps(value, ensure_ascii=False))
        data = load(data_dir=tmp_path)
        the_seven(data)
        assert data.class_names == ["name3", "name7", "name40"]
        assert (
            "Warning: these are not the published lists of iNaturalist 2018, and results on them do not compare with "
            "published ones: 3 classes instead of 8142, 3 images in the largest class instead of 1000, 7 train images "
            "instead of 437513, 3 test images instead of 24426.\n" in capsys.readouterr().err
        )
        names = [{"id": 7, "name": "Bellis perennis"}, {"id": 3, "name": "Abies alba"}, {"id": 99, "name": "other"}]
        write(tmp_path / "lists" / "categories.json", json.dumps(names))
        data = load(data_dir=tmp_path, list_dir=tmp_path / "lists")
        the_seven(data)
        assert data.class_names == ["Abies alba", "Bellis perennis", "name40"]

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"`--dataset inaturalist2018` needs `--data_dir`, the folder that has tr"):
            load()
        with pytest.raises(ValueError, match="`data_dir` 'nowhere' is no folder"):
            load(data_dir="nowhere")
        write(tmp_path / "train2018.json", json.dumps(self.TRAIN))
        with pytest.raises(
            ValueError, match=r"has no val2018\.json, nor val2018\.json\.tar\.gz\. Leave it out to fetch"
        ):
            load(data_dir=tmp_path, list_dir=tmp_path)
        write(tmp_path / "val2018.json", json.dumps(self.TEST))
        write(tmp_path / "categories.json", '{"images": []}')
        with pytest.raises(ValueError, match=r"categories\.json` must be a JSON list of categories \(id, name\), but"):
            load(data_dir=tmp_path)


class TestDownload:
    @pytest.fixture
    def web(self, modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """The organisers' host, with small files whose sums and counts are the published ones."""
        values = {"train": content(7), "test": content(3, 7), "names": [{"id": 3, "name": "Abies alba"}]}
        files, served = {}, {}
        for part, file in modules.lists.INATURALIST.files.items():
            data = served[f"{modules.lists.ADDRESS}/{file.name}.tar.gz"] = archive(file.name, values[part])
            files[part] = modules.lists.File(file.name, hashlib.md5(data).hexdigest() if file.md5 else "")
        official = modules.lists.Official("iNaturalist 2018", 3, 3, 2, {"train": 7, "test": 3}, files)
        web = SimpleNamespace(official=official, served=served, asked=[], error=None)

        def urlopen(address: str, timeout: float) -> io.BytesIO:
            web.asked.append(address.rpartition("/")[2])
            if web.error:
                raise web.error
            return io.BytesIO(served[address])

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        web.read = lambda: modules.lists.read_inaturalist(web.official, None, str(tmp_path))
        return web

    def test_once(self, web: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            lists, names = web.read()
            assert lists["train"].labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
            assert lists["test"].paths[0] == "train_val2018/Plantae/1/00000000000000000000000000000007.jpg"
            assert names == ["Abies alba", "name7", "name40"]
        assert web.asked == ["train2018.json.tar.gz", "val2018.json.tar.gz", "categories.json.tar.gz"]
        assert {path.name for path in (tmp_path / "cache" / "lists").iterdir()} == set(web.asked)
        assert capsys.readouterr().err == ""
        damaged = tmp_path / "cache" / "lists" / "train2018.json.tar.gz"
        damaged.write_bytes(damaged.read_bytes()[:-9])
        web.read()
        assert web.asked[3:] == ["train2018.json.tar.gz"]

    def test_what_can_go_wrong(self, web: SimpleNamespace, tmp_path: Path) -> None:
        for web.error, said in ((urllib.request.URLError("no route"), "no route"), (IncompleteRead(b""), "Incomplete")):
            with pytest.raises(
                ConnectionError,
                match=rf"train2018\.json of iNaturalist 2018 could not be downloaded from https://ml-\S+: .*{said}.*"
                r"`--list_dir FOLDER` with train2018\.json, val2018\.json, categories\.json, unpacked or as \.tar\.gz",
            ):
                web.read()
        web.error = None
        address = next(address for address in web.served if "val2018" in address)
        web.served[address] += b"more"
        with pytest.raises(ConnectionError, match=r"its MD5 sum is [0-9a-f]{32} instead of [0-9a-f]{32}\. Offline"):
            web.read()
        assert [path.name for path in (tmp_path / "cache" / "lists").iterdir()] == ["train2018.json.tar.gz"]

    def test_what_is_not_the_published_set_is_refused(self, web: SimpleNamespace) -> None:
        web.official = dataclasses.replace(web.official, largest=1000)
        with pytest.raises(
            ValueError,
            match=r"of iNaturalist 2018 are not the published ones: 3 images in the largest class instead of 1",
        ):
            web.read()


class TestJson:
    @pytest.fixture
    def read(self, load: Callable, tmp_path: Path) -> Callable[..., Any]:
        """load_data with two JSON files, whose images are there."""

        def run(train: dict | str, test: dict | str, **changes: object) -> Any:
            for name, value in (("train", train), ("test", test)):
                if isinstance(value, dict):
                    tree(
                        tmp_path,
                        {"images": [image for image in value.get("images", []) if {"id", "file_name"} <= image.keys()]},
                    )
                write(tmp_path / f"{name}.json", value if isinstance(value, str) else json.dumps(value))
            words = {"train_json": tmp_path / "train.json", "test_json": tmp_path / "test.json"}
            return load(**{"dataset": "json", "data_dir": tmp_path, **words, **changes})

        return run

    def test_any_two_files(self, read: Callable, capsys: pytest.CaptureFixture[str]) -> None:
        """A category without images, one that has no name, and boxes: two annotations of one image."""
        train, test = content(7), content(3, 7)
        train["categories"].append({"id": 5, "name": "nothing"})
        del train["categories"][1]["name"], test["categories"][1]["name"]
        train["annotations"].append({"image_id": 0, "category_id": 40, "bbox": [0, 0, 2, 2]})
        data = read(train, test)
        the_seven(data)
        assert data.class_names == ["3", "name7", "name40"]
        said = capsys.readouterr().err
        assert re.search(r"^Note: 1 of 4 categories of `.*train.json` have no images and are no classes\.$", said)

    def test_ids_may_be_words_and_names_occur_twice(self, read: Callable) -> None:
        categories = ("c", "a", "b")
        train, test = content(7, 0, categories), content(3, 7, categories)
        for each in (train, test):
            for entry in each["categories"][:2]:
                entry["name"] = "twin"
        data = read(train, test)
        the_seven(data)
        assert data.class_names == ["twin (a)", "nameb", "twin (c)"]

    def test_faults(self, read: Callable, load: Callable, tmp_path: Path) -> None:
        def fails(message: str, change: Callable[[dict, dict], object] = lambda train, test: None) -> None:
            train, test = content(7), content(3, 7)
            changed = change(train, test)
            with pytest.raises(ValueError, match=message):
                read(train, changed if isinstance(changed, str) else test)

        shape = r"test\.json` must be JSON with images \(id, file_name\), annotations .* \(id, name\), but: "
        fails(shape + r"Expecting value: line 1 column 13", lambda train, test: '{"images": [')
        fails(shape + r"it has no 'categories'", lambda train, test: '{"images": []}')
        fails(shape + r"it has no 'file_name'", lambda train, test: test["images"][2].pop("file_name") and None)
        fails(shape + r"it has no 'id'", lambda train, test: [test["images"][2].pop("id")])
        fails(shape + r"it has no 'image_id'", lambda train, test: [test["annotations"][1].pop("image_id")])
        fails(shape + r"it has no 'category_id'", lambda train, test: [test["annotations"][1].pop("category_id")])
        fails(r"test\.json` lists no images", lambda train, test: test.update(images=[]))
        path = r"train_val2018/Plantae/1/0+7\.jpg"
        fails(
            rf"test\.json`: 1 of 3 images have no annotation: {path}\.", lambda train, test: test["annotations"].pop()
        )
        fails(
            rf"test\.json`: 1 of 3 images have annotations of several categories: {path}\.",
            lambda train, test: test["annotations"].append({"image_id": 7, "category_id": 40}),
        )
        fails(
            rf"test\.json`: 1 of 3 images have a category that is not listed: {path}\.",
            lambda train, test: test["annotations"][2].update(category_id=41),
        )
        fails(
            r"`.*test\.json` and `.*train\.json` give other names to the same categories: 3 \(bee and name3\)\.",
            lambda train, test: test["categories"][1].update(name="bee"),
        )
        fails(
            r"2 of 5 images of `.*test\.json`, which has 5 categories, are of such as have no image in `.*train\.json`"
            r", which has 3: 50, 51\.",
            lambda train, test: test.update(content(5, 5, (*CATEGORIES, 50, 51))),
        )
        fails(r"is in `.*train\.json` and in `.*test\.json`\. An image", lambda train, test: test.update(content(3, 6)))
        fails(
            rf"test\.json` lists '{path}' twice",
            lambda train, test: test["images"][1].update(file_name=test["images"][0]["file_name"]),
        )
        single = content(3, 0, (3,)), content(3, 7, (3,))
        with pytest.raises(ValueError, match=r"There must be at least two classes, but there is 1: name3\."):
            read(*single)
        for setting in ("train_json", "test_json"):
            with pytest.raises(ValueError, match=f"`--dataset json` needs `--{setting}`, the file that lists its t"):
                read(content(7), content(3, 7), **{setting: None})
            with pytest.raises(ValueError, match=f"`{setting}` 'nothing.json' is no file"):
                read(content(7), content(3, 7), **{setting: "nothing.json"})
        with pytest.raises(ValueError, match=r"are of `dataset: json`, but `dataset` is digits\. Leave them out"):
            load(dataset="digits", train_json="train.json")
        packed = write(tmp_path / "empty.tar.gz", archive("readme.txt", "nothing"))
        with pytest.raises(ValueError, match=r"but: the archive has no JSON file in it\."):
            read(content(7), content(3, 7), test_json=packed)
        packed.write_bytes(packed.read_bytes()[:40])
        with pytest.raises(ValueError, match=r"empty\.tar\.gz` must be JSON"):
            read(content(7), content(3, 7), test_json=packed)

    def test_a_list_and_a_tree_that_disagree(self, read: Callable, load: Callable, tmp_path: Path) -> None:
        train, test = content(40), content(3, 42)
        read(train, test)
        paths = [image["file_name"] for image in train["images"]]
        gone = sorted({*paths[1::3], *paths[::8]}, key=paths.index)
        for path in gone:
            (tmp_path / path).unlink()
        again = {"dataset": "json", "data_dir": tmp_path} | {
            f"{part}_json": tmp_path / f"{part}.json" for part in ("train", "test")
        }
        with pytest.raises(
            ValueError,
            match=rf"^`data_dir` '.*' and `.*train\.json` disagree: {len(gone)} of 40 images are not there, among them "
            rf"all images of class 0 \(name3\)\. The first are {', '.join(gone[:10])}, \.\.\.\.$",
        ):
            load(**again)
        tree(tmp_path, train)
        (tmp_path / test["images"][0]["file_name"]).unlink()
        with pytest.raises(ValueError, match=r"test\.json` disagree: 1 of 3 images are not there, among them all"):
            load(**again)

    def test_nothing_is_decoded_while_loading_and_broken_images_are_replaced(
        self, read: Callable, load: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train, test = content(7), content(3, 7)
        read(train, test)
        paths = [tmp_path / image["file_name"] for image in train["images"]]
        noise = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise, "JPEG")
        paths[0].write_bytes(noise.getvalue()[:-900])
        paths[1].write_bytes(picture(11, "CMYK"))
        paths[2].write_bytes(picture(21, "L"))
        data = load(
            dataset="json", data_dir=tmp_path, train_json=tmp_path / "train.json", test_json=tmp_path / "test.json"
        )
        assert data.train.unreadable == 0
        assert [number_of(data.train[k][0]) for k in range(3)] == pytest.approx([30, 11, 21], abs=1)
        assert data.train.unreadable == 1
        said = capsys.readouterr().err
        assert said.count("cannot be read") == 1
        assert f"the image {train['images'][0]['file_name']!r} cannot be read (" in said
        for path in paths[1::3]:
            path.write_bytes(b"no picture")
        number, label = number_of(data.train[4][0]), data.train[4][1]
        assert label != int(data.train.labels[4])
        assert number == pytest.approx(10 * (5 if label == int(data.train.labels[5]) else 6), abs=1)

    def test_many_labels_take_little_time(self, modules: SimpleNamespace, tmp_path: Path) -> None:
        """A twentieth of iNaturalist 2018, in a twentieth of ten seconds."""
        train = write(tmp_path / "train.json", json.dumps(content(22_000)))
        test = write(tmp_path / "test.json", json.dumps(content(1_200, 22_000)))
        begin = time.process_time()
        lists, _ = modules.lists.read_json({"train": train, "test": test})
        assert ltaug.class_counts(lists["train"].labels).tolist() == [7333, 7333, 7334]
        assert time.process_time() - begin < 0.5


class TestFolder:
    def write(self, root: Path, sizes: dict[str, int], number: int = 0) -> Path:
        for name, size in sizes.items():
            for k in range(size):
                write(root / name / f"{k:02d}.jpg", picture(number := number + 5))
        return root

    @pytest.mark.parametrize("test", ["test", "val"])
    def test_splits(self, load: Callable, test: str, tmp_path: Path) -> None:
        self.write(tmp_path / "train", {"ant": 6, "bee": 3, "cat/deeper": 2})
        self.write(tmp_path / test, {"ant": 2, "cat": 1})
        for name in ("train/ant/._01.jpg", "train/ant/notes.txt", "train/.trash/00.jpg"):
            write(tmp_path / name)
        data = load(dataset="folder", data_dir=tmp_path)
        assert data.class_names == ["ant", "bee", "cat"]
        assert data.class_counts.tolist() == [6, 3, 2]
        assert list(data.train.names)[-1] == "cat/deeper/01.jpg"
        assert data.test.labels.tolist() == [0, 0, 2]
        assert list(data.test.names) == ["ant/00.jpg", "ant/01.jpg", "cat/00.jpg"]
        assert number_of(data.test[2][0]) == 15

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        def fails(message: str) -> None:
            with pytest.raises(ValueError, match=message):
                load(dataset="folder", data_dir=tmp_path)

        fails(r"must have a folder train, and one called test or val")
        self.write(tmp_path / "train", {"ant": 2, "bee": 1})
        fails(r"must have a folder train, and one called test or val")
        (tmp_path / "test").mkdir()
        fails(r"test` has no folders\. Make one for each class")
        self.write(tmp_path / "test", {"dog": 1})
        fails(r"has folders that `.*train` has not: dog\. Both must have the same classes")
        (tmp_path / "test" / "dog").rename(tmp_path / "test" / "bee")
        write(tmp_path / "train" / "cat" / "notes.txt")
        fails(r"folder of class 'cat' in `.*train` has no images \(\.jpg.*\)\. Remove it, or fill it")


class TestHeldOut:
    @given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), wanted=st.integers(0, 9), seed=st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_every_class_keeps_one(self, modules: SimpleNamespace, sizes: list[int], wanted: int, seed: int) -> None:
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        labels = labels[torch.randperm(len(labels))]
        cfg = SimpleNamespace(held_out_per_class=wanted, data_seed=seed)
        kept, held_out = modules.data.hold_out(cfg, labels)
        assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
        assert labels[held_out].bincount(minlength=len(sizes)).tolist() == [min(wanted, size - 1) for size in sizes]

    def test_of_the_digits(self, load: Callable) -> None:
        whole, data, other = (
            load(dataset="digits", held_out_per_class=held_out, data_seed=seed)
            for held_out, seed in ((0, 0), (4, 0), (4, 1))
        )
        counts = whole.class_counts.tolist()
        assert counts == sorted(counts, reverse=True)
        assert counts[0] >= 50 * counts[-1] / 2
        assert counts[-1] == 2
        assert ltaug.class_counts(whole.test.labels).tolist() == [60] * 10
        assert data.class_counts.tolist() == [max(n - 4, 1) for n in counts]
        assert ltaug.class_counts(data.val.labels).tolist() == [min(4, n - 1) for n in counts]
        assert sorted([*data.train.names, *data.val.names]) == sorted(whole.train.names)
        assert list(data.test.names) == list(whole.test.names) == list(other.test.names)
        assert list(data.val.names) != list(other.val.names)
        place = {name: k for k, name in enumerate(whole.train.names)}
        assert data.index_hash == ltaug.index_hash([place[name] for name in data.train.names])
        assert data.train[0][0].size == (64, 64)
