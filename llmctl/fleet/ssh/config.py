"""The ssh configuration of the user: read as OpenSSH reads it, Include too, and looked up for one address."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import ConfigError

SYSTEM = Path("/etc/ssh")
DEEPEST = 16
_INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.+)", re.I)
_BLOCK = re.compile(r"\s*(?:host|match)\b", re.I)


def read() -> list[str]:
    """The lines of ~/.ssh/config, then those of /etc/ssh/ssh_config; a missing file has none."""
    user = Path.home() / ".ssh"
    return [*_lines(user / "config", user, "Host *"), "Host *", *_lines(SYSTEM / "ssh_config", SYSTEM, "Host *")]


def _lines(path: Path, folder: Path, block: str, depth: int = 0) -> Iterator[str]:
    """The lines of a file with those of the files it includes in their places."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=f"chmod 600 {path}") from None
    for line in text.splitlines():
        if _BLOCK.match(line):
            block = line
        included = _INCLUDE.fullmatch(line)
        if not included:
            yield line
        elif depth < DEEPEST:
            for pattern in included[1].split():
                where = folder / Path(pattern.strip('"')).expanduser()
                for found in sorted(glob.glob(str(where))):
                    yield from _lines(Path(found), folder, block, depth + 1)
            yield block


def lookup(lines: list[str], address: str, user: str | None, port: int | None) -> Mapping[str, Any]:
    """What the lines say for an address; a user and a port that are given already win, also within the values."""
    from paramiko.config import SSHConfig
    from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

    given = [*([f"User {user}"] if user else []), *([f"Port {port}"] if port else [])]
    try:
        said: Mapping[str, Any] = SSHConfig.from_text("\n".join([*given, *lines])).lookup(address)
        int(said.get("port", 22))
    except (ConfigParseError, CouldNotCanonicalize, ValueError, KeyError) as error:
        raise ConfigError(f"the ssh configuration cannot be read: {error}", hint="ssh -G HOST shows it") from None
    return said


def known_files(said: Mapping[str, Any]) -> tuple[Path, ...]:
    """The known_hosts files that count besides llmctl's own."""
    user = said.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    system = said.get("globalknownhostsfile", f"{SYSTEM}/ssh_known_hosts {SYSTEM}/ssh_known_hosts2")
    words = [word.strip('"') for word in f"{user} {system}".split()]
    return tuple(Path(word).expanduser() for word in words if word.lower() != "none")
