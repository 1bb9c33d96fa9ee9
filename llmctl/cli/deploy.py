"""`llmctl deploy` and `rollback`: llmctl and its slots onto other hosts, and back."""

from __future__ import annotations

import typer

app = typer.Typer()
