"""Checks of one field of a request: right JSON type, in range. Each names the field and never repeats its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmctl.errors import RequestError, nearest
from llmctl.strict_json import kind

INT_MAX = 2**31 - 1  # what every engine's library takes
Check = Callable[[str, Any], Any]
"""check(name, value) → the value as a GenerateRequest holds it, or RequestError 400 with `param`."""


NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What OpenAI takes for the name of a tool, a function or a schema."""


@dataclass(frozen=True)
class Checked:
    """A Check with the JSON schema of what it takes, for the OpenAPI document."""

    check: Check
    schema: Mapping[str, Any]

    def __call__(self, name: str, value: Any) -> Any:
        return self.check(name, value)


class Field(NamedTuple):
    """How a field is checked, and the attribute of GenerateRequest it sets ("sampling.x" for one of Sampling).

    `schema` is the JSON schema of what is taken, where the check itself does not say.
    """

    check: Check
    target: str
    schema: Mapping[str, Any] | None = None


def read(
    body: Mapping[str, Any],
    fields: Mapping[str, Field],
    ignored: Iterable[str] = (),
    *,
    at: str = "",
    required: Iterable[str] = (),
) -> dict[str, Any]:
    """{target: value} of the fields in `body`; null counts as absent, an unknown field is refused by name.

    `at` is the name of the object that the fields are in, "" for the request itself.
    """
    values, where = {}, f"{at}." if at else ""
    for name, value in body.items():
        if name in fields:
            if value is not None:
                field = fields[name]
                values[field.target] = field.check(where + name, value)
        elif name not in ignored:
            raise unknown(name, [*fields, *ignored], where)
    for name in required:
        if body.get(name) is None:
            raise wrong(where + name, "is missing", code="missing_field")
    return values


def wrong(name: str, message: str, *, code: str = "invalid_value") -> RequestError:
    """The refusal of one field."""
    return RequestError(f"{name}: {message}", param=name, code=code)


def unknown(name: str, known: Iterable[str], where: str = "") -> RequestError:
    """The refusal of a field that this protocol does not know."""
    shown = ascii(name[:64])[1:-1]
    close = nearest(name[:64], known)
    hint = f"did you mean {close!r}?" if close else None
    return RequestError(
        f"unknown field {where}{shown}" + (f"; {hint}" if hint else ""), param=f"{where}{shown}", code="unknown_field"
    )


def typed(name: str, value: Any, wanted: type | tuple[type, ...], called: str) -> Any:
    """`value` when it is of the wanted JSON type; true and false are no numbers."""
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise wrong(name, f"must be {called}, not {kind(value)}", code="invalid_type")
    return value


def number(low: float, high: float, *, above: bool = False) -> Check:
    """A number from `low` (not `low` itself with `above`) to `high`."""

    def check(name: str, value: Any) -> float:
        typed(name, value, (int, float), "a number")
        if not low <= value <= high or (above and value == low):
            raise wrong(name, f"must be {'above' if above else 'at least'} {low:g} and at most {high:g}")
        return float(value)

    lowest = "exclusiveMinimum" if above else "minimum"
    return Checked(check, {"type": "number", lowest: low, "maximum": high})


def integer(low: int, high: int = INT_MAX) -> Check:
    """A whole number from `low` to `high`."""

    def check(name: str, value: Any) -> int:
        typed(name, value, int, "an integer")
        if not low <= value <= high:
            raise wrong(name, f"must be at least {low} and at most {high}")
        return int(value)

    return Checked(check, {"type": "integer", "minimum": low, "maximum": high})


def flag(name: str, value: Any) -> bool:
    """true or false."""
    return bool(typed(name, value, bool, "a boolean"))


def text(name: str, value: Any) -> str:
    """A string."""
    return str(typed(name, value, str, "a string"))


def string(longest: int, shortest: int = 1) -> Check:
    """A string of `shortest` to `longest` characters."""

    def check(name: str, value: Any) -> str:
        if not shortest <= len(text(name, value)) <= longest:
            raise wrong(name, f"must have {shortest} to {longest} characters")
        return str(value)

    return Checked(check, {"type": "string", "minLength": shortest, "maxLength": longest})


def named(name: str, value: Any) -> str:
    """A name of letters, digits, underscores and dashes."""
    if not NAME.fullmatch(text(name, value)):
        raise wrong(name, "must have 1 to 64 letters, digits, underscores or dashes")
    return str(value)


def choice(*values: str) -> Check:
    """One of a few words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise wrong(name, f"must be one of {', '.join(values)}")
        return value

    return Checked(check, {"enum": list(values)})


def object_(name: str, value: Any) -> dict[str, Any]:
    """An object, of any keys."""
    return dict(typed(name, value, dict, "an object"))


def array(name: str, value: Any, most: int) -> list[Any]:
    """An array of 1 to `most` items."""
    if not 1 <= len(typed(name, value, list, "an array")) <= most:
        raise wrong(name, f"must have 1 to {most} items")
    return list(value)


def strings(most: int, longest: int) -> Check:
    """A string or up to `most` of them, each of 1 to `longest` characters."""

    def check(name: str, value: Any) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else typed(name, value, list, "a string or an array of strings")
        if len(items) > most:
            raise wrong(name, f"at most {most} are taken")
        for item in items:
            if not 0 < len(text(name, item)) <= longest:
                raise wrong(name, f"each must have 1 to {longest} characters")
        return tuple(items)

    one = {"type": "string", "minLength": 1, "maxLength": longest}
    return Checked(check, {"anyOf": [one, {"type": "array", "items": one, "maxItems": most}]})


def token_ids(most: int | None = None) -> Check:
    """An array of token ids. Whether they are in the vocabulary is the engine's to say."""

    def check(name: str, value: Any) -> tuple[int, ...]:
        typed(name, value, list, "an array of token ids")
        if most is not None and len(value) > most:
            raise wrong(name, f"at most {most} are taken")
        for item in value:
            typed(name, item, int, "an array of token ids")
        return tuple(value)

    limit = {} if most is None else {"maxItems": most}
    return Checked(check, {"type": "array", "items": {"type": "integer"}, **limit})


def unsupported(name: str, value: Any) -> None:
    """Nothing but an empty value: SDKs send back what they got."""
    if value not in ("", [], {}, False):
        raise wrong(name, "is not supported", code="unsupported_field")


PLAIN: dict[Check, Mapping[str, Any]] = {
    flag: {"type": "boolean"},
    text: {"type": "string"},
    object_: {"type": "object"},
    named: {"type": "string", "pattern": f"^{NAME.pattern}$"},
}


def schema_of(field: Field) -> Mapping[str, Any]:
    """The JSON schema of what a field takes; empty where nothing is said of it."""
    if field.schema is not None:
        return field.schema
    return field.check.schema if isinstance(field.check, Checked) else PLAIN.get(field.check, {})
