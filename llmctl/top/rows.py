"""What a snapshot of the fleet looks like in tables: pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.domain import GATEWAY
from llmctl.progress import detail
from llmctl.render.slots import behind, handles
from llmctl.render.text import counted, size
from llmctl.top.cells import BAD, BOLD, DIM, GOOD, INFO, PLAIN, WARN, Cell, Column, Row, bar, cell
from llmctl.watch.view import OK, SKEW, UNKNOWN, HostView, Snapshot

HOSTS = (
    Column("HOST", most=20), Column("STATE"), Column("SLOTS", True), Column("TOK/S", True), Column("QUEUE", True),
    Column("MEMORY"), Column("DISK", True), Column("LOAD", True), Column("WHY"),
)  # fmt: skip
SLOTS = (
    Column("SLOT", most=24), Column("MODEL", most=28), Column("STATE"), Column("TOK/S", True), Column("REQS", True),
    Column("MEMORY", True), Column("FOR", True), Column("WHY"),
)  # fmt: skip
EVENTS = (Column("TIME"), Column("SLOT", most=24), Column("EVENT"), Column("WHAT"))
LINE = (Column(""),)

STYLES = {
    OK: GOOD, UNKNOWN: BAD, SKEW: WARN, "not deployed": WARN, "ready": GOOD, "starting": WARN, "swapping": WARN,
    "stopping": WARN, "sleeping": INFO, "empty": DIM, "disabled": "magenta", "share": DIM,
}  # fmt: skip
WORST = ("down", "crash-loop", "failed", "backoff", UNKNOWN, "stopping", "swapping", "starting", "disabled", "ready")
ORDERS = ("slot", "model", "state", "tok/s", "queue", "memory", "for")
KEYS = "s swap  l load  u unload  r restart  f logs  / filter  o order  ? help  q quit"


@dataclass(frozen=True)
class Sight:
    """What of the fleet is shown, and how: `words` must all be in a row; `order` is one of ORDERS."""

    words: str = ""
    order: str = "slot"
    reverse: bool = False


@dataclass(frozen=True)
class Slot:
    """A slot with its host; `state` is unknown where nobody could ask the host."""

    host: HostView
    row: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"{self.host.name}:{self.row['port']}"

    @property
    def state(self) -> str:
        return str(self.row["state"]) if self.host.state in (OK, SKEW) else UNKNOWN


def slots(seen: Snapshot, sight: Sight, now: float) -> list[Slot]:
    """The slots that are meant, in the order that is meant."""
    found = [Slot(view, row) for view in seen.hosts.values() for row in view.slots]
    words = sight.words.casefold().split()
    found = [slot for slot in found if all(word in _text(slot) for word in words)]
    if sight.order != "slot":
        found.sort(key=lambda slot: _rank(slot, sight.order, now))  # the first ones are those to look at
    return found[::-1] if sight.reverse else found


def slot_rows(found: Sequence[Slot], now: float) -> list[Row]:
    """Of SLOTS."""
    return [Row(slot.key, tuple(_slot(slot, now))) for slot in found]


def host_rows(seen: Snapshot, sight: Sight) -> list[Row]:
    """Of HOSTS: those with a slot that is meant, and with words for a host's own name or state."""
    words = sight.words.casefold().split()
    return [
        Row(view.name, tuple(_host(view)))
        for view in seen.hosts.values()
        if all(word in f"{view.name} {view.state} {' '.join(_text(Slot(view, row)) for row in view.slots)}".casefold()
               for word in words)
    ]  # fmt: skip


def event_rows(seen: Snapshot, most: int, now: float) -> list[Row]:
    """Of EVENTS, the newest first; times are ours, however wrong a host's clock is."""
    found = []
    for event in reversed(seen.events(most)):
        host = seen.hosts[event["host"]]
        at = time.strftime("%H:%M:%S", time.localtime(now - host.age(event["at"], now)))
        slot = f"{host.name}:{event['port']}" if event["port"] else host.name
        style = BAD if event["outcome"] == "failed" or event["kind"].startswith("crash") else PLAIN
        outcome = f" {event['outcome']}" if event["outcome"] not in ("", "ok") else ""
        what = " · ".join(str(part) for part in (event["model"], event["what"]) if part)
        cells = (cell(at, DIM), cell(slot), cell(event["kind"] + outcome, style), cell(what))
        found.append(Row(str(event.get("id", at + slot)), cells))
    return found


def title(seen: Snapshot, sight: Sight, now: float) -> Row:
    """One line of the whole fleet."""
    views, rows = list(seen.hosts.values()), [slot for view in seen.hosts.values() for slot in _known(view)]
    bad = sum(view.state != OK for view in views)
    parts = [time.strftime("%H:%M:%S", time.localtime(now))]
    if sight.words:
        parts.append(f"/{sight.words}")
    if sight.order != "slot" or sight.reverse:
        parts.append(f"{'↑' if sight.reverse else '↓'} {sight.order}")
    parts += [
        counted(len(views), "host") + (f" ({bad} not ok)" if bad else ""),
        f"{sum(row['state'] == 'ready' for row in rows)} of {counted(len(rows), 'slot')} ready",
        f"{sum(row['tokens_per_second'] for row in rows):.1f} tok/s", f"{sum(row['queued'] for row in rows)} queued",
    ]  # fmt: skip
    return Row("title", (cell(" · ".join(parts), BOLD),))


