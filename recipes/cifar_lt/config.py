"""Every knob of the recipe, with its default; how command line and YAML files fill it, and how mistakes are told."""

import contextlib
import difflib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

# What follows the attributes below is their help text on the command line.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

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

    loss: Literal["ce", "bayias"] = "ce"
    """ce: cross-entropy; bayias: cross-entropy of logits + loss_tau * log prior."""
    loss_tau: float = 1.0
    """Strength of the prior in `bayias` (the tau of logit adjustment)."""
    mixer: Literal["none", "mixup", "unimix"] = "none"
    """How pairs of samples are mixed."""
    alpha: float = 1.0
    """Beta(alpha, alpha) of the mixing weight."""
    partner: Literal["dataset", "batch"] = "dataset"
    """Where the second sample of a pair comes from: an own sampler over the whole set, or the batch itself."""
    first_tau: float = 1.0
    """Class probability ~ n^tau of the (first) sample: 1 instance-balanced, 0 class-balanced, -1 reversed."""
    partner_tau: float = 1.0
    """Likewise of the partner. For `partner: batch` UniMix resamples the batch with it; mixup permutes the batch."""
    rebalance_epoch: int = 0
    """Until this epoch both samplers are instance-balanced (deferral)."""
    mix_stop_epoch: int | None = None
    """From this epoch nothing is mixed and there are no partners."""

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
        for item in fields(self):
            if getattr(self, item.name) is None and "None" not in str(item.type):
                raise ValueError(f"`{item.name}` needs a value, but is null.")
        if self.dataset not in DATASETS:
            hint = near_miss(self.dataset, DATASETS) or "."
            raise ValueError(f"`dataset` must be one of {', '.join(DATASETS)}, but is {self.dataset!r}{hint}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"`threads` must be at least 1, but is {self.threads}.")
        for name in ("epochs", "batch_size", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in ("seed", "data_seed", "momentum", "weight_decay", "warmup_epochs", "decay_factor", "crop_padding"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, but is {getattr(self, name)}.")
        for name in ("lr", "imbalance_ratio", "alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, but is {getattr(self, name)}.")
        if self.imbalance_ratio < 1:
            raise ValueError(
                "`imbalance_ratio` is largest over smallest class and must be at least 1, but is "
                f"{self.imbalance_ratio}. Did you mean {1 / self.imbalance_ratio:g}?"
            )
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
            self.out = f"runs/{self.dataset}_ir{self.imbalance_ratio:g}_{self.method}_seed{self.seed}"

    def beyond_the_end(self) -> list[str]:
        """Settings that name an epoch which this run does not reach: usually those of a longer schedule."""
        last = {
            "decay_epochs": max(self.decay_epochs, default=0),
            "mix_stop_epoch": self.mix_stop_epoch or 0,
            "rebalance_epoch": self.rebalance_epoch,
        }
        return [name for name, epoch in last.items() if epoch >= self.epochs]

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch (counted from 0), in closed form, so that resuming cannot shift it."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / self.warmup_epochs
        return self.lr * self.decay_factor ** sum(epoch >= decay for decay in self.decay_epochs)


def autocast_type(precision: str) -> str:
    """accelerate's word for the precision; auto is bf16 where the hardware computes in it."""
    if precision != "auto":
        return "no" if precision == "fp32" else precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"


def set_threads(threads: int | None) -> None:
    """Give torch its CPU threads; by default all cores of this machine, shared between its processes.

    Not left to the environment: `accelerate launch` sets OMP_NUM_THREADS to 1 where nobody else has set it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def parse_config(arguments: list[str] | None = None) -> Config:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault."""
    arguments = sys.argv[1:] if arguments is None else arguments
    names = [item.name for item in fields(Config)]
    parser = ArgumentParser(description=Config.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; given several times, later wins")
    parser.add_class_arguments(Config)
    try:
        for place, word in enumerate(arguments):
            if word == "--config" or word.startswith("--config="):
                check_config_file(word.partition("=")[2] or "".join(arguments[place + 1 : place + 2]))
            name = word[2:].partition("=")[0]
            # Checked here, since the parser takes any beginning of a name for the name.
            if word.startswith("--") and name not in {*names, "config", "help"} and not name.startswith("print_config"):
                value = [next_word for next_word in arguments[place + 1 : place + 2] if not next_word.startswith("--")]
                raise ValueError(f"unrecognized arguments: {' '.join([word, *value])}")
        values: Any = parser.parse_args(arguments)
        values.pop("config")
        return Config(**values.as_dict())
    except (ArgumentError, ValueError) as error:
        hint = ""
        pattern = r"unrecognized arguments: --(\w+)|ption '([\w.]+)' is not accepted|accept option '([\w.]+)'"
        if unknown := re.search(pattern, str(error)):
            name = next(filter(None, unknown.groups()))
            hint = near_miss(name, names) or "; --help lists the settings"
        if choice := re.search(r'Parser key "(\w+)".*Got value: (\w+)', str(error), re.DOTALL):
            choices = [
                known for known in get_args(get_type_hints(Config).get(choice.group(1))) if isinstance(known, str)
            ]
            hint = near_miss(choice.group(2), choices)
        leave(f"{error}{hint}")


def check_config_file(path: str) -> None:
    """Raise a ValueError that names the file if it is not one of settings."""
    if not Path(path).is_file():
        known = sorted(file.stem for file in (Path(__file__).parent / "configs").glob("*.yaml"))
        close = difflib.get_close_matches(Path(path).stem, known, n=1, cutoff=0.4)
        hint = f" Did you mean the method {close[0]}?" if close else ""
        raise ValueError(f"`--config` {path!r} is no file.{hint} There are: {', '.join(known)}.")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` {path!r} is not readable as YAML: {error}.") from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"`--config` {path!r} must hold `setting: value` lines, but holds {kind}.")


def near_miss(word: str, known: Any) -> str:
    """', did you mean X?' or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End with one line when settings, data, a folder or the disk are at fault; with PYTHONDEVMODE=1 as a traceback.

    These are the errors of the system, the ValueErrors that this folder raises, and those of ltaug. Anything else is a
    fault of the program and keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        leave("stopped. The same command with `--resume true` continues after the last checkpoint.", code=130)
    except (OSError, ValueError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        library = find_spec("ltaug")
        mistake = isinstance(error, OSError)
        mistake = mistake or (library and Path(str(library.origin)).resolve().parent in raised_in.parents)
        mistake = mistake or (isinstance(error, ValueError) and raised_in.parent == Path(__file__).resolve().parent)
        if sys.flags.dev_mode or not mistake:
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        leave(f"{error}{'. What was saved before is intact: make room, and resume.' if full else ''}")


def one_process() -> None:
    """Leave if there are several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave("this script runs on one process; train.py runs on several.")


def leave(message: str, code: int = 2) -> NoReturn:
    """End the program with one line. Of several processes the main one says it, the others only if it does not."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        time.sleep(30)  # the launcher ends this process as soon as the main one has left
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
