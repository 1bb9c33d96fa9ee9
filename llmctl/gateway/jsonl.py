"""handles.jsonl, the shape that other tools read (one JSON object a line), and a sidecar for what it has no place for.

Written byte for byte the same for the same registry; read with a line number for each mistake.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmctl import strict_json
from llmctl.gateway.registry import CHAT, EMBEDDINGS, Handle, Registry, Replica

FILE, SIDECAR, OTHERS = "handles.jsonl", "handles.extra.json", "handles.others.jsonl"
KINDS = ("model", "callable")
INVOKES = (CHAT, EMBEDDINGS, "mcp-tool", "http-get", "http-post")
MANAGERS = ("systemd", "launchd", "docker", "manual", "external")
REQUIRED = ("handle", "kind", "invoke", "managed_by", "endpoint_ref", "selector")
_HANDLE = re.compile(r"[a-z0-9-]+")
_REF = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Line:
    """One line. `selector` is what picks the handle behind the endpoint, None where there is nothing to pick."""

    handle: str
    kind: str
    invoke: str
    managed_by: str
    endpoint_ref: str
    selector: Mapping[str, Any] | None
    notes: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.endpoint_ref, json.dumps(self.selector, sort_keys=True)

    def text(self) -> str:
        found = {key: value for key, value in asdict(self).items() if value is not None or key == "selector"}
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a line; `line` counts from 1."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def export(registry: Registry, services: Mapping[str, str], others: Iterable[Line] = ()) -> str:
    """The file of a registry; `services` maps hosts to what keeps their slots running. `others` are lines that stand
    for no slot of llmctl: they stay as they are, but for those whose name is a handle's now."""
    several = len({replica.host for handle in registry.handles.values() for replica in handle.replicas}) > 1
    lines = {other.handle: other for other in others}
    lines |= {name: _line(one, services, several) for name, one in registry.handles.items() if one.replicas}
    return "".join(f"{line.text()}\n" for _, line in sorted(lines.items()))


def sidecar(registry: Registry, text: str) -> str:
    """What the lines have no place for, by handle; and the hash of the `text` of the lines, by which llmctl knows that
    it wrote them."""
    found = {name: _facts(one) for name, one in registry.handles.items()}
    said = {"sha256": digest(text.encode()), "default": registry.default, "handles": found}
    return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _facts(handle: Handle) -> dict[str, Any]:
    """What a line has no place for."""
    return {key: value for key, value in asdict(handle).items() if key not in ("name", "invoke", "notes")}


def endpoint(replica: Replica, several: bool) -> str:
    """The name of a slot's endpoint; with its host where there are several."""
    host = re.sub(r"[^a-z0-9]+", "_", replica.host.lower()) + "_" if several else ""
    return f"ep_{host}{replica.engine or 'auto'}_slot_{replica.port}"


def _line(handle: Handle, services: Mapping[str, str], several: bool) -> Line:
    first = handle.replicas[0]
    manager = services.get(first.host, "none").removesuffix("-system")
    return Line(
        handle.name, "model", handle.invoke, manager if manager in MANAGERS else "manual", endpoint(first, several),
        {"model": handle.name}, handle.notes,
    )  # fmt: skip


def parse(data: bytes) -> tuple[list[Line], list[Mistake]]:
    """The lines that make sense, and what is wrong with the others."""
    lines: list[Line] = []
    mistakes: list[Mistake] = []
    handles: dict[str, int] = {}
    keys: dict[tuple[str, str, str], int] = {}
    for number, row in enumerate(data.split(b"\n"), 1):
        if not row.strip():
            continue
        try:
            said = strict_json.loads(row, "it")
        except strict_json.StrictError as error:
            mistakes.append(Mistake(number, str(error)))
            continue
        wrong = list(_wrong(said))
        if not wrong:
            line = Line(**{key: said.get(key) for key in (*REQUIRED, "notes")})
            if line.handle in handles:
                wrong.append(f"the handle {line.handle} is on line {handles[line.handle]} already")
            if line.key in keys:
                wrong.append(f"its kind, endpoint and selector are those of line {keys[line.key]}")
            handles.setdefault(line.handle, number)
            keys.setdefault(line.key, number)
            if not wrong:
                lines.append(line)
        mistakes += [Mistake(number, what) for what in wrong]
    return lines, mistakes


def _wrong(data: Any) -> Iterator[str]:
    if not isinstance(data, dict):
        yield "it is no JSON object"
        return
    for key in REQUIRED:
        if key not in data:
            yield f"{key} is missing"
    for key in data:
        if key not in (*REQUIRED, "notes"):
            yield f"unknown key {_short(key)}"
    for key, known in (("kind", KINDS), ("invoke", INVOKES), ("managed_by", MANAGERS)):
        if key in data and data[key] not in known:
            yield f"{key} must be one of {', '.join(known)}, not {_short(data[key])}"
    for key, form, what in (("handle", _HANDLE, "a-z, 0-9 and -"), ("endpoint_ref", _REF, "a-z, 0-9 and _")):
        if key in data and not (isinstance(data[key], str) and form.fullmatch(data[key])):
            yield f"{key} must be made of {what}, not {_short(data[key])}"
    if not isinstance(data.get("selector"), dict | None):
        yield "selector must be an object or null"
    if not isinstance(data.get("notes"), str | None):
        yield "notes must be a text"


def _short(value: Any) -> str:
    return ascii(value)[:80]
