"""What stands around the loop of every training script: its settings, its start, the run folder, what comes out.

Nothing here calls the script back and nothing here trains: the loop stays where it is read, in the script. Needs the
extra ``recipes``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from ltaug.adapters import plain_state
from ltaug.classifiers import NearestClassMeanClassifier
from ltaug.commandline import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check_tracker,
    one_line_errors,
    parse_settings,
    peek,
    read_settings,
)
from ltaug.errors import UserError, did_you_mean
from ltaug.methods import METHODS, Method, TrainingPlan, find_classifier, published_settings
from ltaug.metrics import average_precision, classification_report, multilabel_report, per_class_accuracy
from ltaug.process import (
    autocast_reason,
    autocast_type,
    finite_loss,
    peak_memory_bytes,
    reuse_freed_memory,
    set_threads,
)
from ltaug.run import RunFolder, read_config, read_json, write_atomically
from ltaug.tables import parameters_in_words

__all__ = [
    "SECOND_STAGE",
    "Run",
    "TrainSettings",
    "arrange",
    "class_means",
    "evaluate",
    "for_evaluation",
    "launch",
    "learning_rate",
    "load_first_stage",
    "load_weights",
    "make_optimizer",
    "predict",
    "search_tau",
    "set_learning_rate",
    "settings_of",
    "start",
]

T = TypeVar("T")

SECOND_STAGE: dict[str, Any] = {"epochs": 10, "lr": 0.1, "optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 0.0}
"""Schedule of a second stage, unless a protocol has another one in its mapping `second_stage`."""
SCHEDULE = (*SECOND_STAGE, "warmup_factor", "decay_at", "decay_factor")
"""Settings of a protocol that a second stage does not take."""
INHERITED = ("seed", "batch_size", "precision", "channels_last", "sync_bn")
"""Settings, beside those of data and network, that a second stage takes from its first one."""
MAY_CHANGE = (
    "epochs",
    "out",
    "from_run",
    "resume",
    "threads",
    "workers",
    "eval_every",
    "checkpoint_every",
    "checkpoint_steps",
    "log_with",
    "report",
    "allow_outside",
)
"""Settings that may change on resuming; those that end in `_dir` may, too, since data move."""
MOST_SEEDS = 2**32 - 2**16
"""Each process adds its number to the seed."""
STOPPED = 130
"""Exit code after Ctrl-C."""
SECONDS_TO_SEE_A_FILE = 4.0
"""That another process has just written: network file systems are late."""
OWN = ("out", "from_run", "threads", "workers", "_dir")
"""Ends of the names of settings that may differ between processes, since machines do."""
_AVERAGE, _PROGRESS = "moving_average.safetensors", "progress.json"
TAUS = tuple(k / 10 for k in range(21))
"""What tau_norm is tried with, as the released code does."""
SECONDS_BETWEEN_LINES = 30.0
"""Of a long epoch, where there is no progress bar."""
SHOWN = {
    "loss": "loss {:.4g}",
    "lr": "lr {:.3g}",
    "top1": "top-1 {:.1%}",
    "top5": "top-5 {:.1%}",
    "map": "mAP {:.1%}",
    "miou": "mIoU {:.1%}",
    "macc": "mACC {:.1%}",
    **{name: name + " {:.1%}" for name in ("many", "medium", "few")},
    "ece": "ECE15 {:.1%}",
    "labelwise_ece": "label-wise ECE15 {:.1%}",
    "samples_per_second": "{:.4g} samples/s",
}
"""What the terminal shows of an epoch's row, and how."""


