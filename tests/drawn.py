"""Pictures for tests of models: what tests draw is in none of the pictures that the tiny vision model learnt from."""

from __future__ import annotations

import io
import math
from typing import Any

COLOURS = {
    "red": (215, 35, 30),
    "green": (35, 155, 55),
    "blue": (45, 65, 215),
    "yellow": (238, 218, 45),
    "black": (20, 20, 20),
    "pink": (248, 135, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIDE = 48
"""Of a picture that no engine scales: transformers, mlx-vlm and llama.cpp then see the same."""


def drawn(what: str, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of `what`, "red circle" for one; `options` are those of Pillow's `save`."""
    file = io.BytesIO()
    image(what).save(file, kind, **options)
    return file.getvalue()


def image(what: str, side: int = SIDE) -> Any:
    """The same as a PIL image."""
    from PIL import Image, ImageDraw

    colour, shape = what.split()
    picture = Image.new("RGB", (side, side), (250, 250, 250))
    brush, fill = ImageDraw.Draw(picture), COLOURS[colour]
    x, y, r = 0.52 * side, 0.47 * side, 0.37 * side
    if shape == "circle":
        brush.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        brush.rectangle((x - 0.8 * r, y - 0.8 * r, x + 0.8 * r, y + 0.8 * r), fill=fill)
    elif shape == "triangle":
        brush.polygon([(x + r * math.sin(a), y - r * math.cos(a)) for a in (0, 2.094, 4.189)], fill=fill)
    else:
        brush.rectangle((x - 0.95 * r, y - 0.28 * r, x + 0.95 * r, y + 0.28 * r), fill=fill)
        brush.rectangle((x - 0.28 * r, y - 0.95 * r, x + 0.28 * r, y + 0.95 * r), fill=fill)
    return picture
