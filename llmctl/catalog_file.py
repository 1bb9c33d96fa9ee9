"""Reads catalog.toml and models.toml into the nouns of `catalog`; a ConfigError names file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmctl import paths, server_file, tables
from llmctl.catalog import TEMPLATE_ARGUMENTS, Artifact, Catalog, Model, QualityLimit, Traits, normal
from llmctl.domain import FORMATS, Probe
from llmctl.errors import LlmctlError
from llmctl.tables import Table

SHIPPED = Path(__file__).with_name("catalog.toml")
TRAITS = tuple(f.name for f in fields(Traits))
COMMIT = re.compile(r"[0-9a-f]{40}")
PIN = re.compile(r"\d+(\.\w+)*(\.\*)?")
SOURCE = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[^:\s]+)?", re.ASCII)


def load(own: Path | None, source: str | None = None) -> Catalog:
    """The shipped catalog, and over it the models.toml `own`: where there is one, or as `source` would make it."""
    models, quality = _read(SHIPPED)
    if own and (source is not None or own.exists()):
        own_models, own_quality = _read(own, source)
        models, quality = models | own_models, quality | own_quality
    _distinct(models)
    return Catalog((model for model, _ in models.values()), quality.values())


def models_in(path: Path) -> dict[str, Model]:
    """The entries of one file by id; none when there is no such file."""
    return {name: model for name, (model, _) in _read(path)[0].items()} if path.exists() else {}


def _read(path: Path, source: str | None = None) -> tuple[dict[str, tuple[Model, Table]], dict[int, QualityLimit]]:
    root = tables.read(path, source)
    root.only("models", "quality")
    entries = root.table("models")
    models = {name: (_model(name, entries), entries.table(name)) for name in entries.data}
    limits = [_limit(table) for table in root.tables("quality")]
    return models, {limit.bits: limit for limit in limits}


def _distinct(models: Mapping[str, tuple[Model, Table]]) -> None:
    """An id is immutable and unique under every spelling: no other id and no alias may mean it too."""
    ids: dict[str, str] = {}
    for name, (_, table) in models.items():
        other = ids.setdefault(normal(name), name)
        if other != name:
            hint = f'[models."{other}"] replaces that entry'
            raise table.mistake(None, f"{name!r} is another spelling of the model {other!r}", hint)
    for name, (model, table) in models.items():
        for key, spelling, place in _spellings(model, table):
            other = ids.get(normal(spelling), name)
            if other == name:
                continue
            owner = models[other][1]
            if owner.path != SHIPPED and table.path == SHIPPED:
                hint = f'take another id, or replace the entry [models."{name}"]'
                raise owner.mistake(None, f"{other!r} is an alias of the shipped model {name!r}", hint)
            raise place.mistake(key, f"{spelling!r} is the id of another model", "an id is immutable")


def _spellings(model: Model, table: Table) -> Iterator[tuple[str, str, Table]]:
    """The other names of a model, each with the key and the table that say it."""
    yield from (("aliases", alias, table) for alias in model.aliases)
    for artifact, place in zip(model.artifacts, table.tables("artifacts"), strict=True):
        yield from (("names", name, place) for name in artifact.names)


def _model(name: str, entries: Table) -> Model:
    table = entries.table(name)
    table.only("aliases", "parameters", "probe", "allow_code", "env", "artifacts", *TRAITS)
    try:
        paths.check_name(name, "model")
    except LlmctlError as error:
        raise tables.blame(entries, name, error) from None
    allow_code = table.flag("allow_code")
    return Model(
        id=name,
        aliases=table.texts("aliases"),
        parameters=table.integer("parameters"),
        probe=_probe(table.table("probe")),
        allow_code=allow_code,
        env=_env(table.table("env")),
        artifacts=tuple(_artifact(entry, allow_code) for entry in table.tables("artifacts")),
        **_traits(table),
    )


def _traits(table: Table) -> dict[str, Any]:
    return {
        "context": table.integer("context"),
        "max_output": table.integer("max_output"),
        "licence": table.text("licence"),
        "chat_template": _template(table),
        "chat_template_args": _arguments(table.table("chat_template_args")),
        "stop_ids": _stop_ids(table),
        "tool_parser": table.text("tool_parser"),
        "reasoning_parser": table.text("reasoning_parser"),
        "load_timeout": table.seconds("load_timeout"),
    }


def _template(table: Table) -> str | None:
    """A name as it is, the path of a Jinja file made absolute."""
    text: str | None = table.text("chat_template")
    if text is None or not ("/" in text or text.endswith(".jinja")):
        return text
    path = (table.path.parent / Path(text).expanduser()).absolute()
    if not path.is_file():
        raise table.mistake("chat_template", f"there is no file {path}")
    return str(path)


def _arguments(table: Table) -> dict[str, Any]:
    for name in table.data:
        if name in TEMPLATE_ARGUMENTS or not name.isidentifier():
            raise table.mistake(name, "is not a variable that an entry may set", "one of the model's own template")
    return dict(table.data)


def _stop_ids(table: Table) -> tuple[int, ...]:
    ids = table.data.get("stop_ids", [])
    if not isinstance(ids, list) or not all(type(id) is int and id >= 0 for id in ids):
        raise table.mistake("stop_ids", f"must be a list of token ids, not {ids!r}")
    return tuple(ids)


def _probe(table: Table) -> Probe:
    table.only("prompt", "expect", "max_tokens")
    usual = Probe()
    return Probe(
        table.text("prompt", usual.prompt), table.text("expect"), table.integer("max_tokens", usual.max_tokens)
    )


def _env(table: Table) -> dict[str, str]:
    pins = {name: table.text(name) for name in table.data}
    for name, pin in pins.items():
        if not PIN.fullmatch(pin):
            raise table.mistake(name, f"{pin!r} is no pin", 'a version like "4.57.1" or "4.57.*"')
    return pins


def _artifact(table: Table, allow_code: bool) -> Artifact:
    table.only("format", "quantization", "source", "revision", "path", "bytes", "names", "server", *TRAITS)
    if "format" not in table.data:
        raise table.mistake(None, "an artifact needs a format", f"one of {', '.join(FORMATS)}")
    quantization, path = table.text("quantization", "").lower(), table.text("path")
    source, revision = table.text("source"), table.text("revision")
    if quantization:
        try:
            paths.check_name(quantization, "quantization")
        except LlmctlError as error:
            raise tables.blame(table, "quantization", error) from None
    if source and not SOURCE.fullmatch(source):
        raise table.mistake("source", f"{source!r} is no source", '"org/repo" or "org/repo:file.gguf"')
    format = table.one_of("format", FORMATS, "")
    if allow_code and source and format != "gguf" and not COMMIT.fullmatch(revision or ""):
        raise table.mistake(
            "revision", "with allow_code, the code that may run must be pinned: a commit of 40 hex digits",
            f"revision = the commit that you have read, of https://huggingface.co/{source}/commits/main",
        )  # fmt: skip
    server = server_file.read(table) if "server" in table.data or format == "server" else None
    return Artifact(
        format=format,
        quantization=quantization or None,
        source=source,
        path=(table.path.parent / Path(path).expanduser()).absolute() if path else None,
        bytes=table.size("bytes"),
        revision=revision,
        names=table.texts("names"),
        server=server,
        **_traits(table),
    )


def _limit(table: Table) -> QualityLimit:
    table.only(*(f.name for f in fields(QualityLimit)))
    for key in ("bits", "max_kl", "min_top1"):
        if key not in table.data:
            raise table.mistake(None, f"a quality limit needs {key}")
    if table.number("min_top1") > 1:
        raise table.mistake("min_top1", "is a share: 0 to 1")
    return QualityLimit(
        bits=table.integer("bits"),
        max_kl=table.number("max_kl"),
        min_top1=table.number("min_top1"),
        seen_kl=_pair(table, "seen_kl"),
        seen_top1=_pair(table, "seen_top1"),
    )


def _pair(table: Table, key: str) -> tuple[float, float] | None:
    value = table.data.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(item) in (int, float) for item in value):
        raise table.mistake(key, f"must be [lowest, highest], not {value!r}")
    return float(value[0]), float(value[1])
