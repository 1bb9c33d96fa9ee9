"""Images in a request: every shape they come in, and what is refused before it is decoded."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import IMAGE, Media, MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media import gather, picture, source
from llmctl.runner.media.room import Room
from llmctl.runner.media.source import BASE64, PATH, URL, Source
from tests.runner.pictures import base64_of, blank_png, data_url, drawn, gif_of, png_of, webp_of

PNG = drawn()
TEXT = base64_of(PNG)
POLICY = MediaPolicy()
DEADLINE = 30.0


def media(*sources: Source, policy: MediaPolicy = POLICY) -> tuple[Media, ...]:
    """What a request with these sources would hand to the engine."""

    async def run() -> tuple[Media, ...]:
        async with gather.gathered(sources, policy) as found:
            return found

    return asyncio.run(asyncio.wait_for(run(), DEADLINE))


def of(data: bytes, at: str = "image") -> Source:
    return source.of_base64(at, base64_of(data))


def refused(work: Callable[[], object], code: str = "invalid_image", at: str = "image") -> RequestError:
    """The 400 that `work` ends with; it names the field, and is short whatever was sent."""
    with pytest.raises(RequestError) as caught:
        work()
    error = caught.value
    assert (error.status, error.param, error.code) == (400, at, code), error.to_dict()
    assert error.message.startswith(at) and len(error.message) < 250
    return error


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("read", "value", "how", "rest"),
    [
        (source.of_url, data_url(PNG), BASE64, TEXT),
        (source.of_url, "DATA:Image/PNG;name=a.png;BASE64," + TEXT, BASE64, TEXT),
        (source.of_url, "HTTPS://a.example/b.png", URL, "HTTPS://a.example/b.png"),
        (source.of_base64, TEXT, BASE64, TEXT),
        (source.of_path, "a/b.png", PATH, "a/b.png"),
        (source.of_llmws, TEXT, BASE64, TEXT),
        (source.of_llmws, data_url(PNG), BASE64, TEXT),
        (source.of_llmws, {"data_url": data_url(PNG)}, BASE64, TEXT),
        (source.of_llmws, {"base64": TEXT}, BASE64, TEXT),
        (source.of_llmws, {"data": TEXT, "media_type": "image/jpg"}, BASE64, TEXT),
        (source.of_llmws, {"source": {"type": "base64", "media_type": "image/webp", "data": TEXT}}, BASE64, TEXT),
        (source.of_llmws, {"source": data_url(PNG)}, BASE64, TEXT),
        (source.of_llmws, {"source": {"path": "b.png"}}, PATH, "b.png"),
        (source.of_llmws, {"url": "http://a.example/b"}, URL, "http://a.example/b"),
        (source.of_llmws, {"url": data_url(PNG)}, BASE64, TEXT),
    ],
)
def test_every_shape_is_read(read: Callable[[str, object], Source], value: object, how: str, rest: str) -> None:
    found = read("image", value)
    assert (found.kind, found.how, found.value) == (IMAGE, how, rest)
    assert found.at.startswith("image")


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (None, "image"), (3, "image"), ([], "image"), ({}, "image"), ("", "image"), ({"source": None}, "image.source"),
        ({"source": {"source": TEXT}}, "image.source"), ({"path": 3}, "image.path"), ({"path": ""}, "image.path"),
        ({"data": TEXT, "path": "secret.png"}, "image"), ({"data": {}}, "image.data"),
        ({"data": TEXT, "media_type": "image/svg+xml"}, "image.data"),
        ({"data": TEXT, "media_type": 3}, "image.data"), ({"url": TEXT}, "image.url"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(value: object, at: str) -> None:
    assert "secret" not in refused(lambda: source.of_llmws("image", value), at=at).message


@pytest.mark.parametrize(
    "url",
    [
        "data:", "data:,", "data:image/png", f"data:image/png,{TEXT}", f"data:image/png;base64:{TEXT}",
        f"data:image/svg+xml;base64,{TEXT}", f"data:text/html;base64,{TEXT}", f"data:;base64,{TEXT}",
        "data:image/png" + ";" * 5000 + f"base64,{TEXT}", "data:" + TEXT, "file:///etc/passwd", "/etc/passwd",
        "ftp://a/b.png", "gopher://a", "javascript:1", " http://a/b.png", "http//a", "", "http://a/" + "b" * 3000,
    ],
)  # fmt: skip
def test_a44_bad_data_urls_and_other_urls(url: str) -> None:
    refused(lambda: source.of_url("image", url))


def test_a44_a_data_url_without_data() -> None:
    refused(lambda: media(source.of_url("image", "data:image/png;base64,")))


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_come_in_their_order() -> None:
    files = [drawn("PNG"), drawn("JPEG"), drawn("GIF"), drawn("WEBP")]
    assert [one.data for one in media(*map(of, files))] == files
    assert {one.kind for one in media(*map(of, files))} == {IMAGE}


@pytest.mark.parametrize(
    "text",
    [
        TEXT[:-1], TEXT + "=", TEXT + "====", TEXT + "AAA", TEXT[:8] + "\n" + TEXT[8:], " " * 4 + TEXT,
        TEXT[:8] + "-_\r\n" + TEXT[8:], "=",
        TEXT[:40] + "-_" + TEXT[42:], TEXT[:40] + "=" + TEXT[41:], "\u0661" * 8, "\x00" * 8, "%2B" + TEXT, "\ud800",
    ],
)  # fmt: skip
def test_a37_base64_is_taken_strictly(text: str) -> None:
    assert text not in refused(lambda: media(source.of_base64("image", text))).message


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', b"<svg/>", b"SIMPLE  =                    T",
        b"%PDF-1.7\n", drawn("BMP"), drawn("TIFF"), drawn("ICO"), drawn("PPM"), b"RIFF\x10\0\0\0WAVEfmt ", b"RIFF",
        b"\x89PNG", b"GIF88a", b"\x00", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"PK\x03\x04", b"\xff\xd8", b"\n" + PNG,
    ],
)  # fmt: skip
def test_a38_what_begins_like_no_image_is_refused_whatever_it_is_called(data: bytes) -> None:
    refused(lambda: media(source.of_url("image", data_url(data))))


def test_what_an_image_is_its_content_says() -> None:
    assert media(source.of_url("image", data_url(drawn("JPEG"), "image/png")))[0].data == drawn("JPEG")


MEASURE = """
import asyncio, json, pathlib, re, sys
from llmctl.domain import MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media import gather, picture, source
from tests.runner.pictures import base64_of, drawn

