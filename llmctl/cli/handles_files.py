"""The files of handles in the folder of the configuration: read, compared, and written where llmctl wrote them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import files
from llmctl.cli.session import Session
from llmctl.errors import ConfigError
from llmctl.gateway import checking, jsonl
from llmctl.gateway.checking import FIX
from llmctl.gateway.derive import Problem
from llmctl.gateway.jsonl import FILE, OTHERS, SIDECAR, Line
from llmctl.gateway.registry import Registry


@dataclass(frozen=True)
class Folder:
    """A folder, and what would be written into it: `text` and `extra`."""

    path: Path
    text: str
    extra: str

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def ours(self) -> bool:
        """Whether llmctl wrote what lies there; somebody may have changed it since."""
        return _hash(self.read(SIDECAR)) is not None

    def untouched(self) -> bool:
        """Whether nothing lies there that llmctl did not write just so."""
        lines, extra = self.read(FILE), self.read(SIDECAR)
        return (lines is None and extra is None) or (lines is not None and _hash(extra) == jsonl.digest(lines))

    def write(self) -> list[str]:
        """Both files; the paths of those that were not so already."""
        changed = []
        for name, text in ((FILE, self.text), (SIDECAR, self.extra)):
            if self.read(name) != text.encode():
                files.write_text(self.path / name, text)
                changed.append(str(self.path / name))
        return changed

    def problems(self, made: Registry) -> Iterator[Problem]:
        """What is wrong with the files that lie there."""
        lines, extra, kept = self.read(FILE), self.read(SIDECAR), self.read(OTHERS)
        if kept is not None:
            yield from checking.others(kept, made)
        if lines is not None:
            yield from checking.file(lines, self.text, self.ours(), str(self.path / FILE))
        elif self.ours():
            yield Problem(FILE, "it is missing", FIX)
        if extra is not None:
            if self.ours():
                yield from checking.sidecar(extra, self.extra)
            else:
                yield Problem(SIDECAR, "it was not written by llmctl, which leaves it alone", f"move {SIDECAR} away")

    def fix(self) -> tuple[list[str], list[Problem]]:
        """Write anew what llmctl wrote; the paths, and why something was left."""
        if not self.ours():
            return [], []
        lost = list(checking.lost(self.read(FILE) or b"", self.text, str(self.path / FILE)))
        return ([], lost) if lost else (self.write(), [])


def folder(session: Session, made: Registry, path: Path) -> Folder:
    """What would be written into `path`; the lines that are no slot's come from the configuration."""
    services = {name: host.service for name, host in session.config.hosts.items()}
    text = jsonl.export(made, services, others(session))
    return Folder(path, text, jsonl.sidecar(made, text))


def others(session: Session) -> list[Line]:
    """The lines that stand for no slot; ConfigError where a line makes no sense, for an export would lose it."""
    path = session.config.dir / OTHERS if session.config.dir else None
    data = path.read_bytes() if path and path.is_file() else b""
    lines, mistakes = jsonl.parse(data)
    if mistakes:
        raise ConfigError(f"{path}:{mistakes[0].line}: {mistakes[0].what}", hint="mend that line, or take it out")
    return lines


def export(session: Session, made: Registry, path: Path) -> list[str]:
    """Write handles.jsonl and its sidecar into a folder; their paths. What llmctl did not write there is not replaced
    without a yes."""
    found = folder(session, made, path)
    if not found.untouched():
        session.confirm(f"{path / FILE} is there, and not as llmctl wrote it. Replace it?")
    found.write()
    return [str(path / name) for name in (FILE, SIDECAR)]


def _hash(extra: bytes | None) -> str | None:
    with contextlib.suppress(ValueError):
        said: Any = json.loads(extra or b"")
        if isinstance(said, dict) and isinstance(said.get("sha256"), str) and isinstance(said.get("handles"), dict):
            return str(said["sha256"])
    return None
