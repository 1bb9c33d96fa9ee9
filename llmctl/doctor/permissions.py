"""Who may read the state folder: it holds keys and tokens, and is its owner's alone."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmctl.doctor.rows import Row, warn

SECRET = (
    "keys.json",
    "hf_token",
    "known_hosts",
    "history.db*",
    "events*.jsonl",
    "audit.log",
    "config/*",
    "slots/*/*.json",
)
OTHERS = 0o077


def loose(home: Path) -> list[tuple[str, int]]:
    """(path under `home`, the mode that it should have) of what others may read; "." is the folder itself."""
    return [(name, wanted) for name, path, wanted in _kept(home) if _mode(path) & OTHERS]


def unusable(home: Path) -> str | None:
    """Why llmctl cannot keep its state there; None where it can, or could make it."""
    if not home.exists():
        near = next(folder for folder in home.parents if folder.exists())
        return None if os.access(near, os.W_OK | os.X_OK) else f"{near} cannot be written, so that it cannot be made"
    if not home.is_dir():
        return "it is no folder"
    if home.stat().st_uid != os.geteuid() and os.geteuid() != 0:
        return "it belongs to another user"
    return None if os.access(home, os.W_OK | os.X_OK) else "it cannot be written"


def _kept(home: Path) -> Iterator[tuple[str, Path, int]]:
    if home.is_dir():
        yield ".", home, 0o700
        for path in sorted(path for pattern in SECRET for path in home.glob(pattern) if path.is_file()):
            yield str(path.relative_to(home)), path, 0o600


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def told(check: str, found: Sequence[tuple[str, int]], home: Path | str, before: str = "") -> Iterator[Row]:
    """The row of what is `loose` in `home`; `before` stands before the command (`ssh HOST `)."""
    if not found:
        return
    names = [name for name, _ in found if name != "."]
    told = [*(["the folder"] if len(names) < len(found) else []), *names]
    groups = [(mode, [name for name, wanted in found if wanted == mode]) for mode in (0o700, 0o600)]
    words = [f"chmod {mode:o} {shlex.join(_under(home, name) for name in group)}" for mode, group in groups if group]
    fix = " && ".join(words)
    few = ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")
    yield warn(check, f"others may read {few} in {home}", f"{before}{shlex.quote(fix) if before else fix}")


def _under(home: Path | str, name: str) -> str:
    return str(Path(home) / name)
