"""
UniMix in two dimensions
========================

Where does a linear SVM put the boundary between a frequent and a rare disc? ::

    python examples/unimix_two_discs.py --out two_discs.png
    python examples/unimix_two_discs.py --alpha 0.8           # the released setting

The toy world of UniMix (Xu et al., NeurIPS 2021, Eq. 16 and Fig. 3, https://arxiv.org/abs/2111.03874): m positive
points uniform in a disc of radius r around (x0, y0), n << m negative ones in the like disc around (-x0, -y0). The best
boundary is y = -x for x0 = y0. Four linear SVMs are trained: on the points themselves, on mixup's, on those of the
UniMix factor alone (partners drawn like the first sample, tau = 1), and on those of the whole of UniMix (tau = -1). A
mixed point belongs to the class with the larger share of its label.

Needs scikit-learn and matplotlib: ``pip install "ltaug[plots]" scikit-learn``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.svm import SVC
from torch import Tensor

from ltaug import ClassPowerSampler, MixUp, PairSampler, UniMix, class_counts
from ltaug.mixers import Mixer
from ltaug.plots import BLUE, VERMILLION

POSITIVE, NEGATIVE = 0, 1
PANELS = ("original", "mixup", "UniMix factor", "UniMix")


# %%
# The world, and what is read off a boundary.


@dataclass(frozen=True)
class World:
    """Two discs with their centres on the line y = x."""

    centre: float = 1.0
    radius: float = 1.5
    positives: int = 1000
    negatives: int = 20

    def draw(self, positives: int, negatives: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points [N, 2] and their labels."""
        size = positives + negatives
        radius = self.radius * torch.rand(size, generator=generator).sqrt()  # the root makes the density even
        angle = 2.0 * math.pi * torch.rand(size, generator=generator)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        labels = torch.tensor([POSITIVE] * positives + [NEGATIVE] * negatives)
        sign = torch.where(labels == POSITIVE, 1.0, -1.0).unsqueeze(1)
        return points + sign * self.centre, labels


@dataclass(frozen=True)
class Boundary:
    """The line w . x + b = 0, and how it does."""

    w: np.ndarray
    b: float
    accuracy: float

    @property
    def angle(self) -> float:
        """Degrees from the ideal boundary y = -x."""
        return math.degrees(math.acos(min(1.0, float(self.w.sum()) / (math.sqrt(2.0) * float(np.linalg.norm(self.w))))))

    @property
    def offset(self) -> float:
        """Where it crosses y = x, as distance from the origin; negative: on the side of the rare class."""
        return -self.b * math.sqrt(2.0) / float(self.w.sum())


# %%
# What each SVM sees. The partner's sampler decides: drawn like the first sample the mixed points are as long-tailed as
# the points; drawn with class probability ~ 1 / n (`tau=-1`) the rare class gets most of them.


