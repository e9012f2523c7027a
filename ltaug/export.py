"""One file of a finished run for those without its code: raw samples in, logits under any class prior out.

The file holds everything from raw samples on: preprocessing, network, calibration, and the shift to the class prior
that is its second input. ONNX needs onnxruntime where it is used, ``torch.export`` needs torch, and neither this
library. See :func:`export_run` and :func:`load_exported`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ltaug.errors import UserError, as_user_errors
from ltaug.posthoc.binary import as_shares
from ltaug.preprocessing import preprocessing_module
from ltaug.priors import Counts, as_counts, by_class
from ltaug.run import write_atomically

if TYPE_CHECKING:
    from ltaug.trained import TrainedModel

__all__ = ["FORMATS", "DeployedModel", "Exported", "Written", "export_model", "export_run", "load_exported"]

FORMATS = ("onnx", "pt2")
"""ONNX, for onnxruntime and others; a program of ``torch.export``, for torch."""
OPSET = 18
"""Of ONNX: the first with all that is used here."""
LARGEST_DIFFERENCE = 1e-4
"""Between the logits of an exported file and the model's, relative to the largest logit, or to 1 if that is less."""
METADATA = "ltaug"
"""Key of the metadata of an exported file, JSON; and name of that file in a program of torch.export."""
_AXES = {
    "small_images": ("batch",),
    "images": ("batch", "height", "width"),
    "sounds": ("batch", "samples"),
    "scenes": ("batch", "height", "width"),
    None: ("batch",),
}
"""Dimensions of raw samples that may have any size, from the first on, by their kind."""
LEAST = 1e-37
"""Of a prior, whose logarithm is finite in single precision."""
_ANY = ("batch", "height", "width", "samples")


