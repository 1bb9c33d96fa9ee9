"""The prompts and what their answers must be: those that are shipped, and over them the file of an operator."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmctl import paths, tables
from llmctl.errors import LlmctlError, UnknownName, nearest
from llmctl.quality import schema as schemas
from llmctl.quality.language import LANGUAGES
from llmctl.tables import Table

SHIPPED = Path(__file__).with_name("prompts.toml")
NAME = "quality.toml"
"""An operator's own, beside hosts.toml."""
Read = Callable[[Table, str], Any]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Prompt:
    """What is asked, `tries` times, of which `need` must pass; None (or empty) is what is not asked for.

    Without a `temperature` all tries are greedy. `must`: it has to pass whatever it did before.
    """

    name: str
    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int = 1024
    temperature: float = 0.0
    tries: int = 1
    need: int = 1
    must: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    stop: tuple[str, ...] = ()
    forced: bool = False
    """Whether the server is told to keep to `schema`."""
    # what the answer must be
    allow: tuple[str, ...] = ()
    language: str | None = None
    json: bool = False
    schema: Mapping[str, Any] | None = None
    number: float | None = None
    exactly: str | None = None
    match: str | None = None
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    words: int | None = None
    lines: int | None = None
    case: str | None = None
    calls: tuple[Mapping[str, Any], ...] | None = None
    stream: bool = False
    first_within: float | None = None
    within: float | None = None

    @property
    def fingerprint(self) -> str:
        """Of all that it asks and wants: another one is another prompt."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


def of_operator(folder: Path | None) -> Path | None:
    """The operator's own file in the folder of hosts.toml, where there is one."""
    return folder / NAME if folder and (folder / NAME).exists() else None


def load(own: Path | None) -> dict[str, Prompt]:
    """The prompts by name. ConfigError names file, line and key of a mistake."""
    found = _read(tables.read(SHIPPED), {})
    if own is None:
        return found
    root = tables.read(own)
    return _read(root, found if root.flag("shipped", True) else {})


def select(known: Mapping[str, Prompt], globs: Sequence[str]) -> list[Prompt]:
    """Those that `globs` mean, all without any; UnknownName for one that means none."""
    found: dict[str, Prompt] = {}
    for glob in globs:
        names = fnmatch.filter(known, glob)
        if not names:
            close = nearest(glob, known)
            hint = f"did you mean {close!r}?" if close else "llmctl quality --list"
            raise UnknownName(f"no prompt is {glob[:140]!r}", hint=hint)
        found |= {name: known[name] for name in names}
    return list((found if globs else known).values())


def _read(root: Table, before: Mapping[str, Prompt]) -> dict[str, Prompt]:
    root.only("shipped", "prompts")
    found = dict(before)
    entries = root.table("prompts")
    for name in entries.data:
        table = entries.table(name)
        table.only("ask", "system", "messages", "disabled", *READ)
        try:
            paths.check_name(name, "prompt")
        except LlmctlError as error:
            raise tables.blame(entries, name, error) from None
        if not table.flag("disabled"):
            found[name] = _prompt(name, table)
        elif found.pop(name, None) is None:
            close = nearest(name, found)
            raise table.mistake("disabled", "there is no such prompt", close and f"did you mean {close!r}?")
    if not found:
        raise root.mistake("shipped", "no prompt is left", "[prompts.NAME] with an ask")
    return found


def _prompt(name: str, table: Table) -> Prompt:
    given = {key: read(table, key) for key, read in READ.items() if key in table.data}
    given.setdefault("need", given.get("tries", 1))
    found = Prompt(name, tuple(_messages(table)), **given)
    for key, wrong in _contradictions(found):
        raise table.mistake(key, wrong)
    return found


def _contradictions(prompt: Prompt) -> Iterator[tuple[str, str]]:
    if prompt.need > prompt.tries:
        yield "need", f"is {prompt.need}, and there are {prompt.tries} tries"
    if prompt.temperature > 2:
        yield "temperature", "must be 0 to 2"
    if prompt.stream and prompt.temperature:
        yield "stream", "two answers are the same only without a temperature"
    if prompt.calls is not None and not prompt.tools:
        yield "calls", "there are no tools to be called"
    names = [tool["function"]["name"] for tool in prompt.tools]
    for call in prompt.calls or ():
        if call["name"] not in names:
            yield "calls", f"{call['name']!r} is none of the tools {', '.join(names)}"
    if prompt.forced and prompt.schema is None:
        yield "forced", "there is no schema to keep to"
    for wrong in schemas.mistakes(prompt.schema or {}):
        yield "schema", wrong
    if prompt.match is not None:
        try:
            re.compile(prompt.match)
        except re.error as error:
            yield "match", f"is no regular expression: {error}"
    try:
        prompt.fingerprint  # noqa: B018 # it is made when it is read
    except (TypeError, ValueError) as error:
        yield "messages", f"cannot be sent as JSON: {error}"


def _messages(table: Table) -> Iterator[Mapping[str, Any]]:
    if ("ask" in table.data) == ("messages" in table.data):
        raise table.mistake(None, "a prompt has an ask, or messages", 'ask = "What is a slot?"')
    if system := table.text("system"):
        yield {"role": "system", "content": system}
    if "ask" in table.data:
        yield {"role": "user", "content": table.text("ask")}
    for message in table.tables("messages"):
        message.only("role", "content", "tool_calls", "tool_call_id")
        message.one_of("role", ROLES, "")
        message.text("content")
        yield message.data


def _tools(table: Table, key: str) -> tuple[Mapping[str, Any], ...]:
    found = []
    for tool in table.tables(key):
        tool.only("name", "description", "parameters")
        if not tool.text("name"):
            raise tool.mistake(None, "a tool has a name")
        found.append({"type": "function", "function": dict(tool.data)})
    return tuple(found)


def _calls(table: Table, key: str) -> tuple[Mapping[str, Any], ...]:
    found = []
    for call in table.tables(key):
        call.only("name", "arguments")
        if not call.text("name"):
            raise call.mistake(None, "a call has the name of its tool")
        found.append({"name": call.text("name"), "arguments": call.table("arguments").data})
    return tuple(found)


def _number(table: Table, key: str) -> float:
    value = table.data[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise table.mistake(key, f"must be a number, not {value!r}")
    return value


def _one_of(*known: str) -> Read:
    return lambda table, key: table.one_of(key, known, "")


READ: Mapping[str, Read] = {
    "max_tokens": Table.integer, "temperature": Table.number, "tries": Table.integer, "need": Table.integer,
    "must": Table.flag, "tools": _tools, "stop": Table.texts, "forced": Table.flag, "allow": Table.texts,
    "language": _one_of(*LANGUAGES), "json": Table.flag, "schema": lambda table, key: table.table(key).data,
    "number": _number, "exactly": Table.text, "match": Table.text, "says": Table.texts, "never": Table.texts,
    "words": Table.integer, "lines": Table.integer, "case": _one_of("lower", "upper"), "calls": _calls,
    "stream": Table.flag, "first_within": Table.seconds, "within": Table.seconds,
}  # fmt: skip
