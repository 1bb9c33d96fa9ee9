"""The command `llmctl`: runs one verb, shows its answer, and turns every error into a text or an envelope.

`--json` with a verb of PLAIN starts without Typer: hosts run these for other hosts, many at once on few cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from llmctl import __version__, envelope
from llmctl.envelope import Answer
from llmctl.errors import UsageError, VersionSkew

FLAGS = ("--json", "--yes", "-y", "--debug")
VALUES = ("--config-dir=", "--as-host=", "--for-version=")
PLAIN = {
    "status": ("llmctl.cli.status", "--host"),
    "host watch": ("llmctl.cli.host_watch", "--every"),
    "host metrics": ("llmctl.cli.host_metrics", "--timeout"),
}
"""Each with its module and the only option that it takes."""
NOUNS = (
    "hosts", "host", "models", "profile", "jobs", "bench", "native", "registry", "keys", "metrics", "history",
    "handles", "gateway",
)  # fmt: skip
OF_ITSELF = {"health": ("install", "uninstall", "show")}
"""Verbs that have some of their own, which may stand in the place of what they are about."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code."""
    common, words = hoist(sys.argv[1:] if argv is None else argv)
    as_json, command = "--json" in common, command_of(words)
    try:
        answer = run(common, words)
        code = answer if isinstance(answer, int) else show(command, answer, as_json)
    except BrokenPipeError:
        code = close_stdout()
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in common:
            import traceback

            traceback.print_exc()
        try:
            code = show(command, envelope.failure(error), as_json)
        except BrokenPipeError:
            code = close_stdout()
    return code


def hoist(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off the options that every verb has and that may stand anywhere before a `--`."""
    common: list[str] = []
    words = list(argv)
    at = 0
    while at < len(words) and words[at] != "--":
        if words[at] in FLAGS or words[at].startswith(VALUES):
            common.append(words.pop(at))
        elif words[at] == "--config-dir":
            common += words[at : at + 2]
            del words[at : at + 2]
        else:
            at += 1
    return common, words


def command_of(words: Sequence[str]) -> str:
    """The verb, or noun and verb, that a command line begins with."""
    plain = [word for word in words[:2] if not word.startswith("-")]
    noun = plain and (plain[0] in NOUNS or plain[-1] in OF_ITSELF.get(plain[0], ()))
    return " ".join(plain if noun else plain[:1])


def run(common: Sequence[str], words: Sequence[str]) -> Answer | int:
    """The answer of a command line; an int when Typer has shown help or a completion itself."""
    check_version(common)
    if plain := plain_verb(common, words):
        found: Answer = plain.answer(words[len(command_of(words).split()) :], as_host=value(common, "--as-host"))
        return found
    from typer.exceptions import Abort, TyperException

    from llmctl.cli.app import app

    try:
        result: Answer | int = app([*common, *(words or ["--help"])], prog_name="llmctl", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "llmctl"
        raise UsageError(error.format_message(), hint=f"{verb} --help") from None
    except Abort:
        raise KeyboardInterrupt from None
    if isinstance(result, int) and result == envelope.INTERRUPTED:
        raise KeyboardInterrupt
    return result


def plain_verb(common: Sequence[str], words: Sequence[str]) -> Any:
    """The module of PLAIN that answers this line; None where it takes Typer."""
    shared = [word for word in common if not word.startswith(("--as-host=", "--for-version="))]
    module, known = PLAIN.get(command_of(words), ("", ""))
    if shared != ["--json"] or not module:
        return None
    options = [word for word in words if word.startswith("-") and not word.startswith(known)]
    return None if options else import_module(module)


def check_version(common: Sequence[str]) -> None:
    """VersionSkew when another llmctl asks, and is of another version: what it means may not be what is done here."""
    asked = value(common, "--for-version")
    if asked not in (None, __version__):
        raise VersionSkew(f"llmctl {asked} asks, and this is {__version__}", hint="llmctl deploy HOST")


def value(common: Sequence[str], option: str) -> str | None:
    """The value of an option that was typed as OPTION=VALUE."""
    return next((word.partition("=")[2] for word in common if word.startswith(f"{option}=")), None)


def show(command: str, answer: Answer, as_json: bool) -> int:
    """Print an answer, the errors to stderr; its exit code."""
    if as_json:
        print(envelope.to_json(command, envelope.drained(answer)), flush=True)
        return answer.exit_code
    from llmctl import render

    render.show(command, answer)
    return answer.exit_code


def close_stdout() -> int:
    """The reader of stdout went away, as `head` does: end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
