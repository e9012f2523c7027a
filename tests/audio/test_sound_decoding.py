"""Decoding of sound files of every kind and fault, and the cache of decoded clips."""

from __future__ import annotations

import io
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from sound_support import RATE, encoded, noise, soundfile, tone

from ltaug.audio import decoding, read_clip, read_clips


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes | Path]:
    """What has been decoded since."""
    sources, original = [], decoding.read_clip

    def counting(source: bytes | Path, *settings: object) -> np.ndarray:
        sources.append(source)
        return original(source, *settings)

    monkeypatch.setattr(decoding, "read_clip", counting)
    return sources


class TestOneClip:
    def test_16_bit_files_come_through_unchanged(self) -> None:
        samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
        samples[:4] = [-32768, 32767, 1, -1]
        for kind in ("WAV", "FLAC"):
            read = read_clip(encoded(samples, kind=kind, subtype="PCM_16"), RATE)
            assert read.dtype == np.int16
            assert np.array_equal(read, samples)

    @pytest.mark.parametrize("kind", ["OGG", "MP3"])
    def test_compressed_files_are_about_the_same(self, kind: str) -> None:
        if kind not in soundfile.available_formats():
            pytest.skip(f"libsndfile {soundfile.__libsndfile_version__} cannot write {kind}: MP3 needs 1.1")
        read = read_clip(encoded(tone(440), 44100, kind), 44100, trim=False) / 32768
        assert abs(len(read) - 44100) < 2500  # MP3 pads
        middle = read[10000:30000]
        power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
        assert np.argmax(power) == round(440 * len(middle) / 44100)
        assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.02)

    def test_a_path_is_read_as_its_bytes_are(self, tmp_path: Path) -> None:
        data = encoded(noise(0))
        (tmp_path / "clip.wav").write_bytes(data)
        assert np.array_equal(read_clip(tmp_path / "clip.wav", RATE), read_clip(data, RATE))

    def test_channels_are_averaged(self) -> None:
        stereo = noise(0, channels=2)
        read = read_clip(encoded(stereo, subtype="FLOAT"), RATE)
        assert np.array_equal(read, np.rint(stereo.astype(np.float64).mean(1) * 32768))

    def test_what_lies_beyond_one_is_clipped(self) -> None:
        read = read_clip(encoded(np.float32([-2.5, -1, 0.5, 1, 2.5]), subtype="FLOAT"), RATE)
        assert read.tolist() == [-32768, -32768, 16384, 32767, 32767]

    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
    def test_every_number_format_has_the_same_scale(self, subtype: str) -> None:
        read = read_clip(encoded(tone(440, RATE), subtype=subtype), RATE, trim=False)
        assert np.abs(read / 32768 - tone(440, RATE)).max() < 0.02

    def test_samples_that_are_no_fractions_are_refused(self) -> None:
        data = encoded(np.float32([3000, -12000]), subtype="FLOAT")  # 16-bit integers, stored as floats
        with pytest.raises(ValueError, match="has floating-point samples up to 12000, where full scale is 1"):
            read_clip(data, RATE)

    @pytest.mark.parametrize("kind", ["int16", "int32", "int64", "float32", "float64"])
    def test_arrays(self, kind: str) -> None:
        scale = 2**31 if kind == "int32" else 2**15
        samples = (np.array([0.5, -0.25, 0.125]) * (1 if kind.startswith("float") else scale)).astype(kind)
        assert read_clip((samples, RATE), RATE).tolist() == [16384, -8192, 4096]
        assert len(read_clip((np.repeat(samples, 100), 2 * RATE), RATE)) == 150

    @pytest.mark.parametrize(("kind", "silence"), [("int8", 0), ("uint8", 128), ("uint16", 32768)])
    def test_arrays_of_few_bits_have_the_range_of_their_type(self, kind: str, silence: int) -> None:
        full = 2 ** (8 * np.dtype(kind).itemsize - 1)
        samples = (np.array([0.5, -0.25, 0.125]) * full + silence).astype(kind)
        assert read_clip((samples, RATE), RATE).tolist() == [16384, -8192, 4096]

    def test_channels_may_be_the_first_axis(self) -> None:
        """As torchaudio has them; of 400 samples none is taken for a channel."""
        mono = noise(0)
        for channels in (mono[None], np.stack([mono, mono]), np.stack([mono] * 3, 1)):
            assert np.array_equal(read_clip((channels, RATE), RATE), read_clip((mono, RATE), RATE))

    def test_inverted_channels_with_noise_of_their_own_do_not_cancel(self) -> None:
        """What is left of their mean is noise alone, 20 dB below."""
        rng, mono = np.random.default_rng(0), tone(440, RATE)
        first, second = (sign * mono + 0.05 * rng.standard_normal(RATE) for sign in (1, -1))
        read = read_clip((np.stack([first, second], 1), RATE), RATE, trim=False) / 32768
        assert np.corrcoef(read, mono)[0, 1] ** 2 > 0.95
        apart = 0.1 * rng.standard_normal((RATE, 2))  # that have nothing in common are averaged
        read = read_clip((apart, RATE), RATE, trim=False) / 32768
        assert np.abs(read - apart.mean(1)).max() < 1e-4

    def test_inverted_channels_do_not_cancel(self) -> None:
        mono = noise(0)
        for second in (-mono, -0.999 * mono):
            read = read_clip(encoded(np.stack([mono, second], 1), subtype="FLOAT"), RATE)
            assert np.array_equal(read, np.rint(mono.astype(np.float64) * 32768))
        half = read_clip(encoded(np.stack([mono, 0 * mono], 1), subtype="FLOAT"), RATE)
        assert np.abs(half - mono * 16384).max() <= 1

    def test_resampling_keeps_what_fits_and_suppresses_what_would_fold(self) -> None:
        for frequency, loudest in ((1000, 0.0), (7000, 0.0), (9000, -60.0), (12000, -60.0)):
            data = encoded(tone(frequency), 44100, subtype="FLOAT")
            read = read_clip(data, 16000, trim=False)
            assert len(read) == 16000
            level = 20 * np.log10(read[2000:-2000].std() / 32768 / (0.5 / np.sqrt(2)) + 1e-9)
            assert level == pytest.approx(0, abs=0.05) if loudest == 0 else level < loudest

    def test_trimming(self) -> None:
        inner = np.int16([5, 0, 0, -7])
        data = encoded(np.concatenate([np.zeros(30, np.int16), inner, np.zeros(9, np.int16)]), subtype="PCM_16")
        assert np.array_equal(read_clip(data, RATE), inner)
        assert len(read_clip(data, RATE, trim=False)) == 43

    def test_a_silent_clip_stays_as_it_is(self) -> None:
        assert read_clip(encoded(np.zeros(50, np.int16)), RATE).tolist() == [0] * 50

    def test_trimming_in_decibels(self, tmp_path: Path) -> None:
        """As librosa does it; the clips have a cache of their own."""
        librosa = pytest.importorskip("librosa")
        faint, loud = 0.0005 * tone(440, RATE), tone(440, RATE)  # 60 dB apart
        samples = np.concatenate([faint, loud, faint])
        for trim_db, left in ((40, RATE), (50, RATE), (None, 3 * RATE), (70, 3 * RATE)):
            clip = read_clips(
                [("clip", encoded(samples, subtype="FLOAT"))], RATE, False, str(tmp_path), trim_db=trim_db
            )
            assert abs(len(clip[0]) - left) <= 2 * 2048
            wanted = np.float32(samples)
            wanted = wanted if trim_db is None else librosa.effects.trim(wanted, top_db=trim_db)[0]
            assert np.array_equal(clip[0], np.rint(wanted * 32768))
        assert len(list(tmp_path.iterdir())) == 4
        silent = np.zeros(5000, np.float32)
        assert len(read_clip((silent, RATE), RATE, trim_db=30.0)) == 5000
        with pytest.raises(ValueError, match=r"`trim_db` must be a number of dB above 0, but is -60"):
            read_clips([], RATE, trim_db=-60.0)

    @pytest.mark.parametrize(
        ("kind", "subtype"),
        [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", None)],
    )
    def test_samples_are_those_of_librosa(self, kind: str, subtype: str | None) -> None:
        """Bit for bit, before they are rounded to 16 bits."""
        librosa = pytest.importorskip("librosa")
        if kind not in soundfile.available_formats():
            pytest.skip(f"libsndfile {soundfile.__libsndfile_version__} cannot write {kind}: MP3 needs 1.1")
        for channels, rate in itertools.product((None, 2), (8000, 44100)):
            data = encoded(noise(0, 5003, channels), rate, kind, subtype)
            for wanted in (8000, 16000, 22050):
                ours = decoding._mono_samples(data, wanted)
                theirs, _ = librosa.load(io.BytesIO(data), sr=wanted, res_type="soxr_hq", mono=True)
                assert ours.dtype == theirs.dtype == np.float32
                assert np.array_equal(ours, theirs[: len(ours)])
                assert theirs[len(ours) :].tolist() in ([], [0])  # its length is rounded up

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
            ((np.array([0.1, None]), RATE), r"has samples of shape \[2\] and type object"),
            ((noise(0), None), "has a sample rate of 0 Hz"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",  # float WAVs have the time of day in them
    )
    def test_faults_have_a_reason(self, data: bytes | Path, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            read_clip(data, RATE)

    @pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
    def test_a_damaged_file_is_read_or_refused(self, kind: str) -> None:
        good, rng, refused = encoded(noise(0, 2000), kind=kind), np.random.default_rng(0), 0
        for _ in range(150):
            data = bytearray(good)
            for place in rng.integers(min(len(data), 80), size=3):
                data[place] = rng.integers(256)
            try:
                assert read_clip(bytes(data), RATE).dtype == np.int16
            except ValueError:
                refused += 1
        assert refused > 10


class TestClipsThatWouldFillTheMemory:
    """Days of silence in a few kilobytes, made small by a lower limit."""

    REASON = r"has 40,000 samples{} at 8000 Hz, more than the 30,000 of a clip at most\. Cut it"

    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "MOST_SAMPLES", 30_000)

    @pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
    def test_are_refused_before_they_are_decoded(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if kind not in soundfile.available_formats():
            pytest.skip(f"libsndfile {soundfile.__libsndfile_version__} cannot write {kind}: MP3 needs 1.1")
        short, long = (encoded(np.zeros(size, np.int16), kind=kind) for size in (20_000, 40_000))
        assert len(read_clip(short, RATE)) >= 20_000
        monkeypatch.setattr(soundfile.SoundFile, "read", None)
        reason = r"has 4\d,\d{3} samples at 8000 Hz, more than the 30,000" if kind == "MP3" else self.REASON.format("")
        for source in (long, memoryview(long)):  # also as a table has it
            with pytest.raises(ValueError, match=reason):
                read_clip(source, RATE)

    def test_channels_count(self) -> None:
        with pytest.raises(ValueError, match=r"has 10,000 samples of 4 channels at 8000 Hz, more than the 30,000"):
            read_clip(encoded(np.zeros((10_000, 4), np.int16), kind="FLAC"), RATE)

    def test_so_does_what_becomes_of_them(self) -> None:
        """At a rate of 1 kHz a clip grows 44 times as long."""
        with pytest.raises(ValueError, match=r"has 44,100 samples at 44100 Hz, more than the 30,000"):
            read_clip(encoded(noise(0, 1000), 1000), 44100)

    def test_a_header_that_claims_anything(self) -> None:
        data = bytearray(encoded(noise(0), kind="FLAC"))
        data[8 + 13] |= 0x0F
        data[8 + 14 : 8 + 18] = b"\xff" * 4
        with pytest.raises(ValueError, match=r"has 68,719,476,735 samples at 8000 Hz, more than"):
            read_clip(bytes(data), RATE)

    def test_large_files_are_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "clip.wav").open("wb") as file:
            file.truncate(16 * 30_000 + 1)
        with pytest.raises(ValueError, match=r"has 480,001 bytes, more than a clip of 30,000 samples"):
            read_clip(tmp_path / "clip.wav", RATE)

    def test_they_are_left_out_by_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        sounds = [("good.flac", encoded(noise(0))), ("bomb.flac", encoded(np.zeros(40_000, np.int16), kind="FLAC"))]
        clips = read_clips(sounds, RATE, cache_dir=str(tmp_path))
        assert [clip is None for clip in clips] == [False, True]
        assert f"bomb.flac {self.REASON.format('')}".replace("\\", "") in capsys.readouterr().err


def test_a_pipe_is_no_sound_file(pipe: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be opened \(it is no regular file, but a"):
        read_clip(pipe, RATE)


class TestManyClips:
    ITEMS = tuple((f"{k}.wav", encoded(noise(k, 100 + k))) for k in range(12))

    def same(self, clips: list, items: tuple = ITEMS) -> bool:
        """Whether clips are those of the items."""
        wanted = [
            np.rint(np.trunc(noise(int(name.split(".")[0]), 100 + k) * 32768)) for k, (name, _) in enumerate(items)
        ]
        return all(np.abs(clip - want).max() <= 1 for clip, want in zip(clips, wanted, strict=True))

    def test_the_second_time_nothing_is_decoded(
        self, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "SHARD", 5)
        first = read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path))
        assert len(decoded) == 12
        assert self.same(first)
        again = read_clips(self.ITEMS[::-1], RATE, cache_dir=str(tmp_path))[::-1]
        assert len(decoded) == 12
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert len(list(tmp_path.rglob("*"))) == 1 + 3  # a folder, 5 + 5 + 2 clips, and nothing half-written
        more = (*self.ITEMS, ("12.wav", encoded(noise(12, 112))))
        assert self.same(read_clips(more, RATE, cache_dir=str(tmp_path)), more)
        assert len(decoded) == 13

    def test_equal_clips_are_decoded_once(self, decoded: list, tmp_path: Path) -> None:
        clips = read_clips([*self.ITEMS[:2], *self.ITEMS[:2]], RATE, cache_dir=str(tmp_path))
        assert len(decoded) == 2
        assert np.array_equal(clips[1], clips[3])

    def test_other_settings_have_a_cache_of_their_own(
        self, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        padded = [("padded", encoded(np.concatenate([np.zeros(10), noise(0)])))]
        sizes = []
        for rate, trim in ((RATE, True), (RATE, False), (RATE // 2, False), (RATE, True)):
            sizes.append(len(read_clips(padded, rate, trim, str(tmp_path))[0]))
        assert sizes == [400, 410, 205, 400]
        assert len(decoded) == 3
        monkeypatch.setattr(decoding, "_reader", lambda *_: "another version")
        read_clips(padded, RATE, True, str(tmp_path))
        assert len(decoded) == 4

    def test_a_changed_file_is_read_anew(self, decoded: list, tmp_path: Path) -> None:
        file = tmp_path / "clip.wav"
        for size in (300, 300, 200):
            if not file.exists() or len(encoded(noise(0, size))) != file.stat().st_size:
                file.write_bytes(encoded(noise(0, size)))
            assert len(read_clips([("clip", file)], RATE, cache_dir=str(tmp_path / "cache"))[0]) == size
        assert len(decoded) == 2

    def test_an_interrupted_filling_goes_on(
        self, decoded: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "SHARD", 4)
        counting = decoding.read_clip

        def interrupted(source: bytes, *settings: object) -> np.ndarray:
            if source == self.ITEMS[9][1]:
                raise KeyboardInterrupt
            return counting(source, *settings)

        monkeypatch.setattr(decoding, "read_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path))
        assert len(list(tmp_path.rglob("*.npz"))) == 2
        decoded.clear()
        monkeypatch.setattr(decoding, "read_clip", counting)
        assert self.same(read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path)))
        assert decoded == [data for _, data in self.ITEMS[8:]]

    @pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
    def test_a_damaged_shard_is_made_anew(
        self,
        decoded: list,
        damage: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(decoding, "SHARD", 6)
        read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path))
        shard = next(tmp_path.rglob("*.npz"))
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 4
        shard.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "emptied": b""}[damage])
        again = read_clips(self.ITEMS[::-1], RATE, cache_dir=str(tmp_path))  # into a shard of another name
        assert self.same(again[::-1])
        assert len(decoded) == 12 + 6
        assert f"Warning: `{shard}` of the cache is damaged and is removed" in capsys.readouterr().err
        assert self.same(read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path)))
        assert len(decoded) == 12 + 6
        assert capsys.readouterr().err == ""

    def test_several_may_fill_it_at_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clips = {f"{k}": np.full(200_000, k, np.int16) for k in range(3)}
        done, start = [], threading.Barrier(4)

        def fill() -> None:
            start.wait()
            for _ in range(5):
                assert decoding._write_shard(tmp_path, clips) == tmp_path
                assert len(decoding._load_cached(tmp_path, set(clips))) == 3
            done.append(True)

        threads = [threading.Thread(target=fill) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [True] * 4
        assert capsys.readouterr().err == ""
        assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]

    def test_where_the_cache_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("home", "env"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("LTAUG_CACHE", raising=False)
        read_clips(self.ITEMS, RATE, cache_dir="none")
        assert not list(tmp_path.rglob("*.npz"))
        read_clips(self.ITEMS, RATE)
        assert len(list((tmp_path / "home/.cache/ltaug/sound").rglob("*.npz"))) == 1
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "env"))
        read_clips(self.ITEMS, RATE)
        assert len(list((tmp_path / "env/sound").rglob("*.npz"))) == 1

    def test_a_cache_that_cannot_be_written_is_done_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(decoding, "SHARD", 3)
        (tmp_path / "file").write_text("in the way")
        assert self.same(read_clips(self.ITEMS, RATE, cache_dir=str(tmp_path / "file")))
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 1
        assert warnings[0].startswith(f"Warning: no sound is kept in `{tmp_path / 'file'}")
        assert "Name another `cache_dir`, or none." in warnings[0]

    @pytest.mark.parametrize("cached", [True, False])
    def test_unreadable_clips_are_named_and_counted(
        self, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        items = [(name, data if k % 2 else b"damaged") for k, (name, data) in enumerate(self.ITEMS)]
        cache = str(tmp_path / "cache") if cached else "none"
        for rank in ("0", "0", "1"):  # failures are not kept, and one process speaks
            monkeypatch.setenv("RANK", rank)
            clips = read_clips(items, RATE, cache_dir=cache)
            assert [clip is None for clip in clips] == [True, False] * 6
            said = capsys.readouterr().err
            if rank == "1":
                assert said == ""
                continue
            assert said.startswith("Warning: 6 of 12 clips are left out, since they cannot be read: 0.wav is no sound")
            assert "8.wav is no sound file" in said
            assert "10.wav" not in said
            assert said.endswith("; and 1 more.\n")
        with pytest.raises(ValueError, match=r"^0\.wav is no sound file .* `on_error` skip leaves it out\.$"):
            read_clips(items, RATE, cache_dir=cache, on_error="raise")
        with pytest.raises(ValueError, match=r"^None of the 6 clips can be read: 0\.wav is no sound file"):
            read_clips(items[::2], RATE, cache_dir=cache)

    def test_silent_clips_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        items = [*self.ITEMS, ("quiet.wav", encoded(np.zeros(50))), ("dc.wav", encoded(np.full(50, 0.25)))]
        assert all(clip is not None for clip in read_clips(items, RATE, cache_dir="none"))
        assert capsys.readouterr().err == (
            "Warning: 2 of 14 clips are silent, of one value from end to end: quiet.wav; dc.wav.\n"
        )

    def test_clips_that_are_nearly_silent_or_clipped_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        sine = tone(440, RATE, 0.2)
        items = [
            ("16 bits as 24", encoded(np.int32(sine * 2**15) * 2**8, subtype="PCM_24")),
            ("16 bits as 32", encoded(np.int32(sine * 2**15), subtype="PCM_32")),  # of one value
            ("too loud", encoded(np.float32(8 * sine), subtype="FLOAT")),
            ("full scale", encoded(np.float32(2 * sine), subtype="FLOAT")),
            ("soft", encoded(np.float32(0.02 * sine), subtype="FLOAT")),
        ]
        read_clips(items, RATE, cache_dir="none")
        assert capsys.readouterr().err.splitlines() == [
            "Warning: 1 of 5 clips are silent, of one value from end to end: 16 bits as 32.",
            "Warning: 1 of 5 clips are nearly silent, below 1/256 of full scale, as if stored with more bits than they "
            "have: 16 bits as 24.",
            "Warning: 1 of 5 clips are clipped, with more than 10% of their samples at full scale: too loud.",
        ]

    def test_settings(self) -> None:
        with pytest.raises(ValueError, match='`on_error` must be "skip" or "raise", but is \'ignore\''):
            read_clips(self.ITEMS, RATE, cache_dir="none", on_error="ignore")
        with pytest.raises(ValueError, match="`sample_rate` must be at least 1 Hz, but is 0"):
            read_clips(self.ITEMS, 0, cache_dir="none")

    def test_threads_do_not_change_the_order(self) -> None:
        assert self.same(read_clips(self.ITEMS, RATE, cache_dir="none", workers=4))