def now(name):
    return int(re.search(name + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

async def take(text):
    try:
        async with gather.gathered([source.of_base64("image", text)], MediaPolicy()):
            return "taken"
    except RequestError as error:
        return error.code

for kind in ("PNG",):
    asyncio.run(take(base64_of(drawn(kind))))
text = base64_of(pathlib.Path(sys.argv[1]).read_bytes())
before = now("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
code = asyncio.run(take(text))
print(json.dumps([code, now("VmHWM") - before]))
"""


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("png", lambda: blank_png(50_000, 50_000), "image_too_large"),
        ("gif", lambda: gif_of(10_000), "taken"),  # only its first frame is ever decoded
        ("gif", lambda: gif_of(10_000, 50_000, 50_000), "image_too_large"),
        ("webp", lambda: webp_of(13_000, 13_000), "image_too_large"),
    ],
)
def test_a39_huge_images_cost_no_memory(tmp_path: Path, name: str, make: Callable[[], bytes], code: str) -> None:
    path = tmp_path / f"huge.{name}"
    path.write_bytes(make())
    argv = [sys.executable, "-c", MEASURE, str(path)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found, kilobytes = json.loads(ran.stdout)
    assert found == code
    assert kilobytes <= 64 * 1024


@pytest.mark.parametrize(
    "data",
    [
        drawn(size=(1, 1)), drawn("JPEG", (1, 1)), drawn("JPEG", mode="CMYK"), drawn(mode="I;16"), drawn(mode="LA"),
        drawn(mode="P"), drawn(mode="1"), drawn("GIF", mode="P"), drawn("WEBP", mode="RGBA"),
    ],
)  # fmt: skip
def test_a40_small_cmyk_16_bit_and_other_modes_are_taken(data: bytes) -> None:
    assert media(of(data))[0].data == data


@pytest.mark.parametrize(
    "data",
    [png_of(0, 7), png_of(7, 0), png_of(0, 0), png_of(2**31, 1), png_of(2**32 - 1, 2**32 - 1), gif_of(1, 0, 0)[:13]],
)
def test_a40_an_image_without_pixels_or_of_an_impossible_size_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        media(of(data))
    assert caught.value.status == 400


def crowded() -> list[bytes]:
    """Files of a few megabytes that are all header: Pillow takes minutes for some of them."""
    png, jpeg, gif = drawn(), drawn("JPEG"), gif_of(1)
    return [
        png[:33] + (bytes(4) + b"teXt" + bytes(4)) * 500_000 + png[33:],
        jpeg[:2] + b"\xff\xe1\x00\x0aExif\x00\x00xx" * 500_000 + jpeg[2:],
        jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:],
        jpeg + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xff\x00" * 400_000,
        gif[:19] + b"\x21\xfe\x01A\x00" * 1_000_000 + gif[19:],
        gif[:19] + b"\x21\xfe" + b"\x01A" * 2_000_000 + b"\x00" + gif[19:],
    ]


@pytest.mark.parametrize("file", range(6))
def test_a39_a_header_without_end_costs_no_time(file: int) -> None:
    before = time.thread_time()
    refused(lambda: picture.check("image", crowded()[file], 10**9))
    assert time.thread_time() - before < 5


@pytest.mark.parametrize("data", [blank_png(5, 5), drawn("JPEG", (9, 9)), drawn("WEBP", (300, 7)), webp_of(300, 7)])
def test_the_size_is_what_a_decoder_finds(data: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        size = image.width * image.height
    picture.check("image", data, size)
    refused(lambda: picture.check("image", data, size - 1), "image_too_large")


@pytest.mark.parametrize("edit", [(b"IDAT", b"IHDR"), (b"IHDR", b"abcd")])
def test_a_png_has_one_header_and_it_comes_first(edit: tuple[bytes, bytes]) -> None:
    refused(lambda: media(of(drawn().replace(*edit))))


SIZE = b"\xff\xc0\x00\x0b\x08" + bytes([0, 90, 0, 90]) + b"\x01\x01\x11\x00"


@pytest.mark.parametrize(
    "inserted", [b"\x00", b"\xff\xfe\x00\x00", b"\xff\xfe\x00\x01", b"\xff\x01\x00\x02", b"\xff\xd9"]
)
def test_a_jpeg_whose_segments_are_none_is_refused(inserted: bytes) -> None:
    file = drawn("JPEG")
    refused(lambda: picture.check("image", file[:2] + b"\xff\xfe\x00\x02" + inserted + file[2:], 10**9))


def test_of_several_sizes_of_a_jpeg_the_largest_counts() -> None:
    file = drawn("JPEG")
    refused(lambda: picture.check("image", file[:2] + SIZE + file[2:], 89 * 90), "image_too_large")


def test_a_webp_whose_frame_has_no_signature_is_refused() -> None:
    file = drawn("WEBP", lossless=True)
    refused(lambda: picture.check("image", file[:20] + b"\x00" + file[21:], 10**9))


def test_a_gifs_first_frame_may_be_larger_than_its_screen() -> None:
    file = bytearray(gif_of(1, 2, 2))
    at = file.index(b"\x2c") + 5
    file[at : at + 4] = b"\xff\xff\xff\xff"
    refused(lambda: media(of(bytes(file))), "image_too_large")


@pytest.mark.parametrize("extension", [b"\x21\x00\x00", b"\x21\xf9\x00", b"\x21\xff\x0bNETSCAPE2.0\x00"])
def test_a_gif_with_an_empty_extension_is_refused_for_decoders_read_it_differently(extension: bytes) -> None:
    file = gif_of(1)
    refused(lambda: media(of(file[:19] + extension + file[19:])))
    assert media(of(file[:19] + b"\x21\xfe\x00\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00" + file[19:]))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a41_a_file_that_ends_in_its_header(format: str) -> None:
    refused(lambda: media(of(drawn(format)[:14])))


def test_too_many_pixels_are_refused_and_the_limit_is_exact() -> None:
    policy = MediaPolicy(pixels=100)
    assert media(of(drawn(size=(10, 10))), policy=policy)
    refused(lambda: media(of(drawn(size=(101, 1))), policy=policy), "image_too_large")


def test_an_image_of_more_bytes_than_allowed_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert media(of(PNG), policy=MediaPolicy(bytes=len(PNG)))
    monkeypatch.setattr(gather, "decode", lambda at, text: pytest.fail("decoded"))
    refused(lambda: media(of(PNG * 2), policy=MediaPolicy(bytes=len(PNG))), "image_too_large")


def test_a48_a_hundred_images_are_refused_and_none_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(media(*[of(PNG)] * 16)) == 16
    monkeypatch.setattr(gather, "decode", lambda at, text: pytest.fail("decoded"))
    error = refused(lambda: media(*[of(PNG, f"images[{i}]") for i in range(100)]), "too_many_images", "images[16]")
    assert "16" in error.message


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "a.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return made


def by_path(path: str, folder: Path | None) -> Media:
    return media(source.of_path("image", path), policy=MediaPolicy(str(folder) if folder else None))[0]


def test_files_below_the_folder_are_read(folder: Path) -> None:
    assert by_path("deep/a.png", folder).data == PNG
    assert by_path(str(folder / "deep" / "a.png"), folder).data == PNG
    (folder.parent / "link").symlink_to(folder)
    assert by_path("deep/a.png", folder.parent / "link").data == PNG  # where the folder lies is the operator's choice


def test_no_file_is_read_without_a_folder(folder: Path) -> None:
    error = refused(lambda: by_path(str(folder / "deep" / "a.png"), None), "image_not_allowed")
    assert error.hint and "image_folder" in error.hint


def test_a43_what_is_no_file_below_the_folder_has_one_message(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "zero").symlink_to("/dev/zero")
    paths = [
        "missing.png", "deep", ".", "/", "..", "deep/..", "fifo", "zero", "/dev/zero", "out.png", "up/secret.png",
        "../secret.png", "deep/../../secret.png", str(folder.parent / "secret.png"), f"{folder}/../secret.png",
        "/proc/self/environ", "a\0.png", "a" * 5000, "\ud800", "~/a.png", f"{folder}x/secret.png", "up", "fifo/a",
        "deep/a.png/b",
    ]  # fmt: skip
    assert len({refused(lambda p=path: by_path(p, folder), "image_unavailable").message for path in paths}) == 1
    refused(lambda: by_path("deep/a.png", folder.parent / "missing"), "image_unavailable")


def test_a_file_is_checked_like_any_image(folder: Path) -> None:
    (folder / "notes.png").write_text("notes")
    refused(lambda: by_path("notes.png", folder))
    (folder / "large.png").write_bytes(PNG + bytes(21 * 2**20))
    refused(lambda: by_path("large.png", folder), "image_too_large")


def test_a_slot_server_imports_nothing_for_images_before_there_is_one() -> None:
    code = "import sys, llmctl.runner.server; print({'PIL', 'httpx', 'httpcore', 'numpy'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "set()"


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────


async def hold(data: bytes, until: asyncio.Event) -> str:
    try:
        async with gather.gathered([of(data)], MediaPolicy()):
            await until.wait()
        return "held"
    except RequestError as error:
        return f"{error.status} {error.code}"


def test_large_images_of_many_requests_stay_within_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    data = PNG + bytes(10**6 - len(PNG))
    room = Room(most=5_000_100, each=2_000_000)
    monkeypatch.setattr(gather, "_ROOM", room)

    async def crowd() -> list[str]:
        until = asyncio.Event()
        tasks = [asyncio.ensure_future(hold(data, until)) for _ in range(16)]
        while sum(task.done() for task in tasks) < 11:
            await asyncio.sleep(0.01)
        assert 0 < room.bytes <= room.most
        tasks[0].cancel()  # its client goes away
        await asyncio.wait(tasks[:1])
        until.set()
        return [await task for task in tasks[1:]]

    ends = asyncio.run(asyncio.wait_for(crowd(), DEADLINE))
    assert sorted(ends) == ["503 too_many_images"] * 11 + ["held"] * 4
    assert room.bytes == 0


def test_the_images_of_one_request_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_ROOM", Room(most=10**9, each=3 * len(PNG)))
    assert len(media(of(PNG), of(PNG))) == 2
    refused(lambda: media(*[of(PNG)] * 5), "image_too_large")


def test_few_images_are_looked_at_at_once_and_the_loop_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = [0, 0]

    def slow(at: str, data: bytes, pixels: int) -> None:
        inside[0] += 1
        inside[1] = max(inside)
        time.sleep(0.05)
        inside[0] -= 1

    monkeypatch.setattr(gather.picture, "check", slow)

    async def crowd() -> int:
        until, turns = asyncio.Event(), 0
        until.set()
        tasks = [asyncio.ensure_future(hold(PNG, until)) for _ in range(8)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turns += 1
        assert [task.result() for task in tasks] == ["held"] * 8
        return turns

    assert asyncio.run(crowd()) > 16  # blocked by each image it would turn a few times only
    assert inside[1] == 2


def test_an_image_that_takes_too_long_is_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*args: Any) -> bytes:
        time.sleep(1)
        return PNG

    monkeypatch.setattr(gather.files, "read", stuck)
    with pytest.raises(RequestError) as caught:
        media(source.of_path("image", "a.png"), policy=MediaPolicy("/", seconds=0.05))
    assert (caught.value.status, caught.value.code) == (504, "image_timeout")
