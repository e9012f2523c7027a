"""The command `ltaug`: lists methods, works on finished runs without their data or code, and starts new ones."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ltaug.errors import UserError, did_you_mean, exit_with_error, one_line_errors, one_process

# Everything else is imported by the command that needs it, so that each starts fast.

CALIBRATIONS = ("none", "temperature", "vector", "bias_corrected", "structured_matrix")
PRESETS = {
    "pc_softmax": {"target_prior": "uniform", "from_prior": "train", "strength": "1"},
    "ic": {"target_prior": "uniform", "from_prior": "train", "strength": "search"},
}
"""Options of `ltaug correct` as papers have them: LADE, Equation 4; IC, Equation 7 and Algorithm 2."""
FREE_ESTIMATE = (
    "Note: with many classes or few samples a free estimate may be worse than none; {} center pulls it towards the "
    "trend of the training counts, trend takes that alone."
)
QUICKSTART = ("erm", "class_balanced", "bayias", "unimix_bayias", "unimix_bayias_effective")
"""Methods of the quick start: the usual baselines, the paper, and what we would take."""


def methods(arguments: argparse.Namespace) -> None:
    """List the methods, or explain one: its settings, its paper, and what is published for single data sets."""
    from ltaug.commands.methods import describe_method, methods_table

    if arguments.name is None:
        _say(f"{methods_table()}\n\n`ltaug methods NAME` explains one.")
    else:
        _say(describe_method(arguments.name))


READING = ("split", "column", "allow_outside", "device", "workers")
"""Options of how samples without labels are read and computed."""


def correct(arguments: argparse.Namespace) -> None:
    """Correct a finished run's test logits for another class mix; nothing is trained, and no data are needed."""
    from ltaug.commands._runs import find_run, published_beside
    from ltaug.commands.correct import RunCorrection
    from ltaug.report import PIXEL_COLUMNS, RUN_COLUMNS, results_table, write_report

    for name, value in PRESETS.get(arguments.preset, {}).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    target, corrects = arguments.target_prior, True
    if target is None and arguments.strength is None and arguments.calibrate == "none":
        corrects = not arguments.shifted
        target = "uniform" if corrects else None
    if arguments.folds is not None and arguments.shifted:
        raise UserError("--folds leaves no single correction for --shifted. Call them one after the other.")
    run, source = find_run(arguments.run), arguments.from_prior or "recorded"
    if arguments.unlabelled is None:
        for name in (*READING, "script"):
            if getattr(arguments, name) not in (None, False):
                raise UserError(f"--{name} is how the samples of --unlabelled are read. Leave it out.")
    made = RunCorrection(
        run,
        target,
        arguments.strength,
        arguments.calibrate,
        source,
        arguments.folds,
        arguments.unlabelled,
        {name: getattr(arguments, name) for name in READING},
        arguments.script,
    )
    _say(made.source_in_words)
    if made.doubt:
        _say(made.doubt)
    if made.tuned_on:
        _say(f"Tuned on {made.tuned_on}.")
    if made.estimated_on:
        _say(f"The prior is estimated on {made.estimated_on}.")
    if target == "estimate":
        _warn(FREE_ESTIMATE.format("--target_prior"))
    corrected = shifted = None
    if corrects:
        corrected = made.evaluate()
        said = filter(None, (made.gain(corrected), made.spread(corrected)))
        _say("\n".join(["", results_table(made.rows(corrected), PIXEL_COLUMNS if made.pixels else RUN_COLUMNS), *said]))
    if arguments.shifted:
        shifted = made.shifted()
        _say(f"\n{made.shifted_table(shifted)}")
    if printed := made.published(published_beside(run), corrects, arguments.shifted):
        _say("\n".join(["", *printed]))
    _say(f"\nWritten: {made.save(corrected, shifted)}")
    if corrects and arguments.folds is None:
        _say(f"To use it: ltaug.correction.Correction.load({str(made.run.path)!r})")
    _say(f"Report: {write_report(made.run.path)}")