class DeployedModel(nn.Module):
    """From raw samples to logits under a class prior: preprocessing, network, calibration and prior shift.

    The shift is that of :func:`ltaug.shift_logits`, from the prior that the network's logits are under to
    ``class_prior``, times ``strength``; of several labels a sample that of :func:`ltaug.shift_binary_logits`, label by
    label. With the default prior of a run without a correction the shift is 0, and the logits are the run's own.

    Args:
        network: from preprocessed samples to logits [N, C, ...].
        preprocessing: as ``ltaug.json`` has it, see :func:`ltaug.preprocessing.preprocessing_module`; without a
            ``kind`` raw samples are what the network takes.
        logits_prior: prior that the network's logits are under, [C], positive; None where it is not known: then there
            is no shift.
        default_prior: prior of the logits that are wanted if none is given, [C], positive; by default ``logits_prior``.
        calibrator: of logits, one of :mod:`ltaug.posthoc`; or None.
        strength: of the shift.
        several_labels: whether each logit is that of a label of its own.

    Attributes:
        kind: of the raw samples, or None.
        priors: ``logits_prior`` and ``default_prior`` in double precision, or None.

    Raises:
        ValueError: a prior is damaged, or the two do not go together.

    >>> model = DeployedModel(nn.Identity(), {}, logits_prior=[0.9, 0.1])
    >>> model(torch.zeros(1, 2))
    tensor([[0., 0.]])
    >>> model(torch.zeros(1, 2), torch.tensor([0.5, 0.5])).softmax(1)
    tensor([[0.1000, 0.9000]])
    """

    logits_prior: Tensor | None
    default_prior: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Mapping[str, Any],
        logits_prior: Counts | None = None,
        default_prior: Counts | None = None,
        calibrator: nn.Module | None = None,
        strength: float = 1.0,
        several_labels: bool = False,
    ) -> None:
        super().__init__()
        self.kind: str | None = preprocessing.get("kind")
        self.preprocessing = preprocessing_module(preprocessing) if self.kind else nn.Identity()
        self.network, self.calibrator = network, calibrator
        self.strength, self.several_labels = float(strength), several_labels
        if logits_prior is None and default_prior is not None:
            raise ValueError("`default_prior` needs `logits_prior`, the prior that the logits are moved from.")
        default_prior = logits_prior if default_prior is None else default_prior
        self.priors: dict[str, list[float] | None] = {}
        size = None
        for name, prior in (("logits_prior", logits_prior), ("default_prior", default_prior)):
            values = None if prior is None else _as_prior(prior, name, several_labels, size)
            self.priors[name] = None if values is None else values.tolist()
            self.register_buffer(name, None if values is None else values.float(), persistent=False)
            size = None if values is None else len(values)
        self.eval()

    def forward(self, inputs: Tensor, class_prior: Tensor | None = None) -> Tensor:
        """Compute logits, float32 [N, C, ...].

        Args:
            inputs: raw samples, as :func:`ltaug.preprocessing.preprocessing_module` has them.
            class_prior: prior that the logits shall be under, float32 [C]: positive probabilities or counts; of several
                labels a sample the share of the samples that have each label.

        An exported graph cannot refuse numbers: there a class of prior 0 has the logit -inf, a negative number makes
        logits NaN, and a share of 1 the logit inf.

        Raises:
            ValueError: the prior does not fit, or the prior of the logits is not known. Not while it is compiled.
        """
        logits: Tensor = self.network(self.preprocessing(inputs)).float()
        if self.calibrator is not None:
            logits = self.calibrator(logits)
        if self.logits_prior is None or self.default_prior is None:
            if class_prior is not None:
                raise ValueError("`class_prior` needs `logits_prior`, the prior that the logits are under: name it.")
            return logits
        prior = self.default_prior if class_prior is None else class_prior
        if not torch.compiler.is_compiling():
            if self.logits_prior.shape != logits.shape[1:2]:
                raise ValueError(
                    f"`logits_prior` must have one number for each of the {logits.shape[1]} logits, but has "
                    f"{len(self.logits_prior)}."
                )
            if class_prior is not None:
                given = _as_prior(class_prior, "class_prior", self.several_labels, logits.shape[1])
                prior = given.to(logits.device, torch.float32)
        change = self._log(prior) - self._log(self.logits_prior)
        shift = torch.where(change.isinf(), change, self.strength * change)  # whatever the strength, even 0
        return logits + shift.view(-1, *[1] * (logits.ndim - 2))

    def _log(self, prior: Tensor) -> Tensor:
        if self.several_labels:  # log odds
            return prior.log() - (1 - prior).log()
        return (prior / prior.sum()).log()

    @classmethod
    def of(cls, trained: TrainedModel, *, raw: bool = False, from_prior: Counts | None = None) -> DeployedModel:
        """Put the parts of a finished run together.

        Args:
            trained: from :func:`ltaug.trained.load_trained`.
            raw: leave out the correction that ``ltaug correct`` has saved in the run.
            from_prior: prior that the logits are under, [C], whatever the run has recorded.

        A class that training had no sample of, of prior 0, counts as one of an even share, 1 / C, and a label that no
        sample or every sample had as one of the share 1 / 2: its logit is moved as that of a class that was neither
        frequent nor rare.

        Raises:
            UserError: the saved correction starts from a prior of its own, or corrects every sample for another prior;
                or a prior is damaged.
        """
        correction = None if raw else trained.correction
        source: Counts | None = trained.logits_prior if from_prior is None else from_prior
        parts: dict[str, Any] = {"several_labels": trained.several_labels}
        if correction is not None:
            if from_prior is not None:
                raise UserError(
                    f"`{trained.folder}` has a correction that starts from a prior of its own. Leave out `from_prior`, "
                    "or leave the correction out (`raw`)."
                )
            if correction.target is not None and correction.target.ndim != 1:
                raise UserError(
                    f"`{trained.folder}` has a correction with a prior a sample. Leave it out (`raw`), and give the "
                    "prior with the samples."
                )
            source = correction.logits_prior
            parts |= {"calibrator": correction.calibrator, "default_prior": correction.target}
            parts["strength"] = 1.0 if correction.strength is None else correction.strength
        try:
            if source is not None:
                name = "logits_prior" if from_prior is None else "from_prior"
                source = _without_absent(source, name, trained.several_labels, len(trained.class_names))
            return cls(trained.network, trained.preprocessing, source, **parts)
        except ValueError as error:  # of a prior
            raise UserError(f"`{trained.folder}`: {error}") from error


class Written(NamedTuple):
    """What :func:`export_run` has written."""

    path: Path
    """The file."""
    info: dict[str, Any]
    """Its metadata."""
    difference: float
    """Largest difference of a logit of the file from the model's, relative to the largest logit."""
    beside: Path | None
    """The file beside it that has the weights, where they are more than ONNX takes (about 2 GB)."""


