"""Train methods x data sets x imbalance ratios x seeds, and put them into one table beside the published numbers.

    python recipes/cifar_lt/sweep.py --methods erm mixup mislas --seeds 0 1 2 --out runs/sweep

Stop it and start it again: finished runs are not repeated, broken-off ones continue after their last checkpoint. Start
it several times, on one machine or on several that share the folder: each run is taken by one of them. Settings that
are not listed by --help go to train.py; `--data_dir` and `--threads` go to train_stage2.py as well.
"""

import argparse
import csv
import io
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from config import Config, Stage2Config, parse_config, plain_errors

from ltaug.commandline import leave, near_miss, one_process
from ltaug.run import read_config, write_atomically

HERE = Path(__file__).resolve().parent
BEAT_S, STALE_S, WAIT_S = 20, 180, 10  # a run's lock is renewed, taken for abandoned, looked at again
OWN = ("config", "method", "dataset", "imbalance_ratio", "seed", "out", "resume")  # what a sweep says by itself
NOT_COMPARED = ("out", "from_run", "resume", "data_dir", "threads", "log_with")
BOTH_STAGES = ("--data_dir", "--threads")
SHOWN = {"top1": "top-1", "many": "many", "medium": "medium", "few": "few", "ece": "ECE15"}


@dataclass(frozen=True)
class Run:
    """One training of the sweep."""

    method: str
    dataset: str
    ratio: float
    seed: int
    folder: Path
    config: Path
    arguments: tuple[str, ...]
    first_stage: "Run | None" = None

    @property
    def script(self) -> str:
        return "train_stage2.py" if self.first_stage else "train.py"

    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--methods", nargs="+", help="files of configs/, without ending")
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=["cifar100"],
        choices=("cifar10", "cifar100", "digits"),
        help="default: %(default)s",
    )
    parser.add_argument("--imbalance_ratios", nargs="+", type=float, default=[100.0], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--out", default="runs/sweep", help="folder of runs and table (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, help="shorter or longer first stages: every epoch that a config names moves along"
    )
    parser.add_argument("--launch", default="", help="how a run is started, e.g. 'accelerate launch --num_processes 8'")
    parser.add_argument("--table", action="store_true", help="train nothing, only make table and plot of what is there")
    arguments, settings = parser.parse_known_args()
    one_process()
    for word in settings:
        if word.startswith("--") and word[2:].partition("=")[0] in OWN:
            raise ValueError(
                f"`{word}` is for a single run. A sweep has --methods, --datasets, --imbalance_ratios, --seeds, --out."
            )
    if not (arguments.methods or arguments.table):
        raise ValueError("`--methods` must name files of configs/, unless there is `--table`.")
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    if not arguments.table:
        runs = plan(arguments, settings)
        check_finished(runs)
        failed = work(runs, out, shlex.split(arguments.launch) or [sys.executable])
    rows = collect(out)
    if rows:
        write_tables(rows, out)
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}. Its output: {out / 'logs' / name}.log", file=sys.stderr)
    if failed:
        leave(f"{len(failed)} of the runs failed; the others are in the table. Start it again to repeat the failed.", 1)


# --- what is to be run ------------------------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace, settings: list[str]) -> list[Run]:
    """Every run, first stages before the second stages that start from them, each once."""
    runs: dict[Path, Run] = {}
    for seed in arguments.seeds:
        for dataset in arguments.datasets:
            for ratio in arguments.imbalance_ratios:
                for method in arguments.methods:
                    run = make_run(method, dataset, ratio, seed, arguments, settings)
                    for each in (run.first_stage, run):
                        if each is not None:
                            runs.setdefault(each.folder, each)
    return list(runs.values())


def make_run(
    method: str, dataset: str, ratio: float, seed: int, arguments: argparse.Namespace, settings: list[str]
) -> Run:
    """One run and, if it is a second stage, the one before it."""
    config = config_file(method, dataset, ratio)
    values = yaml.safe_load(config.read_text())
    folder = Path(arguments.out) / f"{dataset}_ir{ratio:g}_{method}_seed{seed}"
    words = ["--config", str(config)]
    if "stage1" in values:
        first = make_run(values["stage1"], dataset, ratio, seed, arguments, settings)
        words += ["--from_run", str(first.folder), "--out", str(folder), "--seed", str(seed), *of_both_stages(settings)]
        return Run(method, dataset, ratio, seed, folder, config, tuple(words), first)
    epochs = arguments.epochs
    if dataset == "digits":
        words += ["--config", str(HERE / "configs" / "quickstart.yaml")]
        epochs = epochs or parse_config(words).epochs
    words += parse_config(["--config", str(config)]).stretched(epochs) if epochs else []
    words += ["--out", str(folder), "--dataset", dataset, "--imbalance_ratio", f"{ratio:g}", "--seed", str(seed)]
    parse_config([*words, *settings])  # what is wrong with the settings is told once, now
    return Run(method, dataset, ratio, seed, folder, config, (*words, *settings))


