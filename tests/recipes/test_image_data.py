"""Images in: official lists and what they are matched with, folders, hub data sets, broken images, of imagenet_lt."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import pickle
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from recipe_support import ROOT

import ltaug

CIFAR100 = ROOT.parent / "shared" / "data" / "cifar100"
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
HUB_NAMES = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark", "tiger shark")
SIZES = (5, 3, 2, 2)  # of the training list, by its labels, which are those of the hub in reverse


@contextlib.contextmanager
def recipe(name: str, *modules: str) -> Iterator[SimpleNamespace]:
    """Modules of a recipe. Other recipes have some of the same names, so they leave `sys.modules` again."""
    folder = ROOT / "recipes" / name
    own = {file.stem for file in folder.glob("*.py")}
    others = {module: sys.modules.pop(module) for module in own & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{module: importlib.import_module(module) for module in modules})
    finally:
        sys.path.remove(str(folder))
        for module in own:
            sys.modules.pop(module, None)
        sys.modules.update(others)


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with recipe("imagenet_lt", "data", "lists") as found:
        yield found


@pytest.fixture(scope="module")
def arrow_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrow")


@pytest.fixture
def load(
    modules: SimpleNamespace, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimpleNamespace]:
    """load_data with some settings."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", arrow_cache)
    defaults = {
        "dataset": "folder",
        "data_dir": None,
        "hub_id": None,
        "list_dir": None,
        "image_column": "image",
        "label_column": "label",
        "train_split": "train",
        "test_split": None,
        "test_per_class": 1,
        "profile": "natural",
        "imbalance_ratio": 4.0,
        "data_seed": 0,
        "stream": False,
        "stream_buffer": 4,
        "held_out_per_class": 0,
    }

    def run(**changes: object) -> SimpleNamespace:
        changes = {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}
        return modules.data.load_data(SimpleNamespace(**(defaults | changes)))

    return run


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A small picture that tells its number by its grey."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, number, number)).save(file, kind, quality=95)
    return file.getvalue()


def number_of(image: Image.Image) -> int:
    assert image.mode == "RGB"
    return round(float(np.asarray(image).mean()))


