"""A deploy of one host, step by step: look, build what is missing, put it in use, prove it; or leave what there was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl.catalog import Catalog
from llmctl.config import Config, Host
from llmctl.errors import DeployFailed, LlmctlError, NotDeployed, VersionSkew
from llmctl.fleet import opening
from llmctl.fleet.call import call
from llmctl.fleet.deploy import hooks, native
from llmctl.fleet.deploy import packages as packages
from llmctl.fleet.deploy.choice import Choice, Order, choose
from llmctl.fleet.deploy.side import LONG, HostSide, Shipment, reachable
from llmctl.fleet.facts import cache as facts_cache
from llmctl.fleet.facts.gathering import gather
from llmctl.fleet.plan import Assignment
from llmctl.fleet.transport import Transport
from llmctl.profiles import STILL

OnEvent = Callable[[dict[str, Any]], None]
PLANNED, UNCHANGED, DEPLOYED, FAILED = "planned", "unchanged", "deployed", "failed"


@dataclass(frozen=True)
class Kit:
    """What all hosts of one command share. `home` is the operator's state folder, `owner` who deploys."""

    config: Config
    catalog: Catalog
    home: Path
    shipment: Shipment
    assignment: Assignment
    owner: str
    order: Order = Order()
    message: str = ""
    lock_wait: float = 0.0
    smoke: bool = True
    pull: bool = False
    dry_run: bool = False

    @property
    def wheels(self) -> Path:
        """Where fetched packages are kept."""
        return self.home / "cache" / "wheels"

    def told(self, host: Host) -> dict[str, str]:
        """What hooks learn of a deploy."""
        return {
            "host": host.name,
            "version": self.shipment.version,
            "release": self.shipment.release,
            "message": self.message,
        }


@dataclass(frozen=True)
class Deployed:
    """What became of a host. `before` is the release that was in use; `choice` has the decisions with their reasons;
    `slots` what was done on which port; `seconds` the whole time."""

    host: str
    status: str
    release: str
    before: str | None = None
    choice: tuple[Mapping[str, Any], ...] = ()
    environments: tuple[str, ...] = ()
    sent: int = 0
    changed: tuple[str, ...] = ()
    slots: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def deploy(host: Host, kit: Kit, on_event: OnEvent) -> Deployed:
    """Bring the release of `kit` to a host, and its slots to what profiles want. A step that fails leaves the host with
    what it had; the error says so."""
    began = time.monotonic()
    with closing(opening.connect(host, kit.config, kit.home)) as transport:
        result = Deploy(host, kit, transport, on_event).run()
    return replace(result, seconds=round(time.monotonic() - began, 2))


