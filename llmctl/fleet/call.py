"""A verb of llmctl on another host: its words go out, its one envelope comes back, its errors read as if met here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl import __version__
from llmctl.errors import LlmctlError, NotDeployed, VersionSkew, from_dict
from llmctl.fleet.transport import Transport

PROGRAM = ".llmctl/bin/llmctl"
NOT_FOUND = (126, 127)
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
) -> Reply:
    """Run `llmctl WORDS --json` on the host. NotDeployed and VersionSkew say which deploy to type."""
    host = transport.host.name

    def on_err(line: str) -> None:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if on_event and isinstance(event, dict) and "event" in event:
                on_event(event)

    ran = transport.run([PROGRAM, "--json", *words], stdin=stdin, timeout=timeout, on_err=on_err)
    try:
        envelope = json.loads(ran.out)
        version = str(envelope["llmctl"])
        errors = tuple(from_dict({**error, "details": envelope["data"]}) for error in envelope["errors"])
        reply = Reply(envelope["data"], int(envelope["exit_code"]), errors, version)
    except (ValueError, KeyError, TypeError):
        if ran.code in NOT_FOUND:
            raise NotDeployed(f"{host} has no llmctl", hint=f"llmctl deploy {host}", host=host) from None
        last = (ran.err or ran.out).strip().splitlines()[-10:]
        raise LlmctlError(
            f"llmctl on {host} ended with {ran.code} and no answer",
            hint=f"llmctl deploy {host}",
            host=host,
            details={"log": last},
        ) from None
    if version != __version__:
        raise VersionSkew(
            f"{host} runs llmctl {version}, and this is {__version__}",
            hint=f"llmctl deploy {host}",
            host=host,
            details={"here": __version__, "there": version},
        )
    for error in errors:
        error.host = host
    return reply
