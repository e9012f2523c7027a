"""Writes docs/papers.md: each table and figure of five papers, what makes it here, what is printed, what is ours.

    python docs/papers.py                        # from published.csv of the recipes, quoted.csv and measured.csv
    python docs/papers.py runs/unimix/cifar_lt   # first adds the finished runs of these sweeps to measured.csv

Every command is read by the parser that it is for, with one of the settings that its row stands for; one that does not
exist, or that trains something else than the row, ends the script.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import json
import runpy
import shlex
import statistics
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ltaug import __main__ as command_line
from ltaug.commands.correct import read_strength
from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.run import read_config, write_atomically
from ltaug.scripts import loaded_script
from ltaug.sweeps import plan_runs, read_axes
from ltaug.tables import ACCURACIES, PRINTED, read_published, read_summaries
from ltaug.training import MAY_CHANGE, SECOND_STAGE, TrainSettings, settings_of

ROOT = Path(__file__).resolve().parents[1]
PAGE, QUOTED, MEASURED = (ROOT / "docs" / name for name in ("papers.md", "quoted.csv", "measured.csv"))
METRICS = dict(PRINTED)
CONDITIONS = ("dataset", "profile", "imbalance_ratio", "model", "max_scale", "max_gain_db", "test_set")
"""Columns of the CSV files that tell the columns of a table of this page apart."""
NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet_lt": "ImageNet-LT",
    "places_lt": "Places-LT",
    "inaturalist2018": "iNaturalist 2018",
    "esc10": "ESC-10",
    "esc50": "ESC-50",
    "synthia": "Synthia",
    "exponential": "",
    "natural": "",
}

Line = Mapping[str, str]
Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What this page needs to know of a recipe."""

    defaults: Mapping[str, str]
    """Values of conditions that need not be said."""
    needs: str
    """What a row waits for that has not been run."""
    words: str = ""
    """Of every command."""


RECIPES = {
    "cifar_lt": Recipe(
        {"dataset": "cifar100", "profile": "exponential", "imbalance_ratio": "100"}, "1.6 h of a CPU thread a run"
    ),
    "esc50_lt": Recipe(
        {"dataset": "esc50", "imbalance_ratio": "10", "model": "envnet", "max_scale": "1", "max_gain_db": "0"}, "a GPU"
    ),
    "imagenet_lt": Recipe(
        {"dataset": "imagenet_lt", "profile": "natural", "model": "resnet50"}, "the images and GPUs", "--data_dir DATA"
    ),
    "inaturalist": Recipe(
        {"dataset": "inaturalist2018", "profile": "natural", "model": "resnet50"},
        "the images and GPUs",
        "--data_dir DATA",
    ),
    "synthia_rgbd": Recipe({"dataset": "synthia", "model": "resnet101"}, "Synthia and a GPU", "--data_dir DATA"),
}
PROTOCOLS = {
    ("UniMix", "cifar10"): "unimix",
    ("MiSLAS", "cifar10"): "mislas",
    ("MiSLAS", "imagenet_lt"): "mislas",
    ("MiSLAS", "places_lt"): "mislas_places",
    ("MiSLAS", "inaturalist2018"): "mislas",
    ("LADE", "cifar10"): "lade",
    ("LADE", "imagenet_lt"): "lade",
    ("LADE", "places_lt"): "lade_places",
    ("LADE", "inaturalist2018"): "lade",
    ("IC", "cifar10"): "ic",
    ("IC", "places_lt"): "ic_places",
    ("LOB", "cifar10"): "lob",
    ("LOB", "imagenet_lt"): "lob",
    ("imbalanced-DL", "cifar10"): "ldam",
}
"""By paper and data set; those of CIFAR-10 are those of CIFAR-100."""
AXES = {
    **dict.fromkeys(("cifar_lt", "esc50_lt"), ("dataset", "imbalance_ratio")),
    "imagenet_lt": ("model",),
    "inaturalist": ("model",),
}
"""Conditions that stand in the names of run folders, so that tables share runs."""
DECOUPLE = ("crt", "lws", "tau_norm")
QUOTES_DECOUPLE = [
    *((paper, dataset) for paper in ("UniMix", "LADE") for dataset in ("imagenet_lt", "inaturalist2018")),
    ("MiSLAS", "inaturalist2018"),
]
"""Tables whose second stages are of Kang et al., ICLR 2020."""
MIXES_SOUND = ("bc", "lob_bc")
"""Methods that take twice the epochs."""
CORRECTIONS = {"pc_softmax": "--preset pc_softmax", "ic": "--preset ic", "given": "--shifted"}
FUSED = ("SoftAve", "UNO", "IC", "UNO-IC")
"""Corrections that are fusions of two runs."""
CORRECTED = {"pc_softmax": "PC Softmax", "ic": "IC", "given": "true prior given", **{name: name for name in FUSED}}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper, or what stands for one: its rows are lines of the CSV files."""

    name: str
    """As in their column `table`."""
    title: str
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Other:
    """A figure, or a table that is none of accuracies: one row of this page."""

    name: str
    shows: str
    commands: tuple[str, ...]
    """Empty: there is none."""
    printed: str = "a figure"
    ours: str = "not run"


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper, in the order of this page."""

    title: str
    tables: Sequence[Table]
    others: Sequence[Other] = ()
    errors: bool = False
    """Whether it prints errors."""
    remark: str = ""


