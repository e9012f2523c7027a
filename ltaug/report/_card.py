"""The card of a finished run: what whoever finds the model elsewhere has to know, as Markdown with figures."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from ltaug import plots
from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.priors import shot_groups
from ltaug.report._format import METRICS, OF_LABELS, PIXEL_COLUMNS, as_number, count, duration, metric
from ltaug.report._record import Record
from ltaug.run import write_atomically
from ltaug.tables import parameters_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_DPI = 130
"""Of figures that stand across half of a page: the hub shows them by their pixels."""
TABLED_CLASSES = 50
"""Classes that the card lists; more stand in per_class.csv."""
RAW = {
    "small_images": "uint8 images [N, H, W, C] of {size}",
    "images": "uint8 images [N, H, W, 3] of any size",
    "sounds": "float32 waveforms [N, T] from -1 to 1 at {sample_rate:,} Hz",
    "scenes": "uint8 pictures [N, H, W, 3] of any size",
    "depth": "float32 depths in metres [N, H, W] of any size",
}
"""What raw input is, by the kind of a run's preprocessing."""
TASKS = {
    "small_images": "image-classification",
    "images": "image-classification",
    "sounds": "audio-classification",
    "scenes": "image-segmentation",
}
"""The hub's names of tasks, likewise."""
SOURCES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "esc10": "ashraq/esc50",
    "esc50": "ashraq/esc50",
    "imagenet_lt": "ILSVRC/imagenet-1k",
}
"""Data sets of the hub, by the recipes' names of what they take from them."""
RESULTS = {
    "top1": ("accuracy", "top-1 accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "many": ("accuracy", "many-shot accuracy"),
    "medium": ("accuracy", "medium-shot accuracy"),
    "few": ("accuracy", "few-shot accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "ece": ("ece", "expected calibration error"),
    "miou": ("mean_iou", "mIoU"),
    "macc": ("mean_accuracy", "mACC"),
    "map": ("mean_average_precision", "mAP"),
}
"""Metrics that the hub shows beside a model: its names of them, and ours."""


def write_card(
    run_dir: Path, folder: Path, repo_id: str, *, license: str | None = None, files: Sequence[str] = (), url: str = ""
) -> Path:
    """Write a run's card, README.md, and its figures into a folder.

    Args:
        run_dir: a finished run.
        folder: where they are written.
        repo_id: OWNER/NAME that the model is to have.
        license: the hub's name of a licence, such as apache-2.0.
        files: names of the files that lie beside the card: what it can say of their use depends on them.
        url: where the hub's web site is.

    Raises:
        UserError: the run is not finished.
    """
    run = Record(run_dir)
    info = run.folder.info() if run.finished and (run_dir / "ltaug.json").is_file() else {}
    counts = run.class_counts
    if not info or counts is None:
        raise UserError(
            f"`{run_dir}` is not finished: it has no {'ltaug.json' if run.finished else 'summary.json'} yet. Wait for "
            "the end of its training, or resume it."
        )
    figures = {
        name: text
        for name, text, draw in _figures(run, counts)
        if _drawn(draw, folder / f"{name}.png", obliged=name == "counts")
    }
    words = _words(run, counts, info, repo_id, files, figures)
    card = f"---\n{_metadata(run, info, repo_id, license, words['task'])}\n---\n{_template('card.md.j2').render(words)}"
    write_atomically(folder / "README.md", card)
    return folder / "README.md"


def write_data_card(folder: Path, metadata: str, subset: Mapping[str, Any], shared: Any) -> Path:
    """Write the card of a long-tailed data set, README.md, and its figure into a folder.

    Args:
        folder: where they are written.
        metadata: YAML for the hub.
        subset: what was taken, the fields of :class:`ltaug.hub._data.Subset`.
        shared: its :class:`~ltaug.loaders.sharing.SharedData`.
    """
    counts, names = torch.tensor(subset["class_counts"]), list(subset["class_names"])
    several = shared.splits["train"].labels.ndim > 1
    _drawn(lambda: plots.class_counts(counts, class_names=names, several=several), folder / "counts.png", obliged=True)
    least = int(counts.min())
    order = torch.argsort(counts, descending=True, stable=True).tolist()[:TABLED_CLASSES]
    words = {
        **subset,
        "settings": {name: value for name, value in subset["settings"].items() if value is not None},
        "media": shared.media,
        "columns": shared.columns,
        "several": several,
        "natural": subset["settings"].get("profile") == "natural",
        "most": int(counts.max()),
        "least": least,
        "ratio": f"{int(counts.max()) / least:,.4g}" if least else "",
        "groups": {name: int(mask.sum()) for name, mask in shot_groups(counts).items()},
        "table": [(text(names[k]), int(counts[k])) for k in order],
    }
    write_atomically(folder / "README.md", f"---\n{metadata}---\n{_template('data_card.md.j2').render(words)}")
    return folder / "README.md"


def _template(name: str) -> Any:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, in which `text` escapes what comes from data
    )
    found.filters |= {"count": count, "text": text}
    return found.get_template(name)


def text(value: object) -> str:
    r"""A name as Markdown shows it, also in a table: nothing in it makes a link, a tag or a cell.

    >>> print(text("a|b <i> [x](y)"))
    a\|b &lt;i&gt; \[x\](y)
    """
    one_line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]#~])", r"\\\1", one_line)


