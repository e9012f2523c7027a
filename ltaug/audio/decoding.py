"""Sound files to mono int16 samples of one rate, decoded and resampled once and kept in a cache on the disk.

The samples are those of ``librosa.load``, bit for bit, from soundfile and soxr alone: to import librosa takes seconds.
Needs the extra ``audio``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.files import regular
from ltaug.run import write_atomically

__all__ = ["Clip", "Sound", "is_sound", "read_clip", "read_clips"]

Sound = bytes | memoryview | str | Path | tuple[NDArray[Any], int]
"""A sound file's bytes or path, or samples [T], [T, channels] or [channels, T] with their rate."""
Clip = NDArray[np.int16]
"""Samples of one channel, [T]; divided by 32768 they lie in -1..1."""

SHARD = 256
"""Clips in a file of the cache: what an interruption loses at most."""
MOST_SAMPLES = 2**27
"""Of all channels of a clip, as it is stored and at the new rate: 50 minutes of one channel at 44.1 kHz. A few
kilobytes can hold days of silence, and would fill the memory."""
LOUDEST = 10.0
"""Floating-point samples beyond this are no fractions of full scale."""
FAINT = 128
"""Clips whose samples all lie within this, of 32768, may be of 16 bits that are stored as 24 or 32."""
CANCELLED = 0.1
"""K channels cancel each other if their mean has less than this by K of their power, of two a correlation below -0.9.
Channels that have nothing in common have 1 by K of it."""
CLIPPED = 0.1
"""Share of samples at full scale from which on a clip is reported."""
SUFFIXES = {
    *(".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf"),
    *(".au", ".snd", ".voc", ".avr", ".sph", ".nist", ".sd2"),
}
"""Of the files that libsndfile reads."""


def is_sound(path: str) -> bool:
    """Say whether libsndfile can read a file: by its suffix, or by a look into it if the suffix is not known."""
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        return True
    import soundfile

    try:
        name = path if sys.platform == "win32" else os.fsencode(path)  # which need not be UTF-8
        return int(soundfile.info(name).frames) > 0
    except (OSError, soundfile.SoundFileError, TypeError):  # the last one of .raw, which says neither rate nor type
        return False


def read_clip(sound: Sound, sample_rate: int, trim: bool = True, trim_db: float | None = None) -> Clip:
    """Decode a sound, average its channels, resample it and round it to int16.

    Samples x are fractions of full scale, clipped to -1..1; they become x * 32768, rounded, at most 32767. So 16-bit
    files of the right rate come through unchanged, and division by 32768 leads back. Integers that are not from a file
    have the range of their type; of 32 and 64 bits they are taken for 16 bits if all of them fit, else for 32. Where
    channels cancel each other, as with one of them inverted, the loudest is taken instead of their mean. Of two axes
    the shorter one is that of the channels.

    Args:
        sound: file, as its bytes or its path; or samples and their rate.
        sample_rate: Hz.
        trim: cut zeros off both ends, as between-class learning does (Tokozume et al., ICLR 2018,
            https://arxiv.org/abs/1711.10282). A clip of zeros alone stays as it is.
        trim_db: cut off both ends, too, what is softer than the loudest frame by more than so many dB, as
            ``librosa.effects.trim`` does, in frames of 2048 samples every 512. None cuts nothing.

    Returns:
        int16 [T], T >= 1.

    Raises:
        ValueError: the sound cannot be read, is empty or longer than :data:`MOST_SAMPLES`, its rate cannot be right, or
            it has samples that are NaN, infinite or far beyond full scale. The message is the rest of a sentence that
            begins with the sound's name.
    """
    samples = _mono_samples(sound, sample_rate)
    if trim_db is not None:
        import librosa

        samples = librosa.effects.trim(samples, top_db=trim_db)[0]
    clip: Clip = np.minimum(np.rint(samples.clip(-1, 1) * 32768), 32767).astype(np.int16)
    if trim and len(loud := np.flatnonzero(clip)):
        clip = clip[loud[0] : loud[-1] + 1].copy()
    return clip


def _mono_samples(sound: Sound, sample_rate: int) -> NDArray[np.float32]:
    """Samples of one channel at another rate, not yet rounded: those of ``librosa.load``, but for a zero that it adds.

    Where the new length is no whole number, librosa rounds it up, and soxr has no sample for it.
    """
    import soxr

    samples, rate = _samples(sound)
    if not len(samples):
        raise ValueError("has no samples")
    if not 1000 <= rate <= 1_000_000:  # of a damaged header; resampled it could fill the memory
        raise ValueError(f"has a sample rate of {rate} Hz")
    _check_length(len(samples) * sample_rate / rate, 1, sample_rate)
    peak = float(max(samples.max(), -samples.min()))  # without a copy; NaN if one is
    if not math.isfinite(peak):
        raise ValueError("has samples that are NaN or infinite")
    if peak > LOUDEST:
        raise ValueError(f"has floating-point samples up to {peak:g}, where full scale is 1")
    if samples.ndim == 2:
        samples = _mono(samples)
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, "HQ")
        if not len(samples):
            raise ValueError(f"is too short to have a sample at {sample_rate} Hz")
    return samples


