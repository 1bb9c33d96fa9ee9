"""What another server streams, as chunks: text, thoughts, tool calls, log-probabilities, ends, usage. Pure."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmctl.decoding.stops import StopMatcher
from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, TOOLS, CallPiece, Chunk, GenerateRequest, TokenLogprob, Usage
from llmctl.engines import upstream_errors
from llmctl.engines.upstream_request import echoed_here
from llmctl.errors import RequestError

LINE = 16 * 2**20  # bytes of one event; more is no answer
FINISH = {"length": LENGTH, "max_tokens": LENGTH, "tool_calls": TOOLS, "function_call": TOOLS, "timeout": TIME}
NO_ID = 2**31 - 1  # token ids below: made of the text where the server does not tell them


class Events:
    """Cuts the bytes of an event stream into the JSON of its events; None is the terminator."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any] | None]:
        """Those that are whole now; RequestError for what is none."""
        *lines, rest = data.split(b"\n")
        if lines and self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
        if lines:
            self._rest, self._size = [], 0
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
        if self._size > LINE:
            raise upstream_errors.garbage(f"an event of more than {LINE >> 20} MiB")
        for line in lines:
            if line.startswith(b"data:"):
                yield self._event(line[5:].strip())
            elif line.lstrip().startswith((b"<", b"{")):
                raise upstream_errors.garbage("something that is no event stream")

    def _event(self, text: bytes) -> Mapping[str, Any] | None:
        return None if text == b"[DONE]" else _object(text, "an event")


class Sequence:
    """One of an answer's texts."""

    def __init__(self, request: GenerateRequest) -> None:
        self.stops = StopMatcher(request.stop)
        self.one_call = not request.parallel_tools
        self.calls: dict[int, bool] = {}  # its index → it was named
        self.finish: str | None = None
        self.match: str | None = None
        self.closed = False  # its last chunk was sent
        self.tokens = 0

    def pieces(self, calls: Any) -> Iterator[CallPiece]:
        """The tool calls of one delta; a later piece of a call has neither id nor name."""
        for at, call in enumerate(calls):
            given = call.get("index")
            index = given if isinstance(given, int) else len(self.calls) if call.get("id") else at
            if self.one_call and index > 0:
                continue
            function = call.get("function") or {}
            arguments = function.get("arguments")
            if arguments is None:
                arguments = ""
            elif not isinstance(arguments, str):
                arguments = json.dumps(arguments)
            if index not in self.calls:
                self.calls[index] = True
                id = str(call.get("id") or f"call_{uuid.uuid4().hex[:24]}")
                yield CallPiece(index, id, str(function.get("name") or ""), arguments)
            elif arguments:
                yield CallPiece(index, arguments=arguments)


