"""The optimiser, by timm's factory, with a learning rate of the classifier's own."""

import torch
from config import Config
from timm.optim import create_optimizer_v2
from torch import nn


def make_optimizer(cfg: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Groups carry `lr_scale`, which the training multiplies the scheduled learning rate by.

    Biases and normalisation are decayed as well, as in the published protocols, unless `layer_decay` asks for timm's
    groups.
    """
    head = head_parameters(model)
    if cfg.head_lr_factor != 1 and not head:
        raise ValueError(
            "`head_lr_factor` needs a model with `get_classifier()`, as those of timm have it. Set it to 1."
        )
    shared = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, "momentum": cfg.momentum}
    if cfg.layer_decay is not None:
        optimizer = create_optimizer_v2(model, cfg.optimizer, layer_decay=cfg.layer_decay, **shared)
        for group in optimizer.param_groups:
            if all(id(parameter) in head for parameter in group["params"]):
                group["lr_scale"] = group.get("lr_scale", 1.0) * cfg.head_lr_factor
        return optimizer
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if id(parameter) not in head], "lr_scale": 1.0},
        {"params": [parameter for parameter in trained if id(parameter) in head], "lr_scale": cfg.head_lr_factor},
    ]
    return create_optimizer_v2([group for group in groups if group["params"]], cfg.optimizer, **shared)


def head_parameters(model: nn.Module) -> set[int]:
    """Identities of the classifier's parameters; none of a model that is not made like timm's."""
    if not hasattr(model, "get_classifier"):
        return set()
    return {id(parameter) for parameter in model.get_classifier().parameters()}
