"""Finished runs on the hub: what is pushed, and what is pulled."""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ltaug.errors import UserError
from ltaug.hub._client import api, check_name, hub_errors, patiently
from ltaug.loaders._notes import warn
from ltaug.run import CORRECTION_FILES, RunFolder, write_atomically

FORMATS = ("onnx", "pt2")
"""Kinds of exported files."""
_COPIED = ("model.safetensors", "ltaug.json", "per_class.csv", *CORRECTION_FILES, "config.json")
"""Files of a run that are pushed as they are, where it has them; config.json is timm's."""
_SCRUBBED = ("config.yaml", "summary.json")
"""Files in which places of one machine may stand."""
_OURS = (
    *(*_COPIED, *_SCRUBBED, "README.md", "logits.safetensors", "held_out.safetensors"),
    *(*(f"model.{name}" for name in FORMATS), "model.onnx.data"),  # the last of models that are too large for ONNX
    *("counts.png", "accuracy.png", "reliability.png"),
)
"""Every file that a push may have: those that a later one does not have are removed by it."""
_PULLED = ("*.safetensors", "*.json", "*.yaml", "*.csv", "*.md", "*.png", "*.onnx", "*.onnx.data", "*.pt2")
"""What is pulled: nothing of it is executed when it is read."""
_MADE = ("corrected.json", *CORRECTION_FILES, *(f"model.{name}" for name in FORMATS), "model.onnx.data")
"""What commands make of a run's weights in its folder."""
_RECORD = ".pulled.json"
"""In a pulled folder: whose files they are."""


def write_model_folder(
    run: str | Path,
    folder: str | Path,
    repo_id: str,
    *,
    formats: Sequence[str] = ("onnx",),
    logits: bool = False,
    license: str | None = None,
    script: str | Path | None = None,
) -> list[str]:
    """Write what a push of a run would upload, and nothing else, into a folder: to be read first, without a network.

    Args:
        run: a finished run.
        folder: is created; of an earlier call it is written anew.
        repo_id: OWNER/NAME that the model is to have.
        formats: exported files that go along: "onnx", "pt2", both or none.
        logits: whether the logits of test and held-out samples go along, with their labels.
        license: the hub's name of a licence, such as apache-2.0; without one, the card names none.
        script: of the run's recipe, where it does not say where that is.

    Returns:
        The names of the files, each of which is in the folder.

    Raises:
        UserError: the run is not finished, or cannot be exported; the folder holds other files.
    """
    from ltaug.report._card import shared_path, write_card

    check_name(repo_id)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"There is no format {unknown[0]!r} of exported files. There are: {', '.join(FORMATS)}.")
    source, folder = RunFolder.open(run), Path(folder).expanduser()
    for name in ("summary.json", "ltaug.json", "model.safetensors"):
        if not (source.path / name).is_file():
            raise UserError(
                f"`{source.path}` is no finished run: it has no {name}. Wait for the end of its training, or resume it."
            )
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
    wanted = [*_COPIED, *(("logits.safetensors", "held_out.safetensors") if logits else ())]
    for name in wanted:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    for name in _SCRUBBED:
        values = source.config() if name == "config.yaml" else source.summary()
        if name == "config.yaml":
            text = yaml.safe_dump(_each_text(values, shared_path), sort_keys=False, allow_unicode=True)
        else:  # whose settings alone have places: names of classes may look like some
            text = _json({**values, "settings": _each_text(values.get("settings"), shared_path)})
        write_atomically(folder / name, text)
    for name in formats:
        from ltaug.export import export_run

        try:
            export_run(source.path, folder / f"model.{name}", format=name, script=script)
        except UserError as error:
            raise UserError(f"{error} Or push the run without an exported file: `--formats none`.") from error
    files = sorted(name for name in _OURS if (folder / name).is_file())
    write_card(source.path, folder, repo_id, license=license, files=files)
    return sorted(name for name in _OURS if (folder / name).is_file())


def push_run(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    formats: Sequence[str] = ("onnx",),
    logits: bool = False,
    license: str | None = None,
    script: str | Path | None = None,
) -> str:
    """Upload a finished run to the hub, with a card that is written from it: one commit, or none.

    Weights, ``ltaug.json``, settings, results, a saved correction, exported files and the card go up; checkpoints,
    logits (unless asked for) and places on this machine stay. What an earlier push had and this one has not is removed.

    Args:
        run: its folder.
        repo_id: OWNER/NAME; created if need be.
        private: whether it is created for its owner's eyes only.
        revision: branch, created if need be; by default the main one.
        message: of the commit.
        formats: see :func:`write_model_folder`.
        logits: likewise.
        license: likewise.
        script: likewise.

    Returns:
        Address of the commit.

    Raises:
        UserError: the run is not finished; or why the hub did not take it, and what to do, in one line.
    """
    check_name(repo_id)
    with tempfile.TemporaryDirectory(prefix="ltaug-push-") as folder:
        options: Any = {"formats": formats, "logits": logits, "license": license, "script": script}
        files = write_model_folder(run, folder, repo_id, **options)
        message = message or f"ltaug push {RunFolder.open(run).path.resolve().name}"
        return upload(Path(folder), files, repo_id, "model", private, revision, message, _OURS)


