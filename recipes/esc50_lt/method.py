"""What a method is made of: which clips an epoch draws, how they are mixed, what is minimised.

All are functions of the config and the epoch, so that nothing has to be saved to resume. Which prior the logits are
under follows from them as well.
"""

from typing import Any

from config import Config
from torch import Tensor, nn
from torch.utils.data import Sampler

from ltaug import BetweenClass, ClassPowerSampler, MixUp, PairSampler, PriorCorrectedLoss, UniMix, effective_prior


def mixes(cfg: Config, epoch: int) -> bool:
    """Whether this epoch mixes pairs."""
    return cfg.mixer != "none" and not cfg.reached(epoch, cfg.mix_stop_at)


def taus(cfg: Config, epoch: int) -> tuple[float, float]:
    """Exponents of the class probabilities of the first sample and the partner; 1 until `rebalance_at`."""
    return (cfg.first_tau, cfg.partner_tau) if cfg.reached(epoch, cfg.rebalance_at) else (1.0, 1.0)


def make_sampler(cfg: Config, labels: Tensor, epoch: int) -> Sampler:
    """The epoch's order of clips, or of pairs over the whole set."""
    first, partner = (ClassPowerSampler(labels, tau, replacement=tau != 1.0, seed=cfg.seed) for tau in taus(cfg, epoch))
    if not mixes(cfg, epoch):
        return first
    return PairSampler(first, partner, different_classes=labels if cfg.different_classes else None)


def make_mixer(cfg: Config, class_counts: Tensor) -> Any:
    """How pairs are mixed."""
    if cfg.mixer == "none":
        return None
    num_classes = len(class_counts)
    ratio = UniMix(class_counts, cfg.alpha) if cfg.mixer.startswith("unimix") else MixUp(num_classes, cfg.alpha)
    return BetweenClass(num_classes, cfg.sample_rate, ratio) if "between_class" in cfg.mixer else ratio


def make_loss(cfg: Config, class_counts: Tensor) -> nn.Module:
    """What is minimised. The Kullback-Leibler divergence of between-class learning has cross-entropy's gradient."""
    return PriorCorrectedLoss(class_counts, cfg.loss_tau) if cfg.loss == "bayias" else nn.CrossEntropyLoss()


def logits_prior(cfg: Config, class_counts: Tensor, mixer: Any) -> Tensor:
    """The class prior that the model's logits are under: the label distribution it saw over the one its loss corrected.

    That is at the last epoch, or the last one that mixes. float64 [C].
    """
    epoch = max((k for k in range(cfg.epochs) if mixes(cfg, k)), default=cfg.epochs - 1)
    first, partner = taus(cfg, epoch)
    if mixes(cfg, epoch):
        prior = effective_prior(class_counts, mixer, first, partner, different_classes=cfg.different_classes)
    else:
        prior = effective_prior(class_counts, None, first)
    if cfg.loss == "bayias":
        prior = prior / class_counts.double() ** cfg.loss_tau
    return prior / prior.sum()
