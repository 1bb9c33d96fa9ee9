"""What is wrong with a host, by its facts and by what it tells of itself: pure decisions."""

from __future__ import annotations

from collections.abc import Iterator

from llmctl import __version__
from llmctl.backends.metal import working_set
from llmctl.config import Host
from llmctl.doctor import clock, fixes, permissions
from llmctl.doctor.inside import Inside, Mac, SlotInside
from llmctl.doctor.rows import FAIL, WARN, Row, fail, good, of_error, warn
from llmctl.domain import BACKOFF, CRASH_LOOP, DISABLED, DOWN
from llmctl.environments import locks
from llmctl.errors import LlmctlError, NotDeployed
from llmctl.fleet.facts import Facts
from llmctl.fleet.facts.findings import LEAST_DISK, findings
from llmctl.health.verdict import Rules
from llmctl.render.text import duration, size

CHECKS = (
    "reach", "python", "llmctl", "release", "backend", "engine", "gpu", "service", "slots", "ports", "disk", "memory",
    "heat", "native", "keys", "state", "clock", "mac", "system",
)  # fmt: skip
"""The order in which they are shown."""
KILLED = ("SIGKILL", "out of memory", "Out of memory", "does not fit")


def unreachable(host: Host, error: LlmctlError) -> list[Row]:
    """The one row of a host that could not be asked."""
    return [of_error("reach", error, f"llmctl hosts check {host.name}")]


def rows(host: Host, facts: Facts, inside: Inside | LlmctlError, now: float) -> list[Row]:
    """Every check of a host that was reached, in their order; `inside` is why there is nothing where it told nothing,
    `now` the operator's clock."""
    found = [good("reach", "reached, and its key is trusted" if host.transport == "ssh" else "this machine")]
    found += _of_facts(host, facts)
    if isinstance(inside, Inside):
        found += _of_inside(host, facts, inside)
    elif not isinstance(inside, NotDeployed) and facts.version in (None, __version__):
        found.append(of_error("llmctl", inside, f"llmctl deploy {host.name}"))
    told = {row.check for row in found}
    passes = _passes(host, facts, inside if isinstance(inside, Inside) else None, now)
    found += [good(check, why) for check, why in passes.items() if check not in told and why]
    return sorted(found, key=lambda row: CHECKS.index(row.check))


def _of_facts(host: Host, facts: Facts) -> Iterator[Row]:
    """What `hosts check` finds, each with its command."""
    for finding in findings(host, facts):
        check = finding.what if finding.what in CHECKS else "system"
        if check == "system" and _unused_gpu(host, facts, finding.why):
            continue
        check = "gpu" if fixes.of_gpu(finding.why) else check
        fix = finding.hint or fixes.of(finding.why, host, facts)
        yield Row(check, FAIL if finding.bad else WARN, finding.why, fix)
    if facts.accelerators and host.backend in ("auto", "cuda") and facts.os == "linux":
        try:
            locks.torch_build(facts)
        except LlmctlError as error:
            yield warn("gpu", error.message, error.hint or f"llmctl deploy {host.name}")


def _unused_gpu(host: Host, facts: Facts, why: str) -> bool:
    """Whether a note is about a GPU that nobody means to use: by the entry, or since a better one is there."""
    return fixes.of_gpu(why) and (host.backend == "cpu" or ("AMD" in why and bool(facts.accelerators)))


