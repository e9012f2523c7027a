"""Modules whose buffers keep their numbers wherever the module is built or moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.priors import has_float64


class KeptBuffers(nn.Module):
    """Base of modules whose buffers hold numbers that no checkpoint need bring back: class statistics, a prior, a fit.

    Large models are built on the meta device, where tensors have no values, and then emptied onto a real one to be
    loaded (``torch.device("meta")``, accelerate's ``init_empty_weights``, ``to_empty``). A few numbers a class need no
    such care, and would be lost: they stay where they are instead.
    """

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer, and keep it whatever a patched ``nn.Module.register_buffer`` (accelerate) makes of it."""
        super().register_buffer(name, tensor, persistent)
        self._buffers[name] = tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in before.items():
            now = self._buffers[name]
            if values is not None and now is not None and now is not values and not values.is_meta:
                self._buffers[name] = values if now.is_meta else values.to(now.device, now.dtype)
        return self


class PriorBuffers(KeptBuffers):
    """Base of modules whose buffers are priors, or fitted numbers: they keep their type, whatever the model is cast to.

    ``half()`` and the like are for the model: they would round the prior of a rare class to 0, and with a calibrator's
    numbers all logits that it is given. Where a device has no float64, buffers of that type stay on the CPU.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        for name, values in before.items():
            if values is not None and values.dtype == torch.float64:
                self._buffers[name] = values.float()  # which every device takes: where it goes is what is asked
        super()._apply(fn, recurse)
        for name, values in before.items():
            now = self._buffers[name]
            if values is not None and now is not None:
                stays = values.dtype == torch.float64 and not has_float64(now.device)
                self._buffers[name] = values.cpu() if stays else values.to(now.device)
        return self
