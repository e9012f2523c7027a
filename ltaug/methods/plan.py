"""A plan: what a method comes to on one data set, the objects of one training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from ltaug.analysis import effective_prior
from ltaug.classifiers import (
    BilateralBlock,
    BilateralClassifier,
    BilateralPairs,
    CausalNormClassifier,
    CosineClassifier,
    GeneralizedClassifier,
    LearnableWeightScaling,
    NearestClassMeanClassifier,
    cumulative_alpha,
    tau_normalize,
)
from ltaug.losses import (
    CDTLoss,
    ClassWeightedLoss,
    DistributionBalancedLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    PriorCorrectedBCELoss,
    PriorCorrectedLoss,
    effective_number_weights,
    frequency_weights,
    inverse_frequency_weights,
)
from ltaug.methods.method import Method
from ltaug.mixers import BetweenClass, CutMix, ManifoldMixUp, MixUp, OccurrenceMixUp, ReMix, UniMix
from ltaug.mixers._base import Mixer
from ltaug.priors import Labels, class_counts, class_prior, effective_number, label_pairs
from ltaug.samplers import (
    ClassAwareSampler,
    ClassPowerSampler,
    EffectiveNumberSampler,
    PairSampler,
    ProgressivelyBalancedSampler,
    RepeatFactorSampler,
)
from ltaug.samplers._base import Epochs
from ltaug.stages import freeze, reinitialize, set_batch_norm_mode, unfreeze

_NO_POSTERIOR = {
    "ldam": "ldam's margins, which are larger for rare classes, are not undone",
    "cdt": "the temperatures that cdt divides the logits by in training are not undone",
    "focal": "the focal loss leaves probabilities flatter than the posterior",
    "label_smoothing": "smoothed labels are no posterior",
    "label_aware_smoothing": "smoothed labels are no posterior",
}
"""Losses whose minimum is not log p(x | y) plus the log of a prior, and what their logits' prior leaves out."""

__all__ = ["TrainingPlan", "find_classifier", "find_last_block", "find_mixing_layers"]


