"""Base of the losses, and the check of class weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ltaug._arguments import check_labels, check_rows, check_tensor, checked, label_limits, row_limits
from ltaug.losses.functional import IGNORED, check_indices, check_reduction
from ltaug.posthoc._buffers import KeptBuffers
from ltaug.priors import Counts, by_class, check_missing, known_labels


class ClassLoss(KeptBuffers, ABC):
    """Base of losses with class statistics, kept in non-persistent buffers.

    The statistics move with ``.to()`` and are not part of checkpoints.

    Args:
        reduction: "mean", "sum" or "none".
        ignore_index: class index of positions that are left out, also of the mean; None is -100, as in torch. If it is
            given, rows of zeros among probabilities are left out, too: what a mixer with an ``ignore_index`` makes.
    """

    @checked
    def __init__(self, reduction: str, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = IGNORED if ignore_index is None else int(ignore_index)
        self.ignores_rows = ignore_index is not None
        self._rows = _FirstRows()
        check_reduction(reduction)
        self.reduction = reduction

    def keep(self, name: str, values: Tensor | None, cause: str = "class_counts") -> None:
        """Register class statistics [C] under a name; raise ValueError if the argument ``cause`` made them infinite."""
        values = None if values is None else values.to(torch.get_default_dtype())
        if values is not None and not values.is_meta and not bool(values.isfinite().all()):
            raise ValueError(
                f"`{cause}` must leave the classes' {name} finite, but is too large: the greatest is "
                f"{float(values.max())}."
            )
        self.register_buffer(name, values, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, C, ...] against ``targets``."""
        check_tensor(logits, "logits")  # by hand: this is in every training step
        check_tensor(targets, "targets")
        if not self.ignores_rows:
            self._rows.look(targets)
        try:
            if self.ignores_rows and targets.is_floating_point():
                return self._without_zeros(logits, targets)
            kept = targets
            if self.ignore_index != IGNORED:
                kept = targets.long()  # not in bytes, in which -100 is 156
                # What torch would leave out is a class outside: it is not what was asked for.
                kept = kept.masked_fill(kept == IGNORED, IGNORED - 1).masked_fill(kept == self.ignore_index, IGNORED)
            return self.compute(logits, kept)
        except (IndexError, RuntimeError):
            if targets.device.type == "cpu":  # an accelerator that has failed can compute nothing more
                check_indices(targets, logits.shape[1], self.ignore_index)
            raise

    def _without_zeros(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of the rows of probabilities that are no zeros."""
        kept = targets.sum(1) != 0.0
        if bool(kept.all()) or logits.shape != targets.shape:
            return self.compute(logits, targets)
        loss = self.compute(logits.movedim(1, -1)[kept], targets.movedim(1, -1)[kept])
        return loss.new_zeros(kept.shape).masked_scatter(kept, loss) if self.reduction == "none" else loss

    @abstractmethod
    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, by its function; :meth:`forward` has looked at the targets."""


class LabelLoss(ClassLoss):
    """Base of losses of labels that do not exclude each other: logits and targets [N, L, ...], a sigmoid a label.

    Args:
        reduction: "mean", "sum" or "none".
        ignore_index: what targets hold where a label is not known; None where all are.
    """

    @checked
    def __init__(self, reduction: str, ignore_index: int | None = None) -> None:
        super().__init__(reduction)
        check_missing(ignore_index)
        self.missing = None if ignore_index is None else int(ignore_index)
        self.ignore_index = IGNORED if ignore_index is None else int(ignore_index)
        self._rows = _FirstRows(self._limits, check_labels)

    def _limits(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest entry of the targets that count."""
        if self.missing is None:
            return label_limits(targets)
        return label_limits(targets.masked_fill(~known_labels(targets, self.missing), 0))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``logits`` [N, L, ...] against ``targets`` of their shape."""
        check_tensor(logits, "logits")
        check_tensor(targets, "targets")
        self._rows.look(targets)
        return self.compute(logits, targets)


class _FirstRows:
    """Check of the first dense targets that a loss gets on an accelerator, without waiting for the device.

    The functions check all that are on the CPU. Here the extreme sums of the rows and the smallest entry are copied to
    the host whenever the device comes to it, and looked at in the calls that follow; they are 1 until then.
    """

    def __init__(
        self, measure: Callable[[Tensor], tuple[Tensor, ...]] = row_limits, check: Callable[..., None] = check_rows
    ) -> None:
        self.measure, self.check = measure, check
        self.limits: Tensor | None = None
        self.calls = 0

    def look(self, targets: Tensor) -> None:
        """Start the check, or raise ValueError if the rows of an earlier call have turned out not to sum to 1."""
        device = targets.device.type
        if self.calls > 100 or device in ("cpu", "meta") or torch.compiler.is_compiling():
            return
        if self.limits is not None:
            self.calls += 1
            self.check(*self.limits)
        elif targets.is_floating_point() and targets.ndim > 1 and targets.numel():
            if device == "cuda" and torch.cuda.is_current_stream_capturing():
                return
            found = self.measure(targets)
            # Into pageable memory no copy is asynchronous.
            self.limits = torch.ones(len(found), pin_memory=device == "cuda")
            for kept, limit in zip(self.limits, found, strict=True):
                kept.copy_(limit, non_blocking=True)


def check_class_weights(class_weights: Counts | None, num_classes: int | None = None) -> Tensor | None:
    """Convert class weights [C] to a tensor; raise ValueError if they do not fit."""
    if class_weights is None:
        return None
    weights = by_class(class_weights, "class_weights")
    if weights.ndim != 1 or (num_classes is not None and weights.numel() != num_classes):
        expected = "C" if num_classes is None else str(num_classes)
        raise ValueError(f"`class_weights` must have shape [{expected}], but have {list(weights.shape)}.")
    if weights.dtype == torch.bool:
        raise ValueError("`class_weights` must be numbers, but are torch.bool.")
    if not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        raise ValueError("`class_weights` must be finite and not negative.")
    return weights
