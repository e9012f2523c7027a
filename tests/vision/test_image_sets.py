"""The published sets by their lists: ImageNet-LT in tables and trees, Places-LT, iNaturalist 2018, JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_support import names_of, number_of, picture, write, write_parquet
from test_image_lists import archive, content

from ltaug.vision.image_set import Images, ImageSet
from ltaug.vision.published_sets import read_imagenet_lt, read_inaturalist_2018, read_json_lists, read_places_lt

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
HUB_NAMES = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark", "tiger shark")
SIZES = (5, 3, 2, 2)
"""Of the training list, by its labels, which are those of the hub in reverse."""


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
        return 5 * [stem for _, stem in self.train + self.validation].index(Path(path).stem)

    def write_lists(self, folder: Path) -> str:
        for part, lines in self.lists.items():
            write(folder / f"ImageNet_LT_{part}.txt", "".join(f"{path} {label}\n" for path, label in lines))
        return str(folder)

    def write_rows(self, folder: Path, change: Callable = lambda rows: rows) -> str:
        """As the hub has them, in another order than the lists'; its test split has no labels."""
        order = np.random.default_rng(1)
        for split, images in (("train", self.train), ("validation", self.validation)):
            rows = [
                ({"bytes": picture(self.number(stem)), "path": f"{stem}_{wnid}.JPEG"}, WNIDS.index(wnid))
                for wnid, stem in images
            ]
            rows = change([rows[k] for k in order.permutation(len(rows))])
            for part in range(2):
                path = folder / "data" / f"{split}-0000{part}-of-00002.parquet"
                write_parquet(path, *map(list, zip(*rows[part::2], strict=True)), HUB_NAMES)
        unlabelled = [{"bytes": picture(0), "path": "ILSVRC2012_test_00000001.JPEG"}]
        write_parquet(folder / "data" / "test-00000-of-00001.parquet", unlabelled, [-1], HUB_NAMES)
        return str(folder)

    def write_tree(self, folder: Path, flat: bool = False) -> str:
        for split, images in (("train", self.train), ("val", self.validation)):
            for wnid, stem in images:
                place = folder / split if flat and split == "val" else folder / split / wnid
                write(place / f"{stem}.JPEG", picture(self.number(stem)))
        return str(folder)


@pytest.fixture
def fake() -> FakeImageNet:
    return FakeImageNet()


