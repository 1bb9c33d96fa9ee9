"""Runs a program until its own stdin ends, then removes a folder: what a killed command leaves behind is nothing.

python -m llmctl.checks.keeper FOLDER PROGRAM [ARGUMENT]...

The program's output goes to FOLDER/output; when the program ends by itself, a line on stdout says so.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

OUTPUT = "output"
EVERY = 0.1
GRACE = 10.0


def main(folder: Path, argv: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # stdin tells when it is time
    try:
        with open(folder / OUTPUT, "wb") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _until_stdin_ends(process)
        _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _until_stdin_ends(process: subprocess.Popen[bytes]) -> None:
    told = False
    while True:
        came, _, _ = select.select([0], [], [], EVERY)
        if came and not os.read(0, 4096):
            return
        if not told and process.poll() is not None:
            told = True
            with contextlib.suppress(OSError):
                print(f"ended with {process.returncode}", flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, then kill, with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
