"""ESC-50 or ESC-10, any data set of the hub, parquet files, folder or table of sounds, or synthetic sounds.

To train on something else, write another `read_source`: nothing else knows where a sound comes from. What it says is
made long-tailed, decoded and held in memory by `ltaug.audio`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ltaug.audio import SoundSource, read_folder, read_table, synthetic_source
from ltaug.audio.data import SoundData, SoundSettings, long_tailed_sounds
from ltaug.loaders.listings import find_listing

HUB = "ashraq/esc50"


@dataclass
class DataSettings(SoundSettings):
    """What can be said of the data."""

    dataset: Literal["esc50", "esc10", "hub", "parquet", "folder", "synthetic"] = "esc50"
    """esc50 or esc10 (from the hub, or from `data_dir`), hub (any set of sounds there), parquet (files in `data_dir`),
    folder (a folder of sounds for each class, or a CSV table of files), or synthetic, which needs no files."""

    @property
    def data_name(self) -> str:
        """Name of the data in run folders."""
        return self.named(self.dataset)


def read_source(cfg: Any) -> SoundSource:
    """Find all sounds of a data set; nothing is decoded yet."""
    if cfg.dataset == "synthetic":
        return synthetic_source(cfg.sample_rate)
    if cfg.dataset in ("folder", "parquet") and cfg.data_dir is None:
        inside = (
            "a folder of sounds for each class, or a table of files" if cfg.dataset == "folder" else "parquet files"
        )
        raise ValueError(f"`dataset: {cfg.dataset}` needs `data_dir`, with {inside}.")
    if cfg.dataset == "hub" and not (cfg.data_dir or cfg.hub_id):
        raise ValueError("`dataset: hub` needs `hub_id`, OWNER/NAME, or `data_dir`, a folder of parquet files.")
    published = cfg.dataset in ("esc50", "esc10")
    only = "esc10" if cfg.dataset == "esc10" else None
    if cfg.dataset == "folder" or (published and is_listed(cfg.data_dir)):
        file_column = None if cfg.audio_column == "audio" else cfg.audio_column
        columns = {"file_column": file_column, "label_column": cfg.label_column, "only": only}
        return read_folder(cfg.data_dir, cfg.allow_outside, **columns)
    label_column = cfg.label_column or ("target" if published else "label")
    rows = {"only": only, "allow_outside": cfg.allow_outside}
    return read_table(cfg.hub_id or HUB, cfg.data_dir, cfg.audio_column, label_column, **rows)


def is_listed(data_dir: str | None) -> bool:
    """Whether a folder has a table of sound files, as ESC-50 is published, and no parquet files, as on the hub."""
    return data_dir is not None and not any(Path(data_dir).rglob("*.parquet")) and find_listing(data_dir) is not None


def load_data(cfg: Any) -> SoundData:
    """Read the data set of the settings and take its long-tailed part."""
    return long_tailed_sounds(read_source(cfg), cfg, made=cfg.dataset == "synthetic")
