"""An engine without a model, for tests of everything above engines: it answers from a script, and fails on command.

The script is a JSON file; every key is optional:
    answers        {question: answer}; another question gets `default`, repeated up to `length` tokens
    length         tokens of a default answer (64)            context, vocab   limits it keeps (1024, 1000)
    step           seconds a step takes (0)                   prefill          seconds a prompt takes (0)
    slow           {question: seconds its prompt takes}
    load           seconds to load (0)                        memory           bytes it takes when loaded (0)
    fail           "check" | "load" | "exit" | "hang"         at load
    die_after      steps after which the process kills itself wedge_after      steps after which it hangs
    stubborn       true: ignores SIGTERM                      identity         the model id it claims to be
    garble         true: answers nonsense                     nan              true: generations fail as non-finite
    odd            [n, …]: requests, counted from 1 with the probe's, that are answered in another way
    crosstalk      true: so are requests that come while others run
    deaf           "stop" | "cancel": what it does not listen to
    tool_parser, reasoning_parser                              how its answers call tools and think (decoding.families)
"""

from __future__ import annotations

import json
import os
import signal
import time
import zlib
from dataclasses import dataclass, replace
from typing import Any

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.output import ParsedOutput, Said
from llmctl.domain import (
    CANCELLED,
    LENGTH,
    STOP,
    TIME,
    TOKENIZE,
    TOOLS,
    Chunk,
    Done,
    Emit,
    EngineSpec,
    Failure,
    GenerateRequest,
    Identity,
    Progress,
    Started,
    Task,
    TokenLogprob,
    Usage,
)
from llmctl.engines.talk import Talk
from llmctl.errors import LlmctlError, LoadFailed, RequestError, Unsupported

PIECE = 4  # characters a token
DEFAULT = "The quick brown fox jumps over the lazy dog while seven wizards box. "


