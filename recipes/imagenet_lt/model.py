"""Any network of timm, and the ResNet-10 of the long-tailed literature; frozen and with adapters, if asked for."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ltaug.vision.networks import NetworkSettings, make_network, pixel_statistics


@dataclass
class ModelSettings(NetworkSettings):
    """What can be said of the network."""

    model: str = "resnet50"
    """resnet10, any model of timm, hf-hub:OWNER/NAME, or local-dir:FOLDER."""


def build_model(num_classes: int, cfg: Any, data: Any) -> nn.Module:
    """The network of the settings. Replace it by your own: anything from [N, 3, H, W] to logits [N, num_classes].

    Its last layer is a linear one, named fc, head or classifier, or told by `get_classifier()`.
    """
    model = make_network(num_classes, cfg)
    if cfg.pretrained:  # images are normalised as its weights expect it
        data.mean, data.std = pixel_statistics(model)
    return model
