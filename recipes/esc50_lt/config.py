"""Every knob of the recipe, with its default, and how command line and YAML files fill it."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltaug import commandline
from ltaug.commandline import check_settings, check_tracker, parse_settings

HERE = Path(__file__).resolve().parent
DATASETS = ("esc50", "esc10", "synthetic", "folder")


@dataclass
class Config:
    """One training run. A YAML file of `configs/` names a method; settings behind `--config` win over it."""

    method: str = "erm"
    """Name of the method, for tables and folders; what it does is set below."""
    out: str | None = None
    """Run folder; by default runs/DATASET_irRATIO_MODEL_METHOD_seedSEED, with _foldTEST_FOLD if that is not 5."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint; it starts anew if there is none."""
    seed: int = 0
    """Seed of everything but the choice of the long-tailed subset."""

    dataset: str = "esc50"
    """esc50 or esc10 (from the hub, or from `data_dir`), folder (`data_dir`/CLASS/*.wav|ogg|flac|mp3), or synthetic."""
    data_dir: str | None = None
    """Local folder with the columns of the hub data set, read instead of the hub; or the folder of the classes."""
    audio_column: str = "audio"
    """Column of the sounds."""
    label_column: str = "target"
    """Column of the labels."""
    profile: Literal["pareto", "exponential", "step", "natural"] = "pareto"
    """How the class sizes fall; natural takes every clip there is."""
    imbalance_ratio: float = 10.0
    """Size of the largest class over the smallest; 1 is balanced."""
    data_seed: int = 0
    """Which clips of each class are kept."""
    test_fold: int = 5
    """The fold that is tested on, 1 to 5 of ESC-50; the others are trained on."""
    test_per_class: int = 8
    """Clips of each class to test on, of sets without folds."""
    sample_rate: int = 16_000
    """Samples a second that everything is resampled to: 16000 for EnvNet, 44100 for EnvNet-v2."""
    trim_silence: bool = True
    """Cut exact silence off both ends."""
    cache_dir: str | None = None
    """Where decoded clips are kept; by default $LTAUG_CACHE or ~/.cache/ltaug/sound; `none` keeps nothing."""
    on_error: Literal["skip", "raise"] = "skip"
    """What to do with a file that cannot be read: name and leave it out, or stop."""

    model: Literal["envnet", "envnet_v2", "mel_timm"] = "envnet"
    """EnvNet (16 kHz, 24014 samples), EnvNet-v2 (44.1 kHz, 66650 samples), or log-mel into a timm backbone."""
    backbone: str = "resnet18"
    """Of mel_timm: any timm model."""
    pretrained: bool = False
    """Of mel_timm: start from timm's weights (downloads them)."""
    mels: int = 64
    """Of mel_timm: frequency bands."""
    crop_length: int = 24_014
    """Samples of a crop; half of it is the padding on both sides of a clip."""
    test_crops: int = 10
    """Equally spaced crops a test clip, whose probabilities are averaged."""
    max_scale: float = 1.0
    """Strong augmentation: stretch of time by up to this factor; 1.25 is published, 1 is off."""
    max_gain_db: float = 0.0
    """Strong augmentation: gain of the (mixed) sound by up to so many dB; 6 is published, 0 is off."""

    epochs: int = 600
    """Passes over as many samples as the training set has; published: 600, doubled where sounds are mixed."""
    batch_size: int = 64
    """Samples a step, over all processes together. A last batch of fewer than 8 is left out."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with Nesterov momentum."""
    lr: float = 0.01
    """Learning rate after the warm-up."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 5e-4
    """L2 penalty; decoupled in adamw."""
    schedule: Literal["steps", "cosine"] = "steps"
    """steps: times `decay_factor` at each of `decay_at`; cosine: falls to 0."""
    decay_at: list[float] = field(default_factory=lambda: [0.5, 0.75])
    """Shares of the training after which the learning rate is multiplied by `decay_factor`."""
    decay_factor: float = 0.1
    """See `decay_at`."""
    warmup_epochs: int = 0
    """First epochs, at `warmup_factor` times the learning rate."""
    warmup_factor: float = 0.1
    """See `warmup_epochs`."""

    loss: Literal["ce", "bayias"] = "ce"
    """ce: cross-entropy; bayias: cross-entropy of logits + loss_tau * log prior of the training set."""
    loss_tau: float = 1.0
    """Strength of the prior in `bayias` (the tau of logit adjustment)."""
    mixer: Literal["none", "mixup", "unimix", "between_class", "unimix_between_class"] = "none"
    """How pairs are mixed; the last: gain-aware as between-class learning, with the UniMix factor for a ratio."""
    alpha: float = 1.0
    """Beta(alpha, alpha) of the mixing ratio; 1 is uniform, as published for between-class learning."""
    different_classes: bool = False
    """Whether the two classes of a pair must differ, as in between-class learning's own code."""
    first_tau: float = 1.0
    """Class probability ~ n^tau of the (first) sample: 1 instance-balanced, 0 class-balanced, -1 reversed."""
    partner_tau: float = 1.0
    """Likewise of the partner, which comes from a sampler of its own over the whole set."""
    rebalance_at: float = 0.0
    """Share of the training until which both samplers are instance-balanced (deferral)."""
    mix_stop_at: float = 1.0
    """Share of the training from which nothing is mixed and there are no partners."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 where the processor or GPU computes in it, fp32 elsewhere."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool = False
    """torch.compile the model: pays on a GPU, not on a CPU."""
    sync_bn: bool = False
    """Batch-norm statistics over all GPUs instead of per process."""
    reuse_memory: bool = True
    """Keep freed memory for the next step (glibc, CPU): faster by a half, for a higher resident size between steps."""
    threads: int | None = None
    """CPU threads of a process; by default the machine's cores, shared between its processes."""
    eval_every: int = 50
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int = 25
    """Epochs between two checkpoints of 390 MB; the last epoch is always saved."""
    log_with: str | None = None
    """Tracker of accelerate, besides the run folder: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            one_of={"dataset": DATASETS},
            at_least_one=(
                "epochs",
                "batch_size",
                "eval_every",
                "checkpoint_every",
                "crop_length",
                "mels",
                "max_scale",
                "threads",
            ),
            not_negative=(
                "seed",
                "data_seed",
                "momentum",
                "weight_decay",
                "warmup_epochs",
                "decay_factor",
                "max_gain_db",
            ),
            positive=("lr", "alpha", "warmup_factor"),
            ratios=("imbalance_ratio",),
            shares=("rebalance_at", "mix_stop_at", "decay_at"),
        )
        if self.dataset == "folder" and self.data_dir is None:
            raise ValueError("`dataset: folder` needs `data_dir`, the folder that holds one folder a class.")
        if self.test_crops < 2:
            raise ValueError(f"`test_crops` must be at least 2, spread evenly over a clip, but is {self.test_crops}.")
        if not self.sample_rate >= 4000:
            raise ValueError(f"`sample_rate` is in samples a second and at least 4000, but is {self.sample_rate}.")
        if self.different_classes and self.mixer == "none":
            raise ValueError("`different_classes` is about pairs, but `mixer` is none. Leave it out.")
        check_tracker(self.log_with)
        if self.out is None:
            fold = "" if self.test_fold == 5 else f"_fold{self.test_fold}"
            ratio = "natural" if self.profile == "natural" else f"ir{self.imbalance_ratio:g}"
            self.out = f"runs/{self.dataset}_{ratio}_{self.model}_{self.method}{fold}_seed{self.seed}"

    def reached(self, epoch: int, share: float) -> bool:
        """Whether an epoch, counted from 0, lies behind a share of the training."""
        return epoch >= round(share * self.epochs)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch (counted from 0), in closed form, so that resuming cannot shift it."""
        if epoch < self.warmup_epochs:
            return self.lr * self.warmup_factor
        if self.schedule == "cosine":
            return 0.5 * self.lr * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return self.lr * self.decay_factor ** sum(self.reached(epoch, share) for share in self.decay_at)


def parse_config(arguments: list[str] | None = None, kind: Any = Config) -> Any:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault."""
    return parse_settings(kind, arguments, HERE / "configs")


def plain_errors() -> AbstractContextManager[None]:
    """Tell mistakes in settings, data and folders in one line; with PYTHONDEVMODE=1 as a traceback."""
    return commandline.plain_errors(HERE)