def export_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    format: str = "onnx",
    *,
    script: str | os.PathLike[str] | None = None,
    raw: bool = False,
    from_prior: Counts | None = None,
    input_shape: Sequence[int] | None = None,
) -> Written:
    """Export a finished run to one file that takes raw samples, and check it.

    In ``onnx`` the file has the inputs ``inputs`` and ``class_prior``, which may be left out, and the output
    ``logits``; in ``pt2`` the program takes both, in this order. The number of samples, and the size of pictures and
    recordings, may be any. The metadata (key ``ltaug``, JSON) have the class names and counts, the prior that the
    logits are under and why (``logits_prior``, ``logits_prior_reason``), which classes training had no sample of
    (``absent_classes``), the default of ``class_prior`` (``default_prior``), what raw samples are (``inputs``,
    ``preprocessing``), ``several_labels``, ``calibrator``, ``strength``, ``method``, ``version``, and the SHA-256 of
    model.safetensors (``weights``) and of the correction inside (``correction``), by which a file that is older than
    its run is told.

    Of a network of timm, config.json, by which timm opens the run folder, is written beside a file in that folder.

    The file's logits of random samples of several sizes and numbers are compared with the run's network in torch.

    Args:
        run: the run folder.
        out: the file; by default model.onnx or model.pt2 in the run folder.
        format: one of :data:`FORMATS`.
        script: the recipe's train.py, see :func:`ltaug.trained.load_trained`.
        raw: leave out the correction that ``ltaug correct`` has saved in the run; else its calibration and strength are
            part of the file, and its target is the default of ``class_prior``.
        from_prior: prior that the logits are under, [C], whatever the run has recorded.
        input_shape: of one sample, of a recipe of your own whose ``preprocessing`` has no ``kind``: the file then takes
            what the network takes, float32 [N, ...]. By default ``preprocessing`` has it as ``size``.

    Raises:
        UserError: the run is not finished or its recipe is not found, a package is missing, the network cannot be
            exported, or the exported file gives other logits.
    """
    from ltaug.trained import load_trained

    if format not in FORMATS:
        raise UserError(f"`format` must be one of {', '.join(FORMATS)}, but is {format!r}.")
    trained = load_trained(Path(run), None if script is None else Path(script))
    path = trained.folder / f"model.{format}" if out is None else Path(out).expanduser()
    model = DeployedModel.of(trained, raw=raw, from_prior=from_prior)
    info: dict[str, Any] = {"class_names": trained.class_names, "class_counts": trained.class_counts.tolist()}
    info |= {name: trained.info.get(name) for name in ("logits_prior_reason", "method")}
    info["weights"] = trained.weights
    info["correction"] = None if raw or trained.correction is None else trained.correction.digest
    if from_prior is not None:
        info["logits_prior_reason"] = "given when it was exported"
    elif trained.logits_prior is not None:
        edges = (0.0, 1.0) if trained.several_labels else (0.0,)
        shares = zip(trained.class_names, trained.logits_prior.tolist(), strict=True)
        info["absent_classes"] = [name for name, share in shares if share in edges]
    written = export_model(model, path, trained.preprocessing, info, format, input_shape)
    inside = path.parent.resolve() == trained.folder.resolve()
    if inside and hasattr(trained.network, "pretrained_cfg") and model.kind == "images":
        from ltaug.vision.networks import timm_files

        (trained.folder / "config.json").unlink(missing_ok=True)  # of what the network was before
        for name, text in timm_files(trained.network, trained.class_names, trained.preprocessing).items():
            write_atomically(trained.folder / name, text)
    return written


