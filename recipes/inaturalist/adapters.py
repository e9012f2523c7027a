"""Low-rank adapters in a frozen network of timm, by peft."""

import re
from typing import Any

import torch
from torch import Tensor, nn

# How timm calls the linear layers of attention: blocks.0.attn.qkv, ...
ATTENTION = re.compile(r"attn[^.]*\.(qkv|q|k|v|kv|q_proj|k_proj|v_proj|proj)$")


def put_adapters(model: nn.Module, cfg: Any) -> None:
    """W + B A in the place of the weights W of some layers, with A and B of rank `lora_rank` (LoRA, Hu et al., ICLR
    2022, https://arxiv.org/abs/2106.09685), B = 0 at the start and no other factor."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError('`lora_rank` needs peft. Install it with `pip install "ltaug[adapters]"`.') from error
    layers = layers_to_adapt(model, cfg.image_size)
    if not layers:
        raise ValueError(
            f"`lora_rank`={cfg.lora_rank} adapts linear layers and convolutions, but `model` {cfg.model!r} has none "
            "that peft can adapt. Set it to 0, or choose another model."
        )
    pattern = "|".join(map(re.escape, layers))  # whole names: peft would take those of a list for endings, too
    inject_adapter_in_model(LoraConfig(r=cfg.lora_rank, lora_alpha=cfg.lora_rank, target_modules=pattern), model)


def layers_to_adapt(model: nn.Module, image_size: int) -> list[str]:
    """Names of the linear layers of attention (of a ViT `qkv` and `proj`); without attention, of all linear layers and
    convolutions but the classifier."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    head, used = set(classifier_of(model).modules()), set()
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
        if module in used - head and len(places) == 1 and can_be_adapted(module)
    }
    attention = [name for name, module in layers.items() if isinstance(module, nn.Linear) and ATTENTION.search(name)]
    return attention or list(layers)


def can_be_adapted(layer: nn.Module) -> bool:
    """Whether peft can adapt a layer and merge the adapter. Subclasses may compute with other weights than theirs."""
    if type(layer) is nn.Conv2d:
        return (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    return type(layer) is nn.Linear


@torch.no_grad()
def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a network of `build_model` by timm's names, adapters merged into the weights that they adapt."""
    state = model.state_dict()
    if not any(".lora_" in name for name in state):
        return state
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            state[f"{name}.base_layer.weight"] = layer.get_base_layer().weight + layer.get_delta_weight("default")
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}


def classifier_of(model: nn.Module) -> nn.Module:
    """timm's classifier; of distilled models, which have two, both."""
    head = model.get_classifier()
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)
