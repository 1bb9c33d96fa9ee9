"""What the verbs of `llmctl.cli.fleet` show."""

from __future__ import annotations

from llmctl.render.text import View

VIEWS: dict[str, View] = {}
