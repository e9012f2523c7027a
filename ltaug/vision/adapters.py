"""Low-rank adapters in a frozen network of timm, by peft."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.errors import UserError
from ltaug.vision.networks import classifier_parts

__all__ = ["add_adapters", "layers_to_adapt", "plain_state"]

# How timm calls the linear layers of attention: blocks.0.attn.qkv, ...
_ATTENTION = re.compile(r"attn[^.]*\.(qkv|q|k|v|kv|q_proj|k_proj|v_proj|proj)$")


def add_adapters(model: nn.Module, rank: int, image_size: int) -> None:
    """Replace the weights W of some layers by W + B A, with A and B of a low rank and B = 0 at the start.

    LoRA (Hu et al., ICLR 2022, https://arxiv.org/abs/2106.09685), with no other factor.

    Args:
        model: network of timm, changed in place.
        rank: of A and B.
        image_size: pixels of a side.

    Raises:
        UserError: peft is not installed, or no layer can be adapted.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError('`lora_rank` needs peft. Install it with `pip install "ltaug[adapters]"`.') from error
    layers = layers_to_adapt(model, image_size)
    if not layers:
        raise UserError(
            f"`lora_rank`={rank} adapts linear layers and convolutions, but the model, a {type(model).__name__}, has "
            "none that peft can adapt. Set it to 0, or choose another model."
        )
    pattern = "|".join(map(re.escape, layers))  # exact names: peft would also match entries of a list as suffixes
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), model)


def layers_to_adapt(model: nn.Module, image_size: int) -> list[str]:
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
        model.eval()(torch.zeros(1, 3, image_size, image_size))
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
    """Weights of a network by timm's names, with adapters merged into what they adapt; the network keeps them apart."""
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
