"""The page to play with: runs under any class mix, computed in the browser from their quantised test logits."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from ltaug.errors import UserError, as_user_errors
from ltaug.longtail import subsample
from ltaug.posthoc.shift import check_finite
from ltaug.priors import class_counts, shot_groups
from ltaug.report import _pages
from ltaug.run import RunFolder, write_atomically
from ltaug.tables import run_labels, training_set

MOST_SAMPLES, MOST_LOGITS = 10_000, 10**7
"""Of a run on a page: a logit takes 2.7 bytes of it, and a few nanoseconds whenever something is moved."""
REACH = 100.0
"""How far below the largest logit of a row one may lie; e^-100 is nothing, and a mask of -1e4 spoils no steps."""
LEVELS = 2**16 - 1


def write_explorer(
    run_dirs: Iterable[str | os.PathLike[str]], path: str | os.PathLike[str], title: str = "Another class mix"
) -> Path:
    r"""Write one HTML page to play with: what finished runs would be worth where the classes have other frequencies.

    On the page one moves the class mix of the deployment and the strength of the correction, and sees accuracy,
    calibration and confusions of every run at once. The mix is m, class y has n_y test samples, and of these k_y are
    right after the logits, divided by a temperature, are corrected as :func:`ltaug.shift_logits` does. Then

    .. math:: accuracy = \sum_y m_y \frac{k_y}{n_y}, \qquad
        noise^2 = \sum_y m_y^2 \frac{p_y (1 - p_y)}{n_y}, \quad p_y = \frac{k_y + 1}{n_y + 2}

    The noise is the standard error for the test samples of every class being drawn at random; p_y, Laplace's estimate,
    keeps it above 0 for a class whose few samples are all right. Samples of the ECE (15 bins) weigh m_y / n_y. The page
    carries the logits in steps of 1 / 65,535 of their largest distance from the maximum of their row, or of 100 where
    that is less; all of 100 classes and 10,000 samples take 2.7 MB. Of more than 10,000 samples, or 10 million logits a
    run, it carries as even a share of every class as can be, and says so.

    Args:
        run_dirs: folders of finished runs, in the order to show them, tested on the same samples.
        path: the page to write. It loads nothing; its script is its own.
        title: its heading.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: a folder, or its ``logits.safetensors``, is not there.
        UserError: no folder is given; a run has several labels a sample, no class names or counts, or logits that are
            not finite; the runs differ in their test samples or class counts; or there are too many classes.
    """
    data = explorer_data([Path(run_dir) for run_dir in run_dirs])
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    for sign in "<>&":  # inside a script element only these could end it
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    page = _pages._templates().get_template("explorer.html.j2")
    path = Path(path)
    write_atomically(path, page.render(title=title, data=data, json=Markup(text)))
    return path


def explorer_data(folders: list[Path]) -> dict[str, Any]:
    """What the page computes from: the classes and their test samples, which the runs share, and the logits of each.

    Samples stand class after class, so that ``tested``, samples a class, says their labels.
    """
    if not folders:
        raise UserError("`run_dirs` is empty. Pass at least one run folder.")
    runs = [_read(folder) for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        for key, what in (("class_names", "classes"), ("class_counts", "class counts"), ("labels", "test samples")):
            if not _equal(first[key], run[key]):
                raise UserError(
                    f"`{run['folder']}` and `{first['folder']}` have different {what}, so that one page cannot have "
                    "both. Make a page for each."
                )
    labels, counts = first["labels"], torch.as_tensor(first["class_counts"])
    tested = class_counts(labels, len(counts))
    rows = _rows(labels, tested)
    with as_user_errors():  # the counts are read from a file
        groups = {name: mask.nonzero().flatten().tolist() for name, mask in shot_groups(counts).items()}
    return {
        "classes": first["class_names"],
        "train": counts.tolist(),
        "test": tested.tolist(),
        "tested": class_counts(labels[rows], len(counts)).tolist(),
        "groups": {name: members for name, members in groups.items() if members},
        "data": first["data"],
        "runs": [
            {"name": name, "prior": run["prior"], "expects": run["expects"], **quantised(run["logits"][rows])}
            for name, run in zip(run_labels(folders), runs, strict=True)
        ],
    }


def quantised(logits: Tensor) -> dict[str, Any]:
    """Logits [N, C] as distances from the largest one of their row, in steps of ``step``, uint16 in base64."""
    below = (logits.amax(1, keepdim=True) - logits).double().clamp(max=REACH)
    step = float(below.max()) / LEVELS or 1.0
    levels = (below / step).round().numpy().astype("<u2")
    return {"step": step, "logits": base64.b64encode(levels.tobytes()).decode()}


def _read(folder: Path) -> dict[str, Any]:
    """What the page needs of a run."""
    run = RunFolder.open(folder)
    logits, labels = run.load_logits()
    if labels.ndim > 1:
        raise UserError(
            f"`{folder}` has several labels a sample, but this page is about classes that exclude each other. "
            "`ltaug.shift_binary_logits` corrects its logits."
        )
    info, summary = (
        read() if (folder / name).is_file() else {}
        for name, read in (("ltaug.json", run.info), ("summary.json", run.summary))
    )
    found: list[list[Any]] = []
    for key in ("class_names", "class_counts"):
        values = info.get(key) or summary.get(key)
        if not isinstance(values, list) or len(values) != logits.shape[1]:
            raise UserError(
                f"`{folder}` has logits of {logits.shape[1]} classes, but no `{key}` of as many in its ltaug.json. "
                "Write them there, or train the run to its end."
            )
        found.append(values)
    names, counts = found
    for count in counts:  # a page's numbers hold whole ones to 2**53
        if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count <= 2**53 or count % 1:
            raise UserError(
                f"`{folder}` must have numbers of training samples as `class_counts` in its ltaug.json, whole and from "
                f"0, but has {count!r:.60}."
            )
    counts = [int(count) for count in counts]
    try:
        check_finite(logits)
    except ValueError as error:
        raise UserError(f"`{folder}`: {error}") from error
    prior = _prior(folder, info, len(counts))
    return {
        "folder": folder,
        "logits": logits,
        "labels": labels,
        "class_names": [str(name) for name in names],
        "class_counts": counts,
        "prior": prior,
        "expects": _in_words(prior, names, str(info.get("logits_prior_reason") or "").removesuffix(".")),
        "data": training_set({**summary, "class_counts": counts}),
    }


def _prior(folder: Path, info: Mapping[str, Any], size: int) -> list[float] | None:
    """The prior that a run recorded for its logits; None where it did not."""
    prior = info.get("logits_prior")
    if prior is None:
        return None
    values = prior if isinstance(prior, list) else []
    numbers = [value for value in values if isinstance(value, int | float) and 0 < value <= 1e300]
    if len(values) != size or len(numbers) != size or not math.isfinite(sum(numbers)):
        raise UserError(
            f"`{folder}` must have a positive number, of a sum that is finite, for each of its {size} classes "
            f"as `logits_prior` in its ltaug.json, but has {prior!r:.200}."
        )
    return [value / sum(numbers) for value in numbers]


def _in_words(prior: list[float] | None, names: list[str], reason: str) -> str:
    """What a run expects, and why."""
    if prior is None:
        return f"not recorded{reason and f' ({reason})'}, so that it is not corrected until you choose something"
    high, low = max(prior), min(prior)
    top, bottom = names[prior.index(high)], names[prior.index(low)]
    ends = f"from {100 * high:.3g} % ({top}) to {100 * low:.3g} % ({bottom})"
    return (ends if high - low > 1e-6 * high else "every class alike") + (reason and f": {reason}")


def _rows(labels: Tensor, tested: Tensor) -> Tensor:
    """Test samples that the page carries, class after class: all, or as even a share of each class as can be."""
    most = min(MOST_SAMPLES, MOST_LOGITS // len(tested))
    if len(labels) <= most:
        return labels.argsort(stable=True)
    if int((tested > 0).sum()) > most:
        raise UserError(
            f"A page carries at most {MOST_LOGITS:,} logits a run, which of {len(tested):,} classes is less than a "
            "sample each. `ltaug correct` has no such limit."
        )
    share = (tested * most // len(labels)).clamp(min=1).minimum(tested)
    return subsample(labels, share)


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
