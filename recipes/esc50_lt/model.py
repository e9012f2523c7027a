"""EnvNet and EnvNet-v2 on raw waveforms, log-mel spectrograms into any network of timm, and pretrained transformers."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ltaug.adapters import FreezeSettings, freeze_and_adapt
from ltaug.audio import EnvNet, EnvNetV2, MelNetwork, SoundNetwork, TransformerNetwork
from ltaug.audio.augmentation import AugmentationSettings, make_augmentation, spec_augment
from ltaug.commandline import NonNegativeFloat, PositiveInt


@dataclass
class ModelSettings(AugmentationSettings, FreezeSettings):
    """What can be said of the network."""

    model: Literal["envnet", "envnet_v2", "mel", "transformers"] = "envnet"
    """EnvNet (16 kHz, 24014 samples), EnvNet-v2 (44.1 kHz, 66650 samples), log-mel into a timm network (mel), or an
    audio transformer of the hub (transformers: AST, Wav2Vec2, HuBERT, WavLM, Whisper, ...)."""
    backbone: str = "resnet18"
    """mel: any timm network; transformers: OWNER/NAME on the hub, or a folder with config.json and
    preprocessor_config.json, which says the sample rate and the longest crop."""
    pretrained: bool | None = None
    """Start from published weights (downloads them): by default true for transformers, false for mel."""
    mels: PositiveInt = 64
    """mel: frequency bands."""
    max_gain_db: NonNegativeFloat = 0.0
    """Strong augmentation: gain of the (mixed) sound by up to so many dB; 6 is published, 0 is off."""

    @property
    def model_name(self) -> str:
        """Name of the network in run folders."""
        if self.model == "transformers":
            return self.backbone.rstrip("/").rpartition("/")[2]
        return f"mel_{self.backbone}" if self.model == "mel" else self.model


def build_model(num_classes: int, cfg: Any, data: Any) -> SoundNetwork:
    """Build the network of the settings. Replace it by your own: a `SoundNetwork` that defines `logits(waveforms)`.

    It takes [N, T] to [N, C], T being `crop_length`, and ends in a linear layer `fc`; crops are averaged by itself.
    """
    network = make_network(num_classes, cfg, data)
    network.augmentation = make_augmentation(cfg, data.sample_rate)
    return freeze_and_adapt(network, cfg, torch.zeros(1, cfg.crop_length))


def make_network(num_classes: int, cfg: Any, data: Any) -> SoundNetwork:
    """Make the network of the settings; that of a second stage gets its weights from the run that it starts from."""
    pretrained = (cfg.model == "transformers" if cfg.pretrained is None else cfg.pretrained) and not cfg.from_run
    masks = spec_augment(cfg)
    settings: dict[str, Any] = {"pretrained": pretrained, "max_gain_db": cfg.max_gain_db, "masks": masks}
    if cfg.model == "mel":
        settings |= {"mels": cfg.mels, "crop_length": cfg.crop_length}
        network = MelNetwork(num_classes, data.sample_rate, cfg.backbone, **settings)
        data.front_end = network.mel  # reports show what it sees
        return network
    if cfg.model == "transformers":
        return TransformerNetwork(num_classes, cfg.backbone, data.sample_rate, cfg.crop_length, **settings)
    network = {"envnet": EnvNet, "envnet_v2": EnvNetV2}[cfg.model]
    if cfg.crop_length != network.crop_length:
        raise ValueError(
            f"`model: {cfg.model}` takes {network.crop_length} samples, but `crop_length` is {cfg.crop_length}."
        )
    if not isinstance(masks, torch.nn.Identity):
        raise ValueError(f"`model: {cfg.model}` sees no spectrogram to mask: leave out `n_time_masks`, `n_freq_masks`.")
    return network(num_classes, cfg.max_gain_db)
