"""DeepLabV3+ of segmentation-models-pytorch on any encoder of timm, one network a modality."""

from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.commandline import PositiveInt
from ltaug.errors import UserError, did_you_mean
from ltaug.vision.networks import short_name


@dataclass
class ModelSettings:
    """What can be said of the network."""

    model: str = "resnet101"
    """Encoder: any network of timm that gives features of several sizes."""
    pretrained: bool = True
    """Start the encoder from its published weights, which are downloaded."""
    decoder_channels: PositiveInt = 256
    """Channels of the decoder, and of the features of a pixel."""

    @property
    def model_name(self) -> str:
        """Name of the network in run folders, with what it sees."""
        return f"{short_name(self.model)}_{self.modality}"


class Segmenter(nn.Module):
    """Logits [N, num_classes, H, W] of images [N, C, H, W]: a linear classifier of each pixel's features.

    The classifier is a linear layer, not a convolution, so that methods can replace it.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        missing = [-side % 32 for side in size]  # of a size that the strides divide
        images = F.pad(images, (0, missing[1], 0, missing[0]))
        logits = self.classifier(self.decoder(self.encoder(images)).movedim(1, -1)).movedim(-1, 1)
        whole = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return whole[..., : size[0], : size[1]].contiguous()


def build_model(num_classes: int, cfg: Any, data: Any) -> nn.Module:
    """The network of the settings. Replace it by your own: images to logits [N, num_classes, H, W], whose last layer
    is a linear one called classifier.
    """
    if not timm.is_model(cfg.model):
        hint = did_you_mean(cfg.model, timm.list_models()) or "."
        raise UserError(f"`model` {cfg.model!r} is no network of timm{hint}")
    processes = PartialState().num_processes
    if cfg.batch_size // (1 if cfg.sync_bn else processes) < 2:
        raise UserError(
            f"`batch_size` {cfg.batch_size} on {processes} process(es) leaves one of them a single scene, of which the "
            f"decoder's batch norm has no statistics. Take --batch_size {2 * processes} or more; or, on several GPUs, "
            "--sync_bn true with at least 2."
        )
    try:
        whole = smp.DeepLabV3Plus(
            f"tu-{cfg.model}",
            encoder_weights=True if cfg.pretrained else None,
            in_channels=len(data.mean),
            decoder_channels=cfg.decoder_channels,
            classes=num_classes,
        )
    except (ValueError, RuntimeError) as error:  # of networks whose features all have one size
        raise UserError(
            f"`model` {cfg.model} cannot be an encoder of DeepLabV3+ ({str(error).rstrip('.')}). Take one whose "
            "features get smaller step by step, such as resnet50, mobilenetv3_large_100 or tf_efficientnet_b0."
        ) from error
    return Segmenter(whole.encoder, whole.decoder, cfg.decoder_channels, num_classes)
