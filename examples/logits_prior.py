"""
Which prior are logits under?
=============================

Which class prior are the logits of trained networks under, and which assumption about it fits? ::

    python examples/logits_prior.py runs/*_erm_seed* runs/*_ce_drw_seed* runs/*_drs_seed*
    python examples/logits_prior.py                    # without runs: logits whose prior is known

On held-out samples of runs, of a known class mix m. With the biases b that make softmax(z + b) most likely, the logits
z are under p ~ m exp(-b): no assumption is needed, and none of the labels but their mix. It is also the prior from
which EM finds that mix; told another one, it finds a wrong mix. Priors and mixes are shown as the t of n^t, n the
training counts: 1 is the training prior, 0 the uniform one. Last, the test logits are moved from every candidate to the
uniform prior. Without runs the logits are those of Gaussian classes, right under n^0.5 but recorded as uniform, and the
same times two: too sure of themselves.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from ltaug import class_counts, class_prior, exponential_counts, shift_logits
from ltaug.correction import tuned_strength
from ltaug.labelshift import estimate_prior
from ltaug.plots import RUN_COLORS
from ltaug.posthoc import BiasCorrectedTemperatureScaling
from ltaug.run import RunFolder

PRIOR, EM = "t of the logits' prior", "t of the mix that EM finds (0 is right), from"
TOP1, NLL = "top-1 % from", "NLL from"
Sample = tuple[Tensor, Tensor]

# %%
# The prior from labelled samples: the biases that make their labels most likely say how far the logits' prior is from
# the samples' own class mix. With a temperature beside them, for logits that are too sure of themselves.


def most_likely_prior(logits: Tensor, labels: Tensor) -> Tensor:
    """The prior that logits are under, by the biases of maximum likelihood on labelled samples of every class, [C]."""
    mix, bias = _mix(logits, labels), torch.zeros(logits.shape[1], dtype=torch.float64)
    for _ in range(300):  # iterative scaling: the classes' mean probabilities reach the mix
        bias += mix.log() - (logits.double() + bias).softmax(1).mean(0).log()
    return class_prior(mix * (-bias).exp())


def scaled_prior(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """The prior that logits over a temperature are under, likewise, [C]; and the temperature."""
    fitted = BiasCorrectedTemperatureScaling(logits.shape[1]).fit(logits, labels, prior_std=math.inf)
    return class_prior(_mix(logits, labels) * (-fitted.bias.double()).exp()), fitted.temperature


def exponent(prior: Tensor, counts: Tensor) -> float:
    """The t of prior ~ counts^t, by least squares of the logarithms."""
    x = counts.double().log()
    x = x - x.mean()
    return float(x @ prior.double().log() / (x @ x))


# %%
# The same question put to EM: it finds the class mix of unlabelled samples from the prior that it is told, so it finds
# the held-out samples' own mix only if it is told the right one.


def measure(run: RunFolder) -> dict[str, dict[str, float]]:
    """A run's row in each table, by the head of the table."""
    info = run.info()
    counts, recorded = torch.tensor(info["class_counts"]), torch.tensor(info["logits_prior"])
    return measured(counts, recorded, run.load_logits("held_out.safetensors"), run.load_logits())


