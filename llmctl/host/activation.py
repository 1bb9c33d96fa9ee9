"""A release becomes the one in use: its programs, the host's configuration, the units, `current`; or all that undone.

What was there before is noted in `deploy-undo.json` first and forgotten when the deploy is finished, so that also the
run after a killed one can go back to what last worked.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import units
from llmctl.environments.build import is_complete, python_of
from llmctl.errors import DeployFailed
from llmctl.files import read_json, write_json, write_text
from llmctl.host import releases

SCRIPT = """\
#!/bin/sh
[ -n "$LLMCTL_HOME" ] || LLMCTL_HOME={home}
[ -n "$LLMCTL_CONFIG" ] || LLMCTL_CONFIG={config}
export LLMCTL_HOME LLMCTL_CONFIG
PYTHONSAFEPATH=1 PYTHONPATH={lib} exec {python} -m {module} "$@"
"""
PROGRAM, TO_CURRENT = "bin/llmctl", Path("../current/bin/llmctl")
PROGRAMS = {"llmctl": "llmctl", "slot-server": "llmctl.runner.server"}


@dataclass(frozen=True)
class Wanted:
    """What is to be in use: `environments` maps names to their folders, `config` file names to their text."""

    release: str
    environments: Mapping[str, str]
    config: Mapping[str, str]
    service: str


def pythons(home: Path, wanted: Wanted) -> dict[str, str]:
    """The Python of each environment, by its name."""
    return {name: str(python_of(home / "envs" / folder)) for name, folder in wanted.environments.items()}


def texts(home: Path, wanted: Wanted) -> dict[str, str]:
    """All files of a release in use besides its code: paths under the state folder and what they hold."""
    base = releases.folder(home, wanted.release).relative_to(home)
    found = pythons(home, wanted)
    said = {"home": str(home), "config": str(home / "config"), "lib": str(home / base / "lib"), "python": found["base"]}
    quoted = {key: shlex.quote(value) for key, value in said.items()}
    return {
        **{f"{base}/bin/{name}": SCRIPT.format(**quoted, module=module) for name, module in PROGRAMS.items()},
        f"{base}/environments.json": json.dumps(found, indent=1) + "\n",
        **{f"{folder}/{name}": text for folder in (f"{base}/config", "config") for name, text in wanted.config.items()},
        **dict.fromkeys((f"{base}/service", "service"), f"{wanted.service}\n"),
    }


def differing(home: Path, wanted: Wanted) -> list[str]:
    """Those of its files that are not as they should be."""
    found = sorted(path for path, text in texts(home, wanted).items() if _text(home / path) != text)
    return found if _leads(home) else [*found, PROGRAM]


def activate(home: Path, wanted: Wanted) -> list[str]:
    """Put a release in use; what was changed for it. Its code and its environments must be there."""
    absent = [name for name, folder in wanted.environments.items() if not is_complete(home / "envs" / folder)]
    if releases.read(home, wanted.release) is None or absent:
        what = f"environment {absent[0]}" if absent else f"release {wanted.release}"
        raise DeployFailed(f"{what} is not on this host", hint="run the deploy again")
    changed, all_texts = differing(home, wanted), texts(home, wanted)
    _note_undo(home, [path for path in changed if path in all_texts])
    for path in changed:
        if path in all_texts:
            _write(home / path, all_texts[path])
    if releases.current(home) != wanted.release:
        releases.flip(home, wanted.release)
        changed.append("current")
    if PROGRAM in changed:
        _lead(home)
    return [*changed, *units.get(wanted.service).install(home)]


def revert(home: Path) -> str | None:
    """Undo the activation that was not finished; the release that is in use again.

    None where there was none before: the new one stays, since there is nothing to go back to.
    """
    undo = read_json(_undo(home))
    if undo is None or undo["current"] is None or releases.read(home, undo["current"]) is None:
        return None
    for path, text in undo["texts"].items():
        if text is None:
            (home / path).unlink(missing_ok=True)
        else:
            _write(home / path, text)
    releases.flip(home, undo["current"])
    units.get(service(home) or "none").install(home)
    forget(home)
    return str(undo["current"])


def finished(home: Path) -> None:
    """What is in use has proved itself: the units of another service manager go, and only a rollback leads back."""
    undo = read_json(_undo(home)) or {"texts": {}}
    forget(home)
    before, now = (undo["texts"].get("service") or "").strip(), service(home)
    if before and before != now:
        units.get(before).remove(home)


def forget(home: Path) -> None:
    """There is nothing to undo any more."""
    for path in (_undo(home), _undo(home).with_suffix(".bak")):
        path.unlink(missing_ok=True)


def unfinished(home: Path) -> bool:
    """A deploy ended after it had begun to change what is in use."""
    return _undo(home).exists()


def service(home: Path) -> str | None:
    """The service manager that the slots of this host are under; None before the first deploy."""
    text = _text(home / "service")
    return text.strip() if text else None


def of_release(home: Path, release: str) -> Wanted:
    """What a release was in use with; DeployFailed when that is not there any more."""
    base = releases.folder(home, release)
    try:
        found = json.loads((base / "environments.json").read_text(encoding="utf-8"))
        files = [path for path in sorted((base / "config").rglob("*")) if path.is_file()]
        config = {str(path.relative_to(base / "config")): path.read_text(encoding="utf-8") for path in files}
        under = (base / "service").read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise DeployFailed(f"release {release} was never in use here: {error}", hint="llmctl deploy HOST") from None
    return Wanted(release, {name: Path(python).parents[1].name for name, python in found.items()}, config, under)


def _note_undo(home: Path, changed: list[str]) -> None:
    """A note that is there already is of a deploy that was not finished: what it says was the last that worked."""
    undo: dict[str, Any] = read_json(_undo(home)) or {"current": releases.current(home), "texts": {}}
    before = {path: _text(home / path) for path in changed}
    write_json(_undo(home), {**undo, "texts": {**before, **undo["texts"]}})


def _leads(home: Path) -> bool:
    """`bin/llmctl` leads to the release in use, whichever that is."""
    link = home / PROGRAM
    return link.is_symlink() and link.readlink() == TO_CURRENT


def _lead(home: Path) -> None:
    link = home / PROGRAM
    link.parent.mkdir(parents=True, exist_ok=True)
    temp = link.with_name(".llmctl.tmp")
    temp.unlink(missing_ok=True)
    temp.symlink_to(TO_CURRENT)
    temp.replace(link)


def _write(path: Path, text: str) -> None:
    """Programs may be run, everything else is its owner's alone."""
    write_text(path, text)
    path.chmod(0o755 if path.parent.name == "bin" else 0o600)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _undo(home: Path) -> Path:
    return home / "deploy-undo.json"