def predict(arguments: argparse.Namespace) -> None:
    """Predict the classes of new samples without labels: a table of them, their logits, and their class mix.

    Stop it and start it again: it goes on where it was.
    """
    from ltaug.commands.predict import RunPrediction

    asked = RunPrediction(arguments.run, arguments.script, arguments.target_prior, arguments.estimate, arguments.raw)
    if arguments.estimate == "estimate":
        _warn(FREE_ESTIMATE.format("--estimate"))
    more = {name: getattr(arguments, name) for name in (*READING, "batch_size")}
    _say(asked.text(asked.predict(arguments.place, arguments.out, **more)))


def compare(arguments: argparse.Namespace) -> None:
    """Put finished runs side by side on one HTML page, and print their table."""
    from ltaug.commands._runs import find_run

    _compare([find_run(run) for run in arguments.runs], Path(arguments.out), arguments.title)


def export(arguments: argparse.Namespace) -> None:
    """Write one file of a finished run that takes raw samples and a class prior: ONNX, or a program of torch.export.

    Pictures, recordings and depth go in as they are; preprocessing, network and the run's correction are in the file,
    and the class prior is an input. It needs onnxruntime, or torch, where it is used, and not ltaug.
    """
    import torch

    from ltaug.commands._runs import find_run
    from ltaug.commands.correct import read_prior
    from ltaug.export import export_run
    from ltaug.run import RunFolder

    run, prior = find_run(arguments.run), None
    if arguments.from_prior not in (None, "recorded"):
        info = RunFolder.open(run).info()
        if info.get("several_labels") and arguments.from_prior in ("train", "uniform"):
            raise UserError(
                f"--from_prior {arguments.from_prior} is of classes that exclude each other, but the run has several "
                "labels a sample: give a JSON file, the share of the samples that have each label."
            )
        counts = torch.tensor(info["class_counts"])
        several = bool(info.get("several_labels"))
        prior = read_prior("--from_prior", arguments.from_prior, info["class_names"], counts, several_labels=several)
    names = ("format", "script", "raw", "input_shape")
    more = {name: getattr(arguments, name) for name in names}
    try:
        written = export_run(run, arguments.out, from_prior=prior, **more)
    except UserError as error:  # of arguments, which have other names here
        raise UserError(re.sub(rf"`({'|'.join(names)}|from_prior)`", r"--\1", str(error))) from error
    inputs, default = written.info["inputs"], written.info["default_prior"]
    _say(f"Written: {written.path} ({_size(written.path)})")
    if written.beside:
        _say(f"Its weights, more than ONNX takes in one file, are in {written.beside}: keep the two together.")
    _say(f"inputs: {inputs['dtype']} [{', '.join(map(str, inputs['shape']))}]")
    if default is None:
        why = written.info.get("logits_prior_reason")
        _warn(
            f"Note: the run does not say which prior its logits are under{f' ({why})' if why else ''}: the file takes "
            "no class_prior. Name one: --from_prior train, uniform or a JSON file."
        )
    else:
        same = default == written.info["logits_prior"]
        word = "the prior that the logits are under" if same else "the target of the run's correction"
        _say(f"class_prior: float32 [{len(default)}], by default {word}")
    if absent := written.info.get("absent_classes"):
        _warn(
            f"Note: training had no sample of {absent[0]} ({len(absent)} such), or every sample had the label: a "
            "class_prior moves these logits as those of a class that was neither frequent nor rare."
        )
    _say(f"Checked on random samples: logits differ by at most {written.difference:.1e} of the largest one.")


def explore(arguments: argparse.Namespace) -> None:
    """Write a page on which you move the class mix, and see what each run is worth there, corrected."""
    from ltaug.commands._runs import find_run
    from ltaug.report import write_explorer

    page = Path(arguments.out)
    if page.is_dir():
        raise UserError(f"`--out` must be a file, such as {page / 'explore.html'}, but {page} is a folder.")
    page.parent.mkdir(parents=True, exist_ok=True)
    written = write_explorer([find_run(run) for run in arguments.runs], page, title=arguments.title)
    _say(f"Open {written} in a browser ({_size(written)}, all that it needs).")


