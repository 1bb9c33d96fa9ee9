"""Asks a slot over its public HTTP API, as any client would, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from llmctl.errors import LlmctlError, Unreachable

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 900.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # bound there, reached here


def chat(
    address: str,
    port: int,
    messages: Sequence[Mapping[str, Any]],
    *,
    key: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> Generator[str, None, dict[str, Any]]:
    """Yield the pieces of the answer; return {model, answer, finish, usage, seconds}.

    Unreachable when nothing listens; otherwise the slot's own error.
    """
    asked = {"messages": list(messages), "stream": True, "stream_options": {"include_usage": True}}
    limits = {"max_tokens": max_tokens, "temperature": temperature}
    body = json.dumps({**asked, **{name: value for name, value in limits.items() if value is not None}})
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    began = time.monotonic()
    connection = http.client.HTTPConnection(ANYWHERE.get(address, address), port, timeout=CONNECT_TIMEOUT)
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT)
        connection.request("POST", "/v1/chat/completions", body, headers)
        result: dict[str, Any] = {"model": None, "answer": "", "finish": None, "usage": None}
        with connection.getresponse() as response:
            if response.status != 200:
                raise error_of(response.read(), port, f"HTTP {response.status}")
            for event in events(response, port):
                result["model"] = event.get("model") or result["model"]
                result["usage"] = event.get("usage") or result["usage"]
                for choice in event.get("choices") or ():
                    piece = (choice.get("delta") or {}).get("content") or ""
                    result["answer"] += piece
                    result["finish"] = choice.get("finish_reason") or result["finish"]
                    if piece:
                        yield piece
        if result["finish"] is None:
            raise LlmctlError("the answer ended before its end", hint=f"llmctl logs {port}", port=port)
        return {**result, "seconds": round(time.monotonic() - began, 3)}
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer from port {port}: {error}", hint="llmctl status", port=port) from None
    finally:
        connection.close()


def events(response: http.client.HTTPResponse, port: int) -> Generator[dict[str, Any], None, None]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise error_of(data, port, "the engine failed")
        yield event


def error_of(body: bytes, port: int, usual: str) -> LlmctlError:
    """The OpenAI error object as our error; `details["param"]` is the field at fault."""
    try:
        found = json.loads(body)["error"]
        error = LlmctlError(str(found["message"]), port=port, details={"param": found.get("param")})
        error.code = str(found.get("code") or error.code)
        return error
    except (ValueError, KeyError, TypeError, AttributeError):
        return LlmctlError(f"{usual}: {body[:200].decode(errors='replace')}", port=port)
