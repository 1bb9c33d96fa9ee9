"""Each protocol's own words for the same few questions."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TIMEOUT = 60.0
LENGTH, STOP, STOP_STRING, TOOLS = "length", "stop", "stop string", "tools"


@dataclass(frozen=True)
class Said:
    """A whole answer. `finish` is LENGTH, STOP, STOP_STRING (where the protocol tells it from STOP) or TOOLS."""

    text: str
    finish: str
    prompt_tokens: int = 0
    tokens: int = 0
    calls: tuple[tuple[str, Any], ...] = ()


@dataclass(eq=False)
class Refused(Exception):
    """An error in the protocol's own shape: its HTTP status (0 over a WebSocket) and its words."""

    status: int
    message: str


class Driver(ABC):
    """A client of one protocol on one port."""

    templated = True  # the question goes through the model's chat template

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model

    @abstractmethod
    def ask(self, question: str, **wish: Any) -> Said:
        """A whole answer, greedy. `wish`: max_tokens, stop, tools, schema, image (PNG bytes)."""

    @abstractmethod
    def stream(self, question: str, **wish: Any) -> Iterator[str]:
        """The pieces of an answer; closing it hangs up."""

    @abstractmethod
    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        """(what is wrong, a body that the protocol must refuse)."""

    @abstractmethod
    def send(self, body: Mapping[str, Any] | bytes) -> None:
        """Send a body as it is; raises Refused."""


