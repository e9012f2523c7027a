"""The command line: how settings files and words fill a config, and how mistakes are told in one line."""

import contextlib
import difflib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

# What follows the attributes of a config is their help text on the command line.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def autocast_type(precision: str) -> str:
    """accelerate's word for the precision; auto is bf16 where the hardware computes in it."""
    if precision != "auto":
        return "no" if precision == "fp32" else precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"


def set_threads(threads: int | None) -> None:
    """Give torch its CPU threads; by default all cores of this machine, shared between its processes.

    Not left to the environment: `accelerate launch` sets OMP_NUM_THREADS to 1 where nobody else has set it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def parse_settings(kind: Any, arguments: list[str] | None = None) -> Any:
    """Read the command line (`--config FILE` first, single settings after it), or leave with a line on the fault.

    `kind` is the dataclass that the settings are of.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    names = [item.name for item in fields(kind)]
    parser = ArgumentParser(description=kind.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; given several times, later wins")
    parser.add_class_arguments(kind)
    try:
        for place, word in enumerate(arguments):
            if word == "--config" or word.startswith("--config="):
                check_config_file(word.partition("=")[2] or "".join(arguments[place + 1 : place + 2]))
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


def check_config_file(path: str) -> None:
    """Raise a ValueError that names the file if it is not one of settings."""
    if not Path(path).is_file():
        known = sorted(file.stem for file in (Path(__file__).parent / "configs").glob("*.yaml"))
        close = difflib.get_close_matches(Path(path).stem, known, n=1, cutoff=0.4)
        hint = f" Did you mean the method {close[0]}?" if close else ""
        raise ValueError(f"`--config` {path!r} is no file.{hint} There are: {', '.join(known)}.")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` {path!r} is not readable as YAML: {error}.") from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"`--config` {path!r} must hold `setting: value` lines, but holds {kind}.")


def near_miss(word: str, known: Any) -> str:
    """', did you mean X?' or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End with one line when settings, data, a folder or the disk are at fault; with PYTHONDEVMODE=1 as a traceback.

    These are the errors of the system, the ValueErrors that this folder raises, and those of ltaug. Anything else is a
    fault of the program and keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        leave("stopped. The same command with `--resume true` continues after the last checkpoint.", code=130)
    except (OSError, ValueError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        library = find_spec("ltaug")
        mistake = isinstance(error, OSError)
        mistake = mistake or (library and Path(str(library.origin)).resolve().parent in raised_in.parents)
        mistake = mistake or (isinstance(error, ValueError) and raised_in.parent == Path(__file__).resolve().parent)
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
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
