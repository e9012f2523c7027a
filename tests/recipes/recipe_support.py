"""What the tests of the recipes share: recipes to run in this process, processes to start and to kill, run folders."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from ltaug.scripts import loaded_script
from ltaug.training import launch, settings_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPES = sorted(path.parent for path in (ROOT / "recipes").glob("*/train.py") if (path.parent / "protocols").is_dir())
EMBEDDED = {
    "cifar_lt": "digits",
    "esc50_lt": "synthetic",
    "imagenet_lt": "digits",
    "inaturalist": "digits",
    "synthia_rgbd": "rendered",
}
"""Protocol of each recipe whose data need no files."""

TINY_MODEL = '''
"""A network that trains in milliseconds; its statistics make an epoch depend on the ones before."""

from dataclasses import dataclass, replace

from torch import nn


@dataclass
class ModelSettings:
    """None is used; the protocol of the digits has this one."""

    depth: int = 8
    """Ignored."""

    @property
    def model_name(self):
        return "tiny"


class Net(nn.Module):
    mixing_layers = ("input", "body.2")

    def __init__(self, num_classes, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.{norm}, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.fc = nn.Linear(72, num_classes)

    def forward(self, x):
        return self.fc(self.body(x))


def build_model(num_classes, cfg, data):
    return Net(num_classes, data.inputs["train"].shape[-1])
'''
"""model.py of a network for cifar_lt; the documented way to adapt a recipe is to replace this file."""


@dataclass
class Done:
    """A program that has ended."""

    code: int
    """Negative: killed by that signal."""
    out: str
    err: str

    def good(self) -> Done:
        """Itself, if it went well."""
        assert self.code == 0, self.out + self.err
        return self

    def error(self) -> str:
        """What it says in the one line with which it has refused to go on."""
        lines = [line for line in self.err.splitlines() if ": error: " in line]
        assert self.code == 2, self.out + self.err
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        return lines[0].partition(": error: ")[2]


class Recipe:
    """A recipe imported into this process.

    Attributes:
        name: of its folder.
        script: its train.py.
        module: the same, imported.
    """

    def __init__(self, module: ModuleType, folder: Path) -> None:
        self.module, self.script, self.name = module, folder / "train.py", folder.name
        self.protocol = EMBEDDED.get(folder.name, "digits")
        self._parsed: dict[tuple[str, ...], Any] = {}

    def words(self, method: str, out: Path | None = None, **changes: object) -> list[str]:
        """Words of a short run on the embedded data; ``None`` leaves a setting out."""
        values: dict[str, Any] = {"method": method, "protocol": self.protocol, "out": out, "epochs": 2}
        values |= {"precision": "fp32", "threads": 1, "eval_every": 1, "checkpoint_every": 1, "report": False}
        if changes.get("from_run"):
            values["protocol"] = None
        values |= changes
        return [str(word) for name, value in values.items() if value is not None for word in (f"--{name}", value)]

    def settings(self, method: str, out: Path | None = None, **changes: object) -> Any:
        """The settings of these words; parsed once, since that takes longer than a short training."""
        key = tuple(self.words(method, None, **changes))
        if key not in self._parsed or "from_run" in changes:
            self._parsed[key] = settings_of(self.module.Config, str(self.script), list(key))
        return self._parsed[key] if out is None else replace(self._parsed[key], out=str(out))

    def train(self, method: str, out: Path, **changes: object) -> Path:
        """Train in this process; errors come as they are."""
        self.module.main(self.settings(method, out, **changes))
        return out

    def launch(self, capture: Any, *words: object) -> Done:
        """Do what the program does with these words, in this process.

        Args:
            capture: pytest's capsys or capfd.
            words: of the command line.
        """
        argv, sys.argv = sys.argv, [str(self.script), *map(str, words)]
        capture.readouterr()
        code = 0
        try:
            launch(self.module.main, self.module.Config, str(self.script), list(map(str, words)))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = argv
        return Done(code, *capture.readouterr())


@contextlib.contextmanager
def imported(folder: Path) -> Iterator[Recipe]:
    """A recipe in this process. Others have modules of the same names: these leave it again."""
    with loaded_script(folder / "train.py") as module:
        yield Recipe(module, folder)


def copy_recipe(target: Path, model: str | None = None, recipe: str = "cifar_lt") -> Path:
    """A copy of a recipe's folder, perhaps with another model.py."""
    shutil.copytree(ROOT / "recipes" / recipe, target, ignore=shutil.ignore_patterns("__pycache__"))
    if model is not None:
        (target / "model.py").write_text(model)
    return target