def _compare(paths: Sequence[Path], page: Path, title: str) -> None:
    from ltaug.commands._runs import published_beside
    from ltaug.report import columns_of, results_table, write_comparison
    from ltaug.tables import published_in_words, published_numbers, run_labels, training_set

    results: dict[str, Any] = {}
    summaries = dict(zip(run_labels(paths), map(_summary, paths), strict=True))
    for (label, summary), path in zip(summaries.items(), paths, strict=True):
        if isinstance(summary.get("final"), dict):
            results[label] = summary["final"]
        else:
            _warn(f"Not in the table: {path} is not finished.")
    _say(results_table(results, columns_of(results.values())))
    if data := "; ".join(dict.fromkeys(filter(None, map(training_set, summaries.values())))):
        _say(f"\nTrained on {data}.")
    published = {
        label: published_numbers(summary, published_beside(path))
        for (label, summary), path in zip(summaries.items(), paths, strict=True)
    }
    if said := published_in_words(published):
        _say("\n".join(["", *said]))
    page.parent.mkdir(parents=True, exist_ok=True)
    _say(f"\nOpen {write_comparison(list(paths), page, title=title)} in a browser.")


def _summary(path: Path) -> dict[str, Any]:
    """A run's summary.json; empty for a run that is not finished."""
    from ltaug.run import RunFolder

    return RunFolder.open(path).summary() if (path / "summary.json").is_file() else {}


def fuse(arguments: argparse.Namespace) -> None:
    """Fuse runs of a segmentation that saw the same scenes by different sensors, and print the tables of UNO-IC."""
    import json

    from ltaug.commands._runs import find_run, published_beside
    from ltaug.commands.fuse import RunFusion
    from ltaug.report import write_fusion
    from ltaug.run import write_atomically

    page = Path(arguments.out)
    if page.suffix.lower() == ".json":
        raise UserError(
            f"--out {str(page)!r} must name a page, such as fusion.html: the numbers are written beside it."
        )
    numbers = page.with_suffix(".json") if page.suffix in (".html", ".htm") else page.with_name(f"{page.name}.json")
    folders = [find_run(run) for run in arguments.runs]
    fusion = RunFusion(folders, arguments.strength, arguments.score, arguments.from_prior)
    published = fusion.published(published_beside(folders[0]))
    _say("\n".join([fusion.text(), *([""] if published else []), *published]))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(numbers, json.dumps(fusion.plain(), indent=2) + "\n")
    _say(f"\nWritten: {numbers}\nOpen {write_fusion(fusion, page, published)} in a browser.")


def report(arguments: argparse.Namespace) -> None:
    """Write a run's report.html again."""
    from ltaug.commands._runs import find_run
    from ltaug.report import write_report

    for run in map(find_run, arguments.runs):
        _summary(run)  # a damaged one is an error here, and a remark on the page
        _say(f"Report: {write_report(run)}")


def sweep(arguments: argparse.Namespace) -> None:
    """Train every combination of settings, first stages first, and put the runs into one table.

    Stop it and start it again: finished runs are not repeated, broken ones continue. Start it several times, if you
    like: each run is trained by one of them.
    """
    from ltaug import sweeps, tables

    out, over, failed = Path(arguments.out), tuple(arguments.over.split(",")), dict[str, str]()
    if arguments.axes:
        runs = sweeps.plan_runs(arguments.script, sweeps.read_axes(arguments.axes), arguments.settings, out)
        sweeps.check_runs(arguments.script, runs)
        with sweeps.stopped_by_signals():
            failed = sweeps.train_runs(
                arguments.script,
                runs,
                out,
                parallel=arguments.parallel,
                launch=arguments.launch,
                cluster=arguments.cluster or None,
            )
    elif arguments.settings:
        raise UserError("Settings behind -- are for runs, but there are none: name some, such as method=erm,mixup.")
    published = Path(arguments.script).parent / "published.csv"
    lines = tables.read_published(published) if published.is_file() else []
    if rows := tables.collect(tables.read_summaries(out), lines, over):
        _say(f"\n{tables.write_tables(rows, out, over=over, errors=arguments.errors)}")
        _say(f"Written: {', '.join(str(path) for path in sorted(out.glob('table.*')))}")
    else:
        _warn(f"There is no finished run in {out}.")
    for name, reason in failed.items():
        _warn(f"FAILED {name}: {reason.removesuffix('.')}. Its output: {out / 'logs' / name}.log")
    if failed:
        exit_with_error(f"{len(failed)} of the runs failed. Start it again to repeat these.", 1)