def samples(panel: str, points: Tensor, labels: Tensor, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """What the SVM of a panel is trained on: as many points as there are."""
    if panel == "original":
        return points, labels
    counts = class_counts(labels)
    mixer: Mixer = MixUp(len(counts), alpha) if panel == "mixup" else UniMix(counts, alpha)
    partner = ClassPowerSampler(labels, tau=-1.0 if panel == "UniMix" else 1.0, seed=seed)
    i, j = PairSampler(ClassPowerSampler(labels, tau=1.0, seed=seed), partner).indices().unbind(1)
    torch.manual_seed(seed)  # mixing weights come from torch's global generator
    mixed, targets = mixer(points[i], labels[i], points[j], labels[j])
    return mixed, targets.argmax(1)


def fit(points: Tensor, labels: Tensor, test_points: Tensor, test_labels: Tensor) -> Boundary:
    """A linear SVM, and its accuracy on balanced points."""
    svm = SVC(kernel="linear").fit(points.numpy(), (labels == POSITIVE).numpy())
    right = svm.predict(test_points.numpy()) == (test_labels == POSITIVE).numpy()
    return Boundary(svm.coef_[0], float(svm.intercept_[0]), float(right.mean()))


def run(world: World, alpha: float, seed: int, axes: Sequence[Axes] | None = None) -> dict[str, Boundary]:
    """The four boundaries of one draw of the world; drawn as well if there are axes."""
    generator = torch.Generator().manual_seed(seed)
    points, labels = world.draw(world.positives, world.negatives, generator)
    test = world.draw(5000, 5000, generator)
    boundaries = {}
    for k, panel in enumerate(PANELS):
        x, y = samples(panel, points, labels, alpha, seed)
        boundaries[panel] = fit(x, y, *test)
        if axes is not None:
            draw(axes[k], f"({'abcd'[k]}) {panel}", x, y, boundaries[panel])
    return boundaries


def draw(ax: Axes, title: str, points: Tensor, labels: Tensor, boundary: Boundary) -> None:
    """One panel: the points that the SVM saw, its boundary and the ideal one."""
    for label, colour, name in ((POSITIVE, BLUE, "frequent"), (NEGATIVE, VERMILLION, "rare")):
        ax.scatter(*points[labels == label].T.numpy(), s=4, color=colour, label=name, linewidths=0)
    limit = 3.0
    line = np.array([-limit, limit])
    ax.plot(line, -line, "--", color="black", linewidth=1, label="ideal")
    ax.plot(line, -(boundary.w[0] * line + boundary.b) / boundary.w[1], color="black", linewidth=1.5, label="SVM")
    ax.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the table, and draw the first world."""
    parser = argparse.ArgumentParser(
        description="Where does a linear SVM put the boundary between a frequent and a rare disc?",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="where to save the figure of the first world; none without")
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--worlds", type=int, default=20, help="draws that the table is the mean of")
    parser.add_argument("--alpha", type=float, default=0.2, help="parameter of Beta(alpha, alpha)")
    parser.add_argument("--positives", type=int, default=World.positives, help="points of the frequent class, m")
    parser.add_argument("--negatives", type=int, default=World.negatives, help="points of the rare class, n")
    parser.add_argument("--centre", type=float, default=World.centre, help="x0 = y0")
    parser.add_argument("--radius", type=float, default=World.radius, help="r")
    asked = parser.parse_args(arguments)
    world = World(asked.centre, asked.radius, asked.positives, asked.negatives)

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    rows: dict[str, list[Boundary]] = {panel: [] for panel in PANELS}
    for k in range(asked.worlds):
        found = run(world, asked.alpha, asked.seed + k, axes if k == 0 else None)
        for panel, boundary in found.items():
            rows[panel].append(boundary)

    print(
        f"m={world.positives}, n={world.negatives}, x0=y0={world.centre:g}, r={world.radius:g}, alpha={asked.alpha:g}; "
        f"mean and standard deviation of {asked.worlds} worlds"
    )
    print(f"{'SVM trained on':<15} {'angle':>15} {'offset':>17} {'balanced accuracy':>22}")
    for panel, found_in in rows.items():
        angle, offset, accuracy = (
            np.array([getattr(each, name) for each in found_in]) for name in ("angle", "offset", "accuracy")
        )
        print(
            f"{panel:<15} {angle.mean():7.1f}{spread(angle, 1)}° {offset.mean():8.2f}{spread(offset, 2)} "
            f"{100 * accuracy.mean():10.1f}{spread(100 * accuracy, 1)} %"
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    if asked.out is not None:
        figure.savefig(asked.out, dpi=150)
        print(f"The figure of the first world is in {asked.out}.")
    return figure


def spread(values: np.ndarray, digits: int) -> str:
    """Standard deviation, as text; one value has none."""
    return f" +- {values.std():4.{digits}f}" if len(values) > 1 else ""


# %%
# Three worlds; the first is drawn. A negative offset means that the boundary has moved into the rare disc: mixup leaves
# it there, as the paper says, and most of the correction comes from the partners.

if __name__ == "__main__":
    figure = main()
