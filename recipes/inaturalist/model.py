"""Any network of timm; frozen and with adapters, if asked for."""

import re
from typing import Any

import timm
import torch
from config import COSINE_SCALE
from torch import Tensor, nn

from ltaug import CosineClassifier
from ltaug.stages import freeze, unfreeze

# How timm calls the linear layers of attention: blocks.0.attn.qkv, ...
ATTENTION = re.compile(r"attn[^.]*\.(qkv|q|k|v|kv|q_proj|k_proj|v_proj|proj)$")


def build_model(num_classes: int, cfg: Any) -> nn.Module:
    """The network of a config. Replace it by your own: anything from [N, 3, H, W] to logits [N, num_classes]."""
    if cfg.freeze and cfg.drop_path:
        raise ValueError(f"`drop_path`={cfg.drop_path} drops nothing in a frozen network. Set it to 0.")
    if not timm.is_model(cfg.model.partition(".")[0]) and "hf" not in cfg.model.partition(":")[0]:
        close = timm.list_models(f"*{cfg.model[:6]}*")[:5]
        hint = f" Some are: {', '.join(close)}." if close else " timm.list_models() lists them."
        raise ValueError(f"`model` {cfg.model!r} is no model of timm.{hint}")
    try:
        known = timm.get_pretrained_cfg(cfg.model.rpartition("/")[2])  # also of OWNER/NAME on the hub
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{cfg.model.partition('.')[0]}.*"))
        raise ValueError(f"`model` {cfg.model!r} is unknown to timm. It has {tags}.") from error
    if cfg.pretrained and known and not known.has_weights:
        raise ValueError(f"timm has no weights of `model` {cfg.model!r}. Set `pretrained: false`.")
    extra = {"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}
    # Vision transformers know their input's size; convolutional networks do not take one.
    if known and known.fixed_input_size:
        extra["img_size"] = cfg.image_size
    model = timm.create_model(cfg.model, pretrained=cfg.pretrained, num_classes=num_classes, **extra)
    if cfg.cosine_classifier:
        put_cosine_classifier(model, num_classes)
    if cfg.lora_rank:
        put_adapters(model, cfg)
    if cfg.freeze:
        freeze_backbone(model)
    return model


def put_cosine_classifier(model: nn.Module, num_classes: int) -> None:
    """Replace timm's classifier, wherever the model has it."""
    head = model.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"`cosine_classifier` replaces a linear layer, but this model ends in a {type(head).__name__}."
        )
    place = next(name for name, module in model.named_modules() if module is head)
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, CosineClassifier(head.in_features, num_classes, scale=COSINE_SCALE))


def freeze_backbone(model: nn.Module) -> None:
    """Let only classifier and adapters learn, and keep the rest as in evaluation, whatever `train()` says.

    Else batch norm would normalise by the batch and move its statistics, and dropout and stochastic depth would act.
    """
    freeze(model)
    unfreeze(classifier_of(model))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
    kind = type(model)

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        kind.train(self, False)
        classifier_of(self).train(mode)
        self.training = mode
        return self

    # A class of its own, and no attribute, which a copy (the moving average) would share with the original.
    model.__class__ = type(f"Frozen{kind.__name__}", (kind,), {"train": train})
    model.train()


def classifier_of(model: nn.Module) -> nn.Module:
    """timm's classifier; of distilled models, which have two, both."""
    head = model.get_classifier()
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)


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


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
