"""`llmctl hosts token`: the token of Hugging Face, to hosts. It goes by stdin, and is shown nowhere."""

from __future__ import annotations

import os
import sys
from io import StringIO
from typing import Annotated, TextIO

import typer

from llmctl import hf_token
from llmctl.cli import host
from llmctl.cli import options as o
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import UsageError
from llmctl.fleet import fanout, selection

app = typer.Typer()

Remove = Annotated[bool, typer.Option("--remove", help="Take it away again.")]


@app.command()
def token(
    ctx: typer.Context,
    hosts: o.HostNames = None,
    from_env: Annotated[
        str | None, typer.Option("--from-env", metavar="NAME", help="Read it from this variable.")
    ] = None,
    remove: Remove = False,
) -> Answer:
    """Give hosts the token of Hugging Face: typed at a hidden prompt, or piped. Used where a host has no other."""
    session: Session = ctx.obj
    if not hosts:
        raise UsageError("which hosts get it?", hint="llmctl hosts token HOST")
    meant = selection.select(session.config, hosts)
    given = "" if remove else hf_token.check(_asked(from_env))
    words = ["host", "token", *(["--remove"] if remove else [])]
    with Reach(session) as reach:

        def give(one: Host) -> dict[str, object]:
            def here(there: Session) -> Answer:
                return _kept(there, remove, StringIO(given))

            reply = reach.call(one, words, here, stdin=f"{given}\n".encode(), timeout=60.0)
            return {"host": one.name, **reply.value()}

        outcomes = fanout.over(meant, give)
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    return Answer({"tokens": [o.value for o in outcomes if o.value]}, fanout.exit_code(outcomes), errors)


def _asked(variable: str | None) -> str:
    if variable is not None:
        if variable not in os.environ:
            raise UsageError(f"the variable {variable[:140]!r} is not set", hint="export it, or type the token")
        return os.environ[variable]
    if not sys.stdin.isatty():
        return sys.stdin.read(2 * hf_token.LONGEST)
    return str(typer.prompt("Token of Hugging Face", hide_input=True, err=True))


def _kept(session: Session, remove: bool, stdin: TextIO) -> Answer:
    if remove:
        return Answer({"stored": False, "removed": hf_token.remove(session.home)})
    hf_token.store(session.home, hf_token.check(stdin.read(2 * hf_token.LONGEST)))
    return Answer({"stored": True, "removed": False})


@host.app.command("token")
def keep(ctx: typer.Context, remove: Remove = False) -> Answer:
    """Keep the token that stdin holds."""
    return _kept(ctx.obj, remove, sys.stdin)
