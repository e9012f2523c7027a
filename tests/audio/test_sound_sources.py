"""Sounds of folders and tables in every form that people keep them, and synthetic ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from sound_support import RATE, encoded, noise, soundfile, tone, write_folder, write_table

from ltaug.audio import SoundPart, is_sound, read_clip, read_folder, read_table, synthetic_source


def sounds(part: SoundPart) -> list[np.ndarray]:
    return [read_clip(part.sound(k), RATE) for k in range(len(part.labels))]


class TestFolder:
    def test_every_kind_of_file_that_can_be_decoded(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        kinds = {".wav": "WAV", ".AIFF": "AIFF", ".au": "AU", ".oga": "OGG", ".opus": "OGG", ".caf": "CAF"}
        kinds |= {".w64": "W64", ".flac": "FLAC", ".snd": "AU", ".mp3": "MP3"}
        kinds = {suffix: kind for suffix, kind in kinds.items() if kind in soundfile.available_formats()}
        write_folder(tmp_path, {"ant": 1, "bee": 1})
        for suffix, kind in kinds.items():
            data = encoded(tone(440, 48000, 0.2), 48000, kind, "OPUS" if suffix == ".opus" else None)
            (tmp_path / "bee" / f"sound{suffix}").write_bytes(data)
        (tmp_path / "bee" / "without_suffix").write_bytes(encoded(noise(0)))
        (tmp_path / "bee" / "recording.dat").write_bytes(encoded(noise(0), kind="FLAC"))
        (tmp_path / "bee" / "matlab.mat").write_bytes(encoded(noise(0), kind="MAT4"))  # of a kind that says little
        (tmp_path / "bee" / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
        (tmp_path / "bee" / "notes.txt").write_text("RIF")
        (tmp_path / "bee" / "samples.raw").write_bytes(bytes(800))
        source = read_folder(str(tmp_path))
        assert source.class_names == ["ant", "bee"]
        assert source.train.labels.bincount().tolist() == [1, len(kinds) + 4]
        assert min(len(clip) for clip in sounds(source.train)) == 400
        assert capsys.readouterr().err == (
            "Warning: 3 files are left out, since they are no sound files (.m4a: 1, .raw: 1, .txt: 1).\n"
        )

    def test_sounds_belong_to_their_names(self, tmp_path: Path) -> None:
        source = read_folder(str(write_folder(tmp_path, {"ant": 2, "bee": 2})))
        assert source.train.names == ["ant/00.wav", "ant/01.wav", "bee/00.wav", "bee/01.wav"]
        for clip, seed in zip(sounds(source.train), (0, 1, 100, 101), strict=True):
            assert np.abs(clip - noise(seed) * 32768).max() <= 1
        assert source.test is None
        assert source.folds is None

    def test_a_test_folder(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", {"ant": 2, "bee": 2})
        write_folder(tmp_path / "validation", {"bee": 1})
        source = read_folder(str(tmp_path))
        assert (source.test.names, source.test.labels.tolist()) == (["validation/bee/00.wav"], [1])
        assert len(sounds(source.test)[0]) == 400
        assert source.held_out is None
        write_folder(tmp_path / "test", {"ant": 1})  # now validation is to tune on
        source = read_folder(str(tmp_path))
        assert (source.test.names, source.held_out.names) == (["test/ant/00.wav"], ["validation/bee/00.wav"])

    def test_names_that_are_no_utf8(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"bar": 1, "new": 1})
        try:
            os.rename(os.fsencode(tmp_path / "new"), os.fsencode(tmp_path) + b"/caf\xe9")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        source = read_folder(str(tmp_path))
        assert source.class_names == ["bar", "café"]
        assert source.train.names[1] == "café/00.wav"
        assert len(sounds(source.train)) == 2

    def test_what_is_a_sound(self, tmp_path: Path) -> None:
        assert is_sound("any.WAV")
        assert not is_sound(str(tmp_path / "nowhere.xyz"))


def struct(**fields: pyarrow.DataType) -> pyarrow.DataType:
    return pyarrow.struct(fields)


FILES = [encoded(noise(k)) for k in range(30)]
ARRAYS = [noise(k).tolist() for k in range(30)]
COLUMNS = {
    "struct": pyarrow.array([{"bytes": data, "path": None} for data in FILES]),
    "struct_without_path": pyarrow.array([{"bytes": data} for data in FILES]),
    "struct_large": pyarrow.array(
        [{"bytes": data, "path": "a.wav"} for data in FILES],
        struct(bytes=pyarrow.large_binary(), path=pyarrow.large_string()),
    ),
    "struct_more": pyarrow.array([{"bytes": data, "path": "a.wav", "seconds": 1.0} for data in FILES]),
    "binary": pyarrow.array(FILES),
    "large_binary": pyarrow.array(FILES, pyarrow.large_binary()),
    "array_and_rate": pyarrow.array([{"array": samples, "sampling_rate": RATE} for samples in ARRAYS]),
    "integers_and_rate": pyarrow.array(
        [{"array": (np.array(samples) * 32768).astype(int).tolist(), "sampling_rate": RATE} for samples in ARRAYS]
    ),
    "list": pyarrow.array(ARRAYS),
    "list_fixed": pyarrow.array(ARRAYS, pyarrow.list_(pyarrow.float32(), 400)),
    "list_of_channels": pyarrow.array([[samples, samples] for samples in ARRAYS]),
    "array_of_channels": pyarrow.array([{"array": [samples] * 2, "sampling_rate": RATE} for samples in ARRAYS]),
    "binary_view": pyarrow.array(FILES, pyarrow.binary_view()),
    "list_float32": pyarrow.array(ARRAYS, pyarrow.large_list(pyarrow.float32())),
}


class TestTable:
    def test_the_columns_of_the_hub(self, tmp_path: Path) -> None:
        source = read_table("owner/name", str(write_table(tmp_path / "data")), label_column="target")
        assert source.class_names == ["dog", "sea", "fire"]  # 0, 10, 20
        assert source.folds.bincount().tolist() == [0, 6, 6, 6, 6, 6]
        assert source.train.names[:3] == ["1-0-0.wav", "1-0-1.wav", "1-1-0.wav"]
        for k, clip in enumerate(sounds(source.train)):
            assert np.abs(clip - noise(k) * 32768).max() <= 1

    def test_rows_of_one_column(self, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data")
        source = read_table("owner/name", str(folder), label_column="target", only="esc10")
        assert source.class_names == ["dog", "fire"]
        assert source.train.labels.bincount().tolist() == [10, 10]
        for name, clip in zip(source.train.names, sounds(source.train), strict=True):
            fold, label, take = map(int, name[:-4].split("-"))
            assert np.abs(clip - noise(6 * (fold - 1) + 2 * label + take) * 32768).max() <= 1

    @pytest.mark.parametrize("kind", COLUMNS)
    def test_sounds_stored_in_any_form(self, tmp_path: Path, kind: str) -> None:
        changes = {"audio": COLUMNS[kind], "sampling_rate": [RATE] * 30 if kind.startswith("list") else None}
        folder = write_table(tmp_path / "data", features=False, **changes)
        source = read_table("owner/name", str(folder), label_column="target")
        for k, clip in enumerate(sounds(source.train)):
            assert np.abs(clip - noise(k) * 32768).max() <= 1

    @pytest.mark.parametrize("kind", ["nested", "string", "string_view", "dictionary", "Windows"])
    def test_sounds_stored_as_paths(self, tmp_path: Path, kind: str) -> None:
        names = [f"files/{k}.wav" for k in range(30)]
        audio = pyarrow.array([{"path": name} for name in names] if kind == "nested" else names)
        if kind == "string_view":
            audio = audio.cast(pyarrow.string_view())
        elif kind == "dictionary":
            audio = audio.dictionary_encode()
        elif kind == "Windows":
            audio = pyarrow.array([name.replace("/", "\\") for name in names])
        folder = write_table(tmp_path / "data", features=False, audio=audio)
        (folder / "files").mkdir()
        for name, data in zip(names, FILES, strict=True):
            (folder / name).write_bytes(data)
        source = read_table("owner/name", str(folder), label_column="target")
        assert np.abs(read_clip(source.train.sound(7), RATE) - noise(7) * 32768).max() <= 1

    def test_paths_that_leave_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "secret.wav").write_bytes(encoded(noise(7)))
        names = [f"{k}.wav" for k in range(29)]
        for last, message in (
            (
                "../secret.wav",
                r"'audio' of .* paths that lie outside `data_dir` .*, 1 of 30, the .* is '\.\./secret\.wav'",
            ),
            ("https://host/1.wav", r"'audio' of .* paths that are addresses, 1 of 30, .* Only files are read"),
        ):
            audio = pyarrow.array([*names, last])
            folder = write_table(tmp_path / str(len(last)), features=False, audio=audio)
            with pytest.raises(ValueError, match=message):
                read_table("owner/name", str(folder), label_column="target")
        folder = write_table(tmp_path / "data", features=False, audio=pyarrow.array([*names, "../secret.wav"]))
        source = read_table("owner/name", str(folder), label_column="target", allow_outside=True)
        assert np.abs(read_clip(source.train.sound(29), RATE) - noise(7) * 32768).max() <= 1

    def test_paths_named_twice(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = [f"{k % 28}.wav" for k in range(30)]
        folder = write_table(tmp_path / "data", features=False, audio=pyarrow.array(names))
        read_table("owner/name", str(folder), label_column="target")
        assert "lists 2 files more than once: of equal files some may train" in capsys.readouterr().err
        read_table("owner/name", str(folder), label_column="target", only="esc10")
        assert "lists 2 files more than once" in capsys.readouterr().err

    def test_missing_sounds_are_empty(self, tmp_path: Path) -> None:
        files = [None, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}]
        audio = pyarrow.array(files + [{"bytes": data, "path": None} for data in FILES[3:]])
        source = read_table("owner/name", str(write_table(tmp_path / "data", audio=audio)), label_column="target")
        for k in range(3):
            with pytest.raises(ValueError, match="is empty"):
                read_clip(source.train.sound(k), RATE)
        assert len(read_clip(source.train.sound(3), RATE)) == 400

    def test_labels_as_text_and_without_optional_columns(self, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data", features=False, filename=None, fold=None, category=None, esc10=None)
        source = read_table("owner/name", str(folder), label_column="target")
        assert source.class_names == ["0", "10", "20"]
        assert source.folds is None
        assert source.train.names[:2] == ["0.wav", "1.wav"]  # as they are stored with
        nameless = write_table(tmp_path / "nameless", filename=None, audio=pyarrow.array(FILES), features=False)
        assert read_table("owner/name", str(nameless), label_column="target").train.names[:2] == ["clip 0", "clip 1"]
        text = read_table("owner/name", str(write_table(tmp_path / "text", features=False)), label_column="category")
        assert text.class_names == ["dog", "fire", "sea"]

    def test_a_test_split_is_tested_on(self, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data")
        write_table(folder, "test", target=[0] * 15 + [20] * 15, category=None, fold=None)
        source = read_table("owner/name", str(folder), label_column="target")
        assert source.folds is None
        assert source.test.labels.tolist() == [0] * 15 + [2] * 15
        assert len(sounds(source.test)) == 30

    @pytest.mark.parametrize(
        ("changes", "settings", "message"),
        [
            ({}, {"audio_column": "sound"}, r"has no column 'sound', but filename, fold, .* with `audio_column`"),
            ({}, {"label_column": "label"}, "has no column 'label', but .* with `label_column`"),
            ({"target": [-1] * 30}, {}, "must hold class indices or names as labels, but sample 0 .* has -1"),
            ({"fold": [None] + [1] * 29}, {}, "must hold whole numbers in 'fold'"),
            ({}, {"label_column": "fold"}, "has 5 labels in 'fold', but 15 pairs of label and 'category'"),
            ({}, {"audio_column": "fold"}, "must hold sounds in 'fold', but holds Value"),
            ({"esc10": [False] * 30}, {"only": "esc10"}, "has no clips"),
            ({"esc10": ["False"] * 30}, {"only": "esc10"}, "must hold truth values, or 0 and 1, in 'esc10'"),
            ({"audio": ARRAYS}, {}, "holds lists of samples in 'audio', and no column 'sampling_rate'"),
        ],
    )
    def test_faults(self, tmp_path: Path, changes: dict, settings: dict, message: str) -> None:
        folder = write_table(tmp_path / "data", features=False, **changes)
        with pytest.raises(ValueError, match=message):
            read_table("owner/name", str(folder), **{"label_column": "target"} | settings)

    def test_no_training_split(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="must have a split named 'train', but has test"):
            read_table("owner/name", str(write_table(tmp_path / "data", "test")), label_column="target")


class TestSynthetic:
    def clips(self, *settings: int, **more: float) -> list[np.ndarray]:
        source = synthetic_source(*settings, **more)
        return [source.train.sound(k)[0] for k in range(len(source.train.labels))]

    def test_equal_seeds_give_equal_sounds(self) -> None:
        source = synthetic_source(RATE, 3, 0.5, seed=1)
        clips = self.clips(RATE, 3, 0.5, seed=1)
        assert all(np.array_equal(a, b) for a, b in zip(clips, self.clips(RATE, 3, 0.5, seed=1), strict=True))
        assert source.train.labels.bincount().tolist() == [3] * 10
        assert len(set(source.train.names)) == 30
        assert list(dict.fromkeys(name.partition("/")[0] for name in source.train.names)) == source.class_names
        assert {(clip.dtype, len(clip)) for clip in clips} == {(np.dtype(np.int16), RATE // 2)}
        assert np.array_equal(self.clips(RATE, 2, 0.5, seed=1)[2], clips[3])  # the first of the second class
        assert not any(np.array_equal(a, b) for a, b in zip(clips, self.clips(RATE, 3, 0.5, seed=2), strict=True))
        assert len({clip.tobytes() for clip in clips}) == 30

    @pytest.mark.parametrize("rate", [1000, 8000, 44100])
    def test_levels(self, rate: int) -> None:
        clips = self.clips(rate, 4, 1.0)
        levels = [20 * np.log10(clip.std() / 32768) for clip in clips]
        assert -32 < min(levels) < -20
        assert -15 < max(levels) < 0
        assert np.mean([np.mean(np.abs(clip) >= 32767) for clip in clips]) < 0.01

    def test_classes_can_be_told_apart_but_not_at_a_glance(self) -> None:
        clips = self.clips(RATE, 20, 1.0)
        frames = np.abs(np.fft.rfft(np.reshape(clips, (200, -1, 200)) * np.hanning(200))) ** 2
        spectra = np.log(frames.reshape(200, 40, 101)[:, :, :100].reshape(200, 40, 20, 5).mean(-1) + 1e3)
        features = np.concatenate([spectra.mean(1), spectra.std(1)], axis=1)
        features = (features - features.mean(0)) / features.std(0)
        labels = np.arange(200) // 20
        train = np.arange(200) % 20 < 12
        centres = np.stack([features[train & (labels == k)].mean(0) for k in range(10)])
        nearest = ((features[~train, None] - centres) ** 2).sum(-1).argmin(1)
        assert 0.3 < (nearest == labels[~train]).mean() < 0.9

    def test_come_through_the_reader_unchanged(self) -> None:
        for clip in self.clips(RATE, 1, 0.5):
            assert np.array_equal(read_clip((clip, RATE), RATE, trim=False), clip)