def new(arguments: argparse.Namespace) -> None:
    """Copy a recipe, to make it your own, and check that the copy trains."""
    from ltaug.scripts import check_trains, copy_recipe, find_recipe

    folder = copy_recipe(arguments.recipe, arguments.folder)
    _say(f"{folder} is a copy of {find_recipe(arguments.recipe)}.")
    if not arguments.no_check:
        dataset, top1 = check_trains(folder)
        _say(f"\nIt trains: one epoch on {dataset}, which needs no files, gave {100 * top1:.1f} % top-1.")
    _say(
        f"\nMake it yours, as {folder / 'README.md'} says:\n"
        f"  {folder / 'data.py'}: what a sample is, and where samples come from\n"
        f"  {folder / 'model.py'}: the network, which ends in a linear classifier\n"
        f"train.py stays as it is. Then: python {shlex.quote(str(folder / 'train.py'))} --method unimix_bayias"
    )


def quickstart(arguments: argparse.Namespace) -> None:
    """Train some methods on handwritten digits made long-tailed, and compare them on one page; no files are needed."""
    import time

    from ltaug.scripts import find_recipe, run_script

    began, out = time.perf_counter(), Path(arguments.out)
    script, names = find_recipe("cifar_lt") / "train.py", arguments.methods.split(",")
    for name in names:
        epochs = [] if arguments.epochs is None else ["--epochs", str(arguments.epochs)]
        finished = (out / name / "summary.json").is_file()
        if finished and arguments.epochs in (None, _summary(out / name).get("epochs")):
            continue
        words = ["--protocol", "digits", "--method", name, *epochs, "--out", str(out / name), "--resume", "true"]
        run_script(script, [*words, "--report", "false"])
    # Finished runs of earlier calls stay in the table.
    paths = [*(out / name for name in names), *(path.parent for path in sorted(out.glob("*/summary.json")))]
    _say("")
    _compare(list(dict.fromkeys(paths)), out / "comparison.html", "Long-tailed digits, side by side")
    _say(f"{len(names)} methods in {time.perf_counter() - began:.0f} s.")


def push(arguments: argparse.Namespace) -> None:
    """Upload a finished run to the hub, with a card that is written from it; or write both into a folder, to read."""
    from ltaug.commands._runs import find_run
    from ltaug.hub import push_run, write_model_folder

    run, formats = find_run(arguments.run), _split(arguments.formats)
    options = {name: getattr(arguments, name) for name in ("logits", "license", "script")}
    if arguments.dry_run is not None:
        files = write_model_folder(run, arguments.dry_run, arguments.name, formats=formats, **options)
        _say(f"Nothing was uploaded. {arguments.dry_run} holds what would be: {', '.join(files)}.")
        return
    options |= {name: getattr(arguments, name) for name in ("private", "revision", "message")}
    _say(f"Pushed: {push_run(run, arguments.name, formats=formats, **options)}")
    _say(f"To use it: ltaug pull {arguments.name}, or ltaug.PriorShift.from_pretrained({arguments.name!r})")


def pull(arguments: argparse.Namespace) -> None:
    """Download a run from the hub: predict, correct and export take its folder, without its recipe."""
    from ltaug.hub import pull_run

    folder = pull_run(arguments.name, arguments.folder or arguments.name.rpartition("/")[2], arguments.revision)
    _say(f"{folder} is the run {arguments.name}; its README.md says what it is. Nothing of it was executed.")


def push_data(arguments: argparse.Namespace) -> None:
    """Make the long-tailed data set of a recipe's settings a data set of the hub, so that others use the same samples.

    Samples are copied as they are stored; with them go their class names, their places in the full set, and the hash of
    these, which runs record, too.
    """
    from ltaug import hub

    data = {"recipe": arguments.recipe, "settings": arguments.settings, "license": arguments.license}
    if arguments.dry_run is not None:
        subset = hub.write_data_folder(arguments.dry_run, arguments.name, **data)
        _say(f"{subset}\nNothing was uploaded. {arguments.dry_run} holds what would be.")
        return
    options = {name: getattr(arguments, name) for name in ("private", "revision", "message")}
    _say(f"Pushed: {hub.push_data(arguments.name, **data, **options)}")
    _say(f"To read it: datasets.load_dataset({arguments.name!r})")


def _split(text: str) -> list[str]:
    return [word for word in text.split(",") if word and word != "none"]


