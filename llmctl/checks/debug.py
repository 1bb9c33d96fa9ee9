"""One generation of one model on a scratch port, in a state folder of its own; nothing of it stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.catalog import Catalog
from llmctl.checks import scratch
from llmctl.checks.slot_http import SlotHttp
from llmctl.config import Host
from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, Refused
from llmctl.models import store
from llmctl.slots.resolve import Wish, resolve
from llmctl.slots.state import Launch

PROMPT, TOKENS, TEMPERATURE = "Once upon a time", 20, 0.7
READY_WITHIN = 30.0
ANSWER_WITHIN = 120.0

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Debugged:
    """What the model said; times in seconds."""

    host: str
    port: int
    backend: str
    model: str
    engine: str
    prompt: str
    text: str
    tokens: int
    seconds: float
    tokens_per_second: float
    ready_seconds: float


def smallest(catalog: Catalog, host: Host) -> SlotSpec:
    """The spec of the smallest model on this host that an engine of its backend can run."""
    found = [
        (_bytes(path), model.id, artifact)
        for model in catalog.models.values()
        for artifact, path in store.present(model, host.models(paths.home()))
        if artifact.format != "script"
    ]
    problems = []
    for _, model_id, artifact in sorted(found, key=lambda one: one[:2]):
        try:
            return resolve(catalog, host, Wish(model_id, quantization=artifact.quantization))
        except LlmctlError as error:
            problems.append(error.message)
    why = f": {problems[0]}" if problems else ""
    raise Refused(f"there is no model that {host.name} can run{why}", hint="llmctl pull MODEL", host=host.name)


def debug(
    home: Path, host: Host, spec: SlotSpec, launch: Launch, *, ready_within: float = READY_WITHIN, on_event: OnEvent
) -> Debugged:
    """Load, generate, end. LoadFailed with the last log lines when the engine does not come up or dies."""
    began = time.monotonic()
    launch = replace(launch, bind="127.0.0.1", require_key=False)
    port = scratch.free_port(home, host.ports)
    with scratch.reserved(home, port, spec, launch), scratch.serving(port, spec, launch) as server:
        on_event(
            {"event": "note", "message": f"{spec.model} comes up with {spec.engine.engine} on scratch port {port}"}
        )
        server.wait_ready(ready_within)
        ready = time.monotonic() - began
        http = SlotHttp(launch.bind, port, None, ANSWER_WITHIN)
        http.chats = False
        try:
            said = http.whole(PROMPT, TOKENS, temperature=TEMPERATURE)
        except LlmctlError as error:
            raise server.failed(f"{spec.model} came up and did not answer: {error.message}") from None
    return Debugged(
        host.name, port, launch.backend, spec.model, spec.engine.engine, PROMPT, said.text, said.count,
        round(said.seconds, 3), round(said.count / said.seconds, 2), round(ready, 3),
    )  # fmt: skip


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(os.stat(file).st_size for file in files)
