"""Sweeps: train a product of settings with one script, each run once, first stages first; then make their table.

Runs are processes of this machine, or jobs of a cluster. Several sweeps may work on one folder: a run that another one
is training is locked, and waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from filelock import FileLock, Timeout

from ltaug.errors import UserError, did_you_mean
from ltaug.methods import METHODS
from ltaug.run import read_config
from ltaug.scripts import loaded_script

__all__ = ["Run", "check_runs", "plan_runs", "read_axes", "stopped_by_signals", "train_runs"]

POLL_S, STOP_S = 0.2, 20.0
"""Seconds between two looks at the runs, and until a run that does not stop is killed."""
SUBMITIT = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Options of submitit that hold for every cluster."""
OWN = ("out", "resume")
"""Settings that a sweep gives every run by itself."""
SHORT = {"method": "", "dataset": "", "imbalance_ratio": "ir"}
"""What stands before a value in the name of a run, where that is not the setting's name."""


@dataclass(frozen=True)
class Run:
    """One training of a sweep."""

    folder: Path
    """Run folder."""
    words: tuple[str, ...]
    """Its settings as words of a command line."""
    first_stage: Run | None = None
    """The run that must be finished before."""

    @property
    def name(self) -> str:
        """Name of its folder, log and lock."""
        return self.folder.name

    @property
    def command_line(self) -> list[str]:
        """All words of its command line."""
        first = [] if self.first_stage is None else ["--from_run", str(self.first_stage.folder)]
        return [*self.words, *first, "--out", str(self.folder), "--resume", "true"]

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "summary.json").is_file()


# --- which runs there are ---------------------------------------------------------------------------------------------


def read_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """Read ``setting=value,value``; commas in brackets belong to a value.

    Raises:
        UserError: a word is none of that kind, or names a setting twice.

    >>> read_axes(["method=erm,mixup", "decay_at=[0.5,0.8],[0.9]"])
    {'method': ['erm', 'mixup'], 'decay_at': ['[0.5,0.8]', '[0.9]']}
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", text)]
        if not (name and equals and all(values)):
            raise UserError(f"{word!r} is no setting with values, such as method=erm,mixup or seed=0,1,2.")
        if name in axes:
            raise UserError(f"`{name}` is given twice. Put all its values behind one `{name}=`.")
        axes[name] = list(dict.fromkeys(values))
    return axes


def plan_runs(script: str | Path, axes: Mapping[str, Sequence[str]], settings: Sequence[str], out: Path) -> list[Run]:
    """The product of all values, with the first stages that second stages need, each run once.

    A first stage gets the settings of its second stage, but for changes of the method (``set``). A second stage takes
    data, network and seed from its first stage, and its schedule is its own: of the schedule's settings it gets only
    those that are named ``second_stage.SETTING``.

    Args:
        script: what trains; settings are checked where it is run.
        axes: values by setting.
        settings: words of a command line, for all runs.
        out: folder of the sweep.

    Raises:
        UserError: a method is not known, or a setting is given twice or is the sweep's own.
    """
    given = dict(_options(settings))
    for name in (*axes, *given):
        if name in OWN:
            raise UserError(f"`{name}` is a setting of a single run. A sweep chooses it for each of its runs.")
        if name in axes and name in given:
            raise UserError(f"`{name}` has several values, and one for all runs as well. Give it once.")
    found: dict[Path, Run] = {}
    method = given.pop("method", None) or "erm"
    settings = _select(settings, lambda name: None if name == "method" else name)
    for values in itertools.product(*axes.values()):
        chosen = {"method": method, **dict(zip(axes, values, strict=True))}
        for run in _with_first_stage(chosen, settings, out, "from_run" in {**given, **chosen}):
            if found.setdefault(run.folder, run).words != run.words:
                raise UserError(
                    f"Two runs would have the name {run.name}: {shlex.join(run.words)}. Sweep them separately."
                )
    return list(found.values())


def _with_first_stage(
    chosen: Mapping[str, str], settings: Sequence[str], out: Path, has_first_stage: bool
) -> Iterator[Run]:
    from ltaug.training import SCHEDULE

    name = chosen["method"]
    if name not in METHODS:
        hint = did_you_mean(name, METHODS) or "; `ltaug methods` lists them."
        raise UserError(f"`method` {name!r} is not known{hint}")

    def words(values: Mapping[str, str], choose: Callable[[str], str | None]) -> tuple[str, ...]:
        own = [word for key, value in values.items() for word in (f"--{key}", value)]
        return tuple(_select([*own, *settings], choose))

    def for_first(key: str) -> str | None:
        return None if key.startswith("second_stage.") else key

    def for_second(key: str) -> str | None:
        return None if key in SCHEDULE else key.removeprefix("second_stage.")

    stage = METHODS[name].first_stage
    if stage is None:
        values = {key: value for key, value in chosen.items() if for_first(key)}
        yield Run(out / _name(values), words(values, for_first))
    elif has_first_stage:
        yield Run(out / _name(chosen), words(chosen, for_second))
    else:
        of_method = {key for key in chosen if key == "set" or key.startswith("set.")}
        values = {**{key: value for key, value in chosen.items() if key not in of_method}, "method": stage}
        plain = _select(settings, lambda key: None if key == "set" or key.startswith("set.") else key)
        (first,) = _with_first_stage(values, plain, out, False)
        yield first
        yield Run(out / _name(chosen), words(chosen, for_second), first)


def _name(chosen: Mapping[str, str]) -> str:
    """Name of a run: its values, with the names of all settings but those that speak for themselves."""
    parts = (f"{SHORT.get(key, key)}{value}" for key, value in chosen.items())
    return "_".join(re.sub(r"[^\w.+=-]+", "-", part).strip("-") for part in parts)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of settings on a command line."""
    for place, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals else "".join(words[place + 1 : place + 2])