# --- the command line -------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with_error(f"{message}. `{self.prog} --help` explains.")


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command line, and that of each command."""
    parser = _Parser(prog="ltaug", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    parsers: dict[str, argparse.ArgumentParser] = {}

    def command(function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = inspect.getdoc(function) or ""
        name = function.__name__.replace("_", "-")
        added = commands.add_parser(name, help=text.partition("\n")[0], description=text, allow_abbrev=False)
        added.set_defaults(function=function)
        parsers[name] = added
        return added

    found = command(methods)
    found.add_argument("name", nargs="?", metavar="NAME", help="of a method to explain")

    found = command(correct)
    found.add_argument("run", metavar="RUN", help="run folder")
    found.add_argument(
        "--target_prior",
        metavar="PRIOR",
        help="correct for: uniform, train, a JSON file, or estimate, trend, center (of --unlabelled, or of the test "
        "logits themselves); default: uniform, if nothing else is asked for",
    )
    found.add_argument(
        "--unlabelled",
        metavar="PLACE",
        help="unlabelled samples of the place where the model is used, whose class mix is estimated: their logits, "
        ".npy, .npz, .safetensors or .csv; or the samples, as of `ltaug predict`, which are predicted first",
    )
    _add_reading(found)
    found.add_argument(
        "--strength",
        metavar="NUMBER",
        help="of the correction: a number, or found on held-out samples: search (IC's Algorithm 2 as printed), grid, "
        "auto (ours: of those as good as the best, the one closest to 1); default: 1",
    )
    found.add_argument(
        "--calibrate", choices=CALIBRATIONS, default="none", help="on held-out samples, before the correction"
    )
    found.add_argument(
        "--from_prior",
        metavar="PRIOR",
        help="that the logits are under: recorded (by the run), train, uniform or a JSON file (default: recorded)",
    )
    found.add_argument(
        "--preset",
        choices=PRESETS,
        help="options of a paper, each of which may be given differently: "
        + "; ".join(
            f"{name}: {' '.join(f'--{key} {value}' for key, value in PRESETS[name].items())}" for name in PRESETS
        ),
    )
    found.add_argument(
        "--folds",
        type=_at_least_two,
        metavar="N",
        help="tune on each of N parts of the test samples and test on the others, instead of on held-out samples",
    )
    found.add_argument(
        "--shifted", action="store_true", help="accuracy on LADE's eleven test sets of other class mixes"
    )

    found = command(predict)
    found.add_argument("run", metavar="RUN", help="run folder, or an exported model, .onnx or .pt2")
    found.add_argument(
        "place",
        metavar="PLACE",
        help="folder of images or sounds, a file, a parquet file or a folder of such, or OWNER/NAME on the hub",
    )
    found.add_argument(
        "--out", metavar="FOLDER", help="of the predictions (default: predictions/NAME in the run, or beside the file)"
    )
    found.add_argument(
        "--target_prior",
        metavar="PRIOR",
        help="correct for: uniform, train or a JSON file, instead of what `ltaug correct` has saved in the run",
    )
    found.add_argument(
        "--estimate",
        nargs="?",
        const="estimate",
        metavar="HOW",
        help="correct for the class mix of these very samples: estimate (the default), trend or center",
    )
    found.add_argument("--raw", action="store_true", help="leave out the correction that is saved in the run")
    _add_reading(found)
    found.add_argument("--batch_size", type=_at_least_one, metavar="N", help="samples that are computed at once")

    found = command(compare)
    found.add_argument("runs", nargs="+", metavar="RUN", help="run folders, in the order to show them")
    found.add_argument(
        "--out", type=os.path.expanduser, default="comparison.html", help="the page (default: %(default)s)"
    )
    found.add_argument("--title", default="Comparison of runs", help="its heading (default: %(default)s)")

    found = command(export)
    found.add_argument("run", metavar="RUN", help="run folder")
    found.add_argument(
        "--format", choices=("onnx", "pt2"), default="onnx", help="for onnxruntime, or for torch (default: %(default)s)"
    )
    found.add_argument(
        "--out", type=os.path.expanduser, metavar="FILE", help="default: model.onnx or model.pt2 in the run folder"
    )
    found.add_argument(
        "--from_prior",
        metavar="PRIOR",
        help="that the logits are under: recorded (by the run), train, uniform or a JSON file (default: recorded)",
    )
    found.add_argument("--raw", action="store_true", help="leave out the correction that is saved in the run")
    found.add_argument("--script", metavar="TRAIN.PY", help="of the recipe, where it is not found by itself")
    found.add_argument(
        "--input_shape",
        type=_at_least_one,
        nargs="+",
        metavar="N",
        help="shape of one sample, of a recipe of your own whose preprocessing says no kind",
    )

    found = command(explore)
    found.add_argument("runs", nargs="+", metavar="RUN", help="run folders, tested on the same samples")
    found.add_argument("--out", type=os.path.expanduser, default="explore.html", help="the page (default: %(default)s)")
    found.add_argument("--title", default="Another class mix", help="its heading (default: %(default)s)")

    found = command(fuse)
    found.add_argument("runs", nargs="+", metavar="RUN", help="run folders, one a modality")
    found.add_argument(
        "--strength", type=_not_negative, metavar="NUMBER", help="lambda; default: searched on held-out scenes"
    )
    found.add_argument(
        "--score",
        choices=("miou", "macc", "mean"),
        default="miou",
        help="what lambda is searched for: mIoU, mACC, or the mean of both (default: %(default)s)",
    )
    found.add_argument(
        "--from_prior",
        choices=("recorded", "train"),
        default="recorded",
        help="that the logits are under: recorded (by each run) or train (default: %(default)s)",
    )
    found.add_argument("--out", type=os.path.expanduser, default="fusion.html", help="the page (default: %(default)s)")

    found = command(report)
    found.add_argument("runs", nargs="+", metavar="RUN", help="run folders")

    found = command(sweep)
    found.usage = "ltaug sweep TRAIN.PY [SETTING=VALUE,VALUE ...] [options] [-- --SETTING VALUE ...]"
    found.epilog = (
        "Settings behind -- are for all runs. Those of the schedule are for first stages; --second_stage.epochs 5 and "
        "the like are for second stages. On a cluster: --cluster.partition gpu --cluster.gpus_per_node 1 ..., options "
        "of submitit and of Slurm."
    )
    found.add_argument("script", metavar="TRAIN.PY", help="what trains, such as recipes/cifar_lt/train.py")
    found.add_argument(
        "axes", nargs="*", metavar="SETTING=VALUE,VALUE", help="method=erm,mixup seed=0,1,2; none: only make the table"
    )
    found.add_argument(
        "--out", type=os.path.expanduser, default="runs/sweep", help="folder of runs and table (default: %(default)s)"
    )
    found.add_argument(
        "--parallel", type=_at_least_one, metavar="N", help="runs at once (default: 1; on a cluster, all)"
    )
    found.add_argument("--launch", default="", help="what starts a run, such as 'accelerate launch --num_processes 8'")
    found.add_argument(
        "--cluster", metavar="NAME", default=argparse.SUPPRESS, help="slurm, or local to try it; implied by its options"
    )
    found.add_argument(
        "--over", default="seed", help="settings in which the runs of a row differ (default: %(default)s)"
    )
    found.add_argument("--errors", action="store_true", help="show accuracies as errors")

    found = command(new)
    found.add_argument("folder", type=os.path.expanduser, metavar="FOLDER", help="is created")
    found.add_argument("--from", dest="recipe", required=True, metavar="RECIPE", help="cifar_lt, esc50_lt, ...")
    found.add_argument("--no_check", action="store_true", help="copy only")

    found = command(quickstart)
    found.add_argument(
        "--out", type=os.path.expanduser, default="runs/quickstart", help="folder of the runs (default: %(default)s)"
    )
    found.add_argument("--methods", default=",".join(QUICKSTART), help="default: %(default)s")
    found.add_argument("--epochs", type=_at_least_one, help="of each method; default: those of the recipe")

    def to_hub(found: argparse.ArgumentParser) -> None:
        found.add_argument("--private", action="store_true", help="create it for its owner's eyes only")
        found.add_argument("--revision", metavar="BRANCH", help="to push to, created if need be; default: main")
        found.add_argument("--message", metavar="TEXT", help="of the commit")
        found.add_argument("--license", metavar="NAME", help="that the card names, such as apache-2.0; default: none")
        found.add_argument(
            "--dry_run",
            type=os.path.expanduser,
            metavar="FOLDER",
            help="write what would be uploaded into a folder, card and all, and upload nothing",
        )

    found = command(push)
    found.add_argument("run", metavar="RUN", help="run folder")
    found.add_argument("name", metavar="OWNER/NAME", help="on the hub; is created if need be")
    to_hub(found)
    found.add_argument(
        "--formats", default="onnx", help="exported files that go along: onnx, pt2, onnx,pt2 or none (default: onnx)"
    )
    found.add_argument("--logits", action="store_true", help="those of test and held-out samples go along, too")
    found.add_argument("--script", metavar="TRAIN.PY", help="of the run's recipe, where the run does not say it")

    found = command(pull)
    found.add_argument("name", metavar="OWNER/NAME", help="on the hub")
    found.add_argument("folder", nargs="?", type=os.path.expanduser, metavar="FOLDER", help="is created; default: NAME")
    found.add_argument("--revision", metavar="NAME", help="branch, tag or commit; default: main")

    found = command(push_data)
    found.add_argument("name", metavar="OWNER/NAME", help="on the hub; is created if need be")
    found.add_argument(
        "settings",
        nargs="*",
        metavar="SETTING=VALUE",
        help="of the recipe's data: dataset=cifar100 imbalance_ratio=100",
    )
    found.add_argument("--recipe", required=True, metavar="RECIPE", help="cifar_lt, ..., or a folder of your own")
    to_hub(found)
    return parser, parsers


def _add_reading(found: argparse.ArgumentParser) -> None:
    """Add :data:`READING` and the recipe's script."""
    found.add_argument("--split", metavar="NAME", help="of parquet files or of the hub, where there are several")
    found.add_argument("--column", metavar="NAME", help="of the samples in a table (default: by its name or type)")
    found.add_argument(
        "--allow_outside", action="store_true", help="read files outside of a table's folder, too, if you trust it"
    )
    found.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: a GPU, if there is one)")
    found.add_argument(
        "--workers", type=_not_less_than_zero, metavar="N", help="processes that read (default: one a core, up to 8)"
    )
    found.add_argument("--script", metavar="TRAIN.PY", help="of the recipe, where it is not found by itself")


