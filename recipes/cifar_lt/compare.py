"""Put finished runs side by side on one HTML page, and print their table.

python recipes/cifar_lt/compare.py runs/cifar100_ir100_erm_seed0 runs/cifar100_ir100_mislas_seed0
"""

import argparse
import json
from pathlib import Path

from config import plain_errors
from results import table

from ltaug.commandline import one_process
from ltaug.report import write_comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders of train.py or train_stage2.py, in the order to show them")
    parser.add_argument("--out", default="comparison.html", help="the page (default: %(default)s)")
    parser.add_argument("--title", default="Comparison of runs", help="its heading (default: %(default)s)")
    arguments = parser.parse_args()
    one_process()
    paths = [Path(run) for run in arguments.runs]
    for path in paths:
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{str(path)!r} is no run folder: it has no config.yaml.")
    results = {}
    for path in paths:
        if (path / "summary.json").is_file():
            summary = json.loads((path / "summary.json").read_text())
            name = summary["name"] if summary["name"] not in results else path.name
            results[name] = summary["final"]
    print(table(results))
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    print(f"\nOpen {write_comparison(paths, arguments.out, title=arguments.title)} in a browser.")


if __name__ == "__main__":
    with plain_errors():
        main()
