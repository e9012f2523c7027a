"""Tables whose paths lead out of `data_dir`: every recipe that reads files refuses them, unless it is told not to."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from ltaug.errors import UserError
from ltaug.scripts import find_recipe, loaded_script

SETTINGS = {
    "cifar_lt": {"dataset": "cifar10", "image_column": "image", "label_column": "label", "imbalance_ratio": 2.0},
    "esc50_lt": {"dataset": "hub", "audio_column": "image", "profile": "natural", "cache_dir": "none"},
    "imagenet_lt": {"dataset": "hub"},
    "inaturalist": {"dataset": "hub"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets, soundfile = pytest.importorskip("datasets"), pytest.importorskip("soundfile")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    datasets.disable_progress_bars()
    for name in ("data", "out"):
        (tmp_path / name).mkdir()
    for k in range(20):
        Image.new("RGB", (8, 8), (10 * k,) * 3).save(tmp_path / "out" / f"{k}.png")
        sound = io.BytesIO()
        soundfile.write(sound, np.random.default_rng(k).uniform(-0.5, 0.5, 4000), 16_000, format="WAV")
        (tmp_path / "out" / f"{k}.wav").write_bytes(sound.getvalue())
    return tmp_path / "data"


@pytest.mark.parametrize("name", SETTINGS)
def test_paths_outside_are_refused_unless_allowed(name: str, folder: Path) -> None:
    kind = "wav" if name == "esc50_lt" else "png"
    for split, numbers in (("train", range(16)), ("test", range(16, 20))):
        columns = {"image": [f"../out/{k}.{kind}" for k in numbers], "label": [k % 2 for k in numbers]}
        parquet.write_table(pyarrow.table(columns), folder / f"{split}-0.parquet")
    with loaded_script(find_recipe(name) / "train.py"):
        data = sys.modules["data"]
        settings = {"data_dir": str(folder), **SETTINGS[name]}
        with pytest.raises(UserError, match=r"the first of which is '\.\./out/.*, set `allow_outside` to true\."):
            data.load_data(data.DataSettings(**settings))
        found = data.load_data(data.DataSettings(**settings, allow_outside=True))
        assert len(found.class_names) == 2
