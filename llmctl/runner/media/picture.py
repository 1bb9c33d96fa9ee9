"""What an encoded image is, by its first bytes and its header; its pixels are decoded in the engine process only."""

from __future__ import annotations

import importlib
import io
import math

from llmctl.errors import RequestError

# How a file begins, and which class of Pillow reads such a header. No other format is ever looked at.
_PARSERS = {
    b"\x89PNG\r\n\x1a\n": ("PngImagePlugin", "PngImageFile"),
    b"\xff\xd8\xff": ("JpegImagePlugin", "JpegImageFile"),
    b"GIF87a": ("GifImagePlugin", "GifImageFile"),
    b"GIF89a": ("GifImagePlugin", "GifImageFile"),
    b"RIFF": ("WebPImagePlugin", "WebPImageFile"),
}


def check(at: str, data: bytes, pixels: int) -> None:
    """RequestError 400 unless `data` begins like an image of at most `pixels` in a format that is taken.

    Of a file with several frames only the first is ever used, so they are not counted.
    """
    if _pixels(at, data) > pixels:
        raise RequestError(f"{at}: has more than {pixels} pixels", param=at, code="image_too_large")


def _pixels(at: str, data: bytes) -> float:
    parser = next((parser for start, parser in _PARSERS.items() if data.startswith(start)), None)
    if parser is None or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        raise _bad(at, "is not a PNG, JPEG, GIF or WebP image")
    from PIL.Image import DecompressionBombError

    module, name = parser
    try:
        with getattr(importlib.import_module(f"PIL.{module}"), name)(io.BytesIO(data)) as image:
            return int(image.width * image.height)
    except DecompressionBombError:  # more than Pillow's own limit
        return math.inf
    except Exception:  # a broken file makes Pillow's parsers raise whatever they run into
        raise _bad(at, "is a broken image") from None


def _bad(at: str, what: str) -> RequestError:
    return RequestError(f"{at}: {what}", param=at, code="invalid_image")
