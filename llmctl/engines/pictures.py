"""Pixels of encoded images, in the engine process: every kind of file becomes one upright RGB image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from llmctl.domain import IMAGE, Media
from llmctl.errors import RequestError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MOST_PIXELS, ALL_PIXELS = 80_000_000, 160_000_000
"""Of one image, and of a request's together. A slot server lets fewer through (MediaPolicy.pixels, a setting); these
are what an engine bears, whoever asks: a pixel takes 4 bytes."""
GROUND = (255, 255, 255)
"""What lies behind a picture that is transparent."""
WHITE_16, WHITE = 65535, 255


def decoded(media: Sequence[Media]) -> list[Any]:
    """PIL images of mode RGB, in order; RequestError 400 counts the images from 1 and names the one that is broken."""
    images, pixels = list[Any](), 0
    for one in media:
        if one.kind == IMAGE:
            images.append(picture(one.data, len(images) + 1))
            pixels += images[-1].width * images[-1].height
            if pixels > ALL_PIXELS:
                raise _too_large(f"the images up to image {len(images)} have {pixels} pixels together", ALL_PIXELS)
    return images


def picture(data: bytes, place: int = 1) -> Any:
    """The first frame of an encoded image, turned as its camera was held, on white where it is transparent."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large(f"image {place} has {image.width} × {image.height} pixels", MOST_PIXELS)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except RequestError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, twice Image.MAX_IMAGE_PIXELS
        raise _too_large(f"image {place} is a decompression bomb", MOST_PIXELS) from error
    except Exception as error:  # a broken file makes Pillow's decoders raise whatever they run into
        raise RequestError(
            f"image {place} cannot be decoded: it is broken or cut off", param="messages", code="invalid_image"
        ) from error


def _rgb(image: Any) -> Any:
    """Eight bits of red, green and blue."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255 instead of scaling them
        image = image.convert("I").point(lambda value: value * (WHITE / WHITE_16)).convert("L")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, (*GROUND, 255)), upper).convert("RGB")
    return image.convert("RGB")


def _too_large(what: str, most: int) -> RequestError:
    return RequestError(f"{what}; at most {most} are taken", param="messages", code="image_too_large")
