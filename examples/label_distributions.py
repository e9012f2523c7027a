"""
Which labels does a network see?
================================

Sampling and mixing decide it, and a prior-corrected loss has to know::

    python examples/label_distributions.py --out figures

Prints the label distribution of training for the usual pairs of samplers and mixers, and redraws the figures of the
papers that class counts alone decide: Fig. 2 of UniMix (class distribution of mixed samples), Fig. 1 and 3a of
label-occurrence-balanced mixup, Fig. 6 and 8 of MiSLAS (shapes of its smoothing) and Fig. 1 of IC (ratio^lambda).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ltaug import CutMix, MixUp, ReMix, UniMix, class_prior, effective_prior, exponential_counts, plots
from ltaug.analysis import label_suppression

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# %%
# `effective_prior` computes it from class counts alone: of the pair of samplers by their exponents (1 draws like the
# data, 0 all classes evenly, -1 the other way round) and of the mixer.


def seen(counts: Tensor) -> dict[str, Tensor]:
    """Label distribution of the usual trainings, each [C]."""
    size = len(counts)
    return {
        "no mixing, instance-balanced": effective_prior(counts),
        "mixup, both instance-balanced": effective_prior(counts, MixUp(size), 1.0, 1.0),
        "mixup, partner class-balanced": effective_prior(counts, MixUp(size), 1.0, 0.0),
        "mixup, both class-balanced (LOB)": effective_prior(counts, MixUp(size), 0.0, 0.0),
        "CutMix, partner class-balanced": effective_prior(counts, CutMix(size), 1.0, 0.0),
        "ReMix, both instance-balanced": effective_prior(counts, ReMix(counts), 1.0, 1.0),
        "UniMix, partner class-balanced": effective_prior(counts, UniMix(counts, 0.8), 1.0, 0.0),
        "UniMix, partner reversed": effective_prior(counts, UniMix(counts, 0.8), 1.0, -1.0),
        "UniMix in the batch (released code)": effective_prior(
            counts, UniMix(counts, 0.8, in_batch_tau=0.9), batch_size=64
        ),
    }


# %%
# The figures of the papers that need no training.


def figures_of(counts: Tensor) -> dict[str, Figure]:
    """By name."""
    return {
        "xi_aug": plots.xi_aug_distribution(exponential_counts(500, 100, 200), alpha=0.8),
        "label_suppression": plots.label_suppression(counts),
        "label_occurrence": plots.label_occurrence(exponential_counts(5000, 10, 10)),
        "smoothing_shapes": plots.smoothing_shapes(counts),
        "smoothing_powers": plots.smoothing_shapes(counts, shapes=(0.5, 1.0, 2.0, 4.0)),
        "correction_factors": plots.correction_factors(counts),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Figure]:
    """Print the table, and draw the figures."""
    parser = argparse.ArgumentParser(
        description="Sampling and mixing decide it, and a prior-corrected loss has to know"
    )
    parser.add_argument("--out", type=Path, help="folder of the figures; not saved without")
    parser.add_argument("--classes", type=int, default=100, help="how many (default: those of CIFAR-100-LT)")
    parser.add_argument("--largest", type=int, default=500, help="samples of the largest class (default: likewise)")
    parser.add_argument(
        "--imbalance_ratio", type=float, default=100, help="largest over smallest (default: %(default)s)"
    )
    asked = parser.parse_args(arguments)
    counts = exponential_counts(asked.largest, asked.classes, asked.imbalance_ratio)
    print("| how a network is trained | most frequent class | rarest class | ratio |")
    print("|---|---:|---:|---:|")
    for name, prior in seen(counts).items():
        print(f"| {name} | {prior[0]:.4f} | {prior[-1]:.4f} | {prior.max() / prior.min():.1f} |")
    head = counts >= counts.sort(descending=True).values[9]
    share = label_suppression(counts, head)
    print(f"\nmixup: {share:.1%} of the mixed samples carry a label of the ten most frequent classes,")
    print(f"which hold {class_prior(counts)[head].sum():.1%} of the samples.")
    figures = figures_of(counts)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(asked.out / f"{name}.png", dpi=120)
        print(f"\nFigures: {', '.join(str(asked.out / f'{name}.png') for name in figures)}")
    return figures


# %%
# A loss that corrects the training prior where UniMix or class-balanced sampling is at work corrects what is not there.
# The figures: Fig. 2 of UniMix, Fig. 1 and 3a of label-occurrence-balanced mixup, Fig. 6 and 8 of MiSLAS, Fig. 1 of IC.

if __name__ == "__main__":
    figures = main()