def about(slot: Slot | None, host: HostView | None, now: float) -> Row:
    """One line of what the cursor is on."""
    if slot:
        row = slot.row
        parts = [
            slot.key, _doing(slot), row["engine"], f"{row['active']} running" if row["active"] else None,
            f"names {', '.join(row['handles'])}" if row["handles"] and row["engine"] != GATEWAY else None,
            *(f"{replica['where']} {behind(replica)}" for replica in row["replicas"]),
            f"with {', '.join(row['spread'][1:])}" if row["spread"] else None,
            f"pid {row['pid']}" if row["pid"] else None, f"llmctl {row['version']}" if row["version"] else None,
        ]  # fmt: skip
    elif host:
        heard = f"heard {_age(now - host.at)} ago" if host.at else None
        version = f"llmctl {host.version}" if host.version else None
        shares = [f"computes {share.get('model')} with {share.get('slot')}" for share in host.shares]
        parts = [host.name, host.why, host.hint, heard, version, *shares]
    else:
        parts = []
    return Row("about", (cell(" · ".join(part for part in parts if part), DIM),))


def _host(view: HostView) -> Iterator[Cell]:
    known = _known(view)
    rate, queued = sum(row["tokens_per_second"] for row in known), sum(row["queued"] for row in known)
    yield cell(view.name)
    yield cell(view.state, STYLES.get(view.state, PLAIN))
    yield cell(f"{sum(row['state'] == 'ready' for row in known)}/{len(known)}" if known else "-")
    yield cell(f"{rate:.1f}" if rate else "-")
    yield cell(queued or "-", WARN if queued else PLAIN)
    if view.state not in (OK, SKEW):
        yield from (cell("-", DIM) for _ in range(3))
    else:
        memory, disk = view.memory, view.disk
        yield bar(memory["total"] - memory["free"], memory["total"]) if memory else cell("-", DIM)
        yield cell(size(disk["free"]) if disk else "-")
        yield cell(f"{view.load:.1f}" if view.load is not None else "-")
    yield cell(view.why or "", STYLES.get(view.state, PLAIN))


def _slot(slot: Slot, now: float) -> Iterator[Cell]:
    row, lost = slot.row, slot.state == UNKNOWN
    rate, style = row["tokens_per_second"], DIM if lost else PLAIN
    yield cell(slot.key, style)
    yield cell(row["model"] or "-", style)
    yield cell(slot.state, STYLES.get(slot.state, BAD))
    yield cell(f"{rate:.1f}" if rate and not lost else "-", style)
    waiting = f"+{row['queued']}" if row["queued"] else ""
    yield cell(
        f"{row['active']}{waiting}" if row["active"] or waiting else "-", WARN if waiting and not lost else style
    )
    yield cell(size(row["memory_bytes"] or None), style)
    yield cell(_age(slot.host.age(row["since"], now)) if row["since"] and not lost else "-", style)
    yield cell(_doing(slot), style)


def _doing(slot: Slot) -> str:
    """How a load goes on, else why it is as it is."""
    if slot.state == UNKNOWN:
        return f"was {slot.row['state']}: {slot.host.why}"
    progress = slot.row.get("progress") or {}
    if progress:
        share = f" {100 * progress['done'] / progress['total']:.0f} %" if progress["total"] else ""
        return f"{progress['stage']}{share} · {detail(progress)}"
    shown = slot.row["why"] or slot.row["operation"] or ""
    return str(shown or handles(slot.row)) if slot.row["engine"] == GATEWAY else str(shown)


def _text(slot: Slot) -> str:
    row = slot.row
    return f"{slot.key} {row['model']} {slot.state} {row['engine']} {' '.join(row['handles'])}".casefold()


def _rank(slot: Slot, order: str, now: float) -> Any:
    row = slot.row
    if order == "model":
        return row["model"] or "\uffff"
    if order == "state":
        return WORST.index(slot.state) if slot.state in WORST else len(WORST)
    if order == "for":
        return slot.host.age(row["since"], now)
    return -row[{"tok/s": "tokens_per_second", "queue": "queued", "memory": "memory_bytes"}[order]]


def _known(view: HostView) -> Sequence[Mapping[str, Any]]:
    """The slots of a host that can be asked; a gateway has no model, and is none of them."""
    return [row for row in view.slots if row["engine"] != GATEWAY] if view.state in (OK, SKEW) else ()


def _age(seconds: float) -> str:
    """Coarse, so that a table that stands still is not painted again every second."""
    whole = int(max(0.0, seconds))
    for unit, long in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= long:
            return f"{whole // long}{unit}"
    return f"{whole}s"
