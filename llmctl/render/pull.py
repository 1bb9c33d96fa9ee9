"""What `llmctl pull` and `llmctl convert` shows."""

from __future__ import annotations

from llmctl.render.text import View

VIEWS: dict[str, View] = {}
