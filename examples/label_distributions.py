"""Which labels does a network see? Sampling and mixing decide it, and a prior-corrected loss has to know.

    python examples/label_distributions.py --out figures

Prints the label distribution of training for the usual pairs of samplers and mixers, and redraws the figures of the
papers that class counts alone decide: Fig. 2 of UniMix (class distribution of mixed samples), Fig. 1 and 3a of
label-occurrence-balanced mixup, Fig. 6 and 8 of MiSLAS (shapes of its smoothing) and Fig. 1 of IC (ratio^lambda).
"""

import argparse
from pathlib import Path

from ltaug import CutMix, MixUp, ReMix, UniMix, class_prior, effective_prior, exponential_counts, plots
from ltaug.analysis import label_suppression


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="figures", help="folder of the figures (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=100, help="how many (default: those of CIFAR-100-LT)")
    parser.add_argument("--largest", type=int, default=500, help="samples of the largest class (default: likewise)")
    parser.add_argument(
        "--imbalance_ratio", type=float, default=100, help="largest over smallest (default: %(default)s)"
    )
    arguments = parser.parse_args()
    size = arguments.classes
    counts = exponential_counts(arguments.largest, size, arguments.imbalance_ratio)
    settings = {
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
    print("| how a network is trained | most frequent class | rarest class | ratio |")
    print("|---|---:|---:|---:|")
    for name, seen in settings.items():
        print(f"| {name} | {seen[0]:.4f} | {seen[-1]:.4f} | {seen.max() / seen.min():.1f} |")
    head = counts >= counts.sort(descending=True).values[9]
    share = label_suppression(counts, head)
    print(f"\nmixup: {share:.1%} of the mixed samples carry a label of the ten most frequent classes,")
    print(f"which hold {class_prior(counts)[head].sum():.1%} of the samples.")
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "xi_aug": plots.xi_aug_distribution(exponential_counts(500, 100, 200), alpha=0.8),
        "label_suppression": plots.label_suppression(counts),
        "label_occurrence": plots.label_occurrence(exponential_counts(5000, 10, 10)),
        "smoothing_shapes": plots.smoothing_shapes(counts),
        "smoothing_powers": plots.smoothing_shapes(counts, shapes=(0.5, 1.0, 2.0, 4.0)),
        "correction_factors": plots.correction_factors(counts),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"\nFigures: {', '.join(str(folder / f'{name}.png') for name in figures)}")


if __name__ == "__main__":
    main()
