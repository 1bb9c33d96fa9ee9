"""Starts a server and outlives the engine process just long enough to end it, with all that it ever started.

    python -m llmctl.engines.upstream_keeper LIFELINE FOLDER PROGRAM [ARGUMENT]...

LIFELINE is the reading end of a pipe whose other end the engine process holds. Its end, however that comes, is the end
of the server's whole tree at once; a byte on it asks the server to end by itself within GRACE seconds, or, when it is
FINISH, as soon as it has answered what it was asked. FOLDER (or "") is removed in the end. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from llmctl.jobs import tree

GRACE = 2.0
FINISH = b"f"
ENDING = threading.Lock()


def main(argv: list[str]) -> int:
    lifeline, folder = int(argv[0]), argv[1]
    tree.adopt_orphans()
    keeper = os.getpid()
    try:
        server = subprocess.Popen(
            argv[2:], stdin=subprocess.DEVNULL, start_new_session=True, env=environment(os.environ.copy()),
            preexec_fn=lambda: tree.die_with(keeper),
        )  # fmt: skip
    except OSError as error:
        print(f"cannot start {argv[2]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=watch, args=(lifeline, folder, server.pid), daemon=True).start()
    status = reap(server.pid)
    end(folder, server.pid)
    return status if status >= 0 else 128 - status


def environment(inherited: dict[str, str]) -> dict[str, str]:
    """What the server gets: ours, without the way to llmctl's own code."""
    code = str(Path(__file__).parents[2])
    path = [part for part in inherited.pop("PYTHONPATH", "").split(os.pathsep) if part and part != code]
    return {**inherited, "PYTHONPATH": os.pathsep.join(path)} if path else inherited


def reap(pid: int) -> int:
    """Wait for the server, and meanwhile for those that its descendants left to us; as in Popen.returncode."""
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:  # the watching thread was faster: it ends us when all is done
            threading.Event().wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def watch(lifeline: int, folder: str, pid: int) -> None:
    """End the server when the engine process asks for it, or is gone."""
    while told := os.read(lifeline, 1):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
        if told != FINISH:
            time.sleep(GRACE)  # the main thread ends us before that when the server does
            break
    end(folder, pid)
    os._exit(0)


def end(folder: str, pid: int) -> None:
    """Only one thread does it; the other one ends with the process."""
    with ENDING:
        if sys.platform != "linux":  # where nothing below us is found by /proc; never run by this project
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        tree.end_children()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