def trained(recipe: str, axes: str, words: str = "", out: str = "") -> str:
    """A sweep as a command."""
    end = f" -- {words}" if words else ""
    return f"ltaug sweep recipes/{recipe}/train.py {axes} --out {out}{end}"


_CIFAR100 = "dataset=cifar100 imbalance_ratio=100 seed=0"
_SYNTHIA = trained(
    "synthia_rgbd", "method=erm modality=rgb,depth seed=0,1,2", "--data_dir DATA", "runs/ic/synthia_rgbd_fused"
)
_DISTRIBUTIONS = "python examples/label_distributions.py --out figures"
PAPERS = {
    "UniMix": Paper(
        "UniMix and Bayias (Xu et al., NeurIPS 2021)",
        [
            Table(
                "1",
                "Table 1: CIFAR-LT, ResNet-32",
                "`unimix` and `unimix_bayias` are the paper's text: partners from the whole set, tau -1 (CIFAR-10) "
                "and 0. The released code, which may have made these numbers, is `unimix_bayias_official`: partners "
                "from the batch, tau 0.5 and 0.9.",
            ),
            Table("2", "Table 2: calibration", "The bins of the paper are 15, as here. The runs are those of Table 1."),
            Table("3", "Table 3: large sets", "The paper's settings are not released: these are the recipes' own."),
            Table("4", "Table 4: parts"),
        ],
        [
            Other("Figure 1", "confidence against accuracy during training", ("ltaug report RUN",)),
            Other("Figure 2", "distributions of xi-Aug samples", (f"{_DISTRIBUTIONS} --imbalance_ratio 200",)),
            Other(
                "Figure 3",
                "boundaries of SVMs between two discs",
                ("python examples/unimix_two_discs.py --out two_discs.png",),
                ours="20 worlds, in [examples](../examples/README.md)",
            ),
            Other(
                "Figure 4",
                "accuracy by tau of the partners",
                (
                    trained(
                        "cifar_lt",
                        "method=unimix_bayias set.partner_tau=-1,-0.5,0,0.5,1 dataset=cifar10,cifar100 seed=0,1,2",
                        "--protocol unimix",
                        "runs/unimix/tau",
                    ),
                ),
                "best at -1 on CIFAR-10-LT, at 0 on CIFAR-100-LT; the heights are not at hand",
            ),
            Other("Figure 5", "logarithms of confusion matrices", ("ltaug compare RUN RUN",)),
        ],
        remark="Its appendix (settings of large sets, Table D2) is not at hand: there are no rows of it.",
    ),
    "MiSLAS": Paper(
        "MiSLAS (Zhong et al., CVPR 2021)",
        [
            Table("1", "Table 1: mixup in one stage or both, ImageNet-LT"),
            Table("2", "Table 2: second stages on CIFAR-100-LT"),
            Table("3", "Table 3: parts, CIFAR-100-LT", "The ECE of this table is not at hand."),
            Table("4", "Table 4: CIFAR-LT, ResNet-32"),
            Table("5", "Table 5: large sets"),
            Table("shot groups", "By shot group (the number of this table is not at hand)"),
            Table("README", "First stages, of its repository"),
        ],
        [
            Other("Table 6", "settings", ("ltaug methods mislas",), "in the method itself", "the same"),
            Other("Figures 1, 4, 9 to 12", "reliability diagrams, 15 bins", ("ltaug compare RUN RUN",)),
            Other("Figures 2, 13, 14", "norms of the classifier's weights", ("ltaug compare RUN RUN",)),
            Other("Figure 3", "predicted probability by shot group", ("ltaug compare RUN RUN",)),
            Other(
                "Figure 5",
                "accuracy and ECE by eps 1 and eps K",
                (
                    trained(
                        "cifar_lt",
                        "method=mislas set.smoothing_head=0.1,0.2,0.3,0.4,0.5 set.smoothing_tail=0.0,0.1 "
                        + _CIFAR100.replace("seed=0", "seed=0,1,2"),
                        "--protocol mislas",
                        "runs/mislas/smoothing",
                    ),
                ),
                "a figure; its values are not at hand",
            ),
            Other(
                "Figures 6, 8",
                "shapes of label-aware smoothing",
                (
                    trained(
                        "cifar_lt",
                        "method=mislas set.smoothing_shape=concave,linear,convex,power "
                        + _CIFAR100.replace("seed=0", "seed=0,1,2"),
                        "--protocol mislas",
                        "runs/mislas/shapes",
                    ),
                    _DISTRIBUTIONS,
                ),
                "a figure; its values are not at hand",
            ),
            Other("Figure 7", "batch norm before and after", ("ltaug report RUN",)),
        ],
    ),
    "LADE": Paper(
        "LADE and PC Softmax (Hong et al., CVPR 2021)",
        [
            Table("CIFAR-100-LT", "CIFAR-100-LT (the number of this table is not at hand)"),
            Table("Places-LT", "Places-LT (the number of this table is not at hand)"),
            Table("ImageNet-LT", "ImageNet-LT (the numbers of these tables are not at hand)"),
            Table("iNaturalist 2018", "iNaturalist 2018 (the number of this table is not at hand)"),
            Table("6", "Table 6: shifted test sets of ImageNet-LT"),
            Table("8", "Table 8: parts"),
            Table("9", "Table 9: shifted test sets of CIFAR-100-LT"),
            Table(
                "calibration",
                "Calibration (the numbers of these tables are not at hand)",
                "ECE of 20 bins: `ltaug correct` writes it to corrected.json, as `ece20`; tables have that of 15.",
            ),
        ],
        [
            Other("Table 7", "settings", ("ltaug methods lade",), "in the method itself", "the same"),
            Other("Figure 2", "mean probability of each class", ("ltaug report RUN",)),
            Other("Figure 3", "logits of own and other classes, mean and variance", ("ltaug report RUN",)),
            Other("Figures 4, 6", "reliability diagrams, 20 bins; here 15", ("ltaug compare RUN RUN",)),
        ],
    ),
    "IC": Paper(
        "IC and UNO-IC (Tian et al., NeurIPS 2020)",
        [
            Table("2", "Table 2: CIFAR-LT, exponential and step imbalance"),
            Table(
                "3",
                "Table 3: iNaturalist 2018",
                "The settings follow LDAM's, which are not released for this set: these are the recipe's own.",
            ),
            Table(
                "4",
                "Table 4: Synthia, RGB",
                "Accuracy, not error. DeepLab in the paper, DeepLabV3+ here; the prior is that of the training images. "
                "`ltaug fuse` of one run prints it as it is and with IC.",
            ),
            Table(
                "5",
                "Table 5: Synthia, RGB and depth, other weather",
                "Accuracy, not error. Mean over weather that training has not seen. `ltaug fuse` prints all of them.",
            ),
            Table("README", "Places-LT, of its repository", "Accuracy, not error."),
        ],
        [
            Other(
                "Table 6",
                f"lambda of {name}: CIFAR-10-LT exponential 100, 10, step 100, 10; the same of CIFAR-100-LT",
                (
                    trained(
                        "cifar_lt",
                        f"method={method} dataset=cifar10,cifar100 profile=exponential,step imbalance_ratio=10,100 "
                        "seed=0,1,2",
                        "--protocol ic",
                        "runs/ic/cifar_lt",
                    ),
                    "ltaug correct RUN --preset ic --folds 3",
                ),
                values,
            )
            for name, method, values in (
                ("CE", "erm", "2.1, 0.7, 1.1, 1.0; 1.3, 1.0, 1.2, 1.3"),
                ("Focal", "focal", "1.3, 1.1, 0.8, 1.0; 1.1, 1.0, 1.2, 1.0"),
                ("CE-DRW", "ce_drw", "1.5, 1.2, 1.2, 1.2; 0.6, 0.5, 0.3, 0.3"),
                ("Focal-DRW", "focal_drw", "1.0, 0.5, 1.0, 0.5; 0.5, 0, 0.6, 0"),
            )
        ]
        + [
            Other("Figure 1", "what lambda does to the odds", (_DISTRIBUTIONS,)),
            Other(
                "Figure 2",
                "boundaries in two moons and circles, accuracy by lambda",
                ("python examples/two_moons.py --out two_moons.png",),
                ours="5 draws, in [examples](../examples/README.md)",
            ),
            Other(
                "Figure 3",
                "accuracy by lambda, iNaturalist 2018; here top-1 alone",
                (
                    trained("inaturalist", "method=erm seed=0,1,2", "--held_out_per_class 2", "runs/ic/lambda"),
                    "ltaug correct RUN --preset ic",
                ),
            ),
            Other("Figure 4", "segmented streets", (_SYNTHIA, "ltaug fuse RUN RUN")),
        ],
        errors=True,
    ),
    "LOB": Paper(
        "Label-occurrence-balanced mixup (Zhang et al., ICASSP 2022)",
        [
            Table("CIFAR-LT", "CIFAR-LT, ResNet-32 (the number of this table is not at hand)"),
            Table("ImageNet-LT", "ImageNet-LT, ResNet-10"),
            Table("ESC-50-LT", "ESC-50-LT"),
            Table("section 4.4", "Section 4.4: lambda adjusted instead of the sampling, CIFAR-10-LT"),
        ],
        [
            Other(
                "Table 3b",
                "label occurrence, largest over smallest, CIFAR-10-LT, ratio 10: IB + IB, IB + CB, CB + CB",
                (f"{_DISTRIBUTIONS} --classes 10 --largest 5000 --imbalance_ratio 10",),
                "9.91, 3.16, 1.10",
                "by expectation 10, 2.77, 1",
            ),
            Other(
                "Figure 1",
                "share of mixed samples with a head label; here of CIFAR-100-LT",
                (_DISTRIBUTIONS,),
                "94.7 % on ImageNet-LT",
            ),
            Other("Figure 3a", "label occurrence by class", (_DISTRIBUTIONS,)),
        ],
        errors=True,
    ),
    "BC": Paper(
        "Beside them: between-class learning (Tokozume et al., ICLR 2018)",
        [Table("README", "Balanced sets, five folds, of its repository")],
        errors=True,
    ),
    "imbalanced-DL": Paper("Beside them: imbalanced-DL", [Table("README", "Of its repository, ResNet-32")]),
}


