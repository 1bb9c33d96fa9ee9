"""`llmctl smoke` and `debug-inference`: proof that a slot, or a model on a host, works."""

from __future__ import annotations

import typer

app = typer.Typer()
