"""What else there is to do with the llmctl of a host: list its releases, go back to one, tidy up, take it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from llmctl.config import Host
from llmctl.errors import LlmctlError, NotDeployed
from llmctl.fleet import opening
from llmctl.fleet.deploy.host import Kit, add, smoke
from llmctl.fleet.deploy.side import LONG, HostSide, reachable
from llmctl.fleet.facts import cache as facts_cache
from llmctl.fleet.facts import choices
from llmctl.fleet.facts.gathering import gather

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RolledBack:
    """A rollback: the releases before and after, and what was done on which port."""

    host: str
    before: str | None
    release: str
    version: str
    slots: tuple[dict[str, Any], ...] = ()


def overview(host: Host, kit: Kit, on_event: OnEvent) -> dict[str, Any]:
    """The releases of a host, the current one, who deploys there now, and its audit log; changes nothing."""
    with _side(host, kit, on_event) as side, side.visiting():
        return {"host": host.name, **side.step("overview")}


def rollback(host: Host, kit: Kit, to: str | None, on_event: OnEvent) -> RolledBack:
    """Put an older release in use (None: the one before), and its slots into it as a deploy does; proved, or undone."""
    with _leased(host, kit, on_event) as side:
        audit: dict[str, Any] = {"what": "rollback"}
        try:
            done = side.step("rollback", to=to)
            audit |= {"from": done["from"], "to": done["to"]}
            try:
                slots = side.step("slots", timeout=LONG)["slots"]
                if slots and kit.smoke:
                    smoke(side.transport, sorted(slot["port"] for slot in slots), side.note)
            except LlmctlError as error:
                if reachable(error):
                    again = side.step("revert")["current"]
                    side.step("slots", timeout=LONG)
                    add(error, f"{host.name} runs {again} again")
                raise
        except LlmctlError as error:
            if reachable(error):
                side.step("finish", audit={**audit, "outcome": error.message}, timeout=LONG)
            raise
        side.step("finish", audit={**audit, "outcome": "ok"}, timeout=LONG)
    facts_cache.released(kit.home, host, done["to"])
    return RolledBack(host.name, done["from"], done["to"], done["version"], tuple(slots))


def prune(host: Host, kit: Kit, on_event: OnEvent) -> dict[str, Any]:
    """Remove what is not needed: {"host", "releases", "environments", "wheels": bytes of packages}."""
    return _one_step(host, kit, "prune", on_event)


def remove(host: Host, kit: Kit, on_event: OnEvent) -> dict[str, Any]:
    """Take llmctl off a host: {"host", "slots", "removed", "kept"}; models, keys and what happened stay."""
    done = _one_step(host, kit, "remove", on_event)
    facts_cache.released(kit.home, host, "")
    return done


def _one_step(host: Host, kit: Kit, name: str, on_event: OnEvent) -> dict[str, Any]:
    with _leased(host, kit, on_event) as side:
        try:
            done = side.step(name, timeout=LONG)
        except LlmctlError as error:
            if reachable(error):
                side.step("finish", audit={"what": name, "outcome": error.message})
            raise
        side.step("finish", audit={"what": name, "outcome": "ok"})
    return {"host": host.name, **done}


@contextmanager
def _leased(host: Host, kit: Kit, on_event: OnEvent) -> Iterator[HostSide]:
    """The host's end with its lease, out of a wheel of which nothing stays."""
    with _side(host, kit, on_event) as side, side.visiting(), side.leased(kit.owner, kit.message, kit.lock_wait):
        yield side


@contextmanager
def _side(host: Host, kit: Kit, on_event: OnEvent) -> Iterator[HostSide]:
    """The host's end; NotDeployed where there never was a deploy."""
    with closing(opening.connect(host, kit.config, kit.home)) as transport:
        facts = gather(transport)
        if transport.run(["test", "-d", f"{facts.home}/.llmctl/releases"]).code:
            raise NotDeployed(f"{host.name} has no llmctl", hint=f"llmctl deploy {host.name}", host=host.name)
        yield HostSide(transport, choices.python(facts).path, facts.home, kit.shipment, on_event)