class TrainingPlan:
    """What a :class:`Method` comes to on one data set; made by :meth:`Method.plan`.

    Plain attributes: put a mixer, loss or sampler of your own in their place, before the first epoch. The plan then
    says of the logits' prior what it can still know, see :meth:`logits_prior`.

    Attributes:
        method: the method.
        class_counts: training samples a class, or that have each label, int64 [C]; of segmentation pixels.
        labels: class of every training sample, int64 [N]; of several labels the rarest.
        label_prior: share of the training samples that have each label, float64 [L]; None if each has one class.
        sampler: indices of an epoch's samples, or of pairs; for a ``DataLoader`` or a loader of :mod:`ltaug.loaders`.
        mixer: how pairs are mixed, or None.
        criterion: what the current epoch minimises.
        classifier_name: of the attached model's last layer; empty while it has its own.
        tau: of tau_norm, which ``tune_tau`` lets a training script search.
    """

    def __init__(
        self,
        method: Method,
        labels: Tensor,
        counts: Tensor,
        epochs: int,
        share: int | None,
        seed: int,
        sample_rate: float | None,
        several: Labels | None = None,
        dense: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        self.method, self.labels, self.class_counts = method, labels, counts
        self.several, self.dense, self.ignore_index = several, dense, ignore_index
        self.label_prior = None if several is None else counts.double() / len(labels)
        # Of samplers: a sample without labels is of a class of its own.
        self._sizes = counts if several is None and not dense else class_counts(labels, len(counts) + 1)
        self.epochs, self.share, self.seed, self.epoch = epochs, share, seed, 0
        self.device = torch.device("cpu")
        self.mixer: Any = self._make_mixer(sample_rate)
        self._planned_mixer = self.mixer
        self.sampler: Sampler[Any] = _PlannedSampler(self)
        self._losses: dict[
            tuple[bool, ...], tuple[list[Any], nn.Module]
        ] = {}  # of a phase: what it was made by, and it
        self._own_criterion: nn.Module | None = None
        self.classifier_name = ""
        self.tau = method.classifier_tau
        self._branches: BilateralClassifier | None = None
        self._enter(max(epochs - 1, 0))  # fail now, not after hours of training, if the settings do not fit the data
        self._enter(0)

    # --- the epoch ----------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Choose the sampling, mixing and loss of an epoch, counted from 0.

        A loop that never calls it is right as well: each iteration of :attr:`sampler` moves the plan on by one epoch. A
        loop that resumes calls it once.
        """
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        self._enter(epoch)

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        if isinstance(self.sampler, _PlannedSampler):
            self.sampler.enter(epoch)
        if isinstance(self.mixer, BilateralPairs):
            self.mixer.alpha = cumulative_alpha(epoch, self.epochs)
            if self._branches is not None:
                self._branches.alpha.fill_(self.mixer.alpha)
        if self._own_criterion is None:
            self._criterion(epoch)

    @property
    def criterion(self) -> nn.Module:
        """What the current epoch minimises, ``criterion(logits, targets)``; one that you set stays for all epochs.

        A loss that corrects the effective prior is made anew where the mixer was changed or replaced.
        """
        return self._criterion(self.epoch) if self._own_criterion is None else self._own_criterion

    @criterion.setter
    def criterion(self, criterion: nn.Module) -> None:
        self._own_criterion = criterion

    def to(self, device: torch.device | str) -> TrainingPlan:
        """Move the losses to a device."""
        self.device = torch.device(device)
        self._losses.clear()
        if self._own_criterion is not None:
            self._own_criterion.to(self.device)
        return self

    def mix(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch ``(x, y)``, or of one of pairs ``((x, y), (partner_x, partner_y))``."""
        if self.method.classifier != "linear" and not self.classifier_name:
            raise ValueError(
                f"The model has not got the method's classifier, {self.method.classifier}, yet. Call "
                "`plan.attach(model)` before the optimiser is made."
            )
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            held = f" of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
            raise TypeError(
                "`batch` must be (inputs, labels), or ((inputs, labels), (partner_inputs, partner_labels)), but is a "
                f"{type(batch).__name__}{held}. Take these two from it: `plan.mix((batch['image'], batch['label']))`."
            )
        pairs = isinstance(batch[0], list | tuple)
        inputs, targets = batch[0] if pairs else batch
        if not self.mixes(self.epoch):
            rows = self.several is not None and not targets.is_floating_point()
            return inputs, targets.to(
                torch.get_default_dtype()
            ) if rows else targets  # as binary cross-entropy needs it
        planned = self.mixer is self._planned_mixer and isinstance(self.sampler, _PlannedSampler)
        if planned and self.method.partner == "dataset" and not pairs:
            raise ValueError(
                "`batch` must hold pairs ((x, y), (partner_x, partner_y)), since the method takes partners from the "
                'whole data set: load `PairDataset(dataset)` with `sampler=plan.sampler`, or set `partner: "batch"`.'
            )
        if isinstance(self.mixer, CutMix) and self.mixer is self._planned_mixer and not self.method.cut_dims:
            self.mixer.dims = (-2, -1) if inputs.ndim > 3 else (-1,)
        mixed: tuple[Tensor, Tensor] = self.mixer(inputs, targets, *(batch[1] if pairs else ()))
        return mixed

    def mixes(self, epoch: int) -> bool:
        """Whether an epoch mixes pairs."""
        return self.mixer is not None and not self._reached(epoch, self.method.mix_until)

    # --- the priors ---------------------------------------------------------------------------------------------------

    def seen_prior(self, epoch: int | None = None) -> Tensor:
        """The label distribution that an epoch trains on, float64 [C]: sampling and mixing both change it.

        Of samples with several labels it is the share of the (mixed) samples that has each, which do not sum to 1.

        Args:
            epoch: by default the current one.
        """
        epoch, m = self.epoch if epoch is None else epoch, self.method
        if self.dense:  # samples are drawn alike, and mixed with others drawn so: every class keeps its share of pixels
            return class_prior(self.class_counts)
        first = self._first_prior(epoch)
        balanced = self._reached(epoch, m.rebalance_from)
        if self.several is not None:
            return self._seen_shares(epoch, first, m.partner_tau if balanced else 1.0)
        if not self.mixes(epoch):
            return effective_prior(self.class_counts, None, first)
        if m.partner == "batch":
            return effective_prior(self.class_counts, self.mixer, first, batch_size=self.share)
        partner = m.partner_tau if balanced else 1.0
        if m.mixer == "bilateral":
            alpha = cumulative_alpha(epoch, self.epochs)
            streams = (effective_prior(self.class_counts, None, tau) for tau in (first, partner))
            return alpha * next(streams) + (1.0 - alpha) * next(streams)
        return effective_prior(self.class_counts, self.mixer, first, partner, different_classes=m.different_classes)

    def _first_prior(self, epoch: int) -> Any:
        """The class distribution of an epoch's (first) samples: an exponent of the class counts, or numbers [C]."""
        m, n = self.method, self._sizes.double()
        if not self._reached(epoch, m.rebalance_from):
            return 1.0
        done, present = epoch / max(self.epochs, 1), n > 0
        if m.sampler == "repeat_factor":
            return self._repeated(n)
        return {
            "power": m.tau,
            "effective_number": n / effective_number(self._sizes, m.beta).clamp(min=1e-9),
            "progressive": (1.0 - done) * n / n.sum() + done * present / present.sum(),
            "class_aware": 0.0,
        }[m.sampler]

    def _repeated(self, n: Tensor) -> Tensor:
        """Class distribution of repeat factor sampling; of several labels the sampler's own factors are exact."""
        factors = self._repeat_sampler().repeat_factors
        return torch.zeros_like(n).index_add_(0, self.labels, factors)

    def _repeat_sampler(self) -> RepeatFactorSampler:
        size = len(self.labels)
        targets: Any = self.labels.unsqueeze(1).tolist() if self.several is None else self.several
        labels, settings = len(self.class_counts), {"num_samples": size, "seed": self.seed}
        return RepeatFactorSampler(targets, self.method.repeat_threshold, num_labels=labels, **settings)

    def _seen_shares(self, epoch: int, first: Any, partner_tau: float) -> Tensor:
        """Share of an epoch's samples that has each label, float64 [L]."""
        m = self.method
        mine = self._shares_of(first, m.sampler == "repeat_factor" and self._reached(epoch, m.rebalance_from))
        if not self.mixes(epoch):
            return mine
        partners = mine if m.partner == "batch" else self._shares_of(partner_tau)
        if getattr(self.mixer, "multi_label", m.label_mixing) == "convex":
            if not hasattr(self.mixer, "expected_weights"):
                raise ValueError(
                    "`mixer` must have `expected_weights` for the shares of labels that are mixed by its weights, but "
                    f"a {type(self.mixer).__name__} has none."
                )
            weight = float(self.mixer.expected_weights()[0, 0])
            mixed = weight * mine + (1.0 - weight) * partners
        else:
            mixed = 1.0 - (1.0 - mine) * (1.0 - partners)
        # Of a permutation of the batch, one in so many samples is its own partner.
        alone = 1.0 / self.share if m.partner == "batch" and self.share else 0.0
        if isinstance(self.mixer, Mixer):  # which may leave some batches as they are, or all
            alone = 1.0 - (1.0 - alone) * (self.mixer.prob if self.mixer.mixup_enabled else 0.0)
        return alone * mine + (1.0 - alone) * mixed

    def _shares_of(self, first: Any, repeated: bool = False) -> Tensor:
        """Share that has each label, where samples are drawn by the class distribution ``first`` of the rarest."""
        if repeated:
            weights = self._repeat_sampler().repeat_factors
        else:
            weights = (effective_prior(self._sizes, None, first) / self._sizes.clamp(min=1))[self.labels]
        _, (sample, label), size = label_pairs(self.several, len(self.class_counts))  # type: ignore[arg-type]
        shares = torch.zeros(size, dtype=torch.float64).index_add_(0, label.cpu(), weights[sample.cpu()])
        return (shares / weights.sum()).clamp(max=1.0)

    def corrected_prior(self, epoch: int | None = None) -> Tensor:
        """The prior that prior_corrected and lade correct in an epoch, float64 [C].

        Args:
            epoch: by default the current one.
        """
        if self.method.prior == "effective":
            return self.seen_prior(epoch)
        return class_prior(self.class_counts) if self.label_prior is None else self.label_prior

    def logits_prior(self) -> Tensor | None:
        """The class prior that the trained model's logits are under: what it saw over what its loss corrected.

        That is at the last epoch that mixes, or else the last one: what training would end at if that phase were long
        enough. Where sampling or weights change late, the logits lag behind, and the reason says so. float64 [C]; None
        where the plan cannot know it: classifiers that are computed, and losses or samplers of your own.
        :meth:`logits_prior_reason` says why. Of samples with several labels it is a share of each, for
        :func:`ltaug.shift_binary_logits`.
        """
        return self._prior_and_reason()[0]

    def logits_prior_reason(self) -> str:
        """One sentence on where :meth:`logits_prior` comes from."""
        return self._prior_and_reason()[1]

    def _prior_and_reason(self) -> tuple[Tensor | None, str]:
        m = self.method
        if not m.trained:
            tuned = f" with tau {self.tau:g}, chosen on held-out samples," if m.tune_tau else ","
            return (
                None,
                f"the classifier {m.classifier} is computed{tuned} not trained: its logits are under no known prior",
            )
        if self._own_criterion is not None or not isinstance(self.sampler, _PlannedSampler):
            kind = "loss" if self._own_criterion is not None else "sampler"
            return None, f"trained with a {kind} that the plan does not know"
        if m.classifier == "bilateral":
            return None, "the two branches, trained on different labels, weigh 1/2 each in evaluation alone"
        mixing = [epoch for epoch in range(self.epochs) if self.mixes(epoch)]
        epoch = mixing[-1] if mixing else max(self.epochs - 1, 0)
        if m.loss == "distribution_balanced":
            return None, "the weights and margins of the distribution-balanced loss are those of no prior"
        try:
            prior = self.seen_prior(epoch)
        except ValueError as error:
            return None, f"the label distribution after mixing is not known: {error}"
        place = "the last epoch" if not mixing or epoch == self.epochs - 1 else "the last epoch that mixes"
        reason = f"labels seen in {place}"
        if m.classifier == "causal_norm":
            prior = torch.full_like(prior, 1.0 / len(prior))
            reason = "uniform, as LADE, section 4.3, assumes: causal_norm takes the features' mean direction away"
        if m.loss in ("prior_corrected", "lade"):
            strength = m.loss_tau if m.loss == "prior_corrected" else 1.0
            if self.label_prior is None:
                prior = prior / self.corrected_prior(epoch) ** strength
            else:  # odds instead of ratios of the classes; of seen labels, with a target of 1/2 if there is none
                prior = (prior.logit() - strength * self.corrected_prior(epoch).logit()).sigmoid()
            corrected = "effective" if m.prior == "effective" else "training"
            reason += f", over the {corrected} prior that the loss corrects"
            reason += f" with strength {strength:g}" if strength != 1 else ""
            if m.target_prior:
                target = torch.tensor(m.target_prior, dtype=torch.float64)
                if self.label_prior is None:
                    prior = prior * target**strength
                else:
                    prior = (prior.logit() + strength * target.logit()).sigmoid()
                reason += ", times the target prior"
        if self.label_prior is not None and mixing and m.label_mixing == "union":
            reason += "; an approximation, since unmixed samples have fewer labels than those it was trained on"
        elif m.loss not in ("ce", "prior_corrected", "lade"):
            reason += f"; an approximation, since {_NO_POSTERIOR[m.loss]}"
        if m.class_weights != "none" and self._reached(self.epochs - 1, m.reweight_from):
            prior = prior * self._class_weights()
            reason += ", times the class weights of the loss"
        if when := self._late():
            reason += (
                f"; but sampling or weights are those only {when}, and the logits may lag behind: IC takes the "
                "training prior (`from_prior` train)"
            )
        return prior / prior.sum() if self.label_prior is None else prior, reason

    def _late(self) -> str:
        """Since when the sampling and the class weights are those of the last epoch; empty if all along."""
        m, last = self.method, self.epochs - 1
        if m.sampler == "progressive":
            return "towards the end"
        late = [share for share in (m.rebalance_from, m.reweight_from) if share and self._reached(last, share)]
        return f"from {100 * max(late):g} % of the training on" if late else ""

    # --- the network --------------------------------------------------------------------------------------------------

    def attach(self, model: nn.Module, classifier: str | None = None) -> nn.Module:
        """Give a model the method's classifier; of a second stage, freeze the rest. Call it before wrapping the model.

        Args:
            model: changed in place.
            classifier: name of its last linear layer; by default as :func:`find_classifier` finds it.

        Returns:
            The model.

        Raises:
            ValueError: it has no such layer, none that manifold mixup could mix behind, or no block that could become
                two branches.
        """
        m, num_classes = self.method, len(self.class_counts)
        if hasattr(model, "several_labels"):  # of networks that average the probabilities of several windows
            model.several_labels = self.several is not None  # type: ignore[assignment]
        try:
            last = find_classifier(model, num_classes, classifier)[1].out_features
        except ValueError:
            last = num_classes  # not a linear layer: fine, unless the method replaces it
        if last != num_classes:
            raise ValueError(f"The model's last layer has {last} outputs, but there are {num_classes} classes.")
        if m.classifier != "linear":
            self.classifier_name, linear = find_classifier(model, len(self.class_counts), classifier)
            size = linear.in_features, linear.out_features
            if m.second_stage:
                freeze(model)
            if m.classifier == "bilateral":
                place = find_last_block(model, m.branch or None)
                model.set_submodule(place, BilateralBlock(model.get_submodule(place)))
            make: dict[str, Callable[[], nn.Module]] = {
                "cosine": lambda: CosineClassifier(*size, scale=m.scale),
                "causal_norm": lambda: CausalNormClassifier(*size, alpha=m.causal_alpha),
                "bilateral": lambda: BilateralClassifier(linear, m.mode),
                "crt": lambda: unfreeze(reinitialize(linear)),
                "lws": lambda: LearnableWeightScaling(linear),
                "mislas": lambda: GeneralizedClassifier(linear, mode=m.mode),
                "tau_norm": lambda: unfreeze(linear),
                "ncm": lambda: unfreeze(linear),
            }
            made = make[m.classifier]().to(linear.weight.device)
            model.set_submodule(self.classifier_name, made)
            if isinstance(made, BilateralClassifier):
                self._branches = made
                self._enter(self.epoch)
        if isinstance(self.mixer, ManifoldMixUp):
            if self.mixer is self._planned_mixer and not m.manifold_layers:
                self.mixer.layers = find_mixing_layers(model)
            self.mixer.attach(model)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What an optimiser trains: groups with ``lr_scale``, which a schedule multiplies its learning rate by."""
        if self.method.classifier == "mislas":
            classifier: Any = model.get_submodule(self.classifier_name)
            groups = classifier.parameter_groups(1.0, self.method.delta_lr_ratio)
            return [{"params": group["params"], "lr_scale": group["lr"]} for group in groups]
        return [{"params": [each for each in model.parameters() if each.requires_grad], "lr_scale": 1.0}]

    def train(self, model: nn.Module) -> None:
        """Call ``model.train()``, and set what batch norm does in a second stage."""
        model.train()
        if self.method.batch_norm != "train":
            set_batch_norm_mode(model, self.method.batch_norm)

    def fold(self, model: nn.Module, class_means: NearestClassMeanClassifier | None = None) -> nn.Module:
        """Put a plain linear layer, with bias, in the place of a second stage's classifier.

        Args:
            model: as :meth:`attach` returned it, changed in place; without wrappers.
            class_means: of ncm: fitted on the features of the training samples.

        Returns:
            The model, unfrozen.
        """
        m = self.method
        if not m.second_stage:
            return model
        classifier: Any = model.get_submodule(self.classifier_name)
        device = next(classifier.parameters()).device
        if m.classifier == "ncm":
            if class_means is None:
                raise ValueError("`class_means` is needed: the classifier ncm is computed from the features.")
            classifier = class_means
        elif m.classifier == "tau_norm":
            classifier = tau_normalize(classifier, self.tau)
        linear = classifier.fold() if hasattr(classifier, "fold") else classifier
        if linear.bias is None:  # tau_norm has dropped it
            linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))
        model.set_submodule(self.classifier_name, linear.to(device))
        return unfreeze(model)

    # --- how the parts are made ---------------------------------------------------------------------------------------

    def _reached(self, epoch: int, share: float) -> bool:
        return epoch >= round(share * self.epochs)

    def _make_mixer(self, sample_rate: float | None) -> Any:
        m, size = self.method, len(self.class_counts)
        if "between_class" in m.mixer and sample_rate is None:
            raise ValueError(f"`mixer: {m.mixer}` is for sound: it needs the `sample_rate` of the waveforms.")
        in_batch = m.partner == "batch"
        rule = None if self.several is None else m.label_mixing

        def unimix() -> UniMix:
            return UniMix(self.class_counts, m.alpha, in_batch_tau=m.partner_tau if in_batch else None)

        def between(ratio: Any) -> BetweenClass:
            apart = m.different_classes and in_batch
            return BetweenClass(size, sample_rate or 0.0, ratio, apart, m.level, multi_label=rule)

        make: dict[str, Callable[[], Any]] = {
            "none": lambda: None,
            "mixup": lambda: MixUp(size, m.alpha, rule),
            # Until it is attached it knows no layer of a model, and says so when called.
            "manifold_mixup": lambda: ManifoldMixUp(size, m.alpha, layers=m.manifold_layers or ("the model's layers",)),
            "cutmix": lambda: CutMix(size, m.alpha, dims=m.cut_dims or (-2, -1), multi_label=rule),
            "remix": lambda: ReMix(self.class_counts, m.alpha, m.remix_kappa, m.remix_tau),
            "unimix": unimix,
            "occurrence_mixup": lambda: OccurrenceMixUp(self.class_counts, m.alpha),
            "bilateral": lambda: BilateralPairs(size),
            "between_class": lambda: between(MixUp(size, m.alpha)),
            "unimix_between_class": lambda: between(unimix()),
        }
        mixer: Any = make[m.mixer]()
        if isinstance(mixer, Mixer):
            mixer.ignore_index = self.ignore_index
        return mixer

    def _class_weights(self) -> Tensor:
        kind = self.method.class_weights
        if kind == "inverse":
            return inverse_frequency_weights(self.class_counts)
        if kind in ("median_frequency", "max_frequency"):
            return frequency_weights(self.class_counts, kind.partition("_")[0])
        return effective_number_weights(self.class_counts, self.method.beta)

    def _criterion(self, epoch: int) -> nn.Module:
        """The loss of an epoch; made once for each phase of the training, or anew where the prior it corrects moves."""
        m, counts = self.method, self.class_counts
        target = torch.tensor(m.target_prior, dtype=torch.float64) if m.target_prior else None
        weighted = m.class_weights != "none" and self._reached(epoch, m.reweight_from)
        phase = (self._reached(epoch, m.rebalance_from), self.mixes(epoch), weighted)
        moves = m.sampler == "progressive" or m.mixer == "bilateral"
        cause = [epoch if moves else 0, *_parts(self.mixer)] if m.prior == "effective" else []
        if phase not in self._losses or not _same(self._losses[phase][0], cause):
            left_out: dict[str, Any] = {} if self.ignore_index is None else {"ignore_index": self.ignore_index}
            make: dict[str, Callable[[], nn.Module]] = {
                # torch's is NaN for a batch without a label, and counts pixels that a mixer leaves without one.
                "ce": lambda: FocalLoss(0.0, **left_out) if left_out else nn.CrossEntropyLoss(),
                "prior_corrected": lambda: PriorCorrectedLoss(
                    self.corrected_prior(epoch), m.loss_tau, target, **left_out
                ),
                "lade": lambda: LADELoss(self.corrected_prior(epoch), m.lade_alpha, m.lade_lambda, m.mode, **left_out),
                # Over all classes alike, the true one included, as torch has it.
                "label_smoothing": lambda: LabelAwareSmoothingLoss(
                    counts, m.smoothing_tail, m.smoothing_tail, mode="official_code", **left_out
                ),
                "label_aware_smoothing": lambda: LabelAwareSmoothingLoss(
                    counts,
                    m.smoothing_head,
                    m.smoothing_tail,
                    m.smoothing_shape,
                    m.smoothing_power if m.smoothing_shape == "power" else None,
                    m.mode,
                    **left_out,
                ),
                # The classifier multiplies its cosines by the scale, so that its logits are those of a softmax.
                "ldam": lambda: LDAMLoss(counts, m.ldam_margin * m.scale, scale=1.0, **left_out),
                "focal": lambda: FocalLoss(m.focal_gamma, **left_out),
                "cdt": lambda: CDTLoss(counts, m.cdt_gamma, **left_out),
            }
            if self.label_prior is not None:
                size = len(self.labels)
                make = {
                    "ce": nn.BCEWithLogitsLoss,
                    "prior_corrected": lambda: PriorCorrectedBCELoss(self.corrected_prior(epoch), m.loss_tau, target),
                    "distribution_balanced": lambda: DistributionBalancedLoss(
                        counts, size, m.db_kappa, m.db_neg_scale, mu=m.db_mu
                    ),
                }
            loss = make[m.loss]()
            if weighted:
                loss = ClassWeightedLoss(loss, self._class_weights())
            self._losses[phase] = cause, loss.to(self.device)
        return self._losses[phase][1]


def _parts(mixer: Any) -> list[Any]:
    """All that the labels which a mixer makes depend on: itself, its public attributes, and those of its ratio."""
    parts = [mixer]
    for name, value in getattr(mixer, "__dict__", {}).items():
        if not name.startswith("_"):
            parts += [name, *(_parts(value) if isinstance(value, Mixer) else [value])]
    return parts


def _same(before: list[Any], now: list[Any]) -> bool:
    """Whether two lists hold the same objects, or equal numbers and words."""
    plain = bool | int | float | str
    return len(before) == len(now) and all(
        a is b or (isinstance(a, plain) and isinstance(b, plain) and a == b) for a, b in zip(before, now, strict=True)
    )


class _PlannedSampler(Epochs, Sampler[Any]):
    """The sampler of the current epoch: of samples, or of pairs while pairs over the whole set are mixed.

    Each iteration moves the plan on with it.

    Attributes:
        current: the sampler of the library that draws this epoch.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.made: dict[tuple[bool, bool], Any] = {}
        self.enter(0)

    def enter(self, epoch: int) -> None:
        """Take the sampler of an epoch."""
        plan, m = self.plan, self.plan.method
        balanced = plan._reached(epoch, m.rebalance_from)
        pairs = plan.mixes(epoch) and m.partner == "dataset"
        if (balanced, pairs) not in self.made:
            sampler: Any = self._first(balanced)
            if pairs:
                apart = plan.labels if m.different_classes else None
                sampler = PairSampler(sampler, self._power(m.partner_tau if balanced else 1.0), apart)
            self.made[balanced, pairs] = sampler
        self.current: Any = self.made[balanced, pairs]
        self.current._choose(epoch)

    def _choose(self, epoch: int) -> None:
        super()._choose(epoch)
        self.plan._enter(epoch)

    def _power(self, tau: float) -> Sampler[int]:
        return ClassPowerSampler(self.plan.labels, tau, replacement=tau != 1.0, seed=self.plan.seed)

    def _first(self, balanced: bool) -> Sampler[int]:
        plan, m = self.plan, self.plan.method
        if not balanced or m.sampler == "power":
            return self._power(m.tau if balanced else 1.0)
        if m.sampler == "effective_number":
            return EffectiveNumberSampler(plan.labels, m.beta, seed=plan.seed)
        if m.sampler == "repeat_factor":
            return plan._repeat_sampler()
        if m.sampler == "progressive":
            return ProgressivelyBalancedSampler(plan.labels, plan.epochs, seed=plan.seed)
        return ClassAwareSampler(plan.labels, m.samples_per_class, seed=plan.seed)

    def indices(self) -> Tensor:
        """The whole epoch at once, int64 [N] or [N, 2]; does not move on to the next one."""
        self._chosen = False
        indices: Tensor = self.current.indices()
        return indices

    def __iter__(self) -> Iterator[Any]:
        with self._iteration():
            yield from self.current

    def __len__(self) -> int:
        return len(self.plan.labels)


def find_classifier(model: nn.Module, num_classes: int | None = None, name: str | None = None) -> tuple[str, nn.Linear]:
    """Find a network's last linear layer and its name: by timm's ``get_classifier()``, or fc, head, classifier.

    Args:
        model: any network.
        num_classes: C; without one of these names, the only linear layer with C outputs is taken.
        name: of the layer, if it is known.

    Raises:
        ValueError: there is no linear layer at these places.

    >>> find_classifier(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), num_classes=3)[0]
    '1'
    """
    modules = dict(model.named_modules())
    if name is not None:
        found = [name] if isinstance(modules.get(name), nn.Linear) else []
    elif hasattr(model, "get_classifier"):
        get: Any = model.get_classifier
        head = get()
        found = [place for place, module in modules.items() if module is head and isinstance(head, nn.Linear)]
    else:
        linear = {place: module for place, module in modules.items() if isinstance(module, nn.Linear)}
        found = [place for place in ("fc", "head", "classifier") if place in linear]
        found = found or [place for place, module in linear.items() if module.out_features == num_classes]
    if len(found) != 1:
        wanted = f"a linear layer {name!r}" if name else "one linear layer as its classifier"
        raise ValueError(
            f"The model must have {wanted}, but has {len(found)} such layers. It is found by `get_classifier()` (as "
            "timm's networks have it), by the names fc, head or classifier, or as the only one with as many outputs "
            "as classes; or name it: `plan.attach(model, classifier=NAME)`."
        )
    return found[0], modules[found[0]]


def find_last_block(model: nn.Module, name: str | None = None) -> str:
    """Find the name of a network's last residual block: the last child with parts of its own of a sequence of modules.

    Args:
        model: any network.
        name: of the block, if it is known.

    Raises:
        ValueError: there is none, or it is frozen.

    >>> block = nn.Module()
    >>> block.add_module("conv", nn.Conv2d(3, 3, 1))
    >>> find_last_block(nn.Sequential(nn.Conv2d(3, 3, 1), block, nn.Flatten(), nn.Linear(3, 2)))
    '1'
    """
    modules = dict(model.named_modules())
    lists = {place for place, module in modules.items() if isinstance(module, nn.Sequential | nn.ModuleList)}
    blocks = [place for place in modules if place and place.rpartition(".")[0] in lists and place not in lists]
    parts = {place: (part for child in modules[place].children() for part in child.parameters()) for place in blocks}
    found = [place for place in blocks if any(True for _ in parts[place])] if name is None else [name]
    if not found or found[-1] not in modules:
        wanted = "no residual block that is found" if name is None else f"no module {name!r}"
        raise ValueError(
            f"The model has {wanted}, but the method trains two copies of its last one. Name the module that becomes "
            "two branches: the setting `branch`."
        )
    if not all(parameter.requires_grad for parameter in modules[found[-1]].parameters()):
        raise ValueError(f"The model's block {found[-1]!r} is frozen, but the method trains two copies of it.")
    return found[-1]


def find_mixing_layers(model: nn.Module) -> tuple[str, ...]:
    """Find where manifold mixup mixes: the model's ``mixing_layers``, or the input and timm's first two features.

    The first features of a timm network are those of its stem, in ResNets, or of its first stage.

    Raises:
        ValueError: the model says neither.
    """
    layers = getattr(model, "mixing_layers", None)
    if layers is None:
        modules = dict(model.named_modules())
        stages = [info["module"] for info in getattr(model, "feature_info", None) or ()]
        layers = ["input", *[name for name in stages if isinstance(name, str) and name in modules][:2]]
        if len(layers) == 1:
            raise ValueError(
                "Manifold mixup does not know where to mix in this model. Name its modules with `manifold_layers`, or "
                'give it an attribute `mixing_layers`, e.g. ("input", "blocks.0").'
            )
    return tuple(layers)
