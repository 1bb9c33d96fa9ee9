"""What is wrong with a registry beyond its shape: names, ports, lanes, and what llmctl says of the same ports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmctl.catalog import Catalog
from llmctl.models.registry import naming
from llmctl.models.registry.bringing import bring
from llmctl.models.registry.reading import Reading
from llmctl.models.registry.shape import Entry, Finding, Lane


@dataclass(frozen=True)
class Ours:
    """What llmctl has on a port, and where that is written: "profile imported", "the slot's desired state"."""

    port: int
    model: str
    where: str


def check(reading: Reading, catalog: Catalog, ours: Iterable[Ours] = ()) -> list[Finding]:
    """All findings, in the order of the file."""
    brought = bring(reading, catalog)
    registry = reading.registry
    found = [*reading.findings, *brought.findings, *_ports(reading)]
    for entry in registry.models.values():
        found += _entry(reading, entry)
    for lane in registry.lanes.values() if registry.version > 1 else ():
        found += _lane(reading, lane)
    for slot in brought.slots:
        for other in ours:
            if other.port == slot.port and other.model != slot.model:
                where = ["lanes", str(slot.port), "desired_target"]
                what = f"{other.where} has {other.model} on port {slot.port}, this has {slot.model}"
                hint = "decide for one: llmctl profile diff, llmctl swap"
                found.append(reading.finding(where, what, hint))
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line)


def twice(reading: Reading) -> list[Finding]:
    """The ports that two models of a version 1 file have: one would be lost."""
    return [finding for finding in _ports(reading) if finding.refused]


def _ports(reading: Reading) -> list[Finding]:
    registry = reading.registry
    users: dict[int, list[str]] = defaultdict(list)
    for entry in registry.models.values():
        if entry.port:
            users[entry.port].append(entry.slug)
    found = []
    for port, slugs in users.items():
        for slug in slugs[1:]:
            what = f"port {port} is that of {slugs[0]!r} too"
            path = ["models", slug, "port"]
            found.append(reading.finding(path, what, "one model a port", refused=registry.version == 1))
    return found


def _entry(reading: Reading, entry: Entry) -> list[Finding]:
    path = ["models", entry.slug]
    found = []
    if naming.handle(entry.model_id) != entry.slug:
        what = f"{entry.model_id!r} is not the slug {entry.slug!r} in another spelling"
        found.append(reading.finding([*path, "model_id"], what, f"as a slug it is {naming.handle(entry.model_id)!r}"))
    if entry.format == "mlx" and not entry.slug.startswith("mlx-"):
        what = "the slug of an mlx model starts with mlx-"
        found.append(reading.finding(path, what, f"mlx-{entry.slug}"))
    lane = reading.registry.lanes.get(entry.port or 0)
    wanted = lane.desired_target.target_slug if lane and lane.desired_target else None
    if reading.registry.version > 1 and entry.port and wanted != entry.slug:
        what = f"the lane {entry.port} wants {wanted or 'nothing'}" if lane else f"there is no lane {entry.port}"
        found.append(reading.finding([*path, "port"], what, "the lane counts"))
    return found


def _lane(reading: Reading, lane: Lane) -> list[Finding]:
    path = ["lanes", str(lane.port)]
    found = []
    for key in ("desired_target", "actual_serving_target", "last_known_good_target"):
        target = getattr(lane, key)
        entry = reading.registry.models.get(target.target_slug) if target else None
        if target and entry is None and key == "actual_serving_target":
            what = f"there is no model {target.target_slug!r}"
            found.append(reading.finding([*path, key], what, "it may have been removed since"))
        if entry and target.repo_id and entry.repo_id and target.repo_id != entry.repo_id:
            what = f"{target.repo_id!r} is not the repo_id of {entry.slug!r}, {entry.repo_id!r}"
            found.append(reading.finding([*path, key, "repo_id"], what, "the model was changed under its name"))
    desired, actual = lane.desired_target, lane.actual_serving_target
    if lane.health_state == "serving" and desired and actual and desired.target_slug != actual.target_slug:
        what = f"serves {actual.target_slug!r}, and {desired.target_slug!r} is desired"
        found.append(reading.finding([*path, "actual_serving_target"], what, "what is desired counts"))
    if lane.reconciliation_state == "failed":
        verdict = str((lane.last_failure or {}).get("verdict") or "no verdict")
        what = f"its last change failed: {verdict[:200]}"
        found.append(reading.finding([*path, "reconciliation_state"], what, "an import starts it anew, as desired"))
    return found
