"""EnvNet and EnvNet-v2 on raw waveforms, or log-mel spectrograms into any network of timm."""

from dataclasses import dataclass
from typing import Any, Literal

from ltaug.audio import EnvNet, EnvNetV2, MelNetwork, SoundNetwork
from ltaug.commandline import NonNegativeFloat, PositiveInt


@dataclass
class ModelSettings:
    """What can be said of the network."""

    model: Literal["envnet", "envnet_v2", "mel"] = "envnet"
    """EnvNet (16 kHz, 24014 samples), EnvNet-v2 (44.1 kHz, 66650 samples), or log-mel into a timm network."""
    backbone: str = "resnet18"
    """mel: any timm network."""
    pretrained: bool = False
    """mel: start from timm's weights (downloads them)."""
    mels: PositiveInt = 64
    """mel: frequency bands."""
    max_gain_db: NonNegativeFloat = 0.0
    """Strong augmentation: gain of the (mixed) sound by up to so many dB; 6 is published, 0 is off."""

    @property
    def model_name(self) -> str:
        """Name of the network in run folders."""
        return f"mel_{self.backbone}" if self.model == "mel" else self.model


def build_model(num_classes: int, cfg: Any, data: Any) -> SoundNetwork:
    """Build the network of the settings. Replace it by your own: a `SoundNetwork` that defines `logits(waveforms)`.

    It takes [N, T] to [N, C], T being `crop_length`, and ends in a linear layer `fc`; crops are averaged by itself.
    """
    if cfg.model == "mel":
        pretrained = cfg.pretrained and not cfg.from_run
        return MelNetwork(num_classes, data.sample_rate, cfg.backbone, pretrained, cfg.mels, cfg.max_gain_db)
    network = {"envnet": EnvNet, "envnet_v2": EnvNetV2}[cfg.model]
    if cfg.crop_length != network.crop_length:
        raise ValueError(
            f"`model: {cfg.model}` takes {network.crop_length} samples, but `crop_length` is {cfg.crop_length}."
        )
    return network(num_classes, cfg.max_gain_db)
