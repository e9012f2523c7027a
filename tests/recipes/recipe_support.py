"""What the tests of the recipes share: processes to start and to kill, small models, run folders read back."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

TINY_MODEL = '''
"""A network that trains in milliseconds; its statistics make an epoch depend on the ones before."""

from torch import nn


def build_model(num_classes, {settings}):
    return nn.Sequential(
        {first}, nn.{norm}, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, num_classes),
    )


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())
'''
# What the model.py of each recipe is asked with, and layers from what comes in to eight channels.
INPUTS = {
    "cifar_lt": ("in_channels=3", "nn.Conv2d(in_channels, 8, 3, 2, 1)"),
    "esc50_lt": ("cfg", "nn.Unflatten(1, (1, 3, -1)), nn.Conv2d(1, 8, (1, 16), (1, 8))"),
}
# Sounds that are made, mixed and heard in milliseconds; 57 training clips, so that the last of four batches has nine.
SMALL_SOUND = {"sample_rate": 4000, "crop_length": 900, "test_crops": 2, "batch_size": 16, "threads": 1}


@dataclass
class Done:
    """A process that has ended."""

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


def copy_recipe(target: Path, model: str | None = None, recipe: str = "cifar_lt") -> Path:
    """A copy of a recipe's folder; with another model.py, if one is given, and then without the report.

    Another model is the documented way to adapt a recipe. The figures of the report take several times as long as the
    training of a tiny model, and the tests of the unchanged folder have them. Synthetic sounds are fewer and shorter.
    """
    shutil.copytree(ROOT / "recipes" / recipe, target, ignore=shutil.ignore_patterns("__pycache__"))
    if model is not None:
        (target / "model.py").write_text(model)
        text = (target / "results.py").read_text()
        assert "write_report(" in text
        for name, nothing in (("write_report(path, *sections)", "path"), ("mistakes(*arguments)", "[]")):
            text += f"\n\ndef {name}:\n    return {nothing}\n"
        (target / "results.py").write_text(text)
    if model is not None and (target / "synthetic.py").exists():
        small = 'SYNTHETIC = {"clips_per_class": 24, "seconds": 0.25, "seed": 0}'
        text, found = re.subn(r"^SYNTHETIC = .*$", small, (target / "data.py").read_text(), flags=re.MULTILINE)
        assert found == 1
        (target / "data.py").write_text(text)
    return target


@contextlib.contextmanager
def imported(folder: Path, *names: str) -> Iterator[SimpleNamespace]:
    """Modules of a recipe, in this process. Other recipes have some of the same names: they leave it again."""
    own = {file.stem for file in folder.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def tiny_model(norm: str = "BatchNorm2d(8)", extra: str = "", recipe: str = "cifar_lt") -> str:
    """The text of a small model.py for a recipe, with code of a test's own behind it."""
    settings, first = INPUTS[recipe]
    return TINY_MODEL.format(settings=settings, first=first, norm=norm) + extra


def settings(recipe: Path, method: str, out: Path, **changes: object) -> list[str]:
    """Arguments of a short run on what the recipe's quick-start takes: the digits, or synthetic sounds."""
    values = {"out": out, "epochs": 2, "precision": "fp32", "eval_every": 1, "checkpoint_every": 1} | changes
    configs = [recipe / "configs" / f"{method}.yaml", recipe / "configs" / "quickstart.yaml"]
    arguments = [word for config in configs for word in ("--config", str(config))]
    return arguments + [word for name, value in values.items() for word in (f"--{name}", str(value))]


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith(("seconds", "_per_second"))} for row in lines]


def summary(run: Path) -> dict[str, Any]:
    """summary.json."""
    return json.loads((run / "summary.json").read_text())


def contents(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in but)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def wait_until(condition: Callable[[], bool], timeout: float = 600.0) -> None:
    """Look again and again."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
