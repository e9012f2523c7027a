"""Between-class learning."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.mixers._base import Mixer, check_batch, take_rows
from ltaug.mixers._counts import CountMixer
from ltaug.mixers.functional import (
    Level,
    between_class_gains,
    between_class_mix,
    between_class_weight,
    broadcast,
    check_level,
    frame_length,
    sound_level,
)
from ltaug.mixers.mixup import MixUp


class BetweenClass(Mixer):
    """Between-class learning: sounds mixed so that they are heard in the ratio of their labels.

    Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282.

    r ~ U(0, 1), y = r y_i + (1 - r) y_j, and x = (p x_i + (1 - p) x_j) / sqrt(p^2 + (1 - p)^2) with
    p = 1 / (1 + 10^((G_i - G_j) / 20) (1 - r) / r), G the levels in dB (:func:`ltaug.mixers.functional.sound_level`):
    a quiet clip is raised against a loud one. The loss is cross-entropy with soft targets; the paper's divergence
    differs from it by the targets' entropy, which no weight changes.

    The paper mixes sounds of different classes only. For pairs over the whole data set that is
    ``PairSampler(..., different_classes=labels)``; with two class-balanced samplers, and without that restriction, it
    is what label-occurrence-balanced mixup does with sounds (Zhang et al., ICASSP 2022,
    https://arxiv.org/abs/2110.04964).

    Args:
        num_classes: C.
        sample_rate: of the waveforms, Hz.
        ratio: a mixer that draws r instead, as it draws its weights, and the partners in the batch:
            ``MixUp(num_classes, alpha)`` for a Beta law, ``UniMix(class_counts, alpha)`` for one that leans to the
            rarer class. One that mixes inputs and labels alike by its weights.
        different_classes: only used for batches that come without partners. Every sample's partner is drawn from those
            of the batch that are of another class, with repetition; a batch of one class alone is permuted. Of
            probabilities the largest one is the class.
        level: "a_weighted"; "rms" for the plain energy, or "loudness" for that of ITU-R BS.1770.
        multi_label: "union" or "convex" for clips with several labels, as in :class:`MixUp`; without
            ``different_classes``, and with a ``ratio`` that does not compare classes.

    Raises:
        ValueError: a rate, level or ratio that will not do; when called, inputs are not waveforms [N, ..., T].

    >>> mixer = BetweenClass(num_classes=3, sample_rate=16000)
    >>> inputs, targets = mixer(torch.randn(4, 16000), torch.tensor([0, 1, 2, 2]))
    >>> inputs.shape, targets.sum(1)
    (torch.Size([4, 16000]), tensor([1., 1., 1., 1.]))
    """

    @checked
    def __init__(
        self,
        num_classes: int,
        sample_rate: float,
        ratio: Mixer | None = None,
        different_classes: bool = False,
        level: Level = "a_weighted",
        multi_label: str | None = None,
    ) -> None:
        super().__init__(num_classes, multi_label)
        frame_length(sample_rate)
        check_level(level, "level")
        self.sample_rate = sample_rate
        self.ratio = MixUp(num_classes) if ratio is None else ratio
        self.different_classes = bool(different_classes)
        self.level = level
        kind = type(self.ratio)
        if not isinstance(self.ratio, Mixer) or kind.mix is not Mixer.mix or kind.__call__ is not Mixer.__call__:
            raise ValueError(
                "`ratio` must be a mixer whose weights mix inputs and labels alike, such as "
                f"`MixUp({num_classes}, alpha=0.5)` or a `UniMix`, but is a {kind.__name__}."
            )
        if self.ratio.num_classes != self.num_classes:
            raise ValueError(f"`ratio` has {self.ratio.num_classes} classes, but `num_classes` is {num_classes}.")
        if multi_label is not None and (different_classes or isinstance(self.ratio, CountMixer)):
            name = "different_classes" if different_classes else "ratio"
            raise ValueError(
                f"`{name}` compares the classes of two clips, one each, but with `multi_label` a clip may have several "
                "labels. Leave it out."
            )
        if different_classes and getattr(self.ratio, "in_batch_tau", None) is not None:
            raise ValueError(
                "`different_classes` and the `in_batch_tau` of `ratio` both choose the partners in the batch: leave "
                "one of them out."
            )

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        """r of every pair, [N]: the label's weight."""
        return self.ratio.weights(targets, partner_targets)

    def expected_weights(self) -> Tensor:
        """Those of ``ratio``, float64 [C, C]; 1/2 by default."""
        return self.ratio.expected_weights()

    def partners(self, targets: Tensor) -> Tensor:
        """Indices into the batch, int64 [N]: as ``ratio`` chooses them, or of another class (``different_classes``)."""
        if not self.different_classes:
            return self.ratio.partners(targets)
        labels = targets.argmax(1) if targets.is_floating_point() and targets.ndim == 2 else targets
        if labels.is_floating_point() or labels.ndim != 1:
            raise ValueError(
                f"`targets` must be one class a sample, [N] or [N, {self.num_classes}], for partners of different "
                f"classes, but are {targets.dtype} of shape {list(targets.shape)}."
            )
        # In the order of the classes, a sample's own class is one run, [start, stop): a draw from the rest skips it.
        ordered, order = labels.sort()
        start = torch.searchsorted(ordered, labels)
        stop = torch.searchsorted(ordered, labels, right=True)
        others = len(labels) - (stop - start)
        # floor(u * n) < n for u < 1 and n < 2**24
        place = (torch.rand(len(labels), device=labels.device) * others).long()
        place += (place >= start) * (stop - start)
        return torch.where(others > 0, order[place % len(labels)], torch.randperm(len(labels), device=labels.device))

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
            inputs: waveforms, floating point [N, ..., T]; left untouched.
            targets: int [N, ...] or probabilities [N, C, ...]; with ``multi_label`` multi-hot rows [N, C, ...].
            partner_inputs: the second sample of every pair, like ``inputs``; by default drawn from the batch.
            partner_targets: their targets; given if and only if ``partner_inputs`` is.

        Returns:
            Mixed inputs like ``inputs``, and probabilities [N, C, ...], or mixed rows.
        """
        if not inputs.is_floating_point() or inputs.ndim < 2:
            raise ValueError(
                f"`inputs` must be waveforms, floating point [N, ..., T], but are {inputs.dtype} of shape "
                f"{list(inputs.shape)}."
            )
        if partner_inputs is not None or partner_targets is not None:
            return super().__call__(inputs, targets, partner_inputs, partner_targets)
        check_batch(inputs, targets)
        self._look(targets)
        if self._rests():
            return inputs, self._unmixed(targets)
        chosen = self.partners(targets)
        partner_targets = targets[chosen]
        ratio = self.weights(targets, partner_targets)
        # A partner's level is known from its own row: half of the work of partners that are given.
        level = sound_level(inputs, self.sample_rate, self.level)
        x_gain, y_gain = between_class_gains(between_class_weight(ratio, level, level[chosen]))
        mixed = take_rows(inputs, chosen).mul_(broadcast(y_gain, inputs)).addcmul_(inputs, broadcast(x_gain, inputs))
        return mixed, self._mix_targets(targets, partner_targets, ratio)

    def mix(
        self, inputs: Tensor, partner_inputs: Tensor, targets: Tensor, partner_targets: Tensor, *, overwrite: bool
    ) -> tuple[Tensor, Tensor]:
        """Mix the inputs; returns them and r, [N]."""
        ratio = self.weights(targets, partner_targets)
        return between_class_mix(inputs, partner_inputs, ratio, self.sample_rate, self.level), ratio

    def __repr__(self) -> str:
        return (
            f"BetweenClass(num_classes={self.num_classes}, sample_rate={self.sample_rate}, ratio={self.ratio}, "
            f"different_classes={self.different_classes}, level={self.level!r}{self._rule()})"
        )