def tiny_model(norm: str = "BatchNorm2d(8)", extra: str = "") -> str:
    """The text of a small model.py for cifar_lt, with code of a test's own behind it."""
    return TINY_MODEL.replace("{norm}", norm) + extra


def write_shards(folder: Path, counts: Sequence[int]) -> Path:
    """Parquet files of noisy images of four colours: two of the training set, one of the test set."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split, mine in (("train-0", counts), ("train-1", counts), ("test-0", (5, 5, 5, 6))):
        labels = random.permutation(np.repeat(range(4), mine)).tolist()
        images = []
        for label in labels:
            pixels, file = random.integers(0, 120, (16, 16, 3)) + 30 * np.array([label, 3 - label, 0]), io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        table = pyarrow.table({"image": images, "label": labels})
        parquet.write_table(table, folder / f"{split}.parquet", row_group_size=7)
    return folder


@dataclass
class Process:
    """A process that may be running."""

    launcher: Launcher
    pid: int
    out: Path
    err: Path

    def wait(self, timeout: float = 1200.0) -> Done:
        """Wait for its end."""
        code = self.launcher.ask({"wait": self.pid}, timeout, self.kill)
        return Done(code, self.out.read_text(), self.err.read_text())

    def kill(self) -> None:
        """Send SIGKILL; still to be waited for."""
        os.kill(self.pid, signal.SIGKILL)


class Launcher:
    """launcher.py, and what it has been asked for."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.count = folder, 0
        command = [sys.executable, str(HERE / "launcher.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, request: dict[str, Any], timeout: float = 1200.0, too_late: Callable[[], None] = lambda: None) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            too_late()
            self.process.stdout.readline()
            raise TimeoutError(f"{request} took more than {timeout} s")
        return int(json.loads(self.process.stdout.readline()))

    def start(
        self, *argv: object, cwd: Path | None = None, env: dict[str, str] | None = None, largest_file: int | None = None
    ) -> Process:
        """Start a script with its arguments."""
        self.count += 1
        out, err = (self.folder / f"{self.count}.{kind}" for kind in ("out", "err"))
        request = {
            "argv": list(map(str, argv)),
            "cwd": str(cwd or self.folder),
            "env": env or {},
            "largest_file": largest_file,
            "out": str(out),
            "err": str(err),
        }
        return Process(self, self.ask(request), out, err)

    def run(self, *argv: object, **settings: Any) -> Done:
        """Start a script and wait for its end."""
        return self.start(*argv, **settings).wait()

    def ranks(self, *argv: object, processes: int = 2, **settings: Any) -> list[Process]:
        """Start a script on several processes, in the environment that torchrun makes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own = [{"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(processes)]
        return [self.start(*argv, env=shared | env, **settings) for env in own]


def wait_for_all(processes: list[Process]) -> Done:
    """All must end well; what the main one has said."""
    main, *others = [process.wait() for process in processes]
    for other in others:
        other.good()
    return main.good()


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith(("seconds", "_per_second"))} for row in lines]


def summary(run: Path) -> dict[str, Any]:
    """summary.json."""
    return json.loads((run / "summary.json").read_text())


def info(run: Path) -> dict[str, Any]:
    """ltaug.json."""
    return json.loads((run / "ltaug.json").read_text())


def checkpoints(run: Path) -> list[str]:
    """Whatever lies in the folder of checkpoints."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def contents(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in but)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def assert_same(run: Path, whole: Path) -> None:
    """Bit-identical weights, identical metrics in every epoch, identical logits."""
    assert rows(run) == rows(whole)
    names = ("model.safetensors", "logits.safetensors", "held_out.safetensors", "per_class.csv", "ltaug.json")
    for name in names:
        assert (run / name).exists() == (whole / name).exists(), name
        assert not (run / name).exists() or (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert summary(run)["final"] == summary(whole)["final"]


def wait_until(condition: Callable[[], bool], timeout: float = 600.0) -> None:
    """Look again and again."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
