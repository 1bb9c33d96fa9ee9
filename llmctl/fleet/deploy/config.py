"""What a host is told of itself: its own hosts.toml, in which it is the local host, and the catalog's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmctl.catalog import Catalog
from llmctl.config import Host
from llmctl.errors import Refused


def texts(
    host: Host, backend: str, engines: Iterable[str], service: str, folder: Path | None, catalog: Catalog
) -> Mapping[str, str]:
    """The files of its configuration folder: names and what they hold. `folder` is the operator's own."""
    own = folder / "models.toml" if folder else None
    models = own.read_text(encoding="utf-8") if own and own.exists() else ""
    return {
        "hosts.toml": hosts_toml(host, backend, engines, service),
        "models.toml": models,
        **(templates(catalog, folder) if folder and models else {}),
    }


def hosts_toml(host: Host, backend: str, engines: Iterable[str], service: str) -> str:
    """A file with this host alone, reached by nobody but itself."""
    said = {
        "transport": "local",
        "backend": backend,
        "engines": list(engines),
        "service": service,
        "ports": list(host.ports),
        "bind": host.bind,
        "memory_budget": host.memory_budget,
        "models_dir": str(host.models_dir) if host.models_dir else None,
        "labels": list(host.labels) or None,
        "image_folder": str(host.image_folder) if host.image_folder else None,
        "image_urls": list(host.image_urls) or None,
        "spare": host.spare or None,
    }
    rows = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items() if value is not None)
    return f"# Written by `llmctl deploy`; what is changed here is lost.\n\n[hosts.{json.dumps(host.name)}]\n{rows}"


def templates(catalog: Catalog, folder: Path) -> dict[str, str]:
    """The chat templates that entries of models.toml name by a path; Refused for one that cannot come along."""
    found = {}
    for model in catalog.models.values():
        for traits in (model, *model.artifacts):
            path = Path(traits.chat_template or "")
            if not path.is_absolute():
                continue
            if not path.is_relative_to(folder):
                raise Refused(
                    f"the chat template {path} of {model.id} does not lie beside hosts.toml, so no host can have it",
                    hint=f"move it into {folder} and name it by its relative path in models.toml",
                )
            found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
    return found
