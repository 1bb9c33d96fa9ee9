"""The server process behind an upstream engine: where it listens, how it is started, and its end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from llmctl.domain import EngineSpec
from llmctl.errors import LoadFailed, Unsupported
from llmctl.servers import Server, filled, holes, missing_program

LEAVE = 5.0  # seconds for the keeper to end the whole tree; its own grace lies within


class Child:
    """A server that runs because we started it. `url` is where it listens; `ended` its exit status once it is gone."""

    def __init__(self, url: str, keeper: subprocess.Popen[bytes], lifeline: int, gone: Callable[[], None]) -> None:
        self.url, self.gone = url, gone
        self.ended: int | None = None
        self._keeper, self._lifeline = keeper, lifeline
        self._watch = threading.Thread(target=self._wait, name="server", daemon=True)
        self._watch.start()

    def _wait(self) -> None:
        self.ended = self._keeper.wait()
        self.gone()

    def close(self) -> None:
        """Ask it to end, and see to it that it does, with all that it started."""
        with contextlib.suppress(OSError):
            os.write(self._lifeline, b"s")
        self._watch.join(LEAVE)
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._watch.join(LEAVE)


def launch(spec: EngineSpec, server: Server, gone: Callable[[], None]) -> Child:
    """Start the server of `spec`; `gone` is called from a thread when it has ended. It is not ready yet."""
    argv, url, folder = command(spec, server)
    check_program(server, spec.model)
    read, write = os.pipe()
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "llmctl.engines.upstream_keeper", str(read), folder, *argv],
            stdin=subprocess.DEVNULL, pass_fds=(read,), start_new_session=True, cwd=server.folder,
            env=environment(server),
        )  # fmt: skip
    except OSError as error:
        os.close(write)
        raise LoadFailed(f"{spec.model}: cannot start its server in {server.folder}: {error.strerror}") from error
    finally:
        os.close(read)
    return Child(url, keeper, write, gone)


def environment(server: Server) -> dict[str, str]:
    """Ours with the entry's; its PYTHONPATH comes behind llmctl's own code, which the keeper needs and takes out."""
    path = [str(Path(__file__).parents[2]), server.env.get("PYTHONPATH") or os.environ.get("PYTHONPATH") or ""]
    return {**os.environ, **server.env, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def command(spec: EngineSpec, server: Server) -> tuple[list[str], str, str]:
    """The argument vector, the address that it makes the server listen on, and a folder to be removed with it."""
    values: Mapping[str, object] = {
        "path": spec.path, "model": server.model, "id": spec.model, "context": spec.context, "parallel": spec.parallel,
    }  # fmt: skip
    if "socket" in holes(server.command):
        folder = tempfile.mkdtemp(prefix="llmctl-")
        path = str(Path(folder) / "socket")
        return filled(server.command, {**values, "socket": path}), f"unix:{path}", folder
    port = free_port()
    return filled(server.command, {**values, "port": port}), f"http://127.0.0.1:{port}", ""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def check_program(server: Server, model: str) -> None:
    """Unsupported when the program is not on this host."""
    if name := missing_program(server):
        hint = "install it here, or write its whole path in the command"
        raise Unsupported(f"{model}: there is no program {name!r} on this host", hint=hint)
