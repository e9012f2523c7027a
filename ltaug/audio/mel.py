"""Log-mel spectrograms: the front end that networks and figures share, and any timm network behind it."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from ltaug._arguments import checked
from ltaug.audio.networks import SoundNetwork
from ltaug.errors import UserError

__all__ = ["LogMel", "MelNetwork"]


class LogMel(nn.Module):
    r"""Waveforms to log-mel spectrograms, of mean 0 and deviation 1 for every clip.

    With the power :math:`P` of torchaudio's ``MelSpectrogram`` (Hann windows, triangular filters on the HTK scale),
    :math:`x = \log(1 + 10^6 P)` and the result is :math:`(x - \bar x) / (\sigma_x + 10^{-3})`, of a clip's own mean and
    deviation: how loud it is says nothing, and silence is 0. Everything is in float32, whatever the autocast type, a
    batch at once on the waveforms' device. Needs the extra ``audio`` (torchaudio).

    Args:
        sample_rate: Hz.
        mels: frequency bands, from ``f_min`` up to half of the rate.
        n_fft: samples of a window; by default the power of two nearest to 64 ms, so that each of 64 bands has at least
            one bin of the transform.
        hop_length: samples from one window to the next; by default a quarter of a window.
        f_min: lower end of the lowest band, Hz.
        masks: what happens to the finished spectrograms in training mode, [N, mels, frames] to the same shape, such as
            :class:`SpecAugment`; the masks' value 0 is the mean of a clip.

    Raises:
        ValueError: a number is out of range.

    >>> front_end = LogMel(16000)
    >>> front_end(torch.randn(2, 16000)).shape
    torch.Size([2, 64, 63])
    """

    @checked
    def __init__(
        self,
        sample_rate: int,
        mels: int = 64,
        n_fft: int | None = None,
        hop_length: int | None = None,
        f_min: float = 20.0,
        masks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if sample_rate < 100:
            raise ValueError(f"`sample_rate` is in Hz and must be at least 100, but is {sample_rate}.")
        n_fft = 2 ** round(math.log2(0.064 * sample_rate)) if n_fft is None else n_fft
        hop_length = n_fft // 4 if hop_length is None else hop_length
        for name, value, least in (("mels", mels, 1), ("n_fft", n_fft, 4), ("hop_length", hop_length, 1)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, but is {value}.")
        if not 0 <= f_min < sample_rate / 2:
            raise ValueError(f"`f_min` must lie in 0..{sample_rate / 2:g} Hz, half of the rate, but is {f_min}.")
        from torchaudio.transforms import MelSpectrogram

        self.sample_rate, self.n_fft, self.hop_length, self.f_min = sample_rate, n_fft, hop_length, float(f_min)
        mel = MelSpectrogram(sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=mels, f_min=f_min)
        self.spectrogram: nn.Module = mel.spectrogram
        self.mel_scale: nn.Module = mel.mel_scale
        # Memory of its own: torch's window is a view of a longer one, which safetensors cannot load again.
        stft: Any = self.spectrogram
        stft.window = stft.window.clone()
        self.masks = nn.Identity() if masks is None else masks

    def power(self, waveforms: Tensor) -> Tensor:
        """Compute mel spectrograms, float32 [..., mels, frames], of waveforms [..., T]; frame k lies at k hops."""
        if waveforms.shape[-1] <= self.n_fft // 2:
            raise ValueError(
                f"`waveforms` must have more than {self.n_fft // 2} samples, half of a window, but have "
                f"{waveforms.shape[-1]}. Take longer crops, or a smaller `n_fft`."
            )
        with torch.autocast(waveforms.device.type, enabled=False):
            power: Tensor = self.mel_scale(self.spectrogram(waveforms.float()))
        return power

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Compute normalised log-mel spectrograms [N, mels, frames] of waveforms [N, T], without masks."""
        # Silence is 0: the rounded mean of equal numbers may be off, which a deviation of 0 would magnify.
        x = (1 + 1e6 * self.power(waveforms)).log()
        return (x - x.mean((1, 2), keepdim=True)) / (x.std((1, 2), keepdim=True) + 1e-3)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Compute normalised log-mel spectrograms [N, mels, frames] of waveforms [N, T]; in training with masks."""
        x = self.log_mel(waveforms)
        return self.masks(x) if self.training else x


class MelNetwork(SoundNetwork):
    """A log-mel spectrogram, of mean 0 and deviation 1 for every clip, into a timm network of one input channel.

    Needs the extras ``audio`` (torchaudio) and ``vision`` (timm).

    Args:
        num_classes: C.
        sample_rate: Hz. Windows last about 64 ms, a power of two samples, and overlap by three quarters.
        backbone: any model of timm.
        pretrained: start from timm's weights, which it downloads.
        mels: frequency bands, from 20 Hz up to half of the rate.
        max_gain_db: see :class:`SoundNetwork`; without effect but for the smallest values, since clips are normalised.
        masks: see :class:`LogMel`.
        crop_length: T, samples of a waveform, which the network is tried on; a network of images of one size, such as a
            vision transformer, is made for spectrograms of this length. By default it is not tried.

    Raises:
        UserError: there is no such network, or it takes no spectrograms of this size.
    """

    def __init__(
        self,
        num_classes: int,
        sample_rate: int,
        backbone: str = "resnet18",
        pretrained: bool = False,
        mels: int = 64,
        max_gain_db: float = 0.0,
        masks: nn.Module | None = None,
        crop_length: int | None = None,
    ) -> None:
        super().__init__(max_gain_db)
        import timm

        self.mel = LogMel(sample_rate, mels, masks=masks)
        if not timm.is_model(backbone.partition(".")[0].rpartition("/")[2]):
            raise ValueError(f"`backbone` {backbone!r} is no model of timm. timm.list_models() lists them.")
        settings: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes, "in_chans": 1}
        self.backbone = timm.create_model(backbone, **settings)
        if crop_length is not None and (fault := self._fault(crop_length)):
            size = (mels, 1 + crop_length // self.mel.hop_length)
            with contextlib.suppress(TypeError):  # of networks without such an argument
                self.backbone = timm.create_model(backbone, **settings, img_size=size)
            if self._fault(crop_length):
                raise UserError(
                    f"`backbone` {backbone!r} takes no spectrograms of {size[0]} bands (`mels`) and {size[1]} frames "
                    f"(`crop_length`={crop_length}): {fault}"
                )
        stages = [info["module"] for info in getattr(self.backbone, "feature_info", None) or ()]
        known = dict(self.backbone.named_modules())
        self.mixing_layers = ("input", *[f"backbone.{name}" for name in stages if name in known][:2])

    def _fault(self, crop_length: int) -> str:
        """Say why the network takes no crops of a length; nothing if it does."""
        if crop_length <= self.mel.n_fft // 2:
            raise UserError(
                f"`crop_length` is {crop_length}, but must be more than {self.mel.n_fft // 2} samples, half of a "
                "window of the spectrogram. Take longer crops."
            )
        waveforms = 0.1 * torch.randn(1, crop_length, generator=torch.Generator().manual_seed(0))
        learning = self.backbone.training
        try:
            with torch.no_grad():
                self.backbone.eval()(self.mel.log_mel(waveforms)[:, None])
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            return " ".join(str(error).split())[:300] or type(error).__name__
        finally:
            self.backbone.train(learning)
        return ""

    @property
    def augmentations(self) -> tuple[nn.Module, ...]:
        """Parts that augment: the masks of the spectrograms, too."""
        return (self.augmentation, self.mel)

    def get_classifier(self) -> nn.Module:
        """Return the last layer of the timm network."""
        backbone: Any = self.backbone
        return backbone.get_classifier()  # type: ignore[no-any-return]

    def logits(self, waveforms: Tensor) -> Tensor:
        """Compute logits [N, C] of waveforms [N, T]; the spectrogram in float32, whatever the autocast type."""
        logits: Tensor = self.backbone(self.mel(waveforms)[:, None])
        return logits
