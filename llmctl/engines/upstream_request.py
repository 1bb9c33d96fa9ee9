"""A GenerateRequest or a Task in the words of another server; what it has no word for is refused by name. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmctl.domain import DETOKENIZE, EMBED, JSON_OBJECT, JSON_SCHEMA, RERANK, TOKENIZE, GenerateRequest, Identity, Task
from llmctl.engines.requests import bounded, offered, too_long
from llmctl.errors import RequestError
from llmctl.servers import Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SEEDS = 2**31  # the range that every server takes; ours is 64 bits wide
MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))
OFF: Mapping[str, Any] = {
    "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
ALWAYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # servers have defaults of their own for them


def bodies(
    request: GenerateRequest, server: Server, model: str, identity: Identity
) -> tuple[str, list[dict[str, Any]]]:
    """The path, and the JSON of one request, or of one for each sequence where the server makes one at a time.

    RequestError, with the field that a client knows, for what cannot be carried.
    """
    bounded(request, identity)
    if request.max_tokens is not None and request.max_tokens > identity.context:
        raise too_long(f"max_tokens is {request.max_tokens}; the context is {identity.context}", "max_tokens")
    body = _Body(server.carries(), server.kind)
    body.made["model"] = request.adapter or model
    body.made["stream"] = True
    body.put("stream_options", {"include_usage": True}, needed=False)
    path = _chat(body, request) if request.messages is not None else _completion(body, request)
    _sampling(body, request)
    _ends(body, request, identity, server)
    if request.logprobs is not None:
        body.put("logprobs", request.logprobs if path == COMPLETIONS else True)
        if path == CHAT and request.logprobs:
            body.made["top_logprobs"] = request.logprobs
    if request.n == 1:
        return path, [body.made]
    if "n" in body.carries:
        body.put("n", request.n)
        return path, [body.made]
    seed = request.sampling.seed
    if seed is None:
        return path, [dict(body.made) for _ in range(request.n)]
    return path, [{**body.made, body.carries["seed"]: (seed + i) % SEEDS} for i in range(request.n)]


class _Body:
    """A request's JSON in the making."""

    def __init__(self, carries: Mapping[str, str], kind: str) -> None:
        self.carries, self.kind = carries, kind
        self.made: dict[str, Any] = {}

    def needs(self, name: str, param: str | None = None) -> None:
        """RequestError, naming the client's field `param`, where the server has no word for it."""
        if name not in self.carries:
            raise self.refusal(param or name)

    def put(self, name: str, value: Any, *, needed: bool = True) -> None:
        """`value` under the server's name for the field; RequestError where it has none and the field is `needed`."""
        if needed:
            self.needs(name)
        wire = self.carries.get(name)
        if wire is None:
            return
        *outer, last = wire.split(".")
        place = self.made
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value

    def refusal(self, param: str) -> RequestError:
        return RequestError(
            f"the server behind this slot ({self.kind}) does not take {param}", param=param, code="unsupported_field",
            hint=f"leave {param} out",
        )  # fmt: skip


def _chat(body: _Body, request: GenerateRequest) -> str:
    made = [_message(message, request) for message in request.messages or ()]
    body.made["messages"] = made
    if tools := offered(request):
        body.put("tools", [{"type": "function", "function": dict(tool)} for tool in tools])
        if request.tool_choice != "auto":
            body.put("tool_choice", request.tool_choice)
        if not request.parallel_tools:
            body.put("parallel_tool_calls", False, needed=False)  # else upstream_answer keeps to one
    if (format := request.format) is not None:
        if format.kind == JSON_OBJECT:
            body.needs("json_object", "response_format")
            body.made["response_format"] = {"type": "json_object"}
        elif format.kind == JSON_SCHEMA:
            body.needs("json_schema", "response_format")
            schema = {"name": "answer", "schema": json.loads(format.text), "strict": True}
            body.made["response_format"] = {"type": "json_schema", "json_schema": schema}
        else:
            body.put(format.kind, format.text)
    if request.thinking is not None:
        body.put("thinking", request.thinking)
    if request.effort is not None:
        body.put("reasoning_effort", request.effort)
    if request.continue_last:
        body.put("continue_final_message", True)
        body.made["add_generation_prompt"] = False
    return CHAT


def _message(message: Mapping[str, Any], request: GenerateRequest) -> dict[str, Any]:
    """As OpenAI's clients send it: arguments as text, images as data URLs."""
    made = dict(message)
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in calls
        ]
    if isinstance(content := message.get("content"), list | tuple) and request.media:
        media = iter(request.media[_seen_before(message, request) :])
        made["content"] = [
            {"type": "image_url", "image_url": {"url": _data_url(next(media).data)}} if part["type"] != "text" else part
            for part in content
        ]
    return made


