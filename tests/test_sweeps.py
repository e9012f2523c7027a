"""Sweeps: which runs there are, in which order they are trained, locks, failures, settings that differ, clusters."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from ltaug import sweeps
from ltaug.errors import UserError
from ltaug.sweeps import Run, check_runs, plan_runs, read_axes, stopped_by_signals, train_runs

# A training: appends its name to a file, does what its `kind` says, and leaves a summary. As a module, it has settings.
TRAIN = """
import json, pathlib, sys, time
if __name__ == "__main__":
    words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    folder, kind = pathlib.Path(words["--out"]), words.get("--kind", "good")
    with (folder.parent / "started").open("a") as file:
        print(folder.name, *sys.argv[1:], file=file)
    print("started")
    if kind == "bad" and words["--method"] == "erm":
        sys.exit("train.py: error: it is bad.")
    if kind == "killed":
        sys.exit(7)
    end = time.monotonic() + {"slow": 60, "short": 0.6}.get(kind, 0)
    while time.monotonic() < end and not (folder.parent / "let go").exists():
        time.sleep(0.01)
    folder.mkdir(exist_ok=True)
    settings = {word[2:]: value for word, value in words.items()}
    summary = {"method": words["--method"], "epochs": 2, "settings": settings, "final": {"top1": 0.5}}
    (folder / "summary.json").write_text(json.dumps(summary))
    sys.exit()
from dataclasses import dataclass
from ltaug.training import TrainSettings
@dataclass
class Config(TrainSettings):
    kind: str = "good"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "POLL_S", 0.02)


def started(out: Path) -> list[str]:
    """The names of the trainings that there were, in order."""
    path = out / "started"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(holds: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def plan(out: Path, *words: str, settings: tuple[str, ...] = ()) -> list[Run]:
    return plan_runs("train.py", read_axes(words), settings, out)


def finish(run: Run, **config: Any) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "summary.json").write_text(json.dumps({"method": "x", "epochs": 1, "final": {"top1": 0.5}}))
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))