# --- commands, and whether they are any -------------------------------------------------------------------------------


def sweep_command(paper: str, recipe: str, lines: Sequence[Line]) -> str:
    """The sweep that trains a row: a method in all conditions, three seeds, or five folds of the balanced sounds."""
    first = lines[0]
    method, dataset = first["method"], first["dataset"]
    protocol = PROTOCOLS.get((paper, "cifar10" if recipe == "cifar_lt" else dataset), "")
    if method == "bbn" and recipe != "imagenet_lt":
        protocol = "bbn"
    if method in DECOUPLE and (paper, dataset) in QUOTES_DECOUPLE:
        protocol = "decouple"
    if first.get("model") == "inception_v3":
        protocol = "inception"
    if recipe == "esc50_lt":
        names = ["envnet_v2"] if first["model"] == "envnet_v2" else []
        names += ["esc10"] if names and dataset == "esc10" else []
        protocol = "_".join([*names, *(["bc"] if method in MIXES_SOUND else [])])
    known = {**RECIPES[recipe].defaults, **_protocol(recipe, protocol)}
    axes, words = [f"method={method}"], [f"--protocol {protocol}"] if protocol else []
    for name in CONDITIONS[:-1]:
        values = list(dict.fromkeys(line[name] for line in lines if line.get(name)))
        if len(values) > 1 or (values and name in AXES.get(recipe, ())):
            axes.append(f"{name}={','.join(values)}")
        elif values and str(known.get(name)) != values[0]:
            words.append(f"--{name} {values[0]}")
    axes += ["modality=rgb,depth"] if first.get("correction") in FUSED else []
    axes += [f"set.{first['set']}"] if first.get("set") else []
    axes.append("test_fold=1,2,3,4,5" if paper == "BC" else "seed=0,1,2")
    if first.get("epochs") and str(known.get("epochs")) != first["epochs"]:
        words.append(f"--epochs {first['epochs']}")
    words += [RECIPES[recipe].words] if RECIPES[recipe].words else []
    parts = [
        dataset if recipe == "imagenet_lt" else recipe,
        protocol if recipe == "esc50_lt" else "",
        first.get("epochs"),
    ]
    if (method, recipe) == ("tau_norm", "inaturalist"):  # whose validation images are its test images
        words.append("--held_out_per_class 2")
        parts.append("held_out")
    parts += [protocol] if protocol in ("bbn", "decouple", "inception") else []
    parts += ["fused"] if first.get("correction") in FUSED else []
    parts += ["strong"] if first.get("max_gain_db") == "6" else []
    out = f"runs/{paper.lower()}/{'_'.join(filter(None, parts))}"
    return trained(recipe, " ".join(axes), " ".join(words), out)


