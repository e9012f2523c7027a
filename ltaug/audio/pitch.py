"""Versions of clips at other pitches, made once by librosa and kept in a cache on the disk."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltaug._arguments import checked, shown
from ltaug.audio.decoding import SHARD, Clip, _load_cached, _write_shard

__all__ = ["pitch_versions", "shift_pitch"]

STEPS = (-1.0, -0.5, 0.5, 1.0)
"""Versions of a clip, in parts of the largest shift; the clip itself is one more."""


def shift_pitch(clip: Clip, sample_rate: int, semitones: float) -> Clip:
    """Shift the pitch of a clip and keep its length, by ``librosa.effects.pitch_shift``: a phase vocoder, soxr behind.

    Args:
        clip: int16 [T].
        sample_rate: Hz.
        semitones: upwards; 12 are an octave.

    Returns:
        int16 [T].

    Raises:
        ValueError: the clip is not int16 [T].
    """
    _check_clip(clip, "clip")
    # A window that is longer than the clip would be of zeros for the most part.
    n_fft = min(2048, 2 ** int(np.log2(max(1, len(clip)))))
    if n_fft < 32:  # which has no pitch
        return np.array(clip, dtype=np.int16)
    from librosa.effects import pitch_shift

    shifted: NDArray[np.float32] = pitch_shift(
        clip.astype(np.float32) / 32768, sr=sample_rate, n_steps=semitones, n_fft=n_fft
    )
    whole: Clip = np.minimum(np.rint(shifted.clip(-1, 1) * 32768), 32767).astype(np.int16)
    return whole


@checked
def pitch_versions(
    clips: Sequence[Tensor | Clip],
    sample_rate: int,
    semitones: float,
    cache_dir: str | None = None,
    workers: int | None = None,
) -> list[list[Clip]]:
    """Make the versions of clips that a :class:`ResidentWaveformLoader` draws from, of shifted pitch.

    They are shifted by the largest shift and by half of it, up and down. A second of sound takes 10 ms of a processor:
    too much for a training loop, so they are made once, by threads, and kept beside the decoded clips.

    Args:
        clips: int16 [T] each.
        sample_rate: Hz.
        semitones: the largest shift, up to 12.
        cache_dir: as in :func:`ltaug.audio.read_clips`; "none" for none.
        workers: threads; by default one a core.

    Returns:
        For each of the shifts a list of all clips, int16 [T] each.

    Raises:
        ValueError: the shift is out of range, or a clip is not int16 [T].
    """
    from tqdm.auto import tqdm

    if not 0 < semitones <= 12:
        raise ValueError(f"`semitones` must be above 0 and at most 12, an octave, but is {semitones}.")
    arrays = [clip.cpu().numpy() if isinstance(clip, Tensor) else clip for clip in clips]
    for k, clip in enumerate(arrays):
        _check_clip(clip, f"clips[{k}]")
    from librosa.effects import pitch_shift

    pitch_shift(np.ones(64, np.float32), sr=sample_rate, n_steps=1, n_fft=32)  # imports all before threads do at once
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    keys = [hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest() for clip in arrays]
    first = dict(zip(reversed(keys), reversed(arrays), strict=True))  # equal clips are shifted once
    root = Path(cache_dir or Path(os.environ.get("LTAUG_CACHE") or "~/.cache/ltaug") / "sound").expanduser()
    quiet: dict[str, Any] = {
        "disable": os.environ.get("RANK", "0") != "0",
        "delay": 2,
        "mininterval": 0.1 if sys.stderr.isatty() else 30,
    }
    versions = []
    for steps in (semitones * step for step in STEPS):
        folder: Path | None = root / f"{sample_rate}hz_pitch{steps:+g}_librosa{version('librosa')}"
        if cache_dir == "none":
            folder = None
        found = _load_cached(folder, set(keys)) if folder else {}
        missing = [key for key in first if key not in found]
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=len(missing), desc=f"Shifting pitch by {steps:+g}", unit="clip", **quiet) as bar,
        ):
            shifted = pool.map(lambda key, steps=steps: shift_pitch(first[key], sample_rate, steps), missing)
            try:
                for start in range(0, len(missing), SHARD):
                    shard = {}
                    for key in missing[start : start + SHARD]:
                        shard[key] = next(shifted)
                        bar.update()
                    found |= shard
                    if folder:
                        folder = _write_shard(folder, shard)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        versions.append([found[key] for key in keys])
    return versions


def _check_clip(clip: Any, name: str) -> None:
    if not isinstance(clip, np.ndarray) or clip.dtype != np.int16 or clip.ndim != 1:
        given = f"{clip.dtype} of shape {list(clip.shape)}" if isinstance(clip, np.ndarray) else shown(clip)
        raise ValueError(
            f"`{name}` must be an array, int16 [T], but is {given}. Samples in -1..1 are converted by "
            "`(32767 * clip).round().astype(np.int16)`."
        )