# -- what the card says ------------------------------------------------------------------------------------------------


def _words(
    run: Record, counts: Tensor, info: Mapping[str, Any], repo_id: str, files: Sequence[str], figures: Mapping[str, str]
) -> dict[str, Any]:
    preprocessing = info.get("preprocessing") or {}
    kind = _kind(run, preprocessing)
    names, final = [str(name) for name in info["class_names"]], run.final
    method = str(run.summary.get("method") or "")
    least = int(counts.min())
    labels = run.logits[1] if run.logits is not None else None
    pixels = "miou" in final
    unit = "pixels" if pixels else "samples"
    meanings = OF_LABELS if run.several else {key: METRICS[key] for key in PIXEL_COLUMNS} if pixels else METRICS
    return {
        "repo_id": repo_id,
        "run": run,
        "task": TASKS.get(kind),
        "raw": _raw(kind, preprocessing),
        "files": files,
        "timm": "config.json" in files,
        "method": method,
        "pixels": pixels,
        "unit": unit,
        "paper": METHODS[method].paper if method in METHODS else "",
        "classes": len(names),
        "samples": int(counts.sum()),
        "most": int(counts.max()),
        "least": least,
        "ratio": f"{int(counts.max()) / least:,.4g}" if least else "",
        "groups": {name: int(mask.sum()) for name, mask in shot_groups(counts).items()},
        "parameters": parameters_in_words(number) if (number := as_number(run.summary.get("parameters"))) else "",
        "uniform": _is_uniform(info.get("logits_prior")),
        "prior": _prior(info.get("logits_prior"), counts, names, unit),
        "prior_reason": str(info.get("logits_prior_reason") or ""),
        "metrics": [
            (meanings[key][0], metric(final[key], key), meanings[key][1].replace("samples", unit))
            for key in meanings
            if as_number(final.get(key)) is not None
        ],
        "test": _test(labels, final, run.several, names),
        "table": _table(run, names, counts),
        "facts": _facts(run),
        "command": shared_command(run.command),
        "correction": _correction(run.path) if "correction.json" in files else None,
        "held_out": str(info.get("held_out") or ""),
        "figures": {"counts": "", "accuracy": "", "reliability": "", **figures},
        "packages": run.environment.get("packages") or {},
    }


def _kind(run: Record, preprocessing: Mapping[str, Any]) -> str:
    """The kind of a run's preprocessing; of runs that do not say it yet, as far as it can be told."""
    if "kind" in preprocessing:
        return str(preprocessing["kind"])
    if "miou" in run.final:
        return "scenes"
    return "sounds" if "sample_rate" in preprocessing else ""


def _raw(kind: str, preprocessing: Mapping[str, Any]) -> str:
    """What raw input is; empty where the run does not say."""
    kind = "depth" if kind == "scenes" and preprocessing.get("modality") == "depth" else kind
    size = " x ".join(map(str, preprocessing.get("size") or ())) if kind == "small_images" else ""
    try:
        return RAW.get(kind, "").format(
            **{"size": size or "the size that it was trained on", **_no_size(preprocessing)}
        )
    except (KeyError, ValueError):
        return ""


def _no_size(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in preprocessing.items() if key != "size"}


def _is_uniform(given: Sequence[float] | None) -> bool:
    return given is not None and max(given) - min(given) <= 1e-3 * max(given)


