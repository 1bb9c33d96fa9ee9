"""Weights come into the page cache before they are asked for, as many as there is room for."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.backends import Memory, page_cache
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.errors import LlmctlError
from llmctl.runner.read_ahead import files, reading_ahead
from tests.clients import Traffic
from tests.conftest import RunningSlot, eventually

SIZE = 16 * page_cache.BLOCK + 1


def spec(path: Path) -> EngineSpec:
    return EngineSpec("torch", "m", str(path), "safetensors")


def in_memory(path: Path) -> float:
    """The share of its pages that are in the page cache; to ask brings none of them there (mincore(2))."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages)
        del start
    assert not failed
    return sum(page & 1 for page in pages) / len(pages)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of weights that is on the disk alone."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SIZE))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path) > 0.2:
        pytest.skip("this file system keeps its files in memory")
    return path


def test_a_file_is_in_memory_when_all_of_it_was_brought_in(cold: Path) -> None:
    assert list(page_cache.bring_in(cold))[-1] == SIZE
    assert in_memory(cold) == 1.0


@pytest.mark.parametrize("advice", [True, False])
def test_every_byte_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advice: bool) -> None:
    if not advice:
        monkeypatch.delattr(os, "posix_fadvise")
    for size in (0, 1, page_cache.BLOCK, page_cache.BLOCK + 1):
        path = tmp_path / "w"
        path.write_bytes(bytes(size))
        assert list(page_cache.bring_in(path)) == [
            *range(page_cache.BLOCK, size, page_cache.BLOCK),
            *([size] * bool(size)),
        ]


def test_the_weights_are_read_while_other_work_is_done(cold: Path) -> None:
    with reading_ahead(spec(cold.parent)):
        eventually(lambda: in_memory(cold) == 1.0)


def test_no_more_is_read_than_half_of_what_is_free(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmctl.backends.cpu.memory", lambda: Memory(total=SIZE, free=4 * page_cache.BLOCK))
    seen: list[int] = []

    def counted(path: Path) -> Iterator[int]:
        for done in page_cache.bring_in(path):
            seen.append(done)
            yield done

    monkeypatch.setattr("llmctl.runner.read_ahead.bring_in", counted)
    with reading_ahead(spec(cold)):
        eventually(lambda: not any(thread.name == "read ahead" for thread in threading.enumerate()))
    assert seen == [page_cache.BLOCK, 2 * page_cache.BLOCK]


def test_a_path_that_is_no_model_is_left_to_the_engine(tmp_path: Path) -> None:
    assert files(spec(tmp_path / "gone")) == [] and files(replace(spec(tmp_path), path="")) == []
    with reading_ahead(spec(tmp_path / "gone")):
        pass


def test_all_files_of_a_split_are_read(tmp_path: Path) -> None:
    names = [f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for name in (*names, "other.gguf"):
        (tmp_path / name).touch()
    assert files(spec(tmp_path / names[0])) == [tmp_path / name for name in names]
    assert files(spec(tmp_path / "other.gguf")) == [tmp_path / "other.gguf"]


def test_an_old_first_swap_reads_while_the_old_model_still_answers(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], cold: Path
) -> None:
    slot = slots(script("alpha", step=0.05, length=100))
    beta = script("beta")
    swaps: list[LlmctlError] = []

    def swap() -> None:  # random bytes are no script: the old model comes back
        try:
            slot.change("swap", replace(beta, engine=replace(beta.engine, path=str(cold))), order="old-first")
        except LlmctlError as error:
            swaps.append(error)

    with Traffic(slot.port, clients=1, max_tokens=100) as traffic:
        eventually(lambda: slot.status().active == 1)
        answering = slot.engine_pid()
        assert answering
        thread = threading.Thread(target=swap)
        thread.start()
        eventually(lambda: in_memory(cold) == 1.0)
        os.kill(answering, 0)  # it has most of its answer left
        thread.join()
    assert swaps and swaps[0].details["rolled_back_to"] == "alpha" and not traffic.failures
