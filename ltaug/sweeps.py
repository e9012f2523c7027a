"""Many runs of a recipe and one table of them: what the sweep.py and quickstart.py of every recipe share.

A recipe says which runs there are and what the rows of its table are; here they are trained, each once, by however many
sweeps work on the same folder, and put beside the published numbers::

    parser = sweep_parser(__doc__, axes={"datasets": {"default": ["cifar100"]}})
    arguments, settings = read_arguments(parser, own=("method", "dataset", "seed", "out"))
    runs = [] if arguments.table else [Run(...) for seed in arguments.seeds for method in arguments.methods]
    sweep(runs, TABLE, arguments.out, arguments.launch)

The folder of a sweep holds the run folders, ``logs/`` with what the runs said, ``locks/`` while it works, and
``table.md``, ``table.csv`` and ``table.png``. Needs matplotlib, which the extra ``plots`` installs.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltaug.commandline import leave, near_miss, one_process
from ltaug.run import _defaults, read_config, write_atomically

__all__ = [
    "Run",
    "Table",
    "chosen_settings",
    "collect",
    "config_file",
    "lock",
    "quickstart",
    "read_arguments",
    "read_published",
    "sweep",
    "sweep_parser",
]

BEAT_S, STALE_S, WAIT_S = 20, 180, 10  # a run's lock is renewed, taken for abandoned, looked at again


@dataclass(frozen=True)
class Run:
    """One training of a sweep: ``SCRIPT ARGUMENTS --resume true``, which leaves a ``summary.json`` once it is done.

    >>> run = Run(Path("runs/erm_seed0"), Path("train.py"), ("--out", "runs/erm_seed0"), {"lr": 0.1})
    >>> run.name, run.finished()
    ('erm_seed0', False)
    """

    folder: Path
    """Run folder."""
    script: Path
    """What trains."""
    arguments: tuple[str, ...]
    """Its command line."""
    settings: Any
    """A dataclass or mapping of what the command line says, compared with the ``config.yaml`` of a finished run."""
    first_stage: Run | None = None
    """The run that must be finished before."""

    @property
    def name(self) -> str:
        """The name of its folder, log and lock."""
        return self.folder.name

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class Table:
    """What the table of a sweep shows: a part for every setting, in it a row for every method and number of epochs."""

    setting: tuple[str, ...]
    """Keys of ``summary.json`` that the rows of one part share."""
    heading: str
    """Of a part: a format string of these keys."""
    method: Callable[[str, Mapping[str, Any]], str]
    """The row of a run, from the name of its folder and its summary."""
    columns: Mapping[str, str] = field(
        default_factory=lambda: {"top1": "top-1", "many": "many", "medium": "medium", "few": "few", "ece": "ECE15"}
    )
    """Metrics that are shares, and their headings; the first one is plotted."""
    errors: Sequence[str] = ()
    """Those of them that are shown as errors, 100 % minus the metric."""
    counted: str = "seeds"
    """What the runs of a row differ in."""
    published: Mapping[tuple[Any, ...], Mapping[str, float]] = field(default_factory=dict)
    """Numbers to print beside the first column, in percent, by paper; keys are (method, *setting)."""
    schedule: str = ""
    """How long the published runs were trained, if that is the same for all."""

    def setting_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """What rows must share to stand in one part."""
        return tuple(row[key] for key in self.setting)

    def percent(self, name: str, mean: float | None, deviation: float | None = None) -> str:
        """'40.1 ± 0.3', without the second part for a single run; a dash for an empty shot group."""
        if mean is None:
            return "–"
        mean = 1 - mean if name in self.errors else mean
        return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


# --- the command line -------------------------------------------------------------------------------------------------


def sweep_parser(
    description: str,
    axes: Mapping[str, Mapping[str, Any]],
    *,
    out: str = "runs/sweep",
    seeds: Sequence[int] = (0, 1, 2),
) -> argparse.ArgumentParser:
    """The command line of a sweep: ``--methods``, the axes, ``--seeds``, ``--out``, ``--launch`` and ``--table``.

    Args:
        description: its first line stands in the help.
        axes: what else the runs differ in: arguments of ``add_argument`` by name, without the dashes.
        out: default folder of the sweep.
        seeds: default seeds.

    >>> parser = sweep_parser("Train.", {"folds": {"type": int, "default": [5]}})
    >>> parser.parse_args(["--methods", "erm", "--folds", "1", "2"]).folds
    [1, 2]
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--methods", nargs="+", help="files of configs/, without ending")
    for name, settings in axes.items():
        parser.add_argument(f"--{name}", nargs="+", **{"help": "default: %(default)s", **settings})
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help="default: %(default)s")
    parser.add_argument("--out", default=out, help="folder of runs and table (default: %(default)s)")
    parser.add_argument("--launch", default="", help="how a run is started, e.g. 'accelerate launch --num_processes 8'")
    parser.add_argument("--table", action="store_true", help="train nothing, only make table and plot of what is there")
    return parser