def check(spec: EngineSpec) -> None:
    """Unsupported when the script says so or cannot be read."""
    if read(spec).get("fail") == "check":
        raise Unsupported(f"{spec.model}: architecture 'scripted-unsupported' is not supported by the scripted engine")


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Scripted:
    """Play the script's loading part."""
    script = read(spec)
    fail = script.get("fail")
    if script.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    steps = 20
    for i in range(steps):
        progress("weights", i * 50_000_000, steps * 50_000_000)
        time.sleep(script.get("load", 0) / steps)
    if fail == "exit":
        print("scripted: dying while loading, as told", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if fail == "hang":
        time.sleep(10_000)
    if fail == "load":
        raise LoadFailed(f"{spec.model}: the script says that loading fails")
    return Scripted(spec, script, emit)


def read(spec: EngineSpec) -> dict[str, Any]:
    try:
        with open(spec.path, encoding="utf-8") as file:
            script: dict[str, Any] = json.load(file)
            return script
    except (OSError, ValueError) as error:
        raise Unsupported(f"{spec.model}: {spec.path} is not a script: {error}") from error


@dataclass
class Sequence:
    """One answer being played."""

    request: GenerateRequest
    index: int
    pieces: list[str]
    finish: str
    match: str | None
    ends_at: float | None
    begins_at: float
    output: ParsedOutput | None = None
    at: int = 0


class Scripted:
    """The Engine. Steps all its sequences by one token at a time."""

    def __init__(self, spec: EngineSpec, script: dict[str, Any], emit: Emit) -> None:
        self.script, self.emit = script, emit
        self.ballast = b"\1" * script.get("memory", 0)
        self.steps = self.requests = 0
        self.live: list[Sequence] = []
        self.left: dict[str, tuple[int, int, int]] = {}  # request → prompt tokens, sequences left, tokens made
        self.speech = Talk.of(replace(spec, options=script)).speech("", {})
        self.identity = Identity(
            model=script.get("identity", spec.model),
            engine="scripted",
            architecture="scripted",
            context=min(spec.context, script.get("context", 1024)),
            vocab=script.get("vocab", 1000),
            parallel=spec.parallel,
            memory_bytes=len(self.ballast),
            capabilities=("logprobs", "tools", *(("reasoning",) if self.speech.reasoning else ())),
        )

    @property
    def held(self) -> int:
        """Tokens of what it answers now."""
        return sum(self.left[s.request.id][0] + s.at for s in self.live)

    def submit(self, request: GenerateRequest) -> None:
        prompt, question = self.prompt(request)
        room = self.identity.context - prompt
        if room < 1 or (request.max_tokens or 0) > self.identity.context:
            asked = prompt if room < 1 else request.max_tokens
            raise RequestError(
                f"{asked} tokens were asked for, the context is {self.identity.context}",
                code="context_length_exceeded",
                param="messages" if room < 1 else "max_tokens",
                details={"max_context": self.identity.context, "input_length": prompt},
            )
        if request.format is not None:
            raise RequestError("a script's answers match no format", param="response_format", code="invalid_format")
        for id in [*request.stop_ids, *(i for i, _ in request.sampling.logit_bias)]:
            if not 0 <= id < self.identity.vocab:
                raise RequestError(f"token id {id} is not in the vocabulary", param="logit_bias")
        if self.script.get("nan"):
            error = LlmctlError("the logits are not finite")
            error.code = "nonfinite_logits"
            self.emit(Started(request.id, prompt))
            self.emit(Failure(request.id, error.to_dict()))
            return
        now = time.monotonic()
        pieces, finish, match = self.answer(request, question, room)
        ends = now + request.time_cap if request.time_cap else None
        for index in range(request.n):
            begins = now + self.script.get("slow", {}).get(question, self.script.get("prefill", 0))
            output = self.output(request, pieces)
            self.live.append(Sequence(request, index, pieces, finish, match, ends, begins, output))
        self.left[request.id] = (prompt, request.n, 0)
        self.emit(Started(request.id, prompt))

    def output(self, request: GenerateRequest, pieces: list[str]) -> ParsedOutput | None:
        """What tells calls and thoughts in the answer apart, where it may have any."""
        tools = request.tools if request.tool_choice != "none" else ()
        parser = self.speech.parser(tools, opened=False) if request.messages is not None else None
        if parser is None:
            return None
        detokenizer = Detokenizer(lambda place: pieces[place].encode())
        return ParsedOutput(detokenizer, request.stop, parser, one_call=not request.parallel_tools)

    def ask(self, task: Task) -> None:
        """One token a word, whose id is its place; nothing else."""
        if task.verb != TOKENIZE:
            raise RequestError(f"{self.identity.model} on scripted cannot {task.verb}", code="unsupported_task")
        messages = task.arguments.get("messages") or [{"content": task.arguments.get("text")}]
        words = " ".join(str(message["content"]) for message in messages).split()
        self.emit(Done(task.id, {"ids": list(range(len(words)))}))

    def prompt(self, request: GenerateRequest) -> tuple[int, str]:
        """Prompt tokens (one a word) and the question."""
        if request.messages is not None:
            if request.messages[0]["role"] == "tool":
                raise RequestError("the template does not take a first message of role 'tool'", param="messages")
            words = sum(len(str(m.get("content") or "").split()) + 2 for m in request.messages)
            return words, str(request.messages[-1].get("content") or "")
        if isinstance(request.prompt, tuple):
            for id in request.prompt:
                if not 0 <= id < self.identity.vocab:
                    raise RequestError(f"token id {id} is not in the vocabulary", param="prompt")
            return len(request.prompt), ""
        if not request.prompt:
            raise RequestError("the prompt is empty", param="prompt")
        return len(request.prompt.split()), request.prompt

    def answer(self, request: GenerateRequest, question: str, room: int) -> tuple[list[str], str, str | None]:
        """The pieces, why they end, and the stop string that ended them."""
        known = self.script.get("answers", {}).get(question)
        self.requests += 1
        text = known if known is not None else DEFAULT * (self.script.get("length", 64) * PIECE // len(DEFAULT) + 1)
        if known is None:
            text = text[: self.script.get("length", 64) * PIECE]
        if self.script.get("garble"):
            text = "zzzz" * 16
        if self.requests in self.script.get("odd", ()) or (self.script.get("crosstalk") and self.live):
            text = "Something else, " + text
        if request.echo and isinstance(request.prompt, str):
            text = request.prompt + text
        finish, match = STOP, None
        deaf = self.script.get("deaf") == "stop" or self.output(request, []) is not None  # then it is looked for later
        heard = () if deaf else request.stop
        hits = [(text.find(s), s) for s in heard if s in text]
        if hits:
            at, match = min(hits)
            text = text[:at]
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)] or [""]
        most = min(request.max_tokens or room, room)
        return (pieces[:most], LENGTH, None) if len(pieces) > most else (pieces, finish, match)

    def step(self) -> bool:
        if not self.live:
            return False
        self.steps += 1
        if self.script.get("step"):
            time.sleep(self.script["step"])
        self.misbehave()
        now = time.monotonic()
        self.live = [s for s in self.live if not self.advance(s, now)]
        return True

    def misbehave(self) -> None:
        if self.steps == self.script.get("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == self.script.get("wedge_after"):
            time.sleep(10_000)

    def advance(self, s: Sequence, now: float) -> bool:
        """One token of one sequence; True when that was its last."""
        if now < s.begins_at:
            time.sleep(0.001)
            return False
        text = s.pieces[s.at]
        said = s.output.push(s.at) if s.output else Said(text)
        s.at += 1
        complete = s.output is not None and s.output.complete
        last = s.at == len(s.pieces) or complete
        late = s.ends_at is not None and now >= s.ends_at
        id = zlib.crc32(text.encode()) % self.identity.vocab
        logprobs = (TokenLogprob(text, id, -0.5, ((text, id, -0.5),)),) if s.request.logprobs is not None else ()
        if last or late:
            finish, match = (STOP if complete else s.finish if last else TIME), s.match if last else None
            if s.output:
                said, match = said.then(s.output.finish()), s.output.matched
                finish = TOOLS if s.output.calls and finish == STOP else finish
            self.end(s, Chunk(s.request.id, s.index, said.text, 1, finish, match, logprobs, None, *said[2:]))
        elif said or s.output is None:
            self.emit(Chunk(s.request.id, s.index, said.text, 1, None, None, logprobs, None, *said[2:]))
        return last or late

    def end(self, s: Sequence, chunk: Chunk) -> None:
        """Send a sequence's last chunk, with the usage when it is the request's last."""
        prompt, left, made = self.left.pop(s.request.id)
        made += s.at
        if left > 1:
            self.left[s.request.id] = (prompt, left - 1, made)
            self.emit(chunk)
        else:
            self.emit(Chunk(**{**chunk.__dict__, "usage": Usage(prompt, made)}))

    def cancel(self, id: str) -> None:
        if self.script.get("deaf") == "cancel":
            return
        mine = [s for s in self.live if s.request.id == id]
        self.live = [s for s in self.live if s.request.id != id]
        for s in mine:
            self.end(s, Chunk(id, s.index, finish=CANCELLED))

    def close(self) -> None:
        self.live.clear()
