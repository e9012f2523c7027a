"""The data of a training on sound: a long-tailed set in memory, its loaders, and what is recorded of it.

Nothing here knows where a sound comes from: a :class:`~ltaug.audio.SoundSource` says it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ltaug.audio.augmentation import load_augment
from ltaug.audio.decoding import Clip, read_clips
from ltaug.audio.figures import misclassified_clips
from ltaug.audio.mel import LogMel
from ltaug.audio.pitch import pitch_versions
from ltaug.audio.sources import SoundPart, SoundSource
from ltaug.commandline import AtLeastOne, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Ratio
from ltaug.errors import UserError
from ltaug.loaders._notes import warn
from ltaug.loaders.folders import source_name
from ltaug.loaders.sharing import SharedData, SharedSplit, encode_sound
from ltaug.loaders.tables import hold_out, labels_hash, thin_out
from ltaug.loaders.waveform import ResidentWaveformLoader
from ltaug.longtail import index_hash
from ltaug.priors import counts_of
from ltaug.run import content_hash

__all__ = ["SoundData", "SoundSettings", "long_tailed_sounds"]

EVALUATED_TOGETHER = 8
"""Clips of a process in a batch of evaluation, each with all of its crops."""
DEFAULT_FOLD = 5
"""That is tested on, of ESC-50 as published."""


@dataclass
class SoundSettings:
    """What can be said of a set of sounds, whichever it is."""

    data_dir: str | None = None
    """Local folder: with parquet files, with a folder for each class, or with a table of files; or that table."""
    allow_outside: bool = False
    """Read sounds outside of `data_dir`, too, where a table in it names such: only if you trust its author."""
    hub_id: str | None = None
    """hub: OWNER/NAME."""
    audio_column: str = "audio"
    """Column of the sounds; that of a table of files is found by its usual names, too."""
    label_column: str | None = None
    """Column of the labels; by default target for esc50 and esc10, label for others, and of a table of files by its
    usual names."""
    profile: Literal["pareto", "exponential", "step", "natural"] = "pareto"
    """How the class sizes fall; natural takes every clip."""
    imbalance_ratio: Ratio = 10.0
    """Size of the largest class over the smallest; 1 is balanced."""
    data_seed: NonNegativeInt = 0
    """Which clips of each class are kept, for training and for testing."""
    test_fold: NonNegativeInt = DEFAULT_FOLD
    """Fold that is tested on, of sets with folds; the others are trained on."""
    test_per_class: PositiveInt = 8
    """Clips of each class to test on, of sets with neither folds nor a test split."""
    held_out_per_class: NonNegativeInt = 0
    """Training clips of each class reserved for tuning corrections, of sets without a validation split."""
    sample_rate: PositiveInt = 16_000
    """Samples a second that everything is resampled to: 16000 for EnvNet, 44100 for EnvNet-v2."""
    trim_silence: bool = True
    """Cut exact silence off both ends."""
    trim_db: PositiveFloat | None = None
    """Cut off both ends, too, what is softer than the loudest frame by more than this (librosa.effects.trim); 60 is
    librosa's value, none is as published."""
    cache_dir: str | None = None
    """Where decoded clips are kept; by default $LTAUG_CACHE/sound or ~/.cache/ltaug/sound; `none` keeps nothing."""
    on_error: Literal["skip", "raise"] = "skip"
    """What to do with a file that cannot be read: leave it out with a warning, or stop."""
    crop_length: PositiveInt = 24_014
    """Samples of a crop; half of it is the padding on both sides of a clip."""
    test_crops: PositiveInt = 10
    """Equally spaced crops of a clip that the network is evaluated on; at least 2."""
    test_hop: NonNegativeFloat = 0.0
    """Seconds between windows that cover a test recording of any length, instead of `test_crops`; 0 is off."""
    aggregate: Literal["mean", "max"] = "mean"
    """What becomes of the probabilities of a clip's crops or windows: their mean, or the greatest for each class, which
    finds an event that is heard in few of them."""
    max_scale: AtLeastOne = 1.0
    """Strong augmentation: stretch of time by up to this factor; 1.25 is published, 1 is off."""
    pitch_semitones: NonNegativeFloat = 0.0
    """Versions of the training clips whose pitch is shifted by up to so many semitones are made once; 0 is off."""
    augment: str | None = None
    """MODULE:CALLABLE that changes each training crop, of samples and sample rate, as those of audiomentations."""

    def named(self, dataset: str) -> str:
        """Name of the data in run folders.

        Args:
            dataset: name of a published set; or of a kind of source, whose data have the name of their folder.

        >>> SoundSettings(data_dir="/my/birds", profile="natural").named("folder"), SoundSettings().named("esc50")
        ('birds', 'esc50_ir10')
        """
        name = dataset
        if dataset in ("folder", "hub", "parquet"):
            place, hub_id = self.data_dir, self.hub_id if dataset == "hub" else None
            if place and os.path.isfile(place):  # a table: named after itself, unless all are called like that
                whole, _ = os.path.splitext(place)
                place = os.path.dirname(os.path.abspath(place)) if os.path.basename(whole) == "metadata" else whole
            name = source_name(place, hub_id, dataset)
        ratio = "" if self.profile == "natural" else f"_ir{self.imbalance_ratio:g}"
        return f"{name}{ratio}" + ("" if self.test_fold == DEFAULT_FOLD else f"_fold{self.test_fold}")


