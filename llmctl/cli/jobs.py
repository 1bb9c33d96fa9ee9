"""`llmctl jobs`: the long work of a host."""

from __future__ import annotations

import typer

app = typer.Typer(help="Long work that outlives its caller.")
