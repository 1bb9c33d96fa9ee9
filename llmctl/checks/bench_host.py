"""One measurement on the host of what is measured: a slot, or a model that comes up on a scratch port for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import keys
from llmctl.catalog import Catalog
from llmctl.checks import bench, machine, scratch
from llmctl.checks.bench import Load
from llmctl.checks.bench_cells import Gauges, Meter, measured
from llmctl.checks.bench_client import OWN, Server
from llmctl.checks.bench_prompts import Prompts
from llmctl.clients import openai, urls
from llmctl.config import Host
from llmctl.domain import GATEWAY, READY, EngineSpec, SlotSpec, build
from llmctl.errors import LlmctlError, Refused, Unreachable, UsageError
from llmctl.models.checkpoint import inspect
from llmctl.models.checkpoint_folder import read_json
from llmctl.models.gguf_header import read as gguf
from llmctl.slots import verbs
from llmctl.slots.resolve import Wish, launch_of, needs, resolve
from llmctl.slots.state import SlotFolder

TRACED = 2  # requests of a profile: a trace of every operator grows fast
TRACED_TOKENS = 32
ROOM = 64
"""Tokens of context beyond prompt and answer."""
GAVE_UP = (Unreachable.code, "engine_died")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Other:
    """The server to compare with: another slot of this host, or a URL as this host reaches it."""

    port: int | None = None
    url: str | None = None
    model: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Plan:
    """All that a host is told; `port` is of a slot, else `wish` (Wish as a dict) is of a model for a scratch port."""

    loads: tuple[Load, ...]
    runs: int
    port: int | None = None
    wish: Mapping[str, Any] | None = None
    other: Other | None = None
    profile: bool = False
    out: str | None = None
    ready_within: float = 600.0
    patience: float = 600.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        loads = tuple(build(Load, load) for load in data["loads"])
        return build(Plan, {**data, "loads": loads, "other": build(Other, data["other"]) if data["other"] else None})


@dataclass(frozen=True)
class Subject:
    """What is measured, and how it runs."""

    home: Path
    server: Server
    port: int
    spec: SlotSpec
    backend: str
    pid: int | None
    scratch: bool = False

    def about(self, host: str) -> dict[str, Any]:
        """As a proof names it."""
        engine = self.spec.engine
        return {
            "host": host, "port": self.port, "scratch": self.scratch, "model": engine.model, "engine": engine.engine,
            "format": engine.format, "context": engine.context, "parallel": engine.parallel, "backend": self.backend,
            "chip": machine.chip(self.backend), "versions": machine.versions(engine.engine, self.pid),
        }  # fmt: skip


def run(
    home: Path, host: Host, catalog: Catalog, plan: Plan, energy: Callable[[str], Meter | str], on_event: OnEvent
) -> tuple[dict[str, Any], LlmctlError | None]:
    """The result as JSON; with it the error of a server that gave up after some loads were measured. `energy` finds
    the meter of a backend."""

    def tell(message: str) -> None:
        on_event({"event": "note", "message": message})

    with _slot(home, plan) if plan.port else _scratch(home, host, catalog, plan, tell) as subject:
        other = None if plan.other is None else server_of(home, plan.other, plan.patience)
        weights = reads(subject.spec.engine, subject.backend)
        data = {**subject.about(host.name), "weights_bytes": None if isinstance(weights, str) else weights}
        data |= {"other": other.name if other else None, "profile": None, "cells": []}
        gauges = Gauges(weights, subject.backend, energy(subject.backend))
        error = measured(data["cells"], subject.server, other, plan.loads, plan.runs, gauges, tell)
        if plan.profile and not error:
            data["profile"] = _profile(subject, plan)
    return data, error


def server_of(home: Path, other: Other, patience: float) -> Server:
    """The server to compare with."""
    if other.port is not None:
        return _of_port(home, other.port, patience)
    assert other.url is not None
    try:
        client = urls.client(other.url, other.key, other.model)
    except LlmctlError as error:
        if error.hint:
            error.hint = error.hint.replace("--model", "--compare-model")
        if "key" in error.code or "auth" in error.code or "401" in error.message:
            error.hint = "--key-env NAME, of the variable that holds its key"
        raise
    if not isinstance(client, openai.OpenAI):
        raise UsageError(f"{other.url} does not speak HTTP", hint="--compare http://HOST:PORT")
    return Server(client.place, other.url, client.model, patience)


def reads(engine: EngineSpec, backend: str) -> int | str:
    """Bytes of weights that one token reads, or why nobody can say."""
    if engine.format == "script":
        return "a script has no weights"
    if engine.spread:
        return "the weights lie on several machines"
    if engine.draft:
        return "a draft lets one reading of the weights make several tokens"
    try:
        if _has_experts(Path(engine.path)):
            return "a token reads only those weights that it is routed to"
        return needs(inspect(engine.path), engine, backend).weights
    except LlmctlError as error:
        return error.message


def _has_experts(path: Path) -> bool:
    if path.is_dir() and (path / "config.json").is_file():
        config = read_json(path / "config.json")
        parts = [config, config.get("text_config") or {}]
        return any(part.get(key) for part in parts for key in EXPERTS)
    file = next(iter(sorted(path.glob("*.gguf"))), path) if path.is_dir() else path
    return bool(gguf(file).get("expert_count"))


@contextlib.contextmanager
def _slot(home: Path, plan: Plan) -> Iterator[Subject]:
    assert plan.port is not None
    server = _of_port(home, plan.port, plan.patience)
    desired = SlotFolder(home, plan.port).read_desired()
    if desired.spec is None:
        raise Refused(f"port {plan.port} has a model that is not desired", hint=f"llmctl status {plan.port}")
    if desired.spec.engine.engine == GATEWAY:
        raise Refused(
            f"port {plan.port} is the gateway: a slot is measured", port=plan.port,
            hint=f"llmctl bench run PORT --compare {plan.port} shows what the gateway adds",
        )  # fmt: skip
    pid = verbs.status(home, [plan.port])[0].pid
    yield Subject(home, server, plan.port, desired.spec, desired.launch.backend, pid)


def _of_port(home: Path, port: int, patience: float) -> Server:
    """A slot of this host; Refused unless it is ready."""
    row = verbs.status(home, [port])[0]
    if row.state != READY:
        raise Refused(f"port {port} is {row.state}", hint=f"llmctl status {port}", port=port)
    found = keys.read(home)
    bind = SlotFolder(home, port).read_desired().launch.bind
    return Server(openai.at(bind, port, found.client if found else None), f"port {port}", None, patience)


@contextlib.contextmanager
def _scratch(home: Path, host: Host, catalog: Catalog, plan: Plan, tell: Callable[[str], None]) -> Iterator[Subject]:
    """The model on a port that is nobody's, with room for what is asked of it; taken away at the end."""
    if plan.profile:
        raise UsageError("--profile needs a slot: what a scratch port traces is gone with it", hint="llmctl load")
    wish = build(Wish, plan.wish or {})
    room = max(load.prompt + load.new for load in plan.loads) + ROOM
    at_once = max(load.streams for load in plan.loads)
    spec = resolve(catalog, host, replace(wish, context=wish.context or room, parallel=wish.parallel or at_once))
    launch = replace(launch_of(host), bind="127.0.0.1", require_key=False)
    port = scratch.free_port(home, host.ports)
    with scratch.reserved(home, port, spec, launch), scratch.serving(port, spec, launch) as running:
        tell(f"{spec.model} comes up with {spec.engine.engine} on scratch port {port}")
        running.wait_ready(plan.ready_within)
        place = openai.at("127.0.0.1", port)
        pid = verbs.status(running.folder.home, [port])[0].pid
        server = Server(place, spec.model, None, plan.patience)
        try:
            yield Subject(running.folder.home, server, port, spec, launch.backend, pid, scratch=True)
        except LlmctlError as error:
            if error.code not in GAVE_UP:
                raise
            raise running.failed(f"{spec.model} came up and gave up: {error.message}") from None


def _profile(subject: Subject, plan: Plan) -> dict[str, Any]:
    load = plan.loads[-1]
    few = replace(load, requests=max(TRACED, load.streams), new=min(load.new, TRACED_TOKENS))
    verbs.profile(subject.home, subject.port, stop=False)
    try:
        bench.busy(subject.server, Prompts(subject.server), few, OWN)
    finally:
        found = verbs.profile(subject.home, subject.port, stop=True)
    if plan.out:
        folder = Path(plan.out)
        folder.mkdir(parents=True, exist_ok=True)
        found["path"] = str(shutil.copy(found["path"], folder.absolute()))
    return found
