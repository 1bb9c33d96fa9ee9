"""`llmctl host`: what a host does when another host's llmctl asks it; not for people, so not in the help."""

from __future__ import annotations

import typer

app = typer.Typer(help="Asked by llmctl on other hosts.", hidden=True)
