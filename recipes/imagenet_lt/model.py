"""Any network of timm, and the ResNet-10 of the long-tailed literature."""

from typing import Any

import timm
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ltaug import CosineClassifier


def build_model(num_classes: int, cfg: Any) -> nn.Module:
    """The network of a config. Replace it by your own: anything from [N, 3, H, W] to logits [N, num_classes].

    ResNet-10 has one basic block in each of its four stages: 5.4 M parameters for 1,000 classes.
    """
    if cfg.model == "resnet10":
        if cfg.pretrained:
            raise ValueError("`model: resnet10` has no pretrained weights in timm. Set `pretrained: false`.")
        model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=num_classes, drop_path_rate=cfg.drop_path)
    else:
        if not timm.is_model(cfg.model.partition(".")[0]) and "hf" not in cfg.model.partition(":")[0]:
            close = timm.list_models(f"*{cfg.model[:6]}*")[:5]
            hint = f" Some are: {', '.join(close)}." if close else " timm.list_models() lists them."
            raise ValueError(f"`model` {cfg.model!r} is no model of timm.{hint}")
        extra = {"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}
        # Vision transformers know their input's size; convolutional networks do not take one.
        if "vit" in cfg.model or "deit" in cfg.model:
            extra["img_size"] = cfg.image_size
        model = timm.create_model(cfg.model, pretrained=cfg.pretrained, num_classes=num_classes, **extra)
    if cfg.cosine_classifier:
        put_cosine_classifier(model, num_classes)
    if cfg.freeze:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in model.get_classifier().parameters():
            parameter.requires_grad_(True)
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
    setattr(model.get_submodule(parent), name, CosineClassifier(head.in_features, num_classes, scale=30.0))


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
