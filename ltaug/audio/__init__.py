"""Trainings on sound: reading of clips, random crops, networks on waveforms and spectrograms, pages that can be heard.

Reading needs the extra ``audio``, :class:`MelNetwork` also ``vision``, :class:`TransformerNetwork` ``transformers``,
figures ``plots``; importing needs none of them.
:mod:`ltaug.audio.data`, of which recipes make their data, needs ``recipes``, too.
"""

from ltaug.audio.decoding import Clip, Sound, is_sound, read_clip, read_clips
from ltaug.audio.figures import as_waveform, audio_html, mel_spectrogram, misclassified_clips, spectrogram
from ltaug.audio.mel import LogMel, MelNetwork
from ltaug.audio.networks import EnvNet, EnvNetV2, SoundNetwork
from ltaug.audio.pitch import pitch_versions, shift_pitch
from ltaug.audio.pretrained import TransformerNetwork
from ltaug.audio.sources import SoundPart, SoundSource, read_folder, read_table
from ltaug.audio.synthetic import synthetic_source
from ltaug.audio.transforms import AddNoise, Reverb, SpecAugment
from ltaug.loaders.waveform import ResidentWaveformLoader

__all__ = [
    "AddNoise",
    "Clip",
    "EnvNet",
    "EnvNetV2",
    "LogMel",
    "MelNetwork",
    "ResidentWaveformLoader",
    "Reverb",
    "Sound",
    "SoundNetwork",
    "SoundPart",
    "SoundSource",
    "SpecAugment",
    "TransformerNetwork",
    "as_waveform",
    "audio_html",
    "is_sound",
    "mel_spectrogram",
    "misclassified_clips",
    "pitch_versions",
    "read_clip",
    "read_clips",
    "read_folder",
    "read_table",
    "shift_pitch",
    "spectrogram",
    "synthetic_source",
]
