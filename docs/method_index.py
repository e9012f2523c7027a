"""Writes docs/method_index.md: each method's paper, its classes, what trains it, and numbers.

python docs/method_index.py
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import torch

from ltaug.methods import METHODS, Method
from ltaug.run import write_atomically
from ltaug.tables import read_published

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "method_index.md"
HEAD = """# Method index

From the name that a paper or a repository uses to the method, its parts, the command and a number.
`ltaug methods NAME` prints all settings of one; [papers.md](papers.md) has every row of five papers,
[methods.md](methods.md) says what a plan is.

*Parts* are classes of `ltaug`, for a loop of your own. *Command* is what follows
`accelerate launch recipes/cifar_lt/train.py`, or another recipe's; `BetweenClass` is for sounds alone. *Printed* is
top-1 in percent on CIFAR-100-LT at imbalance ratio 100 with ResNet-32, by the first paper that prints it; *ours* is
measured with this code: last epoch, 200 epochs of the recipe's own schedule. Methods marked * also train on samples
with [several labels](multilabel.md) each, with the binary forms of these losses.

"""
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])
SEVERAL = torch.tensor([[1, 0, 0]] * 6 + [[1, 1, 0]] * 3 + [[0, 0, 1]])


def parts(method: Method) -> str:
    """Names of the classes that a method comes to, in the order of a training step."""
    plan = method.plan(LABELS if method.single_label else SEVERAL, epochs=10, batch_size=4, sample_rate=16_000.0)
    found: list[Any] = []
    for epoch in range(10):
        plan.set_epoch(epoch)
        sampler: Any = plan.sampler.current  # type: ignore[attr-defined]  # of a plan
        found += [each for each in (sampler, getattr(sampler, "first", None), getattr(sampler, "second", None)) if each]
        found += [plan.mixer] if plan.mixes(epoch) else []
        found += [plan.criterion, getattr(plan.criterion, "loss", None)]
    names = [type(each).__name__ for each in found if each is not None]
    classifiers = {"cosine": "CosineClassifier", "causal_norm": "CausalNormClassifier", "lws": "LearnableWeightScaling"}
    classifiers |= {"mislas": "GeneralizedClassifier", "ncm": "NearestClassMeanClassifier", "tau_norm": "tau_normalize"}
    classifiers |= {"bilateral": "BilateralClassifier", "crt": "reinitialize"}
    names += [classifiers[method.classifier]] if method.classifier in classifiers else []
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def printed(name: str) -> str:
    """The first number that a paper prints for CIFAR-100-LT at ratio 100."""
    for line in read_published(ROOT / "recipes" / "cifar_lt" / "published.csv"):
        plain = not line.get("set") and not line.get("correction") and not line.get("test_set")
        there = (line["dataset"], line["profile"], line["imbalance_ratio"]) == ("cifar100", "exponential", "100")
        if plain and there and line["method"] == name and line.get("top1"):
            return f"{line['top1']} ({line['paper']})"
    return "–"


def ours(name: str) -> str:
    """What was measured on CIFAR-100-LT with the recipe's own 200 epochs."""
    with (ROOT / "docs" / "measured.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            command = f"ltaug sweep recipes/cifar_lt/train.py method={name} -- --dataset cifar100"
            if line["command"] == command and not line["correction"]:
                return f"{line['top1']} ({len(line['seeds'].split())} seed{'s' * (' ' in line['seeds'])})"
    return "not run"


def page() -> str:
    """The whole page."""
    lines = ["| method | paper | parts | command | printed | ours |", "|---|---|---|---|---:|---:|"]
    for name, method in METHODS.items():
        command = f"--method {name}" + (" --from_run RUN" if method.second_stage else "")
        star = " *" if method.multi_label else ""
        lines.append(
            f"| `{name}`{star} | {method.paper} | {parts(method)} | `{command}` | {printed(name)} | {ours(name)} |"
        )
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    write_atomically(PAGE, page())
    sys.stdout.write(f"Written: {PAGE}\n")


if __name__ == "__main__":
    main()
