"""A verb of llmctl on another host: its words go out, its one envelope comes back, its errors read as if met here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl import __version__
from llmctl.errors import LlmctlError, NoPython, NotDeployed, VersionSkew, from_dict
from llmctl.fleet.transport import Ran, Transport

PROGRAM = ".llmctl/bin/llmctl"
NOT_FOUND = (126, 127)
LOG_LINES = 10
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Reply:
    """What a verb answered: the parts of its envelope."""

    data: Mapping[str, Any]
    exit_code: int
    errors: tuple[LlmctlError, ...]
    version: str

    def value(self) -> Mapping[str, Any]:
        """The data; raises the error of a verb that failed altogether."""
        if self.errors and self.exit_code not in (0, 3):
            raise self.errors[0]
        return self.data


def call(
    transport: Transport,
    words: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = 3600.0,
    on_event: OnEvent | None = None,
    any_version: bool = False,
) -> Reply:
    """Run `llmctl WORDS --json` on the host. NotDeployed and VersionSkew say which deploy to type.

    Another version of llmctl refuses before it does anything; with `any_version` it answers as well as it can.
    """
    host = transport.host.name

    def on_err(line: str) -> None:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if on_event and isinstance(event, dict) and "event" in event:
                on_event(event)

    ran = transport.run(argv(host, words, any_version), stdin=stdin, timeout=timeout, on_err=on_err)
    try:
        reply = read(ran.out)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise no_answer(host, ran) from None
    if reply.version != __version__ and not any_version:
        raise skew(host, reply.version)
    for error in reply.errors:
        error.host = host
    return reply


def argv(host: str, words: Sequence[str], any_version: bool, as_json: bool = True) -> list[str]:
    """The program on the host that is called `host`, and its arguments."""
    version = [] if any_version else [f"--for-version={__version__}"]
    return [PROGRAM, *(["--json"] if as_json else []), f"--as-host={host}", *version, *words]


def read(text: str) -> Reply:
    """The parts of an envelope; ValueError, KeyError or TypeError when it is none."""
    envelope = json.loads(text.strip().rpartition("\n")[2])  # a login shell may have said something before it
    data, said = envelope["data"], envelope["errors"]
    errors = tuple(from_dict({"details": data if len(said) == 1 else {}, **error}) for error in said)
    return Reply(dict(data), int(envelope["exit_code"]), errors, str(envelope["llmctl"]))


def skew(host: str, version: str) -> VersionSkew:
    """The error of a host that runs another `version`."""
    return VersionSkew(
        f"{host} runs llmctl {version}, and this is {__version__}",
        hint=f"llmctl deploy {host}",
        host=host,
        details={"here": __version__, "there": version},
    )


def no_answer(host: str, ran: Ran) -> LlmctlError:
    """Why llmctl did not say anything there."""
    hint, log = f"llmctl deploy {host}", (ran.err or ran.out).strip().splitlines()[-LOG_LINES:]
    if ran.code in NOT_FOUND and log and log[-1].startswith(PROGRAM):  # the script itself, of what it should start
        return NoPython(f"the Python that llmctl on {host} runs on is gone", hint=hint, host=host, details={"log": log})
    if ran.code in NOT_FOUND:
        return NotDeployed(f"{host} has no llmctl", hint=hint, host=host)
    message = f"llmctl on {host} ended with {ran.code} and no answer"
    return LlmctlError(message, hint=hint, host=host, details={"log": log})
