"""The steps of a deploy on the host, in a table: each is asked by name, with what it needs, and answers with JSON.

Those of CHANGES carry the lease ({"number", "token"}) and do nothing without it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.domain import build
from llmctl.environments import Wanted as Environment
from llmctl.environments import build as environment_build
from llmctl.environments import programs
from llmctl.errors import LlmctlError, NoSpace, UsageError
from llmctl.files import blocks
from llmctl.host import activation, audit, lease, look, releases, removal, slots
from llmctl.host.activation import Wanted

OnEvent = Callable[[dict[str, Any]], None]
Request = Mapping[str, Any]
Step = Callable[[Path, Request, OnEvent], dict[str, Any]]


def look_step(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    return look.look(home, build(Wanted, request["wanted"]))


def overview(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    return look.overview(home)


def begin(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Take the lease; {"lease", "took_over": who lost it}. With `needed` bytes, NoSpace before anything is written."""
    room(home, int(request.get("needed", 0)))
    claim = build(lease.Claim, request["claim"])

    def waiting(now: lease.Lease) -> None:
        on({"event": "note", "message": f"waits for {now.owner}{f' ({now.message})' if now.message else ''}"})

    taken, lost = lease.take(home, claim, wait=float(request.get("wait", 0.0)), on_wait=waiting)
    if lost:
        audit.note(home, {"what": "took over", "who": taken.owner, "of": lost.owner, "message": lost.message})
    with lease.held(home, taken.number, taken.token):
        removal.sweep_litter(home)
    shown = {"number": taken.number, "token": taken.token}
    return {"lease": shown, "ttl": taken.ttl, "took_over": lost.shown() if lost else None}


def renew(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    return {"left": lease.renew(home, **request["lease"]).left()}


def wheels(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Which of `files` ({name: {"bytes", "sha256"}}) the wheelhouse has not, or not whole: {"missing": [names]}.

    What was sent to `incoming` under this lease is taken in first.
    """
    files: Mapping[str, Mapping[str, Any]] = request["files"]
    with lease.held(home, **request["lease"]):
        removal.accept(home, request["lease"]["token"], files)
    with lease.kept(home, **request["lease"]):
        missing = [name for name, said in files.items() if not _is(home / "wheelhouse" / name, said)]
    room(home, sum(files[name]["bytes"] for name in missing) + int(request.get("needed", 0)))
    return {"missing": missing}


def environment(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Make one environment, out of the wheelhouse or (`online`) from the index; its lines are events.

    `tool` is the manager's program here; `wheel` names that of the uv or pip which was sent instead.
    """
    wanted = Environment(request["name"], request["requirements"])
    tool = Path(request["tool"]) if request["tool"] else None

    def line(text: str) -> None:
        on({"event": "line", "message": text})

    with lease.kept(home, **request["lease"]):
        if request["wheel"]:
            wheel = home / "wheelhouse" / request["wheel"]
            tool = programs.uv_from(wheel, home / "tools") if request["manager"] == "uv" else wheel
        python = environment_build.build(
            wanted, request["manager"], Path(sys.executable), home / "envs",
            wheelhouse=None if request["online"] else home / "wheelhouse", tool=tool, on_line=line,
        )  # fmt: skip
    return {"python": str(python)}


def release(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Unpack the wheel; nothing is in use of it yet."""
    with lease.held(home, **request["lease"]):
        wheel = home / "incoming" / f"{request['release']}.whl"
        made = releases.unpack(home, wheel, request["release"], request["version"], request["sha256"])
    return asdict(made)


def activate(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Put the release in use: {"changed": [...]}."""
    with lease.held(home, **request["lease"]):
        return {"changed": activation.activate(home, build(Wanted, request["wanted"]))}


def renew_slots(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Take every slot to the release in use, one after another; stops at the first that fails: {"slots": [...]}.

    `only` names the steps to do ("start", "reexec", "engine").
    """
    with lease.kept(home, **request["lease"]):
        now = activation.of_release(home, releases.current(home) or "")
        pythons = activation.pythons(home, now)
        done = []
        for slot in slots.seen(home):
            if steps := slots.due(home, slot, now.release, pythons.values(), now.service):
                slots.renew(home, slot, now.release, pythons["base"], steps, on)
                done.append({"port": slot.port, "model": slot.model, "did": steps})
    return {"slots": done}


def revert(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Back to what was in use before this deploy: {"current": its release, or None where there was none}."""
    with lease.held(home, **request["lease"]):
        return {"current": activation.revert(home)}


def rollback(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Put an older release in use, as it was: {"from", "to", "changed"}."""
    with lease.held(home, **request["lease"]):
        before = releases.current(home)
        target = releases.find(home, request.get("to"))
        if damage := releases.damage(home, target.id):
            raise UsageError(f"release {target.id} is damaged ({damage[0]})", hint="name another, or deploy it again")
        changed = activation.activate(home, activation.of_release(home, target.id)) if target.id != before else []
    return {"from": before, "to": target.id, "version": target.version, "changed": changed}


def finish(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Write the audit line, forget what was before, prune, give the lease back. `outcome` is "ok" or why it failed."""
    entry, pruned = dict(request["audit"]), {}
    with lease.held(home, **request["lease"]) as mine:
        if entry.get("outcome") == "ok":
            try:
                activation.finished(home)
            except LlmctlError as error:
                on({"event": "note", "message": f"units are left behind: {error.message}"})
            if entry.get("what") == "deploy":
                releases.note_order(home, str(releases.current(home)))
                pruned = removal.prune(home)
                removal.sweep_incoming(home)
        audit.note(home, {"who": mine.owner, "message": mine.message, **entry})
    lease.release(home, **request["lease"])
    return {"pruned": pruned}


def prune(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Remove what is not needed, the wheelhouse too."""
    with lease.held(home, **request["lease"]):
        return {**removal.prune(home), "wheels": removal.clean(home)}


def remove(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Remove llmctl from this host; see `removal.remove`."""
    with lease.held(home, **request["lease"]):
        return removal.remove(home, request.get("service", "none"))


STEPS: dict[str, Step] = {
    "look": look_step,
    "overview": overview,
    "begin": begin,
    "renew": renew,
    "wheels": wheels,
    "environment": environment,
    "release": release,
    "activate": activate,
    "slots": renew_slots,
    "revert": revert,
    "rollback": rollback,
    "finish": finish,
    "prune": prune,
    "remove": remove,
}


def run(home: Path, request: Request, on: OnEvent) -> dict[str, Any]:
    """Do the step that is asked for."""
    step = STEPS.get(str(request.get("step")))
    if step is None:
        raise UsageError(f"this host side has no step {request.get('step')!r}", hint="deploy with the newer llmctl")
    try:
        return step(home, request, on)
    except (KeyError, TypeError) as error:
        raise LlmctlError(f"step {request['step']}: {error!r}", hint="deploy with one version of llmctl") from error


def room(home: Path, needed: int) -> None:
    """NoSpace unless the state folder's disk has `needed` free bytes."""
    free = look.free(home)
    if needed > free:
        raise NoSpace(
            f"{home} needs {needed / 1e6:.0f} MB and has {free / 1e6:.0f} MB free",
            hint="free some, or remove old releases: llmctl deploy HOST --prune",
            details={"needed": needed, "free": free, "path": str(home)},
        )


def _is(path: Path, said: Mapping[str, Any]) -> bool:
    try:
        if path.stat().st_size != said["bytes"]:
            return False
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for block in blocks(file):
                digest.update(block)
        return digest.hexdigest() == str(said["sha256"])
    except OSError:
        return False