def _correction(path: Path) -> tuple[str, bool]:
    """What a run's saved correction does, in words, and whether it calibrates."""
    from ltaug.correction import Correction

    found = Correction.load(path)
    steps = [] if found.calibrator is None else [f"it calibrates ({type(found.calibrator).__name__})"]
    if (target := found.target) is not None:
        even = target.ndim == 1 and _is_uniform(target.tolist())
        where = "the uniform prior" if even else "a prior of its own (`target` in the file)"
        steps.append(f"it shifts from the prior that the logits are under to {where}, at strength {found.strength:g}")
    return ", then ".join(steps) or "it leaves the logits as they are", found.calibrator is not None


def _prior(given: Sequence[float] | None, counts: Tensor, names: Sequence[str], unit: str) -> str:
    """Which prior the logits are under, in words; empty where they are under none."""
    if given is None:
        return ""
    prior = torch.tensor(given, dtype=torch.float64)
    if prior.shape != counts.shape:
        return ""
    prior = prior / prior.sum()
    if _is_uniform(given):
        return "the **uniform prior**: every class counts alike"
    high, low = int(prior.argmax()), int(prior.argmin())
    ends = f"from {100 * prior[high]:.3g} % ({text(names[high])}) to {100 * prior[low]:.3g} % ({text(names[low])})"
    if torch.allclose(prior, counts.double() / counts.sum(), rtol=1e-2):
        return f"the **training prior**: the shares of the training {unit}, {ends}"
    return f"a **prior of their own**, {ends}"


def _test(labels: Tensor | None, final: Mapping[str, Any], several: bool, names: Sequence[str]) -> dict[str, Any]:
    """Size and class mix of the test set, and how far chance moves its accuracy; of scenes what is kept of it."""
    if labels is None or several or "miou" in final:
        return {"samples": None if labels is None else len(labels), "balanced": None, "error": None}
    found = torch.bincount(labels, minlength=len(names))
    top1 = as_number(final.get("top1"))
    error = None if top1 is None else 100 * math.sqrt(top1 * (1 - top1) / len(labels))
    return {
        "samples": len(labels),
        "balanced": bool((found == found[0]).all()),
        "error": f"{error:.1f}" if error is not None else None,
    }


def _table(run: Record, names: Sequence[str], counts: Tensor) -> list[tuple[str, int, str]]:
    accuracy = run.accuracy
    shown = ["–" if accuracy is None else metric(float(value)) for value in (counts if accuracy is None else accuracy)]
    order = torch.argsort(counts, descending=True, stable=True).tolist()[:TABLED_CLASSES]
    return [(text(names[k]), int(counts[k]), shown[k]) for k in order]


def _facts(run: Record) -> list[tuple[str, str]]:
    """How the run was made, as pairs of a word and what it was."""
    summary, hashes = run.summary, run.fingerprint
    environment, settings = run.environment, run.config
    system = ", ".join(str(environment[key]) for key in ("accelerator", "processor", "system") if environment.get(key))
    git = environment.get("git") or {}
    precision = str(summary.get("precision") or "")
    commit = str(git.get("commit") or "")[:12]
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("packages") or {}).items())
    data = run.training_set + (f", {settings['profile']} profile" if settings.get("profile") else "")
    rows = [
        ("data", text(data)),
        (
            "training subset",
            f"SHA-256 of its indices `{hashes['training_indices']}`" if "training_indices" in hashes else "",
        ),
        ("test labels", f"SHA-256 `{hashes['test_labels']}`" if "test_labels" in hashes else ""),
        ("network", text(summary.get("model") or "")),
        ("epochs", str(summary.get("epochs", ""))),
        ("seed", str(summary.get("seed", ""))),
        ("first stage", text(summary.get("first_stage") or "")),
        ("time", duration(summary.get("wall_time_s"))),
        (
            "hardware",
            text(system) + (f", {processes} processes" if (processes := summary.get("num_processes") or 1) > 1 else ""),
        ),
        ("precision", text({"no": "float32"}.get(precision, precision))),
        ("versions", text(versions)),
        (
            "code",
            f"commit `{commit}`{'' if git.get('clean') else ', with changes that are not in it'}" if commit else "",
        ),
    ]
    return [(word, value) for word, value in rows if value]


