"""The ways of model families to think and to call tools, by the names that a catalog gives them.

Where a catalog says nothing, the chat template tells: it writes the very markers that the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.decoding.calls import Bare, Hermes, Mistral, names
from llmctl.decoding.grammars import schema
from llmctl.decoding.harmony import Harmony
from llmctl.decoding.pieces import Parser, Plain
from llmctl.decoding.thinking import CLOSE, OPEN, Thinking

HERMES, LLAMA, MISTRAL, HARMONY, JSON = "hermes", "llama3_json", "mistral", "harmony", "json"
TOOL_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Parser]] = {
    HERMES: Hermes,
    LLAMA: Bare,
    MISTRAL: Mistral,
    HARMONY: Harmony,
    JSON: Bare,
}
THINK = "think"
REASONING_PARSERS = (THINK, HARMONY)
OTHER_NAMES = {
    "qwen": HERMES, "qwen3_coder": HERMES, "qwen3_xml": HERMES, "llama3": LLAMA, "openai": HARMONY, "gpt_oss": HARMONY,
    "qwen3": THINK, "deepseek_r1": THINK, "openai_gptoss": HARMONY, "none": "",
}  # fmt: skip
"""What other servers call them."""

TOOL_MARKS = (
    ("[TOOL_CALLS]", MISTRAL), ("<|channel|>", HARMONY), ("<tool_call>", HERMES), ("<|python_tag|>", LLAMA),
    ("Environment: ipython", LLAMA),
)  # fmt: skip
REASONING_MARKS = (("<|channel|>", HARMONY), (CLOSE, THINK), (OPEN, THINK))
BETWEEN = {HERMES: "\n", LLAMA: "; ", MISTRAL: ""}
"""What stands between two calls of one answer, in the families that make several."""
MOST_CALLS = 8
"""How many calls one answer may be made to have."""

SPACE = r"SPACE: /[ \t\r\n]+/"
THOUGHT = r"thought[lazy]: /(?s:.*)<\/think>/"


@dataclass(frozen=True)
class Speech:
    """How a model calls tools and thinks: the names of its parsers, "" for none.

    `opened` says of a prompt that it ends in an open thought; None that the model may begin one, False that it may not.
    `specials` are the texts of its special tokens by id; `arguments_mark`: its template writes [ARGS] before arguments.
    """

    tools: str = ""
    reasoning: str = ""
    specials: Mapping[int, str] = field(default_factory=dict)
    arguments_mark: bool = False

    def parser(self, tools: Sequence[Mapping[str, Any]], *, opened: bool) -> Parser | None:
        """The parser of one answer; None when all of it is text."""
        if HARMONY in (self.tools, self.reasoning):
            return Harmony(names(tools))
        inner = TOOL_PARSERS[self.tools or JSON](names(tools)) if tools else None
        if self.reasoning == THINK:
            return Thinking(inner or Plain(), opened=opened)
        return inner

    def required(
        self, tools: Sequence[Mapping[str, Any]], *, opened: bool | None, several: bool
    ) -> list[dict[str, Any]]:
        """The grammar of an answer that calls one of these tools, as parts; the first names the others."""
        family = self.tools or JSON
        parts = [{"name": f"arguments{i}", **schema(parameters(tool))} for i, tool in enumerate(tools)]
        one = " | ".join(self._call(family, tool["name"], f"@arguments{i}") for i, tool in enumerate(tools))
        if family == MISTRAL and not self.arguments_mark:
            more = f'(", " one){{0,{MOST_CALLS - 1}}}' if several else ""
            whole = f'{self._text("[TOOL_CALLS]")} "[" one {more} "]"'
        elif several and family in BETWEEN:
            whole = f"one ({json.dumps(BETWEEN[family])} one){{0,{MOST_CALLS - 1}}}"
        else:
            whole = "one"
        return [{"lark_grammar": self._grammar(whole, opened, f"one: {one}")}, *parts]

    def answering(self, format: Mapping[str, Any], *, opened: bool | None) -> list[dict[str, Any]]:
        """The grammar of an answer in a format, thoughts before it left free."""
        if not self.reasoning:
            return [dict(format)]
        head = self._text("<|channel|>final<|message|>") + " " if self.reasoning == HARMONY else ""
        return [{"lark_grammar": self._grammar(f"{head}@answer", opened)}, {"name": "answer", **format}]

    def _grammar(self, whole: str, opened: bool | None, *rules: str) -> str:
        if HARMONY in (self.reasoning, self.tools):
            start = self._text("<|channel|>analysis<|message|>") + " HIDDEN " + self._text("<|end|><|start|>assistant")
            return "\n".join([f"start: ({start})? {whole}", "HIDDEN: /[^<]*/", *rules])
        if self.reasoning != THINK or opened is False:
            return "\n".join([f"start: {whole}", *rules])
        closed = self._id(CLOSE)
        thought = f"HIDDEN <[{closed}]>" if closed is not None else "thought"
        lead = f"{thought} SPACE?" if opened else f"({self._text(OPEN)} {thought} SPACE?)?"
        last = "HIDDEN: /(?s:.*)/" if closed is not None else THOUGHT
        return "\n".join([f"start: {lead} {whole}", SPACE, last, *rules])

    def _call(self, family: str, name: str, arguments: str) -> str:
        quoted = json.dumps(name, ensure_ascii=False)
        if family == HARMONY:
            head = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            return f"{self._text(head)} {arguments}"
        if family == MISTRAL and self.arguments_mark:
            return f"{self._text(f'[TOOL_CALLS]{name}[ARGS]')} {arguments}"
        key = "parameters" if family == LLAMA else "arguments"
        body = f'{self._text(f"""{{"name": {quoted}, "{key}": """)} {arguments} "}}"'
        return (
            f"{self._text('<tool_call>' + chr(10))} {body} {self._text(chr(10) + '</tool_call>')}"
            if family == HERMES
            else body
        )

    def _text(self, text: str) -> str:
        """A text as a grammar's terms, special tokens in it by their ids."""
        found = [(at, id, s) for id, s in self.specials.items() if s and (at := text.find(s)) >= 0]
        if not found:
            return json.dumps(text, ensure_ascii=False) if text else ""
        at, id, special = min(found, key=lambda hit: (hit[0], -len(hit[2])))
        return " ".join(filter(None, [self._text(text[:at]), f"<[{id}]>", self._text(text[at + len(special) :])]))

    def _id(self, text: str) -> int | None:
        return next((id for id, special in self.specials.items() if special == text), None)


def known(name: str | None, among: Collection[str]) -> str | None:
    """The name of a parser as it is known here: itself, or what it is called elsewhere; None when it is neither."""
    name = OTHER_NAMES.get(name or "", name)
    return name if name == "" or name in among else None


def detected(template: str, marks: Sequence[tuple[str, str]]) -> str:
    """The first parser whose mark stands in a template; "" for none."""
    return next((parser for mark, parser in marks if mark in template), "")


def parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments: always an object, an empty one where nothing is said."""
    given = tool.get("parameters")
    return {"type": "object", **given} if given else {"type": "object", "additionalProperties": False}
