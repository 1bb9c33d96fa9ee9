"""`llmctl ask`: one question to a slot, the answer as it comes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli import chat_options as c
from llmctl.cli import options as o
from llmctl.cli.chat_options import Meant
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.clients.conversation import Conversation

app = typer.Typer()


@app.command()
def ask(
    ctx: typer.Context,
    target: o.PortOrModel = None,
    question: Annotated[str | None, typer.Argument(metavar="[QUESTION]", help="Left out or '-': from stdin.")] = None,
    system: c.System = None,
    image: c.Images = None,
    max_tokens: c.MaxTokens = None,
    temperature: c.Temperature = None,
    top_p: c.TopP = None,
    top_k: c.TopK = None,
    seed: c.Seed = None,
    stop: c.Stop = None,
    url: c.Url = None,
    key: c.Key = None,
    model: c.ServedModel = None,
    host: o.Hosts = None,
) -> Answer:
    """Ask a port, a model or handle by name, or another server. The answer comes as it is made, from any host."""
    from llmctl.clients.conversation import Conversation
    from llmctl.clients.settings import given

    if (url is not None or model is not None) and question is None:
        target, question = None, target
    elif target is None:
        raise UsageError("ask whom?", hint='llmctl ask 8101 "What is a slot?"')
    meant = Meant(target, host or (), url, key, model)
    meant.check()
    values = given(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed, stop=stop)
    conversation = Conversation(settings=values)
    conversation.system = system
    return Answer(stream=_ask(ctx.obj, meant, conversation, question or "-", image or ()))


def _ask(
    session: Session, meant: Meant, conversation: Conversation, question: str, images: Sequence[Path]
) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.cli import chat_partner
    from llmctl.cli.chat_turns import Chat, stdin_text
    from llmctl.cli.reach import Reach

    with Reach(session) as reach:
        partner = chat_partner.of(reach, meant)
        with closing(partner.client):
            text = stdin_text().strip() if question == "-" else question
            if not text:
                raise UsageError("there is no question", hint='llmctl ask 8101 "What is a slot?"')
            chat = Chat(partner, conversation)
            chat.attach(images)
            return (yield from chat.turn(text))