def write(path: Path, data: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_parquet(path: Path, images: list, labels: list, names: tuple[str, ...] | None = HUB_NAMES) -> None:
    """Parquet in the hub's schema: images as bytes and path, labels with the names of their classes."""
    label = {"_type": "ClassLabel", "names": list(names)} if names else {"_type": "Value", "dtype": "int64"}
    table = pyarrow.table(
        {
            "image": pyarrow.array(images, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
            "label": pyarrow.array(labels, pyarrow.int64() if labels and isinstance(labels[0], int) else None),
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=7)


class FakeImageNet:
    """Four classes of eight training images and three validation images, and ImageNet-LT's kind of lists of them."""

    def __init__(self) -> None:
        self.train = [(wnid, f"{wnid}_{k + 7 * k * k}") for wnid in WNIDS for k in range(8)]
        self.validation = [(WNIDS[k % 4], f"ILSVRC2012_val_{k + 1:08d}") for k in range(12)]
        random = np.random.default_rng(0)
        self.lists: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
        for label, wnid in enumerate(reversed(WNIDS)):
            stems = [stem for each, stem in self.train if each == wnid]
            drawn = [f"train/{wnid}/{stems[k]}.JPEG" for k in random.permutation(8)]
            self.lists["train"] += [(path, label) for path in drawn[: SIZES[label]]]
            self.lists["val"].append((drawn[SIZES[label]], label))
            self.lists["test"] += [(f"val/{each}/{stem}.JPEG", label) for each, stem in self.validation if each == wnid]

    def number(self, path: str) -> int:
        """What the picture shows."""
        stem = Path(path).stem
        stems = [each for _, each in self.train + self.validation]
        return 5 * stems.index(stem)

    def write_lists(self, folder: Path) -> Path:
        for part, lines in self.lists.items():
            write(folder / f"ImageNet_LT_{part}.txt", "".join(f"{path} {label}\n" for path, label in lines))
        return folder

    def write_rows(self, folder: Path, change: Callable = lambda rows: rows) -> Path:
        """As the hub has them, in another order than the lists'; its test split has no labels."""
        order = np.random.default_rng(1)
        for split, images in (("train", self.train), ("validation", self.validation)):
            rows = [
                ({"bytes": picture(self.number(stem)), "path": f"{stem}_{wnid}.JPEG"}, WNIDS.index(wnid))
                for wnid, stem in images
            ]
            rows = change([rows[k] for k in order.permutation(len(rows))])
            for part in range(2):
                half = rows[part::2]
                write_parquet(
                    folder / "data" / f"{split}-0000{part}-of-00002.parquet", *map(list, zip(*half, strict=True))
                )
        unlabelled = [{"bytes": picture(0), "path": "ILSVRC2012_test_00000001.JPEG"}]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", unlabelled, [-1])
        return folder

    def write_tree(self, folder: Path, flat: bool = False) -> Path:
        for split, images in (("train", self.train), ("val", self.validation)):
            for wnid, stem in images:
                place = folder / split if flat and split == "val" else folder / split / wnid
                write(place / f"{stem}.JPEG", picture(self.number(stem)))
        return folder


@pytest.fixture
def fake() -> FakeImageNet:
    return FakeImageNet()


class TestImageNet:
    def the_lists(self, data: SimpleNamespace, fake: FakeImageNet) -> None:
        """What the images are, whatever they come from."""
        for part in ("train", "val", "test"):
            images, listed = getattr(data, part), fake.lists[part]
            assert list(images.names) == [path for path, _ in listed]
            assert images.labels.tolist() == [label for _, label in listed]
            assert images.labels.dtype == torch.int64
            for k, (path, label) in enumerate(listed):
                image, found = images[k]
                assert found == label
                assert abs(number_of(image) - fake.number(path)) <= 1
            assert images.unreadable == 0
        assert data.class_counts.tolist() == list(SIZES)
        assert data.index_hash == ltaug.index_hash(range(sum(SIZES)))

    def test_the_hubs_rows(
        self,
        load: Callable,
        modules: SimpleNamespace,
        fake: FakeImageNet,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        lists, rows = fake.write_lists(tmp_path / "lists"), fake.write_rows(tmp_path / "hub")
        data = load(dataset="imagenet_lt", data_dir=rows, list_dir=lists)
        self.the_lists(data, fake)
        with pytest.raises(ValueError, match="`held_out_per_class` is 1, but ImageNet-LT has images to tune on"):
            load(dataset="imagenet_lt", data_dir=rows, list_dir=lists, held_out_per_class=1)
        assert data.class_names == list(reversed(HUB_NAMES))
        assert "not the published lists of ImageNet-LT" in capsys.readouterr().err
        assert modules.data.describe(data) == (
            "12 training images of 4 classes (5 to 2 a class; 0 many, 0 medium, 4 few), 12 test images, 4 validation "
            f"images (subset {ltaug.index_hash(range(12))[:12]})"
        )

    def test_a_profile_on_top(self, load: Callable, fake: FakeImageNet, tmp_path: Path) -> None:
        lists, tree = fake.write_lists(tmp_path / "lists"), fake.write_tree(tmp_path / "tree")
        data = load(dataset="imagenet_lt", data_dir=tree, list_dir=lists, profile="exponential", imbalance_ratio=5)
        chosen = ltaug.subsample([label for _, label in fake.lists["train"]], [5, 2, 1, 1])
        assert data.class_counts.tolist() == [5, 2, 1, 1]
        assert list(data.train.names) == [fake.lists["train"][k][0] for k in chosen]
        assert data.index_hash == ltaug.index_hash(chosen)
        with pytest.raises(ValueError, match=r"asks for 5 training images of class 1 \(n01484850\), but there are 3"):
            load(dataset="imagenet_lt", data_dir=tree, list_dir=lists, profile="step")

    @pytest.mark.parametrize("flat", [False, True])
    def test_a_folder_tree(self, load: Callable, fake: FakeImageNet, flat: bool, tmp_path: Path) -> None:
        data = load(
            dataset="imagenet_lt",
            data_dir=fake.write_tree(tmp_path / "tree", flat),
            list_dir=fake.write_lists(tmp_path / "lists"),
        )
        assert data.class_names == list(reversed(WNIDS))
        if flat:
            fake.lists["test"] = [(f"val/{path.split('/')[-1]}", label) for path, label in fake.lists["test"]]
        self.the_lists(data, fake)

    def test_nothing_is_decoded_while_loading(self, load: Callable, fake: FakeImageNet, tmp_path: Path) -> None:
        garbage = lambda rows: [({"bytes": b"none", "path": file["path"]}, label) for file, label in rows]  # noqa: E731
        rows = fake.write_rows(tmp_path / "hub", garbage)
        data = load(dataset="imagenet_lt", data_dir=rows, list_dir=fake.write_lists(tmp_path / "lists"))
        assert len(data.train) == 12
        with pytest.raises(ValueError, match="None of the 12 images can be read, the first of which is 'tr"):
            data.train[0]
        assert data.train.unreadable == 12

    def test_a_set_that_lacks_images(self, load: Callable, fake: FakeImageNet, tmp_path: Path) -> None:
        lists = fake.write_lists(tmp_path / "lists")
        gone = [path for path, _ in fake.lists["train"]][1:12]
        suffixed = {f"{Path(path).stem}_{Path(path).parent.name}.JPEG" for path in gone}
        rows = fake.write_rows(tmp_path / "hub", lambda rows: [row for row in rows if row[0]["path"] not in suffixed])
        message = (
            r"disagree: 11 of 12 images are not there, among them all images of class 1 \(n01484850\), "
            rf"2 \(n01443537\), 3 \(n01440764\)\. The first are {', '.join(gone[:10])}, \.\.\.\.$"
        )
        with pytest.raises(ValueError, match=r"^The train split of '.*hub' and `.*ImageNet_LT_train.txt` " + message):
            load(dataset="imagenet_lt", data_dir=rows, list_dir=lists)
        tree = fake.write_tree(tmp_path / "tree")
        for path in gone:
            (tree / path).unlink()
        with pytest.raises(ValueError, match=r"^`data_dir` '.*tree' and `.*ImageNet_LT_train.txt` " + message):
            load(dataset="imagenet_lt", data_dir=tree, list_dir=lists)
        for path in gone[:-1]:
            write(tree / path)
        with pytest.raises(ValueError, match=rf"1 of 12 images are not there\. The first are {gone[-1]}\.$"):
            load(dataset="imagenet_lt", data_dir=tree, list_dir=lists)

    def test_rows_of_other_names_and_labels(self, load: Callable, fake: FakeImageNet, tmp_path: Path) -> None:
        lists = fake.write_lists(tmp_path / "lists")
        short = lambda rows: [({**file, "path": f"{k}.jpg"}, label) for k, (file, label) in enumerate(rows)]  # noqa: E731
        with pytest.raises(ValueError, match=r"12 of 12 images are not there.* It has other names, such as '\d+\.jpg'"):
            load(dataset="imagenet_lt", data_dir=fake.write_rows(tmp_path / "short", short), list_dir=lists)
        stray = fake.lists["train"][4][0]
        moved = lambda rows: [  # noqa: E731
            (file, 0 if Path(stray).stem in file["path"] else label) for file, label in rows
        ]
        with pytest.raises(ValueError, match=rf"has 1 images of its train split in other classes than .*: {stray}\.$"):
            load(dataset="imagenet_lt", data_dir=fake.write_rows(tmp_path / "moved", moved), list_dir=lists)

    @pytest.mark.parametrize(
        ("part", "change", "message"),
        [
            ("train", lambda lines: [*lines, ("nonsense", "")], "line 13 is 'nonsense '"),
            ("train", lambda lines: [*lines, ("train/n01440764/x.JPEG", "3.5")], "a class index, but line 13"),
            ("train", lambda lines: [*lines, ("train/n9/x.JPEG", 5)], "classes up to 5, but no image of class 4"),
            ("train", lambda lines: [*lines, lines[3]], "_train.txt` lists '.*' twice"),
            ("train", lambda lines: [], "lists no images"),
            ("val", lambda lines: [("train/n9/x.JPEG", 4)], "has images of class 4, but the classes of .* end with 3"),
            ("val", lambda lines: [(lines[0][0], 1)], r"_val.txt` has '.*' in class 1, which is n01484850 in .*_train"),
            ("test", lambda lines: [("val/x.JPEG", 0)], "has 'val/x.JPEG' in class 0, which is n01491361"),
        ],
    )
    def test_lists_that_cannot_be(
        self, load: Callable, fake: FakeImageNet, part: str, change: Callable, message: str, tmp_path: Path
    ) -> None:
        fake.lists[part] = change(fake.lists[part])
        with pytest.raises(ValueError, match=message):
            load(dataset="imagenet_lt", data_dir=tmp_path, list_dir=fake.write_lists(tmp_path / "lists"))

    def test_lists_that_overlap_or_lack(self, load: Callable, fake: FakeImageNet, tmp_path: Path) -> None:
        lists = fake.write_lists(tmp_path / "lists")
        (lists / "ImageNet_LT_val.txt").unlink()
        with pytest.raises(
            ValueError, match=r"must hold the lists of ImageNet-LT \(ImageNet_LT_train.txt, .* has no I"
        ):
            load(dataset="imagenet_lt", list_dir=lists)
        fake.lists["val"][0] = fake.lists["train"][2]
        fake.write_lists(lists)
        with pytest.raises(ValueError, match=r"is in `.*_train.txt` and in `.*_val.txt`\. An image must be in one of"):
            load(dataset="imagenet_lt", list_dir=lists)

    def test_the_gated_hub(
        self, load: Callable, fake: FakeImageNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        lists, reasons = fake.write_lists(tmp_path / "lists"), iter(["is a gated dataset on the Hub", "no route"])

        def refused(source: str) -> None:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{source}' {next(reasons)}")

        monkeypatch.setattr(datasets, "load_dataset", refused)
        with pytest.raises(
            ConnectionError,
            match=r"Accept them at https://huggingface.co/datasets/ILSVRC/imagenet-1k, then log in with `hf auth login`"
            r".*`--data_dir FOLDER`",
        ):
            load(dataset="imagenet_lt", list_dir=lists)
        with pytest.raises(
            ConnectionError, match=r"could not be loaded .*no route.*HF_HUB_OFFLINE=1.*--dataset digits"
        ):
            load(dataset="imagenet_lt", list_dir=lists)


class TestOfficialLists:
    def small(self, modules: SimpleNamespace, fake: FakeImageNet, folder: Path) -> SimpleNamespace:
        """The fake lists as if they were the published ones."""
        fake.write_lists(folder)
        files = {}
        for part, lines in fake.lists.items():
            data = (folder / f"ImageNet_LT_{part}.txt").read_bytes()
            sha256 = "" if part == "test" else hashlib.sha256(data).hexdigest()
            name = f"ImageNet_LT_{part}.txt"
            addresses = (f"https://one/{name}", f"https://two/{name}")
            files[part] = modules.lists.File(name, len(lines), len(data), sha256, addresses)
        return modules.lists.Official("ImageNet-LT", 4, 5, 2, files, (0, 0, 4))

    @pytest.fixture
    def web(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """A web of two hosts."""
        web = SimpleNamespace(folder=tmp_path / "web", asked=[], down=set(), spoil={})

        def urlopen(address: str, timeout: float) -> io.BytesIO:
            web.asked.append(address)
            host, name = address.removeprefix("https://").split("/")
            if host in web.down:
                raise urllib.request.URLError(f"{host} is down")
            data = (web.folder / name).read_bytes()
            return io.BytesIO(web.spoil.get(host, lambda data: data)(data))

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        return web

    def test_they_are_downloaded_once(
        self,
        modules: SimpleNamespace,
        fake: FakeImageNet,
        web: SimpleNamespace,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        official = self.small(modules, fake, web.folder)
        for _ in range(2):
            lists = modules.lists.read_lists(official, None)
            for part, each in lists.items():
                assert list(zip(each.paths, each.labels.tolist(), strict=True)) == fake.lists[part]
        assert web.asked == [f"https://one/ImageNet_LT_{part}.txt" for part in ("train", "val", "test")]
        assert {path.name for path in (tmp_path / "cache" / "lists").iterdir()} == {
            file.name for file in official.files.values()
        }
        assert capsys.readouterr().err == ""
        train = tmp_path / "cache" / "lists" / "ImageNet_LT_train.txt"
        train.write_bytes(train.read_bytes()[:-9])
        modules.lists.read_lists(official, None)
        assert web.asked[3:] == ["https://one/ImageNet_LT_train.txt"]

    def test_a_host_that_is_down_or_serves_something_else(
        self, modules: SimpleNamespace, fake: FakeImageNet, web: SimpleNamespace, tmp_path: Path
    ) -> None:
        official = self.small(modules, fake, web.folder)
        web.spoil["one"] = lambda data: data[:-2] + b"9\n"
        web.down.add("two")
        with pytest.raises(
            ConnectionError,
            match=r"_train.txt of ImageNet-LT could .* \(https://one/\S+ SHA-256 [0-9a-f]{64} instead of [0-9a-f]{64}; "
            r"https://two/\S+ <urlopen error two is down>\).*`--list_dir FOLDER` with ImageNet_LT_train.txt, ",
        ):
            modules.lists.read_lists(official, None)
        assert not (tmp_path / "cache").exists()
        web.down.clear()
        web.down.add("one")
        assert modules.lists.read_lists(official, None)["val"].labels.tolist() == [0, 1, 2, 3]
        web.spoil["two"] = lambda data: data[:-1]
        (tmp_path / "cache" / "lists" / "ImageNet_LT_test.txt").unlink()
        with pytest.raises(ConnectionError, match=r"https://two/ImageNet_LT_test.txt: \d+ bytes instead of \d+\)"):
            modules.lists.read_lists(official, None)

    def test_other_lists_are_refused_from_the_web_and_told_of_from_a_folder(
        self, modules: SimpleNamespace, fake: FakeImageNet, web: SimpleNamespace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = self.small(modules, fake, web.folder).files
        official = modules.lists.Official("ImageNet-LT", 4, 6, 2, files, (0, 1, 3))
        differences = r"5 images in the largest class instead of 6, \(0, 0, 4\) many-, medium- and few-shot classes ins"
        with pytest.raises(ValueError, match=f"The lists of ImageNet-LT are not the published ones: {differences}"):
            modules.lists.read_lists(official, None)
        assert len(modules.lists.read_lists(official, str(web.folder))["train"].paths) == 12
        assert "Warning: these are not the published lists of ImageNet-LT" in capsys.readouterr().err

    def test_lists_of_the_published_size(self, modules: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
        official = modules.lists.IMAGENET_LT
        test = "".join(
            f"val/n{k:08d}/ILSVRC2012_val_{50 * k + j:08d}.JPEG {k}\n" for k in range(1000) for j in range(50)
        )
        assert len(test) == official.files["test"].size
        counts = [1280] + [101] * 384 + [20] * 479 + [5] * 136  # as many as published, once the rest is spread
        rest, k = official.files["train"].images - sum(counts), 1
        while rest:
            more = min(rest, 1000)
            counts[k] += more
            rest, k = rest - more, k + 1
        train = "".join(f"train/n{k:08d}/{j}.JPEG {k}\n" for k, count in enumerate(counts) for j in range(count))
        val = "".join(f"train/n{k:08d}/v{j}.JPEG {k}\n" for k in range(1000) for j in range(20))
        begin = time.process_time()
        lists = {
            part: modules.lists.parse(part, text.encode())
            for part, text in (("train", train), ("val", val), ("test", test))
        }
        modules.lists.check(official, lists, strict=True)
        assert time.process_time() - begin < 3
        assert capsys.readouterr().err == ""
        lists["val"].paths.pop()
        with pytest.raises(ValueError, match="19999 val images instead of 20000"):
            modules.lists.check(official, lists, strict=True)

    def test_sizes_of_the_places_lists_follow_from_their_counts(self, modules: SimpleNamespace) -> None:
        """Paths train/CLASS/00000001.jpg and val/CLASS/Places365_val_00000001.jpg, 20 and 100 of each class."""
        files = modules.lists.PLACES_LT.files
        digits = sum(len(str(k)) for k in range(365))
        letters = files["val"].size / 20 - digits - 365 * len("train//00000001.jpg \n")
        assert letters == int(letters)
        assert files["test"].size == 100 * (letters + digits + 365 * len("val//Places365_val_00000001.jpg \n"))
        assert (files["val"].images, files["test"].images) == (20 * 365, 100 * 365)


class TestPlaces:
    def write(self, folder: Path, root: str = "train") -> dict[str, list[tuple[str, int]]]:
        """Three classes, one of which is in a folder of folders."""
        classes = [f"{root}/a/abbey", f"{root}/l/lake/natural", f"{root}/z/zoo"]
        lists = {
            "train": [(f"{name}/{j:08d}.jpg", k) for k, name in enumerate(classes) for j in range(4 - k)],
            "val": [(f"{name}/{9:08d}.jpg", k) for k, name in enumerate(classes)],
            "test": [(f"val_256/Places365_val_{k:08d}.jpg", k) for k in range(3)],
        }
        for part, lines in lists.items():
            write(folder / f"Places_LT_{part}.txt", "".join(f"{path} {label}\n" for path, label in lines))
            for k, (path, _) in enumerate(lines):
                write(folder / path, picture(20 * k))
        return lists

    def test_lists_and_tree(self, load: Callable, tmp_path: Path) -> None:
        lists = self.write(tmp_path, "data_256")
        data = load(dataset="places_lt", data_dir=tmp_path, list_dir=tmp_path)
        assert data.class_names == ["a/abbey", "l/lake/natural", "z/zoo"]
        assert data.class_counts.tolist() == [4, 3, 2]
        for part, lines in lists.items():
            images = getattr(data, part)
            assert list(zip(images.names, images.labels.tolist(), strict=True)) == lines
            assert [number_of(images[k][0]) for k in range(len(lines))] == [20 * k for k in range(len(lines))]

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        lists = self.write(tmp_path)
        with pytest.raises(ValueError, match=r"`--dataset places_lt` needs `--data_dir`, the folder that the paths of"):
            load(dataset="places_lt", list_dir=tmp_path)
        with pytest.raises(ValueError, match="nowhere' is no folder"):
            load(dataset="places_lt", list_dir=tmp_path, data_dir=tmp_path / "nowhere")
        (tmp_path / lists["test"][1][0]).unlink()
        with pytest.raises(ValueError, match=r"_test.txt` disagree: 1 of 3 .* of class 1 \(l/lake/natural\)\. The fir"):
            load(dataset="places_lt", list_dir=tmp_path, data_dir=tmp_path)


class TestFolder:
    def write(self, root: Path, sizes: dict[str, int], number: int = 0) -> Path:
        for name, size in sizes.items():
            for k in range(size):
                write(root / name / f"{k:02d}.jpg", picture(number := number + 5))
        return root

    def test_a_test_set_is_held_out(self, load: Callable, tmp_path: Path) -> None:
        root = self.write(tmp_path / "data", {"ant": 10, "bee": 5, "cat": 3})
        data = load(data_dir=root, test_per_class=2)
        assert data.class_names == ["ant", "bee", "cat"]
        assert data.class_counts.tolist() == [8, 3, 1]
        every = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
        chosen = ltaug.subsample(np.repeat([0, 1, 2], [10, 5, 3]), [2, 2, 2])
        assert list(data.test.names) == [every[k] for k in chosen]  # whatever order the disk has them in
        assert sorted([*data.train.names, *data.test.names]) == every
        for images in (data.train, data.test):
            for k, name in enumerate(images.names):
                assert abs(number_of(images[k][0]) - 5 * (every.index(name) + 1)) <= 1
                assert data.class_names[images[k][1]] == name.split("/")[0]
        assert list(load(data_dir=root, test_per_class=2, data_seed=1).test.names) != list(data.test.names)

    @pytest.mark.parametrize("profile", ["natural", "exponential"])
    def test_images_to_tune_on(self, load: Callable, profile: str, tmp_path: Path) -> None:
        root = self.write(tmp_path / "data", {"ant": 10, "bee": 6, "cat": 4})
        settings = {"data_dir": root, "test_per_class": 1, "profile": profile, "imbalance_ratio": 7.0}
        plain, data = load(**settings), load(**settings, held_out_per_class=2)
        assert list(data.test.names) == list(plain.test.names)
        assert data.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.class_counts.tolist() == ([7, 3, 1] if profile == "natural" else [7, 2, 1])
        parts = [set(images.names) for images in (data.train, data.val, data.test)]
        assert len(set.union(*parts)) == sum(map(len, parts)) == len(data.train) + 6 + 3
        with pytest.raises(ValueError, match=r"`held_out_per_class`=3 and a training .* class 2 \(cat\) has 3 "):
            load(**settings, held_out_per_class=3)

    @pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
    def test_splits(self, load: Callable, test: str, tmp_path: Path) -> None:
        self.write(tmp_path / "train", {"ant": 6, "bee": 3, "cat": 2})
        self.write(tmp_path / test, {"ant": 2, "cat": 1})
        data = load(data_dir=tmp_path)
        assert data.class_counts.tolist() == [6, 3, 2]
        assert data.test.labels.tolist() == [0, 0, 2]
        assert list(data.test.names) == ["ant/00.jpg", "ant/01.jpg", "cat/00.jpg"]
        assert number_of(data.test[2][0]) == 15
        self.write(tmp_path / test, {"dog": 1})
        with pytest.raises(ValueError, match=r"has folders that `.*train` has not: dog\. Both must have the same clas"):
            load(data_dir=tmp_path)

    def test_of_three_splits_one_is_to_tune_on(self, load: Callable, tmp_path: Path) -> None:
        for split, sizes in (("train", {"ant": 4, "bee": 3}), ("test", {"ant": 1, "bee": 1}), ("valid", {"bee": 2})):
            self.write(tmp_path / split, sizes)
        data = load(data_dir=tmp_path)
        assert (len(data.train), data.test.labels.tolist(), data.val.labels.tolist()) == (7, [0, 1], [1, 1])
        with pytest.raises(ValueError, match=r"`held_out_per_class` is 1, but .* has images to tune on"):
            load(data_dir=tmp_path, held_out_per_class=1)
        self.write(tmp_path / "unlabelled", {"x": 1})
        with pytest.raises(ValueError, match=r"folder train, so its folders are taken for splits.* it also has unlabe"):
            load(data_dir=tmp_path)

    def test_a_class_may_be_called_train(self, load: Callable, tmp_path: Path) -> None:
        self.write(tmp_path, {"car": 3, "train": 4})
        assert load(data_dir=tmp_path).class_names == ["car", "train"]

    def test_what_counts_as_an_image(self, load: Callable, tmp_path: Path) -> None:
        root = self.write(tmp_path / "data", {"ant": 3, "bee": 3})
        (root / "ant" / "00.jpg").rename(write(root / "ant" / "deeper" / "still" / "x").with_name("BIG.JPEG"))
        for name in ("ant/._01.jpg", "ant/notes.txt", ".trash/00.jpg", "00.jpg"):
            write(root / name)
        data = load(data_dir=root)
        assert data.class_counts.tolist() == [2, 2]
        assert "ant/deeper/still/BIG.JPEG" in [*data.train.names, *data.test.names]

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        def fails(message: str, **changes: object) -> None:
            with pytest.raises(ValueError, match=message):
                load(**{"data_dir": tmp_path / "data"} | changes)

        fails("`--dataset folder` needs `--data_dir`, a folder with a folder of images for each class", data_dir=None)
        fails("data' is no folder")
        (tmp_path / "data").mkdir()
        fails(r"data` has no folders\. Make one for each class")
        self.write(tmp_path / "data", {"ant": 3})
        fails("must have at least two classes, but has 1: ant")
        self.write(tmp_path / "data", {"bee": 2})
        fails(r"`test_per_class`=2 and a .* need 3 images .* class 1 \(bee\) has 2 \(1 of 2 cl", test_per_class=2)
        fails("`test_per_class` must be at least 1, but is 0", test_per_class=0)
        fails("`imbalance_ratio`=9 leaves class 1 without training images", profile="step", imbalance_ratio=9)
        fails(
            r"asks for 2 .* class 1 \(bee\), but there are 1 .*`--profile natural`", profile="step", imbalance_ratio=1
        )
        write(tmp_path / "data" / "cat" / "notes.txt")
        fails(r"folder of class 'cat' in `.*` has no images \(\.jpg.*\)\. Remove it, or fill it")

    def test_many_files_take_little_time(self, modules: SimpleNamespace, tmp_path: Path) -> None:
        for k in range(50):
            (tmp_path / f"{k:02d}").mkdir()
            for j in range(60):
                (tmp_path / f"{k:02d}" / f"{j}.jpg").touch()
        begin = time.process_time()
        labels, names = modules.data.scan(tmp_path, modules.data.subfolders(tmp_path))
        assert time.process_time() - begin < 0.3
        assert len(names) == len(labels) == 3000


class TestHub:
    def write(
        self, folder: Path, splits: dict[str, list], names: tuple[str, ...] | None = None, **changes: object
    ) -> Path:
        for split, labels in splits.items():
            images = [{"bytes": picture(5 * k), "path": f"{split}{k}.jpg"} for k in range(len(labels))]
            write_parquet(folder / f"{split}-0.parquet", changes.get("images", images), labels, names)
        return folder

    def test_columns_splits_and_names(self, load: Callable, modules: SimpleNamespace, tmp_path: Path) -> None:
        folder = self.write(tmp_path, {"train": [2, 0, 0, 1, 0, 1], "validation": [1, 2]}, ("ant", "bee", "cat"))
        data = load(dataset="hub", data_dir=folder)
        assert data.class_names == ["ant", "bee", "cat"]
        assert data.class_counts.tolist() == [3, 2, 1]
        assert list(data.train.names) == [f"train{k}.jpg" for k in range(6)]
        assert [number_of(data.train[k][0]) for k in range(6)] == [0, 5, 10, 15, 20, 25]
        assert [data.test[k][1] for k in range(2)] == [1, 2]
        assert data.index_hash == ltaug.index_hash(range(6))
        copy = pickle.loads(pickle.dumps(data.train.open))
        assert copy.images is None
        assert number_of(copy(3, "")) == 15
        thin = load(dataset="hub", data_dir=folder, profile="pareto", imbalance_ratio=3)
        assert thin.class_counts.tolist() == [3, 1, 1]
        chosen = ltaug.subsample([2, 0, 0, 1, 0, 1], [3, 1, 1])
        assert thin.index_hash == ltaug.index_hash(chosen)
        assert [number_of(thin.train[k][0]) for k in range(5)] == [5 * k for k in chosen.tolist()]

    def test_a_test_set_is_held_out(self, load: Callable, tmp_path: Path) -> None:
        labels = [0, 1] * 5
        images = [{"bytes": picture(5 * k), "path": None} for k in range(10)]
        data = load(dataset="hub", data_dir=self.write(tmp_path, {"train": labels}, images=images), test_per_class=2)
        held_out = ltaug.subsample(labels, [2, 2]).tolist()
        assert list(data.test.names) == [f"train {k}" for k in held_out]
        assert [number_of(data.test[k][0]) for k in range(4)] == [5 * k for k in held_out]
        assert data.class_names == ["0", "1"]
        assert sorted([*data.train.names, *data.test.names]) == [f"train {k}" for k in range(10)]

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "good", {"train": [0, 1, 0, 1], "test": [-1, -1]}, ("ant", "bee"))

        def fails(message: str, **changes: object) -> None:
            with pytest.raises(ValueError, match=message):
                load(**{"dataset": "hub", "data_dir": folder} | changes)

        fails("`--dataset hub` needs `--hub_id`, a data set of the hub, or `--data_dir`", data_dir=None)
        fails(r"range from -1 to -1\..* `--label_column`, or another split with `--test_split`")
        fails("has no split named 'dev', but train, test.* with `--test_split`; a folder's", test_split="dev")
        fails("has no split named 'dev', but .* with `--train_split`", train_split="dev")
        fails("`test_split` must not be the training split, 'train'", test_split="train")
        fails("no column 'img' in its train split, but image, label.* `--image_column`", image_column="img")
        fails("no column 'fine' in its train split, but .* with `--label_column`", label_column="fine")
        fails("must hold images in 'label', but holds ClassLabel.*`--image_column`", image_column="label")
        fails("must hold class indices in 'image', but image 0 of its train split has", label_column="image")
        fails(r"nowhere' is no folder\. Leave it out to read a/b from the hub", data_dir="nowhere", hub_id="a/b")
        (tmp_path / "empty").mkdir()
        fails(r"cannot be read as a data set: .* with `--dataset folder`", data_dir=tmp_path / "empty")
        folder = self.write(tmp_path / "gaps", {"train": [0, 2, 0, 2], "test": [0]})
        fails(r"Class 1 \(1\) has no training images \(1 of 3 classes have none\)")
        folder = self.write(tmp_path / "null", {"train": [0, 1, None, 1], "test": [0]})
        fails("must hold class indices in 'label', but image 2 of its train split has None")

    @pytest.mark.parametrize("stream", [False, True])
    def test_the_gated_hub(self, load: Callable, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
        """Without a token, and with one of somebody who has not accepted the terms."""
        import datasets

        said = iter(["is a gated dataset on the Hub. You must be authenticated", "GatedRepoError: 403", "no route"])

        def refused(source: str) -> None:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{source}' {next(said)}")

        monkeypatch.setattr(datasets, "load_dataset_builder" if stream else "load_dataset", refused)
        where = "https://huggingface.co/datasets/some/images"
        for _ in range(2):
            with pytest.raises(ConnectionError, match=rf"'some/images' .* Accept them at {where}, then .*set HF_TOKEN"):
                load(dataset="hub", hub_id="some/images", stream=stream)
        with pytest.raises(ConnectionError, match=r"'some/images' could not be loaded .*no route"):
            load(dataset="hub", hub_id="some/images", stream=stream)

    @pytest.mark.skipif(not CIFAR100.is_dir(), reason="CIFAR-100 is not here")
    def test_cifar_100(self, load: Callable) -> None:
        data = load(
            dataset="hub",
            data_dir=CIFAR100,
            image_column="img",
            label_column="fine_label",
            profile="exponential",
            imbalance_ratio=100,
        )
        assert data.index_hash.startswith("8222d7cf6759")  # the subset of the recipe cifar_lt
        assert data.class_counts.tolist() == ltaug.exponential_counts(500, 100, 100).tolist()
        assert data.class_names[:2] == ["apple", "aquarium_fish"]
        assert len(data.test) == 10_000
        assert data.train[0][0].size == (32, 32)


def test_digits_are_those_of_cifar_lt(load: Callable, modules: SimpleNamespace) -> None:
    settings = {"dataset": "digits", "profile": "exponential", "imbalance_ratio": 10.0, "data_seed": 3}
    data = load(**settings, test_per_class=60)
    with recipe("cifar_lt", "data") as cifar:
        theirs = cifar.data.load_data(SimpleNamespace(**settings, held_out_per_class=0))
    assert data.index_hash == theirs.index_hash
    for ours, images, labels in (
        (data.train, theirs.train_images, theirs.train_labels),
        (data.test, theirs.test_images, theirs.test_labels),
    ):
        assert ours.labels.tolist() == labels.tolist()
        image, label = ours[7]
        assert (image.size, image.mode, label) == ((64, 64), "RGB", int(labels[7]))
        small = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(small.ravel(), images[7, :, :, 0].numpy().ravel())[0, 1] > 0.9
    data.train.transform = lambda image: image.size
    assert data.train[0] == ((64, 64), 0)


class TestImages:
    def images(self, modules: SimpleNamespace, root: Path, labels: list[int], names: list[str]) -> SimpleNamespace:
        """A set of files."""
        part = modules.data.Part(
            torch.tensor(labels), modules.data.Names(names), torch.arange(len(names)), modules.data.Files(root)
        )
        return modules.data.ImageSet(part)

    def test_every_kind_comes_as_rgb(self, modules: SimpleNamespace) -> None:
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        grey = np.stack([ramp] * 3, axis=-1)
        palette = Image.fromarray(grey).quantize(256)
        transparent = Image.fromarray(np.dstack([grey, 255 - ramp]))
        kinds = {
            "grey": (Image.fromarray(ramp), "PNG"),
            "16 bits": (Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
            "16 bits, TIFF": (Image.fromarray(ramp.astype(np.uint16) * 257), "TIFF"),
            "32 bits": (Image.fromarray(ramp.astype(np.int32) * 257), "TIFF"),
            "grey JPEG": (Image.fromarray(ramp), "JPEG"),
            "CMYK": (Image.fromarray(grey).convert("CMYK"), "JPEG"),
            "palette": (palette, "PNG"),
            "GIF": (palette, "GIF"),
            "transparent": (transparent, "PNG"),
            "grey and alpha": (transparent.convert("LA"), "PNG"),
            "WebP": (Image.fromarray(grey), "WEBP"),
        }
        for name, (image, kind) in kinds.items():
            file = io.BytesIO()
            image.save(file, kind, quality=100)
            read = modules.data.to_rgb(Image.open(file))
            assert (read.mode, read.size) == ("RGB", (16, 16)), name
            assert np.abs(np.asarray(read).astype(int) - grey).max() <= 8, name
        black = Image.new("1", (3, 3))
        assert modules.data.to_rgb(black).mode == "RGB"

    @pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
    def test_exif_says_what_is_up(self, modules: SimpleNamespace, orientation: int, turned: int) -> None:
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[:, :8] = 255
        image, file = Image.fromarray(pixels), io.BytesIO()
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(file, "JPEG", exif=exif, quality=100)
        read = np.asarray(modules.data.to_rgb(Image.open(file)))
        assert np.abs(read.astype(int) - np.rot90(pixels, turned)).max() < 20

    def test_broken_images_are_replaced_by_others_of_their_class(
        self, modules: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        big = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(big, "JPEG")
        contents = [picture(0), big.getvalue()[:-900], picture(20), b"no picture", None, picture(50), picture(60)[:9]]
        for k, content in enumerate(contents):
            if content is not None:
                write(tmp_path / f"{k}.jpg", content)
        images = self.images(modules, tmp_path, [0, 1, 0, 0, 1, 1, 0], [f"{k}.jpg" for k in range(7)])
        images.transform = number_of
        for _ in range(2):
            assert [images[k] for k in range(7)] == [(0, 0), (50, 1), (20, 0), (0, 0), (50, 1), (50, 1), (0, 0)]
        assert images.unreadable == 4
        lines = capsys.readouterr().err.splitlines()
        assert sorted(line.split("'")[1] for line in lines) == ["1.jpg", "3.jpg", "4.jpg", "6.jpg"]
        assert lines[0].startswith("Warning: the image '1.jpg' cannot be read (")
        assert (
            "'3.jpg' cannot be read (of no kind that Pillow knows) and is replaced by another one of its class."
            in (lines[-2])
        )

    def test_of_a_class_without_a_readable_image_others_take_the_place(
        self, modules: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number, name in ((9, "good.jpg"), (20, "last.jpg")):
            write(tmp_path / name, picture(number))
        images = self.images(modules, tmp_path, [0, 1, 1, 2], ["good.jpg", "a.jpg", "b.jpg", "last.jpg"])
        for _ in range(2):
            found = [(number_of(image), label) for image, label in (images[k] for k in range(4))]
            assert found == [(9, 0), (20, 2), (20, 2), (20, 2)]  # with their own labels
        said = capsys.readouterr().err
        assert said.count("of class 1 none of the 2 images can be read") == 1
        assert said.count("Warning:") == 3
        assert images.unreadable == 2

    def test_a_transform_that_fails_is_no_broken_image(self, modules: SimpleNamespace, tmp_path: Path) -> None:
        write(tmp_path / "good.jpg", picture(9))
        images = self.images(modules, tmp_path, [0], ["good.jpg"])
        images.transform = lambda image: image.nothing
        with pytest.raises(AttributeError, match="nothing"):
            images[0]
        assert images.unreadable == 0

    def test_workers_count_together(
        self, modules: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for k in range(12):
            write(tmp_path / f"{k}.jpg", picture(10 * k) if k % 3 else b"no picture")
        images = self.images(modules, tmp_path, [0] * 12, [f"{k}.jpg" for k in range(12)])
        images.transform = number_of
        loader = torch.utils.data.DataLoader(images, batch_size=2, num_workers=2, multiprocessing_context="fork")
        numbers = torch.cat([batch[0] for batch in loader]).tolist()
        assert numbers == [10 * k if k % 3 else 10 * (k + 1) for k in range(12)]
        assert images.unreadable == 4
        assert torch.cat([batch[0] for batch in loader]).tolist() == numbers
        assert capfd.readouterr().err.count("cannot be read") == 4

    def test_a_spawned_worker_shares_the_count(self, modules: SimpleNamespace, tmp_path: Path) -> None:
        images = self.images(modules, tmp_path, [0, 0], ["a.jpg", "b.jpg"])
        copy = pickle.loads(ForkingPickler.dumps(images))
        copy.broken[1] = 1
        assert images.unreadable == 1

    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))), st.data())
    @settings(deadline=None, max_examples=50)
    def test_names(self, modules: SimpleNamespace, names: list[str], data: st.DataObject) -> None:
        packed = modules.data.Names(names)
        assert list(packed) == names
        chosen = data.draw(st.lists(st.integers(0, len(names) - 1))) if names else []
        taken = packed.take(torch.tensor(chosen, dtype=torch.long))
        assert list(taken) == [names[k] for k in chosen]
        assert taken.block is packed.block

    def test_names_need_little_memory(self, modules: SimpleNamespace) -> None:
        packed = modules.data.Names(f"train_val2018/Plantae/{k % 8142}/{k:032x}.jpg" for k in range(10_000))
        assert len(packed.block) + packed.ends.nbytes + packed.places.nbytes < 85 * len(packed)
        assert packed[9_999].endswith(f"{9_999:032x}.jpg")
