"""What the named methods are made of, as text: the command `ltaug methods`."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ltaug.errors import UserError, did_you_mean
from ltaug.methods import METHODS, PUBLISHED, Method

__all__ = ["describe_method", "methods_table"]

CHOICES = ("sampler", "mixer", "loss", "classifier", "class_weights")
"""Settings whose values have settings of their own."""


def methods_table() -> str:
    """All methods, with what differs from plain training in each, how many labels a sample may have, and by whom."""
    rows = [("method", "what differs from plain training", "labels", "published by")]
    for name, method in METHODS.items():
        changes = ", ".join(f"{key} {_plain(value)}" for key, value in method.changes().items())
        rows.append((name, changes or "nothing", labels_of(method), method.paper.partition(",")[0]))
    return _aligned(rows, width=80)


def labels_of(method: Method) -> str:
    """How many labels a sample may have for a method: one, several or either."""
    return {(True, True): "any", (True, False): "one", (False, True): "several"}[
        method.single_label, method.multi_label
    ]


def describe_method(name: str) -> str:
    """A method's settings with their meaning, its paper, and what is published for single data sets.

    Raises:
        UserError: there is no such method.
    """
    if name not in METHODS:
        hint = did_you_mean(name, METHODS) or f". There are: {', '.join(METHODS)}."
        raise UserError(f"there is no method {name!r}{hint}")
    method, default, meaning = METHODS[name], Method(), dict(_attribute_docs(Method))
    changes = method.changes()
    chosen = {changes[key] for key in CHOICES if key in changes}
    # Beside what differs, the settings of what was chosen: their meaning begins with the names of their owners.
    shown = [key for key, text in meaning.items() if key in changes or chosen & set(text.partition(":")[0].split(", "))]
    rows = [("setting", "value", "default", "meaning")]
    rows += [(key, _plain(getattr(method, key)), _plain(getattr(default, key)), meaning[key]) for key in shown]
    lines = [name, *textwrap.wrap(method.paper, 110, initial_indent="  ", subsequent_indent="  "), ""]
    lines.append(_aligned(rows, width=80) if shown else "No setting differs from plain training.")
    special = [
        f"  {', '.join(datasets)}{'' if ratio is None else f', imbalance ratio {ratio:g}'}: "
        + ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())
        for names, datasets, ratio, settings in PUBLISHED
        if name in names
    ]
    if fault := method.multi_label_fault():
        lines += ["", f"For one class a sample: {fault}."]
    else:
        lines += [
            "",
            f"For {'one class a sample, or several labels' if method.single_label else 'several labels a sample'}.",
        ]
    if special:
        lines += ["", "Published for single data sets, and taken there by default:", *special]
    if method.first_stage:
        lines += [
            "",
            f"A second stage: --method {name} --from_run RUN, where RUN was trained with {method.first_stage}.",
        ]
    choices = [
        (f"  {key}", ", ".join(get_args(kind)))
        for key, kind in get_type_hints(Method).items()
        if get_origin(kind) is Literal
    ]
    lines += ["", "Any setting can be changed, such as --set.alpha 0.5. Those with names as values take:"]
    return "\n".join([*lines, _aligned(choices, width=120)])


def _attribute_docs(kind: type) -> Iterator[tuple[str, str]]:
    """Names of a dataclass's fields, and the strings below them."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    for field, text in itertools.pairwise(tree.body if isinstance(tree, ast.ClassDef) else []):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            yield field.target.id, " ".join(str(ast.literal_eval(text.value)).split())


def _aligned(rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns below each other, the cells wrapped at a width."""
    sizes = [min(max(len(row[k]) for row in rows), width) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, sizes, strict=True)]
        lines += [
            "  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip()
            for line in itertools.zip_longest(*cells, fillvalue="")
        ]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) or "–" if isinstance(value, tuple) else str(value)
