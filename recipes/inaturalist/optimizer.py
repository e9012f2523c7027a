"""The optimiser, by timm's factory, with a learning rate of the classifier's own."""

import torch
from config import Config
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from torch import nn

from ltaug.commandline import near_miss


def make_optimizer(cfg: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Groups carry `lr_scale`, which the training multiplies the scheduled learning rate by.

    Biases and normalisation are decayed as well, as in the published protocols, unless `layer_decay` asks for timm's
    groups. What is frozen is in no group.
    """
    # The published protocols have classical momentum, where timm's "sgd" has Nesterov's.
    name = "momentum" if cfg.optimizer == "sgd" else cfg.optimizer
    known = list_optimizers()
    if name.rpartition("_")[2] not in known:  # lookahead_adamw is adamw
        hint = near_miss(name, known) or f": {', '.join(known)}."
        raise ValueError(f"`optimizer` must be sgd or one of timm's, but is {name!r}{hint}")
    head = head_parameters(model)
    if cfg.head_lr_factor != 1 and not head:
        raise ValueError(
            "`head_lr_factor` needs a model with `get_classifier()`, as those of timm have it. Set it to 1."
        )
    if cfg.layer_decay is None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "lr_scale": 1.0, "weight_decay": cfg.weight_decay}]
    else:
        kept = getattr(model, "no_weight_decay", set)()  # timm's list for this network: position embedding, ...
        groups = param_groups_layer_decay(model, cfg.weight_decay, kept, layer_decay=cfg.layer_decay)
    groups = [part for group in groups for part in split(group, head, cfg.head_lr_factor) if part["params"]]
    return create_optimizer_v2(groups, name, lr=cfg.lr, weight_decay=cfg.weight_decay, momentum=cfg.momentum)


def split(group: dict, head: set[int], factor: float) -> tuple[dict, dict]:
    """The group without the classifier, and the classifier's part of it."""
    ours = [parameter for parameter in group["params"] if id(parameter) in head]
    others = [parameter for parameter in group["params"] if id(parameter) not in head]
    return {**group, "params": others}, {**group, "params": ours, "lr_scale": group["lr_scale"] * factor}


def head_parameters(model: nn.Module) -> set[int]:
    """Identities of the classifier's parameters; none of a model that is not made like timm's."""
    if not hasattr(model, "get_classifier"):
        return set()
    head = model.get_classifier()
    return {id(parameter) for part in (head if isinstance(head, tuple) else (head,)) for parameter in part.parameters()}
