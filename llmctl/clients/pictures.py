"""Images that go with a question: read on this side, checked, and sent as data URLs."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from llmctl.domain import MediaPolicy
from llmctl.errors import UsageError

LIMIT = MediaPolicy().bytes
COUNT = MediaPolicy().count
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)
KINDS = "PNG, JPEG, GIF, WebP or BMP"


def data_url(path: str | Path) -> str:
    """The image in a file as a data URL. UsageError names the file and says what is wrong with it."""
    path = Path(path).expanduser()
    try:
        # A pipe or a device may never end, and one without a writer never begin.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{path} is not a file")
            data = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a name of a file"
        raise UsageError(f"{path} cannot be read: {why}") from None
    if len(data) > LIMIT:
        raise UsageError(f"{path} is larger than the {LIMIT // 2**20} MiB that an image may have")
    return f"data:{kind(data) or _no_image(path, data)};base64,{base64.b64encode(data).decode()}"


def kind(data: bytes) -> str | None:
    """The MIME type of an image by its first bytes; None when it is none that we send."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)


def _no_image(path: Path, data: bytes) -> str:
    raise UsageError(f"{path} is {'no image' if data else 'empty'}", hint=f"send {KINDS}")
