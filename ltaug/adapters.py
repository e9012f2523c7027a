"""Frozen backbones of any modality: only the classifier learns, and low-rank adapters (LoRA) if they are asked for.

Needs the extra ``recipes``, and for adapters the extra ``adapters`` (peft).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ltaug.commandline import NonNegativeInt
from ltaug.errors import UserError
from ltaug.stages import freeze, unfreeze

__all__ = [
    "FreezeSettings",
    "add_adapters",
    "classifier_parts",
    "freeze_and_adapt",
    "freeze_backbone",
    "layers_to_adapt",
    "plain_state",
]

Module = TypeVar("Module", bound=nn.Module)

# How timm calls the linear layers of attention (blocks.0.attn.qkv), and transformers (layers.0.attention.q_proj,
# layers.0.self_attn.out_proj, layer.0.attention.attention.query).
_ATTENTION = re.compile(
    r"(attn[^.]*\.(qkv|q|k|v|kv|proj|[qkvo]_proj|out_proj)"
    r"|attention\.([qkvo]_proj|out_proj|query|key|value|linear_[qkv]|linear_out|output\.dense))$"
)


@dataclass
class FreezeSettings:
    """What can be said of a pretrained network that is not to learn as a whole."""

    freeze: bool = False
    """Train the classifier (and adapters) alone; the backbone keeps its weights and statistics."""
    lora_rank: NonNegativeInt = 0
    """Rank of low-rank adapters (LoRA, by peft) in a frozen backbone; 0 is none. Needs `freeze`."""


def freeze_and_adapt(model: Module, cfg: Any, inputs: Tensor) -> Module:
    """Freeze a network and give it adapters, if settings say so.

    A second stage (``from_run``) gets the plain network, whose weights its first stage has kept.

    Args:
        model: from inputs [N, ...] to logits, with timm's ``get_classifier()``; changed in place.
        cfg: has ``freeze``, ``lora_rank`` and ``from_run``.
        inputs: a batch of one, to see which layers are used.

    Returns:
        The model.

    Raises:
        UserError: adapters without ``freeze``; see :func:`add_adapters`.
    """
    if cfg.lora_rank and not cfg.freeze:
        raise UserError(f"`lora_rank`={cfg.lora_rank} is for a frozen backbone. Set `freeze: true` as well.")
    if cfg.from_run is None:
        if cfg.lora_rank:
            add_adapters(model, cfg.lora_rank, inputs)
        if cfg.freeze:
            freeze_backbone(model)
    return model


def classifier_parts(model: Any) -> nn.Module:
    """The classifier by timm's name for it; of distilled models, which have two, both."""
    head = model.get_classifier()
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)


def freeze_backbone(model: nn.Module) -> None:
    """Let only classifier and adapters learn, and keep the rest as in evaluation, whatever ``train()`` says.

    Else batch norm would normalise by the batch and move its statistics, and dropout and stochastic depth would act.
    Augmentation is no part of the backbone: modules that the model's ``augmentations`` lists go with ``train()``.

    Args:
        model: has timm's ``get_classifier()``; changed in place.
    """
    freeze(model)
    unfreeze(classifier_parts(model))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
    kind = type(model)

    def train(self: Any, mode: bool = True) -> nn.Module:
        kind.train(self, False)
        for part in (classifier_parts(self), *getattr(self, "augmentations", ())):
            part.train(mode)
        self.training = mode
        return self  # type: ignore[no-any-return]

    # A class of its own, and no attribute, which a copy (the moving average) would share with the original.
    model.__class__ = type(f"Frozen{kind.__name__}", (kind,), {"train": train})
    model.train()


def add_adapters(model: nn.Module, rank: int, inputs: Tensor) -> None:
    """Replace the weights W of some layers by W + B A, with A and B of a low rank and B = 0 at the start.

    LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685), with no other factor.

    Args:
        model: has timm's ``get_classifier()``; changed in place.
        rank: of A and B.
        inputs: a batch of one, to see which layers are used.

    Raises:
        UserError: peft is not installed, or no layer can be adapted.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError('`lora_rank` needs peft. Install it with `pip install "ltaug[adapters]"`.') from error
    layers = layers_to_adapt(model, inputs)
    if not layers:
        raise UserError(
            f"`lora_rank`={rank} adapts linear layers and convolutions, but the model, a {type(model).__name__}, has "
            "none that peft can adapt. Set it to 0, or choose another model."
        )
    pattern = "|".join(map(re.escape, layers))  # exact names: peft would also match entries of a list as suffixes
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), model)


def layers_to_adapt(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the layers that get adapters.

    The linear layers of attention (of a ViT ``qkv`` and ``proj``); without attention, all linear layers and
    convolutions but the classifier.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    head, used = set(classifier_parts(model).modules()), set[nn.Module]()
    # Some models read the weight of a layer that they do not call (`qkv` in BEiT): its adapter would do nothing.
    hooks = [module.register_forward_hook(lambda module, *_: used.add(module)) for module in names]
    with torch.no_grad():
        model.eval()(inputs)
    for hook in hooks:
        hook.remove()
    # Nor can a layer be adapted that lies in two places.
    layers = {
        places[0]: module
        for module, places in names.items()
        if module in used - head and len(places) == 1 and _can_be_adapted(module)
    }
    attention = [name for name, module in layers.items() if isinstance(module, nn.Linear) and _ATTENTION.search(name)]
    return attention or list(layers)


def _can_be_adapted(layer: nn.Module) -> bool:
    """Whether peft can adapt a layer and merge the adapter. Subclasses may compute with other weights than theirs."""
    if type(layer) is nn.Conv2d:
        return (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    return type(layer) is nn.Linear


@torch.no_grad()
def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a network by its own names, with adapters merged into what they adapt; the network keeps them apart.

    >>> list(plain_state(nn.Linear(2, 3)))
    ['weight', 'bias']
    """
    state: dict[str, Tensor] = model.state_dict()
    if not any(".lora_" in name for name in state):
        return state
    from peft.tuners.lora import LoraLayer

    adapted: list[tuple[str, Any]] = [
        (name, each) for name, each in model.named_modules() if isinstance(each, LoraLayer)
    ]
    for name, layer in adapted:
        state[f"{name}.base_layer.weight"] = layer.get_base_layer().weight + layer.get_delta_weight("default")
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
