"""Any network of timm, frozen and with adapters, if asked for."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ltaug.vision.networks import NetworkSettings, make_network, pixel_statistics


@dataclass
class ModelSettings(NetworkSettings):
    """What can be said of the network."""

    model: str = "resnet50"
    """Any model of timm; inception_v3 is the literature's other one."""


def build_model(num_classes: int, cfg: Any, data: Any) -> nn.Module:
    """The network of the settings. Replace it by your own: anything that ends in a linear layer `fc` or `head`."""
    model = make_network(num_classes, cfg)
    if cfg.pretrained:  # images are normalised as its weights expect it
        data.mean, data.std = pixel_statistics(model)
    return model
