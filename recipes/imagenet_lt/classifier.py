"""The weights of a finished run, and what a second stage puts in the place of its classifier."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from config import Config, Stage2Config
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ltaug import GeneralizedClassifier, LearnableWeightScaling, NearestClassMeanClassifier, tau_normalize
from ltaug.stages import freeze, reinitialize, unfreeze


def plain_network(cfg: Config) -> Config:
    """The settings by which model.py builds the network whose weights a finished run holds."""
    # Adapters are merged into them, and nothing needs to be downloaded.
    return replace(cfg, pretrained=False, freeze=False, lora_rank=0)


def load_weights(model: nn.Module, run: Path, class_names: list[str]) -> None:
    """Read the weights of a finished run, which must be one of these classes."""
    known, path = json.loads((run / "ltaug.json").read_text())["class_names"], run / "model.safetensors"
    if known != class_names:
        ours, theirs = (
            f"{len(names)} ({', '.join(names[:3] + ['...'] * (len(names) > 3))})" for names in (known, class_names)
        )
        raise ValueError(f"`{run}` knows classes {ours}, but the data have {theirs}. Name its own with `--data_dir`.")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged ({error}). `train.py --resume true` writes it anew.") from error
    except RuntimeError as error:
        raise ValueError(f"`{path}` does not fit the network that model.py builds: {error}") from error


def find_classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    """Where the network has its last layer, and that layer."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        kind = "that it does not tell by `get_classifier()`" if head is None else f"of the kind {type(head).__name__}"
        raise ValueError(f"A second stage replaces a linear layer with bias, but this network ends in one {kind}.")
    return next(name for name, module in model.named_modules() if module is head), head


def new_classifier(cfg: Stage2Config, linear: nn.Linear) -> nn.Module:
    """What stands in the place of the first stage's classifier until this stage is done."""
    if cfg.classifier == "lws":
        return LearnableWeightScaling(linear)
    if cfg.classifier == "mislas":
        return GeneralizedClassifier(linear, mode=cfg.mode)
    if cfg.classifier == "tau_norm":
        return freeze(tau_normalize(linear, cfg.tau))
    return nn.Identity() if cfg.classifier == "ncm" else unfreeze(reinitialize(linear))


@torch.no_grad()
def class_means(accelerator, model, loader, linear) -> NearestClassMeanClassifier:
    """The mean features of the classes, over all processes' images."""
    model.eval()
    means = NearestClassMeanClassifier(linear.in_features, linear.out_features).to(accelerator.device)
    for inputs, labels in loader:
        with accelerator.autocast():
            features = model(inputs.to(accelerator.device, non_blocking=True))
        means.update(features.float(), labels)
    counts = accelerator.reduce(means.counts, "sum")
    means.means = accelerator.reduce(means.means * means.counts[:, None], "sum") / counts.clamp(min=1)[:, None]
    means.counts = counts
    return means


def folded(classifier: nn.Module) -> nn.Linear:
    """The plain linear layer, with bias, that a classifier has become."""
    linear = classifier.fold() if hasattr(classifier, "fold") else classifier
    if linear.bias is None:  # tau_norm has dropped it
        linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))
    return linear
