"""Train several methods over seeds or folds, one run after the other, and print errors as mean and standard deviation.

    python recipes/esc50_lt/sweep.py --methods erm bc lob_bc --seeds 0 1 2 -- --dataset esc10 --data_dir FOLDER

What stands behind `--` goes to train.py. A second call trains only what is missing; a stopped run goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from config import parse_config, plain_errors

from ltaug import RunFolder
from ltaug.commandline import leave, one_process

HERE = Path(__file__).resolve().parent
FREE = ("out", "data_dir", "cache_dir", "resume", "threads")  # what may change between two calls
COLUMNS = {"top1": "top-1 error", "top5": "top-5 error", "medium": "medium", "few": "few"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", required=True, help="files of configs/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--folds", nargs="+", type=int, default=[5], help="test folds, of sets that have folds")
    parser.add_argument("--out", default="runs/esc50_lt_sweep", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--table_only", action="store_true", help="of the runs there are, without training")
    parser.add_argument("settings", nargs="*", help="settings of train.py, behind --")
    arguments = parser.parse_args()
    one_process()
    plans = {}
    for seed in arguments.seeds:
        for fold in arguments.folds:
            for method in arguments.methods:
                run = Path(arguments.out) / f"{method}_fold{fold}_seed{seed}"
                words = ["--config", str(HERE / "configs" / f"{method}.yaml"), *arguments.settings]
                words += ["--seed", str(seed), "--test_fold", str(fold), "--out", str(run), "--resume", "true"]
                # What is wrong shall be known before the first run.
                cfg = parse_config(words)
                if (run / "config.yaml").is_file() and not arguments.table_only:
                    RunFolder(run, cfg, resume=True, free_keys=FREE, write_config=False)
                plans[run] = words
    failed = []
    for run, words in plans.items():
        if arguments.table_only or (run / "summary.json").is_file():
            continue
        print(f"{run} ...", flush=True)
        if subprocess.run([sys.executable, str(HERE / "train.py"), *words], check=False).returncode:
            failed.append(str(run))
    print(f"\n{table(arguments.out, arguments.methods)}")
    if failed:
        leave(f"not finished: {', '.join(failed)}. The same command tries them again.", code=1)


def table(folder: str, methods: list[str]) -> str:
    """Markdown: a row a method, in percent, over its finished runs."""
    lines = [f"| | runs | {' | '.join(COLUMNS.values())} |", "|---" + "|---:" * (1 + len(COLUMNS)) + "|"]
    for method in methods:
        runs = sorted(Path(folder).glob(f"{method}_fold*_seed*/summary.json"))
        finals = [json.loads(run.read_text())["final"] for run in runs]
        cells = []
        for key in COLUMNS:
            errors = [100 * (1 - final[key]) for final in finals if final.get(key) is not None]
            errors = [error for error in errors if error == error]  # an empty shot group
            spread = f" ± {statistics.stdev(errors):.1f}" if len(errors) > 1 else ""
            cells.append(f"{statistics.mean(errors):.1f}{spread}" if errors else "–")
        lines.append(f"| {method} | {len(finals)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with plain_errors():
        main()
