"""What a method is made of: which samples an epoch draws, how they are mixed, what is minimised, on which classifier.

All are functions of the config and the epoch, so that nothing has to be saved to resume. Which prior the loss corrects
and which one the logits are under follows from them as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from config import Config
from torch import Tensor, nn
from torch.utils.data import Sampler

from ltaug import (
    CausalNormClassifier,
    CDTLoss,
    ClassAwareSampler,
    ClassPowerSampler,
    ClassWeightedLoss,
    CosineClassifier,
    CutMix,
    EffectiveNumberSampler,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    ManifoldMixUp,
    MixUp,
    PairSampler,
    PriorCorrectedLoss,
    ProgressivelyBalancedSampler,
    ReMix,
    UniMix,
    effective_number,
    effective_number_weights,
    effective_prior,
)

Mixer = Callable[..., tuple[Tensor, Tensor]]


def mixes(cfg: Config, epoch: int) -> bool:
    """Whether this epoch mixes pairs."""
    return cfg.mixer != "none" and (cfg.mix_stop_epoch is None or epoch < cfg.mix_stop_epoch)


def make_sampler(cfg: Config, labels: Tensor, epoch: int) -> Sampler:
    """The epoch's order of samples, or of pairs over the whole set."""
    # Until `rebalance_epoch` everything is instance-balanced.
    balanced = epoch >= cfg.rebalance_epoch

    def power(tau: float) -> Sampler:
        return ClassPowerSampler(labels, tau, replacement=tau != 1.0, seed=cfg.seed)

    if not balanced or cfg.sampler == "power":
        first = power(cfg.first_tau if balanced else 1.0)
    elif cfg.sampler == "effective_number":
        first = EffectiveNumberSampler(labels, cfg.beta, seed=cfg.seed)
    elif cfg.sampler == "progressive":
        first = ProgressivelyBalancedSampler(labels, cfg.epochs, seed=cfg.seed)
    else:
        first = ClassAwareSampler(labels, seed=cfg.seed)
    if mixes(cfg, epoch) and cfg.partner == "dataset":
        return PairSampler(first, power(cfg.partner_tau if balanced else 1.0))
    return first


def make_mixer(cfg: Config, class_counts: Tensor) -> Mixer | None:
    """How pairs are mixed."""
    num_classes = len(class_counts)
    if cfg.mixer == "mixup":
        return MixUp(num_classes, cfg.alpha)
    if cfg.mixer == "cutmix":
        return CutMix(num_classes, cfg.alpha)
    if cfg.mixer == "manifold_mixup":
        return ManifoldMixUp(num_classes, cfg.alpha, layers=cfg.manifold_layers)
    if cfg.mixer == "remix":
        return ReMix(class_counts, cfg.alpha, cfg.remix_kappa, cfg.remix_tau)
    if cfg.mixer == "unimix":
        return UniMix(class_counts, cfg.alpha, in_batch_tau=cfg.partner_tau if cfg.partner == "batch" else None)
    return None


def make_loss(cfg: Config, class_counts: Tensor, epoch: int, seen: Tensor) -> nn.Module:
    """What the epoch minimises; ``seen`` is the label distribution that it is trained on."""
    prior = corrected_prior(cfg, class_counts, seen)
    losses: dict[str, Callable[[], nn.Module]] = {
        "ce": nn.CrossEntropyLoss,
        "bayias": lambda: PriorCorrectedLoss(prior, cfg.loss_tau),
        "lade": lambda: LADELoss(prior, cfg.lade_alpha, cfg.lade_lambda, cfg.loss_mode),
        # Over all classes alike, the true one included, as torch has it.
        "label_smoothing": lambda: LabelAwareSmoothingLoss(
            class_counts, cfg.smoothing, cfg.smoothing, mode="official_code"
        ),
        "label_aware_smoothing": lambda: LabelAwareSmoothingLoss(
            class_counts, cfg.smoothing_head, cfg.smoothing_tail, mode=cfg.loss_mode
        ),
        # The classifier multiplies its cosines by the scale, so that its logits are those of a softmax.
        "ldam": lambda: LDAMLoss(class_counts, cfg.ldam_margin * cfg.cosine_scale, scale=1.0),
        "focal": lambda: FocalLoss(cfg.focal_gamma),
        "cdt": lambda: CDTLoss(class_counts, cfg.cdt_gamma),
    }
    loss = losses[cfg.loss]()
    if cfg.class_weights == "none" or epoch < cfg.reweight_epoch:
        return loss
    return ClassWeightedLoss(loss, effective_number_weights(class_counts, cfg.beta))