def export_model(
    model: DeployedModel,
    path: str | os.PathLike[str],
    preprocessing: Mapping[str, Any],
    info: Mapping[str, Any],
    format: str = "onnx",
    input_shape: Sequence[int] | None = None,
) -> Written:
    """Write a model of your own making as :func:`export_run` does, and check it.

    Args:
        model: on the CPU.
        path: of the file.
        preprocessing: that the model was made with.
        info: ``class_names``, and what else the metadata shall have.
        format: see :func:`export_run`.
        input_shape: see :func:`export_run`.
    """
    from ltaug import __version__

    path = Path(path)
    small, large = (_samples(preprocessing, input_shape, k) for k in (0, 1))
    prior = model.default_prior
    names = _AXES[model.kind]
    dims = [*names, *small.shape[len(names) :]]
    facts: dict[str, Any] = {
        **info,
        **model.priors,
        "preprocessing": dict(preprocessing),
        "inputs": {"dtype": str(small.dtype).removeprefix("torch."), "shape": dims},
        "several_labels": model.several_labels,
        "calibrator": type(model.calibrator).__name__ if model.calibrator else None,
        "strength": model.strength,
        "version": __version__,
    }
    arguments = (small,) if prior is None else (small, prior)
    write = _write_onnx if format == "onnx" else _write_pt2
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ltaug-", dir=path.parent) as scratch, torch.no_grad():
        written = Path(scratch) / path.name
        try:
            with as_user_errors():
                size = model(small).shape[1]
            if size != len(facts["class_names"]):
                raise UserError(
                    f"`class_names` must have one name for each of the {size} logits, but has "
                    f"{len(facts['class_names'])}."
                )
            with _quiet():
                write(model, arguments, written, names, json.dumps(facts, ensure_ascii=False, allow_nan=False))
            exported = load_exported(written)
        except ImportError as error:
            raise UserError(
                f"`format` {format} needs {error.name or 'a package'}, which is not installed. Install it with "
                '`pip install "ltaug[export]"`.'
            ) from error
        except Exception as error:  # of many types, from the depths of exporters
            cause = _cause(error)
            if isinstance(cause, UserError):  # such as of a part of the network
                raise cause from error
            if isinstance(cause, OSError):  # such as of a full disk
                raise cause from None
            other = FORMATS[1 - FORMATS.index(format)]
            raise UserError(
                f"The network cannot be exported as {format}: {_first_line(cause)} Try the format {other}. The run "
                "itself can be used where ltaug is installed."
            ) from error
        difference = _difference(model, exported, (small, large), facts["class_names"])
        del exported
        files = sorted(file.name for file in Path(scratch).iterdir())
        for name in files:
            (Path(scratch) / name).replace(path.parent / name)
    beside = next((path.parent / name for name in files if name != path.name), None)
    return Written(path, facts, difference, beside)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters say about themselves to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> BaseException:
    """What has led to an error in the end, or one of our own on the way to it."""
    while not isinstance(error, UserError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no reason given'])[0][:300].rstrip('.')}."


def _difference(
    model: DeployedModel, exported: Exported, samples: Sequence[Tensor], class_names: Sequence[str]
) -> float:
    """Largest relative difference, of two batches of several sizes, under the default prior and under another one."""
    greatest = 0.0
    priors: list[Tensor | None] = [None]
    if model.default_prior is not None:
        priors.append(model.default_prior.flip(0))
    for inputs in samples:
        for prior in priors:
            expected, found = model(inputs, prior), exported(inputs, prior)
            if expected.shape != found.shape:
                raise UserError(
                    f"The exported file gives logits of shape {list(found.shape)}, but the network "
                    f"{list(expected.shape)}, of samples {list(inputs.shape)}. No file was written."
                )
            off = (expected - found).abs() / expected.abs().max().clamp(min=1)
            greatest = max(greatest, float(off.nan_to_num(nan=torch.inf).max()))
            if not greatest <= LARGEST_DIFFERENCE:
                row, k = (int(place) for place in (off == off.max()).nonzero()[0][:2])
                raise UserError(
                    f"The exported file gives other logits than the network: of class {class_names[k]!r} "
                    f"{float(found.flatten(2)[row, k].flatten()[0]) if found.ndim > 2 else float(found[row, k]):g} "
                    f"instead of {float(expected[row, k].flatten()[0]):g}, {greatest:.1e} of the largest logit. No "
                    "file was written."
                )
    return greatest


def _as_prior(prior: Counts, name: str, several_labels: bool, size: int | None = None) -> Tensor:
    """Read a prior, float64 [C], of which float32 makes no 0, nor shares of 1; ValueError for one that is none."""
    read = as_shares if several_labels else partial(as_counts, integers=False, positive=True)
    values = read(prior, name).double()
    _check_size(values, name, size)
    if not several_labels:
        values = values / values.max()  # whose sum cannot overflow
        return (values / values.sum()).clamp(min=LEAST)
    return values.clamp(LEAST, 1 - 2.0**-24)


def _without_absent(prior: Counts, name: str, several_labels: bool, size: int) -> Tensor:
    """Read a prior, float64 [C]; a class that no sample has, or a label that every sample has, gets an even share."""
    from ltaug.commands._runs import without_absent

    if several_labels:
        values = by_class(prior, name).double()
        values = torch.where((values == 0) | (values == 1), 0.5, values)
    else:
        values = as_counts(prior, name, integers=False).double()
        values = without_absent(values / values.sum())
    _check_size(values, name, size)
    return values


def _check_size(values: Tensor, name: str, size: int | None) -> None:
    if size is not None and values.shape != (size,):
        raise ValueError(f"`{name}` must have one number a class, {size}, but has {values.numel()}.")


def _samples(preprocessing: Mapping[str, Any], input_shape: Sequence[int] | None, which: int) -> Tensor:
    """Random raw samples: a small batch, or one of larger samples, some of them silent, a click or of one colour."""
    generator = torch.Generator().manual_seed(which)
    size, kind = 2 + which, preprocessing.get("kind")
    if kind == "sounds":
        length = (1 + which) * int(preprocessing["crop_length"]) + 77 * (1 + which)
        sounds = torch.rand(size, length, generator=generator) * 1.6 - 0.8
        if which:
            sounds[1:] *= torch.stack([torch.arange(length) == length // 2, torch.linspace(0, -16, length).exp()])
            sounds[0] = 0
        return sounds
    if kind is None:
        input_shape = preprocessing.get("size") if input_shape is None else input_shape
        if input_shape is None:
            raise UserError(
                "The run's `preprocessing` has no `kind`: it takes what its network takes. Say what shape one sample "
                "has: `input_shape`, such as 64 100."
            )
        return torch.randn(size, *input_shape, generator=generator)
    if kind == "small_images":
        shape = tuple(preprocessing["size"])
    elif kind == "images":
        side = int(preprocessing["image_size"])
        shape = (side + 24 + 40 * which, 2 * side + 12 - 30 * which, 3)
    else:
        shape = (int(preprocessing["height"]) + 20 * which, int(preprocessing["width"]) + 36 * which, 3)
        if preprocessing["modality"] == "depth":
            depth = torch.rand(size, *shape[:2], generator=generator) * 100
            depth[2:] = 0  # unknown
            return depth
    pictures = torch.randint(256, (size, *shape), dtype=torch.uint8, generator=generator)
    pictures[2:] = 100
    return pictures


def _write_onnx(model: nn.Module, arguments: tuple[Tensor, ...], path: Path, axes: Sequence[str], facts: str) -> None:
    import onnx_ir
    import onnxruntime  # noqa: F401  # which checks the file

    dynamic = tuple(dict(enumerate(axes)) if k == 0 else None for k in range(len(arguments)))
    program: Any = torch.onnx.export(
        *(model, arguments),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        dynamic_shapes=dynamic,
        input_names=["inputs", "class_prior"][: len(arguments)],
        output_names=["logits"],
    )
    graph = program.model.graph
    if len(arguments) > 1:  # an initializer of the name of an input is its default
        prior = graph.inputs[1]
        prior.const_value = onnx_ir.tensor(arguments[1].numpy(), name=prior.name)
        graph.register_initializer(prior)
    for node in graph.all_nodes():  # which have places on this machine
        node.metadata_props.clear()
    program.model.metadata_props[METADATA] = facts
    program.save(path)


def _write_pt2(model: nn.Module, arguments: tuple[Tensor, ...], path: Path, axes: Sequence[str], facts: str) -> None:
    shapes: list[Any] = [dict.fromkeys(range(len(axes)), torch.export.Dim.DYNAMIC), None]
    dynamic = tuple(shapes[: len(arguments)])
    try:
        program = torch.export.export(model, arguments, dynamic_shapes=dynamic)
    except Exception as error:  # of many types
        if isinstance(_cause(error), UserError):
            raise
        # Python code that looks at sizes is analysed, which takes longer.
        program = torch.export.export(model, arguments, dynamic_shapes=dynamic, strict=True)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # which has places on this machine
    torch.export.save(program, path, extra_files={METADATA: facts})


class Exported:
    """An exported file that is open: from raw samples to logits. See :func:`load_exported`.

    Attributes:
        path: of the file.
        info: its metadata, see :func:`export_run`.
    """

    def __init__(self, path: Path, info: dict[str, Any], run: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        self.path, self.info, self._run = path, info, run

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return list(self.info["class_names"])

    def __call__(self, inputs: Tensor | np.ndarray[Any, Any], class_prior: Counts | None = None) -> Tensor:
        """Compute logits, float32 [N, C, ...] on the CPU.

        Args:
            inputs: raw samples of one size, as ``info["inputs"]`` says.
            class_prior: prior that the logits shall be under, [C], positive probabilities or counts, or shares between
                0 and 1 of several labels a sample; by default ``info["default_prior"]``.

        Raises:
            ValueError: inputs have another type or shape, or the prior does not fit or is not known to the file.
        """
        inputs = torch.as_tensor(inputs)
        dtype, shape = self.info["inputs"]["dtype"], self.info["inputs"]["shape"]
        fits = inputs.ndim == len(shape) and all(shape[k] in (size, *_ANY) for k, size in enumerate(inputs.shape))
        if str(inputs.dtype) != f"torch.{dtype}" or not fits or not inputs.numel():
            raise ValueError(
                f"`inputs` must be {dtype} of shape [{', '.join(map(str, shape))}], but are "
                f"{str(inputs.dtype).removeprefix('torch.')} of shape {list(inputs.shape)}."
            )
        prior = None
        if class_prior is not None:
            if self.info["default_prior"] is None:
                raise ValueError(
                    f"`{self.path}` does not say which prior its logits are under, so that it takes no `class_prior`. "
                    "Export the run again with the prior that they are under."
                )
            size, several = len(self.info["default_prior"]), bool(self.info["several_labels"])
            prior = _as_prior(class_prior, "class_prior", several, size).float().cpu()
        return self._run(inputs.contiguous(), prior)


def load_exported(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Exported:
    """Open a file of :func:`export_run`: model.onnx by onnxruntime, model.pt2 by torch.

    An ONNX file is data: nothing in it is run but ONNX's own operators. A program of ``torch.export`` is unpacked by
    torch, which may read pickled objects: open those of people whom you trust.

    Args:
        path: of the file.
        device: where it runs; of ONNX "cuda" needs onnxruntime-gpu.

    Raises:
        UserError: there is no such file, it is no export of this library, or onnxruntime is not installed.
    """
    path, device = Path(path).expanduser(), torch.device(device)
    if not path.is_file():
        raise UserError(f"`{path}` is no file. Name a file that `ltaug export` has written, model.onnx or model.pt2.")
    if (suffix := path.suffix.lower()) not in (".onnx", ".pt2"):
        raise UserError(f"`{path}` must be an exported file, .onnx or .pt2.")
    facts, run = (_open_onnx if suffix == ".onnx" else _open_pt2)(path, device)
    try:
        info = json.loads(facts)
    except ValueError:
        info = None
    if not isinstance(info, dict) or not {"class_names", "inputs", "default_prior"} <= set(info):
        raise UserError(f"`{path}` is no export of ltaug: it has no metadata {METADATA!r} with class names and inputs.")
    return Exported(path, info, run)


def _open_onnx(path: Path, device: torch.device) -> tuple[str, Callable[[Tensor, Tensor | None], Tensor]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"`{path}` needs onnxruntime, which is not installed. Install it with `pip install onnxruntime`."
        ) from error
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    if wanted and wanted[0] not in onnxruntime.get_available_providers():
        raise UserError(f"`device` {device} needs onnxruntime-gpu. Install it instead of onnxruntime, or take the CPU.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:  # of types of its own
        raise UserError(f"`{path}` cannot be opened as ONNX: {_first_line(error)}") from error

    def run(inputs: Tensor, prior: Tensor | None) -> Tensor:
        given = {"inputs": inputs.cpu().numpy()} | ({} if prior is None else {"class_prior": prior.numpy()})
        return torch.from_numpy(session.run(["logits"], given)[0])

    return session.get_modelmeta().custom_metadata_map.get(METADATA, ""), run


def _open_pt2(path: Path, device: torch.device) -> tuple[str, Callable[[Tensor, Tensor | None], Tensor]]:
    facts = {METADATA: ""}
    try:
        program = torch.export.load(path, extra_files=facts)
    except Exception as error:  # of many types
        raise UserError(f"`{path}` cannot be opened as a program of torch.export: {_first_line(error)}") from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module: Any = program.module()
    default = (json.loads(facts[METADATA] or "{}") or {}).get("default_prior")

    @torch.no_grad()
    def run(inputs: Tensor, prior: Tensor | None) -> Tensor:
        if prior is None and default is not None:
            prior = torch.tensor(default, dtype=torch.float32)
        given = (inputs,) if prior is None else (inputs, prior)
        logits: Tensor = module(*(each.to(device) for each in given))
        return logits.cpu()

    return facts[METADATA], run
