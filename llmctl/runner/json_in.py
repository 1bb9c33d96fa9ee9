"""JSON from a client, read strictly: an object, or a 400 that names what is wrong."""

from __future__ import annotations

from typing import Any

from llmctl import strict_json
from llmctl.errors import RequestError


def parse(body: bytes) -> dict[str, Any]:
    """The object in `body`; RequestError 400 that names what is wrong, and never repeats the body."""
    try:
        value = strict_json.loads(body, "the request body")
    except strict_json.StrictError as error:
        raise RequestError(str(error), code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(
            f"the request body must be a JSON object, not {strict_json.kind(value)}", code="invalid_json"
        )
    return value
