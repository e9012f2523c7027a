"""Sound in: files of every kind and fault, the cache, folds and folders, synthetic sounds, of the recipe esc50_lt."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from recipe_support import ROOT

import ltaug

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RECIPE = ROOT / "recipes" / "esc50_lt"
ESC10 = ROOT.parent / "shared" / "data" / "esc10"
RATE = 8000


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The recipe's modules. Other recipes have some of the same names, so they leave `sys.modules` again."""
    own = {file.stem for file in RECIPE.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    sys.path.insert(0, str(RECIPE))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("sound", "synthetic", "data")})
    finally:
        sys.path.remove(str(RECIPE))
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(others)


@pytest.fixture
def sound(modules: SimpleNamespace) -> SimpleNamespace:
    return modules.sound


@pytest.fixture
def decoded(sound: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[bytes | Path]:
    """What has been decoded since."""
    sources, read_clip = [], sound.read_clip

    def counting(source: bytes | Path, *settings: object) -> np.ndarray:
        sources.append(source)
        return read_clip(source, *settings)

    monkeypatch.setattr(sound, "read_clip", counting)
    return sources


@pytest.fixture
def load(modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """load_data with some settings."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    defaults = {
        "dataset": "folder",
        "data_dir": None,
        "sample_rate": RATE,
        "profile": "pareto",
        "imbalance_ratio": 4.0,
        "data_seed": 0,
        "test_fold": 5,
        "audio_column": "audio",
        "label_column": "target",
        "trim_silence": True,
        "cache_dir": "none",
        "on_error": "skip",
        "test_per_class": 2,
    }

    def run(**changes: object) -> SimpleNamespace:
        changes = {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}
        return modules.data.load_data(SimpleNamespace(**(defaults | changes)))

    return run


def noise(seed: int, size: int = 400, channels: int | None = None) -> np.ndarray:
    """Samples without a zero at their ends."""
    samples = np.random.default_rng(seed).uniform(0.1, 0.5, size if channels is None else (size, channels))
    return samples.astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def tone(frequency: float, rate: int = 44100, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate) / 2


def write_folder(root: Path, sizes: dict[str, int], kind: str = "wav") -> Path:
    """A folder a class."""
    for label, (name, size) in enumerate(sizes.items()):
        (root / name).mkdir(parents=True)
        for k in range(size):
            (root / name / f"{k:02d}.{kind}").write_bytes(encoded(noise(100 * label + k), kind=kind.upper()))
    return root


def write_parquet(folder: Path, noted: bool = True, **changes: list | None) -> Path:
    """Three classes in five folds of two clips each, in the columns of the hub's ESC-50; None drops a column."""
    places = [(fold, label, take) for fold in range(1, 6) for label in range(3) for take in range(2)]
    files = [{"bytes": encoded(noise(k)), "path": f"{k}.wav"} for k in range(len(places))]
    columns: dict[str, list | None] = {
        "filename": [f"{fold}-{label}-{take}.wav" for fold, label, take in places],
        "fold": [fold for fold, _, _ in places],
        "target": [10 * label for _, label, _ in places],
        "category": [["dog", "sea", "fire"][label] for _, label, _ in places],
        "esc10": [label != 1 for _, label, _ in places],
        "audio": files,
    } | changes
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table(
        {
            name: pyarrow.array(values, kind if name == "audio" and values != ["x"] * len(values) else None)
            for name, values in columns.items()
            if values is not None
        }
    )
    if noted:
        features = {"audio": {"_type": "Audio"}} | {
            name: {"_type": "Value", "dtype": str(table.schema.field(name).type)}
            for name in table.column_names
            if name != "audio"
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder.mkdir()
    parquet.write_table(table, folder / "train-0.parquet")
    return folder


class TestOneClip:
    def test_16_bit_files_come_through_unchanged(self, sound: SimpleNamespace) -> None:
        samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
        samples[:4] = [-32768, 32767, 1, -1]
        for kind in ("WAV", "FLAC"):
            read = sound.read_clip(encoded(samples, kind=kind, subtype="PCM_16"), RATE)
            assert read.dtype == np.int16
            assert np.array_equal(read, samples)

    @pytest.mark.parametrize("kind", ["OGG", "MP3"])
    def test_compressed_files_are_about_the_same(self, sound: SimpleNamespace, kind: str) -> None:
        if kind not in soundfile.available_formats():
            pytest.skip("this libsndfile is too old for it")
        read = sound.read_clip(encoded(tone(440), 44100, kind), 44100, trim=False) / 32768
        assert abs(len(read) - 44100) < 2500  # MP3 pads
        middle = read[10000:30000]
        power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
        assert np.argmax(power) == round(440 * len(middle) / 44100)
        assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.02)

    def test_a_path_is_read_as_its_bytes_are(self, sound: SimpleNamespace, tmp_path: Path) -> None:
        data = encoded(noise(0))
        (tmp_path / "clip.wav").write_bytes(data)
        assert np.array_equal(sound.read_clip(tmp_path / "clip.wav", RATE), sound.read_clip(data, RATE))

    def test_channels_are_averaged(self, sound: SimpleNamespace) -> None:
        stereo = noise(0, channels=2)
        read = sound.read_clip(encoded(stereo, subtype="FLOAT"), RATE)
        assert np.array_equal(read, np.rint(stereo.astype(np.float64).mean(1) * 32768))

    def test_what_lies_beyond_one_is_clipped(self, sound: SimpleNamespace) -> None:
        read = sound.read_clip(encoded(np.float32([-2.5, -1, 0.5, 1, 2.5, 1e38]), subtype="FLOAT"), RATE)
        assert read.tolist() == [-32768, -32768, 16384, 32767, 32767, 32767]

    def test_resampling_keeps_what_fits_and_suppresses_what_would_fold(self, sound: SimpleNamespace) -> None:
        for frequency, loudest in ((1000, 0.0), (7000, 0.0), (9000, -60.0), (12000, -60.0)):
            data = encoded(tone(frequency), 44100, subtype="FLOAT")
            read = sound.read_clip(data, 16000, trim=False)
            assert len(read) == 16000
            level = 20 * np.log10(read[2000:-2000].std() / 32768 / (0.5 / np.sqrt(2)) + 1e-9)
            assert level == pytest.approx(0, abs=0.05) if loudest == 0 else level < loudest

    def test_trimming(self, sound: SimpleNamespace) -> None:
        inner = np.int16([5, 0, 0, -7])
        data = encoded(np.concatenate([np.zeros(30, np.int16), inner, np.zeros(9, np.int16)]), subtype="PCM_16")
        assert np.array_equal(sound.read_clip(data, RATE), inner)
        assert len(sound.read_clip(data, RATE, trim=False)) == 43

    def test_a_silent_clip_stays_as_it_is(self, sound: SimpleNamespace) -> None:
        assert sound.read_clip(encoded(np.zeros(50, np.int16)), RATE).tolist() == [0] * 50

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "is empty"),
            (b"RIFF, or so it says", "is no sound file that libsndfile reads"),
            (encoded(noise(0))[:20], "is no sound file that libsndfile reads"),
            (encoded(noise(0, 0)), "has no samples"),
            (encoded(noise(0, 1), 48000), "is too short to have a sample at 8000 Hz"),
            (encoded(noise(0), 1), "has a sample rate of 1 Hz"),
            (encoded(np.float32([0.1, np.nan, 0.1]), subtype="FLOAT"), "has samples that are NaN or infinite"),
            (encoded(np.float32([0.1, np.inf] * 2000), 44100, subtype="FLOAT"), "has samples that are NaN or infinite"),
            (Path("nowhere.wav"), r"cannot be opened \(No such file or directory\)"),
        ],
    )
    def test_faults_have_a_reason(self, sound: SimpleNamespace, data: bytes | Path, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            sound.read_clip(data, RATE)

    @pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
    def test_a_damaged_file_is_read_or_refused(self, sound: SimpleNamespace, kind: str) -> None:
        good, rng, refused = encoded(noise(0, 2000), kind=kind), np.random.default_rng(0), 0
        for _ in range(150):
            data = bytearray(good)
            for place in rng.integers(min(len(data), 80), size=3):
                data[place] = rng.integers(256)
            try:
                assert sound.read_clip(bytes(data), RATE).dtype == np.int16
            except ValueError:
                refused += 1
        assert refused > 10


class TestManyClips:
    ITEMS = tuple((f"{k}.wav", encoded(noise(k, 100 + k))) for k in range(12))

    def same(self, clips: list, items: tuple = ITEMS) -> bool:
        """Whether clips are those of the items."""
        wanted = [
            np.rint(np.trunc(noise(int(name.split(".")[0]), 100 + k) * 32768)) for k, (name, _) in enumerate(items)
        ]
        return all(np.abs(clip - want).max() <= 1 for clip, want in zip(clips, wanted, strict=True))

    def test_the_second_time_nothing_is_decoded(
        self, sound: SimpleNamespace, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sound, "SHARD", 5)
        first = sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path))
        assert len(decoded) == 12
        assert self.same(first)
        again = sound.read_all(self.ITEMS[::-1], RATE, cache_dir=str(tmp_path))[::-1]
        assert len(decoded) == 12
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert len(list(tmp_path.rglob("*"))) == 1 + 3  # a folder, 5 + 5 + 2 clips, and nothing half-written
        more = (*self.ITEMS, ("12.wav", encoded(noise(12, 112))))
        assert self.same(sound.read_all(more, RATE, cache_dir=str(tmp_path)), more)
        assert len(decoded) == 13

    def test_equal_clips_are_decoded_once(self, sound: SimpleNamespace, decoded: list, tmp_path: Path) -> None:
        clips = sound.read_all([*self.ITEMS[:2], *self.ITEMS[:2]], RATE, cache_dir=str(tmp_path))
        assert len(decoded) == 2
        assert np.array_equal(clips[1], clips[3])

    def test_other_settings_have_a_cache_of_their_own(
        self, sound: SimpleNamespace, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        padded = [("padded", encoded(np.concatenate([np.zeros(10), noise(0)])))]
        sizes = []
        for rate, trim in ((RATE, True), (RATE, False), (RATE // 2, False), (RATE, True)):
            sizes.append(len(sound.read_all(padded, rate, trim, str(tmp_path))[0]))
        assert sizes == [400, 410, 205, 400]
        assert len(decoded) == 3
        monkeypatch.setattr(sound, "READER", "another version")
        sound.read_all(padded, RATE, True, str(tmp_path))
        assert len(decoded) == 4

    def test_a_changed_file_is_read_anew(self, sound: SimpleNamespace, decoded: list, tmp_path: Path) -> None:
        file = tmp_path / "clip.wav"
        for size in (300, 300, 200):
            if not file.exists() or len(encoded(noise(0, size))) != file.stat().st_size:
                file.write_bytes(encoded(noise(0, size)))
            assert len(sound.read_all([("clip", file)], RATE, cache_dir=str(tmp_path / "cache"))[0]) == size
        assert len(decoded) == 2

    def test_an_interrupted_filling_goes_on(
        self, sound: SimpleNamespace, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sound, "SHARD", 4)
        counting = sound.read_clip

        def interrupted(source: bytes, *settings: object) -> np.ndarray:
            if source == self.ITEMS[9][1]:
                raise KeyboardInterrupt
            return counting(source, *settings)

        monkeypatch.setattr(sound, "read_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path))
        assert len(list(tmp_path.rglob("*.npz"))) == 2
        decoded.clear()
        monkeypatch.setattr(sound, "read_clip", counting)
        assert self.same(sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path)))
        assert decoded == [data for _, data in self.ITEMS[8:]]

    @pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
    def test_a_damaged_shard_is_made_anew(
        self,
        sound: SimpleNamespace,
        decoded: list,
        damage: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sound, "SHARD", 6)
        sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path))
        shard = next(tmp_path.rglob("*.npz"))
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 4
        shard.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "emptied": b""}[damage])
        again = sound.read_all(self.ITEMS[::-1], RATE, cache_dir=str(tmp_path))  # into a shard of another name
        assert self.same(again[::-1])
        assert len(decoded) == 12 + 6
        assert f"Warning: `{shard}` of the cache is damaged and is removed" in capsys.readouterr().err
        assert self.same(sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path)))
        assert len(decoded) == 12 + 6
        assert capsys.readouterr().err == ""

    def test_several_may_fill_it_at_once(
        self, sound: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clips = {f"{k}": np.full(200_000, k, np.int16) for k in range(3)}
        done, start = [], threading.Barrier(4)

        def fill() -> None:
            start.wait()
            for _ in range(5):
                assert sound.write_shard(tmp_path, clips) == tmp_path
                assert len(sound.load_cached(tmp_path, set(clips))) == 3
            done.append(True)

        threads = [threading.Thread(target=fill) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [True] * 4
        assert capsys.readouterr().err == ""
        assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]

    def test_where_the_cache_is(self, sound: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("home", "env"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("LTAUG_CACHE", raising=False)
        sound.read_all(self.ITEMS, RATE, cache_dir="none")
        assert not list(tmp_path.rglob("*.npz"))
        sound.read_all(self.ITEMS, RATE)
        assert len(list((tmp_path / "home/.cache/ltaug/sound").rglob("*.npz"))) == 1
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "env"))
        sound.read_all(self.ITEMS, RATE)
        assert len(list((tmp_path / "env/sound").rglob("*.npz"))) == 1

    def test_a_cache_that_cannot_be_written_is_done_without(
        self,
        sound: SimpleNamespace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sound, "SHARD", 3)
        (tmp_path / "file").write_text("in the way")
        assert self.same(sound.read_all(self.ITEMS, RATE, cache_dir=str(tmp_path / "file")))
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 1
        assert warnings[0].startswith(f"Warning: no sound is kept in `{tmp_path / 'file'}")
        assert "Name another `--cache_dir`, or none." in warnings[0]

    @pytest.mark.parametrize("cached", [True, False])
    def test_unreadable_clips_are_named_and_counted(
        self,
        sound: SimpleNamespace,
        cached: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        items = [(name, data if k % 2 else b"damaged") for k, (name, data) in enumerate(self.ITEMS)]
        cache = str(tmp_path / "cache") if cached else "none"
        for rank in ("0", "0", "1"):  # failures are not kept, and one process speaks
            monkeypatch.setenv("RANK", rank)
            clips = sound.read_all(items, RATE, cache_dir=cache)
            assert [clip is None for clip in clips] == [True, False] * 6
            said = capsys.readouterr().err
            if rank == "1":
                assert said == ""
                continue
            assert said.startswith("Warning: 6 of 12 clips are left out, since they cannot be read: 0.wav is no sound")
            assert "8.wav is no sound file" in said
            assert "10.wav" not in said
            assert said.endswith("; and 1 more.\n")
        with pytest.raises(
            ValueError, match=r"^0\.wav is no sound file .* Mend it, or leave it out: `--on_error skip`\.$"
        ):
            sound.read_all(items, RATE, cache_dir=cache, on_error="raise")
        with pytest.raises(ValueError, match=r"^None of the 6 clips can be read: 0\.wav is no sound file"):
            sound.read_all(items[::2], RATE, cache_dir=cache)

    def test_settings(self, sound: SimpleNamespace) -> None:
        with pytest.raises(ValueError, match='`on_error` must be "skip" or "raise", but is \'ignore\''):
            sound.read_all(self.ITEMS, RATE, cache_dir="none", on_error="ignore")
        with pytest.raises(ValueError, match="`sample_rate` must be at least 1 Hz, but is 0"):
            sound.read_all(self.ITEMS, 0, cache_dir="none")

    def test_threads_do_not_change_the_order(self, sound: SimpleNamespace) -> None:
        assert self.same(sound.read_all(self.ITEMS, RATE, cache_dir="none", workers=4))


class TestFolds:
    def test_a_fold_is_the_test_set(self, load: Callable, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data")
        for fold in (5, 2):
            data = load(dataset="esc50", data_dir=folder, test_fold=fold)
            assert {name[0] for name in data.test_names} == {str(fold)}
            assert str(fold) not in {name[0] for name in data.train_names}
            assert data.test_labels.bincount().tolist() == [2, 2, 2]
            assert data.class_names == ["dog", "sea", "fire"]  # 0, 10, 20
            assert data.class_counts.tolist() == ltaug.pareto_counts(8, 3, 4).tolist() == [8, 3, 2]
            assert data.train_labels.tolist() == [0] * 8 + [1] * 3 + [2] * 2
            for name, label in zip(
                data.train_names + data.test_names, [*data.train_labels, *data.test_labels], strict=True
            ):
                assert name.split("-")[1] == str(int(label))

    def test_waveforms_belong_to_their_names(self, load: Callable, tmp_path: Path) -> None:
        data = load(dataset="esc50", data_dir=write_parquet(tmp_path / "data"), imbalance_ratio=1)
        assert len(data.train_waveforms) == 24
        assert data.left_out == 0
        for name, clip in zip(
            data.train_names + data.test_names, data.train_waveforms + data.test_waveforms, strict=True
        ):
            fold, label, take = map(int, name[:-4].split("-"))
            want = noise(6 * (fold - 1) + 2 * label + take) * 32768
            assert clip.dtype == torch.int16
            assert np.abs(clip.numpy() - want).max() <= 1

    def test_the_hash_is_of_the_indices_in_the_full_set(self, load: Callable, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data")
        data = load(dataset="esc50", data_dir=folder)
        places = {
            f"{f}-{label}-{t}.wav": 6 * (f - 1) + 2 * label + t
            for f in range(1, 6)
            for label in range(3)
            for t in (0, 1)
        }
        indices = np.array([places[name] for name in data.train_names], "<i8")
        assert data.index_hash == hashlib.sha256(indices.tobytes()).hexdigest()
        assert data.index_hash == load(dataset="esc50", data_dir=folder, sample_rate=4000).index_hash
        assert data.index_hash != load(dataset="esc50", data_dir=folder, data_seed=1).index_hash

    def test_esc10_is_picked_by_its_column(self, load: Callable, tmp_path: Path) -> None:
        data = load(dataset="esc10", data_dir=write_parquet(tmp_path / "data"))
        assert data.class_names == ["dog", "fire"]
        assert data.class_counts.tolist() == [8, 2]

    def test_profiles(self, load: Callable, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data")
        for profile, counts in {"exponential": [8, 4, 2], "step": [8, 2, 2], "natural": [8, 8, 8]}.items():
            assert load(dataset="esc50", data_dir=folder, profile=profile).class_counts.tolist() == counts

    def test_only_what_is_used_is_decoded(self, load: Callable, decoded: list, tmp_path: Path) -> None:
        # data.py took read_all from sound.py, which looks read_clip up when it is called.
        data = load(dataset="esc50", data_dir=write_parquet(tmp_path / "data"))
        assert len(decoded) == len(data.train_names) + len(data.test_names) == 13 + 6

    def test_files_of_other_tools_and_without_optional_columns(self, load: Callable, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data", noted=False, filename=None, category=None, fold=None)
        data = load(dataset="esc50", data_dir=folder)
        assert data.class_names == ["0", "10", "20"]
        assert data.class_counts.tolist() == [8, 3, 2]  # 2 of 10 held out
        assert data.test_labels.bincount().tolist() == [2, 2, 2]
        assert not set(data.train_names) & set(data.test_names)

    def test_unreadable_clips_change_the_counts_and_not_the_choice(
        self, load: Callable, modules: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good = load(dataset="esc50", data_dir=write_parquet(tmp_path / "good"))
        bad_names = {good.train_names[0], good.train_names[9], good.test_names[1]}
        rows = parquet.read_table(tmp_path / "good").to_pylist()
        files = [{"bytes": b"bad", "path": None} if row["filename"] in bad_names else row["audio"] for row in rows]
        folder = write_parquet(tmp_path / "bad", audio=files)
        data = load(dataset="esc50", data_dir=folder)
        assert data.index_hash == good.index_hash
        assert data.class_counts.tolist() == data.train_labels.bincount().tolist() == [7, 2, 2]
        assert data.train_names == [name for name in good.train_names if name not in bad_names]
        assert data.test_names == [name for name in good.test_names if name not in bad_names]
        assert len(data.train_waveforms) == 11
        assert len(data.test_waveforms) == len(data.test_labels) == 5
        assert data.left_out == 3
        assert all(name in capsys.readouterr().err for name in list(bad_names)[:1])
        assert "[7, 2, 2], 5 test clips, 3 unreadable left out (subset " in modules.data.describe(data)
        with pytest.raises(ValueError, match="Mend it, or leave it out"):
            load(dataset="esc50", data_dir=folder, on_error="raise")

    def test_a_class_that_cannot_be_read(self, load: Callable, tmp_path: Path) -> None:
        good = parquet.read_table(write_parquet(tmp_path / "good")).to_pylist()
        for part, folds in (("training", range(1, 5)), ("test", [5])):
            files = [None if row["fold"] in folds and row["category"] == "fire" else row["audio"] for row in good]
            with pytest.raises(ValueError, match=rf"Of class 2 \(fire\) none of the 2 {part} clips can be read"):
                load(dataset="esc50", data_dir=write_parquet(tmp_path / part, audio=files))

    @pytest.mark.parametrize(
        ("changes", "settings", "message"),
        [
            ({}, {"audio_column": "sound"}, "has no column 'sound', but filename, fold, .* with `--audio_column`"),
            ({}, {"label_column": "label"}, "has no column 'label', but .* with `--label_column`"),
            ({}, {"label_column": "filename"}, "numbers from 0 on in 'filename', but has '1-0-0.wav' for clip 0"),
            ({"target": [-1] * 30}, {}, "must hold numbers from 0 on in 'target', but has -1 for clip 0"),
            ({"fold": [None] + [1] * 29}, {}, "must hold numbers from 0 on in 'fold', but has None .* Mend it"),
            ({}, {"label_column": "fold"}, "has 5 labels in 'fold', but 15 pairs of label and 'category'"),
            ({}, {"audio_column": "fold"}, "must hold sound files in 'fold', but holds Value"),
            ({}, {"test_fold": 7}, "`test_fold`=7 is no fold of .* which has 1, 2, 3, 4, 5"),
            ({"fold": [5] * 2 + [1] * 28}, {}, r"`test_fold`=5 has no clip of class 1 \(sea\)"),
            ({"fold": [5, 5, 5, 1, 5, 1] * 5}, {}, r"Class 0 \(dog\) has test clips only"),
            ({"target": [1] * 30, "category": None}, {}, "must have at least two classes, but has 1: 1"),
            ({"esc10": [False] * 30}, {"dataset": "esc10"}, "has no clips. Put some into it"),
            ({}, {"imbalance_ratio": 9}, "`imbalance_ratio`=9 leaves class 2 without training clips, .* has 8"),
        ],
    )
    def test_faults(self, load: Callable, changes: dict, settings: dict, message: str, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data", **changes)
        with pytest.raises(ValueError, match=message):
            load(**{"dataset": "esc50", "data_dir": folder} | settings)

    def test_other_splits_and_folders(self, load: Callable, tmp_path: Path) -> None:
        folder = write_parquet(tmp_path / "data")
        (folder / "train-0.parquet").rename(folder / "test-0.parquet")
        with pytest.raises(ValueError, match="must have a split named 'train', which holds all folds, but has test"):
            load(dataset="esc50", data_dir=folder)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"cannot be read as a data set: .* say `--dataset folder`"):
            load(dataset="esc50", data_dir=tmp_path / "empty")
        with pytest.raises(ValueError, match=r"nowhere' is no folder\. Leave it out to read ashraq/esc50 from the hub"):
            load(dataset="esc50", data_dir=tmp_path / "nowhere")

    def test_unreachable_hub_names_the_offline_ways(self, load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def unreachable(source: str) -> None:
            raise OSError(f"no route to {source}")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(ConnectionError, match=r"'ashraq/esc50' could not .*--data_dir FOLDER.*--dataset synthetic"):
            load(dataset="esc10")


class TestFolder:
    SIZES = {"ant": 10, "bee": 5, "cat": 3}  # noqa: RUF012

    @pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
    def test_long_tailed_by_nature(self, load: Callable, kind: str, tmp_path: Path) -> None:
        if kind.upper() not in soundfile.available_formats():
            pytest.skip("this libsndfile is too old for it")
        folder = write_folder(tmp_path / "data", self.SIZES, kind)
        data = load(data_dir=folder, profile="natural", test_per_class=1)
        assert data.class_names == ["ant", "bee", "cat"]
        assert data.class_counts.tolist() == [9, 4, 2]
        assert data.test_labels.tolist() == [0, 1, 2]
        every = {path.relative_to(folder).as_posix() for path in folder.rglob(f"*.{kind}")}
        assert set(data.train_names) | set(data.test_names) == every
        assert len(data.train_names) + len(data.test_names) == 18
        chosen = ltaug.subsample(torch.tensor([0] * 10 + [1] * 5 + [2] * 3), [1, 1, 1])
        assert data.test_names == [sorted(every)[k] for k in chosen]  # whatever order the disk has them in
        other = load(data_dir=folder, profile="natural", test_per_class=1, data_seed=1)
        assert other.test_names != data.test_names
        assert load(data_dir=folder, profile="natural", test_per_class=1).test_names == data.test_names

    def test_a_profile_thins_it_out(self, load: Callable, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 10, "bee": 10, "cat": 10})
        assert load(data_dir=folder).class_counts.tolist() == [8, 3, 2]
        with pytest.raises(
            ValueError,
            match=r"`imbalance_ratio`=1 asks for 8 training clips of class 1 \(bee\), but there are 4 \(2 of 3 "
            r"classes are too small\).*`--profile natural`",
        ):
            load(data_dir=write_folder(tmp_path / "tailed", {"ant": 10, "bee": 6, "cat": 5}), imbalance_ratio=1)

    def test_what_counts_as_a_clip(self, load: Callable, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 3, "bee": 3})
        (folder / "ant" / "deeper" / "still").mkdir(parents=True)
        (folder / "ant" / "00.wav").rename(folder / "ant" / "deeper" / "still" / "LOUD.WAV")
        (folder / "ant" / "._01.wav").write_bytes(b"a resource fork")
        (folder / "ant" / "notes.txt").write_text("none")
        (folder / ".trash").mkdir()
        (folder / "README.wav").write_text("none")
        data = load(data_dir=folder, profile="natural", test_per_class=1)
        assert data.class_counts.tolist() == [2, 2]
        assert data.left_out == 0
        assert "ant/deeper/still/LOUD.WAV" in data.train_names + data.test_names

    def test_faults(self, load: Callable, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`--dataset folder` needs `--data_dir`"):
            load()
        with pytest.raises(ValueError, match="nowhere' is no folder"):
            load(data_dir=tmp_path / "nowhere")
        (tmp_path / "data").mkdir()
        with pytest.raises(ValueError, match=r"has no folders\. Make one for each class"):
            load(data_dir=tmp_path / "data")
        write_folder(tmp_path / "data", {"ant": 3})
        with pytest.raises(ValueError, match="must have at least two classes, but has 1: ant"):
            load(data_dir=tmp_path / "data")
        write_folder(tmp_path / "data", {"bee": 2})
        with pytest.raises(
            ValueError,
            match=r"`test_per_class`=2 and a training clip need 3 clips .* class 1 \(bee\) has 2 \(1 of 2 cl",
        ):
            load(data_dir=tmp_path / "data")
        with pytest.raises(ValueError, match="`test_per_class` must be at least 1, but is 0"):
            load(data_dir=tmp_path / "data", test_per_class=0)
        (tmp_path / "data" / "cat").mkdir()
        (tmp_path / "data" / "cat" / "notes.txt").write_text("none")
        with pytest.raises(ValueError, match=r"folder of class 'cat' in .* has no sound files \(\.wav.*Remove it, or"):
            load(data_dir=tmp_path / "data")


class TestSynthetic:
    def test_equal_seeds_give_equal_sounds(self, modules: SimpleNamespace) -> None:
        clips, labels, names = modules.synthetic.synthesise(3, RATE, 0.5, seed=1)
        again = modules.synthetic.synthesise(3, RATE, 0.5, seed=1)[0]
        assert all(np.array_equal(a, b) for a, b in zip(clips, again, strict=True))
        assert Counter(labels) == dict.fromkeys(range(10), 3)
        assert len(set(names)) == 30
        assert {name.partition("/")[0] for name in names} == set(modules.synthetic.NAMES)
        assert {(clip.dtype, len(clip)) for clip in clips} == {(np.dtype(np.int16), RATE // 2)}
        fewer = modules.synthetic.synthesise(2, RATE, 0.5, seed=1)[0]
        assert np.array_equal(fewer[2], clips[3])  # the first of the second class
        other = modules.synthetic.synthesise(3, RATE, 0.5, seed=2)[0]
        assert not any(np.array_equal(a, b) for a, b in zip(clips, other, strict=True))
        assert len({clip.tobytes() for clip in clips}) == 30

    @pytest.mark.parametrize("rate", [1000, 8000, 44100])
    def test_levels(self, modules: SimpleNamespace, rate: int) -> None:
        clips = modules.synthetic.synthesise(4, rate, 1.0, seed=0)[0]
        levels = [20 * np.log10(clip.std() / 32768) for clip in clips]
        assert -32 < min(levels) < -20
        assert -15 < max(levels) < 0
        assert np.mean([np.mean(np.abs(clip) >= 32767) for clip in clips]) < 0.01

    def test_classes_can_be_told_apart_but_not_at_a_glance(self, modules: SimpleNamespace) -> None:
        clips, labels, _ = modules.synthetic.synthesise(20, RATE, 1.0, seed=0)
        frames = np.abs(np.fft.rfft(np.reshape(clips, (200, -1, 200)) * np.hanning(200))) ** 2
        spectra = np.log(frames.reshape(200, 40, 101)[:, :, :100].reshape(200, 40, 20, 5).mean(-1) + 1e3)
        features = np.concatenate([spectra.mean(1), spectra.std(1)], axis=1)
        features = (features - features.mean(0)) / features.std(0)
        labels = np.array(labels)
        train = np.arange(200) % 20 < 12
        centres = np.stack([features[train & (labels == k)].mean(0) for k in range(10)])
        nearest = ((features[~train, None] - centres) ** 2).sum(-1).argmin(1)
        assert 0.3 < (nearest == labels[~train]).mean() < 0.9

    def test_as_a_data_set(self, load: Callable, modules: SimpleNamespace, decoded: list) -> None:
        data = load(dataset="synthetic", imbalance_ratio=10, test_per_class=8, sample_rate=4000)
        assert data.class_names == list(modules.synthetic.NAMES)
        assert data.class_counts.tolist() == ltaug.pareto_counts(32, 10, 10).tolist()
        assert data.test_labels.bincount().tolist() == [8] * 10
        assert not set(data.train_names) & set(data.test_names)
        assert all(len(clip) == 8000 and clip.dtype == torch.int16 for clip in data.train_waveforms)
        assert decoded == []
        assert modules.data.describe(data).startswith(
            "120 training clips of 10 classes [32, 23, 17, 13, 10, 8, 6, 5, 3, 3], 80 test clips (subset "
        )


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_esc10(load: Callable, tmp_path: Path) -> None:
    settings = {"dataset": "esc10", "data_dir": ESC10, "imbalance_ratio": 10, "cache_dir": tmp_path / "cache"}
    data = load(**settings)
    assert data.class_counts.tolist() == [32, 23, 17, 13, 10, 8, 6, 5, 3, 3]
    assert data.test_labels.bincount().tolist() == [8] * 10
    assert data.index_hash == "350fb89811bc07609d61247b056ba1c376d1c3e132053eeb42abe86a25681fd3"
    assert data.class_names[:3] == ["dog", "rain", "sea_waves"]
    assert data.left_out == 0
    rows = {
        row["filename"]: row
        for row in parquet.read_table(ESC10 / "data", columns=["filename", "fold", "target", "src_file"]).to_pylist()
    }
    train, test = ([rows[name] for name in names] for names in (data.train_names, data.test_names))
    assert {row["fold"] for row in test} == {5}
    assert {row["fold"] for row in train} <= {1, 2, 3, 4}
    assert not {row["src_file"] for row in train} & {row["src_file"] for row in test}
    assert [row["target"] for row in train] == data.train_labels.tolist()
    for clip in data.train_waveforms + data.test_waveforms:
        assert 100 < len(clip) <= 8 * RATE
        assert clip[0] != 0 != clip[-1]