def _at_least_one(text: str, least: int = 1) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, but is {number}")
    return number


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 0, but is {text}")
    return number


def _not_less_than_zero(text: str) -> int:
    return _at_least_one(text, 0)


def _at_least_two(text: str) -> int:
    return _at_least_one(text, 2)


def _for_sweep(words: list[str]) -> tuple[list[str], list[str], dict[str, Any]]:
    """Split the words of a sweep: its own, those of the runs (behind ``--``), and options of a cluster."""
    import yaml

    behind = words.index("--") if "--" in words else len(words)
    own, cluster = [], dict[str, Any]()
    left = iter(words[:behind])
    for word in left:
        name, equals, value = word.partition("=")
        if name.startswith("--cluster"):
            key = name.removeprefix("--cluster").removeprefix(".") or "cluster"
            cluster[key] = yaml.safe_load(value if equals else next(left, ""))
        else:
            own.append(word)
    return own, words[behind + 1 :], cluster


def main(words: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        words: by default those of the program.
    """
    words = list(sys.argv[1:] if words is None else words)
    parser, commands = _parsers()
    if words and not words[0].startswith("-") and words[0] not in commands:
        hint = did_you_mean(words[0], commands) or "; `ltaug --help` lists them."
        exit_with_error(f"there is no command {words[0]!r}{hint}")
    if words[:1] == ["push-data"]:
        arguments = commands["push-data"].parse_intermixed_args(words[1:], argparse.Namespace(version=False))
    elif words[:1] == ["sweep"]:
        words, settings, cluster = _for_sweep(words)
        given = argparse.Namespace(settings=settings, cluster=cluster, version=False)
        arguments = commands["sweep"].parse_intermixed_args(words[1:], given)  # settings may stand behind options
    else:
        arguments = parser.parse_args(words)
    if arguments.version:
        from ltaug import __version__

        _say(f"ltaug {__version__}")
    elif not hasattr(arguments, "function"):
        parser.print_help()
    else:
        with one_line_errors("Finished runs are intact; the same command continues the others."):
            one_process()
            arguments.function(arguments)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _size(path: Path) -> str:
    """Of a file, for a reader: '2.7 MB', '38 kB'."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
