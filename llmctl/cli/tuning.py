"""The options of what an engine is given beside its model, for every command that has them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from llmctl import tables
from llmctl.config import CACHE_BITS, Tuning, named_adapters
from llmctl.envelope import Answer
from llmctl.errors import UsageError

Verb = Callable[..., Answer]

_OPTIONS: dict[str, Any] = {
    "draft": Annotated[
        str | None, typer.Option(metavar="MODEL", help="A smaller model that proposes tokens, or ngram: the text does.")
    ],
    "adapters": Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME[=PATH]", help="A LoRA adapter; repeatable."),
    ],
    "cache_bits": Annotated[int | None, typer.Option(metavar="8|4", help="Quantize keys and values.")],
    "cache_bytes": Annotated[str | None, typer.Option(metavar="SIZE", help="Most memory of keys and values: 2GB.")],
    "spread": Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Compute it on these hosts together; repeatable.")
    ],
}  # fmt: skip


def tuned(verb: Verb) -> Verb:
    """Give a command these options; `verb` gets them as `tuning`."""
    own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "tuning"]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=None, annotation=made) for name, made in _OPTIONS.items()]
    parameters = [*(p.replace(kind=kind) if p.name != "ctx" else p for p in own), *options]

    @functools.wraps(verb)
    def command(ctx: typer.Context, **given: Any) -> Answer:
        return verb(ctx, tuning=_tuning(**{name: given.pop(name, None) for name in _OPTIONS}), **given)

    command.__signature__ = inspect.Signature(parameters, return_annotation=Answer)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _tuning(
    draft: str | None, adapters: list[str] | None, cache_bits: int | None, cache_bytes: str | int | None,
    spread: list[str] | None,
) -> Tuning:  # fmt: skip
    if cache_bits not in (None, *CACHE_BITS):
        raise UsageError(f"--cache-bits {cache_bits}: it is 8 or 4")
    size = tables.size(str(cache_bytes)) if cache_bytes is not None else None
    named_adapters(adapters or ())
    return Tuning(
        draft=draft, adapters=tuple(adapters or ()), cache_bits=cache_bits, cache_bytes=size, spread=tuple(spread or ())
    )
