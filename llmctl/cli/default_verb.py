"""A noun whose first verb may be left out: `llmctl health gpu1` is `llmctl health run gpu1`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

HELP = ("--help", "-h")


class DefaultVerb(TyperGroup):
    """Puts the first of its verbs before words that begin with none of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in HELP):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
