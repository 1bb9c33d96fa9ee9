"""A picture to ask about, made of bytes: a coloured disc on white, as a PNG (ISO 15948) in a data URL."""

from __future__ import annotations

import base64
import struct
import zlib

SIDE, RADIUS = 64, 26
COLOURS = {"red": b"\xdc\x1e\x1e", "blue": b"\x28\x3c\xdc"}
WHITE = b"\xff\xff\xff"


def disc(colour: str) -> str:
    """The data URL of a disc of one of COLOURS."""
    rows = [b"\0" + b"".join(_pixel(x, y, colour) for x in range(SIDE)) for y in range(SIDE)]
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(b"".join(rows))), _chunk(b"IEND", b""))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def _pixel(x: int, y: int, colour: str) -> bytes:
    middle = (SIDE - 1) / 2
    return COLOURS[colour] if (x - middle) ** 2 + (y - middle) ** 2 <= RADIUS**2 else WHITE


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
