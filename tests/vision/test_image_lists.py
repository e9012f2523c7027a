"""Lists of images: text files and JSON, their faults, the official ones from the web, and the images they list."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import re
import tarfile
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from image_support import names_of, number_of, picture, write

import ltaug
from ltaug.errors import UserError
from ltaug.vision import coco, official
from ltaug.vision.coco import read_coco
from ltaug.vision.image_set import ImageSet
from ltaug.vision.lists import ImageList, check_lists, listed_files, parse_list
from ltaug.vision.official import IMAGENET_LT, INATURALIST_2018, PLACES_LT, Official, OfficialFile, read_lists
from ltaug.vision.published_sets import read_json_lists


class TestText:
    @pytest.mark.parametrize(
        "data",
        {
            "plain": b"train/ant/1.jpg 0\ntrain/bee/2 3.jpg 1\n",
            "Windows": b"\xef\xbb\xbftrain/ant/1.jpg 0\r\ntrain/bee/2 3.jpg 1\r\n\r\n",
            "tabs": b"train/ant/1.jpg\t0\ntrain/bee/2 3.jpg\t1",
            "UTF-16": "train/ant/1.jpg\t0\r\ntrain/bee/2 3.jpg\t1\r\n".encode("utf-16"),
            "UTF-16 without a mark": "train/ant/1.jpg\t0\r\ntrain/bee/2 3.jpg\t1".encode("utf-16-le"),
            "UTF-16, the other way round": "train/ant/1.jpg 0\ntrain/bee/2 3.jpg 1".encode("utf-16-be"),
            "Excel": b"file;class\r\ntrain/ant/1.jpg;0\r\ntrain/bee/2 3.jpg;1\r\n;\r\n",
            "Excel, more columns": b"train/ant/1.jpg;0;;\r\ntrain/bee/2 3.jpg;1;;\r\n",
            "pandas": b"path,label\ntrain/ant/1.jpg,0.0\ntrain/bee/2 3.jpg,1.0\n",
            "quotes": b'"train/ant/1.jpg","0"\n"train/bee/2 3.jpg","1"\n',
            "an old Mac": b"train/ant/1.jpg 0\rtrain/bee/2 3.jpg 1\r",
            "other spelling": b"./train//ant/1.jpg 0\ntrain\\bee\\2 3.jpg 1\n",
            "slashes of both kinds": b"train/ant\\1.jpg 0\ntrain/./bee\\2 3.jpg 1\n",
        }.values(),
    )
    def test_files_of_any_editor(self, data: bytes) -> None:
        images = parse_list("`a.txt`", data)
        assert (images.paths, images.labels.tolist()) == (["train/ant/1.jpg", "train/bee/2 3.jpg"], [0, 1])

    def test_separators_inside_of_paths(self) -> None:
        data = b'"a,b;1.jpg",0\n"say ""c"".jpg",1\na b;2, 3.jpg\t2\n'
        assert parse_list("list", data).paths == ["a,b;1.jpg", 'say "c".jpg', "a b;2, 3.jpg"]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"label,path\n0,a.jpg", r"but line 1 is 'label,path'\."),
            ("a.jpg 0\n".encode("utf-16")[:-1], r"`a.txt` looks like UTF-16, but cannot .* Save it as UTF-8\."),
            (b"a.jpg 0\nnonsense\n", r"like 'train/n01440764/n01440764_190.JPEG 0', .*, but line 2 is 'nonsense'\."),
            (b"a.jpg 3.5", r"a class index, but line 1 is 'a\.jpg 3\.5'\."),
            (b"\n\n", "`a.txt` lists no images"),
            (
                b"path,label\na.jpg 0\nb.jpg 1000000000000\n",
                r"`a\.txt` has the class index 1000000000000 in line 3\. It",
            ),
            (b"a.jpg 0\nb.jpg 10000000\n", r"index 10000000 in line 2\. It must be below 10,000,000: classes are n"),
            (b"a.jpg " + b"9" * 5000, r"`a\.txt` has the class index 9{30} in line 1\."),  # beyond Python's integers
        ],
    )
    def test_faults(self, data: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_list("`a.txt`", data)

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            ("a 0\nb 2", "c 0", "train has classes up to 2, but no image of class 1"),
            ("a 0\nb 1\na 1", "c 0", "train lists 'a' twice"),
            ("a 0\n./a 1", "c 0", "train lists 'a' twice"),  # spelled in two ways
            ("a 0\nb 1", "c 2", "test has images of class 2, but the classes of train end with 1"),
            ("a 0\nb 1", "b 1", r"'b' is in train and in test\. An image must be in one of them only"),
        ],
    )
    def test_lists_that_contradict_themselves(self, train: str, test: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_lists({"train": parse_list("train", train.encode()), "test": parse_list("test", test.encode())})

    def test_accents_may_be_composed_and_decomposed(self, tmp_path: Path) -> None:
        """As a Mac writes them, in folders and files, beside a list in the other form; and bytes that are no UTF-8."""
        for k, form in enumerate(("NFD", "NFC")):
            write(tmp_path / unicodedata.normalize(form, f"café{k}/né.jpg"), picture(20 * k))
        write(tmp_path / "old" / b"t\xe9l\xe9.jpg".decode("utf-8", "surrogateescape"), picture(90))
        lines = "".join(f"{unicodedata.normalize('NFC', f'café{k}/né.jpg')} {k}\n" for k in range(2)).encode()
        images = listed_files(tmp_path, parse_list("list", lines + b"old/t\xe9l\xe9.jpg 1"), ["a", "b"])
        assert [number_of(ImageSet(images)[k][0]) for k in range(3)] == [0, 20, 90]

    def test_letters_may_be_capital_and_small(self, tmp_path: Path) -> None:
        for k, path in enumerate(("Train/Ant/1.JPG", "café/2.jpg", "x/a.jpg", "x/A.jpg")):
            write(tmp_path / path, picture(20 * k))
        if len(list((tmp_path / "x").iterdir())) == 1:
            pytest.skip("a file system that ignores case (macOS, Windows) cannot hold both names")
        lines = "train/ant/1.jpg;0\ncafé/2.jpg;0\nx/a.jpg;0\nx/A.jpg;0".encode("latin-1")  # as Excel saves it
        images = listed_files(tmp_path, parse_list("list", lines), ["a"])
        assert names_of(images) == ["Train/Ant/1.JPG", "café/2.jpg", "x/a.jpg", "x/A.jpg"]
        with pytest.raises(ValueError, match=r"1 of 1 images are not there"):  # it could be either
            listed_files(tmp_path, parse_list("list", b"x/a.JPG 0"), ["a"])

    def test_images_that_are_not_there(self, tmp_path: Path) -> None:
        paths = [f"{k % 3}/{k:02d}.jpg" for k in range(30)]
        images = parse_list("the list", "".join(f"{path} {k % 3}\n" for k, path in enumerate(paths)).encode())
        for path in paths:
            write(tmp_path / path)
        assert names_of(listed_files(tmp_path, images, ["ant", "bee", "cat"])) == paths
        gone = sorted({*paths[1::3], *paths[::8]}, key=paths.index)
        for path in gone:
            (tmp_path / path).unlink()
        message = (
            rf"`data_dir` '.*' and the list disagree: {len(gone)} of 30 images are not there, among them all images of "
            rf"class 1 \(bee\)\. The first are {', '.join(gone[:10])}, \.\.\.\.$"
        )
        with pytest.raises(ValueError, match=message):
            listed_files(tmp_path, images, ["ant", "bee", "cat"])


class TestPathsThatLeaveTheFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two images in a folder, one beside it, and links to that."""
        for name in ("data/in/1.jpg", "data/in/2.jpg", "out/3.jpg"):
            write(tmp_path / name, picture(50))
        for link, target in (("data/link.jpg", "../out/3.jpg"), ("data/far", "../out"), ("data/near.jpg", "in/2.jpg")):
            try:
                (tmp_path / link).symlink_to(target)
            except OSError:
                pytest.skip("no links on this system")
        return tmp_path / "data"

    @pytest.mark.parametrize("path", ["../out/3.jpg", "in/../../out/3.jpg", "{}/out/3.jpg", "link.jpg", "far/3.jpg"])
    def test_are_refused_unless_asked_for(self, folder: Path, path: str) -> None:
        path = path.format(folder.parent)
        images = parse_list("`a.txt`", f"in/1.jpg 0\n{path} 1\n".encode())
        first = images.paths[1]
        message = (
            rf"^`a\.txt` has paths that lie outside `data_dir` '.*data', 1 of 2, the first of which is '{first}'"
            r"(, through a link to '.*out/3\.jpg')?\. Put them there; or, if you trust whoever wrote these paths, set "
            r"`allow_outside` to true\.$"
        )
        with pytest.raises(UserError, match=message):
            listed_files(folder, images, ["ant", "bee"])
        allowed = listed_files(folder, images, ["ant", "bee"], allow_outside=True)
        assert number_of(ImageSet(allowed)[1][0]) == 50

    def test_others_are_not(self, folder: Path) -> None:
        """Whole paths into the folder, links inside of it, and a folder that is a link itself."""
        images = parse_list("a.txt", f"{folder}/in/1.jpg 0\nnear.jpg 1\nin/../in/2.jpg 1\n".encode())
        assert len(listed_files(folder, images, ["ant", "bee"])) == 3
        (folder.parent / "linked").symlink_to(folder)
        assert len(listed_files(folder.parent / "linked", images, ["ant", "bee"])) == 3

    @pytest.mark.parametrize(
        "address", ["hf://datasets/a/b/1.jpg", "https://host/1.jpg", "s3://host/1.jpg", "file:/1.jpg"]
    )
    def test_addresses_always_are(self, folder: Path, address: str) -> None:
        images = parse_list("`a.txt`", f"in/1.jpg 0\n{address} 1\n".encode())
        with pytest.raises(
            UserError, match=r"has paths that are addresses, 1 of 2, the first .*Only files are read: put"
        ):
            listed_files(folder, images, ["ant", "bee"], allow_outside=True)

    def test_in_json(self, folder: Path) -> None:
        train, test = content(3), content(1, 3)
        for k, name in enumerate(("in/1.jpg", "../out/3.jpg", "in/2.jpg")):
            train["images"][k]["file_name"] = name
        test["images"][0]["file_name"] = "near.jpg"
        for name, values in (("train", train), ("test", test)):
            write(folder / f"{name}.json", json.dumps(values))
        with pytest.raises(
            UserError, match=r"train\.json` has paths that lie outside .* first of which is '\.\./out/3\.jpg"
        ):
            read_json_lists(str(folder), "train.json", "test.json")
        (folder / "near.jpg").unlink()
        write(folder / "near.jpg", picture(5))
        read_json_lists(str(folder), "train.json", "test.json", allow_outside=True)


