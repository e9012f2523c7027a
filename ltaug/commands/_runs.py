"""Run folders that a command line names: found, or a line that says what there is instead."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from ltaug.errors import UserError, did_you_mean
from ltaug.scripts import PLACES
from ltaug.tables import Published, read_published

__all__ = ["find_run", "published_beside", "without_absent"]

MARKS = ("config.yaml", "summary.json")
"""Files of which a run folder has at least one."""
SHOWN = 4
"""Run folders that a message names."""


def find_run(word: str | Path) -> Path:
    """The run folder of this name.

    Raises:
        UserError: it is none; the message names those that are near.
    """
    path = Path(word).expanduser()
    if _is_run(path):
        return path
    if path.is_file():
        inside = f" Name its folder, `{path.parent}`." if _is_run(path.parent) else ""
        raise UserError(f"`{word}` is a file, but a run folder is needed.{inside or _of(path.parent)}")
    if path.is_dir():
        raise UserError(f"`{word}` is no run folder: it has no config.yaml.{_of(path)}")
    nearest = next(parent for parent in (path.parent, *path.parent.parents) if parent.is_dir())
    # Compared without what both have in common, which would make every run similar.
    near = [str(run.relative_to(nearest)) for run in _runs(nearest)]
    hint = did_you_mean(str(path.relative_to(nearest)), near)
    raise UserError(f"`{word}` is no run folder: in `{nearest}` there is none of this name{hint or f'.{_of(nearest)}'}")


def published_beside(run: Path) -> Published:
    """Published numbers of the recipe that trained a run, or of all that come with ltaug where its own has none."""
    command = run / "command.txt"
    words = command.read_text(encoding="utf-8", errors="replace").split() if command.is_file() else []
    own = {Path(word).parent / "published.csv": None for word in words if word.endswith(".py")}
    shipped = (path for place in PLACES for path in sorted(place.glob("*/published.csv")))
    files = [path for path in own if path.is_file()] or {path.parent.name: path for path in shipped}.values()
    return [line for path in files for line in _read_once(path, path.stat().st_mtime_ns)]


@functools.lru_cache
def _read_once(path: Path, changed: int) -> Published:
    """Published numbers of a file, which many runs have in common."""
    return read_published(path)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in MARKS)


def _runs(folder: Path) -> list[Path]:
    """Run folders in a folder, or in the folders in it."""
    return sorted({file.parent for name in MARKS for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{name}")})


def _of(folder: Path) -> str:
    """A sentence on the runs of a folder."""
    runs = _runs(folder)
    if not runs:
        return f" Nor are there any in `{folder}`: a run is in the folder that its training called `out`."
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f" Runs in `{folder}`: {', '.join(map(str, runs[:SHOWN]))}{more}."


def without_absent(prior: Tensor) -> Tensor:
    """A prior [C] of sum 1 whose classes of 0 are given 1 / C: a correction to the uniform prior shifts these by 0.

    The others are shifted to the uniform prior of those that there are. Returns ``prior`` where no class is of 0.
    """
    absent = prior == 0
    share = float(absent.sum()) / len(prior)
    return torch.where(absent, 1.0 / len(prior), prior * (1.0 - share))
