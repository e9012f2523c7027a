"""What the tests of sound share: sound files made of numbers, tables of them, a network that trains in milliseconds."""

from __future__ import annotations

import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from ltaug.audio import SoundNetwork, synthetic_source

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "esc50_lt"
RATE = 8000


def noise(seed: int, size: int = 400, channels: int | None = None) -> np.ndarray:
    """Samples without a zero at their ends."""
    samples = np.random.default_rng(seed).uniform(0.1, 0.5, size if channels is None else (size, channels))
    return samples.astype(np.float32)


def tone(frequency: float, rate: int = 44100, seconds: float = 1.0) -> np.ndarray:
    """A sine of amplitude 1/2."""
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate) / 2


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def write_folder(root: Path, sizes: dict[str, int], kind: str = "wav", size: int = 400) -> Path:
    """A folder a class."""
    for label, (name, files) in enumerate(sizes.items()):
        (root / name).mkdir(parents=True)
        for k in range(files):
            (root / name / f"{k:02d}.{kind}").write_bytes(encoded(noise(100 * label + k, size), kind=kind.upper()))
    return root


def write_table(folder: Path, split: str = "train", features: bool = True, **changes: Any) -> Path:
    """Three classes in five folds of two clips each, in the columns of the hub's ESC-50; None drops a column."""
    import pyarrow
    from pyarrow import parquet

    places = [(fold, label, take) for fold in range(1, 6) for label in range(3) for take in range(2)]
    files = [{"bytes": encoded(noise(k)), "path": f"{k}.wav"} for k in range(len(places))]
    columns: dict[str, Any] = {
        "filename": [f"{fold}-{label}-{take}.wav" for fold, label, take in places],
        "fold": [fold for fold, _, _ in places],
        "target": [10 * label for _, label, _ in places],
        "category": [["dog", "sea", "fire"][label] for _, label, _ in places],
        "esc10": [label != 1 for _, label, _ in places],
        "audio": pyarrow.array(files, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
    } | changes
    table = pyarrow.table({name: values for name, values in columns.items() if values is not None})
    if features:  # as the hub's own files have it
        kinds = {name: {"_type": "Value", "dtype": str(table.schema.field(name).type)} for name in table.column_names}
        kinds["audio"] = {"_type": "Audio"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    folder.mkdir(exist_ok=True)
    parquet.write_table(table, folder / f"{split}-0.parquet")
    return folder


NORM = "BatchNorm2d(8)"


class TinyNetwork(SoundNetwork):
    """A network on waveforms that trains in milliseconds."""

    mixing_layers = ("input", "first")

    def __init__(self, num_classes: int, max_gain_db: float = 0.0) -> None:
        super().__init__(max_gain_db)
        self.first = nn.Conv2d(1, 8, (1, 16), (1, 8))
        self.rest = nn.Sequential(eval(f"nn.{NORM}"), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.fc = nn.Linear(72, num_classes)

    def logits(self, waveforms: Tensor) -> Tensor:
        return self.fc(self.rest(self.first(waveforms.unflatten(1, (1, 3, -1)))))


def small_training(*words: object, **settings: object) -> list[str]:
    """Words for the recipe's train.py: a short training on 57 synthetic sounds; the last of its 4 batches has 9."""
    small = {"protocol": "synthetic", "sample_rate": 4000, "crop_length": 900, "test_crops": 2, "batch_size": 16}
    small |= {"epochs": 2, "precision": "fp32", "threads": 1, "eval_every": 1, "report": False} | settings
    return [*map(str, words), *(str(word) for name, value in small.items() for word in (f"--{name}", value))]


small_source = partial(synthetic_source, clips_per_class=24, seconds=0.25)


def tiny_model(num_classes: int, cfg: Any, data: Any) -> TinyNetwork:
    """Stands in for the recipe's build_model."""
    return TinyNetwork(num_classes, cfg.max_gain_db)


def train_on_rank(rank: int, port: int, words: list[str]) -> None:
    """One of two processes that train without batch norm, whose statistics would be each process's own."""
    global NORM
    NORM = "GroupNorm(2, 8)"
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(RECIPE))
    import data
    import train

    from ltaug import training

    data.synthetic_source, train.build_model = small_source, tiny_model
    train.main(training.settings_of(train.Config, train.__file__, words))