class Answer:
    """The answer to one request, all its sequences; `take` turns what the server says into chunks.

    `offset` is the first sequence of a request that was sent once for each. A sequence's last chunk waits until the
    server has said how many tokens there were.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.field = "messages" if request.messages is not None else "prompt"
        self.sequences = [Sequence(request) for _ in range(request.n)]
        self.usages: dict[int, Usage] = {}  # by the first sequence of what was sent

    def opening(self) -> Iterator[Chunk]:
        """What stands before any answer: the prompt, when it is to be repeated."""
        if echoed_here(self.request):
            for index in range(self.request.n):
                yield Chunk(self.request.id, index, str(self.request.prompt))

    def take(self, said: Mapping[str, Any], offset: int = 0) -> Iterator[Chunk]:
        """The chunks of one event, or of a whole answer; RequestError for an error object or what is no answer."""
        if said.get("error"):
            raise upstream_errors.said_error(said, self.field)
        if isinstance(usage := said.get("usage"), Mapping):
            self.usages[offset] = _usage(usage)
        choices = said.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            if choices is None and usage:
                return
            raise upstream_errors.garbage("an event without choices")
        for choice in choices:
            index = offset + int(choice.get("index") or 0)
            if not 0 <= index < len(self.sequences):
                raise upstream_errors.garbage(f"choice {index} of {len(self.sequences)}")
            if chunk := self._chunk(index, choice):
                yield chunk

    def _chunk(self, index: int, choice: Mapping[str, Any]) -> Chunk | None:
        sequence = self.sequences[index]
        if sequence.finish is not None:
            return None
        delta = choice.get("delta") or choice.get("message") or {}
        text = delta.get("content") or choice.get("text") or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(reasoning, str):
            raise upstream_errors.garbage("content that is no text")
        calls = tuple(sequence.pieces(delta.get("tool_calls") or ()))
        logprobs = _logprobs(choice.get("logprobs"))
        shown = sequence.stops.push(text) if text else ""
        if sequence.stops.matched is not None:
            sequence.finish, sequence.match = STOP, sequence.stops.matched
        elif (why := choice.get("finish_reason")) is not None:
            sequence.finish = FINISH.get(why, STOP)
            if sequence.finish == STOP and sequence.calls:
                sequence.finish = TOOLS
            told = choice.get("stop_reason")
            sequence.match = told if isinstance(told, str) and told in self.request.stop else None
            shown += sequence.stops.flush()
        tokens = len(logprobs) or bool(text or reasoning or calls)
        sequence.tokens += tokens
        if not (shown or reasoning or calls or logprobs):
            return None
        return Chunk(self.request.id, index, shown, int(tokens), None, None, logprobs, None, reasoning, calls)

    def complete(self, offset: int, count: int) -> bool:
        """These sequences have all said why they ended."""
        return all(sequence.finish is not None for sequence in self.sequences[offset : offset + count])

    def needs_no_more(self, offset: int, count: int) -> bool:
        """All is known of these sequences: the tokens are counted, or the server goes on behind a stop string."""
        stopped = all(sequence.stops.matched is not None for sequence in self.sequences[offset : offset + count])
        return stopped or (offset in self.usages and self.complete(offset, count))

    def end(self, offset: int, count: int) -> Iterator[Chunk]:
        """The last chunks of these sequences, the request's very last with its usage; RequestError when cut short."""
        if not self.complete(offset, count):
            raise upstream_errors.cut()
        yield from self._last(range(offset, offset + count))

    def _last(self, indices: Iterable[int]) -> Iterator[Chunk]:
        for index in indices:
            sequence = self.sequences[index]
            sequence.closed = True
            usage = self.usage() if all(one.closed for one in self.sequences) else None
            yield Chunk(self.request.id, index, finish=sequence.finish, stop_match=sequence.match, usage=usage)

    def broken_off(self, why: str = CANCELLED) -> Iterator[Chunk]:
        """The last chunks of all that has not ended, for a client that went away or a time that is over."""
        left = [index for index, sequence in enumerate(self.sequences) if not sequence.closed]
        for index in left:
            self.sequences[index].finish = self.sequences[index].finish or why
        yield from self._last(left)

    def usage(self) -> Usage:
        """What the server counted, or the events that came where it does not count."""
        made = sum(sequence.tokens for sequence in self.sequences)
        told = list(self.usages.values())
        if not told:
            return Usage(0, made)
        completion = sum(usage.completion for usage in told)
        return Usage(told[0].prompt, completion or made, told[0].cached)


def _usage(said: Mapping[str, Any]) -> Usage:
    details = said.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Usage(*(n if isinstance(n, int) else 0 for n in (
        said.get("prompt_tokens"), said.get("completion_tokens"), cached,
    )))  # fmt: skip


def _logprobs(said: Any) -> tuple[TokenLogprob, ...]:
    """Both shapes: a chat's list of tokens, and a completion's lists side by side."""
    if not isinstance(said, Mapping):
        return ()
    if (content := said.get("content")) is not None:
        return tuple(_one(row, tuple(row.get("top_logprobs") or ())) for row in content)
    tokens, values = said.get("tokens") or (), said.get("token_logprobs") or ()
    tops = said.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, _id(token), value or 0.0, tuple((t, _id(t), p) for t, p in (top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=False)
    )


def _one(row: Mapping[str, Any], top: tuple[Mapping[str, Any], ...]) -> TokenLogprob:
    text = str(row.get("token") or "")
    others = tuple((str(t.get("token") or ""), _told(t), float(t["logprob"])) for t in top)
    return TokenLogprob(text, _told(row), float(row["logprob"]), others)


def _told(row: Mapping[str, Any]) -> int:
    id = row.get("id")
    return id if isinstance(id, int) else _id(str(row.get("token") or ""))


def _id(text: str) -> int:
    """A number for a token that has none: the dialect tells texts only."""
    return zlib.crc32(text.encode("utf-8", "replace")) % NO_ID


def whole(body: bytes) -> Mapping[str, Any]:
    """A JSON answer of a server that does not stream."""
    return _object(body, "an answer")


def _object(text: bytes, what: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise upstream_errors.garbage(f"{what} that is not JSON") from None
    if not isinstance(said, Mapping):
        raise upstream_errors.garbage(f"{what} that is no object")
    return said


def wrong(error: Exception) -> RequestError:
    """An answer of another shape than the dialect's, met while it was read."""
    return upstream_errors.garbage(f"an answer of another shape ({type(error).__name__})")
