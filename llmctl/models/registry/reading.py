"""Reads a registry.json: all that is wrong with its shape is found at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl import strict_json
from llmctl.errors import nearest
from llmctl.models.registry import places
from llmctl.models.registry.shape import (
    FORMATS,
    HEALTH,
    LONGEST_NAME,
    RECONCILIATION,
    SLUG,
    VERSION,
    Entry,
    Finding,
    Lane,
    Registry,
    Target,
    is_name,
)
from llmctl.strict_json import kind

LIMIT = 16 * 2**20  # bytes
KNOWN = tuple(name for name in Entry.__dataclass_fields__ if name not in ("slug", "others"))
OTHERS = ("source_path", "og_path", "request_params", "vllm")  # the shape has them, llmctl does not
TARGETS = ("desired_target", "actual_serving_target", "last_known_good_target")

Check = Callable[[Any], str | None]  # why a value is not acceptable


@dataclass(frozen=True)
class Reading:
    """A registry without what could not be read of it, all that is wrong with it, and the line of each pointer."""

    registry: Registry
    findings: tuple[Finding, ...]
    lines: Mapping[str, int]

    def finding(self, path: Sequence[str], message: str, hint: str | None = None, *, refused: bool = False) -> Finding:
        """A finding at `path`, with the line of what is nearest to it."""
        return _finding(self.lines, path, message, hint, refused)


def read(data: bytes) -> Reading:
    """The registry in the bytes of a file; it raises nothing."""
    if len(data) > LIMIT:
        return Reading(Registry(), (Finding("", 1, f"the file is larger than {LIMIT >> 20} MiB"),), {})
    try:
        root = strict_json.loads(data, "the file")
    except strict_json.StrictError as error:
        where, line = "", error.line
        if " twice " in str(error):
            where, line = places.twice(data.decode("utf-8")) or (where, line)
        hint = "llmctl reads registry.json, version 1 or 2"
        return Reading(Registry(), (Finding(where[:300], line, str(error), hint),), {})
    reader = _Reader(places.lines(data.decode("utf-8")))
    return Reading(reader.registry(root), tuple(reader.findings), reader.lines)


def _finding(lines: Mapping[str, int], path: Sequence[str], message: str, hint: str | None, refused: bool) -> Finding:
    outwards = (places.pointer(path[:n]) for n in range(len(path), -1, -1))
    line = next((lines[where] for where in outwards if where in lines), 1)
    return Finding(places.pointer(path)[:300], line, message, hint, refused)


class _Reader:
    def __init__(self, lines: Mapping[str, int]) -> None:
        self.lines = lines
        self.findings: list[Finding] = []

    def registry(self, root: Any) -> Registry:
        version = root.get("version", 1 if "lanes" not in root else None) if isinstance(root, dict) else None
        if not isinstance(root, dict):
            self.wrong([], f"must be an object, not {kind(root)}")
        elif type(version) is not int or version < 1:
            self.wrong(["version"], "must be 1 or 2", "add it: 2 where there are lanes, else 1")
        elif version > VERSION:
            why = f"is {version}: a newer tool wrote it, and this llmctl reads {VERSION} at most"
            self.wrong(["version"], why, "llmctl version")
        else:
            self.unknown(root, [], ("version", "models", "lanes"))
            models = self.each(root, "models", self.entry)
            lanes = self.each(root, "lanes", self.lane) if version == 2 else {}
            ports = {lane.port: lane for lane in lanes.values() if lane}
            if version == 1:
                ports = {e.port: _migrated(e) for e in models.values() if e and e.port}
            return Registry({s: e for s, e in models.items() if e}, ports, version)
        return Registry()

    def entry(self, slug: str, data: Any, path: list[str]) -> Entry | None:
        if why := _no_slug(slug):
            self.wrong(path, why, "slugs are kebab-case: lower-case letters, digits, single dashes")
            return None
        if not isinstance(data, dict):
            self.wrong(path, f"must be an object, not {kind(data)}")
            return None
        self.unknown(data, path, (*KNOWN, *OTHERS))
        vllm: dict[str, Any] = self.value(data, "vllm", path, _object) or {}

        def get(key: str, check: Check) -> Any:
            return self.value(data, key, path, check)

        def parser(key: str) -> Any:
            return get(key, _name) or self.value(vllm, key, [*path, "vllm"], _name)

        found = Entry(
            slug=slug,
            repo_id=get("repo_id", _name),
            model_id=get("model_id", _name) or slug,
            cache_path=get("cache_path", _path),
            format=get("format", lambda value: None if value in FORMATS else f"must be {' or '.join(FORMATS)}") or "",
            port=get("port", _port),
            context_length=get("context_length", _count),
            max_output_tokens=get("max_output_tokens", _count),
            chat_template=get("chat_template", _text),
            chat_template_args=get("chat_template_args", _object) or {},
            tool_call_parser=parser("tool_call_parser"),
            reasoning_parser=parser("reasoning_parser"),
            served_model_name=get("served_model_name", _name),
            startup_timeout_seconds=get("startup_timeout_seconds", _seconds),
            others=tuple(key for key in OTHERS if data.get(key) not in (None, {}, "")),
        )
        for key in ("format", "cache_path"):
            if data.get(key) is None:
                self.wrong(path, f"has no {key}", f'add "{key}"')
        return found if found.format and found.cache_path else None

    def lane(self, name: str, data: Any, path: list[str]) -> Lane | None:
        if not isinstance(data, dict):
            self.wrong(path, f"must be an object, not {kind(data)}")
            return None
        self.unknown(data, path, tuple(Lane.__dataclass_fields__))
        port = self.value(data, "port", path, _port)
        if port is None or str(port) != name:
            self.wrong([*path, "port"], f"must be {name[:20]!r}'s own port", 'the lane of port 8100 is "8100"')
            return None
        desired, actual, good = (self.target(data.get(key), [*path, key]) for key in TARGETS)
        return Lane(
            port=port,
            desired_target=desired,
            actual_serving_target=actual,
            last_known_good_target=good,
            actual_served_model_identity=self.value(data, "actual_served_model_identity", path, _name),
            health_state=self.value(data, "health_state", path, _one_of(HEALTH)) or "down",
            reconciliation_state=self.value(data, "reconciliation_state", path, _one_of(RECONCILIATION)) or "converged",
            last_failure=self.value(data, "last_failure", path, _object),
            last_transition_time=self.value(data, "last_transition_time", path, _text),
        )

    def target(self, data: Any, path: list[str]) -> Target | None:
        if data is None:
            return None
        if not isinstance(data, dict):
            self.wrong(path, f"must be an object or null, not {kind(data)}")
            return None
        self.unknown(data, path, tuple(Target.__dataclass_fields__))
        slug = self.value(data, "target_slug", path, _no_slug)
        if slug is None:
            if data.get("target_slug") is None:
                self.wrong(path, "has no target_slug")
            return None
        identity = self.value(data, "expected_served_model_identity", path, _name)
        return Target(slug, self.value(data, "repo_id", path, _name), identity)

    # ── what the above share ────────────────────────────────────────────────────────────────────────────────────────

    def each(self, root: Mapping[str, Any], key: str, one: Callable[[str, Any, list[str]], Any]) -> dict[str, Any]:
        found = root.get(key, {})
        if not isinstance(found, dict):
            self.wrong([key], f"must be an object, not {kind(found)}")
            return {}
        return {name: one(name, value, [key, name]) for name, value in found.items()}

    def value(self, data: Mapping[str, Any], key: str, path: list[str], check: Check) -> Any:
        """The value of `key`, None when it is absent, null, or not acceptable."""
        value = data.get(key)
        if value is not None and (why := check(value)):
            self.wrong([*path, key], why)
            return None
        return value

    def unknown(self, data: Mapping[str, Any], path: list[str], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                close = nearest(key, known)
                hint = f"did you mean {close!r}?" if close else f"known keys: {', '.join(known)}"
                self.wrong([*path, key], "unknown key", hint, refused=False)

    def wrong(self, path: list[str], message: str, hint: str | None = None, *, refused: bool = True) -> None:
        self.findings.append(_finding(self.lines, path, message, hint, refused))


def _migrated(entry: Entry) -> Lane:
    """The lane that a version 1 model's port stands for."""
    target = Target(entry.slug, entry.repo_id, entry.served_model_name or entry.model_id)
    assert entry.port
    return Lane(entry.port, target, target, target)


def _no_slug(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be a slug, not {kind(value)}"
    return None if len(value) <= LONGEST_NAME and SLUG.fullmatch(value) else f"{value[:140]!r} is not a slug"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"must be a string, not {kind(value)}"


def _name(value: Any) -> str | None:
    return _text(value) or (None if is_name(value) else f"{value[:140]!r} is not a name")


def _path(value: Any) -> str | None:
    odd = isinstance(value, str) and (not value.strip() or not value.isprintable() or len(value) > 4096)
    return _text(value) or ("is not a path" if odd else None)


def _object(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"must be an object, not {kind(value)}"


def _count(value: Any) -> str | None:
    return None if type(value) is int and 0 < value < 2**31 else "must be a whole number, 1 or more"


def _port(value: Any) -> str | None:
    return None if type(value) is int and 0 < value < 65536 else "must be a port number"


def _seconds(value: Any) -> str | None:
    return None if type(value) in (int, float) and 0 < value < 10**9 else "must be a number of seconds"


def _one_of(known: tuple[str, ...]) -> Check:
    return lambda value: None if value in known else f"must be one of {', '.join(known)}"