def _seen_before(message: Mapping[str, Any], request: GenerateRequest) -> int:
    """How many media stand in the messages before this one."""
    count = 0
    for other in request.messages or ():
        if other is message:
            break
        content = other.get("content")
        count += sum(part["type"] != "text" for part in content) if isinstance(content, list | tuple) else 0
    return count


def _data_url(data: bytes) -> str:
    kind = next((name for magic, name in MAGIC if data.startswith(magic)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _completion(body: _Body, request: GenerateRequest) -> str:
    body.needs("completions", "prompt")
    if isinstance(request.prompt, tuple):
        body.needs("prompt_ids", "prompt")
    body.made["prompt"] = list(request.prompt) if isinstance(request.prompt, tuple) else request.prompt
    if not request.prompt:
        raise RequestError("the prompt is empty", param="prompt")
    if request.suffix is not None:
        body.put("suffix", request.suffix)
    if request.echo and not echoed_here(request):
        body.put("echo", True)
    if request.format is not None:
        raise body.refusal("response_format")
    return COMPLETIONS


def echoed_here(request: GenerateRequest) -> bool:
    """The prompt that is to stand before the answer is known here: nobody need be asked for it."""
    return request.echo and isinstance(request.prompt, str) and request.logprobs is None


def _sampling(body: _Body, request: GenerateRequest) -> None:
    sampling = request.sampling
    for name in ("temperature", "top_p", *OFF):
        value = getattr(sampling, name)
        wanted = name in ("temperature", "top_p") or value != OFF[name]
        if name in ALWAYS or wanted:
            body.put(name, value, needed=wanted)
    if sampling.seed is not None:
        body.put("seed", sampling.seed % SEEDS)
    if sampling.logit_bias:
        body.put("logit_bias", {str(id): bias for id, bias in sampling.logit_bias})


def _ends(body: _Body, request: GenerateRequest, identity: Identity, server: Server) -> None:
    if request.stop:
        body.put("stop", list(request.stop), needed=False)  # upstream_answer finds them too
    if request.stop_ids:
        body.put("stop_token_ids", list(request.stop_ids))
    if request.ignore_eos:
        body.put("ignore_eos", True)
    most = request.max_tokens or (identity.context if server.traits.fills else None)
    if most is not None:
        body.put("max_tokens", most)


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Read = Callable[[Any], Mapping[str, Any]]


def task(task: Task, server: Server, model: str, identity: Identity) -> tuple[str, dict[str, Any], Read]:
    """Path, JSON and what makes the value of Done out of its answer; RequestError for what it cannot."""
    if task.verb not in identity.capabilities:
        raise RequestError(f"{identity.model} on a {server.kind} server cannot {task.verb}", code="unsupported_task")
    given = task.arguments
    llama = server.kind == "llama-server"
    if task.verb == TOKENIZE:
        if (messages := given.get("messages")) is not None:
            if llama:
                raise RequestError(f"a {server.kind} server does not tokenize a chat", param="messages")
            return "/tokenize", {"model": model, "messages": list(messages)}, lambda said: {"ids": _ids(said)}
        text, bos = given["text"], bool(given.get("bos"))
        own = {"content": text, "add_special": bos, "parse_special": bool(given.get("special"))}
        body = own if llama else {"model": model, "prompt": text, "add_special_tokens": bos}
        return "/tokenize", body, lambda said: {"ids": _ids(said)}
    if task.verb == DETOKENIZE:
        key = "content" if llama else "prompt"
        return "/detokenize", {"model": model, "tokens": list(given["ids"])}, lambda said: {"text": str(said[key])}
    if task.verb == EMBED:
        if given.get("pooling"):
            raise RequestError(f"a {server.kind} server pools as it was started to", param="pooling")
        inputs = list(given["inputs"])
        return "/v1/embeddings", {"model": model, "input": inputs}, lambda said: _vectors(said, len(inputs))
    assert task.verb == RERANK
    documents = list(given["documents"])
    body = {"model": model, "query": given["query"], "documents": documents}
    return "/v1/rerank", body, lambda said: _scores(said, len(documents))


def _ids(said: Any) -> list[int]:
    return [int(token["id"] if isinstance(token, Mapping) else token) for token in said["tokens"]]


def _ordered(rows: Iterable[Mapping[str, Any]], key: str, count: int) -> list[Any]:
    found = {int(row["index"]): row[key] for row in rows}
    return [found[i] for i in range(count)]


def _vectors(said: Any, count: int) -> dict[str, Any]:
    vectors = [[float(x) for x in row] for row in _ordered(said["data"], "embedding", count)]
    return {"vectors": vectors, "tokens": _tokens(said)}


def _scores(said: Any, count: int) -> dict[str, Any]:
    scores = [float(score) for score in _ordered(said["results"], "relevance_score", count)]
    return {"scores": scores, "tokens": _tokens(said)}


def _tokens(said: Any) -> int:
    usage = said.get("usage") or {}
    return int(usage.get("prompt_tokens") or usage.get("total_tokens") or 0)
