"""One converter process: reads its request, works, answers, and never outlives or phones anyone."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from llmctl.errors import ConversionFailed, LlmctlError, Unsupported

Work = Callable[[Mapping[str, Any]], Mapping[str, Any]]
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def serve(work: Work) -> NoReturn:
    """Answer the one request on stdin with `work`; what libraries print goes to stderr, the log."""
    answers = os.dup(1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_job, daemon=True).start()
    sys.addaudithook(refuse_network)
    try:
        answer: dict[str, Any] = {"result": dict(work(request))}
    except LlmctlError as error:
        answer = {"error": error.to_dict()}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": failure(error).to_dict()}
    sys.stderr.flush()
    with os.fdopen(answers, "wb") as out:
        out.write(json.dumps({**answer, "peak_bytes": peak_bytes()}).encode())
    os._exit(0)  # the answer is out: no library's end can spoil it


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a conversion needs no one else."""
    if event in NETWORK:
        raise ConversionFailed(f"a converter tried to reach the network ({event}), which it never needs")


def failure(error: Exception) -> LlmctlError:
    """A library's exception as one of ours."""
    if isinstance(error, ModuleNotFoundError):
        return Unsupported(
            f"{error.name} is not in the environment of llmctl, and this conversion needs it",
            hint="pip install 'llmctl-fleet[convert]'",
        )
    said = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {said[0][:300] if said else 'without a message'}"
    return ConversionFailed(line)


def peak_bytes() -> int:
    """The most resident memory that this process had."""
    try:  # since its exec: ru_maxrss begins with what the parent had
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024
    except (OSError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _end_with_the_job() -> NoReturn:
    """The job holds the other end of stdin: when that closes, this group ends."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