@dataclass
class TrainSettings:
    """What every training script can be told. A script adds its data, network and protocol by inheriting."""

    method: str = "erm"
    """Name of the method; `ltaug methods` lists them."""
    set: dict[str, Any] | None = None
    """Changes to the method, e.g. `--set.alpha 0.5`."""
    protocol: str | None = None
    """Name of a file in `protocols/`: the schedule of a paper."""
    from_run: str | None = None
    """Run folder of the first stage that a second stage starts from; its data and network are taken over."""
    out: str | None = None
    """Run folder; by default runs/DATA_MODEL_METHOD_seedSEED."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint, or start it if there is none."""
    seed: NonNegativeInt = 0
    """Seed of everything but the choice of the training subset."""

    epochs: NonNegativeInt = 100
    """Passes over as many samples as the training set has."""
    batch_size: PositiveInt = 128
    """Samples a step, over all processes together."""
    optimizer: str = "sgd"
    """sgd (classical momentum), nesterov, adamw, or any optimiser of timm."""
    lr: PositiveFloat = 0.1
    """Learning rate after the warm-up."""
    momentum: NonNegativeFloat = 0.9
    """Momentum of sgd and nesterov."""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty; decoupled in adamw."""
    schedule: Literal["steps", "cosine"] = "cosine"
    """steps: the learning rate is multiplied by `decay_factor` at each of `decay_at`; cosine: it falls to 0."""
    decay_at: list[Share] | None = None
    """steps: shares of the training after which the learning rate falls."""
    decay_factor: PositiveFloat = 0.1
    """steps: what the learning rate is multiplied by at each of `decay_at`."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of warm-up."""
    warmup_factor: PositiveFloat | None = None
    """Share of the learning rate during the warm-up; by default it rises linearly."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 where the hardware computes in it, fp32 elsewhere."""
    channels_last: bool | None = None
    """Memory layout of the convolutions; by default true, but for EnvNets in fp32 on a CPU, which are slower in it."""
    sync_bn: bool = False
    """Batch-norm statistics over all processes instead of in each of them."""
    compile: bool = False
    """torch.compile the model: pays on a GPU, not on a CPU."""
    threads: PositiveInt | None = None
    """CPU threads of a process; by default the machine's cores, shared between its processes."""
    eval_every: PositiveInt = 10
    """Epochs between two evaluations; the last epoch is always evaluated."""
    checkpoint_every: PositiveInt = 1
    """Epochs between two checkpoints; the last epoch is always saved."""
    log_with: str | None = None
    """Tracker of accelerate, besides the run folder: tensorboard, wandb, ..."""
    report: bool = True
    """Write report.html at the end."""

    def __post_init__(self) -> None:
        for item in fields(self):  # no shell has replaced ~ in a YAML file, or behind `--out=`
            value = getattr(self, item.name)
            if isinstance(value, str) and (item.name in ("out", "from_run") or item.name.endswith("_dir")):
                setattr(self, item.name, os.path.expanduser(value))
        if self.seed >= MOST_SEEDS:
            raise UserError(f"`seed` must be below {MOST_SEEDS}, but is {self.seed}: NumPy's seeds have 32 bits.")
        if self.threads is not None and self.threads > (most := max(1024, os.cpu_count() or 1)):
            raise UserError(f"`threads` must be at most {most}, but is {self.threads}: leave it out for all cores.")
        method = self.chosen_method()
        if not method.trained:
            self.epochs = 0  # its classifier is computed
        elif self.epochs < 1:
            raise UserError(f"`epochs` must be at least 1, but is {self.epochs}.")
        if method.second_stage and not self.from_run:
            raise UserError(
                f"`method` {self.method} is a second stage: `from_run` must name the run folder of its first stage, "
                f"trained with `--method {method.first_stage}`."
            )
        if self.from_run and not method.second_stage:
            raise UserError(
                f"`from_run` is where a second stage starts, but `method` {self.method} trains a network of its own. "
                "Leave it out, or choose a second stage such as crt or mislas."
            )
        if method.mixer == "manifold_mixup" and self.compile:
            raise UserError(f"`method` {self.method} changes the graph in every step. Set `compile: false`.")
        if self.schedule == "steps" and self.decay_at is None:
            raise UserError("`schedule: steps` needs `decay_at`, the shares of the training after which it falls.")
        check_tracker(self.log_with)
        if self.out is None:
            stage = self.other_first_stage()
            label = f"{self.label}_on_{stage}" if stage else self.label
            names = [getattr(self, "data_name", ""), getattr(self, "model_name", ""), label, f"seed{self.seed}"]
            parent = Path(self.from_run).parent if self.from_run else Path("runs")
            self.out = str(parent / "_".join(filter(None, names)))

    @property
    def label(self) -> str:
        """The method's name for tables and folders, with the changes of `set`."""
        values = {name: f"{value}" for name, value in (self.set or {}).items()}
        # A long list, such as a prior of many classes, would make a name that no file system takes.
        values = {
            name: text if len(text) < 40 else sha256(text.encode()).hexdigest()[:8] for name, text in values.items()
        }
        changes = map("".join, values.items())
        return re.sub(r"[^\w.+=-]+", "-", "_".join([self.method, *changes])).strip("-")

    def other_first_stage(self) -> str | None:
        """Method of the run that a second stage starts from, if it is not the one of its paper."""
        config = Path(self.from_run or "") / "config.yaml"
        if self.from_run is None or not config.is_file():
            return None
        first = str(read_config(config).get("method"))
        return first if first != self.chosen_method().first_stage else None

    def published(self) -> dict[str, Any]:
        """What the method's paper sets for this data set and imbalance ratio only."""
        natural = getattr(self, "profile", None) == "natural"
        ratio = None if natural else getattr(self, "imbalance_ratio", None)
        return published_settings(self.method, getattr(self, "dataset", ""), ratio)

    def chosen_method(self) -> Method:
        """The named method, with what is published for this data set, and with the changes of `set`."""
        if self.method not in METHODS:
            hint = did_you_mean(self.method, METHODS) or "."
            raise UserError(f"`method` {self.method!r} is not known{hint} There are: {', '.join(METHODS)}.")
        try:
            return METHODS[self.method].replace(**{**self.published(), **(self.set or {})})
        except ValueError as error:
            raise UserError(f"`set`: {error}") from error


# --- the start --------------------------------------------------------------------------------------------------------


def launch(main: Callable[[T], None], kind: type[T], script: str, words: Sequence[str] | None = None) -> None:
    """Run a script's main with the settings of the command line; a mistake in them ends it with one line.

    Args:
        main: gets the settings.
        kind: their dataclass, derived from :class:`TrainSettings`.
        script: ``__file__`` of the script, beside which `protocols/` lies.
        words: of the command line; by default those of the program.
    """
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    interrupted: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    if together:
        # Ctrl-C ends the other processes at once, even those that wait for one another; the main one says so.
        others = int(os.environ.get("LOCAL_RANK", "0")) > 0
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL if others else interrupt)
    try:
        with one_line_errors(stopped="The same command with `--resume true` continues after the last checkpoint."):
            Run.begun = False
            try:
                main(settings_of(kind, script, words))
            except Exception as error:
                if interrupted:  # what the end of another process has done to this one, which was told to end as well
                    raise KeyboardInterrupt from error
                if Run.begun or isinstance(error, UserError) or not isinstance(error, ValueError):
                    raise
                # Before the first step it is the settings' fault, or the data's.
                raise UserError(str(error)) from error
    except SystemExit as end:
        if together and end.code == STOPPED:
            sys.stdout.flush()
            os._exit(STOPPED)  # to leave a group of which nobody answers any more takes seconds, and may abort
        raise