@dataclass
class Deploy:
    """One deploy under way."""

    host: Host
    kit: Kit
    transport: Transport
    on_event: OnEvent
    began: float = field(default_factory=time.monotonic)
    builds: bool = False

    def run(self) -> Deployed:
        """The whole of it."""
        self.facts = gather(self.transport)
        facts_cache.write(self.kit.home, self.host, self.facts)
        self.choice = self.chosen()
        self.wanted = self.choice.wanted(self.kit.shipment.release)
        self.side = HostSide(self.transport, self.choice.python.path, self.facts.home, self.kit.shipment, self.on_event)
        if self.kit.dry_run:
            return self.plan()
        self.there = self.side.first("look", wanted=self.wanted)
        slots = self.slots_to_change()
        if not slots and not self.to_change():
            return self.result(UNCHANGED)
        told = self.kit.told(self.host)
        show_hook(hooks.run(self.kit.config.dir, hooks.PRE_DEPLOY, told), self.on_event)
        parcel = packages.pack(self.choice, self.there["missing"], self.facts, self.kit.order, self.kit.wheels)
        parcel = self.with_native(parcel)
        needed = packages.room(self.choice, self.there["missing"], parcel)
        with self.side.leased(self.kit.owner, self.kit.message, self.kit.lock_wait, needed):
            return self.under_lease(parcel, needed)

    def chosen(self) -> Choice:
        slots = [wanted.slot for wanted in self.kit.assignment.slots.get(self.host.name, ())]
        return choose(self.host, self.facts, self.kit.order, self.kit.config, self.kit.catalog, slots)

    # ── what there is to do ─────────────────────────────────────────────────────────────────────────────────────────

    def to_change(self) -> list[str]:
        """What is not as it should be, in words; nothing when a deploy would change nothing."""
        there = self.there
        found = [f"environment {name}" for name in there["missing"]]
        if not there["whole"]:
            found.append(f"release {self.kit.shipment.release}")
        found += there["differing"]
        if there["current"] != self.kit.shipment.release:
            found.append("current")
        found += [f"slot {slot['port']}: {', '.join(slot['due'])}" for slot in there["slots"] if slot["due"]]
        return found or (["what an interrupted deploy left"] if there["unfinished"] else [])

    def slots_to_change(self) -> list[Mapping[str, Any]] | None:
        """The steps of the profiles that would change a slot; None when only the new release can tell."""
        if not self.kit.assignment.slots.get(self.host.name):
            return []
        if self.there["current"] != self.kit.shipment.release or not self.there["whole"] or self.there["missing"]:
            return None
        try:
            steps = self.host_verb("plan")["steps"]
        except (NotDeployed, VersionSkew):
            return None
        return [step for step in steps if step["action"] not in STILL]

    def plan(self) -> Deployed:
        """What a deploy would do; nothing of this stays on the host."""
        with self.side.visiting():
            self.there = self.side.step("look", wanted=self.wanted)
        slots = self.slots_to_change()
        inside = f"releases/{self.kit.shipment.release}/"
        notes = [f"would change {what}" for what in self.to_change() if self.there["whole"] or inside not in what]
        if slots is None:
            wanted = self.kit.assignment.slots[self.host.name]
            notes += [f"would have {one.slot.model} on port {one.slot.port}" for one in wanted]
        return self.result(
            PLANNED if notes or slots else UNCHANGED, environments=tuple(self.there["missing"]),
            changed=tuple(self.to_change()), slots=tuple(slots or ()), notes=tuple(notes),
        )  # fmt: skip

    def with_native(self, parcel: packages.Parcel) -> packages.Parcel:
        """With what the host builds its own llama.cpp of, where it is to; a deploy goes on without it."""
        if not native.due(self.host, self.choice, self.there):
            return parcel
        try:
            files = native.brought(self.there, self.choice, self.facts, self.kit.order, self.kit.wheels)
        except LlmctlError as error:
            self.side.note(native.skipped(error))
            return parcel
        self.builds = True
        return replace(parcel, wheels=(*parcel.wheels, *files))

    # ── doing it ────────────────────────────────────────────────────────────────────────────────────────────────────

    def under_lease(self, parcel: packages.Parcel, needed: int) -> Deployed:
        try:
            # whoever had the lease until now may have changed what was seen without it
            self.there = self.side.step("look", wanted=self.wanted)
            sent = packages.send(self.side, parcel, needed)
            packages.build(self.side, self.choice, self.there["missing"], parcel)
            self.make_release()
            changed = self.side.step("activate", wanted=self.wanted)["changed"]
        except BaseException as error:
            self.give_up(error)
            raise
        try:
            renewed = self.side.step("slots", timeout=LONG)["slots"]
            applied = self.apply()
            self.prove([*renewed, *applied])
        except BaseException as error:
            self.go_back(error)
            raise
        self.finish("ok")
        if self.builds:
            native.start(self.transport, self.side.note)
        facts_cache.released(self.kit.home, self.host, self.kit.shipment.release)
        return self.result(
            DEPLOYED, environments=tuple(self.there["missing"]), sent=sent, changed=tuple(changed),
            slots=(*renewed, *applied),
        )  # fmt: skip

    def make_release(self) -> None:
        if self.there["whole"]:
            return
        ship = self.kit.shipment
        self.side.note(f"makes the release {ship.release}")
        self.side.step("release", release=ship.release, version=ship.version, sha256=ship.sha256)
        self.side.settle()

    def apply(self) -> list[Mapping[str, Any]]:
        """Have the slots of the profiles on this host; those that were changed."""
        if not self.kit.assignment.slots.get(self.host.name):
            return []
        steps = self.host_verb("apply")["steps"]
        return [{**step, "did": [step["action"]]} for step in steps if step["action"] not in STILL]

    def host_verb(self, verb: str) -> Mapping[str, Any]:
        """`host plan` or `host apply` there; a slot that failed is an error with its last lines."""
        request = self.kit.assignment.request(self.host.name, pull=self.kit.pull)
        reply = call(
            self.transport, ["host", verb], stdin=json.dumps(request).encode(), timeout=LONG, on_event=self.on_event
        )
        if reply.errors:
            raise with_log(self.transport, self.told_to_pull(reply.errors[0]))
        return reply.data

    def told_to_pull(self, error: LlmctlError) -> LlmctlError:
        """The error; where a model is not there its hint is one that works on a host that may have no llmctl yet."""
        if error.hint and error.hint.startswith("llmctl pull "):
            error.hint = f"add --pull; or deploy {self.host.name} without the profile first, then {error.hint} --host "
            error.hint += self.host.name
        return error

    def prove(self, slots: Sequence[Mapping[str, Any]]) -> None:
        """Smoke of the slots that were changed."""
        ports = sorted({slot["port"] for slot in slots})
        if ports and self.kit.smoke:
            smoke(self.transport, ports, self.side.note)

    # ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def go_back(self, error: BaseException) -> None:
        """Put in use again what was before, and have the slots run it."""
        if not reachable(error):
            return
        try:
            to = self.side.step("revert")["current"]
            if to:
                self.side.note(f"goes back to {to}")
                self.side.step("slots", timeout=LONG)
        except LlmctlError as second:
            add(error, f"and going back failed: {second.message}")
        else:
            add(error, f"{self.host.name} runs {to} again" if to else "there was no release to go back to")
        self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """Note the failure and give the lease back, as far as the host can be reached."""
        if reachable(error):
            try:
                self.finish(getattr(error, "message", "") or type(error).__name__)
            except LlmctlError:
                return

    def finish(self, outcome: str) -> None:
        entry = {
            "what": "deploy",
            "from": self.there["current"],
            "to": self.kit.shipment.release,
            "outcome": outcome,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        self.side.step("finish", audit=entry, timeout=LONG)

    def result(self, status: str, **more: Any) -> Deployed:
        return Deployed(
            self.host.name, status, self.kit.shipment.release, self.there["current"], tuple(self.choice.rows()), **more
        )


def smoke(transport: Transport, ports: Sequence[int], note: Callable[[str], None]) -> None:
    """Prove slots by what they generate; those that sleep are left asleep. DeployFailed with the check that failed and
    the slot's last lines."""
    note(f"asks the slots {', '.join(map(str, ports))}")
    reply = call(transport, ["smoke", "--no-proof", *map(str, ports)], timeout=LONG, any_version=True)
    if not reply.data.get("rows") and reply.errors:
        raise reply.errors[0]
    failed = next((row for row in reply.data.get("rows", ()) if row["status"] == "fail"), None)
    if failed is None:
        return
    raise with_log(
        transport,
        DeployFailed(
            f"port {failed['port']} failed its check {failed['check']!r}: {failed.get('why')}",
            hint=f"llmctl smoke {transport.host.name}:{failed['port']}",
            host=transport.host.name,
            port=failed["port"],
        ),
    )


def with_log(transport: Transport, error: LlmctlError) -> LlmctlError:
    """The error with the last lines of its slot, where it has none of its own."""
    error.host = transport.host.name
    if not error.details.get("log") and error.port:
        try:
            reply = call(transport, ["logs", str(error.port), "--lines=15"], timeout=60.0, any_version=True)
            error.details["log"] = list(reply.data.get("lines", ()))
        except LlmctlError:
            return error
    return error


def add(error: BaseException, words: str) -> None:
    """Say more in an error that people will read."""
    if isinstance(error, LlmctlError):
        error.message = f"{error.message}; {words}"


def show_hook(lines: Sequence[str] | None, on_event: OnEvent) -> None:
    for line in lines or ():
        on_event({"event": "note", "message": line})
