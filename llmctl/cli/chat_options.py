"""The options that `ask` and `chat` share, and what they say about whom is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmctl.errors import UsageError

System = Annotated[str | None, typer.Option("--system", "-s", help="The system message.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="An image that goes with the question, read here; repeatable."),
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The most tokens of an answer.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0: always the likeliest token.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1, help="Only the likeliest tokens that make up this share.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Only that many of the likeliest tokens; 0: all.")]
Seed = Annotated[int | None, typer.Option(help="The same seed and question, the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="The answer ends before this; repeatable.")]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Another server: http or https for OpenAI's protocol, ws or wss for llmws."),
]
Key = Annotated[str | None, typer.Option(metavar="KEY", help="The key for --url; better in LLMCTL_KEY.")]
ServedModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="A handle, asked over the gateway where one knows it; the model at --url."
    ),
]


@dataclass(frozen=True)
class Meant:
    """Who is to answer: a slot (`target`, None for the only one; `hosts` as in --host), a handle (`model`), or the
    server at `url`, by that of its models.

    `session` is a name that a server may know the conversation by, `hint` what to try when it is not there.
    """

    target: str | None = None
    hosts: Sequence[str] = ()
    url: str | None = None
    key: str | None = None
    model: str | None = None
    session: str | None = None
    hint: str | None = None

    def check(self) -> None:
        """UsageError for options that contradict each other."""
        if self.url is None and self.key is not None:
            raise UsageError("--key goes with --url", hint="a slot's own key is found by itself")
        if self.target is not None and self.model is not None:
            raise UsageError("--model and PORT (or MODEL) both say who is to answer", hint="leave one of them out")
        if self.url is not None and (self.target is not None or self.hosts):
            raise UsageError("--url says where: there is no PORT, no MODEL and no --host beside it")
