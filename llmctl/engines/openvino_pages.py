"""Gives back the memory of a mapped file whose bytes were copied elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

DONTNEED = 4  # Linux's MADV_DONTNEED: of a file that nobody wrote to, pages are read again when they are touched


def let_go(file: Path) -> None:
    """Take `file`'s pages out of this process's memory; they stay in the page cache for as long as there is room."""
    with contextlib.suppress(OSError):  # no /proc: not Linux
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        libc = ctypes.CDLL(None)
        for start, end in ranges(maps, str(file.resolve())):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONTNEED)


def ranges(maps: str, file: str) -> Iterator[tuple[int, int]]:
    """Where `file` is mapped for reading alone, by /proc/PID/maps."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == file and fields[1].startswith("r-"):
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16)
