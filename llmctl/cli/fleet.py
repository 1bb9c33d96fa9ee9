"""`llmctl plan` and `apply`: what all profiles say, on all hosts."""

from __future__ import annotations

import typer

app = typer.Typer()
