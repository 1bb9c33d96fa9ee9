"""All that a deploy would choose on a host, with the refusals as answers too: for showing, not for acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmctl.config import Host
from llmctl.errors import LlmctlError
from llmctl.fleet.facts import Facts, choices
from llmctl.fleet.facts.choices import Chosen


@dataclass(frozen=True)
class Decision:
    """`what` is backend, engine (one each), service or python; `value` None: it cannot be had, type `hint`."""

    what: str
    value: str | None
    why: str
    why_not: Mapping[str, str] = field(default_factory=dict)
    hint: str | None = None


def outlook(host: Host, facts: Facts) -> list[Decision]:
    """The decisions on a host; engines only where it has a backend."""
    backend = _decided("backend", lambda: [choices.backend(host, facts)])
    taken = backend[0].value
    engines = _decided("engine", lambda: choices.engines(host, taken, facts)) if taken else []
    service = _decided("service", lambda: [choices.service(host, facts)])
    return [*backend, *engines, *service, *_decided("python", lambda: [_python(facts)])]


def value(decisions: Sequence[Decision], what: str) -> str | None:
    """The first decision on that."""
    return next((decision.value for decision in decisions if decision.what == what), None)


def _python(facts: Facts) -> Chosen:
    found = choices.python(facts)
    return Chosen(".".join(map(str, found.version)), found.path)


def _decided(what: str, choose: Callable[[], Sequence[Chosen]]) -> list[Decision]:
    try:
        return [Decision(what, chosen.value, chosen.why, chosen.why_not) for chosen in choose()]
    except LlmctlError as error:
        return [Decision(what, None, error.message, hint=error.hint)]