class TestPlan:
    def test_all_combinations(self, out: Path) -> None:
        runs = plan(out, "dataset=my_set,b", "method=erm,mixup", "lr=0.1", settings=("--epochs", "3"))
        assert [run.name for run in runs] == ["erm_my_set_lr0.1", "mixup_my_set_lr0.1", "erm_b_lr0.1", "mixup_b_lr0.1"]
        assert runs[0].command_line == [
            *("--method", "erm", "--dataset", "my_set", "--lr", "0.1", "--epochs", "3"),
            *("--out", str(out / "erm_my_set_lr0.1"), "--resume", "true"),
        ]

    def test_first_stages_come_by_themselves_and_once(self, out: Path) -> None:
        runs = plan(out, "method=mislas,lws_mixup,mixup", "seed=0,1")
        assert [run.name for run in runs] == [
            *("mixup_seed0", "mislas_seed0", "mixup_seed1", "mislas_seed1"),
            *("lws_mixup_seed0", "lws_mixup_seed1"),
        ]
        assert runs[1].first_stage == runs[0]
        assert "--from_run" in runs[1].command_line
        assert runs[1].command_line[-5] == str(runs[0].folder)

    def test_a_schedule_is_that_of_first_stages(self, out: Path) -> None:
        settings = ("--epochs", "3", "--schedule=steps", "--decay_at", "[0.5]", "--threads", "1")
        first, second = plan(out, "method=crt", "second_stage.epochs=5", settings=settings)
        assert first.words == ("--method", "erm", *settings)
        assert second.words == ("--method", "crt", "--epochs", "5", "--threads", "1")
        assert (first.name, second.name) == ("erm", "crt_second_stage.epochs5")

    def test_changes_of_a_method_are_its_own(self, out: Path) -> None:
        runs = plan(out, "method=mislas,mixup", "set.smoothing_head=0.2,0.3", settings=("--set.mode", "paper"))
        assert [run.name for run in runs] == [
            "mixup",
            "mislas_set.smoothing_head0.2",
            "mislas_set.smoothing_head0.3",
            "mixup_set.smoothing_head0.2",
            "mixup_set.smoothing_head0.3",
        ]
        assert runs[0].words == ("--method", "mixup")
        assert runs[1].words == ("--method", "mislas", "--set.smoothing_head", "0.2", "--set.mode", "paper")

    def test_a_first_stage_of_ones_own(self, out: Path) -> None:
        (run,) = plan(out, "method=crt", settings=("--from_run", "runs/mine"))
        assert (run.first_stage, run.words) == (None, ("--method", "crt", "--from_run", "runs/mine"))

    def test_the_method_of_the_settings(self, out: Path) -> None:
        assert [run.name for run in plan(out, "seed=0,1", settings=("--method=bayias",))] == [
            "bayias_seed0",
            "bayias_seed1",
        ]
        assert [run.name for run in plan(out, "seed=3")] == ["erm_seed3"]

    @pytest.mark.parametrize(
        ("axes", "settings", "message"),
        [
            (["method=erm", "seed"], [], "'seed' is no setting with values"),
            (["method=erm,,mixup"], [], "is no setting with values"),
            (["seed=1", "seed=2"], [], "`seed` is given twice"),
            (["method=mislass"], [], "`method` 'mislass' is not known, did you mean 'mislas'?"),
            (["method=erm"], ["--out", "x"], "`out` is a setting of a single run"),
            (["resume=true,false"], [], "`resume` is a setting of a single run"),
            (["lr=1,2"], ["--lr", "3"], "`lr` has several values, and one for all runs"),
            (["data_dir=a/b,a-b"], [], "Two runs would have the name erm_data_dira-b"),
        ],
    )
    def test_bad_input(self, axes: list[str], settings: list[str], message: str, out: Path) -> None:
        with pytest.raises(UserError) as error:
            plan(out, *axes, settings=tuple(settings))
        assert message in str(error.value)

    def test_brackets_hold_a_value_together(self) -> None:
        assert read_axes(["decay_at=[0.5,0.8],[0.9]", "set={alpha: 1, tau: 0}"]) == {
            "decay_at": ["[0.5,0.8]", "[0.9]"],
            "set": ["{alpha: 1, tau: 0}"],
        }


class TestCheck:
    def test_wrong_settings_are_told_before_anything_runs(self, script: Path, out: Path) -> None:
        with pytest.raises(UserError, match="there is no setting `--lrr`, did you mean 'lr'"):
            check_runs(script, plan(out, "method=erm,crt", settings=("--lrr", "1")))
        assert not out.exists()
        with pytest.raises(UserError, match="is no file: a training script is needed"):
            check_runs(script.with_name("trian.py"), plan(out, "method=erm"))

    def test_finished_runs_of_other_settings_are_refused(self, script: Path, out: Path) -> None:
        (run,) = runs = plan(out, "method=erm", settings=("--lr", "0.1", "--epochs", "9"))
        finish(run, lr=0.1, epochs=9, threads=3, out="elsewhere")  # of a version that did not have all settings
        check_runs(script, runs)
        for changed, message in (({"lr": 0.2}, "`lr` 0.2, asked 0.1"), ({"epochs": 5}, "`epochs` 5, asked 9")):
            (run.folder / "config.yaml").write_text(yaml.safe_dump({"lr": 0.1, "epochs": 9, **changed}))
            with pytest.raises(UserError, match=rf"erm` was trained with other settings \({message}\)"):
                check_runs(script, runs)
        (run.folder / "config.yaml").write_text(yaml.safe_dump({"lr": 0.1, "epochs": 9, "kind": "bad"}))
        with pytest.raises(UserError, match="`kind` 'bad', asked 'good'"):
            check_runs(script, runs)


