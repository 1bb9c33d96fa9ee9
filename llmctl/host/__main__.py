"""`python -m llmctl.host`: one JSON line on stdin asks for a step; event lines and one answer line come on stdout.

→ {"step": "environment", "attended": true, "lease": {"number": 7, "token": "…"}, …}
← {"event": "line", …}*
← {"ok": true, "data": …} | {"ok": false, "error": {…}}

An attended step ends, with all that it started, when its stdin closes: its operator has gone away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
from typing import Any

from llmctl import paths
from llmctl.errors import LlmctlError, NoSpace, Refused, UsageError
from llmctl.host import look, steps

_writing = threading.Lock()


def main() -> int:
    """Do one step; 0 when it was done."""
    with contextlib.suppress(PermissionError):  # it leads a group already
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: end_group())
    try:
        request = asked()
        if request.get("attended"):
            threading.Thread(target=attend, name="attend", daemon=True).start()
        data = steps.run(paths.home(), request, say)
    except LlmctlError as error:
        say({"ok": False, "error": error.to_dict()})
        return 1
    except OSError as error:
        say({"ok": False, "error": of_system(error).to_dict()})
        return 1
    say({"ok": True, "data": data})
    return 0


def asked() -> dict[str, Any]:
    """The request."""
    try:
        request = json.loads(sys.stdin.buffer.readline())
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise UsageError("the host side of a deploy is asked by one JSON line", hint="llmctl deploy HOST")
    return request


def attend() -> None:
    """Wait for the end of stdin, then end this step and what it started."""
    while os.read(0, 4096):
        pass
    end_group()


def end_group() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


def say(line: dict[str, Any]) -> None:
    with _writing:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def of_system(error: OSError) -> LlmctlError:
    """What the operating system refused, with what to do about it."""
    home = paths.home()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = look.free(home)
        return NoSpace(
            f"the disk of {home} is full ({free / 1e6:.1f} MB free)",
            hint="free some, or remove old releases: llmctl deploy HOST --prune",
            details={"free": free, "path": str(home)},
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = f"make {home} writable for this user, or name another user in hosts.toml"
        return Refused(f"{error.filename or home} cannot be written: {error.strerror}", hint=hint)
    return LlmctlError(f"{error.strerror or error}: {error.filename or home}")


if __name__ == "__main__":
    sys.exit(main())
