"""Whether an answer is what its prompt wants: every check by its name, and in words what is wrong. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmctl import strict_json
from llmctl.quality import language, leaks, schema
from llmctl.quality.prompts import Prompt

LEAK, STOP = "leak", "stop"
ALWAYS = (LEAK, STOP)
"""What no try may fail: it is the server that must keep these, whatever the model can."""
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
THOUSANDS = re.compile(r",(?=\d{3}(?:\D|$))")
EXCERPT = 60


@dataclass(frozen=True)
class Call:
    """A tool that was called; `arguments` is the JSON text as it came."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One whole answer; `first` is seconds to its first piece, thoughts and calls too, `seconds` to its end."""

    text: str
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    first: float = 0.0
    seconds: float = 0.0
    model: str | None = None


Check = Callable[[Prompt, Reply], "str | None"]


def failures(prompt: Prompt, reply: Reply, whole: Reply | None = None) -> dict[str, str]:
    """What is wrong, by check; `whole` is the answer to the same without streaming, of prompts that want it."""
    found = {name: wrong for name, check in CHECKS.items() if (wrong := check(prompt, reply))}
    if whole and (wrong := _stream(reply, whole)):
        found["stream"] = wrong
    if found and reply.finish == "length":
        found = {name: f"{wrong} (it was cut at {prompt.max_tokens} tokens)" for name, wrong in found.items()}
    return found


def excerpt(text: str) -> str:
    """The beginning of an answer, as one word in a sentence."""
    return repr(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…")


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _empty(prompt: Prompt, reply: Reply) -> str | None:
    if reply.text.strip() or (reply.calls and prompt.calls):
        return None
    return "it thought, and said nothing" if reply.reasoning else "the answer is empty"


def _leak(prompt: Prompt, reply: Reply) -> str | None:
    said = {"the answer": reply.text, "the thoughts": reply.reasoning}
    said |= {"a call": " ".join(f"{call.name} {call.arguments}" for call in reply.calls)}
    for where, text in said.items():
        if marks := leaks.found(text, prompt.allow):
            return f"{where} has {', '.join(map(ascii, marks))}"
    return None


def _stop(prompt: Prompt, reply: Reply) -> str | None:
    shown = next((stop for stop in prompt.stop if stop in reply.text), None)
    return shown and f"the answer goes on over its stop string {shown!r}"


def _language(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.language in (None, found := language.of(reply.text)):
        return None
    return f"it is {found or 'no language that can be told'}, not {prompt.language}: {excerpt(reply.text)}"


def _json(prompt: Prompt, reply: Reply) -> str | None:
    if not prompt.json and prompt.schema is None:
        return None
    try:
        value = strict_json.loads(reply.text.encode("utf-8", "replace"), "the answer")
    except ValueError as error:
        return f"{error}: {excerpt(reply.text)}"
    return schema.wrong(prompt.schema, value) if prompt.schema is not None else None


def _number(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.number is None:
        return None
    found = NUMBER.findall(reply.text)
    if not found:
        return f"there is no number: {excerpt(reply.text)}"
    try:
        right = float(THOUSANDS.sub("", found[-1])) == prompt.number
    except ValueError:  # as a date is, 2024.01.02
        right = False
    return None if right else f"it ends in {found[-1]}, not {prompt.number:g}"


def _exactly(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.exactly in (None, reply.text.strip()):
        return None
    return f"it is {excerpt(reply.text.strip())}, not {prompt.exactly!r}"


def _match(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.match is None or re.fullmatch(prompt.match, reply.text.strip()):
        return None
    return f"{excerpt(reply.text.strip())} is not of the form {prompt.match}"


def _says(prompt: Prompt, reply: Reply) -> str | None:
    missing = [word for word in prompt.says if not _has(reply.text, word)]
    return f"there is no {', '.join(map(repr, missing))}: {excerpt(reply.text)}" if missing else None


def _never(prompt: Prompt, reply: Reply) -> str | None:
    said = [word for word in prompt.never if _has(reply.text, word)]
    return f"it says {', '.join(map(repr, said))}" if said else None


def _has(text: str, word: str) -> bool:
    """Whether a text has a word, not as a part of another."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _words(prompt: Prompt, reply: Reply) -> str | None:
    return _count("words", prompt.words, len(reply.text.split()))


def _lines(prompt: Prompt, reply: Reply) -> str | None:
    return _count("lines", prompt.lines, sum(bool(line.strip()) for line in reply.text.splitlines()))


def _count(what: str, wanted: int | None, found: int) -> str | None:
    return None if wanted in (None, found) else f"it has {found} {what}, not {wanted}"


def _case(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.case is None or reply.text == (reply.text.lower() if prompt.case == "lower" else reply.text.upper()):
        return None
    return f"it is not all in {prompt.case} case: {excerpt(reply.text)}"


def _tools(prompt: Prompt, reply: Reply) -> str | None:
    if prompt.calls is None:
        return None
    if len(reply.calls) != len(prompt.calls):
        names = ", ".join(call.name for call in reply.calls)
        return f"it made {len(reply.calls)} calls ({names or 'none'}), not {len(prompt.calls)}"
    for call in reply.calls:
        try:
            strict_json.loads(call.arguments.encode("utf-8", "replace"), f"what {call.name} is called with")
        except ValueError as error:
            return str(error)
    left = list(reply.calls)
    for wanted in prompt.calls:
        made = [call for call in left if _is(call, wanted)]
        if not made:
            name, arguments = left[0].name, excerpt(left[0].arguments)
            return f"it called {name} with {arguments}, not {wanted['name']} with {wanted['arguments']}"
        left.remove(made[0])
    if reply.calls and reply.finish != "tool_calls":
        return f"it called, and its finish_reason is {reply.finish}"
    return None


def _is(call: Call, wanted: Mapping[str, Any]) -> bool:
    """Whether a call is the wanted one: its tool, and at least those arguments."""
    given = json.loads(call.arguments)
    return (
        call.name == wanted["name"]
        and isinstance(given, dict)
        and all(key in given and _same(given[key], value) for key, value in wanted["arguments"].items())
    )


def _same(given: Any, wanted: Any) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return given.strip().casefold() == wanted.casefold()
    return bool(given == wanted)


def _latency(prompt: Prompt, reply: Reply) -> str | None:
    for what, limit, took in (("first token", prompt.first_within, reply.first), ("end", prompt.within, reply.seconds)):
        if limit is not None and took > limit:
            return f"its {what} came after {took:.1f} s, not within {limit:g} s"
    return None


def _stream(reply: Reply, whole: Reply) -> str | None:
    if reply.text != whole.text:
        return f"streamed it is {excerpt(reply.text)}, and in one piece {excerpt(whole.text)}"
    if reply.calls != whole.calls:
        return "streamed it calls other tools than in one piece"
    if reply.finish != whole.finish:
        return f"streamed its finish_reason is {reply.finish}, and in one piece {whole.finish}"
    return None


CHECKS: Mapping[str, Check] = {
    "empty": _empty, LEAK: _leak, STOP: _stop, "language": _language, "json": _json, "number": _number,
    "exactly": _exactly, "match": _match, "says": _says, "never": _never, "words": _words, "lines": _lines,
    "case": _case, "tools": _tools, "latency": _latency,
}  # fmt: skip
