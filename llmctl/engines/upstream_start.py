"""The first words with another server: wait until it is ready, and ask who it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llmctl.domain import REST, TEXT, EngineSpec, Identity
from llmctl.engines.upstream_link import Link
from llmctl.errors import LlmctlError, LoadFailed, RequestError
from llmctl.servers import Server, told_context

EVERY = 0.1
ANSWER = 5.0  # seconds for one answer while it is starting
MODELS = "/v1/models"


def ready(link: Link, server: Server, model: str, deadline: float, ended: Callable[[], int | None]) -> None:
    """Wait until its `ready` path answers 200; LoadFailed when it has `ended`, or at the `deadline` (monotonic)."""
    path = server.ready or server.traits.ready
    while True:
        if (status := ended()) is not None:
            raise LoadFailed(f"{model}: {server.command[0]} ended with exit status {status} before it was ready")
        said = link.run(link.status(path, min(ANSWER, max(0.1, deadline - time.monotonic()))))
        if said == 200:
            return
        if said in (401, 403):
            raise LoadFailed(f"{model}: its server wants a key ({said})", hint="key_env names the variable that has it")
        if time.monotonic() > deadline:
            why = {0: "nothing listens there", None: "it does not answer"}.get(said, f"{path} answers {said}")
            raise LoadFailed(f"{model}: the server {_place(server)} is not ready: {why}")
        time.sleep(EVERY)


def _place(server: Server) -> str:
    return f"at {server.url}" if server.url else f"({server.command[0]})"


def identified(link: Link, spec: EngineSpec, server: Server) -> Identity:
    """Who the server is; LoadFailed with both names when it serves another model than was asked for."""
    rows = _models(link, spec.model)
    name = server.name(spec.model, spec.path)
    mine = next((row for row in rows if row.get("id") == name), None)
    if rows and mine is None and not server.traits.lists_disk:
        have = ", ".join(str(row.get("id")) for row in rows[:5])
        raise LoadFailed(
            f"{spec.model}: asked for {name}, the server {_place(server)} serves {have}",
            hint=f"served = {str(rows[0].get('id'))!r} in the entry, if that is the same model",
        )
    told = told_context(mine or {})
    tasks = server.traits.tasks if server.tasks is None else server.tasks
    words = _words(server)
    return Identity(
        model=spec.model,
        engine="upstream",
        architecture=server.kind,
        context=min(told, spec.context) if told else spec.context,
        vocab=0,
        parallel=spec.parallel,
        device="server",
        chat=server.generates,
        capabilities=(*words, *tasks),
        inputs=server.inputs,
        outputs=(TEXT,) if server.generates else (),
        load_path="attached" if server.url else "launched",
        adapters=tuple(str(row["id"]) for row in rows if row.get("parent") == name and row.get("id") != name),
    )


def _models(link: Link, model: str) -> list[Mapping[str, Any]]:
    """The rows of /v1/models; none where a server has no such list."""
    try:
        said = link.run(link.json("GET", MODELS))
    except RequestError as error:
        if error.status in (400, 502):
            print(f"upstream: {MODELS} says nothing: {error.message}", flush=True)
            return []
        raise LoadFailed(f"{model}: {error.message}") from error
    except LlmctlError as error:
        raise LoadFailed(f"{model}: {error.message}") from error
    rows = said.get("data")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _words(server: Server) -> tuple[str, ...]:
    """Its capabilities as Identity has them."""
    if not server.generates:
        return ()
    carries = server.carries()
    able = {
        "logprobs": "logprobs" in carries,
        "logit_bias": "logit_bias" in carries,
        "seed": "seed" in carries,
        "schema": "json_schema" in carries,
        "tools": "tools" in carries,
        "reasoning": "thinking" in carries or "reasoning_effort" in carries,
        "suffix": "suffix" in carries,
        REST: server.sleep,
    }
    return tuple(word for word, is_so in able.items() if is_so)