def settings_of(kind: type[T], script: str, words: Sequence[str] | None = None) -> T:
    """Read the settings of a training script.

    Later ones win: the defaults of the dataclass; of a second stage the data and network of its first stage
    (``from_run``) and :data:`SECOND_STAGE`; the protocol; files named by ``--config``; single settings.

    Args:
        kind: see :func:`launch`.
        script: see :func:`launch`.
        words: see :func:`launch`.

    Raises:
        UserError: a setting is unknown or will not do.
    """
    words = list(sys.argv[1:] if words is None else words)
    method = METHODS.get(peek(words, "method", "erm") or "")
    second = method is not None and method.second_stage
    defaults: dict[str, Any] = {}
    if second and (from_run := peek(words, "from_run")):
        defaults = {**_inherited(kind, os.path.expanduser(from_run)), **SECOND_STAGE}
    configs = []
    if protocol := peek(words, "protocol"):
        values = read_settings(_protocol_file(protocol, script))
        own = values.pop("second_stage", None) or {}
        special = {name: own.pop(name) for name in list(own) if name in METHODS}  # of one method
        if second:
            special = special.get(peek(words, "method") or "", {})
            values = {name: value for name, value in values.items() if name not in SCHEDULE} | own | special
        configs.append(values)
    return parse_settings(kind, words, defaults=defaults, configs=configs)


def _protocol_file(name: str, script: str) -> Path:
    folder = Path(script).resolve().parent / "protocols"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        hint = did_you_mean(name, known) or "."
        raise UserError(f"`protocol` {name!r} is not known{hint} There are: {', '.join(known)}.")
    return path


def _inherited(kind: type, from_run: str) -> dict[str, Any]:
    """The settings that a second stage takes from its first one: of data and network, and a few others."""
    path = Path(from_run)
    for name in ("config.yaml", "ltaug.json", "model.safetensors"):
        if not (path / name).is_file():
            raise UserError(f"`from_run` {from_run!r} is no finished run: it has no {name}. Train it first.")
    saved = read_config(path / "config.yaml")
    first = METHODS.get(saved.get("method", ""))
    if saved.get("from_run") or saved.get("stage1"):
        raise UserError(f"`from_run` {from_run!r} is itself a second stage. Name the run of its first stage.")
    if first is not None and (classifier := first.replace(**(saved.get("set") or {})).classifier) != "linear":
        raise UserError(
            f"`from_run` {from_run!r} has the classifier {classifier}, but a second stage needs a linear one."
        )
    bases = [base for base in kind.__mro__[1:] if is_dataclass(base) and not issubclass(base, TrainSettings)]
    names = [item.name for base in bases for item in fields(base)]
    return {name: saved[name] for name in (*names, *INHERITED) if name in saved}


def start(cfg: TrainSettings) -> Any:
    """Set threads, memory and seeds of this process; returns accelerate's ``Accelerator``.

    It also prints what the method's paper sets for this data set only.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    reuse_freed_memory()
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision), log_with=cfg.log_with, project_dir=cfg.out)
    started, grouped = int(os.environ.get("WORLD_SIZE", "1")), accelerator.num_processes
    if started != grouped:
        raise UserError(
            f"The launcher has started {started} processes (WORLD_SIZE), but accelerate has made a group of {grouped}: "
            "each would train by itself, all in one folder. Without a working GPU for each process, set "
            "ACCELERATE_USE_CPU=true and use torchrun."
        )
    set_seed(cfg.seed, device_specific=True)
    if cfg.precision == "auto":
        accelerator.print(autocast_reason(cfg.precision))
    if stage := cfg.other_first_stage():
        wanted = cfg.chosen_method().first_stage
        accelerator.print(f"Note: {cfg.method} starts from a run of {stage}; its paper's first stage is {wanted}.")
    chosen = {name: value for name, value in cfg.published().items() if name not in (cfg.set or {})}
    if chosen:
        settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
        accelerator.print(f"{cfg.method}: {settings}, as published for this data set.")
    return accelerator


def load_first_stage(model: nn.Module, cfg: TrainSettings, class_names: Sequence[str]) -> None:
    """Load the weights of the run that a second stage starts from; does nothing without ``from_run``.

    Args:
        model: as the first stage had it, changed in place.
        cfg: the settings.
        class_names: of the data, which must be those of the run.

    Raises:
        UserError: the run knows other classes, or its weights are damaged or of another network.
    """
    if cfg.from_run is None:
        return
    path = Path(cfg.from_run)
    known = read_json(path / "ltaug.json")["class_names"]
    if known != list(class_names):
        raise UserError(
            f"`from_run` {cfg.from_run!r} knows {len(known)} classes ({', '.join(known[:3])}, ...), but the data have "
            f"{len(class_names)} ({', '.join(class_names[:3])}, ...)."
        )
    load_weights(model, path / "model.safetensors")


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the weights of a finished run into the network that they are of.

    Args:
        model: changed in place.
        file: ``model.safetensors`` of the run.

    Raises:
        UserError: they are damaged, or of another network.
    """
    try:
        model.load_state_dict(load_file(file))
    except SafetensorError as error:
        raise UserError(f"`{file}` is damaged ({error}). `--resume true` on its run writes it again.") from error
    except RuntimeError as error:
        raise UserError(
            f"`{file}` does not fit the network that model.py builds: {_first_difference(str(error))} Build the "
            "network that was trained, with the settings of the run's config.yaml."
        ) from error


