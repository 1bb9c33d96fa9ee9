"""hosts.toml and profiles/*.toml: found, read and checked. A mistake names file, line, key and the right spelling."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from llmctl import paths, tables
from llmctl.catalog import Catalog
from llmctl.domain import ENGINES, NGRAM, PORTS, build
from llmctl.errors import LlmctlError, UnknownName, UsageError, nearest
from llmctl.tables import Table

TRANSPORTS = ("local", "ssh")
BACKENDS = ("auto", "cpu", "cuda", "metal")
SERVICES = ("auto", "none", "systemd", "systemd-system", "launchd", "launchd-system")
ENVIRONMENTS = ("auto", "uv", "mamba", "micromamba", "conda", "venv")
ORDERS = ("auto", "new-first", "old-first")
CHAT, EMBEDDINGS = "openai-chat", "openai-embeddings"
"""How a handle is called."""
_URL_HOST = re.compile(r"\*|[\w-]+(\.[\w-]+)*(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Host:
    """A machine. `ports` is the managed range, with both ends; `models_dir` None is `models` in the state folder.

    `address`, `user`, `ssh_port` and `identity` (a private key's file) may also come from ~/.ssh/config; `gateway` is
    the jump host: the name of another host, or `[user@]address[:port]`. `service` and `environment` "auto" are chosen
    by a deploy. `engines` None: those that the backend prefers; `profiles` are the profiles it is to run. A request may
    name images in `image_folder`, and addresses of images at `image_urls` (domain.MediaPolicy). `spare`: its slots keep
    a process ready for their next model (SlotSpec). `spread_address` is where other hosts reach it to compute a model
    together, if not at `address`. `native`: a deploy has it build llama.cpp for its CPU.
    """

    name: str
    transport: str = "local"
    address: str | None = None
    user: str | None = None
    backend: str = "auto"
    ssh_port: int | None = None
    identity: Path | None = None
    gateway: str | None = None
    service: str = "auto"
    environment: str = "auto"
    engines: tuple[str, ...] | None = None
    profiles: tuple[str, ...] = ()
    memory_budget: int | None = None
    ports: tuple[int, int] = (PORTS[0], PORTS[-1])
    models_dir: Path | None = None
    labels: tuple[str, ...] = ()
    bind: str = "127.0.0.1"
    image_folder: Path | None = None
    image_urls: tuple[str, ...] = ()
    spare: bool = False
    spread_address: str | None = None
    native: bool = True

    def models(self, home: Path) -> Path:
        """The folder of its models; only meaningful on the host itself."""
        return self.models_dir or home / "models"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What an engine is given beside its model, as it is written by people (domain.EngineSpec has it resolved).

    `draft` is NGRAM or a model; each of `adapters` is NAME or NAME=PATH, a path of the host; `cache_bytes` is bytes;
    `spread` are hosts.
    """

    draft: str | None = None
    adapters: tuple[str, ...] = ()
    cache_bits: int | None = None
    cache_bytes: int | None = None
    spread: tuple[str, ...] = ()

    def tuning(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {field.name: getattr(self, field.name) for field in fields(Tuning)}


CACHE_BITS = (8, 4)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a public name promises. Slots with one name are replicas, and must name one `group`.

    `fallbacks` are handles that answer when this one cannot; `context` and `max_output` are tokens that clients may
    count on; `keep_alive` seconds that an on-demand model stays after its last request; `price` is of a million tokens
    (prompt, completion). `tier`, `intent`, `tags` and `notes` are words of the operator's.
    """

    technique: str | None = None
    tier: str | None = None
    intent: str | None = None
    context: int | None = None
    max_output: int | None = None
    fallbacks: tuple[str, ...] = ()
    group: str | None = None
    tags: tuple[str, ...] = ()
    keep_alive: float | None = None
    price: tuple[float, float] = (0.0, 0.0)
    invoke: str = CHAT
    notes: str | None = None


@dataclass(frozen=True)
class HandleEntry(Promise):
    """A public name that a profile gives a slot."""

    name: str


@dataclass(frozen=True)
class ProfileSlot(Tuning):
    """What a profile wants on one port; None everywhere means "as llmctl would choose".

    `handle` is short for an entry of `handles` that says its name alone. `on_demand`: the gateway loads it at its first
    request, and may unload it to make room for others, unless it is `pinned`; of slots with one `exclusive` name only
    one is loaded at a time on a host.
    """

    port: int | Literal["auto"]
    model: str
    host: str | None = None
    engine: str = "auto"
    quantization: str | None = None
    context: int | None = None
    parallel: int | None = None
    technique: str | None = None
    handle: str | None = None
    idle_unload: float | None = None
    order: str = "auto"
    handles: tuple[HandleEntry, ...] = ()
    on_demand: bool = False
    pinned: bool = False
    exclusive: str | None = None

    def named(self) -> tuple[HandleEntry, ...]:
        """All its handles."""
        return (*((HandleEntry(self.handle),) if self.handle else ()), *self.handles)


def profile_slot_of(data: Mapping[str, Any]) -> ProfileSlot:
    """A profile's slot from JSON; TypeError or AttributeError where it is none."""
    handles = tuple(build(HandleEntry, entry) for entry in data.get("handles") or ())
    return replace(build(ProfileSlot, data), handles=handles)


@dataclass(frozen=True)
class Profile:
    """A named set of slots, from `path`."""

    name: str
    path: Path
    description: str = ""
    slots: tuple[ProfileSlot, ...] = ()


@dataclass(frozen=True)
class Config:
    """What hosts.toml says. `dir` None: no configuration was found, and one host `local` is built in."""

    dir: Path | None = None
    hosts: Mapping[str, Host] = field(default_factory=lambda: {"local": Host("local")})
    default_host: str | None = None

    def host(self, name: str | None = None) -> Host:
        """The host called `name`; without a name, the default host (decisions.md, "Which host")."""
        if name is None:
            local = [host.name for host in self.hosts.values() if host.transport == "local"]
            one = list(self.hosts) if len(self.hosts) == 1 else local
            name = self.default_host or (one[0] if len(one) == 1 else None)
            if name is None:
                raise UsageError(f"which host: {', '.join(self.hosts)}?", hint="type HOST:PORT, or set default = HOST")
        if name not in self.hosts:
            close = nearest(name, self.hosts)
            hint = f"did you mean {close!r}?" if close else f"hosts: {', '.join(self.hosts)}"
            raise UnknownName(f"no host {name[:140]!r}", hint=hint)
        return self.hosts[name]


def find(config_dir: str | Path | None = None) -> Path | None:
    """The folder of hosts.toml: as asked, `LLMCTL_CONFIG`, upwards from here, ~/.config/llmctl; None when nowhere."""
    asked = config_dir or os.environ.get("LLMCTL_CONFIG")
    if asked:
        folder = Path(asked).expanduser().absolute()
        if not (folder / "hosts.toml").is_file():
            raise UsageError(f"no hosts.toml in {folder}", hint=f"llmctl init {folder}")
        return folder
    here = Path.cwd()
    for folder in (here, *here.parents, Path("~/.config/llmctl").expanduser()):
        if (folder / "hosts.toml").is_file():
            return folder
    return None


def load(folder: Path | None, source: str | None = None) -> Config:
    """The hosts of `folder` (see `find`), or as `source` in place of its hosts.toml would have them."""
    if folder is None:
        return Config()
    root = tables.read(folder / "hosts.toml", source)
    root.only("default", "hosts")
    entries = root.table("hosts")
    hosts = {name: _host(name, entries) for name in entries.data} or {"local": Host("local")}
    default = root.text("default")
    if default is not None and default not in hosts:
        close = nearest(default, hosts)
        raise root.mistake("default", f"no host {default!r}", f"did you mean {close!r}?" if close else None)
    return Config(folder, hosts, default)


def _host(name: str, entries: Table) -> Host:
    table = entries.table(name)
    table.only(*(f for f in Host.__dataclass_fields__ if f != "name"))
    _named(entries, name, name, "host")
    transport, address = table.one_of("transport", TRANSPORTS, "local"), table.text("address")
    if transport == "ssh" and not address:
        raise table.mistake(None, "an ssh host needs an address")
    return Host(
        name=name,
        transport=transport,
        address=address,
        user=table.text("user"),
        backend=table.one_of("backend", BACKENDS, "auto"),
        ssh_port=table.integer("ssh_port"),
        identity=_path(table, "identity"),
        gateway=table.text("gateway"),
        service=table.one_of("service", SERVICES, "auto"),
        environment=table.one_of("environment", ENVIRONMENTS, "auto"),
        engines=table.texts("engines") if "engines" in table.data else None,
        profiles=table.texts("profiles"),
        memory_budget=table.size("memory_budget"),
        ports=_range(table),
        models_dir=_path_there(table, "models_dir", transport),
        labels=table.texts("labels"),
        bind=table.text("bind", "127.0.0.1"),
        image_folder=_path_there(table, "image_folder", transport),
        image_urls=_image_urls(table),
        spare=table.flag("spare"),
        spread_address=table.text("spread_address"),
        native=table.flag("native", True),
    )


def _path(table: Table, key: str) -> Path | None:
    given = table.text(key)
    return (table.path.parent / Path(given).expanduser()).absolute() if given else None


def _path_there(table: Table, key: str, transport: str) -> Path | None:
    """Of an ssh host it stays as it is written: `~` and what is relative are settled there."""
    given = table.text(key)
    return Path(given) if given and transport == "ssh" else _path(table, key)


def _image_urls(table: Table) -> tuple[str, ...]:
    key = "image_urls"
    names = ("*",) if table.data.get(key) == "*" else table.texts(key)
    for name in names:
        if not _URL_HOST.fullmatch(name):
            raise table.mistake(key, f'must be "*" or a list of NAME or NAME:PORT, {name!r} is none')
    return tuple(name.lower() for name in names)


def _range(table: Table) -> tuple[int, int]:
    value = table.data.get("ports", [PORTS[0], PORTS[-1]])
    numbers = isinstance(value, list) and all(type(port) is int and 0 < port < 65536 for port in value)
    if not numbers or len(value) != 2 or value[0] > value[1]:
        raise table.mistake("ports", f"must be [lowest, highest], not {value!r}")
    return value[0], value[1]


def profile_names(config: Config) -> list[str]:
    """The names of all profiles, sorted."""
    return sorted(path.stem for path in (config.dir / "profiles").glob("*.toml")) if config.dir else []


def profile(config: Config, catalog: Catalog, name: str, source: str | None = None) -> Profile:
    """The profile called `name`, or as `source` in place of its file would have it, with models and hosts checked."""
    paths.check_name(name, "profile")
    names = profile_names(config)
    if name not in names or not config.dir:
        close = nearest(name, names)
        hint = f"did you mean {close!r}?" if close else f"profiles: {', '.join(names) or 'none; llmctl init'}"
        raise UnknownName(f"no profile {name!r}", hint=hint)
    root = tables.read(config.dir / "profiles" / f"{name}.toml", source)
    root.only("description", "slots")
    seen: set[tuple[str | None, int]] = set()
    slots = []
    for table in root.tables("slots"):
        slot = _slot(table, config, catalog)
        if slot.port != "auto":
            if (slot.host, slot.port) in seen:
                raise table.mistake("port", f"{slot.port} is in this profile twice")
            seen.add((slot.host, slot.port))
        slots.append(slot)
    return Profile(name, root.path, root.text("description", ""), tuple(slots))


def _slot(table: Table, config: Config, catalog: Catalog) -> ProfileSlot:
    table.only(*ProfileSlot.__dataclass_fields__)
    for key in ("port", "model"):
        if key not in table.data:
            raise table.mistake(None, f"a slot needs a {key}")
    model, host, handle = table.text("model"), table.text("host"), table.text("handle")
    try:
        model = catalog.resolve(model).id
    except LlmctlError as error:
        raise tables.blame(table, "model", error) from None
    try:
        host = config.host(host).name if host else None
    except LlmctlError as error:
        raise tables.blame(table, "host", error) from None
    if handle:
        _named(table, "handle", handle, "handle")
    if table.flag("on_demand"):
        if table.data["port"] == "auto":
            raise table.mistake("port", "a slot that is loaded on demand needs a port of its own", "port = 8101")
        if "idle_unload" in table.data:
            raise table.mistake(
                "idle_unload",
                "a slot on demand has keep_alive in its place",
                '[[slots.handles]] with keep_alive = "30m"',
            )
    elif found := [key for key in ("pinned", "exclusive") if table.data.get(key)]:
        raise table.mistake(found[0], "is of slots on demand", "on_demand = true")
    return ProfileSlot(
        port=_port(table),
        model=model,
        host=host,
        engine=table.one_of("engine", ("auto", *ENGINES), "auto"),
        quantization=table.text("quantization"),
        context=table.integer("context"),
        parallel=table.integer("parallel"),
        technique=table.text("technique"),
        handle=handle,
        idle_unload=table.seconds("idle_unload"),
        order=table.one_of("order", ORDERS, "auto"),
        handles=_handles(table, handle),
        on_demand=table.flag("on_demand"),
        pinned=table.flag("pinned"),
        exclusive=table.text("exclusive"),
        draft=_draft(table, catalog),
        adapters=_adapters(table),
        cache_bits=_cache_bits(table),
        cache_bytes=table.size("cache_bytes"),
        spread=_spread(table, config),
    )


def _handles(table: Table, short: str | None) -> tuple[HandleEntry, ...]:
    found: list[HandleEntry] = []
    for entry in table.tables("handles"):
        entry.only(*HandleEntry.__dataclass_fields__)
        name = entry.text("name")
        if name is None:
            raise entry.mistake(None, "a handle needs a name")
        _named(entry, "name", name, "handle")
        if name in (short, *(one.name for one in found)):
            raise entry.mistake("name", f"the slot has the handle {name} already")
        for other in entry.texts("fallbacks"):
            _named(entry, "fallbacks", other, "handle")
        found.append(
            HandleEntry(
                name,
                technique=entry.text("technique"),
                tier=entry.text("tier"),
                intent=entry.text("intent"),
                context=entry.integer("context"),
                max_output=entry.integer("max_output"),
                fallbacks=entry.texts("fallbacks"),
                group=entry.text("group"),
                tags=entry.texts("tags"),
                keep_alive=entry.seconds("keep_alive"),
                price=_price(entry),
                invoke=entry.one_of("invoke", (CHAT, EMBEDDINGS), CHAT),
                notes=entry.text("notes"),
            )
        )
    return tuple(found)


def _price(entry: Table) -> tuple[float, float]:
    price = entry.table("price")
    price.only("prompt", "completion")
    return float(price.number("prompt", 0.0)), float(price.number("completion", 0.0))


def _draft(table: Table, catalog: Catalog) -> str | None:
    draft: str | None = table.text("draft")
    try:
        return draft if draft in (None, NGRAM) else catalog.resolve(draft).id
    except LlmctlError as error:
        raise tables.blame(table, "draft", error) from None


def _adapters(table: Table) -> tuple[str, ...]:
    """A list of names, or a table of name = path."""
    key = "adapters"
    if not isinstance(table.data.get(key), dict):
        texts = table.texts(key)
    else:
        inner = table.table(key)
        texts = tuple(f"{name}={inner.text(name)}" for name in inner.data)
    try:
        named_adapters(texts)
    except LlmctlError as error:
        raise tables.blame(table, key, error) from None
    return texts


def named_adapters(texts: Sequence[str]) -> dict[str, str | None]:
    """Name → path (None: by its name) of adapters that are written NAME or NAME=PATH; UsageError for others."""
    found: dict[str, str | None] = {}
    for text in texts:
        name, _, path = text.partition("=")
        paths.check_name(name, "adapter")
        if name in found:
            raise UsageError(f"adapter {name} is there twice")
        if path and not path.startswith(("/", "~/")):
            raise UsageError(f"adapter {name}: {path!r} must be an absolute path on the host")
        found[name] = path or None
    return found


def _cache_bits(table: Table) -> int | None:
    bits: int | None = table.integer("cache_bits")
    if bits not in (None, *CACHE_BITS):
        raise table.mistake("cache_bits", f"must be 8 or 4, not {bits}")
    return bits


def _spread(table: Table, config: Config) -> tuple[str, ...]:
    try:
        return tuple(config.host(name).name for name in table.texts("spread"))
    except LlmctlError as error:
        raise tables.blame(table, "spread", error) from None


def _port(table: Table) -> int | Literal["auto"]:
    port = table.data["port"]
    if port == "auto":
        return "auto"
    if type(port) is not int or not 0 < port < 65536:
        raise table.mistake("port", f'must be a port number or "auto", not {port!r}')
    return port


def _named(table: Table, key: str, name: str, what: str) -> None:
    try:
        paths.check_name(name, what)
    except LlmctlError as error:
        raise tables.blame(table, key, error) from None
