"""`llmctl registry`: registry.json of the tool that llmctl replaces."""

from __future__ import annotations

import typer

app = typer.Typer(help="Read and write registry.json.")
