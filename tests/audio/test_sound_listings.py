"""Tables that list sound files: the layouts that published sets have, every way of writing them, their faults."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sound_support import RATE, encoded, noise, write_folder

from ltaug.audio import read_clip, read_folder

CLASSES = ["dog", "sea", "fire"]


def write_sounds(root: Path, names: list[str]) -> None:
    """Sounds whose seed is their place in the list."""
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(noise(k)))


def seeds(source: Any, split: str = "train") -> list[int]:
    """Which sound is whose: the seed of each."""
    part = getattr(source, split)
    clips = [read_clip(part.sound(k), RATE) for k in range(len(part.labels))]
    return [next(k for k in range(99) if np.abs(clip - noise(k) * 32768).max() <= 1) for clip in clips]


def esc50(root: Path) -> Path:
    """The layout of ESC-50 as it is published: two takes of each class in each of five folds."""
    rows = [(fold, label, take) for fold in range(1, 6) for label in range(3) for take in "AB"]
    write_sounds(root, [f"audio/{fold}-10{label}-{take}.wav" for fold, label, take in rows])
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    lines += [f"{f}-10{n}-{t}.wav,{f},{10 * n},{CLASSES[n]},{n != 1},10{n},{t}" for f, n, t in rows]
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    (root / "meta" / "esc50-human.xlsx").write_bytes(b"PK")
    return root


class TestPublishedLayouts:
    def test_esc50(self, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The same classes, folds and subset as from the hub; by any of its names."""
        root = esc50(tmp_path / "ESC-50-master")
        for settings in ({"dataset": "esc50"}, {}, {"data_dir": root / "meta" / "esc50.csv"}):
            data = load(**{"data_dir": root} | settings)
            assert data.class_names == CLASSES  # in the order of `target`
            assert data.class_counts.tolist() == [8, 3, 2]
            assert data.names["test"] == [f"audio/5-10{n}-{t}.wav" for n in range(3) for t in "AB"]
        assert f"labels are those that '{root / 'meta' / 'esc50.csv'}' lists" in capsys.readouterr().err
        ten = load(dataset="esc10", data_dir=root)
        assert (ten.class_names, ten.class_counts.tolist()) == (["dog", "fire"], [8, 2])
        assert seeds(read_folder(str(root))) == list(range(30))
        assert read_folder(str(root), label_column="take").class_names == ["A", "B"]

    def test_urbansound8k(self, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Ten folders of folds, sounds by their slice's name only; one lies in two of them, and the fold says which."""
        names = [f"{100 + k}-{k % 3}-0-{k}.wav" for k in range(30)]
        names[11] = names[1]
        write_sounds(tmp_path, [f"audio/fold{1 + k // 3}/{name}" for k, name in enumerate(names)])
        lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
        lines += [f"{name},{100 + k},0.0,4.0,1,{1 + k // 3},{k % 3},{CLASSES[k % 3]}" for k, name in enumerate(names)]
        (tmp_path / "metadata").mkdir()
        (tmp_path / "metadata" / "UrbanSound8K.csv").write_text("\r\n".join(lines))
        source = read_folder(str(tmp_path))
        assert source.class_names == CLASSES  # by classID, not by name
        assert source.train.labels.tolist() == [0, 1, 2] * 10
        assert source.folds.tolist() == [1 + k // 3 for k in range(30)]
        assert seeds(source) == list(range(30))
        data = load(data_dir=tmp_path, imbalance_ratio=1, test_fold=10, held_out_per_class=2)
        sizes = {split: labels.bincount().tolist() for split, labels in data.labels.items()}
        assert sizes == {"train": [7] * 3, "test": [1] * 3, "held_out": [2] * 3}
        (tmp_path / "metadata" / "UrbanSound8K.csv").write_text("\n".join([*lines, lines[-1]]))
        read_folder(str(tmp_path))
        assert "others test. Times in them (start and end) are not read: a sample is a" in capsys.readouterr().err
        (tmp_path / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines).replace(",fold,", ",part,"))
        with pytest.raises(
            ValueError, match=r"line 3 names .* which may be 'audio/fold1/.*' or 'audio/fold4/.*Write the"
        ):
            read_folder(str(tmp_path))

    def test_folders_of_folds(self, tmp_path: Path) -> None:
        for fold in (1, 2, 10):
            write_folder(tmp_path / f"fold{fold}", {"ant": 1, "bee": 2} if fold > 1 else {"bee": 1})
        source = read_folder(str(tmp_path))
        assert (source.class_names, source.folds.tolist()) == (["ant", "bee"], [1, 10, 10, 10, 2, 2, 2])
        assert source.train.labels.tolist() == [1, 0, 1, 1, 0, 1, 1]
        assert source.train.names[:2] == ["fold1/bee/00.wav", "fold10/ant/00.wav"]
        write_folder(tmp_path / "fold_02", {"ant": 1, "bee": 2})
        with pytest.raises(ValueError, match="two folders of fold 2: 'fold2' and 'fold_02'"):
            read_folder(str(tmp_path))


class TestWriting:
    @pytest.mark.parametrize(
        "table",
        [
            "file,label\n0.wav,dog\n1.wav,sea, far\n2.wav,dog\n".replace("sea, far", '"sea, far"'),
            "\ufeffFile Name ; Category\r\n 0.wav ; dog \r\n\r\n1.wav;sea, far\r\n2.wav;dog\r\n",
            "label\tpath\ndog\t0.wav\nsea, far\t1\ndog\tsounds\\2.wav\n",
            'filename,class,note\n0.wav,dog,"two\nlines"\n1.wav,"sea, far",\n/elsewhere/sounds/2.wav,dog,,,\n',
        ],
        ids=["commas", "semicolons", "tabs", "quotes"],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_ways(self, tmp_path: Path, table: str, encoding: str) -> None:
        write_sounds(tmp_path / "sounds", ["0.wav", "1.wav", "2.wav"])
        (tmp_path / "sounds.csv").write_bytes(table.removeprefix("\ufeff" * (encoding == "utf-16")).encode(encoding))
        source = read_folder(str(tmp_path))
        assert source.class_names == ["dog", "sea, far"]
        assert source.train.labels.tolist() == [0, 1, 0]
        assert seeds(source) == [0, 1, 2]

    def test_splits_and_numbers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_sounds(tmp_path, [f"{k}.wav" for k in range(6)])
        splits = ["Train", "training", "test", "TEST", "val", "unlabelled"]
        rows = [f"{k}.wav,{'' if k == 5 else (10, 9)[k % 2]},{split}" for k, split in enumerate(splits)]
        (tmp_path / "metadata.csv").write_text("\n".join(["file,label,subset", *rows]))
        source = read_folder(str(tmp_path))
        assert source.class_names == ["9", "10"]
        assert (seeds(source), seeds(source, "test"), seeds(source, "held_out")) == ([0, 1], [2, 3], [4])
        assert source.test.labels.tolist() == [1, 0]
        assert "other splits than train, test and validation, which are not used ('unlabelled': 1)" in (
            capsys.readouterr().err
        )

    def test_tables_of_splits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_sounds(tmp_path, [f"{k}.wav" for k in range(5)])
        (tmp_path / "train.csv").write_text("file;label;fold\n0.wav;10;1\n1.wav;9;2\n")
        (tmp_path / "Test.csv").write_text("label,file\n9,2.wav\n10,0.wav\n")
        (tmp_path / "val.csv").write_text("file,label\n4.wav,9\n")
        source = read_folder(str(tmp_path))
        assert (source.class_names, source.folds) == (["9", "10"], None)
        assert (seeds(source), seeds(source, "test"), seeds(source, "held_out")) == ([0, 1], [2, 0], [4])
        assert source.test.labels.tolist() == [0, 1]
        assert "lists 1 files more than once" in capsys.readouterr().err
        (tmp_path / "val.csv").write_text("file,label\n4.wav,\n")
        with pytest.raises(ValueError, match=r"one label in 'label' of every row, but line 2 of val\.csv has ''"):
            read_folder(str(tmp_path))

    @pytest.mark.parametrize(
        ("cells", "names", "sizes", "warned"),
        [
            (["a,b", "b", "c"], ["a", "b", "c"], [2, 1, 1], True),
            (["a,b;c", "c", ""], ["a,b", "c"], [2, 1, 0], False),
            (["a", "b", "c"], ["a", "b", "c"], [1, 1, 1], False),
        ],
    )
    def test_what_stands_between_labels(
        self, tmp_path: Path, capsys: Any, cells: list[str], names: list[str], sizes: list[int], warned: bool
    ) -> None:
        """Commas where no semicolon is, as FSD50K has it."""
        rows = [f'{k},"{cell}",x' for k, cell in enumerate(cells)]
        (tmp_path / "dev.csv").write_text("\n".join(["fname,labels,mids", *rows]))
        source = read_folder(str(tmp_path / "dev.csv"))
        assert source.class_names == names
        assert source.train.labels.sum(1).tolist() == sizes
        assert ("has commas and no semicolons in 'labels'" in capsys.readouterr().err) == warned

    def test_labels_without_a_training_clip_are_named(
        self, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_sounds(tmp_path, [f"{k}.wav" for k in range(6)])
        rows = [f"{k}.wav,{('sea', 'dog;sea', 'fire')[k % 3] if k < 5 else 'owl;dog'},{k}" for k in range(6)]
        (tmp_path / "metadata.csv").write_text("\n".join(["file,labels,fold", *rows]))
        load(data_dir=tmp_path, profile="natural", test_fold=5)
        assert "no training clip has these labels, which nothing learns, then: owl." in capsys.readouterr().err
        with pytest.raises(ValueError, match=r"is no fold of .* Set it to one of them"):
            load(data_dir=tmp_path, profile="natural", test_fold=9)

    def test_json_lines_of_what_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "metadata.jsonl"
        for row, message in (
            ('{"file": "0.wav", "label": true}', "one label in 'label' of every row, but line 1 has True"),
            ('{"file": ["0.wav"], "label": "a"}', r"a file in 'file' of every row, but line 1 has \['0.wav'\]"),
        ):
            path.write_text(row)
            with pytest.raises(ValueError, match=message):
                read_folder(str(tmp_path))

    def test_linked_folders(self, tmp_path: Path) -> None:
        write_sounds(tmp_path / "elsewhere", ["0.wav", "1.wav"])
        (tmp_path / "data" / "set").mkdir(parents=True)
        (tmp_path / "data" / "set" / "audio").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data" / "set" / "again").symlink_to(tmp_path / "data")  # which it lies in itself
        (tmp_path / "data" / "metadata.csv").write_text("file,label\n0.wav,dog\n1.wav,sea\n")
        message = r"lie outside `data_dir` .*'set/audio/0.wav', through a link to '.*elsewhere/0.wav'.*`allow_outside`"
        with pytest.raises(ValueError, match=message):
            read_folder(str(tmp_path / "data"))
        source = read_folder(str(tmp_path / "data"), allow_outside=True)
        assert seeds(source) == [0, 1]
        assert source.train.names == [os.path.join("set", "audio", f"{k}.wav") for k in range(2)]

    def test_missing_files_are_named_and_counted(
        self, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_sounds(tmp_path, [f"{k}.wav" for k in range(20)])
        rows = [f"{k}.wav,{CLASSES[k % 2]}" for k in range(22)]
        (tmp_path / "metadata.csv").write_text("\n".join(["file,label", *rows]))
        data = load(data_dir=tmp_path, profile="natural")
        assert data.left_out == 2
        assert "2 of 22 clips are left out, since they cannot be read: 20.wav cannot be opened (No such file" in (
            capsys.readouterr().err
        )

    def test_a_missing_file_has_no_stand_in(
        self, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Neither of another fold, which may be tested on, nor of the same name elsewhere without a word."""
        names = [f"fold{fold}/{label}{k}.wav" for fold in (1, 2) for label in "ab" for k in range(2)]
        write_sounds(tmp_path / "folds", names)
        rows = [f"{name[6:]},{name[6]},{name[4]}" for name in names]
        (tmp_path / "folds" / "metadata.csv").write_text("\n".join(["file,label,fold", *rows]))
        (tmp_path / "folds" / "fold2" / "a0.wav").unlink()
        data = load(data_dir=tmp_path / "folds", test_fold=2, profile="natural")
        assert (sorted(data.names["train"]), data.names["test"]) == (names[:4], names[5:])
        assert (data.left_out, "instead" in capsys.readouterr().err) == (1, False)
        write_sounds(tmp_path / "others", ["x.wav", "0.wav", "more/1.wav"])
        table = tmp_path / "others" / "metadata.csv"
        table.write_text("file,label\n0.wav,a\n1.wav,b\ngone/x.wav,b\n")
        assert read_folder(str(tmp_path / "others")).train.names == ["0.wav", "more/1.wav", "gone/x.wav"]
        message = "names 1 of {} files that are not there; .* are read instead: 'more/1.wav' for '{}', for example"
        assert re.search(message.format(3, "1.wav"), capsys.readouterr().err)
        table.write_text("file,label\nC:\\me\\x.wav,a\nC:\\me\\more\\1.wav,b\n")  # all of it has moved
        assert read_folder(str(tmp_path / "others")).train.names == ["x.wav", "more/1.wav"]
        assert "names 2 of 2 files that are not there" in capsys.readouterr().err

    def test_a_table_of_something_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_folder(tmp_path, {"ant": 1, "bee": 1})
        (tmp_path / "notes.csv").write_text("date,rain\n1,2\n")
        assert read_folder(str(tmp_path)).class_names == ["ant", "bee"]
        assert "notes.csv' is not read, since it has no column of files or none of labels, but date, rain. Say" in (
            capsys.readouterr().err
        )
        with pytest.raises(ValueError, match=r"`label_column` is 'bird', but .* has no table of sounds"):
            read_folder(str(tmp_path / "ant"), label_column="bird")
        (tmp_path / "more.csv").write_text("file,label\nant/00.wav,x\nbee/00.wav,y\n")
        assert read_folder(str(tmp_path)).class_names == ["ant", "bee"]  # of two, neither
        assert "are not read (more.csv, notes.csv). Name one" in capsys.readouterr().err
        assert read_folder(str(tmp_path / "more.csv")).class_names == ["x", "y"]
        with pytest.raises(ValueError, match=r"a column of files and one of labels \(file_name, .* but has date, rain"):
            read_folder(str(tmp_path / "notes.csv"))

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("0.wav,dog\n1.wav,sea\n", r"must have a header with .*, but has 0\.wav, dog"),
            ("file,label\n0.wav,dog\n1.wav,\n", "must have one label in 'label' of every row, but line 3 has ''"),
            ("file,label\n0.wav,dog\n,sea\n", "must have a file in 'file' of every row, but line 3 has none"),
            ("file,label\n0.wav,dog,sea\n", "line 2 has 3 cells, but there are 2 columns"),
            ("file,label,label\n0.wav,dog,sea\n", "it has two columns 'label'"),
            ("file,label,fold\n0.wav,dog,one\n", "must hold whole numbers in `fold`, but line 2 has 'one'"),
            ("file,label,split\n0.wav,dog,train\n1.wav,sea,\n", "must have a split in 'split' .* line 3 has none"),
            ("file,label\n", "lists no samples"),
            ('file,label\n0.wav,"dog\n', "cannot be read as a table of files: line 2: unexpected end of data"),
            (
                "file,label\n0.wav,caf\xe9\n".encode("latin-1"),
                r"files: line 2 is not in UTF-8. Save the table as UTF-8",
            ),
            ("file,label\n../0.wav,dog\n", r"paths that lie outside .* '\.\./0\.wav'"),
        ],
    )
    def test_faults_name_file_and_row(self, tmp_path: Path, table: str | bytes, message: str) -> None:
        write_sounds(tmp_path / "data", ["0.wav", "1.wav"])
        path = tmp_path / "data" / "list.csv"
        path.write_bytes(table if isinstance(table, bytes) else table.encode())
        with pytest.raises(ValueError, match=message) as error:
            read_folder(str(path))
        assert "list.csv" in str(error.value)
