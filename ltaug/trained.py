"""A finished run's network, built again from its run folder: without its data, and without training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.correction import Correction
from ltaug.errors import UserError
from ltaug.run import CORRECTION_FILES, RunFolder, _hash
from ltaug.scripts import PLACES, loaded_script

__all__ = ["TrainedModel", "load_trained"]

UNUSED = ("FreezeSettings", "AugmentationSettings")
"""Dataclasses of settings that a trained network does not need: its weights hold what they led to."""
PLAIN = {"pretrained": False, "augment": None}
"""Settings that would download something, or import code that a configuration names."""


@dataclass
class TrainedModel:
    """A finished run's network and what its logits need; :func:`load_trained` makes it.

    Called with inputs as the recipe's ``eval_loader`` yields them, it gives logits, [N, C] or [N, C, H, W].
    """

    folder: Path
    """The run folder."""
    network: nn.Module
    """On the CPU, in evaluation mode."""
    info: dict[str, Any]
    """``ltaug.json``."""
    config: dict[str, Any]
    """``config.yaml``."""
    correction: Correction | None
    """What ``ltaug correct`` has saved in the run."""

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return list(self.info["class_names"])

    @property
    def class_counts(self) -> Tensor:
        """Training samples a class, or with each label, or training pixels a class, int64 [C]."""
        return torch.tensor(self.info["class_counts"], dtype=torch.int64)

    @property
    def logits_prior(self) -> Tensor | None:
        """Class prior that the logits are under, float64 [C]; None where it is not known."""
        prior = self.info.get("logits_prior")
        return None if prior is None else torch.tensor(prior, dtype=torch.float64)

    @property
    def several_labels(self) -> bool:
        """Whether each logit is that of a label of its own."""
        return bool(self.info.get("several_labels", False))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What raw samples go through, plain values; ``kind`` says what raw samples are, if it is known."""
        return dict(self.info.get("preprocessing") or {})

    @property
    def weights(self) -> str:
        """SHA-256 of ``model.safetensors``."""
        with (self.folder / "model.safetensors").open("rb") as file:
            return _hash(file)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute logits, float32 on the CPU."""
        device = next(self.network.parameters()).device
        logits: Tensor = self.network(inputs.to(device))
        return logits.float().cpu()


def load_trained(run: str | Path, script: str | Path | None = None) -> TrainedModel:
    """Build a finished run's network again, with the ``build_model`` of the recipe that trained it, and its weights.

    The recipe is found by the run's command line, or by its name among those that come with ltaug. Its code is run; of
    the run folder nothing is: a script inside of it is not taken, and settings that import code are left out.

    Args:
        run: the run folder.
        script: the recipe's train.py, where it is not found by itself.

    Raises:
        UserError: the run is not finished, its recipe is not found, or its ``build_model`` needs of the data what no
            run records, or builds another network.
    """
    folder = RunFolder.open(run)
    for name in ("config.yaml", "ltaug.json", "model.safetensors"):
        if not (folder.path / name).is_file():
            raise UserError(f"`{folder.path}` is no finished run: it has no {name}. Train it to its end.")
    config, info = folder.config(), folder.info()
    info["preprocessing"] = _completed(info.get("preprocessing") or {}, config)
    found = Path(script) if script is not None else _find_script(folder.path, info)
    with loaded_script(found) as recipe:
        for name in ("Config", "build_model"):
            if not hasattr(recipe, name):
                raise UserError(f"`{found}` has no `{name}`, by which the network of a run is built again.")
        network = _build(recipe, config, info, dense=(folder.path / "dense.json").is_file())
    from ltaug.training import load_weights

    load_weights(network, folder.path / "model.safetensors")
    return TrainedModel(folder.path, network.eval(), info, config, saved_correction(folder.path))


def saved_correction(folder: Path) -> Correction | None:
    """What ``ltaug correct`` has saved in a folder, or None."""
    saved = all((folder / name).is_file() for name in CORRECTION_FILES)
    return Correction.load(folder) if saved else None


def _find_script(run: Path, info: Mapping[str, Any]) -> Path:
    """The recipe's train.py."""
    name = info.get("recipe") or ""
    for path in _named_scripts(run):
        beside = path.resolve().parent
        is_recipe = all((beside / file).is_file() for file in (path.name, "data.py", "model.py"))
        if is_recipe and name in ("", beside.name) and run.resolve() not in path.resolve().parents:
            return path
    for place in PLACES:
        if name and (place / name / "train.py").is_file():
            return place / name / "train.py"
    said = next((path for path in _named_scripts(run)), None)
    by = f"was started by {said}" if said else f"is of the recipe {name!r}" if name else "does not say which it is"
    raise UserError(
        f"The recipe of `{run}` is not found: the run {by}. Name its train.py (`script`, --script), or call it from "
        "the folder that the training was started in."
    )


