"""What `llmctl jobs` shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, amount, duration, escaped


def _list(data: Mapping[str, Any]) -> str | Table:
    if not data["jobs"]:
        return "no jobs"
    now = time.time()
    rows = []
    for job in data["jobs"]:
        row = (
            job.get("host", "-"),
            str(job["id"]),
            job["kind"] or "-",
            escaped(job["title"] or "-"),
            job["state"],
            _progress(job),
            f"{amount(job['speed'], job['total'])}/s" if job["speed"] else "-",
            duration(job["eta"]) if job["eta"] is not None else "-",
            duration(max(0.0, now - job["created"])) if job["created"] else "-",
            escaped(job["error"]["message"]) if job["error"] else "",
        )
        rows.append(row)
    headers = ["HOST", "ID", "KIND", "TITLE", "STATE", "PROGRESS", "SPEED", "ETA", "AGE", "WHY"]
    first = 0 if any("host" in job for job in data["jobs"]) else 1
    shown = len(headers) if any(row[-1] for row in rows) else -1
    return Table(headers[first:shown], [row[first:shown] for row in rows], right=("ID", "SPEED", "ETA", "AGE"))


def _progress(job: Mapping[str, Any]) -> str:
    if job["stage"] is None or job["state"] not in ("queued", "running"):
        return "-"
    done, total = job["done"], job["total"]
    share = (
        f" {100 * done / total:.0f} % of {amount(total, total)}" if total else f" {amount(done, done)}" if done else ""
    )
    return escaped(job["stage"]) + share


def _show(data: Mapping[str, Any]) -> str:
    job = data["job"]
    lines = [f"job {job['id']}  {job['kind']} {escaped(job['title'])}  {job['state']}"]
    lines.append(f"  of {escaped(job['owner'])}, {_when(job['created'])}, lane {job['lane']}")
    if job["started"]:
        ran = (job["ended"] or time.time()) - job["started"]
        lines.append(f"  started {_when(job['started'])}, {'ran' if job['ended'] else 'running for'} {duration(ran)}")
    if _progress(job) != "-":
        lines.append(f"  {_progress(job)}")
    lines += [f"  {key}: {escaped(str(value))}" for key, value in job["arguments"].items()]
    if job["error"]:
        lines += [f"  error: {escaped(job['error']['message'])}"]
        lines += [f"  hint: {escaped(job['error']['hint'])}"] if job["error"]["hint"] else []
    return "\n".join(lines)


def _attach(data: Mapping[str, Any]) -> str | Table:
    """As the verb itself would have shown it."""
    from llmctl.render import VIEWS

    job = data["job"]
    view = VIEWS.get(job["kind"])
    return view(data["result"]) if view else f"job {job['id']} is done"


def detached(job: Mapping[str, Any]) -> str:
    """What a verb shows that left its work to a job."""
    id, joined = job["id"], " (it was there already)" if job["joined"] else ""
    at = f" --host {job['host']}" if job.get("host") else ""
    hint = f"llmctl jobs attach {id}{at} · llmctl jobs cancel {id}{at}"
    return f"job {id}{joined}: {job['kind']} {escaped(job['title'])}\n{hint}"


def _when(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


def _pruned(data: Mapping[str, Any]) -> str:
    return f"forgot {len(data['removed'])} jobs"


VIEWS: dict[str, View] = {
    "jobs list": _list,
    "jobs show": _show,
    "jobs attach": _attach,
    "jobs cancel": lambda data: f"job {data['job']['id']}: {data['job']['state']}",
    "jobs prune": _pruned,
}
