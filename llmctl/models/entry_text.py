"""A catalog entry as the TOML text of models.toml; `catalog_file` reads the same back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from llmctl.catalog import Artifact, Model, Traits
from llmctl.domain import Probe

_TRAITS = tuple(f.name for f in fields(Traits))
_MODEL = ("aliases", "parameters", *_TRAITS, "allow_code", "env")
_ARTIFACT = ("format", "quantization", "names", "source", "revision", "path", "bytes", "server", *_TRAITS)


def entry(model: Model) -> str:
    """The whole entry, each artifact in a table of its own."""
    lines = [f"[models.{_text(model.id)}]", *_lines(model, _MODEL)]
    if model.probe != Probe():
        said = {key: value for key, value in vars(model.probe).items() if value != getattr(Probe(), key)}
        lines.append(f"probe = {value({'prompt': model.probe.prompt, **said})}")
    return "\n".join(["\n".join(lines) + "\n", *(artifact(model.id, one) for one in model.artifacts)])


def artifact(model: str, one: Artifact) -> str:
    """One more artifact of an entry; it may stand anywhere behind the entry."""
    return "\n".join([f"[[models.{_text(model)}.artifacts]]", *_lines(one, _ARTIFACT)]) + "\n"


def value(item: Any) -> str:
    """A TOML value on one line, of a noun what differs from its defaults; TypeError for what TOML has not (null)."""
    if is_dataclass(item) and not isinstance(item, type):
        usual = type(item)()
        return value({key: said for key, said in vars(item).items() if said != getattr(usual, key)})
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {value(inner)}" for key, inner in item.items()) + " }"
    if isinstance(item, str | Path):
        return _text(str(item))
    if isinstance(item, bool | int | float):
        return json.dumps(item)
    if isinstance(item, Iterable):
        return "[" + ", ".join(map(value, item)) + "]"
    raise TypeError(f"TOML has no {item!r}")


def _lines(noun: Any, keys: Iterable[str]) -> list[str]:
    """`key = value` of all that is said."""
    found = ((key, getattr(noun, key)) for key in keys)
    return [f"{key} = {value(item)}" for key, item in found if item not in (None, (), {}, False)]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _text(key)


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but TOML has no bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
