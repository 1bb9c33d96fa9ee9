"""What Atheris tries: for each target its checks, which hold for every input, and inputs to begin with.

`prepare` imports what is to be watched and returns check(data), where `data` is an Atheris FuzzedDataProvider.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Check = Callable[[Any], None]


class Target(NamedTuple):
    prepare: Callable[[], Check]
    seeds: Callable[[], Iterable[bytes]]


def stops() -> Check:
    """What is released is the text before the first stop string that ends, however the text was cut."""
    from llmctl.decoding.stops import StopMatcher

    def check(data: Any) -> None:
        stops = [data.ConsumeUnicodeNoSurrogates(6) for _ in range(data.ConsumeIntInRange(0, 4))]
        pieces = [data.ConsumeUnicodeNoSurrogates(5) for _ in range(data.ConsumeIntInRange(0, 12))]
        matcher = StopMatcher(stops)
        shown = "".join(map(matcher.push, pieces)) + matcher.flush()
        whole = "".join(pieces)
        ends = [(whole.find(s) + len(s), -len(s), s) for s in stops if s and s in whole]
        if not ends:
            assert matcher.matched is None and shown == whole
            return
        end, _, stop = min(ends)
        assert matcher.matched == stop and shown == whole[: end - len(stop)]

    return check


def detokenizer() -> Check:
    """However bytes are cut into tokens, the text is that of all of them together."""
    from llmctl.decoding.detokenize import Detokenizer

    def check(data: Any) -> None:
        strip = data.ConsumeBool()
        tokens = [data.ConsumeBytes(data.ConsumeIntInRange(0, 5)) for _ in range(data.ConsumeIntInRange(0, 20))]
        detokenizer = Detokenizer(tokens.__getitem__, strip_space=strip)
        pieces = [detokenizer.push(i) for i in range(len(tokens))]
        whole = b"".join(tokens).decode("utf-8", "replace")
        assert "".join(pieces) + detokenizer.flush() == (whole.removeprefix(" ") if strip else whole)

    return check


def calls() -> Check:
    """However an output is cut, its text, thoughts and calls are the same, and a call has a tool and an object."""
    import json

    from llmctl.decoding.families import HARMONY, TOOL_PARSERS, Speech
    from llmctl.decoding.pieces import Call, Parser, Piece

    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}, {"name": "g.h"}]

    def read(parser: Parser, texts: Iterable[str]) -> list[list[str]]:
        pieces: list[Piece] = [piece for text in texts for piece in parser.push(text)]
        found: list[list[str]] = []
        for piece in (*pieces, *parser.end()):
            if isinstance(piece, Call):
                assert piece.name in ("f", "g.h") and isinstance(json.loads(piece.arguments), dict)
                found.append(["Call", piece.name, piece.arguments])
            elif found and found[-1][0] == type(piece).__name__:
                found[-1][1] += piece.text
            elif piece.text:
                found.append([type(piece).__name__, piece.text])
        return found

    def check(data: Any) -> None:
        family = (*TOOL_PARSERS, "")[data.ConsumeIntInRange(0, len(TOOL_PARSERS))]
        thinks, opened = data.ConsumeBool(), data.ConsumeBool()
        sizes = [data.ConsumeIntInRange(1, 9) for _ in range(8)]
        text = data.ConsumeBytes(data.remaining_bytes()).decode("utf-8", "replace")
        speech = Speech(family, HARMONY if family == HARMONY else "think" if thinks else "")
        whole, cut = (speech.parser(tools, opened=opened) for _ in range(2))
        assert whole and cut
        ends = list(itertools.accumulate(sizes * (len(text) // sum(sizes) + 1)))
        pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
        assert read(whole, [text]) == read(cut, pieces)

    return check


def images() -> Check:
    """Whatever a file holds, it is an image of at most so many pixels, or a RequestError."""
    import warnings

    from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    from llmctl.domain import MediaPolicy
    from llmctl.engines import pictures
    from llmctl.errors import RequestError
    from llmctl.runner.media import picture

    assert GifImagePlugin and JpegImagePlugin and PngImagePlugin and WebPImagePlugin  # watched from here on
    policy = MediaPolicy(pixels=1_000_000)
    warnings.simplefilter("ignore")

    def check(data: Any) -> None:
        file = data.ConsumeBytes(data.remaining_bytes())
        try:
            picture.check("image", file, policy.pixels)
            found = pictures.picture(file)
        except RequestError as error:
            assert error.status == 400
            return
        assert found.mode == "RGB" and 0 < found.width * found.height <= policy.pixels

    return check


def sources() -> Check:
    """Whatever a client says an image is, it becomes a Source or a 400 that names the field and repeats nothing."""
    from llmctl import strict_json
    from llmctl.errors import RequestError
    from llmctl.runner.media import addresses, gather, source

    readers = (source.of_url, source.of_base64, source.of_path, source.of_llmws)

    def check(data: Any) -> None:
        read = readers[data.ConsumeIntInRange(0, 3)]
        text = data.ConsumeBytes(data.remaining_bytes())
        try:
            value = strict_json.loads(text, "it")
        except strict_json.StrictError:
            value = text.decode("utf-8", "surrogateescape")
        try:
            found = read("image", value)
            if found.how == source.BASE64:
                assert len(gather.decode("image", found.value)) == len(found.value) // 4 * 3 - found.value.count("=")
            elif found.how == source.URL:
                address = addresses.parse("image", found.value, ["*"])
                assert address.port in (80, 443) and address.target.isascii() and not set(address.host) & set("@/\\#? ")
        except RequestError as error:
            assert error.status == 400 and str(error.param).startswith("image") and len(error.message) < 250

    return check


def _outputs() -> Iterable[bytes]:
    call = '{"name": "f", "arguments": {"x": 1}}'
    texts = (
        f"Hm <tool_call>\n{call}\n</tool_call>\n<tool_call>{call}</tool_call> so",
        "<think>\na b\n</think>\n\n<tool_call><function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
        '<|python_tag|>{"name": "f", "parameters": {"x": "a\\"}"}}; {"name": "g.h", "parameters": {}}',
        f"[TOOL_CALLS][{call}, {call}]", '[TOOL_CALLS]g.h[ARGS]{"x": [1, {}]}[TOOL_CALLS]f[ARGS]{}',
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"x": 1}<|call|><|start|>assistant<|channel|>final<|message|>so<|return|>',
        f"```json\n{call}\n```",
    )  # fmt: skip
    for text in texts:
        for family in range(6):
            yield text.encode() + bytes([9, 2, 5, 1, 7, 3, 1, 4, family & 1, family & 2, family])


def _image_files() -> Iterable[bytes]:
    from tests.runner.pictures import blank_png, drawn, gif_of, webp_of

    yield from (drawn(format) for format in ("PNG", "JPEG", "GIF", "WEBP"))
    yield from (drawn("PNG", mode=mode) for mode in ("I;16", "LA", "P", "1", "RGBA"))
    yield from (
        drawn("JPEG", mode="CMYK"),
        drawn("JPEG", progressive=True),
        blank_png(64, 64),
        gif_of(3),
        webp_of(9, 9),
    )


def _image_sources() -> Iterable[bytes]:
    from tests.runner.pictures import data_url, drawn

    for text in (
        data_url(drawn()),
        "https://a.example:443/b?c",
        '{"source": {"data": "AAAA", "media_type": "image/png"}}',
    ):
        yield text.encode()


TARGETS = {
    "stops": Target(stops, lambda: [b"\x01abc\x02ab"]),
    "detokenizer": Target(detokenizer, lambda: ["é😀".encode()]),
    "calls": Target(calls, _outputs),
    "images": Target(images, _image_files),
    "sources": Target(sources, _image_sources),
}
