"""Finds models by words: in the catalog, and on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmctl import hf_token
from llmctl.catalog import Catalog, Model
from llmctl.errors import HubError, Unreachable
from llmctl.models.hub import REPO, Hub
from llmctl.models.hub_errors import Patience

TAGS = {"gguf": "gguf", "mlx": "mlx", "safetensors": "safetensors"}
LICENCE = "license:"


@dataclass(frozen=True)
class Repo:
    """A repository of the hub, as its search lists it. `gated`: its licence is to be accepted first."""

    repo: str
    formats: tuple[str, ...]
    licence: str | None
    gated: bool
    downloads: int | None


def in_catalog(catalog: Catalog, text: str, format: str | None = None) -> list[Model]:
    """The models of which every word of `text` is in a name, a source, the licence or the tier."""
    words = re.split(r"[\s._/-]+", text.strip().lower())
    return [
        model
        for model in catalog.models.values()
        if (format is None or any(artifact.format == format for artifact in model.artifacts))
        and all(any(word in said for said in _said(model)) for word in words)
    ]


def _said(model: Model) -> Iterator[str]:
    yield from (text.lower() for text in (model.id, *model.aliases, model.licence or "", model.tier or ""))
    for artifact in model.artifacts:
        yield from (text.lower() for text in (artifact.source or "", artifact.quantization or "", *artifact.names))


def on_hub(text: str, format: str | None, limit: int) -> list[Repo]:
    """The `limit` most downloaded repositories for `text`; HubError and Unreachable say what to type next."""
    from huggingface_hub import HfApi, constants

    endpoint = constants.ENDPOINT
    once = Patience(tries=1, connects=1)  # huggingface-hub tries again by itself here

    def ask() -> list[Any]:
        found = HfApi(endpoint=endpoint, token=hf_token.fallback()).list_models(
            search=text, filter=TAGS[format] if format else None, sort="downloads", limit=limit
        )
        return list(found)

    try:
        listed = Hub(endpoint, once).patiently(f"the search for {text[:100]!r}", ask)
    except (HubError, Unreachable) as error:
        wait = error.details.get("retry_after")
        error.hint = f"sleep {wait:.0f}, then search again" if wait else "search without --hub, or check HF_ENDPOINT"
        raise
    return [repository(info) for info in listed if REPO.fullmatch(str(info.id))]


def repository(info: Any) -> Repo:
    """One of the hub's answers, of which nothing is trusted."""
    tags = [str(tag) for tag in info.tags or ()]
    licence = next((tag.removeprefix(LICENCE) for tag in tags if tag.startswith(LICENCE)), None)
    formats = tuple(name for name, tag in TAGS.items() if tag in tags)
    downloads = info.downloads if type(info.downloads) is int else None
    return Repo(str(info.id), formats, licence and _line(licence), bool(info.gated), downloads)


def _line(text: str) -> str:
    """Printable text from the hub, of a table's width."""
    return "".join(char for char in text[:40] if char.isprintable())
