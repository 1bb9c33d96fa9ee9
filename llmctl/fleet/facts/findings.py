"""What `hosts check` says of a host that was reached: a pure judgement of its facts."""

from __future__ import annotations

from dataclasses import dataclass

from llmctl import __version__
from llmctl.config import Host
from llmctl.fleet.facts import Facts
from llmctl.fleet.facts.outlook import outlook, value

MOST_SKEW = 5.0
LEAST_DISK = 5 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing to know. `bad`: the host does not do what it is to do; otherwise it is only told."""

    what: str
    why: str
    hint: str | None = None
    bad: bool = True


def findings(host: Host, facts: Facts) -> list[Finding]:
    """All of them, the bad ones first."""
    decisions = outlook(host, facts)
    found = [
        *(Finding(d.what, d.why, d.hint) for d in decisions if d.value is None),
        *_llmctl(host, facts),
        *_clock(facts),
        *_disk(facts),
        *_service(host, facts, value(decisions, "service")),
    ]
    told = " ".join(finding.why for finding in found)
    found += [Finding("host", note, bad=False) for note in facts.notes if note not in told]
    return sorted(found, key=lambda finding: not finding.bad)


def _llmctl(host: Host, facts: Facts) -> list[Finding]:
    deploy = f"llmctl deploy {host.name}"
    if facts.version is None:
        return [] if host.transport == "local" else [Finding("llmctl", "not deployed yet", deploy, bad=False)]
    if facts.version == __version__:
        return []
    return [Finding("llmctl", f"{facts.version} is there, and this is {__version__}", deploy)]


def _clock(facts: Facts) -> list[Finding]:
    if abs(facts.skew) <= MOST_SKEW:
        return []
    way = "ahead of" if facts.skew > 0 else "behind"
    why = f"{abs(facts.skew):.0f} s {way} this machine"
    return [Finding("clock", why, "set one of the two: timedatectl set-ntp true (macOS: sntp -sS time.apple.com)")]


def _disk(facts: Facts) -> list[Finding]:
    if facts.disk_free >= LEAST_DISK:
        return []
    why = f"{facts.disk_free / 1e9:.1f} GB free in {facts.home}"
    return [Finding("disk", why, "llmctl deploy --prune, or `llmctl models gc` there")]


def _service(host: Host, facts: Facts, service: str | None) -> list[Finding]:
    if service == "none" and host.service == "auto":
        return [Finding("service", "nothing that works there starts slots again after a reboot", bad=False)]
    if service == "systemd" and facts.version and not facts.linger:
        why = f"{facts.user} has no linger: slots end with its last login, and do not come back at boot"
        return [Finding("service", why, f"type there: loginctl enable-linger {facts.user}; or deploy again")]
    return []
