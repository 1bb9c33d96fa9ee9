"""A release becomes the one in use: its programs, the host's configuration, the units, `current`; or all that undone.

What was there before is noted in `deploy.undo` first and forgotten when the deploy is finished, so that also the run
after a killed one can go back to what last worked.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import units
from llmctl.errors import DeployFailed
from llmctl.files import read_json, write_json, write_text
from llmctl.host import releases

Texts = Mapping[str, str]
"""Paths under the state folder and what they hold."""

SCRIPT = """\
#!/bin/sh
: "${{LLMCTL_HOME:={home}}}" "${{LLMCTL_CONFIG:={home}/config}}"
export LLMCTL_HOME LLMCTL_CONFIG
PYTHONSAFEPATH=1 PYTHONPATH={lib} exec {python} -m {module} "$@"
"""
PROGRAMS = {"llmctl": "llmctl", "slot-server": "llmctl.runner.server"}


def texts(home: Path, release: str, environments: Mapping[str, str], config: Texts) -> dict[str, str]:
    """All files that belong to a release in use, besides its code; `environments` maps names to their folders."""
    base = releases.folder(home, release).relative_to(home)
    pythons = {name: str(home / "envs" / folder / "bin" / "python") for name, folder in environments.items()}
    quoted = {"home": shlex.quote(str(home)), "lib": shlex.quote(str(home / base / "lib"))}
    scripts = {
        f"{base}/bin/{name}": SCRIPT.format(**quoted, python=shlex.quote(pythons["base"]), module=module)
        for name, module in PROGRAMS.items()
    }
    kept = {f"{base}/config/{name}": text for name, text in config.items()}
    used = {f"config/{name}": text for name, text in config.items()}
    return {**scripts, f"{base}/environments.json": json.dumps(pythons, indent=1) + "\n", **kept, **used}


def differing(home: Path, wanted: Texts) -> list[str]:
    """Those of the files that are not as they should be."""
    return sorted(path for path, text in wanted.items() if _text(home / path) != text)


def activate(home: Path, release: str, wanted: Texts, service: str) -> list[str]:
    """Put `release` in use; what was changed for it. The release and its environments must be there."""
    if releases.read(home, release) is None:
        raise DeployFailed(f"release {release} is not on this host", hint="run the deploy again")
    changed = differing(home, wanted)
    _note_undo(home, changed)
    for path in changed:
        write_text(home / path, wanted[path])
        (home / path).chmod(0o755 if Path(path).parent.name == "bin" else 0o600)
    before = releases.current(home)
    if before != release:
        releases.flip(home, release)
        changed.append("current")
    changed += _program(home)
    return changed + units.get(service).install(home)


def revert(home: Path, service: str) -> str | None:
    """Undo the activation that was not finished; the release that is in use again, None when there was none before.

    A host that had none keeps the new one: there is nothing to go back to.
    """
    undo = read_json(_undo(home))
    if undo is None or undo["current"] is None or releases.read(home, undo["current"]) is None:
        return None
    for path, text in undo["texts"].items():
        if text is None:
            (home / path).unlink(missing_ok=True)
        else:
            write_text(home / path, text)
            (home / path).chmod(0o755 if Path(path).parent.name == "bin" else 0o600)
    releases.flip(home, undo["current"])
    units.get(undo.get("service") or service).install(home)
    finished(home)
    return str(undo["current"])


def finished(home: Path) -> None:
    """What is in use has proved itself: there is no way back but a rollback."""
    for path in (_undo(home), _undo(home).with_suffix(".bak")):
        path.unlink(missing_ok=True)


def unfinished(home: Path) -> bool:
    """A deploy was ended after it had begun to change what is in use."""
    return _undo(home).exists()


def of_release(home: Path, release: str) -> dict[str, str]:
    """The files that a release had when it was in use last, for going back to it; DeployFailed when they are gone."""
    base = releases.folder(home, release)
    try:
        environments = json.loads((base / "environments.json").read_text(encoding="utf-8"))
        config = {path.name: path.read_text(encoding="utf-8") for path in sorted((base / "config").iterdir())}
    except (OSError, ValueError) as error:
        raise DeployFailed(f"release {release} was never in use here: {error}", hint="llmctl deploy") from None
    gone = [python for python in environments.values() if not Path(python).exists()]
    if gone:
        raise DeployFailed(f"release {release} has lost its environment {gone[0]}", hint="llmctl deploy")
    return texts(home, release, {name: Path(python).parents[1].name for name, python in environments.items()}, config)


def _note_undo(home: Path, changed: list[str]) -> None:
    """A note that is there already is of a deploy that was not finished: what it says was the last that worked."""
    undo: dict[str, Any] = read_json(_undo(home)) or {"current": releases.current(home), "texts": {}}
    known = undo["texts"]
    write_json(_undo(home), {**undo, "texts": {**{path: _text(home / path) for path in changed}, **known}})


def _program(home: Path) -> list[str]:
    """`bin/llmctl` leads to the one in use."""
    link, target = home / "bin" / "llmctl", "../current/bin/llmctl"
    if link.is_symlink() and str(link.readlink()) == target:
        return []
    link.parent.mkdir(parents=True, exist_ok=True)
    temp = link.with_name(".llmctl.tmp")
    temp.unlink(missing_ok=True)
    temp.symlink_to(target)
    temp.replace(link)
    return ["bin/llmctl"]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _undo(home: Path) -> Path:
    return home / "deploy.undo"
