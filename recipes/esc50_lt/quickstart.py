"""Train several methods on synthetic sounds made long-tailed, and put them side by side.

    accelerate launch --config_file accelerate_config.yaml recipes/esc50_lt/quickstart.py

Needs no files; under three minutes on two CPU cores. A second call continues where the first one stopped.
"""

import argparse
import json
import time
from pathlib import Path

from config import parse_config, plain_errors
from results import table
from train import main as train

from ltaug.commandline import one_process
from ltaug.report import write_comparison

CONFIGS = Path(__file__).parent / "configs"
METHODS = ("erm", "bc", "lob_bc", "bc_bayias")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="runs/esc50_lt_quickstart", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="files of configs/ (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs of each method; default: those of configs/quickstart.yaml")
    arguments = parser.parse_args()
    one_process()
    start = time.perf_counter()
    runs = {}
    for method in arguments.methods:
        runs[method] = Path(arguments.out) / method
        words = ["--config", str(CONFIGS / f"{method}.yaml"), "--config", str(CONFIGS / "quickstart.yaml")]
        words += ["--out", str(runs[method]), "--resume", "true"]
        train(parse_config([*words, *(["--epochs", str(arguments.epochs)] if arguments.epochs else [])]))
    # Finished runs of earlier calls stay in the table.
    runs |= {path.parent.name: path.parent for path in sorted(Path(arguments.out).glob("*/summary.json"))}
    results = {method: json.loads((run / "summary.json").read_text())["final"] for method, run in runs.items()}
    page = Path(arguments.out) / "report.html"
    page = write_comparison(list(runs.values()), page, title="Long-tailed synthetic sounds, side by side")
    seconds = time.perf_counter() - start
    print(f"\n{table(results)}\n\n{len(arguments.methods)} methods in {seconds:.0f} s. Open {page} in a browser.")


if __name__ == "__main__":
    with plain_errors():
        main()
