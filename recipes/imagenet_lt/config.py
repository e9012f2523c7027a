"""Every knob of the recipe, with its default, and how command line and YAML files fill it."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ltaug import commandline
from ltaug.commandline import near_miss, parse_settings

HERE = Path(__file__).resolve().parent
DATASETS = ("imagenet_lt", "places_lt", "inaturalist2018", "folder", "hub", "digits")


@dataclass
class Config:
    """One training run. A YAML file of `configs/` names a method; settings behind `--config` win over it."""

    method: str = "erm"
    """Name of the method, for tables and folders; what it does is set below."""
    out: str | None = None
    """Run folder; by default runs/DATASET_MODEL_METHOD_seedSEED."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint; it starts anew if there is none."""
    seed: int = 0
    """Seed of everything but the choice of a subset."""

    dataset: str = "imagenet_lt"
    """imagenet_lt, places_lt, inaturalist2018 (official lists), folder, hub (any with images and labels), or digits."""
    data_dir: str | None = None
    """Folder of the images, or of parquet files; by default imagenet_lt and hub read the hub."""
    hub_id: str | None = None
    """Of `dataset: hub`: OWNER/NAME."""
    list_dir: str | None = None
    """Folder with a copy of the official lists, which are downloaded otherwise."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the labels."""
    train_split: str = "train"
    """Of `dataset: hub`."""
    stream: bool = False
    """Of `dataset: hub`: read the training shards one after the other, for sets that no disk holds."""
    stream_buffer: int = 64
    """Encoded images of a class that a stream holds in memory at most, over all processes and workers."""
    test_split: str | None = None
    """Of `dataset: hub`; by default test or validation, whichever there is."""
    test_per_class: int = 20
    """Images of each class to test on, of sets without a test split."""
    profile: Literal["natural", "exponential", "step", "pareto"] = "natural"
    """How the class sizes fall; natural takes every image there is."""
    imbalance_ratio: float = 100.0
    """Size of the largest class over the smallest, of a profile that is not natural."""
    data_seed: int = 0
    """Which images of each class a profile keeps."""

    model: str = "resnet50"
    """resnet10, or any model of timm."""
    pretrained: bool = False
    """Start from timm's weights (downloads them)."""
    freeze: bool = False
    """Train the classifier alone; the backbone keeps its weights and statistics."""
    lora_rank: int = 0
    """Rank of the low-rank adapters (LoRA, by peft) that are trained in a frozen backbone; 0 is none. Needs `freeze`."""
    cosine_classifier: bool = False
    """Cosine instead of linear classifier, of scale 30."""
    drop_path: float = 0.0
    """Stochastic depth."""
    image_size: int = 224
    """Pixels of a side."""
    augmentation: Literal["plain", "color", "randaugment", "flip"] = "color"
    """plain: random resized crop and flip; color: and colour jitter, as published; randaugment; flip: no crop."""
    augment_on: Literal["workers", "device"] = "workers"
    """Where flip, jitter and normalisation happen: image by image while decoding, or batched on the training device."""
    test_resize: float = 0.875
    """Share of the shorter side that the central crop of a test image has; 1 for small images."""

    epochs: int = 90
    """Passes over as many samples as the training set has."""
    batch_size: int = 256
    """Samples a step, over all processes together, accumulated or not."""
    accumulate: int = 1
    """Parts that a process splits its share of a batch into, to fit into memory."""
    optimizer: str = "sgd"
    """sgd, or any optimiser of timm (adamw, lamb, ...)."""
    lr: float = 0.1
    """Learning rate after the warm-up."""
    head_lr_factor: float = 1.0
    """Learning rate of the classifier over `lr`."""
    layer_decay: float | None = None
    """Learning rate of a layer over that of the next one, as timm's optimiser factory has it."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0, step by step."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is tested and saved, e.g. 0.9998; 0 is none."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 is none."""

    loss: Literal["ce", "bayias", "lade"] = "ce"
    """ce: cross-entropy; bayias: cross-entropy of logits + loss_tau * log prior; lade: with its regulariser."""
    prior: Literal["train", "effective"] = "train"
    """What bayias and lade correct: the training prior, or the label distribution after sampling and mixing."""
    loss_tau: float = 1.0
    """Strength of the prior in `bayias` (the tau of logit adjustment)."""
    lade_alpha: float = 0.05
    """Weight of LADE's regulariser."""
    lade_lambda: float = 0.5
    """Weight of the squared term in it."""
    mixer: Literal["none", "mixup", "cutmix", "unimix"] = "none"
    """How pairs of samples are mixed."""
    alpha: float = 0.2
    """Beta(alpha, alpha) of the mixing weight."""
    first_tau: float = 1.0
    """Class probability ~ n^tau of the (first) sample: 1 instance-balanced, 0 class-balanced, -1 reversed."""
    partner_tau: float = 1.0
    """Likewise of the partner."""
    partner: Literal["dataset", "batch"] = "dataset"
    """The partner comes from a sampler of its own, which doubles the decoding, or is another sample of the batch."""
    rebalance_at: float = 0.0
    """Share of the training until which both samplers are instance-balanced (deferral)."""
    mix_stop_at: float = 1.0
    """Share of the training from which nothing is mixed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 where the processor or GPU computes in it, fp32 elsewhere."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool = False
    """torch.compile the model."""
    sync_bn: bool = False
    """Batch-norm statistics over all GPUs instead of per process."""
    reuse_memory: bool = True
    """Keep freed memory for the next step (glibc, CPU)."""
    threads: int | None = None
    """CPU threads of a process; by default the machine's cores, shared between its processes."""
    workers: int = 8
    """Processes that decode, for each training process; 0 decodes in the training process."""
    eval_every: int = 5
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0 is none."""
    log_with: str | None = None
    """Tracker of accelerate, besides the run folder: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) is None and "None" not in str(item.type):
                raise ValueError(f"`{item.name}` needs a value, but is null.")
        if self.dataset not in DATASETS:
            hint = near_miss(self.dataset, DATASETS) or "."
            raise ValueError(f"`dataset` must be one of {', '.join(DATASETS)}, but is {self.dataset!r}{hint}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"`threads` must be at least 1, but is {self.threads}.")
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "checkpoint_every", "test_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in ("seed", "data_seed", "momentum", "weight_decay", "warmup_epochs", "drop_path", "ema", "clip_norm",
                     "workers", "checkpoint_steps", "lade_alpha", "lade_lambda"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        for name in ("lr", "imbalance_ratio", "alpha", "head_lr_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, but is {getattr(self, name)}.")
        if self.imbalance_ratio < 1:
            raise ValueError(
                "`imbalance_ratio` is largest over smallest class and must be at least 1, but is "
                f"{self.imbalance_ratio}. Did you mean {1 / self.imbalance_ratio:g}?"
            )
        for name in ("rebalance_at", "mix_stop_at", "test_resize", "ema", "drop_path"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in 0..1, but is {getattr(self, name)}.")
        if self.image_size < 16:
            raise ValueError(f"`image_size` is in pixels and must be at least 16, but is {self.image_size}.")
        if self.prior != "train" and self.loss == "ce":
            raise ValueError("`prior` is what bayias and lade correct, but `loss` is ce. Leave it out.")
        if self.log_with is not None:
            # accelerate itself passes over a tracker that is not installed, silently.
            from accelerate.tracking import get_available_trackers

            trackers = ["all", *map(str, get_available_trackers())]
            if self.log_with not in trackers:
                raise ValueError(
                    f"`log_with` is {self.log_with!r}, but the trackers installed here are: "
                    f"{', '.join(trackers[1:]) or 'none'}. Install its package, or leave the setting out: "
                    "metrics.jsonl has the same rows."
                )
        if self.out is None:
            name = (self.hub_id or self.dataset).rpartition("/")[2]
            ratio = "" if self.profile == "natural" else f"_ir{self.imbalance_ratio:g}"
            self.out = f"runs/{name}{ratio}_{self.model.partition('.')[0]}_{self.method}_seed{self.seed}"

    def reached(self, epoch: int, share: float) -> bool:
        """Whether an epoch, counted from 0, lies behind a share of the training."""
        return epoch >= round(share * self.epochs)

    def lr_at(self, epoch: float) -> float:
        """Learning rate at a place of the training, in epochs: linear warm-up, then a cosine down to 0."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        return 0.5 * self.lr * (1.0 + math.cos(math.pi * epoch / self.epochs))


def parse_config(arguments: list[str] | None = None, kind: Any = Config) -> Any:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault."""
    return parse_settings(kind, arguments, HERE / "configs")


def plain_errors() -> AbstractContextManager[None]:
    """Tell mistakes in settings, data and folders in one line; with PYTHONDEVMODE=1 as a traceback."""
    return commandline.plain_errors(HERE)