def _of_inside(host: Host, facts: Facts, inside: Inside) -> Iterator[Row]:
    there, deploy = fixes.there(host), f"llmctl deploy {host.name}"
    if inside.drift:
        few = ", ".join(inside.drift[:4]) + (f" and {len(inside.drift) - 4} more" if len(inside.drift) > 4 else "")
        yield fail("release", f"it is not as it was deployed: {few}", deploy)
    for slot in inside.slots:
        yield from _slot(host, inside, slot)
    yield from _foreign(host, inside)
    if inside.disk_total and inside.disk_free < LEAST_DISK <= facts.disk_free:
        yield fail(
            "disk", f"{size(inside.disk_free)} free where its models lie", f"llmctl models gc --host {host.name}"
        )
    if inside.memory_total and inside.memory_free < Rules().memory * inside.memory_total:
        largest = max(inside.slots, key=lambda slot: slot.memory, default=None)
        fix = (
            f"llmctl unload {host.name}:{largest.port}" if largest and largest.memory else f"{there}ps aux --sort -rss"
        )
        told = f"{size(inside.memory_free)} of {size(inside.memory_total)} free: the next load may be killed"
        yield warn("memory", told, fix)
    yield from _heat(inside, there)
    yield from _native(host, facts, inside)
    if inside.keys:
        yield fail("keys", inside.keys, f"llmctl keys rotate --host {host.name}")
    yield from permissions.told("state", inside.loose, inside.home, there)
    if inside.synchronized is False:
        yield warn("clock", "nothing keeps it right (NTP is not synchronized)", f"{there}{clock.FIX}")
    if inside.cpu_builds and inside.backend == "cuda":
        told = f"it has a GPU, and the build for CPUs alone in: {', '.join(inside.cpu_builds)}"
        yield fail("gpu", told, deploy)
    if inside.mac:
        yield from _mac(host, facts, inside.mac, there)


def _slot(host: Host, inside: Inside, slot: SlotInside) -> Iterator[Row]:
    where = f"{host.name}:{slot.port}"
    if not slot.wanted or slot.state == DISABLED:
        return
    if slot.state in (DOWN, CRASH_LOOP, BACKOFF):
        killed = any(word in slot.why for word in KILLED)
        fix = f"llmctl models fit {slot.model} --host {host.name}" if killed else f"llmctl restart {where}"
        why = slot.why.partition("; llmctl ")[0]
        yield fail("slots", f"{slot.port} ({slot.model}) is {slot.state}" + (f": {why}" if why else ""), fix)
    elif slot.service != "none" and not slot.enabled:
        yield warn("slots", f"{slot.port} ({slot.model}) does not start at boot", f"llmctl restart {where}")
    elif slot.service != "none" and slot.unit not in ("active", "activating"):
        yield warn("slots", f"{slot.port}: its unit is {slot.unit}", f"llmctl restart {where}")
    if slot.due and slot.state not in (DOWN, CRASH_LOOP):
        what = "under another service manager" if "move" in slot.due else "an older release"
        yield warn("slots", f"{slot.port} ({slot.model}) still runs {what}", f"llmctl deploy {host.name}")
    if inside.backend != "cpu" and slot.residency and set(slot.residency) == {"cpu"}:
        told = f"{slot.port} ({slot.model}) computes on the CPU, and the host has {inside.backend}"
        yield fail("gpu", told, f"llmctl deploy {host.name} && llmctl restart {where}")


def _foreign(host: Host, inside: Inside) -> Iterator[Row]:
    wanted = {slot.port for slot in inside.slots if slot.wanted}
    for one in inside.foreign:
        who = f"{one.program or 'a program'}" + (f" (pid {one.pid})" if one.pid else "")
        where, there = f"{host.name}:{one.port}", fixes.there(host)
        if one.port in wanted:
            sudo = "" if one.mine else "sudo "
            end = f"kill {one.pid}" if one.pid else f"fuser -k {one.port}/tcp"
            yield fail(
                "ports", f"{who} holds {one.port}, which is a slot's", f"{there}{sudo}{end} && llmctl restart {where}"
            )
        else:
            fix = (
                f"llmctl adopt {where}"
                if one.mine
                else f"other ports in [hosts.{host.name}] of hosts.toml: ports = […]"
            )
            yield warn("ports", f"{who} listens on {one.port}, which llmctl may give to a slot", fix)


