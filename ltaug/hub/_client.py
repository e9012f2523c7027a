"""The hub's client, and what its errors mean to whoever reads them: one line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from ltaug.errors import UserError

Kind = Literal["model", "dataset"]
T = TypeVar("T")

WORDS = {"model": "model", "dataset": "data set"}
PATIENCE = 30.0
"""Seconds for which a busy hub is asked again."""
BUSY = (429, 500, 502, 503, 504)
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_BROKEN = ("RemoteProtocolError", "ReadError", "WriteError", "ChunkedEncodingError", "IncompleteRead")
_GATED = re.compile(r"\bis (a )?gated\b|GatedRepoError")  # others advise on "private or gated" places
_MISSING = "doesn't exist on the Hub"  # of `datasets`, which drops the cause
_TIMEOUT = ("ReadTimeout", "WriteTimeout", "PoolTimeout", "ConnectTimeout")


def check_name(repo_id: str) -> str:
    """Return a name on the hub, OWNER/NAME.

    Raises:
        UserError: it is none.
    """
    if not _NAME.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".", "-")):
        raise UserError(
            f"{repo_id!r} is no name on the hub: it must be OWNER/NAME, such as ada/digits-lt, of letters, digits and "
            "single - _ . between them. OWNER is your name there, or your organisation's."
        )
    return repo_id


def api() -> Any:
    """The client, for the hub that HF_ENDPOINT names now."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("The hub needs huggingface_hub: pip install huggingface_hub") from error
    return HfApi()


def check_login(repo_id: str, kind: Kind) -> None:
    """Ask the hub who is logged in, before there is any work that would be lost.

    Raises:
        UserError: it is no name on the hub, or nobody is.
    """
    check_name(repo_id)
    with hub_errors(repo_id, kind, writes=True):
        patiently(lambda: api().whoami())


def hub_reason(error: BaseException, place: str, kind: Kind = "model", writes: bool = False) -> str | None:
    """What an error of the hub's clients means, and what to do: a line; None for an error of another kind.

    Args:
        error: as ``huggingface_hub`` or ``datasets`` raise it; causes are looked at, too.
        place: OWNER/NAME.
        kind: of what is there.
        writes: whether it was to be written.
    """
    from huggingface_hub import constants, get_token

    chain = _chain(error)
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    what, logged_in, hub = f"{WORDS[kind]} {place!r}", get_token() is not None, constants.ENDPOINT
    page = f"{hub}/{'datasets/' if kind == 'dataset' else ''}{place}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    failed = f"The {what} could not be {'written to' if writes else 'loaded from'} the hub: "
    if "GatedRepoError" in names or any(_GATED.search(str(each)) for each in chain):
        then = "with the account that is logged in here" if logged_in else f"then {log_in}"
        return f"The {what} is open to those only who have accepted its terms. Accept them at {page}, {then}"
    if "RevisionNotFoundError" in names:
        return f"The {what} has no such branch, tag or commit. {page}/tree/main shows those that there are"
    if (status == 401 or "LocalTokenNotFoundError" in names) and writes:
        if logged_in:
            return f"{failed}{hub} does not know the token that is set. Make a new one, and {log_in}"
        return f"{failed}nobody is logged in. Make a token that may write, and {log_in}"
    if status == 403 and writes:
        return (
            f"{failed}you may not write there. OWNER must be the account that is logged in (`hf auth whoami` says "
            "which) or an organisation of it, and the token must be one that may write"
        )
    if status in BUSY:
        return f"{failed}{hub} is busy ({status}), also when asked again. Try it later"
    if "RepositoryNotFoundError" in names or status in (401, 403, 404) or any(_MISSING in str(each) for each in chain):
        who = "that this account may read" if logged_in else f"that everybody may read. If it is private, {log_in}"
        return f"There is no {what} on the hub {who}. Check its name"
    if "OfflineModeIsEnabled" in names and constants.HF_HUB_OFFLINE:
        cached = "" if writes else ", and it is not in the cache"
        return f"{failed}HF_HUB_OFFLINE=1 keeps its client offline{cached}. Unset it"
    if names & {"ConnectError", "ProxyError", "ConnectTimeout", "OfflineModeIsEnabled"}:
        return f"{failed}{hub} does not answer. Check the network, and HF_ENDPOINT and proxies if they are set"
    if names & {*_BROKEN, *_TIMEOUT} or any("Consistency check failed" in str(each) for each in chain):
        return f"{failed}the transfer broke off, also when it was resumed. The same command goes on with it"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


@contextlib.contextmanager
def hub_errors(place: str, kind: Kind = "model", writes: bool = False) -> Iterator[None]:
    """Turn what the hub's client raises inside into a :class:`~ltaug.errors.UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # the client raises its own, those of its HTTP library, ValueError, RuntimeError, OSError
        full = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
        if isinstance(error, OSError) and error.errno in full:
            raise
        said = hub_reason(error, place, kind, writes)
        if said is None:
            done = "written to" if writes else "read from"
            first = str(error).strip().partition("\n")[0]
            said = f"The {WORDS[kind]} {place!r} could not be {done} the hub ({type(error).__name__}: {first})"
        if writes:
            said += ". Nothing of it is to be seen there: it appears as a whole"
        raise UserError(f"{said}.") from error


def patiently(ask: Callable[[], T]) -> T:
    """Call a function, and again for half a minute while the hub is busy; the client does so in some places only."""
    wait, began = 1.0, time.monotonic()
    while True:
        try:
            return ask()
        except Exception as error:
            busy = any(_status(each) in BUSY for each in _chain(error))
            if not busy or time.monotonic() - began + wait > PATIENCE:
                raise
        time.sleep(wait)
        wait = min(2 * wait, 8.0)
