"""Another name of :func:`ltaug.audio.spectrogram`."""

from ltaug.audio.figures import spectrogram

__all__ = ["spectrogram"]