def _named_scripts(run: Path) -> Iterator[Path]:
    """What the run's command line may mean by its script: from here, or from a folder that the run lies in."""
    command = run / "command.txt"
    lines = command.read_text(encoding="utf-8", errors="replace").splitlines() if command.is_file() else []
    for line in reversed(lines):
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        for word in words:
            if word.endswith(".py"):
                yield Path(word)
                if not Path(word).is_absolute():
                    yield from (parent / word for parent in run.resolve().parents)


def _build(recipe: Any, config: Mapping[str, Any], info: Mapping[str, Any], dense: bool) -> nn.Module:
    """The network as the run's last epoch left it, with weights of its own."""
    from ltaug.commandline import parse_settings

    kind = recipe.Config
    unused = {
        item.name for base in kind.__mro__ if base.__name__ in UNUSED and is_dataclass(base) for item in fields(base)
    }
    known = {item.name for item in fields(kind)}
    kept = {name: value for name, value in config.items() if name in known - unused}
    cfg = parse_settings(kind, [], defaults=kept | {name: PLAIN[name] for name in PLAIN if name in known})
    try:
        network: nn.Module = recipe.build_model(len(info["class_names"]), cfg, _Recorded(info))
    except _NotRecordedError as error:
        raise UserError(
            f"build_model in {Path(recipe.__file__).parent / 'model.py'} asks the data for `{error}`, which no run "
            "records. Let it take that of `data.preprocessing`, plain values that the data keep there, or of "
            "`data.class_names`."
        ) from error
    method, several = cfg.chosen_method(), bool(info.get("several_labels"))
    if method.second_stage:  # whose classifier has become a linear one
        if hasattr(network, "several_labels"):
            network.several_labels = several  # type: ignore[assignment]
    else:
        plan = method.plan(**_labels_like(info, several, dense), epochs=max(1, cfg.epochs))
        plan.mixer = None  # which nothing is mixed by any more
        network = plan.attach(network)
    if hasattr(network, "aggregate") and hasattr(cfg, "aggregate"):
        network.aggregate = cfg.aggregate
    return network


def _labels_like(info: Mapping[str, Any], several: bool, dense: bool) -> dict[str, Any]:
    """Labels for a plan that trains nothing; of several labels a sample two rows, since no network has the counts."""
    counts = torch.tensor(info["class_counts"], dtype=torch.int64)
    rate = {"sample_rate": (info.get("preprocessing") or {}).get("sample_rate", 1), "num_classes": len(counts)}
    if dense:
        return {"labels": torch.zeros(1, dtype=torch.int64), "position_counts": counts} | rate
    if several:
        return {"labels": torch.tensor([[True], [False]]).expand(2, len(counts))} | rate
    return {"labels": torch.arange(len(counts)).repeat_interleave(counts)} | rate


def _completed(preprocessing: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What raw samples go through, with what versions before 0.3 did not write down."""
    if "kind" in preprocessing or not preprocessing:
        return preprocessing
    for name, kind in {"modality": "scenes", "sample_rate": "sounds", "image_size": "images"}.items():
        if name in preprocessing:
            return {"kind": kind, **preprocessing}
    sizes = {"digits": [16, 16, 1], "cifar10": [32, 32, 3], "cifar100": [32, 32, 3]}
    if set(preprocessing) == {"mean", "std"} and (size := sizes.get(str(config.get("dataset")))):
        return {"kind": "small_images", "size": size, **preprocessing}
    return preprocessing


class _NotRecordedError(AttributeError):
    """Asked for something of the data that no run records."""


class _Recorded:
    """What a run folder knows of its data, in the place of the data."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.class_names = list(info["class_names"])
        self.class_counts = torch.tensor(info["class_counts"], dtype=torch.int64)
        self.preprocessing = dict(info["preprocessing"])
        for name in ("sample_rate", "mean", "std"):
            if name in self.preprocessing:
                setattr(self, name, self.preprocessing[name])
        if "size" in self.preprocessing:
            self.inputs = {"train": torch.empty(0, *self.preprocessing["size"], dtype=torch.uint8)}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _NotRecordedError(name)
