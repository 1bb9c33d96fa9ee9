"""Reads an image by its path: a regular file below the policy's folder, reached without any symlink."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

from llmctl.errors import RequestError
from llmctl.runner.media.room import too_large

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC  # no wait for a FIFO's writer


def read(at: str, path: str, folder: str | None, most: int) -> bytes:
    """The file's bytes. RequestError 400, with one message for all that is no readable file below `folder`."""
    if folder is None:
        raise RequestError(
            f"{at}: images are not read from files here", param=at, code="image_not_allowed",
            hint="send the image's data; an operator sets image_folder in hosts.toml to allow the files in it",
        )  # fmt: skip
    try:
        with open(_open(folder, path), "rb", buffering=0) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ValueError
            if info.st_size <= most:
                return file.read(info.st_size)
    except (OSError, ValueError):
        raise RequestError(f"{at}: there is no such image", param=at, code="image_unavailable") from None
    raise too_large(at, most)


def _open(folder: str, path: str) -> int:
    """A descriptor of `path` below `folder`, each step opened from the one before; OSError, ValueError."""
    *folders, name = PurePosixPath(folder, path).relative_to(folder).parts
    if ".." in (*folders, name):
        raise ValueError
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            below = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name, _FILE, dir_fd=here)
    finally:
        os.close(here)
