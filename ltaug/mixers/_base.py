"""Base of the mixers: choice of partners, and mixing of inputs and targets by given weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltaug._arguments import check_labels, check_rows, checked, label_limits, row_limits
from ltaug.mixers.functional import broadcast, check_indices, mix, one_hot


class Mixer:
    """Mix a batch with partners, by weights that a subclass draws.

    Partners are given (a second stream over the whole data set, as in the papers), or else a permutation of the batch.
    Randomness comes from torch's global generator, which differs between ranks when seeded by ``set_seed(...,
    device_specific=True)``.

    Args:
        num_classes: C, the width of the dense targets.
        multi_label: how the targets are mixed where a sample may have several labels, multi-hot rows [N, C, ...]:
            "union", the labels of either sample, the larger of the two entries; or "convex", by the weights. ``None``:
            classes exclude each other, and dense targets are probabilities.

    Attributes:
        mixup_enabled: set it to False to leave batches as they are from then on, as loops of timm do near the end; the
            targets stay dense.
        prob: share of the batches that are mixed, in 0..1; the others are left as they are. Below 1 it is drawn in
            Python, so compile the model, not the mixer.
        ignore_index: class index of positions without a label, such as 255 of label maps [N, H, W]; None: there are
            none. A mixed position without one of its two labels has a row of zeros, which a loss of this library with
            an ``ignore_index`` leaves out.
    """

    mixup_enabled = True
    prob = 1.0
    ignore_index: int | None = None
    _looked = False  # at the labels of a batch on an accelerator
    multi_label: str | None = None

    @checked
    def __init__(self, num_classes: int, multi_label: str | None = None) -> None:
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
        if multi_label not in (None, "union", "convex"):
            raise ValueError(f'`multi_label` must be "union", "convex" or None, but is {multi_label!r}.')
        self.num_classes = int(num_classes)
        self.multi_label = multi_label

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """Draw the weight of the first sample of every pair, [N]."""
        raise NotImplementedError  # what a subclass is for

    def expected_weights(self) -> Tensor:
        """Mean weight of the first sample's label by the classes of the pair, float64 [C, C] by [first, partner].

        :func:`ltaug.analysis.effective_prior` computes with it; a subclass that changes the weights changes it too.
        """
        raise NotImplementedError  # as for `weights`

    def partners(self, targets: Tensor) -> Tensor:
        """Choose partners from the batch where none are given: indices into the batch, int64 [N]."""
        return torch.randperm(targets.shape[0], device=targets.device)

    @checked
    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        partner_inputs: Tensor | None = None,
        partner_targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            inputs: floating point [N, ...], any rank from 1; left untouched.
            targets: int [N, ...] or probabilities [N, C, ...]; with ``multi_label`` multi-hot rows [N, C, ...] of any
                type, 0, 1 or between them.
            partner_inputs: the second sample of every pair, like ``inputs``; by default drawn from the batch.
            partner_targets: their targets; given if and only if ``partner_inputs`` is.

        Returns:
            Mixed inputs like ``inputs``, and probabilities [N, C, ...]; with ``multi_label`` rows in 0..1.

        Raises:
            ValueError: sizes or types do not fit, only one of the two partner arguments is given, or labels are outside
                0..C-1. On an accelerator, which would have to wait, only the first labels are looked at.
        """
        if not inputs.is_floating_point():
            raise ValueError(
                f"`inputs` must be floating point to be mixed, but are {inputs.dtype}. Convert with `.float()`."
            )
        check_batch(inputs, targets)
        if (partner_inputs is None) != (partner_targets is None):
            raise ValueError("`partner_inputs` and `partner_targets` belong together: give both or neither.")
        self._look(targets, partner_targets)
        if self._rests():
            return inputs, self._unmixed(targets)
        if partner_inputs is None or partner_targets is None:
            chosen = self.partners(self._safe(targets))
            partner_targets = targets.index_select(0, chosen)
            pair = self._safe(targets), self._safe(partner_targets)
            # Nobody else holds the gathered partners: mixing into them saves a second tensor of the batch's size.
            mixed, lam = self.mix(inputs, take_rows(inputs, chosen), *pair, overwrite=True)
        else:
            if partner_inputs.shape != inputs.shape:
                raise ValueError(
                    f"`partner_inputs` must have the shape of `inputs`, {list(inputs.shape)}, "
                    f"but have {list(partner_inputs.shape)}."
                )
            if partner_inputs.dtype != inputs.dtype:
                raise ValueError(
                    f"`partner_inputs` must be of the type of `inputs`, {inputs.dtype}, but are {partner_inputs.dtype}."
                )
            check_batch(inputs, partner_targets, "partner_targets")
            pair = self._safe(targets), self._safe(partner_targets)
            mixed, lam = self.mix(inputs, partner_inputs, *pair, overwrite=False)
        return mixed, self._mix_targets(targets, partner_targets, lam)

    def mix(
        self, inputs: Tensor, partner_inputs: Tensor, targets: Tensor, partner_targets: Tensor, *, overwrite: bool
    ) -> tuple[Tensor, Tensor]:
        """Mix the inputs; returns them and the weight of the first sample's label in every pair, [N].

        ``overwrite`` says that ``partner_inputs`` may serve as memory for the result.
        """
        lam = self.weights(targets, partner_targets)
        lerp = partner_inputs.lerp_ if overwrite else partner_inputs.lerp
        return lerp(inputs, broadcast(lam, inputs)), lam

    def _rests(self) -> bool:
        """Whether a batch is left as it is."""
        return not self.mixup_enabled or (self.prob < 1.0 and float(torch.rand(())) >= self.prob)

    def _unmixed(self, targets: Tensor) -> Tensor:
        """Targets in the form of mixed ones."""
        return self._mix_targets(targets, targets, torch.ones(len(targets), device=targets.device))

    def _rule(self) -> str:
        """How targets are mixed, for ``repr``."""
        return "" if self.multi_label is None else f", multi_label={self.multi_label!r}"

    def _look(self, targets: Tensor, partner_targets: Tensor | None = None) -> None:
        """Raise ValueError for flags, and for class indices outside 0..C-1 in the first batch on an accelerator.

        On the CPU every label is checked where it is used, see :meth:`explain`.
        """
        for name, given in (("targets", targets), ("partner_targets", partner_targets)):
            if given is not None and given.dtype == torch.bool and self.multi_label is None:
                raise ValueError(f"`{name}` must be class indices or probabilities, but are torch.bool.")
        if not self._looked and targets.device.type != "cpu":
            self.explain(targets, partner_targets)
            self._looked = True

    def explain(self, targets: Tensor, partner_targets: Tensor | None = None) -> None:
        """Raise ValueError if labels are outside 0..C-1, which torch has called an index out of bounds."""
        if self.multi_label is not None:
            self._check_labels(targets, partner_targets)
            return
        for name, given in (("targets", targets), ("partner_targets", partner_targets)):
            if given is not None:
                check_indices(given if self.ignore_index is None else self._labelled(given)[0], self.num_classes, name)

    def _mix_targets(self, targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
        try:
            return self._mixed_targets(targets, partner_targets, lam)
        except (IndexError, RuntimeError):
            if targets.device.type == "cpu":  # an accelerator that has failed can compute nothing more
                self.explain(targets, partner_targets)
            raise

    def _check_labels(self, *given: Tensor | None) -> None:
        """Raise ValueError unless targets are rows with an entry in 0..1 for each label."""
        for name, rows in zip(("targets", "partner_targets"), given, strict=True):
            if rows is None:
                continue
            if rows.shape[1:2] != (self.num_classes,) and (rows.ndim, self.num_classes) != (1, 1):
                raise ValueError(
                    f"`{name}` must be multi-hot rows [N, {self.num_classes}, ...] for a mixer with `multi_label`, but "
                    f"have shape {list(rows.shape)}. Lists of labels become rows by `ltaug.multi_hot`."
                )
            if rows.dtype != torch.bool and rows.numel():
                check_labels(*label_limits(rows), name=name)

    def _mixed_labels(self, targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
        if targets.device.type == "cpu":
            self._check_labels(targets, partner_targets)
        rows, partner = (
            each if each.is_floating_point() else each.to(lam.dtype) for each in (targets, partner_targets)
        )
        if rows.shape != partner.shape:
            raise ValueError(
                f"`targets` and `partner_targets` must be of one form, but are {list(targets.shape)} and "
                f"{list(partner_targets.shape)}."
            )
        dtype = torch.promote_types(rows.dtype, partner.dtype)
        rows, partner = rows.to(dtype), partner.to(dtype)
        return torch.maximum(rows, partner) if self.multi_label == "union" else mix(rows, partner, lam)

    def _mixed_targets(self, targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
        if self.multi_label is not None:
            return self._mixed_labels(targets, partner_targets, lam)
        indices = not (targets.is_floating_point() or partner_targets.is_floating_point())
        if indices and self.ignore_index is not None:
            (targets, kept), (partner_targets, also) = self._labelled(targets), self._labelled(partner_targets)
            return self._mixed_indices(targets, partner_targets, lam) * (kept & also).unsqueeze(1)
        return self._mixed_indices(targets, partner_targets, lam)

    def _safe(self, targets: Tensor) -> Tensor:
        """Targets that weights can be drawn by: class indices that are ignored are 0, and their rows will be zeros."""
        ignores = self.ignore_index is not None and not targets.is_floating_point()
        return self._labelled(targets)[0] if ignores else targets

    def _labelled(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Class indices with 0 where they are to be ignored, and where they are not."""
        # Not in bytes, in which -100 is 156.
        kept = targets.long().ne(-100 if self.ignore_index is None else self.ignore_index)
        return targets.masked_fill(~kept, 0), kept

    def _one_hot(self, targets: Tensor) -> Tensor:
        """Probabilities of targets, rows of zeros for indices that are ignored."""
        if targets.is_floating_point() or self.ignore_index is None:
            return one_hot(targets, self.num_classes)
        targets, kept = self._labelled(targets)
        return one_hot(targets, self.num_classes) * kept.unsqueeze(1)

    def _mixed_indices(self, targets: Tensor, partner_targets: Tensor, lam: Tensor) -> Tensor:
        indices = not (targets.is_floating_point() or partner_targets.is_floating_point())
        if indices and targets.ndim == partner_targets.ndim == 1:
            # Two numbers a row: cheaper than mixing two dense matrices, and exact where both labels agree.
            dense = lam.new_zeros(targets.shape[0], self.num_classes)
            dense.scatter_(1, targets.long().unsqueeze(1), lam.unsqueeze(1))
            rest = torch.ones_like(lam) - lam  # not 1.0 - lam: a Python number takes three times as long
            return dense.scatter_add_(1, partner_targets.long().unsqueeze(1), rest.unsqueeze(1))
        dense, partner = (one_hot(each, self.num_classes) for each in (targets, partner_targets))
        if dense.shape != partner.shape:
            raise ValueError(
                f"`targets` and `partner_targets` must be of one form, but are {list(targets.shape)} and "
                f"{list(partner_targets.shape)}."
            )
        for name, given in (("targets", targets), ("partner_targets", partner_targets)):
            if given.is_floating_point() and given.device.type == "cpu" and given.numel():
                check_rows(*row_limits(given), name=name)
        dtype = torch.promote_types(dense.dtype, partner.dtype)
        return mix(dense.to(dtype), partner.to(dtype), lam)


def check_batch(inputs: Tensor, targets: Tensor, name: str = "targets") -> None:
    """Raise ValueError unless there is one target a row of the inputs, on their device."""
    if targets.ndim < 1 or inputs.ndim < 1 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"`inputs` and `{name}` must have one row a sample, but have shapes {list(inputs.shape)} and "
            f"{list(targets.shape)}."
        )
    if inputs.device != targets.device:
        raise ValueError(
            f"`inputs` and `{name}` must be on one device, but are on {inputs.device} and {targets.device}. Move them "
            "with `.to(device)`."
        )


def take_rows(inputs: Tensor, chosen: Tensor) -> Tensor:
    """Copy the chosen rows, ``inputs[chosen]``, in the memory layout of ``inputs``, and several times as fast."""
    if torch.compiler.is_compiling():  # whose sizes may be symbols, which cannot be sorted
        return inputs[chosen]
    # index_select copies contiguous rows block-wise and others element by element. Permuted into stride order, rows are
    # contiguous for channels_last batches, too.
    order = sorted(range(1, inputs.ndim), key=inputs.stride, reverse=True)
    back = [1 + order.index(dim) for dim in range(1, inputs.ndim)]
    return inputs.permute(0, *order).index_select(0, chosen).permute(0, *back)


# torch.distributions.Beta calls this: the same draws without its object, which takes longer than they do.
_DIRICHLET = getattr(torch, "_sample_dirichlet", None)


def beta_draws(alpha: float, size: int, device: torch.device) -> Tensor:
    """Draw ``size`` numbers from Beta(alpha, alpha), float32, by the device's global generator."""
    if device.type in ("cpu", "cuda") and _DIRICHLET is not None and not torch.compiler.is_compiling():
        # Not a quotient of two float32 gammas: both underflow to 0 where alpha is small.
        draws: Tensor = _DIRICHLET(torch.full((size, 2), alpha, device=device)).select(1, 0)
        return draws
    # That operator cannot be compiled, and other devices may not have it. For u, v ~ U(0, 1) and
    # q = u^(1 / alpha) / ((1 - u^(1 / alpha)) cos^2(2 pi v)) the absolute value of Student's t with 2 alpha degrees of
    # freedom is sqrt(2 alpha / q) (Bailey, 1994), and so (1 +- 1 / sqrt(1 + q)) / 2 is Beta(alpha, alpha). The smaller
    # weight is computed, and the larger from it: the other way round a small weight would have no digits.
    u, v = torch.rand(2, size, device=device).unbind()
    log = u.log() / alpha
    cosine = torch.cos(2.0 * math.pi * v)
    q = (log.exp() / (-torch.expm1(log) * cosine.square())).clamp(max=1e30)
    root = (1.0 + q).sqrt()
    smaller = 0.5 * q / (root * (1.0 + root))
    return torch.where(cosine < 0.0, smaller, 1.0 - smaller)


def beta_cdf(a: float, b: float, x: Tensor) -> Tensor:
    """Distribution function of Beta(a, b) at x, float64."""
    # Here, not above: no training step needs scipy, so importing the library must not wait for it.
    from scipy.special import betainc

    return torch.as_tensor(betainc(a, b, x.cpu().double().numpy()))


def check_alpha(alpha: float) -> float:
    """Return a Beta parameter as a float; raise ValueError unless it is positive and finite."""
    if isinstance(alpha, str) or not 0.0 < alpha < float("inf"):
        raise ValueError(f"`alpha` is the parameter of Beta(alpha, alpha) and must be positive, but is {alpha!r}.")
    return float(alpha)
