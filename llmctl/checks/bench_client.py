"""One server under measurement, ours or any that speaks OpenAI's protocol: a question, timed, within a deadline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llmctl.clients.deadline import Deadline
from llmctl.clients.openai import OpenAI, Place
from llmctl.errors import LlmctlError, Unreachable

T = TypeVar("T")
KEY_HINT = "--key-env NAME, of the variable that holds its key"


@dataclass(frozen=True)
class Prompt:
    """The same prompt as tokens of the measured model, and as text where somebody else's tokenizer will read it."""

    ids: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True)
class Way:
    """How all of a measurement is asked: as tokens or as text, as completions or as a chat. `forced`: up to
    `max_tokens` whatever the text."""

    ids: bool = False
    forced: bool = True
    chat: bool = False

    def body(self, prompt: Prompt, new: int) -> tuple[str, dict[str, Any]]:
        """The path below the API, and the request."""
        asked: dict[str, Any] = {"max_tokens": new, "temperature": 0, "stream": True}
        asked["stream_options"] = {"include_usage": True}
        if self.forced:
            asked["ignore_eos"] = True
        if self.chat:
            return "/chat/completions", {"messages": [{"role": "user", "content": prompt.text}], **asked}
        return "/completions", {"prompt": list(prompt.ids) if self.ids else prompt.text, **asked}


OWN = Way(ids=True)
SHARED = (Way(), Way(forced=False), Way(chat=True), Way(forced=False, chat=True))
"""What two servers may both understand, the most comparable first."""


@dataclass(frozen=True)
class Timed:
    """One answer: tokens of its prompt (`cached` were not computed again) and of itself; seconds until its text began,
    and in all. `counted`: the server told the tokens; else they are its pieces of text, and `prompt` is 0."""

    prompt: int
    cached: int
    new: int
    first: float
    seconds: float
    model: str = ""
    counted: bool = True


class Server:
    """A place that is measured, by what name people know it, and the model that is asked for there."""

    def __init__(self, place: Place, name: str, model: str | None = None, patience: float = 600.0) -> None:
        self.place, self.name, self.model, self.patience = place, name, model, patience

    def timed(self, prompt: Prompt, new: int, way: Way) -> Timed:
        """One whole answer of up to `new` tokens. Unreachable when it breaks off or takes longer than `patience`."""
        path, body = way.body(prompt, new)
        return self._within(lambda one: one.timed(path, body))

    def tokenized(self, text: str) -> tuple[int, ...]:
        """The ids of a text, as of a prompt; of our own slots."""
        said = self._within(lambda one: one.told("/tokenize", {"prompt": text}))
        return tuple(int(id) for id in said["tokens"])

    def _within(self, ask: Callable[[_Question], T]) -> T:
        with Deadline(self.place, self.patience) as held:
            one = _Question(held.place, self.model)
            try:
                found = ask(one)
            except LlmctlError as error:
                if held.late.is_set():
                    raise Unreachable(f"{self.name} did not answer within {self.patience:g} s") from None
                if self.name not in error.message:
                    error.message = f"{self.name}: {error.message}"
                raise
        return found


class _Question(OpenAI):
    """One request of a measurement."""

    def timed(self, path: str, body: Mapping[str, Any]) -> Timed:
        asked = {**body, "model": self.model} if self.model is not None else body
        usage: Mapping[str, Any] = {}
        first, pieces, model, finish = 0.0, 0, "", None
        began = time.perf_counter()
        with self._asked("POST", path, json.dumps(asked)) as response:
            for event in self._events(response):
                usage, model = event.get("usage") or usage, str(event.get("model") or model)
                for choice in event.get("choices") or ():
                    finish = choice.get("finish_reason") or finish
                    if _text(choice):
                        pieces += 1
                        first = first or time.perf_counter() - began
        seconds = time.perf_counter() - began
        if finish is None:
            raise Unreachable("the answer ended before its end")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        new = int(usage.get("completion_tokens") or pieces)
        if not new:
            raise LlmctlError("the answer has no token")
        counted = bool(usage.get("completion_tokens"))
        return Timed(int(usage.get("prompt_tokens") or 0), int(cached), new, first or seconds, seconds, model, counted)

    def told(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the server answers beside OpenAI's protocol."""
        self.place = replace(self.place, base="")
        with self._asked("POST", path, json.dumps(body)) as response:
            found: Mapping[str, Any] = json.loads(response.read())
            return found


def agreed(servers: Sequence[Server], prompt: Prompt) -> Way:
    """The way that all of these servers can be asked in. Where there is none: what the first refusal said."""
    refusals = []
    for way in SHARED:
        try:
            for server in servers:
                server.timed(prompt, 2, way)
            return way
        except Unreachable:
            raise
        except LlmctlError as error:
            refusals.append(error)
    first = refusals[0]
    if "key" in first.code or "auth" in first.code or "401" in first.message:
        first.hint = KEY_HINT
    raise first


def same_model(answers: Sequence[Timed], name: str) -> str:
    """The model that gave all of them; LlmctlError when it was changed amid them."""
    found = list(dict.fromkeys(answer.model for answer in answers))
    if len(found) > 1:
        raise LlmctlError(
            f"{name} answered as {found[0]} and then as {found[1]}: its model was changed amid the measurement",
            hint="measure again when nobody swaps",
        )
    return found[0]


def _text(choice: Mapping[str, Any]) -> str:
    """What a choice of any protocol adds to its answer; thoughts are tokens too."""
    said = choice.get("delta") or choice.get("message") or choice
    return str(said.get("content") or said.get("text") or said.get("reasoning_content") or said.get("reasoning") or "")
