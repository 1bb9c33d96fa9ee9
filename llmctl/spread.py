"""The machines that compute one model together, and how the first of them reaches the others: the system's own ssh.

A member is written NAME=[USER@]ADDRESS[:PORT] between hosts, since a deployed host knows no other by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmctl import __version__
from llmctl.errors import (
    AuthRejected,
    KeyUnknown,
    LlmctlError,
    NotDeployed,
    Unreachable,
    UsageError,
    VersionSkew,
    from_dict,
)

PROGRAM = ".llmctl/bin/llmctl"
SSH_FAILED = 255
CONNECT = 10  # seconds that a connection may take
ALIVE = 3  # seconds between signs of life on it; three missed ones end it
_WRITTEN = re.compile(r"([a-z0-9][a-z0-9._-]*)=(?:([\w][\w.-]*)@)?([\w][\w.-]*)(?::(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Member:
    """One machine. `path` is where the model lies there, `needed` the bytes of its share."""

    host: str
    address: str
    user: str | None = None
    port: int = 22
    path: str = ""
    needed: int = 0

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{self.host}={user}{self.address}" + (f":{self.port}" if self.port != 22 else "")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def ssh(self) -> list[str]:
        """What follows `ssh` to reach it, options included."""
        port = ["-p", str(self.port)] if self.port != 22 else []
        return [*port, f"{self.user}@{self.address}" if self.user else self.address]

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line that runs these words of llmctl there; they are plain ones, without blanks."""
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": CONNECT, "ServerAliveInterval": ALIVE,
            "ServerAliveCountMax": 3, "ForwardAgent": "no", "ForwardX11": "no", "ControlPath": "none",
        }  # fmt: skip
        given = [f"-o{key}={value}" for key, value in options.items()]
        program = [PROGRAM, "--json", f"--as-host={self.host}", f"--for-version={__version__}"]
        return ["ssh", "-T", *given, *self.ssh[:-1], "--", self.ssh[-1], *program, *words]


def parse(text: str) -> Member:
    """The member that is written so; UsageError for anything else."""
    found = _WRITTEN.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text[:140]!r} is no host of a spread", hint="a name of hosts.toml, or NAME=[USER@]ADDRESS[:PORT]"
        )
    name, user, address, port = found.groups()
    return Member(name, address, user, int(port or 22))


def of(spec: Iterable[Mapping[str, Any]]) -> list[Member]:
    """The members in an EngineSpec."""
    return [Member(**{key: one[key] for key in Member.__dataclass_fields__ if key in one}) for one in spec]


def unreached(member: Member, first: str, said: Sequence[str], code: int | None) -> LlmctlError:
    """Why `first` has no llmctl on `member`, by what ssh wrote there and how it ended (255: it failed itself)."""
    text, typed = "\n".join(said), " ".join(["ssh", *member.ssh])
    where = f"{member.host} ({member.address}) from {first}"
    if code in (126, 127):
        return NotDeployed(f"{member.host} has no llmctl", hint=f"llmctl deploy {member.host}", host=member.host)
    if code == SSH_FAILED and "Host key verification failed" in text:
        hint = f"on {first}, look at its key and accept it once: {typed} exit"
        return KeyUnknown(
            f"{first} does not know the host key of {member.host} ({member.address})", hint=hint, host=first
        )
    if code == SSH_FAILED and "Permission denied" in text:
        hint = f"on {first}: ssh-copy-id {' '.join(member.ssh)}"
        return AuthRejected(f"{where}: ssh takes none of its keys", hint=hint, host=first)
    why = said[-1] if said else f"ssh ended with {code}"
    return Unreachable(f"{where}: {why}", hint=f"on {first}: {typed} exit", host=first)


def refusal(member: Member, envelope: Mapping[str, Any]) -> LlmctlError:
    """The error that the llmctl of `member` answered with."""
    said = envelope.get("errors") or [{}]
    error = from_dict({**said[0], "host": member.host})
    if member.host not in error.message:
        error.message = f"{member.host}: {error.message}"
    if isinstance(error, VersionSkew):
        error.hint = f"llmctl deploy {member.host}"
    return error
