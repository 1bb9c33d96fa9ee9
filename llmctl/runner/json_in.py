"""JSON from a client, read strictly: an object, or a 400 that names what is wrong."""

from __future__ import annotations

from typing import Any

from llmctl import strict_json
from llmctl.errors import RequestError


def parse(body: bytes, what: str = "the request body") -> dict[str, Any]:
    """The object in `body`, called `what`; RequestError 400 that names what is wrong, and never repeats the body."""
    try:
        value = strict_json.loads(body, what)
    except strict_json.StrictError as error:
        raise RequestError(str(error), code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be a JSON object, not {strict_json.kind(value)}", code="invalid_json")
    return value
