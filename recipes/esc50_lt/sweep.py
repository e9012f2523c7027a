"""Train methods x seeds x test folds, and put their errors into one table, as mean and standard deviation.

    python recipes/esc50_lt/sweep.py --methods erm bc lob_bc --seeds 0 1 2 -- --dataset esc10 --data_dir FOLDER

Stop it and start it again: finished runs are not repeated, broken-off ones continue after their last checkpoint. Start
it several times, on one machine or on several that share the folder: each run is taken by one of them. What stands
behind `--`, and what is not listed by --help, goes to train.py.
"""

import signal
import sys
from pathlib import Path

from config import HERE, parse_config, plain_errors

from ltaug.sweeps import Run, Table, config_file, read_arguments, sweep, sweep_parser

OWN = ("config", "method", "test_fold", "seed", "out", "resume")  # what a sweep says by itself
NOT_COMPARED = ("out", "data_dir", "cache_dir", "resume", "threads", "log_with")
ERRORS = {"top1": "top-1 error", "top5": "top-5 error", "many": "many", "medium": "medium", "few": "few"}
TABLE = Table(
    setting=("dataset", "imbalance_ratio", "profile", "model"),
    heading="{dataset}, {model}, imbalance ratio {imbalance_ratio:g}",
    # By the folder's name, since a method's summary does not say which file of configs/ it was.
    method=lambda name, summary: name.partition("_fold")[0],
    columns={**ERRORS, "ece": "ECE15"},
    errors=tuple(ERRORS),
    counted="runs",
)


def main() -> None:
    folds = {"type": int, "default": [5], "help": "test folds, of sets that have folds (default: %(default)s)"}
    parser = sweep_parser(__doc__, {"folds": folds}, out="runs/esc50_lt_sweep", seeds=[0])
    arguments, settings = read_arguments(parser, OWN)
    runs = []
    for seed in [] if arguments.table else arguments.seeds:
        for fold in arguments.folds:
            for method in arguments.methods:
                folder = Path(arguments.out) / f"{method}_fold{fold}_seed{seed}"
                words = ["--config", str(config_file(HERE / "configs", method)), *settings]
                words += ["--seed", str(seed), "--test_fold", str(fold), "--out", str(folder)]
                # What is wrong with the settings is told once, now.
                runs.append(Run(folder, HERE / "train.py", tuple(words), parse_config(words)))
    sweep(runs, TABLE, arguments.out, arguments.launch, NOT_COMPARED)


if __name__ == "__main__":
    # As with Ctrl-C, so that a stopped sweep stops its run and gives its lock back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with plain_errors():
        main()
