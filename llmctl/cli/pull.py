"""`llmctl pull`: bring a model to this host."""

from __future__ import annotations

import typer

app = typer.Typer()
