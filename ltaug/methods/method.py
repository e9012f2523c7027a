"""A method: names and numbers, true for any modality."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import torch

from ltaug.errors import did_you_mean
from ltaug.priors import (
    Counts,
    Labels,
    as_counts,
    as_labels,
    class_counts,
    holds_several,
    label_counts,
    label_pairs,
    rarest_label,
)

if TYPE_CHECKING:
    from ltaug.methods.plan import TrainingPlan

__all__ = ["Method"]

_MULTI_LABEL: dict[str, tuple[Any, ...]] = {
    "mixer": ("none", "mixup", "cutmix", "between_class"),
    "different_classes": (False,),
    "loss": ("ce", "prior_corrected", "distribution_balanced"),
    "class_weights": ("none",),
    "classifier": ("linear", "crt", "lws"),
}
"""Values of the settings that have a meaning for samples with several labels, where not all have."""
_DENSE: dict[str, tuple[Any, ...]] = {
    "sampler": ("power",),
    "tau": (1.0,),
    "mixer": ("none", "mixup", "cutmix"),
    "partner_tau": (1.0,),
    "different_classes": (False,),
    "classifier": ("linear", "cosine"),
}
"""The same for samples with a label at each position, which are of no single class that could be sampled by."""


@dataclass(frozen=True)
class Method:
    """A method of long-tailed training. Places in the schedule are shares of the training, so it fits any length.

    Raises:
        ValueError: a setting has a wrong type or value, or two do not go together.

    >>> Method(mixer="mixup", loss="prior_corrected").changes()
    {'mixer': 'mixup', 'loss': 'prior_corrected'}
    >>> Method(mixer="mixup", alpha=0.4).plan([0, 0, 0, 1], epochs=10).seen_prior()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    sampler: Literal["power", "effective_number", "progressive", "class_aware", "repeat_factor"] = "power"
    """How the (first) sample of a pair is drawn; of several labels the rarest is the class."""
    tau: float = 1.0
    """sampler power: class probability ~ n^tau; 1 is instance-balanced, 0 class-balanced, -1 reversed."""
    samples_per_class: int = 4
    """sampler class_aware: samples of a class in a row."""
    repeat_threshold: float = 0.001
    """sampler repeat_factor: share of the samples below which a class or label is repeated."""
    rebalance_from: float = 0.0
    """Share of the training until which sampling is instance-balanced (deferred re-sampling)."""

    mixer: Literal[
        "none",
        "mixup",
        "manifold_mixup",
        "cutmix",
        "remix",
        "unimix",
        "occurrence_mixup",
        "bilateral",
        "between_class",
        "unimix_between_class",
    ] = "none"
    """How pairs are mixed; occurrence_mixup divides the weights by the classes' frequencies; bilateral lays pairs
    side by side for the two branches of BBN; the last two are for sound, gain-aware, with a uniform or a UniMix
    ratio."""
    alpha: float = 1.0
    """Beta(alpha, alpha) of the mixing weight."""
    partner: Literal["dataset", "batch"] = "dataset"
    """Where the second sample of a pair comes from: a separate sampler over the whole set, or the batch."""
    partner_tau: float = 1.0
    """Exponent of the partner's class probabilities; with partners from the batch only UniMix has one."""
    different_classes: bool = False
    """Whether the two samples of a pair must be of different classes."""
    mix_until: float = 1.0
    """Share of the training from which nothing is mixed."""
    remix_kappa: float = 3.0
    """remix: ratio of class counts from which the rarer class takes the whole label."""
    remix_tau: float = 0.5
    """remix: share of the input below which the more frequent class gives way."""
    manifold_layers: tuple[str, ...] = ()
    """manifold_mixup: the modules whose output is mixed, by name, "input" for the input; empty: found in the model."""
    cut_dims: tuple[int, ...] = ()
    """cutmix: dimensions that are cut; empty: height and width of images, time of signals [N, T] and [N, C, T]."""
    level: Literal["a_weighted", "rms", "loudness"] = "a_weighted"
    """between_class, unimix_between_class: how loud a sound is; loudness is that of ITU-R BS.1770."""
    label_mixing: Literal["union", "convex"] = "union"
    """mixup, cutmix, between_class: of samples with several labels, whether a mixed one has those of both, or shares of
    them."""

    loss: Literal[
        "ce",
        "prior_corrected",
        "lade",
        "label_smoothing",
        "label_aware_smoothing",
        "ldam",
        "focal",
        "cdt",
        "distribution_balanced",
    ] = "ce"
    """What is minimised; prior_corrected is Bayias, Balanced Softmax and logit adjustment. Of samples with several
    labels ce and prior_corrected are binary; distribution_balanced is for these alone."""
    prior: Literal["train", "effective"] = "train"
    """prior_corrected, lade: the prior that is corrected, of training or of the labels after sampling and mixing."""
    loss_tau: float = 1.0
    """prior_corrected: strength of the correction."""
    target_prior: tuple[float, ...] = ()
    """prior_corrected: class frequencies of the test set, C shares or counts; empty: uniform. Of samples with several
    labels the share that has each; empty: 1/2."""
    mode: Literal["paper", "official_code"] = "paper"
    """lade, label_aware_smoothing, mislas, bilateral: follow the paper, or the released code where it differs."""
    lade_alpha: float = 0.1
    """lade: weight of the regulariser."""
    lade_lambda: float = 0.01
    """lade: weight of the squared term in the regulariser."""
    smoothing_head: float = 0.4
    """label_aware_smoothing: smoothing of the largest class."""
    smoothing_tail: float = 0.1
    """label_aware_smoothing: smoothing of the smallest class; label_smoothing: of all classes."""
    smoothing_shape: Literal["concave", "linear", "convex", "power"] = "concave"
    """label_aware_smoothing: how the smoothing grows with the size of a class."""
    smoothing_power: float = 1.0
    """label_aware_smoothing: exponent of the shape power; concave below 1, convex above."""
    ldam_margin: float = 0.5
    """ldam: margin of the smallest class, in cosines."""
    focal_gamma: float = 1.0
    """focal: exponent."""
    cdt_gamma: float = 0.2
    """cdt: exponent of the temperatures."""
    db_kappa: float = 0.05
    """distribution_balanced: scale of the margins."""
    db_neg_scale: float = 2.0
    """distribution_balanced: tolerance of negatives, lambda; 2 for COCO-MLT, 5 for VOC-MLT."""
    db_mu: float = 0.2
    """distribution_balanced: middle of the weights; 0.2 for COCO-MLT, 0.3 for VOC-MLT."""
    class_weights: Literal["none", "effective_number", "inverse", "median_frequency", "max_frequency"] = "none"
    """Weights of the samples in the loss, by their class: of the effective number of samples (Cui et al., CVPR 2019),
    or of the inverse frequency: of a mean of 1, "balanced" in scikit-learn; relative to the median or most frequent
    class."""
    reweight_from: float = 0.0
    """Share of the training until which there are no class weights (deferred re-weighting)."""
    beta: float = 0.9999
    """effective_number, of the sampler and of the class weights: beta of the effective number of samples."""

    classifier: Literal["linear", "cosine", "causal_norm", "bilateral", "crt", "lws", "mislas", "tau_norm", "ncm"] = (
        "linear"
    )
    """The last layer; from crt on, that of a second stage on the frozen network of a finished run."""
    scale: float = 30.0
    """cosine: factor of the cosines."""
    causal_alpha: float = 1.5
    """causal_norm: share of the mean direction that is taken away at test time."""
    branch: str = ""
    """bilateral: the module that becomes two branches, by its name; empty: the last block, found in the model."""
    classifier_tau: float = 1.0
    """tau_norm: exponent of the norms."""
    tune_tau: bool = False
    """tau_norm: instead of classifier_tau take what is best on held-out samples, of 0 to 2 in steps of 0.1."""
    delta_lr_ratio: float = 0.2
    """mislas: learning rate of the correction over that of the scales."""
    batch_norm: Literal["train", "fixed", "shift"] = "train"
    """Second stages: fixed keeps the first stage's statistics, shift lets them follow the class-balanced samples."""
    first_stage: str | None = None
    """Second stages: name of the method that trains the network."""

    paper: str = field(default="", compare=False)
    """Where it is published."""

    def __post_init__(self) -> None:
        _check_types(self)
        if self.prior != "train" and self.loss not in ("prior_corrected", "lade"):
            raise ValueError(
                f"`prior` is what prior_corrected and lade correct, but `loss` is {self.loss}. Leave it out."
            )
        if self.loss == "ldam" and self.classifier != "cosine":
            raise ValueError(f"`loss: ldam` needs cosines: set `classifier: cosine` (it is {self.classifier}).")
        if self.class_weights != "none" and self.loss == "lade":
            raise ValueError("`class_weights` cannot weight `loss: lade`, whose regulariser is no mean over samples.")
        if self.target_prior and self.loss != "prior_corrected":
            raise ValueError(f"`target_prior` belongs to prior_corrected, but `loss` is {self.loss}. Leave it out.")
        if self.target_prior and not min(self.target_prior) > 0:
            raise ValueError("`target_prior` must hold a positive number for each class.")
        if (self.mixer == "bilateral") != (self.classifier == "bilateral"):
            raise ValueError("`mixer: bilateral` and `classifier: bilateral` are the two halves of BBN: set both.")
        whole = self.partner == "dataset" and self.mix_until == 1.0 and not self.different_classes
        if self.mixer == "bilateral" and not whole:
            raise ValueError(
                "`mixer: bilateral` needs pairs to the end, from two independent samplers over the whole data set: "
                "leave out `partner`, `mix_until` and `different_classes`."
            )
        if self.different_classes and self.mixer == "none":
            raise ValueError("`different_classes` is about pairs, but `mixer` is none. Leave it out.")
        if self.level != "a_weighted" and "between_class" not in self.mixer:
            raise ValueError(f"`level` is about sounds that are mixed, but `mixer` is {self.mixer}. Leave it out.")
        if self.second_stage and self.mixer == "manifold_mixup":
            raise ValueError("`mixer: manifold_mixup` mixes inside the network, which a second stage keeps frozen.")
        if self.tune_tau and self.classifier != "tau_norm":
            raise ValueError(f"`tune_tau` belongs to tau_norm, but `classifier` is {self.classifier}. Leave it out.")
        if not self.second_stage and (self.batch_norm != "train" or self.first_stage):
            raise ValueError(
                f"`batch_norm` and `first_stage` belong to second stages, but `classifier` is {self.classifier}."
            )
        for name in ("rebalance_from", "mix_until", "reweight_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share of the training, in 0..1, but is {getattr(self, name)}.")

    @property
    def second_stage(self) -> bool:
        """Whether it learns or computes the classifier of a finished run anew."""
        return self.classifier in ("crt", "lws", "mislas", "tau_norm", "ncm")

    @property
    def trained(self) -> bool:
        """Whether there is anything to train; the classifiers tau_norm and ncm are computed."""
        return self.classifier not in ("tau_norm", "ncm")

    @property
    def single_label(self) -> bool:
        """Whether it has a meaning for classes that exclude each other, one a sample."""
        return self.loss != "distribution_balanced"

    @property
    def multi_label(self) -> bool:
        """Whether it has a meaning for samples with several labels, or none: multi-hot labels [N, L]."""
        return not self.multi_label_fault()

    def multi_label_fault(self) -> str:
        """What in it has no meaning for samples with several labels; empty if all has one."""
        return self._fault(_MULTI_LABEL, "is for classes that exclude each other; with several labels a sample")

    def dense_fault(self) -> str:
        """What in it has no meaning for samples with a label at each position; empty if all has one."""
        return self._fault(_DENSE, "is for samples of one class; with a label at each position")

    def _fault(self, known: dict[str, tuple[Any, ...]], words: str) -> str:
        for name, values in known.items():
            if getattr(self, name) not in values:
                takes = " or ".join(map(_shown, values))
                return f"`{name}: {_shown(getattr(self, name))}` {words} it must be {takes}"
        return ""

    def changes(self) -> dict[str, Any]:
        """The settings in which it differs from plain training, without its paper."""
        plain = {item.name: item.default for item in fields(self) if item.compare}
        return {name: getattr(self, name) for name, value in plain.items() if getattr(self, name) != value}

    def replace(self, **changes: Any) -> Method:
        """A copy with other settings.

        Raises:
            ValueError: there is no such setting, or its value will not do.

        >>> Method().replace(alhpa=0.5)
        Traceback (most recent call last):
        ValueError: `alhpa` is no setting of a method, did you mean 'alpha'?
        """
        known = [item.name for item in fields(self)]
        for name in changes:
            if name not in known:
                hint = did_you_mean(name, known) or f". There are: {', '.join(known)}."
                raise ValueError(f"`{name}` is no setting of a method{hint}")
        return replace(self, **changes)

    def plan(
        self,
        labels: Counts | Labels,
        num_classes: int | None = None,
        *,
        epochs: int,
        batch_size: int | None = None,
        num_processes: int = 1,
        seed: int = 0,
        sample_rate: float | None = None,
        position_counts: Counts | None = None,
        ignore_index: int | None = None,
    ) -> TrainingPlan:
        """Make the objects of one training on these labels.

        Args:
            labels: class of every training sample, int [N]; or, for samples with several labels or none, multi-hot rows
                [N, L] or lists of label indices. The plan is then of binary problems: losses are binary, mixing joins
                labels (``label_mixing``), samplers go by the rarest label of each sample (:func:`ltaug.rarest_label`),
                and priors hold the share of the samples that have each label.
            num_classes: C, or L; by default the largest label plus one.
            epochs: of the whole training; 0 where nothing is trained.
            batch_size: of all processes together; needed for priors where partners come from the batch.
            num_processes: how many share a batch.
            seed: of the samplers.
            sample_rate: of sounds, in samples a second; between-class mixing needs it.
            position_counts: for segmentation, where each position of a sample has a label: training pixels a class,
                [C], which take the place of the class counts. ``labels`` then only say how many samples there are.
            ignore_index: for segmentation: a label whose pixels are left out, such as 255.

        Raises:
            ValueError: a setting does not fit the data, or ``sample_rate`` is missing.

        >>> plan = Method(loss="prior_corrected").plan([0] * 8, epochs=10, position_counts=[90, 10], ignore_index=255)
        >>> plan.criterion(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 1))  # log(10)
        tensor(2.3026)
        """
        from ltaug.methods.plan import TrainingPlan

        given: Any = labels
        if ignore_index is not None and position_counts is None:
            raise ValueError(
                "`ignore_index` is for labels at each position: give the `position_counts`, "
                "`ltaug.class_counts(label_maps, num_classes, ignore_index=...)`."
            )
        several = given if holds_several(given) else None
        if several is not None:
            num_classes = self._check_several(several, num_classes)
            given = rarest_label(several, num_classes)
        elif not self.single_label:
            raise ValueError(
                f"`labels` must be multi-hot rows [N, L] for `loss: {self.loss}`, which is for samples with several "
                "labels, but hold one class a sample."
            )
        labels = as_labels(given).cpu()
        if position_counts is not None:
            return self._dense_plan(labels, position_counts, num_classes, epochs, seed, ignore_index)
        share = None if batch_size is None else max(1, batch_size // num_processes)
        counts = class_counts(labels, num_classes) if several is None else label_counts(several, num_classes).cpu()
        self._check_counts(counts)
        if self.target_prior and len(self.target_prior) != len(counts):
            raise ValueError(
                f"`target_prior` must have a number for each of the {len(counts)} classes, but has "
                f"{len(self.target_prior)}."
            )
        return TrainingPlan(self, labels, counts, epochs, share, seed, sample_rate, several)

    def _dense_plan(
        self,
        labels: torch.Tensor,
        position_counts: Counts,
        num_classes: int | None,
        epochs: int,
        seed: int,
        ignore_index: int | None,
    ) -> TrainingPlan:
        """The plan of samples with a label at each position."""
        from ltaug.methods.plan import TrainingPlan

        counts = as_counts(position_counts, "position_counts").cpu()
        if num_classes not in (None, len(counts)):
            raise ValueError(
                f"`position_counts` must have {num_classes} classes, `num_classes`, but have {len(counts)}."
            )
        if not self.single_label:
            raise ValueError(f"`labels` must be multi-hot rows [N, L] for `loss: {self.loss}`, not maps of classes.")
        if fault := self.dense_fault():
            raise ValueError(f"{fault[0].upper()}{fault[1:]}.")
        self._check_counts(counts)
        # Of one class all, so that they are drawn alike.
        return TrainingPlan(
            self, torch.zeros_like(labels), counts, epochs, None, seed, None, dense=True, ignore_index=ignore_index
        )

    def _check_several(self, labels: Labels, num_labels: int | None) -> int:
        """Refuse a method that has no meaning for several labels a sample; returns L."""
        if fault := self.multi_label_fault():
            raise ValueError(f"`labels` hold several labels a sample, but {fault}.")
        samples, pairs, size = label_pairs(labels, num_labels)
        if size > 1 and samples and pairs.shape[1] == samples == len(torch.unique(pairs[0])):
            warnings.warn(
                "Each sample has exactly one of the labels: if classes exclude each other, give the plan class "
                "indices, `labels.argmax(1)`.",
                stacklevel=3,  # the line that called `plan`
            )
        return size

    def _check_counts(self, counts: torch.Tensor) -> None:
        """Refuse a class without samples where the method computes with its prior, before a loss does in its words."""
        computed = ("prior_corrected", "lade", "ldam", "cdt", "distribution_balanced")
        needed = self.loss in computed or self.class_weights != "none"
        if needed and (empty := (counts == 0).nonzero().flatten().tolist()):
            more = f" (nor of {len(empty) - 1} more)" if len(empty) > 1 else ""
            raise ValueError(
                f"`labels` have no sample of class {empty[0]}{more}, but the method computes with the frequencies of "
                f"all {len(counts)} classes. Number the classes that there are from 0 on, without gaps."
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_types(method: Method) -> None:
    """Raise a ValueError for a setting of another type or, of names, one that is not known."""
    for name, kind in get_type_hints(Method).items():
        value = getattr(method, name)
        if get_origin(kind) is Literal:
            known = get_args(kind)
            if value not in known:
                hint = did_you_mean(str(value), known) or "."
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}{hint}")
            continue
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(method, name, float(value))
            continue
        plain = tuple if get_origin(kind) is tuple else kind
        if plain is tuple and isinstance(value, str):
            value = [value]
        if plain is tuple and isinstance(value, list | tuple):
            wanted, made = get_args(kind)[0], []
            for item in value:
                number = isinstance(item, int | float) and not isinstance(item, bool)
                if not (number if wanted is float else isinstance(item, wanted)):
                    kinds = {float: "numbers", int: "whole numbers", str: "texts"}[wanted]
                    hint = f" Write a list: '[{item}]'." if isinstance(item, str) and "," in item else ""
                    raise ValueError(f"`{name}` must hold {kinds}, but has {item!r}.{hint}")
                made.append(wanted(item))
            object.__setattr__(method, name, tuple(made))
        elif not isinstance(value, plain):
            wanted = getattr(plain, "__name__", str(plain))
            raise ValueError(f"`{name}` must be of type {wanted}, but is {value!r}.")
