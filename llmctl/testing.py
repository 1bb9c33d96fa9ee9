"""testing.toml: what a machine can test, beside hosts.toml; what it does not say is found out on the machine itself.

Its top is for every host, a table [hosts.NAME] for one, over it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import tables
from llmctl.domain import ENGINES
from llmctl.errors import ConfigError
from llmctl.tables import Table

NAME = "testing.toml"
BACKENDS = ("cpu", "cuda", "metal")
REAL = ("qwen2-0.5b", "tinyllama-1.1b", "phi-2", "mistral-7b-v0.2")


@dataclass(frozen=True)
class Questions:
    """What models whose ids match `models` (globs) were taught: questions, each with its whole answer."""

    models: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Testing:
    """What one machine can test; None is "as the machine says".

    `largest` is bytes of weights, `parameters` a number of them, `time` seconds after which nothing more is begun,
    `context` tokens of each test slot, `real_bytes` what `--real` may download.
    """

    backends: tuple[str, ...] | None = None
    engines: tuple[str, ...] | None = None
    largest: int | None = None
    parameters: int | None = None
    time: float | None = None
    models_dir: str | None = None
    context: int = 2048
    parallel: int = 4
    real_bytes: int | None = None
    questions: tuple[Questions, ...] = ()

    def pairs(self, model: str) -> tuple[tuple[str, str], ...]:
        """What `model` was taught."""
        return tuple(
            pair for one in self.questions for pair in one.pairs if any(fnmatch.fnmatch(model, p) for p in one.models)
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Testing:
        """What `to_dict` made, after a way through JSON."""
        questions = tuple(
            Questions(tuple(one["models"]), tuple((q, a) for q, a in one["pairs"])) for one in data["questions"]
        )
        lists = {key: tuple(data[key]) if data[key] is not None else None for key in ("backends", "engines")}
        return Testing(**{**data, **lists, "questions": questions})


class File:
    """A testing.toml that was read."""

    def __init__(self, every: Testing, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        self.every, self.hosts = every, hosts

    def of(self, host: str) -> Testing:
        """What is said for this host."""
        return replace(self.every, **self.hosts.get(host, {}))


def load(folder: Path | None, hosts: Mapping[str, Any]) -> File:
    """The testing.toml of the configuration `folder`, which has these hosts; nothing said where there is none."""
    path = folder / NAME if folder else None
    if path is None or not path.exists():
        return File(Testing(), {})
    root = tables.read(path)
    own = root.table("hosts")
    for name in own.data:
        if name not in hosts:
            raise own.mistake(name, "there is no such host", f"hosts: {', '.join(sorted(hosts))}")
    questions = tuple(_questions(table) for table in root.tables("questions"))
    every = Testing(questions=questions, **_said(root, "hosts", "questions"))
    return File(every, {name: _said(own.table(name)) for name in own.data})


def _said(table: Table, *besides: str) -> dict[str, Any]:
    """The fields that a table sets."""
    table.only(
        "backends", "engines", "largest", "parameters", "time", "models_dir", "context", "parallel", "real", *besides
    )
    found: dict[str, Any] = {
        "backends": _of(table, "backends", BACKENDS),
        "engines": _of(table, "engines", ENGINES),
        "largest": table.size("largest"),
        "parameters": table.integer("parameters"),
        "time": table.seconds("time"),
        "models_dir": table.text("models_dir"),
        "context": table.integer("context"),
        "parallel": table.integer("parallel"),
        "real_bytes": table.size("real"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _of(table: Table, key: str, known: tuple[str, ...]) -> tuple[str, ...] | None:
    if key not in table.data:
        return None
    for name in table.texts(key):
        if name not in known:
            raise table.mistake(key, f"{name!r} is not one of {', '.join(known)}")
    return table.texts(key)


def _questions(table: Table) -> Questions:
    """The questions of a file in the form of scripts/tiny/qa.toml: [[pairs]] with `question` and `answer`."""
    table.only("models", "file")
    models, name = table.texts("models"), table.text("file")
    if not models:
        raise table.mistake("models", "must name models, or globs of them")
    if not name:
        raise table.mistake("file", "must name a file with [[pairs]] of question and answer")
    try:
        root = tables.read(table.path.parent / Path(name).expanduser())
    except ConfigError as error:
        raise tables.blame(table, "file", error) from None
    pairs = tuple((one.text("question"), one.text("answer")) for one in root.tables("pairs"))
    if not pairs or not all(question and answer for question, answer in pairs):
        raise table.mistake("file", f"{root.path} has no [[pairs]] of question and answer")
    return Questions(models, pairs)