def upload(
    folder: Path,
    files: Iterable[str],
    repo_id: str,
    kind: Any,
    private: bool,
    revision: str | None,
    message: str,
    ours: Sequence[str],
) -> str:
    """Upload files of a folder as one commit, which removes those of ``ours`` that it does not have; its address."""
    client = api()
    with hub_errors(repo_id, kind, writes=True), _quiet():
        patiently(lambda: client.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True))
        if private and not patiently(lambda: client.repo_info(repo_id, repo_type=kind)).private:
            raise UserError(
                f"{repo_id!r} is on the hub already, for everybody to read. Make it private in its settings there, or "
                "push to another name."
            )
        if revision not in (None, "main"):
            patiently(lambda: client.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True))
        done = patiently(
            lambda: client.upload_folder(
                repo_id=repo_id,
                repo_type=kind,
                folder_path=folder,
                allow_patterns=list(files),
                delete_patterns=list(ours),
                revision=revision,
                commit_message=message,
            )
        )
    return str(done.commit_url)


def pull_run(repo_id: str, folder: str | Path | None = None, revision: str | None = None) -> Path:
    """Download a run that :func:`push_run` has uploaded; nothing of it is executed.

    Args:
        repo_id: OWNER/NAME.
        folder: where its files go: a new one, or that of an earlier pull of the same name, whose files are then those
            of this revision; a correction or an export that was made there of other weights is removed. By default they
            stay in the cache of the hub's client, to be read only.
        revision: branch, tag or commit; by default the main branch.

    Returns:
        The folder, which takes the place of a run folder.

    Raises:
        UserError: it cannot be had, or is no run of ltaug; the line says what to do.
    """
    from huggingface_hub import constants, snapshot_download

    check_name(repo_id)
    target = None if folder is None else Path(folder).expanduser()
    known = _check_pulled(target, repo_id) if target is not None else []
    client = api()

    def download(what: str | None) -> Path:
        patterns: Any = {"allow_patterns": list(_PULLED), "ignore_patterns": "*/*"}
        return Path(patiently(lambda: snapshot_download(repo_id, revision=what, **patterns)))

    with hub_errors(repo_id), _quiet():
        if not constants.HF_HUB_OFFLINE:
            info = patiently(lambda: client.repo_info(repo_id, revision=revision))
            _check_run(repo_id, [each.rfilename for each in info.siblings or ()])
            # By its commit: of a branch the client would silently take what it has, should the hub fail now.
            place = download(info.sha)
            with contextlib.suppress(Exception):  # so that the cache knows the branch, where there is no network
                download(revision)
        else:
            place = download(revision)
    _check_run(repo_id, names := [path.name for path in place.iterdir()])
    if target is None:
        return place
    target.mkdir(parents=True, exist_ok=True)
    note = {"repo_id": repo_id, "revision": place.name, "files": sorted({*known, *names})}
    write_atomically(target / _RECORD, _json(note))  # before there is anything, so that it can be done again
    made = [name for name in _MADE if name not in note["files"] and (target / name).exists()]
    if made and not all(_is_same(target / name, place / name) for name in ("model.safetensors", "ltaug.json")):
        warn(f"{', '.join(made)} in {target} belonged to what is replaced by this revision, and went with it.")
        _remove(target, made)
    # Whatever it breaks off at, it is no run before the end.
    _remove(target, note["files"])
    for name in sorted(names, key=lambda name: name == "ltaug.json"):
        write_atomically(target / name, (place / name).read_bytes())
    write_atomically(target / _RECORD, _json({**note, "files": sorted(names)}))
    return target


def _is_same(path: Path, other: Path) -> bool:
    return path.is_file() and filecmp.cmp(path, other, shallow=False)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _check_run(repo_id: str, names: Iterable[str]) -> None:
    if missing := {"ltaug.json", "model.safetensors"} - set(names):
        raise UserError(f"The model {repo_id!r} is no run of ltaug: it has no {sorted(missing)[0]}.")


def _pulled(names: Iterable[str]) -> list[str]:
    return [name for name in names if "/" not in name and any(Path(name).match(pattern) for pattern in _PULLED)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the client, whose last word is ours."""
    import huggingface_hub

    logging: Any = huggingface_hub.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_folder(folder: Path) -> None:
    """Refuse to write among other people's files."""
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in _OURS)
        if others or (any(folder.iterdir()) and not (folder / "README.md").is_file()):
            raise UserError(f"`{folder}` holds other files, such as {(others or _OURS)[0]}. Name a new folder.")
    elif folder.exists():
        raise UserError(f"`{folder}` is a file. Name a folder, which is created.")


def _check_pulled(folder: Path, repo_id: str) -> list[str]:
    """Names of the files of an earlier pull; a folder of anything else is refused."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`{folder}` is a file. Name a folder, which is created.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    try:
        note = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        whose, files = note["repo_id"], _pulled(map(str, note["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"`{folder}` holds files that were not pulled. Name a new folder.") from error
    if whose != repo_id:
        raise UserError(f"`{folder}` holds the model {whose!r}. Name a new folder for {repo_id!r}.")
    return files


def _each_text(values: Any, change: Any) -> Any:
    """Nested plain values whose texts are changed."""
    if isinstance(values, Mapping):
        return {key: _each_text(value, change) for key, value in values.items()}
    if isinstance(values, list):
        return [_each_text(value, change) for value in values]
    return change(values) if isinstance(values, str) else values


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
