"""`llmctl handles check`: all that does not agree; what is generated is written anew where that is asked for."""

from __future__ import annotations

from pathlib import Path

from llmctl.cli import handles_files, handles_live, handles_work
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import ConfigError, LlmctlError, StateError
from llmctl.gateway import checking, jsonl, registry
from llmctl.gateway.derive import Problem
from llmctl.gateway.registry import Registry


def checked(reach: Reach, *, live: bool, fix: bool) -> Answer:
    """1: something does not agree; 3: all does, and a host said nothing."""
    session = reach.session
    rows, silent = told = handles_work.asked(reach)
    made, problems, errors = handles_work.derived(reach, told)
    files: list[str] = []
    if fix:
        files += _synced(reach, made)
    found = [*problems, *checking.handles(made, rows, lambda name: _means(session, name))]
    if session.config.dir:
        wrote, more = _files(session, made, session.config.dir, fix)
        files, found = files + wrote, found + more
    if registry.path(session.home).exists():
        found += _gateways(session, made)
    not_asked: list[str] = []
    if live:
        said = handles_live.said(reach, made, rows)
        found += said.problems
        not_asked = said.not_asked
    data = {
        "problems": checking.data(found), "handles": list(made.handles), "files": files, "not_asked": not_asked,
        "kept": handles_work.kept(made, errors),
    }  # fmt: skip
    return Answer(data, 1 if found else 3 if silent else 0, tuple(errors))


def _synced(reach: Reach, made: Registry) -> list[str]:
    """Write what the gateway goes by where that is not so already; a machine without a gateway has none."""
    home = reach.session.home
    path = registry.path(home)
    try:
        if not path.exists() or registry.read(home) == made:
            return []
    except StateError:
        pass
    handles_work.write(reach, made)
    return [str(path)]


def _files(session: Session, made: Registry, path: Path, fix: bool) -> tuple[list[str], list[Problem]]:
    try:
        folder = handles_files.folder(session, made, path)
    except ConfigError as error:
        return [], [Problem(jsonl.OTHERS, error.message, error.hint or "")]
    wrote, left = folder.fix() if fix else ([], [])
    return wrote, [*left, *folder.problems(made)]


def _gateways(session: Session, made: Registry) -> list[Problem]:
    try:
        return list(checking.written(made, registry.read(session.home)))
    except StateError as error:
        return [Problem("the gateway's registry", error.message, checking.SYNC)]


def _means(session: Session, name: str) -> str | None:
    try:
        return session.catalog.resolve(name).id
    except LlmctlError:
        return None