def _select(words: Sequence[str], choose: Callable[[str], str | None]) -> list[str]:
    """The words of a command line with settings renamed, or left out where ``choose`` returns None."""
    selected: list[str] = []
    name: str | None = ""
    for word in words:
        if word.startswith("--"):
            old, equals, value = word[2:].partition("=")
            name = choose(old)
            if name is not None:
                selected.append(f"--{name}{equals}{value}")
        elif name is not None:
            selected.append(word)
    return selected


def check_runs(script: str | Path, runs: Sequence[Run]) -> None:
    """Read the settings of all runs, and compare those of finished ones with what is asked for.

    Args:
        script: a train.py with a dataclass ``Config``.
        runs: of :func:`plan_runs`.

    Raises:
        UserError: a setting is wrong; or a finished run was trained with other settings, which the table would mix.
    """
    from ltaug.training import MAY_CHANGE, settings_of

    with loaded_script(script) as module:
        for run in runs:
            if run.first_stage is not None and not run.first_stage.finished():
                continue  # its settings are completed from its first stage
            settings = settings_of(module.Config, str(script), run.command_line)
            if not run.finished():
                continue
            asked = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(settings)))
            saved = read_config(run.folder / "config.yaml")
            for item in dataclasses.fields(settings):  # a setting that came later than the run counts as its default
                saved.setdefault(item.name, asked[item.name] if item.default is dataclasses.MISSING else item.default)
            differ = [
                f"`{name}` {saved[name]!r}, asked {value!r}"
                for name, value in asked.items()
                if saved[name] != value and (name == "epochs" or not (name in MAY_CHANGE or name.endswith("_dir")))
            ]
            if differ:
                raise UserError(
                    f"`{run.folder}` was trained with other settings ({'; '.join(differ)}). Choose another folder for "
                    "the sweep, or delete it."
                )


# --- training them ----------------------------------------------------------------------------------------------------


class Job(Protocol):
    """A run that has been started."""

    def code(self) -> int | None:
        """Exit code, or None while it runs."""

    def stop(self) -> None:
        """Stop it; it continues from its checkpoint when it is started again."""


Start = Callable[[Run, Sequence[str], Path, int, int], Job]
"""Starts a run: its command, its log, its place among those that run at once, and the open file of its lock."""


