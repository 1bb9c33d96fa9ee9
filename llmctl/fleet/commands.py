"""The command lines that go to a host: a program with a bound on its life, and a file's way there and back.

Each is one line for whatever login shell there is, which starts /bin/sh with a script of one line; what the script
works on are its arguments. POSIX sh and what macOS, busybox and coreutils share; `timeout` is used where it exists.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from llmctl.errors import UsageError

GRACE = 1  # second from the polite signal to the one that cannot be ignored
_VERB = re.compile(r"[a-z][a-z-]{0,19}")
UNBOUNDED = 100_000_000  # seconds that GNU and busybox `timeout` both take

_TIMEOUT = f"command -v timeout >/dev/null 2>&1 && t='timeout -k {GRACE}' || t="
# A second process ends the first: with its group, which `timeout` makes; without `timeout` alone. Its output is
# closed, or it would hold up the end of the connection.
_END = f'kill -s TERM -- "-$p" || kill -s TERM "$p"; sleep {GRACE}; kill -s KILL -- "-$p" || kill -s KILL "$p"'
_RUN = (
    f'n=$1; shift; {_TIMEOUT}; if [ -n "$t" ]; then $t "$n" "$@"; exit $?; fi; exec 3<&0; "$@" <&3 3<&- & p=$!; '
    f'{{ sleep "$n"; {_END}; }} </dev/null >/dev/null 2>&1 3<&- & w=$!; '
    'wait "$p"; c=$?; kill "$w" 2>/dev/null; exit "$c"'
)
# Here the second process waits for stdin to end, which is when the connection does.
_STREAM = (
    f"n=$1; shift; {_TIMEOUT}; exec 3<&0; "
    'if [ -n "$t" ]; then $t "$n" "$@" </dev/null 3<&- & else "$@" </dev/null 3<&- & fi; p=$!; '
    f"{{ read -r _ <&3; {_END}; }} >/dev/null 2>&1 & w=$!; "
    'wait "$p"; c=$?; kill "$w" 2>/dev/null; exit "$c"'
)
_PATH = "export LC_ALL=C; case $1 in /*) f=$1;; *) f=./$1;; esac"
# What came is counted: a connection that breaks looks like the end of the file.
_PUT = (
    f"umask 077; {_PATH}; d=${{f%/*}}; n=$d/.${{f##*/}}.$$.tmp; "
    'if [ -d "$f" ]; then echo "$f is a folder" >&2; exit 1; fi; [ -d "$d" ] || mkdir -p "${d:-/}" || exit 1; '
    'if head -c "$2" >"$n" && [ $(wc -c <"$n") -eq "$2" ] && chmod "$3" "$n"; then '
    'sync "$n" 2>/dev/null; mv -f "$n" "$f" && { sync "${d:-/}" 2>/dev/null; exit 0; }; fi; '
    'rm -f "$n"; df -Pk "${d:-/}" | tail -n 1 >&2; exit 1'
)
_GET = f'{_PATH}; [ -f "$f" ] || {{ echo "no such file" >&2; exit 1; }}; wc -c <"$f" && exec tail -c "+$2" "$f"'


def run(argv: Sequence[str], timeout: float) -> bytes:
    """A program that is ended `timeout` seconds after it began."""
    return _script(_RUN, str(max(1, round(timeout))), *argv)


def stream(argv: Sequence[str]) -> bytes:
    """A program that is ended when its stdin is."""
    return _script(_STREAM, str(UNBOUNDED), *argv)


def put(target: str, size: int, mode: int) -> bytes:
    """Takes `size` bytes from stdin; `target` is then whole, or as it was."""
    return _script(_PUT, target, str(size), f"{mode:o}")


def get(source: str, offset: int) -> bytes:
    """Prints the size of a file on a line, then what the file has from `offset` on."""
    return _script(_GET, source, str(offset + 1))


def title(argv: Sequence[str]) -> str:
    """How messages name a program: its name, and its verb where it has one; never what could be long or secret."""
    name = argv[0].rpartition("/")[2]
    verb = next((word for word in argv[1:] if not word.startswith("-")), "")
    return f"{name} {verb}" if _VERB.fullmatch(verb) else name


def _script(script: str, *words: str) -> bytes:
    return quoted(["exec", "sh", "-c", script, "llmctl", *words])


def quoted(argv: Sequence[str]) -> bytes:
    """A command line of which a shell makes exactly these words."""
    if any("\0" in word for word in argv):
        raise no_nul()
    return os.fsencode(shlex.join(argv))


def no_nul() -> UsageError:
    return UsageError("an argument cannot hold a NUL character")
