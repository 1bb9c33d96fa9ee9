"""`llmctl convert`: make another format or a quantization of a model."""

from __future__ import annotations

import typer

app = typer.Typer()