@functools.cache
def _protocol(recipe: str, name: str) -> dict[str, Any]:
    path = ROOT / "recipes" / recipe / "protocols" / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if name else {}


def row_commands(paper: str, recipe: str, lines: Sequence[Line]) -> list[str]:
    """All commands of a row."""
    first = lines[0]
    commands = [sweep_command(paper, recipe, lines)]
    if recipe == "synthia_rgbd":
        fused = {"ic": "ltaug fuse RUN", **dict.fromkeys(FUSED, "ltaug fuse RUN RUN")}
        return [*commands, fused[first["correction"]]] if first["correction"] else commands
    if first.get("correction") or first.get("test_set"):
        options = CORRECTIONS[first.get("correction") or "given"]
        # The samples that CIFAR's profiles leave over have none of the largest classes.
        options += " --folds 3" if options == CORRECTIONS["ic"] and first["dataset"] != "places_lt" else ""
        options += " --strength 1.3" if (paper, first["dataset"]) == ("IC", "places_lt") else ""
        commands.append(f"ltaug correct RUN {options}")
    return commands


class _Read(Exception):
    """A parser has read its words."""


def check(command: str, line: Line | None = None) -> None:
    """Let the parser that a command is for read it.

    Args:
        command: as it stands on the page.
        line: that its settings must fit; of a sweep, that run is chosen. By default the first one.

    Raises:
        UserError: it is no command, or one of something else.
        SystemExit: it is none, by its own parser, which has said why.
    """
    program, *words = shlex.split(command)
    if program == "python":
        _check_script(tuple(words))
    elif program == "ltaug" and words[:1] == ["sweep"]:
        settings_of_sweep(command, line or {})
    elif program == "ltaug":
        arguments = command_line._parsers()[0].parse_args(words)
        if words[0] == "correct":
            read_strength(arguments.strength)
        if words[0] == "methods" and arguments.name not in METHODS:
            raise UserError(f"`{command}`: there is no method {arguments.name!r}.")
    else:
        raise UserError(f"`{command}` is no command of ltaug.")


@functools.cache
def _check_script(words: tuple[str, ...]) -> None:
    """Run a script until its parser has read the words."""
    argv, read = sys.argv, argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        read(self, args, namespace)
        raise _Read

    sys.argv = [*words]
    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[assignment, method-assign]
    try:
        with contextlib.suppress(_Read):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            raise UserError(f"`{shlex.join(words)}` has no parser.")
    finally:
        sys.argv = argv
        argparse.ArgumentParser.parse_args = read  # type: ignore[method-assign]


