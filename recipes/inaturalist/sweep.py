"""Train methods x data sets x seeds, and put them into one table beside the published numbers of the same network.

    python recipes/inaturalist/sweep.py --methods erm bayias mislas --seeds 0 1 2 --data_dir INATURALIST

Stop it and start it again: finished runs are not repeated, broken-off ones continue after their last checkpoint. Start
it several times, on one machine or on several that share the folder: each run is taken by one of them. Settings that
are not listed by --help go to train.py, `--model` and `--epochs` among them; `--data_dir`, `--list_dir`,
`--train_json`, `--test_json`, `--threads`, `--workers` and `--batch_size` go to train_stage2.py as well.
"""

import argparse
import signal
import sys
from pathlib import Path

import yaml
from config import DATASETS, HERE, PLACES, Stage2Config, parse_config, plain_errors, short

from ltaug.sweeps import Run, Table, chosen_settings, config_file, read_arguments, read_published, sweep, sweep_parser

CONFIGS = HERE / "configs"
OWN = ("config", "method", "dataset", "seed", "out", "resume")  # what a sweep says by itself
BOTH_STAGES = (*PLACES, "threads", "workers", "batch_size")
NOT_COMPARED = ("out", "from_run", "resume", "log_with", *BOTH_STAGES)
TABLE = Table(
    setting=("dataset", "model"),
    heading="{dataset}, {model}",
    # By the folder's name, DATASET_MODEL_METHOD_seedSEED, since a summary does not say which file of configs/ it was.
    method=lambda name, summary: name.partition(f"_{short(summary['model'])}_")[2].rpartition("_seed")[0],
    columns={"top1": "top-1", "top5": "top-5", "many": "many", "medium": "medium", "few": "few", "ece": "ECE15"},
    published=read_published(HERE / "published.csv", lambda line: (line["method"], "inaturalist2018", line["model"])),
)


def main() -> None:
    arguments, settings = read_arguments(
        sweep_parser(__doc__, {"datasets": {"default": ["inaturalist2018"], "choices": DATASETS}}), OWN
    )
    runs = [] if arguments.table else plan(arguments, settings)
    sweep(runs, TABLE, arguments.out, arguments.launch, NOT_COMPARED)


def plan(arguments: argparse.Namespace, settings: list[str]) -> list[Run]:
    """The runs, in the order in which they are trained."""
    return [
        make_run(method, dataset, seed, arguments.out, settings)
        for seed in arguments.seeds
        for dataset in arguments.datasets
        for method in arguments.methods
    ]


def make_run(method: str, dataset: str, seed: int, out: str, settings: list[str]) -> Run:
    """One run and, if it is a second stage, the one before it."""
    config = config_file(CONFIGS, method)
    stage1 = yaml.safe_load(config.read_text()).get("stage1")
    words = ["--config", str(config)]
    if stage1:
        first = make_run(stage1, dataset, seed, out, settings)
        folder = first.folder.with_name(f"{first.name.removesuffix(f'_{stage1}_seed{seed}')}_{method}_seed{seed}")
        # The digits are fewer than a batch of the published protocol.
        words += ["--batch_size", str(first.settings.batch_size)] if dataset == "digits" else []
        words += ["--from_run", str(first.folder), "--out", str(folder), "--seed", str(seed)]
        words += chosen_settings(settings, BOTH_STAGES)
        return Run(folder, HERE / "train_stage2.py", tuple(words), parse_config(words, Stage2Config), first)
    words += ["--config", str(CONFIGS / "quickstart.yaml")] if dataset == "digits" else []
    words += ["--dataset", dataset, "--seed", str(seed), *settings]
    cfg = parse_config(words)  # what is wrong with the settings is told once, now
    # The name that train.py would give it, but with the name of the file for the method's.
    folder = Path(out) / f"{Path(cfg.out).name.removesuffix(f'_{cfg.method}_seed{seed}')}_{method}_seed{seed}"
    cfg.out = str(folder)
    return Run(folder, HERE / "train.py", (*words, "--out", str(folder)), cfg)


if __name__ == "__main__":
    # As with Ctrl-C, so that a stopped sweep stops its run and gives its lock back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with plain_errors():
        main()
