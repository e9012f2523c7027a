"""Any network of timm; frozen and with adapters, if asked for."""

from typing import Any

import timm
import torch
from adapters import classifier_of, put_adapters
from config import COSINE_SCALE
from loader import weights_of
from torch import nn

from ltaug import CosineClassifier
from ltaug.stages import freeze, unfreeze


def build_model(num_classes: int, cfg: Any) -> nn.Module:
    """The network of a config. Replace it by your own: anything from [N, 3, H, W] to logits [N, num_classes]."""
    if cfg.freeze and cfg.drop_path:
        raise ValueError(f"`drop_path`={cfg.drop_path} drops nothing in a frozen network. Set it to 0.")
    known = weights_of(cfg.model)
    if cfg.pretrained and known and not known.has_weights:
        raise ValueError(f"timm has no weights of `model` {cfg.model!r}. Set `pretrained: false`.")
    extra = {"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}
    # Vision transformers know their input's size; convolutional networks do not take one.
    if known and known.fixed_input_size:
        extra["img_size"] = cfg.image_size
    try:
        model = timm.create_model(cfg.model, pretrained=cfg.pretrained, num_classes=num_classes, **extra)
    except OSError as error:
        raise ConnectionError(
            f"The weights of `model` {cfg.model!r} could not be loaded ({error}). Offline ways: a cache filled "
            "earlier (HF_HUB_OFFLINE=1), `--model local-dir:FOLDER` with timm's config.json and model.safetensors, or "
            "`--pretrained false`."
        ) from error
    if cfg.cosine_classifier:
        put_cosine_classifier(model, num_classes)
    if cfg.lora_rank:
        put_adapters(model, cfg)
    if cfg.freeze:
        freeze_backbone(model)
    check_size(model, cfg)
    return model


@torch.no_grad()
def check_size(model: nn.Module, cfg: Any) -> None:
    """Refuse images of a size that the network cannot take, before a run begins with them."""
    model.eval()
    try:
        model(torch.zeros(1, 3, cfg.image_size, cfg.image_size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"`model` {cfg.model!r} takes no images of `image_size`={cfg.image_size}: {error}") from error
    model.train()


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


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
