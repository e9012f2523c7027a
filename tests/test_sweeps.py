"""The sweep behind the recipes: what is run in which order, locks, failures, settings that must agree, the table."""

from __future__ import annotations

import csv
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltaug import sweeps
from ltaug.sweeps import (
    Run,
    Table,
    chosen_settings,
    collect,
    config_file,
    lock,
    quickstart,
    read_arguments,
    read_published,
    sweep,
    sweep_parser,
)

# A training: appends to a file what it was asked, fails if its folder's name says so, and leaves what a table needs.
TRAIN = """
import json, pathlib, sys
folder, top1 = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with (folder.parent / "started").open("a") as file:
    print(folder.name, *sys.argv[2:], file=file)
if "bad" in folder.name:
    sys.exit("train.py: error: it is bad.")
if "killed" in folder.name:
    sys.exit(7)
folder.mkdir(exist_ok=True)
final = {"top1": top1, "few": None, "ece": 0.25}
summary = {"dataset": "toys", "epochs": 2, "final": final, "wall_time_s": 90.0, "parameters": 3}
(folder / "summary.json").write_text(json.dumps(summary))
"""
COLUMNS = {"top1": "top-1", "few": "few"}


def table_of(**settings: Any) -> Table:
    return Table(
        ("dataset",), "{dataset}", lambda name, summary: name.rpartition("_")[0], **{"columns": COLUMNS} | settings
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


def make(script: Path, name: str, top1: float = 0.5, first: Run | None = None, settings: Any = None) -> Run:
    folder = script.parent / "out" / name
    return Run(folder, script, (str(folder), str(top1)), settings or {}, first)


def started(script: Path) -> list[str]:
    """The names of the trainings that there were, in order."""
    path = script.parent / "out" / "started"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


class TestSweep:
    def test_first_stages_come_first_and_nothing_is_repeated(self, script: Path) -> None:
        first = make(script, "one_0")
        runs = [make(script, "two_0", first=first), make(script, "three_0", first=first), first]
        sweep(runs, table_of(), script.parent / "out")
        assert started(script) == ["one_0", "two_0", "three_0"]
        sweep(runs, table_of(), script.parent / "out")
        assert len(started(script)) == 3
        assert (script.parent / "out" / "started").read_text().splitlines()[0] == "one_0 0.5 --resume true"
        assert not list((script.parent / "out" / "locks").iterdir())

    def test_a_failed_run_stops_only_its_second_stage(self, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bad = make(script, "bad_0")
        runs = [make(script, "after_0", first=bad), make(script, "killed_0"), make(script, "good_0", 0.75)]
        with pytest.raises(SystemExit) as left:
            sweep(runs, table_of(), script.parent / "out")
        assert left.value.code == 1
        said = capsys.readouterr()
        log = script.parent / "out" / "logs" / "bad_0.log"
        assert f"FAILED bad_0: train.py: error: it is bad.. Its output: {log}" in said.err
        assert "FAILED after_0: its first stage bad_0 failed" in said.err
        assert "FAILED killed_0: it ended with code 7" in said.err
        assert "3 of the runs failed" in said.err
        assert "| `good` | 75.0 | – | 1 | 2 | 1.5 |" in said.out
        assert started(script) == ["bad_0", "killed_0", "good_0"]
        assert "it is bad" in log.read_text()

    def test_the_run_of_another_sweep_is_waited_for(self, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweeps, "WAIT_S", 0.05)
        run, out = make(script, "one_0"), script.parent / "out"
        with lock(out, "one_0") as mine:
            assert mine == out / "locks" / "one_0"
            working = threading.Thread(target=sweep, args=([run, make(script, "two_0")], table_of(), out))
            working.start()
            end = time.monotonic() + 60
            while "two_0" not in started(script) and time.monotonic() < end:
                time.sleep(0.01)
            assert working.is_alive()
            subprocess.run([sys.executable, str(script), *run.arguments], check=True)
        working.join(60)
        assert started(script) == ["two_0", "one_0"]

    def test_launch_starts_it(self, script: Path) -> None:
        sweep([make(script, "one_0")], table_of(), script.parent / "out", f"{sys.executable} -X importtime")
        log = (script.parent / "out" / "logs" / "one_0.log").read_text()
        assert log.startswith(f"{sys.executable} -X importtime {script} ")
        assert "import time:" in log

    def test_finished_runs_of_other_settings_are_refused(self, script: Path) -> None:
        @dataclass
        class Config:
            lr: float = 0.1
            out: str = "x"
            later: int = 0

        def saved(**values: Any) -> None:
            (run.folder / "config.yaml").write_text(yaml.safe_dump(values))

        run = make(script, "one_0", settings=Config())
        sweep([run], table_of(), script.parent / "out")
        saved(lr=0.1, out="y")  # written before there was `later`
        sweep([run], table_of(), script.parent / "out")
        saved(lr=0.2, out="x", later=0)
        with pytest.raises(ValueError, match=r"one_0 was trained with other settings \(`lr` 0.2, asked 0.1\). Choose"):
            sweep([run], table_of(), script.parent / "out")
        sweep([run], table_of(), script.parent / "out", not_compared=("lr",))
        saved(lr=0.1, later=1)
        with pytest.raises(ValueError, match="`later` 1, asked 0"):
            sweep([run], table_of(), script.parent / "out")
        assert started(script) == ["one_0"]


class TestLock:
    def owned(self, out: Path, host: str, *pids: int) -> Path:
        path = out / "locks" / "run"
        path.parent.mkdir()
        path.write_text(json.dumps({"host": host, "pids": pids}))
        return path

    def test_a_free_one_is_taken_and_given_back(self, tmp_path: Path) -> None:
        with lock(tmp_path, "run") as mine:
            assert mine == tmp_path / "locks" / "run"
            assert json.loads(mine.read_text()) == {"host": socket.gethostname(), "pids": [os.getpid()]}
            with lock(tmp_path, "run") as again:
                assert again is None
            with lock(tmp_path, "another") as other:
                assert other == tmp_path / "locks" / "another"
            assert mine.exists()
        assert not list((tmp_path / "locks").iterdir())

    def test_it_is_given_back_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), lock(tmp_path, "run"):
            raise KeyboardInterrupt
        assert not list((tmp_path / "locks").iterdir())

    def test_it_is_renewed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweeps, "BEAT_S", 0.01)
        with lock(tmp_path, "run") as mine:
            assert mine == tmp_path / "locks" / "run"
            os.utime(mine, (0, 0))
            end = time.monotonic() + 30
            while mine.stat().st_mtime < 1 and time.monotonic() < end:
                time.sleep(0.01)
            assert mine.stat().st_mtime > 1

    def test_that_of_a_dead_process_is_taken_over(self, tmp_path: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait()
        path = self.owned(tmp_path, socket.gethostname(), ended.pid)
        with lock(tmp_path, "run") as mine:
            assert mine == path
            assert json.loads(path.read_text())["pids"] == [os.getpid()]
        # A sweep that was killed may have left its run behind.
        path.write_text(json.dumps({"host": socket.gethostname(), "pids": [ended.pid, os.getpid()]}))
        with lock(tmp_path, "run") as mine:
            assert mine is None

    @pytest.mark.parametrize(("age", "free"), [(10, False), (1000, True)])
    @pytest.mark.parametrize("text", ['{"host": "another.machine", "pids": [1]}', ""])
    def test_of_another_machine_its_age_decides(self, tmp_path: Path, text: str, age: float, free: bool) -> None:
        path = self.owned(tmp_path, "another.machine", 1)
        path.write_text(text)  # empty: being written just now
        os.utime(path, (time.time() - age,) * 2)
        with lock(tmp_path, "run") as mine:
            assert (mine is not None) is free

    def test_of_two_one_gets_an_abandoned_one(self, tmp_path: Path) -> None:
        self.owned(tmp_path, "another.machine", 1)
        os.utime(tmp_path / "locks" / "run", (0, 0))
        code = "import sys, time; from pathlib import Path; from ltaug.sweeps import lock\n"
        code += "sys.stdin.readline()\nwith lock(Path(sys.argv[1]), 'run') as mine:\n"
        code += "    print(mine is not None, flush=True); sys.stdin.readline()"
        command = [sys.executable, "-c", code, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in both]
        for process in both:
            process.communicate("end\n", timeout=60)
        assert sorted(answers) == ["False\n", "True\n"]


def plant(out: Path, name: str, final: Mapping[str, float | None], **more: Any) -> None:
    (out / name).mkdir(parents=True)
    values = {"dataset": "toys", "epochs": 2, "final": dict(final), "wall_time_s": 60.0, "parameters": 3} | more
    (out / name / "summary.json").write_text(json.dumps(values))


class TestTable:
    def test_means_and_deviations(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        values = {"a": [0.5, 0.625, 0.25], "b": [0.75]}
        for method, each in values.items():
            for k, value in enumerate(each):
                plant(tmp_path, f"{method}_{k}", {"top1": value, "few": None if k else 0.5}, wall_time_s=60.0 * k)
        plant(tmp_path, "a_9", {"top1": 1.0, "few": 1.0}, epochs=3)  # of another length: a row of its own
        sweep([], table_of(), tmp_path)
        with (tmp_path / "table.csv").open() as file:
            table = {(row["method"], row["epochs"]): row for row in csv.DictReader(file)}
        assert set(table) == {("a", "2"), ("a", "3"), ("b", "2")}
        row, one = table["a", "2"], table["b", "2"]
        assert float(row["top1"]) == pytest.approx(sum(values["a"]) / 3)
        spread = math.sqrt(sum((value - sum(values["a"]) / 3) ** 2 for value in values["a"]) / 2)
        assert float(row["top1_std"]) == pytest.approx(spread)
        assert (row["seeds"], row["few"], row["few_std"], row["wall_time_s"]) == ("3", "0.5", "", "60.0")
        assert (one["seeds"], one["top1"], one["top1_std"]) == ("1", "0.75", "")
        text = (tmp_path / "table.md").read_text()
        assert f"| `a` | {100 * sum(values['a']) / 3:.1f} ± {100 * spread:.1f} | 50.0 | 3 | 2 | 1.0 |" in text
        assert "published" not in text
        assert text in capsys.readouterr().out
        assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")

    def test_errors_are_shown_as_errors(self, tmp_path: Path) -> None:
        for k, value in enumerate([0.625, 0.75]):
            plant(tmp_path, f"a_{k}", {"top1": value, "few": None})
        table = table_of(errors=("top1", "few"), counted="runs")
        row = collect(tmp_path, table)[0]
        assert (row["runs"], row["top1"]) == (2, 0.6875)  # metrics stay what they are
        # 37.5 and 25.0: 31.25 and 12.5 / sqrt(2); the deviation is that of the accuracy.
        assert table.percent("top1", row["top1"], row["top1_std"]) == "31.2 ± 8.8"
        assert table.percent("ece", 0.25) == "25.0"
        assert table.percent("few", row["few"], row["few_std"]) == "–"
        sweep([], table, tmp_path)
        assert "| `a` | 31.2 ± 8.8 | – | 2 | 2 | 1.0 |" in (tmp_path / "table.md").read_text()

    def test_settings_are_parts_and_published_numbers_stand_beside(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text("method,paper,set,top1\nb,X,toys,50.5\nb,Y,toys,60\na,X,rest,70\n")
        for dataset in ("toys", "rest"):
            for method in ("a", "b", "c"):
                plant(tmp_path / "out", f"{method}_{dataset}", {"top1": 0.5, "few": 0.5}, dataset=dataset)
        published = read_published(tmp_path / "published.csv", lambda line: (line["method"], line["set"]))
        assert published == {("b", "toys"): {"X": 50.5, "Y": 60.0}, ("a", "rest"): {"X": 70.0}}
        table = table_of(published=published, schedule="9 epochs")
        rows = collect(tmp_path / "out", table)
        assert [(row["dataset"], row["method"]) for row in rows] == [
            (dataset, method) for dataset in ("rest", "toys") for method in ("b", "a", "c")
        ]
        sweep([], table, tmp_path / "out")
        rest, toys = (tmp_path / "out" / "table.md").read_text().split("**toys")
        assert "| published top-1 (9 epochs) |" in rest
        assert "| `a` | 50.0 | 50.0 | 1 | 2 | 1.0 | 70 (X) |" in rest
        assert "| `b` | 50.0 | 50.0 | 1 | 2 | 1.0 | 50.5 (X), 60 (Y) |" in toys
        assert "| `c` | 50.0 | 50.0 | 1 | 2 | 1.0 | – |" in toys

    def test_a_metric_that_came_later_is_that_of_the_runs_that_have_it(self, tmp_path: Path) -> None:
        plant(tmp_path, "a_0", {"top1": 0.5})
        plant(tmp_path, "a_1", {"top1": 0.75, "few": 0.25})
        (row,) = collect(tmp_path, table_of())
        assert (row["top1"], row["few"], row["few_std"]) == (0.625, 0.25, None)

    def test_an_empty_folder_has_none(self, tmp_path: Path) -> None:
        sweep([], table_of(), tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


class TestCommandLine:
    def read(self, *words: str, own: Sequence[str] = ("seed", "fold")) -> Any:
        parser = sweep_parser("Train.\n\nMore.", {"folds": {"type": int, "default": [5]}}, out="there", seeds=[3])
        return read_arguments(parser, own, words)

    def test_what_is_unknown_or_behind_dashes_is_for_train(self) -> None:
        arguments, settings = self.read("--methods", "a", "b", "--lr", "0.1", "--", "--wd=0", "--methods", "c")
        assert (arguments.methods, arguments.folds, arguments.seeds) == (["a", "b"], [5], [3])
        assert (arguments.out, arguments.launch, arguments.table) == ("there", "", False)
        assert settings == ["--lr", "0.1", "--wd=0", "--methods", "c"]

    @pytest.mark.parametrize("words", [["--seed", "7"], ["--seed=7"], ["--", "--seed", "7"]])
    def test_settings_of_a_single_run_are_refused(self, words: list[str]) -> None:
        message = rf"`{next(word for word in words if 'seed' in word)}` is for a single run. A sweep has "
        with pytest.raises(ValueError, match=f"{message}--methods, --folds, --seeds, --out."):
            self.read("--methods", "a", *words)
        assert self.read("--methods", "a", *words, own=())[1] == [word for word in words if word != "--"]

    def test_methods_are_needed_but_for_a_table(self) -> None:
        with pytest.raises(ValueError, match="`--methods` must name files of configs/, unless there is `--table`"):
            self.read("--out", "x")
        assert self.read("--table")[0].methods is None

    def test_the_most_special_config_is_taken(self, tmp_path: Path) -> None:
        for name in ("a", "a_toys", "a_toys_big", "quickstart", "only_toys"):
            (tmp_path / f"{name}.yaml").touch()
        assert config_file(tmp_path, "a", "toys_big", "toys").stem == "a_toys_big"
        assert config_file(tmp_path, "a", "toys_small", "toys").stem == "a_toys"
        assert config_file(tmp_path, "a", "rest").stem == "a"
        assert config_file(tmp_path, "only", "toys").stem == "only_toys"
        for name, message in (("a_toy", "did you mean 'a_toys'"), ("x", "There are: a, a_toys, a_toys_big, only_toys")):
            with pytest.raises(ValueError, match=f"there is no '{name}'.*{message}"):
                config_file(tmp_path, name, "rest")
        with pytest.raises(ValueError, match="there is no 'quickstart'"):
            config_file(tmp_path, "quickstart")

    def test_settings_for_both_stages(self) -> None:
        words = ["--lr", "1", "--threads=2", "--data_dir", "lr", "--threads_more", "4"]
        assert chosen_settings(words, ("threads",)) == ["--threads=2"]
        assert chosen_settings(words, ("data_dir", "lr")) == ["--lr", "1", "--data_dir", "lr"]
        assert chosen_settings(words, ()) == []


def test_quickstart_trains_and_shows_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, pages = [], []

    def train(method: str, out: Path, epochs: int | None) -> None:
        trained.append((method, epochs))
        plant(out.parent, method, {"top1": 0.5})

    def page(runs: list[Path], path: Path, title: str) -> Path:
        pages.append(([run.name for run in runs], title))
        return path

    plant(tmp_path, "earlier", {"top1": 0.25})
    monkeypatch.setattr("ltaug.report.write_comparison", page)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--epochs", "3"])
    quickstart("Train.", train, str, methods=["b", "a"], out=str(tmp_path), title="Both")
    assert trained == [("b", 3), ("a", 3)]
    assert pages == [(["b", "a", "earlier"], "Both")]
    said = capsys.readouterr().out
    assert str({"b": {"top1": 0.5}, "a": {"top1": 0.5}, "earlier": {"top1": 0.25}}) in said
    assert f"2 methods in 0 s. Open {tmp_path / 'report.html'} in a browser." in said
