"""Adds hosts to hosts.toml and takes them out; comments and everything else stay as they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import config as configs
from llmctl import paths, tables
from llmctl.config import Config
from llmctl.errors import ConfigError, Refused

Values = Mapping[str, "str | int | list[str]"]


def added(path: Path, text: str, name: str, values: Values) -> str:
    """`text` of hosts.toml (at `path`) with the entry of a new host at its end.

    UsageError for a name that is none, Refused for one that is there, ConfigError when the file cannot take it.
    """
    paths.check_name(name, "host")
    hosts = tables.read(path, text).table("hosts").data
    if name in hosts:
        raise Refused(f"{path} has a host {name}", hint=f"edit it there, or llmctl hosts rm {name}")
    entry = f"[hosts.{_key(name)}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in values.items())
    # without any entry this machine is a host: it stays one
    local = "" if hosts else '[hosts.local]\ntransport = "local"\n\n'
    head = text.rstrip("\n") + "\n\n" if text.strip() else ""
    new = head + local + entry
    wanted = {**(hosts or {"local": {"transport": "local"}}), name: dict(values)}
    return _checked(path, text, new, wanted)


def without(path: Path, text: str, name: str) -> str:
    """`text` without the entry of a host; the comments around it stay. ConfigError when that needs a person."""
    hosts = tables.read(path, text).table("hosts").data
    known, lines = tables.lines(text), text.splitlines(keepends=True)
    start = known.get(("hosts", name))
    if start is None:
        raise _by_hand(path)
    heads = [at for at in known.values() if at > start and lines[at - 1].lstrip().startswith("[")]
    end = min(heads, default=len(lines) + 1) - 1
    while end > start and not lines[end - 1].partition("#")[0].strip():
        end -= 1
    if start == 1 or not lines[start - 2].strip():
        while end < len(lines) and not lines[end].strip():
            end += 1
    new = "".join(lines[: start - 1] + lines[end:])
    return _checked(path, text, new, {key: value for key, value in hosts.items() if key != name})


def uses(config: Config, name: str) -> list[str]:
    """What would be wrong without that host: where hosts.toml and the profiles name it."""
    found = [f"default in {config.dir}/hosts.toml"] if config.default_host == name else []
    found += [f"the gateway of {host.name}" for host in config.hosts.values() if host.gateway == name]
    for profile in configs.profile_names(config) if config.dir else ():
        path = Path(str(config.dir)) / "profiles" / f"{profile}.toml"
        if any(slot.data.get("host") == name for slot in tables.read(path).tables("slots")):
            found.append(str(path))
    return found


def _checked(path: Path, old: str, new: str, hosts: Mapping[str, Any]) -> str:
    """`new` when it reads back as what `old` said, with these hosts."""
    try:
        data = tables.read(path, new).data
    except ConfigError:
        raise _by_hand(path) from None
    rest = {key: value for key, value in tables.read(path, old).data.items() if key != "hosts"}
    if data != ({**rest, "hosts": dict(hosts)} if hosts else rest):
        raise _by_hand(path)
    return new


def _by_hand(path: Path) -> ConfigError:
    return ConfigError(f"{path}: its hosts are not written as [hosts.NAME] tables", hint="change it by hand")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: str | int | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