@functools.cache
def _read_sweep(command: str) -> tuple[str, dict[str, list[str]], list[str], Path]:
    """Script, axes, settings and folder of a sweep, by the command's own parser."""
    own, settings, _ = command_line._for_sweep(shlex.split(command)[1:])
    found = command_line._parsers()[1]["sweep"].parse_intermixed_args(own[1:])
    return found.script, read_axes(found.axes), settings, Path(found.out)


def settings_of_sweep(command: str, line: Line) -> tuple[Settings, Settings | None]:
    """The settings that one run of a sweep trains with, and those of its first stage.

    Args:
        command: the sweep.
        line: the run: values of settings; of others the first.

    Raises:
        UserError: there is none, or it trains in other conditions than the line's.
    """
    script, axes, settings, _ = _read_sweep(command)
    chosen = {}
    for name, values in axes.items():
        wanted = [value for value in values if name not in line or _same(value, line[name])]
        if not wanted:
            raise UserError(f"`{command}` has no run with `{name}` {line[name]}.")
        chosen[name] = wanted[:1]
    runs = plan_runs(script, chosen, settings, Path("runs"))
    first = _settings(script, runs[0].words, None) if len(runs) > 1 else None
    found = _settings(script, runs[-1].words, runs[0].words if first else None)
    for name in ("method", *CONDITIONS[:-1]):
        if line.get(name) and not _same(found.get(name), line[name]):
            raise UserError(f"`{command}` trains with `{name}` {found.get(name)}, but its row is {line[name]}.")
    epochs = (first or found)["epochs"]
    if line.get("epochs") and not _same(epochs, line["epochs"]):
        raise UserError(f"`{command}` trains {epochs} epochs, but its row is of {line['epochs']}.")
    return found, first


@functools.cache
def _settings(script: str, words: tuple[str, ...], first: tuple[str, ...] | None) -> Settings:
    """Settings of a training script, by its own parser; of a second stage with a first stage that is there."""
    place = words.index("--method") + 1
    if first is None and words[place] != "erm":  # a method is a name: what else the words say is parsed once for all
        parsed = _parsed(script, (*words[:place], "erm", *words[place + 1 :]), None)
        return _plain(dataclasses.replace(parsed, method=words[place], out=None))
    return _plain(_parsed(script, words, first))


@functools.cache
def _parsed(script: str, words: tuple[str, ...], first: tuple[str, ...] | None) -> Any:
    with tempfile.TemporaryDirectory() as folder, loaded_script(ROOT / script) as module:
        if first is not None:
            (Path(folder) / "config.yaml").write_text(yaml.safe_dump(dict(_settings(script, first, None))))
            for name in ("ltaug.json", "model.safetensors"):
                (Path(folder) / name).touch()
            words = (*words, "--from_run", folder)
        return settings_of(module.Config, str(ROOT / script), words)


def _plain(settings: Any) -> Settings:
    return dict(json.loads(json.dumps(dataclasses.asdict(settings))))


def check_folders(commands: Sequence[str]) -> None:
    """Refuse sweeps that would put different trainings into one run folder."""
    words: dict[Path, tuple[str, ...]] = {}
    for command in dict.fromkeys(commands):
        script, axes, settings, out = _read_sweep(command)
        for run in plan_runs(script, axes, settings, out):
            if words.setdefault(run.folder, run.words) != run.words:
                raise UserError(f"`{command}` has another run {run.folder}: {shlex.join(words[run.folder])}.")


def _same(value: object, text: object) -> bool:
    try:
        return float(value) == float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value) == str(text)


# --- what was measured ------------------------------------------------------------------------------------------------


def differences(asked: Settings, measured: Settings) -> list[str] | None:
    """In which settings of the schedule a measured run is not the one that was asked for; None: another network or set.

    The schedule is what every training script can be told; the rest are data and network.
    """
    schedule = {item.name for item in dataclasses.fields(TrainSettings)} - {"method", "set"}
    ignored = {*MAY_CHANGE, "seed", "protocol"} - {"epochs"}
    found = []
    for name in {**asked, **measured}:
        if name in ignored or name.endswith("_dir") or asked.get(name) == measured.get(name):
            continue
        if name not in schedule:
            return None
        found.append(f"{name} {measured.get(name)}, not {asked.get(name)}")
    return found


