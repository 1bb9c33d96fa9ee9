"""How fast this machine reads its memory: the bound of whatever reads every weight for each token."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor

from llmctl.backends import cpu
from llmctl.errors import Unsupported

MOST = 2**30
LEAST = 2**26
TURNS = 5
NOWHERE = 0xFF
"""A byte that the block is free of, so that a search for it reads all of the block."""


def read(backend: str) -> float:
    """Bytes a second of reading memory with every core, the best of TURNS; Unsupported where that says nothing.

    A block of up to 1 GiB, less where little is free, is searched by the C library, whose memchr is as fast as the
    memory.
    """
    if backend != "cpu":
        raise Unsupported(f"the bandwidth of a {backend} device cannot be measured from outside of its engine")
    return of_block(min(MOST, cpu.memory().free // 4))


def of_block(size: int) -> float:
    """The same over a block of `size` bytes."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = size // threads // mmap.PAGESIZE * mmap.PAGESIZE
    if each * threads < LEAST:
        raise Unsupported("too little memory is free to measure its bandwidth")
    libc = ctypes.CDLL(None)
    libc.memchr.argtypes, libc.memchr.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    best = 0.0
    with mmap.mmap(-1, each * threads) as block, ThreadPoolExecutor(threads) as pool:
        begin = ctypes.c_char.from_buffer(block)
        parts = [ctypes.addressof(begin) + each * n for n in range(threads)]
        list(pool.map(lambda part: ctypes.memset(part, 1, each), parts))  # pages that are only read are all one page
        for _ in range(TURNS):
            began = time.perf_counter()
            list(pool.map(lambda part: libc.memchr(part, NOWHERE, each), parts))
            best = max(best, each * threads / (time.perf_counter() - began))
        del begin
    return best
