"""
Follow a class mix that drifts
==============================

What does it bring, against one estimate of the mix or none? ::

    python examples/running_prior.py                   # a model that is known exactly
    python examples/running_prior.py RUN RUN ...       # test logits of your runs, calibrated on their held-out samples
    python examples/running_prior.py RUN RUN ... --held_out --memory 30 50 100 200 500    # to choose how much to forget

A stream of 10,000 unlabelled samples in batches of 50. Its class mix swings between long-tailed like the training
(imbalance ratio 50) and the reverse, in waves of so many samples; where the first wave begins is drawn. Every batch is
taken in by `RunningPrior`, then classified with what it says. "True prior" knows the mix of every sample, "one EM" is
`estimate_prior` on the whole stream, which a deployment could only have afterwards.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from statistics import mean, stdev

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ltaug import class_prior, estimate_prior, exponential_counts, shift_logits
from ltaug.labelshift import RunningPrior
from ltaug.plots import BLUE, VERMILLION
from ltaug.posthoc import BiasCorrectedTemperatureScaling
from ltaug.run import RunFolder

RATIO = 50
BATCH = 50
World = tuple[Tensor, Tensor, Tensor]
"""Calibrated logits, their labels, and the prior that they are under."""


# %%
# Logits: of a model that is known exactly, or of runs.


def known(seed: int, classes: int = 10, samples: int = 10_000) -> World:
    """Gaussian classes in 5 dimensions, and the logits of the exact posterior under a long-tailed prior."""
    generator = torch.Generator().manual_seed(seed)
    prior = class_prior(exponential_counts(5000, classes, 100))
    means = 1.2 * torch.randn(classes, 5, generator=generator)
    labels = torch.arange(samples) % classes
    points = means[labels] + torch.randn(samples, 5, generator=generator)
    return -torch.cdist(points, means).square() / 2 + prior.log().float(), labels, prior


def of_run(path: str, held_out: bool) -> World:
    """Test logits of a run, calibrated on its held-out samples; or one half of these, calibrated on the other."""
    run = RunFolder.open(path)
    prior = class_prior(torch.tensor(run.info()["logits_prior"], dtype=torch.float64))
    (logits, labels), (test, test_labels) = run.load_logits("held_out.safetensors"), run.load_logits()
    if held_out:
        even = torch.arange(len(labels)) % 2 == 0
        (logits, labels), (test, test_labels) = (logits[even], labels[even]), (logits[~even], labels[~even])
    calibrate = BiasCorrectedTemperatureScaling(len(prior)).fit(logits, labels, logits_prior=prior)
    return calibrate(test), test_labels, prior


# %%
# A stream whose class mix swings, and what is known of it while it is classified.


def stream(labels: Tensor, prior: Tensor, samples: int, wave: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places of the samples of a stream, [N], and the class mix at the time of each, [N, C]."""
    generator = torch.Generator().manual_seed(seed)
    place = prior.argsort(descending=True).argsort() / (len(prior) - 1) - 0.5  # of the class, by training frequency
    angle = 2 * math.pi * (torch.arange(samples) / wave + torch.rand(1, generator=generator))
    mix = (-math.log(RATIO) * angle.sin().unsqueeze(1) * place).softmax(1)
    drawn = torch.multinomial(mix, 1, generator=generator)[:, 0]
    members = [(labels == k).nonzero()[:, 0] for k in range(len(prior))]
    picks = torch.rand(samples, generator=generator)
    return torch.stack([members[k][int(u * len(members[k]))] for k, u in zip(drawn, picks, strict=True)]), mix


def accuracies(world: World, samples: int, wave: int, seed: int, memories: Sequence[int]) -> dict[str, float]:
    """Accuracy on one stream, by what is known of its class mix."""
    logits, labels, prior = world
    chosen, mix = stream(labels, prior, samples, wave, seed)
    z, y = logits[chosen], labels[chosen]

    def accuracy(moved: Tensor) -> float:
        return float((moved.argmax(1) == y).double().mean())

    def followed(memory: int | None) -> Tensor:
        running = RunningPrior(prior, forget=None if memory is None else 1 / memory)
        moved = []
        for batch in z.split(BATCH):
            running.update(batch)
            moved.append(running(batch))
        return torch.cat(moved)

    rows = {"no correction": accuracy(z), "one EM": accuracy(shift_logits(z, prior, estimate_prior(z, prior)))}
    for memory in memories or (None,):
        rows["running prior" + (f", {memory} samples" if memory else "")] = accuracy(followed(memory))
    return {**rows, "true prior": accuracy(shift_logits(z, prior, mix))}


# %%
# What `RunningPrior` says while a wave passes: the share of the rarest class of the training, and the true one.


def draw(world: World, samples: int, wave: int) -> Figure:
    """One stream."""
    logits, labels, prior = world
    chosen, mix = stream(labels, prior, samples, wave, seed=0)
    rarest, running, found = int(prior.argmin()), RunningPrior(prior), []
    for batch in logits[chosen].split(BATCH):
        found.append(float(running.update(batch)[rarest]))
    figure = Figure(figsize=(7, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(100 * mix[:, rarest], color=VERMILLION, label="true")
    ends = [BATCH * (k + 1) for k in range(len(found))]
    ax.plot(ends, [100 * share for share in found], color=BLUE, label="followed")
    ax.axhline(100 * float(prior[rarest]), color="0.6", linestyle="--", label="in training")
    ax.set(xlabel="samples of the stream", ylabel="share of the rarest class, %")
    ax.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the table, and draw one stream."""
    parser = argparse.ArgumentParser(
        description="What does it bring, against one estimate of the mix or none?",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders; none: Gaussians")
    parser.add_argument("--held_out", action="store_true", help="streams of held-out samples, not of the test's")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="samples to remember, instead of 10 a class")
    parser.add_argument("--waves", type=int, nargs="+", default=[2000, 5000, 20_000], help="samples of a wave")
    parser.add_argument(
        "--streams", type=int, default=3, help="seeds of streams, for each run or each set of Gaussians"
    )
    parser.add_argument("--samples", type=int, default=10_000, help="of a stream")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # batches are too small for more
    start = time.perf_counter()
    worlds = [of_run(path, asked.held_out) for path in asked.runs] or [known(0)]
    found = {
        wave: [
            accuracies(world, asked.samples, wave, seed, asked.memory)
            for world in worlds
            for seed in range(asked.streams)
        ]
        for wave in asked.waves
    }
    names = (
        ", ".join(dict.fromkeys(str(RunFolder.open(path).info().get("method")) for path in asked.runs)) or "Gaussians"
    )
    print(f"| {names}, accuracy in % by wave | {' | '.join(map(str, asked.waves))} |\n|---|{'---:|' * len(found)}")
    for row in found[asked.waves[0]][0]:
        values = ([100 * each[row] for each in all_of_them] for all_of_them in found.values())
        cells = (f"{mean(v):.1f}" + (f" ± {stdev(v):.1f}" if len(v) > 1 else "") for v in values)
        print(f"| {row} | {' | '.join(cells)} |")
    print(f"{len(worlds) * asked.streams} streams of {asked.samples} samples, {time.perf_counter() - start:.0f} s")
    return draw(worlds[0], asked.samples, asked.waves[len(asked.waves) // 2])


# %%
# One stream of each wave; the second is drawn. Following the drift brings most of what knowing the mix of every sample
# would; one estimate of the whole stream, which could only be had afterwards, brings less where waves are short.

if __name__ == "__main__":
    figure = main()