def _samples(sound: Sound) -> tuple[NDArray[np.float32], int]:
    """Samples as fractions of full scale, [T] or [T, channels], and their rate."""
    import soundfile

    if isinstance(sound, tuple):
        values, rate = np.asarray(sound[0]), int(sound[1] or 0)
        if values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
            raise ValueError(f"has samples of shape {list(values.shape)} and type {values.dtype}")
        if values.dtype.kind in "iu":
            values = _fractions(values)
        if values.ndim == 2 and values.shape[0] < values.shape[1]:
            values = values.T
        return values.astype(np.float32), rate
    try:
        data = _content(sound) if isinstance(sound, str | Path) else sound
        if not len(data):
            raise ValueError("is empty")
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # A damaged header may claim anything; of what it claims, no more is read than there is.
            _check_length(file.frames, file.channels, file.samplerate)
            return file.read(dtype="float32"), file.samplerate
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror})") from error
    except soundfile.LibsndfileError as error:
        raise ValueError(f"is no sound file that libsndfile reads ({error.error_string.rstrip('.')})") from error


def _content(path: str | Path) -> bytes:
    """The bytes of a file that is not larger than the longest clip."""
    try:
        size = os.path.getsize(regular(path))
    except ValueError as error:
        raise ValueError(f"cannot be opened ({error})") from error
    if size > 16 * MOST_SAMPLES:  # of 64 bits, and as much of anything else
        raise ValueError(f"has {size:,} bytes, more than a clip of {MOST_SAMPLES:,} samples")
    return Path(path).read_bytes()


def _check_length(frames: float, channels: int, rate: int) -> None:
    """Refuse a clip of too many samples before there is memory for them."""
    if frames * channels > MOST_SAMPLES:
        times = f" of {channels} channels" if channels > 1 else ""
        raise ValueError(
            f"has {frames:,.0f} samples{times} at {rate} Hz, more than the {MOST_SAMPLES:,} of a clip at most. Cut it"
        )


