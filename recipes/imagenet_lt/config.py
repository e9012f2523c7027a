"""Every knob of the recipe, with its default, and how command line and YAML files fill it."""

import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ltaug import commandline
from ltaug.commandline import check_settings, check_tracker, parse_settings

HERE = Path(__file__).resolve().parent
DATASETS = ("imagenet_lt", "places_lt", "folder", "hub", "digits")
PLACES = ("data_dir", "list_dir")
"""Settings that say where the data are, which may move."""
FREE = (
    "epochs",
    "out",
    *PLACES,
    "resume",
    "threads",
    "workers",
    "eval_every",
    "checkpoint_every",
    "checkpoint_steps",
    "log_with",
)
"""What may change on resuming."""


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
    """imagenet_lt, places_lt (official lists), folder, hub (any with images and labels), or digits."""
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
    """Encoded images of a class that make up the window of a stream, over all processes and workers, and its pool."""
    test_split: str | None = None
    """Of `dataset: hub`; by default test or validation, whichever there is."""
    test_per_class: int = 20
    """Images of each class to test on, of sets without a test split."""
    held_out_per_class: int = 0
    """Training images of each class kept to tune on, of sets without validation images."""
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
    """Train the classifier (and adapters) alone; the backbone keeps its weights and statistics."""
    lora_rank: int = 0
    """Rank of the low-rank adapters (LoRA, by peft) that a frozen backbone is trained by; 0 is none. Needs `freeze`."""
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
    """sgd: with classical momentum; or any optimiser of timm (nesterov, adamw, lamb, ...)."""
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
    workers: int | None = None
    """Processes that decode, for each training process: by default its cores, up to 8; 0 decodes in the training's."""
    eval_every: int = 5
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0 is none."""
    log_with: str | None = None
    """Tracker of accelerate, besides the run folder: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            one_of={"dataset": DATASETS},
            at_least_one=(
                "epochs",
                "batch_size",
                "accumulate",
                "eval_every",
                "checkpoint_every",
                "test_per_class",
                "threads",
                "stream_buffer",
            ),
            not_negative=(
                "seed",
                "data_seed",
                "momentum",
                "weight_decay",
                "warmup_epochs",
                "drop_path",
                "ema",
                "clip_norm",
                "workers",
                "checkpoint_steps",
                "lade_alpha",
                "lade_lambda",
                "lora_rank",
                "held_out_per_class",
            ),
            positive=("lr", "alpha", "head_lr_factor"),
            ratios=("imbalance_ratio",),
            shares=("rebalance_at", "mix_stop_at"),
            in_0_to_1=("test_resize", "ema", "drop_path"),
        )
        if self.pretrained and self.model == "resnet10":
            raise ValueError("`model: resnet10` has no pretrained weights in timm. Set `pretrained: false`.")
        if self.image_size < 16:
            raise ValueError(f"`image_size` is in pixels and must be at least 16, but is {self.image_size}.")
        if self.prior != "train" and self.loss == "ce":
            raise ValueError("`prior` is what bayias and lade correct, but `loss` is ce. Leave it out.")
        if self.lora_rank and not self.freeze:
            raise ValueError(
                f"`lora_rank`={self.lora_rank} puts adapters into a frozen backbone. Set `freeze: true` as well."
            )
        if self.stream and self.dataset != "hub":
            raise ValueError(
                f"`stream` reads shards of `dataset: hub`, but `dataset` is {self.dataset!r}. Leave it out."
            )
        check_tracker(self.log_with)
        if self.out is None:
            name = (self.hub_id or self.dataset).rpartition("/")[2]
            ratio = "" if self.profile == "natural" else f"_ir{self.imbalance_ratio:g}"
            self.out = f"runs/{name}{ratio}_{short(self.model)}_{self.method}_seed{self.seed}"

    @property
    def decoders(self) -> int:
        """`workers`, or what it is by default here."""
        return min(8, cores_of_a_process()) if self.workers is None else self.workers

    def reached(self, epoch: int, share: float) -> bool:
        """Whether an epoch, counted from 0, lies behind a share of the training."""
        return epoch >= round(share * self.epochs)

    def lr_at(self, epoch: float) -> float:
        """Learning rate at a place of the training, in epochs: linear warm-up, then a cosine down to 0."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        return 0.5 * self.lr * (1.0 + math.cos(math.pi * epoch / self.epochs))


@dataclass
class Stage2Config:
    """The second stage of a run: its network stays, a classifier is learned on class-balanced images.

    Data, augmentation, network, precision and memory layout are those of the first stage.
    """

    method: str = "crt"
    """Name of the method, for tables and folders; what it does is set below."""
    stage1: str = "erm"
    """File of `configs/` that trains the first stage."""
    from_run: str | None = None
    """Run folder of the first stage."""
    out: str | None = None
    """Run folder; by default beside `from_run`, with `method` in the place of the first stage's."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint; it starts anew if there is none."""
    seed: int | None = None
    """Seed of this stage; by default that of the first."""
    data_dir: str | None = None
    """Folder of the data, if it has moved since the first stage."""
    list_dir: str | None = None
    """Likewise of the official lists."""

    classifier: Literal["crt", "lws", "mislas", "tau_norm", "ncm"] = "crt"
    """crt: a new one; lws: a factor a class; mislas: factors and a correction; tau_norm, ncm: computed, not trained."""
    mode: Literal["paper", "official_code"] = "paper"
    """Of mislas, whether weight decay pulls to no correction and factors of 1, or all to 0; and of its loss."""
    delta_lr_ratio: float = 0.05
    """Of mislas: learning rate of the correction over that of the factors."""
    tau: float = 1.0
    """Of tau_norm: the exponent."""
    loss: Literal["ce", "label_aware_smoothing"] = "ce"
    """What is minimised."""
    smoothing_head: float = 0.3
    """Of `label_aware_smoothing`: eps of the largest class."""
    smoothing_tail: float = 0.0
    """Likewise of the smallest class."""
    sampler: Literal["class_aware", "class_balanced"] = "class_aware"
    """Class-balanced images: in cycles of the classes (as the released codes), or drawn independently."""
    samples_per_class: int = 4
    """Of class_aware: images of a class in a row."""
    batch_norm: Literal["fixed", "shift"] = "fixed"
    """fixed: the first stage's statistics, used and kept; shift: those of the class-balanced batches, and kept up."""

    epochs: int = 10
    """Passes over as many images as the training set has; 0 for tau_norm and ncm."""
    batch_size: int = 256
    """Images a step, over all processes together, accumulated or not."""
    accumulate: int = 1
    """Parts that a process splits its share of a batch into, to fit into memory."""
    lr: float = 0.1
    """Learning rate of the first step; falls to 0 as a cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    threads: int | None = None
    """CPU threads of a process; by default as in the first stage."""
    workers: int | None = None
    """Processes that decode, for each training process; by default as in the first stage."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints inside an epoch; 0 is none."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            at_least_one=("batch_size", "accumulate", "checkpoint_every", "samples_per_class", "threads"),
            not_negative=(
                "seed",
                "epochs",
                "momentum",
                "weight_decay",
                "delta_lr_ratio",
                "tau",
                "workers",
                "checkpoint_steps",
            ),
            positive=("lr",),
        )
        computed = self.classifier in ("tau_norm", "ncm")
        if computed and self.epochs:
            raise ValueError(
                f"`classifier: {self.classifier}` is not trained: `epochs` must be 0, but is {self.epochs}."
            )
        if not computed and not self.epochs:
            raise ValueError(f"`epochs` must be at least 1 to train `classifier: {self.classifier}`, but is 0.")

    def lr_factor(self, epoch: float) -> float:
        """Learning rate at a place of the training, in epochs, over that of the first step."""
        return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


def short(model: str) -> str:
    """A network's name as folders have it: without where it comes from, and without that of its weights."""
    return model.rpartition(":")[2].rstrip("/").rpartition("/")[2].partition(".")[0]


def cores_of_a_process() -> int:
    """This machine's cores, shared between its training processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def parse_config(arguments: list[str] | None = None, kind: Any = Config) -> Any:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault.

    `kind` is the dataclass that the settings are of.
    """
    return parse_settings(kind, arguments, HERE / "configs")


def plain_errors() -> AbstractContextManager[None]:
    """Tell mistakes in settings, data and folders in one line; with PYTHONDEVMODE=1 as a traceback."""
    return commandline.plain_errors(HERE)
