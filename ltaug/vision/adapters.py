"""Low-rank adapters in a frozen network on images, by peft: :mod:`ltaug.adapters` for images of one size."""

from __future__ import annotations

import torch
from torch import nn

from ltaug import adapters
from ltaug.adapters import plain_state

__all__ = ["add_adapters", "layers_to_adapt", "plain_state"]


def add_adapters(model: nn.Module, rank: int, image_size: int) -> None:
    """Give a network on images low-rank adapters, as :func:`ltaug.adapters.add_adapters` does.

    Args:
        model: network of timm, changed in place.
        rank: of A and B.
        image_size: pixels of a side.

    Raises:
        UserError: peft is not installed, or no layer can be adapted.
    """
    adapters.add_adapters(model, rank, torch.zeros(1, 3, image_size, image_size))


def layers_to_adapt(model: nn.Module, image_size: int) -> list[str]:
    """Names of the layers that get adapters, see :func:`ltaug.adapters.layers_to_adapt`."""
    return adapters.layers_to_adapt(model, torch.zeros(1, 3, image_size, image_size))
