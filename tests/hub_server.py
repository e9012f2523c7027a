"""A hub on loopback for the real clients, ``huggingface_hub`` and ``datasets``, with faults on demand."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

TOKEN = "hf_loopback"
USER = "ada"
"""Who has the token, and may write below this name."""


@dataclass
class Repo:
    """A repository: branches, whose commits are listed from the first, and files by commit."""

    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = field(default_factory=lambda: {"main": []})
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs: set[bytes] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "files", branch: str = "main") -> str:
        """Add a commit whose files are these and nothing else."""
        oid = hashlib.sha1(repr((branch, len(self.messages), sorted(files))).encode()).hexdigest()
        self.trees[oid] = dict(files)
        self.branches[branch].append(oid)
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches[revision][-1] if self.branches.get(revision) else self.trees.get(revision) and revision

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.trees[self.branches[branch][-1]]


@dataclass
class Fault:
    """What goes wrong with requests: ``kind`` is a status, or broken (half of the body is sent), or slow."""

    kind: int | str
    where: re.Pattern[str]
    times: float
    seconds: float = 0.2


class HubServer(http.server.ThreadingHTTPServer):
    """Holds repositories in memory; ``seen`` lists the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.patch = pytest.MonkeyPatch()  # of the client, see `asked_by_this_process`

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes] | Path, kind: str = "model", **more: Any) -> Repo:
        """Add a repository with the files of a folder, or with these."""
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        repo = self.repos[kind, repo_id] = Repo(**more)
        repo.commit(files)
        repo.lfs |= {content for content in files.values() if len(content) > 1000}
        return repo

    def fails(self, kind: int | str, where: str = "", times: float = float("inf"), seconds: float = 0.2) -> None:
        """Let requests whose "METHOD /path" matches a pattern fail so many times."""
        self.faults.append(Fault(kind, re.compile(where), times, seconds))

    def asked(self, pattern: str) -> list[str]:
        return [line for line in self.seen if re.search(pattern, line)]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        line = f"{self.command} {url.path}"
        self.server.seen.append(line)
        self.broken = False
        for fault in self.server.faults:
            if fault.times > 0 and fault.where.search(line):
                fault.times -= 1
                if isinstance(fault.kind, int):
                    return self.answer(fault.kind, {"error": "out of order"})
                if fault.kind == "slow":
                    time.sleep(fault.seconds)
                elif self.command in ("PUT", "POST"):
                    return self.hang_up()
                self.broken = fault.kind == "broken"
                break
        path = urllib.parse.unquote(url.path)
        for pattern, methods, function in _ROUTES:
            if self.command in methods and (found := pattern.fullmatch(path)):
                return function(self, **found.groupdict())
        return self.answer(404, {"error": "no such page"}, error="EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, status: int, content: Any = b"", error: str = "", **headers: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if error:
            headers["X-Error-Code"] = error
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            if self.broken:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                return self.hang_up()
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    # -- who may do what ----------------------------------------------------------------------------------------------

    @property
    def user(self) -> str | None:
        return USER if self.headers.get("Authorization") == f"Bearer {TOKEN}" else None

    def repo(self, kind: str, name: str, files: bool = False) -> Repo | None:
        """The repository; None where it was answered that it is not for this reader. Gated ones show their names."""
        found = self.server.repos.get((kind, name))
        if found is None or (found.private and self.user is None):
            self.answer(404 if self.user else 401, {"error": "Repository not found"}, error="RepoNotFound")
            return None
        if files and found.gated:
            status = 403 if self.user else 401
            self.answer(status, {"error": f"Access to {name} is restricted"}, error="GatedRepo")
            return None
        return found

    def writable(self, name: str) -> bool:
        if self.user is None:
            self.answer(401, {"error": "Invalid username or password."})
        elif not name.startswith(f"{USER}/"):
            message = f"You don't have the rights to write to {name}"
            self.answer(403, {"error": message}, X_Error_Message=message)
        else:
            return True
        return False

    def tree(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = repo.resolve(revision)
        if oid is None:
            self.answer(404, {"error": f"Invalid rev id: {revision}"}, error="RevisionNotFound")
            return None
        return oid, repo.trees[oid]

    # -- what is asked for --------------------------------------------------------------------------------------------

    def home(self) -> None:
        self.answer(200, b"a hub")

    def whoami(self) -> None:
        if self.user is None:
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        return self.answer(200, {"type": "user", "name": USER, "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        errors = []
        try:
            assert yaml.safe_load(content.split("---")[1])
        except Exception as error:
            errors = [{"message": f"bad metadata: {error!r}"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.writable(name):
            key = (asked.get("type") or "model", name)
            if key in self.server.repos:
                return self.answer(409, {"error": "You already created this repo", "url": self.url(*key)})
            repo = self.server.repos[key] = Repo(private=asked.get("visibility") == "private")
            repo.commit({".gitattributes": b""}, "initial commit")
            self.answer(200, {"url": self.url(*key)})
        return None

    def url(self, kind: str, name: str) -> str:
        return f"{self.server.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if (repo := self.repo(kind, name)) and (found := self.tree(repo, revision or "main")):
            oid, files = found
            siblings = [{"rfilename": path} for path in files]
            names = {"id": name, "modelId": name, "sha": oid, "author": name.split("/")[0], "siblings": siblings}
            self.answer(200, {**names, "private": repo.private, "gated": "auto" if repo.gated else False, "tags": []})

    def list(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        if (repo := self.repo(kind, name, files=True)) and (found := self.tree(repo, revision)):
            inside = f"{folder}/" if folder else ""
            entries: dict[str, Any] = {}
            for path, content in found[1].items():
                if path.startswith(inside):
                    parts = path[len(inside) :].split("/")
                    for depth in range(1, len(parts)):
                        above = inside + "/".join(parts[:depth])
                        entries[above] = {"type": "directory", "path": above, "oid": "0" * 40, "size": 0}
                    entries[path] = self.entry(repo, path, content)
            if self.query.get("recursive", "").lower() not in ("true", "1"):
                entries = {path: each for path, each in entries.items() if "/" not in path[len(inside) :]}
            if inside and not entries:
                return self.answer(404, {"error": "no such folder"}, error="EntryNotFound")
            self.answer(200, list(entries.values()))
        return None

    def paths(self, kind: str, name: str, revision: str) -> None:
        if (repo := self.repo(kind, name, files=True)) and (found := self.tree(repo, revision)):
            asked = urllib.parse.parse_qs(self.body.decode())
            asked = asked.get("paths") or json.loads(self.body).get("paths", [])
            files, entries = found[1], []
            for path in [asked] if isinstance(asked, str) else asked:
                if path in files:
                    entries.append(self.entry(repo, path, files[path]))
                elif any(each.startswith(f"{path}/") for each in files):
                    entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
            self.answer(200, entries)

    @staticmethod
    def entry(repo: Repo, path: str, content: bytes) -> dict[str, Any]:
        large = (
            {"lfs": {"oid": _sha256(content), "size": len(content), "pointerSize": 130}} if content in repo.lfs else {}
        )
        return {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content), **large}

    def file(self, *, kind: str, name: str, revision: str, path: str) -> None:
        if (repo := self.repo(kind, name, files=True)) and (found := self.tree(repo, revision)):
            oid, files = found
            if path not in files:
                return self.answer(404, {"error": "no such file"}, error="EntryNotFound", X_Repo_Commit=oid)
            content = files[path]
            if content not in repo.lfs:
                return self.content(content, ETag=f'"{_git_oid(content)}"', X_Repo_Commit=oid)
            self.server.blobs[_sha256(content)] = content  # which lies elsewhere
            headers = {"X_Linked_Etag": f'"{_sha256(content)}"', "X_Linked_Size": len(content), "X_Repo_Commit": oid}
            elsewhere = (
                f"http://localhost:{self.server.server_port}/lfs/{_sha256(content)}"  # another host, as a CDN is
            )
            return self.answer(302, b"", Location=elsewhere, **headers)
        return None

    def blob(self, oid: str) -> None:
        self.content(self.server.blobs[oid], ETag=f'"{oid}"')

    def content(self, content: bytes, **headers: Any) -> None:
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if found is None or not any(found.groups()):
            return self.answer(200, content, Accept_Ranges="bytes", **headers)
        if found[1]:
            first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
        else:
            first, last = max(0, len(content) - int(found[2])), len(content) - 1
        if first >= len(content):
            return self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.answer(206, content[first : last + 1], Accept_Ranges="bytes", **headers)

    # -- what is written ----------------------------------------------------------------------------------------------

    def branch(self, kind: str, name: str, revision: str) -> None:
        if self.writable(name) and (repo := self.repo(kind, name)):
            if revision in repo.branches:
                return self.answer(409, {"error": "Reference already exists"})
            repo.branches[revision] = list(repo.branches["main"])
            self.answer(200, {})
        return None

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if self.writable(name) and (repo := self.repo(kind, name)) and (found := self.tree(repo, revision)):
            answer = []
            for each in json.loads(self.body)["files"]:
                large = each["path"].endswith((".safetensors", ".onnx", ".pt2", ".parquet", ".png"))
                known = found[1].get(each["path"])
                oid = None if known is None else _sha256(known) if large else _git_oid(known)
                answer.append(
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if large else "regular",
                        "shouldIgnore": False,
                        "oid": oid,
                    }
                )
            self.answer(200, {"files": answer})

    def batch(self, name: str, data: str | None = None) -> None:
        if self.writable(name):
            objects = []
            for each in json.loads(self.body)["objects"]:
                where = f"{self.server.endpoint}/lfs/{each['oid']}"
                actions = {"upload": {"href": where}, "verify": {"href": f"{where}/verify"}}
                objects.append({**each, **({} if each["oid"] in self.server.blobs else {"actions": actions})})
            self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if _sha256(self.body) != oid:
            return self.answer(400, {"error": "the content has another hash"})
        self.server.blobs[oid] = self.body
        return self.answer(200)

    def verify(self, oid: str) -> None:
        self.answer(200 if len(self.server.blobs.get(oid, b"")) == json.loads(self.body)["size"] else 404, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if self.writable(name) and (repo := self.repo(kind, name)) and (found := self.tree(repo, revision)):
            if revision not in repo.branches:
                return self.answer(400, {"error": "not a branch"})
            files, message = dict(found[1]), ""
            for line in self.body.splitlines():
                each = json.loads(line)
                value = each["value"]
                if each["key"] == "header":
                    message = value["summary"]
                elif each["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif each["key"] == "lfsFile":
                    files[value["path"]] = self.server.blobs[value["oid"]]
                    repo.lfs.add(files[value["path"]])
                elif each["key"] == "deletedFile":
                    files.pop(value["path"])
                elif each["key"] == "deletedFolder":
                    files = {
                        path: c for path, c in files.items() if not path.startswith(value["path"].rstrip("/") + "/")
                    }
                else:
                    return self.answer(400, {"error": f"what is {each['key']}?"})
            oid = repo.commit(files, message, revision)
            return self.answer(
                200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url(kind, name)}/commit/{oid}"}
            )
        return None


def _routes() -> Iterator[tuple[re.Pattern[str], tuple[str, ...], Any]]:
    name, api = r"(?P<name>[^/]+/[^/]+?)", r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+?)"
    yield re.compile("/"), ("GET", "HEAD"), _Handler.home
    yield re.compile("/api/whoami-v2"), ("GET",), _Handler.whoami
    yield re.compile("/api/validate-yaml"), ("POST",), _Handler.validate
    yield re.compile("/api/repos/create"), ("POST",), _Handler.create
    yield re.compile(rf"/(?P<data>datasets/)?{name}\.git/info/lfs/objects/batch"), ("POST",), _Handler.batch
    yield re.compile("/lfs/(?P<oid>[0-9a-f]{64})"), ("GET", "HEAD"), _Handler.blob
    yield re.compile("/lfs/(?P<oid>[0-9a-f]{64})"), ("PUT",), _Handler.upload
    yield re.compile("/lfs/(?P<oid>[0-9a-f]{64})/verify"), ("POST",), _Handler.verify
    yield re.compile(api), ("GET",), _Handler.info
    yield re.compile(f"{api}/revision/(?P<revision>.+)"), ("GET",), _Handler.info
    yield re.compile(f"{api}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?"), ("GET",), _Handler.list
    yield re.compile(f"{api}/paths-info/(?P<revision>.+)"), ("POST",), _Handler.paths
    yield re.compile(f"{api}/branch/(?P<revision>.+)"), ("POST",), _Handler.branch
    yield re.compile(f"{api}/preupload/(?P<revision>.+)"), ("POST",), _Handler.preupload
    yield re.compile(f"{api}/commit/(?P<revision>.+)"), ("POST",), _Handler.commit
    for kind, prefix in (("dataset", "datasets/"), ("model", "")):
        pattern = f"/{prefix}{name}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
        yield re.compile(pattern), ("GET", "HEAD"), functools.partial(_Handler.file, kind=kind)


_ROUTES = list(_routes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    """A hub that answers until the block ends."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def asked_by_this_process(server: HubServer, home: Path, token: str | None = TOKEN) -> Iterator[None]:
    """Point the clients of this process at a hub: what HF_ENDPOINT, HF_HOME and HF_TOKEN do when they are imported."""
    import datasets
    import huggingface_hub
    from huggingface_hub.utils import _http

    constants: Any = huggingface_hub.constants
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(datasets.config, "HF_ENDPOINT", server.endpoint)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(home / "datasets" / "downloads"))
        patch.setattr(
            datasets.config, "HUB_DATASETS_URL", server.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}"
        )
        # The clients wait seconds before they ask again: here they ask at once.
        quick: Any = type("Time", (), {**{k: getattr(time, k) for k in ("time", "monotonic")}, "sleep": lambda s: None})
        patch.setattr(_http, "time", quick)
        patch.setattr(huggingface_hub.file_download, "time", quick)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        server.patch = patch
        yield
    huggingface_hub.HfFileSystem.clear_instance_cache()
