"""
What does a setting do?
=======================

The figure of a sweep over one setting, or over two::

    ltaug sweep recipes/cifar_lt/train.py set.partner_tau=-1,0,1 seed=0,1,2 --out runs/tau -- --method unimix_bayias
    python examples/sweep_figures.py runs/tau partner_tau --out tau.png

With one setting it is Fig. 4 of UniMix (https://arxiv.org/abs/2111.03874), or the accuracies of Fig. 6 and 8 of MiSLAS
(https://arxiv.org/abs/2104.00466) by ``smoothing_shape``; with two the heat map of its Fig. 5, by ``smoothing_head``
and ``smoothing_tail``. Runs that lack a setting, such as first stages, are passed over.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltaug.errors import UserError, one_line_errors
from ltaug.plots import accuracy_by_setting, accuracy_by_two_settings
from ltaug.tables import read_summaries, training_set

LOWER_IS_BETTER = ("ece", "mce", "classwise_ece")

# %%
# Every run of a sweep has left a summary with its settings and its results.


def read(folder: Path, names: Sequence[str], metric: str = "top1") -> dict[str, dict[Any, list[float]]]:
    """By method and training set, then by value of the setting (or values of both): the metric of every seed."""
    found: dict[str, dict[Any, list[float]]] = {}
    for summary in read_summaries(folder).values():
        settings = {**summary["settings"], **(summary["settings"].get("set") or {})}
        values, measured = tuple(settings.get(name) for name in names), summary["final"].get(metric)
        if None not in (*values, measured):
            line = found.setdefault(f"{summary['method']}, {training_set(summary)}", {})
            line.setdefault(values if len(names) > 1 else values[0], []).append(measured)
    if not found:
        raise UserError(
            f"`{folder}` has no finished run with {', '.join(names)} and {metric}. Sweep over set.{names[0]}=..."
        )
    return found


# %%
# The figures are those of `ltaug.plots`; they take the numbers of all seeds.


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the means, and save the figure; of two settings one a method and training set."""
    parser = argparse.ArgumentParser(description="The figure of a sweep over one setting, or over two")
    parser.add_argument("folder", type=Path, help="of a sweep")
    parser.add_argument("settings", nargs="+", metavar="SETTING", help="one, or two: across and up")
    parser.add_argument("--metric", default="top1", help="top1, many, medium, few, ece, ... (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("sweep.png"), help="default: %(default)s")
    asked = parser.parse_args(arguments)
    if len(asked.settings) > 2:
        parser.error("a figure has room for two settings")
    found = read(asked.folder, asked.settings, asked.metric)
    looks = {
        "metric": "test accuracy (%)" if asked.metric == "top1" else f"{asked.metric} (%)",
        "lower_is_better": asked.metric in LOWER_IS_BETTER,
    }
    if len(asked.settings) == 1:
        figures = {asked.out: accuracy_by_setting(found, asked.settings[0], **looks)}
    else:
        outs = [asked.out, *(asked.out.with_stem(f"{asked.out.stem}_{k}") for k in range(2, len(found) + 1))]
        figures = {
            out: accuracy_by_two_settings(line, (asked.settings[0], asked.settings[1]), **looks)
            for out, line in zip(outs, found.values(), strict=True)
        }
    for name, line in found.items():
        for values, seeds in sorted(line.items(), key=str):
            print(f"{name}: {values}: {100 * sum(seeds) / len(seeds):.1f} ({len(seeds)} runs)")
    for out, figure in figures.items():
        figure.savefig(out, dpi=150)
        print(f"Figure: {out}")


# %%
# This script needs a sweep and is not run here. On handwritten digits, with six runs, it leaves
# this figure::
#
#     ltaug sweep recipes/cifar_lt/train.py set.partner_tau=-1,0,1 seed=0,1 --out runs/tau -- --protocol digits \
#         --method unimix_bayias
#     python examples/sweep_figures.py runs/tau partner_tau --out tau.png
#
# .. image:: /images/sweep.png
#    :alt: Test accuracy by partner_tau

if __name__ == "__main__":
    with one_line_errors():
        main()
