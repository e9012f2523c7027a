"""Trainings on sound: reading of clips, random crops, networks on waveforms and spectrograms, pages that can be heard.

Reading needs the extra ``audio``, :class:`MelNetwork` also ``vision``, figures ``plots``; importing needs none of them.
:mod:`ltaug.audio.data`, of which recipes make their data, needs ``recipes``, too.
"""

from ltaug.audio.decoding import Clip, Sound, is_sound, read_clip, read_clips
from ltaug.audio.figures import as_waveform, audio_html, misclassified_clips, spectrogram
from ltaug.audio.networks import EnvNet, EnvNetV2, MelNetwork, SoundNetwork
from ltaug.audio.sources import SoundPart, SoundSource, read_folder, read_table
from ltaug.audio.synthetic import synthetic_source
from ltaug.loaders.waveform import ResidentWaveformLoader

__all__ = [
    "Clip",
    "EnvNet",
    "EnvNetV2",
    "MelNetwork",
    "ResidentWaveformLoader",
    "Sound",
    "SoundNetwork",
    "SoundPart",
    "SoundSource",
    "as_waveform",
    "audio_html",
    "is_sound",
    "misclassified_clips",
    "read_clip",
    "read_clips",
    "read_folder",
    "read_table",
    "spectrogram",
    "synthetic_source",
]
