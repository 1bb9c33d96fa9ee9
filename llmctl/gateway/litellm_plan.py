"""What LiteLLM is to run with, as the state folder has it: its program, its configuration, and the keys for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmctl import keys
from llmctl.domain import GATEWAY, EngineSpec, SlotSpec
from llmctl.errors import Refused, StateError
from llmctl.files import read_json, stamp, write_json
from llmctl.gateway import hosts, litellm_env, registry
from llmctl.gateway.kinds import LITELLM
from llmctl.gateway.litellm import MASTER, PASSWORD, Redis, rendered, variables
from llmctl.gateway.registry import Registry
from llmctl.slots.state import SlotFolder

NO_KEY = "none"
"""What is sent to slots that ask for no key: LiteLLM sends something always."""

Stamps = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Plan:
    """One configuration, and all that a proxy with it needs: variables with keys in `secrets`. `notes` are what the
    registry says and the configuration cannot."""

    program: Path
    version: str
    text: str
    notes: tuple[str, ...]
    known: Registry
    secrets: dict[str, str] = field(repr=False)

    def same(self, other: Plan | None) -> bool:
        """A proxy of the other one does as well: they differ in the head of the file at most, which names the registry,
        and so changes with what is none of LiteLLM's business."""
        return other is not None and self._runs() == other._runs()

    def _runs(self) -> tuple[Path, str, str, dict[str, str]]:
        return self.program, self.version, self.text.partition("\n")[2], self.secrets


def spec(python: Path, redis: Redis | None) -> SlotSpec:
    """The desired content of the port."""
    said = {"redis": [redis.host, redis.port]} if redis else {}
    return SlotSpec(EngineSpec(GATEWAY, LITELLM, "", "server", options=said), python=str(python))


def planned(folder: SlotFolder) -> Plan:
    """The one of now; StateError where registry or keys make no sense, Refused for an environment that must not run."""
    desired = folder.read_desired().spec
    if desired is None or desired.python is None:
        raise Refused(f"port {folder.port} has no LiteLLM", hint="llmctl gateway up --engine litellm")
    python = Path(desired.python)
    version = litellm_env.check(python)
    known, told = registry.read(folder.home), hosts.read(folder.home)
    if not told and hosts.path(folder.home).exists():  # without the keys that it had, slots would refuse the proxy
        raise StateError(f"{hosts.path(folder.home)} makes no sense", hint="llmctl handles sync")
    where = desired.engine.options.get("redis")
    made = rendered(known, Redis(*where) if where else None)
    secrets = {name: str(told.get("keys", {}).get(host) or NO_KEY) for host, name in variables(known).items()}
    secrets[MASTER] = keys.show(folder.home)["client"]
    if where and (password := read_password(folder.home)):
        secrets[PASSWORD] = password
    return Plan(litellm_env.program(python), version, made.text, made.notes, known, secrets)


def stamps(folder: SlotFolder) -> Stamps:
    """Of the files that a plan is made of: another value when one has changed."""
    home = folder.home
    files = (folder.path / "desired.json", registry.path(home), hosts.path(home), home / "keys.json", _password(home))
    return tuple(map(stamp, files))


def keep_password(home: Path, password: str) -> None:
    """That of the Redis; 0600."""
    _password(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(_password(home), {"password": password})


def read_password(home: Path) -> str | None:
    found = read_json(_password(home))
    return str(found["password"]) if found else None


def _password(home: Path) -> Path:
    return home / "gateway" / "redis.json"
