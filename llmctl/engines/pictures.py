"""Pixels of encoded images, in the engine process: every kind of file becomes one upright RGB image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from llmctl.domain import IMAGE, Media
from llmctl.errors import RequestError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MOST_PIXELS = 100_000_000
"""Of one image. A slot server lets fewer through (MediaPolicy.pixels); this bounds what any other caller may cost."""
GROUND = (255, 255, 255)
"""What lies behind a picture that is transparent."""


def decoded(media: Sequence[Media]) -> list[Any]:
    """PIL images of mode RGB, in order; RequestError 400 counts the images from 1 and names the one that is broken."""
    return [picture(one.data, place) for place, one in enumerate((m for m in media if m.kind == IMAGE), start=1)]


def picture(data: bytes, place: int = 1) -> Any:
    """The first frame of an encoded image, turned as its camera was held, on white where it is transparent."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise RequestError(
                    f"image {place} has {image.width} × {image.height} pixels; {MOST_PIXELS} are taken",
                    param="messages", code="image_too_large",
                )  # fmt: skip
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except RequestError:
        raise
    except Exception as error:  # a broken file makes Pillow's decoders raise whatever they run into
        raise RequestError(
            f"image {place} cannot be decoded: it is broken or cut off", param="messages", code="invalid_image"
        ) from error


def _rgb(image: Any) -> Any:
    """Eight bits of red, green and blue. Pillow cuts 16-bit grey off at 255 instead of scaling it."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = image.point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        ground = Image.new("RGBA", upper.size, (*GROUND, 255))
        return Image.alpha_composite(ground, upper).convert("RGB")
    return image.convert("RGB")
