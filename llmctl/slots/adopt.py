"""Take over a server that somebody started by hand: what it is, and the slot that stands in front of it. F12: a slot
that attaches never ends it; only `manage` does, and only one of the same user."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.catalog import Artifact, Model
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.errors import LlmctlError, Refused, Unreachable, UsageError
from llmctl.processes import ProcessId
from llmctl.servers import KINDS, SECRET, Server, is_loopback, mistakes, told_context
from llmctl.slots import listening, servers
from llmctl.slots.listening import Listener

ANSWER = 5.0
LEAVE = 30.0
KEPT = re.compile(
    r"(CUDA|HIP|ROCR|NCCL|VLLM|LLAMA|GGML|OLLAMA|HF|TRANSFORMERS|MLX|OMP|MKL|TORCH|PYTORCH)_\w+"
    r"|PATH|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHONPATH|HOME"
)
"""The variables that a server is started again with; of the others only the names are told."""
OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "library": "ollama", "transformers": "transformers"}
PORTS = ("--port", "-p")
HOSTS = ("--host", "--hostname")
SECRET_WORDS = re.compile(r"--?(api|hf)[-_](key|token)")


@dataclass(frozen=True)
class Found:
    """A server as it is. `served` are the names it gives its models, `context` the tokens of the first, if it tells."""

    listener: Listener
    kind: str
    served: tuple[str, ...]
    context: int | None = None

    @property
    def url(self) -> str:
        host = self.listener.address
        return f"http://{f'[{host}]' if ':' in host else host}:{self.listener.port}"

    def to_dict(self) -> dict[str, Any]:
        """What is shown: secrets only by the names of their variables."""
        one = self.listener
        return {
            "port": one.port, "kind": self.kind, "serves": list(self.served), "pid": one.pid, "user": one.user,
            "command": shlex.join(shown(one.argv)) if one.argv else None, "folder": one.folder,
            "variables": sorted(name for name in one.env if KEPT.fullmatch(name) or SECRET.search(name)),
            "context": self.context,
        }  # fmt: skip


def look(home: Path, port: int, key_env: str | None = None) -> Found:
    """What listens on `port`; Refused for a slot, Unreachable where nothing speaks the dialect."""
    if port in paths.slot_ports(home) and servers_own(home, port):
        raise Refused(f"port {port} is a slot of llmctl already", hint=f"llmctl status {port}", port=port)
    listener = listening.find(port)
    if listener is None:
        raise Unreachable(f"nothing listens on port {port}", hint="type the port of a server that runs", port=port)
    url = Found(listener, "other", ()).url
    key = os.environ.get(key_env) if key_env else None
    rows = _models(url, port, key)
    kind = _kind(listener.argv, rows)
    names = tuple(str(row["id"]) for row in rows if "parent" not in row or row["parent"] in (None, row["id"]))
    return Found(listener, kind, names, told_context(rows[0]) if rows else None)


def servers_own(home: Path, port: int) -> bool:
    """A slot server of ours has this port."""
    from llmctl.slots.launch import is_up
    from llmctl.slots.state import SlotFolder

    return is_up(SlotFolder(home, port))


def _models(url: str, port: int, key: str | None) -> list[Mapping[str, Any]]:
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(trust_env=False, timeout=ANSWER, headers=headers) as client:
            answer = client.get(f"{url}/v1/models")
            said = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError) as error:
        raise Unreachable(f"port {port} does not speak OpenAI's dialect: {error}", port=port) from None
    if answer.status_code in (401, 403):
        raise Refused(
            f"the server on port {port} wants a key", hint="--key-env NAME: the variable that has it", port=port
        )
    rows = said.get("data") if isinstance(said, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "id" in row for row in rows):
        raise Unreachable(f"port {port} has no list of models at /v1/models ({answer.status_code})", port=port)
    return rows


def _kind(argv: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """One of servers.KINDS: as it says itself, else by its words."""
    owner = next((str(row.get("owned_by")) for row in rows), "")
    if owner in OWNERS:
        return OWNERS[owner]
    names = [Path(word).name for word in argv[:4]]
    for mark, kind in (
        ("vllm", "vllm"), ("llama-server", "llama-server"), ("mlx_lm", "mlx_lm"), ("ollama", "ollama"),
        ("transformers", "transformers"),
    ):  # fmt: skip
        if any(name == mark or name.startswith(f"{mark}.") for name in names):
            return kind
    return "other"


def spec(found: Found, model: str | None, served: str | None, key_env: str | None, manage: bool) -> SlotSpec:
    """The slot in front of it: attached, or with `manage` started by its own words.

    UsageError where it must be told which of several models, or a name; Refused where its words cannot be used.
    """
    name = _served(found, served)
    id = paths.check_name(model or _id(name), "model")
    elsewhere = not is_loopback(found.listener.address)
    server = Server(kind=found.kind, url=found.url, served=name, key_env=key_env, allow_remote=elsewhere)
    if manage:
        server = managed(found, replace(server, url=None, key_env=None, allow_remote=False))
    for key, problem, hint in mistakes(server):
        raise Refused(f"its {key} {problem}", hint=hint, port=found.listener.port)
    engine = EngineSpec(
        "upstream", id, "", "server", context=found.context or servers.CONTEXT,
        parallel=server.traits.parallel, options=servers.options(server, None),
    )  # fmt: skip
    return SlotSpec(engine, names=(name,) if name != id else (), load_timeout=servers.usual_timeout(server))


def _served(found: Found, asked: str | None) -> str:
    default = KINDS[found.kind].default_model
    if asked is None and len(found.served) != 1 and default:
        return default
    name = asked or next(iter(found.served), "")
    if (asked is None and len(found.served) != 1) or (asked and asked not in (*found.served, default)):
        have = ", ".join(found.served[:10]) or "none"
        raise UsageError(f"the server on port {found.listener.port} serves {have}", hint="--served NAME: one of them")
    return name


def _id(served: str) -> str:
    """A name as llmctl's are, out of the server's: of a path or a repository the last part."""
    text = re.sub(r"[^a-z0-9._-]+", "-", served.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-._")
    if not text:
        raise UsageError(f"{served!r} gives no name for the model", hint="--as NAME")
    return text


# ── managed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def managed(found: Found, server: Server) -> Server:
    """`server` started by the words that it was started by, on a port of ours, without what only others may know."""
    one = found.listener
    if not one.mine:
        who = f"belongs to {one.user}" if one.user else "belongs to another user"
        raise Refused(f"the server on port {one.port} {who}", hint="leave --manage out: attach to it", port=one.port)
    env = {key: value for key, value in one.env.items() if KEPT.fullmatch(key) and not SECRET.search(key)}
    return replace(server, command=relocated(one.argv, one.port, found.kind), folder=one.folder, env=env)


def relocated(argv: Sequence[str], port: int, kind: str) -> tuple[str, ...]:
    """The words with {port} in the place of the port, the loopback in that of the host, and no keys; Refused when the
    place of the port cannot be found."""
    words, made, placed = list(argv), [], False
    while words:
        word = words.pop(0)
        name, equals, given = word.partition("=")
        value = given if equals else words[0] if words else ""
        if SECRET_WORDS.fullmatch(name):
            words = words if equals else words[1:]
        elif name in HOSTS and value:
            words = words if equals else words[1:]
            made += [f"{name}=127.0.0.1"] if equals else [name, "127.0.0.1"]
        elif name in PORTS and value == str(port):
            words, placed = words if equals else words[1:], True
            made += [f"{name}={{port}}"] if equals else [name, "{port}"]
        else:
            made.append(word)
    if not placed and made.count(str(port)) == 1:
        made[made.index(str(port))], placed = "{port}", True
    if not placed:
        if kind not in ("vllm", "llama-server", "mlx_lm", "transformers"):
            raise Refused(
                f"where {Path(argv[0]).name if argv else 'it'} is told its port cannot be seen", port=port,
                hint="write an entry with its command into models.toml, or leave --manage out",
            )  # fmt: skip
        made += ["--port", "{port}"]
    return tuple(made)


def shown(argv: Sequence[str]) -> list[str]:
    """The words with every key blotted out."""
    blotted, secret = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        blotted.append("***" if secret else f"{name}=***" if equals and SECRET_WORDS.fullmatch(name) else word)
        secret = not secret and not equals and bool(SECRET_WORDS.fullmatch(word))
    return blotted


def stop(found: Found) -> None:
    """End the server as its owner would, and wait until its port is free; Refused when it stays, or comes back."""
    one = found.listener
    assert one.pid and one.mine
    process = ProcessId.of(one.pid)
    if process.alive() and (listening.find(one.port) or one).pid == one.pid:
        os.kill(one.pid, signal.SIGTERM)
    end = time.monotonic() + LEAVE
    while (now := listening.find(one.port)) is not None:
        if now.pid != one.pid and now.pid is not None:
            raise Refused(
                f"something starts it again: {shlex.join(shown(now.argv))}", port=one.port, hint="end that first"
            )
        if time.monotonic() > end:
            raise Refused(
                f"the server of pid {one.pid} goes on after {LEAVE:.0f} s", hint=f"kill {one.pid}", port=one.port
            )
        time.sleep(0.1)


def again(found: Found) -> str:
    """The words that start it by hand, as it was."""
    one = found.listener
    return f"cd {shlex.quote(one.folder or '.')} && {shlex.join(shown(one.argv))}"


def entry(spec: SlotSpec) -> Model:
    """What the catalog would say of it."""
    server = servers.of(spec.engine)
    return Model(
        id=spec.model, aliases=spec.names, context=spec.engine.context, artifacts=(Artifact("server", server=server),)
    )  # fmt: skip


def blame(found: Found, error: LlmctlError) -> LlmctlError:
    """`error` of a start under llmctl, with the way back."""
    error.hint = f"by hand it was started so: {again(found)}"
    return error
