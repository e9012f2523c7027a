"""Small modules in two files: numbers as safetensors, and what they are as JSON. Nothing in them is run on loading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Place = str | os.PathLike[str]


def write(place: Place, name: str, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Path:
    """Write STEM.safetensors and STEM.json, each whole or not at all; returns the former.

    Args:
        place: a folder, in which the stem is ``name``; or the stem itself.
        name: of what is saved.
        tensors: the numbers.
        info: plain values.
    """
    stem = _stem(place, name)
    stem.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: values.detach().cpu().contiguous().clone() for key, values in tensors.items()}
    text = json.dumps({"kind": name, **info}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for path, content in ((_with(stem, "safetensors"), save(plain)), (_with(stem, "json"), text.encode())):
        temporary = path.with_name(f".{path.name}-{uuid4().hex}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return _with(stem, "safetensors")


def read(place: Place, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, or holds something else; the message names it.
    """
    stem = _stem(place, name)
    path = _with(stem, "json")
    try:
        info = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no saved {name} at `{place}`: `{path}` is missing. Name the folder or the file that its `save` "
            "was given."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is damaged ({error}). Save it again.") from error
    if not isinstance(info, dict) or info.get("kind") != name:
        raise ValueError(f"`{path}` is no saved {name}. Name the folder or the file that its `save` was given.")
    path = _with(stem, "safetensors")
    try:
        return load(path.read_bytes()), info
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`{path}` is missing beside `{_with(stem, 'json')}`: the saved {name} is these two files. Copy both."
        ) from error
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged ({error}). Save it again.") from error


def _stem(place: Place, name: str) -> Path:
    text = os.fspath(place)
    if not text:
        raise ValueError("`path` must be a folder or the stem of two files, but is empty.")
    path = Path(text).expanduser()
    if path.is_dir() or text.endswith(("/", os.sep)):
        return path / name
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")  # a dot in the name is part of it