class TestTrain:
    def test_first_stages_come_first_and_nothing_is_repeated(self, script: Path, out: Path) -> None:
        runs = plan(out, "method=crt,lws,erm")
        for _ in range(2):
            assert train_runs(script, runs, out) == {}
            assert started(out) == ["erm", "crt", "lws"]
        line = (out / "started").read_text().splitlines()[1]
        assert f"--from_run {out / 'erm'} --out {out / 'crt'} --resume true" in line
        log = (out / "logs" / "crt.log").read_text().splitlines()
        assert log[0].startswith(f"{sys.executable} {script} --method crt")
        assert log[1:] == ["started"]

    def test_a_broken_run_is_trained_again(self, script: Path, out: Path) -> None:
        (run,) = runs = plan(out, "method=erm")
        finish(run)
        (run.folder / "summary.json").unlink()
        train_runs(script, runs, out)
        assert started(out) == ["erm"]

    def test_a_failed_run_stops_only_its_second_stages(self, script: Path, out: Path) -> None:
        runs = plan(out, "method=crt,mixup", settings=("--kind", "bad"))
        runs += plan(out, "method=bayias", settings=("--kind", "killed"))
        assert train_runs(script, runs, out) == {
            "erm": "train.py: error: it is bad.",
            "crt": "its first stage erm failed",
            "bayias": "it ended with code 7",
        }
        assert started(out) == ["erm", "mixup", "bayias"]

    def test_launch_starts_it(self, script: Path, out: Path) -> None:
        train_runs(script, plan(out, "method=erm"), out, launch=f"{sys.executable} -X importtime")
        log = (out / "logs" / "erm.log").read_text()
        assert log.startswith(f"{sys.executable} -X importtime {script} ")
        assert "import time:" in log

    def test_several_at_once(self, script: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        monkeypatch.setattr(sweeps, "_cores", lambda: 8)
        seen, start = [], sweeps.subprocess.Popen

        def watched(command: list[str], **options: Any) -> Any:
            running = sum(process.poll() is None for _, process in seen)
            seen.append(((running, options["env"]["CUDA_VISIBLE_DEVICES"]), start(command, **options)))
            return seen[-1][1]

        monkeypatch.setattr(sweeps.subprocess, "Popen", watched)
        runs = plan(out, "method=crt", "seed=0,1,2", settings=("--kind", "short"))
        assert train_runs(script, runs, out, parallel=2) == {}
        assert max(running for (running, _), _ in seen) == 1  # beside the one that starts
        assert {gpu for (_, gpu), _ in seen} == {"4", "7"}
        order = started(out)
        assert sorted(order) == sorted(run.name for run in runs)
        for seed in range(3):
            assert order.index(f"erm_seed{seed}") < order.index(f"crt_seed{seed}")
        assert "--threads 4" in (out / "started").read_text().splitlines()[0]


class TestLocks:
    def test_the_run_of_another_sweep_is_waited_for(self, script: Path, out: Path) -> None:
        runs = plan(out, "method=erm,mixup,crt")
        (out / "locks").mkdir(parents=True)
        with FileLock(out / "locks" / "erm.lock"):
            working = multiprocessing.get_context("fork").Process(target=train_runs, args=(script, runs, out))
            working.start()
            wait_until(lambda: (out / "mixup" / "summary.json").exists())
            assert working.is_alive()
            subprocess.run([sys.executable, str(script), *runs[0].command_line], check=True)
        working.join(60)
        assert working.exitcode == 0
        assert started(out) == ["mixup", "erm", "crt"]

    def test_two_sweeps_share_the_work(self, script: Path, out: Path) -> None:
        runs = plan(out, "method=erm,mixup,crt", "seed=0,1", settings=("--kind", "short"))
        context = multiprocessing.get_context("fork")
        both = [context.Process(target=train_runs, args=(script, runs, out)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
            assert process.exitcode == 0
        assert sorted(started(out)) == sorted(run.name for run in runs)

    def test_a_run_outlives_a_killed_sweep_locked(self, script: Path, out: Path) -> None:
        """As long as the run itself goes on, nobody starts it a second time; then the lock is free."""
        runs = plan(out, "method=erm", settings=("--kind", "slow"))
        working = multiprocessing.get_context("fork").Process(target=train_runs, args=(script, runs, out))
        working.start()
        wait_until(lambda: started(out))
        working.kill()
        working.join(60)
        assert sweeps._take(out / "locks" / "erm.lock") is None
        (out / "let go").touch()
        wait_until(lambda: runs[0].finished())
        wait_until(lambda: (taken := sweeps._take(out / "locks" / "erm.lock")) is not None and not taken[0].release())

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_a_stopped_sweep_stops_its_runs(self, script: Path, out: Path, number: signal.Signals, code: int) -> None:
        runs = plan(out, "method=erm,mixup", settings=("--kind", "slow"))

        def work() -> None:
            with stopped_by_signals():
                train_runs(script, runs, out, parallel=2)

        working = multiprocessing.get_context("fork").Process(target=work)
        working.start()
        wait_until(lambda: len(started(out)) == 2)
        os.kill(working.pid, number)
        working.join(60)
        assert working.exitcode == code
        for name in ("erm", "mixup"):
            held, _ = sweeps._take(out / "locks" / f"{name}.lock")
            held.release()
        assert not any(run.finished() for run in runs)

    def test_signals_are_as_before_afterwards(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with stopped_by_signals():
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before


class TestCluster:
    def test_runs_are_jobs(self, script: Path, out: Path) -> None:
        pytest.importorskip("submitit")
        runs = plan(out, "method=crt,mixup", settings=("--kind", "bad"))
        failed = train_runs(script, runs, out, cluster={"cluster": "local", "timeout_min": 3})
        assert failed == {"erm": "train.py: error: it is bad.", "crt": "its first stage erm failed"}
        assert sorted(started(out)) == ["erm", "mixup"]
        assert (out / "logs" / "mixup.log").read_text().splitlines()[1] == "started"

    def test_options_are_passed_on(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        submitit = pytest.importorskip("submitit")
        asked: dict[str, Any] = {}

        class Executor:
            def __init__(self, folder: Path, cluster: str | None) -> None:
                asked.update(folder=folder, cluster=cluster)

            def update_parameters(self, **parameters: Any) -> None:
                asked.update(parameters)

        monkeypatch.setattr(submitit, "AutoExecutor", Executor)
        sweeps._submitit({"partition": "gpu", "gpus_per_node": 4, "slurm_qos": "x", "timeout_min": 9}, out)
        assert asked == {
            **{"folder": out, "cluster": None, "timeout_min": 9, "gpus_per_node": 4},
            **{"slurm_partition": "gpu", "slurm_qos": "x"},
        }

    def test_wrong_options_are_told(self, out: Path) -> None:
        pytest.importorskip("submitit")
        with pytest.raises(UserError, match=r"The options of the cluster do not fit: .*timeout_min"):
            sweeps._submitit({"cluster": "debug", "timeout_min": "long"}, out)

    def test_without_submitit_it_says_what_to_install(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "submitit", None)
        with pytest.raises(UserError, match=r"pip install ltaug\[cluster\]"):
            sweeps._submitit({}, out)

    def test_a_preempted_job_is_submitted_again(self, tmp_path: Path) -> None:
        helpers = pytest.importorskip("submitit.helpers")
        run = sweeps.ClusterRun([sys.executable, "-c", "print('hello'); raise SystemExit(3)"], str(tmp_path / "log"))
        assert run() == 3
        assert (tmp_path / "log").read_text().splitlines()[1:] == ["hello"]
        again = run.checkpoint()
        assert isinstance(again, helpers.DelayedSubmission)
        assert again.function is run
