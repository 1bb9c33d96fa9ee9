"""What `llmctl top` costs the operator's machine: 20 ssh hosts, each with two slots whose figures never stand still."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.fleet import HOSTS, configure
from scripts.benchmarks.report import Row, row
from scripts.benchmarks.testbed import REPO, cpu_seconds
from tests.testbed.machines import Machine, Testbed, light_hosts

WINDOWS, WINDOW, SETTLED = 5, 20.0, 120.0
SIZE = (50, 160)
PORTS = (8101, 8102)

# Answers on the control sockets as slot servers do; a real one for each would leave the machine no time to be measured.
PLAYER = """\
import json, os, socketserver, sys, threading
class Answer(socketserver.StreamRequestHandler):
    turn = 0
    def handle(self):
        self.rfile.readline()
        Answer.turn += 1
        n = Answer.turn
        said = {"port": self.server.port, "model": "qwen2.5-7b", "engine": "llamacpp", "state": "ready", "pid": 1,
                "since": 1e9, "memory_bytes": 5 * 10**9, "tokens_per_second": 10 + n % 50, "active": n % 4,
                "queued": n % 3, "handles": ["chat"]}
        self.wfile.write(json.dumps({"ok": True, "data": said}).encode() + b"\\n")
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass
for port in sys.argv[2:]:
    folder = os.path.join(sys.argv[1], "slots", port)
    os.makedirs(folder)
    server = Server(os.path.join(folder, "control.sock"), Answer)
    server.port = int(port)
    threading.Thread(target=server.serve_forever).start()
"""


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="llm-") as made, light_hosts(HOSTS) as testbed:
        folder = Path(made)
        configure(folder, testbed)
        for host in testbed.machines:
            host.bring_llmctl()
            _play(host)
        with _running(testbed, folder) as process:
            shares = []
            for _ in range(WINDOWS):
                before, began = cpu_seconds(process.pid), time.monotonic()
                time.sleep(WINDOW)
                shares.append(100 * (cpu_seconds(process.pid) - before) / (time.monotonic() - began))
    yield row(
        f"`llmctl top` of {HOSTS} hosts, percent of one core", shares, "≤ 5",
        f"CPU time of the process over {WINDOW:.0f} s, {HOSTS} ssh hosts in namespaces of this machine, two slots each "
        f"whose figures change at every look (every 2 s), a terminal of {SIZE[1]}×{SIZE[0]}",
    )  # fmt: skip


def _play(host: Machine) -> None:
    host.path("/home/op/player.py").write_text(PLAYER)
    words = f"python3 /home/op/player.py /home/op/.llmctl {' '.join(map(str, PORTS))}"
    host.sh(f"su op -s /bin/sh -c 'setsid {words} >/dev/null 2>&1 &'")


@contextlib.contextmanager
def _running(testbed: Testbed, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`llmctl top` on a terminal, all of whose hosts and slots are shown."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    env = {
        **os.environ, "LLMCTL_CONFIG": str(folder), "LLMCTL_HOME": str(folder / "home"), "PYTHONPATH": str(REPO),
        "TERM": "xterm-256color",
    }  # fmt: skip
    process = subprocess.Popen(
        [*testbed.control, sys.executable, "-m", "llmctl", "top"], stdin=its, stdout=its, stderr=its, cwd=folder,
        env=env, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                shown.extend(data)

    threading.Thread(target=read, daemon=True).start()
    try:
        all_ready, end = (
            f"{len(PORTS) * HOSTS} of {len(PORTS) * HOSTS} slots ready".encode(),
            time.monotonic() + SETTLED,
        )
        while all_ready not in shown:
            assert time.monotonic() < end and process.poll() is None, shown[-3000:].decode(errors="replace")
            time.sleep(1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        os.close(ours)
