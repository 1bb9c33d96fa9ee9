"""The process that does the work of a job: calls the function of its kind, and tells its worker how that ended.

`python -m llmctl.jobs.work FOLDER FD`; what it says on FD are lines of JSON: {"note"}, then {"result"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import envelope
from llmctl.errors import LlmctlError
from llmctl.jobs import kinds, tree
from llmctl.jobs.context import Cancelled
from llmctl.jobs.report import Reporter
from llmctl.jobs.state import Job, Jobs


def main(argv: list[str]) -> int:
    parent, folder, fd = int(argv[0]), Path(argv[1]), int(argv[2])
    tree.die_with(parent)
    os.set_inheritable(fd, False)
    lock = threading.Lock()

    def send(message: Mapping[str, Any]) -> None:
        data = json.dumps(message, default=str).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(fd, data) :]

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _cancel)
    job = Jobs(folder.parents[1]).read(int(folder.name))
    ended = run(job, Reporter(folder / "progress.json", send))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    send(ended)
    return 0 if "result" in ended else 1


def run(job: Job, reporter: Reporter) -> Mapping[str, Any]:
    """Do the work; its last message, whatever it did."""
    try:
        result = kinds.load(job.kind)(job.arguments, reporter)
        return {"result": json.loads(json.dumps(dict(result), allow_nan=False))}
    except Cancelled:
        return {"error": LlmctlError("cancelled").to_dict()}
    except BaseException as error:
        if not isinstance(error, LlmctlError):
            traceback.print_exc()
        return {"error": as_error(job.id, error).to_dict()}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        reporter.close()


def as_error(id: int, error: BaseException) -> LlmctlError:
    """The typed error for whatever work raised."""
    if isinstance(error, MemoryError):
        return LlmctlError("this host ran out of memory", hint=f"llmctl jobs logs {id}")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return LlmctlError(f"the work ended itself: {error!r}", hint=f"llmctl jobs logs {id}")
    found = envelope.failure(error).errors[0]
    if found.code == "internal":
        found.hint = f"this is a bug in llmctl: report what `llmctl jobs logs {id}` shows"
    return found


def _cancel(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the clean-up is not interrupted
    raise Cancelled


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the libraries' own threads and teardown have nothing left to save
