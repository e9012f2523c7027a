"""Parameter groups of fine-tuning: learning rates that fall towards the image, one of the classifier's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # not in its __all__
from torch import nn

from ltaug.errors import UserError
from ltaug.vision.networks import classifier_parts

__all__ = ["scale_learning_rates"]


def scale_learning_rates(
    groups: Sequence[Mapping[str, Any]],
    model: nn.Module,
    *,
    layer_decay: float | None = None,
    head_lr_factor: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Split parameter groups into some with other learning rates, which ``lr_scale`` gives over the scheduled one.

    Biases and normalisation are decayed as well, as in the published protocols, unless ``layer_decay`` asks for timm's
    groups. What is frozen is in no group.

    Args:
        groups: those of :meth:`ltaug.methods.TrainingPlan.parameter_groups`.
        model: whose parameters they are.
        layer_decay: learning rate of a layer over that of the next one, as timm has it; ``None``: the same for all.
        head_lr_factor: learning rate of the classifier over that of the rest; where all the rest is frozen, as in a
            second stage, there is none to be over, and it does nothing.
        weight_decay: of the groups of ``layer_decay``; others have the optimiser's.
    """
    if head_lr_factor != 1.0 and not hasattr(model, "get_classifier"):
        raise UserError("`head_lr_factor` needs a model with `get_classifier()`, as those of timm. Set it to 1.")
    if layer_decay is not None:
        kept: Any = getattr(model, "no_weight_decay", set)()  # timm's list for this network: position embedding, ...
        groups = param_groups_layer_decay(model, weight_decay, kept, layer_decay=layer_decay)
    if head_lr_factor == 1.0:
        return [dict(group) for group in groups]
    head = {id(parameter) for parameter in classifier_parts(model).parameters()}
    found = []
    for group in groups:
        ours = [parameter for parameter in group["params"] if id(parameter) in head]
        others = [parameter for parameter in group["params"] if id(parameter) not in head]
        scale = group.get("lr_scale", 1.0) * head_lr_factor
        found += [{**group, "params": others}, {**group, "params": ours, "lr_scale": scale}]
    found = [group for group in found if group["params"]]
    alone = all(id(parameter) in head for group in found for parameter in group["params"])
    return [dict(group) for group in groups] if alone else found