def read_arguments(
    parser: argparse.ArgumentParser, own: Sequence[str], words: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line of a sweep, and what of it is for train.py: what is unknown, and all behind ``--``.

    Args:
        parser: that of :func:`sweep_parser`.
        own: settings of train.py that the sweep says by itself.
        words: by default those of the program.

    Raises:
        ValueError: a setting is one of ``own``; or there is neither ``--methods`` nor ``--table``.

    >>> arguments, settings = read_arguments(
    ...     sweep_parser("Train.", {}), own=("seed",), words=["--methods", "erm", "--lr", "0.2", "--", "--epochs", "9"]
    ... )
    >>> arguments.methods, settings
    (['erm'], ['--lr', '0.2', '--epochs', '9'])
    """
    words = list(sys.argv[1:] if words is None else words)
    behind = words.index("--") if "--" in words else len(words)
    arguments, settings = parser.parse_known_args(words[:behind])
    one_process()
    settings += words[behind + 1 :]
    for word in settings:
        if word.startswith("--") and word[2:].partition("=")[0] in own:
            axes = [action.option_strings[0] for action in parser._actions if action.nargs == "+"]
            raise ValueError(f"`{word}` is for a single run. A sweep has {', '.join([*axes, '--out'])}.")
    if not (arguments.methods or arguments.table):
        raise ValueError("`--methods` must name files of configs/, unless there is `--table`.")
    return arguments, settings


def config_file(configs: Path, method: str, *variants: str) -> Path:
    """The method's file for the first variant that has one, ``METHOD_VARIANT.yaml``, or its general one.

    Raises:
        ValueError: there is none.
    """
    known = sorted(path.stem for path in configs.glob("*.yaml") if path.stem != "quickstart")
    for name in (*(f"{method}_{variant}" for variant in variants), method):
        if name in known:
            return configs / f"{name}.yaml"
    hint = near_miss(method, known) or f". There are: {', '.join(known)}."
    raise ValueError(f"`methods` must be files of configs/, but there is no {method!r}{hint}")


def chosen_settings(settings: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those words of a command line that give one of the named settings, for a second stage that takes them as well.

    >>> chosen_settings(["--lr", "0.2", "--threads", "1", "--data_dir=images"], ("data_dir", "threads"))
    ['--threads', '1', '--data_dir=images']
    """
    chosen: list[str] = []
    for place, word in enumerate(settings):
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name[2:] in names:
            chosen += [word] if equals else settings[place : place + 2]
    return chosen


# --- running ----------------------------------------------------------------------------------------------------------


def sweep(
    runs: Iterable[Run], table: Table, out: str | Path, launch: str = "", not_compared: Sequence[str] = ("out",)
) -> None:
    """Train what is not trained yet, first stages first, and write the table; end with code 1 if runs have failed.

    Several sweeps may work on one folder, on machines that share it: each run is taken by one of them, and the others
    wait for it. A run that was broken off continues; that of a machine which has died is taken over after three
    minutes. A failed run stops none but its second stages.

    Args:
        runs: none, to make the table of what is there.
        table: what it shows.
        out: folder of the sweep.
        launch: how a script is started; by default by this Python.
        not_compared: settings in which a finished run may differ from what is asked now.

    Raises:
        ValueError: a finished run was trained with other settings: the table would mix them.
    """
    out = Path(out)
    runs = _with_first_stages(runs)
    _check_finished(runs, not_compared)
    out.mkdir(parents=True, exist_ok=True)
    failed = _work(runs, out, shlex.split(launch) or [sys.executable])
    rows = collect(out, table)
    if rows:
        _write_tables(rows, table, out)
    for name, reason in failed.items():
        sys.stderr.write(f"FAILED {name}: {reason}. Its output: {out / 'logs' / name}.log\n")
    if failed:
        leave(f"{len(failed)} of the runs failed; the others are in the table. Start it again to repeat the failed.", 1)


def _with_first_stages(runs: Iterable[Run]) -> list[Run]:
    """Every run once, first stages before the second stages that start from them."""
    found: dict[Path, Run] = {}
    for run in runs:
        for each in (run.first_stage, run):
            if each is not None:
                found.setdefault(each.folder, each)
    return list(found.values())


def _check_finished(runs: Sequence[Run], not_compared: Sequence[str]) -> None:
    """Refuse a folder whose finished runs were trained otherwise than is asked now."""
    for run in runs:
        if not (run.finished() and (run.folder / "config.yaml").is_file()):
            continue
        asked = run.settings if isinstance(run.settings, Mapping) else dataclasses.asdict(run.settings)
        # A setting that came later than the run counts as its default.
        saved = _defaults(run.settings) | read_config(run.folder / "config.yaml")
        differ = [
            f"`{name}` {saved.get(name)!r}, asked {value!r}"
            for name, value in asked.items()
            if name not in not_compared and saved.get(name) != value
        ]
        if differ:
            raise ValueError(
                f"{run.folder} was trained with other settings ({'; '.join(differ)}). Choose another `--out`, or "
                "delete it."
            )


def _work(runs: Sequence[Run], out: Path, launch: Sequence[str]) -> dict[str, str]:
    """Do every run that nobody has done or is doing; wait for those of others. Returns the failed ones."""
    failed: dict[str, str] = {}
    left = list(runs)
    while left:
        advanced = False
        for run in list(left):
            first = run.first_stage
            if run.finished():
                left.remove(run)
            elif first is not None and first.name in failed:
                failed[run.name] = f"its first stage {first.name} failed"
                left.remove(run)
            elif first is None or first.finished():
                with lock(out, run.name) as held:
                    if held and not run.finished():
                        number = f"{len(runs) - len(left) + 1} of {len(runs)}"
                        _say(f"{time.strftime('%H:%M:%S')} {run.name} ({number})")
                        if reason := _train(run, out, launch, held):
                            failed[run.name] = reason
                        left.remove(run)
                        advanced = True
        if left and not advanced:
            time.sleep(WAIT_S)
    return failed


def _train(run: Run, out: Path, launch: Sequence[str], held: Path) -> str | None:
    """Start one run and wait for it; what went wrong, if anything. The lock learns its process, too."""
    log = out / "logs" / f"{run.name}.log"
    log.parent.mkdir(exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    command = [*launch, str(run.script), *run.arguments, "--resume", "true"]
    with log.open("a") as file:
        file.write(f"{shlex.join(command)}\n")
        file.flush()
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            try:
                write_atomically(held, _owner(os.getpid(), process.pid))
                code = process.wait()
            except BaseException:  # whoever stops the sweep stops its run, which continues from its checkpoint
                process.terminate()
                raise
    if code == 0 and run.finished():
        return None
    said = log.read_bytes()[before:].decode(errors="replace")
    lines = [line for line in said.splitlines() if "error:" in line]
    return lines[-1].strip() if lines else f"it ended with code {code}"


@contextmanager
def lock(out: Path, name: str) -> Iterator[Path | None]:
    """The lock of a run, or None if another process has it: a file in ``out/locks`` that one process alone can create.

    It is renewed while it is held. One whose processes have ended is taken over; of another machine, which cannot be
    asked, one that has not been renewed for three minutes.
    """
    path = out / "locks" / name
    path.parent.mkdir(exist_ok=True)
    if path.exists() and _abandoned(path):
        # Of several that see it abandoned, one can rename it; and what was renamed must be what was looked at.
        grave = path.with_name(f"{name}.{socket.gethostname()}.{os.getpid()}.abandoned")
        try:
            path.rename(grave)
        except FileNotFoundError:
            pass
        else:
            if not _abandoned(grave):
                grave.rename(path)
            else:
                grave.unlink()
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield None
        return
    with os.fdopen(handle, "w") as file:
        file.write(_owner(os.getpid()))
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            with suppress(FileNotFoundError):  # given back just now
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield path
    finally:
        done.set()
        path.unlink(missing_ok=True)


def _owner(*pids: int) -> str:
    """What a lock says: the machine, and the processes that hold it, the sweep's and the run's."""
    return json.dumps({"host": socket.gethostname(), "pids": pids})


def _abandoned(path: Path) -> bool:
    """Whether all processes that hold a lock have ended."""
    try:
        holder = json.loads(path.read_text())
        if holder["host"] == socket.gethostname():
            return not any(map(_alive, holder["pids"]))
    except (OSError, ValueError, KeyError):
        pass  # being written or removed just now: its age decides
    # The age by the clock of the shared folder, since those of two machines may differ.
    probe = path.with_name(f".clock.{socket.gethostname()}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- the table --------------------------------------------------------------------------------------------------------


def read_published(
    path: Path, key: Callable[[Mapping[str, str]], tuple[Any, ...]]
) -> dict[tuple[Any, ...], dict[str, float]]:
    """Read a file of published numbers, with columns ``paper`` and ``top1`` (in percent) and those that ``key`` reads.

    Args:
        path: CSV file.
        key: of a line: its method and, behind it, its setting, as :class:`Table` has them.
    """
    numbers: dict[tuple[Any, ...], dict[str, float]] = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            numbers.setdefault(key(line), {})[line["paper"]] = float(line["top1"])
    return numbers


def collect(out: Path, table: Table) -> list[dict[str, Any]]:
    """A row for every setting, method and number of epochs: mean and standard deviation of every metric over its runs.

    Methods stand in the order of the published numbers. A metric that no run has is None, as is the deviation of one
    run.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        method = table.method(path.parent.name, summary)
        groups.setdefault((table.setting_of(summary), method, summary["epochs"]), []).append(summary)
    rows = []
    for (setting, method, epochs), runs in groups.items():
        row = dict(zip(table.setting, setting, strict=True))
        row |= {"method": method, table.counted: len(runs), "epochs": epochs}
        # Of an earlier version a run may lack a metric.
        for name in dict.fromkeys(name for run in runs for name in run["final"]):
            known = [run["final"][name] for run in runs if run["final"].get(name) is not None]
            row[name] = statistics.fmean(known) if known else None
            row[f"{name}_std"] = statistics.stdev(known) if len(known) > 1 else None
        row["wall_time_s"] = statistics.fmean(run["wall_time_s"] for run in runs)
        row["parameters"], row["stage1"] = runs[0]["parameters"], runs[0].get("stage1")
        row["published"] = dict(table.published.get((method, *setting), {}))
        rows.append(row)
    order = {method: place for place, method in enumerate(dict.fromkeys(method for method, *_ in table.published))}
    return sorted(rows, key=lambda row: (*table.setting_of(row), order.get(row["method"], len(order)), row["method"]))


def _parts(rows: Sequence[dict[str, Any]], table: Table) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows by setting."""
    parts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(table.setting_of(row), []).append(row)
    return parts


def _write_tables(rows: Sequence[dict[str, Any]], table: Table, out: Path) -> None:
    """table.md, table.csv and table.png; the first is printed, too."""
    headings = ["method", *table.columns.values(), table.counted, "epochs", "minutes"]
    if table.published:
        headings.append("published top-1" + (f" ({table.schedule})" if table.schedule else ""))
    lines = []
    for mine in _parts(rows, table).values():
        profile = f" ({mine[0]['profile']})" if "profile" in table.setting else ""
        lines += [
            f"**{table.heading.format(**mine[0])}{profile}, last epoch, in percent**, mean ± standard deviation over "
            f"{table.counted}",
            "",
            f"| {' | '.join(headings)} |",
            "|---|" + "---:|" * (len(headings) - 1),
        ]
        for row in mine:
            cells = [table.percent(name, row.get(name), row.get(f"{name}_std")) for name in table.columns]
            cells += [str(row[table.counted]), str(row["epochs"]), f"{row['wall_time_s'] / 60:.1f}"]
            if table.published:
                cells.append(", ".join(f"{value:g} ({paper})" for paper, value in row["published"].items()) or "–")
            lines.append(f"| `{row['method']}` | {' | '.join(cells)} |")
        lines.append("")
    if any(row["stage1"] for row in rows):
        lines += ["Epochs and minutes of a second stage are its own, on top of those of its first stage.", ""]
    text = "\n".join(lines)
    _say(f"\n{text}")
    write_atomically(out / "table.md", text)
    file = io.StringIO()
    flat = [
        {**row, "published": "; ".join(f"{paper} {value:g}" for paper, value in row["published"].items())}
        for row in rows
    ]
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)))
    writer.writeheader()
    writer.writerows(flat)
    write_atomically(out / "table.csv", file.getvalue())
    _plot(rows, table, out / "table.png")
    _say(f"Written: {out / 'table.md'}, {out / 'table.csv'}, {out / 'table.png'}")


