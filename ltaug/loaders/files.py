"""Files that lists and tables of strangers name: regular ones, inside of the folder of the data."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Collection

from ltaug.errors import UserError

__all__ = ["is_address", "refuse_outside", "regular", "stored_path"]


def regular(path: str | os.PathLike[str]) -> str:
    """Pass a path through if it leads to a regular file: to read a pipe, a socket or a device may never end.

    Raises:
        ValueError: it leads to something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file, but a folder, a pipe, a socket or a device")
    return os.fspath(path)


def stored_path(folder: str, path: str) -> str:
    r"""Path of a file that a table names, from a folder on; backslashes of Windows are slashes elsewhere.

    >>> stored_path("data", "images\\1.jpg")
    'data/images/1.jpg'
    """
    whole = os.path.join(folder, path)
    return whole if "\\" not in path or os.path.exists(whole) else os.path.join(folder, path.replace("\\", "/"))


def is_address(path: str) -> bool:
    """Say whether a path is an address of the web, of the hub or of another store; C:/ is a drive.

    >>> is_address("hf://datasets/owner/name/1.jpg"), is_address("C:/data/1.jpg"), is_address("train/1.jpg")
    (True, False, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE) is not None  # "//" may have become "/"


def refuse_outside(root: str, paths: Collection[str], source: str, allow_outside: bool = False) -> None:
    """Refuse paths of a list or a table that lead out of the folder of the data: by .., by a whole path or by a link.

    Links are looked for once a folder, since resolving every path takes too long for a million of them.

    Args:
        root: where relative paths start; empty for a data set of the hub, whose files are in the hub's cache.
        paths: of files, as they are named.
        source: what names them, for the message.
        allow_outside: refuse addresses only, which nothing here reads.
    """
    roots = list(map(os.path.realpath, [root] if root else _caches_of_the_hub()))
    folders: dict[str, tuple[bool, set[str]]] = {}

    def is_inside(path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == each or real.startswith(os.path.join(each, "")) for each in roots)

    def leaves(path: str) -> bool:
        whole = stored_path(root, path)
        folder, name = os.path.split(whole)
        if folder not in folders:
            folders[folder] = is_inside(folder), _links(folder)
        inside, links = folders[folder]
        return not inside or (_spelled(name) in links and not is_inside(whole))

    where = f"`data_dir` {root!r}" if root else "the hub's cache"
    for bad, what, advice in (
        (list(filter(is_address, paths)), "are addresses", "Only files are read: put them into a folder"),
        (
            [] if allow_outside else list(filter(leaves, paths)),
            f"lie outside {where}",
            "Put them there; or, if you trust whoever wrote these paths, set `allow_outside` to true",
        ),
    ):
        if bad:
            whole = os.path.normpath(os.path.join(root, bad[0]))
            linked = root and what.startswith("lie") and whole.startswith(os.path.join(os.path.normpath(root), ""))
            leads = f", through a link to {os.path.realpath(whole)!r}" if linked else ""
            raise UserError(
                f"{source} has paths that {what}, {len(bad)} of {len(paths)}, the first of which is {bad[0]!r}{leads}. "
                f"{advice}."
            )


def _links(folder: str) -> set[str]:
    """Names of the links in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        return {_spelled(entry.name) for entry in entries if entry.is_symlink()}
    return set()


def _spelled(name: str) -> str:
    """One spelling of all that some file system takes for the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def _caches_of_the_hub() -> list[str]:
    import datasets
    import huggingface_hub.constants

    known = datasets.config
    places = (known.HF_DATASETS_CACHE, known.DOWNLOADED_DATASETS_PATH, known.EXTRACTED_DATASETS_PATH)
    return [*map(os.fspath, places), huggingface_hub.constants.HF_HUB_CACHE]
