"""What a textual program shows, as lines of text: read from the picture that it can make of itself."""

from __future__ import annotations

import html
import re

from textual.app import App

_TEXT = re.compile(r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')
_WIDTH, _HEIGHT, _FIRST = 12.2, 24.4, 20.0
"""A character in the pictures that rich makes, and where the first line lies."""


def text(app: App[None]) -> str:
    """The screen, a line per row, without blanks at its ends."""
    lines: list[list[str]] = [[] for _ in range(app.size.height)]
    for x, y, shown in _TEXT.findall(app.export_screenshot()):
        line, column = lines[round((float(y) - _FIRST) / _HEIGHT)], round(float(x) / _WIDTH)
        characters = html.unescape(shown).replace("\xa0", " ").rstrip("\n")
        line += " " * (column - len(line))
        line[column : column + len(characters)] = characters
    return "\n".join("".join(line).rstrip() for line in lines) + "\n"