def ours(commands: Sequence[str], line: Line, measured: Sequence[Line], errors: bool) -> list[tuple[Line, str]]:
    """What was measured of a line of a paper, and in words."""
    found = []
    for mine in measured:
        if any((mine.get(name) or "") != (line.get(name) or "") for name in ("correction", "test_set", "method")):
            continue
        script = _read_sweep(mine["command"])[0]
        if script != _read_sweep(commands[0])[0]:
            continue
        try:
            theirs = settings_of_sweep(mine["command"], {"method": mine["method"]})
            if any(line.get(name) and not _same(theirs[0].get(name), line[name]) for name in CONDITIONS[:-1]):
                continue
            asked = settings_of_sweep(commands[0], line)
        except UserError:
            continue
        parts = [differences(a or {}, b or {}) for a, b in zip(asked, theirs, strict=True)]
        if None in parts:
            continue
        words = [f"{stage}{'; '.join(part)}" for stage, part in zip(("", "first stage: "), parts, strict=True) if part]
        seeds = mine["seeds"].split()
        names = [name for name in METRICS if line.get(name)]
        values = [_measured(mine, name, errors) for name in names]
        if any(mine.get(name) for name in names):
            said = "; ".join([f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}", *words])
            found.append((mine, f"{' / '.join(values)} ({said})"))
    return found


def _measured(line: Line, name: str, errors: bool) -> str:
    spread = line.get(f"{name}_std")
    return _printed(line, name, errors) + (f" ± {spread}" if spread else "")


def _printed(line: Line, name: str, errors: bool) -> str:
    """A number as a paper prints it, with as many digits."""
    text = line.get(name) or "–"
    if text == "–" or not errors or name not in ACCURACIES:
        return text
    return f"{100 - float(text):.{len(text.partition('.')[2])}f}"


def add_runs(folders: Sequence[Path]) -> None:
    """Add the finished runs of sweeps to measured.csv: a line for all seeds of equal settings, and for each correction.

    Lines of the same command stay where the runs have nothing of their correction and test set.
    """
    lines = read_lines(MEASURED)
    for folder in folders:
        groups: dict[str, list[Path]] = {}
        for name in read_summaries(folder):
            groups.setdefault(_command_of(folder / name), []).append(folder / name)
        for command, runs in groups.items():
            found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
            seeds: dict[tuple[str, str], list[str]] = {}
            for run in runs:
                for key, metrics in _results(run):
                    found.setdefault(key, []).append(metrics)
                    seeds.setdefault(key, []).append(str(read_config(run / "config.yaml")["seed"]))
            same = lambda line: (line.get("correction") or "", line.get("test_set") or "")  # noqa: E731
            lines = [line for line in lines if line["command"] != command or same(line) not in found]
            for (correction, test_set), finals in found.items():
                line = {"command": command, "method": str(read_config(runs[0] / "config.yaml")["method"])}
                line |= {"correction": correction, "test_set": test_set}
                line |= {"seeds": " ".join(sorted(seeds[correction, test_set])), "where": str(folder)}
                for name in METRICS:
                    values = [final[name] for final in finals if isinstance(final.get(name), (int, float))]
                    scale, digits = (1, 5) if name in ("classwise_ece", "brier", "nll") else (100, 1)
                    if values:
                        line[name] = f"{scale * statistics.fmean(values):.{digits}f}"
                    if len(values) > 1:
                        line[f"{name}_std"] = f"{scale * statistics.stdev(values):.{digits}f}"
                lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    with MEASURED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _results(run: Path) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """What a run measured, by correction and test set, both as in published.csv; of what `ltaug correct` left, too."""
    final = dict(json.loads((run / "summary.json").read_text())["final"])
    path = run / "corrected.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    final |= {name: value for name, value in (content.get("uncorrected") or {}).items() if name not in final}
    yield ("", ""), final
    target = content.get("target_prior") or []
    uniform = bool(target) and max(target) - min(target) < 1e-9 and content["calibration"] == "none"
    if uniform and str(content["from_prior_reason"]).startswith("given, the training set"):
        if content["strength_by"] == "search":
            yield ("ic", ""), content["final"]
        elif content["strength"] == 1.0 and content["strength_by"] is None:
            yield ("pc_softmax", ""), content["final"]
    for row, correction in (("none", ""), ("given", "given")):
        for test_set, top1 in ((content.get("shifted") or {}).get(row) or {}).items():
            yield (correction, test_set), {"top1": top1}


def _command_of(run: Path) -> str:
    """A sweep that trains a run again: its recipe, its method, and all that is not the default."""
    saved = read_config(run / "config.yaml")
    stages = [saved] if not saved.get("from_run") else [read_config(Path(saved["from_run"]) / "config.yaml"), saved]
    script = next(word for word in shlex.split((run / "command.txt").read_text()) if word.endswith("train.py"))
    script = f"recipes/{Path(script).resolve().parent.name}/train.py"
    words = [f"--protocol {saved['protocol']}"] if saved.get("protocol") else []
    plain = f"ltaug sweep {script} method={saved['method']}" + (f" -- {words[0]}" if words else "")
    usual = [each for each in reversed(settings_of_sweep(plain, {})) if each is not None]
    for k, (mine, default) in enumerate(zip(stages, usual, strict=True)):
        for name, value in mine.items():
            inside = len(stages) > 1 and k == 0
            ignored = name in ("method", "seed", "protocol", *MAY_CHANGE) and name != "epochs"
            if ignored or name.endswith("_dir") or value == default.get(name) or (k == 1 and name not in SECOND_STAGE):
                continue
            pairs = value.items() if name == "set" and value else [(None, value)]
            if name == "set" and inside:
                continue
            for key, each in pairs:
                option = f"{'second_stage.' * (k == 1)}{name}" + (f".{key}" if key else "")
                words.append(f"--{option} {shlex.quote(json.dumps(each) if not isinstance(each, str) else each)}")
    return f"ltaug sweep {script} method={saved['method']}" + (f" -- {' '.join(words)}" if words else "")


# --- the page ---------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def printed_lines() -> list[tuple[str, Line]]:
    """All lines that papers print, with their recipe; that of quoted ones is empty."""
    lines: list[tuple[str, Line]] = []
    for recipe in RECIPES:
        lines += [(recipe, line) for line in read_published(ROOT / "recipes" / recipe / "published.csv")]
    return lines + [("", line) for line in read_lines(QUOTED)]


def parts_of(lines: Sequence[tuple[str, Line]]) -> Iterator[list[tuple[str, Line]]]:
    """Lines of a table in parts: of one set or both CIFARs, one network of sounds, one length of training."""
    parts: dict[tuple[str, ...], list[tuple[str, Line]]] = {}
    for recipe, line in lines:
        dataset = line["dataset"]
        same = "CIFAR" if dataset in ("cifar10", "cifar100") else dataset
        sound = (line["model"], line["max_gain_db"]) if recipe == "esc50_lt" else ()
        parts.setdefault((same, line.get("epochs") or "", *sound), []).append((recipe, line))
    yield from parts.values()


@dataclasses.dataclass
class Count:
    """Rows of the page."""

    rows: int = 0
    commands: int = 0
    quoted: int = 0
    run: int = 0
    missing: list[str] = dataclasses.field(default_factory=list)
    """Rows that could be made here, but have no command."""
    sweeps: list[str] = dataclasses.field(default_factory=list)
    """All commands that train."""
    used: list[Line] = dataclasses.field(default_factory=list)
    """What was measured of some row."""


def table_part(
    paper: str, errors: bool, part: Sequence[tuple[str, Line]], measured: Sequence[Line], count: Count
) -> list[str]:
    """Markdown of one part of a table."""
    conditions = list(dict.fromkeys(_condition(line) for _, line in part))
    conditions = _sorted(conditions)
    varying = [k for k in range(len(CONDITIONS)) if len({condition[k] for condition in conditions}) > 1]
    metrics = [name for name in METRICS if any(line.get(name) for _, line in part)]
    kept = [k for k in range(len(CONDITIONS)) if k not in varying and conditions[0][k]]
    what = ", ".join(filter(None, (_in_words(CONDITIONS[k], conditions[0][k]) for k in kept)))
    epochs = part[0][1].get("epochs")
    heads = [METRICS[name] + (" error" if errors and name in ACCURACIES else "") for name in metrics]
    what = f"{', '.join(filter(None, (what, epochs and f'{epochs} epochs')))}: {' / '.join(heads)}".lstrip(", :")
    columns = [" ".join(filter(None, (_in_words(CONDITIONS[k], each[k]) for k in varying))) for each in conditions]
    lines = [f"{what if what.startswith('iNat') else what[0].upper() + what[1:]}.", ""]
    lines += [f"| row | {' | '.join(column or 'printed' for column in columns)} | ours | command |"]
    lines += ["|---|" + "---:|" * len(columns) + "---|---|"]
    rows: dict[tuple[str, ...], list[tuple[str, Line]]] = {}
    for recipe, line in part:
        own_protocol = "inception" if line.get("model") == "inception_v3" else ""
        key = (recipe, line["method"], line.get("set") or "", line.get("correction") or "", own_protocol)
        rows.setdefault(key, []).append((recipe, line))
    notes: dict[str, int] = {}
    for number, ((recipe, method, changed, correction, _), members) in enumerate(rows.items()):
        mine = [line for _, line in members]
        by_condition = {_condition(line): line for line in mine}
        cells = [
            " / ".join(_printed(by_condition[each], name, errors) for name in metrics) if each in by_condition else "–"
            for each in conditions
        ]
        marks = [notes.setdefault(line["note"], len(notes) + 1) for line in mine if line.get("note")]
        marked = "".join(f" [{mark}]" for mark in dict.fromkeys(marks))
        label = f"`{method}`" if recipe else method
        label += f", {changed}" if changed else ""
        label += f", {CORRECTED[correction]}" if correction else ""
        count.rows += 1
        if not recipe:
            made, found = "quoted: its code is not in ltaug", "quoted"
            count.quoted += 1
        else:
            commands = row_commands(paper, recipe, mine)
            check(commands[0], mine[-(number % 2)])  # the first condition, or the last
            for command in commands[1:]:
                check(command)
            count.commands += 1
            count.sweeps.append(commands[0])
            made = ", then ".join(f"`{command}`" for command in commands)
            runs = []
            for line in mine:
                for used, each in ours(commands, line, measured, errors):
                    count.used.append(used)
                    runs.append(f"{columns[conditions.index(_condition(line))]}: {each}".lstrip(": "))
            count.run += bool(runs)
            found = "; ".join(runs) or f"not run: needs {RECIPES[recipe].needs}"
        lines.append(f"| {label}{marked} | {' | '.join(cells)} | {found} | {made} |")
    return [*lines, "", *(f"- [{mark}] {note}" for note, mark in notes.items()), ""]


def _condition(line: Line) -> tuple[str, ...]:
    return tuple(line.get(name) or "" for name in CONDITIONS)


def _sorted(conditions: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Data sets and networks in the order of the file, ratios from the smallest."""
    places = [list(dict.fromkeys(each[k] for each in conditions)) for k in range(len(CONDITIONS))]
    ratio = CONDITIONS.index("imbalance_ratio")

    def key(each: tuple[str, ...]) -> list[float]:
        return [float(each[k] or 0) if k == ratio else places[k].index(each[k]) for k in range(len(CONDITIONS))]

    return sorted(conditions, key=key)


def _in_words(name: str, value: str) -> str:
    words = {"imbalance_ratio": f"ratio {value}", "max_scale": "", "max_gain_db": "strong augmentation"}
    if value in ("", "0") or (name == "max_gain_db" and value == "0"):
        return ""
    return words.get(name, NAMES.get(value, value))


def others_part(title: str, others: Sequence[Other], count: Count) -> list[str]:
    """Markdown of a paper's figures, and of its tables of something else."""
    lines = ["| what | shows | printed | ours | command |", "|---|---|---|---|---|"]
    for each in others:
        for command in each.commands:
            check(command)
        count.sweeps += [command for command in each.commands if command.startswith("ltaug sweep")]
        count.rows += 1
        count.commands += bool(each.commands)
        if not each.commands:
            count.missing.append(f"{title}, {each.name}: {each.shows}.")
        made = ", then ".join(f"`{command}`" for command in each.commands) or "none yet"
        lines.append(f"| {each.name} | {each.shows} | {each.printed} | {each.ours} | {made} |")
    return [*lines, ""]


def head(count: Count) -> list[str]:
    """What the page is, and the share of its rows that have a command."""
    own = count.rows - count.quoted
    others = " The last section names the others." if count.missing else ""
    return [
        "# The papers, row by row",
        "",
        f"**{100 * count.commands / own:.1f} % of the rows have a command here: {count.commands} of {own}.**{others}",
        f"{count.quoted} more rows are quoted: baselines whose code is not in ltaug. {count.run} rows have",
        "numbers of ours, the others say what they wait for.",
        "",
        "`docs/papers.py` writes this page, from what is printed (`published.csv` of the recipes, `docs/quoted.csv`)",
        "and what was measured in this repository (`docs/measured.csv`). Every command is read by its own parser,",
        "and must train what its row is of. `python docs/papers.py RUNS` adds the runs of a sweep.",
        "",
        "- **Printed** accuracies, errors and ECE are in percent, with a dash where the paper has none; class-wise",
        "  ECE, Brier score, NLL and lambda are not. A number in brackets is a note below the table: how many seeds,",
        "  which epoch, another network, or that this is not stated.",
        "- **Ours** are of the last epoch, with seeds; mean and standard deviation where there are several. Where the",
        "  schedule was not that of the command, brackets say how. `docs/measured.csv` has the commits.",
        "- **Commands** train all columns of a row with three seeds, first stages included. `RUN` is each of their",
        "  run folders, `DATA` the folder of the images. Rows that a table takes from another paper are trained under",
        "  the schedule of the table's own paper, so that its rows compare: a number that stands in several tables has",
        "  several commands, and was made by one of them at most. BBN and decoupling keep their own schedules.",
        "",
    ]


def tail(measured: Sequence[Line], count: Count) -> list[str]:
    """Rows without a command, and what was measured that belongs to no row."""
    lines = ["## Rows without a command", "", *(f"- {each}" for each in count.missing), ""] if count.missing else []
    beside = [line for line in measured if line not in count.used]
    lines += ["## Measured here, but of no row", "", "Top-1 in percent, last epoch.", ""]
    lines += ["| command | seeds | top-1 | from |", "|---|---|---:|---|"]
    for line in beside:
        lines.append(
            f"| `{line['command']}` | {line['seeds'].replace(' ', ', ')} | {_measured(line, 'top1', False)} "
            f"| {line['where']} |"
        )
    return lines


def _wrapped(remark: str) -> list[str]:
    return [*textwrap.wrap(remark, 120, break_on_hyphens=False), ""] if remark else []


def page() -> str:
    """The whole page."""
    lines, measured, body, count = printed_lines(), read_lines(MEASURED), list[str](), Count()
    seen = 0
    for key, paper in PAPERS.items():
        body += [f"## {paper.title}", ""]
        body += [paper.remark, ""] if paper.remark else []
        for table in paper.tables:
            chosen = [(recipe, line) for recipe, line in lines if (line["paper"], line["table"]) == (key, table.name)]
            seen += len(chosen)
            body += [f"### {table.title}", "", *_wrapped(table.remark)]
            errors = paper.errors and "not error" not in table.remark
            for part in parts_of(chosen):
                body += table_part(key, errors, part, measured, count)
        if paper.others:
            body += ["### Figures, and tables of other things", "", *others_part(paper.title, paper.others, count)]
    if seen != len(lines):
        raise UserError(f"{len(lines) - seen} lines of published.csv or quoted.csv are of no table of docs/papers.py.")
    check_folders(count.sweeps)
    return "\n".join([*head(count), *body, *tail(measured, count)]).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of sweeps to add to measured.csv")
    add_runs(parser.parse_args().runs)
    write_atomically(PAGE, page())
    sys.stdout.write(f"Written: {PAGE}\n")


if __name__ == "__main__":
    main()
