"""Work that the tests' jobs do, each in a real job process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint, DoesNotFit, UnknownName, Unreachable
from llmctl.jobs.context import Context

KINDS = ",".join(
    f"{name}=tests.jobs.works:{name}" for name in ("sleep", "ends", "children", "stubborn", "prints", "absent")
)
Arguments = Mapping[str, Any]


def sleep(arguments: Arguments, job: Context) -> Arguments:
    """Takes `seconds`, tells how far it is, and writes when it began and ended, and whether it was cancelled."""
    seconds, record = float(arguments.get("seconds", 0)), arguments.get("record", os.devnull)
    began = time.monotonic()
    job.note(f"sleeping {seconds}")
    try:
        while (passed := time.monotonic() - began) < seconds:
            done = int(passed * 10**7)
            job.progress(
                "sleep", done, int(seconds * 10**7), {"one.safetensors": (done // 2, int(seconds * 5 * 10**6))}
            )
            sys.stdout.write(arguments.get("chatter", ""))
            time.sleep(0.02)
    finally:
        time.sleep(arguments.get("cleanup", 0))
        with open(record, "a") as file:
            file.write(f"{began} {time.monotonic()}\n")
    return {"slept": seconds}


def ends(arguments: Arguments, job: Context) -> Any:
    """Ends in the way that `how` names."""
    print("last words")
    return ENDS[arguments["how"]]()


def _raise(error: BaseException) -> Callable[[], Any]:
    def ending() -> Any:
        raise error

    return ending


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ENDS: dict[str, Callable[[], Any]] = {
    "refused": _raise(DoesNotFit("too big", hint="llmctl models fit", details={"needed": 7})),
    "unknown": _raise(UnknownName("no such model")),
    "away": _raise(Unreachable("the hub does not answer")),
    "checkpoint": _raise(BadCheckpoint("torn.gguf is torn")),
    "details": _raise(DoesNotFit("odd details", details={"path": Path("/x")})),
    "os": _raise(FileNotFoundError(2, "No such file or directory", "/nowhere")),
    "bug": _raise(ZeroDivisionError("division by zero")),
    "memory": _raise(MemoryError()),
    "exit": _raise(SystemExit(0)),
    "unjson": lambda: {"path": Path("/x")},
    "nan": lambda: {"loss": float("nan")},
    "nothing": lambda: None,
    "os-exit": lambda: os._exit(3),
    "kill": _kill,
    "abort": os.abort,
}


def children(arguments: Arguments, job: Context) -> Arguments:
    """Leaves processes of every kind behind, their pids in `record`; then takes `seconds`."""
    code = "import time; time.sleep(600)"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    plain = subprocess.Popen([sys.executable, "-c", code])  # holds our stdout and stderr
    session = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **quiet)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
    twice = subprocess.run(
        [sys.executable, "-c", f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {deaf!r}], "
         "start_new_session=True, stdout=subprocess.DEVNULL).pid)"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    pids = [plain.pid, session.pid, int(twice.stdout)]
    if arguments.get("bare"):  # not marked by the environment
        pids.append(subprocess.Popen([sys.executable, "-c", code], env={}, start_new_session=True, **quiet).pid)
    Path(arguments["record"]).write_text(" ".join(map(str, pids)))
    time.sleep(arguments["seconds"])
    return {}


def stubborn(arguments: Arguments, job: Context) -> Arguments:
    """Does not end when it is cancelled: it sits in C code, or swallows what is raised."""
    job.progress("stubborn")
    if arguments.get("swallow"):
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(600)
    time.sleep(0.5)  # long enough for the progress to be written: from now on no other thread runs
    libc = ctypes.PyDLL(None)  # holds the interpreter's lock
    while True:
        libc.sleep(600)


def prints(arguments: Arguments, job: Context) -> Arguments:
    """Prints what a log must not keep, and returns and notes it as well."""
    secret = os.environ["HF_TOKEN"]
    print(f"\x1b[31mred\x1b[0m\x07 {secret}")
    sys.stderr.write("10 %\r20 %\r\n")
    os.write(2, b"\xff\xfe raw\n")
    job.note(f"a \x1b]0;title\x07note\nof {secret}")
    for name in ("evil\x1b[2J\nname", "b"):
        job.progress("with \x1b[1mcolour", 1, 2, {name: (1, 2)})
    if arguments.get("fail"):
        raise BadCheckpoint(f"401 for {secret}")
    return {"secret": secret}
