"""What of a request routes it, found in its JSON body, of which not a byte is changed but the model's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmctl.errors import RequestError

_DECODE = json.JSONDecoder().raw_decode
_OPEN = re.compile(r"[ \t\n\r]*\{(?:[ \t\n\r]*(\}))?[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
ROUTING = ("model", "stream", "max_tokens", "max_completion_tokens", "options", "keep_alive", "decoding")
LIMIT = ("max_completion_tokens", "max_tokens", "num_predict")


@dataclass(frozen=True)
class Asked:
    """A body: its model, and where in `text` the JSON string of it lies (None: it names none); what it asks for.

    `fields` are the values of ROUTING alone, so that a large body is not held twice.
    """

    text: str
    model: str | None = None
    span: tuple[int, int] | None = None
    fields: Mapping[str, Any] | None = None

    @property
    def streams(self) -> bool | None:
        found = (self.fields or {}).get("stream")
        return found if isinstance(found, bool) else None

    @property
    def tokens(self) -> int | None:
        """The most tokens that it lets the model make, where it says so."""
        fields = self.fields or {}
        options = fields.get("options")
        for place in (fields, options if isinstance(options, Mapping) else {}):
            for name in LIMIT:
                if type(found := place.get(name)) is int and found > 0:
                    return int(found)
        return None

    def named(self, model: str) -> bytes:
        """The body with that name in the place of its own."""
        if self.model == model or self.span is None:
            return self.text.encode()
        begin, end = self.span
        return (self.text[:begin] + json.dumps(model) + self.text[end:]).encode()


def read(body: bytes) -> Asked:
    """RequestError 400 where it is no JSON object; what else is wrong with it the slot says in its own words."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _bad("the request body is not UTF-8") from None
    try:
        return _object(text)
    except (ValueError, RecursionError):
        raise _bad("the request body is not a JSON object") from None


def _object(text: str) -> Asked:
    """Its top level, value by value: json tells no places."""
    model, span, fields = None, None, dict[str, Any]()
    found = _OPEN.match(text)
    while found and found[1] != "}":
        key, at = _DECODE(text, found.end())
        colon = _COLON.match(text, at)
        if not isinstance(key, str) or colon is None:
            raise ValueError
        value, end = _DECODE(text, colon.end())
        if key == "model":
            if span is not None:
                raise _bad("the field 'model' is there twice")
            model, span = value, (colon.end(), end)
        if key in ROUTING:
            fields[key] = value
        found = _NEXT.match(text, end)
    if found is None or found.end() != len(text):
        raise ValueError
    if model is not None and not isinstance(model, str):
        raise RequestError("model must be a string", param="model")
    return Asked(text, model, span, fields)


def _bad(what: str) -> RequestError:
    return RequestError(what, code="invalid_json")
