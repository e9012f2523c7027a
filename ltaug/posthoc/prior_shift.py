"""Wrapper of a model that moves its logits to another class prior."""

from __future__ import annotations

import copy
import math
from collections.abc import MutableMapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ltaug._arguments import check_dense, checked
from ltaug.errors import UserError
from ltaug.posthoc._buffers import PriorBuffers
from ltaug.posthoc.shift import Priors, as_priors, check_classes, difference, shifted
from ltaug.priors import Counts, as_counts

__all__ = ["PriorShift"]


class PriorShift(PriorBuffers):
    """Wrapper that moves the logits of any model to the class prior of the place where it is used.

    :func:`ltaug.shift_logits` as the last layer. The shift is a buffer: it is saved with the model, and moves with it
    (in single precision, whatever type the model is cast to). The target may also come with every batch,
    ``model(inputs, target_prior=...)``, one prior of all rows or one a row. Exported with it, by ``torch.export`` or as
    ONNX, the target is an input of the exported model. Exported without, the shift is the buffer ``shift`` of a
    ``torch.export`` program, which may be changed there, and a constant of an ONNX file.

    A model may return a tensor, as those of timm do, or an object that holds the logits by name: those of transformers
    have ``.logits``, the segmentation models of torchvision ``["out"]``. The wrapper then returns a copy of that object
    with shifted logits; everything else in it, such as a loss, is unchanged.

    Args:
        model: returns logits [N, C, ...], or an object that holds them.
        logits_prior: the prior that the logits are under, [C]: the training prior for a model trained with plain
            cross-entropy, uniform for a prior-corrected one. Counts or probabilities.
        target_prior: the prior to move to, [C]; uniform by default. Or one a row, [N, C], for batches of N rows.
        strength: 1 is Bayes' rule, 0 leaves the logits; :func:`ltaug.search_strength` finds one.
        output: entry or attribute of the logits in an output that is not a tensor.

    Raises:
        ValueError: a class has prior 0, the numbers of classes differ, or ``strength`` is NaN or infinite.

    >>> model = PriorShift(nn.Identity(), logits_prior=[900, 100])
    >>> model(torch.tensor([[0.9, 0.1]]).log()).softmax(1)
    tensor([[0.5000, 0.5000]])
    >>> model.retarget([100, 300])(torch.tensor([[0.9, 0.1]]).log()).softmax(1)
    tensor([[0.2500, 0.7500]])
    """

    logits_prior: Tensor
    shift: Tensor
    strength: Tensor

    @checked
    def __init__(
        self,
        model: nn.Module,
        logits_prior: Counts,
        target_prior: Priors | None = None,
        strength: float = 1.0,
        output: str = "logits",
    ) -> None:
        super().__init__()
        self.model, self.output = model, output
        prior = self._source(logits_prior).cpu()
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("logits_prior", prior.to(dtype))
        # Made from the prior, never anew: inside `torch.device("meta")` new tensors have no values.
        self.register_buffer("strength", torch.ones_like(self.logits_prior[0]))
        self.register_buffer("shift", torch.zeros_like(self.logits_prior))
        self._aim(self._default(prior) if target_prior is None else target_prior, strength, "target_prior")

    @classmethod
    def from_pretrained(
        cls,
        place: str | PathLike[str],
        model: nn.Module | None = None,
        *,
        target_prior: Priors | None = None,
        strength: float = 1.0,
        output: str = "logits",
        revision: str | None = None,
        script: str | None = None,
    ) -> PriorShift:
        """Load a finished run, from its folder or from the hub, and wrap it with the prior that its logits are under.

        The network is ``model``; or the one of timm that ``config.json`` names; or made again by the run's recipe,
        where that is on this machine; or the exported ``model.onnx``, which takes raw inputs, for what has no recipe
        here. Its logits are the run's own in each case: a correction that is saved in the run, see
        :class:`ltaug.correction.Correction`, is left out with its calibrator, and an exported file that has a
        calibrator inside is refused. Files are read as numbers and text: nothing in them is executed.

        Args:
            place: a run folder, a pulled one, or OWNER/NAME on the hub, which is pulled into its client's cache.
            model: a network that takes the weights; for others the run says which one.
            target_prior: see :class:`PriorShift`; uniform by default.
            strength: likewise.
            output: likewise.
            revision: branch, tag or commit, of the hub.
            script: training script of the run's recipe, where the run does not say where that is.

        Returns:
            The wrapper, in evaluation mode, on the CPU.

        Raises:
            UserError: there is no such run, it records no prior of its logits, or no network can be made of it; the
                message says what to do. A ValueError, too.
        """
        from ltaug.hub import load_pretrained

        network, info = load_pretrained(place, model, revision, script)
        prior, wanted = info.get("logits_prior"), "LabelwisePriorShift" if info.get("several_labels") else "PriorShift"
        if cls.__name__ in ("PriorShift", "LabelwisePriorShift") and cls.__name__ != wanted:
            several = "several labels a sample" if info.get("several_labels") else "one class a sample"
            raise UserError(f"{str(place)!r} was trained on {several}: load it by `{wanted}.from_pretrained`.")
        if prior is None:
            raise UserError(
                f"{str(place)!r} records no prior of its logits. Load the network by yourself, and wrap it with the "
                f"prior that they are under: `{cls.__name__}(model, logits_prior=...)`."
            )
        return cls(network, prior, target_prior, strength, output).eval()

    def _source(self, prior: Any) -> Tensor:
        """Read the prior that the logits are under, float64 [C]."""
        counts = as_counts(prior, "logits_prior", integers=False, positive=True).double()
        return counts / counts.sum()

    def _default(self, prior: Tensor) -> Tensor:
        """The prior that is moved to if none is given."""
        return torch.ones_like(prior)

    def _target(self, prior: Any, name: str) -> Tensor:
        """Read a prior to move to, [C] or [N, C]."""
        return as_priors(prior, name)

    def _difference(self, source: Tensor, target: Tensor) -> Tensor:
        """What a strength of 1 adds to the logits, [C] or [N, C]."""
        return difference(source, target)

    @checked
    def retarget(self, prior: Priors, strength: float | None = None) -> PriorShift:
        """Change the target prior.

        Args:
            prior: the new target, [C]; from :func:`ltaug.labelshift.estimate_prior`, for instance. Or one a row,
                [N, C], of the next batches, which then have N rows each.
            strength: the new strength; by default it stays.

        Returns:
            The wrapper itself.

        Raises:
            ValueError: a class has prior 0, the numbers of classes differ, or ``strength`` is NaN or infinite.
        """
        self._aim(prior, float(self.strength) if strength is None else strength, "prior")
        return self

    def _aim(self, prior: Priors, strength: float, name: str) -> None:
        target = self._target(prior, name).cpu()
        check_classes(target, self.logits_prior.numel(), name, "logits_prior")
        if not math.isfinite(strength):
            raise ValueError(f"`strength` must be finite, but is {strength}. 0 leaves the logits, 1 is Bayes' rule.")
        shift = strength * self._difference(self.logits_prior.cpu().double(), target)
        with torch.no_grad():
            self.strength.fill_(strength)
            if shift.shape == self.shift.shape:
                self.shift.copy_(shift)  # in place, so that compiled code and CUDA graphs see it
            else:
                self.shift = shift.to(self.shift)

    def forward(self, inputs: Any = None, *more: Any, target_prior: Priors | None = None, **options: Any) -> Any:
        """The model's output, with its logits [N, C, ...] under the target prior.

        Args:
            inputs: what the model takes first.
            *more: what else it takes.
            target_prior: the prior to move to, [C], or one a row, [N, C], instead of the wrapper's; all positive.
            **options: what it takes by keyword.
        """
        # `inputs` has a name, which torch.export takes over, but models of transformers are called by keywords alone.
        answer = self.model(**options) if inputs is None and not more else self.model(inputs, *more, **options)
        if isinstance(answer, Tensor):
            return self.moved(answer, target_prior)
        by_key = isinstance(answer, MutableMapping)
        logits = answer.get(self.output) if by_key else getattr(answer, self.output, None)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"`model` must return logits, or an object that holds them as `{self.output}`, but it returned "
                "something without them. Name their place by `output=`, or wrap the model so that it returns logits."
            )
        if isinstance(answer, tuple):  # a named one
            return answer._replace(**{self.output: self.moved(logits, target_prior)})  # type: ignore[attr-defined]
        answer = copy.copy(answer)
        if by_key:
            answer[self.output] = self.moved(logits, target_prior)
        else:
            setattr(answer, self.output, self.moved(logits, target_prior))
        return answer

    def moved(self, logits: Tensor, target_prior: Priors | None = None) -> Tensor:
        """Move logits of the model, [N, C, ...], to the target prior."""
        check_dense(logits, "logits")
        classes = self.logits_prior.numel()
        if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[1] != classes:
            raise ValueError(
                f"`model` must return floating-point logits of shape [N, {classes}, ...], one class for each of "
                f"`logits_prior`, but returned {logits.dtype} of shape {list(logits.shape)}."
            )
        if target_prior is None:
            return shifted(logits, self.shift)
        target = self._target(target_prior, "target_prior").to(self.shift.dtype)
        check_classes(target, classes, "target_prior", "logits_prior")
        return shifted(logits, self.strength * self._difference(self.logits_prior, target))

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"num_classes={self.logits_prior.numel()}, strength={float(self.strength):g}"
