"""Run folders that several processes share: they agree or leave together, and one of them alone writes."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from recipe_support import Launcher, Process, Recipe, contents, rows, summary, wait_until

from ltaug.errors import UserError
from ltaug.run import RunFolder

LONG = {"epochs": 100_000, "eval_every": 100_000, "checkpoint_every": 1}
Ranks = Callable[..., list[Process]]


@pytest.fixture
def ranks(launcher: Launcher, tiny: Recipe, tmp_path: Path) -> Ranks:
    """Start one process for each mapping of settings, each in a folder of its own if need be."""

    def start(*settings: dict[str, Any], folders: list[Path] | None = None, cpu: bool = True) -> list[Process]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        number, found = str(len(settings)), []
        for k, changes in enumerate(settings):
            env = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "RANK": str(k), "LOCAL_RANK": str(k)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": str(cpu).lower()}
            words = tiny.words("erm", **{"out": tmp_path / "run", **changes})
            found.append(launcher.start(tiny.script, *words, env=env, cwd=folders and folders[k]))
        return found

    return start


@pytest.fixture(scope="module")
def finished(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.train("erm", tmp_path_factory.mktemp("finished") / "run")


class TestRanks:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"resume": False}, "setting `resume` is False here and True on the main process"),
            ({"data_seed": 1}, "setting `data_seed` is 1 here and 0 on the main process"),
        ],
    )
    def test_with_other_settings_leave_together(
        self, ranks: Ranks, finished: Path, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        Path(shutil.copytree(finished, tmp_path / "run"))
        before = contents(tmp_path / "run")
        usual = {"epochs": 3, "resume": True}
        main, other = ranks(usual, usual | changes)
        done = [main.wait(60), other.wait(60)]
        assert f"Process 1 on {platform.node()}: {message}. Start all" in done[0].error()
        assert [each.code for each in done] == [2, 2]
        assert "error" not in done[1].err
        assert contents(tmp_path / "run") == before

    def test_without_a_common_folder_leave_together(self, ranks: Ranks, tmp_path: Path) -> None:
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            folder.mkdir()
        main, other = ranks({"out": "run"}, {"out": "run"}, folders=folders)
        error = main.wait(60).error()
        assert f"Process 1 on {platform.node()}: `{folders[1] / 'run'}` is not the folder" in error
        assert "Name one with `out` that all machines share." in error
        assert other.wait(60).code == 2
        assert not (folders[1] / "run").exists()
        assert not list((folders[0] / "run").glob("*.tmp"))

    def test_that_the_main_process_refuses_leave_with_it(self, ranks: Ranks, finished: Path) -> None:
        main, other = ranks({"out": finished}, {"out": finished})
        assert f"`{finished}` already holds a run. Resume it" in main.wait(60).error()
        assert other.wait(60).code == 2
        assert "error" not in other.err.read_text()

    def test_without_a_group_leave(self, ranks: Ranks, tmp_path: Path) -> None:
        """As torchrun starts them on a machine without a GPU."""
        main, other = ranks({}, {}, cpu=False)
        error = main.wait(60).error()
        assert error.startswith(
            "The launcher has started 2 processes (WORLD_SIZE), but accelerate has made a group of 1"
        )
        assert "ACCELERATE_USE_CPU=true" in error
        other.kill()
        other.wait()
        assert not (tmp_path / "run").exists()

    def test_end_at_once_on_ctrl_c(self, ranks: Ranks, tmp_path: Path) -> None:
        both = ranks(LONG, LONG)
        wait_until((tmp_path / "run" / "metrics.jsonl").exists)
        began = time.monotonic()
        for each in both:
            os.kill(each.pid, signal.SIGINT)
        main, other = (each.wait(60) for each in both)
        assert time.monotonic() - began < 2.0
        assert (main.code, other.code) == (130, -signal.SIGINT), main.err
        assert "error: stopped. The same command with `--resume true` continues" in main.err
        assert "error" not in other.err


class TestOneWriter:
    def test_a_second_one_leaves_and_names_the_first(
        self, launcher: Launcher, tiny: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        first = launcher.start(tiny.script, *tiny.words("erm", run, **LONG))
        wait_until(lambda: (run / "metrics.jsonl").exists() and any(run.glob("checkpoints/epoch*")))
        error = tiny.launch(capsys, *tiny.words("erm", run, resume=True, **LONG)).error()
        assert error.startswith(f"`{run}` is being trained by process {first.pid} on {platform.node()}. Wait for its")
        assert RunFolder.open(run).rows()[0]["epoch"] == 0  # to read it stays possible
        RunFolder.open(run).write_json("corrected.json", {})
        first.kill()
        first.wait()
        epochs = len(rows(run)) + 1  # what a dead process has left behind blocks nobody
        tiny.train("erm", run, **LONG | {"resume": True, "epochs": epochs + 1})
        assert summary(run)["epochs"] == epochs + 1

    def test_workers_that_outlive_it_do_not_count(self, tmp_path: Path) -> None:
        """A process that the trainer has forked, such as a loader's, holds no lock."""
        code = (
            "import os, sys, time; from ltaug.run import RunFolder\n"
            f"run = RunFolder({str(tmp_path / 'run')!r}, {{}}, lock=True)\n"
            "child = os.fork()\n"
            "if child: print(child, flush=True); os._exit(0)\n"
            "os.close(1); os.close(2); time.sleep(60)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        try:
            RunFolder(tmp_path / "run", {}, resume=True, lock=True)
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_a_process_may_begin_again(self, tmp_path: Path) -> None:
        """As cells of a notebook do."""
        first = RunFolder(tmp_path, {}, lock=True)
        second = RunFolder(tmp_path, {}, lock=True, resume=True)
        assert (tmp_path / ".ltaug.lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"
        assert first.path == second.path

    def test_a_file_system_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with pytest.warns(
            UserWarning, match=r"\.ltaug\.lock` cannot be locked .*No locks.* Let no second process train"
        ):
            run = RunFolder(tmp_path, {"lr": 0.1}, lock=True)
        assert run.config() == {"lr": 0.1}

    def test_a_python_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its filelock makes a file that stays where a process is killed; such a lock would block the resumed run."""
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
        with pytest.warns(UserWarning, match=r"cannot be locked \(this Python has no locks of the kernel\)"):
            RunFolder(tmp_path, {}, lock=True)
        assert not (tmp_path / ".ltaug.lock").exists()

    def test_reading_does_not_lock(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            RunFolder(tmp_path, {})
            RunFolder.open(tmp_path)
        assert not (tmp_path / ".ltaug.lock").exists()
        with pytest.raises(UserError):
            RunFolder("", {}, lock=True)
