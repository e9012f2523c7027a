"""Audio transformers of the hub, or of a folder, on waveforms: AST, Wav2Vec2, HuBERT, WavLM, Whisper and others.

Needs the extras ``transformers`` and ``audio``; importing needs neither.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.audio.networks import SoundNetwork
from ltaug.errors import UserError

__all__ = ["TransformerNetwork"]


class TransformerNetwork(SoundNetwork):
    """A network of transformers for audio classification, on waveforms.

    It is opened by ``AutoModelForAudioClassification``, with a new last layer unless it has C outputs already. What its
    ``AutoFeatureExtractor`` computes from a waveform is computed here, a batch at a time and on the device: the log-mel
    spectrograms of AST and of Whisper's encoder, padded to their length, and the normalised waveforms of Wav2Vec2,
    HuBERT, WavLM, SEW, UniSpeech and Data2VecAudio. Of those that were trained with attention masks, the zeros at both
    ends of a crop are masked. Any other extractor is called itself, clip by clip on the CPU. Layers are never skipped
    at random (``layerdrop``), which several processes could not do together.

    Args:
        num_classes: C.
        backbone: OWNER/NAME on the hub, or a folder with config.json, preprocessor_config.json and, if ``pretrained``,
            model.safetensors.
        sample_rate: Hz of the waveforms; must be the extractor's.
        crop_length: T, samples of a waveform, at most what the extractor takes.
        pretrained: start from the saved weights; else from random ones.
        max_gain_db: see :class:`SoundNetwork`.
        masks: what happens to finished spectrograms in training mode, as in :class:`LogMel`; of AST and Whisper.

    Raises:
        UserError: transformers is not installed, there is no such network or none for audio classification, or it takes
            another sample rate or length.
        ConnectionError: it cannot be downloaded.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str,
        sample_rate: int,
        crop_length: int,
        pretrained: bool = True,
        max_gain_db: float = 0.0,
        masks: nn.Module | None = None,
    ) -> None:
        super().__init__(max_gain_db)
        self.masks = nn.Identity() if masks is None else masks
        place = _place(backbone)
        self.network: Any
        self.network, extractor = _open(place, num_classes, pretrained)
        if sample_rate != extractor.sampling_rate:
            raise UserError(
                f"`backbone` {backbone!r} takes {extractor.sampling_rate} samples a second, but `sample_rate` is "
                f"{sample_rate}. Set `sample_rate: {extractor.sampling_rate}`: recordings of any rate are resampled."
            )
        self.inputs = _inputs_of(extractor, self.network.config)
        if (longest := self.inputs.longest) is not None and crop_length > longest:
            raise UserError(
                f"`backbone` {backbone!r} takes at most {longest} samples, but `crop_length` is {crop_length}. Shorten "
                "the crops: of longer clips several are drawn."
            )
        if not isinstance(self.masks, nn.Identity) and not isinstance(self.inputs, _Fbanks | _LogMels):
            raise UserError(
                f"`backbone` {backbone!r} sees no spectrogram that could be masked: leave out `n_time_masks` and "
                "`n_freq_masks`. Wav2Vec2 and its relatives mask frames by themselves (`mask_time_prob`)."
            )
        self._try(backbone, crop_length)

    @property
    def augmentations(self) -> tuple[nn.Module, ...]:
        """Parts that augment: the masks of the spectrograms, too."""
        return (self.augmentation, self.masks)

    def augmented(self, waveforms: Tensor) -> Tensor:
        """Augment waveforms [N, T]; noise ends where the sound does, as attention masks do."""
        changed = super().augmented(waveforms)
        if not isinstance(self.inputs, _Waveforms) or not self.inputs.extractor.return_attention_mask:
            return changed
        start, size = self.inputs.span(waveforms)
        places = torch.arange(waveforms.shape[1], device=waveforms.device)
        return changed * ((places >= start) & (places < start + size))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        layer: nn.Module = self.network.get_submodule(self._classifier)
        return layer

    def logits(self, waveforms: Tensor) -> Tensor:
        """Compute logits [N, C] of waveforms [N, T]; what they are turned into in float32, whatever the autocast."""
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            inputs = self.inputs(waveforms.float())
            if self.training and isinstance(self.inputs, _Fbanks):  # frames first
                inputs = {name: self.masks(values.mT).mT for name, values in inputs.items()}
            elif self.training and isinstance(self.inputs, _LogMels):
                inputs = {name: self.masks(values) for name, values in inputs.items()}
        logits: Tensor = self.network(**inputs).logits
        return logits

    def _try(self, backbone: str, crop_length: int) -> None:
        """Run the network once: to see whether it takes the crops, where its classifier is, and which parts learn."""
        outputs: dict[str, Any] = {}
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
            for name, module in self.network.named_modules()
            if name
        ]
        noise = 0.1 * torch.randn(1, crop_length, generator=torch.Generator().manual_seed(0))
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}  # which batch norm moves
        try:
            inputs = self.inputs(noise)
            logits = torch.func.functional_call(self.network.train(), buffers, (), inputs).logits
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            told = " ".join(str(error).split())[:300]
            raise UserError(f"`backbone` {backbone!r} takes no crops of `crop_length`={crop_length}: {told}") from error
        finally:
            for hook in hooks:
                hook.remove()
        linear = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        ends = [name for name in linear if outputs.get(name) is logits]
        if not ends or logits.shape != (1, self.network.config.num_labels):
            raise UserError(f"`backbone` {backbone!r} does not end in one linear layer, which every method needs.")
        self._classifier = ends[-1]
        blocks = [
            f"{name}.{k}" for name, module in self.network.named_modules() if _are_layers(module) for k in range(2)
        ]
        mixed = [name for name in blocks if isinstance(outputs.get(name), Tensor) and len(outputs[name]) == 1]
        self.mixing_layers = ("input", *(f"network.{name}" for name in mixed[:2]))
        # What no gradient reaches, such as the embedding of masked frames where none is masked, does not learn: several
        # processes would wait for it.
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(logits.sum(), learning, allow_unused=True)
        for parameter, gradient in zip(learning, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def _are_layers(module: nn.Module) -> bool:
    """Whether a module is the sequence of a transformer's layers."""
    return (
        isinstance(module, nn.ModuleList)
        and len(module) > 1
        and any("attention" in type(part).__name__.lower() for part in module[0].modules())
    )


def _place(backbone: str) -> str:
    """Folder or hub id; nothing that is meant as a folder is looked up on the hub."""
    place = os.path.expanduser(backbone)
    if (Path(place) / "config.json").is_file():
        return place
    parts = backbone.split("/")
    if Path(place).exists() or len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise UserError(
            f"`backbone` {backbone!r} is neither a folder with config.json and preprocessor_config.json nor OWNER/NAME "
            "of an audio network on the hub, such as MIT/ast-finetuned-audioset-10-10-0.4593."
        )
    return place


def _open(place: str, num_classes: int, pretrained: bool) -> tuple[nn.Module, Any]:
    """Network and feature extractor of a folder or of the hub."""
    try:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification
        from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as KNOWN
    except ImportError as error:
        raise UserError(
            '`model: transformers` needs transformers. Install it with `pip install "ltaug[transformers]"`.'
        ) from error
    try:
        config = AutoConfig.from_pretrained(place, num_labels=num_classes)
        if config.model_type not in KNOWN:
            raise UserError(
                f"`backbone` {place!r} is a network of type {config.model_type}, which transformers has no audio "
                f"classifier of. It has of {', '.join(KNOWN)}."
            )
        for name in ("layerdrop", "encoder_layerdrop"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
        extractor = AutoFeatureExtractor.from_pretrained(place)
        if not pretrained:
            return AutoModelForAudioClassification.from_config(config), extractor
        found = {"config": config, "ignore_mismatched_sizes": True, "dtype": torch.float32}
        return AutoModelForAudioClassification.from_pretrained(place, **found), extractor
    except UserError:
        raise
    except OSError as error:
        told = " ".join(str(error).split())[:300]
        if Path(place).is_dir():
            raise UserError(f"`backbone` {place!r} cannot be read: {told}") from error
        from ltaug.hub import hub_reason

        told = hub_reason(error, place) or told
        raise ConnectionError(
            f"`backbone` {place!r} could not be loaded ({told}). Offline ways: a cache filled earlier "
            "(HF_HUB_OFFLINE=1), or a folder with its config.json, preprocessor_config.json and model.safetensors."
        ) from error
    except (ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise UserError(f"`backbone` {place!r} is no audio network that transformers opens: {told}") from error


class _Inputs(nn.Module):
    """From waveforms [N, T] to what a network is called with, as its feature extractor computes it."""

    longest: int | None = None
    """Samples beyond which the extractor would cut a waveform off."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, waveforms: Tensor) -> dict[str, Tensor]:
        """Call the extractor itself, on the CPU."""
        if torch.compiler.is_exporting():
            raise UserError(
                f"The network's {type(self.extractor).__name__} computes outside of torch, so that no exported file "
                "can do it. Use the run where ltaug is installed; networks of AST, Whisper, Wav2Vec2, HuBERT and "
                "WavLM can be exported."
            )
        clips, rate = list(waveforms.cpu().numpy()), self.extractor.sampling_rate
        padding = "max_length" if type(self.extractor).__name__ == "WhisperFeatureExtractor" else True
        found = self.extractor(clips, sampling_rate=rate, padding=padding, return_tensors="pt")
        return {name: value.to(waveforms.device) for name, value in found.items()}


def _inputs_of(extractor: Any, config: Any) -> _Inputs:
    kind = type(extractor).__name__
    if kind == "ASTFeatureExtractor":
        return _Fbanks(extractor)
    if kind == "WhisperFeatureExtractor" and not getattr(extractor, "dither", 0.0):
        return _LogMels(extractor)
    if kind == "Wav2Vec2FeatureExtractor":
        return _Waveforms(extractor, config)
    return _Inputs(extractor)


class _Fbanks(_Inputs):
    """Kaldi's filter banks, as AST takes them: windows of 25 ms every 10 ms, zeros up to the length, normalised."""

    def __init__(self, extractor: Any) -> None:
        super().__init__(extractor)
        self.window, self.hop = (int(extractor.sampling_rate * seconds) for seconds in (0.025, 0.010))
        self.longest = (extractor.max_length - 1) * self.hop + self.window

    def forward(self, waveforms: Tensor) -> dict[str, Tensor]:
        from torchaudio.compliance.kaldi import fbank

        size, length = waveforms.shape
        if length < self.window:
            raise ValueError(f"a window has {self.window} samples")
        # All clips in one row, each of a whole number of hops: nothing looks beyond a window, and windows that reach
        # into the next clip are dropped.
        hops, frames = -(-length // self.hop), 1 + (length - self.window) // self.hop
        row = nn.functional.pad(waveforms, (0, hops * self.hop - length)).flatten()
        settings = {"sample_frequency": self.extractor.sampling_rate, "num_mel_bins": self.extractor.num_mel_bins}
        bands = fbank(nn.functional.pad(row, (0, self.window))[None], window_type="hanning", **settings)
        bands = bands[: size * hops].unflatten(0, (size, hops))[:, :frames]
        values = nn.functional.pad(bands, (0, 0, 0, self.extractor.max_length - frames))
        if self.extractor.do_normalize:
            values = (values - self.extractor.mean) / (2 * self.extractor.std)
        return {"input_values": values}


class _LogMels(_Inputs):
    """Log-mel spectrograms, as Whisper takes them: of waveforms padded to 30 s, down to 80 dB below the loudest."""

    def __init__(self, extractor: Any) -> None:
        super().__init__(extractor)
        self.longest = extractor.n_samples
        filters = torch.from_numpy(extractor.mel_filters).float()
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(extractor.n_fft), persistent=False)

    def forward(self, waveforms: Tensor) -> dict[str, Tensor]:
        waveforms = nn.functional.pad(waveforms, (0, self.extractor.n_samples - waveforms.shape[1]))
        fft, hop = self.extractor.n_fft, self.extractor.hop_length
        spectrum: Tensor = torch.stft(waveforms, fft, hop, window=self.window, return_complex=True)  # type: ignore[arg-type]
        powers = spectrum[..., :-1].abs().square()
        bands = (self.filters @ powers).clamp_min(1e-10).log10()  # type: ignore[operator]
        return {"input_features": (bands.maximum(bands.amax((1, 2), keepdim=True) - 8) + 4) / 4}


class _Waveforms(_Inputs):
    """Waveforms of mean 0 and deviation 1, as Wav2Vec2 and its relatives take them, perhaps with attention masks."""

    def __init__(self, extractor: Any, config: Any) -> None:
        super().__init__(extractor)
        self.least = 4 * math.prod(config.conv_stride)  # samples of four frames

    def forward(self, waveforms: Tensor) -> dict[str, Tensor]:
        if not self.extractor.return_attention_mask:
            return {"input_values": self._normalised(waveforms)}
        # Where the loader has put zeros at the ends there is no sound. The sound comes first, as these networks had it.
        length = waveforms.shape[1]
        start, sizes = self.span(waveforms)
        places = torch.arange(length, device=waveforms.device)
        mask = places < sizes.clamp(min=min(self.least, length))
        moved = waveforms.gather(1, (places + start) % length)
        return {"input_values": self._normalised(moved, mask), "attention_mask": mask.long()}

    def span(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """First sample, and number of samples, of what lies between the zeros at both ends, [N, 1] each."""
        heard = (waveforms != 0).int()
        start = heard.argmax(1, keepdim=True)
        return start, waveforms.shape[1] - heard.flip(1).argmax(1, keepdim=True) - start

    def _normalised(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.extractor.do_normalize:
            return waveforms
        if mask is None:
            mask = torch.ones_like(waveforms, dtype=torch.bool)
        size = mask.sum(1, keepdim=True)
        centred = waveforms * mask
        for _ in range(2):  # the mean of equal numbers may be rounded, which a deviation of 0 would magnify
            centred = (centred - centred.sum(1, keepdim=True) / size) * mask
        scaled: Tensor = centred / (centred.square().sum(1, keepdim=True) / size + 1e-7).sqrt()
        return scaled
