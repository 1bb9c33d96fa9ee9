"""What `llmctl pull` and `llmctl models verify` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, size


def _pulled(data: Mapping[str, Any]) -> str:
    if "plan" in data:
        return _plan(data["plan"])
    if "copied" in data:
        return "\n".join(map(_copied, data["copied"]))
    what = f"{data['model']}: {data['format']} {data['quantization'] or ''}".rstrip()
    how = "is here and unchanged" if data["already"] else f"{size(data['received'])} fetched"
    licence = f" · licence {data['licence']}" if data["licence"] else ""
    return (
        f"{what}, {size(data['bytes'])} in {data['files']} files, {how}\n"
        f"  {data['source']} at {data['revision'][:12]}{licence}\n"
        f"  {data['path']}"
    )


def _copied(row: Mapping[str, Any]) -> str:
    what = f"{row['model']}: {row['format']} {row['quantization'] or ''}".rstrip()
    how = "is there and unchanged" if row["already"] else f"{size(row['received'])} came from {row['from']}"
    return f"{row['host']}  {what}, {size(row['bytes'])} in {row['files']} files, {how}\n  {row['path']}"


def _plan(plan: Mapping[str, Any]) -> str:
    told = {True: "yes", False: "no", None: "not checked"}
    engines = ", ".join(f"{engine}: {told[yes]}" for engine, yes in plan["engines"].items())
    lines = [
        f"would pull {plan['model']}: {plan['format']} {plan['quantization'] or ''}".rstrip(),
        f"  {plan['source']} at {plan['revision'][:12]}, architecture {plan['architecture']} ({engines})",
        f"  {size(plan['to_fetch'])} of {size(plan['bytes'])} to fetch, {size(plan['free'])} free at {plan['cache']}",
        f"  {plan['path']}",
    ]
    for file in plan["files"]:
        here = "" if file["to_fetch"] else ", here"
        lines.append(f"    {file['path']} ({size(file['bytes'])}{here})")
    return "\n".join(lines)


def _verified(data: Mapping[str, Any]) -> str:
    lines = []
    for row in data["artifacts"]:
        what = f"{row['model']} {row['format']} {row['quantization'] or ''}".rstrip()
        healed = f", healed {', '.join(row['healed'])}" if row["healed"] else ""
        lines.append(
            f"{what}: {'BAD' if row['bad'] else 'ok'}, {size(row['bytes'])} in {len(row['files'])} files{healed}"
        )
        lines += [f"  {file['state']}: {row['path']}/{file['path']}" for file in row["files"] if file["state"] != "ok"]
        if row["bad"]:
            lines.append(f"  heal it: llmctl models verify {row['model']} --repair")
    lines += [f"{path}: no manifest, not checked" for path in data["without_manifest"]]
    return "\n".join(lines) or "nothing to verify: no model lies here"


VIEWS: dict[str, View] = {"pull": _pulled, "models verify": _verified}