def _first_difference(error: str) -> str:
    """The first line of what ``load_state_dict`` finds different, and how many more there are."""
    lines = [line.strip() for line in error.splitlines() if line.strip()][1:]
    more = f" (and {len(lines) - 1} more differences)" if len(lines) > 1 else ""
    return f"{lines[0].rstrip('.') if lines else error}{more}."


def arrange(model: nn.Module, cfg: TrainSettings, accelerator: Any) -> nn.Module:
    """Set a model's batch norm, memory layout and windows as the settings say; before the optimiser is made."""
    if cfg.sync_bn and accelerator.num_processes > 1:
        if accelerator.device.type == "cpu":
            raise UserError("`sync_bn` shares statistics between GPUs, but this is a CPU. Leave it out.")
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        with contextlib.suppress(ImportError):
            from timm import layers

            convert = layers.convert_sync_batchnorm  # type: ignore[attr-defined]  # torch's drops timm's activations
        model = convert(model)
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "no"
    aggregate = getattr(cfg, "aggregate", None)  # of recipes whose samples are seen in several windows
    if aggregate is not None and hasattr(model, "aggregate"):
        model.aggregate = aggregate
    elif aggregate not in (None, "mean"):
        raise UserError(
            f"`aggregate` is {aggregate}, but {type(model).__name__} has no attribute `aggregate` that says how it "
            "puts windows together, as SoundNetwork has. Derive it from that."
        )
    pays = not slow or getattr(model, "channels_last_on_cpu", True)
    channels_last = pays if cfg.channels_last is None else cfg.channels_last
    return model.to(memory_format=torch.channels_last) if channels_last else model


# --- the optimiser ----------------------------------------------------------------------------------------------------


def make_optimizer(groups: Sequence[Mapping[str, Any]], cfg: TrainSettings) -> torch.optim.Optimizer:
    """Make the optimiser of the settings.

    Args:
        groups: parameter groups, with ``lr_scale`` where their learning rate is another one than ``lr``.
        cfg: the settings.

    Raises:
        UserError: the optimiser is not known.
    """
    parameters: list[dict[str, Any]] = [{"lr_scale": 1.0, **group} for group in groups]
    if cfg.optimizer in ("sgd", "nesterov"):
        nesterov = cfg.optimizer == "nesterov" and cfg.momentum > 0
        return torch.optim.SGD(
            parameters, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay, nesterov=nesterov
        )
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(parameters, cfg.lr, weight_decay=cfg.weight_decay)
    try:
        from timm import optim
    except ImportError as error:
        raise UserError(f"`optimizer` {cfg.optimizer!r} needs timm: `pip install ltaug[vision]`.") from error
    timms: Any = optim
    known = ["sgd", "nesterov", *map(str, timms.list_optimizers())]
    if cfg.optimizer.rpartition("_")[2] not in known:  # lookahead_adamw is adamw
        hint = did_you_mean(cfg.optimizer, known) or f". There are: {', '.join(known)}."
        raise UserError(f"`optimizer` must be sgd, nesterov or one of timm's, but is {cfg.optimizer!r}{hint}")
    made: torch.optim.Optimizer = timms.create_optimizer_v2(
        parameters, cfg.optimizer, lr=cfg.lr, weight_decay=cfg.weight_decay, momentum=cfg.momentum
    )
    return made


def learning_rate(cfg: TrainSettings, epoch: int, within: float | None = None) -> float:
    """The learning rate at a place of the training, in closed form, so that resuming cannot shift it.

    Args:
        cfg: the settings.
        epoch: counted from 0.
        within: share of the epoch that is done, where the rate changes at every step; None: it changes every epoch, and
            a linear warm-up ends with its last one.

    >>> cfg = TrainSettings(lr=1.0, epochs=4, schedule="steps", decay_at=[0.75], warmup_epochs=2)
    >>> [learning_rate(cfg, epoch) for epoch in range(4)]
    [0.5, 1.0, 1.0, 0.1]
    """
    place = epoch + (within or 0.0)
    if place < cfg.warmup_epochs:
        if cfg.warmup_factor is not None:
            return cfg.lr * cfg.warmup_factor
        return min(cfg.lr, cfg.lr * (place + (within is None)) / cfg.warmup_epochs)
    if cfg.schedule == "cosine":
        return 0.5 * cfg.lr * (1.0 + math.cos(math.pi * place / cfg.epochs))
    return cfg.lr * cfg.decay_factor ** sum(place >= round(share * cfg.epochs) for share in cfg.decay_at or ())


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Give every parameter group its learning rate, ``lr`` times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


