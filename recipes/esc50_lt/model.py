"""EnvNet and EnvNet-v2 on raw waveforms, with the published shapes, and a log-mel spectrogram into any timm backbone.

EnvNet: Tokozume and Harada, ICASSP 2017. EnvNet-v2: Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282.
"""

from typing import Any

import torch
from torch import Tensor, nn


def conv(in_channels: int, channels: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


class WaveformNetwork(nn.Module):
    """Convolutions over time turn waveforms [N, T] into images of learned frequencies; convolutions see these."""

    crop_length: int
    """The samples that the published shapes are for."""

    def __init__(self, filters: nn.Sequential, image: nn.Sequential, features: int, num_classes: int) -> None:
        super().__init__()
        self.filters, self.image = filters, image
        self.hidden = nn.Sequential(
            nn.Linear(features, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        self.fc = nn.Linear(4096, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)

    def forward(self, waveforms: Tensor) -> Tensor:
        x = self.filters(waveforms[:, None, None])
        x = self.image(x.transpose(1, 2))  # the filters become the height of an image of one channel
        return self.fc(self.hidden(x.flatten(1)))


class EnvNet(WaveformNetwork):
    """Inputs [N, 24014] at 16 kHz, logits [N, num_classes]; 48.6 M parameters for 50 classes."""

    crop_length = 24_014

    def __init__(self, num_classes: int) -> None:
        filters = nn.Sequential(conv(1, 40, (1, 8)), conv(40, 40, (1, 8)), nn.MaxPool2d((1, 160)))
        image = nn.Sequential(conv(1, 50, (8, 13)), nn.MaxPool2d((3, 3)), conv(50, 50, (1, 5)), nn.MaxPool2d((1, 3)))
        super().__init__(filters, image, 50 * 11 * 14, num_classes)


class EnvNetV2(WaveformNetwork):
    """Inputs [N, 66650] at 44.1 kHz, logits [N, num_classes]; 101.3 M parameters for 50 classes."""

    crop_length = 66_650

    def __init__(self, num_classes: int) -> None:
        filters = nn.Sequential(conv(1, 32, (1, 64), (1, 2)), conv(32, 64, (1, 16), (1, 2)), nn.MaxPool2d((1, 64)))
        image = nn.Sequential(
            conv(1, 32, (8, 8)),
            conv(32, 32, (8, 8)),
            nn.MaxPool2d((5, 3)),
            conv(32, 64, (1, 4)),
            conv(64, 64, (1, 4)),
            nn.MaxPool2d((1, 2)),
            conv(64, 128, (1, 2)),
            conv(128, 128, (1, 2)),
            nn.MaxPool2d((1, 2)),
            conv(128, 256, (1, 2)),
            conv(256, 256, (1, 2)),
            nn.MaxPool2d((1, 2)),
        )
        super().__init__(filters, image, 256 * 10 * 8, num_classes)


class MelNetwork(nn.Module):
    """A log-mel spectrogram, every clip's of mean 0 and deviation 1, into a timm backbone of one input channel."""

    def __init__(self, num_classes: int, sample_rate: int, backbone: str, pretrained: bool, mels: int) -> None:
        super().__init__()
        import timm
        from torchaudio.transforms import MelSpectrogram

        # Windows of 64 ms every 16 ms: at least one bin of the transform for each of 64 bands.
        window = 2 ** round(torch.tensor(0.064 * sample_rate).log2().item())
        self.mel = MelSpectrogram(sample_rate, n_fft=window, hop_length=window // 4, n_mels=mels, f_min=20.0)
        # Memory of its own: torch's window is a view of a longer one, which safetensors cannot load again.
        self.mel.spectrogram.window = self.mel.spectrogram.window.clone()
        if not timm.is_model(backbone.partition(".")[0].rpartition("/")[2]):
            raise ValueError(f"`backbone` {backbone!r} is no model of timm. timm.list_models() lists them.")
        self.backbone = timm.create_model(backbone, pretrained=pretrained, num_classes=num_classes, in_chans=1)

    def forward(self, waveforms: Tensor) -> Tensor:
        with torch.autocast(waveforms.device.type, enabled=False):
            x = (self.mel(waveforms.float()) + 1e-6).log()
            x = (x - x.mean((1, 2), keepdim=True)) / (x.std((1, 2), keepdim=True) + 1e-3)
        return self.backbone(x[:, None])


def build_model(num_classes: int, cfg: Any) -> nn.Module:
    """The network of a config. Replace it by your own: anything from waveforms [N, T] to logits [N, num_classes]."""
    if cfg.model == "mel_timm":
        return MelNetwork(num_classes, cfg.sample_rate, cfg.backbone, cfg.pretrained, cfg.mels)
    network = {"envnet": EnvNet, "envnet_v2": EnvNetV2}[cfg.model]
    if cfg.crop_length != network.crop_length:
        raise ValueError(
            f"`model: {cfg.model}` takes {network.crop_length} samples, but `crop_length` is {cfg.crop_length}."
        )
    return network(num_classes)


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
