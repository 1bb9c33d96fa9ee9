"""`llmctl chat`: a conversation with a model, at a terminal, line by line from a program, or one turn of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import envelope
from llmctl.cli import chat_options as c
from llmctl.cli import options as o
from llmctl.cli.chat_options import Meant
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError

if TYPE_CHECKING:
    from llmctl.cli.chat_turns import Chat
    from llmctl.cli.reach import Reach
    from llmctl.clients.conversation import Conversation

app = typer.Typer()

SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


@app.command()
def chat(
    ctx: typer.Context,
    target: o.PortOrModel = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="One turn, and the end; '-': all of stdin.")
    ] = None,
    system: c.System = None,
    image: c.Images = None,
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep the conversation under this name, and go on with it.")
    ] = None,
    max_tokens: c.MaxTokens = None,
    temperature: c.Temperature = None,
    top_p: c.TopP = None,
    top_k: c.TopK = None,
    seed: c.Seed = None,
    stop: c.Stop = None,
    url: c.Url = None,
    key: c.Key = None,
    model: c.ServedModel = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="A host of hosts.toml; any other address: the llmws server there."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port; of an llmws server 8765.")] = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Keep no file of the lines that are typed.")] = False,
) -> Answer | int:
    """Talk with a model. At a terminal /help tells what can be typed; from a pipe each line is a turn."""
    from llmctl.cli import chat_partner
    from llmctl.clients.settings import given

    ours: Session = ctx.obj
    values = given(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed, stop=stop)
    if port is not None and (target is not None or url is not None):
        raise UsageError("--port beside another name of what is meant", hint="leave it out")
    hint = None
    if target is None and url is None:
        url = chat_partner.llmws_url(ours, host, port)
        if url:
            what = f"{host!r} is no host of hosts.toml" if host else f"{port} is no slot of this machine"
            hint, host = f"{what}, so an llmws server was looked for there; slots: llmctl status", None
        elif port:
            target = str(port)
    meant = Meant(target, [host] if host else (), url, key, model, session, hint)
    meant.check()
    kept = ours.home / "chats" / f"{_name(session)}.json" if session is not None else None
    begun = _Begun(ours, meant, _conversation(kept, system, values), kept, image or ())
    if prompt is not None:
        return Answer(stream=_once(begun, prompt))
    if ours.json or not sys.stdin.isatty():
        return _lines(begun)
    _typed(begun, not no_history)
    return 0


def _name(session: str) -> str:
    """The name of a session, as a name of a file and as llmws takes it."""
    if not SESSION.fullmatch(session):
        raise UsageError(f"{session[:140]!r} is not a session's name", hint="letters, digits and . _ : - are taken")
    return session


@dataclass(frozen=True)
class _Begun:
    """A chat before anybody was reached; `kept` is its file."""

    session: Session
    meant: Meant
    conversation: Conversation
    kept: Path | None
    images: Sequence[Path]

    @contextmanager
    def opened(self) -> Iterator[tuple[Chat, Reach]]:
        from llmctl.cli import chat_partner
        from llmctl.cli.chat_turns import Chat
        from llmctl.cli.reach import Reach

        with Reach(self.session) as reach:
            partner = chat_partner.of(reach, self.meant)
            with closing(partner.client):
                chat = Chat(partner, self.conversation, self.kept)
                chat.attach(self.images)
                yield chat, reach


def _conversation(kept: Path | None, system: str | None, values: Mapping[str, Any]) -> Conversation:
    """A new one, or the one of a session; the options of the command line win."""
    from llmctl.clients import conversation

    found = conversation.load(kept) if kept and kept.exists() else conversation.Conversation()
    found.settings.update(values)
    if system is not None:
        found.system = system
    return found


def _once(begun: _Begun, prompt: str) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.cli.chat_turns import stdin_text

    with begun.opened() as (chat, _):
        text = stdin_text().strip() if prompt == "-" else prompt
        if not text:
            raise UsageError("there is no question", hint='-p "What is a slot?"')
        return (yield from chat.turn(text))


def _lines(begun: _Begun) -> int:
    """A turn for each line of stdin, which are never commands; with --json an envelope for each."""
    from llmctl import render
    from llmctl.cli.chat_turns import text_of

    codes = []
    with begun.opened() as (chat, _):
        for line in sys.stdin.buffer:
            if not line.strip():
                continue
            try:
                answer = Answer(stream=chat.turn(text_of(line).strip()))
                if begun.session.json:
                    answer = envelope.drained(answer)
                else:
                    _print(answer)
            except LlmctlError as error:
                answer = envelope.failure(error)
            codes.append(answer.exit_code)
            if begun.session.json:
                print(envelope.to_json("chat", answer), flush=True)
            else:
                for met in answer.errors:
                    render.show_error(met)
    return exit_code(codes)


def _print(answer: Answer) -> None:
    for piece in answer.stream or ():
        print(piece, end="", flush=True)


def exit_code(codes: Sequence[int]) -> int:
    """That of all turns, or 3."""
    return codes[0] if len(set(codes)) == 1 else 3 if codes else 0


def _typed(begun: _Begun, history: bool) -> None:
    from llmctl.cli import chat_input, chat_repl
    from llmctl.cli.chat_commands import Commands

    with begun.opened() as (chat, reach):
        model = begun.meant.model or next(iter(chat.partner.client.models()), None)
        editor = chat_input.Editor(begun.session.home / chat_input.HISTORY if history else None)
        chat_repl.run(chat, Commands(chat, reach), editor, model)
