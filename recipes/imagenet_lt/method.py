"""What a method is made of: which images an epoch draws, how they are mixed, what is minimised.

All are functions of the config and the epoch, so that nothing has to be saved to resume. Which prior the loss corrects
and which one the logits are under follows from them as well.
"""

from typing import Any

from config import Config
from torch import Tensor, nn
from torch.utils.data import Sampler

from ltaug import ClassPowerSampler, CutMix, LADELoss, MixUp, PairSampler, PriorCorrectedLoss, UniMix, effective_prior


def mixes(cfg: Config, epoch: int) -> bool:
    """Whether this epoch mixes."""
    return cfg.mixer != "none" and not cfg.reached(epoch, cfg.mix_stop_at)


def taus(cfg: Config, epoch: int) -> tuple[float, float]:
    """Exponents of the class probabilities of the first sample and the partner; 1 until `rebalance_at`."""
    return (cfg.first_tau, cfg.partner_tau) if cfg.reached(epoch, cfg.rebalance_at) else (1.0, 1.0)


def make_sampler(cfg: Config, labels: Tensor, epoch: int) -> Sampler:
    """The epoch's order of images, or of pairs over the whole set."""
    first, partner = (ClassPowerSampler(labels, tau, replacement=tau != 1.0, seed=cfg.seed) for tau in taus(cfg, epoch))
    sampler = PairSampler(first, partner) if mixes(cfg, epoch) and cfg.partner == "dataset" else first
    sampler.set_epoch(epoch)
    return sampler


def make_mixer(cfg: Config, class_counts: Tensor) -> Any:
    """How pairs are mixed."""
    num_classes = len(class_counts)
    if cfg.mixer == "mixup":
        return MixUp(num_classes, cfg.alpha)
    if cfg.mixer == "cutmix":
        return CutMix(num_classes, cfg.alpha)
    if cfg.mixer == "unimix":
        return UniMix(class_counts, cfg.alpha, in_batch_tau=cfg.partner_tau if cfg.partner == "batch" else None)
    return None


def seen_prior(cfg: Config, class_counts: Tensor, mixer: Any, epoch: int, processes: int = 1) -> Tensor:
    """The label distribution that an epoch trains on: sampling and mixing both change it. float64 [C]."""
    first, partner = taus(cfg, epoch)
    if not mixes(cfg, epoch):
        return effective_prior(class_counts, None, first)
    if cfg.partner == "batch":
        return effective_prior(class_counts, mixer, first, batch_size=cfg.batch_size // processes)
    return effective_prior(class_counts, mixer, first, partner)


def make_loss(cfg: Config, class_counts: Tensor, seen: Tensor) -> nn.Module:
    """What an epoch minimises; ``seen`` is the label distribution that it is trained on."""
    prior = corrected_prior(cfg, class_counts, seen)
    if cfg.loss == "bayias":
        return PriorCorrectedLoss(prior, cfg.loss_tau)
    if cfg.loss == "lade":
        return LADELoss(prior, cfg.lade_alpha, cfg.lade_lambda)
    return nn.CrossEntropyLoss()


def corrected_prior(cfg: Config, class_counts: Tensor, seen: Tensor) -> Tensor:
    """The prior that `bayias` and `lade` correct, by the setting `prior`. float64 [C]."""
    return seen if cfg.prior == "effective" else class_counts.double() / class_counts.sum()


def logits_prior(cfg: Config, class_counts: Tensor, mixer: Any, processes: int = 1) -> Tensor:
    """The class prior that the model's logits are under: the label distribution it saw over the one its loss corrected.

    That is at the last epoch, or the last one that mixes. float64 [C].
    """
    epoch = cfg.epochs - 1
    if cfg.mixer != "none" and cfg.mix_stop_at < 1:
        epoch = max(0, round(cfg.mix_stop_at * cfg.epochs) - 1)
    prior = seen = seen_prior(cfg, class_counts, mixer, epoch, processes)
    if cfg.loss != "ce":
        prior = seen / corrected_prior(cfg, class_counts, seen) ** (cfg.loss_tau if cfg.loss == "bayias" else 1.0)
    return prior / prior.sum()
