"""Ten classes of sounds computed from a seed, to try the recipe without files: alike enough to take some epochs."""

import numpy as np

NAMES = ("rain", "wind", "bird", "cricket", "clock_tick", "hum", "siren", "knock", "engine", "drops")


def synthesise(
    clips_per_class: int, sample_rate: int, seconds: float, seed: int
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Sounds of ten classes, each with its own pitch, rate, onset and level (within 10 dB), behind coloured noise.

    The noise lies between 20 dB below the sound and 5 dB above it.

    Args:
        clips_per_class: clips of each class.
        sample_rate: Hz; tones stay below 0.45 of it.
        seconds: length of a clip.
        seed: equal seeds give equal sounds; a clip depends on its class and number alone, not on how many there are.

    Returns:
        Clips (int16 [T] each), labels 0..9 and names ("rain/000"), class after class.
    """
    clips, labels, names = [], [], []
    for label, name in enumerate(NAMES):
        for k in range(clips_per_class):
            rng = np.random.default_rng((seed, label, k))
            t = np.arange(max(1, round(sample_rate * seconds))) / sample_rate
            sound = SOUNDS[label](rng, t, sample_rate)
            sound /= np.sqrt(np.mean(sound**2)) + 1e-9
            noise = coloured(rng, len(t), rng.uniform(0, 1.5))
            mixed = sound + noise * 10 ** (-rng.uniform(-5, 20) / 20)
            mixed *= 0.1 * 10 ** (rng.uniform(-10, 10) / 20)
            clips.append(np.rint(mixed.clip(-1, 1) * 32767).astype(np.int16))
            labels.append(label)
            names.append(f"{name}/{k:03d}")
    return clips, labels, names


def coloured(rng: np.random.Generator, size: int, slope: float, low: float = 0.0, high: float = 0.5) -> np.ndarray:
    """Noise of unit power whose amplitude falls as frequency^-slope, between two frequencies (in cycles a sample)."""
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequency = np.fft.rfftfreq(size)
    spectrum *= np.maximum(frequency, 1e-3) ** -slope * ((frequency >= low) & (frequency <= high))
    noise = np.fft.irfft(spectrum, size)
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9)


def tone(rng: np.random.Generator, frequency: np.ndarray | float, t: np.ndarray, rate: int) -> np.ndarray:
    """A sine of a frequency that may change, from a random phase."""
    steps = np.broadcast_to(np.minimum(frequency, 0.45 * rate) / rate, t.shape)
    return np.sin(2 * np.pi * (np.cumsum(steps) + rng.uniform()))


def pulses(rng: np.random.Generator, t: np.ndarray, period: float, jitter: float, burst: np.ndarray) -> np.ndarray:
    """A burst again and again, of changing strength: `period` seconds apart, give or take `jitter` of it."""
    train = np.zeros(len(t))
    seconds = len(t) * (t[1] if len(t) > 1 else 1.0)
    onsets = np.arange(rng.uniform(0, min(period, seconds / 2)), seconds, period)
    places = ((onsets + jitter * period * rng.standard_normal(len(onsets))) * len(t) / seconds).astype(int)
    np.add.at(train, places.clip(0, len(t) - 1), rng.uniform(0.5, 1.0, len(places)))
    size = 2 * len(t)  # with room for the end of the last burst
    return np.fft.irfft(np.fft.rfft(train, size) * np.fft.rfft(burst, size), size)[: len(t)]


def rain(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    return coloured(rng, len(t), rng.uniform(0, 0.4)) + (rng.random(len(t)) < 0.003) * rng.uniform(0, 8)


def wind(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    gusts = 1 + 0.9 * tone(rng, rng.uniform(0.2, 1.5), t, rate)
    return gusts * coloured(rng, len(t), rng.uniform(0.5, 1.2), high=rng.uniform(300, 1500) / rate)


def bird(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    start, sweep, length = rng.uniform(1500, 4000), rng.uniform(500, 2500), rng.uniform(0.05, 0.2)
    inside = t[t < length]
    chirp = np.sin(np.pi * inside / length) * tone(rng, start + sweep * inside / length, inside, rate)
    return pulses(rng, t, rng.uniform(0.15, 0.6), 0.1, chirp)


def cricket(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    trill = np.maximum(tone(rng, rng.uniform(12, 40), t, rate), 0)
    rests = tone(rng, rng.uniform(0.5, 2), t, rate) > rng.uniform(-0.9, 0)
    return tone(rng, rng.uniform(2000, 5000), t, rate) * trill * rests


def clock_tick(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    click = coloured(rng, len(t), 0, low=min(rng.uniform(800, 2000) / rate, 0.35)) * np.exp(
        -t / rng.uniform(0.002, 0.01)
    )
    return pulses(rng, t, rng.uniform(0.2, 0.7), 0.0, click)


def hum(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    base, weights = rng.uniform(45, 130), rng.uniform(0.1, 1, 6) / np.arange(1, 7)
    return sum(weight * tone(rng, base * (k + 1), t, rate) for k, weight in enumerate(weights))


def siren(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    swing = tone(rng, rng.uniform(0.3, 3), t, rate)
    return tone(rng, rng.uniform(700, 1600) * (1 + rng.uniform(0.1, 0.4) * swing), t, rate)


def knock(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    body = tone(rng, rng.uniform(80, 350), t, rate) + 0.3 * coloured(rng, len(t), 0.5)
    return pulses(rng, t, rng.uniform(0.12, 0.5), 0.15, body * np.exp(-t / rng.uniform(0.02, 0.06)))


def engine(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    stroke = coloured(rng, len(t), 0.8, high=rng.uniform(500, 2500) / rate) * np.exp(-t / rng.uniform(0.004, 0.02))
    return pulses(rng, t, 1 / rng.uniform(12, 45), rng.uniform(0.02, 0.1), stroke)


def drops(rng: np.random.Generator, t: np.ndarray, rate: int) -> np.ndarray:
    voices = []
    for _ in range(3):
        ring = tone(rng, rng.uniform(1000, 4500), t, rate) * np.exp(-t / rng.uniform(0.01, 0.08))
        voices.append(pulses(rng, t, rng.uniform(0.3, 1.2), 0.5, ring))
    return sum(voices)


SOUNDS = (rain, wind, bird, cricket, clock_tick, hum, siren, knock, engine, drops)
