"""Command lines of recipes: a dataclass of settings filled from YAML files and words, and mistakes told in one line.

Needs jsonargparse, which the extra ``recipes`` installs.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import yaml

__all__ = ["check_settings", "check_tracker", "leave", "near_miss", "one_process", "parse_settings", "plain_errors"]

T = TypeVar("T")


def parse_settings(kind: type[T], arguments: list[str] | None = None, configs: Path | None = None) -> T:
    """Fill a dataclass from a command line, ``--config FILE.yaml --setting value``, or leave with a line on the fault.

    Several files may be given, and later ones win, as do settings behind them. A setting that the dataclass does not
    have, and a value of another type, are errors that name it; so is a ValueError of its ``__post_init__``.

    Args:
        kind: a dataclass; a string below an attribute is its help text.
        arguments: words; by default those of the program.
        configs: folder of the named YAML files, to suggest one where a name is misspelt.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Config:
    ...     lr: float = 0.1
    >>> parse_settings(Config, ["--lr", "0.2"])
    Config(lr=0.2)
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]  # a dataclass, as the docstring says
    parser = ArgumentParser(description=kind.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; given several times, later wins")
    parser.add_class_arguments(kind)
    try:
        for place, word in enumerate(arguments):
            if word == "--config" or word.startswith("--config="):
                _check_config_file(word.partition("=")[2] or "".join(arguments[place + 1 : place + 2]), configs, names)
            name = word[2:].partition("=")[0]
            # Checked here, since the parser takes any beginning of a name for the name.
            if word.startswith("--") and name not in {*names, "config", "help"} and not name.startswith("print_config"):
                value = [next_word for next_word in arguments[place + 1 : place + 2] if not next_word.startswith("--")]
                raise ValueError(f"unrecognized arguments: {' '.join([word, *value])}")
        values: Any = parser.parse_args(arguments)
        values.pop("config")
        return kind(**values.as_dict())
    except (ArgumentError, ValueError) as error:
        hint = ""
        pattern = r"unrecognized arguments: --(\w+)|ption '([\w.]+)' is not accepted|accept option '([\w.]+)'"
        if unknown := re.search(pattern, str(error)):
            name = next(filter(None, unknown.groups()))
            hint = near_miss(name, names) or "; --help lists the settings"
        if choice := re.search(r'Parser key "(\w+)".*Got value: (\w+)', str(error), re.DOTALL):
            choices = [known for known in get_args(get_type_hints(kind).get(choice.group(1))) if isinstance(known, str)]
            hint = near_miss(choice.group(2), choices)
        said = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of [\1]", str(error))
        said = re.sub(r"a <class '(int|float)'>", r"a number of type \1", said)
        leave(re.sub(r"<class '(\w+)'>", r"\1", said) + hint)


def _check_config_file(path: str, configs: Path | None, names: Sequence[str]) -> None:
    """Raise a ValueError that names the file if it is not one of settings, or is that of a second stage."""
    if not Path(path).is_file():
        known = sorted(file.stem for file in configs.glob("*.yaml")) if configs else []
        close = difflib.get_close_matches(Path(path).stem, known, n=1, cutoff=0.4)
        hint = f" Did you mean the method {close[0]}?" if close else ""
        listed = f" There are: {', '.join(known)}." if known else ""
        raise ValueError(f"`--config` {path!r} is no file.{hint}{listed}")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` {path!r} is not readable as YAML: {error}.") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"`--config` {path!r} must hold `setting: value` lines, but holds {found}.")
    if "stage1" in values and "stage1" not in names:
        raise ValueError(f"`--config` {path!r} is a second stage (it has `stage1`): start it with train_stage2.py.")


def check_settings(
    settings: Any,
    *,
    one_of: Mapping[str, Sequence[str]] | None = None,
    at_least_one: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    positive: Sequence[str] = (),
    ratios: Sequence[str] = (),
    shares: Sequence[str] = (),
    in_0_to_1: Sequence[str] = (),
) -> None:
    """Raise a ValueError that names the first setting out of its range; for the ``__post_init__`` of a dataclass.

    A setting may be null only if its type says so, and then it is in range. Of a list every value is looked at.

    Args:
        settings: a dataclass.
        one_of: the known values of a name.
        at_least_one: names of settings that must be >= 1.
        not_negative: >= 0.
        positive: > 0.
        ratios: of the largest class over the smallest, >= 1.
        shares: of the training, in 0..1.
        in_0_to_1: others in 0..1.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Config:
    ...     epochs: int = 10
    ...     threads: int | None = None
    ...     def __post_init__(self):
    ...         check_settings(self, at_least_one=("epochs", "threads"))
    >>> Config(epochs=0)
    Traceback (most recent call last):
    ValueError: `epochs` must be at least 1, but is 0.
    """
    for item in fields(settings):
        if getattr(settings, item.name) is None and "None" not in str(item.type):
            raise ValueError(f"`{item.name}` needs a value, but is null.")
    for name, known in (one_of or {}).items():
        if (value := getattr(settings, name)) not in known:
            hint = near_miss(value, known) or "."
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}{hint}")
    rules: list[tuple[Sequence[str], Callable[[float], bool], str]] = [
        (at_least_one, lambda value: value >= 1, "must be at least 1"),
        (not_negative, lambda value: value >= 0, "must not be negative"),
        ((*positive, *ratios), lambda value: value > 0, "must be positive"),
        (shares, lambda value: 0 <= value <= 1, "is a share of the training and must lie in 0..1"),
        (in_0_to_1, lambda value: 0 <= value <= 1, "must lie in 0..1"),
    ]
    for names, holds, rule in rules:
        for name in names:
            value = getattr(settings, name)
            for number in value if isinstance(value, list) else [value]:
                if number is not None and not holds(number):
                    raise ValueError(f"`{name}` {rule}, but is {number}.")
    for name in ratios:
        if (ratio := getattr(settings, name)) is not None and ratio < 1:
            raise ValueError(
                f"`{name}` is largest over smallest class and must be at least 1, but is {ratio}. "
                f"Did you mean {1 / ratio:g}?"
            )


def check_tracker(log_with: str | None) -> None:
    """Raise a ValueError if a tracker of accelerate is not installed, which accelerate itself passes over silently.

    >>> check_tracker("abacus")
    Traceback (most recent call last):
    ValueError: `log_with` is 'abacus', but the trackers installed here are: ...
    """
    if log_with is None:
        return
    from accelerate.tracking import get_available_trackers  # type: ignore[import-untyped]

    trackers = [str(tracker) for tracker in get_available_trackers()]
    if log_with not in ("all", *trackers):
        raise ValueError(
            f"`log_with` is {log_with!r}, but the trackers installed here are: {', '.join(trackers) or 'none'}. "
            "Install its package, or leave the setting out: metrics.jsonl has the same rows."
        )


def near_miss(word: str, known: Iterable[str]) -> str:
    """', did you mean X?' or nothing.

    >>> near_miss("cifar1000", ["cifar10", "digits"])
    ", did you mean 'cifar10'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """End with one line when settings, data, a folder or the disk are at fault; with PYTHONDEVMODE=1 as a traceback.

    These are the errors of the system, the ValueErrors that the recipe's ``folder`` raises, and those of ltaug.
    Anything else is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        trains = Path(sys.argv[0]).name.startswith("train")  # the others have no such setting
        hint = "The same command with `--resume true` continues after the last checkpoint."
        leave(f"stopped. {hint if trains else 'What was saved before is intact.'}", code=130)
    except (OSError, ValueError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        mistake = isinstance(error, OSError) or Path(__file__).resolve().parent in raised_in.parents
        mistake = mistake or (isinstance(error, ValueError) and raised_in.parent == folder.resolve())
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
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}\n")
    sys.stderr.flush()
    sys.exit(code)