@dataclass
class SoundData:
    """A long-tailed training set, a test set and perhaps clips to tune corrections on, in memory, of any lengths."""

    clips: dict[str, list[Tensor]]
    """Of the splits train, test and perhaps held_out; int16 [T] each, and / 32768 gives -1..1."""
    labels: dict[str, Tensor]
    """int64 [N]; or bool [N, C], several labels a clip."""
    names: dict[str, list[str]]
    """File names."""
    class_names: list[str]
    class_counts: Tensor
    index_hash: str
    """SHA-256 of the training clips' indices in the full set: equal hashes are equal subsets."""
    left_out: int
    """Clips that cannot be read. The hash counts them, the class counts do not."""
    preprocessing: dict[str, Any]
    """What a test clip goes through: plain values, kept beside the weights."""
    versions: list[list[Clip]] = field(default_factory=list)
    """Of the training clips, of shifted pitch; one is drawn for each crop, or the clip itself."""
    origin: dict[str, tuple[SoundPart, Tensor]] = field(default_factory=dict)
    """Where the clips of each split are from: a part of the full set, and their places in it."""
    front_end: LogMel | None = None
    """Of a network on log-mel spectrograms; its `build_model` sets it, and reports show what it sees."""

    def __post_init__(self) -> None:
        self.train_labels = self.labels["train"]
        self.splits = tuple(split for split in self.labels if split != "train")
        self.sample_rate: int = self.preprocessing["sample_rate"]

    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> ResidentWaveformLoader:
        """Random crops in a sampler's order. A last batch of fewer than 8 clips is left out, for batch norm."""
        least = min(cfg.batch_size, max(8, accelerator.num_processes))
        augmentation: dict[str, Any] = {"seed": cfg.seed, "max_scale": cfg.max_scale, "versions": self.versions}
        if cfg.augment:
            augmentation["augment"] = load_augment(cfg.augment)
            augmentation |= {"sample_rate": self.sample_rate, "names": self.names["train"]}
        return self._loader(
            cfg, "train", accelerator, batch_size=cfg.batch_size, sampler=sampler, min_last=least, **augmentation
        )

    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> ResidentWaveformLoader:
        """Equally spaced crops of the clips of a split, or windows that cover each, in its order."""
        if cfg.test_hop:
            hop = _hop(cfg)
            return self._loader(cfg, split, accelerator, batch_size=accelerator.num_processes, hop=hop)
        batch_size = EVALUATED_TOGETHER * accelerator.num_processes
        return self._loader(cfg, split, accelerator, batch_size=batch_size, crops=cfg.test_crops)

    def _loader(self, cfg: Any, split: str, accelerator: Any, **settings: Any) -> ResidentWaveformLoader:
        settings |= {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}
        settings |= {"device": accelerator.device, "crop_length": cfg.crop_length}
        return ResidentWaveformLoader(self.clips[split], self.labels[split], **settings)

    def fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the data. A run refuses to resume on data with another one."""
        found: dict[str, Any] = {"training_indices": self.index_hash, "test_labels": labels_hash(self.labels["test"])}
        found |= {"class_names": self.class_names, "class_counts": self.class_counts}
        return found | {
            f"{split}_content": content_hash(labels, *self.clips[split]) for split, labels in self.labels.items()
        }

    def shared(self, cfg: Any) -> SharedData:
        """What `ltaug push-data` makes a data set of the hub: each file as it is stored."""
        splits = {}
        for split, (part, indices) in self.origin.items():
            places = indices if part.places is None else part.places[indices]
            files = partial(_encoded, part, indices)
            splits[split] = SharedSplit(places, part.labels[indices], files)
        return SharedData("audio", (cfg.audio_column, cfg.label_column or "label"), self.class_names, splits)

    def describe(self) -> str:
        """What is in the set, for the terminal."""
        left_out = f", {self.left_out} unreadable left out" if self.left_out else ""
        sizes = " ".join(map(str, self.class_counts.tolist()[:50]))
        return (
            f"{len(self.train_labels)} training and {len(self.labels['test'])} test clips{left_out} "
            f"(subset {self.index_hash[:12]}; {sizes})"
        )

    def held_out_note(self) -> str:
        """What corrections are tuned on, for whoever reads the numbers."""
        return (
            f"{len(self.labels['held_out'])} clips that training did not use; of a recording that was cut into several "
            "clips, others may have been trained on"
        )

    def sections(self, logits: Tensor, labels: Tensor) -> list[tuple[str, str]]:
        """Sections of the report: misclassified clips, or those whose labels are, to see and to hear."""
        clips, names = self.clips["test"], self.names["test"]
        return [
            misclassified_clips(
                logits, labels, clips, names, self.class_names, self.sample_rate, front_end=self.front_end
            )
        ]


def _encoded(part: SoundPart, indices: Tensor, k: int) -> tuple[bytes, str]:
    place = int(indices[k])
    sound, name = part.sound(place), part.names[place]
    return encode_sound(sound), f"{name}.wav" if isinstance(sound, tuple) else name


def _hop(cfg: Any) -> int:
    """Samples between two windows."""
    hop: int = round(cfg.test_hop * cfg.sample_rate)
    longest = cfg.crop_length
    if not 1 <= hop <= longest:
        raise UserError(
            f"`test_hop` is in seconds and must not exceed a crop, {longest / cfg.sample_rate:.3f} s, or windows pass "
            f"over what lies between them, but is {cfg.test_hop:g}."
        )
    return hop


def long_tailed_sounds(source: SoundSource, cfg: Any, made: bool = False) -> SoundData:
    """Take the long-tailed part of a set of sounds; then, and not before, sounds are decoded.

    Tested is on the test split, or on ``test_fold``: 8 clips a class of ESC-50 and ESC-10, whose clips cut from one
    recording are all in one fold, so that nothing leaks. Of sets with neither, ``test_per_class`` clips of each class
    are drawn, which knows nothing of recordings. Corrections are tuned on a validation split beside a test split, or on
    ``held_out_per_class`` clips. ``profile`` thins out the other clips, the largest class first.

    Args:
        source: where the sounds come from.
        cfg: what is taken, a :class:`SoundSettings`.
        made: whether sounds are computed: nothing is trimmed off them or kept in the cache.
    """
    if cfg.sample_rate < 4000:
        raise UserError(f"`sample_rate` is in samples a second and at least 4000, but is {cfg.sample_rate}.")
    if cfg.test_crops < 2:
        raise UserError(f"`test_crops` must be at least 2, spread evenly over a clip, but is {cfg.test_crops}.")
    if cfg.test_hop:
        _hop(cfg)
    names, labels = source.class_names, source.train.labels
    if len(names) < 2:
        raise UserError(f"{source.name} must have at least two classes, but has {len(names)}: {', '.join(names)}.")
    test, rest = _choose_test(cfg, source), torch.arange(len(labels))
    if not source.test:
        rest = rest[~torch.isin(rest, test)]
    chosen = {"test": (source.test or source.train, test)}
    if source.held_out:
        if cfg.held_out_per_class:
            raise UserError(
                f"`held_out_per_class` is {cfg.held_out_per_class}, but {source.name} has a validation split to tune "
                "corrections on. Leave it out."
            )
        chosen["held_out"] = (source.held_out, torch.arange(len(source.held_out.labels)))
    if cfg.held_out_per_class:
        kept = rest[hold_out(labels[rest], cfg.held_out_per_class, names, "held_out_per_class", cfg.data_seed)]
        chosen["held_out"], rest = (source.train, kept), rest[~torch.isin(rest, kept)]
    shared = source.train.places is not None
    train = rest[thin_out(labels[rest], cfg.profile, cfg.imbalance_ratio, names, cfg.data_seed, in_order=shared)]
    if labels.ndim > 1 and (lacking := [names[k] for k in (~labels[train].any(0)).nonzero()[:, 0].tolist()]):
        warn(f"no training clip has these labels, which nothing learns, then: {', '.join(lacking)}.")
    return _decode(cfg, source, {"train": (source.train, train), **chosen}, made)


def _choose_test(cfg: Any, source: SoundSource) -> Tensor:
    """Indices of the test clips in the test split, or in the training split of a set without one."""
    labels, names = source.train.labels, source.class_names
    if source.test or source.folds is None:
        if cfg.test_fold != DEFAULT_FOLD:
            has = "a test split" if source.test else "no folds"
            raise UserError(f"`test_fold`={cfg.test_fold}, but {source.name} has {has}. Leave it out.")
        if source.test:
            return torch.arange(len(source.test.labels))
        return hold_out(labels, cfg.test_per_class, names, "test_per_class", cfg.data_seed)
    test: Tensor = (source.folds == cfg.test_fold).nonzero()[:, 0]
    if not len(test):
        folds = ", ".join(map(str, sorted(set(source.folds.tolist()))))
        raise UserError(
            f"`test_fold`={cfg.test_fold} is no fold of {source.name}, which has {folds}. Set it to one of them."
        )
    if (missing := (counts_of(labels[test], len(names)) == 0).nonzero()[:, 0]).numel() and labels.ndim == 1:
        k = int(missing[0])
        raise UserError(f"`test_fold`={cfg.test_fold} has no clip of class {k} ({names[k]}). Choose another one.")
    return test


def _decode(cfg: Any, source: SoundSource, chosen: dict[str, tuple[SoundPart, Tensor]], made: bool) -> SoundData:
    """Read the chosen clips, through the cache, and leave those out that cannot be read."""
    sounds = [(part.names[k], part.sound(k)) for part, indices in chosen.values() for k in indices.tolist()]
    trim, cache_dir = cfg.trim_silence and not made, "none" if made else cfg.cache_dir
    read = read_clips(sounds, cfg.sample_rate, trim, cache_dir, cfg.on_error, trim_db=None if made else cfg.trim_db)
    clips, labels, files, origin = {}, {}, {}, {}
    for split, (part, indices) in chosen.items():
        mine, read = read[: len(indices)], read[len(indices) :]
        left = indices[torch.tensor([clip is not None for clip in mine], dtype=torch.bool)]
        clips[split] = [torch.from_numpy(clip) for clip in mine if clip is not None]
        labels[split], files[split] = part.labels[left], [part.names[k] for k in left.tolist()]
        origin[split] = (part, left)
        there, found = (counts_of(y, len(source.class_names)) for y in (part.labels[indices], labels[split]))
        for k in ((there > 0) & (found == 0)).nonzero()[:, 0].tolist():
            raise UserError(f"None of the {split} clips of class {k} ({source.class_names[k]}) can be read.")
    counts = counts_of(labels["train"], len(source.class_names))
    left_out = len(sounds) - sum(map(len, clips.values()))
    recorded = ("sample_rate", "trim_silence", "trim_db", "crop_length", "test_crops", "test_hop", "aggregate")
    preprocessing = {"kind": "sounds", **{name: getattr(cfg, name) for name in recorded}}
    if made:
        preprocessing |= {"trim_silence": False, "trim_db": None}
    part, train = chosen["train"]
    subset = index_hash(train if part.places is None else part.places[train])
    data = SoundData(clips, labels, files, source.class_names, counts, subset, left_out, preprocessing)
    data.origin = origin
    if cfg.pitch_semitones:
        data.versions = pitch_versions(clips["train"], cfg.sample_rate, cfg.pitch_semitones, cache_dir)
    return data
