"""`llmctl ask`: one question to a slot, the answer as it comes."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from typing import Annotated, Any

import typer

from llmctl import client
from llmctl.cli import options as o
from llmctl.cli.session import Session, Target
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UsageError

app = typer.Typer()


@app.command()
def ask(
    ctx: typer.Context,
    target: o.PortOrModel,
    question: Annotated[str, typer.Argument(help="Left out or '-': read from stdin.")] = "-",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0: always the likeliest token.")] = None,
) -> Answer:
    """Ask the model on a port, or a model by name."""
    session: Session = ctx.obj
    slot = find(session, target)
    text = sys.stdin.read().strip() if question == "-" else question
    if not text:
        raise UsageError("there is no question", hint=f'llmctl ask {target} "What is a slot?"')
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    return Answer(stream=_ask(slot, messages, max_tokens, temperature))


def find(session: Session, text: str) -> Target:
    """The slot of PORT or HOST:PORT, or the lowest one that serves the model (or handle) `text`."""
    if text.rpartition(":")[2].isdigit():
        return session.target(text)
    from llmctl.slots import verbs

    try:
        model = session.catalog.resolve(text).id
    except LlmctlError:
        model = text
    for slot in verbs.status(session.home):
        if slot.model == model or text in slot.handles:
            return Target(session.host(), slot.port)
    raise Refused(f"no slot serves {text[:140]!r}", hint=f"llmctl load auto {model}")


def _ask(
    slot: Target, messages: list[dict[str, Any]], max_tokens: int | None, temperature: float | None
) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl import keys

    answer = yield from client.chat(
        slot.host.bind,
        slot.port,
        messages,
        key=keys.current(),
        max_tokens=max_tokens,
        temperature=temperature,
    )
    yield "\n"
    return {"host": slot.host.name, "port": slot.port, **answer}
