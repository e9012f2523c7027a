"""Which labels does a network see? Sampling and mixing decide it, and a prior-corrected loss has to know.

    python examples/label_distributions.py --out figures

Redraws Fig. 2 of UniMix (class distribution of mixed samples) and Fig. 3a of label-occurrence-balanced mixup from the
library's formulas, and prints the label distribution of training for the usual pairs of samplers and mixers.
"""

import argparse
from pathlib import Path

from ltaug import CutMix, MixUp, ReMix, UniMix, class_prior, effective_prior, exponential_counts
from ltaug.analysis import label_suppression
from ltaug.plots import label_occurrence, xi_aug_distribution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="figures", help="folder of the figures (default: %(default)s)")
    parser.add_argument("--imbalance_ratio", type=float, default=100, help="of CIFAR-100-LT (default: %(default)s)")
    arguments = parser.parse_args()
    counts = exponential_counts(500, 100, arguments.imbalance_ratio)
    settings = {
        "no mixing, instance-balanced": effective_prior(counts),
        "mixup, both instance-balanced": effective_prior(counts, MixUp(100), 1.0, 1.0),
        "mixup, both class-balanced (LOB)": effective_prior(counts, MixUp(100), 0.0, 0.0),
        "CutMix, partner class-balanced": effective_prior(counts, CutMix(100), 1.0, 0.0),
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
    xi_aug_distribution(exponential_counts(500, 100, 200), alpha=0.8).savefig(folder / "xi_aug.png", dpi=120)
    label_occurrence(exponential_counts(5000, 10, 10)).savefig(folder / "label_occurrence.png", dpi=120)
    print(f"\nFigures: {folder / 'xi_aug.png'}, {folder / 'label_occurrence.png'}")


if __name__ == "__main__":
    main()
