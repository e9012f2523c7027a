"""A finished run's network in this process, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltaug.errors import UserError
from ltaug.hub._client import check_name
from ltaug.hub._runs import pull_run
from ltaug.run import RunFolder


def load_pretrained(
    place: str | PathLike[str],
    model: nn.Module | None = None,
    revision: str | None = None,
    script: str | Path | None = None,
) -> tuple[nn.Module, Mapping[str, Any]]:
    """A finished run's network, whose logits are those of the run, uncorrected, and its ``ltaug.json``.

    Args:
        place: a run folder, a pulled one, or OWNER/NAME on the hub, which is pulled into the cache of the hub's client.
        model: takes the weights; by default the network is made as timm's ``config.json``, the run's recipe or the
            exported ``model.onnx`` says, whichever is there first.
        revision: branch, tag or commit on the hub.
        script: of the run's recipe, where it does not say where that is.

    Raises:
        UserError: there is no such place, or no network can be made of what is there: also of an exported file alone
            that has a calibrator inside, whose logits are not the run's.
    """
    folder = find_place(place, revision)
    run = RunFolder.open(folder)
    info = run.info()
    if model is None:
        return _make(folder, info, script).eval(), info
    weights, _ = run.load_model()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise UserError(f"The weights of {str(place)!r} do not fit `model`: {first[0].strip()}") from error
    return model.eval(), info


def find_place(place: str | PathLike[str], revision: str | None = None) -> Path:
    """The folder of a run that is here, or is pulled from the hub.

    Raises:
        UserError: there is none.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"`revision` is of a model on the hub, but {str(place)!r} is a folder. Leave it out.")
        return folder
    try:
        return pull_run(check_name(fspath(place)), revision=revision)
    except UserError as error:
        raise UserError(f"There is no folder {str(place)!r}. As a name on the hub: {error}") from error


def _make(folder: Path, info: Mapping[str, Any], script: str | Path | None) -> nn.Module:
    if (folder / "config.json").is_file() and script is None:
        return _of_timm(folder)
    from ltaug.trained import load_trained

    try:
        network: nn.Module = load_trained(folder, script).network
        return network
    except (UserError, FileNotFoundError) as error:
        if script is not None:
            raise
        if (folder / "model.onnx").is_file():
            return _ExportedNetwork(folder / "model.onnx")
        raise UserError(
            f"No network can be made of `{folder}`: {str(error).rstrip('.')}; and it has no model.onnx. Pass the "
            "network as `model`, or the training script of its recipe as `script`."
        ) from error


def _of_timm(folder: Path) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"`{folder}` holds a network of timm: pip install timm, or pass the network as `model`."
        ) from error
    try:
        network: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # whatever a file of somebody else makes of it
        raise UserError(f"timm cannot make a network of `{folder}`: {error}. Pass it as `model`.") from error
    return network


class _ExportedNetwork(nn.Module):
    """An exported file as a module: raw inputs to logits of the run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from ltaug.export import load_exported

        self.exported = load_exported(path)
        if inside := self.exported.info.get("calibrator"):
            raise UserError(
                f"The network can only be had from `{path}`, whose logits are calibrated ({inside}), unlike those of "
                "the network itself. Take them as they are, with a prior, by `ltaug.export.load_exported`; or pass the "
                "network as `model`, or the training script of its recipe as `script`."
            )
        prior = self.exported.info.get("logits_prior")  # under which there is no shift
        self.prior = None if prior is None else torch.tensor(prior, dtype=torch.float32)

    def forward(self, inputs: Any) -> Tensor:
        logits: Tensor = self.exported(inputs, class_prior=self.prior)
        return logits
