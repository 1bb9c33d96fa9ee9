"""Damaged headers and configuration files: an answer or a BadCheckpoint within a second, little read, little kept.

All mutations are made from the tiny models' own files, with fixed seeds.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl.errors import BadCheckpoint
from llmctl.models import bounded_json, gguf_header, safetensors_header
from llmctl.models.checkpoint import inspect
from tests.models.mutations import mutated, mutated_json, mutated_safetensors

HEADERS, CONFIGS = 1000, 500
SECONDS = 1.0
READ = 100 * 10**6
ROOM = 512 * 2**20
"""Bytes that the process may grow by, all rounds together: a header has up to 64 MiB, its objects some times that."""
BODIES = (1.0, 1.0, 1.0, 0.9, 0.0)  # how much of the weights the file still has


class Watched:
    """Runs a reader under all the bounds, and counts how often it refused. Weights are a hole in the file."""

    def __init__(self) -> None:
        self.refused = self.answered = 0

    def run(self, what: Callable[[], object], where: str) -> None:
        before, began = characters_read(), time.monotonic()
        try:
            what()
            self.answered += 1
        except BadCheckpoint as error:
            self.refused += 1
            assert error.message and len(error.message) < 2000, where
        assert time.monotonic() - began < SECONDS, where
        assert characters_read() - before <= READ, where

    @staticmethod
    def write(path: Path, header: bytes, body: int, rng: random.Random) -> None:
        path.write_bytes(header)
        os.truncate(path, len(header) + int(body * rng.choice(BODIES)))


def characters_read() -> int:
    """All bytes that this process ever took by read()."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Within, an allocation that a length field asked for is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    yield Watched()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


GGUFS = ("tiny-llama-gguf", "tiny-qwen2-gguf", "tiny-gemma3-gguf", "tiny-qwen2-gguf-q8_0")
FOLDERS = ("tiny-llama", "tiny-qwen2", "tiny-phi3", "tiny-gemma3")


def test_fuzz_gguf_headers(tiny_models: dict[str, Path], tmp_path: Path, watched: Watched) -> None:
    good = []
    for name in GGUFS:
        header = gguf_header.read(tiny_models[name])
        good.append((tiny_models[name].read_bytes()[: header.data_offset], header.file_bytes - header.data_offset))
    rng, path = random.Random(11), tmp_path / "model.gguf"
    for round in range(HEADERS):
        header_bytes, body = good[round % len(good)]
        watched.write(path, mutated(header_bytes, rng), body, rng)
        watched.run(lambda: inspect(path), f"round {round}")
    assert watched.refused > HEADERS // 3 and watched.answered >= 5


def test_fuzz_safetensors_headers(tiny_models: dict[str, Path], tmp_path: Path, watched: Watched) -> None:
    folders = [copied(tiny_models[name], tmp_path / name) for name in FOLDERS]
    good = []
    for folder in folders:
        header = safetensors_header.read(folder / "model.safetensors")
        data = (folder / "model.safetensors").read_bytes()[8 : header.data_offset]
        good.append((data, header.file_bytes - header.data_offset))
    rng = random.Random(12)
    for round in range(HEADERS):
        folder, (data, body) = folders[round % len(folders)], good[round % len(folders)]
        watched.write(folder / "model.safetensors", mutated_safetensors(data, rng), body, rng)
        watched.run(lambda folder=folder: inspect(folder), f"round {round}")  # type: ignore[misc]
    assert watched.refused > HEADERS // 3 and watched.answered >= 5


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors.index.json"]
)
def test_fuzz_configuration_files(tiny_models: dict[str, Path], tmp_path: Path, watched: Watched, name: str) -> None:
    rng = random.Random(13)
    folder = copied(tiny_models["tiny-gemma3"], tmp_path / "model")
    if name.endswith("index.json"):
        names = safetensors_header.read(folder / "model.safetensors").tensors
        table = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / name).write_text(json.dumps(table))
    good = (folder / name).read_bytes()
    for round in range(CONFIGS // 4):
        (folder / name).write_bytes(mutated_json(good, rng))
        watched.run(lambda: inspect(folder), f"{name}, round {round}")
    assert watched.refused > 5


# ── as large as they may be ─────────────────────────────────────────────────────────────────────────────────────────


def safetensors_of(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


LARGEST = {
    "as many keys as are taken": b"{" + b",".join(b'"%d":0' % i for i in range(bounded_json.VALUES - 1)) + b"}",
    "more empty lists than are taken": b'{"a":[' + b"[]," * 9_000_000 + b"0]}",
    "more numbers than are taken": b'{"a":[' + b"0," * 14_000_000 + b"0]}",
    "one long string": b'{"a":"' + b"\xf0\x9f\x98\x80" * 7_000_000 + b'"}',
}


@pytest.mark.parametrize("name", LARGEST)
def test_a_large_hostile_header_is_refused_soon(tmp_path: Path, watched: Watched, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_of(LARGEST[name]))
    began = time.monotonic()
    with pytest.raises(BadCheckpoint, match="not a usable safetensors file"):
        safetensors_header.read(path)
    assert time.monotonic() - began < 3


def test_a_config_of_endless_values_is_refused_soon(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(tiny_models["tiny-llama"], tmp_path / "model")
    (folder / "tokenizer_config.json").write_bytes(b'{"a":[' + b"[]," * 5_000_000 + b"0]}")
    with pytest.raises(BadCheckpoint, match="more than 600000 values"):
        inspect(folder)
    (folder / "tokenizer_config.json").write_bytes(b'{"a":"' + b"x" * 17 * 2**20 + b'"}')
    with pytest.raises(BadCheckpoint, match="larger than 16 MiB"):
        inspect(folder)


def test_many_large_headers_are_not_all_read(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"m-{i:02}.safetensors").write_bytes(safetensors_of(b"{}" + b" " * 10_000_000))
    before = characters_read()
    with pytest.raises(BadCheckpoint, match="the headers of its safetensors files"):
        safetensors_header.read_folder(tmp_path)
    assert characters_read() - before <= READ


def test_many_large_shards_of_a_gguf_are_not_all_read(tmp_path: Path) -> None:
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 20 * 2**20)
    for i in range(1, 9):
        path = tmp_path / f"m-{i:05}-of-00008.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key)
        os.truncate(path, 21 * 2**20)
    before = characters_read()
    with pytest.raises(BadCheckpoint, match="the headers of this model's shards"):
        inspect(tmp_path / "m-00001-of-00008.gguf")
    assert characters_read() - before <= READ


def test_small_arrays_without_end_are_not_kept(tmp_path: Path, watched: Watched) -> None:
    count = 4500  # arrays of 2,048 numbers each
    array = struct.pack("<IIQ", 9, 4, 2048) + bytes(8192)
    keys = b"".join(struct.pack("<Q", 5) + b"%05d" % i + array for i in range(count))
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, count) + keys)
    kept = [value for value in gguf_header.read(path).metadata.values() if isinstance(value, tuple)]
    assert 0 < sum(map(len, kept)) <= gguf_header.KEPT_LIMIT
