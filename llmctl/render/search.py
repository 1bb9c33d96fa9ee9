"""What `llmctl models search` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View


def _found(data: Mapping[str, Any]) -> str | Table:
    rows = [
        (m["id"], m["tier"] or "-", ", ".join(map(_kind, m["artifacts"])), m["licence"] or "-", "catalog")
        for m in data["models"]
    ]
    rows += [
        (repo["repo"], "-", ", ".join(repo["formats"]) or "-", repo["licence"] or "-", _place(repo))
        for repo in data["hub"] or ()
    ]
    if not rows:
        return "nothing found" if data["hub"] is not None else "nothing in the catalog; --hub asks the model hub too"
    return Table(("MODEL", "TIER", "ARTIFACTS", "LICENCE", "WHERE"), rows)


def _kind(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['format']} {artifact['quantization'] or ''}".strip()


def _place(repo: Mapping[str, Any]) -> str:
    downloads = f", {repo['downloads']} downloads" if repo["downloads"] is not None else ""
    return f"hub{downloads}{', gated' if repo['gated'] else ''}"


VIEWS: dict[str, View] = {"models search": _found}