class Http(Driver):
    """What the protocols over HTTP share: JSON in; JSON, server-sent events or lines of JSON out."""

    path = ""
    headers: Mapping[str, str] = {}

    @abstractmethod
    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]: ...

    @abstractmethod
    def said(self, answer: Any) -> Said: ...

    @abstractmethod
    def piece(self, event: Any) -> str | None:
        """The text of one event of a stream."""

    @abstractmethod
    def error(self, answer: Any) -> str: ...

    def ask(self, question: str, **wish: Any) -> Said:
        with self._posted(self.body(question, False, wish)) as response:
            return self.said(json.loads(response.read()))

    def stream(self, question: str, **wish: Any) -> Iterator[str]:
        with self._posted(self.body(question, True, wish)) as response:
            for event in self.events(response):
                if isinstance(event, dict) and (event.get("error") or event.get("type") == "error"):
                    raise Refused(0, self.error(event))
                if text := self.piece(event):
                    yield text

    def events(self, response: http.client.HTTPResponse) -> Iterator[Any]:
        for line in response:
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                yield json.loads(line[6:])

    def send(self, body: Mapping[str, Any] | bytes) -> None:
        with self._posted(body):
            pass

    def _posted(self, body: Mapping[str, Any] | bytes) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "connection": "close", **self.headers}
        connection.request("POST", self.path, data, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise Refused(response.status, self.error(json.loads(response.read())))
        return response


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


class OpenAI(Http):
    path = "/v1/chat/completions"

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        content: Any = question
        if "image" in wish:
            picture = {"type": "image_url", "image_url": {"url": data_url(wish["image"])}}
            content = [picture, {"type": "text", "text": question}]
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": wish.get("max_tokens", 32), "stream": stream,
        }  # fmt: skip
        if "stop" in wish:
            body["stop"] = wish["stop"]
        if "tools" in wish:
            body |= {"tools": [{"type": "function", "function": t} for t in wish["tools"]], "tool_choice": "required"}
        if "schema" in wish:
            schema = {"name": "answer", "schema": wish["schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def said(self, answer: Any) -> Said:
        (choice,), usage = answer["choices"], answer["usage"]
        message = choice["message"]
        calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())]
        finish = {"stop": STOP, "length": LENGTH, "tool_calls": TOOLS}[choice["finish_reason"]]
        return Said(message["content"] or "", finish, usage["prompt_tokens"], usage["completion_tokens"], tuple(calls))

    def piece(self, event: Any) -> str | None:
        return event["choices"][0]["delta"].get("content") if event["choices"] else None

    def error(self, answer: Any) -> str:
        found = answer["error"]
        assert set(found) >= {"message", "type", "param", "code"}
        return str(found["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "messages", {"messages": []}
        yield "temperature", {"messages": [{"role": "user", "content": "x"}], "temperature": 3}
        yield "JSON", b"{"
        yield "model", {"messages": [{"role": "user", "content": "x"}], "model": "nobody"}


class Completions(OpenAI):
    path = "/v1/completions"
    templated = False

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        body = super().body(question, stream, wish)
        del body["messages"]
        return {**body, "prompt": question}

    def said(self, answer: Any) -> Said:
        (choice,), usage = answer["choices"], answer["usage"]
        finish = {"stop": STOP, "length": LENGTH}[choice["finish_reason"]]
        return Said(choice["text"], finish, usage["prompt_tokens"], usage["completion_tokens"])

    def piece(self, event: Any) -> str | None:
        return str(event["choices"][0]["text"]) if event["choices"] else None

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "prompt", {"prompt": ""}
        yield "max_tokens", {"prompt": "x", "max_tokens": 0}
        yield "JSON", b"[]"


class Responses(Http):
    path = "/v1/responses"

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        content: Any = [{"type": "input_text", "text": question}]
        if "image" in wish:
            content = [{"type": "input_image", "image_url": data_url(wish["image"])}, *content]
        body: dict[str, Any] = {
            "model": self.model, "input": [{"role": "user", "content": content}], "temperature": 0,
            "max_output_tokens": wish.get("max_tokens", 32), "stream": stream,
        }  # fmt: skip
        if "stop" in wish:
            body["stop"] = wish["stop"]
        if "tools" in wish:
            body |= {"tools": [{"type": "function", **tool} for tool in wish["tools"]], "tool_choice": "required"}
        if "schema" in wish:
            body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": wish["schema"]}}
        return body

    def said(self, answer: Any) -> Said:
        output, usage = answer["output"], answer["usage"]
        parts = [part for item in output if item["type"] == "message" for part in item["content"]]
        calls = [(i["name"], json.loads(i["arguments"])) for i in output if i["type"] == "function_call"]
        finish = LENGTH if answer["status"] == "incomplete" else TOOLS if calls else STOP
        text = "".join(part["text"] for part in parts)
        return Said(text, finish, usage["input_tokens"], usage["output_tokens"], tuple(calls))

    def piece(self, event: Any) -> str | None:
        return event["delta"] if event["type"] == "response.output_text.delta" else None

    def error(self, answer: Any) -> str:
        return str(answer.get("error", answer)["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "input", {"model": self.model}
        yield "temperature", {"input": "x", "temperature": 3}
        yield "previous_response_id", {"input": "x", "previous_response_id": "resp_1"}
        yield "JSON", b"{"


class Anthropic(Http):
    path = "/v1/messages"
    headers = {"anthropic-version": "2023-06-01"}  # noqa: RUF012 - never changed

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        content: Any = question
        if "image" in wish:
            source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(wish["image"]).decode()}
            content = [{"type": "image", "source": source}, {"type": "text", "text": question}]
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": wish.get("max_tokens", 32), "stream": stream,
        }  # fmt: skip
        if "stop" in wish:
            body["stop_sequences"] = [wish["stop"]]
        if "tools" in wish:
            tools = [{**t, "input_schema": t["parameters"]} for t in wish["tools"]]
            body["tools"] = [{k: v for k, v in tool.items() if k != "parameters"} for tool in tools]
            body["tool_choice"] = {"type": "any"}
        if "schema" in wish:
            body["output_config"] = {"format": {"type": "json_schema", "schema": wish["schema"]}}
        return body

    def said(self, answer: Any) -> Said:
        blocks, usage = answer["content"], answer["usage"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
        ends = {"end_turn": STOP, "max_tokens": LENGTH, "stop_sequence": STOP_STRING, "tool_use": TOOLS}
        finish = ends[answer["stop_reason"]]
        prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
        return Said(text, finish, prompt, usage["output_tokens"], tuple(calls))

    def piece(self, event: Any) -> str | None:
        return event["delta"].get("text") if event["type"] == "content_block_delta" else None

    def error(self, answer: Any) -> str:
        assert answer["type"] == "error" and answer["error"]["type"]
        return str(answer["error"]["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "max_tokens", {"messages": [{"role": "user", "content": "x"}]}
        yield "messages", {"max_tokens": 1, "messages": []}
        yield "temperature", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "temperature": 2}
        yield "JSON", b"{"


class Ollama(Http):
    path = "/api/chat"

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "user", "content": question}
        if "image" in wish:
            message["images"] = [base64.b64encode(wish["image"]).decode()]
        options = {"temperature": 0, "num_predict": wish.get("max_tokens", 32)}
        if "stop" in wish:
            options["stop"] = [wish["stop"]]
        body = {"model": self.model, "messages": [message], "stream": stream, "options": options}
        if "tools" in wish:
            # Ollama has no way to demand a call: the schema of the one tool's arguments does not either.
            body["tools"] = [{"type": "function", "function": tool} for tool in wish["tools"]]
        if "schema" in wish:
            body["format"] = wish["schema"]
        return body

    def events(self, response: http.client.HTTPResponse) -> Iterator[Any]:
        yield from map(json.loads, response)

    def said(self, answer: Any) -> Said:
        message = answer["message"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        finish = TOOLS if calls else {"stop": STOP, "length": LENGTH}[answer["done_reason"]]
        return Said(message["content"], finish, answer["prompt_eval_count"], answer["eval_count"], tuple(calls))

    def piece(self, event: Any) -> str | None:
        return str(event["message"]["content"])

    def error(self, answer: Any) -> str:
        return str(answer["error"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "messages", {"messages": "x"}
        yield "temperature", {"messages": [{"role": "user", "content": "x"}], "options": {"temperature": "hot"}}
        yield "JSON", b"{"
        yield "model", {"messages": [{"role": "user", "content": "x"}], "model": "nobody"}


class Execute(Http):
    path = "/execute"
    templated = False

    def body(self, question: str, stream: bool, wish: Mapping[str, Any]) -> dict[str, Any]:
        body = {"job_id": "j1", "prompt": question, "max_tokens": wish.get("max_tokens", 32), "temperature": 0.0}
        return {**body, "stop": [wish["stop"]]} if "stop" in wish else body

    def ask(self, question: str, **wish: Any) -> Said:
        with self._posted(self.body(question, False, wish)) as response:
            *events, end = list(self.events(response))
        assert [e["i"] for e in events if e["type"] == "token"] == list(
            range(sum(e["type"] == "token" for e in events))
        )
        ends = {"EOS": STOP, "MAX_TOKENS": LENGTH, "STOP_SEQUENCE": STOP_STRING}
        text = "".join(event["t"] for event in events if event["type"] == "token")
        return Said(text, ends[end["stop_reason"]], 1, end["tokens_out"])

    def said(self, answer: Any) -> Said:
        raise AssertionError("every answer is a stream")

    def piece(self, event: Any) -> str | None:
        return event["t"] if event["type"] == "token" else None

    def error(self, answer: Any) -> str:
        if "errors" in answer:
            return "; ".join(f"{one['field']}: {one['message']}" for one in answer["errors"])
        return str(answer["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "prompt", {"job_id": "j", "prompt": "", "max_tokens": 1}
        yield "max_tokens", {"job_id": "j", "prompt": "x", "max_tokens": 0}
        yield "JSON", b"{"


class Socket(Driver):
    """What the protocols over a WebSocket share: a connection a question."""

    path = ""

    @contextlib.contextmanager
    def connected(self) -> Iterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.port}{self.path}"
        with connect(url, open_timeout=TIMEOUT, close_timeout=1, proxy=None) as socket:
            yield socket

    def receive(self, socket: ClientConnection) -> Any:
        text = socket.recv(TIMEOUT)
        return text if text == "[DONE]" else json.loads(text)


class LlmWs(Socket):
    path = "/ws"

    @contextlib.contextmanager
    def connected(self) -> Iterator[ClientConnection]:
        with super().connected() as socket:
            socket.send(json.dumps({"type": "hello"}))
            assert self.receive(socket)["type"] == "welcome"
            yield socket

    def body(self, question: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        config = {"temperature": 0, "max_tokens": wish.get("max_tokens", 32)}
        if "stop" in wish:
            config["stop"] = [wish["stop"]]
        prompt: dict[str, Any] = {"system": "", "user": question}
        if "image" in wish:
            prompt["images"] = [data_url(wish["image"])]
        return {"type": "inference", "prompt": prompt, "config": config}

    def events(self, body: Mapping[str, Any]) -> Iterator[Any]:
        with self.connected() as socket:
            socket.send(json.dumps(body))
            while True:
                event = self.receive(socket)
                if event["type"] == "error":
                    raise Refused(0, event["message"])
                yield event
                if event["type"] == "done":
                    return

    def ask(self, question: str, **wish: Any) -> Said:
        start, *tokens, done = list(self.events(self.body(question, wish)))
        assert start["type"] == "start" and all(event["type"] == "token" for event in tokens)
        finish = LENGTH if done["total_tokens"] >= start["max_tokens"] else STOP
        return Said("".join(event["data"] for event in tokens), finish, start["tokens_in"], done["total_tokens"])

    def stream(self, question: str, **wish: Any) -> Iterator[str]:
        for event in self.events(self.body(question, wish)):
            if event["type"] == "token":
                yield event["data"]

    def send(self, body: Mapping[str, Any] | bytes) -> None:
        with self.connected() as socket:
            socket.send(body.decode() if isinstance(body, bytes) else json.dumps(body))
            event = self.receive(socket)
        if event["type"] == "error":
            raise Refused(0, event["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield "prompt", {"type": "inference"}
        yield "temperature", {"type": "inference", "prompt": {"user": "x"}, "config": {"temperature": "hot"}}
        yield "JSON", b"{"
        yield "type", {"type": "nonsense"}


class ChatSocket(Socket):
    path = "/v1/chat/completions"

    def events(self, body: Mapping[str, Any]) -> Iterator[Any]:
        with self.connected() as socket:
            socket.send(json.dumps(body))
            while (event := self.receive(socket)) != "[DONE]":
                if "error" in event:
                    raise Refused(0, event["error"]["message"])
                yield event

    def ask(self, question: str, **wish: Any) -> Said:
        body = OpenAI(self.port, self.model).body(question, True, wish)
        text, finish, usage, calls = "", "", {}, dict[int, list[str]]()
        for event in self.events({**body, "stream_options": {"include_usage": True}}):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
                for call in choice["delta"].get("tool_calls") or ():
                    name, arguments = calls.setdefault(call["index"], ["", ""])
                    given = call["function"]
                    calls[call["index"]] = [given.get("name") or name, arguments + (given.get("arguments") or "")]
        ends = {"stop": STOP, "length": LENGTH, "tool_calls": TOOLS}
        made = tuple((name, json.loads(arguments)) for name, arguments in calls.values())
        return Said(text, ends[finish], usage["prompt_tokens"], usage["completion_tokens"], made)

    def stream(self, question: str, **wish: Any) -> Iterator[str]:
        for event in self.events(OpenAI(self.port, self.model).body(question, True, wish)):
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece

    def send(self, body: Mapping[str, Any] | bytes) -> None:
        with self.connected() as socket:
            socket.send(body.decode() if isinstance(body, bytes) else json.dumps(body))
            try:
                event = self.receive(socket)
            except ConnectionClosed as closed:
                raise Refused(0, closed.reason) from None
        if "error" in event:
            raise Refused(0, event["error"]["message"])

    def bad(self) -> Iterator[tuple[str, Mapping[str, Any] | bytes]]:
        yield from OpenAI(self.port, self.model).bad()


DRIVERS: dict[str, type[Driver]] = {
    "openai": OpenAI, "completions": Completions, "responses": Responses, "anthropic": Anthropic, "ollama": Ollama,
    "llmws": LlmWs, "execute": Execute, "websocket": ChatSocket,
}  # fmt: skip
