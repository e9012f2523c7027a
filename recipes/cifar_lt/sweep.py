"""Train methods x data sets x imbalance ratios x seeds, and put them into one table beside the published numbers.

    python recipes/cifar_lt/sweep.py --methods erm mixup mislas --seeds 0 1 2 --out runs/sweep

Stop it and start it again: finished runs are not repeated, broken-off ones continue after their last checkpoint. Start
it several times, on one machine or on several that share the folder: each run is taken by one of them. Settings that
are not listed by --help go to train.py; `--data_dir` and `--threads` go to train_stage2.py as well.
"""

import argparse
import signal
import sys
from pathlib import Path

import yaml
from config import DATASETS, HERE, Stage2Config, parse_config, plain_errors

from ltaug.sweeps import Run, Table, chosen_settings, config_file, read_arguments, read_published, sweep, sweep_parser

CONFIGS = HERE / "configs"
OWN = ("config", "method", "dataset", "imbalance_ratio", "seed", "out", "resume")  # what a sweep says by itself
NOT_COMPARED = ("out", "from_run", "resume", "data_dir", "threads", "log_with")
BOTH_STAGES = ("data_dir", "threads")
TABLE = Table(
    setting=("dataset", "imbalance_ratio", "profile"),
    heading="{dataset}, imbalance ratio {imbalance_ratio:g}",
    # By the folder's name, since a method's summary does not say which file of configs/ it was.
    method=lambda name, summary: name.split("_", 2)[2].rpartition("_seed")[0],
    published=read_published(
        HERE / "published.csv",
        lambda line: (line["method"], line["dataset"], float(line["imbalance_ratio"]), "exponential"),
    ),
    schedule="200 epochs",
)


def main() -> None:
    axes = {"datasets": {"default": ["cifar100"], "choices": DATASETS}}
    axes["imbalance_ratios"] = {"type": float, "default": [100.0]}
    parser = sweep_parser(__doc__, axes)
    parser.add_argument(
        "--epochs", type=int, help="shorter or longer first stages: every epoch that a config names moves along"
    )
    arguments, settings = read_arguments(parser, OWN)
    runs = [] if arguments.table else plan(arguments, settings)
    sweep(runs, TABLE, arguments.out, arguments.launch, NOT_COMPARED)


def plan(arguments: argparse.Namespace, settings: list[str]) -> list[Run]:
    """The runs, in the order in which they are trained."""
    return [
        make_run(method, dataset, ratio, seed, arguments, settings)
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for ratio in arguments.imbalance_ratios
        for method in arguments.methods
    ]


def make_run(
    method: str, dataset: str, ratio: float, seed: int, arguments: argparse.Namespace, settings: list[str]
) -> Run:
    """One run and, if it is a second stage, the one before it."""
    config = config_file(CONFIGS, method, f"{dataset}_ir{ratio:g}", dataset)
    stage1 = yaml.safe_load(config.read_text()).get("stage1")
    folder = Path(arguments.out) / f"{dataset}_ir{ratio:g}_{method}_seed{seed}"
    words = ["--config", str(config)]
    if stage1:
        first = make_run(stage1, dataset, ratio, seed, arguments, settings)
        words += ["--from_run", str(first.folder), "--out", str(folder), "--seed", str(seed)]
        words += chosen_settings(settings, BOTH_STAGES)
        return Run(folder, HERE / "train_stage2.py", tuple(words), parse_config(words, Stage2Config), first)
    epochs = arguments.epochs
    if dataset == "digits":
        words += ["--config", str(CONFIGS / "quickstart.yaml")]
        epochs = epochs or parse_config(words).epochs
    words += parse_config(["--config", str(config)]).stretched(epochs) if epochs else []
    words += ["--out", str(folder), "--dataset", dataset, "--imbalance_ratio", f"{ratio:g}", "--seed", str(seed)]
    words += settings
    # What is wrong with the settings is told once, now.
    return Run(folder, HERE / "train.py", tuple(words), parse_config(words))


if __name__ == "__main__":
    # As with Ctrl-C, so that a stopped sweep stops its run and gives its lock back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with plain_errors():
        main()