def put_classifier(cfg: Config, model: nn.Module) -> nn.Module:
    """Replace the last layer, ``model.fc``, if the method has another one."""
    if cfg.classifier != "linear":
        size = model.fc.in_features, model.fc.out_features
        kinds = {
            "cosine": lambda: CosineClassifier(*size, scale=cfg.cosine_scale),
            "causal_norm": lambda: CausalNormClassifier(*size, alpha=cfg.causal_alpha),
        }
        model.fc = kinds[cfg.classifier]()
    return model


# --- priors -----------------------------------------------------------------------------------------------------------


def seen_prior(cfg: Config, class_counts: Tensor, mixer: Any, epoch: int, processes: int = 1) -> Tensor:
    """The label distribution that an epoch trains on, exactly: sampling and mixing both change it. float64 [C]."""
    balanced = epoch >= cfg.rebalance_epoch
    first: Any = 1.0
    if balanced:
        n, share = class_counts.double(), epoch / cfg.epochs
        first = {
            "power": cfg.first_tau,
            "effective_number": n / effective_number(class_counts, cfg.beta),
            "progressive": (1.0 - share) * n / n.sum() + share / len(n),
            "class_aware": 0.0,
        }[cfg.sampler]
    if not mixes(cfg, epoch):
        return effective_prior(class_counts, None, first)
    if cfg.partner == "batch":
        return effective_prior(class_counts, mixer, first, batch_size=cfg.batch_size // processes)
    return effective_prior(class_counts, mixer, first, cfg.partner_tau if balanced else 1.0)


def corrected_prior(cfg: Config, class_counts: Tensor, seen: Tensor) -> Tensor:
    """The prior that `bayias` and `lade` correct, by the setting `prior`. float64 [C]."""
    if cfg.prior == "effective":
        return seen
    if cfg.prior == "train":
        return class_counts.double() / class_counts.sum()
    given = torch.tensor(cfg.prior, dtype=torch.float64)
    if len(given) != len(class_counts):
        raise ValueError(f"`prior` must have one number a class, {len(class_counts)}, but has {len(given)}.")
    return given / given.sum()


def logits_prior(cfg: Config, class_counts: Tensor, mixer: Any, processes: int = 1) -> Tensor:
    """The class prior that the model's logits are under: the label distribution it saw over the one its loss corrected.

    That is at the last epoch, or the last one that mixes: the few after it, at the smallest learning rate, are left out
    of account. Focal, LDAM, CDT and smoothed losses are not those of a posterior; for them it is what they saw.
    """
    epoch = cfg.epochs - 1
    if cfg.mixer != "none" and cfg.mix_stop_epoch:
        epoch = min(epoch, cfg.mix_stop_epoch - 1)
    prior = seen = seen_prior(cfg, class_counts, mixer, epoch, processes)
    if cfg.loss in ("bayias", "lade"):
        prior = seen / corrected_prior(cfg, class_counts, seen) ** (cfg.loss_tau if cfg.loss == "bayias" else 1.0)
    if cfg.class_weights != "none" and cfg.epochs > cfg.reweight_epoch:
        prior = prior * effective_number_weights(class_counts, cfg.beta)
    return prior / prior.sum()
