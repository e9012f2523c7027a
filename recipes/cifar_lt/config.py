"""Every knob of the recipe, with its default, and how command line and YAML files fill it."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltaug import commandline
from ltaug.commandline import check_settings, check_tracker, parse_settings

HERE = Path(__file__).resolve().parent
DATASETS = ("cifar10", "cifar100", "digits")


@dataclass
class Config:
    """One training run. A YAML file of `configs/` names a method; settings behind `--config` win over it."""

    method: str = "erm"
    """Name of the method, for tables and folders; what it does is set below."""
    out: str | None = None
    """Run folder; by default runs/DATASET_irRATIO_METHOD_seedSEED."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint; it starts anew if there is none."""
    seed: int = 0
    """Seed of everything but the choice of the long-tailed subset."""

    dataset: str = "cifar100"
    """cifar10 or cifar100 (from the hub, or from `data_dir`), or digits (comes with scikit-learn, needs no files)."""
    data_dir: str | None = None
    """Local folder with the columns of the hub data set, read instead of the hub."""
    image_column: str = "img"
    """Column of the images."""
    label_column: str | None = None
    """Column of the labels; by default fine_label for cifar100, label otherwise."""
    profile: Literal["exponential", "step", "pareto"] = "exponential"
    """How the class sizes fall."""
    imbalance_ratio: float = 100.0
    """Size of the largest class over the smallest; 1 is balanced."""
    data_seed: int = 0
    """Which samples of each class are kept; 0 everywhere in the literature."""
    held_out_per_class: int = 0
    """Training samples of each class that are kept from training, to tune corrections on; 0 as published: then what the
    long-tailed part leaves over serves."""

    epochs: int = 200
    """Passes over as many samples as the training set has."""
    batch_size: int = 128
    """Samples a step, over all processes together."""
    lr: float = 0.1
    """Learning rate after the warm-up."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 2e-4
    """L2 penalty."""
    warmup_epochs: int = 5
    """Epochs of linear warm-up: lr / warmup_epochs in the first one."""
    decay_epochs: list[int] = field(default_factory=lambda: [160, 180])
    """Epochs after which the learning rate is multiplied by `decay_factor`."""
    decay_factor: float = 0.01
    """See `decay_epochs`."""
    crop_padding: int = 4
    """Pixels of padding for the random crop."""
    flip: bool = True
    """Mirror at random."""

    loss: Literal["ce", "bayias", "lade", "label_smoothing", "label_aware_smoothing", "ldam", "focal", "cdt"] = "ce"
    """ce: cross-entropy; bayias: cross-entropy of logits + loss_tau * log prior; ldam needs `classifier: cosine`."""
    prior: str | list[float] = "train"
    """What bayias and lade correct: train, effective (the labels as mixing and sampling leave them), or C numbers."""
    loss_tau: float = 1.0
    """Strength of the prior in `bayias` (the tau of logit adjustment)."""
    loss_mode: Literal["paper", "official_code"] = "paper"
    """Of lade and label_aware_smoothing, whose released codes differ from their papers."""
    lade_alpha: float = 0.1
    """Weight of LADE's regulariser."""
    lade_lambda: float = 0.01
    """Weight of the squared term in it."""
    smoothing: float = 0.1
    """Of `label_smoothing`."""
    smoothing_head: float = 0.4
    """Of `label_aware_smoothing`: eps of the largest class."""
    smoothing_tail: float = 0.1
    """Likewise of the smallest class."""
    ldam_margin: float = 0.5
    """Margin of the smallest class, in cosines."""
    focal_gamma: float = 1.0
    """Exponent of the focal loss."""
    cdt_gamma: float = 0.2
    """Exponent of CDT's temperatures."""
    class_weights: Literal["none", "effective_number"] = "none"
    """Weights of the samples in the loss: none, or by the effective number of their class (class-balanced loss)."""
    reweight_epoch: int = 0
    """Until this epoch there are no class weights (deferred re-weighting, DRW)."""
    beta: float = 0.9999
    """Of the effective number, in `class_weights` and in `sampler`."""

    mixer: Literal["none", "mixup", "manifold_mixup", "cutmix", "remix", "unimix"] = "none"
    """How pairs of samples are mixed."""
    alpha: float = 1.0
    """Beta(alpha, alpha) of the mixing weight."""
    remix_kappa: float = 3.0
    """Ratio of counts from which ReMix gives the whole label to the rarer class."""
    remix_tau: float = 0.5
    """Share of the input below which ReMix's more frequent class gives way."""
    manifold_layers: list[str] = field(default_factory=lambda: ["input", "blocks.4", "blocks.9"])
    """Where manifold mixup mixes, one of them a batch: the input, or the output of a module by its name."""
    partner: Literal["dataset", "batch"] = "dataset"
    """Where the second sample of a pair comes from: an own sampler over the whole set, or the batch itself."""
    sampler: Literal["power", "effective_number", "progressive", "class_aware"] = "power"
    """Of the (first) sample: class probability ~ n^first_tau, or one of the library's other samplers."""
    first_tau: float = 1.0
    """Class probability ~ n^tau of the (first) sample: 1 instance-balanced, 0 class-balanced, -1 reversed."""
    partner_tau: float = 1.0
    """Likewise of the partner. For `partner: batch` UniMix resamples the batch with it; others permute the batch."""
    rebalance_epoch: int = 0
    """Until this epoch both samplers are instance-balanced (deferral)."""
    mix_stop_epoch: int | None = None
    """From this epoch nothing is mixed and there are no partners."""

    classifier: Literal["linear", "cosine", "causal_norm"] = "linear"
    """The last layer."""
    cosine_scale: float = 30.0
    """What the cosine classifier multiplies its cosines by."""
    causal_alpha: float = 1.5
    """How much of the mean direction the causal classifier takes away at test time."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 where the processor or GPU computes in it, fp32 elsewhere."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool = False
    """torch.compile the model: pays on a GPU, not on a CPU."""
    sync_bn: bool = False
    """Batch-norm statistics over all GPUs instead of per process."""
    reuse_memory: bool = True
    """Keep freed memory for the next step (glibc, CPU): faster by a third, for a higher resident size between steps."""
    threads: int | None = None
    """CPU threads of a process; by default the machine's cores, shared between its processes."""
    eval_every: int = 10
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    log_with: str | None = None
    """Tracker of accelerate, besides the run folder: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            one_of={"dataset": DATASETS},
            at_least_one=("epochs", "batch_size", "eval_every", "checkpoint_every", "threads"),
            not_negative=(
                "seed",
                "data_seed",
                "held_out_per_class",
                "momentum",
                "weight_decay",
                "warmup_epochs",
                "decay_factor",
                "crop_padding",
            ),
            positive=("lr", "alpha"),
            ratios=("imbalance_ratio",),
        )
        if isinstance(self.prior, str) and self.prior not in ("train", "effective"):
            raise ValueError(f"`prior` must be train, effective or a list of numbers, but is {self.prior!r}.")
        if not isinstance(self.prior, str) and not all(value > 0 for value in self.prior):
            raise ValueError(f"`prior` must hold positive numbers, but holds {min(self.prior)}.")
        if self.prior != "train" and self.loss not in ("bayias", "lade"):
            raise ValueError(f"`prior` is what bayias and lade correct, but `loss` is {self.loss}. Leave it out.")
        if self.loss == "ldam" and self.classifier != "cosine":
            raise ValueError(f"`loss: ldam` needs cosines: set `classifier: cosine` (it is {self.classifier}).")
        if self.class_weights != "none" and self.loss == "lade":
            raise ValueError("`class_weights` cannot weight `loss: lade`, whose regulariser is no mean over samples.")
        if self.mixer == "manifold_mixup" and self.compile:
            raise ValueError("`mixer: manifold_mixup` changes the graph in every step. Set `compile: false`.")
        check_tracker(self.log_with)
        if self.out is None:
            self.out = f"runs/{self.dataset}_ir{self.imbalance_ratio:g}_{self.method}_seed{self.seed}"

    def beyond_the_end(self) -> list[str]:
        """Settings that name an epoch which this run does not reach: usually those of a longer schedule."""
        last = {
            "decay_epochs": max(self.decay_epochs, default=0),
            "mix_stop_epoch": self.mix_stop_epoch or 0,
            "rebalance_epoch": self.rebalance_epoch,
            "reweight_epoch": self.reweight_epoch,
        }
        return [name for name, epoch in last.items() if epoch >= self.epochs]

    def stretched(self, epochs: int) -> list[str]:
        """The arguments that move every epoch which this config names to the same place in a longer or shorter run."""
        words = ["--epochs", str(epochs)]
        for name in ("warmup_epochs", "decay_epochs", "rebalance_epoch", "reweight_epoch", "mix_stop_epoch"):
            if value := getattr(self, name):
                moved = [round(each * epochs / self.epochs) for each in (value if isinstance(value, list) else [value])]
                words += [f"--{name}", str(moved) if isinstance(value, list) else str(moved[0])]
        return words

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch (counted from 0), in closed form, so that resuming cannot shift it."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / self.warmup_epochs
        return self.lr * self.decay_factor ** sum(epoch >= decay for decay in self.decay_epochs)


@dataclass
class Stage2Config:
    """The second stage of a run: its network stays, a classifier is learned on class-balanced samples.

    Data, network, precision and memory layout are those of the first stage.
    """

    method: str = "crt"
    """Name of the method, for tables and folders; what it does is set below."""
    stage1: str = "erm"
    """File of `configs/` that trains the first stage; sweep.py starts it."""
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

    classifier: Literal["crt", "lws", "mislas", "tau_norm", "ncm"] = "crt"
    """crt: a new one; lws: a factor a class; mislas: factors and a correction; tau_norm, ncm: computed, not trained."""
    mode: Literal["paper", "official_code"] = "paper"
    """Of mislas, whether weight decay pulls to no correction and factors of 1, or all to 0; and of its loss."""
    delta_lr_ratio: float = 0.2
    """Of mislas: learning rate of the correction over that of the factors."""
    tau: float = 1.0
    """Of tau_norm: the exponent."""
    loss: Literal["ce", "label_aware_smoothing"] = "ce"
    """What is minimised."""
    smoothing_head: float = 0.4
    """Of `label_aware_smoothing`: eps of the largest class."""
    smoothing_tail: float = 0.1
    """Likewise of the smallest class."""
    sampler: Literal["class_aware", "class_balanced"] = "class_aware"
    """Class-balanced samples: in cycles of the classes (as the released codes), or drawn independently."""
    samples_per_class: int = 4
    """Of class_aware: samples of a class in a row."""
    batch_norm: Literal["fixed", "shift"] = "fixed"
    """fixed: the first stage's statistics, used and kept; shift: those of the class-balanced batches, and kept up."""

    epochs: int = 10
    """Passes over as many samples as the training set has; 0 for tau_norm and ncm."""
    batch_size: int = 128
    """Samples a step, over all processes together."""
    lr: float = 0.1
    """Learning rate of the first epoch; falls to 0 as a cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 2e-4
    """L2 penalty."""
    threads: int | None = None
    """CPU threads of a process; by default as in the first stage."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; the last epoch is always saved."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            at_least_one=("batch_size", "checkpoint_every", "samples_per_class", "threads"),
            not_negative=("epochs", "momentum", "weight_decay", "delta_lr_ratio", "tau"),
            positive=("lr",),
        )
        computed = self.classifier in ("tau_norm", "ncm")
        if computed and self.epochs:
            raise ValueError(
                f"`classifier: {self.classifier}` is not trained: `epochs` must be 0, but is {self.epochs}."
            )
        if not computed and not self.epochs:
            raise ValueError(f"`epochs` must be at least 1 to train `classifier: {self.classifier}`, but is 0.")

    def lr_factor(self, epoch: int) -> float:
        """Learning rate of an epoch over `lr`."""
        return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


def parse_config(arguments: list[str] | None = None, kind: Any = Config) -> Any:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault.

    `kind` is the dataclass that the settings are of.
    """
    return parse_settings(kind, arguments, HERE / "configs")


def plain_errors() -> AbstractContextManager[None]:
    """Tell mistakes in settings, data and folders in one line; with PYTHONDEVMODE=1 as a traceback."""
    return commandline.plain_errors(HERE)
