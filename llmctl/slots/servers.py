"""The spec of a model that a server runs which is not ours: what its entry says, and nothing of its files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.catalog import Artifact, Model
from llmctl.config import Tuning
from llmctl.domain import EngineSpec
from llmctl.errors import Unsupported, UsageError
from llmctl.servers import Server, from_options, missing_program

CONTEXT = 32768
START, ATTACH = 600.0, 30.0
MARGIN = 2.0  # seconds that the engine has to say itself why its server is not ready, before the slot gives up on it


def engine_spec(
    model: Model, artifact: Artifact, path: Path, context: int | None, parallel: int | None, asked: Tuning
) -> EngineSpec:
    """All that its engine must know. `path` is where its files lie, where the entry says so.

    UsageError for what its own command must say, and for a longer context than the entry's.
    """
    server, traits = artifact.server, model.traits(artifact)
    assert server
    told = [name.replace("_", "-") for name, value in asked.tuning().items() if value]
    if told:
        hint = "write it into the command of its entry"
        raise UsageError(f"{model.id} runs on a server: {told[0]} is for that to know", hint=hint)
    if name := missing_program(server):
        hint = "install it here, or write its whole path into the command of its entry"
        raise Unsupported(f"{model.id} runs on {name!r}, and there is no such program on this host", hint=hint)
    longest = traits.context
    if context and longest and context > longest:
        raise UsageError(f"{model.id} has a context of {longest} tokens, not {context}", hint=f"--context {longest}")
    return EngineSpec(
        engine="upstream", model=model.id, path=str(path) if artifact.path else "", format="server",
        context=context or longest or CONTEXT, parallel=parallel or server.parallel or server.traits.parallel,
        options=options(server, traits.load_timeout),
    )  # fmt: skip


def options(server: Server, load_timeout: float | None) -> dict[str, Any]:
    """Those of an EngineSpec."""
    timeout = load_timeout or usual_timeout(server)
    return {"server": asdict(server), "load_timeout": max(1.0, timeout - MARGIN)}


def usual_timeout(server: Server) -> float:
    """Seconds until it must be ready: one that runs already is given less."""
    return START if server.command else ATTACH


def of(spec: EngineSpec) -> Server:
    """The server of a spec."""
    return from_options(spec.options["server"])
