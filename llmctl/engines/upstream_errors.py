"""What can go wrong with another server, as typed errors: refusals, failures, silence, garbage. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmctl.engines.requests import EXCEEDS, too_long
from llmctl.errors import RequestError

LONGEST = 500  # characters of its words that a client is told
_TOO_LONG = re.compile(
    r"maximum context length|exceeds? the (available )?context|context[_ ](length|window|size)|too many tokens", re.I
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_OURS = (400, 404, 405, 409, 413, 415, 422)  # what it says of a request that we made out of a client's


def refused(status: int, headers: Mapping[str, str], body: bytes, field: str) -> RequestError:
    """The error for an answer that is not 200. `field` is the client's that holds the prompt."""
    said = _error(body)
    words = _words(said, body)
    if status == 429:
        wait = _seconds(headers.get("retry-after")) or 1.0
        return RequestError(
            f"the server behind this slot is busy: {words}", status=429, code="upstream_busy",
            details={"retry_after": wait},
        )  # fmt: skip
    if status == 503:
        wait = _seconds(headers.get("retry-after")) or 5.0
        return RequestError(
            f"the server behind this slot is not ready: {words}", status=503, code="unavailable",
            details={"retry_after": wait},
        )  # fmt: skip
    if status in (401, 403):
        return RequestError(
            f"the server behind this slot refuses our key: {words}", status=502, code="upstream_key",
            hint="key_env in models.toml names the variable that holds it",
        )  # fmt: skip
    if status in _OURS:
        if _TOO_LONG.search(words) or said.get("type") == "exceed_context_size_error":
            return too_long(f"the prompt {EXCEEDS} this model: {words}", field, **_numbers(said))
        param = said.get("param")
        return RequestError(
            f"the server behind this slot refused: {words}", param=param if isinstance(param, str) else None,
            code="upstream_refused",
        )  # fmt: skip
    return RequestError(f"the server behind this slot failed ({status}): {words}", status=502, code="upstream_failed")


def said_error(said: Mapping[str, Any], field: str) -> RequestError:
    """The error for an error object in the midst of a stream."""
    inner = said.get("error")
    code = inner.get("code") if isinstance(inner, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return refused(status, {}, json.dumps(said).encode(), field)


def garbage(what: str) -> RequestError:
    """It said something that is no answer."""
    return RequestError(f"the server behind this slot sent {what}", status=502, code="upstream_garbage")


def cut() -> RequestError:
    """Its answer ended in the middle."""
    return RequestError("the server behind this slot broke its answer off", status=502, code="upstream_cut")


def stalled(seconds: float) -> RequestError:
    """No byte came for as long as its entry allows."""
    message = f"the server behind this slot sent nothing for {seconds:g} s"
    return RequestError(message, status=504, code="upstream_stalled")


def gone(why: str) -> RequestError:
    """It does not run, or does not take connections."""
    return RequestError(f"the server behind this slot {why}", status=502, code="upstream_gone")


def _error(body: bytes) -> Mapping[str, Any]:
    """The error object, in whichever of the known wrappings: {"error": {…}}, {"error": "…"}, {"detail": …}, {…}."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, Mapping):
        return {}
    inner = said.get("error", said)
    if isinstance(inner, Mapping):
        return inner
    return {"message": inner}


def _words(said: Mapping[str, Any], body: bytes) -> str:
    found = said.get("message") or said.get("detail")
    if found is None:
        text = body.decode("utf-8", "replace")
        found = "a page of HTML" if text.lstrip()[:1] == "<" else text
    text = found if isinstance(found, str) else json.dumps(found)
    return _CONTROL.sub(" ", text)[:LONGEST].strip() or "it does not say why"


def _numbers(said: Mapping[str, Any]) -> dict[str, int]:
    names = {"n_ctx": "max_context", "n_prompt_tokens": "input_length"}
    return {ours: said[its] for its, ours in names.items() if isinstance(said.get(its), int)}


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:  # a date: rare enough
        return None
