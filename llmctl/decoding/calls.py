"""Calls of tools in the syntaxes of the model families: each parser reads one, and gives back as text what is none."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from llmctl.decoding.pieces import Call, JsonEnd, Piece, Stepping, Text, arguments_text, begun, calls_in

SEPARATORS = " \t\r\n;,"
FENCE = re.compile(r"```(json)?\n")
XML_CALL = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>)?\s*", re.DOTALL)
XML_ARGUMENT = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
MISTRAL_HEAD = re.compile(r"\s*([\w.-]+)(\[CALL_ID\]\w+)?(\[ARGS\])?\s*")


class Marked(Stepping):
    """Text up to a marker, then the body of a call. White space before a call is no part of the text."""

    marker = ""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._body: JsonEnd | None = None  # how far the body behind a marker has been looked through
        self._called = False

    def end(self) -> list[Piece]:
        held, inside, self.held, self._body = self.held, self._body, "", None
        calls = self._read(held.lstrip()[len(self.marker) :]) if inside else []
        if calls:
            return [*calls]
        left = held.strip() if self._called else held  # white space between calls, and behind the last, is nothing
        return [Text(held)] if left else []

    def _advance(self, pieces: list[Piece]) -> bool:
        if self._body is None:
            at = self.held.find(self.marker)
            before = self.held[: at if at >= 0 else len(self.held) - begun(self.held, self.marker)].rstrip()
            if before:
                pieces.append(Text(before))
                self.held = self.held[len(before) :]
            if at >= 0:
                self._body = JsonEnd()
            return at >= 0
        space = len(self.held) - len(self.held.lstrip())
        body = self.held[space + len(self.marker) :]
        end = self._end(body, self._body)
        if end is None:
            return False
        calls = self._read(body[:end])
        size = space + len(self.marker) + end
        pieces.extend(calls or [Text(self.held[:size])])
        self._called = self._called or bool(calls)
        self.held, self._body = self.held[size:], None
        return True

    @abstractmethod
    def _end(self, body: str, json: JsonEnd) -> int | None:
        """Where the body ends; None when it is not there yet."""

    @abstractmethod
    def _read(self, body: str) -> list[Call]:
        """The calls in a body; none when it is broken."""


class Hermes(Marked):
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>, and Qwen3-Coder's XML between the same tags."""

    marker, close = "<tool_call>", "</tool_call>"
    markers = (marker, close)

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._looked = 0

    def _end(self, body: str, json: JsonEnd) -> int | None:
        while (at := body.find(self.close, self._looked)) >= 0:
            json.find(body, at)
            if not (json.quoted and body.lstrip().startswith("{")):
                self._looked = 0
                return at + len(self.close)
            self._looked = at + 1
        self._looked = max(self._looked, len(body) - len(self.close) + 1)
        return None

    def _read(self, body: str) -> list[Call]:
        body = body.removesuffix(self.close)
        body = body[: len(body) - begun(body, self.close)]
        if body.lstrip().startswith("<function="):
            return self._xml(body)
        return calls_in(body, self._tools)

    def _xml(self, body: str) -> list[Call]:
        found = XML_CALL.fullmatch(body)
        if found is None or found[1] not in self._tools:
            return []
        kinds = self._tools[found[1]]
        values = {name: typed(text, kinds.get(name)) for name, text in XML_ARGUMENT.findall(found[2])}
        try:
            return [] if XML_ARGUMENT.sub("", found[2]).strip() else [Call(found[1], arguments_text(values))]
        except ValueError:
            return []


class Mistral(Marked):
    """[TOOL_CALLS][{"name": …, "arguments": {…}}, …], or [TOOL_CALLS]name[ARGS]{…} once for each call."""

    marker = "[TOOL_CALLS]"
    markers = (marker, "[ARGS]", "[CALL_ID]")
    longest_head = 200

    def _end(self, body: str, json: JsonEnd) -> int | None:
        if body.lstrip()[:1] in ("[", "{", ""):
            return json.find(body)
        brace = body.find("{", 0, self.longest_head + 1)
        if brace < 0:
            return self.longest_head if len(body) > self.longest_head else None
        head = MISTRAL_HEAD.fullmatch(body[:brace])
        if head is None:
            return brace
        json.skip(brace)
        return json.find(body)

    def _read(self, body: str) -> list[Call]:
        if body.lstrip()[:1] in ("[", "{"):
            return calls_in(body, self._tools)
        head = MISTRAL_HEAD.match(body)
        if head is None or head[1] not in self._tools:
            return []
        return calls_in(json.dumps({"name": head[1]})[:-1] + ', "arguments": ' + body[head.end() :] + "}", self._tools)


class Bare(Stepping):
    """An output that begins with JSON: Llama 3's {"name": …, "parameters": {…}}, with or without <|python_tag|>.

    For models that know no syntax of their own also in a fence of Markdown. Several may follow one another.
    """

    tag = "<|python_tag|>"
    markers = (tag,)

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._json = JsonEnd()
        self._text = self._called = False

    def end(self) -> list[Piece]:
        held, self.held = self.held, ""
        return [Text(held)] if held.strip(SEPARATORS + "`" if self._called else "") else []

    def _advance(self, pieces: list[Piece]) -> bool:
        if self._text:
            at = self.held.find(self.tag)
            cut = at if at >= 0 else len(self.held) - begun(self.held, self.tag)
            if cut:
                pieces.append(Text(self.held[:cut]))
            self.held = self.held[cut:]
            self._text = at < 0
            return at >= 0
        start = self._start()
        if start is None:
            return False
        end = self._json.find(self.held[start:]) if self.held[start] in "{[" else 0
        if end is None:
            return False
        self._json = JsonEnd()
        calls = calls_in(self.held[start : start + end], self._tools, bare=True)
        if calls:
            pieces.extend(calls)
            self._called, self.held = True, self.held[start + end :]
        else:
            self._text = True
            if start + end:
                pieces.append(Text(self.held[: start + end]))
            self.held = self.held[start + end :]
        return True

    def _start(self) -> int | None:
        """Where JSON would begin; None when what has come may still stand before it."""
        skipped = SEPARATORS + "`" if self._called else " \t\r\n"
        at = len(self.held) - len(self.held.lstrip(skipped))
        rest = self.held[at:]
        if rest.startswith(self.tag):
            at += len(self.tag)
        elif fence := FENCE.match(rest):
            at += fence.end()
        elif any(opening.startswith(rest) for opening in (self.tag, "```json\n", "```\n")):
            return None
        at += len(self.held[at:]) - len(self.held[at:].lstrip())
        return at if at < len(self.held) else None


def typed(text: str, schema: Any) -> Any:
    """An argument that came as text, as its schema wants it: text stays text unless another type is asked for."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def names(tools: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """The tools of a request by name, each with its parameters' schemas."""
    return {tool["name"]: properties(tool) for tool in tools}


def properties(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = tool.get("parameters")
    found = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return found if isinstance(found, Mapping) else {}
