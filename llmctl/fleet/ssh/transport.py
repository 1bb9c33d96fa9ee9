"""The transport `ssh`: programs and files of a host over one connection, which is opened at first use.

Imports paramiko: `opening` imports it when it is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import BinaryIO

from llmctl.config import Host
from llmctl.fleet import commands
from llmctl.fleet.output import Output
from llmctl.fleet.ssh import failures
from llmctl.fleet.ssh.link import Link, open_link
from llmctl.fleet.ssh.program import FINISH, Program
from llmctl.fleet.ssh.settings import Login
from llmctl.fleet.ssh.tunnel import open_tunnel
from llmctl.fleet.transport import OnBytes, OnLine, Ran

LATE = 10.0
"""Seconds that a host may take to say that it ended a program whose time was up."""
ENDED = (124, 137, 143)


class SshTransport:
    """llmctl.fleet.transport.Transport over ssh; `own` is llmctl's known_hosts file."""

    def __init__(self, host: Host, login: Login, own: Path) -> None:
        self.host = host
        self._login, self._own = login, own
        self._link: Link | None = None
        self._lock = threading.Lock()

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
        out, err = Output(on_out), Output(on_err)
        with self._started(commands.run(argv, timeout), commands.title(argv)) as program:
            due = time.monotonic() + timeout
            program.feed(stdin, end=not hold)
            code = program.collect(out, err, due + LATE)
        if code in ENDED and time.monotonic() >= due:
            raise failures.too_long(self.host.name, commands.title(argv), timeout)
        return Ran(code, out.text, err.text)

    def stream(self, argv: Sequence[str], *, on_err: OnLine | None = None) -> Generator[str, None, int]:
        with self._started(commands.stream(argv), commands.title(argv)) as program:
            return (yield from program.lines(on_err))

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o600, on_bytes: OnBytes | None = None) -> None:
        with contextlib.ExitStack() as stack:
            file: BinaryIO = (
                io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open(source, "rb"))
            )
            size = len(source) if isinstance(source, bytes) else os.fstat(file.fileno()).st_size
            program = stack.enter_context(self._started(commands.put(target, size, mode), f"writing {target}"))
            err = Output()
            program.send(file, size, on_bytes)
            code = program.collect(Output(), err, time.monotonic() + FINISH)
        if code:
            raise failures.of_put(self.host.name, target, size, code, err.text)

    def get(self, source: str, target: Path, *, on_bytes: OnBytes | None = None) -> None:
        has = target.stat().st_size if target.exists() else 0
        with self._started(commands.get(source, has), f"fetching {source}") as program:
            fetched = program.receive(target, has, on_bytes)
        if fetched.size is None:
            raise failures.of_get(self.host.name, source, fetched.code, fetched.err)
        if fetched.size < has:  # what is here is not the beginning of it
            target.unlink()
            self.get(source, target, on_bytes=on_bytes)

    def close(self) -> None:
        with self._lock:
            if self._link:
                self._link.close()
                self._link = None

    def dial(self, address: str, port: int) -> socket.socket:
        return open_tunnel(self._opened(), self.host.name, address, port)

    def _started(self, line: bytes, title: str) -> Program:
        return Program(self._opened(), self.host.name, title).start(line)

    def _opened(self) -> Link:
        with self._lock:
            if self._link is None:
                self._link = open_link(self._login, self._own)
                self._link.watch()
            return self._link
