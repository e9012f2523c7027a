"""Base of the losses, and the check of class weights."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ltaug.losses.functional import IGNORED, check_indices, check_row_sums, check_tensors, row_sums
from ltaug.posthoc._buffers import KeptBuffers
from ltaug.priors import Counts, by_class


class ClassLoss(KeptBuffers, ABC):
    """Base of losses with class statistics, kept in non-persistent buffers.

    The statistics move with ``.to()`` and are not part of checkpoints.
    """

    ignore_index = IGNORED

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self._rows = _FirstRows()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'`reduction` must be "mean", "sum" or "none", but is {reduction!r}.')
        self.reduction = reduction

    def keep(self, name: str, values: Tensor | None) -> None:
        """Register class statistics [C] under a name."""
        values = None if values is None else values.to(torch.get_default_dtype())
        self.register_buffer(name, values, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``."""
        check_tensors(logits, targets)
        self._rows.look(targets)
        try:
            return self.compute(logits, targets)
        except (IndexError, RuntimeError):
            if targets.device.type == "cpu":  # an accelerator that has failed can compute nothing more
                check_indices(targets, logits.shape[1], self.ignore_index)
            raise

    @abstractmethod
    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, by its function; :meth:`forward` has looked at the targets."""


class _FirstRows:
    """Check of the first dense targets that a loss gets on an accelerator, without waiting for the device.

    The functions check all that are on the CPU. Here the extreme sums of the rows are copied to the host whenever the
    device comes to it, and looked at in the calls that follow; they are 1 until then.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.calls = 0

    def look(self, targets: Tensor) -> None:
        """Start the check, or raise ValueError if the rows of an earlier call have turned out not to sum to 1."""
        device = targets.device.type
        if self.calls > 100 or device in ("cpu", "meta") or torch.compiler.is_compiling():
            return
        if self.sums is not None:
            self.calls += 1
            check_row_sums(*self.sums)
        elif targets.is_floating_point() and targets.ndim > 1 and targets.numel():
            if device == "cuda" and torch.cuda.is_current_stream_capturing():
                return
            self.sums = torch.ones(2, pin_memory=device == "cuda")  # into pageable memory no copy is asynchronous
            for kept, total in zip(self.sums, row_sums(targets), strict=True):
                kept.copy_(total, non_blocking=True)


def check_class_weights(class_weights: Counts | None, num_classes: int | None = None) -> Tensor | None:
    """Convert class weights [C] to a tensor; raise ValueError if they do not fit."""
    if class_weights is None:
        return None
    weights = by_class(class_weights, "class_weights")
    if weights.ndim != 1 or (num_classes is not None and weights.numel() != num_classes):
        expected = "C" if num_classes is None else str(num_classes)
        raise ValueError(f"`class_weights` must have shape [{expected}], but have {list(weights.shape)}.")
    if not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        raise ValueError("`class_weights` must be finite and not negative.")
    return weights
