"""Correction of finished logits for another class mix: calibrate, estimate the mix, shift."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltaug._arguments import as_number
from ltaug.labelshift import estimate_prior
from ltaug.longtail import shifted_sets
from ltaug.metrics import classification_report, expected_calibration_error
from ltaug.posthoc import (
    BiasCorrectedTemperatureScaling,
    StructuredMatrixScaling,
    TemperatureScaling,
    VectorScaling,
    _saved,
    search_strength,
    shift_logits,
    strength_curve,
)
from ltaug.posthoc._buffers import PriorBuffers
from ltaug.posthoc.shift import Given, Logits, Priors, as_logits, as_priors, like
from ltaug.priors import Counts, as_array, as_counts, as_labels, class_counts, class_prior, on_wide_device

__all__ = [
    "CALIBRATORS",
    "ESTIMATES",
    "KNOWN_OF_THE_MIX",
    "STRENGTHS",
    "Correction",
    "prior_estimators",
    "shifted_accuracy",
    "tuned_strength",
]

PriorEstimator = Callable[[Tensor, Tensor], Tensor]
"""Estimates a class prior [C] from unlabelled logits [N, C] and the prior that they are under [C]."""
CALIBRATORS: dict[str, Callable[[int], nn.Module]] = {
    "temperature": lambda num_classes: TemperatureScaling(),
    "vector": VectorScaling,
    "bias_corrected": BiasCorrectedTemperatureScaling,
    "structured_matrix": StructuredMatrixScaling,
}
"""What makes a calibrator for so many classes, by name."""
ESTIMATES = ("estimate", "trend", "center")
"""Names of the ways to estimate a prior, see :func:`prior_estimators`."""
KNOWN_OF_THE_MIX = {
    "none": "nothing is known of the test set's class mix: the logits as trained",
    "calibrated": "nothing is known of it, but the logits are calibrated",
    "given": "the mix is known",
    "estimated": "it is estimated from the unlabelled test samples, every class freely",
    "trend": "it is estimated, but only how far it leans to the classes that training had more of",
    "center": "it is estimated, every class freely, but pulled towards the trend",
    "kept": "share of what the given mix gains, where that exceeds a point",
}
"""Rows of :func:`shifted_accuracy` and what they mean; "kept" ends the names of several."""
STRENGTHS = {"auto": "", "search": "paper", "grid": "grid"}
"""Ways to find a strength, see :func:`tuned_strength`, and their methods of :func:`ltaug.search_strength`."""
LARGEST_STRENGTH = 3.0
"""End of the search for a strength; the largest of the paper (IC, Tian et al., NeurIPS 2020) is 2.1."""


class Correction(PriorBuffers):
    """Calibrate logits, then shift them to another class prior.

    Calibrated logits stay under the prior of the model, and the shift is that of :func:`ltaug.shift_logits`,

        z_j + strength * (log target_j - log source_j)

    A module: its priors are buffers and its calibrator is a part of it; it moves and is exported with a model, and
    :meth:`save` keeps it in two small files. Tensors give tensors; NumPy arrays and lists give arrays.

    Args:
        logits_prior: prior that the logits are under, [C].
        target_prior: prior to correct for, [C], or one a row, [N, C]; or an estimator, which is asked for the prior of
            the very logits that are corrected, unless :meth:`estimate` has named others or a checkpoint has brought a
            prior, see :func:`prior_estimators`; or None for no shift.
        strength: of the shift, from 0; or how it is found on the labelled samples of :meth:`tune`, see
            :func:`tuned_strength`: "search" as in IC (Tian et al., NeurIPS 2020, https://arxiv.org/abs/2010.11820),
            "grid", or "auto", which is ours.
        calibrator: one of :mod:`ltaug.posthoc`, fitted by :meth:`tune`; or None.
        class_names: C names, which are saved with it; or None.

    Attributes:
        tunes: whether labelled samples are needed, see :meth:`tune`. Never those whose result is reported.
        target: prior to correct for, float64 [C]: as given, or as last estimated; None before, and without a shift.
        strength: as given, or as last found; None before.
        strength_by: how it is found, or None where it is given.
        curve: of a search, {"strengths": [...], "accuracy": [...]}, or None.

    Raises:
        ValueError: a prior is not positive, or has another number of classes; a strength is negative or another word.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1, 1])
    >>> correction = Correction([0.9, 0.1], target_prior=[0.5, 0.5])
    >>> correction(logits).argmax(1)
    tensor([1, 1, 1])
    >>> correction(logits.tolist(), target_prior=[[0.5, 0.5], [0.9, 0.1], [0.99, 0.01]]).argmax(1)
    array([1, 0, 0])
    """

    logits_prior: Tensor
    target: Tensor | None

    def __init__(
        self,
        logits_prior: Counts,
        target_prior: Priors | PriorEstimator | None = None,
        strength: float | str = 1.0,
        calibrator: nn.Module | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("logits_prior", _positive_prior(logits_prior, "logits_prior"))
        if self.logits_prior.ndim != 1:
            shape = list(self.logits_prior.shape)
            raise ValueError(f"`logits_prior` must hold one number a class, shape [C], but has shape {shape}.")
        self._estimator: PriorEstimator | None = None
        self._anew = callable(target_prior)  # whether it is asked for every call
        target = None
        if callable(target_prior):
            self._estimator = target_prior
        elif target_prior is not None:
            target = _positive_prior(target_prior, "target_prior")
            if target.shape[-1] != len(self.logits_prior):
                raise ValueError(
                    f"`target_prior` must have one number a class, {len(self.logits_prior)} as `logits_prior`, but has "
                    f"{target.shape[-1]}."
                )
        self.register_buffer("target", target)
        if strength not in STRENGTHS and (isinstance(strength, str) or not 0.0 <= strength < math.inf):
            raise ValueError(f"`strength` must be a number from 0, {', '.join(STRENGTHS)}, but is {strength!r}.")
        self.strength_by = strength if isinstance(strength, str) else None
        self.strength = None if isinstance(strength, str) else as_number(strength, "strength")
        self.calibrator = calibrator
        self._searches = target_prior is not None and self.strength_by is not None
        self.tunes = self._searches or calibrator is not None
        self.curve: dict[str, list[float]] | None = None
        self._tuned = False
        self._held_out: tuple[Tensor, Tensor] | None = None
        self.class_names = None if class_names is None else list(class_names)
        if self.class_names is not None and len(self.class_names) != len(self.logits_prior):
            raise ValueError(
                f"`class_names` must be {len(self.logits_prior)}, one for each class of `logits_prior`, but are "
                f"{len(self.class_names)}."
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers that it corrects by now: priors, strength and calibrator."""
        found = hashlib.sha256(type(self.calibrator).__name__.encode())
        for name, values in sorted(self.state_dict().items()):
            found.update(f"{name} {list(values.shape)} ".encode() + values.detach().cpu().double().numpy().tobytes())
        return found.hexdigest()

    @property
    def target_prior(self) -> Tensor | PriorEstimator | None:
        """Prior to correct for, [C] or [N, C], or what estimates it."""
        return self._estimator if self._anew else self.target

    def tune(self, logits: Logits, labels: Counts, ignore_index: int | None = None) -> None:
        """Fit the calibrator, and keep what a strength is searched on: labelled samples that nothing was trained on.

        Args:
            logits: as the model gives them, float [N, C, ...].
            labels: int [N, ...], of any class mix; for segmentation [N, H, W].
            ignore_index: a label whose samples, or positions, are left out, such as 255.

        Raises:
            ValueError: there are none, or shapes do not fit.
        """
        logits, labels, _ = _labelled_rows(logits, labels, ignore_index)
        if not len(labels):
            raise ValueError("`labels` must be those of held-out samples, but there are none to tune on.")
        if self.calibrator is not None:
            self.calibrator.fit(logits, labels, logits_prior=self.logits_prior)  # type: ignore[operator]
        self._tuned = True
        self._held_out = (self.calibrate(logits), labels)

    def estimate(self, logits: Given) -> Given:
        """Estimate the prior to correct for from unlabelled samples of the place where the model is used, and keep it.

        Without it, an estimator is asked anew for the prior of the very logits of each call, which must then be many.
        Call it again for newer samples.

        Args:
            logits: of those samples, as the model gives them, float [N, C].

        Returns:
            The prior, float64 [C], which :meth:`forward` corrects for from now on.

        Raises:
            ValueError: the target prior is given, or the calibrator is not fitted yet, see :meth:`tune`.
        """
        if self._estimator is None:
            raise ValueError(
                "`target_prior` is given, so there is nothing to estimate. Make the correction with one of "
                "`prior_estimators(class_counts)` as its `target_prior`."
            )
        self.target = self._estimated(self.calibrate(as_logits(logits)))
        self._anew = False
        return like(logits, self.target)

    def calibrate(self, logits: Given) -> Given:
        """Calibrated logits, [N, C], under the same prior; the same logits where there is no calibrator.

        Raises:
            ValueError: the calibrator is not fitted yet, see :meth:`tune`.
        """
        tensor = as_logits(logits)
        if self.calibrator is None:
            return like(logits, tensor)
        if not self._tuned:
            raise ValueError("The calibrator is not fitted yet: call `tune` first.")
        calibrated: Tensor = self.calibrator(tensor)
        return like(logits, calibrated)

    def forward(self, logits: Given, target_prior: Priors | None = None) -> Given:
        """Calibrated and shifted logits, [N, C]. An estimated prior is that of these N samples.

        Args:
            logits: as the model gives them, float [N, C].
            target_prior: prior to correct for, [C], or one a row, [N, C], instead of the correction's own. Exported
                with it, it is an input of the exported correction.

        Raises:
            ValueError: what is asked for needs :meth:`tune` first, or a prior does not fit the logits.
        """
        tensor = self.calibrate(as_logits(logits))
        if target_prior is None:
            if self._anew:
                self.target = self._estimated(tensor)
            target_prior = self.target
        if target_prior is None:
            return like(logits, tensor)
        return like(logits, shift_logits(tensor, self.logits_prior, target_prior, self._strength_for(target_prior)))

    def _estimated(self, logits: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or self._estimator is None:
            raise ValueError("The prior is estimated anew for every call: fix it with `estimate` before an export.")
        found = self._estimator(logits, self.logits_prior)
        return found.clamp(min=1e-9)  # a class that it finds none of keeps a finite logit

    def _strength_for(self, target: Priors) -> float:
        """The strength for a target, searched anew where there are held-out samples to search it on."""
        if self._searches and self._held_out is not None and not torch.compiler.is_compiling():
            prior = as_priors(target, "target_prior")
            if prior.ndim == 2:
                raise ValueError("`strength` cannot be searched for a prior a row: give a number.")
            how = str(self.strength_by)
            self.strength, self.curve = tuned_strength(*self._held_out, self.logits_prior, prior, how)
        if self.strength is None:
            raise ValueError(f"`strength` {self.strength_by} needs labelled samples: call `tune` first.")
        return self.strength

    # -- files and checkpoints -----------------------------------------------------------------------------------------

    def save(self, path: _saved.Place) -> Path:
        """Keep it in two files, STEM.safetensors with its numbers and STEM.json with class names, strength and kinds.

        What is saved corrects as this one does now, for the prior last estimated and at the strength last found.

        Args:
            path: a folder, where they are called correction; or their stem.

        Returns:
            The path of the former, which :meth:`load` takes, as it does the folder and the stem.

        Raises:
            ValueError: its calibrator is none of :data:`CALIBRATORS`, or something is yet to be fitted or found.
        """
        names = [name for name, make in CALIBRATORS.items() if type(make(2)) is type(self.calibrator)]
        if self.calibrator is not None and not (names and self._tuned):
            raise ValueError(
                "The calibrator is not fitted yet: call `tune` first."
                if names
                else f"`calibrator` must be one of {', '.join(CALIBRATORS)} to be saved, but is a "
                f"{type(self.calibrator).__name__}. Keep its `state_dict` by yourself."
            )
        if self._anew and self.target is None:
            raise ValueError("`target_prior` is not estimated yet: call `estimate` on unlabelled samples first.")
        if self.strength is None and self.target is not None:
            raise ValueError("`strength` is not found yet: call `tune`, and correct some logits.")
        info = {
            "class_names": self.class_names,
            "num_classes": len(self.logits_prior),
            "calibrator": names[0] if names else None,
            "shifts": self.target is not None,
            "strength": self.strength,
            "strength_by": self.strength_by,
        }
        return _saved.write(path, "correction", self.state_dict(), info)

    @classmethod
    def load(cls, path: _saved.Place) -> Correction:
        """Load what :meth:`save` has kept, on the CPU: ready to correct, without what it was tuned on.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file is damaged, or the two do not belong together.

        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = Correction([0.9, 0.1], [0.5, 0.5], class_names=["cat", "dog"]).save(folder)
        >>> Correction.load(folder)(torch.tensor([[2.0, 0.0]])).argmax(1)
        tensor([1])
        """
        tensors, info = _saved.read(path, "correction")
        try:
            kind, size = info["calibrator"], int(info["num_classes"])
            calibrator = None if kind is None else CALIBRATORS[kind](size)
            source, target = tensors["logits_prior"], tensors.get("target")
            strength = 1.0 if info["strength"] is None else info["strength"]  # of no shift, there may be none
            loaded = cls(source, target, strength, calibrator, info["class_names"])
            loaded.load_state_dict(tensors)
            if (loaded.strength, target is not None, len(source)) != (info["strength"], info["shifts"], size):
                raise ValueError("strength, target or number of classes differ")
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"The two files of `{path}` do not belong together, or are of another version: {error}. Save the "
                "correction again."
            ) from error
        loaded.strength_by, loaded.tunes = info.get("strength_by"), False
        return loaded

    def get_extra_state(self) -> Tensor:
        """Strength and whether it is tuned, as numbers, since checkpoints hold tensors."""
        strength = math.nan if self.strength is None else self.strength
        return torch.tensor([strength, float(self._tuned)], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` has returned."""
        strength, tuned = state.tolist()
        self.strength, self._tuned, self._held_out = None if math.isnan(strength) else strength, bool(tuned), None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        found = state_dict.get(f"{prefix}target")
        if found is not None and (self.target is None or self.target.shape != found.shape):
            self.target = torch.ones(found.shape, dtype=found.dtype, device=self.logits_prior.device)
        self._anew = self._anew and found is None  # or else the next call would estimate over it
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    # -- labelled test logits ------------------------------------------------------------------------------------------

    def evaluate(
        self, logits: Given, labels: Counts, class_counts: Counts, ignore_index: int | None = None
    ) -> dict[str, Any]:
        """Correct labelled test logits, and compare them with what they were.

        Args:
            logits: of the test set, as the model gives them, float [N, C, ...].
            labels: int [N, ...]; for segmentation [N, H, W], where every position counts as a sample.
            class_counts: training samples (or positions) a class, [C], of which shot groups are made.
            ignore_index: a label whose samples, or positions, are left out, such as 255; also of an estimate.

        Returns:
            Metrics by name, each a mapping as :func:`ltaug.metrics.classification_report` returns it, and `ece20`:
            `uncorrected`, `calibrated` (None where nothing is both calibrated and shifted) and `final`.
            `top1_on_target`: accuracy `uncorrected` and `corrected`, with the test samples weighted to the target
            prior; as they are where that was estimated from them, since weighted to itself even a wrong estimate looks
            right, or is one a row.
            `target_prior`, `strength`, `strength_by`, `strength_curve`: what was corrected for, and how.

        Raises:
            ValueError: shapes do not fit, a label is none of the classes, or none is left.
        """
        counts, shape = as_counts(class_counts), as_logits(logits).shape
        raw, labels, kept = _labelled_rows(logits, labels, ignore_index)
        if not len(labels):
            raise ValueError("`labels` must be those of test samples, but there are none to evaluate on.")
        if self.target is not None and self.target.ndim == 2:  # that of each sample, for all of its positions
            own = on_wide_device(self.target)
            if len(own) != len(kept):  # or of each position
                own = own.repeat_interleave(math.prod(shape[2:]), 0)
            corrected = self(raw, own[kept.to(own.device)] if len(own) == len(kept) else self.target)
        else:
            corrected = self(raw)
        target = self.target
        if target is None or target.ndim == 2 or self._anew:
            target = class_prior(_counts(labels, len(self.logits_prior)))
        both = self.target_prior is not None and self.calibrator is not None
        return {
            "target_prior": None if self.target is None else like(logits, self.target),
            "strength": None if self.target_prior is None else self.strength,
            "strength_by": None if self.target_prior is None else self.strength_by,
            "strength_curve": self.curve,
            "uncorrected": _report(raw, labels, counts),
            "calibrated": _report(self.calibrate(raw), labels, counts) if both else None,
            "final": _report(corrected, labels, counts),
            "top1_on_target": {
                "uncorrected": weighted_accuracy(raw, labels, target),
                "corrected": weighted_accuracy(corrected, labels, target),
            },
        }

    def evaluate_folds(
        self, logits: Given, labels: Counts, class_counts: Counts, folds: int = 3, seed: int = 0
    ) -> dict[str, Any]:
        """Tune on one part of the test samples and test on the others, with each part in turn: mean and spread.

        For sets whose only labelled samples are those of the test, as in IC, section 4.3 and Table 3: iNaturalist's
        validation set in three parts. Every part has as even a share of each class as can be.

        Args:
            logits: see :meth:`evaluate`.
            labels: see :meth:`evaluate`.
            class_counts: see :meth:`evaluate`.
            folds: number of parts.
            seed: of the parting.

        Returns:
            As :meth:`evaluate`, with means over the folds; `strengths` of the folds instead of a `strength_curve`, and
            `spread`, the standard deviations (over n - 1) of `strength` and of the metrics `uncorrected` and `final`.

        Raises:
            ValueError: there are fewer than two folds, or more than samples.
        """
        raw, labels = _labelled(logits, labels)
        if not 2 <= folds <= len(labels):
            raise ValueError(f"`folds` must be 2 to {len(labels)}, the number of samples, but is {folds}.")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        order = order[labels[order].argsort(stable=True)]  # by class, so that its samples are dealt out evenly
        found = []
        for fold in range(folds):
            mine = torch.arange(len(labels)) % folds == fold
            self.tune(raw[order[mine]], labels[order[mine]])
            found.append(self.evaluate(raw[order[~mine]], labels[order[~mine]], class_counts))

        def over_folds(of: Callable[[Sequence[Any]], Any], *keys: str) -> dict[str, Any]:
            return {key: _across([each[key] for each in found], of) for key in keys}

        metrics = ("uncorrected", "calibrated", "final", "top1_on_target")
        target = _across([each["target_prior"] for each in found], _mean)
        return {
            "target_prior": None if target is None else like(logits, target),
            **over_folds(_mean, "strength", *metrics),
            "strength_by": found[0]["strength_by"],
            "strength_curve": None,
            "strengths": [each["strength"] for each in found],
            "spread": over_folds(_deviation, "strength", "uncorrected", "final"),
        }


def prior_estimators(class_counts: Counts) -> dict[str, PriorEstimator]:
    """Ways to estimate the class prior of unlabelled logits, by :func:`ltaug.labelshift.estimate_prior`.

    ========== ========================================================================================================
    "estimate" every class freely; with many classes or few samples this may be worse than no correction
    "trend"    prior ~ n^t with the training counts n: a single number
    "center"   every class, but pulled towards the trend
    ========== ========================================================================================================

    Args:
        class_counts: training samples a class, [C], each at least 1 for "trend" and "center".

    >>> estimate = prior_estimators([90, 10])["trend"]
    >>> estimate(torch.tensor([[0.0, 2.0]] * 9 + [[2.0, 0.0]]), torch.tensor([0.9, 0.1])).argmax()
    tensor(1)
    """
    counts = as_counts(class_counts)

    def log_counts() -> Tensor:
        if not bool((counts > 0).all()):
            k = int((counts <= 0).nonzero()[0, 0])
            raise ValueError(
                f"A trend along the training counts needs training samples of every class, but class {k} has none."
            )
        return counts.double().log()

    def trend(logits: Tensor, logits_prior: Tensor) -> Tensor:
        return estimate_prior(logits, logits_prior, trend=log_counts())

    def center(logits: Tensor, logits_prior: Tensor) -> Tensor:
        # A steep trend of counts far apart leaves classes without any share in floating point.
        return estimate_prior(logits, logits_prior, center=trend(logits, logits_prior).clamp(min=1e-30))

    return dict(zip(ESTIMATES, (functools.partial(estimate_prior), trend, center), strict=True))


def shifted_accuracy(
    logits: Logits, labels: Counts, class_counts: Counts, logits_prior: Counts, calibrated: Logits | None = None
) -> dict[str, dict[str, float]]:
    """Top-1 on LADE's test sets of other class mixes (:func:`ltaug.longtail.shifted_sets`), by what is known of each.

    The rows are those of :data:`KNOWN_OF_THE_MIX`, "calibrated" only if ``calibrated`` is given.

    Args:
        logits: of a balanced test set, as the model gives them, [N, C].
        labels: int [N].
        class_counts: training samples a class, [C].
        logits_prior: prior that the logits are under, [C].
        calibrated: the same logits, calibrated, which the corrections then start from.

    Returns:
        Accuracy by these names and by test set; and in rows "estimated, kept" and so on, which share of what the given
        prior gains an estimate keeps (over calibrated logits, if there are any, so that calibration's own gain does not
        count), NaN where that gain is below a point, so that the share would be noise.
    """
    logits, labels = _labelled(logits, labels)
    counts, source = as_counts(class_counts), class_prior(logits_prior)
    start = logits if calibrated is None else on_wide_device(as_logits(calibrated, "calibrated"))
    names = {"estimated": "estimate", "trend": "trend", "center": "center"}
    estimators = prior_estimators(counts)
    accuracy: dict[str, dict[str, float]] = {"none": {}}
    if calibrated is not None:
        accuracy["calibrated"] = {}
    accuracy |= {row: {} for row in ("given", *names)}
    sets = shifted_sets(labels, counts)
    for name, chosen in sets.items():
        mine, z = labels[chosen], start[chosen]
        accuracy["none"][name] = _top1(logits[chosen], mine)
        if calibrated is not None:
            accuracy["calibrated"][name] = _top1(z, mine)
        # A class without test samples, or of which an estimate finds none, keeps a finite logit.
        accuracy["given"][name] = _top1(shift_logits(z, source, _counts(mine, len(source)).clamp(min=0.5)), mine)
        for row, estimator in names.items():
            target = estimators[estimator](z, source).clamp(min=1e-9)
            accuracy[row][name] = _top1(shift_logits(z, source, target), mine)
    before = accuracy["none" if calibrated is None else "calibrated"]
    for row in names:
        gains = {name: (accuracy["given"][name] - before[name], accuracy[row][name] - before[name]) for name in sets}
        accuracy[f"{row}, kept"] = {
            name: own / gain if gain > 0.01 else math.nan for name, (gain, own) in gains.items()
        }
    return accuracy


def tuned_strength(
    logits: Logits, labels: Counts, source: Counts, target: Counts, method: str = "auto"
) -> tuple[float, dict[str, list[float]]]:
    """Find the strength with the best accuracy on a labelled set weighted towards a target prior.

    ======== ==========================================================================================================
    "search" Algorithm 2 of IC (Tian et al., NeurIPS 2020, https://arxiv.org/abs/2010.11820) as printed,
             ``search_strength(method="paper")``, up to 3
    "grid"   of 0, 0.1, ..., 3 the best, of equals the middle one
    "auto"   ours and the default. Accuracy on few samples is a ragged and often flat curve: of those within a standard
             error of the best, that of the difference on the same samples, the one closest to 1, which is Bayes' rule
    ======== ==========================================================================================================

    Classes without a labelled sample are left out of it: predicting them could only lose, so that any strength which
    takes them away would look good.

    Args:
        logits: [N, C].
        labels: int [N].
        source: prior that the logits are under, [C].
        target: prior to correct for, [C].
        method: "search", "grid" or "auto".

    Returns:
        The strength, and {"strengths": [...], "accuracy": [...]} of the whole grid.

    Raises:
        ValueError: some classes have no sample, and the shift of the others is the same at any strength.
    """
    logits, labels = _labelled(logits, labels)
    source, target = (
        as_counts(prior, name, integers=False, positive=True).to(labels.device)
        for prior, name in ((source, "source"), (target, "target"))
    )
    there = torch.unique(labels)
    if len(there) < len(source):
        shift = (target[there] / source[there]).log()
        if float(shift.max() - shift.min()) < 1e-6:
            raise ValueError(
                f"`labels` of the held-out samples are of {len(there)} of {len(source)} classes, all of which are "
                "shifted alike: they say nothing of a strength. Hold out samples of every class, or tune on parts of "
                "the test samples (folds)."
            )
        logits, labels = logits[:, there], torch.searchsorted(there, labels)
        source, target = source[there], target[there]
    weights = _weights_towards(target, labels)
    hits: dict[float, Tensor] = {}

    def score(strength: float) -> float:
        hits[strength] = (shift_logits(logits, source, target, strength).argmax(1) == labels).double()
        return float((weights * hits[strength]).sum())

    strengths, accuracy = strength_curve(score, limit=LARGEST_STRENGTH)
    curve = {"strengths": strengths, "accuracy": accuracy}
    if STRENGTHS[method]:
        scored = dict(zip(strengths, accuracy, strict=True))
        return search_strength(scored.__getitem__, limit=LARGEST_STRENGTH, method=STRENGTHS[method]), curve
    best = strengths[max(range(len(strengths)), key=accuracy.__getitem__)]
    gaps = {strength: weights * (hits[best] - hit) for strength, hit in hits.items()}
    as_good = [strength for strength, gap in gaps.items() if float(gap.sum()) <= float(gap.square().sum().sqrt())]
    chosen = min(as_good, key=lambda strength: (abs(strength - 1.0), strength))
    return chosen, curve


def _report(logits: Tensor, labels: Tensor, counts: Tensor) -> dict[str, float]:
    """The report of logits, and the ECE of 20 bins, which LADE (Hong et al., CVPR 2021) prints."""
    probs = logits.softmax(1)
    found = classification_report(probs, labels, counts)
    return {**found, "ece20": expected_calibration_error(probs, labels, bins=20)}


def weighted_accuracy(logits: Tensor, labels: Tensor, prior: Tensor) -> float:
    """Top-1 accuracy on a labelled set, weighted so that the classes it has follow another prior."""
    return float((_weights_towards(prior, labels) * (logits.argmax(1) == labels)).sum())


def _weights_towards(prior: Tensor, labels: Tensor) -> Tensor:
    """Sample weights under which the classes of a labelled set have another prior; they sum to 1."""
    weights = (prior.double() / _counts(labels, len(prior)).clamp(min=1))[labels]
    return weights / weights.sum()


def _labelled(logits: Logits, labels: Counts) -> tuple[Tensor, Tensor]:
    """Logits and their labels as tensors, where there is float64."""
    return on_wide_device(as_logits(logits)), on_wide_device(as_labels(labels))


def _labelled_rows(logits: Logits, labels: Counts, ignore_index: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, C, ...] and labels [N, ...] as rows, [N', C] and [N'], and which of all rows these are."""
    z = on_wide_device(as_logits(logits))
    y = on_wide_device(as_array(labels, "labels")).to(z.device)
    if z.ndim < 2 or y.shape != (z.shape[0], *z.shape[2:]):
        raise ValueError(
            "`labels` must be one class index for each sample or position of `logits` [N, C, ...], shape [N, ...], but "
            f"have shape {list(y.shape)} for logits of shape {list(z.shape)}."
        )
    rows, flat = z.movedim(1, -1).flatten(0, -2), as_labels(y.flatten())
    kept = torch.ones_like(flat, dtype=torch.bool) if ignore_index is None else flat != ignore_index
    rows, flat = rows[kept], flat[kept]
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < z.shape[1]:
        raise ValueError(
            f"`labels` must lie in 0..{z.shape[1] - 1}, the classes of `logits`, but range from {int(flat.min())} to "
            f"{int(flat.max())}. Leave out samples without a label by `ignore_index`."
        )
    return rows, flat, kept


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return class_counts(labels, num_classes).double()


def _across(values: Sequence[Any], of: Callable[[Sequence[Any]], Any]) -> Any:
    """A number of several, or of each entry of several mappings of numbers; None where there are none."""
    if isinstance(values[0], Mapping):
        return {key: _across([each[key] for each in values], of) for key in values[0]}
    return None if values[0] is None else of(values)


def _mean(values: Sequence[Any]) -> Any:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std())


def _positive_prior(values: Priors, name: str) -> Tensor:
    prior = as_priors(values, name)
    total = prior.sum(-1, keepdim=True)
    if not bool(total.isfinite().all()):  # the sum of numbers near the largest that there is
        return _positive_prior(prior / prior.amax(-1, keepdim=True), name)
    return prior / total


def _top1(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
