"""
Which method shall I take?
==========================

Five of them on one small set, each a plan in a plain loop::

    python examples/which_method.py

The set is scikit-learn's handwritten digits, 8 x 8 pixels, made long-tailed: 100 samples of the most frequent digit and
2 of the rarest. Nothing in the loop depends on the method; `--methods` takes any names of `ltaug methods`.

Needs scikit-learn and matplotlib: ``pip install "ltaug[plots]" scikit-learn``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ltaug import PairDataset, class_counts, exponential_counts, plots, shift_logits, subsample
from ltaug.methods import METHODS
from ltaug.metrics import classification_report

NAMES = ("erm", "class_balanced", "bayias", "mixup_bayias", "unimix_bayias")
COLUMNS = ("top1", "many", "medium", "few", "ece")
UNIFORM = torch.ones(10)

# %%
# The data, and a network. `subsample` takes so many samples of each class, the same ones for the same seed.


def digits(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """A long-tailed training set, and a balanced test set of 70 samples a digit."""
    x, y = (torch.from_numpy(each) for each in load_digits(return_X_y=True))
    x, y = x.float().view(-1, 1, 8, 8) / 16, y.long()
    test = subsample(y, torch.full((10,), 70), seed=seed)
    rest = torch.ones(len(y), dtype=torch.bool).index_fill(0, test, False).nonzero()[:, 0]
    train = rest[subsample(y[rest], exponential_counts(100, 10, imbalance_ratio=50), seed=seed)]
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def network() -> nn.Module:
    """Two convolutions and a linear classifier."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))


# %%
# The loop. A plan brings the sampler (of pairs, where the method mixes over the whole set), the mixing and the loss; at
# the end it says which class prior the logits are under. Nothing else depends on the method.


def train(name: str, dataset: TensorDataset, epochs: int, seed: int) -> tuple[nn.Module, Tensor]:
    """Train one method; returns the model, and the class prior that its logits are under."""
    torch.manual_seed(seed)
    plan = METHODS[name].plan(dataset.tensors[1], 10, epochs=epochs, batch_size=32, seed=seed)
    model = plan.attach(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loader = DataLoader(PairDataset(dataset), batch_size=32, sampler=plan.sampler, drop_last=True)
    for epoch in range(epochs):
        plan.set_epoch(epoch)
        for batch in loader:
            inputs, targets = plan.mix(batch)
            loss = plan.criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    prior = plan.logits_prior()
    return model, UNIFORM if prior is None else prior


# %%
# Every model is judged twice: as it was trained, and with its logits moved to the uniform prior of the test set, which
# trains nothing again.


def run(name: str, epochs: int, seed: int) -> dict[str, dict[str, float]]:
    """Train one method, and report it as trained, and shifted to the uniform prior of the test set."""
    dataset, test = digits(seed)
    counts = class_counts(dataset.tensors[1], 10)
    model, prior = train(name, dataset, epochs, seed)
    with torch.no_grad():
        logits = model(test.tensors[0])
    rows = {f"`{name}`": logits}
    if prior.max() > 1.01 * prior.min():
        rows[f"`{name}`, shifted"] = shift_logits(logits, prior, UNIFORM)
    labels = test.tensors[1]
    return {row: classification_report(z.softmax(1), labels, counts, many=30, few=8) for row, z in rows.items()}


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description="Five of them on one small set, each a plan in a plain loop")
    parser.add_argument("--methods", default=",".join(NAMES), help="names, with commas (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the network is too small for more
    print("| method | top-1 | many | medium | few | ECE15 |\n|---|---:|---:|---:|---:|---:|")
    means: dict[str, dict[str, float]] = {}
    for name in options.methods.split(","):
        found = [run(name, options.epochs, seed) for seed in range(options.seeds)]
        for row in found[0]:
            means[row] = {column: statistics.mean(each[row][column] for each in found) for column in COLUMNS}
            cells = [mean_and_deviation([100 * each[row][column] for each in found]) for column in COLUMNS]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return plots.compare_shot_accuracy({row.replace("`", ""): values for row, values in means.items()})


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± standard deviation, as text; one value has none."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


# %%
# With one seed and half of the epochs, to be quick. Correcting the prior helps the tail most, in the loss (`bayias`)
# or of the finished logits ("shifted"); mixing adds to it. Mean and deviation of three
# seeds: https://github.com/ltaug/ltaug/blob/main/examples/README.md#which_method.

if __name__ == "__main__":
    figure = main()