def train_runs(
    script: str | Path,
    runs: Sequence[Run],
    out: Path,
    *,
    parallel: int | None = None,
    launch: str = "",
    cluster: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Train what is not finished, first stages first; a failed run stops only its second stages.

    Whoever stops this function, by Ctrl-C or a signal that raises, stops its runs. They continue from their last
    checkpoint when they are trained again.

    Args:
        script: what trains.
        runs: of :func:`plan_runs`.
        out: folder of the sweep; gets ``logs/`` with what the runs print, and ``locks/``.
        parallel: how many runs at once; by default one on this machine, and all that are ready on a cluster.
        launch: what starts the script, such as "accelerate launch --num_processes 8"; by default this Python.
        cluster: options of submitit; None: on this machine.

    Returns:
        Why runs failed, by name.
    """
    command = [*(shlex.split(launch) or [sys.executable]), str(script)]
    for folder in ("logs", "locks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if cluster is None:
        at_once = parallel or 1
        start: Start = _local(at_once, share=at_once > 1 and not launch)
    else:
        at_once, start = parallel or len(runs), _submitit(cluster, out / "jobs")
    left, failed = list(runs), dict[str, str]()
    active: dict[str, tuple[Run, Job, FileLock, int, int]] = {}
    try:
        while left or active:
            for run, job, held, _, said in list(active.values()):
                if (code := job.code()) is not None:
                    del active[run.name]
                    held.release()
                    if code or not run.finished():
                        failed[run.name] = _reason(out / "logs" / f"{run.name}.log", said, code)
            for run in list(left):
                first = run.first_stage
                if run.finished():
                    left.remove(run)
                elif first is not None and first.name in failed:
                    failed[run.name] = f"its first stage {first.name} failed"
                    left.remove(run)
                elif len(active) < at_once and (first is None or first.finished()):
                    if (taken := _take(out / "locks" / f"{run.name}.lock")) is None:
                        continue  # another sweep trains it
                    held, file = taken
                    if run.finished():
                        held.release()
                        continue
                    log = out / "logs" / f"{run.name}.log"
                    said = log.stat().st_size if log.exists() else 0
                    slot = min(set(range(at_once)) - {each[3] for each in active.values()})
                    words = [*command, *run.command_line]
                    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {run.name} ({_place(run, runs)})\n")
                    sys.stdout.flush()
                    active[run.name] = (run, start(run, words, log, slot, file), held, slot, said)
                    left.remove(run)
            if left or active:
                time.sleep(POLL_S)
    finally:
        for _, job, _, _, _ in active.values():
            job.stop()
        for _, _, held, _, _ in active.values():
            held.release()
    return failed


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the signals that end a process raise ``SystemExit`` inside, as Ctrl-C raises, so that runs can be stopped."""
    numbers = [number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number is not None]
    before = {number: signal.signal(number, lambda got, _: sys.exit(128 + got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _place(run: Run, runs: Sequence[Run]) -> str:
    return f"{list(runs).index(run) + 1} of {len(runs)}"


def _take(path: Path) -> tuple[FileLock, int] | None:
    """The lock of a run and its open file, or None if another process has it.

    The system drops the lock when the processes that hold the file have ended, however they ended.
    """
    files: list[int] = []
    held = FileLock(path, on_acquired=files.append)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return None
    return held, files[0]


def _reason(log: Path, said: int, code: int) -> str:
    """Why a run failed: the last line of its output that says `error`, or its exit code."""
    text = log.read_bytes()[said:].decode(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if "error:" in line.lower()]
    return lines[-1].strip() if lines else f"it ended with code {code}" if code else "it ended without results"


def _run_logged(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        file.write(f"{shlex.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **options)


class _Process:
    """A run as a process of this machine, with all that it starts in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def code(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def _local(at_once: int, share: bool) -> Start:
    """Start runs on this machine; several at once share its processors, and take its GPUs in turn."""

    def start(run: Run, words: Sequence[str], log: Path, slot: int, file: int) -> Job:
        environment = dict(os.environ)
        if share:
            gpus = _gpus()
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
            if "threads" not in dict(_options(run.words)):
                words = [*words, "--threads", str(max(1, _cores() // at_once))]
        # The run holds the file of its lock open, too: it stays locked should this process be killed.
        return _Process(_run_logged(words, log, env=environment, start_new_session=True, pass_fds=(file,)))

    return start


def _gpus() -> list[str]:
    import torch

    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(k) for k in range(torch.cuda.device_count())]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class ClusterRun:
    """A run as a job of a cluster: what submitit pickles, and starts again after a time limit or a preemption."""

    command: list[str]
    log: str

    def __call__(self) -> int:
        """Train; returns the exit code."""
        job = _Process(_run_logged(self.command, Path(self.log), start_new_session=True))
        try:
            return job.process.wait()
        except BaseException:  # cancelled, preempted or out of time
            job.stop()
            raise

    def checkpoint(self, *arguments: Any, **named: Any) -> Any:
        """The same job once more: the run continues from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _ClusterJob:
    def __init__(self, job: Any, log: Path) -> None:
        self.job, self.log = job, log

    def code(self) -> int | None:
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return int(self.job.result())
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"error: job {self.job.job_id}: {' '.join(str(error).split())}\n")
        return 1

    def stop(self) -> None:
        self.job.cancel(check=False)


def _submitit(options: Mapping[str, Any], folder: Path) -> Start:
    """Start runs as jobs by submitit.

    Args:
        options: parameters of ``submitit.AutoExecutor``; ``cluster`` chooses it, and names that it does not know are
            Slurm's, such as ``partition``.
        folder: of the jobs' files.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError("Sweeps on a cluster need submitit: `pip install ltaug[cluster]`.") from error
    parameters = dict(options)
    kind = parameters.pop("cluster", None)
    for name in options:
        if name not in ("cluster", *SUBMITIT) and not name.startswith("slurm_"):
            parameters[f"slurm_{name}"] = parameters.pop(name)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=kind)
        executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    except Exception as error:  # submitit raises many types for what a user wrote
        raise UserError(f"The options of the cluster do not fit: {error}") from error

    def start(run: Run, words: Sequence[str], log: Path, slot: int, file: int) -> Job:
        executor.update_parameters(name=run.name)
        return _ClusterJob(executor.submit(ClusterRun(list(words), str(log))), log)

    return start