# --- evaluation -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(accelerator: Any, model: nn.Module, loader: Any) -> tuple[Tensor, Tensor]:
    """Compute the logits of a whole set, on every process and in the order of the set.

    Args:
        accelerator: accelerate's.
        model: prepared or not; it is in evaluation mode afterwards.
        loader: yields this process's rows of every global batch, the same number of batches on every process.

    Returns:
        Logits, float32 [N, C], and labels, int64 [N], or rows [N, C] of several labels a sample, on the CPU.
    """
    from accelerate.utils import gather_object

    model = for_evaluation(accelerator, model)
    mine = []
    for inputs, labels in loader:
        with accelerator.autocast():
            mine.append((model(inputs).float().cpu(), labels.cpu()))
    # Gathered, they come process by process; each of them has its share of every batch.
    parts = gather_object(mine)
    ordered = [parts[k] for batch in range(len(mine)) for k in range(batch, len(parts), len(mine))]
    return torch.cat([logits for logits, _ in ordered]), torch.cat([labels for _, labels in ordered])


def evaluate(logits: Tensor, labels: Tensor, class_counts: Tensor) -> dict[str, float]:
    """Compute every number of a results table from logits.

    Args:
        logits: [N, C].
        labels: int64 [N], or multi-hot rows [N, C] of several labels a sample.
        class_counts: training samples a class, or that have each label, [C].

    Returns:
        :func:`~ltaug.metrics.classification_report`, or :func:`~ltaug.metrics.multilabel_report`.

    >>> evaluate(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]]), torch.tensor([500, 5]))["few"]
    1.0
    """
    if labels.ndim > 1:
        return multilabel_report(logits.sigmoid(), labels, class_counts)
    return classification_report(logits.softmax(1), labels, class_counts)


@torch.no_grad()
def class_means(accelerator: Any, model: nn.Module, loader: Any, plan: TrainingPlan) -> NearestClassMeanClassifier:
    """Compute the mean features of all classes, over all processes, for the classifier ncm.

    Args:
        accelerator: accelerate's.
        model: ends in a linear classifier, whose inputs are the features.
        loader: the training samples, without augmentation.
        plan: whose classifier is attached to the model.
    """
    _, linear = find_classifier(accelerator.unwrap_model(model), name=plan.classifier_name)
    means = NearestClassMeanClassifier(linear.in_features, linear.out_features).to(accelerator.device)
    for features, labels in _features(accelerator, model, linear, loader):
        means.update(features, labels)
    counts = accelerator.reduce(means.counts, "sum")
    means.means = accelerator.reduce(means.means * means.counts[:, None], "sum") / counts.clamp(min=1)[:, None]
    means.counts = counts
    return means


@torch.no_grad()
def search_tau(accelerator: Any, model: nn.Module, loader: Any, plan: TrainingPlan) -> float:
    """Find the exponent of tau_norm with the best mean accuracy over the classes, of 0 to 2 in steps of 0.1.

    Args:
        accelerator: accelerate's.
        model: ends in a linear classifier.
        loader: held-out samples; the test set must choose nothing.
        plan: whose classifier is attached to the model.

    Returns:
        The exponent; of several that are equally good, the smallest.
    """
    _, linear = find_classifier(accelerator.unwrap_model(model), name=plan.classifier_name)
    norms = linear.weight.float().norm(dim=1).clamp(min=1e-12)
    found = list(_features(accelerator, model, linear, loader))
    seen = torch.zeros_like(norms)
    for _, labels in found:
        seen += torch.bincount(labels, minlength=len(norms))
    seen = accelerator.reduce(seen, "sum")
    right = torch.zeros(len(TAUS), len(norms), device=norms.device)
    for features, labels in found:
        # The classifier has no bias. A class without a sample is left out: predicting it could only lose.
        logits = (features @ linear.weight.float().T).masked_fill(seen == 0, -torch.inf)
        for hits, power in zip(right, TAUS, strict=True):
            hits += torch.bincount(labels[(logits / norms**power).argmax(1) == labels], minlength=len(norms))
    scores = (accelerator.reduce(right, "sum") / seen)[:, seen > 0].double().mean(1).tolist()
    tau: float = TAUS[scores.index(max(scores))]
    of = f"{int(seen.sum())} held-out samples of {int((seen > 0).sum())} classes"
    accelerator.print(f"{plan.method.classifier}: tau {tau:g}, best of {of}.")
    return tau


