"""Settings of a training script: a dataclass filled from YAML files and a command line.

Needs jsonargparse, which the extra ``recipes`` installs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from ltaug.errors import UserError, as_user_errors, did_you_mean, exit_with_error, one_line_errors, one_process
from ltaug.run import load_yaml

__all__ = [
    "AtLeastOne",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Ratio",
    "Share",
    "UserError",
    "as_user_errors",
    "check_tracker",
    "did_you_mean",
    "exit_with_error",
    "one_line_errors",
    "one_process",
    "parse_settings",
    "peek",
    "read_settings",
]

T = TypeVar("T")
Source = str | Path | Mapping[str, Any]

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    PositiveFloat = float
    NonNegativeFloat = float
    Share = float
    AtLeastOne = float
    Ratio = float
else:
    from jsonargparse.typing import ClosedUnitInterval as Share
    from jsonargparse.typing import (
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
        register_type,
        restricted_number_type,
    )

    AtLeastOne = restricted_number_type("AtLeastOne", float, (">=", 1), docstring="A number from 1.")

    class Ratio(float):
        """An imbalance ratio, largest over smallest class, from 1."""

        def __new__(cls, value: Any) -> Ratio:
            """Check a value."""
            ratio = super().__new__(cls, value)
            if not ratio >= 1:
                raise ValueError(f"it must be at least 1, but is {ratio:g}.")
            return ratio

    register_type(Ratio, serializer=float)

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    PositiveInt: "an integer from 1",
    NonNegativeInt: "an integer from 0",
    PositiveFloat: "a number above 0",
    NonNegativeFloat: "a number from 0",
    Share: "a number in 0..1",
    AtLeastOne: "a number from 1",
    Ratio: "at least 1, the largest class over the smallest",
}
"""What the settings of a type take."""


def parse_settings(
    kind: type[T],
    arguments: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    configs: Iterable[Source] = (),
) -> T:
    """Fill a dataclass from defaults, YAML files and the words of a command line; each wins over those before it.

    The order: the dataclass's own defaults, ``defaults``, ``configs``, the files of ``--config FILE``, and all other
    words, ``--setting value``. A mapping takes values of its keys, ``--set.alpha 0.5``.

    Args:
        kind: a dataclass; the string below an attribute is its help text. A range is a type, such as
            ``epochs: PositiveInt`` or ``decay_at: list[Share]``. It is checked here, not where the dataclass is made in
            Python.
        arguments: words; by default those of the program.
        defaults: values that replace the dataclass's own, such as those of another run.
        configs: YAML files of ``setting: value`` lines, or mappings.

    Raises:
        UserError: a setting does not exist, or has another type or range; a file cannot be read; or the dataclass's
            ``__post_init__`` raises a ValueError.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Config:
    ...     lr: float = 0.1
    ...     epochs: int = 5
    >>> parse_settings(Config, ["--lr", "0.2"], defaults={"epochs": 9})
    Config(lr=0.2, epochs=9)
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # jsonargparse looks up names in annotations in the modules of the class and of each first base alone, and takes
    # values of any type where it misses one.
    kind.__init__.__annotations__ = {"return": None, **get_type_hints(kind)}
    parser = ArgumentParser(description=kind.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; of several, the later ones win")
    parser.add_class_arguments(kind)
    words, files = _without_configs(sys.argv[1:] if arguments is None else arguments)
    for source in (defaults or {}, *configs, *files):
        values = dict(source) if isinstance(source, Mapping) else read_settings(source)
        where = "" if isinstance(source, Mapping) else f"`{source}`: "
        _check_names(kind, values, where)
        try:
            parser.set_defaults(parser.parse_object(values, defaults=False).as_dict())
        except (ArgumentError, TypeError) as error:
            raise UserError(where + _wrong_value(kind, values.items(), error)) from error
        _check_nulls(kind, values, where)
    given = [(name, value) for name, value in _options(words) if not name.startswith(("help", "print_config"))]
    _check_names(kind, [name.partition(".")[0].rstrip("+") for name, _ in given], "", dashes="--")
    try:
        found = parser.parse_args(list(words)).as_dict()
    except ArgumentError as error:
        raise UserError(_wrong_value(kind, given, error)) from error
    del found["config"]
    _check_nulls(kind, found)
    with as_user_errors():
        return kind(**_built_in(found))


def peek(arguments: Sequence[str] | None, name: str, default: str | None = None) -> str | None:
    """One setting's value before all are parsed: the last ``--name value``, else that of the last ``--config`` with it.

    Args:
        arguments: words; None: those of the program.
        name: of the setting.
        default: where it is not given.

    >>> peek(["--method", "erm", "--method=mislas"], "method")
    'mislas'
    """
    words, files = _without_configs(sys.argv[1:] if arguments is None else arguments)
    in_files = [values[name] for values in map(read_settings, files) if values.get(name) is not None]
    in_words = [value for key, value in _options(words) if key == name and value is not None]
    found = [*in_files, *in_words]
    return str(found[-1]) if found else default


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of ``setting: value`` lines.

    Raises:
        UserError: the file does not exist, or holds something else; a similar name beside it is suggested.
    """
    file = Path(path)
    if not file.is_file():
        known = sorted(each.stem for each in file.parent.glob("*.yaml"))
        listed = f" There are: {', '.join(known)}." if known else ""
        raise UserError(f"`{file}` is no file{did_you_mean(file.stem, known) or '.'}{listed}")
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"`{file}` is not readable as YAML: {error}.") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"`{file}` must hold `setting: value` lines, but holds {found}.")
    return values


def check_tracker(log_with: str | None) -> None:
    """Raise a UserError if a tracker of accelerate is not installed; accelerate itself ignores it silently.

    >>> check_tracker("abacus")
    Traceback (most recent call last):
    ltaug.errors.UserError: `log_with` is 'abacus', but the trackers installed here are: ...
    """
    if log_with is None:
        return
    from accelerate.tracking import get_available_trackers

    trackers = [str(tracker) for tracker in get_available_trackers()]
    if log_with not in ("all", *trackers):
        raise UserError(
            f"`log_with` is {log_with!r}, but the trackers installed here are: {', '.join(trackers) or 'none'}. "
            "Install its package, or leave the setting out: metrics.jsonl has the same rows."
        )


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Names and values of ``--name value`` and ``--name=value``."""
    for place, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            behind = [each for each in words[place + 1 : place + 2] if not each.startswith("--")]
            yield name, value if equals else behind[0] if behind else None


def _without_configs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words but for ``--config FILE``, and these files."""
    words, files = [], []
    left = iter(arguments)
    for word in left:
        name, equals, value = word.partition("=")
        if name != "--config":
            words.append(word)
        elif file := value if equals else next(left, ""):
            files.append(file)
        else:
            raise UserError("`--config` needs a file.")
    return words, files


def _check_names(kind: type, names: Iterable[str], where: str, dashes: str = "") -> None:
    known = [item.name for item in fields(kind)]
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known) or "; --help lists the settings."
            raise UserError(f"{where}there is no setting `{dashes}{name}`{hint}")


def _check_nulls(kind: type, values: Mapping[str, Any], where: str = "") -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if value is None and hints[name] is not Any and NoneType not in get_args(hints[name]):
            raise UserError(f"{where}`{name}` needs a value, but is null.")


def _wrong_value(kind: type, given: Iterable[tuple[str, Any]], error: Exception) -> str:
    """Say which value will not do, and what its setting takes."""
    hints = get_type_hints(kind)
    told = str(error).partition("\n")[0]  # jsonargparse names the setting in its first line
    for name, value in given:
        kinds = [hint for hint in get_args(hints.get(name)) if hint is not NoneType]
        if get_origin(hints.get(name)) not in (Union, UnionType) or not kinds:
            kinds = [hints.get(name)]
        choices = [choice for hint in kinds if get_origin(hint) is Literal for choice in get_args(hint)]
        if choices and all(get_origin(hint) is Literal for hint in kinds) and value not in choices:
            hint = did_you_mean(str(value), map(str, choices)) or "."
            return f"`{name}` must be one of {', '.join(map(str, choices))}, but is {value!r}{hint}"
        if f'"{name}"' in told and len(kinds) == 1 and (wanted := _in_words(kinds[0])):
            ratio = _number(value) if kinds[0] is Ratio else 0.0
            hint = f", did you mean {1 / ratio:g}?" if 0 < ratio < 1 else "."
            return f"`{name}` must be {wanted}, but is {value}{hint}"
    return " ".join(str(error).split())


def _in_words(hint: Any) -> str:
    """What a setting of a type takes; empty for types that jsonargparse describes itself."""
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return f"a list, [A, B, ...], each {_in_words(item)}" if _in_words(item) else ""
    return "a mapping, {NAME: VALUE}" if get_origin(hint) is dict else WORDS.get(hint, "")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _built_in(value: Any) -> Any:
    """Numbers of restricted types as plain ones, which YAML and JSON can write."""
    if isinstance(value, dict):
        return {key: _built_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_built_in(item) for item in value)
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else value
