"""What the verbs of `llmctl.cli.deploy` show."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from llmctl.render.text import View, escaped, size


def _deploy(data: Mapping[str, Any]) -> str:
    if "prunes" in data:
        return "\n".join(_pruned(row) for row in data["prunes"])
    if "removals" in data:
        return "\n".join(_removed(row) for row in data["removals"])
    return "\n".join(line for row in data["hosts"] for line in _host(row))


def _host(row: Mapping[str, Any]) -> Iterator[str]:
    before = f", before {row['before']}" if row["before"] not in (None, row["release"]) else ""
    yield f"{row['host']}: {row['status']} ({row['release']}{before}) in {row['seconds']:.1f} s"
    if row["status"] == "planned":
        for choice in row["choice"]:
            yield f"  {choice['what']}: {choice['taken']} ({choice['why']})"
            yield from (f"      not {name}: {why}" for name, why in choice["why_not"].items())
    for name in row["environments"]:
        yield f"  environment {name} {'to be made' if row['status'] == 'planned' else 'made'}"
    if row["sent"]:
        yield f"  {size(row['sent'])} of packages sent"
    for slot in row["slots"]:
        did = " and ".join(slot.get("did") or [slot["action"]])
        model = f", {slot['model']}" if slot["model"] else ""
        yield f"  slot {slot['port']}: {did}{model}"
    yield from (f"  {note}" for note in row["notes"])


def _pruned(row: Mapping[str, Any]) -> str:
    gone = [*row["releases"], *row["environments"]]
    return f"{row['host']}: removed {', '.join(gone) or 'no release'}, and {size(row['wheels'])} of packages"


def _removed(row: Mapping[str, Any]) -> str:
    stopped = f"stopped {', '.join(map(str, row['slots']))}; " if row["slots"] else ""
    return f"{row['host']}: {stopped}removed {', '.join(row['removed'])}; kept {', '.join(row['kept']) or 'nothing'}"


def _rollback(data: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{row['host']}: {row['release']} is in use again, before {row['before']}"
        + "".join(f"\n  slot {slot['port']}: {' and '.join(slot['did'])}" for slot in row["slots"])
        for row in data["hosts"]
    )


def _releases(data: Mapping[str, Any]) -> str:
    return "\n".join(line for row in data["hosts"] for line in _history(row))


def _history(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['host']}:"
    for release in row["releases"]:
        made = datetime.datetime.fromtimestamp(release["made"]).isoformat(" ", "minutes")
        yield f"  {release['id']}  {made}{'  in use' if release['id'] == row['current'] else ''}"
    if lease := row["lease"]:
        why = f" ({escaped(lease['message'])})" if lease["message"] else ""
        yield f"  {escaped(lease['owner'])} deploys to it now{why}"
    for entry in row["audit"]:
        words = [entry.get(key) for key in ("at", "who", "what", "from", "to", "outcome", "message")]
        yield "  " + "  ".join(escaped(str(word)) for word in words if word)


VIEWS: dict[str, View] = {"deploy": _deploy, "rollback": _rollback, "releases": _releases}
