"""Image files for tests: good ones drawn with Pillow, bad ones written byte by byte."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

from PIL import Image


def drawn(format: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> bytes:
    """A plain image."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of one bit a pixel that says it is so large; `data` are its compressed pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def blank_png(width: int, height: int) -> bytes:
    """A whole PNG that is small as a file."""
    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    return png_of(width, height, b"".join(packer.compress(row) for _ in range(height)) + packer.flush())


def gif_of(frames: int, width: int = 1000, height: int = 1000) -> bytes:
    """A GIF with many frames, each of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def webp_of(width: int, height: int) -> bytes:
    """An animated WebP of one small frame on a canvas of any size."""
    small = drawn("WEBP", (2, 2), lossless=True)[12:]
    canvas = b"".join((n - 1).to_bytes(3, "little") for n in (width, height))
    frame = bytes(6) + b"".join((1).to_bytes(3, "little") for _ in range(2)) + bytes(4) + small
    parts = [(b"VP8X", b"\x02\0\0\0" + canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(data)) + data for name, data in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, type: str = "image/png") -> str:
    return f"data:{type};base64,{base64_of(data)}"
