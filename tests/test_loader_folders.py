"""Folders of classes as people, other systems and other programs leave them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from ltaug.loaders.folders import class_folders, natural_order, printable


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
    write(tmp_path, "a/1.txt", "b/1.txt", "a/Thumbs.db", "b/desktop.ini", *junk)
    assert found(tmp_path) == {"a": ["a/1.txt"], "b": ["b/1.txt"]}
    assert capsys.readouterr().err == ""


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1.txt", "b/1.txt", "a/1.M4A", "a/2.m4a", "b/notes", "b/3.pdf")
    assert sum(map(len, found(tmp_path).values())) == 2
    said = "Warning: 4 files are left out, since they are no samples (.m4a: 2, .pdf: 1, no suffix: 1).\n"
    assert capsys.readouterr().err == said


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