def config_file(method: str, dataset: str, ratio: float) -> Path:
    """The method's config for this data set and ratio if it has one of its own, or its general one."""
    configs = HERE / "configs"
    for name in (f"{method}_{dataset}_ir{ratio:g}", f"{method}_{dataset}", method):
        if (configs / f"{name}.yaml").is_file() and method != "quickstart":
            return configs / f"{name}.yaml"
    known = sorted(path.stem for path in configs.glob("*.yaml") if path.stem != "quickstart")
    hint = near_miss(method, known) or f". There are: {', '.join(known)}."
    raise ValueError(f"`methods` must be files of configs/, but there is no {method!r}{hint}")


def of_both_stages(settings: list[str]) -> list[str]:
    """Those of the settings for train.py that train_stage2.py takes as well."""
    chosen = []
    for place, word in enumerate(settings):
        name, equals, _ = word.partition("=")
        if name in BOTH_STAGES:
            chosen += [word] if equals else settings[place : place + 2]
    return chosen


def check_finished(runs: list[Run]) -> None:
    """Refuse a folder whose finished runs were trained otherwise than is asked now: the table would mix them."""
    for run in runs:
        if not run.finished():
            continue
        asked = asdict(parse_config(list(run.arguments), Stage2Config if run.first_stage else Config))
        saved = read_config(run.folder / "config.yaml")
        differ = [
            f"`{name}` {saved.get(name)!r}, asked {value!r}"
            for name, value in asked.items()
            if name not in NOT_COMPARED and saved.get(name) != value
        ]
        if differ:
            raise ValueError(
                f"{run.folder} was trained with other settings ({'; '.join(differ)}). Choose another `--out`, or "
                "delete it."
            )


# --- running ----------------------------------------------------------------------------------------------------------


def work(runs: list[Run], out: Path, launch: list[str]) -> dict[str, str]:
    """Do every run that nobody has done or is doing; wait for those of others. Returns the failed ones."""
    failed: dict[str, str] = {}
    left = list(runs)
    while left:
        advanced = False
        for run in list(left):
            name, first = run.folder.name, run.first_stage
            if run.finished():
                left.remove(run)
            elif first is not None and first.folder.name in failed:
                failed[name] = f"its first stage {first.folder.name} failed"
                left.remove(run)
            elif first is None or first.finished():
                with lock(out, name) as held:
                    if held and not run.finished():
                        number = f"{len(runs) - len(left) + 1} of {len(runs)}"
                        print(f"{time.strftime('%H:%M:%S')} {name} ({number})", flush=True)
                        if reason := train(run, out, launch, held):
                            failed[name] = reason
                        left.remove(run)
                        advanced = True
        if left and not advanced:
            time.sleep(WAIT_S)
    return failed


