"""What a method is made of: which images an epoch draws, how they are mixed, what is minimised.

All are functions of the config and the epoch, so that nothing has to be saved to resume. Which prior the loss corrects
and which one the logits are under follows from them as well.
"""

from typing import Any

from config import COSINE_SCALE, Config
from torch import Tensor, nn
from torch.utils.data import Sampler

from ltaug import (
    ClassPowerSampler,
    ClassWeightedLoss,
    LADELoss,
    LDAMLoss,
    MixUp,
    PairSampler,
    PriorCorrectedLoss,
    UniMix,
    effective_number_weights,
    effective_prior,
)


def mixes(cfg: Config, epoch: int) -> bool:
    """Whether this epoch mixes."""
    return cfg.mixer != "none" and not cfg.reached(epoch, cfg.mix_stop_at)


def reweights(cfg: Config, epoch: int) -> bool:
    """Whether this epoch weights the images by their classes."""
    return cfg.class_weights != "none" and cfg.reached(epoch, cfg.reweight_at)


def make_sampler(cfg: Config, labels: Tensor, epoch: int) -> Sampler:
    """The epoch's order of images, or of pairs over the whole set."""
    first, partner = (
        ClassPowerSampler(labels, tau, replacement=tau != 1.0, seed=cfg.seed) for tau in (1.0, cfg.partner_tau)
    )
    sampler = PairSampler(first, partner) if mixes(cfg, epoch) and cfg.partner == "dataset" else first
    sampler.set_epoch(epoch)
    return sampler


def make_mixer(cfg: Config, class_counts: Tensor) -> Any:
    """How pairs are mixed."""
    if cfg.mixer == "mixup":
        return MixUp(len(class_counts), cfg.alpha)
    if cfg.mixer == "unimix":
        return UniMix(class_counts, cfg.alpha, in_batch_tau=cfg.partner_tau if cfg.partner == "batch" else None)
    return None


def seen_prior(cfg: Config, class_counts: Tensor, mixer: Any, epoch: int, processes: int = 1) -> Tensor:
    """The label distribution that an epoch trains on: sampling and mixing both change it. float64 [C]."""
    if not mixes(cfg, epoch):
        return effective_prior(class_counts, None, 1.0)
    if cfg.partner == "batch":
        return effective_prior(class_counts, mixer, 1.0, batch_size=cfg.batch_size // processes)
    return effective_prior(class_counts, mixer, 1.0, cfg.partner_tau)


def make_loss(cfg: Config, class_counts: Tensor, epoch: int, seen: Tensor) -> nn.Module:
    """What an epoch minimises; ``seen`` is the label distribution that it is trained on."""
    prior = corrected_prior(cfg, class_counts, seen)
    loss: nn.Module = nn.CrossEntropyLoss()
    if cfg.loss == "bayias":
        loss = PriorCorrectedLoss(prior, cfg.loss_tau)
    if cfg.loss == "lade":
        loss = LADELoss(prior, cfg.lade_alpha, cfg.lade_lambda)
    if cfg.loss == "ldam":
        # The classifier multiplies its cosines by the scale, so that its logits are those of a softmax.
        loss = LDAMLoss(class_counts, cfg.ldam_margin * COSINE_SCALE, scale=1.0)
    if not reweights(cfg, epoch):
        return loss
    return ClassWeightedLoss(loss, effective_number_weights(class_counts, cfg.beta))


def corrected_prior(cfg: Config, class_counts: Tensor, seen: Tensor) -> Tensor:
    """The prior that `bayias` and `lade` correct, by the setting `prior`. float64 [C]."""
    return seen if cfg.prior == "effective" else class_counts.double() / class_counts.sum()


def logits_prior(cfg: Config, class_counts: Tensor, mixer: Any, processes: int = 1) -> Tensor:
    """The class prior that the model's logits are under: the label distribution it saw over the one its loss corrected.

    That is at the last epoch, or the last one that mixes. LDAM's is not the loss of a posterior; there it is what the
    model saw. float64 [C].
    """
    epoch = cfg.epochs - 1
    if cfg.mixer != "none" and cfg.mix_stop_at < 1:
        epoch = max(0, round(cfg.mix_stop_at * cfg.epochs) - 1)
    prior = seen = seen_prior(cfg, class_counts, mixer, epoch, processes)
    if cfg.loss in ("bayias", "lade"):
        prior = seen / corrected_prior(cfg, class_counts, seen) ** (cfg.loss_tau if cfg.loss == "bayias" else 1.0)
    if reweights(cfg, cfg.epochs - 1):
        prior = prior * effective_number_weights(class_counts, cfg.beta)
    return prior / prior.sum()
