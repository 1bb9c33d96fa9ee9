"""What the verbs of `llmctl.cli.deploy` show."""

from __future__ import annotations

from llmctl.render.text import View

VIEWS: dict[str, View] = {}
