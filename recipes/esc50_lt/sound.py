"""Sound files to mono int16 samples of one rate: decoded and resampled once, and kept in a cache on the disk."""

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import soundfile
import soxr
from tqdm.auto import tqdm

from ltaug.run import write_atomically

SHARD = 256
"""Clips of a file of the cache: what an interruption loses at the most."""
# Whatever changes the samples is in the name of the cache's folder; raise the number with read_clip.
READER = f"reader1_sndfile{soundfile.__libsndfile_version__}_soxr{soxr.__version__}"


def read_clip(source: bytes | Path, sample_rate: int, trim: bool = True) -> np.ndarray:
    """Decode a sound file, average its channels, resample it and round it to int16.

    Samples x are clipped to -1..1 and become x * 32768, rounded, at the most 32767, so that 16-bit files of the right
    rate come through unchanged and division by 32768 leads back. With `trim`, zeros at both ends are cut off, as
    between-class learning does (Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282); a clip of zeros alone
    stays as it is.

    Returns:
        int16 [T], T >= 1.

    Raises:
        ValueError: the file cannot be read, is of no known format, is empty, or has samples that are NaN or infinite.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if not data:
            raise ValueError("is empty")
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror})") from error
    except soundfile.LibsndfileError as error:
        raise ValueError(f"is no sound file that libsndfile reads ({error.error_string.rstrip('.')})") from error
    except MemoryError as error:  # a damaged header may ask for anything
        raise ValueError("claims to be longer than the memory holds") from error
    if not len(samples):
        raise ValueError("has no samples")
    if not 1000 <= rate <= 1_000_000:  # of a damaged header; resampled it could fill the memory
        raise ValueError(f"has a sample rate of {rate} Hz")
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, "HQ")
        if not len(samples):
            raise ValueError(f"is too short to have a sample at {sample_rate} Hz")
    if not np.isfinite(samples).all():
        raise ValueError("has samples that are NaN or infinite")
    samples = np.rint(samples.clip(-1, 1) * 32768)
    clip = np.minimum(samples, 32767).astype(np.int16)
    if trim and len(loud := np.flatnonzero(clip)):
        clip = clip[loud[0] : loud[-1] + 1].copy()
    return clip


def read_all(
    items: Sequence[tuple[str, bytes | Path]],
    sample_rate: int,
    trim: bool = True,
    cache_dir: str | None = None,
    on_error: str = "skip",
    workers: int | None = None,
) -> list[np.ndarray | None]:
    """Read many clips, from the cache those that are there and into it the others.

    The cache knows a clip by its bytes, or by path, size and time of change of its file, and belongs to the sample
    rate, to `trim` and to the versions of the libraries. It is filled a shard at a time, each whole or not at all, so
    that an interrupted run goes on where it was; several processes may fill it at once, and it may be deleted.

    Args:
        items: names, for messages, and sources.
        sample_rate: Hz.
        trim: see `read_clip`.
        cache_dir: folder of the cache; None for `$LTAUG_CACHE/sound`, or else `~/.cache/ltaug/sound`; "none" for none.
        on_error: "skip" leaves clips out that cannot be read, with a warning; "raise" stops at the first one.
        workers: threads; by default one a core, since decoding and resampling let go of Python's lock.

    Returns:
        For each item int16 [T], or None if it cannot be read.

    Raises:
        ValueError: a clip cannot be read and `on_error` is "raise", or none can.
    """
    if on_error not in ("skip", "raise"):
        raise ValueError(f'`on_error` must be "skip" or "raise", but is {on_error!r}.')
    if sample_rate < 1:
        raise ValueError(f"`sample_rate` must be at least 1 Hz, but is {sample_rate}.")
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder = None
    if cache_dir != "none":
        root = Path(cache_dir or Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug") / "sound").expanduser()
        folder = root / f"{sample_rate}hz_{'trimmed' if trim else 'whole'}_{READER}"
    keys = [clip_key(source) for _, source in items] if folder else [str(k) for k in range(len(items))]
    clips = load_cached(folder, set(keys)) if folder else {}
    failures: dict[str, str] = {}

    def read(k: int) -> np.ndarray | None:
        try:
            return read_clip(items[k][1], sample_rate, trim)
        except ValueError as error:
            failures[keys[k]] = str(error)
            return None

    first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))  # of equal clips
    missing = [key for key in dict.fromkeys(keys) if key not in clips]
    quiet = {"disable": not is_main(), "delay": 2, "mininterval": 0.1 if sys.stderr.isatty() else 30}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(missing), desc="Reading sound", unit="clip", **quiet) as bar,
    ):
        results = pool.map(read, [first[key] for key in missing])
        try:
            for start in range(0, len(missing), SHARD):
                shard = {}
                for key in missing[start : start + SHARD]:
                    if (clip := next(results)) is not None:
                        shard[key] = clip
                    elif on_error == "raise":
                        name = items[first[key]][0]
                        raise ValueError(f"{name} {failures[key]}. Mend it, or leave it out: `--on_error skip`.")
                    bar.update()
                clips |= shard
                if folder and shard:  # while the threads read on
                    folder = write_shard(folder, shard)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    bad = [f"{name} {failures[key]}" for (name, _), key in zip(items, keys, strict=True) if key in failures]
    told = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
    if bad and len(bad) == len(items):
        raise ValueError(f"None of the {len(bad)} clips can be read: {told}.")
    if bad:
        warn(f"{len(bad)} of {len(items)} clips are left out, since they cannot be read: {told}.")
    return [clips.get(key) for key in keys]


def clip_key(source: bytes | Path) -> str:
    """What the cache knows a clip by."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        state = source.stat()
    except OSError:
        return hashlib.sha256(str(source).encode()).hexdigest()  # to be told of when it is read
    return hashlib.sha256(f"{source.resolve()}|{state.st_size}|{state.st_mtime_ns}".encode()).hexdigest()


def load_cached(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """Those of the wanted clips that the cache has. Damaged files, which checksums tell, count for nothing."""
    clips: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file) as shard:
                clips |= {key: shard[key] for key in shard.files if key in wanted and key not in clips}
        except Exception as error:  # zip files can be damaged in ways of many types
            warn(f"`{file}` of the cache is damaged and is removed ({type(error).__name__}: {error}).")
            with contextlib.suppress(OSError):
                file.unlink()
    return clips


def write_shard(folder: Path, clips: dict[str, np.ndarray]) -> Path | None:
    """Put clips into the cache; return its folder, or None if it cannot be written."""
    file = io.BytesIO()
    np.savez(file, **clips)
    # A name of its own first: of two processes that write one file under one name, each would break the other's.
    part = folder / f"{uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(part, file.getvalue())
        part.replace(folder / f"{hashlib.sha256(''.join(clips).encode()).hexdigest()[:32]}.npz")
    except OSError as error:
        warn(f"no sound is kept in `{folder}` ({error.strerror}). Name another `--cache_dir`, or none.")
        return None
    return folder


def is_main() -> bool:
    """Whether this is the process that speaks."""
    return os.environ.get("RANK", "0") == "0"


def warn(message: str) -> None:
    """Say it once, however many processes there are."""
    if is_main():
        print(f"Warning: {message}", file=sys.stderr, flush=True)
