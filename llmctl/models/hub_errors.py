"""What an error of the hub means: how long to wait before another try, or the one typed error that it stays.

No message repeats what a request carried: a token never gets into one.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from llmctl.errors import HubError, LlmctlError, Unreachable, UsageError

LONGEST_BACKOFF = 30.0  # seconds


@dataclass(frozen=True)
class Patience:
    """How a busy or absent hub is waited for; seconds. `tries` are counted from the last byte that came.

    `connects` are the tries when nothing takes the connection at all: there may be no route. `longest` is the longest
    wait that a rate limit may ask for. `stop` ends every wait: the work was given up.
    """

    tries: int = 5
    connects: int = 2
    first: float = 0.5
    longest: float = 60.0
    note: Callable[[str], None] = lambda message: None
    stop: threading.Event = field(default_factory=threading.Event)


def setback(about: str, error: Exception, attempt: int, endpoint: str, patience: Patience) -> float:
    """Seconds to wait after this error, the `attempt`-th in a row; raises what the error means when it stays."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = public(endpoint)
    backoff = min(patience.first * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
    if isinstance(error, OfflineModeIsEnabled):
        raise Unreachable(
            f"{about} is needed from the hub, and HF_HUB_OFFLINE forbids to ask it", hint="unset HF_HUB_OFFLINE"
        ) from None
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        if status == 429:
            seconds = _retry_after(error.response.headers) or backoff
            if attempt < patience.tries and seconds <= patience.longest:
                return seconds
            raise HubError(
                f"the hub limits its rate: {about} can be asked for again in {seconds:.0f} s",
                code="rate_limited",
                hint=f"sleep {seconds:.0f}, then pull again; `hf auth login` raises the limit",
                details={"retry_after": seconds},
            ) from None
        if status >= 500 or status == 408:
            if attempt < patience.tries:
                return backoff
            raise HubError(
                f"the hub at {endpoint} fails ({status}) for {about}, {attempt} times in a row",
                code="hub_down",
                hint="pull again later: what has come is kept",
            ) from None
        raise _meaning(about, error, endpoint) from None
    if isinstance(error, UnicodeError) or _named(error, "LocalProtocolError"):
        raise UsageError(
            "HF_TOKEN (or the token that `hf auth login` kept) holds characters that no header may have",
            hint="hf auth login",
        ) from None
    if _named(error, "InvalidURL", "UnsupportedProtocol"):
        raise UsageError(f"HF_ENDPOINT is not the address of a hub: {endpoint!r}", hint="unset HF_ENDPOINT") from None
    if isinstance(error, (ValueError, TypeError, KeyError, AttributeError)):
        raise HubError(
            f"{endpoint} answers for {about}, but not as a hub does", code="hub_answer", hint="check HF_ENDPOINT"
        ) from None
    if not _named(error, "RequestError", "StreamError"):
        raise error
    if attempt < (patience.connects if _named(error, "ConnectError", "ConnectTimeout") else patience.tries):
        return backoff
    raise Unreachable(
        f"the hub at {endpoint} does not answer ({type(error).__name__}) for {about}",
        hint="check the network and HF_ENDPOINT, then pull again: what has come is kept",
    ) from None


def _meaning(about: str, error: Any, endpoint: str) -> LlmctlError:
    """The refusal that a status of the hub is. A gated repository comes first: it is a kind of missing one."""
    from huggingface_hub import errors

    repo = about.split(" at ")[0]
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{about} is gated: who wants it has to accept its licence",
            code="gated",
            hint=f"accept it at {endpoint}/{'/'.join(repo.split('/')[:2])}, then `hf auth login`, and pull again",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{about}: there is no such revision", code="no_revision", hint="pull without --revision")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return HubError(f"{about}: there is no such file", code="no_file", hint="pull without naming a file")
    status = error.response.status_code
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return HubError(f"{about}: the hub does not accept the token", code="unauthorized", hint="hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        what = "it does not exist, or it is private and the token may not see it"
        return HubError(f"{about}: {what}", code="no_repo", hint="check the spelling, or `hf auth login`")
    if status == 403:
        return HubError(f"{about}: the token may not read it", code="unauthorized", hint="hf auth login")
    return HubError(f"{about}: the hub answers {status}", code="hub_answer", hint="check HF_ENDPOINT")


def public(url: str) -> str:
    """`url` without the user and password that may stand in it."""
    scheme, mark, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def _retry_after(headers: Any) -> float | None:
    """Seconds that the hub asks to wait, as `Retry-After` (seconds or a date) or its rate-limit header says."""
    given = headers.get("Retry-After", "").strip()
    if given.isdecimal() and len(given) < 8:
        return float(given)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    found = re.search(r"r=0;\s*t=(\d{1,7})", headers.get("RateLimit", ""))
    return float(found[1]) if found else None


def _named(error: BaseException, *names: str) -> bool:
    """Whether it is one of the HTTP client's errors; by name, since the client is httpx or httpx2 by release."""
    return any(cls.__name__ in names and cls.__module__.startswith("httpx") for cls in type(error).__mro__)
