"""The transport `local`: the same on this machine, by processes and files; programs run in the user's home folder."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from llmctl import files
from llmctl.config import Host
from llmctl.errors import LlmctlError, Unreachable
from llmctl.fleet import commands
from llmctl.fleet.output import Output
from llmctl.fleet.ssh import failures
from llmctl.fleet.transport import OnBytes, OnLine, Ran

BLOCK = 2**16
CONNECT = 5.0
NOT_STARTED = {errno.ENOENT: 127, errno.ENOTDIR: 127, errno.EACCES: 126, errno.ENOEXEC: 126}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LocalTransport:
    """llmctl.fleet.transport.Transport without a connection."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._home = Path.home()

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
        process = self._start(argv)
        if isinstance(process, Ran):
            return process
        due = time.monotonic() + timeout
        with _ended(process):
            threading.Thread(target=_feed, args=(process, stdin, hold), daemon=True).start()
            for data, is_err in _pieces(process, due):
                (err if is_err else out).feed(data)
            try:
                code = process.wait(max(0.0, due - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise failures.too_long(self.host.name, commands.title(argv), timeout) from None
        out.feed(b"")
        err.feed(b"")
        return Ran(_code(code), out.text, err.text)

    def stream(self, argv: Sequence[str], *, on_err: OnLine | None = None) -> Generator[str, None, int]:
        out, err = Output(), Output(on_err)
        process = self._start(argv)
        if isinstance(process, Ran):
            err.pass_on(process.err.encode())
            return process.code
        with _ended(process):
            assert process.stdin
            process.stdin.close()
            for data, is_err in _pieces(process, None):
                if is_err:
                    err.pass_on(data)
                else:
                    yield from out.lines(data)
            yield from out.lines(b"")
            err.pass_on(b"")
            return _code(process.wait())

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o600, on_bytes: OnBytes | None = None) -> None:
        path = self._home / target
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            for folder in reversed([folder for folder in path.parents if not folder.exists()]):
                folder.mkdir(mode=0o700, exist_ok=True)
            with open(temp, "wb", opener=files.private) as file:
                for block in _blocks(source):
                    file.write(block)
                    if on_bytes:
                        on_bytes(file.tell(), size)
                file.flush()
                os.fsync(file.fileno())
            temp.chmod(mode)
            os.replace(temp, path)
            files.sync(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temp.unlink()
            raise self._unwritable(error, path, size) from None

    def get(self, source: str, target: Path, *, on_bytes: OnBytes | None = None) -> None:
        try:
            with open(self._home / source, "rb") as file, open(target, "ab") as copy:
                size = os.fstat(file.fileno()).st_size
                if copy.tell() > size:
                    copy.seek(copy.truncate(0))
                file.seek(copy.tell())
                while block := file.read(BLOCK):
                    copy.write(block)
                    if on_bytes:
                        on_bytes(copy.tell(), size)
        except OSError as error:
            raise LlmctlError(f"{source} cannot be copied: {error.strerror}", host=self.host.name) from None

    def dial(self, address: str, port: int) -> socket.socket:
        try:
            return socket.create_connection((address, port), CONNECT)
        except OSError as error:
            reason = error.strerror or error
            raise Unreachable(f"nothing answers on port {port}: {reason}", hint="llmctl status", port=port) from None

    def close(self) -> None:
        pass

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes] | Ran:
        """The running program, or what a shell would say of one that cannot be started."""
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                argv, cwd=self._home, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, bufsize=0
            )
        except OSError as error:
            if error.errno not in NOT_STARTED:
                raise
            return Ran(NOT_STARTED[error.errno], "", f"{argv[0]}: {error.strerror}\n")
        except ValueError:
            raise commands.no_nul() from None

    def _unwritable(self, error: OSError, path: Path, size: int) -> LlmctlError:
        if error.errno not in FULL:
            return LlmctlError(f"{path} cannot be written: {error.strerror}", host=self.host.name)
        free = shutil.disk_usage(path.parent).free
        return failures.no_space(self.host.name, str(path), size, free)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Its pipes are closed after the block, and it has ended: by itself, or because it must, with its group."""
    try:
        yield
    finally:
        for pipe in (process.stdout, process.stderr, process.stdin):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(commands.GRACE)


def _feed(process: subprocess.Popen[bytes], data: bytes, hold: bool) -> None:
    assert process.stdin
    with contextlib.suppress(OSError, ValueError):  # it ended, or does not want it
        view = memoryview(data)
        while view:
            view = view[process.stdin.write(view) :]
        if not hold:
            process.stdin.close()


def _pieces(process: subprocess.Popen[bytes], due: float | None) -> Iterator[tuple[bytes, bool]]:
    """What it prints until both pipes end or the time `due`, each piece with whether it came from stderr."""
    assert process.stdout and process.stderr
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, False)
        selector.register(process.stderr, selectors.EVENT_READ, True)
        while selector.get_map():
            ready = selector.select(None if due is None else max(0.0, due - time.monotonic()))
            if not ready:
                return
            for key, _ in ready:
                data = os.read(key.fd, BLOCK)
                if data:
                    yield data, key.data
                else:
                    selector.unregister(key.fileobj)


def _blocks(source: Path | bytes) -> Iterator[bytes | memoryview]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb", buffering=0) as file:
        yield from files.blocks(file)


def _code(code: int) -> int:
    """As a shell gives it: 128 and the signal that ended it."""
    return code if code >= 0 else 128 - code
