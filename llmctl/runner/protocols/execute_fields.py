"""What a worker of rbee is asked for: every field of /execute that is wrong is told, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmctl.domain import GenerateRequest, Identity, Sampling
from llmctl.errors import RequestError
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import INT_MAX, unknown
from llmctl.strict_json import kind

JOB_ID = 256  # characters
STOPS, STOP_BYTES = 4, 100
SEED = 42
TOLD = 2**128  # a larger number is not repeated
Fault = tuple[str, str]
"""(constraint, message)"""


class Field(NamedTuple):
    """`fault` says what is wrong with a value. `told`: an error may repeat it. `default` None: it is required."""

    fault: Callable[[Any], Fault | None]
    default: Any = None
    told: bool = True


@dataclass(frozen=True)
class Job:
    """What an answer tells besides the text: the client's name for it, and the memory of the engine in bytes."""

    id: str
    vram_bytes: int


def number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], Fault | None]:
    """A number (an integer with `whole`) from `low` to `high`."""
    kinds, called = (int, "integer") if whole else ((int, float), "number")

    def fault(value: Any) -> Fault | None:
        if not isinstance(value, kinds) or isinstance(value, bool):
            return f"type({called})", f"must be {_a(called)}, not {kind(value)}"
        if not low <= value <= high:
            return f"range({low}..={high})", f"must be at least {low} and at most {high}"
        return None

    return fault


def text(longest: int) -> Callable[[Any], Fault | None]:
    """A string of 1 to `longest` characters."""

    def fault(value: Any) -> Fault | None:
        if not isinstance(value, str):
            return "type(string)", f"must be a string, not {kind(value)}"
        if not 1 <= len(value) <= longest:
            return f"length(1..={longest})", f"must have 1 to {longest} characters"
        return None

    return fault


def stops(value: Any) -> Fault | None:
    """An array of up to STOPS strings of 1 to STOP_BYTES bytes."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return "type(array of string)", "must be an array of strings"
    if len(value) > STOPS:
        return f"items(..={STOPS})", f"at most {STOPS} are taken"
    if not all(1 <= len(item.encode("utf-8", "surrogatepass")) <= STOP_BYTES for item in value):
        return f"length(1..={STOP_BYTES})", f"each must have 1 to {STOP_BYTES} bytes"
    return None


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


FIELDS: Mapping[str, Field] = {
    "job_id": Field(text(JOB_ID), told=False),
    "prompt": Field(text(32768), told=False),
    "max_tokens": Field(number(1, 2048, whole=True)),
    "temperature": Field(number(0.0, 2.0), 1.0),
    "top_p": Field(number(0.0, 1.0), 1.0),
    "min_p": Field(number(0.0, 1.0), 0.0),
    "top_k": Field(number(0, 2**32 - 1, whole=True), 0),
    "seed": Field(number(0, 2**64 - 1, whole=True), SEED),
    "repetition_penalty": Field(number(0.0, 2.0), 1.0),
    "stop": Field(stops, (), told=False),
}


def read_execute(body: Mapping[str, Any], model: Identity | None, time_cap: float, job_id: str | None = None) -> Asked:
    """The body of /execute; RequestError 400 holds all errors. `job_id` is for a body that brings none of its own.

    More tokens than the context of `model` are as many as it has.
    """
    given = {"job_id": job_id, **{name: value for name, value in body.items() if value is not None}}
    given = {name: value for name, value in given.items() if value is not None}
    errors = [error for name, field in FIELDS.items() if (error := _error(name, field, given))]
    errors += [_unknown(name) for name in given if name not in FIELDS]
    if errors:
        raise invalid(errors)
    values = {name: given.get(name, field.default) for name, field in FIELDS.items()}
    sampling = Sampling(
        temperature=float(values["temperature"]),
        top_p=float(values["top_p"]),
        top_k=min(values["top_k"], INT_MAX),
        min_p=float(values["min_p"]),
        repetition_penalty=float(values["repetition_penalty"]) or 1.0,  # 0 would divide by it: off
        seed=values["seed"],
    )
    most = min(values["max_tokens"], model.context) if model else values["max_tokens"]
    request = GenerateRequest(
        new_id("execute"), prompt=values["prompt"], sampling=sampling, max_tokens=most, stop=tuple(values["stop"]),
        time_cap=time_cap,
    )  # fmt: skip
    return Asked(request, stream=True, options=Job(values["job_id"], model.memory_bytes if model else 0))


def _error(name: str, field: Field, given: Mapping[str, Any]) -> dict[str, Any] | None:
    if name not in given:
        return error(name, "required", "is missing") if field.default is None else None
    fault = field.fault(given[name])
    if fault is None:
        return None
    told = field.told and isinstance(given[name], (int, float)) and abs(given[name]) < TOLD
    return {**error(name, *fault), **({"value": given[name]} if told else {})}


def error(name: str, constraint: str, message: str) -> dict[str, Any]:
    """One of the errors of a 400."""
    return {"field": name, "constraint": constraint, "message": f"{name}: {message}"}


def _unknown(name: str) -> dict[str, Any]:
    why = unknown(name, FIELDS)
    return {"field": why.param, "constraint": "known", "message": why.message}


def invalid(errors: list[dict[str, Any]]) -> RequestError:
    """The 400 that holds `errors`."""
    return RequestError(errors[0]["message"], param=errors[0]["field"], details={"errors": errors})
