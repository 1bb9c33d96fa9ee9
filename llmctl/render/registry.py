"""What `llmctl registry` shows."""

from __future__ import annotations

from llmctl.render.text import View

VIEWS: dict[str, View] = {}
