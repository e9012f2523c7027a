"""Modules whose buffers keep their numbers wherever the module is built or moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


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