def _plot(rows: Sequence[dict[str, Any]], table: Table, path: Path) -> None:
    """The first column of every method with its deviation, and published numbers as crosses; a panel a setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = _parts(rows, table)
    name, heading = next(iter(table.columns.items()))
    error = name in table.errors
    note = f"{heading if error else f'{heading} accuracy'} (%)\ndots: ours, last epoch"
    if table.published:
        note += "; crosses: published" + (f", {table.schedule}" if table.schedule else "")
    figure = Figure(figsize=(5.2 * len(parts), 1.4 + 0.3 * max(map(len, parts.values()))), layout="constrained")
    FigureCanvasAgg(figure)
    for k, mine in enumerate(parts.values()):
        ax = figure.add_subplot(1, len(parts), k + 1)
        mine.sort(key=lambda row: row[name])
        for place, row in enumerate(mine):
            mean, deviation = 100 * (1 - row[name] if error else row[name]), 100 * (row[f"{name}_std"] or 0)
            ax.errorbar(mean, place, xerr=deviation, fmt="o", color="#0072B2", capsize=3)
            ax.plot(list(row["published"].values()), [place] * len(row["published"]), "x", color="#D55E00")
        ax.set_yticks(range(len(mine)), [row["method"] for row in mine])
        ax.set_xlabel(note)
        ax.set_title(table.heading.format(**mine[0]), fontsize=11)
        ax.grid(axis="x", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())


# --- a first look -----------------------------------------------------------------------------------------------------


def quickstart(
    description: str,
    train: Callable[[str, Path, int | None], None],
    table: Callable[[Mapping[str, Any]], str],
    *,
    methods: Sequence[str],
    out: str,
    title: str,
) -> None:
    """The command line of a quickstart.py: train some methods, print their table, write a page with them side by side.

    Args:
        description: its first line stands in the help.
        train: a method into a run folder, for so many epochs or, for None, those of ``configs/quickstart.yaml``; it
            continues or repeats nothing if the folder has a run.
        table: final metrics by method as Markdown.
        methods: by default.
        out: default folder of the runs.
        title: of the page.
    """
    from ltaug.report import write_comparison

    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--out", default=out, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=methods, help="files of configs/ (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs of each method; default: those of configs/quickstart.yaml")
    arguments = parser.parse_args()
    one_process()
    start = time.perf_counter()
    folder = Path(arguments.out)
    for method in arguments.methods:
        train(method, folder / method, arguments.epochs)
    # Finished runs of earlier calls stay in the table.
    runs = {method: folder / method for method in arguments.methods}
    runs |= {path.parent.name: path.parent for path in sorted(folder.glob("*/summary.json"))}
    results = {method: json.loads((run / "summary.json").read_text())["final"] for method, run in runs.items()}
    page = write_comparison(list(runs.values()), folder / "report.html", title=title)
    seconds = time.perf_counter() - start
    _say(f"\n{table(results)}\n\n{len(arguments.methods)} methods in {seconds:.0f} s. Open {page} in a browser.")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
