"""Asks a handle one prompt over HTTP, streamed or in one piece, and puts its answer together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llmctl.clients.deadline import Deadline
from llmctl.clients.openai import WHOLE, OpenAI, Place
from llmctl.clients.talk import sound
from llmctl.errors import LlmctlError, TimedOut
from llmctl.quality.checks import Call, Reply
from llmctl.quality.prompts import Prompt

T = TypeVar("T")


def body(prompt: Prompt, seed: int) -> dict[str, Any]:
    """The request; tries differ by their seed."""
    asked: dict[str, Any] = {
        "messages": list(prompt.messages), "max_tokens": prompt.max_tokens, "temperature": prompt.temperature,
        "seed": seed,
    }  # fmt: skip
    if prompt.tools:
        asked["tools"] = list(prompt.tools)
    if prompt.stop:
        asked["stop"] = list(prompt.stop)
    if prompt.forced:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": prompt.schema}}
    return asked


class Handle:
    """A place to ask, and the name that is asked for there; an answer that takes longer than `patience` is cut."""

    def __init__(self, place: Place, model: str | None, patience: float) -> None:
        self.place, self.model, self.patience = place, model, patience

    def reach(self) -> None:
        """Unreachable, or the server's own error, when it cannot be asked at all."""
        self._within(lambda question: question.models())

    def ask(self, prompt: Prompt, seed: int, *, stream: bool) -> Reply:
        """One answer. TimedOut, or why there is none."""
        return self._within(lambda question: question.reply(body(prompt, seed), stream))

    def _within(self, ask: Callable[[_Question], T]) -> T:
        with Deadline(self.place, self.patience) as held:
            try:
                return ask(_Question(held.place, self.model))
            except LlmctlError:
                if held.late.is_set():
                    raise TimedOut(f"there was no whole answer within {self.patience:g} s") from None
                raise


class _Question(OpenAI):
    """One request."""

    def reply(self, body: Mapping[str, Any], stream: bool) -> Reply:
        asked = {**body, "stream": stream, **({"model": self.model} if self.model is not None else {})}
        answer = _Answer()
        with self._asked("POST", "/chat/completions", json.dumps(asked)) as response:
            if stream:
                for event in self._events(response):
                    answer.add(event)
            else:
                answer.add(json.loads(response.read(WHOLE)))
        if answer.finish is None:
            raise self._error("the answer ended before its end", f"llmctl logs {self.place.slot}")
        return answer.reply(answer.finish)


class _Answer:
    """The pieces of an answer, put together as they come."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: float | None = None
        self.text = self.reasoning = ""
        self.calls: dict[int, list[str]] = {}
        self.finish: str | None = None
        self.model: str | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        self.model = event.get("model") or self.model
        for choice in event.get("choices") or ():
            self.finish = choice.get("finish_reason") or self.finish
            delta = choice.get("delta") or choice.get("message") or {}
            text = sound(delta.get("content") or "")
            thought = sound(delta.get("reasoning_content") or delta.get("reasoning") or "")
            calls = delta.get("tool_calls") or ()
            self.text += text
            self.reasoning += thought
            for at, call in enumerate(calls):
                self._call(int(call.get("index", at)), call.get("function") or {})
            if self.first is None and (text or thought or calls):
                self.first = time.perf_counter() - self.began

    def _call(self, index: int, function: Mapping[str, Any]) -> None:
        known = self.calls.setdefault(index, ["", ""])
        known[0] += function.get("name") or ""
        known[1] += function.get("arguments") or ""

    def reply(self, finish: str) -> Reply:
        seconds = time.perf_counter() - self.began
        calls = tuple(Call(*self.calls[index]) for index in sorted(self.calls))
        return Reply(self.text, self.reasoning, calls, finish, self.first or seconds, seconds, self.model)