def train(run: Run, out: Path, launch: list[str], held: Path) -> str | None:
    """Start one run and wait for it; what went wrong, if anything. The lock learns its process, too."""
    log = out / "logs" / f"{run.folder.name}.log"
    log.parent.mkdir(exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    command = [*launch, str(HERE / run.script), *run.arguments, "--resume", "true"]
    with log.open("a") as file:
        print(shlex.join(command), file=file, flush=True)
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            try:
                write_atomically(held, owner(os.getpid(), process.pid))
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
    """The lock of a run, or None if another process has it: a file that one process alone can create."""
    path = out / "locks" / name
    path.parent.mkdir(exist_ok=True)
    if path.exists() and abandoned(path):
        # Of several that see it abandoned, one can rename it; and what was renamed must be what was looked at.
        grave = path.with_name(f"{name}.{socket.gethostname()}.{os.getpid()}.abandoned")
        try:
            path.rename(grave)
        except FileNotFoundError:
            pass
        else:
            if not abandoned(grave):
                grave.rename(path)
            else:
                grave.unlink()
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield None
        return
    with os.fdopen(handle, "w") as file:
        file.write(owner(os.getpid()))
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


def owner(*pids: int) -> str:
    """What a lock says: the machine, and the processes that hold it, the sweep's and the run's."""
    return json.dumps({"host": socket.gethostname(), "pids": pids})


def abandoned(path: Path) -> bool:
    """Whether all processes that hold a lock have ended."""
    try:
        holder = json.loads(path.read_text())
        if holder["host"] == socket.gethostname():
            return not any(map(alive, holder["pids"]))
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


def alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- the table --------------------------------------------------------------------------------------------------------


def collect(out: Path) -> list[dict]:
    """A row a method and setting: mean and standard deviation of every metric over the seeds."""
    groups: dict[tuple, list[dict]] = {}
    for path in sorted(out.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        # By the folder's name, since a method's summary does not say which file of configs/ it was.
        method = path.parent.name.split("_", 2)[2].rpartition("_seed")[0]
        groups.setdefault((setting_of(summary), method, summary["epochs"]), []).append(summary)
    published = read_published()
    rows = []
    for ((dataset, ratio, profile), method, epochs), runs in groups.items():
        row = {"dataset": dataset, "imbalance_ratio": ratio, "profile": profile, "method": method, "seeds": len(runs)}
        row["epochs"] = epochs
        for name in runs[0]["final"]:
            known = [run["final"][name] for run in runs if run["final"][name] is not None]
            row[name] = statistics.fmean(known) if known else None
            row[f"{name}_std"] = statistics.stdev(known) if len(known) > 1 else None
        row["wall_time_s"] = statistics.fmean(run["wall_time_s"] for run in runs)
        row["parameters"], row["stage1"] = runs[0]["parameters"], runs[0].get("stage1")
        row["published"] = published.get((method, dataset, ratio), {}) if profile == "exponential" else {}
        rows.append(row)
    order = {method: place for place, method in enumerate(dict.fromkeys(method for method, *_ in published))}
    return sorted(rows, key=lambda row: (*setting_of(row), order.get(row["method"], len(order)), row["method"]))


def setting_of(row: dict) -> tuple[str, float, str]:
    """What rows must share to stand in one table."""
    return row["dataset"], row["imbalance_ratio"], row["profile"]


def read_published() -> dict[tuple[str, str, float], dict[str, float]]:
    """Top-1 accuracy in percent by (method, data set, ratio), and by paper."""
    numbers: dict[tuple[str, str, float], dict[str, float]] = {}
    with (HERE / "published.csv").open() as file:
        for line in csv.DictReader(file):
            key = line["method"], line["dataset"], float(line["imbalance_ratio"])
            numbers.setdefault(key, {})[line["paper"]] = float(line["top1"])
    return numbers


def write_tables(rows: list[dict], out: Path) -> None:
    """table.md, table.csv and table.png; the first is printed, too."""
    lines = []
    for setting in dict.fromkeys(map(setting_of, rows)):
        dataset, ratio, profile = setting
        lines += [
            f"**{dataset}, imbalance ratio {ratio:g} ({profile}), last epoch, in percent**, mean ± standard deviation "
            "over seeds",
            "",
            f"| method | {' | '.join(SHOWN.values())} | seeds | epochs | minutes | published top-1 (200 epochs) |",
            "|---|" + "---:|" * (len(SHOWN) + 4),
        ]
        for row in rows:
            if setting_of(row) == setting:
                cells = [percent(row[name], row[f"{name}_std"]) for name in SHOWN]
                published = ", ".join(f"{value:g} ({paper})" for paper, value in row["published"].items()) or "–"
                cells += [str(row["seeds"]), str(row["epochs"]), f"{row['wall_time_s'] / 60:.1f}", published]
                lines.append(f"| `{row['method']}` | {' | '.join(cells)} |")
        lines.append("")
    if any(row["stage1"] for row in rows):
        lines += ["Epochs and minutes of a second stage are its own, on top of those of its first stage.", ""]
    text = "\n".join(lines)
    print(f"\n{text}")
    write_atomically(out / "table.md", text)
    table = io.StringIO()
    flat = [
        {**row, "published": "; ".join(f"{paper} {value:g}" for paper, value in row["published"].items())}
        for row in rows
    ]
    writer = csv.DictWriter(table, list(dict.fromkeys(name for row in flat for name in row)))
    writer.writeheader()
    writer.writerows(flat)
    write_atomically(out / "table.csv", table.getvalue())
    plot(rows, out / "table.png")
    print(f"Written: {out / 'table.md'}, {out / 'table.csv'}, {out / 'table.png'}")


def percent(mean: float | None, deviation: float | None) -> str:
    """'40.1 ± 0.3', without the second part for a single seed."""
    if mean is None:
        return "–"  # an empty shot group
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def plot(rows: list[dict], path: Path) -> None:
    """Top-1 of every method with its deviation, and the published numbers as crosses; a panel a setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {setting: [row for row in rows if setting_of(row) == setting] for setting in map(setting_of, rows)}
    figure = Figure(figsize=(5.2 * len(panels), 1.4 + 0.3 * max(map(len, panels.values()))), layout="constrained")
    FigureCanvasAgg(figure)
    for k, ((dataset, ratio, _), mine) in enumerate(panels.items()):
        ax = figure.add_subplot(1, len(panels), k + 1)
        mine.sort(key=lambda row: row["top1"])
        for place, row in enumerate(mine):
            deviation = 100 * (row["top1_std"] or 0)
            ax.errorbar(100 * row["top1"], place, xerr=deviation, fmt="o", color="#0072B2", capsize=3)
            ax.plot(list(row["published"].values()), [place] * len(row["published"]), "x", color="#D55E00")
        ax.set_yticks(range(len(mine)), [row["method"] for row in mine])
        ax.set_xlabel("top-1 accuracy (%)\ndots: ours, last epoch; crosses: published, 200 epochs")
        ax.set_title(f"{dataset}, imbalance ratio {ratio:g}", fontsize=11)
        ax.grid(axis="x", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())


if __name__ == "__main__":
    # As with Ctrl-C, so that a stopped sweep stops its run and gives its lock back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with plain_errors():
        main()
