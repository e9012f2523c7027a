"""The base class of networks of sound, and EnvNet and EnvNet-v2 on raw waveforms, with the published shapes.

EnvNet: Tokozume and Harada, ICASSP 2017. EnvNet-v2: Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["EnvNet", "EnvNetV2", "SoundNetwork"]


class SoundNetwork(nn.Module, ABC):
    """Base class of networks from waveforms to logits; a subclass defines :meth:`logits`.

    In training mode, waveforms [N, T] become logits [N, C]. In evaluation mode, K crops or windows a clip, [N, K, T],
    become the logits of the clip's probabilities, [N, C], which are the mean over the windows or, where ``aggregate``
    is "max", the greatest of them:

    * of classes that exclude each other, softmax takes the logits back to the probabilities (to the greatest ones
      divided by their sum);
    * of several labels a clip (``several_labels``), the sigmoid does, label by label.

    The network sees ``windows_at_once`` windows at a time, so that recordings may have any number of them. Where the
    classifier is replaced by ``nn.Identity``, features are averaged instead.

    In training mode waveforms go through the attribute ``augmentation`` first: any module from [N, T] to [N, T], such
    as ``nn.Sequential(Reverb(sample_rate), AddNoise(sample_rate))``.

    Args:
        max_gain_db: gain that a waveform gets in training mode, drawn between minus and plus this; 0 is none. Mixed
            sounds are amplified as a whole (Tokozume et al., ICLR 2018, whose value is 6).

    >>> class Loudness(SoundNetwork):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(1, 3)
    ...     def logits(self, waveforms):
    ...         return self.fc(waveforms.square().mean(1, keepdim=True))
    >>> Loudness()(torch.zeros(2, 100)).shape
    torch.Size([2, 3])
    >>> Loudness().eval()(torch.zeros(2, 10, 100)).exp().sum(1).round()
    tensor([1., 1.], grad_fn=<RoundBackward0>)
    """

    mixing_layers: tuple[str, ...] = ("input",)
    """Modules that manifold mixup mixes behind."""
    several_labels = False
    """Whether each output is a label of its own, as :meth:`ltaug.methods.TrainingPlan.attach` finds it."""
    aggregate: Literal["mean", "max"] = "mean"
    """What becomes of the probabilities of several windows; :func:`ltaug.training.arrange` takes it from settings."""
    windows_at_once = 80
    """Eight clips of ten crops."""

    def __init__(self, max_gain_db: float = 0.0) -> None:
        super().__init__()
        if not 0 <= max_gain_db < float("inf"):
            raise ValueError(f"`max_gain_db` must not be negative, but is {max_gain_db}.")
        self.max_gain_db = max_gain_db
        self.augmentation: nn.Module = nn.Identity()

    @property
    def augmentations(self) -> tuple[nn.Module, ...]:
        """Parts that augment: they follow ``train()`` where the backbone is frozen."""
        return (self.augmentation,)

    @abstractmethod
    def logits(self, waveforms: Tensor) -> Tensor:
        """Compute logits [N, C] of waveforms [N, T]."""

    def augmented(self, waveforms: Tensor) -> Tensor:
        """Augment waveforms [N, T] in training mode."""
        changed: Tensor = self.augmentation(waveforms)
        return changed

    def get_classifier(self) -> nn.Module:
        """Return the last layer, by timm's name for it; by default the attribute ``fc``."""
        return self.fc  # type: ignore[return-value]

    def forward(self, waveforms: Tensor) -> Tensor:
        """Compute logits of waveforms [N, T], or of clips by the windows of each, [N, K, T]."""
        if waveforms.ndim == 2:
            if self.training:
                waveforms = self.augmented(waveforms)
            if self.training and self.max_gain_db:
                decibels = self.max_gain_db * (2 * torch.rand(len(waveforms), 1, device=waveforms.device) - 1)
                waveforms = waveforms * 10 ** (decibels / 20)
            return self.logits(waveforms)
        size, windows, length = waveforms.shape
        # A process may have no clip of a last batch. It hears silence, since convolutions refuse an empty batch.
        waveforms = waveforms if size else waveforms.new_zeros(1, windows, length)
        together = waveforms.flatten(0, 1)  # of one clip no copy, though its windows overlap
        # An exported graph has one part, of any number of windows.
        exporting = torch.compiler.is_exporting()
        parts = (together,) if exporting else torch.split(together, self.windows_at_once)
        outputs = torch.cat([self.logits(part).float() for part in parts])
        outputs = outputs.view(-1, windows, outputs.shape[1])[:size]
        if isinstance(self.get_classifier(), nn.Identity):
            return outputs.mean(1)
        if self.several_labels:
            if self.aggregate == "max":
                return outputs.amax(1)
            present, absent = (side.sigmoid().mean(1).clamp_min(1e-30).log() for side in (outputs, -outputs))
            return present - absent
        probs = outputs.softmax(2)
        probs = probs.amax(1) if self.aggregate == "max" else probs.mean(1)
        return probs.clamp_min(1e-30).log()


