"""Tells people what has changed: each target by a process of its own, ended with all its children at its deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from llmctl import logs
from llmctl.errors import LlmctlError, NotifyFailed
from llmctl.health import kept, standing
from llmctl.health.changes import Run
from llmctl.health.message import Message, name_of
from llmctl.health.settings import MessageSettings
from llmctl.health.target import COMMAND, Target
from llmctl.processes import group, own_environment

AT_ONCE = 16
SHOWN = 200
"""Characters of what a command said that go into an error."""


@dataclass(frozen=True)
class Told:
    """Who was told what, and who could not be and why: those are told with the next run. `errors` has all that went
    wrong."""

    sent: tuple[tuple[str, Message], ...] = ()
    deaf: tuple[tuple[str, Message, str], ...] = ()
    errors: tuple[LlmctlError, ...] = ()


def tell(home: Path, targets: Sequence[Target], run: Run, settings: MessageSettings) -> Told:
    """Tell each target what is news to it, side by side, and keep what it knows now.

    Returns once the last target took its message or its time is up.
    """
    known, errors = kept.listeners(home)
    messages: list[tuple[Target, Message]] = []
    after = {}
    for target in targets:
        observed = standing.observe(known.pop(target.name, {}), run, settings)
        known[target.name] = observed  # now the latest of all
        message, after[target.name] = standing.message(observed, run, settings)
        if message:
            messages.append((target, message))
        else:
            known[target.name] = after[target.name]
    failed = send(messages)
    for (target, _), why in zip(messages, failed, strict=True):
        if why is None:
            known[target.name] = after[target.name]
    errors = [*errors, *(why for why in failed if why), *kept.keep_listeners(home, known)]
    pairs = [(target.name, message, why) for (target, message), why in zip(messages, failed, strict=True)]
    sent = tuple((name, message) for name, message, why in pairs if why is None)
    return Told(sent, tuple((name, message, why.message) for name, message, why in pairs if why), tuple(errors))


def send(messages: Sequence[tuple[Target, Message]]) -> list[NotifyFailed | None]:
    """Send them side by side; for each why it did not get through, or None."""

    def one(pair: tuple[Target, Message]) -> NotifyFailed | None:
        try:
            deliver(*pair)
        except NotifyFailed as error:
            return error
        return None

    if not messages:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(messages))) as pool:
        return list(pool.map(one, messages))


def deliver(target: Target, message: Message) -> None:
    """Send one message; NotifyFailed names the target and what to do, and no secret."""
    try:
        (_command if target.kind == COMMAND else _service)(target, message)
    except NotifyFailed as error:
        raise NotifyFailed(f"{target.name} was not told: {error.message}", hint=error.hint) from None


def _command(target: Target, message: Message) -> None:
    """The message as JSON on its stdin, and what is short of it in its environment."""
    named = (name_of((slot["host"], slot["port"])) for slot in message.slots)
    told = {"KIND": message.kind, "TITLE": message.title, "ID": message.id, "SLOTS": " ".join(named)}
    environment = {**os.environ, **{f"LLMCTL_{key}": value for key, value in told.items()}}
    with tempfile.TemporaryFile() as errors:
        code = _run(target, target.argv, message.to_dict(), environment, stderr=errors, stdout=subprocess.DEVNULL)
        if code:
            lines = _text(errors).strip().splitlines()
            last = logs.clean(lines[-1])[:SHOWN] if lines else ""
            raise NotifyFailed(f"it ended with {code}{': ' if last else ''}{last}", hint=f"try it: {target.argv[0]}")


def _service(target: Target, message: Message) -> None:
    """A webhook, or what apprise knows: llmctl.health.deliver in a process of its own."""
    task = {**asdict(target), "message": message.to_dict()}
    environment = {**own_environment(), "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryFile() as said:
        argv = [sys.executable, "-m", "llmctl.health.deliver"]
        code = _run(target, argv, task, environment, stdout=said, stderr=subprocess.DEVNULL)
        try:
            found = json.loads(_text(said))
        except ValueError:
            raise NotifyFailed(f"what sends it ended with {code}") from None
        if found:
            raise NotifyFailed(found["message"], hint=found["hint"])


def _run(target: Target, argv: Sequence[str], given: Any, environment: dict[str, str], **options: Any) -> int:
    """The exit status of a program that gets JSON; files in place of pipes, since nobody may have to read them."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(given).encode())
        stdin.seek(0)
        try:
            with group(argv, stdin=stdin, env=environment, **options) as process:
                return process.wait(target.timeout)
        except subprocess.TimeoutExpired:
            hint = "a longer timeout of that [[notify]] in health.toml"
            raise NotifyFailed(f"it took more than {target.timeout:g} s, and was ended", hint=hint) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise NotifyFailed(f"it cannot be started: {why}", hint=f"ls -l {argv[0]}") from None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(2**16).decode(errors="replace")
