"""Bring a request's images together: decoded, read or fetched as the policy allows, and checked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from llmctl.domain import Media, MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media import fetch, files, picture
from llmctl.runner.media.room import Room, Take, too_large
from llmctl.runner.media.source import BASE64, URL, Source

T = TypeVar("T")

_ROOM = Room()  # one process is one slot
_WORKERS = ThreadPoolExecutor(2, "media")  # few, so that many large images at once need little memory and time


@asynccontextmanager
async def gathered(
    sources: Sequence[Source], policy: MediaPolicy, *, fetch: fetch.Fetch = fetch.fetch
) -> AsyncIterator[tuple[Media, ...]]:
    """The media in the order of `sources`, to be held until an engine has them.

    RequestError: 400 names the field, 503 when other requests' images fill the room, 504 past the policy's time.
    """
    if len(sources) > policy.count:
        at = sources[policy.count].at
        raise RequestError(f"{at}: at most {policy.count} images are taken", param=at, code="too_many_images")
    with _ROOM.share() as take:
        work = asyncio.ensure_future(_all(sources, policy, take, fetch))
        try:
            await asyncio.wait((work,), timeout=policy.seconds)  # unlike wait_for it never loses a cancellation
        finally:
            in_time = not work.cancel()
        if not in_time:
            raise RequestError(
                f"the images could not be had within {policy.seconds:g} s",
                status=504, code="image_timeout", param=sources[0].at,
            )  # fmt: skip
        yield work.result()


async def _all(sources: Sequence[Source], policy: MediaPolicy, take: Take, fetch: fetch.Fetch) -> tuple[Media, ...]:
    return tuple([Media(one.kind, await _data(one, policy, take, fetch)) for one in sources])


async def _data(source: Source, policy: MediaPolicy, take: Take, fetch: fetch.Fetch) -> bytes:
    at = source.at
    if source.how == BASE64:
        if len(source.value) // 4 * 3 - 2 > policy.bytes:
            raise too_large(at, policy.bytes)
        take(at, len(source.value) // 4 * 3)
        data = await _in_thread(lambda: decode(at, source.value))
    elif source.how == URL:
        data = await fetch(at, source.value, policy, take)
    else:
        data = await _in_thread(lambda: files.read(at, source.value, policy.folder, policy.bytes))
        take(at, len(data))
    await _in_thread(lambda: picture.check(at, data, policy.pixels))
    return data


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, work)


def decode(at: str, text: str) -> bytes:
    """The bytes of strict base64: the standard alphabet, padded, nothing between. RequestError 400."""
    try:
        if len(text) % 4 or text.endswith("==="):  # padding that the decoder would ignore
            raise ValueError
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RequestError(f"{at}: is not base64", param=at, code="invalid_image") from None
