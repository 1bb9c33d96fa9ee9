"""How commands and files reach a host: one interface, over ssh (`ssh`) or on this machine (`local`)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmctl.config import Host

OnLine = Callable[[str], None]
OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class Ran:
    """What a program did: its exit code and all that it printed."""

    code: int
    out: str
    err: str


class Transport(Protocol):
    """One connection to one host, opened at first use and kept for a whole command; usable from several threads.

    Every method raises Unreachable or one of its kinds (AuthRejected, KeyUnknown, KeyChanged, LockedOut) when the host
    cannot be reached, and TransportCut when the connection broke with something under way. A relative path on the host
    is relative to the user's home there. Nothing on the host sees a secret in its arguments: those go by `stdin`.
    """

    host: Host

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout: float = 60.0,
        on_out: OnLine | None = None,
        on_err: OnLine | None = None,
    ) -> Ran:
        """Run a program to its end, no shell in between; a program that fails is a `Ran` with its code.

        `timeout` bounds the whole run: TimedOut, and the program was ended there. `on_out` and `on_err` get lines as
        they come.
        With `hold`, stdin stays open until the program ends, so that it sees when this connection breaks.
        """

    def stream(self, argv: Sequence[str], *, on_err: OnLine | None = None) -> Generator[str, None, int]:
        """The lines that a program prints, as they come; it ends when the generator is closed, or the connection.

        Returns its code. `on_err` gets the lines of its stderr.
        """

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o600, on_bytes: OnBytes | None = None) -> None:
        """Write a file on the host, whole or not at all; its folder is made."""

    def get(self, source: str, target: Path, *, on_bytes: OnBytes | None = None) -> None:
        """Fetch a file; what `target` already has of it is kept and the rest is appended."""

    def dial(self, address: str, port: int) -> socket.socket:
        """A connection to a port as the host itself reaches it; Unreachable when nobody listens there."""

    def close(self) -> None:
        """End the connection; no error when there is none."""