def _heat(inside: Inside, there: str) -> Iterator[Row]:
    for sensor in inside.sensors:
        fix = (
            f"{there}sudo nvidia-smi -pl WATTS"
            if sensor.name.startswith("GPU")
            else f"{there}sudo cpupower frequency-set -u FREQUENCY"
        )
        fix = f"more air, or less power: {fix}"
        if sensor.dead:
            yield fail("heat", f"{sensor.name}: {sensor.dead}", f"{there}sudo reboot")
        elif sensor.throttled:
            yield warn("heat", f"{sensor.name}: {sensor.throttled}", fix)
        elif sensor.hot(Rules().hot):
            yield warn("heat", f"{sensor.name} has {sensor.celsius:.0f} °C of {sensor.limit:.0f}", fix)


def _native(host: Host, facts: Facts, inside: Inside) -> Iterator[Row]:
    """llama.cpp for this CPU: only where it computes on one, and is wanted."""
    if inside.native or inside.backend != "cpu" or not host.native or inside.release is None or facts.os != "linux":
        return
    if inside.native_due:
        yield warn(
            "native",
            f"llama.cpp is the one for any CPU: {inside.native_why}",
            f"llmctl native build --host {host.name}",
        )
    elif not inside.compiler:
        fix = f"{fixes.there(host)}{fixes.compiler(facts)} && llmctl native build --host {host.name}"
        yield warn("native", "llama.cpp is the one for any CPU: there is no C++ compiler", fix)
    else:
        yield warn(
            "native",
            f"llama.cpp is the one for any CPU: {inside.native_why}",
            f"llmctl native build --force --host {host.name}",
        )


def _mac(host: Host, facts: Facts, mac: Mac, there: str) -> Iterator[Row]:
    """Never run: this project has no Mac."""
    if mac.sleep:
        told = f"it goes to sleep after {mac.sleep} minutes without a user, and its slots with it"
        yield warn("mac", told, f"{there}sudo pmset -a sleep 0")
    if mac.filevault:
        told = "FileVault is on: after a reboot nothing starts, not even ssh, until somebody types a password"
        yield warn("mac", told, f"{there}sudo fdesetup disable (or reboot it with: sudo fdesetup authrestart)")
    most = working_set(facts.memory, mac.wired or 0)
    if host.memory_budget and host.memory_budget > most:
        told = f"its GPU may use {size(most)}, and memory_budget is {size(host.memory_budget)}"
        yield warn("mac", told, f"{there}sudo sysctl iogpu.wired_limit_mb={host.memory_budget // 2**20}")


def _passes(host: Host, facts: Facts, inside: Inside | None, now: float) -> dict[str, str]:
    """What is said of a check that found nothing; checks that do not concern this host are not there."""
    found = {
        "python": ", ".join(sorted({".".join(map(str, python.version)) for python in facts.pythons})),
        "backend": f"{facts.chip}, {facts.cores} cores",
        "disk": f"{size(facts.disk_free)} free",
        "clock": "as this machine's",
        "gpu": ", ".join(f"{gpu.name}, driver {gpu.driver}" for gpu in facts.accelerators[:1]),
    }
    if inside is None:
        return found
    wanted = [slot for slot in inside.slots if slot.wanted]
    age = f", {duration(max(0.0, now - inside.deployed))} ago" if inside.deployed else ""
    hottest = max((s.celsius for s in inside.sensors if s.celsius is not None), default=None)
    return found | {
        "llmctl": facts.version or f"{__version__}, not deployed",
        "release": f"{inside.release}{age}" if inside.release else "",
        "service": inside.service if inside.release else "",
        "slots": f"{len(wanted)} as they should be" if wanted else "none is wanted",
        "ports": f"{host.ports[0]}–{host.ports[1]}, nobody else's",
        "memory": f"{size(inside.memory_free)} of {size(inside.memory_total)} free",
        "heat": "" if not inside.sensors else f"{hottest:.0f} °C at most" if hottest is not None else "not throttled",
        "native": "llama.cpp of its own CPU" if inside.native else "",
        "keys": "as they should be",
        "state": "its owner's alone",
        "mac": "awake, starts by itself" if inside.mac else "",
    }
