"""Errors that are the user's to mend, and how a program ends with one line instead of a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

__all__ = ["UserError", "as_user_errors", "did_you_mean", "exit_with_error", "one_line_errors", "one_process"]


class UserError(ValueError):
    """A mistake in settings, data or a folder. The message says what is wrong and what to do, so no traceback is shown.

    >>> with as_user_errors():
    ...     int("three")
    Traceback (most recent call last):
    ltaug.errors.UserError: invalid literal for int() with base 10: 'three'
    """


@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn every ValueError inside into a :class:`UserError`: around code that only looks at settings and data.

    The library's parts raise plain ValueErrors for arguments out of range. Where such an argument is a setting, the
    setting is at fault. Do not put a training loop inside: its ValueErrors are faults of the program.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End of a message, ", did you mean 'X'?", or nothing if no known word is similar.

    >>> did_you_mean("cifar1000", ["cifar10", "digits"])
    ", did you mean 'cifar10'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def one_line_errors(stopped: str = "What was saved before is intact.") -> Iterator[None]:
    """End the program with one line on a :class:`UserError`, an error of the system, or Ctrl-C.

    Any other error is a fault of the program and keeps its traceback. ``PYTHONDEVMODE=1`` shows that of all.

    Args:
        stopped: what the line says after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        exit_with_error(f"stopped. {stopped}", code=130)
    except (UserError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        exit_with_error(f"{error}{'. What was saved before is intact: make room, and resume.' if full else ''}")


def one_process() -> None:
    """Exit if a launcher has started several processes of a program that needs one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        exit_with_error("this program runs on one process. Start it without a launcher.")


def exit_with_error(message: str, code: int = 2) -> NoReturn:
    """End the program with one line. Only the main process prints; the others wait for it to exit first."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        time.sleep(30)  # the launcher stops this process as soon as the main one has exited
    program = "ltaug" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    sys.stderr.write(f"{program}: error: {' '.join(message.split())}\n")
    sys.stderr.flush()
    sys.exit(code)
