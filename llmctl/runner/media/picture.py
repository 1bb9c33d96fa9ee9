"""What an encoded image is, by its first bytes and its header; its pixels are decoded in the engine process only.

Headers are walked here, in at most BLOCKS steps: a library does it without a bound, and 20 MiB of tiny Exif segments
cost Pillow minutes. What passes has few enough blocks and scans to be decoded in time.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as CutOff
from struct import unpack_from

from llmctl.errors import RequestError

BLOCKS = 10_000  # chunks, segments or sub-blocks
SCANS = 100  # of a JPEG: each may go over all of its pixels again
SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the JPEG markers that a frame's size stands behind


class Broken(Exception):
    """No such file, as far as its header tells."""


def check(at: str, data: bytes, pixels: int) -> None:
    """RequestError 400 unless `data` begins like an image of at most `pixels` in a format that is taken.

    Of a file with several frames only the first is ever used, so they are not counted.
    """
    read = next((read for start, read in _READERS.items() if data.startswith(start)), None)
    if read is None or (read is _webp and data[8:12] != b"WEBP"):
        raise _bad(at, "is not a PNG, JPEG, GIF or WebP image")
    try:
        found = read(data)
    except (Broken, CutOff, IndexError):
        raise _bad(at, "is a broken image") from None
    if not found:
        raise _bad(at, "has no pixels")
    if found > pixels:
        raise RequestError(f"{at}: has more than {pixels} pixels", param=at, code="image_too_large")


def _png(data: bytes) -> int:
    """PNG (third edition), section 5: the chunks. One that is cut off is for the decoder to tell."""
    at, pixels = 8, 0
    for _ in range(BLOCKS):
        if at >= len(data):
            return pixels
        size, name = unpack_from(">I4s", data, at)
        if (name == b"IHDR") != (at == 8):
            raise Broken
        if name == b"IEND":
            return pixels
        if name == b"IHDR":
            width, height = unpack_from(">II", data, at + 8)
            pixels = width * height
        at += 12 + size
    raise Broken


def _jpeg(data: bytes) -> int:
    """ITU-T T.81, annex B: the segments before the first scan, and how many scans there are."""
    at, pixels = 2, 0
    for _ in range(BLOCKS):
        filler, marker = data[at], data[at + 1]
        if filler != 0xFF:
            raise Broken
        if marker == 0xFF:
            at += 1
            continue
        (size,) = unpack_from(">H", data, at + 2)
        if marker == 0xDA:
            if data.count(b"\xff\xda", at) > SCANS:
                raise Broken
            return pixels
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            raise Broken
        if marker in SIZES:
            height, width = unpack_from(">HH", data, at + 5)
            pixels = max(pixels, width * height)
        at += 2 + size
    raise Broken


def _gif(data: bytes) -> int:
    """GIF89a: the blocks before the first image; that may reach beyond the screen, which grows then."""
    width, height, flags = unpack_from("<HHB", data, 6)
    at = 13 + (6 << (flags & 7) if flags & 0x80 else 0)
    owed: int | None = None  # sub-blocks that the present extension still needs; None outside of one
    for _ in range(BLOCKS):
        block = data[at]
        if owed is not None:
            if block == 0 and owed > 0:  # behind one that is empty Pillow reads on as if it were not
                raise Broken
            at, owed = at + 1 + block, owed - 1 if block else None
        elif block == 0x21:
            at, owed = at + 2, {0xFE: 0, 0xFF: 2}.get(data[at + 1], 1)
        elif block == 0x2C:
            left, top, across, down = unpack_from("<4H", data, at + 1)
            return int(max(width, left + across) * max(height, top + down))
        else:
            raise Broken
    raise Broken


def _webp(data: bytes) -> int:
    """RFC 9649: the size of the canvas (VP8X), or of the one frame there is."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (size & 0x3FFF for size in unpack_from("<HH", data, 26))
    else:
        raise Broken
    return width * height


_READERS: dict[bytes, Callable[[bytes], int]] = {
    b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8\xff": _jpeg, b"GIF87a": _gif, b"GIF89a": _gif, b"RIFF": _webp,
}  # fmt: skip


def _bad(at: str, what: str) -> RequestError:
    return RequestError(f"{at}: {what}", param=at, code="invalid_image")