class _WaveformNetwork(SoundNetwork):
    """Convolutions over time turn waveforms into images of learned frequencies, which further convolutions see."""

    crop_length: int
    """Samples that the published shapes are for."""
    mixing_layers = ("input", "filters", "image")
    channels_last_on_cpu = False
    """In fp32, gradients of filters over time take up to 17 times as long in that memory layout: half the speed."""

    def __init__(
        self, filters: nn.Sequential, image: nn.Sequential, features: int, num_classes: int, max_gain_db: float
    ) -> None:
        super().__init__(max_gain_db)
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

    def logits(self, waveforms: Tensor) -> Tensor:
        """Compute logits [N, C] of waveforms [N, crop_length]."""
        x = self.filters(waveforms[:, None, None])
        x = self.image(x.transpose(1, 2))  # the filters become the height of an image of one channel
        logits: Tensor = self.fc(self.hidden(x.flatten(1)))
        return logits


class EnvNet(_WaveformNetwork):
    """EnvNet, on 24,014 samples at 16 kHz; 48.6 M parameters for 50 classes.

    Args:
        num_classes: C.
        max_gain_db: see :class:`SoundNetwork`.
    """

    crop_length = 24_014

    def __init__(self, num_classes: int, max_gain_db: float = 0.0) -> None:
        filters = nn.Sequential(_conv(1, 40, (1, 8)), _conv(40, 40, (1, 8)), nn.MaxPool2d((1, 160)))
        image = nn.Sequential(_conv(1, 50, (8, 13)), nn.MaxPool2d((3, 3)), _conv(50, 50, (1, 5)), nn.MaxPool2d((1, 3)))
        super().__init__(filters, image, 50 * 11 * 14, num_classes, max_gain_db)


class EnvNetV2(_WaveformNetwork):
    """EnvNet-v2, on 66,650 samples at 44.1 kHz; 101.3 M parameters for 50 classes.

    Args:
        num_classes: C.
        max_gain_db: see :class:`SoundNetwork`.
    """

    crop_length = 66_650

    def __init__(self, num_classes: int, max_gain_db: float = 0.0) -> None:
        filters = nn.Sequential(_conv(1, 32, (1, 64), (1, 2)), _conv(32, 64, (1, 16), (1, 2)), nn.MaxPool2d((1, 64)))
        image = nn.Sequential(
            *(_conv(1, 32, (8, 8)), _conv(32, 32, (8, 8)), nn.MaxPool2d((5, 3))),
            *(_conv(32, 64, (1, 4)), _conv(64, 64, (1, 4)), nn.MaxPool2d((1, 2))),
            *(_conv(64, 128, (1, 2)), _conv(128, 128, (1, 2)), nn.MaxPool2d((1, 2))),
            *(_conv(128, 256, (1, 2)), _conv(256, 256, (1, 2)), nn.MaxPool2d((1, 2))),
        )
        super().__init__(filters, image, 256 * 10 * 8, num_classes, max_gain_db)


def _conv(in_channels: int, channels: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )
