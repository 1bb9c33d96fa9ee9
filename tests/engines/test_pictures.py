"""Pixels of encoded images: any kind of file becomes one upright RGB image, or an error that names it."""

import io
import struct
import subprocess
import sys
import zlib

import pytest

from llmctl.domain import AUDIO, IMAGE, Media
from llmctl.engines import pictures
from llmctl.errors import RequestError

Image = pytest.importorskip("PIL.Image")
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode, colour, size=(4, 4)):
    return Image.new(mode, size, colour)


def grey_16(value):
    """A PNG of 2 × 2 pixels with 16 bits of grey each."""
    head = struct.pack(">IIBBBBB", 2, 2, 16, 0, 0, 0, 0)
    rows = (b"\0" + struct.pack(">H", value) * 2) * 2

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def palette(transparent):
    image = flat("P", 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(image, transparency=0) if transparent else encoded(image)


def sideways():
    """Red above white for its camera, which was held so that the file has red at the left."""
    image = flat("RGB", WHITE, (8, 4))
    image.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise
    return encoded(image, "PNG", exif=exif)


def film():
    return encoded(flat("RGB", RED), "GIF", save_all=True, append_images=[flat("RGB", WHITE)] * 3)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encoded(flat("RGB", RED)), RED, id="rgb"),
        pytest.param(encoded(flat("RGB", RED), "WEBP", lossless=True), RED, id="webp"),
        pytest.param(encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), RED, id="cmyk"),
        pytest.param(encoded(flat("L", 100)), (100, 100, 100), id="grey"),
        pytest.param(encoded(flat("1", 1)), WHITE, id="one bit"),
        pytest.param(encoded(flat("LA", (0, 0))), WHITE, id="transparent grey"),
        pytest.param(encoded(flat("RGBA", (255, 0, 0, 0))), WHITE, id="transparent"),
        pytest.param(encoded(flat("RGBA", (255, 0, 0, 255))), RED, id="opaque"),
        pytest.param(palette(False), RED, id="palette"),
        pytest.param(palette(True), WHITE, id="transparent palette"),
        pytest.param(grey_16(0x8000), (128, 128, 128), id="16 bits"),
        pytest.param(grey_16(0xFFFF), WHITE, id="16 bits, white"),
        pytest.param(film(), RED, id="the first of several frames"),
    ],
)
def test_every_kind_of_file_becomes_rgb(data, colour):
    image = pictures.picture(data)
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == pytest.approx(colour, abs=2)


def test_a_picture_is_turned_as_its_camera_was_held():
    image = pictures.picture(sideways())
    assert image.size == (4, 8)
    assert image.getpixel((1, 1)) == RED and image.getpixel((1, 6)) == WHITE


def test_images_stay_in_order_and_other_media_are_left_out():
    media = [
        Media(IMAGE, encoded(flat("RGB", RED))), Media(AUDIO, b"a sound"), Media(IMAGE, encoded(flat("RGB", WHITE))),
    ]  # fmt: skip
    assert [image.getpixel((0, 0)) for image in pictures.decoded(media)] == [RED, WHITE]


def noise(kind):
    return encoded(Image.effect_noise((64, 64), 80).convert("RGB"), kind)


@pytest.mark.parametrize("data", [noise("JPEG")[:-400], noise("PNG")[:-3000], noise("GIF")[:200], b"", b"BM not taken"])
def test_a41_a_broken_or_truncated_image_is_named(data):
    good = Media(IMAGE, encoded(flat("RGB", RED)))
    with pytest.raises(RequestError, match="image 2 cannot be decoded") as raised:
        pictures.decoded([good, Media(IMAGE, data), good])
    assert (raised.value.status, raised.value.code) == (400, "invalid_image")


def test_formats_that_nobody_checked_are_not_opened():
    with pytest.raises(RequestError, match="image 1 cannot be decoded"):
        pictures.picture(encoded(flat("RGB", RED), "BMP"))


def test_a39_pixels_are_counted_before_any_is_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 15)
    with pytest.raises(RequestError, match=r"4 × 4 pixels") as raised:
        pictures.picture(encoded(flat("RGB", RED)))
    assert (raised.value.status, raised.value.code) == (400, "image_too_large")


def test_the_images_of_a_request_have_a_limit_together(monkeypatch):
    monkeypatch.setattr(pictures, "ALL_PIXELS", 40)
    one = Media(IMAGE, encoded(flat("RGB", RED)))
    assert len(pictures.decoded([one, one])) == 2
    with pytest.raises(RequestError, match="48 pixels together") as raised:
        pictures.decoded([one, one, one])
    assert raised.value.code == "image_too_large"


def test_a_bomb_costs_no_memory():
    """50,000 × 50,000 pixels of one colour: 300 KB as a file, 7.5 GB as pixels."""
    row = zlib.compressobj(9)
    body = b"".join(row.compress(bytes(6251)) for _ in range(50_000)) + row.flush()
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )
    program = (
        "import resource, sys\n"
        "from llmctl.engines import pictures\n"
        "from llmctl.errors import RequestError\n"
        "import PIL.Image, PIL.ImageOps\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    pictures.picture(data)\n"
        "except RequestError as error:\n"
        "    print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, stdout=subprocess.PIPE, check=True)
    code, grown = done.stdout.split()
    assert code == b"image_too_large" and int(grown) < 64 * 1024