def shared_command(command: str) -> str:
    """The last command line of a run, without the places of one machine.

    >>> shared_command("python /place/of/ada/ltaug/recipes/cifar_lt/train.py --seed 1 --out /place/of/ada/runs/one")
    'python recipes/cifar_lt/train.py --seed 1 --out one'
    """
    lines = command.strip().splitlines()
    try:
        return shlex.join(shared_path(word) for word in shlex.split(lines[-1])) if lines else ""
    except ValueError:
        return ""


def shared_path(word: str) -> str:
    """A word of a command or a value of a setting; of a path on this machine the end that means something elsewhere."""
    flag, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    parts = re.split(r"[/\\]", value)
    if not (parts[0] in ("", "~", "..") or re.fullmatch("[A-Za-z]:", parts[0])) or len(parts) < 2:
        return word
    return flag + equals + "/".join(parts[-3:] if value.endswith(".py") else [p for p in parts if p][-1:])


# -- what the hub shows beside it --------------------------------------------------------------------------------------


def _metadata(run: Record, info: Mapping[str, Any], repo_id: str, license: str | None, task: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    settings, final = run.config, run.final
    data = str(run.summary.get("data") or settings.get("dataset") or "unknown")
    source = settings.get("hub_id") or SOURCES.get(str(settings.get("dataset")))
    shown = (
        RESULTS
        if not run.several
        else {key: ("mean_average_precision", OF_LABELS[key][0]) for key in ("map", "many", "medium", "few")}
    )
    if "miou" in final:
        shown = {key: RESULTS[key] for key in ("miou", "macc")}
    scored = [(key, value) for key in shown if (value := as_number(final.get(key))) is not None]
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=source or re.sub(r"[^\w.-]+", "-", data),
            dataset_name=run.training_set or data,
            dataset_split="test",
            metric_type=shown[key][0],
            metric_name=shown[key][1],
            metric_value=round(value, 6),
        )
        for key, value in scored
    ]
    tags = ["long-tailed", "class-imbalance", "ltaug", str(run.summary.get("method") or "")]
    tags += ["timm"] if _is_of_timm(run.path) else []
    card = ModelCardData(
        license=license,
        library_name="ltaug",
        pipeline_tag=task,
        tags=list(dict.fromkeys(filter(None, tags))),
        datasets=[source] if source else None,
        metrics=list(dict.fromkeys(shown[key][0] for key, _ in scored)) or None,
        eval_results=results or None,
        model_name=repo_id.partition("/")[2],
    )
    return str(card.to_yaml())


def _is_of_timm(path: Path) -> bool:
    return (path / "config.json").is_file()


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(run: Record, counts: Tensor) -> list[tuple[str, str, Callable[[], Figure]]]:
    """Names of the figures, what they show for those who do not see them, and what draws them."""
    names, several = run.class_names, run.several
    found: list[tuple[str, str, Callable[[], Figure]]] = []
    pixels, accuracy = "miou" in run.final, run.accuracy
    if not pixels:  # which have no shot groups
        alt = "Training samples of every class, the most frequent one first, on a logarithmic axis"
        found.append(("counts", alt, lambda: plots.class_counts(counts, class_names=names, several=several)))
    if accuracy is not None and pixels:
        alt = "Accuracy of every class, from the one with most training pixels on"
        method = str(run.summary.get("method") or "accuracy")
        found.append(("accuracy", alt, lambda: plots.accuracy_by_pixel_share({method: accuracy}, counts, names)))
    elif accuracy is not None:
        draw: Callable[..., Figure] = plots.per_label_precision if several else plots.per_class_accuracy
        words = {"label_names" if several else "class_names": names}
        found.append(
            ("accuracy", "Test result of every class, in the same order", lambda: draw(accuracy, counts, **words))
        )
    if run.logits is not None:
        logits, labels = run.logits
        alt = "How often the model is right, by the probability that it gives"
        if several:
            found.append(("reliability", alt, lambda: plots.labelwise_reliability(logits.sigmoid(), labels, counts)))
        else:
            found.append(("reliability", alt, lambda: plots.reliability_diagram(logits.softmax(1), labels)))
    return found


def _drawn(draw: Callable[[], Figure], path: Path, obliged: bool) -> bool:
    """Draw a figure into a file; False where it cannot be drawn from this run."""
    try:
        draw().savefig(path, format="png", dpi=FIGURE_DPI, facecolor="white")
    except (ValueError, RuntimeError):
        if obliged:
            raise
        return False
    return True
