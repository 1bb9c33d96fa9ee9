"""`llmctl hosts`: the machines, what they are, and which keys of theirs are trusted."""

from __future__ import annotations

import typer

app = typer.Typer(help="The machines of the fleet.")
