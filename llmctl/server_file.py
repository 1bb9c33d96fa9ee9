"""Reads the `server` of a catalog's artifact; a ConfigError names file, line and key."""

from __future__ import annotations

from pathlib import Path

from llmctl.domain import IMAGE, TEXT
from llmctl.servers import FIELDS, KINDS, TASKS, Server, mistakes
from llmctl.tables import Table

_KEYS = tuple(Server.__dataclass_fields__)


def read(artifact: Table) -> Server:
    """The server of an artifact's table, which must have one, and be of format "server"."""
    if artifact.data.get("format") != "server":
        raise artifact.mistake("server", 'belongs to an artifact with format = "server"')
    if "server" not in artifact.data:
        raise artifact.mistake(
            None, 'format = "server" needs a server', 'server = { command = [ … ] } or { url = "…" }'
        )
    table = artifact.table("server")
    table.only(*_KEYS)
    folder = table.text("folder")
    tasks = _each(table, "tasks", TASKS)
    server = Server(
        kind=table.one_of("kind", KINDS, "other"),
        command=table.texts("command"),
        url=table.text("url"),
        model=table.text("model"),
        served=table.text("served"),
        ready=table.text("ready"),
        key_env=table.text("key_env"),
        sleep=table.flag("sleep"),
        env=_variables(table.table("env")),
        folder=str((table.path.parent / Path(folder).expanduser()).absolute()) if folder else None,
        memory=table.size("memory"),
        parallel=table.integer("parallel"),
        stall=table.seconds("stall") or Server.stall,
        allow_remote=table.flag("allow_remote"),
        fields=_fields(table.table("fields")),
        inputs=_each(table, "inputs", (TEXT, IMAGE)) or Server.inputs,
        tasks=tasks if "tasks" in table.data else None,
        generates=table.flag("generates", True),
    )
    for key, problem, hint in mistakes(server):
        raise table.mistake(key, problem, hint)
    if "{path}" in " ".join(server.command) and "path" not in artifact.data:
        raise table.mistake("command", "says {path}, and the artifact has none", 'path = "…" beside the server')
    return server


def _each(table: Table, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = table.texts(key)
    for word in found:
        if word not in known:
            raise table.mistake(key, f"{word!r} is not one of {', '.join(known)}")
    return found


def _variables(table: Table) -> dict[str, str]:
    return {name: table.text(name) for name in table.data}


def _fields(table: Table) -> dict[str, str | bool]:
    table.only(*FIELDS)
    for name, wire in table.data.items():
        if not isinstance(wire, (str, bool)) or wire == "":
            raise table.mistake(name, f"must be the name of the server's own field, true or false, not {wire!r}")
    return dict(table.data)