def _fractions(values: NDArray[Any]) -> NDArray[np.float64]:
    """Integer samples as fractions of full scale; without a sign, half of the range is silence."""
    bits = 8 * values.dtype.itemsize
    wide = values.astype(np.float64)
    if bits > 16:
        bits = 16 if not wide.size or np.abs(wide).max() <= 2**15 else 32
    elif values.dtype.kind == "u":
        wide -= 2 ** (bits - 1)
    fractions: NDArray[np.float64] = wide / 2 ** (bits - 1)
    return fractions


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the channels, or the loudest channel where they cancel each other."""
    mean: NDArray[np.float32] = samples.mean(axis=1)
    power = np.square(samples).mean(axis=0)
    least = CANCELLED / samples.shape[1] * power.mean()
    return mean if np.square(mean).mean() >= least else samples[:, power.argmax()]


def read_clips(
    sounds: Sequence[tuple[str, Sound]],
    sample_rate: int,
    trim: bool = True,
    cache_dir: str | None = None,
    on_error: Literal["skip", "raise"] = "skip",
    workers: int | None = None,
    trim_db: float | None = None,
) -> list[Clip | None]:
    """Read many clips: those that the cache has from there, the others into it.

    The cache knows a clip by its bytes or, of a file, by path, size and time of change. It has a folder for each sample
    rate, ``trim``, ``trim_db`` and version of the libraries. It is filled a shard at a time, each whole or not at all,
    so that an interrupted run goes on where it was; several processes may fill it at once, and it may be deleted.

    Args:
        sounds: names, for messages, and sounds.
        sample_rate: Hz.
        trim: see :func:`read_clip`.
        cache_dir: folder of the cache; None for ``$LTAUG_CACHE/sound``, or else ``~/.cache/ltaug/sound``; "none" for
            none.
        on_error: "skip" leaves clips out that cannot be read, with a warning; "raise" stops at the first one.
        workers: threads; by default one a core, since decoding and resampling release Python's lock.
        trim_db: see :func:`read_clip`.

    Returns:
        For each sound int16 [T], or None if it cannot be read.

    Raises:
        UserError: a clip cannot be read and ``on_error`` is "raise", or none of them can.
    """
    from tqdm.auto import tqdm

    if on_error not in ("skip", "raise"):
        raise ValueError(f'`on_error` must be "skip" or "raise", but is {on_error!r}.')
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` must be at least 1 Hz, but is {sample_rate}.")
    if trim_db is not None and not trim_db > 0:
        raise ValueError(f"`trim_db` must be a number of dB above 0, but is {trim_db}. Leave it out to cut nothing.")
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = None
    if cache_dir != "none":
        root = Path(cache_dir or Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug") / "sound").expanduser()
        folder = root / f"{sample_rate}hz_{'trimmed' if trim else 'whole'}_{_reader(trim_db)}"
    if trim_db is not None:
        import librosa

        librosa.effects.trim(np.ones(1, np.float32))  # loads what it needs, before threads ask for it at once
    keys = [_key(sound) for _, sound in sounds] if folder else [str(k) for k in range(len(sounds))]
    clips = _load_cached(folder, set(keys)) if folder else {}
    failures: dict[str, str] = {}

    def read(k: int) -> Clip | None:
        try:
            return read_clip(sounds[k][1], sample_rate, trim, trim_db)
        except ValueError as error:
            failures[keys[k]] = str(error)
            return None

    first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))  # of equal clips
    missing = [key for key in dict.fromkeys(keys) if key not in clips]
    quiet: dict[str, Any] = {
        "disable": os.environ.get("RANK", "0") != "0",
        "delay": 2,
        "mininterval": 0.1 if sys.stderr.isatty() else 30,
    }
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(missing), desc="Reading sound", unit="clip", **quiet) as bar,
    ):
        results = pool.map(read, [first[key] for key in missing])
        try:
            for start in range(0, len(missing), SHARD):
                shard: dict[str, Clip] = {}
                for key in missing[start : start + SHARD]:
                    if (clip := next(results)) is not None:
                        shard[key] = clip
                    elif on_error == "raise":
                        raise UserError(f"{sounds[first[key]][0]} {failures[key]}. `on_error` skip leaves it out.")
                    bar.update()
                clips |= shard
                if folder and shard:  # while the threads read on
                    folder = _write_shard(folder, shard)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    bad = [f"{name} {failures[key]}" for (name, _), key in zip(sounds, keys, strict=True) if key in failures]
    if bad and len(bad) == len(sounds):
        raise UserError(f"None of the {len(bad)} clips can be read: {_shortened(bad)}.")
    if bad:
        warn(f"{len(bad)} of {len(sounds)} clips are left out, since they cannot be read: {_shortened(bad)}.")
    found = [clips.get(key) for key in keys]
    named = [(name, clip) for (name, _), clip in zip(sounds, found, strict=True) if clip is not None]
    for odd, what in (
        ([name for name, clip in named if clip.min() == clip.max()], "are silent, of one value from end to end"),
        (
            [name for name, clip in named if -FAINT <= clip.min() < clip.max() <= FAINT],
            f"are nearly silent, below 1/{32768 // FAINT} of full scale, as if stored with more bits than they have",
        ),
        (
            [name for name, clip in named if np.mean((clip == 32767) | (clip == -32768)) > CLIPPED],
            f"are clipped, with more than {CLIPPED:.0%} of their samples at full scale",
        ),
    ):
        if odd:
            warn(f"{len(odd)} of {len(sounds)} clips {what}: {_shortened(odd)}.")
    return found


def _shortened(items: list[str]) -> str:
    return "; ".join(items[:5]) + (f"; and {len(items) - 5} more" if len(items) > 5 else "")


def _reader(trim_db: float | None = None) -> str:
    """Version of whatever changes the samples. Raise the number with :func:`read_clip`."""
    import soundfile
    import soxr

    reader = f"reader3_sndfile{soundfile.__libsndfile_version__}_soxr{soxr.__version__}"
    if trim_db is None:
        return reader
    return f"{reader}_{trim_db:g}db_librosa{version('librosa')}"


def _key(sound: Sound) -> str:
    """What the cache knows a clip by."""
    if isinstance(sound, tuple):
        values = np.ascontiguousarray(sound[0])
        start = f"{sound[1]}|{values.dtype.str}|{values.shape}|".encode()
        return hashlib.sha256(start + values.tobytes()).hexdigest()
    if not isinstance(sound, str | Path):
        return hashlib.sha256(sound).hexdigest()
    path = os.fsencode(os.path.realpath(sound))
    try:
        state = os.stat(sound)
    except OSError:
        return hashlib.sha256(path).hexdigest()  # reported when it is read
    return hashlib.sha256(path + f"|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()


def _load_cached(folder: Path, wanted: set[str]) -> dict[str, Clip]:
    """Load the wanted clips that the cache has."""
    clips: dict[str, Clip] = {}
    for file in sorted(folder.glob("*.npz")):
        clips |= _load_shard(file, wanted - set(clips))
    return clips


def _load_shard(file: Path, wanted: set[str]) -> dict[str, Clip]:
    """Load the wanted clips of a file. A damaged one, which checksums tell, is removed."""
    clips: dict[str, Clip] = {}
    try:
        with np.load(file) as shard:
            clips |= {key: shard[key] for key in shard.files if key in wanted}
    except Exception as error:  # zip files can be damaged in ways of many types
        warn(f"`{file}` of the cache is damaged and is removed ({type(error).__name__}: {error}).")
        with contextlib.suppress(OSError):
            file.unlink()
    return clips


def _write_shard(folder: Path, clips: dict[str, Clip]) -> Path | None:
    """Put clips into the cache; return its folder, or None if it cannot be written."""
    file = io.BytesIO()
    np.savez(file, **clips)  # type: ignore[arg-type]  # its other argument is not a name of ours
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{hashlib.sha256(''.join(clips).encode()).hexdigest()[:32]}.npz", file.getvalue())
    except OSError as error:
        warn(f"no sound is kept in `{folder}` ({error.strerror}). Name another `cache_dir`, or none.")
        return None
    return folder
