"""
What is an estimated class mix worth?
=====================================

How much of what a known class mix brings does an estimated one bring, and what estimates it best? ::

    python examples/prior_estimation.py

A hundred Gaussian classes in 30 dimensions, 500 to 5 training samples each, and a network that learns them by heart:
too sure of itself, and blind to the rare classes beyond what its prior says. Four test sets of 10,000 unlabelled
samples ask for a correction: as long-tailed as training, uniform, the reverse, and as long-tailed with its classes
permuted, so that their frequencies have nothing to do with training's. Ten labelled samples a class are held out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ltaug import class_prior, exponential_counts, shift_logits
from ltaug.labelshift import estimate_prior
from ltaug.plots import RUN_COLORS
from ltaug.posthoc import BiasCorrectedTemperatureScaling

TARGETS = ("as training", "uniform", "reverse", "permuted")
Model = Callable[[Tensor], Tensor]
Sample = tuple[Tensor, Tensor]
World = tuple[Tensor, Sample, dict[str, tuple[Sample, Tensor]]]


# %%
# A network that is trained once, and four places of use.


def draw(labels: Tensor, means: Tensor, generator: torch.Generator) -> Sample:
    """A point of the Gaussian of every label, and the labels."""
    return means[labels] + torch.randn(len(labels), means.shape[1], generator=generator), labels


def train(x: Tensor, y: Tensor, num_classes: int, steps: int, generator: torch.Generator) -> Model:
    """A network of three layers, by plain cross-entropy until it knows its samples."""
    width = 512
    model = nn.Sequential(
        *(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes))
    )
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(y), (256,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()
    return model.requires_grad_(False)


def world(seed: int, num_classes: int, samples: int, steps: int) -> World:
    """Training counts, logits and labels of the held-out samples, and of each test set with its true prior."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    means = 0.55 * torch.randn(num_classes, 30, generator=generator)
    counts, classes = exponential_counts(500, num_classes, 100), torch.arange(num_classes)
    model = train(*draw(classes.repeat_interleave(counts), means, generator), num_classes, steps, generator)
    x, y = draw(classes.repeat(10), means, generator)
    order = torch.randperm(num_classes, generator=generator)
    priors = [class_prior(each) for each in (counts, torch.ones(num_classes), counts.flip(0), counts[order])]
    tests = {}
    for name, prior in zip(TARGETS, priors, strict=True):
        points, labels = draw(torch.multinomial(prior, samples, True, generator=generator), means, generator)
        tests[name] = (model(points), labels), prior
    return counts, (model(x), y), tests


# %%
# What can be done to its logits. An estimate is as good as the probabilities it is made from, so calibration comes
# first; with many classes and few samples, an estimate that is drawn to the trend of the training counts (`center`) is
# safer than a free one.


def accuracies(counts: Tensor, held_out: Sample, test: Sample, truth: Tensor) -> dict[str, float]:
    """Accuracy on a test set by what is done to its logits."""
    y, raw = held_out[1], test[0]
    weighted = BiasCorrectedTemperatureScaling(len(counts)).fit(*held_out, weights=counts[y])(raw)
    calibrate = BiasCorrectedTemperatureScaling(len(counts)).fit(*held_out, logits_prior=counts)
    z, trend = calibrate(raw), estimate_prior(calibrate(raw), counts, trend=counts.log())
    # Confusions tell most of logits that predict every class: those under the held-out samples' own, uniform mix.
    uniform = torch.ones(len(counts))
    even, validation = shift_logits(z, counts, uniform), (shift_logits(calibrate(held_out[0]), counts, uniform), y)

    def accuracy(logits: Tensor, target: Tensor) -> float:
        return float((shift_logits(logits, counts, target).argmax(1) == test[1]).double().mean())

    return {
        "nothing": accuracy(raw, counts),
        "true prior": accuracy(raw, truth),
        "EM": accuracy(raw, estimate_prior(raw, counts)),
        "calibrated with weights, EM": accuracy(weighted, estimate_prior(weighted, counts)),
        "calibrated, true prior": accuracy(z, truth),
        "calibrated, EM": accuracy(z, estimate_prior(z, counts)),
        "calibrated, trend": accuracy(z, trend),
        "calibrated, EM about the trend": accuracy(z, estimate_prior(z, counts, center=trend)),
        "calibrated, RLLS": accuracy(z, estimate_prior(even, uniform, "rlls", validation=validation)),
        "calibrated, soft BBSE": accuracy(z, estimate_prior(even, uniform, "bbse", validation=validation, soft=True)),
    }


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(
        description="How much of what a known class mix brings does an estimated one bring?",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=3, help="worlds that the table is the mean of")
    parser.add_argument("--classes", type=int, default=100, help="number of classes")
    parser.add_argument("--samples", type=int, default=10_000, help="unlabelled samples of each test set")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the network is too small for more
    start = time.perf_counter()
    worlds = [world(seed, asked.classes, asked.samples, asked.steps) for seed in range(asked.draws)]
    rows = [[accuracies(counts, held_out, *tests[name]) for name in TARGETS] for counts, held_out, tests in worlds]
    print(f"| accuracy, % | {' | '.join(TARGETS)} |\n|---|{'---:|' * len(TARGETS)}")
    table = {}
    for name in rows[0][0]:
        means = table[name] = [100 * sum(row[k][name] for row in rows) / len(rows) for k in range(len(TARGETS))]
        print(f"| {name} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    print(f"{time.perf_counter() - start:.0f} s")
    return figure_of(table)


def figure_of(table: dict[str, list[float]]) -> Figure:
    """A row for each thing that is done, a dot for each test set."""
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(table)), layout="constrained")
    ax = figure.subplots()
    for k, (target, marker) in enumerate(zip(TARGETS, "o^vs", strict=True)):
        values = [means[k] for means in table.values()]
        ax.plot(values, range(len(table)), marker, color=RUN_COLORS[k], label=target)
    ax.set(xlabel="accuracy, %", yticks=range(len(table)), yticklabels=list(table), ylim=(len(table) - 0.5, -0.5))
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4)
    return figure


# %%
# One draw of the world and half of the training, to be quick. Calibrated on ten labelled samples a
# class, the logits gain about as much from an estimated mix as raw ones from the true mix; `center` keeps most of the
# gain wherever there is one, whatever the mix. Means of three draws:
# https://github.com/ltaug/ltaug/blob/main/examples/README.md#prior_estimation.

if __name__ == "__main__":
    figure = main()
