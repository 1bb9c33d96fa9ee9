"""Which protocol × feature × engine the suite proves; the README's table is made of this.

A cell that stands here is a test (`test_conformance`); one that does not was never run, or the protocol has no word
for it.
"""

from __future__ import annotations

SEEING = ("torch", "llamacpp", "mlx")
ALL = (*SEEING, "openvino")
GATEWAY, BEHIND = "gateway", "llamacpp"
"""Every cell of this engine is tried through the gateway too."""
HEADS = {
    "text": "text", "stream": "stream", "stop": "stop", "cancel": "cancel", "errors": "errors", "tools": "tools",
    "schema": "schema", "images": "images", "count": "token count",
}  # fmt: skip
BASIC = dict.fromkeys(("text", "stream", "stop", "cancel", "errors"), ALL)
CELLS: dict[str, dict[str, tuple[str, ...]]] = {
    "openai": {**BASIC, "tools": ALL, "schema": ALL, "images": SEEING, "count": ALL},
    "completions": {**BASIC, "schema": ALL, "count": ALL},
    "responses": {**BASIC, "tools": ALL, "schema": ALL, "images": SEEING, "count": ALL},
    "anthropic": {**BASIC, "tools": ALL, "schema": ALL, "images": SEEING, "count": ALL},
    "ollama": {**BASIC, "tools": ALL, "schema": ALL, "images": SEEING, "count": ALL},
    "llmws": {**BASIC, "images": SEEING, "count": ALL},
    "execute": {**BASIC, "count": ALL},
    "websocket": {**BASIC, "tools": ALL, "schema": ALL, "images": SEEING, "count": ALL},
}
TITLES = {
    "openai": "OpenAI chat", "completions": "OpenAI completions", "responses": "OpenAI responses",
    "anthropic": "Anthropic messages", "ollama": "Ollama chat", "llmws": "llmws", "execute": "rbee execute",
    "websocket": "OpenAI chat over a WebSocket",
}  # fmt: skip


def of(feature: str) -> list[tuple[str, str]]:
    """(protocol, engine) of every cell of a feature; GATEWAY as the engine: a slot behind it."""
    cells = [(name, engine) for name, row in CELLS.items() for engine in row.get(feature, ())]
    return [*cells, *((name, GATEWAY) for name, engine in cells if engine == BEHIND)]


def table() -> str:
    """The cells as Markdown."""
    heads = list(HEADS)
    lines = ["| protocol | " + " | ".join(HEADS[h] for h in heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in CELLS.items():
        shown = ["all" if row.get(h) == ALL else ", ".join(row.get(h, ())) or "–" for h in heads]
        lines.append(f"| {TITLES[name]} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
