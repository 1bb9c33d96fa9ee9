"""A program that runs on a host over ssh: its stdin fed, both of its outputs read in one loop, its end understood."""

from __future__ import annotations

import contextlib
import random
import select
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from paramiko import Channel
from paramiko.ssh_exception import SSHException

from llmctl.errors import LlmctlError, Unreachable
from llmctl.fleet.output import Output
from llmctl.fleet.ssh import failures
from llmctl.fleet.ssh.link import CHANNEL, Link
from llmctl.fleet.transport import OnBytes, OnLine

BLOCK = 2**15
SILENCE = 60.0
"""Seconds without a byte after which a transfer has failed; a slow one may take as long as it wants."""
FINISH = 600.0
"""Seconds that a host may take to get a file that was sent altogether onto its disk."""
LOOK = 0.25
BROKEN = (SSHException, OSError, EOFError)


@dataclass(frozen=True)
class Fetched:
    """How a fetch went: the size of the whole file, None when the host did not say one."""

    size: int | None
    code: int
    err: str


class Program:
    """One channel of a link. Leaving its `with` block closes it."""

    def __init__(self, link: Link, host: str, title: str) -> None:
        self.link, self.host, self.title = link, host, title
        self.channel = self._session()

    def start(self, line: bytes) -> Program:
        try:
            self.channel.exec_command(line)
        except BROKEN:
            self.channel.close()
            raise self._cut() from None
        return self

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*BROKEN):
            self.channel.close()

    def feed(self, data: bytes, end: bool) -> None:
        """Give it `data` on stdin, which then ends, or stays open; a program that does not want it is no error."""

        def give() -> None:
            with contextlib.suppress(*BROKEN):  # what broke is seen where the output is read
                self.channel.sendall(data)
                if end:
                    self.channel.shutdown_write()

        if len(data) <= BLOCK:
            give()
        else:
            threading.Thread(target=give, daemon=True).start()

    def send(self, file: BinaryIO, size: int, on_bytes: OnBytes | None) -> None:
        """Give it `size` bytes of a file; fewer when it ends before it took them all."""
        done = 0
        self.channel.settimeout(SILENCE)
        try:
            while block := file.read(min(BLOCK, size - done)):
                view = memoryview(block)
                while view:
                    sent = self.channel.send(view)
                    if not sent:
                        return
                    view = view[sent:]
                    done += sent
                    if on_bytes:
                        on_bytes(done, size)
            self.channel.shutdown_write()
        except BROKEN:
            if not self.channel.exit_status_ready() or self.link.lost:
                raise self._cut() from None

    def collect(self, out: Output, err: Output, ends: float) -> int:
        """Its exit code, with all that it prints; TransportCut when there is none by the time `ends`."""
        for data, pipe in self._pieces((out, err), ends):
            pipe.feed(data)
        out.feed(b"")
        err.feed(b"")
        return self._code(ends)

    def lines(self, on_err: OnLine | None) -> Generator[str, None, int]:
        """The lines of its stdout as they come; returns its exit code."""
        out, err = Output(), Output(on_err)
        for data, pipe in self._pieces((out, err)):
            if pipe is out:
                yield from out.lines(data)
            else:
                err.pass_on(data)
        yield from out.lines(b"")
        err.pass_on(b"")
        return self._code(time.monotonic() + CHANNEL)

    def receive(self, target: Path, has: int, on_bytes: OnBytes | None) -> Fetched:
        """Append what `commands.get` prints to `target`, of which `has` bytes are here."""
        head, err, size, done = b"", Output(), None, has
        with contextlib.ExitStack() as stack:
            for data, pipe in self._pieces((Output(), err), silence=SILENCE):
                if pipe is err:
                    err.feed(data)
                    continue
                if size is None:
                    head, newline, data = (head + data).partition(b"\n")
                    if not newline:
                        continue
                    if not head.strip().isdigit():
                        raise failures.noise(self.host, head)
                    size = int(head)
                    file = stack.enter_context(open(target, "ab"))
                if data:
                    file.write(data)
                    done += len(data)
                    if on_bytes:
                        on_bytes(done, size)
        code = self._code(time.monotonic() + CHANNEL)
        if size is not None and done < size:
            raise self._cut()
        return Fetched(size, code, err.text)

    def _pieces(
        self, pipes: tuple[Output, Output], ends: float | None = None, silence: float | None = None
    ) -> Iterator[tuple[bytes, Output]]:
        """What it prints, each piece with the one of `pipes` (stdout, stderr) that it belongs to.

        TransportCut at the time `ends`, and after `silence` seconds without any.
        """
        ready = self.channel.fileno()
        try:
            while True:
                last = time.monotonic()
                over = self.channel.eof_received or self.channel.closed
                while self.channel.recv_ready():
                    yield self.channel.recv(BLOCK), pipes[0]
                while self.channel.recv_stderr_ready():
                    yield self.channel.recv_stderr(BLOCK), pipes[1]
                if over:
                    return
                until = ends if ends is not None else last + silence if silence is not None else None
                self._wait(ready, until)
        except BROKEN:
            raise self._cut() from None

    def _wait(self, ready: int, until: float | None) -> None:
        """Return when there may be something to read; TransportCut at the time `until`.

        paramiko may forget to mark `ready` when both outputs change at once, so they are looked at now and then too.
        """
        while not select.select([ready], [], [], LOOK)[0]:
            if self.channel.recv_ready() or self.channel.recv_stderr_ready() or self.channel.closed:
                return
            if until is not None and time.monotonic() >= until:
                raise self._cut()

    def _code(self, ends: float) -> int:
        self.channel.status_event.wait(max(0.0, ends - time.monotonic()))
        code = int(self.channel.exit_status)
        if code < 0:  # none came: the connection broke, or all was killed at once, as at a reboot
            raise self._cut()
        return code

    def _cut(self) -> LlmctlError:
        return failures.cut(self.host, self.title)

    def _session(self) -> Channel:
        """A new channel; where the server has too many open (MaxSessions), one that ends makes room."""
        ends = time.monotonic() + CHANNEL
        while True:
            try:
                return self.link.transport.open_session(timeout=CHANNEL)
            except BROKEN as error:
                # Of two refusals at once paramiko tells one thread the reason, and the other only that there is none.
                if isinstance(error, SSHException) and not self.link.lost:
                    if time.monotonic() < ends:
                        time.sleep(random.uniform(0.05, 0.2))
                        continue
                    message = f"{self.host} opens no more sessions on one connection ({error})"
                    raise Unreachable(message, hint="raise MaxSessions in its sshd_config", host=self.host) from None
                message = f"the connection to {self.host} broke before this began: {self.title}"
                raise Unreachable(message, hint="run it again", host=self.host) from None
