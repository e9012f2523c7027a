"""
Samples with several labels
===========================

Which losses, samplers and mixers help where labels are long-tailed? Each is a plan in a plain loop::

    python examples/multilabel.py

The set is made: 20 labels, the most frequent on 900 of 3,000 samples and the rarest on 9, and labels tend to come
together. A sample is the sum of what its labels add, through a layer that is not linear, and noise. The labels of the
20,000 test samples are as frequent.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ltaug import METHODS, Method, PairDataset, label_counts, label_prior, multilabel_report, shift_binary_logits
from ltaug.plots import BLUE, VERMILLION

# %%
# What is compared: methods of the literature, and variants of them that differ in one setting.

LABELS, WIDTH = 20, 64
SHARES = 0.3 * 0.01 ** (torch.arange(LABELS) / (LABELS - 1))
CHOICES: dict[str, Method] = {
    "plain": METHODS["erm"],
    "plain, from the log odds on": METHODS["erm"],
    "prior-corrected": METHODS["bayias"],
    "distribution-balanced": METHODS["distribution_balanced"],
    "distribution-balanced, drawn evenly": METHODS["distribution_balanced"].replace(sampler="power"),
    "repeat factor, t = 0.05": METHODS["repeat_factor"].replace(repeat_threshold=0.05),
    "balanced by the rarest label": METHODS["class_balanced"],
    "mixup, union": METHODS["mixup"],
    "mixup, convex": METHODS["mixup"].replace(label_mixing="convex"),
    "mixup, union, prior-corrected": METHODS["mixup_bayias"].replace(prior="effective"),
}
COLUMNS = ("map", "many", "medium", "few", "f1", "labelwise_ece")


# %%
# The set, and the same loop for all of them. Two things are special of labels that do not exclude one another: each has
# a prior of its own, and the biases may start at its log odds.


def world(seed: int, size: int = 3000, test_size: int = 20_000) -> tuple[TensorDataset, TensorDataset]:
    """A training set and a test set of one distribution."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(LABELS, WIDTH, generator=generator)
    lens = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    sets = []
    for samples in (size, test_size):
        common = torch.randn(samples, 1, generator=generator)
        taste = 0.5 * common + 0.75**0.5 * torch.randn(samples, LABELS, generator=generator)
        counts = (SHARES * samples).round().long().tolist()
        least = torch.stack([taste[:, k].topk(count).values[-1] for k, count in enumerate(counts)])
        rows = taste >= least  # exactly so many samples of each label
        x = torch.tanh(rows.float() @ means @ lens) + 0.6 * torch.randn(samples, WIDTH, generator=generator)
        sets.append(TensorDataset(x, rows))
    return sets[0], sets[1]


def run(method: Method, epochs: int, seed: int, from_log_odds: bool = False) -> dict[str, dict[str, float]]:
    """Train one method, and report it as trained, and with its labels' shares moved to those of the test set."""
    dataset, test = world(seed)
    torch.manual_seed(seed)
    rows = dataset.tensors[1]
    plan = method.plan(rows, epochs=epochs, batch_size=64, seed=seed)
    model = plan.attach(nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, LABELS)))
    if from_log_odds:  # the biases start where a network without features would end
        model[-1].bias.data.copy_(label_prior(rows).logit())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loader = DataLoader(PairDataset(dataset), batch_size=64, sampler=plan.sampler, drop_last=True)
    for epoch in range(epochs):
        plan.set_epoch(epoch)
        for batch in loader:
            inputs, targets = plan.mix(batch)
            loss = plan.criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = {"": model(test.tensors[0])}
    prior = plan.logits_prior()
    if prior is not None and not torch.allclose(prior, label_prior(rows), rtol=1e-3):
        found[", shifted"] = shift_binary_logits(found[""], prior, label_prior(rows))
    return {row: multilabel_report(z.sigmoid(), test.tensors[1], label_counts(rows)) for row, z in found.items()}


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the table, and draw mAP of all labels and of the rare ones."""
    parser = argparse.ArgumentParser(description="Which losses, samplers and mixers help where labels are long-tailed?")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the network is too small for more
    print("| method | mAP | many | medium | few | F1 | label-wise ECE15 |\n|---|---:|---:|---:|---:|---:|---:|")
    means: dict[str, tuple[float, float]] = {}
    for name, method in CHOICES.items():
        found = [run(method, options.epochs, seed, "log odds" in name) for seed in range(options.seeds)]
        for row in found[0]:
            means[name + row] = tuple(statistics.mean(100 * each[row][c] for each in found) for c in ("map", "few"))
            cells = [mean_and_deviation([100 * each[row][column] for each in found]) for column in COLUMNS]
            print(f"| {name}{row} | {' | '.join(cells)} |", flush=True)
    return draw(means)


def draw(means: dict[str, tuple[float, float]]) -> Figure:
    """Two dots a row."""
    figure = Figure(figsize=(7, 1 + 0.28 * len(means)), layout="constrained")
    ax = figure.subplots()
    for k, (colour, label) in enumerate(((BLUE, "all labels"), (VERMILLION, "rare labels"))):
        ax.plot([values[k] for values in means.values()], range(len(means)), "o", color=colour, label=label)
    ax.set(xlabel="mAP, %", yticks=range(len(means)), yticklabels=list(means), ylim=(len(means) - 0.5, -0.5))
    ax.grid(axis="y", alpha=0.3)
    ax.legend()
    return figure


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± standard deviation, as text; one value has none."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


# %%
# With one seed and a quarter of the epochs, to be quick; the table of three seeds is on :doc:`/multilabel`. A
# corrected loss learns the rare labels as fast as biases that start at the log odds; moving its logits back to the
# labels' shares changes no mAP, but makes probabilities of them (ECE).

if __name__ == "__main__":
    figure = main()