def test_a_pipe_in_a_list_does_not_hang(pipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "1.jpg", picture(50))
    images = ImageSet(listed_files(tmp_path, parse_list("a.txt", b"1.jpg 0\npipe 0"), ["ant"]))
    assert number_of(images[1][0]) == 50
    assert "'pipe' cannot be read (it is no regular file, but a folder, a pipe, a socket" in capfd.readouterr().err


def write_text_lists(folder: Path, lists: dict[str, list[tuple[str, int]]]) -> Path:
    for part, lines in lists.items():
        write(folder / f"ImageNet_LT_{part}.txt", "".join(f"{path} {label}\n" for path, label in lines))
    return folder


class TestOfficialText:
    LISTS: ClassVar = {
        "train": [(f"train/{name}/{k}.jpg", label) for label, name in enumerate("abc") for k in range(4 - label)],
        "val": [(f"train/{name}/9.jpg", label) for label, name in enumerate("abc")],
        "test": [(f"val/{name}/1.jpg", label) for label, name in enumerate("abc")],
    }

    @pytest.fixture
    def web(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """A web of two hosts that serve small lists, and what is published of these."""
        folder = write_text_lists(tmp_path / "web", self.LISTS)
        files = {}
        for part in self.LISTS:
            name = f"ImageNet_LT_{part}.txt"
            data = (folder / name).read_bytes()
            sha256 = "" if part == "test" else hashlib.sha256(data).hexdigest()
            files[part] = OfficialFile(name, (f"https://one/{name}", f"https://two/{name}"), len(data), sha256)
        images = {part: len(lines) for part, lines in self.LISTS.items()}
        published = Official("ImageNet-LT", files, images, classes=3, largest=4, smallest=2, groups=(0, 0, 3))
        web = SimpleNamespace(folder=folder, official=published, asked=[], down=set(), spoil={})

        def urlopen(request: Any, *_: Any, **__: Any) -> io.BytesIO:
            address = request.full_url if isinstance(request, urllib.request.Request) else request
            web.asked.append(address)
            host, name = address.removeprefix("https://").split("/")
            if host in web.down:
                raise urllib.error.URLError(f"{host} is down")
            data = (web.folder / name).read_bytes()
            answer = io.BytesIO(web.spoil.get(host, lambda data: data)(data))
            answer.info = lambda: SimpleNamespace(get_all=lambda name: None)
            return answer

        monkeypatch.setattr("torch.hub.urlopen", urlopen)
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        return web

    def test_they_are_downloaded_once(
        self, web: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in range(2):
            for part, each in read_lists(web.official).items():
                assert list(zip(each.paths, each.labels.tolist(), strict=True)) == self.LISTS[part]
        assert web.asked == [f"https://one/ImageNet_LT_{part}.txt" for part in ("train", "val", "test")]
        cache = tmp_path / "cache" / "lists"
        kept = {file.name for file in web.official.files.values()} | {"ImageNet_LT_test.txt.sha256"}
        assert {path.name for path in cache.iterdir()} == kept
        assert capsys.readouterr().err.startswith(
            "Warning: no hash of ImageNet_LT_test.txt is published. That of this "
        )
        train = cache / "ImageNet_LT_train.txt"
        train.write_bytes(train.read_bytes()[:-9])
        read_lists(web.official)
        assert web.asked[3:] == ["https://one/ImageNet_LT_train.txt"]

    def test_one_without_a_published_hash_must_stay_the_same(
        self, web: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        test = tmp_path / "cache" / "lists" / "ImageNet_LT_test.txt"
        record = test.with_name(f"{test.name}.sha256")
        for _ in range(2):
            read_lists(web.official)
        assert record.read_text() == f"{hashlib.sha256(test.read_bytes()).hexdigest()}  {test.name}\n"
        assert capsys.readouterr().err.count("no hash of ImageNet_LT_test.txt is published") == 1
        changed = test.read_bytes().replace(b"1.jpg", b"2.jpg")  # as long as before
        test.write_bytes(changed)
        read_lists(web.official)
        assert test.read_bytes() == (web.folder / test.name).read_bytes() != changed
        (web.folder / test.name).write_bytes(changed)
        test.unlink()
        with pytest.raises(
            ConnectionError, match=r"invalid hash value .*\)\. The hash is that of the first download; rem"
        ):
            read_lists(web.official)
        for word in ("", "no hash"):  # a damaged record is made anew
            record.write_text(word)
            read_lists(web.official)
            assert record.read_text().startswith(hashlib.sha256(changed).hexdigest())

    def test_a_host_that_is_down_or_serves_something_else(self, web: SimpleNamespace, tmp_path: Path) -> None:
        web.spoil["one"] = lambda data: data[:-2] + b"9\n"
        web.down.add("two")
        with pytest.raises(
            ConnectionError,
            match=r"_train.txt of ImageNet-LT could .* \(https://one/\S+ invalid hash value .*; "
            r"https://two/\S+ <urlopen error two is down>\).*`list_dir`, a folder with ImageNet_LT_train.txt, ",
        ):
            read_lists(web.official)
        assert not list((tmp_path / "cache" / "lists").iterdir())
        web.down = {"one"}
        assert read_lists(web.official)["val"].labels.tolist() == [0, 1, 2]
        web.spoil["two"] = lambda data: data[:-1]
        for name in ("ImageNet_LT_test.txt", "ImageNet_LT_test.txt.sha256"):
            (tmp_path / "cache" / "lists" / name).unlink()
        with pytest.raises(ConnectionError, match=r"https://two/ImageNet_LT_test.txt: \d+ bytes instead of \d+\)"):
            read_lists(web.official)

    def test_other_lists_are_refused_from_the_web_and_reported_from_a_folder(
        self, web: SimpleNamespace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = dataclasses.replace(web.official, largest=6, groups=(0, 1, 2))
        differences = r"4 images in the largest class instead of 6, \(0, 0, 3\) many-, medium- and few-shot classes ins"
        with pytest.raises(ValueError, match=f"The lists of ImageNet-LT are not the published ones: {differences}"):
            read_lists(other)
        assert len(read_lists(other, str(web.folder))["train"].paths) == 9
        assert "Warning: these are not the published lists of ImageNet-LT" in capsys.readouterr().err
        (web.folder / "ImageNet_LT_val.txt").unlink()
        with pytest.raises(
            ValueError, match=r"must hold the lists of ImageNet-LT \(ImageNet_LT_train.txt, .* has no I"
        ):
            read_lists(other, str(web.folder))

    def test_lists_of_the_published_size(self, capsys: pytest.CaptureFixture[str]) -> None:
        test = "".join(
            f"val/n{k:08d}/ILSVRC2012_val_{50 * k + j:08d}.JPEG {k}\n" for k in range(1000) for j in range(50)
        )
        assert len(test) == IMAGENET_LT.files["test"].size
        counts = [1280] + [101] * 384 + [20] * 479 + [5] * 136  # as many as published, once the rest is spread
        rest, k = IMAGENET_LT.images["train"] - sum(counts), 1
        while rest:
            more = min(rest, 1000)
            counts[k] += more
            rest, k = rest - more, k + 1
        train = "".join(f"train/n{k:08d}/{j}.JPEG {k}\n" for k, count in enumerate(counts) for j in range(count))
        val = "".join(f"train/n{k:08d}/v{j}.JPEG {k}\n" for k in range(1000) for j in range(20))
        begin = time.process_time()
        lists = {
            part: parse_list(part, text.encode()) for part, text in (("train", train), ("val", val), ("test", test))
        }
        check_lists(lists)
        official._compare(IMAGENET_LT, lists, strict=True)
        assert time.process_time() - begin < 3
        assert capsys.readouterr().err == ""
        lists["val"].paths.pop()
        with pytest.raises(ValueError, match="19999 val images instead of 20000"):
            official._compare(IMAGENET_LT, lists, strict=True)

    def test_sizes_of_the_places_lists_follow_from_their_counts(self) -> None:
        """Paths train/CLASS/00000001.jpg and val/CLASS/Places365_val_00000001.jpg, 20 and 100 of each class."""
        files, images = PLACES_LT.files, PLACES_LT.images
        digits = sum(len(str(k)) for k in range(365))
        letters = files["val"].size / 20 - digits - 365 * len("train//00000001.jpg \n")
        assert letters == int(letters)
        assert files["test"].size == 100 * (letters + digits + 365 * len("val//Places365_val_00000001.jpg \n"))
        assert (images["val"], images["test"]) == (20 * 365, 100 * 365)


CATEGORIES = (40, 3, 7)
"""Neither in order nor without gaps."""


def content(images: int, begin: int = 0, categories: tuple = CATEGORIES) -> dict[str, Any]:
    """As the official files are; image k is of the k-th category, modulo their number."""
    return {
        "info": {"year": 2018},
        "licenses": [{"id": 1, "name": "CC"}],
        "categories": [{"id": k, "name": f"name{k}", "supercategory": "Plantae"} for k in categories],
        "images": [
            {"id": k, "file_name": f"train_val2018/Plantae/{k % 3}/{k:032x}.jpg", "rights_holder": "Noël", "license": 1}
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


class TestJson:
    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., tuple[dict[str, ImageList], list[str]]]:
        def run(train: dict | str, test: dict | str) -> Any:
            values = {"train": train, "test": test}
            paths = {
                name: write(tmp_path / f"{name}.json", value if isinstance(value, str) else json.dumps(value))
                for name, value in values.items()
            }
            return read_coco(paths["train"], paths["test"])

        return run

    def test_any_two_files(self, read: Callable, capsys: pytest.CaptureFixture[str]) -> None:
        """A category without images, one that has no name, and boxes: two annotations of one image."""
        train, test = content(7), content(3, 7)
        train["categories"].append({"id": 5, "name": "nothing"})
        del train["categories"][1]["name"], test["categories"][1]["name"]
        train["annotations"].append({"image_id": 0, "category_id": 40, "bbox": [0, 0, 2, 2]})
        lists, names = read(train, test)
        assert lists["train"].labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
        assert lists["test"].labels.tolist() == [0, 1, 2]
        assert names == ["3", "name7", "name40"]
        note = r"^Note: 1 of 4 categories of `.*train.json` have no images and are no classes\.$"
        assert re.search(note, capsys.readouterr().err)

    def test_ids_may_be_words_and_names_occur_twice(self, read: Callable) -> None:
        categories = ("c", "a", "b")
        train, test = content(7, 0, categories), content(3, 7, categories)
        for each in (train, test):
            for entry in each["categories"][:2]:
                entry["name"] = "twin"
        assert read(train, test)[1] == ["twin (a)", "nameb", "twin (c)"]

    def test_nested_fields_and_a_byte_order_mark(self, read: Callable) -> None:
        """Entries hold entries of their own, whose fields have the same names."""
        train, test = content(7), content(3, 7)
        for image in train["images"]:
            image["origin"] = {"file_name": "raw.tif", "camera": {"id": 3, "name": "A"}}
        for annotation in train["annotations"]:
            annotation["history"] = [{"category_id": 7, "by": "me"}]
        train["categories"][0] |= {"file_name": "icon.png"}
        lists, names = read("\ufeff" + json.dumps(train), test)
        assert (lists["train"].labels.tolist(), names) == ([2, 0, 1, 2, 0, 1, 2], ["name3", "name7", "name40"])

    def test_ids_as_text_and_fractions(self, read: Callable) -> None:
        """Of programs that go through a table: "7" and 7.0 are 7; and a long one keeps its digits."""
        train, test = content(7), content(3, 7)
        for annotation in train["annotations"]:
            number, category = annotation["image_id"], annotation["category_id"]
            annotation |= {"image_id": str(10**20 + number), "category_id": float(category)}
        for image in train["images"]:
            image |= {"id": 10**20 + image["id"], "name": "a field of its own"}
        lists, names = read(train, test)
        assert (lists["train"].labels.tolist(), names) == ([2, 0, 1, 2, 0, 1, 2], ["name3", "name7", "name40"])

    def test_faults(self, read: Callable) -> None:
        def fails(message: str, change: Callable[[dict, dict], object]) -> None:
            train, test = content(7), content(3, 7)
            changed = change(train, test)
            with pytest.raises(ValueError, match=message):
                read(train, changed if isinstance(changed, str) else test)

        shape = r"test\.json` must be JSON with images \(id, file_name\), annotations .* \(id, name\), but: "
        fails(shape + r"Expecting value: line 1 column 13", lambda train, test: '{"images": [')
        fails(shape + r"it has no 'categories'", lambda train, test: '{"images": []}')
        fails(
            shape + r"it has no 'id and file_name in one of", lambda train, test: [test["images"][2].pop("file_name")]
        )
        fails(shape + r"it has no 'id and file_name in one of", lambda train, test: [test["images"][2].pop("id")])
        fails(shape + r"it has no 'image_id and", lambda train, test: [test["annotations"][1].pop("image_id")])
        fails(shape + r"it has no 'image_id and", lambda train, test: [test["annotations"][1].pop("category_id")])
        fails(
            shape + r"several of its categories have the id 3",
            lambda train, test: test["categories"].append({"id": 3, "name": "bee"}),
        )
        fails(r"test\.json` lists no images", lambda train, test: test.update(images=[]))
        path = r"train_val2018/Plantae/1/0+7\.jpg"
        fails(
            rf"test\.json`: 2 of 4 images share their id with others: {path}, other\.jpg\.",
            lambda train, test: test["images"].append({"id": 7, "file_name": "other.jpg"}),
        )
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
            r"2 of 5 images of `.*test\.json`, which has 5 categories, belong to categories without any image in "
            r"`.*train\.json`, which has 3: 50, 51\.",
            lambda train, test: test.update(content(5, 5, (*CATEGORIES, 50, 51))),
        )
        fails(r"is in `.*train\.json` and in `.*test\.json`\. An image", lambda train, test: test.update(content(3, 6)))
        fails(
            rf"test\.json` lists '{path}' twice",
            lambda train, test: test["images"][1].update(file_name="./" + test["images"][0]["file_name"]),
        )

    def test_archives(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.json.tar.gz", archive("train.json", content(7)))
        test = write(tmp_path / "test.json.tar.gz", archive("test.json", content(3, 7)))
        assert len(read_coco(train, test)[0]["train"].paths) == 7
        write(test, gzip.compress(json.dumps(content(3, 7)).encode()))
        assert len(read_coco(train, test)[0]["test"].paths) == 3
        write(test, archive("._test.json", "a file of the Finder"))
        with pytest.raises(ValueError, match=r"but: the archive has no JSON file in it\."):
            read_coco(train, test)
        write(test, archive("readme.txt", "nothing"))
        with pytest.raises(ValueError, match=r"but: the archive has no JSON file in it\."):
            read_coco(train, test)
        test.write_bytes(test.read_bytes()[:40])
        with pytest.raises(ValueError, match=r"test\.json\.tar\.gz` must be JSON"):
            read_coco(train, test)

    def test_archives_that_would_fill_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        train, test = (json.dumps(content(*numbers)).encode() for numbers in ((7,), (3, 7)))
        monkeypatch.setattr(coco, "MOST_BYTES", len(train))
        long = train + b" " * 100_000
        paths = [write(tmp_path / "train.json", train), write(tmp_path / "test.json", test)]
        read_coco(*paths)
        for data in (long, gzip.compress(long), archive("train.json", content(70))):
            write(paths[0], data)
            with pytest.raises(
                UserError, match=r"train\.json` must be JSON .*: it has more than [\d,]+ bytes, or holds mo"
            ):
                read_coco(*paths)
        write(paths[0], b'{"images": ' + b"[" * 100_000)
        monkeypatch.setattr(coco, "MOST_BYTES", 1 << 20)
        with pytest.raises(UserError, match=r"train\.json` must be JSON .*recursion"):
            read_coco(*paths)

    def test_many_labels_take_little_time(self, tmp_path: Path) -> None:
        """A twentieth of iNaturalist 2018, in a twentieth of ten seconds."""
        train = write(tmp_path / "train.json", json.dumps(content(22_000)))
        test = write(tmp_path / "test.json", json.dumps(content(1_200, 22_000)))
        begin = time.process_time()
        lists, _ = read_coco(train, test)
        assert ltaug.class_counts(lists["train"].labels).tolist() == [7333, 7333, 7334]
        assert time.process_time() - begin < 0.5


class TestINaturalistFromTheWeb:
    @pytest.fixture
    def web(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """The organisers' host, with small files whose sums and counts are the published ones."""
        values = {"train": content(7), "test": content(3, 7), "names": [{"id": 3, "name": "Abies alba"}]}
        files, served = {}, {}
        for part, file in INATURALIST_2018.files.items():
            data = served[file.addresses[0]] = archive(file.name, values[part])
            md5 = hashlib.md5(data).hexdigest() if file.md5 else ""
            files[part] = OfficialFile(file.name, file.addresses, md5=md5)
        published = Official("iNaturalist 2018", files, {"train": 7, "test": 3}, classes=3, largest=3, smallest=2)
        web = SimpleNamespace(official=published, served=served, asked=[], error=None)

        def urlopen(request: Any, *_: Any, **__: Any) -> io.BytesIO:
            address = request.full_url if isinstance(request, urllib.request.Request) else request
            web.asked.append(address.rpartition("/")[2])
            if web.error:
                raise web.error
            answer = io.BytesIO(served[address])
            answer.info = lambda: SimpleNamespace(get_all=lambda name: None)
            return answer

        monkeypatch.setattr("torch.hub.urlopen", urlopen)
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        web.read = lambda: official.read_inaturalist(web.official, None, str(tmp_path))
        return web

    def test_once(self, web: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            lists, names = web.read()
            assert lists["train"].labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
            assert lists["test"].paths[0] == "train_val2018/Plantae/1/00000000000000000000000000000007.jpg"
            assert names == ["Abies alba", "name7", "name40"]
        assert web.asked == ["train2018.json.tar.gz", "val2018.json.tar.gz", "categories.json.tar.gz"]
        kept = {*web.asked, "categories.json.tar.gz.sha256"}
        assert {path.name for path in (tmp_path / "cache" / "lists").iterdir()} == kept
        assert capsys.readouterr().err.startswith("Warning: no hash of categories.json.tar.gz is published. That of ")
        damaged = tmp_path / "cache" / "lists" / "train2018.json.tar.gz"
        damaged.write_bytes(damaged.read_bytes()[:-9])
        web.read()
        assert web.asked[3:] == ["train2018.json.tar.gz"]

    def test_what_can_go_wrong(self, web: SimpleNamespace, tmp_path: Path) -> None:
        for web.error, reason in ((urllib.error.URLError("no route"), "no route"), (IncompleteRead(b""), "Incomplete")):
            with pytest.raises(
                ConnectionError,
                match=rf"train2018\.json\.tar\.gz of iNaturalist 2018 could not be downloaded \(https://ml-\S+: .*"
                rf"{reason}.*`list_dir`, a folder with train2018\.json, val2018\.json, categories\.json",
            ):
                web.read()
        web.error = None
        address = next(address for address in web.served if "val2018" in address)
        web.served[address] += b"more"
        with pytest.raises(ConnectionError, match=r"its MD5 is [0-9a-f]{32} instead of [0-9a-f]{32}\)\. Offline"):
            web.read()
        assert [path.name for path in (tmp_path / "cache" / "lists").iterdir()] == ["train2018.json.tar.gz"]

    def test_what_is_not_the_published_set_is_refused(self, web: SimpleNamespace) -> None:
        web.official = dataclasses.replace(web.official, largest=1000)
        message = r"of iNaturalist 2018 are not the published ones: 3 images in the largest class instead of 1"
        with pytest.raises(ValueError, match=message):
            web.read()
