"""Manifold mixup."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ltaug._arguments import checked
from ltaug.mixers.functional import mix
from ltaug.mixers.mixup import MixUp

INPUT = "input"
"""Name of the input itself among the layers."""


class ManifoldMixUp(MixUp):
    """Manifold mixup: mixup of a hidden layer's output, the layer drawn anew for every batch.

    h = lam h_i + (1 - lam) h_j, y = lam y_i + (1 - lam) y_j, lam ~ Beta(alpha, alpha) (Verma et al., ICML 2019,
    https://arxiv.org/abs/1806.05236).

    The model may be any, its code unchanged: :meth:`attach` hooks onto submodules by their names in
    ``model.named_modules()``. A call draws one of the layers. If it is ``"input"``, the batch is mixed as by
    :class:`MixUp`; else the inputs come back as they are (the same tensor), with mixed targets, and the next forward of
    the model in training mode mixes what that layer puts out, once. A model in evaluation mode never mixes. One lam a
    pair, one layer a batch; each of several processes draws its own layer.

    Partners of a second stream go through the model as well, down to the layer: the inputs come back with 2 N rows,
    first the one and then the other stream, the layer's output is mixed to N rows, and so are the logits. Up to the
    layer that costs twice as much, and batch norm sees both streams.

    Attach before wrapping the model (DDP, ``torch.compile``), whose wrappers rename the layers. Not for layers inside
    a region under activation checkpointing: its second forward would not mix.

    Args:
        num_classes: C.
        alpha: parameter of the Beta distribution.
        layers: names to draw from with equal chance; ``"input"`` is the batch itself. A layer must put out one
            tensor with a row a sample, and is mixed at its first call in a forward.

    Raises:
        ValueError: no name, or one twice; when called, sizes do not fit, or there is no model to hook onto.
        RuntimeError: when called, the previous batch was never mixed; in the model's forward, the drawn layer puts out
            something other than one tensor with the batch's rows.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> mixer = ManifoldMixUp(num_classes=3, layers=["input", "1"]).attach(model)
    >>> inputs, targets = mixer(torch.rand(4, 8), torch.tensor([0, 1, 2, 2]))
    >>> model(inputs).shape, targets.shape
    (torch.Size([4, 3]), torch.Size([4, 3]))
    """

    @checked
    def __init__(self, num_classes: int, alpha: float = 1.0, *, layers: Sequence[str]) -> None:
        super().__init__(num_classes, alpha)
        if isinstance(layers, str):
            raise ValueError(f"`layers` must be a list of names, but is a single string. Pass [{layers!r}].")
        if not layers or len(set(layers)) != len(layers):
            raise ValueError(f"`layers` must name at least one layer, and each once, but are {list(layers)}.")
        self.layers = tuple(layers)
        self._model: nn.Module | None = None
        self._handles: list[RemovableHandle] = []
        self._pending: _Pending | None = None

    @checked
    def attach(self, model: nn.Module) -> ManifoldMixUp:
        """Hook onto the named layers of a model.

        Args:
            model: the model that will be run on the mixed batches.

        Returns:
            The mixer itself.

        Raises:
            ValueError: a name is not among the model's submodules, or the mixer is attached already.
        """
        if self._model is not None:
            raise ValueError("`model` cannot be attached, because this mixer has one already. Call `detach()` first.")
        modules = dict(model.named_modules(remove_duplicate=False))
        hidden = [name for name in self.layers if name != INPUT]
        for name in hidden:
            if not name or name not in modules:
                raise ValueError(_unknown(name, [other for other in modules if other]))
        self._model = model
        # A partial of a method, not a closure: it can be pickled, and a deep copy of the model gets its own mixer,
        # which nobody calls, so that an averaged copy of the model never mixes.
        self._handles = [modules[name].register_forward_hook(functools.partial(self._hook, name)) for name in hidden]
        return self

    def detach(self) -> None:
        """Remove the hooks from the model, and forget a batch that waits for its forward."""
        for handle in self._handles:
            handle.remove()
        self._model, self._handles, self._pending = None, [], None

    @checked
    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        partner_inputs: Tensor | None = None,
        partner_targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, or have the model's next forward mix it.

        Args:
            inputs: [N, ...]; left untouched. Floating point if they are to be mixed themselves.
            targets: int [N, ...] or probabilities [N, C, ...].
            partner_inputs: the second sample of every pair, like ``inputs``; by default a permutation of the batch.
            partner_targets: their targets; given if and only if ``partner_inputs`` is.

        Returns:
            Inputs for the model, [N, ...], or [2 N, ...] for a hidden layer and given partners; and probabilities
            [N, C, ...].
        """
        if self._pending is not None:
            raise RuntimeError(
                f"The batch before was to be mixed at layer {self._pending.layer!r}, but no forward of the attached "
                "model in training mode has come through it since. Run the model on every batch that this mixer "
                "returns, before the next; `detach()` and `attach()` forget a batch that was dropped."
            )
        layer = self.layers[0]
        if len(self.layers) > 1:  # a single layer costs no draw: `layers=["input"]` is MixUp, number for number
            layer = self.layers[int(torch.randint(len(self.layers), ()))]
        if layer == INPUT:
            return super().__call__(inputs, targets, partner_inputs, partner_targets)
        if self._model is None:
            raise ValueError(f"`layers` holds {layer!r}, which needs a model: call `attach(model)` first.")
        _check_rows("targets", targets, inputs)
        if (partner_inputs is None) != (partner_targets is None):
            raise ValueError("`partner_inputs` and `partner_targets` belong together: give both or neither.")
        self._look(targets, partner_targets)
        if self._rests():
            return inputs, self._unmixed(targets)
        chosen = None
        if partner_inputs is None or partner_targets is None:
            chosen = self.partners(targets)
            partner_targets = targets[chosen]
        else:
            if partner_inputs.shape != inputs.shape:
                raise ValueError(
                    f"`partner_inputs` must have the shape of `inputs`, {list(inputs.shape)}, "
                    f"but have {list(partner_inputs.shape)}."
                )
            _check_rows("partner_targets", partner_targets, inputs)
            inputs = torch.cat([inputs, partner_inputs])
        lam = self.weights(targets, partner_targets)
        mixed_targets = self._mix_targets(targets, partner_targets, lam)
        self._pending = _Pending(layer, lam, chosen)  # last: a call that failed leaves nothing behind
        return inputs, mixed_targets

    def _hook(self, name: str, module: nn.Module, args: object, output: object) -> Tensor | None:
        pending = self._pending
        if pending is None or pending.layer != name or self._model is None or not self._model.training:
            return None
        self._pending = None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
            raise RuntimeError(
                f"Layer {name!r} must put out one floating-point tensor to be mixed, but its output is of type "
                f"{kind}. Name another layer in `layers`."
            )
        size = len(pending.lam)
        rows = size if pending.chosen is not None else 2 * size
        if output.ndim < 1 or output.shape[0] != rows:
            raise RuntimeError(
                f"Layer {name!r} must put out a row for each of the {rows} that the mixer returned, but its output has "
                f"shape {list(output.shape)}. Feed the model the inputs that the mixer returns, all at once, and name "
                "layers whose first dimension is the batch."
            )
        lam = pending.lam.to(output.device)
        if pending.chosen is not None:
            return mix(output, output.index_select(0, pending.chosen.to(output.device)), lam)
        return mix(output[:size], output[size:], lam)

    def __repr__(self) -> str:
        return f"ManifoldMixUp(num_classes={self.num_classes}, alpha={self.alpha}, layers={list(self.layers)})"


@dataclass
class _Pending:
    """A batch for the next forward to mix: layer, weights, and rows of the partners (``None``: the second half)."""

    layer: str
    lam: Tensor
    chosen: Tensor | None


def _check_rows(name: str, targets: Tensor, inputs: Tensor) -> None:
    if targets.ndim < 1 or inputs.ndim < 1 or targets.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"`inputs` and `{name}` must have one row a sample, but have shapes {list(inputs.shape)} and "
            f"{list(targets.shape)}."
        )


def _unknown(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [other for other in names if name and other.endswith(f".{name}") and other not in near][:3]
    hint = f"Close matches: {', '.join(map(repr, near))}." if near else "`dict(model.named_modules())` lists the names."
    return f"`layers` names {name!r}, which is no submodule of the model. {hint}"