def _features(accelerator: Any, model: nn.Module, linear: nn.Module, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's features [N, D] of a set, and labels: of the samples of a batch at a time."""
    model = for_evaluation(accelerator, model)
    seen: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    try:
        for inputs, labels in loader:
            with accelerator.autocast():
                model(inputs)
            features = torch.cat(seen).float()  # in parts, where a sample has many windows
            seen.clear()
            if len(labels):  # several crops of a sample, which the network averages itself, follow one another
                yield features.reshape(len(labels), -1, features.shape[-1]).mean(1), labels
    finally:
        handle.remove()


def for_evaluation(accelerator: Any, model: nn.Module) -> nn.Module:
    """The plain model in evaluation mode, with the same buffers on every process.

    Each process has moved the running statistics of its batch norm by its own rows; the main one's count, as in DDP.
    Without DDP's wrapper, no process waits for another one inside a forward.
    """
    from accelerate.utils import broadcast

    plain: nn.Module = accelerator.unwrap_model(model)
    if accelerator.num_processes > 1:
        for buffer in plain.buffers():
            buffer.copy_(broadcast(buffer.clone()))
    return plain.eval()


# --- the run ----------------------------------------------------------------------------------------------------------


class Run(RunFolder):
    """A run folder that an accelerator's processes share: resuming, rows, checkpoints, results.

    Args:
        cfg: the settings.
        accelerator: accelerate's.
        data: the data, as :func:`ltaug.testing.check_data` describes them.
        plan: the method's plan.
        model: what is trained, for the line that says so.

    Attributes:
        first_step: step inside the first epoch that a resumed run continues with.
        first_loss: sum of the losses of the steps before it, on this process.
        first_seconds: what they took.
        uncounted: how many of them have no part in these, since versions before 0.2 did not save them.
        moving_average: a module that checkpoints keep beside the model, such as timm's ``ModelEmaV3``; or None.
    """

    begun = False
    """Whether training has begun: later ValueErrors are faults of the program."""

    def __init__(self, cfg: TrainSettings, accelerator: Any, data: Any, plan: TrainingPlan, model: nn.Module) -> None:
        may_change = [item.name for item in fields(cfg) if item.name in MAY_CHANGE or item.name.endswith("_dir")]
        self.cfg, self.accelerator, self.data, self.plan = cfg, accelerator, data, plan
        if plan.method.tune_tau and "held_out" not in data.splits:
            raise UserError(
                f"`method` {cfg.method} chooses tau on held-out samples, but there are none. Train the first stage "
                "with `--held_out_per_class`, or take tau as it is: `--set.tune_tau false`."
            )
        self._found: tuple[Path, int, int] | None = None
        self._fingerprint = fingerprint = data.fingerprint()
        if accelerator.num_processes > 1:
            self._compare(fingerprint)
        with _all_or_none(accelerator):
            super().__init__(
                str(cfg.out),
                cfg,
                main=accelerator.is_main_process,
                resume=cfg.resume,
                free_keys=tuple(may_change),
                data=fingerprint,
                epochs=cfg.epochs,
                lock=True,
            )
            if self.main and cfg.resume:
                self._found = self.latest_checkpoint()
        if accelerator.num_processes > 1:
            self._share()
        self._restart()
        self.moving_average: nn.Module | None = None
        self._bar: Any = None
        accelerator.init_trackers("ltaug", config={key: str(value) for key, value in vars(cfg).items()})
        counts = data.class_counts
        described = data.describe() if hasattr(data, "describe") else f"{int(counts.sum())} samples"
        accelerator.print(
            f"{cfg.label}: {described}, {len(counts)} classes of {int(counts.max())} to {int(counts.min())}, "
            f"{parameters_in_words(_trainable(model))} trained parameters, {accelerator.num_processes} "
            f"process{'es' if accelerator.num_processes > 1 else ''}, "
            f"{'fp32' if accelerator.mixed_precision == 'no' else accelerator.mixed_precision}"
        )

    def _restart(self, step: int = 0, loss: float = 0.0, seconds: float = 0.0, uncounted: int = 0) -> None:
        self.first_step, self.first_loss, self.first_seconds, self.uncounted = step, loss, seconds, uncounted

    def _compare(self, fingerprint: Mapping[str, Any]) -> None:
        """Leave, all together, unless all processes have the same settings and data."""
        from accelerate.utils import broadcast_object_list

        settings = {name: value for name, value in vars(self.cfg).items() if not name.endswith(OWN)}
        mine = {"setting": settings, "data": {name: str(value) for name, value in fingerprint.items()}}
        (theirs,) = broadcast_object_list([mine])
        with _all_or_none(self.accelerator):
            for kind, values in theirs.items():
                for name, value in values.items():
                    if mine[kind].get(name) != value:
                        found = f"{mine[kind].get(name)!r} here and {value!r} on the main process"
                        raise UserError(f"{kind} `{name}` is {found[:500]}. Start all processes with the same.")

    def _share(self) -> None:
        """Leave, all together, unless all see the same folder; let all resume from the main process's checkpoint."""
        from accelerate.utils import broadcast_object_list

        place = self._found and (self._found[0].name, *self._found[1:])
        mark, place = broadcast_object_list([f".ltaug-{uuid4().hex}.tmp", place])
        try:
            with _all_or_none(self.accelerator):
                self.write(mark, "")
                patience = time.monotonic() + SECONDS_TO_SEE_A_FILE
                while not (self.path / mark).exists():
                    if time.monotonic() > patience:
                        raise UserError(
                            f"`{self.path.resolve()}` is not the folder of that name that the main process writes to. "
                            "Name one with `out` that all machines share."
                        )
                    time.sleep(0.1)
        finally:
            if self.main:
                (self.path / mark).unlink(missing_ok=True)
        if place:
            self._found = (self.path / "checkpoints" / place[0], *place[1:])

    def begin(self) -> int:
        """Load the last complete checkpoint if the run is resumed; returns the first epoch to train.

        After a checkpoint inside an epoch, :attr:`first_step` is the step to continue with, else 0.
        """
        epoch = 0
        if self._found is not None:
            folder, epoch, step = self._found
            with _all_or_none(self.accelerator):
                self._load(folder)
                self._restart(step, **_progress(folder, step, self.accelerator))
            inside = f", step {self.first_step}" if self.first_step else ""
            self.accelerator.print(f"Resumed after epoch {epoch} of {self.cfg.epochs}{inside}.", flush=True)
            if self.main and (lost := set(range(epoch)) - {row.get("epoch") for row in self.rows()}):
                self.accelerator.print(f"metrics.jsonl has lost {len(lost)} of the {epoch} rows before.", flush=True)
        Run.begun = True
        return epoch

    def due(self, epoch: int, every: int) -> bool:
        """Whether something that happens every few epochs, and after the last one, happens after this one."""
        return (epoch + 1) % every == 0 or epoch + 1 == self.cfg.epochs

    def progress(self, loader: Any, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch while a bar shows how much of the whole training is done.

        Where standard error is a file, there is no bar, but a line every 30 seconds.
        """
        from tqdm.auto import tqdm

        steps, told = len(loader) + self.first_step, time.monotonic()
        if self._bar is None:
            self._bar = tqdm(
                total=self.cfg.epochs * steps,
                initial=epoch * steps + self.first_step,
                smoothing=0.05,
                unit="step",
                leave=False,
                disable=None if self.main else True,  # None: no bar in a file
            )
        for step, batch in enumerate(loader, self.first_step + 1):
            yield batch
            self._bar.update()
            if self.main and self._bar.disable and time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"epoch {epoch + 1}/{self.cfg.epochs}  step {step}/{steps}", flush=True)

    def end_epoch(self, epoch: int, loss: float, samples: int, began: float, **more: float) -> None:
        """Record an epoch: a row of metrics.jsonl, a line on the terminal, a checkpoint when one is due.

        Args:
            epoch: counted from 0.
            loss: mean of the epoch.
            samples: how many were seen, over all processes.
            began: ``time.perf_counter()`` at its beginning.
            more: further numbers of the row.

        Raises:
            RuntimeError: the loss is not finite.
        """
        seconds = time.perf_counter() - began
        row = {"epoch": epoch, "loss": finite_loss(loss, epoch), **more, "samples_per_second": samples / seconds}
        self.log(**row, seconds=seconds)
        self.accelerator.log(row, step=epoch)
        shown = "  ".join(
            form.format(row[key]) for key, form in SHOWN.items() if not math.isnan(row.get(key, math.nan))
        )
        if self.main:
            write = print if self._bar is None else self._bar.write
            write(f"epoch {epoch + 1}/{self.cfg.epochs}  {shown}")
            sys.stdout.flush()  # a file is read while it grows
        self._restart()
        if self.due(epoch, self.cfg.checkpoint_every):
            self.save(epoch + 1)

    def save(self, epoch: int, step: int = 0, loss: float = 0.0, began: float | None = None) -> None:
        """Save the state to resume from.

        Args:
            epoch: epochs completed.
            step: steps completed of the next one.
            loss: sum of their losses, on this process.
            began: ``time.perf_counter()`` at the beginning of the epoch that goes on.

        Raises:
            UserError: the loss is not finite.
        """
        from accelerate.utils import gather_object

        seconds = 0.0 if began is None else time.perf_counter() - began
        progress = {"losses": gather_object([finite_loss(loss, epoch)]), "seconds": seconds}
        with self.checkpoint(epoch, self.accelerator.wait_for_everyone, step=step) as folder:
            self.accelerator.save_state(str(folder))
            if step and self.main:
                write_atomically(folder / _PROGRESS, json.dumps(progress))
            if self.main and self.moving_average is not None:
                save_model(self.moving_average, str(folder / _AVERAGE))

    def _load(self, folder: Path) -> None:
        """Load a checkpoint, of which nothing is executed: folders come from strangers, too."""
        accelerator, average = self.accelerator, self.moving_average
        _check_states(folder)
        file, old = folder / _AVERAGE, sorted(folder.glob("custom_checkpoint_*.pkl"))
        if average is not None and old and not file.exists():  # saved by accelerate, before version 0.2
            accelerator._custom_objects.append(average)
        try:
            accelerator.load_state(str(folder))
            if average is not None and file.exists():
                load_model(average, file)
        except (RuntimeError, SafetensorError, FileNotFoundError) as error:
            raise UserError(
                f"`{folder}` does not fit this training: {_first_difference(str(error))} Resume on as many processes, "
                "and with the network, that it was saved with."
            ) from error
        finally:
            if average in accelerator._custom_objects:
                accelerator._custom_objects.remove(average)

    def finish(
        self,
        model: nn.Module,
        results: Mapping[str, tuple[Tensor, Tensor]],
        state_dict: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write what exists only once the last epoch is done, print the table, and leave together.

        Args:
            model: its weights are kept; without wrappers.
            results: logits [N, C] and labels [N] of "test" and, if there are any, of the "held_out" samples.
            state_dict: kept instead of the model's, in which adapters are merged.
            metrics: of the test set, over those that are computed from its logits: of segmentation, for which only
                some pixels' logits are kept.
        """
        if self._bar is not None:
            self._bar.close()
        if self.main:
            weights = plain_state(model) if state_dict is None else state_dict
            self._write_results(model, results, weights, metrics or {})
        # Shut down together and release the process group first: gloo's threads abort an interpreter that exits while
        # they run.
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()
        self.accelerator.end_training()
        if self.main and self._lock is not None:
            self._lock.release(force=True)

    def _write_results(
        self,
        model: nn.Module,
        results: Mapping[str, tuple[Tensor, Tensor]],
        state_dict: Mapping[str, Tensor],
        metrics: Mapping[str, float],
    ) -> None:
        from ltaug.report import columns_of, results_table, write_report

        cfg, data, settings = self.cfg, self.data, vars(self.cfg)
        logits, labels = results["test"]
        several = labels.ndim > 1
        final = {**evaluate(logits, labels, data.class_counts), **metrics}
        self.save_logits(logits, labels)
        if "held_out" in results:
            self.save_logits(*results["held_out"], name="held_out.safetensors")
        if several:
            by_label, measure = average_precision(logits.sigmoid(), labels), "test_average_precision"
        else:
            by_label, measure = per_class_accuracy(logits.softmax(1), labels, logits.shape[1]), "test_accuracy"
        self.save_per_class(data.class_names, data.class_counts, by_label, measure)
        classes = {"class_names": data.class_names, "class_counts": data.class_counts}
        held_out = data.held_out_note() if "held_out" in results and hasattr(data, "held_out_note") else None
        self.save_model(
            state_dict,
            {
                **classes,
                "method": cfg.method,
                "recipe": _recipe_of(cfg),
                "logits_prior": self.plan.logits_prior(),
                "logits_prior_reason": self.plan.logits_prior_reason(),
                "held_out": held_out,
                **({"several_labels": True} if several else {}),
                "preprocessing": getattr(data, "preprocessing", {}),
            },
        )
        if hasattr(data, "extra_files"):
            for name, text in data.extra_files(model).items():
                self.write(name, text)
        if not self.rows():  # nothing was trained
            self.log(epoch=0, loss=None, samples_per_second=None, seconds=0.0)
        rows = self.rows()
        speeds = sorted(row["samples_per_second"] for row in rows if row.get("samples_per_second") is not None)
        summary = {
            "name": cfg.label,
            "method": cfg.method,
            "data": getattr(cfg, "data_name", ""),
            "model": getattr(cfg, "model_name", ""),
            **{key: settings[key] for key in ("dataset", "profile", "imbalance_ratio") if key in settings},
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "first_stage": cfg.chosen_method().first_stage,
            "settings": settings,
            "final": final,
            "wall_time_s": sum(row.get("seconds") or 0.0 for row in rows),
            "samples_per_second": speeds[len(speeds) // 2] if speeds else None,
            "parameters": _trainable(model),
            "peak_memory_bytes": peak_memory_bytes(),
            "precision": self.accelerator.mixed_precision,
            "num_processes": self.accelerator.num_processes,
            **({"classifier_tau": self.plan.tau} if self.plan.method.tune_tau else {}),
            **self._fingerprint,
            **classes,
        }
        self.write_json("summary.json", summary)
        print(f"\n{results_table({cfg.label: final}, columns_of([final]))}")
        if cfg.report:
            sections = data.sections(logits, labels) if hasattr(data, "sections") else ()
            print(f"\nReport: {write_report(self.path, sections)}")


@contextlib.contextmanager
def _all_or_none(accelerator: Any) -> Iterator[None]:
    """Let an error of one process end all of them, in seconds and with one line a machine, where others would wait."""
    from accelerate.utils import gather_object

    error: Exception | None = None
    try:
        yield
    except (UserError, OSError) as caught:
        error = caught
    if accelerator.num_processes > 1:
        who = f"Process {accelerator.process_index} on {platform.node()}: " * (not accelerator.is_main_process)
        if all_errors := gather_object([f"{who}{error}"] if error else []):
            accelerator.end_training()
            if accelerator.is_local_main_process:
                raise UserError(all_errors[0]) from error
            time.sleep(1.0)  # a launcher ends all others as soon as one has ended: the line comes first
            sys.exit(2)
    elif error:
        raise error


def _progress(folder: Path, step: int, accelerator: Any) -> dict[str, Any]:
    """What a row of metrics.jsonl needs of the steps of an epoch that a checkpoint inside it has completed."""
    if not (folder / _PROGRESS).exists():
        return {"uncounted": step}
    values = read_json(folder / _PROGRESS)
    try:
        losses, seconds = [float(loss) for loss in values["losses"]], float(values["seconds"])
        same = len(losses) == accelerator.num_processes  # their mean is the same on any other number
        return {"loss": losses[accelerator.process_index] if same else sum(losses) / len(losses), "seconds": seconds}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"`{folder / _PROGRESS}` is damaged ({error!r}). Remove the checkpoint.") from error


def _check_states(folder: Path) -> None:
    """Refuse a checkpoint with a file of tensors that is none, or with a pickle that holds more than plain values.

    accelerate reads some pickles with all that they can do, and passes silently over others that it cannot read.
    """
    from accelerate.utils import load

    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            else:
                load(file, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged or malicious file makes of the reader
            raise UserError(
                f"`{file}` is damaged, or holds something else than numbers and tensors; nothing in it was executed. "
                "Restore it, or do not trust the folder."
            ) from error


def _recipe_of(cfg: Any) -> str:
    """Name of the folder of the script that the settings are of."""
    script = getattr(sys.modules.get(type(cfg).__module__), "__file__", None)
    return Path(script).resolve().parent.name if script else ""


def _trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
