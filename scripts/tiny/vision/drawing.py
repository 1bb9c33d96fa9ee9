"""Pictures of one coloured shape on a plain ground, and what is in them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "black": (15, 15, 15),
    "pink": (250, 130, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
GROUNDS = ((255, 255, 255), (235, 235, 235))
SIDES = (48, 48, 48, 64)
FINE = 2
"""A picture is drawn this many times larger, and made small, so that its edges are smooth."""


@dataclass(frozen=True)
class Thing:
    """What a picture shows."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


def everything() -> list[Thing]:
    """Each colour in each shape."""
    return [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]


def draw(thing: Thing, chance: random.Random) -> Any:
    """A PIL image of the thing, of a size, at a place and on a ground that `chance` picks."""
    from PIL import Image, ImageDraw

    side = chance.choice(SIDES)
    radius = chance.uniform(0.33, 0.45) * side
    x, y = (side * chance.uniform(0.44, 0.56) for _ in "xy")
    picture = Image.new("RGB", (side * FINE, side * FINE), chance.choice(GROUNDS))
    brush = ImageDraw.Draw(picture)
    fill = tuple(max(0, min(255, part + chance.randint(-12, 12))) for part in COLOURS[thing.colour])
    for outline in outlines(thing.shape, x * FINE, y * FINE, radius * FINE):
        brush.polygon(outline, fill=fill)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def outlines(shape: str, x: float, y: float, radius: float) -> list[list[tuple[float, float]]]:
    """The polygons of a shape around (x, y), none further than `radius` from there."""
    if shape == "circle":
        return [[(x + radius * math.cos(a), y + radius * math.sin(a)) for a in _angles(64)]]
    if shape == "square":
        return [_box(x, y, 0.8 * radius, 0.8 * radius)]
    if shape == "triangle":
        return [[(x + radius * math.sin(a), y - radius * math.cos(a)) for a in _angles(3)]]
    return [_box(x, y, 0.95 * radius, 0.28 * radius), _box(x, y, 0.28 * radius, 0.95 * radius)]


def _angles(count: int) -> list[float]:
    return [2 * math.pi * i / count for i in range(count)]


def _box(x: float, y: float, wide: float, high: float) -> list[tuple[float, float]]:
    return [(x - wide, y - high), (x + wide, y - high), (x + wide, y + high), (x - wide, y + high)]
