"""`llmctl ask`: one question to a slot, the answer as it comes."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli import reach, status
from llmctl.cli.far import words_of
from llmctl.cli.session import Session, Target
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UsageError
from llmctl.fleet import selection

app = typer.Typer()


@app.command()
def ask(
    ctx: typer.Context,
    target: o.PortOrModel,
    question: Annotated[str, typer.Argument(help="Left out or '-': read from stdin.")] = "-",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0: always the likeliest token.")] = None,
    host: o.Hosts = None,
) -> Answer:
    """Ask the model on a port, or a model by name. The answer of another host comes whole, at its end."""
    session: Session = ctx.obj
    slot = find(session, target, host)
    text = sys.stdin.read().strip() if question == "-" else question
    if not text:
        raise UsageError("there is no question", hint=f'llmctl ask {target} "What is a slot?"')
    if slot.host.transport != "local":
        given = {"target": str(slot.port), "system": system, "max_tokens": max_tokens, "temperature": temperature}
        return Answer(stream=_ask_there(session, slot, words_of(ctx, given, {"host"}), text))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    return Answer(stream=_ask(slot, messages, max_tokens, temperature))


def find(session: Session, text: str, patterns: Sequence[str] | None = None) -> Target:
    """The slot of PORT or HOST:PORT, or the first that serves the model (or handle) `text`; this machine's first."""
    if text.rpartition(":")[2].isdigit():
        hosts, port = reach.slots_of(session, text, patterns)
        return Target(reach.one(hosts, "ask"), int(port))
    try:
        model = session.catalog.resolve(text).id
    except LlmctlError:
        model = text
    hosts = selection.select(session.config, patterns or ())
    for transport in ("local", "ssh"):
        names = [host.name for host in hosts if host.transport == transport]
        rows = status.of_fleet(session, [], names).data["slots"] if names else []
        for row in rows:
            if row["model"] == model or text in row["handles"]:
                return Target(session.config.hosts[row["host"]], row["port"])
    raise Refused(f"no slot serves {text[:140]!r}", hint=f"llmctl load auto {model}")


def _ask_there(session: Session, slot: Target, words: list[str], text: str) -> Generator[str, None, Mapping[str, Any]]:
    with reach.Reach(session) as hosts:
        reply = hosts.call(slot.host, words, lambda _: Answer(), stdin=text.encode(), any_version=True)
    data = reply.value()
    yield f"{data['answer']}\n"
    return data


def _ask(
    slot: Target, messages: list[dict[str, Any]], max_tokens: int | None, temperature: float | None
) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl import client, keys

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