class TestImageNet:
    def the_lists(self, splits: dict[str, Images], fake: FakeImageNet) -> None:
        """What the images are, whatever they come from."""
        for part, listed in fake.lists.items():
            images = splits[part]
            assert names_of(images) == [path for path, _ in listed]
            assert images.labels.tolist() == [label for _, label in listed]
            decoded = ImageSet(images)
            for k, (path, label) in enumerate(listed):
                image, found = decoded[k]
                assert found == label
                assert abs(number_of(image) - fake.number(path)) <= 1
            assert decoded.unreadable == 0

    def test_the_hubs_rows(self, fake: FakeImageNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names, splits = read_imagenet_lt(fake.write_rows(tmp_path / "hub"), fake.write_lists(tmp_path / "lists"))
        self.the_lists(splits, fake)
        assert names == list(reversed(HUB_NAMES))
        assert "not the published lists of ImageNet-LT" in capsys.readouterr().err

    @pytest.mark.parametrize("flat", [False, True])
    def test_a_folder_tree(self, fake: FakeImageNet, flat: bool, tmp_path: Path) -> None:
        tree = fake.write_tree(tmp_path / "tree", flat)
        names, splits = read_imagenet_lt(tree, fake.write_lists(tmp_path / "lists"))
        assert names == list(reversed(WNIDS))
        if flat:
            fake.lists["test"] = [(f"val/{path.split('/')[-1]}", label) for path, label in fake.lists["test"]]
        self.the_lists(splits, fake)

    def test_nothing_is_decoded_while_loading(self, fake: FakeImageNet, tmp_path: Path) -> None:
        garbage = lambda rows: [({"bytes": b"none", "path": file["path"]}, label) for file, label in rows]  # noqa: E731
        rows = fake.write_rows(tmp_path / "hub", garbage)
        _, splits = read_imagenet_lt(rows, fake.write_lists(tmp_path / "lists"))
        train = ImageSet(splits["train"])
        with pytest.raises(ValueError, match="None of the 12 images can be read, the first of which is 'tr"):
            train[0]
        assert train.unreadable == 12

    def test_a_set_that_lacks_images(self, fake: FakeImageNet, tmp_path: Path) -> None:
        lists = fake.write_lists(tmp_path / "lists")
        gone = [path for path, _ in fake.lists["train"]][1:12]
        suffixed = {f"{Path(path).stem}_{Path(path).parent.name}.JPEG" for path in gone}
        rows = fake.write_rows(tmp_path / "hub", lambda rows: [row for row in rows if row[0]["path"] not in suffixed])
        message = (
            r"disagree: 11 of 12 images are not there, among them all images of class 1 \(n01484850\), "
            rf"2 \(n01443537\), 3 \(n01440764\)\. The first are {', '.join(gone[:10])}, \.\.\.\.$"
        )
        with pytest.raises(ValueError, match=r"^The train split of '.*hub' and `.*ImageNet_LT_train.txt` " + message):
            read_imagenet_lt(rows, lists)
        tree = fake.write_tree(tmp_path / "tree")
        for path in gone:
            (tmp_path / "tree" / path).unlink()
        with pytest.raises(ValueError, match=r"^`data_dir` '.*tree' and `.*ImageNet_LT_train.txt` " + message):
            read_imagenet_lt(tree, lists)

    def test_rows_of_other_names_and_labels(self, fake: FakeImageNet, tmp_path: Path) -> None:
        lists = fake.write_lists(tmp_path / "lists")
        short = lambda rows: [({**file, "path": f"{k}.jpg"}, label) for k, (file, label) in enumerate(rows)]  # noqa: E731
        with pytest.raises(ValueError, match=r"12 of 12 images are not there.* It has other names, such as '\d+\.jpg'"):
            read_imagenet_lt(fake.write_rows(tmp_path / "short", short), lists)
        stray = fake.lists["train"][4][0]
        moved = lambda rows: [  # noqa: E731
            (file, 0 if Path(stray).stem in file["path"] else label) for file, label in rows
        ]
        with pytest.raises(ValueError, match=rf"train split of .* has 1 images in other classes than .*: {stray}\.$"):
            read_imagenet_lt(fake.write_rows(tmp_path / "moved", moved), lists)

    def test_lists_with_other_classes_than_their_folders(self, fake: FakeImageNet, tmp_path: Path) -> None:
        lines = fake.lists["val"]
        fake.lists["val"] = [(lines[0][0], 1)]
        with pytest.raises(ValueError, match=r"_val.txt` has '.*' in class 1, which is n01484850 in .*_train"):
            read_imagenet_lt(str(tmp_path), fake.write_lists(tmp_path / "lists"))
        fake.lists |= {"val": lines, "test": [("val/x.JPEG", 0)]}
        with pytest.raises(ValueError, match=r"has 'val/x.JPEG' in class 0, which is n01491361"):
            read_imagenet_lt(str(tmp_path), fake.write_lists(tmp_path / "lists"))

    def test_the_gated_hub(self, fake: FakeImageNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        reasons = iter(["is a gated dataset on the Hub", "no route"])

        def refused(source: str) -> None:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{source}' {next(reasons)}")

        monkeypatch.setattr(datasets, "load_dataset", refused)
        lists = fake.write_lists(tmp_path / "lists")
        terms = r"Accept them at https://huggingface.co/datasets/ILSVRC/imagenet-1k, then log in with `hf auth login`"
        with pytest.raises(ConnectionError, match=terms):
            read_imagenet_lt(None, lists)
        with pytest.raises(ConnectionError, match=r"could not be loaded .*no route.*HF_HUB_OFFLINE=1"):
            read_imagenet_lt(None, lists)


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

    def test_lists_and_tree(self, tmp_path: Path) -> None:
        lists = self.write(tmp_path, "data_256")
        names, splits = read_places_lt(str(tmp_path), str(tmp_path))
        assert names == ["a/abbey", "l/lake/natural", "z/zoo"]
        for part, lines in lists.items():
            images = splits[part]
            assert list(zip(names_of(images), images.labels.tolist(), strict=True)) == lines
            decoded = ImageSet(images)
            assert [number_of(decoded[k][0]) for k in range(len(lines))] == [20 * k for k in range(len(lines))]

    def test_faults(self, tmp_path: Path) -> None:
        lists = self.write(tmp_path)
        with pytest.raises(ValueError, match=r"`data_dir` must be the folder that the paths of Places-LT"):
            read_places_lt(None, str(tmp_path))
        with pytest.raises(ValueError, match="nowhere' is no folder"):
            read_places_lt(str(tmp_path / "nowhere"), str(tmp_path))
        (tmp_path / lists["test"][1][0]).unlink()
        with pytest.raises(ValueError, match=r"_test.txt` disagree: 1 of 3 .* of class 1 \(l/lake/natural\)\. The fir"):
            read_places_lt(str(tmp_path), str(tmp_path))

    def test_lists_and_a_table(self, tmp_path: Path) -> None:
        """By as many parts of the paths as tell the images apart; rows in another order, and others between them."""
        lists = self.write(tmp_path / "tree")
        for split, parts in (("train", ("train", "val")), ("validation", ("test",))):
            lines = [(f"easy/{path}", 20 * k) for part in parts for k, (path, _) in enumerate(lists[part])]
            lines = [("easy/z/zoo/77777777.jpg", 250), *reversed(lines)]
            images = [{"path": path, "bytes": picture(number)} for path, number in lines]
            write_parquet(tmp_path / "table" / f"{split}.parquet", images, [0] * len(images))
        names, splits = read_places_lt(str(tmp_path / "table"), str(tmp_path / "tree"))
        assert names == ["a/abbey", "l/lake/natural", "z/zoo"]
        for part, lines in lists.items():
            assert list(zip(names_of(splits[part]), splits[part].labels.tolist(), strict=True)) == lines
            decoded = ImageSet(splits[part])
            assert [number_of(decoded[k][0]) for k in range(len(lines))] == [20 * k for k in range(len(lines))]

    def test_a_table_of_other_images(self, tmp_path: Path) -> None:
        self.write(tmp_path / "tree")
        for split in ("train", "validation"):
            images = [{"path": f"{k}.jpg", "bytes": picture(k)} for k in range(3)]
            write_parquet(tmp_path / "table" / f"{split}.parquet", images, [0] * 3)
        with pytest.raises(ValueError, match=r"9 of 9 images are not there.* It has other names, such as '0\.jpg'"):
            read_places_lt(str(tmp_path / "table"), str(tmp_path / "tree"))
        with pytest.raises(ValueError, match=r"`hub_id` names a data set of the hub, and `data_dir` a folder"):
            read_places_lt(str(tmp_path / "table"), str(tmp_path / "tree"), hub_id="owner/places")


def write_tree(folder: Path, *contents: dict[str, Any]) -> Path:
    """The images of JSON files."""
    for each in contents:
        for image in each["images"]:
            write(folder / image["file_name"], picture(10 * image["id"]))
    return folder


class TestINaturalist:
    TRAIN, TEST = content(7), content(3, 7)

    def the_seven(self, splits: dict[str, Images]) -> None:
        """Seven training and three test images of `content`, classes in the order of their ids."""
        assert splits["train"].labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
        assert splits["test"].labels.tolist() == [0, 1, 2]
        train, test = ImageSet(splits["train"]), ImageSet(splits["test"])
        assert [number_of(train[k][0]) for k in range(7)] == [10 * k for k in range(7)]
        assert [number_of(test[k][0]) for k in range(3)] == [70, 80, 90]

    @pytest.mark.parametrize("packed", [False, True])
    def test_lists_and_tree(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool) -> None:
        """Beside the images; then in a folder of their own, with the species' names."""
        write_tree(tmp_path, self.TRAIN, self.TEST)
        for folder in (tmp_path, tmp_path / "lists"):
            for name, value in (("train2018.json", self.TRAIN), ("val2018.json", self.TEST)):
                if packed:
                    write(folder / f"{name}.tar.gz", archive(name, value))
                else:
                    write(folder / name, json.dumps(value, ensure_ascii=False))
        names, splits = read_inaturalist_2018(str(tmp_path))
        self.the_seven(splits)
        assert names == ["name3", "name7", "name40"]
        assert (
            "Warning: these are not the published lists of iNaturalist 2018, and results on them do not compare with "
            "published ones: 3 classes instead of 8142, 3 images in the largest class instead of 1000, 7 train images "
            "instead of 437513, 3 test images instead of 24426.\n" in capsys.readouterr().err
        )
        table = tmp_path.with_name(f"{tmp_path.name}_table")
        for split, each in (("train", self.TRAIN), ("validation", self.TEST)):
            images = [{"path": image["file_name"], "bytes": picture(10 * image["id"])} for image in each["images"]]
            write_parquet(table / f"{split}.parquet", images, [0] * len(images))
        self.the_seven(read_inaturalist_2018(str(table), str(tmp_path / "lists"))[1])
        species = [{"id": 7, "name": "Bellis perennis"}, {"id": 3, "name": "Abies alba"}, {"id": 99, "name": "other"}]
        write(tmp_path / "lists" / "categories.json", json.dumps(species))
        names, splits = read_inaturalist_2018(str(tmp_path), str(tmp_path / "lists"))
        self.the_seven(splits)
        assert names == ["Abies alba", "Bellis perennis", "name40"]

    def test_faults(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"`data_dir` must be the folder that has train_val2018/"):
            read_inaturalist_2018(None)
        with pytest.raises(ValueError, match="`data_dir` 'nowhere' is no folder"):
            read_inaturalist_2018("nowhere")
        write(tmp_path / "train2018.json", json.dumps(self.TRAIN))
        message = r"has no val2018\.json, nor val2018\.json\.tar\.gz\. Leave it out to download"
        with pytest.raises(ValueError, match=message):
            read_inaturalist_2018(str(tmp_path), str(tmp_path))
        write(tmp_path / "val2018.json", json.dumps(self.TEST))
        write(tmp_path / "categories.json", '{"images": []}')
        with pytest.raises(ValueError, match=r"categories\.json` must be a JSON list of categories \(id, name\), but"):
            read_inaturalist_2018(str(tmp_path))

    def test_json_files_of_any_set(self, tmp_path: Path) -> None:
        write_tree(tmp_path, self.TRAIN, self.TEST)
        files = {name: write(tmp_path / f"{name}.json", json.dumps(getattr(self, name))) for name in ("TRAIN", "TEST")}
        names, splits = read_json_lists(str(tmp_path), str(files["TRAIN"]), "TEST.json")  # absolute; in `data_dir`
        self.the_seven(splits)
        assert names == ["name3", "name7", "name40"]
        for setting, words in (("train_json", (None, "TEST.json")), ("test_json", ("TRAIN.json", None))):
            with pytest.raises(ValueError, match=f"`{setting}` must name the JSON file that lists the t"):
                read_json_lists(str(tmp_path), *words)
        spelled = content(3, 7)
        spelled["images"][0]["file_name"] = self.TRAIN["images"][4]["file_name"].upper()  # finds the training image
        write(tmp_path / "TEST.json", json.dumps(spelled))
        with pytest.raises(
            ValueError, match=r"0+4\.jpg' is in `.*TRAIN\.json` and in `.*TEST\.json`\. An image must be"
        ):
            read_json_lists(str(tmp_path), "TRAIN.json", "TEST.json")
        with pytest.raises(ValueError, match=r"`test_json` 'nothing\.json' is no file, neither here nor in `data_dir`"):
            read_json_lists(str(tmp_path), "TRAIN.json", "nothing.json")
