"""Folders of classes as people, other systems and other programs leave them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from ltaug.errors import UserError
from ltaug.loaders.folders import class_folders, evaluation_splits, natural_order, printable, source_name


def is_text(path: str) -> bool:
    return path.endswith(".txt")


def write(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("sample")
    return root


def linked(link: Path, target: str | Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("no links on this system")


def found(root: Path) -> dict[str, list[str]]:
    """File names by class, of the training split."""
    names, splits = class_folders(root, is_text)
    files = splits["train"]
    assert [os.path.join(root, name) for name in files.names] == [files.path(k) for k in range(len(files.names))]
    return {name: [files.names[i] for i in (files.labels == k).nonzero()[:, 0]] for k, name in enumerate(names)}


def test_files_are_in_the_order_of_their_names_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path, "b/2.txt", "b/10.txt", "a/z.txt", "a/deep/er/1.txt", "a/b.txt", "readme.txt")
    assert found(tmp_path) == {"a": ["a/b.txt", "a/deep/er/1.txt", "a/z.txt"], "b": ["b/10.txt", "b/2.txt"]}


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    numbers = [f"{k}/x.txt" for k in range(12)]
    assert list(found(write(tmp_path / "numbers", *numbers))) == [str(k) for k in range(12)]
    words = ["class 10/x.txt", "class 9/x.txt", "Class 1/x.txt", "007/x.txt", "8/x.txt"]
    assert list(found(write(tmp_path / "words", *words))) == ["007", "8", "Class 1", "class 9", "class 10"]
    assert sorted(["a", "", "1", "a1", "1a"], key=natural_order) == ["", "1", "1a", "a", "a1"]


def test_what_other_programs_leave_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junk = ["__MACOSX/a/x.txt", ".trash/x.txt", "@eaDir/x.txt", "a/._1.txt", "a/.ipynb_checkpoints/x.txt"]
    junk += ["lost+found/x.txt", "a/@Recycle/x.txt", "$RECYCLE.BIN/x.txt", "Temporary Items/x.txt", "b/ehthumbs.db"]
    junk += ["a/1.txt:Zone.Identifier", "FOUND.000/x.txt", "a/Icon\r"]
    write(tmp_path, "a/1.txt", "b/1.txt", "a/Thumbs.db", "b/desktop.ini", *junk)
    assert found(tmp_path) == {"a": ["a/1.txt"], "b": ["b/1.txt"]}
    assert capsys.readouterr().err == ""


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1.txt", "b/1.txt", "a/1.M4A", "a/2.m4a", "b/notes", "b/3.pdf")
    assert sum(map(len, found(tmp_path).values())) == 2
    said = "Warning: 4 files are left out, since they are no samples (.m4a: 2, .pdf: 1, no suffix: 1).\n"
    assert capsys.readouterr().err == said


def test_copies_and_unfinished_files_are_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1.txt", "b/1.txt", "b/1.txt.bak", "b/1.txt~", "b/2.txt.part", "a/3.TXT.crdownload")
    _, splits = class_folders(tmp_path, lambda path: True)  # as if a look into them found samples
    assert splits["train"].labels.tolist() == [0, 1]
    said = "4 files are left out, since they are no samples (.bak: 1, .crdownload: 1, .part: 1, .txt~: 1)"
    assert said in capsys.readouterr().err


def test_samples_beside_the_folders_of_classes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path, "train/a/1.txt", "train/b/1.txt", "test/a/1.txt", "0.txt", "train/2.txt", "test/3.txt", "test/4.pdf"
    )
    _, splits = class_folders(tmp_path, is_text)
    assert [len(files.names) for files in splits.values()] == [2, 1]
    assert capsys.readouterr().err == (
        "Warning: 3 samples lie outside the folders of the classes, and are left out: train/2.txt, test/3.txt, 0.txt.\n"
    )


def test_linked_folders_are_followed_once_and_loops_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "elsewhere", "pool/1.txt", "more/2.txt", "more/deep/3.txt")
    root = write(tmp_path / "data", "a/1.txt", "b/1.txt", "b/sub/2.txt")
    linked(root / "c", tmp_path / "elsewhere" / "pool")  # a class that is a link
    linked(root / "a" / "more", tmp_path / "elsewhere" / "more")
    linked(root / "a" / "again", tmp_path / "elsewhere" / "more")  # the same clips would be trained and tested on
    linked(root / "b" / "all", "..")
    linked(root / "b" / "here", ".")
    linked(root / "b" / "sub" / "up", root / "b")
    linked(tmp_path / "elsewhere" / "more" / "home", root / "a")
    assert found(root) == {
        "a": ["a/1.txt", "a/again/2.txt", "a/again/deep/3.txt"],
        "b": ["b/1.txt", "b/sub/2.txt"],
        "c": ["c/1.txt"],
    }
    assert "leads to a folder that it lies in, and is not followed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("train/b/more", "../a", r"folders 'train/a' and 'train/b' in .* samples in common: both lead to '.*/train/a'"),
        ("train/c", "a", r"'train/a' and 'train/c' .* Remove the link from one of them"),
        ("test", "train", r"'train/a' and 'test/a'"),  # tested on what is trained on
    ],
)
def test_links_that_make_two_classes_or_splits_of_one_folder(
    tmp_path: Path, link: str, target: str, message: str
) -> None:
    write(tmp_path, "train/a/1.txt", "train/b/1.txt")
    linked(tmp_path / link, target)
    with pytest.raises(ValueError, match=message):
        class_folders(tmp_path, is_text)


def test_linked_files_count_once_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "data", "a/1.txt", "b/1.txt")
    write(tmp_path, "pool/x.txt")
    linked(root / "a" / "best.txt", "1.txt")
    linked(root / "a" / "x.txt", tmp_path / "pool" / "x.txt")
    linked(root / "a" / "y.txt", tmp_path / "pool" / "x.txt")
    assert found(root) == {"a": ["a/1.txt", "a/x.txt"], "b": ["b/1.txt"]}
    assert capsys.readouterr().err == ""
    linked(root / "b" / "2.txt", "../a/1.txt")
    linked(root / "b" / "x.txt", tmp_path / "pool" / "x.txt")
    assert found(root)["b"] == ["b/1.txt", "b/2.txt", "b/x.txt"]
    assert "2 links lead to samples that another class or split has, too: b/2.txt, b/x.txt." in capsys.readouterr().err


def test_links_to_nothing_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1.txt", "b/1.txt")
    for link, target in (("b/2.txt", "nowhere"), ("b/self", "self"), ("c", "moved away")):
        linked(tmp_path / link, target)
    assert list(found(tmp_path)) == ["a", "b"]
    assert capsys.readouterr().err == "Warning: 3 links lead to nothing, and are left out: b/2.txt, b/self, c.\n"


def test_pipes_sockets_and_devices_are_left_out(tmp_path: Path, pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "data", "a/1.txt", "b/1.txt")
    os.link(pipe, root / "a" / "2.txt")
    linked(root / "b" / "2.txt", pipe)
    linked(root / "b" / "3.txt", "/dev/zero")
    assert class_folders(root, lambda path: bool(Path(path).read_bytes()) or True)[0] == ["a", "b"]
    assert capsys.readouterr().err == (
        "Warning: 3 pipes, sockets or devices are no files, and are left out: a/2.txt, b/2.txt, b/3.txt.\n"
    )


def test_names_that_differ_in_case_or_spaces_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "Ant/1.txt", "ant/1.txt", "big bee/1.txt", "big  bee/1.txt", "nan/1.txt")
    assert len(found(tmp_path)) == 5
    said = capsys.readouterr().err.splitlines()
    assert [line.split("'")[1::2] for line in said] == [["Ant", "ant"], ["big  bee", "big bee"], ["nan"]]


def test_names_from_other_systems_are_text(tmp_path: Path) -> None:
    old = os.fsdecode(b"caf\xe9")  # Latin-1, of an old archive
    try:
        write(tmp_path / "latin1", f"{old}/1.txt", "bar/1.txt")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    names, splits = class_folders(tmp_path / "latin1", is_text)
    assert names == ["bar", "café"]
    assert Path(splits["train"].path(1)).read_text() == "sample"
    assert [name.encode() for name in names]
    assert printable(old) == "café"
    assert printable("half \ud83d").encode() == "half \ufffd".encode()  # as JSON may have it


def test_accents_composed_and_decomposed_are_the_same_class(tmp_path: Path) -> None:
    apart, joined = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    write(tmp_path, f"train/{apart}/1.txt", "train/bar/1.txt", f"test/{joined}/1.txt", "test/bar/1.txt")
    names, splits = class_folders(tmp_path, is_text)
    assert names == ["bar", joined]
    assert splits["test"].labels.tolist() == [0, 1]
    write(tmp_path, f"train/{joined}/2.txt")  # both in one folder, as a copy between systems leaves them
    assert class_folders(tmp_path, is_text)[1]["train"].labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["two words", 'ça$h & <b>"quote"', "a,b;c", "鳥 🐦", "-rf", "new\nline", "#1 50%?"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    try:
        write(tmp_path, f"{name}/1 é.txt", "plain/1.txt")
    except OSError:
        pytest.skip("this file system refuses the name")
    assert found(tmp_path)[name] == [f"{name}/1 é.txt"]


def test_split_folders(tmp_path: Path) -> None:
    write(tmp_path, "Train/a/1.txt", "Train/b/1.txt", "val/b/1.txt", "test/a/1.txt", "test/b/1.txt")
    names, splits = class_folders(tmp_path, is_text)
    assert names == ["a", "b"]
    assert {split: (files.names, files.labels.tolist()) for split, files in splits.items()} == {
        "train": (["Train/a/1.txt", "Train/b/1.txt"], [0, 1]),
        "test": (["test/a/1.txt", "test/b/1.txt"], [0, 1]),
        "val": (["val/b/1.txt"], [1]),
    }


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere' is no folder\."):
        class_folders(tmp_path / "nowhere", is_text)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"has no folders\. Make one for each class, and put its samples there"):
        class_folders(tmp_path / "data", is_text)
    write(tmp_path / "data", "a/1.txt", "b/1.pdf", "b/2.pdf")
    with pytest.raises(
        ValueError, match=r"The folder 'b' in .* has no samples that can be read, but 2 other files \(\.pd"
    ):
        class_folders(tmp_path / "data", is_text)
    write(tmp_path / "new", "train/a/1.txt", "train/b/1.txt", "test/a/1.txt", "test/c/1.txt")
    with pytest.raises(ValueError, match=r"The folder 'test' in .* has the class 'c', .* \(1 of 2 classes have none\)"):
        class_folders(tmp_path / "new", is_text)
    (tmp_path / "flat" / "train").mkdir(parents=True)
    write(tmp_path / "flat", "test/a/1.txt")
    with pytest.raises(ValueError, match=r"The folder 'train' in .* has no folders"):
        class_folders(tmp_path / "flat", is_text)


def test_a_split_in_two_spellings(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.txt", "train/b/1.txt", "Train/a/2.txt")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("a file system that ignores case (macOS, Windows) cannot hold both names")
    with pytest.raises(ValueError, match=r"so its folders are splits: train and .* But it also has 'Train'"):
        class_folders(tmp_path, is_text)


def test_splits_that_are_not_used_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation_splits(["train", "dev", "val", "testing", "test"]) == ("test", "val")
    said = "the splits testing, dev are not used: 'test' is tested on, corrections are tuned on 'val'."
    assert said in capsys.readouterr().err
    assert evaluation_splits(["train", "test", "val"]) == ("test", "val")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data_dir", "hub_id", "name"),
    [
        ("/data/my birds (2020)/", None, "my-birds-2020"),
        ("/data/..", None, "data"),  # the root has no name
        (None, "owner/urban", "urban"),
        ("birds", "owner/urban", "birds"),
        (os.fsdecode(b"/data/caf\xe9"), None, "café"),
    ],
)
def test_runs_are_named_after_their_data(data_dir: str | None, hub_id: str | None, name: str) -> None:
    assert source_name(data_dir, hub_id) == name


def test_a_training_split_alone(tmp_path: Path) -> None:
    names, splits = class_folders(write(tmp_path, "train/ant/0.txt", "train/bee/0.txt"), is_text)
    assert (names, list(splits)) == (["ant", "bee"], ["train"])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    names, splits = class_folders(write(tmp_path, "car/0.txt", "train/0.txt", "test/0.txt"), is_text)
    assert (names, list(splits)) == (["car", "test", "train"], ["train"])


def test_folders_beside_splits_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/ant/0.txt", "train/bee/0.txt", "test/ant/0.txt", "masks/0.txt", "more/0.txt")
    with pytest.raises(ValueError, match=r"so its folders are splits: train and one of .* also has 'masks' \(2 such"):
        class_folders(tmp_path, is_text)


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("training_set", "test_set"), ("Images-Train", "x.val")])
def test_folders_with_the_word_of_a_split_in_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    write(tmp_path, *(f"{name}/{kind}/1.txt" for name in names for kind in ("a", "b")))
    classes, splits = class_folders(tmp_path, is_text)
    assert classes == ["a", "b"]
    assert splits["train"].names == [f"{names[0]}/a/1.txt", f"{names[0]}/b/1.txt"]
    assert splits["val" if "val" in names[1] else "test"].names == [f"{names[1]}/a/1.txt", f"{names[1]}/b/1.txt"]
    assert "they are taken for splits" in capsys.readouterr().err


def test_classes_with_the_word_of_a_split_in_their_names(tmp_path: Path) -> None:
    write(tmp_path, "train_station/day/1.txt", "test_tube/lab/1.txt")
    assert list(found(tmp_path)) == ["test_tube", "train_station"]
    write(tmp_path, "bird/day/1.txt")
    assert list(found(tmp_path)) == ["bird", "test_tube", "train_station"]


def test_a_folder_too_high(tmp_path: Path) -> None:
    write(tmp_path, "archive/cat/1.txt", "archive/dog/1.txt")
    with pytest.raises(UserError, match=r"has one folder only, which holds the folders\. Name that one, '.*archive'"):
        class_folders(tmp_path, is_text)
    write(tmp_path, "archive/2.txt")
    assert list(found(tmp_path)) == ["archive"]
