"""Files brought into the page cache before somebody maps or reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 2**19  # the kernel reads no more ahead at once on common disks


def bring_in(path: Path) -> Iterator[int]:
    """Bytes of the file that are in memory now, again and again until all are; what is there already costs nothing.

    Where the kernel takes no advice (macOS) the file is read.
    """
    with open(path, "rb", buffering=0) as file:
        size, room = os.fstat(file.fileno()).st_size, bytearray(BLOCK)
        for at in range(0, size, BLOCK):
            end = min(at + BLOCK, size)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), at, end - at, os.POSIX_FADV_WILLNEED)
                os.pread(file.fileno(), 1, end - 1)  # waits for the block, and copies none of it
            else:
                file.readinto(room)
            yield end
