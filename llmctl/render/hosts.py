"""What the verbs of `llmctl.cli.hosts` show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmctl.render.text import Table, View, duration, escaped, size


def _list(data: Mapping[str, Any]) -> Table:
    headers = ["HOST", "TRANSPORT", "ADDRESS", "OS", "CHIP", "MEMORY", "ACCELERATORS", "BACKEND", "SERVICE", "PYTHON"]
    headers += ["LLMCTL", "LABELS", "AGE"]
    return Table(headers, [_row(host) for host in data["hosts"]], right=("MEMORY", "AGE"))


def _row(host: Mapping[str, Any]) -> list[str]:
    facts = host["facts"]
    seen = ["-"] * 7
    if facts:
        seen = [
            facts["os_version"],
            facts["chip"],
            size(facts["memory"]),
            _gpus(facts),
            *(host[key] or "!" for key in ("backend", "service", "python")),
        ]
    age = duration(host["age"]) if facts else "never seen"
    head = [host["host"] + "*" * host["default"], host["transport"], host["address"] or "-"]
    return [escaped(text) for text in [*head, *seen, host["llmctl"] or "-", ",".join(host["labels"]) or "-", age]]


def _gpus(facts: Mapping[str, Any]) -> str:
    names = [gpu["name"] for gpu in facts["accelerators"]]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "-"


def _show(data: Mapping[str, Any]) -> str:
    (host,) = data["hosts"]
    lines = [f"{name}: {escaped(text)}" for name, text in _lines(host) if text]
    return "\n".join(lines)


def _lines(host: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "host", host["host"] + (" (the default)" if host["default"] else "")
    yield "reached by", f"{host['transport']} {host['address'] or ''}".strip()
    yield "labels", ", ".join(host["labels"])
    yield "images also from", ", ".join(host["images"])
    facts = host["facts"]
    if not facts:
        yield "seen", f"never; llmctl hosts show {host['host']} --refresh"
        return
    yield "seen", f"{duration(host['age'])} ago"
    yield "system", f"{facts['os_version']}, {facts['arch']}{', ' + facts['libc'] if facts['libc'] else ''}"
    yield "chip", f"{facts['chip']}, {facts['cores']} cores"
    yield "memory", size(facts["memory"])
    for gpu in facts["accelerators"]:
        parts = [
            gpu["name"],
            size(gpu["memory"] or None),
            f"{gpu['cores']} cores" if gpu["cores"] else "",
            f"driver {gpu['driver']}" if gpu["driver"] else "",
            f"CUDA {gpu['cuda']}" if gpu["cuda"] else "",
        ]
        yield "accelerator", ", ".join(filter(None, parts))
    yield "disk", f"{size(facts['disk_free'])} free"
    yield "user", f"{facts['user']} ({facts['uid']}), {facts['home']}{', may become root' if facts['sudo'] else ''}"
    yield "services", ", ".join(facts["services"]) + (", linger" if facts["linger"] else "")
    yield "tools", ", ".join(path for _, path in facts["tools"])
    yield "package index", "answers" if facts["index"] else "does not answer"
    if facts["skew"]:
        yield "clock", f"{facts['skew']:+.0f} s"
    yield "llmctl", facts["release"] or "not deployed"
    for note in facts["notes"]:
        yield "note", note
    for choice in host["choices"]:
        taken = choice["value"] or "none"
        yield f"{choice['what']} of a deploy", f"{taken} — {choice['why']}"
        for name, why in choice["why_not"].items():
            yield f"  not {name}", why


def _check(data: Mapping[str, Any]) -> Table:
    rows = []
    for host in data["hosts"]:
        trusted = {True: "trusted", False: "not trusted", None: "-"}[host["trusted"]]
        told = [f"{f['what']}: {f['why']}" + (f" ({f['hint']})" if f["hint"] else "") for f in host["findings"]]
        why = host["error"]["code"] if host["error"] else "; ".join(told)
        cells = (host["verdict"], trusted, host["python"], host["llmctl"], host["backend"], host["service"], why)
        rows.append([host["host"], *(escaped(cell or "-") for cell in cells)])
    return Table(["HOST", "VERDICT", "KEY", "PYTHON", "LLMCTL", "BACKEND", "SERVICE", "WHY"], rows)


def _added(data: Mapping[str, Any]) -> str:
    if "candidates" in data:
        if not data["candidates"]:
            return "~/.ssh/config has no host that is not here"
        return "\n".join(f"llmctl hosts add {c['name']} {c['type']}" for c in data["candidates"])
    return f"wrote {data['added']} into {data['path']}; next: {data['next']}"


VIEWS: dict[str, View] = {
    "hosts list": _list,
    "hosts show": _show,
    "hosts check": _check,
    "hosts add": _added,
    "hosts rm": lambda data: f"took {data['removed']} out of {data['path']}",
}