def measured(counts: Tensor, recorded: Tensor, held_out: Sample, test_set: Sample) -> dict[str, dict[str, float]]:
    """The rows of logits whose prior is recorded, from labelled samples of two splits."""
    (z, y), (test, labels) = held_out, test_set
    uniform, train = torch.ones(len(counts)), class_prior(counts)
    (scaled, temperature), found = scaled_prior(z, y), most_likely_prior(z, y)
    strength = tuned_strength(z, y, train, class_prior(uniform), "search")[0]
    moved = {
        "as trained": test,
        "recorded": shift_logits(test, recorded, uniform),
        "train": shift_logits(test, train, uniform),
        "train, IC's search": shift_logits(test, train, uniform, strength),
        "bias": shift_logits(test, found, uniform),
        "bias and T": shift_logits(test / temperature, scaled, uniform),
    }
    told = {"recorded": recorded, "train": train, "bias": found}
    priors = {"recorded": recorded, "bias": found, "bias and T": scaled}
    return {
        PRIOR: {
            **{name: exponent(prior, counts) for name, prior in priors.items()},
            "T": temperature,
            "IC's strength": strength,
        },
        EM: {name: exponent(estimate_prior(z, prior) / _mix(z, y), counts) for name, prior in told.items()},
        TOP1: {name: 100 * float((logits.argmax(1) == labels).double().mean()) for name, logits in moved.items()},
        NLL: {name: float(F.cross_entropy(logits.double(), labels)) for name, logits in moved.items()},
    }


def known(sharpness: float, t: float = 0.5) -> dict[str, dict[str, float]]:
    """The rows of Gaussian classes whose logits, over a temperature, are right under counts^t."""
    counts, means = exponential_counts(5000, 10, 100), 2.0 * torch.eye(10)
    sets = []
    for seed in range(2):
        labels = torch.arange(10).repeat(1000)
        points = means[labels] + torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(seed))
        sets.append((sharpness * (points @ means.T + t * counts.log()), labels))
    return measured(counts, torch.full((10,), 0.1), *sets)


def table(head: str, rows: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], digits: int) -> str:
    """Markdown with mean and standard deviation over the runs of each method."""
    names = list(next(iter(rows.values()))[0][head])
    lines = [f"| {head} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for method, runs in rows.items():
        values = ([run[head][name] for run in runs] for name in names)
        cells = (f"{mean(v):.{digits}f}" + (f" ± {stdev(v):.{digits}f}" if len(v) > 1 else "") for v in values)
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> Figure:
    """NLL on the test set, moved to its uniform prior from each candidate."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    ax = figure.subplots()
    for k, (method, runs) in enumerate(rows.items()):
        names = list(runs[0][NLL])
        values = [mean(run[NLL][name] for run in runs) for name in names]
        ax.plot(values, range(len(names)), "o^vsDP"[k % 6], color=RUN_COLORS[k % len(RUN_COLORS)], label=method)
    ax.set(xlabel=NLL.replace(" from", ", by the prior that is assumed"), yticks=range(len(names)), yticklabels=names)
    ax.grid(axis="y", alpha=0.3)
    ax.invert_yaxis()
    ax.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> Figure:
    """Print the priors, the mixes that EM finds, and top-1 and NLL on the test set by the prior that is assumed."""
    parser = argparse.ArgumentParser(
        description="Which class prior are the logits of trained networks under, and which assumption about it fits?"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="finished runs with held-out samples of every class")
    rows: dict[str, list[dict[str, dict[str, float]]]] = {}
    paths = parser.parse_args(arguments).runs
    for path in paths:
        run = RunFolder.open(path)
        rows.setdefault(run.summary()["name"], []).append(measure(run))
    if not paths:
        rows = {"right under n^0.5": [known(1.0)], "the same, too sure": [known(2.0)]}
    print(f"Mean and standard deviation of {max(map(len, rows.values()))} runs a method.")
    for head, digits in {PRIOR: 2, EM: 2, TOP1: 1, NLL: 3}.items():
        print(f"\n{table(head, rows, digits)}")
    return draw(rows)


def _mix(logits: Tensor, labels: Tensor) -> Tensor:
    return class_prior(class_counts(labels, logits.shape[1]))


# %%
# The prior that is found is right, 0.5; told it, EM finds the uniform mix of the held-out samples, and told another
# one it does not. A wrong prior costs likelihood. Of logits that are too sure, biases alone find another prior, and the
# temperature has to be found as well. What trained networks say is on the page about the prior of logits.

if __name__ == "__main__":
    figure = main()
