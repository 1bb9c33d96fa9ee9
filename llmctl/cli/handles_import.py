"""`llmctl handles import`: the lines of a handles.jsonl, written into profiles and into the file of what is no slot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl import config as configs
from llmctl import files, profiles, strict_json
from llmctl.cli import handles_files, handles_work
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import ConfigError, Refused, UsageError
from llmctl.gateway import checking, importing, jsonl
from llmctl.gateway.derive import Problem
from llmctl.gateway.importing import Plan
from llmctl.gateway.registry import Registry

LIMIT = 16 * 2**20  # bytes


def imported(reach: Reach, file: Path, host: str | None, profile: str | None, dry_run: bool) -> Answer:
    """Bring `file` over, or show what that would write; with a problem nothing is written. `host` and `profile` say
    which slots are meant where several might be."""
    session = reach.session
    data = _bytes(file)
    folder = session.folder
    made, _, errors = handles_work.derived(reach)
    with files.locked(session.home / "handles.lock"):
        plan = _plan(session, made, data, _extras(file), host, profile)
        texts, wrong = _texts(session, folder, plan)
        problems = [*plan.problems, *wrong]
        copy = session.home / "imported" / f"handles-{hashlib.sha256(data).hexdigest()[:8]}.jsonl"
        shown = _shown(session, plan, problems) | {"file": str(file)}
        if problems:
            error = Refused(f"{file} cannot be brought over as it is; nothing was changed", hint="mend what is found")
            return Answer({**shown, "written": []}, error.exit_code, (error,))
        code = 3 if errors or any(line.kind == "model" for line, _ in plan.apart) else 0
        if dry_run:
            return Answer({**shown, "texts": {str(path): text for path, text in texts.items()}}, code, tuple(errors))
        if texts and not copy.exists():
            files.write_text(copy, data.decode("utf-8"))
        for path, text in texts.items():
            files.write_text(path, text)
    done = {"written": [str(path) for path in texts], "copy": str(copy) if texts else None}
    return Answer({**shown, **done}, code, tuple(errors))


def _plan(
    session: Session, made: Registry, data: bytes, extras: dict[str, Any], host: str | None, profile: str | None
) -> Plan:  # fmt: skip
    lines, mistakes = jsonl.parse(data)
    if mistakes:
        return Plan(problems=tuple(Problem(f"line {one.line}", one.what, "mend it there") for one in mistakes))
    known = handles_work.profiles(session)
    if host is not None:
        host = session.config.host(host).name
    if profile is not None:
        known = [configs.profile(session.config, session.catalog, profile)]
    slots = [one for one in importing.places(session.config, known, made) if host in (None, one.host)]
    return importing.plan(lines, slots, made, extras, handles_files.others(session))


def _texts(session: Session, folder: Path, plan: Plan) -> tuple[dict[Path, str], list[Problem]]:
    """The files as they would be, each read once more as what it is to be."""
    texts: dict[Path, str] = {}
    for place, entry in plan.added:
        path = _path(folder, place.profile)
        text = texts.get(path) or path.read_text(encoding="utf-8")
        try:
            texts[path] = profiles.with_handle(path, text, place.index, entry)
            configs.profile(session.config, session.catalog, place.profile, texts[path])
        except ConfigError as error:
            return {}, [Problem(f"handle {entry.name}", error.message, error.hint or "")]
    if plan.apart:
        kept = {line.handle: line for line in (*handles_files.others(session), *(line for line, _ in plan.apart))}
        texts[folder / jsonl.OTHERS] = "".join(f"{line.text()}\n" for _, line in sorted(kept.items()))
    return texts, []


def _path(folder: Path, profile: str) -> Path:
    return folder / "profiles" / f"{profile}.toml"


def _shown(session: Session, plan: Plan, problems: list[Problem]) -> dict[str, Any]:
    added = [
        {"handle": entry.name, "where": place.where, "path": str(_path(session.folder, place.profile)),
         "entry": json.loads(json.dumps(asdict(entry)))}
        for place, entry in plan.added
    ]  # fmt: skip
    return {
        "added": added, "apart": [{"handle": line.handle, "why": why} for line, why in plan.apart],
        "problems": checking.data(problems), "texts": {}, "written": [], "copy": None,
    }  # fmt: skip


def _bytes(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            data = opened.read(LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint=f"name a {jsonl.FILE}") from None
    if len(data) > LIMIT:
        raise UsageError(f"{file} is larger than {LIMIT >> 20} MiB", hint=f"name a {jsonl.FILE}")
    return data


def _extras(file: Path) -> dict[str, Any]:
    """What the sidecar beside a file says of each handle; nothing where there is none."""
    path = file.with_name(jsonl.SIDECAR)
    try:
        said = strict_json.loads(path.read_bytes(), "it")
    except FileNotFoundError:
        return {}
    except (strict_json.StrictError, OSError) as error:
        raise UsageError(f"{path}: {error}", hint=f"mend it, or move it away from {file.name}") from None
    found = said.get("handles") if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}
